"""Everything that can be known to be wrong before an engine starts, in one list."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Optional, TypeVar

from rayllm_batch.cluster import resources
from rayllm_batch.cluster.versions import check_versions, runs_here
from rayllm_batch.config import EngineConfig
from rayllm_batch.errors import HubUnavailableError, PreflightError
from rayllm_batch.model.hub import check_model_access, find_token
from rayllm_batch.output.folder import OutputFolder
from rayllm_batch.run.adapters import Found, look_at_adapters
from rayllm_batch.run.first_prompts import check_first_prompts
from rayllm_batch.run.forms import with_backend
from rayllm_batch.run.model_check import (
    ModelFacts,
    check_chat_template,
    check_disk,
    check_files,
    check_memory,
    check_parallel,
    look_at,
    text_config,
)
from rayllm_batch.run.model_limits import check_limits
from rayllm_batch.run.node_files import missing_on_nodes
from rayllm_batch.run.output_room import check_output_room
from rayllm_batch.run.parser_hints import hint_at_parsers
from rayllm_batch.run.rows import Rows, read_rows
from rayllm_batch.tasks.base import Task
from rayllm_batch.workload.base import media_rules

T = TypeVar("T")
log = logging.getLogger("rayllm_batch")


@dataclass(frozen=True)
class Ready:
    """What the checks found out and the run needs. token: "" where the model needs none.

    unanswered: the errors of those of the first rows that cannot be answered. config: with what the rows ask of it.
    adapters: see adapters.py.
    """

    token: str
    rows: Rows
    facts: ModelFacts
    unanswered: tuple[str, ...]
    config: EngineConfig
    adapters: Found


def preflight(
    config: EngineConfig,
    workload: Any,
    num_replicas: int,
    preserve_order: bool = False,
    id_column: Optional[str] = None,
    *,
    folder: Optional[OutputFolder] = None,
    task: Optional[Task] = None,
) -> Ready:
    """Raises the error that was found, or PreflightError with all of them. folder: where the answers go, if to one."""
    found: list[Exception] = []

    def attempt(check: Callable[[], T]) -> Optional[T]:
        try:
            return check()
        except Exception as error:  # load_dataset is the user's code: what it raises must not hide the rest
            found.append(error)
            return None

    def passes(check: Callable[[], Any]) -> bool:
        before = len(found)
        attempt(check)
        return len(found) == before

    attempt(lambda: resources.check(config, num_replicas))
    attempt(lambda: check_versions(config))
    task = task or config.task_kind
    token, facts = _model_of(config, attempt)
    sound = facts is not None and (config.engine_kind.tokenizes or passes(lambda: check_files(config, facts)))
    of_kind = config.model_id, config.engine_kwargs, config.env_vars, task.settings
    attempt(lambda: config.engine_kind.check_before_start(*of_kind))
    if facts is not None and config.engine_kind.needs_model:
        attempt(lambda: check_parallel(config, facts))
        attempt(lambda: check_limits(config, facts))
        attempt(lambda: check_memory(config, facts))
        if attempt(lambda: runs_here(config)):  # else the download goes to other disks
            attempt(lambda: check_disk(config, facts))
    if facts is not None:  # what the columns are may follow from the model
        of_model = partial(task.of_model, facts.config, facts.folder, config.engine_kwargs)
        task = attempt(of_model) or task
    rows = None
    if resources.can_read():  # else `check` has said so, and to read would be to wait for ever
        rows = attempt(lambda: read_rows(workload, preserve_order, id_column, task))
    if facts is not None and _needs_a_template(rows, task):
        sound &= passes(lambda: check_chat_template(config, facts))
    if facts is not None and not task.pools:
        hint_at_parsers(config, facts, rows.failed if rows else [str(error) for error in found])
    unanswered = told = None
    adapters: Found = {}
    if rows is not None and config.engine_kind.needs_model:
        size = text_config(facts.config).get("hidden_size") if facts else None
        adapters = attempt(lambda: look_at_adapters(config, rows.chats, token or "", size)) or {}
    if sound and facts is not None and rows is not None:
        unanswered = attempt(lambda: check_first_prompts(config, facts, rows, adapters, media_rules(workload)))
    if rows is not None and not found:  # it takes some seconds, and a node with vLLM
        told = attempt(lambda: with_backend(config, rows.task, rows.chats))
    found += attempt(lambda: missing_on_nodes(config, rows.files if rows else {}, folder)) or []
    if folder is not None and rows is not None:
        attempt(lambda: check_output_room(folder, rows, workload))
    if len(found) == 1:
        raise found[0]
    if found:
        raise PreflightError(found)
    assert token is not None and rows and facts and told  # what failed is in `found`
    return Ready(token, rows, facts, tuple(unanswered or ()), told, adapters)


def _needs_a_template(rows: Optional[Rows], task: Task) -> bool:
    """Whether its lack would be the job's error, as far as is known, and not that of some rows."""
    chats = ["messages" in chat for chat in rows.chats] if rows else []
    if rows and rows.task.rows_may_all_fail:
        return bool(chats) and all(chats)
    return any(chats) if chats else not task.pools  # most of what pools gets a plain text


def _model_of(
    config: EngineConfig, attempt: Callable[[Callable[[], Any]], Any]
) -> tuple[Optional[str], Optional[ModelFacts]]:
    """The token that opens it, and what is known of it; of a model behind an endpoint, nothing is."""
    if config.engine_kind.tokenizes:
        return "", ModelFacts()
    token = attempt(lambda: hub_token(config))
    return token, None if token is None else attempt(lambda: look_at(config, token))


def hub_token(config: EngineConfig) -> str:
    """The token that opens the model, "" when none is needed; ModelAccessError before anything waits for a GPU.

    The config's own token comes first, then HF_TOKEN and huggingface_hub's store.
    """
    try:
        if config.hf_token:
            check_model_access(config.model_id, config.hf_token, source="the HF_TOKEN of the config")
            return config.hf_token
        return find_token(config.model_id)
    except HubUnavailableError as error:
        # The workers may have the model in their cache. Where they do not, they raise the same.
        log.warning("%s", error)
        return config.hf_token or ""
