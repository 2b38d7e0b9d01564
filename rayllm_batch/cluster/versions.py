"""Ray and vLLM on every node that an engine may start on, against the pairs that this library was tried with."""

from __future__ import annotations

import logging
import sys
from typing import Any

from rayllm_batch.cluster.resources import alive_nodes, has_accelerator
from rayllm_batch.config import EngineConfig
from rayllm_batch.engine.vllm_versions import TESTED, vllm_version
from rayllm_batch.errors import ClusterError

ASK_SECONDS = 60.0

log = logging.getLogger("rayllm_batch")


def check_versions(config: EngineConfig) -> None:
    """Raise ClusterError when a node lacks vLLM, does not answer, or has another version than the rest."""
    if not config.engine_kind.needs_vllm:
        return
    import ray

    nodes = engine_nodes(config) or {node["NodeID"]: node for node in alive_nodes()}
    names = {node_id: node.get("NodeManagerAddress", node_id[:8]) for node_id, node in nodes.items()}
    here = ray.get_runtime_context().get_node_id()
    found = {here: vllm_version()} if here in nodes else {}
    found.update(_ask({node_id: name for node_id, name in names.items() if node_id != here}))
    lacking = [names[node] for node, version in found.items() if not version]
    if lacking:
        needs = "Every node that may run an engine needs one version: requirements/gpu.txt, or requirements/cpu.txt."
        raise ClusterError(f"vLLM is not installed on node(s) {', '.join(lacking)}. {needs}")
    if len(set(found.values())) > 1:
        listed = ", ".join(f"{names[node]}: {version}" for node, version in found.items())
        raise ClusterError(f"The nodes have different versions of vLLM ({listed}). Install one version on all.")
    pair = (ray.__version__, next(iter(found.values())).split("+")[0])
    if pair not in TESTED:
        tested = ", ".join(f"Ray {r} with vLLM {v}" for r, v in sorted(TESTED, reverse=True))
        log.warning("Ray %s with vLLM %s is not a tested pair, but may well do (tested: %s).", *pair, tested)


def runs_here(config: EngineConfig) -> bool:
    """Whether an engine may start on the driver's own node, which often has no GPU."""
    import ray

    return ray.get_runtime_context().get_node_id() in engine_nodes(config)


def only_here(config: EngineConfig) -> bool:
    """Whether no engine can start on another node than the driver's."""
    import ray

    return engine_nodes(config).keys() <= {ray.get_runtime_context().get_node_id()}


def engine_nodes(config: EngineConfig) -> dict[str, dict[str, Any]]:
    """Those that an engine may start on, by their ids."""

    def may_run(has: dict[str, float]) -> bool:
        return has_accelerator(has, config.accelerator_type) if config.gpus_per_replica else has.get("CPU", 0) > 0

    return {node["NodeID"]: node for node in alive_nodes() if may_run(node["Resources"])}


def _ask(nodes: dict[str, str]) -> dict[str, str]:
    """nodes: the name of each node, by its id."""
    import ray
    from ray import cloudpickle
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    cloudpickle.register_pickle_by_value(sys.modules["rayllm_batch"])  # the nodes need not have this package
    ask = ray.remote(num_cpus=0, max_retries=0)(vllm_version)
    there = {node_id: NodeAffinitySchedulingStrategy(node_id, soft=False) for node_id in nodes}
    asked = {ask.options(scheduling_strategy=where).remote(): node_id for node_id, where in there.items()}
    done, late = ray.wait(list(asked), num_returns=len(asked), timeout=ASK_SECONDS) if asked else ([], [])
    if late:
        names = ", ".join(nodes[asked[ref]] for ref in late)
        raise ClusterError(f"Node(s) {names} did not answer within {ASK_SECONDS:g} s: lost, or too busy for a process.")
    found = {}
    for ref in done:
        try:
            found[asked[ref]] = ray.get(ref)
        except ray.exceptions.RayError as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
            raise ClusterError(f"Node {nodes[asked[ref]]} could not say which vLLM it has: {reason}") from None
    return found
