"""What Twisted costs without us: a relay on the asyncio reactor and uvloop that finds the frames and passes them on.

It hops from frame to frame in both directions and writes each run of whole frames at once, with back-pressure. It
knows no binds, no limits, no states. Arguments: the port to listen on, and the directory's.
"""

from __future__ import annotations

import sys
from typing import Any

import uvloop
from twisted.internet import asyncioreactor, endpoints, protocol


def boundary(data: bytes) -> int:
    """Where the last whole frame in `data` ends."""
    at, end = 0, len(data)
    while end - at >= 2:
        length = data[at + 1]
        stop = at + 2 + length
        if length >= 0x80:
            start = at + 2 + (length & 0x7F)
            if start > end:
                break
            stop = start + int.from_bytes(data[at + 2 : start], "big")
        if stop > end:
            break
        at = stop
    return at


class Relay(protocol.Protocol):
    """One side of a pair."""

    transport: Any
    other: Any = None

    def __init__(self) -> None:
        self._rest = b""
        self._ended = False

    def join(self, other: Relay) -> None:
        """Pass on to `other` from now on, what has come already first."""
        self.other = other
        self.transport.registerProducer(other.transport, streaming=True)
        self.dataReceived(b"")
        if self._ended:
            other.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        """Whole frames go on, the rest of one waits."""
        if self._rest:
            data = self._rest + data
        if self.other is None:
            self._rest = data
            return
        at = boundary(data)
        if at == len(data):
            self._rest = b""
            self.other.transport.write(data)
            return
        self._rest = data[at:]
        if at:
            self.other.transport.write(data[:at])

    def connectionLost(self, reason: Any = None) -> None:  # noqa: ARG002 - Twisted's signature
        """The other side ends too."""
        self._ended = True
        if self.other is not None:
            self.transport.unregisterProducer()
            self.other.transport.loseConnection()


def main(port: int, directory: int) -> None:
    """Serve until stopped."""
    asyncioreactor.install(uvloop.new_event_loop())
    from twisted.internet import reactor as installed  # noqa: PLC0415 - installed just now

    reactor: Any = installed

    class Far(Relay):
        def __init__(self, near: Relay) -> None:
            super().__init__()
            self._near = near

        def connectionMade(self) -> None:
            """The pair is complete."""
            self.transport.setTcpNoDelay(True)
            self.join(self._near)
            self._near.join(self)

    class ToDirectory(protocol.ClientFactory):
        noisy = False

        def __init__(self, near: Relay) -> None:
            self._near = near

        def buildProtocol(self, addr: Any) -> Relay:  # noqa: ARG002 - Twisted's signature
            """The side that faces the directory."""
            return Far(self._near)

        def clientConnectionFailed(self, connector: Any, reason: Any) -> None:  # noqa: ARG002 - Twisted's signature
            """No directory, no client."""
            self._near.transport.loseConnection()

    class Near(Relay):
        def connectionMade(self) -> None:
            """Each client has its own connection to the directory."""
            self.transport.setTcpNoDelay(True)
            reactor.connectTCP("127.0.0.1", directory, ToDirectory(self))

    factory = protocol.Factory.forProtocol(Near)
    factory.noisy = False
    endpoints.serverFromString(reactor, f"tcp:{port}:interface=127.0.0.1:backlog=1024").listen(factory)
    reactor.run()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
