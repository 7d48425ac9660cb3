"""What differs between two configurations, in the words of the file, and never a secret."""

import pytest

from ldapmfa.config import Config
from ldapmfa.config.changes import Change, changes

LISTEN = {"endpoint": "tcp:389:interface=127.0.0.1", "name": "vpn"}
DIRECTORY = {"uris": ["ldap://127.0.0.1"]}


def config(**tables):
    return Config.model_validate({"listen": [LISTEN], "directory": DIRECTORY, **tables})


def found(before, after):
    return [(change.key, change.old, change.new) for change in changes(config(**before), config(**after))]


def test_a_key_that_changed_comes_or_goes():
    assert found({}, {}) == []
    assert found({}, {"limits": {"connections": 5}}) == [("limits.connections", "10000", "5")]
    assert found({}, {"login": {"timezone": "UTC"}}) == [("login.timezone", '""', '"UTC"')]
    assert found({}, {"listen": [{**LISTEN, "deadline": 9}]}) == [("listen[vpn].deadline", "not set", "9.0")]
    assert found({"listen": [{**LISTEN, "deadline": 9}]}, {}) == [("listen[vpn].deadline", "9.0", "not set")]
    networks = [{"account": "svc", "networks": ["10.0.0.0/8"]}]
    assert ("exempt[svc].networks", "not set", '["10.0.0.0/8"]') in found({}, {"exempt": networks})
    keys = ["exempt[*]", "exempt[svc].account", "exempt[svc].networks"]
    assert [key for key, *_ in found({}, {"exempt": networks})] == keys
    assert [key for key, *_ in found({"exempt": networks}, {})] == keys


def test_items_of_lists_go_by_their_names_and_their_order_counts():
    one, two = ({"name": name, "directory": "default", "action": "refuse"} for name in ("one", "two"))
    assert found({"rule": [one, two]}, {"rule": [two, one]}) == [("rule[*]", "one, two", "two, one")]
    changed = found({"rule": [one, two]}, {"rule": [one, {**two, "action": "password-only"}]})
    assert changed == [("rule[two].action", '"refuse"', '"password-only"')]


def test_A43_a_secret_is_said_to_have_changed_and_nothing_else():
    def account(password):
        return {"directory": {**DIRECTORY, "service_account": {"dn": "cn=svc", "password": password}}}

    said = found(account("hunter2"), account("hunter3"))
    assert said == [("directory.service_account.password", "a secret", "a secret")]
    assert found(account("hunter2"), account("hunter2")) == []
    url = found({"store": {"url": "sqlite:///hunter2"}}, {"store": {"url": "sqlite:///hunter3"}})
    assert url == [("store.url", "a secret", "a secret")]


@pytest.mark.parametrize(
    ("key", "restart", "policy"),
    [
        ("rule[*]", False, True),
        ("rule[one].action", False, True),
        ("listen[tcp:389].tls", False, True),
        ("limits.connections", False, False),
        ("throttle.gateways", False, False),
        ("throttle.wrong_codes", True, False),
        ("service.workers", True, True),
        ("store.url", True, True),
        ("log.level", True, True),
        ("directories.corp.uris", False, True),
    ],
)
def test_what_needs_a_restart_and_what_is_about_who_is_let_in(key, restart, policy):
    change = Change(key, "a", "b")
    assert (change.needs_restart, change.is_policy) == (restart, policy)
