"""The CPU stage: a row becomes a chat, the chat becomes text, the text becomes token ids; or it has them already.

It runs in Ray tasks before the engine, so that the engine's process does nothing but generate. An error of one
row goes into that row and the others go on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional, Union

import numpy as np
import pyarrow as pa

from rayllm_batch.data import columns
from rayllm_batch.data.read_options import BAD_LINE, OF_FILE
from rayllm_batch.data.row_id import as_pairs, row_ids
from rayllm_batch.errors import EngineError, RayLLMBatchError, one_line
from rayllm_batch.output import finished_rows, run_columns
from rayllm_batch.tasks.base import ParseRow, Task
from rayllm_batch.tasks.chat import THOUGHTS, describe_error, texts_in
from rayllm_batch.tasks.generate import Generate
from rayllm_batch.workers import cancellation
from rayllm_batch.workers.tokenizer import no_chat_template, tokenizer_of

# Texts: enough for the tokenizer's threads; what it makes of a text takes some 100 KB until it is copied.
ENCODED_AT_ONCE = 64
PROBE = "which parts"
OF_MEDIA = "media: "  # an error that begins so says that a row's media cannot be had, or not be given to the model
PART_BYTES = 64 << 20  # of media in a table that is handed on

Prompt = Union[list[dict[str, Any]], str]  # a chat, or a text that is the prompt as it is


class MediaNotTaken(ValueError):
    """The model, or its config, does not take a row's media."""


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
    pooled:        of a task that pools, what makes the token ids; see pooled_prompts.py.
    rollouts:      makes what runs the workload's `rollout`, in place of parse_row; see rollouts.py.
    finished:      an object of the Ray store: the RowCounts of rows that were finished before and are left out.
    keep_order:    with row ids: each batch tells the order of its rows, finished ones included.
    as_text:       the engine tokenizes: messages and texts travel as they are, and no tokenizer is loaded.
    media:         a MediaPrompts, which reads the media of rows; see media_prompts.py.
    """

    parse_row: ParseRow
    tokenizer: str
    tokenizer_kwargs: dict[str, Any] = field(default_factory=dict)
    monitor: Any = None
    chat_template: Optional[str] = None
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    task: Task = field(default_factory=Generate)
    sort: bool = False
    with_row_ids: bool = False
    id_column: Optional[str] = None
    pooled: Optional[Callable[..., None]] = None
    rollouts: Optional[Callable[[], Any]] = None
    finished: Any = None
    keep_order: bool = False
    as_text: bool = False
    media: Any = None

    @property
    def seats(self) -> int:
        """Of the requests that an engine computes at once, a row's; an endpoint counts n answers as one."""
        return 1 if self.as_text else self.task.seats


def build_prompts(table: pa.Table, job: PromptJob) -> pa.Table:
    """A batch of input rows, as `columns.carried`, with token ids, request settings (JSON) and errors appended."""
    return pa.concat_tables(list(prompt_tables(table, job)))


def prompt_tables(table: pa.Table, job: PromptJob) -> Iterator[pa.Table]:
    """The same, in several where the rows have media: these are read while the ones before are on their way."""
    tables = _prompt_tables(table, job)
    while True:
        with cancellation.obeyed():  # while this works, and not while others do
            one = next(tables, None)
        if one is None:
            return
        yield one


def _prompt_tables(table: pa.Table, job: PromptJob) -> Iterator[pa.Table]:
    marker = None
    if job.with_row_ids:
        table, marker = _without_finished(table, job)
    token_ids: list[Optional[np.ndarray]] = []
    prompts: list[Optional[Prompt]] = []
    tools: list[Optional[list[dict[str, Any]]]] = []
    how: list[Optional[dict[str, Any]]] = []
    requests: list[Optional[str]] = []
    errors: list[Optional[str]] = []
    rows: list[dict[str, Any]] = []  # as the task has read them
    own_columns = [name for name in table.column_names if name not in run_columns.RUN_COLUMNS]
    for row in columns.rows(table.select(own_columns)):
        parsed, request, why = {}, None, row.pop(BAD_LINE, None)
        error = None if why is None else f"{OF_FILE}: {why}"
        try:
            if isinstance(row, columns.UnreadableRow):
                raise row.error
            if error is None:
                parsed = job.task.parse(job.parse_row, row)
                request = job.task.own_text(parsed)
        # The user's code may end a process; Ray would start the next, and this row end that.
        except BaseException as problem:
            parsed, error = {}, describe_error(problem, row)
        rows.append(parsed)
        token_ids.append(parsed.get("prompt_token_ids"))
        prompts.append(parsed.get("messages") or parsed.get("prompt"))
        tools.append(parsed.get("tools"))
        how.append(parsed.get("chat_template_kwargs"))
        requests.append(request)
        errors.append(error)
    if job.pooled is not None:
        job.pooled(rows, token_ids, errors, job)
        requests = [None if error else job.task.own_text(its) for its, error in zip(rows, errors, strict=True)]
    elif any(prompts):
        fill(token_ids, prompts, errors, job, tools, how)
    chats = [_travelling(its, job) if error is None else None for its, error in zip(prompts, errors, strict=True)]
    order = list(range(len(rows)))
    if job.sort:
        # In the order of the ids, one after the other: as bytes, which are compared so much faster than lists.
        keys = [b"" if ids is None else ids.astype(">i4").tobytes() for ids in token_ids]
        if job.as_text:
            keys = [key or (chat or "").encode() for key, chat in zip(keys, chats, strict=True)]
        # Those of one LoRA adapter too: an engine has places for few of them at once, and each has a cache of its own.
        adapters = [row.get("model") or "" for row in rows]
        order.sort(key=lambda i: (adapters[i], keys[i]))
    for part, media in _with_media(order, rows, token_ids, requests, errors, job):
        values: list[list[Any]] = [[its[i] for i in part] for its in (token_ids, requests, errors, chats)]
        some = table if part == list(range(len(rows))) else table.take(pa.array(part, type=pa.int64()))
        if job.with_row_ids:
            texts = values[3] if job.as_text else [None] * len(part)
            digests = pa.array(map(finished_rows.digest, values[0], values[1], texts), type=pa.uint64())
            some = some.set_column(table.column_names.index(run_columns.ASKED), run_columns.ASKED, digests)
        yield run_columns.with_stage_columns(some, *values, *([media] if any(media) else []))
    if marker is not None:
        yield run_columns.with_stage_columns(marker)


def _with_media(  # noqa: PLR0917 (a column each)
    order: list[int],
    rows: list[dict[str, Any]],
    token_ids: list[Optional[np.ndarray]],
    requests: list[Optional[str]],
    errors: list[Optional[str]],
    job: PromptJob,
) -> Iterator[tuple[list[int], list[Any]]]:
    """The rows in this order, in parts of a bounded size, and of each row its media; their digests and errors are
    filled in.
    """
    sources = [(i, rows[i].pop("media")) for i in order if errors[i] is None and rows[i].get("media")]
    found = job.media.read(sources, job) if sources else iter(())
    part: list[int] = []
    media: list[Any] = []
    size, with_media = 0, {i for i, _ in sources}
    for i in order:
        its = None
        if i in with_media:
            number, its = next(found)
            assert number == i
            if isinstance(its, str):
                token_ids[i], requests[i], errors[i], its = None, None, its, None
            else:
                requests[i] = job.task.own_text({**rows[i], "digests": [one["digest"] for one in its]})
                size += sum(len(one["data"] or b"") for one in its)
        part.append(i)
        media.append(its)
        if size >= PART_BYTES:
            yield part, media
            part, media, size = [], [], 0
    if part or not order:
        yield part, media


def _travelling(prompt: Optional[Prompt], job: PromptJob) -> Optional[str]:
    is_needed = prompt is not None and (job.as_text or isinstance(prompt, list) and job.task.reask)
    return json.dumps(prompt) if is_needed else None


def digest_of(row: dict[str, Any], job: PromptJob) -> int:
    """Of what is asked for a row, as this stage has made it; the same that stands in ASKED."""
    text = row[run_columns.MESSAGES] if job.as_text else None
    return finished_rows.digest(row[run_columns.TOKEN_IDS], row[run_columns.REQUEST], text)


def _without_finished(table: pa.Table, job: PromptJob) -> tuple[pa.Table, Optional[pa.Table]]:
    """The rows that are left to do, with their ids, and the marker of those that are not, if there are any."""
    import ray

    ids = row_ids(table, job.id_column)
    table = run_columns.with_row_ids(table, ids, job.keep_order)
    done = np.zeros(len(ids), dtype=bool)
    if ids and job.finished is not None:
        done = ray.get(job.finished).find(as_pairs(b"".join(ids))) >= 0
    if not ids or not (done.any() or job.keep_order):
        return table, None
    finished = [ids[i] for i in done.nonzero()[0]]
    marker = run_columns.finished_marker(table.schema, finished, ids if job.keep_order else None)
    return table.filter(pa.array(~done)).cast(marker.schema), marker


def prompt_of(prompt: Prompt, job: PromptJob, tools: Optional[list[dict[str, Any]]] = None) -> dict[str, Any]:
    """One as the stage's columns have it: its token ids, or its error."""
    token_ids: list[Optional[np.ndarray]] = [None]
    errors: list[Optional[str]] = [None]
    fill(token_ids, [prompt], errors, job, [tools])
    return {run_columns.TOKEN_IDS: token_ids[0], run_columns.STAGE_ERROR: errors[0]}


def fill(  # noqa: PLR0917 (a column each)
    token_ids: list[Optional[np.ndarray]],
    prompts: Sequence[Optional[Prompt]],
    errors: list[Optional[str]],
    job: PromptJob,
    tools: Sequence[Optional[list[dict[str, Any]]]] = (),
    how: Sequence[Optional[dict[str, Any]]] = (),
) -> None:
    """The token ids of rows that have messages or a text, or their errors; where the engine makes them, errors alone.

    tools, how: of each row, where any has some: its tools, and its chat_template_kwargs, which go over the job's.
    """
    if job.as_text:
        errors[:] = [error or _not_sent(its, job) for error, its in zip(errors, prompts, strict=True)]
        return
    tokenizer = loaded(job, any(isinstance(its, list) for its in prompts))
    texts: dict[int, str] = {}
    for i, its in enumerate(prompts):
        if its is None:
            continue
        try:
            if isinstance(its, str):
                texts[i] = its
            else:
                its_tools, its_how = tools[i] if tools else None, (how[i] if how else None) or {}
                rendered = job.media.render if has_media(its) else render_texts
                texts[i] = rendered(tokenizer, its, job, its_tools, its_how)
        except MediaNotTaken as problem:
            errors[i] = f"{OF_MEDIA}{problem}"
            continue
        except EngineError:  # of the model's processor: no row is to blame
            raise
        except Exception as problem:  # also RecursionError, and the sandbox's refusal of a loop without end
            errors[i] = f"chat_template: {one_line(problem)}"
            continue
        if half := half_of_a_pair(texts[i]):
            errors[i] = half
            del texts[i]
    for plain in (False, True):
        rows = [i for i in texts if isinstance(prompts[i], str) is plain]
        for first in range(0, len(rows), ENCODED_AT_ONCE):
            some = {i: texts[i] for i in rows[first : first + ENCODED_AT_ONCE]}
            _tokenize(tokenizer, some, token_ids, errors, plain)


def _not_sent(prompt: Optional[Prompt], job: PromptJob) -> Optional[str]:
    """The error of one that an engine which tokenizes does not take."""
    try:
        if isinstance(prompt, list) and has_media(prompt):
            job.media.check(prompt, job)
    except MediaNotTaken as problem:
        return f"{OF_MEDIA}{problem}"
    return half_of_a_pair(json.dumps(prompt, ensure_ascii=False)) or None


def has_media(messages: Sequence[Mapping[str, Any]]) -> bool:
    return any(isinstance(message["content"], list) for message in messages)


def loaded(job: PromptJob, has_chats: bool) -> Any:
    """The tokenizer. What is wrong with it ends the run, with the driver told."""
    try:
        tokenizer = tokenizer_of(job)
        if has_chats and not getattr(tokenizer, "chat_template", None) and not job.task.rows_may_all_fail:
            raise no_chat_template(job.tokenizer)
        return tokenizer
    except RayLLMBatchError as error:
        raise told(error, job) from None


def told(error: RayLLMBatchError, job: PromptJob) -> RayLLMBatchError:
    """The same, which ends the run; the driver is told."""
    if job.monitor is not None:
        import ray

        ray.get(job.monitor.failed.remote(type(error).__name__, str(error)))
    return error


def half_of_a_pair(text: str) -> str:
    """The error of a text that is none; "" of others."""
    try:
        text.encode()
        return ""
    except UnicodeEncodeError as half:
        around = ascii(text[max(0, half.start - 20) : half.start + 20])
        what = "the prompt holds half of a surrogate pair, which is no text, at character"
        return f"tokenize: {what} {half.start:,}: {around}"


def takes_parts(tokenizer: Any, template: Optional[str] = None) -> bool:
    """Whether the template, if not the tokenizer's own, reads a content that is a list of parts; others fail at it, or
    write it as it is.
    """
    chat = [{"role": "user", "content": as_parts(PROBE)}]
    how = {} if template is None else {"chat_template": template}
    try:
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True, **how)
    except Exception:
        return False
    return PROBE in text and f"'{PROBE}" not in text and f'"{PROBE}' not in text


def as_parts(content: Any) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def render_texts(tokenizer: Any, messages: list[dict[str, Any]], *more: Any) -> str:
    """As `render`; where the template of a model that sees takes no text, but lists of parts, as these.

    Such a one fails at a text, or reads it letter by letter.
    """
    said = [one["content"].strip() for one in messages if one["role"] == "user"]
    try:
        text = render(tokenizer, messages, *more)
        if all(its in text for its in said) or not takes_parts(tokenizer):
            return text
    except Exception:
        if not takes_parts(tokenizer):
            raise
    return render(tokenizer, [{**one, "content": as_parts(one["content"])} for one in messages], *more)


def render(
    tokenizer: Any,
    messages: list[dict[str, Any]],
    job: PromptJob,
    tools: Optional[list[dict[str, Any]]] = None,
    own: Mapping[str, Any] = {},
) -> str:
    """The text that the model sees, special tokens included. The answer continues an assistant's last message.

    Raises whatever the template does, and ValueError where it would lose something of the messages without a word.
    """
    last = messages[-1]
    is_begun = last["role"] == "assistant" and "continue_final_message" not in own
    begun = texts_in(last["content"])[0] if is_begun else None
    if begun is not None and last.keys() - {"role", "content", "name"}:
        raise ValueError("the last message is the assistant's, and more than text: only its content can be continued")
    if begun is not None and not begun.strip() and len(messages) > 1:
        messages, begun = messages[:-1], None  # nothing is there to be continued
    how = {"add_generation_prompt": begun is None, **job.chat_template_kwargs, **own}
    how |= {"tools": tools} if tools else {}
    if "continue_final_message" in how:
        begun = None  # the user's own affair
    if begun is not None:
        how["continue_final_message"] = True

    def rendered(chat: list[dict[str, Any]]) -> str:
        return tokenizer.apply_chat_template(chat, tokenize=False, **how)

    def is_left_out(i: int, key: str) -> bool:
        """Whether another value of this key of message i would give the same text."""
        try:
            return rendered([*messages[:i], {**messages[i], key: "other words"}, *messages[i + 1 :]]) == text
        except Exception:  # then the template has looked at it
            return False

    text = rendered(list(messages))
    _check_tools(tokenizer, messages, how if tools else {}, text)
    if begun is not None:
        if not text.rstrip().endswith(begun.strip()):
            raise ValueError(
                "the last message is the assistant's, which the answer is to continue, but the chat template alters it"
            )
        if not text.endswith(begun.lstrip()):  # the template trims messages: the space behind was begun too
            text = text.rstrip() + begun[len(begun.rstrip()) :]
    for i, message in enumerate(messages):
        role = message["role"]
        # Of what the assistant said, templates leave out much on purpose: its thoughts, words beside a tool's call.
        said = [its.strip() for its in texts_in(message["content"])]
        if role != "assistant" and any(its not in text for its in said) and is_left_out(i, "content"):
            raise ValueError(f"the template leaves out the message of the {role!r}")
        # A tool's name is in the call that it answers.
        if message.get("name") and role not in ("tool", "function") and is_left_out(i, "name"):
            raise ValueError(f"the template leaves out the 'name' of the {role!r}; write it into the content")
        for key in THOUGHTS:
            if message.get(key) and not _reads(tokenizer, key):
                others = " or ".join(repr(other) for other in THOUGHTS if _reads(tokenizer, other))
                instead = f"it reads {others}" if others else "leave it out"
                raise ValueError(f"the template does not read {key!r} of a message; {instead}")
    return text


def _check_tools(tokenizer: Any, messages: list[dict[str, Any]], how: dict[str, Any], text: str) -> None:
    if how and tokenizer.apply_chat_template(list(messages), tokenize=False, **{**how, "tools": None}) == text:
        raise ValueError(
            "the template leaves out the tools: this model takes none, or its chat_template is an earlier one"
        )


def _reads(tokenizer: Any, key: str) -> bool:
    """Whether the template has a place for this key. When it leaves thoughts out is its own affair."""
    return re.search(rf"[.'\"]{key}\b", str(tokenizer.chat_template)) is not None


def _tokenize(
    tokenizer: Any,
    texts: dict[int, str],
    token_ids: list[Optional[np.ndarray]],
    errors: list[Optional[str]],
    plain: bool,
) -> None:
    """Token ids (int32) of each text, as `apply_chat_template(tokenize=True)` gives them.

    The template has written the special tokens already, so none is added here: adding them is how other
    pipelines come to two BOS tokens. plain: texts without a template, which get the tokenizer's own. Where some texts
    fail together, they are tried one by one.
    """
    try:
        encoded = _encode(tokenizer, list(texts.values()), plain)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as problem:  # a panic in Rust is no Exception
        for i, text in texts.items():
            if len(texts) == 1:
                errors[i] = f"tokenize: {one_line(problem)}"
            else:
                _tokenize(tokenizer, {i: text}, token_ids, errors, plain)
        return
    for i, ids in zip(texts, encoded, strict=True):
        token_ids[i] = ids


def _encode(tokenizer: Any, texts: list[str], plain: bool) -> list[np.ndarray]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        ids = tokenizer(texts, add_special_tokens=plain)["input_ids"]
    else:  # the Rust batch call, without the masks and offsets that tokenizer(...) builds
        ids = [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=plain)]
    bos = getattr(tokenizer, "bos_token_id", None) if plain else None
    # A text that has the BOS token written out gets no second one.
    twice = [bos is not None and list(its[:2]) == [bos, bos] for its in ids]
    return [np.array(its[1:] if has_two else its, dtype=np.int32) for its, has_two in zip(ids, twice, strict=True)]
