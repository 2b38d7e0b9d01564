"""What vLLM gets of a request's media, with a fake of its engine; stories/test_media_in_vllm.py has the real one."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from rayllm_batch.engine import vllm_media
from rayllm_batch.engine.base import BadRequest
from rayllm_batch.media.medium import Medium


def image(colour: str, digest: str) -> Medium:
    Image.new("RGB", (4, 2), colour).save(file := io.BytesIO(), "PNG")
    return Medium("image", file.getvalue(), digest, 4, 2)


class FakeEngine:
    def __init__(self, is_encoder_decoder: bool = False) -> None:
        self.model_config = SimpleNamespace(is_encoder_decoder=is_encoder_decoder, multimodal_config=None)
        self.renderer, self.preparing, self.most, self.waiting = self, 0, 0, 0

    async def render_cmpl_async(self, prompts: list[Any]) -> list[Any]:
        self.preparing += 1
        self.most = max(self.most, self.preparing)
        await asyncio.sleep(0.001)
        self.preparing -= 1
        return [{"type": "multimodal", "of": one} for one in prompts]

    async def generate(self, prompt: Any, params: str, request_id: str, **more: Any) -> AsyncIterator[Any]:
        self.waiting += 1
        await asyncio.sleep(0.01)
        yield prompt, params, request_id, more


def asked(engine: FakeEngine, media: Any, **prompt: Any) -> Any:
    async def last() -> Any:
        return [one async for one in vllm_media.WithMedia(engine).generate(media, prompt, "params", "7", lora=None)][-1]

    return asyncio.run(last())


def test_it_gets_pixels_in_their_order_and_digests_in_place_of_hashing_them() -> None:
    red, blue = image("red", "r"), image("blue", "b")
    prompt, *rest = asked(FakeEngine(), (red, blue, red), prompt_token_ids=[1, 2])
    assert rest == ["params", "7", {"lora": None}] and prompt["type"] == "multimodal"
    data = prompt["of"]["multi_modal_data"]["image"]
    assert [one.getpixel((0, 0)) for one in data] == [(255, 0, 0), (0, 0, 255), (255, 0, 0)] and data[0] is data[2]
    assert prompt["of"]["multi_modal_uuids"] == {"image": ["image-r", "image-b", "image-r"]}
    assert prompt["of"]["prompt_token_ids"] == [1, 2]


def test_what_is_prepared_is_shared_with_requests_of_the_same_salt_alone() -> None:
    prompt = asked(FakeEngine(), (image("red", "r"),), prompt_token_ids=[1], cache_salt="me")[0]["of"]
    assert prompt["multi_modal_uuids"] == {"image": ["me-image-r"]} and prompt["cache_salt"] == "me"


def test_a_model_with_an_encoder_gets_its_prompt_unprepared() -> None:
    prompt, *_ = asked(FakeEngine(is_encoder_decoder=True), (image("red", "r"),), prompt_token_ids=[1])
    assert "type" not in prompt and prompt["multi_modal_data"]["image"][0].size == (4, 2)


def test_what_does_not_decode_is_the_requests_error() -> None:
    with pytest.raises(BadRequest, match="media: "):
        asked(FakeEngine(), (Medium("image", b"\x89PNG", "x"),), prompt_token_ids=[1])


def test_few_requests_hold_pixels_however_many_wait() -> None:
    engine = FakeEngine()

    async def many() -> None:
        media = vllm_media.WithMedia(engine)

        async def one(n: int) -> None:
            async for _ in media.generate((image("red", str(n)),), {"prompt_token_ids": [1]}, "params", str(n)):
                pass

        await asyncio.gather(*map(one, range(50)))

    asyncio.run(many())
    assert engine.waiting == 50 and 1 < engine.most <= vllm_media.AT_ONCE
