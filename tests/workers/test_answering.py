"""Answers that have not the form asked for: what is said of them, and how they are asked for again. No engine, a real tokenizer."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from functools import partial
from types import SimpleNamespace
from typing import Any, Literal, Optional

import pyarrow as pa
import pytest
from pydantic import BaseModel, create_model, field_validator

from rayllm_batch import ChatWorkloadBase
from rayllm_batch.data import columns
from rayllm_batch.engine.base import Reply, Request
from rayllm_batch.errors import RolloutError, WorkloadError
from rayllm_batch.output import run_columns
from rayllm_batch.tasks.base import Answer
from rayllm_batch.tasks.generate import Generate
from rayllm_batch.workers.answering import Answering
from rayllm_batch.workers.monitor_client import Told
from rayllm_batch.workers.prompts import PromptJob, build_prompts
from rayllm_batch.workers.rollouts import Rollouts
from rayllm_batch.workers.tokenizer import decode
from rayllm_batch.workload.base import check_workload


class Label(BaseModel):
    label: str
    score: float

    @field_validator("score")
    @classmethod
    def _share(cls, value: float) -> float:
        if not 0 <= value <= 1:
            raise ValueError("a share is between 0 and 1")
        return value


GOOD, BAD, CUT = '{"label": "a", "score": 0.5}', '{"label": "a", "score": 50}', '{"label": "a'


class Scripted:
    """Replies with the texts given, one after the other; what was asked is kept."""

    max_model_len, vocab_size = 400, None

    def __init__(self, *texts: str | tuple[str, ...]) -> None:
        self.texts, self.asked = list(texts), list[Request]()

    async def generate(self, request: Request) -> Reply:
        self.asked.append(request)
        text = self.texts.pop(0)
        several = text if isinstance(text, tuple) else ()
        first = several[0] if several else str(text)
        reasons = tuple("length" if one == CUT else "stop" for one in several)
        return Reply(first, 10 * max(1, len(several)), "length" if first == CUT else "stop", several, reasons)


def answered(
    engine: Scripted, returned: Optional[dict[str, Any]] = None, **workload: Any
) -> tuple[Answer, dict[str, Any]]:
    class Mine(ChatWorkloadBase):
        def parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
            return returned or {"messages": [{"role": "user", "content": "Label it."}]}

    mine = Mine(**workload)
    task = Generate().of(mine, {})
    prompt = PromptJob(mine.parse_row, "assets/demo-model", task=task)
    table = build_prompts(pa.table({"id": [1]}), prompt)
    job: Any = SimpleNamespace(
        prompt=prompt, deduplicate=False, config=SimpleNamespace(engine_kwargs={}, gpus_per_replica=0)
    )
    [row] = run_columns.stage_rows(table)
    answering = Answering(engine, job, Told(), lambda reason: None)  # type: ignore[arg-type]
    answer = asyncio.run(answering.answer(row))
    table = run_columns.with_answers(table, [answer], task)
    assert table.schema.names == ["id", *task.schema.names]
    return answer, table.to_pylist()[0]


def test_an_answer_of_the_form_asked_for() -> None:
    engine = Scripted(GOOD)
    _, row = answered(engine, output_schema=Label)
    assert row["parsed"] == {"label": "a", "score": 0.5} and row["generated_text"] == GOOD and row["error"] is None
    assert engine.asked[0].settings["structured_outputs"]["json"]["properties"].keys() == {"label", "score"}
    assert "num_requests" not in row


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BAD, "field 'score'.*between 0 and 1"),
        (CUT, "no JSON.*raise max_tokens"),
        ("Sorry.", "no JSON"),
        ("", "no JSON"),
    ],
)
def test_an_invalid_one_is_an_error_and_its_text_is_kept(text: str, said: str) -> None:
    _, row = answered(Scripted(text), output_schema=Label)
    assert row["parsed"] is None and row["generated_text"] == text and row["finish_reason"] == "error"
    assert row["num_generated_tokens"] == 10
    with pytest.raises(ValueError, match=f"^answer: .*{said}"):
        raise ValueError(row["error"])


@pytest.mark.parametrize("asleep", [False, True])
def test_a_validator_without_an_end_costs_its_row_alone(asleep: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """asleep: in C, where nothing interrupts it."""
    monkeypatch.setattr("rayllm_batch.workers.answering.READ_S", 1.0)
    monkeypatch.setattr("rayllm_batch.workers.rollouts.GRACE_S", 0.5)

    class Slow(BaseModel):
        label: str

        @field_validator("label")
        @classmethod
        def _wait(cls, value: str) -> str:
            while value == "a":
                time.sleep(20 if asleep else 0.01)
            return value

    _, row = answered(Scripted(GOOD), output_schema=Slow, reask=2)
    assert row["parsed"] is None and row["generated_text"] == GOOD and row["num_requests"] == 1
    assert row["error"] == ("answer: the code of output_schema's type: it kept its thread for 1 s")
    assert answered(Scripted('{"label": "b"}'), output_schema=Slow)[1]["parsed"] == {"label": "b"}


def test_a_validator_that_ends_its_process_is_an_invalid_answer() -> None:
    class Leaving(Label):
        @field_validator("label")
        @classmethod
        def _leave(cls, value: str) -> str:
            raise SystemExit(3)

    _, row = answered(Scripted(GOOD), output_schema=Leaving)
    assert row["error"].startswith("answer: Leaving raised SystemExit") and row["generated_text"] == GOOD


def test_it_is_asked_for_again_with_the_complaint() -> None:
    engine = Scripted(BAD, CUT, GOOD)
    answer, row = answered(engine, output_schema=Label, reask=3)
    assert row["parsed"]["score"] == 0.5 and row["error"] is None and row["num_requests"] == 3
    assert row["num_generated_tokens"] == 30
    assert row["num_input_tokens"] == sum(len(request.prompt_token_ids) for request in engine.asked)
    assert len(answer.complaints) == 2 == answer.num_reasks
    job = PromptJob(dict, "assets/demo-model")
    second, third = (decode(request.prompt_token_ids, job) for request in engine.asked[1:])
    for words in ("Label it.", BAD, "between 0 and 1"):
        assert words in second and words in third
    assert "raise max_tokens" in third and "raise max_tokens" not in second
    assert {json.dumps(request.settings) for request in engine.asked} == {json.dumps(engine.asked[0].settings)}


def test_it_is_not_asked_for_more_often_than_that() -> None:
    engine = Scripted(BAD, BAD, BAD, GOOD)
    answer, row = answered(engine, output_schema=Label, reask=2)
    assert len(answer.complaints) == 3 and answer.num_reasks == 2
    assert len(engine.asked) == 3 and row["num_requests"] == 3 and row["generated_text"] == BAD
    assert "between 0 and 1" in row["error"]


def test_a_conversation_that_grows_too_long() -> None:
    engine = Scripted("x " * 300, GOOD)
    answer, row = answered(engine, output_schema=Label, reask=2)
    assert answer.num_reasks == 0 and len(answer.complaints) == 1
    assert len(engine.asked) == 1 and "could not be asked for again" in row["error"] and "max_model_len" in row["error"]


def test_a_begun_answer_is_one_message_with_what_followed() -> None:
    engine = Scripted("]", GOOD)
    chat = [{"role": "user", "content": "A list."}, {"role": "assistant", "content": "[1"}]
    _, row = answered(engine, {"messages": chat}, output_schema=Label, reask=1)
    assert "[1]" in decode(engine.asked[1].prompt_token_ids, PromptJob(dict, "assets/demo-model")) and not row["error"]


def test_token_ids_have_no_chat_to_go_on_with() -> None:
    engine = Scripted(BAD, GOOD)
    _, row = answered(engine, {"prompt_token_ids": [5, 6]}, output_schema=Label, reask=1)
    assert len(engine.asked) == 1 and "between 0 and 1" in row["error"]


def test_several_answers() -> None:
    params = {"n": 3, "temperature": 1.0}
    engine = Scripted((BAD, GOOD, CUT))
    _, row = answered(engine, output_schema=Label, sampling_params=params)
    assert row["generated_text"] == BAD and row["generated_texts"] == [BAD, GOOD, CUT] and row["error"] is None
    assert row["parsed"] == [None, {"label": "a", "score": 0.5}, None]
    assert row["finish_reasons"] == ["stop", "stop", "length"] and row["num_generated_tokens"] == 30
    _, row = answered(Scripted((BAD, CUT, BAD)), output_schema=Label, sampling_params=params)
    assert "between 0 and 1" in row["error"] and row["parsed"] is None and row["generated_texts"] == [BAD, CUT, BAD]


def test_a_row_may_ask_for_several_only_where_there_is_a_column() -> None:
    chat = {"messages": [{"role": "user", "content": "a"}], "sampling_params": {"n": 2}}
    engine = Scripted(("b", "c"))
    _, row = answered(engine, chat, sampling_params={"temperature": 1.0})
    assert not engine.asked and "needs a column" in row["error"]
    _, row = answered(engine, chat, sampling_params={"temperature": 1.0, "n": 4})
    assert row["generated_texts"] == ["b", "c"]


def test_a_schema_a_row() -> None:
    own = {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}, "required": ["colour"]}
    chat = {"messages": [{"role": "user", "content": "a"}], "output_schema": own}
    engine = Scripted('{"colour": "red"}')
    _, row = answered(engine, chat, output_schema={})
    assert row["parsed"] == '{"colour": "red"}' and engine.asked[0].settings["structured_outputs"] == {"json": own}
    _, row = answered(Scripted('{"colour": "green"}'), chat, output_schema={})
    assert row["parsed"] is None and "'colour'" in row["error"]
    _, row = answered(Scripted("yes"), {**chat, "output_schema": ["yes", "no"]}, output_schema={})
    assert row["parsed"] == '"yes"'
    for schema in (None, Label):
        _, row = answered(Scripted(), chat, output_schema=schema)
        assert "output_schema = {}" in row["error"]
    _, row = answered(Scripted(), {**chat, "output_schema": {"type": "thing"}}, output_schema={})
    assert "this row's output_schema" in row["error"]


def rolled(
    engine: Any, rollout: Any, rows: tuple[dict, ...] = ({"id": 1},), deduplicate: bool = False, **workload: Any
) -> list[dict[str, Any]]:
    class Mine(ChatWorkloadBase):
        async def rollout(self, row: dict[str, Any], generate: Any) -> Any:
            return await rollout(row, generate)

    mine = Mine(**workload)
    check_workload(mine)
    task: Any = Generate().of(mine, {})
    prompt = PromptJob(
        mine.parse_row, "assets/demo-model", task=task, rollouts=partial(Rollouts, mine.rollout, task.limits.timeout_s)
    )
    job: Any = SimpleNamespace(
        prompt=prompt, deduplicate=deduplicate, config=SimpleNamespace(engine_kwargs={}, gpus_per_replica=0)
    )
    table = build_prompts(pa.Table.from_pylist(list(rows)), prompt)

    async def run() -> list[Answer]:
        answering = Answering(engine, job, Told(), lambda reason: None)  # type: ignore[arg-type]
        stage = run_columns.stage_rows(table)
        return list(await asyncio.gather(*(answering.roll(one, row) for one, row in zip(stage, rows, strict=True))))

    return columns.rows(run_columns.with_answers(table, asyncio.run(run()), task))


ASK = [{"role": "user", "content": "Label it."}]


def test_a_rollout_of_three_turns() -> None:
    async def three(row: dict[str, Any], generate: Any) -> dict[str, Any]:
        draft = await generate(ASK)
        seen = [*ASK, {"role": "assistant", "content": draft.text}, {"role": "user", "content": "Better."}]
        better = await generate(seen, temperature=1.0, n=2)
        verdict = await generate(ASK, output_schema=Label)
        return {"texts": better.texts, "label": verdict.parsed["label"], "tokens": verdict.num_generated_tokens}

    engine = Scripted("draft", ("one", "two"), GOOD)
    [row] = rolled(engine, three)
    assert row["error"] is None and row["texts"] == ["one", "two"] and row["label"] == "a" and row["tokens"] == 10
    assert row["generated_text"] == GOOD and row["num_requests"] == 3 and row["num_generated_tokens"] == 40
    assert row["num_input_tokens"] == sum(len(request.prompt_token_ids) for request in engine.asked)
    assert "draft" in decode(engine.asked[1].prompt_token_ids, PromptJob(dict, "assets/demo-model"))
    assert engine.asked[1].settings["n"] == 2 and "structured_outputs" in engine.asked[2].settings
    assert "n" not in engine.asked[2].settings and engine.asked[2].settings["temperature"] == 0.0


@pytest.mark.parametrize(
    ("does", "said", "workload"),
    [
        ("endless", "more than 3 times", {"max_calls": 3}),
        ("endless", "20 tokens, and max_rollout_tokens is 15", {"max_rollout_tokens": 15}),
        ("waits", "did not end within 0.5 s", {"rollout_timeout_s": 0.5}),
        ("raises", "rollout: KeyError: 'no such column'", {}),
        ("returns nothing", "must return a dict of columns, but returned NoneType", {}),
        ("takes a name", "column 'error'", {}),
        ("takes the row's", "column 'id'", {}),
        ("asks nothing", "generate: ", {}),
        ("asks with a text", "it takes a chat", {}),
        ("asks a model", "generate({\"messages\": ..., 'model': ...})", {}),
        ("asks for no such thing", "Did you mean 'temperature'", {}),
        ("asks for what is too long", "max_model_len", {}),
        ("asks for no schema", "output_schema must be", {}),
    ],
)
def test_what_a_rollout_does_is_its_rows_error(does: str, said: str, workload: dict[str, Any]) -> None:
    async def rollout(row: dict[str, Any], generate: Any) -> Any:  # noqa: PLR0911, PLR0912
        if row["id"] == 2:
            return {"answer": (await generate(ASK)).text}
        if does == "endless":
            while True:
                await generate(ASK)
        if does == "waits":
            await asyncio.sleep(100)
        if does == "raises":
            raise KeyError("no such column")
        if does == "asks nothing":
            await generate([])
        if does == "asks with a text":
            await generate("Label it.")
        if does == "asks a model":
            await generate(ASK, model="adapter")
        if does == "asks for no such thing":
            await generate(ASK, temperatur=1)
        if does == "asks for what is too long":
            await generate([{"role": "user", "content": "word " * 500}])
        if does == "asks for no schema":
            await generate(ASK, output_schema=5)
        return {"takes a name": {"error": 1}, "takes the row's": {"id": 2}}.get(does)

    bad, good = rolled(Scripted(*["text"] * 50), rollout, ({"id": 1}, {"id": 2}), **workload)
    assert said in bad["error"] and bad["finish_reason"] == "error"
    assert good["answer"] == "text" and good["error"] is None


def test_a_rollout_may_go_on_after_an_answer_that_is_invalid_or_an_error() -> None:
    async def careful(row: dict[str, Any], generate: Any) -> dict[str, Any]:
        answer = await generate(ASK, output_schema=Label)
        try:
            await generate([{"role": "user", "content": "word " * 500}])
        except RolloutError as error:
            return {"parsed": answer.parsed, "why": answer.error, "caught": str(error)}
        return {}

    engine = Scripted(BAD, CUT)
    [row] = rolled(engine, careful, reask=1)
    assert row["error"] is None and row["parsed"] is None and "raise max_tokens" not in row["caught"]
    assert "max_model_len" in row["caught"] and "answer: " in row["why"] and row["num_requests"] == 2


def test_rows_may_return_other_columns() -> None:
    async def differs(row: dict[str, Any], generate: Any) -> dict[str, Any]:
        return {"a": 1} if row["id"] == 1 else {"a": "text", "b": {1, 2}} if row["id"] == 2 else {}

    rows = rolled(Scripted(), differs, tuple({"id": n} for n in (1, 2, 3)))
    assert [row.get("a") for row in rows] == [1, "text", None] and rows[1]["b"] == [1, 2]
    assert [row["error"] for row in rows] == [None] * 3 and [row["num_requests"] for row in rows] == [0] * 3
    assert [row["finish_reason"] for row in rows] == [None] * 3, "nothing was asked, and nothing failed"


class Obedient:
    """Replies with what was asked, as the form wants it; takes its time."""

    max_model_len, vocab_size = 4000, None

    def __init__(self, seconds: float = 0.01) -> None:
        self.asked, self.seconds, self.cancelled = list[Request](), seconds, 0

    async def generate(self, request: Request) -> Reply:
        self.asked.append(request)
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        form = request.settings.get("structured_outputs") or {}
        text = form["choice"][0] if "choice" in form else json.dumps([{"x": x} for x in consts(form)]) or "free"
        return Reply(text if form else "free", 1, "stop", logprobs=[[[{"token_id": 1}]]])

    def prompts(self) -> list[str]:
        return [decode(request.prompt_token_ids, PromptJob(dict, "assets/demo-model")) for request in self.asked]


def consts(form: Any) -> list[Any]:
    inner = form.values() if isinstance(form, dict) else form if isinstance(form, list) else ()
    return [form["const"]] if isinstance(form, dict) and "const" in form else [x for one in inner for x in consts(one)]


def test_equal_prompts_of_other_forms_are_other_requests() -> None:
    async def rollout(row: dict[str, Any], generate: Any) -> dict[str, Any]:
        free, form = await generate(ASK), await generate(ASK, output_schema=["yes", "no"])
        tools = await generate({"messages": ASK, "output_schema": ["no", "yes"]})
        again = await generate(ASK, output_schema=["yes", "no"])
        return {"answers": [free.text, form.parsed, tools.parsed, again.parsed]}

    engine = Obedient()
    rows = rolled(engine, rollout, ({"id": 1}, {"id": 2}), deduplicate=True)
    assert [row["answers"] for row in rows] == [["free", "yes", "no", "yes"]] * 2 and len(engine.asked) == 3


def test_types_that_look_alike_are_not_taken_for_each_other() -> None:
    async def rollout(row: dict[str, Any], generate: Any) -> dict[str, Any]:
        item = create_model("Item", x=(Literal[row["choice"]], ...))  # type: ignore[valid-type]
        answers = [await generate(ASK, output_schema=list[item]) for _ in range(2)]
        return {"parsed": [answer.parsed for answer in answers]}

    rows = rolled(Obedient(), rollout, tuple({"choice": name} for name in "abcabc"))
    assert [row["parsed"] for row in rows] == [[[{"x": row["choice"]}]] * 2 for row in rows]


def test_what_is_asked_is_what_it_was_when_it_was_asked() -> None:
    async def rollout(row: dict[str, Any], generate: Any) -> dict[str, Any]:
        chat, params = [{"role": "user", "content": "first"}], {"max_tokens": 3}
        one = generate({"messages": chat, "sampling_params": params})
        chat += [{"role": "assistant", "content": "An answer."}, {"role": "user", "content": "second"}]
        two = asyncio.ensure_future(generate(chat))
        chat[0]["content"], params["max_tokens"] = "changed", 999
        await asyncio.gather(one, two)
        return {}

    engine = Obedient()
    rolled(engine, rollout)
    first, second = sorted(engine.prompts(), key=len)
    assert "first" in first and "second" not in first and "first" in second and "second" in second
    assert sorted(request.settings["max_tokens"] for request in engine.asked)[0] == 3


def test_what_a_rollout_does_to_its_row_and_to_what_it_gets() -> None:
    shared: dict[str, Any] = {"seen": []}

    async def rollout(row: dict[str, Any], generate: Any) -> dict[str, Any]:
        shared["seen"].append(row["nested"]["n"])
        shared["own"] = row["nested"]["n"]
        answer = await generate(ASK)
        answer.logprobs[0][0][0]["token_id"] += row["nested"].pop("n")
        shared["ids"] = answer.logprobs[0][0][0].pop("token_id")
        row["new"] = 1
        return {**shared, "new": 2, **({"id": 5} if row.pop("id") == 3 else {})}

    rows = rolled(Obedient(), rollout, tuple({"id": n, "nested": {"n": n}} for n in (1, 2, 3)), deduplicate=True)
    assert [row["id"] for row in rows] == [1, 2, 3] and [row["nested"]["n"] for row in rows] == [1, 2, 3]
    assert [row["new"] for row in rows] == [2, 2, None] and "'id'" in rows[2]["error"]
    assert [row["ids"] for row in rows[:2]] == [2, 3], "each has a reply of its own"
    assert all(row["error"] is None for row in rows[:2]) and len(rows[0]["seen"]) <= 3 and rows[0]["own"] in (1, 2, 3)


@pytest.mark.parametrize(
    "makes", ["generator", "map", "future", "futures", "lock", "levels", "itself", "class", "name"]
)
def test_a_column_of_what_is_no_value_is_its_rows_error(makes: str) -> None:
    class Own:
        pass

    async def rollout(row: dict[str, Any], generate: Any) -> Any:
        if row["id"] == 2:
            return {"good": [1]}
        itself: list[Any] = []
        itself.append(itself)
        levels: Any = 1
        for _ in range(500):
            levels = {"in": levels}
        values = {"map": map(str, "ab"), "lock": threading.Lock(), "levels": levels, "itself": itself, "class": Own()}
        values |= {"generator": (one for one in "ab")}
        if makes.startswith("future"):
            values = {"future": generate(ASK), "futures": [generate(ASK)]}
        return {"\ud800": 1} if makes == "name" else {"bad": values[makes]}

    bad, good = rolled(Obedient(), rollout, ({"id": 1}, {"id": 2}))
    assert good["good"] == [1] and good["error"] is None
    assert bad["error"].startswith("rollout: its column ") and len(bad["error"]) < 520


def test_what_a_rollout_begins_ends_with_it() -> None:
    late, joined = list[Any](), threading.Event()

    async def rollout(row: dict[str, Any], generate: Any) -> Any:
        async def goes_on() -> None:
            try:
                await generate([*ASK, {"role": "user", "content": str(row["id"])}])
            finally:
                try:
                    await generate(ASK)
                except RolloutError as error:
                    late.append(str(error))

        if row["id"] == 3:  # of equal prompts, one row's end is not the others'
            while len(engine.asked) < 2:
                await asyncio.sleep(0.02)
            joined.set()
            return {"text": (await generate([*ASK, {"role": "user", "content": "1"}])).text}
        task = asyncio.ensure_future(goes_on())
        await asyncio.to_thread(joined.wait)
        await asyncio.sleep(0.3)
        return {"task": str(task.done())}

    engine = Obedient(2.0)
    rows = rolled(engine, rollout, tuple({"id": n} for n in (1, 2, 3)), deduplicate=True)
    assert [row["error"] for row in rows] == [None] * 3 and rows[2]["text"] == "free"
    assert engine.cancelled == 2 and len(engine.asked) == 3 and rows[0]["num_requests"] == 0
    assert len(late) == 2 and "had ended" in late[0]


def test_generate_in_a_thread() -> None:
    async def rollout(row: dict[str, Any], generate: Any) -> dict[str, Any]:
        if row["own_loop"]:
            return {"text": (await asyncio.to_thread(asyncio.run, asks(generate))).text}
        return {"text": await asyncio.to_thread(generate, ASK)}

    async def asks(generate: Any) -> Any:
        return await generate(ASK)

    good, bad = rolled(Obedient(), rollout, ({"own_loop": True}, {"own_loop": False}))
    assert good["text"] == "free" and "called in a thread" in bad["error"]


def test_which_workloads_have_a_rollout() -> None:
    class Both(ChatWorkloadBase):
        def parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
            return {}

        async def rollout(self, row: dict[str, Any], generate: Any) -> Any:
            return {}

    class NoCoroutine(ChatWorkloadBase):
        def rollout(self, row: dict[str, Any], generate: Any) -> Any:
            return {}

    class NoGenerate(ChatWorkloadBase):
        async def rollout(self, row: dict[str, Any]) -> Any:
            return {}

    wrong = (Both(), "Remove the other"), (NoCoroutine(), "async def rollout"), (NoGenerate(), "async def rollout")
    for workload, words in wrong:
        with pytest.raises(WorkloadError, match=words):
            check_workload(workload)
    for limits in ({"max_calls": 0}, {"max_calls": None}, {"max_rollout_tokens": 1.5}, {"rollout_timeout_s": 0}):
        with pytest.raises(WorkloadError, match=next(iter(limits))):
            rolled(Scripted(), None, **limits)


@pytest.mark.parametrize("more", [{}, {"prompt": "text"}])
def test_a_requests_own_chat_template_kwargs_go_over_the_jobs(more: dict[str, Any]) -> None:
    def asked(jobs: dict[str, Any]) -> Request:
        answering: Any = SimpleNamespace(_prompt=SimpleNamespace(chat_template_kwargs=jobs))
        return Answering._with_kwargs(answering, Request([1], chat_template_kwargs={"b": 2}), **more)

    assert asked({"a": 1, "b": 1}) == Request([1], chat_template_kwargs={"a": 1, "b": 2}, **more)
    assert asked({}) == Request([1], chat_template_kwargs={"b": 2}, **more)
