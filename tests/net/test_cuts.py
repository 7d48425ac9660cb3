"""Accounts that are cut off: who is bound as one is turned away at once, and who is about to be is refused."""

import asyncio

import pytest
from twisted.internet.task import Clock
from world import (
    ALICE,
    BOB,
    PASSWORD,
    SERVICE,
    World,
    bind,
    directory_settings,
    entry,
    is_bind_as_nobody,
    root_dse,
    search,
)

from ldapmfa.core.policy import Policy, ServiceRule
from ldapmfa.net.asking import Terms
from ldapmfa.net.budget import Budget
from ldapmfa.net.cuts import FAREWELL, Cuts
from ldapmfa.wire import dn, ldap


def key_of(house, name=ALICE):
    return f"default/uuid:{house.directory.uuids[dn.normalise(name)]}"


def cut(house, *names):
    return house.cuts.cut([key_of(house, name) for name in names or (ALICE,)], house.clients)


def noticed(client):
    """Whether the last that came is a notice that the association is no good any more."""
    notice = client.take()[-1]
    return (notice.id, ldap.read_result(notice).code, ldap.read_result(notice).text) == (0, 8, FAREWELL.encode())


async def test_A44_who_is_bound_as_the_account_is_turned_away_at_once_and_nobody_else(house):
    await house.open()
    alice, again, bob, nobody = (house.client(port=port) for port in range(4))
    assert await alice.log_in() == 0
    assert await again.log_in() == 0
    assert await bob.log_in(BOB) == 0
    assert alice.front.account == again.front.account == key_of(house)
    assert (bob.front.account, nobody.front.account) == (key_of(house, BOB), None)
    assert cut(house) == 2
    assert noticed(alice)
    assert noticed(again)
    assert not alice.pipe.open
    assert alice.front.account is None
    assert bob.pipe.open
    assert nobody.pipe.open
    assert bob.take() == nobody.take() == []
    assert house.links_open == 1
    assert cut(house) == 0
    assert sorted(house.logged, key=str) == [
        ("client turned away", {"client": f"192.0.2.7:{port}", "reason": FAREWELL}) for port in (0, 1)
    ]


async def test_A44_the_link_of_an_account_that_was_cut_off_is_closed_and_serves_nobody(tmp_path):
    """One that saw a login alone would be kept for another."""
    house = World(tmp_path, settings=directory_settings(spare_links=5))
    try:
        await house.open()
        for cuts, kept in ((True, False), (False, True)):
            client = house.client()
            assert await client.log_in() == 0
            link = house.directory.served[-1]
            if cuts:
                cut(house)
                house.clock.advance(1)
            else:
                client.leave()
            house.serve()
            assert link.pipe.open == kept
            assert is_bind_as_nobody(link.received[-1]) == kept
    finally:
        await house.close()


async def test_A44_a_message_under_way_is_carried_to_its_end_and_nothing_after_it(house):
    await house.open()
    client = house.client()
    assert await client.log_in() == 0
    link = house.directory.served[-1]
    message = entry(2, "cn=x", a=[b"x" * 500])
    link.send(message[:100])
    assert cut(house) == 1
    assert client.pipe.open
    client.send(search(3))
    link.send(message[100:] + message)
    one, notice = client.take()
    assert one.raw == message
    assert (notice.id, ldap.read_result(notice).code) == (0, 8)
    assert not client.pipe.open
    assert not link.pipe.open
    assert 3 not in [frame.id for frame in link.received]


async def test_A44_who_does_not_read_is_cut_off_all_the_same(house):
    await house.open()
    client = house.client()
    assert await client.log_in() == 0
    client.pipe.loseConnection = lambda: None
    link = house.directory.served[-1]
    link.send(entry(2, "cn=x", a=[b"x" * 500])[:100])
    cut(house)
    client.send(search(3))
    house.clock.advance(11)
    assert client.pipe.aborted
    assert not link.pipe.open


async def test_A44_whoever_the_client_was_before_does_not_count(house):
    """The identity goes the moment a bind arrives, whatever comes of it."""
    await house.open()
    client = house.client()
    assert await client.log_in() == 0
    client.send(bind(2, "", ""))
    assert client.front.account is None
    assert cut(house) == 0
    assert await client.code() == 0
    house.clock.advance(1)
    assert await client.log_in(message_id=3) == 0
    house.directory.holds = lambda link, frame: True
    client.send(bind(4, BOB, PASSWORD + house.next_code()))
    assert client.front.account is None
    assert cut(house) == 0
    house.directory.release()
    assert await client.code() == 0
    assert client.front.account == key_of(house, BOB)
    assert cut(house, BOB) == 1
    assert noticed(client)


async def test_A44_a_login_refused_leaves_no_account(house):
    await house.open()
    client = house.client()
    assert await client.log_in() == 0
    assert await client.log_in(BOB, PASSWORD + "000000", 2) == 49
    assert client.front.account is None


# -- while the login is under way


@pytest.mark.parametrize("step", range(1, 5))
@pytest.mark.parametrize("who", [ALICE, SERVICE])
async def test_A44_a_login_under_way_succeeds_for_nobody_who_was_cut_off_meanwhile(house, step, who):
    """Before, between and behind the directory's answers: the code may be right, it is refused like any other."""
    await house.open()
    client = house.client()
    cuts = []

    def holds(link, frame):
        cuts.append(len(cuts))
        if len(cuts) == step:
            cut(house, who)
        return False

    house.directory.holds = holds
    client.send(bind(1, who, PASSWORD + ("" if who == SERVICE else house.next_code())), search(2))
    await house.idle()
    assert len(cuts) > step
    assert client.take() == [], "no 49 leaves before the floor"
    house.clock.advance(0.3)
    refusal, late = await client.answers(2)
    said = ldap.read_result(refusal)
    assert (said.code, ldap.read_result(late).code) == (49, 50)
    accepted, refused = house.events[-2:]
    assert (accepted.outcome, refused.outcome, refused.reason) == ("accepted", "refused", "blocked")
    assert said.text.decode() == f"Invalid credentials. Reference: {refused.reference}"
    assert refused.account == accepted.account == key_of(house, who)
    assert client.state == "ANONYMOUS"
    assert client.front.account is None
    assert not house.links_open
    assert 2 not in [frame.id for frame in house.directory.seen]
    await house.over()
    assert house.budget == Budget()
    house.directory.holds = lambda link, frame: False
    house.clock.advance(1)
    assert await client.log_in(who, PASSWORD if who == SERVICE else None, 3) == 0, "the store says whether it may"


async def test_A44_what_was_accepted_in_vain_does_not_count_again(tmp_path):
    """Where an equal bind may be let in by an earlier success, this one was none."""
    house = World(tmp_path, policy=Policy(reuses=True), terms=Terms("app", reuse_seconds=60.0, reuse_uses=5))
    try:
        await house.open()
        client = house.client()
        typed = PASSWORD + house.next_code()
        house.directory.holds = lambda link, frame: True
        client.send(bind(1, ALICE, typed))
        cut(house)
        house.directory.release()
        assert await client.refused() == 49
        assert house.events[-1].reason == "blocked"
        house.advance(1)
        assert await client.log_in(ALICE, typed, 2) == 49
        assert house.events[-1].reason == "replayed-code"
    finally:
        await house.close()


async def test_A44_a_cut_while_the_owner_is_asked_ends_that_login(tmp_path):
    house = World(tmp_path, policy=Policy(services=(ServiceRule("push", ("push",)),)))
    try:
        await house.open()
        client = house.client()
        client.send(bind(1, ALICE, PASSWORD))
        await house.until(lambda: house.owner.pending)
        house.advance(5)
        cut(house)
        house.owner.say(answer=True)
        await house.idle()
        house.clock.advance(0)
        assert await client.code() == 49
        assert house.events[-1].reason == "blocked"
        assert not house.links_open
    finally:
        await house.close()


async def test_A44_somebody_elses_login_goes_on(house):
    await house.open()
    client = house.client()
    house.directory.holds = lambda link, frame: True
    client.send(bind(1, ALICE, PASSWORD + house.next_code()))
    cut(house, BOB)
    house.directory.release()
    assert await client.code() == 0


async def test_A44_a_client_that_leaves_before_it_is_refused_leaves_nothing(house):
    await house.open()
    client = house.client()
    house.directory.holds = lambda link, frame: True
    client.send(bind(1, ALICE, PASSWORD + house.next_code()))
    await asyncio.sleep(0)
    cut(house)
    house.directory.release()
    await house.until(lambda: house.waiting)
    client.leave()
    await house.over()
    assert [event.reason for event in house.events[-2:]] == ["code", "blocked"]
    assert not house.links_open
    assert house.budget == Budget()


async def test_A44_one_clients_trouble_does_not_keep_another_bound(house):
    await house.open()
    clients = [house.client(port=port) for port in (1, 2)]
    for client in clients:
        assert await client.log_in() == 0

        def broken(*_args):
            raise OSError("a bug")

        client.pipe.write = broken
    assert cut(house) == 2
    assert not any(client.pipe.open for client in clients)
    assert not house.links_open
    assert [event for event, _ in house.logged].count("bug") == 2


async def test_without_cuts_nobody_is_cut_off(house):
    await house.open()
    house.with_(cuts=None)
    assert await house.client().log_in() == 0


def test_who_relays_nothing_may_be_revoked_too():
    world = World(None).assemble()
    client = world.client()
    client.front.revoke("x")
    client.send(root_dse(1)[:3])
    assert client.pipe.open


# -- when which account was cut off


def test_a_cut_counts_for_what_began_before_it():
    clock = Clock()
    cuts = Cuts(clock)
    assert not cuts.since(0.0, "a")
    clock.advance(5)
    cuts.cut(["a"], [])
    assert [cuts.since(began, "a") for began in (4.9, 5.0, 5.1)] == [True, True, False]
    assert not cuts.since(0.0, "b")
    clock.advance(5)
    cuts.cut(["b", "a"], [])
    assert cuts.since(9.0, "a")


def test_A41_a_cut_is_forgotten_when_no_login_can_have_begun_before_it():
    """A day is the longest deadline there is."""
    clock = Clock()
    cuts = Cuts(clock)
    cuts.cut(["b"], [])
    cuts.cut(["a"], [])
    clock.advance(86_400)
    cuts.cut(["b", "c"], [])
    assert cuts.since(0.0, "a")
    clock.advance(3_600)
    cuts.cut(["c"], [])
    assert set(cuts._when) == {"b", "c"}
    clock.advance(90_000)
    cuts.cut([], [])
    assert not cuts._when
