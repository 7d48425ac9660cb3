"""The unit is one that systemd takes, and hardened; the files beside it are what their programs take."""

import configparser
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ldapmfa.config.settings import Service

SYSTEMD = Path(__file__).resolve().parents[1] / "systemd"
UNIT = SYSTEMD / "ldapmfa.service"
MOST_EXPOSED = 2.0


def program(name: str) -> str:
    found = shutil.which(name, path="/usr/bin:/bin:/usr/sbin:/sbin")
    if found is None:
        reason = f"not installed: {name}; Debian package: systemd"
        if os.environ.get("CI", "").lower() in {"1", "true"}:
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return found


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, env={**os.environ, "LC_ALL": "C.UTF-8"}
    )


def settings() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=False, delimiters=("=",), interpolation=None)
    parser.optionxform = str
    parser.read(UNIT)
    return parser["Service"]


def test_systemd_takes_the_unit():
    ran = run(program("systemd-analyze"), "verify", UNIT)
    # other units of this machine are read too, and may be complained of
    assert [line for line in ran.stderr.splitlines() if "ldapmfa" in line] == []
    assert ran.returncode == 0


def test_systemd_takes_a_socket_of_any_port(tmp_path):
    for name in ("ldapmfa.service", "ldapmfa@.socket"):
        shutil.copy(SYSTEMD / name, tmp_path)
    shutil.copy(SYSTEMD / "ldapmfa@.socket", tmp_path / "ldapmfa@636.socket")
    ran = run(program("systemd-analyze"), "verify", tmp_path / "ldapmfa@636.socket")
    assert [line for line in ran.stderr.splitlines() if "ldapmfa" in line] == []
    assert ran.returncode == 0


def test_it_is_waited_for_and_watched():
    service = settings()
    assert service["ExecReload"] == service["ExecStart"].replace(" run ", " reload ")
    assert (service["Type"], service["NotifyAccess"]) == ("notify", "main")  # `env` becomes it, and keeps its number
    assert int(service["WatchdogSec"]) > 2 * Service().worker_seconds  # a worker that is stuck is replaced before
    assert int(service["TimeoutStopSec"]) >= Service().drain_seconds + 10


def test_it_is_hardened():
    ran = run(program("systemd-analyze"), "security", "--offline=true", UNIT)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", ran.stdout)
    assert found, ran.stdout + ran.stderr
    print(found[0])
    assert float(found[1]) <= MOST_EXPOSED


def test_it_may_bind_low_ports_keeps_no_cores_and_does_not_retry_mistakes():
    service = settings()
    assert service["ExecStart"] == "/usr/bin/env ldapmfa run --config /etc/ldapmfa/ldapmfa.toml"
    assert service["AmbientCapabilities"] == service["CapabilityBoundingSet"] == "CAP_NET_BIND_SERVICE"
    assert service["LimitCORE"] == "0"
    assert service["KillMode"] == "mixed"  # workers are told by their parent
    assert service["RestartPreventExitStatus"] == "2"
    # cffi's callbacks, without which pyOpenSSL begins no connection, need such memory
    assert "MemoryDenyWriteExecute" not in service


def test_the_user_is_what_sysusers_makes(tmp_path):
    (tmp_path / "etc").mkdir()
    ran = run(program("systemd-sysusers"), f"--root={tmp_path}", SYSTEMD / "ldapmfa.sysusers")
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "etc" / "passwd").read_text().startswith(f"{settings()['User']}:")


def test_the_directories_are_what_the_unit_uses():
    lines = [line.split() for line in (SYSTEMD / "ldapmfa.tmpfiles").read_text().splitlines() if line[:1] == "d"]
    assert {line[1]: line[2] for line in lines} == {
        f"/etc/{settings()['ConfigurationDirectory']}": settings()["ConfigurationDirectoryMode"],
        f"/var/lib/{settings()['StateDirectory']}": settings()["StateDirectoryMode"],
        f"/var/log/{settings()['LogsDirectory']}": settings()["LogsDirectoryMode"],
    }
