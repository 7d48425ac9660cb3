"""URLs, the file, its pragmas, and the schema's versions."""

import asyncio
import os
import stat
from dataclasses import replace

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text

from ldapmfa.errors import ConfigError, StoreDown
from ldapmfa.store import database
from ldapmfa.store.schema import METADATA
from ldapmfa.store.seal import Seal


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:////var/lib/x/state.db", "sqlite+aiosqlite:////var/lib/x/state.db"),
        ("/var/lib/x/state.db", "sqlite+aiosqlite:////var/lib/x/state.db"),
        ("sqlite+aiosqlite:////x", "sqlite+aiosqlite:////x"),
        ("postgresql+asyncpg://u@h/d", "postgresql+asyncpg://u@h/d"),
    ],
)
def test_urls(url, expected):
    assert str(database.address(url)) == expected


@pytest.mark.parametrize(
    "url", ["", "state.db", "mysql://u:hunter2@h/d", "sqlite://", "sqlite:///:memory:", "sqlite:/x"]
)
def test_urls_that_will_not_do(url):
    with pytest.raises(ConfigError, match=r"^store\.url: ") as caught:
        database.address(url)
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
    for engine, query_only in zip(store._engines, (0, 1), strict=True):
        async with engine.connect() as connection:
            values = [
                (await connection.execute(text(f"PRAGMA {name}"))).scalar_one()
                for name in ("journal_mode", "synchronous", "busy_timeout", "foreign_keys", "query_only")
            ]
        assert values == ["wal", 2, 5000, 1, query_only]


async def test_writers_take_the_lock_at_once(world):
    store = await world.open()
    other = await world.open()
    async with store._engines[0].begin() as connection:
        assert (await connection.execute(text("PRAGMA user_version"))).scalar_one() == 0
        async with world.sql() as sql:
            await sql.execute("PRAGMA busy_timeout=1")
            with pytest.raises(Exception, match="locked"):
                await sql.execute("BEGIN IMMEDIATE")
        assert await other.accounts() == []


async def test_the_migrations_make_the_schema(world):
    store = await world.open()

    def differences(connection):
        return compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), METADATA)

    async with store._engines[0].connect() as connection:
        assert await connection.run_sync(differences) == []


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
    async with world.sql() as sql:
        await sql.execute("UPDATE alembic_version SET version_num = '9999'")
    for migrate in (True, False):
        with pytest.raises(ConfigError, match=r"store\.url: .*later version \(9999\)"):
            await world.open(migrate=migrate)


async def test_half_a_migration_never_stays(world, monkeypatch):
    async def fails(*_args):
        raise OSError("the power went")

    import ldapmfa.store

    with monkeypatch.context() as patch:
        patch.setattr(ldapmfa.store, "_check_canary", fails)
        with pytest.raises(StoreDown):
            await world.open()
    async with world.sql() as sql:
        assert await (await sql.execute("SELECT name FROM sqlite_master")).fetchall() == []


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
