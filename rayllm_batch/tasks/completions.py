"""What a server of the OpenAI API answers, as a row's column: the body of its response, in JSON."""

from __future__ import annotations

import dataclasses
import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Optional

import pyarrow as pa

from rayllm_batch.engine.base import ParsedAnswer, Reply, Request
from rayllm_batch.tasks.api_urls import check_url
from rayllm_batch.tasks.base import Answer, ParseRow
from rayllm_batch.tasks.chat import checked_tools
from rayllm_batch.tasks.generate import Generate

OWN = ("response", "chat_template_kwargs", "cache_salt")  # keys that parse_row returns beside those of `Generate`
LEAST_LOGPROB = -9999.0  # of vLLM's server: JSON has no minus infinity


@dataclass(frozen=True)
class APIRequest(Request):
    """response: what decides the form of its response.

    url, model: as asked for. logprobs: how many others come beside each token, -1 for all there are; absent where none
    are asked for. calls: how many calls of tools are read, absent for any number. include_reasoning: False leaves
    thoughts out. role: of the message, absent for the assistant's.
    """

    response: dict[str, Any] = field(default_factory=dict)


class Completions(Generate):
    """Its requests differ in n, log-probabilities and tools, so what they give is JSON, and no column each.

    An answer that was cut, or that has not the form asked for, is no error: as from a server, its finish_reason tells.
    """

    answer_column = "response"
    of_columns = ()
    rows_may_all_fail = True

    def __init__(self, **generate: Any) -> None:
        super().__init__(**generate)
        self.schema = pa.schema(
            [
                ("response", pa.string()),
                ("num_input_tokens", pa.int64()),
                ("num_generated_tokens", pa.int64()),
                ("finish_reason", pa.string()),
                ("error", pa.string()),
            ]
        )

    def parse(self, parse_row: ParseRow, row: dict[str, Any]) -> dict[str, Any]:
        chat = dict(parse_row(row))
        own = {key: chat.pop(key) for key in OWN if key in chat}
        check_url(own["response"]["url"], "generate")
        if own["response"].get("calls") == 0 and "tools" in chat:  # the template may show them, and none is called
            tools = checked_tools(chat.pop("tools"))
            own["chat_template_kwargs"] = {**own.get("chat_template_kwargs", {}), "tools": tools}
        return {**super().parse(lambda row: chat, row), **own}

    def own_text(self, parsed: Mapping[str, Any]) -> str:
        own = json.loads(super().own_text(parsed) or "{}")
        return json.dumps({**own, **{key: parsed[key] for key in OWN if key in parsed}}, sort_keys=True)

    def request(self, prompt_token_ids: list[int], own_text: Optional[str]) -> Request:
        of_generate, own = super().request(prompt_token_ids, own_text), json.loads(own_text or "{}")
        given = {spec.name: getattr(of_generate, spec.name) for spec in dataclasses.fields(Request)}
        given["raw"] = not _is_chat(own["response"])
        return APIRequest(**{**given, **{key: own[key] for key in OWN if key in own}})

    def read_reply(self, request: Request, reply: Reply) -> dict[str, Any]:
        assert isinstance(request, APIRequest)
        body = response_body(request, reply, has_thoughts="reasoning_parser" in self._parsers)
        return {"response": json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":"))}

    def columns(self, answer: Answer) -> dict[str, Any]:
        return {
            "response": answer.values.get("response"),
            "num_generated_tokens": answer.num_generated_tokens,
            "finish_reason": answer.finish_reason,
        }


def response_body(request: APIRequest, reply: Reply, *, has_thoughts: bool) -> dict[str, Any]:
    """With every key that vLLM's server writes, null where it has nothing to say."""
    is_chat, asked = _is_chat(request.response), request.response
    texts = reply.texts or (reply.text,)
    reasons = reply.finish_reasons or (reply.finish_reason,)
    parsed = reply.parsed or tuple(ParsedAnswer(content=text) for text in texts)
    logprobs: Any = reply.logprobs if "logprobs" in asked and reply.logprobs else [None] * len(texts)
    stops = reply.stop_reasons or (None,) * len(texts)
    choices = []
    for index, (text, one, why, stop, its) in enumerate(zip(texts, parsed, reasons, stops, logprobs, strict=True)):
        form = _chat_choice(one, why, its, request) if is_chat else _text_choice(text, why, its, asked)
        choices.append({"index": index, **form, "stop_reason": stop, "token_ids": None, "routed_experts": None})
    # Of an engine that tokenizes, its own count.
    prompt_tokens, generated = reply.num_input_tokens or len(request.prompt_token_ids), reply.num_generated_tokens
    thoughts = sum(one.num_reasoning_tokens or 0 for one in parsed)
    prompt_logprobs = None if reply.prompt_logprobs is None else [_by_token_id(its) for its in reply.prompt_logprobs]
    if not is_chat:  # there each choice has those of its prompt
        choices = [{**choice, "prompt_logprobs": prompt_logprobs, "prompt_token_ids": None} for choice in choices]
    of_chat = {"prompt_logprobs": prompt_logprobs, "prompt_token_ids": None, "prompt_text": None}
    return {
        "id": f"{'chatcmpl' if is_chat else 'cmpl'}-{uuid.uuid4().hex}",
        "object": "chat.completion" if is_chat else "text_completion",
        "created": int(time.time()),
        "model": asked["model"],
        "choices": choices,
        "service_tier": None,
        "system_fingerprint": None,
        "usage": {
            "prompt_tokens": prompt_tokens,
            "total_tokens": prompt_tokens + generated,
            "completion_tokens": generated,
            "prompt_tokens_details": None,
            "completion_tokens_details": {"reasoning_tokens": thoughts} if has_thoughts and is_chat else None,
        },
        **(of_chat if is_chat else {}),
        "kv_transfer_params": None,
        "ec_transfer_params": None,
        "metrics": None,
    }


def _is_chat(asked: Mapping[str, Any]) -> bool:
    return asked["url"].endswith("/chat/completions")


def _chat_choice(one: ParsedAnswer, why: str, logprobs: Any, request: APIRequest) -> dict[str, Any]:
    asked, choice = request.response, request.tool_choice
    calls = [
        {"id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": call["arguments"]}}
        for call in one.tool_calls[: asked.get("calls")]
    ]
    message = {
        "role": asked.get("role", "assistant"),
        "content": one.content or "" if request.forces_a_call else one.content,
        "refusal": None,
        "annotations": None,
        "audio": None,
        "function_call": None,
        **({"tool_calls": calls} if calls else {}),
        "reasoning": one.reasoning if asked.get("include_reasoning", True) else None,
    }
    content, is_hidden = None, one.reasoning is not None and message["reasoning"] is None
    if logprobs is not None and not is_hidden:  # they would spell the thoughts out
        most = asked["logprobs"]
        content = [
            {**_token(tokens[0]), "top_logprobs": [_token(token) for token in (tokens if most < 0 else tokens[:most])]}
            for tokens in logprobs
        ]
    return {
        "message": message,
        "logprobs": None if content is None else {"content": content},
        # As OpenAI has it: "stop" of a call of the function that was named.
        "finish_reason": "tool_calls" if (choice == "required" and why == "stop") or (calls and not choice) else why,
    }


def _text_choice(text: str, why: str, logprobs: Any, asked: Mapping[str, Any]) -> dict[str, Any]:
    form = None
    if logprobs is not None:
        tokens, most = [step[0]["token"] or "" for step in logprobs], asked["logprobs"]
        form = {
            "text_offset": list(accumulate(map(len, tokens), initial=0))[:-1],
            "token_logprobs": [_clamped(step[0]) for step in logprobs],
            "tokens": tokens,
            "top_logprobs": [
                {token["token"] or "": _clamped(token) for token in (step if most < 0 else step[: most + 1])}
                for step in logprobs
            ],
        }
    return {"text": text, "logprobs": form, "finish_reason": why}


def _token(token: Mapping[str, Any]) -> dict[str, Any]:
    text = token["token"] or ""
    return {"token": text, "logprob": _clamped(token), "bytes": list(text.encode("utf-8", "replace"))}


def _clamped(token: Mapping[str, Any]) -> float:
    return max(token["logprob"], LEAST_LOGPROB)


def _by_token_id(tokens: Optional[list[dict[str, Any]]]) -> Optional[dict[str, Any]]:
    if tokens is None:
        return None
    return {
        str(token["token_id"]): {"logprob": _clamped(token), "rank": token["rank"], "decoded_token": token["token"]}
        for token in tokens
    }
