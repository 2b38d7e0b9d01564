"""Ray and vLLM on every node that an engine may start on, against the pairs that this library was tried with."""

from __future__ import annotations

import logging

from rayllm_batch.cluster.nodes import ask, engine_nodes, here, names_of
from rayllm_batch.cluster.resources import alive_nodes
from rayllm_batch.config import EngineConfig
from rayllm_batch.engine.vllm_versions import TESTED, vllm_version
from rayllm_batch.errors import ClusterError

log = logging.getLogger("rayllm_batch")


def check_versions(config: EngineConfig) -> None:
    """Raise ClusterError when a node lacks vLLM, does not answer, or has another version than the rest."""
    if not config.engine_kind.needs_vllm:
        return
    import ray

    nodes = engine_nodes(config) or {node["NodeID"]: node for node in alive_nodes()}
    names, own = names_of(nodes), here()
    found = {own: vllm_version()} if own in nodes else {}
    others = {node_id: name for node_id, name in names.items() if node_id != own}
    found.update(ask(others, vllm_version, about="which vLLM it has"))
    if not found:  # all of them have gone meanwhile
        return
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
    return here() in engine_nodes(config)


def only_here(config: EngineConfig) -> bool:
    """Whether no engine can start on another node than the driver's."""
    return engine_nodes(config).keys() <= {here()}
