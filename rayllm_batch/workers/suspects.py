"""Which row makes the engine crash: found by trying those that were in it again, in smaller and smaller numbers."""

from __future__ import annotations

import asyncio
import hashlib
from array import array
from collections.abc import Iterable
from typing import Optional

AT_ONCE = 32  # of up to a thousand suspects: some 30 rounds of this many, and after a crash as many single ones


def prompt_key(token_ids: list[int], request: Optional[str]) -> bytes:
    """Rows with one key are one prompt with one set of settings: if one makes the engine crash, so does the other."""
    return hashlib.blake2b(array("i", token_ids).tobytes() + (request or "").encode(), digest_size=16).digest()


class Suspects:
    """Kept by the run's monitor. A crash makes suspects of all rows in the engine, the next ones narrow them down.

    Each replica has its own, by its actor's id: Ray retries an actor's blocks on that actor, so its crashes say nothing
    about the rows of another. A row that crashes the engine costs three deaths at most: among all that run, among
    AT_ONCE, alone; and no death is lost on it where another such row's comes in between: no suspect is forgotten.

    guilty: rows that were alone in the engine when it died, and in it at an earlier death too; with its last words.
    """

    def __init__(self) -> None:
        self.guilty: dict[bytes, str] = {}
        self._at_once: dict[str, dict[bytes, int]] = {}

    def of(self, actor_id: str) -> dict[bytes, int]:
        """The suspects of a replica that starts, each with the number of suspects that it may be tried with at once."""
        return dict(self._at_once.get(actor_id, {}))

    def engine_died(self, actor_id: str, in_engine: Iterable[bytes], last_words: str) -> None:
        in_engine, suspects = set(in_engine), self._at_once.setdefault(actor_id, {})
        again = in_engine & suspects.keys()
        if len(in_engine) == 1 and again:
            self.guilty[again.pop()] = last_words
            return
        tried = again or in_engine
        suspects.update(dict.fromkeys(tried, 1 if len(tried) <= AT_ONCE else AT_ONCE))


class Gate:
    """Lets rows into one replica's engine: suspects first, few at once and with nothing else beside them.

    suspects: as `Suspects.of` gives them. Use it inside one event loop.
    """

    def __init__(self, suspects: dict[bytes, int]) -> None:
        self._at_once = suspects
        self._waiting = self._trying = self._others = 0
        self._limit = AT_ONCE  # of those that are tried now
        self._condition = asyncio.Condition()

    async def enter(self, key: bytes) -> bool:
        """Returns whether the row is a suspect: pass it to `leave`."""
        at_once = self._at_once.get(key)
        async with self._condition:
            if at_once is None:
                await self._condition.wait_for(lambda: not self._waiting)
                self._others += 1
            else:
                self._waiting += 1
                await self._condition.wait_for(lambda: not self._others and self._trying < min(at_once, self._limit))
                self._trying += 1
                self._limit = min(at_once, self._limit)
        return at_once is not None

    async def leave(self, suspect: bool) -> None:
        async with self._condition:
            if suspect:
                self._waiting -= 1
                self._trying -= 1
                if not self._trying:
                    self._limit = AT_ONCE
            else:
                self._others -= 1
            self._condition.notify_all()


def guilty_error(last_words: str) -> str:
    """The error column of a guilty row."""
    said = " | ".join([line for line in last_words.splitlines() if line.strip()][-3:])
    return f"engine: this row makes the engine crash; it was left out after the engine had died with it alone. {said}"
