"""Who is in a group, through others too."""

import pytest

from ldapmfa.core import members
from ldapmfa.core.identity import Ask, CannotIdentify, Capabilities, Found
from ldapmfa.core.members import Members, find_members
from ldapmfa.wire import ldap
from ldapmfa.wire.ldap import Entry, Result

AD = Capabilities("active-directory", who_am_i=True)
OPENLDAP = Capabilities("openldap", who_am_i=True)
STAFF = "cn=staff,dc=x"


def found(*entries, code=0):
    return Found(Result(code, b"", b""), entries)


def play(answers, capabilities=OPENLDAP, group=STAFF, phone=None):
    """The members, as a directory with these answers has them, by the entry that is asked for; and what was asked."""
    asking, asked = find_members(capabilities, "main", group, "dc=x", phone), []
    try:
        ask = next(asking)
        while True:
            assert ask.on == "service"
            asked.append(ask)
            ask = asking.send(answers(ask))
    except StopIteration as stop:
        return stop.value, asked


def tree(**entries):
    """A directory that answers a base search for each of `entries`, called by their cn."""

    def answer(ask):
        names = [name for name in entries if f"cn={name},dc=x".encode() in ask.operation.lower()]
        if not names:
            return found(code=ldap.NO_SUCH_OBJECT)
        attributes = entries[names[0]]
        return found(Entry(f"cn={names[0]},dc=x", {key: tuple(values) for key, values in attributes.items()}))

    return answer


def person(name, **more):
    return {"entryuuid": [name.encode()], "uid": [name.encode()], **more}


class TestByReading:
    def test_members_of_groups_in_groups_come_once_whatever_circle_there_is(self):
        answers = tree(
            staff={"member": [b"cn=ann,dc=x", b"CN=Dev,dc=x"], "uniquemember": [b"cn=bob,dc=x"]},
            dev={"member": [b"CN=BOB, dc=X", b"cn=carol,dc=x", b"cn=staff,dc=x"]},
            ann=person("ann"), bob=person("bob"), carol=person("carol"),
        )  # fmt: skip
        answer, asked = play(answers)
        assert [account.accounts for account in answer.accounts] == [("ann",), ("bob",), ("carol",)]
        assert answer.accounts[0].key == "main/uuid:ann"
        assert answer.unread == ()
        assert len(asked) == 5

    def test_what_can_not_be_read_is_said_and_loses_nobody_else(self):
        answers = tree(
            staff={"member": [b"cn=gone,dc=x", b"no DN at all", b"cn=box,dc=x", b"cn=ann,dc=x"]},
            box={"cn": [b"box"]}, ann=person("ann"),
        )  # fmt: skip
        answer, _asked = play(answers)
        assert [account.accounts for account in answer.accounts] == [("ann",)]
        assert answer.unread == ("cn=gone,dc=x", "no DN at all", "cn=box,dc=x")

    def test_an_empty_group_has_no_members(self):
        assert play(tree(staff={"cn": [b"staff"]}))[0] == Members(())

    def test_a_number_is_shown_where_it_is_asked_for(self):
        answers = tree(staff={"member": [b"cn=ann,dc=x"]}, ann=person("ann", mobile=[b"+4930123456"]))
        assert play(answers, phone="mobile")[0].accounts[0].phone == "+4930123456"
        assert play(answers)[0].accounts[0].phone is None

    def test_more_than_is_read_is_an_error_and_no_shorter_list(self, monkeypatch):
        monkeypatch.setattr(members, "MOST", 2)
        answers = tree(staff={"member": [b"cn=ann,dc=x", b"cn=bob,dc=x"]}, ann=person("ann"), bob=person("bob"))
        with pytest.raises(CannotIdentify, match="more than 2"):
            play(answers)


@pytest.mark.parametrize("capabilities", [AD, OPENLDAP])
@pytest.mark.parametrize("answer", [None, found(), found(code=32)])
def test_no_such_group_is_an_error(capabilities, answer):
    with pytest.raises(CannotIdentify, match="is not found at the directory"):
        play(lambda _ask: answer, capabilities)


class TestByChain:
    def answers(self, *entries, code=0):
        replies = [found(Entry(STAFF, {})), found(*entries, code=code)]
        return lambda _ask: replies.pop(0)

    def user(self, name, kind=b"805306368", guid=b"x" * 16):
        return Entry(
            f"cn={name},dc=x",
            {"objectguid": (guid,) if guid else (), "samaccounttype": (kind,), "samaccountname": (name.encode(),)},
        )

    def test_one_search_finds_users_and_leaves_groups_out(self):
        group = self.user("dev", kind=b"268435456")
        answer, asked = play(self.answers(self.user("ann"), group, self.user("box", guid=b"")), AD)
        assert [account.accounts for account in answer.accounts] == [("ann",)]
        assert answer.accounts[0].id == "guid:" + "78" * 16
        assert answer.unread == ("cn=box,dc=x",)
        where = ldap.matches_rule("memberOf", "1.2.840.113556.1.4.1941", STAFF.encode())
        assert where in asked[1].operation
        assert asked[0] == Ask(ldap.search_request(STAFF.encode(), ("objectClass",)), on="service")

    def test_a_directory_that_shows_only_some_is_an_error_and_no_shorter_list(self):
        with pytest.raises(CannotIdentify, match="name smaller groups"):
            play(self.answers(self.user("ann"), code=ldap.SIZE_LIMIT_EXCEEDED), AD)

    @pytest.mark.parametrize("code", [1, 50])
    def test_a_search_that_fails_is_an_error(self, code):
        with pytest.raises(CannotIdentify, match=f"answered with {code}"):
            play(self.answers(code=code), AD)

    def test_a_service_account_that_is_none_is_an_error(self):
        replies = [found(Entry(STAFF, {})), None]
        with pytest.raises(CannotIdentify, match="answered with None"):
            play(lambda _ask: replies.pop(0), AD)
