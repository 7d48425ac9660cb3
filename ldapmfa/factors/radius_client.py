"""The client's side of RADIUS over UDP (RFC 2865): a request, sent until something authentic answers it.

Promised here: every request carries a Message-Authenticator, as its first attribute, and a reply counts only if it
came from the address that was asked, answers this very request and is signed with our secret; without a
Message-Authenticator it counts only where the settings say so (CVE-2024-3596). What does not count is ignored, and the
wait goes on. A request is repeated octet for octet, so that a server recognises the duplicate and asks nobody twice.
Each has a socket of its own: ICMP then speaks of this request, and no number of them is too many for one source port.

FactorUnreachable: no server can have got the request. A name is not resolved, or ICMP says after the one and only
transmission that nobody listens; only then is the next server asked. A packet without an answer is FactorDown: whether
it arrived is not known. Packets are pyrad's business; what an answer means for a user is `radius`'s.
"""

from __future__ import annotations

import asyncio
import errno
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self

from pyrad.packet import AuthPacket  # type: ignore[import-untyped]

from ldapmfa.core.secret import Secret
from ldapmfa.errors import FactorDown, FactorUnreachable

if TYPE_CHECKING:
    from ldapmfa.factors.radius_table import RadiusTable
    from ldapmfa.factors.service import Tools

ACCESS_REQUEST: Final = 1
ACCESS_ACCEPT: Final = 2
ACCESS_REJECT: Final = 3
ACCESS_CHALLENGE: Final = 11
STATUS_SERVER: Final = 12
_ANSWERS: Final = (ACCESS_ACCEPT, ACCESS_REJECT, ACCESS_CHALLENGE)

USER_NAME: Final = 1
_USER_PASSWORD: Final = 2
REPLY_MESSAGE: Final = 18
STATE: Final = 24
SESSION_TIMEOUT: Final = 27
CALLED_STATION_ID: Final = 30
CALLING_STATION_ID: Final = 31
NAS_IDENTIFIER: Final = 32
NAS_PORT_TYPE: Final = 61

#: Octets of a value, and of a password that is hidden as RFC 2865 section 5.2 says.
LONGEST_VALUE: Final = 253
LONGEST_PASSWORD: Final = 128
#: The longest packet (RFC 2865 section 3).
_LARGEST: Final = 4096

#: Seconds for which a name's addresses are used again.
FRESH: Final = 60.0
#: What is wrong if the datagram can't have arrived; anything else may be a lack of our own, which must open nothing.
_NOBODY_THERE: Final = frozenset({errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH})
#: What a resolver says when it is we who lack something.
_OUR_FAULT: Final = frozenset({socket.EAI_MEMORY, socket.EAI_SYSTEM})

_SERVER: Final = re.compile(r"(?:\[([0-9a-fA-F:.]+(?:%\w+)?)\]|([\w.-]+))(?::([0-9]{1,5}))?")


@dataclass(frozen=True, slots=True)
class Server:
    """One server, as it is written in the settings."""

    host: str
    port: int = 1812

    @classmethod
    def parse(cls, text: str) -> Self:
        """The server that `text` names; ValueError says what would be right."""
        found = _SERVER.fullmatch(text)
        port = int(found[3] or 1812) if found else 0
        if not found or not 0 < port < 1 << 16:
            raise ValueError('must be host or host:port, for example "radius.example.com:1812" or "[2001:db8::7]:1812"')
        return cls(found[1] or found[2], port)


@dataclass(frozen=True, slots=True)
class Address:
    """Where datagrams go: what a socket wants to know."""

    family: int
    name: tuple[Any, ...]

    def __str__(self) -> str:
        host, port = self.name[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked. `password` is hidden with the secret when it is sent."""

    code: int
    attributes: Mapping[int, bytes]
    password: Secret | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """An authentic answer, and which address it came from."""

    code: int
    address: str
    attributes: Mapping[int, list[bytes]]


class NoAnswer(FactorDown):
    """Nothing that counts came within `seconds`; `ignored` is what came and did not count.

    `since` is the loop's time when it was asked.
    """

    def __init__(self, seconds: float, since: float, ignored: set[str] | None = None) -> None:
        rest = f"; ignored: {', '.join(sorted(ignored))}" if ignored else ""
        super().__init__(f"RADIUS: no answer in {seconds:g} s{rest}")
        self.since = since
        self.ignored = ignored or set()


class Client:
    """Asks the servers of one table. `heard` is the loop's time when something authentic came last."""

    def __init__(self, table: RadiusTable, secret: Secret, tools: Tools) -> None:
        self._table = table
        self._secret = secret
        self._tools = tools
        self._servers = [Server.parse(text) for text in table.servers]
        self._sockets = 0
        self._known: dict[Server, tuple[float, list[Address]]] = {}
        self._lookups: dict[Server, asyncio.Future[Any]] = {}
        self.heard = float("-inf")

    async def ask(self, request: Request, seconds: float, *, at: str = "") -> Reply:
        """The answer of the first server that is there, or of the one `at` that address."""
        ignored: set[str] = set()
        since = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(seconds):
                return await self._ask(request, at, ignored)
        except TimeoutError:
            raise NoAnswer(seconds, since, ignored) from None

    async def _ask(self, request: Request, at: str, ignored: set[str]) -> Reply:
        why = []
        for server in self._servers:
            try:
                addresses = await self._addresses(server)
            except FactorUnreachable as error:
                why.append(str(error))
                continue
            for address in addresses:
                if at not in {"", str(address)}:
                    continue
                try:
                    return await self._exchange(address, request, ignored)
                except FactorUnreachable as error:
                    self._tools.say(str(error))
                    why.append(str(error))
        if not why:
            raise FactorDown("RADIUS: the server that asked for the code is none of ours any more")
        raise FactorUnreachable(f"RADIUS: {'; '.join(why)}")

    async def _exchange(self, address: Address, request: Request, ignored: set[str]) -> Reply:
        table, say = self._table, self._tools.say
        packet = self._packet(request)
        octets = packet.RequestPacket()
        with self._socket(address) as link:
            for repeated in range(table.retries + 1):
                say(f"{'asking' if not repeated else 'asking again, with the same octets,'} {address}")
                try:
                    link.send(octets)
                    # after the last one there is all the time that is left
                    async with asyncio.timeout(table.response_timeout if repeated < table.retries else None):
                        reply = await self._authentic(link, packet, ignored)
                except TimeoutError:
                    continue
                except OSError as error:
                    raise _failure(address, error, first=not repeated) from None
                return Reply(reply.code, str(address), dict(reply.items()))
        raise AssertionError("the last one is waited for without a limit")

    def _packet(self, request: Request) -> AuthPacket:
        entropy = self._tools.entropy
        packet = AuthPacket(
            code=request.code,
            id=entropy(1)[0],
            secret=self._secret.reveal(),
            authenticator=entropy(16),
            message_authenticator=True,
        )
        for kind, value in request.attributes.items():
            packet[kind] = [value]
        if request.password is not None:
            packet[_USER_PASSWORD] = [packet.PwCrypt(request.password.reveal())]
        return packet

    @contextmanager
    def _socket(self, address: Address) -> Iterator[socket.socket]:
        """A socket that takes datagrams of this address only, and hears what ICMP says of it."""
        if self._sockets >= self._table.connections:
            raise FactorDown(f"RADIUS: all {self._table.connections} connections are in use")
        try:
            link = socket.socket(address.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        except OSError as error:
            raise FactorDown(f"RADIUS: no socket can be had: {error.strerror}") from None
        self._sockets += 1
        try:
            try:
                link.connect(address.name)
            except OSError as error:
                raise _failure(address, error, first=True) from None
            yield link
        finally:
            link.close()
            self._sockets -= 1

    async def _authentic(self, link: socket.socket, packet: AuthPacket, ignored: set[str]) -> AuthPacket:
        loop = asyncio.get_running_loop()
        while True:
            octets = await loop.sock_recv(link, _LARGEST)
            reply, wrong = self._read(packet, octets)
            if not wrong:
                self.heard = loop.time()
                return reply
            if wrong not in ignored:
                ignored.add(wrong)
                self._tools.say(f"ignored: {wrong}")
            await asyncio.sleep(0)  # a flood of them must not keep the loop

    def _read(self, packet: AuthPacket, octets: bytes) -> tuple[AuthPacket, str]:
        """The reply in a datagram, or what is wrong with it."""
        try:
            reply = AuthPacket(packet=octets)
            if reply.code not in _ANSWERS or reply.id != packet.id:
                return None, "an answer to another request"
            if packet.VerifyReply(reply, octets, enforce_ma=self._table.require_message_authenticator):
                return reply, ""
            if not reply.message_authenticator and packet.VerifyReply(reply, octets):
                return None, "an answer without Message-Authenticator"
        except Exception:  # noqa: BLE001 - anybody can send anything here
            return None, "something that is not RADIUS"
        return None, "an answer that is not signed with our secret, or not for this request"

    async def _addresses(self, server: Server) -> list[Address]:
        """The server's addresses. Resolving a name takes the event loop's resolver; writing addresses avoids that."""
        try:
            numeric = socket.AI_NUMERICHOST
            return _found(socket.getaddrinfo(server.host, server.port, type=socket.SOCK_DGRAM, flags=numeric))
        except socket.gaierror:
            pass  # it is a name
        loop = asyncio.get_running_loop()
        since, known = self._known.get(server, (float("-inf"), []))
        if loop.time() - since < FRESH:
            return known
        if server not in self._lookups:
            lookup = asyncio.ensure_future(loop.getaddrinfo(server.host, server.port, type=socket.SOCK_DGRAM))
            self._lookups[server] = lookup
            lookup.add_done_callback(partial(self._looked_up, server))
        try:
            async with asyncio.timeout(self._table.connect_timeout):
                return _found(await asyncio.shield(self._lookups[server]))
        except TimeoutError:
            why = f"the name {server.host} is not resolved in {self._table.connect_timeout:g} s"
        except OSError as error:
            if error.errno in _OUR_FAULT:
                raise FactorDown(f"RADIUS: the name {server.host} can't be resolved: {error.strerror}") from None
            why = f"the name {server.host} can't be resolved: {error.strerror}"
        if known:
            return known
        self._tools.say(why)
        raise FactorUnreachable(why)

    def _looked_up(self, server: Server, lookup: asyncio.Future[Any]) -> None:
        self._lookups.pop(server, None)
        if not lookup.cancelled() and not lookup.exception():
            self._known[server] = (lookup.get_loop().time(), _found(lookup.result()))

    def close(self) -> None:
        """Resolve no more names."""
        for lookup in list(self._lookups.values()):
            lookup.cancel()


def _found(answers: list[Any]) -> list[Address]:
    """Addresses in the resolver's order, each once."""
    return list(dict.fromkeys(Address(family, name) for family, _, _, _, name in answers))


def _failure(address: Address, error: OSError, *, first: bool) -> FactorDown:
    """What it means that the operating system reports `error`; after a repetition the first one may have arrived."""
    if first and error.errno in _NOBODY_THERE:
        return FactorUnreachable(f"nobody is at {address} ({error.strerror})")
    return FactorDown(f"RADIUS: {address}: {error.strerror}")
