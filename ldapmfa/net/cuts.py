"""Accounts that were cut off: whoever is bound as one is turned away, and whoever is about to be.

Promised here: once an account was cut off, nobody is bound as it by a login that began before that (A44). Not in here:
who cuts accounts off, and whether a later login is refused, which the store knows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, Final, Protocol

#: Seconds after which a cut is forgotten: no login takes that long, for a deadline is a day at most.
_REMEMBERED: Final = 90_000.0
#: What a client is told; it says nothing of who cut the account off, and why.
FAREWELL: Final = "This session has been ended."


class Bound(Protocol):
    """A client, which may be bound."""

    @property
    def account(self) -> str | None:
        """The key of the account that it is bound as."""

    def revoke(self, reason: str) -> None:
        """Turn it away."""


class Cuts:
    """When which account was cut off; `clock` is the one that logins are timed by (an IReactorTime)."""

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self._when: dict[str, float] = {}  # the last comes last

    def cut(self, accounts: Collection[str], clients: Iterable[Bound], reason: str = FAREWELL) -> int:
        """Cut `accounts` off, by their keys, and turn away who of `clients` is bound as one; how many that were."""
        now, keys = self._clock.seconds(), frozenset(accounts)
        while self._when and now - next(iter(self._when.values())) >= _REMEMBERED:
            del self._when[next(iter(self._when))]
        for key in keys:
            self._when.pop(key, None)
            self._when[key] = now
        bound = [client for client in clients if client.account in keys]
        for client in bound:
            client.revoke(reason)
        return len(bound)

    def since(self, began: float, account: str) -> bool:
        """Whether `account` was cut off since a login began, at `began` of the clock's seconds."""
        when = self._when.get(account)
        return when is not None and when >= began
