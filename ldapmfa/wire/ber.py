"""Element boundaries of the BER subset that LDAP uses (RFC 4511 section 5.1), with limits.

Promised here: only definite lengths of at most four octets, single-octet tags, no recursion, nothing read
outside [pos, end). Not in here: what the elements mean.
"""

from __future__ import annotations

from typing import Final

SEQUENCE: Final = 0x30
INTEGER: Final = 0x02
OCTET_STRING: Final = 0x04
ENUMERATED: Final = 0x0A
BOOLEAN: Final = 0x01


class BerError(ValueError):
    """These octets are not the BER that LDAP allows; no more octets will mend them."""


def header(data: bytes | bytearray, pos: int, end: int) -> tuple[int, int, int] | None:
    """The element at `pos`: its tag, where its content starts and stops; None while its header is incomplete.

    The content may reach beyond `end`: more is to come, if the caller's limit allows.
    """
    if end - pos < 2:
        return None
    tag = data[pos]
    if tag & 0x1F == 0x1F:
        raise BerError("a tag number above 30, which LDAP does not use")
    length = data[pos + 1]
    if length < 0x80:
        return tag, pos + 2, pos + 2 + length
    count = length & 0x7F
    if count == 0:
        raise BerError("an indefinite length")
    if count > 4:
        raise BerError("a length of more than four octets")
    start = pos + 2 + count
    if start > end:
        return None
    return tag, start, start + int.from_bytes(data[pos + 2 : start], "big")


def element(data: bytes | bytearray, pos: int, end: int) -> tuple[int, int, int]:
    """As `header`, for an element that must lie within [pos, end)."""
    found = header(data, pos, end)
    if found is None or found[2] > end:
        raise BerError("an element that ends outside the one it is in")
    return found


def expect(data: bytes | bytearray, pos: int, end: int, tag: int) -> tuple[int, int]:
    """Where the content of the element at `pos` starts and stops, if it is a `tag`."""
    found, start, stop = element(data, pos, end)
    if found != tag:
        raise BerError(f"tag 0x{found:02x} where 0x{tag:02x} belongs")
    return start, stop


def integer(data: bytes | bytearray, start: int, stop: int) -> int:
    """The INTEGER or ENUMERATED whose content is [start, stop); at most four octets, as LDAP needs."""
    if not 1 <= stop - start <= 4:
        raise BerError("an integer of no or of more than four octets")
    return int.from_bytes(data[start:stop], "big", signed=True)


def children(data: bytes | bytearray, start: int, stop: int) -> list[tuple[int, int, int]]:
    """The elements that fill [start, stop) exactly."""
    found = []
    while start < stop:
        child = element(data, start, stop)
        found.append(child)
        start = child[2]
    return found


def tlv(tag: int, *parts: bytes) -> bytes:
    """An element of `tag` around `parts`, in the shortest length form."""
    content = b"".join(parts)
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets + content


def encode_integer(value: int, tag: int = INTEGER) -> bytes:
    """`value`, which fits four octets, in the fewest."""
    if 0 <= value < 0x80:
        return bytes((tag, 1, value))
    return tlv(tag, value.to_bytes(max(1, (value + (value < 0)).bit_length() // 8 + 1), "big", signed=True))
