"""LoRA adapters: each has a number of its own and is loaded once, whoever asks when."""

from __future__ import annotations

import asyncio
import json
import struct
import sys
import threading
import types
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hub_server import HubServer

from rayllm_batch.engine import lora
from rayllm_batch.engine.base import BadRequest


@pytest.fixture(autouse=True)
def _no_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("vllm.lora.request")
    module.LoRARequest = types.SimpleNamespace
    for name in ("vllm", "vllm.lora"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "vllm.lora.request", module)


async def taken(adapter: Any) -> None:
    """An engine that takes any."""


def folder(root: Path, *names: str, tensors: Mapping[str, list[int]] = MappingProxyType({})) -> str:
    """tensors: the shapes of their weights, by name."""
    for name in names:
        (root / name).mkdir(parents=True)
        (root / name / "adapter_config.json").write_text("{}")
        header = {key: {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]} for key, shape in tensors.items()}
        said = json.dumps(header).encode()
        (root / name / lora.WEIGHTS).write_bytes(struct.pack("<Q", len(said)) + said + bytes(4 if tensors else 0))
    return str(root)


def refusal(root: Path, name: str = "a", hidden_size: int | None = 256) -> str:
    with pytest.raises(ValueError, match=f"the LoRA adapter '{name}' cannot be used") as caught:
        asyncio.run(lora.Adapters(str(root), taken, hidden_size).get(name))
    return str(caught.value)


def test_adapters_first_asked_for_at_the_same_time_have_different_numbers(tmp_path: Path) -> None:
    names = [f"adapter-{n}" for n in range(20)]

    async def ask() -> list[Any]:
        adapters = lora.Adapters(folder(tmp_path, *names), taken)
        return await asyncio.gather(*(adapters.get(name) for name in names * 3))

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
        adapters = lora.Adapters(str(tmp_path), taken)
        waiting = [asyncio.create_task(adapters.get("a")) for _ in range(50)]
        await asyncio.sleep(0.1)
        waiting[0].cancel()  # who gives up takes it from nobody else
        may_go_on.set()
        found = await asyncio.gather(*waiting[1:])
        assert len({id(one) for one in found}) == 1

    asyncio.run(ask())
    assert asked == ["a"]


def test_one_that_is_not_there_may_come_and_takes_nobodys_number(tmp_path: Path) -> None:
    async def ask() -> None:
        adapters = lora.Adapters(folder(tmp_path, "first"), taken)
        with pytest.raises(ValueError, match="no LoRA adapter 'late'"):
            await adapters.get("late")
        first = await adapters.get("first")
        folder(tmp_path, "late")
        late = await adapters.get("late")
        assert len({first.lora_int_id, late.lora_int_id}) == 2

    asyncio.run(ask())


@pytest.mark.parametrize("name", ["../x", "a/../../b", "/etc", "", "a b", "a\n"])
def test_what_is_no_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not the name"):
        lora.find(name, str(tmp_path))


def test_it_comes_from_the_hub(hub: HubServer, isolated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {lora.CONFIG: b'{"r": 8}', lora.WEIGHTS: b"weights"}
    hub.add("models", "me/many", {f"legal/{name}": content for name, content in files.items()} | {"x/y": b"1"})
    hub.add("models", "me/closed", files, private=True, readers={"alice"})
    found = Path(lora.find("many/legal", "hf://me"))
    assert {file.name for file in found.iterdir()} == set(files) and (found / lora.WEIGHTS).read_bytes() == b"weights"
    with pytest.raises(ValueError, match="no LoRA adapter 'x': hf://me/many/x has no adapter_config.json"):
        lora.find("x", "hf://me/many")
    with pytest.raises(ValueError, match="no LoRA adapter 'closed': "):
        lora.find("closed", "hf://me/")
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    assert Path(lora.find("closed", "hf://me/"), lora.WEIGHTS).exists()


def test_what_the_engine_refuses_is_asked_of_it_once(tmp_path: Path) -> None:
    asked = []

    async def refused(adapter: Any) -> None:
        asked.append(adapter.lora_name)
        raise BadRequest("rank 64 is greater than 16")

    async def ask() -> list[Any]:
        adapters = lora.Adapters(folder(tmp_path, "a"), refused)
        found = [await asyncio.gather(*(adapters.get("a") for _ in range(5)), return_exceptions=True) for _ in range(3)]
        return sum(found, [])

    assert {str(one) for one in asyncio.run(ask())} == {"rank 64 is greater than 16"} and asked == ["a"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("adapter_config.json", b"", "adapter_config.json is empty"),
        ("adapter_config.json", b"[" * 100_000, "adapter_config.json is "),
        (
            "adapter_config.json",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n",
            "Git LFS pointer",
        ),
        (
            lora.WEIGHTS,
            b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n",
            f"{lora.WEIGHTS} is a Git LFS pointer",
        ),
        (lora.WEIGHTS, struct.pack("<Q", 2) + b"{}" + b"more", "damaged"),
        (lora.WEIGHTS, b"123", "cut short"),
    ],
)
def test_files_that_are_none(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    folder(tmp_path, "a", tensors={})
    (tmp_path / "a" / name).write_bytes(content)
    assert words in refusal(tmp_path)


@pytest.mark.parametrize(
    "tensors",
    [
        {"x.layers.0.self_attn.q_proj.lora_A.weight": [8, 512]},
        {"x.layers.0.mlp.down_proj.lora_B.weight": [512, 8]},
        {"x.layers.0.self_attn.o_proj.lora_B.weight": [512, 8], "x.layers.0.mlp.gate_up_proj.lora_A.weight": [8, 512]},
    ],
)
def test_one_of_another_base_model(tensors: dict[str, list[int]], tmp_path: Path) -> None:
    folder(tmp_path, "a", tensors=tensors)
    assert "another base model, whose hidden size is 512; that of this one is 256" in refusal(tmp_path)
    assert asyncio.run(lora.Adapters(str(tmp_path), taken, 512).get("a")) and asyncio.run(
        lora.Adapters(str(tmp_path), taken).get("a")
    )


def test_shapes_that_tell_nothing(tmp_path: Path) -> None:
    told = {
        "x.layers.0.self_attn.q_proj.lora_A.weight": [8, 256],
        "x.vision.q_proj.lora_A.weight": [8, 64],
        "x.o_proj.lora_B.weight": [8],
    }
    for name, tensors in {"a": told, "b": {"x.c_attn.lora_A.weight": [8, 5]}, "c": {}}.items():
        folder(tmp_path, name, tensors=tensors)
        assert asyncio.run(lora.Adapters(str(tmp_path), taken, 256).get(name)).lora_name == name


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
