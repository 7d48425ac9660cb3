"""Factors are found by entry point, ours like strangers'."""

from importlib.metadata import EntryPoint, EntryPoints

import pytest

import ldapmfa.factors
from ldapmfa.errors import ConfigError


def test_ours_are_found_by_their_kinds():
    factors = ldapmfa.factors.load(["totp", "recovery", "hotp"])
    assert list(factors) == ["totp", "recovery", "hotp"]
    assert all(factor.kind == name for name, factor in factors.items())


def test_every_unknown_name_is_reported_with_the_key_and_the_known_ones():
    with pytest.raises(ConfigError) as caught:
        ldapmfa.factors.load(["totp", "topt", "sms"])
    assert len(caught.value.mistakes) == 2
    for mistake, name in zip(caught.value.mistakes, ["topt", "sms"], strict=True):
        assert mistake.startswith(f"login.factors: '{name}'")
        assert "hotp, recovery, totp" in mistake


@pytest.mark.parametrize("value", ["no.such.module:X", "ldapmfa.factors:NoSuchName", "ldapmfa.factors:Match"])
def test_one_that_can_not_be_constructed_is_a_mistake_of_the_configuration(monkeypatch, value):
    entry = EntryPoint("broken", value, ldapmfa.factors.GROUP)
    monkeypatch.setattr(ldapmfa.factors, "entry_points", lambda group: EntryPoints([entry]))
    with pytest.raises(ConfigError, match=r"login\.factors: 'broken' can't be loaded"):
        ldapmfa.factors.load(["broken"])
