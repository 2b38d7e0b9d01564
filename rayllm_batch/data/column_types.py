"""Arrow types: which one has the values of several, and with which a column travels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Optional

import pyarrow as pa

OBJECTS = "ray.data.arrow_pickled_object"
types = pa.types


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


def is_sure(kind: pa.DataType, wider: pa.DataType) -> bool:  # noqa: PLR0911 (a line a kind)
    """Whether every value of the first type is one of the second, with the same meaning, whatever the values are."""
    if kind == wider or is_objects(wider):
        return True
    if types.is_null(kind):
        return not is_tensor(wider)
    if types.is_dictionary(kind):
        return is_sure(kind.value_type, wider)
    if types.is_struct(kind) and types.is_struct(wider):
        fields = {field.name: field.type for field in wider}
        same = fields.keys() == {field.name for field in kind}
        return same and all(is_sure(field.type, fields[field.name]) for field in kind)
    if is_list(kind) and is_list(wider):
        return is_sure(kind.value_type, wider.value_type)
    if types.is_map(kind) and types.is_map(wider):
        return is_sure(kind.key_type, wider.key_type) and is_sure(kind.item_type, wider.item_type)
    if types.is_decimal(kind) and types.is_decimal(wider) and kind.scale != wider.scale:  # 1.5 would be 1.50
        return False
    alike = (types.is_integer, types.is_floating, is_text, is_bytes, types.is_decimal)
    return _wider(kind, wider) == wider and any(test(kind) and test(wider) for test in alike)


def _wider(a: pa.DataType, b: pa.DataType) -> Optional[pa.DataType]:  # noqa: PLR0911, PLR0912 (a line a kind)
    """The type that both fit into, perhaps not all of their values; None where only Python objects do."""
    if a == b:
        return a
    if types.is_null(a) or types.is_null(b):
        kind = a if types.is_null(b) else b
        return None if is_tensor(kind) else kind
    if types.is_dictionary(a) or types.is_dictionary(b):
        return _wider(*(kind.value_type if types.is_dictionary(kind) else kind for kind in (a, b)))
    if types.is_integer(a) and types.is_integer(b):
        if types.is_signed_integer(a) == types.is_signed_integer(b):
            return max(a, b, key=lambda kind: kind.bit_width)
        signed, unsigned = (a, b) if types.is_signed_integer(a) else (b, a)
        bits = max(signed.bit_width, 2 * unsigned.bit_width)
        return {16: pa.int16(), 32: pa.int32(), 64: pa.int64()}.get(bits)
    if types.is_floating(a) and types.is_floating(b):
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
            fields[field.name] = _wider(fields[field.name], field.type) if field.name in fields else field.type
        return None if None in fields.values() else pa.struct(list(fields.items()))
    if is_list(a) and is_list(b):
        item = _wider(a.value_type, b.value_type)
        large = types.is_large_list(a) or types.is_large_list(b)
        return None if item is None else pa.large_list(item) if large else pa.list_(item)
    if types.is_map(a) and types.is_map(b):
        key, item = _wider(a.key_type, b.key_type), _wider(a.item_type, b.item_type)
        return None if key is None or item is None else pa.map_(key, item)
    return None


def is_text(kind: pa.DataType) -> bool:
    return types.is_string(kind) or types.is_large_string(kind)


def is_bytes(kind: pa.DataType) -> bool:
    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)


def is_list(kind: pa.DataType) -> bool:
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def plain_type(kind: pa.DataType) -> pa.DataType:  # noqa: PLR0911 (a line a kind)
    """The type with which such a column travels."""
    if types.is_string_view(kind):
        return pa.string()
    if types.is_binary_view(kind):
        return pa.binary()
    if types.is_run_end_encoded(kind):
        return plain_type(kind.value_type)
    if types.is_dictionary(kind):
        value = plain_type(kind.value_type)
        return kind if value == kind.value_type and not types.is_nested(value) else value
    if types.is_list(kind) or types.is_list_view(kind):
        return pa.list_(plain_type(kind.value_type))
    if types.is_large_list(kind) or types.is_large_list_view(kind):
        return pa.large_list(plain_type(kind.value_type))
    if types.is_fixed_size_list(kind):
        item = plain_type(kind.value_type)
        return (
            pa.list_(item, kind.list_size) if kind.list_size else pa.list_(item)
        )  # parquet fails to read those of none
    if types.is_map(kind):
        return pa.map_(plain_type(kind.key_type), plain_type(kind.item_type))
    if types.is_struct(kind):
        return pa.struct([(field.name, plain_type(field.type)) for field in kind])
    return kind


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
        kind = (
            pa.unify_schemas([pa.schema([("", one)]), pa.schema([("", other)])], promote_options="permissive")
            .field(0)
            .type
        )
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
        return types.is_integer(into) and (
            types.is_signed_integer(into) == types.is_signed_integer(kind) or kind.bit_width < into.bit_width
        )
    same = (types.is_floating, types.is_timestamp, types.is_duration, types.is_time)
    text = types.is_string(kind) and types.is_large_string(into)
    return (
        text
        or types.is_binary(kind)
        and types.is_large_binary(into)
        or any(is_kind(kind) and is_kind(into) for is_kind in same)
    )
