"""One part of an output folder, as bytes and back: parquet or JSON lines, with every type and value that rows can have.

Columns that parquet has no type for, such as structs without fields, are JSON text there; reading makes them what
they were.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Optional

import numpy as np
import pyarrow as pa

from rayllm_batch.data.column_json import from_json, from_jsonl, to_json, to_jsonl
from rayllm_batch.data.column_types import is_objects, objects_type


@dataclass(frozen=True)
class PartFile:
    """content: of the file. schema: of the table that reading it gives. as_text: columns that are JSON text there."""

    content: bytes | memoryview
    schema: pa.Schema
    as_text: tuple[str, ...] = ()


def encoded(table: pa.Table, output_format: str) -> PartFile:
    schema = readable(table.schema)
    if output_format == "jsonl":
        return PartFile(to_jsonl(table), schema)
    as_text = tuple(field.name for field in table.schema if not _parquet_has(field.type))
    try:
        return PartFile(_parquet(_as_text(table, as_text)), schema, as_text)
    except pa.ArrowException:  # of a type that parquet has, a value that it has not
        plain = [name for name in table.column_names if name not in as_text and _can_be_written(table.select([name]))]
        as_text = tuple(name for name in table.column_names if name not in plain)
        return PartFile(_parquet(_as_text(table, as_text)), schema, as_text)


def readable(schema: pa.Schema) -> pa.Schema:
    """Of a table with this one as it is read from a file: a file has dictionaries of text alone, and no unions."""
    fields = []
    for field in schema:
        kind = field.type
        if pa.types.is_dictionary(kind) and not pa.types.is_string(kind.value_type):
            kind = kind.value_type
        fields.append((field.name, objects_type() if pa.types.is_union(kind) else kind))
    return pa.schema(fields)


def decoded(content: bytes | pa.Buffer, output_format: str, schema: pa.Schema, as_text: Sequence[str] = ()) -> pa.Table:
    """The rows of a part file. schema, as_text: those of its PartFile."""
    if output_format == "jsonl":
        return from_jsonl(bytes(content), schema)
    table, columns = _from_parquet(content), {}
    for field in schema:
        column = table.column(field.name)
        if field.name in as_text:
            column = from_json([None if text is None else json.loads(text) for text in column.to_pylist()], field.type)
        columns[field.name] = column if column.type == field.type else column.cast(field.type)
    return pa.table(columns)


def some_rows(content: bytes, output_format: str, stay: np.ndarray) -> bytes | memoryview:
    """The file with those of its rows alone, as they are in it. stay: shape (rows,) of bool."""
    if output_format == "jsonl":
        lines = content.split(b"\n")[: len(stay)]
        return b"".join(line + b"\n" for line, stays in zip(lines, stay, strict=True) if stays)
    return _parquet(_from_parquet(content).filter(pa.array(stay, type=pa.bool_())))


def joined(contents: Iterable[bytes], output_format: str) -> bytes | memoryview:
    """One file with the rows of several, whose schemas are the same; one at a time is in memory, uncompressed."""
    import pyarrow.parquet

    if output_format == "jsonl":
        return b"".join(contents)
    sink, writer = pa.BufferOutputStream(), None
    for content in contents:
        table = _from_parquet(content)
        writer = writer or pyarrow.parquet.ParquetWriter(sink, table.schema, compression="zstd")
        writer.write_table(table)
    if writer is not None:
        writer.close()
    return memoryview(sink.getvalue())


def texts_of(content: bytes, output_format: str, name: str) -> list[str]:
    """The values of one column of text, without the others."""
    if output_format == "jsonl":
        return [json.loads(line)[name] for line in content.split(b"\n") if line]
    return _from_parquet(content, [name]).column(name).to_pylist()


def columns_of(content: bytes, output_format: str, names: Sequence[str]) -> dict[str, pa.ChunkedArray | pa.Array]:
    """Some columns of the file, as far as it has them: of whole numbers and of text, and no others."""
    if output_format == "jsonl":
        rows = [json.loads(line) for line in content.split(b"\n") if line]
        there = [name for name in names if any(name in row for row in rows)]
        return {name: pa.array([row.get(name) for row in rows]) for name in there}
    import pyarrow.parquet

    there = [name for name in pyarrow.parquet.read_schema(pa.BufferReader(content)).names if name in names]
    table = _from_parquet(content, there)
    return {name: table.column(name) for name in there}


def _as_text(table: pa.Table, names: Sequence[str]) -> pa.Table:
    for name in names:
        values = [value for chunk in table.column(name).chunks for value in to_json(chunk)]
        texts = [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
        coded = [None if text is None else text.encode("utf-8", "backslashreplace") for text in texts]
        column = pa.array(coded, type=pa.binary()).cast(pa.string())
        table = table.set_column(table.column_names.index(name), name, column)
    return table


def _parquet(table: pa.Table) -> memoryview:
    import pyarrow.parquet

    sink = pa.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink, compression="zstd")
    return memoryview(sink.getvalue())


def _from_parquet(content: bytes | pa.Buffer, columns: Optional[list[str]] = None) -> pa.Table:
    import pyarrow.parquet

    return pyarrow.parquet.read_table(pa.BufferReader(content), columns=columns)


@functools.lru_cache(maxsize=1000)
def _parquet_has(kind: pa.DataType) -> bool:
    """Whether such a column is read as it was written, perhaps with a cast back, as for seconds."""
    if is_objects(kind):  # pickles: whoever reads the file would run what is in them
        return False
    table = pa.table({"column": pa.nulls(2, kind)})
    try:
        return decoded(_parquet(table), "parquet", readable(table.schema)).num_rows == 2
    except (pa.ArrowException, OSError):
        return False


def _can_be_written(table: pa.Table) -> bool:
    try:
        _parquet(table)
    except (pa.ArrowException, OSError):
        return False
    return True
