"""How the tests find vLLM's processes."""

from __future__ import annotations

import multiprocessing
import time

import psutil
import vllm_processes


def test_an_engine_without_its_title_is_found() -> None:
    process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
    process.start()
    try:
        found = psutil.Process(process.pid)
        deadline = time.monotonic() + 10  # until it has become the command that it is to be
        while vllm_processes.SPAWNED not in vllm_processes.title(found) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert process.pid in vllm_processes.engine_processes()
    finally:
        process.kill()
        process.join()
    assert not vllm_processes.is_engine(found)
