"""What may be kept for clients: for all of the process together, and for those of one source.

Promised here: of a source that has nothing nothing is remembered, and what is remembered for the log is bounded (A41).
Not in here: what becomes of a client that is too much, and counting right.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Final

from ldapmfa.core.policy import Address, Network

#: For how long, in seconds, nothing more is said of a source, and of how many at most anything is.
_SILENCE: Final = 60.0
_TOLD: Final = 1000


@dataclass
class Share:
    """What the clients of one source have together."""

    octets: int = 0
    connections: int = 0
    logins: int = 0


@dataclass
class Budget:
    """What may be kept for all clients of the process together: octets, connections, logins under way.

    And what for those of one source, an IPv4 address or an IPv6 network of 64 bits; None: as much as for all. Addresses
    in `gateways` are no source, for many clients stand behind one, nor is what has no address.
    """

    octets: int = 256 * 1024 * 1024
    connections: int = 10_000
    logins: int = 5_000
    octets_used: int = 0
    logins_used: int = 0
    source_octets: int | None = None
    source_connections: int | None = None
    source_logins: int | None = None
    gateways: tuple[Network, ...] = ()
    shares: dict[Network, Share] = field(default_factory=dict)
    told: dict[Network, float] = field(default_factory=dict, compare=False)
    told_of_all: float | None = field(default=None, compare=False)

    def source(self, address: Address | None) -> Network | None:
        """Where a client at `address` comes from, as far as that is limited."""
        if (self.source_octets, self.source_connections, self.source_logins) == (None, None, None):
            return None
        if address is None or any(address in network for network in self.gateways):
            return None
        return ipaddress.ip_network((address, 64 if address.version == 6 else 32), strict=False)

    def enter(self, source: Network | None) -> bool:
        """Count one more connection, unless `source` has enough."""
        if _has(self._share(source).connections, self.source_connections):
            return False
        self._count(source, connections=1)
        return True

    def leave(self, source: Network | None) -> None:
        """A connection that was counted is over."""
        self._count(source, connections=-1)

    def may_log_in(self, source: Network | None) -> bool:
        """Whether there is room for one more login."""
        return self.logins_used < self.logins and not _has(self._share(source).logins, self.source_logins)

    def log_in(self, source: Network | None, *, over: bool = False) -> None:
        """Count one more login under way, or one less."""
        difference = -1 if over else 1
        self.logins_used += difference
        self._count(source, logins=difference)

    def keep(self, source: Network | None, octets: int) -> None:
        """So many more octets are kept, or less."""
        self.octets_used += octets
        self._count(source, octets=octets)

    def is_exceeded(self, source: Network | None) -> bool:
        """Whether too many octets are kept for all, or for `source`."""
        limit = self.source_octets
        return self.octets_used > self.octets or (limit is not None and self._share(source).octets > limit)

    def tells(self, source: Network | None, now: float) -> bool:
        """Whether the log is to say at `now`, in the clock's seconds, that `source` has too much."""
        while self.told and now - next(iter(self.told.values())) >= _SILENCE:
            del self.told[next(iter(self.told))]
        if source is None or source in self.told or len(self.told) >= _TOLD:
            return False
        self.told[source] = now
        return True

    def tells_of_all(self, now: float) -> bool:
        """Whether the log is to say at `now` that there are too many of all together."""
        if self.told_of_all is not None and now - self.told_of_all < _SILENCE:
            return False
        self.told_of_all = now
        return True

    def _share(self, source: Network | None) -> Share:
        return (self.shares.get(source) if source else None) or Share()

    def _count(self, source: Network | None, *, octets: int = 0, connections: int = 0, logins: int = 0) -> None:
        if source is None:
            return
        share = self.shares.setdefault(source, Share())
        share.octets += octets
        share.connections += connections
        share.logins += logins
        if share == Share():
            del self.shares[source]


def _has(used: int, limit: int | None) -> bool:
    return limit is not None and used >= limit
