"""The echo engine's answer to pooling requests, through the CPU stage and the output's columns. Without Ray."""

from __future__ import annotations

from typing import Any

import numpy as np
import pooled_rows
import pyarrow as pa
import pytest

from rayllm_batch.engine.echo import EchoEngine
from rayllm_batch.tasks.base import Task


def answered(task: str, rows: list[dict[str, Any]], fields: Any = None, **engine_kwargs: Any) -> pa.Table:
    async def engine(_: Task) -> EchoEngine:
        return EchoEngine({"max_model_len": 16}, None)

    config = pooled_rows.config_of("assets/demo-model", task, engine_kwargs=engine_kwargs)
    return pooled_rows.answered(config, engine, rows, **(fields or {}))


def test_equal_texts_have_equal_vectors_and_those_alike_are_near() -> None:
    texts = ["the harbour was closed", "the harbour was closed", "the harbour was open", "money", "too long " * 20]
    table = answered("embed", [{"prompt": text} for text in texts], {"embedding_dtype": "float16"})
    assert table.schema.field("embedding").type == pa.list_(pa.float16(), 256)
    *found, long = table.to_pylist()
    vectors = [np.array(row["embedding"], np.float32) for row in found]
    assert np.array_equal(vectors[0], vectors[1]) and vectors[0] @ vectors[0] == pytest.approx(1, abs=1e-2)
    assert vectors[0] @ vectors[2] > 0.5 > abs(vectors[0] @ vectors[3])
    assert long["embedding"] is None and "max_model_len is 16; shorten it" in long["error"]


def test_scores_and_classes() -> None:
    table = answered(
        "score", [{"query": "harbour", "documents": ["money", "harbour"]}, {"query": "a", "document": "a"}]
    )
    several, one = table.to_pylist()
    assert several["scores"][0] < several["scores"][1] == pytest.approx(1, abs=1e-5) and several["score"] is None
    assert one["score"] == pytest.approx(1, abs=1e-5) and one["scores"] is None
    names = {"hf_overrides": {"id2label": {0: "sea", 1: "money"}}, "convert": "classify"}
    fields = {"pooling_params": {"truncate_prompt_tokens": 8}}
    [row] = answered("classify", [{"prompt": "harbour " * 50}], fields, **names).to_pylist()
    assert sum(row["probabilities"]) == pytest.approx(1, abs=1e-5) and row["label"] in ("sea", "money")
    assert row["truncated"] is True and row["num_input_tokens"] == 8
