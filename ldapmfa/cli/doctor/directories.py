"""The directories: reached, encrypted, recognised; what they demand, how they lock accounts, and what time they have.

Promised here: no account's password is tried but the service account's own; what is refused to a name that does not
exist is what would be refused to everybody. Not in here: how a login binds (`ldapmfa.net.directory`); this looks with
ldap3, so that a mistake of ours is not made twice.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import ldap3
from ldap3.core.exceptions import LDAPException

from ldapmfa.cli import online
from ldapmfa.cli.doctor.conversation import Encrypting, Place
from ldapmfa.cli.doctor.finding import Area, Finding
from ldapmfa.config import Config, Directory
from ldapmfa.config.values import DirectoryUri
from ldapmfa.net import service

if TYPE_CHECKING:
    from ldapmfa.cli.doctor.patient import Patient

_AREA: Final = Area("directories")
_CLOCK: Final = Area("clock")
#: Seconds by which clocks may differ: half a code's validity, and what Kerberos bears.
_LATE, _WRONG = 15.0, 300.0
#: A name that no directory has, to see what is demanded of everybody.
_NOBODY: Final = "cn=ldapmfa-doctor,cn=nobody"
_STRONGER: Final = (8, 13)  # strongerAuthRequired, confidentialityRequired
_ROOT: Final = ["currentTime", "isSynchronized", "defaultNamingContext", "namingContexts"]
_TICKS: Final = 10_000_000  # of Active Directory's intervals, in a second


@dataclass
class Seen:
    """What one server says of itself; `offset`: how far its clock is ahead of ours, in seconds."""

    directory: str
    server: str
    attributes: Mapping[str, list[str]] = field(default_factory=dict)
    offset: float | None = None
    demands: int | None = None  #: the code with which it refuses a bind in clear text, where we make such binds
    policy: Mapping[str, int] | None = None  #: how it locks accounts; None: that can't be read
    failed: str = ""


def directories(patient: Patient) -> Iterator[Finding]:
    """Each server of each directory."""
    config = patient.config
    for checked in patient.checked:
        key = f"{_place(checked.directory)}: {checked.server}"
        for mistake in checked.mistakes:
            yield _AREA.broken(key, mistake, "Change what is named, and look again.")
        for broken in checked.broken:
            yield _AREA.broken(key, broken, "See that the server runs, and that its name and the way to it are right.")
        for warning in checked.warnings:
            yield _AREA.warning(key, warning, "Have the directory's certificate renewed.")
        if checked.kind:
            yield _AREA.ok(key, f"{checked.summary}; {_addresses(checked.server)}")
    for seen in patient.seen:
        yield from _about(seen, config.every_directory[seen.directory], config)


def _about(seen: Seen, table: Directory, config: Config) -> Iterator[Finding]:
    place = _place(seen.directory)
    key = f"{place}: {seen.server}"
    if seen.failed:
        yield _AREA.skipped(key, f"ldap3 could not look at it: {seen.failed}")
        return
    if "FALSE" in seen.attributes.get("isSynchronized", []):
        yield _AREA.broken(
            key, "it says that it is not synchronised (isSynchronized)", "Wait until it is, or take it out of uris."
        )
    if seen.demands in _STRONGER:
        yield _AREA.broken(
            key,
            f"it refuses simple binds in clear text (code {seen.demands}), and so every login",
            f"Write ldaps:// in {place}.uris, or set starttls = true there.",
        )
    elif seen.demands is not None and online.is_loopback(_host(seen.server)):
        yield _AREA.ok(key, "it takes simple binds in clear text, which do not leave this machine")
    elif seen.demands is not None:
        yield _AREA.warning(
            key,
            "it takes simple binds in clear text",
            f"Passwords cross the network readable: write ldaps:// in {place}.uris, or set starttls = true there.",
        )
    else:
        yield _AREA.ok(
            key,
            "whatever it demands of signing is met: the connection is encrypted, and of simple binds channel binding is"
            " not demanded",
        )
    if table.service_account is None:
        yield _AREA.skipped(f"{key} (locks)", "without a service_account the policy of locks can't be read")
    elif seen.policy is None:
        yield _AREA.skipped(f"{key} (locks)", "the service account can't read how accounts are locked")
    else:
        yield from _locks(f"{key} (locks)", seen.policy, config)


def _locks(key: str, policy: Mapping[str, int], config: Config) -> Iterator[Finding]:
    """Whether wrong passwords are stopped here before the directory locks the account."""
    throttle = config.throttle
    threshold, window = policy["threshold"], policy["window"]
    if not threshold:
        yield _AREA.ok(key, "the directory locks nobody for wrong passwords")
        return
    found = f"the directory locks an account after {threshold} wrong passwords within {window} s"
    wrong = throttle.wrong_passwords
    if not wrong or wrong >= threshold:
        said = f"throttle.wrong_passwords is {wrong}" + ("" if wrong else ": all are passed on")
        fix = f"Set wrong_passwords = {max(1, threshold - 1)} in [throttle], or anybody can lock anybody out."
        yield _AREA.warning(key, f"{found}, and {said}", fix)
    elif throttle.wrong_password_seconds < window:
        yield _AREA.warning(
            key,
            f"{found}, and throttle.wrong_password_seconds is {throttle.wrong_password_seconds:g}",
            f"Set wrong_password_seconds = {window} in [throttle].",
        )
    else:
        yield _AREA.ok(key, f"{found}; here {wrong} are passed on from one address")


def clock(patient: Patient) -> Iterator[Finding]:
    """Ours against those of the directories, and whether ours is kept right."""
    fix = "Have both set by the same time servers (chrony, systemd-timesyncd): codes go by the clock of this machine."
    for seen in patient.seen:
        key = f"{_place(seen.directory)}: {seen.server}"
        if seen.offset is None:
            yield _CLOCK.skipped(key, "the directory does not tell its time")
            continue
        found = f"the directory's clock is {abs(seen.offset):.0f} s {'ahead' if seen.offset > 0 else 'behind'}"
        if abs(seen.offset) > _WRONG:
            yield _CLOCK.broken(key, found, fix)
        elif abs(seen.offset) > _LATE:
            yield _CLOCK.warning(key, found, fix)
        else:
            yield _CLOCK.ok(key, found)
    from ldapmfa.cli.doctor.machine import kept_right  # noqa: PLC0415 - it is of another area

    yield kept_right(_CLOCK)


# -- how servers are looked at


def look_at(config: Config, checked: list[online.Checked]) -> list[Seen]:
    """Every server that a login could reach, by ldap3."""
    found = []
    for one in checked:
        table = config.every_directory[one.directory]
        catalog = service.directory_settings(one.directory, table).global_catalog
        if one.kind is None or one.server == str(catalog):
            continue  # it can't be spoken to, as was said, or knows of no locks
        seen = Seen(one.directory, one.server)
        try:
            _look(seen, table)
        except (LDAPException, OSError) as failed:
            seen.failed = str(failed) or type(failed).__name__
        found.append(seen)
    return found


def _look(seen: Seen, table: Directory) -> None:
    settings = service.directory_settings(seen.directory, table)
    server = DirectoryUri.parse(seen.server)  # which may have been found by the DNS
    tls = "ldaps" if server.tls else "starttls" if settings.starttls else "none"
    place = Place(server.host, server.port, tls, online.tls_context(settings))  # type: ignore[arg-type]
    seconds = int(max(1, settings.response_timeout))
    with _link(place, seconds) as link:
        link.search("", "(objectClass=*)", ldap3.BASE, attributes=_ROOT)
        here = time.time()
        for entry in _entries(link):
            seen.attributes = {name: [value.decode(errors="replace") for value in entry[name]] for name in entry}
        seen.offset = _offset(seen.attributes.get("currentTime", []), here)
        if settings.service_dn is not None and settings.service_password is not None:
            link.user, link.password = settings.service_dn, settings.service_password.reveal().decode()
            link.authentication = ldap3.SIMPLE
            if link.bind(read_server_info=False):
                seen.policy = _policy(link, seen.attributes)
            link.password = None
    if tls == "none":
        with _link(place, seconds) as link:
            link.user, link.password, link.authentication = _NOBODY, "nobody", ldap3.SIMPLE
            link.bind(read_server_info=False)
            seen.demands = link.result["result"]


class _link:  # noqa: N801 - a context, called like a function
    """An open connection for as long as the block lasts."""

    def __init__(self, place: Place, seconds: int) -> None:
        tls = Encrypting(place) if place.tls != "none" else None
        server = ldap3.Server(place.host, place.port, use_ssl=place.tls == "ldaps", tls=tls, get_info=ldap3.NONE,
                              connect_timeout=seconds)  # fmt: skip
        self._starttls = place.tls == "starttls"
        self._link = ldap3.Connection(
            server, auto_bind=ldap3.AUTO_BIND_NONE, auto_referrals=False, check_names=False, receive_timeout=seconds
        )

    def __enter__(self) -> Any:
        try:
            self._link.open()
            if self._starttls:
                self._link.start_tls()
        except BaseException:
            self.__exit__()
            raise
        return self._link

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(LDAPException, OSError):
            self._link.unbind()
        if self._link.socket:
            self._link.socket.close()


def _offset(said: list[str], here: float) -> float | None:
    """How far a clock that says generalized time is ahead; it has whole seconds."""
    try:
        there = dt.datetime.strptime(said[0][:14], "%Y%m%d%H%M%S").replace(tzinfo=dt.UTC).timestamp()
    except (IndexError, ValueError):
        return None
    return there - int(here)


def _policy(link: Any, root: Mapping[str, list[str]]) -> dict[str, int] | None:
    """After how many wrong passwords within how many seconds an account is locked; the strictest policy counts."""
    base = (root.get("defaultNamingContext") or root.get("namingContexts") or [""])[0]
    link.search(base, "(objectClass=*)", ldap3.BASE, attributes=["lockoutThreshold", "lockOutObservationWindow"])
    for entry in _entries(link):
        if "lockoutThreshold" in entry:
            return {
                "threshold": int(entry["lockoutThreshold"][0]),
                "window": abs(int((entry.get("lockOutObservationWindow") or [b"0"])[0])) // _TICKS,
            }
    names = ["pwdMaxFailure", "pwdFailureCountInterval", "pwdLockout"]
    link.search(base, "(objectClass=pwdPolicy)", ldap3.SUBTREE, attributes=names)
    found = [entry for entry in _entries(link) if entry.get("pwdLockout") == [b"TRUE"] and entry.get("pwdMaxFailure")]
    if not found:
        return None
    strictest = min(found, key=lambda entry: int(entry["pwdMaxFailure"][0]) or 1 << 30)
    return {
        "threshold": int(strictest["pwdMaxFailure"][0]),
        "window": int((strictest.get("pwdFailureCountInterval") or [b"0"])[0]),
    }


def _entries(link: Any) -> list[dict[str, list[bytes]]]:
    return [
        {name: list(values) for name, values in entry["raw_attributes"].items() if values}
        for entry in link.response or []
        if entry.get("type") == "searchResEntry"
    ]


def _addresses(server: str) -> str:
    """Where a server's name leads."""
    host = _host(server)
    try:
        found = sorted({str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)})
    except OSError:
        return "its name can't be looked up"
    return f"{host} is {', '.join(found)}"


def _host(server: str) -> str:
    """The host of a server as `online.Checked` names it."""
    return server.partition("://")[2].rpartition(":")[0].strip("[]")


def _place(name: str) -> str:
    return "directory" if name == "default" else f"directories.{name}"
