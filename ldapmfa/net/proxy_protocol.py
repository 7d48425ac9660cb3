"""Believe a PROXY header from a load balancer, and from nobody else (A36).

Promised here: from a trusted source a header must come, whole, before anything else, once; from any other none is
read, so that one sent all the same is no LDAP. What stands behind it is handed on unread, be it LDAP or TLS.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IHandshakeListener
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from zope.interface import implementer

from ldapmfa.core.policy import Network
from ldapmfa.wire.proxy import ProxyHeaderError, plain, read_header


class _Unknown:
    """The peer of a connection that a balancer opened for itself: no network is its home."""

    def __repr__(self) -> str:
        return "unknown"


@implementer(IHandshakeListener)
class ProxyHeaderProtocol(ProtocolWrapper):
    """Reads the header, then becomes a transport whose peer is the header's."""

    factory: ProxyHeaderFactory
    transport: Any  # Twisted's interfaces are no types

    def __init__(self, factory: Any, wrapped: Any) -> None:
        super().__init__(factory, wrapped)
        self._head: bytes | None = None
        self._peer: Any = None
        self._timer: Any = None

    def makeConnection(self, transport: Any) -> None:
        """Wait for a header if the source is trusted."""
        self.transport = transport
        if not self.factory.trusts(transport.getPeer()):
            super().makeConnection(transport)
            return
        self._head = b""
        self._timer = self.factory.clock.callLater(self.factory.timeout, self._give_up, "no PROXY header in time")

    def getPeer(self) -> Any:
        """Whom the header names, or the socket's peer where none is expected."""
        return self._peer or self.transport.getPeer()

    def dataReceived(self, data: bytes) -> None:
        """Collect the header, then hand on."""
        if self._head is None:
            super().dataReceived(data)
            return
        self._head += data
        try:
            header = read_header(self._head)
        except ProxyHeaderError as broken:
            self._give_up(str(broken))
            return
        if header is None:
            return
        rest, self._head = self._head[header.size :], None
        self._timer.cancel()
        if header.client is None:
            self._peer = _Unknown()
        else:
            kind = IPv4Address if header.client.version == 4 else IPv6Address
            self._peer = kind("TCP", str(header.client), header.port or 0)
        super().makeConnection(self.transport)
        if rest:
            super().dataReceived(rest)

    def handshakeCompleted(self) -> None:
        """StartTLS was agreed on behind the header, and TLS stands."""
        if IHandshakeListener.providedBy(self.wrappedProtocol):
            self.wrappedProtocol.handshakeCompleted()

    def connectionLost(self, reason: Any = None) -> None:
        """The connection went, perhaps before the header came."""
        if self._head is None:
            super().connectionLost(reason)
        elif self._timer.active():
            self._timer.cancel()

    def _give_up(self, why: str) -> None:
        if self._timer.active():
            self._timer.cancel()
        self.factory.refused(self.transport.getPeer(), why)
        self.transport.abortConnection()


class ProxyHeaderFactory(WrappingFactory):
    """Wraps a listener's factory; `refused` is told of a peer and why its connection was closed."""

    protocol = ProxyHeaderProtocol

    def __init__(
        self,
        wrapped: Any,
        networks: Sequence[Network],
        clock: Any,
        refused: Callable[[Any, str], None],
        timeout: float = 10.0,
    ) -> None:
        super().__init__(wrapped)
        self.networks = networks
        self.clock = clock
        self.refused = refused
        self.timeout = timeout

    def trusts(self, peer: Any) -> bool:
        """Whether a header is to be expected from `peer`."""
        address = address_of(peer)
        return address is not None and any(address in network for network in self.networks)


def address_of(peer: Any) -> Any:
    """The IP address of a Twisted address, an IPv4-mapped one as IPv4; None where there is none."""
    if not isinstance(peer, (IPv4Address, IPv6Address)):
        return None
    return _address(peer.host)


@lru_cache(maxsize=1024)
def _address(host: str) -> Any:
    return plain(ipaddress.ip_address(host.partition("%")[0]))
