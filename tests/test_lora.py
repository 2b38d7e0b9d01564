"""LoRA adapters: each has a number of its own and is loaded once, whoever asks when."""

from __future__ import annotations

import asyncio
import sys
import threading
import types
from pathlib import Path
from typing import Any

import pytest

from rayllm_batch.engine import lora


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
        (root / name / "adapter_config.json").write_text("{}")
    return str(root)


def test_adapters_first_asked_for_at_the_same_time_have_different_numbers(tmp_path: Path) -> None:
    names = [f"adapter-{n}" for n in range(20)]

    async def ask() -> list[Any]:
        adapters = lora.Adapters(folder(tmp_path, *names))
        return await asyncio.gather(*(adapters.get(name) for name in names * 3))

    found = asyncio.run(ask())
    assert [one.lora_name for one in found] == names * 3 and len({one.lora_int_id for one in found}) == len(names)
    assert all(one.lora_path.endswith(one.lora_name) and one.lora_int_id > 0 for one in found)


def test_an_adapter_is_looked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, may_go_on = [], threading.Event()

    def find(name: str, root: str) -> str:
        asked.append(name)
        may_go_on.wait(5)
        return f"{root}/{name}"

    monkeypatch.setattr(lora, "find", find)

    async def ask() -> None:
        adapters = lora.Adapters(str(tmp_path))
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
        adapters = lora.Adapters(folder(tmp_path, "first"))
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
