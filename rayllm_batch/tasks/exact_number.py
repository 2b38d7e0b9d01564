"""Numbers of JSON with more digits than a float64 has."""

from __future__ import annotations

import json
import math
import re
import uuid
from decimal import Decimal
from typing import Any


class ExactNumber(float):
    """Its float64, which is near it; `digits`: as it was written."""

    digits: str


def number(digits: str) -> float:
    """As json.loads makes it, where that is the number itself. Raises ValueError beyond a float64."""
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"it holds {digits[:50]}, which is beyond a float64")
    if Decimal(repr(value)) == Decimal(digits):
        return value
    exact = ExactNumber(value)
    exact.digits = digits
    return exact


def plain(value: Any) -> Any:
    """A value of JSON with each number as its float64."""
    return _each(value, float)


def dumped(value: Any, *, quoted: bool = False, **how: Any) -> str:
    """JSON text, in which such numbers have their digits. quoted: as a text. how: json.dumps's."""
    found: list[str] = []
    mark = f"number {uuid.uuid4().hex} "

    def marked(one: ExactNumber) -> str:
        found.append(json.dumps(one.digits) if quoted else one.digits)
        return f"{mark}{len(found) - 1}"

    text = json.dumps(_each(value, marked), **how)
    return re.sub(f'"{mark}(\\d+)"', lambda its: found[int(its[1])], text) if found else text


def _each(value: Any, made: Any) -> Any:
    if isinstance(value, dict):
        return {key: _each(inner, made) for key, inner in value.items()}
    if isinstance(value, list):
        return [_each(inner, made) for inner in value]
    return made(value) if isinstance(value, ExactNumber) else value
