"""Columns of every type go through what a run does with blocks, whatever types others have; values stay."""

from __future__ import annotations

import datetime
import decimal
import enum
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from column_samples import ENCODED, PLAIN, rays

from rayllm_batch.data import columns
from rayllm_batch.data.column_types import is_objects, is_sure, is_tensor, plain_type, widest
from rayllm_batch.data.column_values import together
from rayllm_batch.data.columns import carried, merged, name_of, rows
from rayllm_batch.data.csv_rows import check_names
from rayllm_batch.data.read_options import BAD_LINE
from rayllm_batch.errors import DatasetError

NAMES = [*PLAIN, *ENCODED, "tensors", "tensors of fractions", "tensors of other shapes", "Arrow's tensors", "objects"]


def sample(name: str) -> pa.Array:
    return {**PLAIN, **ENCODED, **(rays() if name not in {*PLAIN, *ENCODED} else {})}[name]


def known(**kinds: pa.DataType) -> pa.Schema:
    return pa.schema(list(kinds.items()))


def values(table: pa.Table, column: str = "c") -> str:
    return told(row[column] for row in rows(table))


def told(found: Iterable[Any]) -> str:
    """As text: NaN is not equal to itself, nor can arrays be compared so, and 1 must not be 1.0."""
    # What Python cannot pickle becomes the tuple that it is.
    return repr([tuple(value) if type(value).__name__ == "MonthDayNano" else value for value in found])


def joined(*tables: pa.Table) -> pa.Table:
    """What Ray Data makes of blocks in which no column has two types."""
    return pa.concat_tables(tables, promote_options="default").combine_chunks()


@pytest.mark.parametrize("name", NAMES)
def test_a_column_of_the_known_type_keeps_its_name_and_its_values(name: str) -> None:
    given = pa.table({"c": sample(name)})
    schema = known(c=plain_type(given.schema.field("c").type))
    for table in (given, given.slice(1), given.slice(0, 0), pa.concat_tables([given, given.slice(2)])):
        there = carried(table, schema)
        there.validate(full=True)
        assert there.schema == schema and values(there) == told(table.column("c").to_pylist())
        assert carried(there, schema) is there and merged(there) is there
        chosen = there.take(pa.array(range(there.num_rows)[::-1], pa.int64())).filter(
            pa.array([True] * there.num_rows, pa.bool_())
        )
        assert values(chosen) == told(table.column("c").to_pylist()[::-1])
        joined(there, pa.table({"c": pa.nulls(1, schema.field("c").type)}))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("other", ["double", "text", "map", "null", "nothing"])
def test_blocks_of_two_types_are_joined_and_both_kinds_of_values_stay(name: str, other: str) -> None:
    given = pa.table({"c": sample(name)})
    first = (
        pa.table({"n": [1]})
        if other == "nothing"
        else pa.table({"n": [1, 2], "c": pa.array(PLAIN[other].to_pylist()[1:], PLAIN[other].type)})
    )
    schema = first.schema
    blocks = [carried(first, schema), carried(given, schema), carried(given.slice(1), schema), carried(first, schema)]
    assert all(name_of(name) in ("c", "n") for block in blocks for name in block.column_names)
    table = joined(*blocks)
    of_first = first.column("c").to_pylist() if other != "nothing" else [None]
    wanted = [*of_first, *given.column("c").to_pylist(), *given.column("c").to_pylist()[1:], *of_first]
    assert values(table) == told(wanted), "what parse_row gets"
    end = merged(table)
    assert end.column_names == ["n", "c"]
    end.validate(full=True)
    if is_tensor(end.schema.field("c").type):
        assert end.column("c").null_count == 0, "Ray Data fails to give out such rows"
    if pa.types.is_floating(end.schema.field("c").type):  # 1.0 for 1
        assert len(end) == len(wanted)
    elif not pa.types.is_decimal(end.schema.field("c").type):
        assert values(end) == told(wanted)


MIXED = {
    "whole numbers": (pa.array([1, None]), pa.array([2], pa.int8()), pa.int64(), [1, None, 2]),
    "signed and not": (pa.array([2**64 - 1], pa.uint64()), pa.array([-1]), None, [2**64 - 1, -1]),
    "signed and not, small": (pa.array([255], pa.uint8()), pa.array([-1], pa.int8()), pa.int16(), [255, -1]),
    "fractions": (pa.array([0.5]), pa.array([2**53]), pa.float64(), [0.5, 2.0**53]),
    "too many digits": (pa.array([0.5]), pa.array([2**53 + 1]), None, [0.5, 2**53 + 1]),
    "text and bytes": (pa.array(["a"]), pa.array([b"a"]), None, ["a", b"a"]),
    "truth and numbers": (pa.array([True]), pa.array([1]), None, [True, 1]),
    "text and large text": (pa.array(["a"]), pa.array(["b"], pa.large_string()), pa.large_string(), ["a", "b"]),
    "words and text": (pa.array(["a"]).dictionary_encode(), pa.array(["b"]), pa.string(), ["a", "b"]),
    "other keys": (
        pa.array([{"a": 1}, None]),
        pa.array([{"b": "x"}]),
        pa.struct([("a", pa.int64()), ("b", pa.string())]),
        [{"a": 1, "b": None}, None, {"a": None, "b": "x"}],
    ),
    "no keys": (
        pa.array([{}, None]),
        pa.array([{"b": 1}]),
        pa.struct([("b", pa.int64())]),
        [{"b": None}, None, {"b": 1}],
    ),
    "other kinds under a key": (pa.array([{"a": 1}]), pa.array([{"a": "x"}]), None, [{"a": 1}, {"a": "x"}]),
    "lists": (pa.array([[1], None, []]), pa.array([["x"]]), None, [[1], None, [], ["x"]]),
    "lists of nothing yet": (pa.array([[], None]), pa.array([["x"]]), pa.list_(pa.string()), [[], None, ["x"]]),
    "lists of structs": (
        pa.array([[{"a": 1}]]),
        pa.array([[{"b": 2}], None]),
        pa.list_(pa.struct([("a", pa.int64()), ("b", pa.int64())])),
        [[{"a": 1, "b": None}], [{"a": None, "b": 2}], None],
    ),
    "days and times": (
        pa.array([datetime.date(2024, 1, 1)]),
        pa.array([datetime.datetime(2024, 1, 1)]),
        None,
        [datetime.date(2024, 1, 1), datetime.datetime(2024, 1, 1)],
    ),
    "decimals": (
        pa.array([decimal.Decimal("1.5")]),
        pa.array([decimal.Decimal("100.25")]),
        pa.decimal128(5, 2),
        [decimal.Decimal("1.50"), decimal.Decimal("100.25")],
    ),
    "zones": (pa.array([0], pa.timestamp("us")), pa.array([0], pa.timestamp("us", "UTC")), None, None),
}


@pytest.mark.parametrize("name", MIXED)
def test_one_type_where_it_has_every_value_and_python_objects_elsewhere(name: str) -> None:
    one, two, kind, expected = MIXED[name]
    for first, second in ((one, two), (two, one)):
        schema = known(c=plain_type(first.type))
        blocks = joined(carried(pa.table({"c": first}), schema), carried(pa.table({"c": second}), schema))
        assert values(blocks) == told([*first.to_pylist(), *second.to_pylist()]), "what parse_row gets"
        table = merged(blocks)
        found = table.schema.field("c").type
        assert (
            is_objects(found) if kind is None else (found == kind or pa.types.is_struct(kind) or pa.types.is_list(kind))
        )
        if expected is not None and first is one:
            assert values(table) == repr(expected)


def test_a_column_that_comes_late_or_is_missing() -> None:
    schema = known(a=pa.int64())
    table = merged(
        joined(
            *(
                carried(t, schema)
                for t in (pa.table({"a": [1]}), pa.table({"a": [2], "b": ["x"]}), pa.table({"b": ["y"]}))
            )
        )
    )
    assert table.to_pylist() == [{"a": 1, "b": None}, {"a": 2, "b": "x"}, {"a": None, "b": "y"}]


def test_columns_of_one_name_are_refused_by_name() -> None:
    with pytest.raises(DatasetError, match="several columns of the name 'text'.*Rename or drop"):
        carried(pa.table([pa.array([1]), pa.array([2])], names=["text", "text"]), known(text=pa.int64()))


UNREADABLE = {
    "not UTF-8": (pa.array([b"ok", b"caf\xe9"]).view(pa.string()), b"caf\xe9"),
    "a far day": (pa.array([0, 10**8], pa.int32()).cast(pa.date32()), 10**8),
    "a far second": (pa.array([0, 2**60]).cast(pa.timestamp("s")), 2**60),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_value_that_python_cannot_hold_is_an_error_of_its_row(name: str) -> None:
    array, raw = UNREADABLE[name]
    good, bad = rows(carried(pa.table({"n": [1, 2], "c": array}), known(n=pa.int64())))
    assert type(good) is dict and good["n"] == 1
    assert (
        isinstance(bad, columns.UnreadableRow) and "column 'c'" in str(bad.error) and (bad["n"], bad["c"]) == (2, raw)
    )


def test_what_is_sure_needs_no_look_at_the_values() -> None:
    sure = [
        (pa.int8(), pa.int64()),
        (pa.float32(), pa.float64()),
        (pa.string(), pa.large_string()),
        (pa.null(), pa.struct([("a", pa.int64())])),
    ]
    for kind, wider in sure:
        for wrap in (lambda k: k, pa.list_, lambda k: pa.struct([("x", k)]), lambda k: pa.map_(pa.string(), k)):
            assert is_sure(wrap(kind), wrap(wider)) and not is_sure(wrap(wider), wrap(kind))
            assert widest([wrap(kind), wrap(wider)]) == wrap(wider)
    keys = pa.struct([("a", pa.int64())]), pa.struct([("a", pa.int64()), ("b", pa.int64())])
    for kind, wider in (
        keys,
        (pa.decimal128(3, 1), pa.decimal128(5, 2)),
        (pa.int64(), pa.float64()),
        (pa.timestamp("s"), pa.timestamp("ns")),
        (pa.string(), pa.binary()),
        (pa.bool_(), pa.int64()),
    ):
        assert not is_sure(kind, wider)


def test_the_known_types_are_the_datasets_or_those_of_its_first_rows() -> None:
    class Given:
        def __init__(self, schema: Any) -> None:
            self._schema = schema

        def schema(self, fetch_if_missing: bool) -> Any:
            assert not fetch_if_missing, "that would run the dataset"
            if isinstance(self._schema, Exception):
                raise self._schema
            return self._schema and type("Schema", (), {"base_schema": self._schema})

    exact = pa.schema(
        [pa.field("a", pa.string_view(), nullable=False), ("b", pa.list_view(pa.int8()))], metadata={"pandas": "{}"}
    )
    assert columns.reference(Given(exact), []) == known(a=pa.string(), b=pa.list_(pa.int8()))
    first = [{"a": 1, "b": None, "mixed": 1}, {"a": 2, "late": "x", "mixed": "y"}]
    inferred = known(a=pa.int64(), b=pa.null(), late=pa.string())
    for schema in (None, object(), pa.lib.ArrowTypeError("int64 vs string")):
        assert columns.reference(Given(schema), first) == inferred
    twice = pa.schema([("a", pa.int64()), ("a", pa.int64())])
    with pytest.raises(DatasetError, match="'a'"):
        columns.reference(Given(twice), [])


def test_many_columns_do_not_take_their_square() -> None:
    names = [f"column {n}" for n in range(20_000)]
    table = pa.table({name: [1, 2] for name in names})
    begun = time.process_time()
    columns.check_names(names)
    assert together([table, table]).num_columns == 20_000
    block = carried(table, pa.schema([(name, pa.string()) for name in names]))
    merged(block, table.schema)
    assert time.process_time() - begun < 20
    with pytest.raises(DatasetError, match="several columns of the name 'column 0'"):
        check_names([*names, names[0]], "rows.csv")


def test_a_block_of_the_known_types_is_not_touched() -> None:
    table = pa.table({"a": np.arange(1000), "b": ["x"] * 1000}).replace_schema_metadata({"pandas": "{}"})
    assert carried(table, known(a=pa.int64(), b=pa.string())) is table


@pytest.mark.parametrize(
    "name", ["error", "generated_text", "_rayllm_row_id", "_rayllm_other:12345678:text", "_rayllm_bad_line"]
)
@pytest.mark.parametrize("values", [[None, 5, None], [None, "given", None], [None, {"a": 1}, None]])
def test_a_late_column_with_a_name_of_the_output_makes_bad_lines_of_the_rows_that_have_it(
    name: str, values: list[Any]
) -> None:
    if name == BAD_LINE and values[1] == "given":
        return  # as the reader's own
    table = columns.without_taken(pa.table({"n": [1, 2, 3], name: values}), ("generated_text", "error"))
    first, second, third = table.to_pylist()
    assert first == {"n": 1, BAD_LINE: None} and third["n"] == 3 and second["n"] == 2
    assert f"the column {name!r}" in second[BAD_LINE] and "Rename or drop it" in second[BAD_LINE]


def test_bad_lines_keep_their_reason_beside_a_late_column_of_the_output() -> None:
    given = pa.table({"n": [1, 2, None], "error": [None, "mine", "mine"], BAD_LINE: pa.array([None, None, "Line 3"])})
    assert [row[BAD_LINE] and row[BAD_LINE][:20] for row in columns.without_taken(given, ("error",)).to_pylist()] == [
        None,
        "The row has the colu",
        "Line 3",
    ]
    plain = given.drop_columns(["error"])
    assert columns.without_taken(plain, ("error",)) is plain


NOON = datetime.datetime(2024, 1, 2, 12)
UTC_NOON = NOON.replace(tzinfo=datetime.timezone.utc)


class Named(str, enum.Enum):
    ONE = "one"


def nested(levels: int) -> Any:
    return [nested(levels - 1)] if levels else 1


@pytest.mark.parametrize(
    "given",
    [
        [NOON.date(), NOON],
        [NOON, NOON.date()],
        [NOON, UTC_NOON],
        [UTC_NOON, NOON],
        [{"at": NOON}, {"at": UTC_NOON}],
        [[NOON.date(), NOON]],
        [UTC_NOON.timetz()],
        [b"a", "b"],
        ["a", b"b"],
        [["a", b"b"]],
        [{"in": {"it": b"a"}}, {"in": {"it": "b"}}],
        [pd.Timestamp("2024-01-01 00:00:00.123456789"), NOON],
        [nested(90)],
        [1, True],
        [2**53 + 1, 0.5],
        [{"a": 1}, {"a": "one"}, 3],
        [10**30],
        ["\ud800"],
        [{1: 2}],
    ],
)
def test_a_users_values_that_no_type_of_arrows_holds_are_python_objects(given: list[Any]) -> None:
    table = columns.with_values(pa.table({"id": range(len(given))}), [{"c": value} for value in given])
    assert is_objects(table.schema.field(1).type) and values(table) == told(given)


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ([1, 2.5, None], pa.float64()),
        ([float("nan"), None, 1], pa.float64()),
        ([np.float32("nan"), np.float32(0.1)], pa.float32()),
        ([Named.ONE, "two"], pa.string()),
        ([{"a": 1}, {"b": [2.5, float("nan")]}], pa.struct([("a", pa.int64()), ("b", pa.list_(pa.float64()))])),
        ([(1, 2), [3], {4}, None], pa.list_(pa.int64())),
        ([np.arange(3, dtype=np.int16), np.array([], dtype=np.int16)], pa.list_(pa.int16())),
        ([decimal.Decimal("1.5"), decimal.Decimal("2.25")], pa.decimal128(3, 2)),
        ([UTC_NOON, UTC_NOON.astimezone(datetime.timezone(datetime.timedelta(hours=9)))], pa.timestamp("us", "UTC")),
        ([bytearray(b"a"), b"b"], pa.binary()),
        ([None, None], pa.null()),
    ],
)
def test_a_users_values_have_arrows_type_where_it_holds_them(given: list[Any], kind: pa.DataType) -> None:
    table = columns.with_values(pa.table({"id": range(len(given))}), [{"c": value} for value in given])
    assert table.schema.field(1).type == kind


def test_values_of_a_users_own_number_beside_others_stay_numbers() -> None:
    """Of a class that no other process can import, as a notebook's are."""
    size = enum.IntEnum("Size", "SMALL LARGE")  # type: ignore[misc]
    size.__module__, size.__qualname__ = "__main__", "Size"
    given = [size.LARGE, "text", [size.SMALL], {"a": size.LARGE}]  # type: ignore[attr-defined]
    table = columns.with_values(pa.table({"id": range(4)}), [{"c": value} for value in given])
    assert [row["c"] for row in rows(table)] == [2, "text", [1], {"a": 2}]
