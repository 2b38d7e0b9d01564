"""Which engine settings exist: vLLM's `AsyncEngineArgs`, read without importing vLLM (which takes 10 s and torch)."""

from __future__ import annotations

import ast
import functools
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, StrictFloat, StrictInt

from rayllm_batch.errors import ConfigError, did_you_mean
from rayllm_batch.shape import checked
from rayllm_batch.vllm_fields import ENGINE_FIELDS

# The runner sets these itself: the model comes from model_id, and statistics feed the progress line.
OURS = {"model": "model_id at the top level of the config", "enable_log_requests": "nothing: requests are not logged"}

UTILIZATION = 0.92  # vLLM's own gpu_memory_utilization

ECHO_FIELDS = (
    "max_model_len", "max_num_seqs", "max_num_batched_tokens", "start_seconds", "seconds_per_request",
    "fail_on", "crash_on", "start_error", "oom_above", "run_oom_above", "calls_file",
)
Size = Annotated[StrictInt | None, Field(ge=1, description="a whole number of at least 1")]
# vLLM's own spellings: -1 or "auto" fits the length to the memory, "8k" is 8,000.
_Length = Annotated[Size, BeforeValidator(lambda value: None if value == -1 or isinstance(value, str) else value)]


class _Sizes(BaseModel):
    tensor_parallel_size: Size = None
    pipeline_parallel_size: Size = None
    max_model_len: _Length = None
    max_num_seqs: Size = None
    max_num_batched_tokens: Size = None
    gpu_memory_utilization: StrictFloat | None = Field(None, gt=0, le=1, description="a number above 0 and at most 1")


@functools.lru_cache(maxsize=1)
def installed_fields() -> tuple[str, ...] | None:
    """The fields of the installed vLLM's AsyncEngineArgs, from its source file; None where vLLM is not installed."""
    spec = importlib.util.find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        return None
    return fields_in(Path(list(spec.submodule_search_locations)[0]) / "engine" / "arg_utils.py")


def fields_in(arg_utils: Path) -> tuple[str, ...] | None:
    """The dataclass fields of EngineArgs and AsyncEngineArgs in vLLM's `arg_utils.py`; None if it has changed shape."""
    if not arg_utils.is_file():
        return None
    tree = ast.parse(arg_utils.read_text(encoding="utf-8"))
    names = [
        statement.target.id
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name in ("EngineArgs", "AsyncEngineArgs")
        for statement in node.body
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
    ]
    return tuple(name for name in names if not name.startswith("_")) or None


def known_fields() -> tuple[str, ...]:
    """The engine's settings: the installed vLLM's, else the list shipped with this package."""
    return installed_fields() or ENGINE_FIELDS


def check(engine_kwargs: Mapping[str, Any], llm_engine: str, source: str) -> None:
    """Raise ConfigError for a setting that the engine does not have, or a size that cannot be."""
    known = ECHO_FIELDS if llm_engine == "echo" else known_fields()
    for key in engine_kwargs:
        if key in OURS:
            raise ConfigError(f"{key!r} does not go under engine_kwargs in {source}; set {OURS[key]}.")
        if llm_engine == "echo" and key in known_fields():
            continue  # a real configuration can be rehearsed on the echo engine, which ignores what it has no use for
        if key not in known:
            raise ConfigError(
                f"Unknown engine setting {key!r} under engine_kwargs in {source}.{did_you_mean(key, known)} "
                f"The settings are those of vLLM's AsyncEngineArgs."
            )
    if engine_kwargs.get("data_parallel_size") not in (None, 1):
        raise ConfigError(
            f"data_parallel_size in {source} is for serving. For several copies of the model, give RayLLMBatch "
            f"num_replicas={engine_kwargs['data_parallel_size']}: each takes rows as it has room."
        )
    for key in ("skip_tokenizer_init", "tokens_only"):
        if engine_kwargs.get(key):
            raise ConfigError(f"{key} in {source} leaves the tokenizer out, and with it the answers' text. Remove it.")
    checked(_Sizes, engine_kwargs, source)
