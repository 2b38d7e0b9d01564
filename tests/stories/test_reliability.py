"""The short form of bench/reliability.py: real drivers and nodes are killed, and nothing is lost."""

import hashlib
import json
import subprocess
import sys

import pytest

from bench import reliability

pytestmark = pytest.mark.ray
ROWS = 2000


def echoed() -> list[str]:
    """What the echo engine answers to each row of the benchmark's job: its prompt's first 12 tokens."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained("assets/demo-model")
    answers = []
    for i in range(ROWS):
        messages = [{"role": "user", "content": f"row {i} of the data asks for an answer"}]
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        answers.append(tokenizer.decode(ids[:12], skip_special_tokens=True))
    return answers


def test_nothing_is_lost_when_a_node_and_then_the_driver_is(tmp_path):
    report = tmp_path / "reliability.md"
    # The answers of an undisturbed run, without the minute that it takes.
    (tmp_path / f"reliability-{ROWS}.json").write_text(json.dumps({"accounts": {}, "undisturbed": {"old": echoed()}}))
    command = [sys.executable, "bench/reliability.py", "--only", "raylet-driver", "--rows", str(ROWS), "--times", "1"]
    command += ["--seconds-per-request", "0.5", "--output", str(report), "--add", "--kept", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=550, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    rows = [line.split("|") for line in report.read_text().splitlines() if "SIGKILL" in line]
    assert len(rows) == 1
    for row in rows:
        times, lost, doubled, wrong, again = (int(cell.split()[0].replace(",", "")) for cell in row[2:7])
        assert (times, lost, doubled, wrong) == (1, 0, 0, 0)
        assert again < 1500, "what was written is not computed again"


def test_rows_with_pictures_when_the_driver_is_killed(tmp_path):
    reliability.draw(tmp_path)
    options = ["--task", "pictures", "--kept", str(tmp_path), "--seconds-per-request", "0.5", "--max-num-seqs", "32"]
    job = reliability.Job(tmp_path / "answers", 400, options)
    driver = job.start()
    assert job.wait_for_rows(driver, 32), job.log()
    reliability.end(driver)
    assert 0 < (before := job.written()) < 400
    job.finish()
    rows = reliability.rows_of(job.folder)
    assert sorted(row["id"] for row in rows) == list(range(400))
    for row in rows:
        picture = (tmp_path / "pictures" / f"{row['id'] % reliability.PICTURES}.png").read_bytes()
        seen = f"[image {hashlib.sha256(picture).hexdigest()[:8]}]"
        assert row["error"] is None and row["generated_text"].endswith(seen) and f"row {row['id']}" in row["text"]
    assert job.calls.stat().st_size < 800 - before, "what was written is not computed again"
