"""Entries that are kept for seconds: Active Directory's only, only under the SID that the directory named in this login."""

from dataclasses import replace

import pytest
from world import ALICE, BASE, BOB, PASSWORD, SERVICE, World, bind, directory_settings, entry, result

from ldapmfa.core.secret import Secret
from ldapmfa.net import directory
from ldapmfa.net.link import Server
from ldapmfa.wire import ldap

CAROL = f"cn=carol,{BASE}"


def sid(number):
    return bytes.fromhex("010500000000000515000000" + "11" * 4 + "22" * 4 + "33" * 4) + number.to_bytes(4, "little")


class DomainController:
    """Answers as a domain controller: `accounts` by name, whom a bind makes one, and what their entries show."""

    def __init__(self, house, *, who_am_i=False):
        self.house = house
        self.who_am_i = who_am_i
        self.sids = {ALICE: sid(1001), BOB: sid(1002), CAROL: sid(1003), SERVICE: sid(1004)}
        self.changes = {}
        self.shown_to = None  # None: everybody sees everybody
        self.passwords = dict.fromkeys(self.sids, PASSWORD)
        self.asked = []  # the entries that were read: whose, and by whom
        house.directory.misbehave = self

    def __call__(self, link, frame):
        if frame.tag not in ldap.RESPONSE_TO:
            return None
        done = result(frame.id, frame.tag)
        if frame.tag == ldap.BIND_REQUEST:
            asked = ldap.read_bind(frame)
            if not asked.name:
                return None
            name = asked.name.decode()
            right = self.passwords.get(name) == asked.password.decode()
            link.bound = name if right else None
            return [result(frame.id, frame.tag, 0 if right else 49)]
        if frame.tag == ldap.EXTENDED_REQUEST:
            return [result(frame.id, frame.tag, value=f"u:EXAMPLE\\{self.name_of(link.bound)}".encode())]
        if b"supportedCapabilities" in frame.raw:
            extensions = [ldap.OID_WHO_AM_I] if self.who_am_i else [b"1.2.3"]
            return [entry(frame.id, "", supportedCapabilities=[b"1.2.840.113556.1.4.800"], supportedExtension=extensions), done]
        if b"tokenGroups" in frame.raw:
            return [entry(frame.id, "", tokenGroups=[self.sids[link.bound], sid(513)]), done]
        if b"<SID=" not in frame.raw:
            return None
        whose = next(name for name, its in self.sids.items() if f"<SID=S-1-5-21-{text(its)}>".encode() in frame.raw)
        self.asked.append((whose, link.bound))
        if self.shown_to and link.bound not in self.shown_to:
            return [result(frame.id, frame.tag, 32)]
        return [self.entry_of(frame.id, whose), done]

    def name_of(self, name):
        return self.changes.get(name, {}).get("sAMAccountName", [name.split(",")[0].removeprefix("cn=").encode()])[0].decode()

    def entry_of(self, message_id, name):
        shown = {
            "objectGUID": [self.sids[name][-4:] * 4],
            "objectSid": [self.sids[name]],
            "sAMAccountType": [b"805306368"],
            "sAMAccountName": [self.name_of(name).encode()],
            "pwdLastSet": [b"133000000000000000"],
            **self.changes.get(name, {}),
        }
        return entry(message_id, shown.pop("dn", name), **shown)


def text(octets):
    return "-".join(str(int.from_bytes(octets[pos : pos + 4], "little")) for pos in range(12, 28, 4))


def guid(number):
    return f"default/guid:{(number.to_bytes(4, 'little') * 4).hex()}"


@pytest.fixture(params=[0, 8], ids=["links used once", "links recycled"])
def house(request, tmp_path):
    return World(tmp_path, settings=directory_settings(spare_links=request.param))


@pytest.fixture
def controller(house):
    return DomainController(house)


async def whose(house, name, password=PASSWORD, code=49):
    """As whom a login is recorded: without a code it is refused, behind the identification."""
    client = house.client(port=47_000)
    assert await client.log_in(name, password) == code
    client.leave()
    await house.over()
    return house.events[-1].account


async def test_an_entry_is_read_once_in_thirty_seconds(house, controller):
    await house.open()
    for _ in range(3):
        assert await whose(house, ALICE) == guid(1001)
    assert controller.asked == [(ALICE, ALICE)]
    house.clock.advance(29)  # and no login in between makes it last longer
    assert await whose(house, ALICE) == guid(1001)
    assert len(controller.asked) == 1
    house.clock.advance(1)
    assert await whose(house, ALICE) == guid(1001)
    assert len(controller.asked) == 2


async def test_A31_each_accounts_entry_is_its_own(house, controller):
    await house.open()
    for _ in range(3):
        for name, number in ((ALICE, 1001), (BOB, 1002), (CAROL, 1003)):
            assert await whose(house, name) == guid(number)
    assert controller.asked == [(ALICE, ALICE), (BOB, BOB), (CAROL, CAROL)]


async def test_A31_what_was_typed_is_no_key(house, controller):
    """The same name, and the directory binds another account by it: that account's entry is the one that counts."""
    await house.open()
    assert await whose(house, ALICE) == guid(1001)
    controller.sids[ALICE] = sid(2001)
    assert await whose(house, ALICE) == guid(2001)
    controller.sids[ALICE], controller.sids[BOB] = sid(1002), sid(1001)
    controller.changes = {BOB: {"dn": ALICE}, ALICE: {"dn": BOB}}
    assert await whose(house, ALICE) == guid(1002)
    assert await whose(house, BOB) == guid(1001)


async def test_A32_a_recreated_account_has_another_sid_and_so_another_entry(house, controller):
    await house.open()
    assert await whose(house, ALICE) == guid(1001)
    controller.sids[ALICE] = sid(9999)
    assert await whose(house, ALICE) == guid(9999)


async def test_the_password_is_asked_for_all_the_same(house, controller):
    """A34: nothing kept says anything of a password."""
    await house.open()
    assert await whose(house, ALICE) == guid(1001)
    before = len(house.directory.binds())
    assert await whose(house, ALICE, "wrong") is None
    assert house.events[-1].reason == "password"
    controller.passwords[ALICE] = "new"
    assert await whose(house, ALICE) is None
    assert await whose(house, ALICE, "new") == guid(1001)
    assert len(house.directory.binds()) == before + 3
    assert len(controller.asked) == 1


@pytest.mark.parametrize(
    ("shown", "reason"),
    [
        ({"pwdLastSet": [b"0"]}, "must-change-password"),
        ({"sAMAccountType": [b"268435456"]}, "not-a-user"),
        ({"objectSid": [sid(1002)]}, "no-identity"),
        ({"objectSid": []}, "no-identity"),
        ({"objectGUID": [b"x" * 15]}, "no-identity"),
        ({"sAMAccountName": [b"a", b"b"]}, "no-identity"),
    ],
)
async def test_A35_an_entry_that_identifies_nobody_is_not_kept(house, controller, shown, reason):
    await house.open()
    controller.changes = {ALICE: shown}
    for times in (1, 2):
        client = house.client()
        assert await client.log_in(ALICE, PASSWORD) in (49, 52)
        assert house.events[-1].reason == reason
        assert len(controller.asked) == times
    controller.changes = {}
    assert await whose(house, ALICE) == guid(1001)
    assert len(controller.asked) == 3


async def test_who_am_i_must_agree_with_what_was_kept(house):
    controller = DomainController(house, who_am_i=True)
    await house.open()
    assert await whose(house, ALICE) == guid(1001)
    house.directory.misbehave = lambda link, frame: (
        [result(frame.id, frame.tag, value=b"u:EXAMPLE\\bob")] if frame.tag == ldap.EXTENDED_REQUEST else controller(link, frame)
    )
    assert await house.client().log_in(ALICE, PASSWORD) == 52
    assert house.events[-1].reason == "no-identity"


async def test_tokengroups_are_read_in_every_login(house, controller):
    await house.open()
    for times in (1, 2, 3):
        await whose(house, ALICE)
        assert sum(b"tokenGroups" in frame.raw for frame in house.directory.seen) == times


async def test_one_directory_keeps_nothing_for_another(house, controller):
    """Two forests may give the same SID to two accounts: one built from the other's image, or by an attacker."""
    await house.open()
    assert await whose(house, ALICE) == guid(1001)
    other = type(house.directory)(replace(house.settings, name="other", identity_name="other"), house.clock)
    house.directory = other
    elsewhere = DomainController(house)
    elsewhere.changes = {ALICE: {"objectGUID": [b"y" * 16]}}
    house.with_(directory=other)
    assert await whose(house, ALICE) == f"other/guid:{(b'y' * 16).hex()}"
    assert elsewhere.asked == [(ALICE, ALICE)]


async def test_what_is_kept_is_bounded(house, controller, monkeypatch):
    monkeypatch.setattr(directory, "_KEPT", 2)
    await house.open()
    for name in (ALICE, BOB, CAROL, CAROL, ALICE):
        await whose(house, name)
    assert [name for name, _ in controller.asked] == [ALICE, BOB, CAROL, ALICE]
    assert len(house.directory._kept) == 2


async def test_what_is_kept_holds_no_secret(house, controller):
    await house.open()
    assert await whose(house, ALICE, PASSWORD) == guid(1001)
    assert PASSWORD not in repr(house.directory._kept)
    assert all(key.count(b"<SID=") == 1 and b"alice" not in key for key in house.directory._kept)


async def test_other_directories_are_asked_every_time(house):
    await house.open()
    for times in (1, 2, 3):
        assert await house.client().log_in(ALICE, PASSWORD) == 49
        reads = [frame for frame in house.directory.seen if frame.tag == ldap.SEARCH_REQUEST and ALICE.encode() in frame.raw]
        assert len(reads) == times
    assert not house.directory._kept


@pytest.mark.parametrize("on", ["service", "catalog"])
async def test_what_was_found_elsewhere_is_not_kept(house, controller, on):
    """Not what the service account or the catalog shows: the account must show it of itself."""
    await house.open()
    controller.shown_to = {SERVICE}
    changes = {"service_dn": SERVICE, "service_password": Secret(PASSWORD.encode())}
    if on == "catalog":
        changes["global_catalog"] = Server("gc.test", 3268, ldaps=False)
    house.directory.settings = replace(house.directory.settings, **changes)
    for _ in range(2):
        assert await whose(house, ALICE) == guid(1001)
    assert controller.asked.count((ALICE, SERVICE)) == 2
    assert not any(found.entries for found, _ in house.directory._kept.values())


async def test_that_an_account_does_not_show_itself_is_not_kept(house, controller):
    await house.open()
    controller.shown_to = {SERVICE}
    changes = {"service_dn": SERVICE, "service_password": Secret(PASSWORD.encode())}
    house.directory.settings = replace(house.directory.settings, **changes)
    assert await whose(house, ALICE) == guid(1001)
    assert not house.directory._kept


async def test_A02_a_login_that_is_refused_for_its_code_changes_nothing_for_the_next(house, controller):
    """What is kept is the account's own entry, whoever typed the code."""
    await house.open()
    client = house.client()
    client.send(bind(1, ALICE, PASSWORD + "000000"))
    assert await client.refused() == 49
    assert house.events[-1].account == guid(1001)
    assert await whose(house, BOB) == guid(1002)
    assert await whose(house, ALICE) == guid(1001)
