"""One PostgreSQL database, which several nodes share: its connections, and what bounds every wait for it.

Promised here: transactions that write follow one another, on whichever node, so that each sees all that was committed
before, and nothing comes between what it reads and what it writes; a COMMIT that is not known to have been done
everywhere it must is a failure; a node that is gone holds nobody up for long. While the database is away whoever needs
it is told so at once, and it is tried again every half second. Not in here: which server of a URL takes the writes
(`servers`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import asyncpg
from sqlalchemy import text
from sqlalchemy.dialects.postgresql.asyncpg import dialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from ldapmfa.errors import ConfigError, StoreDown
from ldapmfa.store.database import BROKEN, BUSY, GONE, Statement, StatementFailed, TransactionLost, compiled
from ldapmfa.store.servers import DRIVER, Server, Servers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from sqlalchemy import Connection, Executable, Row
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from ldapmfa.config.postgresql import DatabaseUrl
    from ldapmfa.core.secret import Secret

T = TypeVar("T")

#: Seconds after which a statement, a COMMIT among them, has failed: the lock of another node is waited for no longer.
LIMIT: Final = BUSY + 1.0
#: Seconds for a listing, and for bringing the schema up to date.
LONG: Final = 60.0
#: Seconds after which a node that holds the lock and says nothing loses it.
IDLE: Final = 5.0
#: Readings that may be under way at once.
READERS: Final = 4
#: The lock of those that write; a number of our own, within the database.
LOCK: Final = 0x6C646170_6D6661
#: What is told when there is something to look for.
CHANNEL: Final = "ldapmfa"
#: Seconds from the loss of the connection that listens to the next try.
AGAIN: Final = 1.0
#: Seconds from one look for a successor to the next: an old primary that goes on alone works as before.
LOOK: Final = 10.0

_PATIENT: Final = f"SET lock_timeout = '{LONG:.0f}s'; SET idle_in_transaction_session_timeout = 0"
_BEGIN: Final = f"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SELECT pg_advisory_xact_lock({LOCK})"
_DIALECT: Final = dialect()  # type: ignore[no-untyped-call]


def _told(error: BaseException, raw: asyncpg.Connection[Any]) -> StatementFailed:
    """What the driver's `error` means to the transaction; without its text, which may hold what was written."""
    refused = isinstance(error, asyncpg.DataError | asyncpg.IntegrityConstraintViolationError)
    kind = StatementFailed if refused and not raw.is_closed() else TransactionLost
    return kind(type(error).__name__)


class Line:
    """A connection that writes or lists, with SQLAlchemy's above it."""

    def __init__(self, connection: AsyncConnection, server: Server) -> None:
        self.connection = connection
        self.server = server
        self.raw = server.connection
        self.warnings: list[str] = []
        self.raw.add_log_listener(self._heard)

    def _heard(self, _connection: object, message: Any) -> None:
        self.warnings.append(str(getattr(message, "sqlstate", "")))

    async def drop(self) -> None:
        """Let go of it whatever it is doing: the server takes back what was not committed."""
        self.raw.remove_log_listener(self._heard)
        self.raw.terminate()
        with suppress(Exception):
            await self.connection.invalidate()
        with suppress(Exception):
            await self.connection.close()


class PostgresqlTransaction:
    """What calls do in a transaction: each statement goes to the server and back, and the loop goes on meanwhile."""

    __slots__ = ("_line", "_sync")

    def __init__(self, line: Line) -> None:
        self._line = line
        sync = line.connection.sync_connection
        assert sync is not None  # noqa: S101 - for mypy: it is connected
        self._sync: Connection = sync

    async def do(self, work: Callable[[], T]) -> T:
        """What `work` returns."""
        return await self._line.connection.run_sync(lambda _connection: work())

    def read(self, query: Statement | Executable, values: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        """The rows of `query`."""
        if isinstance(query, Statement):
            sql, ordered = compiled(query, _DIALECT)
            return [tuple(row) for row in self._ask(lambda raw: raw.fetch(sql, *ordered(values)))]
        return self._core(lambda: self._sync.execute(query, values).all())

    def write(self, statement: Statement | Executable, values: Mapping[str, Any]) -> int:
        """Run `statement`; gives how many rows it found."""
        if isinstance(statement, Statement):
            sql, ordered = compiled(statement, _DIALECT)
            status: str = self._ask(lambda raw: raw.execute(sql, *ordered(values)))
            return int(status.rpartition(" ")[2])
        return self._core(lambda: int(self._sync.execute(statement, values).rowcount))

    def write_all(self, statement: Executable, rows: list[dict[str, Any]]) -> None:
        """Run `statement` for each of `rows`."""
        self._core(lambda: self._sync.execute(statement, rows))

    def write_each(self, statement: Statement, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run `statement` for each of `rows`, all in one go."""
        sql, ordered = compiled(statement, _DIALECT)
        self._ask(lambda raw: raw.executemany(sql, list(map(ordered, rows))))

    def attempt(self, work: Callable[[], None]) -> bool:
        """Do `work`; False, and as if it had not been, if it fails."""
        self._ask(lambda raw: raw.execute("SAVEPOINT attempt"))
        try:
            work()
        except GONE:
            raise
        except BROKEN:
            self._ask(lambda raw: raw.execute("ROLLBACK TO attempt"))
            return False
        return True

    def spoilt(self, error: Exception) -> bool:
        """Whether it came from the database, which does nothing more in the transaction then."""
        return isinstance(error, BROKEN)

    def tell(self) -> None:
        """Wake those who wait for `told`, on every node, with the commit."""
        self._ask(lambda raw: raw.execute(f"NOTIFY {CHANNEL}"))

    def go_on_counting(self, table: str) -> None:
        """Let the `id` of the next row of `table` be above all that there are."""
        last = f"(SELECT max(id) FROM {table})"  # noqa: S608 - a name of our own
        sql = f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), coalesce({last}, 1), {last} IS NOT NULL)"
        self._ask(lambda raw: raw.execute(sql))

    def _core(self, execute: Callable[[], T]) -> T:
        """What SQLAlchemy makes of it, but for those of the driver's errors that it does not know."""
        try:
            return execute()
        except DRIVER as error:
            raise _told(error, self._line.raw) from None

    def _ask(self, ask: Callable[[Any], Awaitable[T]]) -> T:
        adapted: Any = self._sync.connection.dbapi_connection
        try:
            answer: T = adapted.run_async(ask)
        except DRIVER as error:
            raise _told(error, self._line.raw) from None
        return answer


class Postgresql:
    """The connections to one database: one that writes, some that read, one for long readings, one that listens.

    Whoever waits to be told has the successor of a server looked for, too.
    """

    def __init__(self, url: DatabaseUrl, password: Callable[[], Secret | None]) -> None:
        self._servers = Servers(url, password, self._doubt)
        self._writing: Line | None = None
        self._doubtful = False  # whether what was open may hang for ever
        self._listing: Line | None = None
        self._turn = asyncio.Lock()
        self._readers: list[Server] = []
        self._places = asyncio.Semaphore(READERS)
        self._closed = False
        self._under_way: set[asyncio.Future[Any]] = set()
        self._listener: asyncio.Task[None] | None = None
        self._told: list[asyncio.Future[None]] = []

    async def prepare(self, work: Callable[[Connection], None]) -> None:
        """Run `work` in a transaction, in a thread, for Alembic can't be interrupted; nodes do one after the other."""
        await asyncio.to_thread(lambda: asyncio.run(self._prepare(work)))

    async def _prepare(self, work: Callable[[Connection], None]) -> None:
        server = await self._servers.first(LONG)
        line = await _line(server)
        try:
            await _check(server.connection)
            await server.connection.execute(_PATIENT)
            await server.connection.execute(_BEGIN)
            await line.connection.run_sync(work)
            await _commit(line, LONG)
        except (asyncpg.InsufficientPrivilegeError, DBAPIError) as error:
            if "permission denied" not in str(error):
                raise
            may_not = "the user may not make tables in the database: let it own that (ALTER DATABASE … OWNER TO …)"
            raise ConfigError([f"store.url: {may_not}"]) from None
        except DRIVER as error:
            raise _told(error, server.connection) from None
        finally:
            await line.drop()

    # -- transactions

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[PostgresqlTransaction]:
        """What is done in the block is durable after it, or, if anything was raised, has never been.

        Only if the COMMIT itself gets no answer, nobody knows: that raises too.
        """
        line = await self._begun()
        try:
            yield PostgresqlTransaction(line)
        except (*GONE, OSError, asyncio.CancelledError) as error:
            await self._lose(line, suspect=isinstance(error, TimeoutError) or str(error) == TimeoutError.__name__)
            raise
        except BaseException:
            try:
                await line.raw.execute("ROLLBACK", timeout=LIMIT)
            except DRIVER:
                await self._lose(line)
            except BaseException:
                await self._lose(line)  # or the next BEGIN would go on with what is there
                raise
            raise
        try:
            await _commit(line, LIMIT)
        except BaseException as error:
            await self._lose(line, suspect=isinstance(error, TimeoutError))
            raise

    async def _begun(self) -> Line:
        """The connection that writes, when nobody else does."""
        for first in (True, False):
            line = self._writing
            if line is None or self._doubtful or line.server.timeline < self._servers.timeline:
                if line is not None:
                    await self._lose(line)
                line = self._writing = await self._connected(LIMIT)
                self._doubtful = False
            try:
                await line.raw.execute(_BEGIN, timeout=LIMIT)
            except DRIVER as error:
                # a connection may have ended since: what was not begun can be begun on another one
                again = first and not isinstance(error, TimeoutError | asyncpg.LockNotAvailableError)
                await self._lose(line, suspect=isinstance(error, TimeoutError))
                if not again:
                    raise _told(error, line.raw) from None
            except BaseException:
                await self._lose(line)
                raise
            else:
                return line
        raise AssertionError  # pragma: no cover

    async def _lose(self, line: Line, *, suspect: bool = False) -> None:
        if self._writing is line:
            self._writing = None
        if self._listing is line:
            self._listing = None
        if suspect:
            self._servers.suspect()
        await line.drop()

    def _doubt(self) -> None:
        """Wait for nothing that may hang for as long as a list may take, nor try one after the other later."""
        self._doubtful = True
        self._drop_readers()
        if self._listing is not None:
            self._listing.raw.terminate()

    async def _connected(self, limit: float) -> Line:
        if self._closed:
            raise StoreDown("the store is closed")
        return await _line(await self._servers.connect(limit))

    # -- readings

    async def read(self, statement: Statement, **values: Any) -> list[tuple[Any, ...]]:
        """The rows of a `statement`; who leaves meanwhile costs no connection."""
        sql, ordered = compiled(statement, _DIALECT)
        reading = asyncio.ensure_future(self._fetched(sql, ordered(values)))
        self._under_way.add(reading)
        reading.add_done_callback(self._done)
        return await asyncio.shield(reading)

    def _done(self, reading: asyncio.Future[Any]) -> None:
        self._under_way.discard(reading)
        if not reading.cancelled():
            reading.exception()  # whoever asked may have left

    async def _fetched(self, sql: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        async with self._places:
            for first in (True, False):
                server = await self._reader()
                try:
                    rows = await server.connection.fetch(sql, *values)
                except DRIVER as error:
                    server.connection.terminate()
                    if isinstance(error, TimeoutError):
                        self._servers.suspect()
                    refused = isinstance(error, asyncpg.DataError | asyncpg.SyntaxOrAccessError)
                    if not first or refused or isinstance(error, TimeoutError):
                        raise _told(error, server.connection) from None
                    self._drop_readers()  # what ended one has ended the others too
                except BaseException:
                    server.connection.terminate()
                    raise
                else:
                    self._readers.append(server)
                    return [tuple(row) for row in rows]
        raise AssertionError  # pragma: no cover

    async def _reader(self) -> Server:
        while self._readers and not self._servers.away:
            server = self._readers.pop()
            if server.timeline >= self._servers.timeline and not server.connection.is_closed():
                return server
            server.connection.terminate()
        if self._closed:
            raise StoreDown("the store is closed")
        return await self._servers.connect(LIMIT)

    def _drop_readers(self) -> None:
        while self._readers:
            self._readers.pop().connection.terminate()

    async def rows(self, query: Executable) -> Sequence[Row[Any]]:
        """The rows of a `query` that may take long."""
        async with self._turn:
            for first in (True, False):
                line = self._listing
                if line is None or line.server.timeline < self._servers.timeline:
                    line = self._listing = await self._connected(LONG)
                try:
                    return (await line.connection.execute(query)).all()
                except BaseException as error:
                    lost = line.raw.is_closed() or isinstance(error, DBAPIError | asyncpg.InternalClientError)
                    await self._lose(line)
                    if first and lost:
                        continue
                    if isinstance(error, DRIVER):
                        raise _told(error, line.raw) from None
                    raise
        raise AssertionError  # pragma: no cover

    async def time(self) -> float | None:
        """The database's own clock, in seconds since the epoch."""
        ((now,),) = await self.rows(text("SELECT CAST(extract(epoch FROM clock_timestamp()) AS double precision)"))
        return float(now)

    async def risks(self) -> list[str]:
        """What of the server's settings endangers what is kept in it, each with what to do."""
        query = text("SELECT name, setting FROM pg_settings WHERE name = ANY(:names)")
        rows = await self.rows(query.bindparams(names=["fsync", "full_page_writes", "synchronous_standby_names"]))
        said = {row.name: row.setting for row in rows}
        found = [
            f"store.url: the server has {name} = off, and may forget which codes are used up: set it to on"
            for name in ("fsync", "full_page_writes")
            if said.get(name) == "off"
        ]
        if self._servers.several and not said.get("synchronous_standby_names"):
            found.append(
                "store.url: names several servers, and the one that takes writes waits for no other "
                "(synchronous_standby_names is empty): codes used just before a fail-over can be used again"
            )
        return found

    async def others(self) -> int:
        """How many sessions of ours there are that are not this connection's: nodes that run."""
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ((count,),) = await self.rows(text(f"{query} AND application_name = 'ldapmfa'"))
        return int(count)

    # -- being told

    async def told(self) -> None:
        """Wait until some node tells; also when we may have missed it."""
        if self._closed:
            raise StoreDown("the store is closed")
        if self._listener is None:
            self._listener = asyncio.get_running_loop().create_task(self._listen())
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._told.append(waiting)
        try:
            await waiting
        finally:
            if waiting in self._told:
                self._told.remove(waiting)

    def _wake(self, *_: object) -> None:
        for waiting in self._told:
            if not waiting.done():
                waiting.set_result(None)

    async def _listen(self) -> None:
        while True:
            with suppress(StoreDown, *DRIVER):
                server = await self._servers.connect(LIMIT)
                ended = asyncio.Event()
                try:
                    server.connection.add_termination_listener(partial(_set, ended))
                    await server.connection.add_listener(CHANNEL, self._wake)
                    self._wake()
                    while not ended.is_set() and server.timeline >= self._servers.timeline:
                        with suppress(TimeoutError):
                            await asyncio.wait_for(ended.wait(), LOOK)
                            continue
                        await self._servers.look()
                finally:
                    server.connection.terminate()
            await asyncio.sleep(AGAIN)

    def lost_numbers(self) -> int:
        """After a fail-over the numbers that a sequence gives may be some that it gave before."""
        lost, self._servers.numbers_lost = self._servers.numbers_lost, 0
        return lost

    # -- the end

    async def close(self) -> None:
        """Let go of the database, when what is under way has ended."""
        if self._closed:
            return
        self._closed = True
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)
        if self._under_way:
            await asyncio.wait(self._under_way)
        async with self._turn:
            for line in (self._writing, self._listing):
                if line is not None:
                    with suppress(*DRIVER):
                        await line.raw.close(timeout=1.0)
                    await self._lose(line)
        self._drop_readers()
        await self._servers.close()


def _set(ended: asyncio.Event, _connection: object) -> None:
    ended.set()


async def _line(server: Server) -> Line:
    """SQLAlchemy's connection above `server`'s."""

    async def made() -> asyncpg.Connection[Any]:
        return server.connection

    engine: AsyncEngine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=made,
        poolclass=NullPool,
        hide_parameters=True,
        isolation_level="AUTOCOMMIT",  # transactions are ours
    )
    try:
        return Line(await engine.connect(), server)
    except BaseException as error:
        server.connection.terminate()
        if isinstance(error, DRIVER):
            raise StoreDown(f"the store failed: {type(error).__name__}") from None
        raise


async def _check(connection: asyncpg.Connection[Any]) -> None:
    """ConfigError: the database can't hold what we write."""
    encoding = await connection.fetchval("SHOW server_encoding")
    if encoding != "UTF8":
        make = "make one with ENCODING 'UTF8' TEMPLATE template0"
        raise ConfigError([f"store.url: the database's encoding is {encoding}: {make}"])


async def _commit(line: Line, limit: float) -> None:
    """COMMIT; TransactionLost: it is not known to be done everywhere it must.

    A server that was told to wait no longer for its standby says that it has committed, and warns.
    """
    line.warnings.clear()
    try:
        status = await line.raw.execute("COMMIT", timeout=limit)
    except TimeoutError:
        raise
    except DRIVER as error:
        raise TransactionLost(type(error).__name__) from None
    if status != "COMMIT":
        raise TransactionLost("the transaction was rolled back")
    if line.warnings:
        raise TransactionLost("the commit may not have reached the standby")
