"""What happened, in the database: searched, read whole, told, forgotten."""

import asyncio
import itertools
from dataclasses import replace
from ipaddress import ip_network

import pytest
from sqlalchemy.dialects import sqlite
from store.conftest import ALICE, only_sqlite

from ldapmfa.core.secret import Secret
from ldapmfa.errors import StoreDown
from ldapmfa.factors import NewCredential
from ldapmfa.store import Grant, Pending, Wanted, trail
from ldapmfa.store.rows import fields
from ldapmfa.store.schema import CHANGES, LOGINS

DAY = 86400.0


@pytest.fixture
def fill(world):
    """Put events into the database behind the store's back: a login for each of these changes, and perhaps changes."""

    def fill(logins=(), changes=()):
        for table, events in (("logins", logins), ("changes", changes)):
            rows = [fields(event) for event in events]
            if rows:
                names = ", ".join(rows[0])
                values = ", ".join(f":{name}" for name in rows[0])
                with world.sql() as sql:
                    sql.executemany(f"INSERT INTO {table} ({names}) VALUES ({values})", rows)

    return fill


@pytest.fixture
def login(world):
    def login(at=0.0, **said):
        return replace(world.success(), **{"at": world.now + at, **said})

    return login


@pytest.fixture
def change(world):
    def change(at=0.0, **said):
        return replace(world.change(), **{"at": world.now + at, **said})

    return change


#: Which of the six logins below.
WANTED = [
    ({}, "abcdef"),
    ({"since": -3.0}, "abcd"),
    ({"until": -3.0}, "ef"),
    ({"since": -3.0, "until": -1.0}, "cd"),
    ({"accounts": frozenset({"ad/guid:1"})}, "b"),
    ({"recorded": ("CN=Bea,DC=x",)}, "b"),
    ({"recorded": ("1",)}, "b"),
    ({"recorded": ("%",)}, ""),
    ({"name": "TYPED-C"}, "c"),
    ({"name": "typed-*"}, "abcdef"),
    ({"name": "typed_c"}, ""),
    ({"name": "*%*"}, ""),
    ({"client": ip_network("192.0.2.4")}, "d"),
    ({"client": ip_network("192.0.2.0/29")}, "ad"),
    ({"client": ip_network("2001:db8::/32")}, "e"),
    ({"equal": {"outcome": "refused"}}, "f"),
    ({"equal": {"reference": "REF00001"}}, "f"),
    ({"equal": {"outcome": "refused", "reason": "code"}}, ""),
    ({"equal": {"factor": "duo", "application": "vpn"}}, "a"),
    ({"equal": {"actor": "ann"}}, ""),
    ({"name": "' OR 1=1 --"}, ""),
    ({"equal": {"reason": "\0\udcff"}}, ""),
]


async def found(store, *, newest_first=True, **wanted):
    return [event async for event in store.search(Wanted(**wanted), newest_first=newest_first)]


def plan(world, query):
    """How SQLite goes about `query`."""
    text = str(query.compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True}))
    with world.sql() as sql:
        return " ".join(row[3] for row in sql.execute(f"EXPLAIN QUERY PLAN {text}"))


class TestSearching:
    async def test_logins_and_changes_come_by_time_either_way(self, world, fill, login, change):
        store = await world.open()
        fill([login(-3), login(-1), login(-1, name="b")], [change(-2), change(-1)])
        times = [event.at - world.now for event in await found(store)]
        assert times == [-1, -1, -1, -2, -3]
        oldest = await found(store, newest_first=False)
        assert [event.at - world.now for event in oldest] == [-3, -2, -1, -1, -1]
        assert {type(event).__name__ for event in oldest} == {"LoginEnded", "AccountChanged"}

    @pytest.mark.parametrize("typed", ["MÜLLER", "Müller"])
    @pytest.mark.parametrize("asked", ["müller", "MÜLLER", "m*ÜLLER", "mü*"])
    async def test_a_name_is_found_in_any_case_though_it_is_not_ascii(self, world, fill, login, typed, asked):
        store = await world.open()
        others = [login(name=name) for name in ("muller", "möller", "m", "mxxller")]
        fill([login(name=typed), *others])
        assert [event.name for event in await found(store, name=asked)] == [typed]

    async def test_a_dn_is_found_as_it_is_recorded_though_it_is_not_ascii(self, world, fill, login):
        store = await world.open()
        fill([login(dn="CN=MÜLLER,DC=x"), login(dn="CN=MULLER,DC=x")])
        for asked in ("CN=MÜLLER,DC=x", "cn=mÜLLER,dc=X"):
            assert [event.dn for event in await found(store, recorded=(asked,))] == ["CN=MÜLLER,DC=x"]

    async def test_events_of_one_moment_are_all_found_whatever_a_page_holds(self, world, fill, login, change, monkeypatch):
        monkeypatch.setattr(trail, "PAGE", 3)
        store = await world.open()
        fill([login(0, name=str(n)) for n in range(10)] + [login(-1, name="x")] * 3, [change(0, action=str(n)) for n in range(7)])
        for newest_first in (True, False):
            events = await found(store, newest_first=newest_first)
            assert len(events) == 20
            assert len({getattr(event, "name", getattr(event, "action", "")) for event in events[:17]}) >= 10

    async def test_a_million_events_take_no_more_memory_than_a_page(self, world, fill, login, monkeypatch):
        store = await world.open()
        fill([login(-n) for n in range(40)])
        monkeypatch.setattr(trail, "PAGE", 4)
        seen, listed = [], store.listed

        async def counted(query):
            rows = await listed(query)
            seen.append(len(rows))
            return rows

        store.listed = counted
        assert len(await found(store)) == 40
        assert max(seen) == 4

    async def test_what_is_wanted(self, world, fill, login):
        store = await world.open()
        fill(
            [
                login(0, name="typed-a", factor="duo", application="vpn", client="192.0.2.1"),
                login(-1, name="typed-b", account="ad/guid:1", dn="cn=bea,dc=x", client="unix"),
                login(-2, name="typed-c", client="198.51.100.1"),
                login(-3, name="Typed-d", client="192.0.2.4"),
                login(-4, name="typed-e", client="2001:db8::7"),
                login(-5, name="typed-f", outcome="refused", reason="wrong-code", reference="REF00001", client="unix"),
            ]
        )
        for wanted, names in WANTED:
            times = {time: world.now + wanted[time] for time in ("since", "until") if time in wanted}
            assert "".join(event.name[-1] for event in await found(store, **{**wanted, **times})) == names, wanted

    async def test_changes_by_who_made_them_and_whose_they_are(self, world, fill, login, change):
        store = await world.open()
        fill([login(account="ad/x")], [change(actor="ann"), change(actor="bob", account="ad/y"), change(action="blocked")])
        assert [event.actor for event in await found(store, equal={"actor": "ann"})] == ["ann"]
        assert [event.action for event in await found(store, equal={"action": "blocked"})] == ["blocked"]
        assert len(await found(store, accounts=frozenset({"ad/x"}))) == 3
        assert await found(store, name="*", equal={"actor": "ann"}) == []
        assert await found(store, client=ip_network("0.0.0.0/0"), equal={"actor": "ann"}) == []

    @only_sqlite
    async def test_each_page_is_found_by_an_index(self, world):
        await world.open()
        times, accounts = Wanted(since=1.0, until=9.0), Wanted(accounts=frozenset({"x"}))
        for wanted, table, last, down in itertools.product(
            (times, Wanted(), accounts), (LOGINS, CHANGES), (None, (5.0, 7)), (True, False)
        ):
            steps = plan(world, trail.page(wanted, table, last, down=down))
            if wanted is accounts:
                assert f"USING INDEX ix_{table.name}_" in steps
            else:
                assert f"USING INDEX ix_{table.name}_at" in steps
                assert "TEMP B-TREE" not in steps


class TestTelling:
    async def test_changes_are_given_away_once_and_not_before_they_are_settled(self, world, alice):
        store, other = await world.open(), await world.open()
        await store.unenrol("nobody", world.change())
        assert await store.take_changes() == []  # from here on
        await world.enrol(store)
        assert await store.take_changes() == []
        world.now += 4
        both = [*await store.take_changes(), *await other.take_changes()]
        assert [event.action for event in both] == ["enrolled"]
        assert await store.take_changes() == await other.take_changes() == []

    async def test_two_who_ask_at_once_are_given_each_change_once(self, world):
        stores = [await world.open() for _ in range(3)]
        await stores[0].take_changes()
        for _ in range(5):
            await world.enrol(stores[0])
        world.now += 4
        given = await asyncio.gather(*(store.take_changes() for store in stores for _ in range(3)))
        assert len([event for events in given for event in events]) == 5

    async def test_what_was_there_before_anybody_asked_is_not_told(self, world):
        store = await world.open()
        await world.enrol(store)
        world.now += 4
        assert await store.take_changes() == await store.take_changes() == []

    async def test_one_that_may_still_be_overtaken_holds_up_those_behind_it(self, world, fill, change):
        store = await world.open()
        await store.take_changes()
        fill(changes=[change(-10), change(-1), change(-9)])
        assert len(await store.take_changes()) == 1
        world.now += 3
        assert len(await store.take_changes()) == 2

    async def test_a_clock_that_is_an_hour_ahead_holds_up_nothing(self, world, fill, change):
        store = await world.open()
        await store.take_changes()
        fill(changes=[change(3600), change(-9)])
        assert len(await store.take_changes()) == 2


class TestForgetting:
    async def test_old_events_go_a_few_at_a_time_and_others_stay(self, world, fill, login, change):
        store = await world.open()
        fill([login(-2 * DAY)] * 150 + [login(-1)] * 2, [change(-2 * DAY)] * 30 + [change(-1)] * 3)
        assert await store.oldest_event() == world.now - 2 * DAY
        before = world.now - DAY
        assert [await store.forget_events(before) for _ in range(3)] == [130, 50, 0]
        left = await found(store)
        assert len(left) == 5
        assert await store.oldest_event() == world.now - 1

    @only_sqlite
    async def test_what_is_old_is_found_by_an_index(self, world):
        await world.open()
        for table in (LOGINS, CHANGES):
            steps = plan(world, trail._oldest(table, 5.0))
            assert f"ix_{table.name}_at" in steps
            assert "TEMP B-TREE" not in steps

    async def test_a_change_is_told_though_all_before_it_were_forgotten(self, world):
        store = await world.open()
        await store.take_changes()
        await world.enrol(store)
        world.now += 500 * DAY
        assert len(await store.take_changes()) == 1
        while await store.forget_events(world.now - DAY):
            pass
        await store.unlock((await store.accounts())[0].key, world.change(action="unlocked"))
        world.now += 4
        assert [event.action for event in await store.take_changes()] == ["unlocked"]

    async def test_nothing_there_is_no_time(self, world):
        store = await world.open()
        assert await store.oldest_event() is None
        assert await store.forget_events(world.now) == 0

    async def test_enrolments_that_nobody_claimed_go_and_those_that_were_claimed_stay(self, world, alice):
        store = await world.open()
        await world.enrol(store)
        await world.enrol(store, Pending("ad", "account", "bob"))
        await store.enrol(Pending("ad", "account", "carol"), NewCredential("totp", Secret(b"x" * 20), {}), "l", world.change(), lifetime=1e9)
        assert await store.forget_expired() == 0
        world.now += 8 * DAY
        assert await store.forget_expired() == 1
        assert await store.forget_expired() == 0
        assert len(await store.factors()) == 2

    async def test_A19_an_enrolment_claimed_while_it_is_looked_at_stays_with_the_code_that_was_used(self, world, monkeypatch):
        """By a node whose clock is a little behind."""
        store, other = await world.open(), await world.open()
        await world.enrol(store, Pending("ad", "account", "alice"))
        listed = store.listed

        async def slow(query):
            rows = await listed(query)
            world.now -= 60
            assert (await world.verify(other, world.code())).result == "accepted"
            world.now += 60
            return rows

        monkeypatch.setattr(store, "listed", slow)
        world.now += 7 * DAY + 30
        assert await store.forget_expired() == 0
        assert [factor.account for factor in await store.factors()] == [ALICE.key]

    async def test_successes_and_codes_that_count_no_more_go(self, world, alice):
        store = await world.open()
        await store.admit(alice, world.success(), ["alice"], grant=Grant("k", 10, 1))
        assert await store.forget_expired() == 0
        world.now += 11
        assert await store.forget_expired() == 1


class TestAClockThatIsSet:
    """RFC 6238 and all that counts for a while, when the clock of the wall is set by an hour."""

    async def test_A19_a_code_that_was_used_does_not_count_again_when_the_clock_is_set_back(self, world):
        store = await world.open()
        await world.enrol(store)
        code = world.code()
        assert (await world.verify(store, code)).result == "accepted"
        began = world.now
        for back in (30, 60, 3600, 86400):
            world.now = began - back
            for typed in (code, world.code(), world.code(-1), world.code(1)):
                assert (await world.verify(store, typed)).result in ("replayed", "wrong", "locked")
        await store.unlock((await store.accounts())[0].key, world.change())
        world.now = began + 60
        assert (await world.verify(store, world.code())).result == "accepted"

    async def test_A19_a_clock_that_ran_ahead_and_is_set_right_lets_no_code_in_twice(self, world):
        store = await world.open()
        await world.enrol(store)
        right = world.now
        world.now = right + 3600
        ahead = world.code()
        assert (await world.verify(store, ahead)).result == "accepted"
        world.now = right + 3600 + 30  # an hour later, by a right clock
        assert (await world.verify(store, ahead)).result == "replayed"

    async def test_A33_a_success_counts_no_longer_when_the_clock_is_set_back(self, world, alice):
        store = await world.open()
        await store.admit(alice, world.success(), ["alice"], grant=Grant("k", 30, 5))
        assert await store.reuse(alice, "k", world.success()) is not None
        began = world.now
        world.now = began - 59  # as far as the clocks of nodes may differ
        assert await store.reuse(alice, "k", world.success()) is not None
        world.now = began - 3600
        assert await store.reuse(alice, "k", world.success()) is None
        assert await store.clock_was_set_back() == 1
        world.now = began + 1  # when the time comes round again
        assert await store.reuse(alice, "k", world.success()) is None

    async def test_a_bypass_counts_no_longer_when_the_clock_is_set_back(self, world, alice):
        store = await world.open()
        await store.grant_bypass(alice, 300, "lost phone", world.change(), uses=3)
        assert (await store.status(alice)).bypass
        assert await store.admit(alice, world.success(), [], bypass=True) is None
        began = world.now
        world.now = began - 3600
        assert not (await store.status(alice)).bypass
        assert await store.admit(alice, world.success(), [], bypass=True) == "no-bypass"
        assert await store.clock_was_set_back() == 1
        world.now = began + 1
        assert await store.admit(alice, world.success(), [], bypass=True) == "no-bypass"

    async def test_A20_a_lock_does_not_end_when_the_clock_is_set_back_nor_last_for_ever(self, world, alice):
        store = await world.open(wrong_codes=2)
        await world.enrol(store)
        for _ in range(2):
            await world.verify(store, "000000")
        began = world.now
        for at, locked in ((began - 3600, True), (began + 899, True), (began + 901, False)):
            world.now = at
            assert (await store.status(alice)).locked is locked

    async def test_a_block_does_not_end_when_the_clock_is_set_back(self, world, alice):
        store = await world.open()
        await store.block(alice, world.now + 60, "fraud", world.change())
        world.now -= 3600
        assert (await store.status(alice)).blocked

    async def test_nothing_that_counts_is_forgotten_where_the_clock_was_not_set(self, world, alice):
        store = await world.open()
        await store.admit(alice, world.success(), ["alice"], grant=Grant("k", 30, 5))
        await store.grant_bypass(alice, 300, "lost phone", world.change())
        world.now -= 10  # another node's clock
        assert await store.clock_was_set_back() == 0


@only_sqlite
async def test_a_file_has_no_clock_but_the_machines(world):
    assert await (await world.open()).database_time() is None


async def test_a_store_that_is_closed_says_so(world):
    store = await world.open()
    await store.close()
    for verb in (store.take_changes, store.oldest_event, store.clock_was_set_back, store.forget_expired):
        with pytest.raises(StoreDown):
            await verb()
    with pytest.raises(StoreDown):
        await found(store)
