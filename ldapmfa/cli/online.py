"""What `ldapmfa check-config` finds beyond the configuration's own mistakes: at the directories, and in certificates.

Every server is tried twice: step by step with the standard library, whose errors say which step failed and why
(name, connection, StartTLS, certificate), then as a login does it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

from cryptography import x509

from ldapmfa.cli import services
from ldapmfa.config import Config, Endpoint
from ldapmfa.core.identity import CannotIdentify, Identity, sid_octets
from ldapmfa.errors import ConfigError, DirectoryDown
from ldapmfa.net import service
from ldapmfa.net.directory import Directory, DirectorySettings
from ldapmfa.net.link import Server
from ldapmfa.store.seal import Seal
from ldapmfa.wire import ldap
from ldapmfa.wire.ber import BerError

#: Days before its end from which on a certificate is warned of.
_DAYS: Final = 14
_PRODUCTS: Final = {
    "active-directory": "Active Directory",
    "openldap": "OpenLDAP",
    "389-ds": "389 Directory Server",
}


@dataclass
class Checked:
    """What was found out about one server; `mistakes` are the configuration's, `broken` is what can't be reached."""

    directory: str
    server: str
    kind: str | None = None
    encrypted: bool = False
    service_account: str | None = None
    mistakes: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def summary(self) -> str:
        """What it is, in words."""
        words = [_PRODUCTS.get(self.kind or "", "unknown"), "encrypted" if self.encrypted else "in clear text"]
        if self.service_account:
            words.append(f"service account {self.service_account} bound")
        return ", ".join(words)

    def as_dict(self) -> dict[str, Any]:
        """The same as values."""
        return {
            "directory": self.directory,
            "server": self.server,
            "kind": self.kind,
            "encrypted": self.encrypted,
            "service_account": self.service_account,
        }


def key_mistakes(settings: Config) -> list[str]:
    """What is wrong with the key file, if it is: its mode, or what is in it."""
    try:
        Seal(settings.store.key_file, entropy=os.urandom)
    except ConfigError as wrong:
        return wrong.mistakes
    return []


async def store_risks(settings: Config) -> list[str]:
    """What endangers what is kept in a store that is a server's. ConfigError, StoreDown: it can't be opened."""
    if settings.store.sqlite_file is not None:
        return []
    store = await service.open_store(settings, migrate=False)
    try:
        return await store.risks()
    finally:
        await store.close()


def warnings(config: Config) -> list[str]:
    """What is no mistake, and yet dangerous, in the configuration and the listeners' certificates."""
    found = dangers(config)
    for number, listen in enumerate(config.listen):
        if listen.certificate:
            found += _ending(_first_certificate(listen.certificate), f"listen[{number}].certificate")
    return found


def dangers(config: Config) -> list[str]:
    """What is no mistake, and yet dangerous, in the configuration alone."""
    found = []
    for name, directory in config.every_directory.items():
        place = _place(name)
        if not directory.verify_certificate:
            found.append(
                f"{place}.verify_certificate: is false: anybody between here and the directory can read every "
                f"password and let anybody in; set {place}.ca_file to the authority's certificate instead"
            )
        if directory.phone_attribute:
            found.append(
                f"{place}.phone_attribute: is {directory.phone_attribute}: see that users can't write it themselves, "
                "as they can at Active Directory; `ldapmfa user import-phones` takes the numbers over once instead"
            )
        if not directory.starttls:
            exposed = [server.host for server in directory.servers if not server.tls and not is_loopback(server.host)]
            if directory.srv and not directory.srv.tls:
                exposed = [f"whatever host the DNS names for {directory.srv.name}"]
            hint = "write ldaps://, or set starttls = true"
            found += [f"{place}.uris: passwords go to {host} in clear text: {hint}" for host in exposed]
    found += _warnings_of_services(config)
    found += _warnings_of_applications(config)
    if config.metrics.endpoint and not Endpoint.parse(config.metrics.endpoint).local:
        found.append(
            f"metrics.endpoint: others than this machine can connect to {config.metrics.endpoint}, and need not prove"
            " who they are: let a firewall say who may, or listen on interface=127.0.0.1"
        )
    return found


def _warnings_of_services(config: Config) -> Iterator[str]:
    for name, table in config.factors.items():
        if name not in config.every_factor:
            yield (
                f'factors.{name}: nobody is asked by it: login.factors does not have "{name}", nor do those of an'
                " application or a rule"
            )
        for key in type(table).model_fields:
            file = getattr(table, key)
            if key.endswith("_file") and key != "ca_file" and file is not None and _is_open(file):
                yield f"factors.{name}.{key}: {file} can be read by everybody: chmod 640 {file}, or 600"
    if "keywords" in config.login.model_fields_set and set(config.factors) & set(config.every_factor):
        known = services.ways(config)
        for word, method in config.login.keywords.items():
            if method.partition(":")[0] not in known:
                yield f"login.keywords.{word}: nobody can be asked by {method}; known are {', '.join(known)}"


def _warnings_of_applications(config: Config) -> Iterator[str]:
    for number, application in enumerate(config.application):
        doors = [one for one in config.listen if application.listeners is None or one.name in application.listeners]
        if application.certificates and not any(one.client_ca_file for one in doors):
            where = " or ".join(one.name for one in doors)
            yield f"application[{number}].certificates: nobody is asked for one: set client_ca_file at listener {where}"
    names = [rule.name for rule in config.rule]
    for number, name in enumerate(names):
        if name in names[:number]:
            yield f"rule[{number}].name: {name} is another rule's name too: the audit trail does not tell them apart"


async def check(config: Config, reactor: Any) -> list[Checked]:
    """Try every server of every directory."""
    tried, found = [], []
    for name, table in config.every_directory.items():
        settings = service.directory_settings(name, table)
        groups = _groups(config, table.identity_name)
        if settings.srv:
            try:
                servers = await service.directories(config, reactor)[name].find_servers()
            except DirectoryDown as why:
                found.append(Checked(name, str(settings.srv), broken=[f"{_place(name)}.uris: {why}"]))
                servers = ()
        else:
            servers = settings.servers
        tried += [_check(settings, server, reactor, groups) for server in servers]
        if settings.global_catalog:
            # no service account there: what the login binds is another matter
            catalog = replace(settings, service_dn=None, service_password=None)
            tried.append(_check(catalog, settings.global_catalog, reactor, {}))
    return found + list(await asyncio.gather(*tried))


def _groups(config: Config, directory: str) -> dict[str, str]:
    """The groups that rules about `directory` name, with where the first names each."""
    found: dict[str, str] = {}
    for number, rule in enumerate(config.rule):
        if rule.directory in (None, directory):
            for position, group in enumerate(rule.groups or ()):
                found.setdefault(group, f"rule[{number}].groups[{position}]")
    return found


async def _check(
    settings: DirectorySettings, server: Server, reactor: Any, groups: Mapping[str, str]
) -> Checked:
    """`groups` are those that rules name, and where: each must be there, or no login goes by it."""
    place = _place(settings.name)
    checked = Checked(settings.name, str(server), encrypted=server.ldaps or settings.starttls)
    if not await asyncio.get_running_loop().run_in_executor(None, _connect, settings, server, checked):
        return checked
    directory = Directory(replace(settings, servers=(server,), srv=None), reactor, service.message_id)
    try:
        link = await directory.connect()
        try:
            checked.kind = (await directory.capabilities(link)).kind
        finally:
            link.close()
    except CannotIdentify as why:
        checked.mistakes.append(f"{place}.uris: {server} can tell us nobody's identity: {why}")
        return checked
    except DirectoryDown as why:
        checked.broken.append(f"{place}.uris: {why}")
        return checked
    if settings.service_dn is not None:
        try:
            (await directory.service_link()).close()
        except DirectoryDown as why:
            checked.mistakes.append(f"{place}.service_account: {server}: {settings.service_dn}: {why}")
        else:
            checked.service_account = settings.service_dn
            await _check_groups(directory, groups, checked)
    return checked


async def _check_groups(directory: Directory, groups: Mapping[str, str], checked: Checked) -> None:
    """Whether the service account finds the groups; in which an account is nobody asks here."""
    settings = directory.settings
    somebody = Identity(settings.identity_name, "check", settings.service_dn or "", sids=(sid_octets("S-1-0-0"),))
    for group, key in groups.items():
        try:
            await directory.groups(None, somebody, (group,))
        except CannotIdentify as why:
            until = "until it is, logins that the rule may be about are refused"
            checked.mistakes.append(f"{key}: {checked.server}: {why}; {until}")
        except DirectoryDown as why:
            checked.broken.append(f"{key}: {why}")


# -- step by step


def _connect(settings: DirectorySettings, server: Server, checked: Checked) -> bool:
    """Look up, connect, encrypt; whether all went well."""
    place = _place(settings.name)
    try:
        socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)
    except OSError as error:
        why = error.strerror or error
        checked.broken.append(f"{place}.uris: {server}: the name {server.host} can't be looked up: {why}")
        return False
    try:
        link = socket.create_connection((server.host, server.port), timeout=settings.connect_timeout)
    except OSError as error:
        checked.broken.append(f"{place}.uris: {server}: can't be connected to: {error.strerror or error}")
        return False
    with link:
        if not checked.encrypted:
            return True
        link.settimeout(settings.response_timeout)
        try:
            if not server.ldaps:
                _start_tls(link)
            with tls_context(settings).wrap_socket(link, server_hostname=server.host) as encrypted:
                der = encrypted.getpeercert(binary_form=True)
        except ssl.SSLCertVerificationError as error:
            checked.mistakes.append(
                f"{place}.ca_file: the certificate of {server} is not accepted: {error.verify_message}: name the "
                f"authority that signed it, and in {place}.uris the host that it is made out to"
            )
            return False
        except (OSError, BerError, DirectoryDown) as error:
            said = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
            checked.broken.append(f"{place}.uris: {server}: TLS failed: {said}")
            return False
    checked.warnings += _ending(x509.load_der_x509_certificate(der) if der else None, f"{place}: {server}")
    return True


def tls_context(settings: DirectorySettings) -> ssl.SSLContext:
    """As strict as a login's, with the standard library."""
    context = ssl.create_default_context(cafile=settings.ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not settings.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _start_tls(link: socket.socket) -> None:
    """RFC 4511 section 4.14."""
    link.sendall(ldap.message(1, ldap.extended_request(ldap.OID_START_TLS)))
    received = b""
    while isinstance(frame := ldap.read_frame(received, 0, 65536) if received else 0, int):
        octets = link.recv(4096)
        if not octets:
            raise DirectoryDown("the server closed the connection at StartTLS")
        received += octets
    code = ldap.read_result(frame).code
    if code != ldap.SUCCESS:
        raise DirectoryDown(f"StartTLS was answered with {code}")


# -- certificates, places


def _ending(certificate: x509.Certificate | None, what: str) -> Iterator[str]:
    if certificate is None:
        return
    days = (certificate.not_valid_after_utc.timestamp() - time.time()) / 86400
    if days < 0:
        yield f"{what}: the certificate expired {-days:.0f} days ago"
    elif days < _DAYS:
        yield f"{what}: the certificate expires in {days:.0f} days"


def _first_certificate(file: Path) -> x509.Certificate | None:
    try:
        return x509.load_pem_x509_certificates(file.read_bytes())[0]
    except (OSError, ValueError, IndexError):
        return None  # a mistake that is listed as such


def _is_open(file: Path) -> bool:
    """Whether everybody may read it."""
    try:
        return bool(file.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False  # a mistake that is listed as such


def _place(name: str) -> str:
    return "directory" if name == "default" else f"directories.{name}"


def is_loopback(host: str) -> bool:
    """Whether it is this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
