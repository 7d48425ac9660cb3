"""`ldapmfa audit`: events found, listed and written out."""

import csv
import io
import json
import os
import pty
import sqlite3
import stat
import subprocess
import sys
import time
from contextlib import closing

import pytest

from ldapmfa.audit import AccountChanged, LoginEnded
from ldapmfa.store.rows import fields

NOW = int(time.time())


def login(ago=60.0, **said):
    """A refused login so many seconds ago."""
    return LoginEnded(
        **{
            "at": NOW - ago, "outcome": "refused", "reason": "wrong-code", "result": 49, "reference": "K7RT29XA",
            "listener": "vpn", "client": "192.0.2.7", "name": "alice", "directory": "default", "application": "vpn",
            **said,
        }
    )  # fmt: skip


def change(ago=60.0, **said):
    return AccountChanged(**{"at": NOW - ago, "action": "enrolled", "account": "default/x", "actor": "ann", **said})


@pytest.fixture
def recorded(ldapmfa):
    """Put these events into the store."""

    def record(*events):
        with closing(sqlite3.connect(ldapmfa.directory / "state.db")) as sql:
            for event in events:
                row = fields(event)
                table = "logins" if isinstance(event, LoginEnded) else "changes"
                names, values = ", ".join(row), ", ".join(f":{name}" for name in row)
                sql.execute(f"INSERT INTO {table} ({names}) VALUES ({values})", row)
            sql.commit()
        return ldapmfa

    return record


class TestWithoutACommand:
    def test_it_is_show_as_it_always_was(self, recorded):
        ldapmfa = recorded(login(reference="ABCDEFGH"), change())
        for words in ((), ("--limit", 20), ("--limit=20",), ("show",), ("show", "--limit", "20")):
            assert len(ldapmfa("audit", *words, "--json").json["events"]) == 2
            assert len(ldapmfa("audit", "--json", *words).json["events"]) == 2
            config = ldapmfa.directory / "ldapmfa.toml"
            assert len(ldapmfa("audit", "--config", config, *words, "--json").json["events"]) == 2
        for words in (("--ref", "abcd-efgh"), ("--ref=ABCDEFGH",), ("show", "--ref", "ABCDEFGH")):
            assert ldapmfa("audit", *words, "--json").json["reason"] == "wrong-code"
        ldapmfa("user", "enrol", "alice")
        assert len(ldapmfa("audit", "alice", "--json").json["events"]) == 1
        assert ldapmfa("audit", "nobody").code == 1

    def test_an_account_that_is_called_like_a_command(self, ldapmfa):
        ldapmfa("user", "enrol", "search")
        assert len(ldapmfa("audit", "show", "search", "--json").json["events"]) == 1

    def test_help_is_the_groups(self, ldapmfa):
        out = ldapmfa("audit", "--help").out
        assert all(word in out for word in ("export", "search", "show"))

    def test_completes_names_and_commands(self, ldapmfa):
        ldapmfa("user", "enrol", "seamus")
        env = {"_LDAPMFA_COMPLETE": "bash_complete", "COMP_WORDS": "ldapmfa audit se", "COMP_CWORD": "2"}
        assert ldapmfa.child(env=env).out.split() == ["plain,search", "plain,seamus"]


class TestSearch:
    def test_the_newest_come_first_and_what_is_left_out_is_said(self, recorded):
        ldapmfa = recorded(*(login(ago=60 * n, name=f"user{n}") for n in range(1, 6)), change(ago=90))
        ran = ldapmfa("audit", "search", "--limit", 3, "--json")
        assert [event.get("name", "ann") for event in ran.json["events"]] == ["user1", "ann", "user2"]
        assert ran.json["more"] is True
        assert "there are more: --limit lists them" in ldapmfa("audit", "search", "--limit", 3).out
        assert "more" not in ldapmfa("audit", "search", "--limit", 6, "--json").json

    def test_by_what_is_given(self, recorded):
        ldapmfa = recorded(
            login(ago=10, name="Alice@Example.com", factor="duo", application="mail"),
            login(ago=7200, client="2001:db8::7", outcome="broken", reason="store-down", reference="REF00002"),
            change(ago=30, actor="ann", action="blocked"),
        )
        for words, count in (
            ((), 3),
            (("--since", "1h"), 2),
            (("--until", "1h"), 1),
            (("--since", "yesterday"), 3),
            (("--since", "2020-01-01"), 3),
            (("--until", "2020-01-01T12:00+02:00"), 0),
            (("--name", "alice@*"), 1),
            (("--client", "192.0.2.7"), 1),
            (("--client", "192.0.2.99/24"), 1),
            (("--client", "2001:db8::/64"), 1),
            (("--application", "mail"), 1),
            (("--factor", "duo", "--outcome", "refused"), 1),
            (("--reason", "store-down"), 1),
            (("--reference", "ref0-0002"), 1),
            (("--actor", "ann"), 1),
            (("--action", "blocked", "--outcome", "refused"), 0),
        ):
            ran = ldapmfa("audit", "search", *words, "--json")
            assert (len(ran.json["events"]), ran.code) == (count, 0 if count else 1), words

    def test_of_an_account_by_every_name_it_has_though_it_is_gone(self, recorded):
        guid = "00112233-4455-6677-8899-aabbccddeeff"
        ad = "corp/guid:33221100554477668899aabbccddeeff"
        ldapmfa = recorded(
            login(account=ad, dn="CN=Alice,DC=x"), login(account=f"default/uuid:{guid}"), change(account=ad), login()
        )
        for name, count in ((ad, 2), ("cn=alice,dc=x", 1), (guid, 3), (guid.upper(), 3), ("nobody", 0)):
            assert len(ldapmfa("audit", "search", "--account", name, "--json").json["events"]) == count, name
        ldapmfa("user", "enrol", "carol")
        assert len(ldapmfa("audit", "search", "--account", "carol", "--json").json["events"]) == 1

    @pytest.mark.parametrize(
        "words",
        [
            ("--since", "soon"), ("--since", "2026-13-01"), ("--client", "here"), ("--outcome", "lost"), ("--limit", "0"),
            ("--since", "1h", "--until", "2h"),
        ],
    )  # fmt: skip
    def test_a_mistake_ends_with_2_and_names_the_option(self, ldapmfa, words):
        ran = ldapmfa("audit", "search", *words)
        assert (ran.code, ran.out) == (2, "")
        assert words[-2] in ran.err

    def test_completes_reasons(self, ldapmfa):
        env = {"_LDAPMFA_COMPLETE": "bash_complete", "COMP_WORDS": "ldapmfa audit search --reason wrong-c", "COMP_CWORD": "4"}
        assert "plain,wrong-code" in ldapmfa.child(env=env).out


class TestExport:
    def test_each_event_is_a_line_the_oldest_first(self, recorded):
        ldapmfa = recorded(login(ago=10), login(ago=30), change(ago=20), login(ago=9000))
        lines = [json.loads(line) for line in ldapmfa("audit", "export", "--since", "1h").out.splitlines()]
        assert [line["event"] for line in lines] == ["LoginEnded", "AccountChanged", "LoginEnded"]
        assert lines[0]["timestamp"].startswith(time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(NOW - 30)))

    def test_a_file_is_new_and_for_its_owner_alone(self, recorded):
        ldapmfa = recorded(login())
        ran = ldapmfa("audit", "export", "--output", "out.jsonl", "--json")
        assert ran.json == {"events": 1, "file": "out.jsonl"}
        file = ldapmfa.directory / "out.jsonl"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        before = file.read_text()
        ran = ldapmfa("audit", "export", "--output", "out.jsonl")
        assert (ran.code, file.read_text()) == (2, before)
        assert "exists" in ran.err
        assert ldapmfa("audit", "export", "--output", "none/out.jsonl").code == 2

    def test_a_file_that_is_not_written_to_its_end_is_gone(self, recorded):
        ldapmfa = recorded(login())
        (ldapmfa.directory / "state.db").write_bytes(b"no database" * 1000)
        assert ldapmfa("audit", "export", "--output", "out.jsonl").code == 3
        assert not (ldapmfa.directory / "out.jsonl").exists()

    def test_A43_a_cell_is_no_formula_and_a_name_begins_no_row(self, recorded):
        """CWE-1236: what a spreadsheet would run."""
        names = ["=HYPERLINK(1)", "+1", "-1", "@SUM(1)", "\t=1", "\r\n=1", 'a","=1', "plain", "'quoted"]
        ldapmfa = recorded(*(login(ago=n, name=name, dn=name) for n, name in enumerate(reversed(names))))
        out = ldapmfa("audit", "export", "--format", "csv").out
        rows = list(csv.DictReader(io.StringIO(out)))
        assert [row["name"] for row in rows] == [
            "'=HYPERLINK(1)", "'+1", "'-1", "'@SUM(1)", "\\t=1", "\\r\\n=1", 'a","=1', "plain", "'quoted"
        ]  # fmt: skip
        assert all(None not in row and None not in row.values() for row in rows)
        assert rows[0]["result"] == "49"

    def test_both_kinds_have_their_columns(self, recorded):
        ldapmfa = recorded(login(), change(detail="totp"))
        rows = list(csv.DictReader(io.StringIO(ldapmfa("audit", "export", "--format", "csv").out)))
        assert {row["event"]: row["detail"] for row in rows} == {"LoginEnded": "", "AccountChanged": "totp"}
        assert {row["actor"] for row in rows} == {"", "ann"}

    def test_who_reads_no_further_is_no_mistake(self, recorded):
        ldapmfa = recorded(*(login(ago=n, name="x" * 500) for n in range(2000)))
        words = [sys.executable, "-m", "ldapmfa", "audit", "export"]
        with subprocess.Popen(
            words, cwd=ldapmfa.directory, env=ldapmfa.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as child:
            assert child.stdout.readline().startswith(b"{")
            child.stdout.close()
            assert child.stderr.read() == b""
            child.wait(60)

    def test_a_person_sees_how_far_it_is(self, recorded):
        ldapmfa = recorded(*(login(ago=n) for n in range(2500)))
        ours, theirs = pty.openpty()
        try:
            words = [sys.executable, "-m", "ldapmfa", "audit", "export", "--output", "out.jsonl"]
            done = subprocess.run(words, cwd=ldapmfa.directory, env=ldapmfa.environment, stderr=theirs, timeout=60)
            os.set_blocking(ours, False)
            told = os.read(ours, 65536).decode()
        finally:
            os.close(ours)
            os.close(theirs)
        assert done.returncode == 0
        assert "1000 events, up to" in told
        assert "2000 events, up to" in told
        assert len((ldapmfa.directory / "out.jsonl").read_text().splitlines()) == 2500
