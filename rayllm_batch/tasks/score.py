"""How well a document answers a query: a number, or one of each document."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Optional

import numpy as np
import pyarrow as pa

from rayllm_batch.errors import ConfigError, shown
from rayllm_batch.tasks.base import Answer
from rayllm_batch.tasks.model_head import check_dimensions, embedding_size, has_classes, labels
from rayllm_batch.tasks.pooled import Pooled, checked_text


class Score(Pooled):
    """Of a model with one label, what it says of query and document as one prompt (a cross-encoder); of an embedding
    model, the cosine of both embeddings (a bi-encoder). Both columns are there; a row has one of them.
    """

    name = "score"
    answer_column = "score"
    keys: ClassVar[tuple[str, ...]] = ("query", "document", "documents")
    wanted = '{"query": "...", "document": "..."} or {"query": "...", "documents": [...]}'
    converts = ("embed", "classify")
    is_cross = False
    with_separator = True  # by the tokenizer, between the texts of a pair
    with_token_types = False

    def learn(self, config: Mapping[str, Any], folder: Optional[Path], engine_kwargs: Mapping[str, Any]) -> None:
        self.is_cross = has_classes(config, engine_kwargs.get("convert"))
        if not self.is_cross:
            self.size = embedding_size(config, folder)
            if asked := self.settings.get("dimensions"):
                check_dimensions(asked, config, self.size)
                self.size = asked
            return
        self.convert, self.size = "classify", len(labels(config))
        if self.size != 1:
            raise ConfigError(
                f"A model that scores pairs has one label, but this one has {self.size}: "
                f"{', '.join(labels(config)[:10])}. Use a reranker or an embedding model; for labels, task: classify."
            )
        # As vLLM's ModelConfig.use_sep_token: what is made of a model that generates has none between the texts.
        self.with_separator = bool(config.get("use_sep_token", not config.get("classifier_from_token")))
        types = config.get("type_vocab_size")
        self.with_token_types = isinstance(types, int) and types > 1

    def pairs(self) -> bool:
        return self.is_cross

    @property
    def answer_columns(self) -> dict[str, pa.DataType]:
        return {"score": pa.float32(), "scores": pa.list_(pa.float32())}

    def parse_texts(self, given: dict[str, Any]) -> dict[str, Any]:
        query = checked_text(given.get("query"), "query")
        if ("document" in given) is ("documents" in given):
            raise TypeError(f"parse_row must return {self.wanted}, but returned {shown(given)}")
        if "document" in given:
            return {"query": query, "documents": [checked_text(given["document"], "document")]}
        documents = given["documents"]
        if not isinstance(documents, (list, tuple, np.ndarray)) or not len(documents):
            raise TypeError(f'parse_row\'s "documents" must be a list of at least one text, but is {shown(documents)}')
        return {"query": query, "documents": [checked_text(one, "documents") for one in documents], "is_list": True}

    def values(self, answer: Answer) -> dict[str, Any]:
        vectors = answer.reply.vectors  # type: ignore[union-attr]
        scores = [float(vector[0]) for vector in vectors] if self.is_cross else cosines(vectors[0], vectors[1:])
        is_list = "is_list" in json.loads(answer.own_text or "{}")
        return {"scores": scores} if is_list else {"score": scores[0]}

    def for_people(self, row: dict[str, Any]) -> dict[str, Any]:
        told = [row["score"]] if row["scores"] is None else row["scores"]
        if row["score"] is None and row["scores"] is None:
            return row
        return {**row, "score": ", ".join(f"{score:.4f}" for score in told), "scores": None}


def cosines(query: np.ndarray, documents: Sequence[np.ndarray]) -> list[float]:
    lengths = np.linalg.norm(query) * np.linalg.norm(documents, axis=1)
    return (np.asarray(documents) @ query / np.maximum(lengths, 1e-8)).tolist()  # as torch's cosine_similarity
