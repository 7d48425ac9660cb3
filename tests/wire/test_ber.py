"""Element boundaries, with limits."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyasn1.codec.ber import decoder, encoder
from pyasn1.type import univ

from ldapmfa.wire import ber
from ldapmfa.wire.ber import BerError

FAST = settings(deadline=None, max_examples=150)


def read_header(octets: bytes):
    return ber.header(octets, 0, len(octets))


@pytest.mark.parametrize(
    ("octets", "header"),
    [
        (b"", None),
        (b"\x30", None),
        (b"\x30\x00", (0x30, 2, 2)),
        (b"\x30\x05", (0x30, 2, 7)),  # reaches beyond what is there
        (b"\x04\x7f", (0x04, 2, 129)),
        (b"\x04\x81", None),
        (b"\x04\x81\x80", (0x04, 3, 131)),
        (b"\x04\x82\x01", None),
        (b"\x04\x82\x01\x00", (0x04, 4, 260)),
        (b"\x04\x84\x00\x00\x00", None),
        (b"\x04\x84\x00\x00\x00\x01", (0x04, 6, 7)),  # not the shortest form, which BER allows
        (b"\x04\x84\xff\xff\xff\xff", (0x04, 6, 6 + 2**32 - 1)),
    ],
)
def test_a_header_says_where_the_content_lies(octets, header):
    assert read_header(octets) == header


@pytest.mark.parametrize("octets", [b"\x1f\x00", b"\x3f\x81", b"\xff\x00", b"\x30\x80", b"\x30\x85", b"\x30\xff"])
def test_what_ldap_does_not_use_is_refused(octets):
    with pytest.raises(BerError):
        read_header(octets)


def test_a_header_looks_at_nothing_behind_its_end():
    assert ber.header(b"\x30\x82\x01\x00", 0, 3) is None
    assert ber.header(b"\x30\x03", 0, 1) is None


def test_an_element_lies_within():
    assert ber.element(b"\x04\x01a", 0, 3) == (4, 2, 3)
    for octets, end in ((b"\x04\x02a", 3), (b"\x04", 1), (b"\x04\x01ab", 2)):
        with pytest.raises(BerError, match="ends outside"):
            ber.element(octets, 0, end)


def test_expect_wants_the_tag():
    assert ber.expect(b"\x04\x01a", 0, 3, ber.OCTET_STRING) == (2, 3)
    with pytest.raises(BerError, match="0x04 where 0x02"):
        ber.expect(b"\x04\x01a", 0, 3, ber.INTEGER)


@pytest.mark.parametrize("content", [b"", b"\0\0\0\0\0"])
def test_an_integer_has_one_to_four_octets(content):
    with pytest.raises(BerError, match="integer"):
        ber.integer(content, 0, len(content))


def test_children_fill_their_parent_exactly():
    assert ber.children(b"", 0, 0) == []
    assert ber.children(b"\x04\x00\x02\x01\x05", 0, 5) == [(4, 2, 2), (2, 4, 5)]
    with pytest.raises(BerError):
        ber.children(b"\x04\x00\x02\x01\x05\x04", 0, 6)


@FAST
@given(st.integers(-(2**31), 2**31 - 1))
def test_integers_come_back_and_are_encoded_like_pyasn1_does(value):
    encoded = ber.encode_integer(value)
    assert value < 0 or encoded == encoder.encode(univ.Integer(value))  # pyasn1 wastes an octet on -128
    assert decoder.decode(encoded) == (univ.Integer(value), b"")
    start, stop = ber.expect(encoded, 0, len(encoded), ber.INTEGER)
    assert ber.integer(encoded, start, stop) == value


@FAST
@given(st.sampled_from([0, 1, 127, 128, 255, 256, 65535, 65536]), st.binary(max_size=3))
def test_strings_come_back_and_are_encoded_like_pyasn1_does(size, more):
    content = bytes(size) + more
    encoded = ber.tlv(ber.OCTET_STRING, content[:1], content[1:])
    assert encoded == encoder.encode(univ.OctetString(content))
    assert ber.expect(encoded, 0, len(encoded), ber.OCTET_STRING) == (len(encoded) - len(content), len(encoded))
    assert decoder.decode(encoded) == (univ.OctetString(content), b"")


@FAST
@given(st.binary(max_size=40), st.integers(0, 40), st.integers(0, 40))
def test_any_octets_are_elements_or_a_ber_error(octets, pos, end):
    pos, end = sorted((min(pos, len(octets)), min(end, len(octets))))
    for read in (ber.header, ber.element, ber.children):
        with contextlib.suppress(BerError):
            read(octets, pos, end)
