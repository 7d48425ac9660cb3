"""Running a login: questions and answers, deadlines, whatever breaks, and a client that leaves at any moment."""

import asyncio
from dataclasses import replace

import pytest
from twisted.internet.task import Clock
from world import ALICE, PASSWORD, SERVICE, bind, result

from ldapmfa.core.identity import CannotIdentify
from ldapmfa.core.policy import Exempt, Policy
from ldapmfa.errors import ConfigError, DirectoryDown, FactorDown, StoreDown
from ldapmfa.net import driver
from ldapmfa.net.budget import Budget
from ldapmfa.net.driver import Deadline, DeadlineExceeded, RefusedShapes, pause, run
from ldapmfa.store.seal import SealBroken
from ldapmfa.wire import ldap

# -- run, pause, Deadline


async def within(clock, seconds, work):
    async with Deadline(clock, seconds):
        return await work


def adding(log=None):
    try:
        total = 0
        while total < 5:
            total += yield total
    except ValueError:
        total = -1
    finally:
        if log is not None:
            log.append("closed")
    return total


async def test_a_procedure_is_asked_and_answered_to_its_end():
    async def answer(question):
        return question + 1

    assert await run(adding(), answer) == 7


async def test_what_answering_raises_is_raised_in_the_procedure():
    async def answer(question):
        if question:
            raise ValueError("no")
        return 1

    log = []
    assert await run(adding(log), answer) == -1
    assert log == ["closed"]


async def test_what_the_procedure_does_not_catch_comes_out():
    async def answer(question):
        raise KeyError(question)

    log = []
    with pytest.raises(KeyError):
        await run(adding(log), answer)
    assert log == ["closed"]


async def test_a_procedure_that_asks_nothing_ends_at_once():
    def nothing():
        return 5
        yield

    assert await run(nothing(), None) == 5


async def test_a_procedure_is_closed_when_it_is_cancelled():
    async def answer(question):
        await asyncio.get_running_loop().create_future()

    log = []
    task = asyncio.ensure_future(run(adding(log), answer))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log == ["closed"]


@pytest.mark.parametrize("seconds", [-1.0, 0.0, 2.5])
async def test_a_pause_is_as_long_as_the_clock_says(seconds):
    clock = Clock()
    task = asyncio.ensure_future(pause(clock, seconds))
    await asyncio.sleep(0)
    if seconds > 0:
        clock.advance(seconds - 0.1)
        await asyncio.sleep(0)
        assert not task.done()
    clock.advance(0.2)
    await task
    assert not clock.getDelayedCalls()


async def test_a_pause_that_is_cancelled_leaves_no_timer():
    clock = Clock()
    task = asyncio.ensure_future(pause(clock, 5))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not clock.getDelayedCalls()


async def test_what_is_done_within_its_time_is_the_value():
    clock = Clock()

    async def work():
        return 5

    assert await within(clock, 1, work()) == 5
    assert not clock.getDelayedCalls()


async def test_what_is_not_done_in_time_is_cancelled():
    clock, log = Clock(), []

    async def work():
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            log.append("cancelled")

    task = asyncio.ensure_future(within(clock, 5, work()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    clock.advance(5)
    with pytest.raises(DeadlineExceeded):
        await task
    assert log == ["cancelled"]


async def test_cancelling_from_outside_is_no_deadline():
    clock, log = Clock(), []

    async def work():
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            log.append("cancelled")

    task = asyncio.ensure_future(within(clock, 5, work()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log == ["cancelled"]
    assert not clock.getDelayedCalls()


# -- hints


def test_hints_are_forgotten_in_time_and_bounded(monkeypatch):
    clock = Clock()
    shapes = RefusedShapes(clock)
    shapes.note(("d", "a"), "cut")
    assert shapes["d", "a"] == "cut"
    assert shapes["d", "b"] is None
    assert shapes["e", "a"] is None
    clock.advance(599)
    assert shapes["d", "a"] == "cut"
    clock.advance(2)
    assert shapes["d", "a"] is None
    shapes.note(("d", "a"), "whole")
    shapes.forget(("d", "a"))
    shapes.forget(("d", "a"))
    assert shapes["d", "a"] is None
    monkeypatch.setattr(driver, "_REMEMBERED", 3)
    for number in range(10):
        shapes.note(("d", str(number)), "cut")
    assert len(shapes._shapes) == 3
    assert shapes["d", "9"] == "cut"


# -- broken


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (DirectoryDown("x"), "directory-down"),
        (StoreDown("x"), "store-down"),
        (CannotIdentify("x"), "no-identity"),
        (FactorDown("x"), "factor-down"),
        (SealBroken("x"), "store-down"),
        (ConfigError(["x"]), "broken"),
        (ValueError("secret: x"), "bug"),
        (RecursionError(), "bug"),
        (TimeoutError(), "bug"),
        (KeyError("secret"), "bug"),
        (UnicodeDecodeError("utf-8", b"secret", 0, 1, "x"), "bug"),
    ],
)
@pytest.mark.parametrize("at", ["connect", "identify", "verify"])
async def test_whatever_breaks_is_unavailable_and_recorded(house, broken, reason, at):
    await house.open()

    async def breaks(*_args, **_kwargs):
        raise broken

    if at == "connect":
        house.directory._connect_to = breaks
    elif at == "identify":
        house.directory.identify = breaks
    else:
        house.store.verify = breaks
    client = house.client()
    assert await client.log_in() == 52
    await house.over()
    (event,) = house.events
    assert (event.outcome, event.reason, event.result) == ("broken", reason, 52)
    assert event.reference
    assert "secret" not in repr(event)
    assert not house.links_open
    assert client.state == "ANONYMOUS"
    assert house.budget == Budget()


@pytest.mark.parametrize("code", [1, 2, 8, 12, 13, 51, 52, 80])
async def test_a_directory_that_can_not_answer_now_is_no_refusal(house, code):
    await house.open()
    house.directory.misbehave = lambda link, frame: [result(frame.id, frame.tag, code, "why")] if frame.tag == ldap.BIND_REQUEST else None
    client = house.client()
    assert await client.log_in() == 52
    assert house.events[-1].reason == "directory-refuses"
    assert "why" in house.events[-1].detail


@pytest.mark.parametrize("seconds", [5.0, 30.0])
@pytest.mark.parametrize("held", [ldap.BIND_REQUEST, ldap.SEARCH_REQUEST, ldap.EXTENDED_REQUEST])
async def test_the_deadline_holds_wherever_the_directory_hangs(house, held, seconds):
    await house.open()
    house.with_(doorway=replace(house.listener.doorway, deadline=seconds))
    house.directory.holds = lambda link, frame: frame.tag == held
    client = house.client()
    client.send(bind(1, ALICE, PASSWORD + house.next_code()))
    await house.until(lambda: house.directory.held)
    house.clock.advance(min(seconds, 10.0) + 0.1)
    assert await client.code() == 52
    assert house.events[-1].reason == ("deadline" if seconds < 10 else "directory-down")
    assert not house.links_open
    await house.over()
    assert house.budget == Budget()


# -- the client leaves


class Gate:
    """Holds whoever calls a coroutine function at its door, before or behind it."""

    def __init__(self, house, where, what, moment):
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()
        inner = getattr(where, what)

        async def gated(*args, **kwargs):
            if moment == "behind":
                value = await inner(*args, **kwargs)
            self.reached.set()
            await self.opened.wait()
            if moment == "before":
                value = await inner(*args, **kwargs)
            return value

        setattr(where, what, gated)


#: Every await of a login: what it calls, before and behind; and each answer of the directory.
PLACES = [
    ("connect", "before"),
    *((what, moment) for what in ("recall", "capabilities", "identify", "verify", "admit", "status") for moment in ("before", "behind")),
    ("bind", "held"),
    ("whoami", "held"),
    ("entry", "held"),
]
HELD = {"bind": ldap.BIND_REQUEST, "whoami": ldap.EXTENDED_REQUEST, "entry": ldap.SEARCH_REQUEST}


@pytest.mark.parametrize(("place", "moment"), PLACES)
@pytest.mark.parametrize("again", [False, True], ids=["fresh link", "used link"])
@pytest.mark.parametrize("how", ["leaves", "unbinds", "binds again"])
async def test_the_client_leaves_wherever_the_login_stands(house, place, moment, again, how):
    await house.open()
    client = house.client()
    if again:
        assert await client.log_in() == 0
    if again and place == "connect":
        return
    if place in HELD:
        house.directory.holds = lambda link, frame: frame.tag == HELD[place]
        reached, opened = (lambda: bool(house.directory.held)), house.directory.release
    else:
        where = house.directory if place in ("connect", "capabilities", "identify") else house.store
        gate = Gate(house, where, place, moment)
        reached, opened = gate.reached.is_set, gate.opened.set
    name, password = ALICE, PASSWORD + house.next_code()
    if place in ("admit", "status"):
        password = PASSWORD
        if place == "admit":
            name = SERVICE
    before = len(house.events)
    client.send(bind(2, name, password))
    await house.until(reached)
    if how == "leaves":
        client.leave()
    else:
        client.send(ldap.message(3, ldap.UNBIND) if how == "unbinds" else bind(3, SERVICE, PASSWORD))
    assert not client.pipe.open
    opened()
    await house.over()
    for _ in range(5):
        await asyncio.sleep(0)
    assert house.links_open == 0
    assert house.budget == Budget()
    assert not house.clients
    refused = ["second-bind"] if how == "binds again" else []
    assert sorted(event.reason for event in house.events[before:]) == sorted(["client-left", *refused])
    assert not [call for call in house.clock.getDelayedCalls() if "expire" in repr(call)]
    assert not any(frame.tag == ldap.BIND_RESPONSE and frame.id == 2 for frame in client.take())


async def test_the_client_leaves_before_the_logins_first_step(house):
    await house.open()
    client = house.client()
    assert await client.log_in() == 0
    client.front.dataReceived(bind(2, ALICE, PASSWORD + house.next_code()))
    client.pipe.cut()
    await house.over()
    await asyncio.sleep(0)
    assert house.links_open == 0
    assert house.budget == Budget()
    assert house.events[-1].reason == "client-left"
    assert len(house.directory.binds()) == 1


async def test_a_client_that_is_turned_away_and_stays_has_no_login_any_more(house):
    """It does not read its notice, and so does not go: the login ends all the same."""
    await house.open()
    house.directory.holds = lambda link, frame: True
    client = house.client()
    client.pipe.loseConnection = lambda: None
    client.send(bind(1, ALICE, PASSWORD + house.next_code()))
    await house.until(lambda: house.directory.held)
    client.send(bind(2, ALICE, PASSWORD))
    await house.over()
    assert client.pipe.open
    assert house.links_open == 0
    assert house.budget == Budget()
    assert house.events[-1].reason == "client-left"
    client.leave()


async def test_the_client_leaves_while_its_refusal_waits(house):
    await house.open()
    client = house.client()
    client.send(bind(1, ALICE, PASSWORD + "000000"))
    await house.idle()
    client.leave()
    await house.over()
    await asyncio.sleep(0)
    assert not house.waiting
    assert house.budget == Budget()
    assert [event.reason for event in house.events] == ["wrong-code"]


async def test_the_client_leaves_while_a_message_of_its_old_link_ends(house):
    await house.open()
    client, link = house.bound_client()
    link.send(result(1, ldap.SEARCH_REQUEST)[:5])
    client.front.dataReceived(bind(2, ALICE, PASSWORD + house.next_code()))
    await asyncio.sleep(0)
    client.leave()
    await house.over()
    await asyncio.sleep(0)
    assert house.links_open == 0
    assert house.budget == Budget()
    assert house.directory.binds() == []


async def test_a_login_waits_for_the_end_of_the_message_it_interrupted(house):
    await house.open()
    client, link = house.bound_client()
    whole = result(1, ldap.SEARCH_REQUEST)
    link.send(whole[:5])
    client.send(bind(2, SERVICE, PASSWORD))  # nothing of the store's is asked before the password is
    for _ in range(20):
        house.serve()
        await asyncio.sleep(0)
    assert house.directory.binds() == []
    link.send(whole[5:] + whole)
    first, answer = await client.answers(2)
    assert first.raw == whole
    assert (answer.id, ldap.read_result(answer).code) == (2, 0)
    assert not link.pipe.open


async def test_at_any_turn_of_the_loop_the_client_may_leave(house):
    """Whatever the login was doing: nothing is left behind, and who was admitted is on record."""
    await house.open()
    for turns in range(0, 120, 3):
        client = house.client(port=50_000 + turns)
        client.front.dataReceived(bind(1, ALICE, PASSWORD + house.next_code()))
        for _ in range(turns):
            house.serve()
            await asyncio.sleep(0)
        client.leave()
        await house.over()
        await asyncio.sleep(0)
        assert house.links_open == 0, turns
        assert house.budget == Budget(), turns
    assert {event.reason for event in house.events} <= {"client-left", "code"}


# -- the record


async def test_a_success_is_recorded_once_with_what_it_took(house):
    await house.open()
    house.with_(policy=Policy((Exempt(SERVICE),), unenrolled="password-only"))
    assert await house.client().log_in() == 0
    assert await house.client().log_in(SERVICE, PASSWORD) == 0
    assert [(event.outcome, event.reason, event.factor, event.result, event.reference) for event in house.events] == [
        ("accepted", "code", "totp", 0, ""),
        ("accepted", "exempt", None, 0, ""),
    ]
    kept = await house.store.events()
    assert sorted(event.reason for event in kept if hasattr(event, "outcome")) == ["code", "exempt"]
    assert PASSWORD not in repr(house.events) + repr(kept) + repr(house.logged)
