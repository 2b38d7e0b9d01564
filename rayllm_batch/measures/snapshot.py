"""What is known of a run's replicas at one moment.

Between processes go plain values (`plain`), from which the other side makes these classes again (`of`). The package
travels by value, so an instance would bring its class along: forty times what it holds, for every message, and it would
put other functions in place of the methods that the class has where it arrives.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal, Optional

from rayllm_batch.measures.row_stats import Counts, RowStats

# "dead" is one whose process has ended; "failed" did not start; "stalled" did nothing for too long.
State = Literal["downloading", "starting", "ready", "dead", "failed", "stalled"]
LIVE: tuple[State, ...] = ("downloading", "starting", "ready")  # of a replica that is at work


@dataclass
class ReplicaState(Counts):
    """One process of a replica. A replica that starts again is another process of the same actor.

    rows, failed, ...: rows that it has finished (see Counts); once it has ended, those that it has handed on.
    delivered:      the rows that it has handed on, from the monitor.
    since:          the clock's time (seconds) at which it registered, from the monitor.
    node:           the address of its node.
    pid, reaper_pid: its process, and the one that ends with the last process of its engine.
    log:            the path of its log on that node, if it has one of its own; log_bytes: its size.
    kept:           its engine was running before the run.
    start_s:        seconds that its engine took to start, the download included; 0 where it was kept.
    settings:       those that the engine resolved, such as max_num_seqs; {} before it is ready.
    busy_s:         seconds during which its engine had work.
    in_flight:      requests in the engine or on their way into it.
    running, waiting: requests that the engine computes, and that wait in its queue.
    steps:          of the engine, so far; 0 of one that does not count them.
    kv_cache_usage, gpu_utilization: 0 to 1; None where nothing tells.
    """

    state: State = "starting"
    since: float = 0.0
    actor_id: str = ""
    node: str = ""
    pid: int = 0
    reaper_pid: int = 0
    log: Optional[str] = None
    log_bytes: int = 0
    kept: bool = False
    start_s: float = 0.0
    settings: dict[str, Any] = field(default_factory=dict)
    busy_s: float = 0.0
    in_flight: int = 0
    running: float = 0.0
    waiting: float = 0.0
    steps: float = 0
    kv_cache_usage: Optional[float] = None
    gpu_utilization: Optional[float] = None
    delivered: RowStats = field(default_factory=RowStats)

    @property
    def is_live(self) -> bool:
        return self.state in LIVE

    def settled(self, delivered: RowStats) -> ReplicaState:
        """Once it has ended, only what it has delivered counts: the next process computes the other rows again."""
        counts = {} if self.is_live else vars(delivered.counts)
        return dataclasses.replace(self, delivered=delivered, **counts)

    def plain(self) -> dict[str, Any]:
        return {**vars(self), "delivered": self.delivered.plain()}

    @classmethod
    def of(cls, plain: dict[str, Any]) -> ReplicaState:
        return cls(**{**plain, "delivered": RowStats.of(plain["delivered"])})


@dataclass
class Snapshot:
    """The monitor's, of a run.

    replicas:   by a key that each process has for itself, in the order in which they began to start.
    failure:    what ends the run: the name of a class of `rayllm_batch.errors`, and its text.
    last_death: of an engine, from which the run may have recovered.
    notes:      what the user should read.
    ended:      why the run ended before all rows were asked, where no row and no replica is to blame.
    """

    replicas: dict[str, ReplicaState] = field(default_factory=dict)
    failure: Optional[tuple[str, str]] = None
    last_death: Optional[str] = None
    notes: list[str] = field(default_factory=list)
    ended: Optional[str] = None

    @property
    def ready(self) -> list[ReplicaState]:
        return [replica for replica in self.replicas.values() if replica.state == "ready"]

    def plain(self) -> dict[str, Any]:
        return {**vars(self), "replicas": {key: replica.plain() for key, replica in self.replicas.items()}}

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Snapshot:
        replicas = {key: ReplicaState.of(replica) for key, replica in plain["replicas"].items()}
        return cls(**{**plain, "replicas": replicas})


def by_actor(replicas: dict[str, ReplicaState]) -> dict[str, list[ReplicaState]]:
    """Each replica's processes, the earliest first. Its actor keeps its id when Ray starts it again."""
    found: dict[str, list[ReplicaState]] = {}
    for key, process in replicas.items():
        found.setdefault(process.actor_id or key, []).append(process)
    return found
