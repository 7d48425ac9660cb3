"""All settings as typed, frozen classes, read from a TOML file and the environment.

Promised here: `load` gives a `Config` that is right in itself, or raises one `ConfigError` that lists every
mistake, each as a line with the file, the line's number, the key, what is wrong and what would be right; no line
shows a value that could be a secret. The classes are also what `conf/ldapmfa.toml` and the reference page
are made from (``python -m ldapmfa.config conf`` and ``reference``). Not in here: whether the directory can be
reached, and anything of Twisted.

How every mistake comes out at once: pydantic finds what is wrong with single keys. What it found is replaced by
defaults or examples, and the rest is looked at again, until the classes are content; then come the checks
that look at several keys or at files. A check whose subject was already found mistaken says nothing.
"""

from __future__ import annotations

import difflib
import errno
import json
import os
import re
import socket
import string
import sys
import textwrap
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import entry_points
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, get_args, get_origin
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    PrivateAttr,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from ldapmfa.audit import printable
from ldapmfa.core.secret import Secret
from ldapmfa.errors import ConfigError

#: Where the file is looked for when nobody names one, in this order.
PLACES: Final = (Path("ldapmfa.toml"), Path("/etc/ldapmfa/ldapmfa.toml"))

#: Where a value stands: names of tables and keys, and numbers in lists from 0.
Where = tuple[str | int, ...]

_PREFIX: Final = "LDAPMFA_"
_PASSES: Final = 20  # mistakes hide others behind them at most as deep as tables nest
_LONGEST_UNIX_PATH: Final = 107  # unix(7): sun_path holds 108 octets, the last of them zero

# The directory of the file being loaded. A context variable, as pydantic gives a validator no other way
# to know it when it is called through the constructor of BaseSettings.
_base: ContextVar[Path] = ContextVar("_base", default=Path())


# --- the kinds of values ---------------------------------------------------------------------------------


class _EnvironmentText(str):
    """A value from the environment, where everything is text: a number or a truth value may be made of it."""

    __slots__ = ()


def _flag(value: object) -> object:
    if isinstance(value, bool):
        return value
    if isinstance(value, _EnvironmentText) and value.lower() in {"true", "false", "1", "0"}:
        return value.lower() in {"true", "1"}
    raise ValueError("must be true or false, without quotes")


def _whole(value: object) -> object:
    if isinstance(value, _EnvironmentText) and re.fullmatch(r"\d{1,18}", value):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError("must be a whole number, without quotes")


def _number(value: object) -> object:
    if isinstance(value, _EnvironmentText) and re.fullmatch(r"\d{1,18}(\.\d+)?", value):
        return float(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    raise ValueError("must be a number, without quotes")


def _text(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be empty")
    return value


def _anchored(path: Path) -> Path:
    return _base.get() / path


def _network(value: object) -> IPv4Network | IPv6Network:
    if isinstance(value, IPv4Network | IPv6Network):
        return value
    if isinstance(value, str):
        try:
            return ip_network(value)
        except ValueError:
            pass
        try:
            wider = ip_network(value, strict=False)
        except ValueError:
            pass
        else:
            raise ValueError(f'has bits set beyond its length: write "{wider}"')
    raise ValueError('must be a network or an address, for example "10.1.0.0/16" or "2001:db8::7"')


def _directory_name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9-]+", value):
        raise ValueError("must consist of small letters a-z, digits and hyphens")
    return value


def _other_name(value: str) -> str:
    if value == "default":
        raise ValueError('the directory named "default" is the table [directory]: write it there')
    return value


def _factor(value: str) -> str:
    known = sorted(entry.name for entry in entry_points(group="ldapmfa.factors"))
    if value not in known:
        raise ValueError(f"no such factor; {_nearest(value, known)}")
    return value


def _nearest(name: str, known: Sequence[str]) -> str:
    meant = difflib.get_close_matches(name, known, 1)
    return f'did you mean "{meant[0]}"?' if meant else f"known: {', '.join(known) or 'none'}"


def _delimiter(value: str) -> str:
    if len(value) != 1 or value not in string.punctuation:
        raise ValueError('must be one ASCII punctuation character, for example ","')
    return value


def _store_url(url: str) -> str:
    scheme, found, rest = url.partition("://")
    kind = scheme.partition("+")[0]
    if not found or kind not in {"sqlite", "postgresql"}:
        raise ValueError('must begin with sqlite:/// or postgresql://, for example "sqlite:///state.db"')
    if kind == "postgresql":
        return url
    if not rest.startswith("/"):
        raise ValueError(
            'a SQLite file needs three slashes before a relative path ("sqlite:///state.db") '
            'and four before an absolute one ("sqlite:////var/lib/ldapmfa/state.db")'
        )
    file, question, options = rest[1:].partition("?")
    if file in {"", ":memory:"}:
        raise ValueError("must name a file: a database in memory forgets which codes are used up")
    return f"{scheme}:///{_anchored(Path(file))}{question}{options}"


Flag = Annotated[bool, BeforeValidator(_flag)]
Whole = Annotated[int, BeforeValidator(_whole)]
Digits = Annotated[Literal[6, 8], BeforeValidator(_whole)]
Seconds = Annotated[float, BeforeValidator(_number), Field(gt=0, le=86400, allow_inf_nan=False)]
Text = Annotated[str, AfterValidator(_text)]
File = Annotated[Path, AfterValidator(_anchored)]
Network = Annotated[IPv4Network | IPv6Network, PlainValidator(_network)]
DirectoryName = Annotated[str, AfterValidator(_directory_name)]
CodeStyle = Literal["suffix", "delimiter"]


# --- what some strings mean ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What a listener's endpoint string says. `interface` is "" where it listens everywhere.

    `port` is None for unix and systemd, `path` is "" but for unix; `domain` and `socket` (index or name) are
    "" but for systemd.
    """

    kind: str
    port: int | None = None
    interface: str = ""
    path: str = ""
    domain: str = ""
    socket: str = ""

    #: The parameters of each kind, in the order of Twisted's own parsers.
    KINDS = {  # noqa: RUF012 - a constant; slots leave it on the class
        "tcp": ("port", "interface", "backlog"),
        "tcp6": ("port", "backlog", "interface"),
        "unix": ("address", "mode", "backlog", "lockfile"),
        "systemd": ("domain", "index", "name"),
    }

    @property
    def local(self) -> bool:
        """Whether only programs of this machine can come through it."""
        if self.kind in {"unix", "systemd"}:
            return self.kind == "unix" or self.domain == "UNIX"
        return self.interface == "localhost" or (bool(self.interface) and self.address.is_loopback)

    @property
    def address(self) -> IPv4Address | IPv6Address:
        """The address of a tcp endpoint; the unspecified one for everywhere."""
        if self.interface in {"", "localhost"}:
            everywhere = "0.0.0.0" if self.kind == "tcp" else "::"  # noqa: S104 - what "everywhere" means
            return ip_address("127.0.0.1" if self.interface else everywhere)
        address = ip_address(self.interface)
        return (isinstance(address, IPv6Address) and address.ipv4_mapped) or address

    def overlaps(self, other: Endpoint) -> bool:
        """Whether the two can't listen at once."""
        if self.port is None or other.port is None:
            return self == other
        if not self.port or self.port != other.port:  # port 0: the system chooses, never the same twice
            return False
        ours, theirs = self.address, other.address
        return ours.version == theirs.version and (ours == theirs or ours.is_unspecified or theirs.is_unspecified)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The endpoint that `text` describes; a ValueError says what would be right."""
        kind, given = cls._words(text)
        if "port" in cls.KINDS[kind]:
            return cls._tcp(kind, given)
        if kind == "unix":
            return cls._unix(given)
        if given.get("domain") not in {"INET", "INET6", "UNIX"} or ("index" in given) == ("name" in given):
            raise ValueError(
                "must be systemd:domain=INET (or INET6, UNIX) and one of index=0 and name=..., "
                'for example "systemd:domain=INET:name=ldap"'
            )
        if not given.get("index", "0").isdecimal():
            raise ValueError("index must be a whole number from 0")
        return cls(kind, domain=given["domain"], socket=given.get("index") or given.get("name", ""))

    @classmethod
    def _words(cls, text: str) -> tuple[str, dict[str, str]]:
        # the grammar of twisted.internet.endpoints: words between colons, each a value or name=value,
        # a backslash before a character that is meant literally
        words = [[""]]
        letters = iter(text)
        for letter in letters:
            if letter == ":":
                words.append([""])
            elif letter == "=" and len(words[-1]) == 1:
                words[-1].append("")
            elif letter == "\\":
                words[-1][-1] += next(letters, "")
            else:
                words[-1][-1] += letter
        kind = words[0][0]
        if kind in {"ssl", "tls"}:
            raise ValueError(
                "TLS is not part of the endpoint: write tcp: here, and beside it "
                'tls = "ldaps" (or "starttls"), certificate = "..." and key = "..."'
            )
        if kind not in cls.KINDS or len(words[0]) > 1:
            raise ValueError('must begin with tcp:, tcp6:, unix: or systemd:, for example "tcp:389"')
        names = cls.KINDS[kind]
        values = [word[0] for word in words[1:] if len(word) == 1]
        named = {word[0]: word[1] for word in words[1:] if len(word) == 2}
        given = dict(zip(names, values, strict=False)) | named
        if not set(named) <= set(names) or len(given) < len(words) - 1:
            raise ValueError(
                f"{kind}: takes each of {', '.join(names)} once and nothing else; a colon within a value is "
                r"written \:, as in 'tcp6:389:interface=\:\:1' (TOML's single quotes leave backslashes alone)"
            )
        return kind, given

    @classmethod
    def _tcp(cls, kind: str, given: Mapping[str, str]) -> Self:
        port = given.get("port", "")
        if not re.fullmatch(r"\d{1,5}", port, re.ASCII) or int(port) > 65535:
            raise ValueError(f'needs a port from 1 to 65535, for example "{kind}:389"')
        if not given.get("backlog", "0").isdecimal():
            raise ValueError("backlog must be a whole number")
        interface = given.get("interface", "")
        if interface and not (kind == "tcp" and interface == "localhost"):
            try:
                version = ip_address(interface).version
            except ValueError:
                raise ValueError(
                    "interface must be an IP address of this machine, for example interface=127.0.0.1"
                ) from None
            if kind == "tcp6" and version == 4:
                raise ValueError("tcp6: wants an IPv6 address as interface; for an IPv4 address write tcp:")
        elif kind == "tcp6":
            interface = "::"
        return cls(kind, port=int(port), interface=interface)

    @classmethod
    def _unix(cls, given: Mapping[str, str]) -> Self:
        if not given.get("address"):
            raise ValueError('needs a path, for example "unix:/run/ldapmfa/ldap.sock:mode=660"')
        if not re.fullmatch(r"[0-7]{1,4}", given.get("mode", "666"), re.ASCII):
            raise ValueError("mode must be an octal number, for example mode=660")
        if not given.get("backlog", "0").isdecimal() or given.get("lockfile", "1") not in {"0", "1"}:
            raise ValueError("backlog must be a whole number, and lockfile 0 or 1")
        path = str(_anchored(Path(given["address"])))
        if len(os.fsencode(path)) > _LONGEST_UNIX_PATH:
            raise ValueError(f"a path of a socket has at most {_LONGEST_UNIX_PATH} octets: use a shorter one")
        return cls("unix", path=path)


@dataclass(frozen=True, slots=True)
class DirectoryUri:
    """One server of a directory. `host` is a name or an address without brackets; `tls` is true for ldaps."""

    tls: bool
    host: str
    port: int

    @classmethod
    def parse(cls, text: str, ports: tuple[int, int] = (389, 636)) -> Self:
        """The server that `text` names; `ports` are the defaults of ldap and ldaps."""
        try:
            parts = urlsplit(text)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            host, port, parts = "", None, urlsplit("")
            if re.match(r"ldaps?://", text, re.IGNORECASE):
                raise ValueError(
                    "the host or the port is not valid: a port is a number from 1 to 65535, "
                    "an IPv6 address stands in brackets, as in ldap://[2001:db8::7]:389"
                ) from None
        if parts.scheme not in {"ldap", "ldaps"}:
            raise ValueError('must begin with ldap:// or ldaps://, for example "ldaps://dc1.example.com"')
        if "@" in parts.netloc or parts.path not in {"", "/"} or parts.query or parts.fragment:
            raise ValueError(
                'is only scheme, host and port here, for example "ldaps://dc1.example.com:636"; '
                "an account and its password go to service_account"
            )
        if port == 0 or not cls._is_host(host):
            raise ValueError('needs a host name or an address, for example "ldaps://dc1.example.com" or "ldap://[::1]"')
        return cls(parts.scheme == "ldaps", host, port or ports[parts.scheme == "ldaps"])

    @staticmethod
    def _is_host(text: str) -> bool:
        try:
            ip_address(text)
        except ValueError:
            return bool(re.fullmatch(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_.])?", text))
        return True


def _uri(text: str) -> str:
    DirectoryUri.parse(text)
    return text


@dataclass(frozen=True, slots=True)
class CodeForm:
    """How a listener's clients add a code to the password."""

    style: CodeStyle
    digits: int
    delimiter: str


# --- the settings ----------------------------------------------------------------------------------------


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, hide_input_in_errors=True)


class Listen(_Table):
    """Where clients connect; repeat the table for more listeners."""

    endpoint: str = Field(
        description="Where to listen, as a Twisted endpoint string of the kind tcp:, tcp6:, unix: or systemd:; "
        "tcp: without interface= listens on every IPv4 address.",
        examples=["tcp:389:interface=127.0.0.1"],
    )
    name: str = Field(
        "",
        description="What this listener is called in the log and the audit trail.",
        examples=["vpn"],
        json_schema_extra={"default": "the endpoint string"},
    )
    directory: DirectoryName = Field(
        "default",
        description='The directory behind this listener: "default" is [directory], any other name is '
        "[directories.NAME].",
    )
    tls: Literal["none", "starttls", "ldaps"] = Field(
        "none",
        description="Encryption towards the clients: none, on the client's request (StartTLS), "
        "or from the first byte (LDAPS).",
    )
    certificate: File | None = Field(
        None,
        description="The PEM file with this listener's certificate first and the chain after it; "
        "needed unless tls is none.",
        examples=["/etc/ldapmfa/tls/cert.pem"],
    )
    key: File | None = Field(
        None,
        description="The PEM file with the certificate's private key, without a pass phrase; "
        "needed unless tls is none.",
        examples=["/etc/ldapmfa/tls/key.pem"],
    )
    require_tls: Flag | None = Field(
        None,
        description="Whether a bind in clear text is refused with confidentialityRequired (13).",
        examples=[True],
        json_schema_extra={"default": "true, but false on a loopback address or a Unix socket"},
    )
    proxy_protocol_from: tuple[Network, ...] = Field(
        (),
        description="Load balancers from which a PROXY protocol header (v1 or v2) is accepted, so that rules see "
        "the real client; from anywhere else such a header ends the connection.",
    )
    code: CodeStyle | None = Field(
        None,
        description="How a code is added to the password at this listener.",
        examples=["suffix"],
        json_schema_extra={"default": "as in [login]"},
    )
    code_digits: Digits | None = Field(
        None,
        description="How many digits a code has at this listener.",
        examples=[6],
        json_schema_extra={"default": "as in [login]"},
    )
    delimiter: Annotated[str, AfterValidator(_delimiter)] | None = Field(
        None,
        description="What stands between password and code at this listener.",
        examples=[","],
        json_schema_extra={"default": "as in [login]"},
    )

    @field_validator("endpoint")
    @classmethod
    def _endpoint(cls, text: str) -> str:
        parsed = Endpoint.parse(text)
        if parsed.kind != "unix":
            return text
        # a relative path is made absolute in the string too, for that is what Twisted is given
        given = Endpoint._words(text)[1] | {"address": parsed.path}  # noqa: SLF001 - its own module
        quoted = {name: re.sub(r"([:=\\])", r"\\\1", value) for name, value in given.items()}
        return ":".join(["unix", quoted.pop("address"), *(f"{name}={quoted[name]}" for name in quoted)])

    @field_validator("name")
    @classmethod
    def _name(cls, name: str, info: ValidationInfo) -> str:
        return name or str(info.data.get("endpoint", ""))

    @cached_property
    def where(self) -> Endpoint:
        """The endpoint, taken apart."""
        return Endpoint.parse(self.endpoint)

    @property
    def tls_required(self) -> bool:
        """Whether a bind in clear text is refused."""
        return not self.where.local if self.require_tls is None else self.require_tls


class ServiceAccount(_Table):
    """An account that may read others, for `ldapmfa user enrol` and where users can't read their own entry."""

    dn: Text = Field(
        description="Its name, as the directory accepts it in a bind.",
        examples=["cn=ldapmfa,ou=services,dc=example,dc=com"],
    )
    password_file: File | None = Field(
        None,
        description="The file that holds its password, the better place for it; a line end after it is ignored.",
        examples=["/etc/ldapmfa/service-account.password"],
    )
    password: SecretStr | None = Field(
        None,
        description="Its password itself, instead of password_file.",
        examples=["secret"],
    )

    def secret(self) -> Secret:
        """The password, read again at each call, so that a changed file counts; OSError if it can't be."""
        if self.password_file is not None:
            return Secret(self.password_file.read_bytes().rstrip(b"\r\n"))
        return Secret(self.password.get_secret_value().encode() if self.password else b"")


class Directory(_Table):
    """The directory whose passwords count."""

    uris: tuple[Annotated[str, AfterValidator(_uri)], ...] = Field(
        min_length=1,
        description="Its servers, ldap:// or ldaps://, tried in this order.",
        examples=[["ldaps://dc1.example.com", "ldaps://dc2.example.com"]],
    )
    starttls: Flag = Field(False, description="Whether StartTLS is demanded on ldap:// connections.")  # noqa: FBT003 - reads like the file
    ca_file: File | None = Field(
        None,
        description="The PEM file of the authorities that may have signed the servers' certificates.",
        examples=["/etc/ldapmfa/tls/ca.pem"],
        json_schema_extra={"default": "the system's authorities"},
    )
    verify_certificate: Flag = Field(
        True,  # noqa: FBT003 - reads like the file
        description="Whether the servers' certificate and host name are verified. WARNING: with false, "
        "anybody between here and the directory can read every password and let anybody in; "
        "for a laboratory only, name your authority in ca_file instead.",
    )
    connect_timeout: Seconds = Field(
        5, description="Seconds until a server that does not accept a connection is given up."
    )
    response_timeout: Seconds = Field(
        10, description="Seconds until a server that does not answer a bind or a look-up is given up."
    )
    kind: Literal["auto", "active-directory", "openldap", "389-ds"] = Field(
        "auto", description="Which product it is; auto asks the directory itself."
    )
    identity_name: str = Field(
        "",
        description="The first part of the key under which its accounts' factors are kept; directories "
        "that hold the same accounts (two ports of one forest) share one.",
        examples=["corp"],
        json_schema_extra={"default": 'the directory\'s own name, here "default"'},
    )
    global_catalog: Annotated[str, AfterValidator(_uri)] | None = Field(
        None,
        description="The global catalog of an Active Directory forest (ldap:// or ldaps://, port 3268 or "
        "3269 if none is given), where accounts of its other domains are looked up.",
        examples=["ldaps://dc1.example.com:3269"],
        json_schema_extra={"default": "none; accounts of other domains are refused"},
    )
    base_dn: Text | None = Field(
        None,
        description="The entry below which `ldapmfa user enrol` looks for accounts.",
        examples=["dc=example,dc=com"],
        json_schema_extra={"default": "what the directory's rootDSE says"},
    )
    service_account: ServiceAccount | None = Field(
        None, description="An account that looks up others, a table of its own."
    )

    @field_validator("identity_name")
    @classmethod
    def _identity_name(cls, name: str) -> str:
        return _directory_name(name) if name else name

    @property
    def servers(self) -> tuple[DirectoryUri, ...]:
        """`uris`, taken apart."""
        return tuple(DirectoryUri.parse(uri) for uri in self.uris)

    @property
    def global_catalog_server(self) -> DirectoryUri | None:
        """`global_catalog`, taken apart."""
        return DirectoryUri.parse(self.global_catalog, (3268, 3269)) if self.global_catalog else None


class Store(_Table):
    """Where enrolled factors, used-up codes, locks and the audit trail are kept."""

    url: Annotated[str, AfterValidator(_store_url)] = Field(
        "sqlite:///state.db",
        repr=False,  # it may hold a password
        description="The database: a SQLite file (three slashes and a path relative to this file, or four "
        "and an absolute one), or a PostgreSQL URL.",
    )
    key_file: File = Field(
        Path("store.key"),
        description="The file with the key that seals secrets in the store, made by `ldapmfa init` with "
        "mode 0600; keep a copy apart from the database's.",
    )
    migrate: Flag = Field(
        True,  # noqa: FBT003 - reads like the file
        description="Whether the schema is brought up to date at start; with false the program demands that "
        "it is, and stops otherwise.",
    )

    @property
    def sqlite_file(self) -> Path | None:
        """The database's file, if it is SQLite's."""
        if not self.url.startswith("sqlite"):
            return None
        return Path(self.url.partition(":///")[2].partition("?")[0])


class Login(_Table):
    """What a login must show, and how long it may take."""

    factors: tuple[Annotated[str, AfterValidator(_factor)], ...] = Field(
        ("totp",),
        min_length=1,
        description="The second factors that are accepted: totp, hotp, recovery (printed codes), or the "
        "name of an installed plug-in.",
    )
    code: CodeStyle = Field(
        "suffix",
        description="How a code is added to the password: suffix puts it right behind, delimiter puts a "
        "delimiter between them.",
    )
    code_digits: Digits = Field(
        6, description='How many digits are cut off the end as the code where code is "suffix".'
    )
    delimiter: Annotated[str, AfterValidator(_delimiter)] = Field(
        ",", description='What stands between password and code where code is "delimiter".'
    )
    unenrolled: Literal["refuse", "password-only"] = Field(
        "refuse",
        description="What happens to accounts without a second factor: refused, or let in by password alone.",
    )
    refusal_floor: Annotated[float, BeforeValidator(_number), Field(ge=0, le=10, allow_inf_nan=False)] = Field(
        0.25,
        description="Seconds after its arrival before which no bind is refused, so that time tells nothing.",
    )
    deadline: Seconds = Field(30, description="Seconds after which a login that has not ended is refused as broken.")
    issuer: Text = Field("ldapmfa", description="The name that authenticator apps show beside the account's.")


class Exempt(_Table):
    """An account that needs no second factor, such as a service's; repeat the table for more."""

    account: Text = Field(
        description="The account: its DN, userPrincipalName, account name (sAMAccountName or uid) or "
        "objectGUID, matched on the account the directory confirmed.",
        examples=["cn=svc,ou=services,dc=example,dc=com"],
    )
    networks: tuple[Network, ...] | None = Field(
        None,
        min_length=1,
        description="The networks from which it needs none; anywhere else it is treated as any account.",
        examples=[["10.1.0.0/16"]],
        json_schema_extra={"default": "any network"},
    )
    directory: DirectoryName | None = Field(
        None,
        description="The directory the account is in.",
        examples=["default"],
        json_schema_extra={"default": "any directory"},
    )


class Limits(_Table):
    """How much clients may ask for before they are turned away."""

    connections: Annotated[Whole, Field(ge=1)] = Field(10_000, description="How many clients may be connected at once.")
    frame_before_bind: Annotated[Whole, Field(ge=1024, le=1 << 20)] = Field(
        64 << 10, description="The longest message of a client that is not bound, in bytes."
    )
    frame_after_bind: Annotated[Whole, Field(ge=1024, le=10 << 20)] = Field(
        1 << 20, description="The longest message of a bound client, in bytes, at most 10485760 (10 MiB)."
    )
    held_requests: Annotated[Whole, Field(ge=0)] = Field(
        100, description="How many requests of one client wait while its login is decided."
    )
    held_bytes: Annotated[Whole, Field(ge=0)] = Field(256 << 10, description="How many bytes of such requests wait.")
    buffered_bytes: Annotated[Whole, Field(ge=1 << 20)] = Field(
        256 << 20, description="How many bytes the whole process buffers for its clients."
    )
    bind_timeout: Seconds = Field(120, description="Seconds a client may stay connected without ever having bound.")
    frame_timeout: Seconds = Field(30, description="Seconds within which the rest of a begun message must arrive.")
    pending_logins: Annotated[Whole, Field(ge=1)] = Field(
        5_000, description="How many logins may be undecided at once; further ones are answered busy."
    )


class Log(_Table):
    """What is written to standard error."""

    format: Literal["auto", "text", "json"] = Field(
        "auto", description="auto writes text to a terminal and JSON to anything else."
    )
    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="How grave an event must be to be written."
    )


class Config(BaseSettings):
    """Everything that can be set. `load` makes it; made directly, it reads neither file nor environment."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        env_prefix=_PREFIX,
        env_nested_delimiter="__",
    )

    listen: tuple[Listen, ...] = Field(min_length=1, examples=[[{"endpoint": "tcp:389:interface=127.0.0.1"}]])
    directory: Directory | None = None
    directories: dict[Annotated[DirectoryName, AfterValidator(_other_name)], Directory] = Field(default_factory=dict)
    store: Store = Field(default_factory=Store)
    login: Login = Field(default_factory=Login)
    exempt: tuple[Exempt, ...] = ()
    limits: Limits = Field(default_factory=Limits)
    log: Log = Field(default_factory=Log)

    _source: Path | None = PrivateAttr(None)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - pydantic-settings calls it with all of them
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what the constructor is given: `load` merges file and environment, and knows which said what."""
        return (init_settings,)

    @field_validator("directory")
    @classmethod
    def _default_named(cls, directory: Directory | None) -> Directory | None:
        return directory and _named(directory, "default")

    @field_validator("directories")
    @classmethod
    def _named(cls, directories: dict[str, Directory]) -> dict[str, Directory]:
        return {name: _named(directory, name) for name, directory in directories.items()}

    @property
    def source(self) -> Path | None:
        """The file it was read from."""
        return self._source

    @cached_property
    def every_directory(self) -> dict[str, Directory]:
        """Each directory under its name, that of [directory] being "default"."""
        default = {"default": self.directory} if self.directory else {}
        return default | self.directories

    def directory_of(self, listener: Listen) -> Directory:
        """The directory behind `listener`."""
        return self.every_directory[listener.directory]

    def code_form(self, listener: Listen) -> CodeForm:
        """How clients of `listener` add a code to the password: its own settings, else those of [login]."""
        return CodeForm(
            listener.code or self.login.code,
            listener.code_digits or self.login.code_digits,
            listener.delimiter or self.login.delimiter,
        )


def _named(directory: Directory, name: str) -> Directory:
    return directory.model_copy(update={"identity_name": directory.identity_name or name})


# --- loading ---------------------------------------------------------------------------------------------


def load(path: Path | None = None, *, check_files: bool = True) -> Config:
    """The configuration in `path` (default: the first of `PLACES` that exists), or ConfigError.

    Without `check_files` the files that it names need not exist yet: `ldapmfa init` makes some of them.
    """
    file, text = _read_configuration(path)
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"\s*\(at (?:line (\d+), column \d+|end of document)\)", str(error))
        number = line[1] if line and line[1] else text.count("\n") + 1
        wrong = str(error)[: line.start()] if line else str(error)
        raise ConfigError([f"{file}:{number}: not valid TOML: {printable(wrong)}"]) from None
    origin = _Origin(file, _lines(text), *_environment())
    token = _base.set(file.parent)
    try:
        config, mistakes = _validated(_merged(data, deepcopy(origin.environment)), check_files=check_files)
    finally:
        _base.reset(token)
    mistakes.sort(key=origin.number)
    lines = origin.unknown_variables() + [origin.line(mistake) for mistake in mistakes]
    if config is None or lines:
        raise ConfigError(lines)
    config._source = file  # noqa: SLF001 - its own module
    return config


def _read_configuration(path: Path | None) -> tuple[Path, str]:
    for place in (path,) if path else PLACES:
        file = place.absolute()
        try:
            octets = file.read_bytes()
        except OSError as error:
            if path is None and isinstance(error, FileNotFoundError | NotADirectoryError):
                continue
            hint = "; `ldapmfa init` writes one" if isinstance(error, FileNotFoundError) else ""
            raise ConfigError([f"{file}: the configuration {_why(error)}{hint}"]) from None
        try:
            return file, octets.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            number = octets[: error.start].count(b"\n") + 1
            raise ConfigError([f"{file}:{number}: not UTF-8: save the file as UTF-8"]) from None
    places = " nor ".join(str(place.absolute()) for place in PLACES)
    raise ConfigError(
        [f"no configuration: neither {places} exists; `ldapmfa init` writes one, --config FILE names another"]
    )


@dataclass(frozen=True, slots=True)
class _Mistake:
    """`text` is wrong with what stands at `where`; not worth saying if a place in `because` is mistaken."""

    where: Where
    text: str
    because: tuple[Where, ...] = ()


def _validated(data: dict[str, Any], *, check_files: bool) -> tuple[Config | None, list[_Mistake]]:
    """The configuration in `data` with mistaken keys replaced, and all its mistakes. Changes `data`."""
    mistakes: list[_Mistake] = []
    mistaken: set[Where] = set()
    for _ in range(_PASSES):
        config, errors = _tried(data)
        if config is not None:
            found = [*_across(config), *(_on_disk(config) if check_files else ())]
            mistakes += [
                mistake
                for mistake in found
                if not any(_covered(place, mistaken) for place in (mistake.where, *mistake.because))
            ]
            return config, mistakes
        before = frozenset(mistaken)
        for error in errors:
            where = tuple(part for part in error["loc"] if part != "[key]")
            if not _covered(where, before):
                mistakes.append(_Mistake(where, _explained(error, where)))
            mistaken |= _replaced(data, where, unknown=error["type"] == "extra_forbidden")
    return None, mistakes


def _tried(data: dict[str, Any]) -> tuple[Config | None, list[ErrorDetails]]:
    """The configuration in `data`, or what pydantic finds: unknown keys first, as a missing one may be meant."""
    # not left to pydantic: the constructor of BaseSettings has keywords of its own, such as _env_file
    errors: list[ErrorDetails] = [
        {"type": "extra_forbidden", "loc": (name,), "msg": "", "input": None}
        for name in data
        if name not in Config.model_fields
    ]
    if errors:
        return None, errors
    try:
        return Config(**data), []
    except ValidationError as invalid:
        errors = invalid.errors(include_url=False)
    # a list whose items are mistaken counts as too short for pydantic: the items are reported already
    errors = [error for error in errors if not (error["type"] == "too_short" and error["input"])]
    unknown = [error for error in errors if error["type"] == "extra_forbidden"]
    return None, unknown or errors


def _covered(where: Where, mistaken: set[Where] | frozenset[Where]) -> bool:
    return any(where[:length] in mistaken for length in range(1, len(where) + 1))


def _replaced(data: dict[str, Any], where: Where, *, unknown: bool) -> set[Where]:
    """Put something valid in the place of what is wrong at `where`; the places not to be judged any more."""
    parent, name = where[:-1], where[-1]
    if unknown:
        table = _get(data, parent)
        if isinstance(table, dict):
            table.pop(name, None)
        meant = difflib.get_close_matches(str(name), list(_class_at(parent).model_fields), 1)
        return {where, *((*parent, other) for other in meant)}
    key = _option_at(where)
    table, field = _get(data, key[:-1]), _class_at(key[:-1]).model_fields[str(key[-1])]
    if isinstance(table, dict):
        if field.is_required():
            table[str(key[-1])] = json.loads(json.dumps((field.examples or [None])[0]))
        else:
            table.pop(str(key[-1]), None)
    return {where, key}


def _get(data: Any, where: Where) -> Any:
    """What stands at `where`, None if nothing does."""
    for part in where:
        try:
            data = data[part]
        except (LookupError, TypeError):
            return None
    return data


def _class_in(annotation: Any) -> type[BaseModel] | None:
    """The class of tables that `annotation` is about, however wrapped."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _class_in(part))), None)


def _steps(where: Where) -> Iterator[tuple[Where, type[BaseModel]]]:
    """Each option on the way to `where`, and the class of tables it is in."""
    here: type[BaseModel] = Config
    named = False
    for number, part in enumerate(where):
        if isinstance(part, int) or named:
            named = False
            continue
        yield where[: number + 1], here
        annotation = here.model_fields[part].annotation
        named = get_origin(annotation) is dict
        here = _class_in(annotation) or here


def _option_at(where: Where) -> Where:
    """The longest beginning of `where` that is an option and no longer than it."""
    return [option for option, _ in _steps(where)][-1]


def _class_at(where: Where) -> type[BaseModel]:
    """The class of the table at `where`."""
    here: type[BaseModel] = Config
    for option, table in _steps(where):
        here = _class_in(table.model_fields[str(option[-1])].annotation) or here
    return here


def _explained(error: ErrorDetails, where: Where) -> str:
    """What is wrong and what would be right, never showing what was written."""
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return f"unknown key; {_nearest(str(where[-1]), list(_class_at(where[:-1]).model_fields))}"
    option = _option_at(where)
    field = _class_at(option[:-1]).model_fields[str(option[-1])]
    if kind == "literal_error":
        right = _literals(field.annotation)
        meant = difflib.get_close_matches(str(error["input"]), [str(value) for value in right], 1)
        near = f'; did you mean "{meant[0]}"?' if meant else ""
        return f"must be {_either([json.dumps(value) for value in right])}{near}"
    if kind == "value_error":
        return str(context["error"])
    if kind == "missing" and len(where) == 1:
        return f"needs at least one [[{where[0]}]] table"
    if kind in {"greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number"}:
        return f"must be {_range(field)}"
    example = _value(field)
    shown = f", for example {option[-1]} = {_toml(example)}" if example and "{" not in _toml(example) else ""
    table = _class_in(field.annotation)
    if kind in {"tuple_type", "list_type"}:
        return f"must be a list of tables: write [[{option[-1]}]]" if table else f"must be a list{shown}"
    if kind in {"model_type", "model_attributes_type", "dict_type"}:
        return f"must be a table: write [{_key(where)}]"
    texts = {
        "missing": "is missing, and needed",
        "too_short": "must not be empty",
        "string_type": "must be a string in quotes",
        "path_type": "must be a path in quotes",
    }
    return texts.get(kind, f"is not valid ({kind})") + shown


def _literals(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [value for part in get_args(annotation) for value in _literals(part)]


def _either(words: Sequence[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _range(field: FieldInfo) -> str:
    limits: dict[str, float] = {}
    for constraint in field.metadata:
        for name in ("gt", "ge", "lt", "le"):
            limit = getattr(constraint, name, None)
            if limit is not None:
                limits[name] = limit
    words = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}
    return " and ".join(f"{words[name]} {_toml(limit)}" for name, limit in limits.items())


def _merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`under`, with what `over` says in its place; tables are merged, everything else replaced."""
    result = dict(under)
    for name, value in over.items():
        old = result.get(name)
        result[name] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


class _Environment(EnvSettingsSource):
    """The variables ``LDAPMFA_TABLE__KEY``; lists and tables as JSON, and what is no JSON as it stands."""

    def __init__(self) -> None:
        super().__init__(Config)
        self.env_vars = {
            name: None if value is None else _EnvironmentText(value) for name, value in self.env_vars.items()
        }

    def decode_complex_value(self, field_name: str, field: FieldInfo | None, value: Any) -> Any:
        """`value` itself where it is no JSON, so that its mistake is listed with the others."""
        try:
            return super().decode_complex_value(field_name, field, value)  # type: ignore[arg-type]
        except ValueError:
            return value


def _environment() -> tuple[dict[str, Any], dict[str, str]]:
    """What the environment sets, and the variables of ours by their name in small letters."""
    ours = {name.lower(): name for name in os.environ if name.upper().startswith(_PREFIX)}
    return _Environment()(), ours


@dataclass(frozen=True, slots=True)
class _Origin:
    """Where each value came from, for the mistakes."""

    file: Path
    lines: Mapping[Where, int]
    environment: dict[str, Any]
    variables: Mapping[str, str]

    def line(self, mistake: _Mistake) -> str:
        """`mistake` as the administrator reads it."""
        key = _key(mistake.where)
        variable = self._variable(mistake.where)
        if variable:
            as_json = " (a list or a table is written as JSON here)" if "must be a list" in mistake.text else ""
            return printable(f"environment variable {variable}: {key}: {mistake.text}{as_json}")
        number = self.number(mistake)
        place = f"{self.file}:{number}" if number else f"{self.file}"
        return printable(f"{place}: {key}: {mistake.text}")

    def number(self, mistake: _Mistake) -> int:
        """The line of the file where `mistake` is, or where what it is in begins; 0 if nowhere."""
        beginnings = (mistake.where[:length] for length in range(len(mistake.where), 0, -1))
        return next((self.lines[place] for place in beginnings if place in self.lines), 0)

    def unknown_variables(self) -> list[str]:
        """A mistake for each variable that would be meant for us and sets nothing."""
        known = list(Config.model_fields)
        mistakes = []
        for small, name in sorted(self.variables.items()):
            table, nested, _ = small.removeprefix(_PREFIX.lower()).partition("__")
            if table not in known and (nested or difflib.get_close_matches(table, known)):
                text = f"environment variable {name}: sets nothing, unknown table; {_nearest(table, known)}"
                mistakes.append(printable(text))
        return mistakes

    def _variable(self, where: Where) -> str | None:
        """The variable that set the value at `where`, if one did."""
        value: Any = self.environment
        names: list[str] = []
        for part in where:
            if not isinstance(value, dict):
                break  # a list or a single value is the variable's as a whole
            if part not in value:
                return None  # a table of which the environment sets other keys, if any
            value = value[part]
            names.append(str(part))
        beginnings = ("__".join(names[:length]) for length in range(len(names), 0, -1))
        variables = (self.variables.get(_PREFIX.lower() + beginning) for beginning in beginnings)
        return next((variable for variable in variables if variable), None)


def _key(where: Where) -> str:
    """`where` as it is spoken of: ``listen[0].endpoint``."""
    text = ""
    for part in where:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if re.fullmatch(r"[\w-]+", part) else json.dumps(part))
    return text


def _lines(text: str) -> dict[Where, int]:
    """The line on which each table and key of a valid TOML `text` begins."""
    lines: dict[Where, int] = {}
    items: dict[Where, int] = {}  # how many tables an array of tables has so far
    table: Where = ()
    statement, start = "", 1
    for number, line in enumerate(text.split("\n"), 1):
        start = start if statement else number
        statement += line + "\n"
        try:
            parsed = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue  # it goes on in the next line
        heading = statement.lstrip().startswith("[")
        statement = ""
        if heading:
            table = ()
            names = list(_leaf(parsed))
            for name in names:
                lines.setdefault(table, start)
                table = (*table, name)
                if name is names[-1] and _get(parsed, tuple(names)) == [{}]:
                    items[table] = items.get(table, 0) + 1
                    lines.setdefault(table, start)
                if table in items:
                    table = (*table, items[table] - 1)
            lines.setdefault(table, start)
        else:
            for place in _places(parsed):
                lines.setdefault((*table, *place), start)
    return lines


def _leaf(table: Any) -> Iterator[str]:
    while isinstance(table, dict) and table:
        ((name, table),) = table.items()
        yield name


def _places(value: Any) -> Iterator[Where]:
    inside: Any = ()
    if isinstance(value, dict):
        inside = value.items()
    elif isinstance(value, list):
        inside = enumerate(value)
    for name, part in inside:
        yield (name,)
        for place in _places(part):
            yield (name, *place)


# --- what only several keys together, or the files, can tell ----------------------------------------------


def _across(config: Config) -> Iterator[_Mistake]:
    for number, listener in enumerate(config.listen):
        yield from _tls_settings(listener, ("listen", number))
        yield from _no_directory(config, listener.directory, ("listen", number, "directory"))
    for (first, one), (second, other) in combinations(enumerate(config.listen), 2):
        place: Where = ("listen", second, "endpoint")
        if one.where.overlaps(other.where):
            text = f"is where listen[{first}] listens already: choose another port or another interface"
            yield _Mistake(place, text, (("listen", first, "endpoint"),))
        elif one.name == other.name:
            text = f"is the name of listen[{first}] too: give each listener a name of its own"
            yield _Mistake(("listen", second, "name"), text, (place,))
    for name, directory in config.every_directory.items():
        here: Where = ("directory",) if name == "default" else ("directories", name)
        yield from _directory_settings(directory, here)
    if config.login.refusal_floor >= config.login.deadline:
        yield _Mistake(
            ("login", "refusal_floor"),
            "must be less than login.deadline, for example 0.25",
            (("login", "deadline"),),
        )
    yield from _delimiters(config)
    for number, exempt in enumerate(config.exempt):
        if exempt.directory is not None:
            yield from _no_directory(config, exempt.directory, ("exempt", number, "directory"))
    if config.limits.frame_before_bind > config.limits.frame_after_bind:
        text = "must not be more than limits.frame_after_bind: before a bind less is needed, for example 65536"
        yield _Mistake(("limits", "frame_before_bind"), text, (("limits", "frame_after_bind"),))


def _tls_settings(listener: Listen, here: Where) -> Iterator[_Mistake]:
    tls: Where = (*here, "tls")
    for name, path in (("certificate", listener.certificate), ("key", listener.key)):
        if listener.tls == "none" and path is not None:
            yield _Mistake(
                (*here, name),
                'is pointless with tls = "none": set tls = "starttls" or "ldaps", or remove this line',
                (tls,),
            )
        elif listener.tls != "none" and path is None:
            yield _Mistake(
                (*here, name), f'is missing, and needed with tls = "{listener.tls}": name a PEM file', (tls,)
            )
    if listener.tls == "none" and listener.tls_required:
        why = "is true" if listener.require_tls else "is true by default, as others than this machine can connect,"
        yield _Mistake(
            (*here, "require_tls"),
            f'{why} while tls = "none", so that nobody could log in: set tls = "starttls" or "ldaps" with '
            "certificate and key, or listen on interface=127.0.0.1, or, if passwords may cross the network "
            "in clear text, set require_tls = false",
            (tls, (*here, "endpoint")),
        )


def _no_directory(config: Config, name: str, where: Where) -> Iterator[_Mistake]:
    if name in config.every_directory:
        return
    because: tuple[Where, ...] = (("directory",), ("directories",))
    if name == "default":
        text = 'is "default", but there is no [directory] table: add one with uris = ["ldaps://..."]'
        yield _Mistake(where, text, because)
    else:
        text = f"there is no [directories.{name}] table; {_nearest(name, list(config.every_directory))}"
        yield _Mistake(where, text, because)


def _directory_settings(directory: Directory, here: Where) -> Iterator[_Mistake]:
    for name, servers in (
        ("uris", directory.servers),
        ("global_catalog", (directory.global_catalog_server,)),
    ):
        if directory.starttls and any(server is not None and server.tls for server in servers):
            yield _Mistake(
                (*here, "starttls"),
                f"does not go with ldaps:// in {name}: write ldap:// there, or remove starttls",
                ((*here, name),),
            )
    account, there = directory.service_account, (*here, "service_account")
    if account is not None and (account.password is None) == (account.password_file is None):
        both = account.password is not None
        yield _Mistake(
            there,
            "has both password and password_file: keep one" if both else "needs password_file (or password)",
            ((*there, "password"), (*there, "password_file")),
        )


def _delimiters(config: Config) -> Iterator[_Mistake]:
    if "recovery" not in config.login.factors:
        return
    places: list[tuple[Where, str | None]] = [(("login", "delimiter"), config.login.delimiter)]
    places += [(("listen", i, "delimiter"), listener.delimiter) for i, listener in enumerate(config.listen)]
    for place, delimiter in places:
        if delimiter == "-":
            text = 'must not be "-" where recovery codes are accepted, as these contain it; for example ","'
            yield _Mistake(place, text, (("login", "factors"),))


def _on_disk(config: Config) -> Iterator[_Mistake]:
    for number, listener in enumerate(config.listen):
        here: Where = ("listen", number)
        if listener.tls != "none":
            yield from _tls_files(listener, here)
        if listener.where.path:
            yield from _no_parent(Path(listener.where.path), (*here, "endpoint"))
    for name, directory in config.every_directory.items():
        here = ("directory",) if name == "default" else ("directories", name)
        if directory.ca_file:
            octets, wrong = _octets(directory.ca_file)
            if octets is not None and not _certificates(octets):
                wrong = f"{directory.ca_file} holds no PEM certificate: it must be a file of authorities"
            if wrong:
                yield _Mistake((*here, "ca_file"), wrong)
        account = directory.service_account
        if account and account.password_file:
            octets, wrong = _octets(account.password_file)
            if octets is not None and not octets.strip():
                wrong = f"{account.password_file} is empty: write the password into it"
            if wrong:
                yield _Mistake((*here, "service_account", "password_file"), wrong)
    if config.store.sqlite_file:
        yield from _no_parent(config.store.sqlite_file, ("store", "url"))
    yield from _store_key(config.store.key_file)


def _store_key(file: Path) -> Iterator[_Mistake]:
    where: Where = ("store", "key_file")
    octets, wrong = _octets(file)
    if wrong:
        missing = not os.path.lexists(file)
        yield _Mistake(where, wrong + ("; `ldapmfa init` makes it" if missing else ""))
    elif not octets:
        yield _Mistake(where, f"{file} is empty: bring back the copy of the key, or begin with `ldapmfa init`")
    elif file.stat().st_mode & 0o027:
        yield _Mistake(where, f"{file} may be read by everybody or written by others: chmod 600 {file}")


def _tls_files(listener: Listen, here: Where) -> Iterator[_Mistake]:
    certificates: list[x509.Certificate] = []
    if listener.certificate:
        octets, wrong = _octets(listener.certificate)
        certificates = _certificates(octets or b"")
        if octets is not None and not certificates:
            wrong = f"{listener.certificate} holds no PEM certificate (-----BEGIN CERTIFICATE-----)"
        if wrong:
            yield _Mistake((*here, "certificate"), wrong)
    if not listener.key:
        return
    octets, wrong = _octets(listener.key)
    if octets is not None:
        try:
            public = serialization.load_pem_private_key(octets, None).public_key()
        except TypeError:
            wrong = (
                f"{listener.key} is protected by a pass phrase, which nobody could type at start: "
                f"write it without one (openssl pkey -in FILE -out NEW-FILE) and chmod 600 it"
            )
        except (ValueError, UnsupportedAlgorithm):
            wrong = f"{listener.key} holds no PEM private key (-----BEGIN PRIVATE KEY-----)"
        else:
            if certificates and certificates[0].public_key() != public:
                wrong = (
                    f"{listener.key} does not belong to the first certificate in {listener.certificate}: "
                    "name the pair, with the server's own certificate before its chain"
                )
    if wrong:
        yield _Mistake((*here, "key"), wrong)


def _certificates(octets: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(octets)
    except ValueError:
        return []


def _octets(file: Path) -> tuple[bytes | None, str]:
    """What `file` holds, or why it can't be read."""
    try:
        return file.read_bytes(), ""
    except OSError as error:
        return None, f"{file} {_why(error)}"


def _why(error: OSError) -> str:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return "does not exist"
    if isinstance(error, IsADirectoryError):
        return "is a directory, where a file is needed"
    if isinstance(error, PermissionError):
        return f"can't be read by user id {os.geteuid()}: give it to that user, or allow its group to read"
    return f"can't be read: {error.strerror}"


def _no_parent(file: Path, where: Where) -> Iterator[_Mistake]:
    if not os.path.isdir(file.parent):  # noqa: PTH112 - Path.is_dir raises where it may not look
        yield _Mistake(where, f"there is no directory {file.parent}: create it, or name another")


def port_mistakes(config: Config) -> list[str]:
    """A line for each TCP endpoint that can't be listened on now; each is bound for a moment to find out."""
    mistakes = []
    for number, listener in enumerate(config.listen):
        endpoint = listener.where
        if endpoint.port is None:
            continue
        address = str(endpoint.address)
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(socket.getaddrinfo(address, endpoint.port, family, socket.SOCK_STREAM)[0][4])
        except OSError as error:
            place = f"listen[{number}].endpoint: port {endpoint.port} on {address}"
            mistakes.append(f"{place} {_port_why(error, endpoint.port)}")
    return mistakes


def _port_why(error: OSError, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"is in use: stop what uses it (`ss -ltnp sport = :{port}` names it), or choose another port"
    if error.errno == errno.EACCES:
        return (
            "is not allowed for this user: ports below 1024 need CAP_NET_BIND_SERVICE, which the systemd "
            "unit gives (AmbientCapabilities=CAP_NET_BIND_SERVICE); or choose a port from 1024 on"
        )
    if error.errno in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT} or isinstance(error, socket.gaierror):
        return "is not available: this machine has no such address (`ip address` lists those it has)"
    return f"can't be listened on: {error.strerror}"


# --- the pages made from the classes ----------------------------------------------------------------------


def _toml(value: Any) -> str:
    if isinstance(value, bool | str | Path):
        return json.dumps(value if isinstance(value, bool) else str(value), ensure_ascii=False)
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return str(value)


def _value(field: FieldInfo) -> Any:
    """The default, or an example where the default can't be written."""
    if field.is_required() or field.default is None or field.default == "":
        return (field.examples or [None])[0]
    return field.default


def _default(field: FieldInfo) -> str | None:
    """The default in words, where it can't be written."""
    words = field.json_schema_extra
    if isinstance(words, dict):
        return str(words["default"])
    if field.is_required():
        return "none, it must be given"
    return "none" if field.default is None else None


def _type(annotation: Any) -> str:
    origin, parts = get_origin(annotation), [part for part in get_args(annotation) if part is not type(None)]
    if IPv4Network in parts:
        return "network"
    if origin is Literal:
        return _either([json.dumps(part) for part in parts])
    if origin is tuple:
        return f"list of {_type(parts[0])}s"
    if parts:  # Annotated, or optional
        return _type(parts[0])
    return {
        bool: "true or false",
        int: "whole number",
        float: "number",
        Path: "path",
        SecretStr: "string, secret",
    }.get(annotation, "string")


def _sections() -> Iterator[tuple[str, type[BaseModel]]]:
    """Each table's heading, and its class."""
    for name, field in Config.model_fields.items():
        table = _class_in(field.annotation)
        if table is None:
            raise AssertionError(name)
        if get_origin(field.annotation) is dict:
            yield f"[{name}.NAME]", table
            continue
        yield (f"[[{name}]]" if get_origin(field.annotation) is tuple else f"[{name}]"), table
        for key, option in table.model_fields.items():
            inner = _class_in(option.annotation)
            if inner:
                yield f"[{name}.{key}]", inner


_ANOTHER = "Further directories, each a table with the same keys as [directory]; a listener names the one behind it."


def _prose(text: str) -> str:
    return " ".join(text.split())


def _comment(text: str) -> list[str]:
    return textwrap.wrap(_prose(text), 108, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


def conf_text() -> str:
    """conf/ldapmfa.toml: every option, commented out at its default."""
    text = [
        "# ldapmfa.toml: every option, commented out at its default or, where it has none, with an example.",
        '# Lines beginning with "# " explain; take the "#" off any other line to set it.',
        "# Relative paths are relative to this file. The environment overrides it: LDAPMFA_LOGIN__CODE_DIGITS=8",
        "# sets code_digits in [login]; lists and tables are written as JSON. `ldapmfa check-config` lists mistakes.",
        "# Made by `make docs` from ldapmfa/config.py.",
    ]
    for heading, table in _sections():
        another = heading == "[directories.NAME]"
        text += ["", "", *_comment(_ANOTHER if another else table.__doc__ or "")]
        text += [f"#{heading.replace('NAME', 'other')}"]
        for name, field in table.model_fields.items():
            if _class_in(field.annotation) or (another and not field.is_required()):
                continue
            default = _default(field)
            kind = _type(field.annotation) + (f"; default: {default}" if default else "")
            text += ["", *_comment(f"{field.description} ({kind})"), f"#{name} = {_toml(_value(field))}"]
    return "\n".join(text) + "\n"


def reference_text() -> str:
    """docs/reference/configuration.md: the same as tables."""
    text = [
        "# Configuration",
        "",
        "<!-- Made by `make docs` from ldapmfa/config.py: change it there. -->",
        "",
        f"The file is `--config FILE`, else `./{PLACES[0]}`, else `{PLACES[1]}`; it is TOML. Relative paths in it are",
        "relative to the file. [conf/ldapmfa.toml](../../conf/ldapmfa.toml) has every option with its default.",
        "",
        "An environment variable overrides the file: `LDAPMFA_`, the table, two underscores and the key, as in",
        "`LDAPMFA_LOGIN__CODE_DIGITS=8`. Lists and tables are written as JSON:",
        """`LDAPMFA_DIRECTORY__URIS='["ldaps://dc1.example.com"]'`. Secrets are better kept in files of their own""",
        "(`key_file`, `password_file`).",
        "",
        "`ldapmfa check-config` lists every mistake at once, each with its line and what would be right, and then",
        "ends with code 2.",
    ]
    for heading, table in _sections():
        another = heading == "[directories.NAME]"
        text += ["", f"## `{heading}`", "", _prose(_ANOTHER if another else table.__doc__ or "")]
        if another:
            text += ["`NAME` consists of small letters a-z, digits and hyphens; `default` is `[directory]`."]
            continue
        text += ["", "| key | type | default | meaning |", "|---|---|---|---|"]
        for name, field in table.model_fields.items():
            kind = "table" if _class_in(field.annotation) else _type(field.annotation)
            default = _default(field) or f"`{_toml(field.default)}`"
            text += [f"| `{name}` | {kind} | {default} | {field.description} |".replace("NAME", "*NAME*")]
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    sys.stdout.write({"conf": conf_text, "reference": reference_text}[sys.argv[1]]())
