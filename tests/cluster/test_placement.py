"""The places that are reserved for an engine whose GPUs may be on several nodes; Ray's own part is stood in for."""

from __future__ import annotations

from typing import Any

import pytest
import ray
import ray.util

from rayllm_batch import RayLLMBatch, SyntheticWithSharedPrefix, init_engine_from_config
from rayllm_batch.cluster import placement, resources
from rayllm_batch.config import EngineConfig
from rayllm_batch.errors import ClusterError, ConfigError


def config(accelerator: str = "H100", **engine_kwargs: Any) -> EngineConfig:
    given = {"distributed_executor_backend": "ray", **engine_kwargs}
    return init_engine_from_config(
        {"model_id": "org/model", "llm_engine": "vllm", "accelerator_type": accelerator, "engine_kwargs": given}
    )


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[dict[str, float]], str]]:
    """Of one GPU each. What is returned are the groups that are asked for."""
    asked: list[tuple[list[dict[str, float]], str]] = []
    has = {"CPU": 16.0, "GPU": 1.0, "accelerator_type:H100": 1.0}
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": has}] * 2)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 32.0})
    monkeypatch.setattr(
        ray.util, "placement_group", lambda places, strategy: asked.append((places, strategy)) or len(asked)
    )
    return asked


def test_a_gpu_a_place_and_room_for_the_actor_in_the_first(two_nodes: list) -> None:
    split = config(pipeline_parallel_size=2)
    resources.check(split, 1)
    assert placement.reserve(split, 1) == (1,)
    [(places, strategy)] = two_nodes
    assert strategy == "PACK", "on one node where one has room, on several where none has"
    gpu = {"GPU": 1.0, "accelerator_type:H100": 0.001}
    assert places == [{**gpu, "CPU": resources.cpus_per_replica(1, 2)}, gpu]
    assert resources.replica_resources(split, 1) == {"num_cpus": places[0]["CPU"]}, "its workers have the GPUs"


def test_a_group_a_replica_of_any_gpu(two_nodes: list) -> None:
    assert placement.reserve(config("GPU"), 2) == (1, 2)
    cpus = resources.cpus_per_replica(2, 1)
    assert two_nodes == [([{"GPU": 1.0, "CPU": cpus}], "PACK")] * 2
    options = placement.in_turn(["first", "second"])
    strategies = [options()["scheduling_strategy"] for _ in range(3)]
    assert [one.placement_group for one in strategies] == ["first", "second", "first"]
    assert {one.placement_group_bundle_index for one in strategies} == {0}


@pytest.mark.parametrize(
    "other", [config(distributed_executor_backend="mp", tensor_parallel_size=2), config("CPU")], ids=["mp", "cpu"]
)
def test_none_where_actors_have_their_gpus_themselves(other: EngineConfig, two_nodes: list) -> None:
    assert placement.reserve(other, 1) == () and not two_nodes
    assert resources.replica_resources(other, 1).get("num_gpus", 0) == other.gpus_per_replica


def test_what_does_not_fit_over_nodes_either(two_nodes: list) -> None:
    with pytest.raises(ClusterError, match=r"needs 2 x 2 H100 GPUs.*room for 1 replica\(s\).*num_replicas=1"):
        resources.check(config(pipeline_parallel_size=2), 2)
    with pytest.raises(ClusterError, match="room for 0 replica"):
        resources.check(config(tensor_parallel_size=2, pipeline_parallel_size=2), 1)
    with pytest.raises(ClusterError, match="on one node.*or split it over nodes.*distributed_executor_backend: ray"):
        resources.check(config(distributed_executor_backend=None, pipeline_parallel_size=2), 1)


def test_a_number_of_replicas_that_may_grow_is_refused(two_nodes: list) -> None:
    batch = RayLLMBatch(config(), SyntheticWithSharedPrefix(4), num_replicas=(1, 2))
    with pytest.raises(ConfigError, match=r"num_replicas=\(1, 2\) may grow.*Give one number"):
        batch._execution.preflight()


def test_engines_that_share_a_gpu_are_refused() -> None:
    of_two = {"engines_per_gpu": 2, "engine_kwargs": {"distributed_executor_backend": "ray"}}
    with pytest.raises(ConfigError, match="engines_per_gpu=2.*a GPU of its own"):
        init_engine_from_config({"model_id": "m", "llm_engine": "vllm", "accelerator_type": "H100", **of_two})
