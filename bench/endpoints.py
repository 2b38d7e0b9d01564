"""Requests a second of `llm_engine: openai` and of the openai package, in turn, at a server that computes nothing.

    python -m bench.endpoints [--requests 3000] [--concurrency 64 256] [--rounds 3]

The server is a process of its own on another core, and answers each request with the same 300 bytes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

from rayllm_batch.engine.base import Request
from rayllm_batch.engine.openai import OpenAIEngine

ANSWER = json.dumps(
    {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "null",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Yes. " * 20}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 300, "completion_tokens": 40, "total_tokens": 340},
    }
).encode()
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(ANSWER) + ANSWER
PROMPT = "Summarise this article in two sentences. " + "The quick brown fox jumps over the lazy dog. " * 25  # 1.2 KB


class Null(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self._transport, self._buffer = transport, bytearray()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._buffer[:end]).lower()
            _, _, length = head.partition(b"content-length:")
            whole = end + 4 + int(length.split(b"\r\n")[0] or 0)
            if len(self._buffer) < whole:
                return
            del self._buffer[:whole]
            self._transport.write(RESPONSE)


def serve(port: Any) -> None:
    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(Null, "127.0.0.1", 0, backlog=4096)
        port.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


async def ours(url: str, requests: int, concurrency: int) -> float:
    engine = OpenAIEngine("null", {"base_url": url, "max_concurrency": concurrency})
    asked = Request([], {"max_tokens": 100}, messages=[{"role": "user", "content": PROMPT}])
    try:
        return await timed(lambda: engine.generate(asked), requests, concurrency)
    finally:
        await engine._connection.close()


async def openais(url: str, requests: int, concurrency: int) -> float:
    from openai import AsyncOpenAI

    async with AsyncOpenAI(base_url=url, api_key="none") as client:
        messages: Any = [{"role": "user", "content": PROMPT}]

        async def ask() -> str | None:
            answer = await client.chat.completions.create(model="null", messages=messages, max_tokens=100)
            return answer.choices[0].message.content

        return await timed(ask, requests, concurrency)


async def timed(ask: Callable[[], Awaitable[Any]], requests: int, concurrency: int) -> float:
    """Requests a second, with so many at once; the connections are made before."""
    left = iter(range(requests))

    async def work() -> None:
        for _ in left:
            await ask()

    await asyncio.gather(*(ask() for _ in range(concurrency)))
    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(concurrency)))
    return requests / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    server = context.Process(target=serve, args=(there,), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{here.recv()}/v1"
    print("| at once | ours, requests/s | openai package, requests/s | ratio, median of rounds |\n|---|---|---|---|")
    for concurrency in given.concurrency:
        rounds = [
            (
                asyncio.run(ours(url, given.requests, concurrency)),
                asyncio.run(openais(url, given.requests, concurrency)),
            )
            for _ in range(given.rounds)
        ]
        ratio = statistics.median(one / other for one, other in rounds)
        cells = [", ".join(f"{value:,.0f}" for value in values) for values in zip(*rounds, strict=True)]
        print(f"| {concurrency} | {cells[0]} | {cells[1]} | {ratio:.1f} |", flush=True)
    server.terminate()


if __name__ == "__main__":
    main()
