"""IP addresses: which are reached by everybody, and which by nobody through a row."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Union

Address = Union[IPv4Address, IPv6Address]
NAT64 = "64:ff9b::/96"
# Where clouds tell a machine its secrets. The first is a public address by every registry, and still only theirs.
METADATA = "168.63.129.16 169.254.169.254 100.100.100.200 192.0.0.192 fd00:ec2::254 fd20:ce::254"


def reached(address: Address) -> Address:
    """The IPv4 address that an IPv6 address leads to, by mapping, 6to4 or NAT64; else the address itself."""
    if isinstance(address, IPv4Address):
        return address
    if address in ip_network(NAT64):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address


def is_forbidden(address: Address) -> bool:
    """Never connected to, whatever a workload allows: metadata services, this network's own and groups' addresses."""
    there = reached(address)
    return (
        there.is_link_local
        or there.is_multicast
        or there.is_unspecified
        or (there.is_reserved and not there.is_loopback)
        or there in ip_network("0.0.0.0/8")
        or there in map(ip_address, METADATA.split())
    )


def is_public(address: Address) -> bool:
    there = reached(address)
    if there.version == 6 and there not in ip_network("2000::/3"):  # of the rest Python's versions think variously
        return False
    return there.is_global and not is_forbidden(there)
