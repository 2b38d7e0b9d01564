"""What a run adds up to."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
from answers import a_failure, an_answer

from rayllm_batch.measures import history
from rayllm_batch.measures.history import History
from rayllm_batch.measures.metrics import ReplicaMetrics, RunMetrics
from rayllm_batch.measures.row_stats import Counts, RowStats
from rayllm_batch.measures.snapshot import ReplicaState, Snapshot
from rayllm_batch.tasks.base import Answer


def process(actor: str = "a", rows: int = 10, **values: Any) -> ReplicaState:
    """It has handed on what it has finished."""
    stats = RowStats(Counts(rows, 1, 100, 40))
    return ReplicaState(
        **{"actor_id": actor, "busy_s": 4.0, "start_s": 9.0, "delivered": stats, **vars(stats.counts), **values}
    )


ONE = process()


def test_two_replicas() -> None:
    metrics = RunMetrics.of({"k": ONE, "l": process("b", 30, busy_s=6.0, start_s=11.0)}, 20.0)
    assert (metrics.rows, metrics.failed, metrics.num_input_tokens, metrics.num_generated_tokens) == (40, 2, 200, 80)
    assert (metrics.engine_s, metrics.start_s, metrics.num_replicas, metrics.elapsed_s) == (5.0, 11.0, 2, 20.0)
    assert (metrics.rows_per_s, metrics.output_tokens_per_s) == (7.6, 16.0)


def test_a_restarted_replica_is_one() -> None:
    metrics = RunMetrics.of({"k": ONE, "l": process(busy_s=2.0), "m": ReplicaState(actor_id="a")}, 20.0)
    assert (metrics.num_replicas, metrics.engine_s, metrics.rows) == (1, 6.0, 20)


def test_only_what_was_handed_on_counts() -> None:
    """Of an interrupted run: rows that were done in a block that was not."""
    told = replace(ONE, delivered=RowStats(Counts(4, 1, 30, 12)))
    metrics = RunMetrics.of(
        {"k": told, "l": replace(told, actor_id="b"), "m": replace(ONE, delivered=RowStats())}, 20.0
    )
    assert (metrics.rows, metrics.failed, metrics.num_input_tokens, metrics.num_generated_tokens) == (8, 2, 60, 24)


def test_a_run_with_nothing_to_do() -> None:
    metrics = RunMetrics.of({}, 1.0)
    assert metrics == RunMetrics(elapsed_s=1.0)
    assert (metrics.rows_per_s, metrics.output_tokens_per_s) == (0.0, 0.0) and "0 output tokens/s" in str(metrics)


def stats(*rows: Answer) -> RowStats:
    kept = RowStats()
    for row in rows:
        kept.add(row, 2.0)
    return kept


def sampled(**load: float) -> History:
    """Ten seconds of generating: the engines are full in the first four, and half as busy afterwards."""
    run = History(began=0.0)
    for second in range(12):
        ready = ReplicaState(state="ready", settings={"max_num_seqs": 8}, in_flight=8, rows=min(second, 10))
        with mock.patch.object(history.time, "time", return_value=float(second)):
            run.observe(Snapshot({"a": replace(ready, running=8 if second < 5 else 4, **load)}))
    return run


def test_rows_by_outcome() -> None:
    first = replace(ONE, delivered=stats(an_answer("x", 5, 5, "stop"), a_failure("parse_row: KeyError")))
    rows = stats(an_answer("x", 5, 5, "length"), a_failure("parse_row: x"), a_failure("engine: y"))
    second = replace(ONE, actor_id="b", delivered=rows)
    metrics = RunMetrics.of({"k": first, "l": second}, 20.0)
    assert metrics.failed_by_kind == {"parse_row": 2, "engine": 1} and metrics.finish_reasons == {
        "stop": 1,
        "length": 1,
        "error": 3,
    }
    assert metrics.mean_latency_s == 2.0 and metrics.input_tokens_per_s == 2.5


def test_each_replica_over_its_restarts() -> None:
    metrics = RunMetrics.of(
        {
            "k": process(node="10.0.0.1"),
            "l": process("b", node="10.0.0.2"),
            "m": ReplicaState(actor_id="c", node="10.0.0.2"),
            "n": process(rows=5, node="10.0.0.3", start_s=3.0),
        },
        20.0,
    )
    assert metrics.replicas == (
        ReplicaMetrics(
            "10.0.0.3",
            start_s=9.0,
            engine_s=8.0,
            rows=15,
            failed=2,
            num_input_tokens=200,
            num_generated_tokens=80,
            restarts=1,
        ),
        ReplicaMetrics(
            "10.0.0.2",
            start_s=9.0,
            engine_s=4.0,
            rows=10,
            failed=1,
            num_input_tokens=100,
            num_generated_tokens=40,
            restarts=0,
        ),
        ReplicaMetrics(
            "10.0.0.2",
            start_s=0.0,
            engine_s=0.0,
            rows=0,
            failed=0,
            num_input_tokens=0,
            num_generated_tokens=0,
            restarts=0,
        ),
    )
    assert metrics.busy_share == pytest.approx(6.0 / 20.0)


def test_how_full_the_engines_were() -> None:
    metrics = RunMetrics.of({"k": ONE}, 20.0, sampled(kv_cache_usage=0.25))
    assert (metrics.generating_s, metrics.max_running) == (10.0, 8)
    assert metrics.full_share == pytest.approx(0.4) and metrics.mean_running == pytest.approx(5.6)
    assert metrics.mean_kv_cache_usage == pytest.approx(0.25) and metrics.mean_gpu_utilization is None
    assert RunMetrics.of({"k": ONE}, 20.0, sampled(gpu_utilization=0.5)).mean_gpu_utilization == pytest.approx(0.5)


def test_a_run_too_short_to_be_sampled() -> None:
    metrics = RunMetrics.of({"k": ONE}, 20.0, History())
    assert metrics.full_share is None and metrics.mean_running is None and metrics.generating_s == 0.0


def test_json() -> None:
    first = replace(ONE, delivered=stats(an_answer("a secret answer", 5, 5, "stop"), a_failure("parse_row: KeyError")))
    metrics = RunMetrics.of({"k": first}, 20.0, sampled())
    text = json.dumps(metrics.to_dict(), allow_nan=False)
    read = json.loads(text)
    assert (
        read["rows"] == 2
        and read["rows_per_s"] == 0.25
        and read["mean_latency_s"] == 2.0
        and read["failed_by_kind"] == {"parse_row": 1}
    )
    assert (
        read["replicas"][0]["engine_s"] == 4.0
        and read["mean_gpu_utilization"] is None
        and read["full_share"] == pytest.approx(0.4)
    )
    assert "secret answer" not in text, "figures, and nothing of the rows"
