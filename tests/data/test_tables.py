"""What load_dataset returns: tables of other libraries become a Ray Dataset, anything else is told the way."""

from __future__ import annotations

import datetime
import io
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
import ray.data

from rayllm_batch.data import columns, streamed_dataset, tables
from rayllm_batch.data.column_values import together
from rayllm_batch.data.tables import as_dataset
from rayllm_batch.errors import DatasetError, WorkloadError


@pytest.fixture
def table_of(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The Arrow table that a Dataset would be made of, without a Ray."""
    monkeypatch.setattr(tables, "in_blocks", lambda table: table)
    monkeypatch.setattr(ray.data, "from_items", lambda rows: rows)
    return lambda given: as_dataset(given, "Work.load_dataset")


def rows(table: pa.Table) -> list[dict[str, Any]]:
    return columns.rows(table)


@pytest.mark.ray
def test_tables_of_other_libraries_become_one(ray_cluster: Any) -> None:
    import datasets

    table = pa.table({"id": list(range(300)), "text": [f"text {n}" for n in range(300)]})
    frame = table.to_pandas()
    frame.index = range(500, 800)
    for given in (
        table,
        frame,
        datasets.Dataset.from_dict(table.to_pydict()),
        table.to_pylist(),
        table.to_batches()[0],
        datasets.Dataset.from_dict(table.to_pydict()).to_iterable_dataset(num_shards=3),
    ):
        made = as_dataset(given, "Work.load_dataset")
        assert (
            isinstance(made, ray.data.Dataset)
            and sorted(made.take_all(), key=lambda row: row["id"]) == table.to_pylist()
        )
        assert made.columns() == ["id", "text"], type(given)


@pytest.mark.ray
def test_one_large_block_is_shared_by_several_tasks(ray_cluster: Any) -> None:
    frame = pd.DataFrame({"n": range(3000), "text": ["long"] * 3000})
    given = ray.data.from_pandas(frame)
    assert given.num_blocks() == 1
    spread = as_dataset(given, "Work.load_dataset")
    assert spread.num_blocks() == 8 and [row["n"] for row in spread.take_all()] == list(range(3000))

    for enough in (ray.data.from_pandas(frame[:200]), ray.data.range(3000), spread):
        assert as_dataset(enough, "Work.load_dataset") is enough


@pytest.mark.ray
def test_values_are_those_that_were_before_in_several_blocks_too(ray_cluster: Any) -> None:
    """Of which Arrow has no type, or not one for all."""
    frame = pd.DataFrame({"n": range(600), "o": [{"a": 1}, "x", None] * 200, "a": [np.arange(3)] * 600})
    given = ray.data.from_pandas([frame, pd.DataFrame({"n": ["late"] * 400})])
    spread = as_dataset(given, "Work.load_dataset")
    assert spread.num_blocks() > given.num_blocks()
    before, after = given.take_all(), spread.take_all()
    assert [row["n"] for row in after] == [*range(600), *["late"] * 400]
    assert [repr(row) for row in after] == [repr(row) for row in before]


def test_a_named_index_is_a_column(table_of: Any) -> None:
    frame = pd.DataFrame({"text": ["a", "b"]}, index=pd.Index([7, 8], name="id"))
    assert rows(table_of(frame)) == [{"id": 7, "text": "a"}, {"id": 8, "text": "b"}]
    two = frame.set_index("text", append=True).assign(n=1)
    assert table_of(two).column_names == ["id", "text", "n"]
    frame["id"] = [1, 2]  # both: the column counts
    assert rows(table_of(frame)) == [{"text": "a", "id": 1}, {"text": "b", "id": 2}]


def test_values_of_a_data_frame(table_of: Any) -> None:
    when = datetime.datetime(2024, 3, 1, 10, 30)
    given = {
        "kinds": [1, "x", None, [2]],
        "gaps": [1.5, np.nan, 2.0, 3.0],
        "text": ["a", None, "", "NA"],
        "ids": [2**64, 1, None, "7"],
        "when": [when, None, when, when],
        "bytes": [b"\xff", "a", None, b""],
        "arrays": [np.array([1, 2]), None, "x", [3]],
        "missing": [pd.NA, 5, "x", None],
    }
    plain = ("gaps", "when", "text")
    frame = pd.DataFrame(
        {name: pd.Series(values, dtype=None if name in plain else object) for name, values in given.items()}
    )
    found = rows(table_of(frame))
    for name, values in given.items():
        for row, value in zip(found, values, strict=True):
            if isinstance(value, np.ndarray):
                assert list(row[name]) == list(value)
            elif pd.api.types.is_scalar(value) and pd.isna(value):
                assert row[name] is None, (name, row[name])
            else:
                assert row[name] == value and isinstance(row[name], type(value)), (name, row[name])


DATE, NOON = datetime.date(2024, 3, 1), datetime.datetime(2024, 3, 1, 12)
MIXED = {
    "times": [DATE, NOON],
    "zones": [NOON, NOON.replace(tzinfo=datetime.timezone.utc)],
    "texts": ["a", b"b"],
    "in lists": [[DATE], [NOON]],
    "in dicts": [{"at": NOON}, {"at": DATE}],
    "in vectors": [[float("nan"), 0.5], [1.5]],
    "whole": [2**70, 1],
}


@pytest.mark.parametrize("name", MIXED)
def test_values_of_several_kinds_are_what_they_were(name: str, table_of: Any) -> None:
    """Arrow alone makes a date of a time beside a date, local time of UTC, text of bytes."""
    values = MIXED[name]
    for given in (pd.DataFrame({"x": pd.Series(values, dtype=object)}), [{"x": value} for value in values]):
        assert repr([row["x"] for row in rows(table_of(given))]) == repr(values), type(given)


def test_rows_as_dicts(table_of: Any) -> None:
    at = NOON.replace(tzinfo=datetime.timezone.utc)
    found = rows(table_of([{"at": at, 1: "x"}, {"at": None, "late": [1]}]))
    assert [str(row["at"]) for row in found] == ["2024-03-01 12:00:00+00:00", "None"]
    assert [row["1"] for row in found] == ["x", None] and [row["late"] for row in found] == [None, [1]]


def test_columns_of_polars_that_arrow_has_not(table_of: Any) -> None:
    pl = pytest.importorskip("polars")
    ids = [uuid.UUID(int=1), None]
    frame = pl.DataFrame(
        {"id": pl.Series(ids, dtype=pl.Object), "n": pl.Series([2**100, None], dtype=pl.Int128), "t": ["a", None]}
    )
    for given in (frame, frame.lazy()):
        assert rows(table_of(given)) == [{"id": ids[0], "n": 2**100, "t": "a"}, {"id": None, "n": None, "t": None}]
    for dtype, values in ((pl.Object, MIXED["times"]), (pl.List(pl.Int128), [[2**100], []])):
        assert [row["x"] for row in rows(table_of(pl.DataFrame({"x": pl.Series(values, dtype=dtype)})))] == values


def test_an_index_that_is_more_than_numbers_is_a_column(table_of: Any) -> None:
    by_name = pd.DataFrame.from_dict({"id-1": ["a"], "id-2": ["b"]}, orient="index", columns=["text"])
    assert rows(table_of(by_name)) == [{"index": "id-1", "text": "a"}, {"index": "id-2", "text": "b"}]
    by_two = pd.DataFrame({"text": ["a"]}, index=pd.MultiIndex.from_tuples([(7, "x")]))
    assert rows(table_of(by_two)) == [{"level_1": "x", "text": "a"}]
    assert rows(table_of(by_name.reset_index(drop=True)[1:])) == [{"text": "b"}], "it numbers the rows"


def test_rows_that_a_function_makes_as_they_are_taken(table_of: Any) -> None:
    import datasets

    given = datasets.Dataset.from_dict({"text": ["a", "b"], "n": [1, 2]})
    loud = given.with_transform(lambda rows: {"text": [text.upper() for text in rows["text"]]})
    assert rows(table_of(loud)) == [{"text": "A"}, {"text": "B"}]
    assert table_of(given.with_format("numpy", columns=["text"])).column("text").to_pylist() == ["a", "b"]


def test_a_stream_whose_types_change(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(streamed_dataset, "ROWS_AT_ONCE", 2)

    def stream(*values: Any) -> Any:
        return datasets.IterableDataset.from_generator(lambda: iter([{"x": value} for value in values]))

    for values in ([1, 2, "a", "b"], [None, None, "a"], [2**53 + 1, 2, 0.5], [{"a": 1}, {"a": 2}, {"b": 1}]):
        found = together(list(streamed_dataset._tables(stream(*values))))
        assert repr([row["x"] for row in rows(found)]) == repr(values)
    for values in ([2**70], [1, "a"]):
        with pytest.raises(DatasetError, match=r"values of several types, or not in all rows.*given.cast"):
            list(streamed_dataset._tables(stream(*values)))
    with pytest.raises(KeyError):  # of the user's own function
        list(streamed_dataset._tables(stream(1).map(lambda row: {"y": row["z"]})))


def test_names_of_columns_are_text(table_of: Any) -> None:
    assert table_of(pd.DataFrame([[1, "a"]])).column_names == ["0", "1"]


@pytest.mark.parametrize(
    "given",
    [
        pd.DataFrame([["a", "b"]], columns=["text", "text"]),
        pd.DataFrame([["a", "b"]], columns=["1", 1]),
        pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]),
    ],
)
def test_two_columns_of_one_name(given: Any, table_of: Any) -> None:
    with pytest.raises(DatasetError, match="several columns of the name '(text|1)'"):
        table_of(given)


class Elsewhere:
    """A table of a library that is not installed here."""


def of(library: str, kind: str) -> Any:
    return type(kind, (Elsewhere,), {"__module__": f"{library}.frame"})()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (None, "None. Does it end without a return"),
        ("rows.jsonl", "set dataset_file"),
        (Path("rows.csv"), "set dataset_file"),
        ({"text": ["a"]}, "pyarrow.table"),
        ([], "without any row"),
        ([1, 2], "whose first element is a int"),
        (("a", "b"), "element is a str"),
        ([[1]], "list of dicts"),
        (({"text": n} for n in range(3)), "list\\(...\\)"),
        (np.zeros((2, 2)), "from_numpy"),
        (5, "from_items"),
        (pd.Series([1]), "from_pandas"),
        (of("pyspark", "DataFrame"), "from_spark"),
        (of("dask", "DataFrame"), "from_dask"),
        (of("polars", "Series"), "LazyFrame"),
        (of("torch", "TensorDataset"), "from_torch"),
        (of("_duckdb", "DuckDBPyConnection"), "sql\\(...\\) returns"),
        (pa.array([1]), "RecordBatchReader"),
    ],
)
def test_what_is_no_table_is_told_the_way(given: Any, words: str) -> None:
    with pytest.raises(
        WorkloadError, match=f"Work.load_dataset must return a ray.data.Dataset, but returned .*{words}"
    ):
        as_dataset(given, "Work.load_dataset")


def test_several_splits_are_no_table() -> None:
    import datasets

    table = datasets.Dataset.from_dict({"text": ["a"]})
    for given in (
        datasets.DatasetDict(train=table, test=table),
        datasets.IterableDatasetDict(train=table.to_iterable_dataset(), test=table.to_iterable_dataset()),
    ):
        words = f"returned a {type(given).__name__} of datasets, of several splits.*train, test.*given\\['train'\\]"
        with pytest.raises(WorkloadError, match=words):
            as_dataset(given, "Work.load_dataset")


TYPED = pa.table(
    {
        "text": pa.array(["a", None, "c"], pa.large_string()),
        "kind": pa.array(["x", "y", "x"]).dictionary_encode(),
        "price": pa.array([Decimal("1.50"), None, Decimal("2.25")], pa.decimal128(10, 2)),
        "nested": [{"a": [1]}, {"a": []}, None],
        "at": pa.array([datetime.datetime(2024, 1, 2)] * 3, pa.timestamp("us")),
    }
)


def test_tables_keep_their_types(table_of: Any, tmp_path: Path) -> None:
    """decimals, categories, nested values; what is lazy is read."""
    polars, duckdb = pytest.importorskip("polars"), pytest.importorskip("duckdb")

    expected = TYPED.to_pylist()
    pa.parquet.write_table(TYPED, tmp_path / "typed.parquet")
    frame = polars.from_arrow(TYPED)
    connection = duckdb.connect()
    connection.register("typed", TYPED)
    for given in (
        frame,
        frame.lazy().filter(polars.col("price").is_null() | (polars.col("price") > 0)),
        connection.sql("select * from typed where text is null or text != 'z'"),
        pa.RecordBatchReader.from_batches(TYPED.schema, TYPED.to_batches()),
        pa.dataset.dataset(tmp_path / "typed.parquet"),
        TYPED,
    ):
        made = table_of(given)
        assert rows(made) == expected, type(given)
        assert made.schema.field("price").type == pa.decimal128(10, 2) and "struct" in str(
            made.schema.field("nested").type
        )
        assert pa.types.is_dictionary(made.schema.field("kind").type) or "duckdb" in type(given).__module__


def png(grey: int) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new("L", (2, 2), grey).save(file, "PNG")
    return file.getvalue()


def test_images_are_their_bytes(table_of: Any) -> None:
    """Of a Dataset and of its stream, also mapped and taken from; a streamed column has one type."""
    import datasets

    from rayllm_batch.data.streamed_dataset import _tables

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    columns = {"image": [{"bytes": png(i), "path": None} for i in range(5)], "label": [0, 1, 0, 1, 0]}
    given = datasets.Dataset.from_dict(columns, features=features)
    expected = [{"image": image, "label": label} for image, label in zip(*columns.values(), strict=True)]
    assert rows(table_of(given)) == expected
    stream = given.to_iterable_dataset(num_shards=2)
    assert rows(pa.concat_tables(_tables(stream))) == expected
    assert [row["label"] for t in _tables(stream.filter(lambda row: row["label"]).take(1)) for row in rows(t)] == [1]
    [mapped] = _tables(stream.take(2).map(lambda row: {"twice": row["label"] * 2}))
    assert mapped.column("twice").to_pylist() == [0, 2] and mapped.column("image")[1].as_py()["bytes"][:4] == b"\x89PNG"
    mixed = datasets.IterableDataset.from_generator(lambda: iter([{"a": 1}, {"a": "x"}]))
    with pytest.raises(DatasetError, match=r"values of several types.*given.cast"):
        list(_tables(mixed))


def test_rows_of_a_dataset_that_was_filtered(table_of: Any) -> None:
    import datasets

    given = datasets.Dataset.from_dict({"n": list(range(10))}).filter(lambda row: row["n"] % 3 == 0).select([3, 1])
    assert rows(table_of(given)) == [{"n": 9}, {"n": 3}]
