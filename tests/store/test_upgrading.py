"""Stores of earlier versions, with what was in them, brought up to date; and the program before beside the schema after."""

from __future__ import annotations

import itertools
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect
from store.conftest import SEED, only_sqlite

from ldapmfa.core.secret import Secret
from ldapmfa.store import migrating
from ldapmfa.store.rows import row_name

CONFIG = Config()
CONFIG.set_main_option("script_location", str(migrating.MIGRATIONS))
REVISIONS = [revision.revision for revision in ScriptDirectory.from_config(CONFIG).walk_revisions()][::-1]


def brought_to(url, revision):
    """An empty database of that version of the schema."""
    engine = create_engine(url)
    with engine.begin() as connection:
        CONFIG.attributes["connection"] = connection
        command.upgrade(CONFIG, revision)
    engine.dispose()


def of_the_first_version(world, alice):
    """What the first version wrote for one who is enrolled and has logged in, statement by statement."""
    brought_to(world.url, "0001")
    seal, key = world.seal, alice.key
    position = int(world.now // 30) - 5
    with closing(sqlite3.connect(world.url.removeprefix("sqlite:///"))) as sql, sql:
        sql.execute("INSERT INTO meta VALUES ('meta/canary', ?)", (seal.seal(Secret(b"meta/canary"), "meta/canary"),))
        sql.execute(
            "INSERT INTO accounts VALUES (?, 'ad', ?, ?, ?, 2, NULL, ?, ?)",
            (key, alice.dn, alice.upn, json.dumps(list(alice.accounts)), world.now - 9e6, world.now - 150),
        )
        sealed = seal.seal(SEED, row_name("f1", "totp", key))
        parameters = json.dumps({"algorithm": "sha1", "digits": 6, "period": 30})
        sql.execute(
            "INSERT INTO factors VALUES ('f1', ?, 'totp', ?, ?, ?, 0, 'phone', ?, NULL)",
            (key, sealed, parameters, position, world.now - 9e6),
        )
        sql.execute("INSERT INTO names VALUES ('ad', 'alice', ?, 0, ?)", (key, world.now - 150))
        sql.execute("INSERT INTO forms VALUES (?, 'account', 'alice', 'ad')", (key,))
        sql.execute(
            "INSERT INTO logins (at, outcome, reason, detail, result, reference, listener, client, name, directory, account,"
            " dn, factor, directory_ms, factor_ms, total_ms)"
            " VALUES (?, 'refused', 'wrong-code', '', 49, 'K7RT29XA', 'ldaps', '192.0.2.1', 'alice', 'ad', ?, ?, 'totp', 1, 2, 3)",
            (world.now - 150, key, alice.dn),
        )
        sql.execute("INSERT INTO changes (at, action, account, actor, detail) VALUES (1, 'enrolled', ?, 'root', 'totp')", (key,))
    return position


@only_sqlite  # the first version knew nothing else
async def test_a_store_of_the_first_version_is_brought_up_to_date_and_its_owner_logs_in(world, alice):
    position = of_the_first_version(world, alice)
    store = await world.open()
    (row,) = await store.accounts()
    assert (row.key, row.factors, row.wrong_codes) == (alice.key, ("totp",), 2)
    (refused,) = await store.events(reference="K7RT29XA")
    assert (refused.reason, refused.application) == ("wrong-code", "")
    recalled = await store.recall("ad", "alice")
    assert (recalled.coded, recalled.enrolled) == (True, True)
    world.now = position * 30.0
    assert (await world.verify(store, world.code())).result == "replayed", "used in the first version"
    world.now += 60
    assert (await world.verify(store, world.code())).result == "accepted"
    assert (await world.verify(store, world.code())).result == "replayed"
    await world.close()
    assert len(await (await world.open(migrate=False)).factors()) == 1


def shape(url):
    engine = create_engine(url)
    with engine.connect() as connection:
        found = inspect(connection)
        tables = {
            name: {
                "columns": {column["name"]: column for column in found.get_columns(name)},
                "unique": {tuple(index["column_names"]) for index in found.get_indexes(name) if index["unique"]}
                | {tuple(one["column_names"]) for one in found.get_unique_constraints(name)},
                "primary": tuple(found.get_pk_constraint(name)["constrained_columns"]),
            }
            for name in found.get_table_names()
        }
    engine.dispose()
    return tables


@pytest.mark.parametrize(("before", "after"), list(itertools.pairwise(REVISIONS)))
def test_a_running_program_of_the_version_before_can_go_on(tmp_path, before, after):
    """So that nodes can be upgraded one after the other: a migration only adds what nobody must fill in."""
    old, new = (f"sqlite:///{tmp_path}/{revision}.db" for revision in (before, after))
    brought_to(old, before)
    brought_to(new, after)
    old, new = shape(old), shape(new)
    assert set(old) <= set(new)
    for name, table in old.items():
        later = new[name]
        assert (later["primary"], later["unique"]) == (table["primary"], table["unique"]), name
        for column, was in table["columns"].items():
            now = later["columns"][column]
            assert (str(now["type"]), now["nullable"]) == (str(was["type"]), was["nullable"]), (name, column)
        for column in set(later["columns"]) - set(table["columns"]):
            added = later["columns"][column]
            assert added["nullable"] or added["default"] is not None, (name, column)


def test_there_is_a_migration_for_each_version():
    files = {file.name[:4] for file in Path(migrating.MIGRATIONS, "versions").glob("0*.py")}
    assert sorted(files) == REVISIONS
