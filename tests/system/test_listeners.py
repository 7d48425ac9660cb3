"""Listeners: TLS in every form, IPv6, unix sockets, PROXY headers, and what is turned away."""

import contextlib
import ipaddress
import json
import socket
import ssl
import struct
import time

import pytest
from system.proxy import Proxy
from system.servers.common import free_port
from system.wire import Raw, bind, extended, forwarded, root_dse, search, tls_context

from ldapmfa.wire import ldap
from ldapmfa.wire.proxy import SIGNATURE_2

START_TLS = extended(7, ldap.OID_START_TLS)


def ended(raw):
    """Whether the proxy closes the connection."""
    try:
        while raw.socket.recv(1 << 16):
            pass
    except ConnectionResetError:
        pass
    except ssl.SSLError:
        pass
    return True


@pytest.fixture(scope="module")
def proxy(slapd, tmp_path_factory):
    """StartTLS offered, TLS demanded."""
    with Proxy(slapd, tmp_path_factory.mktemp("proxy"), listen={"require_tls": True}) as proxy:
        yield proxy


def test_A39_a_bind_in_clear_text_is_refused_before_the_password_is_looked_at(proxy):
    alice = proxy.directory.user("alice")
    with proxy.directory.binds_seen() as seen, Raw(proxy.host, proxy.port) as raw:
        assert raw.code(bind(1, alice.dn, proxy.typed("alice"))) == 13
        assert raw.code(bind(2, "", "")) == 13
        assert raw.code(root_dse(3)) == 0
    assert seen == []


def test_starttls_then_a_login(proxy):
    alice = proxy.directory.user("alice")
    with Raw(proxy.host, proxy.port) as raw:
        raw.start_tls(proxy.ca_file)
        assert raw.socket.version() in ("TLSv1.2", "TLSv1.3")
        assert raw.code(bind(1, alice.dn, proxy.typed("alice"))) == 0
        assert raw.code(search(2, alice.dn, scope=ldap.BASE)) == 0
        assert raw.code(extended(3, ldap.OID_START_TLS)) == 1


def test_A38_octets_behind_starttls_are_never_processed(proxy):
    alice = proxy.directory.user("alice")
    with proxy.directory.binds_seen() as seen, Raw(proxy.host, proxy.port) as raw:
        raw.send(START_TLS, bind(8, alice.dn, proxy.typed("alice")))
        notice = raw.frame()
        assert (notice.id, ldap.read_result(notice).code) == (0, 2)
        assert ended(raw)
    assert seen == []


def test_A38_octets_sent_before_the_handshake_do_not_reach_the_session(proxy):
    """Behind the agreement, in clear text, instead of a handshake."""
    with Raw(proxy.host, proxy.port) as raw:
        assert raw.code(START_TLS) == 0
        raw.send(bind(8, "cn=x", "secret123456"))
        assert ended(raw)
    assert not [record for record in proxy.records() if record["name"] == "cn=x"]


def test_tls_1_1_is_refused(proxy):
    with Raw(proxy.host, proxy.port) as raw:
        assert raw.code(START_TLS) == 0
        context = tls_context(proxy.ca_file)
        context.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning):
            context.minimum_version = ssl.TLSVersion.TLSv1
        with pytest.warns(DeprecationWarning):
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            context.wrap_socket(raw.socket, server_hostname="localhost")


def test_A47_http_and_tls_on_the_ldap_port_are_closed_at_once(proxy):
    for octets in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", bytes.fromhex("16030100f4010000f0")):
        with Raw(proxy.host, proxy.port) as raw:
            began = time.monotonic()
            raw.send(octets)
            notice = raw.frame()
            assert (notice.id, ldap.read_result(notice).code) == (0, 2)
            assert ended(raw)
            assert time.monotonic() - began < 5
    proxy.wait_for_log("0x47")
    proxy.wait_for_log("0x16")


def test_ldaps(slapd, tmp_path):
    with Proxy(slapd, tmp_path / "proxy", listen={"tls": "ldaps"}) as proxy:
        alice = slapd.user("alice")
        with Raw(proxy.host, proxy.port, tls=proxy.ca_file) as raw:
            assert raw.code(START_TLS) == 1
            assert raw.code(bind(1, alice.dn, proxy.typed("alice"))) == 0
            assert raw.code(search(2, alice.dn, scope=ldap.BASE)) == 0
        # A47, the other way round
        with Raw(proxy.host, proxy.port) as raw:
            raw.send(root_dse(1))
            assert ended(raw)
        proxy.wait_for_log("TLS failed: wrong version number")


def test_ipv6_and_a_unix_socket(slapd, tmp_path):
    path = tmp_path / "ldap.sock"
    extra = f'[[listen]]\nendpoint = "unix:{path}"\n'
    listen = {"endpoint": "tcp6:%d:interface=\\:\\:1", "tls": "none", "certificate": None, "key": None}
    port = free_port("127.0.0.1")
    listen["endpoint"] %= port
    proxy = Proxy(slapd, tmp_path / "proxy", listen=listen, extra=extra)
    proxy.answers = lambda: path.exists() and "listening" in proxy.log.read_text()
    with proxy:
        alice = slapd.user("alice")
        with Raw("::1", port) as raw:
            assert raw.code(bind(1, alice.dn, proxy.typed("alice"))) == 0
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(str(path))
            link.sendall(bind(1, alice.dn, proxy.typed("alice")))
            frame = ldap.read_frame(link.recv(1 << 16), 0, 1 << 16)
            assert ldap.read_result(frame).code == 0
            # an exempt network is nobody's address on a unix socket
            service = slapd.user("svc-app")
            link.sendall(bind(2, service.dn, service.password))
            frame = ldap.read_frame(link.recv(1 << 16), 0, 1 << 16)
            assert ldap.read_result(frame).code == 49
        assert {record["client"].rpartition(":")[0] for record in proxy.records()} == {"[::1]", ""}


# -- PROXY headers


def version_1(client, port=5555):
    family = "TCP6" if ":" in client else "TCP4"
    return f"PROXY {family} {client} {'::1' if ':' in client else '127.0.0.1'} {port} 389\r\n".encode()


def version_2(client, port=5555, *, command=1, tlv=b""):
    address = ipaddress.ip_address(client)
    family = 0x11 if address.version == 4 else 0x21
    body = address.packed + ipaddress.ip_address("127.0.0.1" if family == 0x11 else "::1").packed
    body += struct.pack("!HH", port, 389) + tlv
    return SIGNATURE_2 + bytes((0x20 | command, family)) + struct.pack("!H", len(body)) + body


HEADERS = {
    "version 1": (version_1("192.0.2.5"), "192.0.2.5"),
    "version 1, IPv6": (version_1("2001:db8::5"), "2001:db8::5"),
    "version 2": (version_2("192.0.2.6"), "192.0.2.6"),
    "version 2, IPv6": (version_2("2001:db8::6"), "2001:db8::6"),
    "version 2, mapped": (version_2("::ffff:192.0.2.7"), "192.0.2.7"),
    "version 2 with TLVs": (version_2("192.0.2.8", tlv=b"\x04\x00\x03abc"), "192.0.2.8"),
}


@pytest.fixture(scope="module", params=["starttls", "ldaps"])
def behind(request, slapd, tmp_path_factory):
    """Behind a load balancer on loopback; the service account is exempt from 192.0.2.0/24."""
    service = slapd.user("svc-app").dn
    extra = f'[[exempt]]\naccount = {json.dumps(service)}\nnetworks = ["192.0.2.0/24", "2001:db8::/64"]\n'
    nobody = "cn=nobody,dc=example,dc=test"
    listen = {"proxy_protocol_from": ["127.0.0.0/8"], "tls": request.param}
    with Proxy(slapd, tmp_path_factory.mktemp("proxy"), listen=listen, extra=extra, exempt=nobody) as proxy:
        yield proxy


def connect(proxy, header, *, pieces=1):
    """A connection behind the header, the header in pieces."""
    raw = Raw(proxy.host, proxy.port)
    raw.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    step = max(1, -(-len(header) // pieces))
    for start in range(0, len(header), step):
        raw.send(header[start : start + step])
        if pieces > 1:
            time.sleep(0.005)
    if proxy.listen["tls"] == "ldaps":
        raw.socket = tls_context(proxy.ca_file).wrap_socket(raw.socket, server_hostname="localhost")
    return raw


@pytest.mark.parametrize("kind", HEADERS)
@pytest.mark.parametrize("pieces", [1, 1000])
def test_A36_the_rules_see_the_client_behind_the_balancer(behind, kind, pieces):
    header, client = HEADERS[kind]
    service = behind.directory.user("svc-app")
    with connect(behind, header, pieces=pieces) as raw:
        assert raw.code(bind(1, service.dn, service.password)) == 0
    assert client in behind.records()[-1]["client"]


def test_A36_somebody_elses_address_is_not_exempt(behind):
    service = behind.directory.user("svc-app")
    with connect(behind, version_2("198.51.100.1")) as raw:
        assert raw.code(bind(1, service.dn, service.password)) == 49


def test_A51_the_balancers_own_connections_lie_in_no_network(behind):
    """LOCAL, UNKNOWN: health checks; an exempt network that holds the balancer's address exempts nobody."""
    service = behind.directory.user("svc-app")
    for header in (version_2("192.0.2.9", command=0), b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN 192.0.2.9 ::1 1 2\r\n"):
        with connect(behind, header) as raw:
            assert raw.code(root_dse(1)) == 0
            assert raw.code(bind(2, service.dn, service.password)) == 49


@pytest.mark.parametrize(
    "octets",
    [
        root_dse(1),
        b"PROXY TCP4 192.0.2.1 127.0.0.1 70000 389\r\n",
        b"PROXY TCP4 192.0.2.1\r\n",
        b"PROXY TCP5 192.0.2.1 127.0.0.1 1 2\r\n",
        b"PROXY " + b"x" * 200,
        SIGNATURE_2 + b"\x31\x11\x00\x0c" + bytes(12),
        SIGNATURE_2 + b"\x21\x11\xff\xff",
    ],
)
def test_A51_without_a_header_to_the_letter_nothing_is_read(behind, octets):
    with Raw(behind.host, behind.port) as raw:
        raw.send(octets)
        assert ended(raw)


def test_A36_a_second_header_is_not_ldap(behind):
    header = version_1("192.0.2.5")
    with connect(behind, header) as raw:
        raw.send(header)
        assert ended(raw)


def test_A51_a_header_that_nobody_expects_is_not_ldap(proxy):
    with Raw(proxy.host, proxy.port) as raw:
        raw.send(version_1("192.0.2.5"), root_dse(1))
        notice = raw.frame()
        assert (notice.id, ldap.read_result(notice).code) == (0, 2)
        assert ended(raw)


# -- the directory's side


def test_A40_the_directorys_certificate_is_verified(slapd, tmp_path):
    """A CA that did not sign it; a name it does not bear; and, at last, the right CA and name."""
    alice = slapd.user("alice")
    ours, theirs = 'ca_file = "tls/ca.pem"', f'ca_file = "{slapd.ca_file}"'
    untrusted, misnamed = "certificate verify failed", "VerificationError"
    cases = {
        f'uris = ["{slapd.tls_uri}"]\n{ours}': untrusted,
        f'uris = ["{slapd.tls_uri}"]': untrusted,
        f'uris = ["{slapd.uri}"]\nstarttls = true\n{ours}': untrusted,
        f'uris = ["ldaps://127.0.0.2:{slapd.tls_port}"]\n{theirs}': misnamed,
        f'uris = ["ldap://127.0.0.2:{slapd.port}"]\nstarttls = true\n{theirs}': misnamed,
        f'uris = ["{slapd.tls_uri}"]\n{theirs}': None,
        f'uris = ["{slapd.uri}"]\nstarttls = true\n{theirs}': None,
        # the next one is tried
        f'uris = ["ldaps://127.0.0.2:{slapd.tls_port}", "{slapd.tls_uri}"]\n{theirs}': None,
    }
    elsewhere = (forwarded("127.0.0.2", port, ("127.0.0.1", port)) for port in (slapd.port, slapd.tls_port))
    with contextlib.ExitStack() as stack:
        for forwarding in elsewhere:
            stack.enter_context(forwarding)
        for number, (table, why) in enumerate(cases.items()):
            proxy = Proxy(slapd, tmp_path / str(number), to_directory=table)
            proxy.answers = lambda proxy=proxy: "listening" in proxy.log.read_text()
            with proxy, slapd.binds_seen() as seen, Raw(proxy.host, proxy.port) as raw:
                assert raw.code(bind(1, alice.dn, proxy.typed("alice"))) == (52 if why else 0), table
            assert bool(seen) == (not why), table
            assert (why or "") in proxy.records()[-1]["detail"], table


def test_the_first_directory_that_can_be_reached_is_used(slapd, tmp_path):
    dead = f"ldap://127.0.0.1:{free_port()}"
    with Proxy(slapd, tmp_path / "proxy", to_directory=f'uris = ["{dead}", "{slapd.uri}"]') as proxy:
        alice = slapd.user("alice")
        with Raw(proxy.host, proxy.port) as raw:
            assert raw.code(bind(1, alice.dn, proxy.typed("alice"))) == 0


def test_a_directory_that_is_down_means_unavailable(slapd, tmp_path):
    proxy = Proxy(slapd, tmp_path / "proxy", to_directory=f'uris = ["ldap://127.0.0.1:{free_port()}"]')
    proxy.answers = lambda: "listening" in proxy.log.read_text()
    with proxy:
        with Raw(proxy.host, proxy.port) as raw:
            assert raw.code(bind(1, "cn=x", "secret123456")) == 52
        with Raw(proxy.host, proxy.port) as raw:
            raw.send(root_dse(1))
            notice = raw.frame()
            assert (notice.id, ldap.read_result(notice).code) == (0, 52)
        assert proxy.records()[-1]["reason"] == "directory-down"
