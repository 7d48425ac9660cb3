"""Approvals that are pending: what they hold, what is given up for them, and every way out."""

import asyncio
import gc
from dataclasses import replace

import pytest
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
    passwords_in_memory,
    people,
    result,
    search,
    unbind,
)

from ldapmfa.core.policy import Exempt, Policy, ServiceRule
from ldapmfa.errors import FactorDown, StoreDown
from ldapmfa.factors.service import Allowed, CodeSent, Waiting
from ldapmfa.net import driver
from ldapmfa.net.budget import Budget
from ldapmfa.wire import dn, ldap

POLICY = Policy((Exempt(SERVICE),), services=(ServiceRule("push", ("push", "phone", "sms"), takes_codes=True),))


async def asking(tmp_path, **settings):
    """A proxy that asks the owner of each account."""
    house = World(tmp_path, settings=directory_settings(**settings))
    await house.open()
    return house.with_(policy=POLICY)


@pytest.fixture(params=[0, 8], ids=["links used once", "links recycled"])
def spare_links(request):
    return request.param


@pytest.fixture
def house(tmp_path, spare_links):
    return World(tmp_path, settings=directory_settings(spare_links=spare_links), policy=POLICY)


def limit(house, pending_links):
    house.directory.settings = replace(house.directory.settings, pending_links=pending_links)


async def settled(house):
    for _ in range(10):
        house.serve()
        await asyncio.sleep(0)


async def pending(house, name=ALICE, password=PASSWORD, message_id=1, **where):
    """A client whose owner is being asked."""
    before = house.owner.pending
    client = house.client(**where)
    client.send(bind(message_id, name, password))
    await house.until(lambda: house.owner.pending > before)
    await settled(house)
    return client


def bound(house):
    return sorted(link.bound for link in house.directory.served if link.pipe.open and link.bound)


def nothing_is_left(house):
    assert house.directory.pending == 0
    assert house.owner.pending == 0
    assert house.links_open == 0
    assert house.budget == Budget()
    assert not house.waiting
    assert not [call for call in house.clock.getDelayedCalls() if call.func.__qualname__ == "Deadline._expire"]
    assert house.rows("prompts") == 0


# -- the way


async def test_an_owner_who_says_yes_lets_in_on_the_link_that_was_bound(house):
    await house.open()
    client = await pending(house, port=40_123)
    (prompt,) = house.owner.prompts
    assert (prompt.identity.dn, prompt.user, prompt.application, prompt.client) == (ALICE, "alice", "app", "192.0.2.7")
    assert (prompt.method, prompt.device, prompt.password) == ("", "", None)
    assert (house.directory.pending, bound(house)) == (1, [ALICE])
    assert client.came == b""
    house.owner.say(True)
    assert await client.code() == 0
    assert house.directory.binds() == [(ALICE, PASSWORD)]
    event = house.events[-1]
    assert (event.outcome, event.reason, event.factor, event.dn) == ("accepted", "approved", "push", ALICE)
    assert (await house.store.events())[0].reason == "approved"
    client.send(search(2))
    assert await client.code() == 0
    client.leave()
    await settled(house)
    nothing_is_left(house)


@pytest.mark.parametrize(
    "answer",
    [False, None, 1, "true", "false", b"yes", [True], object(), Allowed, Waiting("true"), CodeSent()],
    ids=lambda answer: repr(answer).partition(" at ")[0],
)
@pytest.mark.parametrize("parked", [False, True])
async def test_A25_whatever_is_not_allowed_is_a_refusal(house, answer, parked):
    await house.open()
    limit(house, 0 if parked else 200)
    client = await pending(house)
    house.owner.say(answer)
    assert await client.refused() == 49
    assert client.state == "ANONYMOUS"
    assert house.events[-1].reason == ("no-answer" if answer is None else "denied")
    assert len(house.directory.binds()) == 1
    await settled(house)
    nothing_is_left(house)


@pytest.mark.parametrize("broken", [FactorDown("no answer"), ValueError("secret"), KeyError("secret"), TimeoutError()])
@pytest.mark.parametrize("parked", [False, True])
async def test_A24_a_factor_that_breaks_is_no_success(house, broken, parked):
    await house.open()
    limit(house, 0 if parked else 200)
    client = await pending(house)
    house.owner.say(broken)
    assert await client.code() == 52
    assert house.events[-1].outcome == "broken"
    assert "secret" not in repr(house.events)
    await settled(house)
    nothing_is_left(house)


async def test_a_factor_that_there_is_not_is_no_success(house):
    await house.open()
    house.with_(policy=replace(POLICY, services=(ServiceRule("pigeon", ("pigeon",)),)))
    client = house.client()
    client.send(bind(1, ALICE, PASSWORD))
    assert await client.code() == 52
    await settled(house)
    nothing_is_left(house)


async def test_A03_nothing_of_the_client_passes_while_its_owner_is_asked(house):
    await house.open()
    for parked in (False, True):
        limit(house, 0 if parked else 200)
        client = await pending(house)
        client.send(search(2))
        await settled(house)
        assert not any(frame.id == 2 for frame in house.directory.seen)
        house.owner.say(False)
        await house.idle()
        house.clock.advance(0.3)
        assert [(frame.id, ldap.read_result(frame).code) for frame in await client.answers(2)] == [(1, 49), (2, 50)]
        assert not any(frame.id == 2 for frame in house.directory.seen)


@pytest.mark.parametrize("name", [SERVICE, ALICE, BOB])
async def test_a_code_or_an_exemption_asks_no_owner(house, name):
    await house.open()
    assert await house.client().log_in(name, PASSWORD if name == SERVICE else None) == 0
    assert house.owner.prompts == []


async def test_A18_a_wrong_code_asks_no_owner(house):
    await house.open()
    assert await house.client().log_in(ALICE, PASSWORD + "000000") == 49
    assert await house.client().log_in(ALICE, "wrong") == 49
    assert house.owner.prompts == []


# -- parked


async def test_up_to_the_limit_links_are_held_and_beyond_it_none(house):
    await house.open()
    limit(house, 3)
    names = people(house, 8)
    clients = [await pending(house, names[number], port=50_000 + number) for number in range(7)]
    assert house.owner.pending == 7
    assert house.directory.pending == 3
    assert bound(house) == names[:3]
    assert house.links_open == 3
    house.owner.say(True, 1)  # the second one's, which is held: room for another
    assert await clients[1].code() == 0
    assert house.directory.pending == 2
    later = await pending(house, names[7], port=51_000)
    assert house.directory.pending == 3
    for client in (clients[0], *clients[2:], later):
        house.owner.say(True)
        assert await client.code() == 0
    assert house.directory.pending == 0
    assert bound(house) == names
    for client in (*clients, later):
        client.leave()
    await settled(house)
    nothing_is_left(house)


async def test_a_parked_login_binds_again_and_the_new_answer_is_passed_on(house):
    await house.open()
    limit(house, 0)
    said = iter((b"first", b"second"))

    def misbehave(link, frame):
        if frame.tag != ldap.BIND_REQUEST or is_bind_as_nobody(frame):
            return None
        link.bound = dn.normalise(ALICE)
        return [result(frame.id, frame.tag, 0, next(said).decode())]

    house.directory.misbehave = misbehave
    client = await pending(house, message_id=9)
    assert house.links_open == 0
    house.owner.say(True)
    (answer,) = await client.answers()
    assert (answer.id, ldap.read_result(answer).code, ldap.read_result(answer).text) == (9, 0, b"second")
    assert house.directory.binds() == [(ALICE, PASSWORD)] * 2
    assert bound(house) == [ALICE]


async def test_a_parked_links_place_is_another_logins(tmp_path):
    """What is recycled is the connection alone: bob logs in on it while alice's owner is asked."""
    house = await asking(tmp_path, spare_links=8, pending_links=0)
    alice = await pending(house)
    (link,) = house.directory.served
    assert link.given_up
    bob = house.client(port=50_001)
    assert await bob.log_in(BOB) == 0
    assert link.bound == BOB
    house.owner.say(True)
    assert await alice.code() == 0
    assert [link.bound for link in house.directory.served] == [BOB, ALICE]
    for client, name in ((alice, ALICE), (bob, BOB)):
        client.send(ldap.message(5, ldap.extended_request(ldap.OID_WHO_AM_I)))
        (answer,) = await client.answers()
        assert ldap.read_result(answer).value == f"dn:{name}".encode()
    await house.close()


async def test_the_link_of_a_bind_before_is_given_up_too(house):
    """The client's own link, on which it was bound and has searched: parked, it is closed; not, it is used."""
    await house.open()
    limit(house, 0)
    client = house.client()
    assert await client.log_in(BOB) == 0
    client.send(search(2))
    assert await client.code() == 0
    client.send(bind(3, ALICE, PASSWORD))
    await house.until(lambda: house.owner.pending)
    await settled(house)
    assert not house.directory.served[0].pipe.open
    house.owner.say(True)
    assert await client.code() == 0
    assert bound(house) == [ALICE]


@pytest.mark.parametrize("how", ["lost", "closed by us"])
async def test_a_link_that_is_lost_while_pending_counts_as_parked(house, how):
    await house.open()
    client = await pending(house)
    (link,) = house.directory.served
    if how == "lost":
        link.pipe.cut()
    else:
        link.link.close()
    assert not link.pipe.open
    assert house.directory.pending == 1
    house.owner.say(True)
    assert await client.code() == 0
    assert house.directory.binds() == [(ALICE, PASSWORD)] * 2
    assert bound(house) == [ALICE]
    client.send(search(2))
    assert await client.code() == 0
    client.leave()
    await settled(house)
    nothing_is_left(house)


@pytest.mark.parametrize(
    "octets",
    [ldap.notice_of_disconnection(52, ""), entry(1, ALICE), b"\x30\x80"],
    ids=["a notice", "an entry", "garbage"],
)
async def test_A49_what_nobody_asked_for_while_pending_breaks_the_login(house, octets):
    await house.open()
    client = await pending(house)
    (link,) = house.directory.served
    link.send(octets)
    assert not link.pipe.open
    house.owner.say(True)
    assert await client.code() == 52
    assert house.directory.binds() == [(ALICE, PASSWORD)]
    assert house.events[-1].reason == "directory-down"
    client.leave()
    await settled(house)
    nothing_is_left(house)


async def test_A49_a_piece_that_came_while_pending_is_no_success(house):
    await house.open()
    client = await pending(house)
    (link,) = house.directory.served
    link.send(entry(1, ALICE)[:9])
    house.owner.say(True)
    code = await client.code()
    assert code in (0, 52)
    client.send(search(2))
    assert await client.code() == (0 if code == 0 else 50)
    assert not link.pipe.open
    client.leave()
    await settled(house)
    nothing_is_left(house)


async def test_A31_another_account_under_that_name_is_refused(house):
    """Deleted and created anew while its owner was asked."""
    await house.open()
    limit(house, 0)
    client = await pending(house)
    house.directory.uuids[dn.normalise(ALICE)] = "99999999-9999-4999-8999-999999999999"
    house.owner.say(True)
    assert await client.refused() == 49
    event = house.events[-1]
    assert event.reason == "another-account"
    assert "9999" in event.detail
    assert client.state == "ANONYMOUS"
    await settled(house)
    nothing_is_left(house)


async def test_A31_whoever_is_bound_by_the_second_bind_it_must_be_the_same(house):
    await house.open()
    limit(house, 0)
    client = await pending(house)
    house.directory.misbehave = lambda link, frame: (
        [result(frame.id, frame.tag, value=f"dn:{SERVICE}".encode())] if frame.tag == ldap.EXTENDED_REQUEST else None
    )
    house.owner.say(True)
    assert await client.refused() == 49
    assert house.events[-1].reason == "another-account"
    await settled(house)
    nothing_is_left(house)


@pytest.mark.parametrize("code", [49, 19, 53])
async def test_a_password_that_is_wrong_by_now_is_refused(house, code):
    await house.open()
    limit(house, 0)
    client = await pending(house)
    house.directory.misbehave = lambda link, frame: (
        [result(frame.id, frame.tag, code)] if frame.tag == ldap.BIND_REQUEST and not is_bind_as_nobody(frame) else None
    )
    house.owner.say(True)
    assert await client.refused() == 49
    assert house.events[-1].reason == "password"
    await settled(house)
    nothing_is_left(house)


@pytest.mark.parametrize("moment", ["connect", ldap.BIND_REQUEST, ldap.EXTENDED_REQUEST, ldap.SEARCH_REQUEST])
async def test_a_directory_that_breaks_at_the_second_bind_is_no_success(house, moment):
    await house.open()
    limit(house, 0)
    client = await pending(house)
    for link in house.directory.served:
        link.pipe.cut()
    if moment == "connect":
        house.directory.down = True
    else:
        house.directory.misbehave = lambda link, frame: (
            link.pipe.cut() or [] if frame.tag == moment and not is_bind_as_nobody(frame) else None
        )
    house.owner.say(True)
    assert await client.code() == 52
    assert client.state == "ANONYMOUS"
    assert house.events[-1].reason == "directory-down"
    await settled(house)
    nothing_is_left(house)


async def test_A26_a_store_that_breaks_after_the_approval_is_no_success(house):
    await house.open()

    async def breaks(*_args, **_kwargs):
        raise StoreDown("the disk is gone")

    house.store.admit = breaks
    for parked in (False, True):
        limit(house, 0 if parked else 200)
        client = await pending(house)
        house.owner.say(True)
        assert await client.code() == 52
        assert client.state == "ANONYMOUS"
    await settled(house)
    nothing_is_left(house)


# -- every way out


@pytest.mark.parametrize("parked", [False, True])
@pytest.mark.parametrize("how", ["leaves", "unbinds", "binds again", "sends garbage", "is stopped"])
async def test_A09_a_client_that_leaves_cancels_the_question(house, how, parked):
    await house.open()
    limit(house, 0 if parked else 200)
    client = await pending(house)
    if how == "leaves":
        client.leave()
    elif how == "is stopped":
        client.front.abort()
    else:
        client.send({"unbinds": unbind(2), "binds again": bind(2, SERVICE, PASSWORD), "sends garbage": b"HTTP"}[how])
    await house.over()
    await settled(house)
    assert house.owner.cancelled == 1
    assert not client.pipe.open
    nothing_is_left(house)
    assert sorted(event.reason for event in house.events) == ["client-left", *(["second-bind"] if how == "binds again" else [])]
    assert not any(event.outcome == "accepted" for event in house.events)


@pytest.mark.parametrize("parked", [False, True])
async def test_the_deadline_ends_a_question_that_nobody_answers(house, parked):
    await house.open()
    house.with_(doorway=replace(house.listener.doorway, deadline=20.0))
    limit(house, 0 if parked else 200)
    client = await pending(house)
    house.clock.advance(19.4)
    await settled(house)
    assert client.came == b""
    house.clock.advance(0.2)
    assert await client.refused() == 49
    assert house.events[-1].reason == "no-answer"
    await house.over()
    assert house.owner.cancelled == 1
    assert client.state == "ANONYMOUS"
    nothing_is_left(house)


async def test_the_deadline_holds_for_the_second_bind_too(house):
    await house.open()
    house.with_(doorway=replace(house.listener.doorway, deadline=20.0))
    limit(house, 0)
    client = await pending(house)
    house.clock.advance(15)
    house.directory.holds = lambda link, frame: frame.tag == ldap.BIND_REQUEST
    house.owner.say(True)
    await house.until(lambda: house.directory.held)
    house.clock.advance(5.1)
    assert await client.code() == 52
    assert house.events[-1].reason == "deadline"
    house.directory.release()
    await settled(house)
    nothing_is_left(house)


async def test_A09_at_any_turn_of_the_loop_the_client_may_leave_and_the_owner_say_yes(house):
    await house.open()
    for turns in range(0, 60, 2):
        house.now += 3600
        limit(house, turns % 3)
        client = house.client(port=50_000 + turns)
        client.front.dataReceived(bind(1, ALICE, PASSWORD))
        for turn in range(turns):
            house.serve()
            await asyncio.sleep(0)
            if turn > turns // 2 and house.owner.pending:
                house.owner.say(True)
        client.leave()
        await house.over()
        await settled(house)
        nothing_is_left(house)
    assert {event.reason for event in house.events} <= {"client-left", "approved"}


async def test_A07_one_of_many_that_leave_takes_nobody_along(house):
    await house.open()
    limit(house, 2)
    names = people(house, 6)
    clients = [await pending(house, names[number], port=50_000 + number) for number in range(6)]
    for client in clients[::2]:
        client.leave()
    await house.until(lambda: house.owner.cancelled == 3)
    assert house.owner.pending == 3
    assert house.directory.pending == 1  # the second one's
    for client in clients[1::2]:
        house.owner.say(True)
        assert await client.code() == 0
    for client in clients[1::2]:
        client.leave()
    await settled(house)
    nothing_is_left(house)


# -- one prompt for an account


async def test_A21_an_equal_bind_while_the_owner_is_asked_asks_nobody(house):
    await house.open()
    first = await pending(house)
    second = house.client(port=50_001)
    second.send(bind(1, ALICE, PASSWORD))
    await house.until(lambda: house.events and house.events[-1].reason == "asked-already")
    await settled(house)
    house.clock.advance(0.3)
    assert await second.code() == 49
    assert house.owner.pending == 1
    house.owner.say(True)
    assert await first.code() == 0
    third = await pending(house, port=50_002)
    third.leave()
    await settled(house)
    fourth = await pending(house, port=50_003)
    house.owner.say(True)
    assert await fourth.code() == 0


async def test_A20_whoever_is_locked_for_wrong_codes_is_not_asked(house):
    await house.open(wrong_codes=1)
    assert await house.client().log_in(ALICE, PASSWORD + "000000") == 49
    assert await house.client(port=50_001).log_in(ALICE, PASSWORD) == 49
    assert house.events[-1].reason == "locked"
    assert house.owner.pending == 0


# -- secrets


@pytest.mark.parametrize("parked", [False, True])
@pytest.mark.parametrize("end", ["approved", "denied", "broken", "client leaves", "deadline", "wrong by now", "another by now"])
async def test_A43_the_password_is_not_kept_after_the_answer(house, end, parked):
    """Not in the login, nor in a frame, a task, an exception or a callback: whatever the collector can reach."""
    await house.open()
    house.directory.passwords[dn.normalise(ALICE)] = b"only-here-77"
    limit(house, 0 if parked else 200)
    client = await pending(house, password="only-here-77")
    assert passwords_in_memory("only-here-77")
    if "by now" in end:
        if not parked:
            house.directory.served[0].pipe.cut()
        if end == "wrong by now":
            house.directory.passwords[dn.normalise(ALICE)] = b"another"
        else:
            house.directory.uuids[dn.normalise(ALICE)] = "99999999-9999-4999-8999-999999999999"
    if end == "client leaves":
        client.leave()
    elif end == "deadline":
        house.clock.advance(29.6)
        assert await client.refused() == 49
    else:
        house.owner.say(FactorDown("x") if end == "broken" else end != "denied")
        if end in ("approved", "broken"):
            assert await client.code() == (0 if end == "approved" else 52)
        else:
            assert await client.refused() == 49
    await house.over()
    await settled(house)
    house.directory.misbehave = lambda link, frame: None
    assert passwords_in_memory("only-here-77") == []


@pytest.mark.parametrize("how", ["code", "exempt", "wrong password", "wrong code"])
async def test_A43_nor_after_any_other_login(house, how):
    await house.open()
    for name in (ALICE, SERVICE):
        house.directory.passwords[dn.normalise(name)] = b"only-here-78"
    client = house.client()
    name = SERVICE if how == "exempt" else ALICE
    typed = {"code": "only-here-78" + house.next_code(), "wrong code": "only-here-78000000", "wrong password": "not-only-here-78000000"}
    assert await client.log_in(name, typed.get(how, "only-here-78")) == (49 if "wrong" in how else 0)
    await house.over()
    await settled(house)
    assert passwords_in_memory("only-here-78") == []


async def test_A43_while_pending_the_password_is_kept_once_and_shows_nowhere(house):
    await house.open()
    limit(house, 0)
    house.directory.passwords[dn.normalise(ALICE)] = b"only-here-79"
    await pending(house, password="only-here-79")
    assert "only-here-79" not in repr(house.owner.prompts) + repr(house.events) + repr(house.logged)
    logins = [found for found in gc.get_objects() if isinstance(found, driver.Login)]
    assert logins
    assert all("only-here-79" not in repr(vars(login)) for login in logins)
    assert all(login._password is None for login in logins), "identified: it is not needed for that any more"
