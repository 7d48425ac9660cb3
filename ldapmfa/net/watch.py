"""Looks into the store for accounts whose live connections are to end: blocks come by other processes, too.

Promised here: no cut after `begin` is missed, however long the store is away; each is told twice, a turn apart, for a
login that was recorded before the block may not have its connection yet. Numbers are given before blocks are written,
so that of two made at once the later one may be seen first. Not in here: how connections are ended.
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
#: How many numbers a cut may be late: more than are being written at any time.
LATE: Final = 1000


async def watch(store: Store, number: int, cut: Callable[[str], None], clock: Any) -> None:
    """Call `cut` with each account that is to be cut after `number`; until cancelled."""
    again: list[str] = []
    seen: set[int] | None = None
    while True:
        try:
            cuts = await store.cuts_since(number - LATE)
        except StoreDown:
            pass  # the numbers go on where they were
        else:
            if seen is None:
                seen = {one.number for one in cuts if one.number <= number}
            accounts = list(dict.fromkeys(one.account for one in cuts if one.number not in seen))
            seen = {one.number for one in cuts}
            number = max(seen, default=number)
            for account in dict.fromkeys([*again, *accounts]):
                cut(account)
            again = accounts
        await pause(clock, LOOK)
