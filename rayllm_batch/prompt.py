"""The CPU stage: a row becomes a chat, the chat becomes text, the text becomes token ids; or it has them already.

It runs in Ray tasks before the engine, so that the engine's process does nothing but generate. An error of one
row goes into that row and the others go on.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Optional

import numpy as np
import pyarrow as pa

from rayllm_batch import output
from rayllm_batch.errors import RayLLMBatchError, one_line
from rayllm_batch.row_id import as_pairs, row_id
from rayllm_batch.tokenizer import chat_tokenizer

ENCODED_AT_ONCE = 64  # texts: enough for the tokenizer's threads; what it makes of a text takes some 100 KB until it is copied


@dataclass(frozen=True)
class PromptJob:
    """What every task of the stage gets.

    parse_row:     the workload's method; it travels by value, so it may come from a notebook cell.
    tokenizer:     a Hub id or a folder, with its `revision` and `trust_remote_code` in `tokenizer_kwargs`.
    monitor:       the RunMonitor's handle, for the environment (it may hold the Hub token).
    chat_template: replaces the tokenizer's own when given.
    with_row_ids:  each row gets its id, of `id_column` or else of all its content; for a run with an output folder.
    sort:          the rows of a batch come out in the order of their token ids, so that those with a common beginning
                   reach the engine one after the other, while its prefix cache holds it.
    finished:      an object of the Ray store: the RowCounts of rows that were finished before and are left out.
    """

    parse_row: Callable[[dict[str, Any]], dict[str, Any]]
    tokenizer: str
    tokenizer_kwargs: dict[str, Any] = field(default_factory=dict)
    monitor: Any = None
    chat_template: Optional[str] = None
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    sort: bool = False
    with_row_ids: bool = False
    id_column: Optional[str] = None
    finished: Any = None


def build_prompts(table: pa.Table, job: PromptJob) -> pa.Table:
    """A batch of input rows with their token ids, request settings (JSON) and errors appended."""
    marker = None
    if job.with_row_ids:
        table, marker = _without_finished(table, job)
    token_ids: list[Optional[np.ndarray]] = []
    messages: list[Optional[list[dict[str, Any]]]] = []
    requests: list[Optional[str]] = []
    errors: list[Optional[str]] = []
    for row in table.drop_columns([name for name in output.FOLDER_SCHEMA.names if name in table.column_names]).to_pylist():
        chat, request, error = {}, None, None
        try:
            chat = parse(job.parse_row, row)
            request = _request(chat)
        except Exception as problem:
            chat, error = {}, describe_parse_error(problem, row)
        token_ids.append(chat.get("prompt_token_ids"))
        messages.append(chat.get("messages"))
        requests.append(request)
        errors.append(error)
    if any(messages):
        _fill(token_ids, messages, errors, job)
    prompts = output.with_stage_columns(table, token_ids, requests, errors)
    if job.sort:
        order = sorted(range(len(token_ids)), key=lambda i: _sort_key(token_ids[i]))
        prompts = prompts.take(pa.array(order, type=pa.int64()))
    if marker is None:
        return prompts
    return pa.concat_tables([prompts, output.with_stage_columns(marker, [None], [None], [None])])


def _without_finished(table: pa.Table, job: PromptJob) -> tuple[pa.Table, Optional[pa.Table]]:
    """The rows that are left to do, with their ids, and the marker of those that are not, if there are any."""
    import ray

    ids = [row_id(row, job.id_column) for row in table.to_pylist()]
    table = output.with_row_ids(table, ids)
    if job.finished is None or not ids:
        return table, None
    done = ray.get(job.finished).find(as_pairs(b"".join(ids))) >= 0
    if not done.any():
        return table, None
    marker = output.finished_marker(table.schema, [ids[i] for i in done.nonzero()[0]])
    return table.filter(pa.array(~done)).cast(marker.schema), marker


def parse(parse_row: Callable[[dict[str, Any]], dict[str, Any]], row: dict[str, Any]) -> dict[str, Any]:
    """`parse_row`'s chat, checked: raises TypeError, showing what came back, when it is not one.

    `prompt_token_ids`, if it is there, is an array of shape (n,) of int32.
    """
    chat = parse_row(row)
    if not isinstance(chat, dict) or ("messages" in chat) == ("prompt_token_ids" in chat):
        raise TypeError(f'parse_row must return {{"messages": [...]}} or {{"prompt_token_ids": [...]}}, but returned {_shown(chat)}')
    if "prompt_token_ids" in chat:
        chat = {**chat, "prompt_token_ids": _checked_ids(chat["prompt_token_ids"])}
    else:
        _check_messages(chat["messages"])
    params = chat.get("sampling_params")
    if params is not None and not isinstance(params, dict):
        raise TypeError(f'parse_row\'s "sampling_params" must be a dict, but is {_shown(params)}')
    return chat


def _check_messages(messages: Any) -> None:
    if not isinstance(messages, (list, tuple)) or not messages:
        raise TypeError(f'parse_row\'s "messages" must be a list of at least one message, but is {_shown(messages)}')
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str) or "content" not in message:
            raise TypeError(f'each message must be {{"role": ..., "content": ...}}, but one is {_shown(message)}')
        if message["content"] is None or not isinstance(message["content"], (str, list)):
            raise TypeError(f"a message's content must be text, but is {_shown(message['content'])}")


def _checked_ids(given: Any) -> np.ndarray:
    try:
        ids = np.asarray(given)
    except ValueError:  # lists of different lengths in it
        ids = np.empty(0)
    if ids.ndim != 1 or ids.dtype.kind not in "iu" or not len(ids) or ids.min() < 0 or ids.max() > np.iinfo(np.int32).max:
        raise TypeError(f'parse_row\'s "prompt_token_ids" must be a list of at least one token id, whole numbers from 0, but is {_shown(given)}')
    return ids.astype(np.int32)


def describe_parse_error(error: Exception, row: dict[str, Any]) -> str:
    """`parse_row: KeyError: 'article' (the row has: id, text)`: enough to see which column was missing."""
    hint = f" (the row has: {', '.join(row)})" if isinstance(error, (KeyError, AttributeError)) else ""
    return f"parse_row: {one_line(error)}{hint}"


def _fill(
    token_ids: list[Optional[np.ndarray]], messages: list[Optional[list[dict[str, Any]]]], errors: list[Optional[str]], job: PromptJob
) -> None:
    """The token ids of the rows that have messages, or their errors."""
    try:
        tokenizer = chat_tokenizer(job)
    except RayLLMBatchError as error:
        _tell(job, error)
        raise
    texts: list[Optional[str]] = [None] * len(messages)
    for i, chat in enumerate(messages):
        if chat is None:
            continue
        try:
            texts[i] = render(tokenizer, chat, job)
        except Exception as problem:
            errors[i] = f"chat_template: {one_line(problem)}"
    for i, ids in enumerate(tokenize(tokenizer, texts, errors)):
        if ids is not None:
            token_ids[i] = ids


def render(tokenizer: Any, messages: list[dict[str, Any]], job: PromptJob) -> str:
    """The text that the model sees, special tokens included."""
    return tokenizer.apply_chat_template(
        list(messages), tokenize=False, add_generation_prompt=True, **job.chat_template_kwargs
    )


def tokenize(tokenizer: Any, texts: list[Optional[str]], errors: list[Optional[str]]) -> list[Optional[np.ndarray]]:
    """Token ids (int32) of each text, as `apply_chat_template(tokenize=True)` gives them.

    The template has written the special tokens already, so none is added here: adding them is how other
    pipelines come to two BOS tokens. Where some texts fail together, they are tried one by one.
    """
    present = [i for i, text in enumerate(texts) if text is not None]
    ids: list[Optional[np.ndarray]] = [None] * len(texts)
    for first in range(0, len(present), ENCODED_AT_ONCE):
        some = present[first : first + ENCODED_AT_ONCE]
        try:
            for i, encoded in zip(some, _encode(tokenizer, [texts[i] for i in some]), strict=True):
                ids[i] = encoded
        except Exception:
            for i in some:
                try:
                    ids[i] = _encode(tokenizer, [texts[i]])[0]
                except Exception as problem:
                    errors[i] = f"tokenize: {one_line(problem)}"
    return ids


def _tell(job: PromptJob, error: RayLLMBatchError) -> None:
    import ray

    if job.monitor is not None:
        ray.get(job.monitor.failed.remote(type(error).__name__, str(error)))


def _encode(tokenizer: Any, texts: list[str]) -> list[np.ndarray]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:  # the Rust batch call, without the masks and offsets that tokenizer(...) builds
        return [np.array(encoding.ids, dtype=np.int32) for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]
    return [np.array(ids, dtype=np.int32) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]


def _sort_key(ids: Optional[np.ndarray]) -> bytes:
    """In the order of the ids, one after the other: bytes, since they are compared so much faster than lists."""
    return b"" if ids is None else ids.astype(">i4").tobytes()


def _request(chat: dict[str, Any]) -> Optional[str]:
    # One JSON string a row: as an Arrow struct, a key that one row sets would appear as null in all others.
    own = {key: chat[key] for key in ("sampling_params", "model") if chat.get(key)}
    return json.dumps(own, sort_keys=True) if own else None


def _shown(value: Any, most: int = 200) -> str:
    text = f"{type(value).__name__}: {value!r}"
    return text if len(text) <= most else text[:most] + "..."
