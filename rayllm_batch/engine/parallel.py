"""Of engine_kwargs: over how many copies and by whom an engine's GPUs are used. Nothing here needs vLLM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def copies(engine_kwargs: Mapping[str, Any]) -> int:
    """Data parallel ones of the model, each with requests of its own."""
    return engine_kwargs.get("data_parallel_size") or 1


def is_placed_by_ray(engine_kwargs: Mapping[str, Any]) -> bool:
    """Whether Ray starts vLLM's workers, a GPU each, on whichever nodes."""
    return engine_kwargs.get("distributed_executor_backend") == "ray"
