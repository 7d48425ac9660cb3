"""Printed recovery codes."""

import os

import pytest

from ldapmfa.core.secret import GENERATED
from ldapmfa.errors import ConfigError
from ldapmfa.factors import Credential
from ldapmfa.factors.recovery import ALPHABET, COUNT, Recovery


@pytest.fixture
def new():
    return Recovery().new(entropy=os.urandom, account="a", issuer="i", options={})


def printed(new):
    return [code.reveal().decode() for code in new.codes]


def credential(new, **fields):
    return Credential("r", "recovery", new.secret, new.parameters, **{"unused": new.unused, **fields})


def test_ten_different_codes_in_the_syntax_of_the_core(new):
    codes = printed(new)
    assert len(set(codes)) == len(new.unused) == COUNT == 10
    assert all(GENERATED.fullmatch(code.encode()) and code == code.lower() for code in codes)
    assert len(new.secret.reveal()) == 32


def test_the_alphabet_is_that_of_the_syntax():
    assert {char for char in map(chr, range(128)) if GENERATED.fullmatch(f"rc-{char * 4}-2222-2222".encode())} == set(
        ALPHABET
    ) | set(ALPHABET.upper())


def test_each_code_matches_whatever_its_case_and_names_its_own_hash(new):
    found = [Recovery().match(credential(new), code, 0) for code in printed(new)]
    assert {match.token for match in found} == new.unused
    assert {match.position for match in found} == {None}
    assert Recovery().match(credential(new), printed(new)[0].upper(), 0) == found[0]


def test_a_used_code_matches_so_that_the_store_can_call_it_a_replay(new):
    code = printed(new)[0]
    token = Recovery().match(credential(new), code, 0).token
    used = credential(new, unused=new.unused - {token}, used=frozenset({token}))
    assert Recovery().match(used, code, 0).token == token


def test_what_is_not_one_of_them_does_not_match(new):
    code = printed(new)[0]
    other = Recovery().new(entropy=os.urandom, account="a", issuer="i", options={})
    for wrong in (
        code[3:],
        code + " ",
        code.replace("-", ""),
        "",
        "rc-\u0131\u0131\u0131\u0131-2222-2222",
        printed(other)[0],
        code[:-1],
    ):
        assert Recovery().match(credential(new), wrong, 0) is None


def test_the_same_code_hashes_differently_under_another_secret(new):
    other = Recovery().new(entropy=os.urandom, account="a", issuer="i", options={})
    stolen = credential(other, unused=new.unused)
    assert Recovery().match(stolen, printed(new)[0], 0) is None


def test_characters_are_drawn_evenly():
    octets = iter(range(10**9))
    Recovery().new(entropy=lambda n: bytes(next(octets) % 256 for _ in range(n)), account="a", issuer="i", options={})
    from ldapmfa.factors.recovery import characters

    characters = characters(lambda n: bytes(range(n)))
    drawn = [next(characters) for _ in range(248)]
    assert {drawn.count(char) for char in ALPHABET} == {8}


def test_no_code_shows(new):
    assert all(code not in repr(new) for code in printed(new))


def test_it_has_no_options_and_never_resynchronises(new):
    with pytest.raises(ConfigError, match=r"recovery\.digits"):
        Recovery().new(entropy=os.urandom, account="a", issuer="i", options={"digits": 6})
    assert Recovery().resynchronise(credential(new), printed(new)[0], printed(new)[1], 0) is None
