"""The CPU stage: a row becomes a chat, the chat becomes text, the text becomes token ids.

It runs in Ray tasks before the engine, so that the engine's process does nothing but generate. An error of one
row goes into that row and the others go on.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Optional

import pyarrow as pa

from rayllm_batch import output
from rayllm_batch.errors import ConfigError, EngineError
from rayllm_batch.model_files import download_model

CHAT_KEYS = ("messages", "sampling_params", "model")


@dataclass(frozen=True)
class PromptJob:
    """What every task of the stage gets.

    parse_row:     the workload's method; it travels by value, so it may come from a notebook cell.
    tokenizer:     a Hub id or a folder, with its `revision` and `trust_remote_code` in `tokenizer_kwargs`.
    monitor:       the RunMonitor's handle, for the environment (it may hold the Hub token).
    chat_template: replaces the tokenizer's own when given.
    """

    parse_row: Callable[[dict[str, Any]], dict[str, Any]]
    tokenizer: str
    tokenizer_kwargs: dict[str, Any] = field(default_factory=dict)
    monitor: Any = None
    chat_template: Optional[str] = None
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)


def build_prompts(table: pa.Table, job: PromptJob) -> pa.Table:
    """A batch of input rows with their token ids, request settings (JSON) and errors appended."""
    tokenizer = _tokenizer(job)
    texts: list[Optional[str]] = []
    requests: list[Optional[str]] = []
    errors: list[Optional[str]] = []
    for row in table.to_pylist():
        text = request = error = None
        try:
            chat = parse(job.parse_row, row)
            request = _request(chat)
        except Exception as problem:
            error = describe_parse_error(problem, row)
        else:
            try:
                text = render(tokenizer, chat["messages"], job)
            except Exception as problem:
                error = f"chat_template: {_one_line(problem)}"
        texts.append(text)
        requests.append(request)
        errors.append(error)
    token_ids = tokenize(tokenizer, texts, errors)
    return output.with_stage_columns(table, token_ids, requests, errors)


def parse(parse_row: Callable[[dict[str, Any]], dict[str, Any]], row: dict[str, Any]) -> dict[str, Any]:
    """`parse_row`'s chat, checked: raises TypeError, showing what came back, when it is not one."""
    chat = parse_row(row)
    if not isinstance(chat, dict) or "messages" not in chat:
        raise TypeError(f'parse_row must return {{"messages": [...]}}, but returned {_shown(chat)}')
    messages = chat["messages"]
    if not isinstance(messages, (list, tuple)) or not messages:
        raise TypeError(f'parse_row\'s "messages" must be a list of at least one message, but is {_shown(messages)}')
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str) or "content" not in message:
            raise TypeError(f'each message must be {{"role": ..., "content": ...}}, but one is {_shown(message)}')
        if message["content"] is None or not isinstance(message["content"], (str, list)):
            raise TypeError(f"a message's content must be text, but is {_shown(message['content'])}")
    params = chat.get("sampling_params")
    if params is not None and not isinstance(params, dict):
        raise TypeError(f'parse_row\'s "sampling_params" must be a dict, but is {_shown(params)}')
    return chat


def describe_parse_error(error: Exception, row: dict[str, Any]) -> str:
    """`parse_row: KeyError: 'article' (the row has: id, text)`: enough to see which column was missing."""
    hint = f" (the row has: {', '.join(row)})" if isinstance(error, (KeyError, AttributeError)) else ""
    return f"parse_row: {_one_line(error)}{hint}"


def render(tokenizer: Any, messages: list[dict[str, Any]], job: PromptJob) -> str:
    """The text that the model sees, special tokens included."""
    return tokenizer.apply_chat_template(
        list(messages), tokenize=False, add_generation_prompt=True, **job.chat_template_kwargs
    )


def tokenize(tokenizer: Any, texts: list[Optional[str]], errors: list[Optional[str]]) -> list[Optional[list[int]]]:
    """Token ids of each text, as `apply_chat_template(tokenize=True)` gives them.

    The template has written the special tokens already, so none is added here: adding them is how other
    pipelines come to two BOS tokens. Where a batch fails, its texts are tried one by one.
    """
    present = [i for i, text in enumerate(texts) if text is not None]
    ids: list[Optional[list[int]]] = [None] * len(texts)
    try:
        for i, encoded in zip(present, _encode(tokenizer, [texts[i] for i in present]), strict=True):
            ids[i] = encoded
    except Exception:
        for i in present:
            try:
                ids[i] = _encode(tokenizer, [texts[i]])[0]
            except Exception as problem:
                errors[i] = f"tokenize: {_one_line(problem)}"
    return ids


def load_tokenizer(job: PromptJob) -> Any:
    """The model's tokenizer with its chat template checked; raises ConfigError or EngineError for the driver."""
    env = ray_environment(job)
    from transformers import AutoTokenizer

    # "dummy" weights: none, only what a tokenizer needs. The engine on this node finds these files in the cache.
    folder = download_model(
        job.tokenizer, env.get("HF_TOKEN"), revision=job.tokenizer_kwargs.get("revision"), load_format="dummy"
    )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **job.tokenizer_kwargs)
    except Exception as error:
        raise EngineError(f"The tokenizer of {job.tokenizer!r} cannot be loaded: {_one_line(error)}") from None
    if job.chat_template is not None:
        tokenizer.chat_template = job.chat_template
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigError(
            f"The tokenizer of {job.tokenizer!r} has no chat template, so messages cannot be turned into a prompt. "
            "Use the model's instruct version, or set chat_template in the config to a Jinja file."
        )
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:  # tokenizer.json may carry padding or truncation, which generation must not have
        backend.no_padding()
        backend.no_truncation()
    return tokenizer


def load_decoder(job: PromptJob) -> Any:
    """For the echo engine: what decodes token ids, without transformers (whose import takes seconds) where that will do."""
    env = ray_environment(job)
    folder = download_model(
        job.tokenizer, env.get("HF_TOKEN"), revision=job.tokenizer_kwargs.get("revision"), load_format="dummy"
    )
    path = os.path.join(folder, "tokenizer.json")
    if os.path.isfile(path):
        from tokenizers import Tokenizer

        return Tokenizer.from_file(path)
    return load_tokenizer(job)


def ray_environment(job: PromptJob) -> dict[str, str]:
    """The engine's environment, asked of the monitor."""
    import ray

    return ray.get(job.monitor.environment.remote()) if job.monitor is not None else {}


def _tokenizer(job: PromptJob) -> Any:
    # Loading takes seconds and a task handles one block, so a worker process keeps its tokenizer, also for the next
    # run. This module reaches workers by value and is rebuilt for each task: only another module's namespace outlives it.
    cache = sys.__dict__.setdefault("_rayllm_batch_tokenizer", {})
    key = repr((job.tokenizer, job.tokenizer_kwargs, job.chat_template))
    if key not in cache:
        cache.clear()
        cache[key] = load_tokenizer(job)
    return cache[key]


def _encode(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:  # the Rust batch call, without the masks and offsets that tokenizer(...) builds
        return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]
    return tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []


def _request(chat: dict[str, Any]) -> Optional[str]:
    # One JSON string a row: as an Arrow struct, a key that one row sets would appear as null in all others.
    own = {key: chat[key] for key in ("sampling_params", "model") if chat.get(key)}
    return json.dumps(own, sort_keys=True) if own else None


def _shown(value: Any, most: int = 200) -> str:
    text = f"{type(value).__name__}: {value!r}"
    return text if len(text) <= most else text[:most] + "..."


def _one_line(error: Exception, most: int = 500) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    text = text.encode("utf-8", "backslashreplace").decode()  # a lone surrogate cannot stand in an Arrow column
    return text if len(text) <= most else text[:most] + "..."
