"""Settings of 2024's vLLM (0.5-0.6) and of RayLLM configs of that time: what they became.

A setting is looked up here only when today's vLLM does not have it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from rayllm_batch.engine import engine_args

Kwargs = dict[str, Any]
Translation = Callable[[Any, Kwargs], str]

UNTIL = "30 November 2027"  # see CHANGELOG.md: from then on such a setting is an unknown one

_RAY_WORKER = "the Ray executor always works this way now"
_BLOCK_MANAGER = "today's vLLM has one block manager only"
# What the engine does by itself now, or no longer does.
_GONE = {
    "use_v2_block_manager": _BLOCK_MANAGER,
    "preemption_mode": "vLLM now always recomputes preempted requests",
    "max_seq_len_to_capture": "CUDA graphs are no longer bound by sequence length",
    "swap_space": "vLLM no longer swaps KV cache to the CPU",
    "num_scheduler_steps": "multi-step scheduling is gone, asynchronous scheduling took its place",
    "multi_step_stream_outputs": "multi-step scheduling is gone",
    "scheduler_delay_factor": "the scheduler batches continuously without a delay",
    "num_lookahead_slots": "the scheduler reserves what speculation needs by itself",
    "disable_async_output_proc": "output is always processed beside the engine",
    "engine_use_ray": "the engine runs in a process of its own",
    "disable_log_requests": "requests are not logged",
    "device": "accelerator_type says where the model runs",
    "tokenizer_pool_size tokenizer_pool_type tokenizer_pool_extra_config": "Ray tasks tokenise before the engine",
    "use_beam_search": "beam search is not an engine setting",
    "quantization_param_path": "KV cache scales come with the checkpoint",
    "logits_processor_pattern": "use logits_processors",
    "enable_prompt_adapter max_prompt_adapters max_prompt_adapter_token": "prompt adapters are gone, use LoRA",
    "qlora_adapter_name_or_path": "use lora_config.dynamic_lora_loading_path",
    "enable_lora_bias": "LoRA biases are gone",
    "lora_extra_vocab_size": "adapters cannot add vocabulary any more",
    "long_lora_scaling_factors": "long-context LoRA is gone",
    "disable_mm_preprocessor_cache": "see mm_processor_cache_gb",
    "override_neuron_config": "it went to the Neuron plugin",
    "override_pooler_config": "see pooler_config",
    "task": "this library generates text",
    "disable_logprobs_during_spec_decoding": "log probabilities come with speculation now",
    "speculative_disable_mqa_scorer": "it has no counterpart",
    "spec_decoding_acceptance_method": "rejection sampling is always used",
    "typical_acceptance_sampler_posterior_threshold": "rejection sampling is always used",
    "typical_acceptance_sampler_posterior_alpha": "rejection sampling is always used",
    "vllm_use_ray_spmd_worker VLLM_USE_RAY_SPMD_WORKER": _RAY_WORKER,  # a variable that people also put here
}
DROPPED = {name: why for names, why in _GONE.items() for name in names.split()}

_SPECULATIVE = {  # their names in speculative_config; None: it has no such key
    "speculative_model": "model",
    "num_speculative_tokens": "num_speculative_tokens",
    "speculative_model_quantization": "quantization",
    "speculative_draft_tensor_parallel_size": "draft_tensor_parallel_size",
    "speculative_max_model_len": "max_model_len",
    "speculative_disable_by_batch_size": None,
    "ngram_prompt_lookup_max": "prompt_lookup_max",
    "ngram_prompt_lookup_min": "prompt_lookup_min",
}


def translate(kwargs: Kwargs, env_vars: dict[Any, Any]) -> list[str]:
    """Bring engine_kwargs and environment of 2024 up to date, in place; one note for each setting that changed."""
    notes = []
    given = dict(env_vars)
    env_vars.clear()
    for name, value in given.items():
        upper = str(name).upper()
        if name != upper:  # the original upper-cased names, so configs of its time have them in lower case
            notes.append(f"environment variable {name}: upper-cased to {upper}")
        env_vars[upper] = value  # of two spellings the later one counts, which is the override's
    for name, became in _ENV.items():
        if (value := env_vars.pop(name, None)) is not None:
            notes.append(f"environment variable {name}: {_became(became, value, kwargs)}")
    old = [key for key in kwargs if key not in engine_args.known_fields()]
    if speculative := {key: kwargs.pop(key) for key in old if key in _SPECULATIVE}:
        notes.append(_speculative(speculative, kwargs))
    for key in old:
        if what := DROPPED.get(key) or _TRANSLATED.get(key):
            notes.append(f"{key}: {_became(what, kwargs.pop(key), kwargs)}")
    return notes


def _became(what: str | Translation, value: Any, kwargs: Kwargs) -> str:
    return f"dropped: {what}" if isinstance(what, str) else what(value, kwargs)


def _speculative(given: Kwargs, kwargs: Kwargs) -> str:
    wanted = {new: value for old, value in given.items() if (new := _SPECULATIVE[old]) and value is not None}
    if wanted.get("model") in ("[ngram]", "ngram"):
        wanted.pop("model")
        wanted["method"] = "ngram"
    names = ", ".join(given)
    if not wanted.keys() & {"model", "method"}:
        return f"{names}: dropped: without speculative_model they had no effect"
    kwargs.setdefault("speculative_config", wanted)
    gone = [f" ({key} has no counterpart)" for key in given if _SPECULATIVE[key] is None]
    return f"{names}: now one dict, speculative_config{''.join(gone)}"


def _attention_backend(value: Any, kwargs: Kwargs) -> str:
    if "attention_backend" not in engine_args.known_fields():
        return "dropped: this vLLM chooses the attention backend by itself"
    backend = str(value).upper()
    if backend in ("XFORMERS", "TORCH_SDPA", "ROCM_FLASH"):
        return f"dropped: the backend {value} is gone, vLLM chooses one"
    kwargs.setdefault("attention_backend", backend)
    return f"now the engine setting attention_backend: {kwargs['attention_backend']}"


def _switch(setting: str, on: Any, value: Any, kwargs: Kwargs) -> str:
    if str(value).strip().lower() in ("", "0", "false", "no", "none"):
        return f"dropped: it was off (see {setting})"
    kwargs.setdefault(setting, on)
    return f"now the engine setting {setting}: {kwargs[setting]}"


def _guided_backend(value: Any, kwargs: Kwargs) -> str:
    backend = str(value).split(":")[0].replace("lm-format-enforcer", "auto")  # which is gone
    kwargs.setdefault("structured_outputs_config", {"backend": backend})
    return f"now structured_outputs_config: {{backend: {backend}}}"


def _hf_override(name: str, value: Any, kwargs: Kwargs) -> str:
    if value is None:
        return "dropped: it was not set"
    if isinstance(overrides := kwargs.get("hf_overrides") or {}, dict):
        kwargs["hf_overrides"] = {name: value, **overrides}
    return f"now hf_overrides: {{{name}: ...}}"


_TRANSLATED: dict[str, Translation] = {
    "worker_use_ray": functools.partial(_switch, "distributed_executor_backend", "ray"),
    "guided_decoding_backend": _guided_backend,
    "rope_scaling": functools.partial(_hf_override, "rope_scaling"),
    "rope_theta": functools.partial(_hf_override, "rope_theta"),
}
_ENV: dict[str, str | Translation] = {
    "VLLM_ATTENTION_BACKEND": _attention_backend,
    "ENABLE_ANYSCALE_PREFIX_OPTIMIZATIONS": functools.partial(_switch, "enable_prefix_caching", True),
    "VLLM_USE_RAY_SPMD_WORKER": _RAY_WORKER,
    "VLLM_USE_RAY_COMPILED_DAG": _RAY_WORKER,
    "VLLM_USE_V1": "the V1 engine is the only one",
    "VLLM_ALLOW_DEPRECATED_BLOCK_MANAGER_V1": _BLOCK_MANAGER,
    "VLLM_USE_FLASHINFER_REJECTION_SAMPLER": "it has no counterpart",
}
