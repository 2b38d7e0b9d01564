"""How many requests go to an endpoint at once, and how fast: as it was told to, and as the server bears."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple, Optional


class Turn(NamedTuple):
    """sent_at: by the clock. tokens: what it was taken to cost, until its answer tells."""

    sent_at: float
    tokens: float


class Pace:
    """Of one engine, inside one event loop. Requests get their turns in the order in which they ask.

    max_concurrency, requests_per_minute, tokens_per_minute: at most; None for any number. `limit` is the concurrency
    now: a rate limit halves it, once for all requests that were sent before it, and as many answers as it has raise it
    by one again. Nothing else shrinks it: a server that is slow or down gets no faster by it.
    """

    def __init__(
        self,
        max_concurrency: int,
        requests_per_minute: Optional[float] = None,
        tokens_per_minute: Optional[float] = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit, self._most = float(max_concurrency), max_concurrency
        self._request_s = 60 / requests_per_minute if requests_per_minute else 0.0
        self._token_s = 60 / tokens_per_minute if tokens_per_minute else 0.0
        self._clock, self._turn, self._changed = clock, asyncio.Lock(), asyncio.Event()
        self._paused_until = self._next_request = self._next_tokens = self._shrunk_at = 0.0
        self._tokens_each = 0.0  # of the requests so far, their mean
        self._closed = False
        self.answers = self.running = self.waiting = 0

    async def enter(self, tokens: float = 0.0) -> Turn:
        """Waits for a turn; call `leave` after it. tokens: a guess, as long as no answer has told of any."""
        self.waiting += 1
        try:
            async with self._turn:
                while (wait_s := self._wait_s()) != 0:
                    self._changed.clear()
                    try:
                        await asyncio.wait_for(self._changed.wait(), wait_s)
                    except (asyncio.TimeoutError, TimeoutError):
                        pass
                now, guess = self._clock(), self._tokens_each or tokens
                self._next_request = max(now, self._next_request) + self._request_s
                self._next_tokens = max(now, self._next_tokens) + guess * self._token_s
                self.running += 1
                return Turn(now, guess)
        finally:
            self.waiting -= 1

    def leave(self) -> None:
        self.running -= 1
        self._changed.set()

    def answered(self, turn: Turn, tokens: int) -> None:
        """tokens: of prompt and answer."""
        self.answers += 1
        if tokens:
            self._next_tokens += (tokens - turn.tokens) * self._token_s
            self._tokens_each += (tokens - self._tokens_each) / min(self.answers, 100)
        self.limit = min(self._most, self.limit + 1 / self.limit)
        self._changed.set()

    def rate_limited(self, turn: Turn, pause_s: float) -> None:
        """pause_s: how long the server asks all to wait."""
        now = self._clock()
        if turn.sent_at >= self._shrunk_at:
            self.limit, self._shrunk_at = max(1.0, self.limit / 2), now
        self._paused_until = max(self._paused_until, now + pause_s)

    def close(self) -> None:
        """From now on nobody waits."""
        self._closed = True
        self._changed.set()

    def _wait_s(self) -> Optional[float]:
        """0: go. None: until something changes."""
        if self._closed:
            return 0.0
        if self.running >= int(self.limit):
            return None
        return max(0.0, max(self._paused_until, self._next_request, self._next_tokens) - self._clock())
