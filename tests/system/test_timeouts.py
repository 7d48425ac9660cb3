"""A41 on a real process: whatever a client may let us wait for comes to an end, and descriptors do too.

Each time-out is set to a second or two; a client is cut off at some time after that, and others are served.
"""

import contextlib
import resource
import socket
import sys
import time
from pathlib import Path

import pytest
from system.proxy import Proxy
from system.wire import Raw, bind, extended, root_dse, search

from ldapmfa.wire import ldap

HASTE = "[limits]\nhandshake_timeout = 1\nidle_timeout = 2\nwrite_timeout = 2\n"


def cut_off(link):
    """Whether the other side ends the connection, and says nothing in TLS or LDAP before it does."""
    link.settimeout(20)
    try:
        return link.recv(100) == b""
    except ConnectionError:
        return True


def serves(proxy):
    """Whether a login and a search go through now."""
    alice = proxy.directory.user("alice")
    with Raw(proxy.host, proxy.port) as raw:
        return raw.code(bind(1, alice.dn, proxy.typed("alice"))) == 0 and raw.code(search(2, alice.dn, scope=0)) == 0


def serves_or_not_yet(proxy):
    """The same where clients may be closed still."""
    with contextlib.suppress(EOFError, OSError):
        return serves(proxy)
    return False


@pytest.fixture(scope="module")
def hasty(slapd, tmp_path_factory):
    with Proxy(slapd, tmp_path_factory.mktemp("hasty"), extra=HASTE) as proxy:
        yield proxy


def trickle(link, octets):
    """An octet each fifth of a second, until the other side has had enough of it."""
    began = time.monotonic()
    with contextlib.suppress(ConnectionError):
        for octet in octets:
            link.sendall(bytes((octet,)))
            time.sleep(0.2)
            assert time.monotonic() - began < 20


def test_A41_tls_that_does_not_begin_in_time(slapd, tmp_path):
    with Proxy(slapd, tmp_path / "proxy", listen={"tls": "ldaps"}, extra=HASTE) as proxy:
        with socket.create_connection((proxy.host, proxy.port)) as silent:
            assert cut_off(silent)
        with socket.create_connection((proxy.host, proxy.port)) as slow:
            trickle(slow, b"\x16\x03\x01\x00\xf0\x01\x00\x00\xec\x03\x03" + bytes(200))
        assert len([line for line in proxy.logged("client turned away") if "handshake" in line["reason"]]) == 2
        with Raw(proxy.host, proxy.port, tls=proxy.ca_file) as raw:
            assert raw.code(root_dse(1)) == 0


def test_A41_starttls_that_does_not_begin_in_time(hasty):
    with Raw(hasty.host, hasty.port) as raw:
        assert raw.code(extended(1, ldap.OID_START_TLS)) == 0
        assert cut_off(raw.socket)
    assert serves(hasty)


def test_A41_a_proxy_header_that_trickles_in(slapd, tmp_path):
    with Proxy(slapd, tmp_path / "proxy", listen={"proxy_protocol_from": ["127.0.0.0/8"]}, extra=HASTE) as proxy:
        with socket.create_connection((proxy.host, proxy.port)) as slow:
            trickle(slow, b"PROXY TCP4 " + b"1" * 200)
        proxy.wait_for_log("no PROXY header in time")


def test_A41_a_bound_client_that_asks_for_nothing(hasty):
    alice = hasty.directory.user("alice")
    with Raw(hasty.host, hasty.port) as raw:
        assert raw.code(bind(1, alice.dn, hasty.typed("alice"))) == 0
        notice = raw.frame()
        assert (notice.id, ldap.read_result(notice).code) == (0, 52)
        with pytest.raises(EOFError):
            raw.frame()
    assert serves(hasty)


def test_A41_a_client_that_never_reads_is_cut_off(hasty):
    alice = hasty.directory.user("alice")
    with Raw(hasty.host, hasty.port, timeout=15) as raw:
        assert raw.code(bind(1, alice.dn, hasty.typed("alice"))) == 0
        raw.send(*(search(number, hasty.directory.base_dn, attributes=("*",)) for number in range(2, 60)))
        hasty.wait_for_log("does not read what it is sent")
    assert serves(hasty)


# -- how many


def test_A41_a_burst_of_connects_beyond_the_limit(slapd, tmp_path):
    """Three thousand at once, a hundred allowed: the others are told busy, and there is room when those have left."""
    with Proxy(slapd, tmp_path / "proxy", extra="[limits]\nconnections = 100") as proxy:
        with contextlib.ExitStack() as stack:
            links = []
            for _ in range(3000):
                link = stack.enter_context(socket.socket())
                link.setblocking(False)
                link.connect_ex((proxy.host, proxy.port))
                links.append(link)
            told = 0
            for link in links[-1000:]:
                link.settimeout(20)
                notice = link.recv(1000)
                told += ldap.read_result(ldap.read_frame(notice, 0, 1000)).code == ldap.BUSY
                assert link.recv(1) == b""
            assert told == 1000
        assert len(proxy.logged("client turned away")) < 10
        proxy.process.wait_until(lambda: serves_or_not_yet(proxy), 15)


def test_A41_clients_that_do_not_fit_into_the_open_files_are_not_let_in(slapd, tmp_path):
    """Who is let in finds a descriptor for its link, and the store for its files."""
    argv = ("prlimit", "--nofile=200:256", sys.executable, "-m", "ldapmfa", "run")
    with Proxy(slapd, tmp_path / "proxy", runs=argv) as proxy, contextlib.ExitStack() as stack:
        told = proxy.logged("fewer clients than configured")[0]
        assert "LimitNOFILE=" in told["reason"]
        room = told["connections"]
        assert 20 < room < 40
        links = [stack.enter_context(Raw(proxy.host, proxy.port)) for _ in range(room + 20)]
        alice = proxy.directory.user("alice")
        for link in links[:room]:
            assert link.code(bind(1, alice.dn, proxy.typed("alice"))) == 0
        for link in links[room:]:
            assert ldap.read_result(link.frame()).code == ldap.BUSY
        assert links[0].code(search(2, alice.dn, scope=0)) == 0


def test_A41_without_a_descriptor_left_clients_are_closed(slapd, tmp_path):
    """Ten more than it has already, and forty clients: those that are too many are closed, not kept waiting."""
    with Proxy(slapd, tmp_path / "proxy") as proxy:
        soft, _ = open_files(proxy, None)
        used = max(int(one.name) for one in descriptors(proxy))
        open_files(proxy, used + 10)
        with contextlib.ExitStack() as stack:
            links = [stack.enter_context(socket.create_connection((proxy.host, proxy.port))) for _ in range(40)]
            assert all(cut_off(link) for link in links[-20:])
        open_files(proxy, soft)
        proxy.process.wait_until(lambda: serves_or_not_yet(proxy), 15)


def test_A41_where_nobody_can_be_accepted_the_process_rests(slapd, tmp_path):
    """Fewer than it has: not even the one that is kept to close others with can be used."""
    with Proxy(slapd, tmp_path / "proxy") as proxy:
        soft, _ = open_files(proxy, None)
        open_files(proxy, 5)
        with socket.create_connection((proxy.host, proxy.port)) as waiting:
            before = len(proxy.log.read_text())
            time.sleep(1)
            assert len(proxy.log.read_text()) - before < 20_000
            open_files(proxy, soft)
            waiting.settimeout(20)
            waiting.sendall(root_dse(1))
            assert waiting.recv(1) == b"\x30"


def open_files(proxy, soft):
    """Set the limit of the process, unless `soft` is None; soft and hard limit as they were."""
    pid = proxy.process.popen.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    if soft is not None:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, before[1]))
    return before


def descriptors(proxy):
    return list(Path(f"/proc/{proxy.process.popen.pid}/fd").iterdir())
