"""One LDAP client's conversation: the rule table and its commands.

Promised here, whatever octets arrive and however they are split: no frame is relayed while the session is not
BOUND, but the reading of the rootDSE, or other reading where the rules open it; none is relayed that the rules deny; a
Bind drops the identity when it arrives (RFC 4513 section 4) and nothing that follows it takes effect before it is
answered. Events go in (`receive` for octets, `handle` for the rest), commands come out, in the order in which they are
to be performed. Not in here: sockets, clocks, passwords' truth.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, Literal

from ldapmfa.core.secret import CodeForm, Secret, is_usable
from ldapmfa.core.writes import Denied, denied_types
from ldapmfa.wire import ldap
from ldapmfa.wire.ber import BerError
from ldapmfa.wire.ldap import Frame


class State(Enum):
    """What the client is, right now."""

    ANONYMOUS = auto()  #: nobody: never bound, refused, or bound as nobody
    BINDING = auto()  #: nobody, with a login under way; what arrives is held
    BOUND = auto()  #: the account that the directory and the second factor confirmed
    CLOSED = auto()  #: gone, or about to be; what arrives is ignored


class Request(Enum):
    """What the client may ask for, as far as the rules tell requests apart."""

    BIND = auto()
    UNBIND = auto()
    ABANDON = auto()
    SEARCH = auto()
    EXTENDED = auto()
    COMPARE = auto()
    ADD = auto()
    MODIFY = auto()
    DELETE = auto()
    RENAME = auto()  #: or move: a ModifyDN
    UNKNOWN = auto()  #: no request of RFC 4511


REQUESTS: Final = {
    ldap.BIND_REQUEST: Request.BIND,
    ldap.UNBIND_REQUEST: Request.UNBIND,
    ldap.ABANDON_REQUEST: Request.ABANDON,
    ldap.SEARCH_REQUEST: Request.SEARCH,
    ldap.EXTENDED_REQUEST: Request.EXTENDED,
    ldap.COMPARE_REQUEST: Request.COMPARE,
    ldap.ADD_REQUEST: Request.ADD,
    ldap.MODIFY_REQUEST: Request.MODIFY,
    ldap.DELETE_REQUEST: Request.DELETE,
    ldap.MODIFY_DN_REQUEST: Request.RENAME,
}

#: The operations that can be denied to an application, by the words of the configuration. An Abandon changes nothing.
DENIABLE: Final = {
    "search": Request.SEARCH,
    "compare": Request.COMPARE,
    "add": Request.ADD,
    "modify": Request.MODIFY,
    "delete": Request.DELETE,
    "rename": Request.RENAME,
    "extended": Request.EXTENDED,
}


# -- events


@dataclass(frozen=True, slots=True)
class LoginEnded:
    """The login of the pending Bind ended. `answer` is the BindResponse to send, `accepted` what it says."""

    accepted: bool
    answer: bytes


@dataclass(frozen=True, slots=True)
class TlsStarted:
    """The connection is encrypted from here on; `rules` hold then, for the client may have shown a certificate."""

    rules: Rules | None = None


@dataclass(frozen=True, slots=True)
class ClientLeft:
    """The client's connection is gone."""


@dataclass(frozen=True, slots=True)
class DirectoryLeft:
    """The link that carried this client's operations is gone; `noticed` if the directory said so itself."""

    noticed: bool = False


@dataclass(frozen=True, slots=True)
class StopRequested:
    """The service is ending: answer what is pending, then say good-bye."""


@dataclass(frozen=True, slots=True)
class Overloaded:
    """This client's octets can't be held any longer, or it took too long; `reason` says which."""

    reason: str
    code: int = ldap.BUSY


@dataclass(frozen=True, slots=True)
class Revoked:
    """The account that the client is bound as must be nobody here any more; `reason` says why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Rested:
    """A bound client has asked for nothing for so long that its connection is worth more to others."""


@dataclass(frozen=True, slots=True)
class RulesChanged:
    """Other rules hold from here on, for whatever is asked next; whoever is bound stays bound."""

    rules: Rules


Event = (
    LoginEnded | TlsStarted | ClientLeft | DirectoryLeft | StopRequested | Overloaded | Revoked | Rested | RulesChanged
)


# -- commands


@dataclass(frozen=True, slots=True)
class Send:
    """Send these octets of ours to the client, at a boundary of the directory's stream."""

    raw: bytes


@dataclass(frozen=True, slots=True)
class Relay:
    """Pass these whole frames to the directory; `answers` final answers will come.

    `unsure`: after this the number of answers still to come can't be known (RFC 4511 section 4.11).
    """

    raw: bytes = field(repr=False)
    answers: int
    unsure: bool = False


@dataclass(frozen=True, slots=True)
class StartLogin:
    """Find out whether this bind succeeds, and say so with LoginEnded. `controls` is encoded, to be passed on."""

    message_id: int
    name: bytes
    typed: Secret
    controls: bytes = b""


@dataclass(frozen=True, slots=True)
class CancelLogin:
    """The login that is under way has nobody left to answer to."""


@dataclass(frozen=True, slots=True)
class DropDirectory:
    """Nothing may run on the client's link any more."""


@dataclass(frozen=True, slots=True)
class BeginTls:
    """Begin the TLS handshake, behind all that was sent before."""


@dataclass(frozen=True, slots=True)
class Close:
    """Close the client's connection, behind all that was sent before."""


@dataclass(frozen=True, slots=True)
class BindRefused:
    """For the record: a bind refused without a login, for `reason`, with result `code`."""

    name: bytes
    reason: str
    code: int


@dataclass(frozen=True, slots=True)
class Report:
    """For the log: why the client was turned away; `code` is its notice's."""

    reason: str
    code: int = field(default=0, compare=False)


Command = Send | Relay | StartLogin | CancelLogin | DropDirectory | BeginTls | Close | BindRefused | Report


@dataclass(frozen=True, slots=True)
class Rules:
    """What a listener lays down for its sessions. Sizes in octets.

    `anonymous`: what a client may do without a bind, or after an anonymous one: read the rootDSE, nothing (not even
    bind anonymously), or search and compare. `read_only`, `denied_operations` (values of `DENIABLE`) and
    `denied_attributes` (not to be written; see `writes.denied_types`) hold for whoever is bound. To deny EXTENDED is
    to deny all extended operations but StartTLS. Raises ValueError for what can't be denied.
    """

    starttls: bool = False
    tls_required: bool = False
    form: CodeForm = field(default_factory=CodeForm)
    frame_before_bind: int = 64 * 1024
    frame_after_bind: int = 1024 * 1024
    held_requests: int = 100
    held_octets: int = 256 * 1024
    refused_binds: int = 10  # in a row, without a login that would take its time
    anonymous: Literal["root-dse", "refuse", "read"] = "root-dse"
    read_only: bool = False
    denied_operations: frozenset[Request] = frozenset()
    denied_attributes: frozenset[str] = frozenset()
    #: What the three above come to, and the tags that pass by themselves in spite of it; made once for all sessions.
    denied: Denied = field(init=False, repr=False, compare=False)
    plain: frozenset[int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        beyond = self.denied_operations.difference(DENIABLE.values())
        if beyond:
            raise ValueError(f"{min(request.name for request in beyond)} can't be denied")
        tags = frozenset(tag for tag, request in REQUESTS.items() if request in self.denied_operations)
        denied = Denied(self.read_only, tags, denied_types(self.denied_attributes))
        object.__setattr__(self, "denied", denied)
        object.__setattr__(self, "plain", _PLAIN - denied.looked_at)


#: What both object identifiers of proxied authorization begin with: a frame that holds it is looked at closely.
_PROXIED_PREFIX: Final = b"2.16.840.1.113730.3.4.1"
_INJECTED: Final = "Octets behind a StartTLS request."


class Session:
    """One client's conversation; see the module.

    `tls`: whether the connection is encrypted from the start. `quiet`: whether the directory owes this client no
    answer (asked before StartTLS only).
    """

    def __init__(self, rules: Rules, *, tls: bool = False, quiet: Callable[[], bool] = lambda: True) -> None:
        self.state = State.ANONYMOUS
        self._rules = rules
        self._tls = tls
        self._quiet = quiet
        self._buffer = bytearray()
        self._wanted = 0  # octets without which reading the buffer again is no use
        self._held: list[Frame] = []
        self._held_octets = 0
        self._stopping = False
        self._refusals = 0  # binds refused without a login since the last one that succeeded
        self._handshaking = False  # between BeginTls and TlsStarted
        self._commands: list[Command] = []

    @property
    def buffered(self) -> int:
        """Octets this session keeps: a frame that is not whole, and frames held behind a bind."""
        return len(self._buffer) + self._held_octets

    @property
    def in_frame(self) -> bool:
        """Whether the client has begun a frame that it has not finished."""
        return bool(self._buffer)

    def receive(self, data: bytes) -> list[Command]:
        """The client sent `data`."""
        if self.state is State.CLOSED:
            return []
        if self._handshaking and data:
            self._disconnect(ldap.PROTOCOL_ERROR, _INJECTED)
            return self._take()
        buffer = self._buffer
        if not buffer:
            read = self._read_frames(data)
            if read < len(data):
                buffer += data[read:]
        else:
            buffer += data
            if len(buffer) >= self._wanted:
                del buffer[: self._read_frames(buffer)]
        return self._take()

    def handle(self, event: Event) -> list[Command]:
        """Something else happened."""
        if self.state is not State.CLOSED:
            _EVENTS[type(event)](self, event)
        return self._take()

    def _take(self) -> list[Command]:
        commands, self._commands = self._commands, []
        return commands

    # -- octets to rules

    def _read_frames(self, data: bytes | bytearray) -> int:
        """Apply the rules to every whole frame at the start of `data`; how many octets those were."""
        pos, size = 0, len(data)
        rules = self._rules
        closely = 0  # up to here every frame is looked at by itself
        try:
            while pos < size:
                limit = rules.frame_before_bind
                if self.state is State.BOUND:
                    limit = rules.frame_after_bind
                    if pos >= closely:
                        closely, count = ldap.plain_run(data, pos, rules.plain, limit)
                        if count:
                            run = bytes(data[pos:closely])
                            if _PROXIED_PREFIX not in run:
                                self._commands.append(Relay(run, count))
                                pos = closely
                                continue
                frame = ldap.read_frame(data, pos, limit)
                if isinstance(frame, int):
                    self._wanted = frame
                    break
                pos += len(frame.raw)
                if frame.id == 0:
                    self._disconnect(ldap.PROTOCOL_ERROR, "Not LDAP: the message id 0 is the server's.")
                else:
                    self._apply(frame, behind=size - pos)
                if self.state is State.CLOSED:
                    break
        except BerError as broken:
            self._disconnect(ldap.PROTOCOL_ERROR, f"Not LDAP: {broken}.")
        return pos

    def _apply(self, frame: Frame, behind: int = 0) -> None:
        self._behind = behind
        RULES[self.state, REQUESTS.get(frame.tag, Request.UNKNOWN)](self, frame)

    # -- what the rules do

    def _ignore(self, frame: Frame) -> None:
        """Nothing."""

    def _leave(self, frame: Frame) -> None:
        if self.state is State.BINDING:
            self._commands.append(CancelLogin())
        self._end()

    def _unknown(self, frame: Frame) -> None:
        self._disconnect(ldap.PROTOCOL_ERROR, f"The operation 0x{frame.tag:02x} is not a request.")

    def _bind(self, frame: Frame) -> None:
        """Nobody from here on, whatever the outcome (RFC 4513 section 4)."""
        was_linked = self.state is State.BOUND
        self.state = State.ANONYMOUS
        try:
            bind = ldap.read_bind(frame)
        except BerError as broken:
            self._refuse_bind(frame, b"", "malformed", ldap.PROTOCOL_ERROR, f"The bind is malformed: {broken}.")
            return
        refusal = self._first_refusal(frame, bind)
        if refusal:
            self._refuse_bind(frame, bind.name, *refusal)
        elif not bind.name and not bind.password:
            if was_linked:
                self._commands.append(DropDirectory())
            self._commands.append(Send(ldap.result(frame.id, frame.tag, ldap.SUCCESS)))
        else:
            self.state = State.BINDING
            controls = frame.raw[frame.stop :]
            self._commands.append(StartLogin(frame.id, bind.name, Secret(bind.password or b""), controls))

    def _first_refusal(self, frame: Frame, bind: ldap.Bind) -> tuple[str, int, str] | None:
        """Why the bind is refused whoever binds: reason, result code, text."""
        if self._rules.tls_required and not self._tls:
            return "clear-text", ldap.CONFIDENTIALITY_REQUIRED, "TLS is required before a bind."
        if bind.version != 3:
            return "version", ldap.PROTOCOL_ERROR, "LDAP version 3 is required."
        if bind.password is None:
            return "method", ldap.AUTH_METHOD_NOT_SUPPORTED, "Only a simple bind can carry a second factor."
        if _is_proxied(frame):
            return "proxied-authorization", ldap.AUTHORIZATION_DENIED, "Proxied authorization is refused."
        if not bind.name and not bind.password:
            if self._rules.anonymous == "refuse":
                return "anonymous", ldap.INAPPROPRIATE_AUTHENTICATION, "An anonymous bind is refused here."
            if any(control.critical for control in frame.controls):
                return "control", ldap.UNAVAILABLE_CRITICAL_EXTENSION, "The control is unknown for an anonymous bind."
            return None
        if bind.name and not is_usable(Secret(bind.password), self._rules.form):
            return "empty-password", ldap.UNWILLING_TO_PERFORM, "A name needs a password."
        return None

    def _refuse_bind(self, frame: Frame, name: bytes, reason: str, code: int, text: str) -> None:
        self._refusals += 1
        self._commands.append(BindRefused(name, reason, code))
        if self._refusals > self._rules.refused_binds:
            self._disconnect(ldap.BUSY, "Too many refused binds.")
            return
        self._commands += (DropDirectory(), Send(ldap.result(frame.id, ldap.BIND_REQUEST, code, text)))

    def _bind_again(self, frame: Frame) -> None:
        """A second Bind while one is pending (RFC 4511 section 4.2.1 forbids it)."""
        name = b""
        with suppress(BerError):
            name = ldap.read_bind(frame).name
        self._commands.append(BindRefused(name, "second-bind", ldap.PROTOCOL_ERROR))
        self._disconnect(ldap.PROTOCOL_ERROR, "A bind is under way.")

    def _hold(self, frame: Frame) -> None:
        size = len(frame.raw)
        rules = self._rules
        if len(self._held) >= rules.held_requests or self._held_octets + size > rules.held_octets:
            self._answer(frame, ldap.BUSY, "Too many requests behind a bind that is not answered.")
            return
        self._held.append(frame)
        self._held_octets += size

    def _relay(self, frame: Frame) -> None:
        if frame.controls and _is_proxied(frame):
            self._answer(frame, ldap.AUTHORIZATION_DENIED, "Proxied authorization is refused.")
        elif _PROXIED_PREFIX in frame.raw and not ldap.is_to_the_letter(frame):
            self._disconnect(ldap.PROTOCOL_ERROR, "Not LDAP: an operation with more in it than belongs there.")
        elif refusal := self._rules.denied.refusal(frame):
            self._answer(frame, *refusal)
        else:
            self._commands.append(Relay(frame.raw, 1))

    def _relay_abandon(self, frame: Frame) -> None:
        if not _is_proxied(frame):
            self._commands.append(Relay(frame.raw, 0, unsure=True))

    def _search_anonymously(self, frame: Frame) -> None:
        if self._rules.anonymous != "refuse" and ldap.reads_root_dse(frame):
            self._relay(frame)
        else:
            self._read_anonymously(frame)

    def _read_anonymously(self, frame: Frame) -> None:
        """Nobody's search or compare, on a link on which nobody was bound: a Bind has dropped any other."""
        if self._rules.anonymous != "read" or _is_proxied(frame) or not ldap.reads_openly(frame):
            self._refuse_anonymous(frame)
        elif self._rules.tls_required and not self._tls:
            self._answer(frame, ldap.CONFIDENTIALITY_REQUIRED, "TLS is required before anything is read.")
        else:
            self._relay(frame)

    def _refuse_anonymous(self, frame: Frame) -> None:
        self._answer(frame, ldap.INSUFFICIENT_ACCESS_RIGHTS, "A bind must come first.")

    def _extended(self, frame: Frame) -> None:
        try:
            oid = ldap.read_extended_oid(frame)
        except BerError as broken:
            self._answer(frame, ldap.PROTOCOL_ERROR, f"The extended request is malformed: {broken}.")
            return
        if oid == ldap.OID_START_TLS:
            self._start_tls(frame)
        elif self.state is State.ANONYMOUS:
            self._refuse_anonymous(frame)
        elif oid in (ldap.OID_FAST_BIND, ldap.OID_TURN):
            self._answer(frame, ldap.UNWILLING_TO_PERFORM, "This extended operation would change who is bound.")
        else:
            self._relay(frame)

    def _start_tls(self, frame: Frame) -> None:
        """RFC 4511 section 4.14; octets behind the request were sent without waiting, or injected."""
        oid = ldap.OID_START_TLS
        if self._tls or self.state is not State.ANONYMOUS or self._owed():
            self._answer(frame, ldap.OPERATIONS_ERROR, "StartTLS comes once, first.", oid)
        elif not self._rules.starttls:
            self._answer(frame, ldap.PROTOCOL_ERROR, "StartTLS is not offered here.", oid)
        elif any(control.critical for control in frame.controls):
            self._answer(frame, ldap.UNAVAILABLE_CRITICAL_EXTENSION, "The control is unknown for StartTLS.", oid)
        elif self._behind:
            self._disconnect(ldap.PROTOCOL_ERROR, _INJECTED)
        else:
            self._answer(frame, ldap.SUCCESS, "", oid)
            self._commands.append(BeginTls())
            self._handshaking = True

    def _owed(self) -> bool:
        """Whether the directory owes an answer, or will when the commands so far are performed."""
        for command in reversed(self._commands):
            if isinstance(command, Relay | DropDirectory):
                return isinstance(command, Relay)
        return not self._quiet()

    def _answer(self, frame: Frame, code: int, text: str, oid: bytes = b"") -> None:
        self._commands.append(Send(ldap.result(frame.id, frame.tag, code, text, oid)))

    # -- what the other events do

    def _login_ended(self, event: LoginEnded) -> None:
        if self.state is not State.BINDING:
            return
        if event.accepted:
            self.state = State.BOUND
            self._refusals = 0
            self._commands.append(Send(event.answer))
        else:
            self.state = State.ANONYMOUS
            self._commands += (DropDirectory(), Send(event.answer))
        held, self._held, self._held_octets = self._held, [], 0
        if self._stopping:
            self._stop(StopRequested())
            return
        for frame in held:
            self._apply(frame, behind=1)  # whatever is held has something before it: a StartTLS here is late

    def _tls_started(self, event: TlsStarted) -> None:
        self._tls = True
        self._handshaking = False
        self._rules = event.rules or self._rules

    def _client_left(self, _event: ClientLeft) -> None:
        if self.state is State.BINDING:
            self._commands.append(CancelLogin())
        self.state = State.CLOSED
        self._commands.append(DropDirectory())
        self._forget()

    def _directory_left(self, event: DirectoryLeft) -> None:
        if event.noticed:
            self._end()
        else:
            self._disconnect(ldap.UNAVAILABLE, "The directory has closed the connection.")

    def _stop(self, _event: StopRequested) -> None:
        if self.state is State.BINDING:
            self._stopping = True
        else:
            self._commands.append(Send(ldap.notice_of_disconnection(ldap.UNAVAILABLE, "The service is stopping.")))
            self._end()

    def _overloaded(self, event: Overloaded) -> None:
        self._disconnect(event.code, event.reason)

    def _revoked(self, event: Revoked) -> None:
        """The association is no good any more (RFC 4511 section 4.4.1); the service itself is as available as ever."""
        if self.state is State.BOUND:
            self._disconnect(ldap.STRONGER_AUTH_REQUIRED, event.reason)

    def _rules_changed(self, event: RulesChanged) -> None:
        self._rules = event.rules

    def _rested(self, _event: Rested) -> None:
        """Nothing is wrong: no report, and a notice by which a pool of connections knows that it may come back."""
        if self.state is State.BOUND:
            self._commands.append(Send(ldap.notice_of_disconnection(ldap.UNAVAILABLE, "Idle for too long.")))
            self._end()

    def _disconnect(self, code: int, text: str) -> None:
        if self.state is State.BINDING:
            self._commands.append(CancelLogin())
        self._commands += (Report(text, code), Send(ldap.notice_of_disconnection(code, text)))
        self._end()

    def _end(self) -> None:
        self.state = State.CLOSED
        self._commands += (DropDirectory(), Close())
        self._forget()

    def _forget(self) -> None:
        self._buffer = bytearray()
        self._held = []
        self._held_octets = 0


def _is_proxied(frame: Frame) -> bool:
    """Whether it asks to be performed as somebody else."""
    return any(control.oid in ldap.PROXIED_AUTHORIZATION for control in frame.controls)


_EVENTS: Final[dict[type, Callable[..., None]]] = {
    LoginEnded: Session._login_ended,
    TlsStarted: Session._tls_started,
    ClientLeft: Session._client_left,
    DirectoryLeft: Session._directory_left,
    StopRequested: Session._stop,
    Overloaded: Session._overloaded,
    Revoked: Session._revoked,
    Rested: Session._rested,
    RulesChanged: Session._rules_changed,
}

_S = Session
#: What a session does with a request in a state: first the row of each state for "any other request", then the rest.
RULES: Final[dict[tuple[State, Request], Callable[[Session, Frame], None]]] = {
    **{(State.ANONYMOUS, request): _S._refuse_anonymous for request in Request},
    (State.ANONYMOUS, Request.BIND): _S._bind,
    (State.ANONYMOUS, Request.UNBIND): _S._leave,
    (State.ANONYMOUS, Request.ABANDON): _S._ignore,
    (State.ANONYMOUS, Request.SEARCH): _S._search_anonymously,
    (State.ANONYMOUS, Request.COMPARE): _S._read_anonymously,
    (State.ANONYMOUS, Request.EXTENDED): _S._extended,
    (State.ANONYMOUS, Request.UNKNOWN): _S._unknown,
    **{(State.BINDING, request): _S._hold for request in Request},
    (State.BINDING, Request.BIND): _S._bind_again,
    (State.BINDING, Request.UNBIND): _S._leave,
    (State.BINDING, Request.ABANDON): _S._ignore,
    (State.BINDING, Request.UNKNOWN): _S._unknown,
    **{(State.BOUND, request): _S._relay for request in Request},
    (State.BOUND, Request.BIND): _S._bind,
    (State.BOUND, Request.UNBIND): _S._leave,
    (State.BOUND, Request.ABANDON): _S._relay_abandon,
    (State.BOUND, Request.EXTENDED): _S._extended,
    (State.BOUND, Request.UNKNOWN): _S._unknown,
    **{(State.CLOSED, request): _S._ignore for request in Request},
}

#: Operations that pass by tag alone once somebody is bound, where nothing in their octets names a proxied identity and
#: the rules deny nothing of their kind.
_PLAIN: Final = frozenset(
    tag for tag, request in REQUESTS.items() if RULES[State.BOUND, request] is Session._relay
)
