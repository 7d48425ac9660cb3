"""Attacks on the parsers, by the numbers of facts/attacks.md: the part that needs no running proxy."""

from __future__ import annotations

import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from playbook import (
    Answer,
    Notice,
    Playbook,
    answer,
    bind,
    control,
    entry,
    extended,
    message,
    number,
    read_root,
    search,
    start_tls,
    tlv,
)

from ldapmfa.core.session import (
    CancelLogin,
    Close,
    DropDirectory,
    LoginEnded,
    Relay,
    Report,
    Rules,
    Session,
    StartLogin,
    State,
)
from ldapmfa.wire import dn, ldap
from ldapmfa.wire.ber import BerError
from ldapmfa.wire.ldap import Answers

FAST = settings(deadline=None, max_examples=150)
YES = answer(1, 0x61, 0)
TURNED_AWAY = (Report, Notice(ldap.PROTOCOL_ERROR), DropDirectory(), Close())


def session_in(state):
    session = Session(Rules())
    if state is not State.ANONYMOUS:
        session.receive(bind(1, "cn=ann", "secret123456"))
    if state is State.BOUND:
        session.handle(LoginEnded(accepted=True, answer=YES))
    assert session.state is state
    return session


ALIVE = [State.ANONYMOUS, State.BINDING, State.BOUND]


def turned_away(state):
    return (CancelLogin(), *TURNED_AWAY) if state is State.BINDING else TURNED_AWAY


# -- A41


@pytest.mark.parametrize("state", ALIVE)
@pytest.mark.parametrize("header", [b"\x30\x84\x7f\xff\xff\xff", b"\x30\x84\x80\0\0\0", b"\x30\x84\xff\xff\xff\xff", b"\x30\x85", b"\x30\x88" + b"\xff" * 8, b"\x30\x80", b"\x30\xff"])
def test_A41_an_absurd_length_ends_the_session_at_its_header(state, header):
    session = session_in(state)
    assert Playbook(session) >> header << turned_away(state)
    assert session.buffered == 0


@pytest.mark.parametrize("state", ALIVE)
def test_A41_a_frame_is_kept_up_to_the_limit_only(state):
    rules = Rules()
    limit = rules.frame_after_bind if state is State.BOUND else rules.frame_before_bind
    session = session_in(state)
    session.receive(b"\x30\x84" + (limit - 6).to_bytes(4, "big") + b"\x02\x01\x01\x63")
    for _ in range(limit // 1000 - 1):
        assert session.receive(bytes(1000)) == []
    assert session.buffered < limit
    assert Playbook(session_in(state)) >> b"\x30\x84" + (limit - 5).to_bytes(4, "big") << turned_away(state)


def nested(depth):
    """Elements in elements, each with its right length, around nothing."""
    lengths, size = [], 0
    for _ in range(depth):
        head = bytes([0x30, 0x84]) + size.to_bytes(4, "big")
        lengths.append(head)
        size += 6
    return b"".join(reversed(lengths))


def test_A41_nesting_costs_nothing():
    """100,000 levels: nothing here recurses, in whatever field they stand."""
    deep = nested(100_000)
    large = Rules(frame_before_bind=1 << 20, frame_after_bind=1 << 20)
    requests = [
        search(2, "", scope=0, where=deep),
        search(2, "", scope=0, attributes=[deep]),
        message(2, tlv(0x63, deep)),
        bind(2, deep, "x"),
        bind(2, "cn=ann", deep, method=0xA3),
        message(2, tlv(0x60, deep)),
        message(2, tlv(0x77, deep)),
        extended(2, "1.2.3", deep),
        search(2, "dc=x", control("1.2.3", value=deep)),
        tlv(0x30, number(2), tlv(0x42), deep),
        tlv(0x30, number(2), tlv(0x42), tlv(0xA0, deep)),
        message(2, deep),
        deep,
    ]
    began = time.perf_counter()
    for state in ALIVE:
        for request in requests:
            session = Session(large)
            if state is not State.ANONYMOUS:
                session.receive(bind(1, "cn=ann", "secret123456"))
            if state is State.BOUND:
                session.handle(LoginEnded(accepted=True, answer=YES))
            session.receive(request)
    assert time.perf_counter() - began < 5
    assert Playbook(session_in(State.ANONYMOUS)) >> deep << TURNED_AWAY


def test_A41_what_is_held_behind_a_bind_is_bounded():
    rules = Rules(held_requests=100, held_octets=256 * 1024)
    for request in (search(2), search(2, "x" * 10_000)):
        session = session_in(State.BINDING)
        refused = 0
        for _ in range(1000):
            for command in session.receive(request):
                assert Answer(2, 0x63, ldap.BUSY).matches(command)
                refused += 1
        assert session.buffered <= rules.held_octets
        assert refused >= 900
        assert session.state is State.BINDING


def test_A41_small_frames_do_not_add_up():
    session = session_in(State.BOUND)
    for request in [search(2)] * 1000:
        assert session.receive(request[:-1]) == []
        assert session.receive(request[-1:]) == [Relay(request, 1)]
    assert session.buffered == 0


def test_A41_byte_by_byte_is_not_quadratic():
    """What has come is not read again with each octet."""
    request = search(2, b"x" * 60_000)
    session = session_in(State.ANONYMOUS)
    began = time.perf_counter()
    for octet in request[:-1]:
        session.receive(bytes((octet,)))
    assert Playbook(session) >> request[-1:] << Answer(2, 0x63, 50)
    assert time.perf_counter() - began < 5


def test_A41_a_stream_of_answers_is_not_kept():
    """Entries go by without end: hopped, not kept."""
    block = b"".join(entry(number, "cn=x,dc=y", cn=[b"x" * 50]) for number in range(1, 100))
    answers = Answers()
    tracemalloc.start()
    try:
        for _ in range(300):
            assert answers.feed(block) == len(block)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000
    assert answers.at_boundary
    assert answers.finals == 0


@pytest.mark.parametrize(
    "name",
    [
        "a" + "\u0301" * 16_000 + "\u0327" * 16_000,  # sorted by NFKC in quadratic time
        "cn=a" + "\u0345\u0315\u0301\u0327" * 8000,
        "cn=a+" * 13_000 + "cn=a",
        "=" * 65_000,
        " " * 65_000 + "=",
        "cn=#" + "0" * 65_000,
        'cn="' + "a" * 65_000,
        "\ufdfa" * 21_000,
    ],
)
def test_A41_a_name_costs_next_to_nothing(name):
    """One bind must not stop the others: a name longer than any is refused before anything looks into it."""
    began = time.perf_counter()
    refused, *_, answered = Session(Rules()).receive(bind(1, name, "secret123456"))
    assert (refused.reason, refused.code) == ("malformed", ldap.PROTOCOL_ERROR)
    assert Answer(1, 0x60, ldap.PROTOCOL_ERROR).matches(answered)
    octets = name.encode()[: ldap.LONGEST_NAME].decode(errors="ignore")
    [started] = Session(Rules()).receive(bind(1, octets, "secret123456"))
    assert isinstance(started, StartLogin)
    dn.normalise_name(octets)
    assert time.perf_counter() - began < 1


# -- A42


def test_A42_intermediate_responses_and_unknown_tags_are_followed():
    """They are relayed like the rest: counted as no final answer, or as one, and never the end of the stream."""
    answers = Answers()
    for octets, finals in (
        (message(5, tlv(0x79, tlv(0x80, b"1.3.6.1.4.1.4203.1.9.1.4"))), 0),
        (entry(5, "cn=x"), 0),
        (message(5, tlv(0x73, tlv(0x04, b"ldap://other"))), 0),
        (answer(5, 0x65), 1),
        (message(6, tlv(0x7E, b"?")), 2),
        (message(7, tlv(0x42)), 3),
    ):
        assert answers.feed(octets) == len(octets)
        assert answers.finals == finals
        assert not answers.notice


@pytest.mark.parametrize("split", [0, 1, 5, 6, 8, 20])
def test_A42_an_unsolicited_notice_is_noticed(split):
    notice = answer(0, 0x78, 52, "shutting down", tlv(0x8A, b"1.3.6.1.4.1.1466.20036"))
    answers = Answers()
    stream = entry(5, "cn=x") + notice
    cut = len(stream) - len(notice) + split
    answers.feed(stream[:cut])
    answers.feed(stream[cut:])
    assert answers.notice
    assert answers.finals == 0
    assert answers.at_boundary


# -- A47


@pytest.mark.parametrize(
    "octets",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"\x80\x2e\x01\x00\x02",  # SSL 2
        b"SSH-2.0-x\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c",
        b"\x03\x00\x00\x13\x0e\xe0",  # RDP
        b"\x00\x00\x00\x85\xffSMB",
        b"\0",
        b"\x31",
        b"0 HTTP",
        b"0\x0aHTTP/1.1 x",
    ],
)
@pytest.mark.parametrize("tls", [True, False])
def test_A47_another_protocol_is_turned_away_with_its_first_octets(octets, tls):
    reported = []
    for parts in ([octets], [octets[pos : pos + 1] for pos in range(len(octets))]):
        session = Session(Rules(), tls=tls)
        commands = [command for part in parts for command in session.receive(part)]
        report, notice, *rest = commands
        assert isinstance(report, Report)
        assert report.reason.startswith("Not LDAP: ")
        assert Notice(ldap.PROTOCOL_ERROR).matches(notice)
        assert rest == [DropDirectory(), Close()]
        assert report.reason.isascii()
        assert report.reason.isprintable()
        reported.append(report.reason)
    assert reported[0] == reported[1]
    if octets[0] != 0x30:
        assert Playbook(Session(Rules())) >> octets[:1] << TURNED_AWAY


# -- A49, the part of the stream


def test_A49_outstanding_answers_are_counted():
    """What the shell needs to know whether a link is quiet: requests relayed, and final answers seen."""
    session = session_in(State.BOUND)
    asked = [command for command in session.receive(search(2) + extended(3, "1.3.6.1.4.1.4203.1.11.3") + read_root(4)) if isinstance(command, Relay)]
    assert sum(command.answers for command in asked) == 3
    answers = Answers()
    answers.feed(entry(2, "cn=forged") + answer(2, 0x65) + answer(3, 0x78) + entry(4, "") + answer(4, 0x65)[:5])
    assert answers.finals == 2
    answers.feed(answer(4, 0x65)[5:])
    assert answers.finals == 3


def test_A49_an_abandon_makes_it_unknown():
    session = session_in(State.BOUND)
    [command] = session.receive(message(3, number(2, 0x50)))
    assert command.unsure


def test_A49_a_stream_that_hides_an_answer_in_another_is_refused():
    """A message too short for its operation would let the next one be counted as its own."""
    for hidden in (b"\x30\x03\x02\x01\x01", b"\x30\x04\x02\x01\x01\x65", b"\x30\x00", b"\x30\x02\x02\x00"):
        for cut in range(1, len(hidden) + 1):
            answers = Answers()
            with pytest.raises(BerError):
                assert [answers.feed(part) for part in (hidden[:cut], hidden[cut:] + answer(5, 0x65))] == []


# -- any octets at all


@FAST
@given(st.lists(st.one_of(st.binary(max_size=30), st.sampled_from([search(2), bind(3, "cn=ann", "secret123456"), start_tls(4), b"\x30", b"\x30\x84\0\0"])), max_size=10), st.sampled_from(ALIVE))
def test_A41_any_octets_are_answered_held_relayed_or_the_end(parts, state):
    session = session_in(state)
    for part in parts:
        commands = session.receive(part)
        if Close() in commands:
            assert session.state is State.CLOSED
            assert session.receive(search(2)) == []
            return
        if session.state is State.BINDING:
            session.handle(LoginEnded(accepted=True, answer=YES))
        assert session.buffered <= Rules().frame_after_bind + Rules().held_octets
