"""Which engine settings exist: vLLM's `AsyncEngineArgs`, read without importing vLLM (which takes 10 s and torch)."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Collection, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, StrictFloat, StrictInt

from rayllm_batch.engine import parser_names, setting_values
from rayllm_batch.engine.parallel import copies, is_placed_by_ray
from rayllm_batch.engine.vllm_fields import ENGINE_FIELDS, RELEASE
from rayllm_batch.engine.vllm_newest_fields import MORE_ENGINE_FIELDS, NEWEST_RELEASE
from rayllm_batch.engine.vllm_versions import source_of
from rayllm_batch.errors import ConfigError, did_you_mean
from rayllm_batch.shape import checked

# The runner sets these itself: the model comes from model_id, and statistics feed the progress line.
OURS = {"model": "model_id at the top level of the config", "enable_log_requests": "nothing: requests are not logged"}

OURS_BESIDE = ("tool_parser",)  # which vLLM's server has as --tool-call-parser, and its engine has not

UTILIZATION = 0.92  # vLLM's own gpu_memory_utilization

Size = Annotated[StrictInt | None, Field(ge=1, description="a whole number of at least 1")]
_Length = Annotated[Size, BeforeValidator(lambda value: None if value == -1 else value)]  # which fits it to the memory
_UNITS = {"": 1, "k": 1000, "K": 1 << 10, "m": 1_000_000, "M": 1 << 20}


class _Sizes(BaseModel):
    tensor_parallel_size: Size = None
    pipeline_parallel_size: Size = None
    data_parallel_size: Size = None
    max_model_len: _Length = None
    max_num_seqs: Size = None
    max_num_batched_tokens: Size = None
    gpu_memory_utilization: StrictFloat | None = Field(None, gt=0, le=1, description="a number above 0 and at most 1")


def installed_classes(path: str, *names: str) -> list[dict[str, str]]:
    """Of these classes in a file of the installed vLLM: fields, with their types as text. Empty: there is none."""
    if not (source := source_of(path)):
        return [{} for _ in names]
    tree = ast.parse(source.read_text(encoding="utf-8"))
    bodies = {node.name: node.body for node in tree.body if isinstance(node, ast.ClassDef)}
    return [_fields(bodies.get(name, [])) for name in names]


def _fields(body: list[ast.stmt]) -> dict[str, str]:
    fields = {
        statement.target.id: ast.unparse(statement.annotation)
        for statement in body
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
    }
    # Of Annotated, the type alone: the rest is for pydantic.
    plain = {name: re.sub(r"Annotated\[([^\[,]+),.*\]", r"\1", kind) for name, kind in fields.items()}
    return {name: kind for name, kind in plain.items() if not name.startswith("_")}


@functools.lru_cache(maxsize=1)
def installed_types() -> dict[str, str]:
    """The installed vLLM's settings, with their types as text; empty where it is not installed, or its source has
    changed shape.
    """
    engine_args, asynchronous = installed_classes("engine/arg_utils.py", "EngineArgs", "AsyncEngineArgs")
    return {**engine_args, **asynchronous}


def installed_fields() -> tuple[str, ...] | None:
    """Their names; None where there are none."""
    return tuple(installed_types()) or None


def known_fields() -> tuple[str, ...]:
    """The engine's settings: the installed vLLM's, else those of all versions that were tried; and ours beside them."""
    return (*(installed_fields() or (*ENGINE_FIELDS, *MORE_ENGINE_FIELDS)), *OURS_BESIDE)


def of_another_vllm(key: str, tested: Collection[str], newer: Collection[str]) -> str:
    """A sentence for a setting that the installed vLLM lacks, and another one that was tried has; else "".

    tested, newer: what there is in vLLM RELEASE, and what NEWEST_RELEASE has beside.
    """
    release = RELEASE if key in tested else NEWEST_RELEASE if key in newer else None
    return f" vLLM {release} has it, and the installed vLLM does not." if release else ""


def check(
    engine_kwargs: Mapping[str, Any], own_settings: tuple[str, ...] | None, source: str, model: str = ""
) -> dict[str, Any]:
    """As they are from then on, lengths as numbers. Raises ConfigError for a setting that the engine does not have, or
    a value that cannot be: of the installed vLLM's settings, as far as its source says; without one, of sizes.

    own_settings: those of an engine that is not vLLM; vLLM's it ignores, so that a real configuration can be rehearsed.
    model: its id, where a parser that there is not may be one that this model is known to want.
    """
    known = known_fields() if own_settings is None else own_settings
    for key in engine_kwargs:
        if key in OURS:
            raise ConfigError(f"{key!r} does not go under engine_kwargs in {source}; set {OURS[key]}.")
        if key not in (*known, *known_fields()):
            near = of_another_vllm(key, ENGINE_FIELDS, MORE_ENGINE_FIELDS) or did_you_mean(key, known)
            near += " The settings are those of vLLM's AsyncEngineArgs."
            raise ConfigError(f"Unknown engine setting {key!r} under engine_kwargs in {source}.{near}")
    for key in ("skip_tokenizer_init", "tokens_only"):
        if engine_kwargs.get(key):
            raise ConfigError(f"{key} in {source} leaves the tokenizer out, and with it the answers' text. Remove it.")
    parser_names.check(engine_kwargs, source, model)
    if isinstance(length := engine_kwargs.get("max_model_len"), str):
        engine_kwargs = {**engine_kwargs, "max_model_len": _length(length)}
    checked(_Sizes, engine_kwargs, source)
    types = installed_types()
    for key, value in engine_kwargs.items():
        if key in types and key not in _Sizes.model_fields:
            setting_values.check(key, value, types[key], source)
    tokens, length = engine_kwargs.get("max_num_batched_tokens"), engine_kwargs.get("max_model_len") or 0
    at_least = {"max_num_seqs": engine_kwargs.get("max_num_seqs") or 0}
    if engine_kwargs.get("enable_chunked_prefill") is False:  # a prompt is then one step
        at_least["max_model_len"] = length
    for key, least in at_least.items():
        if tokens is not None and tokens < least:
            raise ConfigError(
                f"max_num_batched_tokens={tokens:,} in {source} is less than {key}={least:,}, and vLLM takes it for at "
                "least as many. Raise it, or leave it out."
            )
    on_one_node = not is_placed_by_ray(engine_kwargs) and engine_kwargs.get("data_parallel_backend") in (None, "mp")
    if copies(engine_kwargs) > 1 and not on_one_node:
        raise ConfigError(
            f"data_parallel_size in {source} is for the GPUs of one node here: remove distributed_executor_backend and "
            "data_parallel_backend. Over nodes, raise num_replicas."
        )
    return dict(engine_kwargs)


def _length(text: str) -> int | str:
    """`auto`, `8k` and `8K` are words of vLLM's command line, which its engine does not take."""
    number = re.fullmatch(r"([0-9]+)([kKmM]?)", text)
    return -1 if text == "auto" else int(number[1]) * _UNITS[number[2]] if number else text
