"""The side that faces the directory: connections, bind, identify, relay, drop, failover.

Promised here: at most one link for each client, with one request of ours in flight on it; while we converse every
frame is decoded, and one that does not answer our request breaks the link (A49); a bind that was answered by anything
but success closes it (A50). Not in here: what a client may send; that is the session's.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from OpenSSL import SSL
from twisted.internet import protocol
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Factory
from zope.interface import implementer

from ldapmfa.core.identity import (
    ROOT_DSE_ATTRIBUTES,
    Ask,
    CannotIdentify,
    Capabilities,
    Found,
    Identity,
    Kind,
    Unidentified,
    identify,
    read_capabilities,
)
from ldapmfa.core.login import PasswordAnswer
from ldapmfa.core.secret import Secret
from ldapmfa.errors import DirectoryDown
from ldapmfa.net.tls import client_context, over_tls
from ldapmfa.wire import ldap
from ldapmfa.wire.ber import BerError
from ldapmfa.wire.ldap import Answers, Frame

#: The longest answer to a request of ours that is read: an account's entry, or a rootDSE.
_LONGEST_ANSWER: Final = 10 * 1024 * 1024
#: How long a directory that refused a connection is tried last, in seconds.
_AVOIDED: Final = 30.0
#: How long a closed link may take to flush, in seconds.
_LINGER: Final = 5.0
#: How long a login waits for a link that another one gives back, in seconds; then it opens one.
_RETURNING: Final = 0.1
#: How many connections to the directory may be opening at once; more would only wait in its queue.
_CONNECTING: Final = 64
#: How long, in seconds, and for how many accounts an entry is kept that an account showed of itself.
_KEPT_SECONDS: Final = 30.0
_KEPT: Final = 10_000

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Server:
    """Where one directory server listens."""

    host: str
    port: int
    ldaps: bool

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ldap{'s' if self.ldaps else ''}://{host}:{self.port}"


class LinkLost(DirectoryDown):
    """The link went while we waited. `untouched`: before any octet of the answer had come."""

    def __init__(self, why: str, *, untouched: bool = False) -> None:
        super().__init__(why)
        self.untouched = untouched


class Sink(Protocol):
    """Whoever takes what the directory sends for a client."""

    def answers_came(self, data: bytes, boundary: int) -> None:
        """`data` of the stream; `boundary` as `Answers.feed` says it."""

    def link_lost(self) -> None:
        """The link is gone, not by our doing."""


@dataclass
class _Asked:
    message_id: int
    final: int
    done: asyncio.Future[tuple[Frame, list[ldap.Entry]]]
    entries: list[ldap.Entry]


@implementer(IHandshakeListener)
class Link(protocol.Protocol):
    """One connection to a directory. It converses with us, until a sink is attached; then it relays."""

    transport: Any  # Twisted's interfaces are no types

    def __init__(self, server: Server, clock: Any, chance: Callable[[], int], timeout: float) -> None:
        self.server = server
        self.used = False  #: whether it served before: then its being dead says little of the directory
        self.misbehaved = False  #: whether it was ended because the directory sent what nobody asked for, or garbage
        self.spare_since = 0.0  #: when it was last given back, in the clock's seconds
        self._clock = clock
        self._chance = chance
        self._timeout = timeout
        self._sink: Sink | None = None
        self._answers = Answers()
        self._sent = 0
        self._unsure = False
        self._buffer = bytearray()
        self._asked: _Asked | None = None
        self._due = 0.0
        self._watch: Any = None  # the one timer of the link: it looks whether what was asked is overdue
        self._clean = True  # whether it saw nothing but our binds and look-ups
        self._secured: asyncio.Future[None] | None = None
        self._encrypted = False
        self._open = False
        self._touched = False  # whether anything came since we asked
        self._ending = False  # whether the message that has begun is the last one to be passed on
        self._garbled = False
        self._lingering: Any = None
        self._why = "the directory closed the connection"

    # -- what Twisted calls

    def connectionMade(self) -> None:
        """The connection stands."""
        self._open = True
        keep = getattr(self.transport, "setTcpKeepAlive", None)
        if keep:
            keep(1)
            self.transport.setTcpNoDelay(1)

    def dataReceived(self, data: bytes) -> None:
        """The directory sent something."""
        if not self._open:
            return
        if self._sink is None:
            self._converse(data)
            return
        self._clean = False  # it may be an announcement that nobody asked for
        while data and self._sink is not None:
            size = self._answers.wanted if self._ending else len(data)
            piece, data = data[:size], data[size:]
            try:
                boundary = self._answers.feed(piece)
            except BerError as broken:
                self._garbled = True
                self._break(str(broken))
                return
            self._sink.answers_came(piece, boundary)

    def connectionLost(self, reason: Any = None) -> None:
        """The connection is gone."""
        if self._lingering:
            self._lingering.cancel()
            self._lingering = None
        if self._open:
            if reason is not None and not reason.check(ConnectionDone, ConnectionLost):
                self._why = f"the connection broke: {_why(reason.value)}"
            self._open = False
            self._gone()

    def handshakeCompleted(self) -> None:
        """TLS stands, unless the certificate is wrong: then the connection is being aborted by now."""
        if self.transport.disconnecting:
            return
        self._encrypted = True
        if self._secured and not self._secured.done():
            self._secured.set_result(None)

    async def secured(self) -> None:
        """Wait for TLS. Raises LinkLost, with the reason, if the directory's certificate is not to be trusted."""
        if not self._open:
            raise LinkLost(self._why)
        if self._encrypted:
            return
        self._secured = asyncio.get_running_loop().create_future()
        timer = self._clock.callLater(self._timeout, self._break, "the TLS handshake did not end in time")
        try:
            await self._secured
        finally:
            if timer.active():
                timer.cancel()

    # -- for the relay

    @property
    def alive(self) -> bool:
        """Whether anything may still be sent on it."""
        return self._open

    @property
    def at_boundary(self) -> bool:
        """Whether what was relayed from it ends with a whole message."""
        return self._answers.at_boundary and not self._garbled

    @property
    def noticed(self) -> bool:
        """Whether the directory announced that it disconnects."""
        return self._answers.notice

    @property
    def quiet(self) -> bool:
        """Whether the directory owes nothing: alive, every request answered, and none whose end can't be known."""
        return (
            self._open
            and not self._unsure
            and not self._answers.notice
            and self._answers.at_boundary
            and self._answers.finals == self._sent
            and self._asked is None
            and not self._buffer
        )

    @property
    def clean(self) -> bool:
        """Whether it is quiet, and saw nothing but our binds and look-ups."""
        return self._clean and self.quiet

    def taint(self) -> None:
        """It saw something that may have left its mark: it serves nobody after this client."""
        self._clean = False

    @property
    def owes(self) -> bool:
        """Whether a client still waits for an answer."""
        return self._answers.finals != self._sent

    def attach(self, sink: Sink) -> None:
        """From here on, what comes is the client's."""
        if self._buffer or self._asked:
            self._break("the directory sent more than was asked for")
        if not self._open:
            raise LinkLost(self._why)
        self._sink = sink

    def detach(self) -> None:
        """From here on, what comes must answer us, and is read."""
        self._sink = None
        self.transport.unregisterProducer()
        self.transport.resumeProducing()

    def relay(self, raw: bytes, answers: int, *, unsure: bool) -> None:
        """Send a client's frames."""
        self.used = True
        self._clean = False
        self._sent += answers
        self._unsure = self._unsure or unsure
        self.transport.write(raw)

    def pause_by(self, producer: Any) -> None:
        """Let the transport pause `producer` (an IPushProducer, or None) while the directory does not read."""
        if producer is None:
            self.transport.unregisterProducer()
        else:
            self.transport.registerProducer(producer, True)  # noqa: FBT003 - Twisted's

    def pause(self) -> None:
        """Read nothing from the directory until `resume`."""
        self.transport.pauseProducing()

    def resume(self) -> None:
        """Read from the directory again."""
        self.transport.resumeProducing()

    def end_with_message(self) -> None:
        """Pass the message that has begun on to its end, in a piece of its own, and nothing after it."""
        self._ending = True

    def close(self) -> None:
        """End the link: nothing that comes from it is passed on any more."""
        if not self._open:
            return
        self._open = False
        self._sink = None
        self._gone(by_us=True)
        self.transport.unregisterProducer()
        self.transport.write(ldap.message(1, ldap.UNBIND))
        # a directory that does not read keeps no socket of ours
        self._lingering = self._clock.callLater(_LINGER, self._stop_lingering)
        self.transport.loseConnection()

    def _stop_lingering(self) -> None:
        self._lingering = None
        self.transport.abortConnection()

    # -- for a login

    def ask(
        self, operation: bytes, *, message_id: int | None = None, controls: bytes = b""
    ) -> asyncio.Future[tuple[Frame, list[ldap.Entry]]]:
        """Send one request of ours; to be awaited: its final answer, and the entries before it.

        Raises LinkLost, now or then; after a time-out, or an answer to something else, the link is closed.
        """
        if not self._open or self._sink is not None or self._asked is not None:
            raise LinkLost(self._why, untouched=True)
        message_id = message_id or self._chance()
        done = asyncio.get_running_loop().create_future()
        self._asked = _Asked(message_id, ldap.RESPONSE_TO[operation[0]], done, [])
        self._touched = False
        self._due = self._clock.seconds() + self._timeout
        if self._watch is None:
            self._watch = self._clock.callLater(self._timeout, self._look)
        self.transport.write(ldap.message(message_id, operation, controls))
        return done

    def _look(self) -> None:
        self._watch = None
        if self._asked is None:
            return
        left = self._due - self._clock.seconds()
        if left > 0:
            self._watch = self._clock.callLater(left, self._look)
        else:
            self._break("the directory did not answer in time")

    def start_tls(self, context: Any) -> None:
        """Encrypt from here on; what came in clear text behind the agreement is an injection (A38)."""
        if self._buffer:
            self._break("the directory sent more in clear text than its agreement to StartTLS")
        if not self._open:
            raise LinkLost(self._why)
        self.transport.startTLS(context)

    def _converse(self, data: bytes) -> None:
        self._touched = True
        try:
            if not self._buffer:
                frame = ldap.read_frame(data, 0, _LONGEST_ANSWER)
                if not isinstance(frame, int) and len(frame.raw) == len(data):
                    self._take(frame)
                    return
            self._buffer += data
            while self._buffer:
                frame = ldap.read_frame(self._buffer, 0, _LONGEST_ANSWER)
                if isinstance(frame, int):
                    return
                del self._buffer[: len(frame.raw)]
                self._take(frame)
        except BerError as broken:
            self.misbehaved = True
            self._break(str(broken))

    def _take(self, frame: Frame) -> None:
        asked = self._asked
        if asked is None or frame.id != asked.message_id:
            raise BerError("the directory sent what nobody asked for")
        if frame.tag == asked.final:
            self._asked = None
            if not asked.done.done():
                asked.done.set_result((frame, asked.entries))
        elif asked.final == ldap.SEARCH_DONE and frame.tag == ldap.SEARCH_ENTRY:
            asked.entries.append(ldap.read_entry(frame))
        elif asked.final != ldap.SEARCH_DONE or frame.tag != ldap.SEARCH_REFERENCE:
            raise BerError(f"the directory answered with operation 0x{frame.tag:02x}")

    def _break(self, why: str) -> None:
        if self._open:
            self._why = why
            self._open = False
            self._touched = True  # it was alive, or may have been: what we asked may have been done
            self._gone()
            self.transport.abortConnection()

    def _gone(self, *, by_us: bool = False) -> None:
        watch, self._watch = self._watch, None
        if watch:
            watch.cancel()
        asked, self._asked = self._asked, None
        if asked and not asked.done.done():
            asked.done.set_exception(LinkLost(self._why, untouched=not self._touched))
            if by_us:
                asked.done.exception()  # whoever waited for it is gone; it is no "never retrieved" error
        if self._secured and not self._secured.done():
            self._secured.set_exception(LinkLost(self._why))
        sink, self._sink = self._sink, None
        if sink:
            sink.link_lost()


@dataclass(frozen=True, slots=True)
class DirectorySettings:
    """One directory, as the configuration describes it. Times in seconds.

    `spare_links` at most wait, for `spare_seconds`, to serve another login; `pending_links` at most stay bound while an
    approval is pending.
    """

    name: str
    identity_name: str
    servers: tuple[Server, ...]
    starttls: bool = False
    ca_file: Path | None = None
    verify: bool = True
    connect_timeout: float = 5.0
    response_timeout: float = 10.0
    kind: Kind | None = None
    global_catalog: Server | None = None
    service_dn: str | None = None
    service_password: Secret | None = None
    base_dn: str | None = None
    spare_links: int = 0
    spare_seconds: float = 30.0
    pending_links: int = 200


class Directory:
    """One directory, and how to reach it. `chance` gives message ids for requests of ours."""

    def __init__(self, settings: DirectorySettings, reactor: Any, chance: Callable[[], int]) -> None:
        self.settings = settings
        self._reactor = reactor
        self._chance = chance
        self._contexts: dict[str, Any] = {}
        self._avoided: dict[Server, float] = {}
        self._capabilities: dict[Server, Capabilities] = {}
        self._spare: list[Link] = []  # nobody is bound on them; those used last come last
        self._returning = 0  # links that are being bound as nobody
        self._awaited: deque[asyncio.Future[Link | None]] = deque()  # by those who wait for one of these
        self._clearing: Any = None
        self._connecting = asyncio.Semaphore(_CONNECTING)
        self._kept: OrderedDict[bytes, tuple[Found, float]] = OrderedDict()
        self._closed = False
        self.pending = 0  #: links that stay bound while their client's approval is pending

    # -- links that serve more than one login

    async def link(self) -> Link:
        """A spare link, or a fresh one; nobody is bound on it. Raises DirectoryDown."""
        while self._spare:
            link = self._spare.pop()
            if link.clean:
                return link
            link.close()
        if len(self._awaited) < self._returning:
            returned = await self._return()
            if returned and returned.clean:
                return returned
            if returned:
                returned.close()
        async with self._connecting:
            return await self.connect()

    async def _return(self) -> Link | None:
        """The next link that is given back and free; None if it turns out to be none."""
        awaited: asyncio.Future[Link | None] = asyncio.get_running_loop().create_future()
        self._awaited.append(awaited)
        timer = self._reactor.callLater(_RETURNING, _give_up, awaited)
        try:
            return await awaited
        except asyncio.CancelledError:
            link = awaited.result() if awaited.done() and not awaited.cancelled() else None
            if link:
                self._keep_spare(link)
            raise
        finally:
            if timer.active():
                timer.cancel()

    def give_back(self, link: Link) -> None:
        """Nobody uses `link` any more: if it is clean and a bind as nobody succeeds, it serves another login.

        Nothing else proves that nobody is bound (a failed bind does not), so any other link is closed.
        """
        if not link.clean or len(self._spare) + self._returning >= self.settings.spare_links:
            link.close()
            return
        link.detach()
        asked = link.ask(ldap.BIND_AS_NOBODY)
        self._returning += 1
        asked.add_done_callback(lambda answer: self._returned(link, answer))

    def _returned(self, link: Link, answer: asyncio.Future[tuple[Frame, list[ldap.Entry]]]) -> None:
        """The bind as nobody was answered, or the link is lost: whoever waits for a link hears of it."""
        self._returning -= 1
        nobody = False
        if not answer.cancelled() and not answer.exception():
            with suppress(DirectoryDown):
                nobody = _result(answer.result()[0]).code == ldap.SUCCESS
        usable = nobody and link.clean and not self._closed
        if not usable:
            link.close()
        link.used = True
        while self._awaited:
            awaited = self._awaited.popleft()
            if not awaited.done():
                awaited.set_result(link if usable else None)
                return
        if usable:
            self._keep_spare(link)

    def _keep_spare(self, link: Link) -> None:
        if self._closed:
            link.close()
            return
        link.spare_since = self._reactor.seconds()
        self._spare.append(link)
        if self._clearing is None:
            self._clearing = self._reactor.callLater(self.settings.spare_seconds, self._clear)

    def _clear(self) -> None:
        """Close the links that have been spare for long."""
        self._clearing = None
        since = self._reactor.seconds() - self.settings.spare_seconds
        spare, self._spare = self._spare, []
        for link in spare:
            if link.alive and link.spare_since > since:
                self._spare.append(link)
            else:
                link.close()
        if self._spare:
            oldest = min(link.spare_since for link in self._spare)
            self._clearing = self._reactor.callLater(max(0.1, oldest - since), self._clear)

    def close(self) -> None:
        """Close what nobody uses."""
        self._closed = True
        if self._clearing:
            self._clearing.cancel()
            self._clearing = None
        spare, self._spare = self._spare, []
        for link in spare:
            link.close()

    # -- links

    async def connect(self) -> Link:
        """A fresh link to the first server that can be reached; encrypted as configured. Raises DirectoryDown."""
        now = self._reactor.seconds()
        servers = sorted(self.settings.servers, key=lambda server: self._avoided.get(server, 0.0) > now)
        failures = []
        for server in servers:
            try:
                link = await self._connect_to(server)
            except DirectoryDown as down:
                self._avoided[server] = self._reactor.seconds() + _AVOIDED
                failures.append(str(down))
            else:
                self._avoided.pop(server, None)
                return link
        raise DirectoryDown("; ".join(failures))

    async def _connect_to(self, server: Server) -> Link:
        settings = self.settings
        endpoint = _endpoint(self._reactor, server, settings.connect_timeout)
        link = Link(server, self._reactor, self._chance, settings.response_timeout)
        factory: Any = Factory.forProtocol(lambda: link)
        if server.ldaps:
            factory = over_tls(factory, self._context(server), client=True)
        loop = asyncio.get_running_loop()
        try:
            await endpoint.connect(factory).asFuture(loop)
        except asyncio.CancelledError:
            link.close()
            raise
        except Exception as failed:
            raise DirectoryDown(f"{server} can't be reached: {_why(failed)}") from failed
        secured = False
        try:
            if settings.starttls and not server.ldaps:
                final, _ = await link.ask(ldap.extended_request(ldap.OID_START_TLS))
                code = _result(final).code
                if code != ldap.SUCCESS:
                    raise DirectoryDown(f"StartTLS was answered with {code}")
                link.start_tls(self._context(server))
            if settings.starttls or server.ldaps:
                await link.secured()
            secured = True
        except DirectoryDown as failed:
            raise DirectoryDown(f"{server}: {failed}") from failed
        finally:
            if not secured:
                link.close()
        return link

    def _context(self, server: Server) -> Any:
        if server.host not in self._contexts:
            self._contexts[server.host] = client_context(
                server.host, self.settings.ca_file, verify=self.settings.verify
            )
        return self._contexts[server.host]

    async def capabilities(self, link: Link) -> Capabilities:
        """What the server behind `link` says of itself; asked once of each server. Raises CannotIdentify."""
        server = link.server
        if server not in self._capabilities:
            found = await self._look_up(link, ldap.search_request(b"", ROOT_DSE_ATTRIBUTES))
            if len(found.entries) != 1:
                raise CannotIdentify(f"the rootDSE of {server} can't be read (result {found.result.code})")
            self._capabilities[server] = read_capabilities(found.entries[0], self.settings.kind)
        return self._capabilities[server]

    async def verify_password(
        self, link: Link | None, name: bytes, password: Secret, message_id: int, controls: bytes
    ) -> tuple[Link, PasswordAnswer]:
        """Bind on `link` if it is quiet, else on a fresh one. The link is closed unless the answer is success.

        One bind reaches the directory. Only if a link that had served before turns out to be dead, before any octet
        of an answer, is the bind sent again, on a fresh one.
        """
        operation = ldap.bind_request(name, password.reveal())
        if link is not None and link.quiet:
            link.detach()
            try:
                return link, await self._bind(link, operation, message_id, controls)
            except LinkLost as lost:
                if not lost.untouched or not link.used:
                    raise
        else:
            if link is not None:
                link.close()
            link = await self.link()
            try:
                return link, await self._bind(link, operation, message_id, controls)
            except LinkLost as lost:
                if not lost.untouched or not link.used:
                    raise
        link = await self.connect()
        return link, await self._bind(link, operation, message_id, controls)

    async def _bind(self, link: Link, operation: bytes, message_id: int, controls: bytes) -> PasswordAnswer:
        kept = False
        try:
            if link.server not in self._capabilities:
                await self.capabilities(link)
            if controls:
                link.taint()
            final, _ = await link.ask(operation, message_id=message_id, controls=controls)
            answer = _result(final)
            kept = answer.code == ldap.SUCCESS
        finally:
            if not kept:
                link.close()
        link.used = True
        return PasswordAnswer(answer.code, answer.text.decode(errors="replace").rstrip("\0"), final.raw)

    async def identify(
        self, link: Link, name: bytes = b"", password: Secret | None = None
    ) -> Identity | Unidentified:
        """Whom the bind that `link` has just seen has bound. Raises CannotIdentify, DirectoryDown.

        `name` and `password` are used again only for an account of another domain, at the global catalog, where no
        service account is configured.
        """
        asking = identify(await self.capabilities(link), self.settings.identity_name)
        return await self.answer(asking, link, (name, password) if password else None)

    async def answer(
        self,
        asking: Generator[Ask, Found | None, Answer],
        link: Link | None = None,
        credentials: tuple[bytes, Secret] | None = None,
    ) -> Answer:
        """Carry the look-ups of `asking`; links other than `link` are opened when needed and closed at the end."""
        opened: dict[str, Link] = {}
        shown: tuple[bytes, Found] | None = None
        try:
            ask = next(asking)
            while True:
                if ask.on == "bound":
                    if link is None:
                        raise CannotIdentify("nobody is bound")
                    found: Found | None = self._recall(ask)
                    if found is None:
                        found = await self._look_up(link, ask.operation)
                        shown = (ask.operation, found) if ask.of_itself and found.entries else shown
                else:
                    if ask.on not in opened:
                        other = await (self._service() if ask.on == "service" else self._catalog(credentials))
                        if other:
                            opened[ask.on] = other
                    found = await self._look_up(opened[ask.on], ask.operation) if ask.on in opened else None
                ask = asking.send(found)
        except StopIteration as stop:
            result: Answer = stop.value
            if shown and isinstance(result, Identity):
                self._keep(*shown)
            return result
        finally:
            for other in opened.values():
                other.close()

    def _recall(self, ask: Ask) -> Found | None:
        found, until = self._kept.get(ask.operation, (None, 0.0)) if ask.of_itself else (None, 0.0)
        return found if until > self._reactor.seconds() else None

    def _keep(self, operation: bytes, found: Found) -> None:
        self._kept[operation] = found, self._reactor.seconds() + _KEPT_SECONDS
        self._kept.move_to_end(operation)
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)

    async def service_link(self) -> Link:
        """A link bound as the service account. Raises DirectoryDown where none is configured."""
        link = await self._service()
        if link is None:
            raise DirectoryDown("no service account is configured for this directory")
        return link

    async def _service(self) -> Link | None:
        if self.settings.service_dn is None or self.settings.service_password is None:
            return None
        link = await self.connect()
        return await self._bound(link, self.settings.service_dn.encode(), self.settings.service_password, "service")

    async def _catalog(self, credentials: tuple[bytes, Secret] | None) -> Link | None:
        if self.settings.global_catalog is None:
            return None
        if self.settings.service_dn is not None and self.settings.service_password is not None:
            credentials = (self.settings.service_dn.encode(), self.settings.service_password)
        if credentials is None:
            return None
        link = await self._connect_to(self.settings.global_catalog)
        return await self._bound(link, *credentials, "global catalog")

    async def _bound(self, link: Link, name: bytes, password: Secret, what: str) -> Link:
        code = None
        try:
            final, _ = await link.ask(ldap.bind_request(name, password.reveal()))
            code = _result(final).code
        finally:
            if code != ldap.SUCCESS:
                link.close()
        if code != ldap.SUCCESS:
            raise DirectoryDown(f"the bind for the {what} was answered with {code}")
        return link

    async def _look_up(self, link: Link, operation: bytes) -> Found:
        final, entries = await link.ask(operation)
        return Found(_result(final), tuple(entries))


def _give_up(awaited: asyncio.Future[Link | None]) -> None:
    if not awaited.done():
        awaited.set_result(None)


def _endpoint(reactor: Any, server: Server, timeout: float) -> Any:
    """Where to connect; an address needs nobody to look it up."""
    if isIPAddress(server.host):
        return TCP4ClientEndpoint(reactor, server.host, server.port, timeout)
    if isIPv6Address(server.host):
        return TCP6ClientEndpoint(reactor, server.host, server.port, timeout)
    return HostnameEndpoint(reactor, server.host, server.port, timeout=timeout)


def _result(frame: Frame) -> ldap.Result:
    try:
        return ldap.read_result(frame)
    except BerError as broken:
        raise DirectoryDown(f"the directory's answer can't be read: {broken}") from broken


def _why(failed: BaseException) -> str:
    """What an exception says, OpenSSL's list of errors by the last words of the first."""
    errors = failed.args[0] if isinstance(failed, SSL.Error) and failed.args else None
    return str(errors[0][-1]) if isinstance(errors, list) and errors else str(failed) or type(failed).__name__


