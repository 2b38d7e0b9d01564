"""A host that URLs may name: one entry of `media_hosts`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Optional, Union

from rayllm_batch.media.address import Address, is_forbidden, is_public, reached

DEFAULT_PORTS = {"http": 80, "https": 443}
NAME = r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*"


@dataclass(frozen=True)
class HostRule:
    """name: a host, `*.` and a domain, or `*`. network: in place of a name. port: None: http's 80, https' 443."""

    name: str = ""
    network: Union[IPv4Network, IPv6Network, None] = None
    port: Optional[int] = None

    @classmethod
    def of(cls, entry: str) -> HostRule:
        """Raises ValueError, whose text says why the entry is none."""
        inner, bracket, after = entry[1:].partition("]") if entry.startswith("[") else ("", "", "")
        name, colon, port = (inner, after[:1], after[1:]) if bracket else entry.rpartition(":")
        if not bracket and (not colon or ":" in name):  # no port, or an IPv6 address without brackets
            name, colon, port = entry, "", ""
        if colon not in ("", ":") or (colon and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536)):
            raise ValueError("what follows the host's colon is no port")
        number = int(port) if port else None
        try:
            network = ip_network(name)
        except ValueError:
            if "/" in name or ":" in name:
                raise ValueError("it is neither a name nor a network, such as 10.0.0.0/8") from None
        else:
            if network.prefixlen == 0:
                raise ValueError("it is every address, private ones too; '*' is any host with a public address")
            if network.num_addresses == 1 and is_forbidden(network.network_address):
                raise ValueError("no row may reach such an address")
            return cls(network=network, port=number)
        name = ascii_name(name)
        if name != "*" and not is_name(name.removeprefix("*.")):
            raise ValueError("it is no host's name")
        return cls(name, None, number)

    def allows(self, scheme: str, host: str, literal: Optional[Address], port: int) -> bool:
        """Whether a URL may name this host. literal: the host as an address, where it is one."""
        if port != (self.port or DEFAULT_PORTS[scheme]):
            return False
        if self.network is not None:
            return literal is not None and self.holds(literal)
        if self.name.startswith("*."):
            return literal is None and host.endswith(self.name[1:])
        return self.name in ("*", host)

    def holds(self, address: Address) -> bool:
        return self.network is not None and reached(address) in self.network


def may_connect(rules: list[HostRule], address: Address, port: int) -> bool:
    """Whether a host that is allowed may lead to this address: a public one, or one that is named."""
    if is_forbidden(address):
        return False
    return is_public(address) or any(one.holds(address) and one.port in (None, port) for one in rules)


def is_name(host: str) -> bool:
    """A name in ASCII. `2130706433`, `0x7f.1` and `127.1`, which some resolvers take for addresses, are none."""
    return re.fullmatch(NAME, host) is not None and re.fullmatch(r"\d+|0x[0-9a-f]*", host.rpartition(".")[2]) is None


def ascii_name(host: str) -> str:
    """As resolvers get it: small letters, international names encoded, no final dot. Raises ValueError."""
    name = host.lower().removesuffix(".")
    return name if name.isascii() else name.encode("idna").decode().lower().removesuffix(".")
