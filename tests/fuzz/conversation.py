"""core/session against a reading of its own: any octets and events, however they are split.

An input is a first octet that chooses the rules, then a client's octets, with an escape (0xFF and the octet of an event)
wherever something else happens; 0xFF twice is the octet itself. It is played twice. Once frame by frame, beside a model
that knows only which frames were sent and how logins ended, and holds every command against it; once in the pieces that
the input says. Both must come to the same commands.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field

from ldapmfa.core.secret import CodeForm, is_usable
from ldapmfa.core.session import (
    BeginTls,
    BindRefused,
    CancelLogin,
    ClientLeft,
    Close,
    Command,
    DirectoryLeft,
    DropDirectory,
    LoginEnded,
    Overloaded,
    Relay,
    Request,
    Revoked,
    Rules,
    Send,
    Session,
    StartLogin,
    State,
    StopRequested,
    TlsStarted,
)
from ldapmfa.wire import ldap
from ldapmfa.wire.ber import BerError

OPEN = Rules(starttls=True, anonymous="read", read_only=True, held_requests=3)
RULES = (
    Rules(starttls=True),
    Rules(starttls=True, tls_required=True),
    Rules(frame_before_bind=60, frame_after_bind=120, held_requests=2, held_octets=120),
    OPEN,
    Rules(anonymous="refuse", denied_attributes=frozenset({"sn", "userPassword"}), denied_operations=frozenset({Request.COMPARE})),
    Rules(form=CodeForm(delimiter=b","), denied_operations=frozenset({Request.EXTENDED, Request.DELETE}), refused_binds=2),
)
YES, NO = ldap.result(1, ldap.BIND_REQUEST, 0), ldap.result(1, ldap.BIND_REQUEST, 49, "no")
#: By the octet behind 0xFF. TlsStarted is told only where a handshake began, as the shell does; "answered" empties what
#: the directory owes; None only ends a piece.
EVENTS = {
    0x00: None,
    0x01: LoginEnded(accepted=True, answer=YES),
    0x02: LoginEnded(accepted=False, answer=NO),
    0x03: TlsStarted(),
    0x04: TlsStarted(OPEN),
    0x05: ClientLeft(),
    0x06: DirectoryLeft(),
    0x07: DirectoryLeft(noticed=True),
    0x08: StopRequested(),
    0x09: Overloaded("x"),
    0x0A: Revoked("x"),
    0x0B: "answered",
}
Step = object


def script(data: bytes) -> list[Step]:
    """The pieces (octets) and events of an input."""
    steps: list[Step] = []
    piece = bytearray()
    octets = iter(data)
    for octet in octets:
        if octet != 0xFF:
            piece.append(octet)
            continue
        code = next(octets, 0xFF)
        if code not in EVENTS:
            piece.append(code)
            continue
        if piece:
            steps.append(bytes(piece))
            piece.clear()
        if EVENTS[code] is not None:
            steps.append(EVENTS[code])
    if piece:
        steps.append(bytes(piece))
    return steps


@dataclass
class Shell:
    """The session, with what a shell keeps: what the directory owes, and whether a handshake is under way."""

    rules: Rules
    owed: list[Relay] = field(default_factory=list)
    handshake: bool = False
    commands: list[Command] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.session = Session(self.rules, quiet=lambda: not self.owed)

    def play(self, step: Step) -> list[Command]:
        """What comes of a piece of octets, or of an event."""
        if step == "answered":
            self.owed.clear()
            return []
        if isinstance(step, bytes):
            done = self.session.receive(step)
        elif isinstance(step, TlsStarted):
            if not self.handshake:
                return []
            self.handshake = False
            done = self.session.handle(step)
        else:
            done = self.session.handle(step)  # type: ignore[arg-type]
        for command in done:
            if isinstance(command, Relay):
                self.owed.append(command)
            elif isinstance(command, DropDirectory):
                self.owed.clear()
            elif isinstance(command, BeginTls):
                self.handshake = True
        self.commands += done
        return done


class Model:
    """Who the client is, told from its frames, from how logins ended, and from nothing else."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.who = "nobody"  # or "pending", "bound", "gone"
        self.held: list[ldap.Frame] = []

    def opens(self, frame: ldap.Frame) -> bool:
        """Whether the frame may be relayed for nobody."""
        if self.rules.anonymous == "refuse" or _is_proxied(frame):
            return False
        reads = frame.tag in (ldap.SEARCH_REQUEST, ldap.COMPARE_REQUEST) and self.rules.anonymous == "read"
        return ldap.reads_root_dse(frame) or (reads and ldap.reads_openly(frame))

    def passes(self, frame: ldap.Frame) -> bool:
        """Whether the frame may be relayed for whoever is bound."""
        request = _REQUESTS.get(frame.tag)
        hides = _PROXIED in frame.raw and not ldap.is_to_the_letter(frame)  # what a lenient directory takes for a control
        return (
            request is not None
            and not (_is_proxied(frame) or hides)
            and request not in self.rules.denied_operations
            and not (self.rules.read_only and request in _WRITING)
        )

    def sees(self, step: Step, frame: ldap.Frame | None, commands: list[Command], session: Session) -> None:
        """Hold what was done for one frame, or one event, against what may be done."""
        if self.who == "gone":
            assert commands == []
            assert session.state is State.CLOSED
        relayed = b"".join(command.raw for command in commands if isinstance(command, Relay))
        may = self._may_be_relayed(step, frame)
        pos = 0
        for one in may:
            if relayed.startswith(one.raw, pos):
                pos += len(one.raw)
        assert pos == len(relayed), "relayed, and must not be"
        self._moves_on(step, frame, commands)
        self._answers(step, frame, commands)
        self._ends(commands, session)
        expected = {"nobody": State.ANONYMOUS, "pending": State.BINDING, "bound": State.BOUND, "gone": State.CLOSED}
        assert session.state is expected[self.who]
        limit = max(self.rules.frame_before_bind, self.rules.frame_after_bind) + self.rules.held_octets
        assert session.buffered <= (limit if self.who != "gone" else 0)

    def _may_be_relayed(self, step: Step, frame: ldap.Frame | None) -> list[ldap.Frame]:
        if isinstance(step, LoginEnded) and self.who == "pending":
            return [one for one in self.held if (self.passes(one) if step.accepted else self.opens(one))]
        if frame is None or self.who in ("pending", "gone"):
            return []
        return [frame] if (self.passes(frame) if self.who == "bound" else self.opens(frame)) else []

    def _moves_on(self, step: Step, frame: ldap.Frame | None, commands: list[Command]) -> None:
        starts = [command for command in commands if isinstance(command, StartLogin)]
        assert len(starts) <= 1
        if isinstance(step, LoginEnded) and self.who == "pending":
            assert not starts
            if not step.accepted:
                assert commands[:2] == [DropDirectory(), Send(NO)]
            self.who, self.held = "bound" if step.accepted else "nobody", []
        elif frame is not None and frame.tag == ldap.BIND_REQUEST and self.who != "gone":
            self.held = []
            if starts:
                assert self.who != "pending"
                bind = ldap.read_bind(frame)
                assert bind.password is not None
                assert (starts[0].message_id, starts[0].name) == (frame.id, bind.name)
                assert starts[0].typed.reveal() == bind.password
                assert not bind.name or is_usable(starts[0].typed, self.rules.form)
                assert bind.version == 3
            else:
                assert any(isinstance(one, BindRefused | Send) for one in commands)
            self.who = "pending" if starts else "nobody"
        else:
            assert not starts
            if frame is not None and self.who == "pending":
                self.held.append(frame)

    def _answers(self, step: Step, frame: ldap.Frame | None, commands: list[Command]) -> None:
        for command in commands:
            if not isinstance(command, Send):
                continue
            sent = ldap.read_frame(command.raw, 0, len(command.raw))
            assert isinstance(sent, ldap.Frame)
            assert sent.raw == command.raw
            if sent.tag == ldap.BIND_RESPONSE and ldap.read_result(sent).code == ldap.SUCCESS:
                nobody = frame is not None and frame.tag == ldap.BIND_REQUEST and _is_anonymous(frame)
                assert nobody or (isinstance(step, LoginEnded) and step.accepted), "a success without a login"
            assert sent.id == 0 or frame is None or sent.id == frame.id

    def _ends(self, commands: list[Command], session: Session) -> None:
        if Close() in commands:
            assert commands[-2:] == [DropDirectory(), Close()]
        if session.state is State.CLOSED:
            self.who, self.held = "gone", []
        if CancelLogin() in commands:
            assert session.state is State.CLOSED


_PROXIED = b"2.16.840.1.113730.3.4.1"
_REQUESTS = {
    ldap.SEARCH_REQUEST: Request.SEARCH,
    ldap.COMPARE_REQUEST: Request.COMPARE,
    ldap.ADD_REQUEST: Request.ADD,
    ldap.MODIFY_REQUEST: Request.MODIFY,
    ldap.DELETE_REQUEST: Request.DELETE,
    ldap.MODIFY_DN_REQUEST: Request.RENAME,
    ldap.EXTENDED_REQUEST: Request.EXTENDED,
    ldap.ABANDON_REQUEST: Request.ABANDON,
}
_WRITING = (Request.ADD, Request.MODIFY, Request.DELETE, Request.RENAME)


def _is_proxied(frame: ldap.Frame) -> bool:
    return any(control.oid in ldap.PROXIED_AUTHORIZATION for control in frame.controls)


def _is_anonymous(frame: ldap.Frame) -> bool:
    bind = ldap.read_bind(frame)
    return not bind.name and not bind.password


def summary(commands: list[Command]) -> list[Command]:
    """`commands` as the shell performs them: neighbouring relays in one, a handshake that injected octets ended not begun."""
    joined: list[Command] = []
    for command in commands:
        if isinstance(command, Relay) and joined and isinstance(joined[-1], Relay):
            last = joined.pop()
            command = Relay(last.raw + command.raw, last.answers + command.answers, last.unsure or command.unsure)  # noqa: PLW2901
        joined.append(command)
    return joined


def converse(data: bytes) -> None:
    """Play an input frame by frame beside the model, then in its pieces."""
    if not data:
        return
    rules = RULES[data[0] % len(RULES)]
    steps = script(data[1:])
    reference = Shell(rules)
    _frame_by_frame(reference, steps)
    pieces = Shell(rules)
    for step in steps:
        pieces.play(step)
    assert _without_vain_tls(pieces.commands) == _without_vain_tls(reference.commands), "it depends on the split"
    assert pieces.session.state is reference.session.state
    assert pieces.session.buffered == reference.session.buffered


def _without_vain_tls(commands: list[Command]) -> list[Command]:
    """Octets that come with a StartTLS or right behind it end the session, before TLS has begun."""
    found = summary(commands)
    if BeginTls() in found:
        place = len(found) - 1 - found[::-1].index(BeginTls())
        behind = found[place + 1 :]
        if len(behind) == 4 and behind[-1] == Close():  # a report, the notice, and the end
            found[place - 1 : place + 1] = []
    return found


def _frame_by_frame(shell: Shell, steps: list[Step]) -> None:
    model = Model(shell.rules)
    stream = bytearray()  # what no frame has been made of yet
    for step in steps:
        if not isinstance(step, bytes):
            if isinstance(step, TlsStarted) and shell.handshake and step.rules:
                model.rules = step.rules
            model.sees(step, None, shell.play(step), shell.session)
            continue
        fed = len(stream)
        stream += step
        with contextlib.suppress(BerError):
            while stream:
                frame = ldap.read_frame(stream, 0, 1 << 20)
                if isinstance(frame, int):
                    break
                piece = bytes(stream[fed : len(frame.raw)])
                model.sees(piece, frame, shell.play(piece), shell.session)
                del stream[: len(frame.raw)]
                fed = 0
        if stream[fed:]:
            piece = bytes(stream[fed:])
            model.sees(piece, None, shell.play(piece), shell.session)
