"""The directory: OpenLDAP with 10,000 people, everything about it chosen so that it is not what is measured.

Passwords are salted SHA-1, nothing is synced to disk, nothing is logged. People may read everything but passwords.
"""

from __future__ import annotations

import base64
import hashlib
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bench import machine
from bench.certificates import make_certificates
from bench.load import bound
from ldapmfa.wire import ldap

BASE: Final = "dc=example,dc=test"
PEOPLE: Final = f"ou=people,{BASE}"
ACCOUNTS: Final = 10_000
ACCOUNT_DN: Final = f"uid=user{{:05d}},{PEOPLE}"
#: Whoever has no second factor: the account of every row but the login.
LOAD_DN: Final = f"uid=load,ou=services,{BASE}"
PASSWORD: Final = "a-Password"  # noqa: S105 - of the benchmark
_MONITOR_DN: Final = "cn=watcher,cn=Monitor"

_CONFIGURATION: Final = """\
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
moduleload back_monitor
pidfile {place}/slapd.pid
argsfile {place}/slapd.args
loglevel 0
sizelimit unlimited
timelimit unlimited
conn_max_pending 100000
conn_max_pending_auth 100000
TLSCACertificateFile {place}/tls/ca.pem
TLSCertificateFile {place}/tls/cert.pem
TLSCertificateKeyFile {place}/tls/key.pem
access to attrs=userPassword by anonymous auth by * none
access to dn.base="" by * read
access to * by users read by anonymous auth
database monitor
rootdn "{monitor_dn}"
rootpw {password}
database mdb
suffix "{base}"
rootdn "cn=admin,{base}"
rootpw {password}
directory {place}/db
maxsize 1073741824
dbnosync
index objectClass,uid eq
"""


def entry_uuid(number: int) -> str:
    """The entryUUID of an account, by which its factors are kept."""
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, f"user{number:05d}.example.test"))


class Directory:
    """A running slapd; `port` and `tls_port` on loopback, `tls` the folder of its certificates."""

    def __init__(self, place: Path) -> None:
        place.mkdir()
        self.place = place
        self.tls = place / "tls"
        make_certificates(self.tls)
        self.port, self.tls_port = machine.free_port(), machine.free_port()
        (place / "db").mkdir()
        configuration = place / "slapd.conf"
        configuration.write_text(
            _CONFIGURATION.format(place=place, base=BASE, password=PASSWORD, monitor_dn=_MONITOR_DN)
        )
        ldif = place / "people.ldif"
        ldif.write_text("\n".join(_records()))
        subprocess.run(
            [machine.program("slapadd"), "-q", "-f", configuration, "-l", ldif], check=True, capture_output=True
        )
        listeners = f"ldap://127.0.0.1:{self.port} ldaps://127.0.0.1:{self.tls_port}"
        # -d keeps it in the foreground
        argv = [machine.program("slapd"), "-f", str(configuration), "-h", listeners, "-d", "0"]
        self.process = machine.Process(argv, place / "slapd.log")

    def wait(self) -> None:
        """Until it answers."""
        self.process.wait_until(lambda: answers(self.port))

    def connections(self) -> int:
        """How many connections it has accepted so far, this question's included."""
        return self._monitored(b"cn=Total,cn=Connections,cn=Monitor", "monitorCounter")

    def searches(self) -> int:
        """How many searches it has answered so far."""
        return self._monitored(b"cn=Search,cn=Operations,cn=Monitor", "monitorOpCompleted")

    def _monitored(self, name: bytes, attribute: str) -> int:
        with bound({"port": self.port, "dn": _MONITOR_DN, "password": PASSWORD}) as asking:
            asking.sendall(ldap.message(2, ldap.search_request(name, (attribute,))))
            frame = ldap.read_frame(asking.recv(1 << 16), 0, 1 << 16)
        if not isinstance(frame, ldap.Frame):
            raise machine.StartError("cn=Monitor did not answer")
        return int(ldap.read_entry(frame).text(attribute)[0])


def answers(port: int, dn: str = LOAD_DN, password: str = PASSWORD) -> bool:
    """Whether a bind succeeds there."""
    try:
        bound({"port": port, "dn": dn, "password": password}).close()
    except (OSError, SystemExit):
        return False
    return True


def _records() -> Iterator[str]:
    yield f"dn: {BASE}\nobjectClass: dcObject\nobjectClass: organization\no: Example\ndc: example\n"
    for unit in ("people", "services"):
        yield f"dn: ou={unit},{BASE}\nobjectClass: organizationalUnit\nou: {unit}\n"
    yield _person(LOAD_DN, "load", str(uuid.uuid5(uuid.NAMESPACE_DNS, "load.example.test")))
    for number in range(ACCOUNTS):
        yield _person(ACCOUNT_DN.format(number), f"user{number:05d}", entry_uuid(number))


def _person(dn: str, uid: str, unique: str) -> str:
    digest = hashlib.sha1(PASSWORD.encode() + b"salt", usedforsecurity=False).digest()
    hashed = base64.b64encode(digest + b"salt").decode()
    return (
        f"dn: {dn}\nobjectClass: inetOrgPerson\nuid: {uid}\ncn: {uid} Example\nsn: Example\ngivenName: {uid}\n"
        f"mail: {uid}@example.test\ntelephoneNumber: +49 30 1234567\nemployeeNumber: {uid[-5:]}\n"
        f"userPassword: {{SSHA}}{hashed}\nentryUUID: {unique}\n"
    )
