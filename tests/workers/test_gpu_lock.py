"""Engines that share a GPU start one after the other, those of other GPUs at the same time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from rayllm_batch.workers.gpu_lock import gpu_to_itself


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-8932f937-d72c")


def test_the_second_waits_for_the_first() -> None:
    first = gpu_to_itself()
    has_it = threading.Event()

    def start() -> None:
        with gpu_to_itself():
            has_it.set()

    second = threading.Thread(target=start, daemon=True)
    second.start()
    assert not has_it.wait(0.5)
    first.close()
    assert has_it.wait(10)
    second.join()


def test_another_gpu_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with gpu_to_itself():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,2")
        gpu_to_itself().close()


def test_an_engine_that_was_killed_while_it_started_leaves_no_lock(tmp_path: Path) -> None:
    code = "from rayllm_batch.workers.gpu_lock import gpu_to_itself; lock = gpu_to_itself(); print('has it', flush=True); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert process.stdout.readline() == "has it\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    gpu_to_itself().close()
