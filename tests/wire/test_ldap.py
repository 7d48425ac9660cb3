"""Frames, binds, results, entries, and the boundaries of a directory's stream."""

from __future__ import annotations

import contextlib
import itertools
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ldaptor.protocols import pureber, pureldap
from playbook import (
    abandon,
    add,
    answer,
    bind,
    compare,
    control,
    delete,
    entry,
    extended,
    message,
    modify,
    number,
    read_root,
    rename,
    sasl,
    search,
    start_tls,
    tlv,
    unbind,
)
from pyasn1.codec.ber import decoder, encoder

from ldapmfa.wire import ldap
from ldapmfa.wire.ber import BerError
from ldapmfa.wire.ldap import Answers, Bind, Control, Entry, Frame, Result, Written

with warnings.catch_warnings():  # ldap3 uses old names of pyasn1
    warnings.simplefilter("ignore", DeprecationWarning)
    from ldap3.protocol import rfc4511

FAST = settings(deadline=None, max_examples=200)


def frame_of(octets: bytes) -> Frame:
    frame = ldap.read_frame(octets, 0, len(octets))
    assert isinstance(frame, Frame)
    assert frame.raw == octets
    return frame


REQUESTS = [
    bind(1, "cn=ann", "secret"),
    sasl(2, "GSSAPI", b"\x60\x01"),
    search(3, "dc=example", control("1.2.840.113556.1.4.319", critical=True, value=b"\x30\x00")),
    read_root(4),
    modify(5),
    add(6),
    delete(7),
    rename(127),
    compare(128),
    abandon(255, 256),
    unbind(2**31 - 1),
    start_tls(65536),
    extended(9, "1.3.6.1.4.1.4203.1.11.3", b"value"),
]

# -- frames


@pytest.mark.parametrize("octets", REQUESTS)
def test_a_frame_is_read_as_pyasn1_reads_it(octets):
    frame = frame_of(octets)
    theirs, rest = decoder.decode(octets, asn1Spec=rfc4511.LDAPMessage())
    assert rest == b""
    assert frame.id == int(theirs["messageID"])
    operation = theirs["protocolOp"].getComponent()
    assert frame.tag == operation.tagSet[-1].tagClass | operation.tagSet[-1].tagFormat | operation.tagSet[-1].tagId
    controls = theirs["controls"] if theirs["controls"].isValue else ()
    assert [control.oid for control in frame.controls] == [bytes(one["controlType"]) for one in controls]
    assert [control.critical for control in frame.controls] == [bool(one["criticality"]) for one in controls]


def test_a_frame_is_read_where_it_lies():
    first, second = search(1), delete(2)
    octets = bytearray(first + second)
    assert ldap.read_frame(octets, 0, 1000) == frame_of(first)
    assert ldap.read_frame(octets, len(first), 1000) == frame_of(second)
    assert isinstance(frame_of(first).raw, bytes)


@pytest.mark.parametrize("octets", REQUESTS)
def test_a_part_of_a_frame_says_how_much_is_wanted(octets):
    for size in range(len(octets)):
        wanted = ldap.read_frame(octets[:size], 0, len(octets))
        assert isinstance(wanted, int)
        assert size < wanted <= len(octets)


def test_the_first_octet_behind_the_header_is_looked_at_when_it_comes():
    assert ldap.read_frame(b"\x30\x82\xf0\x00", 0, 65536) == 5
    assert ldap.read_frame(b"\x30\x82\xf0\x00\x02", 0, 65536) == 4 + 0xF000


def test_long_lengths_are_read():
    """Active Directory's client library writes every length with four octets."""
    octets = tlv(0x30, number(1), tlv(0x63, b"x", wide=4), wide=4)
    assert frame_of(octets).tag == 0x63


@pytest.mark.parametrize(
    "octets",
    [
        b"GET / HTTP/1.1",
        b"\x16\x03\x01\x00",
        b"\x30\x80",
        b"\x30\x85",
        b"\x30\x00",
        b"\x30\x05\x04",
        b"\x30\x03\x02\x01\x01",  # an id, and no operation
        b"\x30\x02\x02\x00",
        message(1, b"")[:-1] + b"\x01\x60",
        tlv(0x30, tlv(0x02, b""), tlv(0x42)),
        tlv(0x30, tlv(0x02, b"\x00\x80\x00\x00\x00"), tlv(0x42)),  # 2^31
        tlv(0x30, number(-1), tlv(0x42)),
        tlv(0x30, number(1), b"\x42\x01"),  # longer than its message
        tlv(0x30, number(1), b"\x7f\x81\x01\x00"),  # a long tag
        tlv(0x30, number(1), tlv(0x42), b"\x00\x00"),  # octets that are no controls
        tlv(0x30, number(1), tlv(0x42), tlv(0xA0), b"\x00"),  # octets behind the controls
        message(1, tlv(0x42), b"\x04\x00"),
        message(1, tlv(0x42), tlv(0x30)),
        message(1, tlv(0x42), tlv(0x30, tlv(0x24, tlv(0x04, b"1.2")))),  # a constructed OID
        message(1, tlv(0x42), tlv(0x30, tlv(0x04, b"1.2"), tlv(0x01, b"\xff\x00"))),
        message(1, tlv(0x42), tlv(0x30, tlv(0x04, b"1.2"), tlv(0x01, b""))),
        message(1, tlv(0x42), tlv(0x30, tlv(0x04, b"1.2"), tlv(0x04), tlv(0x01, b"\xff"))),
        message(1, tlv(0x42), tlv(0x30, tlv(0x04, b"1.2"), tlv(0x04), tlv(0x04))),
        message(1, tlv(0x42), control("")),
        message(1, tlv(0x42), control("1.02")),
        message(1, tlv(0x42), control("1.2 ")),
        message(1, tlv(0x42), control("1.2\n")),
        message(1, tlv(0x42), control("3.2")),
        message(1, tlv(0x42), control("1")),
        message(1, tlv(0x42), control("paged")),
        message(1, tlv(0x42), tlv(0x30, b"\x04\x80\x00\x00")),
    ],
)
def test_what_is_no_message_is_refused(octets):
    with pytest.raises(BerError):
        ldap.read_frame(octets, 0, 1000)


def test_a_frame_above_the_limit_is_refused_by_its_header():
    octets = search(1)
    with pytest.raises(BerError, match="allowed"):
        ldap.read_frame(octets[:2], 0, len(octets) - 1)
    assert isinstance(ldap.read_frame(octets, 0, len(octets)), Frame)


def test_controls_are_named_with_their_criticality():
    octets = message(
        1,
        tlv(0x42),
        control("1.2.3"),
        control("1.2.4", value=b""),
        control("1.2.5", critical=True),
        control("1.2.6", critical=True, value=b"x"),
        tlv(0x30, tlv(0x04, b"0.0"), tlv(0x01, b"\x00")),
        tlv(0x30, tlv(0x04, b"2.999"), tlv(0x01, b"\x01")),
    )
    assert frame_of(octets).controls == (
        Control(b"1.2.3", critical=False),
        Control(b"1.2.4", critical=False),
        Control(b"1.2.5", critical=True),
        Control(b"1.2.6", critical=True),
        Control(b"0.0", critical=False),
        Control(b"2.999", critical=True),
    )
    assert frame_of(message(1, tlv(0x42)) [:2] + number(1) + tlv(0x42)).controls == ()
    assert frame_of(tlv(0x30, number(1), tlv(0x42), tlv(0xA0))).controls == ()


NEAR_LDAP = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(REQUESTS).flatmap(
        lambda octets: st.lists(st.tuples(st.integers(0, len(octets) - 1), st.integers(0, 255)), max_size=3).map(
            lambda changes: _changed(octets, changes)
        )
    ),
)


def _changed(octets, changes):
    changed = bytearray(octets)
    for pos, value in changes:
        changed[pos] = value
    return bytes(changed)


@FAST
@given(NEAR_LDAP)
def test_any_octets_are_a_frame_or_too_few_or_a_ber_error(octets):
    try:
        frame = ldap.read_frame(octets, 0, 200)
    except BerError:
        return
    if isinstance(frame, int):
        assert frame > len(octets)
        return
    assert octets.startswith(frame.raw)
    for read in (ldap.read_bind, ldap.read_extended_oid, ldap.read_result, ldap.read_entry):
        with contextlib.suppress(BerError):
            read(frame)
    assert ldap.reads_root_dse(frame) in (True, False)


# -- runs of plain requests

PLAIN = frozenset({ldap.SEARCH_REQUEST, ldap.MODIFY_REQUEST, ldap.COMPARE_REQUEST, ldap.DELETE_REQUEST})
SOME = [
    *REQUESTS,
    search(3, "dc=example"),
    delete(200, "cn=x"),
    message(70000, b"\x63\x82\x00\x03\x04\x01x"),
    tlv(0x30, tlv(0x02, b"\0\0\0\1"), tlv(0x63, b"x")),
    tlv(0x30, tlv(0x02, b"\0"), tlv(0x63, b"x")),
    tlv(0x30, tlv(0x02, b"\xff"), tlv(0x63, b"x")),
    tlv(0x30, tlv(0x02, b""), tlv(0x63, b"x")),
    tlv(0x30, tlv(0x02, b"\1" * 5), tlv(0x63, b"x")),
    tlv(0x30, tlv(0x02, b"\1"), tlv(0x63, b"x"), b"\0"),
    tlv(0x30, tlv(0x02, b"\1"), b"\x63"),
    tlv(0x30, tlv(0x02, b"\1")),
    tlv(0x30, tlv(0x02, b"\1"), b"\x63\x80xx"),
    tlv(0x30, tlv(0x02, b"\1"), b"\x63\x85\0\0\0\0\1x"),
    tlv(0x30, tlv(0x02, b"\1"), b"\x63\x02x"),
    b"\x30\x80\x02\x01\x01\x63\x00",
    b"\x30\x85\0\0\0\0\x05\x02\x01\x01\x63\x00",
    b"\x31\x05\x02\x01\x01\x63\x00",
    b"\x30\x05\x04\x01\x01\x63\x00",
    tlv(0x30, tlv(0x02, b"\1"), tlv(0x63, b"x" * 300), wide=4),
]


def a_run_by_frames(data: bytes, pos: int, limit: int) -> tuple[int, int]:
    """What `plain_run` may at most find, by the strict reader."""
    count = 0
    while pos < len(data):
        try:
            frame = ldap.read_frame(data, pos, limit)
        except BerError:
            break
        if isinstance(frame, int) or frame.id == 0 or frame.tag not in PLAIN or frame.stop != len(frame.raw):
            break
        pos += len(frame.raw)
        count += 1
    return pos, count


@FAST
@given(st.lists(st.one_of(st.sampled_from(SOME), NEAR_LDAP), max_size=6).map(b"".join), st.integers(0, 9), st.booleans())
def test_a_plain_run_is_what_the_strict_reader_reads(data, pos, mutable):
    data = bytearray(data) if mutable else data
    for limit in (10, 64, 1 << 20):
        assert ldap.plain_run(data, pos, PLAIN, limit) == a_run_by_frames(data, pos, limit)


@pytest.mark.parametrize("cut", range(40))
@pytest.mark.parametrize("one", SOME, ids=repr)
def test_a_plain_run_ends_where_the_strict_reader_stops(one, cut):
    for data in (one, one[:-1], search(1) + one[:cut], search(1) + one + search(2), one + one[:cut]):
        assert ldap.plain_run(data, 0, PLAIN, 1 << 20) == a_run_by_frames(data, 0, 1 << 20)


@FAST
@given(NEAR_LDAP)
def test_what_is_certain_of_a_beginning_is_so_of_the_whole(octets):
    def outcome(part):
        try:
            return ldap.read_frame(part, 0, 200)
        except BerError:
            return "refused"

    whole = outcome(octets)
    for size in range(len(octets)):
        part = outcome(octets[:size])
        if not isinstance(part, int):
            assert part == whole


# -- binds and extended requests


def test_a_bind_is_read():
    assert ldap.read_bind(frame_of(bind(1, "cn=ann", "secret"))) == Bind(3, b"cn=ann", 0x80, b"secret")
    assert ldap.read_bind(frame_of(bind(1, b"\xff", b"\0", version=127))) == Bind(127, b"\xff", 0x80, b"\0")
    assert ldap.read_bind(frame_of(bind(1, b"x" * 4096, ""))).name == b"x" * 4096
    assert ldap.read_bind(frame_of(sasl(1, "EXTERNAL"))) == Bind(3, b"", 0xA3, None)
    assert ldap.read_bind(frame_of(bind(1, "ann", "x", method=0x89))) == Bind(3, b"ann", 0x89, None)
    assert "secret" not in repr(ldap.read_bind(frame_of(bind(1, "cn=ann", "secret"))))


@pytest.mark.parametrize(
    "operation",
    [
        b"",
        number(3),
        number(3) + tlv(0x04),
        tlv(0x04) + number(3) + tlv(0x80),
        number(3) + tlv(0x80) + tlv(0x04),
        number(3) + tlv(0x04) + tlv(0x80) + b"\x00",
        number(3) + tlv(0x04) + tlv(0x80) + tlv(0x80),
        tlv(0x02, bytes(5)) + tlv(0x04) + tlv(0x80),
        number(3) + tlv(0x04) + b"\x80\x05abc",
        number(3) + tlv(0x04, bytes(4097)) + tlv(0x80),
    ],
)
def test_a_malformed_bind_is_refused(operation):
    with pytest.raises(BerError):
        ldap.read_bind(frame_of(message(1, tlv(0x60, operation))))


def test_the_name_of_an_extended_request_is_read():
    assert ldap.read_extended_oid(frame_of(start_tls(1))) == ldap.OID_START_TLS
    assert ldap.read_extended_oid(frame_of(extended(1, "1.2.3", b""))) == b"1.2.3"


@pytest.mark.parametrize(
    "operation",
    [
        b"",
        tlv(0x81, b"x"),
        tlv(0x81, b"x") + tlv(0x80, b"1.2"),
        tlv(0x80, b"1.2") + tlv(0x81) + tlv(0x81),
        tlv(0xA0, tlv(0x04, b"1.2")),
        tlv(0x80, b""),
        tlv(0x80, b"1.2\0"),
        tlv(0x80, b" 1.2"),
    ],
)
def test_a_malformed_extended_request_is_refused(operation):
    with pytest.raises(BerError):
        ldap.read_extended_oid(frame_of(message(1, tlv(0x77, operation))))


# -- the rootDSE


@pytest.mark.parametrize(
    "octets",
    [
        read_root(1),
        read_root(1, attributes=()),
        read_root(1, attributes=("supportedSASLMechanisms", "1.1", "*", "+", "vendorName;lang-de")),
        read_root(1, attributes=("netlogons", "xnetlogon")),
        search(1, "", scope=0, where=tlv(0x87, b"OBJECTclass")),
    ],
)
def test_this_reads_the_root_dse(octets):
    assert ldap.reads_root_dse(frame_of(octets))


@pytest.mark.parametrize(
    "octets",
    [
        read_root(1, control("1.2.840.113556.1.4.319")),
        search(1, "dc=example", scope=0),
        search(1, " ", scope=0),
        search(1, "\0", scope=0),
        search(1, "", scope=1),
        search(1, "", scope=2),
        search(1, "", scope=0, where=tlv(0x87, b"cn")),
        search(1, "", scope=0, where=tlv(0x87, b"objectClass ")),
        search(1, "", scope=0, where=tlv(0x87, b"2.5.4.0")),
        search(1, "", scope=0, where=tlv(0xA0, tlv(0x87, b"objectClass"))),
        search(1, "", scope=0, where=tlv(0xA2, tlv(0x87, b"objectClass"))),
        read_root(1, attributes=("netlogon",)),
        read_root(1, attributes=("cn", "NetLogon")),
        read_root(1, attributes=("netlogon;binary",)),
        read_root(1, attributes=(" netlogon ",)),
        read_root(1, attributes=(b"netlogon\0",)),
        read_root(1, attributes=(b"\xefnetlogon",)),
        read_root(1, attributes=("",)),
        message(1, tlv(0x63, b"")),
        message(1, tlv(0x63, b"\x04\x05")),
        message(1, frame_of(read_root(1)).raw[5:][:-1] + b"\x00"),
        message(1, tlv(0x63, *([tlv(0x04), number(0, 0x0A), number(0, 0x0A), number(0), number(0)]), tlv(0x01, b"\0"), tlv(0x87, b"objectClass"), tlv(0x30, b"\x04\x09"))),
        message(1, tlv(0x63, *([tlv(0x04), number(0, 0x0A), number(0, 0x0A), number(0), number(0)]), tlv(0x01, b"\0"), tlv(0x87, b"objectClass"), tlv(0x30, tlv(0x0C, b"cn")))),
    ],
)
def test_this_does_not_only_read_the_root_dse(octets):
    frame = ldap.read_frame(octets, 0, 1000)
    assert isinstance(frame, Frame)
    assert not ldap.reads_root_dse(frame)


# -- what an anonymous client may read where it may read


@pytest.mark.parametrize(
    "octets",
    [
        search(1),
        search(1, "", scope=0, attributes=("*", "+")),
        search(1, "dc=x", control("1.2.3"), where=tlv(0xA3, tlv(0x04, b"cn"), tlv(0x04, b"netlogon")), attributes=("cn", "1.1")),
        compare(1),
        message(1, tlv(0x6E, tlv(0x04, b"cn=x"), tlv(0x30, tlv(0x04, b"cn"), tlv(0x04, b"netlogon")))),
    ],
)
def test_this_reads_openly(octets):
    assert ldap.reads_openly(frame_of(octets))


@pytest.mark.parametrize(
    "octets",
    [
        *(search(1, base, scope=scope, attributes=("cn", name)) for base in ("", " ", b"\0", "dc=x") for scope in (0, 2) for name in ("netlogon", "NetLogon;x", b"netlogon\0", " netlogon", "")),
        compare(1, attribute="NETLOGON;x"),
        compare(1, attribute=" netlogon"),
        message(1, tlv(0x63)),
        message(1, tlv(0x6E)),
        message(1, tlv(0x63, frame_of(search(1)).raw[7:], tlv(0xA0))),
        message(1, tlv(0x6E, tlv(0x04), tlv(0x30, tlv(0x04, b"cn"), tlv(0x04), tlv(0xA0)))),
    ],
)
def test_this_does_not_read_openly(octets):
    assert not ldap.reads_openly(frame_of(octets))


# -- what is written


@pytest.mark.parametrize(
    ("octets", "written"),
    [
        (modify(1, types=()), Written((), ())),
        (modify(1, types=("sn", "unicodePwd;binary;x-1", "2.5.4.35")), Written(("sn", "unicodePwd", "2.5.4.35"), ())),
        (modify(1, control("1.2.3"), types=("a_b",), kind=3), Written(("a_b",), ())),
        (add(1, name="cn=ä,dc=x", types=("cn", "OID.2.5.4.35")), Written(("cn", "OID.2.5.4.35"), ("cn=ä,dc=x",))),
        (add(1, name="cn=" + "x" * 4093), Written((), ("cn=" + "x" * 4093,))),
        (rename(1), Written((), ("cn=y", "cn=x"))),
        (rename(1, delete_old=b"\1", parent=b"dc=z"), Written((), ("cn=y", "cn=x"))),
        (rename(1, delete_old=b"\0"), Written((), ("cn=y",))),
        (rename(1, delete_old=b""), Written((), ("cn=y", "cn=x"))),
        (rename(1, delete_old=b"\0\0"), Written((), ("cn=y", "cn=x"))),
    ],
)
def test_what_an_operation_writes_is_read(octets, written):
    assert ldap.read_written(frame_of(octets)) == written


@pytest.mark.parametrize(
    "octets",
    [
        *(modify(1, types=(name,)) for name in ("", "cn ", " cn", b"cn\0", "cn;", ";binary", "cn;b c", b"\xc3\xa4", "cn\n", "cn;range=0-1")),
        add(1, types=("cn", "cn ")),
        add(1, name=b"cn=\xff"),
        add(1, name=b"cn=" + b"x" * 4094),
        rename(1, new=b"cn=" + b"x" * 4094),
        rename(1, new=b"cn=\xff"),
        rename(1, name=b"cn=\xff"),
        *(message(1, tlv(tag)) for tag in (0x66, 0x68, 0x6C)),
        message(1, tlv(0x66, tlv(0x04), tlv(0x30, tlv(0x30, tlv(0x0A, b"\0"), tlv(0x30, tlv(0x24, tlv(0x04, b"cn")), tlv(0x31)))))),
        message(1, tlv(0x66, tlv(0x04), tlv(0x30, tlv(0x30, tlv(0x0A, b"\0"), tlv(0x30, tlv(0x04, b"cn"), tlv(0x31)), tlv(0x30, tlv(0x04, b"sn"), tlv(0x31)))))),
        message(1, tlv(0x68, tlv(0x04, b"cn=x"), tlv(0x30), tlv(0x30))),
        message(1, tlv(0x68, tlv(0x04, b"cn=x"), tlv(0x30, tlv(0x30, b"\x04\x02cn\x31\x80\0\0")))),
    ],
)
def test_what_an_operation_writes_is_read_to_the_letter_or_not_at_all(octets):
    with pytest.raises(BerError):
        ldap.read_written(frame_of(octets))


# -- what we say


def theirs(octets: bytes):
    """`octets` as pyasn1 and ldap3's module of RFC 4511 read them."""
    decoded, rest = decoder.decode(octets, asn1Spec=rfc4511.LDAPMessage())
    assert rest == b""
    return decoded


@pytest.mark.parametrize(("request_tag", "response_tag"), ldap.RESPONSE_TO.items())
def test_a_result_carries_the_tag_that_answers_the_request(request_tag, response_tag):
    octets = ldap.result(300, request_tag, 49, "Nein, möchte nicht.")
    frame = frame_of(octets)
    assert (frame.id, frame.tag) == (300, response_tag)
    assert ldap.read_result(frame) == Result(49, b"", "Nein, möchte nicht.".encode())
    operation = theirs(octets)["protocolOp"].getComponent()
    assert int(operation["resultCode"]) == 49
    assert bytes(operation["diagnosticMessage"]).decode() == "Nein, möchte nicht."


def test_a_notice_of_disconnection_is_what_the_rfc_says():
    octets = ldap.notice_of_disconnection(52, "bye")
    decoded = theirs(octets)
    assert int(decoded["messageID"]) == 0
    operation = decoded["protocolOp"].getComponent()
    assert bytes(operation["responseName"]) == b"1.3.6.1.4.1.1466.20036"
    assert int(operation["resultCode"]) == 52
    assert not operation["responseValue"].isValue
    assert ldap.read_result(frame_of(octets)) == Result(52, b"", b"bye", ldap.OID_NOTICE_OF_DISCONNECTION)


@FAST
@given(st.integers(1, 2**31 - 1), st.binary(max_size=300), st.binary(max_size=300))
def test_a_bind_of_ours_comes_back(message_id, name, password):
    octets = ldap.message(message_id, ldap.bind_request(name, password))
    frame = frame_of(octets)
    assert frame.id == message_id
    assert ldap.read_bind(frame) == Bind(3, name, ldap.SIMPLE, password)
    assert octets == bind(message_id, name, password)


def test_an_extended_request_of_ours_is_read_by_others():
    octets = ldap.message(5, ldap.extended_request(ldap.OID_WHO_AM_I))
    operation = theirs(octets)["protocolOp"].getComponent()
    assert bytes(operation["requestName"]) == b"1.3.6.1.4.1.4203.1.11.3"
    assert ldap.read_extended_oid(frame_of(octets)) == ldap.OID_WHO_AM_I


def test_an_unbind_of_ours_is_read_by_others():
    octets = ldap.message(5, ldap.UNBIND)
    assert octets == unbind(5)
    assert theirs(octets)["protocolOp"].getName() == "unbindRequest"


def test_controls_are_carried_along():
    controls = tlv(0xA0, control("1.2.3", critical=True))
    assert frame_of(ldap.message(1, ldap.UNBIND, controls)).controls == (Control(b"1.2.3", critical=True),)


def test_an_extensible_match_has_rule_attribute_and_value_in_this_order():
    where = ldap.matches_rule("memberOf", "1.2.840.113556.1.4.1941", b"cn=a)(b\0,dc=x")
    rule, attribute, value = b"1.2.840.113556.1.4.1941", b"memberOf", b"cn=a)(b\0,dc=x"
    inner = b"".join(bytes([tag, len(part)]) + part for tag, part in ((0x81, rule), (0x82, attribute), (0x83, value)))
    assert where == bytes([0xA9, len(inner)]) + inner



def test_a_search_of_ours_is_read_by_others():
    either_or = ldap.any_of(ldap.equals("cn", b"a*)(uid=\0"), ldap.equals("uid", b"b"))
    where = ldap.all_of(either_or, ldap.ANY_ENTRY, ldap.present("member"))
    octets = ldap.message(
        7, ldap.search_request(b"dc=x", ("cn", "uid"), scope=ldap.SUBTREE, where=where, most=10)
    )
    context = pureldap.LDAPBERDecoderContext_TopLevel(
        inherit=pureldap.LDAPBERDecoderContext_LDAPMessage(
            fallback=pureldap.LDAPBERDecoderContext(fallback=pureber.BERDecoderContext())
        )
    )
    decoded, size = pureber.berDecodeObject(context, octets)
    assert size == len(octets)
    request = decoded.value
    assert request.baseObject == b"dc=x"
    assert (request.scope, request.derefAliases, request.sizeLimit, request.timeLimit) == (2, 0, 10, 0)
    assert not request.typesOnly
    assert request.attributes == [b"cn", b"uid"]
    either, present, members = request.filter
    assert (type(request.filter), type(either)) == (pureldap.LDAPFilter_and, pureldap.LDAPFilter_or)
    assert [(one.attributeDesc.value, one.assertionValue.value) for one in either] == [
        (b"cn", b"a*)(uid=\0"),
        (b"uid", b"b"),
    ]
    assert present == pureldap.LDAPFilterMatchAll
    assert members == pureldap.LDAPFilter_present("member")


@FAST
@given(st.binary(max_size=200))
def test_nothing_in_a_value_becomes_filter_syntax(value):
    """A30: the value comes back whole from an independent reader, and re-encodes to the same octets."""
    octets = ldap.message(1, ldap.search_request(b"", (), where=ldap.equals("cn", value)))
    decoded = theirs(octets)
    operation = decoded["protocolOp"].getComponent()
    assert bytes(operation["filter"]["equalityMatch"]["assertionValue"]) == value
    assert encoder.encode(decoded) == octets or len(value) == 0


def test_reading_the_root_dse_ourselves_is_recognised():
    assert ldap.reads_root_dse(frame_of(ldap.message(1, ldap.search_request(b"", ("objectClass",)))))


# -- what directories say


def test_a_result_is_read():
    assert ldap.read_result(frame_of(answer(1, 0x61, 49, "no"))) == Result(49, b"", b"no")
    referral = tlv(0xA3, tlv(0x04, b"ldap://x"))
    assert ldap.read_result(frame_of(answer(1, 0x65, 10, "", referral))) == Result(10, b"", b"")
    whoami = answer(1, 0x78, 0, "", tlv(0x8A, b"1.2"), tlv(0x8B, b"dn:cn=x"))
    assert ldap.read_result(frame_of(whoami)) == Result(0, b"", b"", b"1.2", b"dn:cn=x")


@pytest.mark.parametrize(
    "operation",
    [
        b"",
        number(0, 0x0A),
        number(0, 0x0A) + tlv(0x04),
        number(0) + tlv(0x04) + tlv(0x04),
        number(0, 0x0A) + tlv(0x04) + tlv(0x30),
        tlv(0x0A) + tlv(0x04) + tlv(0x04),
    ],
)
def test_a_malformed_result_is_refused(operation):
    with pytest.raises(BerError):
        ldap.read_result(frame_of(message(1, tlv(0x61, operation))))


def test_an_entry_is_read():
    read = ldap.read_entry(frame_of(entry(1, "cn=Änn", objectGUID=[b"\xff\x00"], CN=["Änn".encode(), b"ann"], none=[])))
    assert read == Entry("cn=Änn", {"objectguid": (b"\xff\x00",), "cn": ("Änn".encode(), b"ann"), "none": ()})
    assert read.text("Cn") == ("Änn", "ann")
    assert read.text("objectGUID") == ("\ufffd\0",)
    assert read.text("absent") == ()


@pytest.mark.parametrize(
    "operation",
    [
        b"",
        tlv(0x04),
        tlv(0x30) + tlv(0x04),
        tlv(0x04) + tlv(0x30, tlv(0x04)),
        tlv(0x04) + tlv(0x30, tlv(0x30)),
        tlv(0x04) + tlv(0x30, tlv(0x30, tlv(0x04, b"cn"), tlv(0x30))),
        tlv(0x04) + tlv(0x30, tlv(0x30, tlv(0x04, b"cn"), tlv(0x31, b"\x04\x01"))),
    ],
)
def test_a_malformed_entry_is_refused(operation):
    with pytest.raises(BerError):
        ldap.read_entry(frame_of(message(1, tlv(0x64, operation))))


# -- boundaries of the stream

DONE = answer(1, 0x65)
STREAM = [
    entry(1, "cn=a", cn=[b"a"]),
    entry(2, "cn=b", jpegPhoto=[bytes(300)]),
    message(1, tlv(0x73, tlv(0x04, b"ldap://x"))),
    message(1, tlv(0x79, tlv(0x80, b"1.2"))),
    DONE,
    answer(2**31 - 1, 0x61),
    answer(300, 0x78, 0, "", tlv(0x8B, b"dn:")),
    tlv(0x30, tlv(0x02, b"\0\0\0\1"), tlv(0x65, number(0, 0x0A), tlv(0x04), tlv(0x04), wide=4), wide=4),
    answer(1, 0x65, 0, "x" * 200),
    message(1, tlv(0x6F)),
]
NOTICE = answer(0, 0x78, 52, "bye", tlv(0x8A, ldap.OID_NOTICE_OF_DISCONNECTION))


def finals_of(messages):
    return sum(frame_of(one).tag not in (0x64, 0x73, 0x79) for one in messages)


@pytest.mark.parametrize("one", STREAM)
def test_a_whole_message_ends_at_a_boundary(one):
    answers = Answers()
    assert answers.at_boundary
    assert answers.feed(one) == len(one)
    assert answers.at_boundary
    assert answers.finals == finals_of([one])
    assert not answers.notice


def test_nothing_changes_nothing():
    answers = Answers()
    assert answers.feed(b"") == 0
    assert answers.at_boundary
    answers.feed(DONE[:3])
    assert answers.feed(b"") == -1
    answers.feed(DONE[3:8])
    assert answers.feed(b"") == -1
    assert answers.feed(DONE[8:]) == len(DONE) - 8


def test_the_last_boundary_of_several_is_returned():
    answers = Answers()
    assert answers.feed(DONE + DONE + DONE[:9]) == 2 * len(DONE)
    assert not answers.at_boundary
    assert answers.feed(DONE[9:] + DONE[:3]) == len(DONE) - 9
    assert not answers.at_boundary
    assert answers.feed(DONE[3:5]) == -1
    assert answers.feed(DONE[5:7]) == -1
    assert answers.feed(DONE[7:] + DONE[:2]) == len(DONE) - 7
    assert answers.finals == 4
    assert answers.feed(DONE[2:]) == len(DONE) - 2
    assert answers.finals == 5


def test_a_message_that_only_begins_has_its_boundary_before_it():
    answers = Answers()
    assert answers.feed(DONE[:-1]) == 0
    assert answers.feed(DONE[-1:]) == 1


def test_what_is_certainly_still_to_come_is_known():
    answers = Answers()
    assert answers.wanted == 0
    answers.feed(DONE[:1])
    assert answers.wanted == 1  # a header that is not whole tells no length
    answers.feed(DONE[1:-3])
    assert answers.wanted == 3
    answers.feed(DONE[-3:])
    assert answers.wanted == 0


def test_a_notice_is_noticed_however_its_id_is_written():
    for octets in (NOTICE, tlv(0x30, tlv(0x02, b"\0\0\0"), NOTICE[5:])):
        answers = Answers()
        answers.feed(DONE + octets)
        assert answers.notice
        assert answers.finals == 1
    answers = Answers()
    answers.feed(answer(256, 0x78))
    assert not answers.notice
    assert answers.finals == 1


@pytest.mark.parametrize(
    "octets",
    [
        b"\x31",
        b"HTTP/1.1 400 Bad Request",
        b"\x30\x80\x02\x01\x01\x65",
        b"\x30\x85\x00\x00\x00\x00\x01\x02",
        b"\x30\x07\x04\x01\x01\x65",
        b"\x30\x07\x02\x00\x65\x00",
        b"\x30\x0a\x02\x05\x00\x00\x00\x00\x01\x65",
        b"\x30\x00\x02\x01\x01\x65",
        b"\x30\x03\x02\x01\x01\x30\x03",
        b"\x30\x04\x02\x01\x01\x65",
        b"\x30\x82\x00\x04\x02\x01\x01\x65",
    ],
)
def test_what_is_no_message_from_a_directory_is_refused_however_it_is_split(octets):
    octets = DONE + octets
    for cut in range(len(octets)):
        answers = Answers()
        with pytest.raises(BerError):
            feed_all(answers, [octets[:cut], octets[cut:]])
    answers = Answers()
    with pytest.raises(BerError):
        feed_all(answers, [octets[pos : pos + 1] for pos in range(len(octets))])


def feed_all(answers, parts):
    """The last boundary in the whole stream, as the shell works it out."""
    last, done = 0, 0
    for part in parts:
        boundary = answers.feed(part)
        if boundary >= 0:
            last = done + boundary
        done += len(part)
    return last


MESSAGES = st.lists(st.sampled_from([*STREAM, NOTICE]), max_size=8)


def split(octets, cuts):
    places = [0, *sorted(cut % (len(octets) + 1) for cut in cuts), len(octets)]
    return [octets[start:stop] for start, stop in itertools.pairwise(places)]


CUTS = st.lists(st.integers(0, 10_000), max_size=12)


@FAST
@given(MESSAGES, CUTS, st.integers(0, 20))
def test_any_split_of_a_stream_gives_the_same(messages, cuts, missing):
    octets = b"".join(messages)
    octets = octets[: len(octets) - missing] if missing < len(octets) else octets
    whole = Answers()
    boundary = feed_all(whole, [octets])
    ends = [sum(map(len, messages[:count])) for count in range(len(messages) + 1)]
    assert boundary == max(end for end in ends if end <= len(octets))
    for parts in (split(octets, cuts), [octets[pos : pos + 1] for pos in range(len(octets))]):
        parted = Answers()
        assert feed_all(parted, parts) == boundary
        assert (parted.finals, parted.notice, parted.at_boundary) == (whole.finals, whole.notice, whole.at_boundary)
    assert whole.at_boundary == (len(octets) in ends)


@FAST
@given(MESSAGES, CUTS)
def test_a_message_put_in_at_any_boundary_leaves_the_others_whole(messages, cuts):
    ours = ldap.result(77, ldap.SEARCH_REQUEST, 50, "ours")
    answers, merged, unsent, due = Answers(), b"", [], 0
    for part in split(b"".join(messages), cuts):
        unsent.append(ours)
        due += 1
        boundary = answers.feed(part)
        if boundary >= 0:
            merged += part[:boundary] + b"".join(unsent) + part[boundary:]
            unsent = []
        else:
            merged += part
    assert answers.at_boundary
    assert not unsent
    pos, seen = 0, []
    while pos < len(merged):
        frame = ldap.read_frame(merged, pos, len(merged))
        assert isinstance(frame, Frame)
        seen.append(frame.raw)
        pos += len(frame.raw)
    assert [one for one in seen if one != ours] == messages
    assert seen.count(ours) == due
    assert answers.finals == finals_of(one for one in messages if one != NOTICE)


@FAST
@given(st.binary(max_size=60), CUTS)
def test_any_octets_from_a_directory_are_followed_or_a_ber_error_whatever_the_split(octets, cuts):
    def outcome(parts):
        answers = Answers()
        try:
            return feed_all(answers, parts), answers.finals, answers.notice, answers.at_boundary
        except BerError:
            return "refused"

    assert outcome([octets]) == outcome(split(octets, cuts))


def test_finals_do_not_keep_the_stream():
    """An answer of a gigabyte costs its header."""
    answers = Answers()
    assert answers.feed(b"\x30\x84\x40\x00\x00\x00\x02\x01\x01\x64") == 0
    assert all(answers.feed(bytes(65536)) == -1 for _ in range(10))
    assert answers._head == b""


def test_a_frame_does_not_show_its_octets():
    """A bind's hold the password."""
    raw = ldap.message(7, ldap.bind_request(b"cn=x", b"hush"))
    frame = ldap.read_frame(raw, 0, 1000)
    assert repr(frame) == f"Frame(id=7, tag=0x60, {len(raw)} octets)"


TEXT, PAIR = "0401 78", "0402 636e 0401 78"
HEAD = "0401 78 0a0102 0a0100 020100 020100 010100"


@pytest.mark.parametrize(
    ("tag", "content", "right"),
    [
        (ldap.SEARCH_REQUEST, f"{HEAD} 8702 636e 3004 0402 636e", True),
        (ldap.SEARCH_REQUEST, f"{HEAD} a307 {PAIR} 3000", True),
        (ldap.SEARCH_REQUEST, f"{HEAD} a00b a209 a307 {PAIR} 3000", True),
        (ldap.SEARCH_REQUEST, f"{HEAD} a10b a209 a807 {PAIR} 3000", True),
        (ldap.SEARCH_REQUEST, f"{HEAD} a409 0402 636e 3003 8001 78 3000", True),
        (ldap.SEARCH_REQUEST, f"{HEAD} a903 8301 78 3000", True),
        (ldap.SEARCH_REQUEST, f"{HEAD} 8702 636e 3000 a000", False),
        (ldap.SEARCH_REQUEST, f"{HEAD} a309 {PAIR} a000 3000", False),
        (ldap.SEARCH_REQUEST, f"{HEAD} a206 8702 636e a000 3000", False),
        (ldap.SEARCH_REQUEST, f"{HEAD} 8702 636e 3002 a000", False),
        (ldap.SEARCH_REQUEST, f"{HEAD} 8702 636e 30", False),
        (ldap.COMPARE_REQUEST, f"{TEXT} 3007 {PAIR}", True),
        (ldap.COMPARE_REQUEST, f"{TEXT} 3007 {PAIR} a000", False),
        (ldap.MODIFY_REQUEST, f"{TEXT} 3010 300e 0a0102 3009 0402 636e 3103 0401 78", True),
        (ldap.MODIFY_REQUEST, f"{TEXT} 3012 3010 0a0102 300b 0402 636e 3103 0401 78 a000", False),
        (ldap.ADD_REQUEST, f"{TEXT} 300b 3009 0402 636e 3103 0401 78", True),
        (ldap.ADD_REQUEST, f"{TEXT} 300d 300b 0402 636e 3105 0401 78 a000", False),
        (ldap.MODIFY_DN_REQUEST, f"{TEXT} {TEXT} 0101ff", True),
        (ldap.MODIFY_DN_REQUEST, f"{TEXT} {TEXT} 0101ff 8001 78", True),
        (ldap.MODIFY_DN_REQUEST, f"{TEXT} {TEXT} 0101ff a000", False),
        (ldap.DELETE_REQUEST, "78", True),
    ],
)
def test_an_operation_is_to_the_letter_or_not(tag, content, right):
    octets = bytes.fromhex(content)
    raw = ldap.message(2, bytes((tag, len(octets))) + octets)
    assert ldap.is_to_the_letter(ldap.read_frame(raw, 0, 1000)) is right
