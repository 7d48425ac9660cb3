"""The audit trail as an administrator runs it: a file, journald and syslog beside the database; clocks that are set."""

import base64
import json
import shutil
import subprocess
import sys

import pytest
from net.receivers import Datagrams, closing, read_native, read_rfc5424
from system.proxy import ROOT, Proxy
from system.wire import Raw, bind

from ldapmfa.audit import LoginEnded

FORGERY = 'cn=x\r\n{"event":"LoginEnded"}\x1b[2J\u2028,dc=x'


def log_in(proxy, name, password):
    with Raw(proxy.host, proxy.port) as raw:
        return raw.code(bind(1, name, password))


def lines(directory):
    """The events in all files there; none while one of them is being put aside."""
    try:
        return [json.loads(line) for file in directory.iterdir() for line in file.read_text().splitlines()]
    except FileNotFoundError:
        return []


def audit(proxy, *words):
    """What the command prints, the proxy being at work."""
    command = [sys.executable, "-m", "ldapmfa", "audit", *words, "--config", proxy.config]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout


def told(event):
    return event.get("reason") or event["action"]


@pytest.fixture
def journald(tmp_path):
    with closing(Datagrams(tmp_path / "journal.sock")) as server:
        yield server


@pytest.fixture
def syslog():
    with closing(Datagrams()) as server:
        yield server


@pytest.fixture
def proxy(slapd, tmp_path, journald, syslog):
    table = f"""[audit]
        to = ["file", "journald", "syslog"]
        file = "{tmp_path}/log/audit.jsonl"
        rotate_bytes = 4000
        journald_socket = "{tmp_path}/journal.sock"
        syslog = "udp://127.0.0.1:{syslog.port}"
    """
    (tmp_path / "log").mkdir()
    with Proxy(slapd, tmp_path / "proxy", workers=2, extra=table) as proxy:
        yield proxy


class TestPlaces:
    """Two workers, every place at once."""

    def test_each_place_has_every_login_and_change_and_A43_nothing_secret(self, proxy, tmp_path, journald, syslog):
        alice = proxy.directory.user("alice")
        secrets = [alice.password, "Wr0ng.Secret"]
        typed = [proxy.typed("alice"), proxy.typed("alice"), alice.password + "000000"]
        codes = [log_in(proxy, alice.dn, one) for one in typed]
        codes.append(log_in(proxy, FORGERY, "Wr0ng.Secret123456"))
        assert codes == [0, 0, 49, 49]
        # what the command line changes, too, when nothing can come before it any more
        words = [sys.executable, "-m", "ldapmfa", "user", "enrol", "bob", "--config", proxy.config, "--json"]
        made = json.loads(subprocess.run(words, capture_output=True, cwd=ROOT, check=True).stdout)
        secrets += [*typed, made["secret"] if "secret" in made else made["uri"]]
        expected = sorted(["code", "code", "wrong-code", "password", "enrolled", "enrolled"])

        proxy.process.wait_until(lambda: len(lines(tmp_path / "log")) >= len(expected), 20)
        written = lines(tmp_path / "log")
        assert sorted(map(told, written)) == expected
        datagrams = [read_native(raw) for raw in journald.take(len(expected))]
        assert sorted(one.get("LDAPMFA_REASON") or one["LDAPMFA_ACTION"] for one in datagrams) == expected
        raw_messages = syslog.take(len(expected))
        messages = [json.loads(read_rfc5424(raw)[-1]) for raw in raw_messages]
        assert sorted(map(told, messages)) == expected
        (forged,) = [one for one in written if "\\r\\n" in one.get("name", "")]
        assert forged["reason"] == "password"
        assert '"LoginEnded"' not in proxy.log.read_text()  # the log is none of the places here
        everything = str(written) + str(datagrams) + str(raw_messages) + proxy.log.read_text()
        assert not [word for word in secrets if word in everything]
        assert base64.b32encode(proxy.tokens["alice"].secret).decode() not in everything
        assert len(proxy.events()) == len(expected)  # and so has the database

        found = audit(proxy, "search", "--since", "1h", "--account", "alice", "--outcome", "refused", "--json")
        assert [event["reason"] for event in json.loads(found)["events"]] == ["wrong-code"]
        exported = [json.loads(line) for line in audit(proxy, "export", "--since", "1h").splitlines()]
        assert sorted(map(told, exported)) == expected

    def test_a_place_that_fails_holds_up_no_login_and_has_all_of_them_afterwards(self, proxy, tmp_path):
        alice = proxy.directory.user("alice")
        shutil.rmtree(tmp_path / "log")
        for _ in range(6):
            assert log_in(proxy, alice.dn, proxy.typed("alice")) == 0
        proxy.wait_for_log("audit trail interrupted")
        (tmp_path / "log").mkdir()


        def logins():
            return [event for event in lines(tmp_path / "log") if event["event"] == "LoginEnded"]

        proxy.process.wait_until(lambda: len(logins()) == 6, 30)
        assert sum(isinstance(event, LoginEnded) for event in proxy.events()) == 6
        proxy.wait_for_log("audit trail goes on")
        interrupted = [line["worker"] for line in proxy.logged("audit trail interrupted")]
        assert len(interrupted) == len(set(interrupted)) <= 2


#: The program, on a machine whose clock is off by as many seconds as a file says.
SET_CLOCK = """
import sys, time
from pathlib import Path
real, file = time.time, Path({file!r})
time.time = lambda: real() + float(file.read_text())
from ldapmfa.net import skew
skew.LOOK, skew._FIRST = 0.2, 0.0
from ldapmfa.cli import main
main()
"""


class TestAClockThatIsSet:
    @pytest.fixture
    def start(self, tmp_path):
        """A proxy before a directory, and what sets its clock."""
        offset = tmp_path / "offset"

        def set_clock(seconds):
            (tmp_path / "new").write_text(str(seconds))
            (tmp_path / "new").replace(offset)

        def start(directory, **settings):
            set_clock(settings.pop("seconds", 0))
            runs = (sys.executable, "-c", SET_CLOCK.format(file=str(offset)), "run")
            return Proxy(directory, tmp_path / "proxy", runs=runs, **settings)

        start.set_clock = set_clock
        return start

    def test_A19_by_an_hour_while_it_runs(self, slapd, start):
        """No code counts twice, whichever way; who logs in by a counter notices nothing; the log says so."""
        with start(slapd) as proxy:
            alice, bob = slapd.user("alice"), slapd.user("bob")
            token = proxy.enrol("alice", "totp")
            code = token.now()
            assert log_in(proxy, alice.dn, alice.password + code) == 0
            for number, seconds in enumerate((-3600, 3600, 0), 1):
                start.set_clock(seconds)
                proxy.process.wait_until(lambda number=number: len(proxy.logged("clock set")) == number, 10)
                assert log_in(proxy, alice.dn, alice.password + code) == 49
                assert log_in(proxy, bob.dn, proxy.typed("bob")) == 0
            said = [round(line["seconds"], -1) for line in proxy.logged("clock set")]
            assert said == [-3600, 7200, -3600]

    def test_a_domain_controllers_clock_differs(self, samba, start):
        with start(samba, seconds=100) as proxy:
            proxy.wait_for_log("clock differs")
            (line,) = proxy.logged("clock differs")
            assert (line["of"], line["level"]) == ("directory/default", "error")
            assert -103 < line["ahead"] < -97


