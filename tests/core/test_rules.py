"""Rules: what each condition means, in which order they count, and what explains them."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldapmfa.core.identity import CannotIdentify, Identity
from ldapmfa.core.policy import Decision, Exempt, Policy, Recall, ServiceRule
from ldapmfa.core.rules import Circumstances, Hours, Moment, Rule, lies_in
from ldapmfa.wire import dn

ANN = Identity("main", "guid:01", "CN=Ann,OU=Staff,OU=People,DC=x", ("ann",), flags=frozenset({"smartcard-required"}))
HOME, AWAY = ip_address("10.0.0.1"), ip_address("192.0.2.1")
ADMINS = "cn=admins,dc=x"
MONDAY, SUNDAY = 0, 6
NOON = Moment(1e9, MONDAY, 12 * 60)
OFFICE = Hours(frozenset(range(5)), 8 * 60, 18 * 60, "mon-fri 08:00-18:00")
NIGHT = Hours(frozenset({SUNDAY}), 22 * 60, 6 * 60, "sun 22:00-06:00")


def login(**more):
    return Circumstances(**{"identity": ANN, "client": HOME, "application": "vpn", "at": NOON, **more})


@pytest.mark.parametrize(
    ("conditions", "holds"),
    [
        ({}, True),
        ({"applications": frozenset({"vpn", "mail"})}, True),
        ({"applications": frozenset({"mail"})}, False),
        ({"directory": "main"}, True),
        ({"directory": "hr"}, False),
        ({"groups": ("cn=others,dc=x", ADMINS)}, True),
        ({"groups": ("cn=others,dc=x",)}, False),
        ({"ous": ("ou=staff,ou=people,dc=x",)}, True),
        ({"ous": ("ou=elsewhere,dc=x", "OU=PEOPLE ; dc=X")}, True),
        ({"ous": ("ou=staff,dc=x",)}, False),
        ({"flags": frozenset({"computer", "smartcard-required"})}, True),
        ({"flags": frozenset({"computer"})}, False),
        ({"networks": (ip_network("10.0.0.0/8"),)}, True),
        ({"networks": (ip_network("10.1.0.0/16"), ip_network("2001:db8::/32"))}, False),
        ({"hours": (OFFICE,)}, True),
        ({"hours": (NIGHT,)}, False),
        ({"hours": (NIGHT, OFFICE), "directory": "main", "groups": (ADMINS,)}, True),
        ({"hours": (OFFICE,), "directory": "hr"}, False),
    ],
)
def test_a_rule_holds_where_all_of_its_conditions_do(conditions, holds):
    rule = Rule("r", "refuse", **conditions)
    missed = rule.misses(login(groups=frozenset({ADMINS})))
    assert (not missed) is holds
    assert all(isinstance(why, str) for why in missed)


def test_a_rule_about_flags_that_the_directory_hides_is_not_passed_over():
    """Nobody gets around a rule because the account may not read its own userAccountControl."""
    hidden = replace(ANN, flags=frozenset({"computer"}), hides_flags=True)
    about = frozenset({"password-not-required"})
    with pytest.raises(CannotIdentify):
        Rule("r", "refuse", flags=about).misses(login(identity=hidden))
    assert Rule("r", "refuse", flags=about, directory="hr").misses(login(identity=hidden)), "it is about others"
    assert not Rule("r", "refuse", flags=about | {"computer"}).misses(login(identity=hidden))
    user = replace(hidden, flags=frozenset())
    assert Rule("r", "refuse", flags=frozenset({"computer"})).misses(login(identity=user)), "that is not hidden"
    assert not Rule("r", "refuse").misses(login(identity=user))


def test_what_fails_is_said_in_words():
    rule = Rule(
        "r",
        "refuse",
        applications=frozenset({"mail"}),
        directory="hr",
        groups=(ADMINS,),
        ous=("ou=z,dc=x",),
        flags=frozenset({"computer"}),
        networks=(ip_network("10.1.0.0/16"),),
        hours=(NIGHT,),
    )
    assert rule.misses(login(client=None)) == [
        "the application is vpn, not mail",
        "the directory is main, not hr",
        "the account is not in cn=admins,dc=x",
        "CN=Ann,OU=Staff,OU=People,DC=x is not below ou=z,dc=x",
        "the account is not computer",
        "an address that is not known is not in 10.1.0.0/16",
        "the time is not sun 22:00-06:00",
    ]


def test_A37_an_address_that_is_not_known_is_in_no_network():
    everywhere = (ip_network("0.0.0.0/0"), ip_network("::/0"))
    assert lies_in(HOME, everywhere)
    assert not lies_in(None, everywhere)
    assert Rule("trusted", "password-only", networks=everywhere).misses(login(client=None))


@pytest.mark.parametrize(
    ("hours", "weekday", "minute", "within"),
    [
        (OFFICE, MONDAY, 8 * 60 - 1, False),
        (OFFICE, MONDAY, 8 * 60, True),
        (OFFICE, MONDAY, 18 * 60 - 1, True),
        (OFFICE, MONDAY, 18 * 60, False),
        (OFFICE, SUNDAY, 12 * 60, False),
        (NIGHT, SUNDAY, 22 * 60 - 1, False),
        (NIGHT, SUNDAY, 23 * 60, True),
        (NIGHT, MONDAY, 0, True),
        (NIGHT, MONDAY, 6 * 60, False),
        (NIGHT, SUNDAY, 60, False),
        (NIGHT, MONDAY, 23 * 60, False),
        (Hours(frozenset(range(7)), 0, 24 * 60), 3, 24 * 60 - 1, True),
    ],
)
def test_hours_may_go_past_midnight(hours, weekday, minute, within):
    assert hours.cover(Moment(0.0, weekday, minute)) is within


# -- A29


@pytest.mark.parametrize(
    ("entry", "place", "below"),
    [
        ("cn=ann,ou=staff,dc=x", "ou=staff,dc=x", True),
        ("cn=ann,OU=Staff,DC=X", "ou = STAFF ; dc=x", True),
        ("ou=staff,dc=x", "ou=staff,dc=x", True),
        (r"cn=a\,ou=staff,dc=x", "ou=staff,dc=x", False),
        ("cn=ann,ou=staffing,dc=x", "ou=staff,dc=x", False),
        ("cn=ann,ou=the staff,dc=x", "ou=staff,dc=x", False),
        ("cn=ou\\=staff\\,dc\\=x", "ou=staff,dc=x", False),
        ("cn=ou=staff,dc=x", "ou=staff,dc=x", False),
        ("cn=ann,ou=staff,dc=x,dc=y", "ou=staff,dc=x", False),
        ("cn=ann,ou=staff+l=here,dc=x", "ou=staff,dc=x", False),
        ("cn=ann,l=here+ou=staff,dc=x", "ou=staff+l=here,dc=x", True),
        ('cn="x,ou=staff",dc=x', "ou=staff,dc=x", False),
        ("ou=staff", "ou=staff,dc=x", False),
        ("cn=ann", "", False),
        ("", "", False),
        ("cn=ann,dc=x", "no dn", False),
        ("no dn", "dc=x", False),
        ("", "dc=x", False),
    ],
)
def test_A29_a_place_is_compared_rdn_by_rdn(entry, place, below):
    assert dn.lies_below(entry, place) is below
    rule = Rule("exempt by place", "password-only", ous=(place,))
    assert (not rule.misses(login(identity=replace(ANN, dn=entry)))) is below


@given(st.text(max_size=30), st.text(max_size=10))
def test_A29_no_value_makes_an_entry_lie_elsewhere(value, other):
    escaped = "".join(f"\\{octet:02x}" for octet in value.encode(errors="replace"))
    assert not dn.lies_below(f"cn=x{escaped},dc=y", "ou=staff,dc=x")
    assert not dn.lies_below(f"cn=x{escaped}", f"ou=staff{''.join(char for char in other if char.isalnum())},dc=x")


# -- what is decided


DUO = ServiceRule("duo", ("push",), takes_codes=True)
OWN = Policy(
    exempt=(Exempt("ann", (ip_network("10.0.0.0/8"),)),),
    services=(ServiceRule("radius"),),
    kinds=frozenset({"totp"}),
    application="vpn",
    others=(DUO,),
)


def decided(*rules, client=AWAY, groups=frozenset(), policy=OWN, identity=ANN):
    return replace(policy, rules=rules).decide(identity, client, NOON, groups)


def test_without_a_rule_the_application_decides():
    assert decided() == Decision("factors", OWN)
    assert decided(client=HOME) == Decision("exempt", OWN)


def test_the_first_rule_that_holds_decides():
    never = Rule("never", "refuse", directory="hr")
    trusted = Rule("trusted", "password-only", networks=(ip_network("192.0.2.0/24"),))
    nobody = Rule("nobody", "refuse")
    assert decided(never, trusted, nobody).rule == "trusted"
    assert decided(never, nobody, trusted).action == "refuse"


def test_a_rule_that_refuses_goes_before_an_exemption_and_no_other_does():
    assert decided(Rule("nobody", "refuse"), client=HOME).action == "refuse"
    assert decided(Rule("more", "factors", ("duo",)), client=HOME).action == "exempt"
    assert decided(Rule("less", "password-only"), client=HOME).action == "exempt"


def test_a_rule_may_ask_for_other_factors_and_for_no_more():
    found = decided(Rule("admins", "factors", ("duo", "hotp"), groups=(ADMINS,)), groups=frozenset({ADMINS}))
    assert (found.action, found.rule) == ("factors", "admins")
    assert [service.name for service in found.policy.services] == ["duo"]
    assert found.policy.kinds == {"hotp"}
    assert found.policy.accepts == {"duo", "hotp"}
    same = decided(Rule("same", "factors"))
    assert (same.policy.services, same.policy.kinds) == (OWN.services, OWN.kinds)
    assert Policy().accepts is None


def test_groups_are_asked_for_only_where_they_may_matter():
    rules = (
        Rule("one", "refuse", groups=(ADMINS, "S-1-5-32-544")),
        Rule("two", "refuse", groups=(ADMINS,)),
        Rule("elsewhere", "refuse", groups=("cn=hr,dc=y",), directory="hr"),
        Rule("of mail", "refuse", groups=("cn=mail,dc=x",), applications=frozenset({"mail"})),
        Rule("of vpn", "refuse", groups=("cn=vpn,dc=x",), applications=frozenset({"vpn"})),
        Rule("without", "refuse"),
    )
    policy = replace(OWN, rules=rules)
    assert policy.groups("main") == (ADMINS, "S-1-5-32-544", "cn=vpn,dc=x")
    assert "cn=hr,dc=y" in policy.groups("hr")
    assert OWN.groups("main") == ()


@pytest.mark.parametrize(
    ("rule", "shape"),
    [
        (Rule("r", "password-only", networks=(ip_network("192.0.2.0/24"),)), "whole"),
        (Rule("r", "password-only"), "whole"),
        (Rule("r", "password-only", networks=(ip_network("10.0.0.0/8"),)), "cut"),
        (Rule("r", "password-only", applications=frozenset({"mail"})), "cut"),
        (Rule("r", "password-only", directory="hr"), "cut"),
        (Rule("r", "refuse"), "cut"),
        (Rule("r", "factors", ("hotp",)), "cut"),
    ],
)
def test_A18_a_password_is_taken_whole_at_first_only_where_it_may_be_enough(rule, shape):
    policy = Policy(application="vpn", kinds=frozenset({"totp"}), rules=(rule,))
    assert policy.shape("ann", Recall(), None, AWAY, "main") == shape


def test_A18_services_that_only_rules_name_are_services():
    policy = Policy(application="vpn", kinds=frozenset({"totp"}), others=(DUO,))
    assert policy.shape("ann", Recall(), None, AWAY, "main") == "whole"
    assert policy.shape("ann", Recall(), None, AWAY, "main", marked=True) == "cut"


def test_grace_begins_when_an_account_is_first_seen():
    policy = Policy(unenrolled="grace", grace_seconds=100.0)
    assert policy.grace(Moment(1000.0), None) == 100.0
    assert policy.grace(Moment(1000.0), 901.0) == 1.0
    assert policy.grace(Moment(1000.0), 900.0) == 0.0
    assert policy.grace(Moment(5000.0), 900.0) == 0.0
    assert replace(policy, unenrolled="refuse").grace(Moment(1000.0), None) == 0.0
    assert replace(policy, unenrolled="password-only").grace(Moment(1000.0), None) == 0.0
