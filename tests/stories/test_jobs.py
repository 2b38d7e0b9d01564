"""What `job` writes, run: as a Ray Job on a cluster with a token, and as Slurm runs its script, with Ray's own processes."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rayllm_batch import cli

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.ray
ROWS = 40
PROMPT = 'It\'s "{text}" $HOME; `id`\n<next>'


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the job is written and started: a config, rows."""
    engine = {"model_id": f"{ROOT}/assets/demo-model", "llm_engine": "echo", "accelerator_type": "CPU"}
    slow = {"seconds_per_request": 0.5, "max_num_seqs": 1}
    (tmp_path / "echo.yaml").write_text(json.dumps(engine))
    (tmp_path / "slow.yaml").write_text(json.dumps({**engine, "engine_kwargs": slow}))
    rows = "".join(json.dumps({"text": f"row {n}"}) + "\n" for n in range(ROWS))
    (tmp_path / "rows.jsonl").write_text(rows)
    return tmp_path


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    """Of a shell on a cluster: a token, the tests' Python, Ray's files in a short folder, and no Ray of the tests."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as short:
        own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_TMPDIR": short}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        yield {**kept, **own, "PATH": path, "PYTHONPATH": str(ROOT)}


def write_job(folder: Path, monkeypatch: pytest.MonkeyPatch, *options: str, config: str, output: Path) -> Path:
    monkeypatch.chdir(folder)
    run = ["run", "--config", config, "--prompt", PROMPT, "--input", "rows.jsonl", "--output", str(output)]
    assert cli.main(["job", *options, "-o", "job.sh", "--", *run, "--output-format", "jsonl"]) == cli.DONE
    return folder / "job.sh"


def answers(output: Path) -> list[str]:
    files = output.glob("*.jsonl")
    return [json.loads(line)["generated_text"] for file in files for line in file.read_text().splitlines()]


def wait_for(what: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)


def test_a_ray_job_answers_all_rows(folder: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    dashboard = free_port()
    names = ("port", "ray-client-server-port", "dashboard-agent-listen-port")
    ports = [f"--dashboard-port={dashboard}", *(f"--{name}={free_port()}" for name in names)]
    head = subprocess.Popen(
        ["ray", "start", "--head", "--block", "--num-cpus=2", "--node-ip-address=127.0.0.1", *ports],
        env={**environment, "PYTHONPATH": ""},  # the cluster has no package of ours
        stdout=subprocess.DEVNULL,
    )
    try:
        address = f"http://127.0.0.1:{dashboard}"
        job = write_job(folder, monkeypatch, "ray", "--address", address, config="echo.yaml", output=folder / "answers")
        asks = ["ray", "job", "list", "--address", address]
        for _ in range(30):
            if subprocess.run(asks, env=environment, capture_output=True, check=False).returncode == 0:
                break
            time.sleep(1)
        done = subprocess.run(
            ["bash", str(job)], env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    finally:
        head.send_signal(signal.SIGTERM)
        head.wait(timeout=60)
    assert sorted(answers(folder / "answers"))[0].count(PROMPT.replace("{text}", "row 0")) == 1
    assert len(answers(folder / "answers")) == ROWS


def test_slurms_script_ends_in_time(folder: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayllm_batch.jobs.slurm.OF_A_NODE", ())  # here a test's folder is in one of them
    output = folder / "answers"
    job = write_job(folder, monkeypatch, "slurm", "--cpus", "2", config="slow.yaml", output=output)
    for name in ("scontrol", "srun"):  # of Slurm there is only what it tells
        (folder / name).write_text(f"#!/bin/sh\necho {name} $* >> {folder}/slurm.log\n")
        (folder / name).chmod(0o755)
    # The token and the folder are the script's own.
    told = {name: value for name, value in environment.items() if not name.startswith("RAY_")}
    told |= {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NUM_NODES": "1", "PATH": f"{folder}:{told['PATH']}"}
    with open(folder / "job.log", "wb") as log:
        process = subprocess.Popen(["bash", str(job)], env=told, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_for((output / "_rayllm_batch").is_dir, process, 120)
        process.send_signal(signal.SIGUSR1)
        assert process.wait(timeout=60) == cli.TERMINATED, (folder / "job.log").read_text()
    finally:
        process.kill()
    said = (folder / "job.log").read_text()
    assert "the same command continues it" in said and "The time is up" in said
    assert f"scontrol requeue {os.getpid()}" in (folder / "slurm.log").read_text()
    assert len(answers(output)) < ROWS
