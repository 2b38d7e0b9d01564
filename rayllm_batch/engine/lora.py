"""LoRA adapters: `parse_row` names one under `model`, and it is found under dynamic_lora_loading_path."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Optional

from rayllm_batch.model.folder import safetensors_header, small_problem, weights_problem
from rayllm_batch.uri import filesystem_of, without_credentials

WEIGHTS = "adapter_model.safetensors"
_Add = Callable[[Any], Awaitable[None]]


class Adapters:
    """Those that one engine knows. vLLM tells them apart by their numbers alone, so a number is never given twice.

    root: a folder or a URI. add: loads a LoRARequest into the engine. hidden_size: of the base model, if known.
    Use it inside one event loop.
    """

    def __init__(self, root: Optional[str], add: _Add, hidden_size: Optional[int] = None) -> None:
        self._root, self._add, self._hidden_size, self._numbers = root, add, hidden_size, itertools.count(1)
        self._loading: dict[str, asyncio.Task] = {}

    async def get(self, name: str) -> Any:
        """vLLM's LoRARequest for the adapter `name`, which is loaded; downloaded once, when the path is a URI.

        ValueError if it is not there or is not whole, BadRequest if the engine refuses it.
        """
        if name not in self._loading:
            self._loading[name] = asyncio.create_task(self._load(name, next(self._numbers)))
        task = self._loading[name]
        try:
            return await asyncio.shield(task)
        except ValueError:
            if self._loading.get(name) is task:
                del self._loading[name]  # it may come; what the engine has refused is not read again for each row
            raise

    async def _load(self, name: str, number: int) -> Any:
        from vllm.lora.request import LoRARequest

        path = await asyncio.to_thread(find, name, self._root)
        if problem := await asyncio.to_thread(_problem, Path(path), self._hidden_size):
            raise ValueError(f"the LoRA adapter {name!r} cannot be used: {problem}")
        adapter = LoRARequest(lora_name=name, lora_int_id=number, lora_path=path)
        await self._add(adapter)
        return adapter


def _problem(folder: Path, hidden_size: Optional[int]) -> str:
    """Of an adapter's files: what an engine would not say as clearly, or not notice: another base model's."""
    if problem := small_problem(folder / "adapter_config.json"):
        return f"adapter_config.json {problem}"
    weights = folder / WEIGHTS
    if not weights.is_file():
        return ""  # vLLM reads other files too
    if problem := weights_problem(weights):
        return f"{WEIGHTS} {problem}"
    tensors = safetensors_header(weights).items()
    widths = {width for name, tensor in tensors if (width := _width(name, tensor.get("shape")))}
    if hidden_size and widths and hidden_size not in widths:
        given = ", ".join(map(str, sorted(widths)))
        return f"it is of another base model, whose hidden size is {given}; that of this one is {hidden_size}"
    return ""


def _width(name: str, shape: Any) -> Optional[int]:
    """The hidden size of the base model that a tensor is for, where its name tells."""
    if not isinstance(shape, list) or [type(size) for size in shape] != [int, int]:
        return None
    if re.search(r"\.(q|k|v|qkv|gate|up|gate_up)_proj\.lora_A\.", name):
        return shape[1]
    return shape[0] if re.search(r"\.(o|down)_proj\.lora_B\.", name) else None


class Turns:
    """Requests of one kind and those of another, such as with an adapter and without one, never both at once.

    vLLM's kernels for CPU look up "no adapter" as slot -1: in one batch with others, a request without an adapter is
    answered with the weights of the last slot's. (Those for GPUs skip it.)
    """

    def __init__(self) -> None:
        self._left, self._running = asyncio.Condition(), {True: 0, False: 0}

    @asynccontextmanager
    async def turn(self, kind: bool) -> AsyncIterator[None]:
        async with self._left:
            await self._left.wait_for(lambda: not self._running[not kind])
            self._running[kind] += 1
        try:
            yield
        finally:
            self._running[kind] -= 1
            async with self._left:
                self._left.notify_all()


def find(name: str, root: Optional[str]) -> str:
    """The local folder of adapter `name`."""
    if root is None:
        unset = "lora_config.dynamic_lora_loading_path is not set"
        raise ValueError(f"the row asks for the LoRA adapter {name!r}, but {unset}")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)*", name) or ".." in name:
        raise ValueError(f"{name!r} is not the name of a LoRA adapter")
    if "://" not in root:
        path = os.path.join(os.path.expanduser(root), name)
        if not os.path.isfile(os.path.join(path, "adapter_config.json")):
            raise ValueError(f"no LoRA adapter {name!r}: {path} has no adapter_config.json")
        return path
    import pyarrow.fs

    uri = f"{root.rstrip('/')}/{name}"
    source, prefix = filesystem_of(uri)
    found = source.get_file_info(pyarrow.fs.FileSelector(prefix, allow_not_found=True, recursive=True))
    if not any(info.base_name == "adapter_config.json" for info in found):
        raise ValueError(f"no LoRA adapter {name!r}: {without_credentials(uri)} has no adapter_config.json")
    path = tempfile.mkdtemp(prefix="lora-")
    pyarrow.fs.copy_files(prefix, path, source_filesystem=source, destination_filesystem=pyarrow.fs.LocalFileSystem())
    return path
