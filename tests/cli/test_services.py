"""Commands about services: a user's method, and a service tried for one user; no service is there to answer."""

import pytest

ASKS = """\
[[listen]]
endpoint = "tcp:{port}:interface=127.0.0.1"

[directory]
uris = ["ldap://127.0.0.1:9"]

[login]
factors = ["totp", "webhook"]

[factors.webhook]
url = "http://127.0.0.1:9"
secret = "0123456789abcdef0123456789abcdef"
methods = ["push", "phone"]
connect_timeout = 2

[factors.unused]
kind = "webhook"
url = "http://127.0.0.1:9"
secret = "0123456789abcdef0123456789abcdef"
"""


@pytest.fixture
def asks(bare, port):
    bare.configure(ASKS.format(port=port))
    return bare


def test_a_method_must_be_one_by_which_somebody_can_be_asked(asks):
    ran = asks("user", "set-method", "alice", "pigeon", "--json")
    assert ran.code == 2
    said = '"pigeon": nobody can be asked like this; known are code, push, phone, webhook, webhook/push, webhook/phone; '
    assert ran.errors == [said + "a device may follow, as in push:2"]


@pytest.mark.parametrize("words", [(), ("push", "--default")])
def test_a_method_or_default_is_needed_and_not_both(asks, words):
    ran = asks("user", "set-method", "alice", *words)
    assert ran.code == 2
    assert "give a METHOD, or --default" in ran.err


def test_who_was_never_seen_has_no_method(asks):
    ran = asks.child("user", "set-method", "alice", "push")
    assert ran.code == 1
    assert "nobody called alice is enrolled or has logged in" in ran.err


def test_who_only_waits_for_an_enrolment_has_no_method(asks):
    assert asks("user", "enrol", "alice").code == 0
    ran = asks.child("user", "set-method", "alice", "push")
    assert ran.code == 1
    assert "let them log in once before" in ran.err


def test_a_service_that_there_is_not_is_said(asks):
    ran = asks("factor", "test", "duo", "--user", "alice")
    assert ran.code == 2
    assert "there is no table [factors.duo]; there are: webhook, unused" in ran.err


@pytest.mark.parametrize("words", [(), ("--code", "123456")])
def test_a_service_that_is_not_there_is_broken_and_asks_nobody(asks, words):
    ran = asks("factor", "test", "webhook", "--user", "alice", "--json", *words)
    assert ran.code == 3
    assert (ran.json["outcome"], ran.json["reason"], ran.json["service"]) == ("broken", "factor-down", "webhook")
    assert "can't be connected to" in ran.json["detail"]
    assert "Nobody can have been asked." in ran.json["meaning"]
    assert "123456" not in ran.out


def test_in_plain_words_it_says_each_step(asks):
    ran = asks("factor", "test", "webhook", "--user", "al\x1b[1mice")
    assert ran.code == 3
    assert ran.out.startswith("1. webhook (webhook) is asked for its health; this asks nobody.")
    assert "Broken (factor-down)." in ran.out
    assert "\x1b" not in ran.out


def test_check_config_online_asks_every_service_that_is_used_for_its_health(asks):
    ran = asks.child("check-config", "--online", "--json")
    assert ran.code == 3
    assert any("factors.webhook: " in error and "can't be connected to" in error for error in ran.errors)
    assert not any("factors.unused: " in error for error in ran.errors)


def test_a_keyword_by_which_nobody_can_be_asked_and_a_secret_for_everybody_are_warned_of(asks, port):
    secret = asks.directory / "webhook.secret"
    secret.write_text("0123456789abcdef0123456789abcdef")
    secret.chmod(0o644)
    text = ASKS.format(port=port).replace('"webhook"]', '"webhook"]\nkeywords = {ring = "rong", go = "push"}')
    asks.configure(text.replace('secret = "0123456789abcdef0123456789abcdef"', 'secret_file = "webhook.secret"', 1))
    ran = asks("check-config")
    assert ran.code == 0
    assert "login.keywords.ring: nobody can be asked by rong; known are code, push, phone" in ran.err
    assert "login.keywords.go" not in ran.err
    assert f"factors.webhook.secret_file: {secret} can be read by everybody: chmod 640" in ran.err


def test_a_service_that_nobody_uses_is_warned_of(asks):
    ran = asks("check-config")
    assert ran.code == 0
    assert 'factors.unused: nobody is asked by it: login.factors does not have "unused"' in ran.err


def test_who_enrols_here_gets_the_first_factor_that_is_none_of_a_service(asks):
    file = asks.directory / "ldapmfa.toml"
    asks("init")
    file.write_text(file.read_text().replace('["totp", "webhook"]', '["webhook", "recovery"]'))
    assert asks("user", "enrol", "alice", "--json").json["kind"] == "recovery"
    ran = asks("user", "enrol", "alice", "--kind", "webhook")
    assert (ran.code, "--kind webhook: is a service" in ran.err) == (2, True)
    file.write_text(file.read_text().replace('["webhook", "recovery"]', '["webhook"]'))
    ran = asks("user", "enrol", "bob")
    assert (ran.code, "login.factors: has services alone" in ran.err) == (2, True)
    file.write_text(file.read_text() + '[[rule]]\nname = "x"\nfactors = ["hotp"]\n')
    assert asks("user", "enrol", "bob", "--kind", "hotp", "--json").json["kind"] == "hotp"


def test_a_certificate_that_nobody_is_asked_for_and_a_name_of_two_rules_are_warned_of(asks):
    file = asks.directory / "ldapmfa.toml"
    rule = '[[rule]]\nname = "same"\n'
    file.write_text(f'{file.read_text()}[[application]]\nname = "ci"\ncertificates = ["dns:ci"]\n{rule}{rule}')
    ran = asks("check-config")
    assert ran.code == 0
    assert "application[0].certificates: nobody is asked for one: set client_ca_file" in ran.err
    assert "rule[1].name: same is another rule's name too" in ran.err
