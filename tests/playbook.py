"""Conversations as transcripts.

A playbook reads like a protocol trace. ``>>`` is what happens to the thing under test, ``<<`` what it does next::

    assert (
        Playbook(Session(Rules()))
        >> bind(1, "cn=ann", "secret123456")
        << StartLogin(1, b"cn=ann", Secret(b"secret123456"))
        >> search(2)
        >> LoginEnded(accepted=True, answer=OK)
        << Send(OK)
        << Relay(search(2), 1)
    )

Every command has to be written down, in order, behind the event that causes it. `Procedure` does the same for a
generator: ``<<`` is what it yields, returns or raises, ``>>`` what it is sent (an exception is thrown in).

Behind ``<<`` may stand the very value, a type (any value of it will do), an `Answer` or a `Notice`, or a tuple of
these for several commands. The transcript is played when its truth is asked for; one that never is fails its test.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Generator, Sequence
from itertools import zip_longest
from typing import Any, Self

from ldapmfa.core.login import login
from ldapmfa.core.questions import Attempt, MayTry, Question, Verdict
from ldapmfa.core.secret import Secret
from ldapmfa.core.session import Relay, Send, Session
from ldapmfa.wire import ldap
from ldapmfa.wire.ber import BerError


class PlaybookError(AssertionError):
    """The transcript is not what happened, or makes no sense."""


class _Transcript:
    """Steps, and what checks them; `_play` performs one event (None: the beginning) and returns what came of it."""

    def __init__(self) -> None:
        self._steps: list[tuple[Any, list[Any]]] = []

    def _play(self, event: Any) -> Sequence[Any]:
        raise NotImplementedError

    def __rshift__(self, event: Any) -> Self:
        self._steps.append((event, []))
        return self

    def __lshift__(self, doing: Any) -> Self:
        if not self._steps:
            self._steps.append((None, []))
        self._steps[-1][1].extend(doing if type(doing) is tuple else (doing,))
        return self

    def __bool__(self) -> bool:
        written, played = [], []
        right = True
        steps, self._steps = self._steps, []
        for event, expected in steps:
            if event is not None:
                written.append(f">> {show(event)}")
                played.append(f">> {show(event)}")
            for want, got in zip_longest(expected, self._play(event), fillvalue=_NOTHING):
                same = _matches(want, got)
                right = right and same
                lines = [f"<< {show(got if same else want)}", f"<< {show(got)}"]
                if lines[0] == lines[1] and not same:
                    lines = [f"<< {_bare(want)}", f"<< {_bare(got)}"]
                written += [lines[0]] * (want is not _NOTHING)
                played += [lines[1]] * (got is not _NOTHING)
        if not right:
            diff = "\n".join(line for line in difflib.ndiff(written, played) if line[0] != "?")
            raise PlaybookError(f"the playbook (-) is not what happened (+):\n{diff}")
        return True

    def __del__(self) -> None:
        if self._steps:
            raise PlaybookError("a playbook was written and never checked: assert it")


class Playbook(_Transcript):
    """A conversation with a `Session`: octets go to receive, other events to handle."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session

    def _play(self, event: Any) -> Sequence[Any]:
        if event is None:
            return ()
        return self.session.receive(event) if isinstance(event, bytes) else self.session.handle(event)


def unthrottled(attempt: Attempt) -> Generator[Question, Any, Verdict]:
    """The login of `attempt`, whose password may be tried: that question is answered here."""
    procedure = login(attempt)
    try:
        question = next(procedure)
        while True:
            if isinstance(question, MayTry):
                question = procedure.send(None)
                continue
            try:
                said = yield question
            except Exception as broken:  # noqa: BLE001 - whatever it is, it is passed on
                question = procedure.throw(broken)
            else:
                question = procedure.send(said)
    except StopIteration as end:
        verdict: Verdict = end.value
        return verdict


class Procedure(_Transcript):
    """A conversation with a generator; the last ``<<`` is what it returns, or the exception it raises."""

    def __init__(self, generator: Generator[Any, Any, Any]) -> None:
        super().__init__()
        self._generator = generator
        self._ended = False

    def _play(self, event: Any) -> Sequence[Any]:
        if self._ended:
            raise PlaybookError(f"the procedure has ended, and can't be sent {show(event)}")
        try:
            if isinstance(event, BaseException):
                return (self._generator.throw(event),)
            return (self._generator.send(None if event is NONE else event),)
        except StopIteration as end:
            self._ended = True
            return (end.value,)
        except Exception as raised:  # noqa: BLE001 - what a procedure raises is its last word
            self._ended = True
            return (raised,)


class _Word:
    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


_NOTHING = _Word("nothing")
#: The answer None of a procedure's question (None itself is the beginning).
NONE = _Word("None")


class Answer:
    """Any `Send` of a result with this message id, for this request, with this code (and text, if given)."""

    def __init__(self, message_id: int, request_tag: int, code: int, text: str | None = None, oid: bytes = b"") -> None:
        self._wanted = (message_id, ldap.RESPONSE_TO[request_tag], code, oid)
        self._text = text

    def matches(self, command: object) -> bool:
        if not isinstance(command, Send):
            return False
        try:
            frame = ldap.read_frame(command.raw, 0, len(command.raw))
            if isinstance(frame, int) or frame.raw != command.raw:
                return False
            result = ldap.read_result(frame)
        except BerError:
            return False
        return (
            (frame.id, frame.tag, result.code, result.oid) == self._wanted
            and not result.matched
            and self._text in (None, result.text.decode())
        )

    def __repr__(self) -> str:
        message_id, tag, code, _ = self._wanted
        return f"Send {_NAMES[tag]} {message_id} code={code} {self._text or '...'!r}"


class Notice(Answer):
    """Any `Send` of a notice of disconnection with this code."""

    def __init__(self, code: int) -> None:
        super().__init__(0, ldap.EXTENDED_REQUEST, code, oid=ldap.OID_NOTICE_OF_DISCONNECTION)


def _matches(want: Any, got: Any) -> bool:
    if want is _NOTHING or got is _NOTHING:
        return False
    if isinstance(want, type):
        return isinstance(got, want)
    return want.matches(got) if isinstance(want, Answer) else type(want) is type(got) and want == got


_NAMES = {
    value: "".join(word.capitalize() for word in name.split("_"))
    for name, value in vars(ldap).items()
    if name.endswith(("_REQUEST", "_RESPONSE", "_ENTRY", "_DONE", "_REFERENCE"))
} | {0x67: "ModifyResponse", 0x69: "AddResponse", 0x6B: "DeleteResponse", 0x6D: "ModifyDnResponse", 0x6F: "CompareResponse"}


def show(item: Any) -> str:
    """`item` as a line of a transcript; LDAP messages by name, id and result."""
    match item:
        case bytes():
            return _show_octets(item)
        case Send(raw):
            return f"Send {_show_octets(raw)}"
        case Relay(raw, answers, unsure):
            return f"Relay {_show_octets(raw)} answers={answers}{' unsure' * unsure}"
        case type():
            return f"{item.__name__}(...)"
        case _:
            return repr(item)


def _bare(item: Any) -> str:
    """`item` in full: the secrets of tests are none."""
    if isinstance(item, Secret):
        return f"Secret({item.reveal()!r})"
    if not dataclasses.is_dataclass(item) or isinstance(item, type):
        return repr(item)
    fields = (f"{field.name}={_bare(getattr(item, field.name))}" for field in dataclasses.fields(item))
    return f"{type(item).__name__}({', '.join(fields)})"


def _show_octets(octets: bytes) -> str:
    shown, pos = [], 0
    try:
        while pos < len(octets):
            frame = ldap.read_frame(octets, pos, len(octets))
            if isinstance(frame, int):
                break
            pos += len(frame.raw)
            text = f"{_NAMES.get(frame.tag, hex(frame.tag))} {frame.id}"
            if frame.tag in ldap.RESPONSE_TO.values():
                result = ldap.read_result(frame)
                text += f" code={result.code} {result.text.decode(errors='replace')!r}"
            shown.append(text)
    except BerError:
        pass
    if pos < len(octets):
        rest = octets[pos:].hex(" ")
        shown.append(rest if len(rest) <= 90 else f"{rest[:87]}... ({len(octets) - pos} octets)")
    return " + ".join(shown) or "no octets"


# -- what clients say, encoded here and not by the code under test


def tlv(tag: int, *parts: bytes, wide: int = 0) -> bytes:
    """An element; `wide` is the number of octets of a long length form, 0 for the shortest form."""
    content = b"".join(parts)
    size = len(content)
    if not wide and size < 0x80:
        return bytes([tag, size]) + content
    wide = wide or (size.bit_length() + 7) // 8
    return bytes([tag, 0x80 | wide]) + size.to_bytes(wide, "big") + content


def number(value: int, tag: int = 0x02) -> bytes:
    """An INTEGER (or ENUMERATED) in the fewest octets."""
    size = 1
    while not -(1 << 8 * size - 1) <= value < 1 << 8 * size - 1:
        size += 1
    return tlv(tag, value.to_bytes(size, "big", signed=True))


def message(message_id: int, operation: bytes, *controls: bytes) -> bytes:
    """An LDAPMessage."""
    return tlv(0x30, number(message_id), operation, tlv(0xA0, *controls) if controls else b"")


def control(oid: str, *, critical: bool = False, value: bytes | None = None) -> bytes:
    """A control."""
    return tlv(
        0x30,
        tlv(0x04, oid.encode()),
        tlv(0x01, b"\xff") if critical else b"",
        b"" if value is None else tlv(0x04, value),
    )


def octets(text: str | bytes) -> bytes:
    """What `text` is on the wire."""
    return text.encode() if isinstance(text, str) else text


def bind(
    message_id: int, name: str | bytes, password: str | bytes, *controls: bytes, version: int = 3, method: int = 0x80
) -> bytes:
    """A bind; `method` is the tag of the authentication choice."""
    operation = tlv(0x60, number(version), tlv(0x04, octets(name)), tlv(method, octets(password)))
    return message(message_id, operation, *controls)


def sasl(message_id: int, mechanism: str, credentials: bytes | None = None, name: str = "") -> bytes:
    """A SASL bind."""
    inside = tlv(0x04, mechanism.encode()) + (b"" if credentials is None else tlv(0x04, credentials))
    return bind(message_id, name, inside, method=0xA3)


PRESENT = tlv(0x87, b"objectClass")


def search(
    message_id: int,
    base: str | bytes = "dc=example",
    *controls: bytes,
    scope: int = 2,
    where: bytes = PRESENT,
    attributes: Sequence[str | bytes] = (),
) -> bytes:
    """A search."""
    operation = tlv(
        0x63,
        tlv(0x04, octets(base)),
        number(scope, 0x0A),
        number(0, 0x0A),
        number(0),
        number(0),
        tlv(0x01, b"\x00"),
        where,
        tlv(0x30, *(tlv(0x04, octets(name)) for name in attributes)),
    )
    return message(message_id, operation, *controls)


def read_root(message_id: int, *controls: bytes, attributes: Sequence[str | bytes] = ("*", "+")) -> bytes:
    """The search that reads the rootDSE."""
    return search(message_id, "", *controls, scope=0, attributes=attributes)


def extended(message_id: int, oid: str | bytes, value: bytes | None = None, *controls: bytes) -> bytes:
    """An extended request."""
    parts = tlv(0x80, octets(oid)) + (b"" if value is None else tlv(0x81, value))
    return message(message_id, tlv(0x77, parts), *controls)


def start_tls(message_id: int, *controls: bytes) -> bytes:
    """A StartTLS request."""
    return extended(message_id, "1.3.6.1.4.1.1466.20037", None, *controls)


def unbind(message_id: int) -> bytes:
    """An Unbind."""
    return message(message_id, tlv(0x42))


def abandon(message_id: int, which: int, *controls: bytes) -> bytes:
    """An Abandon of the operation `which`."""
    return message(message_id, number(which, 0x50), *controls)


def delete(message_id: int, name: str = "cn=gone", *controls: bytes) -> bytes:
    """A delete."""
    return message(message_id, tlv(0x4A, name.encode()), *controls)


def compare(message_id: int, *controls: bytes, attribute: str | bytes = "cn") -> bytes:
    """A compare."""
    assertion = tlv(0x30, tlv(0x04, octets(attribute)), tlv(0x04, b"x"))
    return message(message_id, tlv(0x6E, tlv(0x04, b"cn=x"), assertion), *controls)


def attribute(description: str | bytes, *values: bytes) -> bytes:
    """An attribute with its values."""
    return tlv(0x30, tlv(0x04, octets(description)), tlv(0x31, *(tlv(0x04, value) for value in values)))


def modify(message_id: int, *controls: bytes, types: Sequence[str | bytes] = ("sn",), kind: int = 2) -> bytes:
    """A modify; a change of this `kind` for each of `types`."""
    changes = (tlv(0x30, number(kind, 0x0A), attribute(name, b"x")) for name in types)
    return message(message_id, tlv(0x66, tlv(0x04, b"cn=x"), tlv(0x30, *changes)), *controls)


def add(message_id: int, *controls: bytes, name: str | bytes = "cn=x", types: Sequence[str | bytes] = ()) -> bytes:
    """An add."""
    attributes = (attribute(one, b"x") for one in types)
    return message(message_id, tlv(0x68, tlv(0x04, octets(name)), tlv(0x30, *attributes)), *controls)


def rename(
    message_id: int,
    *controls: bytes,
    name: str | bytes = "cn=x",
    new: str | bytes = "cn=y",
    delete_old: bytes = b"\xff",
    parent: bytes | None = None,
) -> bytes:
    """A modifyDN."""
    moved = b"" if parent is None else tlv(0x80, parent)
    parts = tlv(0x04, octets(name)) + tlv(0x04, octets(new)) + tlv(0x01, delete_old) + moved
    return message(message_id, tlv(0x6C, parts), *controls)


#: Every request that is relayed while bound and answered while not, by the tag of its operation.
ORDINARY: dict[int, Callable[..., bytes]] = {
    0x63: search,
    0x66: modify,
    0x68: add,
    0x4A: delete,
    0x6C: rename,
    0x6E: compare,
}


def answer(message_id: int, tag: int, code: int = 0, text: str = "", *more: bytes) -> bytes:
    """A directory's LDAPResult under the response `tag`."""
    return message(message_id, tlv(tag, number(code, 0x0A), tlv(0x04), tlv(0x04, text.encode()), *more))


def entry(message_id: int, name: str, **attributes: Sequence[bytes]) -> bytes:
    """A directory's SearchResultEntry."""
    inside = (
        tlv(0x30, tlv(0x04, key.encode()), tlv(0x31, *(tlv(0x04, value) for value in values)))
        for key, values in attributes.items()
    )
    return message(message_id, tlv(0x64, tlv(0x04, name.encode()), tlv(0x30, *inside)))
