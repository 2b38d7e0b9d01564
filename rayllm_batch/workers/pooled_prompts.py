"""The CPU stage of tasks that pool: texts, chats and pairs of texts become token ids, cut where that is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Optional, Union

import numpy as np

from rayllm_batch.engine.pooling import TRUNCATE
from rayllm_batch.errors import one_line
from rayllm_batch.tasks.pooled import Pooled
from rayllm_batch.workers.prompts import ENCODED_AT_ONCE, PromptJob, half_of_a_pair, loaded, render

Text = Union[str, tuple[str, str]]  # one text, or a pair of them


class Prompt(NamedTuple):
    """One of those that a row has. is_rendered: by a chat template, which has written the special tokens."""

    row: int
    text: Text
    is_rendered: bool
    most: Optional[int]  # tokens


class Encoded(NamedTuple):
    ids: np.ndarray  # shape (n,) of int32
    second_text: int  # where it begins; n where there is none
    is_cut: bool


def fill(
    rows: Sequence[dict[str, Any]], token_ids: list[Optional[np.ndarray]], errors: list[Optional[str]], job: PromptJob
) -> None:
    """The token ids of rows as the task has read them, or their errors.

    A row also gets `truncated`, and, where it has several prompts or pairs, what `Pooled.request` reads of them:
    `lengths` and `second_texts`.
    """
    task: Any = job.task
    left = []
    for i, row in enumerate(rows):
        if (ids := row.get("prompt_token_ids")) is not None:
            most = _most(row, task)
            token_ids[i], row["truncated"] = ids[:most], most is not None and len(ids) > most
        elif row and errors[i] is None:
            left.append(i)
    if not left:
        return
    tokenizer = loaded(job, any("messages" in rows[i] for i in left))
    prompts: list[Prompt] = []
    for i in left:
        try:
            its = list(_prompts(i, rows[i], tokenizer, job))
        except Exception as failed:
            errors[i] = f"chat_template: {one_line(failed)}"
            continue
        errors[i] = next(filter(None, (half_of_a_pair("".join(one.text)) for one in its)), None)
        prompts += its if errors[i] is None else ()
    encoded: dict[int, list[Encoded]] = {}
    for first in range(0, len(prompts), ENCODED_AT_ONCE):
        some = prompts[first : first + ENCODED_AT_ONCE]
        for prompt, one in zip(some, _encode_each(tokenizer, some), strict=True):
            if isinstance(one, str):
                errors[prompt.row] = one
            else:
                encoded.setdefault(prompt.row, []).append(one)
    for i, of_row in encoded.items():
        if errors[i] is None:
            token_ids[i] = np.concatenate([one.ids for one in of_row])
            rows[i] |= _found(of_row, task, not {"documents", "texts"}.isdisjoint(rows[i]))


def _found(encoded: list[Encoded], task: Any, are_several: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"truncated": any(one.is_cut for one in encoded)}
    if are_several:
        found["lengths"] = [len(one.ids) for one in encoded]
    if task.pairs() and task.with_token_types:
        found["second_texts"] = [one.second_text for one in encoded]
    return found


def _most(row: dict[str, Any], task: Pooled) -> Optional[int]:
    return {**task.settings, **(row.get("pooling_params") or {})}.get(TRUNCATE)


def _prompts(i: int, row: dict[str, Any], tokenizer: Any, job: PromptJob) -> Iterator[Prompt]:
    """Those of one row, in the order in which the task reads their vectors. Raises whatever a chat template does."""
    task: Any = job.task
    most = _most(row, task)
    if "messages" in row:
        # No answer follows: nothing is begun for it.
        kwargs = {"add_generation_prompt": False, "continue_final_message": False, **job.chat_template_kwargs}
        yield Prompt(i, render(tokenizer, row["messages"], replace(job, chat_template_kwargs=kwargs)), True, most)
    elif "prompt" in row:
        yield Prompt(i, row["prompt"], False, most)
    elif "texts" in row:
        yield from (Prompt(i, text, False, most) for text in row["texts"])
    else:
        queries, documents = row.get("queries") or [row["query"]], row["documents"]
        if not task.pairs():
            yield from (Prompt(i, text, False, most) for text in (*queries, *documents))
            return
        for query, document in zip(queries * (len(documents) // len(queries)), documents, strict=True):
            yield Prompt(i, _pair(query, document, tokenizer, job), False, most)


def _pair(query: str, document: str, tokenizer: Any, job: PromptJob) -> Text:
    """As vLLM's scoring io_processor lays it out. A template is the config's own: those of tokenizers are for chats."""
    task: Any = job.task
    if job.chat_template is None:
        return (query, document) if task.with_separator else query + document
    texts = [{"role": "query", "content": query}, {"role": "document", "content": document}]
    kwargs = {"add_generation_prompt": False, **job.chat_template_kwargs}
    text: str = tokenizer.apply_chat_template(texts, tokenize=False, **kwargs)
    if query.strip() not in text or document.strip() not in text:
        raise ValueError("the template leaves out the message of the 'query' or of the 'document'")
    return text


def _encode_each(tokenizer: Any, prompts: Sequence[Prompt]) -> list[Encoded | str]:
    """Of each its tokens, or its error. Where some fail together, they are tried one by one."""
    try:
        return [*_encode(tokenizer, prompts)]
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as problem:  # a panic in Rust is no Exception
        if len(prompts) == 1:
            return [f"tokenize: {one_line(problem)}"]
        return [its for prompt in prompts for its in _encode_each(tokenizer, [prompt])]


def _encode(tokenizer: Any, prompts: Sequence[Prompt]) -> list[Encoded]:
    """What is too long is encoded again: only the tokenizer knows what stays when its special tokens do."""
    found: dict[int, Encoded] = {}
    for is_rendered in (False, True):
        some = [i for i, prompt in enumerate(prompts) if prompt.is_rendered is is_rendered]
        texts = [prompts[i].text for i in some]
        for i, whole in zip(some, _whole(tokenizer, texts, not is_rendered) if texts else (), strict=True):
            found[i], most = whole, prompts[i].most
            if most is not None and len(whole.ids) > most:
                [cut] = _whole(tokenizer, [prompts[i].text], not is_rendered, most)
                found[i] = cut._replace(is_cut=True)
    return [found[i] for i in range(len(prompts))]


def _whole(tokenizer: Any, texts: list[Text], special: bool, most: Optional[int] = None) -> list[Encoded]:
    """special: with the tokenizer's own special tokens. most: tokens, these among them."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        cut = {} if most is None else {"truncation": True, "max_length": most}
        lists = [
            tokenizer(*([text] if isinstance(text, str) else text), add_special_tokens=special, **cut) for text in texts
        ]
        pairs = [(one["input_ids"], one.get("token_type_ids") or []) for one in lists]
    else:
        try:
            if most is not None:
                backend.enable_truncation(most, direction=getattr(tokenizer, "truncation_side", "right"))
            pairs = [(one.ids, one.type_ids) for one in backend.encode_batch_fast(texts, add_special_tokens=special)]
        finally:
            backend.no_truncation()
    return [
        Encoded(np.array(ids, dtype=np.int32), types.index(1) if 1 in types else len(ids), False)
        for ids, types in pairs
    ]
