"""TLS on both sides, in memory: what is presented, demanded, and said when it fails."""

import contextlib
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from handshakes import Certificates, Showing, pair, shake
from OpenSSL import SSL
from twisted.internet.error import ConnectionAborted
from twisted.internet.ssl import ContextFactory
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from world import World, bind, frames, search

from ldapmfa.errors import ConfigError
from ldapmfa.net.budget import Budget
from ldapmfa.net.ldap_front import LdapFront
from ldapmfa.net.tls import client_context, peer_certificate, server_context
from ldapmfa.wire import ldap

# Twisted still hands pyOpenSSL's certificates to pyOpenSSL
pytestmark = pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning")
@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return Certificates(tmp_path_factory.mktemp("certificates"))


def test_a_certificate_of_our_ca_that_bears_the_name_is_trusted(certificates):
    serving = server_context(*certificates.make("dc1", "dc1.test", "192.0.2.1", "2001:db8::1"))
    for host in ("dc1.test", "192.0.2.1", "2001:db8::1"):
        server, client = pair(serving, client_context(host, certificates.ca, verify=True))
        client.write(b"hello")
        shake(server, client)
        assert server.inner.came == b"hello"


@pytest.mark.parametrize(
    ("host", "ca", "days"),
    [("dc2.test", True, 20_000), ("dc1.test", False, 20_000), ("dc1.test", True, 3), ("192.0.2.2", True, 20_000), ("dc1.test.evil", True, 20_000)],
    ids=["another name", "another CA", "expired", "another address", "a longer name"],
)
def test_A40_no_octet_is_sent_to_a_directory_that_is_not_the_one(certificates, tmp_path, host, ca, days):
    serving = server_context(*certificates.make("dc1x", "dc1.test", "192.0.2.1", days=days))
    trusted = certificates.ca if ca else Certificates(tmp_path).ca
    server, client = pair(serving, client_context(host, trusted, verify=True))
    client.write(b"the password")
    shake(server, client)
    assert server.inner.came == b""
    assert client.transport.ended


def test_A40_the_systems_cas_do_not_trust_ours(certificates):
    serving = server_context(*certificates.make("dc3", "dc3.test"))
    server, client = pair(serving, client_context("dc3.test", None, verify=True))
    client.write(b"the password")
    shake(server, client)
    assert server.inner.came == b""


def test_A40_no_client_certificate_is_presented(certificates):
    serving = server_context(*certificates.make("dc4", "dc4.test"))
    seen = []
    serving.getContext().set_verify(SSL.VERIFY_PEER, lambda *args: seen.append(args) or True)
    for asking in (client_context("dc4.test", certificates.ca, verify=True), client_context("x", None, verify=False)):
        server, client = pair(serving, asking)
        client.write(b"hello")
        shake(server, client)
        assert server.inner.came == b"hello"
        assert server.getPeerCertificate() is None
    assert seen == []


def test_without_verification_any_certificate_will_do(certificates):
    serving = server_context(*certificates.make("dc5", "elsewhere.test"))
    server, client = pair(serving, client_context("dc5.test", None, verify=False))
    client.write(b"hello")
    shake(server, client)
    assert server.inner.came == b"hello"


@pytest.mark.parametrize("version", [SSL.TLS1_1_VERSION, SSL.TLS1_VERSION])
def test_tls_below_1_2_is_refused_by_both_sides(certificates, version):
    files = certificates.make("dc6", "dc6.test")
    old = SSL.Context(SSL.TLS_METHOD)
    old.set_min_proto_version(SSL.TLS1_VERSION)
    old.set_max_proto_version(version)
    old.set_cipher_list(b"ALL:@SECLEVEL=0")
    old.use_certificate_file(str(files[0]))
    old.use_privatekey_file(str(files[1]))
    class Old(ContextFactory):
        def getContext(self):
            return old

    server, client = pair(server_context(*files), Old())
    client.write(b"hello")
    shake(server, client)
    assert server.inner.came == b""
    server, client = pair(Old(), client_context("dc6.test", certificates.ca, verify=True))
    client.write(b"hello")
    shake(server, client)
    assert server.inner.came == b""


def test_files_that_are_none_are_named(certificates, tmp_path):
    pem, key = certificates.make("dc7", "dc7.test")
    empty = tmp_path / "empty"
    empty.write_text("nothing")
    for files in ((empty, key), (tmp_path / "absent", key), (pem, empty), (pem, tmp_path / "absent"), (pem, pem)):
        with pytest.raises(ConfigError, match=r"listen\."):
            server_context(*files)
    for ca in (empty, tmp_path / "absent"):
        with pytest.raises(ConfigError, match=r"directory\.ca_file"):
            client_context("x", ca, verify=True)


def test_a_key_of_another_certificate_is_named(certificates):
    pem, _ = certificates.make("dc8", "dc8.test")
    _, other = certificates.make("dc9", "dc9.test")
    with pytest.raises(ConfigError, match=r"listen\.key.*dc9\.key is not the key"):
        server_context(pem, other)


def test_a_certificate_that_is_garbled_is_named(certificates, tmp_path):
    pem, key = certificates.make("dc10", "dc10.test")
    for text in ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", pem.read_text() + "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        broken = tmp_path / "broken.pem"
        broken.write_text(text)
        with pytest.raises(ConfigError, match=r"listen\.certificate.*can't be read"):
            server_context(broken, key)
        with pytest.raises(ConfigError, match=r"directory\.ca_file.*can't be read"):
            client_context("x", broken, verify=True)


# -- certificates of clients

CLIENT = x509.ExtendedKeyUsageOID.CLIENT_AUTH
SERVER = x509.ExtendedKeyUsageOID.SERVER_AUTH
ANY = x509.ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE
VERSIONS = {"TLS 1.2": SSL.TLS1_2_VERSION, "TLS 1.3": SSL.TLS1_3_VERSION}


def spoken(serving, asking):
    """Both ends, after the client said hello."""
    server, client = pair(serving, asking)
    client.write(b"hello")
    shake(server, client)
    return server, client


@pytest.fixture(scope="module")
def serving(certificates):
    """A context that asks for a certificate, and does not insist."""
    return server_context(*certificates.make("serving", "proxy.test"), client_ca=certificates.ca)


@pytest.fixture(scope="module")
def insisting(certificates):
    return server_context(*certificates.make("insisting", "proxy.test"), client_ca=certificates.ca, require_client_certificate=True)


@pytest.mark.parametrize("version", VERSIONS.values(), ids=VERSIONS)
def test_the_certificate_that_a_client_showed_is_told(certificates, serving, insisting, version):
    names = (x509.RFC822Name("vpn@example.test"), x509.UniformResourceIdentifier("urn:vpn"))
    files = certificates.make("vpn", "vpn.test", "192.0.2.1", names=names, purposes=[CLIENT])
    for context in (serving, insisting):
        server, _ = spoken(context, Showing(files, version=version))
        assert server.inner.came == b"hello"
        shown = peer_certificate(server)
        assert shown.subject == "CN=vpn"
        assert shown.names == ("email:vpn@example.test", "uri:urn:vpn", "dns:vpn.test")
        assert shown.fingerprint == certificates.issued[0].fingerprint(hashes.SHA256()).hex()


@pytest.mark.parametrize("version", VERSIONS.values(), ids=VERSIONS)
def test_A51_no_certificate_is_none_unless_it_is_required(serving, insisting, version):
    server, _ = spoken(serving, Showing(version=version))
    assert server.inner.came == b"hello"
    assert peer_certificate(server) is None
    server, client = spoken(insisting, Showing(version=version))
    assert server.inner.came == b""
    assert server.transport.ended
    assert client.inner.why is not None


@pytest.mark.parametrize("purposes", [None, [CLIENT], [SERVER, CLIENT]], ids=["none", "client", "both"])
def test_a_certificate_for_clients_is_taken(certificates, insisting, purposes):
    server, _ = spoken(insisting, Showing(certificates.make("usable", purposes=purposes)))
    assert server.inner.came == b"hello"
    assert peer_certificate(server).names == ()


@pytest.mark.parametrize("version", VERSIONS.values(), ids=VERSIONS)
@pytest.mark.parametrize(
    "options", [{"days": 3}, {"days": 40_000, "begins": 4000}, {"purposes": [SERVER]}, {"purposes": [ANY]}, {"purposes": []}], ids=["expired", "not yet", "server's", "any", "nobody's"]
)
def test_A51_a_certificate_of_another_time_or_purpose_ends_the_handshake(certificates, serving, insisting, options, version):
    files = certificates.make("useless", "vpn.test", **options)
    for context in (serving, insisting):
        server, _ = spoken(context, Showing(files, version=version))
        assert server.inner.came == b""
        assert server.transport.ended


@pytest.mark.parametrize("version", VERSIONS.values(), ids=VERSIONS)
def test_A51_a_certificate_of_another_authority_ends_the_handshake(certificates, serving, insisting, tmp_path, version):
    """Its authority bears the same name as ours."""
    strangers = Certificates(tmp_path)
    own = strangers.path / "ca.pem", strangers.path / "ca.key"
    for files in (strangers.make("vpn", "vpn.test", purposes=[CLIENT]), own):
        for context in (serving, insisting):
            server, _ = spoken(context, Showing(files, version=version))
            assert server.inner.came == b""
            assert server.transport.ended


def test_A51_the_systems_authorities_are_none_of_ours(certificates, tmp_path, monkeypatch):
    strangers = Certificates(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(strangers.ca))
    context = server_context(*certificates.make("proxy2", "proxy.test"), client_ca=certificates.ca)
    server, _ = spoken(context, Showing(strangers.make("vpn", purposes=[CLIENT])))
    assert server.inner.came == b""


def test_an_authority_under_another_one_is_trusted_for_itself(certificates, tmp_path):
    """And whoever else the other one certified is not."""
    certificates.make("issuing", ca=True)
    issuing = certificates.issued
    certificates.make("sister", ca=True)
    sister = certificates.issued
    context = server_context(
        *certificates.make("proxy3", "proxy.test"), client_ca=certificates.path / "issuing.pem", require_client_certificate=True
    )
    for issuer, came in ((issuing, b"hello"), (sister, b""), (None, b"")):
        server, _ = spoken(context, Showing(certificates.make("client", issuer=issuer)))
        assert server.inner.came == came
    # who was certified by an authority is none
    certificates.make("leaf", issuer=issuing)
    server, _ = spoken(context, Showing(certificates.make("below", issuer=certificates.issued)))
    assert server.inner.came == b""


def test_a_client_is_told_whose_certificate_will_do(certificates, serving):
    _, client = spoken(serving, Showing())
    assert [name.CN for name in client._tlsConnection.get_client_ca_list()] == ["ca"]


@pytest.mark.parametrize("version", VERSIONS.values(), ids=VERSIONS)
def test_A51_no_session_is_resumed_with_the_certificate_of_another_time(certificates, serving, insisting, version):
    """Who took over somebody's session, without the key of the certificate, is nobody."""
    files = certificates.make("resuming", "vpn.test")
    for context in (serving, insisting):
        first, client = spoken(context, Showing(files, version=version))
        assert peer_certificate(first)
        session = client._tlsConnection.get_session()
        assert session
        second, _ = spoken(context, Showing(version=version, session=session))
        if context is insisting:
            assert second.inner.came == b""
        else:
            assert second.inner.came == b"hello"
            assert peer_certificate(second) is None


@pytest.mark.parametrize("version", VERSIONS.values(), ids=VERSIONS)
def test_A51_every_connection_shakes_hands_anew(certificates, serving, version):
    """With Python's own TLS, which says whether it resumed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = ssl.TLSVersion(version)
    context.load_cert_chain(*certificates.make("anew", "vpn.test"))
    session = None
    for _ in range(2):
        server, _ = pair(serving, Showing())
        there, here = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = context.wrap_bio(there, here, session=session)
        for _ in range(6):
            with contextlib.suppress(ssl.SSLWantReadError):
                client.do_handshake()
                client.read(1)
            if here.pending:
                server.dataReceived(here.read())
            there.write(server.transport.value())
            server.transport.clear()
        assert peer_certificate(server)
        session = client.session
        assert session
        assert not client.session_reused


def test_A51_where_none_is_asked_for_none_is_told(certificates):
    context = server_context(*certificates.make("proxy4", "proxy.test"))
    server, _ = spoken(context, Showing(certificates.make("unasked", "vpn.test")))
    assert server.inner.came == b"hello"
    assert peer_certificate(server) is None
    assert peer_certificate(StringTransport()) is None


def test_authorities_that_are_none_are_named(certificates, tmp_path):
    files = certificates.make("proxy5", "proxy.test")
    empty = tmp_path / "empty"
    empty.write_text("nothing")
    for ca in (empty, tmp_path / "absent"):
        with pytest.raises(ConfigError, match=r"listen\.client_ca"):
            server_context(*files, client_ca=ca)
    with pytest.raises(ConfigError, match=r"listen\.client_ca: without it"):
        server_context(*files, require_client_certificate=True)


# -- a listener that begins with TLS


def ldaps(certificates, **options):
    world = World(None, **options).assemble().with_(encrypted=True)
    serving = server_context(*certificates.make("proxy", "proxy.test"))
    fronts = []

    def build():
        fronts.append(LdapFront(world.listener))
        return fronts[-1]

    server, client = pair(serving, client_context("proxy.test", certificates.ca, verify=True), build)
    return world, fronts[0], server, client


def test_ldap_inside_tls_is_ldap(certificates):
    world, front, server, client = ldaps(certificates)
    client.write(search(1))
    shake(server, client)
    assert [ldap.read_result(frame).code for frame in frames(client.inner.came)] == [50]
    client.write(bind(2, "x", b"", version=3))
    shake(server, client)
    assert front in world.clients


@pytest.mark.parametrize("octets", [search(1), b"GET / HTTP/1.1\r\n\r\n", bytes(50)])
def test_A47_clear_text_on_a_tls_port_is_closed_with_a_line_in_the_log(certificates, octets):
    world, _, server, client = ldaps(certificates)
    server.dataReceived(octets)
    client.transport.clear()
    shake(server, client)
    assert server.transport.ended
    assert not world.clients
    assert "TLS failed" in world.logged[-1][1]["reason"]
    assert not world.clock.getDelayedCalls()


def test_A41_whose_handshake_does_not_end_in_time_is_cut_off(certificates):
    """Silence, and a ClientHello that trickles in: the time is for the whole."""
    world, front, server, client = ldaps(certificates)
    hello = client.transport.value()
    for octet in hello[:9]:
        server.dataReceived(bytes((octet,)))
        world.clock.advance(1)
    assert front in world.clients
    world.clock.advance(1)
    assert server.transport.ended
    server.connectionLost(Failure(ConnectionAborted()))
    assert not world.clients
    assert world.logged[-1][1]["reason"] == "no TLS handshake in time"
    assert not world.clock.getDelayedCalls()


def test_who_shakes_hands_in_time_stays(certificates):
    world, front, server, client = ldaps(certificates)
    shake(server, client)
    world.clock.advance(100)
    assert front in world.clients


def test_A41_one_tls_connection_too_many_is_closed(certificates):
    world, _, server, client = ldaps(certificates, budget=Budget(connections=0))
    client.write(search(1))
    shake(server, client)
    assert server.transport.ended
    assert client.inner.came == b""
    assert not world.clients


def test_A51_nobody_shows_another_certificate_on_a_connection_that_stands(certificates):
    """TLS 1.2 has renegotiations, which OpenSSL may be told to allow."""
    context = server_context(*certificates.make("standing", "vpn.test")).getContext()
    assert context.set_options(0) & SSL.OP_NO_RENEGOTIATION
