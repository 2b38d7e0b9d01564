"""Lines of a batch file: what is asked by each, and what a server would refuse."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rayllm_batch.errors import WorkloadError
from rayllm_batch.tasks.api_urls import CHAT, COMPLETION
from rayllm_batch.tasks.completions import Completions
from rayllm_batch.workload.invalid_request import InvalidRequest
from rayllm_batch.workload.openai_batch import OpenAIBatchFile
from rayllm_batch.workload.openai_request import read_request

HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}


def line(body: Any, url: Any = CHAT, **more: Any) -> bytes:
    return json.dumps({"custom_id": "1", "method": "POST", "url": url, "body": body, **more}).encode()


def read(url: str = CHAT, served: tuple[str, ...] = ("m",), adapters: bool = False, **body: Any) -> dict[str, Any]:
    asked = {"messages": HELLO} if url == CHAT else {"prompt": "Once"}
    return read_request(line({"model": "m", **asked, **body}, url), served, adapters)


def refusal(given: bytes | None, **how: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        read_request(given, ("m",), **{"adapters": False, **how})
    return caught.value


def test_a_chat() -> None:
    assert read() == {"messages": HELLO, "response": {"url": CHAT, "model": "m"}}


@pytest.mark.parametrize(
    ("body", "settings"),
    [
        ({"max_tokens": 5}, {"max_tokens": 5}),
        ({"max_tokens": 5, "max_completion_tokens": 7}, {"max_tokens": 7}),
        ({"temperature": None, "seed": 3, "stop": ["x"], "n": 2}, {"seed": 3, "stop": ["x"], "n": 2}),
        ({"logprobs": True}, {"logprobs": 0}),
        ({"logprobs": True, "top_logprobs": 4}, {"logprobs": 4}),
        ({"logprobs": True, "logprob_token_ids": [1, 2]}, {"logprob_token_ids": [1, 2]}),
        ({"logprobs": False, "top_logprobs": 0}, {}),
        ({"top_k": 5, "min_tokens": 2, "ignore_eos": True}, {"top_k": 5, "min_tokens": 2, "ignore_eos": True}),
        ({"structured_outputs": {"choice": ["a", "b"]}}, {"structured_outputs": {"choice": ["a", "b"]}}),
        ({"user": "u", "metadata": {"a": "b"}, "store": True, "service_tier": "flex", "priority": 0}, {}),
        (
            {"stream": False, "stream_options": None, "modalities": ["text"], "echo": False, "use_beam_search": False},
            {},
        ),
        ({"add_special_tokens": False, "length_penalty": 1.0, "truncate_prompt_tokens": None}, {}),
    ],
)
def test_settings(body: dict[str, Any], settings: dict[str, Any]) -> None:
    assert read(**body).get("sampling_params", {}) == settings


@pytest.mark.parametrize(
    ("form", "asked"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"json_object": True}),
        ({"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}}, {"json": SCHEMA}),
    ],
)
def test_response_format_reaches_the_engine(form: dict[str, Any], asked: Any) -> None:
    task = Completions()
    parsed = task.parse(lambda row: read(response_format=form), {})
    assert task.request([1], task.own_text(parsed)).settings.get("structured_outputs") == asked


@pytest.mark.parametrize(
    ("body", "prompt"),
    [
        ({"prompt": "Once"}, {"prompt": "Once"}),
        ({"prompt": ["Once"]}, {"prompt": "Once"}),
        ({"prompt": [1, 2]}, {"prompt_token_ids": [1, 2]}),
        ({"prompt": [[1, 2]]}, {"prompt_token_ids": [1, 2]}),
    ],
)
def test_prompts_of_completions(body: dict[str, Any], prompt: dict[str, Any]) -> None:
    assert read(COMPLETION, logprobs=2, **body) == {
        **prompt,
        "sampling_params": {"logprobs": 2},
        "response": {"url": COMPLETION, "model": "m", "logprobs": 2},
    }


def test_a_completion_has_16_tokens_unless_something_says_otherwise() -> None:
    row = {"custom_id": "1", "request": line({"model": "m", "prompt": "Once"}, COMPLETION)}
    more = {"custom_id": "1", "request": line({"model": "m", "prompt": "Once", "max_tokens": 3}, COMPLETION)}
    assert OpenAIBatchFile("x").parse_row(row)["sampling_params"] == {"max_tokens": 16}
    assert OpenAIBatchFile("x").parse_row(more)["sampling_params"] == {"max_tokens": 3}
    assert OpenAIBatchFile("x", sampling_params={"max_tokens": 9}).parse_row(row)["sampling_params"] == {}


def test_tools() -> None:
    assert read(tools=[TOOL])["tools"] == [TOOL]
    assert read(tools=[TOOL], tool_choice="auto", parallel_tool_calls=False)["response"]["calls"] == 1
    task = Completions(parsers=frozenset({"tool_parser"}))
    parsed = task.parse(lambda row: read(tools=[TOOL], tool_choice="auto"), {})
    assert parsed["tools"] == task.request([1], task.own_text(parsed)).tools == [TOOL]
    for any_parser in (task, Completions()):
        parsed = any_parser.parse(lambda row: read(tools=[TOOL], tool_choice="none"), {})
        assert parsed["chat_template_kwargs"] == {"tools": [TOOL]}, "the model sees them, as from a server"
        assert any_parser.request([1], any_parser.own_text(parsed)).tools == []
    for choice in ("required", {"type": "function", "function": {"name": TOOL["function"]["name"]}}):
        parsed = task.parse(lambda row, choice=choice: read(tools=[TOOL], tool_choice=choice), {})
        assert task.request([1], task.own_text(parsed)).tool_choice == choice


BEGUN = [*HELLO, {"role": "assistant", "content": "Well,"}]


@pytest.mark.parametrize(
    ("body", "template"),
    [
        ({}, None),
        ({"add_generation_prompt": True, "continue_final_message": False}, None),
        ({"messages": BEGUN}, {"continue_final_message": False, "add_generation_prompt": True}),
        ({"messages": BEGUN, "continue_final_message": True, "add_generation_prompt": False}, None),
        ({"messages": BEGUN, "continue_final_message": True}, None),
        ({"add_generation_prompt": False}, {"continue_final_message": False, "add_generation_prompt": False}),
        ({"chat_template_kwargs": {"enable_thinking": False}}, {"enable_thinking": False}),
        ({"reasoning_effort": "low"}, {"reasoning_effort": "low", "enable_thinking": True}),
        ({"reasoning_effort": "none"}, {"reasoning_effort": "none", "enable_thinking": False}),
        ({"documents": [{"title": "a", "text": "b"}]}, {"documents": [{"title": "a", "text": "b"}]}),
    ],
)
def test_what_the_chat_template_gets(body: dict[str, Any], template: Any) -> None:
    assert read(**body).get("chat_template_kwargs") == template


def test_models() -> None:
    assert read(served=("m", "alias"), model="alias")["response"]["model"] == "alias"
    assert read(served=("m",), model=None)["response"]["model"] == "m"
    assert read(served=(), model="whatever")["response"]["model"] == "whatever"
    adapter = read(adapters=True, model="french")
    assert (adapter["model"], adapter["response"]["model"]) == ("french", "french")
    refused = refusal(line({"model": "gpt-4", "messages": HELLO}))
    assert (refused.status, refused.param) == (404, "model") and "`gpt-4` does not exist" in str(refused)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"stream": True}, "stream"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "a"}}, "audio"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tools": []}, "tools"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"use_beam_search": True}, "use_beam_search"),
        ({"echo": True}, "echo"),
        ({"messages": "Hello"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"logprobs": 3}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"top_logprobs": "3", "logprobs": True}, "top_logprobs"),
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": "open"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": [{"schema": {}}]}}, "response_format"),
        ({"chat_template_kwargs": []}, "chat_template_kwargs"),
        ({"reasoning_effort": "huge"}, "reasoning_effort"),
        ({"documents": ["a"]}, "documents"),
        ({"continue_final_message": True, "add_generation_prompt": True}, "continue_final_message"),
        ({"cache_salt": 3}, "cache_salt"),
        ({"model": ["m"]}, "model"),
        ({"prompt": "of another url"}, "prompt"),
        ({"max_new_tokens": 3}, "max_new_tokens"),
    ],
)
def test_what_is_refused_of_a_chat(body: dict[str, Any], param: str) -> None:
    refused = refusal(line({"model": "m", "messages": HELLO, **body}))
    assert (refused.param, refused.status) == (param, 400)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": [[1], [2]]}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": 7}, "prompt"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": "a", "best_of": 3}, "best_of"),
        ({"prompt": "a", "logprob_token_ids": [1]}, "logprob_token_ids"),
        ({"prompt": "a", "add_special_tokens": False}, "add_special_tokens"),
    ],
)
def test_what_is_refused_of_a_completion(body: dict[str, Any], param: str) -> None:
    assert refusal(line({"model": "m", **body}, COMPLETION)).param == param


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (None, "longer than 16 MiB"),
        (b"not json", "not JSON"),
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[1]", "must be a JSON object"),
        (b'"text"', "must be a JSON object"),
        (b'{"custom_id": "1", "x": NaN}', "NaN, which JSON has not"),
        (b'{"custom_id": "1", "x": "\xff"}', "not UTF-8"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, "brackets"),
        (b'{"custom_id": "1", "x": ' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"method": "POST"}', "no custom_id"),
        (b'{"custom_id": 7}', "custom_id must be a text"),
        (b'{"custom_id": ""}', "custom_id must be a text"),
        (b'{"custom_id": "\\ud800"}', "custom_id must be a text"),
        (line({}, method="GET"), "method must be POST"),
        (line({}, url=None), "url must be"),
        (line({}, url="/v1/chat/completion"), "Did you mean '/v1/chat/completions'"),
        (line({}, url="/v1/embeddings"), "input must be a text"),
        (line({}, url="/v1/rerank"), "must have query and documents, but has nothing"),
        (line({}, url="/pooling"), "url must be one of"),
        (line([]), "body must be"),
        (line({"messages": json.loads("[" * 200 + "]" * 200)}), "100 levels"),
    ],
)
def test_lines_that_are_no_requests(given: bytes | None, said: str) -> None:
    assert said in str(refusal(given))


@pytest.mark.parametrize(
    "body",
    [
        {"max_tokens": 30.0},
        {"temperature": "0"},
        {"temperature": 3},
        {"seed": "7"},
        {"n": 2, "temperature": 0},
        {"stop": [""]},
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"href": "http://x"}}]}]},
        {"tools": [TOOL]},
        {"tools": "x", "tool_choice": "none"},
        {"tools": [TOOL], "tool_choice": "required"},
    ],
)
def test_what_the_task_refuses(body: dict[str, Any]) -> None:
    """What `generate` checks in any row: not a second time here."""
    with pytest.raises((TypeError, WorkloadError)):
        Completions().parse(lambda row: read(**body), {})
