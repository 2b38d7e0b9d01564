"""The first rows' prompts, made on the driver as the run will make them: what is refused is known before."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, Optional

from rayllm_batch.config import EngineConfig
from rayllm_batch.errors import ConfigError
from rayllm_batch.media.rules import MediaRules
from rayllm_batch.model.hub import is_local
from rayllm_batch.run.adapters import NO_ADAPTERS, Found
from rayllm_batch.run.model_check import ModelFacts, longest, text_config
from rayllm_batch.run.rows import Rows
from rayllm_batch.tasks.base import Task
from rayllm_batch.workers.media_prompts import Gone, MediaPrompts
from rayllm_batch.workers.prompts import PromptJob, fill
from rayllm_batch.workers.tokenizer import beyond_vocabulary, pooled_too_long

TOO_LONG = " tokens, but "  # in such a row's error
OWN_RULES = MediaRules()  # where a workload says nothing
log = logging.getLogger("rayllm_batch")


def check_first_prompts(
    config: EngineConfig, facts: ModelFacts, rows: Rows, adapters: Found = NO_ADAPTERS, rules: MediaRules = OWN_RULES
) -> list[str]:
    """The errors of the first rows, those that parse_row fails on too. Raises ConfigError where none can be answered.

    Not where some are too long, or without their media: others may be otherwise. Rows that come with token ids need no
    tokenizer. Where this machine has no tokenizer of the model, nothing is known.
    """
    failed = [*rows.failed, *_errors(config, facts, rows.chats, rows.task, adapters=adapters, rules=rules)]
    tried = len(rows.chats) + len(rows.failed)
    if tried and len(failed) == tried and not rows.task.rows_may_all_fail:
        of_rows = [kind for error in failed if (kind := _of_the_row(error))]
        if not of_rows:
            raise ConfigError(f"None of the first {tried} row(s) can be answered. The first: {failed[0]}")
        what, mend = kind = of_rows[0]
        chats, _ = rows.others()
        too = sum(_of_the_row(error) == kind for error in _errors(config, facts, chats, rows.task, rules=rules))
        log.warning(
            "%d of the first %d row(s) are %s%s. The first: %s. %s",
            of_rows.count(kind),
            tried,
            what,
            f", and so are {too} of {len(chats)} further ones" if chats else "",
            next(error for error in failed if _of_the_row(error) == kind).rstrip("."),
            mend,
        )
    return failed


def _of_the_row(error: str) -> Optional[tuple[str, str]]:
    """What its row is, and what may be done, where others may be otherwise; None where the job is the reason."""
    if TOO_LONG in error:
        return "too long to be answered", "Shorten them in parse_row, or use a longer max_model_len or another model."
    return ("without their media", "Each gets its error, and the run goes on.") if isinstance(error, Gone) else None


def _errors(
    config: EngineConfig,
    facts: ModelFacts,
    chats: Sequence[dict[str, Any]],
    task: Task,
    *,
    adapters: Found = NO_ADAPTERS,
    rules: MediaRules = OWN_RULES,
) -> list[str]:
    """Of the chats that cannot be answered. rules: what of their media may be read, and is, to know what it takes."""
    rows = [dict(chat) for chat in chats]
    ids: list[Any] = [row.get("prompt_token_ids") for row in rows]
    prompts = [row.get("messages") or row.get("prompt") for row in rows]
    errors: list[Optional[str]] = [None] * len(ids)
    if task.pools or any(prompts):
        if (job := _job(config, facts, task, rules)) is None:
            return []
        if task.pools:
            from rayllm_batch.workers import pooled_prompts  # which travels only with such a task

            pooled_prompts.fill(rows, ids, errors, job)
        else:
            tools, how = ([row.get(key) for row in rows] for key in ("tools", "chat_template_kwargs"))
            fill(ids, prompts, errors, job, tools, how)
        with_media = [(i, row["media"]) for i, row in enumerate(rows) if row.get("media") and errors[i] is None]
        for i, found in job.media.read(with_media, job) if with_media else ():
            if isinstance(found, str):
                errors[i] = found
            else:
                rows[i]["media_tokens"] = sum(medium["tokens"] for medium in found)
    for i, one in enumerate(ids):
        if errors[i] is None and one is not None:
            errors[i] = _does_not_fit(one, rows[i], config, facts, task)
    for i, row in enumerate(rows):
        its = adapters.get(row.get("model") or "")
        if errors[i] is None and isinstance(its, str):
            errors[i] = f"engine: {its}"
    return [error for error in errors if error is not None]


def _job(config: EngineConfig, facts: ModelFacts, task: Task, rules: MediaRules) -> Optional[PromptJob]:
    """None where the run's tokenizer is not on this machine, or nothing that reads it."""
    media = MediaPrompts.of(config, rules, str(facts.folder or config.model_id))
    if config.engine_kind.tokenizes:
        return PromptJob(parse_row=dict, tokenizer="", as_text=True, media=media)
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
        task=task,
        media=media,
    )


def _does_not_fit(
    ids: Sequence[int], row: dict[str, Any], config: EngineConfig, facts: ModelFacts, task: Task
) -> Optional[str]:
    length, vocabulary = longest(config, facts), text_config(facts.config).get("vocab_size")
    if task.pools:
        tokens = max(task.lengths_of_prompts(task.own_text(row), len(ids)))
        if length is not None and tokens > length:
            return f"tokenize: {pooled_too_long(tokens, length)}"
    elif length is not None and length <= len(ids) + row.get("media_tokens", 0):
        tokens = len(ids) + row.get("media_tokens", 0)
        whose = "max_model_len" if config.engine_kwargs.get("max_model_len") else "the model's context"
        return f"tokenize: the prompt has {tokens:,} tokens, but {whose} is {length:,} (prompt and answer together)"
    is_known = isinstance(vocabulary, int) and config.engine_kind.needs_model
    return beyond_vocabulary(ids, vocabulary) if is_known else None
