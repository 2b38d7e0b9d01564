"""Rows as JSON lines, and back."""

from __future__ import annotations

import base64
import json
import math
from typing import Any, Optional

import numpy as np
import pyarrow as pa


def to_jsonl(table: pa.Table) -> bytes:
    """One JSON object a line. What JSON does not have: NaN and infinity become null, bytes base64, times and numbers text."""
    lines = (json.dumps(_json_value(row), ensure_ascii=False, allow_nan=False) for row in table.to_pylist())
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace")


def json_options(schema: pa.Schema) -> Any:
    """How to read such lines, so that a column has one type in all files, and text that looks like a date stays text."""
    import pyarrow.json

    known = [(field.name, kind) for field in schema if (kind := _json_type(field.type)) is not None]
    return pyarrow.json.ParseOptions(explicit_schema=pa.schema(known))


def _json_value(value: Any) -> Any:  # noqa: PLR0911 (a line a kind)
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _json_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_value(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, (np.ndarray, np.generic)):
        return _json_value(value.tolist())
    return str(value)


def _json_type(kind: pa.DataType) -> Optional[pa.DataType]:
    """The type with which such a column is read back; None: whatever the reader finds."""
    types = pa.types
    if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_null(kind):
        return kind
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        item = _json_type(kind.value_type)
        return None if item is None else pa.list_(item)
    if types.is_struct(kind):
        fields = [(field.name, _json_type(field.type)) for field in kind]
        return None if any(item is None for _, item in fields) else pa.struct(fields)
    is_text = types.is_string(kind) or types.is_large_string(kind) or types.is_binary(kind) or types.is_large_binary(kind)
    return pa.string() if is_text or types.is_temporal(kind) or types.is_decimal(kind) else None
