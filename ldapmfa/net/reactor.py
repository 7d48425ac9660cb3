"""Twisted's asyncio reactor on uvloop, made lean where every request passes.

Promised here: what is written to a TCP connection on which nothing waits goes to the socket in the same call; a timer
is one of the event loop's own; a connection's end is seen even where it came together with octets. All else is
Twisted's and uvloop's own, and the proxy runs on Twisted's plain asyncio reactor too, slower. Not in here: which
reactor runs (`ldapmfa.tap`).
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import uvloop
from twisted.internet import tcp
from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.error import AlreadyCalled, AlreadyCancelled, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.main import installReactor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

#: Seconds after which a connection that was read from is looked at once more.
_LOOK_AGAIN: Final = 1.0
_DONE: Final = Failure(ConnectionDone())
_LOST: Final = Failure(ConnectionLost())


class _AtOnce(tcp.Connection):
    """A connection that writes at once; Twisted's first has the loop watch whether it may, and then no longer.

    Whoever writes is told of nothing: whatever is wrong comes later, as the connection's end.
    """

    _broken = False  # whether octets could not be written: none may follow them
    _waits = False  # whether octets wait until the socket takes them, or the connection is being closed

    def startWriting(self) -> None:
        """The socket took no more."""
        self._waits = True
        super().startWriting()  # type: ignore[no-untyped-call]

    def stopWriting(self) -> None:
        """The socket took all that waited."""
        self._waits = False
        super().stopWriting()  # type: ignore[no-untyped-call]

    def write(self, data: bytes) -> None:
        """Hand `data` to the socket; what it does not take waits."""
        if self._broken or self._aborting:
            return
        if not self._waits and not self.disconnecting and not self.TLS and self.connected and data:
            try:
                sent = self.socket.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._broken = True
                self.reactor.callLater(0, self._break)
                return
            if sent == len(data):
                return
            data = data[sent:]
        super().write(data)  # type: ignore[no-untyped-call]

    def loseConnection(self) -> None:
        """Close, behind what waits; where nothing does, without having the loop watch whether it may be written."""
        if self._waits or self.TLS or not self.connected or self.producer:
            super().loseConnection()  # type: ignore[no-untyped-call]
        elif not self.disconnecting:
            self.disconnecting = True  # what is still written waits, and Twisted closes behind it
            self.stopReading()  # type: ignore[no-untyped-call]
            self.reactor.callLater(0, self._close)

    def _close(self) -> None:
        if self.connected and not self._waits:
            self.connectionLost(_DONE)

    def _break(self) -> None:
        if self.connected:
            self.connectionLost(_LOST)


class _Server(_AtOnce, tcp.Server):
    """A connection that was accepted."""


class _Client(_AtOnce, tcp.Client):
    """A connection that was asked for."""


class _Connector(tcp.Connector):
    def _makeTransport(self) -> _Client:
        return _Client(self.host, self.port, self.bindAddress, self, self.reactor)  # type: ignore[no-untyped-call]


@implementer(IDelayedCall)
class Timer:
    """One call, later; never early. Most are cancelled: to make and to cancel one costs next to nothing."""

    __slots__ = ("_act", "_at", "_handle", "_loop", "_over")
    _log = Logger()

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, act: Callable[[], Any]) -> None:
        self._loop = loop
        self._act: Callable[[], Any] | None = act
        self._over: type[Exception] | None = None
        self._at = loop.time() + seconds
        self._handle = loop.call_later(seconds, self._expire)

    def _expire(self) -> None:
        left = self._at - self._loop.time()
        if left > 0:  # it was put off, or the loop's clock counts in larger steps
            self._handle = self._loop.call_later(left, self._expire)
            return
        act, self._act, self._over = self._act, None, AlreadyCalled
        try:
            if act:
                act()
        except Exception:  # noqa: BLE001 - as Twisted: reported, and the loop goes on
            self._log.failure("in a delayed call")

    def active(self) -> bool:
        """Whether it is still to come."""
        return self._over is None

    def getTime(self) -> float:
        """When it is due, in the reactor's seconds."""
        return self._at

    def cancel(self) -> None:
        """Let it not happen. Raises AlreadyCalled, AlreadyCancelled."""
        self._check()
        self._over, self._act = AlreadyCancelled, None
        self._handle.cancel()

    def reset(self, secondsFromNow: float) -> None:  # noqa: N803 - Twisted's
        """Let it happen in so many seconds from now."""
        self._check()
        self._due(self._loop.time() + secondsFromNow)

    def delay(self, secondsLater: float) -> None:  # noqa: N803 - Twisted's
        """Let it happen so many seconds later."""
        self._check()
        self._due(self._at + secondsLater)

    def _check(self) -> None:
        if self._over:
            raise self._over

    def _due(self, at: float) -> None:
        sooner, self._at = at < self._at, at
        if sooner:
            self._handle.cancel()
            self._handle = self._loop.call_later(max(0.0, at - self._loop.time()), self._expire)


class Reactor(AsyncioSelectorReactor):
    """Twisted's asyncio reactor, with connections that write at once and timers that cost little."""

    def seconds(self) -> float:
        """As IReactorTime says, by the clock of the timers, which is never set."""
        return float(self._asyncioEventloop.time())

    def callLater(  # type: ignore[override]
        self,
        delay: float,
        callable: Callable[..., Any],  # noqa: A002 - Twisted's
        *args: Any,
        **named: Any,
    ) -> Timer:
        """As IReactorTime says."""
        act = partial(callable, *args, **named) if args or named else callable
        return Timer(self._asyncioEventloop, delay, act)

    def stop(self) -> None:
        """As IReactorCore says; Twisted's expects its own timers to find out that it was called."""
        super().stop()  # type: ignore[no-untyped-call]
        self._asyncioEventloop.call_soon(self.runUntilCurrent)

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        """As IReactorTCP says."""
        return _at_once(super().listenTCP(port, factory, backlog, interface))  # type: ignore[no-untyped-call]

    def adoptStreamPort(self, fileDescriptor: int, addressFamily: int, factory: Any) -> Any:  # noqa: N803 - Twisted's
        """As IReactorSocket says."""
        port: Any = super().adoptStreamPort(fileDescriptor, addressFamily, factory)  # type: ignore[no-untyped-call]
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

    libuv reports such an event once and then gives the socket up (uvloop 0.23 and before): a client that sends and
    resets at once would never be seen to leave. So whoever has read is looked after, once a second.
    """

    def __init__(self) -> None:
        super().__init__()
        self._reads: dict[int, Callable[[], None]] = {}
        self._recent: set[int] = set()

    def add_reader(self, fd: Any, callback: Callable[..., Any], *args: Any) -> None:  # type: ignore[override]
        """Watch `fd`, as uvloop does.

        The reactor calls with `callWithLogger, reader, what reads, ...`: the reader has the socket, and what reads
        logs by itself, so it is called directly.
        """
        if not args or not hasattr(args[0], "socket"):
            super().add_reader(fd, callback, *args)
            return
        recent, act = self._recent, partial(args[1], *args[2:])

        def read() -> None:
            act()
            if not recent:
                self.call_later(_LOOK_AGAIN, self._look_again)
            recent.add(fd)

        self._reads[fd] = act
        try:
            super().add_reader(fd, read)
        except RuntimeError:  # given up before: what ended the connection is still to be read
            self.call_soon(read)

    def remove_reader(self, fd: Any) -> bool:  # type: ignore[override]
        """Watch `fd` no longer."""
        self._reads.pop(fd, None)
        return bool(super().remove_reader(fd))

    def add_writer(self, fd: Any, callback: Callable[..., Any], *args: Any) -> None:  # type: ignore[override]
        """As uvloop does; a socket that was given up says at once what is wrong."""
        try:
            super().add_writer(fd, callback, *args)
        except RuntimeError:
            self.call_soon(callback, *args)

    def _look_again(self) -> None:
        ended = select.poll()
        for fd in self._recent.intersection(self._reads):
            ended.register(fd, 0)
        self._recent.clear()
        for fd, _ in ended.poll(0):
            if fd in self._reads:
                self._reads[fd]()
                self._recent.add(fd)  # until it is gone
        if self._recent:
            self.call_later(_LOOK_AGAIN, self._look_again)


def install() -> None:
    """Make it the reactor of the process."""
    loop = Loop()
    asyncio.set_event_loop(loop)
    installReactor(Reactor(loop))
