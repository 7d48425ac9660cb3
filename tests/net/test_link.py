"""One link to a directory: conversing, relaying, quiet or not, and how it ends."""

import asyncio

import pytest
from twisted.internet.task import Clock
from world import ALICE, Pipe, entry, frames, result, search

from ldapmfa.net.link import Link, LinkLost, Server
from ldapmfa.wire import ber, ldap

ROOT = ldap.search_request(b"", ("objectClass",))


class Sink:
    def __init__(self):
        self.came = []
        self.lost = 0

    def answers_came(self, data, boundary):
        self.came.append((data, boundary))

    def link_lost(self):
        self.lost += 1


class Wire:
    """A link with a clock and a transport of its own."""

    def __init__(self):
        self.clock = Clock()
        ids = iter(range(100, 200))
        self.link = Link(Server("directory.test", 389, ldaps=False), self.clock, lambda: next(ids), 10.0)
        self.pipe = Pipe(self.link)
        self.link.makeConnection(self.pipe)

    def ask(self, operation=ROOT, **options):
        return asyncio.ensure_future(self.link.ask(operation, **options))

    @property
    def sent(self):
        return frames(bytes(self.pipe.written))


async def turn(times=3):
    for _ in range(times):
        await asyncio.sleep(0)


async def test_a_question_has_one_answer():
    wire = Wire()
    asked = wire.ask()
    await turn()
    assert [(frame.id, frame.tag) for frame in wire.sent] == [(100, ldap.SEARCH_REQUEST)]
    answer = entry(100, ALICE, cn=[b"x"]) + ldap.message(100, ber.tlv(ldap.SEARCH_REFERENCE, ber.tlv(4, b"ldap://x"))) + result(100, ldap.SEARCH_REQUEST)
    for octet in answer:
        wire.link.dataReceived(bytes((octet,)))
    final, entries = await asked
    assert final.tag == ldap.SEARCH_DONE
    assert [found.dn for found in entries] == [ALICE]
    wire.clock.advance(100)
    assert not wire.clock.getDelayedCalls()
    assert wire.link.quiet


async def test_only_one_question_at_a_time_and_none_beside_a_sink():
    wire = Wire()
    asked = wire.ask()
    await turn()
    with pytest.raises(LinkLost):
        await wire.link.ask(ROOT)
    wire.link.dataReceived(result(100, ldap.SEARCH_REQUEST))
    await asked
    wire.link.attach(Sink())
    with pytest.raises(LinkLost):
        await wire.link.ask(ROOT)
    assert len(wire.sent) == 1


@pytest.mark.parametrize("before", [b"", entry(100, ALICE, cn=[b"x"]), b"\x30", entry(100, ALICE)[:9]])
async def test_a_link_lost_says_whether_anything_had_come(before):
    wire = Wire()
    asked = wire.ask()
    await turn()
    if before:
        wire.link.dataReceived(before)
    wire.pipe.cut()
    with pytest.raises(LinkLost) as lost:
        await asked
    assert lost.value.untouched is (before == b"")
    with pytest.raises(LinkLost) as lost:
        await wire.link.ask(ROOT)
    assert lost.value.untouched


async def test_what_came_for_an_earlier_question_does_not_count():
    wire = Wire()
    asked = wire.ask()
    await turn()
    wire.link.dataReceived(result(100, ldap.SEARCH_REQUEST))
    await asked
    asked = wire.ask()
    await turn()
    wire.pipe.cut()
    with pytest.raises(LinkLost) as lost:
        await asked
    assert lost.value.untouched


@pytest.mark.parametrize(
    "unrelated",
    [
        result(99, ldap.SEARCH_REQUEST),
        result(101, ldap.SEARCH_REQUEST),
        result(0, ldap.EXTENDED_REQUEST),
        result(100, ldap.EXTENDED_REQUEST),
        result(100, ldap.BIND_REQUEST),
        ldap.message(100, ber.tlv(ldap.INTERMEDIATE_RESPONSE)),
        entry(99, ALICE),
        ldap.message(100, ber.tlv(ldap.SEARCH_ENTRY, b"\x04\x7f")),
        b"\x31\x00",
        b"\x30\x80",
        b"\x30\x84\x7f\xff\xff\xff",
    ],
)
async def test_what_does_not_answer_breaks_the_link(unrelated):
    """And it is touched: the question is not put a second time elsewhere (A18, A49)."""
    wire = Wire()
    asked = wire.ask()
    await turn()
    wire.link.dataReceived(unrelated + result(100, ldap.SEARCH_REQUEST))
    with pytest.raises(LinkLost) as lost:
        await asked
    assert not lost.value.untouched
    assert wire.pipe.aborted
    assert not wire.link.alive


async def test_what_nobody_asked_for_breaks_the_link():
    wire = Wire()
    wire.link.dataReceived(result(100, ldap.SEARCH_REQUEST))
    assert wire.pipe.aborted
    with pytest.raises(LinkLost, match="nobody asked"):
        wire.link.attach(Sink())


@pytest.mark.parametrize("late", [b"\x30", result(100, ldap.SEARCH_REQUEST)])
async def test_what_follows_an_answer_in_its_segment_breaks_the_link(late):
    wire = Wire()
    asked = wire.ask()
    await turn()
    wire.link.dataReceived(result(100, ldap.SEARCH_REQUEST) + late)
    await asked
    with pytest.raises(LinkLost):
        wire.link.attach(Sink())
    assert wire.pipe.aborted
    assert not wire.link.quiet


async def test_a_directory_that_does_not_answer_in_time_is_given_up():
    wire = Wire()
    asked = wire.ask()
    await turn()
    wire.clock.advance(9.9)
    wire.link.dataReceived(entry(100, ALICE))
    wire.clock.advance(0.2)
    with pytest.raises(LinkLost, match="in time"):
        await asked
    assert wire.pipe.aborted
    assert not wire.clock.getDelayedCalls()


async def test_a_question_that_is_cancelled_leaves_nothing_behind():
    wire = Wire()
    asked = wire.ask()
    await turn()
    asked.cancel()
    await turn()
    wire.link.dataReceived(result(100, ldap.SEARCH_REQUEST))
    assert wire.link.alive
    wire.clock.advance(100)
    assert wire.link.alive
    assert not wire.clock.getDelayedCalls()
    wire.link.close()


async def test_closing_while_a_question_is_open_ends_it():
    wire = Wire()
    asked = wire.ask()
    await turn()
    wire.link.close()
    wire.link.close()
    with pytest.raises(LinkLost):
        await asked
    assert wire.sent[-1].tag == ldap.UNBIND_REQUEST
    assert not wire.clock.getDelayedCalls()


def test_a_directory_that_does_not_read_our_farewell_keeps_no_socket():
    wire = Wire()
    wire.pipe.loseConnection = lambda: None
    wire.link.close()
    wire.clock.advance(5.1)
    assert wire.pipe.aborted


def test_a_link_that_is_gone_is_not_aborted_again():
    """TLS transports of Twisted's fail when they are."""
    wire = Wire()
    wire.link.close()
    assert not wire.pipe.open
    wire.clock.advance(60)
    assert not wire.pipe.aborted


def test_a_relaying_link_is_quiet_when_every_request_was_answered():
    wire = Wire()
    sink = Sink()
    wire.link.attach(sink)
    assert wire.link.quiet
    wire.link.relay(search(1) + search(2), 2, unsure=False)
    assert not wire.link.quiet
    assert wire.link.owes
    wire.link.dataReceived(entry(1, ALICE))
    wire.link.dataReceived(result(1, ldap.SEARCH_REQUEST))
    assert not wire.link.quiet
    wire.link.dataReceived(result(2, ldap.SEARCH_REQUEST) + b"\x30")
    assert not wire.link.quiet
    assert not wire.link.at_boundary
    wire.link.dataReceived(result(3, ldap.SEARCH_REQUEST)[1:])
    assert not wire.link.quiet, "one answer more than questions"


@pytest.mark.parametrize("way", ["abandon", "notice", "lost"])
def test_a_link_whose_end_is_not_known_is_never_quiet_again(way):
    wire = Wire()
    wire.link.attach(Sink())
    if way == "abandon":
        wire.link.relay(b"\x30\x06\x02\x01\x02\x50\x01\x01", 0, unsure=True)
    elif way == "notice":
        wire.link.dataReceived(ldap.notice_of_disconnection(52, ""))
        assert wire.link.noticed
    else:
        wire.pipe.cut()
    assert not wire.link.quiet


def test_a_sink_is_told_once_and_nothing_comes_after():
    wire = Wire()
    sink = Sink()
    wire.link.attach(sink)
    wire.pipe.cut()
    wire.link.dataReceived(entry(1, ALICE))
    wire.link.connectionLost()
    assert (sink.lost, sink.came) == (1, [])


def test_a_link_that_we_close_tells_its_sink_nothing():
    wire = Wire()
    sink = Sink()
    wire.link.attach(sink)
    wire.link.close()
    wire.link.dataReceived(entry(1, ALICE))
    assert (sink.lost, sink.came) == (0, [])


def test_a_relayed_message_is_not_decoded_and_not_kept():
    wire = Wire()
    sink = Sink()
    wire.link.attach(sink)
    stream = entry(1, ALICE, a=[b"x" * 1000])
    wire.link.dataReceived(stream[:500])
    wire.link.dataReceived(stream[500:])
    assert sink.came == [(stream[:500], 0), (stream[500:], len(stream) - 500)]
    assert not wire.link._buffer


async def test_A38_what_comes_in_clear_text_behind_the_agreement_to_start_tls_is_an_injection():
    for late in (b"\x30", result(7, ldap.BIND_REQUEST), b"\x16\x03\x01"):
        wire = Wire()
        asked = wire.ask(ldap.extended_request(ldap.OID_START_TLS))
        await turn()
        wire.link.dataReceived(result(100, ldap.EXTENDED_REQUEST) + late)
        await asked
        with pytest.raises(LinkLost):
            wire.link.start_tls(object())
        assert wire.pipe.tls is None
        assert wire.pipe.aborted
    wire = Wire()
    asked = wire.ask(ldap.extended_request(ldap.OID_START_TLS))
    await turn()
    wire.link.dataReceived(result(100, ldap.EXTENDED_REQUEST))
    await asked
    context = object()
    wire.link.start_tls(context)
    assert wire.pipe.tls is context


async def test_tls_is_waited_for_whenever_it_comes():
    for early in (True, False):
        wire = Wire()
        if early:
            wire.link.handshakeCompleted()
        waiting = asyncio.ensure_future(wire.link.secured())
        await turn()
        if not early:
            assert not waiting.done()
            wire.link.handshakeCompleted()
        await turn()
        assert waiting.done()
        await waiting
        assert not wire.clock.getDelayedCalls()


@pytest.mark.parametrize("way", ["lost", "late", "closed"])
async def test_tls_that_does_not_come_about_is_no_link(way):
    wire = Wire()
    waiting = asyncio.ensure_future(wire.link.secured())
    await turn()
    if way == "lost":
        wire.pipe.cut()
    elif way == "closed":
        wire.link.close()
    else:
        wire.clock.advance(10.1)
    with pytest.raises(LinkLost):
        await waiting
    with pytest.raises(LinkLost):
        await wire.link.secured()
    assert not wire.link.alive
