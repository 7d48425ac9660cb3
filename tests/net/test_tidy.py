"""What is old goes, a little at a time."""

import asyncio

from twisted.internet.task import Clock

from ldapmfa.errors import StoreDown
from ldapmfa.net.tidy import EVERY, tidy

DAY = 86400.0
NOW = 1_700_000_000.0


class Shelf:
    """A store with events of these times, of which a few go at a time."""

    def __init__(self, *days):
        self.events = sorted(NOW - day * DAY for day in days)
        self.expired = 5
        self.asked = []
        self.away = 0

    async def oldest_event(self):
        if self.away:
            self.away -= 1
            raise StoreDown("away")
        return self.events[0] if self.events else None

    async def forget_events(self, before):
        self.asked.append(before)
        old = [at for at in self.events if at < before][:2]
        self.events = self.events[len(old) :]
        return len(old)

    async def forget_expired(self):
        gone = min(2, self.expired)
        self.expired -= gone
        return gone


async def rounds(shelf, keep_days, count, now=NOW):
    clock = Clock()
    task = asyncio.ensure_future(tidy(shelf, keep_days, clock=clock, now=lambda: now, chance=lambda: 0.5))
    for _ in range(int(count * EVERY * 2)):
        clock.advance(0.5)
        await asyncio.sleep(0)
    task.cancel()
    return shelf


async def test_events_go_after_their_days_and_what_has_expired_goes_always():
    shelf = await rounds(Shelf(9, 9, 9, 9, 9, 8.5, 7.5, 1), 8, 1.2)
    assert [round((NOW - at) / DAY, 1) for at in shelf.events] == [7.5, 1.0]
    assert shelf.expired == 0


async def test_0_days_keep_all_events():
    shelf = await rounds(Shelf(9000, 1), 0, 1.2)
    assert (len(shelf.events), shelf.asked, shelf.expired) == (2, [], 0)


async def test_a_clock_that_is_years_ahead_costs_a_day_of_events_each_round():
    shelf = await rounds(Shelf(*range(1, 101)), 30, 3.2, now=NOW + 10 * 365 * DAY)
    assert len(shelf.events) == 97


async def test_a_store_that_is_away_is_tidied_later():
    shelf = Shelf(9)
    shelf.away = 1
    await rounds(shelf, 8, 2.2)
    assert shelf.events == []


async def test_nothing_there():
    assert (await rounds(Shelf(), 8, 1.2)).asked == []
