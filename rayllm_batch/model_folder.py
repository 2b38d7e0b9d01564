"""Whether a model's folder can be one: what is missing, cut short, or something else, found in its first bytes.

An engine would say so after a minute, under its own start-up lines. A safetensors file begins with the length of its header
(8 bytes), and the header says where the last tensor ends: that is all of its size.
"""

from __future__ import annotations

import json
import re
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

from rayllm_batch.errors import ConfigError
from rayllm_batch.file_kind import HEAD_BYTES, kind_of

INDEX, INDEX_OF_BIN = "model.safetensors.index.json", "pytorch_model.bin.index.json"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tekken.json", "vocab.json", "vocab.txt", "spiece.model", "tiktoken.model")
MOST_HEADER_BYTES = 100 << 20  # safetensors' own limit
CONFIGS = ("config.json", "generation_config.json", INDEX, INDEX_OF_BIN)
OF_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "chat_template.json")

HOW_AN_ADAPTER = (
    "Set model_id to its base model, lora_config.dynamic_lora_loading_path to the folder above, and let parse_row name the adapter "
    'under "model"'
)


def check_folder(
    folder: Path, weights: Optional[list[str]], *, own_tokenizer: bool = True, own_config: bool = True, complete: bool = True
) -> None:
    """Raise ConfigError with all that makes the folder no model.

    weights:       names of the files that the engine reads; None where none are needed.
    own_tokenizer: the tokenizer is this folder's. own_config: so is the model's config.
    complete:      what is not here will not come.
    """
    names = {path.name for path in folder.iterdir() if path.exists()}  # not a link to what is gone
    problems = list(_problems(folder, names, weights, own_tokenizer=own_tokenizer, own_config=own_config, complete=complete))
    if problems:
        raise ConfigError(f"The model folder {str(folder)!r} cannot be used: {'; '.join(problems)}.")


def _problems(
    folder: Path, names: set[str], weights: Optional[list[str]], *, own_tokenizer: bool, own_config: bool, complete: bool
) -> Iterator[str]:
    if own_config and "config.json" not in names and "params.json" not in names:  # Mistral's own format has the latter
        yield _no_config(folder, names)
        return
    tokenizers = sorted(name for name in names if name in TOKENIZERS or name.endswith(".tiktoken"))
    read = [*(CONFIGS if own_config else ()), *(OF_TOKENIZER if own_tokenizer else ())]
    if own_tokenizer and "tokenizer.json" not in names:  # else the others are not read
        read += [*tokenizers, "merges.txt"]
    for name in read:
        if name in names and (problem := _small_problem(folder / name)):
            yield f"{name} {problem}"
    if own_tokenizer and not tokenizers:
        yield f"it has no tokenizer ({', '.join(TOKENIZERS[:3])}, ...)"
    if weights is None:
        return
    listed, shards = _shards(folder, weights)
    if complete and (missing := sorted(shards - names)):
        yield f"{listed} {missing[0]}{f' and {len(missing) - 1} more' if missing[1:] else ''}, which is not there"
    elif complete and not weights:
        yield _no_weights(names)
    for name in weights:
        if problem := _weights_problem(folder / name):
            yield f"{name} {problem}"


def _no_weights(names: set[str]) -> str:
    if gguf := sorted(name for name in names if name.endswith(".gguf")):
        return f"it has only GGUF weights ({gguf[0]}), which vLLM does not read: use the model that they were made of"
    if "adapter_config.json" in names:
        return f"it has no weights but a LoRA adapter's. {HOW_AN_ADAPTER}"
    return "it has no weights (*.safetensors, *.bin or *.pt)"


def _no_config(folder: Path, names: set[str]) -> str:
    if "adapter_config.json" in names:
        return f"it is a LoRA adapter (adapter_config.json, no config.json). {HOW_AN_ADAPTER}"
    if inner := next(iter(sorted(folder.glob("*/config.json")) or sorted(folder.glob("snapshots/*/config.json"))), None):
        return f"it has no config.json, but {str(inner.parent)!r} does: set model_id to that"
    there = ", ".join(sorted(names)[:5]) + (", ..." if len(names) > 5 else "")
    return f"it has no config.json ({f'there are {there}' if names else 'it is empty'})"


def _small_problem(path: Path) -> str:  # noqa: PLR0911 (a line a kind)
    try:
        content = path.read_bytes()
        if not content.strip():
            return "is empty"
        if path.suffix != ".json":
            kind = kind_of(content[:HEAD_BYTES])
            return f"is {kind}" if kind else ""
        value: Any = json.loads(content)
    except ValueError:
        return f"is {kind_of(content[:HEAD_BYTES]) or 'not JSON, or cut short'}"
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    if not isinstance(value, dict):
        return "is not a JSON object"
    if path.name == "config.json" and not (value.get("model_type") or value.get("auto_map")):
        return "names no model_type" if value.get("architectures") else "names neither model_type nor architectures, so it is no model's"
    return ""


def _shards(folder: Path, weights: list[str]) -> tuple[str, set[str]]:
    """Where it is said which files the weights are in, and their names: an index, or the numbers in the names."""
    kinds = {name.rpartition(".")[2] for name in weights} or {"safetensors", "bin"}
    for index in (INDEX, INDEX_OF_BIN):
        if index.split(".")[1] in kinds and not all(name.startswith("consolidated") for name in weights or [""]):
            try:
                if listed := set(map(str, json.loads((folder / index).read_bytes())["weight_map"].values())):
                    return f"{index} lists", listed
            except (OSError, ValueError, LookupError, TypeError, AttributeError):  # not there, or told of already
                pass
    numbered = [match for name in weights if (match := re.fullmatch(r"(.*-)(\d{5})-of-(\d{5})(\..*)", name))]
    names = {f"{m[1]}{number:05}-of-{m[3]}{m[4]}" for m in numbered for number in range(1, min(int(m[3]), 10_000) + 1)}
    return "the names of the others lead to", names


def _weights_problem(path: Path) -> str:  # noqa: PLR0911 (a line a kind)
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
            if not head:
                return "is empty"
            if path.suffix == ".safetensors":
                file.seek(0)
                problem = _safetensors_problem(file, size)  # first: a header's length may look like anything
                kind = kind_of(head) if problem else None
                return f"is {kind}" if kind else problem
        if path.suffix not in (".bin", ".pt") or head.startswith(b"\x80"):  # a pickle, of torch before 1.6
            return ""
        if head.startswith(b"PK\x03\x04"):
            return "" if zipfile.is_zipfile(path) else f"is cut short: its {size:,} bytes have a beginning, and no end"
        return f"is {kind_of(head) or 'not a file of torch.save'}"
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"


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
