"""Doors of a listener: which application's rules hold for a client, and from when on."""

import asyncio
from dataclasses import replace
from ipaddress import ip_network

import pytest
from handshakes import Certificates, Showing, pair, shake
from twisted.internet.address import UNIXAddress
from world import ALICE, PASSWORD, SERVICE, Client, Pipe, World, bind, extended, frames, root_dse, search

from ldapmfa.core.application import Recognition
from ldapmfa.core.policy import Exempt, Policy
from ldapmfa.core.secret import CodeForm, Secret
from ldapmfa.core.session import Rules, StartLogin
from ldapmfa.net.budget import Budget
from ldapmfa.net.ldap_front import Door, LdapFront
from ldapmfa.net.tls import server_context
from ldapmfa.wire import ldap

pytestmark = pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning")
START_TLS = extended(1, ldap.OID_START_TLS)
LAX = Policy((Exempt(SERVICE), Exempt(ALICE)))
STRICT = Policy()
OFFERED = Rules(starttls=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    made = Certificates(tmp_path_factory.mktemp("certificates"))
    made.vpn = made.make("vpn", "vpn.test")
    made.shown = Shown(made.issued[0])
    made.proxy = made.make("proxy", "proxy.test")
    return made


class Shown:
    """A certificate as pyOpenSSL gives it."""

    def __init__(self, certificate):
        self._certificate = certificate

    def to_cryptography(self):
        if isinstance(self._certificate, Exception):
            raise self._certificate
        return self._certificate


VPN = Recognition(certificates=("dns:vpn.test",))
NEAR = Recognition(networks=(ip_network("192.0.2.0/24"),))


def door(house, name, recognised, policy=LAX, **changes):
    """`house`'s own, but for the policy and these changes of its rules."""
    listener = house.listener
    return Door(name, recognised, replace(listener.rules, **changes), policy, listener.doorway)


def last(client):
    return ldap.read_result(client.take()[-1])


async def test_without_doors_the_listener_is_the_application(house):
    await house.open()
    assert await house.client().log_in() == 0
    assert (house.events[-1].listener, house.events[-1].application) == ("test", "test")


async def test_A37_an_application_is_recognised_by_where_its_clients_are(house):
    await house.open()
    house.with_(policy=STRICT, doors=(door(house, "vpn", NEAR),))
    assert await house.client("192.0.2.7").log_in(ALICE, PASSWORD) == 0
    assert (house.events[-1].listener, house.events[-1].application) == ("test", "vpn")
    assert await house.client("198.51.100.7").log_in(ALICE, PASSWORD) == 49
    assert (house.events[-1].listener, house.events[-1].application) == ("test", "test")


async def test_the_first_that_covers_a_client_counts(house):
    await house.open()
    elsewhere = Recognition(listeners=frozenset({"another"}))
    house.with_(policy=STRICT)
    house.with_(doors=(door(house, "a", elsewhere), door(house, "b", NEAR, STRICT), door(house, "c", NEAR)))
    assert await house.client().log_in(ALICE, PASSWORD) == 49
    assert house.events[-1].application == "b"


async def test_A51_a_client_without_an_address_comes_from_no_network(house):
    await house.open()
    everywhere = Recognition(networks=(ip_network("0.0.0.0/0"), ip_network("::/0")))
    house.with_(policy=STRICT, doors=(door(house, "vpn", everywhere),))
    for peer in (UNIXAddress(b"/run/x"), object()):
        front = LdapFront(house.listener)
        pipe = Pipe(front, peer)
        front.makeConnection(pipe)
        assert await Client(house, pipe, front).log_in(ALICE, PASSWORD) == 49
        assert house.events[-1].application == "test"


async def test_everything_is_the_doors(house):
    """Sizes, code form, the doorway of its logins; also for what is refused without a login."""
    await house.open()
    one = door(house, "vpn", NEAR, frame_before_bind=200, tls_required=False)
    house.with_(doors=(replace(one, doorway=replace(one.doorway, reference=lambda: "ITSOWN")),))
    house.with_(rules=Rules(tls_required=True))
    client = house.client()
    assert await client.log_in(SERVICE, "wrong") == 49
    assert house.events[-1].reference == "ITSOWN"
    client.send(bind(2, "x", "y", version=2))
    assert last(client).code == 2
    assert (house.events[-1].reason, house.events[-1].application) == ("version", "vpn")
    client.send(b"\x30\x81\xc6")
    assert last(client).code == 2
    assert not client.pipe.open


async def test_what_may_wait_is_the_doors(house):
    await house.open()
    house.with_(doors=(door(house, "vpn", NEAR, held_octets=10),))
    client, link = house.bound_client()
    link.send(search(9)[:5])
    client.send(bind(2, "x", "y", version=2))
    assert client.pipe.paused
    house.directory._connect_to = lambda server: asyncio.get_running_loop().create_future()
    client = house.client()
    client.send(root_dse(1))
    assert last(client).code == 51


def test_where_the_code_stands_is_the_doors():
    world = World(None).assemble()
    form = CodeForm(8)
    world.with_(doors=(door(world, "vpn", NEAR, form=form),))
    assert world.client().front._bind(StartLogin(1, b"x", Secret(b"y"))).attempt.form is form


# -- a certificate, once TLS stands


async def test_A51_a_certificate_counts_from_when_it_was_shown(house, certificates):
    await house.open()
    house.with_(rules=OFFERED, policy=STRICT, tls=object())
    house.with_(doors=(door(house, "vpn", VPN, tls_required=True),))
    client = house.client()
    client.pipe.certificate = certificates.shown
    assert await client.log_in(ALICE, PASSWORD) == 49
    assert house.events[-1].application == "test"
    client.send(START_TLS)
    assert last(client).code == 0
    assert await client.log_in(ALICE, PASSWORD, 2) == 0
    assert house.events[-1].application == "vpn"


async def test_A51_a_certificate_may_take_rights_away(house, certificates):
    await house.open()
    house.with_(rules=OFFERED, policy=LAX, tls=object())
    house.with_(doors=(door(house, "vpn", VPN, STRICT, frame_before_bind=200),))
    client = house.client()
    client.pipe.certificate = certificates.shown
    client.send(START_TLS)
    assert last(client).code == 0
    assert await client.log_in(ALICE, PASSWORD, 2) == 49
    client.send(b"\x30\x81\xc6")
    assert last(client).code == 2


async def test_A51_who_shows_none_is_not_recognised_by_one(house):
    await house.open()
    house.with_(rules=OFFERED, policy=STRICT, tls=object())
    house.with_(doors=(door(house, "vpn", VPN),))
    client = house.client()
    client.send(START_TLS)
    assert last(client).code == 0
    assert await client.log_in(ALICE, PASSWORD, 2) == 49
    assert house.events[-1].application == "test"


async def test_A37_A51_network_and_certificate_are_both_asked_for_after_starttls(house, certificates):
    await house.open()
    house.with_(rules=OFFERED, policy=STRICT, tls=object())
    both = replace(NEAR, certificates=VPN.certificates)
    house.with_(doors=(door(house, "vpn", both),))
    for address, code in (("192.0.2.7", 0), ("198.51.100.7", 49)):
        client = house.client(address)
        client.pipe.certificate = certificates.shown
        client.send(START_TLS)
        assert last(client).code == 0
        assert await client.log_in(ALICE, PASSWORD, 2) == code


async def test_A38_nothing_is_read_between_the_agreement_and_the_handshakes_end(house, certificates):
    await house.open()
    house.with_(rules=OFFERED, tls=object())
    client = house.client()
    client.pipe.shakes_hands = False
    client.send(START_TLS)
    assert last(client).code == 0
    client.send(bind(2, SERVICE, PASSWORD))
    assert last(client).code == 2
    assert not client.pipe.open
    assert not house.directory.served
    client.front.handshakeCompleted()
    assert client.state == "CLOSED"


@pytest.mark.parametrize("broken", [ValueError("garbled"), KeyError("x"), "no certificate"])
def test_A51_a_certificate_that_cannot_be_read_is_nobodys(broken):
    """Not even that of somebody who showed none, whose rules may be laxer."""
    world = World(None, rules=OFFERED).assemble().with_(tls=object())
    client = world.client()
    client.pipe.certificate = Shown(broken) if isinstance(broken, Exception) else object()
    aborted = []
    client.pipe.abortConnection = lambda: aborted.append(True)  # as over a socket: it is over at the reactor's next turn
    client.send(START_TLS)
    assert last(client).code == 0
    assert aborted
    client.send(bind(2, SERVICE, PASSWORD))
    assert client.take() == []
    assert client.front._login is None
    assert client.state == "CLOSED"
    assert "certificate can't be read" in world.logged[-1][1]["reason"]


# -- over real TLS


def over_tls(house, certificates, asking):
    serving = server_context(*certificates.proxy, client_ca=certificates.ca)
    house.with_(encrypted=True, policy=STRICT, doors=(door(house, "vpn", VPN),))
    fronts = []

    def build():
        fronts.append(LdapFront(house.listener))
        return fronts[-1]

    server, client = pair(serving, asking, build)
    return fronts[0], server, client


@pytest.mark.parametrize(("shows", "code"), [(True, 0), (False, 49)])
async def test_A51_a_bind_in_the_segment_that_ends_the_handshake_is_read_by_the_doors_rules(house, certificates, shows, code):
    """With TLS 1.3 a client's certificate and its first request come together."""
    await house.open()
    front, server, client = over_tls(house, certificates, Showing(certificates.vpn if shows else None))
    client.write(bind(1, ALICE, PASSWORD))
    shake(server, client)
    await house.idle()
    house.clock.advance(0.3)
    await house.over()
    shake(server, client)
    assert [ldap.read_result(frame).code for frame in frames(client.inner.came)] == [code]
    assert house.events[-1].application == ("vpn" if shows else "test")
    front.abort()
    shake(server, client)


def test_A51_a_handshake_that_fails_leaves_nothing(certificates, tmp_path):
    world = World(None).assemble()
    strangers = Certificates(tmp_path)
    _, server, client = over_tls(world, certificates, Showing(strangers.make("vpn", "vpn.test")))
    client.write(root_dse(1) + bind(1, ALICE, PASSWORD))
    shake(server, client)
    assert server.transport.ended
    assert not world.clients
    assert not world.directory.served
    assert world.budget == Budget()
    assert not world.clock.getDelayedCalls()
    assert "TLS failed" in world.logged[-1][1]["reason"]


def test_A41_one_too_many_is_not_recognised(certificates):
    world = World(None, budget=Budget(connections=0)).assemble()
    front, server, client = over_tls(world, certificates, Showing(certificates.vpn))
    front.handshakeCompleted()
    client.write(root_dse(1))
    shake(server, client)
    assert client.inner.came == b""
    assert not world.directory.served
