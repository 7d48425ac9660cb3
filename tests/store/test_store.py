"""What every store promises, whichever database lies below: parametrised by the URL (see conftest)."""

import asyncio
import os
from dataclasses import replace

import pytest
from store.conftest import only_sqlite

from ldapmfa.audit import AccountChanged, ConnectionRefused, LoginEnded
from ldapmfa.core.identity import Identity
from ldapmfa.core.policy import Recall
from ldapmfa.core.secret import Secret
from ldapmfa.errors import FactorDown, StoreDown
from ldapmfa.factors import Match, NewCredential
from ldapmfa.factors.recovery import Recovery
from ldapmfa.factors.totp import Totp
from ldapmfa.store import PENDING_SECONDS, CodeAnswer, Pending, statements
from ldapmfa.store.seal import Seal, SealBroken

OTHER_SEED = b"another seed of twenty"


def totp(seed):
    return NewCredential("totp", seed, {"algorithm": "sha1", "digits": 6, "period": 30})


def recovery():
    return Recovery().new(entropy=os.urandom, account="a", issuer="i", options={})


def results(verified):
    return sorted(one.result for one in verified)


async def standing(store, identity):
    """Whether it is enrolled, and whether it is locked."""
    status = await store.status(identity)
    return status.enrolled, status.locked


async def logins(store, **query):
    return [event for event in await store.events(**query) if isinstance(event, LoginEnded)]


class TestVerify:
    async def test_a_right_code_is_accepted_and_recorded_at_once(self, world, alice):
        store = await world.open()
        await world.enrol(store)
        assert await world.verify(store, world.code()) == CodeAnswer("accepted", "totp")
        (event,) = await logins(store)
        assert event == replace(world.success(), account=alice.key, dn=alice.dn, factor="totp")
        (account,) = await store.accounts()
        assert account.last_login == world.now

    async def test_nobody_is_enrolled_at_first(self, world, alice):
        store = await world.open()
        assert await world.verify(store, world.code()) == CodeAnswer("not-enrolled")
        assert world.evaluated == 0
        assert await logins(store) == []

    async def test_a19_a_code_is_good_once(self, world):
        store = await world.open()
        await world.enrol(store)
        assert (await world.verify(store, world.code())).result == "accepted"
        assert (await world.verify(store, world.code())).result == "replayed"
        world.now += 30
        assert (await world.verify(store, world.code(-1))).result == "replayed"
        assert (await world.verify(store, world.code())).result == "accepted"

    async def test_a19_an_earlier_step_is_not_good_after_a_later_one(self, world):
        store = await world.open()
        await world.enrol(store)
        assert (await world.verify(store, world.code(1))).result == "accepted"
        assert (await world.verify(store, world.code(0))).result == "replayed"

    async def test_a19_fifty_times_in_parallel_one_wins(self, world):
        store = await world.open()
        await world.enrol(store)
        verified = await asyncio.gather(*(world.verify(store, world.code()) for _ in range(50)))
        assert results(verified) == ["accepted"] + ["replayed"] * 49
        assert len(await logins(store)) == 1

    async def test_a19_fifty_times_in_parallel_on_two_stores_one_wins(self, world):
        stores = [await world.open(), await world.open()]
        await world.enrol(stores[0])
        verified = await asyncio.gather(*(world.verify(stores[n % 2], world.code()) for n in range(100)))
        assert results(verified) == ["accepted"] + ["replayed"] * 99

    async def test_a19_what_the_factor_says_is_checked_against_the_row_and_not_against_what_was_read(
        self, world, alice
    ):
        store = await world.open()
        await world.enrol(store)
        step = int(world.now // 30)

        def lies(credential):
            return Match(credential.id, step)

        first = await store.verify(alice, lies, world.success(), [])
        assert (first.result, (await store.verify(alice, lies, world.success(), [])).result) == ("accepted", "replayed")

    async def test_replays_do_not_count_as_guesses(self, world):
        store = await world.open()
        await world.enrol(store)
        verified = [await world.verify(store, world.code()) for _ in range(30)]
        assert results(verified) == ["accepted"] + ["replayed"] * 29
        assert (await store.accounts())[0].wrong_codes == 0

    async def test_the_drift_is_remembered(self, world):
        store = await world.open()
        await world.enrol(store)
        for offset in (1, 2, 3):
            world.now += 300
            assert (await world.verify(store, world.code(offset))).result == "accepted"
        world.now += 300
        assert (await world.verify(store, world.code(1))).result == "wrong"

    async def test_a_code_of_any_of_the_accounts_factors_will_do(self, world):
        store = await world.open()
        await world.enrol(store)
        second = Secret(OTHER_SEED)
        await world.enrol(store, new=totp(second))
        assert (await world.verify(store, world.code(seed=second))).result == "accepted"
        assert (await world.verify(store, world.code())).result == "accepted"
        assert (await world.verify(store, world.code(seed=second))).result == "replayed"

    async def test_another_accounts_code_is_wrong(self, world, alice, bob):
        store = await world.open()
        second = Secret(OTHER_SEED)
        await world.enrol(store)
        await world.enrol(store, bob, totp(second))
        assert (await world.verify(store, world.code(), bob)).result == "wrong"
        assert (await world.verify(store, world.code(seed=second), alice)).result == "wrong"

    async def test_recovery_codes_are_good_once_each(self, world):
        store = await world.open()
        new = recovery()
        await world.enrol(store, new=new)
        first, second = (code.reveal().decode() for code in new.codes[:2])
        verified = await asyncio.gather(*(world.verify(store, first) for _ in range(50)))
        assert results(verified) == ["accepted"] + ["replayed"] * 49
        assert await world.verify(store, second.upper()) == CodeAnswer("accepted", "recovery")
        assert (await world.verify(store, first.upper())).result == "replayed"
        (factor,) = await store.factors()
        assert (factor.codes_left, factor.last_used) == (8, world.now)

    async def test_a_factor_that_names_nothing_to_burn_is_broken_and_not_accepted(self, world, alice):
        store = await world.open()
        await world.enrol(store)
        with pytest.raises(FactorDown):
            await store.verify(alice, lambda one: Match(one.id, None), world.success(), [])
        assert await logins(store) == []

    async def test_a_factor_that_fails_burns_nothing_and_spoils_nobody_elses_login(self, world, alice, bob):
        store = await world.open()
        await world.enrol(store)
        await world.enrol(store, bob)

        def fails(_credential):
            raise FactorDown("its clock stands still")

        outcomes = await asyncio.gather(
            world.verify(store, world.code()),
            store.verify(bob, fails, world.success(), []),
            world.verify(store, world.code(), bob),
            return_exceptions=True,
        )
        assert [type(one) for one in outcomes] == [CodeAnswer, FactorDown, CodeAnswer]
        assert [outcomes[0].result, outcomes[2].result] == ["accepted", "accepted"]

    async def test_the_account_is_kept_as_the_directory_has_it_today(self, world, alice):
        store = await world.open()
        await world.enrol(store)
        renamed = replace(alice, dn="CN=Alice B,DC=example,DC=com", accounts=("aliceb",), upn=None)
        assert (await world.verify(store, world.code(), renamed, names=[])).result == "accepted"
        (account,) = await store.accounts()
        assert (account.dn, account.accounts, account.upn) == (renamed.dn, ("aliceb",), None)
        assert await store.recall("ad", "aliceb") == Recall(enrolled=True)
        assert await store.recall("ad", "alice") == Recall()

    async def test_a32_a_recreated_account_inherits_nothing(self, world, alice):
        store = await world.open()
        await world.enrol(store)
        assert (await world.verify(store, world.code())).result == "accepted"
        world.now += 60
        recreated = replace(alice, id="guid:" + "ff" * 16)
        assert (await world.verify(store, world.code(), recreated)).result == "not-enrolled"
        assert await standing(store, recreated) == (False, False)
        assert await store.factors(recreated.key) == []

    async def test_the_same_id_in_another_directory_is_another_account(self, world, alice):
        store = await world.open()
        await world.enrol(store)
        assert (await world.verify(store, world.code(), replace(alice, directory="hr"))).result == "not-enrolled"


class TestLock:
    async def wrong(self, world, store, times, identity=None):
        from_identity = {} if identity is None else {"identity": identity}
        return [(await world.verify(store, "000000", **from_identity)).result for _ in range(times)]

    async def test_a20_ten_wrong_codes_lock_and_a_quarter_of_an_hour_unlocks(self, world, alice):
        store = await world.open()
        await world.enrol(store)
        assert await self.wrong(world, store, 12) == ["wrong"] * 10 + ["locked"] * 2
        assert world.evaluated == 10
        assert await world.verify(store, world.code()) == CodeAnswer("locked")
        assert await standing(store, alice) == (True, True)
        assert (await store.accounts())[0].locked_until == world.now + 900
        world.now += 899
        assert (await world.verify(store, world.code())).result == "locked"
        world.now += 1
        assert await standing(store, alice) == (True, False)
        assert (await world.verify(store, world.code())).result == "accepted"

    async def test_a20_nothing_is_burnt_while_locked(self, world):
        store = await world.open(lock_seconds=10)
        await world.enrol(store)
        await self.wrong(world, store, 10)
        code = world.code()
        assert (await world.verify(store, code)).result == "locked"
        world.now += 10
        assert (await world.verify(store, code)).result == "accepted"

    async def test_a20_a_success_starts_the_count_again(self, world):
        store = await world.open()
        await world.enrol(store)
        await self.wrong(world, store, 9)
        assert (await world.verify(store, world.code())).result == "accepted"
        assert await self.wrong(world, store, 10) == ["wrong"] * 10
        assert await self.wrong(world, store, 1) == ["locked"]

    async def test_a20_after_a_lock_there_are_ten_more(self, world):
        store = await world.open()
        await world.enrol(store)
        await self.wrong(world, store, 10)
        world.now += 900
        assert await self.wrong(world, store, 11) == ["wrong"] * 10 + ["locked"]

    async def test_A20_and_the_lock_behind_those_lasts_twice_as_long_until_a_code_is_right(self, world, alice):
        stores = [await world.open(longest_lock_seconds=3600), await world.open(longest_lock_seconds=3600)]
        await world.enrol(stores[0])
        for number, lasts in enumerate((900, 1800, 3600, 3600)):
            await self.wrong(world, stores[number % 2], 10)
            world.now += lasts - 1
            assert await self.wrong(world, stores[1], 1) == ["locked"]
            world.now += 1
        assert (await world.verify(stores[0], world.code())).result == "accepted"
        await self.wrong(world, stores[0], 10)
        world.now += 900
        assert await self.wrong(world, stores[1], 1) == ["wrong"]

    async def test_A20_unlocking_sets_the_next_lock_back(self, world, alice):
        store = await world.open()
        await world.enrol(store)
        await self.wrong(world, store, 10)
        world.now += 900
        await self.wrong(world, store, 10)
        assert await store.unlock(alice.key, world.change(alice.key, "unlocked"))
        await self.wrong(world, store, 10)
        world.now += 900
        assert (await world.verify(store, world.code())).result == "accepted"

    async def test_a20_a_hundred_guesses_in_parallel_on_two_stores_are_ten(self, world):
        stores = [await world.open(), await world.open()]
        await world.enrol(stores[0])
        verified = await asyncio.gather(*(world.verify(stores[n % 2], "000000") for n in range(100)))
        assert results(verified) == ["locked"] * 90 + ["wrong"] * 10
        assert world.evaluated == 10

    async def test_a20_the_name_it_was_typed_under_does_not_matter(self, world, alice):
        store = await world.open()
        await world.enrol(store)
        for n in range(10):
            await store.verify(alice, world.match("000000"), world.success(), [f"form {n}"])
        assert (await world.verify(store, world.code())).result == "locked"

    async def test_others_are_not_locked(self, world, bob):
        store = await world.open()
        await world.enrol(store)
        await world.enrol(store, bob)
        await self.wrong(world, store, 10)
        assert (await world.verify(store, world.code(), bob)).result == "accepted"

    async def test_unlock(self, world, alice):
        store = await world.open()
        await world.enrol(store)
        await self.wrong(world, store, 10)
        assert await store.unlock(alice.key, world.change(alice.key, "unlocked")) is True
        assert (await world.verify(store, world.code())).result == "accepted"
        assert await store.unlock("ad/nobody", world.change()) is False
        actions = [event.action for event in await store.events(account=alice.key) if isinstance(event, AccountChanged)]
        assert actions == ["unlocked"]

    async def test_the_limits_are_parameters(self, world):
        store = await world.open(wrong_codes=2, lock_seconds=5)
        await world.enrol(store)
        assert await self.wrong(world, store, 3) == ["wrong", "wrong", "locked"]
        world.now += 5
        assert (await world.verify(store, world.code())).result == "accepted"


PENDINGS = [
    Pending("ad", "dn", "cn=ALICE , ou=people,dc=Example,dc=com"),
    Pending("ad", "userPrincipalName", "ALICE@example.COM"),
    Pending("ad", "account", "aLICE"),
]


class TestPending:
    @pytest.mark.parametrize("owner", PENDINGS, ids=lambda owner: owner.attribute)
    async def test_it_is_claimed_by_the_very_attribute_in_any_spelling(self, world, alice, owner):
        store = await world.open()
        factor = await world.enrol(store, owner)
        assert await standing(store, alice) == (True, False)
        assert (await world.verify(store, world.code())).result == "accepted"
        (row,) = await store.factors()
        assert (row.id, row.account) == (factor, alice.key)
        assert await store.pendings() == []
        world.now += PENDING_SECONDS + 30
        assert (await world.verify(store, world.code())).result == "accepted"

    @pytest.mark.parametrize("owner", PENDINGS, ids=lambda owner: owner.attribute)
    async def test_it_is_claimed_by_one_who_was_known_before(self, world, alice, owner):
        store = await world.open()
        await store.admit(alice, world.success(), ["alice"])
        assert await standing(store, alice) == (False, False)
        await world.enrol(store, owner)
        assert await standing(store, alice) == (True, False)
        assert (await world.verify(store, world.code())).result == "accepted"
        assert [row.account for row in await store.factors()] == [alice.key]

    async def test_what_was_claimed_is_burnt_for_its_owner_only(self, world, alice, bob):
        """Another process, on a database that lets two write at once, may have claimed it since it was read."""
        store = await world.open()
        factor = await world.enrol(store, alice)
        values = {"factor_id": factor, "step": 1, "by": 0, "now": world.now}
        for statement in (statements.USE_STEP, statements.USE_FACTOR):
            for owner, rows in ((None, 0), (bob.key, 0), (alice.key, 1)):
                found = await store._writer.write(lambda call: call.write(statement, owner=owner, **values))  # noqa: B023
                assert found == rows

    @pytest.mark.parametrize(
        "owner",
        [
            Pending("ad", "account", "alice@example.com"),
            Pending("ad", "userPrincipalName", "alice"),
            Pending("ad", "dn", "cn=alice,dc=example,dc=com"),
            Pending("hr", "account", "alice"),
            Pending("ad", "account", "alicia"),
            Pending("ad", "account", "alice "),
        ],
        ids=lambda owner: f"{owner.directory}-{owner.attribute}-{owner.value}",
    )
    async def test_it_is_not_claimed_by_another(self, world, alice, owner):
        store = await world.open()
        await world.enrol(store, owner)
        assert (await world.verify(store, world.code())).result == "not-enrolled"
        assert await standing(store, alice) == (False, False)
        assert len(await store.pendings()) == 1

    async def test_a_value_of_one_attribute_is_none_of_another(self, world, alice):
        store = await world.open()
        await world.enrol(store, Pending("ad", "userPrincipalName", "alice"))
        cheat = replace(alice, upn=None)
        assert (await world.verify(store, world.code(), cheat)).result == "not-enrolled"

    async def test_it_is_claimed_once(self, world, alice, bob):
        store = await world.open()
        await world.enrol(store, Pending("ad", "account", "alice"))
        twin = replace(bob, accounts=("alice",))
        verified = await asyncio.gather(
            world.verify(store, world.code(), alice), world.verify(store, world.code(1), twin)
        )
        assert sorted(one.result for one in verified) == ["accepted", "not-enrolled"]

    async def test_it_is_claimed_once_on_two_stores(self, world, alice, bob):
        stores = [await world.open(), await world.open()]
        await world.enrol(stores[0], Pending("ad", "account", "alice"))
        twin = replace(bob, accounts=("alice",))
        verified = await asyncio.gather(
            *(world.verify(stores[n % 2], world.code(n % 2), (alice, twin)[n % 2]) for n in range(20))
        )
        assert results(verified).count("accepted") == 1
        assert {one.result for one in verified} == {"accepted", "replayed", "not-enrolled"}

    async def test_a_wrong_code_claims_nothing(self, world):
        store = await world.open()
        await world.enrol(store, Pending("ad", "account", "alice"))
        assert (await world.verify(store, "000000")).result == "wrong"
        assert len(await store.pendings()) == 1

    async def test_it_expires_and_is_swept_away_by_the_next_enrolment(self, world, alice, bob):
        store = await world.open()
        await world.enrol(store, Pending("ad", "account", "alice"))
        world.now += PENDING_SECONDS
        assert (await world.verify(store, world.code())).result == "not-enrolled"
        assert await standing(store, alice) == (False, False)
        assert await store.recall("ad", "alice") == Recall()  # it was seen, but never let in
        assert await store.pendings() == []
        await world.enrol(store, bob)
        assert [row.account for row in await store.factors()] == [bob.key]

    async def test_what_was_enrolled_with_it_comes_along(self, world, alice):
        store = await world.open()
        owner = Pending("ad", "account", "alice")
        await world.enrol(store, owner)
        codes = recovery()
        await world.enrol(store, owner, codes)
        await world.enrol(store, Pending("ad", "userPrincipalName", "alice@example.com"), totp(Secret(OTHER_SEED)))
        assert await world.verify(store, world.code()) == CodeAnswer("accepted", "totp")
        assert sorted(row.kind for row in await store.factors(alice.key)) == ["recovery", "totp"]
        assert len(await store.pendings()) == 1, "the one enrolled for another attribute waits on"
        assert (await world.verify(store, codes.codes[0].reveal().decode())).result == "accepted"

    async def test_a_recovery_code_claims_too(self, world, alice):
        store = await world.open()
        codes = recovery()
        await world.enrol(store, Pending("ad", "account", "alice"), codes)
        assert (await world.verify(store, codes.codes[0].reveal().decode())).result == "accepted"
        (row,) = await store.factors(alice.key)
        assert row.codes_left == 9

    async def test_the_accounts_own_factors_come_first(self, world, alice):
        store = await world.open()
        await world.enrol(store, Pending("ad", "account", "alice"))
        await world.enrol(store, alice)
        assert (await world.verify(store, world.code())).result == "accepted"
        assert len(await store.pendings()) == 1

    async def test_unenrolling_one_who_is_pending(self, world, alice):
        store = await world.open()
        await world.enrol(store, Pending("ad", "account", "alice"))
        await world.enrol(store, Pending("ad", "account", "bob"))
        assert await store.unenrol(Pending("ad", "account", "ALICE"), world.change()) == 1
        assert [row.owner for row in await store.pendings()] == [Pending("ad", "account", "bob")]

    async def test_a_dn_nobody_can_read_claims_nothing_and_breaks_nothing(self, world, alice):
        store = await world.open()
        await world.enrol(store, Pending("ad", "account", "alice"))
        odd = replace(alice, dn="no dn at all\x00\udc80")
        assert (await world.verify(store, world.code(), odd)).result == "accepted"


class TestRecall:
    async def test_nobody(self, world):
        assert await (await world.open()).recall("ad", "alice") == Recall()

    async def test_a_password_whose_owner_was_asked_is_never_cut(self, world, alice):
        store = await world.open()
        await store.admit(alice, replace(world.success(), reason="approved", factor="push"), ["acme\\alice"])
        assert await store.recall("ad", "acme\\alice") == Recall(codeless=True)
        (event,) = await store.events()
        assert (event.reason, event.factor) == ("approved", "push")

    async def test_a_name_that_logged_in(self, world, alice):
        store = await world.open()
        await store.admit(alice, world.success(), ["acme\\alice", "acme\\alice"])
        assert await store.recall("ad", "acme\\alice") == Recall(codeless=True)
        assert await store.recall("hr", "acme\\alice") == Recall()
        await world.enrol(store)
        assert await store.recall("ad", "acme\\alice") == Recall(codeless=True, enrolled=True)

    @pytest.mark.parametrize(
        "name",
        [
            "alice",
            "alice@example.com",
            "cn=alice,ou=people,dc=example,dc=com",
            "dn:cn=alice,ou=people,dc=example,dc=com",
        ],
    )
    async def test_one_enrolled_is_known_by_its_names_before_its_first_login(self, world, name):
        store = await world.open()
        await world.enrol(store)
        assert await store.recall("ad", name) == Recall(enrolled=True)

    @pytest.mark.parametrize(
        ("owner", "name"),
        [
            (PENDINGS[0], "dn:cn=alice,ou=people,dc=example,dc=com"),
            (PENDINGS[1], "alice@example.com"),
            (PENDINGS[2], "alice"),
        ],
    )
    async def test_a_pending_value_is_recalled_though_nobody_is_known(self, world, owner, name):
        store = await world.open()
        await world.enrol(store, owner)
        assert await store.recall("ad", name) == Recall(pending=True)

    async def test_what_the_last_success_needed_is_what_counts(self, world, alice):
        """Not that a name was seen: a refusal says nothing of what its password looks like."""
        store = await world.open()
        assert (await world.verify(store, "000000")).result == "not-enrolled"
        assert await store.recall("ad", "alice") == Recall()
        await store.admit(alice, world.success(), ["alice"])
        assert await store.recall("ad", "alice") == Recall(codeless=True)
        await world.enrol(store)
        assert (await world.verify(store, world.code())).result == "accepted"
        assert await store.recall("ad", "alice") == Recall(coded=True, enrolled=True)
        await store.unenrol(alice.key, world.change())
        assert await store.recall("ad", "alice") == Recall(coded=True)

    async def test_a_pending_value_is_recalled_under_another_name_of_a_known_account(self, world, alice):
        store = await world.open()
        await store.admit(alice, world.success(), ["acme\\alice"])
        await world.enrol(store, Pending("ad", "account", "alice"))
        assert await store.recall("ad", "acme\\alice") == Recall(codeless=True, pending=True)

    async def test_a_name_that_moved_to_another_account(self, world, alice, bob):
        store = await world.open()
        await world.enrol(store)
        await store.admit(alice, world.success(), ["desk 7"])
        await store.admit(bob, world.success(), ["desk 7"])
        assert await store.recall("ad", "desk 7") == Recall(codeless=True)

    async def test_when_a_name_was_seen_is_known_to_the_hour(self, world, alice):
        store = await world.open()

        def seen():
            with world.sql() as sql:
                return sql.execute("SELECT seen - ? FROM names", (began,)).fetchone()[0]

        began = world.now
        for later, expected in ((0, 0), (3600, 0), (3601, 3601), (3602, 3601)):
            world.now = began + later
            await store.admit(alice, world.success(), ["alice"])
            assert seen() == expected

    @only_sqlite
    async def test_what_many_are_pending_for_is_found_by_an_index(self, world, alice):
        """A name must cost the same, whoever else is enrolled, pending or known."""
        await world.open()
        with world.sql() as sql:
            for statement in (statements.RECALL, statements.ACCOUNT_AND_OWN, statements.WAITING):
                values = statement.values(dict.fromkeys(("directory", "name", "value", "now", "account_key"), "x"))
                plan = [row[3] for row in sql.execute(f"EXPLAIN QUERY PLAN {statement.sql}", values)]
                assert plan
                assert not [step for step in plan if step.startswith("SCAN")]
                for table in ("pending", "pending_1", "pending_2"):
                    searched = [step for step in plan if step.startswith(f"SEARCH {table} ")]
                    assert all("value=?" in step for step in searched)

    async def test_any_text_is_a_name(self, world, alice):
        store = await world.open()
        for name in ("", "\0", "\udcff", "a" * 70_000, "' OR 1=1 --"):
            assert await store.recall("ad", name) == Recall()
            await store.admit(alice, world.success(), [name])
            assert await store.recall("ad", name) == Recall(codeless=True)


class TestSealing:
    async def test_a_secret_moved_to_another_row_opens_nowhere(self, world, alice, bob):
        store = await world.open()
        first, second = await world.enrol(store, alice), await world.enrol(store, bob)
        with world.sql() as sql:
            blobs = dict(sql.execute("SELECT id, sealed FROM factors").fetchall())
            for factor, other in ((first, second), (second, first)):
                sql.execute("UPDATE factors SET sealed = ? WHERE id = ?", (blobs[other], factor))
        for identity in (alice, bob):
            with pytest.raises(SealBroken):
                await world.verify(store, world.code(), identity)
        assert await logins(store) == []

    @pytest.mark.parametrize("column", ["account_key", "kind", "id"])
    async def test_a_row_that_was_given_to_another_does_not_open(self, world, alice, bob, column):
        store = await world.open()
        await world.enrol(store, alice)
        await store.admit(bob, world.success(), [])
        value = {"account_key": bob.key, "kind": "hotp", "id": "0" * 32}[column]
        with world.sql() as sql:
            sql.execute(f"UPDATE factors SET {column} = ?", (value,))
        for identity in (alice, bob):
            try:
                verified = await world.verify(store, world.code(), identity)
            except SealBroken:
                continue
            assert verified.result == "not-enrolled"

    async def test_a_pending_value_that_was_changed_does_not_open(self, world, bob):
        store = await world.open()
        await world.enrol(store, Pending("ad", "account", "alice"))
        with world.sql() as sql:
            sql.execute("UPDATE pending SET value = 'bob'")
        with pytest.raises(SealBroken):
            await world.verify(store, world.code(), bob)

    @only_sqlite
    async def test_no_secret_lies_in_the_file(self, world, tmp_path):
        store = await world.open()
        new = recovery()
        await world.enrol(store)
        await world.enrol(store, new=new)
        await world.verify(store, world.code())
        await world.close()
        octets = b"".join(path.read_bytes() for path in tmp_path.glob("state.db*"))
        for secret in (b"12345678901234567890", new.secret.reveal(), *(code.reveal() for code in new.codes)):
            assert secret not in octets
        assert world.code().encode() not in octets

    async def test_no_secret_shows_in_an_exception(self, world, alice):
        store = await world.open()
        await world.enrol(store)
        with world.sql() as sql:
            sql.execute("DROP TABLE logins")
        with pytest.raises(StoreDown) as caught:
            await world.verify(store, world.code())
        error, texts = caught.value, []
        while error:
            texts.append(repr(error) + str(error))
            error = error.__cause__ or error.__context__
        assert len(texts) > 1
        assert not any("alice" in text.lower() or "12345678901234567890" in text for text in texts)

    async def test_rotation(self, world, alice, bob):
        store = await world.open()
        await world.enrol(store)
        await world.enrol(store, bob)
        await world.enrol(store, Pending("ad", "account", "carol"), recovery())
        old = world.seal.newest
        key = world.seal.add_key()
        assert (await world.verify(store, world.code())).result == "accepted"
        assert await store.reseal() == key
        world.seal.drop_before(key)
        assert old not in world.key_file.read_text()
        await world.close()
        store = await world.open()
        world.now += 30
        assert (await world.verify(store, world.code(), alice)).result == "accepted"
        assert (await world.verify(store, world.code(), bob)).result == "accepted"
        with world.sql() as sql:
            blobs = sql.execute("SELECT sealed FROM factors").fetchall()
        assert {world.seal.key_of(blob) for (blob,) in blobs} == {key}

    async def test_rotation_beside_a_running_server(self, world, tmp_path, alice):
        server = await world.open()
        await world.enrol(server, Pending("ad", "account", "alice"))
        seal = Seal(world.key_file, entropy=os.urandom)
        operator = await world.open(seal=seal)
        seal.add_key()
        seal.drop_before(await operator.reseal())
        assert (await world.verify(server, world.code())).result == "accepted"
        world.now += 30
        assert (await world.verify(operator, world.code())).result == "accepted"

    async def test_one_row_that_does_not_open_stops_the_rotation_whole(self, world, bob):
        store = await world.open()
        await world.enrol(store)
        factor = await world.enrol(store, bob)
        with world.sql() as sql:
            sql.execute("UPDATE factors SET sealed = ? WHERE id = ?", (b"\0", factor))
        old = world.seal.newest
        world.seal.add_key()
        with pytest.raises(SealBroken, match=factor):
            await store.reseal()
        with world.sql() as sql:
            rows = sql.execute("SELECT sealed FROM factors WHERE id <> ?", (factor,)).fetchall()
        assert [world.seal.key_of(blob) for (blob,) in rows] == [old]


class TestAccounts:
    async def test_enrolling_lists_the_account_and_records_the_change(self, world, alice):
        store = await world.open()
        factor = await world.enrol(store)
        (account,) = await store.accounts()
        assert (account.key, account.factors, account.last_login) == (alice.key, ("totp",), None)
        assert (account.upn, account.accounts, account.first_seen) == (alice.upn, alice.accounts, world.now)
        (row,) = await store.factors(alice.key)
        assert (row.id, row.label, row.created, row.last_used) == (factor, "phone", world.now, None)
        assert row.parameters == {"algorithm": "sha1", "digits": 6, "period": 30}
        assert await store.events() == [world.change()]

    async def test_pending_enrolments_are_a_list_of_their_own(self, world):
        store = await world.open()
        owner = Pending("ad", "account", "Alice")
        factor = await store.enrol(owner, recovery(), "paper", world.change(), lifetime=60)
        assert await store.accounts() == []
        (row,) = await store.pendings()
        assert (row.owner, row.expires) == (Pending("ad", "account", "alice"), world.now + 60)
        assert (row.factor.id, row.factor.account, row.factor.codes_left) == (factor, None, 10)

    @pytest.mark.parametrize(
        "name",
        [
            "ad/guid:" + "a1" * 16,
            "ALICE",
            "Alice@example.com",
            "cn=alice, ou=People,dc=example,dc=com",
            "acme\\alice",
        ],
    )
    async def test_find(self, world, alice, bob, name):
        store = await world.open()
        await store.admit(alice, world.success(), ["acme\\alice"])
        await store.admit(bob, world.success(), ["bob"])
        assert [row.key for row in await store.find(None, name)] == [alice.key]
        assert [row.key for row in await store.find("ad", name)] == [alice.key]
        assert await store.find("hr", name) == []

    async def test_find_in_all_directories(self, world, alice):
        store = await world.open()
        await store.admit(alice, world.success(), [])
        await store.admit(replace(alice, directory="hr"), world.success(), [])
        assert len(await store.find(None, "alice")) == 2
        assert await store.find(None, "nobody=here,") == []

    async def test_removing_one_factor(self, world, alice):
        store = await world.open()
        first = await world.enrol(store)
        second = await world.enrol(store, new=recovery())
        assert await store.remove_factor(first, world.change(alice.key, "removed")) is True
        assert await store.remove_factor(first, world.change(alice.key, "removed")) is False
        assert [row.id for row in await store.factors(alice.key)] == [second]
        assert (await world.verify(store, world.code())).result == "wrong"
        assert len(await store.events(account=alice.key)) == 1, "what changed nothing is not recorded"

    async def test_unenrolling(self, world, alice, bob):
        store = await world.open()
        for new in (None, recovery()):
            await world.enrol(store, alice, new)
        await world.enrol(store, bob)
        assert await store.unenrol(alice.key, world.change()) == 2
        assert (await world.verify(store, world.code())).result == "not-enrolled"
        assert (await store.find("ad", "alice"))[0].factors == ()
        assert await store.unenrol(alice.key, world.change()) == 0
        assert len(await store.factors()) == 1

    async def test_resynchronising_burns_the_second_code_and_takes_over_the_drift(self, world, alice):
        store = await world.open()
        factor = await world.enrol(store)
        assert (await world.verify(store, world.code(8))).result == "wrong"

        def resynchronise(first, second):
            return lambda one: Totp().resynchronise(one, world.code(first), world.code(second), world.now)

        change = world.change(alice.key, "resynchronised")
        assert await store.resynchronise(factor, resynchronise(7, 9), change) is False
        assert await store.resynchronise(factor, resynchronise(7, 8), change) is True
        assert await store.resynchronise(factor, resynchronise(7, 8), change) is False
        assert await store.resynchronise("0" * 32, resynchronise(7, 8), change) is False
        assert (await world.verify(store, world.code(8))).result == "replayed"
        assert (await world.verify(store, world.code(9))).result == "accepted"
        assert len([event for event in await store.events() if event == change]) == 1

    async def test_resynchronising_a_pending_factor_does_not_claim_it(self, world):
        store = await world.open()
        factor = await world.enrol(store, Pending("ad", "account", "alice"))
        assert await store.resynchronise(
            factor, lambda one: Totp().resynchronise(one, world.code(4), world.code(5), world.now), world.change()
        )
        assert len(await store.pendings()) == 1
        assert (await world.verify(store, world.code(6))).result == "accepted"


class TestRecords:
    async def test_an_admission_is_durable_when_it_returns(self, world, alice):
        store = await world.open()
        await store.admit(alice, replace(world.success(), reason="exempt"), ["alice"])
        other = await world.open()
        (event,) = await other.events()
        assert (event.reason, event.account, event.factor) == ("exempt", alice.key, None)

    async def test_noted_refusals_are_there_after_closing(self, world, alice):
        store = await world.open()
        refusal = replace(world.success("K7QX-2M4P"), outcome="refused", reason="wrong-code", result=49)
        for n in range(700):
            store.note(replace(refusal, at=world.now + n, reference=f"R{n}"))
        store.note(world.change())
        store.note(ConnectionRefused(at=world.now, listener="l", client="c", reason="garbage"))
        await world.close()
        store = await world.open()
        assert len(await store.events(limit=10_000)) == 701
        assert [event.reference for event in await store.events(limit=2)] == ["R699", "R698"]
        (found,) = await store.events(reference="R5")
        assert found == replace(refusal, at=world.now + 5, reference="R5")
        assert store.dropped == 0

    async def test_a_full_backlog_drops_and_counts(self, world):
        store = await world.open(backlog=5)
        for _ in range(8):
            store.note(world.success())
        assert store.dropped == 3
        await world.close()
        assert len(await (await world.open()).events()) == 5

    async def test_notes_are_written_without_a_login_to_ride_on(self, world):
        store = await world.open()
        store.note(world.success("SOON"))
        for _ in range(1000):
            if await store.events(reference="SOON"):
                break
        assert len(await store.events(reference="SOON")) == 1

    async def test_events_of_an_account_newest_first(self, world, alice, bob):
        store = await world.open()
        await store.enrol(alice, recovery(), "paper", world.change(alice.key))
        world.now += 1
        await store.admit(alice, world.success(), [])
        await store.admit(bob, world.success(), [])
        world.now += 1
        await store.unlock(alice.key, world.change(alice.key, "unlocked"))
        events = await store.events(account=alice.key)
        assert [type(event) for event in events] == [AccountChanged, LoginEnded, AccountChanged]

    async def test_hostile_text_is_kept_as_text(self, world, alice):
        store = await world.open()
        await store.admit(alice, replace(world.success(), name="a\0b\udc80" + "x" * 100_000), ["n"])
        (event,) = await store.events()
        assert event.name.startswith("a\\x00b\\udc80x")
        assert len(event.name) < 1000


class TestBroken:
    async def test_a_closed_store_is_down(self, world, alice):
        store = await world.open()
        await world.enrol(store)
        await world.close()
        with pytest.raises(StoreDown):
            await world.verify(store, world.code())
        store.note(world.success())
        assert store.dropped == 1

    async def test_reading_a_database_that_lost_a_table(self, world, alice):
        store = await world.open()
        with world.sql() as sql:
            if not world.postgresql:
                sql.execute("PRAGMA foreign_keys=OFF")
            sql.execute("DROP TABLE pending")
        for verb in (store.recall("ad", "alice"), store.status(alice), store.pendings(), world.verify(store, "000000")):
            with pytest.raises(StoreDown):
                await verb

    async def test_a_key_no_database_can_hold(self, world, alice):
        store = await world.open()
        odd = Identity("ad", "dn:\udc80", "cn=x")
        for verb in (store.admit(odd, world.success(), []), world.verify(store, "000000", odd), store.status(odd)):
            with pytest.raises(StoreDown):
                await verb


async def test_clearing_caches_is_counted_for_every_process_and_recorded(world):
    one, two = await world.open(), await world.open()
    assert await two.caches_cleared() == 0
    for number in range(1, 12):
        assert await one.clear_caches(world.change("*", "caches-cleared")) == number
        assert await two.caches_cleared() == await one.caches_cleared() == number
    assert [(event.action, event.account) for event in await two.events()] == [("caches-cleared", "*")] * 11
    await one.close()
    with pytest.raises(StoreDown):
        await one.caches_cleared()


async def test_caches_cleared_by_two_at_once_are_cleared_twice(world):
    one, two = await world.open(), await world.open()
    change = world.change("*", "caches-cleared")
    assert sorted(await asyncio.gather(*(store.clear_caches(change) for store in (one, two) * 3))) == [1, 2, 3, 4, 5, 6]
