"""Certificates in files: their days, names, chains, keys and strength.

Not in here: those that servers present (`directories`), and whether the running proxy presents these (`process`).
"""

from __future__ import annotations

import datetime as dt
import socket
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import dsa, rsa
from cryptography.hazmat.primitives.hashes import MD5, SHA1
from cryptography.x509.oid import ExtendedKeyUsageOID

from ldapmfa.cli.doctor.finding import Area, Finding
from ldapmfa.cli.doctor.patient import Patient
from ldapmfa.config import Config, Listen
from ldapmfa.errors import ConfigError
from ldapmfa.net.tls import server_context

_AREA: Final = Area("certificates")
#: Days before its end from which on a certificate is warned of, as by the running program.
DAYS: Final = 21
#: The shortest RSA key that current programs accept.
_RSA: Final = 2048


def certificates(patient: Patient) -> Iterator[Finding]:
    """Those of listeners, and of the authorities that are trusted."""
    found = 0
    for number, listen in enumerate(patient.config.listen):
        if listen.certificate and listen.key:
            found += 1
            yield from _of_listener(f"listen[{number}].certificate", listen)
    for key, file in _authorities(patient.config):
        found += 1
        yield from _of_authorities(key, file)
    if not found:
        yield _AREA.skipped("files", "the configuration names no certificate")


def _of_listener(key: str, listen: Listen) -> Iterator[Finding]:
    assert listen.certificate is not None and listen.key is not None  # noqa: PT018, S101 - for mypy
    try:
        server_context(listen.certificate, listen.key)
        chain = x509.load_pem_x509_certificates(listen.certificate.read_bytes())
    except (ConfigError, OSError, ValueError) as wrong:
        yield _AREA.broken(key, str(wrong), "Name a PEM file with the certificate first, and its own key in `key`.")
        return
    first = chain[0]
    yield days(_AREA, key, first, f"{listen.certificate}")
    for other in chain[1:]:
        if _days_left(other) < DAYS:
            yield days(_AREA, f"{key} (chain)", other, other.subject.rfc4514_string())
    yield from _strength(key, first)
    yield _chain(key, chain)
    yield _names(key, first)
    yield from _purpose(key, first)


def _authorities(config: Config) -> Iterator[tuple[str, Path]]:
    for number, listen in enumerate(config.listen):
        if listen.client_ca_file:
            yield f"listen[{number}].client_ca_file", listen.client_ca_file
    for name, directory in config.every_directory.items():
        if directory.ca_file:
            yield f"{'directory' if name == 'default' else f'directories.{name}'}.ca_file", directory.ca_file


def _of_authorities(key: str, file: Path) -> Iterator[Finding]:
    try:
        found = x509.load_pem_x509_certificates(file.read_bytes())
    except (OSError, ValueError) as wrong:
        yield _AREA.broken(key, f"{file}: {wrong}", "Name a PEM file of the authorities' certificates.")
        return
    soonest = min(found, key=lambda certificate: certificate.not_valid_after_utc)
    if len(found) > 1 and _days_left(soonest) < 0 <= max(map(_days_left, found)):
        yield _AREA.warning(
            key, f"{file}: {soonest.subject.rfc4514_string()} has expired; others have not", f"Remove it from {file}."
        )
        return
    yield days(_AREA, key, soonest, f"{file}: {soonest.subject.rfc4514_string()}")


def days(area: Area, key: str, certificate: x509.Certificate, what: str) -> Finding:
    """How many days a certificate has left."""
    left = _days_left(certificate)
    if certificate.not_valid_before_utc > dt.datetime.now(dt.UTC):
        begins = f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M}"
        return area.broken(key, f"{what} is not valid before {begins} UTC", "Set the clock right, or have it reissued.")
    if left < 0:
        return area.broken(key, f"{what} expired {-left:.0f} days ago", "Have it renewed.")
    if left < DAYS:
        return area.warning(key, f"{what} expires in {left:.0f} days", "Have it renewed.")
    return area.ok(key, f"{what} has {left:.0f} days left")


def _days_left(certificate: x509.Certificate) -> float:
    return (certificate.not_valid_after_utc - dt.datetime.now(dt.UTC)) / dt.timedelta(days=1)


def _strength(key: str, certificate: x509.Certificate) -> Iterator[Finding]:
    if isinstance(certificate.signature_hash_algorithm, (SHA1, MD5)):
        name = certificate.signature_hash_algorithm.name
        yield _AREA.broken(key, f"it is signed with {name}, which programs refuse", "Have it signed with SHA-256.")
    public = certificate.public_key()
    if isinstance(public, (rsa.RSAPublicKey, dsa.DSAPublicKey)) and public.key_size < _RSA:
        yield _AREA.broken(key, f"its key has {public.key_size} bits, too few for programs", f"Use {_RSA} bits, or EC.")


def _chain(key: str, chain: list[x509.Certificate]) -> Finding:
    for lower, upper in pairwise(chain):
        try:
            lower.verify_directly_issued_by(upper)
        except (ValueError, TypeError, InvalidSignature):
            return _AREA.broken(
                key,
                f"the chain is broken: {lower.subject.rfc4514_string()} was not issued by what stands behind it,"
                f" {upper.subject.rfc4514_string()}",
                "Put each certificate's issuer right behind it in the file.",
            )
    last = chain[-1]
    if last.issuer == last.subject:
        what = "it signed itself: every program must trust it by itself" if len(chain) == 1 else "it ends with its root"
    else:
        what = f"programs must trust {last.issuer.rfc4514_string()}"
    return _AREA.ok(key, f"the chain has {len(chain)}; {what}")


def _names(key: str, certificate: x509.Certificate) -> Finding:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    known = [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
    if not known:
        return _AREA.broken(
            key, "it has no subject alternative name, and programs look at nothing else", "Have it made out to a name."
        )
    here = socket.getfqdn()
    if any(_covers(name, here) for name in known):
        return _AREA.ok(key, f"it is made out to {', '.join(known)}; this machine is called {here}")
    return _AREA.ok(key, f"programs must connect to one of {', '.join(known)}; this machine is called {here}")


def _covers(name: str, host: str) -> bool:
    name, host = name.lower(), host.lower()
    return name == host or (name.startswith("*.") and host.partition(".")[2] == name[2:])


def _purpose(key: str, certificate: x509.Certificate) -> Iterator[Finding]:
    try:
        uses = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return
    if not {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & set(uses):
        fix = "Have it issued for server authentication."
        yield _AREA.broken(key, "it is not for servers (extended key usage)", fix)
