"""From the configuration to what applications ask for and allow."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from ipaddress import ip_address
from types import SimpleNamespace

import pytest

from ldapmfa.config import Application, Config, ServiceTable
from ldapmfa.core.application import Peer
from ldapmfa.core.rules import Moment
from ldapmfa.core.session import Request
from ldapmfa.net import assembly
from ldapmfa.net.moment import moment


def guarded(fail_mode="closed"):
    asks = SimpleNamespace(methods=("push",), takes_codes=True)
    return SimpleNamespace(service=asks, table=ServiceTable(kind="x", fail_mode=fail_mode))


SERVICES = {"duo": guarded("open"), "radius": guarded()}
TABLES = {name: ServiceTable(kind=name) for name in SERVICES}


def config(application=None, **more):
    listen = {"endpoint": "tcp:3389:interface=127.0.0.1", "name": "vpn", "reuse_seconds": 30, "deadline": 20}
    tables = {"listen": [listen], "directory": {"uris": ["ldap://127.0.0.1"]}, "login": {"factors": ["totp", "duo"]}}
    return Config(**{**tables, "factors": TABLES, "application": [application] if application else [], **more})


def policy(application=None, **more):
    made = config(application, **more)
    table = made.application[0] if made.application else None
    return assembly.policy(made, SERVICES, made.listen[0], table)


def test_where_no_application_covers_a_client_the_listener_and_login_count():
    own = policy()
    assert own.application == "vpn"
    assert [rule.name for rule in own.services] == ["duo"]
    assert [rule.name for rule in own.others] == ["radius"]
    assert (own.kinds, own.unenrolled, own.tells, own.reuses) == ({"totp"}, "refuse", False, True)
    assert own.opens("duo")
    assert not own.opens("radius")


def test_an_application_says_otherwise():
    application = {
        "name": "jenkins",
        "factors": ["radius", "hotp"],
        "fail_mode": "closed",
        "require_user_match": "grace",
        "tell_password_state": True,
        "reuse_seconds": 0,
    }
    own = policy(application)
    assert own.application == "jenkins"
    assert [rule.name for rule in own.services] == ["radius"]
    assert (own.kinds, own.unenrolled, own.tells, own.reuses) == ({"hotp"}, "grace", True, False)
    assert own.grace_seconds == 14 * 86400
    assert not policy({"name": "x", "fail_mode": "closed"}).opens("duo")
    assert policy({"name": "x", "fail_mode": "open", "factors": ["radius"]}).opens("radius")


def test_rules_are_the_configurations_in_its_order():
    rules = [
        {"name": "one", "groups": ["cn=a,dc=x"], "factors": ["duo"], "hours": ["mon 08:00-09:00"], "applications": ["vpn"]},
        {"name": "two", "action": "refuse", "flags": ["computer"], "networks": ["10.0.0.0/8"], "ous": ["ou=x"], "directory": "default"},
    ]
    one, two = policy(rule=rules).rules
    assert (one.name, one.action, one.factors, one.groups, one.applications) == ("one", "factors", ("duo",), ("cn=a,dc=x",), {"vpn"})
    assert [hours.text for hours in one.hours] == ["mon 08:00-09:00"]
    assert (two.action, two.flags, two.ous, two.directory, two.hours, two.groups) == ("refuse", {"computer"}, ("ou=x",), "default", None, None)


def test_what_counts_again_is_said_by_the_application_then_by_its_listener():
    own = config()
    assert assembly.terms(own, own.listen[0]).reuse_seconds == 30
    for said, (reuse, uses, late) in {
        "reuse_seconds": (60, 3, 0),
        "reuse_uses": (30, 60, 0),
        "late_approval_seconds": (30, 3, 60),
    }.items():
        made = config({"name": "x", said: 60})
        terms = assembly.terms(made, made.listen[0], made.application[0])
        assert (terms.application, terms.reuse_seconds, terms.reuse_uses, terms.late_seconds) == ("x", reuse, uses, late)


def test_A33_whatever_changes_the_policy_ends_what_counts_again():
    applications = [None, {"name": "x"}, {"name": "x", "read_only": True}]
    rules = [[], [{"name": "r", "action": "refuse", "directory": "hr"}]]
    found = set()
    for application in applications:
        for rule in rules:
            for login in ({}, {"prompts": 3}):
                made = config(application, rule=rule, login={"factors": ["totp", "duo"], **login})
                table = made.application[0] if application else None
                found.add(assembly.terms(made, made.listen[0], table).fingerprint)
    assert len(found) == len(applications) * len(rules) * 2


def test_what_sessions_of_an_application_may_do():
    made = config({"name": "x", "read_only": True, "denied_operations": ["rename"], "denied_attributes": ["mail"], "anonymous": "refuse"})
    rules = assembly.session_rules(made, made.listen[0], made.application[0])
    assert (rules.read_only, rules.denied_operations, rules.denied_attributes, rules.anonymous) == (True, {Request.RENAME}, {"mail"}, "refuse")
    own = assembly.session_rules(made, made.listen[0])
    assert (own.read_only, own.denied_operations, own.denied_attributes, own.anonymous) == (False, set(), set(), "root-dse")


def test_an_application_is_recognised_by_what_is_configured():
    made = config({"name": "x", "listeners": ["vpn"], "networks": ["10.0.0.0/8"]}).application[0]
    recognised = assembly.recognition(made)
    assert recognised.covers(Peer("vpn", ip_address("10.1.2.3"), None))
    assert not recognised.covers(Peer("mail", ip_address("10.1.2.3"), None))
    assert assembly.recognition(Application(name="all")).covers(Peer("any", None, None))


@pytest.mark.parametrize(
    ("zone", "weekday", "minute"),
    [(UTC, 3, 22 * 60 + 5), (timezone(timedelta(hours=5)), 4, 3 * 60 + 5)],
)
def test_a_moment_is_what_the_clock_on_the_wall_says(zone, weekday, minute):
    seconds = datetime(2026, 3, 5, 22, 5, 59, tzinfo=UTC).timestamp()
    assert moment(seconds, zone) == Moment(seconds, weekday, minute)
