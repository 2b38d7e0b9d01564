"""Whether a model's folder can be one: what is missing, cut short, or something else, found in its first bytes.

An engine would say so after a minute, under its own start-up lines. A safetensors file begins with the length of its
header (8 bytes), and the header says where the last tensor ends: that is all of its size.
"""

from __future__ import annotations

import json
import re
import struct
import zipfile
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Optional

from rayllm_batch.errors import ConfigError, shown
from rayllm_batch.file_kind import HEAD_BYTES, kind_of

INDEX, INDEX_OF_BIN = "model.safetensors.index.json", "pytorch_model.bin.index.json"
TOKENIZERS = ["tokenizer.json", "tokenizer.model", "tekken.json", "vocab.json", "vocab.txt"]
TOKENIZERS += ["*.model", "*.model.v*", "*.spm", "*.tiktoken"]
MOST_HEADER_BYTES = 100 << 20  # safetensors' own limit
# Of a config.json, what is read of it before an engine reads it all. Some models have lists for numbers, a layer each.
KINDS_IN_CONFIG = {
    **dict.fromkeys(("model_type", "dtype", "torch_dtype"), str),
    **dict.fromkeys(("text_config", "rope_scaling", "rope_parameters", "quantization_config", "auto_map"), dict),
    **dict.fromkeys(("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"), int),
    **dict.fromkeys(("head_dim", "vocab_size", "max_position_embeddings"), int),
    **dict.fromkeys(("architectures", "layer_types"), list),
}
CONFIGS = ["config.json", "generation_config.json", INDEX, INDEX_OF_BIN]
OF_TOKENIZER = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]
OF_TOKENIZER += ["chat_template.jinja", "chat_template.json"]
HOW_AN_ADAPTER = (
    "Set model_id to its base model, lora_config.dynamic_lora_loading_path to the folder above, and let parse_row name "
    'the adapter under "model"'
)


def check_folder(
    folder: Path,
    weights: Optional[list[str]],
    *,
    own_tokenizer: bool = True,
    own_config: bool = True,
    complete: bool = True,
) -> None:
    """Raise ConfigError with all that makes the folder no model.

    weights:       names of the files that the engine reads; None where none are needed.
    own_tokenizer: the tokenizer is this folder's. own_config: so is the model's config.
    complete:      what is not here will not come.
    """
    names = {path.name for path in folder.iterdir() if path.exists()}  # not a link to what is gone
    if own_config and not names & {"config.json", "params.json"}:  # Mistral's own format has the latter
        problems = [_no_config(folder, names)]
    else:
        problems = list(_small_problems(folder, names, own_config, own_tokenizer))
        if weights is not None:
            problems += _weights_problems(folder, names, weights, complete)
    if problems:
        raise ConfigError(f"The model folder {str(folder)!r} cannot be used: {'; '.join(problems)}.")


def _small_problems(folder: Path, names: set[str], own_config: bool, own_tokenizer: bool) -> Iterator[str]:
    tokenizers = sorted(name for name in names if any(fnmatch(name, pattern) for pattern in TOKENIZERS))
    read = [*(CONFIGS if own_config else ()), *(OF_TOKENIZER if own_tokenizer else ())]
    if own_tokenizer and "tokenizer.json" not in names:  # else the others are not read
        read += [*tokenizers, "merges.txt"]
    for name in read:
        if name in names and (problem := small_problem(folder / name)):
            yield f"{name} {problem}"
    has_code = bool(read_object(folder / "tokenizer_config.json").get("auto_map"))  # of a tokenizer of its own
    if own_tokenizer and not tokenizers and not has_code:
        yield f"it has no tokenizer ({', '.join(TOKENIZERS[:3])}, ...)"


def _weights_problems(folder: Path, names: set[str], weights: list[str], complete: bool) -> Iterator[str]:
    listed, shards = _shards(folder, weights)
    if complete and (missing := sorted(shards - names)):
        yield f"{listed} {missing[0]}{f' and {len(missing) - 1} more' if missing[1:] else ''}, which is not there"
    elif complete and not weights:
        yield _no_weights(names)
    for name in weights:
        if problem := weights_problem(folder / name):
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
    if inner := sorted(folder.glob("*/config.json")) or sorted(folder.glob("snapshots/*/config.json")):
        return f"it has no config.json, but {str(inner[0].parent)!r} does: set model_id to that"
    there = ", ".join(sorted(names)[:5]) + (", ..." if len(names) > 5 else "")
    return f"it has no config.json ({f'there are {there}' if names else 'it is empty'})"


def small_problem(path: Path) -> str:  # noqa: PLR0911 (a line a kind)
    try:
        content = path.read_bytes()
        if not content.strip():
            return "is empty"
        if path.suffix != ".json":
            kind = kind_of(content[:HEAD_BYTES])
            return f"is {kind}" if kind else ""
        value: Any = json.loads(content.decode())  # of bytes, json.loads takes UTF-16 and a mark of order too
    except (ValueError, RecursionError):
        return f"is {kind_of(content[:HEAD_BYTES]) or 'not JSON, or cut short'}"
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    if not isinstance(value, dict):
        return "is not a JSON object"
    if path.name in (INDEX, INDEX_OF_BIN) and value.get("weight_map") and not shards_in(value):
        return "has no weight_map, a file's name for each tensor"
    if path.name != "config.json":
        return ""
    for odd in odd_fields(value):
        if KINDS_IN_CONFIG[odd] is not int:
            return f"has a {odd} that is {shown(value[odd], 80)}, but must be of type {KINDS_IN_CONFIG[odd].__name__}"
    if value.get("model_type") or value.get("auto_map"):
        return ""
    if value.get("architectures"):
        return "names no model_type"
    return "names neither model_type nor architectures, so it is no model's"


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file's object; an empty one where there is none, which check_folder tells of."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def odd_fields(config: dict[str, Any]) -> Iterator[str]:
    """Of a config.json, the fields whose values are of another type than is read here."""
    for name, kind in KINDS_IN_CONFIG.items():
        if (value := config.get(name)) is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            yield name


def shards_in(index: dict[str, Any]) -> set[str]:
    """The files that an index lists; none where it is no index."""
    listed = index.get("weight_map")
    files = listed.values() if isinstance(listed, dict) else ()
    return set(files) if all(isinstance(name, str) for name in files) else set()


def _shards(folder: Path, weights: list[str]) -> tuple[str, set[str]]:
    """Where it is said which files the weights are in, and their names: an index, or the numbers in the names."""
    kinds = {name.rpartition(".")[2] for name in weights} or {"safetensors", "bin"}
    for index in (INDEX, INDEX_OF_BIN):
        counts = index.split(".")[1] in kinds and not all(name.startswith("consolidated") for name in weights or [""])
        if counts and (listed := shards_in(read_object(folder / index))):
            return f"{index} lists", listed
    numbered = [match for name in weights if (match := re.fullmatch(r"(.*-)(\d{5})-of-(\d{5})(\..*)", name))]
    names = {f"{m[1]}{number:05}-of-{m[3]}{m[4]}" for m in numbered for number in range(1, min(int(m[3]), 10_000) + 1)}
    return "the names of the others lead to", names


def weights_problem(path: Path) -> str:  # noqa: PLR0911 (a line a kind)
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
        if not head:
            return "is empty"
        if path.suffix == ".safetensors":
            safetensors_header(path)
            return ""
    except ValueError as error:  # first: a header's length may look like anything
        kind = kind_of(head)
        return f"is {kind}" if kind else str(error)
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    if path.suffix not in (".bin", ".pt") or head.startswith(b"\x80"):  # a pickle, of torch before 1.6
        return ""
    if not head.startswith(b"PK\x03\x04"):
        return f"is {kind_of(head) or 'not a file of torch.save'}"
    if zipfile.is_zipfile(path):
        return ""
    return f"is cut short: its {path.stat().st_size:,} bytes have a beginning, and no end"


def safetensors_header(path: Path) -> dict[str, Any]:
    """Of each tensor of a file: dtype, shape and data_offsets. Raises ValueError, with what is wrong with the file."""
    size = path.stat().st_size
    if size < 8:
        raise ValueError(f"is cut short: {size} bytes")
    with open(path, "rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        if length > MOST_HEADER_BYTES:
            raise ValueError("is not a safetensors file, or damaged: the length of its header makes no sense")
        if 8 + length > size:
            raise ValueError(f"is cut short: it has {size:,} bytes, its header alone {8 + length:,}")
        text = file.read(length)
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        end = max((int.__index__(tensor["data_offsets"][1]) for tensor in header.values()), default=0)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        what = "is not a safetensors file, or damaged: its header is not JSON, or not that of tensors"
        raise ValueError(what) from None
    whole = 8 + length + end
    if size != whole:
        raise ValueError(f"is {'cut short' if size < whole else 'damaged'}: it has {size:,} bytes of {whole:,}")
    return header
