"""The nodes of the cluster that are not the driver's own: each is asked by a task of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from rayllm_batch.cluster.resources import alive_nodes, has_accelerator
from rayllm_batch.cluster.shipping import ship_package
from rayllm_batch.config import EngineConfig
from rayllm_batch.errors import ClusterError

ASK_SECONDS = 60.0
ANY_SIZE = -1

T = TypeVar("T")


def engine_nodes(config: EngineConfig) -> dict[str, dict[str, Any]]:
    """Those that an engine may start on, by their ids."""

    def may_run(has: dict[str, float]) -> bool:
        return has_accelerator(has, config.accelerator_type) if config.gpus_per_replica else has.get("CPU", 0) > 0

    return {node["NodeID"]: node for node in alive_nodes() if may_run(node["Resources"])}


def reading_nodes() -> dict[str, dict[str, Any]]:
    """Those that rows may be read and tokenised on, by their ids."""
    return {node["NodeID"]: node for node in alive_nodes() if node["Resources"].get("CPU", 0) >= 1}


def here() -> str:
    """The id of the driver's own node."""
    import ray

    return ray.get_runtime_context().get_node_id()


def names_of(nodes: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """What an error calls each node, by its id."""
    return {node_id: node.get("NodeManagerAddress", node_id[:8]) for node_id, node in nodes.items()}


def ask(nodes: Mapping[str, str], question: Callable[..., T], *arguments: Any, about: str) -> dict[str, T]:
    """What `question(*arguments)` returns on each of these nodes, by its id. Raises ClusterError, with the node's name.

    A node that the cluster has given up meanwhile is left out: Ray counts a silent one as alive for half a minute.

    nodes: the name of each, by its id. question: a function of this package. about: `could not say {about}`.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ship_package()
    task = ray.remote(num_cpus=0, max_retries=0)(question)
    there = {node_id: NodeAffinitySchedulingStrategy(node_id, soft=False) for node_id in nodes}
    asked = {task.options(scheduling_strategy=where).remote(*arguments): node_id for node_id, where in there.items()}
    done, late = ray.wait(list(asked), num_returns=len(asked), timeout=ASK_SECONDS) if asked else ([], [])
    if late and (there_yet := _alive_of(asked[ref] for ref in late)):
        names = ", ".join(nodes[node_id] for node_id in there_yet)
        raise ClusterError(f"Node(s) {names} did not answer within {ASK_SECONDS:g} s: lost, or too busy for a process.")
    found = {}
    for ref in done:
        try:
            found[asked[ref]] = ray.get(ref)
        except ray.exceptions.RayError as error:
            if not _alive_of([asked[ref]]):
                continue
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
            raise ClusterError(f"Node {nodes[asked[ref]]} could not say {about}: {reason}") from None
    return found


def _alive_of(node_ids: Iterable[str]) -> list[str]:
    alive = {node["NodeID"] for node in alive_nodes()}
    return [node_id for node_id in node_ids if node_id in alive]


def unlike(files: Mapping[str, int]) -> list[str]:
    """Of files and folders, those that are not on this machine, or have another size than this, in bytes."""
    found = []
    for path, size in files.items():
        try:
            if os.stat(path).st_size != size != ANY_SIZE:
                found.append(path)
        except OSError:
            found.append(path)
    return found
