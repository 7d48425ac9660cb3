"""What logins and clients are counted by, in the process that serves them.

Promised here: a label's value that is not known beforehand is counted as `other` (A43), so that nobody can fill the
memory with names. Counting waits for nothing, and never fails a login. Not in here: what is measured now and then
(`readings`).
"""

from __future__ import annotations

import math
import platform
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from typing import Final

from ldapmfa import __version__, audit
from ldapmfa.config import Config
from ldapmfa.net.metrics import catalogue
from ldapmfa.net.metrics.catalogue import Metric
from ldapmfa.net.metrics.memory import Key, Memory

_REASONS: Final = frozenset((outcome, why) for outcome, reasons in catalogue.REASONS_OF.items() for why in reasons)


@dataclass
class Tally:
    """What came through one listener: plain numbers, as counting them elsewhere would cost each message more."""

    connections: int = 0
    from_clients: int = 0  #: octets relayed
    from_directory: int = 0
    requests: int = 0  #: relayed, that are to be answered
    turned_away: dict[str, int] = field(default_factory=lambda: dict.fromkeys(catalogue.TURNED_AWAY_FOR, 0))

    def turn_away(self, reason: str) -> None:
        """A client was; `reason` is one of the catalogue's."""
        self.turned_away[reason] += 1


class Figures:
    """The figures of this process, kept in `memory`."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self._places: dict[Key, int] = {}
        self._histograms: dict[Key, tuple[tuple[float, ...], list[int]]] = {}
        self._reached: dict[Key, float] = {}
        self._measured: set[Key] = set()
        self._seen: set[Key] = set()
        self._applications: frozenset[str] = frozenset()
        self._factors: frozenset[str] = frozenset()

    # -- one figure

    def add(self, metric: Metric, *labels: str, by: float = 1.0) -> None:
        """Count."""
        self.memory.values[self._place(metric.name, *labels)] += by

    def reach(self, metric: Metric, *labels: str, count: float) -> None:
        """What is counted elsewhere in this process has come to `count`; less than before: it has begun anew."""
        key = (metric.name, *labels)
        before = self._reached.get(key, 0.0)
        self.memory.values[self._place(*key)] += count - before if count >= before else count
        self._reached[key] = count

    def set(self, metric: Metric, *labels: str, to: float) -> None:
        """Measure; NaN: there is nothing to be measured."""
        key = (metric.name, *labels)
        self.memory.values[self._place(*key)] = to
        self._measured.add(key)

    @contextmanager
    def look(self) -> Iterator[None]:
        """What was measured in the look before, and is not in this one, is there no more."""
        before, self._measured = self._seen, set()
        yield
        self._seen, self._measured = self._measured, set()
        for key in before - self._seen:
            self.memory.values[self._place(*key)] = math.nan

    def observe(self, metric: Metric, *labels: str, seconds: float) -> None:
        """Count in a histogram: its first places are the buckets', then comes the sum's."""
        bounds, places = self._histograms.get((metric.name, *labels)) or self._histogram(metric, *labels)
        values = self.memory.values
        values[places[bisect_left(bounds, seconds)]] += 1
        values[places[-1]] += seconds

    def _place(self, *key: str) -> int:
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = self.memory.place(key)
        return place

    def _histogram(self, metric: Metric, *labels: str) -> tuple[tuple[float, ...], list[int]]:
        key = (metric.name, *labels)
        found = self._histograms.get(key)
        if found is None:
            ends = [*map(repr, metric.bounds), "+Inf", "sum"]
            found = self._histograms[key] = metric.bounds, [self.memory.place((*key, end)) for end in ends]
        return found

    # -- what happens

    def expect(self, config: Config, services: Iterable[str] = ()) -> None:
        """These are the applications, listeners and factors there are; all their series exist from now on."""
        listeners = [listen.name for listen in config.listen]
        self._applications = frozenset([*listeners, *(table.name for table in config.application)])
        services = {*services, *(name for name in config.every_factor if name in config.factors)}
        self._factors = frozenset([*config.code_factors, *services])
        labels: dict[Metric, tuple[Iterable[str], ...]] = {
            catalogue.LOGINS: (self._applications, (*self._factors, catalogue.NO_FACTOR), catalogue.OUTCOMES),
            catalogue.FAILED_OPEN: (services,),
            catalogue.CONNECTIONS: (listeners,),
            catalogue.TURNED_AWAY: (listeners, catalogue.TURNED_AWAY_FOR),
            catalogue.RELAYED_OCTETS: (listeners, catalogue.SENDERS),
            catalogue.RELAYED_REQUESTS: (listeners,),
            catalogue.LINKS_MADE: (config.every_directory,),
        }
        places = [place for place in config.audit.to if place != "log"]
        labels |= {catalogue.DROPPED: ([catalogue.STORE, *places],), catalogue.WRITTEN: (places,)}
        labels |= dict.fromkeys((catalogue.CUTS, catalogue.LOCKS, catalogue.CLOCK_SET), ())
        for metric, values in labels.items():
            for each in product(*values):
                self.add(metric, *each, by=0)
        for outcome, reasons in catalogue.REASONS_OF.items():
            self._histogram(catalogue.LOGIN_SECONDS, outcome)
            for reason in reasons:
                self.add(catalogue.REASONS, outcome, reason, by=0)
        for stage in catalogue.STAGES:
            self._histogram(catalogue.STAGE_SECONDS, stage)
        self.set(catalogue.BUILD, __version__, platform.python_version(), to=1)

    def recorded(self, event: audit.Event) -> None:
        """A login ended."""
        if not isinstance(event, audit.LoginEnded):
            return
        values = self.memory.values
        for place in self._counted_at(event.application, event.factor, event.outcome, event.reason):
            values[place] += 1
        if event.total_ms:  # what was refused at sight took no time
            self.observe(catalogue.LOGIN_SECONDS, event.outcome, seconds=event.total_ms / 1000)
        if event.directory_ms:
            self.observe(catalogue.STAGE_SECONDS, "directory", seconds=event.directory_ms / 1000)
        if event.factor_ms:
            self.observe(catalogue.STAGE_SECONDS, "factor", seconds=event.factor_ms / 1000)

    def _counted_at(self, application: str, factor: str | None, outcome: audit.Outcome, reason: str) -> list[int]:
        """The places of what a login is counted as."""
        application = application if application in self._applications else catalogue.OTHER
        factor = catalogue.NO_FACTOR if factor is None else factor if factor in self._factors else catalogue.OTHER
        reason = reason if (outcome, reason) in _REASONS else catalogue.OTHER
        places = [
            self._place(catalogue.LOGINS.name, application, factor, outcome),
            self._place(catalogue.REASONS.name, outcome, reason),
        ]
        if reason == "failed-open":
            places.append(self._place(catalogue.FAILED_OPEN.name, factor))
        return places

    def stored(self, seconds: float) -> None:
        """A login that ended had waited so long for the store."""
        self.observe(catalogue.STAGE_SECONDS, "store", seconds=seconds)

    def tallied(self, listener: str, tally: Tally) -> None:
        """So much has come through a listener."""
        self.reach(catalogue.CONNECTIONS, listener, count=tally.connections)
        self.reach(catalogue.RELAYED_OCTETS, listener, "client", count=tally.from_clients)
        self.reach(catalogue.RELAYED_OCTETS, listener, "directory", count=tally.from_directory)
        self.reach(catalogue.RELAYED_REQUESTS, listener, count=tally.requests)
        for reason, count in tally.turned_away.items():
            self.reach(catalogue.TURNED_AWAY, listener, reason, count=count)
