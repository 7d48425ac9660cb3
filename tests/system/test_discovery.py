"""Servers that a real name server names, over UDP: records that change, a DNS that goes and comes back, and spoofs."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from system.servers.common import wait_for
from system.servers.nameserver import NAME, NameServer
from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IHostnameResolver
from twisted.names import dns
from zope.interface import implementer

from ldapmfa.config import Config, Directory, Listen
from ldapmfa.errors import DirectoryDown
from ldapmfa.net import discovery, service
from ldapmfa.net.discovery import Srv, look_up
from ldapmfa.net.link import Server
from ldapmfa.net.names import Names


@pytest.fixture
def names():
    with NameServer() as server:
        yield server


def srv(names, **changes):
    return Srv(**{"name": NAME, "domains": ("example.test",), "nameservers": names.where, **changes})


async def test_records_come_as_they_are(names):
    names.records = [(0, 100, 389, "dc1.example.test"), (5, 0, 3389, "dc2.sub.example.test"), (0, 1, 389, "elsewhere.test")]
    names.ttl = 77
    answer = await look_up(srv(names), reactor, 5)
    assert [(place.server, place.priority, place.weight) for place in answer.places] == [
        (Server("dc1.example.test", 389, ldaps=False), 0, 100), (Server("dc2.sub.example.test", 3389, ldaps=False), 5, 0),
    ]
    assert (answer.strangers, answer.seconds) == (("elsewhere.test",), 77.0)


@pytest.mark.parametrize(
    ("says", "records", "why"),
    [
        (dns.ENAME, [], "has no name _ldap"),
        (dns.ESERVER, [], "can't be asked"),
        (dns.EREFUSED, [], "can't be asked"),
        (dns.OK, [], "has no SRV record"),
        (dns.OK, [(0, 0, 389, "evil.test")], r"names no host in example\.test .*, but evil\.test"),
        ("nothing", [], "no name server answered"),
        ("garbage", [], NAME),
    ],
)
async def test_no_answer_says_why(names, says, records, why):
    names.says, names.records = says, records
    with pytest.raises(DirectoryDown, match=why):
        await look_up(srv(names), reactor, 0.3)
    await asyncio.sleep(0.01)


async def test_many_servers_come_by_tcp_and_the_connection_is_closed(names):
    names.says = "too long"
    names.records = [(0, 100, 389, f"dc{number}.a-site-with-a-long-name.example.test") for number in range(40)]
    with ThreadPoolExecutor(1) as pool:
        closed = pool.submit(names.answer_by_tcp)
        await asyncio.sleep(0.1)
        answer = await look_up(srv(names), reactor, 5)
        assert len(answer.places) == 40
        assert await asyncio.wrap_future(closed)


async def test_a_name_server_that_cuts_off_what_comes_by_tcp_is_not_asked_for_ever(names):
    names.says = "cut off"
    names.records = [(0, 100, 389, f"dc{number}.a-site-with-a-long-name.example.test") for number in range(40)]
    with ThreadPoolExecutor(1) as pool:
        closed = pool.submit(names.answer_by_tcp)
        await asyncio.sleep(0.1)
        with pytest.raises(DirectoryDown, match="can't be asked"):
            await look_up(srv(names), reactor, 5)
        assert await asyncio.wrap_future(closed), "it was asked again"


async def test_no_descriptor_is_left_for_a_question(names, monkeypatch):
    def none_left(*_arguments, **_options):
        raise CannotListenError("", 0, OSError(errno.EMFILE, "too many open files"))

    monkeypatch.setattr(reactor, "listenUDP", none_left)
    with pytest.raises(DirectoryDown, match="can't be asked"):
        await look_up(srv(names), reactor, 5)


async def test_nobody_is_there(names):
    nobody = Srv(NAME, ("example.test",), nameservers=(("127.0.0.1", 9),))
    with pytest.raises(DirectoryDown, match=NAME):
        await look_up(nobody, reactor, 0.2)


async def test_the_second_name_server_is_asked_where_the_first_is_silent(names):
    names.records = [(0, 100, 389, "dc1.example.test")]
    with NameServer() as silent:
        silent.says = "nothing"
        answer = await look_up(srv(names, nameservers=silent.where + names.where), reactor, 5)
    assert len(answer.places) == 1
    assert silent.asked == 1


# -- the directory behind it


@implementer(IHostnameResolver)
class Hosts:
    """Every host of the domain is this machine."""

    def resolveHostName(self, receiver, name, port=0, kinds=None, transport="TCP"):
        receiver.resolutionBegan(None)
        if name.endswith("example.test"):
            receiver.addressResolved(IPv4Address("TCP", "127.0.0.1", port))
        receiver.resolutionComplete()


@contextlib.contextmanager
def hosts():
    before = reactor.installNameResolver(Names(Hosts(), reactor.seconds, lambda _name, _found: None))
    try:
        yield
    finally:
        reactor.installNameResolver(before)


def directory_of(names, said=None, **settings):
    table = Directory(uris=["ldap+srv://example.test"], nameservers=[f"127.0.0.1:{names.port}"], check_seconds=1, **settings)
    config = Config(listen=[Listen(endpoint="unix:x")], directory=table)
    says = (lambda what, fields: said.append((what, fields))) if said is not None else (lambda _what, _fields: None)
    return service.directories(config, reactor, says)["default"]


def keep(work):
    return asyncio.ensure_future(work)


async def until(condition, seconds=10):
    for _ in range(int(seconds * 50)):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it never came about")


async def test_the_list_follows_the_records_and_stays_when_the_dns_is_gone(names, slapd, monkeypatch):
    monkeypatch.setattr(discovery, "_COUNTS", (0.2, 3600.0))
    monkeypatch.setattr(discovery, "_AGAIN", 0.2)
    names.ttl = 0
    names.records = [(0, 100, slapd.port, "dc1.example.test")]
    said = []
    directory = directory_of(names, said, connect_timeout=0.5)
    with hosts():
        directory.begin(keep)
        try:
            await until(lambda: [state.condition for state in directory.states()] == ["up"])
            names.records = [(0, 100, slapd.port, "dc1.example.test"), (1, 100, slapd.port, "dc2.example.test")]
            await until(lambda: len(directory.states()) == 2)
            names.says = "nothing"
            await until(lambda: said[-1][0] == "directory servers can't be looked up")
            link = await directory.connect()
            assert link.server.host == "dc1.example.test"
            link.close()
            assert len(directory.states()) == 2
            names.says, names.records = dns.OK, [(0, 100, slapd.port, "dc2.example.test")]
            await until(lambda: [state.server.host for state in directory.states()] == ["dc2.example.test"])
            assert "directory servers can be looked up again" in [what for what, _ in said]
            names.records = [(0, 0, 0, "")]  # RFC 2782: no such service
            await until(lambda: not directory.states())
            with pytest.raises(DirectoryDown, match="no server"):
                await directory.connect()
        finally:
            directory.close()


async def test_the_dns_is_gone_from_the_beginning_and_comes_later(names, slapd, monkeypatch):
    monkeypatch.setattr(discovery, "_AGAIN", 0.2)
    names.says, names.records = "nothing", [(0, 100, slapd.port, "dc1.example.test")]
    directory = directory_of(names, connect_timeout=0.3)
    with hosts():
        directory.begin(keep)
        try:
            with pytest.raises(DirectoryDown, match="no name server answered"):
                await directory.connect()
            asked = names.asked
            with pytest.raises(DirectoryDown, match="no name server answered"):
                await directory.connect()
            assert names.asked <= asked + 1
            names.says = dns.OK
            await until(directory.states)
            (await directory.connect()).close()
        finally:
            directory.close()


async def test_A40_the_certificate_must_be_that_of_the_host_that_the_dns_names(names, slapd):
    """It is made out to ldap.example.test: any other host of the domain that shows it is not taken for the directory."""
    names.records = [(0, 100, slapd.port, "dc9.example.test"), (1, 100, slapd.port, "ldap.example.test")]
    directory = directory_of(names, starttls=True, ca_file=slapd.ca_file)
    with hosts():
        link = await directory.connect()
        assert link.server.host == "ldap.example.test"
        link.close()
        assert [state.condition for state in directory.states()] == ["down", "up"]
        assert "certificate" in directory.states()[0].reason or "hostname" in directory.states()[0].reason.lower()
        names.records = [(0, 100, slapd.port, "dc9.example.test")]
        with pytest.raises(DirectoryDown):
            await directory_of(names, starttls=True, ca_file=slapd.ca_file).connect()


async def test_a_synchronised_openldap_says_nothing_of_it(slapd):
    config = Config(listen=[Listen(endpoint="unix:x")], directory=Directory(uris=[slapd.uri]))
    directory = service.directories(config, reactor)["default"]
    assert await directory._check(directory.settings.servers[0]) is True
    assert directory._capabilities[directory.settings.servers[0]].kind == "openldap"


async def test_a_check_takes_no_longer_than_the_connect_timeout(slapd):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, by the kernel, and never answers
        server = Server("127.0.0.1", silent.getsockname()[1], ldaps=False)
        config = Config(listen=[Listen(endpoint="unix:x")], directory=Directory(uris=[slapd.uri], connect_timeout=0.2))
        settings = service.directories(config, reactor)["default"].settings
        for kind, why in ((server, "does not answer"), (replace(server, ldaps=True), "TLS handshake does not end within 0.2 s")):
            directory = service.Directory(settings, reactor, service.message_id)
            with pytest.raises(DirectoryDown, match=why):
                await directory._check(kind)


def test_the_name_server_of_this_test_ends():
    with NameServer() as names:
        thread = names.thread
    wait_for(lambda: not thread.is_alive())
