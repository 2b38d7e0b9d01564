"""The first rows' prompts, made on the driver as the run will make them: what is refused is known before."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, Optional

from rayllm_batch.config import EngineConfig
from rayllm_batch.errors import ConfigError
from rayllm_batch.model.hub import is_local
from rayllm_batch.run.model_check import ModelFacts, longest, text_config
from rayllm_batch.run.rows import Rows
from rayllm_batch.workers.prompts import PromptJob, fill
from rayllm_batch.workers.tokenizer import beyond_vocabulary

TOO_LONG = "(prompt and answer together)"  # the end of such a row's error
log = logging.getLogger("rayllm_batch")


def check_first_prompts(config: EngineConfig, facts: ModelFacts, rows: Rows) -> list[str]:
    """The errors of the first rows, those that parse_row fails on too. Raises ConfigError where none can be answered.

    Not where some are too long: others may be shorter. Rows that come with token ids need no tokenizer. Where this
    machine has no tokenizer of the model, nothing is known.
    """
    failed = [*rows.failed, *_errors(config, facts, rows.chats)]
    tried = len(rows.chats) + len(rows.failed)
    if tried and len(failed) == tried:
        if not (long := sum(TOO_LONG in error for error in failed)):
            raise ConfigError(f"None of the first {tried} row(s) can be answered. The first: {failed[0]}")
        chats, _ = rows.others()
        long_too = sum(TOO_LONG in error for error in _errors(config, facts, chats))
        log.warning(
            "%d of the first %d row(s) are too long to be answered%s. The first: %s. Shorten them in parse_row, or use "
            "a longer max_model_len or another model.",
            long,
            tried,
            f", and so are {long_too} of {len(chats)} further ones" if chats else "",
            next(error for error in failed if TOO_LONG in error),
        )
    return failed


def _errors(config: EngineConfig, facts: ModelFacts, chats: Sequence[dict[str, Any]]) -> list[str]:
    """Of the chats that cannot be answered."""
    ids: list[Any] = [chat.get("prompt_token_ids") for chat in chats]
    prompts = [chat.get("messages") or chat.get("prompt") for chat in chats]
    errors: list[Optional[str]] = [None] * len(ids)
    if any(prompts):
        if (job := _job(config, facts)) is None:
            return []
        fill(ids, prompts, errors, job, [chat.get("tools") for chat in chats])
    for i, one in enumerate(ids):
        if errors[i] is None and one is not None:
            errors[i] = _does_not_fit(one, config, facts)
    return [error for error in errors if error is not None]


def _job(config: EngineConfig, facts: ModelFacts) -> Optional[PromptJob]:
    """None where the run's tokenizer is not on this machine, or nothing that reads it."""
    if config.engine_kind.tokenizes:
        return PromptJob(parse_row=dict, tokenizer="", as_text=True)
    tokenizer = config.engine_kwargs.get("tokenizer") or facts.folder
    if tokenizer is None or not is_local(str(tokenizer)) or find_spec("transformers") is None:
        return None
    trust = {"trust_remote_code": True} if config.engine_kwargs.get("trust_remote_code") else {}
    return PromptJob(
        parse_row=dict,
        tokenizer=str(tokenizer),
        tokenizer_kwargs=trust,
        chat_template=config.chat_template,
        chat_template_kwargs=config.chat_template_kwargs,
    )


def _does_not_fit(ids: Sequence[int], config: EngineConfig, facts: ModelFacts) -> Optional[str]:
    length, vocabulary = longest(config, facts), text_config(facts.config).get("vocab_size")
    if length is not None and length <= len(ids):
        whose = "max_model_len" if config.engine_kwargs.get("max_model_len") else "the model's context"
        return f"tokenize: the prompt has {len(ids):,} tokens, but {whose} is {length:,} {TOO_LONG}"
    is_known = isinstance(vocabulary, int) and config.engine_kind.needs_model
    return beyond_vocabulary(ids, vocabulary) if is_known else None
