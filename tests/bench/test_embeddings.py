"""The embedding benchmark's shapes and judgement. No engine runs here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import embeddings
from rayllm_batch.tasks.model_head import embedding_size


@pytest.mark.parametrize(("shape", "size"), [("bert", 768), ("qwen3", 1024), ("demo", 256)])
def test_a_shape_is_a_folder_with_a_tokenizer(tmp_path: Path, shape: str, size: int) -> None:
    folder = embeddings.make(shape, tmp_path)
    assert embedding_size(json.loads((folder / "config.json").read_text()), folder) == size
    assert (folder / "tokenizer.json").is_file()
    assert ("load_format" in embeddings.engine_kwargs(shape, "H100")) is (shape != "demo")


def test_the_texts_are_the_same_each_time_and_of_many_lengths() -> None:
    given = embeddings.texts(50)
    assert given == embeddings.texts(50) and len(set(given)) == 50
    lengths = [len(text.split()) for text in given]
    assert min(lengths) < 50 and max(lengths) > 150 and max(lengths) <= embeddings.TEXT_WORDS[1]


def test_vectors_that_differ() -> None:
    assert embeddings.differ([[1.0, 2.0], [3.0, 4.0]], [[1.0, 2.5], [3.0, 4.0]]) == 0.5
