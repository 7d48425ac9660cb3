"""Attacks on rules through the whole proxy in memory: whoever is meant is meant in every spelling, place and state."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from ipaddress import ip_network

import pytest
from world import ALICE, BASE, BOB, PASSWORD, SERVICE, World, bind, result

from ldapmfa.core.application import Recognition
from ldapmfa.core.policy import Exempt, Policy, ServiceRule
from ldapmfa.core.rules import Hours, Moment, Rule
from ldapmfa.factors.service import Denied
from ldapmfa.net.asking import Terms
from ldapmfa.net.ldap_front import Door
from ldapmfa.wire import dn, ldap

TRUSTED = (ip_network("192.0.2.0/24"),)
ADMINS = f"cn=admins,{BASE}"


@pytest.fixture
def house(tmp_path):
    return World(tmp_path)


def ruled(house, *rules, **more):
    policy = replace(house.listener.policy, rules=rules, application="test", **more)
    return house.with_(policy=policy)


def kept(house, statement, *values):
    """Something an operator has done by another process."""
    with closing(sqlite3.connect(house.path / "state.db")) as connection, connection:
        return connection.execute(statement, values).rowcount


def blocked(house, name=ALICE):
    found = kept(house, "UPDATE accounts SET blocked_until = 1e12, blocked_reason = 'r', blocked_by = 'op' WHERE dn = ?", name)
    assert found == 1


async def reason(house, name=ALICE, password=PASSWORD, **where):
    """How a login of a new client ends, by the record."""
    count = len(house.events)
    client = house.client(**where)
    await client.log_in(name, password)
    assert len(house.events) == count + 1
    client.leave()
    return house.events[-1].reason


# -- A20, A23


async def test_A20_wrong_codes_count_together_whichever_application_is_tried(house):
    await house.open(wrong_codes=4)
    own = house.listener
    doors = tuple(
        Door(name, Recognition(networks=(ip_network(network),)), own.rules, own.policy, own.doorway)
        for name, network in (("vpn", "198.51.100.0/25"), ("mail", "198.51.100.128/25"))
    )
    house.with_(doors=doors)
    found = [
        await reason(house, ALICE, PASSWORD + "000000", address=address)
        for address in ("198.51.100.1", "198.51.100.200", "192.0.2.7", "198.51.100.2", "198.51.100.201", "192.0.2.8")
    ]
    assert found == ["wrong-code"] * 4 + ["locked"] * 2
    assert [event.application for event in house.events] == ["vpn", "mail", "test", "vpn", "mail", "test"]


async def test_A23_refused_by_a_rule_or_blocked_looks_as_a_wrong_password(house):
    await house.open()
    blocked(house, BOB)
    ruled(house, Rule("no services", "refuse", ous=(SERVICE,)))
    texts = set()
    for name, password in ((ALICE, "wrong"), (SERVICE, PASSWORD), (BOB, PASSWORD), (BOB, PASSWORD + house.next_code())):
        client = house.client()
        began = house.clock.seconds()
        client.send(bind(1, name, password))
        await house.idle()
        assert not client.came, "it left before the floor"
        house.clock.advance(0.25)
        (answer,) = await client.answers()
        assert house.clock.seconds() - began >= 0.25
        found = ldap.read_result(answer)
        text = found.text.decode()
        texts.add((found.code, text[:-8], len(text)))
        client.leave()
    assert texts == {(49, "Invalid credentials. Reference: ", 40)}
    assert [event.reason for event in house.events] == ["password", "rule", "blocked", "blocked"]


# -- A27, A28, A29, A37


@pytest.mark.parametrize("place", [BASE, "DC = Example ; DC=TEST", r"dc=ex\61mple,dc=test", "0.9.2342.19200300.100.1.25=example,dc=test"])
async def test_A28_a_rule_by_place_holds_in_every_spelling(house, place):
    await house.open()
    ruled(house, Rule("closed", "refuse", ous=(place,)))
    assert await reason(house, ALICE) == "rule"
    assert await reason(house, "CN=Alice , DC=example;dc=test") == "rule"


async def test_A29_a_rule_for_a_place_is_none_for_its_neighbours(house):
    await house.open()
    ruled(house, Rule("trusted", "password-only", ous=("dc=example", f"ou=x,{BASE}", f"cn=alic,{BASE}", f"cn=alice,ou=y,{BASE}")))
    assert await reason(house, ALICE) == "no-code"


async def test_A27_rules_hold_for_who_was_bound_whatever_was_typed(house):
    """A directory that takes other names than DNs, as Active Directory does."""
    await house.open()
    house.directory.passwords["corp\\alice"] = PASSWORD.encode()

    def known_otherwise(link, frame):
        if frame.tag == ldap.BIND_REQUEST and ldap.read_bind(frame).name == b"CORP\\alice":
            link.bound = dn.normalise(ALICE)
            return [result(frame.id, frame.tag)]
        return None

    house.directory.misbehave = known_otherwise
    ruled(house, Rule("not alice", "refuse", ous=(ALICE,)))
    assert await reason(house, "CORP\\alice") == "rule"
    assert house.events[-1].dn == ALICE


@pytest.mark.parametrize(("address", "outcome"), [("192.0.2.7", "by-rule"), ("198.51.100.7", "no-code"), ("192.0.3.7", "no-code")])
async def test_A37_a_trusted_network_is_where_the_connection_comes_from(house, address, outcome):
    await house.open()
    ruled(house, Rule("trusted", "password-only", networks=TRUSTED))
    assert await reason(house, ALICE, address=address) == outcome


async def test_A37_a_client_without_an_address_is_in_no_trusted_network(house):
    await house.open()
    ruled(house, Rule("trusted", "password-only", networks=(ip_network("0.0.0.0/0"), ip_network("::/0"))))
    client = house.client()
    client.front._address = None
    await client.log_in(ALICE, PASSWORD)
    assert house.events[-1].reason == "no-code"


async def test_A31_groups_are_those_of_who_was_bound(house):
    await house.open()
    asked = []

    async def groups(link, identity, named):
        asked.append((identity.dn, named))
        return frozenset({ADMINS}) if identity.dn == BOB else frozenset()

    house.directory.groups = groups
    ruled(house, Rule("admins", "refuse", groups=(ADMINS,)))
    assert await reason(house, BOB) == "rule"
    assert await reason(house, ALICE) == "no-code"
    assert asked == [(BOB, (ADMINS,)), (ALICE, (ADMINS,))]


async def test_groups_that_can_not_be_found_out_let_nobody_in(house):
    await house.open()

    async def groups(link, identity, named):
        raise RuntimeError

    house.directory.groups = groups
    ruled(house, Rule("admins", "refuse", groups=(ADMINS,)), Rule("others", "password-only"))
    client = house.client()
    assert await client.log_in(ALICE, PASSWORD) == 52
    assert house.events[-1].outcome == "broken"
    assert house.links_open == 0


# -- A33, A35


def remembers(house, **more):
    """Where successes count again, and rules may change what is asked for."""
    terms = Terms("test", reuse_seconds=600.0, reuse_uses=9)
    ruled(house, *more.pop("rules", ()), reuses=True, kinds=frozenset({"totp"}), **more)
    return house.with_(doorway=replace(house.listener.doorway, terms=terms))


async def test_A33_a_success_does_not_count_where_a_rule_asks_for_another_factor(house):
    await house.open()
    office = Hours(frozenset(range(7)), 0, 720)
    remembers(house, rules=(Rule("at night", "factors", ("hotp",), hours=(Hours(frozenset(range(7)), 720, 1440),)),))
    assert office.cover(Moment(0.0, 0, 60))
    typed = PASSWORD + house.next_code()
    at = [Moment(0.0, 0, 60)]
    house.with_(doorway=replace(house.listener.doorway, moment=lambda: at[0]))
    assert await reason(house, ALICE, typed) == "code"
    assert await reason(house, ALICE, typed) == "reused"
    at[0] = Moment(0.0, 0, 800)
    assert await reason(house, ALICE, typed) == "not-enrolled"
    at[0] = Moment(0.0, 0, 60)
    assert await reason(house, ALICE, typed) == "reused"


async def test_A33_a_block_ends_what_counted_and_nothing_counts_while_it_lasts(house):
    await house.open()
    remembers(house)
    typed = PASSWORD + house.next_code()
    assert await reason(house, ALICE, typed) == "code"
    assert await reason(house, ALICE, typed) == "reused"
    blocked(house)
    assert await reason(house, ALICE, typed) == "blocked"
    assert await reason(house, ALICE, PASSWORD + house.next_code()) == "blocked"


def data(code):
    return f"80090308: LdapErr: DSID-0C0903A9, comment: AcceptSecurityContext error, data {code}, v1db1"


@pytest.mark.parametrize("code", ["530", "531", "532", "533", "701", "773", "775"])
async def test_A35_no_rule_bypass_or_grace_lets_in_whom_the_directory_refuses(house, code):
    await house.open()
    kept(house, "INSERT INTO bypasses SELECT key, 1, 1e12, 'r', 'op', 0 FROM accounts")

    def refuses(link, frame):
        return [result(frame.id, frame.tag, 49, data(code))] if frame.tag == ldap.BIND_REQUEST else None

    house.directory.misbehave = refuses
    ruled(house, Rule("everybody", "password-only"), unenrolled="grace", grace_seconds=1e9)
    for typed in (PASSWORD, PASSWORD + house.next_code()):
        assert await reason(house, ALICE, typed) in ("account-disabled", "account-expired", "account-locked", "logon-hours", "must-change-password", "password-expired", "workstation")
    assert house.rows("bypasses WHERE uses = 1") == 2
    assert not house.owner.prompts


async def test_A23_the_directorys_word_is_told_to_who_has_shown_a_code_and_to_nobody_else(house):
    await house.open()
    alice, bob = [await reason(house, name, PASSWORD + house.next_code()) for name in (ALICE, BOB)]
    assert (alice, bob) == ("code", "code")

    def refuses(link, frame):
        return [result(frame.id, frame.tag, 49, data("773"))] if frame.tag == ldap.BIND_REQUEST else None

    identities = {}

    async def resolve(name):
        from ldapmfa.core.identity import Identity

        known = house.directory.uuids.get(dn.normalise(name))
        identities[name] = known
        return Identity("default", f"uuid:{known}", name) if known else None

    house.directory.misbehave, house.directory.resolve = refuses, resolve
    ruled(house, tells=True)
    said = {}
    for typed in (PASSWORD + house.next_code(), PASSWORD + house.last_code(), PASSWORD + "000000", PASSWORD):
        client = house.client()
        client.send(bind(7, ALICE, typed))
        await house.idle()
        assert not client.came, "nothing leaves before the floor"
        house.clock.advance(0.3)
        (answer,) = await client.answers()
        found = ldap.read_result(answer)
        assert (answer.id, found.code) == (7, 49)
        said[len(said)] = found.text.decode()
        assert client.state == "ANONYMOUS"
        client.leave()
    assert said[0] == data("773")
    assert all("773" not in text and text.startswith("Invalid credentials.") for number, text in said.items() if number)
    assert [event.reason for event in house.events[2:]] == ["must-change-password", "replayed-code", "wrong-code", "must-change-password"]
    assert all(event.outcome == "refused" for event in house.events[2:])
    assert house.rows("logins WHERE outcome = 'accepted'") == 2
    await house.store.close()
    assert house.rows("logins WHERE outcome = 'refused'") == 4, "each is recorded once"
    assert house.rows("logins WHERE outcome = 'refused' AND reference = ''") == 0
    assert house.links_open == 0


# -- bypass, grace


async def test_a_bypass_is_used_up_once_by_however_many_at_once(house):
    await house.open()
    kept(house, "INSERT INTO bypasses SELECT key, 1, 1e12, 'r', 'op', 0 FROM accounts WHERE dn = ?", ALICE)
    clients = [house.client(port=41_000 + number) for number in range(8)]
    for client in clients:
        client.send(bind(1, ALICE, PASSWORD))
    await house.until(lambda: len(house.events) == 8)
    await house.idle()
    house.clock.advance(0.3)
    codes = sorted([await client.code() for client in clients])
    assert codes == [0] + [49] * 7
    assert sorted(event.reason for event in house.events) == ["bypass"] + ["no-code"] * 7


async def test_a_bypass_ends_by_itself_and_is_none_for_others(house):
    await house.open()
    kept(house, "INSERT INTO bypasses SELECT key, 1, ?, 'r', 'op', 0 FROM accounts WHERE dn = ?", house.now + 300, ALICE)
    assert await reason(house, BOB) == "no-code"
    house.advance(301)
    assert await reason(house, ALICE) == "no-code"


async def test_A32_grace_is_counted_from_when_this_very_account_was_first_seen(house):
    house.policy = Policy((Exempt(SERVICE),), unenrolled="grace", grace_seconds=1000.0)
    await house.open()
    name = f"cn=carol,{BASE}"
    house.directory.passwords[dn.normalise(name)] = PASSWORD.encode()
    house.directory.uuids[dn.normalise(name)] = "00000000-0000-4000-8000-000000000001"
    assert await reason(house, name) == "grace"
    house.advance(999)
    assert await reason(house, name) == "grace"
    house.advance(2)
    assert await reason(house, name) == "not-enrolled"
    assert await reason(house, ALICE) == "no-code"


# -- blocks


@pytest.mark.parametrize("way", ["exempt", "by rule", "by a service", "by a service's code", "by a code"])
async def test_A44_a_block_that_comes_while_a_login_is_under_way_is_in_time(house, way):
    """It is looked at in the transaction that would record the success, whatever was read before."""
    await house.open()
    name = SERVICE if way == "exempt" else ALICE
    assert await reason(house, SERVICE, PASSWORD) == "exempt"
    services = (ServiceRule("push", ("push",), takes_codes=True),) if "service" in way else ()
    rules = (Rule("trusted", "password-only"),) if way == "by rule" else ()
    ruled(house, *rules, services=services, kinds=frozenset() if services else None)
    identify = house.directory.identify

    async def slowly(*args):
        identity = await identify(*args)
        blocked(house, name)
        return identity

    typed = PASSWORD
    if way == "by a code":
        house.directory.identify, typed = slowly, PASSWORD + house.next_code()
    elif way == "by a service's code":
        house.owner.knows["alice"] = b"123456"
        typed = PASSWORD + "123456"
        verify = house.owner.verify

        async def judged(*args):
            blocked(house, name)
            return await verify(*args)

        house.owner.verify = judged
    elif way == "by a service":
        start = house.owner.start

        async def begun(prompt):
            waiting = await start(prompt)
            blocked(house, name)
            waiting.handle.set_result(True)
            return waiting

        house.owner.start = begun
    else:
        house.directory.identify = slowly
    assert await reason(house, name, typed) == "blocked"
    assert house.rows(f"logins WHERE outcome = 'accepted' AND dn = '{ALICE}'") == 0


async def test_A21_nobody_blocked_is_asked(house):
    await house.open()
    ruled(house, services=(ServiceRule("push", ("push",), takes_codes=True),), kinds=frozenset())
    blocked(house)
    for typed in (PASSWORD, PASSWORD + "123456"):
        assert await reason(house, ALICE, typed) == "blocked"
    assert (house.owner.prompts, house.owner.verified) == ([], [])


async def test_a_block_ends_when_it_was_to_end(house):
    await house.open()
    kept(house, "UPDATE accounts SET blocked_until = ? WHERE dn = ?", house.now + 90, ALICE)
    assert await reason(house, ALICE, PASSWORD + house.next_code()) == "blocked"
    house.advance(90)
    assert await reason(house, ALICE, PASSWORD + house.next_code()) == "code"


async def test_A26_who_must_show_more_than_it_has_does_not_get_by_with_the_password(house):
    """Alice has a token; an application that wants another factor takes her for no newcomer."""
    await house.open()
    for lax in ({"unenrolled": "password-only"}, {"unenrolled": "grace", "grace_seconds": 1e9}):
        ruled(house, kinds=frozenset({"hotp"}), **lax)
        assert await reason(house, ALICE) == "not-enrolled"
        ruled(house, Rule("more", "factors", ("push",)), others=(ServiceRule("push", ("push",)),), **lax)
        house.owner.begins = Denied("not-enrolled")
        assert await reason(house, ALICE) == "not-enrolled"
