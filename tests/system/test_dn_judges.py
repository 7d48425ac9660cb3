"""A28, A29: two other readers of distinguished names, python-ldap (OpenLDAP's own) and ldap3, judge ours."""

import json
import re
import string
import subprocess

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from ldap3.core.exceptions import LDAPInvalidDnError
from ldap3.utils.dn import parse_dn
from system.servers.common import SYSTEM_PYTHON, require

from ldapmfa.core.identity import Identity
from ldapmfa.core.policy import Exempt, Policy
from ldapmfa.core.rules import Circumstances, Moment, Rule
from ldapmfa.wire import dn

SLOWLY = settings(deadline=None, max_examples=600, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
#: str2dn's flag of a value that was written as #hex.
BINARY = 2
JUDGE = """
import json, sys, ldap, ldap.dn
for line in sys.stdin:
    try:
        print(json.dumps(ldap.dn.str2dn(json.loads(line))), flush=True)
    except (ldap.LDAPError, UnicodeError):
        print("null", flush=True)
"""


@pytest.fixture(scope="module")
def openldap():
    """What OpenLDAP's library reads: a list of sets of (type, value), or None."""
    require(("module:ldap", "python3-ldap"))
    child = subprocess.Popen([SYSTEM_PYTHON, "-I", "-c", JUDGE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def read(text):
        child.stdin.write(json.dumps(text) + "\n")
        child.stdin.flush()
        said = json.loads(child.stdout.readline())
        if said is None:
            return None
        return [sorted((name.lower(), plain(value)) for name, value, _ in rdn) for rdn in said]

    yield read
    child.stdin.close()
    child.stdout.close()
    assert child.wait(10) == 0


def plain(value):
    """A value of ASCII as caseIgnoreMatch compares it, by nothing of ours."""
    return " ".join(value.lower().split())


def ldap3_reads(text):
    """As `openldap`; ldap3 leaves what is escaped as it stands."""
    try:
        parts = parse_dn(text)
    except (LDAPInvalidDnError, IndexError):
        return None
    found, rdn = [], []
    for name, value, separator in parts:
        octets = re.sub(r"\\([0-9A-Fa-f]{2})|\\(.)", lambda hit: chr(int(hit[1], 16)) if hit[1] else hit[2], value, flags=re.DOTALL)
        rdn.append((name.lower(), plain(octets)))
        if separator != "+":
            found.append(sorted(rdn))
            rdn = []
    return found


def ours(text):
    try:
        return [list(rdn) for rdn in dn.parse(text)]
    except dn.DnError:
        return None


# -- names of whom we know who they are, written in one of many ways

TYPES = {"cn": ["cn", "CN", "2.5.4.3", "Cn"], "ou": ["ou", "OU", "2.5.4.11"], "dc": ["dc", "DC", "0.9.2342.19200300.100.1.25"], "uid": ["uid", "UID"]}
SHORT = {spelled.lower(): name for name, spellings in TYPES.items() for spelled in spellings}
VALUES = st.text(alphabet="abAB ,;+\"\\<>=#'.-", min_size=1, max_size=6).filter(lambda value: value.strip())
RDN = st.lists(st.tuples(st.sampled_from(sorted(TYPES)), VALUES), min_size=1, max_size=2, unique_by=lambda pair: pair[0])
NAMES = st.lists(RDN, min_size=1, max_size=4)


@st.composite
def spelled(draw, name):
    """One way to write it."""
    rdns = []
    for rdn in name:
        pairs = []
        for attribute, value in draw(st.permutations(rdn)):
            kind = draw(st.sampled_from(TYPES[attribute]))
            equals = draw(st.sampled_from(["=", " = ", "= "]))
            pairs.append(kind + equals + draw(written(value)))
        rdns.append(draw(st.sampled_from(["+", " + "])).join(pairs))
    separators = [draw(st.sampled_from([",", ", ", " , ", ";"])) for _ in rdns[1:]]
    return "".join(rdn + separator for rdn, separator in zip(rdns, [*separators, ""], strict=True))


@st.composite
def written(draw, value):
    value = "".join(draw(st.sampled_from([char.lower(), char.upper()])) for char in value)
    if draw(st.integers(0, 4)) == 0:
        return '"' + "".join(f"\\{char}" if char in '"\\' else char for char in value) + '"'
    shown = []
    for number, char in enumerate(value):
        if draw(st.integers(0, 4)) == 0:
            shown.append(f"\\{ord(char):02{draw(st.sampled_from('xX'))}}")
        elif char in ',;+"\\<>' or (char == "#" and number == 0) or (char == " " and number in (0, len(value) - 1)):
            shown.append(f"\\{char}")
        else:
            shown.append(char)
    return "".join(shown)


def known(name):
    return [sorted((attribute, plain(value)) for attribute, value in rdn) for rdn in name]


def in_short(read):
    return read and [sorted((SHORT.get(kind, kind), value) for kind, value in rdn) for rdn in read]


@SLOWLY
@given(NAMES.flatmap(lambda name: st.tuples(st.just(name), spelled(name), spelled(name))))
def test_A28_every_spelling_is_read_as_openldap_reads_it(openldap, case):
    name, one, other = case
    for text in (one, other):
        assert in_short(openldap(text)) == known(name), text
        assert ours(text) == known(name), text
        strict = ldap3_reads(text)
        assert strict is None or in_short(strict) == known(name), text
    assert dn.same(one, other)
    assert dn.normalise(one) == dn.normalise(other)
    assert ours(dn.normalise(one)) == known(name)
    assert in_short(openldap(dn.normalise(one))) == known(name)


@SLOWLY
@given(st.tuples(NAMES, NAMES).flatmap(lambda pair: st.tuples(st.just(pair), spelled(pair[0]), spelled(pair[1]))))
def test_A28_two_names_are_the_same_only_if_openldap_says_so(openldap, case):
    _, one, other = case
    assert dn.same(one, other) == (in_short(openldap(one)) == in_short(openldap(other)))
    assert (dn.normalise(one) == dn.normalise(other)) == dn.same(one, other)


# -- whatever somebody types


GARBAGE = st.lists(
    st.sampled_from(["cn=", "ou=", "dc=", "a", "b", ",", ";", "+", "\\", '"', "#", "=", " ", "<", ">", "\\2c", "\\,", "\\20", "x", "'", "61"]), max_size=12
).map("".join) | st.text(alphabet=string.printable[:95], max_size=16).map("cn=".__add__)


@settings(SLOWLY, max_examples=3000)
@given(GARBAGE)
def test_A28_what_others_can_read_is_read_alike_or_not_at_all(openldap, text):
    assume("#" not in text or not re.search(r"=\s*#", text))  # a value of BER: read below
    read, strict = ours(text), ldap3_reads(text)
    theirs = openldap(text)
    if read is not None and theirs is not None:
        assert read == theirs
    if read is not None and strict is not None:
        assert read == in_short(strict)


@pytest.mark.parametrize(("text", "value"), [("cn=#0C0161,dc=x", "a"), ("cn=#04046A616e65 ,dc=x", "jane"), ("cn=#1303612C62,dc=x", "a,b")])
def test_A28_values_of_ber_are_what_they_say(openldap, text, value):
    assert ours(text) == [[("cn", value)], [("dc", "x")]]
    assert openldap(text) is not None
    assert ldap3_reads(text) is None


# -- A29


@SLOWLY
@given(st.tuples(NAMES, NAMES).flatmap(lambda pair: st.tuples(st.just(pair), spelled(pair[0] + pair[1]), spelled(pair[0]), spelled(pair[1]))))
def test_A29_what_lies_below_an_OU_is_whose_last_RDNs_openldap_says_it_is(openldap, case):
    """And rules and exemptions see it so."""
    _, whole, head, tail = case
    assert dn.lies_below(whole, tail)
    for entry in (whole, head, tail):
        for place in (whole, head, tail):
            theirs = in_short(openldap(entry)), in_short(openldap(place))
            below = theirs[0][-len(theirs[1]) :] == theirs[1]
            assert dn.lies_below(entry, place) == below
            login = Circumstances(Identity("d", "guid:1", entry), None, "app", Moment())
            assert (not Rule("r", "refuse", ous=(place,)).misses(login)) == below
            assert Policy([Exempt(place)]).exempts(login.identity, None) == (theirs[0] == theirs[1])


@SLOWLY
@given(GARBAGE, NAMES.flatmap(spelled))
def test_A29_what_is_no_name_lies_nowhere(openldap, text, name):
    if ours(text) is None:
        assert not dn.lies_below(text, name)
        assert not dn.lies_below(name, text)
        assert not dn.lies_below(text, text)
