"""A Samba Active Directory domain controller on a loopback address of its own.

Samba's LDAP ports are fixed (389, 636, 3268, 3269), so an instance is told apart by its address. Those ports need
root; without it the server runs in a user and network namespace and `namespace.py` relays from ports of the
caller's choice. Only LDAP is served: no SMB, RPC, DNS or Kerberos.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import socket
from typing import TYPE_CHECKING, ClassVar

from . import people
from .common import (
    HERE,
    SCRIPTS,
    SYSTEM_PYTHON,
    Bind,
    Directory,
    Process,
    User,
    answers_ldap,
    can_bind,
    copy_tree,
    digest_of,
    free_port,
    make_certificates,
    namespace,
    require,
    require_namespaces,
    run,
    template,
)

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

LDAP, LDAPS, GLOBAL_CATALOG, GLOBAL_CATALOG_TLS = 389, 636, 3268, 3269
PORTS = (LDAP, LDAPS, GLOBAL_CATALOG, GLOBAL_CATALOG_TLS)
INNER_ADDRESS = "127.0.0.53"
"""Where it listens inside a namespace of its own."""
PROVISIONING = ("private", "state", "bind-dns")
"""What provisioning leaves that a server needs."""

NEEDS = (
    ("samba", "samba"),
    ("module:samba.provision", "python3-samba"),
    ("/usr/share/samba/setup/provision.ldif", "samba-ad-provision"),
    ("/usr/lib/*/samba/ldb/samba_dsdb.so", "samba-dsdb-modules"),
)

CONFIGURATION = """\
[global]
netbios name = DC1
realm = EXAMPLE.TEST
workgroup = EXAMPLE
server role = active directory domain controller
server services = ldap
# this one address; the mask is needed, a bare address is taken as a name
interfaces = {address}/8
bind interfaces only = yes
private dir = {directory}/private
state directory = {directory}/state
cache directory = {directory}/cache
lock directory = {directory}/lock
pid directory = {directory}/run
ncalrpc dir = {directory}/run/ncalrpc
winbindd socket directory = {directory}/run/winbindd
ntp signd socket directory = {directory}/run/ntp_signd
binddns dir = {directory}/bind-dns
# "no" lets simple binds through without TLS; "yes" answers them 8 (strongerAuthRequired)
ldap server require strong auth = {strong_auth}
tls enabled = yes
tls keyfile = {directory}/tls/key.pem
tls certfile = {directory}/tls/cert.pem
tls cafile = {directory}/tls/ca.pem
ntlm auth = ntlmv2-only
# one JSON line for each authentication: the witness
log level = 1 auth_json_audit:3
logging = file
log file = {directory}/log/samba.log
idmap_ldb:use rfc2307 = yes
# or the previous password would stay good for an hour
old password allowed period = 0
"""


class Samba(Directory):
    """The domain EXAMPLE.TEST with everybody of `people` in it."""

    kind: ClassVar[str] = "Samba"
    base_dn: ClassVar[str] = people.AD_BASE_DN
    admin_dn: ClassVar[str] = f"CN=Administrator,CN=Users,{people.AD_BASE_DN}"
    states: ClassVar[frozenset[str]] = frozenset(person.state for person in people.PEOPLE)

    def __init__(self, directory: Path, cache: Path, *, strong_auth: bool = False) -> None:
        """`cache` keeps the provisioned tree for all who share it; `strong_auth` refuses simple binds in clear."""
        super().__init__(directory)
        self.cache = cache
        self.strong_auth = strong_auth
        self.in_namespace = False
        self.global_catalog_port = GLOBAL_CATALOG

    def _user(self, person: people.Person) -> User:
        return User(person.name, person.ad_dn, person.password or "", person.name, person.principal)

    @property
    def global_catalog_uri(self) -> str:
        """The forest-wide read-only port."""
        return f"ldap://{self.host}:{self.global_catalog_port}"

    # -- running

    def start(self) -> Self:
        """0.5 s from a provisioned tree; provisioning takes 8 s, once for each cache."""
        require(*NEEDS)
        self._choose_place()
        scripts = (SCRIPTS / "samba_provision.py", HERE / "people.py")
        tree = template(self.cache, f"samba-{digest_of(*scripts)}", self._provision)
        for name in PROVISIONING:
            if (tree / name).exists():
                (self.directory / name).mkdir(exist_ok=True)
                copy_tree(tree / name, self.directory / name)
                shutil.copystat(tree / name, self.directory / name)
        self.ca_file = make_certificates(self.directory / "tls", self.host, self.inner_address)
        shutil.copy(self.ca_file, self.directory / "ca.pem")
        self.ca_file = self.directory / "ca.pem"
        self._configure(self.directory)
        self.restart()
        return self

    def restart(self) -> None:
        self.stop()
        # -i stays in the foreground and logs to stdout
        argv: list[str | Path] = ["samba", "-i", "-M", "single", "-s", self.directory / "smb.conf"]
        self.log = self.directory / "log" / "samba.out"
        self.process = self._start_in_namespace(argv) if self.in_namespace else Process(argv, self.log)
        self.process.wait_until(lambda: answers_ldap(self.host, self.port))

    def _choose_place(self) -> None:
        if os.geteuid() == 0 or can_bind("127.0.0.53", LDAP):
            self.host, self.port, self.tls_port = self._free_address(), LDAP, LDAPS
            self.inner_address = self.host
            return
        require_namespaces("Samba, whose LDAP ports are fixed below 1024,")
        self.in_namespace = True
        self.host, self.inner_address = "127.0.0.1", INNER_ADDRESS
        self.port, self.tls_port, self.global_catalog_port = free_port(), free_port(), free_port()

    @staticmethod
    def _free_address() -> str:
        worker = int("0" + "".join(filter(str.isdigit, os.environ.get("PYTEST_XDIST_WORKER", ""))))
        for _ in range(1000):
            address = f"127.{10 + worker % 200}.{os.getpid() % 254 + 1}.{random.randint(2, 254)}"
            if all(can_bind(address, port) for port in PORTS):
                return address
        raise RuntimeError("no loopback address with port 389 free")

    def _configure(self, directory: Path) -> None:
        for name in ("log", "run/ncalrpc", "lock", "cache"):
            (directory / name).mkdir(parents=True, exist_ok=True)
        (directory / "smb.conf").write_text(CONFIGURATION.format(
            directory=directory, address=self.inner_address, strong_auth="yes" if self.strong_auth else "no"))

    def _provision(self, directory: Path) -> None:
        self._configure(directory)
        fake_root = [] if os.geteuid() == 0 else list(namespace())
        run([*fake_root, SYSTEM_PYTHON, SCRIPTS / "samba_provision.py", directory, INNER_ADDRESS],
            directory / "log" / "provision.log")

    def _start_in_namespace(self, argv: list[str | Path]) -> Process:
        outside = {self.port: LDAP, self.tls_port: LDAPS, self.global_catalog_port: GLOBAL_CATALOG}
        with contextlib.ExitStack() as ours:
            listeners = {}
            for port, inner_port in outside.items():
                listener = ours.enter_context(socket.create_server((self.host, port)))
                listeners[listener.fileno()] = inner_port
            return Process(
                # the parent-death signal does not survive the new user namespace: set again inside
                [*namespace(), "setpriv", "--pdeathsig", "TERM", SYSTEM_PYTHON, SCRIPTS / "namespace.py",
                 self.inner_address, *(f"{fd}={port}" for fd, port in listeners.items()), "--", *argv],
                self.log, pass_fds=tuple(listeners))

    # -- the witness

    def bind_log(self) -> list[Bind]:
        binds = []
        for line in self.log.read_text(errors="replace").splitlines():
            if not line.startswith('{"timestamp"'):
                continue
            event = json.loads(line).get("Authentication", {})
            if event.get("serviceDescription") == "LDAP":
                status = event["status"]
                binds.append(Bind(event["clientAccount"] or "", 0 if status == "NT_STATUS_OK" else 49, status))
        return binds

    # -- the administrator

    def add_user(self, name: str, password: str = people.PASSWORD, ou: str = "Staff") -> User:
        user = self._user(people.Person(name, name, ou=ou, password=password))
        with self.admin() as admin:
            admin.add(user.dn, "user", {
                "sAMAccountName": name, "userPrincipalName": user.upn, "userAccountControl": "512",
                "unicodePwd": quoted(password),
            })
        return user

    def set_password(self, user: User, password: str) -> None:
        with self.admin() as admin:
            admin.modify(user.dn, {"unicodePwd": [("MODIFY_REPLACE", [quoted(password)])]})

    def reset_lockout(self, name: str) -> None:
        with self.admin() as admin:
            admin.modify(self.user(name).dn, {"lockoutTime": [("MODIFY_REPLACE", ["0"])]})


def quoted(password: str) -> bytes:
    """What unicodePwd wants."""
    return f'"{password}"'.encode("utf-16-le")
