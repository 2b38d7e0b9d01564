"""An engine whose process lives and reads no request any more."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from rayllm_batch.engine import deaf
from rayllm_batch.engine.deaf import DEAF_S, Hearing


class Engine:
    """Asked once a second. cpu: seconds that its processes compute in each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.cpu_s, self.steps, self.hearing = 1000.0, {(7, 0.0): 50.0}, 0, Hearing()
        monkeypatch.setattr(deaf.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(deaf, "_cpu_seconds", lambda: dict(self.cpu_s))

    def lost_after(
        self, seconds: int, requests: int, cpu: float, steps: Callable[[int], int] = lambda second: 0
    ) -> int | None:
        for second in range(seconds):
            self.now, self.steps = self.now + 1, self.steps + steps(second)
            self.cpu_s[max(self.cpu_s)] += cpu
            if self.hearing.is_lost(requests, self.steps):
                return second
        return None


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    return Engine(monkeypatch)


def test_requests_and_nothing_done(engine: Engine) -> None:
    assert engine.lost_after(60, requests=3, cpu=1.0, steps=lambda second: 1) is None
    assert DEAF_S <= engine.lost_after(60, requests=3, cpu=0.002) <= DEAF_S + 4


def test_a_long_step_keeps_a_core_busy(engine: Engine) -> None:
    assert engine.lost_after(600, requests=3, cpu=0.9) is None
    assert engine.lost_after(600, requests=3, cpu=0.05) is None


def test_an_engine_without_requests_is_idle(engine: Engine) -> None:
    assert engine.lost_after(600, requests=0, cpu=0.0) is None
    assert engine.lost_after(int(DEAF_S) - 2, requests=1, cpu=0.0) is None


def test_steps_now_and_then(engine: Engine) -> None:
    assert engine.lost_after(300, requests=5, cpu=0.0, steps=lambda second: second % 5 == 0) is None


def test_a_process_that_ends_takes_nothing_off(engine: Engine) -> None:
    engine.cpu_s = {(5, 0.0): 900.0, (7, 0.0): 50.0}
    assert engine.lost_after(20, requests=3, cpu=0.5) is None
    del engine.cpu_s[5, 0.0]
    assert engine.lost_after(300, requests=3, cpu=0.5) is None


def test_a_process_that_comes_with_the_number_of_one_that_has_ended(engine: Engine) -> None:
    assert engine.lost_after(20, requests=3, cpu=0.5) is None
    engine.cpu_s = {(7, 1010.0): 0.0}
    assert engine.lost_after(300, requests=3, cpu=0.5) is None
    assert engine.lost_after(90, requests=3, cpu=0.0), "and is heard like any other"


def test_the_processes_that_are_counted() -> None:
    import subprocess
    import sys

    before = deaf._cpu_seconds()
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import time\nwhile time.process_time() < 0.5: pass\nprint(1, flush=True)\ntime.sleep(9)",
        ],
        stdout=subprocess.PIPE,
    ) as child:
        child.stdout.readline()
        [(pid, _)] = [process for process in deaf._cpu_seconds() if process not in before]
        assert pid == child.pid and sum(deaf._cpu_seconds().values()) - sum(before.values()) >= 0.4
        child.kill()


def test_workers_of_ray_count_and_what_is_gone_meanwhile_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    class Process:
        def __init__(self, pid: int = 1, name: str = "python", parent: str | None = None) -> None:
            self.pid, self._name, self._parent = pid, name, parent

        def name(self) -> str:
            if self._name == "gone":
                raise psutil.NoSuchProcess(self.pid)
            return self._name

        def parent(self) -> Process | None:
            return Process(1, self._parent) if self._parent else None

        def cpu_times(self) -> SimpleNamespace:
            return SimpleNamespace(user=2.0, system=1.0)

        def create_time(self) -> float:
            return 5.0

        def children(self, recursive: bool) -> list[Process]:
            raise psutil.AccessDenied(self.pid)

    there = [
        Process(2, "ray::RayWorkerWrapper", "raylet"),
        Process(3, "VLLM::Worker_TP1", "raylet"),
        Process(4, "VLLM::Worker_TP0", "VLLM::EngineCor"),
        Process(5, "ray::IDLE", "raylet"),
        Process(6, "gone", "raylet"),
        Process(7, "ray::RayWorkerProc"),
    ]
    monkeypatch.setattr(psutil, "Process", Process)
    monkeypatch.setattr(psutil, "process_iter", lambda: iter(there))
    assert deaf._cpu_seconds() == {(2, 5.0): 3.0, (3, 5.0): 3.0}
