"""Blocks, bypasses, phones, and what still counts: in one transaction, in every process."""

import asyncio
import math

import pytest

from ldapmfa.core.identity import Identity
from ldapmfa.core.secret import Secret
from ldapmfa.errors import StoreDown
from ldapmfa.store import FOREVER, Bypass, Cut, Grant, Place
from ldapmfa.store.blocks import CUT_SECONDS

PLACE = Place("vpn", "192.0.2.1")
ADDED = ("reuse", "bypasses", "sent_codes", "prompts")


async def dropped_things(world, store, alice):
    """Everything that counts for an account: a code shared for an hour, a bypass, a code sent, an open question."""
    await world.enrol(store)
    key = store.reuse_key(alice, Secret(b"pw"), PLACE)
    grant = Grant(key, 3600, 5, place=PLACE)
    assert (await store.verify(alice, world.match(world.code()), world.success(), (), grant)).result == "accepted"
    assert await store.grant_bypass(alice, 300, "lost", world.change(alice.key)) == "granted"
    await store.keep_sent(alice, "sms", {"a": "b"}, PLACE, seconds=300)
    begun = await store.begin_prompt(
        alice, "p1", "other", seconds=60, prompts=5, within=600, shares=False, takes_over=True
    )
    assert begun == "begun"
    return key, grant


def rows(world, table):
    with world.sql() as database:
        return database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


async def blocked(world, store, account, until=FOREVER, **more):
    return await store.block(account, until, "stolen", world.change(getattr(account, "key", account), "blocked"), **more)


async def test_A33_a_block_drops_what_counts_again_bypasses_codes_and_questions(world, alice, bob):
    store = await world.open()
    key, grant = await dropped_things(world, store, alice)
    assert [rows(world, table) for table in ADDED] == [1, 1, 1, 1]
    assert await blocked(world, store, alice.key)
    assert [rows(world, table) for table in ADDED] == [0, 0, 0, 0]
    await store.end_prompt(alice.key, "p1", grant=grant, factor="push")
    assert rows(world, "reuse") == 0, "an answer that comes later counts for nobody"
    assert await store.reuse(alice, key, world.success()) is None
    assert not await blocked(world, store, bob.key), "nobody knows bob"
    assert rows(world, "cuts") == 1


async def test_A33_a_block_leaves_other_accounts_what_counts_for_them(world, alice, bob):
    store = await world.open()
    await dropped_things(world, store, alice)
    assert await blocked(world, store, bob)
    assert [rows(world, table) for table in ADDED] == [1, 1, 1, 1]


async def test_A44_a_block_holds_in_every_process_as_soon_as_it_is_reported(world, alice):
    one, other = await world.open(), await world.open()
    key, _grant = await dropped_things(world, one, alice)
    number = await other.last_cut()
    assert await blocked(world, one, alice.key)
    world.now += 30
    assert (await other.verify(alice, world.match(world.code()), world.success(), ())).result == "blocked"
    assert await other.admit(alice, world.success(), ()) == "blocked"
    assert await other.admit(alice, world.success(), (), bypass=True) == "blocked"
    assert await other.reuse(alice, key, world.success()) is None
    assert await other.guess(alice) is None
    begin = other.begin_prompt(alice, "p2", "k", seconds=60, prompts=5, within=600, shares=True, takes_over=True)
    assert await begin == "blocked"
    status = await other.status(alice)
    assert (status.blocked, status.bypass) == (True, False)
    (cut,) = await other.cuts_since(number)
    assert cut == Cut(number + 1, alice.key)
    assert await other.cuts_since(cut.number) == []


async def test_A44_no_number_of_a_cut_comes_twice_though_old_ones_go(world, alice):
    store = await world.open()
    assert await store.last_cut() == 0
    await blocked(world, store, alice)
    world.now += CUT_SECONDS + 1
    await blocked(world, store, alice)
    assert rows(world, "cuts") == 1
    assert [cut.number for cut in await store.cuts_since(0)] == [2]
    with world.sql() as database:
        database.execute("DELETE FROM cuts")
    await blocked(world, store, alice)
    assert [cut.number for cut in await store.cuts_since(2)] == [3]


async def test_a_block_is_recorded_with_who_and_why_and_ends_by_itself(world, alice):
    store = await world.open()
    assert await blocked(world, store, alice, world.now + 60)
    (row,) = await store.accounts()
    assert (row.blocked.until, row.blocked.reason, row.blocked.by) == (world.now + 60, "stolen", "root")
    assert [event.action for event in await store.events()] == ["blocked"]
    world.now += 60
    (row,) = await store.accounts()
    assert row.blocked is None
    assert not (await store.status(alice)).blocked
    assert await store.unblock(alice.key, world.change(alice.key, "unblocked")) == "not-blocked"


async def test_a_block_never_shortens_one_that_there_is(world, alice):
    store = await world.open()
    await blocked(world, store, alice, FOREVER)
    assert await store.block(alice, world.now + 60, "fraud", world.change(alice.key, "blocked"))
    (row,) = await store.accounts()
    assert (row.blocked.until, row.blocked.reason) == (math.inf, "stolen")
    assert rows(world, "cuts") == 2
    await store.unblock(alice.key, world.change(alice.key, "unblocked"))
    await blocked(world, store, alice, world.now + 60)
    await store.block(alice, world.now + 90, "fraud", world.change(alice.key, "blocked"))
    (row,) = await store.accounts()
    assert (row.blocked.until, row.blocked.reason) == (world.now + 90, "fraud")


async def test_A48_who_may_unblock_can_not_enable(world, alice):
    store = await world.open()
    assert await blocked(world, store, alice, disables=True)
    await blocked(world, store, alice, world.now + 60)
    change = world.change(alice.key, "unblocked")
    assert await store.unblock(alice.key, change) == "disabled"
    assert (await store.status(alice)).blocked
    assert await store.unblock(alice.key, change, enables=True) == "unblocked"
    assert not (await store.status(alice)).blocked
    assert await store.unblock(alice.key, change, enables=True) == "not-blocked"
    await blocked(world, store, alice)
    assert await store.unblock(alice.key, change) == "unblocked"
    assert await store.unblock("nobody", change) == "not-blocked"


async def test_a_block_of_somebody_never_seen_makes_the_account_known(world):
    store = await world.open()
    carol = Identity("ad", "guid:" + "c0" * 16, "CN=Carol,DC=example,DC=com")
    assert await blocked(world, store, carol)
    assert (await store.verify(carol, world.match("123456"), world.success(), ())).result == "blocked"


async def test_a_block_that_can_not_be_written_is_store_down_and_nothing_of_it_stays(world, alice):
    store = await world.open()
    await dropped_things(world, store, alice)
    with world.sql() as database:
        if world.postgresql:
            database.execute("ALTER TABLE cuts ADD CONSTRAINT no CHECK (at < 0)")
        else:
            database.execute("CREATE TRIGGER no BEFORE INSERT ON cuts BEGIN SELECT RAISE(ABORT, 'full'); END")
    with pytest.raises(StoreDown):
        await blocked(world, store, alice.key, notices=[("mail", {})])
    assert [rows(world, table) for table in (*ADDED, "notices")] == [1, 1, 1, 1, 0]
    assert not (await store.status(alice)).blocked


class TestBypass:
    async def test_it_is_used_up_once_and_ends_in_time(self, world, alice):
        store = await world.open()
        change = world.change(alice.key, "bypass-granted")
        assert await store.grant_bypass("ad/nobody", 300, "lost", change) == "unknown"
        assert await store.grant_bypass(alice, 300, "lost", change) == "granted"
        (row,) = await store.accounts()
        assert row.bypass == Bypass(1, world.now + 300, "lost", "root")
        assert await store.admit(alice, world.success(), (), bypass=True) is None
        assert await store.admit(alice, world.success(), (), bypass=True) == "no-bypass"
        assert (await store.accounts())[0].bypass is None
        assert await store.grant_bypass(alice.key, 300, "again", change, uses=2) == "granted"
        assert await store.grant_bypass(alice.key, 60, "again", change) == "granted"
        world.now += 60
        assert (await store.accounts())[0].bypass is None
        assert await store.admit(alice, world.success(), (), bypass=True) == "no-bypass"
        assert not await store.revoke_bypass(alice.key, change)

    async def test_it_is_taken_back(self, world, alice):
        store = await world.open()
        await store.grant_bypass(alice, 300, "lost", world.change(alice.key))
        assert await store.revoke_bypass(alice.key, world.change(alice.key, "bypass-revoked"))
        assert await store.admit(alice, world.success(), (), bypass=True) == "no-bypass"
        assert not await store.revoke_bypass(alice.key, world.change(alice.key, "bypass-revoked"))
        assert [event.action for event in await store.events()][:1] == ["bypass-revoked"]

    async def test_A33_none_is_granted_to_who_is_blocked(self, world, alice):
        store = await world.open()
        await blocked(world, store, alice)
        assert await store.grant_bypass(alice, 300, "lost", world.change(alice.key)) == "blocked"
        assert rows(world, "bypasses") == 0


class TestRemembered:
    async def test_what_still_counts_is_listed_and_forgotten(self, world, alice, bob):
        store = await world.open()
        key, _grant = await dropped_things(world, store, alice)
        (row,) = await store.remembered()
        assert (row.account, row.dn, row.application, row.client) == (alice.key, alice.dn, "vpn", "192.0.2.1")
        assert (row.reason, row.factor, row.uses, row.expires) == ("reused", "totp", 5, world.now + 3600)
        assert await store.remembered(bob.key) == []
        assert await store.forget_remembered(bob.key, world.change(bob.key)) == 0
        assert await store.forget_remembered(alice.key, world.change(alice.key, "remembered-forgotten")) == 1
        assert await store.remembered(alice.key) == []
        assert await store.reuse(alice, key, world.success()) is None

    async def test_all_are_forgotten_at_once_and_what_is_over_is_not_listed(self, world, alice):
        store = await world.open()
        await dropped_things(world, store, alice)
        world.now += 3600
        assert await store.remembered() == []
        assert await store.forget_remembered(None, world.change("*")) == 0
        assert rows(world, "reuse") == 0


async def test_a_phone_is_kept_and_forgotten(world, alice):
    store = await world.open()
    change = world.change(alice.key, "phone-set")
    assert not await store.set_phone("ad/nobody", "+4930123456", change)
    await dropped_things(world, store, alice)
    assert await store.set_phone(alice.key, "+4930123456", change)
    assert rows(world, "reuse") == 0
    assert (await store.status(alice)).phone == "+4930123456"
    assert (await store.accounts())[0].phone == "+4930123456"
    assert await store.set_phone(alice, None, change)
    assert (await store.status(alice)).phone is None


class TestNotices:
    async def noted(self, world, store, alice, *ways):
        await blocked(world, store, alice, notices=[(way, {"to": way}) for way in ways])

    async def test_they_are_in_the_blocks_transaction_and_one_process_takes_each(self, world, alice):
        one, other = await world.open(), await world.open()
        assert await one.take_notices(60) == []
        await self.noted(world, one, alice, "mail", "webhook")
        taken = await one.take_notices(60)
        assert await other.notices() == (2, 0)
        assert sorted((notice.way, notice.body["to"], notice.tries) for notice in taken) == [
            ("mail", "mail", 1), ("webhook", "webhook", 1),
        ]  # fmt: skip
        assert {notice.at for notice in taken} == {world.now}
        assert await other.take_notices(60) == []
        world.now += 60
        again = await other.take_notices(60)
        assert [notice.tries for notice in again] == [2, 2], "who had taken them is gone"
        assert await one.notices() == (0, 2), "both were tried in vain"
        assert not await one.put_off_notice(taken[0], 5), "another one has it now"
        for notice in again:
            await other.end_notice(notice)
        assert rows(world, "notices") == 0

    async def test_A44_of_two_that_take_at_once_one_gets_it(self, world, alice):
        one, other = await world.open(), await world.open()
        await self.noted(world, one, alice, "mail")
        taken = await asyncio.gather(one.take_notices(60), other.take_notices(60))
        assert sum(map(len, taken)) == 1

    async def test_one_that_is_put_off_is_due_then(self, world, alice):
        store = await world.open()
        await self.noted(world, store, alice, "mail")
        (notice,) = await store.take_notices(60)
        assert await store.put_off_notice(notice, 5)
        world.now += 4
        assert await store.take_notices(60) == []
        world.now += 1
        assert [again.tries for again in await store.take_notices(60)] == [2]
