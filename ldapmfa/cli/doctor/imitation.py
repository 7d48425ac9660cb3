"""A program's login, imitated against the running proxy: where it connects, who binds, and what came of it.

Promised here: passwords come by prompts, files or standard input; the proxy's certificate is verified, by --ca-file as
a program would, or else by being the very one that the listener's file holds. Not in here: the programs (`programs`),
and the words for what broke (`advice`).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from ldapmfa.audit import LoginEnded
from ldapmfa.cli.command import Failed
from ldapmfa.cli.doctor.advice import AREA, Case, Installed, advise
from ldapmfa.cli.doctor.conversation import Person, Place, Stage, Step, Stopped, Who
from ldapmfa.cli.doctor.finding import Finding
from ldapmfa.cli.doctor.programs import Program
from ldapmfa.config import Config, Listen
from ldapmfa.core.application import Peer
from ldapmfa.core.policy import Address
from ldapmfa.core.secret import Secret
from ldapmfa.errors import LdapMfaError
from ldapmfa.net import assembly, service

#: Seconds within which a refusal must be in the audit trail: it is written behind the answer.
_WRITTEN: Final = 3.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be imitated, as the command line says it. `patience`: instead of the programs' own."""

    place: Place
    user: str
    base: str
    attribute: str
    service: Person | None
    patience: int | None = None


def listener_of(config: Config, at: str | None, name: str | None) -> Listen:
    """The listener that is meant: by its name, by the port in `at`, or the first at a port."""
    known = {listen.name: listen for listen in config.listen}
    if name is not None:
        if name not in known:
            raise Failed(2, f"--listener: {config.source} has no listener {name}, only {', '.join(known)}")
        return known[name]
    with_port = [listen for listen in config.listen if listen.where.port is not None]
    if at is not None:
        port = _parsed(at)[2]
        return next((listen for listen in with_port if listen.where.port == port), config.listen[0])
    if not with_port:
        raise Failed(2, "--at: is needed, for no listener of the configuration has a port")
    return with_port[0]


def place_of(listen: Listen, at: str | None, ca_file: Path | None, *, clear: bool) -> Place:
    """Where to connect: at `at`, or at the listener itself."""
    if at is not None:
        ldaps, host, port = _parsed(at)
    else:
        address = listen.where.address
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(str(address), str(address))  # noqa: S104 - not bound to
        ldaps, port = listen.tls == "ldaps", listen.where.port or 0
    if not ldaps and (clear or listen.tls == "none"):
        return Place(host, port, "none")
    return Place(host, port, "ldaps" if ldaps else "starttls", _context(listen, ca_file), host)


def _parsed(at: str) -> tuple[bool, str, int]:
    from ldapmfa.config.values import DirectoryUri  # noqa: PLC0415 - takes long

    try:
        uri = DirectoryUri.parse(at)
    except ValueError as wrong:
        raise Failed(2, f"--at: {wrong}") from None
    return uri.tls, uri.host, uri.port


def _context(listen: Listen, ca_file: Path | None) -> ssl.SSLContext:
    """Trusts those of `ca_file`; without it, the certificate that the listener presents, and no other."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        if ca_file is not None:
            context.load_verify_locations(cafile=ca_file)
        elif listen.certificate is not None:
            context.check_hostname = False
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            pem = listen.certificate.read_text()
            first = pem[pem.index("-----BEGIN CERTIFICATE-----") : pem.index("-----END CERTIFICATE-----")]
            context.load_verify_locations(cadata=first + "-----END CERTIFICATE-----\n")
        else:
            context.load_default_certs()
    except (OSError, ValueError) as failed:
        raise Failed(2, f"{ca_file or listen.certificate}: is no PEM file of certificates: {failed}") from None
    return context


def installed(config: Config, listen: Listen, place: Place) -> Installed:
    """What holds for a program of this machine that connects to `place`."""
    client = _own_address(place)
    application = assembly.application_of(config, Peer(listen.name, client, None))
    return Installed(config, listen, application, str(client), lambda reference: _recorded(config, reference))


def _own_address(place: Place) -> Address:
    """The address from which this machine connects there."""
    family, kind, protocol, _, address = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(address)  # a datagram socket: nothing is sent
        return ip_address(probe.getsockname()[0])


def imitate(
    program: Program, wanted: Wanted, at: Installed, typed: Secret, told: Callable[[Step], None]
) -> Iterator[Finding]:
    """One program's login with what the user `typed`, and what is to be said of it."""
    if any(ip_address(at.client) in network for network in at.listen.proxy_protocol_from):
        yield AREA.skipped(
            program.name,
            f"{at.client} is in proxy_protocol_from of {at.listen.name}, which demands a PROXY header of it: run this"
            " elsewhere, or let --at name the load balancer.",
        )
        return
    patience = wanted.patience or program.patience
    people: dict[Who, Person] = {"user": Person(wanted.user, typed)}
    if wanted.service:
        people["service"] = wanted.service
    stage = Stage(wanted.place, wanted.base, people, patience, wanted.user, wanted.attribute, told=told)
    try:
        program.play(stage)
        if program.again:
            stage.again = True
            stage.bind(stage.connect(), "user")
    except Stopped:
        pass  # the last step says why
    finally:
        stage.close()
    own = wanted.service.name if wanted.service else ""
    yield from advise(lambda step: Case(program, step, patience, own, at), stage.steps)


def _recorded(config: Config, reference: str) -> LoginEnded | None:
    """What the audit trail of the store has under a reference code; None if it can't be read."""

    async def look() -> LoginEnded | None:
        store = await service.open_store(config, migrate=False)
        try:
            until = time.monotonic() + _WRITTEN
            while time.monotonic() < until:
                for event in await store.events(reference=reference, limit=1):
                    if isinstance(event, LoginEnded):
                        return event
                await asyncio.sleep(0.1)
            return None
        finally:
            await store.close()

    try:
        return asyncio.run(look())
    except (LdapMfaError, OSError):
        return None
