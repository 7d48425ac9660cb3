"""A service that fails is left alone, is tried again aside, and costs nobody time meanwhile."""

import asyncio

import pytest
from twisted.internet.task import Clock

from ldapmfa.config import ServiceTable
from ldapmfa.core.identity import Identity
from ldapmfa.core.secret import Secret
from ldapmfa.errors import FactorDown, FactorResting, FactorUnreachable
from ldapmfa.factors.breaker import REST, Guarded
from ldapmfa.factors.service import Allowed, Denied, Prompt, Waiting
from ldapmfa.net.waiting import within

PROMPT = Prompt(Identity("default", "uuid:1", "cn=alice", ("alice",)), "alice", "app")
GARBAGE, GONE = FactorDown("garbage"), FactorUnreachable("connection refused")


class Scripted:
    """Does what `does` and `healthy` say, and counts."""

    def __init__(self):
        self.does = Allowed("push")
        self.healthy = "well"
        self.started = self.probed = 0
        self.gate = None

    async def start(self, _prompt):
        self.started += 1
        does = self.does
        if self.gate:
            await self.gate
        return said(does)

    async def verify(self, _prompt, _code, _sent):
        return said(self.does)

    async def wait(self, _prompt, _waiting):
        return said(self.does)

    async def cancel(self, _prompt, _waiting):
        pass

    async def health(self):
        self.probed += 1
        return said(self.healthy)


def said(what):
    if isinstance(what, BaseException):
        raise what
    return what


class Bench:
    """A guarded service and its clock."""

    def __init__(self, **table):
        self.clock, self.service, self.told, self.tasks = Clock(), Scripted(), [], set()
        table = ServiceTable(kind="scripted", **{"failures": 3, "probe_seconds": 5, **table})
        self.guarded = Guarded(
            "push", self.service, table, clock=self.clock.seconds, sleep=self.sleep, keep=self.keep, says=self.says
        )

    async def sleep(self, seconds):
        await within(self.clock, seconds, asyncio.get_running_loop().create_future())

    def keep(self, coroutine):
        task = asyncio.ensure_future(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def says(self, name, state, why):
        self.told.append((name, state, why))

    async def start(self):
        """The answer, or the exception."""
        try:
            return await self.guarded.start(PROMPT)
        except Exception as broken:  # noqa: BLE001 - it is what the test looks at
            return broken

    async def fails(self, error, times=1):
        self.service.does = error
        for _ in range(times):
            assert await self.start() is error

    async def after(self, seconds=0.0):
        self.clock.advance(seconds)
        for _ in range(20):
            await asyncio.sleep(0)

    async def close(self):
        for task in tuple(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@pytest.mark.parametrize("error", [GARBAGE, GONE])
async def test_A24_after_so_many_failures_in_a_row_nobody_waits_for_it(error):
    bench = Bench()
    bench.service.healthy = error
    await bench.fails(error, 3)
    assert bench.told == [("push", "open", str(error))]
    await bench.after()
    for _ in range(100):
        assert isinstance(await bench.start(), FactorDown)
    assert bench.service.started == 3
    assert bench.clock.seconds() == 0
    assert bench.told == [("push", "open", str(error))]
    await bench.close()


async def test_failures_count_in_a_row_and_a_no_is_none():
    bench = Bench()
    for answer in (Allowed("push"), Denied("denied"), Denied("throttled"), Waiting(1)):
        await bench.fails(GARBAGE, 2)
        bench.service.does = answer
        assert await bench.start() == answer
    assert bench.guarded.state == "closed"
    assert bench.told == []


async def test_a_bug_of_a_plug_in_is_no_outage_and_opens_no_breaker():
    bench = Bench()
    await bench.fails(ValueError("bug"), 9)
    assert bench.guarded.state == "closed"
    assert not await bench.guarded.may_open()


async def test_codes_and_prompts_fail_together_and_waits_do_not():
    bench = Bench()
    bench.service.healthy = GARBAGE
    bench.service.does = GARBAGE
    for _ in range(5):
        with pytest.raises(FactorDown):
            await bench.guarded.wait(PROMPT, Waiting(1))
    assert bench.guarded.state == "closed"
    await bench.fails(GARBAGE, 1)
    for _ in range(2):
        with pytest.raises(FactorDown):
            await bench.guarded.verify(PROMPT, Secret(b"1"), None)
    assert bench.guarded.state == "open"
    await bench.after()
    with pytest.raises(FactorResting):
        await bench.guarded.verify(PROMPT, Secret(b"1"), None)
    bench.service.does = Allowed("push")
    assert await bench.guarded.wait(PROMPT, Waiting(1)) == Allowed("push"), "whoever is asked already may answer"
    await bench.close()


async def test_it_heals_by_itself_and_one_login_tries_it_first():
    bench = Bench()
    bench.service.healthy = GONE
    await bench.fails(GONE, 3)
    await bench.after()
    probed = bench.service.probed
    for _ in range(4):
        await bench.after(5)
    assert bench.service.probed == probed + 4, "as often as the table says"
    bench.service.healthy, bench.service.does = "well", Allowed("push")
    await bench.after(5)
    bench.service.gate = asyncio.get_running_loop().create_future()
    first = asyncio.ensure_future(bench.start())
    await bench.after()
    assert all([isinstance(await bench.start(), FactorResting) for _ in range(9)])
    assert bench.service.started == 4
    bench.service.gate.set_result(None)
    assert await first == Allowed("push")
    assert bench.told[-1][:2] == ("push", "closed")
    assert await bench.start() == Allowed("push")
    assert not bench.tasks, "no probe is left"


async def test_a_trial_that_fails_opens_it_again_and_one_that_is_given_up_is_none():
    bench = Bench()
    await bench.fails(GARBAGE, 3)
    await bench.after()
    assert bench.guarded.state == "trial"
    bench.service.gate = asyncio.get_running_loop().create_future()
    trial = asyncio.ensure_future(bench.guarded.start(PROMPT))
    await bench.after()
    trial.cancel()
    await asyncio.gather(trial, return_exceptions=True)
    bench.service.gate = None
    await bench.fails(GARBAGE)
    assert bench.guarded.state == "open"
    assert [state for _name, state, _why in bench.told] == ["open", "open"]
    await bench.close()


async def test_a_service_that_is_well_but_for_logins_is_tried_by_one_login_in_a_while():
    """Else each of its users would wait for it in turn."""
    bench = Bench()
    await bench.fails(GARBAGE, 3)
    await bench.after()
    await bench.fails(GARBAGE)
    await bench.after()
    for _ in range(9):
        assert isinstance(await bench.start(), FactorResting)
        await bench.after()
    assert bench.service.started == 4
    await bench.after(5)
    await bench.fails(GARBAGE)
    await bench.close()


@pytest.mark.parametrize(("asked_for", "rests"), [(30.0, 30.0), (86_400.0, REST)])
async def test_A24_a_service_that_asks_to_be_left_alone_is(asked_for, rests):
    bench = Bench()
    await bench.fails(FactorDown("429", retry_after=asked_for))
    await bench.after()
    await bench.after(rests - 0.1)
    assert bench.service.probed == 0
    assert isinstance(await bench.start(), FactorResting)
    bench.service.healthy = FactorDown("429", retry_after=asked_for)
    await bench.after(0.2)
    assert bench.service.probed == 1
    bench.service.healthy = "well"
    await bench.after(rests - 0.2)
    assert bench.service.probed == 1, "its health says so too"
    await bench.after(0.3)
    assert bench.guarded.state == "trial"


async def test_A24_an_open_breaker_is_an_outage_while_its_probe_finds_one():
    bench = Bench()
    await bench.fails(GONE, 3)
    assert isinstance(await bench.start(), FactorResting), "nobody has looked yet"
    bench.service.healthy = GONE
    await bench.after()
    await bench.fails(GONE, 0)
    for healthy, kind in ((GARBAGE, FactorResting), (GONE, FactorUnreachable), (ValueError("bug"), FactorResting)):
        bench.service.healthy = healthy
        await bench.after(5)
        assert type(await bench.start()) is kind
    await bench.close()


@pytest.mark.parametrize("how", ["connection refused", "it hangs first"])
async def test_A24_an_outage_opens_for_so_many_minutes_from_when_it_was_found(how):
    bench = Bench(fail_open_minutes=1)
    assert not await bench.guarded.may_open()
    bench.service.healthy = GONE
    if how == "it hangs first":
        await bench.fails(GARBAGE, 3)
        assert not await bench.guarded.may_open()
        await bench.after()
    else:
        await bench.fails(GONE, 3)
        await bench.after()
    assert await bench.guarded.may_open()
    for _ in range(12):
        assert await bench.guarded.may_open()
        await bench.after(5)
    assert await bench.guarded.may_open()
    await bench.after(0.1)
    assert not await bench.guarded.may_open()
    bench.service.healthy = "well"
    await bench.after(5)
    assert not await bench.guarded.may_open(), "until a login works"
    await bench.fails(GONE)
    assert not await bench.guarded.may_open()
    await bench.after()
    await bench.after(5)
    bench.service.does = Allowed("push")
    assert await bench.start() == Allowed("push")
    await bench.fails(GONE)
    assert not await bench.guarded.may_open(), "one request found nobody, and the service is well"
    bench.service.healthy = GARBAGE
    assert not await bench.guarded.may_open()
    bench.service.healthy = GONE
    assert await bench.guarded.may_open(), "another outage"
    await bench.close()


async def test_those_under_way_when_it_opens_do_not_open_it_twice():
    bench = Bench()
    bench.service.healthy = GONE
    bench.service.does, bench.service.gate = GONE, asyncio.get_running_loop().create_future()
    many = [asyncio.ensure_future(bench.start()) for _ in range(9)]
    await bench.after()
    bench.service.gate.set_result(None)
    await asyncio.gather(*many)
    await bench.after()
    assert len(bench.told) == 1
    assert len(bench.tasks) == 1, "one probe"
    await bench.close()


async def test_A24_an_outage_that_is_over_confirms_no_later_one():
    """What was found once must not let anybody in when one request finds nobody, for a moment, weeks later."""
    bench = Bench()
    bench.service.healthy = GONE
    await bench.fails(GONE)
    assert await bench.guarded.may_open()
    bench.service.healthy = "well"
    bench.service.does = Allowed("push")
    assert await bench.start() == Allowed("push")
    await bench.fails(GONE)
    assert not await bench.guarded.may_open()
    await bench.close()
