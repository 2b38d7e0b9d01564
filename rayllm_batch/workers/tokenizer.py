"""A model's tokenizer: loaded, checked, and kept by the process that uses it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

import numpy as np

from rayllm_batch.errors import ConfigError, EngineError, one_line
from rayllm_batch.model.files import download_model
from rayllm_batch.model.folder import read_object

if TYPE_CHECKING:
    from rayllm_batch.workers.prompts import PromptJob

# Of these architectures, tokenizer_config.json names the class that AutoTokenizer would give, and these classes load
# without torch: in 1 s instead of 6, and into 80 MB instead of 410. Of others, AutoTokenizer sometimes knows better.
PLAIN_CLASSES, PLAIN_ARCHITECTURES = ("PreTrainedTokenizerFast", "TokenizersBackend"), ("llama",)


def no_chat_template(tokenizer: str) -> ConfigError:
    return ConfigError(
        f"The tokenizer of {tokenizer!r} has no chat template, so messages cannot be turned into a prompt. "
        "Use the model's instruct version, or set chat_template in the config to a Jinja file."
    )


def beyond_vocabulary(ids: Any, size: Optional[int]) -> Optional[str]:
    """The error of a row with a token id that the model lacks. size: of its vocabulary; None where any will do."""
    if size is None or not len(ids) or (most := int(np.max(ids))) < size:
        return None
    what = f"the token id {most:,} is beyond the model's vocabulary of {size:,}"
    return f"tokenize: {what}: is the tokenizer another model's?"


def pooled_too_long(tokens: int, most: int) -> str:
    """Of a text whose every token is read, with no answer after it."""
    how = "shorten it, or set truncate_prompt_tokens in pooling_params to cut such texts"
    return f"the text has {tokens:,} tokens, but max_model_len is {most:,}; {how}"


def tokenizer_of(job: PromptJob) -> Any:
    # Loading takes seconds and a task handles one block, so a worker process keeps its tokenizer, also for the next
    # run. This module reaches workers by value and is rebuilt for each task: another module's namespace outlives it.
    cache = sys.__dict__.setdefault("_rayllm_batch_tokenizer", {})
    # What the user has changed in a folder since is another tokenizer.
    files = [file for file in Path(job.tokenizer).glob("*") if file.suffix in (".json", ".jinja", ".model")]
    state = sorted((file.name, file.stat().st_mtime_ns) for file in files)
    key = repr((job.tokenizer, job.tokenizer_kwargs, job.chat_template, state))
    if key not in cache:
        cache.clear()
        cache[key] = load_tokenizer(job)
    return cache[key]


def decode(token_ids: list[int], job: PromptJob) -> str:
    """The text of a prompt's tokens, special tokens included and nothing tidied up."""
    return tokenizer_of(job).decode(token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def load_tokenizer(job: PromptJob) -> Any:
    """The model's tokenizer, with the job's chat template if it has one; raises EngineError for the driver."""
    folder = _tokenizer_folder(job)
    try:
        if _is_plain(Path(folder)):
            from transformers import PreTrainedTokenizerFast

            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        else:
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(folder, **job.tokenizer_kwargs)
    except Exception as error:
        raise EngineError(f"The tokenizer of {job.tokenizer!r} cannot be loaded: {one_line(error)}") from None
    if job.chat_template is not None:
        tokenizer.chat_template = job.chat_template
    elif not getattr(tokenizer, "chat_template", None):  # of a processor, as some models that see had it until 2025
        tokenizer.chat_template = read_object(Path(folder) / "chat_template.json").get("chat_template")
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:  # tokenizer.json may carry padding or truncation, which generation must not have
        backend.no_padding()
        backend.no_truncation()
    return tokenizer


def _is_plain(folder: Path) -> bool:
    """Whether AutoTokenizer would load this folder as a PreTrainedTokenizerFast."""
    config, own = read_object(folder / "config.json"), read_object(folder / "tokenizer_config.json")
    return (
        (folder / "tokenizer.json").is_file()
        and config.get("model_type") in PLAIN_ARCHITECTURES
        and own.get("tokenizer_class") in PLAIN_CLASSES
        and "auto_map" not in own
    )


def load_decoder(job: PromptJob) -> Any:
    """For the echo engine: what decodes token ids, if possible without transformers, whose import takes seconds."""
    path = os.path.join(_tokenizer_folder(job), "tokenizer.json")
    if os.path.isfile(path):
        from tokenizers import Tokenizer

        return Tokenizer.from_file(path)
    return load_tokenizer(job)


def _tokenizer_folder(job: PromptJob) -> str:
    return model_folder(job.tokenizer, job)


def model_folder(model: str, job: PromptJob) -> str:
    """Its small files on this node, without the weights. model: of the job, a Hub id or a folder."""
    import ray

    env = ray.get(job.monitor.environment.remote()) if job.monitor is not None else {}
    # "dummy" weights: none, only what a tokenizer needs. The engine on this node finds these files in the cache.
    revision = job.tokenizer_kwargs.get("revision")
    return download_model(model, env.get("HF_TOKEN"), revision=revision, load_format="dummy")
