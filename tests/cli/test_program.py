"""The command line, from outside: what it prints, where, and what it ends with."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys

import click
import pytest
from cli.conftest import CONFIGURATION
from cli.program import code_of

from ldapmfa import __version__
from ldapmfa.cli import root
from ldapmfa.cli.command import EXIT_CODES
from ldapmfa.cli.reference import commands

SECRETS = re.compile(r"otpauth:|secret=|rc-\w{4}-")


class TestEveryCommand:
    def test_the_version(self, bare):
        assert bare.child("--version").out == f"ldapmfa {__version__}\n"

    def test_help_is_quick_to_import(self, bare):
        heavy = "pydantic", "sqlalchemy", "twisted", "rich", "segno", "cryptography"
        code = f"import sys, ldapmfa.cli; print([name for name in {heavy!r} if name in sys.modules])"
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"

    @pytest.mark.parametrize("command", [pytest.param(one, id=context.command_path) for context, one in commands(root)])
    def test_help_has_examples_exit_codes_and_what_is_given_with_all(self, command):
        text = command.get_help(click.Context(command, info_name=command.name))
        assert "Exit codes:" in text
        assert all(re.search(rf"^ +{code} +\S", text, re.MULTILINE) for code in EXIT_CODES)
        assert "--config" in text
        assert "--json" in text
        if not isinstance(command, click.Group):
            assert "Examples:\n  " in text
            assert all("ldapmfa " in line for line in command.examples)

    @pytest.mark.parametrize(
        "words",
        [
            ("--json", "--config", "other.toml", "user", "list"),
            ("user", "--json", "-c", "other.toml", "list"),
            ("user", "list", "--json", "--config", "other.toml"),
            ("--config", "other.toml", "user", "list", "--json"),
        ],
    )
    def test_config_and_json_stand_anywhere(self, ldapmfa, words):
        (ldapmfa.directory / "ldapmfa.toml").rename(ldapmfa.directory / "other.toml")
        assert ldapmfa(*words).json == {"accounts": [], "pending": []}

    def test_a_mistyped_command_ends_with_2_and_says_what_was_meant(self, ldapmfa):
        ran = ldapmfa("user", "lst")
        assert (ran.code, ran.out) == (2, "")
        assert "list" in ran.err
        assert "ldapmfa user --help" in ran.err
        assert "list" in ldapmfa("user", "lst", "--json").errors[0]

    def test_a_group_alone_shows_its_help(self, bare):
        ran = bare("user")
        assert "Usage: ldapmfa user" in ran.out + ran.err

    @pytest.mark.parametrize("words", [("user", "list"), ("check-config",), ("run",), ("audit",), ("key", "rotate")])
    def test_without_a_configuration_it_says_where_it_looked(self, bare, words):
        ran = bare(*words, "--json")
        assert ran.code == 2
        assert str(bare.directory / "ldapmfa.toml") in ran.errors[0]
        assert "ldapmfa init" in ran.errors[0]

    def test_all_mistakes_of_the_configuration_come_at_once(self, ldapmfa):
        file = ldapmfa.directory / "ldapmfa.toml"
        file.write_text(file.read_text() + 'cod = "suffix"\ncode_digits = 7\n')
        for words in (("check-config",), ("run",), ("user", "list")):
            ran = ldapmfa(*words, "--json")
            assert (ran.code, len(ran.errors)) == (2, 2)
            assert all(str(file) in line for line in ran.errors)

    def test_a_store_that_fails_ends_with_3(self, ldapmfa):
        (ldapmfa.directory / "state.db").write_bytes(b"no database" * 1000)
        ran = ldapmfa("user", "list", "--json")
        assert (ran.code, ran.out) == (3, "")
        assert "store" in ran.errors[0]

    def test_a_key_file_of_another_store_ends_with_2_naming_key_and_file(self, ldapmfa):
        (ldapmfa.directory / "store.key").unlink()
        (ldapmfa.directory / "state.db").rename(ldapmfa.directory / "old.db")
        ldapmfa("init")
        (ldapmfa.directory / "old.db").replace(ldapmfa.directory / "state.db")
        ran = ldapmfa("user", "list")
        assert ran.code == 2
        assert f"ldapmfa: {ldapmfa.directory}/ldapmfa.toml: store.key_file: " in ran.err

    def test_text_from_outside_can_not_move_the_cursor(self, ldapmfa):
        ldapmfa("user", "enrol", "evil\x1b[2Jname\nfake", "--label", "[red]\x1b[31m")
        for words in (("user", "list"), ("audit",), ("factor", "list"), ("user", "show", "evil\x1b[2Jname\nfake")):
            for ran in (ldapmfa(*words), ldapmfa(*words, "--json")):
                assert ran.code == 0
                assert "\x1b" not in ran.out + ran.err
                assert "evil" in ran.out


class TestInit:
    def test_makes_configuration_key_and_store(self, bare):
        ran = bare.child("init", "--uri", "ldaps://dc1.example.test", "--endpoint", "tcp:4389:interface=127.0.0.1", "--json")
        names = ["ldapmfa.toml", "store.key", "state.db"]
        assert ran.json["made"] == [str(bare.directory / name) for name in names]
        modes = {name: stat.S_IMODE((bare.directory / name).stat().st_mode) for name in names[1:]}
        assert modes == {"store.key": 0o600, "state.db": 0o600}
        text = (bare.directory / "ldapmfa.toml").read_text()
        assert '"ldaps://dc1.example.test"' in text
        assert '"tcp:4389:interface=127.0.0.1"' in text
        assert bare("check-config").code == 0
        assert bare("user", "list").code == 0

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
    def test_what_root_makes_is_whose_directory_it_is_in(self, bare):
        os.chown(bare.directory, 4711, 4711)
        bare("init")
        for name in ("store.key", "state.db"):
            assert (bare.directory / name).stat().st_uid == 4711

    def test_prints_what_comes_next(self, bare):
        out = bare("init").out
        assert "Next:\n  1. set directory.uris" in out
        assert "ldapmfa check-config --online" in out

    def test_changes_nothing_that_exists(self, bare):
        bare("init")
        before = {file: file.read_bytes() for file in bare.directory.iterdir()}
        ran = bare("init", "--json")
        assert (ran.code, ran.json["made"]) == (0, [])
        assert {file: file.read_bytes() for file in bare.directory.iterdir()} == before
        assert bare("init", "--uri", "ldap://other.test").code == 2

    def test_makes_what_is_missing_beside_a_configuration(self, bare):
        (bare.directory / "mine.toml").write_text(CONFIGURATION.format(port=3389))
        ran = bare("init", "--config", "mine.toml", "--json")
        assert ran.json["made"] == [str(bare.directory / name) for name in ("store.key", "state.db")]

    @pytest.mark.parametrize(
        ("option", "value"), [("--uri", "dc1"), ("--endpoint", "ssl:636"), ("--endpoint", "tcp:389")]
    )
    def test_a_mistake_leaves_nothing_behind(self, bare, option, value):
        ran = bare("init", option, value)
        assert ran.code == 2
        assert list(bare.directory.iterdir()) == []

    def test_quotes_what_it_is_given(self, bare):
        assert bare("init", "--endpoint", r"unix:\:sock").code == 0

    def test_a_directory_that_does_not_exist(self, bare):
        ran = bare("init", "--config", "no/where.toml")
        assert ran.code == 2
        assert "no/where.toml" in ran.err


class TestCheckConfig:
    def test_is_content(self, ldapmfa, port):
        ran = ldapmfa("check-config", "--json")
        assert ran.code == 0
        assert ran.json["listeners"] == [f"tcp:{port}:interface=127.0.0.1"]
        assert ran.json["warnings"] == []
        assert ldapmfa("check-config").out.endswith("no mistakes\n")

    def test_ports_in_use_unless_they_are_skipped(self, ldapmfa, port):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", port))
            taken.listen()
            ran = ldapmfa("check-config", "--json")
            assert ran.code == 2
            assert ran.errors[0].startswith(f"{ldapmfa.directory}/ldapmfa.toml:2: listen[0].endpoint: ")
            assert str(port) in ran.errors[0]
            assert ldapmfa("check-config", "--skip-ports").code == 0
            assert ldapmfa("run", "--json").errors == ran.errors

    def test_warns_of_what_is_dangerous(self, ldapmfa):
        file = ldapmfa.directory / "ldapmfa.toml"
        text = file.read_text().replace("127.0.0.1:9", "dc.example.test").replace("[login]", "verify_certificate = false\n[login]")
        file.write_text(text)
        ran = ldapmfa("check-config")
        assert ran.code == 0
        assert "warning: directory.verify_certificate: is false" in ran.err
        assert "warning: directory.uris: passwords go to dc.example.test in clear text" in ran.err
        assert len(ldapmfa("check-config", "--json").json["warnings"]) == 2

    def test_without_a_terminal_the_password_is_input(self, ldapmfa):
        ran = ldapmfa.child("user", "test", "alice", "--json")
        assert (ran.code, "--password-stdin" in ran.errors[0]) == (2, True)

    def test_online_a_server_that_is_not_there_ends_with_3(self, ldapmfa):
        ran = ldapmfa.child("check-config", "--online", "--json")
        assert ran.code == 3
        assert ran.errors == [
            f"{ldapmfa.directory}/ldapmfa.toml: directory.uris: ldap://127.0.0.1:9: can't be connected to: Connection refused"
        ]


class TestUsers:
    def test_enrol_shows_a_qr_code_and_what_comes_next(self, ldapmfa):
        ran = ldapmfa.child("user", "enrol", "alice")
        assert ran.code == 0
        assert "▄▄▄▄▄" in ran.out
        assert "otpauth://totp/ldapmfa:alice?secret=" in ran.out
        assert "Pending until" in ran.out
        assert "the sAMAccountName or uid is alice" in ran.out

    def test_enrol_as_json_holds_the_uri(self, ldapmfa):
        made = ldapmfa("user", "enrol", "alice@example.test", "--json").json
        assert made["uri"].startswith("otpauth://totp/")
        assert made["pending"]["attribute"] == "userPrincipalName"
        assert made["expires"].endswith("Z")

    def test_parameters_reach_the_uri(self, ldapmfa):
        options = ("--algorithm", "SHA512", "--period", "60", "--label", "fob")
        made = ldapmfa("user", "enrol", "alice", *options, "--json").json
        assert made["parameters"] == {"algorithm": "sha512", "digits": 6, "period": 60}
        assert "algorithm=SHA512" in made["uri"]
        assert ldapmfa("user", "list", "--json").json["pending"][0]["factor"]["label"] == "fob"

    def test_recovery_codes(self, ldapmfa):
        made = ldapmfa("user", "enrol", "alice", "--kind", "recovery", "--json").json
        assert len(made["codes"]) == 10
        assert "uri" not in made
        assert len(SECRETS.findall(ldapmfa("user", "enrol", "alice", "--kind", "recovery", "--add").out)) == 10

    def test_a_kind_that_is_not_configured_names_key_and_file(self, ldapmfa):
        ran = ldapmfa("user", "enrol", "alice", "--kind", "webauthn")
        assert ran.code == 2
        assert f'{ldapmfa.directory}/ldapmfa.toml: login.factors: does not have "webauthn"' in ran.err

    def test_codes_that_no_listener_takes_are_refused(self, ldapmfa):
        ran = ldapmfa("user", "enrol", "alice", "--digits", "8")
        assert ran.code == 2
        assert "code_digits" in ran.err

    def test_codes_that_some_listener_does_not_take_are_warned_of(self, ldapmfa):
        file = ldapmfa.directory / "ldapmfa.toml"
        file.write_text('[[listen]]\nname = "vpn"\nendpoint = "tcp:4389:interface=127.0.0.1"\ncode_digits = 8\n' + file.read_text())
        made = ldapmfa("user", "enrol", "alice", "--json").json
        assert made["parameters"]["digits"] == 6
        assert made["warnings"] == ["the listener vpn takes no codes of 6 digits: see its code_digits"]
        assert ldapmfa("user", "enrol", "bob", "--digits", "8", "--json").json["parameters"]["digits"] == 8

    def test_behind_a_delimiter_codes_of_any_length_will_do(self, ldapmfa):
        file = ldapmfa.directory / "ldapmfa.toml"
        file.write_text(file.read_text() + 'code = "delimiter"\n')
        made = ldapmfa("user", "enrol", "alice", "--digits", "8", "--json").json
        assert (made["parameters"]["digits"], made["warnings"]) == (8, [])

    def test_twice_is_refused_unless_added(self, ldapmfa):
        ldapmfa("user", "enrol", "alice")
        ran = ldapmfa("user", "enrol", "alice")
        assert ran.code == 1
        assert "--add" in ran.err
        assert not SECRETS.search(ran.out + ran.err)
        assert ldapmfa("user", "enrol", "alice", "--add").code == 0

    def test_list_show_and_unenrol(self, ldapmfa):
        for name in ("alice", "cn=Bob,dc=example,dc=test"):
            ldapmfa("user", "enrol", name)
        pending = ldapmfa("user", "list", "--json").json["pending"]
        assert [row["value"] for row in pending] == ["alice", "cn=bob,dc=example,dc=test"]
        out = ldapmfa("user", "list").out
        assert "alice (account, default)" in out
        assert pending[0]["expires"].replace("T", " ").rstrip("Z") in out
        assert ldapmfa("user", "show", "CN=bob, dc=example,dc=test", "--json").json["pending"] == pending[1:]
        assert ldapmfa("user", "unenrol", "alice", "--json").json == {"removed": 1}
        assert len(ldapmfa("user", "list", "--json").json["pending"]) == 1

    @pytest.mark.parametrize("verb", ["show", "unenrol", "unlock"])
    def test_a_name_nobody_has_ends_with_1_and_the_nearest(self, ldapmfa, verb):
        ldapmfa("user", "enrol", "alice")
        ran = ldapmfa("user", verb, "alicia", "--json")
        assert (ran.code, ran.out) == (1, "")
        assert [line.strip() for line in ran.errors[1:]] == ["did you mean:", "alice"]

    def test_an_unknown_directory(self, ldapmfa):
        for verb in ("show", "enrol"):
            ran = ldapmfa("user", verb, "alice", "--directory", "forest")
            assert ran.code == 2
            assert "default" in ran.err

    def test_the_actor_is_who_ran_it_and_behind_sudo_who_ran_that(self, ldapmfa):
        ldapmfa("user", "enrol", "alice", env={"SUDO_USER": "ann"})
        (event,) = ldapmfa("audit", "--json").json["events"]
        own = subprocess.run(["id", "-un"], capture_output=True, text=True).stdout.strip()
        assert event["actor"] == ("ann" if os.geteuid() == 0 else own)

    def test_a_login_test_without_the_directory_ends_with_3(self, ldapmfa):
        ran = ldapmfa.test("cn=alice", "password", "123456")
        assert (ran.code, ran.json["reason"]) == (3, "directory-down")
        assert "check-config --online" in ran.json["remedy"]
        assert "password" not in ran.json["detail"]

    @pytest.mark.parametrize("lines", [("", "123456"), ("", ""), ("   ", "123456")])
    def test_a_login_test_without_a_password_asks_nobody(self, ldapmfa, lines):
        ran = ldapmfa.test("cn=alice", *lines)
        assert (ran.code, ran.json["reason"], ran.json["steps"]) == (1, "empty-password", [])

    def test_a_login_test_at_a_listener_or_an_address_that_is_none(self, ldapmfa):
        assert ldapmfa.test("x", "p", options=("--listener", "vpn")).code == 2
        assert ldapmfa.test("x", "p", options=("--from", "here")).code == 2


class TestFactors:
    def test_list_and_remove(self, ldapmfa):
        made = ldapmfa("user", "enrol", "alice", "--json").json
        (row,) = ldapmfa("factor", "list", "--json").json["factors"]
        assert (row["id"], row["owner"]) == (made["id"], "pending: alice")
        assert ldapmfa("factor", "list", "alice", "--json").json["factors"] == [row]
        assert made["id"][:8] in ldapmfa("factor", "list").out
        assert ldapmfa("factor", "remove", made["id"][:8], "--json").json["removed"] == made["id"]
        assert ldapmfa("factor", "remove", made["id"]).code == 1
        assert ldapmfa("factor", "list").out == "There are no factors.\n"
        assert ldapmfa("factor", "list", "alice").code == 1

    def test_resync(self, ldapmfa):
        made = ldapmfa("user", "enrol", "alice", "--kind", "hotp", "--json").json
        codes = [code_of(made["uri"], 700), code_of(made["uri"], 701)]
        assert ldapmfa("factor", "resync", made["id"], *reversed(codes)).code == 1
        assert ldapmfa("factor", "resync", made["id"], *codes).code == 0
        assert ldapmfa("factor", "resync", made["id"], *codes).code == 1

    def test_rotate(self, ldapmfa):
        ldapmfa("user", "enrol", "alice")
        before = (ldapmfa.directory / "store.key").read_text()
        ran = ldapmfa("key", "rotate", "--json")
        assert ran.json["key"] == (ldapmfa.directory / "store.key").read_text().split()[1] != before.split()[1]
        assert ldapmfa("user", "list").code == 0


class TestAudit:
    def test_an_unknown_reference_ends_with_1(self, ldapmfa):
        assert ldapmfa("audit", "--ref", "ABCDEFGH", "--json").code == 1
        assert ldapmfa("audit").out == "Nothing is recorded.\n"
        assert ldapmfa("audit", "alice", "--ref", "ABCDEFGH").code == 2

    def test_a_reference_is_explained(self, ldapmfa):
        reference = ldapmfa.test("cn=alice,dc=x", "secret-word", "123456").json["reference"]
        ran = ldapmfa("audit", "--ref", reference)
        assert ran.code == 0
        for word in (reference, "directory-down", "cn=alice,dc=x", "user test by", "check-config --online"):
            assert word in ran.out
        assert "secret-word" not in ran.out + (ldapmfa.directory / "state.db").read_bytes().decode("latin-1")
        assert ldapmfa("audit", "--ref", reference, "--json").json["reason"] == "directory-down"


class TestCompletion:
    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_prints_a_script(self, bare, shell):
        assert "_LDAPMFA_COMPLETE" in bare("completion", shell).out

    @pytest.mark.parametrize(
        ("words", "found"),
        [
            ("ldapmfa user enr", "enrol"),
            ("ldapmfa user show al", "alice"),
            ("ldapmfa check-config --on", "--online"),
        ],
    )
    def test_completes_commands_options_and_names(self, ldapmfa, words, found):
        ldapmfa("user", "enrol", "alice")
        count = len(words.split()) - 1
        env = {"_LDAPMFA_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(count)}
        assert f"plain,{found}" in ldapmfa.child(env=env).out

    def test_completes_factor_ids(self, ldapmfa):
        made = ldapmfa("user", "enrol", "alice", "--json").json
        words = "ldapmfa factor remove " + made["id"][:2]
        env = {"_LDAPMFA_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": "3"}
        assert f"plain,{made['id']}" in ldapmfa.child(env=env).out

    def test_is_silent_without_a_configuration(self, bare):
        env = {"_LDAPMFA_COMPLETE": "bash_complete", "COMP_WORDS": "ldapmfa user show a", "COMP_CWORD": "3"}
        ran = bare.child(env=env)
        assert (ran.out.strip(), ran.err) == ("", "")


class TestRun:
    @pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
    def test_ends_within_seconds_with_0(self, ldapmfa, port, signum):
        with ldapmfa.running(port) as child:
            code, seconds = ldapmfa.stopped(child, signum)
        assert (code, seconds < 5) == (0, True)
        events = [json.loads(line)["event"] for line in (ldapmfa.directory / "log").read_text().splitlines()]
        assert [event for event in events if event in {"listening", "stopped"}] == ["listening", "stopped"]

    def test_a_store_that_fails_ends_with_3(self, ldapmfa):
        (ldapmfa.directory / "state.db").write_bytes(b"no database" * 1000)
        ran = ldapmfa.child("run")
        assert ran.code == 3
        assert "ldapmfa: the store failed" in ran.err


def test_no_command_but_enrol_prints_a_secret(ldapmfa):
    made = ldapmfa("user", "enrol", "alice", "--json").json
    secret = re.search(r"secret=(\w+)", made["uri"])[1]
    for words in (("user", "list"), ("user", "show", "alice"), ("factor", "list"), ("audit",), ("check-config",)):
        for ran in (ldapmfa(*words), ldapmfa(*words, "--json")):
            assert secret not in ran.out + ran.err
            assert not SECRETS.search(ran.out + ran.err)
