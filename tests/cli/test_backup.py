"""`ldapmfa store backup`, `restore` and `restored`, as they are called; no directory is asked."""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from contextlib import closing

import pytest

from ldapmfa.store import copies
from ldapmfa.store.seal import Seal


@pytest.fixture
def store(ldapmfa):
    """The directory of a store with a TOTP token and recovery codes."""
    assert ldapmfa("user", "enrol", "alice").code == 0
    assert ldapmfa("user", "enrol", "bob", "--kind", "recovery").code == 0
    return ldapmfa.directory


def kinds(ldapmfa):
    return sorted(row["kind"] for row in ldapmfa("factor", "list", "--json").json["factors"])


class TestBackup:
    def test_a_copy_for_its_owner_alone(self, ldapmfa, store):
        ran = ldapmfa("store", "backup", "copy.db")
        assert ran.code == 0, ran.err
        assert ran.out == f"copy.db holds 0 accounts and 2 factors, all of which open with {store}/store.key\n"
        assert stat.S_IMODE((store / "copy.db").stat().st_mode) == 0o600
        assert sorted(file.name for file in store.glob("copy*")) == ["copy.db"]
        made = ldapmfa("store", "backup", "other.db", "--json").json
        assert (made["file"], made["accounts"], made["factors"]) == ("other.db", 0, 2)

    def test_nothing_is_overwritten(self, ldapmfa, store):
        (store / "copy.db").write_text("mine")
        ran = ldapmfa("store", "backup", "copy.db", "--json")
        assert (ran.code, ran.errors) == (2, ["copy.db exists, and is not overwritten: name another file"])
        assert (store / "copy.db").read_text() == "mine"

    def test_a_copy_that_does_not_open_is_none(self, ldapmfa, store):
        with closing(sqlite3.connect(store / "state.db")) as connection, connection:
            connection.execute("UPDATE factors SET kind = 'hotp' WHERE kind = 'totp'")
        ran = ldapmfa("store", "backup", "copy.db", "--json")
        assert ran.code == 3
        assert ran.errors[0].startswith("copy.db does not open with store.key_file: ")
        assert not (store / "copy.db").exists()

    def test_a_folder_that_is_not_there(self, ldapmfa, store):
        assert ldapmfa("store", "backup", "none/copy.db").code == 3


class TestRestore:
    def test_refused_while_it_is_in_use(self, ldapmfa, store):
        assert ldapmfa("store", "backup", "copy.db").code == 0
        before = kinds(ldapmfa)

        with closing(sqlite3.connect(store / "state.db")) as other:  # as the service has it
            other.execute("PRAGMA journal_mode=WAL")
            other.execute("SELECT count(*) FROM factors").fetchall()
            ran = ldapmfa("store", "restore", "copy.db", "--uncertain", "keep", "--json")
        assert ran.code == 2
        assert "is in use: stop the service first" in ran.errors[0]
        assert kinds(ldapmfa) == before

    def test_A19_refused_if_the_service_was_started_meanwhile(self, ldapmfa, store, monkeypatch):
        """What it went on with would be put aside under it, and with that the codes that it uses up."""
        assert ldapmfa("store", "backup", "copy.db").code == 0
        before = (store / "state.db").read_bytes()
        opened = []

        def slow(*_):
            service = sqlite3.connect(store / "state.db", check_same_thread=False)
            opened.append(service)
            service.execute("PRAGMA journal_mode=WAL")
            service.execute("SELECT count(*) FROM factors").fetchall()

        monkeypatch.setattr("ldapmfa.cli.backup._changed_since", slow)
        ran = ldapmfa("store", "restore", "copy.db", "--uncertain", "keep", "--json")
        opened[0].execute("PRAGMA journal_mode=DELETE")
        opened[0].close()
        assert ran.code == 2
        assert "is in use: stop the service first" in ran.errors[0]
        assert sorted(file.name for file in store.glob("state.db*")) == ["state.db"]
        assert len((store / "state.db").read_bytes()) == len(before)

    def test_what_is_uncertain_must_be_decided(self, ldapmfa, store):
        assert ldapmfa("store", "backup", "copy.db").code == 0
        ran = ldapmfa("store", "restore", "copy.db", "--json")
        assert ran.code == 2
        assert ran.errors[0].startswith("--uncertain: 1 factors (HOTP tokens, recovery codes) may have been used")
        assert sorted(file.name for file in store.glob("state.db*")) == ["state.db"], "nothing is left behind"
        assert kinds(ldapmfa) == ["recovery", "totp"]

    @pytest.mark.parametrize(("uncertain", "left"), [("remove", ["totp"]), ("keep", ["recovery", "totp"])])
    def test_back_to_what_it_was(self, ldapmfa, store, uncertain, left):
        assert ldapmfa("store", "backup", "copy.db").code == 0
        copy = (store / "copy.db").read_bytes()
        (token,) = [row["id"] for row in ldapmfa("factor", "list", "--json").json["factors"] if row["kind"] == "totp"]
        assert ldapmfa("user", "enrol", "carol").code == 0
        assert ldapmfa("factor", "remove", token).code == 0
        ran = ldapmfa("store", "restore", "copy.db", "--uncertain", uncertain)
        assert ran.code == 0, ran.err
        assert "0 accounts and 2 factors" in ran.out
        assert f"which were {'kept' if uncertain == 'keep' else 'removed'}: 1" in ran.out
        assert kinds(ldapmfa) == left
        assert (store / "copy.db").read_bytes() == copy, "and it can be restored again"
        (event, *_) = ldapmfa("audit", "--json").json["events"]
        assert (event["action"], event["account"]) == ("restored", "*")
        assert stat.S_IMODE((store / "state.db").stat().st_mode) == 0o600
        (before,) = store.glob("state.db.before-*")
        with closing(sqlite3.connect(before)) as connection:
            assert connection.execute("SELECT count(*) FROM factors").fetchone() == (2,)
        told = [line.split("  ") for line in ran.out.partition("is to be done again before the service starts:\n")[2].splitlines()]
        assert [(line[2].rpartition("/")[2], line[3].partition(":")[0]) for line in told] == [
            ("carol", "enrolled"),
            ("pending", "factor-removed"),
        ]

    @pytest.mark.parametrize("harm", ["gone", "damaged"])
    def test_in_the_place_of_one_that_is_lost(self, ldapmfa, store, harm):
        assert ldapmfa("store", "backup", "copy.db").code == 0
        if harm == "gone":
            (store / "state.db").unlink()
        else:
            (store / "state.db").write_bytes(b"none" * 4096)
        ran = ldapmfa("store", "restore", "copy.db", "--uncertain", "remove", "--json")
        assert ran.code == 0, ran.err
        assert (ran.json["burnt"], ran.json["uncertain"], ran.json["before"] is None) == (1, 1, harm == "gone")
        assert ran.json["since"] is None, "nobody knows"
        assert kinds(ldapmfa) == ["totp"]

    def test_a_copy_of_another_key_is_refused(self, ldapmfa, store):
        assert ldapmfa("store", "backup", "copy.db").code == 0
        (store / "store.key").unlink()
        Seal.create(store / "store.key", entropy=os.urandom)
        ran = ldapmfa("store", "restore", "copy.db", "--uncertain", "keep", "--json")
        assert ran.code == 2
        assert "is not the key file of this database" in ran.errors[0]
        assert sorted(file.name for file in store.glob("state.db*")) == ["state.db"]

    def test_what_is_no_copy_is_refused(self, ldapmfa, store):
        (store / "copy.db").write_bytes(b"none" * 4096)
        assert ldapmfa("store", "restore", "copy.db", "--uncertain", "keep").code == 3
        assert kinds(ldapmfa) == ["recovery", "totp"]

    def test_what_an_interrupted_one_left_does_not_matter(self, ldapmfa, store):
        assert ldapmfa("store", "backup", "copy.db").code == 0
        (store / "state.db.restoring").write_text("half")
        assert ldapmfa("store", "restore", "copy.db", "--uncertain", "keep").code == 0

    def test_a_copy_of_an_older_version_is_brought_up_to_date(self, ldapmfa, store):
        assert ldapmfa("store", "backup", "copy.db").code == 0
        with closing(sqlite3.connect(store / "copy.db")) as connection, connection:
            assert connection.execute("SELECT version_num FROM alembic_version").fetchone() > ("0001",)
            for table in ("bypasses", "cuts", "notices", "tries", "rates"):
                connection.execute(f"DROP TABLE {table}")
            for column in ("locks", "phone", "disabled", "blocked_until", "blocked_reason", "blocked_by"):
                connection.execute(f"ALTER TABLE accounts DROP COLUMN {column}")
            for column in ("application", "client", "granted"):
                connection.execute(f"ALTER TABLE reuse DROP COLUMN {column}")
            connection.execute("ALTER TABLE logins DROP COLUMN application")
            connection.execute("UPDATE alembic_version SET version_num = '0002'")
        assert ldapmfa("store", "restore", "copy.db", "--uncertain", "keep").code == 0
        assert ldapmfa("user", "list").code == 0


class TestRestored:
    def test_A19_by_whatever_means_it_was_put_back(self, ldapmfa, store):
        """A copy of the file, as a snapshot of the machine is one."""
        copies.copy(store / "state.db", store / "copy.db")
        assert ldapmfa("store", "restored").code == 2
        ran = ldapmfa("store", "restored", "--uncertain", "keep", "--json")
        assert (ran.code, ran.json["burnt"], ran.json["uncertain"]) == (0, 1, 1)
        assert ldapmfa("store", "restored", "--uncertain", "keep", "--json").json["burnt"] == 0
        with closing(sqlite3.connect(store / "state.db")) as connection:
            ((position,),) = connection.execute("SELECT position FROM factors WHERE kind = 'totp'").fetchall()
        assert abs(position - (time.time() // 30 + 11)) <= 1

    def test_a_factor_that_is_not_configured_is_uncertain(self, ldapmfa, store):
        file = store / "ldapmfa.toml"
        file.write_text(file.read_text().replace('"totp", "hotp", "recovery"', '"recovery"'))
        assert ldapmfa("store", "restored", "--uncertain", "keep", "--json").json["uncertain"] == 2


class TestCopy:
    def test_into_an_empty_store(self, ldapmfa, store):
        target = f"sqlite:///{store}/new.db"
        ran = ldapmfa("store", "copy", f"sqlite:///{store}/state.db", target, "--json")
        assert ran.code == 0, ran.err
        assert (ran.json["rows"]["factors"], ran.json["to"]) == (2, target)
        ran = ldapmfa("store", "copy", f"{store}/state.db", target)
        assert (ran.code, ran.out) == (2, "")
        assert "is not empty" in ran.err

    def test_what_is_next_is_said(self, ldapmfa, store):
        ran = ldapmfa("store", "copy", f"{store}/state.db", f"sqlite:///{store}/new.db")
        assert ran.code == 0
        assert f'set store.url in {store}/ldapmfa.toml to "sqlite:///{store}/new.db"' in ran.out

    @pytest.mark.parametrize(
        "case",
        [
            ("none.db", "new.db", 2, "FROM: "),
            ("state.db", "postgresql+asyncpg://u:hunter2@127.0.0.1:1/d", 3, "can't be reached"),
            ("state.db", "postgresql+asyncpg://u:hunter2@127.0.0.1:1/", 2, "TO: must name a database"),
            ("state.db", "nonsense://", 2, "ldapmfa: TO: "),
            ("state.db", "mysql://u:hunter2@h/d", 2, "ldapmfa: TO: mysql is not supported"),
        ],
    )
    def test_what_can_not_be_copied(self, ldapmfa, store, case):
        source, target, code, says = case
        target = target if "://" in target else f"{store}/{target}"
        ran = ldapmfa("store", "copy", f"{store}/{source}", target)
        assert (ran.code, says in ran.err) == (code, True), ran.err
        assert "hunter2" not in ran.err

    def test_a_relative_path_is_named_as_the_argument_that_it_is(self, ldapmfa, store):
        ran = ldapmfa("store", "copy", "state.db", f"{store}/new.db")
        assert (ran.code, ran.err.startswith("ldapmfa: FROM: is neither an absolute path nor a URL")) == (2, True), ran.err

    def test_refused_while_it_is_in_use(self, ldapmfa, store):
        with closing(sqlite3.connect(store / "state.db")) as connection:
            connection.execute("SELECT * FROM factors").fetchall()
            ran = ldapmfa("store", "copy", f"{store}/state.db", f"{store}/new.db")
        assert (ran.code, "in use" in ran.err) == (2, True)


@pytest.mark.parametrize("words", [("backup", "copy.db"), ("restore", "copy.db", "--uncertain", "keep")])
def test_a_database_server_has_means_of_its_own(bare, port, words):
    (bare.directory / "copy.db").touch()
    (bare.directory / "ldapmfa.toml").write_text(
        f'[[listen]]\nendpoint = "tcp:{port}:interface=127.0.0.1"\n[directory]\nuris = ["ldap://127.0.0.1:9"]\n'
        f'[store]\nurl = "postgresql+asyncpg://ldapmfa@127.0.0.1:{port}/ldapmfa"\n'
    )
    Seal.create(bare.directory / "store.key", entropy=os.urandom)
    ran = bare("store", *words, "--json")
    assert ran.code == 2
    assert "use pg_dump, and after a restore `ldapmfa store restored`" in ran.errors[0]
