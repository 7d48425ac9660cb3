"""What the store asks of a database, whichever it is: which there are, and the schema brought up to date by Alembic.

Promised here: a transaction is durable when its block ends, and two that write never overlap, of whichever process or
node they are. Not in here: how each of them keeps that (`sqlite`, `postgresql`).
"""

from __future__ import annotations

import sqlite3
from functools import lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from sqlalchemy import inspect
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError, SQLAlchemyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from sqlalchemy import ClauseElement, Connection, Executable, Row
    from sqlalchemy.engine import Dialect

T = TypeVar("T")

#: The version of the schema that this program is written for.
HEAD: Final = "0003"
#: Seconds a writer waits for another process's transaction.
BUSY: Final = 5.0


class StatementFailed(Exception):  # noqa: N818 - named as what is the case
    """A statement was refused; another one may not be."""


class TransactionLost(StatementFailed):
    """The whole transaction is gone, or may be."""


#: What a driver, a disk or text that is no text raises.
BROKEN: Final = (SQLAlchemyError, sqlite3.Error, StatementFailed, OSError, UnicodeError)
#: Those that may have cost the transaction itself (SQLite rolls back by itself when the disk is full).
GONE: Final = (
    TransactionLost,
    OperationalError,
    InterfaceError,
    InternalError,
    sqlite3.OperationalError,
    sqlite3.InterfaceError,
    sqlite3.InternalError,
)


class Transaction(Protocol):
    """What the calls that share a transaction do in it; all but `do` only within a `work` of `do`."""

    async def do(self, work: Callable[[], T]) -> T:
        """What `work` returns."""
        ...

    def read(self, query: Statement | Executable, values: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        """The rows of `query`."""
        ...

    def write(self, statement: Statement | Executable, values: Mapping[str, Any]) -> int:
        """Run `statement`; gives how many rows it found."""
        ...

    def write_all(self, statement: Executable, rows: list[dict[str, Any]]) -> None:
        """Run `statement` for each of `rows`, of which there are some."""
        ...

    def write_each(self, statement: Statement, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run `statement` for each of `rows`, of which there are some; nobody asks what it found."""
        ...

    def attempt(self, work: Callable[[], None]) -> bool:
        """Do `work`; False, and as if it had not been, if it fails. GONE: all is lost."""
        ...

    def spoilt(self, error: Exception) -> bool:
        """Whether nothing more can be done in the transaction after this error."""
        ...

    def tell(self) -> None:
        """Wake those who wait for `Database.told`, in every process, when this is durable."""
        ...

    def go_on_counting(self, table: str) -> None:
        """Let the `id` of the next row of `table` be above all that there are."""
        ...


class Database(Protocol):
    """The connections to one database."""

    async def prepare(self, work: Callable[[Connection], None]) -> None:
        """Run `work` in a transaction, aside, and be ready for all else."""
        ...

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """What is done in the block is durable after it, or, if anything was raised, has never been."""
        ...

    async def read(self, statement: Statement, **values: Any) -> list[tuple[Any, ...]]:
        """The rows of a `statement` that takes microseconds."""
        ...

    async def rows(self, query: Executable) -> Sequence[Row[Any]]:
        """The rows of a `query` that may take long."""
        ...

    async def others(self) -> int:
        """How many other sessions of ours the database knows of."""
        ...

    async def told(self) -> None:
        """Wait until some process tells that there may be something to look for; it may never, though there is."""
        ...

    async def time(self) -> float | None:
        """The database's own clock, in seconds since the epoch; None: it has none but ours."""
        ...

    async def risks(self) -> list[str]:
        """What of the database's own settings endangers what is kept in it, each with what to do."""
        ...

    def lost_numbers(self) -> int:
        """How many of the numbers that were given last may be given again; it is asked once for each time they may."""
        ...

    async def close(self) -> None:
        """Let go of the database, when what is under way has ended."""
        ...


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

    Its values must be such as the drivers take as they are; a JSON column is read as text, and written by Core. `sql`
    and `values` are SQLite's; see `compiled` for another database's.
    """

    __slots__ = ("core", "sql", "values")

    def __init__(self, core: ClauseElement) -> None:
        self.core = core
        self.sql, names = _compiled(core, sqlite.dialect(paramstyle="qmark"))
        #: From values by name to those in the order of `sql`.
        self.values: Callable[[Mapping[str, Any]], Sequence[Any]] = _in_order(names)


@lru_cache(None)
def compiled(statement: Statement, dialect: Dialect) -> tuple[str, Callable[[Mapping[str, Any]], Sequence[Any]]]:
    """`statement` for `dialect`, and what puts its values in that order."""
    sql, names = _compiled(statement.core, dialect)
    return sql, _in_order(names)


def _compiled(core: ClauseElement, dialect: Dialect) -> tuple[str, list[str]]:
    compiled: Any = core.compile(dialect=dialect)
    return str(compiled), list(compiled.positiontup)


def _in_order(names: Iterable[str]) -> Callable[[Mapping[str, Any]], Sequence[Any]]:
    names = tuple(names)
    if len(names) > 1:
        return itemgetter(*names)
    return lambda row: [row[name] for name in names]
