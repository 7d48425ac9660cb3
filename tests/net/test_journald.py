"""Audit events to journald, by its native protocol."""

import pytest
from net.receivers import Datagrams, closing, read_native

from ldapmfa import audit
from ldapmfa.audit import AccountChanged, ConnectionRefused, LoginEnded
from ldapmfa.net import journald
from ldapmfa.net.journald import Journald, datagram

LOGIN = LoginEnded(
    at=1_700_000_000.25, outcome="accepted", reason="code", result=0, reference="", listener="ldaps",
    client="192.0.2.7", name="alice", directory="corp", dn="cn=alice", application="vpn", factor="totp",
)  # fmt: skip


def test_each_part_is_a_field():
    fields = read_native(datagram(LOGIN))
    assert fields["MESSAGE"] == "login of cn=alice accepted (code) from 192.0.2.7 at vpn"
    assert (fields["PRIORITY"], fields["SYSLOG_IDENTIFIER"], fields["SYSLOG_FACILITY"]) == ("6", "ldapmfa", "10")
    ours = {name: str(value) for name, value in audit.as_dict(LOGIN).items()}
    assert {name: fields.get(f"LDAPMFA_{name.upper()}") for name in ours} == ours


def test_A43_a_name_forges_no_field():
    text = "alice\nPRIORITY=0\n_UID=0\nMESSAGE\n\x05\0\0\0\0\0\0\0hello\n"
    for event in (
        ConnectionRefused(at=1.0, listener="l", client=text, reason=text),
        AccountChanged(at=1.0, action=text, account=text, actor=text, detail=text),
    ):
        fields = read_native(datagram(event))
        assert fields["PRIORITY"] == "5"
        assert {name for name in fields if not name.startswith("LDAPMFA_")} == {
            "MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER", "SYSLOG_FACILITY"
        }  # fmt: skip


def test_a_value_of_several_lines_is_sent_with_its_length():
    assert read_native(journald._field("A", "one\ntwo=2\n") + journald._field("B", "x")) == {"A": "one\ntwo=2\n", "B": "x"}


def test_an_endless_name_fits_into_a_datagram(tmp_path):
    event = ConnectionRefused(at=1.0, listener="l", client="\U0001f600" * 60_000, reason="\n" * 60_000)
    with closing(Datagrams(tmp_path / "socket")) as server, closing(Journald(str(tmp_path / "socket"))) as ours:
        assert ours.write([event, LOGIN]) == 2
        assert [read_native(raw)["LDAPMFA_EVENT"] for raw in server.take(2)] == ["ConnectionRefused", "LoginEnded"]


def test_journald_that_begins_anew_is_found_again(tmp_path):
    path = tmp_path / "socket"
    with closing(Journald(str(path))) as ours:
        with pytest.raises(FileNotFoundError):
            ours.write([LOGIN])
        for _ in range(2):
            with closing(Datagrams(path)) as server:
                assert ours.write([LOGIN]) == 1
                assert len(server.take(1)) == 1
            with pytest.raises(OSError):
                ours.write([LOGIN])
        ours.close()


def test_journald_that_reads_nothing_is_not_waited_for_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(journald, "PATIENCE", 0.05)
    with closing(Datagrams(tmp_path / "socket")), closing(Journald(str(tmp_path / "socket"))) as ours:
        events = [LOGIN] * 10_000
        taken = ours.write(events)
        assert 0 < taken < 10_000
        with pytest.raises(TimeoutError):
            ours.write(events[taken:])
