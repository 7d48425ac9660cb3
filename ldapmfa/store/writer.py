"""The one writer of a process: calls queue up, and each transaction serves all that are waiting.

Promised here: a call's result is given only after COMMIT; a call that fails takes back its own writes and nobody
else's (a transaction it spoiled is done again without it, so a call must be able to run twice); one that was
cancelled while it waited is not begun; if the transaction fails, nobody gets a result.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import defaultdict, deque
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from sqlalchemy.exc import InterfaceError, InternalError, OperationalError, SQLAlchemyError

from ldapmfa.errors import StoreDown

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from sqlalchemy import Executable, Row
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    Rows = defaultdict[Executable, list[dict[str, Any]]]

T = TypeVar("T")
Work: TypeAlias = "Callable[[Call], Awaitable[T]]"

#: Calls, and notes, that share a transaction: enough for a burst, few enough to answer the first ones soon.
BATCH: Final = 256
#: What a driver, a disk or text that is no text raises.
BROKEN: Final = (SQLAlchemyError, sqlite3.Error, OSError, UnicodeError)


def down(error: BaseException) -> StoreDown:
    """What callers see of `error`, which stays its cause."""
    broken = StoreDown(f"the store failed: {type(error).__name__}")
    broken.__cause__ = error
    return broken


class Call:
    """One call's part of a transaction: what it reads and writes now, and rows that can wait for the commit."""

    def __init__(self, connection: AsyncConnection) -> None:
        self.wrote = False
        self.rows: list[tuple[Executable, dict[str, Any]]] = []
        self._connection = connection

    async def read(self, query: Executable) -> Sequence[Row[Any]]:
        """The rows of `query`."""
        rows: Sequence[Row[Any]] = (await self._connection.execute(query)).all()
        return rows

    async def write(self, statement: Executable, rows: list[dict[str, Any]] | None = None) -> int:
        """Run `statement`, once or for each of `rows`; gives how many rows it found."""
        self.wrote = True
        return int((await self._connection.execute(statement, rows)).rowcount)

    def later(self, statement: Executable, **row: Any) -> None:
        """Run `statement` for `row` before the commit, together with the same statement's rows of other calls."""
        self.rows.append((statement, row))


class _Spoiled(Exception):  # noqa: N818 - named as what is the case
    """A call failed after it had written: what the transaction holds is not what the other calls wrote."""

    def __init__(self, outcome: Exception) -> None:
        super().__init__()
        self.outcome = outcome


class Writer:
    """Serves calls and notes on `engine`; `backlog` notes may wait, `dropped` counts those that were lost."""

    def __init__(self, engine: AsyncEngine, *, backlog: int) -> None:
        self.dropped = 0
        self._engine = engine
        self._backlog = backlog
        self._calls: deque[tuple[Work[Any], asyncio.Future[Any]]] = deque()
        self._notes: deque[tuple[Executable, dict[str, Any]]] = deque()
        self._wake = asyncio.Event()
        self._closing = False
        self._task = asyncio.get_running_loop().create_task(self._serve())

    async def write(self, work: Work[T]) -> T:
        """What `work` returns, once it is durable. StoreDown: it is not."""
        if self._closing:
            raise StoreDown("the store is closed")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._calls.append((work, future))
        self._wake.set()
        return await future

    def note(self, statement: Executable, **row: Any) -> None:
        """Run `statement` for `row` soon; nobody waits for it."""
        if self._closing or len(self._notes) >= self._backlog:
            self.dropped += 1
            return
        self._notes.append((statement, row))
        self._wake.set()

    async def close(self) -> None:
        """Serve what is waiting, then end."""
        self._closing = True
        self._wake.set()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _serve(self) -> None:
        try:
            while self._calls or self._notes or not self._closing:
                await self._wake.wait()
                self._wake.clear()
                while self._calls or self._notes:
                    await self._serve_batch()
        finally:
            # only when the loop ends under us: nobody may wait for ever
            self._closing = True
            for _work, future in self._calls:
                if not future.done():
                    future.set_exception(StoreDown("the store is closed"))

    async def _serve_batch(self) -> None:
        calls = [self._calls.popleft() for _ in range(min(BATCH, len(self._calls)))]
        calls = [(work, future) for work, future in calls if not future.done()]
        notes = [self._notes.popleft() for _ in range(min(BATCH, len(self._notes)))]
        try:
            outcomes = await self._outcomes([work for work, _future in calls], notes)
        except BaseException as error:
            for _work, future in calls:
                if not future.done():
                    future.set_exception(down(error))
            raise
        for (_work, future), outcome in zip(calls, outcomes, strict=True):
            if future.done():
                continue
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

    async def _outcomes(self, works: list[Work[Any]], notes: list[tuple[Executable, dict[str, Any]]]) -> list[Any]:
        try:
            return await self._transact(works, notes)
        except _Spoiled:
            # rare enough that savepoints, two statements for each call, would cost more than doing it again
            await self._transact([], notes)
            return [outcome for work in works for outcome in await self._transact([work], [])]

    async def _transact(self, works: list[Work[Any]], notes: list[tuple[Executable, dict[str, Any]]]) -> list[Any]:
        """What became of each of `works` in one transaction, an exception if it failed."""
        outcomes: list[Any] = []
        rows: Rows = defaultdict(list)
        try:
            async with self._engine.begin() as connection:
                for work in works:
                    call = Call(connection)
                    try:
                        outcomes.append(await work(call))
                    except (OperationalError, InterfaceError, InternalError):
                        # the transaction itself may be gone (SQLite rolls back by itself when the disk is full)
                        raise
                    except Exception as error:
                        outcome = down(error) if isinstance(error, BROKEN) else error
                        if call.wrote:
                            raise _Spoiled(outcome) from error
                        outcomes.append(outcome)
                    else:
                        for statement, row in call.rows:
                            rows[statement].append(row)
                await _flush(connection, rows)
                lost = await self._write_notes(connection, notes)
        except _Spoiled as spoiled:
            if len(works) > 1 or notes:
                raise
            return [spoiled.outcome]
        except Exception as error:  # noqa: BLE001 - whatever it was, every caller needs an answer
            self.dropped += len(notes)
            return [down(error) for _work in works]
        self.dropped += lost
        return outcomes

    @staticmethod
    async def _write_notes(connection: AsyncConnection, notes: list[tuple[Executable, dict[str, Any]]]) -> int:
        """Write the notes without endangering the calls; how many could not be written."""
        if not notes:
            return 0
        rows: Rows = defaultdict(list)
        for statement, row in notes:
            rows[statement].append(row)
        try:
            async with connection.begin_nested():
                await _flush(connection, rows)
        except (OperationalError, InterfaceError, InternalError):
            raise
        except BROKEN:
            return len(notes)
        return 0


async def _flush(connection: AsyncConnection, rows: Rows) -> None:
    for statement, parameters in rows.items():
        await connection.execute(statement, parameters)
