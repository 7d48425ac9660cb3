"""Distinguished names: all spellings of one are one, and different ones are not."""

from __future__ import annotations

import unicodedata
import warnings

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ldapmfa.wire import dn
from ldapmfa.wire.dn import DnError

with warnings.catch_warnings():  # ldap3 uses old names of pyasn1
    warnings.simplefilter("ignore", DeprecationWarning)
    from ldap3.utils.dn import escape_rdn, parse_dn

FAST = settings(deadline=None, max_examples=100)


@pytest.mark.parametrize(
    ("text", "rdns"),
    [
        ("", ()),
        ("  ", ()),
        ("cn=Ann", ((("cn", "ann"),),)),
        ("CN=Ann,DC=Example,DC=test", ((("cn", "ann"),), (("dc", "example"),), (("dc", "test"),))),
        ("cn=", ((("cn", ""),),)),
        ("cn=,dc=x", ((("cn", ""),), (("dc", "x"),))),
        ("sn=b+cn=a", ((("cn", "a"), ("sn", "b")),)),
        (r"cn=a\,b", ((("cn", "a,b"),),)),
        (r"cn=a\2Cb", ((("cn", "a,b"),),)),
        ('cn="a,b;c+d=<e>#"', ((("cn", "a,b;c+d=<e>#"),),)),
        (r'cn="a\"b\\c"', ((("cn", r'a"b\c'),),)),
        ("cn=#0401 61".replace(" ", ""), ((("cn", "a"),),)),
        ("cn=#040161 ,dc=x", ((("cn", "a"),), (("dc", "x"),))),
        ("cn=#0C02C3A4", ((("cn", "ä"),),)),
        ("cn=#no", ((("cn", "#no"),),)),
        (r"cn=\#x", ((("cn", "#x"),),)),
        (r"cn=\20a\20", ((("cn", "a"),),)),
        (r"cn=a\ ", ((("cn", "a"),),)),
        (r"cn=a\00b", ((("cn", "ab"),),)),
        ("cn=a=b", ((("cn", "a=b"),),)),
        ('cn="" ,dc=x', ((("cn", ""),), (("dc", "x"),))),
        ("x-made-up=1", ((("x-made-up", "1"),),)),
        ("1.2.3.4=1", ((("1.2.3.4", "1"),),)),
    ],
)
def test_a_dn_is_taken_apart(text, rdns):
    assert dn.parse(text) == rdns


@pytest.mark.parametrize(
    "text",
    [
        "ann",
        "cn",
        "=ann",
        "cn=ann,",
        "cn=ann,,dc=x",
        "cn=ann;",
        "cn=ann+",
        ",cn=ann",
        "1=ann",
        "-cn=ann",
        "c n=ann",
        "cn=a<b",
        "cn=a>b",
        'cn=a"b',
        'cn="a',
        'cn="a"b',
        'cn="a"\t,dc=x',
        "cn=a\\",
        r"cn=a\x",
        "cn=a\\é",
        r"cn=\ff",
        r'cn="\ff"',
        "cn=\ud800",
        "cn=#0402616",
        "cn=#04026",
        "cn=#040261",
        "cn=#04016100",
        "cn=#04016100000401",
        "cn=#1f00",
        "cn=#0401ff",
        "cn=#040161x",
        "<SID=S-1-5-21-1>",
        "oid.cn.x=1",
    ],
)
def test_what_is_no_dn_is_refused(text):
    with pytest.raises(DnError):
        dn.parse(text)
    assert not dn.same(text, text)


# Spellings: each takes a value and a random source, and writes it so that it reads as the same value.

TYPES = {
    "cn": ["cn", "CN", "2.5.4.3", "OID.2.5.4.3", "oid.2.5.4.3", "commonName"],
    "ou": ["ou", "Ou", "2.5.4.11", "organizationalUnitName"],
    "dc": ["dc", "DC", "0.9.2342.19200300.100.1.25", "domainComponent"],
    "uid": ["uid", "UID", "0.9.2342.19200300.100.1.1", "userId"],
    "o": ["o", "O", "2.5.4.10"],
}
VALUE = st.text(alphabet='abcZYX09 ,;+"\\<>=#/*().äÖé', max_size=8)
NAME = st.lists(st.lists(st.tuples(st.sampled_from(sorted(TYPES)), VALUE), min_size=1, max_size=2), min_size=1, max_size=3)


def spell_value(value, draw):
    style = draw(st.sampled_from(["plain", "hex", "quoted", "ber"]))
    if draw(st.booleans()):
        value = draw(st.sampled_from([value.upper(), value.lower(), value]))
        value = unicodedata.normalize(draw(st.sampled_from(["NFC", "NFD"])), value)
    if style == "ber":
        octets = value.encode()
        return "#" + (bytes([draw(st.sampled_from([0x04, 0x0C])), len(octets)]) + octets).hex()
    if style == "hex":
        return "".join(f"\\{octet:02{draw(st.sampled_from('xX'))}}" for octet in value.encode())
    if style == "quoted":
        return '"' + "".join("\\" + char if char in '"\\' else char for char in value) + '"'
    spelled = ""
    for pos, char in enumerate(value):
        if char in ',;+"\\<>' or (char == "#" and pos == 0) or (char == " " and pos in (0, len(value) - 1)):
            spelled += draw(st.sampled_from(["\\" + char, f"\\{ord(char):02x}"]))
        elif char == " ":
            spelled += draw(st.sampled_from([" ", "  "]))
        else:
            spelled += char
    return spelled


def spell(name, draw):
    space = st.sampled_from(["", "", " ", "  "])
    rdns = []
    for rdn in name:
        pairs = [
            draw(st.sampled_from(TYPES[kind])) + draw(space) + "=" + draw(space) + spell_value(value, draw) + draw(space)
            for kind, value in draw(st.permutations(rdn))
        ]
        rdns.append(("+" + draw(space)).join(pairs))
    spelled = rdns[0]
    for rdn in rdns[1:]:
        spelled += draw(st.sampled_from(",;")) + draw(space) + rdn
    return spelled


def plain(name):
    """An independent idea of what the name says: enough for the alphabet above."""
    return [
        sorted((kind, " ".join(unicodedata.normalize("NFC", value).lower().split())) for kind, value in rdn) for rdn in name
    ]


@FAST
@given(NAME, st.data())
def test_all_spellings_are_one_name(name, data):
    one, other = spell(name, data.draw), spell(name, data.draw)
    assert dn.same(one, other), (one, other)
    assert dn.normalise(one) == dn.normalise(other)
    assert dn.same(one, dn.normalise(one))
    assert dn.normalise(dn.normalise(one)) == dn.normalise(one)
    assert dn.normalise_name(one) == "dn:" + dn.normalise(one)


@FAST
@given(NAME, NAME, st.data())
def test_names_are_the_same_only_if_they_say_the_same(one, other, data):
    same = plain(one) == plain(other)
    assert dn.same(spell(one, data.draw), spell(other, data.draw)) == same
    assert (dn.normalise(spell(one, data.draw)) == dn.normalise(spell(other, data.draw))) == same


@FAST
@given(NAME, st.integers(0, 2), st.data())
def test_a_name_with_one_thing_changed_is_another(name, which, data):
    changed = [list(rdn) for rdn in name]
    rdn = changed[which % len(changed)]
    kind, value = rdn[0]
    rdn[0] = data.draw(
        st.sampled_from([(kind, value + "x"), (kind, "x" + value), (kind, value + ",ou=x"), ("sn", value), ("sn", "")])
    )
    if data.draw(st.booleans()):
        changed.append([("dc", "more")])
    TYPES.setdefault("sn", ["sn"])
    assert not dn.same(spell(name, data.draw), spell(changed, data.draw))


@FAST
@given(st.lists(st.tuples(st.sampled_from(["cn", "ou"]), st.text(alphabet='ab ,;+"\\<>=é', min_size=1, max_size=6)), min_size=1, max_size=3))
def test_ldap3_takes_names_apart_at_the_same_places(pairs):
    """escape_rdn writes what parse_dn and parse read."""
    assume(all(value.strip() for _, value in pairs))
    text = ",".join(f"{kind}={escape_rdn(value)}" for kind, value in pairs)
    theirs = parse_dn(text)
    assert [kind for kind, _, _ in theirs] == [kind for rdn in dn.parse(text) for kind, _ in rdn] == [kind for kind, _ in pairs]
    assert [value for rdn in dn.parse(text) for _, value in rdn] == [dn.prepare(value) for _, value in pairs]


@FAST
@given(st.text(max_size=40) | st.text(alphabet='cn=a,;+"\\#0123456789 <>\t', max_size=30).map("cn=".__add__))
def test_any_text_is_a_dn_or_a_dn_error_and_has_a_normal_form(text):
    assert isinstance(dn.normalise_name(text), str)
    try:
        rdns = dn.parse(text)
    except DnError:
        assert not dn.same(text, text)
        return
    assert dn.same(text, text)
    assert dn.parse(dn.normalise(text)) == rdns


# -- preparing values


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Ann  Lee", "ann lee"),
        (" ann ", "ANN"),
        ("a\tb\nc\u00a0d\u2003e\u2028f", "A B C D E F"),
        ("a\u00adb\u200bc\ufe0fd\u034fe\u180be\ufffcf", "abcdeef"),  # mapped to nothing
        ("a\0b\x1b\u200dc", "abc"),
        ("\uff46\uff55\uff4c\uff4c", "full"),
        ("ﬁ", "FI"),
        ("e\u0301", "É"),
        ("²", "2"),
        ("Straße", "STRASSE"),
        ("ΣΑΣ", "σας"),
        ("\u212b", "å"),
        ("\U0001d400", "a"),
    ],
)
def test_values_are_compared_as_prepared(one, other):
    assert dn.prepare(one) == dn.prepare(other)


@pytest.mark.parametrize(("one", "other"), [("ann", "ann."), ("a b", "ab"), ("é", "e"), ("\u0131", "i"), ("a", "\u0430"), ("", "x")])
def test_different_values_stay_different(one, other):
    assert dn.prepare(one) != dn.prepare(other)


@FAST
@given(st.text(max_size=12))
def test_preparing_twice_changes_nothing(text):
    once = dn.prepare(text)
    assert dn.prepare(once) == once
    assert dn.prepare(text.upper()) in (once, dn.prepare(text.upper()))


def test_preparing_twice_changes_nothing_for_any_character():
    for code in range(0x110000):
        once = dn.prepare(chr(code))
        if once != chr(code):
            assert dn.prepare(once) == once, hex(code)


def test_names_that_are_no_dns_are_compared_without_regard_to_case():
    assert dn.normalise_name("EXAMPLE\\Ann") == dn.normalise_name("example\\ann") == "example\\ann"
    assert dn.normalise_name("Ann@Example.TEST") == "ann@example.test"
    assert dn.normalise_name("a=") != dn.normalise_name("a")
    assert dn.normalise_name("=x") == "=x"
    assert dn.normalise_name("CN=Ann , dc=x") == dn.normalise_name("cn=ann;DC=X") == "dn:cn=ann,dc=x"


# -- attribute types


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("userPassword", "userpassword"),
        ("2.5.4.35", "userpassword"),
        ("OID.2.5.4.35", "userpassword"),
        ("oid.1.2.840.113556.1.4.90", "unicodepwd"),
        ("0.9.2342.19200300.100.1.41", "mobile"),
        ("mobileTelephoneNumber", "mobile"),
        ("Fax", "facsimiletelephonenumber"),
        ("msDS-KeyCredentialLink", "msds-keycredentiallink"),
        ("oid", "oid"),
        ("oid.cn", "cn"),
        ("my_own", "my_own"),
        ("1.2.3", "1.2.3"),
    ],
)
def test_an_attribute_type_has_one_spelling(text, name):
    assert dn.attribute_type(text) == name
    assert dn.attribute_type(text.upper()) == name
    assert dn.first_types(f"{text}=x,dc=y") == (name,)


@pytest.mark.parametrize(
    "text",
    ["", " cn", "cn ", "cn\0", "c n", "1", "2.5.4.035", "2.5.4.", "3.5", "-cn", "1cn", "cn;binary", "u\u017fer", "\u212aey", "oid.", "cn\n", "*", "2.5.4.35x"],
)
def test_what_is_no_attribute_type_is_refused(text):
    with pytest.raises(DnError):
        dn.attribute_type(text)


@pytest.mark.parametrize(
    ("text", "types"),
    [
        ("cn=x", ("cn",)),
        ("cn=", ("cn",)),
        ("CN = x , userPassword=y", ("cn",)),
        ("cn=x;userPassword=y", ("cn",)),
        ("cn=x+userPassword=y,dc=z", ("cn", "userpassword")),
        (" cn=x +\tOID.2.5.4.35 = y", ("cn", "userpassword")),
        ("cn=x\\+userPassword=y", ("cn",)),
        ("cn=x\\\\+userPassword=y", ("cn", "userpassword")),
        ("cn=x\\2b+userPassword=y", ("cn", "userpassword")),
        ("cn=#040178+userPassword=y", ("cn", "userpassword")),
        ("cn=a=b+sn=\u00e4\n", ("cn", "sn")),
        ("cn=x,<GUID=00>", ("cn",)),
        ('cn=x,"', ("cn",)),
    ],
)
def test_the_types_of_the_first_rdn(text, types):
    assert dn.first_types(text) == types


@pytest.mark.parametrize(
    "text",
    ["", " ", "x", "=x", "cn", "cn=x+", "cn=x+y", "+cn=x", ",cn=x", 'cn="x+userPassword=y"', 'cn=x"', 'cn=x"sn=y', "cn=x\\", "<GUID=00>", "<GUID=00>;cn=x", "cn=x+us\u00e9r=y", "cn\0=x", "cn;binary=x", "c\\6e=x"],
)
def test_a_first_rdn_that_can_be_read_in_two_ways_is_refused(text):
    with pytest.raises(DnError):
        dn.first_types(text)


@FAST
@given(st.lists(st.tuples(st.sampled_from(["cn", "2.5.4.35", "OID.2.5.4.3", "userPassword", "mobile"]), st.text(min_size=1, max_size=8)), min_size=1, max_size=3))
def test_a_first_rdn_is_read_as_others_read_it(pairs):
    text = "+".join(f"{name}={escape_rdn(value)}" for name, value in pairs)
    assert dn.first_types(text + ",dc=x") == tuple(dn.attribute_type(name) for name, _ in pairs)


@FAST
@given(st.text(alphabet='cn=+,;"\\ #\0x', max_size=20))
def test_the_first_types_are_among_those_of_the_whole(text):
    """Whatever is read strictly and liberally alike, is read the same."""
    try:
        strict = dn.first_types(text)
        whole = dn.parse(text)
    except DnError:
        return
    assert sorted(strict) == sorted(name for name, _ in whole[0])
