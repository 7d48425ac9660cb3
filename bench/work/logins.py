"""The rows about binds: by password, with a second factor, and what they cost the directory in handshakes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bench.directory import ACCOUNT_DN
from bench.site import Site
from bench.work import Portion, Sample


@contextmanager
def bind(site: Site, peer: str) -> Iterator[Callable[[], Sample]]:
    """Connect, bind by password alone, unbind; 32 at a time. With us the account is exempt."""
    with _logins(site, peer, at_once=32) as sample:
        yield sample


@contextmanager
def login(site: Site, peer: str) -> Iterator[Callable[[], Sample]]:
    """Connect, bind by password and a fresh TOTP code, unbind; 64 at a time. ldaptor binds by password alone."""
    if peer == "ldaptor":
        with _logins(site, peer, at_once=64) as sample:
            yield sample
        return
    with _logins(site, peer, at_once=64, dn=ACCOUNT_DN, accounts=site.enrolled) as sample:
        yield sample


@contextmanager
def _logins(site: Site, peer: str, **spec: object) -> Iterator[Callable[[], Sample]]:
    # a 99th percentile needs many: slow peers take longer than others
    proxy, portion = site.peer(peer), Portion(800, 5000)
    with site.load("logins", proxy.port, **spec) as load:

        def sample() -> Sample:
            cpu, done = portion.cost(proxy.process.pid, load)
            return {
                "cpu": cpu,
                "rate": done["rate"],
                "p50": done["p50_ms"],
                "p99": done["p99_ms"],
                "spread": done["p99_ms"] / done["p50_ms"],
            }

        yield sample


@contextmanager
def handshakes(site: Site, peer: str) -> Iterator[Callable[[], Sample]]:
    """Binds by password while the directory is spoken to over TLS: how many connections it had to accept."""
    proxy = site.peer(peer)
    operations = 1000
    with site.load("logins", proxy.half_port or proxy.port, at_once=32) as load:

        def sample() -> Sample:
            before = site.directory.connections()
            load.run(operations)
            # the second question is a connection too
            return {"handshakes": (site.directory.connections() - before - 1) / operations * 100}

        yield sample
