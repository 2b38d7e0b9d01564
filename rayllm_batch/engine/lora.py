"""LoRA adapters: `parse_row` names one under `model`, and it is found under dynamic_lora_loading_path."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Optional

from rayllm_batch.uri import filesystem_of, without_credentials


class Adapters:
    """Those that one engine knows. vLLM tells them apart by their numbers alone, so a number is never given twice.

    root: a folder or a URI. Use it inside one event loop.
    """

    def __init__(self, root: Optional[str]) -> None:
        self._root, self._numbers = root, itertools.count(1)
        self._loading: dict[str, asyncio.Task] = {}

    async def get(self, name: str) -> Any:
        """vLLM's LoRARequest for the adapter `name`; downloaded once, when the path is a URI. ValueError if it is not there."""
        if name not in self._loading:
            self._loading[name] = asyncio.create_task(self._load(name, next(self._numbers)))
        task = self._loading[name]
        try:
            return await asyncio.shield(task)
        except Exception:
            if self._loading.get(name) is task:
                del self._loading[name]  # the next row may try again
            raise

    async def _load(self, name: str, number: int) -> Any:
        from vllm.lora.request import LoRARequest

        path = await asyncio.to_thread(find, name, self._root)
        return LoRARequest(lora_name=name, lora_int_id=number, lora_path=path)


class Turns:
    """Requests with an adapter and requests without one, never both at once.

    vLLM's kernels for CPU look up "no adapter" as slot -1, which is the last slot's: in one batch with others, a request
    without an adapter is answered with that one's weights. (Those for GPUs skip it.)
    """

    def __init__(self) -> None:
        self._left, self._running = asyncio.Condition(), {True: 0, False: 0}

    @asynccontextmanager
    async def turn(self, has_adapter: bool) -> AsyncIterator[None]:
        async with self._left:
            await self._left.wait_for(lambda: not self._running[not has_adapter])
            self._running[has_adapter] += 1
        try:
            yield
        finally:
            self._running[has_adapter] -= 1
            async with self._left:
                self._left.notify_all()


def find(name: str, root: Optional[str]) -> str:
    """The local folder of adapter `name`."""
    if root is None:
        raise ValueError(f"the row asks for the LoRA adapter {name!r}, but lora_config.dynamic_lora_loading_path is not set")
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
