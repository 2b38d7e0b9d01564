"""An engine whose process lives and reads no request any more."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rayllm_batch.engine import deaf
from rayllm_batch.engine.deaf import DEAF_S, Hearing


class Engine:
    """Asked once a second. cpu: seconds that its processes compute in each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.cpu_s, self.steps, self.hearing = 1000.0, 50.0, 0, Hearing()
        monkeypatch.setattr(deaf.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(deaf, "_cpu_seconds", lambda: self.cpu_s)

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


def test_the_processes_that_are_counted() -> None:
    import subprocess
    import sys

    before = deaf._cpu_seconds()
    with subprocess.Popen([sys.executable, "-c", "import time\nwhile time.process_time() < 0.5: pass\nprint(1, flush=True)\ntime.sleep(9)"],
                          stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        assert deaf._cpu_seconds() - before >= 0.4
        child.kill()
