"""What a model's files say of the numbers that it gives: how many, what they stand for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

from rayllm_batch.errors import ConfigError
from rayllm_batch.model.folder import read_object

HIDDEN_SIZES = ("hidden_size", "d_model", "n_embd", "dim")  # as one architecture or another calls it
DENSE = ("sentence_transformers.models.Dense", "pylate.models.Dense.Dense")  # as vLLM's try_get_dense_modules has them
LATE = re.compile("Col(BERT|Pali|Qwen)")  # in the names of architectures, as vLLM has them
OWN_HEADS = ("ForSequenceClassification", "ForRanking", "ForRewardModel")


def embedding_size(config: Mapping[str, Any], folder: Optional[Path]) -> int:
    """As vLLM's ModelConfig.embedding_size finds it. Raises ConfigError where the files do not say."""
    if token_by_token := _late_interaction(config, folder):
        raise ConfigError(
            "This model gives a vector for each token, not one a text, and compares texts token by token (ColBERT's "
            f"way; its files say {token_by_token}), which no task here does. Use an embedding model or a reranker; or "
            "vLLM's server, whose /pooling gives the vectors."
        )
    text = config.get("text_config") or {}
    sizes = [config.get("embedding_size"), _dense_size(folder)]
    sizes += [part.get(name) for part in (text, config) for name in HIDDEN_SIZES]
    for size in sizes:
        if isinstance(size, int) and size > 0:
            return size
    raise ConfigError(
        "How many numbers an embedding has cannot be read of the model's config.json here, and it decides the output's "
        "column. Set it: engine_kwargs: {hf_overrides: {embedding_size: 768}}."
    )


def _late_interaction(config: Mapping[str, Any], folder: Optional[Path]) -> str:
    """What tells that it is such a model; "" of others."""
    names = [str(name) for name in config.get("architectures") or []]
    kinds = [str(one.get("type")) for one in _modules(folder)]
    found = [name for name in names if LATE.search(name)] + [kind for kind in kinds if kind.startswith("pylate.")]
    return found[0] if found else ""


def _modules(folder: Optional[Path]) -> list[dict[str, Any]]:
    """Of sentence-transformers, and of what is made like it."""
    listed: Any = None if folder is None else _json_of(folder / "modules.json")
    modules = listed.get("modules", []) if isinstance(listed, dict) else listed or []
    return [one for one in modules if isinstance(one, dict)]


def _dense_size(folder: Optional[Path]) -> Optional[int]:
    if folder is None:
        return None
    dense = [one for one in _modules(folder) if one.get("type") in DENSE]
    sizes = [read_object(folder / str(one.get("path", "")) / "config.json").get("out_features") for one in dense]
    return next((size for size in reversed(sizes) if size), None)


def _json_of(path: Path) -> Any:
    import json

    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def check_dimensions(asked: int, config: Mapping[str, Any], size: int) -> None:
    """Raises ConfigError where the model was not trained to have its embeddings cut there."""
    listed = config.get("matryoshka_dimensions")
    if not listed and not config.get("is_matryoshka"):
        raise ConfigError(
            f"dimensions={asked} cuts embeddings, but the model's config.json does not say that it was trained for "
            "that (Matryoshka). Remove it from pooling_params; or, where the model's card says so, set engine_kwargs: "
            "{hf_overrides: {is_matryoshka: true}}."
        )
    if listed and asked not in listed or asked > size:
        known = f"one of {', '.join(map(str, listed))}" if listed else f"at most {size}"
        raise ConfigError(f"dimensions in pooling_params must be {known} for this model, given {asked}.")


def has_classes(config: Mapping[str, Any], convert: Any) -> bool:
    """Whether it is a classifier, as far as its files say. convert: of engine_kwargs."""
    if convert in ("classify", "embed"):
        return convert == "classify"
    return any(str(name).endswith(OWN_HEADS) for name in config.get("architectures") or [])


def labels(config: Mapping[str, Any]) -> list[str]:
    """In the order of the model's outputs; LABEL_0 and on, as transformers has it, where they have no names."""
    tokens, names = config.get("classifier_from_token"), config.get("id2label")
    if tokens:  # made of a model that generates, of the probabilities of these tokens
        is_one = config.get("method") == "from_2_way_softmax" or config.get("is_original_qwen3_reranker")
        return ["LABEL_0"] if is_one else [str(token) for token in tokens]
    count = config.get("num_labels")
    if isinstance(names, dict) and names and count in (None, len(names)):
        by_id = {int(key): str(name) for key, name in names.items()}
        return [by_id.get(number, f"LABEL_{number}") for number in range(len(by_id))]
    return [f"LABEL_{number}" for number in range(count if isinstance(count, int) and count > 0 else 2)]
