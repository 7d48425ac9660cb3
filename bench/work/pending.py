"""The row about approvals: thousands of logins that wait for one, and what others notice of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench import machine
from bench.directory import ACCOUNT_DN, ACCOUNTS
from bench.peers import Peer
from bench.programs.approval import APPROVED, PLACE
from bench.site import Load, Site
from bench.work import Sample

PENDING: Final = ACCOUNTS
PENDING_TLS: Final = 2000
#: Other logins a second, and how many are measured.
RATE: Final = 100
OTHERS: Final = 600
#: Files of the proxy beside its clients: connections to the directory, listeners, the store.
_FILES: Final = 700
_LINKS: Final = 200
_SPARE_SECONDS: Final = 1.0


@contextmanager
def pending(site: Site, peer: str) -> Iterator[Callable[[], Sample]]:  # noqa: ARG001 - it is ourselves
    """Clients that bind by password alone and wait; in clear text, and fewer of them over TLS.

    A sample takes new processes. The warm-up has a twentieth of the clients.
    """
    most = min(PENDING, machine.open_files_limit(PENDING + _FILES) - _FILES)
    clients = [most // 20]

    def sample() -> Sample:
        count = clients[-1]
        clients.append(most)
        plain = _plain(site, count)
        return {**plain, "tls": _over_tls(site, min(count, PENDING_TLS)), "clients": count}

    yield sample


def _plain(site: Site, clients: int) -> Sample:
    by_code: dict[str, object] = {"dn": ACCOUNT_DN, "accounts": 2 * OTHERS, "at_once": 64}
    with (
        _proxy(site, _LINKS) as (proxy, place),
        site.load("logins", proxy.port, **by_code) as warming,
        site.load("logins", proxy.port, **by_code, first=2 * OTHERS, rate=RATE) as others,
    ):
        pid = proxy.process.pid
        warming.run(OTHERS)
        before = others.run(OTHERS)["p99_ms"]
        memory = machine.resident_kib(pid)
        with _waiting(site, proxy.port, place, clients) as load:
            growth = machine.resident_kib(pid) - memory
            meanwhile = others.run(OTHERS)["p99_ms"]
            time.sleep(2 * _SPARE_SECONDS + 0.5)
            links = machine.connections_to(pid, site.directory.port)
            threads = machine.threads(pid)
            load.run(0)
    return {
        "growth": growth / clients,
        "links": links,
        "threads": threads,
        "before": before,
        "while": meanwhile,
        "slowdown": meanwhile / before,
    }


def _over_tls(site: Site, clients: int) -> float:
    """KiB for each client; of the links that stay open while approvals are pending they have their share only."""
    ca = str(site.directory.tls / "ca.pem")
    with _proxy(site, _LINKS * clients // PENDING) as (proxy, place):
        with site.load("logins", proxy.tls_port or 0, at_once=16, ca=ca) as warming:
            warming.run(100)
        memory = machine.resident_kib(proxy.process.pid)
        with _waiting(site, proxy.tls_port or 0, place, clients, ca=ca) as load:
            growth = machine.resident_kib(proxy.process.pid) - memory
            load.run(0)
    return growth / clients


@contextmanager
def _proxy(site: Site, links: int) -> Iterator[tuple[Peer, Path]]:
    """Ourselves with the benchmark's approvals, and their folder."""
    place = site.new_place("approvals")
    os.mkfifo(place / APPROVED)
    directory: dict[str, object] = {"pending_links": links, "spare_seconds": _SPARE_SECONDS}
    settings: dict[str, dict[str, object]] = {
        "directory": directory,
        "directories.secure": directory,
        "login": {"factors": ["totp", "bench"], "deadline": 3600},
        "factors.bench": {},
        "limits": {
            "connections": 2 * PENDING,
            "pending_logins": 2 * PENDING,
            "bind_timeout": 3600,
        },
    }
    variables = {PLACE: str(place), "PYTHONPATH": f"{machine.ROOT}:{machine.ROOT / 'bench' / 'plugin'}"}
    with site.ours(settings, variables) as proxy:
        yield proxy, place


@contextmanager
def _waiting(site: Site, port: int, place: Path, clients: int, **spec: object) -> Iterator[Load]:
    """The load whose clients wait all."""
    spec = {"dn": ACCOUNT_DN, "approvals": str(place), "unasked": 64, "at_once": 500, **spec}
    with site.load("pending", port, **spec) as load:
        load.run(clients)
        time.sleep(0.5)
        yield load
