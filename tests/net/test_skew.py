"""This machine's clock beside others', and a clock that somebody sets."""

import asyncio

import pytest
from twisted.internet.task import Clock
from world import World, entry, result

from ldapmfa.errors import DirectoryDown, StoreDown
from ldapmfa.net import skew
from ldapmfa.net.skew import Clocks, clocks_of, generalized_time
from ldapmfa.wire import ldap

NOW = 1_700_000_000.0


class Log(list):
    def error(self, what, **said):
        self.append((what, said))

    warning = error


class Watched:
    """A clock on the wall, a steady one, and others that are so far ahead; None: they do not say, an error: they fail."""

    def __init__(self, limit=5.0, **ahead):
        self.ahead, self.wall, self.clock, self.log = ahead, NOW, Clock(), Log()
        self.resolution, self.takes, self.set_back, self.fails = 0.0, 0.0, 0, False
        others = {name: lambda watch, name=name: self._ask(name, watch) for name in ahead}
        self.clocks = Clocks(
            others, limit=limit, clock=self.clock, now=lambda: self.wall, says=self.log, stepped=self._stepped
        )

    async def _ask(self, name, watch):
        async def answer():
            said = self.ahead[name]
            if isinstance(said, Exception):
                raise said
            self.wall += self.takes
            self.clock.advance(self.takes)
            return None if said is None else (self.wall + said - self.takes / 2, self.resolution)

        return await watch.time(answer())

    async def _stepped(self):
        self.set_back += 1
        if self.fails:
            raise StoreDown("away")

    async def passes(self, seconds=skew.COMPARE, step=1.0):
        for _ in range(int(seconds / step)):
            self.wall += step
            self.clock.advance(step)
            for _ in range(3):
                await asyncio.sleep(0)


@pytest.fixture
def watch():
    tasks = []

    def watch(**settings):
        made = Watched(**settings)
        tasks.append(asyncio.ensure_future(made.clocks.watch()))
        return made

    yield watch
    for task in tasks:
        task.cancel()


async def test_clocks_that_agree_are_known_and_nothing_is_said(watch):
    made = watch(database=0.4, **{"directory/default": -3.0})
    await made.passes(20)
    assert made.clocks.offsets == {"database": 0.4, "directory/default": -3.0}
    assert (made.log, made.clocks.alarmed) == ([], set())


async def test_a_clock_that_differs_is_told_once_and_so_is_its_coming_back(watch):
    made = watch(database=-7.25, **{"directory/default": 0.0})
    await made.passes(300)
    told = {"of": "database", "ahead": -7.25, "give_or_take": 0.0}
    assert made.log == [("clock differs", {"limit": 5.0, **told})]
    assert made.clocks.alarmed == {"database"}
    made.ahead["database"] = 1.0
    await made.passes(120)
    assert made.log[1:] == [("clock agrees again", {"of": "database", "ahead": 1.0, "give_or_take": 0.0})]
    assert made.clocks.alarmed == set()


async def test_a_slow_answer_is_no_clock_that_differs(watch):
    made = watch(database=8.0)
    made.takes = 10.0
    await made.passes(200)
    assert made.log == []


@pytest.mark.parametrize("why", [DirectoryDown("x"), StoreDown("x"), None])
async def test_what_can_not_be_asked_is_not_known(watch, why):
    made = watch(database=1.0, other=2.0)
    await made.passes(20)
    made.ahead["database"] = why
    await made.passes(70)
    assert made.clocks.offsets == {"other": 2.0}
    assert made.log == []


@pytest.mark.parametrize("by", [3600.0, -3600.0, 6.0])
async def test_a_clock_that_is_set_is_told_at_once_and_once(watch, by):
    made = watch()
    await made.passes(30)
    assert made.set_back == 1  # at the start: it may have been set while nobody looked
    made.wall += by
    await made.passes(skew.LOOK + 1)
    assert made.log == [("clock set", {"seconds": by})]
    assert made.clocks.steps == 1
    assert made.set_back == 1 + (by < 0)
    await made.passes(60)
    assert len(made.log) == 1


async def test_a_store_that_is_away_ends_no_watch(watch):
    made = watch(database=1.0)
    made.fails = True
    await made.passes(30)
    made.wall -= 3600
    await made.passes(60)
    assert (made.set_back, made.clocks.offsets) == (2, {"database": 1.0})


#: What a rootDSE says of its kind.
KINDS = {
    "ad": {"supportedCapabilities": [b"1.2.840.113556.1.4.800"]},
    "openldap": {"objectClass": [b"OpenLDAProotDSE"], "supportedExtension": [ldap.OID_WHO_AM_I]},
}


class TestOfADirectory:
    """As a domain controller says it, and nobody else is asked twice."""

    @staticmethod
    async def measured(house, kind, time=None, rounds=2):
        house.settings = house.directory.settings
        log = Log()
        served = house.directory
        served._capabilities.clear()
        answers = []

        def reply(link, frame):
            if frame.tag == ldap.SEARCH_REQUEST and b"currentTime" in frame.raw:
                answers.append(frame)
                told = {"currentTime": [time]} if time else {}
                return [entry(frame.id, "", **told), result(frame.id, ldap.SEARCH_REQUEST)]
            if frame.tag == ldap.SEARCH_REQUEST:
                return [entry(frame.id, "", **KINDS[kind]), result(frame.id, ldap.SEARCH_REQUEST)]
            return []

        served.reply = reply
        clocks = clocks_of(
            house.store, {"default": served}, limit=5.0, clock=house.clock, now=lambda: house.now, says=log
        )
        for _ in range(rounds):
            asked = asyncio.ensure_future(clocks._compare("directory/default", clocks._others["directory/default"]))
            await house.until(asked.done)
            await asked
        return clocks, log, answers

    async def test_active_directory_says_what_time_it_is(self, house: World):
        await house.open()
        house.now = NOW + 0.5
        clocks, log, answers = await self.measured(house, "ad", b"20231114221300.0Z")
        assert clocks.offsets == {"directory/default": -20.0}
        assert len(answers) == 2
        assert log == [("clock differs", {"limit": 5.0, "of": "directory/default", "ahead": -20.0, "give_or_take": 0.5})]
        assert house.links_open == 0

    async def test_openldap_does_not_and_is_asked_once(self, house: World):
        await house.open()
        clocks, log, answers = await self.measured(house, "openldap", rounds=3)
        assert (clocks.offsets, log, answers) == ({}, [], [])
        assert len(house.directory.served) == 1
        assert house.links_open == 0

    @pytest.mark.parametrize("time", [None, b"yesterday"])
    async def test_what_is_no_time_is_none(self, house: World, time):
        await house.open()
        clocks, log, _ = await self.measured(house, "ad", time)
        assert (clocks.offsets, log) == ({}, [])


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (b"20231114221320Z", 0.0),
        (b"20231114221320.0Z", 0.0),
        (b"20231114221320,25Z", 0.25),
        (b"20231114231320+0100", 0.0),
        (b"20231114164320-0530", 0.0),
        (b"202311142213Z", -20.0),
        (b"2023111422.5Z", -800.0 + 1800.0),
        (b"20231114221360Z", 40.0),
    ],
)
def test_rfc4517_section_3_3_13_a_generalized_time(text, seconds):
    assert generalized_time(text) == pytest.approx(NOW + seconds)


@pytest.mark.parametrize("text", [b"", b"20231114221320", b"20231314221320Z", b"2023-11-14T22:13:20Z", b"20231114221320Z\n", b"2023111422Q", b"99991231235959-9959", b"00010101000000+9959", b"00010101000000Z" + b"\n"])
def test_what_is_no_generalized_time(text):
    assert generalized_time(text) is None
