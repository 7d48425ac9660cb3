"""What is measured: ldapmfa, and the peers it stands beside, each started before the same directory.

A peer is a function that writes its configuration, starts its process and gives a `Peer`; `PEERS` is the table.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from bench import machine
from bench.directory import BASE, LOAD_DN
from ldapmfa.store.seal import Seal

#: The file beside its store with our key.
STORE_KEY: Final = "store.key"


class Before(Protocol):
    """A directory to stand before; `tls_port` is None where it offers no TLS."""

    @property
    def port(self) -> int:
        """Where it answers in clear text."""

    @property
    def tls_port(self) -> int | None:
        """Where it answers over TLS."""

    @property
    def tls(self) -> Path:
        """The folder of ca.pem, cert.pem, key.pem and both.pem, for whoever listens on localhost."""


@dataclass(frozen=True)
class Peer:
    """A running proxy. `port`: clear text to clear text; `tls_port`: TLS to TLS; `half_port`: clear text to TLS."""

    process: machine.Process
    port: int
    tls_port: int | None = None
    half_port: int | None = None


_HAPROXY: Final = """\
global
    nbthread 1
defaults
    mode tcp
    timeout connect 10s
    timeout client 120s
    timeout server 120s
frontend ldap
    bind 127.0.0.1:{port}
    default_backend directory
backend directory
    server one 127.0.0.1:{directory.port}
"""
_HAPROXY_TLS: Final = """\
frontend ldaps
    bind 127.0.0.1:{tls_port} ssl crt {directory.tls}/both.pem
    default_backend directory-tls
backend directory-tls
    server one 127.0.0.1:{directory.tls_port} ssl verify required verifyhost localhost ca-file {directory.tls}/ca.pem
"""


def haproxy(place: Path, directory: Before) -> Peer:
    """HAProxy as a relay of bytes on one thread: what no proxy of ours can beat."""
    port, tls_port = machine.free_port(), machine.free_port()
    text = _HAPROXY + (_HAPROXY_TLS if directory.tls_port else "")
    configuration = place / "haproxy.cfg"
    configuration.write_text(text.format(port=port, tls_port=tls_port, directory=directory))
    argv = [machine.program("haproxy"), "-db", "-f", str(configuration)]
    return Peer(_started(argv, place), port, tls_port if directory.tls_port else None)


_BACK_LDAP: Final = """\
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_ldap
pidfile {place}/slapd.pid
argsfile {place}/slapd.args
loglevel 0
sizelimit unlimited
timelimit unlimited
conn_max_pending 100000
conn_max_pending_auth 100000
database ldap
suffix "{base}"
uri "ldap://127.0.0.1:{directory.port}"
chase-referrals no
rebind-as-user yes
"""


def back_ldap(place: Path, directory: Before) -> Peer:
    """OpenLDAP's own proxy: an LDAP server whose database is another one."""
    port = machine.free_port()
    configuration = place / "slapd.conf"
    configuration.write_text(_BACK_LDAP.format(place=place, base=BASE, directory=directory))
    argv = [machine.program("slapd"), "-f", str(configuration), "-h", f"ldap://127.0.0.1:{port}", "-d", "0"]
    return Peer(_started(argv, place), port)


def ldaptor(place: Path, directory: Before) -> Peer:
    """A ProxyBase of ldaptor's that lets everything pass."""
    return _program("ldaptor_proxy", place, directory)


def bare(place: Path, directory: Before) -> Peer:
    """A relay of frames on Twisted and uvloop."""
    return _program("bare_relay", place, directory)


def _started(argv: list[str], place: Path) -> machine.Process:
    return machine.Process(argv, place / "peer.log")


def _program(name: str, place: Path, directory: Before) -> Peer:
    port = machine.free_port()
    argv = [sys.executable, "-m", f"bench.programs.{name}", str(port), str(directory.port)]
    return Peer(_started(argv, place), port)


def ldapmfa(
    place: Path,
    directory: Before,
    settings: Mapping[str, Mapping[str, object]] | None = None,
    variables: Mapping[str, str] | None = None,
) -> Peer:
    """Ourselves: `ldapmfa run`, the load's account exempt, everybody else with a TOTP.

    `settings` change and add to the tables of the configuration, `variables` to the environment. A store that lies in
    `place` is used.
    """
    port, tls_port, half_port = machine.free_port(), machine.free_port(), machine.free_port()
    listens = [{"endpoint": f"tcp:{port}:interface=127.0.0.1"}]
    tables: dict[str, dict[str, object]] = {
        "directory": {"uris": [f"ldap://127.0.0.1:{directory.port}"]},
        "store": {"url": "sqlite:///state.db", "key_file": STORE_KEY},
        "login": {"factors": ["totp"]},
        # the whole load comes from one address
        "limits": {"connections": 15000, "source_connections": 30000, "source_pending_logins": 30000},
    }
    if directory.tls_port:
        certificate = {"certificate": str(directory.tls / "cert.pem"), "key": str(directory.tls / "key.pem")}
        secure = f"tcp:{tls_port}:interface=127.0.0.1"
        half = f"tcp:{half_port}:interface=127.0.0.1"
        listens += [
            {"endpoint": secure, "directory": "secure", "tls": "ldaps", **certificate},
            {"endpoint": half, "directory": "secure"},
        ]
        tables["directories.secure"] = {
            "uris": [f"ldaps://localhost:{directory.tls_port}"],
            "ca_file": str(directory.tls / "ca.pem"),
            "identity_name": "default",
        }
    for name, keys in (settings or {}).items():
        tables.setdefault(name, {}).update(keys)
    texts = [_table("[listen]", **keys) for keys in listens]
    texts += [_table("[exempt]", account=LOAD_DN), *(_table(name, **keys) for name, keys in tables.items())]
    configuration = place / "ldapmfa.toml"
    configuration.write_text("\n".join(texts))
    if not (place / STORE_KEY).exists():
        Seal.create(place / STORE_KEY, entropy=os.urandom)
    argv = [sys.executable, "-m", "ldapmfa", "run", "--config", str(configuration)]
    process = machine.Process(argv, place / "peer.log", variables=variables)
    return Peer(process, port, *((tls_port, half_port) if directory.tls_port else ()))


def _table(name: str, **keys: object) -> str:
    """A table of TOML, whose strings, numbers and lists are JSON's."""
    return "\n".join([f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items()), ""])


PEERS: Final[dict[str, tuple[str, Callable[[Path, Before], Peer]]]] = {
    "haproxy": ("HAProxy TCP relay", haproxy),
    "back-ldap": ("OpenLDAP back-ldap", back_ldap),
    "ldaptor": ("ldaptor ProxyBase", ldaptor),
    "bare": ("bare Twisted relay", bare),
    "ldapmfa": ("ldapmfa", ldapmfa),
}
