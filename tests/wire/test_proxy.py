"""PROXY headers, to the letter."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldapmfa.wire.proxy import LONGEST_1, LONGEST_2, SIGNATURE_2, ProxyHeader, ProxyHeaderError, plain, read_header

FAST = settings(deadline=None, max_examples=200)


def version_2(command: int = 0x21, family: int = 0x11, content: bytes = b"", size: int | None = None) -> bytes:
    announced = len(content) if size is None else size
    return SIGNATURE_2 + bytes([command, family]) + announced.to_bytes(2, "big") + content


TCP4 = bytes([192, 0, 2, 7, 10, 0, 0, 1]) + (4711).to_bytes(2, "big") + (389).to_bytes(2, "big")
TCP6 = (
    ip_address("2001:db8::7").packed
    + ip_address("2001:db8::1").packed
    + (4711).to_bytes(2, "big")
    + (389).to_bytes(2, "big")
)
MAPPED = ip_address("::ffff:192.0.2.7").packed + TCP6[16:]

GOOD = [
    (b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 389\r\n", "192.0.2.7", 4711),
    (b"PROXY TCP4 192.0.2.7 10.0.0.1 0 65535\r\n", "192.0.2.7", 0),
    (b"PROXY TCP6 2001:db8::7 2001:DB8::1 4711 389\r\n", "2001:db8::7", 4711),
    (b"PROXY TCP6 ::ffff:192.0.2.7 ::1 65535 389\r\n", "192.0.2.7", 65535),
    (b"PROXY UNKNOWN\r\n", None, None),
    (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", None, None),
    (b"PROXY UNKNOWN ".ljust(LONGEST_1 - 2, b"x") + b"\r\n", None, None),
    (version_2(content=TCP4), "192.0.2.7", 4711),
    (version_2(content=TCP4 + b"\x04\x00\x01x"), "192.0.2.7", 4711),  # with a TLV
    (version_2(family=0x21, content=TCP6), "2001:db8::7", 4711),
    (version_2(family=0x21, content=MAPPED), "192.0.2.7", 4711),
    (version_2(command=0x20), None, None),  # LOCAL: the balancer's own health check
    (version_2(command=0x20, content=TCP4), None, None),
    (version_2(family=0x00), None, None),  # not specified
    (version_2(family=0x12, content=TCP4), None, None),  # UDP
    (version_2(family=0x31, content=bytes(216)), None, None),  # a unix socket
    (version_2(family=0x11, content=TCP4 + bytes(LONGEST_2 - 16 - 12)), "192.0.2.7", 4711),
]

BAD = [
    b"\x30\x0c\x02\x01\x01",  # LDAP
    b"\x16\x03\x01",  # TLS
    b"GET / HTTP/1.1\r\n",
    b"PROXZ",
    b"proxy TCP4 192.0.2.7 10.0.0.1 4711 389\r\n",
    b"\r\n\r\n\x00\r\nQUIZ",
    b"PROXY \r\n",
    b"PROXY TCP4\r\n",
    b"PROXY TCP5 192.0.2.7 10.0.0.1 4711 389\r\n",
    b"PROXY UNKNOWNX\r\n",
    b"PROXY TCP4  192.0.2.7 10.0.0.1 4711 389\r\n",
    b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 389 \r\n",
    b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 389\n\r\n",
    b"PROXY TCP4 192.0.2.7 10.0.0.1 04711 389\r\n",
    b"PROXY TCP4 192.0.2.7 10.0.0.1 +471 389\r\n",
    b"PROXY TCP4 192.0.2.7 10.0.0.1 65536 389\r\n",
    b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 65536\r\n",
    b"PROXY TCP4 192.0.2.07 10.0.0.1 4711 389\r\n",
    b"PROXY TCP4 192.0.2 10.0.0.1 4711 389\r\n",
    b"PROXY TCP4 192.0.2.7 10.0.0 4711 389\r\n",
    b"PROXY TCP4 2001:db8::7 2001:db8::1 4711 389\r\n",
    b"PROXY TCP6 192.0.2.7 10.0.0.1 4711 389\r\n",
    b"PROXY TCP6 fe80::1%eth0 ::1 4711 389\r\n",
    b"PROXY UNKNOWN ".ljust(LONGEST_1 - 1, b"x") + b"\r\n",  # one octet too long
    b"PROXY TCP4 ".ljust(LONGEST_1, b"1"),  # does not end
    version_2(command=0x11),
    version_2(command=0x22),
    version_2(content=TCP4[:-1]),
    version_2(family=0x21, content=TCP4),
    version_2(size=LONGEST_2 - 15),
]


@pytest.mark.parametrize(("octets", "client", "port"), GOOD)
def test_a_header_names_the_client_and_ends_where_it_says(octets, client, port):
    expected = ProxyHeader(len(octets), ip_address(client) if client else None, port)
    assert read_header(octets) == expected
    assert read_header(octets + b"\x30\x0c\x02\x01\x01") == expected


@pytest.mark.parametrize("octets", BAD)
def test_what_is_no_header_to_the_letter_is_none(octets):
    with pytest.raises(ProxyHeaderError):
        read_header(octets)


@pytest.mark.parametrize("octets", [octets for octets, _, _ in GOOD])
def test_no_header_is_whole_before_its_last_octet(octets):
    for size in range(len(octets)):
        assert read_header(octets[:size]) is None


def outcome(octets: bytes) -> ProxyHeader | str | None:
    try:
        return read_header(octets)
    except ProxyHeaderError:
        return "refused"


ANY = st.one_of(
    st.binary(max_size=200),
    st.binary(max_size=150).map(lambda tail: SIGNATURE_2 + tail),
    st.binary(max_size=150).map(lambda tail: b"PROXY " + tail),
    st.text(alphabet="PROXYTC46UNKW 0123456789abcdef:.\r\n", max_size=150).map(lambda tail: b"PROXY TCP" + tail.encode()),
    st.sampled_from([octets for octets, _, _ in GOOD] + BAD).flatmap(lambda known: st.binary(max_size=5).map(known.__add__)),
)


@FAST
@given(ANY)
def test_the_first_word_about_any_octets_is_the_last(octets):
    """However the octets are split: what is said of a beginning is said of all."""
    whole = outcome(octets)
    for size in range(len(octets)):
        part = outcome(octets[:size])
        assert part is None or part == whole


def test_only_mapped_addresses_are_made_plain():
    assert plain(ip_address("::ffff:10.1.2.3")) == ip_address("10.1.2.3")
    assert plain(ip_address("2001:db8::1")) == ip_address("2001:db8::1")
    assert plain(ip_address("10.1.2.3")) == ip_address("10.1.2.3")
