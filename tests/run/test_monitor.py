"""What the run's monitor makes of replicas that die, stall and come back. It is a plain object here, no Ray actor."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from answers import a_failure, an_answer

from rayllm_batch.measures import row_stats
from rayllm_batch.measures.metrics import RunMetrics
from rayllm_batch.measures.row_stats import Counts, RowStats
from rayllm_batch.measures.snapshot import ReplicaState, Snapshot
from rayllm_batch.run.monitor import (
    MAX_BACK_OFFS_WITHOUT_AN_ANSWER,
    MAX_DEATHS_WITHOUT_AN_ANSWER,
    MAX_GUILTY_ROWS,
    MAX_STALLS_WITHOUT_AN_ANSWER,
    RunMonitor,
)


class Run:
    """Replicas that register, work and die, one process after the other, under one actor's id unless told otherwise."""

    def __init__(self) -> None:
        self.monitor = RunMonitor({"HF_TOKEN": "hf_secret"})
        self.started, self.actors = 0, {}

    def start(self, actor: str = "actor") -> tuple[str, dict]:
        self.started += 1
        key = f"key-{self.started}"
        self.actors[key] = actor
        return key, self.monitor.register(key, f"handle of {actor}", self.state(key, "starting"))

    def state(self, key: str, state: str, **values: Any) -> dict[str, Any]:
        """What the replica sends of itself."""
        return ReplicaState(actor_id=self.actors[key], node="10.0.0.1", state=state, **values).plain()

    def update(self, key: str, state: str = "ready", **values: Any) -> None:
        self.monitor.update(key, self.state(key, state, **values))

    def died(self, key: str, in_engine: list[bytes], words: str = "CUDA error", **values: Any) -> None:
        self.monitor.died(key, self.state(key, "ready", **values), in_engine, words)

    @property
    def snapshot(self) -> Snapshot:
        return Snapshot.of(pickle.loads(pickle.dumps(self.monitor.snapshot())))

    def die(
        self, in_engine: list[bytes], rows: int = 0, failed: int = 0, actor: str = "actor", words: str = "CUDA error"
    ) -> dict:
        key, told = self.start(actor)
        self.update(key)
        self.died(key, in_engine, words, rows=rows, failed=failed)
        return told

    def stall(self, rows: int = 0) -> bool:
        key, _ = self.start()
        self.update(key, rows=rows)
        return self.monitor.stalled(key, f"{key} has finished no row")

    @property
    def stop(self) -> str | None:
        return self.start()[1]["stop"]

    @property
    def last_death(self) -> str | None:
        return self.snapshot.last_death

    @property
    def failure(self) -> tuple[str, str] | None:
        return self.snapshot.failure


def some(number: int) -> list[bytes]:
    return [b"row %d" % n for n in range(number)]


def test_deaths_without_an_answer_end_the_run_with_the_last_words() -> None:
    run = Run()
    for _ in range(MAX_DEATHS_WITHOUT_AN_ANSWER - 1):
        run.die(some(50))
        assert run.stop is None and run.failure is None, (
            "the run goes on: another failure must not be explained by this"
        )
        assert run.last_death == "The engine died. Its last words:\nCUDA error"
    run.die(some(50), words="Xid 79: GPU has fallen off the bus")
    assert run.stop == (
        "The engine died 5 times without answering a row in between. Its last words:\n"
        "Xid 79: GPU has fallen off the bus"
    )
    assert run.failure == ("EngineError", run.stop)


def test_an_answer_in_between_starts_the_count_again() -> None:
    run = Run()
    for _ in range(4 * MAX_DEATHS_WITHOUT_AN_ANSWER):
        run.die(some(50), rows=1)
    for _ in range(MAX_DEATHS_WITHOUT_AN_ANSWER - 2):
        run.die(some(50), rows=0)
    assert run.stop is None
    run.die(some(50), rows=0)
    assert run.stop


def test_a_failed_row_is_not_an_answer() -> None:
    run = Run()
    for _ in range(MAX_DEATHS_WITHOUT_AN_ANSWER):
        run.die(some(50), rows=7, failed=7)
    assert run.stop


def test_too_many_guilty_rows_are_no_guilty_rows() -> None:
    run = Run()
    for n in range(MAX_GUILTY_ROWS + 1):
        assert run.stop is None
        run.die([b"row %d" % n], rows=1)
        run.die([b"row %d" % n], rows=1)
    assert "101 rows have made the engine crash, each alone" in run.stop and run.stop.endswith("CUDA error")
    assert run.failure == ("EngineError", run.stop)


def test_what_a_restarted_replica_is_told() -> None:
    run = Run()
    nothing = {"stop": None, "suspects": {}, "guilty": {}, "job": None}
    assert run.die(some(2)) == nothing
    assert run.die([b"row 1"], words="boom")["suspects"] == {b"row 0": 1, b"row 1": 1}
    told = run.start()[1]
    assert told["guilty"] == {b"row 1": "boom"}
    assert run.start("another")[1] == {**nothing, "guilty": {b"row 1": "boom"}}


def test_engines_that_start_are_told_the_least_that_any_other_has_come_to() -> None:
    run = Run()
    monitor = run.monitor
    monitor.backs_off("with 256 instead of 512", "max_num_seqs", 256)
    monitor.backs_off("with 512 instead of 1024", "max_num_seqs", 512)  # a slower one meets the same limit
    for _ in range(2):
        monitor.backs_off("only 20 of 80 GiB are free")  # on its GPU
    assert monitor.lowered() == {"max_num_seqs": 256}
    assert run.snapshot.notes == ["with 256 instead of 512", "with 512 instead of 1024", "only 20 of 80 GiB are free"]
    monitor.begin()
    assert monitor.lowered() == {"max_num_seqs": 256}, "engines that are kept for the next run keep it"
    assert run.snapshot.notes == []


def test_an_engine_that_runs_out_of_memory_makes_nobody_a_suspect_unless_it_goes_on() -> None:
    run = Run()

    def runs_out(rows: int) -> bool:
        key, told = run.start()
        assert (told["suspects"], told["guilty"], told["stop"]) == ({}, {}, None)
        run.update(key)
        may = run.monitor.may_back_off(key, run.state(key, "ready", rows=rows), "CUDA out of memory")
        assert run.snapshot.replicas[key].state == "dead"
        return may

    for _ in range(3 * MAX_BACK_OFFS_WITHOUT_AN_ANSWER):
        assert runs_out(rows=1)
    for n in range(1, MAX_BACK_OFFS_WITHOUT_AN_ANSWER + 2):
        assert runs_out(rows=0) == (n < MAX_BACK_OFFS_WITHOUT_AN_ANSWER)
    assert (
        run.last_death == "The engine ran out of GPU memory. Its last words:\nCUDA out of memory"
        and run.failure is None
    )


def test_stalls_without_an_answer_end_the_run() -> None:
    run = Run()
    for n in range(1, MAX_STALLS_WITHOUT_AN_ANSWER):
        assert run.stall() and run.failure is None and run.last_death == f"key-{n} has finished no row"
    assert not run.stall()
    assert "has finished no row" in run.stop and run.failure == ("EngineError", run.stop)
    assert Run().stop is None


def test_a_stall_after_answers_is_the_first_again() -> None:
    run = Run()
    for _ in range(5):
        assert run.stall(rows=10)
    assert run.stop is None


def test_a_replica_killed_from_outside_is_dead_once_its_actor_is_back() -> None:
    run = Run()
    first, other = run.start("a")[0], run.start("b")[0]
    run.update(first)
    run.start("a")
    states = {key: replica.state for key, replica in run.snapshot.replicas.items()}
    assert states == {first: "dead", other: "starting", "key-3": "starting"}


def test_a_replica_that_did_not_start_keeps_its_state_and_its_reason() -> None:
    run = Run()
    key, _ = run.start()
    run.monitor.failed("ModelAccessError", "no access", key)
    run.start()
    assert run.snapshot.replicas[key].state == "failed" and run.failure == ("ModelAccessError", "no access")


def test_a_replica_that_starts_after_all_takes_back_no_other_ones_failure() -> None:
    run = Run()
    keys = {actor: run.start(actor)[0] for actor in ("one", "two")}
    for actor, key in keys.items():
        run.monitor.failed("EngineError", f"{actor} has no memory", key)
    assert run.failure == ("EngineError", "two has no memory"), "the latest"
    run.update(run.start("two")[0])
    assert run.failure == ("EngineError", "one has no memory")
    run.monitor.failed("WorkloadError", "of a task, which is no replica's")
    run.update(run.start("one")[0])
    assert run.failure == ("WorkloadError", "of a task, which is no replica's")


def test_a_replica_that_starts_after_all_has_not_failed() -> None:
    run = Run()
    key, _ = run.start()
    run.monitor.failed("EngineError", "no memory", key)
    other, _ = run.start("other")
    run.update(other)
    assert run.failure == ("EngineError", "no memory")
    again, _ = run.start()
    run.update(again)
    assert run.failure is None


def deliver(run: Run, key: str, block: str, good: int = 0, bad: int = 0) -> None:
    stats = RowStats()
    for answer in [an_answer("x", 5, 3, "stop")] * good + [a_failure("parse_row: KeyError: 'x'")] * bad:
        stats.add(answer, 2.0)
    run.monitor.delivers(key, block, stats.plain())


def rows(run: Run) -> int:
    return Counts.total(run.snapshot.replicas.values()).rows


def test_a_row_that_is_computed_again_counts_once() -> None:
    run = Run()
    first, _ = run.start()
    deliver(run, first, "task 1", good=62, bad=2)
    run.update(first, rows=70, failed=3)
    assert rows(run) == 70, "what it has finished shows at once"
    run.died(first, some(3), rows=71, failed=3)
    assert rows(run) == 64 and run.snapshot.replicas[first].failed == 2
    second, _ = run.start()
    run.update(second, rows=7, failed=1)
    assert rows(run) == 71
    run.start()  # it was killed before it could say so
    assert rows(run) == 64


@pytest.mark.parametrize("between", [0, 3])
def test_a_block_whose_replica_died_before_it_was_out_is_the_next_ones(between: int) -> None:
    run = Run()
    first, _ = run.start()
    deliver(run, first, "task 1", good=60, bad=4)
    deliver(run, first, "task 2", good=10)
    run.died(first, some(3), rows=74)
    second, _ = run.start()
    for n in range(between):
        deliver(run, second, f"other task {n}", good=1)
    deliver(run, second, "task 1", good=60, bad=4)
    metrics = RunMetrics.of(run.snapshot.replicas, 1.0)
    assert (metrics.rows, metrics.failed) == (74 + between, 4)
    assert metrics.failed_by_kind == {"parse_row": 4} and metrics.finish_reasons == {"stop": 70 + between, "error": 4}
    assert [(of.rows, of.restarts) for of in metrics.replicas] == [(74 + between, 1)] and metrics.mean_latency_s == 2.0


def test_nothing_that_comes_after_a_death_changes_its_counts() -> None:
    run = Run()
    key, _ = run.start()
    run.died(key, some(3), rows=5)
    run.update(key, rows=9)
    assert rows(run) == 0 and run.snapshot.replicas[key].state == "dead"


def test_blocks_are_remembered_up_to_a_number() -> None:
    kept = row_stats.Delivered()
    for n in range(row_stats.KEPT_BLOCKS + 50):
        kept.add("a", f"task {n}", RowStats(Counts(rows=2)))
    assert kept.of("a").counts.rows == 2 * (row_stats.KEPT_BLOCKS + 50) and len(kept._blocks) == row_stats.KEPT_BLOCKS


def test_no_secret_in_what_the_driver_asks_for() -> None:
    run = Run()
    run.die(some(3))
    assert "hf_secret" not in repr(run.snapshot) and "hf_secret" not in repr(run.monitor.actors())
    assert run.monitor.environment() == {"HF_TOKEN": "hf_secret"}
