"""The pace by a clock of its own: who may go when, what shrinks it, and what does not."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from rayllm_batch.engine.pace import Pace


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def run(use: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(use, 10))


def entered(pace: Pace, tokens: float = 0.0) -> Any:
    """A turn that can be had at once; None else."""

    async def enter() -> Any:
        task = asyncio.ensure_future(pace.enter(tokens))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        if task.done():
            return task.result()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return None

    return enter()


def test_no_more_than_the_limit_at_once() -> None:
    async def use() -> None:
        pace = Pace(2, clock=Clock())
        assert await entered(pace) and await entered(pace) and not await entered(pace)
        assert (pace.running, pace.waiting) == (2, 0)
        pace.leave()
        assert await entered(pace) and not await entered(pace)

    run(use())


def test_only_a_rate_limit_shrinks_it_and_answers_bring_it_back() -> None:
    async def use() -> None:
        clock = Clock()
        pace = Pace(8, clock=clock)
        turns = [await pace.enter() for _ in range(8)]
        clock.now = 1.0
        for turn in turns:  # all were sent before any was refused: that is one refusal
            pace.leave()
            pace.rate_limited(turn, 0.0)
        assert pace.limit == 4
        late = await pace.enter()
        clock.now = 2.0
        pace.rate_limited(late, 0.0)
        assert pace.limit == 2
        pace.leave()
        for _ in range(2):
            pace.answered(late, 0)
        assert 2.8 < pace.limit < 3
        for _ in range(100):
            pace.answered(late, 0)
        assert pace.limit == 8

    run(use())


@pytest.mark.parametrize("pause", [5.0, 0.0])
def test_a_pause_is_everybodys(pause: float) -> None:
    async def use() -> None:
        clock = Clock()
        pace = Pace(4, clock=clock)
        for _ in range(3):
            clock.now += 100.0
            turn = await pace.enter()
            pace.rate_limited(turn, pause)
            pace.leave()
            if pause:
                clock.now += pause - 0.01
                assert not await entered(pace)
            clock.now += 0.02
            assert await entered(pace)
            pace.leave()
            pace.running = 0

    run(use())


def test_requests_per_minute() -> None:
    async def use() -> None:
        clock = Clock()
        pace = Pace(100, requests_per_minute=60, clock=clock)
        sent = 0
        for _ in range(100):
            while await entered(pace):
                sent += 1
            clock.now += 0.1
        assert sent == 10

    run(use())


def test_tokens_per_minute_by_what_answers_have() -> None:
    async def use() -> None:
        clock = Clock()
        pace = Pace(100, tokens_per_minute=6000, clock=clock)  # 100 a second
        sent = 0
        for _ in range(1600):
            while turn := await entered(pace, tokens=1):
                sent += 1
                pace.leave()
                pace.answered(turn, 50)
            clock.now += 1 / 16
        assert 195 <= sent <= 205, "two a second for 100 s, whatever was guessed at first"

    run(use())


def test_once_closed_nobody_waits() -> None:
    async def use() -> None:
        pace = Pace(1, requests_per_minute=1)
        await pace.enter()
        waiting = [asyncio.ensure_future(pace.enter()) for _ in range(5)]
        await asyncio.sleep(0.01)
        assert pace.waiting == 5
        pace.close()
        await asyncio.gather(*waiting)

    run(use())
