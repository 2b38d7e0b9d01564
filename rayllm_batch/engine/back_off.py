"""An engine that runs out of GPU memory is started again with less: what to lower, and when nothing is left to lower.

Read from what vLLM says (0.26 to 0.32), since its engine's process passes on no more than that it failed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Optional

from rayllm_batch.engine.engine_args import UTILIZATION

OUT_OF_MEMORY = re.compile(r"out of memory|OutOfMemoryError", re.IGNORECASE)
NO_ROOM_FOR_CACHE = re.compile(
    r"No available memory for the cache blocks|larger than the available KV cache|Cannot auto-fit max_model_len"
)
CACHE_GAP = re.compile(r"([\d.]+) GiB KV\s+cache is needed.{0,60}?available KV cache\s+memory \(([\d.]+) GiB\)", re.S)
LESS_IS_FREE = re.compile(r"Free memory on device.{0,40}?\(([\d.]+)/([\d.]+) GiB\) on startup is less than")
WEIGHTS = re.compile(r"Model loading took ([\d.]+) GiB")
CACHE_IS_THERE = "KV cache size: "  # said once the cache's memory is taken
# Another process gave memory back meanwhile, such as an engine of an earlier run that was still ending.
CHANGED_WHILE_MEASURED = "Error in memory profiling"
WARMING_UP_SAMPLER = "dummy requests"

# Three steps of gpu_memory_utilization: what is still short then is not short of a few hundred MB.
LEAST = {"max_num_batched_tokens": 2048, "max_num_seqs": 64, "gpu_memory_utilization": 0.74}
MOST_UTILIZATION = 0.95
UTILIZATION_STEP = 0.06  # 1.4 GB of 24, 4.8 of 80
MOST_GAIN_GIB = 4.0  # for the KV cache, of all that can be changed here
FREE_MARGIN = 0.02  # of the GPU's memory: what another process holds may grow a little
_Names = Collection[str]


@dataclass(frozen=True)
class Step:
    """One setting that changes. why: what went wrong, in a few words. only_here: it is about this GPU, not the job."""

    name: str
    before: Any
    after: Any
    why: str
    only_here: bool = False

    def __str__(self) -> str:
        return f"{self.why}: the engine is started again with {self.name}={self.after:g} instead of {self.before:g}."


def is_about_memory(words: str) -> bool:
    return any(pattern.search(words) for pattern in (OUT_OF_MEMORY, NO_ROOM_FOR_CACHE, LESS_IS_FREE))


def next_step(
    words: str, settings: Mapping[str, Any], pinned: _Names, changed: _Names = (), was_running: bool = False
) -> Optional[Step]:
    """What to change after a start (or, was_running, a run) that ended with these last words.

    None if it was not for the lack of memory, or nothing is left to change. settings: max_num_seqs,
    max_num_batched_tokens, gpu_memory_utilization as they were. pinned: those that the user has set. changed: those
    that were changed before; what was changed once is not raised, so that the steps come to an end.
    """
    now = settings["gpu_memory_utilization"]
    if less := LESS_IS_FREE.search(words):
        # Not LEAST: what is free is known here, and may do for a small model.
        share = max(0.05, math.floor(100 * (float(less[1]) / float(less[2]) - FREE_MARGIN)) / 100)
        if "gpu_memory_utilization" in pinned or share >= now:
            return None
        return Step("gpu_memory_utilization", now, share, _free(less), True)
    no_room = NO_ROOM_FOR_CACHE.search(words)
    why = "No memory is left for the KV cache" if no_room else "The GPU is out of memory"
    # More than vLLM's own share, but not where it is less, since others need the rest.
    if no_room and UTILIZATION - 0.02 <= now < MOST_UTILIZATION and "gpu_memory_utilization" not in {*pinned, *changed}:
        return Step("gpu_memory_utilization", now, MOST_UTILIZATION, why, True)
    for name in _order(words, was_running):
        before = settings[name]
        lower = round(before - UTILIZATION_STEP, 2) if name == "gpu_memory_utilization" else before // 2
        # vLLM refuses a step that has fewer tokens than sequences.
        least = max(LEAST[name], settings["max_num_seqs"]) if name == "max_num_batched_tokens" else LEAST[name]
        if lower >= least and name not in pinned:
            return Step(name, before, lower, why)
    return None


def _order(words: str, was_running: bool) -> list[str]:
    """What may help, the most likely first."""
    working = ["max_num_batched_tokens", "max_num_seqs"]  # less of either is less working memory, and more KV cache
    if NO_ROOM_FOR_CACHE.search(words):
        gap = CACHE_GAP.search(words)
        return [] if gap and float(gap[1]) - float(gap[2]) > MOST_GAIN_GIB else working
    if not OUT_OF_MEMORY.search(words):
        return []
    if was_running or CACHE_IS_THERE in words:
        # All but the cache has hit its limit, so a smaller cache helps; the sampler's first turn takes memory by rows.
        return [*(["max_num_seqs"] if WARMING_UP_SAMPLER in words else []), "gpu_memory_utilization", *working]
    return working if WEIGHTS.search(words) else []  # else it was the weights, and nothing here makes those smaller


def does_not_fit(model_id: str, words: str, gpu: str, steps: Collection[str], pinned: Mapping[str, Any]) -> str:
    """The error when nothing is left to lower. gpu: what the GPU has, in words."""
    size = "Its weights alone do not fit"
    if less := LESS_IS_FREE.search(words):
        size = f"{_free(less)}, since something else has the rest"
    elif found := WEIGHTS.search(words):
        size = f"Its weights take {found[1]} GiB on each GPU"
    tried = f" Tried: {' '.join(steps)}" if steps else ""
    held = [f"{name}={value:g}" for name, value in pinned.items() if name in LEAST]
    kept = f" Your config sets {', '.join(held)}, which is never changed: take it out, or lower it." if held else ""
    return (
        f"{model_id} does not fit the GPU. {size}; {gpu}.{tried}{kept} What helps: a higher tensor_parallel_size, "
        "which splits the model over several GPUs; a smaller or quantized model (quantization: fp8 halves a 16-bit "
        "one); a lower max_model_len, a GPU with more memory, or ending what else runs on this one."
    )


def _free(less: re.Match[str]) -> str:
    return f"Only {float(less[1]):g} of the GPU's {float(less[2]):g} GiB are free"
