"""How many nodes a run's replicas fill."""

from __future__ import annotations

from typing import Any, Optional

import pytest

from rayllm_batch import init_engine_from_config
from rayllm_batch.errors import ClusterError
from rayllm_batch.jobs.nodes import Nodes, nodes_for

MODEL = {"model_id": "some/model", "llm_engine": "vllm", "accelerator_type": "H100"}


def config(**more: Any) -> Any:
    return init_engine_from_config({**MODEL, **more})


@pytest.mark.parametrize(
    ("replicas", "each", "given", "most", "found"),
    [
        (1, 1, (None, None), 8, Nodes(1, 1)),
        (16, 1, (None, None), 8, Nodes(2, 8)),
        (10, 1, (None, None), 8, Nodes(2, 5)),  # evenly, not 8 and 2
        (3, 4, (None, None), 8, Nodes(2, 8, idle=4)),
        (3, 4, (None, None), None, Nodes(3, 4)),  # a node a replica
        (4, 1, (4, None), 8, Nodes(4, 1)),
        (4, 1, (None, 2), 8, Nodes(2, 2)),
        (4, 2, (None, 3), 8, Nodes(4, 3, idle=4)),  # a replica is not split over nodes
        (2, 1, (2, 4), 8, Nodes(2, 4, idle=6)),
    ],
)
def test_replicas_fill_nodes(
    replicas: int, each: int, given: tuple[Optional[int], Optional[int]], most: Optional[int], found: Nodes
) -> None:
    split = config(engine_kwargs={"tensor_parallel_size": each})
    assert nodes_for(split, replicas, count=given[0], gpus=given[1], most_gpus=most) == found


def test_engines_that_share_a_gpu_take_one() -> None:
    shared = config(engines_per_gpu=3)
    assert nodes_for(shared, 4, count=None, gpus=None, most_gpus=8) == Nodes(1, 4)


def test_without_gpus_a_node_has_none() -> None:
    cpu = config(accelerator_type="CPU")
    assert nodes_for(cpu, 2, count=None, gpus=None, most_gpus=8) == Nodes(1, 0)
    with pytest.raises(ClusterError, match="--gpus-per-node 2: this config takes no GPU"):
        nodes_for(cpu, 2, count=None, gpus=2, most_gpus=8)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((2, 4), "has room for 4. Set --nodes 3, or --num-replicas 4"),
        ((None, 1), "One replica needs 2 GPUs on one node"),
    ],
)
def test_too_little_room_is_an_error(given: tuple[Optional[int], Optional[int]], said: str) -> None:
    split = config(engine_kwargs={"tensor_parallel_size": 2})
    with pytest.raises(ClusterError, match=said):
        nodes_for(split, 5, count=given[0], gpus=given[1], most_gpus=8)


@pytest.mark.parametrize(
    ("replicas", "given", "most", "found"),
    [
        (1, (None, None), 2, Nodes(2, 2)),
        (1, (4, None), None, Nodes(4, 1)),
        (3, (None, 8), None, Nodes(2, 8, idle=4)),
        (1, (None, 3), None, Nodes(2, 3, idle=2)),
    ],
)
def test_replicas_whose_workers_ray_places_lie_over_nodes(
    replicas: int, given: tuple[Optional[int], Optional[int]], most: Optional[int], found: Nodes
) -> None:
    kwargs = {"tensor_parallel_size": 2, "pipeline_parallel_size": 2, "distributed_executor_backend": "ray"}
    over = config(engine_kwargs=kwargs)
    assert nodes_for(over, replicas, count=given[0], gpus=given[1], most_gpus=most) == found
    with pytest.raises(ClusterError, match="--num-replicas 3 needs 3 x 4 GPUs.*room for 2. Set --nodes 6, or .* 2"):
        nodes_for(over, 3, count=4, gpus=2, most_gpus=None)
