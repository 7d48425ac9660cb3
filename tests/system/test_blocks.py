"""A block, by the command, on a running proxy: sessions end in every process, and nobody gets in again."""

import subprocess
import sys
import time

import pytest
from system.proxy import Proxy
from system.wire import Raw, bind, search

from ldapmfa.wire import ldap

CLIENTS = 8


def command(proxy, *words):
    return subprocess.run(
        [sys.executable, "-m", "ldapmfa", *words, "--config", proxy.config], capture_output=True, text=True, check=True
    )


def bound(proxy, stack, name):
    """Clients that have logged in as `name`, wherever they came to."""
    found = []
    for _ in range(CLIENTS):
        raw = Raw(proxy.host, proxy.port)
        stack.append(raw)
        raw.send(bind(1, proxy.directory.user(name).dn, proxy.typed(name)))
        assert ldap.read_result(raw.answer()[-1]).code == 0
        found.append(raw)
    return found


@pytest.mark.parametrize("workers", [1, 2])
def test_A44_a_block_ends_sessions_in_every_process_and_lets_nobody_in(slapd, tmp_path, workers):
    stack = []
    with Proxy(slapd, tmp_path / "proxy", workers=workers) as proxy:
        alices, dave = bound(proxy, stack, "alice"), bound(proxy, stack, "dave")[0]
        command(proxy, "user", "block", "alice", "--reason", "lost her phone")
        began = time.monotonic()
        for raw in alices:
            (notice,) = raw.answer(0)
            assert notice.id == 0
            with pytest.raises((EOFError, ConnectionError)):
                raw.frame()
        assert time.monotonic() - began < 10, "each process looks twice a second"
        dave.send(search(2, slapd.user("dave").dn, scope=ldap.BASE))
        assert ldap.read_result(dave.answer(2)[-1]).code == 0
        with Raw(proxy.host, proxy.port) as raw:
            raw.send(bind(1, slapd.user("alice").dn, proxy.typed("alice")))
            assert ldap.read_result(raw.answer()[-1]).code == 49
        assert proxy.records()[-1]["reason"] == "blocked"
        command(proxy, "user", "unblock", "alice", "--reason", "found it")
        with Raw(proxy.host, proxy.port) as raw:
            raw.send(bind(1, slapd.user("alice").dn, proxy.typed("alice")))
            assert ldap.read_result(raw.answer()[-1]).code == 0
    for raw in stack:
        raw.socket.close()


def test_a_bypass_by_the_command_lets_in_once(slapd, tmp_path):
    with Proxy(slapd, tmp_path / "proxy") as proxy:
        user = slapd.user("alice")
        with Raw(proxy.host, proxy.port) as raw:
            raw.send(bind(1, user.dn, proxy.typed("alice")))
            assert ldap.read_result(raw.answer()[-1]).code == 0
        command(proxy, "user", "bypass", "alice", "--reason", "forgot her token")
        codes = []
        for _ in range(2):
            with Raw(proxy.host, proxy.port) as raw:
                raw.send(bind(1, user.dn, user.password))
                codes.append(ldap.read_result(raw.answer()[-1]).code)
        assert codes == [0, 49]
        assert [event.reason for event in proxy.events() if hasattr(event, "outcome")][1] == "bypass"
