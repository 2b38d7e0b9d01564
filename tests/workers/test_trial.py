"""A trial against an engine of this file's own, whose time is counted and not measured."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rayllm_batch.engine.base import EngineDied, Reply, Request
from rayllm_batch.tasks.generate import Generate
from rayllm_batch.workers.trial import run_trial


class Engine:
    def __init__(self, error: Exception | None = None) -> None:
        self.asked: list[tuple[list[int], dict[str, Any], Any, Any]] = []
        self.error, self.running, self.generated = error, 0, 100

    async def generate(self, request: Request) -> Reply:
        ids, params = request.prompt_token_ids, request.settings
        self.asked.append((ids, params, request.model, request.cache_salt))
        if self.error and ids == [13]:
            raise self.error
        self.running += 1
        await asyncio.sleep(0.12)
        self.running -= 1
        self.generated += params["max_tokens"]
        return Reply("text", params["max_tokens"], "length")

    def load(self) -> dict[str, float]:
        return {"running": self.running, "generation_tokens": self.generated}


REQUESTS = [Request([1, 2], {"max_tokens": 7}), Request([13], {"max_tokens": 5, "min_tokens": 4}, "adapter")]


def test_each_copy_has_a_prefix_cache_of_its_own() -> None:
    engine = Engine()
    trial = asyncio.run(run_trial(engine, REQUESTS, copies=2))
    assert trial.output_tokens == [7, 5, 7, 5] and trial.errors == []
    salts = [salt for *_, salt in engine.asked]
    assert salts[0] == salts[1] != salts[2] == salts[3]
    asyncio.run(run_trial(engine, REQUESTS))
    assert engine.asked[-1][-1] not in salts
    assert [model for _, _, model, _ in engine.asked[:2]] == [None, "adapter"]


def test_the_load_is_looked_at_while_it_runs() -> None:
    trial = asyncio.run(run_trial(Engine(), REQUESTS, copies=3))
    assert max(running for _, running, _ in trial.load) == 6
    assert all(0 <= seconds <= trial.seconds for seconds, _, _ in trial.load)
    assert trial.load[0][2] == 0, "tokens of this trial, not of those before"


def test_answers_of_one_token_need_no_minimum() -> None:
    engine = Engine()
    trial = asyncio.run(run_trial(engine, [Generate().reading_only(request) for request in REQUESTS]))
    assert [params for _, params, _, _ in engine.asked] == [{"max_tokens": 1}, {"max_tokens": 1}]
    assert trial.output_tokens == [1, 1] and REQUESTS[1].settings["min_tokens"] == 4


def test_a_bad_row_is_counted_and_a_dead_engine_ends_it() -> None:
    trial = asyncio.run(run_trial(Engine(ValueError("no such thing")), REQUESTS))
    assert trial.output_tokens == [7, None] and trial.errors == ["engine: ValueError: no such thing"]
    with pytest.raises(EngineDied):
        asyncio.run(run_trial(Engine(EngineDied("gone")), REQUESTS))
