"""Ids travel with the rows, and finished rows leave one marker behind that has every one of them."""

from __future__ import annotations

import datetime
import random
import sys
from collections import Counter
from typing import Any

import pyarrow as pa
import pytest

from rayllm_batch.data.row_id import ID_BYTES, ID_TYPE, RowCounts, as_pairs, row_id
from rayllm_batch.errors import DatasetError
from rayllm_batch.output import run_columns as output
from rayllm_batch.output.finished_rows import FinishedRows
from rayllm_batch.tasks.generate import Generate
from rayllm_batch.workers import prompts as prompt

COLUMNS = {
    "text": pa.array(["a", None]),
    "long": pa.array(["a", "b"], pa.large_string()),
    "number": pa.array([1, 2]),
    "fraction": pa.array([0.5, float("nan")]),
    "list": pa.array([[1], []]),
    "struct": pa.array([{"x": 1, "y": [{"z": "k"}]}, None]),
    "when": pa.array([datetime.datetime(2024, 1, 2), None], pa.timestamp("us", "UTC")),
    "bytes": pa.array([b"\x00", b""]),
    "word": pa.array(["a", "a"]).dictionary_encode(),
    "nothing": pa.nulls(2),
    "map": pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int64())),
    "fixed": pa.array([[1, 2], [3, 4]], pa.list_(pa.int64(), 2)),
    "yes": pa.array([True, False]),
}


@pytest.fixture
def ray_get(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in Ray's store is here itself."""

    class Ray:
        @staticmethod
        def get(stored: Any) -> Any:
            return stored

    monkeypatch.setitem(sys.modules, "ray", Ray)


def job(done: list[bytes] | None, id_column: str | None = None) -> prompt.PromptJob:
    finished = None if done is None else RowCounts(as_pairs(b"".join(done)))
    return prompt.PromptJob(
        parse_row=lambda row: row, tokenizer="", with_row_ids=True, id_column=id_column, finished=finished
    )


def test_ids_go_beside_their_rows() -> None:
    table = output.with_row_ids(pa.table({"a": [1, 2]}), [bytes(16), b"x" * 16])
    assert table.schema.field(output.ROW_ID).type == ID_TYPE
    assert table.column(output.ROW_ID).to_pylist() == [bytes(16), b"x" * 16]
    assert table.column(output.FINISHED_IDS).null_count == 2
    assert output.with_row_ids(pa.table({"a": []}), []).num_rows == 0


def test_a_marker_has_the_columns_of_rows_of_any_type_and_the_ids() -> None:
    """Ray Data joins it with rows in one block, so their types must agree."""
    rows = output.with_row_ids(pa.table(COLUMNS).replace_schema_metadata({"pandas": "{}"}), [bytes(16)] * 2)
    marker = output.finished_marker(rows.schema, [b"1" * 16, b"2" * 16])
    assert marker.num_rows == 1 and marker.schema == rows.schema.remove_metadata()
    assert marker.column(output.FINISHED_IDS).to_pylist() == [b"1" * 16 + b"2" * 16]
    assert all(marker.column(name).null_count == 1 for name in (*COLUMNS, output.ROW_ID))
    joined = pa.concat_tables([rows.cast(marker.schema), marker])
    joined.validate(full=True)
    assert str(joined.slice(0, 2).select(list(COLUMNS)).to_pylist()) == str(pa.table(COLUMNS).to_pylist())


@pytest.mark.usefixtures("ray_get")
@pytest.mark.parametrize("seed", range(20))
def test_finished_rows_are_left_out_and_every_one_is_reported(seed: int) -> None:
    """In batches with duplicates: what is left and what the markers say are together all rows that were read."""
    choose = random.Random(seed)
    values = [choose.randrange(8) for _ in range(choose.choice([1, 5, 60]))]
    done = [row_id({"a": v, "b": "x"}) for v in range(8) if choose.random() < choose.choice([0, 0.5, 1])]
    given, left, seen = job(done), Counter(), FinishedRows(RowCounts(as_pairs(b"".join(done))))
    for start in range(0, len(values), 7):
        table = pa.table({"a": values[start : start + 7], "b": ["x"] * len(values[start : start + 7])})
        rows, marker = prompt._without_finished(table, given)
        assert [row_id({"a": r["a"], "b": r["b"]}) for r in rows.to_pylist()] == rows.column(output.ROW_ID).to_pylist()
        left.update(rows.column("a").to_pylist())
        if marker is not None:
            assert marker.schema == rows.schema
            ids = marker.column(output.FINISHED_IDS).to_pylist()[0]
            assert ids and len(ids) % ID_BYTES == 0
            seen.saw(ids)
    read = Counter(values)
    assert left == Counter({v: n for v, n in read.items() if row_id({"a": v, "b": "x"}) not in done})
    owed = {row_id({"a": v, "b": "x"}): n - 1 for v, n in read.items() if row_id({"a": v, "b": "x"}) in done and n > 1}
    assert seen.owed() == owed
    assert seen.missing().sum() == sum(1 for v in range(8) if row_id({"a": v, "b": "x"}) in done and v not in read)


@pytest.mark.usefixtures("ray_get")
def test_a_run_that_is_not_continued_has_no_marker() -> None:
    table = pa.table({"a": [1, 1, 2]})
    for given in (job(None), job([]), job([row_id({"a": 3})])):
        rows, marker = prompt._without_finished(table, given)
        assert marker is None and rows.num_rows == 3
    rows, marker = prompt._without_finished(table.slice(0, 0), job([row_id({"a": 1})]))
    assert marker is None and rows.num_rows == 0


@pytest.mark.usefixtures("ray_get")
def test_a_batch_that_is_all_finished_is_a_marker_alone() -> None:
    rows, marker = prompt._without_finished(
        pa.table(COLUMNS), job([row_id(row) for row in pa.table(COLUMNS).to_pylist()])
    )
    assert rows.num_rows == 0 and marker.num_rows == 1 and rows.schema == marker.schema
    assert len(marker.column(output.FINISHED_IDS).to_pylist()[0]) == 2 * ID_BYTES


@pytest.mark.usefixtures("ray_get")
def test_an_id_column_alone_says_which_rows_are_finished() -> None:
    rows, marker = prompt._without_finished(
        pa.table({"id": [1, 2], "a": ["new", "y"]}), job([row_id({"id": 1, "a": "old"}, "id")], "id")
    )
    assert rows.column("id").to_pylist() == [2] and marker is not None


def test_columns_of_ours_are_refused_in_the_input() -> None:
    for name in (output.ROW_ID, output.FINISHED_IDS, "error"):
        with pytest.raises(DatasetError, match=name):
            output.check_input_columns(["a", name], Generate())
    output.check_input_columns(["a"], Generate())
