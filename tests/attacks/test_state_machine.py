"""Attacks on the state machine, by the numbers of facts/attacks.md: the part that the session and the login decide.

What needs a running proxy, a directory or a store is tried elsewhere under the same numbers.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from ipaddress import ip_address, ip_network

import pytest
from playbook import (
    NONE,
    ORDINARY,
    Answer,
    Notice,
    Playbook,
    Procedure,
    abandon,
    answer,
    bind,
    control,
    delete,
    extended,
    message,
    modify,
    number,
    octets,
    read_root,
    sasl,
    search,
    start_tls,
    tlv,
    unbind,
    unthrottled,
)

from ldapmfa.core.identity import CannotIdentify, Identity, Unidentified
from ldapmfa.core.login import DirectoryRefusesService, ServiceUnreachable, login
from ldapmfa.core.policy import Exempt, Policy, Recall, ServiceRule
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
    MayTry,
    PasswordAnswer,
    RecallName,
    Refused,
    Remembered,
    Reuse,
    Reused,
    Standing,
    StartPrompt,
    Throttled,
    Unreachable,
    VerifyAtService,
    VerifyCode,
    VerifyPassword,
)
from ldapmfa.core.secret import CodeForm, Secret
from ldapmfa.core.session import (
    BeginTls,
    BindRefused,
    CancelLogin,
    ClientLeft,
    Close,
    DirectoryLeft,
    DropDirectory,
    LoginEnded,
    Relay,
    Report,
    Rules,
    Send,
    Session,
    StartLogin,
    State,
    StopRequested,
    TlsStarted,
)
from ldapmfa.wire import ber, ldap

YES = answer(1, 0x61, 0)
NO = answer(1, 0x61, 49)
CLOSED = (DropDirectory(), Close())
TURNED_AWAY = (Report, Notice(ldap.PROTOCOL_ERROR), *CLOSED)
WHO_AM_I = "1.3.6.1.4.1.4203.1.11.3"
MODIFY_PASSWORD = "1.3.6.1.4.1.4203.1.11.1"
CANCEL = "1.3.6.1.1.8"
FAST_BIND = "1.2.840.113556.1.4.1781"
START_TLS = ldap.OID_START_TLS


def fresh(rules=Rules(), **more):  # noqa: B008 - frozen
    return Playbook(Session(rules, **more))


def starts(name="cn=ann", typed="secret123456", message_id=1, controls=b""):
    return StartLogin(message_id, octets(name), Secret(octets(typed)), controls)


def bound(rules=Rules()):  # noqa: B008 - frozen
    play = fresh(rules)
    session = play.session
    assert play >> bind(1, "cn=ann", "secret123456") << starts() >> LoginEnded(True, YES) << Send(YES)
    return Playbook(session)


def relayed(commands):
    return b"".join(command.raw for command in commands if isinstance(command, Relay))


# -- A01


@pytest.mark.parametrize(
    "request_",
    [
        search(1, "dc=example"),
        search(1, "dc=example", scope=0),
        search(1, "", scope=1),
        search(1, "", scope=2),
        search(1, " ", scope=0),
        search(1, "", scope=0, where=tlv(0x87, b"cn")),
        search(1, "", scope=0, where=tlv(0xA2, tlv(0x87, b"objectClass"))),
        search(1, "", scope=0, where=tlv(0xA3, tlv(0x04, b"objectClass"), tlv(0x04, b"top"))),
        search(1, "", scope=0, where=tlv(0xA0, tlv(0xA3, tlv(0x04, b"DnsDomain"), tlv(0x04, b"x")), tlv(0xA3, tlv(0x04, b"User"), tlv(0x04, b"ann")))),
        read_root(1, attributes=["netlogon"]),
        read_root(1, attributes=["supportedLDAPVersion", "NETLOGON"]),
        read_root(1, attributes=["netlogon;x-option"]),
        read_root(1, attributes=[b"netlogon\0"]),
        read_root(1, control("1.2.840.113556.1.4.319", value=b"\x30\x05\x02\x01\x01\x04\x00")),
        read_root(1, control("1.2.3")),
        message(1, tlv(0x63)),
        *(request(1) for tag, request in ORDINARY.items() if tag != 0x63),
        extended(1, WHO_AM_I),
        extended(1, MODIFY_PASSWORD, b"\x30\x00"),
        extended(1, FAST_BIND),
        extended(1, CANCEL, tlv(0x30, number(1))),
    ],
)
def test_A01_nothing_but_the_root_dse_is_read_before_a_bind(request_):
    session = Session(Rules())
    [refusal] = session.receive(request_)
    tag = ldap.read_frame(request_, 0, 1000).tag
    assert Answer(1, tag, ldap.INSUFFICIENT_ACCESS_RIGHTS).matches(refusal)
    assert Playbook(session) >> read_root(2) << Relay(read_root(2), 1)


def test_A01_an_anonymous_bind_opens_nothing():
    assert fresh() >> bind(1, "", "") << Answer(1, 0x60, 0) >> search(2) << Answer(2, 0x63, 50) >> extended(3, WHO_AM_I) << Answer(3, 0x77, 50)


# -- A02, A06, A07, A08


def test_A02_a_failed_factor_leaves_nobody_and_no_link():
    """Service bind, then a user's with a bad code, then a search: neither identity is left."""
    assert (
        bound()
        >> search(2)
        << Relay(search(2), 1)
        >> bind(3, "cn=bob", "secret000000")
        << starts("cn=bob", "secret000000", 3)
        >> LoginEnded(False, NO)
        << DropDirectory()
        << Send(NO)
        >> search(4)
        << Answer(4, 0x63, 50)
        >> delete(5)
        << Answer(5, 0x4A, 50)
    )


def test_A06_a_factors_result_never_outlives_its_bind():
    assert (
        bound()
        >> bind(2, "cn=bob", "wrong123456")
        << starts("cn=bob", "wrong123456", 2)
        >> LoginEnded(False, NO)
        << DropDirectory()
        << Send(NO)
        >> search(3)
        << Answer(3, 0x63, 50)
    )
    session = bound().session
    for message_id, name in ((2, "cn=svc"), (3, "cn=ann")):
        assert Playbook(session) >> bind(message_id, name, "secret") << StartLogin >> LoginEnded(True, YES) << Send(YES)
        assert Playbook(session) >> search(9) << Relay(search(9), 1)
    assert Playbook(session) >> bind(4, "cn=ann", "secret") << starts("cn=ann", "secret", 4) >> search(5) >> LoginEnded(False, NO) << DropDirectory() << Send(NO) << Answer(5, 0x63, 50)


@pytest.mark.parametrize(
    "refused",
    [bind(2, "cn=ann", ""), bind(2, "cn=ann", "x", version=2), sasl(2, "PLAIN"), message(2, tlv(0x60)), bind(2, "", ""), bind(2, "cn=ann", "x", method=0x8A)],
)
def test_A06_any_bind_drops_the_identity_however_it_ends(refused):
    session = bound().session
    commands = session.receive(refused + search(3))
    assert DropDirectory() in commands
    assert relayed(commands) == b""
    assert Answer(3, 0x63, 50).matches(commands[-1])
    assert session.state is State.ANONYMOUS


def test_A07_sessions_know_nothing_of_each_other():
    victim = bound().session
    attacker = Session(Rules())
    for message_id in range(1, 4):
        assert Playbook(attacker) >> bind(message_id, "cn=ann", "guess") << StartLogin >> LoginEnded(False, NO) << DropDirectory() << Send(NO)
        assert Playbook(victim) >> search(message_id) << Relay(search(message_id), 1)
    assert Playbook(attacker) >> b"\xff" << TURNED_AWAY
    assert Playbook(victim) >> search(9) << Relay(search(9), 1)
    assert Playbook(Session(Rules())) >> search(9) << Answer(9, 0x63, 50)


def test_A08_there_is_no_first_bind_exemption():
    """Each connection's first bind is a login, and each login asks for the code."""
    identity = Identity("main", "guid:01", "cn=ann,dc=x", ("ann",))
    for _ in range(3):
        assert fresh() >> bind(1, "cn=ann", "secret") << starts(typed="secret")
        attempt = Attempt("cn=ann", Secret(b"secret"), "main", None, CodeForm(), Policy())
        play = Procedure(unthrottled(attempt)) << VerifyPassword >> PasswordAnswer(0, "", YES) << Identify() >> identity << LookUp(identity)
        assert play >> Standing(enrolled=True) << Refused("no-code", identity)


# -- A03, A04, A05


@pytest.mark.parametrize("accepted", [True, False])
@pytest.mark.parametrize("split", [True, False])
def test_A03_operations_behind_a_bind_are_held(accepted, split):
    behind = [search(2), modify(3), delete(4), extended(5, WHO_AM_I)]
    session = Session(Rules())
    parts = [bind(1, "cn=ann", "secret123456"), *behind]
    commands = [command for part in (parts if split else [b"".join(parts)]) for command in session.receive(part)]
    assert commands == [starts()]
    commands = session.handle(LoginEnded(accepted, YES))
    if accepted:
        assert commands == [Send(YES), *(Relay(one, 1) for one in behind)]
    else:
        assert relayed(commands) == b""
        assert commands[:2] == [DropDirectory(), Send(YES)]
        assert [Answer(message_id, tag, 50).matches(command) for command, message_id, tag in zip(commands[2:], (2, 3, 4, 5), (0x63, 0x66, 0x4A, 0x77), strict=True)] == [True] * 4


def test_A03_while_bound_a_new_bind_holds_too():
    """The old identity must not run what was sent behind the new bind."""
    session = bound().session
    commands = session.receive(search(2) + bind(3, "cn=bob", "secret123456") + delete(4))
    assert commands == [Relay(search(2), 1), starts("cn=bob", message_id=3)]
    assert relayed(session.handle(LoginEnded(False, NO))) == b""


@pytest.mark.parametrize(
    "behind",
    [search(2), search(1), delete(1), abandon(2, 1), extended(1, WHO_AM_I), start_tls(1), read_root(1), bind(2, "", ""), bind(1, "cn=ann", "secret123456"), unbind(2), unbind(1), message(2, tlv(0x61, number(0, 0x0A), tlv(0x04), tlv(0x04))), b"\x30\x80", b"\x30\x84"],
)
def test_A04_nothing_behind_a_bind_changes_how_its_answer_is_treated(behind):
    """Refused stays refused and nothing is relayed before; or the session ended, and the answer comes to nothing."""
    for accepted in (False, True):
        session = Session(Rules(starttls=True))
        commands = session.receive(bind(1, "cn=ann", "secret123456") + behind)
        assert commands[0] == starts()
        assert relayed(commands) == b""
        if session.state is State.CLOSED:
            assert CancelLogin() in commands
            assert session.handle(LoginEnded(accepted, YES)) == []
            assert session.receive(search(9)) == []
            continue
        assert session.state is State.BINDING
        commands = session.handle(LoginEnded(accepted, YES if accepted else NO))
        assert Send(YES if accepted else NO) in commands[:2]
        if not accepted:
            assert relayed(commands) in (b"", behind if behind == read_root(1) else b"")
            assert session.state is not State.BOUND


@pytest.mark.parametrize("second", [bind(2, "cn=bob", "secret123456"), bind(1, "cn=ann", "secret123456"), bind(2, "", ""), bind(2, "cn=ann", ""), sasl(2, "GSSAPI"), message(2, tlv(0x60))])
def test_A05_a_second_bind_while_one_is_pending_ends_the_session(second):
    assert fresh() >> bind(1, "cn=ann", "secret123456") << starts() >> second << BindRefused << CancelLogin() << TURNED_AWAY >> LoginEnded(True, YES) >> search(3)


def test_A05_a_message_id_may_be_used_again():
    assert bound() >> search(1) + search(1) << Relay(search(1) + search(1), 2)
    assert fresh() >> bind(1, "cn=ann", "secret123456") + search(1) << starts() >> LoginEnded(True, YES) << Send(YES) << Relay(search(1), 1)


def with_id(octets_of_id):
    return tlv(0x30, tlv(0x02, octets_of_id), search(1)[5:])


@pytest.mark.parametrize("message_id", [b"\0", b"\0\0", b"\xff", b"\x80\0\0\0", b"\0\x80\0\0\0", b"\0\0\0\0\1", b"", b"\x7f" + b"\xff" * 8])
def test_A05_a_message_id_that_is_none_ends_the_session(message_id):
    assert fresh() >> with_id(message_id) << TURNED_AWAY
    assert bound() >> with_id(message_id) << TURNED_AWAY
    assert fresh() >> bind(1, "cn=ann", "secret123456") << starts() >> with_id(message_id) << CancelLogin() << TURNED_AWAY


def test_A05_the_largest_message_id_passes():
    assert bound() >> with_id(b"\x7f\xff\xff\xff") << Relay(with_id(b"\x7f\xff\xff\xff"), 1)
    assert bound() >> with_id(b"\0\0\0\1") << Relay(with_id(b"\0\0\0\1"), 1)


# -- A09


@pytest.mark.parametrize("leaving", [ClientLeft(), unbind(2), b"\xff", bind(2, "cn=ann", "x"), DirectoryLeft()])
def test_A09_an_approval_that_comes_too_late_opens_nothing(leaving):
    session = Session(Rules())
    session.receive(bind(1, "cn=ann", "secret123456") + search(5))
    commands = session.receive(leaving) if isinstance(leaving, bytes) else session.handle(leaving)
    assert CancelLogin() in commands[:2]
    assert DropDirectory() in commands
    assert session.handle(LoginEnded(True, YES)) == []
    assert session.receive(search(6)) == []
    assert session.buffered == 0


# -- A10


def test_A10_an_abandon_is_never_answered_and_never_ends_a_bind():
    assert fresh() >> abandon(2, 1)
    assert fresh() >> bind(1, "cn=ann", "secret123456") + abandon(2, 1) << starts() >> abandon(3, 1) >> LoginEnded(True, YES) << Send(YES)
    assert bound() >> abandon(3, 2) << Relay(abandon(3, 2), 0, unsure=True)


def test_A10_a_cancel_is_the_users_own_operation():
    cancel = extended(3, CANCEL, tlv(0x30, number(2)))
    assert fresh() >> cancel << Answer(3, 0x77, 50)
    assert fresh() >> bind(1, "cn=ann", "secret123456") << starts() >> cancel >> LoginEnded(False, NO) << DropDirectory() << Send(NO) << Answer(3, 0x77, 50)
    assert bound() >> cancel << Relay(cancel, 1)


# -- A11

PAGED = control("1.2.840.113556.1.4.319", critical=True, value=tlv(0x30, number(1000), tlv(0x04, b"\0\xffcookie")))
HARMLESS = [
    PAGED,
    control("1.2.840.113556.1.4.473", value=tlv(0x30, tlv(0x30, tlv(0x04, b"cn")))),  # sort
    control("1.2.840.113556.1.4.801", critical=True, value=tlv(0x30, number(7))),  # SD flags
    control("1.2.840.113556.1.4.417"),  # show deleted
    control("1.2.840.113556.1.4.529", value=tlv(0x30, number(1))),  # extended DN
    control("1.2.840.113556.1.4.841", critical=True, value=tlv(0x30, number(1), number(0), tlv(0x04))),  # DirSync
    control("2.16.840.1.113730.3.4.1"),
    control("2.16.840.1.113730.3.4.180"),
    control("2.16.840.1.113730.3.4.2"),
]
PROXIED = ("2.16.840.1.113730.3.4.18", "2.16.840.1.113730.3.4.12")


def test_A11_controls_pass_byte_for_byte():
    for many in (*((one,) for one in HARMLESS), HARMLESS):
        assert bound() >> search(2, "dc=x", *many) << Relay(search(2, "dc=x", *many), 1)


@pytest.mark.parametrize("oid", PROXIED)
@pytest.mark.parametrize("critical", [True, False])
def test_A11_proxied_authorization_is_refused(oid, critical):
    proxied = control(oid, critical=critical, value=b"u:administrator")
    refused = Answer(2, 0x63, ldap.AUTHORIZATION_DENIED)
    for controls in ([proxied], [PAGED, proxied], [proxied, PAGED], [proxied, proxied]):
        assert bound() >> search(2, "dc=x", *controls) << refused
        assert fresh() >> bind(1, "cn=ann", "secret123456") + search(2, "dc=x", *controls) << starts() >> LoginEnded(True, YES) << Send(YES) << refused
    for tag, request in ORDINARY.items():
        arguments = ("cn=x", proxied) if tag in (0x63, 0x4A) else (proxied,)
        assert bound() >> request(2, *arguments) << Answer(2, tag, ldap.AUTHORIZATION_DENIED)
    assert bound() >> extended(2, WHO_AM_I, None, proxied) << Answer(2, 0x77, ldap.AUTHORIZATION_DENIED)
    assert bound() >> abandon(2, 1, proxied)
    assert fresh() >> bind(1, "cn=ann", "secret123456", proxied) << BindRefused << DropDirectory() << Answer(1, 0x60, ldap.AUTHORIZATION_DENIED)


def wide_control(oid, wide):
    """The control with all of its lengths in `wide` octets more than needed."""
    return tlv(0x30, tlv(0x04, oid, wide=wide), tlv(0x01, b"\xff", wide=wide), wide=wide)


@pytest.mark.parametrize("oid", [oid.encode() for oid in PROXIED])
def test_A11_proxied_authorization_is_refused_in_any_encoding(oid):
    """Lengths in long form are BER: read. What LDAP forbids ends the session: nothing of it is relayed."""
    operation = search(2)[5:]
    for wide in (1, 2, 3, 4):
        request = tlv(0x30, number(2), operation, tlv(0xA0, wide_control(oid, wide), wide=wide), wide=wide)
        assert bound() >> request << Answer(2, 0x63, ldap.AUTHORIZATION_DENIED)
    constructed = tlv(0x24, tlv(0x04, oid[:5]), tlv(0x04, oid[5:]))
    halves = tlv(0x04, oid[:5]) + tlv(0x04, oid[5:])
    for inside in (
        tlv(0x30, constructed),
        tlv(0x30, tlv(0x24, tlv(0x04, oid))),
        tlv(0x30, b"\x04\x80" + oid + b"\0\0"),
        b"\x30\x80" + tlv(0x04, oid) + b"\0\0",
        tlv(0x30, tlv(0x04, oid + b"\0")),
        tlv(0x30, tlv(0x04, b" " + oid)),
        tlv(0x30, tlv(0x04, oid.replace(b".18", b".018").replace(b".12", b".012"))),
        tlv(0x30, tlv(0x0C, oid)),
        tlv(0x30, tlv(0x06, b"\x60\x86\x48\x01\x86\xf8\x42\x03\x04\x12")),
        tlv(0x30, halves, tlv(0x01, b"\xff")),
        tlv(0x31, tlv(0x04, oid)),
        tlv(0x30, b"\x04\x85\0\0\0\0" + bytes([len(oid)]) + oid),
    ):
        assert bound() >> tlv(0x30, number(2), operation, tlv(0xA0, inside)) << TURNED_AWAY
    for behind in (tlv(0xA1, tlv(0x30, tlv(0x04, oid))), tlv(0xA0) + tlv(0xA0, tlv(0x30, tlv(0x04, oid))), b"\0\0", tlv(0x80, tlv(0x30, tlv(0x04, oid)))):
        assert bound() >> tlv(0x30, number(2), operation, behind) << TURNED_AWAY


@pytest.mark.parametrize("oid", PROXIED)
def test_A11_the_same_oid_as_text_passes(oid):
    where = tlv(0xA3, tlv(0x04, b"supportedControl"), tlv(0x04, oid.encode()))
    inside = tlv(0xA0, control(oid))
    for request in (
        search(2, "dc=x", where=where),
        search(2, f"cn={oid}", attributes=[oid]),
        search(2, inside, where=tlv(0xA3, tlv(0x04, b"cn"), tlv(0x04, inside))),
        search(2, "dc=x", control("1.2.840.113556.1.4.319", value=inside)),
        extended(2, WHO_AM_I, inside),
    ):
        assert bound() >> request << Relay(request, 1)


# -- A12


def test_A12_starttls_is_answered_by_us():
    for rules in (Rules(), Rules(starttls=True)):
        for request in (start_tls(2), extended(2, START_TLS, b"x"), start_tls(2, control("1.2.3", critical=True))):
            assert relayed(Session(rules).receive(request)) == b""
            commands = bound(rules).session.receive(request)
            assert relayed(commands) == b""
            assert BeginTls() not in commands


def test_A12_a_fast_bind_is_refused():
    for request in (extended(2, FAST_BIND), extended(2, FAST_BIND, b""), tlv(0x30, number(2), tlv(0x77, tlv(0x80, FAST_BIND.encode(), wide=4), wide=4), wide=4)):
        assert bound() >> request << Answer(2, 0x77, ldap.UNWILLING_TO_PERFORM)
        assert fresh() >> request << Answer(2, 0x77, 50)
    assert bound() >> extended(2, "1.3.6.1.1.19", b"x") << Answer(2, 0x77, ldap.UNWILLING_TO_PERFORM)


@pytest.mark.parametrize("oid", [FAST_BIND.encode(), START_TLS])
def test_A12_an_extended_operation_in_disguise_is_refused(oid):
    for inside in (
        tlv(0xA0, tlv(0x04, oid)),
        tlv(0x80, oid[:9]) + tlv(0x80, oid[9:]),
        tlv(0x80, oid + b"\0"),
        tlv(0x80, b" " + oid),
        tlv(0x81) + tlv(0x80, oid),
        tlv(0x80, b"1.2.3") + tlv(0x80, oid),
    ):
        assert bound() >> message(2, tlv(0x77, inside)) << Answer(2, 0x77, ldap.PROTOCOL_ERROR)
    assert bound() >> message(2, tlv(0x57, oid)) << TURNED_AWAY
    assert bound() >> message(2, tlv(0x77, b"\x80\x80" + oid + b"\0\0")) << Answer(2, 0x77, ldap.PROTOCOL_ERROR)


def test_A12_other_extended_operations_are_the_users_own():
    for oid in (WHO_AM_I, MODIFY_PASSWORD):
        assert fresh() >> extended(2, oid) << Answer(2, 0x77, 50)
        assert bound() >> extended(2, oid, b"x") << Relay(extended(2, oid, b"x"), 1)


# -- A13, A14, A15


@pytest.mark.parametrize("mechanism", ["GSSAPI", "GSS-SPNEGO", "DIGEST-MD5", "EXTERNAL", "NTLM", "PLAIN", "SCRAM-SHA-256", "", "plain"])
@pytest.mark.parametrize("credentials", [None, b"", b"NTLMSSP\0\1", b"admin\0ann\0secret123456"])
def test_A13_sasl_is_refused(mechanism, credentials):
    refused = (BindRefused(b"", "method", 7), DropDirectory(), Answer(2, 0x60, 7))
    request = sasl(2, mechanism, credentials)
    assert fresh() >> request << refused >> request << refused >> search(3) << Answer(3, 0x63, 50)
    assert bound() >> request << refused >> search(3) << Answer(3, 0x63, 50)
    assert fresh() >> request + bind(3, "cn=ann", "secret123456") << refused << starts(message_id=3)


@pytest.mark.parametrize("method", [0x89, 0x8A, 0x8B, 0x81, 0x82, 0xA0, 0xA4, 0x04, 0x30, 0xBE])
@pytest.mark.parametrize("name", ["", "cn=ann", "NTLM"])
def test_A14_unknown_authentication_choices_are_refused_and_the_client_may_go_on(method, name):
    refused = (BindRefused(octets(name), "method", 7), DropDirectory(), Answer(2, 0x60, 7))
    assert fresh() >> bind(2, name, b"NTLMSSP\0", method=method) << refused >> bind(3, "cn=ann", "secret123456") << starts(message_id=3)


ODD = [
    *(bind(1, "cn=ann", "secret123456", version=version) for version in (0, 1, 2, 4, 127, -1, 2**31 - 1)),
    message(1, tlv(0x60, number(3), tlv(0x04, b"cn=ann"), tlv(0x80, b"secret123456"), b"\0\0")),
    message(1, tlv(0x60, number(3), tlv(0x04, b"cn=ann"), tlv(0x80, b"secret123456"), tlv(0x80, b"other123456"))),
    message(1, tlv(0x60, tlv(0x04, b"cn=ann"), number(3), tlv(0x80, b"secret123456"))),
    message(1, tlv(0x60, number(3), tlv(0x80, b"secret123456"), tlv(0x04, b"cn=ann"))),
    message(1, tlv(0x60, number(3), tlv(0x0C, b"cn=ann"), tlv(0x80, b"secret123456"))),
    message(1, tlv(0x60, number(3), tlv(0x24, tlv(0x04, b"cn=ann")), tlv(0x80, b"secret123456"))),
    message(1, tlv(0x60, tlv(0x0A, b"\3"), tlv(0x04, b"cn=ann"), tlv(0x80, b"secret123456"))),
    message(1, tlv(0x60, tlv(0x02, b""), tlv(0x04, b"cn=ann"), tlv(0x80, b"secret123456"))),
    message(1, tlv(0x60, tlv(0x02, b"\0\0\0\0\3"), tlv(0x04, b"cn=ann"), tlv(0x80, b"secret123456"))),
    message(1, tlv(0x60, number(3), tlv(0x04, b"cn=ann"), b"\x80\x7fsecret123456")),
    message(1, tlv(0x60)),
]


@pytest.mark.parametrize("request_", ODD)
def test_A15_an_odd_bind_is_refused_and_starts_no_login(request_):
    session = Session(Rules())
    refused, dropped, answered = session.receive(request_)
    assert refused.code == ldap.PROTOCOL_ERROR
    assert dropped == DropDirectory()
    assert Answer(1, 0x60, ldap.PROTOCOL_ERROR).matches(answered)
    assert Playbook(session) >> bind(2, "cn=ann", "secret123456") << starts(message_id=2)


@pytest.mark.parametrize(
    "stream",
    [
        *(request + search(2) for request in ODD),
        bind(1, "cn=ann", "secret123456") + search(2) + delete(3),
        bind(1, "cn=ann", "secret123456") + bind(2, "cn=ann", "secret123456"),
        bind(1, "cn=ann", "secret123456") + unbind(2) + search(3),
        bind(1, "cn=ann", "secret123456") + b"\0",
        bind(1, "cn=ann", "") + bind(2, "", "") + bind(3, "cn=ann", "secret123456"),
        read_root(1) + sasl(2, "GSSAPI") + search(3),
        message(1, tlv(0x60, number(3), tlv(0x04, b"cn=ann"), tlv(0x80, b"secret123456")), b"\0\0") + search(2),
        b"\x30\x84\x7f\xff\xff\xff\x02\x01\x01",
    ],
)
def test_A15_every_split_has_the_same_outcome(stream):
    def outcome(*parts):
        session = Session(Rules())
        commands = [command for part in parts for command in session.receive(part)]
        return commands, session.handle(LoginEnded(True, YES)), session.state

    whole = outcome(stream)
    assert outcome(*(bytes([octet]) for octet in stream)) == whole
    for cut, other in itertools.combinations(range(len(stream) + 1), 2):
        assert outcome(stream[:cut], stream[cut:other], stream[other:]) == whole


# -- A16, A17, A18

ANN = Identity("main", "guid:01", "cn=ann,dc=x", ("ann",), "ann@x")
SVC = Identity("main", "guid:02", "cn=svc,dc=x", ("svc",))
EXEMPT = Policy([Exempt("cn=svc,dc=x"), Exempt("svc")], unenrolled="password-only")
COMMA = CodeForm(delimiter=b",")
WORDS = {b"push": "push", b"sms": "sms", b"ms": "entra", b"duo": "duo/push:D1"}
SUFFIX_OR_WORD, COMMA_OR_WORD = CodeForm(keywords=WORDS), CodeForm(delimiter=b",", keywords=WORDS)


@pytest.mark.parametrize("name", ["cn=ann", "cn=svc,dc=x", "svc", "\0", " "])
@pytest.mark.parametrize("form", [CodeForm(), COMMA])
def test_A16_a_name_without_a_password_is_refused(name, form):
    assert fresh(Rules(form=form)) >> bind(1, name, "") << BindRefused(octets(name), "empty-password", 53) << DropDirectory() << Answer(1, 0x60, 53)
    attempt = Attempt(name, Secret(b""), "main", None, form, EXEMPT)
    assert Procedure(unthrottled(attempt)) << Refused


NOTHING = [b"", b"\0", b"\0\0\0", b" ", b"    ", b"\t", b"\r\n", b" \0 "]


@pytest.mark.parametrize("name", ["cn=ann", "cn=svc,dc=x", "svc"])
@pytest.mark.parametrize(
    ("typed", "form"),
    [
        *((password + b"123456", CodeForm()) for password in NOTHING),
        *((password + b"12345678", CodeForm(digits=8)) for password in NOTHING),
        *((password + b"rc-abcd-efgh-2345", CodeForm()) for password in NOTHING),
        *((password + b",123456", COMMA) for password in NOTHING),
        *((password + b",rc-abcd-efgh-2345", COMMA) for password in NOTHING),
        *((password, form) for password in NOTHING for form in (CodeForm(), COMMA)),
        *((password + b",push", form) for password in NOTHING for form in (SUFFIX_OR_WORD, COMMA_OR_WORD)),
        *((word, form) for word in (b",PUSH", b",push1", b",duo", b" ,sms2") for form in (SUFFIX_OR_WORD, COMMA_OR_WORD)),
        (b"\x00secret123456", CodeForm()),
        (b"secret\x00123456", CodeForm()),
    ],
)
def test_A17_a_code_alone_never_becomes_an_empty_password(name, typed, form):
    """Nor one of blanks or NULs, for whoever binds; whatever is asked of whom, before or after."""
    assert fresh(Rules(form=form)) >> bind(1, name, typed) << BindRefused << DropDirectory() << Answer(1, 0x60, 53)
    assert Procedure(unthrottled(Attempt(name, Secret(typed), "main", None, form, EXEMPT))) << Refused("empty-password")


@pytest.mark.parametrize("typed", [b",push", b"push", b",", b",,", b"1", b"12345", b",12345"])
def test_A17_what_is_no_code_is_password_whole(typed):
    """Where there are no keywords: the directory sees the whole of it, and never an empty password."""
    for form in (CodeForm(), COMMA):
        assert fresh(Rules(form=form)) >> bind(1, "cn=ann", typed) << starts(typed=typed)
        assert Procedure(unthrottled(Attempt("cn=ann", Secret(typed), "main", None, form, Policy()))) << VerifyPassword(Secret(typed), "whole")


@pytest.mark.parametrize(
    ("typed", "form", "password", "code"),
    [
        (b"se,cret,123456", COMMA, b"se,cret", b"123456"),
        (b"secret,123456,654321", COMMA, b"secret,123456", b"654321"),
        (b"Summer202612345678", CodeForm(), b"Summer202612", b"345678"),
        (b"Summer2026,123456", CodeForm(), b"Summer2026,", b"123456"),
        (b"push,123456", COMMA, b"push", b"123456"),
        (b"rc-abcd-efgh-2345123456", CodeForm(), b"rc-abcd-efgh-2345", b"123456"),
        (b"secret,push,123456", COMMA_OR_WORD, b"secret,push", b"123456"),
        (b"secret,push123456", SUFFIX_OR_WORD, b"secret,push", b"123456"),
        (b",push,123456", COMMA_OR_WORD, b",push", b"123456"),
    ],
)
@pytest.mark.parametrize("policy", [Policy(), Policy(unenrolled="password-only")])
def test_A18_one_attempt_is_one_bind_and_a_wrong_code_stays_wrong(typed, form, password, code, policy):
    """Whatever the directory or the factor says, there is no second try with the password unsplit."""
    identity = Identity("main", "guid:01", "cn=ann,dc=x", ("ann",))
    for memory in (Remembered(Recall(codeless=True, enrolled=True)), Remembered(Recall(pending=True)), Remembered(Recall(codeless=True, enrolled=True), "cut")):
        attempt = Attempt("cn=ann,dc=x", Secret(typed), "main", None, form, policy)

        def play(attempt=attempt, memory=memory):
            return Procedure(unthrottled(attempt)) << RecallName("dn:cn=ann,dc=x") >> memory << VerifyPassword(Secret(password), "cut")

        assert play() >> PasswordAnswer(49, "", NO) << Refused("password")
        for result in ("wrong", "replayed"):
            assert play() >> PasswordAnswer(0, "", YES) << Identify() >> identity << VerifyCode(identity, Secret(code)) >> CodeAnswer(result) << Refused(f"{result}-code", identity)


ASKS = Policy(services=(ServiceRule("duo", ("push",), takes_codes=True), ServiceRule("entra", ("push", "sms"))))


@pytest.mark.parametrize(
    ("typed", "form", "password", "method"),
    [
        (b"secret,push", SUFFIX_OR_WORD, b"secret", "push"),
        (b"secret,push", COMMA_OR_WORD, b"secret", "push"),
        (b"secret,push,push", COMMA_OR_WORD, b"secret,push", "push"),
        (b"secret,123456,push", COMMA_OR_WORD, b"secret,123456", "push"),
        (b"secret123456,push", SUFFIX_OR_WORD, b"secret123456", "push"),
        (b"secret,push2", COMMA_OR_WORD, b"secret", "push"),
        (b",push,push", COMMA_OR_WORD, b",push", "push"),
    ],
)
@pytest.mark.parametrize("unenrolled", ["refuse", "password-only"])
def test_A18_a_password_that_ends_like_a_keyword_is_one_bind_and_one_prompt(typed, form, password, method, unenrolled):
    """What was cut off stays cut off: a wrong password isn't tried again whole, and after a no nobody else is asked."""
    attempt = Attempt("cn=ann,dc=x", Secret(typed), "main", None, form, dataclasses.replace(ASKS, unenrolled=unenrolled))
    for memory in (Remembered(Recall()), Remembered(Recall(enrolled=True)), Remembered(Recall(codeless=True), "whole")):

        def play(memory=memory):
            return Procedure(unthrottled(attempt)) << RecallName("dn:cn=ann,dc=x") >> memory << VerifyPassword(Secret(password), "cut")

        assert play() >> PasswordAnswer(49, "", NO) << Refused("password")
        asked = play() >> PasswordAnswer(0, "", YES) << Identify() >> ANN << LookUp(ANN) >> Standing(enrolled=True) << StartPrompt
        assert asked >> Answered(given=False, why="denied") << Refused("denied", ANN)


def test_A18_whole_or_cut_is_one_bind():
    """A name whose password ends like a keyword or a code, and that is remembered for it."""
    for typed, form in ((b"secret,push", SUFFIX_OR_WORD), (b"secret,123456", COMMA_OR_WORD)):
        attempt = Attempt("cn=ann,dc=x", Secret(typed), "main", None, form, ASKS)
        for memory in (Remembered(Recall(codeless=True)), Remembered(Recall(codeless=True), "cut")):
            play = Procedure(unthrottled(attempt)) << RecallName("dn:cn=ann,dc=x") >> memory << VerifyPassword(Secret(typed), "whole")
            assert play >> PasswordAnswer(49, "", NO) << Refused("password")
            play = Procedure(unthrottled(attempt)) << RecallName("dn:cn=ann,dc=x") >> memory << VerifyPassword
            play = play >> PasswordAnswer(0, "", YES) << Identify() >> ANN << LookUp(ANN) >> Standing(enrolled=False)
            assert play << StartPrompt >> Answered(given=False, why="denied") << Refused("denied", ANN)


def test_A18_taken_whole_there_is_one_bind_too():
    attempt = Attempt("cn=svc,dc=x", Secret(b"Summer202612"), "main", None, CodeForm(), EXEMPT)
    play = Procedure(unthrottled(attempt)) << RecallName("dn:cn=svc,dc=x") >> Remembered(Recall()) << VerifyPassword(Secret(b"Summer202612"), "whole")
    assert play >> PasswordAnswer(49, "", NO) << Refused("password")
    play = Procedure(unthrottled(attempt)) << RecallName("dn:cn=svc,dc=x") >> Remembered(Recall()) << VerifyPassword
    assert play >> PasswordAnswer(0, "", YES) << Identify() >> SVC << Admit(SVC, "exempt") >> NONE << Accepted(YES, SVC, "exempt")


# -- A26

HOME, AWAY = ip_address("10.0.0.1"), ip_address("192.0.2.1")
BARE = Identity("main", "dn:cn=root", "cn=root")
BARE_EXEMPT = Identity("main", "dn:cn=backup", "cn=backup")
STRICT = Policy([Exempt("cn=svc,dc=x", (ip_network("10.0.0.0/8"),)), Exempt("cn=backup")])
LAX = dataclasses.replace(STRICT, unenrolled="password-only")
BREAKDOWNS = [RuntimeError("broken"), CannotIdentify("broken"), TimeoutError(), ValueError(), KeyError("x")]
#: Every answer of every kind, where codes of our own are all there is ...
ANSWERS = {
    RecallName: [
        Remembered(recall, refused)
        for recall in (Recall(), Recall(codeless=True), Recall(codeless=True, enrolled=True), Recall(pending=True))
        for refused in (None, "cut", "whole")
    ],
    MayTry: [None, Throttled("wrong_passwords")],
    VerifyPassword: [PasswordAnswer(code, "", b"raw" + bytes([code])) for code in (0, 1, 10, 14, 32, 49, 50, 51, 52, 53, 80)],
    Identify: [ANN, SVC, BARE, BARE_EXEMPT, Unidentified("must-change-password"), Unidentified("not-a-user")],
    LookUp: [Standing(*flags) for flags in itertools.product((True, False), repeat=2)],
    VerifyCode: [CodeAnswer(result, "totp") for result in ("accepted", "wrong", "replayed", "locked", "not-enrolled")],
    Admit: [None],
}
ATTEMPTS = [
    Attempt(name, Secret(typed), "main", client, form, policy)
    for name, typed, client, form, policy in itertools.product(
        ["", "ann", "cn=svc,dc=x", "cn=backup"],
        [b"", b"secret", b"123456", b"secret123456", b"secret,123456", b"secretrc-abcd-efgh-jkmn"],
        [HOME, AWAY, None],
        [CodeForm(), CodeForm(delimiter=b",")],
        [STRICT, LAX],
    )
]
#: ... and where services ask: of answers that are treated alike there are fewer, for there are more questions.
RENAMED = dataclasses.replace(ANN, dn="cn=ann,ou=new,dc=x")
NOS = [Answered(given=False, why=why) for why in ("denied", "not-enrolled", "no-method", "wrong-code")]
SERVICE_ANSWERS = {
    RecallName: [Remembered(Recall()), Remembered(Recall(codeless=True))],
    MayTry: [None, Throttled("same wrong password again")],
    VerifyPassword: [PasswordAnswer(0, "", b"first"), PasswordAnswer(49, "", b""), PasswordAnswer(51, "", b"")],
    Identify: [ANN, RENAMED, SVC, BARE, Unidentified("not-a-user")],
    LookUp: [
        Standing(enrolled=False),
        Standing(enrolled=True),
        Standing(enrolled=False, locked=True),
        Standing(enrolled=False, method="code"),
        Standing(enrolled=False, method="entra/sms"),
        Standing(enrolled=False, sent="entra"),
        Standing(enrolled=True, sent="duo"),
    ],
    Reuse: [None, Reused("reused", "duo"), Reused("late-approval", "duo")],
    VerifyCode: [CodeAnswer("accepted", "totp"), CodeAnswer("wrong"), CodeAnswer("not-enrolled")],
    VerifyAtService: [Answered(given=True), *NOS, Unreachable("away")],
    StartPrompt: [Answered(given=True), *NOS, Asked(), Asked(shared=True), CodeIsSent(), Unreachable("away")],
    AwaitApproval: [Approval(given, parked) for given in (True, False) for parked in (True, False)],
    MayOpen: [True, False],
    Admit: [None],
}
SERVICES = (
    ServiceRule("duo", ("push",), takes_codes=True, opens=True),
    ServiceRule("entra", ("push", "sms"), takes_codes=True, opens=True),
)
HALF_OPEN = tuple(dataclasses.replace(rule, opens=rule.name == "duo", takes_codes=rule.name == "entra") for rule in SERVICES)
SERVICE_POLICIES = {
    "strict": dataclasses.replace(STRICT, services=SERVICES),
    "lax": dataclasses.replace(LAX, services=SERVICES),
    "reuses": dataclasses.replace(STRICT, services=SERVICES, reuses=True),
    "one closed": dataclasses.replace(LAX, services=HALF_OPEN),
    "another directory's": dataclasses.replace(LAX, services=(SERVICES[0], dataclasses.replace(SERVICES[1], directory="other"))),
}
SERVICE_ATTEMPTS = [
    Attempt(name, Secret(typed), "main", client, COMMA_OR_WORD, policy)
    for (name, client), typed, policy in itertools.product(
        [("ann", AWAY), ("cn=svc,dc=x", HOME)],
        [b"secret", b"secret,123456", b"secret,push", b"secret,ms2"],
        SERVICE_POLICIES.values(),
    )
    if name == "ann" or typed == b"secret,push"
]


def paths(one, all_answers, breakdowns, answers=()):
    """Every way that the login of `one` can go: (questions, answers, verdict or exception)."""
    generator = login(one)
    questions = []
    try:
        questions.append(next(generator))
        for said in answers:
            if isinstance(said, Exception):
                questions.append(generator.throw(said))
            else:
                questions.append(generator.send(said))
    except StopIteration as end:
        yield questions, answers, end.value
        return
    except Exception as raised:  # noqa: BLE001 - whatever it is, it is an end
        yield questions, answers, raised
        return
    for said in (*all_answers[type(questions[-1])], *breakdowns):
        yield from paths(one, all_answers, breakdowns, (*answers, said))


def order(questions):
    return [type(question) for question in questions if not isinstance(question, RecallName)]


@pytest.mark.parametrize("policy", [STRICT, LAX], ids=["strict", "lax"])
def test_A26_success_is_reached_in_one_way_only(policy):
    """The password, then the identity, then the code or an admission that the policy knows of."""
    ends = Counter()
    for one in ATTEMPTS:
        if one.policy is not policy:
            continue
        for questions, answers, end in paths(one, ANSWERS, BREAKDOWNS):
            ends[type(end)] += 1
            asked_of = dict(zip(map(type, questions), answers, strict=True)) if questions else {}
            assert len(asked_of) == len(questions), "nothing is asked twice: one bind at the directory for one attempt"
            broke = [answer for answer in answers if isinstance(answer, Exception)]
            if broke:
                assert end is broke[0], "what is broken stays broken"
                continue
            assert order(questions) in (
                [],
                [MayTry],
                [MayTry, VerifyPassword],
                [MayTry, VerifyPassword, Identify],
                [MayTry, VerifyPassword, Identify, VerifyCode],
                [MayTry, VerifyPassword, Identify, Admit],
                [MayTry, VerifyPassword, Identify, LookUp],
                [MayTry, VerifyPassword, Identify, LookUp, Admit],
            )
            check_order(one, questions, answers)
            if isinstance(end, Accepted):
                check_success(one, questions, answers, end)
            else:
                assert isinstance(end, Refused | DirectoryRefusesService)
    assert set(ends) == {Accepted, Refused, DirectoryRefusesService, *map(type, BREAKDOWNS)}
    assert ends[Accepted] > 100


@pytest.mark.parametrize("policy", SERVICE_POLICIES.values(), ids=SERVICE_POLICIES)
def test_A26_success_is_reached_in_one_way_only_where_services_ask(policy):
    """All answers to all questions, in every order there is: nobody is let in without a yes, or what the policy allows."""
    ends, reasons, broken = Counter(), Counter(), RuntimeError("broken")
    for one in SERVICE_ATTEMPTS:
        if one.policy is not policy:
            continue
        for questions, answers, end in paths(one, SERVICE_ANSWERS, [broken]):
            ends[type(end)] += 1
            if broken in answers:
                assert end is broken, "what is broken stays broken"
                continue
            check_order(one, questions, answers)
            if isinstance(end, Accepted):
                reasons[end.reason] += 1
                check_success(one, questions, answers, end)
            else:
                assert isinstance(end, Refused | DirectoryRefusesService | ServiceUnreachable)
    assert set(ends) == {Accepted, Refused, DirectoryRefusesService, ServiceUnreachable, RuntimeError}
    lax = {"password-only"} if policy.unenrolled == "password-only" else set()
    assert set(reasons) == {"exempt", "code", "approved", "failed-open", "reused", "late-approval"} | lax


ABOUT = (LookUp, Reuse, VerifyCode, VerifyAtService, StartPrompt, Admit)
ONCE = (RecallName, MayTry, LookUp, VerifyCode, AwaitApproval, Admit)


def check_order(one, questions, answers):
    """Each question comes after what it rests on, about whoever was bound, and none after a no."""
    identity, binds, looks, asked = None, [], 0, set()
    pending = parked = over = may = False
    for question, said in zip(questions, answers, strict=True):
        assert not over, "after a no, or what is recorded, nothing is asked"
        if pending:
            assert isinstance(question, AwaitApproval | VerifyPassword | Identify | Reuse | Admit), "once somebody is asked, nobody else is"
        match question:
            case MayTry(name, password):
                assert name == one.normalised_name
                may = password
            case VerifyPassword(password):
                assert password == may, "it was asked whether this very one may be tried"
                assert password
                assert one.typed.reveal().startswith(password.reveal())
                assert one.name
                assert not binds or question == binds[0], "the same password, and not what was cut off it"
                assert not binds or parked, "one bind at the directory, but behind an approval without a link"
                binds.append(question)
            case Identify():
                looks += 1
                assert looks == len(binds)
                identity = said
            case StartPrompt(_, choice, password):
                assert choice.service not in asked, "nobody is asked twice"
                assert password == binds[0].password
                asked.add(choice.service)
                pending = isinstance(said, Asked)
            case VerifyAtService(_, service, code, password):
                assert service not in asked, "a code is shown to nobody twice"
                assert password == binds[0].password
                assert one.typed.reveal() == password.reveal() + b"," + code.reveal()
                asked.add(service)
            case AwaitApproval():
                assert pending
                parked = said.given and said.parked
        if isinstance(question, ABOUT):
            assert isinstance(identity, Identity)
            assert question.identity is identity
        over = is_last(one, question, said)
    kinds = Counter(map(type, questions))
    assert max(kinds[VerifyPassword], kinds[Identify], kinds[Reuse]) <= 2
    assert all(kinds[kind] <= 1 for kind in ONCE)
    assert sum(map(bool, (kinds[VerifyCode], kinds[VerifyAtService], kinds[StartPrompt]))) <= 1, "what was typed is one thing"


def is_last(one, question, said):
    """Whether this answer must be the last: a no, or a success that is recorded."""
    match question, said:
        case MayTry(), throttled:
            return throttled is not None
        case VerifyPassword(), PasswordAnswer(code):
            return code != 0
        case (Identify(), Unidentified()) | (StartPrompt(), CodeIsSent()) | (Reuse(), Reused()) | ((VerifyCode() | Admit()), _):
            return True
        case StartPrompt(), Answered(False, why):
            return why not in ("not-enrolled", "no-method")
        case VerifyAtService(), Answered(False, why):
            return why != "not-enrolled"
        case AwaitApproval(), Approval(given):
            return not given
        case MayOpen(), may:
            return not may
        case LookUp(), Standing(locked=locked):
            return locked and bool(one.policy.services)  # without services it is the store that looks, at a code
    return False


def check_success(one, questions, answers, end):
    """Of all that was asked and answered, this is enough."""
    said_to = dict(zip(map(type, questions), answers, strict=True))
    binds = [said for said in answers if isinstance(said, PasswordAnswer)]
    found = [said for said in answers if isinstance(said, Identity)]
    identity, last, said = found[-1], questions[-1], answers[-1]
    assert len(binds) == len(found)
    assert all(bind.code == 0 for bind in binds)
    assert {each.key for each in found} == {identity.key}
    assert end.identity is identity
    assert end.answer == binds[-1].raw
    assert identity.has_entry or is_exempt(one, identity)
    if isinstance(last, VerifyCode):
        assert said.result == "accepted"
        assert one.typed.reveal().endswith(last.code.reveal())
        assert (end.reason, end.factor) == ("code", "totp")
    elif isinstance(last, Reuse):
        assert one.policy.reuses or said_to[StartPrompt] == Asked(shared=True)
        assert (end.reason, end.factor) == (said.reason, said.factor)
    else:
        assert isinstance(last, Admit)
        assert (end.reason, end.factor) == (last.reason, last.factor)
        check_admission(one, questions, answers, said_to)


def is_exempt(one, identity):
    return identity is BARE_EXEMPT or (identity is SVC and one.client is HOME)


def check_admission(one, questions, answers, said_to):
    """What is recorded as a success is one, by what was answered just before."""
    last, before, yes = questions[-1], questions[-2], answers[-2]
    asked = {
        question.choice.service if isinstance(question, StartPrompt) else question.service: said
        for question, said in zip(questions, answers, strict=True)
        if isinstance(question, StartPrompt | VerifyAtService)
    }
    strangers = {name for name, said in asked.items() if isinstance(said, Answered) and said.why == "not-enrolled"}
    may_know = [rule for rule in one.policy.services if rule.directory in (None, "main") and rule.name not in strangers]
    standing = said_to.get(LookUp, Standing(enrolled=False))
    match last.reason, before:
        case "exempt", Identify():
            assert is_exempt(one, yes)
        case "code", VerifyAtService(_, service):
            assert (yes, last.factor) == (Answered(given=True), service)
            announced = standing.sent if standing.sent in one.policy.serve("main") else None
            assert announced == service or not (announced or standing.enrolled)
        case "approved", StartPrompt(_, choice):
            assert (yes, last.factor) == (Answered(given=True), choice.service)
        case "approved", AwaitApproval() | Identify():
            approval = said_to[AwaitApproval]
            assert approval.given
            assert approval.parked == isinstance(before, Identify)
            assert asked[last.factor] == Asked(shared=False)
        case "failed-open", MayOpen():
            assert all(isinstance(said, Unreachable) for name, said in asked.items() if name not in strangers)
            assert isinstance(asked[last.factor], Unreachable)
            assert all(rule.opens for rule in may_know)
            opened = [question.service for question, may in zip(questions, answers, strict=True) if may is True and isinstance(question, MayOpen)]
            assert opened == [rule.name for rule in may_know]
            assert not standing.enrolled
            assert not standing.sent
        case "password-only", LookUp() | StartPrompt():
            assert one.policy.unenrolled == "password-only"
            assert not standing.enrolled
            assert not may_know
        case _:
            pytest.fail(f"{last} behind {before}")


def test_A26_leaving_in_the_middle_ends_a_login():
    """The client left: the driver closes the generator at whichever question it waits."""
    one_breakdown = BREAKDOWNS[:1]
    for some, all_answers in ((ATTEMPTS[:: len(ATTEMPTS) // 40], ANSWERS), (SERVICE_ATTEMPTS[::9], SERVICE_ANSWERS)):
        for one in some:
            for questions, answers, _ in paths(one, all_answers, one_breakdown):
                generator = login(one)
                for step, _question in enumerate(questions):
                    if step == 0:
                        next(generator)
                    elif isinstance(answers[step - 1], Exception):
                        break
                    else:
                        generator.send(answers[step - 1])
                generator.close()
                with pytest.raises(StopIteration):
                    next(generator)


# -- A38, A39


STARTTLS = Rules(starttls=True, tls_required=True)
SECURED = (Answer(1, 0x77, 0, "", START_TLS), BeginTls())
INJECTED = [bind(2, "cn=evil", "secret123456"), search(2), unbind(2), read_root(2), start_tls(2), b"\x30", b"\0", b"\x16\x03\x01"]


@pytest.mark.parametrize("injected", INJECTED)
def test_A38_octets_behind_a_starttls_are_never_processed(injected):
    for rules in (STARTTLS, Rules(starttls=True)):
        assert fresh(rules) >> start_tls(1) + injected << TURNED_AWAY
        assert fresh(rules) >> start_tls(1) << SECURED >> injected << TURNED_AWAY
        session = Session(rules)
        assert session.receive(start_tls(1)[:-1]) == []
        assert Playbook(session) >> start_tls(1)[-1:] + injected << TURNED_AWAY


def test_A38_what_comes_inside_tls_is_processed():
    assert fresh(STARTTLS) >> start_tls(1) << SECURED >> TlsStarted() >> bind(2, "cn=ann", "secret123456") << starts(message_id=2)


def test_A38_starttls_twice_or_late_is_refused():
    late = Answer(2, 0x77, ldap.OPERATIONS_ERROR, oid=START_TLS)
    assert fresh(STARTTLS) >> start_tls(1) << SECURED >> TlsStarted() >> start_tls(2) << late
    assert fresh(STARTTLS, tls=True) >> start_tls(2) << late
    assert bound(Rules(starttls=True)) >> start_tls(2) << late
    assert fresh(Rules(starttls=True)) >> bind(1, "cn=ann", "secret123456") + start_tls(2) << starts() >> LoginEnded(True, YES) << Send(YES) << late


def test_A38_starttls_with_operations_outstanding_is_refused():
    late = Answer(2, 0x77, ldap.OPERATIONS_ERROR, oid=START_TLS)
    assert fresh(STARTTLS, quiet=lambda: False) >> start_tls(2) << late
    assert fresh(STARTTLS) >> read_root(1) + start_tls(2) << Relay(read_root(1), 1) << late


def test_A38_a_bind_in_clear_text_is_not_carried_into_tls():
    assert fresh(Rules(starttls=True)) >> bind(1, "cn=ann", "secret123456") + start_tls(2) << starts() >> LoginEnded(False, NO) << DropDirectory() << Send(NO) << TURNED_AWAY


@pytest.mark.parametrize(
    "request_",
    [bind(1, "cn=ann", "secret123456"), bind(1, "cn=ann", ""), bind(1, "cn=ann", "123456"), bind(1, "cn=svc,dc=x", "x"), bind(1, "", ""), bind(1, "", "x"), bind(1, "cn=ann", "x", version=2), sasl(1, "PLAIN", b"\0ann\0secret"), bind(1, "cn=ann", "x", control("2.16.840.1.113730.3.4.18"))],
)
def test_A39_a_clear_text_bind_is_refused_before_anything_looks_at_it(request_):
    rules = Rules(starttls=True, tls_required=True)
    session = Session(rules)
    refused, dropped, answered = session.receive(request_)
    assert (refused.reason, refused.code) == ("clear-text", ldap.CONFIDENTIALITY_REQUIRED)
    assert dropped == DropDirectory()
    assert Answer(1, 0x60, ldap.CONFIDENTIALITY_REQUIRED).matches(answered)
    assert session.state is State.ANONYMOUS
    assert Session(rules, tls=True).receive(request_)[0] != refused


# -- A42, the notices


def test_A42_the_directorys_own_notice_is_not_followed_by_another():
    assert bound() >> DirectoryLeft(noticed=True) << CLOSED
    assert bound() >> DirectoryLeft() << Report << Notice(ldap.UNAVAILABLE) << CLOSED


@pytest.mark.parametrize("tag", [0x00, 0x30, 0x40, 0x43, 0x51, 0x57, 0x60 | 0x80, 0x61, 0x64, 0x65, 0x6A, 0x76, 0x78, 0x79, 0x7E, 0xC0, 0xE0])
def test_A42_an_unknown_operation_ends_the_session_with_a_notice(tag):
    request = message(5, tlv(tag, b"x"))
    assert fresh() >> request << TURNED_AWAY
    assert bound() >> search(2) + request << Relay(search(2), 1) << TURNED_AWAY
    assert fresh() >> bind(1, "cn=ann", "secret123456") << starts() >> request << CancelLogin() << TURNED_AWAY


def test_A42_a_notice_is_the_last_word_whenever_we_end_a_session():
    assert bound() >> StopRequested() << Notice(ldap.UNAVAILABLE) << CLOSED >> search(2)
    assert bound() >> DirectoryLeft() << Report << Notice(ldap.UNAVAILABLE) << CLOSED >> search(2)


# -- A11: controls where liblber looks for them

PROXIED = (b"2.16.840.1.113730.3.4.18", b"2.16.840.1.113730.3.4.12")


def _smuggled(oid):
    """Every request with the control as the last thing inside of its operation, or of a part of it."""
    control = ber.tlv(0xA0, ber.tlv(0x30, ber.tlv(4, oid), ber.tlv(1, b"\xff"), ber.tlv(4, b"dn:cn=admin")))
    text, pair = ber.tlv(4, b"cn=x"), ber.tlv(4, b"cn") + ber.tlv(4, b"x")
    values = ber.tlv(4, b"cn") + ber.tlv(0x31, ber.tlv(4, b"x"))
    head = text + bytes.fromhex("0a01020a0100020100020100010100")
    wanted = ber.tlv(0x30, ber.tlv(4, b"cn"))
    any_entry = ber.tlv(0x87, b"objectClass")
    yield ldap.SEARCH_REQUEST, head + any_entry + wanted + control
    yield ldap.SEARCH_REQUEST, head + ber.tlv(0xA3, pair, control) + wanted
    yield ldap.SEARCH_REQUEST, head + ber.tlv(0xA0, any_entry, ber.tlv(0xA8, pair, control)) + wanted
    yield ldap.SEARCH_REQUEST, head + ber.tlv(0xA2, any_entry, control) + wanted
    yield ldap.SEARCH_REQUEST, head + ber.tlv(0xA4, ber.tlv(4, b"cn"), ber.tlv(0x30, ber.tlv(0x80, b"x"), control)) + wanted
    yield ldap.SEARCH_REQUEST, head + ber.tlv(0xA9, ber.tlv(0x83, b"x"), control) + wanted
    yield ldap.SEARCH_REQUEST, head + any_entry + ber.tlv(0x30, ber.tlv(4, b"cn"), control)
    yield ldap.COMPARE_REQUEST, text + ber.tlv(0x30, pair) + control
    yield ldap.COMPARE_REQUEST, text + ber.tlv(0x30, pair, control)
    change = ber.tlv(0x0A, b"\x02") + ber.tlv(0x30, values)
    yield ldap.MODIFY_REQUEST, text + ber.tlv(0x30, ber.tlv(0x30, change)) + control
    yield ldap.MODIFY_REQUEST, text + ber.tlv(0x30, ber.tlv(0x30, change, control))
    yield ldap.MODIFY_REQUEST, text + ber.tlv(0x30, ber.tlv(0x30, change), control)
    yield ldap.ADD_REQUEST, text + ber.tlv(0x30, ber.tlv(0x30, values)) + control
    yield ldap.ADD_REQUEST, text + ber.tlv(0x30, ber.tlv(0x30, values, control))
    yield ldap.MODIFY_DN_REQUEST, text + text + ber.tlv(1, b"\xff") + control
    yield ldap.SEARCH_REQUEST, head + any_entry + wanted + control[:-1]


@pytest.mark.parametrize("oid", PROXIED)
def test_A11_proxied_authorization_inside_an_operation(oid):
    """liblber takes what lies behind the last field for the message's controls, whatever the lengths say."""
    for tag, content in _smuggled(oid):
        session = Session(Rules())
        session.state = State.BOUND
        commands = session.receive(ldap.message(2, ber.tlv(tag, content)))
        assert not [command for command in commands if isinstance(command, Relay)], (hex(tag), content)
        assert session.state is State.CLOSED


@pytest.mark.parametrize("oid", PROXIED)
def test_A11_the_same_oid_as_text_passes_in_every_request(oid):
    text, pair = ber.tlv(4, b"cn=x"), ber.tlv(4, b"cn") + ber.tlv(4, oid)
    values = ber.tlv(4, b"cn") + ber.tlv(0x31, ber.tlv(4, oid), ber.tlv(4, oid))
    head = text + bytes.fromhex("0a01020a0100020100020100010100")
    wanted = ber.tlv(0x30, ber.tlv(4, b"cn"), ber.tlv(4, oid))
    filters = (
        ber.tlv(0xA3, pair),
        ber.tlv(0xA0, ber.tlv(0xA2, ber.tlv(0xA5, pair)), ber.tlv(0xA1, ber.tlv(0xA6, pair), ber.tlv(0xA8, pair))),
        ber.tlv(0xA0),
        ber.tlv(0xA4, ber.tlv(4, b"cn"), ber.tlv(0x30, ber.tlv(0x80, oid), ber.tlv(0x81, oid), ber.tlv(0x82, oid))),
        ber.tlv(0xA9, ber.tlv(0x81, b"1.2.3"), ber.tlv(0x82, b"cn"), ber.tlv(0x83, oid), ber.tlv(0x84, b"\xff")),
        ber.tlv(0x87, b"cn"),
    )
    requests = [(ldap.SEARCH_REQUEST, head + each + wanted) for each in filters]
    change = ber.tlv(0x30, ber.tlv(0x0A, b"\x02"), ber.tlv(0x30, values))
    requests += [
        (ldap.COMPARE_REQUEST, text + ber.tlv(0x30, pair)),
        (ldap.MODIFY_REQUEST, text + ber.tlv(0x30, change, change)),
        (ldap.ADD_REQUEST, text + ber.tlv(0x30, ber.tlv(0x30, values))),
        (ldap.MODIFY_DN_REQUEST, text + ber.tlv(4, oid) + ber.tlv(1, b"\xff") + ber.tlv(0x80, b"dc=x")),
        (ldap.DELETE_REQUEST, oid),
    ]
    for tag, content in requests:
        raw = ldap.message(2, ber.tlv(tag, content))
        session = Session(Rules())
        session.state = State.BOUND
        assert session.receive(raw) == [Relay(raw, 1)], hex(tag)


def test_A41_binds_that_are_refused_at_once_come_to_an_end():
    session = Session(Rules(refused_binds=3))
    empty = bind(1, "cn=x", "")
    for _ in range(3):
        assert session.receive(empty)
        assert session.state is State.ANONYMOUS
    session.receive(empty)
    assert session.state is State.CLOSED
