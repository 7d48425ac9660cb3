"""One login: its order, its refusals, and every path there is. Who is asked, and for what: test_asking."""

from __future__ import annotations

import dataclasses
from ipaddress import ip_address, ip_network
from typing import get_args

import pytest
from playbook import NONE, Procedure, unthrottled

from ldapmfa.core.identity import Identity, Unidentified
from ldapmfa.core.login import DirectoryRefusesService, login, says_of_password
from ldapmfa.core.policy import Exempt, Policy, Recall
from ldapmfa.core.questions import (
    Accepted,
    Admit,
    Attempt,
    CodeAnswer,
    Identify,
    LookUp,
    MayTry,
    PasswordAnswer,
    RecallName,
    Refused,
    Remembered,
    Standing,
    Throttled,
    VerifyCode,
    VerifyPassword,
)
from ldapmfa.core.secret import CodeForm, Secret
from ldapmfa.core.throttle import Barred

ANN = Identity("main", "guid:01", "cn=ann,dc=x", ("ann",), "ann@x")
SVC = Identity("main", "guid:02", "cn=svc,dc=x", ("svc",))
BARE = Identity("main", "dn:cn=root", "cn=root")
BARE_EXEMPT = Identity("main", "dn:cn=backup", "cn=backup")
HOME, AWAY = ip_address("10.0.0.1"), ip_address("192.0.2.1")
STRICT = Policy([Exempt("cn=svc,dc=x", (ip_network("10.0.0.0/8"),)), Exempt("cn=backup")])
LAX = dataclasses.replace(STRICT, unenrolled="password-only")
RAW = b"the directory's own answer"
YES = PasswordAnswer(0, "", RAW)
NOTHING_HERE, ENROLLED_HERE = Standing(enrolled=False), Standing(enrolled=True)
NEW = Remembered(Recall())
ENROLLED = Remembered(Recall(codeless=True, enrolled=True))
CODELESS = Remembered(Recall(codeless=True))


def attempt(name="ann", typed=b"secret123456", client=HOME, form=CodeForm(), policy=STRICT):  # noqa: B008 - frozen
    return Attempt(name, Secret(typed), "main", client, form, policy)


def asked(*args, **more):
    """A login up to and without the first answer."""
    return Procedure(unthrottled(attempt(*args, **more)))


def verify(password, shape="cut"):
    return VerifyPassword(Secret(password), shape)


def cut(**more):
    """A login up to the question for the code."""
    return asked(**more) << RecallName("ann") >> ENROLLED << verify(b"secret") >> YES << Identify() >> ANN << VerifyCode(ANN, Secret(b"123456"))


def test_the_way_of_a_code():
    assert cut() >> CodeAnswer("accepted", "totp") << Accepted(RAW, ANN, "code", "totp")


@pytest.mark.parametrize(
    ("result", "reason"),
    [("wrong", "wrong-code"), ("replayed", "replayed-code"), ("locked", "locked"), ("not-enrolled", "not-enrolled")],
)
def test_a_code_may_be_refused(result, reason):
    assert cut() >> CodeAnswer(result) << Refused(reason, ANN)


def test_an_answer_that_is_none_breaks_the_login():
    assert cut() >> CodeAnswer("sure") << AssertionError


@pytest.mark.parametrize("code", [49, 10, 14, 19, 32, 34, 48, 50, 53, 255])
def test_a_wrong_password_asks_for_nothing_more(code):
    assert asked() << RecallName("ann") >> ENROLLED << verify(b"secret") >> PasswordAnswer(code, "data 52e", b"") << Refused("password", detail="data 52e")


@pytest.mark.parametrize("code", [1, 2, 8, 12, 13, 51, 52, 80])
def test_a_directory_that_can_not_answer_is_broken(code):
    assert asked() << RecallName("ann") >> ENROLLED << verify(b"secret") >> PasswordAnswer(code, "", b"") << DirectoryRefusesService


def test_an_account_that_must_not_log_in_is_refused_without_a_code():
    play = asked() << RecallName("ann") >> ENROLLED << verify(b"secret") >> YES << Identify()
    assert play >> Unidentified("other-domain", "why") << Refused("other-domain", detail="why")


def test_A22_whether_a_password_may_be_tried_is_asked_before_the_directory_is():
    """About what the directory would be shown, under the name in one spelling."""
    may = MayTry("ann", Secret(b"secret"))
    assert Procedure(login(attempt("ANN"))) << RecallName("ann") >> ENROLLED << may >> NONE << verify(b"secret")
    assert Procedure(login(attempt("ANN", b"secret"))) << may >> NONE << verify(b"secret", "whole")


@pytest.mark.parametrize("limit", get_args(Barred))
def test_A22_a_throttled_password_is_shown_to_nobody(limit):
    play = Procedure(login(attempt())) << RecallName("ann") >> ENROLLED << MayTry
    assert play >> Throttled(limit) << Refused("throttled", detail=limit)


@pytest.mark.parametrize(
    ("code", "text", "says"),
    [
        (0, "", True),
        (49, "", False),
        (49, "Invalid Credentials", False),
        (49, "80090308: LdapErr: DSID-0C0903A9, comment: AcceptSecurityContext error, data 52e, v1db1", False),
        (49, "80090308: LdapErr: DSID-0C0903A9, comment: AcceptSecurityContext error, data 525, v1db1", False),
        *(
            (49, f"80090308: LdapErr: DSID-0C0903A9, comment: AcceptSecurityContext error, data {code}, v1db1", True)
            for code in (530, 531, 532, 533, 701, 773)
        ),
        (49, "80090308: LdapErr: DSID-0C0903A9, comment: AcceptSecurityContext error, data 775, v1db1", None),
        *((code, "", False) for code in (32, 50, 53, 255)),
        (34, "", None),
        *((code, "", None) for code in (1, 2, 8, 12, 13, 51, 52, 80)),
    ],
)
def test_A22_what_an_answer_says_of_the_password(code, text, says):
    """Of an account that is locked the directory does not look at it; what is busy has not either."""
    assert says_of_password(PasswordAnswer(code, text, b"")) is says


def test_nobody_is_asked_about_a_name_that_is_none():
    assert asked("") << Refused("no-name")
    assert asked("a\0b") << Refused("no-name")


@pytest.mark.parametrize("typed", [b"", b"123456", b" 123456", b"\x00123456", b"se\0cret123456"])
def test_nobody_is_asked_about_a_password_that_is_none(typed):
    assert asked(typed=typed) << Refused("empty-password")


def test_names_are_remembered_in_one_spelling():
    assert attempt("CN=Ann , DC=x").normalised_name == "dn:cn=ann,dc=x"
    assert asked("EXAMPLE\\Ann") << RecallName("example\\ann") >> NEW << verify(b"secret")


def test_a_password_without_a_code_is_no_reason_to_remember():
    play = asked(typed=b"secret") << verify(b"secret", "whole") >> YES << Identify() >> ANN << LookUp(ANN)
    assert play >> ENROLLED_HERE << Refused("no-code", ANN)


def test_who_has_no_factor_is_refused_or_not():
    play = asked(typed=b"secret") << verify(b"secret", "whole") >> YES << Identify() >> ANN << LookUp(ANN)
    assert play >> NOTHING_HERE << Refused("not-enrolled", ANN)
    play = asked(typed=b"secret", policy=LAX) << verify(b"secret", "whole") >> YES << Identify() >> ANN << LookUp(ANN)
    assert play >> NOTHING_HERE << Admit(ANN, "password-only") >> NONE << Accepted(RAW, ANN, "password-only")


def test_an_exempt_account_needs_no_code():
    play = asked("svc", b"secret") << verify(b"secret", "whole") >> YES << Identify() >> SVC
    assert play << Admit(SVC, "exempt") >> NONE << Accepted(RAW, SVC, "exempt")
    play = asked("svc", b"secret", AWAY) << verify(b"secret", "whole") >> YES << Identify() >> SVC << LookUp(SVC)
    assert play >> NOTHING_HERE << Refused("not-enrolled", SVC)


def test_passwords_that_look_like_a_code_are_whole_where_no_code_is_expected():
    """Summer202612: an exempt account by its name, a password-only account by what its last success looked like."""
    whole = verify(b"Summer202612", "whole")
    play = asked("cn=svc,dc=x", b"Summer202612") << RecallName("dn:cn=svc,dc=x") >> NEW << whole >> YES << Identify() >> SVC
    assert play << Admit(SVC, "exempt") >> NONE << Accepted(RAW, SVC, "exempt")
    play = asked("ann", b"Summer202612", policy=LAX) << RecallName("ann") >> CODELESS << whole >> YES << Identify() >> ANN << LookUp(ANN)
    assert play >> NOTHING_HERE << Admit(ANN, "password-only") >> NONE << Accepted(RAW, ANN, "password-only")


def test_a_hint_can_only_cause_a_refusal():
    """The name of an exempt account, and somebody else is bound by it."""
    play = asked("cn=svc,dc=x") << RecallName("dn:cn=svc,dc=x") >> NEW << verify(b"secret123456", "whole") >> YES << Identify() >> ANN
    assert play << LookUp(ANN) >> ENROLLED_HERE << Refused("no-code", ANN)


def test_a_code_is_verified_even_where_none_is_needed():
    play = asked("svc") << RecallName("svc") >> NEW << verify(b"secret") >> YES << Identify() >> SVC
    assert play << VerifyCode(SVC, Secret(b"123456")) >> CodeAnswer("wrong") << Refused("wrong-code", SVC)


def test_an_account_without_an_entry_passes_only_where_exempt():
    for typed in (b"secret", b"secret123456"):
        play = asked("cn=root", typed, policy=LAX)
        if typed != b"secret":
            play = play << RecallName("dn:cn=root") >> NEW
        play = play << VerifyPassword >> YES << Identify() >> BARE
        assert play << Refused("no-entry", BARE)
    play = asked("cn=backup", b"secret") << verify(b"secret", "whole") >> YES << Identify() >> BARE_EXEMPT
    assert play << Admit(BARE_EXEMPT, "exempt") >> NONE << Accepted(RAW, BARE_EXEMPT, "exempt")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("80090308: LdapErr: DSID-0C0903A9, comment: AcceptSecurityContext error, data 52e, v1db1", "password"),
        ("80090308: LdapErr: DSID-0C090439, comment: AcceptSecurityContext error, data 773, v4563", "must-change-password"),
        ("80090308: LdapErr: DSID-0C0903A9, comment: AcceptSecurityContext error, data 533, v1db1", "account-disabled"),
        ("80090308: LdapErr: DSID-0C0903A9, comment: AcceptSecurityContext error, data 80090346, v1db1", "password"),
        ("data 533,", "password"),
        ("", "password"),
    ],
)
def test_active_directorys_sub_codes_name_the_reason(text, reason):
    """All are refusals; the record tells them apart."""
    refused = Refused(reason, detail=text)
    assert asked(typed=b"secret") << verify(b"secret", "whole") >> PasswordAnswer(49, text, b"") << refused
