"""Attacks on the relay and on the link to the directory, through the whole proxy in memory."""

import asyncio
import ipaddress

import pytest
from world import (
    ALICE,
    BASE,
    BOB,
    PASSWORD,
    SERVICE,
    World,
    abandon,
    bind,
    controls,
    entry,
    extended,
    frames,
    result,
    root_dse,
    search,
)

from ldapmfa.core.policy import Exempt, Policy
from ldapmfa.core.session import Rules
from ldapmfa.wire import ber, ldap

NOTICE = ldap.notice_of_disconnection(52, "Bye.")
REQUESTS = {
    "search": search(1),
    "compare": ldap.message(1, ber.tlv(ldap.COMPARE_REQUEST, ber.tlv(4, b"cn=x"), ber.tlv(0x30, ber.tlv(4, b"cn"), ber.tlv(4, b"x")))),
    "add": ldap.message(1, ber.tlv(ldap.ADD_REQUEST, ber.tlv(4, b"cn=x"), ber.tlv(0x30))),
    "modify": ldap.message(1, ber.tlv(ldap.MODIFY_REQUEST, ber.tlv(4, b"cn=x"), ber.tlv(0x30))),
    "delete": ldap.message(1, ber.tlv(ldap.DELETE_REQUEST, b"cn=x")),
    "rename": ldap.message(1, ber.tlv(ldap.MODIFY_DN_REQUEST, ber.tlv(4, b"cn=x"), ber.tlv(4, b"cn=y"), ber.tlv(1, b"\xff"))),
    "whoami": extended(1, ldap.OID_WHO_AM_I),
    "password": extended(1, b"1.3.6.1.4.1.4203.1.11.1"),
}
PASSED = (
    b"1.2.840.113556.1.4.319",  # paged results
    b"1.2.840.113556.1.4.473",  # sort
    b"1.2.840.113556.1.4.801",  # SD flags
    b"1.2.840.113556.1.4.417",  # show deleted
    b"1.2.840.113556.1.4.529",  # extended DN
    b"1.2.840.113556.1.4.841",  # DirSync
    b"2.16.840.1.113730.3.4.180",
    b"2.16.840.1.113730.3.4.1",
)
#: For attacks that end before anything is sent to the directory, and for those on the relay alone.
once = pytest.mark.parametrize("spare_links", [0], ids=["no link"])
PROXIED = (b"2.16.840.1.113730.3.4.18", b"2.16.840.1.113730.3.4.12")


def last(client):
    return ldap.read_result(client.take()[-1])


def tags(link):
    return [frame.tag for frame in link.received]


# -- A01


@once
@pytest.mark.parametrize(
    "raw",
    [
        *REQUESTS.values(),
        search(1, ""),
        search(1, "", scope=1),
        search(1, BASE, scope=ldap.BASE),
        search(1, " ", scope=ldap.BASE),
        root_dse(1, ("netlogon",)),
        root_dse(1, ("NetLogon;x",)),
        root_dse(1, ("cn", "netLOGON")),
        root_dse(1, (" netlogon",)),
        search(1, "", scope=ldap.BASE, where=ldap.equals("objectClass", b"*")),
        search(1, "", scope=ldap.BASE, where=ldap.all_of(ldap.ANY_ENTRY)),
        search(1, "", scope=ldap.BASE, where=ber.tlv(0x87, b"objectClass\0")),
        search(1, "", scope=ldap.BASE, controls=controls(PASSED[0], critical=False)),
        abandon(1, 1),
    ],
)
async def test_A01_before_a_bind_only_the_root_dse_is_read(house, raw):
    await house.open()
    client = house.client()
    client.send(raw)
    await house.over()
    assert not house.directory.served
    told = client.take()
    assert [ldap.read_result(frame).code for frame in told] == ([50] if raw != abandon(1, 1) else [])
    assert client.pipe.open


async def test_A01_the_root_dse_is_read_and_no_identity_comes_of_it(house):
    await house.open()
    client = house.client()
    client.send(root_dse(1, ("*", "+", "supportedSASLMechanisms")), search(2))
    frames_ = await client.answers(3)
    assert {frame.id for frame in frames_} == {1, 2}
    (link,) = house.directory.served
    assert link.bound is None
    assert [frame.raw for frame in link.received] == [root_dse(1, ("*", "+", "supportedSASLMechanisms"))]


# -- A10 to A12


async def test_A10_an_abandon_is_relayed_as_it_is_and_only_when_bound(house):
    await house.open()
    client = house.client()
    client.send(bind(1, ALICE, PASSWORD + house.next_code()), abandon(2, 1), search(3))
    assert [frame.id for frame in await client.answers(2)] == [1, 3]
    link = house.directory.served[-1]
    assert abandon(2, 1) not in [frame.raw for frame in link.received]
    client.send(abandon(4, 3))
    assert link.received[-1].raw == abandon(4, 3)
    client.send(abandon(5, 3)[:-3] + b"\x50\x01\x03")
    assert client.pipe.open


async def test_A10_a_cancel_reaches_the_own_link_alone(house):
    await house.open()
    client, other = house.client(), house.client(port=50_001)
    assert await client.log_in() == 0
    assert await other.log_in(BOB) == 0
    cancel = ldap.message(9, ber.tlv(ldap.EXTENDED_REQUEST, ber.tlv(0x80, b"1.3.6.1.1.8"), ber.tlv(0x81, ber.tlv(0x30, ber.encode_integer(1)))))
    client.send(cancel)
    assert [cancel in [frame.raw for frame in link.received] for link in house.directory.served] == [True, False]


@once
@pytest.mark.parametrize("oid", PASSED)
@pytest.mark.parametrize("critical", [True, False])
async def test_A11_controls_pass_octet_for_octet_both_ways(house, oid, critical):
    world = house.assemble()
    client, link = world.bound_client()
    value = ber.tlv(0xA0, ber.tlv(0x30, ber.tlv(4, oid), *([ber.tlv(1, b"\xff")] if critical else []), ber.tlv(4, b"\x30\x05\x02\x01\x64\x04\x00\xff")))
    for raw in REQUESTS.values():
        asked = raw[:1] + _length(len(raw) - 2 + len(value)) + raw[2:] + value if raw[1] < 0x80 else None
        link.received.clear()
        house.directory.misbehave = lambda link, frame: []
        client.send(asked)
        assert [frame.raw for frame in link.received] == [asked]
    answered = ldap.message(1, ber.tlv(ldap.SEARCH_DONE, b"\x0a\x01\x00\x04\x00\x04\x00"), value)
    link.send(answered)
    assert client.came == answered


def _length(size):
    return bytes((size,)) if size < 0x80 else b"\x81" + bytes((size,))


@once
@pytest.mark.parametrize("oid", PROXIED)
@pytest.mark.parametrize("request_", REQUESTS)
@pytest.mark.parametrize("critical", [True, False])
async def test_A11_proxied_authorization_is_refused(house, oid, request_, critical):
    world = house.assemble()
    client, link = world.bound_client()
    raw = REQUESTS[request_]
    frame = frames(raw)[0]
    operation = raw[5:] if raw[1] < 0x80 else raw[6:]
    client.send(ldap.message(1, operation, controls(PASSED[0], oid, critical=critical)))
    assert last(client).code == 123
    assert link.received == []
    client.send(ldap.message(2, ber.encode_integer(1, ldap.ABANDON_REQUEST), controls(oid)))
    assert link.received == []
    assert frame.id == 1


@once
@pytest.mark.parametrize(
    "encoded",
    [
        ber.tlv(0x24, ber.tlv(4, PROXIED[0])),
        b"\x04\x80" + PROXIED[0] + b"\0\0",
        ber.tlv(4, b"2.16.840.1.113730.3.4.018"),
        ber.tlv(4, b" 2.16.840.1.113730.3.4.18"),
        ber.tlv(4, PROXIED[0] + b"\0"),
        ber.tlv(4, b"02.16.840.1.113730.3.4.18"),
        ber.tlv(6, b"\x60\x86\x48\x01\x86\xf8\x42\x03\x04\x12"),
        ber.tlv(4, b"proxyAuthz"),
    ],
)
async def test_A11_an_oid_in_another_spelling_ends_the_connection(house, encoded):
    world = house.assemble()
    client, link = world.bound_client()
    client.send(ldap.message(1, ldap.search_request(b"", ()), ber.tlv(0xA0, ber.tlv(0x30, encoded))))
    assert last(client).code == 2
    assert not client.pipe.open
    assert link.received[:-1] == []


@once
async def test_A11_lengths_in_long_form_change_nothing(house):
    """The OID itself is compared, whatever its length is written like."""
    world = house.assemble()
    client, link = world.bound_client()
    odd = b"\x04\x84\x00\x00\x00" + bytes((len(PROXIED[0]),)) + PROXIED[0]
    client.send(ldap.message(1, ldap.search_request(b"", ()), ber.tlv(0xA0, ber.tlv(0x30, odd))))
    assert last(client).code == 123
    assert link.received == []


@once
async def test_A11_the_oid_as_text_passes(house):
    world = house.assemble()
    client, link = world.bound_client()
    raw = search(1, where=ldap.equals("description", PROXIED[0]))
    client.send(raw)
    assert [frame.raw for frame in link.received] == [raw]


@pytest.mark.parametrize("state", ["ANONYMOUS", "BOUND"])
async def test_A12_extended_operations_that_change_who_one_is_are_not_forwarded(house, state):
    await house.open()
    client = house.client()
    if state == "BOUND":
        assert await client.log_in() == 0
    for oid in (ldap.OID_START_TLS, ldap.OID_FAST_BIND, ldap.OID_TURN):
        before = len(house.directory.seen)
        client.send(extended(5, oid))
        assert await client.code() in (1, 2, 50, 53)
        assert len(house.directory.seen) == before
    client.send(extended(6, ldap.OID_WHO_AM_I))
    assert await client.code() == (0 if state == "BOUND" else 50)


# -- A38


@once
async def test_A38_octets_behind_start_tls_are_never_processed(house):
    await house.open()
    house.with_(rules=Rules(starttls=True), tls=object())
    for behind in (bind(2, SERVICE, PASSWORD), search(2), b"\x30", b"\x16\x03\x01"):
        client = house.client()
        client.send(extended(1, ldap.OID_START_TLS) + behind)
        assert last(client).code == 2
        assert not client.pipe.open
        assert client.pipe.tls is None
    for cut in range(1, len(extended(1, ldap.OID_START_TLS))):
        client = house.client()
        raw = extended(1, ldap.OID_START_TLS) + search(2)
        client.send(raw[:cut])
        client.send(raw[cut:])
        assert client.pipe.tls is None
        assert not client.pipe.open
    assert not house.directory.served


async def test_A38_start_tls_comes_once_first_and_alone(house):
    await house.open()
    house.with_(rules=Rules(starttls=True), tls=object())
    client = house.client()
    client.send(extended(1, ldap.OID_START_TLS))
    assert await client.code() == 0
    assert client.pipe.tls is house.listener.tls
    client.send(extended(2, ldap.OID_START_TLS))
    assert await client.code() == 1
    assert await client.log_in() == 0
    client.send(extended(3, ldap.OID_START_TLS))
    assert await client.code() == 1


@pytest.mark.parametrize("when", ["link opening", "answer outstanding", "same segment"])
async def test_A38_start_tls_with_an_operation_outstanding_is_refused(house, when):
    await house.open()
    house.with_(rules=Rules(starttls=True), tls=object())
    client = house.client()
    house.directory.holds = lambda link, frame: True
    if when == "same segment":
        client.send(root_dse(1), extended(2, ldap.OID_START_TLS))
    else:
        client.send(root_dse(1))
        if when == "answer outstanding":
            await house.until(lambda: house.directory.held)
        client.send(extended(2, ldap.OID_START_TLS))
    assert last(client).code == 1
    assert client.pipe.tls is None
    await house.until(lambda: house.directory.held)
    house.directory.release()
    await client.answers(2)
    client.send(extended(3, ldap.OID_START_TLS))
    assert await client.code() == 0
    assert not house.links_open  # what was said in clear text is not the TLS client's


async def test_A38_start_tls_held_behind_a_bind_is_an_injection(house):
    await house.open()
    house.with_(rules=Rules(starttls=True), tls=object())
    client = house.client()
    client.send(bind(1, ALICE, PASSWORD + "000000"), extended(2, ldap.OID_START_TLS), search(3))
    await house.idle()
    house.clock.advance(0.3)
    await house.over()
    assert [frame.id for frame in client.take()] == [1, 0]
    assert client.pipe.tls is None
    assert not client.pipe.open


# -- A39


@pytest.mark.parametrize("name", [ALICE, SERVICE, ""])
@pytest.mark.parametrize("password", [PASSWORD, "", "\0", "x" * 1000])
async def test_A39_clear_text_binds_are_refused_before_anything_looks_at_the_password(house, name, password):
    await house.open()
    house.with_(rules=Rules(starttls=True, tls_required=True), tls=object())
    client = house.client()
    client.send(bind(1, name, password))
    assert await client.code() == 13
    assert not house.directory.served
    assert house.events[-1].reason == "clear-text"
    client.send(extended(2, ldap.OID_START_TLS))
    assert await client.code() == 0
    assert await client.log_in() == 0


async def test_A39_tls_that_the_listener_began_with_is_tls(house):
    await house.open()
    house.with_(rules=Rules(tls_required=True), encrypted=True)
    assert await house.client().log_in() == 0


# -- A41: what is announced, nested, endless


@pytest.mark.parametrize("octets", [b"\x30\x84\x7f\xff\xff\xff", b"\x30\x84\x00\x10\x00\x00", b"\x30\x83\x01\x00\x01"])
def test_A41_a_length_that_is_too_long_is_refused_at_once(octets):
    house = World(None).assemble()
    client = house.client()
    client.send(octets)
    assert last(client).code == 2
    assert not client.pipe.open
    assert house.budget.octets_used == 0


def test_A41_the_limit_after_a_bind_is_the_larger_one():
    house = World(None).assemble()
    client, link = house.bound_client()
    raw = search(1, "x" * 1_000_000)
    client.send(raw)
    assert link.received[-1].raw == raw
    client.send(b"\x30\x83\x10\x00\x01")
    assert last(client).code == 2


def test_A41_a_filter_nested_a_hundred_thousand_times_is_no_recursion():
    house = World(None).assemble()
    client, link = house.bound_client()
    where = ldap.ANY_ENTRY
    for _ in range(20_000):
        where = ber.tlv(0xA2, where)
    raw = search(1, where=where)
    client.send(raw)
    assert link.received[-1].raw == raw
    client = house.client()
    client.send(search(1, where=where)[:60_000])
    client.send(b"\x30\x84\0\0" * 10)
    assert client.came == b"" or last(client).code in (2, 50)


def test_A41_a_big_result_is_passed_on_and_not_kept():
    house = World(None).assemble()
    client, link = house.bound_client()
    piece = b"".join(entry(7, f"cn={number:06}", a=[b"x" * 80]) for number in range(500))
    for _ in range(200):  # 100,000 entries
        link.send(piece[:20_001])
        link.send(piece[20_001:])
        client.pipe.written.clear()
        assert len(client.front._unsent) == 0
        assert house.budget.octets_used == 0
        assert not link.link._buffer
        assert len(link.link._answers._head) < 16
    link.send(result(7, ldap.SEARCH_REQUEST))
    assert not link.link.quiet  # it was not asked for


# -- A42, A45


@pytest.mark.parametrize("tag", [0x40, 0x61, 0x62, 0x64, 0x65, 0x67, 0x73, 0x78, 0x79, 0x7A, 0x7E, 0x80, 0x02, 0x30, 0xE3])
@pytest.mark.parametrize("state", ["ANONYMOUS", "BINDING", "BOUND"])
async def test_A42_what_is_no_request_ends_the_session_with_a_notice(house, tag, state):
    await house.open()
    house.directory.holds = lambda link, frame: True
    if state == "BOUND":
        client, _ = house.bound_client()
    else:
        client = house.client()
        if state == "BINDING":
            client.send(bind(1, ALICE, PASSWORD + house.next_code()))
    client.send(ldap.message(2, ber.tlv(tag, b"\x0a\x01\x00\x04\x00\x04\x00")))
    notice = client.take()[-1]
    assert (notice.id, notice.tag, ldap.read_result(notice).code) == (0, ldap.EXTENDED_RESPONSE, 2)
    assert not client.pipe.open
    await house.over()
    assert not house.links_open


def test_A42_intermediate_responses_and_unknown_answers_are_relayed():
    house = World(None).assemble()
    client, link = house.bound_client()
    client.send(search(7))
    client.take()
    stream = b"".join(
        (
            ldap.message(7, ber.tlv(ldap.INTERMEDIATE_RESPONSE, ber.tlv(0x80, b"1.3.6.1.4.1.4203.1.9.1.4"), ber.tlv(0x81, b"x"))),
            ldap.message(7, ber.tlv(0x7E, b"x")),
            ldap.message(7, ber.tlv(ldap.SEARCH_REFERENCE, ber.tlv(4, b"ldap://elsewhere/dc=x"))),
        )
    )
    link.send(stream)
    assert client.came == stream


def test_A42_a_notice_of_the_directorys_reaches_the_client():
    house = World(None).assemble()
    client, link = house.bound_client()
    link.send(NOTICE)
    assert bytes(client.pipe.written) == NOTICE
    assert not client.pipe.open


async def test_A42_a_notice_during_a_bind_is_broken(house):
    await house.open()
    house.directory.misbehave = lambda link, frame: [NOTICE] if frame.tag == ldap.BIND_REQUEST else None
    client = house.client()
    assert await client.log_in() == 52
    assert client.pipe.open
    assert not house.links_open


async def test_A45_referrals_are_passed_on_untouched_and_followed_by_nobody(house):
    await house.open()
    client = house.client()
    assert await client.log_in() == 0
    referral = ldap.message(
        2,
        ber.tlv(ldap.SEARCH_DONE, b"\x0a\x01\x0a", ber.tlv(4), ber.tlv(4, b"elsewhere"), ber.tlv(0xA3, ber.tlv(4, b"ldap://192.0.2.66/dc=evil"))),
    )
    house.directory.misbehave = lambda link, frame: [referral] if frame.tag == ldap.SEARCH_REQUEST else None
    client.send(search(2))
    assert client.came == referral
    assert len(house.directory.served) == 1


async def test_A45_a_referral_for_a_bind_is_a_refusal(house):
    await house.open()
    referral = ber.tlv(ldap.BIND_RESPONSE, b"\x0a\x01\x0a", ber.tlv(4), ber.tlv(4), ber.tlv(0xA3, ber.tlv(4, b"ldap://192.0.2.66/")))
    house.directory.misbehave = lambda link, frame: [ldap.message(frame.id, referral)] if frame.tag == ldap.BIND_REQUEST else None
    client = house.client()
    client.send(bind(1, ALICE, PASSWORD + house.next_code()))
    await house.idle()
    house.clock.advance(0.3)
    (frame,) = await client.answers()
    assert ldap.read_result(frame).code == 49
    assert b"192.0.2.66" not in frame.raw
    assert len(house.directory.served) == 1
    assert not house.links_open


# -- A47


@pytest.mark.parametrize(
    "octets",
    [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n", b"\x00", b"\r\n\r\n\x00\r\nQUIT\n", b"SSH-2.0-x\r\n"],
)
def test_A47_what_is_not_ldap_is_closed_at_once_with_a_line_in_the_log(octets):
    house = World(None).assemble()
    client = house.client()
    client.send(octets)
    assert not client.pipe.open
    assert last(client).code == 2
    assert house.logged[-1][0] == "client turned away"
    assert "Not LDAP" in house.logged[-1][1]["reason"]


# -- A49


@pytest.mark.parametrize("outstanding", ["search", "abandoned", "persistent", "half an answer", "more answers"])
async def test_A49_a_bind_does_not_start_on_a_link_that_is_not_quiet(house, outstanding):
    """Leftovers with guessed ids: entries of the attacker's choice that would name the victim's account."""
    await house.open()
    client = house.client()
    assert await client.log_in(BOB) == 0
    (old,) = house.directory.served
    house.directory.holds = lambda link, frame: link is old and frame.tag == ldap.SEARCH_REQUEST
    client.send(search(5))
    if outstanding == "abandoned":
        client.send(abandon(6, 5))
        old.send(result(5, ldap.SEARCH_REQUEST))
    elif outstanding == "half an answer":
        old.send(entry(5, BOB, a=[b"x"])[:10])
    elif outstanding == "more answers":
        old.send(result(5, ldap.SEARCH_REQUEST) * 2)
    client.take() if outstanding != "half an answer" else None
    client.send(bind(7, ALICE, PASSWORD))
    if outstanding == "half an answer":
        old.send(entry(5, BOB, a=[b"x"])[10:])
    forged = b"".join(
        result(number, ldap.EXTENDED_REQUEST, value=f"dn:{SERVICE}".encode())
        + entry(number, SERVICE, entryUUID=[b"x"], uid=[b"svc"])
        + result(number, ldap.SEARCH_REQUEST)
        for number in range(1_000_000, 1_000_020)
    )
    old.send(forged)
    await house.idle()
    old.send(forged)
    house.clock.advance(0.3)
    await house.over()
    answer = client.take()[-1]
    assert (answer.id, ldap.read_result(answer).code) == (7, 49)
    assert house.events[-1].reason == "no-code"
    assert house.events[-1].dn == ALICE
    assert not old.pipe.open
    assert ldap.BIND_REQUEST not in tags(old)[1:] or tags(old).count(ldap.BIND_REQUEST) == 1
    assert len(house.directory.served) == 2


@pytest.mark.parametrize("moment", [ldap.BIND_REQUEST, ldap.EXTENDED_REQUEST, ldap.SEARCH_REQUEST])
@pytest.mark.parametrize("place", ["before", "behind"])
@pytest.mark.parametrize(
    "unrelated",
    [
        lambda frame: entry(5, SERVICE, entryUUID=[b"x"]),
        lambda frame: result(5, ldap.SEARCH_REQUEST),
        lambda frame: result(5, ldap.EXTENDED_REQUEST, value=f"dn:{SERVICE}".encode()),
        lambda frame: result(frame.id, ldap.BIND_REQUEST),
        lambda frame: result(frame.id, ldap.MODIFY_DN_REQUEST),
        lambda frame: ldap.message(frame.id, ber.tlv(ldap.INTERMEDIATE_RESPONSE)),
        lambda frame: NOTICE,
        lambda frame: b"\x30\x80",
        lambda frame: b"\x30",
    ],
    ids=["entry", "done", "whoami", "another bind response", "rename", "intermediate", "notice", "garbage", "a piece"],
)
async def test_A49_an_unrelated_frame_while_binding_breaks_the_login(house, moment, place, unrelated):
    await house.open()
    client = house.client()
    assert await client.log_in() == 0  # what the server can do is known from here on, and the link is taken again
    (link,) = house.directory.served
    before = list(house.directory.binds())

    def misbehave(link, frame):
        if frame.tag != moment or (moment == ldap.BIND_REQUEST and place == "before" and unrelated(frame) == result(frame.id, ldap.BIND_REQUEST)):
            return None
        house.directory.misbehave = lambda link, frame: None
        usual = house.directory.reply(link, frame)
        return [unrelated(frame) + b"".join(usual)] if place == "before" else [b"".join(usual) + unrelated(frame)]

    house.directory.misbehave = misbehave
    if moment == ldap.BIND_REQUEST and place == "before" and unrelated(frames(search(2))[0]) == result(2, ldap.BIND_REQUEST):
        return  # the first of two equal answers is the answer; "behind" tests the second
    assert await client.log_in(message_id=2) == 52
    assert client.state == "ANONYMOUS"
    assert not link.pipe.open
    assert not house.links_open
    assert len(house.directory.binds()) == len(before) + 1, "the password was tried twice"
    client.send(search(3))
    assert await client.code() == 50


async def test_A49_ids_of_ours_come_from_the_random_source(house):
    await house.open()
    assert await house.client().log_in() == 0
    ours = [frame.id for frame in house.directory.seen if frame.tag in (ldap.SEARCH_REQUEST, ldap.EXTENDED_REQUEST)]
    assert len(ours) == 3
    assert all(number >= 1_000_000 for number in ours)
    from ldapmfa.net.service import message_id

    drawn = {message_id() for _ in range(1000)}
    assert len(drawn) > 990
    assert all(1 <= number <= 2**31 - 1 for number in drawn)


# -- A50


@pytest.mark.parametrize("code", [1, 2, 8, 10, 14, 19, 32, 34, 48, 49, 50, 51, 53, 80, 123])
async def test_A50_a_link_whose_bind_was_not_answered_by_success_is_gone(house, code):
    """The directory says no and means yes: whoever it has bound, nothing runs there."""
    await house.open()
    for again in (False, True):
        client = house.client()
        house.directory.misbehave = lambda link, frame: None
        if again:
            assert await client.log_in() == 0
        before = len(house.directory.served) - again

        def misbehave(link, frame):
            if frame.tag == ldap.BIND_REQUEST:
                link.bound = "cn=alice,dc=example,dc=test"
                return [result(frame.id, frame.tag, code)]
            return None

        house.directory.misbehave = misbehave
        assert await client.log_in(message_id=2) in (49, 52)
        served = house.directory.served[before:]
        client.send(search(3), root_dse(4))
        assert await client.code() == 50
        await client.answers(2)
        assert not any(link.pipe.open for link in served)
        assert all(frame.id not in (3, 4) for link in served for frame in link.received)
        assert all(tags(link)[-1] == ldap.UNBIND_REQUEST for link in served)


async def test_A50_a_wrong_code_gives_up_the_link_that_the_password_bound(house):
    await house.open()
    client = house.client()
    assert await client.log_in(ALICE, PASSWORD + "000000") == 49
    (link,) = house.directory.served
    assert link.given_up
    assert tags(link)[-1] == ldap.UNBIND_REQUEST
    assert house.directory.binds() == [(ALICE, PASSWORD)]


# -- A51, A37


@pytest.mark.parametrize(
    ("address", "admitted"),
    [("10.0.0.5", True), ("::ffff:10.0.0.5", True), ("192.0.2.7", False), ("::1", False), ("::ffff:192.0.2.7", False)],
)
async def test_A51_an_exemption_for_a_network_holds_for_the_peers_own_address(house, address, admitted):
    await house.open()
    house.with_(policy=Policy((Exempt(SERVICE, (ipaddress.ip_network("10.0.0.0/8"),)),)))
    assert await house.client(address).log_in(SERVICE, PASSWORD) == (0 if admitted else 49)


# -- beyond the list


async def test_a_directory_that_says_yes_and_leaves_is_no_success(house):
    await house.open()
    client = house.client()
    gate, verify = asyncio.get_running_loop().create_future(), house.store.verify

    async def slowly(*args):
        verified = await verify(*args)
        await gate
        return verified

    house.store.verify = slowly
    client.send(bind(1, ALICE, PASSWORD + house.next_code()), search(2))
    await house.until(lambda: len(house.directory.seen) >= 4)
    for _ in range(50):
        await asyncio.sleep(0)
    house.directory.served[-1].pipe.cut()
    gate.set_result(None)
    assert [ldap.read_result(frame).code for frame in await client.answers(2)] == [52, 50]
    assert client.state == "ANONYMOUS"


async def test_octets_that_come_while_the_code_is_verified_break_the_link(house):
    await house.open()
    for late in (search(3), b"\x30", result(1, ldap.BIND_REQUEST)):
        client = house.client()
        gate, verify = asyncio.get_running_loop().create_future(), type(house.store).verify

        async def slowly(*args, gate=gate, verify=verify):
            await gate
            return await verify(house.store, *args)

        house.store.verify = slowly
        links = len(house.directory.served) + 1
        client.send(bind(1, ALICE, PASSWORD + house.next_code()))
        await house.until(lambda links=links: len(house.directory.served) == links and ldap.SEARCH_REQUEST in tags(house.directory.served[-1])[1:])
        for _ in range(50):
            house.serve()
            await asyncio.sleep(0)
        house.directory.served[-1].send(late)
        gate.set_result(None)
        assert await client.code() == 52
        assert client.state == "ANONYMOUS"
        assert not house.links_open


async def test_a_success_is_answered_once_and_a_second_one_makes_the_link_unquiet(house):
    await house.open()
    client = house.client()
    assert await client.log_in() == 0
    (link,) = house.directory.served
    link.send(result(1, ldap.BIND_REQUEST))
    client.take()
    assert await client.log_in(message_id=2) == 0
    assert len(house.directory.served) == 2
    assert not link.pipe.open


async def test_two_clients_share_nothing(house):
    """Answers of one link never reach another client, whatever ids they bear."""
    await house.open()
    one, two = house.client(), house.client(port=50_001)
    assert await one.log_in() == 0
    assert await two.log_in(BOB) == 0
    first, second = house.directory.served
    first.send(entry(9, ALICE, a=[b"alice's"]))
    assert b"alice's" in one.came
    assert two.came == b""
    one.leave()
    assert not first.pipe.open
    assert second.pipe.open
    two.send(search(3))
    assert await two.code() == 0


async def test_a_link_that_begins_to_speak_before_the_bind_is_closed_and_not_left_behind(house):
    """One octet, while the store is asked: the link is no longer quiet, a fresh one is used, the old one is closed."""
    await house.open()
    client = house.client()
    assert await client.log_in() == 0
    (old,) = house.directory.served
    gate, recall = asyncio.get_running_loop().create_future(), house.store.recall

    async def slowly(*args):
        await gate
        return await recall(*args)

    house.store.recall = slowly
    client.send(bind(2, ALICE, PASSWORD + house.next_code()))
    old.send(b"\x30")
    gate.set_result(None)
    assert await client.code() == 0
    assert not old.pipe.open
    assert house.links_open == 1
