"""vLLM's engine process without a second import of vLLM.

In a Ray actor vLLM may not fork its engine's process (the actor has threads), so it spawns one, which imports
everything again after the actor has: 22 to 30 s on a host of an H100 (bench/RESULTS.md). Python's forkserver does these
imports in a process of its own, beside the actor's, and forks the engine's from there. vLLM's server has code for the
same, but 0.29 and 0.32 accept no setting that turns it on. Where Python does not find vLLM without this process's
sys.path (before 3.12.8), the imports come after the fork: no faster, and no different otherwise.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
from collections.abc import Mapping
from multiprocessing import forkserver
from typing import Any, Optional

from rayllm_batch.engine.parallel import copies, is_placed_by_ray
from rayllm_batch.engine.vllm_versions import IMPORTED_BY_ENGINES, starter_of_engines

METHOD = "VLLM_WORKER_MULTIPROC_METHOD"
DID_NOT_SURVIVE = "in forked subprocess"  # "Cannot re-initialize CUDA ..." (torch): an import has initialized it


class Forkserver:
    """Begins the imports at once. Build it with the engine's environment set, which what it forks has too."""

    def __init__(self) -> None:
        self.serves = False  # set to False again, vLLM starts the next engine's process as ever
        self._environment: Optional[dict[str, str]] = None
        # Not the GPU worker's modules: their import may initialize CUDA, which no fork survives.
        multiprocessing.set_forkserver_preload(list(IMPORTED_BY_ENGINES))
        forkserver.ensure_running()

    @classmethod
    def start(cls, kwargs: Mapping[str, Any]) -> Optional[Forkserver]:
        """One, in a Ray actor, where it can be; None where vLLM starts its engine's process as ever.

        kwargs: the engine's. Not for an engine on a CPU: there vLLM sets what only a spawned process notices.
        """
        import ray

        # numa_bind takes a spawned process; Ray's executor starts more actors from there. Of data parallel copies each
        # has a process.
        if METHOD in os.environ or kwargs.get("numa_bind") or copies(kwargs) > 1 or is_placed_by_ray(kwargs):
            return None
        if "microsoft" in platform.release().lower():  # NVML does not survive a fork in WSL
            return None
        # As vLLM does in an actor before it spawns; so the workers of a tensor_parallel_size above 1 are spawned there.
        os.environ.update({METHOD: "spawn", "RAY_ADDRESS": ray.get_runtime_context().gcs_address})
        try:
            return cls()
        except OSError:  # too many open files, a TMPDIR too long for a socket's path
            return None

    def serve(self) -> None:
        """From now on vLLM, which this process has imported, starts its engine's process here."""
        utils = starter_of_engines()
        if self._environment is not None or utils is None:  # a later vLLM may have it elsewhere, and spawns as ever
            return
        vllms_own = utils.get_mp_context
        self._environment = dict(os.environ)  # what vLLM's import changes, it has changed in both processes
        self.serves = True

        def get_mp_context() -> Any:
            # For some models vLLM sets a variable for the engine. What is forked would not have it.
            same = os.environ == self._environment
            return multiprocessing.get_context("forkserver") if self.serves and same else vllms_own()

        utils.get_mp_context = get_mp_context
