"""Forgets what is old: events after the days that the configuration keeps them, and what counts no more.

Promised here: small transactions with pauses between them, at times that no two processes share for long; a clock that
runs years ahead costs a day of the oldest events each round, not all of them. Not in here: what is old
(`ldapmfa.store.trail`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from ldapmfa.errors import StoreDown
from ldapmfa.net.waiting import pause

if TYPE_CHECKING:
    from ldapmfa.store import Store

#: Seconds from one round to the next, on average.
EVERY: Final = 600.0
#: Seconds between two transactions of a round.
BREATH: Final = 0.1
_DAY: Final = 86400.0


async def tidy(
    store: Store, keep_days: float, *, clock: Any, now: Callable[[], float], chance: Callable[[], float]
) -> None:
    """Forget what is old, until cancelled; `chance` gives numbers from 0 to 1, `keep_days` 0 keeps all events."""
    while True:
        await pause(clock, EVERY * (0.5 + chance()))
        with suppress(StoreDown):  # what is old will be so next time
            if keep_days:
                await _forget_events(store, now() - keep_days * _DAY, clock)
            while await store.forget_expired():
                await pause(clock, BREATH)


async def _forget_events(store: Store, before: float, clock: Any) -> None:
    oldest = await store.oldest_event()
    if oldest is None:
        return
    before = min(before, oldest + _DAY)
    while await store.forget_events(before):
        await pause(clock, BREATH)
