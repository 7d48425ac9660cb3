"""Whom a login asks for the second factor, and what it makes of the answers: services, keywords, waiting, outages."""

from __future__ import annotations

import dataclasses
import itertools
from ipaddress import ip_address, ip_network

import pytest
from playbook import NONE, Procedure, unthrottled

from ldapmfa.core.identity import Identity, Unidentified
from ldapmfa.core.login import DirectoryRefusesService, ServiceUnreachable
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
    CodeIsSent,
    Identify,
    LookUp,
    MayOpen,
    PasswordAnswer,
    RecallName,
    Refused,
    Remembered,
    Reuse,
    Reused,
    Standing,
    StartPrompt,
    Unreachable,
    VerifyAtService,
    VerifyCode,
    VerifyPassword,
)
from ldapmfa.core.secret import CodeForm, Secret
from ldapmfa.errors import FactorDown, FactorUnreachable, StoreDown

ANN = Identity("main", "guid:01", "cn=ann,dc=x", ("ann",), "ann@x")
SVC = Identity("main", "guid:02", "cn=svc,dc=x", ("svc",))
BARE = Identity("main", "dn:cn=root", "cn=root")
BARE_EXEMPT = Identity("main", "dn:cn=backup", "cn=backup")
HOME, AWAY = ip_address("10.0.0.1"), ip_address("192.0.2.1")
RAW, NEW_RAW = b"the directory's own answer", b"the directory's answer to the second bind"
YES, NEW_YES = PasswordAnswer(0, "", RAW), PasswordAnswer(0, "", NEW_RAW)
NEW = Remembered(Recall())
NOTHING_HERE, ENROLLED_HERE = Standing(enrolled=False), Standing(enrolled=True)

DUO = ServiceRule("duo", ("push", "phone"), takes_codes=True)
ENTRA = ServiceRule("entra", ("push", "sms"))
RSA = ServiceRule("rsa", takes_codes=True)
SERVICES = (DUO, ENTRA, RSA)
KEYWORDS = CodeForm(
    delimiter=b",",
    keywords={b"push": "push", b"phone": "phone", b"sms": "sms", b"ms": "entra", b"tok": "rsa", b"duo": "duo/push:D1"},
)
ALONE = Policy([Exempt("cn=svc,dc=x", (ip_network("10.0.0.0/8"),)), Exempt("cn=backup")], services=(DUO,))
ALL = dataclasses.replace(ALONE, services=SERVICES)

GIVEN = Answered(given=True)


def no(why, detail=""):
    return Answered(given=False, why=why, detail=detail)


STRANGER, NO_METHOD = no("not-enrolled", "who?"), no("no-method", "no phone")


def lax(policy):
    return dataclasses.replace(policy, unenrolled="password-only")


def opening(*services):
    """A policy with these services, each of which lets its users in while it is away."""
    return dataclasses.replace(ALL, services=tuple(dataclasses.replace(one, opens=True) for one in services))


def attempt(typed=b"secret", policy=ALONE, name="ann", client=HOME):
    return Attempt(name, Secret(typed), "main", client, KEYWORDS, policy)


def verify(password, shape):
    return VerifyPassword(Secret(password), shape)


def bound(typed=b"secret", policy=ALONE, memory=NEW, **more):
    """A login up to the identity; what is typed behind a comma has been cut off."""
    play = Procedure(unthrottled(attempt(typed, policy, **more)))
    password, comma, _ = typed.partition(b",")
    if comma:
        play = play << RecallName("ann") >> memory
    play = play << verify(password, "cut" if comma else "whole")
    return play >> YES << Identify() >> ANN


def known(typed=b"secret", policy=ALONE, standing=NOTHING_HERE, **more):
    """A login up to what is known of the account."""
    return bound(typed, policy, **more) << LookUp(ANN) >> standing


def prompt(service, method="", device="", password=b"secret"):
    return StartPrompt(ANN, Choice(service, method, device), Secret(password))


def check(service, code=b"123456"):
    return VerifyAtService(ANN, service, Secret(code), Secret(b"secret"))


def admitted(play, reason, factor, answer=RAW, identity=ANN):
    return play << Admit(identity, reason, factor) >> NONE << Accepted(answer, identity, reason, factor)


# -- the owner is asked, and may take long


def pending(shared=False, policy=ALONE):
    """A login up to the question for the owner's answer."""
    return known(policy=policy) << prompt("duo") >> Asked(shared) << AwaitApproval()


def parked(shared=False):
    """A login whose link was given up while its approval was pending, up to the second bind."""
    return pending(shared) >> Approval(given=True, parked=True) << verify(b"secret", "whole")


def test_the_way_of_an_approval():
    assert admitted(pending() >> Approval(given=True), "approved", "duo")


def test_a_service_may_say_yes_at_once():
    assert admitted(known() << prompt("duo") >> GIVEN, "approved", "duo")


@pytest.mark.parametrize("was_parked", [False, True])
@pytest.mark.parametrize("why", ["denied", "fraud", "no-answer", "not-enrolled", "no-method"])
def test_an_approval_that_is_denied_is_a_refusal_and_nothing_more_is_asked(was_parked, why):
    """Whatever the reason: a question that was put is the only one."""
    play = pending(policy=ALL) >> Approval(given=False, parked=was_parked, why=why, detail="said no")
    assert play << Refused(why, ANN, "said no")


@pytest.mark.parametrize("broken", [FactorDown("no answer"), FactorUnreachable("gone"), TimeoutError(), StoreDown("gone")])
@pytest.mark.parametrize("policy", [ALONE, opening(*SERVICES)], ids=["closed", "open"])
def test_A24_an_approval_that_can_not_be_found_out_breaks_the_login(broken, policy):
    """Once the owner is asked nothing opens, and nobody else is asked."""
    assert pending(policy=policy) >> broken << type(broken)


def test_A26_an_approval_that_can_not_be_recorded_is_no_success():
    assert pending() >> Approval(given=True) << Admit >> OSError("the disk is gone") << OSError


def test_an_approved_login_that_was_parked_binds_again_and_the_new_answer_is_passed_on():
    assert admitted(parked() >> NEW_YES << Identify() >> ANN, "approved", "duo", NEW_RAW)


def test_an_account_that_was_renamed_meanwhile_is_the_same_account():
    renamed = dataclasses.replace(ANN, dn="cn=ann,ou=elsewhere,dc=x", accounts=("anna",), upn="anna@x")
    assert admitted(parked() >> NEW_YES << Identify() >> renamed, "approved", "duo", NEW_RAW, renamed)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    "other",
    [
        SVC,
        dataclasses.replace(ANN, id="guid:03"),
        dataclasses.replace(ANN, id="uuid:01"),
        dataclasses.replace(ANN, directory="other"),
        dataclasses.replace(ANN, id="dn:" + ANN.dn),
        BARE_EXEMPT,
    ],
    ids=["exempt", "recreated", "of another kind", "of another directory", "without an entry", "exempt, no entry"],
)
def test_A31_an_approval_is_worth_nothing_for_another_account(other, shared):
    """Recreated under the same name meanwhile (A32), exempt or not: the owner of the first one was asked."""
    assert parked(shared) >> NEW_YES << Identify() >> other << Refused("another-account", ANN, other.key)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("code", [49, 19, 53, 10])
def test_a_password_that_is_wrong_by_now_is_refused_however_it_was_approved(code, shared):
    assert parked(shared) >> PasswordAnswer(code, "data 52e", b"") << Refused("password", detail="data 52e")


def test_A35_an_account_that_was_disabled_meanwhile_is_refused():
    text = "80090308: LdapErr: DSID-0C0903A9, comment: AcceptSecurityContext error, data 533, v1db1"
    assert parked() >> PasswordAnswer(49, text, b"") << Refused("account-disabled", detail=text)


def test_an_account_that_must_not_log_in_by_now_is_refused():
    play = parked() >> NEW_YES << Identify()
    assert play >> Unidentified("must-change-password", "why") << Refused("must-change-password", detail="why")


@pytest.mark.parametrize("code", [1, 2, 8, 12, 13, 51, 52, 80])
def test_a_directory_that_can_not_answer_the_second_bind_breaks_the_login(code):
    assert parked() >> PasswordAnswer(code, "", b"") << DirectoryRefusesService


def test_a_second_bind_that_breaks_is_no_success():
    assert parked() >> OSError("gone") << OSError
    assert parked() >> NEW_YES << Identify() >> OSError("gone") << OSError


def test_an_exempt_account_is_asked_for_no_approval():
    play = Procedure(unthrottled(attempt(name="svc"))) << verify(b"secret", "whole") >> YES << Identify() >> SVC
    assert admitted(play, "exempt", None, identity=SVC)
    away = Procedure(unthrottled(attempt(name="svc", client=AWAY))) << verify(b"secret", "whole") >> YES << Identify() >> SVC
    away = away << LookUp(SVC) >> NOTHING_HERE << StartPrompt(SVC, Choice("duo"), Secret(b"secret"))
    assert away >> no("denied") << Refused("denied", SVC)


def test_an_account_without_an_entry_is_asked_for_no_approval():
    play = Procedure(unthrottled(attempt(name="cn=root"))) << verify(b"secret", "whole") >> YES << Identify() >> BARE
    assert play << Refused("no-entry", BARE)


def test_a_password_that_ends_in_digits_is_approved_whole_where_that_is_remembered():
    whole = verify(b"Summer,202612", "whole")
    remembered = Remembered(Recall(codeless=True))
    play = Procedure(unthrottled(attempt(b"Summer,202612"))) << RecallName("ann") >> remembered << whole >> YES << Identify() >> ANN
    play = play << LookUp(ANN) >> NOTHING_HERE << prompt("duo", password=b"Summer,202612") >> Asked() << AwaitApproval()
    play = play >> Approval(given=True, parked=True) << whole >> NEW_YES << Identify() >> ANN
    assert admitted(play, "approved", "duo", NEW_RAW)


def test_a_method_that_was_typed_is_cut_off_again_for_the_second_bind():
    play = known(b"secret,push") << prompt("duo", "push") >> Asked() << AwaitApproval() >> Approval(given=True, parked=True)
    assert admitted(play << verify(b"secret", "cut") >> NEW_YES << Identify() >> ANN, "approved", "duo", NEW_RAW)


def test_A20_a_locked_account_is_neither_asked_nor_verified():
    locked = Standing(enrolled=False, locked=True)
    for typed in (b"secret", b"secret,push", b"secret,123456"):
        for standing in (locked, dataclasses.replace(locked, enrolled=True), dataclasses.replace(locked, sent="duo")):
            assert known(typed, ALL, standing) << Refused("locked", ANN)


# -- who is asked, and how


def passes(play, *services, said=STRANGER):
    """These are asked by what was typed or is configured, and none of them can say."""
    for choice in services:
        play = play << StartPrompt(ANN, choice, Secret(b"secret")) >> said
    return play


def test_without_a_word_the_configured_order_is_asked():
    assert passes(known(policy=ALL), Choice("duo"), Choice("entra")) << Refused("no-code", ANN)
    reverse = dataclasses.replace(ALL, services=(ENTRA, DUO))
    assert passes(known(policy=reverse), Choice("entra"), Choice("duo")) << Refused("not-enrolled", ANN)


def test_a_preferred_method_is_asked_instead_of_the_configured_order():
    for method, choices in (
        ("entra", [Choice("entra")]),
        ("entra/sms", [Choice("entra", "sms")]),
        ("push", [Choice("duo", "push"), Choice("entra", "push")]),
        ("duo/phone:2", [Choice("duo", "phone", "2")]),
        ("gone", [Choice("duo"), Choice("entra")]),
        ("entra/phone", [Choice("duo"), Choice("entra")]),
    ):
        play = known(policy=ALL, standing=Standing(enrolled=False, method=method))
        assert passes(play, *choices) << Refused("no-code", ANN)


def test_a_keyword_is_asked_instead_of_the_preferred_method():
    for typed, choices in (
        (b"push", [Choice("duo", "push"), Choice("entra", "push")]),
        (b"PUSH", [Choice("duo", "push"), Choice("entra", "push")]),
        (b"sms", [Choice("entra", "sms")]),
        (b"phone2", [Choice("duo", "phone", "2")]),
        (b"ms", [Choice("entra")]),
        (b"duo", [Choice("duo", "push", "D1")]),
    ):
        for method in (None, "entra/sms", "duo", "code", "gone"):
            play = known(b"secret," + typed, ALL, Standing(enrolled=False, method=method))
            assert passes(play, *choices) << Refused("no-method", ANN)


def test_a_keyword_that_no_service_here_has_is_refused_and_nobody_is_asked():
    assert known(b"secret,sms") << Refused("no-method", ANN)
    assert known(b"secret,tok", ALL) << Refused("no-method", ANN)
    elsewhere = dataclasses.replace(ALL, services=(dataclasses.replace(DUO, directory="other"),))
    for policy in (elsewhere, lax(elsewhere)):
        play = known(b"secret,push", policy, memory=Remembered(Recall(enrolled=True)))
        assert play << Refused("no-method", ANN)


def test_a_keyword_that_belongs_to_the_password_names_no_method():
    """Its owner types another one behind it at first; or the name is remembered for a password that is no code's."""
    play = Procedure(unthrottled(attempt(b"secret,sms,push", ALL))) << RecallName("ann") >> NEW << verify(b"secret,sms", "cut") >> YES
    play = play << Identify() >> ANN << LookUp(ANN) >> NOTHING_HERE << prompt("duo", "push", password=b"secret,sms")
    assert play >> no("denied") << Refused("denied", ANN)
    whole = verify(b"secret,sms", "whole")
    remembered = Remembered(Recall(codeless=True), "cut")
    play = Procedure(unthrottled(attempt(b"secret,sms", ALL))) << RecallName("ann") >> remembered << whole >> YES
    play = play << Identify() >> ANN << LookUp(ANN) >> NOTHING_HERE << prompt("duo", password=b"secret,sms")
    assert play >> no("denied") << Refused("denied", ANN)


def test_a_keyword_is_obeyed_even_where_no_factor_is_needed():
    """As a code is verified; the exempt account's name was not typed as it is configured, so its password was cut."""
    play = Procedure(unthrottled(attempt(b"secret,push", name="svc"))) << RecallName("svc") >> NEW << verify(b"secret", "cut") >> YES
    play = play << Identify() >> SVC << LookUp(SVC) >> NOTHING_HERE << StartPrompt(SVC, Choice("duo", "push"), Secret(b"secret"))
    assert play >> no("denied") << Refused("denied", SVC)


def test_who_prefers_to_type_codes_is_never_asked():
    for standing in (Standing(enrolled=False, method="code"), Standing(enrolled=True, method="code")):
        for policy in (ALL, lax(ALL), opening(*SERVICES)):
            assert known(policy=policy, standing=standing) << Refused("no-code", ANN)


def test_services_of_other_directories_are_not_asked():
    mine, others = dataclasses.replace(ENTRA, directory="main"), dataclasses.replace(DUO, directory="other")
    policy = dataclasses.replace(ALONE, services=(others, mine))
    assert passes(known(policy=policy), Choice("entra")) << Refused("not-enrolled", ANN)
    assert known(b"secret,123456", policy) << VerifyCode(ANN, Secret(b"123456")) >> CodeAnswer("wrong") << Refused("wrong-code", ANN)
    only = dataclasses.replace(ALONE, services=(others,))
    assert known(policy=only) << Refused("not-enrolled", ANN)
    assert admitted(known(policy=lax(only)), "password-only", None)


def test_a_service_that_does_not_know_the_user_passes_on_to_the_next():
    for said in (STRANGER, NO_METHOD, Unreachable("away")):
        play = passes(known(policy=ALL), Choice("duo"), said=said) << prompt("entra")
        assert admitted(play >> Asked() << AwaitApproval() >> Approval(given=True), "approved", "entra")
        play = passes(known(policy=ALL), Choice("duo"), said=said) << prompt("entra")
        assert play >> no("denied", "no!") << Refused("denied", ANN, "no!")


@pytest.mark.parametrize("why", ["denied", "fraud", "locked-at-service", "throttled", "no-answer", "too-many-prompts", "asked-already", "no-user-name"])
def test_any_other_no_is_the_last_word(why):
    """A21: who is asked too often by one service is not asked by the next."""
    assert known(policy=lax(ALL)) << prompt("duo") >> no(why, "detail") << Refused(why, ANN, "detail")


def test_who_can_not_be_asked_like_this_is_told_so():
    assert passes(known(policy=lax(ALL)), Choice("duo"), Choice("entra"), said=NO_METHOD) << Refused("no-method", ANN, "no phone; no phone")
    play = passes(known(policy=lax(ALL)), Choice("duo"), said=NO_METHOD)
    assert passes(play, Choice("entra")) << Refused("no-method", ANN, "no phone")


@pytest.mark.parametrize("end", [Answered, Asked, CodeIsSent, Unreachable])
def test_an_answer_that_is_none_breaks_the_login(end):
    """Of the classes that may be answered here, the others; and things that are no answer."""
    values = {Answered: no("x"), Asked: Asked(), CodeIsSent: CodeIsSent(), Unreachable: Unreachable()}
    if end in (Asked, CodeIsSent):
        assert known(b"secret,123456", ALL) << check("duo") >> values[end] << AssertionError
    assert known() << prompt("duo") >> end << AssertionError
    assert known() << prompt("duo") >> True << AssertionError
    assert known(b"secret,123456", ALL) << check("duo") >> True << AssertionError


@pytest.mark.parametrize("given", ["true", "false", 1, None, ["yes"]])
def test_A25_only_true_is_a_yes(given):
    assert known() << prompt("duo") >> Answered(given, "denied") << Refused("denied", ANN)
    assert known(b"secret,123456") << check("duo") >> Answered(given, "denied") << Refused("denied", ANN)


# -- nobody knows the owner


def test_who_is_known_nowhere_is_treated_as_one_without_a_factor():
    """Which is what `unenrolled` says, when every service has said so; and a factor here is never passed over."""
    both = dataclasses.replace(ALL, services=(DUO, ENTRA))
    everywhere = (Choice("duo"), Choice("entra"))
    assert passes(known(policy=both), *everywhere) << Refused("not-enrolled", ANN)
    assert admitted(passes(known(policy=lax(both)), *everywhere), "password-only", None)
    assert passes(known(policy=lax(both), standing=ENROLLED_HERE), *everywhere) << Refused("no-code", ANN)
    typed = passes(known(b"secret,push", lax(both)), Choice("duo", "push"), Choice("entra", "push"))
    assert admitted(typed, "password-only", None)


def test_A08_what_is_typed_leads_to_nobody_who_does_not_know_the_owner():
    """Known at Duo: who types what only the others have, or nothing where codes are typed, is not let in for that."""
    both = lax(dataclasses.replace(ALL, services=(DUO, ENTRA)))
    for typed, choice in ((b"secret,sms", Choice("entra", "sms")), (b"secret,ms", Choice("entra"))):
        assert passes(known(typed, both), choice) << Refused("no-method", ANN)
    preferred = Standing(enrolled=False, method="entra")
    assert passes(known(policy=both, standing=preferred), Choice("entra")) << Refused("no-code", ANN)
    codes_too = lax(dataclasses.replace(ALL, services=(ENTRA, RSA)))
    assert passes(known(policy=codes_too), Choice("entra")) << Refused("no-code", ANN)
    assert known(policy=lax(dataclasses.replace(ALL, services=(RSA,)))) << Refused("no-code", ANN)


# -- codes


def test_a_code_is_of_the_factor_here_first():
    """No service hears of it, whatever becomes of it."""
    own = VerifyCode(ANN, Secret(b"123456"))
    for policy in (ALL, opening(*SERVICES)):
        for result in ("wrong", "replayed", "locked", "not-enrolled"):
            assert known(b"secret,123456", policy, ENROLLED_HERE) << own >> CodeAnswer(result) << Refused
        play = known(b"secret,123456", policy, ENROLLED_HERE) << own >> CodeAnswer("accepted", "totp")
        assert play << Accepted(RAW, ANN, "code", "totp")


def test_a_code_that_was_sent_is_verified_where_it_was_sent_from():
    """Before the factor here, though that service takes no other codes, and nowhere else."""
    for service, enrolled in itertools.product(("entra", "rsa"), (False, True)):
        sent = Standing(enrolled=enrolled, sent=service)
        assert admitted(known(b"secret,123456", ALL, sent) << check(service) >> GIVEN, "code", service)
        for why in ("wrong-code", "not-enrolled", "denied"):
            assert known(b"secret,123456", ALL, sent) << check(service) >> no(why) << Refused(why, ANN)


def test_any_other_code_goes_to_the_first_service_that_knows_the_user():
    assert admitted(known(b"secret,123456", ALL) << check("duo") >> GIVEN, "code", "duo")
    for said in (STRANGER, Unreachable("away")):
        assert admitted(known(b"secret,123456", ALL) << check("duo") >> said << check("rsa") >> GIVEN, "code", "rsa")
    for policy in (ALL, lax(ALL)):
        assert known(b"secret,123456", policy) << check("duo") >> STRANGER << check("rsa") >> STRANGER << Refused("not-enrolled", ANN)


@pytest.mark.parametrize("why", ["wrong-code", "replayed-code", "denied", "throttled", "no-method", "no-user-name"])
def test_A18_a_wrong_code_is_offered_to_nobody_else(why):
    assert known(b"secret,123456", lax(ALL)) << check("duo") >> no(why, "bad") << Refused(why, ANN, "bad")


def test_a_code_where_no_service_takes_any_is_of_a_factor_here():
    policy = dataclasses.replace(ALL, services=(ENTRA,))
    play = known(b"secret,123456", policy) << VerifyCode(ANN, Secret(b"123456"))
    assert play >> CodeAnswer("not-enrolled") << Refused("not-enrolled", ANN)


def test_A18_who_types_a_code_is_asked_for_it_alone():
    """A wrong code is no reason to ask the owner, nor a preferred method one to forget the code."""
    for method in (None, "push", "entra", "code"):
        play = known(b"secret,123456", ALL, Standing(enrolled=False, method=method))
        assert play << check("duo") >> no("wrong-code") << Refused("wrong-code", ANN)


def test_a_service_that_sends_codes_refuses_and_the_next_bind_carries_it():
    assert known(b"secret,sms", ALL) << prompt("entra", "sms") >> CodeIsSent() << Refused("code-sent", ANN, "entra")
    assert passes(known(policy=ALL), Choice("duo")) << prompt("entra") >> CodeIsSent() << Refused("code-sent", ANN, "entra")
    play = known(b"secret,123456", ALL, Standing(enrolled=False, sent="entra")) << check("entra") >> GIVEN
    assert admitted(play, "code", "entra")


def test_while_a_code_is_on_its_way_the_password_alone_asks_again():
    play = known(policy=ALL, standing=Standing(enrolled=False, sent="entra")) << prompt("duo") >> Asked() << AwaitApproval()
    assert admitted(play >> Approval(given=True), "approved", "duo")


def test_A26_a_code_that_can_not_be_recorded_is_no_success():
    assert known(b"secret,123456") << check("duo") >> GIVEN << Admit >> StoreDown("gone") << StoreDown


# -- what counts again

REUSED, LATE = Reused("reused", "duo"), Reused("late-approval", "duo")
AGAIN = dataclasses.replace(ALL, reuses=True)


@pytest.mark.parametrize("typed", [b"secret", b"secret,123456", b"secret,push"], ids=["alone", "code", "keyword"])
def test_A34_an_earlier_success_counts_only_behind_the_password_and_the_identity(typed):
    """And then nobody is asked, no code is verified, and it is recorded already."""
    for reused in (REUSED, LATE):
        assert bound(typed, AGAIN) << Reuse(ANN) >> reused << Accepted(RAW, ANN, reused.reason, "duo")
    assert bound(typed, AGAIN) << Reuse(ANN) >> StoreDown("gone") << StoreDown
    play = Procedure(unthrottled(attempt(typed, AGAIN)))
    if typed != b"secret":
        play = play << RecallName("ann") >> NEW
    assert play << VerifyPassword >> PasswordAnswer(49, "", b"") << Refused("password")


def test_without_one_the_login_goes_its_way():
    assert bound(policy=AGAIN) << Reuse(ANN) >> NONE << LookUp(ANN) >> NOTHING_HERE << prompt("duo") >> no("denied") << Refused("denied", ANN)
    play = bound(b"secret,123456", AGAIN) << Reuse(ANN) >> NONE << LookUp(ANN) >> NOTHING_HERE << check("duo")
    assert play >> no("wrong-code") << Refused("wrong-code", ANN)
    own = dataclasses.replace(AGAIN, services=())
    play = bound(b"secret,123456", own) << Reuse(ANN) >> NONE << VerifyCode(ANN, Secret(b"123456"))
    assert play >> CodeAnswer("replayed") << Refused("replayed-code", ANN)


def test_nothing_is_reused_where_that_is_off():
    assert bound() << LookUp(ANN) >> NOTHING_HERE << prompt("duo") >> no("asked-already") << Refused("asked-already", ANN)


def test_an_exempt_account_uses_nothing_up():
    play = Procedure(unthrottled(attempt(name="svc", policy=AGAIN))) << verify(b"secret", "whole") >> YES << Identify() >> SVC
    assert admitted(play, "exempt", None, identity=SVC)
    play = Procedure(unthrottled(attempt(name="cn=root", policy=AGAIN))) << verify(b"secret", "whole") >> YES << Identify() >> BARE
    assert play << Refused("no-entry", BARE)


def test_a_shared_prompt_counts_as_its_first_owner_used_it():
    """The yes was another bind's: this one needs what that left behind."""
    play = pending(shared=True) >> Approval(given=True) << Reuse(ANN)
    assert play >> REUSED << Accepted(RAW, ANN, "reused", "duo")
    assert pending(shared=True) >> Approval(given=True) << Reuse(ANN) >> LATE << Accepted(RAW, ANN, "late-approval", "duo")
    assert pending(shared=True) >> Approval(given=True) << Reuse(ANN) >> NONE << Refused("asked-already", ANN)
    assert pending(shared=True) >> Approval(given=False, why="no-answer") << Refused("no-answer", ANN)


def test_a_shared_prompt_is_worth_nothing_without_the_second_bind_of_a_login_that_was_parked():
    play = parked(shared=True) >> NEW_YES << Identify() >> ANN << Reuse(ANN) >> REUSED
    assert play << Accepted(NEW_RAW, ANN, "reused", "duo")
    assert parked(shared=True) >> NEW_YES << Identify() >> ANN << Reuse(ANN) >> NONE << Refused("asked-already", ANN)


# -- outages (A24)


def away(play, *choices):
    return passes(play, *choices, said=Unreachable("away"))


def test_A24_an_outage_is_closed_by_default():
    assert away(known(), Choice("duo")) << ServiceUnreachable
    assert away(known(policy=lax(ALONE)), Choice("duo")) << ServiceUnreachable
    assert known(b"secret,123456") << check("duo") >> Unreachable("away") << ServiceUnreachable


def test_A24_an_outage_opens_where_that_is_configured_and_says_so():
    policy = opening(DUO)
    play = away(known(policy=policy), Choice("duo")) << MayOpen("duo") >> True
    assert admitted(play, "failed-open", "duo")
    play = known(b"secret,123456", policy) << check("duo") >> Unreachable("away") << MayOpen("duo") >> True
    assert admitted(play, "failed-open", "duo")
    assert away(known(policy=policy), Choice("duo")) << MayOpen("duo") >> False << ServiceUnreachable
    assert away(known(policy=policy), Choice("duo")) << MayOpen("duo") >> True << Admit >> StoreDown("gone") << StoreDown


@pytest.mark.parametrize("typed", [b"secret", b"secret,push", b"secret,123456"], ids=["alone", "keyword", "code"])
@pytest.mark.parametrize("broken", [FactorDown("garbage"), FactorUnreachable("not told so"), TimeoutError()])
def test_A24_what_is_broken_never_opens(typed, broken):
    """Garbage, a 4xx, a bad certificate: raised at whichever question, before or behind an outage elsewhere."""
    policy = opening(*SERVICES)
    questions, _ = play(attempt(typed, policy), {RecallName: NEW, StartPrompt: Unreachable(), VerifyAtService: Unreachable(), MayOpen: True})
    assert [type(one) for one in questions][-3:] == [MayOpen, MayOpen, Admit]
    for step in range(len(questions)):
        asked, end = play(attempt(typed, policy), {RecallName: NEW, StartPrompt: Unreachable(), VerifyAtService: Unreachable(), MayOpen: True}, {step: broken})
        assert end is broken
        assert asked == questions[: step + 1]


def play(one, answers, instead=()):
    """The questions of a login and its end; answered by class, or `instead` at some steps."""
    answers = {VerifyPassword: YES, Identify: ANN, LookUp: NOTHING_HERE, Admit: None, **answers}
    generator, questions = unthrottled(one), []
    try:
        question = next(generator)
        while True:
            answer = answers[type(question)]
            if len(questions) in instead:
                answer = instead[len(questions)]
            elif callable(answer):
                answer = answer(question)
            questions.append(question)
            question = generator.throw(answer) if isinstance(answer, Exception) else generator.send(answer)
    except StopIteration as end:
        return questions, end.value
    except Exception as raised:  # noqa: BLE001 - whatever it is, it is an end
        return questions, raised


SAID = {"away": Unreachable("away"), "stranger": STRANGER, "no-method": NO_METHOD}


@pytest.mark.parametrize("typed", [b"secret", b"secret,push", b"secret,ms", b"secret,123456"], ids=["alone", "push", "one", "code"])
@pytest.mark.parametrize("standing", [NOTHING_HERE, ENROLLED_HERE, Standing(enrolled=False, sent="duo"), Standing(enrolled=False, method="entra")], ids=["new", "enrolled", "sent", "preferred"])
@pytest.mark.parametrize("unenrolled", ["refuse", "password-only"])
def test_A24_it_opens_only_if_everybody_who_may_know_the_owner_is_away_and_opens(typed, standing, unenrolled):
    """Every combination of what two services say, are configured to do, and may still do."""
    opened = 0
    for opens in itertools.product((False, True), repeat=2):
        services = tuple(
            dataclasses.replace(rule, takes_codes=True, opens=may) for rule, may in zip((DUO, ENTRA), opens, strict=True)
        )
        policy = dataclasses.replace(ALL, services=services, unenrolled=unenrolled)
        for duo, entra, *may_open in itertools.product(SAID, SAID, (False, True), (False, True)):
            said, may = {"duo": duo, "entra": entra}, dict(zip(("duo", "entra"), may_open, strict=True))
            asked = set()

            def begun(question, said=said, asked=asked):
                asked.add(question.choice.service)
                return SAID[said[question.choice.service]]

            def verified(question, said=said, asked=asked):
                asked.add(question.service)
                return SAID[said[question.service]]

            answers = {
                RecallName: NEW,
                LookUp: standing,
                StartPrompt: begun,
                VerifyAtService: verified,
                MayOpen: lambda question, may=may: may[question.service],
                VerifyCode: CodeAnswer("wrong"),
            }
            questions, end = play(attempt(typed, policy), answers)
            knowing = [name for name in said if not (name in asked and said[name] == "stranger")]
            down = any(said[name] == "away" for name in asked)
            expected = (
                down
                and not standing.enrolled
                and not standing.sent
                and all(policy.opens(name) and may[name] for name in knowing)
                and all(said[name] == "away" for name in knowing if name in asked)
            )
            assert (isinstance(end, Accepted) and end.reason == "failed-open") == expected, (said, opens, may)
            opened += expected
            if expected:
                assert questions[-1] == Admit(ANN, "failed-open", end.factor)
                assert said[end.factor] == "away"
            elif isinstance(end, Accepted):
                assert end.reason == "password-only"
                assert policy.unenrolled == "password-only"
                assert not knowing
                assert not standing.enrolled
            else:
                refused = typed.endswith(b"6") and any(said[name] == "no-method" for name in asked)
                assert isinstance(end, ServiceUnreachable if down and not refused else Refused)
    assert bool(opened) == (standing not in (ENROLLED_HERE, Standing(enrolled=False, sent="duo")))


def test_A24_nobody_is_let_in_by_naming_the_service_that_is_away():
    """Known at Duo, which is well: what is typed may leave it out, but the outage of another opens nothing."""
    for opens, well in ((False, True), (True, False)):  # closed; or open, and not known to be away
        services = (dataclasses.replace(DUO, opens=opens, takes_codes=False), *opening(ENTRA, RSA).services)
        policy = dataclasses.replace(ALL, services=services)
        for typed in (b"secret,sms", b"secret,ms", b"secret,000000"):
            answers = {RecallName: NEW, StartPrompt: Unreachable("away"), VerifyAtService: Unreachable("away"), MayOpen: lambda question, well=well: question.service != "duo" or well}
            _, end = play(attempt(typed, policy), answers)
            assert isinstance(end, ServiceUnreachable)


def test_an_outage_says_who_is_away():
    _, end = play(attempt(policy=ALL), {StartPrompt: lambda question: Unreachable(f"{question.choice.service}: no connection")})
    assert str(end) == "duo: no connection; entra: no connection"
