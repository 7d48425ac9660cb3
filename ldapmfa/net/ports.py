"""The listening sockets: opened as the configuration says, or taken over from the process that opened them.

Promised here: a socket that was taken over is not ours alone. Its queue, its file and the file's mode are left as they
are, when it is taken and when it is let go. Where nobody can be accepted, for want of descriptors, the loop does not
spin. Not in here: who comes in.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
from collections.abc import Sequence
from typing import Any, Final

from twisted.internet import tcp, unix
from twisted.internet.endpoints import AdoptedStreamServerEndpoint, serverFromString

from ldapmfa.config import Listen
from ldapmfa.errors import ConfigError

#: Connections that may wait to be accepted, at each listener.
_BACKLOG: Final = 1024
#: Seconds that a port rests where it can't accept anybody.
_REST: Final = 0.1


class _TakenUnix(unix.Port):
    """A Unix port on a socket that was listening before.

    Twisted's would make the file everybody's (mode 666), shorten the queue, and remove the file at its end.
    """

    def startListening(self) -> None:
        """Begin to accept."""
        tcp.Port.startListening(self)

    def connectionLost(self, reason: Any) -> None:
        """Let go of the socket."""
        tcp.Port.connectionLost(self, reason)


async def open_ports(
    reactor: Any,
    listens: Sequence[Listen],
    factories: Sequence[Any],
    taken: Sequence[int] = (),
    *,
    waiting: bool = False,
    only: Sequence[int] | None = None,
) -> list[Any]:
    """The port of each listener, to its factory; `taken` are descriptors of those that listen already, all or none.

    Where they are `waiting` they listen, and accept nobody until they are told to read. With `only` those listeners are
    meant, by their numbers, and `taken` are theirs. ConfigError has every endpoint that can't be listened on; then none
    is left open.
    """
    ports, mistakes = [], []
    for place, number in enumerate(range(len(listens)) if only is None else only):
        listen, factory = listens[number], factories[number]
        try:
            if taken:
                port = take(reactor, taken[place], factory)
            else:
                port = await _open(reactor, listen.endpoint, factory, waiting)
            if waiting:
                port.stopReading()
        except Exception as failed:  # noqa: BLE001 - whatever an endpoint raises, it is a mistake in its string
            mistakes.append(f"listen[{number}].endpoint: {listen.endpoint} can't be listened on: {failed}")
        else:
            ports.append(_resting(reactor, port))
    if mistakes:
        await close_ports(ports)
        raise ConfigError(mistakes)
    return ports


def _resting(reactor: Any, port: Any) -> Any:
    """Let `port` pause a moment where it can't accept who waits: no descriptor is left, or no memory.

    Twisted's keeps one descriptor, to close those who are too many; without it the loop would only try, and log it.
    """
    accept = port.doRead

    def again() -> None:
        if port.connected and not port.disconnecting:
            port.startReading()

    def some() -> None:
        before = port.sessionno
        accept()
        if port.sessionno == before and port.connected and _has_waiting(port):
            port.stopReading()
            reactor.callLater(_REST, again)

    port.doRead = some
    return port


def _has_waiting(port: Any) -> bool:
    waiting = select.poll()
    waiting.register(port, select.POLLIN)
    return bool(waiting.poll(0))


async def close_ports(ports: Sequence[Any]) -> None:
    """Accept nobody any more."""
    for port in ports:
        stopped = port.stopListening()
        if stopped is not None:
            await stopped.asFuture(asyncio.get_running_loop())


def lend(port: Any) -> int:
    """The descriptor of a port's socket, for others to take; the port itself accepts nobody, and ends for itself."""
    port.stopReading()
    port._shouldShutdown = False  # noqa: SLF001 - the one way to end a port of Twisted's and not its socket
    return int(port.fileno())


def take(reactor: Any, descriptor: int, factory: Any) -> Any:
    """A port that accepts from the listening socket `descriptor`, which is closed: the port has its own."""
    with socket.socket(fileno=descriptor) as opened:
        opened.setblocking(False)  # noqa: FBT003 - Python's own
        if opened.family != socket.AF_UNIX:
            return reactor.adoptStreamPort(descriptor, opened.family, factory)
        take_unix: Any = _TakenUnix._fromListeningDescriptor  # noqa: SLF001 - what adoptStreamPort calls
        port = take_unix(reactor, descriptor, factory)
    port.startListening()
    return port


def hand_over(port: Any, factory: Any) -> None:
    """Let `factory` make the protocols of those who are accepted from now on."""
    old, port.factory = port.factory, factory
    factory.doStart()
    old.doStop()


async def _open(reactor: Any, endpoint: str, factory: Any, waiting: bool) -> Any:  # noqa: FBT001 - its only caller's
    opened = serverFromString(reactor, _with_backlog(endpoint))
    if isinstance(opened, AdoptedStreamServerEndpoint):
        # the one that was inherited stays: its number would be another file's for a reload that names it once more
        return take(reactor, os.dup(opened.fileno), factory)
    listening = opened.listen(factory)
    if waiting and listening.called:
        listening.result.stopReading()  # before the loop turns, and somebody is accepted
    return await listening.asFuture(asyncio.get_running_loop())


def _with_backlog(endpoint: str) -> str:
    """The endpoint string with room for a burst of connects, unless it says how much: Twisted's 50 stall one."""
    if endpoint.startswith("systemd:") or "backlog=" in endpoint:
        return endpoint
    return f"{endpoint}:backlog={_BACKLOG}"
