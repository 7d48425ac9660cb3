"""`main(once=True)` in a process of its own, for it installs and runs the reactor; and what judges the outcomes."""

import itertools
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pyotp
import pytest

from ldapmfa.cli.reasons import REASONS
from ldapmfa.demo import logins, run, terminal
from ldapmfa.demo.logins import LOGINS, Codes, Outcome, Seen

CODES = Codes("123456", "000000")


def demo(code, tmp_path, **environment):
    """Run `code`, with temporary files in `tmp_path`."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(tmp_path), "COLUMNS": "200", "PYTHONUTF8": "1", **environment},
    )


ONCE = "import sys; from ldapmfa.demo.run import main; sys.exit(main(once=True))"


def test_eight_right_outcomes_give_exit_code_0(tmp_path):
    began = time.monotonic()
    # settings of a real installation must not reach the demo
    ended = demo(ONCE, tmp_path, LDAPMFA_STORE__URL="sqlite:////nowhere/state.db", LDAPMFA_LOGIN__FACTORS='["hotp"]')
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (line,) = ended.stderr.splitlines()
    assert "fraud reported" in line, "the log says so, and nothing else"
    assert ended.stdout.count("✓") == 8
    assert "✗" not in ended.stdout
    assert "8 of 8" in ended.stdout
    assert "does not know" not in ended.stdout, "a reason without an explanation"
    assert "\x1b" not in ended.stdout
    reasons = re.findall(r"  audit +(.*?)(?:, under the reference ([A-Z2-9]{8}))? *\n", ended.stdout)
    assert [reason for reason, _ in reasons] == [
        "refused, no-code",
        "refused, wrong-code",
        "accepted, code",
        "refused, replayed-code",
        "accepted, approved",
        "refused, denied (Deny was pressed)",
        "refused, fraud (Report fraud was pressed)",
    ]
    assert ended.stdout.count("alice wants to sign in to demo-app from 127.0.0.1") == 3
    assert re.findall(r"  pressed +(.*?) *\n", ended.stdout) == ["Approve", "Deny", "Report fraud"]
    for _, reference in reasons:
        assert not reference or ended.stdout.count(reference) == 2, "the client was shown another one"
    assert "otpauth://totp/" in ended.stdout
    assert "▄" in ended.stdout, "no QR code"
    assert list(tmp_path.iterdir()) == []
    assert time.monotonic() - began < 30


def test_a_wrong_outcome_gives_exit_code_1(tmp_path):
    sabotage = (
        "import sys; from dataclasses import replace\n"
        "from ldapmfa.demo import run\n"
        "def accepting_anything(demo, reactor, place, console, ordinary=run.Demo.__init__):\n"
        "    ordinary(demo, reactor, place, console)\n"
        "    first, *others = demo._logins.LOGINS\n"
        "    demo._logins.LOGINS = (replace(first, suffix='right'), *others)\n"
        "run.Demo.__init__ = accepting_anything\n"
        "sys.exit(run.main(once=True))"
    )
    ended = demo(sabotage, tmp_path)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    # a right code where a password alone was announced; and so, at the third, one that is used up
    assert (ended.stdout.count("✓"), ended.stdout.count("✗")) == (6, 2)
    assert "6 of 8" in ended.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "right"),
    [
        # the wrong button; and a page that asks something else
        ("replace(login, pressed='Deny') if login.pressed == 'Approve' else login", 7),
        ("replace(login, expected=replace(login.expected, asked='What?')) if login.pressed else login", 5),
    ],
    ids=["button", "question"],
)
def test_a_push_that_goes_wrong_gives_exit_code_1(tmp_path, change, right):
    sabotage = (
        "import sys; from dataclasses import replace\n"
        "from ldapmfa.demo import run\n"
        "def sabotaged(demo, reactor, place, console, ordinary=run.Demo.__init__):\n"
        "    ordinary(demo, reactor, place, console)\n"
        f"    demo._logins.LOGINS = tuple({change} for login in demo._logins.LOGINS)\n"
        "run.Demo.__init__ = sabotaged\n"
        "sys.exit(run.main(once=True))"
    )
    ended = demo(sabotage, tmp_path)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert f"{right} of 8" in ended.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_demo_that_breaks_gives_exit_code_1_and_leaves_nothing(tmp_path):
    in_use = (
        "import socket, sys; from ldapmfa.demo import run\n"
        "taken = socket.create_server(('127.0.0.1', 0))\n"
        "run._free_ports = lambda _: [taken.getsockname()[1]] * 2\n"
        "sys.exit(run.main(once=True))"
    )
    ended = demo(in_use, tmp_path)
    assert ended.returncode == 1
    assert "The demo can't be shown" in ended.stdout
    assert "Traceback" not in ended.stdout + ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_nobody_reading_the_output_is_no_reason_to_hang(tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    try:
        command = [sys.executable, "-W", "ignore", "-c", ONCE]
        environment = {**os.environ, "TMPDIR": str(tmp_path)}
        ended = subprocess.run(command, stdout=writing, stderr=subprocess.DEVNULL, timeout=60, env=environment)
    finally:
        os.close(writing)
    assert ended.returncode != 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_it_serves_until_it_is_told_to_end(tmp_path, name):
    import signal

    process = subprocess.Popen(
        [sys.executable, "-u", "-W", "ignore", "-m", "ldapmfa.demo.run"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONUTF8": "1", "COLUMNS": "200"},
    )
    with process:
        try:
            shown = "".join(itertools.takewhile(lambda line: not line.startswith("As alice"), process.stdout))
            assert "8 of 8" in shown
            assert re.search(r"open http://127\.0\.0\.1:\d+ to answer", shown)
            assert re.search(r"ldapwhoami -x -H ldap://127\.0\.0\.1:\d+ ", shown)
            (place,) = tmp_path.iterdir()
            assert str(place / "ldapmfa.toml") in shown
            process.send_signal(getattr(signal, name))
            process.stdout.read()
            assert process.wait(timeout=20) == 0
        finally:
            process.kill()
    assert list(tmp_path.iterdir()) == []


def test_an_outcome_is_right_only_if_code_reason_and_entries_are():
    for login in LOGINS:
        seen = Seen(login.expected, "", "", None)
        assert logins.is_right(login, seen)
        for wrong in (
            replace(login.expected, code=80),
            replace(login.expected, reason="password"),
            replace(login.expected, entries=("cn=somebody-else",)),
            replace(login.expected, asked="whether somebody else wants to sign in"),
        ):
            assert not logins.is_right(login, replace(seen, outcome=wrong))


def test_what_they_must_come_to():
    assert [login.expected.code for login in LOGINS] == [49, 49, 0, 49, 50, 0, 49, 49]
    assert LOGINS[2].typed(CODES) == LOGINS[3].typed(CODES)
    assert len({login.typed(CODES) for login in LOGINS}) == 4
    assert LOGINS[0].typed(CODES) + "000000" == LOGINS[1].typed(CODES)
    assert LOGINS[4].typed(CODES) is None
    assert [login.pressed for login in LOGINS] == [""] * 5 + ["Approve", "Deny", "Report fraud"]
    assert all(bool(login.pressed) == bool(login.expected.asked) for login in LOGINS)
    assert {login.expected.reason for login in LOGINS} - {""} <= set(REASONS)


def test_the_wrong_code_is_wrong_around_now():
    for start in range(20):
        otp = pyotp.TOTP(pyotp.random_base32())
        wrong = run._wrong_code(otp, start + 50_000_000)
        assert re.fullmatch(r"\d{6}", wrong)
        assert wrong not in {otp.generate_otp(start + 50_000_000 + offset) for offset in range(-2, 3)}


def test_the_wrong_code_evades_right_ones():
    class Stuck:
        digits = 6

        def generate_otp(self, step):
            return f"{max(0, step - 10):06}"

    assert run._wrong_code(Stuck(), 10) == "000004"


@pytest.mark.parametrize("colours", [True, False])
def test_the_qr_code_is_square_and_framed(colours):
    lines = terminal.qr_code("otpauth://totp/ldapmfa:alice?secret=ABCDEFGH", colours=colours).plain.split("\n")
    assert len({len(line) for line in lines}) == 1
    assert abs(len(lines[0]) - 2 * len(lines)) <= 1
    assert set(lines[0]) == {" " if colours else "█"}
    assert set(itertools.chain(*lines)) <= set(" ▀▄█")


def test_outcomes_in_words():
    assert terminal.in_words(Outcome(49, "no-code")) == "refused: invalidCredentials (49)"
    assert terminal.in_words(Outcome(0, "code", ("cn=a",))) == "accepted: success (0), and the search found cn=a"
    assert terminal.in_words(Outcome(80)) == "refused: result code (80)"


def test_no_file_of_the_demo_is_imported_by_the_service():
    root = Path(run.__file__).parents[1]
    for file in root.rglob("*.py"):
        if "demo" not in file.parts and "cli" not in file.parts:
            assert "ldapmfa.demo" not in file.read_text(), file
