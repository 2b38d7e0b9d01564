"""The Arrow type of what a JSON schema describes, the same for every row, and a value's way into it.

| JSON schema                                                                   | Arrow                                |
|-------------------------------------------------------------------------------|--------------------------------------|
| string, whatever its format; enum or const of strings                         | string                               |
| integer                                                                       | int64                                |
| number                                                                        | float64                              |
| boolean                                                                       | bool                                 |
| array with items                                                              | list of what its items become        |
| object with properties                                                        | struct of what its properties become |
| one of these or null                                                          | the same: a column may hold null     |
| anything else: several types, free objects, tuples, what holds itself, "any"  | string, its JSON text                |
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Optional
from urllib.parse import unquote

import pyarrow as pa

from rayllm_batch.tasks.base import InvalidAnswer
from rayllm_batch.tasks.exact_number import ExactNumber, dumped

SCALARS = {"string": pa.string(), "integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_()}
MOST_LEVELS = 32  # of lists and structs in each other; below it stands JSON text


@dataclass(frozen=True)
class Form:
    """fields: of a struct. items: of a list. is_text: the value's JSON text stands for it."""

    type: pa.DataType
    fields: Mapping[str, Form] = field(default_factory=dict)
    items: Optional[Form] = None
    is_text: bool = False

    def value(self, given: Any, path: str = "") -> Any:
        """`given`, as json.loads makes it, as a value of this type. Raises InvalidAnswer where it does not fit."""
        if given is None:
            return None
        if self.is_text:
            return _json_text(given, path)
        if self.items is not None:
            if not isinstance(given, list):
                raise _wrong(path, "a list", given)
            return [self.items.value(one, f"{path}[{i}]") for i, one in enumerate(given)]
        if self.fields:
            if not isinstance(given, dict):
                raise _wrong(path, "an object", given)
            if unknown := next((key for key in given if key not in self.fields), None):
                raise InvalidAnswer(f"{_named(below(path, unknown))} is not in the schema")
            return {key: form.value(given.get(key), below(path, key)) for key, form in self.fields.items()}
        return _scalar(self.type, given, path)


TEXT = Form(pa.string(), is_text=True)


def form_of(schema: Any, root: Any = None, within: tuple[str, ...] = ()) -> Form:
    """root: the whole schema, for its $defs. within: the references up to here; one that comes again holds itself."""
    root = schema if root is None else root
    if not isinstance(schema, Mapping) or len(within) > MOST_LEVELS:
        return TEXT
    if (reference := schema.get("$ref")) is not None and "properties" not in schema:
        target = referred(root, reference)
        return TEXT if target is None or reference in within else form_of(target, root, (*within, reference))
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            kinds = [one for one in schema[key] if one != {"type": "null"}]
            return form_of(kinds[0], root, (*within, "")) if len(kinds) == 1 and "properties" not in schema else TEXT
    kind = _type_of(schema)
    if kind == "array" and isinstance(schema.get("items"), Mapping) and not schema.get("prefixItems"):
        items = form_of(schema["items"], root, (*within, ""))
        return Form(pa.list_(items.type), items=items)
    if kind == "object" and schema.get("properties") and schema.get("additionalProperties") in (None, False):
        fields = {name: form_of(inner, root, (*within, "")) for name, inner in schema["properties"].items()}
        if not schema.get("patternProperties") and reference is None:
            return Form(pa.struct([(name, inner.type) for name, inner in fields.items()]), fields=fields)
    return Form(SCALARS[kind]) if kind in SCALARS else TEXT


def referred(root: Any, reference: Any) -> Any:
    """What `#/$defs/Name` points to in the schema; None where there is none."""
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        return None
    for part in unquote(reference).split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(root, Mapping) or name not in root:
            return None
        root = root[name]
    return root


def below(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _type_of(schema: Mapping[str, Any]) -> Optional[str]:
    """The one type it has beside null, said or seen in its enum; None for several or none."""
    if "enum" in schema or "const" in schema:
        values = schema["enum"] if "enum" in schema else [schema["const"]]
        kinds = {type(value) for value in values if value is not None}
        names = {str: "string", bool: "boolean", int: "integer", float: "number"}
        return names.get(kinds.pop()) if len(kinds) == 1 else None
    kind = schema.get("type", "object" if "properties" in schema else None)
    if isinstance(kind, list):
        others = [one for one in kind if one != "null"]
        kind = others[0] if len(others) == 1 else None
    return kind


def _scalar(kind: pa.DataType, given: Any, path: str) -> Any:
    if pa.types.is_string(kind) and isinstance(given, str):
        return _text(given, path)
    if pa.types.is_boolean(kind) and isinstance(given, bool):
        return given
    if isinstance(given, (int, float)) and not isinstance(given, bool):
        if pa.types.is_floating(kind):
            try:
                return float(given)  # which may be the NaN that is a field's default
            except OverflowError:
                raise InvalidAnswer(f"{_named(path)} is larger than any float64") from None
        if pa.types.is_integer(kind) and (whole := _whole(given)) is not None:
            if -(2**63) <= whole < 2**63:
                return whole
            raise InvalidAnswer(f"{_named(path)} is {whole}, which is beyond an int64")
    names = {pa.string(): "a text", pa.bool_(): "true or false", pa.int64(): "an integer", pa.float64(): "a number"}
    raise _wrong(path, names[kind], given)


def _whole(given: float) -> Optional[int]:
    if isinstance(given, ExactNumber):
        exact = Decimal(given.digits)
        return int(exact) if exact == exact.to_integral_value() else None
    return int(given) if given == given // 1 else None


def _json_text(given: Any, path: str) -> str:
    try:
        text = dumped(given, ensure_ascii=False, allow_nan=False)
    except ValueError:  # of a type's own making
        raise InvalidAnswer(f"{_named(path)} holds a number that JSON does not have, such as NaN") from None
    return _text(text, path)


def _text(given: str, path: str) -> str:
    try:
        given.encode()
    except UnicodeEncodeError:
        raise InvalidAnswer(f"{_named(path)} holds half of a surrogate pair, which is no text") from None
    return given


def _wrong(path: str, expected: str, given: Any) -> InvalidAnswer:
    text = json.dumps(given, ensure_ascii=True)
    return InvalidAnswer(f"{_named(path)} must be {expected}, but is {text[:100]}{'...' * (len(text) > 100)}")


def _named(path: str) -> str:
    return f"field {path!r}" if path else "the answer"
