"""An OpenAI-compatible endpoint as engine: vLLM's server, SGLang, TGI, llama.cpp, Ollama, or a provider's.

It renders and tokenises the prompts; nothing of the model is here.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Optional

from rayllm_batch.engine import chat_completions, endpoint
from rayllm_batch.engine.base import BadRequest, EngineKind, EngineUnavailable, Reply, Request, Starter
from rayllm_batch.engine.connection import Connection
from rayllm_batch.engine.endpoint import API_KEY_ENV, HEADERS_ENV, Endpoint
from rayllm_batch.engine.failure import Failure
from rayllm_batch.engine.pace import Pace
from rayllm_batch.errors import ConfigError, did_you_mean

MAX_CONCURRENCY = 64
DEFAULTS: dict[str, Any] = {
    "max_concurrency": MAX_CONCURRENCY,
    "timeout_s": 600.0,
    "max_retries": 5,
    "give_up_after_s": 300.0,
}
FIRST_WAIT_S, MOST_WAIT_S = 0.5, 30.0  # before a request is sent again; doubled each time, with jitter
PROBE_TIMEOUT_S, PROBE_EVERY_S = 30.0, 5.0
OTHER_MAX_TOKENS = "max_completion_tokens"  # as OpenAI's models call it since o1
CHARACTERS_A_TOKEN = 4  # of English, about: a guess until the first answer tells
TOKENS_A_MEDIUM = 1000  # likewise
SHARED = ("max_concurrency", "requests_per_minute", "tokens_per_minute", "max_cost_usd", "max_total_tokens")
HOW_FAST = frozenset(
    {
        *SHARED,
        "base_url",  # the same model elsewhere
        "api_key_env",
        "default_headers_env",
        "timeout_s",
        "max_retries",
        "give_up_after_s",
        "million_input_tokens_usd",
        "million_output_tokens_usd",
    }
)
EXCLUDED = dict.fromkeys(("prompt_logprobs", "logprob_token_ids"), "is none that endpoints answer. Remove it.")


class OpenAIEngine:
    """One endpoint, and the loop that acts on its failures: see `generate`."""

    vocab_size: Optional[int] = None
    max_model_len = 2**31 - 1  # the server's affair

    def __init__(self, model: str, engine_kwargs: Mapping[str, Any]) -> None:
        """engine_kwargs: this engine's share of them, see `OpenAI.each_engines`."""
        kwargs = {**DEFAULTS, **engine_kwargs}
        self._model, self._kwargs, self._extra_body = model, kwargs, kwargs.get("extra_body") or {}
        self._connection = Connection(endpoint.of(engine_kwargs, {}))
        self._pace = Pace(kwargs["max_concurrency"], kwargs.get("requests_per_minute"), kwargs.get("tokens_per_minute"))
        self._ended: Optional[str] = None
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._max_tokens_name, self._is_vllm = "max_tokens", asyncio.ensure_future(self._asks_whether_it_is_vllm())
        self._responses, self._tokens = 0, [0, 0]  # tokens: of prompts, of answers
        self._has_answered, self._answered_at = False, time.monotonic()
        self._failing_since: Optional[float] = None
        self._probing, self._probed_at = asyncio.Lock(), 0.0

    async def generate(self, request: Request) -> Reply:
        """Raises BadRequest where the server refuses this request, or fails at it max_retries times, and answers others
        meanwhile; and EngineUnavailable where it answers none.
        """
        tries, limited, failed_at = 0, 0, time.monotonic()
        choice = "choice" in (request.settings.get("structured_outputs") or {})
        is_vllm = choice and await self._is_vllm
        while True:
            path, body = chat_completions.body_of(
                request, self._model, self._extra_body, max_tokens=self._max_tokens_name, is_vllm=is_vllm
            )
            given = await self._in_turn(path, body, request, is_vllm)
            if isinstance(given, Reply):
                return given
            is_chat = path == chat_completions.CHAT
            if is_chat and given.status == 400 and OTHER_MAX_TOKENS in given.text and "max_tokens" in body:
                self._max_tokens_name = OTHER_MAX_TOKENS
                continue
            if given.kind == "refused" or given.kind == "unusable" and self._is_of_the_request(given, request):
                raise BadRequest(given.text)
            if given.kind == "unusable" and not (given.status == 404 and self._has_answered):
                raise self._end(self._unusable(given))
            if given.kind == "rate_limited":
                limited += 1
            else:
                tries, limited = tries + 1, 0
            if tries > self._kwargs["max_retries"] and await self._others_are_answered(failed_at):
                raise BadRequest(f"{given.text} (tried {tries} times)")
            failed_at = time.monotonic()
            self._check_patience(given)
            wait_s = given.retry_after_s
            if wait_s is None:
                wait_s = min(MOST_WAIT_S, FIRST_WAIT_S * 2 ** min((limited or tries) - 1, 10))
                wait_s *= random.uniform(0.75, 1.25)
            elif limited:  # Pace waits, for all requests
                wait_s = 0.0
            await asyncio.wait([self._over], timeout=wait_s)

    async def _in_turn(self, path: str, body: dict[str, Any], request: Request, is_vllm: bool) -> Reply | Failure:
        self._check_that_it_goes_on()
        turn = await self._pace.enter(_guessed_tokens(body))
        try:
            self._check_that_it_goes_on()
            given = await self._connection.ask("POST", path, body, self._kwargs["timeout_s"])
        finally:
            self._pace.leave()
        self._responses += 1
        if not isinstance(given, Failure):
            try:
                given = chat_completions.reply_of(given, request, is_vllm)
            except chat_completions.NotAnAnswer as problem:
                given = Failure("transient", self._connection.where.redacted(str(problem)))
        if isinstance(given, Failure):
            if given.kind == "rate_limited":
                self._pace.rate_limited(turn, given.retry_after_s or 0.0)
            if given.kind == "refused":
                self._hears_it()
            elif self._failing_since is None:
                self._failing_since = max(turn.sent_at, self._answered_at)
            return given
        self._hears_it(answered=True)
        reply: Reply = given
        tokens = reply.num_input_tokens or 0, reply.num_generated_tokens
        self._tokens = [before + more for before, more in zip(self._tokens, tokens, strict=True)]
        self._pace.answered(turn, sum(tokens))
        if not sum(tokens) and self._budgets:
            self._end(
                f"{self._named} does not count tokens (usage), so that {self._budgets} cannot be kept. Leave it out."
            )
        return reply

    def _hears_it(self, answered: bool = False) -> None:
        """The server is there, and answers."""
        self._has_answered = self._has_answered or answered
        self._answered_at, self._failing_since = time.monotonic(), None

    def _is_of_the_request(self, failure: Failure, request: Request) -> bool:
        """Of a 403 or a 404: whether the rest is answered all the same."""
        return failure.status == 403 and self._has_answered or failure.status == 404 and request.model is not None

    def _check_patience(self, latest: Failure) -> None:
        most, asked = self._kwargs["give_up_after_s"], latest.retry_after_s or 0.0
        if asked > most:
            wants = f"wants {asked:,.0f} s to pass before the next request, more than give_up_after_s ({most:g})"
            raise self._end(f"{self._named} {wants}: {latest.text}.")
        since = time.monotonic() - (self._failing_since or time.monotonic())
        if since > most:
            raise self._end(
                f"{self._named} has answered nothing for {since:,.0f} s (give_up_after_s is {most:g}). It says: "
                f"{latest.text}."
            )

    async def _others_are_answered(self, since: float) -> bool:
        """Whether something was, since this one failed the time before: then the server is not down.

        Where nothing was, the smallest request is asked: there may be no others.
        """
        async with self._probing:
            if self._answered_at < since and time.monotonic() - self._probed_at > PROBE_EVERY_S:
                self._probed_at = time.monotonic()
                given = await self._connection.ask("POST", *smallest(self._model, self._extra_body), PROBE_TIMEOUT_S)
                if not isinstance(given, Failure) or given.kind == "refused":
                    self._hears_it()
        return self._answered_at >= since

    def _check_that_it_goes_on(self) -> None:
        if self._ended is None and self._is_spent():
            self._end(self._spent())
        if self._ended is not None:
            raise EngineUnavailable(self._ended)

    def _end(self, why: str) -> EngineUnavailable:
        if self._ended is None:
            self._ended = why
            self._over.set_result(None)
            self._pace.close()
        return EngineUnavailable(self._ended)

    @property
    def _named(self) -> str:
        return f"The endpoint {self._connection.where.shown}"

    def _unusable(self, failure: Failure) -> str:
        return unusable(self._connection.where, self._model, failure, self._kwargs)

    def _cost(self) -> float:
        prices = (self._kwargs.get(f"million_{which}_tokens_usd") or 0.0 for which in ("input", "output"))
        return sum(price * tokens / 1e6 for price, tokens in zip(prices, self._tokens, strict=True))

    def _is_spent(self) -> bool:
        """With what is on its way, taken to cost what the others did."""
        kwargs, done = self._kwargs, sum(self._tokens)
        more = 1 + self._pace.running / max(1, self._pace.answers)
        limits = (kwargs.get("max_cost_usd"), self._cost()), (kwargs.get("max_total_tokens"), done)
        return any(limit is not None and spent * more >= limit for limit, spent in limits)

    @property
    def _budgets(self) -> str:
        return " or ".join(name for name in ("max_cost_usd", "max_total_tokens") if self._kwargs.get(name) is not None)

    def _spent(self) -> str:
        cost = f", ${self._cost():,.2f}" if self._cost() else ""
        return (
            f"{self._budgets} is reached: {sum(self._tokens):,} tokens{cost} so far. Raise it, or run the same again "
            "to spend as much once more."
        )

    async def _asks_whether_it_is_vllm(self) -> bool:
        """Its own structured_outputs have choices, which OpenAI's response_format has not."""
        given = await self._connection.ask("GET", "/models", None, PROBE_TIMEOUT_S)
        return any(one.get("owned_by") == "vllm" for one in models_in(given))

    def limits(self) -> dict[str, Any]:
        return {}

    def settings(self) -> dict[str, Any]:
        named = {name: self._kwargs.get(name) for name in ("requests_per_minute", "tokens_per_minute")}
        named = {name: value for name, value in named.items() if value is not None}
        return {"endpoint": self._connection.where.shown, "max_num_seqs": self._kwargs["max_concurrency"], **named}

    def load(self) -> dict[str, float]:
        pace = self._pace
        return {
            "running": pace.running,
            "waiting": pace.waiting,
            "steps": self._responses,
            "generation_tokens": self._tokens[1],
        }

    def is_deaf(self) -> bool:
        return False

    def shutdown(self) -> None:
        asyncio.ensure_future(self._connection.close())


class OpenAIStarter(Starter):
    def start(self, model: str, engine_kwargs: dict[str, Any], decoder: Callable[[], Any]) -> OpenAIEngine:
        return OpenAIEngine(model, engine_kwargs)


class OpenAI(EngineKind):
    """num_replicas engines have their shares of the limits: one is enough for thousands of requests a second."""

    needs_model = False
    needs_gpus = False
    tokenizes = True
    takes_media = True
    at_once_setting = "max_concurrency"
    how_fast = HOW_FAST

    def check_settings(self, engine_kwargs: Mapping[str, Any], source: str, model: str) -> dict[str, Any]:
        from rayllm_batch.engine import endpoint_settings  # which does not travel to workers

        return endpoint_settings.check(engine_kwargs, source)

    def seen_by_tasks(self, engine_kwargs: Mapping[str, Any], accelerator_type: str) -> Mapping[str, Any]:
        return {"reasoning_parser": "the server's", "tool_parser": "the server's", "excluded_settings": EXCLUDED}

    def at_once(self, engine_kwargs: Mapping[str, Any]) -> int:
        return engine_kwargs.get("max_concurrency") or MAX_CONCURRENCY

    def each_engines(self, engine_kwargs: Mapping[str, Any], engines: int) -> dict[str, Any]:
        kwargs = {"max_concurrency": self.at_once(engine_kwargs), **engine_kwargs}
        shares = {name: kwargs[name] / engines for name in SHARED if kwargs.get(name) is not None}
        return {**kwargs, **shares, "max_concurrency": max(1, int(shares["max_concurrency"]))}

    def secrets(self, engine_kwargs: Mapping[str, Any], env_vars: Mapping[str, str]) -> dict[str, str]:
        return endpoint.secrets(engine_kwargs, env_vars)

    def cost_usd(self, engine_kwargs: Mapping[str, Any], input_tokens: float, output_tokens: float) -> Optional[float]:
        prices = [engine_kwargs.get(f"million_{which}_tokens_usd") for which in ("input", "output")]
        if prices == [None, None]:
            return None
        return ((prices[0] or 0.0) * input_tokens + (prices[1] or 0.0) * output_tokens) / 1e6

    def least_s(self, engine_kwargs: Mapping[str, Any], requests: int, tokens: float) -> float:
        limits = (requests, "requests_per_minute"), (tokens, "tokens_per_minute")
        return max(60 * many / engine_kwargs[name] if engine_kwargs.get(name) else 0.0 for many, name in limits)

    def check_before_start(
        self, model: str, engine_kwargs: Mapping[str, Any], env_vars: Mapping[str, str], settings: Mapping[str, Any]
    ) -> None:
        where = endpoint.of(engine_kwargs, env_vars)
        if both := sorted(set(engine_kwargs.get("extra_body") or {}) & set(settings)):
            raise ConfigError(
                f"extra_body has {both[0]!r}, and so have the workload's sampling_params, which would count. Remove "
                "one of them."
            )

        async def ask() -> None:
            connection = Connection(where)
            try:
                await _check(connection, model, engine_kwargs, settings)
            finally:
                await connection.close()

        with ThreadPoolExecutor(1) as threads:  # a notebook has an event loop of its own in this one
            threads.submit(asyncio.run, ask()).result()

    def starter(
        self, engine_kwargs: Mapping[str, Any], accelerator_type: str, gpus: float, lora_path: Optional[str]
    ) -> OpenAIStarter:
        return OpenAIStarter()


async def _check(
    connection: Connection, model: str, engine_kwargs: Mapping[str, Any], settings: Mapping[str, Any]
) -> None:
    """Raises ConfigError where it is not there, does not know the key or the model, or refuses the settings."""
    where = connection.where
    listed = await connection.ask("GET", "/models", None, PROBE_TIMEOUT_S)
    if isinstance(listed, Failure) and listed.status is None:
        raise ConfigError(
            f"The endpoint {where.shown} cannot be reached: {listed.text}. Is base_url right (it mostly ends in /v1), "
            "and does the server run?"
        )
    if isinstance(listed, Failure) and listed.status == 401:
        raise ConfigError(unusable(where, model, listed, engine_kwargs))
    there = [one["id"] for one in models_in(listed)]
    asked = smallest(model, engine_kwargs.get("extra_body") or {}, settings)
    given = await connection.ask("POST", *asked, max(PROBE_TIMEOUT_S, engine_kwargs.get("timeout_s") or 0.0))
    if given.status == 200 if isinstance(given, Failure) else not (isinstance(given, dict) and "choices" in given):
        said = given.text if isinstance(given, Failure) else json.dumps(given)[:200]
        raise ConfigError(
            f"The endpoint {where.shown} does not speak the OpenAI API. To the smallest request it says: {said}. Is "
            "base_url right (it mostly ends in /v1)?"
        )
    if not isinstance(given, Failure) or given.kind in ("transient", "rate_limited"):  # the run has patience
        return
    if there and model not in there:
        raise ConfigError(
            f"The endpoint {where.shown} does not answer for the model {model!r}: {given.text}."
            f"{did_you_mean(model, there)} It has {', '.join(there[:20])}{', ...' if len(there) > 20 else ''}: set "
            "model_id."
        )
    if given.kind == "unusable":
        raise ConfigError(unusable(where, model, given, engine_kwargs))
    if OTHER_MAX_TOKENS in given.text:  # which the engine then sends
        return
    raise ConfigError(
        f"The endpoint {where.shown} refuses the smallest request with these settings "
        f"({', '.join(key for key in asked[1] if key not in ('model', 'messages'))}): {given.text}."
    )


def _guessed_tokens(body: Mapping[str, Any]) -> float:
    messages: list[dict[str, Any]] = body.get("messages") or []
    parts = [part for one in messages if isinstance(one["content"], list) for part in one["content"]]
    # What media take does not follow from how many bytes they are.
    of_media = TOKENS_A_MEDIUM * sum(part["type"] != "text" for part in parts)
    texts = [one for one in messages if not isinstance(one["content"], list)]
    texts += [part for part in parts if part["type"] == "text"]
    prompt = texts or body.get("prompt") or ""
    most = body.get("max_tokens") or body.get(OTHER_MAX_TOKENS) or 0
    return len(str(prompt)) / CHARACTERS_A_TOKEN + of_media + most


def smallest(model: str, extra_body: Mapping[str, Any], settings: Mapping[str, Any] = {}) -> tuple[str, dict[str, Any]]:
    """A request that takes the server next to nothing, with what these settings name."""
    left_out = ("n", "min_tokens", "max_tokens")
    plain = {key: value for key, value in settings.items() if key not in left_out}
    request = Request([], {**plain, "max_tokens": 1}, messages=[{"role": "user", "content": "Hi"}])
    return chat_completions.body_of(request, model, extra_body)


def models_in(given: Any) -> list[dict[str, Any]]:
    listed = given.get("data") if isinstance(given, dict) else None
    return [one for one in listed or () if isinstance(one, dict) and isinstance(one.get("id"), str)]


def unusable(where: Endpoint, model: str, failure: Failure, engine_kwargs: Mapping[str, Any]) -> str:
    """One sentence on why nothing is answered, and one on what to do."""
    of_headers = (engine_kwargs.get(HEADERS_ENV) or {}).values()
    names = [engine_kwargs.get("api_key_env") or API_KEY_ENV, *of_headers]
    key = f"the environment variable{'s' * (len(names) > 1)} {' or '.join(names)}"
    sent = f"Put a key that it takes into {key}" if where.headers else f"It was asked without a key: put one into {key}"
    then = {401: f"{sent}.", 403: f"{sent}.", 404: f"Is base_url right, and does it have the model {model!r}?"}
    return (
        f"The endpoint {where.shown} refuses every request: {failure.text}. {then.get(failure.status or 0, '')}".strip()
    )
