"""Who is exempt, what a hint may do, and how a user is asked."""

from __future__ import annotations

import dataclasses
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldapmfa.core.identity import Identity
from ldapmfa.core.policy import CODES_ONLY, Choice, Exempt, Policy, Recall, ServiceRule

SVC = Identity("main", "guid:00", "CN=svc,OU=Services,DC=example,DC=test", ("svc",), "svc@example.test")
HOME = ip_address("127.0.0.1")
AWAY = ip_address("192.0.2.1")
LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))


@pytest.mark.parametrize(
    "account",
    [
        "cn=svc,ou=services,dc=example,dc=test",
        "CN = Svc ; OU=SERVICES;DC=example , DC=test",
        r"2.5.4.3=\73vc,ou=services,dc=example,dc=test",
        "svc@example.test",
        "SVC@EXAMPLE.TEST",
        "Svc",
    ],
)
def test_an_account_is_named_as_one_likes(account):
    assert Exempt(account).is_account(SVC)


@pytest.mark.parametrize(
    "account",
    [
        "cn=svc2,ou=services,dc=example,dc=test",
        "cn=svc,ou=services,dc=example,dc=test,dc=more",
        "ou=services,dc=example,dc=test",
        "cn=,",
        "svc@example",
        "svc@",
        "sv",
        "svc,",
        "EXAMPLE\\svc",
    ],
)
def test_another_account_is_another(account):
    assert not Exempt(account).is_account(SVC)


def test_what_the_directory_did_not_say_matches_nothing():
    bare = Identity("main", "dn:cn=root", "cn=root")
    for account in ("", "@", "root", "None", "none@"):
        assert not Exempt(account).is_account(bare)
    assert Exempt("cn=root").is_account(bare)
    several = dataclasses.replace(SVC, accounts=("svc", "other"))
    assert not Exempt("svc").is_account(several)
    # another domain may have an account of that name
    assert not Exempt("svc").is_account(dataclasses.replace(SVC, elsewhere=True))
    assert not Exempt("svc").is_account(dataclasses.replace(SVC, accounts=()))


@pytest.mark.parametrize(
    ("entry", "client", "directory", "covers"),
    [
        (Exempt("svc"), None, "main", True),
        (Exempt("svc"), AWAY, "main", True),
        (Exempt("svc", LOOPBACK), HOME, "main", True),
        (Exempt("svc", LOOPBACK), ip_address("::1"), "main", True),
        (Exempt("svc", LOOPBACK), AWAY, "main", False),
        (Exempt("svc", LOOPBACK), None, "main", False),
        (Exempt("svc", ()), HOME, "main", False),
        (Exempt("svc", None, "main"), None, "main", True),
        (Exempt("svc", None, "main"), None, "other", False),
    ],
)
def test_an_exemption_covers_a_place(entry, client, directory, covers):
    assert entry.covers(client, directory) == covers


def test_an_account_is_exempt_where_one_entry_says_so_whole():
    policy = Policy([Exempt("other"), Exempt("svc", LOOPBACK, "main"), Exempt("svc", (), None)])
    assert policy.exempts(SVC, HOME)
    assert not policy.exempts(SVC, AWAY)
    assert not policy.exempts(dataclasses.replace(SVC, directory="other"), HOME)
    assert not Policy().exempts(SVC, HOME)


def shape(name="ann", recall=Recall(), refused=None, policy=Policy(), client=HOME, *, marked=False):  # noqa: B008 - frozen
    return policy.shape(name, recall, refused, client, "main", marked=marked)


def test_the_shape_follows_what_is_known_of_the_name():
    lax = Policy(unenrolled="password-only")
    for policy in (Policy(), lax):
        assert shape(recall=Recall(codeless=True, enrolled=True), policy=policy) == "cut"
        assert shape(recall=Recall(pending=True), policy=policy) == "cut"
        assert shape(recall=Recall(codeless=True, pending=True), policy=policy) == "cut"
        assert shape(recall=Recall(codeless=True), policy=policy) == "whole"
    assert shape() == "cut"
    assert shape(policy=lax) == "whole"
    assert shape(policy=lax, refused="whole") == "cut"
    assert shape(policy=lax, refused="cut") == "whole"


DUO = ServiceRule("duo", ("push", "phone", "sms"), takes_codes=True)
ENTRA = ServiceRule("entra", ("push",), opens=True)
RSA = ServiceRule("rsa", takes_codes=True, directory="main")
PARTNERS = ServiceRule("partners", ("push", "sms"), takes_codes=True, opens=True, directory="other")
SERVICES = Policy(services=(DUO, ENTRA, RSA, PARTNERS))


@pytest.mark.parametrize("coded", [False, True])
@pytest.mark.parametrize("unenrolled", ["refuse", "password-only"])
def test_where_services_ask_a_name_that_needs_no_delimiter_is_tried_both_ways_in_turn(unenrolled, coded):
    """First as it was last time, or as it looks: a password often ends in digits."""
    asks = Policy(unenrolled=unenrolled, services=(DUO,))
    recall = Recall(coded=coded)
    first, second = ("cut", "whole") if coded else ("whole", "cut")
    assert shape(recall=recall, policy=asks) == first
    assert shape(recall=recall, policy=asks, refused=first) == second
    assert shape(recall=recall, policy=asks, refused=second) == first


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("unenrolled", ["refuse", "password-only"])
def test_where_services_ask_what_is_remembered_counts(unenrolled, marked):
    asks = Policy(unenrolled=unenrolled, services=(DUO,))
    assert shape(recall=Recall(codeless=True), policy=asks, marked=marked) == "whole"
    assert shape(recall=Recall(codeless=True), policy=asks, marked=marked, refused="cut") == "whole"
    assert shape(recall=Recall(codeless=True), policy=asks, marked=marked, refused="whole") == "cut"
    for known in (Recall(enrolled=True), Recall(codeless=True, enrolled=True), Recall(pending=True)):
        for refused in (None, "cut", "whole"):
            assert shape(recall=known, refused=refused, policy=asks, marked=marked) == "cut"


@pytest.mark.parametrize("refused", [None, "cut", "whole"])
@pytest.mark.parametrize("coded", [False, True])
def test_A18_A22_what_stands_behind_a_delimiter_is_cut_whatever_was_refused_before(refused, coded):
    """Else a typo, or a stranger without any password, would send the next right password to the directory as a whole."""
    for unenrolled in ("refuse", "password-only"):
        asks = Policy(unenrolled=unenrolled, services=(DUO,))
        assert shape(recall=Recall(coded=coded), refused=refused, policy=asks, marked=True) == "cut"


@pytest.mark.parametrize("policy", [Policy(), Policy(services=(PARTNERS,))], ids=["none", "of another directory"])
def test_where_no_service_asks_a_delimiter_changes_nothing(policy):
    lax = dataclasses.replace(policy, unenrolled="password-only")
    for marked in (False, True):
        for refused in (None, "cut", "whole"):
            assert shape(policy=policy, marked=marked, refused=refused) == "cut"
            assert shape(recall=Recall(codeless=True), policy=policy, marked=marked, refused=refused) == "whole"
        assert shape(policy=lax, marked=marked) == "whole"
        assert shape(policy=lax, marked=marked, refused="whole") == "cut"
        assert shape(policy=lax, marked=marked, refused="cut") == "whole"


def test_an_exempt_name_is_taken_whole_where_it_is_exempt():
    policy = Policy([Exempt("cn=Svc,dc=x", LOOPBACK)])
    enrolled = Recall(codeless=True, enrolled=True)
    assert shape("dn:cn=svc,dc=x", policy=policy) == "whole"
    assert shape("dn:cn=svc,dc=x", enrolled, policy=policy) == "whole"
    asks = dataclasses.replace(policy, services=(DUO,))
    assert shape("dn:cn=svc,dc=x", enrolled, refused="whole", policy=asks, marked=True) == "whole"
    assert shape("dn:cn=svc,dc=x", enrolled, policy=policy, client=AWAY) == "cut"
    assert shape("svc", policy=policy) == "cut"


TEXT = st.text(alphabet=[chr(code) for code in range(32, 127)], max_size=8)


@settings(deadline=None, max_examples=100)
@given(TEXT, TEXT | st.none())
def test_a_name_is_no_pattern(account, name):
    """Exempt("a*"), Exempt("") and Exempt(".") cover the account of that very name, if any."""
    same = name is None or " ".join(account.lower().split()) == " ".join(name.lower().split())
    identity = dataclasses.replace(SVC, accounts=(account if name is None else name,), upn=None)
    assert Exempt(account).is_account(identity) == (same and "=" not in account and "@" not in account)


# -- how a user is asked


def choices(typed=None, preferred=None, directory="main", policy=SERVICES):
    return policy.choices(directory, typed, preferred)


def test_services_are_asked_in_the_configured_order_if_they_can_ask_and_are_for_the_directory():
    assert choices() == [Choice("duo"), Choice("entra")]
    assert choices(directory="other") == [Choice("duo"), Choice("entra"), Choice("partners")]
    assert choices(policy=Policy(services=(ENTRA, RSA, DUO))) == [Choice("entra"), Choice("duo")]
    assert choices(policy=Policy()) == []
    assert choices(policy=Policy(services=(RSA,))) == []


@pytest.mark.parametrize(
    ("text", "ways"),
    [
        ("push", [Choice("duo", "push"), Choice("entra", "push")]),
        ("sms", [Choice("duo", "sms")]),
        ("duo", [Choice("duo")]),
        ("duo/", [Choice("duo")]),
        ("duo/push", [Choice("duo", "push")]),
        ("duo/push:2", [Choice("duo", "push", "2")]),
        ("push:2", [Choice("duo", "push", "2"), Choice("entra", "push", "2")]),
        ("duo:2", [Choice("duo", "", "2")]),
        ("duo/:2", [Choice("duo", "", "2")]),
        ("duo/push:a/b:c\n", [Choice("duo", "push", "a/b:c\n")]),
    ],
)
def test_a_way_is_a_service_a_method_a_device_or_some_of_them(text, ways):
    """Typed or preferred; and what was typed counts before what is preferred."""
    assert choices(typed=text) == ways
    assert choices(preferred=text) == ways
    for preferred in ("entra", "gone", CODES_ONLY, "sms"):
        assert choices(typed=text, preferred=preferred) == ways


@pytest.mark.parametrize(
    "text",
    ["", ":2", "/push", "push:", "gone", "fax", "duo/fax", "entra/sms", "rsa", "rsa/push", "partners", "partners/push", "PUSH", "Duo", "du", "duo/push/x", "push duo", CODES_ONLY],
)
def test_a_way_that_is_none_is_nobodys_if_typed_and_no_hindrance_if_preferred(text):
    """A service that can't ask, or not accounts of this directory, among them."""
    assert choices(typed=text) == []
    assert choices(typed=text, preferred="entra") == []
    assert choices(preferred=text) == ([] if text == CODES_ONLY else choices())


def test_a_services_name_goes_before_a_method_of_the_same_name():
    policy = Policy(services=(DUO, ServiceRule("push", ("phone",))))
    assert choices("push", policy=policy) == [Choice("push")]
    assert choices("duo/push", policy=policy) == [Choice("duo", "push")]


def test_who_prefers_codes_is_not_asked():
    assert choices(preferred=CODES_ONLY) == []
    assert choices(typed="push", preferred=CODES_ONLY) == [Choice("duo", "push"), Choice("entra", "push")]


def test_codes_are_verified_by_those_that_take_them_in_order():
    assert SERVICES.code_services("main") == ["duo", "rsa"]
    assert SERVICES.code_services("other") == ["duo", "partners"]
    assert Policy().code_services("main") == []


def test_all_services_of_a_directory_may_know_its_users():
    assert SERVICES.serve("main") == ["duo", "entra", "rsa"]
    assert SERVICES.serve("other") == ["duo", "entra", "partners"]
    assert Policy().serve("main") == []


def test_an_outage_opens_only_where_that_is_said_of_the_very_service():
    assert [name for name in ("duo", "entra", "rsa", "partners", "gone", "") if SERVICES.opens(name)] == ["entra", "partners"]
    assert not Policy().opens("entra")


@settings(deadline=None, max_examples=200)
@given(st.text(alphabet="duo/push:entrasm2 \n", max_size=14))
def test_whatever_is_typed_leads_to_a_service_that_has_it(text):
    """Or to none, and never to one that is not for the directory."""
    rules = {rule.name: rule for rule in (DUO, ENTRA)}
    for typed, preferred in ((text, None), (None, text)):
        for choice in choices(typed, preferred):
            assert choice.method in ("", *rules[choice.service].methods)
            assert choice.device in text
