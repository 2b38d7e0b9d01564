"""The engine before a rude server: what it makes of each fault, how often it asks, and what it never says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from rude_server import MODEL, RudeServer, answer_to

from rayllm_batch.engine import connection, openai
from rayllm_batch.engine.base import BadRequest, EngineUnavailable, Reply, Request
from rayllm_batch.engine.openai import OpenAI, OpenAIEngine
from rayllm_batch.errors import ConfigError

KEY = "sk-test-0123456789abcdef"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai, "FIRST_WAIT_S", 0.01)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def ask(text: str, **settings: Any) -> Request:
    return Request([], settings, messages=[{"role": "user", "content": text}])


def with_engine(server: RudeServer, use: Callable[[OpenAIEngine], Coroutine[Any, Any, Any]], **kwargs: Any) -> Any:
    async def run() -> Any:
        engine = OpenAIEngine(kwargs.pop("model", MODEL), {"base_url": server.url, "timeout_s": 5.0, **kwargs})
        try:
            return await asyncio.wait_for(use(engine), 60)
        finally:
            await engine._connection.close()

    return asyncio.run(run())


def answers(server: RudeServer, requests: list[Request], **kwargs: Any) -> list[Any]:
    """Of each its reply, or its error."""

    async def use(engine: OpenAIEngine) -> list[Any]:
        return await asyncio.gather(*map(engine.generate, requests), return_exceptions=True)

    return with_engine(server, use, **kwargs)


TRANSIENT = [
    "429",
    "500",
    "502",
    "503 page",
    "page in 200",
    "wrong json",
    "error in 200",
    "no choices",
    "cut",
    "truncated",
]


@pytest.mark.parametrize("fault", TRANSIENT)
def test_what_passes_is_asked_again_and_answered(fault: str) -> None:
    with RudeServer(lambda text, times: fault if times < 2 else None) as server:
        found = answers(server, [ask(f"row {n}") for n in range(20)])
    assert [one.text for one in found] == [answer_to(f"row {n}") for n in range(20)]
    assert set(server.answered.values()) == {1} and set(server.asked.values()) == {3}
    assert found[0].num_input_tokens == 2 and found[0].num_generated_tokens == 3 and found[0].finish_reason == "stop"


def test_a_server_that_hangs_is_asked_again() -> None:
    with RudeServer(lambda text, times: "hang" if times < 1 else None) as server:
        found = answers(server, [ask("row")], timeout_s=0.3)
    assert found[0].text == answer_to("row") and server.asked["row"] == 2


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_request_is_that_rows_error_and_is_not_asked_again(status: int) -> None:
    with RudeServer(lambda text, times: str(status) if text == "bad" else None) as server:
        bad, good = answers(server, [ask("bad"), ask("good")])
    assert isinstance(bad, BadRequest) and str(bad).startswith(f"HTTP {status}: No: {status}")
    assert good.text == answer_to("good") and server.asked["bad"] == 1


@pytest.mark.parametrize("fault", ["500", "cut", "wrong json", "404"])
def test_a_row_out_of_retries_has_the_reason_and_others_go_on(fault: str) -> None:
    with RudeServer(
        lambda text, times: fault if text == "bad" and (times or fault != "404") else None, delay_s=0.01
    ) as server:
        requests = [ask(f"row {n}") for n in range(50)] + [ask("bad")]
        if fault == "404":  # once something was answered; before that it is the model's
            requests.insert(0, ask("bad"))
        found = answers(server, requests, max_retries=3, max_concurrency=2)
    assert isinstance(found[-1], BadRequest) and "(tried 4 times)" in str(found[-1])
    assert all(isinstance(one, Reply) for one in found[:-1])


def test_the_last_row_is_to_blame_too_where_the_smallest_request_is_answered() -> None:
    with RudeServer(lambda text, times: "500" if text == "bad" else None) as server:
        found = answers(server, [ask("bad")], max_retries=2)
    assert isinstance(found[0], BadRequest) and server.asked["Hi"] == 1 and server.asked["bad"] == 3


def test_of_a_server_that_is_down_no_row_is_to_blame() -> None:
    with RudeServer(lambda text, times: "500") as server:
        found = answers(server, [ask(f"row {n}") for n in range(10)], max_retries=1, give_up_after_s=0.5)
    assert {type(one) for one in found} == {EngineUnavailable} and len({str(one) for one in found}) == 1
    assert str(found[0]).startswith(f"The endpoint {server.url} has answered nothing for ")
    assert "give_up_after_s is 0.5" in str(found[0]) and "HTTP 500: No: 500" in str(found[0])


def test_nobody_listens() -> None:
    server = RudeServer()
    with server:
        pass
    found = answers(server, [ask("row")], give_up_after_s=0.2)
    assert isinstance(found[0], EngineUnavailable) and "Connect" in str(found[0])


def test_a_server_that_comes_back_goes_on_where_it_was() -> None:
    server = RudeServer(delay_s=0.02)

    async def use(engine: OpenAIEngine) -> list[Any]:
        asked = [asyncio.ensure_future(engine.generate(ask(f"row {n}"))) for n in range(200)]
        while (before := sum(server.answered.values())) < 20:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(server.stop)
        await asyncio.sleep(0.5)
        await asyncio.to_thread(server.start)
        return [before, *await asyncio.gather(*asked)]

    with server:
        before, *found = with_engine(server, use, max_concurrency=4)
    assert 0 < before < 200
    assert [one.text for one in found] == [answer_to(f"row {n}") for n in range(200)]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("401", "Put a key that it takes into the environment variable OPENAI_API_KEY"),
        ("403", "Put a key that it takes into the environment variable OPENAI_API_KEY"),
        ("404", f"does it have the model '{MODEL}'"),
        ("402", "HTTP 402"),
        ("no money", "You exceeded your current quota"),
        ("redirect", "redirects to /elsewhere, which is not followed"),
    ],
)
def test_what_no_request_gets_past_ends_the_run(fault: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with RudeServer(lambda text, times: fault) as server:
        found = answers(server, [ask("one"), ask("two")], max_concurrency=1)
    assert {type(one) for one in found} == {EngineUnavailable} and words in str(found[0])
    assert KEY not in str(found) and sum(server.asked.values()) == 1
    assert not [path for path, _, _ in server.seen if path == "/elsewhere"]


def test_a_key_that_expires_ends_the_run_and_one_request_that_is_forbidden_does_not() -> None:
    with RudeServer(lambda text, times: {"forbidden": "403", "late": "401"}.get(text)) as server:
        found = answers(server, [ask("row"), ask("forbidden"), ask("late"), ask("row 2")], max_concurrency=1)
    kinds = [type(one) for one in found]
    assert kinds == [Reply, BadRequest, EngineUnavailable, EngineUnavailable]


def test_the_key_is_sent_and_never_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    with RudeServer(lambda text, times: "400", key=KEY) as server:
        (said,) = answers(server, [ask("row")], api_key_env="MY_KEY")
        assert isinstance(said, BadRequest) and "***" in str(said) and KEY not in str(said)
        server.key = "sk-another-0123456789"
        (said,) = answers(server, [ask("row")], api_key_env="MY_KEY")
    assert isinstance(said, EngineUnavailable) and KEY not in str(said) and "MY_KEY" in str(said)
    (_, headers, _) = next(one for one in server.seen if one[0] == "/v1/chat/completions")
    assert headers["Authorization"] == f"Bearer {KEY}"


def test_headers_of_a_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY", "0123-gateway-secret")
    how = {"default_headers_env": {"x-api-key": "GATEWAY"}}
    with RudeServer(lambda text, times: {"bad": "400", "late": "401"}.get(text)) as server:
        found = answers(server, [ask("row"), ask("bad"), ask("late")], max_concurrency=1, **how)
    assert [type(one) for one in found] == [Reply, BadRequest, EngineUnavailable]
    assert all(headers["x-api-key"] == "0123-gateway-secret" for _, headers, _ in server.seen)
    assert "0123" not in str(found) and "variables OPENAI_API_KEY or GATEWAY" in str(found[2])


def test_retry_after_is_waited_for_by_all_requests() -> None:
    """The first is refused for 1.2 s, and none is sent in that time."""
    times: list[float] = []

    def behave(text: str, before: int) -> Any:
        times.append(time.monotonic())
        return "429 after 1.2" if len(times) == 1 else None

    with RudeServer(behave) as server:
        answers(server, [ask(f"row {n}") for n in range(6)], max_concurrency=1)
    assert 1.15 < times[1] - times[0] < 2.5 and len(times) == 7


def test_a_date_is_waited_for_too() -> None:
    with RudeServer(lambda text, times: "429 date" if not times else None) as server:
        began = time.monotonic()
        (found,) = answers(server, [ask("row")])
    assert found.text == answer_to("row") and 0.9 < time.monotonic() - began < 4


def test_to_be_told_to_wait_for_hours_ends_the_run() -> None:
    with RudeServer(lambda text, times: "429 after 3600") as server:
        (said,) = answers(server, [ask("row")])
    assert isinstance(said, EngineUnavailable) and "wants 3,600 s to pass" in str(said)


def test_no_more_at_once_than_was_said_and_a_rate_limit_halves_it() -> None:
    first = iter(["429 after 0"])

    async def use(engine: OpenAIEngine) -> float:
        await asyncio.gather(*(engine.generate(ask(f"row {n}")) for n in range(100)))
        return engine._pace.limit

    with RudeServer(delay_s=0.005) as server:
        assert with_engine(server, use, max_concurrency=8) == 8
        assert server.most_at_once == 8
        server.behave = lambda text, times: next(first, None)
        limit = with_engine(server, use, max_concurrency=8)
        assert 4 < limit < 8.01 and server.most_at_once == 8


def test_requests_per_minute() -> None:
    with RudeServer() as server:
        began = time.monotonic()
        answers(server, [ask(f"row {n}") for n in range(11)], requests_per_minute=600)
    assert 0.95 < time.monotonic() - began < 3


@pytest.mark.parametrize("limit", [{"max_total_tokens": 200}, {"max_cost_usd": 0.2}])
def test_a_budget_ends_the_run_and_is_kept(limit: dict[str, float]) -> None:
    prices = {"million_input_tokens_usd": 1000.0, "million_output_tokens_usd": 1000.0}  # 5 tokens a row: 0.005
    with RudeServer() as server:
        found = answers(server, [ask(f"row {n}") for n in range(100)], max_concurrency=4, **limit, **prices)
    done = [one for one in found if isinstance(one, Reply)]
    assert 30 <= len(done) <= 41 and all(isinstance(one, (Reply, EngineUnavailable)) for one in found)
    assert len(done) == sum(server.answered.values())
    said = str(next(one for one in found if isinstance(one, EngineUnavailable)))
    assert next(iter(limit)) in said and "is reached" in said


def test_a_budget_cannot_be_kept_where_nothing_is_counted() -> None:
    with RudeServer() as server:
        server.usage = {"prompt_tokens": None}
        found = answers(server, [ask(f"row {n}") for n in range(9)], max_concurrency=1, max_total_tokens=10_000)
    assert [type(one) for one in found] == [Reply] + [EngineUnavailable] * 8
    assert "does not count tokens (usage), so that max_total_tokens cannot be kept" in str(found[1])


def test_content_that_is_none_is_no_answer() -> None:
    with RudeServer(lambda text, times: "null content") as server:
        (found,) = answers(server, [ask("row")])
    assert (
        found.parsed[0].content is None and found.parsed[0].problem == "the server's answer has no content: I will not."
    )


def test_an_answer_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MOST_BYTES", 4 << 20)
    with RudeServer(lambda text, times: "huge") as server:
        (found,) = answers(server, [ask("row")])
    assert isinstance(found, BadRequest) and "longer than 4 MiB" in str(found) and server.asked["row"] == 1


def test_models_that_take_max_completion_tokens() -> None:
    refusal = (
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    )
    with RudeServer() as server:
        original = server._answer

        async def answer(request: Any) -> Any:
            body = await request.json()
            return (
                server._error(400, refusal, "unsupported_parameter")
                if "max_tokens" in body
                else await original(request)
            )

        server._answer = answer  # type: ignore[method-assign]
        found = answers(server, [ask(f"row {n}", max_tokens=7) for n in range(5)])
        OpenAI().check_before_start(MODEL, {"base_url": server.url}, {}, {"max_tokens": 7})
    assert [one.text for one in found] == [answer_to(f"row {n}") for n in range(5)]
    assert {body["max_completion_tokens"] for _, _, body in server.seen if body} == {7}


class TestBeforeTheStart:
    def check(self, server: RudeServer, model: str = MODEL, settings: Any = None, **kwargs: Any) -> None:
        OpenAI().check_before_start(model, {"base_url": server.url, **kwargs}, {}, settings or {})

    def test_all_is_well(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        with RudeServer(key=KEY) as server:
            self.check(server, settings={"temperature": 0, "n": 4, "max_tokens": 700, "min_tokens": 3})
        path, _, body = server.seen[-1]
        assert path == "/v1/chat/completions" and body["max_tokens"] == 1 and body["temperature"] == 0
        assert "n" not in body and "min_tokens" not in body

    def test_nobody_listens(self) -> None:
        with RudeServer() as server:
            pass
        with pytest.raises(
            ConfigError, match=r"The endpoint http://127.0.0.1:\d+/v1 cannot be reached: ClientConnector"
        ):
            self.check(server)

    def test_another_model(self) -> None:
        with RudeServer() as server, pytest.raises(ConfigError) as refusal:
            self.check(server, "tinny")
        assert "Did you mean 'tiny'? It has tiny: set model_id." in str(refusal.value)

    def test_a_wrong_key_and_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with RudeServer(key=KEY) as server:
            with pytest.raises(ConfigError, match="It was asked without a key: put one into .* OPENAI_API_KEY"):
                self.check(server)
            monkeypatch.setenv("MY_KEY", "sk-mine-abcdefghijkl")
            with pytest.raises(ConfigError, match="Put a key that it takes into .* MY_KEY") as refusal:
                self.check(server, api_key_env="MY_KEY")
        assert "sk-mine" not in str(refusal.value)

    def test_what_is_said_twice(self) -> None:
        with RudeServer() as server:
            self.check(server, settings={"top_k": 4}, extra_body={"seed": 1})
            with pytest.raises(ConfigError, match="extra_body has 'top_k', and so have the workload's sampling_params"):
                self.check(server, settings={"top_k": 4}, extra_body={"top_k": 1})

    def test_settings_that_it_refuses(self) -> None:
        with RudeServer(lambda text, times: "400") as server:  # noqa: SIM117
            words = r"refuses the smallest request with these settings \(max_tokens, top_k\)"
            with pytest.raises(ConfigError, match=words):
                self.check(server, settings={"top_k": 4})

    @pytest.mark.parametrize(
        "fault, said", [("page in 200", "HTTP 200: a page in place of JSON: Please log in"), ("wrong json", "choices")]
    )
    def test_something_else_listens(self, fault: str, said: str) -> None:
        with RudeServer(lambda text, times: fault) as server:  # noqa: SIM117
            with pytest.raises(ConfigError, match="does not speak the OpenAI API.* mostly ends in /v1") as refusal:
                self.check(server)
        assert said in str(refusal.value)

    @pytest.mark.parametrize("fault", ["500", "429 after 9", "cut", "error in 200", "no choices"])
    def test_what_may_pass_is_left_to_the_run(self, fault: str) -> None:
        with RudeServer(lambda text, times: fault) as server:
            self.check(server)


def test_shares_of_a_runs_limits() -> None:
    given = {"base_url": "http://x/v1", "requests_per_minute": 100, "max_total_tokens": 1000, "timeout_s": 9}
    share = OpenAI().each_engines(given, 4)
    assert share == {**given, "max_concurrency": 16, "requests_per_minute": 25, "max_total_tokens": 250}
    assert OpenAI().each_engines({"max_concurrency": 2}, 4)["max_concurrency"] == 1


def test_what_tokens_cost() -> None:
    prices = {"million_input_tokens_usd": 2.5, "million_output_tokens_usd": 10.0}
    assert OpenAI().cost_usd(prices, 2_000_000, 500_000) == 10.0
    assert OpenAI().cost_usd({}, 1, 1) is None
