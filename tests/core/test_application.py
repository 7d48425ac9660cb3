"""What an application is recognised by: listener, network and certificate, and why or why not."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldapmfa.core.application import Certificate, Peer, Recognition

PRINT = "9f" * 32
VPN = Certificate("CN=vpn,OU=Gateways,O=Example", ("dns:vpn.example.test", "email:vpn@example.test", "uri:urn:vpn"), PRINT)
HOME = (ip_network("192.0.2.0/24"), ip_network("2001:db8::/32"))
NEAR = ip_address("192.0.2.7")
FAR = ip_address("198.51.100.7")


def peer(listener="ldaps", address=NEAR, certificate=VPN):
    return Peer(listener, address, certificate)


def by(*certificates):
    return Recognition(certificates=certificates)


def test_nothing_asked_for_is_fulfilled_by_everybody():
    assert Recognition().covers(Peer("x", None, None))
    assert Recognition().why(Peer("x", None, None)) == []


@pytest.mark.parametrize(
    ("listeners", "covers"), [({"ldaps"}, True), ({"ldap", "ldaps"}, True), ({"ldap"}, False), ({"LDAPS"}, False), (set(), False)]
)
def test_an_application_comes_by_its_listeners(listeners, covers):
    assert Recognition(listeners=frozenset(listeners)).covers(peer()) == covers


@pytest.mark.parametrize(
    ("address", "networks", "covers"),
    [
        (NEAR, HOME, True),
        (ip_address("2001:db8::7"), HOME, True),
        (FAR, HOME, False),
        (ip_address("2001:db9::7"), HOME, False),
        (NEAR, (), False),
    ],
)
def test_A37_an_application_comes_from_its_networks(address, networks, covers):
    assert Recognition(networks=networks).covers(peer(address=address)) == covers


def test_A51_an_address_that_is_not_known_lies_in_no_network():
    """A balancer's own connection, a Unix socket: not even in the network that holds every address."""
    everywhere = (ip_network("0.0.0.0/0"), ip_network("::/0"))
    assert Recognition(networks=everywhere).covers(peer())
    assert not Recognition(networks=everywhere).covers(peer(address=None))


@pytest.mark.parametrize(
    "entry",
    [
        f"sha256:{PRINT}",
        f"sha256:{PRINT.upper()}",
        "sha256:" + ":".join(["9F"] * 32),
        "dns:vpn.example.test",
        "dns:VPN.Example.Test",
        "subject:CN=vpn,OU=Gateways,O=Example",
        "subject: cn = VPN , ou=gateways ; 2.5.4.10=example",
    ],
)
def test_a_certificate_is_named_as_one_likes(entry):
    assert by(entry).covers(peer())
    assert by("dns:another.test", entry).covers(peer())


@pytest.mark.parametrize(
    "entry",
    [
        "sha256:" + "9f" * 31,
        "sha256:" + "9e" * 32,
        "sha256:",
        PRINT,
        f"md5:{PRINT}",
        "dns:*.example.test",
        "dns:example.test",
        "dns:vpn.example.test.",
        "dns:vpn@example.test",
        "dns:",
        "vpn.example.test",
        "subject:CN=vpn,OU=Gateways",
        "subject:O=Example,OU=Gateways,CN=vpn",
        "subject:CN=vpn,OU=Gateways,O=Example,C=DE",
        "subject:vpn",
        "subject:",
        "",
    ],
)
def test_A51_another_certificate_is_another(entry):
    assert not by(entry).covers(peer())


def test_A51_a_certificate_that_bears_a_wildcard_stands_for_no_host():
    wild = Certificate("CN=wild", ("dns:*.example.test",), PRINT)
    assert not by("dns:vpn.example.test").covers(peer(certificate=wild))


@pytest.mark.parametrize("entry", ["subject:", "subject: ", "dns:", "dns: ", "sha256:"])
def test_A51_an_empty_name_is_nobodys(entry):
    assert not by(entry).covers(peer(certificate=Certificate("", ("dns:", "dns: "), "")))


def test_A51_a_name_of_another_kind_is_no_host_name():
    """A CA that lets users choose their address or URI has not let them choose a host's name."""
    sly = Certificate("CN=sly", ("email:vpn.example.test", "uri:vpn.example.test", "uri:dns:vpn.example.test"), PRINT)
    assert not by("dns:vpn.example.test").covers(peer(certificate=sly))


def test_A51_no_certificate_is_none_of_any():
    assert not by(f"sha256:{PRINT}").covers(peer(certificate=None))
    assert not by("subject:", "dns:").covers(peer(certificate=None))
    assert not by().covers(peer())


def test_A37_A51_one_condition_that_fails_is_enough():
    whole = Recognition(frozenset({"ldaps"}), HOME, (f"sha256:{PRINT}",))
    assert whole.covers(peer())
    assert not whole.covers(peer(listener="ldap"))
    assert not whole.covers(peer(address=FAR))
    assert not whole.covers(peer(certificate=None))


def test_why_is_said_in_plain_words():
    whole = Recognition(frozenset({"wifi", "ldaps"}), HOME, ("dns:vpn.example.test", "dns:b.test"))
    assert whole.why(peer()) == [
        (True, "it came by the listener ldaps, one of: ldaps, wifi"),
        (True, "192.0.2.7 lies in 192.0.2.0/24"),
        (True, "its certificate is dns:vpn.example.test"),
    ]
    assert whole.why(Peer("ldap", FAR, Certificate("CN=x", (), "ab"))) == [
        (False, "it came by the listener ldap, none of: ldaps, wifi"),
        (False, "198.51.100.7 lies in none of: 192.0.2.0/24, 2001:db8::/32"),
        (False, "its certificate (CN=x, sha256:ab) is none of: dns:vpn.example.test, dns:b.test"),
    ]
    assert whole.why(Peer("ldap", None, None))[1:] == [
        (False, "its address is not known, and lies in none of: 192.0.2.0/24, 2001:db8::/32"),
        (False, "it showed no certificate, and must show one of: dns:vpn.example.test, dns:b.test"),
    ]


@given(
    st.builds(
        Recognition,
        st.none() | st.frozensets(st.sampled_from(["ldap", "ldaps"])),
        st.none() | st.lists(st.sampled_from(HOME), unique=True).map(tuple),
        st.none() | st.lists(st.sampled_from([f"sha256:{PRINT}", "dns:x", "subject:CN=x"]), unique=True).map(tuple),
    ),
    st.builds(
        Peer,
        st.sampled_from(["ldap", "ldaps"]),
        st.sampled_from([None, NEAR, FAR]),
        st.sampled_from([None, VPN, Certificate("CN=x", (), "ab")]),
    ),
)
def test_what_is_explained_is_what_is_decided(recognition, peer):
    assert recognition.covers(peer) == all(holds for holds, _ in recognition.why(peer))


@pytest.mark.parametrize("entry", ["DNS:vpn.example.test", "Subject:CN=vpn,OU=Gateways,O=Example", f"SHA256:{PRINT}"])
def test_A51_what_the_configuration_takes_for_a_certificate_recognises_one(entry):
    """An entry that is accepted and means nobody would leave its clients to what the listener allows."""
    assert by(entry).covers(peer())
    assert not by(entry).covers(peer(certificate=None))
