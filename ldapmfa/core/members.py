"""Who is in a group, through others too, as a service account sees it: for enrolling many at once.

Promised here: each account comes once, and no group twice, whatever circle of groups there is; where the directory
shows less than all, that is an error and no shorter list. Not in here: what is done with them.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Final

from ldapmfa.core.identity import (
    Ask,
    CannotIdentify,
    Capabilities,
    Found,
    Identity,
    account_attributes,
    account_of,
    is_account,
)
from ldapmfa.wire import dn, ldap
from ldapmfa.wire.ldap import Entry

#: The rule by which Active Directory follows groups in groups ([MS-ADTS] 3.1.1.3.4.4.3).
_IN_CHAIN: Final = "1.2.840.113556.1.4.1941"
#: Accounts and groups that are read at most, where each takes a question.
MOST: Final = 10_000
_MEMBERS: Final = ("member", "uniqueMember")

Asking = Generator[Ask, Found | None, "Members"]


@dataclass(frozen=True, slots=True)
class Members:
    """The accounts in a group; `unread` are the DNs of members that could not be read, or are no accounts."""

    accounts: tuple[Identity, ...]
    unread: tuple[str, ...] = ()


def find_members(
    capabilities: Capabilities, directory: str, group: str, base: str, phone: str | None = None
) -> Asking:
    """The accounts in the group with the DN `group`; at Active Directory, those below `base`.

    CannotIdentify: there is no such group, or the directory does not show all of it.
    """
    if capabilities.kind == "active-directory":
        return (yield from _by_chain(capabilities, directory, group, base, phone))
    return (yield from _by_reading(capabilities, directory, group, phone))


def _by_chain(capabilities: Capabilities, directory: str, group: str, base: str, phone: str | None) -> Asking:
    there = yield Ask(ldap.search_request(group.encode(), ("objectClass",)), on="service")
    _checked(there, group)
    attributes = account_attributes(capabilities.kind, phone)
    where = ldap.matches_rule("memberOf", _IN_CHAIN, group.encode())
    operation = ldap.search_request(base.encode(), attributes, scope=ldap.SUBTREE, where=where)
    found = yield Ask(operation, on="service")
    if found is not None and found.result.code == ldap.SIZE_LIMIT_EXCEEDED:
        raise CannotIdentify(
            f"{group} has more members than the directory shows at once ({len(found.entries)}): name smaller groups"
        )
    if found is None or found.result.code != ldap.SUCCESS:
        raise CannotIdentify(f"the search for the members of {group} was answered with {_code(found)}")
    accounts: list[Identity] = []
    unread: list[str] = []
    for entry in found.entries:
        if is_account(capabilities.kind, entry):
            account = _account(capabilities, directory, entry, phone)
            accounts += [account] if account else []
            unread += [] if account else [entry.dn]
    return Members(tuple(accounts), tuple(unread))


def _by_reading(capabilities: Capabilities, directory: str, group: str, phone: str | None) -> Asking:
    attributes = (*account_attributes(capabilities.kind, phone), *_MEMBERS)
    accounts: dict[str, Identity] = {}
    unread: list[str] = []
    seen: set[str] = set()
    waiting = [group]
    while waiting:
        name = waiting.pop(0)
        if _spelled(name) in seen:
            continue
        seen.add(_spelled(name))
        if len(seen) > MOST:
            raise CannotIdentify(f"{group} has more than {MOST} members: name smaller groups")
        found = yield Ask(ldap.search_request(name.encode(), attributes), on="service")
        if name is group:
            _checked(found, group)
        if found is None or found.result.code != ldap.SUCCESS or len(found.entries) != 1:
            unread.append(name)
            continue
        entry = found.entries[0]
        inside = [member for attribute in _MEMBERS for member in entry.text(attribute)]
        if inside or name is group:
            waiting += inside
            continue
        account = _account(capabilities, directory, entry, phone)
        if account is None:
            unread.append(name)
        else:
            accounts[account.key] = account
    return Members(tuple(accounts.values()), tuple(unread))


def _account(capabilities: Capabilities, directory: str, entry: Entry, phone: str | None) -> Identity | None:
    try:
        return account_of(capabilities, directory, entry, phone)
    except CannotIdentify:
        return None


def _spelled(name: str) -> str:
    """One spelling for a DN's spellings; a name with a unique identifier behind it (RFC 4517) is none."""
    try:
        return dn.normalise(name)
    except dn.DnError:
        return name


def _checked(found: Found | None, group: str) -> None:
    if found is None or found.result.code != ldap.SUCCESS or len(found.entries) != 1:
        raise CannotIdentify(f"the group {group} is not found at the directory (result {_code(found)})")


def _code(found: Found | None) -> int | None:
    return found.result.code if found else None
