"""In which of the groups that rules name an account is, through other groups too.

Promised here: what can't be found out is CannotIdentify, never "not in it": a rule that names a group which does not
exist, is none, or hides its members, would silently never apply. Active Directory says itself in which groups it has
bound an account (`Identity.sids`), so that a group need only be turned into its SID; at OpenLDAP and 389 the groups are
followed upwards, from the account's DN. Not in here: for how long any of this is remembered.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ldapmfa.core.identity import Ask, CannotIdentify, Capabilities, Found, Identity, sid_octets, sid_text
from ldapmfa.wire import dn, ldap
from ldapmfa.wire.ldap import Entry

#: What a group is compared by: its SID's octets at Active Directory, elsewhere its DN, normalised.
Mark = bytes | str

#: How many groups above each other are followed, and how many in all; an account that is in more is not placed.
DEEPEST: Final = 20
MOST: Final = 2000
#: How many groups one search asks about.
_AT_ONCE: Final = 50


@dataclass(frozen=True, slots=True)
class Placed:
    """Where an account is: `groups` of those that were asked for, as they are written.

    `marks` is what each of these is compared by, `own` the marks of everything that the account is in; both may be
    given to a later `find_groups`.
    """

    groups: frozenset[str]
    marks: Mapping[str, Mark]
    own: frozenset[Mark]


Placing = Generator[Ask, Found | None, Placed]


def find_groups(
    capabilities: Capabilities,
    identity: Identity,
    groups: Sequence[str],
    *,
    base: str | None = None,
    bound: bool = True,
    known: Mapping[str, Mark] | None = None,
    own: frozenset[Mark] | None = None,
) -> Placing:
    """In which of `groups` (DNs or SIDs) is the account? `known` and `own` are what a `Placed` said lately.

    `base` is where to look where the rootDSE names no naming context for it; `bound`: whether the account is bound.
    """
    if capabilities.kind == "active-directory":
        if not identity.sids:
            raise CannotIdentify(f"the directory does not say in which groups {identity.dn} is")
        own = frozenset(identity.sids)
    elif own is None:
        own = yield from _upwards(identity, _bases(capabilities, identity, groups, base))
    marks: dict[str, Mark] = {}
    for group in groups:
        if known and group in known:
            marks[group] = known[group]
        elif capabilities.kind == "active-directory":
            marks[group] = yield from _sid(group, own, bound=bound)
        else:
            marks[group] = yield from _name(capabilities, group, own)
    return Placed(frozenset(group for group, mark in marks.items() if mark in own), marks, own)


def _missing(group: str, why: str) -> CannotIdentify:
    return CannotIdentify(f"the group {group}, which a rule names, {why}")


# -- Active Directory

#: Of groupType: the group is one of those that are part of a token ([MS-ADTS] 2.2.12).
_SECURITY_ENABLED: Final = 0x80000000
_GROUP_TYPE: Final = re.compile("-?[0-9]{1,10}", re.ASCII)


def _sid(group: str, own: frozenset[Mark], *, bound: bool) -> Generator[Ask, Found | None, bytes]:
    """The SID of a group that is there; one that is part of the account's token is."""
    sid = None
    if not _is_dn(group):
        try:
            sid = sid_octets(group)
        except ValueError:
            raise _missing(group, "is neither a DN nor a SID") from None
        if sid in own:
            return sid
    name = group if sid is None else f"<SID={sid_text(sid)}>"
    operation = ldap.search_request(name.encode(), ("objectSid", "groupType", "objectClass"))
    codes = []
    for place in ("bound", "service", "catalog"):
        if place == "bound" and not bound:
            continue
        found = yield Ask(operation, on=place)
        if found and len(found.entries) == 1 and found.result.code == ldap.SUCCESS:
            sids = found.entries[0].attributes.get("objectsid", ())
            if len(sids) == 1:
                return _confirmed(group, sid, found.entries[0], sids[0])
        codes += [str(found.result.code)] if found else []
    raise _missing(group, f"is not found at the directory (result {', '.join(codes) or 'none'})")


def _confirmed(group: str, sid: bytes | None, entry: Entry, shown: bytes) -> bytes:
    """The SID that the entry shows, if that is the entry of the group, and one of which tokens tell."""
    if shown != sid and not (sid is None and dn.same(entry.dn, group)):
        raise _missing(group, f"was looked up, and {entry.dn} found")
    kinds = entry.text("groupType")
    if "foreignsecurityprincipal" not in (name.lower() for name in entry.text("objectClass")):
        if len(kinds) != 1 or not _GROUP_TYPE.fullmatch(kinds[0]):
            raise _missing(group, "is no group")
        if not int(kinds[0]) & _SECURITY_ENABLED:
            raise _missing(group, "is a distribution group, and only of security groups does the directory tell")
    return shown


# -- OpenLDAP and 389

#: Who is in a group by its DN.
_MEMBERS: Final = ("member", "uniqueMember")
#: Classes of groups whose entries always have members, and of others that are looked at; a group may have no member at
#: 389 in any of them.
_NEVER_EMPTY: Final = frozenset({"groupofnames", "groupofuniquenames"})
_GROUPS: Final = _NEVER_EMPTY | {"groupofmembers", "posixgroup"}
_HAS_MEMBERS: Final = ldap.any_of(*(ldap.present(attribute) for attribute in (*_MEMBERS, "memberUid")))


def _bases(capabilities: Capabilities, identity: Identity, groups: Sequence[str], base: str | None) -> tuple[str, ...]:
    """Where groups are looked for: below the naming contexts of the account and of the groups that are named."""
    names = (identity.dn, *groups)
    contexts = (*capabilities.naming_contexts, *([base] if base else ()))
    bases = tuple(context for context in contexts if any(dn.lies_below(name, context) for name in names))
    for group in groups:
        if not any(dn.lies_below(group, base) for base in bases):
            raise _missing(group, "is no DN below a naming context of the directory, nor below base_dn")
    return tuple(
        base for number, base in enumerate(bases) if not any(dn.lies_below(base, other) for other in bases[:number])
    )


def _asked(operation: bytes) -> Generator[Ask, Found | None, Found]:
    """What the service account sees, or where there is none, the account itself."""
    found = yield Ask(operation, on="service")
    if found is None:
        found = yield Ask(operation)
    if found is None:
        raise CannotIdentify("there is nobody as whom groups can be looked up")
    return found


def _upwards(identity: Identity, bases: tuple[str, ...]) -> Generator[Ask, Found | None, frozenset[Mark]]:
    """All groups of the account: by its DN, and by its name where a group has names; then the groups of these."""
    own: set[Mark] = set()
    todo = [identity.dn]
    names = [ldap.equals("memberUid", name.encode()) for name in identity.accounts]
    for _ in range(DEEPEST):
        above: list[str] = []
        for start in range(0, len(todo), _AT_ONCE):
            below = todo[start : start + _AT_ONCE]
            members = [ldap.equals(attribute, name.encode()) for name in below for attribute in _MEMBERS]
            for base in bases:
                found = yield from _asked(_search(base, ldap.any_of(*members, *names)))
                if found.result.code != ldap.SUCCESS:
                    why = f"the search for groups below {base} was answered with {found.result.code}"
                    raise CannotIdentify(why)
                new = {dn_mark(entry.dn): entry.dn for entry in found.entries}
                above += [name for mark, name in new.items() if mark not in own]
                own |= new.keys()
            if len(own) > MOST:
                raise CannotIdentify(f"{identity.dn} is in more than {MOST} groups")
        names = []
        todo = above
        if not todo:
            return frozenset(own)
    raise CannotIdentify(f"{identity.dn} is in groups that are nested more than {DEEPEST} deep")


def _search(base: str, where: bytes) -> bytes:
    return ldap.search_request(base.encode(), ("1.1",), scope=ldap.SUBTREE, where=where)


def dn_mark(name: str) -> str:
    """What a group of OpenLDAP or 389 is compared by."""
    try:
        return dn.normalise(name)
    except dn.DnError as broken:
        raise CannotIdentify(f"{name} is no DN: {broken}") from broken


def _name(capabilities: Capabilities, group: str, own: frozenset[Mark]) -> Generator[Ask, Found | None, str]:
    """The mark of a group that is there, and whose members can be searched for."""
    mark = dn_mark(group)
    if mark in own:
        return mark
    found = yield from _asked(ldap.search_request(group.encode(), ("objectClass",), where=_HAS_MEMBERS))
    if found.result.code == ldap.SUCCESS and len(found.entries) == 1:
        return mark
    found = yield from _asked(ldap.search_request(group.encode(), ("objectClass",)))
    if found.result.code != ldap.SUCCESS or len(found.entries) != 1:
        raise _missing(group, f"is not found at the directory (result {found.result.code})")
    classes = {name.lower() for name in found.entries[0].text("objectClass")}
    if not classes & _GROUPS:
        raise _missing(group, "is no group")
    if capabilities.kind == "openldap" and classes & _NEVER_EMPTY:
        raise _missing(group, "does not show its members to whom it is asked as")
    return mark


def _is_dn(name: str) -> bool:
    try:
        return bool(dn.parse(name))
    except dn.DnError:
        return False
