"""What any octets may do to wire/, core/secret and core/identity: be read, or be refused with the one documented error."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from itertools import pairwise
from typing import TypeVar

from fuzz.conversation import converse
from ldapmfa.core.groups import Placed, find_groups
from ldapmfa.core.identity import Ask, CannotIdentify, Capabilities, Found, Identity, Unidentified, identify
from ldapmfa.core.secret import CodeForm, Secret, is_usable, split
from ldapmfa.wire import ber, dn, ldap, proxy
from ldapmfa.wire.ber import BerError

T = TypeVar("T")
PLAIN = frozenset({ldap.SEARCH_REQUEST, ldap.MODIFY_REQUEST, ldap.COMPARE_REQUEST, ldap.DELETE_REQUEST})
WRITES = (ldap.ADD_REQUEST, ldap.MODIFY_REQUEST, ldap.MODIFY_DN_REQUEST)


def parts(data: bytes, seed: int) -> list[bytes]:
    """`data` in pieces whose sizes follow from `seed` (an octet): all of one octet for 0."""
    places, pos = [0], 0
    while pos < len(data):
        seed = (seed * 77 + 13) % 256 if seed else 0
        pos += 1 + seed % 19
        places.append(min(pos, len(data)))
    return [data[start:stop] for start, stop in pairwise(places)]


def elements(data: bytes) -> None:
    """BER: everything lies where it is said to lie, and what we encode comes back."""
    with contextlib.suppress(BerError):
        at = 0
        for _, start, stop in ber.children(data, 0, len(data)):
            assert at < start <= stop <= len(data)
            at = stop
            with contextlib.suppress(BerError):
                value = ber.integer(data, start, stop)
                encoded = ber.encode_integer(value)
                assert len(encoded) <= 2 + stop - start
                assert ber.integer(encoded, 2, len(encoded)) == value
        assert at == len(data)
    again = ber.tlv(0x04, data)
    assert ber.element(again, 0, len(again)) == (0x04, len(again) - len(data), len(again))


def requests(data: bytes) -> None:
    """A client's messages: each is read or refused, and a run of plain ones is what the strict reader reads."""
    pos, count, plain = 0, 0, True
    plain_end = (0, 0)
    limit = 1 << 20
    with contextlib.suppress(BerError):
        while pos < len(data):
            frame = ldap.read_frame(data, pos, limit)
            if isinstance(frame, int):
                assert frame > len(data) - pos
                break
            assert data[pos : pos + len(frame.raw)] == frame.raw
            _beginnings(frame.raw, limit)
            _read(frame)
            pos += len(frame.raw)
            plain = plain and frame.tag in PLAIN and frame.id != 0 and frame.stop == len(frame.raw)
            if plain:
                count += 1
                plain_end = (pos, count)
    assert ldap.plain_run(data, 0, PLAIN, limit) == plain_end


def _beginnings(raw: bytes, limit: int) -> None:
    """No beginning of a whole message is taken for a message, or refused; what is asked for brings it on."""
    size = 0
    while size < len(raw):
        wanted = ldap.read_frame(raw[:size], 0, limit)
        assert isinstance(wanted, int)
        assert size < wanted <= len(raw)
        size = wanted


def _read(frame: ldap.Frame) -> None:
    with contextlib.suppress(BerError):
        bind = ldap.read_bind(frame)
        assert (bind.password is None) == (bind.method != ldap.SIMPLE)
        assert "password" not in repr(bind)
    with contextlib.suppress(BerError):
        assert ldap.read_extended_oid(frame)
    ldap.reads_root_dse(frame)
    exact = ldap.is_to_the_letter(frame)
    if frame.tag in (ldap.SEARCH_REQUEST, ldap.COMPARE_REQUEST):
        assert exact or not ldap.reads_openly(frame)
    if frame.tag in WRITES:
        with contextlib.suppress(BerError):
            ldap.read_written(frame)
            assert exact
    if frame.tag in ldap.RESPONSE_TO:
        ldap.result(frame.id, frame.tag, 0)


def replies(data: bytes) -> None:
    """A directory's stream: any split gives the same boundaries, and every message is decoded or refused."""
    if not data:
        return
    seed, data = data[0], data[1:]
    whole = _followed([data])
    assert _followed(parts(data, seed)) == whole
    assert _followed(parts(data, 0)) == whole
    for frame in _frames(data):
        for read in (ldap.read_result, ldap.read_entry):
            with contextlib.suppress(BerError):
                read(frame)


def _followed(pieces: list[bytes]) -> object:
    answers, size, boundary = ldap.Answers(), 0, 0
    try:
        for piece in pieces:
            at = answers.feed(piece)
            assert -1 <= at <= len(piece)
            if at >= 0:
                boundary = size + at
            size += len(piece)
            assert answers.at_boundary == (boundary == size)
    except BerError:
        return "refused"
    return boundary, answers.finals, answers.notice, answers.at_boundary


def _frames(data: bytes) -> list[ldap.Frame]:
    found, pos = [], 0
    with contextlib.suppress(BerError):
        while pos < len(data):
            frame = ldap.read_frame(data, pos, 1 << 20)
            if isinstance(frame, int):
                break
            found.append(frame)
            pos += len(frame.raw)
    return found


KINDS = (
    Capabilities("active-directory", who_am_i=True),
    Capabilities("active-directory", who_am_i=False),
    Capabilities("openldap", who_am_i=True, naming_contexts=("dc=example",)),
    Capabilities("389-ds", who_am_i=True, naming_contexts=("dc=example",)),
)
GROUPS = ("cn=vpn,dc=example", "cn=staff,ou=groups,dc=example")


def identities(data: bytes) -> None:
    """Whatever a directory answers to our look-ups, somebody is identified or it is said that nobody can be."""
    if not data:
        return
    found = iter(_answers(data[1:]))
    asking = identify(KINDS[data[0] % 4], "ad", "mobile" if data[0] & 4 else None)
    with contextlib.suppress(CannotIdentify):
        who = _told(asking, found)
        assert isinstance(who, Identity | Unidentified)
        if isinstance(who, Identity):
            kind, _, rest = who.id.partition(":")
            assert who.directory == "ad"
            assert kind in ("guid", "uuid", "nsuniqueid", "dn")
            assert rest
            placed = _told(find_groups(KINDS[data[0] % 4], who, GROUPS), found)
            assert isinstance(placed, Placed)
            assert placed.groups <= set(GROUPS)


def _told(asking: Generator[Ask, Found | None, T], found: Iterator[Found]) -> T:
    """What a procedure returns that is answered with what is `found`, and then with nothing."""
    try:
        next(asking)
        while True:
            asking.send(next(found, None))
    except StopIteration as end:
        return end.value


def _answers(data: bytes) -> list[Found]:
    found, entries = [], []
    for frame in _frames(data):
        with contextlib.suppress(BerError):
            if frame.tag == ldap.SEARCH_ENTRY:
                entries.append(ldap.read_entry(frame))
            else:
                found.append(Found(ldap.read_result(frame), tuple(entries)))
                entries = []
    return found


def names(data: bytes) -> None:
    """Distinguished names: read or refused; one spelling for all spellings, which is a spelling, too."""
    text = data.decode(errors="replace")
    spelled = dn.normalise_name(text)
    prepared = dn.prepare(text)
    assert dn.prepare(prepared) == prepared
    with contextlib.suppress(dn.DnError):
        assert dn.attribute_type(text)
    with contextlib.suppress(dn.DnError):
        assert dn.first_types(text)
    try:
        rdns = dn.parse(text)
    except dn.DnError:
        assert not dn.same(text, text)
        assert not dn.lies_below(text, "dc=x")
        return
    normal = dn.normalise(text)
    assert dn.parse(normal) == rdns
    assert dn.normalise(normal) == normal
    assert dn.same(text, normal)
    assert spelled == (f"dn:{normal}" if "=" in text else "")
    assert dn.lies_below(normal, text) == bool(rdns)
    assert not dn.lies_below(text, "ou=not-there,dc=x," + normal)


def proxy_headers(data: bytes) -> None:
    """A PROXY header: no beginning of it decides otherwise than the whole, and its size is what it took."""

    def outcome(octets: bytes) -> object:
        try:
            return proxy.read_header(octets)
        except proxy.ProxyHeaderError:
            return "refused"

    whole = outcome(data)
    if isinstance(whole, proxy.ProxyHeader):
        assert 0 < whole.size <= len(data)
        assert outcome(data[: whole.size]) == whole
        assert outcome(data[: whole.size] + b"\x30\x0c") == whole
        assert outcome(data[: whole.size - 1]) is None
        assert whole.client is None or getattr(whole.client, "ipv4_mapped", None) is None
    for size in range(0, min(len(data), 128), 7):
        assert outcome(data[:size]) in (None, whole)


FORMS = (
    CodeForm(),
    CodeForm(delimiter=b","),
    CodeForm(digits=8, keywords={b"push": "push", b"sms": "sms", b"phone": "phone"}),
    CodeForm(delimiter=b"+", keywords={b"push": "push"}, mark=b"+"),
)


def passwords(data: bytes) -> None:
    """What was typed: cut by syntax alone, into what is all there; an empty or blank rest reaches no directory."""
    if not data:
        return
    form, octets = FORMS[data[0] % 4], data[1:]
    typed = split(Secret(octets), form)
    password = typed.password.reveal()
    assert octets.startswith(password)
    assert typed.is_cut or password == octets
    if typed.code is not None:
        assert octets.lower().endswith(typed.code.reveal())
        assert len(password) + len(typed.code.reveal()) + bool(form.delimiter) == len(octets)
    assert not is_usable(Secret(octets), form) or (password.strip() and b"\0" not in password)


TARGETS = {
    "elements": elements,
    "requests": requests,
    "replies": replies,
    "identities": identities,
    "names": names,
    "proxy-headers": proxy_headers,
    "passwords": passwords,
    "session": converse,
}


def target(name: str) -> Callable[[bytes], None]:
    """The target of that name; what reads services' answers is imported only for those who want it."""
    if name in TARGETS:
        return TARGETS[name]
    from fuzz.answers import ANSWERS

    return ANSWERS[name]
