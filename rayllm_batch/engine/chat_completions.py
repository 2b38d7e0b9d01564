"""The OpenAI API's two forms of a request, and of its answer: /chat/completions for messages, /completions for a text.

Each sampling parameter goes into the body under its own name, also those that only vLLM's server has (top_k, min_p,
repetition_penalty, ...): a server that does not know one refuses it, or ignores it. Two are written as OpenAI writes
them: logprobs, and structured_outputs with `json`, `json_object` or `choice`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from typing import Any, Optional

from rayllm_batch.engine.base import ParsedAnswer, Reply, Request
from rayllm_batch.engine.sampling import INT64
from rayllm_batch.errors import one_line
from rayllm_batch.media.medium import Medium

CHAT, TEXT = "/chat/completions", "/completions"
# Of encoded media, by their first bytes; those of RIFF files stand at the ninth.
MIME_TYPES = {b"\xff\xd8": "image/jpeg", b"\x89PNG": "image/png", b"GIF8": "image/gif", b"BM": "image/bmp"}
MIME_TYPES |= {b"II*": "image/tiff", b"MM\0": "image/tiff", b"WEBP": "image/webp", b"WAVE": "audio/wav"}
MIME_TYPES |= {b"ID3": "audio/mp3", b"\xff": "audio/mp3", b"fLaC": "audio/flac", b"OggS": "audio/ogg"}
CHOICE = "answer"  # the key of a choice that had to be asked for as an object


class NotAnAnswer(ValueError):
    """What came back has not the form of an answer: asked again, it may have."""


def body_of(
    request: Request,
    model: str,
    extra_body: Mapping[str, Any],
    *,
    max_tokens: str = "max_tokens",
    is_vllm: bool = False,
) -> tuple[str, dict[str, Any]]:
    """The path and the body. max_tokens: what the server calls it. is_vllm: it takes structured_outputs as they are."""
    settings = dict(request.settings)
    body: dict[str, Any] = {"model": request.model or model}
    logprobs, form = settings.pop("logprobs", None), settings.pop("structured_outputs", None)
    if (most := settings.pop("max_tokens", None)) is not None:
        body[max_tokens if request.messages is not None else "max_tokens"] = most
    if form:
        body |= _form(form, is_vllm)
    body |= settings
    if request.messages is None:
        body["prompt"] = request.prompt if request.prompt is not None else request.prompt_token_ids
        if logprobs is not None:
            body["logprobs"] = logprobs
        return TEXT, {**extra_body, **body}
    media = iter(request.media)
    body["messages"] = [_message(message, media) for message in request.messages]
    if request.messages[-1]["role"] == "assistant":  # the answer continues it; servers that cannot say so
        body |= {"add_generation_prompt": False, "continue_final_message": True}
    if request.tools:
        body["tools"] = request.tools
    if request.tool_choice:
        body["tool_choice"] = request.tool_choice
    if request.chat_template_kwargs:
        body["chat_template_kwargs"] = request.chat_template_kwargs
    if logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": logprobs}
    return CHAT, {**extra_body, **body}


def _form(form: Mapping[str, Any], is_vllm: bool) -> dict[str, Any]:
    if "json" in form:
        return _json_schema(json.loads(form["json"]) if isinstance(form["json"], str) else form["json"])
    if form.get("json_object"):
        return {"response_format": {"type": "json_object"}}
    if "choice" in form and not is_vllm:
        choice = {"type": "string", "enum": form["choice"]}
        schema = {"type": "object", "properties": {CHOICE: choice}, "required": [CHOICE], "additionalProperties": False}
        return _json_schema(schema)
    return {"structured_outputs": dict(form)}


def _json_schema(schema: dict[str, Any]) -> dict[str, Any]:
    named: dict[str, Any] = {"name": "answer", "schema": schema}
    if _may_be_strict(schema):
        named["strict"] = True
    return {"response_format": {"type": "json_schema", "json_schema": named}}


def _may_be_strict(schema: Any) -> bool:
    """Whether OpenAI's strict mode takes it: objects, each with all keys required and no others."""

    def is_closed(part: Any) -> bool:
        if isinstance(part, list):
            return all(map(is_closed, part))
        if not isinstance(part, dict):
            return True
        properties = part.get("properties")
        is_object = part.get("type") == "object" or isinstance(properties, dict)
        if is_object and part.get("additionalProperties") is not False:
            return False
        if is_object and set(part.get("required") or ()) != set(properties or ()):
            return False
        return all(map(is_closed, part.values()))

    return isinstance(schema, dict) and schema.get("type") == "object" and is_closed(schema)


def _message(message: dict[str, Any], media: Iterator[Medium]) -> dict[str, Any]:
    """Arguments of calls, which templates read as a dict, are text in this API. media: those of its parts, and more."""
    if isinstance(message["content"], list):
        parts = [part if part["type"] == "text" else _medium(next(media)) for part in message["content"]]
        message = {**message, "content": parts}
    if not message.get("tool_calls"):
        return message
    calls = []
    for number, call in enumerate(message["tool_calls"]):
        function = call["function"]
        arguments = json.dumps(function["arguments"])
        calls.append({"id": f"call_{number}", **call, "function": {**function, "arguments": arguments}})
    return {**message, "tool_calls": calls}


def _medium(medium: Medium) -> dict[str, Any]:
    """Its bytes in the request: that the server fetches it from anywhere is neither safe nor sure."""
    encoded, data = base64.b64encode(medium.data).decode(), medium.data[:12]
    begins = data[8:] if data.startswith(b"RIFF") else data
    of_kind = {start: its for start, its in MIME_TYPES.items() if its.startswith(medium.kind)}
    mime_type = next((its for start, its in of_kind.items() if begins.startswith(start)), f"{medium.kind}/mp4")
    if medium.kind == "audio":
        return {"type": "input_audio", "input_audio": {"data": encoded, "format": mime_type.partition("/")[2]}}
    url = {"url": f"data:{mime_type};base64,{encoded}"}
    return {"type": f"{medium.kind}_url", f"{medium.kind}_url": url}


def reply_of(given: Any, request: Request, is_vllm: bool = False) -> Reply:
    """What the server's JSON says. Raises NotAnAnswer."""
    try:
        return _reply(given, request, is_vllm)
    except NotAnAnswer:
        raise
    except (ArithmeticError, AttributeError, TypeError, ValueError) as error:  # one value is of another kind
        raise NotAnAnswer(f"an answer of another form ({one_line(error)}): {json.dumps(given)[:200]}") from None


def _reply(given: Any, request: Request, is_vllm: bool) -> Reply:
    choices = given.get("choices") if isinstance(given, dict) else None
    if not isinstance(choices, list) or not choices or not all(isinstance(choice, dict) for choice in choices):
        raise NotAnAnswer(f"an answer without choices: {json.dumps(given)[:200]}")
    choices = sorted(choices, key=lambda choice: choice.get("index") or 0)
    wanted = request.settings.get("n", 1)
    if len(choices) != wanted:
        raise NotAnAnswer(f"{len(choices)} answers in place of {wanted}")
    reasons = tuple(str(choice.get("finish_reason") or "stop") for choice in choices)
    if ended := next((reason for reason in reasons if reason in ("error", "abort")), None):
        raise NotAnAnswer(f"the server ended the request without an answer (finish_reason {ended!r})")
    usage = given.get("usage") if isinstance(given.get("usage"), dict) else {}
    details = usage.get("completion_tokens_details")
    thought = details.get("reasoning_tokens") if isinstance(details, dict) else None
    unwrap = "choice" in (request.settings.get("structured_outputs") or {}) and not is_vllm
    parsed = tuple(_answer(choice, thought if len(choices) == 1 else None, unwrap) for choice in choices)
    texts = tuple(one.content or "" for one in parsed)
    asked = request.settings.get("logprobs") is not None
    return Reply(
        texts[0],
        _count(usage, "completion_tokens"),
        reasons[0],
        texts=texts if wanted > 1 else (),
        finish_reasons=reasons if wanted > 1 else (),
        logprobs=[_logprobs(choice.get("logprobs")) for choice in choices] if asked else None,
        parsed=parsed,
        num_input_tokens=_count(usage, "prompt_tokens"),
    )


def _count(usage: Mapping[str, Any], name: str) -> int:
    """0 where the server does not count."""
    return usage[name] if _is_count(usage.get(name)) else 0


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= INT64


def _answer(choice: dict[str, Any], thought: Any, unwrap: bool) -> ParsedAnswer:
    message = choice.get("message")
    if not isinstance(message, dict):
        if not isinstance(choice.get("text"), str):
            raise NotAnAnswer(f"a choice without a message or a text: {json.dumps(choice)[:200]}")
        return ParsedAnswer(content=choice["text"])
    content, reasoning = message.get("content"), message.get("reasoning") or message.get("reasoning_content") or None
    if isinstance(content, list):  # parts, as some servers write them
        content = "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    if not isinstance(content, (str, type(None))) or not isinstance(reasoning, (str, type(None))):
        raise NotAnAnswer(f"a message that is no text: {json.dumps(message)[:200]}")
    calls = tuple(map(_call, message.get("tool_calls") or ()))
    problem = ""
    if content is None and not calls and not reasoning:
        why = message.get("refusal") or f"finish_reason {choice.get('finish_reason')!r}"
        problem = f"the server's answer has no content: {why}"
    tokens = thought if _is_count(thought) else None if reasoning else 0
    return ParsedAnswer(reasoning, _unwrapped(content) if unwrap else content, calls, tokens, problem)


def _unwrapped(content: Optional[str]) -> Optional[str]:
    try:
        return str(json.loads(content or "")[CHOICE])
    except (ValueError, RecursionError, KeyError, TypeError):  # a server that pays no heed: the choice itself, perhaps
        return content


def _call(call: Any) -> dict[str, str]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise NotAnAnswer(f"a call of a tool without a name: {json.dumps(call)[:200]}")
    arguments = function.get("arguments")
    text = arguments if isinstance(arguments, str) else json.dumps(arguments or {})  # Ollama's are objects
    return {"id": str(call.get("id") or ""), "name": function["name"], "arguments": text}


def _logprobs(given: Any) -> list[list[dict[str, Any]]]:
    """Of one answer. Token ids are not told; ranks are those among the tokens that came with it."""
    if not isinstance(given, dict):
        return []
    if isinstance(given.get("content"), list):
        tokens = [(one, one.get("top_logprobs") or ()) for one in given["content"] if isinstance(one, dict)]
    else:  # of /completions: lists beside each other
        tops = given.get("top_logprobs") or [None] * len(given.get("tokens") or ())
        pairs = zip(given.get("tokens") or (), given.get("token_logprobs") or (), tops, strict=False)
        tokens = [
            ({"token": token, "logprob": its}, [{"token": name, "logprob": one} for name, one in (top or {}).items()])
            for token, its, top in pairs
        ]
    return [_position(taken, others) for taken, others in tokens]


def _position(taken: Mapping[str, Any], others: Any) -> list[dict[str, Any]]:
    first, rest = _token(taken), sorted(map(_token, others), key=lambda one: -(one["logprob"] or 0.0))
    ranks = {one["token"]: rank for rank, one in reversed(list(enumerate(rest, start=1)))}
    rest = [one for one in rest if one["token"] != first["token"]]
    return [{**one, "rank": ranks.get(one["token"])} for one in (first, *rest)]


def _token(given: Mapping[str, Any]) -> dict[str, Any]:
    token, logprob = given.get("token"), given.get("logprob")
    return {
        "token_id": None,
        "token": None if token is None else str(token),
        "logprob": None if logprob is None else float(logprob),
    }
