"""Audit events to a syslog server: strictly by RFC 5424, over each way."""

import json
import re
import socket
import ssl
import time
from contextlib import contextmanager

import pytest
from net.receivers import Datagrams, Stream, closing, read_rfc5424
from system.servers.common import make_certificates

from ldapmfa import audit
from ldapmfa.audit import AccountChanged, ConnectionRefused, LoginEnded
from ldapmfa.config.values import SyslogServer
from ldapmfa.net import rfc5424
from ldapmfa.net.rfc5424 import Syslog, message

LOGIN = LoginEnded(
    at=1_700_000_000.25, outcome="refused", reason="wrong-code", result=49, reference="K7RT29XA", listener="ldaps",
    client="192.0.2.7", name="alice", directory="corp",
)  # fmt: skip
CHANGE = AccountChanged(at=1.0, action="blocked", account="corp/guid:1", actor="ann")
FORGERY = "alice\n<80>1 2026-01-01T00:00:00Z h ldapmfa 1 LoginEnded - {}\r\x1b[2J\0\u2028"


def until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@contextmanager
def syslog(target, ca_file=None):
    with closing(Syslog(SyslogServer.parse(target), ca_file)) as server:
        yield server


class TestMessage:
    def test_rfc5424_section_6_the_parts_of_a_message(self):
        parts = read_rfc5424(message(LOGIN, "host", 2048))
        facility, severity, timestamp, host, application, process, kind, text = parts
        assert (facility, severity, timestamp) == (10, 5, "2023-11-14T22:13:20.250000Z")
        assert (host, application, kind) == ("host", "ldapmfa", "LoginEnded")
        assert process.isdigit()
        assert json.loads(text) == json.loads(audit.as_json(LOGIN))

    @pytest.mark.parametrize(
        ("outcome", "severity"), [("accepted", 6), ("refused", 5), ("broken", 4)]
    )
    def test_how_grave_a_login_is(self, outcome, severity):
        event = LoginEnded(**{name: getattr(LOGIN, name) for name in LOGIN.__slots__} | {"outcome": outcome})
        assert read_rfc5424(message(event, "-", 2048))[1] == severity
        assert read_rfc5424(message(CHANGE, "-", 2048))[1] == 5

    def test_A43_a_name_forges_no_message(self):
        event = ConnectionRefused(at=1.0, listener="l", client=FORGERY, reason=FORGERY)
        text = read_rfc5424(message(event, "h", 2048))[-1]
        assert json.loads(text)["client"] == audit.printable(FORGERY)

    @pytest.mark.parametrize("octets", [rfc5424.SHORT, rfc5424.LONG])
    def test_an_endless_name_makes_no_endless_message(self, octets):
        event = LoginEnded(
            **{name: getattr(LOGIN, name) for name in LOGIN.__slots__}
            | {"name": "\U0001f600" * 60_000, "dn": "cn=" + "x" * 60_000, "detail": "\n" * 60_000}
        )
        raw = message(event, "h" * 255, octets)
        assert len(raw) <= octets
        assert json.loads(read_rfc5424(raw)[-1])["reference"] == "K7RT29XA"

    @pytest.mark.parametrize(
        ("name", "shown"), [("node-1.example.com", "node-1.example.com"), ("n\u00f6de 1", "nde1"), ("", "-")]
    )
    def test_rfc5424_section_6_2_4_a_host_name_is_printable(self, monkeypatch, name, shown):
        monkeypatch.setattr(socket, "gethostname", lambda: name)
        assert rfc5424.host_name() == shown


class TestDatagrams:
    def test_rfc5426_each_message_is_a_datagram(self):
        with closing(Datagrams()) as server, syslog(f"udp://127.0.0.1:{server.port}") as ours:
            assert ours.write([LOGIN, CHANGE]) == 2
            kinds = [read_rfc5424(raw)[6] for raw in server.take(2)]
        assert kinds == ["LoginEnded", "AccountChanged"]

    def test_a_socket_of_this_machine(self, tmp_path):
        with closing(Datagrams(tmp_path / "log")) as server, syslog(f"unix:{tmp_path}/log") as ours:
            assert ours.write([LOGIN]) == 1
            assert read_rfc5424(server.take(1)[0])[6] == "LoginEnded"

    def test_a_socket_that_is_made_anew_is_found_again(self, tmp_path):
        with syslog(f"unix:{tmp_path}/log") as ours:
            with pytest.raises(FileNotFoundError):
                ours.write([LOGIN])
            for _ in range(2):
                with closing(Datagrams(tmp_path / "log")) as server:
                    assert ours.write([LOGIN]) == 1
                    assert len(server.take(1)) == 1
                with pytest.raises(OSError):
                    ours.write([LOGIN])


class TestStreams:
    def test_rfc6587_each_message_has_its_length_before_it(self):
        with closing(Stream()) as server, syslog(f"tcp://127.0.0.1:{server.port}") as ours:
            event = ConnectionRefused(at=1.0, listener="l", client=FORGERY, reason="9 <14>1")
            assert ours.write([LOGIN, event]) == 2
            until(lambda: len(server.messages()) == 2)
            assert [read_rfc5424(raw)[6] for raw in server.messages()] == ["LoginEnded", "ConnectionRefused"]

    def test_a_server_that_hung_up_is_connected_again_before_anything_is_lost(self):
        with closing(Stream()) as server, syslog(f"tcp://127.0.0.1:{server.port}") as ours:
            ours.write([LOGIN])
            until(server.messages)
            server.hang_up()
            until(lambda: rfc5424._ended(ours._socket))
            assert ours.write([CHANGE]) == 1
            until(lambda: server.messages(1))
            assert read_rfc5424(server.messages(1)[0])[6] == "AccountChanged"

    def test_a_server_that_talks_is_not_taken_for_one_that_hung_up(self):
        with closing(Stream()) as server, syslog(f"tcp://127.0.0.1:{server.port}") as ours:
            ours.write([LOGIN])
            until(lambda: server.connections)
            server.connections[0].sendall(b"hello")
            ours.write([CHANGE])
            until(lambda: len(server.messages()) == 2)

    def test_nobody_there(self):
        with closing(Stream()) as server:
            port = server.port
        with syslog(f"tcp://127.0.0.1:{port}") as ours, pytest.raises(ConnectionRefusedError):
            ours.write([LOGIN])

    def test_rfc5425_over_tls(self, tmp_path):
        ca_file = make_certificates(tmp_path)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
        with closing(Stream(context)) as server, syslog(f"tls://localhost:{server.port}", ca_file) as ours:
            assert ours.write([LOGIN]) == 1
            assert ours.write([CHANGE]) == 1
            until(lambda: len(server.messages()) == 2)
            assert [read_rfc5424(raw)[6] for raw in server.messages()] == ["LoginEnded", "AccountChanged"]
            with syslog(f"tls://localhost:{server.port}") as stranger, pytest.raises(ssl.SSLError):
                stranger.write([LOGIN])
            until(lambda: server.failures)
            assert len(server.received) == 1

    def test_A40_a_certificate_of_another_name_is_refused(self, tmp_path, monkeypatch):
        ca_file = make_certificates(tmp_path)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
        with closing(Stream(context)) as server:
            connect = socket.create_connection
            monkeypatch.setattr(
                socket, "create_connection", lambda _place, seconds: connect(("127.0.0.1", server.port), seconds)
            )
            refused = pytest.raises(ssl.SSLCertVerificationError, match=r"siem\.example\.com")
            with syslog("tls://siem.example.com:6514", ca_file) as ours, refused:
                ours.write([LOGIN])
            assert server.messages() == []


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("udp://siem", SyslogServer("udp", "siem", 514)),
        ("tcp://192.0.2.7", SyslogServer("tcp", "192.0.2.7", 601)),
        ("tls://siem.example.com/", SyslogServer("tls", "siem.example.com", 6514)),
        ("tls://[2001:db8::7]:99", SyslogServer("tls", "2001:db8::7", 99)),
        ("unix:/dev/log", SyslogServer("unix", path="/dev/log")),
        ("unix:///dev/log", SyslogServer("unix", path="/dev/log")),
    ],
)
def test_where_a_server_is(text, server):
    assert SyslogServer.parse(text) == server


@pytest.mark.parametrize(
    "text", ["siem", "http://siem", "udp://", "udp://siem:0", "udp://u:p@siem", "tcp://siem/x", "unix:log", "tcp://a b"]
)
def test_what_is_no_server_says_what_would_be(text):
    with pytest.raises(ValueError, match=re.escape("udp://, tcp:// or tls://")):
        SyslogServer.parse(text)
