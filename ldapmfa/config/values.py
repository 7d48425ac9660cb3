"""What single values mean: endpoint strings, directory URIs, networks, paths, numbers.

Promised here: what is wrong is a ValueError whose text says what would be right, without showing a secret. Not in
here: which keys there are, whether files exist, and what goes together.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import string
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, Strict, ValidationInfo

from ldapmfa.config.postgresql import DatabaseUrl, is_postgresql
from ldapmfa.wire.dn import prepare

#: What a path begins with that is a credential's (systemd.exec(5), LoadCredential=).
CREDENTIALS: Final = "${CREDENTIALS_DIRECTORY}"
#: How a user may be asked: a service, a method and a device, of which only the method must be given.
METHOD: Final = re.compile(r"(?:([a-z0-9][a-z0-9_-]*)/)?([a-z][a-z0-9_-]*)(?::([ -~]+))?")


@dataclass(frozen=True, slots=True)
class Reading:
    """What pydantic hands on to whoever validates, while a file is read; None for what is made directly.

    `base` is where relative paths begin; `directories` has each directory's name, and its identity name; `names` and
    `applications` collect the names of listeners and applications, to find one that is given twice. `codes` are the
    factors that compute codes, `services` the names of tables of services, `unset` the services that have none of their
    name.
    """

    base: Path
    check_files: bool
    directories: Mapping[str, str]
    codes: AbstractSet[str] = frozenset()
    services: AbstractSet[str] = frozenset()
    unset: AbstractSet[str] = frozenset()
    names: set[str] = field(default_factory=set)
    applications: set[str] = field(default_factory=set)


class FromEnvironment(str):
    """A value from the environment, where everything is text: a number or a truth value may be made of it."""

    __slots__ = ()


def nearest(name: str, known: Iterable[str]) -> str:
    """What may have been meant by `name`, or else all that is known."""
    known = list(known)
    meant = difflib.get_close_matches(name, known, 1)
    return f'did you mean "{meant[0]}"?' if meant else f"known: {', '.join(known) or 'none'}"


# --- what some strings mean ------------------------------------------------------------------------------


#: The parameters of each kind of endpoint in the order of Twisted's own parsers, and what they look like.
_KINDS: Final = {
    "tcp": {"port": r"[0-9]{1,5}", "interface": r".*", "backlog": r"[0-9]+"},
    "tcp6": {"port": r"[0-9]{1,5}", "backlog": r"[0-9]+", "interface": r".*"},
    "unix": {"address": r".+", "mode": r"[0-7]{1,4}", "backlog": r"[0-9]+", "lockfile": r"[01]"},
    "systemd": {"domain": r"INET6?|UNIX", "index": r"[0-9]+", "name": r".+"},
}
_EXAMPLES: Final = {
    "tcp": "tcp:389:interface=127.0.0.1",
    "tcp6": r"tcp6:389:interface=2001\:db8\:\:7",
    "unix": "unix:/run/ldapmfa/ldap.sock:mode=660",
    "systemd": "systemd:domain=INET:name=ldap",
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What a listener's endpoint string says: its kind, and its parameters by name."""

    kind: str
    given: Mapping[str, str]

    @classmethod
    def parse(cls, text: str) -> Self:
        """The endpoint that `text` describes; a ValueError says what would be right."""
        (kind, *rest), *words = _words(text)
        if kind in {"ssl", "tls"}:
            raise ValueError(
                "TLS is not part of the endpoint: write tcp: here, and beside it "
                'tls = "ldaps" (or "starttls"), certificate = "..." and key = "..."'
            )
        if kind not in _KINDS or rest:
            raise ValueError('must begin with tcp:, tcp6:, unix: or systemd:, for example "tcp:389"')
        shapes = _KINDS[kind]
        given = dict(zip(shapes, (word[0] for word in words if len(word) == 1), strict=False))
        given |= dict(word for word in words if len(word) == 2)
        endpoint = cls(kind, given)
        wrong = [
            name
            for name in dict.fromkeys([next(iter(shapes)), *given])
            if not re.fullmatch(shapes.get(name, "(?!)"), given.get(name, ""), re.DOTALL)
        ]
        if wrong or len(given) < len(words) or not endpoint._is_possible():
            raise ValueError(
                f"{kind}: takes {', '.join(shapes)}, as in '{_EXAMPLES[kind]}'; a colon within a value is written "
                rf"\:, in TOML's single quotes; not right here: {' and '.join(wrong) or text}"
            )
        return endpoint

    def _is_possible(self) -> bool:
        if self.kind == "systemd":
            return ("index" in self.given) != ("name" in self.given)
        try:
            return self.port is None or (
                self.port < 1 << 16 and self.address.version in {4 if self.kind == "tcp" else 6, 6}
            )
        except ValueError:
            return False

    @property
    def port(self) -> int | None:
        """The port of a tcp endpoint."""
        return int(self.given["port"]) if "port" in self.given else None

    @property
    def address(self) -> IPv4Address | IPv6Address:
        """The address of a tcp endpoint; the unspecified one for everywhere."""
        everywhere = "0.0.0.0" if self.kind == "tcp" else "::"  # noqa: S104 - what "everywhere" means
        interface = self.given.get("interface") or everywhere
        return ip_address("127.0.0.1" if (self.kind, interface) == ("tcp", "localhost") else interface)

    @property
    def local(self) -> bool:
        """Whether only programs of this machine can come through it."""
        if self.port is None:
            return self.kind == "unix" or self.given["domain"] == "UNIX"
        return self.address.is_loopback

    def below(self, base: Path) -> str:
        """The endpoint string, with a relative path made one below `base`: Twisted would begin elsewhere."""
        given = {name: str(base / value) if name == "address" else value for name, value in self.given.items()}
        return ":".join((self.kind, *(f"{name}=" + re.sub(r"([:=\\])", r"\\\1", given[name]) for name in given)))


def _words(text: str) -> list[tuple[str, ...]]:
    """The words between colons of an endpoint string, each (value,) or (name, value).

    The grammar of twisted.internet.endpoints: a backslash stands before a character that is meant literally.
    """
    words = [[""]]
    letters = iter(text)
    for letter in letters:
        if letter == ":":
            words.append([""])
        elif letter == "=" and len(words[-1]) == 1:
            words[-1].append("")
        else:
            words[-1][-1] += next(letters, "") if letter == "\\" else letter
    return [tuple(word) for word in words]


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
        rest = (parts.path.rstrip("/"), parts.query, parts.fragment)
        if (
            parts.scheme not in {"ldap", "ldaps"}
            or "@" in parts.netloc
            or any(rest)
            or port == 0
            or not re.fullmatch(r"[\w.:-]+", host)
        ):
            raise ValueError(
                "must begin with ldap:// or ldaps://, and end with a host or host:port, for example "
                '"ldaps://dc1.example.com" or "ldap://[2001:db8::7]:389"; an account goes to service_account'
            )
        tls = parts.scheme == "ldaps"
        return cls(tls, host, port or ports[tls])


@dataclass(frozen=True, slots=True)
class SyslogServer:
    """Where syslog messages go: by `way`, to a `host` without brackets and a port, or to a socket's `path`."""

    way: Literal["udp", "tcp", "tls", "unix"]
    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """The server that `text` names; a ValueError says what would be right."""
        if text.startswith("unix:/"):
            return cls("unix", path="/" + text.removeprefix("unix:").lstrip("/"))
        ports: dict[str, tuple[Literal["udp", "tcp", "tls"], int]] = {
            "udp": ("udp", 514), "tcp": ("tcp", 601), "tls": ("tls", 6514)
        }  # fmt: skip
        try:
            parts = urlsplit(text)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            host, port, parts = "", None, urlsplit("")
        rest = "@" in parts.netloc or parts.path.rstrip("/") or parts.query or parts.fragment
        if parts.scheme not in ports or rest or port == 0 or not re.fullmatch(r"[\w.:-]+", host):
            raise ValueError(
                'must be udp://, tcp:// or tls:// with a host or host:port, for example "tls://siem.example.com:6514", '
                'or unix: with an absolute path, for example "unix:/run/rsyslog.sock"'
            )
        way, usual = ports[parts.scheme]
        return cls(way, host, port or usual)


@dataclass(frozen=True, slots=True)
class SrvUri:
    """Servers that the DNS names: `name` is what it is asked for, `domain` where they must be; `tls` is true for LDAPS.

    A name that begins with an underscore is asked for as it is, as _ldap._tcp.SITE._sites.dc._msdcs.DOMAIN.
    """

    tls: bool
    name: str
    domain: str

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """What `text` says, None if it is no ldap+srv:// or ldaps+srv:// URI; a ValueError says what would be right."""
        scheme, colon, rest = text.partition("://")
        scheme, name = scheme.lower(), rest.rstrip("/").rstrip(".").lower()
        if not colon or scheme not in {"ldap+srv", "ldaps+srv"}:
            return None
        if re.fullmatch(r".*:[0-9]*", name):
            raise ValueError("must not have a port: the SRV records have it")
        labels = name.split(".")
        plain = [number for number, label in enumerate(labels) if label.startswith("_")]
        domain = ".".join(labels[plain[-1] + 1 :] if plain and plain[0] == 0 else labels)
        if not _is_domain(domain) or not re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*", name):
            raise ValueError(
                'must end with a DNS domain, for example "ldap+srv://example.com", or with the whole name of SRV '
                'records, for example "ldap+srv://_ldap._tcp.Berlin._sites.dc._msdcs.example.com"'
            )
        tls = scheme == "ldaps+srv"
        service = "_ldaps" if tls else "_ldap"
        return cls(tls, name if plain and plain[0] == 0 else f"{service}._tcp.{name}", domain)


def _is_domain(text: str) -> bool:
    """Whether it is a DNS name of at least two labels: below one label of the root are strangers."""
    return bool(re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+", text))


def nameserver(text: str) -> tuple[str, int]:
    """The address and the port of a name server."""
    address, port = text, "53"
    if found := re.fullmatch(r"\[(.+)\](?::([0-9]+))?|([^:]+):([0-9]+)", text):
        address, port = found[1] or found[3], found[2] or found[4] or "53"
    try:
        if not 0 < int(port) < 1 << 16:
            raise ValueError(port)
        return str(ip_address(address)), int(port)
    except ValueError:
        right = 'for example "10.0.0.53" or "[2001:db8::53]:53"'
        raise ValueError(f"must be an address, with a port if need be, {right}") from None


# --- the kinds of values ---------------------------------------------------------------------------------

#: More than any machine has processors for.
_MOST_WORKERS: Final = 256


def _plain(value: object) -> object:
    """The number or truth value in a text from the environment; what is none is left for pydantic to refuse."""
    if isinstance(value, FromEnvironment):
        try:
            return json.loads(value)
        except ValueError:
            pass
    return value


def _workers(value: object) -> int:
    number = len(os.sched_getaffinity(0)) if value == "auto" else _plain(value)
    if type(number) is not int or not 1 <= number <= _MOST_WORKERS:
        raise ValueError(f'must be a whole number from 1 to {_MOST_WORKERS}, or "auto"')
    return number


def _text(value: str) -> str:
    if not prepare(value):
        raise ValueError("must not be empty")
    return value


def _anchored(path: Path, info: ValidationInfo) -> Path:
    """`path` below the configuration's folder, unless it is absolute; or below systemd's folder of credentials."""
    if info.context and path.parts[:1] == (CREDENTIALS,):
        folder = os.environ.get(CREDENTIALS[2:-1])
        if not folder and info.context.check_files:
            raise ValueError(
                f"begins with {CREDENTIALS}, which is not set: systemd sets it for a unit with LoadCredential=; for a"
                " command, set it to the folder where the unit loads them from"
            )
        return Path(folder or CREDENTIALS, *path.parts[1:])
    return info.context.base / path if info.context else path


def _network(value: object) -> IPv4Network | IPv6Network:
    """A network as clients' addresses are compared with it: IPv4 ones always as IPv4."""
    right = 'for example "10.1.0.0/16" or "2001:db8::7"'
    if not isinstance(value, str | IPv4Network | IPv6Network):
        raise ValueError(f"must be a network or an address in quotes, {right}")  # noqa: TRY004 - pydantic's contract
    try:
        network = ip_network(value)
    except ValueError as wrong:
        raise ValueError(f"must be a network or an address, {right}: {wrong}") from None
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped:
        raise ValueError(f"must be written as IPv4, {right}")
    return network


def _directory_name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9-]+", value):
        raise ValueError("must consist of small letters a-z, digits and hyphens")
    return value


def _identity_name(value: str) -> str:
    return _directory_name(value) if value else value


def _other_name(value: str) -> str:
    if value == "default":
        raise ValueError('the directory named "default" is the table [directory]: write it there')
    return _directory_name(value)


def _factor(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", value):
        raise ValueError("must be a factor's name: small letters a-z, digits and hyphens")
    return value


def web_url(example: str) -> AfterValidator:
    """A URL below which a service is: https://, or http:// on this machine; without a slash at its end."""

    def check(text: str) -> str:
        try:
            parts = urlsplit(text)
            host = parts.hostname or ""
            wrong = parts.port == 0 or not re.fullmatch(r"[\w.:-]+", host) or not text.isprintable() or " " in text
        except ValueError:
            raise ValueError(f'is no URL; for example "{example}"') from None
        if wrong or parts.scheme not in {"https", "http"} or "@" in parts.netloc or "?" in text or "#" in text:
            raise ValueError(f'must be a URL without query, for example "{example}"')
        if parts.scheme == "http" and not is_loopback(host):
            raise ValueError("must begin with https://, as secrets cross the network")
        return text.rstrip("/")

    return AfterValidator(check)


def is_loopback(host: str) -> bool:
    """Whether what is sent there stays on this machine."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _method(value: str) -> str:
    if not METHOD.fullmatch(value):
        raise ValueError(
            'must be a method ("push"), with a service before a slash ("duo/push") and a device behind a colon '
            '("push:2") if need be'
        )
    return value


def _mail_address(value: str) -> str:
    """One address as an envelope has it (RFC 5321), without a name: nothing of it could be a header's end."""
    if not re.fullmatch(r"[A-Za-z0-9.!#$%&'*+/=?^_{|}~-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*", value):
        raise ValueError('must be a mail address without a name, for example "desk@example.com"')
    return value


def _attribute(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]*", value):
        raise ValueError('must be the name of an attribute, for example "mobile"')
    return value


def _delimiter(value: str) -> str:
    if len(value) != 1 or value not in string.punctuation or value == "-":
        raise ValueError(
            'must be one ASCII punctuation character, but not "-" (recovery codes have it); for example ","'
        )
    return value


def _endpoint(text: str, info: ValidationInfo) -> str:
    endpoint = Endpoint.parse(text)
    return endpoint.below(info.context.base) if info.context and endpoint.kind == "unix" else text


def _uri(text: str) -> str:
    DirectoryUri.parse(text)
    return text


def _syslog_target(text: str) -> str:
    SyslogServer.parse(text)
    return text


def _directory_uri(text: str) -> str:
    return text if SrvUri.parse(text) else _uri(text)


def _catalog_uri(text: str) -> str:
    if "+srv" in text.partition("://")[0].lower():
        raise ValueError("can't be found by SRV records: name one server, for example ldaps://dc1.example.com:3269")
    return _uri(text)


def _domain(text: str) -> str:
    domain = text.lower().rstrip(".")
    if not _is_domain(domain):
        raise ValueError('must be a DNS domain of at least two labels, for example "example.com"')
    return domain


def _nameserver(text: str) -> str:
    nameserver(text)
    return text


def _store_url(url: str, info: ValidationInfo) -> str:
    if is_postgresql(url):
        DatabaseUrl.parse(url)
        return url
    scheme, found, rest = url.partition("://")
    if not found or scheme.partition("+")[0] != "sqlite":
        raise ValueError(
            'must begin with sqlite:///, for example "sqlite:///state.db", or with postgresql+asyncpg://, for example '
            '"postgresql+asyncpg://ldapmfa@db.example.com/ldapmfa"'
        )
    file, question, options = rest[1:].partition("?")
    if not rest.startswith("/") or file in {"", ":memory:"}:
        raise ValueError(
            'must name a SQLite file behind three slashes if relative ("sqlite:///state.db"), behind four if absolute '
            '("sqlite:////var/lib/ldapmfa/state.db"); in memory it would forget which codes are used up'
        )
    return f"{scheme}:///{_anchored(Path(file), info)}{question}{options}"


Flag = Annotated[bool, Strict(), BeforeValidator(_plain)]
Whole = Annotated[int, Strict(), BeforeValidator(_plain)]
Number = Annotated[float, Strict(), Field(allow_inf_nan=False), BeforeValidator(_plain)]
Seconds = Annotated[Number, Field(gt=0, le=86400)]
Digits = Annotated[Literal[6, 8], BeforeValidator(_plain)]
Workers = Annotated[int, PlainValidator(_workers)]
Text = Annotated[str, AfterValidator(_text)]
File = Annotated[Path, AfterValidator(_anchored)]
Network = Annotated[IPv4Network | IPv6Network, PlainValidator(_network)]
DirectoryName = Annotated[str, AfterValidator(_directory_name)]
IdentityName = Annotated[str, AfterValidator(_identity_name)]
OtherName = Annotated[str, AfterValidator(_other_name)]
Factor = Annotated[str, AfterValidator(_factor)]
Method = Annotated[str, AfterValidator(_method)]
AttributeName = Annotated[str, AfterValidator(_attribute)]
MailAddress = Annotated[str, AfterValidator(_mail_address)]
Delimiter = Annotated[str, AfterValidator(_delimiter)]
EndpointText = Annotated[str, AfterValidator(_endpoint)]
Uri = Annotated[str, AfterValidator(_directory_uri)]
CatalogUri = Annotated[str, AfterValidator(_catalog_uri)]
Domain = Annotated[str, AfterValidator(_domain)]
NameServer = Annotated[str, AfterValidator(_nameserver)]
StoreUrl = Annotated[str, AfterValidator(_store_url)]
SyslogTarget = Annotated[str, AfterValidator(_syslog_target)]
CodeStyle = Literal["suffix", "delimiter"]
