"""Servers that the DNS names: which of them count, for how long, and what happens when it says something else, or nothing."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.names import dns

from ldapmfa.errors import DirectoryDown
from ldapmfa.net.discovery import Answer, Discovery, Srv, _of_the_machine, read
from ldapmfa.net.link import Server
from ldapmfa.net.servers import Place

SRV = Srv("_ldap._tcp.example.test", ("example.test",))


def record(host, port=389, priority=0, weight=100, *, ttl=600, kind=dns.SRV):
    payload = dns.Record_SRV(priority, weight, port, host, ttl) if kind == dns.SRV else dns.Record_A("10.0.0.1", ttl)
    return dns.RRHeader("_ldap._tcp.example.test", kind, dns.IN, ttl, payload)


def test_records_are_read():
    answer = read(
        [record("DC1.example.test.", priority=1), record("dc2.example.test", 3389, 0, 7, ttl=30), record("x", kind=dns.A)], SRV
    )
    assert answer == Answer(
        (Place(Server("dc1.example.test", 389, ldaps=False), 1, 100), Place(Server("dc2.example.test", 3389, ldaps=False), 0, 7)),
        (), 30.0,
    )
    secure = read([record("dc1.example.test", 636)], Srv(SRV.name, SRV.domains, ldaps=True))
    assert secure.places[0].server == Server("dc1.example.test", 636, ldaps=True)
    assert read([record("x", kind=dns.A)], SRV) is None
    assert read([], SRV) is None
    assert read([record("", port=0)], SRV).places == (), "RFC 2782: there is no such service"


@pytest.mark.parametrize(
    "host",
    ["evil.test", "example.test.evil.test", "evilexample.test", "test", "dc1.example.test\nfake", "dc1 .example.test", "*.example.test", "10.0.0.1"],
)
def test_A40_a_host_elsewhere_is_no_server_however_well_its_certificate_may_be(host):
    answer = read([record("dc1.example.test"), record(host)], SRV)
    assert [place.server.host for place in answer.places] == ["dc1.example.test"]
    assert len(answer.strangers) == 1


def test_further_domains_may_be_trusted():
    srv = Srv(SRV.name, ("example.test", "corp.test"))
    assert len(read([record("dc1.example.test"), record("dc2.corp.test"), record("corp.test")], srv).places) == 3


@pytest.mark.parametrize(("ttl", "seconds"), [(0, 5), (4, 5), (60, 60), (86400, 3600)])
def test_how_long_an_answer_counts(ttl, seconds):
    assert read([record("dc1.example.test", ttl=ttl), record("dc2.example.test", ttl=90000)], SRV).seconds == seconds


@given(st.binary(max_size=40), st.integers(0, 65535), st.integers(0, 65535), st.integers(0, 65535))
def test_whatever_a_record_says_only_hosts_of_the_domain_are_servers(host, port, priority, weight):
    entry = record("x")
    entry.payload.target.name, entry.payload.port, entry.payload.priority, entry.payload.weight = host, port, priority, weight
    for place in read([entry], SRV).places:
        assert place.server.host.endswith("example.test")
        assert place.server.port


class Asked:
    def __init__(self):
        self.clock = Clock()
        self.answers = []
        self.found = []
        self.said = []
        self.times = []
        self.discovery = Discovery(self.ask, self.clock, self.found.append, lambda what, detail: self.said.append((what, detail)))

    async def ask(self):
        self.times.append(self.clock.seconds())
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def advance(self, seconds):
        for _ in range(seconds):
            for _ in range(5):
                await asyncio.sleep(0)
            self.clock.advance(1)
        for _ in range(5):
            await asyncio.sleep(0)


def answer(*hosts, seconds=20.0, strangers=()):
    return Answer(tuple(Place(Server(host, 389, ldaps=False)) for host in hosts), strangers, seconds)


async def test_an_answer_counts_as_long_as_it_says_and_the_last_one_on_when_the_dns_is_gone():
    asked = Asked()
    gone = DirectoryDown("no name server answered")
    asked.answers = [answer("a.test"), answer("a.test", seconds=30.0), answer("b.test"), gone, gone, answer("b.test", seconds=900.0)]
    running = asyncio.ensure_future(asked.discovery.run())
    await asked.advance(100)
    assert asked.times == [0, 20, 50, 70, 80, 90]
    assert [[place.server.host for place in places] for places in asked.found] == [["a.test"], ["a.test"], ["b.test"], ["b.test"]]
    assert asked.said == [
        ("servers", "ldap://a.test:389"), ("servers", "ldap://b.test:389"),
        ("away", "no name server answered; the servers last known are used on"), ("back", ""),
    ]
    running.cancel()


async def test_hosts_elsewhere_are_told_once():
    asked = Asked()
    asked.answers = [answer("a.test", strangers=("evil.org",)), answer("a.test", strangers=("evil.org",)), answer("a.test")]
    for _ in range(3):
        await asked.discovery.once()
    assert asked.said == [("strangers", "evil.org"), ("servers", "ldap://a.test:389")]


async def test_a_first_look_up_that_fails_says_why():
    asked = Asked()
    asked.answers = [DirectoryDown("no name server answered")]
    assert not asked.discovery.asked
    with pytest.raises(DirectoryDown, match="no name server"):
        await asked.discovery.once()
    assert (asked.discovery.asked, asked.discovery.trouble) == (True, "no name server answered")
    asked.answers = [answer()]
    await asked.discovery.once()
    assert asked.said[-2:] == [("back", ""), ("servers", "none")]


def test_the_name_servers_of_the_machine(tmp_path):
    conf = tmp_path / "resolv.conf"
    assert _of_the_machine(conf) == [("127.0.0.1", 53)]
    conf.write_text("# nameserver 1.1.1.1\nnameserver 10.0.0.53\nsearch x\nnameserver\nnameserver nonsense\nnameserver ::1 # x\n")
    assert _of_the_machine(conf) == [("10.0.0.53", 53), ("::1", 53)]
