"""What the operator sees: accounts, factors, those who are pending, and what happened.

Not in here: what a login asks (`ldapmfa.store.Store`). A listing may be long; it is read aside, from one point in time
for each query.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from sqlalchemy import false, or_, select

from ldapmfa.audit import AccountChanged, LoginEnded
from ldapmfa.store.database import BROKEN
from ldapmfa.store.rows import (
    AccountRow,
    FactorRow,
    Pending,
    PendingRow,
    account_rows,
    factor_row,
    listed_accounts,
    listed_factors,
    plain,
)
from ldapmfa.store.schema import ACCOUNTS, CHANGES, FACTORS, FORMS, LOGINS, NAMES, PENDING
from ldapmfa.store.writer import down

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Executable, Row

    from ldapmfa.store.database import Database


class Listings:
    """The reading half of a store. Every verb raises StoreDown if the database fails."""

    def __init__(
        self, database: Database, *, clock: Callable[[], float], normalise_dn: Callable[[str], str]
    ) -> None:
        self._database = database
        self._clock = clock
        self._normalise_dn = normalise_dn

    async def accounts(self) -> list[AccountRow]:
        """Every account that was ever seen or enrolled."""
        return account_rows(await self._read(listed_accounts()), self._clock())

    async def find(self, directory: str | None, name: str) -> list[AccountRow]:
        """The accounts with this key, DN, userPrincipalName, account name or typed name; in all directories if None."""
        names = {name, name.casefold()}
        with contextlib.suppress(ValueError):
            normalised = self._normalise_dn(name)
            names |= {normalised, f"dn:{normalised}"}
        values = sorted(plain(value) for value in names)
        keys = select(FORMS.c.account_key).where(FORMS.c.value.in_(values))
        typed = select(NAMES.c.account_key).where(NAMES.c.name.in_(values))
        found = [or_(ACCOUNTS.c.key == plain(name), ACCOUNTS.c.key.in_(keys.union(typed)))]
        if directory is not None:
            found.append(ACCOUNTS.c.directory == directory)
        return account_rows(await self._read(listed_accounts(*found)), self._clock())

    async def pendings(self) -> list[PendingRow]:
        """Enrolments that wait for their account."""
        rows = await self._read(listed_factors(PENDING.c.expires > self._clock()))
        return [
            PendingRow(Pending(row.directory, row.attribute, row.value), row.expires, factor_row(row)) for row in rows
        ]

    async def factors(self, account_key: str | None = None) -> list[FactorRow]:
        """The factors of one account, or of all, those pending included."""
        conditions = () if account_key is None else (FACTORS.c.account_key == account_key,)
        return [factor_row(row) for row in await self._read(listed_factors(*conditions))]

    async def events(
        self, *, reference: str | None = None, account: str | None = None, limit: int = 100
    ) -> list[LoginEnded | AccountChanged]:
        """What is recorded, newest first: of all, of one refusal's reference code, or of one account."""
        logins = select(*(column for column in LOGINS.c if column is not LOGINS.c.id))
        changes = select(*(column for column in CHANGES.c if column is not CHANGES.c.id))
        if reference is not None:
            logins, changes = logins.where(LOGINS.c.reference == reference), changes.where(false())
        if account is not None:
            logins, changes = logins.where(LOGINS.c.account == account), changes.where(CHANGES.c.account == account)
        found: list[LoginEnded | AccountChanged] = []
        for query, table, event in ((logins, LOGINS, LoginEnded), (changes, CHANGES, AccountChanged)):
            rows = await self._read(query.order_by(table.c.at.desc(), table.c.id.desc()).limit(limit))
            found += [event(**row._asdict()) for row in rows]
        return sorted(found, key=lambda event: event.at, reverse=True)[:limit]

    async def _read(self, query: Executable) -> Sequence[Row[Any]]:
        try:
            return await self._database.rows(query)
        except BROKEN as error:
            raise down(error) from error
