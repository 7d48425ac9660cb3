"""What is measured: a table of rows, each with its peers, its figures and the goals of ours.

A new row is one function in `bench/work/` and one entry here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from bench.work import Measure, logins, memory, relay, start


@dataclass(frozen=True)
class Figure:
    """Something that every sample of a row has; `shown`: whether the plot has it too."""

    name: str
    unit: str
    what: str
    shown: bool = True


@dataclass(frozen=True)
class Goal:
    """Our median of `figure` is to be at most `most`, or at most `most` times the median of the peer `of`."""

    figure: str
    most: float
    of: str | None = None


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
