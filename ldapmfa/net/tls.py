"""TLS contexts: ours for clients, with a certificate; ours for the directory, without one.

Promised here: TLS 1.2 at least on both sides; the directory's certificate and host name are verified unless the
configuration says not to; no client certificate is ever presented to a directory (A40), for Active Directory takes
one for a login. A client's certificate that a connection has was verified on that connection: none is taken over from
an earlier one, and none changes (A51).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from OpenSSL import SSL, crypto
from twisted.internet.error import VerifyError
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import (
    Certificate,
    CertificateOptions,
    PrivateCertificate,
    TLSVersion,
    optionsForClientTLS,
    platformTrust,
    trustRootFromCertificates,
)
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from zope.interface import implementer

from ldapmfa.core import application
from ldapmfa.errors import ConfigError

_BEGIN = b"-----BEGIN CERTIFICATE-----"


def server_context(
    certificate: Path, key: Path, *, client_ca: Path | None = None, require_client_certificate: bool = False
) -> CertificateOptions:
    """What a listener presents: the first certificate of the file, the others as its chain.

    A client is asked for a certificate where `client_ca` holds those who may have issued it: authorities, or a
    certificate itself. One of anybody else, of another time, or for another purpose than a TLS client's ends the
    handshake, and so does none where it is required.
    """
    chain = _certificates(certificate, "listen.certificate")
    try:
        private = PrivateCertificate.loadPEM(key.read_bytes() + chain[0])
    except (OSError, crypto.Error) as broken:
        raise ConfigError([f"listen.key: {key} can't be read as a PEM private key"]) from broken
    except VerifyError as other:
        raise ConfigError([f"listen.key: {key} is not the key of the first certificate in {certificate}"]) from other
    issuers = _certificates(client_ca, "listen.client_ca") if client_ca else []
    trusted = [Certificate.loadPEM(pem) for pem in issuers]
    if require_client_certificate and not trusted:
        raise ConfigError(["listen.client_ca: without it nobody's certificate can be required"])
    serving = CertificateOptions(
        privateKey=private.privateKey.original,
        certificate=private.original,
        extraCertChain=[Certificate.loadPEM(pem).original for pem in chain[1:]],
        raiseMinimumTo=TLSVersion.TLSv1_2,
        trustRoot=trustRootFromCertificates(trusted) if trusted else None,  # which requires one, too
        # a session resumed would bring a certificate that nobody verified now, perhaps one expired meanwhile
        enableSessions=False,
        enableSessionTickets=False,
    )
    context = serving.getContext()
    context.set_options(SSL.OP_NO_RENEGOTIATION)  # who has been recognised shows no other certificate
    store = context.get_cert_store()
    if client_ca and store:
        context.load_client_ca(bytes(client_ca))  # who has several certificates is told which will do
        # an authority that another one certified is trusted for itself, without that other one
        store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
        if not require_client_certificate:
            context.set_verify(SSL.VERIFY_PEER)
    return serving


def peer_certificate(transport: Any) -> application.Certificate | None:
    """The certificate that the client at `transport` showed, once the handshake is over; it was verified then.

    Whatever is raised, it can't be read.
    """
    shown = getattr(transport, "getPeerCertificate", lambda: None)()
    if shown is None:
        return None
    certificate: x509.Certificate = shown.to_cryptography()
    names: list[str] = []
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        pass
    else:
        names = [f"{_NAMES[type(name)]}:{name.value}" for name in found if type(name) in _NAMES]
    return application.Certificate(
        certificate.subject.rfc4514_string(), tuple(names), certificate.fingerprint(SHA256()).hex()
    )


#: What the kinds of names are called that count.
_NAMES: Final[dict[type, str]] = {
    x509.DNSName: "dns",
    x509.RFC822Name: "email",
    x509.UniformResourceIdentifier: "uri",
}


def client_context(host: str, ca_file: Path | None, *, verify: bool) -> Any:
    """What faces a directory at `host`: its certificate must be of our CAs (or the system's) and bear its name."""
    if not verify:
        return _Unverified()
    trust = platformTrust()
    if ca_file:
        trust = trustRootFromCertificates(
            [Certificate.loadPEM(pem) for pem in _certificates(ca_file, "directory.ca_file")]
        )
    return optionsForClientTLS(
        host, trustRoot=trust, extraCertificateOptions={"raiseMinimumTo": TLSVersion.TLSv1_2}
    )


def over_tls(factory: Any, context: Any, *, client: bool) -> TLSMemoryBIOFactory:
    """`factory`'s protocols over TLS.

    What they write is encrypted at once: they write whole runs, and need not wait for the loop to collect more.
    """
    layer = TLSMemoryBIOFactory(context, client, factory)
    layer.protocol = TLSMemoryBIOProtocol
    return layer


@implementer(IOpenSSLClientConnectionCreator)
class _Unverified:
    """Takes any certificate: for `verify_certificate = false` only, which the configuration warns of."""

    def __init__(self) -> None:
        self._context = CertificateOptions(raiseMinimumTo=TLSVersion.TLSv1_2, verify=False).getContext()

    def clientConnectionForTLS(self, _protocol: Any) -> Any:
        return SSL.Connection(self._context, None)


def _certificates(path: Path, key: str) -> list[bytes]:
    try:
        found = [_BEGIN + part for part in path.read_bytes().split(_BEGIN)[1:]]
    except OSError as broken:
        raise ConfigError([f"{key}: {path} can't be read: {broken.strerror}"]) from broken
    if not found:
        raise ConfigError([f"{key}: {path} holds no PEM certificate"])
    try:
        for pem in found:
            Certificate.loadPEM(pem)
    except crypto.Error as broken:
        raise ConfigError([f"{key}: {path} holds a certificate that can't be read"]) from broken
    return found
