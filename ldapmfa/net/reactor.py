"""Twisted's asyncio reactor on uvloop, made lean where every request passes.

Promised here: what is written to a TCP connection on which nothing waits goes to the socket in the same call; a
connection's end is seen even where it came together with octets. All else is Twisted's and uvloop's own, and the proxy
runs on Twisted's plain asyncio reactor too, slower. Not in here: which reactor runs (`ldapmfa.tap`).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import uvloop
from twisted.internet import tcp
from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.main import installReactor


class _AtOnce:
    """A connection that writes at once; Twisted's first has the loop watch whether it may, and then no longer."""

    TLS: bool
    connected: int
    socket: Any
    _waits = False  # whether octets wait until the socket takes them, or the connection is being closed

    def startWriting(self) -> None:
        """The socket took no more."""
        self._waits = True
        super().startWriting()  # type: ignore[misc]

    def stopWriting(self) -> None:
        """The socket took all that waited."""
        self._waits = False
        super().stopWriting()  # type: ignore[misc]

    def write(self, data: bytes) -> None:
        """Hand `data` to the socket; what it does not take waits, and whatever is wrong shows there."""
        if not self._waits and not self.TLS and self.connected and data:
            try:
                sent = self.socket.send(data)
            except OSError:
                sent = 0
            if sent == len(data):
                return
            data = data[sent:]
        super().write(data)  # type: ignore[misc]


class _Server(_AtOnce, tcp.Server):
    """A connection that was accepted."""


class _Client(_AtOnce, tcp.Client):
    """A connection that was asked for."""


class _Connector(tcp.Connector):
    def _makeTransport(self) -> _Client:
        return _Client(self.host, self.port, self.bindAddress, self, self.reactor)


class Reactor(AsyncioSelectorReactor):
    """Twisted's asyncio reactor, with connections that write at once."""

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        """As IReactorTCP says."""
        return _at_once(super().listenTCP(port, factory, backlog, interface))

    def adoptStreamPort(self, fileDescriptor: int, addressFamily: int, factory: Any) -> Any:  # noqa: N803 - Twisted's
        """As IReactorSocket says."""
        port = super().adoptStreamPort(fileDescriptor, addressFamily, factory)
        return port if addressFamily == socket.AF_UNIX else _at_once(port)

    def connectTCP(
        self,
        host: str,
        port: int,
        factory: Any,
        timeout: float = 30.0,
        bindAddress: Any = None,  # noqa: N803 - Twisted's
    ) -> Any:
        """As IReactorTCP says."""
        connector = _Connector(host, port, factory, timeout, bindAddress, self)
        connector.connect()
        return connector


def _at_once(port: Any) -> Any:
    port.transport = _Server
    return port


class Loop(uvloop.Loop):
    """uvloop, that tells of a connection's end even where it came together with octets.

    libuv reports such an event once and then stops watching the socket (uvloop 0.23 and before): a client that
    sends and resets at once would never be seen to leave. So whoever reads is called again if an error is pending.
    """

    def add_reader(self, fd: Any, callback: Callable[..., Any], *args: Any) -> None:  # type: ignore[override]
        """Watch `fd`, as uvloop does.

        The reactor calls with `callWithLogger, reader, what reads, ...`: the reader has the socket, and what reads
        logs by itself, so it is called directly.
        """
        watched = getattr(args[0], "socket", None) if args else None
        if watched is None:
            super().add_reader(fd, callback, *args)
            return
        _, act, *rest = args

        def read() -> None:
            act(*rest)
            if watched.fileno() >= 0 and watched.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                act(*rest)

        super().add_reader(fd, read)


def install() -> None:
    """Make it the reactor of the process."""
    loop = Loop()
    asyncio.set_event_loop(loop)
    installReactor(Reactor(loop))
