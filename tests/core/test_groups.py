"""In which of the groups that rules name an account is; what can't be found out breaks the login."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from playbook import NONE, Procedure

from ldapmfa.core import groups
from ldapmfa.core.groups import Placed, find_groups
from ldapmfa.core.identity import Ask, CannotIdentify, Capabilities, Found, Identity, sid_octets
from ldapmfa.wire import dn, ldap
from ldapmfa.wire.ldap import Entry, Result

FAST = settings(deadline=None, max_examples=150)
AD = Capabilities("active-directory", who_am_i=False, naming_contexts=("dc=x",))
OPENLDAP = Capabilities("openldap", who_am_i=True, naming_contexts=("dc=x", "cn=accesslog"))
DS = Capabilities("389-ds", who_am_i=True, naming_contexts=("dc=x",))
VPN, ADMINS, OTHER = "S-1-5-21-1-2-3-2001", "S-1-5-32-544", "S-1-5-21-1-2-3-2002"
EVE = Identity("main", "guid:1", "cn=eve,dc=x", ("eve",), sids=(sid_octets(VPN), sid_octets(ADMINS)))
ANN = Identity("main", "uuid:1", "uid=ann,ou=people,dc=x", ("ann",))
STAFF, REMOTE, ALL = "cn=staff,ou=groups,dc=x", "cn=remote,ou=groups,dc=x", "cn=all,ou=groups,dc=x"


def found(*entries, code=0):
    return Found(Result(code, b"", b""), entries)


def entry(name, **attributes):
    return Entry(name, {key.lower(): value if isinstance(value, tuple) else (value,) for key, value in attributes.items()})


# -- Active Directory

WANTED = ("objectSid", "groupType", "objectClass")
SECURITY = b"-2147483646"


def ask(name, on="bound"):
    return Ask(ldap.search_request(name.encode(), WANTED), on)


def a_group(name=STAFF, sid=VPN, kind=SECURITY, classes=(b"top", b"group")):
    return found(entry(name, objectSid=sid_octets(sid), groupType=kind, objectClass=classes))


def in_ad(*names, **options):
    return Procedure(find_groups(AD, EVE, names, **options))


def placed(names, **marks):
    marks = {name: sid_octets(sid) for name, sid in marks.items()}
    return Placed(frozenset(names), marks, frozenset(EVE.sids))


def test_sids_of_the_token_ask_nobody():
    assert in_ad(VPN, ADMINS) << Placed(frozenset({VPN, ADMINS}), {VPN: EVE.sids[0], ADMINS: EVE.sids[1]}, frozenset(EVE.sids))


def test_a_dn_is_turned_into_its_sid():
    assert in_ad(STAFF) << ask(STAFF) >> a_group() << Placed(frozenset({STAFF}), {STAFF: EVE.sids[0]}, frozenset(EVE.sids))
    other = Placed(frozenset(), {STAFF: sid_octets(OTHER)}, frozenset(EVE.sids))
    assert in_ad(STAFF) << ask(STAFF) >> a_group(sid=OTHER) << other
    assert in_ad(STAFF) << ask(STAFF) >> a_group(STAFF.upper().replace(",", " , "), sid=OTHER) << other


def test_a_sid_that_is_not_in_the_token_must_be_a_groups():
    name = f"<SID={OTHER}>"
    assert in_ad(OTHER) << ask(name) >> a_group(sid=OTHER) << Placed(frozenset(), {OTHER: sid_octets(OTHER)}, frozenset(EVE.sids))
    assert in_ad(OTHER) << ask(name) >> a_group(sid=VPN) << CannotIdentify
    assert in_ad(OTHER) << ask(name) >> a_group(sid=OTHER, kind=()) << CannotIdentify


def test_who_may_not_see_a_group_has_the_service_account_look_and_then_the_catalog():
    service, catalog = ask(STAFF, "service"), ask(STAFF, "catalog")
    end = Placed(frozenset({STAFF}), {STAFF: EVE.sids[0]}, frozenset(EVE.sids))
    hidden = (found(), found(code=32), found(code=50), found(entry(STAFF)), found(entry(STAFF, objectSid=())))
    for answer in hidden:
        assert in_ad(STAFF) << ask(STAFF) >> answer << service >> a_group() << end
        for other in (*hidden, NONE):
            assert in_ad(STAFF) << ask(STAFF) >> answer << service >> other << catalog >> a_group() << end
    assert in_ad(STAFF, bound=False) << service >> a_group() << end


def test_a_group_that_nobody_finds_breaks_the_login_and_is_named():
    asking = find_groups(AD, EVE, (STAFF,))
    assert next(asking) == ask(STAFF)
    asking.send(found(code=32))
    asking.send(None)
    with pytest.raises(CannotIdentify, match=r"cn=staff,ou=groups,dc=x, which a rule names, is not found at the directory \(result 32, 0\)"):
        asking.send(found())
    asking = find_groups(AD, EVE, (STAFF,), bound=False)
    assert next(asking).on == "service"
    asking.send(None)
    with pytest.raises(CannotIdentify, match="result none"):
        asking.send(None)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (a_group(kind=b"2"), "distribution group"),
        (a_group(kind=b"8"), "distribution group"),
        (a_group(kind=()), "is no group"),
        (a_group(kind=b"x"), "is no group"),
        (a_group(kind="-٣".encode()), "is no group"),
        (a_group(kind=(b"-2147483646", b"2")), "is no group"),
        (a_group("cn=other,dc=x"), "was looked up, and cn=other,dc=x found"),
    ],
)
def test_what_no_token_tells_of_breaks_the_login(answer, why):
    asking = find_groups(AD, EVE, (STAFF,))
    next(asking)
    with pytest.raises(CannotIdentify, match=why):
        asking.send(answer)


def test_two_entries_are_no_group():
    twice = a_group()
    both = Found(twice.result, (*twice.entries, *twice.entries))
    assert in_ad(STAFF) << ask(STAFF) >> both << ask(STAFF, "service") >> NONE << ask(STAFF, "catalog") >> NONE << CannotIdentify
    assert in_ad(STAFF) << ask(STAFF) >> Found(Result(4, b"", b""), twice.entries) << ask(STAFF, "service") >> a_group() << placed([STAFF], **{STAFF: VPN})


def test_who_is_no_domains_own_is_a_group_too():
    """Authenticated users, and groups of trusted forests."""
    foreign = a_group(kind=(), classes=(b"top", b"foreignSecurityPrincipal"))
    assert in_ad(STAFF) << ask(STAFF) >> foreign << placed([STAFF], **{STAFF: VPN})


@pytest.mark.parametrize("name", ["", "staff", "S-1-5-", "s-1-5-32-544", "CORP\\staff", "cn"])
def test_what_is_neither_dn_nor_sid_breaks_the_login(name):
    assert in_ad(name) << CannotIdentify


def test_an_account_whose_groups_are_not_told_is_not_one_without_groups():
    """Everybody has a primary group, so that an empty list is none."""
    assert Procedure(find_groups(AD, Identity("main", "guid:1", "cn=eve,dc=x"), (VPN,))) << CannotIdentify


def test_what_is_known_is_not_asked_again():
    known = {STAFF: sid_octets(VPN), OTHER: sid_octets(OTHER)}
    assert in_ad(STAFF, OTHER, known=known) << Placed(frozenset({STAFF}), known, frozenset(EVE.sids))


def test_at_active_directory_membership_is_never_older_than_the_bind():
    """Whatever was kept of the account."""
    kept = frozenset({sid_octets(OTHER)})
    assert in_ad(VPN, OTHER, own=kept) << ask(f"<SID={OTHER}>") >> a_group(sid=OTHER) << placed([VPN], **{VPN: VPN, OTHER: OTHER})


# -- OpenLDAP and 389

HAS_MEMBERS = ldap.any_of(ldap.present("member"), ldap.present("uniqueMember"), ldap.present("memberUid"))


def upwards(*names, uids=(), base="dc=x", on="service"):
    members = [ldap.equals(attribute, name.encode()) for name in names for attribute in ("member", "uniqueMember")]
    where = ldap.any_of(*members, *(ldap.equals("memberUid", uid.encode()) for uid in uids))
    return Ask(ldap.search_request(base.encode(), ("1.1",), scope=2, where=where), on)


def has_members(name, on="service"):
    return Ask(ldap.search_request(name.encode(), ("objectClass",), where=HAS_MEMBERS), on)


def is_there(name, on="service"):
    return Ask(ldap.search_request(name.encode(), ("objectClass",)), on)


def of_ann(*names, capabilities=OPENLDAP, identity=ANN, **options):
    return Procedure(find_groups(capabilities, identity, names, **options))


def end(*names, marks, own):
    return Placed(frozenset(names), {name: dn.normalise(name) for name in marks}, frozenset(map(dn.normalise, own)))


def test_groups_are_followed_upwards():
    play = of_ann(ALL) << upwards(ANN.dn, uids=["ann"]) >> found(entry(STAFF), entry(REMOTE))
    play = play << upwards(STAFF, REMOTE) >> found(entry(ALL), entry(STAFF)) << upwards(ALL) >> found()
    assert play << end(ALL, marks=[ALL], own=[STAFF, REMOTE, ALL])


def test_groups_within_each_other_end():
    play = of_ann(ALL) << upwards(ANN.dn, uids=["ann"]) >> found(entry(STAFF)) << upwards(STAFF) >> found(entry(ALL))
    assert play << upwards(ALL) >> found(entry(STAFF.upper()), entry(ALL)) << end(ALL, marks=[ALL], own=[STAFF, ALL])


def test_without_a_service_account_the_account_looks_itself():
    play = of_ann(STAFF) << upwards(ANN.dn, uids=["ann"]) >> NONE << upwards(ANN.dn, uids=["ann"], on="bound") >> found(entry(STAFF))
    assert play << upwards(STAFF) >> NONE << upwards(STAFF, on="bound") >> found() << end(STAFF, marks=[STAFF], own=[STAFF])
    assert of_ann(STAFF) << upwards(ANN.dn, uids=["ann"]) >> NONE << upwards(ANN.dn, uids=["ann"], on="bound") >> NONE << CannotIdentify


def test_names_of_an_account_count_where_a_group_has_names_and_only_its_own():
    several = Identity("main", "uuid:1", ANN.dn, ("ann", "anna"))
    play = of_ann(STAFF, identity=several) << upwards(ANN.dn, uids=["ann", "anna"]) >> found(entry(STAFF))
    assert play << upwards(STAFF) >> found() << end(STAFF, marks=[STAFF], own=[STAFF])
    nameless = Identity("main", "uuid:1", ANN.dn)
    assert of_ann(STAFF, identity=nameless) << upwards(ANN.dn) >> found() << has_members(STAFF) >> found(entry(STAFF)) << end(marks=[STAFF], own=[])


def test_groups_are_compared_as_names():
    spelled = "CN = Staff , ou=groups; dc=X"
    play = of_ann(spelled) << upwards(ANN.dn, uids=["ann"]) >> found(entry(STAFF)) << upwards(STAFF) >> found()
    assert play << end(spelled, marks=[spelled], own=[STAFF])


def nowhere(*names, capabilities=OPENLDAP, **options):
    return of_ann(*names, capabilities=capabilities, **options) << upwards(ANN.dn, uids=["ann"]) >> found()


def test_a_group_in_which_the_account_is_not_must_be_there_with_members():
    assert nowhere(STAFF) << has_members(STAFF) >> found(entry(STAFF)) << end(marks=[STAFF], own=[])
    for code in (0, 32, 50, 10):
        assert nowhere(STAFF) << has_members(STAFF) >> found(code=code) << is_there(STAFF) >> found(code=code) << CannotIdentify
    assert nowhere(STAFF) << has_members(STAFF) >> found(entry(STAFF), code=4) << is_there(STAFF) >> found(entry(STAFF), entry(ALL)) << CannotIdentify


@pytest.mark.parametrize(
    ("capabilities", "classes", "right"),
    [
        (OPENLDAP, (b"groupOfNames",), False),
        (OPENLDAP, (b"top", b"groupOfUniqueNames"), False),
        (OPENLDAP, (b"posixGroup",), True),
        (OPENLDAP, (b"groupOfMembers",), True),
        (OPENLDAP, (b"organizationalUnit",), False),
        (OPENLDAP, (), False),
        (DS, (b"groupOfNames",), True),
        (DS, (b"POSIXGROUP",), True),
        (DS, (b"person",), False),
    ],
)
def test_a_group_that_shows_no_members_is_empty_where_it_may_be_and_else_hides_them(capabilities, classes, right):
    play = nowhere(STAFF, capabilities=capabilities) << has_members(STAFF) >> found()
    play = play << is_there(STAFF) >> found(entry(STAFF, objectClass=classes))
    assert play << (end(marks=[STAFF], own=[]) if right else CannotIdentify)


@pytest.mark.parametrize("code", [4, 3, 11, 32, 50, 51, 80])
def test_a_search_that_is_not_finished_is_no_answer(code):
    assert of_ann(STAFF) << upwards(ANN.dn, uids=["ann"]) >> found(entry(STAFF), code=code) << CannotIdentify


def test_what_is_too_deep_or_too_much_is_not_placed(monkeypatch):
    monkeypatch.setattr(groups, "DEEPEST", 2)
    play = of_ann(STAFF) << upwards(ANN.dn, uids=["ann"]) >> found(entry(STAFF)) << upwards(STAFF) >> found(entry(ALL))
    assert play << CannotIdentify
    monkeypatch.setattr(groups, "MOST", 1)
    assert of_ann(STAFF) << upwards(ANN.dn, uids=["ann"]) >> found(entry(STAFF), entry(ALL)) << CannotIdentify


def test_many_groups_are_asked_about_in_several_searches(monkeypatch):
    monkeypatch.setattr(groups, "_AT_ONCE", 2)
    play = of_ann(STAFF) << upwards(ANN.dn, uids=["ann"]) >> found(entry(STAFF), entry(REMOTE), entry(ALL))
    assert play << upwards(STAFF, REMOTE) >> found() << upwards(ALL) >> found() << end(STAFF, marks=[STAFF], own=[STAFF, REMOTE, ALL])


def test_groups_are_looked_for_where_the_account_and_they_are():
    two = Capabilities("openldap", who_am_i=True, naming_contexts=("dc=x", "o=groups", "cn=accesslog", "ou=people,dc=x"))
    there = "cn=a,o=groups"
    play = of_ann(there, capabilities=two) << upwards(ANN.dn, uids=["ann"]) >> found()
    play = play << upwards(ANN.dn, uids=["ann"], base="o=groups") >> found(entry(there))
    assert play << upwards(there) >> found() << upwards(there, base="o=groups") >> found() << end(there, marks=[there], own=[there])


def test_base_dn_counts_where_no_naming_context_does():
    mute = Capabilities("openldap", who_am_i=True)
    assert of_ann(STAFF, capabilities=mute) << CannotIdentify
    assert of_ann(STAFF, capabilities=mute, base="ou=people,dc=x") << CannotIdentify
    play = of_ann(STAFF, capabilities=mute, base="dc=x") << upwards(ANN.dn, uids=["ann"]) >> found(entry(STAFF))
    assert play << upwards(STAFF) >> found() << end(STAFF, marks=[STAFF], own=[STAFF])


@pytest.mark.parametrize("name", ["", "staff", VPN, "cn=staff,dc=elsewhere", "dc=", "<GUID=1>"])
def test_what_can_be_no_group_there_breaks_the_login(name):
    assert of_ann(name) << CannotIdentify
    with pytest.raises(CannotIdentify, match="a rule names"):
        next(find_groups(OPENLDAP, ANN, (name,)))


def test_a_name_that_is_no_dn_breaks_the_login():
    assert of_ann(STAFF) << upwards(ANN.dn, uids=["ann"]) >> found(entry("staff")) << CannotIdentify
    assert of_ann("cn=a,cn=#04,dc=x", own=frozenset()) << CannotIdentify


def test_what_was_found_lately_is_not_asked_again():
    own = frozenset({dn.normalise(STAFF)})
    assert of_ann(STAFF, own=own) << end(STAFF, marks=[STAFF], own=[STAFF])
    assert of_ann(ALL, own=own, known={ALL: dn.normalise(ALL)}) << end(marks=[ALL], own=[STAFF])
    assert of_ann(ALL, own=own) << has_members(ALL) >> found(entry(ALL)) << end(marks=[ALL], own=[STAFF])


# -- A30


NASTY = st.sampled_from(["*", "a*", "*)(uid=*", "ann)(|(uid=*", "\\2a", "(", "&", "é"]) | st.text(
    alphabet=st.characters(exclude_categories=("Cs",)), min_size=1, max_size=20
)


@FAST
@given(NASTY)
def test_A30_a_name_is_one_value_in_the_filters_of_groups(name):
    escaped = "".join(f"\\{octet:02x}" for octet in name.encode())
    member = Identity("main", "uuid:1", f"cn={escaped},dc=x", (name,))
    asked = next(find_groups(OPENLDAP, member, (STAFF,)))
    assert asked == upwards(member.dn, uids=[name])
    group = f"cn={escaped},dc=x"
    assert next(find_groups(AD, EVE, (group,))).operation == ldap.search_request(group.encode(), WANTED)


# -- whatever the directory says

ANSWERS = st.sampled_from(
    [None, found(), found(entry(STAFF)), found(entry(ALL), entry(REMOTE)), found(code=32), found(code=51), a_group(), a_group(kind=b"2"), found(entry("x"))]
)


@FAST
@given(st.sampled_from([AD, OPENLDAP, DS]), st.booleans(), st.lists(ANSWERS, min_size=30, max_size=30))
def test_whatever_the_answers_the_end_says_where_or_breaks(capabilities, bound, answers):
    asking = find_groups(capabilities, EVE, (STAFF, ALL), bound=bound)

    def play():
        next(asking)
        for answer in answers:
            asking.send(answer)

    with pytest.raises((StopIteration, CannotIdentify)) as end:
        play()
    if isinstance(end.value, StopIteration):
        placed = end.value.value
        assert placed.marks.keys() == {STAFF, ALL}
        assert placed.groups == {group for group, mark in placed.marks.items() if mark in placed.own}
