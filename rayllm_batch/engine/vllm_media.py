"""A request's media, as vLLM takes them beside token ids.

vLLM prepares them (resized, normalised, cut into patches) in one thread of the engine's client, whatever the settings
say. So what can be done before is done here, in threads of our own: decoding, which lets go of Python's lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from typing import Any, Optional

from rayllm_batch.engine.base import BadRequest
from rayllm_batch.errors import one_line
from rayllm_batch.media import decode
from rayllm_batch.media.medium import Medium

AT_ONCE = 8  # requests whose media are decoded or prepared; the pixels of a photograph are some 30 MB


class WithMedia:
    """Requests with media, of vLLM's AsyncLLM. Made and used inside one event loop."""

    def __init__(self, engine: Any) -> None:
        self._engine, self._preparing = engine, asyncio.Semaphore(AT_ONCE)

    async def generate(self, media: Sequence[Medium], prompt: Any, *request: Any, **more: Any) -> AsyncIterator[Any]:
        """As the engine's `generate`, and as its server does: what is given to it is prepared, so that no more than
        AT_ONCE requests hold pixels, however many wait. Raises BadRequest, or what vLLM raises.
        """
        async with self._preparing:
            config = self._engine.model_config.multimodal_config
            of_video = (config.media_io_kwargs if config else {}).get("video") or {}
            prompt = {**prompt, **await data_of(media, prompt.get("cache_salt"), of_video)}
            renderer = getattr(self._engine, "renderer", None)  # 0.26 has none, and prepares what it is given
            if renderer is not None and not self._engine.model_config.is_encoder_decoder:
                # From here to the engine without a pause: its cache of prepared media counts on their order.
                [prompt] = await renderer.render_cmpl_async([prompt])
        async for out in self._engine.generate(prompt, *request, **more):
            yield out


async def data_of(
    media: Sequence[Medium], salt: Optional[str] = None, of_video: Mapping[str, Any] = {}
) -> dict[str, Any]:
    """The prompt's `multi_modal_data`, and `multi_modal_uuids`: kinds and digests, in place of hashes of the pixels.

    of_video: media_io_kwargs of it (num_frames). salt: the request's cache_salt; what vLLM has prepared of them is
    shared with requests of the same alone. Raises BadRequest for what cannot be decoded, though the CPU stage has seen
    that it can.
    """
    once = {(one.kind, one.digest): one for one in media}
    try:
        video_of = partial(decode.video_of, **of_video)
        kinds: dict[str, Any] = {"image": decode.image_of, "audio": decode.audio_of, "video": video_of}
        decoders = [kinds[one.kind] for one in once.values()]
        decoded = await asyncio.gather(*map(asyncio.to_thread, decoders, once.values()))
    except Exception as error:
        raise BadRequest(f"media: {one_line(error)}") from None
    of_each = dict(zip(once, decoded, strict=True))
    data: dict[str, list[Any]] = {}
    uuids: dict[str, list[str]] = {}
    for one in media:
        data.setdefault(one.kind, []).append(of_each[one.kind, one.digest])
        uuids.setdefault(one.kind, []).append("-".join(filter(None, (salt, one.kind, one.digest))))
    return {"multi_modal_data": data, "multi_modal_uuids": uuids}
