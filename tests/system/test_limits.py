"""A41 on a real process: what an attacker sends or withholds costs bounded memory, and others are served."""

import contextlib
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from system.proxy import Proxy
from system.wire import Raw, bind, root_dse, search

from ldapmfa.wire import ber, ldap

IDLE = 8_000


def resident(proxy):
    """Octets of memory the proxy's process holds."""
    status = Path(f"/proc/{proxy.process.popen.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def serves(proxy):
    """Whether a login and a search go through now."""
    alice = proxy.directory.user("alice")
    with Raw(proxy.host, proxy.port) as raw:
        return raw.code(bind(1, alice.dn, proxy.typed("alice"))) == 0 and raw.code(search(2, alice.dn, scope=0)) == 0


@pytest.fixture
def proxy(slapd, tmp_path):
    limits = "[limits]\nframe_timeout = 2\nbind_timeout = 60\nconnections = 9000\nsource_connections = 9000\nbuffered_bytes = 8388608"
    with Proxy(slapd, tmp_path / "proxy", extra=limits) as proxy:
        assert serves(proxy)
        yield proxy


def test_A41_thousands_of_idle_connections(proxy):
    before = resident(proxy)
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(socket.create_connection((proxy.host, proxy.port))) for _ in range(IDLE)]
        assert serves(proxy)
        assert resident(proxy) - before < IDLE * 20 * 1024
        idle[-1].sendall(root_dse(1))
        assert idle[-1].recv(1) == b"\x30"


def test_A41_more_connections_than_allowed_are_turned_away(slapd, tmp_path):
    with Proxy(slapd, tmp_path / "proxy", extra="[limits]\nconnections = 20") as proxy, contextlib.ExitStack() as stack:
        links = [stack.enter_context(Raw(proxy.host, proxy.port)) for _ in range(40)]
        time.sleep(0.5)
        served = 0
        for link in links:
            with contextlib.suppress(EOFError, OSError):
                served += link.code(root_dse(1)) == 0
        assert 18 <= served <= 20


def test_A41_announced_lengths_and_depths_are_not_believed(proxy):
    before = resident(proxy)
    huge = b"\x30\x84\x7f\xff\xff\xff\x02\x01\x01\x63"
    nested = ldap.message(1, ber.tlv(ldap.SEARCH_REQUEST, b"\xa0\x80" * 100_000))
    for octets in (huge, nested, b"\x30\x85" + bytes(5), b"\x30\x80"):
        with Raw(proxy.host, proxy.port) as raw:
            raw.send(octets)
            notice = raw.frame()
            assert (notice.id, ldap.read_result(notice).code) == (0, 2)
    assert serves(proxy)
    assert resident(proxy) - before < 4 * 1024 * 1024


def test_A41_a_slow_loris_is_cut_off(proxy):
    with Raw(proxy.host, proxy.port) as raw:
        whole = root_dse(1)
        began = time.monotonic()
        raw.send(whole[:3])
        notice = raw.frame()
        assert (notice.id, ldap.read_result(notice).code) == (0, 52)
        assert 1 < time.monotonic() - began < 10


def test_A41_a_client_that_never_reads(proxy):
    """Locally refused requests and relayed searches without reading: memory stays, others are served."""
    alice = proxy.directory.user("alice")
    with Raw(proxy.host, proxy.port, timeout=3) as raw:
        assert raw.code(bind(1, alice.dn, proxy.typed("alice"))) == 0
        before = resident(proxy)
        flood = b"".join(search(number, proxy.directory.base_dn, attributes=("*",)) for number in range(2, 200))
        with pytest.raises((TimeoutError, ConnectionError)):
            for _ in range(2000):
                raw.send(flood)
        assert resident(proxy) - before < 32 * 1024 * 1024
        assert serves(proxy)


@pytest.mark.parametrize("listen", [{}, {"tls": "ldaps"}, {"proxy_protocol_from": ["127.0.0.0/8"]}])
def test_A41_clients_that_send_and_reset_at_once_are_seen_to_leave(slapd, tmp_path, listen):
    """Octets and the connection's end in one event: no descriptor stays behind."""
    header = b"PROXY TCP4 192.0.2.1 127.0.0.1 1 389\r\n"
    with Proxy(slapd, tmp_path / "proxy", listen=listen) as proxy:
        descriptors = Path(f"/proc/{proxy.process.popen.pid}/fd")
        for octets in (b"\x30", root_dse(1), bind(1, "cn=x", "secret123456"), header, header + root_dse(1), b"\x16\x03"):
            for _ in range(20):
                with socket.create_connection((proxy.host, proxy.port)) as link:
                    link.sendall(octets)
                    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        proxy.process.wait_until(lambda: len(list(descriptors.iterdir())) < 60, 15)


def test_A41_begun_frames_share_one_budget(proxy):
    """Eight MiB for the process: the connections that exceed it are turned away, not the process."""
    before = resident(proxy)
    with contextlib.ExitStack() as stack:
        links = [stack.enter_context(Raw(proxy.host, proxy.port)) for _ in range(300)]
        part = ldap.message(1, ber.tlv(ldap.SEARCH_REQUEST, bytes(60_000)))[:-1]
        for link in links:
            with contextlib.suppress(OSError):
                link.send(part)
        assert serves(proxy)
        assert resident(proxy) - before < 40 * 1024 * 1024


def test_many_logins_at_once(proxy):
    """Sixty-four clients at a time, three times over; each is answered."""
    names = [f"bulk{number:04}" for number in range(64)]
    proxy.enrol_many(names)
    attempts = [(proxy.directory.user(name).dn, proxy.typed(name)) for name in names * 3]

    def log_in(attempt):
        with Raw(proxy.host, proxy.port) as raw:
            return raw.code(bind(1, *attempt))

    with ThreadPoolExecutor(64) as pool:
        assert set(pool.map(log_in, attempts)) == {0}
