"""Rollouts of the user's, many at once: whatever one of them does, the others get their answers."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from rayllm_batch.errors import RolloutError
from rayllm_batch.workers import rollouts
from rayllm_batch.workers.rollouts import Rollouts

LIMIT_S = 1.0


async def generate(text: str) -> str:
    await asyncio.sleep(0.01)
    return f"<{text}>"


async def rollout(row: dict[str, Any], generate: Any) -> dict[str, Any]:  # noqa: PLR0912
    await ACTS[row["act"]]()
    first = await generate("a")
    return {"answer": await generate(first), "beside": await asyncio.gather(generate("b"), generate("c"))}


async def nothing() -> None:
    pass


async def sleeps() -> None:
    time.sleep(0.3)  # noqa: ASYNC251 (what users do)


async def sleeps_long() -> None:
    time.sleep(4 * LIMIT_S)  # noqa: ASYNC251


async def spins() -> None:
    while True:
        pass


async def spins_and_catches() -> None:
    while True:
        try:
            while True:
                pass
        except Exception:
            pass


async def waits_for_ever() -> None:
    await asyncio.Event().wait()


async def refuses_to_end() -> None:
    until = time.monotonic() + 4 * LIMIT_S
    while time.monotonic() < until:
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            pass


async def raises() -> None:
    raise KeyError("a tool's own error")


async def exits() -> None:
    raise SystemExit(3)


async def interrupts() -> None:
    raise KeyboardInterrupt


async def exits_in_a_task() -> None:
    await asyncio.gather(exits(), asyncio.sleep(0.01))


async def cancels_itself() -> None:
    raise asyncio.CancelledError


async def leaves() -> None:
    raise GeneratorExit


async def stops_its_loop() -> None:
    asyncio.get_running_loop().stop()


ACTS = {act.__name__: act for act in (nothing, sleeps, sleeps_long, spins, spins_and_catches, waits_for_ever)}
ACTS |= {act.__name__: act for act in (refuses_to_end, raises, exits, interrupts)}
ACTS |= {act.__name__: act for act in (exits_in_a_task, cancels_itself, leaves, stops_its_loop)}
SAID = {
    "sleeps_long": "without an await",
    "spins": "without an await",
    "spins_and_catches": "without an await",
    "waits_for_ever": "did not end within 1 s",
    "refuses_to_end": "did not end within 1 s",
    "raises": "a tool's own error",
    "exits": "SystemExit: 3",
    "interrupts": "KeyboardInterrupt",
    "exits_in_a_task": "SystemExit: 3",
    "cancels_itself": "it was cancelled",
    "leaves": "GeneratorExit",
}


async def run_all(acts: list[str], limit_s: float = LIMIT_S) -> list[Any]:
    several = Rollouts(rollout, limit_s)
    rows = (several.run({"act": act}, generate) for act in acts)
    return await asyncio.gather(*rows, return_exceptions=True)


def test_what_one_does_is_its_own_affair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollouts, "GRACE_S", 0.5)
    monkeypatch.setattr(rollouts, "BEAT_S", 0.1)
    acts = ["nothing"] * 20 + [*SAID, "stops_its_loop", "sleeps"] + ["nothing"] * 20
    for act, got in zip(acts, asyncio.run(run_all(acts)), strict=True):
        if act in SAID:
            assert SAID[act] in str(got) and isinstance(got, KeyError if act == "raises" else RolloutError), act
        else:
            assert got == {"answer": "<<a>>", "beside": ["<b>", "<c>"]}, act


def test_many_at_once() -> None:
    assert len([one for one in asyncio.run(run_all(["nothing"] * 1000, 60.0)) if one["answer"] == "<<a>>"]) == 1000


def test_its_threads_end_with_it() -> None:
    """An engine may be kept for many runs."""

    def threads() -> int:
        return sum(thread.name == "rollouts" for thread in threading.enumerate())

    async def run() -> None:
        several = Rollouts(rollout, LIMIT_S)
        await asyncio.gather(*(several.run({"act": "nothing"}, generate) for _ in range(8)))
        assert threads() == before + rollouts.LOOPS
        left = asyncio.ensure_future(several.run({"act": "waits_for_ever"}, generate))
        await asyncio.sleep(0.1)
        several.end()
        with pytest.raises(RolloutError, match="run has ended"):
            await left

    before = threads()
    asyncio.run(run())
    until = time.monotonic() + 10
    while threads() > before and time.monotonic() < until:
        time.sleep(0.05)
    assert threads() <= before


def test_an_error_of_generate_may_be_caught() -> None:
    async def fails(text: str) -> str:
        raise ValueError("too long")

    async def careful(row: dict[str, Any], generate: Any) -> str:
        try:
            return await generate("a")
        except ValueError as error:
            return f"caught {error}"

    async def run() -> Any:
        return await Rollouts(careful, LIMIT_S).run({}, fails)

    assert asyncio.run(run()) == "caught too long"
