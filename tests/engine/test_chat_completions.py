"""A request in the OpenAI API's form, and the answers that servers give, each in its way."""

from __future__ import annotations

from typing import Any

import pytest

from rayllm_batch.engine.base import ParsedAnswer, Request
from rayllm_batch.engine.chat_completions import CHAT, TEXT, NotAnAnswer, body_of, reply_of

CHATS = [{"role": "user", "content": "Hi"}]
USAGE = {"prompt_tokens": 7, "completion_tokens": 5}


def body(*, is_vllm: bool = False, messages: Any = CHATS, extra_body: Any = None, **settings: Any) -> dict[str, Any]:
    path, said = body_of(Request([], settings, messages=messages), "tiny", extra_body or {}, is_vllm=is_vllm)
    assert path == CHAT and said.pop("model") == "tiny"
    assert said.pop("messages") == messages or messages is not CHATS
    return said


def choice(content: Any = "Yes", reason: Any = "stop", **message: Any) -> dict[str, Any]:
    return {"message": {"content": content, **message}, "finish_reason": reason}


def read(*choices: Any, usage: Any = USAGE, is_vllm: bool = False, **settings: Any) -> Any:
    return reply_of({"choices": list(choices), "usage": usage}, Request([], settings, messages=CHATS), is_vllm)


def test_settings_have_their_own_names() -> None:
    own = {"temperature": 0.5, "top_p": 0.9, "seed": 3, "n": 2, "stop": ["x"], "presence_penalty": 1, "max_tokens": 9}
    vllms = {"top_k": 4, "min_p": 0.1, "repetition_penalty": 1.1, "stop_token_ids": [2], "logit_bias": {"5": 1.0}}
    assert body(**own, **vllms) == {**own, **vllms}
    assert body(extra_body={"reasoning_effort": "low", "seed": 1}, seed=2) == {"reasoning_effort": "low", "seed": 2}


def test_a_text_and_token_ids() -> None:
    settings = {"logprobs": 2, "max_tokens": 4}
    request = Request([], settings, prompt="Once upon")
    assert body_of(request, "tiny", {}) == (TEXT, {"model": "tiny", "prompt": "Once upon", **settings})
    path, said = body_of(Request([1, 2], {"max_tokens": 4}, "adapter"), "tiny", {}, max_tokens="max_completion_tokens")
    assert (path, said) == (TEXT, {"model": "adapter", "prompt": [1, 2], "max_tokens": 4})


@pytest.mark.parametrize("count", [0, 3])
def test_log_probabilities_are_asked_for_as_openai_names_them(count: int) -> None:
    assert body(logprobs=count) == {"logprobs": True, "top_logprobs": count}


def test_an_assistants_last_message_is_continued() -> None:
    said = body(messages=[*CHATS, {"role": "assistant", "content": "Well"}])
    assert said["continue_final_message"] is True and said["add_generation_prompt"] is False


def test_a_forced_call_is_asked_for_in_the_apis_words() -> None:
    tools, named = [{"type": "function", "function": {"name": "f"}}], {"type": "function", "function": {"name": "f"}}
    for choice, wanted in ((named, {"tool_choice": named}), ("none", {"tool_choice": "none"}), (None, {})):
        _, said = body_of(Request([], {}, tools=tools, tool_choice=choice, messages=CHATS), "tiny", {})
        assert said == {"model": "tiny", "messages": CHATS, "tools": tools, **wanted}


def test_calls_in_messages_have_arguments_as_text() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
    messages = [*CHATS, {"role": "assistant", "content": "", "tool_calls": [call]}, {"role": "tool", "content": "2"}]
    request = Request([], {}, tools=[{"type": "function", "function": {"name": "f"}}], messages=messages)
    _, said = body_of(request, "tiny", {})
    assert said["tools"] == request.tools
    sent = said["messages"][1]["tool_calls"][0]
    assert sent["function"] == {"name": "f", "arguments": '{"a": 1}'} and sent["id"] == "call_0"
    assert messages[1]["tool_calls"][0]["function"]["arguments"] == {"a": 1}, "the row's own is left alone"


class TestForms:
    CLOSED = {
        "type": "object",
        "properties": {"a": {"type": "array", "items": {"type": "object", "additionalProperties": False}}},
        "required": ["a"],
        "additionalProperties": False,
    }

    def form(self, is_vllm: bool = False, **form: Any) -> dict[str, Any]:
        return body(is_vllm=is_vllm, structured_outputs=form)

    @pytest.mark.parametrize(
        ("schema", "strict"),
        [
            (CLOSED, True),
            ({**CLOSED, "required": []}, False),
            ({**CLOSED, "additionalProperties": True}, False),
            ({**CLOSED, "$defs": {"x": {"type": "object", "properties": {}}}}, False),
            ({"type": "array", "items": CLOSED}, False),
        ],
    )
    def test_a_schema_is_strict_where_openai_takes_it_so(self, schema: dict[str, Any], strict: bool) -> None:
        named = self.form(json=schema)["response_format"]["json_schema"]
        assert named["schema"] == schema and named.get("strict", False) is strict

    def test_others(self) -> None:
        assert self.form(json_object=True) == {"response_format": {"type": "json_object"}}
        assert self.form(json='{"type": "object"}')["response_format"]["json_schema"]["schema"] == {"type": "object"}
        assert self.form(regex="a+") == {"structured_outputs": {"regex": "a+"}}

    def test_a_choice_is_vllms_own_or_an_object_that_is_unwrapped(self) -> None:
        asked = {"structured_outputs": {"choice": ["yes", "no"]}}
        assert body(is_vllm=True, **asked) == asked
        schema = body(**asked)["response_format"]["json_schema"]["schema"]
        assert schema["properties"]["answer"]["enum"] == ["yes", "no"]
        assert read(choice('{"answer": "no"}'), **asked).text == "no"
        assert read(choice("no"), **asked).text == "no", "of a server that pays no heed to the form"
        assert read(choice('{"answer": "no"}'), is_vllm=True, **asked).text == '{"answer": "no"}'


class TestReplies:
    def test_text_and_counts(self) -> None:
        reply = read(choice())
        assert (reply.text, reply.finish_reason, reply.num_input_tokens, reply.num_generated_tokens) == (
            "Yes",
            "stop",
            7,
            5,
        )
        assert reply.parsed == (ParsedAnswer(content="Yes"),) and reply.texts == () and reply.logprobs is None
        assert read(choice(reason="content_filter")).finish_reason == "content_filter"

    def test_thoughts_and_calls(self) -> None:
        call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
        usage = {**USAGE, "completion_tokens_details": {"reasoning_tokens": 3}}
        (one,) = read(choice(None, "tool_calls", reasoning="Hm", tool_calls=[call]), usage=usage).parsed
        assert one == ParsedAnswer("Hm", None, ({"id": "c1", "name": "f", "arguments": '{"a": 1}'},), 3)
        (one,) = read(choice("Yes", reasoning_content="Hm")).parsed
        assert one.reasoning == "Hm" and one.num_reasoning_tokens is None, "the server does not count them"
        call["function"]["arguments"] = {"a": 1}  # type: ignore[index]
        assert read(choice(None, tool_calls=[call])).parsed[0].tool_calls[0]["arguments"] == '{"a": 1}'

    def test_several_come_in_their_order(self) -> None:
        reply = read({**choice("b"), "index": 1}, {**choice("a", "length"), "index": 0}, n=2)
        assert reply.texts == ("a", "b") and reply.finish_reasons == ("length", "stop")

    @pytest.mark.parametrize(
        "usage",
        [
            None,
            {},
            {"prompt_tokens": None, "completion_tokens": "many"},
            [],
            {"prompt_tokens": -1, "completion_tokens": 2**64},
        ],
    )
    def test_a_server_that_does_not_count(self, usage: Any) -> None:
        reply = read(choice(), usage=usage)
        assert (reply.num_input_tokens, reply.num_generated_tokens) == (0, 0)

    def test_log_probabilities(self) -> None:
        tops = [{"token": "No", "logprob": -2.0}, {"token": "Yes", "logprob": -0.1}]
        of_chat = {"content": [{"token": "Yes", "logprob": -0.1, "top_logprobs": tops}]}
        expected = [
            {"token_id": None, "token": "Yes", "logprob": -0.1, "rank": 1},
            {"token_id": None, "token": "No", "logprob": -2.0, "rank": 2},
        ]
        assert read({**choice(), "logprobs": of_chat}, logprobs=2).logprobs == [[expected]]
        of_text = {"tokens": ["Yes"], "token_logprobs": [-0.1], "top_logprobs": [{"Yes": -0.1, "No": -2.0}]}
        given = {"choices": [{"text": "Yes", "logprobs": of_text}], "usage": USAGE}
        assert reply_of(given, Request([1], {"logprobs": 2})).logprobs == [[expected]]
        assert read({**choice(), "logprobs": None}, logprobs=2).logprobs == [[]]
        rare = {"content": [{"token": "Ja", "logprob": -9.0, "top_logprobs": tops}]}
        assert read({**choice(), "logprobs": rare}, logprobs=2).logprobs[0][0][0]["rank"] is None

    @pytest.mark.parametrize(
        "given",
        [
            None,
            [],
            "text",
            {},
            {"choices": None},
            {"choices": [None]},
            {"choices": [{}]},
            {"choices": [{"message": {"content": 7}}]},
            {"choices": [choice(), choice()]},
            {"choices": [choice(reason="abort")]},
            {"choices": [choice("", "error")]},
            {"choices": [choice(None, tool_calls=[{"function": {}}])]},
            {"choices": [choice(None, tool_calls=True)]},
            {"choices": [{**choice(), "index": "1"}, {**choice(), "index": 0}]},
            {
                "choices": [
                    {**choice(), "logprobs": {"content": [{"token": "a", "logprob": "low", "top_logprobs": []}]}}
                ]
            },
            {"choices": [{**choice(), "logprobs": {"content": [{"token": "a", "logprob": 10**400}]}}]},
            {"choices": [{**choice(), "logprobs": {"tokens": 3}}]},
        ],
    )
    def test_what_is_no_answer(self, given: Any) -> None:
        with pytest.raises(NotAnAnswer):
            reply_of(given, Request([], {"logprobs": 1}, messages=CHATS))

    def test_what_was_not_asked_for_may_have_any_form(self) -> None:
        assert read({**choice(), "logprobs": {"tokens": 3}}).text == "Yes"
