"""Arrow columns that hold exactly the values they are made of: of Python's own, as JSON gives them, and of other columns.

Where no Arrow type does, a column is one of Python objects, as ray.data.from_items makes them: of text and numbers,
of 1 beside 2.5, which would be 1.0, of dicts with other keys, which would have each other's, of whole numbers of more
than 64 bits.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from itertools import accumulate, chain
from typing import Any, Optional

import pyarrow as pa

types = pa.types
DEEPEST = 32  # lists and dicts in each other; with 64, Arrow cannot send a column to another process


def column_of(values: list[Any]) -> pa.Array:
    """None, str, bool, int, float, and lists and dicts of them."""
    array = _array_of(values)
    return objects(values) if array is None else array


def objects(values: list[Any]) -> pa.Array:
    from ray.data.extensions import ArrowPythonObjectArray

    return ArrowPythonObjectArray.from_objects(values)


def _array_of(values: list[Any], depth: int = 0) -> Optional[pa.Array]:  # noqa: PLR0911 (a line a kind)
    kinds = set(map(type, values)) - {type(None)}
    if depth == DEEPEST:
        return None
    if kinds == {dict}:
        return _structs(values, depth)
    if kinds == {list}:
        items = _array_of(list(chain.from_iterable(value for value in values if value is not None)), depth + 1)
        if items is None:
            return None
        ends = accumulate((0 if value is None else len(value) for value in values), initial=0)
        absent = pa.array([value is None for value in values])
        return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), items, mask=absent if absent.true_count else None)
    if len(kinds) > 1:
        return None
    kind = {str: pa.string(), bool: pa.bool_(), int: pa.int64(), float: pa.float64()}[kinds.pop()] if kinds else pa.null()
    try:
        return pa.array(values, kind)
    except OverflowError:
        try:
            return pa.array(values, pa.uint64())
        except OverflowError:
            return None
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can write and UTF-8 cannot
        return None


def _structs(values: list[Optional[dict[str, Any]]], depth: int) -> Optional[pa.Array]:
    names = next(value.keys() for value in values if value is not None)
    if any(value is not None and value.keys() != names for value in values):
        return None
    if not names:
        return pa.array(values, pa.struct([]))
    columns = []
    for name in names:
        column = _array_of([None if value is None else value.get(name) for value in values], depth + 1)
        if column is None:
            return None
        columns.append(column)
    try:
        return pa.StructArray.from_arrays(columns, list(names), mask=pa.array([value is None for value in values]))
    except UnicodeEncodeError:  # in a key
        return None


def together(tables: list[pa.Table]) -> pa.Table:
    """One table of all rows and all columns; what a table lacks is null."""
    columns_of = [dict(zip(table.column_names, table.columns, strict=True)) for table in tables]
    lacking = [pa.chunked_array([pa.nulls(table.num_rows)]) for table in tables]
    whole = {}
    for name in dict.fromkeys(chain.from_iterable(columns_of)):
        columns = [given.get(name, nothing) for given, nothing in zip(columns_of, lacking, strict=True)]
        kind = functools.reduce(common_type, (column.type for column in columns))
        cast = [_exactly(column, kind) for column in columns]
        if len({column.type for column in cast}) > 1:
            cast = [_exactly(column, None) for column in columns]
        whole[name] = pa.chunked_array(list(chain.from_iterable(column.chunks for column in cast)), type=cast[0].type)
    return pa.table(whole)


def steady(tables: Iterable[pa.Table], names: Iterable[str] = ()) -> Iterator[pa.Table]:
    """The tables, each column with a type that goes together with its earlier ones: Ray Data joins them as they come.

    names: columns that each table has, if only with nulls.
    """
    known: dict[str, pa.DataType] = dict.fromkeys(names, pa.null())
    for table in tables:
        columns = dict(zip(table.column_names, table.columns, strict=True))
        for name, column in columns.items():
            if types.is_null(column.type):
                continue
            before = known.get(name, pa.null())
            kind = common_type(before, column.type) or before
            if kind != column.type:
                columns[name] = _exactly(column, kind)
            known[name] = columns[name].type
        lacking = {name: pa.nulls(table.num_rows) for name in known if name not in columns}
        yield pa.table({**columns, **lacking}) if lacking or known else table


def common_type(one: Optional[pa.DataType], other: Optional[pa.DataType]) -> Optional[pa.DataType]:
    """The type for the values of both, as they are."""
    if one is None or other is None:
        return None
    if one == other or types.is_null(other):
        return one
    if types.is_null(one):
        return other
    if isinstance(one, pa.BaseExtensionType) or isinstance(other, pa.BaseExtensionType):
        return None
    try:
        kind = pa.unify_schemas([pa.schema([("", one)]), pa.schema([("", other)])], promote_options="permissive").field(0).type
    except pa.ArrowException:
        return None
    return kind if _fits(one, kind) and _fits(other, kind) else None


def _fits(kind: pa.DataType, into: pa.DataType) -> bool:
    if kind == into or types.is_null(kind):
        return True
    if types.is_struct(kind):
        same = kind.num_fields == into.num_fields
        return same and all(_fits(field.type, into.field(field.name).type) for field in kind)
    if types.is_list(kind) or types.is_large_list(kind):
        return _fits(kind.value_type, into.value_type)
    if types.is_integer(kind):
        return types.is_integer(into) and (types.is_signed_integer(into) == types.is_signed_integer(kind) or kind.bit_width < into.bit_width)
    same = (types.is_floating, types.is_timestamp, types.is_duration, types.is_time)
    text = types.is_string(kind) and types.is_large_string(into)
    return text or types.is_binary(kind) and types.is_large_binary(into) or any(is_kind(kind) and is_kind(into) for is_kind in same)


def _exactly(column: pa.ChunkedArray, kind: Optional[pa.DataType]) -> pa.ChunkedArray:
    """The column with that type, or with Python objects where that would change a value."""
    if column.type == kind:
        return column
    try:
        if kind is not None and common_type(column.type, kind) == kind:
            return column.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # a whole number that a float does not hold
        pass
    return pa.chunked_array([objects(column.to_pylist())])
