"""One line of an OpenAI batch file: read, and said in this library's terms; or refused, as a server would."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Optional

from rayllm_batch.engine.sampling_fields import known_fields
from rayllm_batch.errors import did_you_mean, is_deep, shown
from rayllm_batch.tasks.api_urls import CHAT, COMPLETION, URLS
from rayllm_batch.workload.invalid_request import InvalidRequest
from rayllm_batch.workload.openai_pooling import read_body

LONGEST = 16 << 20  # bytes of a line: the text of more tokens than any model's context
COMPLETION_TOKENS = 16  # the API's own max_tokens of /v1/completions
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
# Of the body: what is no setting and is read here, what says nothing of the answer, and what is not done, with what it
# may be nevertheless: the value that stands for "not given".
READ = {
    CHAT: """messages model logprobs top_logprobs max_tokens max_completion_tokens tools tool_choice parallel_tool_calls
        include_reasoning reasoning_effort chat_template_kwargs documents add_generation_prompt continue_final_message
        cache_salt response_format""".split(),
    COMPLETION: "prompt model logprobs max_tokens cache_salt response_format".split(),
}
OF_NO_EFFECT = """user metadata store service_tier safety_identifier prompt_cache_key prompt_cache_retention priority
    request_id session_id stream_interval""".split()
NOT_DONE: dict[str, tuple[Any, str]] = {
    "stream": (False, "a batch has no streams"),
    "stream_options": ({}, "a batch has no streams"),
    "audio": ({}, "answers are text"),
    "modalities": (["text"], "answers are text"),
    "functions": ([], 'they are "tools", each {"type": "function", "function": {...}}'),
    "function_call": ("none", 'it is "tool_choice"'),
    "use_beam_search": (False, "answers are sampled, or greedy with temperature 0"),
    "length_penalty": (1, "it is of beam search"),
    "best_of": (1, "ask for n answers"),
    "echo": (False, "answers come without the prompt"),
    "suffix": ("", "a prompt is continued at its end"),
    "prompt_embeds": ([], "a prompt is text or token ids"),
    "truncate_prompt_tokens": (None, "a prompt that is too long is an error"),
    "chat_template": (None, "it is the config's"),
    "return_token_ids": (False, "answers are text"),
    "return_tokens_as_token_ids": (False, "log-probabilities are of texts"),
    "return_prompt_text": (False, "answers come without the prompt"),
    "web_search_options": ({}, "nothing is searched"),
    "prediction": ({}, "use speculative_config in engine_kwargs"),
    "vllm_xargs": ({}, "engines have no extensions here"),
}


def read_line(line: Optional[bytes]) -> dict[str, Any]:
    """The object on a line; None stands for one that is too long to be read. Raises InvalidRequest."""
    if line is None:
        raise InvalidRequest(f"the line is longer than {LONGEST >> 20} MiB, which no model reads")
    try:
        request = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
    except InvalidRequest:
        raise
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the line is not UTF-8 (byte {error.start + 1:,}): {_beginning(line)}") from None
    except (ValueError, RecursionError) as error:
        why = "brackets in brackets without end" if isinstance(error, RecursionError) else error
        raise InvalidRequest(f"the line is not JSON ({why}): {_beginning(line)}") from None
    if not isinstance(request, dict):
        raise InvalidRequest(f"the line must be a JSON object, but is {shown(request, 80)}")
    return request


def custom_id_of(request: Mapping[str, Any]) -> str:
    """Raises InvalidRequest where it has none."""
    given = request.get("custom_id")
    if given is None:
        raise InvalidRequest("the request has no custom_id, by which its result would be known", "custom_id")
    try:
        if isinstance(given, str) and given and given.encode():
            return given
    except UnicodeEncodeError:  # half of a surrogate pair
        pass
    raise InvalidRequest(f"custom_id must be a text that is not empty, but is {shown(ascii(given), 80)}", "custom_id")


def read_request(line: Optional[bytes], served: Sequence[str], adapters: bool) -> dict[str, Any]:
    """What `parse_row` returns for the tasks that answer as a server (tasks/completions.py, pooled_responses.py).

    Raises InvalidRequest.

    served: the names of the model; none of them: any name is. adapters: other names are those of LoRA adapters.
    """
    request = read_line(line)
    custom_id_of(request)
    url, body = request.get("url"), request.get("body")
    if request.get("method", "POST") != "POST":
        raise InvalidRequest(f"method must be POST, but is {shown(request['method'], 80)}", "method")
    if url not in URLS:
        raise InvalidRequest(_wrong_url(url), "url")
    if not isinstance(body, dict):
        raise InvalidRequest(f"body must be a JSON object, but is {shown(body, 80)}", "body")
    if is_deep(body):
        raise InvalidRequest("body has lists or objects in more than 100 levels", "body")
    body = {key: value for key, value in body.items() if value is not None}
    name, adapter = _model(body.get("model"), served, adapters)
    settings = _settings(body, url) if url in READ else {}
    if url not in READ:
        parsed = read_body(body, url)
    else:
        parsed = _completion(body, settings) if url == COMPLETION else _chat(body, settings)
    parsed["response"] = {"url": url, "model": name, **parsed["response"]}
    more = {"sampling_params": settings, "model": adapter, "cache_salt": _text(body, "cache_salt")}
    return {**parsed, **{key: value for key, value in more.items() if value}}


def _refuse_constant(name: str) -> Any:
    raise InvalidRequest(f"the line is not JSON: it has {name}, which JSON has not")


def _beginning(line: bytes) -> str:
    return repr(line[:80].decode("utf-8", "replace"))


def _wrong_url(url: Any) -> str:
    near = did_you_mean(url, URLS) if isinstance(url, str) else ""
    return f"url must be one of {', '.join(URLS)}, but is {shown(url, 80)}.{near}"


def _model(name: Any, served: Sequence[str], adapters: bool) -> tuple[str, Optional[str]]:
    """As the response has it, and of an adapter its name."""
    if name is None and served:  # as vLLM's server takes it
        return served[0], None
    if not isinstance(name, str) or not name:
        raise InvalidRequest(f"model must be the name of a model, but is {shown(name, 80)}", "model")
    if not served or name in served:
        return name, None
    if adapters:
        return name, name
    raise InvalidRequest(f"The model `{name}` does not exist; it is `{served[0]}` here.", "model", 404)


def _settings(body: dict[str, Any], url: str) -> dict[str, Any]:
    """Those that have one name here and there, and response_format. Raises for a key that would have no effect."""
    own = known_fields().sampling.keys() - {"logprobs", "max_tokens"}
    for key, value in body.items():
        if key in own or key in READ[url] or key in OF_NO_EFFECT:
            continue
        if key in NOT_DONE:
            nothing, why = NOT_DONE[key]
            if value == nothing or not value and not nothing:
                continue
            raise InvalidRequest(f"{key} is not supported in a batch: {why}", key)
        if key == "add_special_tokens" and value == (url == COMPLETION):
            continue
        known = [*READ[url], *own]
        raise InvalidRequest(f"the key {key!r} would have no effect.{did_you_mean(key, known)}", key)
    settings = {key: value for key, value in body.items() if key in own}
    if (form := body.get("response_format")) is not None:
        kind = form.get("type") if isinstance(form, dict) else None
        if kind not in ("text", "json_object", "json_schema", "structural_tag"):
            raise InvalidRequest(
                f'response_format must be {{"type": "json_schema", "json_schema": {{"schema": ...}}}}, or one of type '
                f"json_object, structural_tag or text, but is {shown(form)}",
                "response_format",
            )
        if kind == "structural_tag":
            settings["structured_outputs"] = {"structural_tag": json.dumps(form)}
        elif kind == "json_schema" and not _has_schema(form.get("json_schema")):
            raise InvalidRequest("response_format.json_schema.schema must be a JSON schema", "response_format")
        else:
            settings["response_format"] = form
    return settings


def _has_schema(given: Any) -> bool:
    return isinstance(given, dict) and isinstance(given.get("schema"), dict)


def _chat(body: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest(f"messages must be a list of at least one message, but is {shown(messages)}", "messages")
    most = body.get("max_completion_tokens", body.get("max_tokens"))
    settings |= {} if most is None else {"max_tokens": most}
    response: dict[str, Any] = {}
    wants, top = _flag(body, "logprobs", False), body.get("top_logprobs", 0)
    if isinstance(top, bool) or not isinstance(top, int) or top < -1:
        raise InvalidRequest(
            f"top_logprobs must be a whole number from 0, or -1, but is {shown(top, 80)}", "top_logprobs"
        )
    for key in ("top_logprobs", "logprob_token_ids"):
        if body.get(key) and not wants:
            raise InvalidRequest(f"{key} needs logprobs to be true", key)
    if wants:
        response["logprobs"] = -1 if body.get("logprob_token_ids") else top
        settings |= {} if body.get("logprob_token_ids") else {"logprobs": top}
    if not _flag(body, "include_reasoning", True):
        response["include_reasoning"] = False
    parsed = {"messages": messages, "response": response, **_tools(body, response)}
    if template := _template(body, messages[-1]):
        parsed["chat_template_kwargs"] = template
    if body.get("add_generation_prompt") is False and isinstance(last := messages[-1], dict):
        response["role"] = last.get("role")
    return parsed


def _tools(body: dict[str, Any], response: dict[str, Any]) -> dict[str, Any]:
    tools, choice = body.get("tools"), body.get("tool_choice")
    if tools == []:
        raise InvalidRequest("tools must not be an empty list: leave it out", "tools")
    if tools is None:
        if choice not in (None, "none"):
            raise InvalidRequest("tool_choice needs tools", "tool_choice")
        return {}
    if choice == "none":  # a server gives them to the chat template all the same
        response["calls"] = 0
    elif not _flag(body, "parallel_tool_calls", True):
        response["calls"] = 1
    return {"tools": tools, **({} if choice in (None, "auto", "none") else {"tool_choice": choice})}


def _template(body: dict[str, Any], last: Any) -> dict[str, Any]:
    """What the chat template gets, beside messages and tools."""
    given = body.get("chat_template_kwargs", {})
    if not isinstance(given, dict):
        raise InvalidRequest(f"chat_template_kwargs must be an object, but is {shown(given)}", "chat_template_kwargs")
    kwargs: dict[str, Any] = {}
    if (effort := body.get("reasoning_effort")) is not None:
        if effort not in EFFORTS:
            wanted = ", ".join(EFFORTS)
            raise InvalidRequest(
                f"reasoning_effort must be one of {wanted}, but is {shown(effort)}", "reasoning_effort"
            )
        kwargs = {"reasoning_effort": effort, "enable_thinking": effort != "none"}
    if (documents := body.get("documents")) is not None:
        if not isinstance(documents, list) or not all(isinstance(one, dict) for one in documents):
            raise InvalidRequest(f"documents must be a list of objects, but is {shown(documents)}", "documents")
        kwargs["documents"] = documents
    is_begun = isinstance(last, dict) and last.get("role") == "assistant"
    goes_on = _flag(body, "continue_final_message", False)
    prompts = _flag(body, "add_generation_prompt", not goes_on)
    if goes_on and prompts:
        raise InvalidRequest(
            "continue_final_message and add_generation_prompt exclude each other", "continue_final_message"
        )
    # Else as a row has it that says nothing: what the assistant has begun is continued.
    if (goes_on, prompts) != ((True, False) if is_begun else (False, True)):
        kwargs |= {"continue_final_message": goes_on, "add_generation_prompt": prompts}
    return {**kwargs, **given}


def _completion(body: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    settings |= {key: body[key] for key in ("max_tokens", "logprobs") if key in body}
    response = {}
    if body.get("logprob_token_ids"):
        if "logprobs" not in body:
            raise InvalidRequest("logprob_token_ids needs logprobs to be set", "logprob_token_ids")
        del settings["logprobs"]
    if "logprobs" in body:
        response["logprobs"] = -1 if body.get("logprob_token_ids") else body["logprobs"]
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], (str, list)):
        prompt = prompt[0]
    if isinstance(prompt, str) and prompt:
        return {"prompt": prompt, "response": response}
    if isinstance(prompt, list) and prompt and not any(isinstance(one, (str, list)) for one in prompt):
        return {"prompt_token_ids": prompt, "response": response}
    what = "are several" if isinstance(prompt, list) and len(prompt) > 1 else f"is {shown(prompt)}"
    raise InvalidRequest(
        f"prompt must be one text or one list of token ids, but {what}: write a request each", "prompt"
    )


def _flag(body: dict[str, Any], key: str, default: bool) -> bool:
    value = body.get(key, default)
    if not isinstance(value, bool):
        raise InvalidRequest(f"{key} must be true or false, but is {shown(value, 80)}", key)
    return value


def _text(body: dict[str, Any], key: str) -> Optional[str]:
    value = body.get(key)
    if value is not None and not (isinstance(value, str) and value):
        raise InvalidRequest(f"{key} must be a text that is not empty, but is {shown(value, 80)}", key)
    return value
