"""An owner says that it was somebody else: the account is blocked before anybody hears of it, in every process."""

import asyncio
from dataclasses import replace

import pytest
from world import ALICE, BOB, PASSWORD, SERVICE, World, bind

from ldapmfa import audit
from ldapmfa.core.policy import Exempt, Policy, ServiceRule
from ldapmfa.core.secret import CodeForm
from ldapmfa.core.session import Rules
from ldapmfa.errors import StoreDown
from ldapmfa.factors.service import Denied
from ldapmfa.net.asking import Terms
from ldapmfa.net.fraud import RETRIED, RETRY, Measures
from ldapmfa.net.watch import LOOK, watch
from ldapmfa.store import Cut

PUSH = ServiceRule("push", ("push", "phone", "sms"), takes_codes=True)
FRAUD = Denied("fraud", "reported in the app")


@pytest.fixture
def house(tmp_path):
    policy = Policy((Exempt(SERVICE),), services=(PUSH,), reuses=True)
    world = World(tmp_path, policy=policy, rules=Rules(form=CodeForm(6, b",", {b"push": "push"})))
    world.terms = Terms("vpn", late_seconds=120.0, reuse_seconds=60.0)
    world.told_cuts, world.critical = [], []
    return world


async def opened(house, **terms):
    if terms:
        house.terms = Terms("vpn", **terms)
    await house.open()
    measures(house)
    return house


def measures(house, cuts=None):
    """What the service does: tells the log, ends connections, and has a mail sent."""
    doorway = house.listener.doorway
    cut = (cuts if cuts is not None else house.told_cuts).append
    told = lambda what, **fields: house.critical.append((what, fields))  # noqa: E731
    house.with_(doorway=replace(doorway, measures=Measures(90.0, ("mail",), cut, told)))


async def asked(house, name=ALICE, typed=PASSWORD, **where):
    before = house.owner.pending
    client = house.client(**where)
    client.send(bind(1, name, typed))
    await house.until(lambda: house.owner.pending > before)
    return client


async def ended(house, count):
    await house.until(lambda: len(house.events) >= count)
    house.clock.advance(0.3)


def account(house, name=ALICE):
    return f"default/uuid:{house.directory.uuids[name.lower()]}"


async def row(house):
    return next(row for row in await house.store.accounts() if row.key == account(house))


async def test_A33_a_fraud_report_blocks_before_it_is_told_and_drops_all(house):
    await opened(house)
    client = await asked(house)
    house.owner.say(FRAUD)
    await ended(house, 1)
    assert await client.code() == 49
    assert house.events[-1].reason == "fraud"
    found = await row(house)
    assert (found.blocked.until, found.blocked.by) == (house.now + 90 * 86400, "owner")
    assert found.blocked.reason == "fraud reported at push"
    assert house.told_cuts == [account(house)]
    assert [house.rows(table) for table in ("reuse", "bypasses", "sent_codes", "prompts", "cuts", "notices")] == [
        0, 0, 0, 0, 1, 1,
    ]  # fmt: skip
    assert house.critical[0][0] == "fraud reported"
    changes = [event for event in await house.store.events() if isinstance(event, audit.AccountChanged)]
    assert next((event.action, event.actor) for event in changes if event.account == account(house)) == ("blocked", "owner")
    (notice,) = await house.store.take_notices(60)
    assert {name: notice.body[name] for name in ("service", "application", "client", "dn")} == {
        "service": "push", "application": "vpn", "client": "192.0.2.7", "dn": ALICE,
    }  # fmt: skip
    assert PASSWORD not in str(notice)


async def test_A33_after_a_fraud_report_neither_code_nor_approval_lets_in_and_others_are_as_before(house):
    await opened(house)
    await asked(house)
    house.owner.say(FRAUD)
    await ended(house, 1)
    prompts = len(house.owner.prompts)
    assert await house.client().log_in(password=f"{PASSWORD},{house.next_code()}") == 49
    assert house.events[-1].reason == "blocked"
    client = house.client()
    client.send(bind(1, ALICE, PASSWORD))
    await ended(house, 3)
    assert await client.code() == 49
    assert (house.events[-1].reason, len(house.owner.prompts)) == ("blocked", prompts)
    assert await house.client().log_in(BOB, f"{PASSWORD},{house.next_code()}") == 0


async def test_the_block_is_durable_before_connections_are_cut_and_the_answer_is_told(house):
    await opened(house)
    seen = []

    class Looking(list):
        def append(self, which):
            seen.append((house.rows("cuts"), house.rows("notices"), len(house.events)))

    measures(house, Looking())
    await asked(house)
    house.owner.say(FRAUD)
    await ended(house, 1)
    assert seen == [(1, 1, 0)]


@pytest.mark.parametrize("how", ["approval", "at once", "code"])
async def test_A33_nobody_hears_of_a_report_while_the_block_is_being_written(house, monkeypatch, how):
    await opened(house)
    block, may = house.store.block, asyncio.get_running_loop().create_future()

    async def slowly(*args, **options):
        await may
        return await block(*args, **options)

    async def verify(prompt, code, sent):
        return FRAUD

    monkeypatch.setattr(house.store, "block", slowly)
    house.owner.verify = verify
    house.owner.begins = FRAUD if how == "at once" else None
    await house.store.unenrol(account(house), audit.AccountChanged(at=0, action="x", account="x", actor="x"))
    client = house.client()
    client.send(bind(1, ALICE, PASSWORD + ",123456" * (how == "code")))
    if how == "approval":
        await house.until(lambda: house.owner.pending)
        house.owner.say(FRAUD)
    await house.until(lambda: house.critical)
    for _ in range(50):
        house.serve()
        await asyncio.sleep(0.001)
    house.clock.advance(0.3)
    assert (house.events, client.came) == ([], b"")
    may.set_result(None)
    await ended(house, 1)
    assert await client.code() == 49


async def test_a_service_that_says_so_at_once_is_heard_too(house):
    await opened(house)
    house.owner.begins = FRAUD
    client = house.client()
    client.send(bind(1, ALICE, PASSWORD))
    await ended(house, 1)
    assert await client.code() == 49
    assert (house.events[-1].reason, house.told_cuts) == ("fraud", [account(house)])


async def test_one_that_says_so_of_a_code_is_heard_too(house):
    await opened(house)

    async def verify(prompt, code, sent):
        return FRAUD

    house.owner.verify = verify
    await house.store.unenrol(account(house), audit.AccountChanged(at=0, action="x", account="x", actor="x"))
    client = house.client()
    client.send(bind(1, ALICE, PASSWORD + ",123456"))
    await ended(house, 1)
    assert await client.code() == 49
    assert (house.events[-1].reason, house.told_cuts) == ("fraud", [account(house)])
    assert (await row(house)).blocked


async def test_A09_a_report_by_code_counts_though_the_client_leaves_at_that_moment(house, monkeypatch):
    await opened(house)
    block, may = house.store.block, asyncio.get_running_loop().create_future()

    async def slowly(*args, **options):
        await may
        return await block(*args, **options)

    async def verify(prompt, code, sent):
        house.owner.verified.append(code)
        return FRAUD

    monkeypatch.setattr(house.store, "block", slowly)
    house.owner.verify = verify
    await house.store.unenrol(account(house), audit.AccountChanged(at=0, action="x", account="x", actor="x"))
    client = house.client()
    client.send(bind(1, ALICE, PASSWORD + ",123456"))
    await house.until(lambda: house.critical)
    client.leave()
    await house.until(lambda: house.events)
    may.set_result(None)
    await house.over()
    assert (await row(house)).blocked


async def test_A09_a_report_that_comes_when_the_client_has_left_counts_all_the_same(house):
    await opened(house)
    client = await asked(house)
    client.leave()
    await house.until(lambda: house.events)
    assert house.owner.pending == 1, "late approvals count here: the owner is still asked"
    house.owner.say(FRAUD)
    await house.over()
    assert house.told_cuts == [account(house)]
    assert (await row(house)).blocked


async def test_a_bind_that_shares_the_prompt_is_refused_too(house):
    await opened(house)
    one = await asked(house)
    other = house.client(port=40_001)
    other.send(bind(1, ALICE, PASSWORD))
    await house.until(lambda: house.listener.doorway.sharing)
    house.owner.say(FRAUD)
    await house.until(lambda: house.events)
    for _ in range(10):
        house.clock.advance(0.3)
        for _ in range(50):
            house.serve()
            await asyncio.sleep(0)
    await house.until(lambda: len(house.events) == 2)
    house.clock.advance(0.3)
    assert [await client.code() for client in (one, other)] == [49, 49]


async def test_A44_a_report_in_one_process_ends_connections_in_another(house):
    await opened(house)
    other = await house.worker()
    cuts = []
    watching = asyncio.ensure_future(watch(other.store, await other.store.last_cut(), cuts.append, house.clock))
    await asyncio.sleep(0)
    await asked(house)
    house.owner.say(FRAUD)
    await ended(house, 1)
    for _ in range(3):
        house.clock.advance(LOOK)
        await asyncio.sleep(0.02)
    watching.cancel()
    await asyncio.wait({watching})
    assert cuts == [account(house)] * 2, "twice, for a login that was recorded just before"
    assert await other.client().log_in() == 49


async def test_A44_what_is_blocked_while_the_store_is_away_is_heard_of_when_it_is_back(house, monkeypatch):
    await opened(house)
    cuts, failures, look = [], [StoreDown("x")] * 3, house.store.cuts_since

    async def flaky(number):
        if failures:
            raise failures.pop()
        return await look(number)

    monkeypatch.setattr(house.store, "cuts_since", flaky)
    watching = asyncio.ensure_future(watch(house.store, 0, cuts.append, house.clock))
    change = audit.AccountChanged(at=house.now, action="blocked", account=account(house), actor="root")
    await house.store.block(account(house), house.now + 60, "x", change)
    for _ in range(4):
        await asyncio.sleep(0.01)
        house.clock.advance(LOOK)
    await house.until(lambda: cuts)
    watching.cancel()
    await asyncio.wait({watching})
    assert cuts == [account(house)]


async def test_A44_numbers_given_again_after_a_fail_over_are_heard_of_though_the_store_fails_and_none_is_there_yet(house):
    class FailedOver:
        """Its successor had not heard of the last cuts: it begins to count before them, and is away at first."""

        answers = (StoreDown("x"), [], [], [Cut(3, "alice")])

        def __init__(self):
            self.left, self.lost = list(self.answers), 64

        def lost_cuts(self):
            lost, self.lost = self.lost, 0
            return lost

        async def cuts_since(self, number):
            answer = self.left.pop(0) if self.left else []
            if isinstance(answer, StoreDown):
                raise answer
            return [cut for cut in answer if cut.number > number]

        async def told_of_cuts(self):
            await asyncio.get_running_loop().create_future()

    cuts = []
    watching = asyncio.ensure_future(watch(FailedOver(), 5, cuts.append, house.clock))
    for _ in range(5):
        await asyncio.sleep(0.01)
        house.clock.advance(LOOK)
    await asyncio.sleep(0.01)
    watching.cancel()
    await asyncio.wait({watching})
    assert cuts == ["alice"] * 2


class TestStoreDown:
    def break_block(self, house, monkeypatch, times):
        block, left = house.store.block, [times]

        async def failing(*args, **options):
            left[0] -= 1
            if left[0] >= 0:
                raise StoreDown("the disk is full")
            return await block(*args, **options)

        monkeypatch.setattr(house.store, "block", failing)

    async def pass_time(self, house, seconds):
        house.clock.advance(seconds)
        for _ in range(60):
            await asyncio.sleep(0.001)

    async def test_the_login_is_refused_all_the_same_and_the_block_written_when_the_store_is_back(self, house, monkeypatch):
        await opened(house)
        self.break_block(house, monkeypatch, 3)
        client = await asked(house)
        house.owner.say(FRAUD)
        await ended(house, 1)
        assert (await client.code(), house.events[-1].reason) == (49, "fraud")
        assert [what for what, _ in house.critical] == ["fraud reported", "block not written, trying again"]
        assert house.told_cuts == [account(house)], "its connections are cut at once"
        assert (await row(house)).blocked is None
        for _ in range(3):
            await self.pass_time(house, RETRY)
        assert (await row(house)).blocked
        assert house.critical[-1][0] == "block written at last"
        assert house.told_cuts == [account(house)] * 2
        assert (await row(house)).blocked.until == house.now + 90 * 86400, "since the report"

    async def test_it_is_given_up_in_the_end_with_a_line(self, house, monkeypatch):
        await opened(house)
        self.break_block(house, monkeypatch, 10**9)
        await asked(house)
        house.owner.say(FRAUD)
        await ended(house, 1)
        await self.pass_time(house, RETRIED)
        assert house.critical[-1][0] == "block given up: block the account by hand"
        assert house.critical[-1][1]["account"] == account(house)
        assert not house.tasks


async def test_A44_a_block_takes_back_the_question_that_is_open(house):
    """What net/service does with a cut: the asking of that account is barred, others' are not."""
    await opened(house)
    client, other = await asked(house), await asked(house, BOB, port=40_001)
    change = audit.AccountChanged(at=house.now, action="blocked", account=account(house), actor="root")
    await house.store.block(account(house), house.now + 60, "x", change)
    for asking in tuple(house.listener.doorway.askings):
        if asking.account == account(house):
            asking.bar()
    await ended(house, 1)
    assert await client.code() == 49
    assert house.events[-1].reason == "denied"
    assert (house.owner.pending, house.owner.cancelled) == (1, 1)
    house.owner.say(True)
    assert await other.code() == 0
