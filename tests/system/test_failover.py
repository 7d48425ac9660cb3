"""Two directory servers with the same accounts: one is killed, hangs, is cut off or slow under load, and comes back.

Whatever happens, a login ends as it should, or the client is told `unavailable`, or its connection ends; and no bind
reaches the directory twice.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from system.proxy import Proxy
from system.servers.common import free_port, run, wait_for
from system.servers.slapd import Slapd
from system.wire import Raw, bind, extended, search

from ldapmfa.wire import ldap

PEOPLE = [f"bulk{number:04}" for number in range(12)]
SETTINGS = "connect_timeout = 1\nresponse_timeout = 4\ncheck_seconds = 1"


class Twin(Slapd):
    """A server with the same entries as another, entryUUIDs and all."""

    def __init__(self, directory, other):
        super().__init__(directory, entries=other.entries)
        self.other = other

    def _build(self):
        ldif = self.directory / "other.ldif"
        super()._build()
        run(["slapcat", "-f", self.other.directory / "slapd.conf", "-l", ldif], self.directory / "slapcat.log")
        shutil.rmtree(self.directory / "db")
        (self.directory / "db").mkdir()
        run(["slapadd", "-q", "-f", self.directory / "slapd.conf", "-l", ldif], self.directory / "slapadd.log")

    def _add_groups(self):
        """They are there."""


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    one = Slapd(tmp_path_factory.mktemp("one"), entries=60)
    try:
        one.start()
        two = Twin(tmp_path_factory.mktemp("two"), one)
        try:
            yield one, two.start()
        finally:
            two.stop()
    finally:
        one.stop()


def binds(server):
    """How many binds of each DN the server has read, whether or not it lived to answer."""
    found = re.findall(r'BIND dn="([^"]+)" method=128', server.log.read_text(errors="replace"))
    return Counter(name.lower() for name in found)


@pytest.fixture
def proxy(twins, tmp_path):
    one, two = twins
    with Proxy(one, tmp_path / "proxy", to_directory=f"uris = {json.dumps([one.uri, two.uri])}\n{SETTINGS}") as proxy:
        proxy.enrol_many(PEOPLE)
        yield proxy


def log_in(proxy, name):
    """What a client is told, or "closed"; one that is let in asks who it is, and for its own entry."""
    user = proxy.directory.user(name)
    try:
        with Raw(proxy.host, proxy.port) as raw:
            code = raw.code(bind(1, user.dn, proxy.typed(name)))
            if code:
                return code
            with contextlib.suppress(EOFError, ConnectionError):  # it was let in, whatever comes now
                raw.send(extended(2, ldap.OID_WHO_AM_I))
                told = ldap.read_result(raw.answer()[-1])
                assert told.code or told.value.decode().lower() == f"dn:{user.dn.lower()}"
                raw.send(search(3, user.dn, scope=ldap.BASE, attributes=("cn",)))
                frames = raw.answer()
                assert [ldap.read_entry(frame).dn.lower() for frame in frames[:-1]] in ([user.dn.lower()], [])
            return 0
    except (EOFError, ConnectionError):
        return "closed"


class Load:
    """Somebody logs in all the time, each with codes of their own; `told` is when and what they were told."""

    def __init__(self, proxy, twins):
        self.proxy, self.twins = proxy, twins
        self.told = []
        self.attempts = Counter()

    def __enter__(self):
        self.ended = threading.Event()
        self.before = sum(map(binds, self.twins), Counter())
        self.pool = ThreadPoolExecutor(len(PEOPLE))
        self.running = [self.pool.submit(self.go_on, name) for name in PEOPLE]
        return self

    def go_on(self, name):
        while not self.ended.is_set():
            self.attempts[name] += 1
            began = time.monotonic()
            told = log_in(self.proxy, name)
            self.told.append((name, told, time.monotonic() - began))
            time.sleep(0.02)

    def __exit__(self, *failed):
        self.ended.set()
        self.pool.shutdown()
        if failed[0]:
            return
        for one in self.running:
            one.result()
        assert {told for _, told, _ in self.told} <= {0, 52, "closed"}
        recorded = Counter(record["name"] for record in self.proxy.records() if record["outcome"] == "accepted")
        sent = sum(map(binds, self.twins), Counter())
        for name in PEOPLE:
            dn = self.proxy.directory.user(name).dn
            right = sum(told == 0 for who, told, _ in self.told if who == name)
            assert right <= recorded[dn], "a success that is not recorded"
            assert sent[dn.lower()] - self.before[dn.lower()] <= self.attempts[name], "a bind was sent twice"

    def wait_for(self, count):
        """So many more logins that were right."""
        goal = sum(told == 0 for _, told, _ in self.told) + count
        wait_for(lambda: sum(told == 0 for _, told, _ in self.told) >= goal, 20)

    @property
    def failed(self):
        return [told for _, told, _ in self.told if told != 0]


def heard(proxy, what):
    return proxy.logged(f"directory server {what}")


def wait_for_word(proxy, what, count=1):
    proxy.process.wait_until(lambda: len(heard(proxy, what)) >= count, 15)


def test_a_killed_server_costs_the_logins_under_way_and_comes_back_when_it_is_well(proxy, twins):
    one, two = twins
    with Load(proxy, twins) as load:
        load.wait_for(40)
        at_two = binds(two)
        os.killpg(one.process.popen.pid, signal.SIGKILL)
        load.wait_for(40)
        assert len(load.failed) <= len(PEOPLE), "more failed than were under way"
        assert binds(two) != at_two
        wait_for_word(proxy, "down")
        failed = len(load.failed)
        load.wait_for(40)
        assert len(load.failed) == failed, "somebody paid for it again"
        one.restart()
        wait_for_word(proxy, "up")
        at_one = binds(one)
        load.wait_for(40)
        assert binds(one) != at_one
        at_two = binds(two)
        load.wait_for(20)
        assert binds(two) == at_two, "nobody falls back to the first server"
    (down,), (up,) = heard(proxy, "down"), heard(proxy, "up")
    assert (down["server"], up["server"], down["level"]) == (one.uri, one.uri, "warning")


def test_a_server_that_hangs_costs_each_client_its_time_out_once(proxy, twins):
    one, _ = twins
    with Load(proxy, twins) as load:
        load.wait_for(40)
        os.kill(one.process.popen.pid, signal.SIGSTOP)
        try:
            wait_for_word(proxy, "down")
            load.wait_for(80)
            slow = Counter(name for name, _, took in load.told if took > 3.5)
            assert all(times == 1 for times in slow.values()), slow
        finally:
            os.kill(one.process.popen.pid, signal.SIGCONT)
        wait_for_word(proxy, "up")
        at_one = binds(one)
        load.wait_for(40)
        assert binds(one) != at_one


def test_where_both_are_down_everybody_is_told_so_at_once_and_it_heals_by_itself(proxy, twins):
    for server in twins:
        server.stop()
    try:
        wait_for_word(proxy, "down", 2)
        for _ in range(3):
            assert log_in(proxy, "bulk0000") == 52
    finally:
        for server in twins:
            server.restart()
    wait_for_word(proxy, "up", 2)
    assert log_in(proxy, "bulk0000") == 0


# -- a network in between


class Between:
    """Carries connections to a server: `mode` is "pass", "cut" (in the middle of an answer), "slow" or "swallow"."""

    def __init__(self, to):
        self.to, self.mode, self.port = to, "pass", free_port()

    def __enter__(self):
        self.listener = socket.create_server(("127.0.0.1", self.port))
        self.sockets = []
        self.accepting = threading.Thread(target=self.accept, daemon=True)
        self.accepting.start()
        return self

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.accepting.join()
        self.listener.close()
        for end in self.sockets:
            end.close()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                near = self.listener.accept()[0]
                far = socket.create_connection(self.to)
                self.sockets += near, far
                for pair, back in (((near, far), False), ((far, near), True)):
                    threading.Thread(target=self.carry, args=(*pair, back), daemon=True).start()

    def carry(self, source, target, back):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                mode = self.mode if back else "pass"
                if mode == "cut":
                    target.sendall(data[: len(data) // 2])
                    break
                if mode == "slow":
                    for octet in data:
                        time.sleep(0.002)
                        target.sendall(bytes([octet]))
                elif mode == "pass":
                    target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def between(twins, tmp_path):
    """The first server behind a network that a test spoils."""
    one, two = twins
    with Between((one.host, one.port)) as between:
        uris = json.dumps([f"ldap://127.0.0.1:{between.port}", two.uri])
        checks = SETTINGS.replace("check_seconds = 1", "check_seconds = 600")
        with Proxy(one, tmp_path / "proxy", to_directory=f"uris = {uris}\n{checks}") as proxy:
            proxy.enrol_many(PEOPLE)
            wait_for(lambda: one.log.read_text().count("isSynchronized") > 0)
            yield between, proxy


def test_a_login_whose_answer_is_cut_off_in_the_middle_is_told_unavailable_and_the_next_is_well(between, twins):
    network, proxy = between
    before = sum(map(binds, twins), Counter())
    network.mode = "cut"
    assert log_in(proxy, "bulk0001") == 52
    network.mode = "pass"
    assert log_in(proxy, "bulk0002") == 0
    sent = sum(map(binds, twins), Counter())
    for name in ("bulk0001", "bulk0002"):
        dn = proxy.directory.user(name).dn.lower()
        assert sent[dn] - before[dn] <= 1


def test_an_answer_that_is_cut_off_in_the_middle_ends_the_client_and_is_followed_by_nothing(between):
    network, proxy = between
    user = proxy.directory.user("bulk0003")
    with Raw(proxy.host, proxy.port) as raw:
        assert raw.code(bind(1, user.dn, proxy.typed("bulk0003"))) == 0
        network.mode = "cut"
        raw.send(search(2, user.dn, scope=ldap.BASE))
        with pytest.raises((EOFError, ConnectionError)):
            raw.answer()
        whole = ldap.read_frame(raw.buffer, 0, 1 << 20) if raw.buffer else 0
        assert isinstance(whole, int)


def test_a_slow_network_makes_logins_slow_and_nothing_else(between):
    network, proxy = between
    network.mode = "slow"
    assert log_in(proxy, "bulk0004") == 0
    assert not heard(proxy, "down")


def test_a_network_that_swallows_every_answer_costs_one_login_its_time_out(between, twins):
    network, proxy = between
    network.mode = "swallow"
    assert log_in(proxy, "bulk0005") == 52
    began = time.monotonic()
    assert log_in(proxy, "bulk0006") == 0
    assert time.monotonic() - began < 3.5, "it waited for the server that swallows"
    wait_for_word(proxy, "down")
    assert "does not answer" in heard(proxy, "down")[0]["reason"]
    network.mode = "pass"
    wait_for_word(proxy, "up")


# -- load spread


def test_the_load_is_spread_over_both(twins, tmp_path):
    one, two = twins
    uris = json.dumps([one.uri, two.uri])
    with Proxy(one, tmp_path / "proxy", to_directory=f'uris = {uris}\nbalance = "spread"') as proxy:
        proxy.enrol_many(PEOPLE)
        before = [sum(binds(server).values()) for server in twins]
        with contextlib.ExitStack() as stack:
            for name in PEOPLE:
                raw = stack.enter_context(Raw(proxy.host, proxy.port))
                assert raw.code(bind(1, proxy.directory.user(name).dn, proxy.typed(name))) == 0
            after = [sum(binds(server).values()) for server in twins]
        assert [later - earlier for earlier, later in zip(before, after, strict=True)] == [6, 6]
