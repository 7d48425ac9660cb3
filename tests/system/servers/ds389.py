"""389 Directory Server on ports of its own on 127.0.0.1, everything below one directory, without systemd.

Creating an instance takes 20 s, so it is done once in a template that is copied; a start takes 0.7 s. Files of an
instance hold their own absolute path and ports: `relocate` rewrites them.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import ldap3
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs12

from . import people
from .common import HERE as SERVERS
from .common import (
    SCRIPTS,
    SYSTEM_PYTHON,
    Bind,
    Directory,
    Process,
    StartError,
    User,
    answers_ldap,
    answers_tcp,
    binds_in,
    copy_tree,
    digest_of,
    free_port,
    make_certificates,
    namespace,
    program,
    require,
    require_namespaces,
    run,
    template,
    wait_for,
)
from .slapd import SCHEMA_EXTENSION, Attributes, add_groups, as_ldif, base_entries, generalized_time, person_entry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

NEEDS = (
    ("ns-slapd", "389-ds-base"),
    ("dscreate", "python3-lib389"),
    ("module:lib389", "python3-lib389"),
    ("pk12util", "libnss3-tools"),
)
INSTANCE = "test"
MUST_CHANGE = "19700101000000Z"
"""A passwordExpirationTime that means so."""
DEFAULTS = Path("/usr/share/dirsrv/inf/defaults.inf")

INF = """\
[general]
config_version = 2
full_machine_name = localhost
strict_host_checking = False
selinux = False
systemd = False
start = True
[slapd]
instance_name = {instance}
port = {port}
secure_port = {tls_port}
root_password = {password}
self_sign_cert = True
user = {user}
group = {group}
[backend-userroot]
suffix = {base}
"""

CERTMAP = """\
certmap default default
default:DNComps
default:FilterComps e, uid
"""

CONFIGURATION = {
    "nsslapd-listenhost": "127.0.0.1",
    "nsslapd-securelistenhost": "127.0.0.1",
    "nsslapd-ldapilisten": "off",
    "nsslapd-sizelimit": "1000",
    "nsslapd-pagedsizelimit": "-1",
    "nsslapd-allow-unauthenticated-binds": "off",
    "nsslapd-accesslog-logbuffering": "off",
    "passwordLockout": "on",
    "passwordMaxFailure": str(people.LOCKOUT_THRESHOLD),
    "passwordLockoutDuration": "1800",
    "passwordResetFailureCount": "1800",
    "passwordExp": "on",
    "passwordMustChange": "on",
    "passwordMaxAge": str(42 * 86400),
}
"""Of cn=config."""

USERS_READ = (
    '(targetattr!="userPassword")(version 3.0; acl "users read"; allow (read,search,compare) userdn="ldap:///all";)'
)

BIND_LINE = re.compile(r'conn=(\d+) op=(\d+) BIND dn="(.*)" method=')
RESULT_LINE = re.compile(r"conn=(\d+) op=(\d+) RESULT err=(\d+) tag=97 ")


class Ds389(Directory):
    """dc=example,dc=test."""

    kind: ClassVar[str] = "389 Directory Server"
    admin_dn: ClassVar[str] = "cn=Directory Manager"
    states: ClassVar[frozenset[str]] = frozenset(
        {"normal", "pwnever", "mustchange", "pwexpired", "locked", "disabled"})

    def __init__(self, directory: Path, cache: Path) -> None:
        """`cache` keeps the created instance for all who share it."""
        super().__init__(directory)
        self.cache = cache
        self.host = "127.0.0.1"
        self.config = directory / "etc" / "dirsrv" / f"slapd-{INSTANCE}"

    # -- running

    def start(self) -> Self:
        require(*NEEDS)
        require_namespaces("389 Directory Server, which is created on 0.0.0.0,")
        sources = (SERVERS / "ds389.py", SERVERS / "slapd.py", SERVERS / "people.py", SCRIPTS / "ds389_create.py")
        tree = template(self.cache, f"ds389-{digest_of(*sources)}", self._create)
        copy_tree(tree, self.directory)
        self.ca_file = self.directory / "ca.pem"
        self._start_on_free_ports()
        return self

    def _start_on_free_ports(self) -> None:
        for attempt in (1, 2, 3):
            self.port, self.tls_port = free_port(), free_port()
            relocate(self.directory, self.config / "dse.ldif", self.port, self.tls_port)
            try:
                self.restart()
                break
            except StartError:  # somebody else took a port meanwhile
                if attempt == 3:
                    raise

    def restart(self) -> None:
        self.stop()
        # -d keeps it in the foreground
        self.process = Process(
            [program("ns-slapd"), "-D", self.config, "-i", self.directory / "run" / "slapd.pid", "-d", "0"],
            self.directory / "log" / "ns-slapd.out")
        self.process.wait_until(
            lambda: answers_ldap(self.host, self.port) and answers_tcp(self.host, self.tls_port), 60)

    # -- creating

    def _create(self, directory: Path) -> None:
        """An instance with everybody in it, stopped."""
        new = Ds389(directory, self.cache)
        for name in ("run", "log", "lock", "db", "dbhome", "bak", "ldif", "inst", "tmp", "share/dirsrv/inf",
                     "etc/dirsrv/config", "etc/dirsrv/schema"):
            (directory / name).mkdir(parents=True)
        (directory / "built-at").write_text(str(directory))
        (directory / "share/dirsrv/inf/defaults.inf").write_text(defaults(directory))
        # /etc/dirsrv is not for everybody to read: these say the same as the ones there, as far as it is needed
        (directory / "etc/dirsrv/config/certmap.conf").write_text(CERTMAP)
        (directory / "etc/dirsrv/config/slapd-collations.conf").touch()
        (directory / "etc/dirsrv/schema/99user.ldif").write_text(schema())
        user, group = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(os.getegid()).gr_name
        inf = directory / "instance.inf"
        inf.write_text(INF.format(instance=INSTANCE, port=free_port(), tls_port=free_port(), base=self.base_dn,
                                  password=self.admin_password, user=user, group=group))
        log = directory.with_suffix(".log")  # beside it: dscreate removes everything when it fails
        run([*namespace(fake_root=False), SYSTEM_PYTHON, SCRIPTS / "ds389_create.py", inf,
             directory / "run" / "slapd.pid"], log, env={"PREFIX": str(directory), "LOGNAME": user})
        new._finish(log)

    def _finish(self, log: Path) -> None:
        dse = self.config / "dse.ldif"
        change(dse, {"cn=config": CONFIGURATION,
                     "cn=MemberOf Plugin,cn=plugins,cn=config": {"nsslapd-pluginEnabled": "on"}})
        self._use_own_certificates(log)
        ldif = self.directory / "ldif" / "people.ldif"
        with ldif.open("w") as out:
            for dn, attributes in (*base_entries(), *self._people()):
                if dn == self.base_dn:
                    attributes["aci"] = USERS_READ
                out.write(as_ldif(dn, attributes))
        run([program("ns-slapd"), "ldif2db", "-D", self.config, "-n", "userroot", "-i", ldif], log)
        self._start_on_free_ports()
        with self.admin() as admin:  # through the server, so that the memberOf plug-in sees them
            add_groups(admin)
        self.stop()
        (self.directory / "log" / "access").unlink()

    def _use_own_certificates(self, log: Path) -> None:
        made = self.directory / "tls"
        shutil.copy(make_certificates(made), self.directory / "ca.pem")
        password = secrets.token_hex()
        bundle = made / "bundle.p12"
        key = serialization.load_pem_private_key((made / "key.pem").read_bytes(), None)
        certificate = x509.load_pem_x509_certificate((made / "cert.pem").read_bytes())
        bundle.write_bytes(pkcs12.serialize_key_and_certificates(
            b"Server-Cert", key, certificate, None, serialization.BestAvailableEncryption(password.encode())))
        database = ["-d", self.config]
        pin = ["-f", self.config / "pwdfile.txt"]
        run(["certutil", "-F", "-n", "Server-Cert", *database, *pin], log)
        run(["certutil", "-A", "-n", "test CA", "-t", "CT,,", "-a", "-i", made / "ca.pem", *database, *pin], log)
        run(["pk12util", "-i", bundle, "-W", password, "-k", self.config / "pwdfile.txt", *database], log)

    def _people(self) -> Iterator[tuple[str, Attributes]]:
        states: dict[str, Attributes] = {
            "mustchange": {"passwordExpirationTime": MUST_CHANGE},
            "pwexpired": {"passwordExpirationTime": generalized_time(-1000 * 86400)},
            "locked": {"accountUnlockTime": generalized_time(3650 * 86400), "passwordRetryCount": str(self.lockout_threshold)},
            "disabled": {"nsAccountLock": "true"},
        }
        for person in self.members():
            yield person.dn(), person_entry(person) | states.get(person.state, {})
        for number in range(people.BULK_USERS):
            person = people.bulk_person(number)
            yield person.dn(), person_entry(person)

    # -- the witness

    def bind_log(self) -> list[Bind]:
        return binds_in(self.directory / "log" / "access", BIND_LINE, RESULT_LINE)

    # -- the administrator

    def add_user(self, name: str, password: str = people.PASSWORD, ou: str = "Staff") -> User:
        person = people.Person(name, name, ou=ou, password=password)
        user = self._user(person)
        with self.admin() as admin:
            admin.add(user.dn, attributes=person_entry(person))
            self._need_not_change(admin, user)
        return user

    def set_password(self, user: User, password: str) -> None:
        with self.admin() as admin:
            admin.modify(user.dn, {"userPassword": [("MODIFY_REPLACE", [password])]})
            self._need_not_change(admin, user)

    def _need_not_change(self, admin: ldap3.Connection, user: User) -> None:
        """Take off the mark of a password that somebody else set; 389 puts it on only after it has answered."""
        wait_for(lambda: self._expiration(admin, user) == MUST_CHANGE)
        admin.modify(user.dn, {"passwordExpirationTime": [("MODIFY_REPLACE", [])]})

    @staticmethod
    def _expiration(admin: ldap3.Connection, user: User) -> str | None:
        admin.search(user.dn, "(objectClass=*)", ldap3.BASE, attributes=["passwordExpirationTime"])
        values = admin.response[0]["raw_attributes"].get("passwordExpirationTime", [])
        return values[0].decode() if values else None

    def reset_lockout(self, name: str) -> None:
        with self.admin() as admin:
            admin.modify(self.user(name).dn, {"accountUnlockTime": [("MODIFY_REPLACE", [])],
                                              "passwordRetryCount": [("MODIFY_REPLACE", [])]})


def defaults(directory: Path) -> str:
    """Debian's defaults.inf with every path that an instance writes to below `directory`, and without systemd."""
    etc, instance = directory / "etc", "{instance_name}"
    ours = {
        "with_systemd": "0",
        "sysconf_dir": etc,
        "initconfig_dir": etc,
        "config_dir": etc / "dirsrv" / f"slapd-{instance}",
        "schema_dir": etc / "dirsrv" / f"slapd-{instance}" / "schema",
        "cert_dir": etc / "dirsrv" / f"slapd-{instance}",
        "local_state_dir": directory,
        "run_dir": directory / "run",
        "pid_file": directory / "run" / "slapd.pid",
        "ldapi": directory / "run" / "ldapi",
        "inst_dir": directory / "inst",
        "tmpfiles_d": directory / "tmp",
        "lock_dir": directory / "lock",
        "log_dir": directory / "log",
        "access_log": directory / "log" / "access",
        "audit_log": directory / "log" / "audit",
        "error_log": directory / "log" / "errors",
        "security_log": directory / "log" / "security",
        "db_dir": directory / "db",
        "db_home_dir": directory / "dbhome",
        "backup_dir": directory / "bak",
        "ldif_dir": directory / "ldif",
    }
    lines = []
    for line in DEFAULTS.read_text().splitlines():
        key = line.partition("=")[0].strip()
        lines.append(f"{key} = {ours[key]}" if key in ours else line)
    return "\n".join([*lines, ""])


def schema() -> str:
    """The user's own schema file: Active Directory's two name attributes."""
    types = [line.removeprefix("attributetype ") for line in SCHEMA_EXTENSION.splitlines()]
    return "dn: cn=schema\nobjectClass: top\nobjectClass: ldapSubentry\nobjectClass: subschema\ncn: schema\n" + "".join(
        f"attributeTypes: {type_}\n" for type_ in types)


def unfolded(ldif: Path) -> str:
    """An LDIF file's text with its folded lines joined."""
    return ldif.read_text().replace("\n ", "")


def change(dse: Path, entries: dict[str, dict[str, str]]) -> None:
    """Set attributes of entries in the configuration of a stopped server."""
    records = unfolded(dse).split("\n\n")
    for number, record in enumerate(records):
        lines = record.strip().splitlines()
        wanted = entries.get(lines[0].removeprefix("dn: ")) if lines else None
        if wanted:
            names = {name.lower() for name in wanted}
            lines = [line for line in lines if line.partition(":")[0].lower() not in names]
            records[number] = "\n".join([*lines, *(f"{name}: {value}" for name, value in wanted.items())])
    dse.write_text("\n\n".join(records))


def relocate(directory: Path, dse: Path, port: int, tls_port: int) -> None:
    """Rewrite the configuration of a copied instance for its new place and ports."""
    built_at = directory / "built-at"
    dse.write_text(unfolded(dse).replace(built_at.read_text(), str(directory)))
    built_at.write_text(str(directory))
    change(dse, {"cn=config": {"nsslapd-port": str(port), "nsslapd-securePort": str(tls_port)}})
