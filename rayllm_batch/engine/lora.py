"""LoRA adapters: `parse_row` names one under `model`, and it is found under dynamic_lora_loading_path.

vLLM loads an adapter in the step that first needs it, and one that it refuses there ends the engine, with all rows in it. So
each is looked at and loaded before its first row: then a refusal is the error of the rows that ask for it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Optional

from rayllm_batch.engine.base import EngineDied
from rayllm_batch.errors import one_line
from rayllm_batch.model_folder import tensors_of, weights_problem
from rayllm_batch.uri import filesystem_of, without_credentials

WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin", "adapter_model.pt")  # what vLLM looks for, in this order
FLOATS = ("F64", "F32", "F16", "BF16")
POLL_S = 1.0
MOST_WORKERS = 64  # processes of one engine


class Refused(ValueError):
    """An adapter that will not do, however often it is asked for."""


class Adapters:
    """Those that one engine knows. vLLM tells them apart by their numbers alone, so a number is never given twice.

    root: a folder or a URI. model: the folder of the engine's model. Use it inside one event loop.
    """

    def __init__(self, root: Optional[str], model: str = "") -> None:
        self._root, self._model, self._numbers = root, model, itertools.count(1)
        self._loading: dict[str, asyncio.Task] = {}
        self._refused: dict[str, str] = {}
        self._base: Optional[dict[str, Any]] = None

    async def get(self, name: str, engine: Any, max_rank: Optional[int]) -> Any:
        """vLLM's LoRARequest for the adapter `name`, which its AsyncLLM `engine` has loaded; downloaded once, when the path is a URI.

        ValueError where it is not there, or will not do. EngineDied where the engine dies meanwhile.
        """
        if name in self._refused:
            raise Refused(self._refused[name])
        if name not in self._loading:
            self._loading[name] = asyncio.create_task(self._load(name, next(self._numbers), engine, max_rank))
        task = self._loading[name]
        try:
            return await asyncio.shield(task)
        except Exception as error:
            if isinstance(error, Refused):
                self._refused[name] = str(error)
            if self._loading.get(name) is task:
                del self._loading[name]  # the next row may try again
            raise

    async def _load(self, name: str, number: int, engine: Any, max_rank: Optional[int]) -> Any:
        from vllm.lora.request import LoRARequest

        path = await asyncio.to_thread(find, name, self._root)
        if (problem := await asyncio.to_thread(self._problem, Path(path), max_rank)) is not None:
            raise Refused(f"the LoRA adapter {name!r} cannot be used: {problem}")
        request = LoRARequest(lora_name=name, lora_int_id=number, lora_path=path)
        try:
            await _while_alive(engine, engine.add_lora(request))
        except EngineDied:
            raise
        except Exception as error:
            await _forget(engine, number)
            raise Refused(f"the engine refuses the LoRA adapter {name!r}: {one_line(error, named=False)}") from None
        return request

    def _problem(self, path: Path, max_rank: Optional[int]) -> Optional[str]:
        """Of what vLLM would refuse, or load without a word though it fits another model, what its files tell."""
        try:
            config = json.loads((path / "adapter_config.json").read_bytes())
        except (OSError, ValueError, RecursionError):
            config = None
        if not isinstance(config, dict) or type(config.get("r")) is not int:
            return "its adapter_config.json is not a JSON object with a rank r, a whole number; save the adapter again with PEFT"
        weights = next((path / name for name in WEIGHTS if (path / name).is_file()), None)
        if weights is None:
            return f"it has no weights ({' or '.join(WEIGHTS)}); put them beside its adapter_config.json"
        if problem := weights_problem(weights):
            return f"{weights.name} {problem}"
        tensors = tensors_of(weights) if weights.suffix == ".safetensors" else {}
        rank = max([config["r"], *(entry["shape"][0] for name, entry in tensors.items() if "lora_A" in name and entry["shape"])])
        if max_rank is not None and rank > max_rank:
            return f"its rank is {rank}, but max_lora_rank is {max_rank}; raise max_lora_rank in engine_kwargs"
        if config.get("fan_in_fan_out"):  # the model's weights are the other way round
            return None
        if self._base is None:
            self._base = _tensors_of_model(self._model)
        return _misfit(tensors, self._base)


async def _while_alive(engine: Any, call: Any) -> Any:
    """What the engine answers to a call; vLLM leaves it without an answer when it dies meanwhile."""
    task = asyncio.ensure_future(call)
    while not (await asyncio.wait({task}, timeout=POLL_S))[0]:
        if engine.errored:
            task.cancel()
            break
    if engine.errored:
        raise EngineDied("the engine died while it loaded a LoRA adapter")
    return task.result()


async def _forget(engine: Any, number: int) -> None:
    """Take out what there is of an adapter that was half loaded.

    Of several workers that refuse it, vLLM reads the first one's answer alone, and the others' stay in line before their answers
    to what comes next. So this goes on until none is left, and the next adapter is not taken for this one.
    """
    for _ in range(MOST_WORKERS):
        try:
            await _while_alive(engine, engine.remove_lora(number))
        except EngineDied:
            raise
        except Exception:
            continue
        return


def _tensors_of_model(model: str) -> dict[str, Any]:
    files = sorted(Path(model).glob("*.safetensors")) if model and os.path.isdir(model) else []
    return {name: entry for file in files for name, entry in tensors_of(file).items()}


def _misfit(adapter: dict[str, Any], base: dict[str, Any]) -> Optional[str]:
    """How the adapter was not made for this model. vLLM takes one that is smaller, and answers with a part of its weights.

    Only what bears the same name in both is compared: a model may be quantized, or named otherwise in memory than on disk.
    """
    compared = False
    for name, entry in adapter.items():
        match = re.fullmatch(r"base_model\.model\.(.+)\.lora_([AB])\.weight", name)
        its = base.get(f"{match[1]}.weight") if match else None
        if its is None or its["dtype"] not in FLOATS or len(its["shape"]) != 2 or len(entry["shape"]) != 2:
            continue
        side, compared = 1 if match[2] == "A" else 0, True
        if entry["shape"][side] != its["shape"][side]:
            return f"it was made for another model: its {match[1]} is {entry['shape'][side]:,} wide, and this model's {its['shape'][side]:,}"
    if compared and _layers(adapter) > _layers(base):
        return f"it was made for another model: it has {_layers(adapter)} layers, and this model {_layers(base)}"
    return None


def _layers(names: Iterable[str]) -> int:
    return max((int(match[1]) + 1 for name in names if (match := re.search(r"\blayers\.(\d+)\.", name))), default=0)


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
