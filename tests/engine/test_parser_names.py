"""The names of vLLM's parsers: read without importing it, checked, and suggested where the model is known."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from typing import Any

import pytest

from rayllm_batch import init_engine_from_config
from rayllm_batch.engine import parser_names
from rayllm_batch.engine.parser_names import own_parsers, registered
from rayllm_batch.errors import ConfigError

needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")


def config(model_id: str = "Qwen/Qwen3-8B", **engine_kwargs: Any) -> Any:
    kind = {"llm_engine": "vllm", "accelerator_type": "CPU"}
    return init_engine_from_config({"model_id": model_id, **kind, "engine_kwargs": engine_kwargs})


@needs_vllm
def test_names_are_read_without_importing_vllm() -> None:
    code = (
        "import sys; from rayllm_batch.engine.parser_names import registered\n"
        "print('hermes' in registered('tool_parser'), 'qwen3' in registered('reasoning_parser'), 'vllm' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["True", "True", "False"]


@pytest.mark.vllm
@needs_vllm
def test_the_names_are_those_that_vllm_has() -> None:
    from vllm.reasoning import ReasoningParserManager
    from vllm.tool_parsers import ToolParserManager

    assert set(registered("reasoning_parser")) == set(ReasoningParserManager.list_registered())
    assert set(registered("tool_parser")) == set(ToolParserManager.list_registered())
    suggested = {name for pair in parser_names._OF_MODELS.values() for name in pair if name}
    assert suggested <= {*registered("reasoning_parser"), *registered("tool_parser")}


@needs_vllm
def test_a_name_that_there_is_not() -> None:
    with pytest.raises(ConfigError, match=r"tool_parser in the config dict .* given 'hermess'\. Did you mean 'hermes'"):
        config("some/model", tool_parser="hermess")
    with pytest.raises(ConfigError, match=r"given 'qwen'\. This model's is 'qwen3'\. There are: .*deepseek_r1"):
        config(reasoning_parser="qwen")
    with pytest.raises(ConfigError, match=r"must be the name of one of vLLM's parsers, given \['hermes'\]"):
        config(tool_parser=["hermes"])
    with pytest.raises(ConfigError, match="Did you mean 'tool_parser'"):
        config(tool_call_parser="hermes")
    with pytest.raises(ConfigError, match="put it under engine_kwargs"):
        init_engine_from_config(
            {"model_id": "a/b", "llm_engine": "vllm", "accelerator_type": "CPU", "tool_parser": "hermes"}
        )


def test_names_that_there_are() -> None:
    given = {"reasoning_parser": "qwen3", "tool_parser": "hermes"}
    assert config(**given).engine_kwargs == given
    assert config(reasoning_parser="mine", reasoning_parser_plugin="mine.py"), "a plugin's is known to its code alone"
    assert config(reasoning_parser="", tool_parser=None), "none"


def test_without_vllm_any_name_may_be_right(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "vllm" else real(name, *rest))
    assert registered("tool_parser") == () and config(tool_parser="of_tomorrow")
    assert own_parsers("Qwen/Qwen3-8B") == {"reasoning_parser": "qwen3", "tool_parser": "hermes"}


@pytest.mark.parametrize(
    ("model", "reasoning", "tool"),
    [
        (("Qwen/Qwen3-8B", "qwen3"), "qwen3", "hermes"),
        (("/models/mine", "qwen3"), "qwen3", "hermes"),
        (("Qwen/Qwen3-30B-A3B-Instruct-2507", "qwen3_moe"), None, "hermes"),
        (("Qwen/Qwen3-Coder-30B-A3B-Instruct", "qwen3_moe"), None, "qwen3_coder"),
        (("Qwen/Qwen2.5-7B-Instruct", "qwen2"), None, "hermes"),
        (("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "qwen2"), "deepseek_r1", None),
        (("openai/gpt-oss-20b", "gpt_oss"), "openai_gptoss", "openai"),
        (("/models/mine", "gpt_oss"), "openai_gptoss", "openai"),
        (("NousResearch/Hermes-3-Llama-3.1-8B", "llama"), None, "hermes"),
        (("meta-llama/Llama-3.1-8B-Instruct", "llama"), None, "llama3_json"),
        (("meta-llama/Llama-4-Scout-17B-16E-Instruct", "llama4"), None, "llama4_pythonic"),
        (("zai-org/GLM-4.6", "glm4_moe"), "glm45", "glm45"),
        (("gpt2", None), None, None),
    ],
)
def test_what_a_model_is_known_to_want(model: tuple[str, str], reasoning: str | None, tool: str | None) -> None:
    wanted = {"reasoning_parser": reasoning, "tool_parser": tool}
    assert own_parsers(*model) == {setting: name for setting, name in wanted.items() if name}
