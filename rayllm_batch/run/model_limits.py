"""Settings that the model's own config.json contradicts, as vLLM would say after the model's download."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from rayllm_batch.config import EngineConfig
from rayllm_batch.errors import ConfigError
from rayllm_batch.run.model_check import PLAIN_ATTENTION, ModelFacts, text_config

# Quantizations that are made beforehand, and the files that say how, where config.json has no quantization_config.
_MADE_BEFORE = {
    **dict.fromkeys(("awq", "auto_awq", "awq_marlin"), ("quantize_config.json", "quant_config.json")),
    **dict.fromkeys(("gptq", "auto_gptq", "gptq_marlin", "moe_wna16"), ("quantize_config.json",)),
}
_LONGER = "VLLM_ALLOW_LONG_MAX_MODEL_LEN"


def check_limits(config: EngineConfig, facts: ModelFacts) -> None:
    """Raises ConfigError with all that contradicts it."""
    if config.engine_kwargs.get("hf_overrides") or not config.engine_kind.needs_vllm or not facts.config:
        return
    if problems := list(_problems(config, facts)):
        raise ConfigError(" ".join(problems))


def _problems(config: EngineConfig, facts: ModelFacts) -> Iterator[str]:
    kwargs, inner, model = config.engine_kwargs, text_config(facts.config), config.model_id
    length, most = kwargs.get("max_model_len") or 0, _most_positions(inner)
    if most and length > most and (config.env_vars.get(_LONGER) or os.environ.get(_LONGER, "0")) == "0":
        yield (
            f"max_model_len={length:,} is more than the {most:,} positions of {model} (max_position_embeddings). Lower "
            "it, leave it out, or scale them with rope_parameters in hf_overrides."
        )
    parts, heads = kwargs.get("tensor_parallel_size") or 1, inner.get("num_attention_heads")
    if isinstance(heads, int) and heads % parts:
        fitting = [str(one) for one in range(1, min(heads, 16) + 1) if heads % one == 0]
        yield (
            f"tensor_parallel_size={parts} does not divide the {heads} attention heads of {model}. Set it to one of "
            f"{', '.join(fitting)}."
        )
    files = _MADE_BEFORE.get(str(kwargs.get("quantization")).lower(), ())
    is_quantized = any(part.get("quantization_config") for part in (facts.config, inner))
    if files and facts.folder and not is_quantized and not any((facts.folder / name).exists() for name in files):
        yield (
            f"quantization: {kwargs['quantization']} is for weights that were quantized so, and those of {model} were "
            "not (its config.json has no quantization_config). Name a model that was, or set quantization: fp8, which "
            "is made while it loads."
        )


def _most_positions(config: dict[str, Any]) -> int:
    """0 where it is not known."""
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    as_it_is = rope.get("rope_type", rope.get("type", "default")) in ("default", "llama3")
    known = config.get("model_type") in PLAIN_ATTENTION and as_it_is and not config.get("model_max_length")
    most = config.get("max_position_embeddings") if known else 0
    return most if isinstance(most, int) else 0
