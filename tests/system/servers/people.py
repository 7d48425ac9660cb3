"""Who is in every test directory: one table for Samba, OpenLDAP and 389, so that tests can name an account once.

Read by the tests and, for Samba, by /usr/bin/python3: nothing but the standard library in here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

DOMAIN = "example.test"
BASE_DN = "dc=example,dc=test"
AD_BASE_DN = "DC=example,DC=test"
PASSWORD = "Passw0rd!1"
UMLAUT_PASSWORD = "Pässwörd-Ünï!7"
SERVICE_PASSWORD = "Svc.Secret-9"
ADMIN_PASSWORD = "Adm1n.Pass!"
LOCKOUT_THRESHOLD = 5
BULK_USERS = 1500
BULK_USERS_WITH_PASSWORD = 60
"""Of the bulk users on Samba: a user with a password costs 17 ms there, one without 3 ms."""

PHOTO = b"\xff\xd8\xff\xe0" + bytes(range(256)) * 16
"""A binary attribute with every byte value (alice's jpegPhoto)."""


def escape_rdn(value: str) -> str:
    """The value as it stands in a distinguished name (RFC 4514 s.2.4)."""
    return "".join("\\" + c if c in ',+"\\<>;=#' else c for c in value)


@dataclass(frozen=True)
class Person:
    """One account. `ou` is written from the inside out: "Paris,Europe,Staff"."""

    name: str
    cn: str
    ou: str = "Staff"
    password: str | None = PASSWORD
    upn: str = ""
    """Empty: NAME@example.test."""
    has_upn: bool = True
    mail: bool = True
    state: str = "normal"
    attributes: dict[str, str | bytes] = field(default_factory=dict)
    named_by: str = "cn"

    @property
    def principal(self) -> str:
        """What Active Directory takes as user principal name, the implicit one where none is set."""
        return self.upn or f"{self.name}@{DOMAIN}"

    def dn(self, base: str = BASE_DN) -> str:
        """The distinguished name below `base`."""
        rdn = self.cn if self.named_by == "cn" else self.name
        ous = "".join(f"ou={escape_rdn(ou)}," for ou in self.ou.split(","))
        return f"{self.named_by}={escape_rdn(rdn)},{ous}{base}"

    @property
    def ad_dn(self) -> str:
        """The distinguished name in Active Directory, where every user is named by CN."""
        ous = "".join(f"OU={escape_rdn(ou)}," for ou in self.ou.split(","))
        return f"CN={escape_rdn(self.cn)},{ous}{AD_BASE_DN}"


OUS = ("Staff", "Special", "Services", "Groups", "Bulk", "People", "Europe,Staff", "Paris,Europe,Staff", "Größe,Staff")
"""Parents first."""

PEOPLE = (
    Person("alice", "Alice Normal", attributes={"mobile": "+15550100001", "telephoneNumber": "+15550200001",
                                                "givenName": "Alice", "jpegPhoto": PHOTO}),
    # the prefix of the user principal name is not the account name
    Person("bob", "Bob Builder", upn="robert.builder@example.test", attributes={"mobile": "+15550100002"}),
    # an alternative suffix
    Person("carol", "Carol Corp", ou="Paris,Europe,Staff", upn="carol@corp.example",
           attributes={"mobile": "+15550100003"}),
    Person("dave", "Dave Nomobile", mail=False),
    Person("erin", "Erin Noupn", has_upn=False),
    # direct binds by template: uid=%s,ou=People,... where entries are named by uid
    Person("paula", "Paula People", ou="People", named_by="uid", attributes={"mobile": "+15550100006"}),
    Person("pavel", "Pavel People", ou="People", named_by="uid"),
    # names that are hard to escape
    Person("jdoe", "Doe, Jane (Contractor)", attributes={"mobile": "+15550100004"}),
    Person("plus", 'Plus+Quote"Back\\slash;<x>=#'),
    Person("joerg", "Jörg Müßig", ou="Größe,Staff", password=UMLAUT_PASSWORD, upn="jörg@example.test",
           attributes={"mobile": "+15550100005"}),
    Person("tanaka", "田中 太郎"),
    Person("zoësam", "Zoë Sámname", upn="zoe@example.test", mail=False),
    # states; a directory without a state leaves those accounts out
    Person("disabled", "Disabled User", ou="Special", state="disabled"),
    Person("mustchange", "Mustchange User", ou="Special", state="mustchange"),
    Person("pwexpired", "Pwexpired User", ou="Special", state="pwexpired"),
    Person("pwnever", "Pwnever User", ou="Special", state="pwnever"),
    Person("acctexpired", "Acctexpired User", ou="Special", state="acctexpired"),
    Person("locked", "Locked User", ou="Special", state="locked"),
    Person("lockme", "Lockme User", ou="Special"),
    Person("nohours", "Nohours User", ou="Special", state="nohours"),
    Person("otherws", "Otherws User", ou="Special", state="otherws"),
    Person("smartcard", "Smartcard User", ou="Special", state="smartcard"),
    # service accounts: the proxy's own, an application's, and the one of the documented configuration
    Person("svc-proxy", "svc-proxy", ou="Services", password=SERVICE_PASSWORD, mail=False, state="pwnever"),
    Person("svc-app", "svc-app", ou="Services", password=SERVICE_PASSWORD, mail=False, state="pwnever"),
    Person("svc", "svc", ou="Services", password=SERVICE_PASSWORD, mail=False, state="pwnever"),
)

GROUPS: dict[str, tuple[str, ...]] = {
    # alice is in vpn-users, in all-remote through it, in mfa-required through that; bob is in the last directly
    "vpn-users": ("alice", "carol", "jdoe", "joerg", "paula"),
    "all-remote": ("@vpn-users",),
    "mfa-required": ("@all-remote", "bob"),
    "mfa-exempt": ("svc-proxy",),
    "Grp, with comma (x)": ("alice",),
    "loop-a": ("@loop-b",),
    "loop-b": ("@loop-a",),
}
"""Name to members, "@NAME" being another group; the first of the loop gets its member when the second is there."""


def person(name: str) -> Person:
    """The account of that name, also one of the bulk users."""
    for candidate in PEOPLE:
        if candidate.name == name:
            return candidate
    if name.startswith("bulk") and name[4:].isdigit():
        return bulk_person(int(name[4:]))
    raise KeyError(name)


def bulk_person(number: int) -> Person:
    """One of many: bulk0000, bulk0001 ..."""
    name = f"bulk{number:04d}"
    return Person(name, name, ou="Bulk", state="pwnever", attributes={"mobile": f"+1555300{number:04d}"})
