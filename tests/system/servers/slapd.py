"""OpenLDAP's slapd with memberof, refint, ppolicy and sssvlv, on ports of its own on 127.0.0.1.

Everybody of `people` whose state OpenLDAP knows is in it, and, for the relay, a referral and a binary attribute. Names
in binds are distinguished names only. No root needed; building and starting takes 0.4 s with 1,500 users.
"""

from __future__ import annotations

import base64
import hashlib
import re
import time
from typing import TYPE_CHECKING, ClassVar

from . import people
from .common import (
    Bind,
    Directory,
    Process,
    StartError,
    User,
    answers_ldap,
    answers_tcp,
    binds_in,
    free_port,
    make_certificates,
    program,
    require,
    run,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Self

NEEDS = (("slapd", "slapd"), ("/usr/lib/ldap/ppolicy.so", "slapd"), ("/etc/ldap/schema/inetorgperson.schema", "slapd"))

PASSWORD_AGE = 42 * 86400
FOREVER = "000001010000Z"
"""A pwdAccountLockedTime that only an administrator ends."""
REFERRAL = "ldap://127.0.0.1:9/ou=Elsewhere,dc=elsewhere,dc=test"
"""Nobody is there, and a client that follows it is told so at once."""

SCHEMA_EXTENSION = """\
attributetype ( 1.2.840.113556.1.4.221 NAME 'sAMAccountName' EQUALITY caseIgnoreMatch \
SUBSTR caseIgnoreSubstringsMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 SINGLE-VALUE )
attributetype ( 1.2.840.113556.1.4.656 NAME 'userPrincipalName' EQUALITY caseIgnoreMatch \
SUBSTR caseIgnoreSubstringsMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 SINGLE-VALUE )
"""

ACCESS = """\
access to attrs=userPassword by self write by anonymous auth by * none
access to dn.base="" by * read
access to * by users read by anonymous auth"""

CONFIGURATION = """\
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
include /etc/ldap/schema/nis.schema
# Debian's msuser.schema gives these two no equality rule: filters on them would match nothing
{schema}
modulepath /usr/lib/ldap
moduleload back_mdb
moduleload memberof
moduleload refint
moduleload ppolicy
moduleload sssvlv
pidfile {directory}/slapd.pid
argsfile {directory}/slapd.args
threads 16
TLSCACertificateFile {directory}/tls/ca.pem
TLSCertificateFile {directory}/tls/cert.pem
TLSCertificateKeyFile {directory}/tls/key.pem
{extra_global}
database mdb
suffix "{base}"
rootdn "cn=admin,{base}"
rootpw {admin_password}
directory {directory}/db
maxsize 1073741824
dbnosync
index objectClass,uid,sAMAccountName,userPrincipalName,mail,cn,member,memberOf eq
# the first that matches holds; as Active Directory's MaxPageSize: any number in pages
limits dn.exact="cn=svc-app,ou=Services,{base}" size=unlimited
limits users size={size_limit} size.prtotal=unlimited
{access}
overlay memberof
memberof-refint TRUE
memberof-group-oc groupOfNames
overlay refint
refint_attributes member
overlay sssvlv
overlay ppolicy
ppolicy_default "cn=default,ou=Policies,{base}"
ppolicy_use_lockout
{extra_database}
"""

BIND_LINE = re.compile(r'conn=(\d+) op=(\d+) BIND dn="(.*)" method=\d+$')
RESULT_LINE = re.compile(r"conn=(\d+) op=(\d+) RESULT tag=97 err=(\d+).* text=(.*)$")

Attributes = dict[str, "str | bytes | list[str]"]


class Slapd(Directory):
    """dc=example,dc=test."""

    kind: ClassVar[str] = "OpenLDAP"
    admin_dn: ClassVar[str] = f"cn=admin,{people.BASE_DN}"
    states: ClassVar[frozenset[str]] = frozenset({"normal", "pwnever", "mustchange", "pwexpired", "locked"})

    def __init__(self, directory: Path, *, entries: int = people.BULK_USERS, size_limit: int | None = 1000,
                 extra_global: str = "", extra_database: str = "", access: str = ACCESS) -> None:
        """`entries` bulk users; `size_limit` per unpaged search, None for no limit; lines of slapd.conf."""
        super().__init__(directory)
        self.entries = entries
        self.size_limit = size_limit
        self.extra_global = extra_global
        self.extra_database = extra_database
        self.access = access
        self.host = "127.0.0.1"
        self.log = directory / "slapd.log"

    # -- running

    def start(self) -> Self:
        require(*NEEDS)
        self.ca_file = self.directory / "ca.pem"
        self.ca_file.write_bytes(make_certificates(self.directory / "tls").read_bytes())
        self._build()
        for attempt in (1, 2, 3):
            self.port, self.tls_port = free_port(), free_port()
            try:
                self.restart()
                break
            except StartError:  # somebody else took a port meanwhile
                if attempt == 3:
                    raise
        self._add_groups()
        return self

    def restart(self) -> None:
        self.stop()
        listeners = f"{self.uri} {self.tls_uri}"
        # -d keeps it in the foreground; stats is one line for each operation: the witness
        self.process = Process(
            [program("slapd"), "-f", self.directory / "slapd.conf", "-h", listeners, "-d", "stats"], self.log)
        self.process.wait_until(lambda: answers_ldap(self.host, self.port) and answers_tcp(self.host, self.tls_port))

    def _build(self) -> None:
        configuration = self.directory / "slapd.conf"
        configuration.write_text(CONFIGURATION.format(
            directory=self.directory, base=self.base_dn, schema=SCHEMA_EXTENSION,
            admin_password=self.admin_password, size_limit=self.size_limit or "unlimited",
            extra_global=self.extra_global, extra_database=self.extra_database, access=self.access))
        (self.directory / "db").mkdir()
        ldif = self.directory / "people.ldif"
        with ldif.open("w") as out:
            for dn, attributes in (*base_entries(), *self._policy(), *self._people(), *referral()):
                out.write(as_ldif(dn, attributes))
        run([program("slapadd"), "-q", "-f", configuration, "-l", ldif], self.directory / "slapadd.log")

    def _policy(self) -> Iterator[tuple[str, Attributes]]:
        yield f"ou=Policies,{self.base_dn}", {"objectClass": "organizationalUnit", "ou": "Policies"}
        yield f"cn=default,ou=Policies,{self.base_dn}", {
            "objectClass": ["organizationalRole", "pwdPolicy"], "cn": "default", "pwdAttribute": "userPassword",
            "pwdLockout": "TRUE", "pwdMaxFailure": str(self.lockout_threshold), "pwdLockoutDuration": "1800",
            "pwdFailureCountInterval": "1800", "pwdMustChange": "TRUE", "pwdMaxAge": str(PASSWORD_AGE),
            "pwdAllowUserChange": "TRUE",
        }

    def _people(self) -> Iterator[tuple[str, Attributes]]:
        # operational attributes may be given because slapadd takes them
        states: dict[str, Attributes] = {
            "mustchange": {"pwdReset": "TRUE", "pwdChangedTime": generalized_time(0)},
            "pwexpired": {"pwdChangedTime": generalized_time(-2000 * 86400)},
            "locked": {"pwdAccountLockedTime": FOREVER},
        }
        for person in self.members():
            yield person.dn(), person_entry(person) | states.get(person.state, {})
        for number in range(self.entries):
            person = people.bulk_person(number)
            yield person.dn(), person_entry(person)

    def _add_groups(self) -> None:
        # through the server, so that the memberof overlay sees them
        with self.admin() as admin:
            add_groups(admin)

    # -- the witness

    def bind_log(self) -> list[Bind]:
        return binds_in(self.log, BIND_LINE, RESULT_LINE)

    # -- the administrator

    def add_user(self, name: str, password: str = people.PASSWORD, ou: str = "Staff") -> User:
        person = people.Person(name, name, ou=ou, password=password)
        with self.admin() as admin:
            admin.add(person.dn(), attributes=person_entry(person))
        return self._user(person)

    def set_password(self, user: User, password: str) -> None:
        with self.admin() as admin:
            admin.modify(user.dn, {"userPassword": [("MODIFY_REPLACE", [hashed(password)])]})
            # or it would have to be changed at the next bind, having been set by somebody else
            admin.modify(user.dn, {"pwdReset": [("MODIFY_REPLACE", [])]})

    def reset_lockout(self, name: str) -> None:
        with self.admin() as admin:
            admin.modify(self.user(name).dn, {"pwdAccountLockedTime": [("MODIFY_REPLACE", [])]})


def hashed(password: str) -> str:
    """A salted SHA-1, which OpenLDAP and 389 know: quick, as these are test passwords."""
    salt = b"saltsalt"
    return "{SSHA}" + base64.b64encode(hashlib.sha1(password.encode() + salt).digest() + salt).decode()


def generalized_time(seconds_from_now: int) -> str:
    """As LDAP writes a moment."""
    return time.strftime("%Y%m%d%H%M%SZ", time.gmtime(time.time() + seconds_from_now))


def base_entries(base: str = people.BASE_DN) -> Iterator[tuple[str, Attributes]]:
    """The suffix and the organizational units."""
    yield base, {"objectClass": ["dcObject", "organization"], "o": "Example", "dc": "example"}
    for ou in people.OUS:
        dn = "".join(f"ou={part}," for part in ou.split(",")) + base
        yield dn, {"objectClass": "organizationalUnit", "ou": ou.split(",")[0]}


def referral(base: str = people.BASE_DN) -> Iterator[tuple[str, Attributes]]:
    """An entry that answers with a referral, and as a reference in searches from above."""
    yield f"ou=Referrals,{base}", {"objectClass": "organizationalUnit", "ou": "Referrals"}
    yield f"ou=Elsewhere,ou=Referrals,{base}", {
        "objectClass": ["referral", "extensibleObject"], "ou": "Elsewhere", "ref": REFERRAL}


def person_entry(person: people.Person) -> Attributes:
    """The account as an inetOrgPerson with Active Directory's two name attributes."""
    entry: Attributes = {
        "objectClass": ["inetOrgPerson", "extensibleObject"], "cn": person.cn, "sn": person.cn.split()[-1],
        "uid": person.name, "sAMAccountName": person.name, "userPassword": hashed(person.password or ""),
        **person.attributes,
    }
    if person.has_upn:
        entry["userPrincipalName"] = person.principal
    if person.mail:
        entry["mail"] = f"{person.name}@{people.DOMAIN}"
    return entry


def add_groups(admin: object, base: str = people.BASE_DN) -> None:
    """The groups of the table, through a connection that raises; loops are closed at the end."""
    def group_dn(name: str) -> str:
        return f"cn={people.escape_rdn(name)},ou=Groups,{base}"

    later = []
    for name, members in people.GROUPS.items():
        dns = []
        for member in members:
            if not member.startswith("@"):
                dns.append(people.person(member).dn(base))
            elif list(people.GROUPS).index(member[1:]) < list(people.GROUPS).index(name):
                dns.append(group_dn(member[1:]))
            else:
                later.append((group_dn(name), group_dn(member[1:])))
        # a groupOfNames is never empty
        admin.add(group_dn(name), "groupOfNames", {"cn": name, "member": dns or [base]})
    for group, member in later:
        admin.modify(group, {"member": [("MODIFY_REPLACE", [member])]})


def as_ldif(dn: str, attributes: Attributes) -> str:
    """One LDIF record, everything in base64."""
    def line(name: str, value: str | bytes) -> str:
        return f"{name}:: {base64.b64encode(value if isinstance(value, bytes) else value.encode()).decode()}\n"

    lines = [line("dn", dn)]
    for name, values in attributes.items():
        lines += [line(name, value) for value in (values if isinstance(values, list) else [values])]
    return "".join([*lines, "\n"])
