"""Logins while servers of the directory fail and come back: what each of them pays, and what reaches whom."""

import asyncio
import errno
from dataclasses import replace

import pytest
from twisted.internet.error import ConnectBindError, ConnectionRefusedError, TimeoutError  # noqa: A004 - Twisted's
from world import ALICE, BASE, BOB, PASSWORD, World, directory_settings, entry, result, search

from ldapmfa.errors import DirectoryDown
from ldapmfa.net.directory import Directory, DirectorySettings, _is_ours
from ldapmfa.net.discovery import Srv
from ldapmfa.net.health import Unable
from ldapmfa.net.link import Server
from ldapmfa.net.servers import Place
from ldapmfa.wire import ldap

ONE, TWO = Server("dc1.test", 389, ldaps=False), Server("dc2.test", 389, ldaps=False)
REFUSED, HUNG = "refuses connections", "accepts, and never answers"


class Servers(World):
    """Two servers, each as `fails` says; `tried` are the connections asked for, by logins and checks alike."""

    def __post_init__(self):
        self.settings = replace(self.settings, servers=(ONE, TWO))
        super().__post_init__()
        self.fails, self.tried, self.said = {}, [], []
        self.behind = set()  # servers that say that they are not synchronised
        self.directory._connect_to = self.connect_to
        self.directory._says = lambda what, fields: self.said.append((what, fields.get("server"), fields.get("reason")))
        self.directory.misbehave = self.misbehave

    async def connect_to(self, server):
        self.tried.append(server)
        if isinstance(failure := self.fails.get(server), Exception):
            raise failure
        if self.fails.get(server) == REFUSED:
            raise DirectoryDown(f"{server} can't be reached: refused")
        return self.directory.serve(server)

    def misbehave(self, link, frame):
        server = link.link.server
        if self.fails.get(server) == HUNG:
            return []
        if frame.tag == ldap.SEARCH_REQUEST and b"isSynchronized" in frame.raw:
            synchronised = b"FALSE" if server in self.behind else b"TRUE"
            root = {"objectClass": [b"OpenLDAProotDSE"], "supportedExtension": [ldap.OID_WHO_AM_I], "isSynchronized": [synchronised]}
            return [entry(frame.id, "", **root), result(frame.id, frame.tag)]
        return None

    async def close(self):
        self.directory.close()
        await super().close()

    async def begin(self):
        """Look after the servers, as the service does."""
        await self.open()
        self.directory.begin(self._kept)
        await self.over()
        self.tried.clear()
        return self

    async def pass_(self, seconds):
        """Time passes, in steps, and everybody does what it makes them do."""
        for _ in range(int(seconds * 2)):
            self.clock.advance(0.5)
            for _ in range(20):
                self.serve()
                await asyncio.sleep(0)

    @property
    def conditions(self):
        return [state.condition for state in self.directory.states()]

    def bound_at(self):
        """Whose server is bound on, by the binds that were tried, the last first."""
        return [link.link.server for link in reversed(self.directory.served) if link.bound]


@pytest.fixture
def house(tmp_path):
    return Servers(tmp_path, settings=directory_settings(spare_links=8, connect_timeout=5.0, response_timeout=10.0))


async def test_a_server_that_refuses_is_tried_by_one_login_and_by_no_other_until_a_check_finds_it_well(house):
    await house.begin()
    house.fails[ONE] = REFUSED
    assert await house.client().log_in() == 0
    assert house.tried == [ONE, TWO]
    house.tried.clear()
    for _ in range(3):
        assert await house.client().log_in(BOB) == 0
    assert ONE not in house.tried
    assert house.said == [("directory server down", str(ONE), f"{ONE} can't be reached: refused")]
    await house.pass_(20)
    assert ONE in house.tried, "no check was made"
    assert await house.client().log_in() == 0
    assert house.bound_at()[0] == TWO
    house.fails.clear()
    await house.pass_(10)
    assert house.conditions == ["up", "up"]
    assert house.said[-1] == ("directory server up", str(ONE), "")
    house.tried.clear()
    assert await house.client().log_in(BOB) == 0
    assert house.tried == [ONE]


async def test_where_all_are_down_a_login_is_refused_at_once_and_untried(house):
    await house.begin()
    house.fails = {ONE: REFUSED, TWO: REFUSED}
    assert await house.client().log_in() == 52
    house.tried.clear()
    client = house.client()
    assert await client.log_in() == 52
    assert not house.tried
    assert house.events[-1].reason == "directory-down"
    assert "dc1.test" in house.events[-1].detail
    assert "dc2.test" in house.events[-1].detail
    house.fails = {}
    await house.pass_(3)
    assert await house.client().log_in() == 0


async def hang(house, server):
    """`server` hangs, and one login runs into it."""
    house.fails[server] = HUNG
    client = house.client()
    logging_in = asyncio.ensure_future(client.log_in())
    await house.pass_(10.5)
    assert await logging_in == 52


async def test_a_server_that_hangs_costs_one_login_its_time_out_and_the_next_ones_nothing(house):
    await house.begin()
    house.directory.settings = replace(house.directory.settings, check_seconds=600)
    await hang(house, ONE)
    assert house.conditions[0] in {"suspected", "down"}
    house.tried.clear()
    assert await house.client().log_in(BOB) == 0
    assert ONE not in house.tried
    await house.pass_(6)
    assert house.conditions == ["down", "up"]
    assert "does not answer" in house.directory.states()[0].reason
    house.fails.clear()
    await house.pass_(10)
    assert house.conditions == ["up", "up"]


async def test_a_bind_that_takes_too_long_takes_no_server_down_that_is_well(house):
    """An account whose password is checked elsewhere may be slow: whoever knows one would turn everybody away."""
    await house.begin()
    house.directory.holds = lambda link, frame: frame.tag == ldap.BIND_REQUEST and ldap.read_bind(frame).name == ALICE.encode()
    client = house.client()
    logging_in = asyncio.ensure_future(client.log_in())
    await house.pass_(11)
    assert await logging_in == 52
    assert house.conditions == ["up", "up"]
    assert [what for what, *_ in house.said] == ["directory server suspected", "directory server up"]


async def test_a_link_that_is_lost_is_a_reason_to_look_and_no_proof(house):
    await house.begin()
    client = house.client()
    assert await client.log_in() == 0
    house.tried.clear()
    house.directory.served[-1].pipe.cut()
    assert house.conditions == ["up", "up"]
    await house.pass_(1.5)
    assert house.tried == [ONE]
    assert house.conditions == ["up", "up"]
    assert house.said == []


async def test_a_crowd_that_makes_the_server_close_its_links_makes_one_check_a_second(house):
    await house.begin()
    await house.pass_(2)
    house.tried.clear()
    for _ in range(10):
        client = house.client()
        assert await client.log_in(BOB) == 0
        next(link for link in reversed(house.directory.served) if link.bound and link.pipe.open).pipe.cut()
        await house.pass_(0.5)
    assert len(house.tried) <= 10 + 6
    assert house.conditions == ["up", "up"]


async def test_spare_links_of_a_server_that_went_down_serve_nobody_and_those_of_the_other_nobody_when_it_is_back(house):
    await house.begin()

    async def spare_at():
        client = house.client()
        assert await client.log_in() == 0
        client.leave()
        await house.pass_(0.5)
        return [link.server for link in house.directory._spares._spare]

    assert await spare_at() == [ONE]
    house.fails[ONE] = REFUSED
    house.directory.served[0].pipe.cut()
    await house.pass_(12)
    assert house.conditions == ["down", "up"]
    assert house.directory._spares._spare == []
    assert await spare_at() == [TWO]
    house.fails.clear()
    await house.pass_(12)
    assert house.conditions == ["up", "up"]
    assert house.directory._spares._spare == []
    assert await spare_at() == [ONE]


async def test_clients_that_outlive_the_looking_after_are_not_turned_away_for_ever(house):
    """After a reload those who stay keep the directory that they came to."""
    await house.begin()
    house.fails = {ONE: REFUSED, TWO: REFUSED}
    assert await house.client().log_in() == 52
    house.directory.close()
    house.fails = {}
    assert await house.client().log_in() == 0
    assert house.conditions == ["up", "down"]


async def test_a_link_to_a_server_whose_turn_is_over_is_not_kept_for_another_login(house):
    house.fails[ONE] = REFUSED
    await house.begin()
    client = house.client()
    assert await client.log_in() == 0
    assert house.bound_at() == [TWO]
    house.fails.clear()
    await house.pass_(12)
    client.leave()
    await house.pass_(0.5)
    assert house.directory._spares._spare == []
    assert house.links_open == 0


async def test_a_client_that_binds_again_leaves_a_server_that_is_down(house):
    await house.begin()
    client = house.client()
    assert await client.log_in() == 0
    house.fails[ONE] = HUNG
    await house.pass_(17)
    assert house.conditions == ["down", "up"]
    assert await client.log_in(BOB, message_id=2) == 0
    assert house.bound_at()[0] == TWO


@pytest.mark.parametrize("dies", [True, False])
async def test_A18_no_bind_is_sent_again_that_a_server_which_died_may_have_seen(house, dies):
    await house.begin()
    client = house.client()
    assert await client.log_in() == 0
    client.leave()
    await house.pass_(0.5)
    before = len(house.directory.binds())
    usual = house.misbehave

    def cut(link, frame):
        if frame.tag == ldap.BIND_REQUEST and ldap.read_bind(frame).name and link is house.directory.served[len(served) - 1]:
            if dies:
                house.fails[ONE] = REFUSED
            link.pipe.cut()
            return []
        return usual(link, frame)

    served = list(house.directory.served)
    house.directory.misbehave = cut
    house.directory.served[-1].link.used = True
    assert await house.client().log_in(BOB) == (52 if dies else 0)
    assert len(house.directory.binds()) - before == (1 if dies else 2)
    assert TWO not in house.tried


async def test_a_server_that_is_not_synchronised_is_asked_only_where_no_other_is_left(house):
    house.behind = {ONE}
    await house.begin()
    assert house.conditions == ["unsynchronised", "up"]
    assert house.said == [("directory server unsynchronised", str(ONE), "it says that it is not synchronised (isSynchronized: FALSE)")]
    assert await house.client().log_in() == 0
    assert house.tried == [TWO]
    house.fails[TWO] = REFUSED
    house.tried.clear()
    assert await house.client().log_in(BOB) == 0
    assert house.tried == [TWO, ONE]


async def test_want_of_descriptors_takes_no_server_down(house):
    await house.begin()
    house.fails = dict.fromkeys((ONE, TWO), Unable("too many open files"))
    assert await house.client().log_in() == 52
    assert house.conditions == ["up", "up"]
    house.fails = {}
    assert await house.client().log_in() == 0


async def test_a_rootdse_that_can_not_be_read_is_no_health(house):
    await house.begin()
    usual = house.misbehave
    house.directory.misbehave = lambda link, frame: (
        [result(frame.id, frame.tag, 52)] if frame.tag == ldap.SEARCH_REQUEST and link.link.server == ONE else usual(link, frame)
    )
    await house.pass_(12)
    assert house.conditions == ["down", "up"]
    assert "result 52" in house.directory.states()[0].reason


async def test_a_spare_link_serves_nobody_once_it_is_old(house):
    house.directory._spares._age = 60.0
    await house.begin()
    for number in range(20):
        client = house.client(port=41_000 + number)
        assert await client.log_in(BOB) == 0
        client.leave()
        await house.pass_(5)
    assert house.tried.count(ONE) == 2 + 10, "one link for a minute; and ten checks"


async def test_links_are_counted_for_each_server(house):
    await house.begin()
    clients = [house.client(port=42_000 + number) for number in range(3)]
    for client in clients:
        assert await client.log_in(BOB) == 0
    assert [state.links for state in house.directory.states()] == [3, 0]
    clients[0].send(search(5, BASE))
    clients[0].leave()
    await house.pass_(0.5)
    assert [state.links for state in house.directory.states()] == [2, 0]


@pytest.mark.parametrize(
    ("failed", "ours"),
    [
        (ConnectBindError(errno.EMFILE, "too many open files"), True),
        (OSError(errno.ENFILE, "x"), True),
        (ConnectionRefusedError(errno.ECONNREFUSED, "x"), False),
        (TimeoutError(), False),
        (ValueError("x"), False),
    ],
)
def test_whose_fault_it_is(failed, ours):
    assert _is_ours(failed) is ours


async def test_the_global_catalog_is_looked_after_too(house):
    house.directory.close()
    catalog = Server("gc.test", 3268, ldaps=False)
    settings = replace(house.settings, global_catalog=catalog, service_dn="svc", service_password=None)
    directory = Directory(settings, house.clock, lambda: 7)
    directory._connect_to = house.connect_to
    house.fails = dict.fromkeys((ONE, TWO, catalog), REFUSED)
    directory.begin(house._kept)
    await house.over()
    assert [(state.server, state.condition) for state in directory.states()] == [(ONE, "down"), (TWO, "down"), (catalog, "down")]
    house.tried.clear()
    with pytest.raises(DirectoryDown, match=r"gc\.test"):
        await directory._catalog((b"x", PASSWORD))
    assert not house.tried
    directory.close()


async def test_servers_that_the_dns_does_not_name_are_asked_for_once_at_a_time(house):
    settings = DirectorySettings("d", "d", (), srv=Srv("_ldap._tcp.example.test", ("example.test",)))
    directory = Directory(settings, house.clock, lambda: 7)
    asked = []

    async def gone():
        asked.append(house.clock.seconds())
        raise DirectoryDown("no name server answered")

    directory._discovery._ask = gone
    for _ in range(2):  # nobody looks: each asks for itself
        with pytest.raises(DirectoryDown, match="no name server"):
            await directory.connect()
    assert len(asked) == 2
    directory.begin(house._kept)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for _ in range(5):
        with pytest.raises(DirectoryDown, match="no name server"):
            await directory.connect()
    assert len(asked) == 3
    directory.close()


async def test_A41_of_servers_that_the_dns_names_no_more_nothing_is_kept(house):
    await house.begin()
    directory = house.directory
    for number in range(50):
        servers = [Server(f"dc{number}{one}.test", 389, ldaps=False) for one in "ab"]
        house.fails = {servers[0]: REFUSED}
        directory._contexts = {server.host: object() for server in servers} | directory._contexts
        directory._servers_found(tuple(Place(server) for server in servers))
        await house.pass_(3)
    [own, _] = directory._health
    assert set(directory._capabilities) == {servers[1]}
    assert set(directory._contexts) <= {server.host for server in servers}
    assert own._began.keys() <= set(servers)
    assert own._failures.keys() <= set(servers)
    assert own._timers.keys() <= set(servers)
