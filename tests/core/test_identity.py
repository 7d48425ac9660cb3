"""Who was bound, by what the directory says; and the account that somebody names."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from playbook import NONE, Procedure

from ldapmfa.core.identity import (
    AD_ATTRIBUTES,
    ROOT_DSE_ATTRIBUTES,
    Ask,
    CannotIdentify,
    Capabilities,
    Found,
    Identity,
    NoOneAccount,
    Unidentified,
    find_account,
    identify,
    is_taken_alike,
    read_capabilities,
    sid_octets,
    sid_text,
)
from ldapmfa.wire import ldap
from ldapmfa.wire.ldap import Entry, Result

FAST = settings(deadline=None, max_examples=150)
WHO_AM_I = "1.3.6.1.4.1.4203.1.11.3"
SID = bytes([1, 5, 0, 0, 0, 0, 0, 5]) + b"".join(part.to_bytes(4, "little") for part in (21, 1, 2, 3, 1104))
SID_TEXT = "S-1-5-21-1-2-3-1104"
GROUP = SID[:-4] + (513).to_bytes(4, "little")
GUID = bytes(range(16))
AD = Capabilities("active-directory", who_am_i=True, naming_contexts=("dc=example,dc=test",))
AD_MUTE = Capabilities("active-directory", who_am_i=False)
OPENLDAP = Capabilities("openldap", who_am_i=True)
DS = Capabilities("389-ds", who_am_i=True)
ANN = Entry(
    "CN=Ann,CN=Users,DC=example,DC=test",
    {
        "objectguid": (GUID,),
        "objectsid": (SID,),
        "samaccounttype": (b"805306368",),
        "samaccountname": (b"ann",),
        "userprincipalname": (b"ann@example.test",),
        "pwdlastset": (b"133",),
        "useraccountcontrol": (b"512",),
    },
)
ANN_FOUND = Identity("main", f"guid:{GUID.hex()}", ANN.dn, ("ann",), "ann@example.test")


def entry_with(entry, dn=None, **changes):
    attributes = {**entry.attributes, **{name.lower(): values for name, values in changes.items()}}
    return Entry(dn or entry.dn, {name: values for name, values in attributes.items() if values is not None})


def found(*entries, code=0):
    return Found(Result(code, b"", b""), entries)


def who(name, code=0):
    return Found(Result(code, b"", b"", value=name.encode()))


ROOT = found(Entry("", {"tokengroups": (SID, GROUP)}))
ASK_GROUPS = Ask(ldap.search_request(b"", ("tokenGroups",)))
ASK_WHO = Ask(ldap.extended_request(ldap.OID_WHO_AM_I))
LOOK_UP = ldap.search_request(f"<SID={SID_TEXT}>".encode(), AD_ATTRIBUTES)
ASK_ANN = Ask(LOOK_UP, of_itself=True)

# -- capabilities


def root(**attributes):
    return Entry("", {name.lower(): values for name, values in attributes.items()})


def test_directories_are_told_apart():
    assert read_capabilities(
        root(
            supportedCapabilities=(b"1.2.840.113556.1.4.1670", b"1.2.840.113556.1.4.800"),
            defaultNamingContext=(b"dc=example",),
            namingContexts=(b"dc=other",),
        )
    ) == Capabilities("active-directory", who_am_i=False, naming_contexts=("dc=example",))
    assert read_capabilities(
        root(objectClass=(b"top", b"OpenLDAProotDSE"), supportedExtension=(b"1.2", WHO_AM_I.encode()), namingContexts=(b"dc=x", b"dc=y"))
    ) == Capabilities("openldap", who_am_i=True, naming_contexts=("dc=x", "dc=y"))
    assert read_capabilities(
        root(vendorName=(b"389 Project",), supportedExtension=(WHO_AM_I.encode(),))
    ) == Capabilities("389-ds", who_am_i=True)
    assert {name.lower() for name in ROOT_DSE_ATTRIBUTES} >= {"supportedcapabilities", "objectclass", "vendorname"}


def test_a_kind_may_be_laid_down():
    assert read_capabilities(root(supportedExtension=(WHO_AM_I.encode(),)), "openldap") == OPENLDAP
    assert read_capabilities(root(), "active-directory") == AD_MUTE


@pytest.mark.parametrize(
    ("said", "override", "why"),
    [
        (root(), None, "vendorName: none"),
        (root(vendorName=(b"Somebody",)), None, "vendorName: Somebody"),
        (root(supportedCapabilities=(b"1.2.840.113556.1.4.8000",)), None, "neither"),
        (root(objectClass=(b"OpenLDAProotDSE",)), None, "does not offer Who am I"),
        (root(), "389-ds", "does not offer Who am I"),
    ],
)
def test_a_directory_that_tells_no_identity_is_refused(said, override, why):
    with pytest.raises(CannotIdentify, match=why):
        read_capabilities(said, override)


# -- Active Directory


def test_active_directory_tells_by_token_groups_and_who_am_i():
    assert (
        Procedure(identify(AD, "main"))
        << ASK_GROUPS
        >> ROOT
        << ASK_WHO
        >> who("u:EXAMPLE\\ann")
        << ASK_ANN
        >> found(ANN)
        << ANN_FOUND
    )


def test_samba_has_no_who_am_i():
    assert Procedure(identify(AD_MUTE, "main")) << ASK_GROUPS >> ROOT << ASK_ANN >> found(ANN) << ANN_FOUND


def looked_up(answer, said="u:EXAMPLE\\ann"):
    return Procedure(identify(AD, "main")) << ASK_GROUPS >> ROOT << ASK_WHO >> who(said) << ASK_ANN >> answer


@pytest.mark.parametrize("said", ["u:EXAMPLE\\Ann", "u:ann", f"u:{SID_TEXT}", "u:OTHER\\x\\ANN"])
def test_who_am_i_agrees(said):
    assert looked_up(found(ANN), said) << ANN_FOUND


@pytest.mark.parametrize("said", ["", "u:", "u:EXAMPLE\\bob", "ann", "dn:cn=ann", "u:EXAMPLE\\ann2", "u:S-1-5-21-1-2-3-1105", "u:ann\\"])
def test_who_am_i_contradicts(said):
    assert looked_up(found(ANN), said) << CannotIdentify


@pytest.mark.parametrize(
    "entry",
    [
        entry_with(ANN, objectSid=(GROUP,)),
        entry_with(ANN, objectSid=None),
        entry_with(ANN, objectSid=(SID, GROUP)),
        entry_with(ANN, objectGUID=(GUID[:15],)),
        entry_with(ANN, objectGUID=(GUID, GUID)),
        entry_with(ANN, objectGUID=()),
        entry_with(ANN, sAMAccountName=None),
        entry_with(ANN, sAMAccountName=(b"ann", b"bob")),
    ],
)
def test_an_entry_that_does_not_fit_identifies_nobody(entry):
    assert looked_up(found(entry)) << CannotIdentify


@pytest.mark.parametrize("kind", [(b"268435456",), (b"805306370",), (), (b"805306368", b"805306368"), (b"0x30000000",)])
def test_only_users_and_computers_log_in(kind):
    assert looked_up(found(entry_with(ANN, sAMAccountType=kind))) << Unidentified("not-a-user", f"{ANN.dn} has sAMAccountType {tuple(one.decode() for one in kind)}")


def test_computers_log_in():
    assert looked_up(found(entry_with(ANN, sAMAccountType=(b"805306369",)))) << ANN_FOUND


@pytest.mark.parametrize(
    ("flags", "must"),
    [((b"512",), True), ((b"66048",), False), ((b"65536",), False), (None, True), ((b"x",), True), (("\u0661".encode(),), True), ((b"-65536",), True), ((b"66048", b"512"), True)],
)
def test_an_account_that_must_change_its_password_is_refused(flags, must):
    entry = entry_with(ANN, pwdLastSet=(b"0",), userAccountControl=flags)
    assert looked_up(found(entry)) << (Unidentified("must-change-password", ANN.dn) if must else ANN_FOUND)


@pytest.mark.parametrize("upn", [None, (b"a@x", b"b@x")])
def test_an_account_may_have_no_one_upn(upn):
    assert looked_up(found(entry_with(ANN, userPrincipalName=upn))) << Identity("main", ANN_FOUND.id, ANN.dn, ("ann",))


@pytest.mark.parametrize(
    "answer",
    [None, found(), found(code=50), found(Entry("", {})), found(Entry("", {"tokengroups": ()})), found(ROOT.entries[0], ROOT.entries[0]), found(ROOT.entries[0], code=1)],
)
def test_without_token_groups_nobody_is_identified(answer):
    assert Procedure(identify(AD, "main")) << ASK_GROUPS >> (answer or found(code=52)) << CannotIdentify


@pytest.mark.parametrize("sid", [b"", b"\x01", SID[:-1], SID + b"\0", bytes(7)])
def test_a_sid_that_is_none_identifies_nobody(sid):
    said = found(Entry("", {"tokengroups": (sid,)}))
    assert Procedure(identify(AD_MUTE, "main")) << ASK_GROUPS >> said << CannotIdentify
    with pytest.raises(CannotIdentify):
        sid_text(sid)


def test_a_sid_is_written_as_microsoft_does():
    assert sid_text(SID) == SID_TEXT
    assert sid_text(bytes([1, 1, 0, 0, 0, 0, 0, 5, 7, 0, 0, 0])) == "S-1-5-7"
    assert sid_text(bytes([1, 0, 0, 0, 0, 0, 0, 1])) == "S-1-1"


@pytest.mark.parametrize("code", [2, 50, 53, 80])
def test_a_who_am_i_that_fails_identifies_nobody(code):
    assert Procedure(identify(AD, "main")) << ASK_GROUPS >> ROOT << ASK_WHO >> who("u:EXAMPLE\\ann", code) << CannotIdentify


def test_who_cannot_read_itself_is_looked_up_elsewhere():
    hidden = [found(), found(code=32), found(code=10), found(entry_with(ANN, objectGUID=None))]
    service, catalog = Ask(LOOK_UP, "service"), Ask(LOOK_UP, "catalog")
    for answer in hidden:
        assert Procedure(identify(AD_MUTE, "main")) << ASK_GROUPS >> ROOT << ASK_ANN >> answer << service >> found(ANN) << ANN_FOUND
        for other in (*hidden, NONE):
            play = Procedure(identify(AD_MUTE, "main")) << ASK_GROUPS >> ROOT << ASK_ANN >> answer << service
            assert play >> other << catalog >> found(ANN) << dataclasses.replace(ANN_FOUND, elsewhere=True)


def test_an_account_of_another_domain_is_refused():
    refusal = Unidentified("other-domain", f"{SID_TEXT} is not found here, nor in a global catalog")
    service, catalog = Ask(LOOK_UP, "service"), Ask(LOOK_UP, "catalog")
    assert Procedure(identify(AD_MUTE, "main")) << ASK_GROUPS >> ROOT << ASK_ANN >> found() << service >> NONE << catalog >> NONE << refusal


def test_two_entries_or_a_failure_beside_one_identify_nobody():
    assert looked_up(found(ANN, ANN)) << CannotIdentify
    assert looked_up(found(ANN, code=4)) << CannotIdentify


# -- OpenLDAP and 389

PERSON = Entry("uid=ann,ou=people,dc=x", {"entryuuid": (b"0E38-AB",), "nsuniqueid": (b"66446001-1DD2",), "uid": (b"ann",)})
PERSON_DN = b"uid=Ann, ou=people,dc=x"


def ask_person(unique, on="bound"):
    return Ask(ldap.search_request(PERSON_DN, (unique, "uid", "sAMAccountName", "userPrincipalName")), on)


def by_who_am_i(capabilities=OPENLDAP):
    return Procedure(identify(capabilities, "main")) << ASK_WHO


def named(capabilities=OPENLDAP, unique="entryUUID"):
    return by_who_am_i(capabilities) >> who(f"dn:{PERSON_DN.decode()}") << ask_person(unique)


def test_openldap_and_389_tell_by_who_am_i():
    assert named() >> found(PERSON) << Identity("main", "uuid:0e38-ab", PERSON.dn, ("ann",))
    assert named(DS, "nsUniqueId") >> found(PERSON) << Identity("main", "nsuniqueid:66446001-1dd2", PERSON.dn, ("ann",))


def test_account_names_are_those_the_entry_has():
    several = entry_with(PERSON, uid=(b"ann", b"svc"), userPrincipalName=(b"ann@x",))
    assert named() >> found(several) << Identity("main", "uuid:0e38-ab", PERSON.dn, ("ann", "svc"), "ann@x")
    windows = entry_with(PERSON, uid=None, sAMAccountName=(b"ann",), userPrincipalName=(b"a", b"b"))
    assert named() >> found(windows) << Identity("main", "uuid:0e38-ab", PERSON.dn, ("ann",))


@pytest.mark.parametrize("said", ["", "dn:", "dn: ", "u:ann", "uid=ann"])
def test_who_am_i_must_say_a_dn(said):
    assert by_who_am_i() >> who(said) << CannotIdentify


def test_a_restricted_account_must_change_its_password():
    for code in (50, 53):
        assert by_who_am_i() >> who("", code) << Unidentified("must-change-password", "the directory restricts the account to changing its password")
        assert named() >> found(code=code) << Unidentified("must-change-password", "the directory restricts the account to changing its password")


@pytest.mark.parametrize("code", [1, 2, 12, 51, 80])
def test_who_am_i_that_fails_is_broken(code):
    assert by_who_am_i() >> who("dn:uid=ann,dc=x", code) << CannotIdentify


def test_who_cannot_read_its_id_is_looked_up_by_the_service_account():
    service = ask_person("entryUUID", "service")
    hidden = entry_with(PERSON, entryUUID=None)
    identity = Identity("main", "uuid:0e38-ab", PERSON.dn, ("ann",))
    for answer in (found(), found(code=32), found(hidden)):
        assert named() >> answer << service >> found(PERSON) << identity
    assert named() >> found(hidden) << service >> NONE << CannotIdentify
    assert named() >> found(hidden) << service >> found(hidden) << CannotIdentify


def test_an_account_without_an_entry_is_called_by_its_dn():
    service = ask_person("entryUUID", "service")
    bare = Identity("main", "dn:uid=ann,ou=people,dc=x", PERSON_DN.decode())
    assert not bare.has_entry
    for answer, other in itertools.product((found(), found(code=32), found(code=10)), (NONE, found(), found(code=32))):
        assert named() >> answer << service >> other << bare


def test_an_account_without_an_entry_whose_name_is_no_dn_is_nobody():
    asking = by_who_am_i() >> who("dn:cn?ann") << Ask(ldap.search_request(b"cn?ann", ("entryUUID", "uid", "sAMAccountName", "userPrincipalName")))
    again = Ask(ldap.search_request(b"cn?ann", ("entryUUID", "uid", "sAMAccountName", "userPrincipalName")), on="service")
    assert asking >> found(code=32) << again >> NONE << CannotIdentify


def test_a_failure_is_no_proof_that_there_is_no_entry():
    service = ask_person("entryUUID", "service")
    for code in (1, 3, 51, 52, 80):
        assert named() >> found(code=code) << service >> NONE << CannotIdentify
        assert named() >> found() << service >> found(code=code) << CannotIdentify


@pytest.mark.parametrize(
    "answer",
    [
        found(entry_with(PERSON, dn="uid=bob,ou=people,dc=x")),
        found(entry_with(PERSON, dn="not a dn")),
        found(entry_with(PERSON, entryUUID=(b"1", b"2"))),
        found(entry_with(PERSON, entryUUID=())),
        found(PERSON, PERSON),
        found(PERSON, code=4),
    ],
)
def test_another_entry_identifies_nobody(answer):
    assert named() >> answer << CannotIdentify


def test_an_identity_is_keyed_by_directory_and_id():
    assert ANN_FOUND.key == f"main/guid:{GUID.hex()}"
    assert ANN_FOUND.has_entry
    assert Identity("a", "uuid:1", "cn=x").key != Identity("b", "uuid:1", "cn=x").key


# -- whatever the directory says

ANSWERS = [
    None,
    ROOT,
    found(),
    found(ANN),
    found(PERSON),
    found(entry_with(PERSON, dn=PERSON_DN.decode())),
    found(ANN, PERSON),
    found(code=32),
    found(code=50),
    found(code=52),
    found(ANN, code=4),
    found(Entry("", {})),
    who("u:EXAMPLE\\ann"),
    who(f"dn:{PERSON_DN.decode()}"),
    who("dn:cn=root"),
    who("\x00"),
]


@FAST
@given(st.sampled_from([AD, AD_MUTE, OPENLDAP, DS]), st.lists(st.sampled_from(ANSWERS), min_size=6, max_size=6))
def test_whatever_the_answers_the_end_is_an_identity_a_no_or_cannot_identify(capabilities, answers):
    asking = identify(capabilities, "main")
    asked = [next(asking)]
    try:
        for answer in answers:
            if answer is None and asked[-1].on == "bound":
                answer = found(code=52)  # noqa: PLW2901 - the bound link is always there
            asked.append(asking.send(answer))
        pytest.fail("more questions than any directory needs")
    except StopIteration as end:
        identity = end.value
    except CannotIdentify:
        return
    if isinstance(identity, Identity):
        assert identity.id in (f"guid:{GUID.hex()}", "uuid:0e38-ab", "nsuniqueid:66446001-1dd2", "dn:cn=root", "dn:uid=ann,ou=people,dc=x")
    else:
        assert isinstance(identity, Unidentified)


# -- the account that somebody names


def sought(capabilities, name, where, attributes):
    asked = ldap.search_request(b"dc=x", attributes, scope=2, where=where, most=10)
    return Procedure(find_account(capabilities, "main", name, "dc=x")) << Ask(asked, "service")


ADMINS = bytes([1, 2, 0, 0, 0, 0, 0, 5, 32, 0, 0, 0, 32, 2, 0, 0])
ASK_ITS_GROUPS = Ask(ldap.search_request(ANN.dn.encode(), ("tokenGroups",)), "service")
GROUPS = found(Entry(ANN.dn, {"tokengroups": (GROUP, ADMINS)}))
PERSON_ATTRIBUTES = ("entryUUID", "uid", "sAMAccountName", "userPrincipalName")


def test_an_account_is_found_in_active_directory():
    by_name = ldap.any_of(ldap.equals("sAMAccountName", b"ann"))
    by_upn = ldap.any_of(ldap.equals("userPrincipalName", b"ann@example.test"))
    contact = entry_with(ANN, sAMAccountType=None)
    assert sought(AD, "ann", by_name, AD_ATTRIBUTES) >> found(ANN) << ASK_ITS_GROUPS >> GROUPS << ANN_FOUND
    assert sought(AD, "ann", by_name, AD_ATTRIBUTES) >> found(contact, ANN) << ASK_ITS_GROUPS >> GROUPS << ANN_FOUND
    assert sought(AD, "ann@example.test", by_upn, AD_ATTRIBUTES) >> found(ANN) << ASK_ITS_GROUPS >> GROUPS << ANN_FOUND
    asked = Ask(ldap.search_request(b"cn=ann,dc=x", AD_ATTRIBUTES, scope=0, most=10), "service")
    play = Procedure(find_account(AD, "main", "cn=ann,dc=x", "dc=x")) << asked >> found(ANN)
    assert play << ASK_ITS_GROUPS >> GROUPS << ANN_FOUND


@pytest.mark.parametrize(
    ("answer", "sids"),
    [(found(Entry(ANN.dn, {"tokengroups": (GROUP, ADMINS)})), (GROUP, ADMINS)), (found(), ()), (found(Entry(ANN.dn, {})), ()), (None, ()), (found(code=50), ())],
)
def test_an_account_that_is_found_has_its_groups_and_flags(answer, sids):
    """As far as the service account is shown them."""
    asking = find_account(AD, "main", ANN.dn, "dc=x")
    next(asking)
    assert asking.send(found(entry_with(ANN, userAccountControl=(b"66048",)))) == ASK_ITS_GROUPS
    with pytest.raises(StopIteration) as end:
        asking.send(answer)
    assert end.value.value.sids == sids
    assert end.value.value.flags == {"password-never-expires"}


@pytest.mark.parametrize(("shown", "hides"), [((b"512",), False), (None, True), ((b"x",), True), ((b"512", b"512"), True)])
def test_whether_all_of_an_accounts_flags_are_known(shown, hides):
    entry = entry_with(ANN, userAccountControl=shown)
    asking = identify(AD_MUTE, "main")
    assert next(asking) == ASK_GROUPS
    asking.send(ROOT)
    with pytest.raises(StopIteration) as end:
        asking.send(found(entry))
    assert end.value.value.hides_flags is hides


ROOT_NAMES = Ask(ldap.search_request(b"", ("defaultNamingContext", "configurationNamingContext")), "service")
NAMES_OF_ROOT = found(Entry("", {"defaultnamingcontext": (b"dc=x",), "configurationnamingcontext": (b"cn=c,dc=x",)}))
ASK_DOMAIN = Ask(
    ldap.search_request(b"CN=Partitions,cn=c,dc=x", ("nETBIOSName", "dnsRoot"), scope=2, where=ldap.equals("nCName", b"dc=x"), most=2),
    "service",
)
DOMAIN = Entry("CN=X,CN=Partitions,cn=c,dc=x", {"netbiosname": (b"EXAMPLE",), "dnsroot": (b"example.test",)})


def with_domain(name):
    return Procedure(find_account(AD, "main", name, "dc=x")) << ROOT_NAMES >> NAMES_OF_ROOT << ASK_DOMAIN >> found(DOMAIN)


@pytest.mark.parametrize("domain", ["EXAMPLE", "example", "example.test", "Example.TEST"])
def test_an_account_is_found_behind_its_domain(domain):
    asked = ldap.search_request(b"dc=x", AD_ATTRIBUTES, scope=2, where=ldap.any_of(ldap.equals("sAMAccountName", b"ann")), most=10)
    assert with_domain(f"{domain}\\ann") << Ask(asked, "service") >> found(ANN) << ASK_ITS_GROUPS >> GROUPS << ANN_FOUND


@pytest.mark.parametrize("name", ["OTHER\\ann", "\\ann", "EXAMPL\\ann", "*\\ann", "EXAMPLE.TES\\ann"])
def test_another_domain_has_no_account_here(name):
    assert with_domain(name) << NoOneAccount(())


def test_a_domain_that_does_not_say_what_it_is_called_is_broken():
    play = lambda: Procedure(find_account(AD, "main", "EXAMPLE\\ann", "dc=x")) << ROOT_NAMES  # noqa: E731
    for answer in (NONE, found(), found(Entry("", {})), found(Entry("", {"defaultnamingcontext": (b"dc=x",)}))):
        assert play() >> answer << CannotIdentify
    for answer in (NONE, found(), found(code=32), found(DOMAIN, DOMAIN)):
        assert play() >> NAMES_OF_ROOT << ASK_DOMAIN >> answer << CannotIdentify


def test_where_a_name_has_both_signs_it_is_a_upn():
    """As Active Directory tries it first: [MS-ADTS] 5.1.1.1.1."""
    name = "EXAMPLE\\ann@x"
    assert sought(AD, name, ldap.any_of(ldap.equals("userPrincipalName", name.encode())), AD_ATTRIBUTES) >> found() << NoOneAccount(())


def test_a_bind_takes_some_names_alike():
    assert [name for name in NAMES if is_taken_alike(AD, name)] == ["cn=ann,dc=x", "ann@example.test", "EXAMPLE\\ann"]
    assert [name for name in NAMES if is_taken_alike(OPENLDAP, name)] == ["cn=ann,dc=x"]


NAMES = ["cn=ann,dc=x", "ann@example.test", "EXAMPLE\\ann", "ann", SID_TEXT, f"<SID={SID_TEXT}>", "example.test/Users/Ann", "{0123}", "EXAMPLE\\ann@x", ""]


# -- SIDs as text


@pytest.mark.parametrize("text", ["S-1-5-7", "S-1-1", "S-1-5-32-544", SID_TEXT, "S-1-281474976710655-4294967295", "S-1-0-0" + "-1" * 14])
def test_a_sid_is_read_as_it_is_written(text):
    assert sid_text(sid_octets(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "S", "S-1", "S-1-", "s-1-5-7", "S-2-5-7", "S-1-5-", "S-1-5-07", "S-1-05-7", "S-1-5--7", "S-1-5-7-", " S-1-5-7", "S-1-5-7\n", "S-1-5-4294967296", "S-1-281474976710656-1", "S-1-5-0x20", "S-1-5-٣", "S-1-0" + "-1" * 16, "cn=x"],
)
def test_a_text_that_is_no_sid_is_none(text):
    with pytest.raises(ValueError, match="is no SID"):
        sid_octets(text)


@FAST
@given(st.integers(0, (1 << 48) - 1), st.lists(st.integers(0, (1 << 32) - 1), max_size=15))
def test_sids_and_their_texts_are_the_same(authority, parts):
    octets = bytes([1, len(parts)]) + authority.to_bytes(6, "big") + b"".join(part.to_bytes(4, "little") for part in parts)
    assert sid_octets(sid_text(octets)) == octets


def test_an_account_is_found_elsewhere():
    by_name = ldap.any_of(ldap.equals("sAMAccountName", b"ann"), ldap.equals("uid", b"ann"))
    by_upn = ldap.any_of(ldap.equals("userPrincipalName", b"ann@x"))
    identity = Identity("main", "uuid:0e38-ab", PERSON.dn, ("ann",))
    assert sought(OPENLDAP, "ann", by_name, PERSON_ATTRIBUTES) >> found(PERSON) << identity
    assert sought(OPENLDAP, "ann@x", by_upn, PERSON_ATTRIBUTES) >> found(PERSON) << identity
    windows = entry_with(PERSON, uid=None, sAMAccountName=(b"ann",), userPrincipalName=(b"ann@x",))
    assert sought(OPENLDAP, "ann", by_name, PERSON_ATTRIBUTES) >> found(windows) << Identity("main", "uuid:0e38-ab", PERSON.dn, ("ann",), "ann@x")


def test_what_is_no_dn_is_a_name():
    for name in ("a=", "=", "<SID=S-1-5>", "cn"):
        value = name.encode()
        where = ldap.any_of(ldap.equals("sAMAccountName", value), ldap.equals("uid", value))
        expected = Identity("main", "uuid:0e38-ab", PERSON.dn, ("ann",))
        if name == "a=":
            asked = Ask(ldap.search_request(value, PERSON_ATTRIBUTES, scope=0, most=10), "service")
            assert Procedure(find_account(OPENLDAP, "main", name, "dc=x")) << asked >> found(PERSON) << expected
        else:
            assert sought(OPENLDAP, name, where, PERSON_ATTRIBUTES) >> found(PERSON) << expected


BY_NAME = ldap.any_of(ldap.equals("sAMAccountName", b"ann"), ldap.equals("uid", b"ann"))


def test_none_or_several_are_no_account():
    twin = entry_with(PERSON, dn="uid=ann,ou=other,dc=x")
    play = lambda: sought(OPENLDAP, "ann", BY_NAME, PERSON_ATTRIBUTES)  # noqa: E731
    assert play() >> found() << NoOneAccount(())
    assert play() >> found(code=32) << NoOneAccount(())
    assert play() >> found(PERSON, twin) << NoOneAccount((PERSON.dn, twin.dn))
    assert play() >> found(PERSON, twin, code=4) << NoOneAccount((PERSON.dn, twin.dn))
    assert play() >> found(PERSON, code=4) << NoOneAccount((PERSON.dn,))


def test_a_search_that_fails_is_broken():
    for answer in (NONE, found(code=50), found(PERSON, code=51), found(entry_with(PERSON, entryUUID=None)), found(entry_with(PERSON, entryUUID=(b"1", b"2")))):
        assert sought(OPENLDAP, "ann", BY_NAME, PERSON_ATTRIBUTES) >> answer << CannotIdentify
