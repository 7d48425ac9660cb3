"""Applications and rules as they are written, and what is wrong with those that can't be meant."""

from __future__ import annotations

import pytest
from config.reading import LEAST, complaint, only

from ldapmfa.config import load
from ldapmfa.config.applications import hours_of, windows
from ldapmfa.core.rules import Hours

#: Top-level keys of the first listener go before [directory].
NAMED = LEAST.replace("[directory]", 'name = "vpn"\n[directory]')


def with_(*tables):
    return NAMED + "\n".join(tables)


APPLICATION = """
[[application]]
name = "jenkins"
listeners = ["vpn"]
networks = ["10.1.2.3", "2001:db8::/32"]
certificates = ["dns:jenkins.example.com"]
factors = ["totp"]
read_only = true
denied_operations = ["delete"]
denied_attributes = ["unicodePwd", "2.5.4.35"]
anonymous = "refuse"
"""
RULE = """
[[rule]]
name = "admins"
groups = ["cn=Domain Admins,cn=Users,dc=x", "S-1-5-21-1-2-3-512"]
ous = ["ou=staff,dc=x"]
flags = ["smartcard-required"]
networks = ["10.0.0.0/8"]
hours = ["mon-fri 08:00-18:00", "22:00-06:00"]
applications = ["jenkins", "vpn"]
factors = ["totp"]
"""


def test_all_of_it_is_read(file):
    config = load(file(with_(APPLICATION, RULE)))
    (application,), (rule,) = config.application, config.rule
    assert application.networks is not None
    assert [str(network) for network in application.networks] == ["10.1.2.3/32", "2001:db8::/32"]
    assert (application.require_user_match, application.deadline, application.reuse_seconds) == (None, None, None)
    assert windows(rule) == (
        Hours(frozenset(range(5)), 480, 1080, "mon-fri 08:00-18:00"),
        Hours(frozenset(range(7)), 1320, 360, "22:00-06:00"),
    )
    assert config.every_factor == ("totp",)


def test_factors_of_applications_and_rules_are_loaded_too(file):
    other = APPLICATION.replace('["totp"]', '["hotp"]')
    config = load(file(with_(other, RULE.replace('["totp"]', '["recovery", "hotp"]'))))
    assert config.every_factor == config.code_factors == ("totp", "hotp", "recovery")
    assert windows(load(file(with_('[[rule]]\nname = "r"'))).rule[0]) is None


@pytest.mark.parametrize(
    ("text", "days", "begins", "ends"),
    [
        ("mon-fri 08:00-18:00", "01234", 480, 1080),
        ("Sat,Sun 00:00-24:00", "56", 0, 1440),
        ("fri-mon 22:30-06:00", "4560", 1350, 360),
        ("mon,wed-thu 00:00-00:01", "023", 0, 1),
        ("sun-sun 12:00-13:00", "6", 720, 780),
        (" 08:00-18:00 ", "0123456", 480, 1080),
    ],
)
def test_hours(text, days, begins, ends):
    assert hours_of(text) == Hours(frozenset(map(int, days)), begins, ends, text.strip())


@pytest.mark.parametrize(
    "text",
    ["", "mon", "mon 8:00-18:00", "mon 08:00", "mo 08:00-18:00", "mon-xyz 08:00-18:00", "08:00-08:00", "24:00-06:00", "08:60-18:00", "08:00-24:01", "08:00-25:00", "mon- 08:00-18:00", "mon,,tue 08:00-18:00"],
)
def test_hours_that_are_none(text):
    assert "must be days and hours" in complaint(hours_of, text)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('[[application]]\nname = "x"\nlisteners = ["vpm"]', 'application[0].listeners[0]: there is no listener of that name; did you mean "vpn"?'),
        ('[[application]]\nname = "x"\nlisteners = []', "application[0].listeners: must not be empty"),
        ('[[application]]\nname = "x"\nnetworks = ["10.0.0.0/8"]\n[[application]]\nname = "x"\nnetworks = ["10.0.0.0/8"]', "application[1].name: is another application's name too"),
        ('[[application]]\nname = "vpn"\nnetworks = ["10.0.0.0/8"]', "application[0].name: is a listener's name"),
        ('[[application]]\nname = "x"\ncertificates = ["jenkins"]', 'certificates[0]: must be "dns:NAME", "subject:DN" or "sha256:FINGERPRINT"'),
        ('[[application]]\nname = "x"\ncertificates = ["dns:*.example.com"]', 'certificates[0]: must be "dns:NAME"'),
        ('[[application]]\nname = "x"\ncertificates = ["subject:jenkins"]', "certificates[0]: is not a distinguished name"),
        ('[[application]]\nname = "x"\ncertificates = ["sha256:00ff"]', 'certificates[0]: must be "dns:NAME"'),
        ('[[application]]\nname = "x"\nnetworks = ["10.0.0.0/8"]\nfactors = ["totpp"]', 'factors[0]: no such factor; did you mean "totp"?'),
        ('[[application]]\nname = "x"\nnetworks = ["10.0.0.0/8"]\nfactors = ["duo"]', 'factors[0]: "duo" is a service and needs its settings: add a table [factors.duo]'),
        ('[[application]]\nname = "x"\nnetworks = ["10.0.0.0/8"]\nfactors = []', "factors: must not be empty"),
        ('[[application]]\nname = "x"\nnetworks = ["10.0.0.0/8"]\ndenied_attributes = ["unicode pwd"]', "denied_attributes[0]: must be an attribute's name"),
        ('[[application]]\nname = "x"\nnetworks = ["10.0.0.0/8"]\ndenied_operations = ["bind"]', "denied_operations[0]: must be 'search'"),
        ('[[application]]\nname = "x"\nnetworks = ["10.1.2.3/8"]', "networks[0]: must be a network or an address"),
        ('[[application]]\nname = "x"', "certificates: is missing, or listeners, or networks"),
        ('[[rule]]\nname = "r"\ngroups = ["Domain Admins"]', "groups[0]: is not a distinguished name"),
        ('[[rule]]\nname = "r"\ngroups = ["S-1-5-x"]', "groups[0]: is not a distinguished name"),
        ('[[rule]]\nname = "r"\ngroups = ["cn=a;dc=x"]', "groups[0]: must be written as RFC 4514 has it"),
        ("[[rule]]\nname = 'r'\ngroups = ['cn=\"a\",dc=x']", "groups[0]: must be written as RFC 4514 has it"),
        ('[[rule]]\nname = "r"\nous = [""]', "ous[0]: must be a distinguished name"),
        ('[[rule]]\nname = "r"\nflags = ["smartcard"]', 'flags: "smartcard" is no flag; did you mean "smartcard-required"?'),
        ('[[rule]]\nname = "r"\nhours = ["always"]', "hours[0]: must be days and hours"),
        ('[[rule]]\nname = "r"\napplications = ["vnp"]', 'applications[0]: there is no application or listener of that name; did you mean "vpn"?'),
        ('[[rule]]\nname = "r"\naction = "refuse"\nfactors = ["totp"]', 'factors: is pointless with action = "refuse"'),
        ('[[rule]]\nname = "r"\naction = "password-only"\nfactors = ["totp"]', 'factors: is pointless with action = "password-only"'),
        ('[[rule]]\nname = "r"\ndirectory = "hr"', "directory: no directory has this identity_name"),
        ('[[rule]]\naction = "refuse"', "rule[0].name: is missing, and needed"),
        ('[login]\ntimezone = "Europe/Nowhere"', "login.timezone: is not a time zone of this machine"),
        ('[login]\nrequire_user_match = "maybe"', "login.require_user_match: must be 'refuse', 'password-only' or 'grace'"),
    ],
)
def test_what_can_not_be_meant(file, table, said):
    assert said in only(file(with_(table)))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('client_ca_file = "ca.pem"', 'client_ca_file: is pointless with tls = "none"'),
        ("require_client_certificate = true", "require_client_certificate: needs client_ca_file"),
    ],
)
def test_client_certificates_need_tls_and_an_authority(file, line, said):
    assert said in only(file(NAMED.replace("[directory]", f"{line}\n[directory]")))
