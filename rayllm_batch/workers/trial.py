"""A trial: some rows through a running engine, timed, to learn what the whole job will cost."""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import dataclass, field, replace
from typing import Optional

from rayllm_batch.engine.base import Engine, EngineDied, EngineUnavailable, Request
from rayllm_batch.errors import one_line

LOOK_EVERY_S = 0.05


@dataclass(frozen=True)
class Trial:
    """What came of it.

    seconds:        from the first request's start to the last one's end; all are given to the engine at once.
    output_tokens:  of each request, in their order and over all copies; None where it failed.
    input_tokens:   of those that did not fail, from an engine that tokenizes.
    errors:         of those that failed.
    load:           over time: seconds since the start, requests running, tokens generated so far.
    """

    seconds: float
    output_tokens: list[Optional[int]]
    errors: list[str] = field(default_factory=list)
    load: list[tuple[float, float, float]] = field(default_factory=list)
    input_tokens: list[int] = field(default_factory=list)


async def run_trial(engine: Engine, requests: list[Request], copies: int = 1) -> Trial:
    """Each request `copies` times.

    Copies do not share the prefix cache with each other, nor with anything before: within one they share it as the
    rows of the job would.
    """
    began, load, errors, lengths = time.perf_counter(), [], [], []
    already = engine.load().get("generation_tokens", 0)
    trial = uuid.uuid4().hex[:8]

    async def answer(request: Request, copy: int) -> Optional[int]:
        try:
            reply = await engine.generate(replace(request, cache_salt=f"{trial}-{copy}"))
            lengths.append(reply.num_input_tokens)
            return reply.num_generated_tokens
        except (EngineDied, EngineUnavailable):
            raise
        except Exception as error:  # a bad row; the run will give it an error too
            errors.append(f"engine: {one_line(error)}")
            return None

    async def look() -> None:
        while True:
            now = engine.load()
            load.append((time.perf_counter() - began, now.get("running", 0), now.get("generation_tokens", 0) - already))
            await asyncio.sleep(LOOK_EVERY_S)

    looking = asyncio.create_task(look())
    try:
        answers = await asyncio.gather(*(answer(request, copy) for copy in range(copies) for request in requests))
    finally:
        looking.cancel()
    return Trial(time.perf_counter() - began, list(answers), errors, load, lengths)
