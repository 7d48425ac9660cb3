"""Finds a directory's servers in the DNS (SRV, RFC 2782), for as long as the records say.

Promised here: a host outside the domains that are trusted is no server, however it came into the answer: DNS is not
authenticated, and a certificate of its own proves no stranger to be our directory. Where the DNS is gone, the servers
that were last known stay. Not in here: the hosts' addresses (`names`), and how the servers are (`health`).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

from twisted.internet import defer
from twisted.names import dns, error
from twisted.names.client import Resolver
from twisted.python.failure import Failure

from ldapmfa.errors import DirectoryDown
from ldapmfa.net.link import Server
from ldapmfa.net.servers import Place
from ldapmfa.net.waiting import Deadline, DeadlineExceeded, pause

#: Seconds for which an answer counts, at least and at most, whatever its TTL is.
_COUNTS: Final = (5.0, 3600.0)
#: Seconds from one look-up that failed to the next.
_AGAIN: Final = 10.0
#: Seconds that a name server is given, the first and the second time.
_PATIENCE: Final = (1, 3)
#: Servers of one directory, at most.
_MOST: Final = 64

RESOLV_CONF: Final = Path("/etc/resolv.conf")


@dataclass(frozen=True, slots=True)
class Srv:
    """What to ask the DNS for: `name`; the hosts must be in, or below, one of `domains`. Whether they speak LDAPS.

    `nameservers` are asked, as (address, port), or else those of the machine.
    """

    name: str
    domains: tuple[str, ...]
    ldaps: bool = False
    nameservers: tuple[tuple[str, int], ...] = ()

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Answer:
    """The servers that the DNS names, the hosts it names that are not trusted, and for how many seconds it counts."""

    places: tuple[Place, ...]
    strangers: tuple[str, ...]
    seconds: float


class _Resolver(Resolver):
    """Twisted's, for one question; it would ask for ever if what comes over TCP were cut off, too."""

    def __init__(self, nameservers: list[tuple[str, int]], reactor: Any) -> None:
        super().__init__(servers=nameservers, timeout=_PATIENCE, reactor=reactor)  # type: ignore[no-untyped-call]
        self._by_tcp = False

    def filterAnswers(self, message: Any) -> Any:
        """The answer; by TCP if what came over UDP is cut off."""
        if message.trunc and self._by_tcp:
            return Failure(error.ResolverError("the answer is cut off"))
        self._by_tcp = message.trunc
        return super().filterAnswers(message)  # type: ignore[no-untyped-call]


def is_below(host: str, domains: Iterable[str]) -> bool:
    """Whether `host` is one of `domains`, or below one."""
    return any(host == domain or host.endswith(f".{domain}") for domain in domains)


def read(records: Iterable[Any], srv: Srv) -> Answer | None:
    """What the SRV records of an answer, as Twisted has them, say; None: there is none."""
    found = [record for record in records if record.type == dns.SRV and record.cls == dns.IN]
    if not found:
        return None
    places: dict[Server, Place] = {}
    strangers = []
    for record in found[:_MOST]:
        payload = record.payload
        host = payload.target.name.decode("ascii", "replace").rstrip(".").lower()
        if not host:
            continue  # RFC 2782: the service is decidedly not available
        is_name = re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*", host)
        if not is_name or not is_below(host, srv.domains) or not payload.port:
            strangers.append(host)
            continue
        server = Server(host, payload.port, srv.ldaps)
        places.setdefault(server, Place(server, payload.priority, payload.weight))
    shortest, longest = _COUNTS
    return Answer(
        tuple(places.values()), tuple(strangers), min(longest, max(shortest, min(record.ttl for record in found)))
    )


async def look_up(srv: Srv, reactor: Any, seconds: float, resolv_conf: Path = RESOLV_CONF) -> Answer:
    """Ask the DNS, for `seconds` at most. Raises DirectoryDown, which says why there is no answer."""
    nameservers = list(srv.nameservers or _of_the_machine(resolv_conf))
    resolver: Any = _Resolver(nameservers, reactor)
    try:
        async with Deadline(reactor, seconds):
            answers, _, _ = await resolver.lookupService(srv.name).asFuture(asyncio.get_running_loop())
    except (error.DNSNameError, error.AuthoritativeDomainError):
        raise DirectoryDown(f"the DNS has no name {srv.name}") from None
    except (DeadlineExceeded, TimeoutError, defer.TimeoutError):
        raise DirectoryDown(f"no name server answered to {srv.name}") from None
    except Exception as failed:
        raise DirectoryDown(f"the DNS can't be asked for {srv.name}: {type(failed).__name__}") from failed
    finally:
        for connection in tuple(resolver.connections):  # over which what is too long for UDP came
            connection.transport.loseConnection()
    found = read(answers, srv)
    if found is None:
        raise DirectoryDown(f"the DNS has no SRV record of the name {srv.name}")
    if found.strangers and not found.places:
        where = " or ".join(srv.domains)
        raise DirectoryDown(f"the DNS names no host in {where} for {srv.name}, but {', '.join(found.strangers[:3])}")
    return found


def _of_the_machine(resolv_conf: Path) -> list[tuple[str, int]]:
    """The name servers of resolv.conf(5), which says that it is this machine where it names none."""
    found = []
    with suppress(OSError):
        for line in resolv_conf.read_text(errors="replace").splitlines():
            words = line.split()
            if len(words) > 1 and words[0] == "nameserver":
                with suppress(ValueError):
                    found.append((str(ip_address(words[1])), 53))
    return found or [("127.0.0.1", 53)]


class Discovery:
    """Asks again whenever an answer no longer counts. `found` is given the servers, `says` what an administrator hears.

    `ask` is `look_up`, with all but the pause between.
    """

    def __init__(
        self,
        ask: Callable[[], Awaitable[Answer]],
        clock: Any,
        found: Callable[[tuple[Place, ...]], None],
        says: Callable[[str, str], None],
    ) -> None:
        self._ask = ask
        self._clock = clock
        self._found = found
        self._says = says
        self.trouble = ""  #: why the last look-up had no answer
        self.asked = False  #: whether there was one
        self._strangers: tuple[str, ...] = ()
        self._places: frozenset[Place] | None = None

    async def once(self) -> float:
        """Ask; the seconds until it is time to ask again. Raises DirectoryDown."""
        try:
            answer = await self._ask()
            self.asked = True
        except DirectoryDown as down:
            if str(down) != self.trouble:
                kept = "; the servers last known are used on" if self._places else ""
                self._says("away", f"{down}{kept}")
            self.trouble, self.asked = str(down), True
            raise
        if self.trouble:
            self._says("back", "")
            self.trouble = ""
        if answer.strangers != self._strangers:
            self._strangers = answer.strangers
            if answer.strangers:
                self._says("strangers", ", ".join(answer.strangers))
        places = frozenset(answer.places)
        if places != self._places:
            self._says("servers", ", ".join(str(place.server) for place in answer.places) or "none")
        self._places = places
        self._found(answer.places)
        return answer.seconds

    async def run(self) -> None:
        """Go on asking; until cancelled."""
        while True:
            try:
                seconds = await self.once()
            except DirectoryDown:
                seconds = _AGAIN
            await pause(self._clock, seconds)
