"""All that one store holds, put into another: from a file to a server, or back.

Promised here: all or nothing, into an empty store, as the first one is at one moment; numbers that are given by
counting go on behind those that were given. Not in here: whether anybody still writes to the first one afterwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import delete, func, insert, select, tuple_

from ldapmfa.store.database import BROKEN
from ldapmfa.store.schema import CHANGES, CUTS, LOGINS, META, METADATA
from ldapmfa.store.writer import down

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Select, Table

    from ldapmfa.store import Store
    from ldapmfa.store.database import Transaction

#: Rows that are in memory at a time.
PAGE: Final = 1000
#: Those whose rows count themselves.
_COUNTED: Final = (CUTS, LOGINS, CHANGES)


class NotEmpty(Exception):  # noqa: N818 - named as what is the case
    """There is something in the store that was to be filled, in this `table`."""

    def __init__(self, table: str) -> None:
        super().__init__(table)
        self.table = table


async def move(source: Store, target: Store, progress: Callable[[str, int, int], None]) -> dict[str, int]:
    """Fill `target` with all of `source`; how many rows of which table. NotEmpty, StoreDown.

    While it is done nobody writes to either. `progress` is told a table, how many of its rows are done, of how many.
    """
    counts: dict[str, int] = {}
    try:
        async with source._database.transaction() as old, target._database.transaction() as new:  # noqa: SLF001 - one room
            await new.do(lambda: _see_that_it_is_empty(new))
            for table in METADATA.sorted_tables:
                counts[table.name] = await _fill(old, new, table, progress)
    except BROKEN as error:
        raise down(error) from error
    return counts


def _see_that_it_is_empty(new: Transaction) -> None:
    for table in METADATA.sorted_tables:
        if table is not META and new.read(select(table).limit(1), {}):
            raise NotEmpty(table.name)
    new.write(delete(META), {})  # what opening it has put there


async def _fill(old: Transaction, new: Transaction, table: Table, progress: Callable[[str, int, int], None]) -> int:
    total = int((await old.do(lambda: old.read(select(func.count()).select_from(table), {})))[0][0])
    names = [column.name for column in table.c]
    done, last = 0, None
    while True:
        page = await old.do(lambda last=last: old.read(_behind(table, last), {}))  # type: ignore[misc]
        rows = [dict(zip(names, row, strict=True)) for row in page]
        if not rows:
            break
        await new.do(lambda rows=rows: new.write_all(insert(table).inline(), rows))  # type: ignore[misc]
        last = [rows[-1][column.name] for column in table.primary_key]
        done += len(rows)
        progress(table.name, done, total)
    if table in _COUNTED:
        await new.do(lambda: new.go_on_counting(table.name))
    return done


def _behind(table: Table, last: Sequence[Any] | None) -> Select[Any]:
    """The next rows of `table` behind that with the primary key `last`."""
    keys = list(table.primary_key)
    query = select(table).order_by(*keys).limit(PAGE)
    return query if last is None else query.where(tuple_(*keys) > tuple_(*last))
