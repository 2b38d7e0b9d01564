"""Rows as JSON lines, and back; what each kind of value looks like is in column_json."""

from __future__ import annotations

import json

import pyarrow as pa

from rayllm_batch.data.column_json import from_json, to_json
from rayllm_batch.data.column_values import objects


def to_jsonl(table: pa.Table) -> bytes:
    """One JSON object a line."""
    names, lines = table.column_names, []
    encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
    for batch in table.to_batches(max_chunksize=1000):  # as Python objects, values take several times their size
        rows = zip(*map(to_json, batch.columns), strict=True)
        # A lone surrogate, which UTF-8 does not have, is written as JSON writes it: \udcff.
        lines += [encode(dict(zip(names, row, strict=True))).encode("utf-8", "backslashreplace") for row in rows]
    return b"".join(line + b"\n" for line in lines)


def from_jsonl(content: bytes, schema: pa.Schema) -> pa.Table:
    """The table that was written. Of a release that wrote some kinds otherwise, these are what JSON has."""
    rows = [json.loads(line) for line in content.split(b"\n") if line]
    columns = {}
    for field in schema:
        values = [row.get(field.name) for row in rows]
        try:
            columns[field.name] = from_json(values, field.type)
        except (pa.ArrowException, ValueError, TypeError, LookupError, AttributeError):
            columns[field.name] = objects(values)
    return pa.table(columns)
