"""The servers of the tests are what the tests take them for."""

from __future__ import annotations

import re
import subprocess

import ldap3
import pytest
from system.servers import people
from system.servers.common import Bind, require
from system.servers.slapd import REFERRAL

DIRECTORIES = ("samba", "slapd", "ds389")


@pytest.fixture(params=DIRECTORIES)
def directory(request):
    return request.getfixturevalue(request.param)


def search(directory, filter_, *attributes, base="", name="alice", **options):
    user = directory.user(name)
    with directory.bound(user.dn, user.password) as connection:
        connection.search(base or directory.base_dn, filter_, attributes=attributes or ["1.1"], **options)
        return connection.result, [e for e in connection.response if e["type"] == "searchResEntry"]


def ldapsearch(directory, *arguments):
    environment = {"PATH": "/usr/bin", "LDAPTLS_CACERT": str(directory.ca_file)}
    return subprocess.run(["ldapsearch", "-x", "-LLL", "-o", "ldif-wrap=no", *arguments],
                          capture_output=True, text=True, env=environment, check=False, timeout=60)


# -- every directory --------------------------------------------------------------------------------------------------


def test_everybody_in_a_normal_state_logs_in_by_dn(directory):
    for person in directory.members():
        if person.state in {"normal", "pwnever"} and person.name != "lockme":
            user = directory.user(person.name)
            assert directory.bind(user.dn, user.password)["description"] == "success", user


@pytest.mark.parametrize("how", ["plain", "starttls", "ldaps"])
def test_answers_ldapsearch(directory, how):
    user = directory.user("alice")
    uri = directory.tls_uri if how == "ldaps" else directory.uri
    done = ldapsearch(directory, *(["-ZZ"] if how == "starttls" else []), "-H", uri, "-D", user.dn, "-w", user.password,
                      "-b", directory.base_dn, "(sAMAccountName=alice)", "mobile")
    assert done.returncode == 0, done.stderr
    assert "mobile: +15550100001" in done.stdout


def test_lets_anybody_read_the_root_dse(directory):
    done = ldapsearch(directory, "-H", directory.uri, "-s", "base", "-b", "", "supportedLDAPVersion")
    assert (done.returncode, "supportedLDAPVersion: 3" in done.stdout) == (0, True), done.stderr


def test_pages_over_1500_entries(directory):
    pages, cookie = [], b""
    with directory.bound(directory.service_dn, directory.service_password) as connection:
        while cookie or not pages:
            connection.search(f"ou=Bulk,{directory.base_dn}", "(sAMAccountName=bulk*)", attributes=["sAMAccountName"],
                              paged_size=500, paged_cookie=cookie)
            pages.append({e["raw_attributes"]["sAMAccountName"][0] for e in connection.response})
            cookie = connection.result["controls"]["1.2.840.113556.1.4.319"]["value"]["cookie"]
    names = set().union(*pages)
    assert len(names) == people.BULK_USERS
    assert max(map(len, pages)) == 500


def test_knows_who_is_a_member(directory):
    _, [alice] = search(directory, "(sAMAccountName=alice)", "memberOf")
    groups = {dn.split(",")[0].removeprefix("CN=").removeprefix("cn=") for dn in alice["attributes"]["memberOf"]}
    assert "vpn-users" in groups
    # only 389 names the groups that are reached through others
    assert ("mfa-required" in groups) == (directory.kind == "389 Directory Server")


def test_holds_a_binary_attribute(directory):
    _, [alice] = search(directory, "(sAMAccountName=alice)", "jpegPhoto")
    assert alice["raw_attributes"]["jpegPhoto"] == [people.PHOTO]


def test_an_account_made_again_is_another_one(directory):
    def identity():
        _, [entry] = search(directory, "(sAMAccountName=phoenix)", attribute)
        return entry["raw_attributes"][attribute][0]

    attribute = {"Samba": "objectGUID", "OpenLDAP": "entryUUID"}.get(directory.kind, "nsUniqueId")
    first, before = directory.add_user("phoenix"), identity()
    directory.delete_user(first)
    second, after = directory.add_user("phoenix"), identity()
    directory.delete_user(second)
    assert first == second
    assert before != after


def test_locks_an_account_and_unlocks_it_again(directory):
    user = directory.user("lockme")
    for _ in range(directory.lockout_threshold):
        assert directory.bind(user.dn, "wrong")["result"] == 49
    assert directory.bind(user.dn, user.password)["result"] != 0
    directory.reset_lockout("lockme")
    assert directory.bind(user.dn, user.password)["result"] == 0


def test_a_new_account_and_a_new_password_are_ready_for_use(directory):
    def works(password):
        with directory.bound(user.dn, password) as connection:
            return connection.bound and connection.search(user.dn, "(objectClass=*)", attributes=["cn"])

    user = directory.add_user("changer")
    assert works(user.password)
    directory.set_password(user, "An0ther!Pass")
    assert works("An0ther!Pass")
    assert directory.bind(user.dn, user.password)["result"] == 49
    directory.delete_user(user)


@pytest.mark.filterwarnings("ignore:ssl.match_hostname:DeprecationWarning")  # ldap3's, with TLS on Python 3.11
def test_witnesses_every_bind(directory):
    user = directory.user("dave")
    with directory.binds_seen() as seen:
        directory.bind(user.dn, user.password)
        directory.bind(user.dn, "wrong")
        directory.bind(user.dn, user.password, tls=True)
    assert [(b.name.lower(), b.result) for b in seen] == [(user.dn.lower(), 0), (user.dn.lower(), 49), (user.dn.lower(), 0)]


def test_listens_on_loopback_only(directory):
    ports = {directory.port, directory.tls_port}
    listening = subprocess.run(["ss", "-Hltn"], capture_output=True, text=True, check=True).stdout
    ours = {address for address, port in re.findall(r"(\S+):(\d+) +\S+ *$", listening, re.MULTILINE) if int(port) in ports}
    assert all(address.startswith("127.") for address in ours)


def test_keeps_data_and_witness_over_a_restart(slapd10k):
    user = slapd10k.user("alice")
    with slapd10k.binds_seen() as seen:
        assert slapd10k.bind(user.dn, user.password)["result"] == 0
        slapd10k.restart()
        assert slapd10k.bind(user.dn, user.password)["result"] == 0
    assert len(seen) == 2


@pytest.mark.parametrize("variable", ["CI=true", "LDAPMFA_REQUIRE_ALL=1", ""])
def test_missing_software_is_named_and_not_passed_over_where_it_must_be_there(monkeypatch, variable):
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("LDAPMFA_REQUIRE_ALL", raising=False)
    if variable:
        monkeypatch.setenv(*variable.split("="))
    outcome = pytest.fail.Exception if variable else pytest.skip.Exception
    with pytest.raises(outcome, match="not installed: no-such-program; Debian packages: no-such-package"):
        require(("no-such-program", "no-such-package"), ("sh", "dash"), ("module:json", "python3"))


# -- Samba ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "data"), [
    ("disabled", "533"), ("pwexpired", "532"), ("mustchange", "773"), ("locked", "775"), ("acctexpired", "701"),
    ("nohours", "530"), ("otherws", "531"), ("smartcard", "52e"),
])
def test_samba_tells_why_an_account_may_not_log_in(samba, name, data):
    user = samba.user(name)
    for typed in (user.dn, user.upn, f"EXAMPLE\\{user.account}"):
        result = samba.bind(typed, user.password)
        assert result["result"] == 49
        assert f"AcceptSecurityContext error, data {data}, v1db1" in result["message"]


@pytest.mark.parametrize("name", ["disabled", "pwexpired", "nobody-of-that-name"])
def test_samba_says_only_52e_to_a_wrong_password(samba, name):
    assert "data 52e" in samba.bind(f"{name}@example.test", "wrong")["message"]


def test_samba_takes_many_spellings_of_a_name(samba):
    names = [
        "alice@example.test", "ALICE@EXAMPLE.TEST", "EXAMPLE\\alice", "alice@EXAMPLE", "robert.builder@example.test",
        "bob@example.test", "carol@corp.example", "erin@example.test", "zoe@example.test",
        "cn=alice normal,ou=staff,dc=example,dc=test", "paula@example.test",
    ]
    assert [name for name in names if samba.bind(name, people.PASSWORD)["result"]] == []
    assert samba.bind("jörg@example.test", people.UMLAUT_PASSWORD)["result"] == 0


def test_samba_nests_groups(samba):
    in_chain = "(&(sAMAccountName={})(memberOf:1.2.840.113556.1.4.1941:=CN=mfa-required,OU=Groups,DC=example,DC=test))"
    found = {name: len(search(samba, in_chain.format(name))[1]) for name in ("alice", "bob", "dave")}
    assert found == {"alice": 1, "bob": 1, "dave": 0}


def test_samba_names_the_bound_account_in_its_root_dse(samba):
    user = samba.user("alice")
    with samba.bound(user.dn, user.password) as connection:
        connection.search("", "(objectClass=*)", search_scope=ldap3.BASE, attributes=["tokenGroups"])
        tokens = connection.response[0]["raw_attributes"]["tokenGroups"]
    assert len(tokens) > 4
    _, [entry] = search(samba, "(sAMAccountName=alice)", "objectSid")
    assert entry["raw_attributes"]["objectSid"] == [tokens[0]]


def test_samba_serves_the_global_catalog(samba):
    done = ldapsearch(samba, "-H", samba.global_catalog_uri, "-D", samba.user("alice").upn, "-w", people.PASSWORD,
                      "-b", samba.base_dn, "(sAMAccountName=bob)", "cn")
    assert "cn: Bob Builder" in done.stdout


# -- OpenLDAP and 389 -------------------------------------------------------------------------------------------------


def test_slapd_states(slapd):
    names = ("mustchange", "pwexpired", "locked")
    results = {name: slapd.bind(slapd.user(name).dn, people.PASSWORD)["result"] for name in names}
    assert results == {"mustchange": 0, "pwexpired": 49, "locked": 49}


def test_slapd_lets_a_must_change_account_do_nothing_else(slapd):
    with slapd.bound(slapd.user("mustchange").dn, people.PASSWORD) as connection:
        connection.search(slapd.base_dn, "(cn=*)")
        assert connection.result["description"] == "insufficientAccessRights"


def test_389_states(ds389):
    names = ("mustchange", "pwexpired", "locked", "disabled")
    results = {name: ds389.bind(ds389.user(name).dn, people.PASSWORD)["result"] for name in names}
    assert results == {"mustchange": 0, "pwexpired": 49, "locked": 19, "disabled": 53}


@pytest.mark.parametrize("fixture", ["slapd", "ds389"])
def test_limits_an_unpaged_search(request, fixture):
    result, entries = search(request.getfixturevalue(fixture), "(uid=bulk*)")
    assert (result["description"], len(entries)) == ("sizeLimitExceeded", 1000)


@pytest.mark.parametrize("fixture", ["slapd", "ds389"])
def test_tells_who_is_bound(request, fixture):
    directory = request.getfixturevalue(fixture)
    user = directory.user("jdoe")
    with directory.bound(user.dn, user.password) as connection:
        answer = connection.extend.standard.who_am_i()
    # 389 puts a space after the colon
    assert answer.lower().replace(" ", "").startswith("dn:cn=doe")


def test_slapd_refers_elsewhere(slapd):
    user = slapd.user("alice")
    with slapd.bound(user.dn, user.password, auto_referrals=False) as connection:
        connection.search(f"ou=Referrals,{slapd.base_dn}", "(objectClass=*)")
        assert [e["uri"] for e in connection.response if e["type"] == "searchResRef"] == [[f"{REFERRAL}??sub"]]
        connection.search(f"ou=Elsewhere,ou=Referrals,{slapd.base_dn}", "(objectClass=*)", search_scope=ldap3.BASE)
        assert connection.result["description"] == "referral"


def test_slapd_sorts(slapd):
    user = slapd.user("svc-app")
    done = ldapsearch(slapd, "-H", slapd.uri, "-D", user.dn, "-w", user.password, "-E", "!sss=-uid:caseIgnoreOrderingMatch",
                      "-b", f"ou=Bulk,{slapd.base_dn}", "(uid=bulk000*)", "uid")
    assert re.findall(r"^uid: bulk(\d+)", done.stdout, re.MULTILINE) == [f"{n:04d}" for n in range(9, -1, -1)]


def test_slapd10k_streams_ten_thousand_entries(slapd10k):
    _, entries = search(slapd10k, "(uid=bulk*)")
    assert len(entries) == 10_000


def test_slapd_is_witnessed_with_the_name_in_its_own_spelling(slapd):
    with slapd.binds_seen() as seen:
        slapd.bind("CN=Svc, OU=SERVICES,dc=example,dc=test", people.SERVICE_PASSWORD)
    assert seen == [Bind("cn=Svc,ou=SERVICES,dc=example,dc=test", 0)]
