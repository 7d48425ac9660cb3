"""TLS contexts: ours for clients, with a certificate; ours for the directory, without one.

Promised here: TLS 1.2 at least on both sides; the directory's certificate and host name are verified unless the
configuration says not to; no client certificate is ever presented to a directory (A40), for Active Directory takes
one for a login.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from OpenSSL import crypto
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

from ldapmfa.errors import ConfigError

_BEGIN = b"-----BEGIN CERTIFICATE-----"


def server_context(certificate: Path, key: Path) -> CertificateOptions:
    """What a listener presents: the first certificate of the file, the others as its chain."""
    chain = _certificates(certificate, "listen.certificate")
    try:
        private = PrivateCertificate.loadPEM(key.read_bytes() + chain[0])
    except (OSError, crypto.Error) as broken:
        raise ConfigError([f"listen.key: {key} can't be read as a PEM private key"]) from broken
    except VerifyError as other:
        raise ConfigError([f"listen.key: {key} is not the key of the first certificate in {certificate}"]) from other
    return CertificateOptions(
        privateKey=private.privateKey.original,
        certificate=private.original,
        extraCertChain=[Certificate.loadPEM(pem).original for pem in chain[1:]],
        raiseMinimumTo=TLSVersion.TLSv1_2,
    )


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
        from OpenSSL import SSL  # noqa: PLC0415 - only where nothing is verified

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
