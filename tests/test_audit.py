"""Events as text: nothing from outside leaves its place, nothing is endless, nothing is secret."""

import json
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldapmfa import audit
from ldapmfa.audit import AccountChanged, ConnectionRefused, LoginEnded

HOSTILE = 'x\r\n<14>1 - - - - - -\x1b[2J\u2028\u202e\0\x85"]}'


def login(**changes):
    said = {
        "at": 1_700_000_000.25, "outcome": "refused", "reason": "wrong-code", "result": 49, "reference": "K7RT29XA",
        "listener": "ldaps", "client": "192.0.2.7", "name": "alice", "directory": "corp",
    }  # fmt: skip
    return LoginEnded(**said | changes)


def hostile(text=HOSTILE):
    names = ("reason", "reference", "listener", "client", "name", "directory", "detail", "application", "account", "dn")
    return login(**dict.fromkeys((*names, "factor"), text))


EVENTS = [
    login(),
    hostile(),
    AccountChanged(at=1.0, action="enrolled", account=HOSTILE, actor=HOSTILE, detail=HOSTILE),
    ConnectionRefused(at=1.0, listener="l", client=HOSTILE, reason=HOSTILE),
]


@pytest.mark.parametrize("event", EVENTS)
def test_A43_an_event_is_one_line_whatever_is_in_it(event):
    for text in (audit.as_json(event), audit.as_json(event, 300), audit.told(event)):
        assert text.isprintable()
    assert json.loads(audit.as_json(event))["event"] == type(event).__name__


def test_A43_no_event_has_a_field_for_a_secret():
    names = {field.name for kind in (LoginEnded, AccountChanged, ConnectionRefused) for field in fields(kind)}
    assert not [name for name in names if any(word in name for word in ("password", "secret", "code", "token", "key"))]


def test_a_line_has_the_time_in_words_and_in_numbers():
    said = json.loads(audit.as_json(login()))
    assert (said["timestamp"], said["at"]) == ("2023-11-14T22:13:20.250000Z", 1_700_000_000.25)


@given(st.text(max_size=3000), st.sampled_from([2048, 8192]))
def test_a_line_that_must_fit_does_whatever_is_in_it(text, octets):
    line = audit.as_json(hostile(text), octets - 80)
    assert line.isascii()
    assert len(line) <= octets - 80
    assert json.loads(line)["outcome"] == "refused"


def test_what_is_cut_says_so_and_what_fits_is_whole():
    cut = json.loads(audit.as_json(login(name="a" * 60_000), 2048))
    assert cut["name"] == "a" * 511 + audit.CUT
    assert cut["reference"] == "K7RT29XA"
    whole = json.loads(audit.as_json(login(name="a" * 60_000)))
    assert whole["name"] == "a" * 60_000
    assert json.loads(audit.as_json(login(name="a" * 512), 2048))["name"] == "a" * 512


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (login(), "login of alice refused (wrong-code) from 192.0.2.7 at ldaps, reference K7RT29XA"),
        (
            login(outcome="accepted", reason="code", reference="", dn="cn=alice", application="vpn"),
            "login of cn=alice accepted (code) from 192.0.2.7 at vpn",
        ),
        (
            AccountChanged(at=1.0, action="blocked", account="corp/guid:1", actor="ann", detail="lost phone"),
            "ann changed corp/guid:1: blocked: lost phone",
        ),
        (AccountChanged(at=1.0, action="enrolled", account="x", actor="ann"), "ann changed x: enrolled"),
        (ConnectionRefused(at=1.0, listener="l", client="c", reason="no TLS"), "client c turned away at l: no TLS"),
    ],
)
def test_a_sentence_for_people(event, words):
    assert audit.told(event) == words
