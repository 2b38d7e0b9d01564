"""An engine whose process lives and reads no request any more."""

from __future__ import annotations

from collections.abc import Callable

import psutil
import pytest

from rayllm_batch.engine import deaf
from rayllm_batch.engine.deaf import DEAF_S, Hearing


class Engine:
    """Asked once a second. cpu: seconds that its processes compute in each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.cpu_s, self.steps, self.hearing = 1000.0, 50.0, 0, Hearing()
        self.others: dict[tuple[int, float], float] = {}
        monkeypatch.setattr(deaf.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(deaf, "_cpu_seconds", lambda: {(7, 1.0): self.cpu_s, **self.others})

    def lost_after(self, seconds: int, requests: int, cpu: float, steps: Callable[[int], int] = lambda second: 0) -> int | None:
        for second in range(seconds):
            self.now, self.cpu_s, self.steps = self.now + 1, self.cpu_s + cpu, self.steps + steps(second)
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


def test_a_process_that_ends_takes_nothing_from_what_the_others_compute(engine: Engine) -> None:
    engine.others = {(8, 1.0): 900.0, (9, 1.0): 300.0}

    def ends(second: int) -> int:
        if second == 10:
            engine.others = {(9, 2.0): 0.1}  # and its number is given again
        return 0

    assert engine.lost_after(90, requests=3, cpu=0.9, steps=ends) is None
    assert engine.lost_after(90, requests=3, cpu=0.0) is not None


def test_the_workers_of_a_split_engine(engine: Engine) -> None:
    """The one that reads the requests waits for them."""

    def work(second: int) -> int:
        engine.others = {(8, 1.0): 5.0 + second, (9, 1.0): 5.0 + second}
        return 0

    assert engine.lost_after(200, requests=3, cpu=0.0, steps=work) is None


def test_of_processes_that_cannot_be_seen_nothing_is_known(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deaf, "_cpu_seconds", dict)
    assert engine.lost_after(200, requests=3, cpu=0.0) is None


def test_the_processes_that_are_counted() -> None:
    import subprocess
    import sys

    before = deaf._cpu_seconds()
    inner = "import time\nwhile time.process_time() < 0.5: pass\nprint(1, flush=True)\ntime.sleep(9)"
    outer = f"import subprocess, sys, time; subprocess.run([sys.executable, '-c', {inner!r}])"
    with subprocess.Popen([sys.executable, "-c", outer], stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        after = deaf._cpu_seconds()
        assert deaf._computed(before, after) >= 0.4 and len(after.keys() - before.keys()) == 2
        for process in psutil.Process(child.pid).children():
            process.kill()
        child.kill()
    assert deaf._computed(after, deaf._cpu_seconds()) < 0.4
