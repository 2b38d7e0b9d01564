"""The CPU stage: a row becomes a chat, the chat becomes text, the text becomes token ids; or it has them already.

It runs in Ray tasks before the engine, so that the engine's process does nothing but generate. An error of one
row goes into that row and the others go on.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Optional

import numpy as np
import pyarrow as pa

from rayllm_batch.data import columns
from rayllm_batch.data.read_options import BAD_LINE
from rayllm_batch.data.row_id import as_pairs, row_ids
from rayllm_batch.errors import RayLLMBatchError, one_line
from rayllm_batch.output import asked
from rayllm_batch.output import run_columns as output
from rayllm_batch.tasks.base import DEFAULTS, Defaults, Task
from rayllm_batch.tasks.chat import describe_error
from rayllm_batch.tasks.generate import Generate
from rayllm_batch.workers import cancellation
from rayllm_batch.workers.tokenizer import chat_tokenizer

THOUGHTS = ("reasoning_content", "reasoning", "thinking")  # the same, as one template or another calls it
ENCODED_AT_ONCE = (
    64  # texts: enough for the tokenizer's threads; what it makes of a text takes some 100 KB until it is copied
)


@dataclass(frozen=True)
class PromptJob:
    """What every task of the stage gets.

    parse_row:     the workload's method; it travels by value, so it may come from a notebook cell.
    tokenizer:     a Hub id or a folder, with its `revision` and `trust_remote_code` in `tokenizer_kwargs`.
    monitor:       the RunMonitor's handle, for the environment (it may hold the Hub token).
    chat_template: replaces the tokenizer's own when given.
    defaults:      what a row's own settings go over.
    with_row_ids:  each row gets its id, of `id_column` or else of all its content; for a run with an output folder.
    sort:          the rows of a batch come out in the order of their token ids, so that those with a common beginning
                   reach the engine one after the other, while its prefix cache holds it.
    finished:      an object of the Ray store: the RowCounts of rows that were finished before and are left out.
    keep_order:    with row ids: each batch tells the order of its rows, finished ones included.
    """

    parse_row: Callable[[dict[str, Any]], dict[str, Any]]
    tokenizer: str
    tokenizer_kwargs: dict[str, Any] = field(default_factory=dict)
    monitor: Any = None
    chat_template: Optional[str] = None
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    task: Task = field(default_factory=Generate)
    defaults: Defaults = DEFAULTS
    sort: bool = False
    with_row_ids: bool = False
    id_column: Optional[str] = None
    finished: Any = None
    keep_order: bool = False


def build_prompts(table: pa.Table, job: PromptJob) -> pa.Table:
    """A batch of input rows, as `columns.carried`, with their token ids, request settings (JSON) and errors appended."""
    with cancellation.obeyed():
        return _build_prompts(table, job)


def _build_prompts(table: pa.Table, job: PromptJob) -> pa.Table:
    marker = None
    if job.with_row_ids:
        table, marker = _without_finished(table, job)
    token_ids: list[Optional[np.ndarray]] = []
    messages: list[Optional[list[dict[str, Any]]]] = []
    requests: list[Optional[str]] = []
    errors: list[Optional[str]] = []
    for row in columns.rows(table.select([name for name in table.column_names if name not in output.RUN_COLUMNS])):
        parsed, request, error = {}, None, row.pop(BAD_LINE, None)
        try:
            if isinstance(row, columns.UnreadableRow):
                raise row.error
            if error is None:
                parsed = job.task.parse(job.parse_row, row, job.defaults)
                request = job.task.own_text(parsed)
        except (
            BaseException
        ) as problem:  # the user's code may end a process; Ray would start the next, and this row end that
            parsed, error = {}, describe_error(problem, row)
        token_ids.append(parsed.get("prompt_token_ids"))
        messages.append(parsed.get("messages"))
        requests.append(request)
        errors.append(error)
    if any(messages):
        fill(token_ids, messages, errors, job)
    if job.with_row_ids:
        digests = pa.array(map(asked.digest, token_ids, requests), type=pa.uint64())
        table = table.set_column(table.column_names.index(output.ASKED), output.ASKED, digests)
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

    ids = row_ids(table, job.id_column)
    table = output.with_row_ids(table, ids, job.keep_order)
    if not ids or job.finished is None and not job.keep_order:
        return table, None
    done = (
        np.zeros(len(ids), dtype=bool)
        if job.finished is None
        else ray.get(job.finished).find(as_pairs(b"".join(ids))) >= 0
    )
    if not done.any() and not job.keep_order:
        return table, None
    marker = output.finished_marker(table.schema, [ids[i] for i in done.nonzero()[0]], ids if job.keep_order else None)
    return table.filter(pa.array(~done)).cast(marker.schema), marker


def fill(
    token_ids: list[Optional[np.ndarray]],
    messages: list[Optional[list[dict[str, Any]]]],
    errors: list[Optional[str]],
    job: PromptJob,
) -> None:
    """The token ids of the rows that have messages, or their errors."""
    try:
        tokenizer = chat_tokenizer(job)
    except RayLLMBatchError as error:
        _tell(job, error)
        raise
    texts: list[Optional[str]] = [None] * len(messages)
    for i, its in enumerate(messages):
        if its is None:
            continue
        try:
            text = render(tokenizer, its, job)
        except Exception as problem:  # also RecursionError, and the sandbox's refusal of a loop without end
            errors[i] = f"chat_template: {one_line(problem)}"
            continue
        half = half_of_a_pair(text)
        texts[i], errors[i] = (text, errors[i]) if half is None else (None, f"tokenize: {half}")
    for i, ids in enumerate(tokenize(tokenizer, texts, errors)):
        if ids is not None:
            token_ids[i] = ids


def render(tokenizer: Any, messages: list[dict[str, Any]], job: PromptJob) -> str:
    """The text that the model sees, special tokens included. Where the last message is the assistant's, the answer continues it.

    Raises whatever the template does, and ValueError where it would lose something of the messages without a word.
    """
    last = messages[-1]
    begun = last["content"] if last["role"] == "assistant" else None
    if begun is not None and last.keys() - {"role", "content", "name"}:
        raise ValueError("the last message is the assistant's, and more than text: only its content can be continued")
    if begun is not None and not begun.strip() and len(messages) > 1:
        messages, begun = messages[:-1], None  # nothing is there to be continued
    how = {
        "add_generation_prompt": begun is None,
        **({} if begun is None else {"continue_final_message": True}),
        **job.chat_template_kwargs,
    }

    def rendered(chat: list[dict[str, Any]]) -> str:
        return tokenizer.apply_chat_template(chat, tokenize=False, **how)

    text = rendered(list(messages))
    if begun is not None and "continue_final_message" not in job.chat_template_kwargs:
        if not text.rstrip().endswith(begun.strip()):
            raise ValueError(
                "the last message is the assistant's, which the answer is to continue, but the chat template alters it"
            )
        if not text.endswith(
            begun.lstrip()
        ):  # a template that trims messages: the space behind it is part of what was begun
            text = text.rstrip() + begun[len(begun.rstrip()) :]
    for i, message in enumerate(messages):
        # Of what the assistant said before, templates leave out much on purpose: its thoughts, words beside a tool's call.
        if (
            message["role"] != "assistant"
            and message["content"].strip() not in text
            and _is_left_out(rendered, messages, i, text)
        ):
            raise ValueError(f"the template leaves out the message of the {message['role']!r}")
        # A tool's name is in the call that it answers.
        if (
            message.get("name")
            and message["role"] not in ("tool", "function")
            and _is_left_out(rendered, messages, i, text, "name")
        ):
            raise ValueError(
                f"the template leaves out the 'name' of the {message['role']!r}; write it into the content"
            )
        for key in THOUGHTS:
            if message.get(key) and not _reads(tokenizer, key):
                others = " or ".join(repr(other) for other in THOUGHTS if _reads(tokenizer, other))
                raise ValueError(
                    f"the template does not read {key!r} of a message; {f'it reads {others}' if others else 'leave it out'}"
                )
    return text


def _reads(tokenizer: Any, key: str) -> bool:
    """Whether the template has a place for this key. When it leaves thoughts out is its own affair."""
    return re.search(rf"[.'\"]{key}\b", str(tokenizer.chat_template)) is not None


def _is_left_out(
    rendered: Callable[[list[dict[str, Any]]], str],
    messages: list[dict[str, Any]],
    i: int,
    text: str,
    key: str = "content",
) -> bool:
    """Whether another content of message i, or another value of its `key`, would give the same text."""
    try:
        return rendered([*messages[:i], {**messages[i], key: "other words"}, *messages[i + 1 :]]) == text
    except Exception:  # then the template has looked at it
        return False


def tokenize(tokenizer: Any, texts: list[Optional[str]], errors: list[Optional[str]]) -> list[Optional[np.ndarray]]:
    """Token ids (int32) of each text, as `apply_chat_template(tokenize=True)` gives them.

    The template has written the special tokens already, so none is added here: adding them is how other
    pipelines come to two BOS tokens. Where some texts fail together, they are tried one by one.
    """
    present = [(i, text) for i, text in enumerate(texts) if text is not None]
    ids: list[Optional[np.ndarray]] = [None] * len(texts)
    for first in range(0, len(present), ENCODED_AT_ONCE):
        some = present[first : first + ENCODED_AT_ONCE]
        try:
            for (i, _), encoded in zip(some, _encode(tokenizer, [text for _, text in some]), strict=True):
                ids[i] = encoded
        except BaseException as together:  # a panic in Rust is no Exception
            _unless_interrupted(together)
            for i, text in some:
                try:
                    ids[i] = _encode(tokenizer, [text])[0]
                except BaseException as problem:
                    _unless_interrupted(problem)
                    errors[i] = f"tokenize: {one_line(problem)}"
    return ids


def _unless_interrupted(error: BaseException) -> None:
    if isinstance(error, (KeyboardInterrupt, SystemExit)):
        raise error


def half_of_a_pair(text: str) -> Optional[str]:
    """What is wrong with a text that holds half of a surrogate pair, which no tokenizer takes; None for any other."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        around = ascii(text[max(0, error.start - 20) : error.start + 20])
        return f"the prompt holds half of a surrogate pair, which is no text, at character {error.start:,}: {around}"
    return None


def _tell(job: PromptJob, error: RayLLMBatchError) -> None:
    import ray

    if job.monitor is not None:
        ray.get(job.monitor.failed.remote(type(error).__name__, str(error)))


def _encode(tokenizer: Any, texts: list[str]) -> list[np.ndarray]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:  # the Rust batch call, without the masks and offsets that tokenizer(...) builds
        return [
            np.array(encoding.ids, dtype=np.int32)
            for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)
        ]
    return [np.array(ids, dtype=np.int32) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]


def _sort_key(ids: Optional[np.ndarray]) -> bytes:
    """In the order of the ids, one after the other: bytes, since they are compared so much faster than lists."""
    return b"" if ids is None else ids.astype(">i4").tobytes()
