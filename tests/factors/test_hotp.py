"""HOTP against RFC 4226: its test values, look-ahead, replay and resynchronisation."""

from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import pytest

from ldapmfa.core.secret import Secret
from ldapmfa.errors import ConfigError
from ldapmfa.factors import Credential, Match, hotp
from ldapmfa.factors.hotp import Hotp

#: RFC 4226 appendix D: the codes of "12345678901234567890" for the counters 0 to 9.
CODES = ["755224", "287082", "359152", "969429", "338314", "254676", "287922", "162583", "399871", "520489"]
TOKEN = Credential("t", "hotp", Secret(b"12345678901234567890"), {"digits": 6})


def at(position):
    return replace(TOKEN, position=position)


@pytest.mark.parametrize(("counter", "code"), list(enumerate(CODES)))
def test_rfc_4226_appendix_d(counter, code):
    assert Hotp().match(at(counter - 1), code, 0) == Match("t", counter)


def test_looks_ten_counters_ahead_and_no_further():
    assert Hotp().match(at(-1), CODES[9], 0) == Match("t", 9)
    assert Hotp().match(replace(at(-1), position=-2), CODES[9], 0) is None


def test_the_last_used_code_is_known_again_and_older_ones_are_not():
    assert Hotp().match(at(5), CODES[5], 0) == Match("t", 5)
    assert Hotp().match(at(5), CODES[4], 0) is None


@pytest.mark.parametrize(
    "code",
    [
        "755 224",
        " 755224",
        "755224 ",
        "\u0667\u0665\u0665\u0662\u0662\u0664",
        "\uff17\uff15\uff15\uff12\uff12\uff14",
        "75522",
        "7552240",
        "",
        "75522²",
        "+55224",
    ],
)
def test_only_the_very_ascii_digits_match(code):
    assert Hotp().match(at(-1), code, 0) is None


def test_resynchronises_by_two_consecutive_codes_within_a_thousand():
    hotp = Hotp()
    new = hotp.new(entropy=lambda n: b"k" * n, account="a", issuer="i", options={})
    import pyotp

    otp = pyotp.HOTP("NNVWW23LNNVWW23LNNVWW23LNNVWW23L")
    assert new.secret.reveal() == otp.byte_secret()
    token = Credential("x", "hotp", new.secret, new.parameters)
    assert hotp.resynchronise(token, otp.at(998), otp.at(999), 0) == Match("x", 999)
    assert hotp.resynchronise(token, otp.at(999), otp.at(1001), 0) is None
    assert hotp.resynchronise(token, otp.at(1000), otp.at(1001), 0) is None
    assert hotp.match(token, otp.at(999), 0) is None


def test_resynchronising_begins_with_the_first_counter_and_goes_no_further_back():
    """A new token has used none: there is no code before its first."""
    assert Hotp().resynchronise(at(-1), CODES[0], CODES[1], 0) == Match("t", 1)
    assert Hotp().resynchronise(at(-1), "000000", CODES[0], 0) is None


def test_an_unused_counter_is_preferred_where_codes_collide(monkeypatch):
    monkeypatch.setattr(hotp, "codes", lambda _credential: lambda _counter: "111111")
    assert Hotp().match(at(5), "111111", 0) == Match("t", 6)
    assert Hotp().resynchronise(at(5), "111111", "111111", 0) == Match("t", 6)


@pytest.mark.parametrize(("first", "second"), [("75522", "287082"), ("755224", "28708²"), ("", "")])
def test_resynchronising_takes_nothing_but_codes(first, second):
    assert Hotp().resynchronise(at(-1), first, second, 0) is None


def test_resynchronising_with_used_codes_names_a_used_position():
    assert Hotp().resynchronise(at(5), CODES[4], CODES[5], 0) is None
    assert Hotp().resynchronise(at(5), CODES[5], CODES[6], 0) == Match("t", 6)


def test_new_secret_uri_and_options():
    new = Hotp().new(
        entropy=lambda n: bytes(range(n)), account="alice@example.com", issuer="ACME: VPN", options={"digits": 8}
    )
    assert len(new.secret.reveal()) == 20
    assert new.parameters == {"digits": 8}
    assert new.position == -1
    uri = urlsplit(new.uri.reveal().decode())
    assert (uri.scheme, uri.netloc) == ("otpauth", "hotp")
    query = parse_qs(uri.query)
    assert query["counter"] == ["0"]
    assert query["digits"] == ["8"]
    assert query["issuer"] == ["ACME: VPN"]
    assert "***" in repr(new)
    assert query["secret"][0] not in repr(new)


@pytest.mark.parametrize("options", [{"digits": 7}, {"digits": "6"}, {"digits": True}, {"period": 30}])
def test_wrong_options_are_named(options):
    with pytest.raises(ConfigError, match="hotp." + next(iter(options))):
        Hotp().new(entropy=bytes, account="a", issuer="i", options=options)
