"""What the listening side keeps, waits for and lets through: producers, budgets, timeouts, the graceful stop."""

import asyncio
from dataclasses import replace

import pytest
from twisted.internet.address import IPv4Address, UNIXAddress
from world import (
    ALICE,
    PASSWORD,
    Client,
    Pipe,
    World,
    abandon,
    bind,
    controls,
    entry,
    extended,
    frames,
    root_dse,
    search,
    unbind,
)

from ldapmfa.core.session import Rules
from ldapmfa.errors import ConfigError
from ldapmfa.net.budget import Budget
from ldapmfa.net.ldap_front import LdapFront
from ldapmfa.wire import ldap

PROXIED = controls(b"2.16.840.1.113730.3.4.18")


def small(**options):
    return World(None, **options).assemble()


def last(client):
    return ldap.read_result(client.take()[-1])


# -- producers


def test_a_client_that_does_not_read_stops_the_directory_and_is_not_read():
    world = small()
    client, link = world.bound_client()
    client.pipe.producer.pauseProducing()
    assert client.pipe.paused
    assert link.pipe.paused
    client.pipe.producer.resumeProducing()
    assert not client.pipe.paused
    assert not link.pipe.paused


def test_a_directory_that_does_not_read_stops_the_client_alone():
    world = small()
    client, link = world.bound_client()
    link.pipe.producer.pauseProducing()
    assert client.pipe.paused
    assert not link.pipe.paused
    link.pipe.producer.resumeProducing()
    assert not client.pipe.paused


@pytest.mark.parametrize("first", ["client", "directory"])
def test_who_is_stopped_by_both_starts_when_both_are_over(first):
    world = small()
    client, link = world.bound_client()
    both = {"client": client.pipe.producer, "directory": link.pipe.producer}
    for producer in both.values():
        producer.pauseProducing()
    both.pop(first).resumeProducing()
    assert client.pipe.paused
    both.popitem()[1].resumeProducing()
    assert not client.pipe.paused


def test_a_link_made_while_the_client_does_not_read_is_paused_too():
    world = small()
    client = world.client()
    client.pipe.producer.pauseProducing()
    link = world.directory.serve(world.settings.servers[0])
    client.front._attach(link)
    assert world.directory.served[-1].pipe.paused
    client.pipe.producer.resumeProducing()
    assert not world.directory.served[-1].pipe.paused


def test_a_message_carried_to_its_end_waits_for_a_client_that_does_not_read():
    world = small()
    client, link = world.bound_client()
    link.send(entry(1, "cn=x", a=[b"x" * 500])[:100])
    client.send(bind(2, b"x", b"y", version=2))
    client.pipe.producer.pauseProducing()
    assert link.pipe.paused
    client.pipe.producer.resumeProducing()
    assert not link.pipe.paused


def test_the_directory_that_did_not_read_is_dropped_and_the_client_is_read_again():
    world = small()
    client, link = world.bound_client()
    link.pipe.producer.pauseProducing()
    client.send(bind(2, b"x", b"y", version=2))
    assert not link.pipe.open
    assert not client.pipe.paused


async def test_a_link_taken_for_a_new_bind_no_longer_pauses_the_client(house):
    """Its producer is taken off, and it is read, or its answer to the bind would never come."""
    await house.open()
    client = house.client()
    assert await client.log_in() == 0
    pipe = house.directory.served[-1].pipe
    client.pipe.producer.pauseProducing()
    client.send(bind(2, ALICE, PASSWORD + house.next_code()))
    assert pipe.producer is None
    assert not pipe.paused
    assert await client.code() == 0
    assert pipe.paused, "the client still does not read"
    assert len(house.directory.served) == 1


def test_A41_a_client_that_never_reads_is_stopped_with_a_few_answers_kept():
    """The transport says when it is full; nothing is read or relayed until it is empty again."""
    world = small()
    client, link = world.bound_client()
    pipe, full = client.pipe, 64 * 1024

    def write(data):
        pipe.written += data
        if len(pipe.written) > full and not pipe.paused:
            pipe.producer.pauseProducing()

    pipe.write = write
    sent = 0
    while not link.pipe.paused:
        link.send(entry(1, "cn=x", a=[b"x" * 1000]))
        sent += 1
    assert sent < 70
    assert pipe.paused
    assert len(pipe.written) < full + 2000


# -- budgets


def test_A41_one_connection_too_many_is_closed_and_never_heard():
    world = small(budget=Budget(connections=2))
    world.client(), world.client()
    third = world.client()
    assert (third.take()[0].id, third.pipe.open) == (0, False)
    assert len(world.clients) == 2
    assert world.logged[-1][1]["reason"] == "too many connections"
    # what came with its first segment, behind a PROXY header for instance, is delivered all the same
    third.front.dataReceived(root_dse(1) + bind(2, ALICE, PASSWORD + "123456"))
    assert not world.directory.served
    assert third.front._login is None
    assert third.front._opening is None
    assert world.budget.logins_used == 0
    assert world.budget.octets_used == 0


def test_A41_a_connection_that_ended_makes_room():
    world = small(budget=Budget(connections=1))
    world.client().leave()
    assert world.client().pipe.open


async def test_A41_one_login_too_many_is_busy_and_the_connection_survives(house):
    await house.open()
    house.budget.logins = 1
    house.directory.holds = lambda link, frame: True
    first, second = house.client(), house.client()
    first.send(bind(1, ALICE, PASSWORD + house.next_code()))
    second.send(bind(1, ALICE, PASSWORD + house.next_code()), search(2), search(3))
    busy, *late = second.take()
    assert ldap.read_result(busy).code == 51
    assert [ldap.read_result(frame).code for frame in late] == [50, 50]
    assert second.state == "ANONYMOUS"
    assert house.events[-1].reason == "too-many-logins"
    house.directory.release()
    await first.answers()
    await house.over()
    assert house.budget.logins_used == 0
    assert await second.log_in() == 0
    await house.over()
    assert house.budget.logins_used == 0


async def test_A41_a_bound_client_that_meets_the_limit_keeps_nothing_of_its_old_link(house):
    await house.open()
    client = house.client()
    assert await client.log_in() == 0
    house.budget.logins = 0
    client.send(bind(2, ALICE, PASSWORD + house.next_code()), search(3))
    assert [ldap.read_result(frame).code for frame in client.take()] == [51, 50]
    assert not house.links_open


def test_A41_octets_are_counted_for_all_clients_together_and_given_back():
    world = small(budget=Budget(octets=100_000))
    part = search(1, "x" * 50_000)[:-1]
    one, two, three = (world.client() for _ in range(3))
    one.send(part)
    assert world.budget.octets_used == len(part)
    two.send(part)
    assert last(two).code == 51
    assert not two.pipe.open
    assert world.budget.octets_used == len(part)
    three.send(search(1))  # whole: nothing of it is kept
    assert last(three).code == 50
    one.leave()
    assert world.budget.octets_used == 0
    assert three.pipe.open


async def test_A41_requests_held_behind_a_bind_count_against_the_budget(house):
    await house.open()
    house.directory.holds = lambda link, frame: True
    client = house.client()
    client.send(bind(1, ALICE, PASSWORD + house.next_code()), *(search(number) for number in range(2, 50)))
    held = sum(len(search(number)) for number in range(2, 50))
    assert house.budget.octets_used == held
    client.send(*(search(number) for number in range(50, 200)))
    busy = client.take()
    assert len(busy) == 198 - 100
    assert {ldap.read_result(frame).code for frame in busy} == {51}
    client.leave()
    await house.over()
    assert house.budget == Budget()


async def test_A41_requests_waiting_for_a_link_are_bounded_and_counted(house):
    """Before any bind: the directory can't be reached quickly, and the client sends what it may send."""
    await house.open()
    connecting = asyncio.get_running_loop().create_future()
    house.directory._connect_to = lambda server: connecting
    client = house.client()
    sent = 0
    client.send(root_dse(1))
    await asyncio.sleep(0)
    assert house.budget.octets_used == len(root_dse(1))
    while client.pipe.open and sent < 10_000:
        sent += 1
        client.send(root_dse(1), search(2))
    assert last(client).code == 51
    assert sent * len(root_dse(1)) <= house.rules.held_octets + 100
    assert house.budget.octets_used == 0


async def test_A41_nothing_is_begun_for_a_client_that_was_just_turned_away(house):
    """The commands behind the one that was too much: no link is opened, nobody is logged in, nothing is said."""
    await house.open()
    house.with_(rules=Rules(held_octets=100))
    connecting = asyncio.get_running_loop().create_future()
    house.directory._connect_to = lambda server: connecting
    client = house.client()
    client.pipe.loseConnection = lambda: None  # the client does not read the notice
    client.send(*[root_dse(1)] * 3, search(2), root_dse(3), search(4), bind(5, ALICE, PASSWORD + house.next_code()))
    assert client.take()[-1].id == 0
    assert client.front._login is None
    assert client.front._opening is None
    client.leave()
    connecting.set_result(house.directory.serve(house.settings.servers[0]))
    await house.over()
    assert not house.directory.served[0].received
    assert house.budget == Budget()


# -- time


def test_A41_who_does_not_bind_in_time_is_told_and_closed():
    world = small()
    client = world.client()
    world.clock.advance(119)
    assert client.pipe.open
    world.clock.advance(2)
    assert last(client).code == 52
    assert not client.pipe.open
    assert not world.clock.getDelayedCalls()


async def test_the_time_to_bind_ends_with_a_success_and_not_during_a_login(house):
    await house.open()
    house.with_(bind_timeout=5.0)
    client, bound = house.client(), house.client()
    assert await bound.log_in() == 0
    house.directory.holds = lambda link, frame: True
    client.send(bind(1, ALICE, PASSWORD + house.next_code()))
    await house.until(lambda: house.directory.held)
    house.clock.advance(6)
    assert client.pipe.open
    assert bound.pipe.open
    house.clock.advance(6)  # the directory's time is over, not the client's
    assert await client.code() == 52
    assert client.pipe.open
    house.clock.advance(6)
    assert last(client).code == 52
    assert not client.pipe.open
    assert bound.pipe.open


def test_A41_a_request_that_trickles_in_is_cut_off():
    world = small()
    client = world.client()
    for octet in search(1)[:-1]:
        client.send(bytes((octet,)))
        world.clock.advance(2)
    assert last(client).code == 52
    assert not client.pipe.open


def test_a_client_that_keeps_finishing_requests_is_not_cut_off():
    """Each segment ends in the middle of a request: the time is for one request, not for the stream."""
    world = small()
    client, link = world.bound_client()
    stream = b"".join(search(number) for number in range(1, 200))
    for start in range(0, len(stream), 500):
        client.send(stream[start : start + 500])
        world.clock.advance(10)
    assert client.pipe.open
    assert len(link.received) == 199


def test_A41_who_does_not_read_the_farewell_is_cut_off():
    world = small()
    client = world.client()
    client.pipe.loseConnection = lambda: None
    client.send(b"\x30\x80")
    assert last(client).code == 2
    world.clock.advance(11)
    assert client.pipe.aborted
    assert not world.clients


# -- idle, never reading, never secured


async def bound_for(house, **limits):
    """A client that has just logged in where these limits hold; its clock has not moved."""
    await house.open()
    house.with_(**limits)
    client = house.client()
    assert await client.log_in() == 0
    await house.over()
    return client


async def test_A41_a_bound_client_that_asks_for_nothing_is_taken_leave_of(house):
    client = await bound_for(house, idle_timeout=840.0)
    house.clock.advance(839)
    assert client.pipe.open
    house.clock.advance(1)
    notice = client.take()[-1]
    assert (notice.id, ldap.read_result(notice).code) == (0, 52)
    assert not client.pipe.open
    assert not house.links_open
    assert ("idle client taken leave of", {"client": "192.0.2.7:40000"}) in house.logged
    assert not house.clock.getDelayedCalls()


async def test_whatever_comes_from_either_side_puts_off_the_idle_timeout(house):
    client = await bound_for(house, idle_timeout=100.0)
    for number in range(2, 6):
        house.clock.advance(99)
        client.send(search(number))
        assert await client.code() == 0
    link = house.directory.served[-1]
    house.clock.advance(99)
    link.send(entry(9, "cn=x", a=[b"x"]))  # an announcement
    house.clock.advance(99)
    assert client.pipe.open
    house.clock.advance(1)
    assert not client.pipe.open


async def test_who_waits_for_an_answer_is_not_idle(house):
    """A search that takes long, or a persistent one: its time begins when it is answered."""
    client = await bound_for(house, idle_timeout=100.0)
    house.directory.holds = lambda link, frame: True
    client.send(search(2))
    for _ in range(10):
        house.clock.advance(100)
    assert client.pipe.open
    house.directory.release()
    assert await client.code() == 0
    house.clock.advance(99)
    assert client.pipe.open
    house.clock.advance(2)
    assert not client.pipe.open


async def test_an_abandoned_search_does_not_keep_an_idle_client(house):
    """Whether the directory owes its answer nobody can know."""
    client = await bound_for(house, idle_timeout=100.0)
    house.directory.holds = lambda link, frame: True
    client.send(search(2), abandon(3, 2))
    house.clock.advance(99)
    assert client.pipe.open
    house.clock.advance(2)
    assert not client.pipe.open


async def test_who_binds_again_is_watched_anew(house):
    client = await bound_for(house, idle_timeout=100.0)
    house.directory.holds = lambda link, frame: True
    client.send(bind(2, ALICE, PASSWORD + house.next_code()))
    await house.until(lambda: house.directory.held)
    house.clock.advance(100)  # it is nobody now, and its login's time is the directory's
    house.directory.release()
    await house.over()
    client.take()
    assert client.pipe.open
    assert await client.log_in(message_id=3) == 0
    house.clock.advance(99)
    assert client.pipe.open
    house.clock.advance(2)
    assert not client.pipe.open


async def test_without_an_idle_timeout_a_bound_client_stays(house):
    client = await bound_for(house, idle_timeout=0.0)
    house.clock.advance(1e6)
    assert client.pipe.open


def test_A41_who_does_not_read_what_it_is_sent_is_cut_off():
    world = small().with_(write_timeout=60.0)
    client, link = world.bound_client()
    link.send(entry(1, "cn=x"))
    client.pipe.producer.pauseProducing()
    world.clock.advance(59)
    client.pipe.producer.resumeProducing()  # it was only slow
    world.clock.advance(10)
    client.pipe.producer.pauseProducing()
    world.clock.advance(59)
    assert client.pipe.open
    world.clock.advance(1)
    assert client.pipe.aborted
    assert not link.pipe.open
    assert world.logged[-1][1]["reason"] == "does not read what it is sent"
    assert not world.clients


def test_without_a_write_timeout_nobody_must_read():
    world = small()
    client, _ = world.bound_client()
    client.pipe.producer.pauseProducing()
    world.clock.advance(1e6)
    assert client.pipe.open


def test_A41_who_agrees_on_tls_and_does_not_begin_it_is_cut_off():
    world = small(rules=Rules(starttls=True))
    client = world.client()
    client.pipe.shakes_hands = False
    client.send(extended(1, ldap.OID_START_TLS))
    world.clock.advance(9)
    assert client.pipe.open
    world.clock.advance(1)
    assert client.pipe.aborted
    assert world.logged[-1][1]["reason"] == "no TLS handshake in time"
    assert not world.clock.getDelayedCalls()


def test_who_has_begun_tls_in_time_stays():
    world = small(rules=Rules(starttls=True))
    client = world.client()
    client.send(extended(1, ldap.OID_START_TLS))
    world.clock.advance(119)
    assert client.pipe.open


# -- the directory can't be reached


async def test_a_client_waiting_for_a_link_is_told_that_there_is_none(house):
    await house.open()
    house.directory.down = True
    client = house.client()
    client.send(root_dse(1))
    await house.over()
    assert last(client).code == 52
    assert not client.pipe.open


@pytest.mark.parametrize("broken", [ConfigError(["the CA file is gone"]), ValueError("a bug")])
async def test_whatever_breaks_while_a_link_is_opened_the_client_is_told(house, broken):
    await house.open()

    async def connect(server):
        raise broken

    house.directory._connect_to = connect
    client = house.client()
    client.send(root_dse(1))
    await house.over()
    assert last(client).code == 52
    assert not client.pipe.open
    assert "a bug" not in str(house.logged)


async def test_an_anonymous_client_outlives_a_link_that_owes_nothing(house):
    await house.open()
    client = house.client()
    client.send(root_dse(1))
    assert await client.code(2) == 0
    house.directory.served[-1].pipe.cut()
    assert client.pipe.open
    client.send(root_dse(2))
    assert await client.code(2) == 0
    house.directory.holds = lambda link, frame: True
    client.send(root_dse(3))
    house.directory.served[-1].pipe.cut()
    assert last(client).code == 52
    assert not client.pipe.open


# -- the stop


def test_a_stop_takes_leave_of_clients_at_rest():
    world = small()
    client, link = world.bound_client()
    other = world.client()
    for one in (client, other):
        one.front.stop()
        assert last(one).code == 52
        assert not one.pipe.open
    assert not link.pipe.open
    assert not world.clients


def test_a_stop_waits_for_the_message_under_way():
    world = small()
    client, link = world.bound_client()
    message = entry(1, "cn=x", a=[b"x" * 500])
    link.send(message[:100])
    client.front.stop()
    assert client.pipe.open
    link.send(message[100:] + message)
    one, notice = client.take()
    assert one.raw == message
    assert (notice.id, ldap.read_result(notice).code) == (0, 52)
    assert not client.pipe.open


@pytest.mark.parametrize(("code", "answered"), [("right", 0), ("wrong", 49)])
async def test_a_stop_lets_a_pending_bind_be_answered(house, code, answered):
    await house.open()
    house.directory.holds = lambda link, frame: True
    client = house.client()
    client.send(bind(1, ALICE, PASSWORD + (house.next_code() if code == "right" else "000000")), search(2))
    await house.until(lambda: house.directory.held)
    client.front.stop()
    client.front.stop()
    assert client.pipe.open
    house.directory.release()
    await house.idle()
    house.clock.advance(0.3)
    await house.over()
    answer, notice = client.take()
    assert ldap.read_result(answer).code == answered
    assert (notice.id, ldap.read_result(notice).code) == (0, 52)
    assert not client.pipe.open
    assert not house.links_open
    assert (2, ldap.SEARCH_REQUEST) not in [(frame.id, frame.tag) for frame in house.directory.seen]


def test_abort_says_nothing():
    world = small()
    client, link = world.bound_client()
    client.front.abort()
    assert client.came == b""
    assert not link.pipe.open


# -- who is there


@pytest.mark.parametrize(
    ("peer", "label"),
    [
        (UNIXAddress(b"/run/x"), "unix"),
        (object(), "unknown"),
        (IPv4Address("TCP", "192.0.2.1", 7), "192.0.2.1:7"),
        (IPv4Address("TCP", "::ffff:192.0.2.1", 7), "192.0.2.1:7"),
        (IPv4Address("TCP", "2001:db8::1", 7), "[2001:db8::1]:7"),
    ],
)
def test_what_a_client_is_called(peer, label):
    world = small()
    front = LdapFront(world.listener)
    pipe = Pipe(front, peer)
    front.makeConnection(pipe)
    assert front._client == label
    Client(world, pipe, front).send(unbind(1))
    assert not pipe.open


async def test_a_bug_in_a_login_closes_client_and_link(house):
    """The record can't be written, and the log is broken as well: nobody hangs, nothing stays bound."""
    await house.open()

    def broken(*_args, **_kwargs):
        raise OSError("no room on the device")

    house.with_(doorway=replace(house.listener.doorway, record=broken))
    client = house.client()
    client.send(bind(1, ALICE, PASSWORD + house.next_code()))
    await house.until(lambda: not client.pipe.open)
    await house.over()
    assert client.pipe.aborted
    assert frames(client.came) == []
    assert not house.links_open
    assert house.budget == Budget()
