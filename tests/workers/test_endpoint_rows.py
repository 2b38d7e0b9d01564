"""Rows on their way to an endpoint and back, through the CPU stage and a replica: no Ray, no model, a rude server."""

from __future__ import annotations

import base64
import io
import json
from functools import partial
from typing import Any, Optional

import pyarrow as pa
import pytest
from PIL import Image
from rude_server import MODEL, RudeServer, answer_to
from test_replica import FakeMonitor, FakeProcess

from rayllm_batch import ChatWorkloadBase, OpenAIBatchFile, init_engine_from_config
from rayllm_batch.data import columns
from rayllm_batch.errors import EngineError
from rayllm_batch.measures.row_stats import Counts
from rayllm_batch.output import run_columns
from rayllm_batch.output.finished_rows import UNKNOWN, digest
from rayllm_batch.run.warm import Host, _as_sent
from rayllm_batch.workers import replica as replicas
from rayllm_batch.workers.media_prompts import MediaPrompts
from rayllm_batch.workers.prompts import PromptJob, build_prompts, digest_of
from rayllm_batch.workers.replica import BlockNames, Replica, ReplicaJob
from rayllm_batch.workers.rollouts import Rollouts
from rayllm_batch.workload.base import media_rules


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VLLM_NO_USAGE_STATS", "VLLM_CPU_KVCACHE_SPACE", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "1")  # put back afterwards
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(replicas, "HAND_ON_S", 0.01)
    monkeypatch.setattr(replicas, "REFUSED_FOR_S", 0.02)


class Chats(ChatWorkloadBase):
    def parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
        text = "\ud800" if row["text"] == "half" else row["text"]
        return {"messages": [{"role": "user", "content": text}]}


class Made:
    def __init__(self, server: RudeServer, workload: Any, **kwargs: Any) -> None:
        self.monitor = FakeMonitor()
        engine_kwargs = {"base_url": server.url, **kwargs}
        config = init_engine_from_config({"model_id": MODEL, "llm_engine": "openai", "engine_kwargs": engine_kwargs})
        task = config.task_kind.of(workload, config.engine_kind.seen_by_tasks(config.engine_kwargs, "CPU"))
        rollouts = partial(Rollouts, workload.rollout, 10.0) if task.has_own_columns else None
        parse: Any = getattr(workload, "parse_row", dict)
        media = MediaPrompts.of(config, media_rules(workload))
        self.prompt = PromptJob(parse, "none", task=task, as_text=True, rollouts=rollouts, media=media)
        job = ReplicaJob("run", config, self.prompt, None)
        self.replica = Replica(job, FakeProcess(self.monitor))  # type: ignore[arg-type]

    def rows(self, *texts: Any) -> list[dict[str, Any]]:
        table = build_prompts(pa.table({"text": list(texts)}), self.prompt)
        return columns.rows(self.replica(table, "block"))


def test_each_row_is_asked_as_it_is_and_counted_by_the_server() -> None:
    with RudeServer(lambda text, times: "400" if text == "bad" else None) as server:
        good, bad, half = Made(server, Chats(sampling_params={"temperature": 0, "top_k": 2})).rows("a b", "bad", "half")
    assert (good["generated_text"], good["num_input_tokens"], good["num_generated_tokens"]) == (answer_to("a b"), 2, 3)
    assert good["tool_calls"] == [] and good["reasoning"] is None and good["num_reasoning_tokens"] == 0
    assert bad["generated_text"] is None and bad["error"] == "engine: HTTP 400: No: 400"
    assert half["error"].startswith("tokenize: the prompt holds half of a surrogate pair")
    (_, _, body) = next(one for one in server.seen if one[2] and one[2]["messages"][-1]["content"] == "a b")
    assert body == {"model": MODEL, "messages": [{"role": "user", "content": "a b"}], "temperature": 0, "top_k": 2}


def test_an_answer_that_is_cut_in_a_pair_of_surrogates_is_that_rows_alone() -> None:
    """As gateways write it that count characters in UTF-16: no text, and no table could hold it."""
    with RudeServer() as server:
        original = server.completion
        cut: dict[str, Any] = {"content": "so \ud83d", "reasoning": "hm \udc00 \U0001f600"}
        server.completion = lambda body, text: original(body, text, **(cut if text == "cut" else {}))  # type: ignore[method-assign]
        first, row, last = Made(server, Chats()).rows("first", "cut", "last")
    assert (row["generated_text"], row["reasoning"], row["error"]) == ("so \ufffd", "hm \ufffd \U0001f600", None)
    assert [one["generated_text"] for one in (first, last)] == [answer_to("first"), answer_to("last")]


def test_rows_that_differ_in_words_alone_are_not_taken_for_equal() -> None:
    with RudeServer() as server:
        made = Made(server, Chats(sampling_params={"temperature": 0}))
        texts = [row["generated_text"] for row in made.rows("one", "two", "one", "three")]
    assert texts == [answer_to(text) for text in ("one", "two", "one", "three")]
    assert server.answered == {"one": 1, "two": 1, "three": 1}


class Pictures(ChatWorkloadBase):
    def parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
        picture = {"type": "image", "image": row["text"]}
        question = {"role": "user", "content": [picture, {"type": "text", "text": "what?"}, picture]}
        return {"messages": [question, {"role": "user", "content": "Be brief."}]}


def test_pictures_go_in_the_request_and_equal_rows_have_equal_ones() -> None:
    def picture(colour: str) -> bytes:
        Image.new("RGB", (2, 3), colour).save(file := io.BytesIO(), "PNG")
        return file.getvalue()

    red, blue = picture("red"), picture("blue")
    with RudeServer() as server:
        made = Made(server, Pictures(sampling_params={"temperature": 0}))
        rows = made.rows(red, blue, red, b"no picture")
    assert [row["error"] for row in rows[:3]] == [None] * 3 and rows[3]["error"].startswith("media: 1 of 2: ")
    assert server.answered == {"Be brief.": 2}, "the red one once"
    asked = [body["messages"][0]["content"] for _, _, body in server.seen if body]
    urls = ["data:image/png;base64," + base64.b64encode(one).decode() for one in (red, blue)]
    pictures = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    text = {"type": "text", "text": "what?"}
    assert sorted(asked, key=repr) == sorted([[one, text, one] for one in pictures], key=repr)
    assert [row["text"] for row in rows] == [red, blue, red, b"no picture"], "what came in goes out"


class Prompts(ChatWorkloadBase):
    def parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"prompt_token_ids": [5, 6, 7]} if row["text"] == "ids" else {"prompt": row["text"]}


def test_texts_and_token_ids() -> None:
    with RudeServer() as server:
        rows = Made(server, Prompts()).rows("a text", "ids")
    assert [row["generated_text"] for row in rows] == [answer_to("a text"), answer_to("[5, 6, 7]")]
    assert [row["num_input_tokens"] for row in rows] == [2, 3], "as the server counts them, once"
    assert {path for path, _, body in server.seen if body} == {"/v1/completions"}


class Labels(Chats):
    output_schema = ["yes", "no"]


def test_an_invalid_answer_is_asked_for_again() -> None:
    with RudeServer() as server:
        answers = iter(["perhaps", '{"answer": "no"}'])
        whole = server.completion
        server.completion = lambda body, text, **_: whole(body, text, content=next(answers))  # type: ignore[method-assign]
        [row] = Made(server, Labels(reask=1)).rows("Is it?")
    assert (row["parsed"], row["generated_text"], row["num_requests"], row["error"]) == ("no", "no", 2, None)
    *_, (_, _, body) = server.seen
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]
    assert body["messages"][1]["content"] == "perhaps" and "none of 'yes', 'no'" in body["messages"][2]["content"]


class Talks(ChatWorkloadBase):
    async def rollout(self, row: dict[str, Any], generate: Any) -> dict[str, Any]:
        try:
            first = await generate([{"role": "user", "content": row["text"]}])
            second = await generate({"prompt": f"{first.text}!"}, max_tokens=3)
        except Exception:  # users do, and this row must not come out as answered for that
            return {"said": "nothing"}
        return {"said": second.text}


def test_a_rollout_asks_more_than_once() -> None:
    with RudeServer() as server:
        [row] = Made(server, Talks()).rows("a b")
    assert row["said"] == answer_to(f"{answer_to('a b')}!") and row["num_requests"] == 2
    assert (row["num_input_tokens"], row["num_generated_tokens"]) == (2 + 3, 3 + 4)


@pytest.mark.parametrize("workload", [Chats(), Talks()])
def test_rows_that_nobody_answers_are_left_out_and_the_run_is_told(workload: Any) -> None:
    def behave(text: str, times: int) -> Optional[str]:
        return None if text.startswith(("good", "Re: good")) else "500"

    with RudeServer(behave) as server:
        made = Made(server, workload, give_up_after_s=0.3, max_concurrency=1)
        rows = made.rows("good 1", "good 2", "bad 3", "bad 4")
        assert [row["text"] for row in rows] == ["good 1", "good 2"] and {row["error"] for row in rows} == {None}
        [(why,)] = made.monitor.of("ends")
        assert "has answered nothing for" in why
        [(_, stats)] = made.monitor.of("delivers")
        assert stats.counts.rows == 2 and made.monitor.latest.rows == 2 and not stats.errors
        assert made.rows("good 5") == [], "an error would overtake the rows before it"
        with pytest.raises(EngineError, match="has answered nothing for"):
            made.rows("good 5")
    assert stats.counts == Counts(2, 0, stats.counts.input_tokens, stats.counts.output_tokens)


def test_what_is_asked_has_a_digest_and_an_order_without_token_ids() -> None:
    job = PromptJob(Chats().parse_row, "none", as_text=True, sort=True)
    table = build_prompts(pa.table({"text": ["b", "a", "c", "half"]}), job)
    rows = run_columns.stage_rows(table)
    assert [json.loads(row[run_columns.MESSAGES] or '[{"content": null}]')[0]["content"] for row in rows] == [
        None,
        "a",
        "b",
        "c",
    ]
    digests = [digest_of(row, job) for row in rows]
    assert len(set(digests)) == 4 and digests[0] == UNKNOWN, "a row that failed has none"
    assert digests[1] == digest(None, None, rows[1][run_columns.MESSAGES])
    own = {**rows[1], run_columns.REQUEST: '{"model": "other"}'}
    assert digest_of(own, job) not in digests


def test_a_preview_shows_what_is_sent() -> None:
    host = Host.__new__(Host)
    with RudeServer() as server:
        host._replica = Made(server, Chats()).replica
        host._replica._process.blocks = BlockNames()
        host._replica._process.blocks.next = lambda: "block"  # type: ignore[method-assign]
        host.adopt = lambda run_id: None  # type: ignore[method-assign]
        [row] = host.preview("run", pa.table({"text": ["a b"]}))
    assert row["prompt"] == "user: a b" and row["generated_text"] == answer_to("a b")
    assert _as_sent('"a text"', None) == "a text" and _as_sent(None, [1, 2]) == "token ids 1, 2"
    assert _as_sent('[{"role": "user", "content": "x", "name": "Jo"}]', None) == 'user: x {"name": "Jo"}'


def test_a_sample_is_tried_once_and_its_prompts_are_counted_by_the_server() -> None:
    host = Host.__new__(Host)
    with RudeServer(lambda text, times: "400" if text == "bad" else None) as server:
        host._replica = Made(server, Chats(), max_concurrency=7).replica
        host.adopt = lambda run_id: None  # type: ignore[method-assign]
        sample, at_once, _ = host.sample("run", pa.table({"text": ["a b", "a b c", "bad"]}), 1000.0)
    assert at_once == 7 and sample.input_tokens == [2, 3] and sample.whole.output_tokens == [3, 4, None]
    assert sum(server.asked.values()) == 3 and sample.failed == ["engine: BadRequest: HTTP 400: No: 400"]


def test_a_batch_file_is_answered_by_an_endpoint() -> None:
    """Tools and log-probabilities as the endpoint has them, its counts; what it refuses is an error line."""
    ask = {"messages": [{"role": "user", "content": "a b"}], "model": "m"}
    bodies: dict[str, tuple[str, dict[str, Any]]] = {
        "chat": ("chat/completions", {**ask, "max_tokens": 3, "temperature": 0.5, "user": "u"}),
        "tools": ("chat/completions", {**ask, "tools": [{"type": "function", "function": {"name": "look"}}]}),
        "text": ("completions", {"prompt": "c d e", "model": "m"}),
        "several": ("chat/completions", {**ask, "n": 2}),
        "bad": ("chat/completions", {**ask, "messages": [{"role": "user", "content": "bad"}]}),
        "other model": ("chat/completions", {**ask, "model": "x"}),
        "prompt_logprobs": ("chat/completions", {**ask, "prompt_logprobs": 1}),
        "embedding": ("embeddings", {"input": "a", "model": "m"}),
    }
    lines = [json.dumps({"custom_id": name, "url": f"/v1/{url}", "body": body}) for name, (url, body) in bodies.items()]
    with RudeServer(lambda text, times: "400" if text == "bad" else None) as server:
        made = Made(server, OpenAIBatchFile("x", served_model_name="m"))
        table = pa.table({"custom_id": list(bodies), "request": [line.encode() for line in lines]})
        rows = {row["custom_id"]: row for row in columns.rows(made.replica(build_prompts(table, made.prompt), "block"))}
    found = {name: json.loads(row["response"]) for name, row in rows.items() if row["error"] is None}
    assert {name: row["error"] for name, row in rows.items() if name not in found} == {
        "bad": "engine: HTTP 400: No: 400",
        "other model": "parse_row: InvalidRequest: The model `x` does not exist; it is `m` here.",
        "prompt_logprobs": rows["prompt_logprobs"]["error"],
        "embedding": rows["embedding"]["error"],
    }
    assert "none that endpoints answer" in rows["prompt_logprobs"]["error"]
    assert "not supported by task generate" in rows["embedding"]["error"]
    choice = found["chat"]["choices"][0]
    assert choice["message"]["content"] == answer_to("a b") and choice["finish_reason"] == "stop"
    assert found["chat"]["usage"]["prompt_tokens"] == 2 and found["chat"]["model"] == "m"
    assert found["text"]["choices"][0]["text"] == answer_to("c d e") and found["text"]["object"] == "text_completion"
    assert found["text"]["usage"]["total_tokens"] == 3 + found["text"]["usage"]["completion_tokens"]
    assert [one["index"] for one in found["several"]["choices"]] == [0, 1]
    sent = {json.dumps(body.get("tools")) for _, _, body in server.seen if body}
    assert len(sent) == 2, "the tools went to the endpoint"
