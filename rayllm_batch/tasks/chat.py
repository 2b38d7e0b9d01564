"""A prompt as `parse_row` returns it, a chat or token ids: checked, and read to mean one thing."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping
from typing import Any, Optional

import numpy as np

from rayllm_batch.errors import WorkloadError, did_you_mean, one_line, shown

THOUGHTS = ("reasoning_content", "reasoning", "thinking")  # the same, as one template or another calls it
# Of a message: what chat templates read. Others would be dropped without a word.
MESSAGE_KEYS = ("role", "content", "name", "tool_calls", "tool_call_id", *THOUGHTS)
# Parts of a message's content that are no text: the OpenAI API's, vLLM's, and transformers'.
MEDIA_PARTS = {"image_url": "image", "input_audio": "audio", "audio_url": "audio", "video_url": "video"}
MEDIA_PARTS |= {kind: kind for kind in ("image", "audio", "video")}
Media = list[tuple[str, Any]]  # of each its kind, and where it is or what it is


def describe_error(error: BaseException, row: Mapping[str, Any]) -> str:
    """`parse_row: KeyError: 'article' (the row has: id, text)`: enough to see which column was missing."""
    if isinstance(error, WorkloadError):
        return f"sampling_params: {one_line(error, named=False)}"
    hint = f" (the row has: {', '.join(map(str, row))})" if isinstance(error, (KeyError, AttributeError)) else ""
    return f"parse_row: {one_line(error)}{hint}"


def checked_messages(messages: Any, media: Optional[Media] = None) -> list[dict[str, Any]]:
    """Each content a text, or, where there are media in it, a list of parts: {"type": "text", "text": ...} and
    {"type": "image"}, whose source is then in `media`, in the order of the parts. media: None where none are taken.
    """
    if not isinstance(messages, (list, tuple, np.ndarray)) or not len(messages):
        raise TypeError(f'parse_row\'s "messages" must be a list of at least one message, but is {guarded(messages)}')
    checked = [_checked_message(message, media) for message in messages]
    if checked[-1]["role"] == "assistant" and isinstance(checked[-1]["content"], list):
        raise TypeError("the last message is the assistant's, which the answer continues, but is more than text")
    return checked


def _checked_message(message: Any, media: Optional[Media]) -> dict[str, Any]:
    says = isinstance(message, dict) and ("content" in message or message.get("tool_calls") is not None)
    if not says or not isinstance(message.get("role"), str):
        raise TypeError(f'each message must be {{"role": ..., "content": ...}}, but one is {guarded(message)}')
    # A null is what a table has for "not given"; some templates only ask whether the key is there.
    checked = {key: value for key, value in message.items() if value is not None or key == "content"}
    for key, value in checked.items():
        if key not in MESSAGE_KEYS:
            nearest = did_you_mean(key, MESSAGE_KEYS)
            raise TypeError(f"a message has the key {key!r}, which would have no effect.{nearest}")
        if key not in ("content", "tool_calls") and not isinstance(value, str):
            raise TypeError(f"a message's {key} must be text, but is {guarded(value)}")
    calls = checked.pop("tool_calls", ())
    if not isinstance(calls, (list, tuple, np.ndarray)):
        raise TypeError(f"a message's tool_calls must be a list, but are {shown(calls)}")
    if len(calls):
        checked["tool_calls"] = [_checked_call(call) for call in calls]
        if checked.get("content") is None:
            checked["content"] = ""  # as servers of the OpenAI API take it
    return {**checked, "content": _content(checked.get("content"), media)}


def _checked_call(call: Any) -> dict[str, Any]:
    """A call of a tool, its arguments a dict, as templates expect them; the OpenAI API has them as JSON text."""
    function: Any = (call.get("function") or call) if isinstance(call, dict) else None
    has_name = isinstance(function, dict) and isinstance(function.get("name"), str)
    arguments = function.get("arguments") if has_name else None
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError:
            arguments = ()
    else:
        arguments = _without_nulls(arguments)
    if not has_name or not isinstance(arguments, (dict, type(None))):
        raise TypeError(
            'each of a message\'s tool_calls must be {"function": {"name": ..., "arguments": ...}}, the arguments a '
            f"JSON object, but one is {shown(call)}"
        )
    its = {key: value for key, value in function.items() if key not in ("id", "type")}
    outer = {key: value for key, value in call.items() if function is not call or key in ("id", "type")}
    return {"type": "function", **outer, "function": {**its, "arguments": arguments or {}}}


def checked_tools(given: Any) -> list[dict[str, Any]]:
    """The tools of a row, as plain values."""
    wanted = '{"type": "function", "function": {"name": ..., "description": ..., "parameters": {a JSON schema}}}'
    if not isinstance(given, (list, tuple, np.ndarray)):
        raise TypeError(f'parse_row\'s "tools" must be a list, each {wanted}, but is {shown(given)}')
    names = set[str]()
    for tool in given:
        function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
        function = function if isinstance(function, dict) else {}
        name = function.get("name")
        if not isinstance(name, str) or not name or not isinstance(function.get("parameters") or {}, dict):
            raise TypeError(f'each of parse_row\'s "tools" must be {wanted}, but one is {shown(tool)}')
        if name in names:
            raise TypeError(f'parse_row\'s "tools" must have different names, but {name!r} comes twice')
        names.add(name)
    try:
        return _without_nulls(json.loads(json.dumps(list(given), allow_nan=False)))
    except (TypeError, ValueError, RecursionError) as problem:
        raise TypeError(f'parse_row\'s "tools" must be what JSON has: {one_line(problem, named=False)}') from None


def _without_nulls(value: Any) -> Any:
    """Where tools, or calls, come from a table, each has a null for each key that only others have."""
    if isinstance(value, list):
        return [_without_nulls(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {key: _without_nulls(one) for key, one in value.items() if one is not None or key in ("default", "const")}


def checked_tool_choice(given: Any, tools: list[dict[str, Any]]) -> str | dict[str, Any] | None:
    """What forces or forbids a call of them; None for "auto", where the model chooses."""
    if given in (None, "auto"):
        return None
    if not tools:
        raise TypeError('parse_row\'s "tool_choice" needs "tools"')
    if given in ("none", "required"):
        return given
    function = given.get("function") if isinstance(given, dict) and given.get("type") == "function" else None
    name, names = (
        function.get("name") if isinstance(function, dict) else None,
        [one["function"]["name"] for one in tools],
    )
    if name is None:
        wanted = '"auto", "none", "required" or {"type": "function", "function": {"name": ...}}'
        raise TypeError(f'parse_row\'s "tool_choice" must be {wanted}, but is {shown(given)}')
    if name not in names:
        near = did_you_mean(name, names) if isinstance(name, str) else ""
        raise TypeError(f'parse_row\'s "tool_choice" names {shown(name)}, which is none of its "tools".{near}')
    return {"type": "function", "function": {"name": name}}


def _content(content: Any, media: Optional[Media]) -> str | list[dict[str, Any]]:
    """A message's: a text as it is, or its parts' texts, a line each, as vLLM's server joins them for a text template.

    Where a part is no text, the parts.
    """
    if isinstance(content, str):
        return content
    if not isinstance(content, (list, tuple, np.ndarray)) or not len(content):
        raise TypeError(f"a message's content must be text, but is {guarded(content)}")
    parts = [_part(part, media) for part in content]
    if all(part["type"] == "text" for part in parts):
        return "\n".join(part["text"] for part in parts)
    return parts


def texts_in(content: str | list[dict[str, Any]]) -> list[str]:
    """Of a checked message's content."""
    return [content] if isinstance(content, str) else [part["text"] for part in content if part["type"] == "text"]


def _part(part: Any, media: Optional[Media]) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if isinstance(kind, str) and kind != "text":
        if media is not None and kind in MEDIA_PARTS:
            media.append((MEDIA_PARTS[kind], _source(part, kind)))
            return {"type": MEDIA_PARTS[kind]}
        takes = ["text", *(MEDIA_PARTS if media is not None else ())]
        only = (
            "only text is taken: pictures, sound and film are for task: generate"
            if media is None
            else f"must have one of {', '.join(takes)}"
        )
        said = f"type {kind!r}" if re.fullmatch(r"[\w.-]{1,40}", kind) else "another type"
        raise TypeError(f"a message's content has a part of {said}, but {only}.{did_you_mean(kind[:40], takes)}")
    given = {key for key, value in part.items() if value is not None} if isinstance(kind, str) else set()
    if given != {"type", "text"} or not isinstance(part["text"], str):
        wanted = '{"type": "text", "text": ...} and no more'
        if media is not None and not isinstance(kind, str):
            wanted = f'{{"type": "text", "text": ...}}, or have another "type": {", ".join(MEDIA_PARTS)}'
        raise TypeError(f"each part of a message's content must be {wanted}, but one is {guarded(part)}")
    return {"type": "text", "text": part["text"]}


def _source(part: dict[str, Any], kind: str) -> Any:
    """What a part of media names: bytes, a picture, a path or URL as text, or Hugging Face's {"bytes", "path"}."""
    given = {key: value for key, value in part.items() if value is not None and key != "type"}
    keys = (kind,) if "_" in kind else (kind, "url", "path")
    if len(given) != 1 or next(iter(given)) not in keys:
        wanted = " or ".join(f'{{"type": {kind!r}, {key!r}: ...}}' for key in keys)
        raise TypeError(f"a part of type {kind!r} must be {wanted} and no more, but {_form(given)}")
    source = next(iter(given.values()))
    if "_" not in kind:
        return source
    inner = {key: value for key, value in source.items() if value is not None} if isinstance(source, dict) else source
    if kind == "input_audio":
        if not isinstance(inner, dict) or inner.keys() != {"data", "format"} or not all(map(_is_text, inner.values())):
            raise TypeError(
                f'an input_audio must be {{"data": base64, "format": "wav"}}, but {_form(source)}; an audio_url may '
                "be an address"
            )
        return f"data:audio/{inner['format']};base64,{inner['data']}"
    if isinstance(inner, dict):
        if inner.pop("detail", "auto") != "auto":
            raise TypeError(
                f"the detail of an {kind} would have no effect: mm_processor_kwargs in engine_kwargs has it"
            )
        inner = inner["url"] if inner.keys() == {"url"} else None
    if not _is_text(inner):
        raise TypeError(f'an {kind} must be {{"url": "https://..."}} or {{"url": "data:..."}}, but {_form(source)}')
    return inner


def _form(given: Any) -> str:
    """Without its values: a URL may be signed."""
    return (
        f"has {', '.join(map(repr, given)) or 'nothing'}" if isinstance(given, dict) else f"is a {type(given).__name__}"
    )


def guarded(value: Any) -> str:
    """As `shown`, without texts that may be a URL, which may be signed, or the bytes of media."""
    return shown(_without_sources(value))


def _without_sources(value: Any, levels: int = 6) -> Any:  # noqa: PLR0911 (a kind each)
    if isinstance(value, (type(None), bool, int, float)):
        return value
    if isinstance(value, str):
        return "..." if len(value) > 100 or re.search(r":\S|[?@\\]", value) else value
    if isinstance(value, bytes):
        return b"..."
    if isinstance(value, (dict, list, tuple)) and not levels:
        return type(value)()
    if isinstance(value, dict):
        pairs = itertools.islice(value.items(), 20)
        return {_without_sources(str(key)): _without_sources(inner, levels - 1) for key, inner in pairs}
    if isinstance(value, (list, tuple)):
        return [_without_sources(inner, levels - 1) for inner in value[:20]]
    return type(value)  # whose text is its own affair


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def checked_ids(given: Any) -> np.ndarray:
    try:
        ids = np.asarray(given)
    except (ValueError, TypeError):  # lists of different lengths in it
        ids = np.empty(0)
    if ids.ndim != 1 or ids.dtype.kind not in "iu" or not len(ids) or ids.min() < 0 or ids.max() >= 2**31:
        raise TypeError(
            'parse_row\'s "prompt_token_ids" must be a list of at least one token id, whole numbers from 0, but is '
            f"{shown(given)}"
        )
    return ids.astype(np.int32)
