"""Parts are read in the order of reading, or answered rows first, with one type a column whatever part has which."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from column_samples import ENCODED, PLAIN, rays

from rayllm_batch.data.column_types import plain_type
from rayllm_batch.data.columns import carried, merged
from rayllm_batch.data.row_id import row_id
from rayllm_batch.output import part_reader
from rayllm_batch.output.fingerprint import Job
from rayllm_batch.output.folder import OutputFolder
from rayllm_batch.output.part_file import decoded, encoded
from rayllm_batch.output.part_reader import common_schema


def opened(path: Path, output_format: str = "parquet") -> OutputFolder:
    return OutputFolder(path, Job({"model_id": "m"}), output_format)


def store(folder: OutputFolder, kind: str, table: pa.Table) -> None:
    file = encoded(table, folder.format)
    ids = b"".join(map(row_id, table.to_pylist()))
    folder.store(f"{kind}-{folder.next_number():06d}-aaaaaaaa.{folder.format}", file, ids)


def read(folder: OutputFolder) -> list[dict[str, Any]]:
    """As the tasks do it, one after the other."""
    tasks = folder.pieces()
    wanted = common_schema([piece for pieces in tasks for piece in pieces], folder.place.fs, folder.format)
    tables = [table for pieces in tasks for table in part_reader._read(pieces, folder.place.fs, folder.format, wanted)]
    assert all(table.schema == wanted for table in tables)
    assert sum(table.num_rows for table in tables) == folder.rows
    return [row for table in tables for row in table.to_pylist()]


@pytest.mark.parametrize(
    "name", [*PLAIN, "tensors", "tensors of fractions", "tensors of other shapes", "Arrow's tensors", "objects"]
)
@pytest.mark.parametrize("output_format", ["parquet", "jsonl"])
def test_a_file_has_every_type_and_value(name: str, output_format: str) -> None:
    table = merged(pa.table({"n": [0, 1, 2], "c": PLAIN[name] if name in PLAIN else rays()[name]}))
    file = encoded(table, output_format)
    back = decoded(file.content, output_format, file.schema, file.as_text)
    assert back.schema == file.schema and repr(back.to_pylist()) == repr(table.to_pylist())
    assert "n" not in file.as_text


@pytest.mark.parametrize("name", [*PLAIN, *ENCODED])
@pytest.mark.parametrize("output_format", ["parquet", "jsonl"])
def test_and_so_it_has_as_they_travel_and_in_lists_and_structs(name: str, output_format: str) -> None:
    its = {**PLAIN, **ENCODED}[name]
    given = pa.table(
        {
            "itself": its,
            "list": pa.ListArray.from_arrays(pa.array([0, 2, None, 3], pa.int32()), its),
            "struct": pa.StructArray.from_arrays([its, pa.array([b"\xff", None, b""])], ["its", "bytes"]),
        }
    )
    table = merged(carried(given, pa.schema([(field.name, plain_type(field.type)) for field in given.schema])))
    file = encoded(table, output_format)
    back = decoded(file.content, output_format, file.schema, file.as_text)
    assert repr(back.to_pylist()) == repr(given.to_pylist())


def test_a_value_that_parquet_has_not_is_text_where_its_type_is_none_otherwise() -> None:
    far = pa.table({"at": pa.array([2**60]).cast(pa.timestamp("s")), "n": [1]})
    file = encoded(far, "parquet")
    assert file.as_text == ("at",) and decoded(file.content, "parquet", file.schema, file.as_text).equals(far)


@pytest.mark.parametrize("output_format", ["parquet", "jsonl"])
def test_parts_of_an_earlier_version_are_read(tmp_path: Path, output_format: str) -> None:
    """Their headers do not say what is text, and their schemas may have dictionaries that parquet does not keep."""
    table = pa.table(
        {"n": pa.array([7, None, 7]).dictionary_encode(), "at": PLAIN["time stamp, us"], "s": PLAIN["struct"]}
    )
    plain = table.set_column(0, "n", pa.array([7, None, 7]))
    with opened(tmp_path, output_format) as folder:
        ids = b"".join(map(row_id, table.to_pylist()))
        folder.store(
            f"part-000001-aaaaaaaa.{output_format}", replace(encoded(plain, output_format), schema=table.schema), ids
        )
        record = Path(folder.place.inside("rows", f"part-000001-aaaaaaaa.{output_format}.ids"))
        record.write_bytes(record.read_bytes().replace(b', "as_text": []', b""))
    with opened(tmp_path, output_format) as folder:
        assert folder.rows == 3 and b"as_text" not in record.read_bytes() and read(folder) == table.to_pylist()


@pytest.mark.parametrize("output_format", ["parquet", "jsonl"])
@pytest.mark.parametrize("seed", range(6))
def test_the_order_of_reading_is_that_of_the_ids(
    tmp_path: Path, output_format: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows lie in parts in any order; some are in the data several times."""
    monkeypatch.setattr(part_reader, "TASK_BYTES", random.Random(seed).choice([200, 3000, 1 << 20]))
    choose = random.Random(seed)
    numbers = [choose.randrange(60) for _ in range(100)]
    shuffled = choose.sample(numbers, len(numbers))
    with opened(tmp_path, output_format) as folder:
        while shuffled:
            some = [shuffled.pop() for _ in range(min(len(shuffled), choose.choice([1, 7, 30])))]
            store(folder, choose.choice(["part", "failed"]), pa.table({"a": some}))
        assert not folder.has_order and sorted(row["a"] for row in read(folder)) == sorted(numbers)
        folder.write_order(b"".join(row_id({"a": n}) for n in numbers))
        assert folder.has_order and [row["a"] for row in read(folder)] == numbers
    with opened(tmp_path, output_format) as folder:
        assert [row["a"] for row in read(folder)] == numbers
        store(folder, "part", pa.table({"a": [77]}))  # a later run, which did not keep the order
        assert not folder.has_order and sorted(row["a"] for row in read(folder)) == sorted([*numbers, 77])
        folder.write_order(b"".join(row_id({"a": n}) for n in [*numbers, 78]))
        assert sorted(row["a"] for row in read(folder)) == sorted([*numbers, 77]), "an order of other rows is none"


def test_answered_rows_come_before_failed_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_reader, "TASK_BYTES", 1000)
    with opened(tmp_path) as folder:
        for i in range(12):
            store(folder, "failed" if i % 3 == 0 else "part", pa.table({"a": [i] * 3}))
        assert [row["a"] for row in read(folder)][::3] == [1, 2, 4, 5, 7, 8, 10, 11, 0, 3, 6, 9]
        assert len(folder.pieces()) > 1


PARTS = {
    "text, then numbers": (pa.array(["127", "k127"]), pa.array([127, 2**60])),
    "numbers, then text": (pa.array([127]), pa.array(["k127"])),
    "lists, then structs": (pa.array([[1]]), pa.array([{"a": 1}])),
    "bytes, then text": (pa.array([b"x"]), pa.array(["x"])),
    "too many digits": (pa.array([2**53 + 1]), pa.array([0.5])),
    "empty structs, then text": (pa.array([{}]), pa.array(["x"])),
    "kinds under a key": (pa.array([{"a": {"b": 1}}]), pa.array([{"a": {"b": "x"}}])),
    "days, then times": (PLAIN["date"], PLAIN["time stamp, us"]),
    "null, then map": (pa.nulls(2), PLAIN["map"]),
    "a map, then null": (PLAIN["map"], pa.nulls(1)),
    "null, then union": (pa.nulls(1), PLAIN["union"]),
    "half, then double": (PLAIN["half"], PLAIN["double"]),
    "words, then text": (PLAIN["words"], PLAIN["text"]),
}


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("output_format", ["parquet", "jsonl"])
def test_parts_of_other_types_are_read_whatever_comes_first(tmp_path: Path, name: str, output_format: str) -> None:
    """As parts of an earlier version are, and of a run that was continued with other blocks first."""
    one, two = PARTS[name]
    for path, order in ((tmp_path / "one", (one, two)), (tmp_path / "two", (two, one))):
        with opened(path, output_format) as folder:
            for array in order:
                store(folder, "part", pa.table({"c": array}))
            assert repr([row["c"] for row in read(folder)]) == repr(
                [value for array in order for value in array.to_pylist()]
            )


def test_a_column_of_tensors_that_a_part_lacks(tmp_path: Path) -> None:
    with opened(tmp_path) as folder:
        store(folder, "part", pa.table({"c": rays()["tensors"], "n": [1, 2, 3]}))
        store(folder, "part", pa.table({"n": [4]}))
        found = [row["c"] for row in read(folder)]
    assert found[3] is None and np.array_equal(found[2], [[8, 9], [10, 11]])
