"""Where audit events go besides the database: nobody waits, what is lost is counted, and outages are told once."""

import asyncio
import errno
import threading
from contextlib import asynccontextmanager

import pytest
from twisted.internet.task import Clock
from world import ALICE, World

from ldapmfa.audit import AccountChanged, ConnectionRefused
from ldapmfa.config.audit import Audit
from ldapmfa.errors import StoreDown
from ldapmfa.net import log, trail
from ldapmfa.net.journald import Journald
from ldapmfa.net.jsonl import JsonLines
from ldapmfa.net.rfc5424 import Syslog
from ldapmfa.net.trail import Outlet, Trail, tell_changes, trail_of


def event(number):
    return ConnectionRefused(at=1.0, listener="l", client=str(number), reason="r")


class Somewhere:
    """A place that does as it is told."""

    def __init__(self):
        self.events = []
        self.calls = 0
        self.fails = None
        self.closed = 0
        self.most = 1000
        self.gate = threading.Event()
        self.gate.set()

    def write(self, events):
        self.calls += 1
        assert self.gate.wait(20)
        if self.fails:
            raise self.fails
        taken = [one.client for one in events[: self.most]]
        if "poison" in taken:
            raise ValueError("a bug")
        if "huge" in taken:
            raise OSError(errno.EMSGSIZE, "Message too long")
        self.events += taken
        return len(taken)

    def close(self):
        self.closed += 1


class Log(list):
    def error(self, what, **said):
        self.append((what, said))

    warning = error


class Bench:
    """An outlet to somewhere, and a clock that stands still."""

    def __init__(self, **settings):
        self.clock, self.log, self.place = Clock(), Log(), Somewhere()
        self.outlet = Outlet("file", self.place, clock=self.clock, says=self.log, **{"most": 1000} | settings)

    async def until(self, condition, step=0.05):
        """Let time pass until it is so."""
        for _ in range(4000):
            if condition():
                return
            self.clock.advance(step)
            await asyncio.sleep(0.001)
        raise AssertionError("it never came about")


async def ended(closing, clock):
    """What is closed by a clock that somebody must advance."""
    task = asyncio.ensure_future(closing)
    while not task.done():
        clock.advance(0.05)
        await asyncio.sleep(0.001)


@asynccontextmanager
async def bench(**settings):
    made = Bench(**settings)
    try:
        yield made
    finally:
        made.place.gate.set()
        closing = asyncio.ensure_future(made.outlet.close(2.0))
        await made.until(closing.done)


async def test_events_come_in_order_and_several_at_a_time():
    async with bench() as made:
        for number in range(100):
            made.outlet.put(event(number))
        await made.until(lambda: len(made.place.events) == 100)
        assert made.place.events == [str(number) for number in range(100)]
        assert made.place.calls <= 3
        assert (made.outlet.written, made.outlet.dropped, made.outlet.failing, made.log) == (100, 0, None, [])


async def test_a_place_that_takes_a_few_at_a_time_gets_the_rest_later():
    async with bench() as made:
        made.place.most = 7
        for number in range(20):
            made.outlet.put(event(number))
        await made.until(lambda: made.outlet.written == 20)
        assert made.place.events == [str(number) for number in range(20)]


async def test_nobody_waits_for_a_place_that_hangs_and_what_is_too_much_is_counted():
    async with bench(most=100) as made:
        made.place.gate.clear()
        for number in range(250):
            made.outlet.put(event(number))  # returns
        await asyncio.sleep(0.01)
        assert (made.outlet.waiting, made.outlet.dropped) == (100, 150)
        assert made.log == [("audit trail interrupted", {"to": "file", "reason": "it is too slow", "waiting": 100})]
        made.place.gate.set()
        await made.until(lambda: not made.outlet.waiting)
        assert made.place.events == [str(number) for number in range(100)]
        assert made.log[1:] == [("audit trail goes on", {"to": "file", "dropped": 150})]


async def test_an_outage_is_told_once_and_so_is_its_end_and_nothing_is_lost():
    async with bench() as made:
        made.place.fails = OSError(errno.ENOSPC, "No space left on device")
        for number in range(3):
            made.outlet.put(event(number))
        await made.until(lambda: made.place.calls > 6)
        assert made.outlet.failing == "No space left on device"
        assert [what for what, _ in made.log] == ["audit trail interrupted"]
        made.place.fails = None
        made.outlet.put(event(3))
        await made.until(lambda: made.outlet.written == 4)
        assert made.place.events == ["0", "1", "2", "3"]
        assert made.outlet.failing is None
        assert made.log[1:] == [("audit trail goes on", {"to": "file", "dropped": 0})]


async def test_a_place_that_comes_and_goes_does_not_fill_the_log():
    async with bench() as made:
        for number in range(20):
            made.place.fails = OSError(errno.EPIPE, "Broken pipe")
            calls = made.place.calls
            made.outlet.put(event(number))
            await made.until(lambda calls=calls: made.place.calls > calls)
            made.place.fails = None
            await made.until(lambda number=number: made.outlet.written == number + 1)
        assert made.clock.seconds() < trail.QUIET
        assert len(made.log) == 2


async def test_a_failing_place_is_asked_more_and_more_rarely():
    async with bench() as made:
        made.place.fails = OSError(errno.ENOSPC, "No space left on device")
        made.outlet.put(event(1))
        began = made.clock.seconds()
        await made.until(lambda: made.clock.seconds() - began > 120, step=0.25)
        assert made.place.calls < 13


async def test_a_place_that_can_not_be_reached_is_told_at_the_start():
    made = Bench()
    made.place.fails = OSError(errno.EACCES, "Permission denied")
    await made.until(lambda: made.log)
    assert made.log[0] == ("audit trail interrupted", {"to": "file", "reason": "Permission denied", "waiting": 0})
    await ended(made.outlet.close(0.0), made.clock)


@pytest.mark.parametrize("bad", ["poison", "huge"])
async def test_an_event_that_is_never_taken_holds_up_no_other(bad):
    async with bench() as made:
        for client in (1, 2, bad, 3):
            made.outlet.put(event(client))
        await made.until(lambda: len(made.place.events) == 3)
        assert made.place.events == ["1", "2", "3"]
        assert made.outlet.dropped == 1
        assert [what for what, _ in made.log] == ["audit event left out"]
        assert bad not in str(made.log)


async def test_the_end_waits_for_what_waits_but_not_for_ever():
    made = Bench()
    for number in range(10):
        made.outlet.put(event(number))
    closing = asyncio.ensure_future(made.outlet.close(2.0))
    await made.until(closing.done)
    assert made.place.events == [str(number) for number in range(10)]
    await made.until(lambda: made.place.closed)
    made = Bench()
    made.place.gate.clear()
    made.outlet.put(event(1))
    closing = asyncio.ensure_future(made.outlet.close(2.0))
    await made.until(closing.done)
    assert made.clock.seconds() < 3
    assert made.outlet.dropped == 1
    assert made.log == [("audit events lost at the end", {"to": "file", "events": 1})]
    made.place.gate.set()


class TestTrail:
    def test_without_places_an_event_goes_to_the_log_and_no_further(self):
        assert Trail({}, logs=True, most=1, clock=None, says=None).record is log.record
        Trail({}, logs=False, most=1, clock=None, says=None).record(event(1))

    async def test_every_place_has_every_event(self, monkeypatch):
        logged, clock, says = [], Clock(), Log()
        monkeypatch.setattr(log, "record", logged.append)
        places = {"file": Somewhere(), "syslog": Somewhere()}
        made = Trail(places, logs=True, most=100, clock=clock, says=says)
        places["syslog"].fails = OSError(errno.ECONNREFUSED, "Connection refused")
        for number in range(3):
            made.record(event(number))
        for _ in range(1000):
            clock.advance(0.05)
            await asyncio.sleep(0.001)
            if made.written["file"] == 3 and made.failing:
                break
        assert [one.client for one in logged] == ["0", "1", "2"] == places["file"].events
        assert made.written == {"file": 3, "syslog": 0}
        assert made.failing == {"syslog": "Connection refused"}
        await ended(made.close(0.0), clock)
        assert made.dropped == {"file": 0, "syslog": 3}

    async def test_the_places_that_the_configuration_names(self, tmp_path):
        settings = Audit(
            to=("file", "journald", "syslog"), file=tmp_path / "a", file_group_reads=True, syslog="udp://127.0.0.1",
            journald_socket=str(tmp_path / "s"),
        )  # fmt: skip
        clock = Clock()
        made = trail_of(settings, clock=clock, says=Log())
        kinds = {outlet.name: type(outlet._place) for outlet in made.outlets}
        assert kinds == {"file": JsonLines, "journald": Journald, "syslog": Syslog}
        assert made.outlets[0]._place._mode == 0o640
        assert made.record is not log.record
        await ended(made.close(0.0), clock)
        assert trail_of(Audit(), clock=Clock(), says=Log()).record is log.record


class TestChanges:
    async def test_what_the_command_line_changes_is_told_by_one_of_those_that_run(self, house: World):
        await house.open()
        other = await house.worker()
        told = []
        clock = Clock()
        tasks = [asyncio.ensure_future(tell_changes(one.store, told.append, clock)) for one in (house, other)]

        async def passes():
            for _ in range(20):
                clock.advance(trail.LOOK)
                await asyncio.sleep(0.01)

        try:
            await passes()
            assert told == []  # nobody wants to hear what happened before
            change = AccountChanged(at=house.now, action="unlocked", account=key(house), actor="ann")
            await house.store.unlock(key(house), change)
            await passes()
            assert told == []  # another one may come before it
            house.advance(4)
            other.now = house.now
            await passes()
            assert told == [change]
        finally:
            for task in tasks:
                task.cancel()

    async def test_a_store_that_is_away_is_waited_for(self, house: World):
        await house.open()
        await house.store.take_changes()
        change = AccountChanged(at=house.now, action="unlocked", account=key(house), actor="ann")
        await house.store.unlock(key(house), change)
        house.advance(4)
        told, clock = [], Clock()
        take, down = house.store.take_changes, iter([True, True])

        async def away():
            if next(down, False):
                raise StoreDown("away")
            return await take()

        house.store.take_changes = away
        task = asyncio.ensure_future(tell_changes(house.store, told.append, clock))
        for _ in range(30):
            clock.advance(trail.LOOK)
            await asyncio.sleep(0.01)
        task.cancel()
        assert told == [change]


def key(house):
    return f"default/uuid:{house.directory.uuids[ALICE]}"
