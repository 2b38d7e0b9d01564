"""The command as a scheduler runs it, in a process of its own: its exit codes, and the last that it says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.ray

JOBS = """
from rayllm_batch import ChatWorkloadBase
class Good(ChatWorkloadBase):
    def parse_row(self, row):
        return {"messages": [{"role": "user", "content": row["text"]}]}
class NoRows(Good):
    def load_dataset(self):
        raise FileNotFoundError("tickets of may")
class Typo(Good):
    def parse_row(self, row):
        return {"messages": [{"role": "user", "content": row["txet"]}]}
"""


@pytest.fixture
def folder(ray_cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With configs, rows and jobs. The command uses the Ray of the tests."""
    monkeypatch.setenv("RAY_ADDRESS", ray_cluster.get_runtime_context().gcs_address)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    engine = f"model_id: {ROOT}/assets/demo-model\nllm_engine: echo\naccelerator_type: CPU\nengine_kwargs: "
    (tmp_path / "echo.yaml").write_text(engine + "{max_model_len: 4096}\n")
    (tmp_path / "broken.yaml").write_text(engine + "{start_error: no such kernel}\n")
    (tmp_path / "slow.yaml").write_text(engine + "{max_model_len: 4096, seconds_per_request: 0.3, max_num_seqs: 2}\n")
    (tmp_path / "rows.jsonl").write_text('{"text": "gr\u00fc\u00dfe"}\n{"text": "b"}\n', encoding="utf-8")
    (tmp_path / "nulls.jsonl").write_text('{"text": "a"}\n{"text": null}\n')
    (tmp_path / "many.jsonl").write_text("".join(json.dumps({"text": f"row {n}"}) + "\n" for n in range(60)))
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "mine.py").write_text(JOBS)
    (tmp_path / "jobs" / "raises.py").write_text("1 / 0\n")
    return tmp_path


def command(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "rayllm_batch", *text.split()]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("run --config echo.yaml --workload jobs/mine.py:Good --input rows.jsonl --output out", 0, []),
        ("run --config echo.yaml --prompt <{text}> --input rows.jsonl --output out -s max_tokens=9", 0, []),
        ("preview --config echo.yaml --prompt <{text}> --input rows.jsonl", 0, []),
        (
            "run --config broken.yaml --workload jobs/mine.py:Good --input rows.jsonl --output out",
            1,
            ["EngineError", "no such kernel"],
        ),
        (
            "run --config echo.yaml --workload jobs/mine.py:NoRows --output out",
            2,
            ["FileNotFoundError: tickets of may", "mine.py, line 8"],
        ),
        ("check --config echo.yaml --workload jobs/mine.py:Typo --input rows.jsonl", 2, ["WorkloadError", "'txet'"]),
        ("check --config echo.yaml --prompt {txet} --input rows.jsonl", 2, ["Did you mean 'text'"]),
        ("check --config echo.yaml --workload jobs/raises.py:Good", 2, ["division by zero", "raises.py, line 1"]),
        ("check --config none.yaml --workload jobs/mine.py:Good", 2, ["ConfigError", "none.yaml"]),
        ("run --config echo.yaml --prompt <{text}> --input nulls.jsonl --output out", 3, []),
    ],
)
def test_exit_codes(folder: Path, text: str, code: int, said: list[str]) -> None:
    ran = command(folder, text)
    assert ran.returncode == code, ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr and "core_worker" not in ran.stderr and ran.stdout.isascii()
    for words in said:
        assert words in ran.stderr.splitlines()[-1]
    if said:
        whose = text.rpartition("--workload ")[2].partition(" ")[0] if "--workload" in text else "--prompt"
        assert f"(workload {whose}" in ran.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (signal.SIGINT, 130, "Interrupted. The same command continues it."),
        (signal.SIGTERM, 143, "Terminated; the same command continues it."),
    ],
)
def test_one_that_is_ended_is_continued(folder: Path, number: int, code: int, said: str) -> None:
    line = "run --config {} --workload jobs/mine.py:Good --input many.jsonl --output out --batch-size 2"
    words = [sys.executable, "-m", "rayllm_batch", *line.format("slow.yaml").split()]
    with (folder / "said").open("w") as log:
        job = subprocess.Popen(
            words,
            cwd=folder,
            stdout=log,
            stderr=log,
            env=dict(os.environ),
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 (no threads at work here)
        )
        deadline = time.monotonic() + 90
        while not list((folder / "out").glob("*.parquet")) and job.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
        job.send_signal(number)
        assert job.wait(30) == code, (folder / "said").read_text()
    assert (folder / "said").read_text().splitlines()[-1] == said
    kept = sum(pq.read_metadata(file).num_rows for file in (folder / "out").glob("*.parquet"))
    assert 0 < kept < 60
    ran = command(folder, line.format("echo.yaml"))
    assert ran.returncode == 0 and f"{kept:,} rows are in out already" in ran.stdout, ran.stdout + ran.stderr
