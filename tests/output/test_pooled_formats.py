"""Vectors, labels and scores read back of a folder: the same values of the same types, whichever format and part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pooled_rows
import pyarrow as pa
import pytest

from rayllm_batch import init_engine_from_config
from rayllm_batch.data.columns import merged
from rayllm_batch.data.row_id import row_ids
from rayllm_batch.output import run_columns
from rayllm_batch.output.fingerprint import Job
from rayllm_batch.output.folder import OutputFolder
from rayllm_batch.output.part_reader import common_schema
from rayllm_batch.output.part_writer import PartWriter

PAIRS = [{"query": "harbour", "documents": ["the harbour", "money"]}, {"query": "a", "document": "b"}]
KINDS: dict[str, tuple[str, list[dict[str, Any]], dict[str, Any]]] = {
    "float32": ("embed", [{"prompt": "the harbour"}, {"prompt": "money"}], {}),
    "float16": ("embed", [{"prompt": "the harbour"}, {"prompt": "money"}], {"embedding_dtype": "float16"}),
    "cut": ("embed", [{"prompt": "long " * 50}, {"prompt": "a"}], {"pooling_params": {"truncate_prompt_tokens": 16}}),
    "classes": ("classify", [{"prompt": "the harbour"}, {"prompt": "money"}], {}),
    "scores": ("score", PAIRS, {}),
}


def read_back(path: Path, output_format: str, parts: list[pa.Table]) -> pa.Table:
    with OutputFolder(path, Job({"model_id": "m"}), output_format) as folder, PartWriter(folder) as writer:
        for part in parts:
            ids = row_ids(part, "asked")
            writer.add(run_columns.with_row_ids(part, ids).drop_columns([run_columns.FINISHED_IDS]))
            writer._flush()
    with OutputFolder(path, Job({"model_id": "m"}), output_format) as folder:
        pieces = [piece for task in folder.pieces() for piece in task]
        wanted = common_schema(pieces, folder.place.fs, folder.format)
        tables = [merged(piece.read(folder.place.fs, folder.format), wanted) for piece in pieces]
    return pa.concat_tables(tables).sort_by("asked")


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_written_is_read(kind: str, tmp_path: Path) -> None:
    task, rows, fields = KINDS[kind]
    model = "assets/demo-classifier" if task == "classify" else "assets/demo-model"
    given = {"model_id": model, "llm_engine": "echo", "accelerator_type": "CPU", "task": task}
    config = init_engine_from_config({**given, "engine_kwargs": {"max_model_len": 64}})
    rows = [*rows, {"text": "in the wrong key"}]
    whole = pooled_rows.in_echo(config, rows, **fields)
    columns = pooled_rows.task_of(config, **fields).schema
    assert whole.column("error").is_valid().to_pylist() == [False, False, True]
    wanted = whole.sort_by("asked").to_pylist()
    for output_format in ("parquet", "jsonl"):
        parts = [whole.slice(2), whole.slice(0, 1), whole.slice(1, 1)]  # the failed one, whose answers are null, first
        found = read_back(tmp_path / output_format, output_format, parts)
        assert found.to_pylist() == wanted, output_format
        assert {name: found.schema.field(name).type for name in columns.names} == dict(
            zip(columns.names, columns.types, strict=True)
        ), output_format
