"""TOTP against RFC 6238: its test values, the window, drift, replay and resynchronisation."""

from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import pyotp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldapmfa.core.secret import Secret
from ldapmfa.errors import ConfigError
from ldapmfa.factors import Credential, Match, hotp
from ldapmfa.factors.hotp import base32
from ldapmfa.factors.totp import MAX_DRIFT, Totp

SEEDS = {
    "sha1": b"12345678901234567890",
    "sha256": b"12345678901234567890123456789012",
    "sha512": b"1234567890123456789012345678901234567890123456789012345678901234",
}
#: RFC 6238 appendix B (with the seeds of the errata).
VECTORS = [
    (59, "94287082", "46119246", "90693936"),
    (1111111109, "07081804", "68084774", "25091201"),
    (1111111111, "14050471", "67062674", "99943326"),
    (1234567890, "89005924", "91819424", "93441116"),
    (2000000000, "69279037", "90698825", "38618901"),
    (20000000000, "65353130", "77737706", "47863826"),
]
NOW = 1111111109.0
STEP = int(NOW) // 30
TOKEN = Credential("t", "totp", Secret(SEEDS["sha1"]), {"algorithm": "sha1", "digits": 6, "period": 30})


def code(step):
    return pyotp.HOTP(base32(TOKEN.secret)).at(step)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: str(vector[0]))
@pytest.mark.parametrize("algorithm", SEEDS)
def test_rfc_6238_appendix_b(vector, algorithm):
    at, *codes = vector
    parameters = {"algorithm": algorithm, "digits": 8, "period": 30}
    token = Credential("t", "totp", Secret(SEEDS[algorithm]), parameters)
    assert Totp().match(token, codes[list(SEEDS).index(algorithm)], at) == Match("t", at // 30)


@pytest.mark.parametrize("offset", range(-3, 4))
def test_one_step_either_way(offset):
    found = Totp().match(TOKEN, code(STEP + offset), NOW)
    assert found == (Match("t", STEP + offset, drift=offset) if abs(offset) <= 1 else None)


def test_the_window_follows_the_drift():
    token = replace(TOKEN, drift=4)
    assert Totp().match(token, code(STEP + 5), NOW) == Match("t", STEP + 5, drift=5)
    assert Totp().match(token, code(STEP), NOW) is None


@pytest.mark.parametrize("sign", [-1, 1])
def test_drift_goes_no_further_than_ten_steps(sign):
    token = replace(TOKEN, drift=sign * MAX_DRIFT)
    found = Totp().match(token, code(STEP + sign * 11), NOW)
    assert found == Match("t", STEP + sign * 11, drift=sign * MAX_DRIFT)
    assert Totp().match(replace(TOKEN, drift=sign * 50), code(STEP + sign * 12), NOW) is None


def test_a_used_step_is_found_for_the_store_to_call_it_a_replay():
    token = replace(TOKEN, position=STEP)
    assert Totp().match(token, code(STEP), NOW).position == STEP
    assert Totp().match(token, code(STEP - 1), NOW).position == STEP - 1


def asked(monkeypatch, *, always=None):
    """The counters whose codes are computed from now on; they are all `always`, if given."""
    counters, real = [], hotp.codes

    def codes(credential):
        code_of = real(credential)
        return lambda counter: counters.append(counter) or always or code_of(counter)

    monkeypatch.setattr(hotp, "codes", codes)
    return counters


def test_an_unused_step_is_preferred_where_codes_collide(monkeypatch):
    asked(monkeypatch, always="111111")
    assert Totp().match(replace(TOKEN, position=STEP), "111111", NOW).position == STEP + 1
    assert Totp().match(replace(TOKEN, position=STEP - 1), "111111", NOW).position == STEP
    assert Totp().match(replace(TOKEN, position=STEP + 5), "111111", NOW).position == STEP


def test_the_likeliest_step_is_tried_first_and_it_ends_there(monkeypatch):
    counters = asked(monkeypatch)
    Totp().match(replace(TOKEN, drift=2), code(STEP + 2), NOW)
    assert counters == [STEP + 2]


def test_a_wrong_code_is_compared_with_the_whole_window(monkeypatch):
    counters = asked(monkeypatch)
    assert Totp().match(TOKEN, "000000", NOW) is None
    assert sorted(counters) == [STEP - 1, STEP, STEP + 1]
    counters.clear()
    assert Totp().match(replace(TOKEN, position=STEP), "000000", NOW) is None
    assert counters == [STEP + 1, STEP, STEP - 1], "those used up at the end"


@given(
    seed=st.binary(min_size=14, max_size=128),  # pyotp takes no shorter one
    algorithm=st.sampled_from(sorted(SEEDS)),
    digits=st.sampled_from([6, 8]),
    counter=st.integers(0, 2**63),
)
def test_our_codes_are_pyotps(seed, algorithm, digits, counter):
    token = Credential("t", "totp", Secret(seed), {"algorithm": algorithm, "digits": digits})
    theirs = pyotp.HOTP(base32(token.secret), digits=digits, digest=hotp.ALGORITHMS[algorithm]).at(counter)
    assert hotp.codes(token)(counter) == theirs


def test_no_step_before_the_epoch():
    assert Totp().match(TOKEN, code(0), 3.0) == Match("t", 0)


@given(st.text(max_size=8))
def test_any_text_is_an_answer_and_not_an_error(text):
    found = Totp().match(TOKEN, text, NOW)
    assert found is None or text in {code(STEP + offset) for offset in (-1, 0, 1)}


@pytest.mark.parametrize("form", ["{} ", " {}", "{}\n", "{}\0"])
def test_blanks_are_not_dropped(form):
    assert Totp().match(TOKEN, form.format(code(STEP)), NOW) is None


def test_digits_of_other_scripts_are_no_digits():
    assert Totp().match(TOKEN, code(STEP).translate({ord("0") + n: 0x0660 + n for n in range(10)}), NOW) is None


def test_resynchronises_as_far_as_a_clock_may_be_off():
    totp = Totp()
    assert totp.resynchronise(TOKEN, code(STEP + 9), code(STEP + 10), NOW) == Match("t", STEP + 10, drift=10)
    assert totp.resynchronise(TOKEN, code(STEP - 11), code(STEP - 10), NOW) == Match("t", STEP - 10, drift=-10)
    assert totp.resynchronise(TOKEN, code(STEP + 10), code(STEP + 11), NOW) is None
    assert totp.resynchronise(TOKEN, code(STEP + 3), code(STEP + 5), NOW) is None
    assert totp.resynchronise(TOKEN, code(STEP + 4), code(STEP + 3), NOW) is None


@pytest.mark.parametrize(("algorithm", "length"), [("sha1", 20), ("sha256", 32), ("sha512", 64)])
def test_a_secret_is_as_long_as_the_hash(algorithm, length):
    options = {"algorithm": algorithm, "digits": 8, "period": 60}
    new = Totp().new(entropy=lambda n: bytes(range(n)), account="alice", issuer="ACME", options=options)
    assert len(new.secret.reveal()) == length
    assert new.parameters == options
    uri = new.uri.reveal().decode()
    assert "=" not in parse_qs(urlsplit(uri).query)["secret"][0]
    assert pyotp.parse_uri(uri).at(90) == pyotp.HOTP(
        base32(new.secret), digits=8, digest=getattr(__import__("hashlib"), algorithm)
    ).at(1)
    assert uri not in repr(new)


@pytest.mark.parametrize(
    "options", [{"algorithm": "md5"}, {"digits": 5}, {"period": 0}, {"period": 121}, {"window": 9}]
)
def test_wrong_options_are_named(options):
    with pytest.raises(ConfigError, match="totp." + next(iter(options))):
        Totp().new(entropy=bytes, account="a", issuer="i", options=options)


def test_any_period_matches():
    token = replace(TOKEN, parameters={"period": 300})
    assert Totp().match(token, code(7), 7 * 300.0) == Match("t", 7)


def test_a_credential_without_parameters_is_the_usual_kind():
    assert Totp().match(replace(TOKEN, parameters={}), code(STEP), NOW) == Match("t", STEP)
