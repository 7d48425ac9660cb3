"""Groups in logins: who is asked, what is kept and for how long, and that what can't be found out lets nobody in."""

import asyncio
from dataclasses import replace

import pytest
from net.test_kept_entries import DomainController, sid
from world import ALICE, BASE, BOB, PASSWORD, SERVICE, World, directory_settings, entry, result

from ldapmfa import audit
from ldapmfa.core.identity import CannotIdentify, Identity, NoOneAccount, sid_text
from ldapmfa.core.policy import Policy
from ldapmfa.core.rules import Rule
from ldapmfa.core.secret import Secret
from ldapmfa.errors import DirectoryDown, StoreDown
from ldapmfa.net import directory as rooms
from ldapmfa.net.keeping import Kept
from ldapmfa.wire import ber, ldap

STAFF, ALL, EMPTY = f"cn=staff,ou=groups,{BASE}", f"cn=all,ou=groups,{BASE}", f"cn=empty,ou=groups,{BASE}"
AS_SERVICE = {"service_dn": SERVICE, "service_password": Secret(PASSWORD.encode())}


def refusing(*groups):
    return Policy(rules=(Rule("not-these", "refuse", groups=groups),))


class Grouped:
    """OpenLDAP with groups: `members` by group; `asked` are the searches for groups, and by whom."""

    def __init__(self, house):
        self.house = house
        self.members = {STAFF: [ALICE], ALL: [STAFF], EMPTY: [BOB]}
        self.asked = []
        self.holds = False
        house.directory.misbehave = self

    def __call__(self, link, frame):
        if frame.tag != ldap.SEARCH_REQUEST or (b"ou=groups" not in frame.raw and b"memberUid" not in frame.raw and b"1.1" not in frame.raw):
            return None
        base, scope = (frame.raw[start:stop] for _, start, stop in ber.children(frame.raw, frame.start, frame.stop)[:2])
        self.asked.append((base.decode(), link.bound))
        if scope == b"\x00":
            found = [base.decode()] if base.decode() in self.members else []
        else:
            found = [group for group, members in self.members.items() if any(f"\x04{chr(len(name))}{name}".encode() in frame.raw for name in members)]
        code = 0 if found or scope != b"\x00" else 32
        return [*(entry(frame.id, name, objectClass=[b"groupOfNames"]) for name in found), result(frame.id, frame.tag, code)]


@pytest.fixture
def house(tmp_path):
    return World(tmp_path, settings=directory_settings(base_dn=BASE))


@pytest.fixture
def groups(house):
    return Grouped(house)


def settings(house, **changes):
    house.directory.settings = replace(house.directory.settings, **changes)


async def log_in(house, name=ALICE):
    """The reason with which a login that shows everything ends."""
    client = house.client()
    await client.log_in(name)
    client.leave()
    await house.over()
    return house.events[-1].reason


async def test_a_rule_is_for_whom_the_directory_says_is_in_its_group_through_others_too(house, groups):
    await house.open()
    for named, reason in ((STAFF, "rule"), (ALL, "rule"), (EMPTY, "code")):
        house.with_(policy=refusing(named))
        assert await log_in(house) == reason
    assert {by for _, by in groups.asked} == {ALICE}
    assert house.links_open == 0


async def test_logins_without_a_rule_of_groups_ask_nothing_of_groups(house, groups):
    await house.open()
    house.directory.groups = house.store.caches_cleared = None  # neither is called
    assert await log_in(house) == "code"
    assert groups.asked == []


async def test_the_service_account_looks_where_there_is_one(house, groups):
    await house.open()
    settings(house, **AS_SERVICE)
    house.with_(policy=refusing(ALL))
    assert await log_in(house) == "rule"
    assert {by for _, by in groups.asked} == {SERVICE}
    assert house.links_open == 0


async def test_a_group_that_is_not_there_breaks_the_login_and_is_named_in_the_record(house, groups):
    await house.open()
    house.with_(policy=refusing(f"cn=gone,ou=groups,{BASE}"))
    client = house.client()
    assert await client.log_in() == 52
    assert house.events[-1].reason == "no-identity"
    assert "cn=gone,ou=groups" in house.events[-1].detail
    assert house.links_open == 0


async def test_a_directory_that_does_not_say_breaks_the_login(house, groups):
    await house.open()
    house.with_(policy=refusing(ALL))
    house.directory.misbehave = lambda link, frame: (
        [result(frame.id, frame.tag, 51)] if b"memberUid" in frame.raw else groups(link, frame)
    )
    assert await house.client().log_in() == 52
    assert house.events[-1].reason == "no-identity"
    settings(house, service_dn=SERVICE, service_password=Secret(b"wrong"))
    assert await house.client().log_in() == 52
    assert house.events[-1].reason == "directory-down"


# -- what is kept


async def test_groups_count_for_a_minute_from_when_they_were_asked_for(house, groups):
    await house.open()
    house.with_(policy=refusing(ALL))
    assert await log_in(house) == "rule"
    before = len(groups.asked)
    groups.members = {ALL: [STAFF], STAFF: [BOB]}
    house.clock.advance(59)
    assert await log_in(house) == "rule"
    assert len(groups.asked) == before
    house.clock.advance(1)
    assert await log_in(house) == "code"
    groups.members[STAFF].append(ALICE)
    assert await log_in(house) == "code"
    house.clock.advance(60)
    assert await log_in(house) == "rule"


async def test_what_took_long_to_find_out_counts_no_longer(house, groups):
    """The minute begins when it was asked, for that is when it was true."""
    await house.open()
    house.with_(policy=refusing(ALL))
    house.directory.holds = lambda link, frame: b"memberUid" in frame.raw
    client = house.client()
    logging_in = asyncio.ensure_future(client.log_in())
    await house.until(lambda: house.directory.held)
    house.clock.advance(9)
    house.directory.release()
    assert await logging_in == 49
    house.clock.advance(50)  # a refusal takes its part of a second
    before = len(groups.asked)
    assert await log_in(house) == "rule"
    assert len(groups.asked) == before
    house.clock.advance(1)
    assert await log_in(house) == "rule"
    assert len(groups.asked) > before


async def test_with_no_seconds_nothing_is_kept(house, groups):
    await house.open()
    settings(house, group_seconds=0.0)
    house.with_(policy=refusing(ALL))
    for times in (1, 2, 3):
        assert await log_in(house) == "rule"
        assert len(groups.asked) == 3 * times
    assert not house.directory._marks
    assert not house.directory._memberships


async def test_that_a_group_is_not_there_is_not_kept(house, groups):
    await house.open()
    house.with_(policy=refusing(f"cn=gone,ou=groups,{BASE}"))
    assert await log_in(house) == "no-identity"
    groups.members[f"cn=gone,ou=groups,{BASE}"] = [BOB]
    assert await log_in(house) == "code"


async def test_each_accounts_groups_are_its_own(house, groups):
    await house.open()
    house.with_(policy=refusing(ALL))
    for _ in range(2):
        assert await log_in(house, ALICE) == "rule"
        assert await log_in(house, BOB) == "code"


async def test_A32_a_recreated_account_has_none_of_the_old_ones_groups(house, groups):
    await house.open()
    house.with_(policy=refusing(ALL))
    assert await log_in(house) == "rule"
    groups.members = {ALL: [STAFF], STAFF: [BOB]}
    house.directory.uuids[ALICE] = "11111111-2222-3333-4444-555555555555"
    assert await log_in(house) == "not-enrolled"


async def test_what_is_kept_is_bounded(house, groups, monkeypatch):
    monkeypatch.setattr(rooms, "_KEPT", 1)
    await house.open()
    house.with_(policy=refusing(ALL, EMPTY))
    for name in (ALICE, BOB):
        assert await log_in(house, name) == "rule"
    assert len(house.directory._marks) == len(house.directory._memberships) == 1


def test_the_oldest_goes_first():
    kept = Kept()
    for number in range(5):
        kept.keep(number, str(number), 10.0, 3)
    kept.keep(3, "three", 20.0, 3)
    assert list(kept) == [2, 4, 3]
    assert [kept.recall(number, 9.9) for number in range(5)] == [None, None, "2", "three", "4"]
    assert [kept.recall(number, 10.0) for number in range(5)] == [None, None, None, "three", None]


# -- clearing


def cleared(house):
    return audit.AccountChanged(at=house.now, action="caches-cleared", account="*", actor="test")


async def test_what_is_cleared_by_another_process_counts_no_more(house, groups):
    await house.open()
    house.with_(policy=refusing(ALL))
    other = await house.worker()
    for _ in range(2):
        assert await log_in(house) == "rule"
        groups.members[STAFF] = [BOB]
        assert await log_in(house) == "rule"
        await other.store.clear_caches(cleared(house))
        assert await log_in(house) == "code"
        groups.members[STAFF] = [ALICE]
        await other.store.clear_caches(cleared(house))
    assert await log_in(house) == "rule"


async def test_what_was_asked_before_the_clearing_is_not_kept_after_it(house, groups):
    await house.open()
    house.with_(policy=refusing(ALL))
    house.directory.holds = lambda link, frame: b"memberUid" in frame.raw
    logging_in = asyncio.ensure_future(house.client().log_in())
    await house.until(lambda: house.directory.held)
    house.directory.forget()
    house.directory.release()
    assert await logging_in == 49
    assert not house.directory._marks
    assert not house.directory._memberships


async def test_a_clearing_empties_every_cache_once(house):
    controller = DomainController(house)
    await house.open()
    house.with_(policy=refusing(sid_text(sid(513))))
    for _ in range(3):  # what was kept before the first look at the number may be older than a clearing
        assert await log_in(house) == "rule"
    assert len(controller.asked) == 2
    house.directory.forget_before(0)
    assert house.directory._kept, "forgotten though nobody has cleared anything since"
    assert house.directory._marks
    house.directory.forget_before(1)
    assert not (house.directory._kept)
    assert not (house.directory._marks)
    assert not (house.directory._memberships)
    assert await log_in(house) == "rule"
    assert len(controller.asked) == 3


async def test_a_store_that_does_not_say_breaks_the_login(house, groups):
    async def down():
        raise StoreDown("the store failed")

    await house.open()
    house.with_(policy=refusing(ALL))
    house.store.caches_cleared = down
    assert await house.client().log_in() == 52
    assert house.events[-1].reason == "store-down"


# -- Active Directory


async def test_a_token_is_as_fresh_as_the_bind(house):
    controller = DomainController(house)
    await house.open()
    house.with_(policy=refusing(sid_text(sid(513))))
    assert await log_in(house) == "rule"
    house.directory.misbehave = lambda link, frame: (
        [entry(frame.id, "", tokenGroups=[controller.sids[ALICE], sid(600)]), result(frame.id, frame.tag)]
        if b"tokenGroups" in frame.raw
        else [entry(frame.id, "cn=g", objectSid=[sid(513)], groupType=[b"-2147483646"]), result(frame.id, frame.tag)]
        if b"groupType" in frame.raw
        else controller(link, frame)
    )
    assert await log_in(house) == "not-enrolled"


async def test_a_dn_is_turned_into_its_sid_once_in_a_minute(house):
    controller = DomainController(house)
    asked = []

    def answers(link, frame):
        if b"groupType" not in frame.raw:
            return controller(link, frame)
        asked.append(link.bound)
        if house.directory.settings.service_dn and link.bound != SERVICE:
            return [result(frame.id, frame.tag, 32)]
        return [entry(frame.id, STAFF, objectSid=[sid(513)], groupType=[b"-2147483646"]), result(frame.id, frame.tag)]

    house.directory.misbehave = answers
    await house.open()
    house.with_(policy=refusing(STAFF))
    for name in (ALICE, BOB, ALICE):
        assert await log_in(house, name) == "rule"
    assert asked == [ALICE]
    house.clock.advance(60)
    settings(house, **AS_SERVICE)
    assert await log_in(house) == "rule"
    assert asked == [ALICE, ALICE, SERVICE]
    assert house.links_open == 0


# -- the account that is called a name


async def asked(house, work):
    asking = asyncio.ensure_future(work)
    await house.until(asking.done)
    return await asking


def shown(link, frame):
    """A domain controller whose service account finds alice by whatever name."""
    if frame.tag != ldap.SEARCH_REQUEST:
        return None
    done = result(frame.id, frame.tag)
    if b"supportedCapabilities" in frame.raw:
        return [entry(frame.id, "", supportedCapabilities=[b"1.2.840.113556.1.4.800"], defaultNamingContext=[BASE.encode()]), done]
    if b"tokenGroups" in frame.raw:
        return [entry(frame.id, ALICE, tokenGroups=[sid(513)]), done]
    if b"configurationNamingContext" in frame.raw:
        return [entry(frame.id, "", defaultNamingContext=[BASE.encode()], configurationNamingContext=[b"cn=c"]), done]
    if b"nETBIOSName" in frame.raw:
        return [entry(frame.id, "cn=x", nETBIOSName=[b"EXAMPLE"]), done]
    if b"groupType" in frame.raw:
        return [entry(frame.id, STAFF, objectSid=[sid(513)], groupType=[b"-2147483646"]), done]
    of_alice = {"objectGUID": [b"a" * 16], "objectSid": [sid(1001)], "sAMAccountType": [b"805306368"], "sAMAccountName": [b"alice"]}
    return [entry(frame.id, ALICE, **of_alice), done]


async def test_the_one_account_of_a_name_is_found_with_its_groups(house):
    await house.open()
    house.directory.misbehave = shown
    for name in (ALICE, "alice@example.test", "EXAMPLE\\alice"):
        assert await asked(house, house.directory.resolve(name)) is None
    settings(house, **AS_SERVICE)
    for name in (ALICE, "alice@example.test", "EXAMPLE\\alice"):
        found = await asked(house, house.directory.resolve(name))
        assert (found.key, found.dn, found.sids) == (f"default/guid:{b'a'.hex() * 16}", ALICE, (sid(513),))
    assert (await asked(house, house.directory.groups(None, found, (STAFF,)))) == {STAFF}
    for name in ("alice", "S-1-5-21-1", "{0123}", "example.test/alice", "<SID=S-1-5-21-1>", "OTHER\\alice"):
        assert await asked(house, house.directory.resolve(name)) is None
    assert (await asked(house, house.directory.find("alice"))).dn == ALICE
    assert await asked(house, house.directory.find("OTHER\\alice")) == NoOneAccount(())
    assert house.links_open == 0


async def test_what_can_not_be_found_out_is_raised(house):
    await house.open()
    settings(house, **AS_SERVICE, base_dn=None)
    with pytest.raises(CannotIdentify, match="base_dn"):
        await asked(house, house.directory.find(ALICE))
    house.directory.misbehave = lambda link, frame: [result(frame.id, frame.tag, 51)] if frame.tag == ldap.SEARCH_REQUEST else None
    house.directory._capabilities.clear()
    nobody = Identity("default", "uuid:1", ALICE)
    for work in (house.directory.resolve(ALICE), house.directory.groups(None, nobody, (STAFF,))):
        with pytest.raises(CannotIdentify):
            await asked(house, work)
    house.directory.down = True
    for work in (house.directory.resolve(ALICE), house.directory.groups(None, nobody, (STAFF,))):
        with pytest.raises(DirectoryDown):
            await asked(house, work)
    settings(house, service_dn=None)
    with pytest.raises(DirectoryDown, match="no service account"):
        await asked(house, house.directory.groups(None, nobody, (STAFF,)))
    assert house.links_open == 0


async def test_who_must_change_the_password_is_told_so_where_rules_look_at_groups(house):
    """Nobody is bound then: the service account says who it is, and in which groups."""
    said = "80090308: LdapErr: DSID-0C09, comment: AcceptSecurityContext error, data 773, v1db1"
    await house.open()
    settings(house, **AS_SERVICE)
    house.directory.misbehave = lambda link, frame: (
        [result(frame.id, frame.tag, 49, said)]
        if frame.tag == ldap.BIND_REQUEST and ldap.read_bind(frame).name == ALICE.encode()
        else shown(link, frame)
    )
    rule = Rule("staff", "factors", groups=(STAFF,))
    house.with_(policy=Policy(tells=True, rules=(rule,)))
    client = house.client()
    assert await client.log_in(ALICE) == 49
    assert house.events[-1].reason == "not-enrolled"
    house.with_(policy=Policy(tells=True, rules=(replace(rule, action="refuse"),)))
    client = house.client()
    assert await client.log_in(ALICE) == 49
    assert house.events[-1].reason == "must-change-password"
