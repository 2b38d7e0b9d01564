"""What the monitor is told and tells, as types on either side and plain values in between."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

from answers import a_failure, an_answer

from rayllm_batch import ChatWorkloadBase
from rayllm_batch.measures.row_stats import Counts, RowStats
from rayllm_batch.measures.snapshot import ReplicaState, Snapshot, by_actor
from rayllm_batch.run import pipeline
from rayllm_batch.run.monitor import RunMonitor

THERE = """
import pickle, sys
monitor_class, calls = pickle.load(open("sent", "rb"))
monitor = monitor_class({})
for method, *arguments in calls:
    getattr(monitor, method)(*arguments)
assert "rayllm_batch" not in sys.modules
pickle.dump(monitor.snapshot(), open("told", "wb"))
"""


def stats(*errors: str) -> RowStats:
    kept = RowStats()
    for answer in (an_answer("x", 5, 3, "stop"), *(a_failure(error) for error in errors)):
        kept.add(answer, 2.0)
    return kept


def test_a_monitor_on_a_node_without_the_package_tells_what_it_was_told(tmp_path: Path) -> None:
    from ray import cloudpickle

    pipeline.ship_by_value(ChatWorkloadBase())
    first, second = (ReplicaState(actor_id="a", pid=pid, settings={"max_num_seqs": 8}) for pid in (1, 2))
    ready = ReplicaState(**{**vars(first), "state": "ready", "rows": 9, "running": 3.0, "kv_cache_usage": 0.25})
    calls: list[Any] = [
        ("register", "k1", None, first.plain()),
        ("update", "k1", ready.plain()),
        ("delivers", "k1", "b1", stats("engine: x").plain()),
        ("died", "k1", ready.plain(), [], "Xid 79"),
        ("register", "k2", None, second.plain()),
    ]
    (tmp_path / "sent").write_bytes(cloudpickle.dumps((RunMonitor, calls)))
    subprocess.run([sys.executable, "-c", THERE], cwd=tmp_path, env={"PATH": "/usr/bin"}, check=True)
    told = (tmp_path / "told").read_bytes()
    assert b"rayllm_batch" not in told and len(told) < 2000, "no class comes along"
    snapshot = Snapshot.of(pickle.loads(told))
    dead, starting = snapshot.replicas.values()
    assert (dead.state, starting.state, dead.pid, dead.running) == ("dead", "starting", 1, 3.0)
    assert dead.settings == {"max_num_seqs": 8}
    assert dead.delivered == stats("engine: x") and (dead.rows, dead.failed) == (2, 1) and dead.since > 0
    assert starting.delivered == RowStats() and snapshot.last_death.endswith("Xid 79")


def test_of_one_that_has_ended_only_what_it_has_handed_on_counts() -> None:
    one = ReplicaState(state="ready", rows=9, failed=2, input_tokens=100, output_tokens=50)
    handed_on = stats("engine: x")
    assert one.settled(handed_on).rows == 9
    one.state = "stalled"
    assert one.settled(handed_on) == ReplicaState(
        state="stalled", rows=2, failed=1, input_tokens=5, output_tokens=3, delivered=handed_on
    )


def test_processes_by_their_actor() -> None:
    replicas = {"k": ReplicaState(actor_id="a"), "l": ReplicaState(), "m": ReplicaState(actor_id="a", pid=7)}
    assert by_actor(replicas) == {"a": [replicas["k"], replicas["m"]], "l": [replicas["l"]]}


def test_counts_add_up() -> None:
    total = Counts.total([Counts(1, 1, 5, 0), ReplicaState(rows=2, output_tokens=9, running=4)])
    assert total == Counts(3, 1, 5, 9)
    total.add(Counts(1, 1, 5, 0), -1)
    assert total == Counts(2, 0, 0, 9)
