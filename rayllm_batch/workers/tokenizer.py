"""A model's tokenizer: loaded, checked, and kept by the process that uses it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, Optional, Protocol

import numpy as np

from rayllm_batch.errors import ConfigError, EngineError, one_line
from rayllm_batch.model.files import download_model

# Of these architectures, tokenizer_config.json names the class that AutoTokenizer would give, and these classes load
# without torch: in 1 s instead of 6, and into 80 MB instead of 410. Of others, AutoTokenizer sometimes knows better.
PLAIN_CLASSES, PLAIN_ARCHITECTURES = ("PreTrainedTokenizerFast", "TokenizersBackend"), ("llama",)


class TokenizerSpec(Protocol):
    """Which tokenizer; a PromptJob has these fields and says what they are."""

    @property
    def tokenizer(self) -> str: ...
    @property
    def tokenizer_kwargs(self) -> dict[str, Any]: ...
    @property
    def chat_template(self) -> Optional[str]: ...
    @property
    def monitor(self) -> Any: ...


def chat_tokenizer(spec: TokenizerSpec) -> Any:
    """The tokenizer with its chat template; raises ConfigError where it has none."""
    tokenizer = tokenizer_of(spec)
    if not getattr(tokenizer, "chat_template", None):
        raise no_chat_template(spec.tokenizer)
    return tokenizer


def no_chat_template(tokenizer: str) -> ConfigError:
    return ConfigError(
        f"The tokenizer of {tokenizer!r} has no chat template, so messages cannot be turned into a prompt. "
        "Use the model's instruct version, or set chat_template in the config to a Jinja file."
    )


def beyond_vocabulary(ids: Any, size: Optional[int]) -> Optional[str]:
    """The error of a row with a token id that the model lacks. size: of its vocabulary; None where any will do."""
    if size is None or not len(ids) or (most := int(np.max(ids))) < size:
        return None
    beyond = f"the token id {most:,} is beyond the model's vocabulary of {size:,}"
    return f"tokenize: {beyond}: is the tokenizer another model's?"


def tokenizer_of(spec: TokenizerSpec) -> Any:
    # Loading takes seconds and a task handles one block, so a worker process keeps its tokenizer, also for the next
    # run. This module reaches workers by value and is rebuilt for each task: another module's namespace outlives it.
    cache = sys.__dict__.setdefault("_rayllm_batch_tokenizer", {})
    key = repr((spec.tokenizer, spec.tokenizer_kwargs, spec.chat_template, _state_of(spec.tokenizer)))
    if key not in cache:
        cache.clear()
        cache[key] = load_tokenizer(spec)
    return cache[key]


def _state_of(tokenizer: str) -> list[tuple[str, int]]:
    """Of the files in a folder: what the user has changed there since is another tokenizer."""
    if not os.path.isdir(tokenizer):
        return []
    with os.scandir(tokenizer) as files:
        read = [file for file in files if file.name.endswith((".json", ".jinja", ".model"))]
        return sorted((file.name, file.stat().st_mtime_ns) for file in read)


def decode(token_ids: list[int], spec: TokenizerSpec) -> str:
    """The text of a prompt's tokens, special tokens included and nothing tidied up."""
    return tokenizer_of(spec).decode(token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def load_tokenizer(spec: TokenizerSpec) -> Any:
    """The model's tokenizer, with the spec's chat template if it has one; raises EngineError for the driver."""
    folder = _tokenizer_folder(spec)
    try:
        tokenizer = _load(folder, spec.tokenizer_kwargs)
    except Exception as error:
        raise EngineError(f"The tokenizer of {spec.tokenizer!r} cannot be loaded: {one_line(error)}") from None
    if spec.chat_template is not None:
        tokenizer.chat_template = spec.chat_template
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:  # tokenizer.json may carry padding or truncation, which generation must not have
        backend.no_padding()
        backend.no_truncation()
    return tokenizer


def _load(folder: str, kwargs: dict[str, Any]) -> Any:
    if _is_plain(Path(folder)):
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast.from_pretrained(folder)
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, **kwargs)


def _is_plain(folder: Path) -> bool:
    """Whether AutoTokenizer would load this folder as a PreTrainedTokenizerFast."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        own = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return (
        (folder / "tokenizer.json").is_file()
        and config.get("model_type") in PLAIN_ARCHITECTURES
        and own.get("tokenizer_class") in PLAIN_CLASSES
        and "auto_map" not in own
    )


def load_decoder(spec: TokenizerSpec) -> Any:
    """For the echo engine: what decodes token ids, if possible without transformers, whose import takes seconds."""
    path = os.path.join(_tokenizer_folder(spec), "tokenizer.json")
    if os.path.isfile(path):
        from tokenizers import Tokenizer

        return Tokenizer.from_file(path)
    return load_tokenizer(spec)


def _tokenizer_folder(spec: TokenizerSpec) -> str:
    import ray

    env = ray.get(spec.monitor.environment.remote()) if spec.monitor is not None else {}
    # "dummy" weights: none, only what a tokenizer needs. The engine on this node finds these files in the cache.
    return download_model(
        spec.tokenizer, env.get("HF_TOKEN"), revision=spec.tokenizer_kwargs.get("revision"), load_format="dummy"
    )
