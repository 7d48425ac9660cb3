"""Groups before real directories: nested, primary, domain-local, by names; and those that can't be found out."""

from contextlib import contextmanager

import pytest
from system.played import bound, directory_of
from system.servers import people

from ldapmfa.core.identity import CannotIdentify, Identity, sid_text
from ldapmfa.wire import ldap


def group_of(server, name):
    return f"CN={people.escape_rdn(name)},OU=Groups,{server.base_dn}"


async def placed(server, name, *groups, **settings):
    """In which of these groups the account is that binds."""
    directory = directory_of(server, **settings)
    user = server.user(name)
    link, identity = await bound(directory, user.dn, user.password)
    try:
        first = await directory.groups(link, identity, groups)
        assert await directory.groups(link, identity, groups) == first, "what is kept says something else"
        return first
    finally:
        link.close()


@contextmanager
def added(server, name, *classes, **attributes):
    """A group that is there for the block."""
    dn = group_of(server, name)
    with server.admin() as admin:
        admin.add(dn, list(classes), attributes)
    try:
        yield dn
    finally:
        with server.admin() as admin:
            admin.delete(dn)


@pytest.mark.parametrize("with_service", [False, True], ids=["as itself", "as the service account"])
@pytest.mark.parametrize("server", ["samba", "slapd", "ds389"])
async def test_groups_within_groups(request, server, with_service):
    server = request.getfixturevalue(server)
    names = ("vpn-users", "all-remote", "mfa-required", "mfa-exempt", "Grp, with comma (x)", "loop-a")
    vpn, remote, required, exempt, comma, loop = groups = [group_of(server, name) for name in names]
    of = lambda name: placed(server, name, *groups, with_service=with_service)  # noqa: E731
    assert await of("alice") == {vpn, remote, required, comma}
    assert await of("carol") == {vpn, remote, required}
    assert await of("bob") == {required}
    assert await of("svc-proxy") == {exempt}
    assert await of("dave") == set()
    assert loop not in await of("alice")


@pytest.mark.parametrize("server", ["samba", "slapd", "ds389"])
async def test_a_groups_name_may_be_spelled_in_any_way(request, server):
    server = request.getfixturevalue(server)
    comma = [f"cn=Grp\\2c with comma (x) , ou=groups,{server.base_dn.upper()}"]
    if server.kind != "Samba":  # which knows no other separators, and no quotation marks: the login is broken there
        comma.append(f'CN="GRP, with comma (x)";OU=Groups;{server.base_dn}')
    for spelled in comma:
        assert await placed(server, "alice", spelled) == {spelled}
        assert await placed(server, "bob", spelled) == set()


@pytest.mark.parametrize("server", ["samba", "slapd", "ds389"])
async def test_a_group_that_is_not_there_or_is_none_breaks_the_login(request, server):
    server = request.getfixturevalue(server)
    for name in (group_of(server, "gone"), f"OU=Groups,{server.base_dn}", server.user("bob").dn, "cn=a,dc=elsewhere", "vpn-users", "S-1-5-21-1-2-3-4", ""):
        for with_service in (False, True):
            with pytest.raises(CannotIdentify, match="which a rule names"):
                await placed(server, "alice", name, with_service=with_service)


@pytest.mark.parametrize("server", ["samba", "slapd", "ds389"])
async def test_groups_follow_the_directory_after_they_were_forgotten(request, server):
    server = request.getfixturevalue(server)
    group, bob = group_of(server, "vpn-users"), server.user("bob")
    directory = directory_of(server, with_service=True)
    link, identity = await bound(directory, bob.dn, bob.password)
    assert await directory.groups(link, identity, (group,)) == set()
    with server.admin() as admin:
        admin.modify(group, {"member": [("MODIFY_ADD", [bob.dn])]})
    try:
        if server.kind != "Samba":
            assert await directory.groups(link, identity, (group,)) == set()
        directory.forget()
        again, identity = await bound(directory, bob.dn, bob.password)
        assert await directory.groups(again, identity, (group,)) == {group}
        again.close()
    finally:
        with server.admin() as admin:
            admin.modify(group, {"member": [("MODIFY_DELETE", [bob.dn])]})
        link.close()


# -- Active Directory


async def test_primary_builtin_domain_local_and_distribution_groups(samba):
    users = f"CN=Domain Users,CN=Users,{samba.base_dn}"
    admins = f"CN=Administrators,CN=Builtin,{samba.base_dn}"
    assert await placed(samba, "alice", users, admins, "S-1-5-32-545", "S-1-5-32-544") == {users, "S-1-5-32-545"}
    alice = samba.user("alice")
    with added(samba, "local", "group", sAMAccountName="local", groupType="-2147483644", member=[group_of(samba, "vpn-users")]) as local:
        assert await placed(samba, "alice", local) == {local}
        assert await placed(samba, "bob", local) == set()
    mail = added(samba, "mail", "group", sAMAccountName="mail", groupType="2", member=[alice.dn])
    with mail as name, pytest.raises(CannotIdentify, match="distribution group"):
        await placed(samba, "alice", name)


async def test_a_sid_as_it_is_written(samba):
    with samba.admin() as admin:
        admin.search(group_of(samba, "mfa-required"), "(objectClass=*)", "BASE", attributes=["objectSid"])
        sid = sid_text(admin.response[0]["raw_attributes"]["objectSid"][0])
    assert await placed(samba, "alice", sid) == {sid}
    assert await placed(samba, "dave", sid) == set()


async def test_the_service_account_sees_the_groups_that_a_token_tells(samba):
    groups = tuple(group_of(samba, name) for name in ("vpn-users", "mfa-required", "mfa-exempt"))
    directory = directory_of(samba, with_service=True)
    alice = samba.user("alice")
    link, identity = await bound(directory, alice.dn, alice.password)
    for name in (alice.dn, alice.upn, "EXAMPLE\\alice", "example.test\\ALICE"):
        found = await directory.resolve(name)
        assert (found.key, found.dn.lower()) == (identity.key, alice.dn.lower())
        assert set(found.sids) <= set(identity.sids)  # a token says of the network and the session, too
        assert await directory.groups(None, found, groups) == await directory.groups(link, identity, groups)
    for name in ("alice", "OTHER\\alice", "Alice Normal", sid_text(identity.sids[0]), "example.test/Staff/Alice Normal"):
        assert await directory.resolve(name) is None
    assert (await directory.find("alice")).key == identity.key
    link.close()


# -- OpenLDAP and 389


@pytest.mark.parametrize("server", ["slapd", "ds389"])
async def test_groups_with_unique_members_and_with_names(request, server):
    server = request.getfixturevalue(server)
    alice, bob = server.user("alice"), server.user("bob")
    with (
        added(server, "unique", "groupOfUniqueNames", uniqueMember=[alice.dn]) as unique,
        added(server, "posix", "posixGroup", gidNumber="5000", memberUid=["bob"]) as posix,
        added(server, "above", "groupOfNames", member=[unique, posix]) as above,
    ):
        assert await placed(server, "alice", unique, posix, above) == {unique, above}
        assert await placed(server, "bob", unique, posix, above) == {posix, above}
        assert await placed(server, "carol", unique, posix, above) == set()
    with added(server, "nobodys", "posixGroup", gidNumber="5001") as nobodys:
        assert await placed(server, bob.name, nobodys) == set()


async def test_A30_names_full_of_syntax_are_in_their_groups(slapd):
    group = group_of(slapd, "syntax")
    members = [slapd.user(name).dn for name in ("jdoe", "plus", "joerg", "tanaka")]
    with added(slapd, "syntax", "groupOfNames", member=members):
        for name in ("jdoe", "plus", "joerg", "tanaka"):
            assert await placed(slapd, name, group) == {group}, name
        assert await placed(slapd, "alice", group) == set()


async def test_members_that_are_hidden_are_not_missing(slapd_that_hides):
    """A membership that the account may not see is no proof that it has none."""
    server = slapd_that_hides
    vpn = group_of(server, "vpn-users")
    for name in ("alice", "bob"):
        with pytest.raises(CannotIdentify, match="does not show its members"):
            await placed(server, name, vpn)
    assert await placed(server, "alice", vpn, with_service=True) == {vpn}
    assert await placed(server, "bob", vpn, with_service=True) == set()


@pytest.fixture
def slapd_that_hides(tmp_path):
    from system.servers.slapd import ACCESS, Slapd

    service = "cn=svc-proxy,ou=Services,dc=example,dc=test"
    access = f'access to attrs=member by dn.exact="{service}" read by * none\n{ACCESS}'
    server = Slapd(tmp_path / "slapd-hides", entries=0, access=access)
    try:
        yield server.start()
    finally:
        server.stop()


async def test_a_search_that_is_cut_short_is_no_answer(tmp_path):
    from system.servers.slapd import Slapd

    server = Slapd(tmp_path / "slapd", entries=0, size_limit=2)
    try:
        server.start()
        alice = server.user("alice").dn
        with server.admin() as admin:
            for number in range(3):
                admin.add(group_of(server, f"more{number}"), ["groupOfNames"], {"member": [alice]})
        with pytest.raises(CannotIdentify, match="answered with 4"):
            await placed(server, "alice", group_of(server, "more0"))
    finally:
        server.stop()


async def test_accounts_that_are_no_entries_have_groups_by_their_dn(slapd):
    directory = directory_of(slapd)
    link, identity = await bound(directory, slapd.admin_dn, slapd.admin_password)
    assert isinstance(identity, Identity)
    vpn = group_of(slapd, "vpn-users")
    assert await directory.groups(link, identity, (vpn,)) == set()
    with added(slapd, "roots", "groupOfNames", member=[slapd.admin_dn]) as roots:
        directory.forget()
        assert await directory.groups(link, identity, (roots, vpn)) == {roots}
    link.close()


async def test_a_domain_controller_says_that_it_is_synchronised(samba):
    """As health checks ask it; the word is really in its rootDSE, and not only left out."""
    directory = directory_of(samba)
    (server,) = directory.settings.servers
    assert await directory._check(server) is True
    assert directory._capabilities[server].kind == "active-directory"
    link = await directory.connect()
    found = await directory._look_up(link, ldap.search_request(b"", ("isSynchronized",)))
    link.close()
    assert found.entries[0].text("isSynchronized") == ("TRUE",)
