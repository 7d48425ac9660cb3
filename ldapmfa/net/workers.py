"""Several processes on one set of listening sockets: the parent that starts them, and what a worker owes to it.

Promised here: the parent opens the sockets and brings the store's schema up to date, once; it is started when every
worker listens; a worker that ends is replaced, and nobody but its own clients notices, and so is one that answers its
parent no more; no worker outlives the parent.
Not in here: what is done for clients (`service`; a worker is this program once more), and how parent and worker speak
with each other (`order`).
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

import structlog
from twisted.internet.protocol import Factory

from ldapmfa import config as configuration
from ldapmfa.config import Config
from ldapmfa.errors import ConfigError, LdapMfaError
from ldapmfa.net.asking import CANCEL
from ldapmfa.net.driver import where
from ldapmfa.net.metrics.memory import Memory
from ldapmfa.net.metrics.page import Pages, open_page
from ldapmfa.net.order import INPUT, Line, Order, read_report, report
from ldapmfa.net.ports import close_ports, lend, open_ports
from ldapmfa.net.reloading import Reloading
from ldapmfa.net.service import FAREWELL, AsyncService, LdapMfa, open_store
from ldapmfa.net.systemd import Supervisor
from ldapmfa.net.turns import Clients, Counts, by_turns

T = TypeVar("T")

#: Seconds until a worker that ended is replaced, at first and at most: the delay doubles each time.
_DELAY: Final = (1.0, 30.0)
#: Seconds after which a worker is taken for a good one, whose end is its first.
_STEADY: Final = 60.0
#: Seconds that a worker has to end, beyond those that it gives its clients.
_GRACE: Final = 3.0
#: Seconds that a worker may take until it listens.
_STARTING: Final = 60.0
#: How many times a worker is asked whether it turns, without an answer, before it is taken for stuck.
_ASKED: Final = 4
#: Seconds that a worker may take to make another configuration ready, or to put it in place.
_CHANGING: Final = 20.0
#: Mistakes, and characters of each, that a worker tells of: they must fit into a message.
_TOLD: Final = (20, 400)


def service_of(config: Config, reactor: Any) -> AsyncService:
    """The service that the configuration asks for: the proxy in this process, or workers."""
    service: LdapMfa | Workers = LdapMfa(config, reactor) if config.service.workers == 1 else Workers(config, reactor)
    service.supervisor = Supervisor.from_environment()
    service.reloading = Reloading(service, reactor, reactor.stop, structlog.get_logger())
    return service


class Worker(LdapMfa):
    """The proxy as one of several workers: takes clients by turns with the others, and ends with the parent."""

    def __init__(self, config: Config, reactor: Any, order: Order, number: int) -> None:
        super().__init__(config, reactor, taken=order.sockets, memory=Memory(order.figures))
        self._clients = self._counted = Clients(Counts(order.counts), number)
        self._first = number == 1
        self._line = Line(order.channel)
        self._file = Path(order.file)
        self._changing = asyncio.Lock()  # what is asked is done one after the other
        self._tells_of_certificates = number == 1

    async def _begin(self) -> None:
        # Ctrl-C reaches every process of a terminal: the parent tells its workers, in its own time
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        asyncio.get_running_loop().add_reader(INPUT, self._heard)
        asyncio.get_running_loop().add_reader(self._line.fileno(), self._told)
        await super()._begin()
        for port in self._ports:
            by_turns(port, self._counted, self._reactor)
        self._counted.here()
        report()

    def _told(self) -> None:
        """The parent says something."""
        try:
            for said, descriptors in self._line.hear():
                match said["say"]:
                    case "beat":
                        self._line.say("beat")
                    case "prepare":
                        self._kept(self._make_ready(said["number"], *descriptors))
                    case "commit":
                        self._commit(said["number"])
                    case "forget":
                        self._kept(self._forget(said["number"]))
                    case _:
                        self._kept(self._unmake(said["number"]))
        except EOFError:  # its standard input ends, too
            asyncio.get_running_loop().remove_reader(self._line.fileno())

    def _commit(self, number: int) -> None:
        try:
            if self._changing.locked():
                raise AssertionError("it is not ready")
            self.commit()
        except Exception as bug:  # noqa: BLE001 - whatever it is
            self._log.critical("bug", reason=where(bug))
            os._exit(1)  # half of one configuration and half of another: whoever comes instead has one
        self._line.say("done", number=number)

    async def _make_ready(self, number: int, text: int, *sockets: int) -> None:
        """Make ready what the parent has read: its text is in a file, as it may be long."""
        mistakes: list[str] = []
        async with self._changing:
            try:
                said = os.pread(text, os.fstat(text).st_size, 0).decode()  # others read it, too
                new = await asyncio.to_thread(configuration.load, self._file, text=said, check_files=False)
                await self.prepare(new, sockets)
            except ConfigError as wrong:
                mistakes = wrong.mistakes
            except Exception as bug:  # noqa: BLE001 - whatever it is, the old configuration counts on
                mistakes = [f"a bug: {type(bug).__name__}"]
            finally:
                for descriptor in (text, *sockets):
                    os.close(descriptor)
        most, longest = _TOLD
        self._line.say("ready", number=number, mistakes=[mistake[:longest] for mistake in mistakes[:most]])

    async def _unmake(self, number: int) -> None:
        async with self._changing:
            self.abort()
        self._line.say("done", number=number)

    async def _forget(self, number: int) -> None:
        broken = ""
        try:
            await self.forget_remembered()
        except LdapMfaError as down:
            broken = str(down)
        self._line.say("forgotten", number=number, broken=broken)

    def _accept(self, port: Any) -> None:
        by_turns(port, self._counted, self._reactor)
        super()._accept(port)

    def _heard(self) -> None:
        if os.read(INPUT, 1024):
            return
        asyncio.get_running_loop().remove_reader(INPUT)
        if self.running:
            self._reactor.stop()


class Workers(AsyncService):
    """The parent: opens the listening sockets, and keeps as many workers as the configuration asks for."""

    def __init__(self, config: Config, reactor: Any) -> None:
        super().__init__(reactor)
        self._config = config
        self._ports: list[Any] = []
        self._processes: dict[int, Process] = {}
        self._lines: dict[int, Line] = {}  # to those that listen
        self._unanswered: dict[int, int] = {}  # how often each was asked in vain whether it turns
        self._counts = Counts.of(config.service.workers)
        self._order: Order
        self._replies: dict[int, tuple[int, asyncio.Future[dict[str, Any]]]] = {}  # each to a question's number
        self._asked = 0
        self._starting = 0  # workers that do not listen yet
        self._may_start = asyncio.Event()  # not while the configuration changes: each has this one, or the next
        self._may_start.set()
        self._prepared: tuple[Config, dict[str, Any]] | None = None  # and the ports that are new
        self._memories = [Memory.shared() for _ in range(config.service.workers)]

    async def _begin(self) -> None:
        await (await open_store(self._config)).close()
        listens = self._config.listen
        self._ports = await open_ports(self._reactor, listens, [Factory() for _ in listens], waiting=True)
        sockets = [lend(port) for port in self._ports]
        self._order = Order(str(self._config.source), self._config.text, sockets, self._counts.descriptor)
        loop = asyncio.get_running_loop()
        listening = []
        for number in range(1, self._config.service.workers + 1):
            listening.append(loop.create_future())
            self._keep(asyncio.ensure_future(self._keep_up(number, listening[-1])))
        await asyncio.gather(*listening)
        await self._show()
        self._keep(asyncio.ensure_future(self._ask_whether_they_turn()))
        self._log.info("started", workers=len(listening))

    @property
    def config(self) -> Config:
        """The configuration that counts."""
        return self._config

    # -- another configuration

    async def make_ready(self, config: Config) -> None:
        """As `Reloadable`: every worker has it ready, or none keeps it."""
        self._may_start.clear()
        while self._starting:  # noqa: ASYNC110 - seldom, and for a second
            await asyncio.sleep(0.02)
        old = {listen.endpoint for listen in self._config.listen}
        new = [number for number, listen in enumerate(config.listen) if listen.endpoint not in old]
        ports: dict[str, Any] = {}
        self._prepared = config, ports
        try:
            factories = [Factory() for _ in config.listen]
            opened = await open_ports(self._reactor, config.listen, factories, waiting=True, only=new)
            ports.update((config.listen[number].endpoint, port) for number, port in zip(new, opened, strict=True))
            sockets = [lend(port) for port in opened]
            with _in_memory(config.text) as text:
                said = await self._ask_all("prepare", (text, *sockets))
            mistakes = [mistake for answer in said.values() for mistake in (answer or {}).get("mistakes", ())]
            if mistakes:
                raise ConfigError(list(dict.fromkeys(mistakes)))
            silent = [str(number) for number, answer in said.items() if answer is None]
            if silent:
                raise LdapMfaError(f"worker {', '.join(silent)} did not make it ready: nothing is changed")
        except BaseException:
            await self.give_up()
            raise

    async def give_up(self) -> None:
        """As `Reloadable`."""
        if self._prepared:
            _, opened = self._prepared
            self._prepared = None
            await self._ask_all("abort")
            await close_ports(list(opened.values()))
        self._may_start.set()

    async def put(self, *, forget: bool) -> None:
        """As `Reloadable`. A worker that can't is killed: the one in its place begins with the new configuration."""
        if self._prepared is None:
            raise AssertionError
        config, opened = self._prepared
        self._prepared = None
        ports = dict(zip((listen.endpoint for listen in self._config.listen), self._ports, strict=True)) | opened
        self._config, self._ports = config, [ports.pop(listen.endpoint) for listen in config.listen]
        sockets = [int(port.fileno()) for port in self._ports]
        self._order = replace(self._order, text=config.text, sockets=sockets)
        try:
            for number, answer in (await self._ask_all("commit")).items():
                if answer is None and number in self._lines:
                    self._log.error("worker killed", worker=number, reason="it does not take the new configuration")
                    _kill(self._processes[number])
                    self._gone(number)
            await close_ports(list(ports.values()))  # those of listeners that are no more
        finally:
            self._may_start.set()
        if forget:
            answer = None
            for number in tuple(self._lines):
                answer = answer or await self._ask(number, "forget")
            if answer is None or answer["broken"]:
                raise LdapMfaError(answer["broken"] if answer else "no worker answered")

    async def _ask_all(self, what: str, descriptors: Sequence[int] = ()) -> dict[int, dict[str, Any] | None]:
        """What each worker that listens answers; None: nothing."""
        numbers = list(self._lines)
        answers = await asyncio.gather(*(self._ask(number, what, descriptors) for number in numbers))
        return dict(zip(numbers, answers, strict=True))

    async def _ask(self, number: int, what: str, descriptors: Sequence[int] = ()) -> dict[str, Any] | None:
        line = self._lines.get(number)
        if line is None:
            return None  # it has ended since
        self._asked += 1
        answered: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._replies[number] = self._asked, answered
        line.say(what, descriptors, number=self._asked)
        try:
            async with asyncio.timeout(_CHANGING):
                return await answered
        except TimeoutError:
            return None
        finally:
            self._replies.pop(number, None)

    async def _show(self) -> None:
        """Show the figures of all workers."""
        config = self._config
        if config.metrics.endpoint is None:
            return
        pages = Pages(
            {f"worker {number}": memory for number, memory in enumerate(self._memories, 1)},
            directories=lambda: {listen.directory for listen in self._config.listen},
            processes=lambda: {
                "main": os.getpid(),
                **{f"worker {number}": process.pid for number, process in self._processes.items()},
            },
            stopping=lambda: self.stopping,
            reloaded=self._reloaded,
        )
        self._page = await open_page(self._reactor, config.metrics.endpoint, pages, self._log)

    def status(self) -> str:
        """Where it listens, and how many workers do."""
        of = self._config.service.workers
        listens = ", ".join(listen.name for listen in self._config.listen)
        return f"Listening: {listens}; {len(self._lines)} of {of} workers."

    def well(self) -> bool:
        """Whether those that listen answer: one that does not is killed, and if that does not help nothing does."""
        return all(asked <= _ASKED for asked in self._unanswered.values())

    async def _ask_whether_they_turn(self) -> None:
        """Kill who does not say so; not by the time that passed, for this process may have been stopped itself."""
        while True:
            await asyncio.sleep(self._config.service.worker_seconds / _ASKED)
            for number, line in self._lines.items():
                if self._unanswered[number] == _ASKED:
                    self._log.error("worker killed", worker=number, reason="it does not answer")
                    _kill(self._processes[number])
                self._unanswered[number] += 1
                line.say("beat")

    def _told(self, number: int) -> None:
        """A worker says something."""
        line = self._lines[number]
        try:
            for said, _ in line.hear():
                self._unanswered[number] = 0
                asked, reply = self._replies.get(number, (0, None))
                if reply and said.get("number") == asked and not reply.done():
                    reply.set_result(said)
        except EOFError:
            self._gone(number)

    def _listens(self, number: int, line: Line) -> None:
        """A worker has begun to listen."""
        self._lines[number], self._unanswered[number] = line, 0
        asyncio.get_running_loop().add_reader(line.fileno(), self._told, number)
        if self.started.called:
            self.supervisor.status(self.status())

    def _gone(self, number: int) -> None:
        """A worker listens no more."""
        line = self._lines.pop(number, None)
        if line:
            asyncio.get_running_loop().remove_reader(line.fileno())
            line.close()
            del self._unanswered[number]
            _, reply = self._replies.get(number, (0, None))
            if reply and not reply.done():
                reply.set_exception(TimeoutError())
            if not self.stopping:
                self.supervisor.status(self.status())

    async def _keep_up(self, number: int, listening: asyncio.Future[None]) -> None:
        """Start a worker, and another one whenever it ends; one that could not even start at first is a failure."""
        loop = asyncio.get_running_loop()
        delay, longest = _DELAY
        while True:
            await self._may_start.wait()
            self._starting += 1
            began = loop.time()
            ended, failure = "", None
            line, theirs = Line.pair()
            try:
                told = replace(self._order, channel=theirs, figures=self._memories[number - 1].descriptor)
                process = self._processes[number] = await _spawn(number, told)
                failure = await _heard_from(process)
            except OSError as failed:
                process, failure = None, LdapMfaError(f"a worker can't be started: {failed.strerror}")
            finally:
                self._starting -= 1
                os.close(theirs)
            if failure:
                line.close()
            if not listening.done():
                if failure:
                    listening.set_exception(failure)
                    return
                listening.set_result(None)
            if not failure:
                self._listens(number, line)
            if process:
                ended = _ended(await process.wait())
                self._gone(number)
            self._counts.absent(number)
            self._memories[number - 1].absent()
            if loop.time() - began > _STEADY:
                delay = _DELAY[0]
            self._log.error("worker ended", worker=number, reason=str(failure or ended), again_after=delay)
            await asyncio.sleep(delay)
            delay = min(2 * delay, longest)

    async def _end(self) -> None:
        self._cancel()  # nobody is replaced any more
        await close_ports(self._ports)
        for process in self._processes.values():
            _pipe(process.stdin).close()
        ending = [asyncio.ensure_future(process.wait()) for process in self._processes.values()]
        if ending:
            await asyncio.wait(ending, timeout=self._config.service.drain_seconds + FAREWELL + CANCEL + _GRACE)
        for number, process in self._processes.items():
            if process.returncode is None:
                self._log.error("worker killed", worker=number, reason="it did not end")
                _kill(process)
                await process.wait()
        for number in tuple(self._lines):
            self._gone(number)
        if self._page:
            await close_ports([self._page])
        self._log.info("stopped")


async def _spawn(number: int, order: Order) -> Process:
    """A worker that has its order."""
    words = ("worker", "--number", str(number), "--config", order.file)
    # -P: what lies in the working directory is no module of ours
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-P", "-m", "ldapmfa", *words),
        stdin=PIPE,
        stdout=PIPE,
        pass_fds=(*order.sockets, order.counts, order.figures, order.channel),
    )
    _pipe(process.stdin).write(order.line())
    return process


async def _heard_from(process: Process) -> LdapMfaError | None:
    """What a worker could not start for; None: it listens."""
    try:
        async with asyncio.timeout(_STARTING):
            line = await _pipe(process.stdout).readline()
        if line:
            return read_report(line)
    except (ValueError, KeyError, TypeError):
        _kill(process)
        return LdapMfaError("a worker wrote something else before its report")
    except TimeoutError:
        _kill(process)
        return LdapMfaError(f"a worker does not listen after {_STARTING:g} s")
    except ConnectionError:
        pass
    return LdapMfaError(f"a worker could not start: {_ended(await process.wait())}")


def _kill(process: Process) -> None:
    with suppress(ProcessLookupError):  # it has ended, and nobody has noticed yet
        process.kill()


def _ended(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


@contextmanager
def _in_memory(text: str) -> Iterator[int]:
    """A file with `text` that is in no folder, to be read from its beginning."""
    descriptor = os.memfd_create("ldapmfa-configuration")
    try:
        os.write(descriptor, text.encode())
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


def _pipe(stream: T | None) -> T:
    if stream is None:
        raise AssertionError(stream)
    return stream
