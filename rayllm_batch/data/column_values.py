"""Arrow columns that hold exactly the values they are made of: Python's own, as JSON gives them, or other columns'.

Where no Arrow type does, a column is one of Python objects, as ray.data.from_items makes them: of text and numbers,
of 1 beside 2.5, which would be 1.0, of dicts with other keys, which would have each other's, of whole numbers of more
than 64 bits.
"""

from __future__ import annotations

import contextlib
import functools
import math
import pickle
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, Optional

import numpy as np
import pyarrow as pa

from rayllm_batch.data.column_types import common_type, is_list, is_objects, is_tensor, objects_type, plain_type
from rayllm_batch.errors import is_deep

types = pa.types
DEEPEST = 32  # lists and dicts in each other; with 64, Arrow cannot send a column to another process
NULLS = ("NAType", "NaTType")  # of pandas


def is_null(value: Any) -> bool:
    """Of a cell: nothing, or what tables have in its place."""
    return value is None or (isinstance(value, float) and math.isnan(value)) or type(value).__name__ in NULLS


def column_of(values: list[Any]) -> pa.Array:
    """None, str, bool, int, float, and lists and dicts of them."""
    array = _array_of(values)
    return objects(values) if array is None else array


def column_of_any(values: list[Any]) -> pa.Array:
    """Any Python objects: of Arrow's own choice of a type where that holds each value, a 1 beside 2.5 as 1.0.

    Left alone, it makes a date of the time beside a date, bytes of the text beside bytes, and forgets zones.
    """
    try:
        if not any(is_deep(value, DEEPEST) for value in values):
            array = pa.array(values)
            if _has_numbers_alone(array.type) or _is_equal(values, array.to_pylist()):
                return array
    except Exception:  # of several kinds, or nothing that Arrow has; or its comparison is the user's code
        pass
    return objects(values)


def table_of_any(rows: Iterable[Mapping[Any, Any]]) -> pa.Table:
    """Of any Python objects; what a row lacks is null."""
    rows = list(rows)
    names = dict.fromkeys(chain.from_iterable(rows))
    return pa.table({str(name): column_of_any([row.get(name) for row in rows]) for name in names})


def _has_numbers_alone(kind: pa.DataType) -> bool:
    """Of which Arrow makes no others: vectors need no look at each of their numbers."""
    if types.is_list(kind):
        return _has_numbers_alone(kind.value_type)
    return types.is_integer(kind) or types.is_floating(kind)


def _is_equal(given: Any, found: Any) -> bool:
    """Whether what Arrow found in a value is all that was in it; it may be more: null for each key that others have."""
    if isinstance(given, (np.ndarray, np.generic)):
        given = given.tolist()
    if isinstance(given, Mapping):
        return all(_is_equal(value, found.get(key)) for key, value in given.items())
    if isinstance(given, (list, tuple, set, frozenset, deque)):
        return len(given) == len(found) and all(map(_is_equal, given, found))
    if isinstance(given, (bytearray, memoryview)):
        return bytes(given) == found
    if isinstance(given, float) and math.isnan(given):
        return isinstance(found, float) and math.isnan(found)
    return bool(given == found)


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
        return lists(items, lengths(values))
    if len(kinds) > 1:
        return None
    fitting = {str: [pa.string()], bool: [pa.bool_()], int: [pa.int64(), pa.uint64()], float: [pa.float64()]}
    for kind in fitting[kinds.pop()] if kinds else [pa.null()]:
        try:
            return pa.array(values, kind)
        except (OverflowError, UnicodeEncodeError):  # half of a surrogate pair, which JSON can write and UTF-8 cannot
            continue
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
        cast = [_exactly_or_objects(column, kind) for column in columns]
        if len({column.type for column in cast}) > 1:
            cast = [_exactly_or_objects(column, None) for column in columns]
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
                columns[name] = _exactly_or_objects(column, kind)
            known[name] = columns[name].type
        lacking = {name: pa.nulls(table.num_rows) for name in known if name not in columns}
        yield pa.table({**columns, **lacking}) if lacking or known else table


def _exactly_or_objects(column: pa.ChunkedArray, kind: Optional[pa.DataType]) -> pa.ChunkedArray:
    """The column with that type, or with Python objects where that would change a value."""
    if column.type == kind:
        return column
    fits = kind is not None and common_type(column.type, kind) == kind
    cast = exactly(column, kind) if fits else None
    return pa.chunked_array([objects(column.to_pylist())]) if cast is None else cast


def exactly(column: pa.ChunkedArray, kind: pa.DataType) -> Optional[pa.ChunkedArray]:
    """The column with this type, or None where a value would not be the same."""
    if column.type == kind:
        return None if is_tensor(kind) and column.null_count else column
    if types.is_null(column.type):  # for some types Arrow has no such cast
        return pa.chunked_array([pa.nulls(len(column), kind)])
    try:
        if is_objects(kind):
            return pa.chunked_array([objects(column.to_pylist())])
        return column.cast(kind)  # refuses what does not fit
    except (pa.ArrowException, OverflowError, ValueError):
        return None


def objects(values: Iterable[Any]) -> pa.Array:
    """A column of Python objects, as Ray Data has them; None is null."""
    stored = [None if value is None else _pickled(value) for value in values]
    return objects_type().wrap_array(pa.array(stored, type=pa.large_binary()))


def _pickled(value: Any) -> bytes:
    try:
        return pickle.dumps(value, protocol=5)
    except (pickle.PicklingError, TypeError, AttributeError):  # Arrow's intervals, named tuples of no module
        if isinstance(value, tuple):
            return pickle.dumps(tuple(value), protocol=5)
        with contextlib.suppress(Exception):  # an int of a notebook's class, alone or in a list, is an int
            return pickle.dumps(pa.array([value]).to_pylist()[0], protocol=5)
        return pickle.dumps(str(value), protocol=5)


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = plain_type(column.type)
    if kind == column.type:
        return column
    return pa.chunked_array([_plain(chunk, kind) for chunk in column.chunks], type=kind)


def _plain(array: pa.Array, kind: pa.DataType) -> pa.Array:  # noqa: PLR0911 (a line a kind)
    given = array.type
    if kind == given:
        return array
    if is_objects(kind):
        return objects(array.to_pylist())
    if types.is_run_end_encoded(given):  # Arrow's run_end_decode lacks most types
        at = np.arange(array.offset, array.offset + len(array))
        return _plain(array.values, kind).take(pa.array(np.searchsorted(array.run_ends.to_numpy(), at, side="right")))
    if types.is_dictionary(given):
        return pa.DictionaryArray.from_arrays(array.indices, _plain(array.dictionary, kind)).dictionary_decode()
    if types.is_struct(given):
        children = [_plain(array.field(i), field.type) for i, field in enumerate(kind)]
        if not children:
            return array.cast(kind)
        return pa.StructArray.from_arrays(children, fields=list(kind), mask=array.is_null())
    if is_list(kind):  # not cast: Arrow's makes empty lists of list views
        large = types.is_large_list(kind)
        made = lists(_plain(array.flatten(), kind.value_type), pa.compute.list_value_length(array), large)
        return made.cast(kind) if types.is_fixed_size_list(given) else made
    if types.is_map(given):
        pairs = pairs_of(array)
        keys, items = pairs.flatten().flatten()
        starts = offsets(pa.compute.list_value_length(pairs), pa.int32())
        return pa.MapArray.from_arrays(starts, _plain(keys, kind.key_type), _plain(items, kind.item_type))
    return array.cast(kind)


def pairs_of(array: pa.MapArray) -> pa.ListArray:
    """A column of maps as one of lists of structs."""
    return array.cast(pa.list_(pa.struct([array.type.key_field, array.type.item_field])))


def lists(items: pa.Array, lengths: pa.Array, large: bool = False) -> pa.Array:
    """Lists of these items, so long, and null where the length is."""
    made = pa.LargeListArray if large else pa.ListArray
    return made.from_arrays(offsets(lengths, pa.int64() if large else pa.int32()), items)


def lengths(values: list[Optional[list[Any]]]) -> pa.Array:
    return pa.array([None if value is None else len(value) for value in values], pa.int64())


def offsets(lengths: pa.Array, kind: pa.DataType) -> pa.Array:
    """Where lists so long begin, and the last one ends; null where the length is."""
    ends = np.cumsum(lengths.fill_null(0).to_numpy(zero_copy_only=False), dtype=np.int64)
    mask = np.append(lengths.is_null().to_numpy(zero_copy_only=False), False)
    return pa.array(np.append([0], ends), kind, mask=mask)
