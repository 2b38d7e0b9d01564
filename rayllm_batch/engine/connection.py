"""Requests to an endpoint: each becomes what the server's JSON holds, or a Failure.

aiohttp and not the openai package: at the same null server it asks 9 times as often a second (bench/endpoints.py), and
retries, Retry-After and limits have to be one thing for all rows, where that package has them for each request.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any, Optional

from rayllm_batch.engine.endpoint import Endpoint
from rayllm_batch.engine.failure import Failure, of_exception, of_response
from rayllm_batch.engine.sampling import HALF_OF_A_PAIR

MOST_BYTES = 64 << 20  # of an answer: 20 log-probabilities for each of 40,000 tokens


class Connection:
    """To one endpoint. Made and used inside one event loop."""

    def __init__(self, where: Endpoint) -> None:
        import aiohttp

        self.where = where
        has_own = any(name.lower() == "authorization" for name in where.headers)
        auth = aiohttp.BasicAuth(where.user, where.password) if where.user and not has_own else None
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),  # Pace is the limit
            headers={"Content-Type": "application/json", **where.headers},
            auth=auth,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        self._proxy = where.proxy

    async def ask(self, method: str, path: str, body: Optional[dict[str, Any]], timeout_s: float) -> Any:
        """What the server's JSON holds, or a Failure, whose text is without secrets."""
        given = await self._ask(method, path, body, timeout_s)
        if isinstance(given, Failure):
            text = self.where.redacted(given.text).rstrip(".")  # a sentence goes on after it
            return Failure(given.kind, text, given.status, given.retry_after_s)
        return given

    async def _ask(self, method: str, path: str, body: Optional[dict[str, Any]], timeout_s: float) -> Any:
        import aiohttp

        data = None if body is None else json.dumps(body).encode()
        try:
            async with self._session.request(
                method,
                self.where.url(path),
                data=data,
                timeout=aiohttp.ClientTimeout(total=timeout_s),
                allow_redirects=False,  # another host must not get the key
                proxy=self._proxy,
            ) as response:
                content = bytearray()
                async for chunk in response.content.iter_any():
                    content += chunk
                    if len(content) > MOST_BYTES:
                        return Failure("refused", f"the answer is longer than {MOST_BYTES >> 20} MiB", response.status)
                status, headers = response.status, response.headers
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError, ValueError) as error:
            return of_exception(error, timeout_s)
        if status != 200:
            return of_response(status, headers, bytes(content))
        try:
            given = _parsed(bytes(content))
        except (ValueError, RecursionError):
            return of_response(status, headers, bytes(content))
        if isinstance(given, dict) and given.get("error"):
            return of_response(status, headers, bytes(content))
        return given

    async def close(self) -> None:
        await self._session.close()


def _parsed(content: bytes) -> Any:
    """Halves of surrogate pairs, as servers write them that count or cut text in UTF-16, become U+FFFD: they are no
    text, and can be stored nowhere.
    """
    given = json.loads(content)
    if re.search(rb"\\u[dD][89a-fA-F]", content):
        given = json.loads(HALF_OF_A_PAIR.sub("\ufffd", json.dumps(given, ensure_ascii=False)))
    return given
