"""One connection to a directory server: it converses with us, or it relays for a client.

Promised here: one request of ours in flight; while we converse every frame is decoded, and one that does not answer our
request breaks the link (A49); whether it is quiet, and clean, is known without asking. Not in here: when to bind, and
whom a link may serve.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from OpenSSL import SSL
from twisted.internet import protocol
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHandshakeListener
from zope.interface import implementer

from ldapmfa.errors import DirectoryDown
from ldapmfa.wire import ldap
from ldapmfa.wire.ber import BerError
from ldapmfa.wire.ldap import Answers, Frame

#: The longest answer to a request of ours that is read: an account's entry, or a rootDSE.
_LONGEST_ANSWER: Final = 10 * 1024 * 1024
#: How long a closed link may take to flush, in seconds.
_LINGER: Final = 5.0


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


class Owner(Protocol):
    """Whoever wants to know how links fare."""

    def link_made(self, link: Link) -> None:
        """`link` stands."""

    def link_ended(self, link: Link, *, by_us: bool) -> None:
        """It is gone, as we wanted or not; `link.overdue` says whether for want of an answer."""


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

    def __init__(
        self, server: Server, clock: Any, chance: Callable[[], int], timeout: float, owner: Owner | None = None
    ) -> None:
        self.server = server
        self.used = False  #: whether it served before: then its being dead says little of the directory
        self.misbehaved = False  #: whether it was ended because the directory sent what nobody asked for, or garbage
        self.overdue = False  #: whether it was ended because the directory did not answer in time
        self.made = clock.seconds()  #: when, in the clock's seconds
        self.spare_since = 0.0  #: when it was last given back
        self._owner = owner
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
        if self._owner:
            self._owner.link_made(self)
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
                self._why = f"the connection broke: {why(reason.value)}"
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

    @property
    def awaited(self) -> bool:
        """Whether an answer is still to come, for certain: of a request that may have been abandoned nobody knows."""
        return self.owes and not self._unsure

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
            self.overdue = True
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
        if self._owner:
            self._owner.link_ended(self, by_us=by_us)
        if sink:
            sink.link_lost()


def read_result(frame: Frame) -> ldap.Result:
    """What the directory says. Raises DirectoryDown if that can't be read."""
    try:
        return ldap.read_result(frame)
    except BerError as broken:
        raise DirectoryDown(f"the directory's answer can't be read: {broken}") from broken


def why(failed: BaseException) -> str:
    """What an exception says, OpenSSL's list of errors by the last words of the first."""
    errors = failed.args[0] if isinstance(failed, SSL.Error) and failed.args else None
    return str(errors[0][-1]) if isinstance(errors, list) and errors else str(failed) or type(failed).__name__


