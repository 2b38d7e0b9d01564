"""Whether a model's folder can be one: what is missing, cut short, or something else, found in its first bytes.

An engine would say so after a minute, under its own start-up lines. A safetensors file begins with the length of its header
(8 bytes), and the header says where the last tensor ends: that is all of its size.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

from rayllm_batch.errors import ConfigError
from rayllm_batch.file_kind import HEAD_BYTES, kind_of

INDEX = "model.safetensors.index.json"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tekken.json", "vocab.json", "vocab.txt", "spiece.model", "tiktoken.model")
MOST_HEADER_BYTES = 100 << 20  # safetensors' own limit
SMALL = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "special_tokens_map.json", INDEX)


def check_folder(folder: Path, weights: Optional[list[str]], own_tokenizer: bool = True) -> None:
    """Raise ConfigError with all that makes the folder no model.

    weights: names of the files that the engine reads; None where none are needed, or not all are here yet.
    own_tokenizer: the tokenizer is this folder's.
    """
    names = {path.name for path in folder.iterdir()}
    problems = list(_problems(folder, names, weights, own_tokenizer))
    if problems:
        raise ConfigError(f"The model folder {str(folder)!r} cannot be used: {'; '.join(problems)}.")


def _problems(folder: Path, names: set[str], weights: Optional[list[str]], own_tokenizer: bool) -> Iterator[str]:
    if "config.json" not in names and "params.json" not in names:  # Mistral's own format has the latter
        yield _no_config(folder, names)
        return
    for name in SMALL:
        if name in names and (problem := _json_problem(folder / name)):
            yield f"{name} {problem}"
    if own_tokenizer and not any(name in TOKENIZERS or name.endswith(".tiktoken") for name in names):
        yield f"it has no tokenizer ({', '.join(TOKENIZERS[:3])}, ...)"
    if weights is None:
        return
    shards = _shards(folder / INDEX)
    if missing := sorted(shards - names):
        yield f"{INDEX} lists {missing[0]}{f' and {len(missing) - 1} more' if missing[1:] else ''}, which is not there"
    elif not weights:
        yield "it has no weights (*.safetensors, *.bin, *.pt or *.gguf)"
    for name in weights:
        if problem := _weights_problem(folder / name):
            yield f"{name} {problem}"


def _no_config(folder: Path, names: set[str]) -> str:
    if "adapter_config.json" in names:
        return (
            "it is a LoRA adapter (adapter_config.json, no config.json). Set model_id to its base model, "
            "lora_config.dynamic_lora_loading_path to the folder above, and let parse_row name the adapter under \"model\""
        )
    if inner := next(iter(sorted(folder.glob("*/config.json")) or sorted(folder.glob("snapshots/*/config.json"))), None):
        return f"it has no config.json, but {str(inner.parent)!r} does: set model_id to that"
    there = ", ".join(sorted(names)[:5]) + (", ..." if len(names) > 5 else "")
    return f"it has no config.json ({f'there are {there}' if names else 'it is empty'})"


def _json_problem(path: Path) -> str:
    try:
        content = path.read_bytes()
        if not content.strip():
            return "is empty"
        value: Any = json.loads(content)
    except ValueError:
        return f"is {kind_of(content[:HEAD_BYTES]) or 'not JSON, or cut short'}"
    except OSError as error:
        return f"cannot be read ({error})"
    if not isinstance(value, dict):
        return "is not a JSON object"
    if path.name == "config.json" and not (value.get("model_type") or value.get("architectures")):
        return "names neither model_type nor architectures, so it is no model's"
    return ""


def _shards(index: Path) -> set[str]:
    try:
        return set(map(str, (json.loads(index.read_bytes()).get("weight_map") or {}).values()))
    except (OSError, ValueError, AttributeError):  # not there, or told of already
        return set()


def _weights_problem(path: Path) -> str:
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
            if not head:
                return "is empty"
            if (kind := kind_of(head)) and not (path.suffix in (".bin", ".pt") and ("zip" in kind or "pickle" in kind) or path.suffix == ".gguf"):
                return f"is {kind}"
            if path.suffix != ".safetensors":
                return ""
            file.seek(0)
            return _safetensors_problem(file, size)
    except OSError as error:
        return f"cannot be read ({error})"


def _safetensors_problem(file: Any, size: int) -> str:
    if size < 8:
        return f"is cut short: {size} bytes"
    length = struct.unpack("<Q", file.read(8))[0]
    if length > MOST_HEADER_BYTES:
        return "is not a safetensors file, or damaged: the length of its header makes no sense"
    if 8 + length > size:
        return f"is cut short: it has {size:,} bytes, its header alone {8 + length:,}"
    try:
        header = json.loads(file.read(length))
        end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
    except (ValueError, LookupError, TypeError, AttributeError):
        return "is not a safetensors file, or damaged: its header is not JSON"
    if size != 8 + length + end:
        return f"is {'cut short' if size < 8 + length + end else 'damaged'}: it has {size:,} bytes of {8 + length + end:,}"
    return ""
