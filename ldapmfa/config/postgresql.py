"""The URL of a PostgreSQL database, taken apart.

Promised here: what is not understood is a mistake and not ignored; unless the URL says otherwise, a server on another
machine must show a certificate for its name. Not in here: connecting (`ldapmfa.store.postgresql`).
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final, Literal
from urllib.parse import parse_qs, unquote

from ldapmfa.core.secret import Secret

#: How the server's certificate is looked at: not at all, not asked for, its authority, and its name too.
Tls = Literal["disable", "require", "verify-ca", "verify-full"]

PORT: Final = 5432
_EXAMPLE: Final = "postgresql+asyncpg://ldapmfa@db.example.com/ldapmfa"
_TLS: Final[dict[str, Tls]] = {
    "disable": "disable",
    "require": "require",
    "verify-ca": "verify-ca",
    "verify-full": "verify-full",
}
_FILES: Final = ("sslrootcert", "sslcert", "sslkey")
_KNOWN: Final = ("host", "port", "ssl", "sslmode", *_FILES, "target_session_attrs")


@dataclass(frozen=True, slots=True)
class DatabaseUrl:
    """Where a database is: `hosts` are names, addresses or folders of a socket, each with a port.

    The server is `tls`-protected; it is known by the authorities in `ca_file`, the system's if None. We show
    `certificate` with its `key`, if given.
    """

    hosts: tuple[tuple[str, int], ...]
    user: str | None
    password: Secret | None
    database: str
    tls: Tls
    ca_file: str | None = None
    certificate: str | None = None
    key: str | None = None

    @property
    def files(self) -> dict[str, str]:
        """The files that it names, by the name of the option."""
        named = zip(_FILES, (self.ca_file, self.certificate, self.key), strict=True)
        return {option: file for option, file in named if file}

    @classmethod
    def parse(cls, text: str) -> DatabaseUrl:
        """Take a URL apart. ValueError: what is wrong with it; the text never holds the password."""
        scheme, found, rest = text.partition("://")
        if not found:
            raise ValueError(f"has no :// in it: write {_EXAMPLE}")
        if scheme not in _SCHEMES:
            raise ValueError(f"its driver is {scheme}: write {_EXAMPLE}")
        place, _, query = rest.partition("?")
        authority, slash, database = place.partition("/")
        if "#" in text:
            raise ValueError("has a # in it: write %23")
        if "@" in database or "@" in query:
            # what stands there may be half a password: no message may have it
            raise ValueError("has an @ behind the first / or ?: in a password write %2F for /, %3F for ?, %40 for @")
        login, _, hosts = authority.rpartition("@")
        user, colon, password = login.partition(":")
        options = _options(query)
        database = unquote(database)
        if not slash or not database or "/" in database:
            raise ValueError(f"must name a database behind the host, for example {_EXAMPLE}")
        named = [part for part in hosts.split(",") if part] + options.pop("host", [])
        places = _hosts(named, options.pop("port", []))
        for name, values in options.items():
            if len(values) > 1:
                raise ValueError(f"says {name} twice")
        said = {name: values[0] for name, values in options.items()}
        if said.get("target_session_attrs", "read-write") not in {"read-write", "primary"}:
            raise ValueError("target_session_attrs: leave it out, we always look for the server that takes writes")
        for name in _FILES:
            if name in said and not said[name].startswith("/"):
                raise ValueError(f"{name}: must be an absolute path")
        return cls(
            places,
            unquote(user) or None,
            Secret(unquote(password).encode()) if colon else None,
            database,
            _tls(said, places),
            *(said.get(name) for name in _FILES),
        )


_SCHEMES: Final = ("postgresql", "postgresql+asyncpg")


def is_postgresql(url: str) -> bool:
    """Whether `url` is one of a PostgreSQL database, right or wrong."""
    scheme = url.partition("://")[0].partition("+")[0]
    return scheme in {"postgresql", "postgres"}


def _options(query: str) -> dict[str, list[str]]:
    options = parse_qs(query, keep_blank_values=True, strict_parsing=bool(query))
    unknown = next((name for name in options if name not in _KNOWN), None)
    if unknown is not None:
        raise ValueError(f"{unknown} is no option of it: there are {', '.join(_KNOWN)}")
    return options


def _hosts(named: list[str], ports: list[str]) -> tuple[tuple[str, int], ...]:
    """`named` hosts, each with its own port or the one of `ports`."""
    given = [text for words in ports for text in words.split(",")]
    common = _port(given[0]) if given else PORT
    if len(given) > 1:
        raise ValueError("several ports: write each behind its host, as in host=db1.example.com:5432")
    names = [unquote(name) for words in named for name in words.split(",")] or ["/run/postgresql"]
    found = []
    for name in names:
        if name.startswith("/"):
            found.append((name, common))
            continue
        # an IPv6 address has its colons in brackets
        host, colon, port = name.rpartition(":") if not name.endswith("]") else (name, "", "")
        host = (host if colon else name).removeprefix("[").removesuffix("]")
        if not host:
            raise ValueError("a host has no name")
        found.append((host, _port(port) if colon else common))
    return tuple(found)


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65536:
        raise ValueError("a port is no number from 1 to 65535")
    return int(text)


def _tls(said: dict[str, str], hosts: tuple[tuple[str, int], ...]) -> Tls:
    if "ssl" in said and "sslmode" in said:
        raise ValueError("says both ssl and sslmode, which are the same")
    mode = said.get("ssl", said.get("sslmode"))
    if mode is None:
        near = all(_is_local(host) for host, _port in hosts) and "sslrootcert" not in said
        return "disable" if near else "verify-full"
    if mode not in _TLS:
        raise ValueError(f"ssl: must be one of {', '.join(_TLS)}; anybody between could switch off prefer and allow")
    return _TLS[mode]


def _is_local(host: str) -> bool:
    """Whether what is sent there stays on this machine."""
    try:
        return host.startswith("/") or host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
