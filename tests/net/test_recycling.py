"""Links that serve one login after another: which may, what proves that nobody is bound, and what ends one.

Each link is looked at from the directory's end: `received` is what came on it, `bound` who is bound.
"""

import asyncio
from dataclasses import replace

import pytest
from world import (
    ALICE,
    BOB,
    FIRST_ID,
    PASSWORD,
    SERVICE,
    World,
    abandon,
    bind,
    controls,
    directory_settings,
    entry,
    extended,
    is_bind_as_nobody,
    result,
    root_dse,
    search,
    unbind,
)

from ldapmfa.wire import ber, dn, ldap

NOTICE = ldap.notice_of_disconnection(52, "Bye.")
MODIFY = ldap.message(5, ber.tlv(ldap.MODIFY_REQUEST, ber.tlv(4, ALICE.encode()), ber.tlv(0x30)))


@pytest.fixture
def house(tmp_path):
    return World(tmp_path, settings=directory_settings(spare_links=8))


async def settled(house):
    """Let everything run that needs no time."""
    for _ in range(10):
        house.serve()
        await asyncio.sleep(0)


async def given_back(house, name=ALICE, **options):
    """Somebody has logged in and left; the directory's end of the link."""
    client = house.client(port=45_000)
    assert await client.log_in(name, **options) == 0
    link = next(link for link in reversed(house.directory.served) if link.bound)
    client.leave()
    await settled(house)
    return link


def asked_as_nobody(link):
    return [frame for frame in link.received if is_bind_as_nobody(frame)]


def spare(house):
    return len(house.directory._spares._spare)


# -- the way of a link


async def test_a_clean_link_serves_the_next_login(house):
    await house.open()
    link = await given_back(house)
    assert link.bound is None
    assert (spare(house), house.links_open) == (1, 0)
    bob = house.client()
    assert await bob.log_in(BOB) == 0
    assert (spare(house), house.links_open) == (0, 1)
    assert len(house.directory.served) == 1
    binds = [ldap.read_bind(frame).name.decode() for frame in link.received if frame.tag == ldap.BIND_REQUEST]
    assert binds == [ALICE, "", BOB]
    assert link.bound == dn.normalise(BOB)
    bob.send(extended(7, ldap.OID_WHO_AM_I))
    (answer,) = await bob.answers()
    assert ldap.read_result(answer).value == f"dn:{BOB}".encode()
    assert house.events[-1].dn == BOB


@pytest.mark.parametrize("how", ["leaves", "unbinds", "binds as nobody", "binds without a password"])
async def test_however_a_client_ends_its_identity_the_link_may_serve_again(house, how):
    await house.open()
    client = house.client()
    assert await client.log_in() == 0
    if how == "leaves":
        client.leave()
    else:
        client.send({"unbinds": unbind(2), "binds as nobody": bind(2, "", ""), "binds without a password": bind(2, ALICE, "")}[how])
    await settled(house)
    assert spare(house) == 1
    assert await house.client().log_in(BOB) == 0
    assert len(house.directory.served) == 1


@pytest.mark.parametrize("password", [PASSWORD + "000000", PASSWORD, "wrong000000"])
async def test_A23_no_refusal_leaves_a_link_by_which_a_right_password_shows(house, password):
    """Whoever finds a spare link is served sooner than whoever has to wait for a new one."""
    await house.open()
    assert await house.client().log_in(ALICE, password) == 49
    await settled(house)
    assert spare(house) == 0
    assert not any(link.pipe.open for link in house.directory.served)


async def test_one_link_serves_many_and_each_is_itself(house):
    await house.open()
    for number in range(12):
        name = (ALICE, BOB, SERVICE)[number % 3]
        client = house.client(port=50_000 + number)
        assert await client.log_in(name, PASSWORD if name == SERVICE else None) == 0
        assert house.events[-1].dn == name
        assert house.directory.served[0].bound == dn.normalise(name)
        client.leave()
        await settled(house)
        assert house.directory.served[0].bound is None
    assert len(house.directory.served) == 1


async def test_logins_at_the_same_time_have_a_link_each(house):
    await house.open()
    clients = [house.client(port=50_000 + number) for number in range(3)]
    for client in clients:
        assert await client.log_in(SERVICE, PASSWORD) == 0
    assert house.links_open == 3
    for client in clients:
        client.leave()
    await settled(house)
    assert (spare(house), house.links_open) == (3, 0)
    clients = [house.client(port=51_000 + number) for number in range(4)]
    code = house.next_code()
    for name, client in zip((ALICE, BOB, SERVICE, SERVICE), clients, strict=True):
        client.send(bind(9, name, PASSWORD + ("" if name == SERVICE else code)))
    assert [await client.code() for client in clients] == [0] * 4
    assert len(house.directory.served) == 4
    assert sorted(link.bound for link in house.directory.served) == sorted([ALICE, BOB, SERVICE, SERVICE])


async def test_the_bind_as_nobody_has_an_id_of_ours_and_no_name_and_no_password(house):
    await house.open()
    link = await given_back(house, message_id=77)
    (frame,) = asked_as_nobody(link)
    assert frame.id >= FIRST_ID
    assert frame.controls == ()
    assert frame.raw == ldap.message(frame.id, ldap.bind_request(b"", b""))
    assert len({frame.id for frame in link.received}) == len(link.received)


async def test_the_same_message_id_for_everybody_is_nobody_elses_answer(house):
    """Clients choose the id of their bind: also one that ours had, or will have."""
    await house.open()
    link = await given_back(house, message_id=1)
    ours = [frame.id for frame in link.received if frame.id >= FIRST_ID]
    for message_id in (1, *ours, ours[-1] + 1, ours[-1] + 2):
        client = house.client()
        assert await client.log_in(BOB, message_id=message_id) == 0
        client.leave()
        await settled(house)
    assert len(house.directory.served) == 1


# -- what makes a link serve nobody else

STAINS = {
    "search": [search(5)],
    "whoami": [extended(5, ldap.OID_WHO_AM_I)],
    "modify": [MODIFY],
    "search and abandon": [search(5), abandon(6, 5)],
    "abandon alone": [abandon(6, 5)],
    "rootDSE": [root_dse(5)],
}


@pytest.mark.parametrize("stain", STAINS)
async def test_A49_a_link_that_carried_anything_of_a_client_serves_nobody_else(house, stain):
    await house.open()
    client = house.client()
    assert await client.log_in() == 0
    (link,) = house.directory.served
    client.send(*STAINS[stain])
    await settled(house)
    client.leave()
    await settled(house)
    assert not link.pipe.open
    assert asked_as_nobody(link) == []
    assert spare(house) == 0


async def test_A49_a_link_that_was_opened_for_the_root_dse_serves_nobody_else(house):
    """Its own client may bind on it; then it is closed with that client."""
    await house.open()
    client = house.client()
    client.send(root_dse(1))
    await client.answers(2)
    assert await client.log_in(message_id=2) == 0
    (link,) = house.directory.served
    client.leave()
    await settled(house)
    assert not link.pipe.open
    client = house.client()
    client.send(root_dse(1))
    await client.answers(2)
    client.leave()
    await settled(house)
    assert spare(house) == house.links_open == 0
    assert not any(asked_as_nobody(link) for link in house.directory.served)


async def test_A49_a_relayed_request_of_an_earlier_identity_stains_for_all_later_ones(house):
    await house.open()
    client = house.client()
    assert await client.log_in() == 0
    client.send(search(5))
    assert await client.code() == 0
    assert await client.log_in(SERVICE, PASSWORD, message_id=6) == 0
    assert len(house.directory.served) == 1, "the own client uses it again, having a quiet link"
    client.leave()
    await settled(house)
    assert not house.directory.served[0].pipe.open


@pytest.mark.parametrize(
    "said",
    [NOTICE, entry(5, ALICE, cn=[b"x"]), result(0, ldap.EXTENDED_REQUEST), result(1, ldap.BIND_REQUEST), b"\x30", entry(5, ALICE)[:9]],
    ids=["notice", "entry", "id 0", "a second bind response", "an octet", "a piece"],
)
async def test_A49_a_link_on_which_the_directory_spoke_unasked_serves_nobody_else(house, said):
    await house.open()
    client = house.client()
    assert await client.log_in() == 0
    (link,) = house.directory.served
    link.send(said)
    client.leave()
    await settled(house)
    assert not link.pipe.open
    assert asked_as_nobody(link) == []


async def test_a_link_on_which_the_directory_spoke_between_two_binds_serves_nobody_else(house):
    """An announcement, whole and harmless: the client's next bind is free to use the link, nobody else's."""
    await house.open()
    client = house.client()
    assert await client.log_in() == 0
    (link,) = house.directory.served
    link.send(ldap.message(0, ber.tlv(ldap.EXTENDED_RESPONSE, b"\x0a\x01\x00\x04\x00\x04\x00", ber.tlv(0x8A, b"1.2.3"))))
    assert await client.log_in(BOB, message_id=3) == 0
    client.leave()
    await settled(house)
    assert not link.pipe.open


async def test_a_link_whose_bind_carried_controls_serves_nobody_else(house):
    """They may have left a mark, as the password policy's do; also when the bind is refused for its code."""
    await house.open()
    for password, code in ((PASSWORD, 0), (PASSWORD + "000000", 49)):
        client = house.client()
        client.send(bind(1, SERVICE if code == 0 else ALICE, password, controls=controls(b"1.3.6.1.4.1.42.2.27.8.5.1", critical=False)))
        assert await (client.refused() if code else client.code()) == code
        link = house.directory.served[-1]
        client.leave()
        await settled(house)
        assert not link.pipe.open
        assert asked_as_nobody(link) == []


async def test_a_bind_with_controls_stains_a_link_that_was_recycled_before(house):
    await house.open()
    link = await given_back(house)
    client = house.client()
    client.send(bind(1, SERVICE, PASSWORD, controls=controls(b"1.3.6.1.4.1.42.2.27.8.5.1", critical=False)))
    assert await client.code() == 0
    assert len(house.directory.served) == 1
    assert await client.log_in(BOB, message_id=2) == 0  # without controls: the stain stays
    client.leave()
    await settled(house)
    assert not link.pipe.open


@pytest.mark.parametrize("code", [1, 10, 14, 32, 48, 49, 50, 53, 80])
async def test_A50_a_link_whose_bind_failed_serves_nobody_else(house, code):
    """Also one that had served before; and whatever a bind as nobody would be answered."""
    await house.open()
    link = await given_back(house)
    house.directory.misbehave = lambda link, frame: (
        [result(frame.id, frame.tag, code)] if frame.tag == ldap.BIND_REQUEST and not is_bind_as_nobody(frame) else None
    )
    assert await house.client().log_in(BOB) in (49, 52)
    await settled(house)
    assert not link.pipe.open
    assert len(asked_as_nobody(link)) == 1
    assert link.received[-1].tag == ldap.UNBIND_REQUEST
    assert spare(house) == 0


def answers_nobody(house, answer):
    house.directory.misbehave = lambda link, frame: answer(frame) if is_bind_as_nobody(frame) else None


@pytest.mark.parametrize(
    "answer",
    [
        *(lambda frame, code=code: [result(frame.id, frame.tag, code)] for code in (1, 8, 10, 14, 48, 49, 53)),
        lambda frame: [result(frame.id + 1, frame.tag)],
        lambda frame: [result(frame.id, ldap.SEARCH_REQUEST)],
        lambda frame: [result(0, frame.tag)],
        lambda frame: [entry(frame.id, ALICE), result(frame.id, frame.tag)],
        lambda frame: [NOTICE],
        lambda frame: [result(frame.id, frame.tag) + result(frame.id, frame.tag)],
        lambda frame: [result(frame.id, frame.tag) + b"\x30"],
        lambda frame: [result(frame.id, frame.tag) + entry(5, ALICE)[:9]],
        lambda frame: [b"\x30" + result(frame.id, frame.tag)],
        lambda frame: [ldap.message(frame.id, ber.tlv(ldap.BIND_RESPONSE))],
        lambda frame: [ldap.message(frame.id, ber.tlv(ldap.BIND_RESPONSE, b"\x0a\x01\x00"))],
        lambda frame: [b"HTTP/1.1 400 Bad Request\r\n\r\n"],
        lambda frame: [b"\x30\x80"],
    ],
)
async def test_A50_a_bind_as_nobody_that_is_not_plainly_granted_ends_the_link(house, answer):
    await house.open()
    answers_nobody(house, answer)
    link = await given_back(house)
    assert len(asked_as_nobody(link)) == 1
    assert not link.pipe.open
    assert spare(house) == 0
    assert await house.client().log_in(BOB) == 0
    assert len(house.directory.served) == 2


async def test_A50_a_bind_as_nobody_that_is_never_answered_ends_the_link(house):
    await house.open()
    answers_nobody(house, lambda frame: [])
    link = await given_back(house)
    assert spare(house) == 0
    bob = house.client()
    bob.send(bind(1, BOB, PASSWORD + house.next_code()))
    await settled(house)
    house.clock.advance(10.1)
    assert not link.pipe.open
    assert await bob.code() == 0
    assert len(house.directory.served) == 2
    link.send(result(asked_as_nobody(link)[0].id, ldap.BIND_REQUEST))
    await settled(house)
    assert spare(house) == 0


@pytest.mark.parametrize("late", [False, True])
async def test_a_directory_that_ends_the_link_instead_of_answering_is_no_trouble(house, late):
    await house.open()
    house.directory.holds = lambda link, frame: is_bind_as_nobody(frame)
    link = await given_back(house)
    link.pipe.cut()
    if late:
        house.directory.release()
    await settled(house)
    assert spare(house) == 0
    assert await house.client().log_in(BOB) == 0
    assert not house.logged


# -- whoever waits for one that is being given back


async def being_given_back(house, count=1):
    """Links that are being bound as nobody: the directory hesitates."""
    clients = [house.client(port=47_000 + number) for number in range(count)]
    for client in clients:
        assert await client.log_in(SERVICE, PASSWORD) == 0
    house.directory.holds = lambda link, frame: is_bind_as_nobody(frame)
    for client in clients:
        client.leave()
    await house.until(lambda: len(house.directory.held) == count)
    return list(house.directory.served)


async def test_a_login_may_wait_for_a_link_that_is_being_given_back_and_binds_behind_it(house):
    await house.open()
    (link,) = await being_given_back(house)
    clients = [house.client(port=50_000 + number) for number in range(3)]
    code = house.next_code()
    for client, name in zip(clients, (ALICE, BOB, SERVICE), strict=True):
        client.send(bind(1, name, PASSWORD + ("" if name == SERVICE else code)))
    assert await clients[2].code() == 0
    assert link.bound == SERVICE, "not answered yet, so still theirs who left"
    assert [ldap.read_bind(frame).name for frame in link.received if frame.tag == ldap.BIND_REQUEST] == [SERVICE.encode(), b""]
    house.directory.release()
    for client in clients[:2]:
        assert await client.code() == 0
    await settled(house)
    assert sorted(link.bound for link in house.directory.served if link.pipe.open) == sorted([ALICE, BOB, SERVICE])
    assert len(house.directory.served) == 3


@pytest.mark.parametrize("end", ["refused", "lost", "garbage", "more than the answer"])
async def test_A50_whoever_waits_for_a_link_that_turns_out_to_be_none_has_a_fresh_one(house, end):
    await house.open()
    (link,) = await being_given_back(house)
    client = house.client()
    client.send(bind(1, BOB, PASSWORD + house.next_code()))
    await settled(house)
    ((_, asked),) = house.directory.held
    if end == "lost":
        link.pipe.cut()
    else:
        granted = result(asked.id, asked.tag)
        link.send({"refused": result(asked.id, asked.tag, 49), "garbage": b"HTTP", "more than the answer": granted + NOTICE}[end])
    assert await client.code() == 0
    assert not link.pipe.open
    assert [other.bound for other in house.directory.served[1:]] == [BOB]


@pytest.mark.parametrize("octets", [NOTICE, b"\x30"], ids=["notice", "an octet"])
async def test_A49_octets_that_come_as_a_link_is_handed_on_are_nobodys_answer(house, octets):
    """Granted, and in the same turn of the loop it speaks: whoever was to have it must not take that for an answer."""
    await house.open()
    (link,) = await being_given_back(house)
    client = house.client()
    client.send(bind(1, BOB, "wrong" + house.next_code()))
    await settled(house)
    ((_, asked),) = house.directory.held
    house.directory.held.clear()
    link.bound = None
    link.send(result(asked.id, asked.tag))
    link.send(octets)
    await house.idle()
    house.clock.advance(0.3)
    assert await client.code() in (49, 52)
    assert client.state == "ANONYMOUS"
    assert house.links_open == 0


async def test_clients_that_leave_while_they_wait_for_a_link_take_none_along(house):
    await house.open()
    for turns in range(12):
        house.directory.holds = lambda link, frame: False
        await being_given_back(house, 3)
        waiting = [house.client(port=51_000 + number) for number in range(3)]
        for client in waiting:
            client.front.dataReceived(bind(1, SERVICE, PASSWORD))
        await settled(house)
        waiting[0].pipe.cut()
        house.directory.release()
        for _ in range(turns):
            await asyncio.sleep(0)
        waiting[1].pipe.cut()
        await house.over()
        assert house.links_open == 1, "the third's"
        assert await waiting[2].code() == 0
        waiting[2].leave()
        await settled(house)
        assert house.links_open == 0
        assert house.directory._spares._returning == 0
        assert not [awaited for awaited in house.directory._spares._awaited if not awaited.done()]
        assert sum(link.pipe.open for link in house.directory.served) == spare(house), "one is nobody's and never closed"


async def test_a_login_does_not_wait_for_long_for_a_link_that_another_gave_back(house):
    """A link that a firewall has forgotten is silent for ten seconds: that is its own trouble."""
    await house.open()
    await being_given_back(house)
    client = house.client()
    client.send(bind(1, BOB, PASSWORD + house.next_code()))
    await settled(house)
    house.clock.advance(1)
    for _ in range(300):
        house.serve()
        await asyncio.sleep(0.001)
    assert client.came


# -- how many, and how long


@pytest.mark.parametrize(("spare_links", "kept"), [(0, 0), (1, 1), (2, 2), (3, 3), (8, 4)])
@pytest.mark.parametrize("at_once", [False, True])
async def test_more_than_that_many_are_closed(tmp_path, spare_links, kept, at_once):
    """Also where all are given back before the first bind as nobody is answered."""
    house = World(tmp_path, settings=directory_settings(spare_links=spare_links))
    await house.open()
    clients = [house.client(port=50_000 + number) for number in range(4)]
    for client in clients:
        assert await client.log_in(SERVICE, PASSWORD) == 0
    for client in clients:
        client.pipe.cut()
        if not at_once:
            await settled(house)
    await settled(house)
    assert spare(house) == kept
    assert sum(link.pipe.open for link in house.directory.served) == kept
    await house.close()


async def test_a_link_that_was_spare_for_long_is_closed(house):
    house.directory.settings = replace(house.directory.settings, spare_seconds=30.0)
    await house.open()
    clients = [house.client(port=50_000 + number) for number in range(3)]
    for client in clients:
        assert await client.log_in(SERVICE, PASSWORD) == 0
    links = house.directory.served
    for client in clients:
        client.leave()
        await settled(house)
        house.clock.advance(10)
    assert [link.pipe.open for link in links] == [False, True, True]
    house.clock.advance(9.8)
    assert [link.pipe.open for link in links] == [False, True, True]
    house.clock.advance(0.4)
    assert [link.pipe.open for link in links] == [False, False, True]
    house.clock.advance(10)
    assert spare(house) == 0
    assert [link.pipe.open for link in links] == [False, False, False]
    house.clock.advance(100)
    assert not house.clock.getDelayedCalls()


async def test_the_time_begins_anew_with_each_login(house):
    await house.open()
    link = await given_back(house)
    for _ in range(5):
        house.clock.advance(20)
        assert await given_back(house, BOB) is link
    house.clock.advance(31)
    assert not link.pipe.open


async def test_the_one_used_last_is_used_next(house):
    """So the others can grow old."""
    await house.open()
    clients = [house.client(port=50_000 + number) for number in range(3)]
    for client in clients:
        assert await client.log_in(SERVICE, PASSWORD) == 0
    for client in clients:
        client.leave()
        await settled(house)
    assert await house.client().log_in(BOB) == 0
    assert [link.bound for link in house.directory.served] == [None, None, BOB]


async def test_closing_the_directory_closes_what_nobody_uses(house):
    await house.open()
    link = await given_back(house)
    client = house.client()
    house.directory.close()
    assert not link.pipe.open
    assert not [call for call in house.clock.getDelayedCalls() if "_clear" in repr(call)]
    assert await client.log_in(BOB) == 0  # whoever is being served is served
    client.leave()
    await settled(house)
    assert house.links_open == spare(house) == 0
    assert not any(link.pipe.open for link in house.directory.served)
    house.directory.close()


async def test_closing_the_directory_closes_what_is_just_being_given_back(house):
    await house.open()
    house.directory.holds = lambda link, frame: is_bind_as_nobody(frame)
    link = await given_back(house)
    house.directory.close()
    house.directory.release()
    await settled(house)
    assert not link.pipe.open
    assert spare(house) == 0


# -- a spare link that is dead


def dies_at_bind(*links, octets=b"", only=lambda frame: True):
    """A directory whose `links` are dead, which shows when somebody binds on them."""

    def misbehave(link, frame):
        if link in links and frame.tag == ldap.BIND_REQUEST and only(frame):
            link.send(octets) if octets else None
            link.pipe.cut()
            return []
        return None

    return misbehave


async def several_spare(house, count):
    clients = [house.client(port=46_000 + number) for number in range(count)]
    for client in clients:
        assert await client.log_in(SERVICE, PASSWORD) == 0
    for client in clients:
        client.leave()
    await settled(house)
    assert spare(house) == count
    return list(house.directory.served)


async def test_A18_a_spare_link_that_is_found_dead_is_replaced_by_a_fresh_one(house):
    await house.open()
    links = await several_spare(house, 3)
    before = len(house.directory.binds())
    house.directory.misbehave = dies_at_bind(*links)
    assert await house.client().log_in(BOB) == 0
    assert len(house.directory.binds()) == before + 2
    assert len(house.directory.served) == 4, "a fresh one, not another that may be as dead"


async def test_A18_it_is_replaced_once(house):
    await house.open()
    await several_spare(house, 3)
    before = len(house.directory.binds())

    def dies(link, frame):
        return dies_at_bind(link)(link, frame)

    house.directory.misbehave = dies
    assert await house.client().log_in(BOB) == 52
    assert len(house.directory.binds()) == before + 2
    assert house.links_open == 0


async def test_A18_whatever_is_dead_a_password_is_sent_twice_at_most(house):
    """The client's own link, then a spare one: each may have counted a wrong password before it went."""
    await house.open()
    client = house.client()
    assert await client.log_in() == 0
    links = await several_spare(house, 2)
    house.directory.misbehave = dies_at_bind(*links)
    before = len(house.directory.binds())
    await client.log_in(BOB, message_id=2)
    assert len(house.directory.binds()) <= before + 2


@pytest.mark.parametrize(
    "octets",
    [b"\x30", result(1, ldap.BIND_REQUEST)[:5], result(9, ldap.BIND_REQUEST), result(1, ldap.SEARCH_REQUEST), NOTICE],
    ids=["an octet", "a piece", "another id", "another answer", "notice"],
)
async def test_A18_after_an_octet_the_password_is_not_sent_again(house, octets):
    await house.open()
    link = await given_back(house)
    before = len(house.directory.binds())
    house.directory.misbehave = dies_at_bind(link, octets=octets)
    assert await house.client().log_in(BOB) == 52
    assert len(house.directory.binds()) == before + 1
    assert house.links_open == 0


async def test_A18_a_spare_link_that_does_not_answer_in_time_is_not_replaced(house):
    """The bind may have been done."""
    await house.open()
    await given_back(house)
    house.directory.holds = lambda link, frame: frame.tag == ldap.BIND_REQUEST
    before = len(house.directory.binds())
    client = house.client()
    client.send(bind(1, BOB, PASSWORD + house.next_code()))
    await house.until(lambda: house.directory.held)
    house.clock.advance(10.1)
    assert await client.code() == 52
    assert len(house.directory.binds()) == before + 1


async def test_a_spare_link_that_goes_after_its_bind_breaks_the_login(house):
    await house.open()
    link = await given_back(house)
    before = len(house.directory.binds())
    house.directory.misbehave = lambda served, frame: link.pipe.cut() or [] if frame.tag == ldap.EXTENDED_REQUEST else None
    assert await house.client().log_in(BOB) == 52
    assert len(house.directory.binds()) == before + 1


async def test_a_spare_link_that_ended_at_rest_costs_nothing(house):
    await house.open()
    links = await several_spare(house, 2)
    links[0].pipe.cut()
    links[1].pipe.cut()
    before = len(house.directory.binds())
    assert await house.client().log_in(BOB) == 0
    assert len(house.directory.binds()) == before + 1
    assert len(house.directory.served) == 3
    house.clock.advance(100)


async def test_a_client_that_leaves_while_a_spare_link_is_tried_leaves_nothing(house):
    await house.open()
    link = await given_back(house)
    house.directory.holds = lambda link, frame: frame.tag == ldap.BIND_REQUEST
    client = house.client()
    client.send(bind(1, BOB, PASSWORD + house.next_code()))
    await house.until(lambda: house.directory.held)
    client.leave()
    await house.over()
    house.directory.release()
    await settled(house)
    assert not link.pipe.open, "what was asked may yet be answered"
    assert house.links_open == spare(house) == 0


# -- what comes when nobody asked


@pytest.mark.parametrize(
    "octets",
    [
        NOTICE,
        entry(5, ALICE),
        result(1, ldap.BIND_REQUEST),
        b"\x30\x80",
        b"\x30",
        result(1, ldap.BIND_REQUEST)[:-1],
    ],
    ids=["notice", "entry", "bind response", "garbage", "an octet", "a piece"],
)
async def test_A49_octets_on_a_spare_link_end_it(house, octets):
    """The next login must not even notice: it has a fresh one."""
    await house.open()
    link = await given_back(house)
    link.send(octets)
    client = house.client()
    assert await client.log_in(BOB) == 0
    assert not link.pipe.open
    assert len(house.directory.served) == 2


async def test_A49_a_piece_of_a_bind_response_left_on_a_spare_link_is_nobodys_success(house):
    """Half an answer, success, under the id that the next client will choose: its wrong password must not be answered by it."""
    await house.open()
    link = await given_back(house)
    forged = result(1, ldap.BIND_REQUEST)
    link.send(forged[:-1])
    house.directory.misbehave = lambda served, frame: (
        [forged[-1:] + result(frame.id, frame.tag, 49)] if served is link and frame.tag == ldap.BIND_REQUEST else None
    )
    client = house.client()
    client.send(bind(1, BOB, "wrong" + house.next_code()))
    await house.idle()
    house.clock.advance(0.3)
    assert await client.code() in (49, 52)
    assert client.state == "ANONYMOUS"


@pytest.mark.parametrize("moment", ["before", "behind", "later"])
async def test_A49_nothing_meant_for_one_client_reaches_the_next(house, moment):
    """Entries of alice's come around the bind as nobody, and later, while bob is bound."""
    await house.open()
    leftover = entry(5, ALICE, secret=[b"of alice"]) + result(5, ldap.SEARCH_REQUEST)
    answers_nobody(
        house,
        lambda frame: [leftover + result(frame.id, frame.tag)] if moment == "before" else [result(frame.id, frame.tag) + leftover] if moment == "behind" else None,
    )
    link = await given_back(house)
    if moment == "later":
        assert spare(house) == 1
        link.send(leftover)
    assert not link.pipe.open
    bob = house.client()
    assert await bob.log_in(BOB) == 0
    link.send(leftover)
    await settled(house)
    assert b"alice" not in bytes(bob.pipe.written)
    assert len(house.directory.served) == 2


async def test_answers_of_one_are_counted_apart_from_those_of_the_next(house):
    """What is owed, and whether the stream is at a boundary, begins anew with each client."""
    await house.open()
    link = await given_back(house)
    bob = house.client()
    assert await bob.log_in(BOB) == 0
    assert link.link.quiet
    assert link.link.at_boundary
    assert not link.link.owes
    bob.send(search(5))
    assert await bob.code() == 0
    link.send(entry(6, BOB)[:9])
    assert not link.link.at_boundary


# -- reading


async def test_a_link_that_was_not_read_when_it_was_given_back_is_read_again(house):
    await house.open()
    client = house.client()
    assert await client.log_in() == 0
    (link,) = house.directory.served
    client.front.pauseProducing()  # its client does not read
    assert link.pipe.paused
    client.leave()
    assert not link.pipe.paused
    assert link.pipe.producer is None
    await settled(house)
    assert spare(house) == 1
    bob = house.client()
    assert await bob.log_in(BOB) == 0
    assert not link.pipe.paused
    client.front.pauseProducing()  # a ghost: whoever was there before has no hand in it
    client.front.resumeProducing()
    assert not link.pipe.paused


async def test_A49_what_waited_unread_on_a_link_is_found_before_it_serves_again(house):
    """Nothing was read while its client did not: the link looked clean."""
    await house.open()
    client = house.client()
    assert await client.log_in() == 0
    (link,) = house.directory.served
    unread = entry(5, ALICE, secret=[b"of alice"])
    client.front.pauseProducing()
    resume = link.pipe.resumeProducing

    def resumed():
        resume()
        asyncio.get_running_loop().call_soon(link.send, unread)  # the octets that the kernel held

    link.pipe.resumeProducing = resumed
    client.leave()
    await settled(house)
    assert not link.pipe.open
    assert spare(house) == 0


async def test_a_link_whose_client_was_stopped_by_it_has_no_more_to_do_with_that_client(house):
    """The directory did not read, so its client was not read; then the client is dropped, and the link is another's."""
    await house.open()
    client = house.client()
    assert await client.log_in() == 0
    (link,) = house.directory.served
    producer = link.pipe.producer
    producer.pauseProducing()
    assert client.pipe.paused
    client.send(bind(2, "", ""))
    assert not client.pipe.paused
    await settled(house)
    bob = house.client()
    assert await bob.log_in(BOB) == 0
    assert link.pipe.producer is not producer
    link.pipe.producer.pauseProducing()
    assert bob.pipe.paused
    assert not client.pipe.paused


# -- at any turn


async def test_at_any_turn_of_the_loop_a_client_may_leave_and_the_next_is_itself(house):
    await house.open()
    for turns in range(0, 120, 3):
        client = house.client(port=50_000 + turns)
        client.front.dataReceived(bind(1, ALICE, PASSWORD + house.next_code()))
        for _ in range(turns):
            house.serve()
            await asyncio.sleep(0)
        client.leave()
        for _ in range(turns % 7):
            house.serve()
            await asyncio.sleep(0)
        bob = house.client(port=51_000 + turns)
        assert await bob.log_in(BOB) == 0, turns
        assert [link.bound for link in house.directory.served if not link.given_up].count(BOB) == 1, turns
        if turns % 4 == 0:  # a request relayed ends the recycling
            bob.send(extended(7, ldap.OID_WHO_AM_I))
            assert ldap.read_result((await bob.answers())[0]).value == f"dn:{BOB}".encode()
        bob.leave()
        await house.over()
        await settled(house)
        assert house.links_open == 0, turns
    # bob's link was given back in three of four rounds, however far alice had come in hers
    assert sum(len(asked_as_nobody(link)) for link in house.directory.served) >= 30
