"""The thread that asks the monitor every second and passes it on; the monitor and Ray's `get` are this file's own."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest
import ray

from rayllm_batch.measures.snapshot import Snapshot
from rayllm_batch.run import watch
from rayllm_batch.run.watch import watching

WAIT_S = 30.0


class Monitor:
    """`monitor.snapshot.remote()`, whose result `ray.get` takes."""

    def __init__(self) -> None:
        self.snapshot, self.asked = self, 0

    def remote(self) -> int:
        self.asked += 1
        return self.asked


@pytest.fixture
def monitor(monkeypatch: pytest.MonkeyPatch) -> Monitor:
    monkeypatch.setattr(watch, "POLL_S", 0.01)
    monkeypatch.setattr(ray, "get", lambda number, timeout: Snapshot(notes=[number]).plain())
    return Monitor()


def until(number: int) -> tuple[list[Any], threading.Event, Any]:
    """An observer, what it saw, and an event for when it has seen that many."""
    seen, enough = [], threading.Event()

    def observe(snapshot: Snapshot) -> None:
        seen.append(snapshot.notes[0])
        if len(seen) == number:
            enough.set()

    return seen, enough, observe


def test_each_observer_gets_every_snapshot(monitor: Monitor) -> None:
    first, enough, observe = until(5)
    second, _, observe_too = until(5)
    with watching(monitor, [observe, observe_too]):
        assert enough.wait(WAIT_S)
    assert first[:5] == [1, 2, 3, 4, 5] and second[:4] == first[:4]
    assert monitor.asked in (len(first), len(first) + 1) and not _threads(), "nothing goes on after the end"


def test_a_monitor_that_does_not_answer_is_asked_again(monitor: Monitor, monkeypatch: pytest.MonkeyPatch) -> None:
    def get(number: int, timeout: float) -> dict[str, Any]:
        if number % 2:
            raise ray.exceptions.GetTimeoutError("5 s")
        return Snapshot(notes=[number]).plain()

    monkeypatch.setattr(ray, "get", get)
    seen, enough, observe = until(3)
    with watching(monitor, [observe]):
        assert enough.wait(WAIT_S)
    assert seen[:3] == [2, 4, 6]


def test_an_observer_that_fails_stops_neither_the_others_nor_the_watch(
    monitor: Monitor, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(snapshot: Snapshot) -> None:
        raise ValueError(f"no such actor {snapshot.notes[0]}")

    seen, enough, observe = until(3)
    with caplog.at_level(logging.WARNING, "rayllm_batch"), watching(monitor, [fails, observe]):
        assert enough.wait(WAIT_S)
    assert seen[:3] == [1, 2, 3]
    assert "ValueError: no such actor 1" in caplog.text


def test_an_error_of_the_run_goes_through(monitor: Monitor) -> None:
    with pytest.raises(KeyError), watching(monitor, []):
        raise KeyError("the run's own")
    assert not _threads()


def _threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "rayllm-watch"]
