"""What an endpoint's faults do to rows: requests of `llm_engine: openai` to a rude server, a fault at a time.

    python -m bench.endpoint_faults [--rows 20000] [--only cut truncated]

A table for bench/RELIABILITY.md. Of a hundred rows ten meet the fault, each twice in a row (or all do, where the server
has a limit or goes away), and one is refused each time (HTTP 400). "Lost" are rows with neither an answer nor their own
error, "doubled" those that the server answered more than once, "wrong" those with another row's answer. The whole way,
with Ray, a folder and a server that dies, is in tests/stories/test_run_endpoint.py.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path
from typing import Any, Optional

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from rude_server import MODEL, RudeServer, answer_to  # noqa: E402

from rayllm_batch.engine.base import BadRequest, Reply, Request  # noqa: E402
from rayllm_batch.engine.openai import OpenAIEngine  # noqa: E402

FAULTS = {
    "429": "HTTP 429 above 200 requests a second, without Retry-After",
    "429 after 1": "HTTP 429 above 200 requests a second, with Retry-After: 1",
    "500": "HTTP 500",
    "503 page": "HTTP 503 and a page of HTML",
    "page in 200": "HTTP 200 and a page of HTML",
    "error in 200": "HTTP 200 and an error in the JSON",
    "wrong json": "JSON that ends too early",
    "no choices": "an answer without choices",
    "truncated": "a body cut in the middle",
    "cut": "a connection that is cut before the answer",
    "hang": "no answer at all (timeout_s of 2 s)",
    "down": "a server that goes away for 3 s, twice",
}


ALLOWED = 200  # requests a second, of a server with a limit


def behave(fault: str) -> Any:
    second = [0, 0]

    def limited(text: str, times: int) -> Optional[str]:
        if int(text.rpartition(" ")[2]) % 100 == 7:
            return "400"
        now = int(time.monotonic())
        second[:] = [now, second[1] + 1 if second[0] == now else 1]
        return fault if second[1] > ALLOWED else None

    def of(text: str, times: int) -> Optional[str]:
        number = int(text.rpartition(" ")[2])
        if number % 100 == 7:
            return "400"
        return fault if fault != "down" and number % 10 == 3 and times < 2 else None

    return limited if fault.startswith("429") else of


async def run(server: RudeServer, rows: int, fault: str) -> list[Any]:
    engine = OpenAIEngine(MODEL, {"base_url": server.url, "timeout_s": 2.0 if fault == "hang" else 60.0})
    seats = asyncio.Semaphore(128)  # as a replica has it

    async def ask(number: int) -> Any:
        async with seats:
            request = Request([], {}, messages=[{"role": "user", "content": f"row {number}"}])
            try:
                return await engine.generate(request)
            except Exception as error:
                return error

    async def go_away() -> None:
        for share in (0.3, 0.6):
            while sum(server.answered.values()) < share * rows:
                await asyncio.sleep(0.02)
            await asyncio.to_thread(server.stop)
            await asyncio.sleep(3)
            await asyncio.to_thread(server.start)

    leaving = asyncio.ensure_future(go_away() if fault == "down" else asyncio.sleep(0))
    found = await asyncio.gather(*map(ask, range(rows)))
    await leaving
    await engine._connection.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--only", nargs="+", choices=FAULTS, default=list(FAULTS))
    given = parser.parse_args()
    print("| fault | rows | met it | lost | doubled | wrong | refused: their own error | s |")
    print("|---|---|---|---|---|---|---|---|")
    for fault in given.only:
        server = RudeServer(behave(fault))
        server.keeps_what_it_sees = False
        with server:
            began = time.monotonic()
            found = asyncio.run(run(server, given.rows, fault))
        seconds = time.monotonic() - began
        refused = {n for n, one in enumerate(found) if isinstance(one, BadRequest) and n % 100 == 7}
        texts = {n: one.text for n, one in enumerate(found) if isinstance(one, Reply)}
        lost = given.rows - len(refused) - len(texts)
        wrong = sum(text != answer_to(f"row {n}") for n, text in texts.items())
        doubled = sum(times > 1 for times in server.answered.values())
        met = sum(asked > 1 for asked in server.asked.values())
        cells = [FAULTS[fault], given.rows, met, lost, doubled, wrong, len(refused), round(seconds)]
        print("| " + " | ".join(f"{cell:,}" if isinstance(cell, int) else cell for cell in cells) + " |", flush=True)


if __name__ == "__main__":
    main()
