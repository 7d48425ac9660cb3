"""Which factors this identity, from this place, at this door, must show, and how it is asked; what is cut as a code.

The first rule that applies decides; without one, the application. An account is exempt only by the identity that the
directory confirmed. What is known of the *typed* name is a hint: it decides whether a code is cut off before the
directory is asked, so a wrong hint can only cause a refusal.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Final, Literal

from ldapmfa.core.identity import Identity
from ldapmfa.core.rules import Action, Address, Circumstances, Moment, Network, Rule, lies_in
from ldapmfa.wire import dn

__all__ = ["Address", "Choice", "Decision", "Exempt", "Network", "Policy", "Recall", "ServiceRule", "Shape"]

Shape = Literal["cut", "whole"]


@dataclass(frozen=True, slots=True)
class Exempt:
    """An account that needs no code: a DN, a userPrincipalName, or an account name (sAMAccountName or uid).

    `networks` None: from everywhere, else only from these; an address that is not known lies in none.
    `directory` None: in whichever directory.
    """

    account: str
    networks: tuple[Network, ...] | None = None
    directory: str | None = None

    def covers(self, client: Address | None, directory: str) -> bool:
        """Whether a client at `client` may use this entry in `directory`."""
        if self.directory not in (None, directory):
            return False
        return self.networks is None or lies_in(client, self.networks)

    def is_account(self, identity: Identity) -> bool:
        """Whether `identity` is this account; of several account names none counts, nor another domain's."""
        if "=" in self.account:
            return dn.same(self.account, identity.dn)
        name = dn.prepare(self.account)
        if "@" in self.account:
            return identity.upn is not None and dn.prepare(identity.upn) == name
        return not identity.elsewhere and len(identity.accounts) == 1 and dn.prepare(identity.accounts[0]) == name


@dataclass(frozen=True, slots=True)
class Recall:
    """What the store remembers of a typed name.

    `codeless`: the last success under this name needed no code, though what was typed may have looked like one;
    `coded`: it did need one, or what was typed did not look like one; `enrolled`: an account of that name has a factor;
    `pending`: an enrolment waits for one.
    """

    codeless: bool = False
    coded: bool = False
    enrolled: bool = False
    pending: bool = False


@dataclass(frozen=True, slots=True)
class ServiceRule:
    """A service at which factors are verified: how it may be asked, of accounts in which directory (None: in any).

    `opens`: whether its users are let in by password alone while it can't be reached.
    """

    name: str
    methods: Sequence[str] = ()
    takes_codes: bool = False
    opens: bool = False
    directory: str | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to ask an account's owner: at which service, how ("" as it prefers), on which device ("" any)."""

    service: str
    method: str = ""
    device: str = ""


#: The preferred method of an account whose owner is never asked, and types codes.
CODES_ONLY: Final = "code"


@dataclass(frozen=True, slots=True)
class Decision:
    """What a login must show: `action`, by the rule that is called `rule` ("" is the application's own word).

    `policy` is the application's with what is accepted here in the place of what is accepted elsewhere.
    """

    action: Action | Literal["exempt"]
    policy: Policy
    rule: str = ""


#: What becomes of accounts without a second factor.
Unenrolled = Literal["refuse", "password-only", "grace"]


@dataclass(frozen=True, slots=True)
class Policy:
    """What an application asks of those who log in through it.

    `services` are asked in this order where no code was typed, `kinds` are the factors computed here whose codes count
    (None: all there are). `unenrolled` "grace": let in for `grace_seconds` since they were first seen. `reuses`:
    whether a success, or an approval that came late, may count for an equal bind. `tells`: whether who has shown a
    factor is told that the password has expired, or must be changed, as the directory said it. `rules` are looked at in
    their order; `others` are the services that rules may name besides.
    """

    exempt: Sequence[Exempt] = ()
    unenrolled: Unenrolled = "refuse"
    services: Sequence[ServiceRule] = ()
    reuses: bool = False
    kinds: AbstractSet[str] | None = None
    grace_seconds: float = 0.0
    tells: bool = False
    application: str = ""
    rules: Sequence[Rule] = ()
    others: Sequence[ServiceRule] = ()

    def exempts(self, identity: Identity, client: Address | None) -> bool:
        """Whether the account that was bound needs no code from where the client is."""
        return any(entry.covers(client, identity.directory) and entry.is_account(identity) for entry in self.exempt)

    def groups(self, directory: str) -> tuple[str, ...]:
        """The groups in which it may matter whether an account of `directory` is, as rules write them."""
        named = [rule.groups or () for rule in self.rules if rule.is_about(directory, self.application)]
        return tuple(dict.fromkeys(group for groups in named for group in groups))

    def decide(self, identity: Identity, client: Address | None, at: Moment, groups: AbstractSet[str]) -> Decision:
        """What this account must show from there, now. A rule that refuses goes before an exemption, others do not."""
        login = Circumstances(identity, client, self.application, at, groups)
        rule = next((rule for rule in self.rules if not rule.misses(login)), None)
        if rule and rule.action == "refuse":
            return Decision("refuse", self, rule.name)
        if self.exempts(identity, client):
            return Decision("exempt", self)
        if rule is None:
            return Decision("factors", self)
        return Decision(rule.action, self._with(rule.factors), rule.name)

    def _with(self, factors: Sequence[str]) -> Policy:
        """The same with `factors` in the place of the application's; with none of them, as it is."""
        if not factors:
            return self
        known = {service.name: service for service in (*self.others, *self.services)}
        services = tuple(known[name] for name in factors if name in known)
        return replace(self, services=services, kinds=frozenset(factors) - frozenset(known))

    @property
    def accepts(self) -> AbstractSet[str] | None:
        """The factors and services of which one must have been shown; None: whichever there are."""
        return None if self.kinds is None else self.kinds | {service.name for service in self.services}

    def grace(self, at: Moment, first_seen: float | None) -> float:
        """For how many seconds yet one without a second factor is let in by password alone; none is 0."""
        if self.unenrolled != "grace":
            return 0.0
        since = at.seconds if first_seen is None else first_seen
        return max(0.0, since + self.grace_seconds - at.seconds)

    def code_services(self, directory: str) -> list[str]:
        """The services that verify codes of accounts in `directory` which nobody announced."""
        return [rule.name for rule in self._of(directory) if rule.takes_codes]

    def choices(self, directory: str, typed: str | None, preferred: str | None) -> list[Choice]:
        """How to ask an account in `directory`: as was `typed`, else as `preferred`, else in the configured order.

        Both are written ``SERVICE/METHOD:DEVICE`` or a part of it. What is preferred counts as long as there is such
        a way; what was typed must be one.
        """
        rules = [rule for rule in self._of(directory) if rule.methods]
        if typed is not None:
            return _ways(rules, typed)
        if preferred == CODES_ONLY:
            return []
        ways = _ways(rules, preferred) if preferred is not None else []
        return ways or [Choice(rule.name) for rule in rules]

    def serve(self, directory: str) -> list[str]:
        """The services for accounts in `directory`, whether or not any of them can be asked."""
        return [rule.name for rule in self._of(directory)]

    def opens(self, service: str) -> bool:
        """Whether an outage of `service` lets its users in."""
        return any(rule.opens for rule in self.services if rule.name == service)

    def _of(self, directory: str) -> list[ServiceRule]:
        return [rule for rule in self.services if rule.directory in (None, directory)]

    def _known(self, directory: str) -> bool:
        """Whether any service may be asked of accounts there, be it by a rule."""
        return any(rule.directory in (None, directory) for rule in (*self.services, *self.others))

    def _may_skip(self, directory: str, client: Address | None) -> bool:
        """Whether a rule may let somebody in by password alone from where the client is."""
        return any(
            rule.action == "password-only" and rule.is_about(directory, self.application) and rule.is_for(client)
            for rule in self.rules
        )

    def shape(
        self,
        name: str,
        recall: Recall,
        refused: Shape | None,
        client: Address | None,
        directory: str,
        *,
        marked: bool = False,
    ) -> Shape:
        """Whether to cut a code, or a keyword, from a password typed for `name` (normalised).

        `refused` is the shape in which this name's last attempt was refused by the directory, if that was lately:
        where a password alone may do and the name is unknown, the other one is tried next. `marked`: a delimiter
        stands before what would be cut.
        """
        if any(entry.covers(client, directory) and dn.normalise_name(entry.account) == name for entry in self.exempt):
            return "whole"
        if recall.pending or recall.enrolled:
            return "cut"
        if recall.codeless:
            return "cut" if self._known(directory) and refused == "whole" else "whole"
        if self.unenrolled == "refuse" and not self._known(directory) and not self._may_skip(directory, client):
            return "cut"
        if marked and self._known(directory):
            return "cut"  # who has such a password adds a keyword; strangers' refusals must not change it for others
        first: Shape = "cut" if recall.coded and self._known(directory) else "whole"
        if refused != first:
            return first
        return "whole" if first == "cut" else "cut"


_WAY: Final = re.compile(r"(?:([^/:]+)/)?([^/:]*)(?::(.+))?", re.DOTALL)


def _ways(rules: Sequence[ServiceRule], text: str) -> list[Choice]:
    """The ways that `text` means: of the service it names, or of every one that has the method, in order."""
    found = _WAY.fullmatch(text)
    if found is None:
        return []
    service, method, device = found[1], found[2], found[3] or ""
    if service is None and any(rule.name == method for rule in rules):
        service, method = method, ""
    return [
        Choice(rule.name, method, device)
        for rule in rules
        if service in (None, rule.name) and (method in rule.methods or (service and not method))
    ]
