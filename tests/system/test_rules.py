"""Applications and rules before real directories, as the documentation configures them."""

import re
from contextlib import contextmanager
from pathlib import Path

import pytest
from system.proxy import Proxy
from system.wire import Raw, bind, search

from ldapmfa.wire import ber, ldap

PAGE = Path(__file__).resolve().parents[2] / "docs/howto/from-azure-mfa-server.md"
OFFICE, GATEWAY, ELSEWHERE = "10.20.1.2", "10.1.2.10", "203.0.113.9"


def block(first_line):
    """The block of configuration on the page that has this line."""
    found = re.findall(r"^```toml\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (text,) = [text for text in found if first_line in text.splitlines()]
    return text


@contextmanager
def client(proxy, address):
    """A connection that a load balancer says comes from `address`."""
    with Raw(proxy.host, proxy.port) as raw:
        raw.send(f"PROXY TCP4 {address} 192.0.2.1 40000 389\r\n".encode())
        yield raw


def log_in(proxy, name, typed, address=ELSEWHERE):
    with client(proxy, address) as raw:
        raw.send(bind(1, proxy.directory.user(name).dn, typed))
        return ldap.read_result(raw.answer()[-1])


def last(proxy, count=1):
    """Reason and application of what was recorded last."""
    proxy.process.wait_until(lambda: len(proxy.records()) >= count)
    record = proxy.records()[-1]
    return record["reason"], record["application"]


#: What `text` says, too: there is no asking without a header whether it listens.
BALANCED = {"proxy_protocol_from": ["127.0.0.0/8"]}
BASE = """\
[[listen]]
endpoint = "tcp:{port}:interface=127.0.0.1"
name = "ldap"
proxy_protocol_from = ["127.0.0.0/8"]

[directory]
uris = ["{uri}"]

[store]
url = "sqlite:///state.db"
key_file = "store.key"

"""


@pytest.fixture(scope="module")
def company(slapd, tmp_path_factory):
    """Before OpenLDAP, with the company settings of the page as they stand there."""
    text = BASE + block("[fraud]").replace('factors = ["totp"]', 'factors = ["hotp", "totp"]')
    with Proxy(slapd, tmp_path_factory.mktemp("proxy"), text=text, listen=BALANCED) as proxy:
        yield proxy


def test_trusted_ips_need_no_second_factor_and_others_do(company):
    user = company.directory.user("dave")
    company.enrol("dave")
    count = len(company.records())
    assert log_in(company, "dave", user.password, OFFICE).code == 0
    assert last(company, count + 1) == ("by-rule", "ldap")
    assert log_in(company, "dave", user.password, ELSEWHERE).code == 49
    assert last(company, count + 2)[0] == "no-code"
    assert log_in(company, "dave", company.typed("dave"), ELSEWHERE).code == 0


def test_a_clients_cache_lets_the_same_login_in_again_and_no_other(company):
    typed = company.typed("alice")
    count = len(company.records())
    assert log_in(company, "alice", typed, GATEWAY).code == 0
    assert last(company, count + 1) == ("code", "Citrix Gateway")
    assert log_in(company, "alice", typed, GATEWAY).code == 0
    assert last(company, count + 2) == ("reused", "Citrix Gateway")
    assert log_in(company, "alice", typed, ELSEWHERE).code == 49
    assert last(company, count + 3) == ("replayed-code", "ldap")


def test_A37_an_address_counts_only_from_a_balancer(slapd, tmp_path):
    """Without the header's place being configured, a client is where its connection comes from."""
    text = BASE.replace('proxy_protocol_from = ["127.0.0.0/8"]', 'proxy_protocol_from = ["127.9.9.9"]') + block("[fraud]")
    with Proxy(slapd, tmp_path / "proxy", text=text, listen=BALANCED) as proxy:
        with client(proxy, OFFICE) as raw:
            raw.send(bind(1, proxy.directory.user("dave").dn, proxy.directory.user("dave").password))
            with pytest.raises((EOFError, ConnectionError)):
                assert raw.answer()[-1].id == 0, "a notice of disconnection at most"
                raw.answer()
        with Raw(proxy.host, proxy.port) as raw:
            raw.send(bind(1, proxy.directory.user("dave").dn, proxy.directory.user("dave").password))
            assert ldap.read_result(raw.answer()[-1]).code == 49


RULES = """
[login]
factors = ["hotp", "recovery"]
grace_days = 1

[[application]]
name = "reader"
networks = ["10.7.0.0/16"]
read_only = true

[[application]]
name = "portal"
networks = ["10.8.0.0/16"]
denied_attributes = ["telephoneNumber"]
tell_password_state = true

[[application]]
name = "newcomers"
networks = ["10.6.0.0/16"]
require_user_match = "grace"

[[rule]]
name = "closed"
action = "refuse"
ous = ["OU = People ; {base}"]

[[rule]]
name = "paper only"
networks = ["10.9.0.0/16"]
factors = ["recovery"]

[directory.service_account]
dn = "{service}"
password = "{password}"
"""


@contextmanager
def ruled(directory, path):
    rules = RULES.format(base=directory.base_dn, service=directory.service_dn, password=directory.service_password)
    with Proxy(directory, path / "proxy", text=BASE + rules, listen=BALANCED) as proxy:
        yield proxy


@pytest.fixture(scope="module", params=["slapd", "samba"])
def house(request, tmp_path_factory):
    with ruled(request.getfixturevalue(request.param), tmp_path_factory.mktemp("proxy")) as proxy:
        yield proxy


def test_a_rule_by_place_holds_whoever_is_below_it(house):
    count = len(house.records())
    assert log_in(house, "paula", house.typed("paula")).code == 49
    assert last(house, count + 1) == ("rule", "ldap")
    assert house.records()[-1]["detail"] == "closed"
    assert log_in(house, "dave", house.typed("dave")).code == 0


def test_a_rule_by_network_asks_for_another_factor(house):
    assert log_in(house, "bob", house.typed("bob"), "10.9.1.1").code == 49
    assert log_in(house, "bob", house.typed("bob"), ELSEWHERE).code == 0


def test_accounts_without_a_factor_have_days_of_grace(house):
    count = len(house.records())
    assert log_in(house, "erin", house.directory.user("erin").password, "10.6.1.1").code == 0
    assert last(house, count + 1) == ("grace", "newcomers")
    assert log_in(house, "erin", house.directory.user("erin").password).code == 49


def modify(message_id, name, attribute, value):
    attribute_and_values = ber.tlv(0x30, ber.tlv(4, attribute.encode()), ber.tlv(0x31, ber.tlv(4, value.encode())))
    change = ber.tlv(0x30, ber.encode_integer(2, ber.ENUMERATED), attribute_and_values)
    return ldap.message(message_id, ber.tlv(ldap.MODIFY_REQUEST, ber.tlv(4, name.encode()), ber.tlv(0x30, change)))


def bound(house, raw, name):
    raw.send(bind(1, house.directory.user(name).dn, house.typed(name)))
    assert ldap.read_result(raw.answer()[-1]).code == 0


def test_A46_a_program_that_only_reads_writes_nothing(house):
    name = house.directory.user("alice").dn
    with client(house, "10.7.1.1") as raw:
        bound(house, raw, "alice")
        raw.send(search(2, name, scope=ldap.BASE))
        assert ldap.read_result(raw.answer(2)[-1]).code == 0
        raw.send(modify(3, name, "telephoneNumber", "+1555"))
        assert ldap.read_result(raw.answer(3)[-1]).code == 50


def test_A46_an_attribute_that_is_denied_is_not_written_in_any_spelling(house):
    name = house.directory.user("alice").dn
    with client(house, "10.8.1.1") as raw:
        bound(house, raw, "alice")
        for number, attribute in enumerate(("telephoneNumber", "TELEPHONENUMBER", "2.5.4.20", "telephoneNumber;lang-en"), 2):
            raw.send(modify(number, name, attribute, "+1555"))
            assert ldap.read_result(raw.answer(number)[-1]).code == 50, attribute
        raw.send(modify(9, name, "description", "changed"))
        assert ldap.read_result(raw.answer(9)[-1]).text != b"The application must not write that attribute."


@pytest.mark.parametrize(("name", "data", "reason"), [("mustchange", "773", "must-change-password"), ("pwexpired", "532", "password-expired")])
def test_A23_who_has_shown_a_code_is_told_that_the_password_must_be_changed(samba, tmp_path, name, data, reason):
    """By Active Directory's own words, at the application that may be told, and nowhere else."""
    with ruled(samba, tmp_path) as proxy:
        user = samba.user(name)
        proxy.enrol(name)
        attempts = [
            (user.password, "10.8.1.1"),
            (user.password + "000000", "10.8.1.1"),
            (proxy.typed(name), ELSEWHERE),
            ("wrong" + proxy.typed(name), "10.8.1.1"),
        ]
        for typed, address in attempts:
            result = log_in(proxy, name, typed, address)
            assert (result.code, f"data {data}".encode() in result.text) == (49, False), (typed, address)
        result = log_in(proxy, name, proxy.typed(name), "10.8.1.1")
        assert (result.code, f"data {data}".encode() in result.text) == (49, True)
        again = log_in(proxy, name, user.password + proxy.tokens[name].code(), "10.8.1.1")
        assert f"data {data}".encode() in again.text
        events = proxy.events()
        assert {event.outcome for event in events if hasattr(event, "outcome")} == {"refused"}
        assert events[0].reason == reason
