"""The rows about workers: what two of them do in a second beside one, and that a code is good for one of them only."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from bench import machine
from bench.directory import ACCOUNT_DN, ACCOUNTS, PEOPLE
from bench.peers import Peer
from bench.quota import capped as held_to
from bench.site import Invalid, Load, Site
from bench.work import Sample

#: Of one core, for each worker of the row in which cores allow two.
SHARE: Final = 0.1
#: Seconds that each rate is measured over, about.
LONG: Final = 3.0
#: Codes sent twice at once in each sample, how many of them must meet on both workers, and how many accounts they need.
DUELS: Final = 128
ENOUGH: Final = 16
_DUELLISTS: Final = 1000


@contextmanager
def free(site: Site, peer: str) -> Iterator[Callable[[], Sample]]:  # noqa: ARG001 - it is ourselves
    """With whatever cores there are, which the load and the directory share."""
    with _compared(site, None) as sample:
        yield sample


@contextmanager
def capped(site: Site, peer: str) -> Iterator[Callable[[], Sample]]:  # noqa: ARG001 - it is ourselves
    """With so little for each worker that two find cores enough beside the load and the directory."""
    with _compared(site, SHARE) as sample:
        yield sample


@contextmanager
def _compared(site: Site, share: float | None) -> Iterator[Callable[[], Sample]]:
    with ExitStack() as started:
        one, two = (started.enter_context(_Proxy.started(site, workers, share)) for workers in (1, 2))

        def sample() -> Sample:
            begun = two.spent()
            logins, searches = ([proxy.rate(load) for proxy in (one, two)] for load in ("logins", "searches"))
            work = sorted(after - before for before, after in zip(begun, two.spent(), strict=True))
            figures = {"share": 100 * work[0] / sum(work), "met": two.duel()}
            for name, (rate_of_1, rate_of_2) in (("logins", logins), ("searches", searches)):
                figures |= {f"{name}1": rate_of_1, f"{name}2": rate_of_2, name: rate_of_2 / rate_of_1}
            return figures

        yield sample


class _Proxy:
    """Ourselves with so many workers, and loads before them."""

    def __init__(self, peer: Peer, workers: list[int], loads: dict[str, Load]) -> None:
        self._peer = peer
        self._workers = workers
        self._loads = loads
        self._sizes = {"logins": 200, "searches": 500}
        self._read = 0

    @classmethod
    @contextmanager
    def started(cls, site: Site, count: int, share: float | None) -> Iterator[_Proxy]:
        """With `count` workers, each held to its share of a core if there is one."""
        with ExitStack() as opened:
            peer = opened.enter_context(site.ours({"service": {"workers": count}}))
            # one worker is the program itself
            workers = machine.tree(peer.process.pid)[1 if count > 1 else 0 :]
            if len(workers) != count:
                raise Invalid(f"there are {len(workers)} workers instead of {count}")
            first = ACCOUNTS - _DUELLISTS
            kinds: dict[str, dict[str, object]] = {
                "logins": {"dn": ACCOUNT_DN, "accounts": first, "at_once": 64},
                "searches": {"connections": 16, "in_flight": 4, "base": PEOPLE, "uid": "user{:05d}", "uids": ACCOUNTS},
                "duels": {"dn": ACCOUNT_DN, "accounts": _DUELLISTS, "first": first, "at_once": 32},
            }
            loads = {kind: opened.enter_context(site.load(kind, peer.port, **spec)) for kind, spec in kinds.items()}
            if share is not None:
                opened.enter_context(held_to(workers, share))
            yield cls(peer, workers, loads)

    def spent(self) -> list[float]:
        """Seconds of processor time of each worker so far."""
        return [machine.cpu_seconds(pid) for pid in self._workers]

    def rate(self, kind: str) -> float:
        """How many a second, of what takes about `LONG` seconds, going by the last time."""
        size = self._sizes[kind]
        rate = float(size / self._loads[kind].run(size)["seconds"])
        self._sizes[kind] = min(8000 if kind == "logins" else 200_000, round(rate * LONG))
        return rate

    def duel(self) -> float:
        """The percentage of codes, sent on two connections at once, of which each worker saw one."""
        log = self._peer.process.log
        before = log.stat().st_size
        self._loads["duels"].run(DUELS)
        time.sleep(0.3)
        with log.open("rb") as lines:
            lines.seek(before)
            seen = defaultdict[str, set[int]](set)
            for line in lines:
                said = json.loads(line)
                if said.get("account"):
                    seen[said["account"]].add(said["worker"])
        met = sum(len(workers) == len(self._workers) for workers in seen.values())
        if met < ENOUGH:
            raise Invalid(f"only {met} of {DUELS} codes that were sent twice met on both workers")
        return 100 * met / DUELS
