"""Typed answers in a folder's files, as others read them: the same values, of the same types, whichever part has which."""

from __future__ import annotations

import enum
import glob
import json
import re
from pathlib import Path
from typing import Any, Optional

import numpy as np
import pyarrow as pa
import pytest
from pydantic import BaseModel

from rayllm_batch import ChatWorkloadBase
from rayllm_batch.data.column_types import has_nested_integers
from rayllm_batch.data.row_id import row_ids
from rayllm_batch.engine.base import Reply
from rayllm_batch.output import run_columns
from rayllm_batch.output.fingerprint import Job
from rayllm_batch.output.folder import OutputFolder
from rayllm_batch.output.part_writer import PartWriter
from rayllm_batch.show import last_words
from rayllm_batch.tasks.base import Answer
from rayllm_batch.tasks.generate import Generate

FORMATS = pytest.mark.parametrize("output_format", ["parquet", "jsonl"])
NUMBERS = pytest.mark.parametrize("n", [1, 3])


class Mood(enum.Enum):
    good, bad = "good", "bad"


class Item(BaseModel):
    name: str
    price: Optional[float] = None
    codes: list[int] = []


class Order(BaseModel):
    mood: Mood
    rank: Optional[int] = None
    items: list[Item]
    tags: list[str]
    grid: list[list[int]]
    note: Optional[str] = None
    never: Optional[float] = None
    best: Optional[Item] = None


EMPTY = Order(mood=Mood.bad, items=[], tags=[], grid=[])
PLAIN = Order(
    mood=Mood.good,
    rank=2**53 + 1,
    items=[Item(name="ré\n", price=1.0, codes=[1, 2]), Item(name="")],
    tags=["02134", "2024-01-02"],
    grid=[[], [1, 2]],
    note="2024-01-02",
    best=Item(name="x", price=2),
)
# A part each: the first has but empty lists and nulls; the last failed.
PARTS: list[list[Optional[Order]]] = [[EMPTY, EMPTY], [PLAIN, EMPTY], [None]]


def task(n: int) -> Generate:
    class Orders(ChatWorkloadBase):
        output_schema = Order
        sampling_params = {"n": n, "temperature": 1.0}  # noqa: RUF012

    return Generate().of(Orders(), {})


def answer(of: Generate, order: Optional[Order]) -> Answer:
    made = Answer(10)
    text = "none" if order is None else order.model_dump_json()
    several = (text, "cut off", text)[: of.seats] if of.seats > 1 else ()
    made.replied(Reply(text, 5, "stop", texts=several, finish_reasons=("stop",) * len(several)))
    if order is None:
        made.error = "answer: it is no JSON"
    else:
        made.values = of.read_reply(of.request([1], None), made.reply)
    return made


def expected(n: int) -> dict[str, Any]:
    """By id; plain values."""
    orders = [order for part in PARTS for order in part]
    values = [None if order is None else order.model_dump(mode="json") for order in orders]
    return {f"0{i}": value if n == 1 or value is None else [value, None, value] for i, value in enumerate(values)}


def folder_of(path: Path, n: int, output_format: str) -> tuple[Generate, list[str], pa.Schema]:
    """Its task, its files, and the schema of the Dataset that run() returns."""
    of, number = task(n), 0
    with OutputFolder(path, Job({"model_id": "m"}), output_format) as folder, PartWriter(folder) as writer:
        for part in PARTS:
            table = pa.table({"id": [f"0{number + i}" for i in range(len(part))]})
            number += len(part)
            table = run_columns.with_row_ids(table, row_ids(table, "id")).drop_columns([run_columns.FINISHED_IDS])
            writer.add(run_columns.with_answers(table, [answer(of, order) for order in part], of))
            writer._flush()
        schemas = {piece.schema for pieces in folder.pieces() for piece in pieces}
    assert len(schemas) == 1, "all parts have one"
    files = sorted(map(str, path.glob(f"*-*.{output_format}")))
    assert len(files) == 3
    return of, files, pa.ipc.read_schema(pa.BufferReader(schemas.pop()))


def plain(value: Any) -> Any:
    if isinstance(value, (np.ndarray, list, tuple)):
        return list(map(plain, value))
    if isinstance(value, dict):
        return {name: plain(its) for name, its in value.items()}
    return value.item() if isinstance(value, np.generic) else value


def by_id(rows: Any) -> dict[str, Any]:
    return {row["id"]: plain(row["parsed"]) for row in rows}


def same(found: dict[str, Any], n: int) -> None:
    assert repr(dict(sorted(found.items()))) == repr(expected(n)), "1.0 is not 1"


@NUMBERS
@FORMATS
def test_in_pyarrow(n: int, output_format: str, tmp_path: Path) -> None:
    import pyarrow.dataset

    of, files, schema = folder_of(tmp_path / "out", n, output_format)
    assert schema.field("parsed").type == of.schema.field("parsed").type
    kind = "parquet" if output_format == "parquet" else "json"
    given = None if output_format == "parquet" else schema
    table = pyarrow.dataset.dataset(files, format=kind, schema=given).to_table()
    assert table.schema.field("parsed").type == of.schema.field("parsed").type
    same(by_id(table.to_pylist()), n)


@NUMBERS
@FORMATS
def test_in_pandas(n: int, output_format: str, tmp_path: Path) -> None:
    import pandas as pd

    path = tmp_path / "out"
    _, files, schema = folder_of(path, n, output_format)
    said = last_words.of_folder(
        *(5, 1, "", {}),
        path=str(path),
        output_format=output_format,
        alike=True,
        id_column=None,
        nested_integers=has_nested_integers(schema.field("parsed").type),
    )
    (code,) = re.findall(r"its row: (.*)\.$", said, re.MULTILINE)
    found = eval(
        code, {"pd": pd, "glob": glob, "json": json}
    )  # by default, pandas has floats for integers beside nulls
    same(by_id(found.to_dict("records")), n)


@NUMBERS
@FORMATS
def test_in_datasets(n: int, output_format: str, tmp_path: Path) -> None:
    import datasets

    of, files, schema = folder_of(tmp_path / "out", n, output_format)
    if output_format == "parquet":
        found = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    else:  # load_dataset("json") has a type of its own for each file, and makes times of texts
        features = datasets.Features.from_arrow_schema(schema)
        rows = [json.loads(line) for file in files for line in Path(file).read_text(encoding="utf-8").splitlines()]
        found = datasets.Dataset.from_list(rows, features=features)
    assert found.features.arrow_schema.field("parsed").type == of.schema.field("parsed").type
    same(by_id(found), n)


@NUMBERS
@FORMATS
def test_in_polars(n: int, output_format: str, tmp_path: Path) -> None:
    polars = pytest.importorskip("polars")
    _, files, schema = folder_of(tmp_path / "out", n, output_format)
    types = polars.from_arrow(schema.empty_table()).schema
    found = polars.read_parquet(files) if output_format == "parquet" else polars.read_ndjson(files, schema=types)
    assert found.schema == types
    same(by_id(found.to_dicts()), n)


ITEM = 'STRUCT("name" VARCHAR, price DOUBLE, codes BIGINT[])'
ORDER = (
    f"STRUCT(mood VARCHAR, rank BIGINT, items {ITEM}[], tags VARCHAR[], grid BIGINT[][], note VARCHAR, "
    f"never DOUBLE, best {ITEM})"
)


@NUMBERS
@FORMATS
def test_in_duckdb(n: int, output_format: str, tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    _, files, schema = folder_of(tmp_path / "out", n, output_format)
    typed = duckdb.from_arrow(schema.empty_table())
    columns = dict(zip(typed.columns, map(str, typed.types), strict=True))
    reader = f"read_parquet({files})" if output_format == "parquet" else f"read_json({files}, columns={columns})"
    found = duckdb.sql(f"select id, parsed, typeof(parsed) as kind from {reader}").fetchall()
    assert {kind for *_, kind in found} == {ORDER + "[]" * (n > 1)}
    same({name: plain(value) for name, value, _ in found}, n)


def test_a_line_has_every_field_also_those_that_are_null(tmp_path: Path) -> None:
    """Whoever guesses the types from some lines sees them all."""
    of, files, schema = folder_of(tmp_path / "out", 1, "jsonl")
    for file in files:
        for line in Path(file).read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            assert list(row) == schema.names
            assert row["parsed"] is None or list(row["parsed"]) == [one.name for one in of.schema.field("parsed").type]
