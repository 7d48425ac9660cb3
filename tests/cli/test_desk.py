"""The help desk's commands, from outside."""

import asyncio
import os
import time

import pytest

from ldapmfa.audit import LoginEnded
from ldapmfa.core.identity import Identity
from ldapmfa.core.secret import Secret
from ldapmfa.store import Grant, Place, Store
from ldapmfa.store.seal import Seal
from ldapmfa.wire import dn

ALICE = Identity("default", "uuid:a", "cn=Alice,dc=example", ("alice",), "alice@example.com")


def on_store(program, work):
    """Do something in the program's store; in a loop of its own."""

    async def go():
        url = f"sqlite:///{program.directory}/state.db"
        seal = Seal(program.directory / "store.key", entropy=os.urandom)
        store = await Store.open(url, seal, clock=time.time, normalise_dn=dn.normalise)
        try:
            return await work(store)
        finally:
            await store.close()

    import threading

    found = []
    thread = threading.Thread(target=lambda: found.append(asyncio.run(go())))
    thread.start()
    thread.join()
    return found[0]


@pytest.fixture
def desk(ldapmfa):
    """Alice has logged in at the vpn, and that counts again."""

    async def log_in(store):
        success = LoginEnded(
            at=time.time(), outcome="accepted", reason="approved", result=0, reference="", listener="vpn",
            client="192.0.2.1", name="alice", directory="default", factor="push",
        )  # fmt: skip
        key = store.reuse_key(ALICE, Secret(b"x"), Place("vpn", "192.0.2.1"))
        await store.admit(ALICE, success, (), grant=Grant(key, 3600, 3, place=Place("vpn", "192.0.2.1")))

    on_store(ldapmfa, log_in)
    return ldapmfa


def account(program):
    return program("user", "show", "alice", "--json").json["account"]


class TestBlock:
    def test_it_is_made_shown_and_ended(self, desk):
        ran = desk("user", "block", "alice", "--reason", "laptop stolen")
        assert (ran.code, ran.err) == (0, "")
        assert "alice is blocked until unblocked" in ran.out
        blocked = account(desk)["blocked"]
        assert {name: blocked[name] for name in ("until", "reason", "disabled")} == {
            "until": None, "reason": "laptop stolen", "disabled": False,
        }  # fmt: skip
        assert "blocked until unblocked" in desk("user", "list").out
        assert "laptop stolen" in desk("user", "show", "alice").out
        assert desk("remembered", "list", "--json").json == {"remembered": []}
        ran = desk("user", "unblock", "alice", "--reason", "found")
        assert "it was blocked by" in ran.out
        assert account(desk)["blocked"] is None
        assert desk("user", "unblock", "alice", "--reason", "found").code == 1

    def test_it_may_end_by_itself(self, desk):
        value = desk("user", "block", "alice", "--reason", "x", "--days", "7", "--json").json
        assert account(desk)["blocked"]["until"] == value["until"]
        later = desk("user", "block", "alice", "--reason", "x", "--until", "2100-01-31", "--json").json
        assert later["until"] == "2100-01-31T00:00:00Z"

    @pytest.mark.parametrize("first", [("block",), ("disable",)])
    def test_A48_one_that_is_not_shortened_is_told_as_it_is(self, desk, first):
        desk("user", *first, "alice", "--reason", "leave")
        ran = desk("user", "block", "alice", "--reason", "x", "--days", "1")
        assert ran.code == 0
        assert f"alice is blocked until {'enabled' if first == ('disable',) else 'unblocked'} (" in ran.out
        assert "leave. A block is never shortened" in ran.out
        assert desk("user", "block", "alice", "--reason", "x", "--days", "1", "--json").json["until"] is None

    @pytest.mark.parametrize(
        ("words", "why"),
        [
            ((), "--reason"),
            (("--reason", " "), "without a reason"),
            (("--reason", "x", "--days", "1", "--until", "2100-01-31"), "give one"),
            (("--reason", "x", "--until", "2000-01-31"), "is over"),
            (("--reason", "x", "--until", "tomorrow"), "--until"),
            (("--reason", "x", "--days", "0"), "--days"),
            (("--reason", "x", "--directory", "corp"), "has no directory corp"),
        ],
    )
    def test_what_makes_no_sense_ends_with_2(self, desk, words, why):
        ran = desk("user", "block", "alice", *words, "--json")
        assert (ran.code, ran.out) == (2, "")
        assert why in ran.errors[0]
        assert account(desk)["blocked"] is None

    def test_somebody_unknown_ends_with_1(self, desk):
        ran = desk("user", "block", "alic", "--reason", "x")
        assert ran.code == 1
        assert "did you mean" in ran.err

    def test_A48_a_disabled_account_is_enabled_only(self, desk):
        assert desk("user", "disable", "alice").code == 0
        assert "disabled until enabled" in desk("user", "list").out
        assert "blocked            until enabled" in desk("user", "show", "alice").out
        ran = desk("user", "unblock", "alice", "--reason", "x")
        assert ran.code == 1
        assert "user enable" in ran.err
        assert desk("user", "enable", "alice").code == 0
        assert account(desk)["blocked"] is None

    def test_A43_a_reason_can_not_move_the_cursor(self, desk):
        desk("user", "block", "alice", "--reason", "evil\x1b[2J\nfake")
        for words in (("user", "show", "alice"), ("user", "list"), ("audit",), ("user", "unblock", "alice", "--reason", "x")):
            ran = desk(*words)
            assert "\x1b" not in ran.out + ran.err
            assert "\nfake" not in ran.out


class TestBypass:
    def test_it_is_granted_shown_and_taken_back(self, desk):
        ran = desk("user", "bypass", "alice", "--reason", "phone forgotten", "--seconds", "60")
        assert "may log in once" in ran.out
        bypass = account(desk)["bypass"]
        assert (bypass["uses"], bypass["reason"]) == (1, "phone forgotten")
        assert "bypass until" in desk("user", "list").out
        assert "1 login until" in desk("user", "show", "alice").out
        assert desk("user", "bypass", "alice", "--reason", "x", "--revoke", "--json").json["expires"] is None
        assert account(desk)["bypass"] is None
        assert desk("user", "bypass", "alice", "--reason", "x", "--revoke").code == 1

    def test_what_makes_no_sense_ends_with_2(self, desk):
        assert desk("user", "bypass", "alice").code == 2
        assert desk("user", "bypass", "alice", "--reason", "x", "--seconds", "5", "--revoke").code == 2
        assert desk("user", "bypass", "alice", "--reason", "").code == 2

    def test_A33_none_for_who_is_blocked(self, desk):
        desk("user", "block", "alice", "--reason", "x")
        ran = desk("user", "bypass", "alice", "--reason", "x")
        assert (ran.code, "blocked" in ran.err) == (1, True)


class TestPhone:
    def test_it_is_set_and_forgotten(self, desk):
        assert desk("user", "set-phone", "alice", "+49 (30) 123-456", "--json").json["phone"] == "+4930123456"
        assert account(desk)["phone"] == "+4930123456"
        assert "+4930123456" in desk("user", "show", "alice").out
        assert desk("user", "set-phone", "alice", "--none").code == 0
        assert account(desk)["phone"] is None

    @pytest.mark.parametrize("words", [("030 123456",), (), ("+4930123456", "--none")])
    def test_what_is_no_number_ends_with_2(self, desk, words):
        assert desk("user", "set-phone", "alice", *words).code == 2


class TestRemembered:
    def test_they_are_listed_and_forgotten(self, desk):
        (row,) = desk("remembered", "list", "--json").json["remembered"]
        assert (row["application"], row["client"], row["uses"], row["factor"]) == ("vpn", "192.0.2.1", 3, "push")
        assert "reused (push)" in desk("remembered", "list", "alice").out
        assert desk("remembered", "forget", "alice", "--json").json == {"forgotten": 1}
        assert "No login counts" in desk("remembered", "list").out
        assert "none" in desk("remembered", "forget", "--all").out
        assert desk("remembered", "forget").code == 2
        assert desk("remembered", "list", "zoe").code == 1


class TestAppPassword:
    @pytest.fixture
    def with_app(self, desk):
        file = desk.directory / "ldapmfa.toml"
        text = file.read_text().replace('"recovery"]', '"recovery", "app-password"]')
        file.write_text(text.replace("[[listen]]", '[[listen]]\nname = "jenkins"'))
        return desk

    def test_it_is_shown_once_listed_and_revoked(self, with_app):
        made = with_app(
            "user", "app-password", "carol", "--application", "jenkins", "--network", "10.0.0.0/8", "--label", "ci", "--json"
        ).json
        assert made["code"].startswith("ap-")
        assert made["parameters"]["networks"] == ["10.0.0.0/8"]
        assert made["pending_until"]
        for words in (("factor", "list"), ("user", "show", "carol"), ("factor", "list", "--json"), ("audit",)):
            ran = with_app(*words)
            assert made["code"] not in ran.out
            assert ran.code == 0
        assert "at jenkins, from 10.0.0.0/8, expires 20" in with_app("factor", "list").out
        assert with_app("factor", "remove", made["id"][:8]).code == 0
        ran = with_app("user", "app-password", "carol", "--application", "jenkins")
        assert "It is not shown again" in ran.out

    @pytest.mark.parametrize(
        ("words", "why"),
        [
            ((), "--application"),
            (("--application", "vpn"), "only jenkins"),
            (("--application", "jenkins", "--network", "10.0.0.1/8"), "--network: "),
            (("--application", "jenkins", "--days", "0"), "--days"),
        ],
    )
    def test_what_makes_no_sense_ends_with_2(self, with_app, words, why):
        ran = with_app("user", "app-password", "carol", *words)
        assert (ran.code, why in ran.err) == (2, True), ran.err

    def test_where_no_application_asks_for_it_that_is_warned_of(self, with_app):
        file = with_app.directory / "ldapmfa.toml"
        file.write_text(file.read_text() + '[[application]]\nname = "ci"\nnetworks = ["10.0.0.0/8"]\nfactors = ["totp"]\n')
        assert with_app("user", "app-password", "carol", "--application", "jenkins").err == ""
        ran = with_app("user", "app-password", "carol", "--application", "ci")
        assert (ran.code, 'warning: the application ci has no "app-password"' in ran.err) == (0, True)

    def test_user_enrol_points_to_it(self, with_app):
        ran = with_app("user", "enrol", "carol", "--kind", "app-password")
        assert (ran.code, "`ldapmfa user app-password` makes one" in ran.err) == (2, True)

    def test_it_must_be_among_the_factors(self, desk):
        name = desk("check-config", "--json")
        assert name.code == 0
        file = desk.directory / "ldapmfa.toml"
        file.write_text(file.read_text().replace("[[listen]]", '[[listen]]\nname = "jenkins"'))
        ran = desk("user", "app-password", "carol", "--application", "jenkins")
        assert (ran.code, "login.factors" in ran.err) == (2, True)
