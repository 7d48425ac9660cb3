"""What is measured: a table of rows, each with its peers, its figures and the goals of ours.

A new row is one function in the folder of the work that is done, and one entry here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from bench.work import Measure, logins, memory, pending, relay, start, workers


@dataclass(frozen=True)
class Figure:
    """Something that every sample of a row has; `shown`: whether the plot has it too."""

    name: str
    unit: str
    what: str
    shown: bool = True


@dataclass(frozen=True)
class Goal:
    """Our median of `figure` is to be at most `most` and at least `least`, as a multiple of that of the peer `of`."""

    figure: str
    most: float | None = None
    of: str | None = None
    least: float | None = None


@dataclass(frozen=True)
class Row:
    """`what` it is, for people; `peers` in the order in which they are measured, again and again."""

    name: str
    what: str
    peers: tuple[str, ...]
    figures: tuple[Figure, ...]
    goals: tuple[Goal, ...]
    measure: Measure


_ALL: Final = ("haproxy", "back-ldap", "ldaptor", "bare", "ldapmfa")
_US: Final = ("ldapmfa",)
_WORKERS: Final = (
    Figure("logins1", "/s", "logins per second with 1 worker", shown=False),
    Figure("logins2", "/s", "logins per second with 2 workers", shown=False),
    Figure("logins", "", "logins, 2 workers / 1 worker", shown=False),
    Figure("searches1", "/s", "searches per second with 1 worker", shown=False),
    Figure("searches2", "/s", "searches per second with 2 workers", shown=False),
    Figure("searches", "", "searches, 2 workers / 1 worker", shown=False),
    Figure("share", "%", "of the work that the less busy worker did", shown=False),
    Figure("met", "%", "of the codes sent twice at once that met on both workers, all won once", shown=False),
)

ROWS: Final = (
    Row(
        "search",
        "search of 1 entry, 4 connections, one request in flight each",
        _ALL,
        (Figure("cpu", "µs", "CPU per search"), Figure("rate", "/s", "searches per second", shown=False)),
        (Goal("cpu", 1.7, of="haproxy"), Goal("cpu", 0.7, of="back-ldap")),
        relay.search,
    ),
    Row(
        "pipelined",
        "the same, 20 requests in flight each",
        _ALL,
        (Figure("cpu", "µs", "CPU per search"), Figure("rate", "/s", "searches per second", shown=False)),
        (Goal("cpu", 1.7, of="haproxy"),),
        relay.pipelined,
    ),
    Row(
        "bulk",
        "search of 10,000 entries",
        _ALL,
        (Figure("cpu", "µs", "CPU per entry"), Figure("rate", "/s", "entries per second", shown=False)),
        (Goal("cpu", 1.4, of="haproxy"),),
        relay.bulk,
    ),
    Row(
        "million",
        "one result of 1,000,000 entries",
        ("haproxy", "ldapmfa"),
        (Figure("growth", "MiB", "growth of resident memory", shown=False),),
        (Goal("growth", 10),),
        memory.million,
    ),
    Row(
        "slow",
        "the same, for a client that reads nothing for 2 s and then slowly",
        ("haproxy", "ldapmfa"),
        (
            Figure("growth", "MiB", "growth of resident memory", shown=False),
            Figure("sent", "MiB", "what the directory could send while nothing was read", shown=False),
        ),
        (Goal("growth", 10), Goal("sent", 16)),
        memory.slow,
    ),
    Row(
        "bind",
        "connect, bind by password alone, unbind; 32 at a time",
        _ALL,
        (Figure("cpu", "µs", "CPU per bind"), Figure("rate", "/s", "binds per second", shown=False)),
        (),
        logins.bind,
    ),
    Row(
        "login",
        "connect, bind by password and TOTP burnt durably, unbind; 64 at a time (ldaptor: by password alone)",
        ("ldaptor", "ldapmfa"),
        (
            Figure("cpu", "µs", "CPU per login"),
            Figure("rate", "/s", "logins per second", shown=False),
            Figure("p50", "ms", "median until the answer", shown=False),
            Figure("p99", "ms", "99th percentile until the answer", shown=False),
            Figure("spread", "", "p99 / p50", shown=False),
        ),
        (Goal("cpu", 1.0, of="ldaptor"), Goal("spread", 3.0)),
        logins.login,
    ),
    Row(
        "tls",
        "search of 1 entry as in the first row, over TLS on both sides",
        ("haproxy", "ldapmfa"),
        (Figure("cpu", "µs", "CPU per search"), Figure("rate", "/s", "searches per second", shown=False)),
        (Goal("cpu", 2.2, of="haproxy"),),
        relay.tls,
    ),
    Row(
        "handshakes",
        "binds while the directory is spoken to over TLS",
        _US,
        (Figure("handshakes", "%", "TLS handshakes with the directory per 100 binds", shown=False),),
        (Goal("handshakes", 5),),
        logins.handshakes,
    ),
    Row(
        "idle",
        "5,000 bound clients that do nothing, each with a connection to the directory",
        ("haproxy", "ldapmfa"),
        (
            Figure("growth", "KiB", "resident memory per client", shown=False),
            Figure("clients", "", "clients", shown=False),
        ),
        (Goal("growth", 20),),
        memory.idle,
    ),
    Row(
        "pending",
        "10,000 logins that wait for an approval; goals for other logins meanwhile: by TOTP, 100 a second",
        _US,
        (
            Figure("growth", "KiB", "resident memory per pending client", shown=False),
            Figure("tls", "KiB", "the same over TLS, with 2,000 clients", shown=False),
            Figure("links", "", "connections to the directory", shown=False),
            Figure("threads", "", "threads of the process", shown=False),
            Figure("before", "ms", "99th percentile of other logins before", shown=False),
            Figure("while", "ms", "99th percentile of other logins while all are pending", shown=False),
            Figure("slowdown", "", "other logins, while / before", shown=False),
            Figure("clients", "", "pending clients, all of which were answered with success", shown=False),
        ),
        (
            Goal("growth", 20),
            Goal("tls", 70),
            Goal("links", 200),
            Goal("threads", 8),
            Goal("slowdown", 2.0),
        ),
        pending.pending,
    ),
    Row(
        "workers",
        "2 workers beside 1, as many as the cores allow",
        _US,
        _WORKERS,
        (),
        workers.free,
    ),
    Row(
        "capped",
        "2 workers beside 1, each worker held to 10 % of a core, so that the cores allow it",
        _US,
        _WORKERS,
        (Goal("logins", least=1.7), Goal("searches", least=1.7)),
        workers.capped,
    ),
    Row(
        "start",
        "from the start of the process to the first answered bind",
        _US,
        (
            Figure("seconds", "s", "until the first bind", shown=False),
            Figure("memory", "MiB", "resident memory of the idle process", shown=False),
        ),
        (Goal("seconds", 1.0), Goal("memory", 80)),
        start.start,
    ),
)
