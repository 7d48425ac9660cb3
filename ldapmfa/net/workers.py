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
from dataclasses import replace
from typing import Any, Final, TypeVar

from twisted.internet.protocol import Factory

from ldapmfa.config import Config
from ldapmfa.errors import LdapMfaError
from ldapmfa.net.asking import CANCEL
from ldapmfa.net.metrics.memory import Memory
from ldapmfa.net.metrics.page import Pages, open_page
from ldapmfa.net.order import INPUT, Line, Order, read_report, report
from ldapmfa.net.ports import close_ports, lend, open_ports
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


def service_of(config: Config, reactor: Any) -> AsyncService:
    """The service that the configuration asks for: the proxy in this process, or workers."""
    service = LdapMfa(config, reactor) if config.service.workers == 1 else Workers(config, reactor)
    service.supervisor = Supervisor.from_environment()
    return service


class Worker(LdapMfa):
    """The proxy as one of several workers: takes clients by turns with the others, and ends with the parent."""

    def __init__(self, config: Config, reactor: Any, order: Order, number: int) -> None:
        super().__init__(config, reactor, taken=order.sockets, memory=Memory(order.figures))
        self._clients = self._counted = Clients(Counts(order.counts), number)
        self._first = number == 1
        self._line = Line(order.channel)
        self._tells_of_certificates = number == 1

    async def _begin(self) -> None:
        # Ctrl-C reaches every process of a terminal: the parent tells its workers, in its own time
        signal.signal(signal.SIGINT, signal.SIG_IGN)
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
            for said, _ in self._line.hear():
                if said["say"] == "beat":
                    self._line.say("beat")
        except EOFError:  # its standard input ends, too
            asyncio.get_running_loop().remove_reader(self._line.fileno())

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
        self._memories = [Memory.shared() for _ in range(config.service.workers)]

    async def _begin(self) -> None:
        await (await open_store(self._config)).close()
        listens = self._config.listen
        self._ports = await open_ports(self._reactor, listens, [Factory() for _ in listens])
        sockets = [lend(port) for port in self._ports]
        order = Order(str(self._config.source), self._config.text, sockets, self._counts.descriptor)
        loop = asyncio.get_running_loop()
        listening = []
        for number in range(1, self._config.service.workers + 1):
            listening.append(loop.create_future())
            self._keep(asyncio.ensure_future(self._keep_up(number, order, listening[-1])))
        await asyncio.gather(*listening)
        await self._show()
        self._keep(asyncio.ensure_future(self._ask_whether_they_turn()))
        self._log.info("started", workers=len(listening))

    async def _show(self) -> None:
        """Show the figures of all workers."""
        config = self._config
        if config.metrics.endpoint is None:
            return
        pages = Pages(
            {f"worker {number}": memory for number, memory in enumerate(self._memories, 1)},
            directories=lambda: {listen.directory for listen in config.listen},
            processes=lambda: {
                "main": os.getpid(),
                **{f"worker {number}": process.pid for number, process in self._processes.items()},
            },
            stopping=lambda: self.stopping,
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
                    self._processes[number].kill()
                self._unanswered[number] += 1
                line.say("beat")

    def _told(self, number: int) -> None:
        """A worker says something."""
        line = self._lines[number]
        try:
            for said, _ in line.hear():
                if said["say"] == "beat":
                    self._unanswered[number] = 0
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
            if not self.stopping:
                self.supervisor.status(self.status())

    async def _keep_up(self, number: int, order: Order, listening: asyncio.Future[None]) -> None:
        """Start a worker, and another one whenever it ends; one that could not even start at first is a failure."""
        loop = asyncio.get_running_loop()
        delay, longest = _DELAY
        while True:
            began = loop.time()
            ended, failure = "", None
            line, theirs = Line.pair()
            try:
                told = replace(order, channel=theirs, figures=self._memories[number - 1].descriptor)
                process = self._processes[number] = await _spawn(number, told)
                failure = await _heard_from(process)
            except OSError as failed:
                process, failure = None, LdapMfaError(f"a worker can't be started: {failed.strerror}")
            finally:
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
                process.kill()
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
        process.kill()
        return LdapMfaError("a worker wrote something else before its report")
    except TimeoutError:
        process.kill()
        return LdapMfaError(f"a worker does not listen after {_STARTING:g} s")
    except ConnectionError:
        pass
    return LdapMfaError(f"a worker could not start: {_ended(await process.wait())}")


def _ended(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _pipe(stream: T | None) -> T:
    if stream is None:
        raise AssertionError(stream)
    return stream
