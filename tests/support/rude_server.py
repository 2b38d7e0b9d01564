"""A stand-in for an OpenAI-compatible server that is as rude as it is told to be."""

from __future__ import annotations

import asyncio
import email.utils
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Optional

from aiohttp import web

MODEL = "tiny"
Behaviour = Callable[[str, int], Optional[str]]


def answer_to(text: str) -> str:
    return f"Re: {text}"


class RudeServer:
    """Serves http://127.0.0.1:port/v1 from a thread while the context is open; `stop` and `start` in between.

    behave: of a prompt's last text and how often it was asked before, the fault, a name of FAULTS; None: answer it.
    asked, answered: how often, by text. key: what it takes, if any. seen: of each request its path, headers and body.
    most_at_once: how many requests there were at one moment.
    """

    def __init__(self, behave: Behaviour = lambda text, times: None, key: str = "", delay_s: float = 0.0) -> None:
        self.behave, self.key, self.delay_s = behave, key, delay_s
        self.asked: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.seen: list[tuple[str, dict[str, str], Any]] = []
        self.keeps_what_it_sees = True
        self.owner = "me"
        self.at_once = self.most_at_once = self.port = 0
        self.usage: Optional[dict[str, Any]] = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> RudeServer:
        self.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()

    def start(self) -> None:
        """On the same port as before, if there was one."""
        self._loop, started = asyncio.new_event_loop(), threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(started,), daemon=True)
        self._thread.start()
        assert started.wait(10)

    def stop(self) -> None:
        """As if killed: what is on its way is cut."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def _serve(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.set_exception_handler(lambda *_: None)
        self._loop.run_until_complete(self._open())
        started.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self._close())
        self._loop.close()

    async def _open(self) -> None:
        app = web.Application(client_max_size=1 << 28)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_post("/v1/completions", self._complete)
        app.router.add_post("/elsewhere", self._elsewhere)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True, backlog=1024)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _close(self) -> None:
        for connection in list(self._runner.server.connections if self._runner.server else ()):
            if connection.transport is not None:
                connection.transport.abort()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._runner.cleanup()

    def _error(self, status: int, message: str, code: Optional[str] = None, **headers: str) -> web.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.json_response({"error": {"message": message, "code": code}}, status=status, headers=named)

    def _refused(self, request: web.Request) -> Optional[web.Response]:
        if self.key and request.headers.get("Authorization") != f"Bearer {self.key}":
            given = request.headers.get("Authorization", "").removeprefix("Bearer ") or "none"
            return self._error(401, f"Incorrect API key provided: {given}. Find yours elsewhere.", "invalid_api_key")
        return None

    async def _models(self, request: web.Request) -> web.StreamResponse:
        self.seen.append((request.path, dict(request.headers), None))
        return self._refused(request) or web.json_response({"data": [{"id": MODEL, "owned_by": self.owner}]})

    async def _elsewhere(self, request: web.Request) -> web.StreamResponse:
        self.seen.append((request.path, dict(request.headers), None))
        return web.json_response({})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return await self._answer(request)
        finally:
            self.at_once -= 1

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        if self.keeps_what_it_sees:
            self.seen.append((request.path, dict(request.headers), body))
        if refused := self._refused(request):
            return refused
        if body["model"] != MODEL:
            return self._error(404, f"The model {body['model']!r} does not exist.", "model_not_found")
        text = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
        text = text if isinstance(text, str) else str(text)
        fault = self.behave(text, self.asked[text])
        self.asked[text] += 1
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        if fault is not None:
            self.faults[fault] += 1
            return await self._be_rude(fault, request, body, text)
        self.answered[text] += 1
        return web.json_response(self.completion(body, text))

    def completion(self, body: dict[str, Any], text: str, **message: Any) -> dict[str, Any]:
        """As OpenAI's servers write it."""
        answer = answer_to(text)
        choices = []
        for index in range(body.get("n") or 1):
            said = {"message": {"role": "assistant", "content": answer, **message}}
            choices.append(
                {"index": index, "finish_reason": "stop", **(said if "messages" in body else {"text": answer})}
            )
        tokens = {"prompt_tokens": len(text.split()), "completion_tokens": len(answer.split()) * len(choices)}
        return {"id": "x", "model": MODEL, "choices": choices, "usage": self.usage or tokens}

    async def _be_rude(self, fault: str, request: web.Request, body: Any, text: str) -> web.StreamResponse:  # noqa: PLR0911, PLR0912
        whole = json.dumps(self.completion(body, text)).encode()
        assert request.transport is not None
        if fault == "429":
            return self._error(429, "Too many requests.", "rate_limit_exceeded")
        if fault.startswith("429 after "):
            return self._error(429, "Too many requests.", retry_after=fault.rpartition(" ")[2])
        if fault == "429 date":
            return self._error(429, "Too many.", retry_after=email.utils.formatdate(time.time() + 2, usegmt=True))
        if fault == "no money":
            return self._error(429, "You exceeded your current quota.", "insufficient_quota")
        if fault == "503 page":
            page = "<html><head><style>p {}</style></head><body><h1>503</h1> Try again</body></html>"
            return web.Response(status=503, text=page, content_type="text/html")
        if fault == "page in 200":
            return web.Response(text="<html><body>Please log in</body></html>", content_type="text/html")
        if fault == "wrong json":
            return web.Response(text='{"choices": [', content_type="application/json")
        if fault == "error in 200":
            return web.json_response({"error": {"message": "Upstream is down.", "code": 502}})
        if fault == "no choices":
            return web.json_response({"choices": [], "usage": None})
        if fault == "null content":
            return web.json_response(self.completion(body, text, content=None, refusal="I will not."))
        if fault == "redirect":
            return web.Response(status=307, headers={"Location": "/elsewhere"})
        if fault == "cut":
            request.transport.close()
            return web.Response()
        if fault == "truncated":
            response = web.StreamResponse(headers={"Content-Length": str(len(whole))})
            await response.prepare(request)
            await response.write(whole[: len(whole) // 2])
            request.transport.close()
            return response
        if fault == "hang":
            await asyncio.sleep(3600)
        if fault == "huge":
            response = web.StreamResponse()
            await response.prepare(request)
            while True:
                await response.write(b" " * (1 << 20))
        status = int(fault)
        return self._error(status, f"No: {status}. {request.headers.get('Authorization', '')}")
