"""LDAP messages (RFC 4511): frames, the bind, results with the right response tag, and our own look-ups.

Promised here: a `Frame` is one whole message whose envelope and controls were read strictly; its octets are
kept as they came. Only what the proxy answers or asks itself is decoded further. Not in here: any decision.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, NamedTuple

from ldapmfa.wire import ber
from ldapmfa.wire.ber import BerError

# protocolOp tags (RFC 4511 section 4)
BIND_REQUEST: Final = 0x60
BIND_RESPONSE: Final = 0x61
UNBIND_REQUEST: Final = 0x42
SEARCH_REQUEST: Final = 0x63
SEARCH_ENTRY: Final = 0x64
SEARCH_DONE: Final = 0x65
SEARCH_REFERENCE: Final = 0x73
MODIFY_REQUEST: Final = 0x66
ADD_REQUEST: Final = 0x68
DELETE_REQUEST: Final = 0x4A
MODIFY_DN_REQUEST: Final = 0x6C
COMPARE_REQUEST: Final = 0x6E
ABANDON_REQUEST: Final = 0x50
EXTENDED_REQUEST: Final = 0x77
EXTENDED_RESPONSE: Final = 0x78
INTERMEDIATE_RESPONSE: Final = 0x79

#: The response that answers each request that has one.
RESPONSE_TO: Final = {
    BIND_REQUEST: BIND_RESPONSE,
    SEARCH_REQUEST: SEARCH_DONE,
    MODIFY_REQUEST: 0x67,
    ADD_REQUEST: 0x69,
    DELETE_REQUEST: 0x6B,
    MODIFY_DN_REQUEST: 0x6D,
    COMPARE_REQUEST: 0x6F,
    EXTENDED_REQUEST: EXTENDED_RESPONSE,
}
#: Responses after which more follow for the same request.
NOT_FINAL: Final = frozenset({SEARCH_ENTRY, SEARCH_REFERENCE, INTERMEDIATE_RESPONSE})

# result codes (RFC 4511 appendix A; 123: RFC 4370)
SUCCESS: Final = 0
OPERATIONS_ERROR: Final = 1
PROTOCOL_ERROR: Final = 2
SIZE_LIMIT_EXCEEDED: Final = 4
AUTH_METHOD_NOT_SUPPORTED: Final = 7
STRONGER_AUTH_REQUIRED: Final = 8
REFERRAL: Final = 10
UNAVAILABLE_CRITICAL_EXTENSION: Final = 12
CONFIDENTIALITY_REQUIRED: Final = 13
NO_SUCH_OBJECT: Final = 32
INVALID_DN_SYNTAX: Final = 34
INAPPROPRIATE_AUTHENTICATION: Final = 48
INVALID_CREDENTIALS: Final = 49
INSUFFICIENT_ACCESS_RIGHTS: Final = 50
BUSY: Final = 51
UNAVAILABLE: Final = 52
UNWILLING_TO_PERFORM: Final = 53
OTHER: Final = 80
AUTHORIZATION_DENIED: Final = 123

OID_START_TLS: Final = b"1.3.6.1.4.1.1466.20037"
OID_NOTICE_OF_DISCONNECTION: Final = b"1.3.6.1.4.1.1466.20036"
OID_WHO_AM_I: Final = b"1.3.6.1.4.1.4203.1.11.3"
OID_FAST_BIND: Final = b"1.2.840.113556.1.4.1781"
#: RFC 4531: the peers swap roles, and our rules with them.
OID_TURN: Final = b"1.3.6.1.1.19"
OID_CANCEL: Final = b"1.3.6.1.1.8"
OID_MODIFY_PASSWORD: Final = b"1.3.6.1.4.1.4203.1.11.1"
#: RFC 5805: between them, updates are ordinary operations with a control, done together at the end.
OID_START_TRANSACTION: Final = b"1.3.6.1.1.21.1"
OID_END_TRANSACTION: Final = b"1.3.6.1.1.21.3"
#: Active Directory's control that gives the entry of an Add its owner.
OID_SET_OWNER: Final = b"1.2.840.113556.1.4.2255"
#: Proxied authorization: RFC 4370 and its draft; the operation would run as somebody else.
PROXIED_AUTHORIZATION: Final = frozenset({b"2.16.840.1.113730.3.4.18", b"2.16.840.1.113730.3.4.12"})

MAX_MESSAGE_ID: Final = 2**31 - 1
#: An attribute description or selector, to the letter; a directory may take an odd one for the name it resembles.
_WANTED: Final = re.compile(rb"[a-z0-9.;*+-]+", re.IGNORECASE)
#: The attribute description of a write: the type, and options.
_DESCRIPTION: Final = re.compile(rb"([a-z0-9._-]+)(?:;[a-z0-9_-]+)*", re.IGNORECASE)
_NUMERIC_OID: Final = re.compile(rb"[0-2](?:\.(?:0|[1-9][0-9]*))+")


class Control(NamedTuple):
    """One control of a message (RFC 4511 section 4.1.11), without its value."""

    oid: bytes
    critical: bool


class Frame(NamedTuple):
    """One LDAPMessage: its id, its operation's tag, its octets, and where in them the operation's content lies."""

    id: int
    tag: int
    raw: bytes
    start: int
    stop: int
    controls: tuple[Control, ...] = ()

    def __repr__(self) -> str:
        """Without the octets: a bind's hold the password."""
        return f"Frame(id={self.id}, tag=0x{self.tag:02x}, {len(self.raw)} octets)"


def read_frame(data: bytes | bytearray, pos: int, limit: int) -> Frame | int:
    """The message at `pos`, or the number of octets (from `pos` on) without which there is no use in asking again.

    Raises BerError as soon as it is certain that no message of at most `limit` octets starts here.
    """
    end = len(data)
    if end > pos and data[pos] != ber.SEQUENCE:
        raise BerError(f"a message that starts with 0x{data[pos]:02x}; LDAP's start with 0x30")
    outer = ber.header(data, pos, end)
    if outer is None:
        return end - pos + 1
    _, start, stop = outer
    if stop - pos > limit:
        raise BerError(f"a message of {stop - pos} octets, where {limit} are allowed")
    if start < end and start < stop and data[start] != ber.INTEGER:
        raise BerError("a message that does not start with a message id")
    if stop > end:
        return stop - pos if start < end else start - pos + 1
    id_start, id_stop = ber.expect(data, start, stop, ber.INTEGER)
    message_id = ber.integer(data, id_start, id_stop)
    if message_id < 0:
        raise BerError(f"the message id {message_id}")
    tag, op_start, op_stop = ber.element(data, id_stop, stop)
    controls = _read_controls(data, op_stop, stop) if op_stop < stop else ()
    return Frame(message_id, tag, bytes(data[pos:stop]), op_start - pos, op_stop - pos, controls)


def plain_run(data: bytes | bytearray, pos: int, tags: frozenset[int], limit: int) -> tuple[int, int]:
    """Where the run of plain requests at `pos` ends, and how many they are.

    Plain is a whole message of at most `limit` octets with one of `tags` and no controls, not under the message id 0:
    each of them is one that `read_frame` reads. Whatever else comes ends the run; it is not said why.
    """
    size = len(data)
    count = 0
    try:
        while pos < size:
            # the headers by index, each octet looked at once: this is where every request passes
            length = data[pos + 1]
            body = pos + 2
            if length >= 0x80:
                if not 0x80 < length <= 0x84:
                    break
                body += length & 0x7F
                length = int.from_bytes(data[pos + 2 : body], "big")
            stop = body + length
            id_length = data[body + 1]
            operation = body + 2 + id_length
            if (
                data[pos] != 0x30
                or stop > size
                or stop - pos > limit
                or data[body] != 0x02
                or not 1 <= id_length <= 4
                or data[body + 2] >= 0x80
                or data[operation] not in tags
                or not (data[operation - 1] or any(data[body + 2 : operation]))
            ):
                break
            length = data[operation + 1]
            content = operation + 2
            if length >= 0x80:
                if not 0x80 < length <= 0x84:
                    break
                content += length & 0x7F
                length = int.from_bytes(data[operation + 2 : content], "big")
            if content + length != stop:
                break
            pos = stop
            count += 1
    except IndexError:
        pass  # a header that is not whole
    return pos, count


def _read_controls(data: bytes | bytearray, pos: int, end: int) -> tuple[Control, ...]:
    start, stop = ber.expect(data, pos, end, 0xA0)
    if stop != end:
        raise BerError("octets behind the controls")
    controls = []
    for tag, control_start, control_stop in ber.children(data, start, stop):
        if tag != ber.SEQUENCE:
            raise BerError("a control that is not a sequence")
        parts = ber.children(data, control_start, control_stop)
        tags = bytes(part[0] for part in parts)
        if tags not in (b"\x04", b"\x04\x01", b"\x04\x04", b"\x04\x01\x04"):
            raise BerError("a control that is not made of type, criticality and value")
        oid = bytes(data[parts[0][1] : parts[0][2]])
        if not _NUMERIC_OID.fullmatch(oid):
            raise BerError("a control type that is not an object identifier")
        critical = False
        if tags[1:2] == b"\x01":
            if parts[1][2] - parts[1][1] != 1:
                raise BerError("a criticality that is not one octet")
            critical = data[parts[1][1]] != 0
        controls.append(Control(oid, critical))
    return tuple(controls)


class Answers:
    """Follow the message boundaries of a directory's stream without decoding or keeping it.

    `finals` counts the final answers that began in what was fed; `notice` turns true when the directory
    announced that it disconnects (or sent anything else under message id 0).
    """

    __slots__ = ("_head", "_skip", "finals", "notice")

    def __init__(self) -> None:
        self.finals = 0
        self.notice = False
        self._skip = 0  # octets of the current message that are still to come
        self._head = b""  # the octets of a message whose header is not whole yet

    @property
    def at_boundary(self) -> bool:
        """Whether what was fed ends with a whole message, so that one of our own may follow."""
        return not self._skip and not self._head

    @property
    def wanted(self) -> int:
        """How many octets certainly belong to the message that has begun and are still to come."""
        return self._skip or len(self._head[:1])

    def feed(self, data: bytes) -> int:
        """Take the next octets of the stream; where in them the last boundary lies, -1 if there is none.

        Raises BerError where no message can start.
        """
        pos = self._skip
        size = len(data)
        if pos > size:
            self._skip = pos - size
            return -1
        self._skip = 0
        carried = len(self._head)
        if carried:
            data = self._head + data
            size += carried
            self._head = b""
        boundary = pos
        while pos < size:
            try:
                # the common shapes, by index: an IndexError means that the header is not whole
                if data[pos] != 0x30:
                    raise BerError("a message from the directory that does not start with 0x30")
                length = data[pos + 1]
                body = pos + 2
                if length >= 0x80:
                    body += length & 0x7F
                    if not 0x80 < length <= 0x84:
                        raise BerError("a length that LDAP does not allow, from the directory")
                    data[body]  # is the length whole?
                    length = int.from_bytes(data[pos + 2 : body], "big")
                id_length = data[body + 1]
                if data[body] != 0x02 or not 1 <= id_length <= 4 or length < id_length + 4:
                    raise BerError("a message from the directory without a message id and an operation")
                tag = data[body + 2 + id_length]
            except IndexError:
                self._head = data[pos:]
                break
            if tag not in NOT_FINAL:
                if tag == EXTENDED_RESPONSE and not any(data[body + 2 : body + 2 + id_length]):
                    self.notice = True
                else:
                    self.finals += 1
            boundary, pos = pos, body + length
        if pos <= size:
            boundary = pos
            self._skip = 0
        else:
            self._skip = pos - size
        return boundary - carried if boundary > carried or not carried else -1


@dataclass(frozen=True, slots=True)
class Bind:
    """A BindRequest. `password` is None unless the authentication choice is simple; `method` is its tag."""

    version: int
    name: bytes
    method: int
    password: bytes | None = field(repr=False)


SIMPLE: Final = 0x80
SASL: Final = 0xA3
#: In octets; no account's name comes near it, and to normalise a name takes time that grows with its square
#: (NFKC has to sort the combining marks).
LONGEST_NAME: Final = 4096


def read_bind(frame: Frame) -> Bind:
    """The BindRequest in `frame` (RFC 4511 section 4.2), read strictly; a name longer than any is refused."""
    data, stop = frame.raw, frame.stop
    start, pos = ber.expect(data, frame.start, stop, ber.INTEGER)
    version = ber.integer(data, start, pos)
    start, pos = ber.expect(data, pos, stop, ber.OCTET_STRING)
    name = data[start:pos]
    if len(name) > LONGEST_NAME:
        raise BerError(f"a name of {len(name)} octets")
    method, start, pos = ber.element(data, pos, stop)
    if pos != stop:
        raise BerError("octets behind the authentication choice")
    return Bind(version, name, method, data[start:pos] if method == SIMPLE else None)


def read_extended_oid(frame: Frame) -> bytes:
    """The requestName of the ExtendedRequest in `frame` (RFC 4511 section 4.12)."""
    parts = ber.children(frame.raw, frame.start, frame.stop)
    if bytes(part[0] for part in parts) not in (b"\x80", b"\x80\x81"):
        raise BerError("an extended request that is not made of name and value")
    oid = frame.raw[parts[0][1] : parts[0][2]]
    if not _NUMERIC_OID.fullmatch(oid):
        raise BerError("a request name that is not an object identifier")
    return oid


def reads_root_dse(frame: Frame) -> bool:
    """Whether the SearchRequest in `frame` reads the rootDSE and nothing else.

    That is: base object scope, DN "", filter exactly (objectClass=*), no controls, and not the attribute
    ``netlogon``, whose value at Active Directory tells users apart.
    """
    if frame.controls:
        return False
    data = frame.raw
    try:
        parts = ber.children(data, frame.start, frame.stop)
        if bytes(part[0] for part in parts) != b"\x04\x0a\x0a\x02\x02\x01\x87\x30":
            return False
        base, scope, _, _, _, _, present, wanted = (data[start:stop] for _, start, stop in parts)
        attributes = ber.children(data, parts[7][1], parts[7][2]) if wanted else []
    except BerError:
        return False
    return (
        base == b""
        and scope == b"\x00"
        and present.lower() == b"objectclass"
        and all(
            tag == ber.OCTET_STRING and _tells_no_users_apart(data[start:stop]) for tag, start, stop in attributes
        )
    )


def _tells_no_users_apart(wanted: bytes) -> bool:
    """Whether an attribute may be asked for by anybody: written to the letter, and not ``netlogon``."""
    return bool(_WANTED.fullmatch(wanted)) and wanted.lower().partition(b";")[0] != b"netlogon"


def reads_openly(frame: Frame) -> bool:
    """Whether the SearchRequest or CompareRequest in `frame` may be an anonymous client's, where such may read.

    That is: to the letter, and not for the attribute ``netlogon``, at whatever entry: many names mean the rootDSE.
    """
    if not is_to_the_letter(frame):
        return False
    data = frame.raw
    parts = ber.children(data, frame.start, frame.stop)
    asked = ber.children(data, *parts[-1][1:])
    if frame.tag == COMPARE_REQUEST:
        asked = asked[:1]
    return all(_tells_no_users_apart(data[start:stop]) for _, start, stop in asked)


class Written(NamedTuple):
    """What an Add, a Modify or a ModifyDN writes: by attribute types, and by the first RDNs of names."""

    types: tuple[str, ...]
    names: tuple[str, ...]


def read_written(frame: Frame) -> Written:
    """What the Add, Modify or ModifyDN in `frame` writes. Raises BerError unless all of it is to the letter.

    The types are without options. A ModifyDN that leaves the old RDN's values in the entry writes the new one only. A
    name longer than any is refused.
    """
    if not is_to_the_letter(frame):
        raise BerError("more in it than belongs there")
    data = frame.raw
    parts = ber.children(data, frame.start, frame.stop)
    longest = max(stop - start for tag, start, stop in parts if tag == ber.OCTET_STRING)
    if longest > LONGEST_NAME:
        raise BerError(f"a name of {longest} octets")
    try:
        if frame.tag == MODIFY_DN_REQUEST:
            name, new, delete_old = (data[start:stop] for _, start, stop in parts[:3])
            return Written((), (new.decode(),) if delete_old == b"\x00" else (new.decode(), name.decode()))
        types = []
        for _, start, stop in ber.children(data, *parts[1][1:]):
            begin = start
            if frame.tag == MODIFY_REQUEST:
                begin = ber.children(data, start, stop)[1][1]
            described = _DESCRIPTION.fullmatch(data, *ber.expect(data, begin, stop, ber.OCTET_STRING))
            if not described:
                raise BerError("an attribute that is not made of a type and options")
            types.append(described[1].decode())
        name = data[parts[0][1] : parts[0][2]]
        return Written(tuple(types), (name.decode(),) if frame.tag == ADD_REQUEST else ())
    except UnicodeDecodeError as broken:
        raise BerError("a name that is not UTF-8") from broken


def is_to_the_letter(frame: Frame) -> bool:
    """Whether the operation of a request holds exactly what RFC 4511 says it does, at every depth.

    Directories on liblber (OpenLDAP, 389) do not hold an element to its own end: what lies behind the last field of an
    operation or a filter they take for the controls of the message, wherever the lengths say that it belongs.
    """
    if frame.tag not in _OPERATIONS:
        return True
    data = frame.raw
    try:
        todo = [(_OPERATIONS[frame.tag], frame.start, frame.stop)]
        while todo:
            name, start, stop = todo.pop()
            pattern, within = _GRAMMAR[name]
            parts = ber.children(data, start, stop)
            if not pattern.fullmatch(bytes(_FILTER if tag in _FILTERS else tag for tag, _, _ in parts)):
                return False
            for tag, start, stop in parts:
                inner = _FILTERS.get(tag) or within.get(tag)
                if inner:
                    todo.append((inner, start, stop))
    except BerError:
        return False
    return True


_OPERATIONS: Final = {
    SEARCH_REQUEST: "search",
    COMPARE_REQUEST: "compare",
    MODIFY_REQUEST: "modify",
    ADD_REQUEST: "add",
    MODIFY_DN_REQUEST: "rename",
}
_FILTER: Final = 0xFF  # stands for the tag of any filter; LDAP has none like it
_FILTERS: Final = {
    0xA0: "filters",
    0xA1: "filters",
    0xA2: "filter",
    0xA3: "assertion",
    0xA4: "substrings",
    0xA5: "assertion",
    0xA6: "assertion",
    0x87: None,
    0xA8: "assertion",
    0xA9: "matching rule",
}
#: The tags that an element consists of, as a pattern of octets, and the elements among them that are looked into.
_GRAMMAR: Final[dict[str, tuple[re.Pattern[bytes], dict[int, str]]]] = {
    name: (re.compile(pattern, re.DOTALL), within)
    for name, pattern, within in (
        ("search", rb"\x04\x0a\x0a\x02\x02\x01\xff\x30", {0x30: "strings"}),
        ("filters", rb"\xff*", {}),
        ("filter", rb"\xff", {}),
        ("substrings", rb"\x04\x30", {0x30: "pieces"}),
        ("pieces", rb"[\x80-\x82]+", {}),
        ("matching rule", rb"\x81?\x82?\x83\x84?", {}),
        ("compare", rb"\x04\x30", {0x30: "assertion"}),
        ("assertion", rb"\x04\x04", {}),
        ("modify", rb"\x04\x30", {0x30: "changes"}),
        ("changes", rb"\x30*", {0x30: "change"}),
        ("change", rb"\x0a\x30", {0x30: "attribute"}),
        ("add", rb"\x04\x30", {0x30: "attributes"}),
        ("attributes", rb"\x30*", {0x30: "attribute"}),
        ("attribute", rb"\x04\x31", {0x31: "strings"}),
        ("strings", rb"\x04*", {}),
        ("rename", rb"\x04\x04\x01\x80?", {}),
    )
}


def message(message_id: int, operation: bytes, controls: bytes = b"") -> bytes:
    """An LDAPMessage around an encoded `operation` and, if any, encoded `controls`."""
    return ber.tlv(ber.SEQUENCE, ber.encode_integer(message_id), operation, controls)


def result(message_id: int, request_tag: int, code: int, text: str = "", oid: bytes = b"") -> bytes:
    """The answer to a request of `request_tag`: an LDAPResult with `code` and the diagnostic `text`."""
    return message(
        message_id,
        ber.tlv(
            RESPONSE_TO[request_tag],
            ber.encode_integer(code, ber.ENUMERATED),
            ber.tlv(ber.OCTET_STRING),
            ber.tlv(ber.OCTET_STRING, text.encode()),
            ber.tlv(0x8A, oid) if oid else b"",
        ),
    )


def notice_of_disconnection(code: int, text: str) -> bytes:
    """The unsolicited notice that precedes our closing (RFC 4511 section 4.4.1)."""
    return result(0, EXTENDED_REQUEST, code, text, OID_NOTICE_OF_DISCONNECTION)


def bind_request(name: bytes, password: bytes) -> bytes:
    """The operation of a simple bind."""
    return ber.tlv(
        BIND_REQUEST, ber.encode_integer(3), ber.tlv(ber.OCTET_STRING, name), ber.tlv(SIMPLE, password)
    )


def extended_request(oid: bytes) -> bytes:
    """The operation of an extended request without a value."""
    return ber.tlv(EXTENDED_REQUEST, ber.tlv(0x80, oid))


WHO_AM_I: Final = extended_request(OID_WHO_AM_I)
BIND_AS_NOBODY: Final = bind_request(b"", b"")
UNBIND: Final = ber.tlv(UNBIND_REQUEST)

BASE, SUBTREE = 0, 2
ANY_ENTRY: Final = ber.tlv(0x87, b"objectClass")


def equals(attribute: str, value: bytes) -> bytes:
    """The filter (attribute=value), from octets: nothing in `value` can become syntax."""
    return ber.tlv(0xA3, ber.tlv(ber.OCTET_STRING, attribute.encode()), ber.tlv(ber.OCTET_STRING, value))


def present(attribute: str) -> bytes:
    """The filter (attribute=*)."""
    return ber.tlv(0x87, attribute.encode())


def matches_rule(attribute: str, rule: str, value: bytes) -> bytes:
    """The filter (attribute:rule:=value), an extensible match (RFC 4511 section 4.5.1.7.7)."""
    return ber.tlv(0xA9, ber.tlv(0x81, rule.encode()), ber.tlv(0x82, attribute.encode()), ber.tlv(0x83, value))


def any_of(*filters: bytes) -> bytes:
    """The filter (|(...)(...))."""
    return ber.tlv(0xA1, *filters)


def all_of(*filters: bytes) -> bytes:
    """The filter (&(...)(...))."""
    return ber.tlv(0xA0, *filters)


def search_request(
    base: bytes, attributes: Sequence[str], *, scope: int = BASE, where: bytes = ANY_ENTRY, most: int = 0
) -> bytes:
    """The operation of a search for `attributes`; aliases are never followed; `most` entries (0: any number)."""
    return ber.tlv(
        SEARCH_REQUEST,
        ber.tlv(ber.OCTET_STRING, base),
        ber.encode_integer(scope, ber.ENUMERATED),
        ber.encode_integer(0, ber.ENUMERATED),
        ber.encode_integer(most),
        ber.encode_integer(0),
        ber.tlv(ber.BOOLEAN, b"\x00"),
        where,
        _names(tuple(attributes)),
    )


@lru_cache(maxsize=16)
def _names(attributes: tuple[str, ...]) -> bytes:
    return ber.tlv(ber.SEQUENCE, *(ber.tlv(ber.OCTET_STRING, name.encode()) for name in attributes))


@dataclass(frozen=True, slots=True)
class Result:
    """The LDAPResult of a final answer; `value` is the responseValue of an extended one, `oid` its name."""

    code: int
    matched: bytes
    text: bytes
    oid: bytes = b""
    value: bytes = b""


#: What nearly every final answer is: success, and nothing to say.
_PLAIN_SUCCESS: Final = b"\x0a\x01\x00\x04\x00\x04\x00"
_SUCCESS: Final = Result(SUCCESS, b"", b"")


def read_result(frame: Frame) -> Result:
    """The LDAPResult in `frame`; what follows its three fields is taken if it is an extended response's."""
    data = frame.raw
    if data[frame.start : frame.stop] == _PLAIN_SUCCESS:
        return _SUCCESS
    parts = ber.children(data, frame.start, frame.stop)
    if bytes(part[0] for part in parts[:3]) != b"\x0a\x04\x04":
        raise BerError("a result that does not start with code, matched DN and text")
    oid = value = b""
    for tag, start, stop in parts[3:]:
        if tag == 0x8A:
            oid = data[start:stop]
        elif tag == 0x8B:
            value = data[start:stop]
    return Result(
        ber.integer(data, parts[0][1], parts[0][2]),
        data[parts[1][1] : parts[1][2]],
        data[parts[2][1] : parts[2][2]],
        oid,
        value,
    )


@dataclass(frozen=True, slots=True)
class Entry:
    """A SearchResultEntry: attribute names in lower case, values as octets."""

    dn: str
    attributes: dict[str, tuple[bytes, ...]]

    def text(self, name: str) -> tuple[str, ...]:
        """The values of `name` as text; octets that are not UTF-8 are replaced."""
        return tuple(value.decode(errors="replace") for value in self.attributes.get(name.lower(), ()))


def read_entry(frame: Frame) -> Entry:
    """The SearchResultEntry in `frame` (RFC 4511 section 4.5.2)."""
    data = frame.raw
    start, stop = ber.expect(data, frame.start, frame.stop, ber.OCTET_STRING)
    dn = data[start:stop].decode(errors="replace")
    start, stop = ber.expect(data, stop, frame.stop, ber.SEQUENCE)
    attributes = {}
    for tag, begin, finish in ber.children(data, start, stop):
        if tag != ber.SEQUENCE:
            raise BerError("an attribute that is not a sequence")
        name_start, name_stop = ber.expect(data, begin, finish, ber.OCTET_STRING)
        values_start, values_stop = ber.expect(data, name_stop, finish, 0x31)
        attributes[data[name_start:name_stop].decode(errors="replace").lower()] = tuple(
            data[value_start:value_stop] for _, value_start, value_stop in ber.children(data, values_start, values_stop)
        )
    return Entry(dn, attributes)
