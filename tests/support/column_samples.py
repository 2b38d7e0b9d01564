"""Columns of three rows of every Arrow type that a dataset may have, most with a null: what becomes of them?."""

from __future__ import annotations

import datetime
import decimal
import uuid
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

D = decimal.Decimal
WORDS = pa.array(["a", "b"])
AT = datetime.datetime(2024, 2, 29, 23, 59, 59, 123000)


def _array(kind: pa.DataType, values: Any) -> pa.Array:
    return pa.array(values, type=kind)


def _stored(kind: pa.DataType, values: Any) -> pa.Array:
    return pa.ExtensionArray.from_storage(kind, pa.array(values, type=kind.storage_type))


PLAIN: dict[str, pa.Array] = {
    "text": pa.array(["ü図🙂", None, '"\n\x00']),
    "large text": _array(pa.large_string(), ["a", None, ""]),
    "bytes": pa.array([b"\x00\xff", None, b""]),
    "large bytes": _array(pa.large_binary(), [b"a", None, b""]),
    "fixed bytes": _array(pa.binary(2), [b"ab", None, b"cd"]),
    "bool": pa.array([True, None, False]),
    "null": pa.nulls(3),
    "double": pa.array([0.1, None, -0.0]),
    "whole": pa.array([2**63 - 1, None, -(2**63)]),
    "uint64": _array(pa.uint64(), [2**64 - 1, None, 0]),
    "int8": _array(pa.int8(), [-128, None, 127]),
    "float": _array(pa.float32(), [0.1, None, 3e38]),
    "half": pa.array([np.float16(1.5), None, np.float16(-2)], pa.float16()),
    "not finite": pa.array([float("inf"), float("-inf"), float("nan")]),
    "decimal32": _array(pa.decimal32(5, 2), [D("1.50"), None, D("-0.01")]),
    "decimal64": _array(pa.decimal64(12, 2), [D("1.50"), None, D("2")]),
    "decimal128": _array(pa.decimal128(38, 10), [D("1.0000000001"), None, D("-2")]),
    "decimal256": _array(pa.decimal256(76, 0), [D(10**75), None, D(1)]),
    "hundreds": _array(pa.decimal128(5, -2), [D("1500"), None, D("-200")]),
    "date": _array(pa.date32(), [AT.date(), None, datetime.date(1, 1, 1)]),
    "date64": _array(pa.date64(), [AT.date(), None, datetime.date(1970, 1, 1)]),
    "month and day": _array(pa.month_day_nano_interval(), [(1, 2, 3), None, (0, -1, 0)]),
    "list": pa.array([["a", None], None, []]),
    "large list": _array(pa.large_list(pa.int64()), [[1], None, []]),
    "list of nulls": pa.array([[None], None, []]),
    "pairs": _array(pa.list_(pa.int64(), 2), [[1, None], None, [3, 4]]),
    "lists of lists": pa.array([[[1], [], None], None, []]),
    "map": _array(pa.map_(pa.string(), pa.int64()), [[("a", 1), ("a", None)], None, []]),
    "map of dates": _array(pa.map_(pa.date32(), pa.list_(pa.string())), [[(AT.date(), ["x"])], None, []]),
    "struct": pa.array([{"a": 1, "b": [{"c": "x"}]}, None, {"a": None, "b": None}]),
    "empty struct": _array(pa.struct([]), [{}, None, {}]),
    "list of empty structs": _array(pa.list_(pa.struct([])), [[{}, None], None, []]),
    "struct of an empty struct": pa.array([{"a": {}}, None, {"a": None}]),
    "words": pa.array(["u", None, "u"]).dictionary_encode(),
    "struct of words": pa.StructArray.from_arrays([pa.array(["u", None, "v"]).dictionary_encode()], ["w"]),
    "numbers of a dictionary": pa.array([7, None, 7]).dictionary_encode(),
    "union": pa.UnionArray.from_sparse(
        pa.array([0, 1, 0], pa.int8()), [pa.array([1, None, 3]), pa.array([None, "b", None])]
    ),
    "dense union": pa.UnionArray.from_dense(
        pa.array([0, 1, 0], pa.int8()), pa.array([0, 0, 1], pa.int32()), [pa.array([1.5, 3]), pa.array([b"b"])]
    ),
    "uuid": _stored(pa.uuid(), [uuid.UUID(int=1).bytes, None, uuid.UUID(int=2**127).bytes]),
    "json": _stored(pa.json_(), ['{"a":1}', None, "[]"]),
    "bool8": _stored(pa.bool8(), [1, None, 0]),
    "opaque": _stored(pa.opaque(pa.int32(), "thing", "vendor"), [1, None, 3]),
    "may not be null": _array(pa.struct([pa.field("a", pa.int64(), nullable=False)]), [{"a": 1}, None, {"a": 2}]),
    "another item name": _array(pa.list_(pa.field("element", pa.string(), nullable=False)), [["a"], None, []]),
}
for unit in ("s", "ms", "us", "ns"):
    PLAIN[f"time stamp, {unit}"] = pa.array([AT, None, datetime.datetime(1969, 12, 31)], pa.timestamp("us")).cast(
        pa.timestamp(unit), safe=False
    )
    for zone in ("UTC", "Europe/Berlin", "+05:30"):
        PLAIN[f"time stamp, {unit}, {zone}"] = PLAIN[f"time stamp, {unit}"].cast(pa.timestamp(unit, zone))
    PLAIN[f"duration, {unit}"] = pa.array([-1, None, 86_400_001], pa.int64()).cast(pa.duration(unit))
    PLAIN[f"time, {unit}"] = _array(pa.time32(unit) if unit in ("s", "ms") else pa.time64(unit), [1, None, 86_399])

# Of these, Arrow cannot select rows.
ENCODED: dict[str, pa.Array] = {
    "text view": _array(pa.string_view(), ["a", None, "a text of more than twelve bytes"]),
    "bytes view": _array(pa.binary_view(), [b"a", None, b"b" * 20]),
    "list view": _array(pa.list_view(pa.string()), [["a", None], None, []]),
    "large list view": _array(pa.large_list_view(pa.string_view()), [["a"], None, []]),
    "list of text views": _array(pa.list_(pa.string_view()), [["a", None], None, []]),
    "two text views": _array(pa.list_(pa.string_view(), 2), [["a", None], None, ["b", "c"]]),
    "struct of a text view": _array(pa.struct([("a", pa.string_view())]), [{"a": "x"}, None, {"a": None}]),
    "map of text views": _array(pa.map_(pa.string_view(), pa.string_view()), [[("a", "b")], None, []]),
    "words of views": pa.DictionaryArray.from_arrays(pa.array([0, None, 1]), WORDS.cast(pa.string_view())),
    "structs of a dictionary": pa.DictionaryArray.from_arrays(pa.array([0, None, 0]), pa.array([{"a": 1}])),
    "runs": pa.compute.run_end_encode(pa.array(["a", "a", None])),
    "runs of words": pa.RunEndEncodedArray.from_arrays(
        pa.array([1, 3], pa.int32()), pa.array(["a", "b"]).dictionary_encode()
    ),
    "runs of text views": pa.RunEndEncodedArray.from_arrays(
        pa.array([2, 3], pa.int32()), pa.array(["a", None], pa.string_view())
    ),
    "list of a union": pa.ListArray.from_arrays(pa.array([0, 2, None, 3], pa.int32()), PLAIN["union"]),
    "struct of a list of a union": pa.StructArray.from_arrays(
        [pa.ListArray.from_arrays([0, 1, 1, 3], PLAIN["dense union"]), PLAIN["bytes"], PLAIN["date"]], ["u", "b", "d"]
    ),
    "list of structs of numbers of a dictionary": pa.ListArray.from_arrays(
        [0, 2, 2, 3], pa.StructArray.from_arrays([PLAIN["numbers of a dictionary"]], ["a"])
    ),
    "lists of nothing": _array(pa.list_(pa.int64(), 0), [[], None, []]),
}


def rays() -> dict[str, pa.Array]:
    """Those that Ray Data has for Python objects and arrays."""
    from ray.data.extensions import ArrowPythonObjectArray, ArrowTensorArray, ArrowVariableShapedTensorArray

    return {
        "tensors": ArrowTensorArray.from_numpy(np.arange(12).reshape(3, 2, 2)),
        "tensors of fractions": ArrowTensorArray.from_numpy(np.array([[0.5, np.nan], [1, 2], [np.inf, 3]], np.float32)),
        "tensors of other shapes": ArrowVariableShapedTensorArray.from_numpy(
            [np.zeros((1, 2)), np.ones((2, 1)), np.ones((0, 2))]
        ),
        "Arrow's tensors": _stored(pa.fixed_shape_tensor(pa.int32(), [2]), [[1, 2], [3, 4], [5, 6]]),
        "objects": ArrowPythonObjectArray.from_objects([{1, 2}, {"a": (1, b"x")}, complex(1, 2)]),
    }
