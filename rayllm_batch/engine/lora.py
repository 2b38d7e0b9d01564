"""LoRA adapters: `parse_row` names one under `model`, and it is found under dynamic_lora_loading_path."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Optional

from rayllm_batch.errors import HubUnavailableError, RayLLMBatchError
from rayllm_batch.model.files import download_model
from rayllm_batch.model.folder import safetensors_header, small_problem, weights_problem
from rayllm_batch.model.hub_client import HubClient
from rayllm_batch.secret import Secret
from rayllm_batch.uri import filesystem_of, without_credentials

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
OLDER_WEIGHTS = ("adapter_model.bin", "adapter_model.pt")
HUB = "hf://"
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
        await asyncio.to_thread(check, name, Path(path), self._hidden_size)
        adapter = LoRARequest(lora_name=name, lora_int_id=number, lora_path=path)
        await self._add(adapter)
        return adapter


def check(name: str, folder: Path, hidden_size: Optional[int]) -> None:
    """ValueError where the files are no adapter, or another base model's. hidden_size: of this one, if known."""
    if problem := _problem(folder, hidden_size):
        raise ValueError(f"the LoRA adapter {name!r} cannot be used: {problem}")


def _problem(folder: Path, hidden_size: Optional[int]) -> str:
    """What an engine would not say as clearly, or not notice."""
    if problem := small_problem(folder / CONFIG):
        return f"{CONFIG} {problem}"
    weights = folder / WEIGHTS
    if not weights.is_file():
        return "" if any((folder / name).is_file() for name in OLDER_WEIGHTS) else f"it has no {WEIGHTS}"
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
    """The local folder of adapter `name`; downloaded, if the root is a URI or `hf://owner[/repository]`."""
    uri = address(name, root)
    if uri.startswith(HUB):
        repository, folder = _on_hub(uri)
        try:
            path = os.path.join(download_model(repository, os.environ.get("HF_TOKEN")), folder)
        except RayLLMBatchError as error:
            raise ValueError(f"no LoRA adapter {name!r}: {error}") from None
        if not os.path.isfile(os.path.join(path, CONFIG)):
            raise ValueError(_missing(name, uri))
        return path
    if "://" not in uri:
        if not os.path.isfile(os.path.join(uri, CONFIG)):
            raise ValueError(_missing(name, uri))
        return uri
    import pyarrow.fs

    source, prefix = filesystem_of(uri)
    found = source.get_file_info(pyarrow.fs.FileSelector(prefix, allow_not_found=True, recursive=True))
    if not any(info.base_name == CONFIG for info in found):
        raise ValueError(_missing(name, uri))
    path = tempfile.mkdtemp(prefix="lora-")
    pyarrow.fs.copy_files(prefix, path, source_filesystem=source, destination_filesystem=pyarrow.fs.LocalFileSystem())
    return path


def address(name: str, root: Optional[str]) -> str:
    """Where an adapter is: a path or a URI. ValueError for what cannot be one's name."""
    if root is None:
        unset = "lora_config.dynamic_lora_loading_path is not set"
        raise ValueError(f"the row asks for the LoRA adapter {name!r}, but {unset}")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)*", name) or ".." in name:
        raise ValueError(f"{name!r} is not the name of a LoRA adapter")
    if "://" in root:
        return root + name if root.endswith("/") else f"{root}/{name}"
    return os.path.join(os.path.expanduser(root), name)


def names_in(root: str) -> list[str]:
    """Of the adapters below a folder or a URI. Of the Hub's, none: an owner may have thousands of repositories."""
    if root.startswith(HUB):
        return []
    if "://" not in root:
        folder = Path(root).expanduser()
        return sorted(file.parent.relative_to(folder).as_posix() for file in folder.rglob(CONFIG))
    import pyarrow.fs

    source, prefix = filesystem_of(root)
    found = source.get_file_info(pyarrow.fs.FileSelector(prefix, allow_not_found=True, recursive=True))
    files = [info.path for info in found if info.base_name == CONFIG]
    return sorted(os.path.relpath(os.path.dirname(path), prefix) for path in files)


def rank_of(name: str, root: Optional[str], token: str = "") -> int:
    """Of its adapter_config.json, the largest where layers differ. ValueError where there is none.

    Raises HubUnavailableError where nothing can be known.
    """
    uri = address(name, root)
    try:
        about = json.loads(_config_of(uri, token))
        return max(int(rank) for rank in [about["r"], *(about.get("rank_pattern") or {}).values()])
    except HubUnavailableError:
        raise
    except RayLLMBatchError as error:
        raise ValueError(f"no LoRA adapter {name!r}: {error}") from None
    except OSError:
        raise ValueError(_missing(name, uri)) from None
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ValueError(f"the LoRA adapter {name!r} cannot be used: its {CONFIG} names no rank `r`") from None


def _config_of(uri: str, token: str) -> bytes:
    if uri.startswith(HUB):
        repository, folder = _on_hub(uri)
        file = "/".join(filter(None, [folder, CONFIG]))
        client = HubClient(repository, Secret(token) if token else None)
        return Path(client.ask(lambda api: api.hf_hub_download(repository, file))).read_bytes()
    if "://" not in uri:
        return Path(uri, CONFIG).read_bytes()
    source, prefix = filesystem_of(uri)
    with source.open_input_stream(f"{prefix}/{CONFIG}") as stream:
        return stream.read()


def _on_hub(uri: str) -> tuple[str, str]:
    """The repository, and the folder in it."""
    owner, _, rest = uri.removeprefix(HUB).partition("/")
    repository, _, folder = rest.partition("/")
    return f"{owner}/{repository}", folder


def _missing(name: str, uri: str) -> str:
    return f"no LoRA adapter {name!r}: {without_credentials(uri)} has no {CONFIG}"
