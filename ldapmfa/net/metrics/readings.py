"""What is looked up every second in a process that serves clients, and written down among its figures.

Promised here: a look waits for nothing, so that a process that is not heard of has a loop that does not turn; whether
the store answers is asked beside it, with a limit. Not in here: what follows from it (`totals`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ldapmfa.errors import StoreDown
from ldapmfa.net.driver import where
from ldapmfa.net.metrics import catalogue
from ldapmfa.net.waiting import Deadline, DeadlineExceeded, pause

if TYPE_CHECKING:
    from ldapmfa.factors.breaker import Guarded
    from ldapmfa.net.budget import Budget
    from ldapmfa.net.certificates import Presented
    from ldapmfa.net.directory import Directory
    from ldapmfa.net.metrics.figures import Figures, Tally
    from ldapmfa.net.skew import Clocks
    from ldapmfa.net.trail import Trail
    from ldapmfa.store import Store

#: Seconds from one look to the next.
LOOK: Final = 1.0
#: Seconds that the store may take to answer.
PATIENCE: Final = 3.0


@dataclass
class Observed:
    """What is looked at; `ports`, `tallies` and what is `presented` by the names of listeners.

    Another configuration puts others in their place.
    """

    store: Store
    budget: Budget
    clients: Collection[Any]
    askings: Collection[Any]
    services: Mapping[str, Guarded]
    directories: Mapping[str, Directory]
    ports: Mapping[str, Any]
    tallies: Mapping[str, Tally]
    presented: Mapping[str, Presented]
    trail: Trail | None = None
    clocks: Clocks | None = None  #: where this process watches them


def look(observed: Observed, figures: Figures) -> None:
    """Write down how things are."""
    budget, store = observed.budget, observed.store
    figures.set(catalogue.CLIENTS, to=len(observed.clients))
    figures.set(catalogue.CLIENTS_LIMIT, to=budget.connections)
    figures.set(catalogue.PENDING, to=budget.logins_used)
    figures.set(catalogue.PENDING_LIMIT, to=budget.logins)
    figures.set(catalogue.PROMPTS, to=len(observed.askings))
    figures.set(catalogue.BUFFERED, to=budget.octets_used)
    figures.set(catalogue.STORE_WAITING, to=store.waiting)
    figures.reach(catalogue.LOCKS, count=store.locks)
    figures.reach(catalogue.DROPPED, catalogue.STORE, count=store.dropped)
    if observed.trail:
        _look_at_trail(observed.trail, figures)
    if observed.clocks:
        _look_at_clocks(observed.clocks, figures)
    for name, guarded in observed.services.items():
        for state in catalogue.BREAKER_STATES:
            figures.set(catalogue.BREAKER, name, state, to=guarded.state == state)
    for name, directory in observed.directories.items():
        _look_at_servers(directory, name, figures)
    for name, port in observed.ports.items():
        figures.set(catalogue.LISTENING, name, to=bool(port.connected))
    for name, tally in observed.tallies.items():
        figures.tallied(name, tally)
    for name, presented in observed.presented.items():
        figures.set(catalogue.CERTIFICATE_END, name, to=presented.ends.timestamp())


def _look_at_trail(trail: Trail, figures: Figures) -> None:
    for outlet in trail.outlets:
        figures.set(catalogue.AUDIT_UP, outlet.name, to=outlet.failing is None)
        figures.set(catalogue.AUDIT_WAITING, outlet.name, to=outlet.waiting)
        figures.reach(catalogue.WRITTEN, outlet.name, count=outlet.written)
        figures.reach(catalogue.DROPPED, outlet.name, count=outlet.dropped)


def _look_at_clocks(clocks: Clocks, figures: Figures) -> None:
    figures.reach(catalogue.CLOCK_SET, count=clocks.steps)
    for name in clocks.others:
        figures.set(catalogue.CLOCK_AHEAD, name, to=clocks.offsets.get(name, math.nan))
        figures.set(catalogue.CLOCK_DIFFERS, name, to=name in clocks.alarmed)


def _look_at_servers(directory: Directory, name: str, figures: Figures) -> None:
    states = directory.states()
    counts = dict.fromkeys(catalogue.CONDITIONS, 0)
    for state in states:
        server = str(state.server)
        role = "global-catalog" if state.server == directory.settings.global_catalog else "directory"
        counts[state.condition] += 1
        figures.set(catalogue.DIRECTORY_UP, name, role, server, to=state.condition not in {"unknown", "down"})
        figures.set(catalogue.LINKS, name, server, to=state.links)
    for condition, count in counts.items():
        figures.set(catalogue.SERVERS, name, condition, to=count)
    figures.set(catalogue.SPARE, name, to=directory.spare)
    figures.reach(catalogue.LINKS_MADE, name, count=directory.links_made)


async def keep_looking(observed: Observed, figures: Figures, clock: Any, log: Any) -> None:
    """Look every second, until cancelled; what can't be looked at is said once, and does not end it."""
    said = False
    while True:
        figures.memory.beat(time.monotonic())
        try:
            with figures.look():
                look(observed, figures)
        except Exception as bug:  # noqa: BLE001 - who only looks must not make a proxy that works look dead
            if not said:
                log.error("bug", reason=where(bug))  # noqa: TRY400 - the text may hold anything
            said = True
        await pause(clock, LOOK)


async def keep_asking(store: Store, figures: Figures, clock: Any) -> None:
    """Ask the store every second, until cancelled; one that takes longer than `PATIENCE` is down."""
    while True:
        try:
            async with Deadline(clock, PATIENCE):
                waiting, failing = await store.notices()
        except (StoreDown, DeadlineExceeded):
            figures.set(catalogue.STORE_UP, to=0)
        else:
            figures.set(catalogue.STORE_UP, to=1)
            figures.set(catalogue.NOTICES, "new", to=waiting)
            figures.set(catalogue.NOTICES, "failing", to=failing)
        await pause(clock, LOOK)
