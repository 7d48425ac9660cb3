"""One SQLite file: its connections, its threads, and the schema brought up to date by Alembic.

Promised here: commits are durable when they return (WAL, synchronous=FULL), writers queue for the lock instead of
failing half-way (BEGIN IMMEDIATE, 5 s), the file is for its owner alone, and no exception shows a statement's
parameters. The event loop waits neither for the lock nor for the disk: a busy database is asked again a little later, a
COMMIT is a thread's, and so is every reading that may be long. What takes microseconds is done where it is asked for,
for handing it to a thread and back would cost more than the work.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sqlalchemy import create_engine, event, inspect
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from ldapmfa.errors import ConfigError, StoreDown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from sqlalchemy import ClauseElement, Connection, Engine, Executable, Row
    from sqlalchemy.engine.interfaces import DBAPIConnection

T = TypeVar("T")

#: The version of the schema that this program is written for.
HEAD: Final = "0003"
#: Seconds a writer waits for another process's transaction.
BUSY: Final = 5.0
#: Seconds until a busy database is asked again: about what another process's commit takes.
PAUSE: Final = 0.001


def _mistake(text: str) -> ConfigError:
    return ConfigError([f"store.url: {text}"])


def address(url: str) -> URL:
    """`url` with the driver we use; a bare absolute path is a SQLite file. ConfigError: it is no such file."""
    if url.startswith("/"):
        return URL.create("sqlite", database=url)
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise _mistake("is neither a path nor a URL such as sqlite:////var/lib/ldapmfa/state.db") from None
    if parsed.get_backend_name() != "sqlite":
        raise _mistake(f"{parsed.drivername} is not supported: use sqlite")
    if parsed.database in (None, "", ":memory:"):
        raise _mistake("needs a file: codes used up must survive a restart")
    return parsed.set(drivername="sqlite")


def create_file(url: URL) -> None:
    """Make the file, if there is none, readable by its owner only: its journals inherit that."""
    try:
        os.close(os.open(str(url.database), os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise _mistake(f"{url.database} can't be opened: {error.strerror}") from None


def upgrade(connection: Connection, *, migrate: bool) -> None:
    """Bring the schema up to date within the connection's transaction.

    ConfigError: it is of a later version, or (`migrate` false) of an earlier one.
    """
    known = inspect(connection).has_table("alembic_version")
    if known and connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one_or_none() == HEAD:
        return
    from ldapmfa.store import migrating  # noqa: PLC0415 - Alembic takes a tenth of a second and 12 MiB

    migrating.upgrade(connection, migrate=migrate)


class Statement:
    """A statement for the driver: compiled from Core once, for executing it through Core takes longer than SQLite.

    Its values must be such as the driver takes as they are; a JSON column is read as text, and written by Core.
    """

    __slots__ = ("sql", "values")

    def __init__(self, core: ClauseElement) -> None:
        compiled: Any = core.compile(dialect=sqlite.dialect(paramstyle="qmark"))
        names: list[str] = compiled.positiontup
        self.sql = str(compiled)
        #: From values by name to those in the order of `sql`.
        self.values: Callable[[Mapping[str, Any]], Sequence[Any]]
        if len(names) == 1:
            self.values = lambda row: (row[names[0]],)
        else:
            self.values = itemgetter(*names)


def driver(connection: Connection) -> sqlite3.Connection:
    """What lies below `connection`, in the same transaction."""
    found = connection.connection.driver_connection
    assert isinstance(found, sqlite3.Connection)  # noqa: S101 - for mypy; `address` lets nothing else in
    return found


class Database:
    """The connections to one file: one that writes, one that reads at once, one for readings that may be long."""

    def __init__(self, url: URL) -> None:
        self._engines = (_engine(url, writes=True), _engine(url, writes=False))
        self._connections: list[Connection] = []
        self._writing: Connection | None = None
        self._at_once: sqlite3.Connection | None = None
        self._closed = False
        self._committer = ThreadPoolExecutor(1, "ldapmfa-commit")
        self._reader = ThreadPoolExecutor(1, "ldapmfa-read")

    async def prepare(self, work: Callable[[Connection], None]) -> None:
        """Run `work` in a transaction, aside, and be ready for all else."""

        def run() -> None:
            connections = self._connections
            connections += (engine.connect() for engine in self._engines)
            writing, at_once = map(driver, connections)
            writing.execute(f"PRAGMA busy_timeout={BUSY * 1000:.0f}")
            writing.execute("BEGIN IMMEDIATE")
            try:
                work(connections[0])
                writing.commit()
            finally:
                _let_go(connections[0])
            # who asks on the event loop must be told at once
            for connection in (writing, at_once):
                connection.execute("PRAGMA busy_timeout=0")
            self._writing, self._at_once = connections[0], at_once

        await self._aside(self._committer, run)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """What is done with the connection is durable after the block, or, if anything was raised, has never been."""
        connection = _open(self._writing)
        beneath = driver(connection)
        try:
            await _patiently(lambda: beneath.execute("BEGIN IMMEDIATE"))
            yield connection
        except BaseException:
            _let_go(connection)
            raise
        # one who is cancelled from here on must leave the connection to the thread, which has it until it is closed
        try:
            await self._aside(self._committer, lambda: _commit(beneath))
        except Exception:
            _let_go(connection)
            raise
        _let_go(connection)

    async def read(self, statement: Statement, **values: Any) -> list[tuple[Any, ...]]:
        """The rows of a `statement` that takes microseconds."""
        at_once = _open(self._at_once)
        return await _patiently(lambda: at_once.execute(statement.sql, statement.values(values)).fetchall())

    async def rows(self, query: Executable) -> Sequence[Row[Any]]:
        """The rows of a `query` that may take long."""

        def run() -> Sequence[Row[Any]]:
            with self._engines[1].connect() as connection:
                return connection.execute(query).all()

        return await self._aside(self._reader, run)

    async def close(self) -> None:
        """Let go of the file, when the threads have finished what they are at."""
        if self._closed:
            return
        self._closed = True
        self._writing = self._at_once = None

        def dispose() -> None:
            for connection in self._connections:
                connection.close()
            # the last connection that is closed writes the journal back
            for engine in self._engines:
                engine.dispose()

        await self._aside(self._reader, lambda: None)
        await self._aside(self._committer, dispose)
        self._reader.shutdown(wait=False)
        self._committer.shutdown(wait=False)

    @staticmethod
    async def _aside(thread: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        try:
            future = asyncio.get_running_loop().run_in_executor(thread, work)
        except RuntimeError:
            raise StoreDown("the store is closed") from None
        return await future


def _engine(url: URL, *, writes: bool) -> Engine:
    engine = create_engine(
        url,
        hide_parameters=True,
        pool_size=1 if writes else 2,
        max_overflow=0,
        # the driver must not begin transactions of its own; connections go from thread to thread, one at a time
        connect_args={"isolation_level": None, "timeout": BUSY, "check_same_thread": False},
    )
    pragmas = ["foreign_keys=ON", "synchronous=FULL"]
    pragmas += ["journal_mode=WAL", "busy_timeout=0"] if writes else ["query_only=ON"]

    def prepare(connection: DBAPIConnection, _record: object) -> None:
        cursor = connection.cursor()
        for pragma in pragmas:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    event.listen(engine, "connect", prepare)
    return engine


def _open(connection: T | None) -> T:
    if connection is None:
        raise StoreDown("the store is closed")
    return connection


def _commit(beneath: sqlite3.Connection) -> None:
    """What waits for the disk, and nothing else: a thread gets hold of Python only when the event loop lets it go."""
    beneath.commit()


def _let_go(connection: Connection) -> None:
    """Leave nothing of a transaction to the next one; what SQLAlchemy knows of it follows."""
    beneath = driver(connection)
    try:
        if beneath.in_transaction:
            beneath.rollback()
    except sqlite3.Error:
        connection.invalidate()
    if connection.in_transaction():
        connection.rollback()


async def _patiently(ask: Callable[[], T]) -> T:
    """What `ask` answers, which must not wait by itself, as soon as nobody else keeps the database busy."""
    clock = asyncio.get_running_loop().time
    deadline: float | None = None
    while True:
        try:
            return ask()
        except sqlite3.OperationalError as error:
            # the low octet is the kind, the rest which of it; what Python itself complains of has none
            if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            deadline = clock() + BUSY if deadline is None else deadline
            if clock() >= deadline:
                raise
        await asyncio.sleep(PAUSE)
