"""A request's media, as vLLM takes them beside token ids.

vLLM prepares them (resized, normalised, cut into patches) in one thread of the engine's client, whatever the settings
say. So what can be done before is done here, in threads of our own: decoding, which lets go of Python's lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Optional

from rayllm_batch.engine.base import BadRequest
from rayllm_batch.errors import one_line
from rayllm_batch.media import decode
from rayllm_batch.media.medium import Medium


async def data_of(media: Sequence[Medium], salt: Optional[str] = None) -> dict[str, Any]:
    """The prompt's `multi_modal_data`, and `multi_modal_uuids`: the digests, so that vLLM makes none of the pixels.

    salt: the request's cache_salt; what vLLM has prepared of them is shared with requests of the same alone.
    Raises BadRequest for what cannot be decoded, though the CPU stage has seen that it can.
    """
    once = {one.digest: one for one in media}
    try:
        decoders = [getattr(decode, f"{one.kind}_of") for one in once.values()]
        decoded = await asyncio.gather(*map(asyncio.to_thread, decoders, once.values()))
    except Exception as error:
        raise BadRequest(f"media: {one_line(error)}") from None
    of_digest = dict(zip(once, decoded, strict=True))
    data: dict[str, list[Any]] = {}
    uuids: dict[str, list[str]] = {}
    for one in media:
        data.setdefault(one.kind, []).append(of_digest[one.digest])
        uuids.setdefault(one.kind, []).append(one.digest if salt is None else f"{salt}-{one.digest}")
    return {"multi_modal_data": data, "multi_modal_uuids": uuids}
