"""Looks into the store for accounts whose live connections are to end: blocks come by other processes, too.

Promised here: no cut after `number` is missed while the store is away for less than a day, nor one whose number a
fail-over gave again; each is told twice, a turn apart, for a login that was recorded before the block may not have its
connection yet. Where the database tells of cuts they are
looked for at once; that it should have told, nobody relies on. Not in here: how connections are ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from ldapmfa.errors import StoreDown
from ldapmfa.net.waiting import pause, within

if TYPE_CHECKING:
    from ldapmfa.store import Store

#: Seconds from one look to the next.
LOOK: Final = 0.5


async def watch(store: Store, number: int, cut: Callable[[str], None], clock: Any) -> None:
    """Call `cut` with each account that is to be cut after `number`; until cancelled."""
    again: dict[str, float] = {}
    told = asyncio.ensure_future(store.told_of_cuts())
    try:
        while True:
            if await within(clock, LOOK, told):
                if told.exception() is not None:
                    await pause(clock, LOOK)
                told = asyncio.ensure_future(store.told_of_cuts())
            # kept though the look fails or finds nothing: they may be given again at any time
            number -= store.lost_cuts()
            try:
                cuts = await store.cuts_since(number)
            except StoreDown:
                continue  # the numbers go on where they were
            now = clock.seconds()
            due = [account for account, when in again.items() if when <= now]
            accounts = list(dict.fromkeys(one.account for one in cuts))
            number = max((one.number for one in cuts), default=number)
            for account in dict.fromkeys([*due, *accounts]):
                again.pop(account, None)
                cut(account)
            again |= dict.fromkeys(accounts, now + LOOK)
    finally:
        told.cancel()
