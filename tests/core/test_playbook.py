"""The playbook itself: what it takes for right, and how it says what is not."""

from __future__ import annotations

import gc
import sys

import pytest
from playbook import (
    NONE,
    Answer,
    Notice,
    Playbook,
    PlaybookError,
    Procedure,
    answer,
    bind,
    compare,
    entry,
    search,
    show,
    unbind,
)

from ldapmfa.core.secret import Secret
from ldapmfa.core.session import Close, DropDirectory, Relay, Report, Rules, Send, Session, StartLogin
from ldapmfa.wire import ldap


def session():
    return Session(Rules())


def test_a_conversation_as_written_is_true():
    assert (
        Playbook(session())
        >> search(1)
        << Answer(1, ldap.SEARCH_REQUEST, 50)
        >> search(2)
        << Answer(2, ldap.SEARCH_REQUEST, 50, "A bind must come first.")
        >> unbind(3)
        << (DropDirectory(), Close())
        >> search(4)
    )


@pytest.mark.parametrize(
    "written",
    [
        (),
        (Send, Send),
        (Close(),),
        (Report,),
        (Relay(search(1), 1),),
        (Send(b""),),
        (Answer(2, ldap.SEARCH_REQUEST, 50),),
        (Answer(1, ldap.BIND_REQUEST, 50),),
        (Answer(1, ldap.SEARCH_REQUEST, 49),),
        (Answer(1, ldap.SEARCH_REQUEST, 50, "other"),),
        (Answer(1, ldap.SEARCH_REQUEST, 50), Close()),
        (Close(), Answer(1, ldap.SEARCH_REQUEST, 50)),
    ],
)
def test_anything_else_is_not(written):
    with pytest.raises(PlaybookError):
        assert Playbook(session()) >> search(1) << written


def test_nothing_comes_before_the_first_event():
    with pytest.raises(PlaybookError):
        assert Playbook(session()) << Close()


def test_a_mismatch_is_shown_as_a_diff():
    with pytest.raises(PlaybookError) as raised:
        assert Playbook(session()) >> search(1) << Answer(1, 0x63, 49) >> unbind(2) << DropDirectory() << Close()
    assert str(raised.value).splitlines() == [
        "the playbook (-) is not what happened (+):",
        "  >> SearchRequest 1",
        "- << Send SearchDone 1 code=49 '...'",
        "+ << Send SearchDone 1 code=50 'A bind must come first.'",
        "  >> UnbindRequest 2",
        "  << DropDirectory()",
        "  << Close()",
    ]


def test_what_only_looks_alike_is_shown_in_full():
    with pytest.raises(PlaybookError, match=r"- << .*typed=Secret\(b'geheim'\).*\n\+ << .*typed=Secret\(b'secret'\)"):
        assert Playbook(session()) >> bind(1, "cn=a", "secret") << StartLogin(1, b"cn=a", Secret(b"geheim"))
    other = ldap.result(1, 0x63, 50, "A bind must come first.") + b""
    with pytest.raises(PlaybookError, match=r"Send\(raw="):
        assert Playbook(session()) >> search(1) << Send(other[:1] + b"\x81" + other[1:])


def test_a_playbook_that_is_never_checked_is_an_error(monkeypatch):
    unraisable = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    Playbook(session()) >> search(1)
    gc.collect()
    assert [type(one.exc_value) for one in unraisable] == [PlaybookError]
    assert "never checked" in str(unraisable[0].exc_value)


def test_a_procedure_is_asked_and_answered():
    def ask():
        first = yield "first"
        try:
            yield first
        except ValueError:
            none = yield "second"
        if none is None:
            raise KeyError("end")

    assert Procedure(ask()) << "first" >> 1 << 1 >> ValueError("x") << "second" >> NONE << KeyError
    assert Procedure(iter_one()) << int >> 5 << "end"
    with pytest.raises(PlaybookError, match="has ended"):
        assert Procedure(iter_one()) << 1 >> 5 << "end" >> 6
    with pytest.raises(PlaybookError):
        assert Procedure(iter_one()) << 2


def iter_one():
    yield 1
    return "end"


def test_a_notice_is_an_answer_to_nothing():
    assert Playbook(session()) >> b"GET " << Report << Notice(2) << DropDirectory() << Close()
    with pytest.raises(PlaybookError):
        assert Playbook(session()) >> b"GET " << Report << Notice(52) << DropDirectory() << Close()
    for octets in (b"\x30\x05", b"\x30\x80", b"", search(1), answer(1, 0x65, 50) + b"x"):
        assert not Answer(1, 0x63, 50).matches(Send(octets))
    assert not Answer(1, 0x63, 50).matches(Close())


def test_everything_can_be_shown():
    assert show(Relay(compare(7), 1)) == "Relay CompareRequest 7 answers=1"
    assert show(Relay(b"", 0, unsure=True)) == "Relay no octets answers=0 unsure"
    assert show(answer(1, 0x61, 0) + entry(2, "cn=x") + b"\x30\x05") == "BindResponse 1 code=0 '' + SearchEntry 2 + 30 05"
    assert show(b"GET / HTTP/1.1" * 5).endswith("... (70 octets)")
    assert show(Close) == "Close(...)"
    assert show(Close()) == "Close()"
