"""Equal requests that get equal replies: computed once, answered each."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from rayllm_batch.engine.base import Reply

KEPT = 20_000  # finished answers, the latest: some 10 MB


class Duplicates:
    """Of one replica. Use it inside one event loop."""

    def __init__(self) -> None:
        self._answers: OrderedDict[bytes, asyncio.Future[Reply]] = OrderedDict()

    async def answer(self, key: bytes, compute: Callable[[], Awaitable[Reply]]) -> Reply:
        """What `compute` gives, or gave, or is about to give to another row with this key; its errors too."""
        if key in self._answers:
            self._answers.move_to_end(key)
            return await asyncio.shield(self._answers[key])
        future = self._answers[key] = asyncio.get_running_loop().create_future()
        try:
            future.set_result(await compute())
        except BaseException as error:
            del self._answers[key]  # the next one may try again
            future.set_exception(error)
            future.exception()  # taken note of: there may be nobody else who waits for it
            raise
        while len(self._answers) > KEPT:
            oldest = next(iter(self._answers))
            if not self._answers[oldest].done():
                break
            del self._answers[oldest]
        return future.result()
