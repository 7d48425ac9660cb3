"""Two nodes with one PostgreSQL database, behind HAProxy with the example's file: they behave as one."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from system.proxy import Proxy
from system.servers.common import wait_for
from system.servers.haproxy import HAProxy
from system.servers.postgresql import Postgresql
from system.wire import Raw, bind, search

from ldapmfa.store.seal import Seal
from ldapmfa.wire import ldap

SUCCESS, WRONG, UNAVAILABLE = 0, 49, 52
LOST = "the connection was lost"


class Nodes:
    """Nodes `a` and `b` and the balancer before them."""

    def __init__(self, directory, path, url):
        self.directory, self.path, self.url = directory, path, url
        self.stack = ExitStack()

    def __enter__(self):
        self.path.mkdir(parents=True, exist_ok=True)
        Seal.create(self.path / "store.key", entropy=os.urandom)
        key = (self.path / "store.key").read_bytes()
        carol = self.directory.user("carol").dn
        extra = f'[[exempt]]\naccount = "{carol}"\nnetworks = ["127.0.0.77/32"]\n'
        try:
            for name in "ab":
                node = Proxy(
                    self.directory,
                    self.path / name,
                    listen={"tls": "starttls", "proxy_protocol_from": ["127.0.0.1"]},
                    store_url=self.url,
                    store_key=key,
                    extra=extra,
                )
                setattr(self, name, self.stack.enter_context(node))
            self.balancer = self.stack.enter_context(HAProxy(self.path / "haproxy", [self.a.port, self.b.port]))
        except BaseException:
            self.stack.close()
            raise
        return self

    def __exit__(self, *error):
        self.stack.__exit__(*error)

    def client(self, source=None):
        """A connection by way of the balancer."""
        return Raw(self.balancer.host, self.balancer.port, source=source)

    def to(self, node, source="127.0.0.9"):
        """A connection to one node, with the header that the balancer sends; of the first version."""
        raw = Raw(node.host, node.port)
        raw.send(f"PROXY TCP4 {source} 127.0.0.1 40000 636\r\n".encode())
        return raw

    def log_in(self, name, typed, source=None):
        """The result of a bind by way of the balancer, or LOST."""
        try:
            with self.client(source) as raw:
                return raw.code(bind(1, self.directory.user(name).dn, typed))
        except (OSError, EOFError):
            return LOST

    def log_in_at(self, node, name, typed):
        """The result of a bind at one node."""
        with self.to(node) as raw:
            return raw.code(bind(1, self.directory.user(name).dn, typed))

    def typed(self, name):
        return self.a.typed(name)

    def accepted(self):
        """How many successes the store has recorded, by the name that was typed."""
        found = {}
        for event in self.a.events():
            if getattr(event, "outcome", None) == "accepted":
                found[event.name] = found.get(event.name, 0) + 1
        return found


def command(node, *words):
    subprocess.run([sys.executable, "-m", "ldapmfa", *words, "--config", node.config], capture_output=True, check=True)


@pytest.fixture(scope="module")
def nodes(slapd, postgresql, tmp_path_factory):
    with Nodes(slapd, tmp_path_factory.mktemp("nodes"), postgresql.url(postgresql.database())) as nodes:
        yield nodes


def test_A19_a_code_used_on_one_node_is_refused_on_the_other(nodes):
    typed = nodes.typed("paula")
    assert nodes.log_in_at(nodes.a, "paula", typed) == SUCCESS
    assert nodes.log_in_at(nodes.b, "paula", typed) == WRONG
    typed = nodes.typed("paula")
    with ThreadPoolExecutor(8) as pool:
        both = [nodes.a, nodes.b] * 4
        results = list(pool.map(lambda node: nodes.log_in_at(node, "paula", typed), both))
    assert sorted(results) == [SUCCESS] + [WRONG] * 7, "whoever of them was first"


def test_A20_wrong_codes_on_both_lock_together(nodes):
    password = nodes.directory.user("pavel").password
    nodes.a.enrol("pavel")
    for number in range(10):
        node = (nodes.a, nodes.b)[number % 2]
        assert nodes.log_in_at(node, "pavel", f"{password}{number:06}") == WRONG
    for node in (nodes.a, nodes.b):
        assert nodes.log_in_at(node, "pavel", nodes.typed("pavel")) == WRONG
        assert node.records()[-1]["reason"] == "locked"


def test_A44_a_block_by_the_command_ends_sessions_on_every_node_at_once(nodes):
    sessions = []
    for node in (nodes.a, nodes.b):
        raw = nodes.to(node)
        assert raw.code(bind(1, nodes.directory.user("alice").dn, nodes.typed("alice"))) == SUCCESS
        sessions.append(raw)
    command(nodes.a, "user", "block", "alice", "--reason", "lost her phone")
    for raw in sessions:
        (notice,) = raw.answer(0)
        assert notice.id == 0
        with pytest.raises((EOFError, ConnectionError)):
            raw.frame()
        raw.socket.close()
    for node in (nodes.a, nodes.b):
        assert nodes.log_in_at(node, "alice", nodes.typed("alice")) == WRONG
    command(nodes.b, "user", "unblock", "alice", "--reason", "found it")
    assert nodes.log_in("alice", nodes.typed("alice")) == SUCCESS


def test_A09_rules_see_the_real_client_behind_the_balancer(nodes):
    """Carol's password is enough from one address; the balancer's own is another."""
    password = nodes.directory.user("carol").password
    assert nodes.log_in("carol", password, source="127.0.0.77") == SUCCESS
    assert nodes.log_in("carol", password, source="127.0.0.78") == WRONG
    carol = nodes.directory.user("carol").dn
    clients = {event.client.rpartition(":")[0] for event in nodes.a.events() if getattr(event, "name", "") == carol}
    assert clients == {"127.0.0.77", "127.0.0.78"}


def test_A19_a_node_is_killed_under_load_and_no_login_is_answered_wrong(nodes):
    """What was accepted is recorded, what was used is used, and the other node goes on."""
    names = [f"bulk{number:04d}" for number in range(8)]
    nodes.a.enrol_many(names)
    results = {name: [] for name in names}
    killed, over = threading.Event(), threading.Event()

    def user(name):
        while not over.is_set():
            typed = nodes.typed(name)
            results[name].append((killed.is_set(), nodes.log_in(name, typed), nodes.log_in(name, typed)))

    with ThreadPoolExecutor(len(names)) as pool:
        users = [pool.submit(user, name) for name in names]
        wait_for(lambda: all(len(each) >= 3 for each in results.values()), 60)
        os.kill(nodes.a.process.popen.pid, signal.SIGKILL)
        killed.set()
        try:
            wait_for(lambda: all(sum(late for late, *_ in each) >= 4 for each in results.values()), 60)
        finally:
            over.set()
        for one in users:
            one.result()
    nodes.a.start()
    every = [result for each in results.values() for result in each]
    assert {first for _late, first, _again in every} <= {SUCCESS, LOST}
    assert not [again for _late, first, again in every if again == SUCCESS and first == SUCCESS], "a code counted twice"
    assert [first for late, first, _again in every if late].count(SUCCESS) >= len(names), "the other one answers"
    recorded = nodes.accepted()
    for name, each in results.items():
        told = sum(first == SUCCESS for _late, first, _again in each) + sum(again == SUCCESS for *_, again in each)
        assert recorded[nodes.directory.user(name).dn] >= told, "no success that is not in the store"
    assert nodes.log_in_at(nodes.b, names[0], nodes.typed(names[0])) == SUCCESS


def test_A19_the_database_is_killed_and_its_standby_takes_over(slapd, tmp_path):
    """Established sessions go on; who needs the database is told at once; no code is good again afterwards."""
    with ExitStack() as stack:
        primary, standby = Postgresql(synchronous_commit="on"), None
        stack.callback(primary.stop)
        primary.start()
        standby = primary.standby(synchronous_commit="on")
        stack.callback(standby.stop)
        primary.configure("synchronous_standby_names", "standby")
        url = primary.url(primary.database(), standby)
        nodes = stack.enter_context(Nodes(slapd, tmp_path / "nodes", url))
        used = []
        for name in ("paula", "dave", "alice"):
            typed = nodes.typed(name)
            assert nodes.log_in(name, typed) == SUCCESS
            used.append((name, typed))
        sessions = [stack.enter_context(nodes.to(node)) for node in (nodes.a, nodes.b)]
        for raw in sessions:
            assert raw.code(bind(1, slapd.user("dave").dn, nodes.typed("dave"))) == SUCCESS
        spare = {name: nodes.typed(name) for name in ("paula", "alice")}
        recorded = nodes.accepted()

        primary.kill()
        for node in (nodes.a, nodes.b):
            assert nodes.log_in_at(node, "paula", spare["paula"]) == UNAVAILABLE
            began = time.monotonic()
            assert nodes.log_in_at(node, "paula", spare["paula"]) == UNAVAILABLE
            assert time.monotonic() - began < 5, "nobody waits for a database that is away"
        for raw in sessions:
            raw.send(search(2, slapd.user("dave").dn, scope=ldap.BASE))
            assert ldap.read_result(raw.answer(2)[-1]).code == SUCCESS

        standby.promote()
        wait_for(lambda: nodes.log_in_at(nodes.a, "paula", used[0][1]) != UNAVAILABLE, 20)
        wait_for(lambda: nodes.log_in_at(nodes.b, "paula", used[0][1]) != UNAVAILABLE, 20)
        for name, typed in used:
            for node in (nodes.a, nodes.b):
                assert nodes.log_in_at(node, name, typed) == WRONG
        assert nodes.log_in("alice", spare["alice"]) == SUCCESS, "what was not used is good still"
        after = nodes.accepted()
        assert all(after[name] >= count for name, count in recorded.items())
        for raw in sessions:
            raw.send(search(3, slapd.user("dave").dn, scope=ldap.BASE))
            assert ldap.read_result(raw.answer(3)[-1]).code == SUCCESS
