"""A row's http or https URL, read once: what is checked is what is asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Optional
from urllib.parse import quote, urlsplit

from rayllm_batch.media.address import Address
from rayllm_batch.media.host_rule import DEFAULT_PORTS, ascii_name, is_name
from rayllm_batch.media.media_error import MediaError

MOST_CHARACTERS = 8_192
KEPT = "/%:@!$&'()*+,;=~"  # in a path; what is encoded already stays


@dataclass(frozen=True)
class Url:
    """host: in ASCII. address: the host, where it is one. target: path and query, encoded. str() has no query: it may
    be signed.
    """

    scheme: str
    host: str
    address: Optional[Address]
    port: int
    target: str

    @classmethod
    def of(cls, text: str) -> Url:
        """Raises MediaError, whose text has no part of the URL that may be a secret."""
        if len(text) > MOST_CHARACTERS:
            raise MediaError(f"a URL of {len(text):,} characters was given, of at most {MOST_CHARACTERS:,}.")
        if re.search(r"[\x00-\x20\x7f\\]", text):
            raise MediaError("the URL has a space, a backslash or a control character: encode it, as %20.")
        try:
            parts = urlsplit(text)
            scheme, netloc, host, port = parts.scheme.lower(), parts.netloc, parts.hostname or "", parts.port
            name = host if ":" in host else ascii_name(host)
        except ValueError:  # its text quotes the host, and so what stands before an @
            raise MediaError("the URL cannot be read: expected https://host/path.") from None
        if scheme not in DEFAULT_PORTS:
            raise MediaError("expected an http or https URL.")
        if "@" in netloc:
            raise MediaError("the URL has a user or a password, and none is ever sent: give one without, or the bytes.")
        address = None
        try:
            address = ip_address(name)
        except ValueError:
            if not is_name(name):
                raise MediaError(
                    "the URL's host is neither a name nor an address: expected https://host/path."
                ) from None
        if port == 0:
            raise MediaError("the URL's port is 0: expected https://host/path.")
        query = f"?{quote(parts.query, safe=KEPT + '?')}" if parts.query else ""
        target = quote(parts.path or "/", safe=KEPT) + query
        return cls(scheme, name, address, port or DEFAULT_PORTS[scheme], target)

    @property
    def authority(self) -> str:
        """Host and port, as the Host header has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def whole(self) -> str:
        return f"{self.scheme}://{self.authority}{self.target}"

    def __str__(self) -> str:
        path, query, _ = self.target.partition("?")
        path = "/..." if "@" in path else path if len(path) <= 200 else path[:200] + "..."
        return f"{self.scheme}://{self.authority}{path}{'?...' if query else ''}"

    def __repr__(self) -> str:
        return f"Url({str(self)!r})"
