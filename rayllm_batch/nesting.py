"""How deep a value is nested: one that holds itself, or has thousands of levels, ends in a RecursionError wherever it is copied."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MOST_LEVELS = 100


def is_too_deep(value: Any) -> bool:
    """Whether dicts and lists are in each other for more than MOST_LEVELS levels."""
    level = [value]
    for _ in range(MOST_LEVELS + 1):
        inner = [one.values() if isinstance(one, Mapping) else one for one in level if isinstance(one, (Mapping, list, tuple))]
        if not inner:
            return False
        level = list({id(one): one for some in inner for one in some}.values())  # what is there twice is looked at once
    return True
