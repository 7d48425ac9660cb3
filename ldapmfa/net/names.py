"""Addresses of hosts, kept: a DNS that hangs or is gone neither delays whoever connects nor uses up the threads.

Promised here: each name is looked up once at a time, however many want it; an address that was known is given at
once, and looked up anew behind that; it goes on being given where the DNS says nothing. Not in here: who is asked,
which is the machine's own resolver, and SRV records (`discovery`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from twisted.internet.interfaces import IHostnameResolver, IHostResolution, IResolutionReceiver
from zope.interface import implementer

#: Seconds after which an address is looked up anew; the resolver does not say how long it counts.
_FRESH: Final = 30.0
#: Names of which something is known, at most.
_MOST: Final = 1000

_Name = tuple[str, int, tuple[type, ...] | None, str]


@dataclass(slots=True)
class _Known:
    addresses: tuple[Any, ...] = ()
    at: float = float("-inf")
    asking: bool = False
    failed: bool = False
    waiting: list[Any] = field(default_factory=list)


@implementer(IHostResolution)
class _Resolution:
    """Which name it is about."""

    def __init__(self, name: str) -> None:
        self.name = name

    def cancel(self) -> None:
        """Nobody does; whoever has waited long enough does not listen any more."""


@implementer(IResolutionReceiver)
class _Collector:
    """Takes what the resolver finds for one name."""

    def __init__(self, done: Callable[[tuple[Any, ...]], None]) -> None:
        self._done = done
        self._found: list[Any] = []

    def resolutionBegan(self, _resolution: Any) -> None:
        """It looks."""

    def addressResolved(self, address: Any) -> None:
        """One more."""
        self._found.append(address)

    def resolutionComplete(self) -> None:
        """That is all."""
        self._done(tuple(self._found))


@implementer(IHostnameResolver)
class Names:
    """Stands before `resolver`; `clock` gives seconds.

    `says` is told of a name that it can't be looked up (False), and later that it can be again (True).
    """

    def __init__(self, resolver: Any, clock: Callable[[], float], says: Callable[[str, bool], None]) -> None:
        self._resolver = resolver
        self._clock = clock
        self._says = says
        self._known: dict[_Name, _Known] = {}

    def resolveHostName(
        self,
        resolutionReceiver: Any,  # noqa: N803 - Twisted's
        hostName: str,  # noqa: N803
        portNumber: int = 0,  # noqa: N803
        addressTypes: Sequence[type] | None = None,  # noqa: N803
        transportSemantics: str = "TCP",  # noqa: N803
    ) -> Any:
        """As IHostnameResolver has it."""
        kinds = None if addressTypes is None else tuple(addressTypes)
        known = self._of((hostName, portNumber, kinds, transportSemantics))
        resolution = _Resolution(hostName)
        resolutionReceiver.resolutionBegan(resolution)
        stale = self._clock() - known.at >= _FRESH
        if known.addresses:
            _tell(resolutionReceiver, known.addresses)
        else:
            known.waiting.append(resolutionReceiver)
        if not known.asking and (stale or known.waiting):
            known.asking = True

            def done(found: tuple[Any, ...]) -> None:
                self._found(hostName, known, found)

            self._resolver.resolveHostName(_Collector(done), hostName, portNumber, addressTypes, transportSemantics)
        return resolution

    def _of(self, name: _Name) -> _Known:
        """What is known of `name`; the names that were asked for last are kept."""
        known = self._known[name] = self._known.pop(name) if name in self._known else _Known()
        if len(self._known) > _MOST:
            del self._known[next(iter(self._known))]  # who waits for it is told all the same
        return known

    def _found(self, name: str, known: _Known, addresses: tuple[Any, ...]) -> None:
        known.asking, known.at = False, self._clock()
        known.addresses = addresses or known.addresses
        if known.failed != (not addresses):
            known.failed = not addresses
            self._says(name, not known.failed)
        waiting, known.waiting = known.waiting, []
        for receiver in waiting:
            _tell(receiver, known.addresses)


def _tell(receiver: Any, addresses: tuple[Any, ...]) -> None:
    for address in addresses:
        receiver.addressResolved(address)
    receiver.resolutionComplete()
