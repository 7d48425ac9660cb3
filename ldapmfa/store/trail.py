"""What happened, in the database: to be looked for, read whole, told elsewhere, and forgotten in time.

Promised here: each reading takes a bounded number of rows at a time, by an index, whatever there is; changes are given
to one process of all that ask, once; what is old goes in small transactions, so that logins wait for none of them. Not
in here: how it is recorded (`ldapmfa.store.Store`), and in which form it is shown.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import bindparam, delete, func, insert, literal_column, or_, select, update

from ldapmfa.audit import AccountChanged, LoginEnded
from ldapmfa.store import statements
from ldapmfa.store.database import BROKEN, Statement
from ldapmfa.store.listings import Listings
from ldapmfa.store.rows import plain
from ldapmfa.store.schema import BYPASSES, CHANGES, FACTORS, LOGINS, META, PENDING, REUSE, SENT_CODES
from ldapmfa.store.writer import down

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import ColumnElement, Select, Table

    from ldapmfa.store.writer import Call, Writer

    Recorded = LoginEnded | AccountChanged

#: Events that are read at a time.
PAGE: Final = 500
#: Rows that one transaction forgets: a few milliseconds' worth.
FORGOTTEN: Final = 100
#: Seconds for which a change waits to be told: one whose number is lower may be committed a little later.
SETTLED: Final = 3.0
_TOLD: Final = "changes-told"
_LAST_CHANGE: Final = Statement(select(func.coalesce(func.max(CHANGES.c.id), bindparam("none"))))
_CHANGES_AFTER: Final = Statement(
    select(CHANGES.c.id, CHANGES.c.at, CHANGES.c.action, CHANGES.c.account, CHANGES.c.actor, CHANGES.c.detail)
    .where(CHANGES.c.id > bindparam("number"))
    .order_by(CHANGES.c.id)
    .limit(literal_column("100"))
    .offset(literal_column("0"))
)
_KINDS: Final[tuple[tuple[type[Recorded], Table], ...]] = ((LoginEnded, LOGINS), (AccountChanged, CHANGES))


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events: those for which all holds that is said. Times are seconds since the epoch, `until` is not included.

    `accounts` are keys; `recorded` how an account may be called that is not known any more: by DN, key, or a key's end;
    `name` what was typed, in any case, with * for anything; `client` a network; `equal` are columns with their values.
    """

    since: float | None = None
    until: float | None = None
    accounts: frozenset[str] = frozenset()
    recorded: tuple[str, ...] = ()
    name: str | None = None
    client: IPv4Network | IPv6Network | None = None
    equal: Mapping[str, str] = field(default_factory=dict)

    def conditions(self, table: Table) -> list[ColumnElement[bool]] | None:
        """What holds for the rows of `table` that are wanted; None: none is."""
        found: list[ColumnElement[bool]] = []
        if self.since is not None:
            found.append(table.c.at >= self.since)
        if self.until is not None:
            found.append(table.c.at < self.until)
        if self.accounts:
            found.append(table.c.account.in_(sorted(self.accounts)))
        if self.recorded:
            found.append(or_(*(_recorded(table, plain(name)) for name in self.recorded)))
        if self.name is not None:
            if table is not LOGINS:
                return None
            pattern = _lower(plain(self.name)).replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
            # beyond ASCII no two databases agree about cases: `holds` decides
            pattern = "".join(char if char.isascii() else "%" for char in pattern.replace("*", "%"))
            found.append(func.lower(LOGINS.c.name).like(pattern, escape="\\"))
        if self.client is not None:
            if table is not LOGINS:
                return None
            if self.client.num_addresses == 1:
                found.append(LOGINS.c.client == str(self.client.network_address))
        for column, value in self.equal.items():
            if column not in table.c:
                return None
            found.append(table.c[column] == plain(value))
        return found

    def holds(self, event: Recorded) -> bool:
        """What no database can tell of `event`: whether it has the client, or the name beyond ASCII, wanted."""
        if self.name is not None and not self.name.isascii() and isinstance(event, LoginEnded):
            parts = (re.escape(part.casefold()) for part in plain(self.name).split("*"))
            if not re.fullmatch(".*".join(parts), event.name.casefold(), re.DOTALL):
                return False
        if self.client is None or self.client.num_addresses == 1 or not isinstance(event, LoginEnded):
            return True
        try:
            address = ip_address(event.client)
        except ValueError:
            return False
        return address.version == self.client.version and address in self.client


def _lower(text: str) -> str:
    """`text` in small letters as far as every database makes them: within ASCII."""
    return "".join(char.lower() if char.isascii() else char for char in text)


def _recorded(table: Table, account: str) -> ColumnElement[bool]:
    conditions: list[ColumnElement[bool]] = [table.c.account == account]
    if table is LOGINS:
        conditions.append(func.lower(LOGINS.c.dn) == _lower(account))
    if "/" not in account and "=" not in account:
        conditions.append(table.c.account.endswith(f":{account.lower()}", autoescape=True))
    return or_(*conditions)


class Events(Listings):
    """The part of a store about what happened. Every verb raises StoreDown if the database fails."""

    _writer: Writer
    _clock: Callable[[], float]

    async def search(self, wanted: Wanted, *, newest_first: bool = True) -> AsyncIterator[Recorded]:
        """All events that are wanted, by time; a bounded number of them is in memory."""
        readings = [_Reading(self, wanted, event, table, down=newest_first) for event, table in _KINDS]
        heads = [await reading.take() for reading in readings]
        while any(head is not None for head in heads):
            best = min(
                (number for number, head in enumerate(heads) if head is not None),
                key=lambda number: _order(heads[number], down=newest_first),
            )
            found, heads[best] = heads[best], await readings[best].take()
            if found is not None:
                yield found

    async def take_changes(self) -> list[AccountChanged]:
        """What was changed since that was last asked, by whichever process; each change is given away once."""
        told = await self._told()
        if told is None:
            await self._begin_telling()
            return []
        if not await self._changes_after(told):
            return []

        def work(call: Call) -> list[AccountChanged]:
            settled = _settled(call.read(_CHANGES_AFTER, number=told), self._clock())
            if not settled:
                return []
            mine = update(META).where(META.c.name == _TOLD, META.c.value == str(told).encode())
            if call.write(mine.values(value=str(settled[-1][0]).encode())) != 1:
                return []  # somebody else tells them
            return [AccountChanged(at=at, action=action, account=account, actor=actor, detail=detail)
                    for _, at, action, account, actor, detail in settled]  # fmt: skip

        return await self._writer.write(work)

    async def forget_events(self, before: float) -> int:
        """Forget a few of what happened before then; gives how many: 0 when nothing is left."""

        def work(call: Call) -> int:
            return sum(call.write(delete(table).where(table.c.id.in_(_oldest(table, before)))) for _, table in _KINDS)

        return await self._writer.write(work)

    async def oldest_event(self) -> float | None:
        """When the first event happened that is kept."""
        found = [await self.listed(select(func.min(table.c.at))) for _, table in _KINDS]
        times = [float(rows[0][0]) for rows in found if rows[0][0] is not None]
        return min(times, default=None)

    async def clock_was_set_back(self) -> int:
        """Forget what was granted for a while that begins later than now; gives how much that was."""
        ahead = self._clock() + statements.AHEAD

        def work(call: Call) -> int:
            return sum(call.write(delete(table).where(table.c.granted > ahead)) for table in (REUSE, BYPASSES))

        return await self._writer.write(work)

    async def forget_expired(self) -> int:
        """Forget a few of what counts no more: enrolments nobody has claimed, successes, codes that were sent."""
        now = self._clock()
        expired = select(PENDING.c.factor_id).where(PENDING.c.expires <= now).limit(FORGOTTEN)
        factors = [row[0] for row in await self.listed(expired)]

        def work(call: Call) -> int:
            count = call.write(delete(FACTORS).where(FACTORS.c.id.in_(factors), FACTORS.c.account_key.is_(None)))
            for table, key in ((REUSE, REUSE.c.key), (SENT_CODES, SENT_CODES.c.account_key)):
                old = select(key).where(table.c.expires <= now).order_by(table.c.expires).limit(FORGOTTEN)
                count += call.write(delete(table).where(key.in_(old)))
            return count

        return await self._writer.write(work)

    # -- below the verbs

    async def listed(self, query: Select[Any]) -> Sequence[Any]:
        """The rows of `query`."""
        try:
            return await self._database.rows(query)
        except BROKEN as error:
            raise down(error) from error

    async def _told(self) -> int | None:
        """The number of the last change that was told."""
        try:
            rows = await self._database.read(statements.ABOUT, name=_TOLD)
        except BROKEN as error:
            raise down(error) from error
        return int(rows[0][0]) if rows else None

    async def _changes_after(self, number: int) -> bool:
        try:
            rows = await self._database.read(_CHANGES_AFTER, number=number)
        except BROKEN as error:
            raise down(error) from error
        return bool(_settled(rows, self._clock()))

    async def _begin_telling(self) -> None:
        """What has happened before anybody told of changes is not told."""

        def work(call: Call) -> None:
            if not call.read(statements.ABOUT, name=_TOLD):
                last = int(call.read(_LAST_CHANGE, none=0)[0][0])
                call.write(insert(META).values(name=_TOLD, value=str(last).encode()))

        await self._writer.write(work)


def _settled(rows: Sequence[Sequence[Any]], now: float) -> list[Sequence[Any]]:
    """The first of `rows`, as far as none before them can be missing still."""
    found: list[Sequence[Any]] = []
    for row in rows:
        if abs(now - row[1]) < SETTLED:
            break
        found.append(row)
    return found


def _oldest(table: Table, before: float) -> Select[Any]:
    """A few that are old, but not the last one: SQLite would give its number to another, which would pass for told."""
    last = select(func.max(table.c.id)).scalar_subquery()
    old = select(table.c.id).where(table.c.at < before, table.c.id < last)
    return old.order_by(table.c.at).limit(FORGOTTEN)


def _order(event: Recorded | None, *, down: bool) -> float:
    at = event.at if event else 0.0
    return -at if down else at


class _Reading:
    """The wanted rows of one table, page by page."""

    def __init__(self, store: Events, wanted: Wanted, event: type[Recorded], table: Table, *, down: bool) -> None:
        self._store = store
        self._wanted = wanted
        self._event = event
        self._table = table
        self._down = down
        self._rows: list[Any] = []
        self._last: tuple[float, int] | None = None
        self._over = wanted.conditions(table) is None

    async def take(self) -> Recorded | None:
        """The next one; None: there is none."""
        while True:
            if not self._rows:
                if self._over:
                    return None
                query = page(self._wanted, self._table, self._last, down=self._down)
                self._rows = list(reversed(await self._store.listed(query)))
                self._over = len(self._rows) < PAGE
                continue
            row = self._rows.pop()
            self._last = (row.at, row.id)
            values = row._asdict()
            del values["id"]
            event = self._event(**values)
            if self._wanted.holds(event):
                return event


def page(wanted: Wanted, table: Table, last: tuple[float, int] | None, *, down: bool) -> Select[Any]:
    """The rows behind the `last` one, its time and number, in the order of both."""
    at, number = table.c.at, table.c.id
    query = select(table).where(*(wanted.conditions(table) or ()))
    if last is not None and down:
        query = query.where(at <= last[0], or_(at < last[0], number < last[1]))
    elif last is not None:
        query = query.where(at >= last[0], or_(at > last[0], number > last[1]))
    order = (at.desc(), number.desc()) if down else (at, number)
    return query.order_by(*order).limit(PAGE)
