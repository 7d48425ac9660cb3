"""A store that was put back from a backup: what it has forgotten is taken as used.

Promised here: whatever could have been accepted since the backup was made, and would count once more, counts no more,
in one transaction with its record; it may be done again. Not in here: how the copy is made and put back (`copies`), and
who may do that (`ldapmfa.accounts`). What was decided since (blocks, factors removed) nobody here can know.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sqlalchemy import delete, func, select, update

from ldapmfa.audit import AccountChanged
from ldapmfa.store.rows import fields, held, held_factors
from ldapmfa.store.schema import BYPASSES, CHANGES, FACTORS, LOGINS, PROMPTS, REUSE, SENT_CODES
from ldapmfa.store.statements import ADD_CHANGE

if TYPE_CHECKING:
    from collections.abc import Callable

    from ldapmfa.factors import Credential
    from ldapmfa.store.rows import Held
    from ldapmfa.store.writer import Call, Writer

#: What counts for an account by itself, and may have been used up or revoked since.
_DROPPED = (REUSE, BYPASSES, SENT_CODES, PROMPTS)


@dataclass(frozen=True, slots=True)
class Restored:
    """What became of the factors: `burnt` up to now, and the `uncertain`, of which nobody knows what was used.

    `last` is when the store last recorded anything, in seconds since the epoch: about when the backup was made. With
    `decided` false nothing was done, as nobody has said what becomes of the uncertain ones.
    """

    burnt: int
    uncertain: int
    last: float | None
    decided: bool = True


class Restoring:
    """The part of a store about backups. Every verb raises StoreDown if the database fails."""

    _writer: Writer

    async def open_all(self) -> int:
        """Open every secret, to see that the key file is the right one; gives how many. SealBroken: one does not."""

        def work(call: Call) -> int:
            return len([self._opened(one) for one in held(call.read(held_factors()))])

        return await self._writer.write(work)

    async def changed_since(self, at: float) -> list[AccountChanged]:
        """What was done to accounts after `at`, seconds since the epoch, oldest first."""
        columns = [column for column in CHANGES.c if column is not CHANGES.c.id]
        query = select(*columns).where(CHANGES.c.at > at).order_by(CHANGES.c.at, CHANGES.c.id)

        def work(call: Call) -> list[AccountChanged]:
            names = [column.name for column in columns]
            return [AccountChanged(**dict(zip(names, row, strict=True))) for row in call.read(query)]

        return await self._writer.write(work)

    def _opened(self, held: Held) -> Credential:
        raise NotImplementedError

    async def restored(
        self, used_until: Callable[[Credential], int | None], change: AccountChanged, *, keep: bool | None
    ) -> Restored:
        """Take as used whatever may have been used since the backup, and record `change`.

        `used_until` gives the last position of a factor that may be used up by now, None if that can't be known: `keep`
        says whether those factors stay; without a word about it nothing is done if there are any.
        """

        def work(call: Call) -> Restored:
            burnt, uncertain = [], []
            for one in held(call.read(held_factors())):
                position = used_until(self._opened(one))
                if position is None:
                    uncertain.append(one.id)
                elif position > one.position:
                    burnt.append((one.id, position))
            times = [call.read(select(func.max(table.c.at)))[0][0] for table in (LOGINS, CHANGES)]
            last = max((time for time in times if time is not None), default=None)
            found = Restored(len(burnt), len(uncertain), last, decided=not uncertain or keep is not None)
            if not found.decided:
                return found
            for factor_id, position in burnt:
                call.write(update(FACTORS).where(FACTORS.c.id == factor_id).values(position=position))
            if not keep:
                for factor_id in uncertain:
                    call.write(delete(FACTORS).where(FACTORS.c.id == factor_id))
            for table in _DROPPED:
                call.write(delete(table))
            fate = "kept" if keep else "removed"
            detail = f"{len(burnt)} factors burnt, {len(uncertain)} uncertain ones {fate}"
            call.later(ADD_CHANGE, **fields(replace(change, detail=detail)))
            return found

        return await self._writer.write(work)
