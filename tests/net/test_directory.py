"""A directory of several servers: which is asked, what is kept of it, and who else is asked for an identity."""

import asyncio
import errno
from dataclasses import replace

import pytest
from twisted.internet.error import ConnectBindError, ConnectionRefusedError  # noqa: A004 - Twisted's
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.test.iosim import ConnectionCompleter
from world import ALICE, PASSWORD, SERVICE, bind, entry, frames, result

from ldapmfa.core.identity import CannotIdentify, Capabilities, identify
from ldapmfa.core.secret import Secret
from ldapmfa.errors import DirectoryDown
from ldapmfa.net.directory import Directory, DirectorySettings
from ldapmfa.net.link import Server
from ldapmfa.wire import ldap

ONE, TWO, THREE = (Server(f"dc{number}.test", 389, ldaps=False) for number in (1, 2, 3))


class Several(Directory):
    """Servers that can be up or down; each connection tried is noted."""

    def __init__(self, clock, *servers):
        super().__init__(DirectorySettings("d", "d", servers), clock, lambda: 7)
        self.down = set()
        self.tried = []

    async def _connect_to(self, server):
        self.tried.append(server)
        if server in self.down:
            raise DirectoryDown(f"{server} is down")
        return server


async def test_servers_are_tried_in_order_and_one_that_failed_comes_last_for_a_while():
    clock = MemoryReactorClock()
    directory = Several(clock, ONE, TWO, THREE)
    assert await directory.connect() is ONE
    directory.down = {ONE}
    assert await directory.connect() is TWO
    directory.tried.clear()
    directory.down = {TWO}
    assert await directory.connect() is THREE
    assert directory.tried == [TWO, THREE]
    directory.tried.clear()
    assert await directory.connect() is THREE
    assert directory.tried == [THREE]
    directory.down = {THREE}
    assert await directory.connect() is ONE  # who is avoided is tried all the same, when nobody else is there
    assert await directory.connect() is ONE
    clock.advance(31)
    directory.tried.clear()
    directory.down = set()
    assert await directory.connect() is ONE
    clock.advance(31)
    directory.down = {ONE, TWO, THREE}
    with pytest.raises(DirectoryDown, match="dc1.*dc2.*dc3"):
        await directory.connect()


# -- a connection, in memory but for the reactor


class Peer(Protocol):
    def __init__(self):
        self.came = b""

    def dataReceived(self, data):
        self.came += data


def memory(*servers, **options):
    reactor = MemoryReactorClock()
    peers = []

    def build():
        peers.append(Peer())
        return peers[-1]

    reactor.listenTCP(389, Factory.forProtocol(build))
    directory = Directory(DirectorySettings("d", "d", servers or (ONE,), **options), reactor, lambda: 7)
    return reactor, directory, peers


async def turn(times=5):
    for _ in range(times):
        await asyncio.sleep(0)


async def test_a_link_is_made_and_answers():
    reactor, directory, peers = memory()
    connecting = asyncio.ensure_future(directory.connect())
    await turn()
    pump = ConnectionCompleter(reactor).succeedOnce()
    link = await connecting
    assert link.server is ONE
    asked = asyncio.ensure_future(link.ask(ldap.extended_request(ldap.OID_WHO_AM_I)))
    await turn()
    pump.flush()
    assert frames(peers[0].came)[0].id == 7
    peers[0].transport.write(result(7, ldap.EXTENDED_REQUEST))
    pump.flush()
    assert (await asked)[0].tag == ldap.EXTENDED_RESPONSE


async def test_a_server_that_refuses_is_named_and_the_next_is_tried():
    reactor, directory, _ = memory(ONE, TWO)
    connecting = asyncio.ensure_future(directory.connect())
    await turn()
    ConnectionCompleter(reactor).failOnce()
    await turn()
    reactor.advance(1)
    await turn()
    ConnectionCompleter(reactor).succeedOnce()
    assert (await connecting).server is TWO


@pytest.mark.parametrize(("number", "condition"), [(errno.EMFILE, "unknown"), (errno.ECONNREFUSED, "down")])
async def test_a_server_is_down_by_its_own_doing_only(number, condition):
    """Where we have no descriptor left, all servers would be."""
    reactor, directory, _ = memory(ONE)
    connecting = asyncio.ensure_future(directory.connect())
    await turn()
    kind = ConnectBindError if number == errno.EMFILE else ConnectionRefusedError
    reactor.tcpClients[0][2].clientConnectionFailed(None, Failure(kind(number, "says the test")))
    await turn()
    reactor.advance(1)
    with pytest.raises(DirectoryDown, match="can't be reached"):
        await connecting
    assert [state.condition for state in directory.states()] == [condition]


async def test_a_connect_that_is_cancelled_leaves_no_link():
    reactor, directory, _ = memory()
    connecting = asyncio.ensure_future(directory.connect())
    await turn()
    pump = ConnectionCompleter(reactor).succeedOnce()
    connecting.cancel()  # connected, and not yet told
    with pytest.raises(asyncio.CancelledError):
        await connecting
    pump.flush()
    assert pump.clientIO.disconnecting


async def start_tls(answer, **options):
    reactor, directory, peers = memory(starttls=True, verify=False, **options)
    connecting = asyncio.ensure_future(directory.connect())
    await turn()
    pump = ConnectionCompleter(reactor).succeedOnce()
    await turn()
    pump.flush()
    (asked,) = frames(peers[0].came)
    assert ldap.read_extended_oid(asked) == ldap.OID_START_TLS
    peers[0].transport.write(answer(asked))
    pump.flush()
    await turn()
    return reactor, connecting, pump


@pytest.mark.parametrize(
    "answer",
    [
        lambda asked: result(asked.id, asked.tag, 52),
        lambda asked: result(asked.id, asked.tag, 2),
        lambda asked: result(asked.id, asked.tag) + result(9, ldap.BIND_REQUEST),
        lambda asked: result(asked.id, asked.tag) + b"\x30",
        lambda asked: result(asked.id + 1, asked.tag),
        lambda asked: ldap.message(asked.id, b"\x78\x00"),
        lambda asked: b"HTTP/1.1 400\r\n",
    ],
)
async def test_A38_no_link_without_the_tls_that_was_asked_for(answer):
    _, connecting, pump = await start_tls(answer)
    with pytest.raises(DirectoryDown, match=r"ldap://dc1\.test:389"):
        await connecting
    assert pump.clientIO.tls is None
    assert pump.clientIO.disconnecting


async def test_A38_a_directory_that_agrees_and_shakes_no_hands_is_given_up():
    reactor, connecting, pump = await start_tls(lambda asked: result(asked.id, asked.tag))
    assert pump.clientIO.tls is not None
    assert not connecting.done()
    reactor.advance(11)
    with pytest.raises(DirectoryDown, match="handshake"):
        await connecting


# -- capabilities


def searched_root(house):
    return sum(1 for frame in house.directory.seen if frame.tag == ldap.SEARCH_REQUEST and b"supportedCapabilities" in frame.raw)


async def test_what_a_server_can_do_is_asked_once_of_each(house):
    await house.open()
    other = Server("other.test", 389, ldaps=False)
    for server in (ONE, ONE, other, ONE, other):
        link = house.directory.serve(server)
        asked = asyncio.ensure_future(house.directory.capabilities(link))
        await turn()
        house.serve()
        assert (await asked).kind == "openldap"
    assert searched_root(house) == 2


async def test_what_could_not_be_read_is_asked_again(house):
    await house.open()
    house.directory.misbehave = lambda link, frame: [result(frame.id, frame.tag, 50)] if frame.tag == ldap.SEARCH_REQUEST else None
    assert await house.client().log_in() == 52
    assert house.events[-1].reason == "no-identity"
    house.directory.misbehave = lambda link, frame: None
    assert await house.client().log_in() == 0
    assert house.directory.binds() == [(ALICE, PASSWORD)], "a password was sent before it was known who could be told"


# -- the one retry


async def relogin(house, misbehave):
    """A second login on the link of the first, with a directory that does as told; the code and the number of binds."""
    await house.open()
    client = house.client()
    assert await client.log_in() == 0
    before = len(house.directory.binds())
    house.directory.misbehave = misbehave
    code = await client.log_in(message_id=2)
    return code, len(house.directory.binds()) - before


async def test_a_link_that_served_and_is_found_dead_is_replaced_once(house):
    def dies(link, frame):
        if frame.tag == ldap.BIND_REQUEST and link is house.directory.served[0]:
            link.pipe.cut()
            return []
        return None

    assert await relogin(house, dies) == (0, 2)
    assert len(house.directory.served) == 2


async def test_the_fresh_link_is_not_replaced(house):
    def dies(link, frame):
        if frame.tag == ldap.BIND_REQUEST:
            link.pipe.cut()
            return []
        return None

    assert await relogin(house, dies) == (52, 2)
    assert house.links_open == 0


@pytest.mark.parametrize(
    "answer", [b"\x30", result(2, ldap.BIND_REQUEST)[:5], result(9, ldap.BIND_REQUEST), result(2, ldap.SEARCH_REQUEST)]
)
async def test_a_link_that_said_anything_is_not_replaced(house, answer):
    def speaks_and_dies(link, frame):
        if frame.tag == ldap.BIND_REQUEST:
            link.send(answer)
            link.pipe.cut()
            return []
        return None

    assert await relogin(house, speaks_and_dies) == (52, 1)


async def test_a_link_that_died_at_rest_costs_nothing(house):
    await house.open()
    client = house.client()
    client.send(ldap.message(1, ldap.search_request(b"", ())))
    await client.answers(2)
    house.directory.served[0].pipe.cut()
    assert await client.log_in() == 0
    assert len(house.directory.binds()) == 1


# -- look-ups elsewhere


SID = bytes.fromhex("010500000000000515000000" + "11" * 4 + "22" * 4 + "33" * 4 + "50040000")
GUID = bytes(range(16))


class ActiveDirectory:
    """Answers of a domain controller that shows the account, or not, by server."""

    def __init__(self, house, shown_to):
        self.house, self.shown_to = house, shown_to
        house.directory.misbehave = self

    def __call__(self, link, frame):
        if frame.tag == ldap.BIND_REQUEST:
            link.bound = ldap.read_bind(frame).name.decode()
            return None if link.bound == SERVICE else [result(frame.id, frame.tag)]
        if frame.tag != ldap.SEARCH_REQUEST:
            return None
        done = result(frame.id, frame.tag)
        if b"supportedCapabilities" in frame.raw:
            return [entry(frame.id, "", supportedCapabilities=[b"1.2.840.113556.1.4.800"]), done]
        if b"tokenGroups" in frame.raw:
            return [entry(frame.id, "", tokenGroups=[SID]), done]
        if (link.link.server.host, link.bound) in self.shown_to:
            user = entry(
                frame.id, ALICE, objectGUID=[GUID], objectSid=[SID], sAMAccountType=[b"805306368"], sAMAccountName=[b"alice"]
            )
            return [user, done]
        return [result(frame.id, frame.tag, 32)]


def settings(house, **changes):
    house.directory.settings = replace(house.directory.settings, **changes)


GC = Server("gc.test", 3268, ldaps=False)


@pytest.mark.parametrize(
    ("shown_to", "service", "catalog", "binds"),
    [
        ([("directory.test", "alice")], True, True, ["alice"]),
        ([("directory.test", SERVICE)], True, True, ["alice", SERVICE]),
        ([("gc.test", SERVICE)], True, True, ["alice", SERVICE, SERVICE]),
        ([("gc.test", "alice")], False, True, ["alice", "alice"]),
    ],
    ids=["on the link itself", "by the service account", "in the catalog by the service account", "in the catalog as oneself"],
)
async def test_an_account_is_looked_up_where_it_is_shown(house, shown_to, service, catalog, binds):
    await house.open()
    ActiveDirectory(house, shown_to)
    settings(house, global_catalog=GC if catalog else None)
    if service:
        settings(house, service_dn=SERVICE, service_password=Secret(PASSWORD.encode()))
    client = house.client()
    assert await client.log_in("alice") == 49
    assert house.events[-1].reason == "not-enrolled"
    assert house.events[-1].account == f"default/guid:{GUID.hex()}"
    assert [name for name, _ in house.directory.binds()] == binds
    assert house.links_open == 0


async def test_an_account_that_nobody_shows_is_refused_with_a_reason_of_its_own(house):
    await house.open()
    ActiveDirectory(house, [])
    for changes in ({}, {"global_catalog": GC}):
        settings(house, **changes)
        client = house.client()
        assert await client.log_in("alice") == 49
        assert house.events[-1].reason == "other-domain"
        assert house.links_open == 0


async def test_a_service_account_that_may_not_bind_breaks_the_login_and_not_the_password(house):
    await house.open()
    ActiveDirectory(house, [])
    settings(house, service_dn=SERVICE, service_password=Secret(b"wrong"))
    assert await house.client().log_in("alice") == 52
    assert "service" in house.events[-1].detail
    assert house.links_open == 0


async def test_the_code_never_reaches_the_catalog(house):
    await house.open()
    ActiveDirectory(house, [("gc.test", "alice")])
    settings(house, global_catalog=GC)
    assert await house.client().log_in("alice", "Secret-pw123456") == 49
    assert {password for _, password in house.directory.binds()} == {"Secret-pw"}


async def test_a_link_of_the_service_account_is_for_who_has_one(house):
    await house.open()
    with pytest.raises(DirectoryDown, match="no service account"):
        await house.directory.service_link()
    settings(house, service_dn=SERVICE, service_password=Secret(PASSWORD.encode()))
    asked = asyncio.ensure_future(house.directory.service_link())
    await house.until(asked.done)
    assert (await asked).quiet
    assert house.directory.served[-1].bound == SERVICE


async def test_nobody_is_identified_without_a_link(house):
    await house.open()
    with pytest.raises(CannotIdentify):
        await house.directory.answer(identify(Capabilities("openldap", who_am_i=True), "d"))


async def test_look_ups_that_are_cancelled_close_what_they_opened(house):
    await house.open()
    ActiveDirectory(house, [])
    settings(house, service_dn=SERVICE, service_password=Secret(PASSWORD.encode()), global_catalog=GC)
    for moment in range(3, 7):
        client = house.client()
        seen = len(house.directory.seen)
        client.front.dataReceived(bind(1, "alice", PASSWORD + "000000"))
        await house.until(lambda: len(house.directory.seen) >= seen + moment or client.front._login is None)  # noqa: B023
        client.leave()
        await house.over()
        assert house.links_open == 0


def test_what_a_server_is_called():
    assert str(ONE) == "ldap://dc1.test:389"
    assert str(Server("::1", 636, ldaps=True)) == "ldaps://[::1]:636"
