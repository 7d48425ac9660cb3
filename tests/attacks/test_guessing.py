"""Guessing passwords, and spending the directory's own lock-out counter by it: what reaches the directory. In memory."""

import asyncio
from collections import Counter
from dataclasses import replace
from ipaddress import ip_network

import pytest
from world import ALICE, BASE, BOB, PASSWORD, SERVICE, World, bind, passwords_in_memory, people, result

from ldapmfa.core.policy import Policy
from ldapmfa.core.secret import Secret
from ldapmfa.core.throttle import PasswordLimit
from ldapmfa.errors import StoreDown
from ldapmfa.net import tries
from ldapmfa.net.tries import Right
from ldapmfa.wire import dn, ldap

LIMIT = PasswordLimit()
DATA = "80090308: LdapErr: DSID-0C0903A9, comment: AcceptSecurityContext error, data {}, v1db1"


@pytest.fixture
def house(tmp_path):
    return World(tmp_path, tries=LIMIT, policy=Policy(unenrolled="password-only"))


def asked_about(house, name):
    """How many passwords for a name reached the directory."""
    return sum(dn.normalise(other) == dn.normalise(name) for other, _ in house.directory.binds() if "=" in other)


async def ended(house, count):
    """So many more logins."""
    await house.until(lambda: len(house.events) >= count)
    house.clock.advance(0.3)
    for _ in range(5):
        await asyncio.sleep(0)


async def log_in(house, name, typed, address="192.0.2.7"):
    """One bind on a connection of its own: how it ended."""
    count = len(house.events)
    client = house.client(address)
    client.send(bind(1, name, typed))
    await ended(house, count + 1)
    client.leave()
    return house.events[count]


async def reasons(house, name, *typed, address="192.0.2.7"):
    return [(await log_in(house, name, each, address)).reason for each in typed]


def wrong(count, start=0):
    """So many different ones."""
    return [f"wrong{number}x" for number in range(start, start + count)]


async def test_A22_of_many_wrong_passwords_the_directory_sees_a_few(house):
    await house.open()
    assert await reasons(house, ALICE, *wrong(50)) == ["password"] * 5 + ["throttled"] * 45
    assert asked_about(house, ALICE) == 5
    assert {event.detail for event in house.events[5:]} == {"wrong_passwords"}
    assert [(await log_in(house, ALICE, PASSWORD + house.next_code())).reason] == ["throttled"], "the right one, too"
    there = await log_in(house, ALICE, PASSWORD + house.next_code(), "198.51.100.9")
    assert (there.outcome, there.reason) == ("accepted", "code"), "its owner, from elsewhere"


async def test_A22_the_window_ends_and_is_not_prolonged_by_who_is_throttled(house):
    await house.open()
    await reasons(house, ALICE, *wrong(5))
    house.now += LIMIT.seconds - 60
    assert await reasons(house, ALICE, *wrong(20, 5)) == ["throttled"] * 20
    house.now += 60
    assert await reasons(house, ALICE, *wrong(6, 30)) == ["password"] * 5 + ["throttled"]


async def test_A22_a_right_password_sets_the_count_back_whatever_becomes_of_the_code(house):
    await house.open()
    for number in range(3):
        assert await reasons(house, ALICE, *wrong(4, 4 * number)) == ["password"] * 4
        assert (await log_in(house, ALICE, PASSWORD + "000000")).reason in ("wrong-code", "replayed-code")
        await house.until(lambda: not house.store._writer._notes)
        await asyncio.sleep(0.01)
    assert await reasons(house, ALICE, *wrong(4, 20)) == ["password"] * 4


async def test_A22_all_forms_of_a_name_spend_one_count(house):
    """DN in any spelling, UPN, account name, with a domain before or behind it: known since the account was seen."""
    await house.open()
    assert (await log_in(house, ALICE, PASSWORD + house.next_code())).outcome == "accepted"
    forms = [ALICE, ALICE.upper().replace(",", " , "), "alice", "EXAMPLE\\alice", "alice@example.test", "other\\ALICE"]
    found = [await log_in(house, forms[n % len(forms)], f"wrong{n}x") for n in range(12)]
    assert [event.reason for event in found] == ["password"] * 5 + ["throttled"] * 7
    assert house.rows("tries") == 2, "the account's from there, and the source's"


async def test_A22_forms_of_a_name_that_nobody_has_are_one_but_for_its_domain(house):
    await house.open()
    forms = ["EXAMPLE\\nobody", "nobody@example.test", "nobody", "NOBODY@other.test"]
    found = [(await log_in(house, forms[n % 4], f"wrong{n}x")).reason for n in range(8)]
    assert found == ["password"] * 5 + ["throttled"] * 3


async def test_A22_two_hundred_names_from_one_source(house):
    """Each but once, so that no count of a name is spent; and nobody elsewhere notices."""
    await house.open()
    names = people(house, 200)
    found = Counter([(await log_in(house, name, "wrongx")).reason for name in names])
    assert found == {"password": 100, "throttled": 100}
    assert house.events[-1].detail == "source_wrong_passwords"
    assert len(house.directory.binds()) == 100
    assert await reasons(house, names[0], PASSWORD) == ["throttled"]
    assert await reasons(house, names[0], PASSWORD, address="198.51.100.9") == ["password-only"]


async def test_A22_ipv6_is_counted_by_the_network(house):
    """A customer has at least 2**64 addresses."""
    house.tries = replace(LIMIT, of_source=10)
    await house.open()
    names = people(house, 20)
    found = [(await log_in(house, name, "wrongx", f"2001:db8::{n:x}")).reason for n, name in enumerate(names)]
    assert found == ["password"] * 10 + ["throttled"] * 10
    assert await reasons(house, names[0], PASSWORD, address="2001:db8:0:1::1") == ["password-only"]


async def test_A22_a_gateway_is_not_locked_out_as_a_whole(house):
    """Its users come from one address; each of them is counted."""
    house.gateways = (ip_network("192.0.2.0/24"),)
    await house.open()
    names = people(house, 150)
    assert Counter([(await log_in(house, name, "wrongx")).reason for name in names]) == {"password": 150}
    assert await reasons(house, names[0], PASSWORD) == ["password-only"]
    assert await reasons(house, names[1], *wrong(6)) == ["password"] * 4 + ["throttled"] * 2


async def test_A22_guesses_at_the_same_moment_are_no_more_than_one_after_the_other(house):
    await house.open()
    clients = [house.client(port=40_000 + n) for n in range(50)]
    for number, client in enumerate(clients):
        client.send(bind(1, ALICE, f"wrong{number}x"))
    await ended(house, 50)
    assert Counter(event.reason for event in house.events) == {"password": 5, "throttled": 45}
    assert asked_about(house, ALICE) == 5


@pytest.mark.parametrize("processes", [2, 3, 4])
async def test_A22_guesses_at_the_same_moment_at_several_workers(house, processes):
    """They know of each other what is counted, and not what is under way: others' shares may come on top."""
    house.processes = processes
    await house.open()
    houses = [house, *[await house.worker() for _ in range(processes - 1)]]
    for number in range(60):
        houses[number % processes].client(port=40_000 + number).send(bind(1, ALICE, f"wrong{number}x"))
    total = lambda: sum(len(one.events) for one in houses)  # noqa: E731
    for _ in range(100_000):
        if total() >= 60:
            break
        for one in houses:
            one.serve()
        await asyncio.sleep(0)
    house.clock.advance(0.3)
    assert Counter(event.reason for one in houses for event in one.events).keys() == {"password", "throttled"}
    seen = sum(asked_about(one, ALICE) for one in houses)
    assert 5 <= seen <= 5 + (processes - 1) * max(1, 5 // processes)
    assert await reasons(houses[-1], ALICE, PASSWORD + house.next_code()) == ["throttled"], "whichever it is"


async def test_A22_fifty_right_passwords_at_once_are_all_let_in(house):
    """A service's threads, when it starts: they wait for each other a little."""
    await house.open()
    (name,) = people(house, 1)
    await reasons(house, name, *wrong(3))
    clients = [house.client(port=40_000 + n) for n in range(50)]
    for client in clients:
        client.send(bind(1, name, PASSWORD))
    await ended(house, 53)
    assert [event.outcome for event in house.events[3:]] == ["accepted"] * 50


async def many_at_once(house, name, typed, count=20, address="192.0.2.7"):
    """How many of so many at once reach the directory before it answers any."""
    before = asked_about(house, name)
    house.directory.holds = lambda link, frame: frame.tag == ldap.BIND_REQUEST
    clients = [house.client(address, port=45_000 + n) for n in range(count)]
    for client in clients:
        client.send(bind(1, name, typed))
    for _ in range(300):
        house.serve()
        await asyncio.sleep(0)
    reached = len(house.directory.held)
    house.directory.release()
    await house.idle()
    house.clock.advance(1)
    await house.over()
    for client in clients:
        client.leave()
    return reached, asked_about(house, name) - before


async def test_A22_the_password_that_was_right_a_moment_ago_waits_for_nobody(house):
    """A program's own account binds for each of its users; a guess, and what has been changed meanwhile, is one."""
    await house.open()
    assert await reasons(house, SERVICE, PASSWORD) == ["password-only"]
    assert await many_at_once(house, SERVICE, PASSWORD) == (20, 20)
    reached, asked = await many_at_once(house, SERVICE, "guessed")
    assert (reached, asked) == (5, 5), "another one is a guess still"
    house.advance(901)
    assert await reasons(house, SERVICE, PASSWORD) == ["password-only"]
    house.directory.passwords[dn.normalise(SERVICE)] = b"changed"
    assert await reasons(house, SERVICE, PASSWORD) == ["password"]
    house.advance(61)
    reached, asked = await many_at_once(house, SERVICE, PASSWORD)
    assert reached == 4, "once refused it is a guess like any other"


async def test_A22_a_right_password_is_known_for_its_account_and_address_alone(house):
    await house.open()
    one, other = people(house, 2)
    assert await reasons(house, one, PASSWORD) == ["password-only"]
    assert (await many_at_once(house, other, PASSWORD))[0] == 5
    assert (await many_at_once(house, one, PASSWORD, address="192.0.2.8"))[0] == 5
    assert (await many_at_once(house, one, PASSWORD))[0] == 20
    right = Right()
    right.note(("ad", "ann", "192.0.2.7"), Secret(b"x"))
    assert right.was(("ad", "ann", "192.0.2.7"), Secret(b"x"))
    for whose, password in ((("ad", "ann", "192.0.2.8"), b"x"), (("ad", "bob", "192.0.2.7"), b"x"), (("ad", "ann", "192.0.2.7"), b"y"), (("ad", "ann", "192.0.2.7"), b"")):
        assert not right.was(whose, Secret(password))
    assert b"x" not in [value for value, _ in right._known.values()]


async def eight_at_once(house):
    """Of which the directory answers none, and one in line leaves."""
    await house.open()
    house.directory.holds = lambda link, frame: frame.tag == ldap.BIND_REQUEST
    clients = [house.client(port=40_000 + n) for n in range(8)]
    for number, client in enumerate(clients):
        client.send(bind(1, ALICE, f"wrong{number}x"))
    await house.until(lambda: len(house.directory.held) == 5)
    clients[5].leave()
    await house.until(lambda: len(house.events) == 1)


async def test_A22_who_waits_in_line_goes_on_when_the_directory_does_not_answer(house):
    """And what it did not answer counts against nobody."""
    await eight_at_once(house)
    house.clock.advance(11)
    await house.until(lambda: len(house.directory.held) == 7)
    house.clock.advance(11)
    await house.until(lambda: len(house.events) == 8)
    assert Counter(event.reason for event in house.events) == {"client-left": 1, "directory-down": 7}
    house.directory.holds = lambda link, frame: False
    assert await reasons(house, ALICE, *wrong(6, 10)) == ["password"] * 5 + ["throttled"]


async def test_A22_who_waits_in_line_waits_no_longer_than_a_login_may(house):
    """And what the directory says to those whose time was over counts."""
    house.deadline = 5.0
    await eight_at_once(house)
    house.clock.advance(6)
    await house.until(lambda: len(house.events) == 8)
    assert Counter(event.reason for event in house.events) == {"client-left": 1, "deadline": 7}
    house.directory.release()
    await house.until(lambda: house.rows("tries") == 2)
    await house.until(lambda: not house.store._writer._calls)
    assert await reasons(house, ALICE, "wrongx") == ["throttled"]
    assert asked_about(house, ALICE) == 5


async def test_A22_who_is_called_and_leaves_at_that_moment_lets_the_next_one_go(house):
    """Or the line would stand still."""
    await house.open()
    (name,) = people(house, 1)
    await reasons(house, name, *wrong(4))
    house.directory.holds = lambda link, frame: frame.tag == ldap.BIND_REQUEST
    clients = [house.client(port=40_000 + n) for n in range(4)]
    for client in clients:
        client.send(bind(1, name, PASSWORD))
    under_way = house.listener.doorway.tries.under_way
    await house.until(lambda: len(house.directory.held) == 1 and [len(line) for line in under_way._lines.values()] == [3])
    calls = under_way.call

    def call(key):
        calls(key)
        if clients[1].pipe.open and [len(line) for line in under_way._lines.values()] == [2]:
            clients[1].leave()

    under_way.call = call
    house.directory.release()
    await house.until(lambda: len(house.events) == 8)
    assert Counter(event.outcome for event in house.events[4:]) == {"accepted": 3, "broken": 1}


async def test_A22_whoever_leaves_before_the_answer_is_counted(house):
    """Or the directory's counter could be spent without any of ours."""
    await house.open()
    for number in range(12):
        seen = len(house.directory.binds())
        house.directory.holds = lambda link, frame: frame.tag == ldap.BIND_REQUEST
        client = house.client(port=40_000 + number)
        client.send(bind(1, ALICE, f"wrong{number}x"))
        await house.until(lambda: len(house.directory.binds()) > seen or house.waiting)  # noqa: B023
        client.leave()
        house.directory.release()
        await house.over()
    assert asked_about(house, ALICE) == 5
    assert house.links_open == 0


async def test_A22_a_right_password_whose_client_has_left_is_no_guess_and_leaves_no_link(house):
    await house.open()
    for number in range(8):
        house.directory.holds = lambda link, frame: frame.tag == ldap.BIND_REQUEST
        client = house.client(port=40_000 + number)
        client.send(bind(1, ALICE, PASSWORD + "000000"))
        await house.until(lambda: house.directory.held)
        client.leave()
        house.directory.release()
        await house.over()
        assert house.links_open == 0
    assert (await log_in(house, ALICE, PASSWORD + house.next_code())).reason == "code"


async def test_A22_A41_of_too_many_that_leave_nobody_waits_for_the_answer(house, monkeypatch):
    """Their links are given up, and their passwords count as wrong."""
    monkeypatch.setattr(tries, "LEFT", 3)
    await house.open()
    names = people(house, 6)
    house.directory.holds = lambda link, frame: frame.tag == ldap.BIND_REQUEST
    clients = [house.client(port=40_000 + n) for n in range(6)]
    for name, client in zip(names, clients, strict=True):
        client.send(bind(1, name, PASSWORD))
    await house.until(lambda: len(house.directory.held) == 6)
    for client in clients:
        client.leave()
    await house.until(lambda: house.rows("tries") == 4)
    assert sum(link.pipe.open for link in house.directory.served) == 3
    house.directory.release()
    await house.over()
    assert sum(link.pipe.open for link in house.directory.served) == 0
    assert house.rows("tries") == 4, "three names', and the source's"


async def test_A22_the_same_wrong_password_again_is_one(house):
    """Squid tries three times; a program with an old password does so for ever."""
    await house.open()
    assert await reasons(house, ALICE, "wrongx", "wrongx", "wrongx") == ["password", "throttled", "throttled"]
    assert house.events[-1].detail == "same wrong password again"
    assert await reasons(house, ALICE, *wrong(4)) == ["password"] * 4
    assert asked_about(house, ALICE) == 5
    assert (await log_in(house, BOB, "wrongx")).reason == "password", "another name's is another one"
    assert (await log_in(house, ALICE, "wrongx", "198.51.100.9")).reason == "password", "from elsewhere, too"


async def test_A22_a_password_that_was_changed_meanwhile_is_right_a_minute_later(house):
    await house.open()
    (name,) = people(house, 1)
    assert await reasons(house, name, "changed") == ["password"]
    house.directory.passwords[dn.normalise(name)] = b"changed"
    house.now += 59
    assert await reasons(house, name, "changed") == ["throttled"]
    house.now += 1
    assert await reasons(house, name, "changed") == ["password-only"]


async def test_A22_an_old_password_that_comes_every_minute_does_not_spend_the_directorys_counter(house):
    await house.open()
    for _ in range(14):
        await log_in(house, ALICE, "old")
        house.now += 61
    assert asked_about(house, ALICE) == 5


async def test_A22_while_all_the_world_guesses_those_who_were_here_go_on(house):
    """A minute's rate: a botnet locks nobody out who has logged in from where they are."""
    house.tries = replace(LIMIT, per_minute=20)
    await house.open()
    first, second, *names = people(house, 42)
    assert await reasons(house, first, PASSWORD) == ["password-only"]
    house.now += 60 - house.now % 60
    found = [(await log_in(house, name, "wrongx", f"203.0.113.{n}")).reason for n, name in enumerate(names)]
    assert found == ["password"] * 20 + ["throttled"] * 20
    assert house.events[-1].detail == "wrong_passwords_a_minute"
    assert await reasons(house, first, PASSWORD) == ["password-only"]
    assert await reasons(house, first, PASSWORD, address="198.51.100.9") == ["throttled"], "not known there"
    assert await reasons(house, second, PASSWORD) == ["throttled"]
    house.now += 60
    assert await reasons(house, second, PASSWORD) == ["password-only"]


async def test_A22_who_was_here_longer_ago_is_a_stranger(house):
    house.tries = replace(LIMIT, per_minute=1)
    await house.open()
    (name,) = people(house, 1)
    await reasons(house, name, PASSWORD)
    house.now += LIMIT.known_seconds
    await log_in(house, BOB, "wrongx", "203.0.113.1")
    assert await reasons(house, name, PASSWORD) == ["throttled"]


@pytest.mark.parametrize(
    ("code", "text", "counts"),
    [
        (49, "", True),
        (49, DATA.format("52e"), True),
        (49, DATA.format("525"), True),
        (32, "", True),
        (34, "", False),
        (49, DATA.format("775"), False),
        (49, DATA.format("532"), False),
        (49, DATA.format("773"), False),
        (51, "", False),
    ],
)
async def test_A22_what_counts_as_a_wrong_password(house, code, text, counts):
    await house.open()
    house.directory.misbehave = (
        lambda link, frame: [result(frame.id, frame.tag, code, text)] if frame.tag == ldap.BIND_REQUEST else None
    )
    for typed in wrong(8):
        await log_in(house, ALICE, typed)
    assert asked_about(house, ALICE) == (5 if counts else 8)


async def test_A22_a_store_that_can_not_count_changes_no_refusal(house, monkeypatch):
    await house.open()

    async def fails(*_args):
        raise StoreDown("no")

    monkeypatch.setattr(house.store, "count_wrong", fails)
    event = await log_in(house, ALICE, "wrongx")
    assert (event.outcome, event.reason, event.result) == ("refused", "password", 49)


async def test_A22_a_store_that_can_not_be_asked_lets_nobody_try(house, monkeypatch):
    await house.open()

    async def fails(*_args):
        raise StoreDown("no")

    monkeypatch.setattr(house.store, "tried", fails)
    event = await log_in(house, ALICE, PASSWORD + house.next_code())
    assert (event.outcome, event.reason) == ("broken", "store-down")
    assert house.directory.binds() == []


async def test_A22_a_wrong_password_is_durable_before_it_is_refused(house):
    await house.open()
    gate, count = asyncio.get_running_loop().create_future(), house.store.count_wrong

    async def slowly(*args):
        await gate
        return await count(*args)

    house.store.count_wrong = slowly
    client = house.client()
    client.send(bind(1, ALICE, "wrongx"))
    for _ in range(50):
        house.serve()
        house.clock.advance(0.1)
        await asyncio.sleep(0)
    assert client.came == b""
    gate.set_result(None)
    assert await client.refused() == 49


async def test_A23_throttled_refusals_look_and_take_like_all_others(house):
    await house.open()
    texts = set()
    for typed in [*wrong(5), "wrongx", "wrongx", PASSWORD + house.next_code()]:
        client = house.client()
        client.send(bind(1, ALICE, typed))
        await house.idle()
        house.clock.advance(0.24)
        await asyncio.sleep(0)
        assert client.came == b"", "before the floor"
        house.clock.advance(0.02)
        (frame,) = await client.answers()
        answer = ldap.read_result(frame)
        texts.add((answer.code, answer.text[:-5], answer.matched, len(frame.raw)))
    assert len(texts) == 1
    assert house.events[-1].reason == "throttled"


async def test_A22_a_login_that_nothing_is_known_against_writes_nothing_more(house):
    """But once an hour, that it was there."""
    await house.open()
    (name,) = people(house, 1)
    await reasons(house, name, PASSWORD)
    await house.until(lambda: house.rows("tries") == 1)
    noted = []
    note = house.store._writer.note
    house.store._writer.note = lambda statement, **row: noted.append(statement) or note(statement, **row)
    await reasons(house, name, PASSWORD, PASSWORD)
    assert noted == []
    house.now += 3600
    await reasons(house, name, PASSWORD)
    assert len(noted) == 1


async def test_A22_A41_rows_do_not_heap_up(house):
    """From a gateway, where only a minute's rate bounds them: what is over goes when something is added."""
    house.gateways = (ip_network("192.0.2.0/24"),)
    house.tries = replace(LIMIT, per_minute=10)
    await house.open()
    most = 0
    for minute in range(20):
        for number in range(12):
            await log_in(house, f"cn=no{minute}-{number},{BASE}", "wrongx")
        house.now += 60
        most = max(most, house.rows("tries"))
    assert most <= 10 * 16 + 1
    assert house.rows("rates") == 1


@pytest.mark.parametrize("typed", ["unheard-of-wrong", "only-here-90"])
async def test_A43_a_password_that_was_counted_is_not_kept(house, typed):
    await house.open()
    (name,) = people(house, 1)
    house.directory.passwords[name] = b"only-here-90"
    client = house.client()
    client.send(bind(1, name, typed))
    await ended(house, 1)
    await house.over()
    assert passwords_in_memory(typed) == []
