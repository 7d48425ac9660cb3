"""TLS in memory: certificates, a client that shows one, and two ends that shake hands."""

from __future__ import annotations

import datetime as dt
import ipaddress

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


class Certificates:
    """Pairs of certificate and key in a directory: a CA, and what it signed."""

    def __init__(self, path):
        self.path = path
        self._ca = self._pair("ca", None)

    def _pair(self, name, issuer, *hosts, days=20_000, begins=-1000, ca=False, names=(), purposes=None):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        names = list(names) + [
            x509.IPAddress(ipaddress.ip_address(host)) if host[0].isdigit() or ":" in host else x509.DNSName(host) for host in hosts
        ]
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer[0].subject if issuer else subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW + dt.timedelta(days=begins))
            .not_valid_after(NOW - dt.timedelta(days=999) + dt.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=ca or not issuer, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        if purposes is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        certificate = builder.sign(issuer[1] if issuer else key, hashes.SHA256())
        (self.path / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        (self.path / f"{name}.key").write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        return certificate, key

    def make(self, name, *hosts, issuer=None, **options):
        self.issued = self._pair(name, issuer or self._ca, *hosts, **options)
        return self.path / f"{name}.pem", self.path / f"{name}.key"

    @property
    def ca(self):
        return self.path / "ca.pem"


class Talker(Protocol):
    def __init__(self):
        self.came = b""
        self.why = None

    def dataReceived(self, data):
        self.came += data

    def connectionLost(self, reason=None):
        self.why = reason


class Transport(StringTransport):
    """As Twisted's, but it ends the connection when it is told to."""

    ended = False

    def loseConnection(self):
        self.abortConnection()

    def abortConnection(self):
        self.ended = True


#: TLS collects small writes until the reactor's next turn.
TURNS = Clock()


def shake(server, client, turns=20):
    """Pass octets between two TLS protocols until both have nothing left to say."""
    for _ in range(turns):
        TURNS.advance(0)
        for one, other in ((client, server), (server, client)):
            data = one.transport.value()
            one.transport.clear()
            if data and not other.transport.ended:
                other.dataReceived(data)
    for one in (client, server):
        if one.transport.ended:
            one.connectionLost(Failure(ConnectionDone()))


def pair(serving, asking, inner=None):
    """Two ends of a TLS connection; `inner` is what each carries, also when it is over."""
    server = TLSMemoryBIOFactory(serving, False, Factory.forProtocol(inner or Talker), TURNS).buildProtocol(None)
    client = TLSMemoryBIOFactory(asking, True, Factory.forProtocol(Talker), TURNS).buildProtocol(None)
    server.inner, client.inner = server.wrappedProtocol, client.wrappedProtocol
    server.makeConnection(Transport())
    client.makeConnection(Transport())
    return server, client


@implementer(IOpenSSLClientConnectionCreator)
class Showing:
    """A client of this version that shows a certificate, or none; it believes whoever answers, and may resume."""

    def __init__(self, files=None, *, version=SSL.TLS1_3_VERSION, session=None):
        self._context = SSL.Context(SSL.TLS_METHOD)
        self._context.set_min_proto_version(version)
        self._context.set_max_proto_version(version)
        if files:
            self._context.use_certificate_chain_file(str(files[0]))
            self._context.use_privatekey_file(str(files[1]))
        self._session = session

    def clientConnectionForTLS(self, _protocol):
        connection = SSL.Connection(self._context, None)
        if self._session:
            self._session._context = self._context  # pyOpenSSL's own scruple, not TLS's
            connection.set_session(self._session)
        return connection
