"""What parse_row returns, read to mean one thing: nothing is dropped, and nothing becomes a Python repr in a prompt."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rayllm_batch.errors import WorkloadError
from rayllm_batch.tasks.chat import describe_error
from rayllm_batch.tasks.generate import Generate

HELLO = {"role": "user", "content": "hello"}


def parsed(returned: Any, **task: Any) -> dict[str, Any]:
    return Generate(**task).parse(lambda row: returned, {"id": 1})


def content(value: Any, **message: Any) -> str:
    return parsed({"messages": [{"role": "user", "content": value, **message}]})["messages"][0]["content"]


def refusal(returned: Any, **task: Any) -> str:
    with pytest.raises((TypeError, WorkloadError)) as caught:
        parsed(returned, **task)
    return describe_error(caught.value, {"id": 1})


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("sampling_parameters", "Did you mean 'sampling_params'"),
        ("prompt_tokens_ids", "Did you mean 'prompt_token_ids'"),
        ("modle", "Did you mean 'model'"),
        ("temperature", "goes into its sampling_params"),
        ("stop", "goes into its sampling_params"),
        ("audio", "make it a part of a message"),
        ("videos", "make it a part of a message"),
        ("functions", 'they are "tools" here'),
        ("text", "write it as a chat"),
        ("zzz", "'zzz'"),
    ],
)
def test_a_key_that_would_have_no_effect(key: str, words: str) -> None:
    message = refusal({"messages": [HELLO], key: None})
    assert (
        message.startswith("parse_row: TypeError: ")
        and repr(key) in message
        and "no effect" in message
        and words in message
    )
    assert repr(key) in refusal({"prompt_token_ids": [1], key: 1})


@pytest.mark.parametrize("key", ["sampling_params", "model", "tools", "tool_choice", "output_schema"])
def test_a_null_is_what_a_table_has_for_not_given(key: str) -> None:
    assert parsed({"messages": [HELLO], key: None}) == {"messages": [HELLO]}


def test_a_prompt_under_another_name() -> None:
    for returned in ({"text": "hello"}, {"message": [HELLO]}, {"inputs": "x"}):
        message = refusal(returned)
        assert "parse_row must return" in message and repr(next(iter(returned))) in message


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ([{"type": "text", "text": "one"}], "one"),
        ([{"type": "text", "text": "one"}, {"type": "text", "text": "two"}], "one\ntwo"),
        (({"type": "text", "text": ""},), ""),
        (np.array([{"type": "text", "text": "of NumPy"}], dtype=object), "of NumPy"),
        ([{"type": "text", "text": "a", "image_url": None}], "a"),
    ],
)
def test_parts_of_text_are_text(parts: Any, text: str) -> None:
    assert content(parts) == text


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([{"type": "input_audio", "input_audio": {}}], "input_audio"),
        ([{"type": "audio_url", "audio_url": {}}], "audio_url"),
        ([{"type": "file", "file": {}}], "'file'"),
        ([{"type": "refusal", "refusal": "no"}], "'refusal'"),
        ([{"type": "Text", "text": "x"}], "'Text'"),
        ([{"type": "text", "text": "x"}, "bare"], "bare"),
        ([{"image_url": {"url": "y"}}], 'have another "type": image_url'),
        ([{"type": "t" * 1000}], "of another type"),
        ([{"text": "x"}], "type"),
        ([{"type": "text"}], "text"),
        ([{"type": "text", "text": 5}], "text"),
        ([{"type": "text", "text": "x", "image_url": {"url": "y"}}], "image_url"),
        ([], "content"),
        ([None], "part"),
        ([["a"]], "part"),
    ],
)
def test_parts_of_anything_else(parts: Any, words: str) -> None:
    assert words in refusal({"messages": [{"role": "user", "content": parts}]})


@pytest.mark.parametrize(
    ("part", "kind", "source"),
    [
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}, "image", "data:image/png;base64,AA"),
        ({"type": "image_url", "image_url": {"url": "https://a/b", "detail": "auto"}}, "image", "https://a/b"),
        ({"type": "image_url", "image_url": "https://a/b", "text": None}, "image", "https://a/b"),
        ({"type": "image", "image": {"bytes": b"x", "path": None}}, "image", {"bytes": b"x", "path": None}),
        ({"type": "image", "path": "a.png"}, "image", "a.png"),
        ({"type": "video", "url": "https://a/b"}, "video", "https://a/b"),
        ({"type": "video_url", "video_url": {"url": "file:/a"}}, "video", "file:/a"),
        ({"type": "audio_url", "audio_url": {"url": "https://a/b"}}, "audio", "https://a/b"),
        (
            {"type": "input_audio", "input_audio": {"data": "AA==", "format": "mp3"}},
            "audio",
            "data:audio/mp3;base64,AA==",
        ),
    ],
)
def test_media_are_parts_without_what_they_are(part: dict[str, Any], kind: str, source: Any) -> None:
    given = {"messages": [{"role": "user", "content": [part, {"type": "text", "text": "what?"}]}]}
    found = parsed(given)
    assert found["media"] == [(kind, source)]
    assert found["messages"][0]["content"] == [{"type": kind}, {"type": "text", "text": "what?"}]


def test_an_answer_continues_no_picture() -> None:
    begun = {"role": "assistant", "content": [{"type": "image", "image": b"x"}]}
    assert "more than text" in refusal({"messages": [{"role": "user", "content": "Paint."}, begun]})


SIGNED = {"url": "https://a.example/b.png?sig=SECRET"}
PART = {"type": "image_url", "image_url": SIGNED}


@pytest.mark.parametrize(
    "returned",
    [
        [{"role": "user", "content": [PART]}],
        {"messages": {"role": "user", "content": [PART]}},
        {"messages": [PART]},
        {"messages": [{"content": [PART]}]},
        *(
            {"messages": [{"role": "user", "content": content}]}
            for content in (
                PART,
                [[PART]],
                [SIGNED["url"]],
                [{"image_url": SIGNED}],
                [{**PART, "type": None}],
                [{**PART, "type": "text", "text": "x"}],
                [{"type": "text", "text": SIGNED}],
                [{"image_url": {"url": "data:image/png,SECRET"}}],
                [{"image": "a.example/b.png?sig=SECRET"}],
                [{"type": SIGNED["url"], "image_url": SIGNED}],
                [{**PART, "detail": "low"}],
                [{"type": "image_url", "image_url": {**SIGNED, "alt": "x"}}],
                [{"type": "image", "image": SIGNED["url"], "url": SIGNED["url"]}],
            )
        ),
    ],
)
def test_no_error_shows_a_signed_url(returned: Any) -> None:
    said = refusal(returned)
    assert "SECRET" not in said and "example" not in said


@pytest.mark.parametrize("value", [None, 5, 1.5, True, b"bytes", {"text": "a"}, {"a"}, np.int64(3)])
def test_content_that_is_no_text(value: Any) -> None:
    assert "content must be text" in refusal({"messages": [{"role": "user", "content": value}]})


def test_numpys_text_is_text() -> None:
    assert content(np.str_("hello")) == "hello"


@pytest.mark.parametrize("key", ["contents", "images", "weight", "cache_control"])
def test_a_messages_key_that_no_template_reads(key: str) -> None:
    message = refusal({"messages": [{**HELLO, key: 1}]})
    assert repr(key) in message and "no effect" in message
    assert parsed({"messages": [{**HELLO, key: None}]}), "of a table with gaps"


def test_what_templates_read_reaches_them() -> None:
    messages = [
        {"role": "user", "content": "2 + 2?", "name": "Ada"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "add", "arguments": {"a": 2}}}],
        },
        {"role": "tool", "content": "4", "tool_call_id": "1"},
        {"role": "assistant", "content": "4", "reasoning_content": "sum"},
    ]
    found = parsed({"messages": tuple(messages)})["messages"]
    assert [message["content"] for message in found] == ["2 + 2?", "", "4", "4"]
    assert [{k: v for k, v in message.items() if k != "content"} for message in found] == [
        {k: v for k, v in message.items() if k != "content"} for message in messages
    ]


CALL = {"id": "1", "type": "function", "function": {"name": "add", "arguments": {"a": 2}}}


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ('{"a": 2}', {"a": 2}),
        ({"a": 2}, {"a": 2}),
        ("", {}),
        (None, {}),
        ("{}", {}),
        ({"a": 2, "of others": None}, {"a": 2}),
        ('{"a": null}', {"a": None}),
    ],
)
def test_a_calls_arguments_are_a_dict_as_templates_expect_them(arguments: Any, wanted: dict[str, Any]) -> None:
    function = {"name": "add", "arguments": arguments}
    for call, found in (
        ({**CALL, "function": function}, {**CALL, "function": {"name": "add", "arguments": wanted}}),
        (function, {"type": "function", "function": {"name": "add", "arguments": wanted}}),
        ({"id": "7", **function}, {"type": "function", "id": "7", "function": {"name": "add", "arguments": wanted}}),
    ):
        [_, message] = parsed(
            {"messages": [HELLO, {"role": "assistant", "tool_calls": np.array([call], dtype=object)}]}
        )["messages"]
        assert message == {"role": "assistant", "tool_calls": [found], "content": ""}
    assert function["arguments"] is arguments, "the user's own is not changed"


@pytest.mark.parametrize(
    "calls",
    [
        "add(2)",
        {"name": "add"},
        ["add"],
        [{"function": "add"}],
        [{"function": {"arguments": "{}"}}],
        [{"name": "add", "arguments": "2 + 2"}],
        [{"name": "add", "arguments": "[1]"}],
        [{"name": 5, "arguments": {}}],
        [None],
    ],
)
def test_what_is_no_call_of_a_tool(calls: Any) -> None:
    assert "tool_calls must be" in refusal(
        {"messages": [HELLO, {"role": "assistant", "content": "", "tool_calls": calls}]}
    )


def test_nulls_of_a_table_are_not_given() -> None:
    message = {**HELLO, "name": None, "tool_calls": None, "tool_call_id": None, "reasoning": None, "anything": None}
    assert parsed({"messages": [message]})["messages"] == [HELLO]
    assert parsed({"messages": [{**HELLO, "tool_calls": []}]})["messages"] == [HELLO], (
        "templates ask whether the key is there"
    )


@pytest.mark.parametrize("key", ["name", "tool_call_id", "reasoning_content", "thinking"])
def test_what_a_template_would_write_out_as_python_does(key: str) -> None:
    assert f"a message's {key} must be text, but is list: ['a']" in refusal({"messages": [{**HELLO, key: ["a"]}]})


@pytest.mark.parametrize("model", [5, "", ["a"], {"name": "a"}])
def test_an_adapters_name(model: Any) -> None:
    assert "model" in refusal({"messages": [HELLO], "model": model})


def test_settings_go_over_the_workloads() -> None:
    base = {"max_tokens": 10, "min_tokens": 5}
    assert parsed({"messages": [HELLO], "sampling_params": {"max_tokens": None, "seed": np.int64(3)}}, settings=base)[
        "sampling_params"
    ] == {"seed": 3}
    message = refusal({"messages": [HELLO], "sampling_params": {"max_tokens": 4}}, settings=base)
    assert message.startswith("sampling_params: min_tokens=5 in this row's sampling_params is more than max_tokens=4")
    assert "speculative" in refusal(
        {"messages": [HELLO], "sampling_params": {"min_p": 0.1}},
        excluded={"min_p": "does not go together with speculative decoding."},
    )


def test_a_request_is_the_same_text_however_it_is_written() -> None:
    one = parsed(
        {"messages": [HELLO], "sampling_params": {"logit_bias": {np.int64(5): 1.0}, "stop": ("a",), "max_tokens": None}}
    )
    other = parsed({"messages": [HELLO], "sampling_params": {"stop": ["a"], "logit_bias": {"5": 1.0}}})
    assert Generate().own_text(one) == Generate().own_text(other) is not None
    assert (
        Generate().own_text(parsed({"messages": [HELLO], "sampling_params": {"max_tokens": None}, "model": None}))
        is None
    )


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (KeyError("body"), "parse_row: KeyError: 'body' (the row has: id)"),
        (SystemExit(2), "parse_row: SystemExit: 2"),
        (KeyboardInterrupt(), "parse_row: KeyboardInterrupt:"),
        (Unspeakable(), "parse_row: Unspeakable:"),
        (StopIteration(), "parse_row: StopIteration:"),
    ],
)
def test_errors_of_the_users_code(error: BaseException, text: str) -> None:
    assert describe_error(error, {"id": 1}) == text
