"""Factors are found by entry point, ours like strangers'."""

from importlib.metadata import EntryPoint, EntryPoints

import pytest

import ldapmfa.factors
from ldapmfa.config import ServiceTable, plugins
from ldapmfa.errors import ConfigError
from ldapmfa.factors.service import Tools


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
        assert "entra, hotp, privacyidea, radius, recovery, totp, webhook" in mistake


@pytest.mark.parametrize("value", ["no.such.module:X", "ldapmfa.factors:NoSuchName", "ldapmfa.factors:Match"])
def test_one_that_can_not_be_constructed_is_a_mistake_of_the_configuration(monkeypatch, value):
    entry = EntryPoint("broken", value, plugins.GROUP)
    monkeypatch.setattr(plugins, "entry_points", lambda group: EntryPoints([entry]))
    with pytest.raises(ConfigError, match=r"login\.factors: 'broken' can't be (loaded|constructed)"):
        ldapmfa.factors.load(["broken"])


def test_of_two_with_one_name_ours_is_taken(monkeypatch):
    """A stranger's distribution must not take the place of a factor by being installed."""
    ours = EntryPoint("totp", "ldapmfa.factors.totp:Totp", plugins.GROUP)
    for theirs in ("aaa.strangers:Totp", "zzz.strangers:Totp"):
        for order in ([ours, EntryPoint("totp", theirs, plugins.GROUP)], [EntryPoint("totp", theirs, plugins.GROUP), ours]):
            monkeypatch.setattr(plugins, "entry_points", lambda group: EntryPoints(order))  # noqa: B023
            assert plugins.installed()["totp"] == ours


def test_a_services_class_is_constructed_with_its_table():
    table = ServiceTable(kind="webhook")
    with pytest.raises(ConfigError, match=r"factors\.webhook: can't be used"):
        ldapmfa.factors.load_services(["webhook"], {"webhook": table}, lambda _name: Tools())
