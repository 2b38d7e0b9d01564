"""Response bodies, held against the models of vLLM's server and the types of OpenAI's client."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Optional

import pytest

from rayllm_batch.engine.base import ParsedAnswer, Reply
from rayllm_batch.tasks.base import Answer
from rayllm_batch.tasks.completions import APIRequest, Completions
from rayllm_batch.workload.openai_request import CHAT, COMPLETION

CALLS = tuple({"id": f"call_{i}", "name": "look_up", "arguments": '{"city": "Bern"}'} for i in range(2))


def token(text: Optional[str], logprob: float = -0.5, rank: int = 1) -> dict[str, Any]:
    return {"token_id": rank + 10, "token": text, "logprob": logprob, "rank": rank}


STEPS = [
    [token("He"), token("A", -1.5, 2), token("B", -math.inf, 3)],
    [token("é", -2.0, 2), token(None, -0.1), token("x", -3.0, 3)],
]


def body(reply: Reply, url: str = CHAT, parsers: tuple[str, ...] = (), **response: Any) -> dict[str, Any]:
    task = Completions(parsers=frozenset(parsers))
    request = APIRequest([1, 2, 3], response={"url": url, "model": "m", **response})
    answer = Answer(3)
    answer.replied(reply)
    answer.values = task.read_reply(request, reply)
    columns = task.columns(answer)
    assert {*columns, "num_input_tokens", "error"} == set(task.schema.names)
    return json.loads(columns["response"])


REPLIES: dict[str, tuple[Reply, Mapping[str, Any]]] = {
    "plain": (Reply("Hé", 2, "stop"), {}),
    "n": (Reply("a", 3, "stop", texts=("a", "b"), finish_reasons=("stop", "length")), {}),
    "stopped": (Reply("a", 1, "stop", stop_reasons=("\n",)), {}),
    "logprobs": (Reply("Hé", 2, "length", logprobs=[STEPS]), {"logprobs": 2}),
    "prompt_logprobs": (Reply("a", 1, "stop", prompt_logprobs=[None, STEPS[0]]), {}),
    "calls": (Reply("", 9, "stop", parsed=(ParsedAnswer("hm", None, CALLS, 2),)), {}),
}


@pytest.mark.parametrize("url", [CHAT, COMPLETION])
@pytest.mark.parametrize("name", REPLIES)
def test_the_body_is_one_of_vllms_server_and_of_openais_client(url: str, name: str) -> None:
    """Each key that the server's models have, and no other, down to the last level."""
    from openai.types import Completion
    from openai.types.chat import ChatCompletion
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionResponse
    from vllm.entrypoints.openai.completion.protocol import CompletionResponse

    reply, response = REPLIES[name]
    made = body(reply, url, **response)
    model: Any = ChatCompletionResponse if url == CHAT else CompletionResponse
    assert json.loads(model.model_validate(made).model_dump_json()) == made
    (ChatCompletion if url == CHAT else Completion).model_validate(made)


def test_a_chats_answers() -> None:
    made = body(REPLIES["n"][0])
    assert [choice["message"]["content"] for choice in made["choices"]] == ["a", "b"]
    assert [choice["finish_reason"] for choice in made["choices"]] == ["stop", "length"]
    assert [choice["index"] for choice in made["choices"]] == [0, 1]
    usage = {name: count for name, count in made["usage"].items() if count is not None}
    assert usage == {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}
    assert made["model"] == "m" and made["id"].startswith("chatcmpl-")


def test_log_probabilities() -> None:
    content = body(REPLIES["logprobs"][0], logprobs=2)["choices"][0]["logprobs"]["content"]
    first = {"token": "He", "logprob": -0.5, "bytes": [72, 101]}
    assert content[0] == {**first, "top_logprobs": [first, {"token": "A", "logprob": -1.5, "bytes": [65]}]}
    assert content[1]["bytes"] == [195, 169]
    every = body(REPLIES["logprobs"][0], logprobs=-1)["choices"][0]["logprobs"]["content"]
    assert [one["logprob"] for one in every[0]["top_logprobs"]] == [-0.5, -1.5, -9999.0], "JSON has no infinity"
    none = body(REPLIES["logprobs"][0], logprobs=0)["choices"][0]["logprobs"]["content"]
    assert [one["top_logprobs"] for one in none] == [[], []]
    assert body(REPLIES["logprobs"][0])["choices"][0]["logprobs"] is None, "they were for a parser, or nobody"
    assert body(REPLIES["logprobs"][0], COMPLETION, logprobs=1)["choices"][0]["logprobs"] == {
        "text_offset": [0, 2],
        "tokens": ["He", "é"],
        "token_logprobs": [-0.5, -2.0],
        "top_logprobs": [{"He": -0.5, "A": -1.5}, {"é": -2.0, "": -0.1}],
    }


def test_thoughts_and_calls() -> None:
    reply, parsers = REPLIES["calls"][0], ("reasoning_parser", "tool_parser")
    made = body(reply, parsers=parsers)
    message = made["choices"][0]["message"]
    assert (message["content"], message["reasoning"]) == (None, "hm")
    assert [call["function"]["name"] for call in message["tool_calls"]] == ["look_up", "look_up"]
    assert made["choices"][0]["finish_reason"] == "tool_calls"
    assert made["usage"]["completion_tokens_details"] == {"reasoning_tokens": 2}
    assert len(body(reply, parsers=parsers, calls=1)["choices"][0]["message"]["tool_calls"]) == 1
    without = body(reply, parsers=parsers, calls=0, include_reasoning=False)["choices"][0]
    assert "tool_calls" not in without["message"] and without["finish_reason"] == "stop"
    assert without["message"]["reasoning"] is None


@pytest.mark.parametrize(
    ("choice", "parsed", "why", "said"),
    [
        ("required", ParsedAnswer(tool_calls=CALLS), "stop", "tool_calls"),
        ("required", ParsedAnswer(content=""), "length", "length"),
        ({"type": "function", "function": {"name": "look_up"}}, ParsedAnswer(tool_calls=CALLS[:1]), "stop", "stop"),
    ],
)
def test_forced_calls(choice: Any, parsed: ParsedAnswer, why: str, said: str) -> None:
    task = Completions(parsers=frozenset({"tool_parser"}))
    request = APIRequest([1], tools=[{}], tool_choice=choice, response={"url": CHAT, "model": "m"})
    given = json.loads(task.read_reply(request, Reply("", 9, why, parsed=(parsed,)))["response"])["choices"][0]
    assert given["finish_reason"] == said and given["message"]["content"] == ""
    assert len(given["message"].get("tool_calls", ())) == len(parsed.tool_calls)


def test_hidden_thoughts_are_not_spelt_by_log_probabilities() -> None:
    reply = Reply("a", 2, "stop", parsed=(ParsedAnswer("hm", "a"),), logprobs=[STEPS])
    assert body(reply, logprobs=1)["choices"][0]["logprobs"]
    assert body(reply, logprobs=1, include_reasoning=False)["choices"][0]["logprobs"] is None


def test_an_answer_that_was_cut_is_an_answer_as_from_a_server() -> None:
    task = Completions(settings={"structured_outputs": {"json_object": True}})
    request = APIRequest([1], task.settings, response={"url": CHAT, "model": "m"})
    made = json.loads(task.read_reply(request, Reply('{"a', 2, "length"))["response"])
    assert (made["choices"][0]["message"]["content"], made["choices"][0]["finish_reason"]) == ('{"a', "length")


def test_a_failed_row_has_no_response() -> None:
    assert Completions().columns(Answer(3, error="engine: it died"))["response"] is None


def test_what_is_asked_survives_the_way_to_the_engine() -> None:
    task = Completions(settings={"temperature": 0})
    response = {"url": COMPLETION, "model": "m"}
    parsed = task.parse(
        lambda row: {
            "prompt": "a",
            "sampling_params": {"max_tokens": 4},
            "model": "french",
            "cache_salt": "s",
            "chat_template_kwargs": {"a": 1},
            "response": response,
        },
        {},
    )
    request = task.request([5], task.own_text(parsed))
    assert isinstance(request, APIRequest) and request.response == response
    assert request.settings == {"temperature": 0, "max_tokens": 4} and request.raw
    assert (request.model, request.cache_salt, request.chat_template_kwargs) == ("french", "s", {"a": 1})
    assert task.own_text(parsed) == task.own_text(dict(reversed(parsed.items()))), "equal requests share an answer"
