"""Rows with tools, and the columns of what parsers find: a scripted engine, a real tokenizer and template."""

from __future__ import annotations

import asyncio
import json
import logging
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional

import numpy as np
import pyarrow as pa
import pytest
from tokenizer_builders import byte_level_bpe

from rayllm_batch import ChatWorkloadBase, init_engine_from_config
from rayllm_batch.engine.base import ParsedAnswer, Reply, Request
from rayllm_batch.output import run_columns
from rayllm_batch.output.fingerprint import describe_job
from rayllm_batch.run.model_check import ModelFacts
from rayllm_batch.run.parser_hints import hint_at_parsers
from rayllm_batch.tasks.chat import checked_tools
from rayllm_batch.tasks.generate import NO_TOOL_PARSER, Generate
from rayllm_batch.workers.answering import Answering
from rayllm_batch.workers.monitor_client import Told
from rayllm_batch.workers.prompts import PromptJob, build_prompts
from rayllm_batch.workers.rollouts import Rollouts
from rayllm_batch.workers.tokenizer import decode

BOTH = {"reasoning_parser": "qwen3", "tool_parser": "hermes"}
WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
HELLO = [{"role": "user", "content": "Is it cold in Bern?"}]
WITH_TOOLS = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for message in messages %}{{ message.content }}\n{% endfor %}"
)
CALL = {"id": "call_1", "name": "get_weather", "arguments": '{"city": "Bern"}'}
PROMPT_KWARGS = {"enable_thinking": True}


class Scripted:
    """Replies with what parsers found, one reply after the other; what was asked is kept."""

    max_model_len, vocab_size = 4000, None

    def __init__(self, *replies: Any) -> None:
        self.replies, self.asked = list(replies), list[Request]()

    async def generate(self, request: Request) -> Reply:
        self.asked.append(request)
        parsed, reason = self.replies.pop(0)
        parsed = parsed if isinstance(parsed, tuple) else (parsed,)
        texts = tuple(one.content or "" for one in parsed)
        several = len(texts) > 1
        reasons = (reason,) * len(texts) if several else ()
        return Reply(texts[0], 10 * len(texts), reason, texts if several else (), reasons, parsed=parsed)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = byte_level_bpe(tmp_path_factory.mktemp("model"), bos_in_template=True, bos_by_tokenizer=False)
    return str(folder)


def prompted(
    model: str, returned: dict[str, Any], template: Optional[str] = WITH_TOOLS, parsers: Any = BOTH, **workload: Any
) -> tuple[PromptJob, pa.Table]:
    class Mine(ChatWorkloadBase):
        def parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
            return returned

    mine = Mine(**workload)
    how = {"chat_template": template, "chat_template_kwargs": PROMPT_KWARGS}
    job = PromptJob(mine.parse_row, model, task=Generate().of(mine, parsers), **how)
    return job, build_prompts(pa.table({"id": [1]}), job)


def answered(
    model: str, engine: Scripted, returned: Optional[dict[str, Any]] = None, parsers: Any = BOTH, **workload: Any
) -> dict[str, Any]:
    prompt, table = prompted(model, returned or {"messages": HELLO, "tools": [WEATHER]}, parsers=parsers, **workload)
    config = SimpleNamespace(engine_kwargs={}, gpus_per_replica=0)
    job: Any = SimpleNamespace(prompt=prompt, deduplicate=False, config=config)
    [row] = run_columns.stage_rows(table)
    answer = asyncio.run(Answering(engine, job, Told(), lambda _: None).answer(row))  # type: ignore[arg-type]
    table = run_columns.with_answers(table, [answer], prompt.task)
    assert table.schema.names == ["id", *prompt.task.schema.names]
    return table.to_pylist()[0]


def test_tools_are_in_the_prompt_and_with_the_request(model: str) -> None:
    engine = Scripted((ParsedAnswer("It may be.", None, (CALL,), 3), "stop"))
    row = answered(model, engine)
    assert row["error"] is None and row["generated_text"] is None and row["finish_reason"] == "stop"
    assert (row["reasoning"], row["tool_calls"], row["num_reasoning_tokens"]) == ("It may be.", [CALL], 3)
    [request] = engine.asked
    assert request.tools == [WEATHER] and request.chat_template_kwargs == PROMPT_KWARGS
    job, table = prompted(model, {"messages": HELLO, "tools": np.array([WEATHER])})
    text = decode(table.column(run_columns.TOKEN_IDS)[0].as_py(), job)
    assert text == json.dumps([WEATHER]) + "Is it cold in Bern?\n", "in their own order"


def test_tools_of_a_table_have_no_keys_of_others(model: str) -> None:
    """Arrow gives each struct the keys of all, null where it has them not: a model would be told of other tools'."""
    fields = {"city": {"type": "string"}, "day": {"type": "integer", "enum": [1, 2]}}
    tools = [
        {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {name: field}}}}
        for name, field in fields.items()
    ]
    of_table = pa.table({"tools": [[tool] for tool in tools]}).column("tools").to_pylist()
    for given, tool in zip(of_table, tools, strict=True):
        assert given != [tool]
        found, expected = (prompted(model, {"messages": HELLO, "tools": its})[1] for its in (given, [tool]))
        assert found.column(run_columns.TOKEN_IDS) == expected.column(run_columns.TOKEN_IDS)
    none = {"type": ["string", "null"], "default": None, "enum": ["a", None]}
    asked = {"type": "function", "function": {"name": "x", "parameters": {"properties": {"a": none}}}}
    assert checked_tools([asked]) == [asked], "where a schema says null, it stays"


@pytest.mark.parametrize(
    ("parsers", "added"),
    [
        ({}, set()),
        ({"reasoning_parser": "qwen3"}, {"reasoning", "num_reasoning_tokens"}),
        ({"tool_parser": "hermes"}, {"tool_calls"}),
        (BOTH, {"reasoning", "num_reasoning_tokens", "tool_calls"}),
    ],
)
def test_columns_come_with_their_parser(parsers: dict[str, str], added: set[str]) -> None:
    workload = ChatWorkloadBase()
    plain, schema = Generate().of(workload, {}).schema, Generate().of(workload, parsers).schema
    assert set(schema.names) - set(plain.names) == added
    assert [name for name in schema.names if name not in added] == plain.names
    several = Generate().of(ChatWorkloadBase(sampling_params={"n": 2, "temperature": 1.0}), parsers).schema
    assert all(
        several.field(name).type == pa.list_(schema.field(name).type) for name in added - {"num_reasoning_tokens"}
    )


def test_a_row_without_tools_asks_as_before(model: str) -> None:
    """Its digest too: folders have it."""
    _, plain = prompted(model, {"messages": HELLO}, parsers={})
    for returned in ({"messages": HELLO, "tools": []}, {"messages": HELLO, "tools": None}):
        _, table = prompted(model, returned, parsers=BOTH)
        assert table.equals(plain) and table.column(run_columns.REQUEST).to_pylist() == [None]


@pytest.mark.parametrize(
    ("parsed", "reason", "words"),
    [
        (
            ParsedAnswer("Well", None, (), 10),
            "length",
            "the token limit was reached before anything came after the thoughts",
        ),
        (ParsedAnswer("Well.", None, (), 10), "stop", "nothing came after the thoughts"),
        (
            ParsedAnswer(None, None, ({**CALL, "arguments": '{"city": "Be'},)),
            "length",
            "'get_weather' are no JSON object",
        ),
        (ParsedAnswer(None, None, ({**CALL, "arguments": '"Bern"'},)), "stop", 'are no JSON object: "Bern"'),
        (ParsedAnswer(None, None, ({**CALL, "arguments": '{"days": NaN}'},)), "stop", "are no JSON object"),
        (
            ParsedAnswer(content="<tool_call>", problem="its parser raised KeyError: 1"),
            "stop",
            "its parser raised KeyError: 1",
        ),
    ],
)
def test_what_is_no_answer_is_an_error_and_stays(model: str, parsed: ParsedAnswer, reason: str, words: str) -> None:
    row = answered(model, Scripted((parsed, reason)))
    assert row["error"].startswith("answer: ") and words in row["error"] and row["finish_reason"] == "error"
    assert row["generated_text"] == parsed.content and row["reasoning"] == parsed.reasoning
    assert row["tool_calls"] == list(parsed.tool_calls) and row["num_generated_tokens"] == 10


def test_of_several_answers_one_is_enough(model: str) -> None:
    settings = {"n": 2, "temperature": 1.0, "max_tokens": 10}
    good, bad = ParsedAnswer("Hm.", "No.", (), 2), ParsedAnswer("Hm", None, (), 10)
    row = answered(model, Scripted(((bad, good), "length")), sampling_params=settings)
    assert row["error"] is None and row["generated_text"] is None and row["generated_texts"] == [None, "No."]
    assert (row["reasoning"], row["tool_calls"], row["num_reasoning_tokens"]) == (["Hm", "Hm."], [[], []], 12)
    assert "the token limit" in answered(model, Scripted(((bad, bad), "length")), sampling_params=settings)["error"]


def test_a_form_is_that_of_the_content(model: str) -> None:
    chosen = ParsedAnswer("Yes or no?", "yes", (), 4)
    row = answered(model, Scripted((chosen, "stop")), {"messages": HELLO}, output_schema=["yes", "no"])
    assert (row["error"], row["parsed"], row["generated_text"]) == (None, "yes", "yes")


def test_asked_again_with_the_tools_and_what_was_wrong(model: str) -> None:
    wrong = ParsedAnswer("Hm.", None, ({**CALL, "arguments": "Bern"},), 4)
    engine = Scripted((wrong, "stop"), (ParsedAnswer("Oh.", None, (CALL,), None), "stop"))
    row = answered(model, engine, reask=1)
    assert row["error"] is None and row["tool_calls"] == [CALL] and row["num_requests"] == 2
    assert row["num_reasoning_tokens"] is None, "not known of the second"
    job, _ = prompted(model, {"messages": HELLO})
    again = decode(engine.asked[1].prompt_token_ids, job)
    assert again.startswith(json.dumps([WEATHER])) and "no JSON object: Bern" in again
    assert engine.asked[1].tools == [WEATHER]


NAMED = {"type": "function", "function": {"name": "get_weather"}}


@pytest.mark.parametrize("choice", ["required", "none", NAMED])
def test_a_call_that_is_forced_or_forbidden(model: str, choice: Any) -> None:
    engine = Scripted((ParsedAnswer("It may be.", "No." if choice == "none" else None, (CALL,), 3), "stop"))
    row = answered(model, engine, {"messages": HELLO, "tools": [WEATHER], "tool_choice": choice})
    assert row["error"] is None and [(one.tools, one.tool_choice) for one in engine.asked] == [([WEATHER], choice)]
    plain = prompted(model, {"messages": HELLO, "tools": [WEATHER], "tool_choice": "auto"})[1]
    forced = prompted(model, {"messages": HELLO, "tools": [WEATHER], "tool_choice": choice})[1]
    asked = [table.column(run_columns.REQUEST)[0].as_py() for table in (plain, forced)]
    assert "tool_choice" not in asked[0] and asked[0] != asked[1], "auto is as if nothing was said"


def test_a_forced_call_that_did_not_come(model: str) -> None:
    cut, whole = (ParsedAnswer(content=""), "length"), (ParsedAnswer(tool_calls=(CALL,)), "stop")
    forced = {"messages": HELLO, "tools": [WEATHER], "tool_choice": "required"}
    row = answered(model, Scripted(cut), forced)
    assert row["error"].startswith("answer: it has no call of a tool") and "raise max_tokens" in row["error"]
    half = ParsedAnswer(tool_calls=({**CALL, "arguments": '{"city": '},))
    assert "are no JSON object" in answered(model, Scripted((half, "length")), forced)["error"]
    engine = Scripted(cut, whole)
    row = answered(model, engine, forced, reask=1)
    assert row["error"] is None and row["tool_calls"] == [CALL] and engine.asked[1].tool_choice == "required"


@pytest.mark.parametrize(
    ("tools", "choice", "words"),
    [
        (None, "required", 'needs "tools"'),
        ([WEATHER], "always", 'must be "auto", "none", "required" or'),
        ([WEATHER], {"function": {"name": "get_weather"}}, 'must be "auto"'),
        ([WEATHER], {"type": "function", "function": "get_weather"}, 'must be "auto"'),
        ([WEATHER], {"type": "function", "function": {"name": "get_wether"}}, "Did you mean 'get_weather'"),
        ([WEATHER], {"type": "function", "function": {"name": ["a"]}}, "none of its"),
        ([WEATHER], 3, 'must be "auto"'),
    ],
)
def test_choices_that_are_none(model: str, tools: Any, choice: Any, words: str) -> None:
    given = {"messages": HELLO, "tool_choice": choice, **({"tools": tools} if tools else {})}
    assert words in answered(model, Scripted(), given)["error"]


def test_a_rollout_forces_the_first_call_alone(model: str) -> None:
    class Mine(ChatWorkloadBase):
        async def rollout(self, row: dict[str, Any], generate: Any) -> dict[str, Any]:
            called = await generate(HELLO, tools=[WEATHER], tool_choice="required")
            said = await generate({"messages": HELLO, "tools": [WEATHER], "tool_choice": "none"})
            return {"called": called.tool_calls[0]["name"], "said": said.text}

    engine = Scripted((ParsedAnswer(tool_calls=(CALL,)), "stop"), (ParsedAnswer(content="Yes."), "stop"))
    mine = Mine()
    task = Generate().of(mine, BOTH)
    prompt = PromptJob(
        mine.parse_row, model, task=task, rollouts=partial(Rollouts, mine.rollout, 60), chat_template=WITH_TOOLS
    )
    config = SimpleNamespace(engine_kwargs={}, gpus_per_replica=0)
    job: Any = SimpleNamespace(prompt=prompt, deduplicate=False, config=config)
    [row] = run_columns.stage_rows(build_prompts(pa.table({"id": [1]}), prompt))

    async def run() -> Any:
        return await Answering(engine, job, Told(), lambda _: None).roll(row, {"id": 1})  # type: ignore[arg-type]

    answer = asyncio.run(run())
    assert answer.error is None and answer.own_columns == {"called": "get_weather", "said": "Yes."}
    assert [one.tool_choice for one in engine.asked] == ["required", "none"]


def test_a_loop_of_tools_in_a_rollout(model: str) -> None:
    class Agent(ChatWorkloadBase):
        async def rollout(self, row: dict[str, Any], generate: Any) -> dict[str, Any]:
            messages, temperatures = list(HELLO), {"Bern": -4}
            while (answer := await generate(messages, tools=[WEATHER])).tool_calls:
                messages.append({"role": "assistant", "content": answer.text, "tool_calls": answer.tool_calls})
                for call in answer.tool_calls:
                    found = str(temperatures[json.loads(call["arguments"])["city"]])
                    messages.append({"role": "tool", "tool_call_id": call["id"], "content": found})
            verdict = await generate(HELLO)
            return {"said": answer.text, "thoughts": answer.reasoning, "verdict": verdict.parsed}

    agent = Agent(output_schema=["yes", "no"])  # of the calls without tools
    task: Any = Generate().of(agent, BOTH)
    template = (
        WITH_TOOLS
        + "{% for m in messages %}{% for c in m.tool_calls or [] %}{{ c.function.name }}{% endfor %}{% endfor %}"
    )
    prompt = PromptJob(
        agent.parse_row, model, task=task, rollouts=partial(Rollouts, agent.rollout, 60.0), chat_template=template
    )
    table = build_prompts(pa.table({"id": [1]}), prompt)
    engine = Scripted(
        (ParsedAnswer("Let me see.", None, (CALL,), 3), "stop"),
        (ParsedAnswer("Below 0.", "It is.", (), 2), "stop"),
        (ParsedAnswer(None, "yes"), "stop"),
    )
    config = SimpleNamespace(engine_kwargs={}, gpus_per_replica=0)
    job: Any = SimpleNamespace(prompt=prompt, deduplicate=False, config=config)

    async def run() -> Any:
        answering = Answering(engine, job, Told(), lambda _: None)  # type: ignore[arg-type]
        return await answering.roll(run_columns.stage_rows(table)[0], {"id": 1})

    answer = asyncio.run(run())
    assert answer.error is None and answer.own_columns == {"said": "It is.", "thoughts": "Below 0.", "verdict": "yes"}
    first, second, third = engine.asked
    assert first.tools == second.tools == [WEATHER] and not third.tools
    assert "structured_outputs" in third.settings and "structured_outputs" not in first.settings
    seen = decode(second.prompt_token_ids, prompt)
    assert "-4" in seen and seen.endswith("get_weather")


def test_an_engine_without_parsers_rehearses_the_columns(model: str) -> None:
    class Echo(Scripted):
        async def generate(self, request: Request) -> Reply:
            return Reply("Is it", 2, "stop")

    row = answered(model, Echo())
    assert row["error"] is None and row["generated_text"] == "Is it"
    assert (row["reasoning"], row["tool_calls"], row["num_reasoning_tokens"]) == (None, [], 0)


def test_a_failed_row_has_nulls(model: str) -> None:
    row = answered(model, Scripted(), {"messages": HELLO, "tools": "get_weather"})
    assert row["error"].startswith(
        'parse_row: TypeError: parse_row\'s "tools" must be a list, each {"type": "function"'
    )
    assert (row["reasoning"], row["tool_calls"], row["num_reasoning_tokens"]) == (None, None, 0)


@pytest.mark.parametrize(
    ("tools", "words"),
    [
        ([{"name": "get_weather"}], 'each of parse_row\'s "tools" must be {"type": "function"'),
        ([{"type": "function", "function": {"name": ""}}], "must be"),
        ([{"type": "function", "function": {"name": "a", "parameters": []}}, 1], "must be"),
        ([{"type": "function", "function": {"name": "a", "parameters": "none"}}], "must be"),
        ([WEATHER, WEATHER], "'get_weather' comes twice"),
        ([{"type": "function", "function": {"name": "a", "parameters": {"default": float("nan")}}}], "what JSON has"),
    ],
)
def test_tools_that_are_none(model: str, tools: Any, words: str) -> None:
    _, table = prompted(model, {"messages": HELLO, "tools": tools})
    assert words in table.column(run_columns.STAGE_ERROR)[0].as_py()


def test_tools_that_could_not_be_called(model: str) -> None:
    asked = {"messages": HELLO, "tools": [WEATHER]}

    def error(**more: Any) -> str:
        return prompted(model, asked, **more)[1].column(run_columns.STAGE_ERROR)[0].as_py()

    assert NO_TOOL_PARSER in error(parsers={"reasoning_parser": "qwen3"})
    assert "leave one of them out" in error(output_schema=["yes", "no"])
    assert "the template leaves out the tools" in error(template="{{ messages[0].content }}")
    own = {**asked, "sampling_params": {"structured_outputs": {"choice": ["a"]}}}
    _, table = prompted(model, own)
    assert "leave one of them out" in table.column(run_columns.STAGE_ERROR)[0].as_py()


def test_a_folder_of_before_had_the_thoughts_in_the_text() -> None:
    def settings(**engine_kwargs: Any) -> dict[str, str]:
        given = {"model_id": "a/b", "llm_engine": "vllm", "accelerator_type": "CPU", "engine_kwargs": engine_kwargs}
        return describe_job(init_engine_from_config(given), ChatWorkloadBase(), None).settings

    plain = settings()
    assert set(settings(reasoning_parser="qwen3")) - set(plain) == {"engine_kwargs.reasoning_parser", "thoughts"}
    assert set(settings(tool_parser="hermes")) - set(plain) == {"engine_kwargs.tool_parser"}


def test_what_is_missing_is_said_before_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def hints(model_type: str, template: str, refused: str = "", kwargs: Any = None, **engine_kwargs: Any) -> str:
        (tmp_path / "chat_template.jinja").write_text(template)
        given = {
            "model_id": "some/model",
            "llm_engine": "vllm",
            "accelerator_type": "CPU",
            "engine_kwargs": engine_kwargs,
        }
        config = init_engine_from_config({**given, "chat_template_kwargs": kwargs or {}})
        caplog.clear()
        with caplog.at_level(logging.WARNING, "rayllm_batch"):
            hint_at_parsers(config, ModelFacts({"model_type": model_type}, folder=tmp_path), [refused])
        return caplog.text

    thinks = "{{ messages }}<think>\n\n</think>"
    assert "set reasoning_parser: qwen3 under engine_kwargs" in hints("qwen3", thinks)
    assert "set reasoning_parser under engine_kwargs" in hints("of_tomorrow", thinks)
    assert not hints("qwen3", "{{ messages }}") and not hints("qwen3", thinks, reasoning_parser="qwen3")
    assert not hints("qwen3", thinks, kwargs={"enable_thinking": False})
    assert "calls: tool_parser: hermes" in hints("qwen3", "", f"parse_row: TypeError: {NO_TOOL_PARSER}")
    assert not hints("llama", "", f"parse_row: TypeError: {NO_TOOL_PARSER}"), "it may be any of three"
