"""What single values mean, and what is said about wrong ones."""

from __future__ import annotations

import pytest
from config.reading import LEAST, complaint, only
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.endpoints import serverFromString
from twisted.internet.testing import MemoryReactor

from ldapmfa.config import Directory, DirectoryUri, Endpoint, Listen, load
from ldapmfa.config.values import SrvUri, nameserver


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        ("ssl:636", "TLS is not part of the endpoint: write tcp: here, and beside it tls = "),
        ("tls:636", "TLS is not part of the endpoint"),
        ("", "must begin with tcp:, tcp6:, unix: or systemd:"),
        ("389", "must begin with tcp:, tcp6:, unix: or systemd:"),
        ("TCP:389", "must begin with tcp:, tcp6:, unix: or systemd:"),
        ("haproxy:tcp:389", "must begin with tcp:, tcp6:, unix: or systemd:"),
        ("tcp:ldap", "tcp: takes port, interface, backlog, as in 'tcp:389:interface=127.0.0.1'"),
        ("tcp:", "tcp: takes port, interface, backlog, as in 'tcp:389:interface=127.0.0.1'"),
        ("tcp", "tcp: takes port, interface, backlog, as in 'tcp:389:interface=127.0.0.1'"),
        ("tcp:65536", "tcp: takes port, interface, backlog, as in 'tcp:389:interface=127.0.0.1'"),
        ("tcp6:x", r"tcp6: takes port, backlog, interface, as in 'tcp6:389:interface=2001\:db8\:\:7'"),
        ("tcp:389:interface=eth0", "tcp: takes port, interface, backlog, as in 'tcp:389:interface=127.0.0.1'"),
        ("tcp:389:interfce=127.0.0.1", "tcp: takes port, interface, backlog, as in 'tcp:389:interface=127.0.0.1'"),
        ("tcp:389:127.0.0.1:50:1", "tcp: takes port, interface, backlog, as in 'tcp:389:interface=127.0.0.1'"),
        ("tcp:389:interface=::1", "tcp: takes port, interface, backlog, as in 'tcp:389:interface=127.0.0.1'"),
        (
            "tcp6:389:interface=127.0.0.1",
            r"tcp6: takes port, backlog, interface, as in 'tcp6:389:interface=2001\:db8\:\:7'",
        ),
        ("tcp:389:backlog=x", "tcp: takes port, interface, backlog, as in 'tcp:389:interface=127.0.0.1'"),
        ("unix:", "unix: takes address, mode, backlog, lockfile, as in 'unix:/run/ldapmfa/ldap.sock:mode=660'"),
        ("unix:s:mode=9", "unix: takes address, mode, backlog, lockfile, as in 'unix:/run/ldapmfa/ldap.sock:mode=660'"),
        (
            "unix:s:lockfile=no",
            "unix: takes address, mode, backlog, lockfile, as in 'unix:/run/ldapmfa/ldap.sock:mode=660'",
        ),
        ("systemd:domain=INET", "systemd: takes domain, index, name, as in 'systemd:domain=INET:name=ldap'"),
        (
            "systemd:domain=INET:index=0:name=ldap",
            "systemd: takes domain, index, name, as in 'systemd:domain=INET:name=ldap'",
        ),
        ("systemd:domain=IP:index=0", "systemd: takes domain, index, name, as in 'systemd:domain=INET:name=ldap'"),
        ("systemd:domain=INET:index=x", "systemd: takes domain, index, name, as in 'systemd:domain=INET:name=ldap'"),
    ],
)
def test_a_bad_endpoint_says_what_would_be_right(file, endpoint, said):
    line = only(file(LEAST.replace("tcp:3389:interface=127.0.0.1", endpoint)))
    assert line.startswith(f"ldapmfa.toml:2: listen[0].endpoint: {said}")


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp:389",
        "tcp:port=389",
        "tcp:389:10.0.0.1:50",
        "tcp:389:interface=10.0.0.1:backlog=5",
        r"tcp:389:interface=\:\:1",
        "tcp6:389",
        r"tcp6:389:interface=2001\:db8\:\:7",
        "unix:/run/ldapmfa/ldap.sock",
        r"unix:/run/a\:b\=c:mode=660:lockfile=0",
        "unix:address=/run/x",
    ],
)
def test_what_we_read_in_an_endpoint_is_what_twisted_does(endpoint):
    listener = Listen(endpoint=endpoint)
    ours, theirs = listener.where, serverFromString(MemoryReactor(), listener.endpoint)
    if ours.kind == "unix":
        assert theirs._address == ours.given["address"]
        assert f"{theirs._mode:o}" in {"666", "660"}
    else:
        assert theirs._port == ours.port
        assert theirs._interface == ("" if ours.address.is_unspecified and ours.kind == "tcp" else str(ours.address))


@given(st.text(alphabet="tcp6unixsystemd:=\\0123.\x00é", max_size=40))
def test_no_endpoint_raises_anything_but_a_value_error(text):
    for candidate in (text, f"tcp:{text}", f"unix:{text}"):
        assert complaint(Endpoint.parse, candidate) != ""


def test_a_relative_unix_socket_is_relative_to_the_file(file, tmp_path):
    config = load(
        file(LEAST.replace("tcp:3389:interface=127.0.0.1", "unix:run=d.sock:mode=660").replace("run=d", "rund"))
    )
    assert config.listen[0].endpoint == f"unix:address={tmp_path}/rund.sock:mode=660"


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("ldapi:///", "must begin with ldap:// or ldaps://, and end with a host or host:port"),
        ("dc1.example.com", "must begin with ldap:// or ldaps://, and end with a host or host:port"),
        ("ldap://", "must begin with ldap:// or ldaps://, and end with a host or host:port"),
        ("ldap://a b", "must begin with ldap:// or ldaps://, and end with a host or host:port"),
        ("ldap://dc1:0", "must begin with ldap:// or ldaps://, and end with a host or host:port"),
        ("ldap://dc1:99999", "must begin with ldap:// or ldaps://, and end with a host or host:port"),
        ("ldap://dc1:ldap", "must begin with ldap:// or ldaps://, and end with a host or host:port"),
        ("ldap://2001:db8::7", "must begin with ldap:// or ldaps://, and end with a host or host:port"),
        ("http://[::1", "must begin with ldap:// or ldaps://, and end with a host or host:port"),
        ("ldap://[::1", "must begin with ldap:// or ldaps://, and end with a host or host:port"),
        ("ldap://dc1/dc=example", "must begin with ldap:// or ldaps://, and end with a host or host:port"),
        ("ldap://cn=x:hush@dc1", "must begin with ldap:// or ldaps://, and end with a host or host:port"),
    ],
)
def test_a_bad_uri_says_what_would_be_right(file, uri, said):
    line = only(file(LEAST.replace('"ldap://127.0.0.1"', f'"ldap://good", "{uri}"')))
    assert line.startswith(f"ldapmfa.toml:4: directory.uris[1]: {said}")
    assert "hush" not in line


def test_uris_are_taken_apart():
    uris = ("ldap://DC1.example.com", "ldaps://dc2", "ldap://[2001:db8::7]:3890/", "LDAPS://10.0.0.1:1636")
    assert Directory(uris=uris).servers == (
        DirectoryUri(tls=False, host="dc1.example.com", port=389),
        DirectoryUri(tls=True, host="dc2", port=636),
        DirectoryUri(tls=False, host="2001:db8::7", port=3890),
        DirectoryUri(tls=True, host="10.0.0.1", port=1636),
    )


@pytest.mark.parametrize(
    ("uri", "name", "domain", "tls"),
    [
        ("ldap+srv://Example.COM", "_ldap._tcp.example.com", "example.com", False),
        ("LDAPS+SRV://example.com./", "_ldaps._tcp.example.com", "example.com", True),
        (
            "ldap+srv://_ldap._tcp.Berlin._sites.dc._msdcs.corp.example.com",
            "_ldap._tcp.berlin._sites.dc._msdcs.corp.example.com", "corp.example.com", False,
        ),
        ("ldap+srv://_ldap._tcp.example.com", "_ldap._tcp.example.com", "example.com", False),
    ],
)
def test_a_uri_of_srv_records_is_taken_apart(uri, name, domain, tls):
    directory = Directory(uris=(uri,))
    assert directory.srv == SrvUri(tls, name, domain)
    assert directory.servers == ()
    assert SrvUri.parse("ldap://example.com") is None


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("ldap+srv://example.com:389", "must not have a port: the SRV records have it"),
        ("ldap+srv://localhost", "must end with a DNS domain"),
        ("ldap+srv://", "must end with a DNS domain"),
        ("ldap+srv://_ldap._tcp", "must end with a DNS domain"),
        ("ldap+srv://example.com/dc=example", "must end with a DNS domain"),
        ("ldap+srv://x:hush@example.com", "must end with a DNS domain"),
        ("ldap+srv://dc1._tcp.example.com", "must end with a DNS domain"),
        ("ldap+srv://10.0.0.1\\n.x", "must end with a DNS domain"),
    ],
)
def test_a_bad_uri_of_srv_records_says_what_would_be_right(file, uri, said):
    line = only(file(LEAST.replace("ldap://127.0.0.1", uri)))
    assert line.startswith(f"ldapmfa.toml:4: directory.uris[0]: {said}")
    assert "hush" not in line


@pytest.mark.parametrize(
    ("text", "address"),
    [("10.0.0.53", ("10.0.0.53", 53)), ("10.0.0.53:5353", ("10.0.0.53", 5353)), ("2001:db8::53", ("2001:db8::53", 53)),
     ("[2001:db8::53]:5353", ("2001:db8::53", 5353)), ("[2001:db8::53]", ("2001:db8::53", 53))],
)
def test_a_name_server(text, address):
    assert nameserver(text) == address


@pytest.mark.parametrize("text", ["ns.example.com", "10.0.0.53:0", "10.0.0.53:99999", "10.0.0.53:x", "", "[10.0.0.53", "::1:99999"])
def test_what_is_no_name_server(text):
    assert "must be an address" in complaint(nameserver, text)


@given(st.text(max_size=30))
def test_no_uri_raises_anything_but_a_value_error(text):
    for candidate in (text, f"ldap://{text}", f"ldaps://[{text}]"):
        assert complaint(DirectoryUri.parse, candidate) != ""
    assert complaint(SrvUri.parse, f"ldap+srv://{text}") != ""
    assert complaint(nameserver, text) != ""


@pytest.mark.parametrize("network", ["10.0.0.1/8", "a/b", "::ffff:10.0.0.0/104"])
def test_a_network_that_no_client_would_be_in(file, network):
    line = only(file(LEAST + f"[[exempt]]\naccount = 'x'\nnetworks = ['{network}']\n"))
    assert line.startswith("ldapmfa.toml:7: exempt[0].networks[0]: must be ")
    assert 'for example "10.1.0.0/16"' in line
