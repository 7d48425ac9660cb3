"""/metrics, /healthz and /readyz, by HTTP: for Prometheus, load balancers, and whoever looks.

Promised here: nothing is read but the head of one request, of bounded length and within bounded time; one answer, and
the connection ends; few connections at once, of descriptors that clients need. Nothing secret is in any answer, for
nobody proves who asks. Not in here: what is counted (`figures`), and what it amounts to (`totals`).
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric as Family
from twisted.internet import protocol
from twisted.internet.endpoints import serverFromString

from ldapmfa.errors import ConfigError
from ldapmfa.net.driver import where
from ldapmfa.net.metrics import catalogue
from ldapmfa.net.metrics.catalogue import Metric
from ldapmfa.net.metrics.memory import Key, Memory
from ldapmfa.net.metrics.totals import totals, unready, unwell

#: Octets of a request's head, seconds that a connection may take, and how many connections there may be.
_LONGEST: Final = 8192
_SECONDS: Final = 10.0
_CONNECTIONS: Final = 32
_REQUEST: Final = re.compile(rb"([A-Z]{1,16}) (/[!-~]*) HTTP/1\.[01]")
_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


@dataclass(frozen=True)
class Answer:
    """What is sent back."""

    status: int
    body: bytes
    kind: str = "application/json"


class Pages:
    """What there is to be seen of the processes whose figures are in `memories`, by their names.

    `directories` are those that logins need; `processes` gives process ids by name; `stopping` says whether it ends;
    `reloaded` whether the last reload was applied, and when one was last, in seconds since the epoch.
    """

    def __init__(
        self,
        memories: Mapping[str, Memory],
        *,
        directories: Callable[[], Iterable[str]],
        processes: Callable[[], Mapping[str, int]] = lambda: {"main": os.getpid()},
        stopping: Callable[[], bool] = lambda: False,
        reloaded: Callable[[], tuple[bool, float] | None] = lambda: None,
    ) -> None:
        self._memories = memories
        self._directories = directories
        self._processes = processes
        self._stopping = stopping
        self._reloaded = reloaded
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def answer(self, path: str, accept: str) -> Answer:
        """What is at `path`, in a form that `accept` (of HTTP) asks for."""
        if path == "/metrics":
            encode, kind = choose_encoder(accept)
            return Answer(200, encode(self._registry), kind)
        if path == "/healthz":
            return _health("well", unwell(self._memories, time.monotonic()))
        if path == "/readyz":
            return _health("ready", self._unready(totals(self._memories.values())))
        return Answer(404, b'{"problems":["there are /metrics, /healthz and /readyz"]}\n')

    def _unready(self, found: Mapping[Key, float]) -> list[str]:
        return ["it is stopping"] if self._stopping() else unready(found, self._directories())

    def collect(self) -> Iterator[Family]:
        """Every figure, as prometheus_client wants it."""
        found = totals(self._memories.values())
        found[catalogue.READY.name,] = not self._unready(found)
        found[catalogue.WORKERS.name, "configured"] = len(self._memories)
        found[catalogue.WORKERS.name, "well"] = len(self._memories) - len(unwell(self._memories, time.monotonic()))
        found |= dict(self._of_processes())
        reloaded = self._reloaded()
        if reloaded:
            found[catalogue.RELOADED.name,], found[catalogue.RELOADED_AT.name,] = reloaded
        series: defaultdict[str, list[tuple[Key, float]]] = defaultdict(list)
        for (name, *labels), value in sorted(found.items()):
            series[name].append((tuple(labels), value))
        for metric in catalogue.ALL:
            yield _family(metric, series[metric.name])

    def _of_processes(self) -> Iterator[tuple[Key, float]]:
        for name, number in self._processes().items():
            collector = ProcessCollector("ldapmfa", pid=partial(int, number), registry=None)
            for family in collector.collect():
                for sample in family.samples:
                    yield (sample.name, name), sample.value


def _health(well: str, problems: list[str]) -> Answer:
    said = {"status": f"not {well}" if problems else well, "problems": problems}
    return Answer(503 if problems else 200, json.dumps(said).encode() + b"\n")


def _family(metric: Metric, series: Iterable[tuple[Key, float]]) -> Family:
    if metric.kind == "histogram":
        return _histogram(metric, dict(series))
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = kind(metric.name, metric.meaning, labels=metric.labels)
    for labels, value in series:
        family.add_metric(labels, value)
    return family


def _histogram(metric: Metric, series: Mapping[Key, float]) -> Family:
    family = HistogramMetricFamily(metric.name, metric.meaning, labels=metric.labels)
    for labels in dict.fromkeys(key[:-1] for key in series):
        count, buckets = 0.0, []
        for end in (*map(repr, metric.bounds), "+Inf"):
            count += series.get((*labels, end), 0.0)
            buckets.append((end, count))
        family.add_metric(labels, buckets, series.get((*labels, "sum"), 0.0))
    return family


class _Asked(protocol.Protocol):
    """One connection: a request's head comes, an answer goes."""

    factory: PageFactory
    transport: Any  # Twisted's interfaces are no types

    def __init__(self) -> None:
        self._head = b""
        self._timer: Any = None
        self._answered = False

    def connectionMade(self) -> None:
        """Somebody is there."""
        self._timer = self.factory.clock.callLater(_SECONDS, self.transport.abortConnection)
        self.factory.connected += 1
        if self.factory.connected > _CONNECTIONS:
            self.transport.abortConnection()

    def connectionLost(self, _reason: Any = None) -> None:
        """The connection is gone."""
        self.factory.connected -= 1
        if self._timer.active():
            self._timer.cancel()

    def dataReceived(self, data: bytes) -> None:
        """More of the request."""
        if self._answered:
            return
        self._head += data[: _LONGEST + 1]
        head, end, _ = self._head.partition(b"\r\n\r\n")
        if end:
            self._answer(*self._read(head))
        elif len(self._head) > _LONGEST:
            self._answer(b"", Answer(431, b""))

    def _read(self, head: bytes) -> tuple[bytes, Answer]:
        first, *fields = head.split(b"\r\n")
        asked = _REQUEST.fullmatch(first)
        if asked is None:
            return b"", Answer(400, b"")
        method, path = asked[1], asked[2].partition(b"?")[0].decode("ascii")
        if method not in {b"GET", b"HEAD"}:
            return method, Answer(405, b"")
        accept = [value for name, _, value in (field.partition(b":") for field in fields) if name.lower() == b"accept"]
        try:
            return method, self.factory.pages.answer(path, b",".join(accept).decode("latin-1"))
        except Exception as bug:  # noqa: BLE001 - whoever only looks must not see a traceback, nor end anything
            self.factory.log.error("bug", reason=where(bug))  # noqa: TRY400 - the text may hold anything
            return method, Answer(500, b"")

    def _answer(self, method: bytes, answer: Answer) -> None:
        self._answered, self._head = True, b""
        head = (
            f"HTTP/1.1 {answer.status} {_REASONS[answer.status]}\r\n"
            f"Content-Type: {answer.kind}\r\n"
            f"Content-Length: {len(answer.body)}\r\n"
            "Cache-Control: no-store\r\n"
            "X-Content-Type-Options: nosniff\r\n"
            "Connection: close\r\n"
        )
        head += "Allow: GET, HEAD\r\n" if answer.status == 405 else ""
        self.transport.write(head.encode("latin-1") + b"\r\n" + (b"" if method == b"HEAD" else answer.body))
        self.transport.loseConnection()


class PageFactory(protocol.ServerFactory):
    """Serves `pages`; `clock` is an IReactorTime."""

    protocol: Any = _Asked
    noisy = False

    def __init__(self, pages: Pages, clock: Any, log: Any) -> None:
        self.pages = pages
        self.clock = clock
        self.log = log
        self.connected = 0


async def open_page(reactor: Any, endpoint: str, pages: Pages, log: Any) -> Any:
    """The port on which `pages` are served. ConfigError: `endpoint` can't be listened on."""
    try:
        opened = serverFromString(reactor, endpoint)
        port = await opened.listen(PageFactory(pages, reactor, log)).asFuture(asyncio.get_running_loop())
    except Exception as failed:
        raise ConfigError([f"metrics.endpoint: {endpoint} can't be listened on: {failed}"]) from failed
    log.info("metrics", at=str(port.getHost()))
    return port
