"""What a model's config.json contradicts, before an engine starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rayllm_batch import init_engine_from_config
from rayllm_batch.errors import ConfigError
from rayllm_batch.run.model_check import ModelFacts
from rayllm_batch.run.model_limits import check_limits

LLAMA = {"model_type": "llama", "max_position_embeddings": 8192, "num_attention_heads": 24}


def check(
    model: dict[str, Any] = LLAMA, folder: Path | None = None, env: Any = None, engine: str = "vllm", **kwargs: Any
) -> None:
    given = {"model_id": "org/m", "llm_engine": engine, "accelerator_type": "H100", "engine_kwargs": kwargs}
    config = init_engine_from_config({**given, "runtime_env": {"env_vars": env or {}}})
    check_limits(config, ModelFacts(model, folder=folder))


def refusal(*args: Any, **kwargs: Any) -> str:
    with pytest.raises(ConfigError) as refused:
        check(*args, **kwargs)
    return str(refused.value)


def test_what_fits(tmp_path: Path) -> None:
    check(max_model_len=8192, tensor_parallel_size=8, quantization="fp8", folder=tmp_path)
    check(max_model_len=-1, tensor_parallel_size=None)
    check({}, max_model_len=10**6, tensor_parallel_size=7, quantization="awq")


def test_longer_than_its_positions() -> None:
    assert "max_model_len=32,000 is more than the 8,192 positions of org/m" in refusal(max_model_len="32k")
    assert refusal({"text_config": LLAMA}, max_model_len=8193)
    scaled = {"rope_type": "llama3", "factor": 8.0}
    assert refusal({**LLAMA, "rope_scaling": scaled}, max_model_len=8193), "its factor is in its positions already"


@pytest.mark.parametrize(
    "more",
    [
        {"rope_scaling": {"type": "yarn", "factor": 4.0}},
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0}},
        {"model_max_length": 131072},
        {"model_type": "something_new"},
    ],
)
def test_positions_that_are_scaled_or_not_known(more: dict[str, Any]) -> None:
    check({**LLAMA, **more}, max_model_len=10_000)


def test_where_more_was_asked_for() -> None:
    check(max_model_len=10_000, env={"VLLM_ALLOW_LONG_MAX_MODEL_LEN": 1})
    check(max_model_len=10_000, hf_overrides={"max_position_embeddings": 16384})
    check(max_model_len=10_000, engine="echo")


def test_heads_that_cannot_be_split() -> None:
    assert "divide the 24 attention heads of org/m. Set it to one of 1, 2, 3, 4, 6, 8, 12." in refusal(
        tensor_parallel_size=16
    )


def test_weights_that_were_not_quantized(tmp_path: Path) -> None:
    said = refusal(quantization="AWQ", folder=tmp_path, tensor_parallel_size=5)
    assert "quantization: AWQ is for weights that were quantized so" in said and "tensor_parallel_size=5" in said
    check({**LLAMA, "quantization_config": {"quant_method": "awq"}}, quantization="awq", folder=tmp_path)
    (tmp_path / "quantize_config.json").touch()
    check(quantization="gptq", folder=tmp_path)
