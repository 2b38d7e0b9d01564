"""Where the GPUs of engines lie whose workers Ray starts, on whichever nodes: a group of places a replica.

vLLM would reserve them itself, beside those that the replica's actor has, and only once the actor is somewhere: two
replicas could then wait for each other's.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from rayllm_batch.cluster.resources import ACCELERATOR, ANY_GPU, cpus_per_replica, spans_nodes
from rayllm_batch.config import EngineConfig


def reserve(config: EngineConfig, engines: int) -> tuple[Any, ...]:
    """A placement group an engine, not waited for; none where engines have their GPUs as actors do.

    A GPU a place, as vLLM wants it; in the first is room for the replica's actor too. Ray frees them when the driver
    ends, however that ends.
    """
    if not spans_nodes(config):
        return ()
    from ray.util import placement_group

    kind = config.accelerator_type
    gpu = {"GPU": 1.0} if kind == ANY_GPU else {"GPU": 1.0, ACCELERATOR + kind: 0.001}
    first = {**gpu, "CPU": cpus_per_replica(engines, config.gpus_per_replica)}
    places = [first, *[gpu] * (int(config.gpus_per_replica) - 1)]
    return tuple(placement_group(places, strategy="PACK") for _ in range(engines))


def in_turn(groups: Sequence[Any]) -> Callable[[], dict[str, Any]]:
    """Options of one actor after the other, each in the next group's first place."""
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    turns = itertools.cycle(groups)
    return lambda: {"scheduling_strategy": PlacementGroupSchedulingStrategy(next(turns), 0)}


def release(groups: Sequence[Any]) -> None:
    """Whatever is still in them ends."""
    from ray.util import remove_placement_group

    for group in groups:
        try:
            remove_placement_group(group)
        except Exception:  # of a Ray that is gone
            pass
