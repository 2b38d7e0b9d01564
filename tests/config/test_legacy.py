"""Configs written for 2024's vLLM: they load, and one warning says what became of each setting."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from rayllm_batch import init_engine_from_config
from rayllm_batch.config import EngineConfig, legacy
from rayllm_batch.engine import engine_args
from rayllm_batch.engine.vllm_fields import ENGINE_FIELDS
from rayllm_batch.errors import ConfigError

CONFIG_OF_2024 = """
model_id: meta-llama/Meta-Llama-3.1-8B-Instruct
llm_engine: vllm
accelerator_type: A10G
engine_kwargs:
  tensor_parallel_size: 1
  max_num_seqs: 64
  max_model_len: 8192
  use_v2_block_manager: true
  enable_prefix_caching: false
  preemption_mode: recompute
  max_seq_len_to_capture: 8192
  swap_space: 4
  num_scheduler_steps: 8
  multi_step_stream_outputs: false
  disable_log_requests: true
  worker_use_ray: true
  guided_decoding_backend: outlines
  rope_scaling: {rope_type: dynamic, factor: 2.0}
  rope_theta: 500000.0
  speculative_model: "[ngram]"
  num_speculative_tokens: 5
  ngram_prompt_lookup_max: 4
  speculative_disable_by_batch_size: 32
runtime_env:
  env_vars:
    VLLM_ATTENTION_BACKEND: FLASHINFER
    ENABLE_ANYSCALE_PREFIX_OPTIMIZATIONS: 1
    vllm_use_ray_spmd_worker: 1
    VLLM_USE_RAY_COMPILED_DAG: true
    VLLM_USE_V1: 0
    NCCL_DEBUG: WARN
    SOME_SHARE: 0.5
"""
KEPT = {"tensor_parallel_size": 1, "max_num_seqs": 64, "max_model_len": 8192, "enable_prefix_caching": False}


def load(
    engine_kwargs: dict[str, Any] | None = None, env_vars: dict[str, Any] | None = None, **keys: Any
) -> tuple[EngineConfig, list[str]]:
    """The config and the lines of its one warning; none where nothing was touched."""
    raw = {
        "model_id": "org/model",
        "llm_engine": "vllm",
        "accelerator_type": "A10G",
        "engine_kwargs": engine_kwargs or {},
        **keys,
    }
    if env_vars is not None:
        raw["runtime_env"] = {"env_vars": env_vars}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        config = init_engine_from_config(raw)
    assert len(caught) <= 1, "one warning, however many settings"
    return config, str(caught[0].message).splitlines()[1:] if caught else []


def test_a_whole_config_of_2024(tmp_path: Path) -> None:
    path = tmp_path / "llama-3.1-8b-a10g.yaml"
    path.write_text(CONFIG_OF_2024)
    with pytest.warns() as caught:
        config = init_engine_from_config(path)
    [warning] = caught
    assert warning.filename == __file__, "it points at the caller's line"
    heading, *notes = str(warning.message).splitlines()
    assert str(path) in heading
    changed = [
        "use_v2_block_manager",
        "preemption_mode",
        "max_seq_len_to_capture",
        "swap_space",
        "num_scheduler_steps",
        "multi_step_stream_outputs",
        "disable_log_requests",
        "worker_use_ray",
        "guided_decoding_backend",
        "rope_scaling",
        "rope_theta",
        "speculative_model",
        "num_speculative_tokens",
        "ngram_prompt_lookup_max",
        "speculative_disable_by_batch_size",
        "VLLM_ATTENTION_BACKEND",
        "ENABLE_ANYSCALE_PREFIX_OPTIMIZATIONS",
        "vllm_use_ray_spmd_worker",
        "VLLM_USE_RAY_COMPILED_DAG",
        "VLLM_USE_V1",
    ]
    for name in changed:
        assert any(
            name in note and (": dropped: " in note or ": now " in note or "upper-cased" in note) for note in notes
        ), name
    for name in [*KEPT, "NCCL_DEBUG", "SOME_SHARE"]:
        assert not any(note.startswith((f"  - {name}:", f"  - environment variable {name}:")) for note in notes), name
    assert config.engine_kwargs == {
        **KEPT,  # enable_prefix_caching: false as given, over what the variable would have set
        "attention_backend": "FLASHINFER",
        "distributed_executor_backend": "ray",
        "structured_outputs_config": {"backend": "outlines"},
        "hf_overrides": {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}, "rope_theta": 500000.0},
        "speculative_config": {"method": "ngram", "num_speculative_tokens": 5, "prompt_lookup_max": 4},
    }
    assert config.env_vars == {"NCCL_DEBUG": "WARN", "SOME_SHARE": "0.5"}


def test_a_config_of_today_is_left_alone() -> None:
    config, notes = load({"max_num_seqs": 4, "attention_backend": "FLASH_ATTN"}, {"NCCL_DEBUG": "WARN"})
    assert notes == [] and config.engine_kwargs == {"max_num_seqs": 4, "attention_backend": "FLASH_ATTN"}


# --- the tables, against the vLLM that is installed and the list that is shipped


@pytest.mark.parametrize("fields", [engine_args.known_fields(), ENGINE_FIELDS], ids=["known", "shipped"])
def test_nothing_is_looked_up_that_vllm_still_has(fields: tuple[str, ...]) -> None:
    assert not set(fields) & {*legacy.DROPPED, *legacy._TRANSLATED, *legacy._SPECULATIVE}, "the table is stale"


def test_a_setting_that_vllm_has_is_never_translated(monkeypatch: pytest.MonkeyPatch) -> None:
    old = ("preemption_mode", "rope_theta", "num_speculative_tokens")
    monkeypatch.setattr(engine_args, "known_fields", lambda: (*ENGINE_FIELDS, *old))
    config, notes = load(dict.fromkeys(old, 1))
    assert notes == [] and config.engine_kwargs == dict.fromkeys(old, 1)


@pytest.mark.parametrize("key", sorted(legacy.DROPPED))
def test_dropped(key: str) -> None:
    config, [note] = load({key: 1, "max_num_seqs": 4})
    assert config.engine_kwargs == {"max_num_seqs": 4}
    assert f"{key}: dropped: " in note


@pytest.mark.parametrize(
    ("engine_kwargs", "env_vars"),
    [
        ({"worker_use_ray": True}, {}),
        ({"guided_decoding_backend": "xgrammar:no-fallback"}, {}),
        ({"guided_decoding_backend": "lm-format-enforcer"}, {}),
        ({"rope_scaling": {"factor": 2}}, {}),
        ({"rope_theta": 1.0}, {}),
        ({"speculative_model": "org/draft", "num_speculative_tokens": 3}, {}),
        ({}, {"VLLM_ATTENTION_BACKEND": "FLASHINFER"}),
        ({}, {"ENABLE_ANYSCALE_PREFIX_OPTIMIZATIONS": "1"}),
    ],
)
def test_what_a_setting_became_is_one_that_vllm_has(engine_kwargs: dict[str, Any], env_vars: dict[str, Any]) -> None:
    config, notes = load(engine_kwargs, env_vars)
    assert len(notes) == 1 and "now " in notes[0]
    [became] = config.engine_kwargs
    assert became in engine_args.known_fields() and became in ENGINE_FIELDS and became in notes[0]
    assert config.env_vars == {}


# --- one by one


@pytest.mark.parametrize(
    ("engine_kwargs", "became"),
    [
        ({"worker_use_ray": True}, {"distributed_executor_backend": "ray"}),
        ({"worker_use_ray": False}, {}),
        ({"worker_use_ray": "0"}, {}),
        ({"worker_use_ray": True, "distributed_executor_backend": "mp"}, {"distributed_executor_backend": "mp"}),
        ({"guided_decoding_backend": "lm-format-enforcer"}, {"structured_outputs_config": {"backend": "auto"}}),
        ({"guided_decoding_backend": "xgrammar:x"}, {"structured_outputs_config": {"backend": "xgrammar"}}),
        ({"rope_theta": None}, {}),
        ({"rope_theta": 2.0, "hf_overrides": None}, {"hf_overrides": {"rope_theta": 2.0}}),
        ({"rope_theta": 2.0, "hf_overrides": {"rope_theta": 1.0}}, {"hf_overrides": {"rope_theta": 1.0}}),
        (
            {"speculative_model": "ngram", "num_speculative_tokens": 2},
            {"speculative_config": {"method": "ngram", "num_speculative_tokens": 2}},
        ),
        (
            {
                "speculative_model": "org/d",
                "speculative_draft_tensor_parallel_size": 1,
                "speculative_max_model_len": None,
            },
            {"speculative_config": {"model": "org/d", "draft_tensor_parallel_size": 1}},
        ),
        ({"speculative_model": None, "num_speculative_tokens": 2}, {}),
        ({"speculative_disable_by_batch_size": 4}, {}),
        ({"VLLM_USE_RAY_SPMD_WORKER": 1}, {}),
        ({"vllm_use_ray_spmd_worker": True}, {}),
    ],
)
def test_engine_setting(engine_kwargs: dict[str, Any], became: dict[str, Any]) -> None:
    config, notes = load(engine_kwargs)
    assert config.engine_kwargs == became
    assert len(notes) == 1 and ("dropped" in notes[0]) == (became == {})


@pytest.mark.parametrize(
    ("name", "value", "became"),
    [
        ("VLLM_ATTENTION_BACKEND", "FLASHINFER", {"attention_backend": "FLASHINFER"}),
        ("vllm_attention_backend", "flash_attn", {"attention_backend": "FLASH_ATTN"}),
        ("VLLM_ATTENTION_BACKEND", "XFORMERS", {}),
        ("ENABLE_ANYSCALE_PREFIX_OPTIMIZATIONS", 1, {"enable_prefix_caching": True}),
        ("ENABLE_ANYSCALE_PREFIX_OPTIMIZATIONS", "true", {"enable_prefix_caching": True}),
        ("ENABLE_ANYSCALE_PREFIX_OPTIMIZATIONS", 0, {}),
        ("enable_anyscale_prefix_optimizations", "False", {}),
        ("VLLM_USE_RAY_SPMD_WORKER", "1", {}),
        ("VLLM_USE_RAY_COMPILED_DAG", 1, {}),
        ("VLLM_USE_V1", 1, {}),
    ],
)
def test_environment_variable(name: str, value: Any, became: dict[str, Any]) -> None:
    config, notes = load({}, {name: value})
    assert config.engine_kwargs == became and config.env_vars == {}
    assert any(f"{name.upper()}: {'now' if became else 'dropped'}" in note for note in notes)
    assert any("upper-cased" in note for note in notes) == (name != name.upper())


@pytest.mark.parametrize("name", ["VLLM_ATTENTION_BACKEND", "ENABLE_ANYSCALE_PREFIX_OPTIMIZATIONS"])
def test_environment_variable_without_a_value(name: str) -> None:
    config, notes = load({}, {name: None})
    assert config.engine_kwargs == {} and config.env_vars == {} and notes == []


def test_the_engine_setting_counts_over_the_variable() -> None:
    config, [note] = load({"attention_backend": "FLASH_ATTN"}, {"VLLM_ATTENTION_BACKEND": "FLASHINFER"})
    assert config.engine_kwargs == {"attention_backend": "FLASH_ATTN"} and "FLASH_ATTN" in note


def test_a_vllm_without_that_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = tuple(field for field in ENGINE_FIELDS if field != "attention_backend")
    monkeypatch.setattr(engine_args, "known_fields", lambda: fields)
    config, [note] = load({}, {"VLLM_ATTENTION_BACKEND": "FLASHINFER"})
    assert config.engine_kwargs == {} and "dropped" in note


def test_without_engine_kwargs() -> None:
    config, _ = load(env_vars={"ENABLE_ANYSCALE_PREFIX_OPTIMIZATIONS": 1}, engine_kwargs=None)
    assert config.engine_kwargs == {"enable_prefix_caching": True}


def test_a_config_of_2024_can_be_rehearsed_on_the_echo_engine() -> None:
    config, notes = load({"use_v2_block_manager": True, "max_num_seqs": 4}, {"VLLM_USE_V1": 0}, llm_engine="echo")
    assert config.engine_kwargs == {"max_num_seqs": 4} and len(notes) == 2


def test_a_key_of_neither_time_is_refused() -> None:
    with pytest.raises(ConfigError, match="preemption_mod"):
        load({"preemption_mod": "swap"})
