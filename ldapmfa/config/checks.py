"""What only several keys together, the files they name, or the machine's ports can tell.

Promised here: a check looks at what it needs and no further, so that a mistake hides no other one. Most are
pydantic's validators of the later one of two keys: `info.data` holds the earlier ones of its table that are right,
and `info.context` the `Reading`. Nothing is checked in what is made directly, without a file.
"""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from pydantic import AfterValidator, BeforeValidator, ValidationInfo

from ldapmfa.config.postgresql import DatabaseUrl, is_postgresql
from ldapmfa.config.values import DirectoryUri, Endpoint, SrvUri, is_loopback, nearest
from ldapmfa.core.identity import FLAGS
from ldapmfa.wire import dn

#: What looks at a value; ValueError says what is wrong with it.
Check = Callable[[Any, ValidationInfo], None]
#: Where a value stands.
Place = TypeVar("Place")


def when_read(check: Check) -> AfterValidator:
    """`check`, which raises ValueError, as a validator; it sees None where the file says nothing."""

    def validate(value: Any, info: ValidationInfo) -> Any:
        if info.context:
            check(value, info)
        return value

    return AfterValidator(validate)


def when_files_exist(check: Check) -> AfterValidator:
    """The same for a check of a file: only where one is named, and if files are to be looked at."""

    def look(value: Any, info: Any) -> None:
        if value is not None and info.context.check_files:
            check(value, info)

    return when_read(look)


# --- keys that go together -------------------------------------------------------------------------------


@when_read
def directory_exists(name: str, info: Any) -> None:
    """A listener's directory is one of those in the file."""
    known = info.context.directories
    if name == "default" not in known:
        raise ValueError('is "default", but there is no [directory] table: add one with uris = ["ldaps://..."]')
    if name not in known:
        raise ValueError(f"there is no [directories.{name}] table; {nearest(name, known)}")


@when_read
def identity_name_exists(name: str | None, info: Any) -> None:
    """Accounts are kept, and compared, under the identity name of their directory."""
    known = set(info.context.directories.values())
    if name is not None and name not in known:
        raise ValueError(f"no directory has this identity_name; {nearest(name, sorted(known))}")


@when_read
def goes_with_tls(file: Path | None, info: ValidationInfo) -> None:
    """A listener's certificate and key are named if and only if it speaks TLS."""
    tls = info.data.get("tls")
    if tls == "none" and file is not None:
        raise ValueError('is pointless with tls = "none": set tls = "starttls" or "ldaps", or remove this line')
    if tls in {"starttls", "ldaps"} and file is None:
        raise ValueError(f'is missing, and needed with tls = "{tls}": name a PEM file')


@when_read
def goes_with_certificate(file: Path | None, info: ValidationInfo) -> None:
    """Clients show certificates only over TLS."""
    if file is not None and info.data.get("tls") == "none":
        raise ValueError('is pointless with tls = "none": set tls = "starttls" or "ldaps", or remove this line')


@when_read
def goes_with_client_ca(required: bool, info: ValidationInfo) -> None:  # noqa: FBT001 - a validator
    """A certificate that is demanded can be verified."""
    if required and "client_ca_file" in info.data and info.data["client_ca_file"] is None:
        raise ValueError("needs client_ca_file: name the PEM file of the authorities that sign clients' certificates")


@when_read
def is_timezone(name: str, _: ValidationInfo) -> None:
    """A time zone is one that the machine knows."""
    if name:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError('is not a time zone of this machine, such as "Europe/Berlin" or "UTC"') from None


@when_read
def can_be_required(required: bool | None, info: ValidationInfo) -> None:  # noqa: FBT001 - a validator
    """Where TLS is demanded there is some."""
    why = "is true"
    if info.data.get("tls") == "none" and "endpoint" in info.data:
        if required is None and not Endpoint.parse(info.data["endpoint"]).local:
            required, why = True, "is true by default, as others than this machine can connect,"
        if required:
            raise ValueError(
                f'{why} while tls = "none", so that nobody could log in: set tls = "starttls" or "ldaps" with '
                "certificate and key, or listen on interface=127.0.0.1, or, if passwords may cross the network "
                "in clear text, set require_tls = false"
            )


@when_read
def goes_with_uris(starttls: bool, info: ValidationInfo) -> None:  # noqa: FBT001 - a validator
    """StartTLS is for ldap://."""
    uris = [*info.data.get("uris", ()), info.data.get("global_catalog") or "ldap://none"]
    if starttls and any((SrvUri.parse(uri) or DirectoryUri.parse(uri)).tls for uri in uris):
        raise ValueError("does not go with ldaps:// in uris or global_catalog: write ldap:// there, or remove starttls")


@when_read
def stands_alone(uris: tuple[str, ...], _: ValidationInfo) -> None:
    """Either the servers are listed, or the DNS names them."""
    if len(uris) > 1 and any(map(SrvUri.parse, uris)):
        raise ValueError("ldap+srv:// or ldaps+srv:// must stand alone: list the servers, or let the DNS name them all")


@when_read
def goes_with_srv(value: tuple[str, ...], info: ValidationInfo) -> None:
    """Only where the DNS names the servers does it matter whom it may name, and who is asked."""
    if value and "uris" in info.data and not any(map(SrvUri.parse, info.data["uris"])):
        raise ValueError("is pointless without ldap+srv:// or ldaps+srv:// in uris: remove this line")


@when_read
def goes_with_list(balance: str, info: ValidationInfo) -> None:
    """SRV records say themselves how the load is spread."""
    if balance == "spread" and any(map(SrvUri.parse, info.data.get("uris", ()))):
        raise ValueError("is pointless with ldap+srv://, whose records have priority and weight: remove this line")


def secret_or_file(name: str) -> AfterValidator:
    """A secret is given in one of two ways: as `name`, or in the file that `name`_file names."""
    file = f"{name}_file"

    def check(secret: object, info: ValidationInfo) -> None:
        if file in info.data and (secret is None) == (info.data[file] is None):
            raise ValueError(f"is missing, and {file} too: give one" if secret is None else f"or {file}: keep one")

    return when_read(check)


def needed_with(name: str) -> AfterValidator:
    """A key must be given where the key `name` before it says something."""

    def check(value: object, info: ValidationInfo) -> None:
        if info.data.get(name) and value is None:
            raise ValueError(f"is missing, and needed with {name}")

    return when_read(check)


def pointless_without(name: str) -> AfterValidator:
    """A key must not be given where the key `name` before it says nothing."""

    def check(value: object, info: ValidationInfo) -> None:
        if value is not None and name in info.data and not info.data[name]:
            raise ValueError(f"is pointless without {name}: give that too, or remove this line")

    return when_read(check)


def _is_no_database(place: object) -> object:
    if place == "database":
        raise ValueError(
            "the database has every event in any case, as a code is used up and its login recorded in one "
            "transaction: leave it out here"
        )
    return place


#: Events need no leave to go to the database.
is_no_database: Final = BeforeValidator(_is_no_database)


def needed_for(place: str) -> AfterValidator:
    """A key of [audit] must be given where events go to this place."""

    def check(value: object, info: ValidationInfo) -> None:
        if value is None and place in info.data.get("to", ()):
            raise ValueError(f'is missing, and needed with "{place}" in to')
        if value is not None and "to" in info.data and place not in info.data["to"]:
            raise ValueError(f'is pointless without "{place}" in to: add that, or remove this line')

    return when_read(check)


@when_files_exist
def is_in_a_directory(file: Path, _: ValidationInfo) -> None:
    """A file that is to be made has a place."""
    if not os.path.isdir(file.parent):  # noqa: PTH112 - Path.is_dir raises where it may not look
        raise ValueError(f"there is no directory {file.parent}: create it, or name another")


@when_read
def goes_to_loopback(tls: str, info: ValidationInfo) -> None:
    """Mail goes in clear text to a server on this machine only."""
    host = info.data.get("smtp_host")
    if tls == "none" and host and not is_loopback(host):
        raise ValueError(
            f'is "none", and {host} is not this machine: mail, and the password, would cross the network in clear'
            ' text; use "starttls" or "tls"'
        )


@when_read
def can_match(account: str, _: ValidationInfo) -> None:
    """An exempt account is written in a form that accounts are compared in, so that no entry is dead."""
    forms = "a DN, a userPrincipalName (user@...) or an account name (sAMAccountName or uid)"
    if "=" in account:
        try:
            dn.parse(account)
        except dn.DnError as wrong:
            raise ValueError(f"must be {forms}; as a DN it is not valid: {wrong}") from None
    elif "\\" in account:
        raise ValueError(f"must be {forms}: leave out the domain and the backslash")
    elif re.fullmatch(r"\{?[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\}?", account):
        raise ValueError(f"must be {forms}, not an objectGUID or entryUUID")


@when_read
def says_which_directory(name: str | None, info: Any) -> None:
    """A service's users are those of one directory."""
    known = set(info.context.directories.values())
    if name is None and len(known) > 1:
        raise ValueError(f"is missing, and needed, as there are several directories: {', '.join(sorted(known))}")
    if name is not None and name not in known:
        raise ValueError(f"no directory has this identity_name; {nearest(name, sorted(known))}")


@when_read
def factor_exists(name: str, info: Any) -> None:
    """A factor is one that computes codes here, or a service with a table."""
    context = info.context
    if name in context.services:
        return
    if name not in context.codes:
        if name in context.unset:
            raise ValueError(f'"{name}" is a service and needs its settings: add a table [factors.{name}]')
        raise ValueError(f"no such factor; {nearest(name, sorted({*context.codes, *context.services}))}")


@when_read
def recognises_somebody(certificates: tuple[str, ...] | None, info: ValidationInfo) -> None:
    """An application that covers everybody would leave nobody to those behind it, nor to the listener's settings."""
    if certificates is None and all(info.data.get(key, ()) is None for key in ("listeners", "networks")):
        raise ValueError("is missing, or listeners, or networks: say by what the application's clients are recognised")


@when_read
def goes_with_action(factors: tuple[str, ...], info: ValidationInfo) -> None:
    """A rule names factors only where it asks for some."""
    action = info.data.get("action")
    if factors and action in {"password-only", "refuse"}:
        raise ValueError(f'is pointless with action = "{action}": remove it, or set action = "factors"')


@when_read
def are_flags(flags: tuple[str, ...] | None, _: ValidationInfo) -> None:
    """What a rule calls accounts is what they may be called."""
    known = ("computer", *FLAGS)
    for flag in flags or ():
        if flag not in known:
            raise ValueError(f'"{flag}" is no flag; {nearest(flag, known)}')


@when_read
def is_new(name: str, info: Any) -> None:
    """No two listeners have the same name, as the audit trail tells them apart by it."""
    if name in info.context.names:
        raise ValueError("is another listener's name too: give each listener a name of its own")
    info.context.names.update({name} - {""})  # it has none where its endpoint is mistaken


# --- files -----------------------------------------------------------------------------------------------


def why_unreadable(error: OSError) -> str:
    """What is wrong with a file that can't be read."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return "does not exist"
    if isinstance(error, IsADirectoryError):
        return "is a directory, where a file is needed"
    if isinstance(error, PermissionError):
        return f"can't be read by user id {os.geteuid()}: give it to that user, or allow its group to read"
    return f"can't be read: {error.strerror}"


def _octets(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ValueError(f"{file} {why_unreadable(error)}") from None


def _certificates(file: Path) -> list[x509.Certificate]:
    octets = _octets(file)
    try:
        return x509.load_pem_x509_certificates(octets)
    except ValueError:
        raise ValueError(f"{file} holds no PEM certificate (-----BEGIN CERTIFICATE-----)") from None


@when_files_exist
def is_certificate(file: Path, _: ValidationInfo) -> None:
    """A file of certificates can be read."""
    _certificates(file)


@when_files_exist
def is_key(file: Path, info: ValidationInfo) -> None:
    """A private key can be read, and belongs to the certificate."""
    octets = _octets(file)
    try:
        public = serialization.load_pem_private_key(octets, None).public_key()
    except TypeError:
        raise ValueError(
            f"{file} is protected by a pass phrase, which nobody could type at start: "
            "write it without one (openssl pkey -in FILE -out NEW-FILE) and chmod 600 it"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(f"{file} holds no PEM private key (-----BEGIN PRIVATE KEY-----)") from None
    certificate = info.data.get("certificate")
    if certificate and _certificates(certificate)[0].public_key() != public:
        raise ValueError(
            f"{file} does not belong to the first certificate in {certificate}: "
            "name the pair, with the server's own certificate before its chain"
        )


@when_files_exist
def is_password(file: Path, _: ValidationInfo) -> None:
    """A file with a password can be read."""
    if not _octets(file).strip():
        raise ValueError(f"{file} is empty: write the password into it")


#: Octets that a secret which signs must have at least (as many as the hash gives, RFC 2104 section 3).
SHORTEST_SECRET: Final = 32


def hmac_secret(octets: bytes) -> None:
    """ValueError: it is too short to sign with."""
    if len(octets) < SHORTEST_SECRET:
        raise ValueError(f"is shorter than {SHORTEST_SECRET} octets: make one with `openssl rand -hex 32`")


@when_files_exist
def is_hmac_secret(file: Path, _: ValidationInfo) -> None:
    """A file with a secret that signs can be read, and it is long enough."""
    hmac_secret(_octets(file).rstrip(b"\r\n"))


@when_files_exist
def is_store_key(file: Path, _: ValidationInfo) -> None:
    """The key of the store can be read; who else may, and what is in it, `ldapmfa.store.seal` says at start."""
    if not os.path.lexists(file):
        raise ValueError(f"{file} does not exist; `ldapmfa init` makes it")
    _octets(file)


@when_files_exist
def has_place(url: str, _: ValidationInfo) -> None:
    """The directory of an SQLite file exists, or the files that a PostgreSQL URL names."""
    if is_postgresql(url):
        for option, file in DatabaseUrl.parse(url).files.items():
            try:
                _octets(Path(file))
            except ValueError as wrong:
                raise ValueError(f"{option}: {wrong}") from None
    parent = os.path.dirname(sqlite_path(url))  # noqa: PTH120 - "" has none, while Path("") has one
    if parent and not os.path.isdir(parent):  # noqa: PTH112 - Path.is_dir raises where it may not look
        raise ValueError(f"there is no directory {parent}: create it, or name another")


@when_read
def only_postgresql(file: Path | None, info: ValidationInfo) -> None:
    """A password belongs to a PostgreSQL URL that has none."""
    url = info.data.get("url")
    if file is None or url is None:
        return
    if not is_postgresql(url):
        raise ValueError("store.url is a SQLite file, which has no password: remove this")
    if DatabaseUrl.parse(url).password is not None:
        raise ValueError("store.url holds a password already: take it out there")


def sqlite_path(url: str) -> str:
    """The file in the URL of a SQLite database, "" in that of another."""
    return url.partition(":///")[2].partition("?")[0] if url.startswith("sqlite") else ""


# --- ports -----------------------------------------------------------------------------------------------


def ports_taken(endpoints: Mapping[Place, Endpoint]) -> dict[Place, str]:
    """Why those of `endpoints` that can't be listened on now can't be; all are for a moment, to find out."""
    taken = {}
    with ExitStack() as listening:
        for place, endpoint in endpoints.items():
            port = endpoint.port
            if port is None:
                continue
            address = str(endpoint.address)
            try:
                family = socket.AF_INET6 if ":" in address else socket.AF_INET
                probe = listening.enter_context(socket.socket(family, socket.SOCK_STREAM))
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((address, port))
                probe.listen(1)
            except OSError as error:
                why = _NOT_BOUND.get(error.errno or 0, f"can't be listened on: {error.strerror}")
                taken[place] = f"port {port} on {address} {why}"
    return taken


_NOT_AVAILABLE: Final = "is not available: this machine has no such address (`ip address` lists those it has)"
_NOT_BOUND: Final = {
    errno.EADDRINUSE: "is in use, by another program (`ss -ltnp` names it) or another listener: choose another port;"
    " with --skip-ports, check-config does not try them while the service runs",
    errno.EACCES: "is not allowed for this user: ports below 1024 need CAP_NET_BIND_SERVICE, which the systemd unit "
    "gives (AmbientCapabilities=CAP_NET_BIND_SERVICE); or choose a port from 1024 on",
    errno.EADDRNOTAVAIL: _NOT_AVAILABLE,
    errno.EAFNOSUPPORT: _NOT_AVAILABLE,
}
