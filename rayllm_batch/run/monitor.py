"""One small actor a run: the replicas tell it how they are, the driver asks it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable
from typing import Any, Optional

from rayllm_batch.measures.row_stats import Delivered, RowStats
from rayllm_batch.measures.snapshot import ReplicaState, Snapshot, State
from rayllm_batch.workers.suspects import Suspects

# Deaths in a row with no row answered between them: one more than it takes to find two guilty rows that are neighbours.
MAX_DEATHS_WITHOUT_AN_ANSWER = 5
MAX_GUILTY_ROWS = 100  # beyond, it is not the rows
MAX_STALLS_WITHOUT_AN_ANSWER = 2
MAX_BACK_OFFS_WITHOUT_AN_ANSWER = 3  # of an engine that runs out of memory while it works: beyond, it is a row


class RunMonitor:
    """Runs as a Ray actor beside the driver, without CPUs of its own.

    Each replica process has a key of its own, so a restarted replica is a new entry. There are two counts of its rows:
    those that it has finished, and those of blocks that it has handed on. When it dies, the rows between the two are
    computed again by the next process, so of the dead only the delivered count.

    What a replica tells, and what the driver is told, are plain values: see snapshot.

    env_vars: the engines' environment. It may hold the Hugging Face token, which a runtime_env would show to whoever
    asks the dashboard's API (since Ray 2.59 it is masked for browsers alone); here it is in one process's memory, and
    the tasks that need it ask.
    """

    def __init__(self, env_vars: dict[str, str]) -> None:
        self._env_vars = env_vars
        self._less: dict[str, Any] = {}  # engine settings that were lowered; kept, like the engines, for a next run
        self.begin()

    def begin(self, job: Optional[list[Any]] = None, hosts: Iterable[Any] = ()) -> None:
        """A run begins: nothing of an earlier one is left.

        hosts: actors whose engines are running already. job: the run's ReplicaJob for them, as an object reference in a
        list, so that it stays unread here: a parse_row may import half a notebook.
        """
        self._job, self._hosts = job, list(hosts)
        self._relays: list[str] = []
        self._replicas: dict[str, ReplicaState] = {}
        self._actors: dict[str, Any] = {}
        self._suspects, self._delivered = Suspects(), Delivered()
        # Of each actor, or of all: rows answered when something last happened to it, and how often it had by then.
        self._happened: dict[tuple[str, Optional[str]], tuple[int, int]] = {}
        # What ends the run: of each actor, or of none; the latest last.
        self._failures: dict[Optional[str], tuple[str, str]] = {}
        self._last_death: Optional[str] = None  # what the run may recover from
        self._stop: Optional[str] = None
        self._ended: Optional[str] = None
        self._notes: list[str] = []

    def register(self, key: str, actor: Any, told: dict[str, Any]) -> dict[str, Any]:
        """A replica begins to start. It gets the rows to be careful with; "stop" is a reason not to start at all."""
        replica = dataclasses.replace(ReplicaState.of(told), since=time.time())
        for earlier in self._replicas.values():
            if earlier.actor_id == replica.actor_id and earlier.is_live:
                earlier.state = "dead"  # killed from outside, with no time to say so
        self._replicas[key], self._actors[key] = replica, actor
        suspects, guilty = self._suspects.of(replica.actor_id), dict(self._suspects.guilty)
        return {"stop": self._stop, "job": self._job, "suspects": suspects, "guilty": guilty}

    def host(self, relay: str) -> Any:
        """The actor that a relay (by its actor's id) passes its blocks to; the same one when it asks again."""
        if relay not in self._relays:
            self._relays.append(relay)
        return self._hosts[self._relays.index(relay) % len(self._hosts)]

    def environment(self) -> dict[str, str]:
        return self._env_vars

    def update(self, key: str, told: dict[str, Any], ended: Optional[State] = None) -> None:
        replica = self._replicas.get(key)
        if replica is None or replica.state == "dead":  # of a run that is over; or sent before it died, and late
            return
        now = dataclasses.replace(ReplicaState.of(told), since=replica.since)
        now.state = ended or (now.state if replica.is_live else replica.state)
        self._replicas[key] = now
        if now.state == "ready":
            self._failures.pop(now.actor_id, None)  # it has started after all

    def delivers(self, key: str, block: str, row_stats: dict[str, Any]) -> None:
        """A block is about to be handed on; see Delivered. key: "" for what the stage behind the replicas found out."""
        self._delivered.add(key or next(iter(self._replicas), ""), block, RowStats.of(row_stats))

    def failed(self, error: str, message: str, key: Optional[str] = None) -> None:
        """What ends the run: the name of a class of `rayllm_batch.errors` and its text, which reach the user.

        Ray keeps neither through its own layers of errors. `key` is that of the replica which did not start.
        """
        replica = self._replicas.get(key) if key else None
        if replica:
            replica.state = "failed"
        self._fail(error, message, replica.actor_id if replica else None)

    def lowered(self) -> dict[str, Any]:
        """Engine settings that were lowered for lack of memory, by any replica."""
        return self._less

    def backs_off(self, note: str, name: str = "", value: Any = None) -> None:
        """A replica starts its engine again with less memory.

        note: what the user should read. name, value: a setting that every replica which starts from now on lowers too;
        none where it is about that replica's GPU.
        """
        if name:
            self._less[name] = min(value, self._less.get(name, value))
        if note not in self._notes:
            self._notes.append(note)

    def may_back_off(self, key: str, told: dict[str, Any], message: str) -> bool:
        """An engine that ran out of memory while it worked: whether to start it with less, and blame no row."""
        self.update(key, told, "dead")
        actor = self._replicas[key].actor_id
        self._last_death = f"The engine ran out of GPU memory. Its last words:\n{message}"
        return self._times("back-off", actor) <= MAX_BACK_OFFS_WITHOUT_AN_ANSWER

    def died(self, key: str, told: dict[str, Any], in_engine: Iterable[bytes], message: str) -> None:
        """An engine that died. in_engine: the prompt keys of the rows that it was computing."""
        self.update(key, told, "dead")
        actor = self._replicas[key].actor_id
        self._suspects.engine_died(actor, in_engine, message)
        deaths, guilty = self._times("death", actor), len(self._suspects.guilty)
        words = f"Its last words:\n{message}"
        if guilty > MAX_GUILTY_ROWS:
            crashed = f"{guilty} rows have made the engine crash, each alone: the rows are hardly the reason."
            self._give_up(f"{crashed} {words}")
        elif deaths >= MAX_DEATHS_WITHOUT_AN_ANSWER:
            self._give_up(f"The engine died {deaths} times without answering a row in between. {words}")
        else:
            self._last_death = f"The engine died. {words}"

    def ends(self, why: str) -> None:
        """The engines answer nothing any more, and rows are left out that are not to blame."""
        self._ended = self._ended or why
        self._give_up(self._ended)

    def stalled(self, key: str, message: str) -> bool:
        """A replica that did nothing for too long. Returns whether to try again."""
        if (replica := self._replicas.get(key)) and replica.is_live:
            replica.state = "stalled"
        self._last_death = message
        if self._times("stall") >= MAX_STALLS_WITHOUT_AN_ANSWER:
            self._give_up(message)
        return self._stop is None

    def snapshot(self) -> dict[str, Any]:
        """`Snapshot.plain`."""
        return Snapshot(
            replicas={key: replica.settled(self._delivered.of(key)) for key, replica in self._replicas.items()},
            failure=next(reversed(self._failures.values()), None),
            last_death=self._last_death,
            notes=self._notes,
            ended=self._ended,
        ).plain()

    def actors(self) -> dict[str, Any]:
        return self._actors

    def _times(self, what: str, actor: Optional[str] = None) -> int:
        """How often this happened, to this actor or any, with no row answered in between. A failed one is no answer."""
        replicas = [replica for replica in self._replicas.values() if actor in (None, replica.actor_id)]
        answered = sum(replica.rows - replica.failed for replica in replicas)
        before, times = self._happened.get((what, actor), (0, 0))
        times = 1 if answered > before else times + 1
        self._happened[what, actor] = (answered, times)
        return times

    def _give_up(self, why: str) -> None:
        self._stop = why
        self._fail("EngineError", why)

    def _fail(self, error: str, message: str, actor: Optional[str] = None) -> None:
        self._failures.pop(actor, None)
        self._failures[actor] = (error, message)


def start_monitor(env_vars: dict[str, str]) -> Any:
    """Its actor's handle. It lives on the driver's node: another may be a spot machine that goes, and the run too."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(RunMonitor).remote(env_vars)
