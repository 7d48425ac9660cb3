"""One SQLite file: its connections and its threads.

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
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sqlalchemy import create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from ldapmfa.errors import ConfigError, StoreDown
from ldapmfa.store.database import BROKEN, BUSY, GONE, Statement

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from sqlalchemy import Connection, Engine, Executable, Row
    from sqlalchemy.engine.interfaces import DBAPIConnection

T = TypeVar("T")

#: Seconds until a busy database is asked again: about what another process's commit takes.
PAUSE: Final = 0.001


def _mistake(text: str) -> ConfigError:
    return ConfigError([f"store.url: {text}"])


def address(url: str) -> URL:
    """`url` with the driver we use; a bare absolute path is a SQLite file. ConfigError: it is none."""
    if url.startswith("/"):
        return URL.create("sqlite", database=url)
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise _mistake("is neither an absolute path nor a URL such as sqlite:////var/lib/ldapmfa/state.db") from None
    if parsed.get_backend_name() != "sqlite":
        raise _mistake(f"{parsed.drivername} is not supported: use sqlite, or postgresql+asyncpg")
    if parsed.database in (None, "", ":memory:"):
        raise _mistake("needs a file: codes used up must survive a restart")
    return parsed.set(drivername="sqlite")


def path(url: str) -> Path:
    """The file of `url`. ConfigError: it is none."""
    return Path(str(address(url).database))


def create_file(url: URL) -> None:
    """Make the file, if there is none, readable by its owner only: its journals inherit that."""
    try:
        os.close(os.open(str(url.database), os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise ConfigError([f"store.url: {url.database} can't be opened: {error.strerror}"]) from None


def driver(connection: Connection) -> sqlite3.Connection:
    """What lies below `connection`, in the same transaction."""
    found = connection.connection.driver_connection
    assert isinstance(found, sqlite3.Connection)  # noqa: S101 - for mypy; `address` lets nothing else in
    return found


class SqliteTransaction:
    """What calls do in a transaction, each step at once on the event loop."""

    __slots__ = ("_beneath", "_connection")

    def __init__(self, connection: Connection, beneath: sqlite3.Connection) -> None:
        self._connection = connection
        self._beneath = beneath

    async def do(self, work: Callable[[], T]) -> T:
        """What `work` returns."""
        return work()

    def read(self, query: Statement | Executable, values: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        """The rows of `query`."""
        if isinstance(query, Statement):
            return self._beneath.execute(query.sql, query.values(values)).fetchall()
        return self._connection.execute(query, values).all()

    def write(self, statement: Statement | Executable, values: Mapping[str, Any]) -> int:
        """Run `statement`; gives how many rows it found."""
        if isinstance(statement, Statement):
            return self._beneath.execute(statement.sql, statement.values(values)).rowcount
        return int(self._connection.execute(statement, values).rowcount)

    def write_all(self, statement: Executable, rows: list[dict[str, Any]]) -> None:
        """Run `statement` for each of `rows`."""
        self._connection.execute(statement, rows)

    def write_each(self, statement: Statement, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run `statement` for each of `rows`."""
        self._beneath.executemany(statement.sql, map(statement.values, rows))

    def attempt(self, work: Callable[[], None]) -> bool:
        """Do `work`; False, and as if it had not been, if it fails."""
        self._beneath.execute("SAVEPOINT attempt")
        try:
            work()
        except GONE:
            raise
        except BROKEN:
            self._beneath.execute("ROLLBACK TO attempt")
            return False
        else:
            return True
        finally:
            if self._beneath.in_transaction:
                self._beneath.execute("RELEASE attempt")

    def spoilt(self, error: Exception) -> bool:
        """Never: a statement that failed is as if it had not been."""
        del error
        return False

    def tell(self) -> None:
        """Nobody: other processes look by themselves."""

    def go_on_counting(self, table: str) -> None:
        """Nothing: it does so by itself."""


class Sqlite:
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
    async def transaction(self) -> AsyncIterator[SqliteTransaction]:
        """What is done with the connection is durable after the block, or, if anything was raised, has never been."""
        connection = _open(self._writing)
        beneath = driver(connection)
        try:
            await _patiently(lambda: beneath.execute("BEGIN IMMEDIATE"))
            yield SqliteTransaction(connection, beneath)
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

    async def others(self) -> int:
        """None that it knows of; see `copies.in_use`."""
        return 0

    async def told(self) -> None:
        """For ever: a file tells nobody."""
        await asyncio.get_running_loop().create_future()

    async def time(self) -> None:
        """None: a file has no clock but ours."""

    async def risks(self) -> list[str]:
        """None: what endangers it is set here."""
        return []

    def lost_numbers(self) -> int:
        """None: what was committed stays."""
        return 0

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
