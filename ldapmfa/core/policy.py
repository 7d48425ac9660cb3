"""Which factors this identity, from this place, must show; and whether a code is to be cut from what was typed.

An account is exempt only by the identity that the directory confirmed. What is known of the *typed* name is a hint:
it decides whether a code is cut off before the directory is asked, so a wrong hint can only cause a refusal.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ldapmfa.core.identity import Identity
from ldapmfa.wire import dn

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
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
        return self.networks is None or (client is not None and any(client in network for network in self.networks))

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

    `codeless`: the last success under this name needed no code; `enrolled`: an account of that name has a factor;
    `pending`: an enrolment waits for one.
    """

    codeless: bool = False
    enrolled: bool = False
    pending: bool = False


@dataclass(frozen=True, slots=True)
class Policy:
    """What a listener asks of those who log in through it.

    `approval`: the kind of the factor that asks the account's owner where no code was typed, if there is one.
    """

    exempt: Sequence[Exempt] = ()
    unenrolled: Literal["refuse", "password-only"] = "refuse"
    approval: str | None = None

    def exempts(self, identity: Identity, client: Address | None) -> bool:
        """Whether the account that was bound needs no code from where the client is."""
        return any(entry.covers(client, identity.directory) and entry.is_account(identity) for entry in self.exempt)

    def shape(
        self, name: str, recall: Recall, refused: Shape | None, client: Address | None, directory: str
    ) -> Shape:
        """Whether to cut a code from a password typed for `name` (normalised).

        `refused` is the shape in which this name's last attempt was refused by the directory, if that was lately:
        where a password alone may do and the name is unknown, the other one is tried next.
        """
        if any(entry.covers(client, directory) and dn.normalise_name(entry.account) == name for entry in self.exempt):
            return "whole"
        if recall.pending or recall.enrolled:
            return "cut"
        if recall.codeless:
            return "whole"
        if self.unenrolled == "refuse" and self.approval is None:
            return "cut"
        return "cut" if refused == "whole" else "whole"
