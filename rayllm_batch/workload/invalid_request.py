"""What a server refuses."""

from __future__ import annotations

from typing import Optional


class InvalidRequest(ValueError):
    """What a server refuses. Its text is the error's message; param: the key of the request; status: of HTTP."""

    def __init__(self, message: str, param: Optional[str] = None, status: int = 400) -> None:
        super().__init__(message)
        self.param, self.status = param, status
