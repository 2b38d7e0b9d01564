"""vLLM's engine process without a second import of vLLM.

In a Ray actor vLLM may not fork its engine's process (the actor has threads), so it spawns one, which imports everything
again after the actor has: 22 to 30 s on a host of an H100 (bench/RESULTS.md). Python's forkserver does these imports in
a process of its own, beside the actor's, and forks the engine's from there. vLLM's own server does the same for its
engine; for an engine in an actor it has no setting (0.29).
"""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing import forkserver
from typing import Any, Optional

from rayllm_batch.config import EngineConfig

# Not the GPU worker's modules: their import may initialize CUDA, which no fork survives.
IMPORTED = ["vllm.v1.engine.async_llm", "vllm.v1.engine.core"]


class Forkserver:
    """Begins the imports at once. Build it with the engine's environment set: what it forks has the environment of now."""

    def __init__(self) -> None:
        self._environment: Optional[dict[str, str]] = None
        multiprocessing.set_forkserver_preload(IMPORTED)
        forkserver.ensure_running()

    @classmethod
    def start(cls, config: EngineConfig) -> Optional[Forkserver]:
        """One, in a Ray actor and where it helps: not on a CPU, for which vLLM sets what only a spawned process notices
        (LD_PRELOAD), nor where the user decides how processes start (numa_bind takes spawned ones) or Ray starts more."""
        import ray

        kwargs = config.engine_kwargs
        gpu = config.llm_engine == "vllm" and config.gpus_per_replica
        decided = "VLLM_WORKER_MULTIPROC_METHOD" in os.environ or kwargs.get("numa_bind") or kwargs.get("distributed_executor_backend") == "ray"
        if not gpu or decided:
            return None
        os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address  # as vLLM does in an actor before it spawns
        return cls()

    def serve(self) -> None:
        """From now on vLLM, which this process has imported, starts its engine's process here."""
        from vllm.v1.engine import utils

        vllms_own = getattr(utils, "get_mp_context", None)
        if self._environment is not None or vllms_own is None:  # a later vLLM may have it elsewhere, and spawns as ever
            return
        self._environment = dict(os.environ)  # what vLLM's import changes, it has changed in both processes

        def get_mp_context() -> Any:
            # For some models vLLM sets a variable for the engine. What is forked would not have it.
            return multiprocessing.get_context("forkserver") if os.environ == self._environment else vllms_own()

        utils.get_mp_context = get_mp_context
