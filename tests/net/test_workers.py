"""The parent of several workers: whatever keeps one from starting, the others go on and it is tried again."""

import asyncio
from types import SimpleNamespace

import pytest
import structlog
from twisted.internet.defer import Deferred

from ldapmfa.errors import LdapMfaError
from ldapmfa.net import workers
from ldapmfa.net.metrics.memory import Memory
from ldapmfa.net.order import Order
from ldapmfa.net.systemd import Supervisor
from ldapmfa.net.turns import Counts

ORDER = Order("ldapmfa.toml", "password = 'hunter2'", [3], 4)


class Ended:
    """A worker that ends as soon as it has begun."""

    async def wait(self):
        return 1


class Alive:
    async def wait(self):
        await asyncio.Event().wait()


class Talker:
    """A worker whose output is `line`."""

    def __init__(self, line):
        self.stdout = asyncio.StreamReader()
        self.stdout.feed_data(line)
        self.killed = False

    def kill(self):
        self.killed = True


@pytest.fixture
def parent(monkeypatch):
    monkeypatch.setattr(workers, "_DELAY", (0.0, 0.0))
    parent = workers.Workers.__new__(workers.Workers)
    parent._counts, parent._processes, parent._log = Counts.of(1), {}, structlog.get_logger()
    parent._lines, parent._unanswered, parent._replies, parent._starting = {}, {}, {}, 0
    parent._may_start = asyncio.Event()
    parent._may_start.set()
    parent._order = ORDER
    parent._memories = [Memory.shared()]
    parent._config = SimpleNamespace(listen=(), service=SimpleNamespace(workers=1))
    parent.started, parent.supervisor = Deferred(), Supervisor()
    yield parent
    for number in tuple(parent._lines):
        parent._gone(number)


def spawning(monkeypatch, *outcomes):
    """`_spawn` gives or raises these in turn; each worker says that it listens."""
    left = list(outcomes)

    async def spawn(_number, _order):
        outcome = left.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def heard(_process):
        return None

    monkeypatch.setattr(workers, "_spawn", spawn)
    monkeypatch.setattr(workers, "_heard_from", heard)
    return left


async def test_a_worker_that_can_not_be_started_is_tried_again(parent, monkeypatch):
    left = spawning(monkeypatch, Ended(), BlockingIOError(11, "no process left"), BlockingIOError(11, "none"), Alive())
    listening = asyncio.get_running_loop().create_future()
    task = asyncio.ensure_future(parent._keep_up(1, listening))
    for _ in range(100):
        await asyncio.sleep(0)
    assert listening.done()
    assert not left
    assert not task.done()
    task.cancel()


async def test_one_that_can_not_be_started_at_first_is_a_failure(parent, monkeypatch):
    spawning(monkeypatch, BlockingIOError(11, "no process left"))
    listening = asyncio.get_running_loop().create_future()
    await parent._keep_up(1, listening)
    with pytest.raises(LdapMfaError, match="no process left"):
        await listening


@pytest.mark.parametrize("line", [b"hello\n", b"{}\n", b"[]\n", b"x" * 100_000])
async def test_what_is_no_report_is_a_failure(line):
    talker = Talker(line)
    assert "something else" in str(await workers._heard_from(talker))
    assert talker.killed


def test_the_order_does_not_show_the_configuration():
    assert "hunter2" not in repr(ORDER)


async def test_A44_no_worker_starts_while_the_configuration_changes_and_then_with_the_new_one(parent, monkeypatch):
    spawning(monkeypatch, Alive())
    begun = []
    spawn = workers._spawn

    async def noting(number, order):
        begun.append(order.text)
        return await spawn(number, order)

    monkeypatch.setattr(workers, "_spawn", noting)
    parent._may_start.clear()
    task = asyncio.ensure_future(parent._keep_up(1, asyncio.get_running_loop().create_future()))
    for _ in range(20):
        await asyncio.sleep(0)
    assert (begun, parent._starting) == ([], 0)
    parent._order = Order("ldapmfa.toml", "new", [3], 4)
    parent._may_start.set()
    for _ in range(20):
        await asyncio.sleep(0)
    assert begun == ["new"]
    task.cancel()
