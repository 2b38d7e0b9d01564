"""A string that does not show itself, and a URI that shows no password."""

from __future__ import annotations

import re


class Secret(str):
    """A token as a string whose `repr` hides it.

    Notebooks display a cell's last value, and rich tracebacks the variables of every frame, by `repr`. Everything
    that has to send or store the token sees an ordinary `str`.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "Secret('***')" if self else "Secret('')"


def without_credentials(uri: str) -> str:
    """The URI as it may be printed: `s3://KEY:SECRET@bucket/answers` has neither, a path is left as it is."""
    return re.sub(r"^([A-Za-z][\w+.-]*://)[^/]*@", r"\1***@", uri)
