"""The running proxy: whether it listens, whether it answers, and whether it presents the certificate of the file.

Promised here: a listener is asked for the rootDSE at most; nobody logs in. Not in here: logins (`imitation`).
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
from collections.abc import Iterator
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

from ldapmfa.cli.doctor.finding import Area, Finding
from ldapmfa.config import Listen
from ldapmfa.config.values import Endpoint
from ldapmfa.wire import ldap
from ldapmfa.wire.ber import BerError

if TYPE_CHECKING:
    from ldapmfa.cli.doctor.patient import Patient

_AREA: Final = Area("process")
#: Seconds that a listener may take to answer.
_PATIENCE: Final = 5.0
_START: Final = "Start it: `systemctl status ldapmfa`, or `ldapmfa run`."
_RELOAD: Final = (
    "It reads changed files again within seconds, if certificate and key belong together: see --only certificates, and"
    " `certificates not renewed` in its log."
)
#: What a balancer says of a connection that it opens for itself.
_HEADER: Final = b"PROXY UNKNOWN\r\n"


def process(patient: Patient) -> Iterator[Finding]:
    """Each listener, from here."""
    if patient.pid is None:
        yield _AREA.skipped("process", "no process of this configuration is seen from here")
    else:
        yield _AREA.ok("process", f"it runs, as {patient.pid}")
    for listen in patient.config.listen:
        yield from _listener(listen)
    if patient.config.metrics.endpoint:
        yield _ready(Endpoint.parse(patient.config.metrics.endpoint))


def _listener(listen: Listen) -> Iterator[Finding]:
    key = f"listener {listen.name}"
    if listen.where.kind == "systemd":
        yield _AREA.skipped(key, "systemd opened its socket: which that is, is not known here")
        return
    try:
        with contextlib.ExitStack() as stack:
            link: socket.socket = stack.enter_context(_connected(listen))
            if _is_balancer(link, listen):
                link.sendall(_HEADER)
            if listen.tls == "ldaps" or (listen.tls == "starttls" and _start_tls(link)):
                link, presented = _encrypted(stack, link)
                yield _same(key, listen, presented or b"")
            if listen.require_client_certificate:
                yield _AREA.skipped(key, "it demands a client's certificate before it answers")
            else:
                yield _answer(key, link)
    except ssl.SSLError as failed:
        yield _AREA.broken(key, f"TLS failed: {failed.reason or failed}", "The log says why, at `client turned away`.")
    except (OSError, BerError, EOFError) as failed:
        why = getattr(failed, "strerror", None) or str(failed) or "the connection was closed"
        yield _AREA.broken(key, f"{listen.endpoint}: {why}", _START)


def _ready(where: Endpoint) -> Finding:
    """What /readyz says, where it is served."""
    if where.port is None:
        return _AREA.skipped("metrics.endpoint", "it is at no port")
    link = http.client.HTTPConnection(_host(where), where.port, timeout=_PATIENCE)
    try:
        link.request("GET", "/readyz")
        answer = link.getresponse()
        problems = [str(problem) for problem in json.loads(answer.read()).get("problems", [])]
    except (OSError, http.client.HTTPException, ValueError, AttributeError) as failed:
        return _AREA.broken("metrics.endpoint", f"/readyz can't be read: {failed}", _START)
    finally:
        link.close()
    if answer.status != http.HTTPStatus.OK:
        why = "; ".join(problems) or f"HTTP {answer.status}"
        return _AREA.broken("metrics.endpoint", f"it is not ready: {why}", "See what is broken above, and its log.")
    return _AREA.ok("metrics.endpoint", "it says that it is ready")


def _host(where: Endpoint) -> str:
    """Where this machine finds a listener that may be everywhere."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(str(where.address), str(where.address))  # noqa: S104 - not bound to


def _connected(listen: Listen) -> socket.socket:
    where = listen.where
    if where.port is None:
        link = socket.socket(socket.AF_UNIX)
        link.settimeout(_PATIENCE)
        link.connect(where.given["address"])
        return link
    return socket.create_connection((_host(where), where.port), timeout=_PATIENCE)


def _is_balancer(link: socket.socket, listen: Listen) -> bool:
    """Whether we are taken for a load balancer, whose header comes first."""
    if link.family == socket.AF_UNIX:
        return False
    here = ip_address(link.getsockname()[0])
    return any(here in network for network in listen.proxy_protocol_from)


def _encrypted(stack: contextlib.ExitStack, link: socket.socket) -> tuple[ssl.SSLSocket, bytes | None]:
    """The same connection in TLS, and what it presented: whatever that is, it is compared with the file."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    encrypted = stack.enter_context(context.wrap_socket(link))
    return encrypted, encrypted.getpeercert(binary_form=True)


def _answer(key: str, link: socket.socket) -> Finding:
    """A search for the rootDSE is answered, be it refused."""
    link.sendall(ldap.message(1, ldap.search_request(b"", ("objectClass",), scope=ldap.BASE, where=ldap.ANY_ENTRY)))
    frame = _frame(link)
    while frame.tag == ldap.SEARCH_ENTRY:
        frame = _frame(link)
    code = ldap.read_result(frame).code
    if code == ldap.UNAVAILABLE:
        return _AREA.broken(key, "it answers that the directory is not available", "See the directories above.")
    if code == ldap.BUSY:
        return _AREA.warning(key, "it answers that it is busy", "See limits.connections, and who is connected.")
    return _AREA.ok(key, f"it answers (code {code})")


def _start_tls(link: socket.socket) -> bool:
    link.sendall(ldap.message(2, ldap.extended_request(ldap.OID_START_TLS)))
    return ldap.read_result(_frame(link)).code == ldap.SUCCESS


def _frame(link: socket.socket) -> ldap.Frame:
    """The next message, and nothing behind it."""
    received = b""
    while True:
        frame = ldap.read_frame(received, 0, 1 << 20) if received else 0
        if isinstance(frame, ldap.Frame):
            return frame
        octets = link.recv(max(1, frame - len(received)))
        if not octets:
            raise EOFError
        received += octets


def _same(key: str, listen: Listen, presented: bytes) -> Finding:
    """Whether the certificate of the file is the one that is presented."""
    running = x509.load_der_x509_certificate(presented)
    file = listen.certificate
    try:
        there = x509.load_pem_x509_certificates(file.read_bytes())[0] if file else running
    except (OSError, ValueError, IndexError):
        return _AREA.skipped(key, f"{file} can't be read to be compared")
    if running.fingerprint(SHA256()) == there.fingerprint(SHA256()):
        return _AREA.ok(key, f"it presents the certificate in {file}")
    ends = f"{running.not_valid_after_utc:%Y-%m-%d}"
    return _AREA.warning(key, f"it presents another certificate than {file} has, one that ends {ends}", _RELOAD)
