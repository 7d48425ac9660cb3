"""The one writer of a process: calls queue up, and each transaction serves all that are waiting.

Promised here: a call's result is given only after COMMIT; a call that fails takes back its own writes and nobody
else's (a transaction it spoiled is done again without it, so a call must be able to run twice); one that was
cancelled while it waited is not begun; if the transaction fails, nobody gets a result. Calls run one after the other
on the event loop, a few at a time, so that whatever else happens there waits for a millisecond at most.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from ldapmfa.errors import StoreDown
from ldapmfa.store.database import BROKEN, GONE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy import Executable

    from ldapmfa.store.database import Database, Statement, Transaction

    Rows = defaultdict[Statement, list[Mapping[str, Any]]]
    Note = tuple[Statement, Mapping[str, Any]]

T = TypeVar("T")
Work: TypeAlias = "Callable[[Call], T]"
Waiting: TypeAlias = "tuple[asyncio.Future[Any], Work[Any]]"

#: Calls, and notes, that share a transaction: enough for a burst, few enough to answer the first ones soon.
BATCH: Final = 256
#: Calls that are served without letting anybody else use the loop: well below a millisecond's worth.
SLICE: Final = 16

def down(error: BaseException) -> StoreDown:
    """What callers see of `error`, which stays its cause."""
    if isinstance(error, StoreDown):
        return error
    broken = StoreDown(f"the store failed: {type(error).__name__}")
    broken.__cause__ = error
    return broken


class Call:
    """One call's part of a transaction: what it reads and writes now, and rows that can wait for the commit."""

    def __init__(self, transaction: Transaction) -> None:
        self.wrote = False
        self.rows: list[Note] = []
        self._transaction = transaction

    def read(self, query: Statement | Executable, **values: Any) -> Sequence[Sequence[Any]]:
        """The rows of `query`."""
        return self._transaction.read(query, values)

    def write(self, statement: Statement | Executable, **values: Any) -> int:
        """Run `statement`; gives how many rows it found."""
        self.wrote = True
        return self._transaction.write(statement, values)

    def write_all(self, statement: Executable, rows: list[dict[str, Any]]) -> None:
        """Run `statement` for each of `rows`."""
        self.wrote = True
        if rows:
            self._transaction.write_all(statement, rows)

    def later(self, statement: Statement, **row: Any) -> None:
        """Run `statement` for `row` before the commit, together with the same statement's rows of other calls."""
        self.rows.append((statement, row))

    def tell(self) -> None:
        """Wake those who wait for `Database.told`, in every process, when this is durable."""
        self.wrote = True
        self._transaction.tell()


class _Spoiled(Exception):  # noqa: N818 - named as what is the case
    """A call failed after it had written: what the transaction holds is not what the other calls wrote."""

    def __init__(self, outcome: Exception) -> None:
        super().__init__()
        self.outcome = outcome


class Writer:
    """Serves calls and notes on `database`; `backlog` notes may wait, `dropped` counts those that were lost."""

    def __init__(self, database: Database, *, backlog: int) -> None:
        self.dropped = 0
        self._database = database
        self._backlog = backlog
        self._calls: dict[asyncio.Future[Any], Work[Any]] = {}
        self._notes: deque[Note] = deque()
        self._wake = asyncio.Event()
        self._closing = False
        self._task = asyncio.get_running_loop().create_task(self._serve())

    async def write(self, work: Work[T]) -> T:
        """What `work` returns, once it is durable. StoreDown: it is not."""
        if self._closing:
            raise StoreDown("the store is closed")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._calls[future] = work
        self._wake.set()
        try:
            return await future
        finally:
            self._calls.pop(future, None)

    def note(self, statement: Statement, **row: Any) -> None:
        """Run `statement` for `row` soon; nobody waits for it."""
        if self._closing or len(self._notes) >= self._backlog:
            self.dropped += 1
            return
        self._notes.append((statement, row))
        self._wake.set()

    @property
    def waiting(self) -> int:
        """Calls and notes that are not served yet."""
        return len(self._calls) + len(self._notes)

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
            for future in self._calls:
                if not future.done():
                    future.set_exception(StoreDown("the store is closed"))

    async def _serve_batch(self) -> None:
        calls = list(islice(self._calls.items(), BATCH))
        for future, _work in calls:
            del self._calls[future]
        notes = [self._notes.popleft() for _ in range(min(BATCH, len(self._notes)))]
        try:
            outcomes = await self._outcomes(calls, notes)
        except BaseException as error:
            for future, _work in calls:
                if not future.done():
                    future.set_exception(down(error))
            raise
        for (future, _work), outcome in zip(calls, outcomes, strict=True):
            if future.done():
                continue
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

    async def _outcomes(self, calls: list[Waiting], notes: list[Note]) -> list[Any]:
        try:
            return await self._transact(calls, notes)
        except _Spoiled:
            # rare enough that savepoints, two statements for each call, would cost more than doing it again
            await self._transact([], notes)
            return [outcome for call in calls for outcome in await self._transact([call], [])]

    async def _transact(self, calls: list[Waiting], notes: list[Note]) -> list[Any]:
        """What became of each of `calls` in one transaction, an exception if it failed."""
        rows: Rows = defaultdict(list)
        try:
            async with self._database.transaction() as transaction:
                outcomes = await self._served(calls, transaction, rows)
                lost = await transaction.do(lambda: _written(transaction, rows, notes))
        except _Spoiled as spoiled:
            if len(calls) > 1 or notes:
                raise
            return [spoiled.outcome]
        except Exception as error:  # noqa: BLE001 - whatever it was, every caller needs an answer
            self.dropped += len(notes)
            return [down(error) for _call in calls]
        self.dropped += lost
        return outcomes

    @staticmethod
    async def _served(calls: list[Waiting], transaction: Transaction, rows: Rows) -> list[Any]:
        outcomes: list[Any] = []
        for number, (future, work) in enumerate(calls, 1):
            if future.done():
                outcomes.append(None)
                continue
            call = Call(transaction)
            try:
                outcomes.append(await transaction.do(partial(work, call)))
            except GONE:
                raise
            except Exception as error:
                outcome = down(error) if isinstance(error, BROKEN) else error
                if call.wrote or transaction.spoilt(error):
                    raise _Spoiled(outcome) from error
                outcomes.append(outcome)
            else:
                for statement, row in call.rows:
                    rows[statement].append(row)
            if number % SLICE == 0:
                await asyncio.sleep(0)
        return outcomes


def _written(transaction: Transaction, rows: Rows, notes: list[Note]) -> int:
    """Write what waited for the commit, then the notes, which endanger nothing; how many could not be written."""
    _flush(transaction, rows)
    if not notes:
        return 0
    noted: Rows = defaultdict(list)
    for statement, row in notes:
        noted[statement].append(row)
    return 0 if transaction.attempt(lambda: _flush(transaction, noted)) else len(notes)


def _flush(transaction: Transaction, rows: Rows) -> None:
    for statement, each in rows.items():
        transaction.write_each(statement, each)
