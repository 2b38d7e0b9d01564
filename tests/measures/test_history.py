"""How a run went over time: points, phases, what counts as full."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rayllm_batch.measures import history
from rayllm_batch.measures.history import MOST_POINTS, History
from rayllm_batch.measures.snapshot import ReplicaState, Snapshot

STARTING = ReplicaState()
READY = ReplicaState(state="ready", settings={"max_num_seqs": 100})


class Run:
    """A history, and a clock that stands still until it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, num_replicas: int = 1) -> None:
        self.now = 1000.0
        monkeypatch.setattr(history.time, "time", lambda: self.now)
        self.history = History(num_replicas)

    def at(self, seconds: float, *replicas: ReplicaState, first_key: int = 0) -> None:
        self.now = 1000.0 + seconds
        self.history.observe(Snapshot({str(first_key + i): replica for i, replica in enumerate(replicas)}))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    return Run(monkeypatch)


def test_a_point_adds_up_the_replicas(run: Run) -> None:
    one = replace(
        READY, rows=5, failed=1, input_tokens=50, output_tokens=7, running=9, in_flight=12, kv_cache_usage=0.2
    )
    dead = replace(one, state="dead", kv_cache_usage=0.9)
    run.at(1, one, replace(one, waiting=3, kv_cache_usage=0.4, gpu_utilization=0.9), dead, STARTING)
    (point,) = run.history.points
    assert (point.rows, point.failed, point.input_tokens, point.output_tokens) == (15, 3, 150, 21), (
        "the dead one's rows count"
    )
    assert (point.running, point.waiting, point.in_flight, point.slots, point.ready) == (18, 3, 24, 200, 2), (
        "but not its load"
    )
    assert point.kv_cache_usage == pytest.approx(0.3) and point.gpu_utilization == 0.9 and point.full == 0.5


def test_nothing_is_told_before_an_engine_is_ready(run: Run) -> None:
    run.at(1, STARTING)
    (point,) = run.history.points
    assert point.kv_cache_usage is None and point.gpu_utilization is None and point.full == 0 and not run.history.phases


@pytest.mark.parametrize(
    ("load", "full"),
    [
        ({"running": 89}, 0),
        ({"running": 90}, 1),
        ({"running": 5, "waiting": 1}, 1),
        ({"running": 5, "kv_cache_usage": 0.95}, 1),
        ({"running": 5, "kv_cache_usage": 0.5}, 0),
        ({"running": 5000, "settings": {}}, 0),
    ],
)
def test_what_is_full(run: Run, load: dict[str, Any], full: float) -> None:
    run.at(1, replace(READY, **load))
    assert run.history.points[-1].full == full


def test_phases(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch, num_replicas=2)
    run.at(1, STARTING, STARTING)
    run.at(10, READY, STARTING)
    run.at(12, replace(READY, rows=3), STARTING)
    run.at(20, replace(READY, rows=8), READY)
    run.at(30, replace(READY, rows=9), ReplicaState(state="dead"))
    run.at(31, replace(READY, rows=9), READY)
    assert run.history.phases == {"first engine ready": 10, "first row": 12, "all engines ready": 20, "last row": 30}


def test_memory_is_flat_and_the_whole_run_stays_covered(run: Run) -> None:
    for second in range(1, 10_001):
        run.at(second, replace(READY, rows=second, in_flight=1))
    points = run.history.points
    assert MOST_POINTS // 2 <= len(points) <= MOST_POINTS + 1
    assert points[0].time_s <= 16 and points[-1].time_s == 10_000 and points[-1].rows == 10_000
    gaps = {b.time_s - a.time_s for a, b in zip(points[:-1], points[1:-1], strict=False)}
    assert gaps == {16.0}, "evenly spaced"
    assert all(a.rows < b.rows for a, b in zip(points, points[1:], strict=False))


def test_the_latest_is_always_there(run: Run) -> None:
    run.at(1, READY)
    run.at(1.2, replace(READY, rows=7))
    assert [point.rows for point in run.history.points] == [0, 7]
    run.at(1.3, replace(READY, rows=8))
    assert [point.rows for point in run.history.points] == [0, 8]


def test_a_second_part_of_a_run_goes_on_counting(run: Run) -> None:
    run.at(1, replace(READY, rows=60, running=9))
    run.at(2, replace(READY, rows=5, running=2), first_key=7)
    assert run.history.points[-1].rows == 65 and run.history.points[-1].running == 2


def test_generating_is_from_the_first_request_to_the_last_row_with_the_gaps(run: Run) -> None:
    run.at(1, STARTING)
    run.at(2, READY)
    run.at(4, replace(READY, in_flight=5))
    run.at(5, replace(READY, rows=5))
    run.at(9, replace(READY, rows=5))
    run.at(10, replace(READY, rows=9, in_flight=1))
    run.at(13, replace(READY, rows=10))
    run.at(20, replace(READY, rows=10))
    assert [(seconds, point.time_s) for seconds, point in run.history.generating] == [
        (2, 4),
        (1, 5),
        (4, 9),
        (1, 10),
        (3, 13),
    ]


def test_nothing_was_generated(run: Run) -> None:
    assert run.history.generating == [] and len(run.history.points) == 1
    run.at(1, replace(READY, in_flight=5))
    assert run.history.generating == []


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("one\ntwo"), "ValueError: one"),
        (ValueError(), "ValueError"),
        (KeyboardInterrupt(), "it was interrupted"),
    ],
)
def test_what_ended_it(run: Run, error: BaseException, said: str) -> None:
    assert run.history.ended is None
    run.history.end(error)
    assert run.history.ended == said
