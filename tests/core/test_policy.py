"""Who is exempt, and what a hint may do."""

from __future__ import annotations

import dataclasses
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldapmfa.core.identity import Identity
from ldapmfa.core.policy import Exempt, Policy, Recall

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


def shape(name="ann", recall=Recall(), refused=None, policy=Policy(), client=HOME):  # noqa: B008 - frozen
    return policy.shape(name, recall, refused, client, "main")


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


@pytest.mark.parametrize("unenrolled", ["refuse", "password-only"])
def test_where_approvals_are_asked_for_a_name_that_is_unknown_is_taken_whole_first(unenrolled):
    push = Policy(unenrolled=unenrolled, approval="push")
    assert shape(policy=push) == "whole"
    assert shape(policy=push, refused="whole") == "cut"
    assert shape(policy=push, refused="cut") == "whole"
    assert shape(recall=Recall(codeless=True), policy=push) == "whole"
    assert shape(recall=Recall(codeless=True), policy=push, refused="whole") == "whole"
    for known in (Recall(enrolled=True), Recall(codeless=True, enrolled=True), Recall(pending=True)):
        for refused in (None, "cut", "whole"):
            assert shape(recall=known, refused=refused, policy=push) == "cut"


def test_an_exempt_name_is_taken_whole_where_it_is_exempt():
    policy = Policy([Exempt("cn=Svc,dc=x", LOOPBACK)])
    enrolled = Recall(codeless=True, enrolled=True)
    assert shape("dn:cn=svc,dc=x", policy=policy) == "whole"
    assert shape("dn:cn=svc,dc=x", enrolled, policy=policy) == "whole"
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
