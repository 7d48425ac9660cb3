"""Writes by those who should only read, and reading by nobody, through the whole proxy in memory."""

from __future__ import annotations

import contextlib
import itertools
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from playbook import ORDINARY, add, attribute, compare, control, extended, message, modify, number, rename, tlv
from pyasn1.codec.ber import decoder
from pyasn1.error import PyAsn1Error
from world import ALICE, BASE, PASSWORD, SERVICE, World, bind, controls, is_bind_as_nobody, root_dse, search

from ldapmfa.core.session import DENIABLE, Rules
from ldapmfa.wire import ber, ldap

with warnings.catch_warnings():  # ldap3 uses old names of pyasn1
    warnings.simplefilter("ignore", DeprecationWarning)
    from ldap3.protocol import rfc4511

FAST = settings(deadline=None, max_examples=150)
once = pytest.mark.parametrize("spare_links", [0], ids=["no link"])
WHO_AM_I = "1.3.6.1.4.1.4203.1.11.3"
CANCEL = "1.3.6.1.1.8"
#: What writes though it is no write of RFC 4511, or may do so.
HIDDEN = ["1.3.6.1.4.1.4203.1.11.1", "1.3.6.1.4.1.1466.101.119.1", "1.2.840.113556.1.4.2212", "1.3.6.1.1.17.5", "1.3.6.1.1.19", "1.2.840.113556.1.4.1781", "1.2.3.4"]
WRITES = {0x66, 0x68, 0x4A, 0x6C}
READ_ONLY = Rules(read_only=True)
KEPT = Rules(denied_attributes=frozenset({"unicodePwd", "memberOf"}))


def house_with(rules):
    return World(None, rules=rules).assemble()


# -- no write of those who may only read, no denied attribute, however encoded or split

KEPT_NAMES = {"unicodepwd", "userpassword", "memberof", "2.5.4.35", "1.2.840.113556.1.4.90", "1.2.840.113556.1.2.102"}
#: Spellings of the two denied attributes; what a lenient directory might take for them comes later.
DENIED = st.builds(
    lambda name, option, cases: "".join(char.upper() if up else char.lower() for char, up in zip(name, itertools.cycle(cases), strict=False)) + option,
    st.sampled_from(["unicodePwd", "userPassword", "memberOf", "2.5.4.35", "oid.1.2.840.113556.1.4.90", "1.2.840.113556.1.2.102"]),
    st.sampled_from(["", ";binary", ";lang-de;x-1"]),
    st.lists(st.booleans(), min_size=1, max_size=5),
)
OTHER = st.sampled_from(["sn", "cn;lang-de", "mail", "2.5.4.20", "member", "unicodePwdHint"])
SHAPES = ("change", "attribute", "add's name", "new name", "old name")


def bare(name):
    return name.partition(";")[0]


def written(message_id, shape, names, kind, *more):
    """A write of attributes of these names, in one of the ways to do so, with `more` controls."""
    rdn = "+".join(f"{bare(name)}=x" for name in names)
    return {
        "change": lambda: modify(message_id, *more, types=names, kind=kind),
        "attribute": lambda: add(message_id, *more, types=names),
        "add's name": lambda: add(message_id, *more, name=rdn + ",dc=x"),
        "new name": lambda: rename(message_id, *more, new=rdn, delete_old=b"\0"),
        "old name": lambda: rename(message_id, *more, name=rdn + ",dc=x"),
    }[shape]()


def wider(raw, chance):
    """The same elements with lengths in longer forms, by `chance`."""
    out = []
    for tag, start, stop in ber.children(raw, 0, len(raw)):
        content = raw[start:stop]
        if tag & 0x20:
            content = wider(content, chance)
        size = len(content)
        least = (size.bit_length() + 7) // 8 or 1
        out.append(tlv(tag, content, wide=chance.choice([0, least, 3, 4])))
    return b"".join(out)


def pieces(stream, cuts):
    places = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    return [stream[start:stop] for start, stop in itertools.pairwise(places)]


CUTS = st.lists(st.integers(0, 5000), max_size=12)


def seen(link):
    return [frame.id for frame in link.received]


@FAST
@given(st.lists(st.tuples(st.sampled_from(SHAPES), st.lists(DENIED | OTHER, min_size=1, max_size=3), st.integers(0, 3), st.booleans()), min_size=1, max_size=6), CUTS, st.randoms(use_true_random=False))
def test_A46_no_denied_attribute_is_written_however_it_is_spelled_encoded_or_split(writes, cuts, chance):
    """And all that is not denied is relayed, as it came."""
    client, link = house_with(KEPT).bound_client()
    stream, allowed, denied = [], [], []
    for message_id, (shape, names, kind, controlled) in enumerate(writes, 1):
        raw = wider(written(message_id, shape, names, kind, *([control("1.2.3")] if controlled else [])), chance)
        stream.append(raw)
        (denied if {bare(name).lower().removeprefix("oid.") for name in names} & KEPT_NAMES else allowed).append((message_id, raw))
    for piece in pieces(b"".join(stream), cuts):
        client.send(piece)
    assert [frame.raw for frame in link.received] == [raw for _, raw in allowed]
    refused = [frame for frame in client.take() if ldap.read_result(frame).code == ldap.INSUFFICIENT_ACCESS_RIGHTS]
    assert sorted(frame.id for frame in refused) == [message_id for message_id, _ in denied]


PARTS = [
    *(request for tag, request in ORDINARY.items()),
    *(lambda message_id, oid=oid: extended(message_id, oid, b"\x30\x00") for oid in (*HIDDEN, WHO_AM_I, CANCEL)),
    *(lambda message_id, request=request: message(message_id, *request) for request in [(tlv(0x66), control("1.2.3")), (tlv(0x4A, b"cn=x"), control("1.2.840.113556.1.4.805")), (tlv(0x68, b"\x04\x80"),)]),
]


@FAST
@given(st.lists(st.sampled_from(PARTS), min_size=1, max_size=8), CUTS, st.randoms(use_true_random=False))
def test_A46_who_may_only_read_writes_nothing_however_it_is_encoded_or_split(parts, cuts, chance):
    client, link = house_with(READ_ONLY).bound_client()
    stream = []
    for message_id, part in enumerate(parts, 1):
        raw = part(message_id)
        with contextlib.suppress(ber.BerError):
            raw = wider(raw, chance)
        stream.append(raw)
    for piece in pieces(b"".join(stream), cuts):
        client.send(piece)
    assert client.pipe.open
    assert not [frame for frame in link.received if frame.tag in WRITES]
    passed = {ldap.read_extended_oid(frame).decode() for frame in link.received if frame.tag == ldap.EXTENDED_REQUEST}
    assert passed <= {WHO_AM_I, CANCEL}
    reads = [number_ for number_, part in enumerate(parts, 1) if ldap.read_frame(part(number_), 0, 9999).tag in (0x63, 0x6E)]
    assert [frame.id for frame in link.received if frame.tag != ldap.EXTENDED_REQUEST] == reads


def types_by_another_reader(raw):
    """What ldap3's module of RFC 4511, through pyasn1, says that a write names, in lower case; None if it is no LDAP."""
    try:
        decoded, rest = decoder.decode(raw, asn1Spec=rfc4511.LDAPMessage())
    except PyAsn1Error:
        return None
    assert rest == b""
    operation = decoded["protocolOp"].getComponent()
    if isinstance(operation, rfc4511.ModifyRequest):
        names = [bytes(change["modification"]["type"]) for change in operation["changes"]]
    elif isinstance(operation, rfc4511.AddRequest):
        names = [bytes(one["type"]) for one in operation["attributes"]]
    else:
        names = []
    return {name.decode(errors="replace").lower().partition(";")[0].removeprefix("oid.") for name in names}


@FAST
@given(st.sampled_from(SHAPES[:2]), st.lists(DENIED | OTHER, min_size=1, max_size=3), st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255) | st.sampled_from([0x24, 0x30, 0x80, 0x31, 0x04, 0xA0])), max_size=4), CUTS)
def test_A46_what_another_reader_finds_in_a_damaged_write_is_not_denied_either(shape, names, damage, cuts):
    """And a write in which it finds nothing at all, for it can't read it, has not passed."""
    client, link = house_with(KEPT).bound_client()
    raw = bytearray(written(1, shape, names, 2))
    for place, octet in damage:
        raw[place % len(raw)] = octet
    for piece in pieces(bytes(raw), cuts):
        client.send(piece)
    for frame in link.received:
        if frame.tag in WRITES - {0x4A}:
            found = types_by_another_reader(frame.raw)
            assert found is not None
            assert not found & KEPT_NAMES


CHANGE = tlv(0x30, number(2, 0x0A), attribute("unicodePwd", b"x"))
HARMLESS = tlv(0x30, number(2, 0x0A), attribute("sn", b"x"))


@pytest.mark.parametrize(
    "request_",
    [
        message(1, tlv(0x66, tlv(0x04), tlv(0x30, HARMLESS), tlv(0x30, CHANGE))),
        message(1, tlv(0x66, tlv(0x04), tlv(0x30, HARMLESS) + CHANGE)),
        message(1, tlv(0x66, tlv(0x04), tlv(0x30, tlv(0x30, HARMLESS[2:], attribute("unicodePwd"))))),
        message(1, tlv(0x66, tlv(0x04), tlv(0x31, CHANGE))),
        message(1, tlv(0x66, tlv(0x24, tlv(0x04)), tlv(0x30, CHANGE))),
        message(1, tlv(0x66, tlv(0x04), b"\x30\x80" + CHANGE + b"\0\0")),
        message(1, tlv(0x66, tlv(0x04), b"\x30\x85\0\0\0\0" + bytes([len(CHANGE)]) + CHANGE)),
        message(1, tlv(0x68, tlv(0x04, b"cn=x"), tlv(0x30, attribute("sn", b"x") + tlv(0x04, b"unicodePwd")))),
        message(1, tlv(0x68, tlv(0x04, b"cn=x"), tlv(0x30, tlv(0x30, tlv(0x04, b"sn"), tlv(0x31), attribute("unicodePwd"))))),
        message(1, tlv(0x6C, tlv(0x04, b"cn=x"), tlv(0x24, tlv(0x04, b"unicode"), tlv(0x04, b"Pwd=x")), tlv(0x01, b"\0"))),
    ],
)
def test_A46_a_write_with_more_in_it_than_belongs_there_is_refused(request_):
    for rules, code in ((KEPT, ldap.PROTOCOL_ERROR), (READ_ONLY, ldap.INSUFFICIENT_ACCESS_RIGHTS)):
        client, link = house_with(rules).bound_client()
        client.send(request_)
        assert [ldap.read_result(frame).code for frame in client.take()] == [code]
        assert not link.received


# -- behind a bind, with a real login


@pytest.mark.parametrize(
    ("rules", "passing"),
    [
        (READ_ONLY, [11, 12]),
        (KEPT, [3, 5, 11, 12]),
        (Rules(denied_operations=frozenset({DENIABLE["modify"], DENIABLE["search"]})), [4, 5, 6, 7, 12]),
    ],
)
@pytest.mark.parametrize("together", [True, False])
async def test_A46_what_is_held_behind_a_bind_is_looked_at_when_it_is_let_go(house, rules, passing, together):
    house.rules = rules
    await house.open()
    client = house.client()
    requests = [
        modify(2, types=["unicodePwd"]),
        modify(3, types=["sn"]),
        add(4, types=["cn", "OID.2.5.4.35"]),
        ORDINARY[0x4A](5),
        rename(6, new="memberOf=x"),
        rename(7, name="memberOf=x"),
        *(extended(8 + place, oid, b"x") for place, oid in enumerate(HIDDEN[:3])),
        search(11, BASE),
        compare(12),
    ]
    first = bind(1, ALICE, PASSWORD + house.next_code())
    if together:
        client.send(first + b"".join(requests))
    else:
        client.send(first)
        for request in requests:
            client.send(request)
    answers = await client.answers(12)
    assert ldap.read_result(answers[0]).code == 0
    link = house.directory.served[-1]
    raws = [frame.raw for frame in link.received]
    assert [request for request in requests if request in raws] == [requests[place - 2] for place in passing]
    client.send(*requests)  # the same once more, now that nothing is held
    assert [frame.raw for frame in link.received[-len(passing) :]] == [requests[place - 2] for place in passing]


async def test_A46_whoever_is_bound_next_is_denied_the_same(house):
    house.rules = READ_ONLY
    await house.open()
    client = house.client()
    for message_id, (name, password) in enumerate(((ALICE, PASSWORD + house.next_code()), (SERVICE, PASSWORD)), 1):
        assert await client.log_in(name, password, message_id) == 0
        client.send(modify(9))
        assert ldap.read_result(client.take()[-1]).code == 50
    assert not [frame for frame in house.directory.seen if frame.tag in WRITES]


# -- reading by nobody


@once
async def test_A01_where_nobody_may_read_no_link_is_opened(house):
    house.rules = Rules(anonymous="refuse")
    await house.open()
    client = house.client()
    client.send(root_dse(1), search(2), bind(3, "", ""), root_dse(4))
    await house.over()
    assert [(frame.id, ldap.read_result(frame).code) for frame in client.take()] == [(1, 50), (2, 50), (3, 48), (4, 50)]
    assert not house.directory.served
    assert [event.reason for event in house.events] == ["anonymous"]
    assert await client.log_in() == 0


async def test_A01_where_anybody_may_read_they_read_as_nobody(house):
    house.rules = Rules(anonymous="read")
    await house.open()
    client = house.client()
    requests = [search(1), compare(2), root_dse(3), search(4, "", scope=ldap.BASE, attributes=("vendorName",), where=ldap.equals("cn", b"x"))]
    client.send(*requests)
    answers = await client.answers(6)
    assert sorted(frame.id for frame in answers if frame.tag != ldap.SEARCH_ENTRY) == [1, 2, 3, 4]
    (link,) = house.directory.served
    assert link.bound is None
    assert [frame.raw for frame in link.received] == requests


@once
@pytest.mark.parametrize(
    "raw",
    [
        *(request(1) for tag, request in ORDINARY.items() if tag in WRITES),
        root_dse(1, ("netlogon",)),
        root_dse(1, ("NetLogon;x",)),
        search(1, BASE, attributes=("netlogon",)),
        search(1, "", scope=ldap.BASE, attributes=("netlogon",), where=ldap.all_of(ldap.equals("User", b"alice"), ldap.equals("AAC", b"\x10\0\0\0"))),
        search(1, BASE, controls=controls(b"2.16.840.1.113730.3.4.18")),
        search(1, BASE, controls=controls(b"2.16.840.1.113730.3.4.12", critical=False)),
        message(1, tlv(0x63, search(1)[7:], tlv(0xA0, control("2.16.840.1.113730.3.4.18")))),
        extended(1, WHO_AM_I),
        *(extended(1, oid) for oid in HIDDEN),
    ],
)
async def test_A01_where_anybody_may_read_nothing_else_is_open(house, raw):
    house.rules = Rules(anonymous="read")
    await house.open()
    client = house.client()
    client.send(raw)
    await house.over()
    assert [ldap.read_result(frame).code for frame in client.take()] == [50]
    assert not house.directory.served


@pytest.mark.parametrize("way", ["anonymous bind", "no password", "wrong code", "wrong password", "malformed", "sasl"])
async def test_A02_nobody_reads_on_a_link_on_which_somebody_was_bound(house, way):
    house.rules = Rules(anonymous="read")
    await house.open()
    client = house.client()
    client.send(search(1))  # a link that was nobody's first
    await client.answers()
    assert await client.log_in(message_id=2) == 0
    again = {
        "anonymous bind": bind(3, "", ""),
        "no password": bind(3, ALICE, ""),
        "wrong code": bind(3, ALICE, PASSWORD + "000000"),
        "wrong password": bind(3, ALICE, "Nonsense1" + house.next_code()),
        "malformed": message(3, tlv(0x60)),
        "sasl": bind(3, ALICE, PASSWORD, version=2),
    }[way]
    client.send(search(4), again, search(5), compare(6))
    while client.front.session.state.name == "BINDING":
        await house.idle()
        house.clock.advance(0.3)
    await house.over()
    assert client.state == "ANONYMOUS"
    link = next(link for link in house.directory.served if 5 in seen(link))
    assert link.bound is None
    assert not [frame for frame in link.received if frame.tag == ldap.BIND_REQUEST and not is_bind_as_nobody(frame)]
    assert 4 not in seen(link)
    assert {6, 5} <= set(seen(link))
