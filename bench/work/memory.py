"""The rows about memory: a result without end, a client that does not read, and thousands that do nothing."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import machine
from bench.directory import LOAD_DN, answers
from bench.load import STALL, value_of
from bench.programs.endless import HOW_MUCH
from bench.site import Invalid, Site
from bench.work import Sample
from ldapmfa.wire import ldap

IDLE = 5000
ENTRIES = 1_000_000


@dataclass(frozen=True)
class Endless:
    """A running `programs.endless`."""

    process: machine.Process
    port: int
    tls: Path = Path()
    tls_port: int | None = None

    def sent(self) -> int:
        """How many octets of entries it could send so far, over all its connections."""
        with socket.create_connection((machine.LOOPBACK, self.port), STALL) as asking:
            asking.sendall(ldap.message(2, ldap.search_request(HOW_MUCH, ())))
            return int(value_of(asking.recv(4096)))


@contextmanager
def _before_endless(site: Site, peer: str) -> Iterator[tuple[machine.Process, int, Endless]]:
    port = machine.free_port()
    argv = [sys.executable, "-m", "bench.programs.endless", str(port), LOAD_DN, str(ENTRIES)]
    with machine.Process(argv, site.new_place("endless") / "endless.log") as process:
        process.wait_until(lambda: answers(port))
        directory = Endless(process, port)
        with site.fresh(peer, directory) as proxy:
            yield proxy.process, proxy.port, directory


@contextmanager
def million(site: Site, peer: str) -> Iterator[Callable[[], Sample]]:
    """One result of 1,000,000 entries, from a directory that makes them as fast as they are taken."""

    def sample() -> Sample:
        with (
            _before_endless(site, peer) as (process, port, _),
            site.load("searches", port, connections=1, in_flight=1) as load,
            machine.watched(process.pid) as memory,
        ):
            done = load.run(1)
        if done["octets"] < 100 * ENTRIES:
            raise Invalid(f"{done['octets']} octets are too few for {ENTRIES} entries")
        return {"growth": memory.growth_kib / 1024}

    yield sample


@contextmanager
def slow(site: Site, peer: str) -> Iterator[Callable[[], Sample]]:
    """The same for a client that reads nothing for 2 s and then 1.6 MB a second."""

    def sample() -> Sample:
        with (
            _before_endless(site, peer) as (process, port, directory),
            site.load("slow-reader", port, pause=2, receive_buffer=1 << 16) as load,
            machine.watched(process.pid) as memory,
        ):
            load.begin(200)
            time.sleep(1.5)
            sent = directory.sent()
            load.end()
        return {"growth": memory.growth_kib / 1024, "sent": sent / (1 << 20)}

    yield sample


@contextmanager
def idle(site: Site, peer: str) -> Iterator[Callable[[], Sample]]:
    """Clients that have bound and do nothing, each with its own connection to the directory."""
    # a client is two files of the proxy, and one of the load's and of the directory's
    clients = min(IDLE, (machine.open_files_limit(2 * IDLE + 500) - 500) // 2)

    def sample() -> Sample:
        with site.fresh(peer, site.directory) as proxy:
            pid = proxy.process.pid
            with site.load("logins", proxy.port, at_once=64, hold=True) as load:
                load.run(100)
                before = machine.resident_kib(pid)
                load.run(clients - 100)
                time.sleep(0.2)
                growth = machine.resident_kib(pid) - before
        return {"growth": growth / (clients - 100), "clients": clients}

    yield sample
