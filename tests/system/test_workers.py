"""Several processes on the same sockets and one store: who answers, what the end of one means, how all of them end."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from system.proxy import ROOT, Proxy
from system.servers.common import answers_ldap, tail, wait_for
from system.wire import Raw, bind, root_dse

from ldapmfa.wire import ldap

TWISTD = (Path(sys.executable).parent / "twistd", "-n", "--pidfile=")


@pytest.fixture(scope="module")
def proxy(slapd, tmp_path_factory):
    with Proxy(slapd, tmp_path_factory.mktemp("proxy"), workers=2) as proxy:
        yield proxy


def connections(pid):
    """How many clients a process has: sockets that were accepted where somebody listens."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = {row[1] for row in rows if row[3] == "0A"}
    accepted = {f"socket:[{row[9]}]" for row in rows if row[3] != "0A" and row[1] in listening}
    found = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found += str(descriptor.readlink()) in accepted
    return found


def log_in(proxy, name="alice"):
    with Raw(proxy.host, proxy.port) as raw:
        return raw.code(bind(1, proxy.directory.user(name).dn, proxy.typed(name)))


def wait_until_replaced(proxy, worker, times=1):
    proxy.process.wait_until(
        lambda: [line["worker"] for line in proxy.logged("listening")].count(worker) == times + 1, 30
    )


def gone(pids):
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.parametrize(("rounds", "count", "most"), [(5, 4, 12), (2, 64, 84)])
def test_clients_that_stay_are_spread(proxy, rounds, count, most):
    """Evenly, but for what a busy machine does: `most` is what the fuller worker may have had in all rounds."""
    pids = proxy.children().values()
    before = {pid: connections(pid) for pid in pids}
    fuller = 0
    for _ in range(rounds):
        with contextlib.ExitStack() as stack:
            for _ in range(count):
                stack.enter_context(Raw(proxy.host, proxy.port))
                time.sleep(0.1 if count == 4 else 0)
            wait_for(lambda: sum(map(connections, pids)) == sum(before.values()) + count)
            fuller += max(connections(pid) - before[pid] for pid in pids)
        wait_for(lambda: sum(map(connections, pids)) == sum(before.values()))
    assert fuller <= most


def test_both_answer_and_say_which_they_are(proxy):
    alice = proxy.directory.user("alice")
    with contextlib.ExitStack() as stack:
        for number in range(4):
            raw = stack.enter_context(Raw(proxy.host, proxy.port))
            assert raw.code(bind(number + 1, alice.dn, proxy.typed("alice"))) == 0
    assert {record["worker"] for record in proxy.records()} == {1, 2}
    assert {line["worker"] for line in proxy.logged("listening")} == {1, 2}
    assert [line["workers"] for line in proxy.logged("started")] == [2]


def test_A19_a_code_wins_once_whichever_worker_it_comes_to(proxy):
    bob = proxy.directory.user("bob")
    for _ in range(3):
        typed = proxy.typed("bob")
        with contextlib.ExitStack() as stack, ThreadPoolExecutor(20) as pool:
            raws = [stack.enter_context(Raw(proxy.host, proxy.port)) for _ in range(20)]
            codes = sorted(pool.map(lambda raw, typed=typed: raw.code(bind(1, bob.dn, typed)), raws))
        assert codes == [0] + [49] * 19
    proxy.process.wait_until(lambda: len([one for one in proxy.records() if one["name"] == bob.dn]) == 60, 5)
    assert {record["worker"] for record in proxy.records() if record["name"] == bob.dn} == {1, 2}


def test_no_secret_in_what_ps_shows_and_no_core_dumps(slapd, tmp_path):
    with Proxy(slapd, tmp_path / "proxy", workers=2, service=True) as proxy:
        for number, pid in proxy.children().items():
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            assert words[1:] == ["-P", "-m", "ldapmfa", "worker", "--number", str(number), "--config", str(proxy.config), ""]
            environment = Path(f"/proc/{pid}/environ").read_bytes()
            assert slapd.service_password.encode() in proxy.config.read_bytes()
            assert slapd.service_password.encode() not in environment + " ".join(words).encode()
            limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
            assert [line.split()[4:6] for line in limits if line.startswith("Max core")] == [["0", "0"]]


def test_one_that_is_killed_is_replaced_and_nobody_but_its_clients_notices(slapd, tmp_path):
    with Proxy(slapd, tmp_path / "proxy", workers=2) as proxy:
        alice = slapd.user("alice")
        for times, delay in enumerate((1.0, 2.0), 1):
            old = proxy.children()
            with contextlib.ExitStack() as stack:
                before = {pid: connections(pid) for pid in old.values()}
                raws = []
                # on a busy machine one of them may be late for several clients
                while len(raws) < 4 or not all(connections(pid) > had for pid, had in before.items()):
                    assert len(raws) < 40, "one worker takes all"
                    raws.append(stack.enter_context(Raw(proxy.host, proxy.port)))
                    assert raws[-1].code(bind(1, alice.dn, proxy.typed("alice"))) == 0
                os.kill(old[1], signal.SIGKILL)
                wait_for(lambda: gone([old[1]]))  # noqa: B023 - called here
                lost = 0
                for raw in raws:
                    try:
                        assert raw.code(root_dse(2)) == 0
                    except (EOFError, ConnectionError):
                        lost += 1
                assert 0 < lost < len(raws)
                for _ in range(10):
                    assert log_in(proxy) == 0
            ended = proxy.logged("worker ended")[-1]
            assert (ended["worker"], ended["reason"], ended["again_after"]) == (1, "killed by SIGKILL", delay)
            wait_until_replaced(proxy, 1, times)
            new = proxy.children()
            assert (set(new), new[2]) == ({1, 2}, old[2])
            assert new[1] != old[1]
        # the new one takes its part
        before = {pid: connections(pid) for pid in proxy.children().values()}
        with contextlib.ExitStack() as stack:
            for _ in range(4):
                stack.enter_context(Raw(proxy.host, proxy.port))
            wait_for(lambda: all(connections(pid) > had for pid, had in before.items()))


def test_one_that_is_replaced_reads_no_other_configuration(slapd, tmp_path):
    with Proxy(slapd, tmp_path / "proxy", workers=2) as proxy:
        proxy.config.write_text("nothing that could be read")
        os.kill(proxy.children()[2], signal.SIGKILL)
        wait_until_replaced(proxy, 2)
        with Raw(proxy.host, proxy.port) as one, Raw(proxy.host, proxy.port) as two:
            assert (one.code(root_dse(1)), two.code(root_dse(1))) == (0, 0)


def test_a_stop_ends_all_of_them_as_it_ends_one(slapd, tmp_path):
    with Proxy(slapd, tmp_path / "proxy", workers=2) as proxy:
        alice, pids = slapd.user("alice"), proxy.children().values()
        with contextlib.ExitStack() as stack:
            raws = [stack.enter_context(Raw(proxy.host, proxy.port)) for _ in range(4)]
            for raw in raws[:2]:
                assert raw.code(bind(1, alice.dn, proxy.typed("alice"))) == 0
            for raw in raws[2:]:
                raw.send(bind(9, alice.dn, alice.password + "000000"))
            time.sleep(0.1)
            began = time.monotonic()
            proxy.process.popen.send_signal(signal.SIGTERM)
            for raw in raws[2:]:
                assert ldap.read_result(raw.frame()).code == 49
            for raw in raws:
                notice = raw.frame()
                assert (notice.id, ldap.read_result(notice).code) == (0, ldap.UNAVAILABLE)
            assert proxy.process.popen.wait(10) == 0
            assert time.monotonic() - began < 8
        assert gone(pids)
        assert [line.get("worker") for line in proxy.logged("stopped")][-1] is None
        assert not proxy.logged("worker ended")
        with pytest.raises(ConnectionError):
            socket.create_connection((proxy.host, proxy.port))


def test_one_that_does_not_end_is_killed(slapd, tmp_path):
    with Proxy(slapd, tmp_path / "proxy", workers=2, login="refusal_floor = 0") as proxy:
        pids = proxy.children()
        os.kill(pids[2], signal.SIGSTOP)
        proxy.process.popen.send_signal(signal.SIGTERM)
        assert proxy.process.popen.wait(15) == 0
        assert gone(pids.values())
        assert [line["worker"] for line in proxy.logged("worker killed")] == [2]


def test_no_worker_outlives_its_parent(slapd, tmp_path):
    with Proxy(slapd, tmp_path / "proxy", workers=2) as proxy:
        pids = proxy.children().values()
        proxy.process.popen.kill()
        wait_for(lambda: gone(pids), 8)


def test_ctrl_c_on_a_terminal_reaches_all_and_ends_all(slapd, tmp_path):
    with Proxy(slapd, tmp_path / "proxy", workers=2) as proxy:
        pids = proxy.children().values()
        for pid in pids:
            os.kill(pid, signal.SIGINT)
        time.sleep(0.3)
        assert set(proxy.children().values()) == set(pids)  # it is the parent that tells them
        os.killpg(proxy.process.popen.pid, signal.SIGINT)
        assert proxy.process.popen.wait(10) == 0
        assert gone(pids)
        assert not proxy.logged("worker ended")
        assert not proxy.logged("twisted")


def fails(proxy, tmp_path, code="", **settings):
    """How `ldapmfa run` ends where it can't start; `code` is run by its workers, before all else."""
    (tmp_path / "sitecustomize.py").write_text(f"import os, sys\nif 'worker' in sys.orig_argv:\n    {code or 'pass'}\n")
    environment = {**os.environ, **settings, "PYTHONPATH": f"{tmp_path}:{ROOT}", "LDAPMFA_SERVICE__WORKERS": "2"}
    return subprocess.run(
        [sys.executable, "-m", "ldapmfa", "run", "--config", proxy.config],
        capture_output=True, text=True, timeout=60, cwd=tmp_path, env=environment,
    )


def test_what_can_not_start_ends_as_a_single_process_would(slapd, tmp_path):
    with Proxy(slapd, tmp_path / "proxy") as proxy:
        proxy.process.stop()
        mistaken = fails(proxy, tmp_path, LDAPMFA_LOGIN__CODE_DIGITS="7")
        assert (mistaken.returncode, "code_digits" in mistaken.stderr) == (2, True)
        another = tmp_path / "another.key"
        another.write_bytes((proxy.path / "store.key").read_bytes()[::-1])
        for said in (
            fails(proxy, tmp_path, 'os.environ["LDAPMFA_LOGIN__CODE_DIGITS"] = "7"'),
            fails(proxy, tmp_path, 'os.environ["LDAPMFA_STORE__URL"] = "sqlite:////nowhere/state.db"'),
        ):
            last = said.stderr.splitlines()[-1]
            assert (said.returncode, last.startswith("ldapmfa: ")) == (2, True), said.stderr
        assert "/nowhere/state.db" in last
        died = fails(proxy, tmp_path, "os._exit(9)")
        assert (died.returncode, died.stderr.splitlines()[-1]) == (
            3, "ldapmfa: a worker could not start: exit code 9",
        )
        assert not answers_ldap(proxy.host, proxy.port)


def test_a_worker_is_not_started_by_hand():
    words = [sys.executable, "-m", "ldapmfa", "worker", "--number", "1"]
    for order in ("", "{}\n", "[]\n", "\x00\n"):
        done = subprocess.run(words, input=order, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "ldapmfa: a worker is started by `ldapmfa run`, not by hand\n"


@pytest.mark.parametrize("reactor", ["ldapmfa", "asyncio"])
def test_twistd(slapd, tmp_path, reactor):
    runs = (*TWISTD, f"--reactor={reactor}", "ldapmfa")
    with Proxy(slapd, tmp_path / "proxy", workers=2, runs=runs) as proxy:
        pids = proxy.children()
        assert set(pids) == {1, 2}
        assert log_in(proxy) == 0
        os.kill(pids[1], signal.SIGKILL)
        proxy.process.wait_until(lambda: "killed by SIGKILL" in proxy.log.read_text(), 5)
        assert log_in(proxy) == 0
        proxy.process.popen.send_signal(signal.SIGTERM)
        assert proxy.process.popen.wait(10) == -signal.SIGTERM  # as twistd ends
        assert gone(pids.values())


def log_in_at(path, proxy):
    """Through a Unix socket."""
    raw = Raw.__new__(Raw)
    raw.buffer, raw.socket = b"", socket.socket(socket.AF_UNIX)
    with raw:
        raw.socket.settimeout(20)
        raw.socket.connect(str(path))
        return raw.code(bind(1, proxy.directory.user("alice").dn, proxy.typed("alice")))


PLAIN = {"tls": "none", "certificate": None, "key": None, "require_tls": False}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_unix_socket_keeps_its_mode_and_its_file_while_it_is_needed(slapd, tmp_path, workers):
    path = tmp_path / "ldap.sock"
    listen = {"endpoint": f"unix:{path}:mode=600", **PLAIN}
    proxy = Proxy(slapd, tmp_path / "proxy", listen=listen, workers=workers)
    proxy.answers = lambda: proxy.logged("started" if workers > 1 else "listening")
    with proxy:
        assert path.stat().st_mode & 0o777 == 0o600
        assert [log_in_at(path, proxy) for _ in range(4)] == [0] * 4
        for pid in proxy.children().values():
            os.kill(pid, signal.SIGTERM)
            wait_for(lambda: gone([pid]), 8)  # noqa: B023 - called here
            assert path.exists()
        if workers > 1:
            proxy.process.wait_until(lambda: len(proxy.logged("listening")) == 4)
            assert log_in_at(path, proxy) == 0
            assert path.stat().st_mode & 0o777 == 0o600
    assert not path.exists()


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("domain", ["INET", "UNIX"])
def test_a_socket_from_systemd_stays_as_systemd_made_it(slapd, tmp_path, workers, domain):
    path = tmp_path / "ldap.sock"
    with socket.socket(getattr(socket, f"AF_{domain}")) as passed:
        passed.bind(str(path) if domain == "UNIX" else ("127.0.0.1", 0))
        if domain == "UNIX":
            path.chmod(0o640)
        passed.listen(100)
        number = passed.fileno()
        # LISTEN_PID must be the process's own; what runs it is in between
        runs = (
            "bash", "-c", f'exec 3<&{number}; LISTEN_FDS=1 LISTEN_FDNAMES=ldap LISTEN_PID=$$ exec "$0" -m ldapmfa run "$@"', sys.executable,
        )
        listen = {"endpoint": f"systemd:domain={domain}:name=ldap", **PLAIN}
        proxy = Proxy(slapd, tmp_path / "proxy", listen=listen, workers=workers, runs=runs, pass_fds=(number,))
        proxy.answers = lambda: proxy.logged("started" if workers > 1 else "listening")
        for _ in range(3 - workers):  # it may be started again, on the same socket
            with proxy:
                if domain == "UNIX":
                    assert log_in_at(path, proxy) == 0
                else:
                    proxy.port = passed.getsockname()[1]
                    assert log_in(proxy) == 0
            assert proxy.process.popen.returncode == 0, tail(proxy.log)
            if domain == "UNIX":
                assert path.stat().st_mode & 0o777 == 0o640
