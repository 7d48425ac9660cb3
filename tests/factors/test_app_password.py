"""App passwords: for one program, from its networks, for a time."""

import json
import os
from dataclasses import replace
from ipaddress import ip_address

import pytest

from ldapmfa.core.secret import GENERATED
from ldapmfa.errors import ConfigError
from ldapmfa.factors import Credential, Match, load
from ldapmfa.factors.app_password import AppPassword
from ldapmfa.factors.recovery import Recovery

NOW = 1_700_000_000.0


def made(**options):
    new = AppPassword().new(entropy=os.urandom, account="a", issuer="i", options={"application": "jenkins", **options})
    credential = Credential("f", new.kind, new.secret, json.loads(json.dumps(dict(new.parameters))), unused=new.unused)
    return credential, new.codes[0].reveal().decode()


def permits(credential, application="jenkins", client="10.1.2.3", now=NOW):
    return AppPassword().permits(credential, application, ip_address(client) if client else None, now)


def test_it_is_found_by_its_kind():
    assert isinstance(load(["app-password"])["app-password"], AppPassword)


def test_the_code_is_one_by_syntax_and_only_its_keyed_hash_is_kept():
    credential, code = made()
    assert GENERATED.fullmatch(code.encode())
    assert code.startswith("ap-")
    assert code not in repr(credential) + json.dumps(dict(credential.parameters))
    assert made()[1] != code


def test_it_matches_as_static_and_in_upper_case_too():
    credential, code = made()
    assert AppPassword().match(credential, code, NOW) == Match("f", None, static=True)
    assert AppPassword().match(credential, code.upper(), NOW) == Match("f", None, static=True)
    assert AppPassword().match(credential, code[:-1] + "2", NOW) is None or code.endswith("2")


@pytest.mark.parametrize("code", ["", "123456", "ap-2222-3333-4444", "rc-2222-3333-4444", "ap-2222-3333-444é"])
def test_anything_else_is_wrong(code):
    assert AppPassword().match(made()[0], code, NOW) is None


def test_a_recovery_code_of_the_same_letters_is_none_and_the_other_way_round():
    credential, code = made()
    other = "rc" + code[2:]
    assert AppPassword().match(credential, other, NOW) is None
    assert Recovery().match(replace(credential, kind="recovery"), code, NOW) is None


def test_it_does_not_drift():
    credential, code = made()
    assert AppPassword().resynchronise(credential, code, code, NOW) is None


def test_it_counts_at_its_application_from_its_networks_and_until_it_expires():
    credential, _code = made(networks=["10.0.0.0/8", "2001:db8::/32"], expires=NOW + 60)
    assert permits(credential)
    assert permits(credential, client="2001:db8::7")
    assert not permits(credential, application="vpn")
    assert not permits(credential, application="JENKINS")
    assert not permits(credential, client="192.0.2.1")
    assert not permits(credential, client=None)
    assert permits(credential, now=NOW + 59)
    assert not permits(credential, now=NOW + 60)


def test_without_networks_it_counts_from_anywhere_and_without_an_end_for_ever():
    credential, _code = made()
    assert permits(credential, client=None, now=NOW * 10)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"application": ""}, "application"),
        ({"application": 7}, "application"),
        ({"networks": ["10.0.0.1/8"]}, "networks"),
        ({"networks": ["x"]}, "networks"),
        ({"expires": "tomorrow"}, "expires"),
        ({"digits": 6}, "digits: unknown option"),
    ],
)
def test_wrong_options_are_said(options, why):
    with pytest.raises(ConfigError, match=f"app-password.{why}"):
        made(**options)
