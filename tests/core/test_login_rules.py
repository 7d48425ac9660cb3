"""One login where rules demand something, an operator has blocked it or let it through, or the password has expired."""

from __future__ import annotations

import dataclasses
from ipaddress import ip_address

import pytest
from playbook import NONE, Procedure, unthrottled

from ldapmfa.core.identity import CannotIdentify, Identity
from ldapmfa.core.login import ServiceUnreachable
from ldapmfa.core.policy import Choice, Exempt, Policy, Recall, ServiceRule
from ldapmfa.core.questions import (
    Accepted,
    Admit,
    Answered,
    Approval,
    Asked,
    Attempt,
    AwaitApproval,
    CodeAnswer,
    FindGroups,
    Identify,
    LookUp,
    PasswordAnswer,
    RecallName,
    Refused,
    Remembered,
    Resolve,
    Reuse,
    Reused,
    Standing,
    StartPrompt,
    Unreachable,
    UseBypass,
    VerifyAtService,
    VerifyCode,
    VerifyPassword,
)
from ldapmfa.core.rules import Moment, Rule
from ldapmfa.core.secret import CodeForm, Secret
from ldapmfa.errors import DirectoryDown

ANN = Identity("main", "guid:01", "cn=ann,dc=x", ("ann",), "ann@x")
SVC = Identity("main", "guid:02", "cn=svc,dc=x", ("svc",))
BARE = Identity("main", "dn:cn=root", "cn=root")
HOME = ip_address("10.0.0.1")
RAW = b"the directory's own answer"
YES = PasswordAnswer(0, "", RAW)
ADMINS = "cn=admins,dc=x"
NOW = Moment(1000.0, 0, 720)
DUO = ServiceRule("duo", ("push",), takes_codes=True)
KINDS = frozenset({"totp"})
OWN = Policy([Exempt("svc")], kinds=KINDS, application="vpn")
ASKS = dataclasses.replace(OWN, services=(DUO,))
NOBODY, ENROLLED = Standing(enrolled=False), Standing(enrolled=True)
BLOCKED = Standing(enrolled=True, blocked=True)
LET = Standing(enrolled=True, bypass=True)
CODE = Secret(b"123456")
FORM = CodeForm(keywords={b"push": "push"})


def verify(password, shape="cut"):
    return VerifyPassword(Secret(password), shape)


def asked(typed=b"secret", policy=OWN, name="ann"):
    return Procedure(unthrottled(Attempt(name, Secret(typed), "main", HOME, FORM, policy, NOW)))


def known(policy, identity=ANN, typed=b"secret"):
    """A login by password alone up to the answer who that is."""
    return asked(typed, policy) << verify(typed, "whole") >> YES << Identify() >> identity


def coded(policy):
    """A login by a code up to the answer who that is."""
    return (
        asked(b"secret123456", policy)
        << RecallName("ann")
        >> Remembered(Recall(enrolled=True))
        << verify(b"secret")
        >> YES
        << Identify()
        >> ANN
    )


def ruled(*rules, policy=OWN):
    return dataclasses.replace(policy, rules=rules)


# -- rules


def test_a_rule_refuses_whoever_it_is():
    nobody = ruled(Rule("closed", "refuse"))
    for identity in (ANN, SVC, BARE):
        assert known(nobody, identity) << Refused("rule", identity, "closed")


def test_a_rule_asks_for_nothing_but_the_password():
    trusted = ruled(Rule("trusted", "password-only"))
    assert known(trusted) << Admit(ANN, "by-rule", None, "trusted") >> NONE << Accepted(RAW, ANN, "by-rule")
    assert known(trusted) << Admit(ANN, "by-rule", None, "trusted") >> "blocked" << Refused("blocked", ANN)
    assert known(trusted, BARE) << Refused("no-entry", BARE)


def test_whoever_types_a_code_where_none_is_asked_for_must_type_a_right_one():
    trusted = ruled(Rule("trusted", "password-only"))
    assert coded(trusted) << VerifyCode(ANN, CODE, KINDS) >> CodeAnswer("wrong") << Refused("wrong-code", ANN)


def test_groups_are_looked_up_before_anything_is_decided():
    admins = ruled(Rule("admins", "refuse", groups=(ADMINS,)))
    assert known(admins) << FindGroups(ANN, (ADMINS,)) >> frozenset({ADMINS}) << Refused("rule", ANN, "admins")
    assert known(admins) << FindGroups(ANN, (ADMINS,)) >> frozenset() << LookUp(ANN, KINDS) >> NOBODY << Refused("not-enrolled", ANN)


def test_groups_that_can_not_be_found_out_break_the_login():
    admins = ruled(Rule("admins", "refuse", groups=(ADMINS,)))
    assert known(admins) << FindGroups(ANN, (ADMINS,)) >> RuntimeError("no answer") << RuntimeError


def test_a_rule_asks_for_factors_of_its_own():
    admins = ruled(Rule("admins", "factors", ("duo",)), policy=dataclasses.replace(OWN, others=(DUO,)))
    # a code of a factor that counts elsewhere is none here: it is the service's to judge
    play = coded(admins) << LookUp(ANN, frozenset()) >> NOBODY << VerifyAtService(ANN, "duo", CODE, Secret(b"secret"))
    assert play >> Answered(given=False, why="wrong-code") << Refused("wrong-code", ANN)
    asks = known(admins) << LookUp(ANN, frozenset()) >> NOBODY << StartPrompt(ANN, Choice("duo"), Secret(b"secret"))
    assert asks >> Asked() << AwaitApproval() >> Approval(given=True) << Admit(ANN, "approved", "duo") >> NONE << Accepted(RAW, ANN, "approved", "duo")


@pytest.mark.parametrize("lax", [{"unenrolled": "password-only"}, {"unenrolled": "grace", "grace_seconds": 9e9}])
def test_who_must_show_another_factor_than_it_has_does_not_get_by_with_none(lax):
    """Neither by a rule nor by an application that asks for more."""
    other = dataclasses.replace(ENROLLED, counts=False)
    assert known(dataclasses.replace(OWN, **lax)) << LookUp(ANN, KINDS) >> other << Refused("not-enrolled", ANN)
    asks = known(dataclasses.replace(ASKS, **lax)) << LookUp(ANN, KINDS) >> other << StartPrompt(ANN, Choice("duo"), Secret(b"secret"))
    assert asks >> Answered(given=False, why="not-enrolled") << Refused("not-enrolled", ANN)
    opens = dataclasses.replace(ASKS, services=(dataclasses.replace(DUO, opens=True),), **lax)
    away = known(opens) << LookUp(ANN, KINDS) >> other << StartPrompt(ANN, Choice("duo"), Secret(b"secret"))
    assert away >> Unreachable("away") << ServiceUnreachable
    code = coded(dataclasses.replace(ASKS, **lax)) << LookUp(ANN, KINDS) >> other << VerifyAtService(ANN, "duo", CODE, Secret(b"secret"))
    assert code >> Answered(given=False, why="not-enrolled") << Refused("not-enrolled", ANN)


def test_A33_an_earlier_success_counts_only_by_a_factor_that_is_asked_for_now():
    policy = dataclasses.replace(ASKS, reuses=True)
    assert known(policy) << Reuse(ANN, frozenset({"totp", "duo"})) >> Reused("reused", "totp") << Accepted(RAW, ANN, "reused", "totp")
    shared = known(policy) << Reuse(ANN, frozenset({"totp", "duo"})) >> NONE << LookUp(ANN, KINDS) >> NOBODY << StartPrompt(ANN, Choice("duo"), Secret(b"secret"))
    assert shared >> Asked(shared=True) << AwaitApproval() >> Approval(given=True) << Reuse(ANN, frozenset({"totp", "duo"})) >> NONE << Refused("asked-already", ANN)


# -- blocked


def test_nobody_blocked_is_let_in_by_any_way():
    assert known(OWN) << LookUp(ANN, KINDS) >> BLOCKED << Refused("blocked", ANN)
    assert known(ASKS) << LookUp(ANN, KINDS) >> BLOCKED << Refused("blocked", ANN)
    assert coded(ASKS) << LookUp(ANN, KINDS) >> BLOCKED << Refused("blocked", ANN)
    assert coded(OWN) << VerifyCode(ANN, CODE, KINDS) >> CodeAnswer("blocked") << Refused("blocked", ANN)
    assert known(OWN, SVC) << Admit(SVC, "exempt") >> "blocked" << Refused("blocked", SVC)


# -- let through once


def test_a_bypass_takes_the_place_of_a_factor_once():
    assert known(OWN) << LookUp(ANN, KINDS) >> LET << UseBypass(ANN) >> True << Accepted(RAW, ANN, "bypass")
    assert known(ASKS) << LookUp(ANN, KINDS) >> LET << UseBypass(ANN) >> True << Accepted(RAW, ANN, "bypass")


@pytest.mark.parametrize("answer", [False, 1, "yes"])
def test_a_bypass_that_was_used_meanwhile_is_none(answer):
    assert known(OWN) << LookUp(ANN, KINDS) >> LET << UseBypass(ANN) >> answer << Refused("no-code", ANN)
    play = known(ASKS) << LookUp(ANN, KINDS) >> LET << UseBypass(ANN) >> answer << StartPrompt(ANN, Choice("duo"), Secret(b"secret"))
    assert play >> Answered(given=False, why="denied") << Refused("denied", ANN)


def test_whoever_shows_a_factor_or_asks_for_one_uses_no_bypass_up():
    assert coded(OWN) << VerifyCode(ANN, CODE, KINDS) >> CodeAnswer("accepted", "totp") << Accepted(RAW, ANN, "code", "totp")
    assert coded(ASKS) << LookUp(ANN, KINDS) >> LET << VerifyCode(ANN, CODE, KINDS) >> CodeAnswer("wrong") << Refused("wrong-code", ANN)
    pushed = asked(b"secret,push", ASKS) << RecallName("ann") >> Remembered(Recall()) << verify(b"secret") >> YES << Identify() >> ANN
    assert pushed << LookUp(ANN, KINDS) >> LET << StartPrompt(ANN, Choice("duo", "push"), Secret(b"secret")) >> Answered(given=False, why="denied") << Refused("denied", ANN)


def test_a_bypass_helps_nobody_who_is_locked_or_blocked():
    both = Standing(enrolled=True, bypass=True, blocked=True)
    assert known(OWN) << LookUp(ANN, KINDS) >> both << Refused("blocked", ANN)
    locked = Standing(enrolled=True, bypass=True, locked=True)
    assert known(ASKS) << LookUp(ANN, KINDS) >> locked << Refused("locked", ANN)


# -- grace


def test_grace_lets_in_by_password_alone_for_a_while():
    policy = dataclasses.replace(OWN, unenrolled="grace", grace_seconds=86400.0)
    new = known(policy) << LookUp(ANN, KINDS) >> NOBODY << Admit(ANN, "grace", None, "1.0 days are left to enrol") >> NONE
    assert new << Accepted(RAW, ANN, "grace")
    seen = dataclasses.replace(NOBODY, first_seen=1000.0 - 86400.0)
    assert known(policy) << LookUp(ANN, KINDS) >> seen << Refused("not-enrolled", ANN)
    assert known(policy) << LookUp(ANN, KINDS) >> ENROLLED << Refused("no-code", ANN)


# -- passwords that must be changed


def said(code):
    return f"80090308: LdapErr: DSID-0C0903A9, comment: AcceptSecurityContext error, data {code}, v1db1"


TOLD = b"what the directory said"
TELLS = dataclasses.replace(OWN, tells=True)
TELLS_AND_ASKS = dataclasses.replace(ASKS, tells=True)


def expired(policy=TELLS, code="773", typed=b"secret123456", raw=TOLD):
    play = asked(typed, policy)
    if typed != b"secret":
        play = play << RecallName("ann") >> Remembered(Recall(enrolled=True)) << verify(b"secret")
    else:
        play = play << verify(b"secret", "whole")
    return play >> PasswordAnswer(49, said(code), raw)


@pytest.mark.parametrize(("code", "reason"), [("532", "password-expired"), ("773", "must-change-password")])
def test_A35_who_has_shown_a_code_is_told_that_the_password_must_be_changed(code, reason):
    right = expired(code=code) << Resolve("ann") >> ANN << VerifyCode(ANN, CODE, KINDS, reason) >> CodeAnswer("accepted", "totp")
    assert right << Refused(reason, ANN, said(code), TOLD)


@pytest.mark.parametrize("result", ["wrong", "replayed", "locked", "not-enrolled", "blocked"])
def test_A23_nobody_else_is_told(result):
    play = expired() << Resolve("ann") >> ANN << VerifyCode(ANN, CODE, KINDS, "must-change-password") >> CodeAnswer(result)
    reason = f"{result}-code" if result in ("wrong", "replayed") else result
    assert play << Refused(reason, ANN)


def test_A23_nobody_is_told_where_that_is_not_configured_or_of_anything_else():
    assert expired(OWN) << Refused("must-change-password", detail=said("773"))
    for code, reason in (("533", "account-disabled"), ("52e", "password"), ("530", "logon-hours"), ("775", "account-locked"), ("701", "account-expired")):
        assert expired(code=code) << Refused(reason, detail=said(code))
    assert expired(raw=b"") << Refused("must-change-password", detail=said("773"))


def test_A23_nobody_is_told_who_can_not_be_found_or_types_no_code():
    quiet = Refused("must-change-password", detail=said("773"))
    assert expired() << Resolve("ann") >> NONE << quiet
    assert expired(typed=b"secret") << quiet


@pytest.mark.parametrize("broken", [DirectoryDown("the service account is locked"), CannotIdentify("no groups")])
def test_A23_what_a_service_account_can_not_say_is_no_other_answer(broken):
    quiet = Refused("must-change-password", detail=said("773"))
    assert expired() << Resolve("ann") >> broken << quiet
    admins = ruled(Rule("admins", "refuse", groups=(ADMINS,)), policy=TELLS)
    assert expired(admins) << Resolve("ann") >> ANN << FindGroups(ANN, (ADMINS,)) >> broken << quiet


def test_A23_nobody_is_told_whom_the_rules_ask_for_no_factor():
    quiet = Refused("must-change-password", detail=said("773"))
    for rule in (Rule("trusted", "password-only"), Rule("closed", "refuse")):
        assert expired(ruled(rule, policy=TELLS)) << Resolve("ann") >> ANN << quiet
    exempt = dataclasses.replace(TELLS, exempt=[Exempt("ann", None, "main")])
    play = Procedure(unthrottled(Attempt("someone", Secret(b"secret123456"), "main", HOME, FORM, exempt, NOW)))
    play = play << RecallName("someone") >> Remembered(Recall(enrolled=True)) << verify(b"secret") >> PasswordAnswer(49, said("773"), TOLD)
    assert play << Resolve("someone") >> ANN << quiet


def test_a_code_that_a_service_judges_is_shown_too():
    play = expired(TELLS_AND_ASKS) << Resolve("ann") >> ANN << LookUp(ANN, KINDS) >> NOBODY << VerifyAtService(ANN, "duo", CODE, Secret(b"secret"))
    assert play >> Answered(given=True) << Refused("must-change-password", ANN, said("773"), TOLD)


def test_A24_an_outage_tells_nobody_anything():
    opens = dataclasses.replace(TELLS_AND_ASKS, services=(dataclasses.replace(DUO, opens=True),))
    play = expired(opens) << Resolve("ann") >> ANN << LookUp(ANN, KINDS) >> NOBODY << VerifyAtService(ANN, "duo", CODE, Secret(b"secret"))
    assert play >> Unreachable("away") << ServiceUnreachable


@pytest.mark.parametrize(
    ("groups", "reason"),
    [(frozenset(), None), (frozenset({ADMINS}), "admins"), (frozenset({"cn=gone,dc=x"}), "gone")],
)
def test_behind_an_approval_for_which_the_link_was_given_up_it_is_decided_anew(groups, reason):
    """Who was put into a group meanwhile that must show more, or that nobody lets in."""
    rules = (Rule("gone", "refuse", groups=("cn=gone,dc=x",)), Rule("admins", "factors", ("totp",), groups=(ADMINS,)))
    named = ("cn=gone,dc=x", ADMINS)
    play = known(ruled(*rules, policy=ASKS)) << FindGroups(ANN, named) >> frozenset() << LookUp(ANN, KINDS) >> NOBODY
    play = play << StartPrompt(ANN, Choice("duo"), Secret(b"secret")) >> Asked() << AwaitApproval()
    play = play >> Approval(given=True, parked=True) << verify(b"secret", "whole") >> YES << Identify() >> ANN
    play = play << FindGroups(ANN, named) >> groups
    if reason:
        assert play << Refused("rule", ANN, reason)
    else:
        assert play << Admit(ANN, "approved", "duo") >> NONE << Accepted(RAW, ANN, "approved", "duo")


def test_no_refusal_of_a_bind_behind_an_approval_is_told():
    policy = TELLS_AND_ASKS
    play = known(policy) << LookUp(ANN, KINDS) >> NOBODY << StartPrompt(ANN, Choice("duo"), Secret(b"secret")) >> Asked() << AwaitApproval()
    play = play >> Approval(given=True, parked=True) << verify(b"secret", "whole") >> PasswordAnswer(49, said("773"), TOLD)
    assert play << Refused("must-change-password", detail=said("773"))
