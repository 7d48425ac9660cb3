"""Wrong passwords, counted: under which key, in which window, over processes, and how rows go."""

import asyncio
import json
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from ldapmfa.core.identity import Identity
from ldapmfa.core.secret import Secret
from ldapmfa.core.throttle import PasswordLimit, Tried
from ldapmfa.errors import StoreDown
from ldapmfa.wire import dn

LIMIT = PasswordLimit()
HERE, THERE = "192.0.2.7", "198.51.100.9"


async def tried(store, name="alice", *, source=HERE, password="wrong", directory="ad", limit=LIMIT):
    return await store.tried(directory, dn.normalise_name(name), source, Secret(password.encode()), limit)


async def wrong(store, name="alice", *, source=HERE, password="wrong", directory="ad", limit=LIMIT):
    """One that the directory refused; what was known before."""
    counted, known = await tried(store, name, source=source, password=password, directory=directory, limit=limit)
    await store.count_wrong(counted, Secret(password.encode()), limit)
    return known


async def known(store, *args, **more):
    return (await tried(store, *args, **more))[1]


async def succeed(world, store, identity, name, source=HERE):
    counted, _ = await tried(store, name, source=source)
    await store.admit(identity, world.success(), [dn.normalise_name(name)])
    store.note_success(counted, identity.key, LIMIT)
    await store.admit(identity, world.success(), [])  # notes are written by then


async def noted(world, store, identity):
    """Until notes are written."""
    await store.admit(identity, world.success(), [])


class TestCounting:
    async def test_A22_it_is_counted_for_the_name_the_source_and_the_minute(self, world):
        store = await world.open()
        assert await wrong(store) == Tried()
        assert await wrong(store, password="other") == Tried(1, 1, 1)
        assert await known(store, password="more") == Tried(2, 2, 2)
        assert await known(store, "bob") == Tried(0, 2, 2)
        assert await known(store, source=THERE) == Tried(0, 0, 2)
        assert await known(store, directory="other") == Tried(0, 2, 2), "a source is one, whatever is behind"

    async def test_A22_the_window_begins_with_the_first_and_ends(self, world):
        store = await world.open()
        await wrong(store)
        world.now += LIMIT.seconds - 1
        await wrong(store)
        assert await known(store, password="more") == Tried(2, 2, 1)
        world.now += 1
        assert await known(store, password="more") == Tried(0, 0, 1)
        await wrong(store)
        assert (await known(store, password="more")).failures == 1
        world.now += 60
        assert (await known(store, password="more")).this_minute == 0

    async def test_A22_accents_are_no_other_name(self, world, alice):
        """Active Directory takes one for the other, and there is no end of them."""
        store = await world.open()
        spellings = ["\u00e1lice", "\u00e0lice", "AD\\al\u00edce", "a\u0302\u0302lice@ad.example", "alice", "ali\u0378ce"]
        for count, name in enumerate(spellings):
            assert (await wrong(store, name, password=name)).failures == count
        await store.admit(alice, world.success(), [])
        assert (await known(store)).failures == 0, "it is an account that is known by now"
        for count, name in enumerate(["alice", *spellings, "CN=\u00c4lice,OU=People,DC=example,DC=com"]):
            assert (await wrong(store, name, password=name)).failures == count, name

    async def test_A22_counts_are_exact_on_two_stores_at_once(self, world):
        stores = [await world.open(), await world.open()]
        await asyncio.gather(*(wrong(stores[n % 2], password=str(n)) for n in range(60)))
        assert await known(stores[0]) == Tried(60, 60, 60)
        with world.sql() as connection:
            assert sorted(connection.execute("SELECT who, failures FROM tries")) == [("", 60), ("name:alice", 60)]

    async def test_A22_and_in_two_processes(self, world):
        store = await world.open()
        program = Path(__file__).with_name("guesser.py")

        def together():
            with ExitStack() as stack:
                words = [sys.executable, str(program), world.url, str(world.key_file), str(world.now)]
                nodes = [stack.enter_context(subprocess.Popen(words, stdin=-1, stdout=-1, text=True)) for _ in range(2)]
                for node in nodes:
                    assert node.stdout.readline() == "ready\n"
                for node in nodes:
                    node.stdin.write("go\n")
                    node.stdin.flush()
                return [json.loads(node.stdout.readline()) for node in nodes]

        assert await asyncio.to_thread(together) == [30, 30]
        assert await known(store) == Tried(60, 60, 60)

    async def test_A22_the_same_wrong_password_is_known_for_a_minute(self, world):
        store = await world.open()
        await wrong(store, password="old")
        assert (await known(store, password="old")).again
        assert not (await known(store, password="other")).again
        assert not (await known(store, "bob", password="old")).again
        assert not (await known(store, source=THERE, password="old")).again
        world.now += 59.9
        assert (await known(store, password="old")).again
        world.now += 0.1
        assert not (await known(store, password="old")).again

    async def test_A22_nothing_of_a_password_can_be_had_from_what_is_kept(self, world):
        store = await world.open()
        for source in (HERE, THERE):
            await wrong(store, password="old", source=source)
        await wrong(store, "bob", password="old")
        with world.sql() as connection:
            hashes = [row[0] for row in connection.execute("SELECT refused FROM tries WHERE who != ''")]
        assert len(set(hashes)) == 3, "not even that it is the same"
        assert all(len(each) == 64 for each in hashes)

    async def test_A22_a_right_password_sets_back_the_names_count_only(self, world, bob):
        store = await world.open()
        await wrong(store)
        await wrong(store, source=THERE)
        counted, _ = await tried(store)
        assert counted.failures == 1
        store.forget_wrong(counted)
        await noted(world, store, bob)
        assert await known(store, password="wrong") == Tried(0, 1, 2)
        assert (await known(store, source=THERE)).failures == 1


    async def test_A22_unlocking_an_account_sets_its_count_back_wherever_it_came_from(self, world, alice, bob):
        store = await world.open()
        for identity in (alice, bob):
            await store.admit(identity, world.success(), [])
            for source in (HERE, THERE):
                await wrong(store, identity.accounts[0], source=source)
        assert await store.unlock(alice.key, world.change(alice.key, "unlocked"))
        for source in (HERE, THERE):
            assert await known(store, source=source) == Tried(0, 2, 4)
            assert (await known(store, "bob", source=source)).failures == 1


class TestNames:
    """Under which key a typed name is counted."""

    @pytest.mark.parametrize(
        "name",
        ["alice", "ALICE", "EXAMPLE\\Alice", "alice@example.com", "alice@another.test", "cn=ALICE , ou=people,dc=example,dc=com"],
    )
    async def test_A22_an_accounts_forms_are_the_account(self, world, alice, name):
        store = await world.open()
        await store.admit(alice, world.success(), [])
        assert (await tried(store, name))[0].who == alice.key
        assert (await tried(store, name, directory="other"))[0].who != alice.key

    async def test_A22_a_name_by_which_it_has_logged_in_is_the_account(self, world, alice):
        store = await world.open()
        name = "example.com/People/Alice"
        assert (await tried(store, name))[0].who == "name:example.com/people/alice"
        await store.admit(alice, world.success(), [dn.normalise_name(name)])
        assert (await tried(store, name))[0].who == alice.key

    async def test_A22_a_name_that_is_two_accounts_is_a_name_until_one_logs_in_by_it(self, world, alice):
        store = await world.open()
        twin = Identity("ad", "guid:" + "c2" * 16, "CN=Alice,OU=Other,DC=example,DC=com", ("alice",), "a2@example.com")
        for identity in (alice, twin):
            await store.admit(identity, world.success(), [])
        for name in ("alice", "EXAMPLE\\alice"):
            assert (await tried(store, name))[0].who == "name:alice"
        await store.admit(twin, world.success(), ["example\\alice"])
        assert (await tried(store, "EXAMPLE\\alice"))[0].who == twin.key

    async def test_A22_the_whole_name_goes_before_the_bare_one(self, world, alice):
        store = await world.open()
        other = Identity("ad", "guid:" + "c2" * 16, "CN=X,DC=example,DC=com", ("x",), "alice@other.test")
        for identity in (alice, other):
            await store.admit(identity, world.success(), [])
        assert (await tried(store, "alice@other.test"))[0].who == other.key
        assert (await tried(store, "alice@third.test"))[0].who == alice.key

    async def test_A22_a_typed_name_is_never_an_accounts_key(self, world, alice):
        store = await world.open()
        assert (await tried(store, alice.key))[0].who.startswith("name:")

    @pytest.mark.parametrize("name", ["x" * 5000, "a\udc80b", "nul\0", ""])
    async def test_A22_any_name_can_be_counted(self, world, name):
        store = await world.open()
        await wrong(store, name)
        assert (await known(store, name)).failures == 1


class TestSuccesses:
    async def test_A22_who_has_logged_in_from_there_is_known_there(self, world, alice):
        store = await world.open()
        await succeed(world, store, alice, "alice")
        assert (await known(store, "EXAMPLE\\alice")).known
        assert not (await known(store, source=THERE)).known
        assert not (await known(store, "bob")).known
        world.now += LIMIT.known_seconds - 1
        assert (await known(store)).known
        world.now += 1
        assert not (await known(store)).known

    async def test_A22_a_success_sets_back_the_count_and_wrong_ones_leave_it_known(self, world, alice):
        store = await world.open()
        await succeed(world, store, alice, "alice")
        await wrong(store)
        assert await known(store, password="more") == Tried(1, 1, 1, known=True)
        world.now += 3600
        await wrong(store, "bob")  # and old rows go
        assert (await known(store)).known
        await succeed(world, store, alice, "alice")
        assert (await known(store, password="more")).failures == 0

    async def test_A22_it_is_written_once_an_hour(self, world, alice):
        store = await world.open()
        await succeed(world, store, alice, "alice")
        for later in (1800, 3599):
            world.now = 1_700_000_000.0 + later
            await succeed(world, store, alice, "alice")
            assert (await tried(store))[0].succeeded == 1_700_000_000.0
        world.now += 1
        await succeed(world, store, alice, "alice")
        assert (await tried(store))[0].succeeded == world.now


class TestRows:
    async def test_A22_A41_rows_go_when_their_time_is_over(self, world, alice):
        store = await world.open()
        await succeed(world, store, alice, "alice")
        for number in range(40):
            await wrong(store, f"no{number}", source=f"192.0.2.{number}")
        world.now += LIMIT.seconds
        for number in range(8):
            await wrong(store, f"new{number}", source=f"203.0.113.{number}")
        with world.sql() as connection:
            who = {row[0] for row in connection.execute("SELECT who FROM tries")}
            assert connection.execute("SELECT count(*) FROM rates").fetchone() == (1,)
        assert who == {"", alice.key, *(f"name:new{number}" for number in range(8))}

    async def test_A22_the_limits_are_parameters(self, world):
        store = await world.open()
        limit = replace(LIMIT, seconds=10, again_seconds=5)
        await wrong(store, limit=limit)
        world.now += 5
        assert await known(store, limit=limit) == Tried(1, 1, 1)
        world.now += 5
        assert (await known(store, limit=limit)).failures == 0

    async def test_what_fails_is_down(self, world):
        store = await world.open()
        counted, _ = await tried(store)
        await store.close()
        with pytest.raises(StoreDown):
            await tried(store)
        with pytest.raises(StoreDown):
            await store.count_wrong(counted, Secret(b"x"), LIMIT)
