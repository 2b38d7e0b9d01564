"""Kinds of a thing by name, and where each one's class is, which is imported when it is asked for."""

from __future__ import annotations

import importlib
from typing import Generic, TypeVar

from rayllm_batch.errors import ConfigError, did_you_mean

T = TypeVar("T")


class Registry(Generic[T]):
    """what: a config's key for them, for messages. places: by name, "module:Class", of a class without arguments."""

    def __init__(self, what: str, places: dict[str, str]) -> None:
        self._what, self._places = what, dict(places)

    def register(self, name: str, place: str) -> None:
        """One more, of a package of one's own; of a name that is there already, the new place counts."""
        self._places[name] = place

    def check(self, name: object, where: str) -> str:
        """The name as it is known; raises ConfigError with the nearest one. where: what has it, for the message."""
        known = str(name).strip().lower()
        if known not in self._places:
            hint = did_you_mean(known, self._places)
            raise ConfigError(f"{self._what} must be one of {', '.join(self._places)}; {where} has {name!r}.{hint}")
        return known

    def get(self, name: str) -> T:
        module, _, cls = self._places[name].partition(":")
        return getattr(importlib.import_module(module), cls)()
