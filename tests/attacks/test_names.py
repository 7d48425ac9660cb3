"""Attacks on names and identities, by the numbers of facts/attacks.md: the part that is decided without a directory."""

from __future__ import annotations

import dataclasses
import itertools
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ldaptor.protocols import pureber, pureldap
from playbook import NONE, Procedure, unthrottled

from ldapmfa.core.identity import (
    Ask,
    CannotIdentify,
    Capabilities,
    Found,
    Identity,
    NoOneAccount,
    find_account,
    identify,
)
from ldapmfa.core.policy import Choice, Exempt, Policy, ServiceRule
from ldapmfa.core.questions import (
    Admit,
    Answered,
    Attempt,
    Identify,
    LookUp,
    PasswordAnswer,
    Refused,
    Reuse,
    Standing,
    StartPrompt,
    VerifyPassword,
)
from ldapmfa.core.secret import CodeForm, Secret
from ldapmfa.wire import dn, ldap
from ldapmfa.wire.ldap import Entry, Result

FAST = settings(deadline=None, max_examples=100)

# -- A28

SPELLINGS = [
    [
        "cn=Doe\\, Jane,ou=People,dc=example,dc=test",
        "CN=doe\\, jane,OU=people,DC=EXAMPLE,DC=Test",
        "cn=Doe\\2C Jane,ou=People,dc=example,dc=test",
        "cn=Doe\\2c Jane,ou=People,dc=example,dc=test",
        'cn="Doe, Jane",ou=People,dc=example,dc=test',
        'cn = "Doe, Jane" , ou = People ; dc=example;dc=test',
        "2.5.4.3=Doe\\, Jane,2.5.4.11=People,0.9.2342.19200300.100.1.25=example,dc=test",
        "OID.2.5.4.3=Doe\\, Jane,oid.2.5.4.11=People,dc=example,dc=test",
        "commonName=Doe\\, Jane,organizationalUnitName=People,domainComponent=example,dc=test",
        "cn=Doe\\,  Jane,ou=People,dc=example,dc=test",
        "cn=\\20Doe\\, Jane\\20,ou=People,dc=example,dc=test",
        "cn=#0C09446F652C204A616E65,ou=People,dc=example,dc=test",
        "cn=\\44\\6f\\65\\2c\\20\\4a\\61\\6e\\65,ou=#040650656F706C65,dc=example,dc=test",
        "cn=Doe\\,\u00a0Jane,ou=People,dc=example,dc=test",
        "cn=Doe\\, \u00adJane,ou=People,dc=example,dc=test",
    ],
    ["cn=Doe\\, Jane,ou=People,dc=example", "cn=Doe\\2C Jane;ou=People;dc=example"],
    ["cn=Doe,cn=Jane,ou=People,dc=example,dc=test", 'CN=Doe,CN="Jane",ou=People,dc=example,dc=test'],
    ["cn=Doe\\, Jane.,ou=People,dc=example,dc=test", "cn=Doe\\2c Jane\\2e,ou=People,dc=example,dc=test"],
    ["cn=Doe\\, Jane\\,ou=People,dc=example,dc=test"],
    ["cn=Doe\\,Jane,ou=People,dc=example,dc=test"],
    ["cn=Doe\\, Jane,ou=People2,dc=example,dc=test"],
    ["cn=Doe\\, Jane,ou=People,ou=People,dc=example,dc=test"],
    ["sn=Doe\\, Jane,ou=People,dc=example,dc=test"],
    ["cn=René,dc=x", "cn=Ren\\c3\\a9,dc=x", "cn=Ren\\C3\\A9,dc=x", "cn=Rene\u0301,dc=x", "cn=RENÉ,dc=x", "cn=#040552656EC3A9,dc=x", 'cn="Ren\\c3\\a9",dc=x'],
    ["cn=Rene,dc=x", "cn=\uff32\uff25\uff2e\uff25,dc=x", "cn=\U0001d411\U0001d404\U0001d40d\U0001d404,dc=x"],
    ["cn=Ren\\c3\\a8,dc=x"],
    ["cn=R\u0435n\u0435,dc=x"],  # Cyrillic
    ["cn=a+sn=b,dc=x", "sn=b+cn=a,dc=x", "SN = B + CN = A , dc=x", "2.5.4.4=b+2.5.4.3=a,dc=x"],
    ["cn=b+sn=a,dc=x", "sn=a+cn=b,dc=x"],
    ["cn=a,sn=b,dc=x"],
    ["cn=a\\+sn=b,dc=x", 'cn="a+sn=b",dc=x'],
    ["cn=a,dc=x", "cn=a;dc=x", "cn=a ,dc=x", "cn= a,dc=x"],
    ["cn=a\\;dc=x", 'cn="a;dc=x"', "cn=a\\3bdc=x"],
    ["cn=a\\,dc=x", 'cn="a,dc=x"'],
    ["cn=a b,dc=x", "cn=a   b,dc=x", "cn=a\tb,dc=x"],
    ["cn=ab,dc=x"],
    ["cn=#a,dc=x", "cn=\\#a,dc=x", "cn=\\23a,dc=x"],
    ["cn=\\\\,dc=x", 'cn="\\\\",dc=x', "cn=\\5c,dc=x"],
    ["cn=a"],
    [""],
]


def test_A28_all_spellings_of_a_name_are_equal():
    for spellings in SPELLINGS:
        for one, other in itertools.product(spellings, repeat=2):
            assert dn.same(one, other), (one, other)
            assert dn.normalise(one) == dn.normalise(other)
            assert dn.normalise_name(one) == dn.normalise_name(other)


def test_A28_names_that_differ_are_different():
    for these, those in itertools.combinations(SPELLINGS, 2):
        for one, other in itertools.product(these, those):
            assert not dn.same(one, other), (one, other)
            assert dn.normalise(one) != dn.normalise(other)


@pytest.mark.parametrize(
    "broken",
    ["cn=a,dc=x,", "cn=a,,dc=x", "cn=a dc=x,", "cn=a\\", "cn=a\\zz,dc=x", 'cn="a,dc=x', 'cn="a"b,dc=x', "cn=\\ff,dc=x", "cn=#04,dc=x", "cn=#040161ff,dc=x", "cn=#0401,dc=x", "a,dc=x", "<GUID=00>", "CN=a/DC=x;"],
)
def test_A28_what_is_no_name_equals_nothing(broken):
    assert not dn.same(broken, broken)
    for spellings in SPELLINGS:
        assert not dn.same(broken, spellings[0])
    assert not Exempt(broken).is_account(Identity("main", "guid:1", broken, (broken + "x",)))


@FAST
@given(st.text(alphabet=st.characters(exclude_categories=("Cs", "Cc", "Cf")), min_size=1, max_size=8), st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"]))
def test_A28_unicode_forms_are_equal(value, form):
    escaped = "".join(f"\\{octet:02x}" for octet in unicodedata.normalize(form, value).encode())
    raw = "".join(f"\\{octet:02X}" for octet in value.encode())
    assert dn.same(f"cn={escaped},dc=x", f"CN={raw};DC=X")


def test_A28_a_policy_sees_the_same_account_in_every_spelling():
    for number, spellings in enumerate(SPELLINGS[:-1]):
        for configured, said in itertools.product(spellings, repeat=2):
            assert Policy([Exempt(configured)]).exempts(Identity("main", "guid:1", said), None)
        for other in SPELLINGS[:number] + SPELLINGS[number + 1 :]:
            assert not Policy([Exempt(spellings[0])]).exempts(Identity("main", "guid:1", other[0]), None)


# -- A30

OPENLDAP = Capabilities("openldap", who_am_i=True)
AD = Capabilities("active-directory", who_am_i=True)
NASTY = ["*", "a*", "*)(uid=*", "ann)(|(uid=*", "\\2a", "(", ")", "ann\0", "a\\29", "&", "|(uid=*)", "ann*@x", "é", "\u202e"]


def decoded(operation):
    """The search as ldaptor reads it."""
    context = pureldap.LDAPBERDecoderContext_TopLevel(
        inherit=pureldap.LDAPBERDecoderContext_LDAPMessage(
            fallback=pureldap.LDAPBERDecoderContext(fallback=pureber.BERDecoderContext())
        )
    )
    message, _ = pureber.berDecodeObject(context, ldap.message(1, operation))
    return message.value


@FAST
@given(st.sampled_from([OPENLDAP, AD]), st.sampled_from(NASTY) | st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=20))
def test_A30_a_typed_name_is_one_value_in_the_filter(capabilities, name):
    """Whatever is typed is compared for equality, octet by octet; nothing of it is syntax."""
    asking = find_account(capabilities, "main", name, "dc=x")
    ask = next(asking)
    if capabilities == AD and "@" not in name and "\\" in name and decoded(ask.operation).baseObject == b"":
        domain, _, name = name.partition("\\")
        root = {"defaultnamingcontext": (b"dc=x",), "configurationnamingcontext": (b"cn=c,dc=x",)}
        for entry in (Entry("", root), Entry("cn=d", {"netbiosname": (domain.encode(),)})):
            assert decoded(ask.operation).baseObject in (b"", b"CN=Partitions,cn=c,dc=x")  # nothing typed is in there
            ask = asking.send(found(entry))
    request = decoded(ask.operation)
    if capabilities is AD and "\\" in name and not request.baseObject:
        return  # the domain is asked for its own names before; tests/core/test_identity.py goes on from there
    if request.baseObject != b"dc=x":
        assert request.baseObject == name.encode()
        assert request.scope == 0
        assert request.filter == pureldap.LDAPFilterMatchAll
        return
    assert type(request.filter) is pureldap.LDAPFilter_or
    for one in request.filter:
        assert type(one) is pureldap.LDAPFilter_equalityMatch
        assert one.attributeDesc.value in (b"sAMAccountName", b"uid", b"userPrincipalName")
        assert one.assertionValue.value == name.encode()


@pytest.mark.parametrize("name", NASTY)
def test_A30_a_name_with_syntax_in_it_finds_nobody_by_itself(name):
    play = Procedure(find_account(OPENLDAP, "main", name, "dc=x")) << Ask
    assert play >> Found(Result(0, b"", b"")) << NoOneAccount(())


# -- A31

WHO_AM_I = Ask(ldap.extended_request(ldap.OID_WHO_AM_I))
OWN_GROUPS = Ask(ldap.search_request(b"", ("tokenGroups",)))
ANN_SID = bytes([1, 2, 0, 0, 0, 0, 0, 5, 21, 0, 0, 0, 1, 0, 0, 0])
BOB_SID = ANN_SID[:-4] + bytes([2, 0, 0, 0])
UUID = "11111111-2222-3333-4444-555555555555"


def found(*entries, code=0):
    return Found(Result(code, b"", b""), entries)


def says(name):
    return Found(Result(0, b"", b"", value=name.encode()))


def person(sid=ANN_SID, name=b"ann", guid=b"A" * 16):
    return Entry(
        f"cn={name.decode()},dc=x",
        {"objectguid": (guid,), "objectsid": (sid,), "samaccounttype": (b"805306368",), "samaccountname": (name,)},
    )


def test_A31_nothing_typed_is_part_of_an_identity():
    """The look-ups are the same whoever is said to log in; what was typed is not among what they are given."""
    assert identify.__code__.co_varnames[: identify.__code__.co_argcount] == ("capabilities", "directory", "phone")
    typed = Attempt("cn=victim,dc=x", Secret(b"mine"), "main", None, CodeForm(), Policy([Exempt("cn=victim,dc=x")]))
    attacker = Identity("main", "guid:aa", "cn=attacker,dc=x", ("attacker",))
    play = Procedure(unthrottled(typed)) << VerifyPassword >> PasswordAnswer(0, "", b"") << Identify() >> attacker
    assert play << LookUp(attacker) >> Standing(enrolled=True) << Refused("no-code", attacker)
    services = dataclasses.replace(typed, policy=Policy([Exempt("cn=victim,dc=x")], services=(ServiceRule("duo", ("push",)),), reuses=True))
    play = Procedure(unthrottled(services)) << VerifyPassword >> PasswordAnswer(0, "", b"") << Identify() >> attacker << Reuse(attacker) >> NONE
    play = play << LookUp(attacker) >> Standing(enrolled=False) << StartPrompt(attacker, Choice("duo"), Secret(b"mine"))
    assert play >> Answered(given=False, why="denied") << Refused("denied", attacker)


@pytest.mark.parametrize(
    "entry",
    [person(BOB_SID), person(ANN_SID, b"bob"), person(BOB_SID, b"bob"), Entry("cn=ann,dc=x", {}), Entry("cn=ann,dc=x", {"objectguid": (b"A" * 16,)})],
)
def test_A31_an_answer_about_somebody_else_identifies_nobody(entry):
    play = Procedure(identify(AD, "main")) << OWN_GROUPS >> found(Entry("", {"tokengroups": (ANN_SID,)})) << WHO_AM_I >> says("u:X\\ann") << Ask
    if "objectguid" in entry.attributes:
        assert play >> found(entry) << CannotIdentify
    else:
        assert play >> found(entry) << Ask >> NONE << Ask >> found(person(BOB_SID)) << CannotIdentify


@pytest.mark.parametrize("place", ["bound", "service", "catalog"])
def test_A31_every_place_must_show_the_very_account(place):
    for entry in (person(BOB_SID), person(ANN_SID, b"bob")):
        play = Procedure(identify(AD, "main")) << OWN_GROUPS >> found(Entry("", {"tokengroups": (ANN_SID,)})) << WHO_AM_I >> says("u:X\\ann")
        for one in ("bound", "service", "catalog"):
            play = play << Ask >> (found(entry) if one == place else found())
            if one == place:
                break
        assert play << CannotIdentify


def test_A31_who_am_i_decides_whose_entry_is_taken():
    entry = Entry("uid=bob,dc=x", {"entryuuid": (UUID.encode(),), "uid": (b"bob",)})
    assert Procedure(identify(OPENLDAP, "main")) << WHO_AM_I >> says("dn:uid=ann,dc=x") << Ask >> found(entry) << CannotIdentify
    assert Procedure(identify(OPENLDAP, "main")) << WHO_AM_I >> says("dn:uid=bob,dc=x") << Ask >> found(entry) << Identity("main", f"uuid:{UUID}", "uid=bob,dc=x", ("bob",))


@pytest.mark.parametrize("said", ["", "u:", "dn:", "u:X\\", "anonymous", "u:X\\bob"])
def test_A31_nobody_is_nobody(said):
    play = Procedure(identify(AD, "main")) << OWN_GROUPS >> found(Entry("", {"tokengroups": (ANN_SID,)})) << WHO_AM_I >> says(said)
    assert play << Ask >> found(person()) << CannotIdentify
    assert Procedure(identify(OPENLDAP, "main")) << WHO_AM_I >> says(said) << CannotIdentify


# -- A32


def test_A32_a_recycled_name_is_another_account():
    """The same DN, account name and even SID, with another GUID: another key, whose factors are none of the old one's."""
    keys = []
    for guid in (b"A" * 16, b"B" * 16):
        play = Procedure(identify(AD, "main")) << OWN_GROUPS >> found(Entry("", {"tokengroups": (ANN_SID,)})) << WHO_AM_I >> says("u:X\\ann")
        assert play << Ask >> found(person(guid=guid)) << Identity("main", f"guid:{guid.hex()}", "cn=ann,dc=x", ("ann",))
        keys.append(f"main/guid:{guid.hex()}")
    assert len(set(keys)) == 2
    for kind, unique, prefix in (("openldap", "entryuuid", "uuid:"), ("389-ds", "nsuniqueid", "nsuniqueid:")):
        ids = set()
        for number in (b"1", b"2"):
            play = Procedure(identify(Capabilities(kind, who_am_i=True), "main")) << WHO_AM_I >> says("dn:uid=ann,dc=x") << Ask
            entry = Entry("uid=ann,dc=x", {unique: (number,), "uid": (b"ann",)})
            identity = Identity("main", prefix + number.decode(), "uid=ann,dc=x", ("ann",))
            assert play >> found(entry) << identity
            ids.add(identity.key)
        assert len(ids) == 2


def test_A32_a_renamed_account_is_the_same():
    play = Procedure(identify(AD, "main")) << OWN_GROUPS >> found(Entry("", {"tokengroups": (ANN_SID,)})) << WHO_AM_I >> says("u:X\\anna")
    assert play << Ask >> found(person(name=b"anna")) << Identity("main", f"guid:{(b'A' * 16).hex()}", "cn=anna,dc=x", ("anna",))


def test_A32_an_exempt_account_is_asked_about_by_what_it_is_now():
    """An exempt name that is given to a new account is the administrator's to take back; its factors are not inherited."""
    svc = Identity("main", "guid:bb", "cn=svc,dc=x", ("svc",))
    attempt = Attempt("svc", Secret(b"secret"), "main", None, CodeForm(), Policy([Exempt("cn=svc,dc=x")]))
    play = Procedure(unthrottled(attempt)) << VerifyPassword >> PasswordAnswer(0, "", b"") << Identify() >> svc << Admit(svc, "exempt")
    assert play


# -- A49, the part of the look-ups


def test_A49_forged_entries_identify_nobody():
    """Entries of an attacker's choosing, in place of or beside the directory's answer."""
    forged = person(BOB_SID, b"bob", b"B" * 16)
    root = Entry("", {"tokengroups": (ANN_SID,)})
    start = lambda: Procedure(identify(AD, "main")) << OWN_GROUPS  # noqa: E731
    assert start() >> found(root, root) << CannotIdentify
    assert start() >> found(Entry("", {"tokengroups": (BOB_SID,)})) << WHO_AM_I >> says("u:X\\ann") << Ask >> found(forged) << CannotIdentify
    ann = lambda: start() >> found(root) << WHO_AM_I >> says("u:X\\ann") << Ask  # noqa: E731
    assert ann() >> found(forged) << CannotIdentify
    assert ann() >> found(forged, person()) << CannotIdentify
    assert ann() >> found(person(), forged) << CannotIdentify
    assert start() >> found(Entry("", {"tokengroups": (b"S-1-5-21",)})) << WHO_AM_I >> says("u:X\\ann") << CannotIdentify
    for name in ("dn:uid=bob,dc=x", "u:ann"):
        entry = Entry("uid=ann,dc=x", {"entryuuid": (UUID.encode(),)})
        play = Procedure(identify(OPENLDAP, "main")) << WHO_AM_I >> says(name)
        assert (play << Ask >> found(entry) << CannotIdentify) if name.startswith("dn") else (play << CannotIdentify)
