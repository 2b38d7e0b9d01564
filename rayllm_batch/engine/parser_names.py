"""Which of vLLM's parsers read what a model says: thoughts and calls of tools. Known without importing vLLM."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

from rayllm_batch.engine.vllm_versions import source_of
from rayllm_batch.errors import ConfigError, did_you_mean

# Settings of the engine. vLLM's engine has the first among its arguments; the second, its server alone.
PARSERS = ("reasoning_parser", "tool_parser")
# Where vLLM has their names, as the keys of a dict. A plugin adds others, which only its code knows.
_LISTS = {
    "reasoning_parser": ("reasoning/__init__.py", "_REASONING_PARSERS_TO_REGISTER"),
    "tool_parser": ("tool_parsers/__init__.py", "_TOOL_PARSERS_TO_REGISTER"),
}
# Of a model's id and its config.json's model_type, in small letters with "-" for "_": what it wants of PARSERS.
# The first that fits, as vLLM's documentation and the models' cards have them.
_OF_MODELS = {
    r"gpt-oss": ("openai_gptoss", "openai"),
    r"deepseek-v3\.1": ("deepseek_v3", "deepseek_v31"),
    r"deepseek-r1-distill": ("deepseek_r1", None),
    r"deepseek-r1": ("deepseek_r1", "deepseek_v3"),
    r"qwen3-coder": (None, "qwen3_coder"),
    r"qwen3\.5": ("qwen3", "qwen3_coder"),
    r"qwen3.*instruct-2507": (None, "hermes"),
    r"qwq": ("deepseek_r1", "hermes"),
    r"qwen-?3": ("qwen3", "hermes"),
    r"qwen-?2|hermes-?[23]": (None, "hermes"),
    r"llama-?4": (None, "llama4_pythonic"),
    r"llama-3\.[1-3]": (None, "llama3_json"),
    r"magistral": ("mistral", "mistral"),
    r"mistral|ministral|mixtral": (None, "mistral"),
    r"granite-?4": (None, "granite4"),
    r"granite-?3": ("granite", "granite"),
    r"glm-?4\.?7": ("glm47", "glm47"),
    r"glm-?4[.-]?(5|6|moe)": ("glm45", "glm45"),
    r"kimi-k2": ("kimi_k2", "kimi_k2"),
    r"minimax-m2": ("minimax_m2", "minimax_m2"),
    r"gemma-?4": ("gemma4", "gemma4"),
    r"seed-oss": ("seed_oss", "seed_oss"),
    r"phi-?4-mini": (None, "phi4_mini_json"),
}


def registered(setting: str) -> tuple[str, ...]:
    """The names that the installed vLLM has for one of PARSERS; empty where it has none, or another shape."""
    path, name = _LISTS[setting]
    source = source_of(path)
    for node in ast.parse(source.read_text(encoding="utf-8") if source else "").body:
        if isinstance(node, ast.Assign) and name in map(ast.unparse, node.targets) and isinstance(node.value, ast.Dict):
            return tuple(sorted(ast.literal_eval(key) for key in node.value.keys if key is not None))
    return ()


def own_parsers(*model: Any) -> dict[str, str]:
    """Of PARSERS, those that a model is known to want. model: its id, and its config.json's model_type."""
    known_as = " ".join(map(str, model)).lower().replace("_", "-")
    wanted = next((wanted for form, wanted in _OF_MODELS.items() if re.search(form, known_as)), (None, None))
    return {
        setting: name
        for setting, name in zip(PARSERS, wanted, strict=True)
        if name and name in (registered(setting) or (name,))
    }


def check(engine_kwargs: Mapping[str, Any], source: str, model: str) -> None:
    """Raise ConfigError for a parser that the installed vLLM does not have."""
    for setting in PARSERS:
        given = engine_kwargs.get(setting)
        if not given or setting == "reasoning_parser" and engine_kwargs.get("reasoning_parser_plugin"):
            continue
        if not isinstance(given, str):
            raise ConfigError(f"{setting} in {source} must be the name of one of vLLM's parsers, given {given!r}.")
        if (names := registered(setting)) and given not in names:
            near = did_you_mean(given, names)
            if own := own_parsers(model).get(setting):
                near = f" This model's is {own!r}."
            raise ConfigError(
                f"{setting} in {source} must be one that the installed vLLM has, given {given!r}.{near} There are: "
                f"{', '.join(names)}."
            )
