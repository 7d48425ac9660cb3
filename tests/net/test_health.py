"""Servers that are looked after aside from the logins, by a clock that a test moves."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock

from ldapmfa.errors import DirectoryDown
from ldapmfa.net.health import Health, Unable
from ldapmfa.net.link import Server
from ldapmfa.net.servers import Place, Servers

ONE, TWO, THREE = (Server(f"dc{number}.test", 389, ldaps=False) for number in (1, 2, 3))


class Looked:
    """Two servers that are as a test says; each check is noted."""

    def __init__(self, *servers, seconds=10):
        self.clock = Clock()
        self.fails = {}
        self.synchronised = True
        self.checks = []
        self.gate = None
        self.tasks = set()
        self.servers = Servers([Place(server, at) for at, server in enumerate(servers or (ONE, TWO))], clock=self.clock.seconds, chance=lambda: 0.5)
        self.health = Health(self.servers, self.check, clock=self.clock, seconds=seconds, chance=lambda: 0.5, keep=self.keep)

    def keep(self, work):
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        return task

    async def check(self, server):
        self.checks.append((round(self.clock.seconds(), 3), server))
        if self.gate:
            await self.gate
        if failure := self.fails.get(server):
            raise failure
        return self.synchronised

    async def advance(self, seconds, step=0.5):
        until = self.clock.seconds() + seconds
        await turn()
        while self.clock.seconds() < until:
            self.clock.advance(step)
            await turn()

    def times(self, server):
        return [at for at, who in self.checks if who == server]

    @property
    def conditions(self):
        return [state.condition for state in self.servers.states()]


async def turn():
    for _ in range(4):
        await asyncio.sleep(0)


async def test_every_server_is_looked_at_at_an_interval():
    looked = Looked()
    looked.health.begin()
    await looked.advance(25)
    assert looked.times(ONE) == looked.times(TWO) == [0, 10, 20]
    assert looked.conditions == ["up", "up"]
    looked.health.end()
    await looked.advance(50)
    assert len(looked.checks) == 6
    assert not looked.clock.getDelayedCalls()


async def test_who_is_down_is_looked_at_sooner_and_comes_back_by_a_check():
    looked = Looked()
    looked.fails[ONE] = DirectoryDown("refused")
    looked.health.begin()
    await looked.advance(20)
    assert looked.times(ONE) == [0, 1, 3, 7, 15]
    assert looked.conditions == ["down", "up"]
    assert looked.servers.states()[0].reason == "refused"
    del looked.fails[ONE]
    await looked.advance(6)
    assert looked.conditions == ["up", "up"]
    looked.fails[ONE] = DirectoryDown("refused")
    await looked.advance(11)
    assert looked.times(ONE)[-2:] == [35, 36], "the pause between grows from the beginning again"
    looked.health.end()


async def test_doubt_is_looked_into_at_once_and_not_more_than_once_a_second():
    looked = Looked()
    looked.health.begin()
    await looked.advance(5)
    looked.fails[ONE] = DirectoryDown("hung")
    looked.health.hurry(ONE)
    await looked.advance(0.5)
    assert looked.times(ONE) == [0, 5.5]
    assert looked.conditions == ["down", "up"]
    del looked.fails[ONE]
    for _ in range(40):
        looked.health.hurry(ONE)
        looked.health.hurry(THREE)
        await looked.advance(0.1, step=0.1)
    times = looked.times(ONE)
    assert 5 <= len(times) <= 7
    assert all(later - earlier >= 1 for earlier, later in pairwise(times))
    looked.health.end()


async def test_a_check_that_takes_long_is_not_doubled():
    looked = Looked()
    looked.health.begin()
    await turn()
    looked.gate = asyncio.get_running_loop().create_future()
    await looked.advance(11)
    assert looked.times(ONE) == [0, 10]
    for _ in range(5):
        looked.health.hurry(ONE)
        await looked.advance(5)
    assert looked.times(ONE) == [0, 10]
    looked.gate.set_result(None)
    looked.gate = None
    await looked.advance(11)
    assert len(looked.times(ONE)) == 3
    looked.health.end()


async def test_want_of_descriptors_of_our_own_says_nothing_of_a_server():
    looked = Looked()
    looked.health.begin()
    await looked.advance(1)
    looked.fails = {ONE: Unable("too many open files"), TWO: Unable("too many open files")}
    await looked.advance(15)
    assert looked.conditions == ["up", "up"]
    assert looked.times(ONE) == [0, 10]
    looked.health.end()


async def test_who_is_not_synchronised_is_told_from_who_is():
    looked = Looked(ONE)
    looked.synchronised = False
    looked.health.begin()
    await looked.advance(1)
    assert looked.conditions == ["unsynchronised"]
    looked.synchronised = True
    await looked.advance(10)
    assert looked.conditions == ["up"]
    looked.health.end()


async def test_a_list_that_changes_is_followed():
    looked = Looked(ONE, TWO)
    looked.health.begin()
    await looked.advance(5)
    looked.servers.replace([Place(TWO), Place(THREE)])
    looked.health.begin()
    await looked.advance(20)
    assert looked.times(ONE) == [0]
    assert looked.times(THREE) == [5, 15, 25]
    assert looked.times(TWO) == [0, 10, 20]
    looked.gate = asyncio.get_running_loop().create_future()
    await looked.advance(10)
    looked.servers.replace([Place(THREE)])  # while TWO is being checked
    looked.health.begin()
    looked.gate.set_result(None)
    looked.gate = None
    checks = len(looked.times(TWO))
    await looked.advance(30)
    assert len(looked.times(TWO)) == checks
    looked.health.end()


async def test_a_bug_in_a_check_ends_no_looking():
    looked = Looked(ONE)
    looked.fails[ONE] = ZeroDivisionError("bug")
    looked.health.begin()
    await looked.advance(11)
    assert looked.times(ONE) == [0, 10]
    looked.health.end()
    for task in looked.tasks:
        with pytest.raises(ZeroDivisionError):
            await task


@given(st.lists(st.tuples(st.sampled_from([ONE, TWO]), st.sampled_from(["refused", "well", "hurry", "login found it down"]), st.integers(0, 8)), max_size=12))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_happens_every_server_is_looked_at_again(happenings):
    async def play():
        looked = Looked(ONE, TWO)
        looked.health.begin()
        for server, what, seconds in happenings:
            if what == "refused":
                looked.fails[server] = DirectoryDown("refused")
            elif what == "well":
                looked.fails.pop(server, None)
            else:
                if what != "hurry":
                    looked.servers.down(server, "refused")
                looked.health.hurry(server)
            await looked.advance(seconds)
        looked.fails = {}
        await looked.advance(11.5)
        assert looked.conditions == ["up", "up"]
        for server in (ONE, TWO):
            times = looked.times(server)
            assert all(later - earlier >= 1 for earlier, later in pairwise(times))
        looked.health.end()

    with ThreadPoolExecutor(1) as pool:  # the reactor's loop runs in this thread
        pool.submit(asyncio.run, play()).result()
