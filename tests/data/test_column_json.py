"""Every kind of value is JSON, and again what it was."""

from __future__ import annotations

import collections
import datetime
import decimal
import enum
import json
import uuid
import zoneinfo
from typing import Any

import numpy as np
import pandas
import pyarrow as pa
import pytest
from column_samples import PLAIN, rays

from rayllm_batch.data.column_json import _object_json, foreign, from_json, from_jsonl, to_json, to_jsonl
from rayllm_batch.data.column_values import objects, plain

NAMES = [*PLAIN, "tensors", "tensors of fractions", "tensors of other shapes", "Arrow's tensors", "objects"]


@pytest.mark.parametrize("name", NAMES)
def test_a_column_of_any_type(name: str) -> None:
    given = PLAIN[name] if name in PLAIN else rays()[name]
    array = plain(pa.chunked_array([given])).chunk(0)
    for part in (array, array.slice(1), array.slice(2), array.slice(0, 0)):
        back = from_json(json.loads(json.dumps(to_json(part), allow_nan=False)), part.type)
        back.validate(full=True)
        assert repr(back.to_pylist()) == repr(part.to_pylist()) and (
            back.type == part.type or pa.types.is_union(part.type)
        )


SHOWN = {
    "half": [1.5, None, -2.0],
    "not finite": ["Infinity", "-Infinity", "NaN"],
    "bytes": ["AP8=", None, ""],
    "hundreds": ["1.5E+3", None, "-2E+2"],
    "map": [[["a", 1], ["a", None]], None, []],
    "time stamp, ms": ["2024-02-29 23:59:59.123", None, "1969-12-31 00:00:00.000"],
    "time stamp, ms, Europe/Berlin": ["2024-02-29 23:59:59.123Z", None, "1969-12-31 00:00:00.000Z"],
    "duration, ms": ["-1 day, 23:59:59.999", None, "1 day, 0:00:00.001"],
    "uuid": ["00000000-0000-0000-0000-000000000001", None, "80000000-0000-0000-0000-000000000000"],
    "month and day": [[1, 2, 3], None, [0, -1, 0]],
    "union": [1, "b", 3],
    "empty struct": [{}, None, {}],
    "words": ["u", None, "u"],
    "tensors": [[[0, 1], [2, 3]], [[4, 5], [6, 7]], [[8, 9], [10, 11]]],
}


@pytest.mark.parametrize("name", SHOWN)
def test_what_it_looks_like(name: str) -> None:
    assert to_json(PLAIN[name] if name in PLAIN else rays()[name]) == SHOWN[name]


def test_what_an_earlier_version_wrote_is_read() -> None:
    schema = pa.schema(
        [("took", pa.duration("us")), ("at", pa.timestamp("us", "UTC")), ("x", pa.float64()), ("odd", pa.time64("us"))]
    )
    line = {
        "took": "1 day, 0:00:01.500000",
        "at": "2024-01-02 00:00:00.000006+00:00",
        "x": None,
        "odd": {"not": "a time"},
    }
    (row,) = from_jsonl(json.dumps(line).encode() + b"\n", schema).to_pylist()
    assert (
        row["took"] == datetime.timedelta(days=1, seconds=1.5)
        and row["at"].isoformat() == "2024-01-02T00:00:00.000006+00:00"
    )
    assert row["x"] is None and row["odd"] == {"not": "a time"}


def test_values_beyond_what_text_says() -> None:
    for array in (
        pa.array([10**8, 3], pa.int32()).cast(pa.date32()),
        pa.array([2**60, -(2**60)]).cast(pa.timestamp("s", "UTC")),
    ):
        assert from_json(json.loads(json.dumps(to_json(array))), array.type).equals(array)
    latin = pa.array([b"caf\xe9", "é".encode()]).view(pa.string())
    content = to_jsonl(pa.table({"c": latin}))
    assert content.decode("utf-8") and from_jsonl(content, pa.schema([("c", pa.string())])).column("c").chunk(0).equals(
        latin
    )


class Colour(enum.IntEnum):
    RED = 1


Point = collections.namedtuple("Point", "x y")

OBJECTS = [
    1,
    True,
    "a",
    2**70,
    -0.0,
    float("nan"),
    float("-inf"),
    b"\xff",
    [1, [b"x", None]],
    {"a": {"b": datetime.date(2024, 1, 1)}},
    {1: "x", (1, 2): None},
    {"__type__": "date", "value": "no date"},
    (1, (2,)),
    {1, 2},
    frozenset({b"x"}),
    decimal.Decimal("1E+5"),
    uuid.UUID(int=7),
    1 + 2j,
    datetime.datetime(2024, 1, 2, 3, tzinfo=datetime.timezone(datetime.timedelta(hours=5, minutes=30))),
    datetime.timedelta(-1, 5, 7),
    datetime.time(1, 2, 3, 4),
    np.arange(6, dtype=np.int16).reshape(2, 3),
    np.array(["a", "bc"]),
    np.array([b"x", None, 2], dtype=object),
    np.array(["2024-01-01"], "datetime64[ns]"),
    np.datetime64("2024-01-01T00:00:00.000000001"),
    np.array(1.5),
    pandas.Timestamp("2024-01-01 00:00:00.000000001"),
    pandas.Timedelta(1, "ns"),
    pandas.Timestamp(7, tz="Europe/Berlin"),
    pandas.NaT,
    datetime.datetime(2024, 7, 1, tzinfo=zoneinfo.ZoneInfo("America/New_York")),
    "lone \ud800 surrogate",
]


@pytest.mark.parametrize("value", OBJECTS, ids=lambda value: f"{type(value).__name__} {value!r:.20}")
def test_a_python_object(value: Any) -> None:
    assert foreign(value) is None
    for array in (objects([value, None]), objects([[value], {"key": value}])):
        content = to_jsonl(pa.table({"c": array}))
        assert repr(from_jsonl(content, pa.schema([("c", array.type)])).column("c").to_pylist()) == repr(
            array.to_pylist()
        )


def test_objects_of_kinds_derived_from_those_are_of_these() -> None:
    given = [Colour.RED, Point(1, 2), collections.OrderedDict(a=1), np.float32(0.5), np.str_("x"), np.bool_(True)]
    back = from_json(json.loads(json.dumps(to_json(objects(given)))), objects([]).type).to_pylist()
    assert back == given and not any(map(foreign, given))


def test_what_pandas_has_for_a_null_is_one() -> None:
    assert to_json(objects([pandas.NA, [pandas.NA, 1], {"a": pandas.NA}])) == [None, [None, 1], {"a": None}]
    assert foreign([pandas.NA]) is None


@pytest.mark.parametrize(
    "value", [object(), [object()], {"a": (1, object())}, {1: object()}, {(object(),)}, np.array([object()])]
)
def test_objects_that_json_cannot_hold_are_known_and_become_text(value: Any) -> None:
    assert foreign(value) is object
    assert "object" in json.dumps(_object_json(value))


def test_whole_numbers_that_python_writes_no_digits_of() -> None:
    given = [10**6000, -(10**6000), [2**8192], 2**8192 - 1, None]
    column = objects(given)
    assert (
        from_jsonl(to_jsonl(pa.table({"c": column})), pa.schema([("c", column.type)])).column("c").to_pylist() == given
    )


class Speechless:
    def __str__(self) -> str:
        raise RuntimeError("what is not there cannot be said")


def test_an_object_that_has_no_text_ends_no_write() -> None:
    assert to_jsonl(pa.table({"c": objects([Speechless()])})) == b'{"c": "Speechless"}\n'
