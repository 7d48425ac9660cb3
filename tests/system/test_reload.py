"""`ldapmfa reload` and SIGHUP: all of a configuration counts, in every process, or nothing of it does."""

import contextlib
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from system.proxy import ROOT, Proxy
from system.servers.common import answers_ldap, free_port, wait_for
from system.wire import Raw, bind, root_dse, search

from ldapmfa.net import control
from ldapmfa.wire import ldap

REFUSE = '[[rule]]\nname = "nobody"\ndirectory = "default"\naction = "refuse"\n'
BY_PASSWORD = '[[rule]]\nname = "all"\ndirectory = "default"\naction = "password-only"\n'
PLAIN = "require_tls = false\n"


@pytest.fixture(params=[1, 2])
def proxy(request, slapd, tmp_path):
    with Proxy(slapd, tmp_path / "proxy", workers=request.param, login='factors = ["hotp"]\nrefusal_floor = 0') as proxy:
        proxy.wait_for_log('"started"' if request.param > 1 else '"listening"')
        yield proxy


def write(proxy, more="", change=lambda text: text):
    """The configuration of the start, changed, and with `more` behind it."""
    if not hasattr(proxy, "first"):
        proxy.first = proxy.config.read_text()
    proxy.config.write_text(change(proxy.first) + more)


def asked(proxy, **more):
    """What the program answers at its control socket."""
    answers = []

    def answered():
        answers.append(control.ask(proxy.path / "ldapmfa.sock", {"do": "reload", **more}))
        return answers[-1]

    wait_for(answered)  # it may be starting
    return answers[-1]


def reload(proxy, *words):
    """The command."""
    return subprocess.run(
        [sys.executable, "-m", "ldapmfa", "reload", "--config", proxy.config, *words],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def log_in(proxy, typed=None, name="alice"):
    with Raw(proxy.host, proxy.port) as raw:
        return raw.code(bind(1, proxy.directory.user(name).dn, typed or proxy.typed(name)))


def by_password(proxy):
    """What logins by password alone are answered, whichever worker they come to."""
    return {log_in(proxy, proxy.directory.user("alice").password) for _ in range(4)}


def pids(proxy):
    return [proxy.process.popen.pid, *proxy.children().values()]


def descriptors(pid):
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def test_A44_a_configuration_with_a_mistake_changes_nothing(proxy):
    """Neither in the file nor in what it comes to; the rest of it would let in by password alone."""
    alice = proxy.directory.user("alice")
    other = free_port()
    with Raw(proxy.host, proxy.port) as bound, socket.create_server(("127.0.0.1", 0)) as taken:
        assert bound.code(bind(1, alice.dn, proxy.typed("alice"))) == 0
        extra = f'[[listen]]\nendpoint = "tcp:{other}:interface=127.0.0.1"\n{PLAIN}'
        busy = f'[[listen]]\nendpoint = "tcp:{taken.getsockname()[1]}:interface=127.0.0.1"\n{PLAIN}'
        for wrong, key in (
            ("[limits]\nconections = 5\n", "limits.conections"),
            ('[fraud]\nmail_to = ["desk@example.com"]\n', "fraud.mail_from"),
            (extra + busy, "endpoint"),
            ("[log]\nlevel = 'debug'\n", "log.level"),
            ("[audit]\nkeep_days = 'x'\n", "audit"),
            ("nonsense", ""),
        ):
            write(proxy, BY_PASSWORD + wrong)
            said = asked(proxy)
            assert said["applied"] is False
            assert key in said["mistakes"][0], said
            assert by_password(proxy) == {49}, wrong
            assert not answers_ldap("127.0.0.1", other)
        assert log_in(proxy) == 0
        assert bound.code(search(2, alice.dn, scope=ldap.BASE)) == 0
        assert len(proxy.logged("reload refused")) >= 6
        assert not proxy.logged("reloaded")
        before = [descriptors(pid) for pid in pids(proxy)]
        write(proxy, extra + busy)
        for _ in range(10):
            assert not asked(proxy)["applied"]
        wait_for(lambda: all(descriptors(pid) <= had for pid, had in zip(pids(proxy), before, strict=True)))
        # once it is right all of it counts
        write(proxy, BY_PASSWORD)
        assert (asked(proxy)["mistakes"], by_password(proxy)) == ([], {0})


def test_A44_a_reload_holds_in_every_process_when_it_is_reported(proxy):
    for more, code in ((BY_PASSWORD, 0), (REFUSE, 49), ("", 49), (BY_PASSWORD, 0)):
        write(proxy, more)
        assert asked(proxy)["applied"]
        assert by_password(proxy) == {code}
    write(proxy, REFUSE)
    assert asked(proxy)["applied"]
    assert log_in(proxy) == 49  # not by a code either
    assert proxy.records()[-1]["reason"] == "rule"


def test_A44_a_program_of_another_configuration_is_left_alone(proxy):
    """Two with one folder for their stores have one socket: who reloads is not told that the other one's has changed."""
    write(proxy, BY_PASSWORD)
    other = proxy.config.with_name("other.toml")
    other.write_text(proxy.config.read_text())
    said = reload(proxy, "--config", str(other))
    assert (said.returncode, said.stdout) == (3, "")
    assert f"goes by {proxy.config}, not by {other}" in said.stderr
    assert said.stderr.endswith("nothing was changed\n")
    assert by_password(proxy) == {49}
    link = proxy.config.with_name("link.toml")
    link.symlink_to(proxy.config)
    assert reload(proxy, "--config", str(link)).returncode == 0
    assert by_password(proxy) == {0}


def test_the_command_says_what_changed_and_the_log_too(proxy):
    write(proxy, REFUSE, lambda text: text.replace("refusal_floor = 0", "refusal_floor = 0.1"))
    checked = reload(proxy, "--check")
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "nothing is applied" in checked.stdout
    assert "login.refusal_floor: 0.0 -> 0.1" in checked.stdout
    assert log_in(proxy) == 0
    done = reload(proxy, "--json")
    value = json.loads(done.stdout)
    assert (done.returncode, value["applied"]) == (0, True)
    assert {"key": "rule[nobody].action", "old": "not set", "new": '"refuse"'} in value["changes"]
    assert log_in(proxy) == 49
    told = [(line["key"], line["old"], line["new"]) for line in proxy.logged("setting changed")]
    assert ("login.refusal_floor", "0.0", "0.1") in told
    assert [line["changes"] for line in proxy.logged("reloaded")] == [len(value["changes"])]
    proxy.config.write_text(proxy.first + "[limits]\nconections = 5\n")
    wrong = reload(proxy)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "limits.conections" in wrong.stderr
    assert wrong.stderr.endswith("nothing was changed\n")
    proxy.config.write_text(proxy.first + "[service]\ndrain_seconds = 5\n" if proxy.workers == 1 else proxy.first.replace("workers = 2", "workers = 3"))
    fixed = reload(proxy)
    assert (fixed.returncode, "restart it" in fixed.stderr, "nothing was changed" in fixed.stderr) == (2, True, True)
    proxy.config.write_text(proxy.first)
    proxy.process.stop()
    gone = reload(proxy)
    assert (gone.returncode, "nothing runs" in gone.stderr) == (3, True)
    assert not (proxy.path / "ldapmfa.sock").exists()


def test_sighup_does_the_same(proxy):
    write(proxy, BY_PASSWORD + "[limits]\nconections = 5\n")
    proxy.process.popen.send_signal(signal.SIGHUP)
    wait_for(lambda: proxy.logged("reload refused"))
    assert by_password(proxy) == {49}
    write(proxy, BY_PASSWORD)
    proxy.process.popen.send_signal(signal.SIGHUP)
    wait_for(lambda: proxy.logged("reloaded"))
    assert by_password(proxy) == {0}


def test_who_is_bound_stays_bound_and_binds_again_by_the_new_rules(proxy):
    alice = proxy.directory.user("alice")
    with contextlib.ExitStack() as stack:
        raws = [stack.enter_context(Raw(proxy.host, proxy.port)) for _ in range(4)]
        for raw in raws:
            assert raw.code(bind(1, alice.dn, proxy.typed("alice"))) == 0
        application = '[[application]]\nname = "readers"\nnetworks = ["127.0.0.0/8"]\ndenied_operations = ["compare"]\n'
        write(proxy, REFUSE + application)
        assert asked(proxy)["applied"]
        for raw in raws:
            assert raw.code(search(2, alice.dn, scope=ldap.BASE)) == 0
            compare = ldap.message(3, bytes.fromhex("6e") + bytes([len(alice.dn) + 2 + 12]) + b"\x04" + bytes([len(alice.dn)]) + alice.dn.encode() + b"\x30\x0a\x04\x02cn\x04\x04none")
            assert raw.code(compare) == ldap.INSUFFICIENT_ACCESS_RIGHTS  # what is denied is denied at once
            assert raw.code(bind(4, alice.dn, proxy.typed("alice"))) == 49
            assert raw.code(search(5, alice.dn, scope=ldap.BASE)) == ldap.INSUFFICIENT_ACCESS_RIGHTS


def test_listeners_come_and_go_and_the_others_are_not_touched(proxy):
    alice = proxy.directory.user("alice")
    other = free_port()
    with Raw(proxy.host, proxy.port) as raw:
        assert raw.code(bind(1, alice.dn, proxy.typed("alice"))) == 0
        write(proxy, f'[[listen]]\nendpoint = "tcp:{other}:interface=127.0.0.1"\nname = "other"\n{PLAIN}')
        assert asked(proxy)["applied"]
        with contextlib.ExitStack() as stack:
            others = [stack.enter_context(Raw("127.0.0.1", other)) for _ in range(4)]
            for one in others:
                assert one.code(bind(1, alice.dn, proxy.typed("alice"))) == 0
            assert {record["listener"] for record in proxy.records()[1:]} == {"other"}
            write(proxy)
            assert asked(proxy)["applied"]
            for one in others:
                notice = one.frame()
                assert (notice.id, ldap.read_result(notice).code) == (0, ldap.UNAVAILABLE)
        wait_for(lambda: not answers_ldap("127.0.0.1", other))
        assert raw.code(search(2, alice.dn, scope=ldap.BASE)) == 0
        assert log_in(proxy) == 0
    # and again, at the same port
    write(proxy, f'[[listen]]\nendpoint = "tcp:{other}:interface=127.0.0.1"\nname = "other"\n{PLAIN}')
    assert asked(proxy)["applied"]
    assert answers_ldap("127.0.0.1", other)


def test_a_listener_that_changes_its_tls_keeps_its_socket_and_none_of_its_clients(proxy):
    alice = proxy.directory.user("alice")
    with Raw(proxy.host, proxy.port) as raw:
        assert raw.code(bind(1, alice.dn, proxy.typed("alice"))) == 0
        write(proxy, change=lambda text: text.replace("[[listen]]\n", '[[listen]]\nproxy_protocol_from = ["192.0.2.1"]\n', 1))
        assert asked(proxy)["applied"]
        assert raw.frame().id == 0
    with Raw(proxy.host, proxy.port) as raw:
        assert raw.code(bind(1, alice.dn, proxy.typed("alice"))) == 0
        write(proxy, change=lambda text: text.replace('tls = "starttls"', 'tls = "ldaps"'))
        assert asked(proxy)["applied"]
        assert raw.frame().id == 0
    with Raw(proxy.host, proxy.port, tls=proxy.ca_file) as raw:
        assert raw.code(bind(1, proxy.directory.user("alice").dn, proxy.typed("alice"))) == 0
    write(proxy)
    assert asked(proxy)["applied"]
    assert log_in(proxy) == 0


def test_A44_every_login_is_judged_by_one_configuration_or_the_other(proxy):
    """Fifty reloads that flip a rule, under a stream of logins by password and by code."""
    over, codes, wrong = threading.Event(), set(), []
    alice = proxy.directory.user("alice")
    write(proxy, REFUSE)
    assert asked(proxy)["applied"]

    def come():
        while not over.is_set():
            with Raw(proxy.host, proxy.port) as raw:
                for number in range(1, 4):
                    code = raw.code(bind(number, alice.dn, alice.password))
                    codes.add(code)
                    if code not in {0, 49}:
                        wrong.append(code)

    coming = [threading.Thread(target=come) for _ in range(3)]
    for one in coming:
        one.start()
    try:
        for number in range(50):
            write(proxy, (BY_PASSWORD, REFUSE)[number % 2])
            assert asked(proxy)["applied"]
            assert log_in(proxy, alice.password) == (0, 49)[number % 2]
    finally:
        over.set()
        for one in coming:
            one.join()
    assert (wrong, codes) == ([], {0, 49})
    outcomes = {(record["outcome"], record["reason"]) for record in proxy.records()}
    assert outcomes == {("accepted", "by-rule"), ("refused", "rule")}


def test_two_hundred_reloads_leave_nothing_behind(slapd, tmp_path):
    with Proxy(slapd, tmp_path / "proxy") as proxy:
        pid = proxy.process.popen.pid
        assert log_in(proxy) == 0

        def resident():
            return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])

        def some(count):
            for number in range(count):
                write(proxy, (BY_PASSWORD, REFUSE)[number % 2])
                assert asked(proxy)["applied"]

        some(60)
        before = descriptors(pid), resident()
        some(140)
        wait_for(lambda: descriptors(pid) <= before[0])
        print(f"{resident() - before[1]} KiB more")
        assert resident() - before[1] < 6000


def test_a_worker_that_is_replaced_begins_with_what_counts_now(slapd, tmp_path):
    with Proxy(slapd, tmp_path / "proxy", workers=2, login='factors = ["hotp"]') as proxy:
        other = free_port()
        write(proxy, BY_PASSWORD + f'[[listen]]\nendpoint = "tcp:{other}:interface=127.0.0.1"\n{PLAIN}')
        assert asked(proxy)["applied"]
        proxy.config.write_text("nonsense")
        for pid in proxy.children().values():
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: [line["worker"] for line in proxy.logged("listening")].count(2) >= 3, 30)
        wait_for(lambda: len(proxy.children()) == 2)
        assert by_password(proxy) == {0}
        assert answers_ldap("127.0.0.1", other)


def test_A44_a_worker_that_can_not_keeps_all_from_it_and_one_that_hangs_later_is_replaced(slapd, tmp_path):
    """A worker that is stuck makes nothing ready; nothing changes in the other one either."""
    environment = {"LDAPMFA_SERVICE__WORKER_SECONDS": "2"}
    with Proxy(slapd, tmp_path / "proxy", workers=2, environment=environment, login='factors = ["hotp"]') as proxy:
        write(proxy, BY_PASSWORD)
        os.kill(proxy.children()[2], signal.SIGSTOP)
        said = asked(proxy)
        assert (said["applied"], said["broken"]) == (False, True)
        assert "worker 2" in said["mistakes"][0]
        wait_for(lambda: [line["worker"] for line in proxy.logged("listening")].count(2) >= 2, 30)
        assert by_password(proxy) == {49}
        assert asked(proxy)["applied"]
        assert by_password(proxy) == {0}


def test_systemd_is_told_that_it_reloads_and_is_ready_again_whatever_comes_of_it(slapd, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(10)

        def told():
            return systemd.recv(4096).decode().split("\n")

        with Proxy(slapd, tmp_path / "proxy", environment={"NOTIFY_SOCKET": str(tmp_path / "notify")}) as proxy:
            assert told()[0] == "READY=1"
            for more in ("nonsense", BY_PASSWORD):
                write(proxy, more)
                before = time.monotonic_ns() // 1000
                assert asked(proxy)["applied"] is (more == BY_PASSWORD)
                reloading = told()
                assert reloading[0] == "RELOADING=1"
                assert before <= int(reloading[1].removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000
                assert told()[0] == "READY=1"


def test_a_terminal_that_is_gone_ends_it_and_is_no_reload(slapd, tmp_path):
    """A terminal sends SIGHUP, too, to what runs in it."""
    with Proxy(slapd, tmp_path / "proxy") as proxy:
        proxy.process.stop()
        words = [sys.executable, "-m", "ldapmfa", "run", "--config", str(proxy.config)]
        pid, terminal = pty.fork()
        if not pid:
            os.execve(words[0], words, {**os.environ, "PYTHONPATH": str(ROOT)})
        try:
            wait_for((proxy.path / "ldapmfa.sock").exists, 30)
            assert asked(proxy)["applied"]
            os.close(terminal)
            wait_for(lambda: os.waitpid(pid, os.WNOHANG) != (0, 0), 15)
            pid = 0
        finally:
            if pid:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        assert not answers_ldap(proxy.host, proxy.port)


def test_twistd_hears_sighup_too(slapd, tmp_path):
    runs = (Path(sys.executable).parent / "twistd", "-n", "--pidfile=", "--reactor=ldapmfa", "ldapmfa")
    with Proxy(slapd, tmp_path / "proxy", runs=runs) as proxy:
        write(proxy, BY_PASSWORD)
        proxy.process.popen.send_signal(signal.SIGHUP)
        wait_for(lambda: proxy.logged("reloaded"))
        assert by_password(proxy) == {0}
        assert asked(proxy, check=True)["mistakes"] == []


def test_the_control_socket_is_its_users_alone_and_takes_no_nonsense(slapd, tmp_path):
    with Proxy(slapd, tmp_path / "proxy") as proxy:
        path = proxy.path / "ldapmfa.sock"
        assert path.stat().st_mode & 0o777 == 0o600
        for line in (b"", b"\n", b"[]\n", b"{}\n", b"x" * 100_000 + b"\n", b"\xff\n"):
            with socket.socket(socket.AF_UNIX) as asking, control._short(path) as short:
                asking.settimeout(10)
                asking.connect(short)
                with contextlib.suppress(ConnectionError):
                    asking.sendall(line)
                    asking.shutdown(socket.SHUT_WR)
                    asking.recv(100)
        # nobody who asks and says nothing keeps others waiting
        with socket.socket(socket.AF_UNIX) as silent, control._short(path) as short:
            silent.connect(short)
            assert asked(proxy)["applied"]
        # a second program leaves it alone
        assert log_in(proxy) == 0
        with Raw(proxy.host, proxy.port) as raw:
            assert raw.code(root_dse(1)) == 0
        # killed, it leaves the file behind, which does not keep the next one from starting
        proxy.process.popen.kill()
        proxy.process.popen.wait()
        assert path.exists()
        time.sleep(0.1)
        proxy.start()
        assert asked(proxy)["applied"]


def test_A41_other_limits_hold_at_once_for_who_comes_and_for_new_listeners(slapd, tmp_path):
    with Proxy(slapd, tmp_path / "proxy") as proxy:
        other = free_port()
        balanced = f'[[listen]]\nendpoint = "tcp:{other}:interface=127.0.0.1"\n{PLAIN}proxy_protocol_from = ["127.0.0.1"]\n'
        write(proxy, f"{balanced}[limits]\nconnections = 2\nhandshake_timeout = 1\n")
        assert asked(proxy)["applied"]
        with socket.create_connection(("127.0.0.1", other)) as late:  # whose header never comes
            late.settimeout(6)
            with contextlib.suppress(ConnectionError):
                assert late.recv(1) == b""
        with contextlib.ExitStack() as stack:
            raws = [stack.enter_context(Raw(proxy.host, proxy.port)) for _ in range(2)]
            assert {raw.code(root_dse(1)) for raw in raws} == {0}
            notice = stack.enter_context(Raw(proxy.host, proxy.port)).frame()
            assert (notice.id, ldap.read_result(notice).code) == (0, ldap.BUSY)
        write(proxy)
        assert asked(proxy)["applied"]
        with contextlib.ExitStack() as stack:
            raws = [stack.enter_context(Raw(proxy.host, proxy.port)) for _ in range(5)]
            assert {raw.code(root_dse(1)) for raw in raws} == {0}


def test_A33_a_success_that_was_remembered_counts_no_more_after_a_reload(proxy):
    """Even if nothing changed that its hash is made of: the directory's own table, here."""

    def reuses(text):
        return text.replace("[[listen]]\n", "[[listen]]\nreuse_seconds = 300\nreuse_uses = 100\n", 1)

    write(proxy, change=reuses)
    assert asked(proxy)["applied"]
    typed = proxy.typed("alice")
    assert [log_in(proxy, typed) for _ in range(4)] == [0, 0, 0, 0]
    assert proxy.records()[-1]["reason"] == "reused"
    write(proxy, "[limits]\nheld_requests = 50\n", reuses)
    assert asked(proxy)["applied"]
    assert log_in(proxy, typed) == 0, "limits are no policy"
    write(proxy, change=lambda text: reuses(text).replace("[directory]\n", "[directory]\ncheck_seconds = 11\n", 1))
    said = asked(proxy)
    assert (said["applied"], [change["key"] for change in said["changes"]]) == (True, ["directory.check_seconds", "limits.held_requests"])
    assert log_in(proxy, typed) == 49
