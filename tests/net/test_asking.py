"""What logins ask of services: how often, for how long, for whom else an answer counts, and what a service's trouble does.

The whole proxy in memory, with a clock that stands still unless a test moves it: what is answered without moving it
took no time. What a pending approval holds, and every way out of one, is in test_approvals.py.
"""

import asyncio
import gc
import tracemalloc
from dataclasses import replace
from types import SimpleNamespace

import pytest
from world import ALICE, BOB, PASSWORD, SERVICE, Owner, World, bind, dn, passwords_in_memory, people

from ldapmfa.audit import LoginEnded
from ldapmfa.config import ServiceTable
from ldapmfa.core.identity import Identity
from ldapmfa.core.policy import Exempt, Policy, ServiceRule
from ldapmfa.core.secret import CodeForm, Secret
from ldapmfa.core.session import Rules
from ldapmfa.errors import FactorDown, FactorUnreachable, StoreDown
from ldapmfa.factors.breaker import Guarded
from ldapmfa.factors.service import Allowed, CodeSent, Denied, Prompt
from ldapmfa.net import assembly, service
from ldapmfa.net.asking import Asking, Terms
from ldapmfa.store import Grant

PUSH = ServiceRule("push", ("push", "phone", "sms"), takes_codes=True)
POLICY = Policy((Exempt(SERVICE),), services=(PUSH,))
KEYWORDS = {b"push": "push", b"sms": "sms"}
CODES = {"accepted": 0, "refused": 49, "broken": 52}


@pytest.fixture
def house(tmp_path):
    return World(tmp_path, policy=POLICY, rules=Rules(form=CodeForm(6, b",", KEYWORDS)))


async def opened(house, *, options=None, **terms):
    """The proxy, open, with these terms."""
    house.terms = Terms("app", **terms)
    house.policy = replace(house.policy, reuses=bool({"reuse_seconds", "late_seconds"} & set(terms)))
    await house.open(**(options or {}))


def on_other_terms(house, **changes):
    """Clients that come from now on meet another listener."""
    doorway = house.listener.doorway
    house.with_(doorway=replace(doorway, terms=replace(doorway.terms, **changes)))


async def asked(house, name=ALICE, typed=PASSWORD, **where):
    """A client whose owner is being asked."""
    before = house.owner.pending
    client = house.client(**where)
    client.send(bind(1, name, typed))
    await house.until(lambda: house.owner.pending > before)
    return client


async def reason(house, name=ALICE, typed=PASSWORD, say=None, **where):
    """Log in, with that answer if the owner is asked (who must not be if there is none): why it ended as it did."""
    count, before = len(house.events), house.owner.pending
    client = house.client(**where)
    client.send(bind(1, name, typed))
    await house.until(lambda: len(house.events) > count or house.owner.pending > before)
    if house.owner.pending > before:
        assert say is not None, "the owner was asked"
        house.owner.say(say, -1)
        await house.until(lambda: len(house.events) > count)
    event = house.events[-1]
    if event.outcome == "refused":
        house.clock.advance(0.3)
    assert await client.code() == CODES[event.outcome]
    return event.reason


async def asked_again(house, *, blocked):
    """Nothing counts any more: the owner is asked, or the account is blocked."""
    if blocked:
        assert await reason(house) == "blocked"
    else:
        await asked(house)


async def gone(house, client):
    """The client leaves, and all that it takes along is done."""
    client.leave()
    await house.until(lambda: house.events and house.events[-1].reason == "client-left")
    for _ in range(20):
        house.serve()
        await asyncio.sleep(0)


# -- A09: the client leaves


async def test_A09_a_client_that_leaves_while_the_question_is_put_has_it_taken_back(house):
    await opened(house)
    house.owner.gate = asyncio.get_running_loop().create_future()
    client = house.client()
    client.send(bind(1, ALICE, PASSWORD))
    await house.until(lambda: house.owner.prompts)
    await gone(house, client)
    assert house.links_open == 0
    assert house.owner.cancelled == 0, "there is nothing to take back yet"
    assert house.rows("prompts") == 1
    house.owner.gate.set_result(None)
    await house.over()
    assert (house.owner.pending, house.owner.cancelled) == (0, 1)
    assert (house.rows("prompts"), house.rows("prompt_times"), house.rows("reuse")) == (0, 1, 0)
    assert [event.reason for event in house.events] == ["client-left"]


@pytest.mark.parametrize("begins", [Allowed("bypass"), Denied("denied"), CodeSent(), FactorDown("x"), ValueError()])
async def test_A09_whatever_a_service_answers_at_once_is_nothing_when_the_client_has_left(house, begins):
    await opened(house)
    house.owner.gate = asyncio.get_running_loop().create_future()
    house.owner.begins = begins
    client = house.client()
    client.send(bind(1, ALICE, PASSWORD))
    await house.until(lambda: house.owner.prompts)
    await gone(house, client)
    house.owner.gate.set_result(None)
    await house.over()
    assert (house.rows("prompts"), house.rows("prompt_times"), house.rows("reuse")) == (0, 1, 0)
    assert [event.reason for event in house.events] == ["client-left"]


async def test_A09_a_client_that_leaves_while_the_owner_is_asked_has_it_taken_back_and_counted(house):
    await opened(house)
    client = await asked(house)
    await gone(house, client)
    await house.over()
    assert (house.owner.pending, house.owner.cancelled, house.links_open) == (0, 1, 0)
    assert (house.rows("prompts"), house.rows("prompt_times"), house.rows("reuse")) == (0, 1, 0)


async def test_A09_a_client_that_leaves_while_the_store_opens_the_question_leaves_none_open(house):
    """The transaction may be through when the client's going is noticed."""
    await opened(house)
    begin, may = house.store.begin_prompt, asyncio.get_running_loop().create_future()

    async def slowly(*args, **options):
        begun = await begin(*args, **options)
        await may
        return begun

    house.store.begin_prompt = slowly
    client = house.client()
    client.send(bind(1, ALICE, PASSWORD))
    await house.until(lambda: house.rows("prompts"))
    await gone(house, client)
    may.set_result(None)
    await house.over()
    assert (house.rows("prompts"), house.rows("prompt_times")) == (0, 0)
    assert house.owner.prompts == []


async def test_A09_a_service_that_never_hears_of_it_does_not_hold_the_question_open(house):
    await opened(house)

    async def hangs(_prompt, _waiting):
        await asyncio.get_running_loop().create_future()

    house.owner.cancel = hangs
    client = await asked(house)
    await gone(house, client)
    assert house.rows("prompts") == 1
    house.clock.advance(5)
    await house.over()
    assert (house.rows("prompts"), house.rows("prompt_times")) == (0, 1)


async def test_A09_a_service_whose_taking_back_fails_has_it_closed_all_the_same(house):
    await opened(house)

    async def breaks(_prompt, _waiting):
        raise ValueError("a bug of the plug-in")

    house.owner.cancel = breaks
    await gone(house, await asked(house))
    await house.over()
    assert house.rows("prompts") == 0


@pytest.mark.parametrize("when", ["while it is put", "while it is open"])
async def test_A09_where_late_approvals_count_leaving_closes_all_but_the_question(house, when):
    """And what is left knows no password, though the service was shown it."""
    await opened(house, late_seconds=60.0)
    house.owner.wants_password = True
    house.directory.passwords[dn.normalise(ALICE)] = b"only-here-80"
    if when == "while it is put":
        house.owner.gate = asyncio.get_running_loop().create_future()
        client = house.client()
        client.send(bind(1, ALICE, "only-here-80"))
        await house.until(lambda: house.owner.prompts)
    else:
        client = await asked(house, typed="only-here-80")
    assert passwords_in_memory("only-here-80")
    await gone(house, client)
    if house.owner.gate:
        house.owner.gate.set_result(None)
    await house.until(lambda: house.owner.pending)
    assert house.owner.shown == 1
    assert (house.links_open, house.directory.pending, house.budget.logins_used) == (0, 0, 0)
    assert not house.clients
    assert (house.owner.pending, house.owner.cancelled, house.rows("prompts")) == (1, 0, 1)
    assert passwords_in_memory("only-here-80") == []
    (asking,) = [found for found in gc.get_objects() if isinstance(found, Asking) and not found.answered.done()]
    assert "only-here-80" not in repr({name: getattr(asking, name) for name in Asking.__slots__[1:]})
    assert asking._prompt.password is None
    house.owner.say(True)
    await house.over()
    assert house.rows("prompts") == 0
    assert house.rows("reuse") == 1
    assert await reason(house, typed="only-here-80") == "late-approval"
    assert (house.events[-1].factor, len(house.owner.prompts)) == ("push", 1)
    assert house.directory.binds() == [(ALICE, "only-here-80")] * 2
    await asked(house, typed="only-here-80")  # once


@pytest.mark.parametrize("other", ["address", "application", "secret", "account", "policy", "window"])
async def test_A09_A33_a_late_approval_is_for_nobody_but_the_equal_bind(house, other):
    await opened(house, late_seconds=60.0)
    await gone(house, await asked(house))
    house.owner.say(True)
    await house.over()
    doorway = house.listener.doorway
    name, where, typed = ALICE, {}, PASSWORD
    if other == "address":
        where = {"address": "192.0.2.8"}
    elif other == "application":
        on_other_terms(house, application="app2")
    elif other == "policy":
        on_other_terms(house, fingerprint="changed")
    elif other == "secret":
        typed = PASSWORD + ",push"
    elif other == "account":
        name = BOB
    else:
        house.advance(61)
    client = await asked(house, name, typed, **where)
    assert not any(event.outcome == "accepted" for event in house.events)
    await gone(house, client)
    house.with_(doorway=doorway)
    if other == "window":
        return
    house.owner.say(Denied("no-answer"))
    await house.over()
    assert await reason(house) == "late-approval"


async def test_A09_a_late_approval_lets_one_of_many_in(house):
    await opened(house, late_seconds=60.0)
    await gone(house, await asked(house))
    house.owner.say(True)
    await house.over()
    house.owner.begins = Denied("denied")
    clients = [house.client(port=50_000 + number) for number in range(8)]
    for client in clients:
        client.send(bind(1, ALICE, PASSWORD))
    await house.until(lambda: len(house.events) == 9)
    assert [event.reason for event in house.events].count("late-approval") == 1
    assert [event.outcome for event in house.events].count("accepted") == 1


async def test_A09_the_next_equal_bind_waits_for_the_question_that_was_left(house):
    await opened(house, late_seconds=60.0)
    first = await asked(house)
    second = house.client(port=50_001)
    second.send(bind(1, ALICE, PASSWORD))
    await house.until(lambda: house.events)
    assert house.events[-1].reason == "asked-already", "its client is still there"
    await gone(house, first)
    third = house.client(port=50_002)
    third.send(bind(1, ALICE, PASSWORD))
    await house.until(lambda: house.directory.pending == 1)
    assert await reason(house, address="192.0.2.9") == "asked-already"
    house.owner.say(True)
    await house.until(lambda: house.rows("prompts") == 0)
    house.clock.advance(0.3)
    assert await third.code() == 0
    assert house.events[-1].reason == "late-approval"
    assert len(house.owner.prompts) == 1


@pytest.mark.parametrize("answer", [False, Denied("fraud"), Denied("no-answer"), FactorDown("x"), "true"])
async def test_A09_A25_a_late_answer_that_is_no_yes_lets_nobody_in(house, answer):
    await opened(house, late_seconds=60.0)
    await gone(house, await asked(house))
    house.owner.say(answer)
    await house.over()
    assert (house.rows("prompts"), house.rows("reuse"), house.rows("prompt_times")) == (0, 0, 1)
    await asked_again(house, blocked=answer == Denied("fraud"))


async def test_A09_a_question_that_was_left_ends_by_itself(house):
    await opened(house, late_seconds=60.0)
    await gone(house, await asked(house))
    assert house.owner.prompts[0].seconds == 60
    house.clock.advance(64.9)
    await asyncio.sleep(0)
    assert house.owner.pending == 1
    house.clock.advance(0.2)
    await house.over()
    assert (house.owner.pending, house.owner.cancelled, house.rows("prompts")) == (0, 1, 0)


async def test_A26_a_late_approval_that_the_store_does_not_take_lets_nobody_in(house):
    await opened(house, late_seconds=60.0)
    leave, end = house.store.leave_prompt, house.store.end_prompt

    async def breaks(*_args, **_options):
        raise StoreDown("the disk is gone")

    house.store.leave_prompt = house.store.end_prompt = breaks
    await gone(house, await asked(house))
    house.owner.say(True)
    await house.over()
    house.store.leave_prompt, house.store.end_prompt = leave, end
    assert house.rows("reuse") == 0


# -- A21: how often


async def test_A21_fifty_binds_at_two_workers_ask_once_at_a_time_and_five_times_in_all(house):
    await opened(house)
    other = await house.worker()
    both = (house, other)
    answered = 0
    for _ in range(8):
        clients = [both[number % 2].client(port=50_000 + number) for number in range(50)]
        for client in clients:
            client.send(bind(1, ALICE, PASSWORD))
        answered += 50

        def ended():
            other.serve()
            return len(house.events) + len(other.events) + house.owner.pending == answered  # noqa: B023

        await house.until(ended)
        assert house.owner.pending <= 1
        if house.owner.pending:
            house.owner.say(False)
            await house.until(lambda: other.serve() or len(house.events) + len(other.events) == answered)  # noqa: B023
        for client in clients:
            client.leave()
    assert len(house.owner.prompts) == 5
    reasons = [event.reason for event in (*house.events, *other.events)]
    assert set(reasons) == {"denied", "asked-already", "too-many-prompts"}
    assert reasons.count("denied") == 5
    assert await reason(house, BOB, say=True) == "approved", "another account is not bothered by it"
    house.advance(599)
    assert await reason(house) == "too-many-prompts"
    house.advance(2)
    assert await reason(house, say=True) == "approved"


@pytest.mark.parametrize(
    ("begins", "counts"),
    [
        (Denied("denied"), True),
        (Denied("throttled"), True),
        (CodeSent(), True),
        (FactorDown("it may have asked"), True),
        (ValueError(), True),
        (Denied("not-enrolled"), False),
        (Denied("not-enrolled", asked=True), True),
        (Denied("no-method"), True),
        (FactorUnreachable("answers 502", asked=True), True),
        (FactorUnreachable("it can't have asked"), False),
    ],
    ids=lambda value: value if isinstance(value, bool) else repr(value)[:60],
)
async def test_A21_whatever_may_have_reached_the_owner_counts(house, begins, counts):
    house.table = ServiceTable(kind="owner", failures=100)
    await opened(house, prompts=2)
    house.owner.begins = begins
    reasons = [await reason(house) for _ in range(4)]
    assert ("too-many-prompts" in reasons) == counts
    assert len(house.owner.prompts) == (2 if counts else 4)
    assert house.rows("prompt_times") == (2 if counts else 0)
    assert house.rows("prompts") == 0


async def test_A21_one_who_is_asked_is_not_asked_by_anybody_else(house):
    """Not for another password that is right too, from elsewhere, at another application, worker, or by another method."""
    await opened(house, reuse_seconds=60.0)
    client = await asked(house)
    other = await house.worker()
    assert await reason(house, address="192.0.2.8") == "asked-already"
    assert await reason(house, typed=PASSWORD + ",sms") == "asked-already"
    on_other_terms(house, application="app2")
    assert await reason(house) == "asked-already"
    assert await reason(other, address="192.0.2.8") == "asked-already"
    assert len(house.owner.prompts) == 1
    house.owner.say(True)
    assert await client.code() == 0


async def test_A21_where_reuse_is_on_equal_binds_share_one_question(house):
    await opened(house, reuse_seconds=60.0, reuse_uses=2)
    other = await house.worker()
    first = await asked(house)
    others = [house.client(port=50_001), other.client(port=50_002), house.client(port=50_003)]
    for client in others:
        client.send(bind(1, ALICE, PASSWORD))
    await house.until(lambda: other.serve() or house.directory.pending + other.directory.pending == 4)
    assert len(house.owner.prompts) == 1
    house.owner.say(True)
    await house.until(lambda: house.rows("reuse"))
    assert await first.code() == 0
    house.clock.advance(0.3)
    await house.until(lambda: other.serve() or len(house.events) + len(other.events) == 4)
    reasons = [event.reason for event in (*house.events, *other.events)]
    assert sorted(reasons) == ["approved", "asked-already", "reused", "reused"], "as often as was granted"
    assert house.rows("prompt_times") == 1


async def test_A21_whoever_shares_a_question_is_refused_with_it(house):
    await opened(house, reuse_seconds=60.0)
    first = await asked(house)
    second = house.client(port=50_001)
    second.send(bind(1, ALICE, PASSWORD))
    await house.until(lambda: house.directory.pending == 2)
    house.owner.say(False)
    await house.until(lambda: house.rows("prompts") == 0)
    house.clock.advance(0.3)
    assert await first.refused() == 49
    assert await second.refused() == 49
    assert not any(event.outcome == "accepted" for event in house.events)


async def test_A21_whoever_shares_a_question_waits_no_longer_than_it_may(house):
    house.deadline = 9.0
    await opened(house, reuse_seconds=60.0)
    await asked(house)
    second = house.client(port=50_001)
    second.send(bind(1, ALICE, PASSWORD))
    await house.until(lambda: house.directory.pending == 2)
    for _ in range(36):
        house.clock.advance(0.25)
        await house.until(lambda: True)
        for _ in range(30):
            await asyncio.sleep(0)
    await house.until(lambda: len(house.events) == 2)
    assert {event.reason for event in house.events} == {"no-answer"}
    assert await second.code() == 49


# -- A33, A34: what counts again


async def test_A33_a_success_counts_as_often_and_as_long_as_was_granted(house):
    await opened(house, reuse_seconds=60.0, reuse_uses=2)
    assert await reason(house, say=True) == "approved"
    assert await reason(house) == "reused"
    assert await reason(house) == "reused"
    assert house.events[-1].factor == "push"
    assert await reason(house, say=True) == "approved"
    house.now += 59
    assert await reason(house) == "reused"
    house.now += 2
    assert await reason(house, say=True) == "approved"
    recorded = [event.reason for event in await house.store.events() if isinstance(event, LoginEnded)]
    assert recorded == ["approved", "reused", "approved", "reused", "reused", "approved"], "the latest first"


async def test_A19_A33_a_code_counts_again_for_the_same_code_alone(house):
    await opened(house, reuse_seconds=20.0, reuse_uses=1)
    typed = f"{PASSWORD},{house.next_code()}"
    assert await reason(house, typed=typed) == "code"
    assert await reason(house, typed=typed, address="192.0.2.8") == "replayed-code", "and that spoils it"
    assert await reason(house, typed=typed) == "replayed-code"
    typed = f"{PASSWORD},{house.next_code()}"
    assert await reason(house, typed=typed) == "code"
    assert await reason(house, typed=typed) == "reused"
    assert await reason(house, typed=typed) == "replayed-code"


@pytest.mark.parametrize("other", ["address", "application", "secret", "account", "policy"])
async def test_A33_a_success_counts_for_nobody_but_the_equal_bind(house, other):
    await opened(house, reuse_seconds=60.0, reuse_uses=5)
    assert await reason(house, say=True) == "approved"
    name, where, typed = ALICE, {}, PASSWORD
    if other == "address":
        where = {"address": "192.0.2.8"}
    elif other == "application":
        on_other_terms(house, application="app2")
    elif other == "policy":
        on_other_terms(house, fingerprint="changed")
    elif other == "secret":
        typed = PASSWORD + ",push"
    else:
        name = BOB
    assert await reason(house, name, typed, say=True, **where) == "approved"
    assert len(house.owner.prompts) == 2


@pytest.mark.parametrize("what", ["wrong code", "denied", "fraud", "locked-at-service", "replayed code"])
async def test_A33_a_refusal_over_the_factor_is_the_end_of_what_counted(house, what):
    await opened(house, reuse_seconds=600.0, reuse_uses=9)
    assert await reason(house, say=True) == "approved"
    assert await reason(house) == "reused"
    if what == "wrong code":
        assert await reason(house, typed=PASSWORD + ",000000") == "wrong-code"
    elif what == "replayed code":
        typed = f"{PASSWORD},{house.next_code()}"
        assert await reason(house, typed=typed) == "code"
        assert await reason(house, typed=typed, address="192.0.2.8") == "replayed-code"
    else:
        assert await reason(house, say=Denied(what), address="192.0.2.8") == what
    await house.until(lambda: house.rows("reuse") == 0)
    await asked_again(house, blocked=what == "fraud")


@pytest.mark.parametrize("what", ["a wrong password", "no answer", "another account's wrong code"])
async def test_A33_what_strangers_can_bring_about_ends_nothing(house, what):
    await opened(house, reuse_seconds=600.0, reuse_uses=9)
    assert await reason(house, say=True) == "approved"
    if what == "a wrong password":
        assert await reason(house, typed="wrong", address="192.0.2.8") == "password"
    elif what == "no answer":
        assert await reason(house, say=Denied("no-answer"), address="192.0.2.8") == "no-answer"
    else:
        assert await reason(house, BOB, PASSWORD + ",000000", address="192.0.2.8") == "wrong-code"
    assert await reason(house) == "reused"


@pytest.mark.parametrize("what", ["fraud", "wrong-code"])
async def test_A33_a_refusal_at_an_application_without_reuse_is_the_end_of_it_too(house, what):
    """Somebody else knows the password: wherever that comes out."""
    await opened(house, reuse_seconds=600.0, reuse_uses=9)
    assert await reason(house, say=True) == "approved"
    with_reuse = house.listener
    on_other_terms(house, application="app2", reuse_seconds=0.0)
    house.with_(policy=replace(house.policy, reuses=False))
    typed = PASSWORD + ",000000" if what == "wrong-code" else PASSWORD
    assert await reason(house, typed=typed, say=Denied("fraud"), address="192.0.2.8") == what
    await house.over()
    await house.store.leave_prompt("nobody", "nothing")  # whatever was noted before is written by now
    house.listener = with_reuse
    assert house.rows("reuse") == 0
    await asked_again(house, blocked=what == "fraud")


async def test_A33_an_owner_who_reports_fraud_late_ends_what_counted(house):
    """The one who asked has left already, and nobody hears the answer but us."""
    await opened(house, reuse_seconds=600.0, reuse_uses=9, late_seconds=60.0)
    assert await reason(house, say=True) == "approved"
    await gone(house, await asked(house, address="192.0.2.8"))
    house.owner.say(Denied("fraud"))
    await house.over()
    await house.store.leave_prompt("nobody", "nothing")
    assert house.rows("reuse") == 0


async def test_A34_whoever_is_let_in_again_had_the_right_password_again(house):
    await opened(house, reuse_seconds=60.0, reuse_uses=9)
    assert await reason(house, say=True) == "approved"
    seen = len(house.directory.binds())
    assert await reason(house) == "reused"
    assert house.directory.binds()[seen:] == [(ALICE, PASSWORD)]
    house.directory.passwords[dn.normalise(ALICE)] = b"changed"
    assert await reason(house) == "password", "the one that was right then"
    assert await reason(house, typed="wrong") == "password"
    house.directory.passwords[dn.normalise(ALICE)] = PASSWORD.encode()
    assert await reason(house) == "reused"


async def test_A20_A33_nobody_who_is_locked_is_let_in_again(house):
    await opened(house, options={"wrong_codes": 1}, reuse_seconds=60.0, reuse_uses=9)
    assert await reason(house, say=True) == "approved"
    async def forgets_nothing(_account):
        pass

    house.store.forget_reuse = forgets_nothing
    assert await reason(house, typed=PASSWORD + ",000000") == "wrong-code"
    assert await reason(house) == "locked"


# -- A20: codes that services verify


async def test_A20_wrong_codes_at_a_service_lock_as_wrong_codes_here_do(house):
    await opened(house, options={"wrong_codes": 3})
    (name,) = people(house, 1)
    house.owner.knows = {"person0": b"111111"}
    for _ in range(3):
        assert await reason(house, name, PASSWORD + ",000000") == "wrong-code"
        house.owner.knows = {"person0": b"111111"}
    other = await house.worker()
    assert await reason(house, name, PASSWORD + ",111111") == "locked"
    assert await reason(house, name) == "locked"
    del other
    assert len(house.owner.verified) == 3
    assert house.owner.prompts == []
    house.now += 15 * 60 + 1
    assert await reason(house, name, PASSWORD + ",111111") == "code"


async def test_A20_a_right_code_at_a_service_makes_up_for_the_wrong_ones(house):
    await opened(house, options={"wrong_codes": 3})
    (name,) = people(house, 1)
    for _ in range(3):
        assert await reason(house, name, PASSWORD + ",000000") == "wrong-code"
        assert await reason(house, name, PASSWORD + ",000001") == "wrong-code"
        house.owner.knows = {"person0": b"111111"}
        assert await reason(house, name, PASSWORD + ",111111") == "code"


async def test_A20_a_push_makes_up_for_no_wrong_code(house):
    await opened(house, options={"wrong_codes": 3})
    (name,) = people(house, 1)
    for _ in range(2):
        assert await reason(house, name, PASSWORD + ",000000") == "wrong-code"
    assert await reason(house, name, say=True) == "approved"
    assert await reason(house, name, PASSWORD + ",000000") == "wrong-code"
    assert await reason(house, name) == "locked"


async def test_A20_fifty_guesses_at_once_are_no_more_than_one_after_the_other(house):
    await opened(house, options={"wrong_codes": 3})
    (name,) = people(house, 1)
    for number in range(50):
        house.client(port=50_000 + number).send(bind(1, name, f"{PASSWORD},{number:06}"))
    await house.until(lambda: len(house.events) == 50)
    assert len(house.owner.verified) <= 3


async def test_A24_a_service_that_breaks_over_a_code_is_no_guess(house):
    house.table = ServiceTable(kind="owner", failures=100)
    await opened(house, options={"wrong_codes": 2})
    (name,) = people(house, 1)
    for _ in range(4):
        house.owner.begins = FactorDown("x")
        assert await reason(house, name, PASSWORD + ",111111") == "factor-down"
    house.owner.begins, house.owner.knows = None, {"person0": b"111111"}
    assert await reason(house, name, PASSWORD + ",111111") == "code"


# -- codes that services send


async def test_a_code_that_was_sent_comes_with_the_next_bind(house):
    await opened(house)
    house.owner.begins = CodeSent({"state": "xyz"}, seconds=120.0)
    assert await reason(house, typed=PASSWORD + ",sms") == "code-sent"
    assert house.owner.prompts[-1].method == "sms"
    assert house.events[-1].detail == "push"
    house.owner.knows = {"alice": b"222222"}
    assert await reason(house, typed=PASSWORD + ",222222") == "code"
    assert house.events[-1].factor == "push"
    assert house.owner.verified == [("alice", CodeSent({"state": "xyz"}))]
    assert house.rows("sent_codes") == 0
    assert await reason(house, typed=PASSWORD + ",222222") == "wrong-code"
    assert len(house.owner.verified) == 1, "alice's other codes are her own factor's"


async def test_a_code_that_was_sent_may_come_by_another_worker(house):
    await opened(house)
    other = await house.worker()
    house.owner.begins = CodeSent({"state": "xyz"})
    assert await reason(house) == "code-sent"
    house.owner.knows = {"alice": b"222222"}
    client = other.client()
    client.send(bind(1, ALICE, PASSWORD + ",222222"))
    await other.until(lambda: other.events)
    assert (other.events[-1].reason, other.events[-1].factor) == ("code", "push")


@pytest.mark.parametrize("other", ["address", "application", "account", "too late"])
async def test_A33_a_code_that_was_sent_is_for_where_it_was_asked_for(house, other):
    await opened(house)
    names = people(house, 2)
    house.owner.begins = CodeSent({"state": "xyz"}, seconds=120.0)
    assert await reason(house, names[0]) == "code-sent"
    where = {"address": "192.0.2.8"} if other == "address" else {}
    if other == "application":
        on_other_terms(house, application="app2")
    elif other == "too late":
        house.now += 121
    house.owner.knows = {"person0": b"222222"}
    await reason(house, names[other == "account"], PASSWORD + ",222222", **where)
    ((_user, sent),) = house.owner.verified
    assert sent is None, "as a code that nobody announced"


async def test_A20_guesses_of_a_code_that_was_sent_are_counted(house):
    await opened(house, options={"wrong_codes": 2})
    house.owner.begins = CodeSent({"state": "xyz"})
    assert await reason(house) == "code-sent"
    assert await reason(house, typed=PASSWORD + ",222220") == "wrong-code"
    assert await reason(house, typed=PASSWORD + ",222221") == "wrong-code"
    house.owner.knows = {"alice": b"222222"}
    assert await reason(house, typed=PASSWORD + ",222222") == "locked"


# -- in time


@pytest.mark.parametrize("late", [0.0, 60.0], ids=["", "late approvals count"])
async def test_a_client_that_waits_nine_seconds_has_its_answer_before(house, late):
    house.deadline = 9.0
    await opened(house, **({"late_seconds": late} if late else {}))
    client = await asked(house)
    assert house.owner.prompts[0].seconds == (late or 8.5)
    house.clock.advance(8.4)
    for _ in range(20):
        await asyncio.sleep(0)
    assert client.came == b""
    house.clock.advance(0.2)
    await house.idle()
    house.clock.advance(0.01)
    assert await client.code() == 49
    assert house.clock.seconds() < 9
    assert house.events[-1].reason == "no-answer"
    if late:
        assert (house.owner.cancelled, house.owner.pending) == (0, 1)
        house.owner.say(True)
    await house.over()
    assert (house.owner.cancelled, house.owner.pending, house.rows("prompts")) == (0 if late else 1, 0, 0)
    if late:
        assert await reason(house, port=50_001) == "late-approval"


async def test_a_service_that_is_slow_to_begin_costs_no_more_than_the_deadline(house):
    house.deadline = 9.0
    await opened(house)
    house.owner.gate = asyncio.get_running_loop().create_future()
    client = house.client()
    client.send(bind(1, ALICE, PASSWORD))
    await house.until(lambda: house.owner.prompts)
    house.clock.advance(9)
    assert await client.code() == 52
    assert house.events[-1].reason == "deadline"
    house.owner.gate.set_result(None)
    await house.over()
    assert (house.owner.cancelled, house.owner.pending, house.rows("prompts"), house.rows("prompt_times")) == (1, 0, 0, 1)


async def test_a_service_that_waits_longer_than_was_agreed_is_given_up(house):
    await opened(house, late_seconds=60.0)
    await gone(house, await asked(house))
    house.clock.advance(65.1)
    await house.over()
    assert house.owner.cancelled == 1


# -- A24: a service in trouble


async def test_A24_a_dead_service_costs_its_users_no_time_and_heals_by_itself(house):
    await opened(house)
    house.owner.begins = house.owner.healthy = FactorUnreachable("connection refused")
    for _ in range(3):
        assert await reason(house) == "factor-down"
    assert len(house.owner.prompts) == 3
    for _ in range(20):
        assert await reason(house) == "factor-down"
    assert len(house.owner.prompts) == 3
    assert house.clock.seconds() == 0
    assert [what for what in house.logged if what[1] == "open"] == [("push", "open", "connection refused")]
    house.owner.begins, house.owner.healthy = None, True
    house.clock.advance(5)
    await house.over()
    assert await reason(house, say=True) == "approved"
    assert house.logged[-1][:2] == ("push", "closed")
    assert house.rows("prompts") == 0


@pytest.mark.parametrize(
    "broken",
    [
        FactorDown("garbage"),
        FactorDown("429", retry_after=30.0),
        TimeoutError(),
        ValueError("a bug"),
        Denied("throttled"),
        Denied("denied"),
    ],
    ids=lambda broken: repr(broken).partition(",")[0],
)
async def test_A24_nothing_but_an_outage_opens(house, broken):
    house.policy = replace(POLICY, services=(replace(PUSH, opens=True),))
    await opened(house)
    (name,) = people(house, 1)
    house.owner.begins = broken
    for _ in range(6):
        assert await reason(house, name) not in ("failed-open", "approved")
        assert await reason(house, name, PASSWORD + ",111111") != "failed-open"
    assert house.alarms == []


async def test_A24_an_outage_opens_where_it_may_for_who_has_no_factor_here_and_not_for_ever(house):
    house.policy = replace(POLICY, services=(replace(PUSH, opens=True),))
    await opened(house)
    (name,) = people(house, 1)
    house.owner.begins = house.owner.healthy = FactorUnreachable("connection refused")
    for _ in range(5):
        assert await reason(house, name) == "failed-open"
        assert await reason(house) == "factor-down", "alice has a factor"
    assert [(alarm.reason, alarm.factor, alarm.dn) for alarm in house.alarms] == [("failed-open", "push", name)] * 5
    assert (await house.store.events())[0].reason in ("failed-open", "factor-down")
    house.advance(15 * 60 - 1)
    assert await reason(house, name) == "failed-open"
    house.advance(2)
    assert await reason(house, name) == "factor-down"
    assert len(house.alarms) == 6


async def test_A24_an_open_breaker_is_an_outage_only_while_its_own_probe_finds_one(house):
    house.policy = replace(POLICY, services=(replace(PUSH, opens=True),))
    await opened(house)
    (name,) = people(house, 1)
    house.owner.begins = FactorUnreachable("connection refused")
    house.owner.healthy = FactorDown("garbage")
    for _ in range(4):
        assert await reason(house, name) == "factor-down"
    house.owner.healthy = FactorUnreachable("connection refused")
    house.clock.advance(5)
    await house.until(lambda: house.guards["push"]._outage)
    assert await reason(house, name) == "failed-open"
    assert len(house.owner.prompts) == 3


async def test_A24_once_the_owner_is_asked_nothing_opens(house):
    house.policy = replace(POLICY, services=(replace(PUSH, opens=True),))
    await opened(house)
    (name,) = people(house, 1)
    for broken in (FactorUnreachable("x"), FactorDown("x")):
        assert await reason(house, name, say=broken) == "factor-down"
    assert house.alarms == []


async def test_A24_another_service_may_ask_while_the_first_can_not(house):
    house.others = {"second": Owner()}
    house.policy = replace(POLICY, services=(replace(PUSH, opens=True), ServiceRule("second", ("push",))))
    await opened(house)
    (name,) = people(house, 1)
    house.owner.begins = FactorUnreachable("connection refused")
    client = house.client()
    client.send(bind(1, name, PASSWORD))
    await house.until(lambda: house.others["second"].pending)
    house.others["second"].say(True)
    assert await client.code() == 0
    assert (house.events[-1].reason, house.events[-1].factor) == ("approved", "second")
    house.others["second"].begins = FactorUnreachable("connection refused")
    assert await reason(house, name) == "factor-down", "the second one's outage opens nothing"


# -- ends


async def test_a_stop_takes_back_what_is_asked(house, monkeypatch):
    """Those whose client is there, and those whose client has left."""
    monkeypatch.setattr(service, "FAREWELL", 0.2)
    await opened(house, late_seconds=60.0)
    program = service.LdapMfa.__new__(service.LdapMfa)
    program._config = SimpleNamespace(
        login=SimpleNamespace(refusal_floor=0.0), factors={}, every_factor=(), service=SimpleNamespace(drain_seconds=0)
    )
    program._clients, program._ports, program._tasks = house.clients, [], set()
    program._log = SimpleNamespace(info=lambda *_: None, error=lambda *_, **__: None)
    program._store, program._directories = house.store, {"default": house.directory}
    program._services, program._retired, program.trail = dict(house.listener.doorway.services), [], None
    program._askings = house.listener.doorway.askings
    house.with_(doorway=replace(house.listener.doorway, keep=program._kept), started=program._keep)
    await gone(house, await asked(house, BOB))
    client = await asked(house)
    await program._end()
    assert not client.pipe.open
    assert house.owner.pending == 0
    assert house.owner.cancelled == 2
    assert (house.events[-1].outcome, house.events[-1].reason) == ("broken", "stopping")
    assert house.rows("prompts") == 0
    assert house.rows("prompt_times") == 2
    assert not [task for task in program._tasks if not task.done()]


async def test_A41_a_question_that_is_open_costs_little(house):
    """Measured alone: what outlives a client that has left, where late approvals count."""

    class Quiet:
        async def leave_prompt(self, *_):
            pass

        async def end_prompt(self, *_args, **_options):
            pass

        async def forget_reuse(self, _account):
            pass

    count, kept = 1000, set()

    def keep(coroutine):
        task = asyncio.ensure_future(coroutine)
        kept.add(task)
        task.add_done_callback(kept.discard)
        return task

    guarded = Guarded("push", house.owner, house.table, clock=house.clock.seconds, sleep=asyncio.sleep, keep=keep)
    gc.collect()
    tracemalloc.start()
    try:
        askings = []
        for number in range(count):
            identity = Identity("default", f"uuid:{number}", f"cn=person{number}", (f"person{number}",))
            prompt = Prompt(identity, f"person{number}", "app", "192.0.2.7", password=Secret(b"x" * 20))
            grants = (None, Grant(f"{number:064}", 60.0, 1, "late-approval"))
            shared = {"clock": house.clock, "keep": keep, "askings": set(), "precaution": None}
            askings.append(Asking(guarded, prompt, f"{number:032}", Quiet(), grants=grants, **shared))
        await house.until(lambda: house.owner.pending == count)
        for asking in askings:
            asking.leave()
        await asyncio.sleep(0)
        del askings, asking, shared
        gc.collect()
        size = tracemalloc.get_traced_memory()[0] / count
    finally:
        tracemalloc.stop()
    for number in range(count):
        house.owner.say(False, number)
    while kept:
        await asyncio.wait(kept)
    assert size < 12_000, f"{size:.0f} octets a question"


async def test_a_service_that_gives_up_waiting_is_told_that_it_is_over(house):
    await opened(house)
    assert await reason(house, say=Denied("no-answer")) == "no-answer"
    await house.over()
    assert house.owner.cancelled == 1
    assert await reason(house, say=Denied("denied")) == "denied"
    await house.over()
    assert house.owner.cancelled == 1


async def test_A21_codes_for_which_the_service_asks_or_sends_something_count_as_prompts(house):
    await opened(house, options={"wrong_codes": 100}, prompts=2)
    (name,) = people(house, 1)
    house.owner.codes_ask = True
    reasons = [await reason(house, name, PASSWORD + ",000000") for _ in range(4)]
    assert reasons == ["wrong-code", "wrong-code", "too-many-prompts", "too-many-prompts"]
    assert len(house.owner.verified) == 2
    assert house.rows("prompts") == 0, "none is left open"


def test_A23_where_services_are_asked_nothing_is_refused_before_most_of_them_answer():
    login = SimpleNamespace(refusal_floor=0.25)
    assert assembly.refusal_floor(SimpleNamespace(login=login, factors={"duo": None}, every_factor=("totp", "duo"))) == assembly.SERVICE_FLOOR
    assert assembly.refusal_floor(SimpleNamespace(login=login, factors={}, every_factor=("totp", "duo"))) == 0.25
    login.refusal_floor = 3.0
    assert assembly.refusal_floor(SimpleNamespace(login=login, factors={"duo": None}, every_factor=("totp", "duo"))) == 3.0
