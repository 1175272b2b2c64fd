"""Where a call to another system may go. A name is looked up, what it leads to is checked, and the connection goes to
that very address, whatever the name leads to afterwards."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass

import httpx

from bot.errors import DeliveryError


def network_of(host: str) -> str:
    """Who an address stands for where it is counted how often he comes: of the newer protocol its network, because
    everybody has many there. What is no address is left as it is."""
    try:
        address = ipaddress.ip_address(host.split("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
    return str(address)


@dataclass(frozen=True)
class Allowed:
    """Servers that may be called: names or addresses, each perhaps with a port. No port means the scheme's own."""

    public: frozenset[str] = frozenset()
    """By https:// alone, and never where they lie in a private network."""
    private: frozenset[str] = frozenset()
    """Wherever they lie, by http:// too."""

    @classmethod
    def of(cls, public: Iterable[str] = (), private: Iterable[str] = ()) -> Allowed:
        return cls(*(frozenset(each.strip().lower() for each in hosts if each.strip()) for hosts in (public, private)))

    def refusal(self, url: httpx.URL) -> str | None:
        """Why the address may not be called."""
        name = url.host.lower() if url.port is None else f"{url.host.lower()}:{url.port}"
        if url.scheme not in ("http", "https") or not url.host or url.userinfo:
            return "expected an address such as https://api.shop.example, without a name and password"
        if name in self.private:
            return None
        if name not in self.public:
            return f"{name} is not among the servers that may be called"
        return None if url.scheme == "https" else f"{name} may be called by https:// alone"

    def is_private(self, url: httpx.URL) -> bool:
        """Whether it may lie in a private network."""
        return (url.host.lower() if url.port is None else f"{url.host.lower()}:{url.port}") in self.private


async def address_of(url: httpx.URL, *, private: bool) -> str | None:
    """Where the name leads now; None: into a private network, which is not allowed. Raises DeliveryError."""
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise DeliveryError("the name is not known") from error
    addresses = [str(row[4][0]) for row in found]
    if not private and any(not is_public(address) for address in addresses):
        return None
    return addresses[0]


def is_public(address: str) -> bool:
    """Whether an address lies outside of every private network, also where it carries one of the older protocol."""
    found = ipaddress.ip_address(address.split("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        if found.teredo is not None:
            return False
        if (inner := found.ipv4_mapped or found.sixtofour) is not None:
            found = inner
        elif found in _TRANSLATED:
            found = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
    return found.is_global and not found.is_multicast


_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")
"""RFC 6052: the last four bytes are the address that is called."""
