"""Another configuration takes the place of one: what becomes of clients, of their logins, of their links."""

from dataclasses import replace

import pytest
from twisted.internet.address import IPv4Address
from world import ALICE, PASSWORD, Pipe, ScriptedDirectory, bind, extended, frames, root_dse, search

from ldapmfa.core.rules import Rule
from ldapmfa.core.session import Rules
from ldapmfa.net.ldap_front import LdapFront
from ldapmfa.wire import ldap


def another(house, **changes):
    """The listener that comes after; nobody is told yet."""
    return replace(house.listener, successors=[], **changes)


def refusing(house):
    return replace(house.policy, rules=(Rule(name="nobody", action="refuse", directory="default"),))


def succeed(house, listener):
    house.listener.successors.append(listener)
    for client in tuple(house.clients):
        client.succeed(listener)


async def test_A44_a_login_under_way_is_decided_by_what_held_when_it_came_and_the_next_by_the_new(house):
    await house.open()
    client = house.client()
    house.directory.holds = lambda _link, frame: frame.tag == ldap.BIND_REQUEST
    client.send(bind(1, ALICE, PASSWORD + house.next_code()))
    await house.until(lambda: house.directory.held)
    succeed(house, another(house, policy=refusing(house)))
    house.directory.release()
    assert await client.code() == 0
    assert house.events[-1].reason == "code"
    client.send(bind(2, ALICE, PASSWORD + "000000"))
    assert await client.refused() == 49
    assert house.events[-1].reason == "rule"


async def test_A44_a_block_holds_for_a_login_that_was_under_way_in_a_reload(house):
    await house.open()
    first = house.client()
    assert await first.log_in() == 0
    account = house.events[-1].account
    client = house.client()
    house.directory.holds = lambda _link, frame: frame.tag == ldap.BIND_REQUEST
    client.send(bind(1, ALICE, PASSWORD + house.next_code()))
    await house.until(lambda: house.directory.held)
    succeed(house, another(house))
    house.cuts.cut({account}, house.clients)
    house.directory.release()
    assert await client.refused() == 49
    assert house.events[-1].reason == "blocked"


async def test_a_link_of_the_old_directory_verifies_no_password_for_the_new_one(house):
    await house.open()
    client = house.client()
    assert await client.log_in() == 0
    old = house.directory
    [served] = [one for one in old.served if one.pipe.open]
    house.directory = ScriptedDirectory(house.settings, house.clock)
    house.directory.uuids = old.uuids
    house.directory.passwords = dict.fromkeys(old.passwords, b"another")
    succeed(house, another(house, directory=house.directory))
    # bound, it goes on where it was
    client.send(search(2))
    served.serve()
    assert await client.code() == 0
    binds = len(old.binds())
    house.advance(30)
    client.send(bind(3, ALICE, PASSWORD + house.next_code()))
    assert await client.refused() == 49
    assert len(old.binds()) == binds
    assert [name for name, _ in house.directory.binds()] == [ALICE]
    served.serve()
    assert served.given_up


async def test_who_connected_to_a_listener_that_has_a_successor_goes_by_that(house):
    """A client may still have been sending its PROXY header, or its protocol was made just before."""
    await house.open()
    late = LdapFront(house.listener)
    new = another(house, policy=refusing(house))
    newest = another(house)
    house.listener.successors.append(new)
    new.successors.append(newest)
    late.makeConnection(Pipe(late, IPv4Address("TCP", "192.0.2.7", 40_000)))
    assert late.listener is newest


async def test_clients_of_a_listener_that_is_gone_are_taken_leave_of(house):
    await house.open()
    client = house.client()
    client.send(root_dse(1))
    assert await client.code(2) == 0
    late = LdapFront(house.listener)
    succeed(house, None)
    [notice] = await client.answers()
    assert (notice.id, ldap.read_result(notice).code) == (0, ldap.UNAVAILABLE)
    assert not client.pipe.open
    pipe = Pipe(late)
    late.makeConnection(pipe)
    assert pipe.aborted


# -- what a connection's beginning was judged by


async def test_A39_clear_text_behind_a_late_header_is_no_tls_because_the_listener_has_it_now(house):
    """Its PROXY header was not whole when the listener became LDAPS: what comes behind it is not encrypted."""
    await house.open()
    late = LdapFront(house.listener)
    house.listener.successors.append(another(house, encrypted=True, rules=Rules(tls_required=True)))
    pipe = Pipe(late, IPv4Address("TCP", "192.0.2.7", 40_000))
    late.makeConnection(pipe)
    late.dataReceived(bind(1, ALICE, PASSWORD + house.next_code()))
    house.serve()
    await house.idle()
    assert [ldap.read_result(frame).code for frame in frames(bytes(pipe.written))] in ([], [ldap.CONFIDENTIALITY_REQUIRED])
    assert house.directory.binds() == []


@pytest.mark.parametrize("under_way", [False, True])
async def test_A51_whose_listener_takes_clients_in_otherwise_now_is_taken_leave_of(house, under_way):
    """It showed no certificate, or came by a header of a balancer that is trusted no more."""
    await house.open()
    client = house.client()
    if under_way:
        house.directory.holds = lambda _link, frame: frame.tag == ldap.BIND_REQUEST
        client.send(bind(1, ALICE, PASSWORD + house.next_code()))
        await house.until(lambda: house.directory.held)
    else:
        assert await client.log_in() == 0
    succeed(house, another(house, entrance=("ldaps", "another authority")))
    house.directory.release()
    last = (await client.answers(1 + under_way))[-1]
    assert (last.id, ldap.read_result(last).code) == (0, ldap.UNAVAILABLE)
    assert not client.pipe.open
    late = LdapFront(house.listener)
    pipe = Pipe(late)
    late.makeConnection(pipe)
    assert pipe.aborted


async def test_A39_who_is_there_in_clear_text_is_taken_leave_of_where_tls_is_demanded_now(house):
    await house.open()
    house.with_(rules=Rules(starttls=True))
    plain, encrypted = house.client(), house.client()
    assert await plain.log_in() == 0
    encrypted.send(extended(1, ldap.OID_START_TLS))
    assert await encrypted.code() == 0
    succeed(house, another(house, rules=Rules(starttls=True, tls_required=True)))
    [notice] = await plain.answers()
    assert notice.id == 0
    assert not plain.pipe.open
    house.advance(30)
    assert await encrypted.log_in(message_id=2) == 0


# -- times


async def test_an_idle_timeout_that_is_lifted_or_set_holds_for_who_is_there(house):
    await house.open()
    house.with_(idle_timeout=100.0)
    client = house.client()
    assert await client.log_in() == 0
    succeed(house, another(house, idle_timeout=0.0))
    house.advance(1000)
    assert client.pipe.open
    latest = house.listener.successors[-1]
    client.front.succeed(replace(latest, successors=[], idle_timeout=50.0))
    house.advance(40)
    assert client.pipe.open
    house.advance(20)
    assert not client.pipe.open
