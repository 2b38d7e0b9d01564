"""The files of a model on the Hub: once a node, and only those that an engine reads."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from contextlib import suppress
from fnmatch import filter as matching
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from rayllm_batch.errors import HubUnavailableError, ModelNotFoundError
from rayllm_batch.model.hub import is_local, is_offline
from rayllm_batch.model.hub_client import HubClient
from rayllm_batch.secret import Secret

# Weights for other programs, and pictures. Configs and tokenizers have too many names to list what to keep.
NEVER = ["original/*", "metal/*", "onnx/*", "openvino/*", "coreml/*", "*.pth", "*.msgpack", "*.h5", "*.ot", "*.onnx"]
NEVER += ["*.onnx_data", "*.tflite", "*.mlmodel", "*.nemo", "*.png", "*.jpg", "*.jpeg", "*.gif", "*.mp4", "*.pdf"]
WEIGHTS = ["*.safetensors", "*.bin", "*.pt", "*.gguf"]
# Which weights a download may have left in the cache: patterns not to miss, and those to find.
CACHED = [(["consolidated*.safetensors"], ["*.safetensors"]), (["model*.safetensors"], ["*.safetensors"])]
CACHED += [([], [kind]) for kind in WEIGHTS[1:]]

log = logging.getLogger("rayllm_batch")


def download_model(
    model_id: str, token: str | None = None, *, revision: str | None = None, load_format: str = "auto"
) -> str:
    """Folder of the model on this machine, downloaded into huggingface_hub's cache if it is not there yet.

    Any number of processes may call it at once: huggingface_hub locks each file, so that one of them fetches it and
    the others wait. A local folder, a bucket's address, and any model under `HF_HUB_OFFLINE=1` cause no request.

    Args:
        token: Opens the model; none for a public one.
        load_format: The engine's own argument, which decides between the weights that a repository holds twice.

    Raises:
        ModelAccessError: As `rayllm_batch.model.hub.check_model_access`, or if the files cannot be stored.
        HubUnavailableError: Also if the Hub falls silent in the middle, for a minute (six, before a file's first byte).
    """
    if is_local(model_id):
        return os.path.expanduser(model_id)
    if is_offline():
        return _from_cache(model_id, revision, load_format)
    token = Secret(token) if token else None
    client = HubClient(model_id, token)
    try:
        info = client.info(revision)
    except HubUnavailableError as error:
        with suppress(ModelNotFoundError):
            folder = _from_cache(model_id, revision, load_format)
            log.warning("%s The copy of %s in the cache is used.", error, model_id)
            return folder
        raise error.with_traceback(None) from None
    names = [file.rfilename for file in info.siblings or []]
    unread = files_to_skip(names, load_format)
    # The weights take as long as they take. A server that falls silent is huggingface_hub's to notice: it waits
    # HF_HUB_DOWNLOAD_TIMEOUT (10 s) for the next byte of a file, and resumes five times before it gives up. Where
    # the silence comes before a file's first byte, it tries for six minutes.
    try:
        return client.ask(lambda api: _snapshot(api, model_id, revision, unread), patiently=True)
    except HubUnavailableError as error:
        why = error.why
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.utils import filter_repo_objects

    wanted = filter_repo_objects(names, ignore_patterns=unread)
    missing = [
        name for name in wanted if not isinstance(try_to_load_from_cache(model_id, name, revision=info.sha), str)
    ]
    raise HubUnavailableError(
        f"{why} Still missing: {', '.join(missing[:3])}{f' and {len(missing) - 3} more' if missing[3:] else ''}.",
        "Run it again: the files that are complete are kept. On a slow network, HF_HUB_DOWNLOAD_TIMEOUT=60 waits "
        "longer.",
    )


def files_to_skip(names: Iterable[str], load_format: str = "auto") -> list[str]:
    """Patterns of the files that vLLM would not read, of a repository with these `names`."""
    names = [name for name in names if not any(fnmatch(name, pattern) for pattern in NEVER)]
    if load_format == "dummy":
        return [*NEVER, *WEIGHTS]
    if matching(names, "consolidated*.safetensors") and load_format in ("auto", "mistral"):
        return [*NEVER, "*.bin", "*.pt", "*.gguf", "model*.safetensors"]  # vLLM's own preference
    if matching(names, "*.safetensors"):
        twice = ["consolidated*.safetensors"] if matching(names, "model*.safetensors") else []
        return [*NEVER, "*.bin", "*.pt", "*.gguf", *twice]
    return [*NEVER, "*.pt", "*.gguf"] if matching(names, "*.bin") else list(NEVER)


def _snapshot(api: Any, model_id: str, revision: str | None, unread: list[str]) -> str:
    from huggingface_hub.errors import LocalEntryNotFoundError
    from tqdm import tqdm

    class Silent(tqdm):  # a bar a worker would flood the driver's screen
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})

    try:
        return api.snapshot_download(model_id, revision=revision, ignore_patterns=unread, tqdm_class=Silent)
    except LocalEntryNotFoundError as error:  # "not in the cache" hides what the Hub answered
        raise (error.__cause__ or error) from None


def _from_cache(model_id: str, revision: str | None, load_format: str) -> str:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    for skipped, wanted in [([], [])] if load_format == "dummy" else CACHED:
        skip = [*NEVER, *(w for w in [*WEIGHTS, *skipped] if w not in wanted)]
        try:
            folder = snapshot_download(model_id, revision=revision, local_files_only=True, ignore_patterns=skip)
        except LocalEntryNotFoundError:  # not there at all, or a file is missing
            continue
        if not wanted or any(Path(folder).glob(wanted[0])):
            return folder
    raise ModelNotFoundError(
        f"HF_HUB_OFFLINE=1, and {model_id} is not, or not completely, in the cache of this machine. Run once without "
        f"HF_HUB_OFFLINE to download it, or give the path of a folder that holds it."
    )
