"""Looks into the store for accounts whose live connections are to end: blocks come by other processes, too.

Promised here: no cut after `begin` is missed, however long the store is away; each is told twice, a turn apart, for a
login that was recorded before the block may not have its connection yet. Not in here: how connections are ended.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from ldapmfa.errors import StoreDown
from ldapmfa.net.waiting import pause

if TYPE_CHECKING:
    from ldapmfa.store import Store

#: Seconds from one look to the next.
LOOK: Final = 0.5


async def watch(store: Store, number: int, cut: Callable[[str], None], clock: Any) -> None:
    """Call `cut` with each account that is to be cut after `number`; until cancelled."""
    again: list[str] = []
    while True:
        await pause(clock, LOOK)
        try:
            cuts = await store.cuts_since(number)
        except StoreDown:
            continue  # the numbers go on where they were
        accounts = list(dict.fromkeys(one.account for one in cuts))
        number = max((one.number for one in cuts), default=number)
        for account in dict.fromkeys([*again, *accounts]):
            cut(account)
        again = accounts
