"""Many accounts at once, before a real directory: a group is enrolled, numbers are taken over."""

from __future__ import annotations

import csv
import html
import re
import stat
from contextlib import closing

import ldap3
import pytest
from cli.program import code_of
from system.test_cli import ldapmfa, port, verbatim, with_service_account  # noqa: F401 - fixtures


@pytest.fixture
def group(slapd):
    """Two users and a group of one more in it, who is in the first too; and a member that is gone."""
    users = [slapd.add_user(f"many{number}") for number in range(3)]
    inner, outer = (f"cn={name},{slapd.base_dn}" for name in ("many-inner", "many-outer"))
    with closing_admin(slapd) as admin:
        assert admin.add(inner, "groupOfNames", {"member": [users[2].dn, users[0].dn]})
        gone = f"cn=gone,{slapd.base_dn}"
        assert admin.add(outer, "groupOfNames", {"member": [users[0].dn, users[1].dn, inner, gone]})
        for user, number in zip(users, ("+49 30 123456", "030 777777", "none"), strict=True):
            assert admin.modify(user.dn, {"mobile": [(ldap3.MODIFY_REPLACE, [number])]}), admin.result
    yield outer, users
    with closing_admin(slapd) as admin:
        for dn in (inner, outer):
            admin.delete(dn)
    for user in users:
        slapd.delete_user(user)


def closing_admin(slapd):
    server = ldap3.Server(slapd.host, slapd.port)
    admin = ldap3.Connection(server, slapd.admin_dn, slapd.admin_password, auto_bind=True)
    return _Closing(admin)


class _Closing(closing):
    def __exit__(self, *error):
        self.thing.unbind()


def index(program):
    with (program.directory / "pages/index.csv").open() as file:
        return list(csv.DictReader(file))


class TestEnrolAGroup:
    def test_everybody_gets_a_page_once(self, with_service_account, group):  # noqa: F811
        dn, users = group
        words = ("user", "enrol", "--group", dn, "--out", "pages")
        ran = with_service_account.child(*words, "--json")
        assert ran.code == 3, "one member is gone, and said to be"
        assert {name: ran.json[name] for name in ("enrolled", "skipped", "failed")} == {
            "enrolled": 3, "skipped": 0, "failed": 1,
        }  # fmt: skip
        assert "3/3" in ran.err
        pages = with_service_account.directory / "pages"
        assert stat.S_IMODE(pages.stat().st_mode) == 0o700
        assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in pages.iterdir())
        text = (pages / "index.csv").read_text()
        assert not re.search("otpauth|secret=", text + ran.out + ran.err)
        (row,) = [row for row in index(with_service_account) if row["dn"] == users[0].dn]
        page = (pages / row["file"]).read_text()
        assert "<svg" in page
        assert not re.search(r"""(src|href)=|url\(|@import|<script""", page)
        uri = html.unescape(re.search(r"otpauth://[^<]+", page)[0])
        login = with_service_account.test(users[0].dn, users[0].password, code_of(uri))
        assert login.json["outcome"] == "accepted"
        again = with_service_account.child(*words, "--json").json
        assert (again["enrolled"], again["skipped"], again["failed"]) == (0, 3, 1)
        (row,) = [row for row in index(with_service_account) if row["dn"] == users[0].dn]
        assert row["file"], "the page that is there is still listed"

    def test_a_page_that_can_not_be_written_leaves_no_factor(self, with_service_account, group):  # noqa: F811
        dn, users = group
        pages = with_service_account.directory / "pages"
        words = ("user", "enrol", "--group", dn, "--out", "pages", "--json")
        first = with_service_account.child(*words).json
        for member in users:
            assert with_service_account("user", "unenrol", member.dn).code == 0
        # what lies there is not overwritten: here somebody's link
        victim = with_service_account.directory / "victim"
        victim.write_text("mine")
        file = pages / next(row["file"] for row in first["members"] if row["dn"] == users[0].dn)
        for page in pages.glob("*.html"):
            page.unlink()
        file.symlink_to(victim)
        ran = with_service_account.child(*words).json
        assert (ran["enrolled"], ran["failed"]) == (2, 2)
        assert victim.read_text() == "mine"
        shown = with_service_account("user", "show", users[0].dn, "--json").json
        assert shown["factors"] == []

    def test_a_directory_that_others_can_read_is_refused(self, with_service_account, group):  # noqa: F811
        (with_service_account.directory / "pages").mkdir(mode=0o755)
        ran = with_service_account.child("user", "enrol", "--group", group[0], "--out", "pages", "--json")
        assert (ran.code, "chmod 700" in ran.errors[0]) == (2, True)

    def test_no_such_group(self, with_service_account, slapd):  # noqa: F811
        ran = with_service_account.child("user", "enrol", "--group", f"cn=nobody,{slapd.base_dn}", "--out", "p", "--json")
        assert (ran.code, "cn=nobody" in ran.errors[0]) == (3, True)


class TestImportPhones:
    def test_what_would_be_done_is_shown_and_done_on_demand(self, with_service_account, group):  # noqa: F811
        dn, users = group
        words = ("user", "import-phones", "--group", dn, "--json")
        rows = {row["account"]: row for row in with_service_account.child(*words).json["phones"]}
        assert [rows[user.dn]["new"] for user in users] == ["+4930123456", None, None]
        assert [rows[user.dn]["outcome"] for user in users][:1] == ["new"]
        assert with_service_account("user", "list", "--json").json["accounts"] == []
        rows = with_service_account.child(*words, "--country-code", "49", "--apply").json["phones"]
        assert {row["new"] for row in rows} == {"+4930123456", "+4930777777", None}
        kept = {row["dn"]: row["phone"] for row in with_service_account("user", "list", "--json").json["accounts"]}
        assert kept == {users[0].dn: "+4930123456", users[1].dn: "+4930777777"}
        known = with_service_account.child("user", "import-phones", "--country-code", "49", "--json").json["phones"]
        assert {row["outcome"] for row in known} == {"as it is"}
        assert "0 would be taken over" in with_service_account.child("user", "import-phones", "--country-code", "49").out


class TestWithoutServiceAccount:
    def test_it_is_said_to_be_needed(self, verbatim):  # noqa: F811
        for words in (("enrol", "--group", "cn=x", "--out", "p"), ("import-phones",)):
            ran = verbatim("user", *words, "--json")
            assert (ran.code, "directory.service_account" in ran.errors[0]) == (2, True)

    def test_what_goes_together(self, verbatim):  # noqa: F811
        for words in ((), ("alice", "--group", "cn=x"), ("--group", "cn=x"), ("alice", "--out", "p")):
            assert verbatim("user", "enrol", *words).code == 2
        assert verbatim("user", "import-phones", "--country-code", "049").code == 2


class TestTheDesk:
    def test_one_never_seen_is_found_at_the_directory_and_blocked(self, with_service_account, group):  # noqa: F811
        user = group[1][0]
        ran = with_service_account.child("user", "block", user.dn, "--reason", "stolen", "--json")
        assert ran.code == 0, ran.err
        assert with_service_account("user", "show", user.dn, "--json").json["account"]["blocked"]["reason"] == "stolen"
        login = with_service_account.test(user.dn, user.password, "123456")
        assert login.json["reason"] == "blocked", login.json
        assert with_service_account("user", "unblock", user.dn, "--reason", "found").code == 0
        assert with_service_account.child("user", "bypass", user.dn, "--reason", "new phone").code == 0
        login = with_service_account.test(user.dn, user.password)
        assert (login.json["outcome"], login.json["reason"]) == ("accepted", "bypass"), login.json
        assert with_service_account.test(user.dn, user.password).json["outcome"] == "refused", "once"
