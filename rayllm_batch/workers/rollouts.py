"""User code beside the engine, many rows at once and never in its way: the `rollout` of each, which asks the engine."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import ctypes
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Optional, cast

from rayllm_batch.errors import Interrupted, RolloutError, one_line

LOOPS = 4  # threads: user code that blocks one of them leaves the rows of the others alone
BEAT_S = 0.5
GRACE_S = 5.0  # for a rollout that is asked to end


class _Moved(Exception):
    """Its thread was lost by another row's fault."""


class _Thread:
    """An event loop of its own. It beats as long as no rollout keeps it."""

    def __init__(self) -> None:
        self.loop, self.rows = asyncio.new_event_loop(), 0
        self.loop.set_exception_handler(lambda *_: None)  # of rollouts that were given up
        self.beaten, self.kept_s, self.is_lost = time.monotonic(), 0.0, asyncio.Event()
        self.culprit: Optional[asyncio.Task] = None
        self._thread = threading.Thread(target=self._run, name="rollouts", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self.loop.call_soon(self._beat)
        # A task's SystemExit ends a loop, and so does a rollout that stops it; the rows on it go on.
        while not self.is_lost.is_set() and not self.loop.is_closed():
            with contextlib.suppress(BaseException):
                self.loop.run_forever()

    def end(self) -> None:
        self.is_lost.set()
        self.loop.call_soon_threadsafe(self.loop.stop)

    def _beat(self) -> None:
        now = time.monotonic()
        self.kept_s += max(0.0, now - self.beaten - 2 * BEAT_S)
        self.beaten, self.culprit = now, None
        self.loop.call_later(BEAT_S, self._beat)

    @property
    def beats(self) -> bool:
        return time.monotonic() - self.beaten < 2 * BEAT_S

    def look(self, limit_s: float) -> None:
        """End what has kept it for so long. Where that cannot be ended (it sleeps, or catches all), it is lost."""
        kept_s = time.monotonic() - self.beaten
        if kept_s > limit_s + GRACE_S:
            self.is_lost.set()
        elif kept_s > limit_s and self.culprit is None:
            self.culprit = asyncio.current_task(self.loop)
            where = ctypes.c_ulong(self._thread.ident or 0)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(where, ctypes.py_object(Interrupted))


class _Calls:
    """`generate`, as one rollout has it: what it begins runs in the loop that made this, and ends with the row."""

    def __init__(self, generate: Callable[..., Coroutine]) -> None:
        self._generate, self._loop = generate, asyncio.get_running_loop()
        self._running: set[Future[Any]] = set()
        self._has_ended = False

    def __call__(self, *args: Any, **kwargs: Any) -> Awaitable[Any]:
        if self._has_ended:
            raise RolloutError("generate was called after the row's rollout had ended: await all that it begins")
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise RolloutError(
                "generate was called in a thread, where nothing can await it: call it in the rollout itself"
            ) from None
        future = asyncio.run_coroutine_threadsafe(self._generate(*args, **kwargs), self._loop)
        self._running.add(future)
        future.add_done_callback(self._running.discard)
        return asyncio.wrap_future(future)

    def end(self) -> None:
        self._has_ended = True
        for future in list(self._running):
            future.cancel()


class Rollouts:
    """rollout: the user's coroutine function of a row, which it may change, and of `generate`. timeout_s: of each row,
    seconds.

    Made, and `run` called, in the engine's event loop.
    """

    def __init__(self, rollout: Callable[[dict[str, Any], Any], Coroutine], timeout_s: float) -> None:
        self._rollout, self._timeout_s = rollout, timeout_s
        self._threads: list[_Thread] = []
        self._watching: Optional[asyncio.Task] = None
        self._has_ended = False

    async def run(self, row: dict[str, Any], generate: Callable[..., Coroutine]) -> Any:
        """What `rollout` returns for the row. Raises RolloutError, or what it raises.

        generate: called in the rollout's thread; what it returns runs in this loop, until the row has ended.
        """
        while True:
            thread = self._thread()
            thread.rows += 1
            try:
                return await self._run_on(thread, row, generate)
            except _Moved:  # it begins anew; each time another row has failed, so that this ends
                if self._has_ended:
                    raise RolloutError("its run has ended") from None
            finally:
                thread.rows -= 1

    async def _run_on(self, thread: _Thread, row: dict[str, Any], generate: Callable[..., Coroutine]) -> Any:
        limit = self._timeout_s
        until = time.monotonic() + limit - thread.kept_s
        mine: list[Any] = []
        calls, is_asked_to_end = _Calls(generate), False

        async def begin() -> Any:
            mine.append(asyncio.current_task())
            try:
                return await self._rollout(copy.deepcopy(row), calls)
            except (KeyboardInterrupt, SystemExit) as problem:  # they would end the loop, and all rows on it
                raise RolloutError(one_line(problem)) from None

        running = asyncio.run_coroutine_threadsafe(begin(), thread.loop)
        done, lost = asyncio.wrap_future(running), asyncio.ensure_future(thread.is_lost.wait())
        done.add_done_callback(lambda it: it.cancelled() or it.exception())  # it may fail long after it was given up
        try:
            while not done.done() and not lost.done():
                # While the thread is kept, by another row or this one, it is not this row's time that passes.
                left_s = until + thread.kept_s - time.monotonic()
                if left_s <= 0 and thread.beats:
                    break
                await asyncio.wait([done, lost], timeout=max(left_s, BEAT_S), return_when=asyncio.FIRST_COMPLETED)
            if not done.done() and not lost.done():
                is_asked_to_end = running.cancel()
                await asyncio.wait([done, lost], timeout=GRACE_S, return_when=asyncio.FIRST_COMPLETED)
            blocked = f"it kept its thread for {limit:g} s without an await: `await asyncio.to_thread(...)` what blocks"
            if not done.done() and lost.done():
                if mine and mine[0] is thread.culprit:
                    raise RolloutError(blocked)
                raise _Moved
            if done.cancelled() and not is_asked_to_end:
                raise RolloutError("it was cancelled, by itself or by what it awaited")
            if not done.done() or done.cancelled():
                raise RolloutError(f"it did not end within {limit:g} s")
            if isinstance(done.exception(), Interrupted):
                raise RolloutError(blocked)
            if isinstance(done.exception(), GeneratorExit):  # it would end the engine's loop
                raise RolloutError(one_line(cast(GeneratorExit, done.exception())))
            return done.result()
        finally:
            lost.cancel()
            calls.end()

    def end(self) -> None:
        """Of its threads, and of rows that nobody waits for any more; in the engine's loop."""
        self._has_ended = True
        for thread in self._threads:
            thread.end()
        if self._watching is not None:
            self._watching.cancel()

    def _thread(self) -> _Thread:
        if self._watching is None:
            self._watching = asyncio.ensure_future(self._watch())
        self._threads = [thread for thread in self._threads if not thread.is_lost.is_set()]
        if len(self._threads) < LOOPS:
            self._threads.append(_Thread())
            return self._threads[-1]
        return min(self._threads, key=lambda thread: thread.rows)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            for thread in self._threads:
                thread.look(self._timeout_s)
