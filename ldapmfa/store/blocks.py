"""Accounts that nobody may log in as, that may log in without a factor once, and what still counts for them.

Promised here: a block, with all that it drops (successes that count again, bypasses, codes that were sent, questions
that are open), its record, the word to every process to end the account's connections, and what people are to be told
of it are one transaction; a block never shortens one that there is. Not in here: who may do that (`ldapmfa.accounts`),
and that a login asks (`ldapmfa.store.Store`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from sqlalchemy import bindparam, delete, func, insert, select, update

from ldapmfa.store import statements
from ldapmfa.store.database import BROKEN, Statement
from ldapmfa.store.notices import Notices
from ldapmfa.store.rows import RememberedRow, fields, known_of, plain
from ldapmfa.store.schema import ACCOUNTS, BYPASSES, CUTS, PROMPTS, REUSE, SENT_CODES
from ldapmfa.store.writer import down

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Executable, Row

    from ldapmfa.audit import AccountChanged
    from ldapmfa.core.identity import Identity
    from ldapmfa.store.rows import Known
    from ldapmfa.store.writer import Call

#: Until when an account is blocked whose block somebody must end.
FOREVER: Final = math.inf
#: Seconds for which a process may be late to hear whose connections are to end.
CUT_SECONDS: Final = 86400.0

_DROPPED: Final = (REUSE, BYPASSES, SENT_CODES, PROMPTS)
_LAST_CUT: Final = Statement(select(func.coalesce(func.max(CUTS.c.id), bindparam("none", type_=CUTS.c.id.type))))
_CUTS_SINCE: Final = Statement(
    select(CUTS.c.id, CUTS.c.account_key).where(CUTS.c.id > bindparam("number")).order_by(CUTS.c.id)
)


@dataclass(frozen=True, slots=True)
class Cut:
    """That the live connections of an account are to end; a later one has a higher `number`."""

    number: int
    account: str


class Blocks(Notices):
    """The part of a store about blocks. Every verb raises StoreDown if the database fails.

    Where an account is given by its key, it is None or False that says that there is none; by its identity, it is made
    known.
    """

    _clock: Callable[[], float]

    async def block(
        self,
        owner: str | Identity,
        until: float,
        reason: str,
        change: AccountChanged,
        *,
        disables: bool = False,
        notices: Sequence[tuple[str, Mapping[str, Any]]] = (),
    ) -> bool:
        """Let nobody log in as an account `until` then, and drop all that counts for it; False if it is unknown.

        It was `change.actor` who says so; only an administrator ends what `disables`. `notices` are each a way to tell
        people, and what.
        """

        def work(call: Call) -> bool:
            now = self._clock()
            found = self._found(call, owner, now)
            if found is None:
                return False
            key, known = found
            if not known.blocked(now) or until > (known.blocked_until or 0.0):
                said = {"blocked_until": until, "blocked_reason": plain(reason), "blocked_by": plain(change.actor)}
                call.write(update(ACCOUNTS).where(ACCOUNTS.c.key == key).values(said))
            if disables:
                call.write(update(ACCOUNTS).where(ACCOUNTS.c.key == key).values(disabled=True))
            for table in _DROPPED:
                call.write(delete(table).where(table.c.account_key == key))
            call.write(delete(CUTS).where(CUTS.c.at < now - CUT_SECONDS))
            call.write(insert(CUTS).values(account_key=key, at=now).inline())
            call.tell()
            for way, body in notices:
                self._add_notice(call, way, body, now)
            call.later(statements.ADD_CHANGE, **fields(change))
            return True

        return await self._writer.write(work)

    async def unblock(
        self, account_key: str, change: AccountChanged, *, enables: bool = False
    ) -> Literal["unblocked", "not-blocked", "disabled"]:
        """End an account's block; one that is disabled is left so, unless that `enables` it."""

        def work(call: Call) -> Literal["unblocked", "not-blocked", "disabled"]:
            now = self._clock()
            mine = ACCOUNTS.c.key == account_key
            rows = call.read(select(ACCOUNTS.c.blocked_until, ACCOUNTS.c.disabled).where(mine))
            if not rows or rows[0][0] is None or rows[0][0] <= now:
                return "not-blocked"
            if rows[0][1] and not enables:
                return "disabled"
            none = {"blocked_until": None, "blocked_reason": None, "blocked_by": None, "disabled": False}
            call.write(update(ACCOUNTS).where(mine).values(none))
            call.later(statements.ADD_CHANGE, **fields(change))
            return "unblocked"

        return await self._writer.write(work)

    # -- logins without a factor

    async def grant_bypass(
        self, owner: str | Identity, seconds: float, reason: str, change: AccountChanged, *, uses: int = 1
    ) -> Literal["granted", "unknown", "blocked"]:
        """Let an account log in without a factor, `uses` times within `seconds`; this replaces an earlier bypass."""

        def work(call: Call) -> Literal["granted", "unknown", "blocked"]:
            now = self._clock()
            found = self._found(call, owner, now)
            if found is None:
                return "unknown"
            key, known = found
            if known.blocked(now):
                return "blocked"
            call.write(delete(BYPASSES).where((BYPASSES.c.account_key == key) | (BYPASSES.c.expires <= now)))
            granted = {"expires": now + seconds, "reason": plain(reason), "actor": plain(change.actor), "granted": now}
            call.write(insert(BYPASSES).values(account_key=key, uses=uses, **granted))
            call.later(statements.ADD_CHANGE, **fields(change))
            return "granted"

        return await self._writer.write(work)

    async def revoke_bypass(self, account_key: str, change: AccountChanged) -> bool:
        """Take a bypass back; False if there was none that still counted."""

        def work(call: Call) -> bool:
            mine = BYPASSES.c.account_key == account_key
            rows = call.read(select(BYPASSES.c.uses, BYPASSES.c.expires).where(mine))
            counted = any(uses > 0 and expires > self._clock() for uses, expires in rows)
            if counted:
                call.write(delete(BYPASSES).where(mine))
                call.later(statements.ADD_CHANGE, **fields(change))
            return counted

        return await self._writer.write(work)

    # -- phones

    async def set_phone(self, owner: str | Identity, phone: str | None, change: AccountChanged) -> bool:
        """The number, in E.164, at which services reach an account's owner; False if the account is unknown."""

        def work(call: Call) -> bool:
            found = self._found(call, owner, self._clock())
            if found is None:
                return False
            key, _known = found
            call.write(update(ACCOUNTS).where(ACCOUNTS.c.key == key).values(phone=phone))
            call.write(statements.FORGET_REUSE, account_key=key)
            call.later(statements.ADD_CHANGE, **fields(change))
            return True

        return await self._writer.write(work)

    # -- successes that count again

    async def remembered(self, account_key: str | None = None) -> list[RememberedRow]:
        """The successes that still count for further binds: of one account, or of all."""
        query = (
            select(
                REUSE.c.account_key.label("account"), ACCOUNTS.c.dn, REUSE.c.application, REUSE.c.client,
                REUSE.c.reason, REUSE.c.factor, REUSE.c.uses, REUSE.c.granted, REUSE.c.expires,
            )
            .select_from(REUSE.join(ACCOUNTS, ACCOUNTS.c.key == REUSE.c.account_key))
            .where(REUSE.c.uses > 0, REUSE.c.expires > self._clock())
            .order_by(ACCOUNTS.c.dn, REUSE.c.expires)
        )  # fmt: skip
        if account_key is not None:
            query = query.where(REUSE.c.account_key == account_key)
        return [RememberedRow(**row._asdict()) for row in await self._listed(query)]

    async def forget_remembered(self, account_key: str | None, change: AccountChanged) -> int:
        """Let no success of one account, or of any, count again; gives how many did."""

        def work(call: Call) -> int:
            mine = [REUSE.c.account_key == account_key] if account_key is not None else []
            counting = (REUSE.c.uses > 0, REUSE.c.expires > self._clock())
            count = int(call.read(select(func.count()).select_from(REUSE).where(*mine, *counting))[0][0])
            call.write(delete(REUSE).where(*mine))
            if count:
                call.later(statements.ADD_CHANGE, **fields(change))
            return count

        return await self._writer.write(work)

    # -- whose connections are to end

    async def last_cut(self) -> int:
        """The number of the last cut so far: what `cuts_since` begins with."""
        return int((await self._asked(_LAST_CUT, none=0))[0][0])

    async def cuts_since(self, number: int) -> list[Cut]:
        """Whose connections are to end, by those that were said after `number`."""
        return [Cut(*row) for row in await self._asked(_CUTS_SINCE, number=number)]

    def lost_cuts(self) -> int:
        """By how many the number is to be lowered that was seen last, for so many may be given again; told once."""
        return self._database.lost_numbers()

    async def told_of_cuts(self) -> None:
        """Wait until there may be cuts to look for: whoever cuts tells, where the database can; but see at times."""
        await self._database.told()

    # -- below the verbs

    async def _listed(self, query: Executable) -> Sequence[Row[Any]]:
        try:
            return await self._database.rows(query)
        except BROKEN as error:
            raise down(error) from error

    def _found(self, call: Call, owner: str | Identity, now: float) -> tuple[str, Known] | None:
        """An account's key, and what is kept of it, locked against other processes; None: it is unknown."""
        if not isinstance(owner, str):
            return owner.key, self._renewed(call, owner, now)
        rows = call.read(statements.ACCOUNT, account_key=owner)
        return (owner, known_of(rows)) if rows else None
