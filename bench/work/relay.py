"""The rows about relaying: searches one by one, in flight, in bulk, and over TLS."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bench import machine
from bench.directory import ACCOUNTS, PEOPLE
from bench.ldclt import searching
from bench.site import Invalid, Site
from bench.work import LONG, Portion, Sample


@contextmanager
def search(site: Site, peer: str) -> Iterator[Callable[[], Sample]]:
    """One entry, over 4 connections with one request in flight each."""
    yield lambda: _by_ldclt(site, peer, in_flight=1)


@contextmanager
def pipelined(site: Site, peer: str) -> Iterator[Callable[[], Sample]]:
    """One entry, over 4 connections with 20 requests in flight each."""
    yield lambda: _by_ldclt(site, peer, in_flight=20)


def _by_ldclt(site: Site, peer: str, in_flight: int) -> Sample:
    proxy = site.peer(peer)
    with searching(site, proxy.port, connections=4, in_flight=in_flight):
        time.sleep(0.5)
        searches, cpu, began = site.directory.searches(), machine.cpu_seconds(proxy.process.pid), time.perf_counter()
        time.sleep(LONG)
        cpu, seconds = machine.cpu_seconds(proxy.process.pid) - cpu, time.perf_counter() - began
        # the first question is a search too
        searches = site.directory.searches() - searches - 1
    if not searches:
        raise Invalid("no search came through")
    return {"cpu": cpu / searches * 1e6, "rate": searches / seconds}


@contextmanager
def tls(site: Site, peer: str) -> Iterator[Callable[[], Sample]]:
    """As `search`, with TLS on both sides and the directory's certificate verified."""
    proxy, portion = site.peer(peer), Portion(1000, 50_000)
    people = {"uid": "user{:05d}", "uids": ACCOUNTS, "ca": str(site.directory.tls / "ca.pem")}
    with site.load("searches", proxy.tls_port or 0, connections=4, in_flight=1, **people) as load:

        def sample() -> Sample:
            cpu, done = portion.cost(proxy.process.pid, load)
            return {"cpu": cpu, "rate": done["rate"]}

        yield sample


@contextmanager
def bulk(site: Site, peer: str) -> Iterator[Callable[[], Sample]]:
    """All 10,000 entries with all their attributes, over one connection."""
    proxy, portion = site.peer(peer), Portion(1, 50)
    with site.load("searches", proxy.port, connections=1, in_flight=1, base=PEOPLE) as load:

        def sample() -> Sample:
            cpu, done = portion.cost(proxy.process.pid, load)
            entries = done["operations"] * ACCOUNTS
            if done["octets"] < 200 * entries:
                raise Invalid(f"{done['octets']} octets are too few for {entries} entries")
            return {"cpu": cpu / ACCOUNTS, "rate": done["rate"] * ACCOUNTS}

        yield sample
