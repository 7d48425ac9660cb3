"""PROXY headers before a listener: from whom they are believed, and what the rest of the proxy sees."""

import ipaddress
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from world import PASSWORD, SERVICE, Client, Pipe, World, bind, extended, root_dse, search

from ldapmfa.core.policy import Exempt, Policy
from ldapmfa.core.session import Rules
from ldapmfa.net.budget import Budget
from ldapmfa.net.ldap_front import LdapFront
from ldapmfa.net.proxy_protocol import ProxyHeaderFactory, address_of
from ldapmfa.wire import ldap
from ldapmfa.wire.proxy import SIGNATURE_2

BALANCER = IPv4Address("TCP", "10.0.0.1", 1234)
TRUSTED = (ipaddress.ip_network("10.0.0.0/24"), ipaddress.ip_network("fd00::/8"))
V1 = b"PROXY TCP4 192.0.2.7 10.0.0.1 40000 389\r\n"
V1_6 = b"PROXY TCP6 2001:db8::7 fd00::1 40000 389\r\n"
MAPPED = b"PROXY TCP6 ::ffff:192.0.2.7 ::ffff:10.0.0.1 40000 389\r\n"
V2 = SIGNATURE_2 + b"\x21\x11\x00\x0c" + bytes((192, 0, 2, 7, 10, 0, 0, 1)) + b"\x9c\x40\x01\x85"
V2_6 = SIGNATURE_2 + b"\x21\x21\x00\x24" + ipaddress.ip_address("2001:db8::7").packed + bytes(16) + b"\x9c\x40\x01\x85"
LOCAL = SIGNATURE_2 + b"\x20\x00\x00\x00"
UNKNOWN = b"PROXY UNKNOWN\r\n"
HEADERS = {"v1": V1, "v1, IPv6": V1_6, "v1, mapped": MAPPED, "v2": V2, "v2, IPv6": V2_6, "local": LOCAL, "unknown": UNKNOWN}


class Inner(Protocol):
    def __init__(self):
        self.came = b""
        self.peer = None
        self.lost = 0

    def connectionMade(self):
        self.peer = self.transport.getPeer()

    def dataReceived(self, data):
        assert self.peer is not None, "octets before the connection"
        self.came += data

    def connectionLost(self, reason=None):
        self.lost += 1


class Door:
    """A connection from `peer` through the wrapper."""

    def __init__(self, peer=BALANCER, inner=None):
        self.inner = inner or Inner()
        self.clock = Clock()
        self.refusals = []
        factory = ProxyHeaderFactory(
            Factory.forProtocol(lambda: self.inner), TRUSTED, self.clock, lambda peer, why: self.refusals.append(why)
        )
        factory.doStart()
        self.protocol = factory.buildProtocol(peer)
        self.pipe = Pipe(self.protocol, peer)
        self.protocol.makeConnection(self.pipe)

    def send(self, *pieces):
        for piece in pieces:
            if self.pipe.open:
                self.protocol.dataReceived(piece)


@given(st.sampled_from(sorted(HEADERS)), st.binary(max_size=30), st.lists(st.integers(0, 90), max_size=6))
def test_A36_a_header_in_any_split_names_the_client_and_the_rest_is_untouched(which, rest, cuts):
    raw = HEADERS[which] + rest
    places = sorted({0, len(raw), *(min(cut, len(raw)) for cut in cuts)})
    door = Door()
    door.send(*(raw[start:stop] for start, stop in itertools.pairwise(places)))
    assert door.inner.came == rest
    assert door.refusals == []
    assert not door.clock.getDelayedCalls()
    address = address_of(door.inner.peer)
    expected = {"local": None, "unknown": None, "v1, IPv6": "2001:db8::7", "v2, IPv6": "2001:db8::7"}.get(which, "192.0.2.7")
    assert (str(address) if address else None) == expected
    if address:
        assert door.inner.peer.port == 40000
        assert isinstance(door.inner.peer, IPv4Address if address.version == 4 else IPv6Address)
    door.pipe.cut()
    assert door.inner.lost == 1


@pytest.mark.parametrize(
    "peer",
    [IPv4Address("TCP", "10.0.1.1", 1), IPv4Address("TCP", "192.0.2.7", 1), IPv6Address("TCP", "::1", 1), UNIXAddress(b"/run/x"), object()],
)
def test_A36_a_header_from_elsewhere_is_not_read(peer):
    door = Door(peer)
    door.send(V1 + b"x")
    assert door.inner.came == V1 + b"x"
    assert door.inner.peer is peer


@pytest.mark.parametrize(
    "peer", [IPv6Address("TCP", "::ffff:10.0.0.1", 1), IPv6Address("TCP", "fd00::1", 1), IPv6Address("TCP", "fd00::1%eth0", 1)]
)
def test_A36_a_trusted_source_is_known_in_every_spelling(peer):
    door = Door(peer)
    door.send(V1 + b"x")
    assert door.inner.came == b"x"
    assert str(address_of(door.inner.peer)) == "192.0.2.7"


@pytest.mark.parametrize(
    "octets",
    [
        search(1),
        b"\x16\x03\x01\x02\x00\x01",
        b"GET / HTTP/1.1\r\n",
        b"proxy TCP4 192.0.2.7 10.0.0.1 1 2\r\n",
        b"PROXY TCP4 192.0.2.999 10.0.0.1 1 2\r\n",
        b"PROXY TCP4 192.0.2.7 10.0.0.1 1 70000\r\n",
        b"PROXY TCP6 192.0.2.7 10.0.0.1 1 2\r\n",
        b"PROXY TCP4  192.0.2.7 10.0.0.1 1 2\r\n",
        b"PROXY TCP4 192.0.2.7 10.0.0.1 1 2\n" + b"x" * 100,
        b"PROXY " + b"x" * 200,
        SIGNATURE_2 + b"\x31\x11\x00\x0c" + bytes(12),
        SIGNATURE_2 + b"\x22\x11\x00\x0c" + bytes(12),
        SIGNATURE_2 + b"\x21\x11\x00\x04" + bytes(4),
        SIGNATURE_2 + b"\x21\x11\xff\xff",
    ],
)
def test_A36_A51_a_trusted_source_without_a_header_to_the_letter_is_closed(octets):
    door = Door()
    door.send(*(bytes((octet,)) for octet in octets))
    assert door.pipe.aborted
    assert len(door.refusals) == 1
    assert door.inner.came == b""
    assert door.inner.peer is None
    assert door.inner.lost == 0
    assert not door.clock.getDelayedCalls()


def test_A36_a_header_that_does_not_come_in_time_is_not_waited_for():
    door = Door()
    door.send(V1[:-1])
    door.clock.advance(10.1)
    assert door.pipe.aborted
    assert door.refusals == ["no PROXY header in time"]


def test_A36_who_leaves_before_the_header_leaves_nothing():
    door = Door()
    door.send(V1[:5])
    door.pipe.cut()
    assert not door.clock.getDelayedCalls()
    assert door.inner.lost == 0
    assert door.refusals == []


# -- before a whole proxy


def client_behind(world, peer=BALANCER):
    """A client whose connection comes through the wrapper."""
    front = LdapFront(world.listener)
    door = Door(peer, front)
    return Client(world, door.pipe, _Through(door, front))


class _Through:
    """A front whose octets come through the door."""

    def __init__(self, door, front):
        self._door, self._front = door, front

    def dataReceived(self, data):
        self._door.send(data)

    def __getattr__(self, name):
        return getattr(self._front, name)


def inside(network):
    return Policy((Exempt(SERVICE, (ipaddress.ip_network(network),)),))


@pytest.mark.parametrize(
    ("header", "network", "admitted"),
    [
        (V1, "192.0.2.0/24", True),
        (V2, "192.0.2.0/24", True),
        (MAPPED, "192.0.2.0/24", True),
        (V2_6, "2001:db8::/32", True),
        (V1, "10.0.0.0/24", False),  # the balancer's own network is nobody's
        (V2, "10.0.0.0/24", False),
        (LOCAL, "10.0.0.0/24", False),
        (UNKNOWN, "10.0.0.0/24", False),
        (LOCAL, "0.0.0.0/0", False),
        (b"PROXY UNKNOWN 10.0.0.9 10.0.0.1 1 2\r\n", "10.0.0.0/24", False),
    ],
)
async def test_A51_an_exempt_network_is_the_clients_and_never_the_balancers(house, header, network, admitted):
    await house.open()
    house.with_(policy=inside(network))
    client = client_behind(house)
    client.send(header)
    assert await client.log_in(SERVICE, PASSWORD) == (0 if admitted else 49)
    assert house.events[-1].client == ("unknown" if header in (LOCAL, UNKNOWN) or b"UNKNOWN" in header else house.events[-1].client)
    assert "10.0.0.1" not in house.events[-1].client


async def test_A51_where_the_header_is_expected_and_absent_nobody_is_exempt(house):
    await house.open()
    house.with_(policy=inside("10.0.0.0/24"))
    client = client_behind(house)
    client.send(bind(1, SERVICE, PASSWORD))
    assert not client.pipe.open
    assert client.came == b""
    assert not house.directory.served


async def test_A51_where_it_is_not_expected_and_present_it_is_no_ldap(house):
    await house.open()
    house.with_(policy=inside("192.0.2.7/32"))
    for peer in (IPv4Address("TCP", "198.51.100.1", 1), IPv4Address("TCP", "10.0.1.1", 1)):
        for header in (V1, V2):
            client = client_behind(house, peer)
            client.send(header + bind(1, SERVICE, PASSWORD))
            (notice,) = client.take()
            assert (notice.id, ldap.read_result(notice).code) == (0, 2)
            assert not client.pipe.open
    assert not house.directory.served


@pytest.mark.parametrize("second", [V1, V2, LOCAL])
async def test_A36_a_second_header_is_no_ldap(house, second):
    await house.open()
    client = client_behind(house)
    client.send(V1 + second + bind(1, SERVICE, PASSWORD))
    (notice,) = client.take()
    assert (notice.id, ldap.read_result(notice).code) == (0, 2)
    assert not client.pipe.open


def test_A36_tls_that_is_started_behind_the_header_stands_for_whoever_is_behind_it():
    world = World(None, rules=Rules(starttls=True)).assemble().with_(tls=object())
    client = client_behind(world)
    client.send(V1 + extended(1, ldap.OID_START_TLS))
    client.send(search(2))
    assert [ldap.read_result(frame).code for frame in client.take()] == [0, 50]
    door = Door()
    door.send(V1)
    door.protocol.handshakeCompleted()  # whoever does not listen is not told


def test_A41_a_client_too_many_behind_a_balancer_is_not_heard():
    """Its request stands right behind the header, in the segment that makes the connection."""
    world = World(None, budget=Budget(connections=0)).assemble()
    client = client_behind(world)
    lost = []
    client.pipe.loseConnection = lambda: lost.append(True)  # as a socket's: it is over at the reactor's next turn
    client.send(V1 + root_dse(1) + bind(2, SERVICE, PASSWORD))
    assert lost
    assert not world.directory.served
    assert world.budget == Budget(connections=0)
    assert not world.clients


def test_what_has_no_address_is_in_no_network():
    assert address_of(UNIXAddress(b"/run/x")) is None
    assert address_of(None) is None
