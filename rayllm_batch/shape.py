"""Settings from outside: their shape is a pydantic model's, what is said of them is in this package's words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from rayllm_batch.errors import ConfigError, did_you_mean

Shape = TypeVar("Shape", bound=BaseModel)


def checked(shape: type[Shape], given: Mapping[Any, Any], source: str) -> Shape:
    """Raises ConfigError, of a line for each thing that is wrong.

    A field's description says what it must be. One without holds names and values, some of them secrets: what was given
    in its place is not shown.
    """
    try:
        return shape.model_validate(given)
    except ValidationError as error:
        problems = [_said(shape, one["loc"], one["type"], one["input"], source) for one in error.errors()]
    raise ConfigError("\n".join(problems))


def _said(shape: Any, loc: tuple[int | str, ...], kind: str, value: Any, source: str) -> str:
    *path, key = loc
    for at, name in enumerate(path):
        inner = shape.model_fields[name].annotation
        if not hasattr(inner, "model_fields"):  # in a mapping that may hold anything, but names for its keys
            path, key = path[:at], name
            break
        shape = inner
    known = shape.model_fields
    where = f"under {'.'.join(map(str, path))} in {source}" if path else f"in {source}"
    if kind in ("extra_forbidden", "invalid_key"):
        return f"Unknown key {key!r} {where}.{did_you_mean(str(key), known)} Known keys: {', '.join(known)}."
    wanted, examples = known[key].description, known[key].examples
    given = f"given {value!r:.100} ({kind_of(value)})" if wanted else f"given {kind_of(value)}"
    given = "but it is missing" if kind == "missing" or value is None else given
    example = f" For example: {key}: {examples[0]}" if examples else ""
    return f"{key!r} {where} must be {wanted or 'a mapping of names to values'}, {given}.{example}"


def kind_of(value: Any) -> str:
    """The kind of a value for a message; never the value itself, which may hold a secret."""
    names = {list: "a list", tuple: "a list", str: "text", bool: "true/false", int: "a number", float: "a number"}
    return names.get(type(value), f"a {type(value).__name__}")
