"""LoRA adapters: each has a number of its own and is loaded once, whoever asks when."""

from __future__ import annotations

import asyncio
import json
import math
import struct
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rayllm_batch.engine import lora
from rayllm_batch.engine.base import EngineDied


@pytest.fixture(autouse=True)
def _no_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("vllm.lora.request")
    module.LoRARequest = types.SimpleNamespace
    for name in ("vllm", "vllm.lora"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "vllm.lora.request", module)


def folder(root: Path, *names: str) -> str:
    for name in names:
        (root / name).mkdir(parents=True)
        (root / name / "adapter_config.json").write_text('{"r": 8}')
        weights(root / name / "adapter_model.safetensors", a=[2])
    return str(root)


def weights(path: Path, **shapes: list[int]) -> None:
    """A safetensors file of these tensors, all zero; `__` in a name is a dot."""
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 4 * math.prod(shape)
        header[name.replace("__", ".")] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))


class Engine:
    """refusals: of adapters that it refuses, by name, what its workers say; as vLLM, it tells the first, and keeps the others."""

    def __init__(self, **refusals: int) -> None:
        self.refusals, self.loaded, self.in_line, self.errored = refusals, [], 0, False

    async def add_lora(self, request: Any) -> bool:
        self.loaded.append(request.lora_name)
        if self.in_line or request.lora_name in self.refusals:
            self.in_line += self.refusals.get(request.lora_name, 0) - 1
            raise Exception(f"Call to add_lora method failed: no room for {request.lora_name}")
        return True

    async def remove_lora(self, number: int) -> bool:
        if self.in_line:
            self.in_line -= 1
            raise Exception("Call to remove_lora method failed: a refusal of before")
        return False


def get(adapters: lora.Adapters, name: str, engine: Any = None, max_rank: int = 8) -> Any:
    return adapters.get(name, engine or Engine(), max_rank)


def test_adapters_first_asked_for_at_the_same_time_have_different_numbers(tmp_path: Path) -> None:
    names = [f"adapter-{n}" for n in range(20)]

    async def ask() -> list[Any]:
        adapters = lora.Adapters(folder(tmp_path, *names))
        return await asyncio.gather(*(get(adapters, name) for name in names * 3))

    found = asyncio.run(ask())
    assert [one.lora_name for one in found] == names * 3 and len({one.lora_int_id for one in found}) == len(names)
    assert all(one.lora_path.endswith(one.lora_name) and one.lora_int_id > 0 for one in found)


def test_an_adapter_is_looked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, may_go_on = [], threading.Event()

    def find(name: str, root: str) -> str:
        asked.append(name)
        may_go_on.wait(5)
        return folder(tmp_path, name) + f"/{name}"

    monkeypatch.setattr(lora, "find", find)

    async def ask() -> None:
        adapters = lora.Adapters(str(tmp_path))
        waiting = [asyncio.create_task(get(adapters, "a")) for _ in range(50)]
        await asyncio.sleep(0.1)
        waiting[0].cancel()  # who gives up takes it from nobody else
        may_go_on.set()
        found = await asyncio.gather(*waiting[1:])
        assert len({id(one) for one in found}) == 1

    asyncio.run(ask())
    assert asked == ["a"]


def test_one_that_is_not_there_may_come_and_takes_nobodys_number(tmp_path: Path) -> None:
    async def ask() -> None:
        adapters = lora.Adapters(folder(tmp_path, "first"))
        with pytest.raises(ValueError, match="no LoRA adapter 'late'"):
            await get(adapters, "late")
        first = await get(adapters, "first")
        folder(tmp_path, "late")
        late = await get(adapters, "late")
        assert len({first.lora_int_id, late.lora_int_id}) == 2

    asyncio.run(ask())


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 123\n"
A, B = "base_model__model__model__layers__{}__self_attn__q_proj__lora_A__weight", "base_model__model__model__layers__{}__self_attn__q_proj__lora_B__weight"


def config(text: str) -> Callable[[Path], object]:
    return lambda path: (path / "adapter_config.json").write_text(text)


def saved(**shapes: list[int]) -> Callable[[Path], object]:
    return lambda path: weights(path / "adapter_model.safetensors", **shapes)


@pytest.mark.parametrize(("spoil", "why"), [
    (config('{"r": 9}'), "its rank is 9, but max_lora_rank is 8"), (config("[1]"), "not a JSON object"), (config("{"), "not a JSON object"),
    (config('{"r": "8"}'), "not a JSON object"), (config("[" * 100_000), "not a JSON object"),
    (lambda path: (path / "adapter_model.safetensors").unlink(), "it has no weights"),
    (lambda path: (path / "adapter_model.safetensors").write_text(POINTER), "is a Git LFS pointer"),
    (lambda path: (path / "adapter_model.safetensors").write_bytes(b""), "is empty"),
    (lambda path: (path / "adapter_model.safetensors").write_bytes((path / "adapter_model.safetensors").read_bytes()[:-3]), "cut short"),
    (lambda path: (path / "adapter_model.safetensors").rename(path / "adapter_model.bin"), "not a file of torch.save"),
    (saved(**{A.format(0): [16, 64]}), "its rank is 16"),  # as rank_pattern gives one module more
    (saved(**{A.format(0): [8, 32]}), "made for another model: its model.layers.0.self_attn.q_proj is 32 wide, and this model's 64"),
    (saved(**{A.format(0): [8, 64], B.format(0): [256, 8]}), "is 256 wide, and this model's 128"),
    (saved(**{A.format(0): [8, 64], A.format(7): [8, 64]}), "it has 8 layers, and this model 2"),
])  # fmt: skip
def test_what_the_engine_would_refuse_or_misread_is_never_given_to_it(spoil: Any, why: str, tmp_path: Path) -> None:
    weights(tmp_path / "model.safetensors", **{f"model__layers__{n}__self_attn__q_proj__weight": [128, 64] for n in (0, 1)})
    folder(tmp_path, "bad", "good")
    weights(tmp_path / "good" / "adapter_model.safetensors", **{A.format(1): [8, 64], B.format(1): [128, 8], "other": [3]})
    spoil(tmp_path / "bad")

    async def ask() -> Engine:
        engine, adapters = Engine(), lora.Adapters(str(tmp_path), str(tmp_path))
        for _ in range(2):
            with pytest.raises(ValueError, match=why):
                await get(adapters, "bad", engine)
        await get(adapters, "good", engine)
        return engine

    assert asyncio.run(ask()).loaded == ["good"]


def test_what_the_engine_refuses_is_the_error_of_those_who_ask_for_it(tmp_path: Path) -> None:
    async def ask() -> Engine:
        engine, adapters = Engine(bad=4), lora.Adapters(folder(tmp_path, "bad", "good"))
        told = await asyncio.gather(*(get(adapters, "bad", engine) for _ in range(9)), return_exceptions=True)
        assert {type(error) for error in told} == {lora.Refused} and "no room for bad" in str(told[0])
        with pytest.raises(ValueError, match="refuses the LoRA adapter 'bad'"):
            await get(adapters, "bad", engine)
        await get(adapters, "good", engine)
        return engine

    assert asyncio.run(ask()).loaded == ["bad", "good"], "a refusal is remembered, and nobody else's"


def test_an_engine_that_dies_while_it_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora, "POLL_S", 0.01)

    class Dying(Engine):
        async def add_lora(self, request: Any) -> bool:
            self.errored = True
            await asyncio.sleep(60)

    with pytest.raises(EngineDied):
        asyncio.run(get(lora.Adapters(folder(tmp_path, "a")), "a", Dying()))


@pytest.mark.parametrize("name", ["../x", "a/../../b", "/etc", "", "a b", "a\n"])
def test_what_is_no_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not the name"):
        lora.find(name, str(tmp_path))


def test_requests_with_an_adapter_and_without_take_turns() -> None:
    turns, running, seen = lora.Turns(), {True: 0, False: 0}, []

    async def request(number: int) -> None:
        has_adapter = number % 3 > 0
        async with turns.turn(has_adapter):
            running[has_adapter] += 1
            seen.append(dict(running))
            await asyncio.sleep(0.001 * (number % 4))
            running[has_adapter] -= 1
            if number == 7:
                raise ValueError("a request that fails ends its turn too")

    async def ask() -> list[Any]:
        requests = [asyncio.ensure_future(request(n)) for n in range(30)]
        await asyncio.sleep(0.001)
        requests[13].cancel()
        return await asyncio.wait_for(asyncio.gather(*requests, return_exceptions=True), 10)

    ended = asyncio.run(ask())
    assert [type(end).__name__ for end in ended if end] == ["ValueError", "CancelledError"]
    assert len(seen) >= 29 and not any(both[True] and both[False] for both in seen)
    assert max(both[True] for both in seen) > 5, "those of one kind run together"
