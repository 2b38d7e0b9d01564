"""The shapes and texts of the benchmark of pooling models. No engine runs here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import pooled
from rayllm_batch.tasks.model_head import embedding_size, labels


@pytest.mark.parametrize(("shape", "size"), [("bert", 768), ("qwen3", 1024), ("demo", 256)])
def test_a_shape_is_a_folder_with_a_tokenizer(tmp_path: Path, shape: str, size: int) -> None:
    folder = pooled.make(shape, "embed", tmp_path)
    assert embedding_size(json.loads((folder / "config.json").read_text()), folder) == size
    assert (folder / "tokenizer.json").is_file()


def test_a_shape_that_scores_has_one_label(tmp_path: Path) -> None:
    config = json.loads((pooled.make("bert", "score", tmp_path) / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"] and labels(config) == ["LABEL_0"]


def test_the_texts_are_the_same_each_time_and_differ() -> None:
    work = {"words": 95, "rows": 50}
    given = pooled.texts(work)
    assert given == pooled.texts(work) and len(set(given)) == 50
    assert {len(text.split()) for text in given} == {95}
    assert len(set(pooled.queries(work))) == 50


def test_vectors_that_differ() -> None:
    assert pooled.differ([[1.0, 2.0], [3.0, 4.0]], [[1.0, 2.5], [3.0, 4.0]]) == 0.5
