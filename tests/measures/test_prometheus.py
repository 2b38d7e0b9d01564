"""What reaches Prometheus. Ray's metrics are made up here; tests/stories/test_run_echo.py reads the real endpoint."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import ray.util.metrics

from rayllm_batch.measures.prometheus import Prometheus
from rayllm_batch.measures.snapshot import ReplicaState, Snapshot


class Metric:
    """Counter and gauge in one: `values` by replica, and the tags of the last value."""

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        assert description and tag_keys == ("run_id", "model", "replica")
        self.values: dict[str, float] = {}
        self.tags: dict[str, str] = {}
        MADE[name] = self

    def inc(self, value: float, tags: dict[str, str]) -> None:
        assert value > 0, "Ray refuses others"
        self.set(self.values.get(tags["replica"], 0) + value, tags)

    def set(self, value: float, tags: dict[str, str]) -> None:
        self.values[tags["replica"]], self.tags = value, tags


MADE: dict[str, Metric] = {}
FIRST = ReplicaState(
    actor_id="a",
    state="ready",
    rows=10,
    failed=1,
    input_tokens=900,
    output_tokens=50,
    running=8,
    waiting=2,
    kv_cache_usage=0.25,
)


@pytest.fixture
def prometheus(monkeypatch: pytest.MonkeyPatch) -> Prometheus:
    MADE.clear()
    monkeypatch.setattr(ray.util.metrics, "Counter", Metric)
    monkeypatch.setattr(ray.util.metrics, "Gauge", Metric)
    return Prometheus("1f3a9c20", "org/model")


def values() -> dict[str, Any]:
    return {name.removeprefix("rayllm_batch_"): metric.values for name, metric in MADE.items() if metric.values}


def test_a_replica_that_starts_again_goes_on_in_the_same_series(prometheus: Prometheus) -> None:
    prometheus.observe(Snapshot({"k1": FIRST}))
    prometheus.observe(Snapshot({"k1": FIRST}))
    assert values() == {
        "rows": {"0": 10},
        "failed_rows": {"0": 1},
        "input_tokens": {"0": 900},
        "output_tokens": {"0": 50},
        "running_requests": {"0": 8},
        "waiting_requests": {"0": 2},
        "kv_cache_usage": {"0": 0.25},
    }
    assert MADE["rayllm_batch_rows"].tags == {"run_id": "1f3a9c20", "model": "org/model", "replica": "0"}
    died = replace(FIRST, state="dead", rows=12)
    prometheus.observe(Snapshot({"k1": died, "k2": ReplicaState(actor_id="a", state="starting", rows=0)}))
    assert values()["rows"] == {"0": 12} and values()["running_requests"] == {"0": 0}
    prometheus.observe(Snapshot({"k1": died, "k2": replace(FIRST, rows=5, running=3)}))
    assert values()["rows"] == {"0": 17} and values()["running_requests"] == {"0": 3}


def test_replicas_are_numbered_and_a_gpu_shows_where_there_is_one(prometheus: Prometheus) -> None:
    second = replace(FIRST, actor_id="b", gpu_utilization=0.9)
    prometheus.observe(Snapshot({"k1": replace(FIRST, gpu_utilization=None), "k2": second}))
    assert values()["rows"] == {"0": 10, "1": 10} and values()["gpu_utilization"] == {"1": 0.9}


def test_after_the_run_nothing_runs_and_the_counts_stay(prometheus: Prometheus) -> None:
    with prometheus:
        prometheus.observe(Snapshot({"k1": replace(FIRST, gpu_utilization=0.9)}))
    assert values()["rows"] == {"0": 10} and values()["output_tokens"] == {"0": 50}
    for name in ("running_requests", "waiting_requests", "kv_cache_usage", "gpu_utilization"):
        assert values()[name] == {"0": 0}
