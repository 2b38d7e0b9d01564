"""Arrow types: which one has the values of several, and with which a column travels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Optional

import pyarrow as pa

OBJECTS = "ray.data.arrow_pickled_object"
types = pa.types
_TIMES = (types.is_timestamp, types.is_duration, types.is_time)


def widest(kinds: Iterable[pa.DataType]) -> pa.DataType:
    """The type that has all values of these, as far as the types tell; that of Python objects where no other is."""
    first, *others = kinds
    for kind in others:
        wider = _wider(first, kind)
        first = objects_type() if wider is None else wider  # a struct without fields is false
    return first


def is_objects(kind: pa.DataType) -> bool:
    return getattr(kind, "extension_name", None) == OBJECTS


def is_tensor(kind: pa.DataType) -> bool:
    """Arrow's or Ray's. Ray Data cannot give out such a column's rows where one is null: it is then of objects."""
    name = getattr(kind, "extension_name", "")
    return name == "arrow.fixed_shape_tensor" or name.startswith(("ray.data.arrow_tensor", "ray.data.arrow_variable"))


def objects_type() -> pa.DataType:
    from ray.data.extensions import ArrowPythonObjectType

    return ArrowPythonObjectType()


def is_sure(kind: pa.DataType, wider: pa.DataType, times: bool = False) -> bool:  # noqa: PLR0911 (a line a kind)
    """Whether every value of the first type is one of the second, with the same meaning, whatever the values are.

    times: also of a finer unit, in which times far from 1970 have no place.
    """
    if kind == wider or is_objects(wider):
        return True
    if types.is_null(kind):
        return not is_tensor(wider)
    if types.is_dictionary(kind):
        return is_sure(kind.value_type, wider, times)
    if types.is_struct(kind) and types.is_struct(wider):
        fields = {field.name: field.type for field in wider}
        same = fields.keys() == {field.name for field in kind}
        return same and all(is_sure(field.type, fields[field.name], times) for field in kind)
    if is_list(kind) and is_list(wider):
        return is_sure(kind.value_type, wider.value_type, times)
    if types.is_map(kind) and types.is_map(wider):
        return is_sure(kind.key_type, wider.key_type, times) and is_sure(kind.item_type, wider.item_type, times)
    if types.is_decimal(kind) and types.is_decimal(wider) and kind.scale != wider.scale:  # 1.5 would be 1.50
        return False
    return _wider(kind, wider, times) == wider and types.is_integer(kind) == types.is_integer(wider)  # 1 would be 1.0


# A line a kind.
def _wider(a: pa.DataType, b: pa.DataType, times: bool = False) -> Optional[pa.DataType]:  # noqa: PLR0911, PLR0912
    """The type that both fit into, perhaps not all of their values; None where only Python objects do.

    times: two units of time become the finer one.
    """
    if a == b:
        return a
    if types.is_null(a) or types.is_null(b):
        kind = a if types.is_null(b) else b
        return None if is_tensor(kind) else kind
    if types.is_dictionary(a) or types.is_dictionary(b):
        plain_a, plain_b = (kind.value_type if types.is_dictionary(kind) else kind for kind in (a, b))
        return _wider(plain_a, plain_b, times)
    if types.is_integer(a) and types.is_integer(b) and types.is_signed_integer(a) != types.is_signed_integer(b):
        signed, unsigned = (a, b) if types.is_signed_integer(a) else (b, a)
        bits = max(signed.bit_width, 2 * unsigned.bit_width)
        return {16: pa.int16(), 32: pa.int32(), 64: pa.int64()}.get(bits)
    if any(test(a) and test(b) for test in (types.is_integer, types.is_floating)):
        return max(a, b, key=lambda kind: kind.bit_width)
    if types.is_integer(a) and types.is_floating(b) or types.is_floating(a) and types.is_integer(b):
        return pa.float64()
    if is_text(a) and is_text(b):
        return pa.large_string()
    if is_bytes(a) and is_bytes(b):
        return pa.large_binary() if pa.large_binary() in (a, b) else pa.binary()
    if types.is_decimal(a) and types.is_decimal(b):
        scale = max(a.scale, b.scale)
        digits = scale + max(a.precision - a.scale, b.precision - b.scale)
        return pa.decimal128(digits, scale) if digits <= 38 else pa.decimal256(digits, scale) if digits <= 76 else None
    if types.is_struct(a) and types.is_struct(b):
        fields: dict[str, Optional[pa.DataType]] = {field.name: field.type for field in a}
        for field in b:
            fields[field.name] = _wider(fields.get(field.name, field.type), field.type, times)
        return None if None in fields.values() else pa.struct(list(fields.items()))
    if is_list(a) and is_list(b):
        item = _wider(a.value_type, b.value_type, times)
        large = types.is_large_list(a) or types.is_large_list(b)
        return None if item is None else pa.large_list(item) if large else pa.list_(item)
    if types.is_map(a) and types.is_map(b):
        key, item = _wider(a.key_type, b.key_type, times), _wider(a.item_type, b.item_type, times)
        return None if key is None or item is None else pa.map_(key, item)
    if times and any(test(a) and test(b) for test in _TIMES) and getattr(a, "tz", None) == getattr(b, "tz", None):
        return max(a, b, key=lambda kind: ("s", "ms", "us", "ns").index(kind.unit))
    return None


def is_text(kind: pa.DataType) -> bool:
    return types.is_string(kind) or types.is_large_string(kind)


def is_bytes(kind: pa.DataType) -> bool:
    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)


def is_list(kind: pa.DataType) -> bool:
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type with which such a column travels."""
    return objects_type() if _holds(kind, types.is_union) else _plain_type(kind, is_inner=False)


def _plain_type(kind: pa.DataType, is_inner: bool = True) -> pa.DataType:  # noqa: PLR0911 (a line a kind)
    if types.is_string_view(kind):
        return pa.string()
    if types.is_binary_view(kind):
        return pa.binary()
    if types.is_run_end_encoded(kind):
        return _plain_type(kind.value_type)
    if types.is_dictionary(kind):
        value = _plain_type(kind.value_type)
        is_read_back = types.is_string(value) or not is_inner  # in lists and structs, of a file
        return kind if value == kind.value_type and not types.is_nested(value) and is_read_back else value
    if types.is_list(kind) or types.is_list_view(kind):
        return pa.list_(_plain_type(kind.value_type))
    if types.is_large_list(kind) or types.is_large_list_view(kind):
        return pa.large_list(_plain_type(kind.value_type))
    if types.is_fixed_size_list(kind):
        # Parquet fails to read those of size 0.
        return pa.list_(_plain_type(kind.value_type), kind.list_size or -1)
    if types.is_map(kind):
        return pa.map_(_plain_type(kind.key_type), _plain_type(kind.item_type))
    if types.is_struct(kind):
        return pa.struct([(field.name, _plain_type(field.type)) for field in kind])
    return kind


def common_type(one: Optional[pa.DataType], other: Optional[pa.DataType]) -> Optional[pa.DataType]:
    """The type for the values of both, as they are but for the unit of a time; None where there is none."""
    if one is None or other is None:
        return None
    if types.is_null(one) or types.is_null(other):
        return other if types.is_null(one) else one
    kind = _wider(one, other, times=True)
    is_exact = kind is not None and is_sure(one, kind, times=True) and is_sure(other, kind, times=True)
    return kind if is_exact else None


def has_nested_integers(kind: pa.DataType) -> bool:
    return _holds(kind, types.is_integer)


def _holds(kind: pa.DataType, test: Callable[[pa.DataType], bool]) -> bool:
    """Whether a type in it, not itself, is such a one."""
    inner = [kind.field(i).type for i in range(kind.num_fields)]
    return any(test(one) or _holds(one, test) for one in inner)
