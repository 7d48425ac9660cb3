"""Connections to SQLite or PostgreSQL, and the schema brought up to date by Alembic.

Promised here: SQLite commits are durable when they return (WAL, synchronous=FULL), writers queue for the lock
instead of failing half-way (BEGIN IMMEDIATE, 5 s), the file is for its owner alone, and no exception shows a
statement's parameters.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import create_async_engine

from ldapmfa.errors import ConfigError

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.ext.asyncio import AsyncEngine

MIGRATIONS: Final = Path(__file__).with_name("migrations")
#: Seconds a writer waits for another process's transaction.
BUSY: Final = 5.0


def _mistake(text: str) -> ConfigError:
    return ConfigError([f"store.url: {text}"])


def address(url: str) -> URL:
    """`url` with the driver we use; a bare absolute path is a SQLite file. ConfigError: it is neither."""
    if url.startswith("/"):
        return URL.create("sqlite+aiosqlite", database=url)
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise _mistake("is neither a path nor a URL such as sqlite:////var/lib/ldapmfa/state.db") from None
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise _mistake(f"{parsed.drivername} is not supported: use sqlite or postgresql")
    if parsed.drivername == "sqlite":
        parsed = parsed.set(drivername="sqlite+aiosqlite")
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise _mistake("needs a file: codes used up must survive a restart")
    return parsed


def create_file(url: URL) -> None:
    """Make the SQLite file, if there is none, readable by its owner only: its journals inherit that."""
    if url.get_backend_name() != "sqlite" or url.database is None:
        return
    try:
        os.close(os.open(url.database, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise _mistake(f"{url.database} can't be opened: {error.strerror}") from None


def connect(url: URL, *, writes: bool) -> AsyncEngine:
    """Connections that write, one at a time, or that only read."""
    if url.get_backend_name() != "sqlite":
        return create_async_engine(url, hide_parameters=True)
    engine = create_async_engine(
        url,
        hide_parameters=True,
        pool_size=1 if writes else 4,
        max_overflow=0,
        # the driver must not begin transactions of its own; ours are begun below
        connect_args={"isolation_level": None, "timeout": BUSY},
    )
    pragmas = ["foreign_keys=ON", "synchronous=FULL"]
    pragmas += ["journal_mode=WAL"] if writes else ["query_only=ON"]

    def prepare(connection: DBAPIConnection, _record: object) -> None:
        cursor = connection.cursor()
        for pragma in pragmas:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    event.listen(engine.sync_engine, "connect", prepare)
    if writes:
        event.listen(engine.sync_engine, "begin", begin)
    return engine


def upgrade(connection: Connection, *, migrate: bool) -> None:
    """Bring the schema up to date within the connection's transaction.

    ConfigError: it is of a later version, or (`migrate` false) of an earlier one.
    """
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    script = ScriptDirectory.from_config(config)
    current, head = MigrationContext.configure(connection).get_current_revision(), script.get_current_head()
    if current == head:
        return
    if current is not None and current not in {revision.revision for revision in script.walk_revisions()}:
        raise _mistake(f"the database is of a later version ({current}) than this program ({head})")
    if not migrate:
        raise _mistake(f"the database is of version {current}, this program needs {head}: run `ldapmfa init`")
    attributes: dict[Any, Any] = config.attributes
    attributes["connection"] = connection
    command.upgrade(config, "head")
