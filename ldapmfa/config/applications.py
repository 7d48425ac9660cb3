"""The settings of applications and rules: who must show what, where, and what may be done then.

Not in here: the other tables (`settings`), and what decides by them (`ldapmfa.core.policy`, `ldapmfa.core.rules`).
"""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, ValidationInfo

from ldapmfa.config import checks
from ldapmfa.config.tables import Table
from ldapmfa.config.values import DirectoryName, Factor, Flag, Network, Number, Seconds, Text, Whole, nearest
from ldapmfa.core.rules import Hours
from ldapmfa.core.writes import denied_types
from ldapmfa.wire import dn

#: What becomes of accounts without a second factor.
UserMatch = Literal["refuse", "password-only", "grace"]

_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_HOURS: Final = re.compile(
    r"(?:(?P<days>[a-z]{3}(?:-[a-z]{3})?(?:,[a-z]{3}(?:-[a-z]{3})?)*) )?"
    r"(?P<begin>[0-9]{2}):(?P<begins>[0-9]{2})-(?P<end>[0-9]{2}):(?P<ends>[0-9]{2})"
)
_WRONG_HOURS: Final = (
    'must be days and hours, for example "mon-fri 08:00-18:00", "sat,sun 00:00-24:00" or "22:00-06:00"'
)


def hours_of(text: str) -> Hours:
    """The hours that `text` names, such as "mon-fri 08:00-18:00"; every day if it names none."""
    found = _HOURS.fullmatch(text.strip().lower())
    if found is None:
        raise ValueError(_WRONG_HOURS)
    days: set[int] = set()
    for part in (found["days"] or "mon-sun").split(","):
        first, _, last = part.partition("-")
        if first not in _DAYS or (last or first) not in _DAYS:
            raise ValueError(_WRONG_HOURS)
        begin, end = _DAYS.index(first), _DAYS.index(last or first)
        days |= {day % 7 for day in range(begin, end + 1 if end >= begin else end + 8)}
    begins, ends = (
        int(hour) * 60 + int(minute)
        for hour, minute in ((found["begin"], found["begins"]), (found["end"], found["ends"]))
    )
    minutes = (int(found["begins"]), int(found["ends"]))
    if max(minutes) > 59 or begins >= 24 * 60 or ends > 24 * 60 or begins == ends:
        raise ValueError(_WRONG_HOURS)
    return Hours(frozenset(days), begins, ends, text.strip())


def _hours(text: str) -> str:
    hours_of(text)
    return text


def _place(text: str) -> str:
    try:
        if dn.parse(text):
            return text
    except dn.DnError as wrong:
        raise ValueError(f"is not a distinguished name: {wrong}") from None
    raise ValueError('must be a distinguished name, for example "ou=staff,dc=example,dc=com"')


def _group(text: str) -> str:
    if re.fullmatch(r"S-1-[0-9]+(-[0-9]+)+", text):
        return text
    try:
        if re.search(r'"|(?<!\\);', text):
            raise ValueError("must be written as RFC 4514 has it, without quotes, and with commas")
        return _place(text)
    except ValueError as wrong:
        raise ValueError(f"{wrong}; a group is named by its DN or its SID (S-1-5-21-...)") from None


_CERTIFICATE: Final = re.compile(r"sha256:(?:[0-9a-f]{2}:?){31}[0-9a-f]{2}|dns:[^\s*]+|subject:.+", re.IGNORECASE)


def _certificate(text: str) -> str:
    if not _CERTIFICATE.fullmatch(text):
        raise ValueError('must be "dns:NAME", "subject:DN" or "sha256:FINGERPRINT" (64 hexadecimal digits)')
    if text.lower().startswith("subject:"):
        _place(text.partition(":")[2])
    return text


def _attribute(text: str) -> str:
    try:
        denied_types([text])
    except ValueError as wrong:
        raise ValueError(f'must be an attribute\'s name, for example "unicodePwd": {wrong}') from None
    return text


def _is_listener(name: str, info: ValidationInfo) -> str:
    if info.context and name not in info.context.names:
        raise ValueError(f"there is no listener of that name; {nearest(name, sorted(info.context.names))}")
    return name


def _is_new_application(name: str, info: ValidationInfo) -> str:
    if info.context:
        if name in info.context.applications:
            raise ValueError("is another application's name too: give each a name of its own")
        if name in info.context.names:
            raise ValueError("is a listener's name, which is what logins are called that no application covers")
        info.context.applications.add(name)
    return name


def _is_application(name: str, info: ValidationInfo) -> str:
    if info.context:
        known = {*info.context.applications, *info.context.names}
        if name not in known:
            raise ValueError(f"there is no application or listener of that name; {nearest(name, sorted(known))}")
    return name


_Factors = tuple[Annotated[Factor, checks.factor_exists], ...]
_Networks = Annotated[tuple[Network, ...], Field(min_length=1)] | None


class Application(Table):
    """A program, or a kind of them, with settings of its own; repeat the table for more.

    The first that covers a client counts; where none does, the listener's settings and those of [login] do, and the
    application is called as the listener is.
    """

    name: Annotated[Text, AfterValidator(_is_new_application)] = Field(examples=["remote-access"])
    """What it is called: in prompts, in the log and in the audit trail."""
    listeners: Annotated[tuple[Annotated[str, AfterValidator(_is_listener)], ...], Field(min_length=1)] | None = Field(
        None, examples=[["vpn"]]
    )
    """The listeners, by name, through which its clients come; any if not given."""
    networks: _Networks = Field(None, examples=[["10.1.0.0/16"]])
    """The networks from which its clients connect, by their true address; any if not given."""
    certificates: Annotated[
        Annotated[tuple[Annotated[str, AfterValidator(_certificate)], ...], Field(min_length=1)] | None,
        checks.recognises_somebody,
    ] = Field(None, examples=[["dns:vpn.example.com"]])
    """The TLS certificates that its clients show: "dns:NAME" (a subject alternative name), "subject:DN", or
    "sha256:FINGERPRINT". The listener needs client_ca_file. If not given, none need be shown."""
    factors: Annotated[_Factors, Field(min_length=1)] | None = Field(None, examples=[["duo", "totp"]])
    """The second factors that count here, as in [login], in the order in which they ask; as in [login] if not given."""
    deadline: Seconds | None = Field(None, examples=[9])
    """Seconds after which a login is answered, whoever has not; as at the listener if not given."""
    fail_mode: Literal["closed", "open"] | None = Field(None, examples=["closed"])
    """What happens while services can't be reached; as in the table of each service if not given."""
    reuse_seconds: Annotated[Number, Field(ge=0, le=86400)] | None = Field(None, examples=[30])
    """Seconds for which a success also lets in the same account with the same password, code and all, from the same
    address, here; as at the listener if not given. `ldapmfa remembered` lists and forgets such successes."""
    reuse_uses: Annotated[Whole, Field(ge=1, le=1000)] | None = Field(None, examples=[3])
    """How many further binds one success lets in; as at the listener if not given."""
    late_approval_seconds: Annotated[Number, Field(ge=0, le=600)] | None = Field(None, examples=[60])
    """Seconds for which an approval counts that came after its client had left; as at the listener if not given."""
    require_user_match: UserMatch | None = Field(None, examples=["refuse"])
    """What happens to accounts without a second factor; as in [login] if not given."""
    tell_password_state: Flag = False
    """Whether who has shown a code (of a factor here, or of a service) is told, in the directory's own words, that the
    password has expired or must be changed, for programs that then let it be changed (Active Directory's sub-codes 532
    and 773). The directory needs a service_account. Nobody else is ever told."""
    read_only: Flag = False
    """Whether nothing may be written: add, modify, delete, rename, and extended operations that write, are refused."""
    denied_operations: tuple[
        Literal["search", "compare", "add", "modify", "delete", "rename", "extended"], ...
    ] = Field((), examples=[["delete", "rename"]])
    """Operations that are refused."""
    denied_attributes: tuple[Annotated[str, AfterValidator(_attribute)], ...] = Field((), examples=[["unicodePwd"]])
    """Attributes that must not be written, by name or OID, whatever their options."""
    anonymous: Literal["root-dse", "refuse", "read"] = "root-dse"
    """What a client may do that is nobody: read the rootDSE, nothing at all (an anonymous bind is refused too), or
    search and compare as far as the directory lets anybody."""


class Rule(Table):
    """What some accounts must show, or at some places and times; repeat the table for more.

    The first rule counts of which all that is given holds; where none does, the application's factors are asked for. A
    rule that refuses goes before an [[exempt]] entry; an exemption goes before any other rule.
    """

    name: Text = Field(examples=["administrators"])
    """What it is called in the audit trail and by `ldapmfa explain`."""
    action: Literal["factors", "password-only", "refuse"] = "factors"
    """Whether one of `factors` must be shown, the password is enough, or nobody is let in."""
    factors: Annotated[_Factors, checks.goes_with_action] = Field((), examples=[["duo"]])
    """The second factors of which one must be shown, in the order in which they ask; the application's if not given."""
    applications: Annotated[tuple[Annotated[str, AfterValidator(_is_application)], ...], Field(min_length=1)] | None = (
        Field(None, examples=[["remote-access"]])
    )
    """The applications, or listeners that no application covers, at which it holds; any if not given."""
    directory: Annotated[DirectoryName | None, checks.identity_name_exists] = Field(None, examples=["corp"])
    """The identity_name of the directory whose accounts it is about; any if not given."""
    groups: Annotated[tuple[Annotated[str, AfterValidator(_group)], ...], Field(min_length=1)] | None = Field(
        None, examples=[["cn=Domain Admins,cn=Users,dc=example,dc=com"]]
    )
    """Groups, by DN or SID, in one of which the account is, through other groups too."""
    ous: Annotated[tuple[Annotated[str, AfterValidator(_place)], ...], Field(min_length=1)] | None = Field(
        None, examples=[["ou=staff,dc=example,dc=com"]]
    )
    """Entries, by DN, below one of which the account's entry is."""
    flags: Annotated[tuple[str, ...], checks.are_flags, Field(min_length=1)] | None = Field(
        None, examples=[["smartcard-required"]]
    )
    """What the account is one of, by its userAccountControl at Active Directory: computer, password-not-required,
    password-never-expires, smartcard-required, trusted-for-delegation, not-delegated, no-preauthentication,
    trusted-to-authenticate-for-delegation."""
    networks: _Networks = Field(None, examples=[["10.0.0.0/8"]])
    """Networks in one of which the client is, by its true address."""
    hours: Annotated[tuple[Annotated[str, AfterValidator(_hours)], ...], Field(min_length=1)] | None = Field(
        None, examples=[["mon-fri 08:00-18:00"]]
    )
    """When it holds, by the clock of login.timezone: days and hours; past midnight, into the next day, if the end comes
    before the beginning."""


def windows(rule: Rule) -> tuple[Hours, ...] | None:
    """The rule's hours, taken apart."""
    return None if rule.hours is None else tuple(hours_of(text) for text in rule.hours)

