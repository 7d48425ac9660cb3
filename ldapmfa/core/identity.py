"""Who the directory says was bound: the value every rule, lock, factor and record is keyed on.

Promised here: an identity comes only from answers about the account that was just bound, never from the name that was
typed (A31), and its id survives renames but not deletion (A32). The look-ups of each kind of directory are a
generator that yields `Ask`s and is sent `Found`s; who carries them, and under which message ids, is the shell's
business.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from ldapmfa.wire import dn, ldap
from ldapmfa.wire.ldap import Entry, Result

Kind = Literal["active-directory", "openldap", "389-ds"]


@dataclass(frozen=True, slots=True)
class Identity:
    """One account, as the directory confirmed it on the link that was just bound.

    `directory` is the configured identity name (two ports of one forest may share it), `id` is
    ``guid:`` + 32 hex digits of objectGUID (in the order of its octets), ``uuid:`` + entryUUID or
    ``nsuniqueid:`` + nsUniqueId, all lower case, or ``dn:`` + the normalised DN for an account without an
    entry. `accounts` are the values of sAMAccountName or uid.
    """

    directory: str
    id: str
    dn: str
    accounts: tuple[str, ...] = ()
    upn: str | None = None
    elsewhere: bool = False  #: found at the global catalog: of another domain, where account names are others'
    sids: tuple[bytes, ...] = field(default=(), compare=False, repr=False)  #: Active Directory's: its groups', nested
    flags: frozenset[str] = field(default=frozenset(), compare=False)  #: what `FLAGS` calls it
    hides_flags: bool = field(default=False, compare=False)  #: it may be more: userAccountControl was not shown
    phone: str | None = field(default=None, compare=False, repr=False)  #: as the directory has it, where that counts

    @property
    def key(self) -> str:
        """What the account is called in the store; unambiguous, for a directory's name has no slash."""
        return f"{self.directory}/{self.id}"

    @property
    def has_entry(self) -> bool:
        """Whether the directory holds an entry for it; one without passes only where exempt."""
        return not self.id.startswith("dn:")


@dataclass(frozen=True, slots=True)
class Unidentified:
    """The password was right, and the account must not log in all the same: `reason` and, for the record, `detail`."""

    reason: Literal["must-change-password", "other-domain", "not-a-user"]
    detail: str = ""


class CannotIdentify(Exception):  # noqa: N818 - named as what is the case
    """The directory's answers do not say, or contradict each other on, who was bound: the login is broken."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a rootDSE says of its directory, as far as it matters here."""

    kind: Kind
    who_am_i: bool
    naming_contexts: tuple[str, ...] = ()


ROOT_DSE_ATTRIBUTES: Final = (
    "objectClass",
    "supportedCapabilities",
    "supportedExtension",
    "vendorName",
    "defaultNamingContext",
    "namingContexts",
)
_AD: Final = "1.2.840.113556.1.4.800"
_WHO_AM_I: Final = ldap.OID_WHO_AM_I.decode()


def read_capabilities(root: Entry, override: Kind | None = None) -> Capabilities:
    """What kind of directory has this rootDSE. Raises CannotIdentify for one that can tell nobody's identity."""
    extensions = root.text("supportedExtension")
    kind = override or _kind(root)
    if kind is None:
        raise CannotIdentify(
            "the rootDSE is neither Active Directory's nor OpenLDAP's nor 389 Directory Server's"
            f" (vendorName: {', '.join(root.text('vendorName')) or 'none'})"
        )
    who_am_i = _WHO_AM_I in extensions
    if kind != "active-directory" and not who_am_i:
        raise CannotIdentify(f"the directory ({kind}) does not offer Who am I ({_WHO_AM_I}, RFC 4532)")
    contexts = root.text("defaultNamingContext") or root.text("namingContexts")
    return Capabilities(kind, who_am_i, contexts)


def _kind(root: Entry) -> Kind | None:
    if _AD in root.text("supportedCapabilities"):
        return "active-directory"
    if "openldaprootdse" in (name.lower() for name in root.text("objectClass")):
        return "openldap"
    if any("389 project" in name.lower() for name in root.text("vendorName")):
        return "389-ds"
    return None


@dataclass(frozen=True, slots=True)
class Ask:
    """One request of ours. `on`: the link that was just bound, a link of the service account, or the catalog's.

    `of_itself`: the account that is bound reads its own entry, by the SID that the directory has just named; what it
    shows may be kept for seconds.
    """

    operation: bytes
    on: Literal["bound", "service", "catalog"] = "bound"
    of_itself: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """The answer to an Ask. None stands for a link that is not configured."""

    result: Result
    entries: tuple[Entry, ...] = ()


Asking = Generator[Ask, Found | None, Identity | Unidentified]


def identify(capabilities: Capabilities, directory: str, phone: str | None = None) -> Asking:
    """Find out whom the bind that has just succeeded has bound; `phone` is the attribute whose number counts."""
    if capabilities.kind == "active-directory":
        return (yield from _in_active_directory(capabilities, directory, phone))
    return (yield from _by_who_am_i(capabilities.kind, directory, phone))


def _phone(entry: Entry, attribute: str | None) -> str | None:
    """The account's number, where one attribute of the directory says it, and says one."""
    numbers = entry.text(attribute) if attribute else ()
    return numbers[0] if len(numbers) == 1 else None


AD_ATTRIBUTES: Final = (
    "objectGUID",
    "objectSid",
    "sAMAccountType",
    "sAMAccountName",
    "userPrincipalName",
    "pwdLastSet",
    "userAccountControl",
)

#: What userAccountControl says of an account ([MS-ADTS] 2.2.16), as rules call it.
FLAGS: Final = {
    "password-not-required": 0x20,
    "password-never-expires": 0x10000,
    "smartcard-required": 0x40000,
    "trusted-for-delegation": 0x80000,
    "not-delegated": 0x100000,
    "no-preauthentication": 0x400000,
    "trusted-to-authenticate-for-delegation": 0x1000000,
}
#: userAccountControl as it is written; a text without end would be no number to Python, either.
_FLAG_BITS: Final = re.compile("[0-9]{1,10}", re.ASCII)
#: A computer's account: sAMAccountType 0x30000001.
_COMPUTER: Final = "805306369"


def _flags(entry: Entry) -> frozenset[str]:
    """What the entry of an account at Active Directory is called by rules: `FLAGS`, and "computer"."""
    bits = 0 if _hides_flags(entry) else int(entry.text("userAccountControl")[0])
    found = {name for name, bit in FLAGS.items() if bits & bit}
    return frozenset(found | {"computer"} if entry.text("sAMAccountType") == (_COMPUTER,) else found)


def _hides_flags(entry: Entry) -> bool:
    """Whether the entry of an account at Active Directory does not show userAccountControl, as each has one."""
    shown = entry.text("userAccountControl")
    return len(shown) != 1 or not _FLAG_BITS.fullmatch(shown[0])


_ASK_WHO: Final = Ask(ldap.WHO_AM_I)
_ASK_GROUPS: Final = Ask(ldap.search_request(b"", ("tokenGroups",)))
_PLACES: Final = ("bound", "service", "catalog")


def _in_active_directory(capabilities: Capabilities, directory: str, phone: str | None) -> Asking:
    """The rootDSE's tokenGroups start with the account's own SID ([MS-ADTS] 3.1.1.3.2.23 and 3.1.1.4.5.19)."""
    groups = yield _ASK_GROUPS
    sids = _single(groups, "the rootDSE").attributes.get("tokengroups", ())
    if not sids:
        raise CannotIdentify("the directory names no tokenGroups to the account that was bound")
    sid = sids[0]
    who: str | None = None
    if capabilities.who_am_i:
        who = _who((yield _ASK_WHO))
    attributes = AD_ATTRIBUTES if phone is None else (*AD_ATTRIBUTES, phone)
    operation = ldap.search_request(f"<SID={sid_text(sid)}>".encode(), attributes)
    found: Found | None = None
    for place in _PLACES:
        found = yield Ask(operation, on=place, of_itself=place == "bound")
        if _shows(found, "objectGUID"):
            break
    else:
        return Unidentified("other-domain", f"{sid_text(sid)} is not found here, nor in a global catalog")
    entry = _single(found, sid_text(sid))
    if entry.attributes.get("objectsid") != (sid,):
        raise CannotIdentify(f"the entry found for {sid_text(sid)} has another SID")
    identity = _active_directory_identity(entry, who, sid, directory)
    if isinstance(identity, Unidentified):
        return identity
    elsewhere, number, hides = place == "catalog", _phone(entry, phone), _hides_flags(entry)
    seen = replace(identity, elsewhere=elsewhere, sids=sids[1:], phone=number)
    return replace(seen, flags=_flags(entry), hides_flags=hides)


def _active_directory_identity(entry: Entry, who: str | None, sid: bytes, directory: str) -> Identity | Unidentified:
    guid = entry.attributes.get("objectguid", ())
    names = entry.text("sAMAccountName")
    if len(guid) != 1 or len(guid[0]) != 16 or len(names) != 1:
        raise CannotIdentify(f"the entry {entry.dn} shows no objectGUID or sAMAccountName")
    if not _is_user(entry):
        return Unidentified("not-a-user", f"{entry.dn} has sAMAccountType {entry.text('sAMAccountType')}")
    if who is not None:
        named = who.removeprefix("u:")
        if not who.startswith("u:") or (
            named != sid_text(sid) and dn.prepare(named.rpartition("\\")[2]) != dn.prepare(names[0])
        ):
            raise CannotIdentify(f"Who am I says {who}, tokenGroups say {names[0]}")
    if entry.text("pwdLastSet") == ("0",) and not _never_expires(entry):
        return Unidentified("must-change-password", entry.dn)
    upn = entry.text("userPrincipalName")
    return Identity(directory, f"guid:{guid[0].hex()}", entry.dn, names, upn[0] if len(upn) == 1 else None)


def _is_user(entry: Entry) -> bool:
    """Whether the entry is a user's (0x30000000) or a computer's (0x30000001)."""
    kinds = entry.text("sAMAccountType")
    return len(kinds) == 1 and kinds[0] in ("805306368", _COMPUTER)


def _never_expires(entry: Entry) -> bool:
    """Whether DONT_EXPIRE_PASSWORD (0x10000) is set: then a pwdLastSet of 0 demands no change."""
    return "password-never-expires" in _flags(entry)


#: Answers by which a directory says that it holds no such entry; any other without one is no answer to that.
_NO_ENTRY: Final = (ldap.SUCCESS, ldap.NO_SUCH_OBJECT, ldap.REFERRAL)
_AD_UNIQUE: Final = ("objectGUID", "guid:")
_UNIQUE: Final = {"openldap": ("entryUUID", "uuid:"), "389-ds": ("nsUniqueId", "nsuniqueid:")}


#: What slapo-ppolicy and 389 answer to all but a password change while an account must change its password.
_RESTRICTED: Final = (ldap.INSUFFICIENT_ACCESS_RIGHTS, ldap.UNWILLING_TO_PERFORM)


def _by_who_am_i(kind: Literal["openldap", "389-ds"], directory: str, phone: str | None) -> Asking:
    """RFC 4532, then the entry itself."""
    answer = yield _ASK_WHO
    if _code(answer) in _RESTRICTED:
        return Unidentified("must-change-password", "the directory restricts the account to changing its password")
    who = _who(answer)
    name = who.removeprefix("dn:").strip()
    if not who.startswith("dn:") or not name:
        raise CannotIdentify(f"Who am I says {who or 'nobody'!r}, which is no DN")
    unique, prefix = _UNIQUE[kind]
    attributes: tuple[str, ...] = (unique, "uid", "sAMAccountName", "userPrincipalName")
    operation = ldap.search_request(name.encode(), attributes if phone is None else (*attributes, phone))
    found = yield Ask(operation)
    if _code(found) in _RESTRICTED:
        return Unidentified("must-change-password", "the directory restricts the account to changing its password")
    if not _shows(found, unique):
        found = (yield Ask(operation, on="service")) or found
    if found and found.result.code in _NO_ENTRY and not found.entries:
        try:
            return Identity(directory, f"dn:{dn.normalise(name)}", name)
        except dn.DnError as broken:
            raise CannotIdentify(f"Who am I says {name!r}, which is no DN: {broken}") from None
    entry = _single(found, name)
    if not dn.same(entry.dn, name):
        raise CannotIdentify(f"Who am I says {name}, the entry found is {entry.dn}")
    ids = entry.text(unique)
    if len(ids) != 1:
        raise CannotIdentify(f"the entry {entry.dn} shows no {unique}")
    upn = entry.text("userPrincipalName")
    accounts = entry.text("uid") or entry.text("sAMAccountName")
    named = upn[0] if len(upn) == 1 else None
    return Identity(directory, prefix + ids[0].lower(), entry.dn, accounts, named, phone=_phone(entry, phone))


def _code(found: Found | None) -> int | None:
    return found.result.code if found else None


def _shows(found: Found | None, attribute: str) -> bool:
    return bool(found and found.entries and attribute.lower() in found.entries[0].attributes)


def _who(found: Found | None) -> str:
    if not found or found.result.code != ldap.SUCCESS:
        raise CannotIdentify(f"Who am I was answered with {_code(found)}")
    return found.result.value.decode(errors="replace")


def _single(found: Found | None, what: str) -> Entry:
    if not found or found.result.code != ldap.SUCCESS or len(found.entries) != 1:
        raise CannotIdentify(f"the look-up of {what} was answered with {_code(found)} and not one entry")
    return found.entries[0]


def sid_text(sid: bytes) -> str:
    """A binary SID as text, S-1-5-... ([MS-DTYP] 2.4.2.1). Raises CannotIdentify."""
    if len(sid) < 8 or len(sid) != 8 + 4 * sid[1]:
        raise CannotIdentify("the directory sent a SID that is none")
    authority = int.from_bytes(sid[2:8], "big")
    parts = (int.from_bytes(sid[pos : pos + 4], "little") for pos in range(8, len(sid), 4))
    return "-".join(map(str, ("S", sid[0], authority, *parts)))


_SID: Final = re.compile(r"S-1-(0|[1-9][0-9]{0,14})((?:-(?:0|[1-9][0-9]{0,9})){0,15})", re.ASCII)


def sid_octets(text: str) -> bytes:
    """The SID that is written S-1-5-..., as `sid_text` writes it and in no other way. Raises ValueError."""
    found = _SID.fullmatch(text)
    if found is None:
        raise ValueError(f"{text} is no SID, such as S-1-5-32-544")
    authority, parts = int(found[1]), [int(part) for part in found[2].split("-")[1:]]
    if authority >= 1 << 48 or any(part >= 1 << 32 for part in parts):
        raise ValueError(f"{text} is no SID: a number in it is too large")
    octets = (part.to_bytes(4, "little") for part in parts)
    return bytes([1, len(parts)]) + authority.to_bytes(6, "big") + b"".join(octets)


# -- the account that somebody names, for enrolment through a service account


@dataclass(frozen=True, slots=True)
class NoOneAccount:
    """The name matches no account, or several: `matches` are the DNs of those that the directory showed."""

    matches: tuple[str, ...]


def find_account(
    capabilities: Capabilities, directory: str, name: str, base: str, phone: str | None = None
) -> Generator[Ask, Found | None, Identity | NoOneAccount]:
    """The one account that is called `name`: a DN, a userPrincipalName, an account name, at AD behind a domain, too."""
    attributes, in_ad = account_attributes(capabilities.kind, phone), capabilities.kind == "active-directory"
    where, scope, start = ldap.ANY_ENTRY, ldap.BASE, name
    if not _is_dn(name):
        account, start, scope = name, base, ldap.SUBTREE
        if in_ad and "@" not in name and "\\" in name:
            domain, _, account = name.partition("\\")
            if dn.prepare(domain) not in (yield from _domain_names()):
                return NoOneAccount(())
        named = ("userPrincipalName",) if "@" in name else ("sAMAccountName", "uid")
        if in_ad:
            named = named[:1]  # uid is an ordinary attribute there
        where = ldap.any_of(*(ldap.equals(attribute, account.encode()) for attribute in named))
    found = yield Ask(ldap.search_request(start.encode(), attributes, scope=scope, where=where, most=10), on="service")
    if found is None or found.result.code not in (ldap.SUCCESS, ldap.NO_SUCH_OBJECT, ldap.SIZE_LIMIT_EXCEEDED):
        raise CannotIdentify(f"the search for {name} was answered with {_code(found)}")
    entries = [entry for entry in found.entries if is_account(capabilities.kind, entry)]
    if len(entries) != 1 or found.result.code == ldap.SIZE_LIMIT_EXCEEDED:
        return NoOneAccount(tuple(entry.dn for entry in entries))
    one = account_of(capabilities, directory, entries[0], phone)
    if not in_ad:
        return one
    groups = yield Ask(ldap.search_request(one.dn.encode(), ("tokenGroups",)), on="service")
    sids = groups.entries[0].attributes["tokengroups"] if groups and _shows(groups, "tokenGroups") else ()
    return replace(one, sids=sids)


def account_attributes(kind: Kind, phone: str | None = None) -> tuple[str, ...]:
    """What `account_of` wants to see."""
    names: tuple[str, ...] = AD_ATTRIBUTES
    if kind != "active-directory":
        names = (_UNIQUE[kind][0], "uid", "sAMAccountName", "userPrincipalName")
    return names if phone is None else (*names, phone)


def is_account(kind: Kind, entry: Entry) -> bool:
    """Whether an entry is a user's or a computer's, where that can be told."""
    return kind != "active-directory" or _is_user(entry)


def account_of(capabilities: Capabilities, directory: str, entry: Entry, phone: str | None = None) -> Identity:
    """The account whose entry a service account has read. CannotIdentify: it was not shown enough."""
    ad = capabilities.kind == "active-directory"
    unique, prefix = _AD_UNIQUE if capabilities.kind == "active-directory" else _UNIQUE[capabilities.kind]
    ids = entry.attributes.get(unique.lower(), ())
    if len(ids) != 1:
        raise CannotIdentify(f"the entry {entry.dn} shows no {unique} to the service account")
    identity = prefix + (ids[0].hex() if ad else ids[0].decode(errors="replace").lower())
    accounts = entry.text("sAMAccountName") if ad else entry.text("uid") or entry.text("sAMAccountName")
    upn = entry.text("userPrincipalName")
    found = Identity(
        directory, identity, entry.dn, accounts, upn[0] if len(upn) == 1 else None, phone=_phone(entry, phone)
    )
    return replace(found, flags=_flags(entry), hides_flags=_hides_flags(entry)) if ad else found


def is_taken_alike(capabilities: Capabilities, name: str) -> bool:
    """Whether a bind takes `name` for whom `find_account` finds by it.

    Not so an account name alone: Active Directory may take it for somebody's displayName ([MS-ADTS] 5.1.1.1.1).
    """
    return _is_dn(name) or (capabilities.kind == "active-directory" and ("@" in name) != ("\\" in name))


def _domain_names() -> Generator[Ask, Found | None, set[str]]:
    """What the domain behind the service account's link calls itself: its NetBIOS and its DNS name, prepared."""
    attributes = ("defaultNamingContext", "configurationNamingContext")
    root = _single((yield Ask(ldap.search_request(b"", attributes), on="service")), "the rootDSE")
    domain, configuration = (root.attributes.get(name.lower(), ()) for name in attributes)
    if len(domain) != 1 or len(configuration) != 1:
        raise CannotIdentify("the rootDSE does not name the domain and its configuration")
    partitions = b"CN=Partitions," + configuration[0]
    names = ("nETBIOSName", "dnsRoot")
    where = ldap.equals("nCName", domain[0])
    found = yield Ask(ldap.search_request(partitions, names, scope=ldap.SUBTREE, where=where, most=2), on="service")
    entry = _single(found, "the domain's own name")
    return {dn.prepare(value) for name in names for value in entry.text(name)}


def _is_dn(name: str) -> bool:
    try:
        return "=" in name and bool(dn.parse(name))
    except dn.DnError:
        return False
