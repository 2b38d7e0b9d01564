"""The run's monitor as a replica speaks to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

from rayllm_batch.measures.row_stats import RowStats
from rayllm_batch.measures.snapshot import ReplicaState

ANSWERS_WITHIN_S = 10.0  # a count is no reason to hold a block back for longer


@dataclass(frozen=True)
class Told:
    """What a replica is told when it registers.

    job:      the run's ReplicaJob where it is another than the one that the process was started with.
    stop:     a reason not to start at all.
    guilty:   keys of rows that make the engine crash, with its last words. suspects: see `Suspects.of`.
    """

    job: Any = None
    stop: Optional[str] = None
    guilty: Mapping[bytes, str] = field(default_factory=dict)
    suspects: Mapping[bytes, int] = field(default_factory=dict)


class MonitorClient:
    """handle: the RunMonitor's. key: the replica's, by which the monitor knows it."""

    def __init__(self, handle: Any, key: str) -> None:
        self._handle, self._key = handle, key

    def register(self, state: ReplicaState) -> Told:
        import ray

        told = self._ask("register", self._key, ray.get_runtime_context().current_actor, state.plain())
        return Told(**{**told, "job": ray.get(told["job"][0]) if told["job"] else None})

    def environment(self) -> dict[str, str]:
        return self._ask("environment")

    def update(self, state: ReplicaState) -> None:
        """Told, without waiting for it."""
        self._handle.update.remote(self._key, state.plain())

    def delivers(self, block: str, stats: RowStats) -> None:
        import ray

        ray.wait([self._handle.delivers.remote(self._key, block, stats.plain())], timeout=ANSWERS_WITHIN_S)

    def failed(self, error: str, message: str) -> None:
        self._ask("failed", error, message, self._key)

    def ends(self, why: str) -> None:
        self._ask("ends", why)

    def lowered(self) -> dict[str, Any]:
        return self._ask("lowered")

    def backs_off(self, note: str, *shared: Any) -> None:
        self._ask("backs_off", note, *shared, timeout=ANSWERS_WITHIN_S)

    def may_back_off(self, last: ReplicaState, message: str) -> bool:
        return self._ask("may_back_off", self._key, last.plain(), message, timeout=ANSWERS_WITHIN_S)

    def died(self, last: ReplicaState, computing: Iterable[bytes], message: str) -> None:
        self._ask("died", self._key, last.plain(), list(computing), message, timeout=ANSWERS_WITHIN_S)

    def _ask(self, method: str, *arguments: Any, timeout: Optional[float] = None) -> Any:
        import ray

        return ray.get(getattr(self._handle, method).remote(*arguments), timeout=timeout)
