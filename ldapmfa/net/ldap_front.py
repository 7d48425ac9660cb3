"""The listening side: feed the session, perform its commands.

Promised here: our own answers go in at a boundary of the directory's stream; a link that is dropped in the middle of
a message carries that one message to its end and nothing after it; a client that does not read stops the directory
and is not read from itself, and not for ever; what is kept for clients stays within one budget for the process;
whatever a client may let us wait for has a time-out. Not in here: any decision about what a client may do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from OpenSSL import SSL
from twisted.internet import protocol
from twisted.internet.address import UNIXAddress
from twisted.internet.interfaces import IHandshakeListener, IPushProducer
from twisted.python.failure import Failure
from zope.interface import implementer

from ldapmfa import audit
from ldapmfa.core import session
from ldapmfa.core.application import Certificate, Peer, Recognition
from ldapmfa.core.policy import Policy
from ldapmfa.core.questions import Attempt
from ldapmfa.core.session import Rules, Session, State
from ldapmfa.errors import DirectoryDown, LdapMfaError
from ldapmfa.net import driver
from ldapmfa.net.budget import Budget
from ldapmfa.net.cuts import Cuts
from ldapmfa.net.directory import Directory
from ldapmfa.net.link import Link
from ldapmfa.net.metrics.figures import Tally
from ldapmfa.net.proxy_protocol import address_of
from ldapmfa.net.tls import peer_certificate
from ldapmfa.wire import ldap

#: How long a message that was cut off from its link may take to reach its end, and a closed client to read what
#: was sent to it, in seconds.
_LINGER: Final = 10.0

#: What turning a client away is counted as, by the code of its notice.
_TURNED_AWAY: Final = {
    ldap.PROTOCOL_ERROR: "protocol",
    ldap.BUSY: "busy",
    ldap.STRONGER_AUTH_REQUIRED: "cut-off",
}


@dataclass(frozen=True)
class Door:
    """What holds for the clients of one application, and how they are recognised."""

    name: str
    recognised: Recognition
    rules: Rules
    policy: Policy
    doorway: driver.Doorway


@dataclass(frozen=True)
class Listener:
    """One listener: its rules, whom it asks, and what all its connections share. Times in seconds.

    Of its `doors` the first whose recognition covers a client counts for it; if none does, what is said here does.
    """

    name: str
    rules: Rules
    policy: Policy
    directory: Directory
    doorway: driver.Doorway
    budget: Budget
    log: Any
    tls: Any = None  #: the context for StartTLS
    encrypted: bool = False  #: whether the connection is TLS from its first octet
    bind_timeout: float = 120.0
    frame_timeout: float = 30.0
    handshake_timeout: float = 10.0
    idle_timeout: float = 0.0  #: of a bound client; 0: none
    write_timeout: float = 0.0  #: for what was written to be read; 0: none
    clients: set[LdapFront] = field(default_factory=set)
    started: Callable[[asyncio.Task[None]], None] = lambda _task: None
    doors: tuple[Door, ...] = ()
    cuts: Cuts | None = None  #: which accounts were cut off; without it none ever is
    #: By what a connection is judged before anything is asked: the kind of TLS, the authorities, who sends headers.
    entrance: tuple[Any, ...] = ()
    successors: list[Listener | None] = field(default_factory=list)  #: who came in its place; None: nobody
    tally: Tally = field(default_factory=Tally)

    def door(self, peer: Peer) -> Door:
        """The one for a client that is known as `peer`."""
        own = Door(self.name, Recognition(), self.rules, self.policy, self.doorway)
        return next((door for door in self.doors if door.recognised.covers(peer)), own)


@implementer(IPushProducer)
class _Intake:
    """What a link pauses while its directory does not read: the client."""

    def __init__(self, front: LdapFront) -> None:
        self._front = front

    def pauseProducing(self) -> None:
        """The directory has enough for now."""
        self._front.pause_reading("directory")

    def resumeProducing(self) -> None:
        """The directory reads again."""
        self._front.resume_reading("directory")

    def stopProducing(self) -> None:
        """The link is gone; it says so elsewhere."""


@implementer(IPushProducer, IHandshakeListener)
class LdapFront(protocol.Protocol):
    """One client's connection."""

    transport: Any  # Twisted's interfaces are no types

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._entrance = listener.entrance  # by which the connection was made
        self._encrypted = listener.encrypted
        self._certificate: Certificate | None = None
        self._link: Link | None = None
        self._directory = listener.directory  # whose the links are
        self._draining: Link | None = None  # dropped in the middle of a message: carries that one to its end
        self._drained: list[asyncio.Future[None]] = []
        self._unsent = bytearray()  # our answers, waiting for a boundary
        self._closing = False
        self._login: asyncio.Task[None] | None = None
        self._opening: asyncio.Task[None] | None = None
        self._unrelayed: list[session.Relay] = []  # waiting for a link
        self._unrelayed_octets = 0
        self._unread: set[str] = set()
        self._timers: dict[str, Any] = {}
        self._accounted = 0
        self._bound_as: str | None = None  # while the session is BOUND
        self._refused = False
        self._gone = False
        self._idle: Any = None  # the one timer of a bound client: it looks for how long nothing has come
        self._seconds: Callable[[], float] = listener.doorway.clock.seconds
        self._heard = 0.0  # when anything came, from the client or for it

    # -- what Twisted calls

    def connectionMade(self) -> None:
        """A client connected."""
        while self._listener.successors:
            successor = self._listener.successors[-1]
            if successor is None or successor.entrance != self._entrance:
                self._refused = True
                self.transport.abortConnection()
                return
            self._listener = successor
        listener = self._listener
        peer = self.transport.getPeer()
        self._address = address_of(peer)
        self._client = _label(peer, self._address)
        self._source = listener.budget.source(self._address)
        self._door = listener.door(Peer(listener.name, self._address, None))
        self.session = Session(self._door.rules, tls=self._encrypted, quiet=self._quiet)
        if not self._is_let_in():
            self._turn_away()
            return
        listener.clients.add(self)
        listener.tally.connections += 1
        for option in ("setTcpKeepAlive", "setTcpNoDelay"):
            set_option = getattr(self.transport, option, None)
            if set_option:
                set_option(1)
        self.transport.registerProducer(self, True)  # noqa: FBT003 - Twisted's
        self._arm("bind", listener.bind_timeout, "No bind in time.")
        if self._encrypted:
            self._arm("handshake", listener.handshake_timeout, "no TLS handshake in time", abort=True)

    def handshakeCompleted(self) -> None:
        """TLS stands, and nothing that came over it was read yet: the client may have shown whose it is."""
        if self._refused:
            return
        listener = self._listener
        self._encrypted = True
        self._disarm("handshake")
        try:
            certificate = peer_certificate(self.transport)
        except Exception as broken:  # noqa: BLE001 - whatever can't be read in it, it is nobody's certificate
            listener.tally.turn_away("certificate")
            reason = f"its certificate can't be read: {type(broken).__name__}"
            listener.log.warning("client turned away", client=self._client, reason=reason)
            self._perform(self.session.handle(session.ClientLeft()))
            self.abort()
            return
        self._certificate = certificate
        self._door = listener.door(Peer(listener.name, self._address, certificate))
        self.session.handle(session.TlsStarted(self._door.rules))

    def dataReceived(self, data: bytes) -> None:
        """The client sent something."""
        if self._refused:
            return
        self._heard = self._seconds()
        commands = self.session.receive(data)
        if commands:
            if self._timers:
                self._disarm("frame")  # a request was finished; the time for the next begins
            self._perform(commands)
        self._account()

    def connectionLost(self, reason: Failure | None = None) -> None:
        """The client left."""
        if self._refused:
            return
        self._closing = self._gone = True
        self._cancel("_opening")
        self._cancel("_login")
        try:
            self._perform(self.session.handle(session.ClientLeft()))
            self._drop()
            if self._draining:
                self._draining.close()
                self._end_draining()
        finally:  # whatever broke, the room is others'
            self._keep(0)
            for name in tuple(self._timers):
                self._disarm(name)
            if self._idle:
                self._idle.cancel()
            self._listener.clients.discard(self)
            self._listener.budget.leave(self._source)
        why = _tls_failure(reason)
        if why:
            self._listener.tally.turn_away("tls")
            self._listener.log.warning("client turned away", client=self._client, reason=why)

    def pauseProducing(self) -> None:
        """The client does not read: take nothing for it."""
        self.pause_reading("client")
        if self._listener.write_timeout:
            self._arm("write", self._listener.write_timeout, "does not read what it is sent", abort=True)
        for link in (self._link, self._draining):
            if link and link.alive:
                link.pause()

    def resumeProducing(self) -> None:
        """The client reads again."""
        self.resume_reading("client")
        self._disarm("write")
        for link in (self._link, self._draining):
            if link and link.alive:
                link.resume()

    def stopProducing(self) -> None:
        """The client is gone; connectionLost says so."""

    # -- what a link calls

    def answers_came(self, data: bytes, boundary: int) -> None:
        """The directory sent `data`: the client's, as it is, with ours at the boundary."""
        self._listener.tally.from_directory += len(data)
        self._heard = self._seconds()
        link = self._draining or self._link
        if self._draining:
            if boundary < 0:
                self.transport.write(data)
                return
            self.transport.write(data[:boundary])
            self._draining.close()
            self._end_draining()
            return
        if self._unsent and boundary >= 0:
            data = b"".join((data[:boundary], self._take_unsent(), data[boundary:]))
            self.transport.write(data)
            self._account()
        else:
            self.transport.write(data)
        if link and link.noticed:
            self._perform(self.session.handle(session.DirectoryLeft(noticed=True)))

    def link_lost(self) -> None:
        """The link is gone, and with it the end of a message it may have been in."""
        if self._draining:
            self._cut_off()
            return
        link, self._link = self._link, None
        if link is None:
            return
        if not link.at_boundary:
            self._cut_off()
        elif self.session.state is State.BOUND or link.owes:
            self._perform(self.session.handle(session.DirectoryLeft()))

    # -- for the service

    @property
    def listener(self) -> Listener:
        """The one that it goes by."""
        return self._listener

    def succeed(self, listener: Listener | None) -> None:
        """Go by `listener` from now on, or take leave: there is none any more, or this connection is none of its kind.

        A login that is under way is decided by what held when it began.
        """
        if listener is None or listener.entrance != self._entrance:
            self.stop()
            return
        self._listener = listener
        self._door = listener.door(Peer(listener.name, self._address, self._certificate))
        self._perform(self.session.handle(session.RulesChanged(self._door.rules)))
        if self._door.rules.tls_required and not self._encrypted and self.session.state is not State.ANONYMOUS:
            self.stop()
        elif self.session.state is State.BOUND:
            self._watch_idleness()

    @property
    def account(self) -> str | None:
        """The key of the account that the client is bound as, this very moment."""
        return self._bound_as if self.session.state is State.BOUND else None

    def revoke(self, reason: str) -> None:
        """Nobody is bound as its account any more: tell the client, at a boundary, and close, its link too."""
        if self._link:
            self._link.taint()  # it serves nobody else
        try:
            self._perform(self.session.handle(session.Revoked(reason)))
        except Exception as bug:  # noqa: BLE001 - it ends all the same, and so do the others
            self.abort()
            self._listener.log.error("bug", reason=driver.where(bug))  # noqa: TRY400 - the text may hold anything

    def stop(self) -> None:
        """Answer what is pending, take leave, close."""
        self._perform(self.session.handle(session.StopRequested()))

    def abort(self) -> None:
        """Close now."""
        self.transport.abortConnection()

    def _is_let_in(self) -> bool:
        """Whether there is room for one more connection, which is counted then."""
        listener, budget = self._listener, self._listener.budget
        if len(listener.clients) >= budget.connections:
            listener.tally.turn_away("connections")
            if budget.tells_of_all(listener.doorway.clock.seconds()):
                listener.log.warning("client turned away", client=self._client, reason="too many connections")
            return False
        if not budget.enter(self._source):
            listener.tally.turn_away("source")
            if budget.tells(self._source, listener.doorway.clock.seconds()):
                why = f"too many connections from {self._source}"
                listener.log.warning("client turned away", client=self._client, reason=why)
            return False
        return True

    def _turn_away(self) -> None:
        """There is no room. Who speaks LDAP at once is told so; nothing of a client that is refused is read."""
        self._refused = True
        if self._encrypted:
            self.transport.abortConnection()
            return
        self.transport.write(ldap.notice_of_disconnection(ldap.BUSY, "Too many connections."))
        self.transport.loseConnection()

    # -- reading

    def pause_reading(self, why: str) -> None:
        """Read nothing from the client until `why` is over."""
        if not self._unread:
            self.transport.pauseProducing()
        self._unread.add(why)

    def resume_reading(self, why: str) -> None:
        """`why` is over."""
        if why in self._unread:
            self._unread.discard(why)
            if not self._unread and not self._closing:
                self.transport.resumeProducing()

    # -- the session's commands

    def _perform(self, commands: list[session.Command]) -> None:
        run: list[session.Relay] = []
        for command in commands:
            if isinstance(command, session.Relay):
                run.append(command)
                continue
            if run:
                self._relay(_joined(run))
                run = []
            _PERFORM[type(command)](self, command)
        if run:
            self._relay(_joined(run))

    def _send(self, command: session.Send) -> None:
        if self._closing:
            return
        if self._draining or (self._link and not self._link.at_boundary):
            self._unsent += command.raw
            if len(self._unsent) > self._door.rules.held_octets:
                self.pause_reading("boundary")
        else:
            self.transport.write(command.raw)

    def _take_unsent(self) -> bytes:
        unsent, self._unsent = self._unsent, bytearray()
        self.resume_reading("boundary")
        return bytes(unsent)

    def _relay(self, command: session.Relay) -> None:
        if self._closing:
            return
        if self._link and self._opening is None:
            tally = self._listener.tally
            tally.from_clients += len(command.raw)
            tally.requests += command.answers
            self._link.relay(command.raw, command.answers, unsure=command.unsure)
            return
        self._unrelayed.append(command)
        self._unrelayed_octets += len(command.raw)
        if self._unrelayed_octets > self._door.rules.held_octets:
            self._perform(self.session.handle(session.Overloaded("Too much is waiting for the directory.")))
        elif self._opening is None:
            self._opening = self._start(self._open())

    def _stop_opening(self) -> None:
        self._cancel("_opening")
        self._take_unrelayed()

    def _take_unrelayed(self) -> list[session.Relay]:
        unrelayed, self._unrelayed, self._unrelayed_octets = self._unrelayed, [], 0
        return unrelayed

    def _start_login(self, command: session.StartLogin) -> None:
        if self._closing:
            return
        self._stop_opening()
        link = None
        if self._link and self._link.quiet and self._directory is self._listener.directory:
            link, self._link = self._link, None
            link.detach()
        self._drop()
        self._directory = self._listener.directory
        if not self._listener.budget.may_log_in(self._source):
            if link:
                link.close()
            answer = ldap.result(command.message_id, ldap.BIND_REQUEST, ldap.BUSY, "Too many logins are under way.")
            self._bind_refused(session.BindRefused(command.name, "too-many-logins", ldap.BUSY))
            self._perform(self.session.handle(session.LoginEnded(accepted=False, answer=answer)))
            return
        login = driver.Login(self._bind(command), self._door.doorway, self._listener.directory, link)
        self._login = self._start(self._log_in(login, command.message_id))
        self._listener.budget.log_in(self._source)
        self._login.add_done_callback(lambda task: self._login_over(login, task))

    def _bind(self, command: session.StartLogin) -> driver.Bind:
        listener, door = self._listener, self._door
        attempt = Attempt(
            name=command.name.decode(errors="backslashreplace"),
            typed=command.typed,
            directory=listener.directory.settings.identity_name,
            client=self._address,
            form=door.rules.form,
            policy=door.policy,
            at=door.doorway.moment(),
        )
        return driver.Bind(
            attempt, command.message_id, command.name, command.controls, listener.name, self._client, door.name
        )

    async def _log_in(self, login: driver.Login, message_id: int) -> None:
        ended = await login.play(self._when_drained)
        cuts = self._listener.cuts
        if cuts and ended.account is not None and cuts.since(login.began, ended.account):
            if ended.link:
                ended.link.close()
            ended = await login.withdraw()
        self._login = None
        answer, accepted = ended.answer, ended.accepted and self.session.state is State.BINDING
        if accepted:
            try:
                self._take_over(ended.link)
            except DirectoryDown:
                accepted = False
                answer = ldap.result(message_id, ldap.BIND_REQUEST, ldap.UNAVAILABLE, "The directory has left.")
        if ended.link and not accepted:
            ended.link.close()
        if accepted:
            self._bound_as = ended.account
            self._disarm("bind")
            self._watch_idleness()
        self._perform(self.session.handle(session.LoginEnded(accepted=accepted, answer=answer)))
        self._account()

    def _login_over(self, login: driver.Login, task: asyncio.Task[None]) -> None:
        self._listener.budget.log_in(self._source, over=True)
        bug = None if task.cancelled() else task.exception()
        if task.cancelled() or bug:
            login.abandon()  # it may never have begun
        if bug:
            self.abort()
            self._listener.log.error("bug", reason=driver.where(bug))

    def _cancel_login(self, _command: session.CancelLogin) -> None:
        self._cancel("_login")

    def _drop_directory(self, _command: session.DropDirectory) -> None:
        self._stop_opening()
        self._drop()

    def _begin_tls(self, _command: session.BeginTls) -> None:
        self._drop()
        self._arm("handshake", self._listener.handshake_timeout, "no TLS handshake in time", abort=True)
        self.transport.startTLS(self._listener.tls)

    def _close(self, _command: session.Close) -> None:
        if self._closing:
            return
        self._closing = True
        if not self._draining:
            self._lose()

    def _bind_refused(self, command: session.BindRefused) -> None:
        listener = self._listener
        event = audit.LoginEnded(
            at=listener.doorway.now(),
            outcome="refused",
            reason=command.reason,
            result=command.code,
            reference="",
            listener=listener.name,
            application=self._door.name,
            client=self._client,
            name=command.name.decode(errors="backslashreplace"),
            directory=listener.directory.settings.identity_name,
        )
        listener.doorway.store.note(event)
        listener.doorway.record(event)

    def _report(self, command: session.Report) -> None:
        self._listener.tally.turn_away(_TURNED_AWAY.get(command.code, "unavailable"))
        self._listener.log.warning("client turned away", client=self._client, reason=command.reason)

    # -- the link

    def _quiet(self) -> bool:
        return self._opening is None and self._draining is None and (self._link is None or self._link.quiet)

    def _take_over(self, link: Link | None) -> None:
        """The link on which the client is bound; without one nobody is."""
        if link is None:
            raise DirectoryDown("nobody is bound")
        self._attach(link)

    def _attach(self, link: Link) -> None:
        link.attach(self)
        self._link = link
        link.pause_by(_Intake(self))
        if "client" in self._unread:
            link.pause()

    async def _open(self) -> None:
        """Open a link for the relay of what an anonymous client may read."""
        try:
            await self._when_drained()
            self._directory = self._listener.directory
            self._attach(await self._directory.connect())
        except Exception as down:  # noqa: BLE001 - whatever broke, the client must not wait for ever
            self._opening = None
            reason = str(down) if isinstance(down, LdapMfaError) else driver.where(down)
            self._listener.log.warning("directory down", reason=reason)
            self._perform(self.session.handle(session.DirectoryLeft()))
            return
        self._opening = None
        for relay in self._take_unrelayed():
            self._relay(relay)
        self._account()

    def _drop(self) -> None:
        """Let nothing run on the link any more, nor anything of it through but the end of a message begun."""
        link, self._link = self._link, None
        self.resume_reading("directory")
        if link is None:
            return
        if not link.alive or link.at_boundary:
            self._directory.give_back(link)
        else:
            link.pause_by(None)
            link.end_with_message()
            self._draining = link
            self._arm("drain", _LINGER, None)

    async def _when_drained(self) -> None:
        if self._draining:
            drained = asyncio.get_running_loop().create_future()
            self._drained.append(drained)
            await drained

    def _end_draining(self) -> None:
        self._draining = None
        self._disarm("drain")
        unsent = self._take_unsent()
        if not self._gone:
            self.transport.write(unsent)
            self._account()
            if self._closing:
                self._lose()
        for drained in self._drained:
            if not drained.done():
                drained.set_result(None)
        self._drained = []

    def _cut_off(self) -> None:
        """A message was cut off in its middle: nothing can be said behind it."""
        self._unsent.clear()
        self.transport.abortConnection()

    def _lose(self) -> None:
        self.transport.unregisterProducer()
        self._arm("close", _LINGER, None)
        self.transport.loseConnection()

    # -- time, room, tasks

    def _arm(self, name: str, seconds: float, reason: str | None, *, abort: bool = False) -> None:
        """In `seconds`: turn the client away for `reason`; without a word if there is none, or it could not hear it."""

        def expire() -> None:
            if reason is None or abort:
                if reason:
                    self._report(session.Report(reason))
                self.transport.abortConnection()
            elif self.session.state is State.BINDING:
                self._arm(name, seconds, reason)
            else:
                event = session.Overloaded(reason, ldap.UNAVAILABLE)
                self._perform(self.session.handle(event))

        self._disarm(name)
        self._timers[name] = self._listener.doorway.clock.callLater(seconds, expire)

    def _disarm(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer and timer.active():
            timer.cancel()

    def _watch_idleness(self) -> None:
        """See that the client, bound just now, does not stay for ever without asking for anything."""
        self._heard = self._seconds()
        if self._idle:
            self._idle.cancel()
        seconds = self._listener.idle_timeout
        self._idle = self._listener.doorway.clock.callLater(seconds, self._look_for_idleness) if seconds else None

    def _look_for_idleness(self) -> None:
        self._idle = None
        if self.session.state is not State.BOUND or self._link is None:
            return  # it is watched again when it is bound again
        if self._link.awaited:
            self._heard = self._seconds()  # it is the directory's turn
        left = self._heard + self._listener.idle_timeout - self._seconds()
        if left > 0:
            self._idle = self._listener.doorway.clock.callLater(left, self._look_for_idleness)
            return
        self._listener.log.info("idle client taken leave of", client=self._client)
        self._perform(self.session.handle(session.Rested()))

    def _account(self) -> None:
        """Count what is kept for the client against the budget; time what it waits for."""
        budget, kept = self._listener.budget, self._kept()
        if not kept and not self._accounted and self.session.state is State.BOUND:
            if self._timers:
                self._disarm("frame")
            return
        if kept != self._accounted:
            grown = kept > self._accounted
            self._keep(kept)
            if grown and budget.is_exceeded(self._source):
                self._perform(self.session.handle(session.Overloaded("The server is busy.")))
                self._keep(self._kept())
        if "bind" not in self._timers and self.session.state is State.ANONYMOUS:
            self._arm("bind", self._listener.bind_timeout, "No bind in time.")
        if self.session.in_frame:
            if "frame" not in self._timers:
                self._arm("frame", self._listener.frame_timeout, "A request was begun and not finished in time.")
        elif self._timers:
            self._disarm("frame")

    def _keep(self, octets: int) -> None:
        """So many are kept for the client; none once it is gone."""
        octets = 0 if self._gone else octets
        self._listener.budget.keep(self._source, octets - self._accounted)
        self._accounted = octets

    def _kept(self) -> int:
        return self.session.buffered + self._unrelayed_octets + len(self._unsent)

    def _start(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._listener.started(task)
        return task

    def _cancel(self, name: str) -> None:
        task = getattr(self, name)
        setattr(self, name, None)
        if task:
            task.cancel()


def _label(peer: Any, address: Any) -> str:
    """What a client is called in the log."""
    if address is None:
        return "unix" if isinstance(peer, UNIXAddress) else "unknown"
    return f"[{address}]:{peer.port}" if address.version == 6 else f"{address}:{peer.port}"


def _tls_failure(reason: Failure | None) -> str | None:
    """Why a handshake failed, if that is why the client is gone."""
    if reason is None or not isinstance(reason.value, SSL.Error):
        return None
    errors = reason.value.args[0] if reason.value.args else None
    why = errors[0][-1] if isinstance(errors, list) and errors else "the client broke off"
    return f"TLS failed: {why}" + (" (LDAP in clear text on an ldaps port?)" if why == "wrong version number" else "")


def _joined(run: list[session.Relay]) -> session.Relay:
    """One write for a run of frames."""
    if len(run) == 1:
        return run[0]
    return session.Relay(
        b"".join([relay.raw for relay in run]), sum(relay.answers for relay in run), any(relay.unsure for relay in run)
    )


_PERFORM: Final[dict[type, Callable[[LdapFront, Any], None]]] = {
    session.Send: LdapFront._send,
    session.StartLogin: LdapFront._start_login,
    session.CancelLogin: LdapFront._cancel_login,
    session.DropDirectory: LdapFront._drop_directory,
    session.BeginTls: LdapFront._begin_tls,
    session.Close: LdapFront._close,
    session.BindRefused: LdapFront._bind_refused,
    session.Report: LdapFront._report,
}
