"""A reload that meets what seldom happens: signals in a storm, an end meanwhile, workers that come and go."""

import asyncio
import gc
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import structlog
from twisted.internet.task import Clock

from ldapmfa.config.changes import Change
from ldapmfa.errors import ConfigError, LdapMfaError, StoreDown
from ldapmfa.net import control, reloading, service, workers
from ldapmfa.net.order import Line
from ldapmfa.net.reloading import Reloading


class Service:
    """What is reloaded: `steps` are what was done with it."""

    def __init__(self):
        self.steps = []
        self.told = []
        self.stopping = False
        self.config = SimpleNamespace(source="ldapmfa.toml", control_socket=None)
        self.supervisor = SimpleNamespace(
            reloading=lambda: self.told.append("reloading"), ready=lambda _status: self.told.append("ready")
        )
        self.gate = None
        self.unforgotten = False

    def status(self):
        return "well"

    async def make_ready(self, _config):
        self.steps.append("ready")
        if self.gate:
            await self.gate

    async def put(self, *, forget):
        self.steps.append("put and forget" if forget else "put")
        if self.unforgotten:
            raise StoreDown("the database is away")

    async def give_up(self):
        self.steps.append("given up")

    def fail(self, bug):
        self.steps.append(f"failed: {bug}")


async def until(condition):
    while not condition():  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.001)


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def reloaded(monkeypatch):
    monkeypatch.setattr(reloading.configuration, "load", lambda _source: None)
    monkeypatch.setattr(reloading, "changes", lambda _old, _new: [])
    of = Service()
    of.reloads = Reloading(of, Clock(), lambda: of.steps.append("stopped"), structlog.get_logger())
    of.reloads._terminal = False
    return of


async def test_a_storm_of_signals_is_two_reloads_at_most(reloaded):
    reloaded.gate = asyncio.get_running_loop().create_future()
    for _ in range(1000):
        reloaded.reloads._hung_up()
    await until(lambda: reloaded.steps)
    for _ in range(1000):
        reloaded.reloads._hung_up()
    reloaded.gate.set_result(None)
    await until(lambda: not reloaded.reloads._tasks)
    assert reloaded.steps == ["ready", "put"] * 2  # what the file says when the last signal comes counts


async def test_A44_nothing_is_put_in_place_of_what_is_being_ended(reloaded):
    """Its new listeners would let clients in that nobody takes leave of."""
    reloaded.gate = asyncio.get_running_loop().create_future()
    reload = asyncio.ensure_future(reloaded.reloads.reload())
    await until(lambda: reloaded.steps)
    reloaded.stopping = True
    reloaded.told.append("stopping")
    reloaded.gate.set_result(None)
    outcome = await reload
    assert (outcome.applied, outcome.broken, reloaded.steps) == (False, True, ["ready", "given up"])
    assert reloaded.told == ["reloading", "stopping"]
    later = await reloaded.reloads.reload()
    assert (later.applied, reloaded.steps) == (False, ["ready", "given up"])


async def test_A33_what_could_not_be_forgotten_is_said_and_forgotten_by_the_next_reload(reloaded, monkeypatch):
    monkeypatch.setattr(reloading, "changes", lambda _old, _new: [Change("login.prompts", "5", "3")])
    reloaded.unforgotten = True
    outcome = await reloaded.reloads.reload()
    assert (outcome.applied, outcome.broken) == (True, True)
    assert "not forgotten: the database is away" in outcome.mistakes[0]
    monkeypatch.setattr(reloading, "changes", lambda _old, _new: [])
    reloaded.unforgotten = False
    assert (await reloaded.reloads.reload()).mistakes == []
    await reloaded.reloads.reload()
    assert reloaded.steps == ["ready", "put and forget", "ready", "put and forget", "ready", "put"]


async def test_A44_half_a_reload_ends_the_program_as_one_that_failed(reloaded):
    """An end in good order would not be followed by another start."""

    async def put(*, forget):
        raise ZeroDivisionError("half")

    reloaded.put = put
    outcome = await reloaded.reloads.reload()
    assert (outcome.applied, outcome.broken, reloaded.steps) == (False, True, ["ready", "failed: half"])


@pytest.mark.parametrize("running", [True, False])
async def test_A44_without_a_watch_for_blocks_the_program_ends_as_one_that_failed(running):
    stopped = []
    proxy = service.LdapMfa.__new__(service.LdapMfa)
    proxy._tasks, proxy._log, proxy.failure = set(), structlog.get_logger(), None
    proxy.running, proxy._reactor = running, SimpleNamespace(stop=lambda: stopped.append(True))

    async def watch():
        raise ZeroDivisionError("a password, perhaps")

    proxy._vital(watch())
    await until(lambda: proxy.failure)
    assert "ZeroDivisionError" in str(proxy.failure)
    assert "password" not in str(proxy.failure)
    assert stopped == [True] * running


async def test_A43_what_a_task_raises_is_logged_without_its_text(capsys):
    proxy = service.LdapMfa.__new__(service.LdapMfa)
    proxy._tasks, proxy._log = set(), structlog.get_logger()

    async def raises():
        raise ZeroDivisionError("a password, perhaps")

    proxy._kept(raises())
    await until(lambda: not proxy._tasks)
    gc.collect()
    shown = "".join(capsys.readouterr())
    assert "ZeroDivisionError at " in shown
    assert "password" not in shown


# -- the parent


@pytest.fixture
def parent():
    parent = workers.Workers.__new__(workers.Workers)
    parent._lines, parent._replies, parent._asked = {}, {}, 0
    parent._may_start, parent._log = asyncio.Event(), structlog.get_logger()
    parent._config = SimpleNamespace(listen=())
    parent._ports = []
    parent._order = workers.Order("ldapmfa.toml", "", [], 4)
    return parent


async def test_a_worker_that_ends_just_before_it_is_asked_stops_nobody_else(parent):
    assert await parent._ask(1, "commit") is None


async def test_A33_that_no_worker_is_there_to_forget_what_is_remembered_is_said(parent):
    parent._prepared = SimpleNamespace(listen=(), text="new"), {}
    with pytest.raises(LdapMfaError, match="no worker answered"):
        await parent.put(forget=True)
    assert parent._may_start.is_set()


class Gone:
    """A process that has ended, which nobody has noticed yet."""

    def kill(self):
        raise ProcessLookupError


async def test_a_worker_that_ends_by_itself_when_it_is_to_be_killed_ends_no_watch_over_the_others(parent):
    parent._config = SimpleNamespace(service=SimpleNamespace(worker_seconds=0.02))
    said = []
    parent._lines = {1: SimpleNamespace(say=said.append), 2: SimpleNamespace(say=said.append)}
    parent._unanswered = {1: workers._ASKED, 2: 0}
    parent._processes = {1: Gone()}
    watching = asyncio.ensure_future(parent._ask_whether_they_turn())
    await until(lambda: said.count("beat") > 5 or watching.done())
    assert not watching.done()
    watching.cancel()


# -- a worker


class Worker(workers.Worker):
    """One that makes ready what takes as long as the test says; `steps` are what it did."""

    def __init__(self):
        ours, theirs = Line.pair()
        self.parent, self._line = ours, Line(theirs)
        self._changing = asyncio.Lock()
        self._file = None
        self._tasks = set()
        self._log = structlog.get_logger()
        self.steps = []
        self.gates = {}

    async def prepare(self, config, taken=()):
        await self.gates[config]
        self.steps.append(f"prepared {config}")

    def abort(self):
        self.steps.append("aborted")

    def commit(self):
        self.steps.append("committed")

    def asked(self, what, number, text=None):
        if text is not None:
            self.gates.setdefault(text, asyncio.get_running_loop().create_future())
            read, write = os.pipe()
            with workers._in_memory(text) as file:
                self.parent.say(what, (file, read, write), number=number)
            os.close(read)
            os.close(write)
        else:
            self.parent.say(what, number=number)


@pytest.fixture
def worker(monkeypatch):
    monkeypatch.setattr(workers.configuration, "load", lambda _file, text, check_files: _loaded(text))
    worker = Worker()
    yield worker
    worker.parent.close()
    worker._line.close()


def _loaded(text):
    if text == "wrong":
        raise ConfigError(["wrong"])
    return text


async def some_time():
    for _ in range(20):
        await asyncio.sleep(0.002)


async def answered(worker):
    """What the worker says next to its parent; a busy machine may take its time."""
    for _ in range(5000):
        if heard := [said for said, _ in worker.parent.hear()]:
            return heard
        await asyncio.sleep(0.002)
    raise AssertionError("nothing was said")


async def test_A44_what_was_given_up_while_it_was_made_ready_takes_nobodys_place(worker):
    """The first takes so long that the parent gave it up, and asked for the second."""
    worker.asked("prepare", 1, "first")
    worker.asked("abort", 2)
    worker.asked("prepare", 3, "second")
    worker._told()
    worker.gates["second"].set_result(None)
    await some_time()
    worker.gates["first"].set_result(None)
    for _ in range(5000):
        if len(worker.steps) >= 3:
            break
        await asyncio.sleep(0.002)
    assert worker.steps == ["prepared first", "aborted", "prepared second"]
    worker.asked("commit", 4)
    worker._told()
    assert worker.steps[-1] == "committed"
    assert [said["number"] for said, _ in worker.parent.hear()] == [1, 2, 3, 4]


async def test_A44_a_worker_that_is_told_to_put_in_place_what_it_has_not_made_ready_ends(worker, monkeypatch):
    ended = []
    monkeypatch.setattr(workers.os, "_exit", ended.append)
    worker.asked("prepare", 1, "first")
    worker._told()
    await some_time()
    worker.asked("commit", 2)
    worker._told()
    assert (ended, worker.steps) == ([1], [])
    worker.gates["first"].set_result(None)
    await some_time()


async def test_a_worker_that_can_not_make_it_ready_keeps_no_socket_of_it(worker):
    """The next reload would find the port in use, by nobody who accepts."""
    before = descriptors()
    worker.asked("prepare", 1, "wrong")
    worker._told()
    [said] = await answered(worker)
    assert said["mistakes"] == ["wrong"]
    assert descriptors() == before


async def test_what_a_worker_says_of_mistakes_fits_into_a_message(worker, monkeypatch):
    def load(_file, text, check_files):
        raise ConfigError(["€" * 10_000] * 1000)

    monkeypatch.setattr(workers.configuration, "load", load)
    worker.asked("prepare", 1, "many")
    worker._told()
    [said] = await answered(worker)
    assert said["mistakes"]


async def test_what_can_not_be_made_keeps_no_socket_that_was_handed_over():
    proxy = service.LdapMfa.__new__(service.LdapMfa)
    proxy._store = proxy._arranged = object()
    proxy._prepared = None

    def fails(*_):
        raise ConfigError(["wrong"])

    proxy._arrange = fails
    read, write = os.pipe()
    before = descriptors()
    with pytest.raises(ConfigError):
        await proxy.prepare(SimpleNamespace(listen=()), (read, write))
    assert descriptors() == before
    os.close(read)
    os.close(write)


# -- who asks


@pytest.mark.parametrize(("who", "answered"), [(os.geteuid(), True), (0, True), (65_534, False)])
async def test_the_control_socket_answers_its_user_and_root_whoever_else_can_open_it(tmp_path, monkeypatch, who, answered):
    heard = []

    async def asked(request):
        heard.append(request)
        return {"said": "yes"}

    monkeypatch.setattr(control, "_user", lambda _writer: who)
    listening = control.Control(tmp_path / "ldapmfa.sock", asked)
    await listening.begin()
    try:
        if answered:
            assert await asyncio.to_thread(control.ask, tmp_path / "ldapmfa.sock", {"do": "x"}) == {"said": "yes"}
        else:
            with pytest.raises(OSError, match=r"no answer|Broken pipe|reset"):
                await asyncio.to_thread(control.ask, tmp_path / "ldapmfa.sock", {"do": "x"})
        assert bool(heard) == answered
    finally:
        listening.end()


def test_what_stands_where_the_control_socket_belongs_is_not_followed_nor_removed(tmp_path):
    path = tmp_path / "ldapmfa.sock"
    for make in (lambda: path.symlink_to(tmp_path / "elsewhere"), lambda: path.write_text("mine"), path.mkdir):
        make()
        with pytest.raises(OSError, match=r"."):
            control.Control(path, None)
        assert path.is_symlink() or path.exists()
        assert not (tmp_path / "elsewhere").exists()
        path.rmdir() if path.is_dir() else path.unlink()
