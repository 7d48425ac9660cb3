"""The timers of our reactor, on a loop whose clock moves only when a test moves it; connections: tests/system."""

import pytest
from twisted.internet.error import AlreadyCalled, AlreadyCancelled
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import globalLogPublisher
from zope.interface.verify import verifyObject

from ldapmfa.net.reactor import Timer


class Handle:
    def __init__(self, at, act):
        self.at, self.act, self.cancelled = at, act, False

    def cancel(self):
        self.cancelled = True


class Loop:
    """What a Timer needs of an event loop. `early`: by how much it calls too early, as uvloop's does: by a millisecond."""

    def __init__(self, early=0.0):
        self.now, self.early, self.handles = 100.0, early, []

    def time(self):
        return self.now

    def call_later(self, seconds, act):
        handle = Handle(self.now + max(0.0, seconds - self.early), act)
        self.handles.append(handle)
        return handle

    def advance(self, seconds):
        """As loops do it: what is due is called, in order, at its time."""
        stop = self.now + seconds
        while due := [handle for handle in self.waiting if handle.at <= stop]:
            handle = min(due, key=lambda handle: handle.at)
            self.handles.remove(handle)
            self.now = max(self.now, handle.at)
            handle.act()
            if self.early:
                return  # or it would be asked, and call too early, for ever: time has to pass in between
        self.now = max(self.now, stop)

    @property
    def waiting(self):
        return [handle for handle in self.handles if not handle.cancelled]


class Timed:
    def __init__(self, seconds=10.0, **options):
        self.loop = Loop(**options)
        self.calls = []
        self.timer = Timer(self.loop, seconds, lambda: self.calls.append(self.loop.now))


def test_a_timer_is_a_delayed_call():
    verifyObject(IDelayedCall, Timed().timer)


def test_it_calls_once_and_not_early():
    timed = Timed()
    assert timed.timer.active()
    assert timed.timer.getTime() == 110.0
    timed.loop.advance(9.999)
    assert timed.calls == []
    assert timed.timer.active()
    timed.loop.advance(0.001)
    assert len(timed.calls) == 1
    assert not timed.timer.active()
    timed.loop.advance(1000)
    assert len(timed.calls) == 1
    assert not timed.loop.waiting


@pytest.mark.parametrize("early", [0.0004, 0.001, 0.02])
def test_a_loop_that_calls_too_early_does_not_make_it_early(early):
    timed = Timed(early=early)
    timed.loop.advance(10 - early)
    assert timed.loop.now == pytest.approx(110 - early)
    assert timed.calls == []
    assert timed.timer.active()
    for _ in range(100):
        timed.loop.now += early / 10
        timed.loop.advance(0)
    assert len(timed.calls) == 1
    assert timed.calls[0] >= 110.0


def test_what_is_cancelled_does_not_happen():
    timed = Timed()
    timed.timer.cancel()
    assert not timed.timer.active()
    assert not timed.loop.waiting
    timed.loop.advance(1000)
    assert timed.calls == []
    for again in (timed.timer.cancel, lambda: timed.timer.reset(1), lambda: timed.timer.delay(1)):
        with pytest.raises(AlreadyCancelled):
            again()


def test_what_has_happened_can_not_be_cancelled():
    timed = Timed()
    timed.loop.advance(10)
    for late in (timed.timer.cancel, lambda: timed.timer.reset(1), lambda: timed.timer.delay(1)):
        with pytest.raises(AlreadyCalled):
            late()
    assert not timed.loop.waiting


@pytest.mark.parametrize("seconds", [0.0, 1.0, 9.0, 20.0])
@pytest.mark.parametrize("after", [0.0, 5.0, 9.9])
def test_reset_counts_from_now(seconds, after):
    timed = Timed()
    timed.loop.advance(after)
    timed.timer.reset(seconds)
    due = 100.0 + after + seconds
    assert timed.timer.getTime() == pytest.approx(due)
    timed.loop.advance(max(0.0, due - timed.loop.now - 0.01))
    assert timed.calls == ([] if seconds else timed.calls)
    timed.loop.advance(0.02)
    assert timed.calls == [pytest.approx(due)]
    timed.loop.advance(1000)
    assert len(timed.calls) == 1
    assert not timed.loop.waiting


@pytest.mark.parametrize("seconds", [0.0, 7.0, -7.0])
def test_delay_counts_from_when_it_was_due(seconds):
    timed = Timed()
    timed.loop.advance(2)
    timed.timer.delay(seconds)
    assert timed.timer.getTime() == 110.0 + seconds
    timed.loop.advance(7.9 + seconds)
    assert timed.calls == []
    timed.loop.advance(0.1)
    assert timed.calls == [pytest.approx(110.0 + seconds)]


def test_put_off_and_brought_forward_again_and_again():
    timed = Timed()
    for seconds in (50.0, 5.0, 70.0, 3.0, 30.0, 4.0):
        timed.timer.reset(seconds)
    assert len(timed.loop.waiting) == 1
    timed.loop.advance(3.99)
    assert timed.calls == []
    timed.loop.advance(0.02)
    assert timed.calls == [pytest.approx(104.0)]
    assert not timed.loop.waiting


def test_put_off_by_each_request_it_costs_one_handle():
    timed = Timed()
    for _ in range(1000):
        timed.loop.advance(1)
        timed.timer.reset(10)
    assert timed.calls == []
    assert len(timed.loop.waiting) == 1
    timed.timer.cancel()
    assert not timed.loop.waiting
    timed.loop.advance(100)
    assert timed.calls == []


def test_it_may_be_cancelled_or_asked_for_again_from_within():
    loop, calls = Loop(), []

    def act():
        calls.append(loop.now)
        with pytest.raises(AlreadyCalled):
            timer.cancel()
        assert not timer.active()
        if len(calls) == 1:
            Timer(loop, 5.0, act)

    timer = Timer(loop, 5.0, act)
    loop.advance(20)
    assert calls == [105.0, 110.0]


def test_what_it_raises_is_reported_and_the_loop_goes_on():
    loop, reported, calls = Loop(), [], []
    Timer(loop, 1.0, lambda: 1 / 0)
    Timer(loop, 1.0, lambda: calls.append(1))
    observer = reported.append
    globalLogPublisher.addObserver(observer)
    try:
        loop.advance(2)
    finally:
        globalLogPublisher.removeObserver(observer)
    assert calls == [1]
    (event,) = [event for event in reported if event.get("log_failure")]
    assert event["log_failure"].check(ZeroDivisionError)


def test_what_was_cancelled_or_has_happened_holds_nothing():
    """A timer is often the last to know a client."""
    import weakref

    class Client:
        def leave(self):
            pass

    for how in ("cancel", "happen"):
        loop, client = Loop(), Client()
        timer, gone = Timer(loop, 1.0, client.leave), weakref.ref(client)
        timer.cancel() if how == "cancel" else loop.advance(2)
        del client
        assert gone() is None, how
        assert not timer.active()
