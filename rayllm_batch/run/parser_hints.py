"""A model that thinks, or rows with tools, and no parser for them: said before the start, with this model's own."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

from rayllm_batch.config import EngineConfig
from rayllm_batch.engine.parser_names import own_parsers
from rayllm_batch.model.folder import read_object
from rayllm_batch.run.model_check import ModelFacts
from rayllm_batch.tasks.generate import NO_TOOL_PARSER

# What templates write that begin thoughts, or leave a place for them in what comes back.
THINKS = re.compile(r"</think>|\[THINK\]|<\|channel\|>analysis|<seed:think>")
NO_THOUGHTS = ("enable_thinking", "thinking")  # variables of templates that turn them off

log = logging.getLogger("rayllm_batch")


def hint_at_parsers(config: EngineConfig, facts: ModelFacts, refused: Sequence[str]) -> None:
    """Log what is missing. refused: what the first rows' errors say, or those of reading them."""
    own = own_parsers(config.model_id, facts.config.get("model_type"))
    named = {setting: f"{setting}: {name}" for setting, name in own.items()}
    if any(NO_TOOL_PARSER in error for error in refused) and "tool_parser" in own:
        log.warning(
            "The rows have tools. Set under engine_kwargs what reads this model's calls: %s", named["tool_parser"]
        )
    is_off = any(config.chat_template_kwargs.get(name) is False for name in NO_THOUGHTS)
    is_read = is_off or config.engine_kwargs.get("reasoning_parser") or not config.engine_kind.needs_vllm
    if not is_read and THINKS.search(config.chat_template or _template(facts)):
        log.warning(
            "This model may think before it answers (its chat template has a place for that), and generated_text will "
            "hold its thoughts too. For a column of their own, set %s under engine_kwargs.",
            named.get("reasoning_parser", "reasoning_parser"),
        )


def _template(facts: ModelFacts) -> str:
    if facts.folder is None:
        return ""
    file = facts.folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8", errors="replace")
    return str(read_object(facts.folder / "tokenizer_config.json").get("chat_template") or "")
