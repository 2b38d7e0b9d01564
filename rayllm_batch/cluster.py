"""The Ray cluster: connected to or started, and asked before the run whether it can hold the job."""

from __future__ import annotations

import logging
import os
from collections import Counter
from typing import Any

from rayllm_batch.config import EngineConfig
from rayllm_batch.errors import ClusterError, did_you_mean

log = logging.getLogger("rayllm_batch")
_DID_NOT_START = "Ray did not start on this machine"
_LOGS = "Its logs are in /tmp/ray/session_latest/logs."
ACCELERATOR = "accelerator_type:"
ANY_GPU = "GPU"  # accelerator_type for a GPU whose kind Ray does not know, or where any kind will do


def connect() -> None:
    """Use the Ray that this process is connected to, else RAY_ADDRESS, else start one on this machine."""
    import ray

    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        # The engine's log goes to files of its own; what else workers print is not for the driver's screen.
        ray.init(logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, TimeoutError) as error:
        if address := os.environ.get("RAY_ADDRESS"):
            raise ClusterError(
                f"No Ray cluster answers at RAY_ADDRESS={address!r}: {error}. Start one there, or unset it to run here."
            ) from None
        raise ClusterError(f"{_DID_NOT_START}: {error}. {_LOGS}") from None
    except Exception as error:
        # Ray gives its node 30 s to start, which a small, busy machine exceeds; the dashboard is most of that work.
        if "timed out during startup" not in str(error):
            raise
        ray.shutdown()
        log.warning("%s within 30 s; trying once more, without its dashboard.", _DID_NOT_START)
        try:
            ray.init(logging_level=logging.ERROR, log_to_driver=False, include_dashboard=False)
        except Exception as second:
            ray.shutdown()
            raise ClusterError(f"{_DID_NOT_START}: {second} Is the machine busy or short of memory? {_LOGS}") from None
    import ray.data

    quiet(ray.data.DataContext.get_current())  # a Ray that somebody else started keeps their settings


def quiet(context: Any) -> None:
    """Our progress line instead of Ray Data's bars and notices, which all reach its log files as before."""
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for handler in logging.getLogger("ray.data").handlers:
        if not isinstance(handler, logging.FileHandler):
            handler.setLevel(logging.CRITICAL)  # its errors are raised, and explained, by run()


def check(config: EngineConfig, num_replicas: int) -> None:
    """Raise ClusterError, naming what the cluster has, when the job cannot be placed on it."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    needed = config.gpus_per_replica
    cpus = sum(node.get("CPU", 0) for node in nodes)
    if cpus < 1:
        raise ClusterError(f"The run needs at least one CPU, but the cluster has {cpus:g}: start Ray with num_cpus=2.")
    if not needed:
        return
    kinds = {key.removeprefix(ACCELERATOR) for node in nodes for key in node if key.startswith(ACCELERATOR)}
    wanted = config.accelerator_type
    if not any(node.get("GPU", 0) for node in nodes):
        raise ClusterError(
            f"accelerator_type is {wanted}, but the cluster has {_inventory(nodes)}. "
            "Run on a machine with one, or use a CPU config such as configs/demo-cpu.yaml."
        )
    fitting = [node for node in nodes if node.get("GPU") and (wanted == ANY_GPU or node.get(ACCELERATOR + wanted))]
    if not fitting:
        raise ClusterError(
            f"No node has the accelerator {wanted}; the cluster has {_inventory(nodes)}."
            f"{did_you_mean(wanted, kinds)} Set accelerator_type to what is there"
            f"{' (' + ', '.join(sorted(kinds)) + ')' if kinds else ''}, or add such a node."
        )
    largest = max(int(node["GPU"]) for node in fitting)
    if needed > largest and config.engine_kwargs.get("distributed_executor_backend") != "ray":
        raise ClusterError(
            f"One replica needs {needed} {wanted} GPUs on one node (tensor_parallel_size x pipeline_parallel_size), but "
            f"the largest node has {largest}; the cluster has {_inventory(nodes)}. Lower tensor_parallel_size, or use a "
            "quantized or smaller model."
        )
    room = sum(int(node["GPU"]) // needed for node in fitting)
    if num_replicas > room:
        raise ClusterError(
            f"num_replicas={num_replicas} needs {num_replicas} x {needed} {wanted} GPUs, but the cluster has room for "
            f"{room} replica(s): {_inventory(nodes)}. Set num_replicas={max(room, 1)}, or add nodes."
        )


def cpus_per_replica(num_replicas: int, gpus_per_replica: int) -> float:
    """Ray CPUs that one replica asks for: one beside a GPU where the cluster has plenty, else a share.

    The stage before the engine needs CPUs at the same time: if the replicas held all of them, the run would wait for
    ever. The share differs from that stage's one CPU on purpose. Ray Data fuses neighbours that ask for the same, and
    then tokenising would run inside the engine's actors: it would wait for the engine, and then compete with it.
    """
    import ray

    most = 1.0 if gpus_per_replica else 0.5
    return min(most, round(ray.cluster_resources().get("CPU", 1) / (2 * num_replicas), 2))


def _inventory(nodes: list[dict[str, Any]]) -> str:
    """`2 x A10G, 16 CPUs on 2 nodes`."""
    gpus: Counter[str] = Counter()
    for node in nodes:
        if count := int(node.get("GPU", 0)):
            names = [key.removeprefix(ACCELERATOR) for key in node if key.startswith(ACCELERATOR)]
            gpus[min(names, key=len) if names else "GPU of unknown type"] += count
    cpus = sum(node.get("CPU", 0) for node in nodes)
    parts = [f"{count} x {name}" for name, count in sorted(gpus.items())] or ["no GPU"]
    return f"{', '.join(parts)}, {cpus:g} CPUs on {len(nodes)} node{'s' if len(nodes) != 1 else ''}"
