"""A store put back from a backup, and the copies themselves."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from store.conftest import SEED, only_sqlite, totp

from ldapmfa.core.secret import Secret
from ldapmfa.errors import StoreDown
from ldapmfa.factors import NewCredential
from ldapmfa.factors.app_password import AppPassword
from ldapmfa.factors.totp import Totp
from ldapmfa.store import Pending, copies
from ldapmfa.store.seal import Seal, SealBroken

KINDS = {"totp": Totp(), "app-password": AppPassword()}


def used_until(world):
    def until(credential):
        kind = KINDS.get(credential.kind)
        return None if kind is None else kind.used_until(credential, world.now)

    return until


async def restored(world, store, keep=None):
    return await store.restored(used_until(world), world.change("*", "restored"), keep=keep)


def path(world):
    return Path(world.url.removeprefix("sqlite:///"))


@pytest.fixture
def sqlite_only(kind):
    if kind != "sqlite":
        pytest.skip("a file is SQLite's")


async def put_back(world, work):
    """What the store was when `work` began, after all that `work` did."""
    backup = path(world).with_name("backup.db")
    copies.copy(path(world), backup)
    await work
    await world.close()
    copies.put_in_place(backup, path(world), backup.with_name("aside.db"))
    return await world.open()


class TestReplay:
    pytestmark = only_sqlite

    async def test_A19_a_code_used_after_the_backup_is_not_good_after_the_restore(self, world):
        store = await world.open()
        await world.enrol(store)
        code = world.code()
        store = await put_back(world, world.verify(store, code))
        assert (await restored(world, store)).burnt == 1
        assert (await world.verify(store, code)).result == "replayed"

    async def test_without_it_the_code_would_be_good_again(self, world):
        """Or the test above shows nothing."""
        store = await world.open()
        await world.enrol(store)
        code = world.code()
        store = await put_back(world, world.verify(store, code))
        assert (await world.verify(store, code)).result == "accepted"

    @pytest.mark.parametrize("drift", range(-11, 12))
    async def test_A19_nor_if_the_tokens_clock_has_drifted_since(self, world, drift):
        """The store that was lost may have known a drift of up to ten steps, and taken the code one step beside it."""
        store = await world.open()
        await world.enrol(store)
        code = world.code(drift)
        with world.sql() as sql:
            sql.execute("UPDATE factors SET drift = ?", (max(-10, min(10, drift)),))
        before = path(world).with_name("backup.db")
        copies.copy(path(world), before)
        with sqlite3.connect(before) as connection:
            connection.execute("UPDATE factors SET drift = 0")
        connection.close()
        assert (await world.verify(store, code)).result == "accepted"
        await world.close()
        copies.put_in_place(before, path(world), before.with_name("aside.db"))
        store = await world.open()
        await restored(world, store)
        for _ in range(25):
            assert (await world.verify(store, code)).result in {"replayed", "wrong"}
            await store.unlock("ad/" + "guid:" + "a1" * 16, world.change())
            world.now += 30

    async def test_a_token_is_good_again_after_twelve_steps(self, world):
        store = await world.open()
        await world.enrol(store)
        await restored(world, store)
        results = []
        for _ in range(14):
            results.append((await world.verify(store, world.code())).result)
            world.now += 30
        assert results == ["replayed"] * 12 + ["accepted"] * 2

    async def test_A19_what_was_used_of_a_later_time_stays_used(self, world):
        """By a clock that ran ahead, say."""
        store = await world.open()
        await world.enrol(store)
        world.now += 3600
        code = world.code()
        assert (await world.verify(store, code)).result == "accepted"
        world.now -= 3600
        assert (await restored(world, store)).burnt == 0
        world.now += 3600
        assert (await world.verify(store, code)).result == "replayed"

    async def test_what_counted_by_itself_counts_no_more(self, world, alice):
        from ldapmfa.store import Grant, Place

        store = await world.open()
        await world.enrol(store)
        success = replace(world.success(), reason="approved", factor="duo")
        await store.admit(alice, success, (), grant=Grant("k", 600, 9))
        await store.grant_bypass(alice.key, 300.0, "why", world.change(alice.key))
        await store.keep_sent(alice, "sms", {"id": "1"}, Place("vpn", "192.0.2.1"), seconds=300)
        asked = {"seconds": 60.0, "prompts": 5, "within": 600.0, "shares": False, "takes_over": False}
        assert await store.begin_prompt(alice, "p", "k2", **asked) == "begun"
        await restored(world, store)
        with world.sql() as sql:
            for table in ("reuse", "bypasses", "sent_codes", "prompts"):
                assert sql.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table

    async def test_pending_enrolments_are_burnt_too(self, world):
        store = await world.open()
        await world.enrol(store, Pending("ad", "account", "alice"))
        assert (await restored(world, store)).burnt == 1
        assert (await world.verify(store, world.code())).result == "replayed"


class TestUncertain:
    async def enrolled(self, world):
        store = await world.open()
        await world.enrol(store)
        await world.enrol(store, new=NewCredential("recovery", SEED, {}))
        return store

    async def test_nothing_is_done_until_it_is_decided(self, world):
        store = await self.enrolled(world)
        found = await restored(world, store)
        assert (found.burnt, found.uncertain, found.decided) == (1, 1, False)
        assert (await world.verify(store, world.code())).result == "accepted"
        assert "restored" not in {event.action for event in await store.events() if hasattr(event, "action")}

    @pytest.mark.parametrize(("keep", "left", "fate"), [(False, ["totp"], "removed"), (True, ["totp", "recovery"], "kept")])
    async def test_then_they_are_kept_or_removed(self, world, keep, left, fate):
        store = await self.enrolled(world)
        found = await restored(world, store, keep)
        assert (found.burnt, found.uncertain, found.decided) == (1, 1, True)
        assert sorted(row.kind for row in await store.factors()) == sorted(left)
        (event,) = [event for event in await store.events() if getattr(event, "action", "") == "restored"]
        assert (event.account, event.detail) == ("*", f"1 factors burnt, 1 uncertain ones {fate}")

    async def test_an_app_password_is_not_burnt_by_anything(self, world):
        store = await world.open()
        new = AppPassword().new(entropy=os.urandom, account="", issuer="", options={"application": "x"})
        await world.enrol(store, new=new)
        found = await restored(world, store)
        assert (found.burnt, found.uncertain) == (0, 0)

    async def test_it_may_be_done_again(self, world):
        store = await self.enrolled(world)
        await restored(world, store, keep=True)
        assert (await restored(world, store, keep=True)).burnt == 0

    async def test_it_says_when_the_store_last_heard_of_anything(self, world):
        store = await world.open()
        assert (await restored(world, store)).last is None
        await world.enrol(store)
        then, world.now = world.now, world.now + 99
        found = await restored(world, store)
        assert found.last == then


async def test_all_secrets_are_opened(world, tmp_path):
    store = await world.open()
    await world.enrol(store)
    await world.enrol(store, new=totp(Secret(b"another seed, 20 octs")))
    assert await store.open_all() == 2
    with world.sql() as sql:
        sql.execute("UPDATE factors SET account_key = NULL WHERE id = (SELECT max(id) FROM factors)")
    with pytest.raises(SealBroken):
        await store.open_all()


class TestCopies:
    pytestmark = only_sqlite

    async def test_a_copy_made_while_others_write_is_of_one_moment(self, world, alice):
        """Each login writes two rows in one transaction: a copy has both, or neither."""
        store = await world.open()
        await world.enrol(store)

        async def log_in():
            while True:
                world.now += 30
                assert (await world.verify(store, world.code())).result == "accepted"

        writing = asyncio.ensure_future(log_in())
        seen = set()
        for number in range(8):
            await asyncio.sleep(0.01)
            target = path(world).with_name(f"copy{number}")
            await asyncio.to_thread(copies.copy, path(world), target)
            with sqlite3.connect(target) as connection:
                ((logins, last, burnt),) = connection.execute(
                    "SELECT count(*), max(at), (SELECT max(position) FROM factors) FROM logins"
                ).fetchall()
            connection.close()
            assert last is None or int(last // 30) == burnt
            seen.add(logins)
        assert not writing.done()
        writing.cancel()
        assert len(seen) > 1

    async def test_it_is_for_its_owner_alone_and_overwrites_nothing(self, world, tmp_path):
        await world.open()
        mask = os.umask(0)
        try:
            copies.copy(path(world), tmp_path / "copy")
        finally:
            os.umask(mask)
        assert stat.S_IMODE((tmp_path / "copy").stat().st_mode) == 0o600
        (tmp_path / "other").write_text("mine")
        (tmp_path / "link").symlink_to(tmp_path / "nowhere")
        for taken in ("other", "link"):
            with pytest.raises(FileExistsError):
                copies.copy(path(world), tmp_path / taken)
        assert (tmp_path / "other").read_text() == "mine"
        assert not (tmp_path / "nowhere").exists()

    @pytest.mark.parametrize("harm", ["no database", "pages of noise", "a wrong pointer", "not there"])
    async def test_what_is_damaged_leaves_no_copy(self, world, tmp_path, harm):
        store = await world.open()
        await world.enrol(store)
        with world.sql() as sql:
            page = sql.execute("SELECT rootpage FROM sqlite_master WHERE name = 'factors'").fetchone()[0]
        await world.close()
        source = path(world)
        if harm == "a wrong pointer":  # to the cell of the one row; found only by who reads it
            octets = bytearray(source.read_bytes())
            octets[(page - 1) * 4096 + 8 : (page - 1) * 4096 + 10] = b"\xff\xf0"
            source.write_bytes(octets)
        elif harm == "no database":
            source.write_bytes(b"none" * 4096)
        elif harm == "not there":
            source.unlink()
        else:
            octets = bytearray(source.read_bytes())
            octets[8192:-4096] = os.urandom(len(octets) - 8192 - 4096)
            source.write_bytes(octets)
        with pytest.raises(StoreDown, match="state.db"):
            copies.copy(source, tmp_path / "copy")
        assert not (tmp_path / "copy").exists()

    async def test_a_file_that_is_open_is_in_use(self, world):
        await world.open()
        assert copies.in_use(path(world))
        await world.close()
        assert not copies.in_use(path(world))
        path(world).write_bytes(b"none" * 4096)
        assert not copies.in_use(path(world))
        path(world).unlink()
        assert not copies.in_use(path(world))

    async def test_a_copy_opens_with_the_key_and_with_no_other(self, world, tmp_path):
        store = await world.open()
        await world.enrol(store)
        copies.copy(path(world), tmp_path / "copy")
        other = replace(world, url=str(tmp_path / "copy"), stores=world.stores)
        assert await (await other.open(migrate=False)).open_all() == 1
        from ldapmfa.errors import ConfigError

        with pytest.raises(ConfigError, match="store.key_file"):
            await other.open(seal=Seal.create(tmp_path / "k2", entropy=os.urandom))


class TestPuttingInPlace:
    def test_what_was_in_its_place_is_kept_with_its_journals(self, tmp_path):
        for name in ("new", "state.db", "state.db-wal", "state.db-shm"):
            (tmp_path / name).write_text(name)
        copies.put_in_place(tmp_path / "new", tmp_path / "state.db", tmp_path / "aside")
        found = {file.name: file.read_text() for file in tmp_path.iterdir()}
        assert found == {"state.db": "new", "aside": "state.db", "aside-wal": "state.db-wal", "aside-shm": "state.db-shm"}

    def test_journals_that_are_left_alone_go_too(self, tmp_path):
        for name in ("new", "state.db-wal"):
            (tmp_path / name).write_text(name)
        copies.put_in_place(tmp_path / "new", tmp_path / "state.db", tmp_path / "aside")
        assert sorted(file.name for file in tmp_path.iterdir()) == ["aside-wal", "state.db"]

    def test_nothing_is_lost_where_something_is_aside_already(self, tmp_path):
        for name in ("new", "state.db", "aside"):
            (tmp_path / name).write_text(name)
        with pytest.raises(FileExistsError):
            copies.put_in_place(tmp_path / "new", tmp_path / "state.db", tmp_path / "aside")
        assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {n: n for n in ("new", "state.db", "aside")}
