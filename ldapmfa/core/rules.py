"""Which rule an account falls under: groups, places in the tree, flags, networks, hours; and what the rule demands.

Promised here: a rule is compared with what the directory confirmed, never with what was typed, and with whole RDNs,
never with parts of a text (A29). What `ldapmfa explain` shows is `Rule.misses`, which is what decides. Not in here:
where groups are looked up, and what becomes of the login.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Literal

from ldapmfa.core.identity import CannotIdentify, Identity
from ldapmfa.wire import dn

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
#: What a rule demands: one of its factors, or those of the application; nothing but the password; or it lets nobody in.
Action = Literal["factors", "password-only", "refuse"]


def lies_in(client: Address | None, networks: tuple[Network, ...]) -> bool:
    """Whether `client` is in one of `networks`; an address that is not known is in none."""
    return client is not None and any(client in network for network in networks)


@dataclass(frozen=True, slots=True)
class Moment:
    """When a login happens: `seconds` since the epoch, and by the clock on the wall.

    `weekday` is 0 on Mondays, `minute` counts from midnight.
    """

    seconds: float = 0.0
    weekday: int = 0
    minute: int = 0


@dataclass(frozen=True, slots=True)
class Hours:
    """From minute `begins` to minute `ends` of each of `days`; past midnight, into the next day, if it ends earlier.

    A window is called what it was written as.
    """

    days: frozenset[int]
    begins: int
    ends: int
    text: str = ""

    def cover(self, at: Moment) -> bool:
        """Whether `at` lies in them; the last minute does not."""
        if self.begins < self.ends:
            return at.weekday in self.days and self.begins <= at.minute < self.ends
        if at.minute >= self.begins:
            return at.weekday in self.days
        return at.minute < self.ends and (at.weekday - 1) % 7 in self.days


@dataclass(frozen=True, slots=True)
class Circumstances:
    """One login, as far as rules look at it.

    `groups` are those of the groups that rules name in which the account is, as the rules write them.
    """

    identity: Identity
    client: Address | None
    application: str
    at: Moment
    groups: AbstractSet[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: it applies where every condition that is given (not None) holds.

    `groups` are DNs or SIDs, `ous` DNs of entries at or below which the account's entry is, `flags` as
    `ldapmfa.core.identity` names them (one of them is enough, as everywhere), `directory` an identity name. `factors`
    are those of which one must be shown, in the order in which they ask; none: the application's.
    """

    name: str
    action: Action
    factors: tuple[str, ...] = ()
    applications: frozenset[str] | None = None
    directory: str | None = None
    groups: tuple[str, ...] | None = None
    ous: tuple[str, ...] | None = None
    flags: frozenset[str] | None = None
    networks: tuple[Network, ...] | None = None
    hours: tuple[Hours, ...] | None = None

    def misses(self, login: Circumstances) -> list[str]:
        """The conditions that do not hold, in words; none: it applies.

        CannotIdentify: that can't be said, as the directory hides what is asked for.
        """
        identity = login.identity
        missed = []
        if self.applications is not None and login.application not in self.applications:
            missed.append(f"the application is {login.application}, not {_any(self.applications)}")
        if self.directory not in (None, identity.directory):
            missed.append(f"the directory is {identity.directory}, not {self.directory}")
        if self.groups is not None and not any(group in login.groups for group in self.groups):
            missed.append(f"the account is not in {_any(self.groups)}")
        if self.ous is not None and not any(dn.lies_below(identity.dn, place) for place in self.ous):
            missed.append(f"{identity.dn} is not below {_any(self.ous)}")
        hidden = self.flags is not None and identity.hides_flags and not self.flags & identity.flags
        hidden = hidden and self.flags != frozenset({"computer"})  # that is said elsewhere
        if self.flags is not None and not hidden and not self.flags & identity.flags:
            missed.append(f"the account is not {_any(self.flags)}")
        if not self.is_for(login.client):
            client = login.client or "an address that is not known"
            missed.append(f"{client} is not in {_any(map(str, self.networks or ()))}")
        if self.hours is not None and not any(hours.cover(login.at) for hours in self.hours):
            missed.append(f"the time is not {_any(hours.text for hours in self.hours)}")
        if hidden and not missed:
            raise CannotIdentify(f"{identity.dn} hides userAccountControl, which the rule {self.name} is about")
        return missed

    def is_about(self, directory: str, application: str) -> bool:
        """Whether it may hold for some login there."""
        return self.directory in (None, directory) and (self.applications is None or application in self.applications)

    def is_for(self, client: Address | None) -> bool:
        """Whether it may hold for a client there."""
        return self.networks is None or lies_in(client, self.networks)


def _any(words: object) -> str:
    return " or ".join(sorted(words))  # type: ignore[call-overload]
