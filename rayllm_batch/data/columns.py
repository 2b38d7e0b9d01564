"""Input columns of any Arrow type on their way through a run: unchanged, whatever types other blocks have.

Blocks of one dataset may differ: text here and whole numbers there, dicts with other keys, a column that is null in the
first 10,000 rows. Ray Data joins blocks at every stage, and fails, or changes values, where their types differ. So a
block's column keeps its name only where it has the type that the first rows have; else it travels under a name that
tells its type, and one name never has two types. At the end the columns of one name become one again:

- of one type that holds each value exactly, where there is one: int32 and int64, null and anything, dicts with other
  keys (missing ones are null), whole numbers and fractions as long as a float has every digit;
- else Python objects, as ray.data.from_items makes them: each row has the value it came with. In an output folder such
  a column is JSON text (in jsonl simply JSON), which the returned Dataset has as objects again.

Views, run-end and some dictionary encodings become the plain type, which Arrow and Ray can select rows of; values stay.
"""

from __future__ import annotations

import hashlib
import pickle
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Optional

import numpy as np
import pyarrow as pa

from rayllm_batch.data.column_types import is_objects, is_sure, is_tensor, is_text, objects_type, plain_type, widest
from rayllm_batch.data.column_values import column_of_any, exactly, objects, plain
from rayllm_batch.data.read_options import BAD_LINE, RESERVED
from rayllm_batch.errors import DatasetError

if TYPE_CHECKING:
    import ray.data

OTHER = f"{RESERVED}other:"  # then 8 hex digits of the type, a colon, and the column's name

types = pa.types


class UnreadableRow(dict):
    """A row with a value that Python has no object for, such as a date in the year 20000 or text that is not UTF-8.

    error: which column. In place of the value is its number or its bytes.
    """

    error: ValueError


def reference(dataset: ray.data.Dataset, sample: list[dict[str, Any]]) -> pa.Schema:
    """The types under which columns keep their names: the dataset's own if known for free, else the first rows'."""
    try:
        schema = getattr(dataset.schema(fetch_if_missing=False), "base_schema", None)
    except Exception:  # blocks whose types do not go together
        schema = None
    if not isinstance(schema, pa.Schema):
        schema = pa.schema(list(_inferred(sample)))
    check_names(schema.names)
    return pa.schema([(field.name, plain_type(field.type)) for field in schema if field.name != BAD_LINE])


def carry(dataset: ray.data.Dataset, known: pa.Schema, taken: Sequence[str]) -> ray.data.Dataset:
    """The dataset with each block as `carried` makes it, before Ray Data joins blocks."""
    return _each_block(dataset, carried, known=known, taken=taken)


def _each_block(dataset: ray.data.Dataset, make: Callable[..., pa.Table], **how: Any) -> ray.data.Dataset:
    return dataset.map_batches(make, fn_kwargs=how, batch_size=None, batch_format="pyarrow", zero_copy_batch=True)


def without_taken(table: pa.Table, taken: Sequence[str]) -> pa.Table:
    """Without columns of such names: the rows that have a value there are as bad lines.

    The first rows' columns are looked at before a run. What comes later must not end it, nor be taken for an answer.
    """
    names = [name for name in table.column_names if name in taken or name.startswith(RESERVED)]
    why: list[Optional[str]] = [None] * table.num_rows
    if BAD_LINE in names and is_text(table.schema.field(BAD_LINE).type):  # the reader's
        if len(names) == 1:
            return table
        why = table.column(BAD_LINE).to_pylist()
    for name in names:
        ours = f"The row has the column {name!r}, which a run adds or uses. Rename or drop it in load_dataset."
        for i in np.flatnonzero(table.column(name).is_valid().to_numpy()):
            why[i] = why[i] or ours
    return table.drop_columns(names).append_column(BAD_LINE, pa.array(why, pa.string())) if names else table


def check_names(names: Sequence[str], whose: str = "The dataset") -> None:
    """Raise DatasetError when two columns have one name, in which case neither can be told from the other."""
    if twice := sorted(name for name, times in Counter(names).items() if times > 1):
        raise DatasetError(
            f"{whose} has several columns of the name {', '.join(map(repr, twice))}. Rename or drop them before a "
            "Dataset is made of them."
        )


def carried(table: pa.Table, known: pa.Schema, taken: Sequence[str] = ()) -> pa.Table:
    """One block, its columns plain, and under names of their own where they do not have the known type.

    taken: of a block of input, the names that its columns may not have.
    """
    if taken:
        table = without_taken(table, taken)
    if table.schema.equals(known) and not any(is_tensor(column.type) and column.null_count for column in table.columns):
        return table
    check_names(table.column_names)
    columns: dict[str, Any] = {}
    kinds = {field.name: field.type for field in known}
    for name, given in zip(table.column_names, table.columns, strict=True):
        if name.startswith(RESERVED) and not name.startswith(OTHER):
            columns[name] = given
            continue
        column = plain(given)
        if is_tensor(column.type) and column.null_count:
            column = pa.chunked_array([objects(column.to_pylist())])
        wanted = kinds.get(name)
        if wanted is not None and is_sure(column.type, wanted) and (exact := exactly(column, wanted)) is not None:
            column = exact
        columns[name if column.type == wanted else _other_name(name_of(name), column.type)] = column
    for name, known_kind in kinds.items():
        if name not in columns and not name.startswith(OTHER):
            kind = pa.null() if is_tensor(known_kind) else known_kind
            columns[name if kind == known_kind else _other_name(name, kind)] = pa.nulls(table.num_rows, kind)
    return pa.table(columns)


def check_stored(value: Any) -> None:
    """Raise unless a column can hold it: as a type of Arrow's, or pickled."""
    try:
        pa.array([value])
    except Exception:
        pickle.dumps(value)


def with_values(table: pa.Table, values: list[dict[str, Any]]) -> pa.Table:
    """The table and columns of these, a dict a row. Those of other blocks may differ, until the end."""
    for name in dict.fromkeys(name for row in values for name in row):
        column = plain(pa.chunked_array([column_of_any([row.get(name) for row in values])]))
        table = table.append_column(_other_name(name, column.type), column)
    return table


def name_of(column: str) -> str:
    """The name that it came with."""
    return column[len(OTHER) + 9 :] if column.startswith(OTHER) else column


def rows(table: pa.Table) -> list[dict[str, Any]]:
    """The rows of carried blocks as Python objects, the columns as they came; an UnreadableRow where that fails."""
    try:
        found = table.to_pylist()
    except Exception:
        found = _rows_one_by_one(table)
    for column in table.column_names:
        if column.startswith(OTHER):
            name = name_of(column)
            for row in found:
                value = row.pop(column)
                if value is not None or name not in row:
                    row[name] = value
    return found


def merged(table: pa.Table, wanted: Optional[pa.Schema] = None) -> pa.Table:
    """Carried blocks with one column a name again: of the type that holds the values, at least as wide as `wanted`.

    Columns of `wanted` that the table lacks are null.
    """
    if wanted is None and not any(name.startswith(OTHER) for name in table.column_names):
        return table
    kinds = {field.name: [field.type] for field in wanted or ()}
    groups: dict[str, list[pa.ChunkedArray]] = {name: [] for name in kinds}
    for name, column in zip(table.column_names, table.columns, strict=True):
        kinds.setdefault(name_of(name), []).append(column.type)
        groups.setdefault(name_of(name), []).append(column)
    return pa.table({name: _one_column(found, widest(kinds[name]), table.num_rows) for name, found in groups.items()})


def settled(dataset: ray.data.Dataset) -> tuple[ray.data.Dataset, list[str]]:
    """A computed dataset of carried blocks with one column a name, of one type; and what became Python objects."""
    schemas = _schemas(dataset)
    if not any(name.startswith(OTHER) for schema in schemas for name in schema.names):
        return dataset, []
    wanted = together(schemas)
    unsure = set()
    for field in chain.from_iterable(schemas):
        is_late_tensor = field.name.startswith(OTHER) and is_tensor(field.type)
        if is_late_tensor or not is_sure(field.type, wanted.field(name_of(field.name)).type):
            unsure.add(field.name)
    if unsure:
        for table in _each_block(dataset, _those, names=unsure).iter_batches(batch_size=None, batch_format="pyarrow"):
            wanted = fitting(table, wanted)
    return _each_block(dataset, merged, wanted=wanted).materialize(), mixed(schemas, wanted)


def _schemas(dataset: ray.data.Dataset) -> list[pa.Schema]:
    """Each that a block has. Ray Data's own schema is that of the first block of each task that made them."""
    import ray

    ask = ray.remote(_schema_of)
    found = ray.get([ask.remote(block) for block in dataset.get_internal_block_refs()])
    return [pa.ipc.read_schema(pa.py_buffer(schema)) for schema in dict.fromkeys(found)]


def _schema_of(block: pa.Table) -> bytes:
    return block.schema.remove_metadata().serialize().to_pybytes()


def _those(table: pa.Table, names: set[str]) -> pa.Table:
    """And one that is always there, since a block without columns is none."""
    return table.select([name for name in table.column_names if name in names or name == "error"])


def together(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """Of tables with these schemas, once merged: each column with a type for all, as far as their types tell."""
    found: dict[str, dict[pa.DataType, None]] = {}
    for schema in schemas:
        for field in schema:
            found.setdefault(name_of(field.name), {})[field.type] = None
    for name, kinds in found.items():
        if any(map(is_tensor, kinds)) and not all(name in map(name_of, schema.names) for schema in schemas):
            kinds[pa.null()] = None
    return pa.schema([(name, widest(kinds)) for name, kinds in found.items()])


def fitting(table: pa.Table, wanted: pa.Schema) -> pa.Schema:
    """`wanted`, with Python objects where a value of the table's is not exactly one of that type."""
    for name, column in zip(table.column_names, table.columns, strict=True):
        at = wanted.get_field_index(name_of(name))
        if exactly(column, wanted.field(at).type) is None:
            wanted = wanted.set(at, wanted.field(at).with_type(objects_type()))
    return wanted


def mixed(schemas: Iterable[pa.Schema], wanted: pa.Schema) -> list[str]:
    """The columns that are Python objects only because their values are of several kinds."""
    given = {name_of(field.name) for schema in schemas for field in schema if is_objects(field.type)}
    return [field.name for field in wanted if is_objects(field.type) and field.name not in given]


def _one_column(found: list[pa.ChunkedArray], kind: pa.DataType, rows: int) -> Any:
    if not found:
        return pa.nulls(rows, kind)
    given = [] if is_objects(kind) else [exactly(column, kind) for column in found]
    alike = [column for column in given if column is not None]
    if len(alike) < len(found):
        if len(found) == 1 and is_objects(found[0].type):
            return found[0]
        values = [None] * rows
        for column in found:
            values = [old if new is None else new for old, new in zip(values, column.to_pylist(), strict=True)]
        return objects(values)
    if len(alike) == 1:
        return alike[0]
    at = np.arange(rows)  # of a row, at most one column has a value
    for i, column in enumerate(alike[1:], start=1):
        there = column.is_valid().to_numpy()
        at[there] = i * rows + np.flatnonzero(there)
    return pa.chunked_array([chunk for column in alike for chunk in column.chunks], type=kind).take(pa.array(at))


def _other_name(name: str, kind: pa.DataType) -> str:
    digest = hashlib.blake2b(pa.schema([("", kind)]).serialize().to_pybytes(), digest_size=4).hexdigest()
    return f"{OTHER}{digest}:{name}"


def _inferred(sample: list[dict[str, Any]]) -> Iterable[pa.Field]:
    for name in dict.fromkeys(name for row in sample for name in row):
        try:
            yield pa.field(name, pa.array([row.get(name) for row in sample]).type)
        except (pa.ArrowException, OverflowError, ValueError, TypeError):  # Python objects, mixed kinds
            continue


def _rows_one_by_one(table: pa.Table) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{} for _ in range(table.num_rows)]
    for name, column in zip(table.column_names, table.columns, strict=True):
        for i, value in enumerate(column):
            try:
                found[i][name] = value.as_py()
            except Exception as error:
                row = found[i] = UnreadableRow(found[i])
                row.error = ValueError(f"the value of column {name_of(name)!r} cannot be read: {error}")
                row[name] = _raw(value)
    return found


def _raw(value: pa.Scalar) -> Any:
    for kind in (pa.binary(), pa.large_binary(), pa.int64(), pa.int32()):
        try:
            return value.cast(kind).as_py()
        except Exception:
            continue
    return str(value.type)
