"""A string that does not show itself."""

from __future__ import annotations


class Secret(str):
    """A token as a string whose `repr` hides it.

    Notebooks display a cell's last value, and rich tracebacks the variables of every frame, by `repr`. Everything
    that has to send or store the token sees an ordinary `str`.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "Secret('***')" if self else "Secret('')"
