"""A column of any Arrow type as JSON, a table as JSON lines, and back: with its type, each value is what it was.

NaN and the infinities are text ("NaN", "Infinity", "-Infinity"), bytes base64, times, decimals and durations text
(those beyond what text can say are their number), maps lists of [key, value]. Python objects are what JSON calls them;
where it has no such thing, an object with KIND tells what it was: {"__type__": "bytes", "value": "aGk="}.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import json
import math
import re
import uuid
import zoneinfo
from collections.abc import Callable
from itertools import islice
from typing import Any, Optional

import numpy as np
import pyarrow as pa

from rayllm_batch.data.column_types import is_bytes, is_list, is_objects, is_tensor, is_text
from rayllm_batch.data.column_values import lengths, lists, objects, offsets, pairs_of

KIND = "__type__"
NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
DURATION = re.compile(r"(?:(-?\d+) days?, )?(\d+):(\d\d):(\d\d)(?:\.(\d+))?")

types = pa.types


def to_json(array: pa.Array) -> list[Any]:  # noqa: PLR0911, PLR0912 (a line a kind)
    """Null is None."""
    kind = array.type
    if is_objects(kind) or types.is_union(kind):
        return [_object_json(value) for value in array.to_pylist()]
    if is_text(kind):
        return _texts(array)
    if types.is_floating(kind):
        return [_number_json(value) for value in array.to_pylist()]
    if is_bytes(kind):
        return _each(array.to_pylist(), lambda value: base64.b64encode(value).decode())
    if types.is_duration(kind):
        unit = PER_SECOND[kind.unit]
        return _each(array.cast(pa.int64()).to_pylist(), lambda value: _duration_text(value, unit))
    if types.is_interval(kind):
        return _each(array.to_pylist(), list)
    if types.is_temporal(kind):
        return _time_json(array)
    if types.is_decimal(kind):
        return _each(array.to_pylist(), str)
    if types.is_dictionary(kind):
        return to_json(array.dictionary_decode())
    if types.is_struct(kind):
        names = [field.name for field in kind]
        children = [to_json(array.field(i)) for i in range(len(names))]
        values = zip(*children, strict=True) if children else ((),) * len(array)
        rows = [dict(zip(names, value, strict=True)) for value in values]
        return [row if ok else None for ok, row in zip(array.is_valid().to_pylist(), rows, strict=True)]
    if is_list(kind):
        items = iter(to_json(array.flatten()))
        return _each(pa.compute.list_value_length(array).to_pylist(), lambda length: list(islice(items, length)))
    if types.is_map(kind):
        maps = pairs_of(array)
        pairs = map(list, zip(*map(to_json, maps.flatten().flatten()), strict=True))
        return _each(pa.compute.list_value_length(maps).to_pylist(), lambda length: list(islice(pairs, length)))
    if isinstance(kind, pa.BaseExtensionType):
        if shape := _shape(kind):  # a tensor as nested lists
            cells = to_json(array.storage)
            return _each(cells, lambda value: np.reshape(np.array(value, dtype=object), shape).tolist())
        if kind.extension_name == "arrow.uuid":
            return _each(array.storage.to_pylist(), lambda value: str(uuid.UUID(bytes=value)))
        return to_json(array.storage)
    return array.to_pylist()


def from_json(values: list[Any], kind: pa.DataType) -> pa.Array:  # noqa: PLR0911, PLR0912 (a line a kind)
    """The column that `to_json` had. Raises ValueError, TypeError or ArrowException for values of another."""
    if is_objects(kind) or types.is_union(kind):
        return objects(_object(value) for value in values)
    if is_text(kind):
        return _text_array(values, kind)
    if types.is_floating(kind):
        return pa.array(list(map(_number, values)), type=kind)
    if is_bytes(kind):
        return pa.array(_each(values, lambda value: base64.b64decode(value, validate=True)), type=kind)
    if types.is_duration(kind):
        unit = PER_SECOND[kind.unit]
        return pa.array(_each(values, lambda value: _duration(value, unit)), type=pa.int64()).cast(kind)
    if types.is_interval(kind):
        return pa.array(_each(values, tuple), type=kind)
    if types.is_temporal(kind):
        return _time_array(values, kind)
    if types.is_decimal(kind):
        return pa.array(_each(values, decimal.Decimal), type=kind)
    if types.is_dictionary(kind):
        return from_json(values, kind.value_type).dictionary_encode().cast(kind)
    if types.is_struct(kind) and kind.num_fields:
        children = [from_json([None if value is None else value.get(f.name) for value in values], f.type) for f in kind]
        absent = pa.array([value is None for value in values], pa.bool_())
        return pa.StructArray.from_arrays(children, fields=list(kind), mask=absent)
    if is_list(kind):
        items = from_json([item for value in values for item in value or ()], kind.value_type)
        made = lists(items, lengths(values))
        return made if made.type == kind else made.cast(kind)
    if types.is_map(kind):
        pairs = [pair for value in values for pair in value or ()]
        keys = from_json([key for key, _ in pairs], kind.key_type)
        items = from_json([item for _, item in pairs], kind.item_type)
        return pa.MapArray.from_arrays(offsets(lengths(values), pa.int32()), keys, items).cast(kind)
    if isinstance(kind, pa.BaseExtensionType):
        if kind.extension_name == "arrow.uuid":
            stored = pa.array(_each(values, lambda text: uuid.UUID(text).bytes), kind.storage_type)
            return pa.ExtensionArray.from_storage(kind, stored)
        if _shape(kind):
            values = _each(values, lambda value: np.array(value, dtype=object).ravel().tolist())
        return pa.ExtensionArray.from_storage(kind, from_json(values, kind.storage_type))
    return pa.array(values, type=kind)


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


def foreign(value: Any) -> Optional[type]:
    """The type of what is in a Python object that JSON cannot hold; None where there is none."""
    found: list[type] = []
    _object_json(value, unknown=lambda it: found.append(type(it)))
    return found[0] if found else None


# Python objects: kind, how it is written, how it is read. A kind is that of its class, not of derived ones.
_KINDS: dict[type, tuple[str, Callable[[Any], Any], Callable[[Any], Any]]] = {
    bytes: ("bytes", lambda v: base64.b64encode(v).decode(), base64.b64decode),
    datetime.datetime: ("datetime", lambda v: [v.isoformat(), getattr(v.tzinfo, "key", None)], lambda v: _zoned(*v)),
    datetime.date: ("date", lambda v: v.isoformat(), datetime.date.fromisoformat),
    datetime.time: ("time", lambda v: v.isoformat(), datetime.time.fromisoformat),
    datetime.timedelta: ("timedelta", lambda v: [v.days, v.seconds, v.microseconds], lambda v: datetime.timedelta(*v)),
    decimal.Decimal: ("decimal", str, decimal.Decimal),
    uuid.UUID: ("uuid", str, uuid.UUID),
    complex: ("complex", lambda v: [_number_json(v.real), _number_json(v.imag)], lambda v: complex(*map(_number, v))),
}
_READ = {name: read for name, _, read in _KINDS.values()} | {"int": lambda v: int(v, 16)}
LARGE = 2**8192  # whole numbers from here on are written in hex: Python refuses more than 4,300 decimal digits
_COLLECTIONS: dict[str, type] = {"tuple": tuple, "set": set, "frozenset": frozenset}


def _text_of(value: Any) -> str:
    try:
        return str(value)
    except Exception:  # a user's own class
        return type(value).__name__


def _object_json(value: Any, unknown: Callable[[Any], Any] = _text_of) -> Any:  # noqa: PLR0911, PLR0912 (a line a kind)
    """unknown: what is made of an object of any other class."""
    if isinstance(value, int) and not -LARGE < value < LARGE:
        return {KIND: "int", "value": hex(value)}
    if value is None or isinstance(value, (str, int)):
        return value
    if type(value).__name__ == "NAType":  # of pandas, which is its null
        return None
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {KIND: "float", "value": _number_json(value)}
    if isinstance(value, (list, tuple, set, frozenset)):
        items = [_object_json(item, unknown) for item in value]
        kinds = [name for name, kind in _COLLECTIONS.items() if isinstance(value, kind)]
        return {KIND: kinds[0], "value": items} if kinds else items
    if isinstance(value, dict):
        if all(type(key) is str for key in value) and KIND not in value:
            return {key: _object_json(item, unknown) for key, item in value.items()}
        return {KIND: "dict", "value": [[_object_json(part, unknown) for part in item] for item in value.items()]}
    if isinstance(value, np.generic) and value.dtype.kind in "biuf":
        return _object_json(value.item(), unknown)
    if isinstance(value, (np.ndarray, np.generic)):
        content: Any = [_object_json(item, unknown) for item in value.ravel().tolist()]
        if value.dtype.kind in "biufcmMSU":
            content = base64.b64encode(value.tobytes()).decode()
        kind = "ndarray" if isinstance(value, np.ndarray) else "scalar"
        return {KIND: kind, "dtype": value.dtype.str, "shape": list(value.shape), "value": content}
    # With nanoseconds, which Python's have not.
    if type(value).__module__.split(".")[0] == "pandas" and hasattr(value, "isoformat"):
        zone = getattr(getattr(value, "tzinfo", None), "key", None)
        kind = "Timedelta" if isinstance(value, datetime.timedelta) else "Timestamp"
        return {KIND: kind, "value": [value.isoformat(), zone]}
    for base in type(value).__mro__:
        if base in _KINDS:
            name, write, _ = _KINDS[base]
            return {KIND: name, "value": write(value)}
    return unknown(value)


def _object(value: Any) -> Any:  # noqa: PLR0911 (a line a kind)
    if isinstance(value, list):
        return [_object(item) for item in value]
    if not isinstance(value, dict):
        return value
    kind = value.get(KIND)
    if kind is None:
        return {key: _object(item) for key, item in value.items()}
    if kind == "dict":
        return {_object(key): _object(item) for key, item in value["value"]}
    if kind == "float":
        return NOT_FINITE[value["value"]]
    if kind in _COLLECTIONS:
        return _COLLECTIONS[kind](map(_object, value["value"]))
    if kind in ("ndarray", "scalar"):
        array = np.empty(value["shape"], dtype=np.dtype(value["dtype"]))
        if array.dtype.kind == "O":
            array.ravel()[:] = list(map(_object, value["value"]))
        else:
            array.ravel()[:] = np.frombuffer(base64.b64decode(value["value"]), dtype=array.dtype)
        return array[()] if kind == "scalar" else array
    if kind in ("Timestamp", "Timedelta"):
        import pandas

        text, zone = value["value"]
        read = getattr(pandas, kind)(text)
        return read.tz_convert(zone) if zone else read
    return _READ[kind](value["value"])


def _zoned(text: str, zone: Optional[str]) -> datetime.datetime:
    """In a zone of a name, which its offset alone does not tell."""
    read = datetime.datetime.fromisoformat(text)
    return read.astimezone(zoneinfo.ZoneInfo(zone)) if zone else read


def _each(values: list[Any], convert: Callable[[Any], Any]) -> list[Any]:
    return [None if value is None else convert(value) for value in values]


def _number_json(value: Optional[float]) -> Any:
    if value is None:
        return None
    if math.isfinite(value):
        return float(value)
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _number(value: Any) -> Any:
    return NOT_FINITE[value] if isinstance(value, str) else value


def _texts(array: pa.Array) -> list[Optional[str]]:
    try:
        return array.to_pylist()
    except UnicodeDecodeError:  # bytes that are no UTF-8 become lone surrogates, which JSON can write
        return _each(array.cast(pa.large_binary()).to_pylist(), lambda value: value.decode("utf-8", "surrogateescape"))


def _text_array(values: list[Any], kind: pa.DataType) -> pa.Array:
    try:
        return pa.array(values, type=kind)
    except UnicodeEncodeError:
        stored = pa.array(_each(values, lambda value: value.encode("utf-8", "surrogateescape")))
        return stored.cast(pa.large_binary() if types.is_large_string(kind) else pa.binary()).view(kind)


def _duration_text(value: int, unit: int) -> str:
    """As Python writes a timedelta, with as many digits as there are."""
    seconds, part = divmod(value, unit)
    days, seconds = divmod(seconds, 86400)
    text = f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    if part:
        text += f".{part:0{len(str(unit)) - 1}}"
    return f"{days} day{'' if abs(days) == 1 else 's'}, {text}" if days else text


def _duration(text: str, unit: int) -> int:
    if not (found := DURATION.fullmatch(text)):
        raise ValueError(f"{text!r} is not a duration")
    days, hours, minutes, seconds = (int(number or 0) for number in found.groups()[:4])
    part = round(int(found[5]) * unit / 10 ** len(found[5])) if found[5] else 0
    return (days * 86400 + hours * 3600 + minutes * 60 + seconds) * unit + part


def _time_json(array: pa.Array) -> list[Any]:
    """Text, or of what has none, such as a year above 9999, the number."""
    kind = array.type
    shown = array.cast(pa.timestamp(kind.unit, "UTC")) if types.is_timestamp(kind) and kind.tz else array
    texts = shown.cast(pa.string()).to_pylist()
    try:
        if _time_array(texts, kind).equals(array):
            return texts
    except (pa.ArrowException, ValueError):
        pass
    return array.cast(_number_type(kind)).to_pylist()


def _time_array(values: list[Any], kind: pa.DataType) -> pa.Array:
    if any(isinstance(value, int) for value in values):
        times = [pa.array([value]) if isinstance(value, int) else _time_array([value], kind) for value in values]
        return pa.concat_arrays([time.cast(_number_type(kind)) for time in times]).cast(kind)
    if types.is_time(kind):
        numbers = _each(values, lambda text: _duration(text, PER_SECOND[kind.unit]))
        return pa.array(numbers).cast(_number_type(kind)).cast(kind)
    texts = pa.array(values, type=pa.string())
    if types.is_timestamp(kind) and kind.tz:
        return texts.cast(pa.timestamp(kind.unit, "UTC")).cast(kind)
    return texts.cast(kind)


def _number_type(kind: pa.DataType) -> pa.DataType:
    return pa.int32() if types.is_time32(kind) or types.is_date32(kind) else pa.int64()


def _shape(kind: pa.DataType) -> Optional[tuple[int, ...]]:
    """Of a tensor column whose rows have one shape."""
    return tuple(kind.shape) if is_tensor(kind) and "variable" not in kind.extension_name else None
