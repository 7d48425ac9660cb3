"""Limits for each source: what counts as one, what it may have, and that every count comes back."""

import asyncio
import random
from ipaddress import ip_address, ip_network

import pytest
from OpenSSL import SSL
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionLost
from world import ALICE, PASSWORD, Client, Pipe, World, bind, root_dse, search, unbind

from ldapmfa.net.budget import Budget, Share
from ldapmfa.net.ldap_front import LdapFront
from ldapmfa.wire import ldap

GATEWAYS = (ip_network("203.0.113.0/24"), ip_network("2001:db8:9::/48"))


def small(**limits):
    return World(None, budget=Budget(gateways=GATEWAYS, **limits)).assemble()


def came_from(house, peer):
    front = LdapFront(house.listener)
    pipe = Pipe(front, peer)
    front.makeConnection(pipe)
    return Client(house, pipe, front)


def last(client):
    return ldap.read_result(client.take()[-1])


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("192.0.2.7", "192.0.2.7/32"),
        ("2001:db8:0:1:2:3:4:5", "2001:db8:0:1::/64"),
        ("203.0.113.7", None),
        ("2001:db8:9:1::7", None),
        (None, None),
    ],
)
def test_a_source_is_an_address_or_a_network_of_64_bits(address, source):
    found = Budget(source_connections=1, gateways=GATEWAYS).source(address and ip_address(address))
    assert found == (source and ip_network(source))


def test_without_a_limit_no_source_is_counted():
    world = small()
    world.client().send(search(1)[:5])
    assert world.budget.octets_used == 5
    assert world.budget.shares == {}


def test_A41_one_source_does_not_take_all_connections():
    world = small(source_connections=2)
    kept = [world.client(port=port) for port in (1, 2)]
    third = world.client(port=3)
    assert not third.pipe.open
    third.pipe.certificate = "none that can be read"
    third.front.dataReceived(root_dse(1) + bind(2, ALICE, PASSWORD + "123456"))
    third.front.handshakeCompleted()
    assert not world.directory.served
    assert world.logged == [
        ("client turned away", {"client": "192.0.2.7:3", "reason": "too many connections from 192.0.2.7/32"})
    ]
    assert world.client("192.0.2.8").pipe.open
    kept[0].leave()
    assert world.client().pipe.open
    assert not world.client().pipe.open


def test_A41_a_network_of_64_bits_is_one_source():
    world = small(source_connections=1)
    peers = ["2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:1::1", "2001:db8::2%eth0"]
    opened = [came_from(world, IPv6Address("TCP", host, 1)).pipe.open for host in peers]
    assert opened == [True, False, True, False]


def test_A41_a_mapped_address_is_the_same_source():
    world = small(source_connections=1)
    assert came_from(world, IPv6Address("TCP", "::ffff:192.0.2.7", 1)).pipe.open
    assert not world.client("192.0.2.7").pipe.open


@pytest.mark.parametrize("peer", [UNIXAddress(b"/run/x"), object(), IPv4Address("TCP", "203.0.113.7", 1)])
def test_A22_gateways_and_what_has_no_address_have_the_processs_limits_alone(peer):
    world = small(source_connections=1, source_octets=1, source_logins=0, connections=3)
    clients = [came_from(world, peer) for _ in range(4)]
    assert [client.pipe.open for client in clients] == [True, True, True, False]
    clients[0].send(search(1)[:-1])
    assert clients[0].pipe.open
    assert world.budget.shares == {}


def test_A41_the_processs_limit_holds_for_sources_too():
    world = small(source_connections=2, connections=1)
    world.client("192.0.2.1")
    assert not world.client("192.0.2.2").pipe.open
    assert list(world.budget.shares) == [ip_network("192.0.2.1/32")]
    assert world.logged[-1][1]["reason"] == "too many connections"


def test_A41_a_full_process_says_so_once_a_minute():
    world = small(connections=0)
    for _ in range(5):
        world.client("192.0.2.1"), world.client("192.0.2.2")
        world.clock.advance(20)
    assert [said[1]["reason"] for said in world.logged] == ["too many connections"] * 2


def test_A41_the_log_has_one_line_a_source_and_minute():
    world = small(source_connections=0)
    for _ in range(5):
        world.client("192.0.2.1"), world.client("192.0.2.2")
        world.clock.advance(10)
    assert len(world.logged) == 2
    world.clock.advance(9)
    world.client("192.0.2.1")
    assert len(world.logged) == 2
    world.clock.advance(1)
    world.client("192.0.2.1")
    assert len(world.logged) == 3


def test_A41_of_many_sources_some_are_told_and_few_are_remembered():
    budget = Budget(source_connections=0)
    sources = [budget.source(ip_address(0x0A000000 + number)) for number in range(3000)]
    assert sum(budget.tells(source, 1.0) for source in sources) == 1000
    assert len(budget.told) == 1000
    assert not budget.tells(sources[-1], 60.9)
    assert budget.tells(sources[-1], 61.0)
    assert len(budget.told) == 1
    assert not budget.tells(None, 61.0)


async def test_A41_one_source_does_not_take_all_logins(house):
    await house.open()
    house.budget.source_logins = 1
    house.directory.holds = lambda link, frame: True
    first, second, other = house.client(), house.client(), house.client("192.0.2.8")
    first.send(bind(1, ALICE, PASSWORD + house.next_code()))
    second.send(bind(1, ALICE, PASSWORD + house.next_code()))
    assert last(second).code == 51
    assert house.events[-1].reason == "too-many-logins"
    other.send(bind(1, ALICE, PASSWORD + house.next_code()))
    assert other.take() == []
    first.leave()
    assert house.budget.logins_used == 2, "it counts until it is over"
    await house.until(lambda: house.budget.logins_used == 1)
    second.send(bind(2, ALICE, PASSWORD + house.next_code()))
    assert second.take() == []
    second.leave(), other.leave()
    await house.over()
    assert house.budget == Budget(source_logins=1)


async def test_A41_who_leaves_and_comes_back_has_no_more_logins(house):
    """A login that is being cancelled counts, though its connection is gone."""
    await house.open()
    house.budget.source_logins = 1
    house.directory.holds = lambda link, frame: True
    first = house.client()
    first.send(bind(1, ALICE, PASSWORD + house.next_code()))
    first.leave()
    again = house.client()
    again.send(bind(1, ALICE, PASSWORD + house.next_code()))
    assert last(again).code == 51
    again.leave()
    await house.over()
    assert house.budget == Budget(source_logins=1)


def test_A41_one_source_does_not_take_all_room():
    world = small(source_octets=100_000)
    part = search(1, "x" * 50_000)[:-1]
    one, two, other = world.client(), world.client(), world.client("192.0.2.8")
    one.send(part)
    other.send(part)
    two.send(part)
    assert last(two).code == 51
    assert not two.pipe.open
    assert one.pipe.open
    assert other.pipe.open
    assert world.budget.shares[ip_network("192.0.2.7/32")] == Share(len(part), 1)
    assert world.budget.octets_used == 2 * len(part)


def test_A41_who_is_turned_away_and_does_not_read_keeps_no_room():
    world = small(source_octets=100)
    client = world.client()
    client.pipe.loseConnection = lambda: None
    client.send(search(1, "x" * 500)[:-1])
    assert last(client).code == 51
    assert world.budget.octets_used == 0
    assert world.budget.shares == {ip_network("192.0.2.7/32"): Share(connections=1)}


@pytest.mark.parametrize("breaks", ["the link", "the session"])
@pytest.mark.parametrize("bound", [True, False])
async def test_A41_whatever_breaks_while_a_client_leaves_the_room_is_given_back(house, breaks, bound):
    await house.open()
    house.budget.source_connections = 2
    client = house.client()
    if bound:
        assert await client.log_in() == 0
        client.send(search(3)[:7])
    else:
        house.directory.holds = lambda link, frame: True
        client.send(bind(1, ALICE, PASSWORD + house.next_code()), search(2))
        await house.until(lambda: house.directory.held)
    client.front._unsent += b"behind the message"
    client.front._account()
    assert house.budget.octets_used > 7

    def broken(_):
        raise RuntimeError("a bug")

    if breaks == "the link":
        client.front._drop = lambda: broken(None)
    else:
        client.front._perform = broken
    with pytest.raises(RuntimeError):
        client.leave()
    client.front._account()
    await house.over()
    assert house.budget == Budget(source_connections=2)
    assert not house.clients
    assert not client.front._timers


PEERS = [
    IPv4Address("TCP", "192.0.2.1", 1),
    IPv4Address("TCP", "192.0.2.2", 2),
    IPv6Address("TCP", "2001:db8::1", 3),
    IPv6Address("TCP", "2001:db8::2", 4),
    IPv4Address("TCP", "203.0.113.1", 5),
    UNIXAddress(b"/run/x"),
]


def limits():
    return Budget(
        octets=3500, connections=9, logins=4, source_octets=1200, source_connections=2, source_logins=1, gateways=GATEWAYS
    )


def check(house):
    """What is counted is what there is; a login that was cancelled counts until it is over."""
    budget, fronts = house.budget, house.clients
    assert budget.octets_used == sum(front._accounted for front in fronts) <= budget.octets
    assert budget.logins_used >= sum(front._login is not None for front in fronts)
    assert budget.logins_used <= budget.logins
    sources = {front._source for front in fronts} - {None}
    assert sources <= set(budget.shares)
    for source, share in budget.shares.items():
        assert share != Share()
        own = [front for front in fronts if front._source == source]
        assert share.connections == len(own) <= budget.source_connections
        assert share.octets == sum(front._accounted for front in own) <= budget.source_octets
        assert sum(front._login is not None for front in own) <= share.logins <= budget.source_logins


@pytest.mark.parametrize("seed", range(20))
async def test_A41_after_whatever_clients_did_nothing_is_counted(house, seed):
    """Binds right and wrong, requests begun, held, relayed; links lost, and clients at any moment, cancelled logins."""
    house.budget = limits()
    await house.open()
    chance = random.Random(seed)
    clients = []
    codes = [lambda: "000000", house.next_code]

    def send(client):
        octets = {
            search(2, "x" * 900)[:-1]: 4,
            search(2, "x" * 300): 3,
            root_dse(3) * 3: 3,
            bind(5, ALICE, PASSWORD + chance.choice(codes)()): 4,
            bind(6, ALICE, PASSWORD + chance.choice(codes)()) + search(7) * 20: 4,
            bind(8, "", ""): 1,
            bind(9, ALICE, ""): 1,
            unbind(4): 1,
            b"\x16\x03": 1,
        }
        client.front.dataReceived(chance.choices(list(octets), list(octets.values()))[0])

    def lose(client):
        client.pipe._end(chance.choice([ConnectionLost(), SSL.Error([("SSL routines", "", "no shared cipher")])]))

    def hold(_client):
        house.directory.holds = lambda link, frame: chance.random() < 0.5

    steps = {
        send: 30,
        lose: 2,
        hold: 4,
        lambda _client: house.directory.release(): 2,
        lambda _client: house.directory.served and chance.choice(house.directory.served).pipe.cut(): 1,
        lambda _client: house.clock.advance(chance.choice([0.1, 0.3, 11])): 2,
        lambda client: client.front.stop(): 1,
        lambda client: client.pipe.open and client.front.handshakeCompleted(): 1,
    }
    for _ in range(300):
        clients = [client for client in clients if client.pipe.open]
        if len(clients) < 2 or chance.random() < 0.4:
            clients.append(came_from(house, chance.choice(PEERS)))
        client = chance.choice(clients)
        if client.pipe.open:
            chance.choices(list(steps), list(steps.values()))[0](client)
        check(house)
        if chance.random() < 0.6:
            house.serve()
            await asyncio.sleep(0)
        check(house)
    for client in clients:
        client.pipe.cut()
    house.directory.release()
    await house.over()
    assert house.budget == limits()
    assert house.budget.shares == {}
    assert not house.clients
    met = [event.reason for event in house.events] + [fields["reason"] for _, fields in house.logged]
    assert {"too-many-logins", "The server is busy."} <= set(met)
    assert any("too many connections from" in reason for reason in met)
