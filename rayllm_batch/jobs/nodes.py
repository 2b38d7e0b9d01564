"""How many nodes, with how many GPUs each, a run's replicas fill."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Optional

from rayllm_batch.cluster.resources import spans_nodes
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

    Raises ClusterError where the replicas have no room: one lies on a single node, unless Ray places its workers.
    """
    each = round(config.gpus_per_replica * config.engines_per_replica)
    if not each:
        if gpus:
            what = f"accelerator_type {config.accelerator_type}, llm_engine {config.llm_engine}"
            raise ClusterError(f"--gpus-per-node {gpus}: this config takes no GPU ({what}). Leave it out.")
        return Nodes(count or 1, 0)
    spread = each if spans_nodes(config) else 1  # over so many places of a GPU each
    places, each = replicas * spread, each // spread
    if gpus is None:
        here = max(1, (most_gpus or each) // each)  # places of a node
        count = count or math.ceil(places / here)
        gpus = math.ceil(places / count) * each
    if gpus < each:
        raise ClusterError(
            f"One replica needs {each} GPUs on one node (tensor_parallel_size x pipeline_parallel_size), but a node "
            f"has --gpus-per-node {gpus}. Give it {each} or more, or lower tensor_parallel_size."
        )
    count = count or math.ceil(places / (gpus // each))
    room = count * (gpus // each) // spread
    if room < replicas:
        raise ClusterError(
            f"--num-replicas {replicas} needs {replicas} x {each * spread} GPUs, but --nodes {count} x --gpus-per-node "
            f"{gpus} has room for {room}. Set --nodes {math.ceil(places / (gpus // each))}, or --num-replicas "
            f"{max(room, 1)}."
        )
    return Nodes(count, gpus, count * gpus - places * each)
