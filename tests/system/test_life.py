"""Started, watched and started again as systemd does it, by a systemd of ours: its notification socket, its watchdog,
its sockets, its credentials."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509
from system.proxy import Proxy
from system.servers.common import make_certificates, tail, wait_for
from system.wire import Raw, bind, root_dse, search

from ldapmfa.wire import ldap

PLAIN = {"tls": "none", "certificate": None, "key": None, "require_tls": False}


class Systemd:
    """What systemd hears: a line of a list for each thing that it was told."""

    def __init__(self, path):
        self.told = []
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self):
        while said := self._socket.recv(4096):
            self.told.append(said.decode().split("\n"))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", str(self.path))
        self._thread.join()
        self._socket.close()

    def times(self, word):
        return sum(said[0] == word for said in self.told)

    @property
    def status(self):
        """The last that it was told of how it is."""
        return [line for said in self.told for line in said if line.startswith("STATUS=")][-1].removeprefix("STATUS=")


@pytest.fixture
def systemd(tmp_path):
    with Systemd(tmp_path / "notify") as systemd:
        yield systemd


def log_in(proxy, name="alice"):
    with Raw(proxy.host, proxy.port) as raw:
        return raw.code(bind(1, proxy.directory.user(name).dn, proxy.typed(name)))


@pytest.mark.parametrize("workers", [1, 2])
def test_systemd_is_told_when_it_listens_and_when_it_ends(slapd, tmp_path, systemd, workers):
    environment = {"NOTIFY_SOCKET": str(systemd.path)}
    proxy = Proxy(slapd, tmp_path / "proxy", workers=workers, environment=environment)
    proxy.answers = lambda: systemd.times("READY=1")
    with proxy:
        at = f"Listening: tcp:{proxy.port}:interface=127.0.0.1"
        assert systemd.told == [["READY=1", f"STATUS={at}{'; 2 of 2 workers' if workers > 1 else ''}."]]
        # at once, whichever process of them it comes to
        assert [log_in(proxy) for _ in range(4)] == [0] * 4
        for pid in proxy.children().values():
            assert b"NOTIFY_SOCKET" not in Path(f"/proc/{pid}/environ").read_bytes()
        proxy.process.popen.send_signal(signal.SIGTERM)
        assert proxy.process.popen.wait(10) == 0
    assert [said[0] for said in systemd.told] == ["READY=1", "STOPPING=1"]


def test_a_start_that_fails_is_not_ready(slapd, tmp_path, systemd):
    with Proxy(slapd, tmp_path / "proxy") as proxy, socket.create_server(("127.0.0.1", 0)) as taken:
        proxy.process.stop()
        proxy.config.write_text(proxy.config.read_text().replace(str(proxy.port), str(taken.getsockname()[1])))
        ran = subprocess.run(
            [sys.executable, "-m", "ldapmfa", "run", "--config", proxy.config],
            env={**os.environ, "NOTIFY_SOCKET": str(systemd.path)}, capture_output=True, text=True,
        )  # fmt: skip
    assert ran.returncode == 2
    assert systemd.told == []


def test_the_watchdog_is_fed_while_the_loop_turns(slapd, tmp_path, systemd):
    environment = {"NOTIFY_SOCKET": str(systemd.path), "WATCHDOG_USEC": "400000"}
    with Proxy(slapd, tmp_path / "proxy", environment=environment) as proxy:
        wait_for(lambda: systemd.times("WATCHDOG=1") >= 3)
        proxy.process.popen.send_signal(signal.SIGSTOP)
        time.sleep(0.3)
        before = systemd.times("WATCHDOG=1")
        time.sleep(0.8)
        assert systemd.times("WATCHDOG=1") == before
        proxy.process.popen.send_signal(signal.SIGCONT)
        wait_for(lambda: systemd.times("WATCHDOG=1") > before)


def test_a_worker_that_is_stuck_is_killed_and_replaced(slapd, tmp_path, systemd):
    environment = {"NOTIFY_SOCKET": str(systemd.path), "WATCHDOG_USEC": "1000000", "LDAPMFA_SERVICE__WORKER_SECONDS": "1"}
    with Proxy(slapd, tmp_path / "proxy", workers=2, environment=environment) as proxy:
        old = proxy.children()
        os.kill(old[2], signal.SIGSTOP)
        wait_for(lambda: proxy.logged("worker killed"))
        [killed] = proxy.logged("worker killed")
        assert (killed["worker"], killed["reason"]) == (2, "it does not answer")
        wait_for(lambda: "1 of 2 workers" in systemd.status)
        assert log_in(proxy) == 0
        proxy.process.wait_until(lambda: len(proxy.logged("listening")) == 3, 30)
        wait_for(lambda: "2 of 2 workers" in systemd.status)
        new = proxy.children()
        assert (new[1], new[2] != old[2]) == (old[1], True)
        assert [log_in(proxy) for _ in range(4)] == [0] * 4
        assert systemd.times("WATCHDOG=1") >= 2
        # none of those that turn is taken for stuck
        time.sleep(2)
        assert proxy.children() == new


def test_no_worker_is_killed_where_all_were_stopped(slapd, tmp_path):
    """A machine that was put to sleep: what was asked and not answered counts, not the time that passed."""
    environment = {"LDAPMFA_SERVICE__WORKER_SECONDS": "1"}
    with Proxy(slapd, tmp_path / "proxy", workers=2, environment=environment) as proxy:
        pids = [proxy.process.popen.pid, *proxy.children().values()]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(1.5)
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        time.sleep(1.5)
        assert not proxy.logged("worker killed")
        assert list(proxy.children().values()) == pids[1:]


# -- sockets that systemd holds


class Coming:
    """Clients that connect anew for each request, all the time."""

    def __init__(self, ports):
        self.ports = ports
        self.over = threading.Event()
        self.refused = []
        self.answered = []

    def come(self, number):
        """Ask, and ask again where the one who was asked stops."""
        while not self.over.is_set():
            try:
                with Raw("127.0.0.1", self.ports[number % 2], timeout=30) as raw:
                    code = raw.code(root_dse(1))
            except ConnectionRefusedError as error:
                self.refused.append(error)
                return
            except (EOFError, ConnectionResetError, BrokenPipeError):
                continue
            if code != ldap.UNAVAILABLE:  # the notice of one that stops
                assert code == 0
                self.answered.append(number)
                time.sleep(0.005)

    def more(self):
        """Until some more were answered."""
        before = len(self.answered)
        wait_for(lambda: len(self.answered) > before + 20)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_restart_refuses_no_connection_where_systemd_holds_the_sockets(slapd, tmp_path, workers):
    """Two ports, by name. Clients connect all the time: each gets its answer, if need be from the next one."""
    alice = slapd.user("alice")
    with contextlib.ExitStack() as stack:
        passed = [stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1000)) for _ in range(2)]
        ports = [one.getsockname()[1] for one in passed]
        numbers = [one.fileno() for one in passed]
        line = f'exec 3<&{numbers[0]} 4<&{numbers[1]}; LISTEN_FDS=2 LISTEN_FDNAMES=first:second LISTEN_PID=$$ exec "$0" -m ldapmfa run "$@"'
        listen = {"endpoint": "systemd:domain=INET:name=second", **PLAIN}
        extra = '[[listen]]\nendpoint = "systemd:domain=INET:name=first"\nrequire_tls = false\n'
        proxy = Proxy(
            slapd, tmp_path / "proxy", listen=listen, extra=extra, workers=workers,
            runs=("bash", "-c", line, sys.executable), pass_fds=tuple(numbers),
        )  # fmt: skip
        ready = '"started"' if workers > 1 else '"listening"'
        starts = [0]
        proxy.answers = lambda: proxy.log.read_text().count(ready) >= (starts[0] + 1) * (1 if workers > 1 else 2)
        stack.enter_context(proxy)
        for _ in range(2):
            proxy.enrol("alice")
        coming = Coming(ports)
        with ThreadPoolExecutor(4) as pool:
            clients = [pool.submit(coming.come, number) for number in range(4)]
            try:
                for _ in range(3):
                    coming.more()
                    proxy.process.stop()
                    assert proxy.process.popen.returncode == 0, tail(proxy.log)
                    starts[0] += 1
                    proxy.start()
                coming.more()
            finally:
                coming.over.set()
            for one in clients:
                one.result()
        assert coming.refused == []
        assert set(coming.answered) == {0, 1, 2, 3}
        for port in ports:
            with Raw("127.0.0.1", port) as raw:
                assert raw.code(bind(1, alice.dn, proxy.typed("alice"))) == 0


# -- credentials


@pytest.mark.parametrize("workers", [1, 2])
def test_secrets_may_be_credentials_of_systemd(slapd, tmp_path, workers):
    """As systemd makes them: root's, and readable by an ACL, whose mask looks like a group's right."""
    folder = tmp_path / "credentials"
    environment = {"CREDENTIALS_DIRECTORY": str(folder)}
    with Proxy(slapd, tmp_path / "proxy", workers=workers) as proxy:
        proxy.process.stop()
        folder.mkdir(mode=0o700)
        for name, mode in (("store.key", 0o440), ("tls/key.pem", 0o400)):
            shutil.move(proxy.path / name, folder / name.replace("/", "."))
            (folder / name.replace("/", ".")).chmod(mode)
        text = proxy.config.read_text().replace('"store.key"', '"${CREDENTIALS_DIRECTORY}/store.key"')
        proxy.config.write_text(text.replace('"tls/key.pem"', '"${CREDENTIALS_DIRECTORY}/tls.key.pem"'))
        proxy.environment = environment
        proxy.log.write_text("")
        proxy.start()
        with Raw(proxy.host, proxy.port) as raw:
            raw.start_tls(proxy.ca_file)
            alice = slapd.user("alice")
            os.environ.update(environment)  # the test enrols by the same file
            try:
                shutil.copy(folder / "store.key", proxy.path / "store.key")
                (proxy.path / "store.key").chmod(0o600)
                assert raw.code(bind(1, alice.dn, proxy.typed("alice"))) == ldap.SUCCESS
            finally:
                del os.environ["CREDENTIALS_DIRECTORY"]


# -- a stop that waits


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stop_lets_clients_end_by_themselves_for_as_long_as_it_is_told(slapd, tmp_path, workers):
    environment = {"LDAPMFA_SERVICE__DRAIN_SECONDS": "20"}
    with Proxy(slapd, tmp_path / "proxy", workers=workers, environment=environment) as proxy:
        alice = slapd.user("alice")
        with Raw(proxy.host, proxy.port) as raw:
            assert raw.code(bind(1, alice.dn, proxy.typed("alice"))) == 0
            proxy.process.popen.send_signal(signal.SIGTERM)

            def refuses():
                try:
                    Raw(proxy.host, proxy.port).socket.close()
                except ConnectionError:
                    return True
                return False

            wait_for(refuses)
            assert raw.code(root_dse(2)) == 0
            assert raw.code(bind(3, alice.dn, proxy.typed("alice"))) == 0
            assert proxy.process.popen.poll() is None
        assert proxy.process.popen.wait(10) == 0


def test_a_stop_takes_leave_of_those_that_stay(slapd, tmp_path):
    environment = {"LDAPMFA_SERVICE__DRAIN_SECONDS": "0.5"}
    with Proxy(slapd, tmp_path / "proxy", environment=environment) as proxy, Raw(proxy.host, proxy.port) as raw:
        assert raw.code(root_dse(1)) == 0
        proxy.process.popen.send_signal(signal.SIGTERM)
        assert ldap.read_result(raw.frame()).code == ldap.UNAVAILABLE
        assert proxy.process.popen.wait(10) == 0


# -- certificates


def presented(proxy, *, starttls=False):
    """The serial number of what the listener presents now, to a client that trusts the authority of now."""
    with Raw(proxy.host, proxy.port, tls=None if starttls else proxy.path / "tls" / "ca.pem") as raw:
        if starttls:
            raw.start_tls(proxy.path / "tls" / "ca.pem")
        return x509.load_der_x509_certificate(raw.socket.getpeercert(True)).serial_number


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("tls", ["ldaps", "starttls"])
def test_new_certificates_are_presented_without_a_restart_and_connections_stay(slapd, tmp_path, workers, tls):
    starttls = tls == "starttls"
    with Proxy(slapd, tmp_path / "proxy", listen={"tls": tls}, workers=workers) as proxy:
        if workers > 1:
            wait_for(lambda: proxy.logged("started"))
        alice, old = slapd.user("alice"), proxy.ca_file
        first = {presented(proxy, starttls=starttls) for _ in range(4)}
        assert len(first) == 1
        with Raw(proxy.host, proxy.port, tls=None if starttls else old) as raw:
            if starttls:
                raw.start_tls(old)
            assert raw.code(bind(1, alice.dn, proxy.typed("alice"))) == 0
            new = tmp_path / "new"
            make_certificates(new)
            # half of it: the certificate without its key
            (new / "cert.pem").rename(proxy.path / "tls" / "cert.pem")
            wait_for(lambda: len(proxy.logged("certificates not renewed")) == workers)
            assert {presented(proxy, starttls=starttls) for _ in range(4)} == first
            (new / "key.pem").rename(proxy.path / "tls" / "key.pem")
            (new / "ca.pem").rename(proxy.path / "tls" / "ca.pem")
            wait_for(lambda: len(proxy.logged("certificates renewed")) == workers)
            second = {presented(proxy, starttls=starttls) for _ in range(4)}
            assert (len(second), second & first) == (1, set())
            assert raw.code(search(2, alice.dn, scope=ldap.BASE)) == 0
        assert len(proxy.logged("certificates not renewed")) == workers
