"""Logins while somebody sets the clock by an hour: nothing that is under way ends sooner, later, or otherwise."""

import asyncio

import pytest
from world import ALICE, PASSWORD, SERVICE, World, bind, directory_settings

from ldapmfa.audit import AccountChanged
from ldapmfa.core.policy import Exempt, Policy, ServiceRule
from ldapmfa.wire import ldap

ASKING = Policy((Exempt(SERVICE),), services=(ServiceRule("push", ("push",), takes_codes=False),))
HOUR = pytest.mark.parametrize("by", [3600.0, -3600.0])


def code_of(raw):
    return ldap.read_result(ldap.read_frame(bytes(raw), 0, 1 << 20)).code


@pytest.fixture
def house(tmp_path):
    """Before a directory that may take longer than a login."""
    return World(tmp_path, settings=directory_settings(response_timeout=100.0))


@HOUR
async def test_a_login_ends_at_its_deadline_whatever_the_wall_says(house: World, by):
    await house.open()
    house.directory.holds = lambda link, frame: frame.tag == ldap.BIND_REQUEST
    client = house.client()
    client.send(bind(1, ALICE, PASSWORD + house.next_code()))
    await house.until(lambda: house.directory.held)
    house.now += by
    house.clock.advance(house.deadline - 1)
    for _ in range(20):
        await asyncio.sleep(0)
    assert not client.came
    house.clock.advance(1.5)
    await house.over()
    assert code_of(client.came) == ldap.UNAVAILABLE
    assert house.events[-1].reason == "deadline"


@HOUR
async def test_a_refusal_keeps_its_floor_whatever_the_wall_says(house: World, by):
    await house.open()
    client = house.client()
    client.send(bind(1, ALICE, "wrong" + house.next_code()))
    house.now += by
    await house.idle()
    assert not client.came
    house.clock.advance(0.3)
    await house.over()
    assert code_of(client.came) == ldap.INVALID_CREDENTIALS


@HOUR
async def test_a_question_that_is_open_ends_with_its_login_and_the_next_may_be_put(house: World, by):
    house.policy = ASKING
    await house.open()
    await house.store.unenrol(f"default/uuid:{house.directory.uuids[ALICE]}", unenrolled(house))
    client = house.client()
    client.send(bind(1, ALICE, PASSWORD))
    await house.until(lambda: house.owner.pending)
    house.now += by
    client.leave()
    await house.over()
    assert house.rows("prompts") == 0
    again = house.client()
    again.send(bind(1, ALICE, PASSWORD))
    await house.until(lambda: house.owner.pending)
    house.owner.say(True)
    await house.over()
    assert code_of(again.came) == ldap.SUCCESS


def unenrolled(house):
    return AccountChanged(at=house.now, action="unenrolled", account="x", actor="test")
