"""How the service starts and ends: `ldapmfa run`, twistd with either reactor, a wheel in a clean environment."""

import os
import signal
import socket
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest
from system.proxy import ROOT, Proxy
from system.wire import Raw, bind, root_dse, search

from ldapmfa.wire import ldap

TWISTD = Path(sys.executable).parent / "twistd"
FOREGROUND = ("-n", "--pidfile=")


@pytest.mark.parametrize("reactor", ["ldapmfa", "asyncio"])
def test_twistd_starts_the_same_service(slapd, tmp_path, reactor):
    runs = (TWISTD, *FOREGROUND, f"--reactor={reactor}", "ldapmfa")
    with Proxy(slapd, tmp_path / "proxy", runs=runs) as proxy, Raw(proxy.host, proxy.port) as raw:
        alice = slapd.user("alice")
        assert raw.code(bind(1, alice.dn, proxy.typed("alice"))) == 0
        assert raw.code(search(2, alice.dn, scope=ldap.BASE)) == 0


@pytest.mark.parametrize("reactor", ["epoll", "select", "poll"])
def test_another_reactor_says_what_to_type(slapd, tmp_path, reactor):
    with Proxy(slapd, tmp_path / "proxy") as proxy:
        text = proxy.config.read_text().replace(str(proxy.port), "0")
    other = tmp_path / "proxy" / "other.toml"
    other.write_text(text)
    done = subprocess.run(
        [TWISTD, *FOREGROUND, f"--reactor={reactor}", "ldapmfa", "--config", other],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 1
    assert "twistd --reactor=ldapmfa ldapmfa --config FILE" in done.stdout + done.stderr


def test_a_stop_takes_leave_and_answers_what_is_pending(slapd, tmp_path):
    """The bound client is told at a boundary; the login under way ends as it would have; seconds at most."""
    with Proxy(slapd, tmp_path / "proxy") as proxy:
        alice = slapd.user("alice")
        bound, anonymous, pending = (Raw(proxy.host, proxy.port) for _ in range(3))
        with bound, anonymous, pending:
            assert bound.code(bind(1, alice.dn, proxy.typed("alice"))) == 0
            assert anonymous.code(root_dse(1)) == 0
            pending.send(bind(9, alice.dn, alice.password + "000000"))
            time.sleep(0.1)
            began = time.monotonic()
            proxy.process.popen.send_signal(signal.SIGTERM)
            for raw in (bound, anonymous):
                notice = raw.frame()
                assert (notice.id, ldap.read_result(notice).code) == (0, ldap.UNAVAILABLE)
            answer = pending.frame()
            assert (answer.id, ldap.read_result(answer).code) == (9, ldap.INVALID_CREDENTIALS)
            notice = pending.frame()
            assert (notice.id, ldap.read_result(notice).code) == (0, ldap.UNAVAILABLE)
            assert proxy.process.popen.wait(10) == 0
            assert time.monotonic() - began < 8


def test_a_stop_in_the_middle_of_a_long_answer_takes_leave_at_a_boundary(slapd10k, tmp_path):
    with Proxy(slapd10k, tmp_path / "proxy") as proxy, Raw(proxy.host, proxy.port) as raw:
        alice = slapd10k.user("alice")
        assert raw.code(bind(1, alice.dn, proxy.typed("alice"))) == 0
        where = ldap.equals("objectClass", b"inetOrgPerson")
        raw.send(search(2, f"ou=Bulk,{slapd10k.base_dn}", attributes=("*",), where=where))
        first = raw.frame()
        assert first.tag == ldap.SEARCH_ENTRY
        proxy.process.popen.send_signal(signal.SIGTERM)
        frames = []
        with pytest.raises(EOFError):
            while True:
                frames.append(raw.frame())
        assert proxy.process.popen.wait(10) == 0
        assert raw.buffer == b""
        assert (frames[-1].id, ldap.read_result(frames[-1]).code) == (0, ldap.UNAVAILABLE)


def test_a_login_is_remembered_over_a_restart(slapd, tmp_path):
    """A used code stays used."""
    with Proxy(slapd, tmp_path / "proxy") as proxy:
        alice = slapd.user("alice")
        typed = proxy.typed("alice")
        with Raw(proxy.host, proxy.port) as raw:
            assert raw.code(bind(1, alice.dn, typed)) == 0
        proxy.process.popen.send_signal(signal.SIGKILL)
        proxy.process.popen.wait()
        proxy.start()
        with Raw(proxy.host, proxy.port) as raw:
            assert raw.code(bind(1, alice.dn, typed)) == 49
            assert raw.code(bind(2, alice.dn, proxy.typed("alice"))) == 0


def test_a_wheel_in_a_clean_environment_starts_by_twistd(slapd, tmp_path):
    """Built from the source tree, installed from the package index, run outside of the tree."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "COV"))}
    log = (tmp_path / "build.log").open("wb")
    with log:
        source = tmp_path / "source"
        copy_tree(source)
        subprocess.run(
            [sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path / "dist", source],
            check=True, stdout=log, stderr=log, env=environment, timeout=600,
        )
        (wheel,) = (tmp_path / "dist").glob("*.whl")
        venv.create(tmp_path / "venv", with_pip=True)
        python = tmp_path / "venv" / "bin" / "python"
        subprocess.run(
            [python, "-m", "pip", "install", "-q", wheel], check=True, stdout=log, stderr=log, env=environment, timeout=600
        )
    runs = (tmp_path / "venv" / "bin" / "twistd", *FOREGROUND, "--reactor=ldapmfa", "ldapmfa")
    with Proxy(slapd, tmp_path / "proxy", runs=runs, python_path="") as proxy, Raw(proxy.host, proxy.port) as raw:
        alice = slapd.user("alice")
        assert raw.code(bind(1, alice.dn, proxy.typed("alice"))) == 0
    version = subprocess.run(
        [tmp_path / "venv" / "bin" / "ldapmfa", "--version"], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert "0.1.0" in version.stdout
    assert (tmp_path / "venv" / "share" / "man" / "man1" / "ldapmfa.1").exists()


def copy_tree(target):
    """What the wheel is made of, without what others build beside it."""
    target.mkdir()
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard", "ldapmfa", "twisted", "setup.cfg",
         "pyproject.toml", "README.md", "LICENSE", "docs/reference/ldapmfa.1", "conf"],
        capture_output=True, text=True, check=True,
    ).stdout.split()
    for name in listed:
        if (ROOT / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes((ROOT / name).read_bytes())


def test_a_socket_from_systemd(slapd, tmp_path):
    """`systemd:` endpoints: the listening socket is passed as descriptor 3."""
    with socket.create_server(("127.0.0.1", 0)) as passed:
        port, number = passed.getsockname()[1], passed.fileno()
        # LISTEN_PID must be the process's own; what runs it is in between
        runs = (
            "bash", "-c", f'exec 3<&{number}; LISTEN_FDS=1 LISTEN_FDNAMES=ldap LISTEN_PID=$$ exec "$0" -m ldapmfa run "$@"', sys.executable,
        )
        listen = {"endpoint": "systemd:domain=INET:index=0", "tls": "none", "certificate": None, "key": None}
        listen["require_tls"] = False
        proxy = Proxy(slapd, tmp_path / "proxy", listen=listen, runs=runs, pass_fds=(number,))
        proxy.answers = lambda: "listening" in proxy.log.read_text()
        with proxy, Raw("127.0.0.1", port) as raw:
            alice = slapd.user("alice")
            assert raw.code(bind(1, alice.dn, proxy.typed("alice"))) == 0
