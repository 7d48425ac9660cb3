"""Which servers a directory has, how each of them is, and which is asked next.

Promised here: a server that is known to be down is chosen by nobody while somebody looks after it, and otherwise only
where no other is left; one that says of itself that it is not synchronised, only where nothing better is there; every
change is told once. Not in here: sockets, DNS, and when anybody looks (`health`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final, Literal

from ldapmfa.net.link import Server

#: How a server is: not asked yet; well; well, but behind its fellows, as it says; did not answer in time and is being
#: checked; known not to serve.
Condition = Literal["unknown", "up", "unsynchronised", "suspected", "down"]

#: Whom to prefer: a server that may only be slow to one that knows that its data is old.
_RANK: Final[dict[Condition, int]] = {"unknown": 0, "up": 0, "suspected": 1, "unsynchronised": 2, "down": 3}


@dataclass(frozen=True, slots=True)
class Place:
    """Where one server is, and its turn: the lowest `priority` first, among equals in proportion to `weight`."""

    server: Server
    priority: int = 0
    weight: int = 1


@dataclass(frozen=True, slots=True)
class ServerState:
    """How one server is: since so many `seconds`, and why; `links` are the connections to it that stand."""

    server: Server
    condition: Condition
    seconds: float
    reason: str
    links: int


@dataclass(slots=True)
class _Known:
    place: Place
    since: float
    condition: Condition = "unknown"
    reason: str = ""
    links: int = 0

    @property
    def turn(self) -> tuple[int, int]:
        return _RANK[self.condition], self.place.priority


class Servers:
    """The servers of one directory. `clock` gives seconds; `chance` a number from 0 to 1; `changed` is told who did."""

    def __init__(
        self,
        places: Iterable[Place],
        *,
        clock: Callable[[], float],
        chance: Callable[[], float],
        changed: Callable[[ServerState, Condition], None] = lambda _now, _before: None,
    ) -> None:
        self._clock = clock
        self._chance = chance
        self._changed = changed
        self._known: dict[Server, _Known] = {}
        self._best: frozenset[Server] | None = None
        self.replace(places)

    def replace(self, places: Iterable[Place]) -> None:
        """These are the servers from now on; what is known of those that stay is kept."""
        before, now = self._known, self._clock()
        self._known = {}
        for place in places:
            known = self._known[place.server] = before.get(place.server) or _Known(place, now)
            known.place = place
        self._best = None

    def __iter__(self) -> Iterator[Server]:
        """In no order that counts."""
        return iter(tuple(self._known))

    def __len__(self) -> int:
        return len(self._known)

    # -- choosing

    def choose(self, tried: AbstractSet[Server] = frozenset(), *, desperate: bool = False) -> Server | None:
        """Whom to ask next, of those not `tried`; None: nobody is left. `desperate`: rather one that is down than none.

        Of those whose turn it is (RFC 2782): the one with the fewest links for its weight, by chance among equals. One
        with weight 0 comes behind those of the same priority that have some.
        """
        fit = [known for server, known in self._known.items() if server not in tried]
        if not desperate:
            fit = [known for known in fit if known.condition != "down"]
        if not fit:
            return None
        turn = min(known.turn for known in fit)
        equal = [known for known in fit if known.turn == turn]
        weighty = [known for known in equal if known.place.weight] or equal
        if len(weighty) == 1:
            return weighty[0].place.server
        load = [known.links / (known.place.weight or 1) for known in weighty]
        least = [known for known, links in zip(weighty, load, strict=True) if links == min(load)]
        point = self._chance() * sum(known.place.weight or 1 for known in least)
        for known in least:
            point -= known.place.weight or 1
            if point < 0:
                break
        return known.place.server

    def is_best(self, server: Server) -> bool:
        """Whether its turn is now: nobody who is well comes before it."""
        if self._best is None:
            fit = [known for known in self._known.values() if known.condition != "down"]
            turn = min((known.turn for known in fit), default=None)
            self._best = frozenset(known.place.server for known in fit if known.turn == turn)
        return server in self._best

    # -- what was found out

    def well(self, server: Server, *, synchronised: bool = True) -> None:
        """It answered."""
        why = "" if synchronised else "it says that it is not synchronised (isSynchronized: FALSE)"
        self._turn_out(server, "up" if synchronised else "unsynchronised", why)

    def down(self, server: Server, why: str) -> None:
        """It does not serve."""
        self._turn_out(server, "down", why)

    def suspect(self, server: Server, why: str) -> None:
        """It did not answer in time, for which somebody else may be to blame."""
        known = self._known.get(server)
        if known and known.condition in {"unknown", "up", "unsynchronised"}:
            self._turn_out(server, "suspected", why)

    def _turn_out(self, server: Server, condition: Condition, why: str) -> None:
        known = self._known.get(server)
        if known is None:
            return
        before, known.reason = known.condition, why
        if before != condition:
            known.condition, known.since = condition, self._clock()
            self._best = None
            self._changed(self._state(known), before)

    def connected(self, server: Server) -> None:
        """One more link to it stands."""
        if known := self._known.get(server):
            known.links += 1

    def disconnected(self, server: Server) -> None:
        """One of its links is gone."""
        if (known := self._known.get(server)) and known.links:
            known.links -= 1

    # -- telling

    def states(self) -> tuple[ServerState, ...]:
        """How each is, those whose turn comes first in front."""
        return tuple(map(self._state, sorted(self._known.values(), key=lambda known: known.place.priority)))

    def _state(self, known: _Known) -> ServerState:
        since = self._clock() - known.since
        return ServerState(known.place.server, known.condition, since, known.reason, known.links)

    def complaint(self) -> str:
        """Why nobody can be asked."""
        reasons = "; ".join(known.reason for known in self._known.values() if known.condition == "down")
        return reasons or "no server is known"
