"""How many nodes, with how many GPUs each, a run's replicas fill."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Optional

from rayllm_batch.config import EngineConfig
from rayllm_batch.errors import ClusterError


@dataclass(frozen=True)
class Nodes:
    """count: nodes. gpus: of each, 0 on CPU. idle: GPUs that no replica takes, of all nodes together."""

    count: int
    gpus: int
    idle: int = 0


def nodes_for(
    config: EngineConfig, replicas: int, *, count: Optional[int], gpus: Optional[int], most_gpus: Optional[int]
) -> Nodes:
    """count, gpus: as given; None: as few nodes as there can be of most_gpus, filled evenly (None: a node a replica).

    Raises ClusterError where the replicas have no room: one lies on a single node.
    """
    each = round(config.gpus_per_replica * config.engines_per_replica)
    if not each:
        if gpus:
            what = f"accelerator_type {config.accelerator_type}, llm_engine {config.llm_engine}"
            raise ClusterError(f"--gpus-per-node {gpus}: this config takes no GPU ({what}). Leave it out.")
        return Nodes(count or 1, 0)
    if gpus is None:
        here = max(1, (most_gpus or each) // each)  # replicas of a node
        count = count or math.ceil(replicas / here)
        gpus = math.ceil(replicas / count) * each
    if gpus < each:
        raise ClusterError(
            f"One replica needs {each} GPUs on one node (tensor_parallel_size x pipeline_parallel_size), but a node "
            f"has --gpus-per-node {gpus}. Give it {each} or more, or lower tensor_parallel_size."
        )
    count = count or math.ceil(replicas / (gpus // each))
    room = count * (gpus // each)
    if room < replicas:
        raise ClusterError(
            f"--num-replicas {replicas} needs {replicas} x {each} GPUs, but --nodes {count} x --gpus-per-node {gpus} "
            f"has room for {room}. Set --nodes {math.ceil(replicas / (gpus // each))}, or --num-replicas {room}."
        )
    return Nodes(count, gpus, count * gpus - replicas * each)
