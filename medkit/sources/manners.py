"""Whom we may speak to: checked for each address, each redirect and each connection.

An address that the user typed is asked for, wherever it leads: hospital servers are on private
networks. What a descriptor, a manifest or a redirect names must be https, of a host that the
source is known to use, and public: nothing on the network may send us to a service on this
machine or beside it (CWE-918). A name is looked up once, and the connection goes to the address
that was checked, so that a name that changes its address meanwhile gains nothing.
"""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

from medkit.errors import SourceError
from medkit.sources.addresses import hide_query, is_loopback, is_safe, place_of

_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: IPv4 in its last four bytes


@dataclass(frozen=True)
class Manners:
    """The hosts of one source.

    Attributes
    ----------
    hosts : tuple of str or None
        Names or patterns (``"*.amazonaws.com"``) that may be spoken to; None for all that are
        public.
    asked : tuple of str
        What the user typed, as `addresses.place_of` writes it: host and port.
    plain : bool
        Whether http without s may be spoken to those, also where they are not this machine.
    """

    hosts: tuple[str, ...] | None = ()
    asked: tuple[str, ...] = ()
    plain: bool = False
    _passed: set[str] = field(default_factory=set, compare=False, repr=False)

    def check(self, url: str, whence: str = "") -> None:
        """Let an address through, or raise.

        Parameters
        ----------
        url : str
            Where a request would go.
        whence : str
            The address that redirects to it, if one does.

        Raises
        ------
        SourceError
            If it is not https, not of a known host, or plainly not public.
        """
        origin = url[: url.find("/", 8)]
        if origin in self._passed:
            return
        self._check(url, whence)
        self._passed.add(origin)

    def _check(self, url: str, whence: str) -> None:
        said = f"{hide_query(whence)} redirects to" if whence else "there is a wish for"
        shown = repr(hide_query(url))
        place, host = place_of(url), (urlsplit(url).hostname or "") if place_of(url) else ""
        is_asked = place in self.asked
        if not is_safe(url, loopback=is_asked or not self.asked, plain=self.plain and is_asked):
            raise SourceError(f"{said} {shown}, which is not https")
        if is_asked:
            return
        if is_loopback(host) or not _may_be_public(host):
            raise SourceError(
                f"{said} {shown}, on this machine or a private network, for which nobody asked"
            )
        if self.hosts is not None and not any(fnmatchcase(host, known) for known in self.hosts):
            known = ", ".join(self.hosts) or "none"
            raise SourceError(f"{said} {shown}, no host of this source (known: {known})")

    def resolve(self, host: str, port: int) -> list[str]:
        """Return the addresses of a host that may be connected to.

        Raises
        ------
        OSError
            If the name is not known, or there is no network.
        SourceError
            If it is only known under addresses that are not public.
        """
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
        is_asked = f"{host.lower()}:{port}" in self.asked
        right = [
            address
            for address in addresses
            if is_public(address)
            or (is_asked and (address == host or not _parse(address).is_link_local))
        ]
        if not right:
            raise SourceError(
                f"{host} is at {', '.join(addresses)}, on this machine or a private network, for "
                "which nobody asked"
            )
        return right


def is_public(address: str) -> bool:
    """Tell whether an IP address is one of the open network, whatever it is wrapped in."""
    parsed = _parse(address)
    return parsed.is_global and not parsed.is_multicast


def _may_be_public(host: str) -> bool:
    try:
        return is_public(host)
    except ValueError:  # a name, which is looked up when it is connected to
        return True


def _parse(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return an address, taken out of the IPv6 address that leads to it."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv4Address):
        return parsed
    inner = parsed.ipv4_mapped or parsed.sixtofour or (parsed.teredo or (None, None))[1]
    if inner is None and parsed in _NAT64:
        inner = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
    return inner or parsed
