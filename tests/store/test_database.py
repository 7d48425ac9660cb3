"""URLs, the file, its pragmas, and the schema's versions."""

import asyncio
import contextlib
import os
import sqlite3
import stat
import sys
from dataclasses import replace

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError

from ldapmfa.core.policy import Recall
from ldapmfa.errors import ConfigError, StoreDown
from ldapmfa.store import database, migrating, sqlite
from ldapmfa.store.schema import METADATA
from ldapmfa.store.seal import Seal


@pytest.fixture(params=["sqlite"])
def kind(request):
    """In tests/store/test_postgresql.py it is the other one."""
    return request.param


def connections(opened):
    """What lies below the three of them: writing, for long readings, and for those at once."""
    with opened._engines[1].connect() as long:
        return sqlite.driver(opened._writing), sqlite.driver(long), opened._at_once


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:////var/lib/x/state.db", "sqlite:////var/lib/x/state.db"),
        ("/var/lib/x/state.db", "sqlite:////var/lib/x/state.db"),
        ("sqlite+aiosqlite:////x", "sqlite:////x"), ("sqlite+pysqlite:////x", "sqlite:////x"),
    ],
)
def test_urls(url, expected):
    assert str(sqlite.address(url)) == expected


@pytest.mark.parametrize(
    "url", ["", "state.db", "mysql://u:hunter2@h/d", "sqlite://", "sqlite:///:memory:", "sqlite:/x", "postgres//u:hunter2@h/d"]
)
def test_urls_that_will_not_do(url):
    with pytest.raises(ConfigError, match=r"^store\.url: ") as caught:
        sqlite.address(url)
    assert "hunter2" not in str(caught.value)


async def test_the_file_and_its_journals_are_for_their_owner_alone(world, tmp_path):
    mask = os.umask(0)
    try:
        store = await world.open()
        await world.enrol(store)
    finally:
        os.umask(mask)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("state.db*")}
    assert "state.db-wal" in modes
    assert set(modes.values()) == {0o600}


async def test_the_pragmas(world):
    store = await world.open()
    writing, reading, at_once = connections(store._database)
    for connection, timeout, query_only in ((writing, 0, 0), (reading, 5000, 1), (at_once, 0, 1)):
        values = [
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "busy_timeout", "foreign_keys", "query_only")
        ]
        assert values == ["wal", 2, timeout, 1, query_only]


async def test_writers_take_the_lock_at_once(world):
    store = await world.open()
    other = await world.open()
    async with store._database.transaction() as transaction:
        assert transaction.read(text("PRAGMA user_version"), {}) == [(0,)]
        with world.sql() as sql:
            sql.execute("PRAGMA busy_timeout=1")
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                sql.execute("BEGIN IMMEDIATE")
        assert await other.accounts() == []
        assert await other.recall("ad", "alice") == Recall()


async def test_the_migrations_make_the_schema(world):
    store = await world.open()
    async with store._database.transaction() as transaction:
        context = MigrationContext.configure(transaction._connection, opts={"compare_type": True})
        assert compare_metadata(context, METADATA) == []


async def test_opening_again_changes_nothing(world):
    await world.enrol(await world.open())
    await world.close()
    assert len(await (await world.open(migrate=False)).factors()) == 1


async def test_two_new_databases_may_be_opened_at_once(world, tmp_path):
    other = replace(world, url=f"sqlite:///{tmp_path}/other.db", stores=world.stores)
    stores = await asyncio.gather(world.open(), other.open(), world.open())
    assert [await store.accounts() for store in stores] == [[], [], []]


async def test_without_leave_to_migrate_the_command_is_named(world):
    with pytest.raises(ConfigError, match=r"store\.url: .*run `ldapmfa init`"):
        await world.open(migrate=False)


async def test_a_database_of_a_later_version_is_left_alone(world):
    await world.open()
    await world.close()
    with world.sql() as sql:
        sql.execute("UPDATE alembic_version SET version_num = '9999'")
    for migrate in (True, False):
        with pytest.raises(ConfigError, match=r"store\.url: .*later version \(9999\)"):
            await world.open(migrate=migrate)


def test_the_version_the_program_is_written_for_is_the_last_migration():
    config = Config()
    config.set_main_option("script_location", str(migrating.MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_current_head() == database.HEAD


async def test_alembic_is_imported_only_to_migrate(world):
    await world.open()
    await world.close()
    program = (
        "import sys\n"
        "from sqlalchemy import create_engine\n"
        "from ldapmfa.store import database\n"
        "with create_engine(sys.argv[1]).begin() as connection:\n"
        "    database.upgrade(connection, migrate=False)\n"
        "assert 'alembic' not in sys.modules\n"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, world.url)
    assert await process.wait() == 0


async def test_half_a_migration_never_stays(world, monkeypatch):
    def fails(*_args):
        raise OSError("the power went")

    import ldapmfa.store

    with monkeypatch.context() as patch:
        patch.setattr(ldapmfa.store, "_check_canary", fails)
        with pytest.raises(StoreDown):
            await world.open()
    with world.sql() as sql:
        assert sql.execute("SELECT name FROM sqlite_master").fetchall() == []


async def test_another_key_file_is_noticed_when_opening(world, tmp_path):
    await world.open()
    await world.close()
    other = Seal.create(tmp_path / "other", entropy=os.urandom)
    with pytest.raises(ConfigError, match=r"store\.key_file: is not the key file of this database"):
        await world.open(seal=other)


async def test_a_file_that_is_no_database(world, tmp_path):
    (tmp_path / "state.db").write_bytes(b"not a database, but long enough to be looked at" * 100)
    with pytest.raises(StoreDown):
        await world.open()


async def test_a_directory_that_is_not_there(world, tmp_path):
    world.url = f"sqlite:///{tmp_path}/none/state.db"
    with pytest.raises(ConfigError, match=r"store\.url: .* can't be opened"):
        await world.open()


# -- what is busy, what hangs, what fails


class Busy:
    """A connection that answers only after it was asked some times."""

    def __init__(self, times, code=sqlite3.SQLITE_BUSY_RECOVERY):
        self.times, self.code, self.asked = times, code, 0

    def execute(self, *_args):
        self.asked += 1
        if self.asked <= self.times:
            error = sqlite3.OperationalError("database is locked")
            error.sqlite_errorcode = self.code
            raise error
        return self

    def fetchall(self):
        return [(1, 0, 1, 0)]


async def test_a_reading_that_is_busy_is_asked_again_and_the_loop_goes_on(world):
    store = await world.open()
    busy = Busy(3)
    store._database._at_once = busy
    recalled = asyncio.ensure_future(store.recall("ad", "alice"))
    turns = 0
    while not recalled.done():
        await asyncio.sleep(0)
        turns += 1
    assert await recalled == Recall(codeless=True, enrolled=True)
    assert (busy.asked, turns > 3) == (4, True)


async def test_a_reading_that_stays_busy_is_a_broken_store(world, monkeypatch):
    store = await world.open()
    monkeypatch.setattr(sqlite, "BUSY", 0.02)
    store._database._at_once = Busy(10**9)
    with pytest.raises(StoreDown):
        await store.recall("ad", "alice")


async def test_text_that_is_no_text_is_a_broken_store(world, alice):
    store = await world.open()
    await world.enrol(store)
    with world.sql() as sql:
        sql.execute("UPDATE accounts SET dn = CAST(x'ff' AS TEXT)")
    for verb in (store.status(alice), world.verify(store, world.code()), store.accounts()):
        with pytest.raises(StoreDown):
            await verb


async def test_a_reading_that_fails_is_not_asked_again(world):
    store = await world.open()
    broken = Busy(1, sqlite3.SQLITE_IOERR_READ)
    store._database._at_once = broken
    with pytest.raises(StoreDown):
        await store.recall("ad", "alice")
    assert broken.asked == 1


async def test_one_who_leaves_while_it_is_busy_asks_no_more(world):
    store = await world.open()
    busy = Busy(10**9)
    store._database._at_once = busy
    recalled = asyncio.ensure_future(store.recall("ad", "alice"))
    await asyncio.sleep(0)
    recalled.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await recalled
    assert busy.asked == 1


async def test_a_closed_database_is_down_for_all(world):
    store = await world.open()
    await store.close()
    for verb in (store.recall("ad", "alice"), store.accounts(), store.pendings()):
        with pytest.raises(StoreDown, match="closed"):
            await verb
    await store.close()


async def test_one_who_leaves_while_opening_leaves_nothing_behind(world):
    opening = asyncio.ensure_future(world.open())
    await asyncio.sleep(0)
    opening.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await opening
    assert opening.cancelled()
    assert await (await world.open()).accounts() == []


@pytest.mark.parametrize("fails", ["COMMIT", "ROLLBACK"])
async def test_a_connection_that_can_not_even_roll_back_is_replaced(world, fails):
    """As when the disk returns errors: the next transaction must not find itself within the last one."""
    store = await world.open()
    (writing, *_rest) = connections(store._database)

    def refuse(action, what, *_args):
        refused = action == sqlite3.SQLITE_TRANSACTION and what in {fails, "ROLLBACK"}
        return sqlite3.SQLITE_DENY if refused else sqlite3.SQLITE_OK

    writing.set_authorizer(refuse)
    with pytest.raises((sqlite3.DatabaseError, DatabaseError, ZeroDivisionError)):
        async with store._database.transaction() as transaction:
            transaction._beneath.execute("DELETE FROM meta")
            if fails == "ROLLBACK":
                raise ZeroDivisionError
    async with store._database.transaction() as transaction:
        beneath = transaction._beneath
        assert beneath is not writing
        assert beneath.execute("PRAGMA busy_timeout").fetchone() == (0,), "the loop must not wait for it either"
        assert beneath.execute("SELECT count(*) FROM meta").fetchone() == (1,)
