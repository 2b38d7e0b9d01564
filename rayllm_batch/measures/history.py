"""How a run went over time. Flat in memory, however long it takes."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Optional

from rayllm_batch.measures.row_stats import Counts
from rayllm_batch.measures.snapshot import ReplicaState, Snapshot

MOST_POINTS = 1000
NEARLY = 0.9  # of max_num_seqs, or of the KV cache: as good as full


@dataclass
class Point(Counts):
    """The run at one moment; counts are since its start, the rest is of the replicas that are ready.

    time_s:          seconds since the start of the run.
    running, waiting: requests that the engines compute, and that wait in their queues.
    in_flight:       requests in the engines or on their way into them.
    slots:           what max_num_seqs adds up to: the most that can be running.
    kv_cache_usage, gpu_utilization: 0 to 1, the mean; None where no replica tells.
    full:            the share of the replicas whose engine had all the work that it could take: requests waited in its
                     queue, or it ran nearly max_num_seqs of them, or its KV cache was nearly full.
    """

    time_s: float = 0.0
    running: float = 0.0
    waiting: float = 0.0
    in_flight: int = 0
    slots: int = 0
    kv_cache_usage: Optional[float] = None
    gpu_utilization: Optional[float] = None
    full: float = 0.0
    ready: int = 0


class History:
    """An observer of the run. `points` are about a second apart; when there are too many, every second one goes.

    began:     the clock's time (seconds) at which the run started.
    phases:    seconds since then at which something was first seen: "first engine ready", "all engines ready", "first
               row"; and "last row", when a row was last seen to be done.
    ended:     what ended the run, when it was not its last row.
    """

    def __init__(self, num_replicas: int = 1, began: Optional[float] = None) -> None:
        self._num_replicas = num_replicas
        self.began = time.time() if began is None else began
        self.phases: dict[str, float] = {}
        self.ended: Optional[str] = None
        self._points: list[Point] = []
        self._latest = Point()
        self._period_s = 1.0
        self._replicas: dict[str, ReplicaState] = {}

    @classmethod
    def of(cls, began: float, phases: dict[str, float], points: list[Point]) -> History:
        """As one was, of which these are left."""
        history = cls(began=began)
        history.phases, history._points = phases, points
        history._latest = points[-1] if points else Point()
        return history

    def observe(self, snapshot: Snapshot) -> None:
        self._replicas.update(snapshot.replicas)  # rows of replicas of an earlier part of the run stay counted
        point = _point(time.time() - self.began, self._replicas, snapshot.ready)
        self._note_phases(point)
        self._latest = point
        if not self._points or point.time_s - self._points[-1].time_s >= 0.95 * self._period_s:
            self._points.append(point)
        if len(self._points) >= MOST_POINTS:
            self._points = self._points[::2]
            self._period_s *= 2

    def end(self, error: BaseException) -> None:
        """The run failed, or was interrupted."""
        words = str(error).strip().splitlines()
        self.ended = ": ".join([type(error).__name__, *words[:1]])
        if isinstance(error, KeyboardInterrupt):
            self.ended = "it was interrupted"

    @property
    def points(self) -> list[Point]:
        """In order of time; the last one is the latest that was seen."""
        return [*(point for point in self._points if point is not self._latest), self._latest]

    @property
    def generating(self) -> list[tuple[float, Point]]:
        """From the first request in an engine to the last row, waits included: each with the seconds before it."""
        points = self.points
        busy = [i for i, point in enumerate(points) if point.in_flight or point.rows]
        done = [i for i in range(1, len(points)) if points[i].rows > points[i - 1].rows]
        if not busy or not done:
            return []
        return [(points[i].time_s - points[i - 1].time_s, points[i]) for i in range(max(busy[0], 1), done[-1] + 1)]

    def _note_phases(self, point: Point) -> None:
        reached = {
            "first engine ready": point.ready > 0,
            "all engines ready": point.ready >= self._num_replicas,
            "first row": point.rows > 0,
        }
        for phase, is_reached in reached.items():
            if is_reached:
                self.phases.setdefault(phase, point.time_s)
        if point.rows > self._latest.rows:
            self.phases["last row"] = point.time_s


def _point(time_s: float, all_replicas: dict[str, ReplicaState], ready: list[ReplicaState]) -> Point:
    slots = [replica.settings.get("max_num_seqs") or 0 for replica in ready]
    full = [
        one.waiting > 0 or 0 < NEARLY * most <= one.running or (one.kv_cache_usage or 0.0) >= NEARLY
        for one, most in zip(ready, slots, strict=True)
    ]
    return Point(
        **vars(Counts.total(all_replicas.values())),
        time_s=time_s,
        running=sum(one.running for one in ready),
        waiting=sum(one.waiting for one in ready),
        in_flight=sum(one.in_flight for one in ready),
        slots=sum(slots),
        kv_cache_usage=mean(one.kv_cache_usage for one in ready),
        gpu_utilization=mean(one.gpu_utilization for one in ready),
        full=mean(full) or 0.0,
        ready=len(ready),
    )


def mean_over(sampled: list[tuple[float, Point]], name: str) -> Optional[float]:
    """Of a field of points, as far as they tell, each weighted with its seconds."""
    told = [(seconds, getattr(point, name)) for seconds, point in sampled if getattr(point, name) is not None]
    all_s = sum(seconds for seconds, _ in told)
    return sum(seconds * value for seconds, value in told) / all_s if all_s else None


def mean(values: Iterable[Optional[float]]) -> Optional[float]:
    """Of those that are known."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
