"""What the cluster has, asked before the run: whether it can hold the job, and what one replica asks of it."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from rayllm_batch.config import EngineConfig
from rayllm_batch.engine.parallel import is_placed_by_ray
from rayllm_batch.errors import ClusterError, did_you_mean

ACCELERATOR = "accelerator_type:"
ANY_GPU = "GPU"  # accelerator_type for a GPU whose kind Ray does not know, or where any kind will do

# Of an actor that only passes blocks on to an engine that was kept, whose own actor has the rest of the replica's
# share. Not 0, and not what the stage before asks for: those would be fused.
RELAY_CPUS = 0.001


def check(config: EngineConfig, engines: int) -> None:
    """Raise ClusterError, naming what the cluster has, when the job cannot be placed on it.

    engines: num_replicas x engines_per_gpu.
    """
    nodes = [node["Resources"] for node in alive_nodes()]
    wanted, needed, has = config.accelerator_type, config.gpus_per_replica, _inventory(nodes)
    _check_known(wanted, nodes)
    if not _leaves_a_cpu(nodes, engines, min(needed, 1) if spans_nodes(config) else needed):
        raise ClusterError(
            f"Beside {engines} engine(s), reading and tokenising need one whole CPU on some node, but the cluster has "
            f"{has}. Start Ray with more CPUs (num_cpus=2 will do, whatever the machine has), or fewer replicas."
        )
    if not needed:
        return
    if not any(node.get("GPU", 0) for node in nodes):
        raise ClusterError(
            f"accelerator_type is {wanted}, but the cluster has {has}. "
            "Run on a machine with one, or use a CPU config such as configs/demo-cpu.yaml."
        )
    fitting = [node for node in nodes if has_accelerator(node, wanted)]
    if not fitting:
        kinds = sorted({kind for node in nodes for kind in accelerators(node)})
        there = f" ({', '.join(kinds)})" if kinds else ""
        raise ClusterError(
            f"No node has the accelerator {wanted}; the cluster has {has}.{did_you_mean(wanted, kinds)} "
            f"Set accelerator_type to what is there{there}, or add such a node."
        )
    largest = max(int(node["GPU"]) for node in fitting)
    if needed > largest and not spans_nodes(config):
        raise ClusterError(
            f"One replica needs {needed:g} {wanted} GPUs on one node (tensor_parallel_size x pipeline_parallel_size), "
            f"but the largest node has {largest}; the cluster has {has}. Lower tensor_parallel_size, use a quantized "
            "or smaller model, or split it over nodes: pipeline_parallel_size, with distributed_executor_backend: ray."
        )
    room = sum(_room(node, needed) for node in fitting)
    if spans_nodes(config):
        room = sum(_room(node, 1) for node in fitting) // int(needed)
    if engines > room:
        per_gpu = config.engines_per_replica
        replicas, fit, each = engines // per_gpu, room // per_gpu, needed * per_gpu  # as the user counts them
        raise ClusterError(
            f"num_replicas={replicas} needs {replicas} x {each:.0f} {wanted} GPUs, but the cluster has room for "
            f"{fit} replica(s): {has}. Set num_replicas={max(fit, 1)}, or add nodes."
        )


def _check_known(wanted: str, nodes: list[dict[str, Any]]) -> None:
    """Raise ClusterError for an accelerator_type that neither Ray nor the cluster knows, whatever the engine needs."""
    from ray.util.accelerators import accelerators as of_ray

    known = {str(value) for name, value in vars(of_ray).items() if name.isupper() and isinstance(value, str)}
    known |= {kind for node in nodes for kind in accelerators(node)} | {ANY_GPU, "CPU"}
    if wanted.upper() not in map(str.upper, known):
        near = did_you_mean(wanted, known) or " Known: A10G, L4, L40S, A100, H100, H200, ..., GPU for any, or CPU."
        raise ClusterError(f"accelerator_type {wanted!r} is none that Ray or the cluster knows.{near}")


def spans_nodes(config: EngineConfig) -> bool:
    """Whether each GPU of an engine may be on another node: Ray starts vLLM's workers, a GPU each."""
    return config.gpus_per_replica >= 1 and is_placed_by_ray(config.engine_kwargs)


def alive_nodes() -> list[dict[str, Any]]:
    """Of `ray.nodes()`, those that live: NodeID, Resources, NodeManagerAddress, ..."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def accelerators(resources: dict[str, float]) -> list[str]:
    """The kinds of GPU that a node, or a cluster, with these resources has."""
    return [key.removeprefix(ACCELERATOR) for key in resources if key.startswith(ACCELERATOR)]


def has_accelerator(resources: dict[str, float], kind: str) -> bool:
    """Whether a node with these resources has GPUs of that kind, an accelerator_type of a config."""
    return bool(resources.get("GPU")) and (kind == ANY_GPU or bool(resources.get(ACCELERATOR + kind)))


def can_read() -> bool:
    """Whether some node has the one CPU that reading takes."""
    return any(node["Resources"].get("CPU", 0) >= 1 for node in alive_nodes())


def free() -> str:
    """`The cluster has 2 x A10G, 16 CPUs on 2 nodes; free: 0 GPUs, 3 CPUs.`"""
    import ray

    now = ray.available_resources()
    nodes = [node["Resources"] for node in alive_nodes()]
    gpus = f"{now.get('GPU', 0):g} GPUs, " if any(node.get("GPU") for node in nodes) else ""
    return f"The cluster has {_inventory(nodes)}; free: {gpus}{now.get('CPU', 0):g} CPUs."


def replica_resources(config: EngineConfig, num_replicas: int) -> dict[str, Any]:
    """What one replica asks of Ray: num_cpus, and with a GPU num_gpus and accelerator_type.

    One that spans nodes asks for no GPU: its engine's workers do, see placement.
    """
    gpus = config.gpus_per_replica
    asked: dict[str, Any] = {"num_cpus": cpus_per_replica(num_replicas, gpus)}
    if gpus and not spans_nodes(config):
        asked["num_gpus"] = gpus
        if config.accelerator_type != ANY_GPU:
            asked["accelerator_type"] = config.accelerator_type
    return asked


def cpus_per_replica(num_replicas: int, gpus_per_replica: float) -> float:
    """Ray CPUs that one replica asks for: one beside a GPU where the cluster has plenty, else a share.

    The stage before the engine needs CPUs at the same time: if the replicas held all of them, the run would wait for
    ever. The share differs from that stage's one CPU on purpose. Ray Data fuses neighbours that ask for the same, and
    then tokenising would run inside the engine's actors: it would wait for the engine, and then compete with it.
    """
    import ray

    share = _share(ray.cluster_resources().get("CPU", 1), num_replicas, gpus_per_replica)
    # Rounded down, to Ray's own precision: rounded up, six replicas on two CPUs would leave less than one.
    return int(10_000 * (share - RELAY_CPUS)) / 10_000


def _share(cpus: float, num_replicas: int, gpus_per_replica: float) -> float:
    return min(1.0 if gpus_per_replica else 0.5, cpus / (2 * num_replicas))


def _leaves_a_cpu(nodes: list[dict[str, Any]], num_replicas: int, gpus_per_replica: float) -> bool:
    """Whether some node has one whole CPU left, however the replicas come to lie. Without it, the run would hang."""
    share = _share(sum(node.get("CPU", 0) for node in nodes), num_replicas, gpus_per_replica)
    to_fill = 0  # replicas that it takes to leave no node a whole CPU
    for node in nodes:
        if node.get("CPU", 0) >= 1:
            room = _room(node, gpus_per_replica) if gpus_per_replica else num_replicas
            fill = math.floor(round((node["CPU"] - 1) / share, 6)) + 1
            to_fill += fill if fill <= room else num_replicas + 1
    return to_fill > num_replicas


def _room(resources: dict[str, float], gpus_per_replica: float) -> int:
    """Replicas whose GPUs a node with these resources has; one that takes a part of a GPU has it on a single one."""
    gpus = int(resources.get("GPU", 0))
    return gpus // int(gpus_per_replica) if gpus_per_replica >= 1 else gpus * int(1 / gpus_per_replica)


def _inventory(nodes: list[dict[str, Any]]) -> str:
    """`2 x A10G, 16 CPUs on 2 nodes`."""
    gpus: Counter[str] = Counter()
    for node in nodes:
        if count := int(node.get("GPU", 0)):
            gpus[min(accelerators(node), key=len, default="GPU of unknown type")] += count
    cpus = sum(node.get("CPU", 0) for node in nodes)
    parts = [f"{count} x {name}" for name, count in sorted(gpus.items())] or ["no GPU"]
    return f"{', '.join(parts)}, {cpus:g} CPUs on {len(nodes)} node{'s' if len(nodes) != 1 else ''}"
