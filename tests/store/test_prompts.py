"""Questions to owners, codes sent and successes that count again, whichever database lies below (see conftest)."""

import asyncio
import sqlite3
from dataclasses import replace
from itertools import permutations

import pytest
from store.conftest import only_sqlite

from ldapmfa.audit import LoginEnded
from ldapmfa.core.questions import Reused
from ldapmfa.core.secret import Secret
from ldapmfa.errors import StoreDown
from ldapmfa.store import Grant, Place, sqlite
from ldapmfa.store.schema import METADATA
from ldapmfa.store.seal import SealBroken

PLACE = Place("vpn", "192.0.2.7")


async def begin(store, identity, prompt_id="1", key="k", **options):
    return await store.begin_prompt(
        identity,
        prompt_id,
        key,
        **{"seconds": 60, "prompts": 5, "within": 600, "shares": False, "takes_over": False, **options},
    )


async def guess_often(world, store, identity, times):
    """Wrong codes, one after the other."""
    for _ in range(times):
        assert await store.guess(identity) is not None


def failures(world):
    """What is kept of the one account there is: wrong codes, locked until, locks."""
    with world.sql() as connection:
        return connection.execute("SELECT wrong_codes, locked_until, locks FROM accounts").fetchone()


async def logins(store):
    return [event for event in await store.events() if isinstance(event, LoginEnded)]


def approved(world):
    return replace(world.success(), reason="approved", factor="duo")


class TestQuestions:
    async def test_A21_one_at_a_time_whoever_asks(self, world, alice, bob):
        stores = [await world.open(), await world.open()]
        begun = await asyncio.gather(*(begin(stores[n % 2], alice, str(n)) for n in range(50)))
        assert sorted(begun) == ["asked-already"] * 49 + ["begun"]
        assert await begin(stores[1], bob, "bob's") == "begun"

    async def test_A21_as_often_as_is_allowed_and_no_more(self, world, alice, bob):
        stores = [await world.open(), await world.open()]
        for number in range(5):
            assert await begin(stores[number % 2], alice, str(number)) == "begun"
            await stores[number % 2].end_prompt(alice.key, str(number))
        for store in stores:
            assert await begin(store, alice, "5") == "too-many-prompts"
        assert await begin(stores[0], bob, "6") == "begun"
        world.now += 600
        assert await begin(stores[0], alice, "7") == "begun"
        with world.sql() as sql:
            assert sql.execute("SELECT count(*) FROM prompt_times").fetchone()[0] == 2, "old ones are forgotten"

    async def test_what_asked_nobody_does_not_count(self, world, alice):
        store = await world.open()
        for number in range(9):
            assert await begin(store, alice, str(number), prompts=1) == "begun"
            await store.end_prompt(alice.key, str(number), counts=False)

    async def test_one_that_nobody_closed_ends_by_itself_and_is_not_closed_for_another(self, world, alice):
        store = await world.open()
        assert await begin(store, alice, "1") == "begun"
        world.now += 59
        assert await begin(store, alice, "2") == "asked-already"
        world.now += 1
        assert not await store.is_open(alice.key, "k")
        assert await begin(store, alice, "2") == "begun"
        await store.end_prompt(alice.key, "1", grant=Grant("k", 60, 9))
        assert await store.is_open(alice.key, "k")
        assert await store.reuse(alice, "k", world.success()) is None, "an answer that came too late"
        await store.end_prompt(alice.key, "2")
        assert not await store.is_open(alice.key, "k")

    @pytest.mark.parametrize(
        ("key", "left", "shares", "takes_over", "begun"),
        [
            ("k", False, False, False, "asked-already"),
            ("k", False, True, False, "shared"),
            ("k", False, False, True, "asked-already"),
            ("k", True, False, True, "shared"),
            ("k", True, False, False, "asked-already"),
            ("l", False, True, False, "asked-already"),
            ("l", True, True, True, "asked-already"),
        ],
    )
    async def test_A21_who_may_join(self, world, alice, bob, *, key, left, shares, takes_over, begun):
        store = await world.open()
        assert await begin(store, alice) == "begun"
        if left:
            await store.leave_prompt(alice.key, "1")
        await store.leave_prompt(alice.key, "another")
        options = {"shares": shares, "takes_over": takes_over}
        assert await begin(store, alice, "2", key, **options) == begun
        assert await begin(store, bob, "3", key, **options) == "begun", "another account's is never shared"
        assert await store.is_open(alice.key, "k")
        assert not await store.is_open(alice.key, "l")

    @pytest.mark.parametrize(("shares", "takes_over", "begun"), [(True, False, "shared"), (False, True, "shared"), (False, False, "begun")])
    async def test_A21_who_looked_before_it_was_answered_shares_it(self, world, alice, shares, takes_over, begun):
        store = await world.open()
        assert await begin(store, alice) == "begun"
        await store.end_prompt(alice.key, "1", grant=Grant("k", 60, 1, "late-approval"), factor="duo")
        assert await begin(store, alice, "2", "l", shares=shares, takes_over=takes_over) == "begun"
        await store.end_prompt(alice.key, "2")
        assert await begin(store, alice, "3", shares=shares, takes_over=takes_over) == begun

    async def test_A20_nobody_who_is_locked_is_asked(self, world, alice):
        store = await world.open(wrong_codes=2)
        await store.guess(alice)
        assert await begin(store, alice) == "begun"
        await store.end_prompt(alice.key, "1")
        await store.guess(alice)
        assert await begin(store, alice, "2") == "locked"
        assert (await store.status(alice)).locked

    async def test_A20_wrong_codes_count_together_with_those_here(self, world, alice):
        stores = [await world.open(wrong_codes=4), await world.open(wrong_codes=4)]
        await world.enrol(stores[0])
        await asyncio.gather(*(stores[n % 2].guess(alice) for n in range(3)))
        assert (await world.verify(stores[0], "000000")).result == "wrong"
        assert (await world.verify(stores[0], world.code())).result == "locked"

    async def test_A20_only_a_right_code_makes_up_for_wrong_ones(self, world, alice):
        store = await world.open(wrong_codes=2)
        for reason in ("code", "approved"):
            await store.guess(alice)
            await store.admit(alice, replace(world.success(), reason=reason), (), codeless=False)
            assert not (await store.status(alice)).locked
        await store.guess(alice)
        assert (await store.status(alice)).locked

    @pytest.mark.parametrize("order", list(permutations(range(3))))
    async def test_A20_guesses_that_were_none_are_taken_back_with_the_lock(self, world, alice, order):
        """Those under way at once, in whichever order they end."""
        store = await world.open(wrong_codes=3)
        await guess_often(world, store, alice, 3)
        world.now += 900
        guesses = [await store.guess(alice) for _ in range(3)]
        assert None not in guesses
        assert await store.guess(alice) is None, "the third has locked it"
        for number in order:
            await store.take_back(alice.key, guesses[number])
            assert not (await store.status(alice)).locked
        assert failures(world) == (0, world.now, 1)
        await guess_often(world, store, alice, 3)
        assert failures(world) == (0, world.now + 1800, 2)

    async def test_A20_of_guesses_under_way_at_once_the_wrong_ones_count(self, world, alice):
        stores = [await world.open(wrong_codes=3), await world.open(wrong_codes=3)]
        guesses = await asyncio.gather(*(stores[n % 2].guess(alice) for n in range(20)))
        counted = [guess for guess in guesses if guess]
        assert len(counted) == 3
        await asyncio.gather(*(stores[n % 2].take_back(alice.key, counted[n]) for n in range(2)))
        assert failures(world) == (1, None, 0)

    async def test_A20_locks_grow_and_a_right_code_sets_them_back(self, world, alice):
        store = await world.open(wrong_codes=2, lock_seconds=60, longest_lock_seconds=240)
        for lasts in (60, 120, 240, 240):
            await guess_often(world, store, alice, 2)
            assert failures(world)[1] == world.now + lasts
            world.now += lasts
        await store.admit(alice, world.success(), ())
        assert failures(world) == (0, None, 0)
        await guess_often(world, store, alice, 2)
        assert failures(world)[1] == world.now + 60

    async def test_A20_guesses_that_were_under_way_at_a_lock_do_not_unlock(self, world, alice):
        stores = [await world.open(wrong_codes=3), await world.open(wrong_codes=3)]
        for count in range(3, 20):
            await asyncio.gather(*(stores[n % 2].guess(alice) for n in range(count)))
            assert (await stores[0].status(alice)).locked
            world.now += 15 * 60
            await stores[0].admit(alice, world.success(), ())

    async def test_what_fails_is_down(self, world, alice):
        store = await world.open()
        await store.close()
        with pytest.raises(StoreDown):
            await begin(store, alice)
        with pytest.raises(StoreDown):
            await store.end_prompt(alice.key, "1")


class TestReuse:
    async def test_A33_it_counts_as_often_and_as_long_as_was_granted(self, world, alice):
        store = await world.open()
        await begin(store, alice)
        await store.end_prompt(alice.key, "1", grant=Grant("k", 60, 2), factor="duo")
        for _ in range(2):
            assert await store.reuse(alice, "k", world.success("R")) == Reused("reused", "duo")
        assert await store.reuse(alice, "k", world.success()) is None
        assert [(event.reason, event.factor, event.account) for event in await logins(store)] == [
            ("reused", "duo", alice.key)
        ] * 2
        await store.admit(alice, approved(world), (), grant=Grant("k", 60, 2))
        world.now += 60
        assert await store.reuse(alice, "k", world.success()) is None

    async def test_A33_only_for_its_key_and_account(self, world, alice, bob):
        store = await world.open()
        await store.admit(alice, approved(world), (), grant=Grant("k", 60, 9))
        assert await store.reuse(bob, "k", world.success()) is None
        assert await store.reuse(alice, "l", world.success()) is None
        assert await store.reuse(alice, "k", world.success()) == Reused("reused", "duo")

    async def test_A09_a_late_approval_counts_once_at_all_workers_together(self, world, alice):
        stores = [await world.open(), await world.open()]
        await begin(stores[0], alice)
        await stores[0].end_prompt(alice.key, "1", grant=Grant("k", 60, 1, "late-approval"), factor="duo")
        used = await asyncio.gather(*(stores[n % 2].reuse(alice, "k", world.success()) for n in range(50)))
        assert [one for one in used if one] == [Reused("late-approval", "duo")]
        assert [event.reason for event in await logins(stores[1])] == ["late-approval"]

    async def test_A33_a_code_counts_again_where_that_is_granted(self, world, alice):
        store = await world.open()
        await world.enrol(store)
        verified = await store.verify(alice, world.match(world.code()), world.success(), (), Grant("k", 60, 1))
        assert verified.result == "accepted"
        assert await store.reuse(alice, "k", world.success()) == Reused("reused", "totp")

    @pytest.mark.parametrize("result", ["wrong", "replayed"])
    async def test_A33_a_code_that_is_refused_grants_nothing(self, world, alice, result):
        store = await world.open()
        await world.enrol(store)
        code = world.code()
        if result == "replayed":
            await world.verify(store, code)
        else:
            code = "000000"
        verified = await store.verify(alice, world.match(code), world.success(), (), Grant("k", 60, 1))
        assert verified.result == result
        assert await store.reuse(alice, "k", world.success()) is None

    async def test_A33_it_is_forgotten_for_the_account_alone(self, world, alice, bob):
        store = await world.open()
        for identity, key in ((alice, "k"), (alice, "l"), (bob, "m")):
            await store.admit(identity, approved(world), (), grant=Grant(key, 60, 9))
        await store.forget_reuse(alice.key)
        assert await store.reuse(alice, "k", world.success()) is None
        assert await store.reuse(alice, "l", world.success()) is None
        assert await store.reuse(bob, "m", world.success())

    async def test_A20_nobody_who_is_locked_uses_it(self, world, alice):
        store = await world.open(wrong_codes=1)
        await store.admit(alice, approved(world), (), grant=Grant("k", 60, 1))
        await store.guess(alice)
        assert await store.reuse(alice, "k", world.success()) is None
        world.now += 15 * 60

    @only_sqlite
    async def test_A26_a_use_that_is_not_recorded_is_none(self, world, alice, monkeypatch):
        store = await world.open()
        await store.admit(alice, approved(world), (), grant=Grant("k", 60, 1))

        def breaks(_beneath):
            raise sqlite3.OperationalError("disk I/O error")

        with monkeypatch.context() as patch:
            patch.setattr(sqlite, "_commit", breaks)
            with pytest.raises(StoreDown):
                await store.reuse(alice, "k", world.success())
        assert await store.reuse(alice, "k", world.success()) == Reused("reused", "duo")

    async def test_A33_the_key_is_unambiguous_and_keyed(self, world, alice, bob):
        store = await world.open()
        keys = [
            store.reuse_key(identity, Secret(secret), Place(application, client))
            for identity, secret, application, client in [
                (alice, b"pw", "vpn", "192.0.2.7"),
                (bob, b"pw", "vpn", "192.0.2.7"),
                (alice, b"pw2", "vpn", "192.0.2.7"),
                (alice, b"pw", "vpn2", "192.0.2.7"),
                (alice, b"pw", "vpn", "192.0.2.70"),
                (alice, b"7pw", "vpn", "192.0.2."),
                (alice, b".7pw", "vpn", "192.0.2"),
                (alice, b"pw", "vpn1", "92.0.2.7"),
                (alice, b"pw", "vpn\x00", "192.0.2.7"),
                (alice, b"pw\x00", "vpn", "192.0.2.7"),
                (alice, b"PW", "vpn", "192.0.2.7"),
                (alice, b"", "vpn", "192.0.2.7pw"),
                (alice, b"p" * 72 + b"1", "vpn", "192.0.2.7"),
                (alice, b"p" * 72 + b"2", "vpn", "192.0.2.7"),
                (replace(alice, directory="other"), b"pw", "vpn", "192.0.2.7"),
            ]
        ]
        assert len(set(keys)) == len(keys)
        assert store.reuse_key(alice, Secret(b"pw"), PLACE) == keys[0]
        world.seal.add_key()
        assert store.reuse_key(alice, Secret(b"pw"), PLACE) != keys[0], "only who has the key can make it"

    async def test_A43_nothing_of_the_secret_lies_in_the_database(self, world, alice):
        store = await world.open()
        key = store.reuse_key(alice, Secret(b"only-here-90"), PLACE)
        await begin(store, alice, key=key)
        await store.keep_sent(alice, "radius", {"state": "only-here-91"}, PLACE, seconds=60)
        await store.end_prompt(alice.key, "1", grant=Grant(key, 60, 1))
        with world.sql() as sql:
            tables = [sql.execute(f"SELECT * FROM {table}").fetchall() for table in METADATA.tables]
        dump = str(tables)
        assert key in dump
        for text in ("only-here-90", "only-here-91", b"only-here-91".hex()):
            assert text not in dump


class TestCodesSent:
    async def test_A33_it_is_for_where_it_was_asked_for(self, world, alice, bob):
        store = await world.open()
        await store.keep_sent(alice, "radius", {"state": "xyz"}, PLACE, seconds=60)
        other = await world.open()
        assert await other.sent(alice.key, PLACE) == ("radius", {"state": "xyz"})
        for key, place in (
            (alice.key, Place("vpn", "192.0.2.8")),
            (alice.key, Place("mail", "192.0.2.7")),
            (bob.key, PLACE),
        ):
            assert await store.sent(key, place) is None
        world.now += 60
        assert await store.sent(alice.key, PLACE) is None

    async def test_the_last_one_sent_counts_until_it_is_used(self, world, alice):
        store = await world.open()
        await store.keep_sent(alice, "radius", {"state": "1"}, PLACE, seconds=60)
        await store.keep_sent(alice, "duo", {}, replace(PLACE, client="192.0.2.8"), seconds=60)
        assert await store.sent(alice.key, PLACE) is None
        assert await store.sent(alice.key, replace(PLACE, client="192.0.2.8")) == ("duo", {})
        await store.forget_sent(alice.key)
        assert await store.sent(alice.key, replace(PLACE, client="192.0.2.8")) is None

    async def test_what_it_needs_is_bound_to_its_account_and_service(self, world, alice, bob):
        store = await world.open()
        await store.keep_sent(alice, "radius", {"state": "1"}, PLACE, seconds=60)
        await store.keep_sent(bob, "radius", {"state": "2"}, PLACE, seconds=60)
        with world.sql() as sql:
            sql.execute(
                "UPDATE sent_codes SET sealed = (SELECT sealed FROM sent_codes WHERE account_key = ?)", (alice.key,)
            )
        with pytest.raises(SealBroken):
            await store.sent(bob.key, PLACE)
        with world.sql() as sql:
            sql.execute("UPDATE sent_codes SET service = 'duo'")
        with pytest.raises(SealBroken):
            await store.sent(alice.key, PLACE)

    async def test_a_rotation_of_the_key_forgets_it(self, world, alice):
        store = await world.open()
        await store.keep_sent(alice, "radius", {"state": "1"}, PLACE, seconds=60)
        world.seal.add_key()
        world.seal.drop_before(await store.reseal())
        assert await store.sent(alice.key, PLACE) is None


class TestMethod:
    async def test_it_is_kept_and_recorded(self, world, alice, bob):
        store = await world.open()
        assert (await store.status(alice)).method is None
        assert not await store.set_method(alice.key, "push", world.change())
        assert await store.set_method(alice, "duo/push", world.change(alice.key, "method"))
        assert (await store.status(alice)).method == "duo/push"
        assert (await store.status(bob)).method is None
        assert await store.set_method(alice.key, None, world.change(alice.key, "method"))
        assert (await store.status(alice)).method is None
        assert len(await store.events()) == 2


async def test_what_an_account_was_asked_goes_with_it(world, alice):
    store = await world.open()
    await begin(store, alice)
    await store.keep_sent(alice, "radius", {}, PLACE, seconds=60)
    await store.admit(alice, approved(world), (), grant=Grant("k", 60, 1))
    with world.sql() as sql:
        if not world.postgresql:
            sql.execute("PRAGMA foreign_keys=ON")
        sql.execute("DELETE FROM accounts WHERE key = ?", (alice.key,))
        for table in ("prompts", "prompt_times", "reuse", "sent_codes"):
            assert sql.execute(f"SELECT count(*) FROM {table}").fetchone()[0] == 0


async def test_a_database_of_the_first_version_is_brought_up_to_date(world, alice):
    store = await world.open()
    await world.enrol(store)
    await world.verify(store, world.code())
    await world.close()
    with world.sql() as sql:
        for table in ("prompts", "prompt_times", "reuse", "sent_codes", "bypasses", "cuts", "notices", "tries", "rates"):
            sql.execute(f"DROP TABLE {table}")
        for column in ("method", "locks", "phone", "disabled", "blocked_until", "blocked_reason", "blocked_by"):
            sql.execute(f"ALTER TABLE accounts DROP COLUMN {column}")
        sql.execute("ALTER TABLE logins DROP COLUMN application")
        sql.execute("UPDATE alembic_version SET version_num = '0001'")
    store = await world.open()
    assert (await world.verify(store, world.code())).result == "replayed"
    assert (await store.status(alice)).method is None
    assert await begin(store, alice) == "begun"


class TestChanges:
    @pytest.mark.parametrize("what", ["unlock", "unenrol", "remove a factor", "set a method"])
    async def test_A33_whoever_changes_an_account_ends_what_counted(self, world, alice, what):
        store = await world.open()
        factor_id = await world.enrol(store)
        await store.admit(alice, approved(world), (), grant=Grant("k", 600, 9))
        change = replace(world.change(), account=alice.key)
        if what == "unlock":
            await store.unlock(alice.key, change)
        elif what == "unenrol":
            await store.unenrol(alice.key, change)
        elif what == "remove a factor":
            await store.remove_factor(factor_id, change)
        else:
            await store.set_method(alice.key, "push", change)
        assert await store.reuse(alice, "k", world.success()) is None

    async def test_whoever_unlocks_an_account_lets_its_owner_be_asked_again(self, world, alice):
        store = await world.open()
        assert await begin(store, alice, prompts=1) == "begun"
        await store.end_prompt(alice.key, "1")
        assert await begin(store, alice, "2", prompts=1) == "too-many-prompts"
        await store.unlock(alice.key, replace(world.change(), account=alice.key))
        assert await begin(store, alice, "3", prompts=1) == "begun"
