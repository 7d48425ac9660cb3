"""What people and programs are to be told, until they have been: an outbox.

Promised here: a notice that is due is taken by one process at a time, for as long as its lease; it stays until
it is said to be delivered, or given up. Not in here: what a notice says, and how it is delivered
(`ldapmfa.net.notify`).
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import bindparam, delete, func, insert, select, update

from ldapmfa.store.database import Statement
from ldapmfa.store.prompts import Prompts
from ldapmfa.store.schema import NOTICES

if TYPE_CHECKING:
    from collections.abc import Callable

    from ldapmfa.store.writer import Call

#: How many notices are taken at once: all must be delivered within one lease.
_MOST: Final = 3
_DUE: Final = Statement(
    select(NOTICES.c.id, NOTICES.c.at, NOTICES.c.way, NOTICES.c.body, NOTICES.c.tries, NOTICES.c.due)
    .where(NOTICES.c.due <= bindparam("now"))
    .order_by(NOTICES.c.due)
)
_WAITING: Final = Statement(
    select(func.count(), func.count().filter(NOTICES.c.tries > bindparam("once"))).select_from(NOTICES)
)
#: Finds a row for the first who takes a notice, or puts it off, as it was read.
_PUT_OFF: Final = Statement(
    update(NOTICES)
    .where(NOTICES.c.id == bindparam("notice"), NOTICES.c.due == bindparam("was"))
    .values(due=bindparam("until"), tries=bindparam("count"))
)


@dataclass(frozen=True, slots=True)
class Notice:
    """What is to be told by this `way` since `at`: the `tries`th try has begun, and another one may at `due`."""

    id: str
    at: float
    way: str
    body: Mapping[str, Any]
    tries: int
    due: float


class Notices(Prompts):
    """The part of a store about notices. Every verb raises StoreDown if the database fails."""

    _clock: Callable[[], float]
    _entropy: Callable[[int], bytes]

    async def take_notices(self, seconds: float) -> list[Notice]:
        """The notices that are due, for the caller alone to deliver within `seconds`."""
        if not await self._asked(_DUE, now=self._clock()):
            return []

        def work(call: Call) -> list[Notice]:
            now = self._clock()
            taken = []
            for number, at, way, body, tries, due in call.read(_DUE, now=now)[:_MOST]:
                mine = {"notice": number, "was": due, "until": now + seconds, "count": tries + 1}
                if call.write(_PUT_OFF, **mine) == 1:
                    taken.append(Notice(number, at, way, json.loads(body), tries + 1, now + seconds))
            return taken

        return await self._writer.write(work)

    async def notices(self) -> tuple[int, int]:
        """How many notices wait for their first delivery, or for the end of it, and how many were tried in vain."""
        every, failing = (await self._asked(_WAITING, once=1))[0]
        return every - failing, failing

    async def put_off_notice(self, notice: Notice, seconds: float) -> bool:
        """Let a notice that was taken be due in so many seconds; False if somebody else has taken it by now."""

        def work(call: Call) -> bool:
            until = self._clock() + seconds
            return call.write(_PUT_OFF, notice=notice.id, was=notice.due, until=until, count=notice.tries) == 1

        return await self._writer.write(work)

    async def end_notice(self, notice: Notice) -> None:
        """A notice was delivered, or is given up."""

        def work(call: Call) -> None:
            call.write(delete(NOTICES).where(NOTICES.c.id == notice.id))

        await self._writer.write(work)

    def _add_notice(self, call: Call, way: str, body: Mapping[str, Any], now: float) -> None:
        number = uuid.UUID(bytes=self._entropy(16), version=4).hex
        row = {"id": number, "at": now, "way": way, "body": json.dumps(dict(body)), "tries": 0, "due": now}
        call.write(insert(NOTICES).values(row))
