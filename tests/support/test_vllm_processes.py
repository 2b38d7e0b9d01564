"""How the tests find vLLM's processes."""

from __future__ import annotations

import multiprocessing
import os
import time

import psutil
import pytest
import vllm_processes


# Their own ids: xdist makes the test's name its worker's title, which must not hold the words that are looked for.
@pytest.mark.parametrize(
    ("method", "words"),
    [("spawn", vllm_processes.SPAWNED), ("forkserver", vllm_processes.FORKSERVER)],
    ids=["spawn", "forkserver"],
)
def test_an_engine_without_its_title_is_found(method: str, words: str) -> None:
    process = multiprocessing.get_context(method).Process(target=time.sleep, args=(60,))
    process.start()
    try:
        found = psutil.Process(process.pid)
        deadline = time.monotonic() + 10  # until it has become the command that it is to be
        while words not in vllm_processes.title(found) and time.monotonic() < deadline:
            time.sleep(0.01)
        engines = [engine.pid for engine in vllm_processes.engines_below(os.getpid())]
        assert process.pid in engines and found.ppid() not in engines, "a forkserver is none"
    finally:
        process.kill()
        process.join()
    assert not vllm_processes.is_engine(found)
