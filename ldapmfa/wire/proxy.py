"""The PROXY protocol header, versions 1 and 2, that a load balancer sends before the client's first octet.

Promised here: the same outcome for every split of the input, and nothing taken for a header that is not one
to the letter (HAProxy's proxy-protocol.txt, sections 2.1 and 2.2). Not in here: from whom a header is believed.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

SIGNATURE_2: Final = b"\r\n\r\n\x00\r\nQUIT\n"
#: The longest header of version 1 (section 2.1), and the longest of version 2 that is read: addresses and TLVs.
LONGEST_1: Final = 107
LONGEST_2: Final = 16 + 4096
_PORT: Final = rb"(0|[1-9][0-9]{0,4})"
_LINE: Final = re.compile(rb"PROXY (TCP4|TCP6) ([0-9a-fA-F:.]+) ([0-9a-fA-F:.]+) " + _PORT + rb" " + _PORT + rb"\r\n")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class ProxyHeaderError(ValueError):
    """These octets do not start with a PROXY header."""


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """A header of `size` octets. `client` and `port` are None where the balancer speaks for itself."""

    size: int
    client: Address | None = None
    port: int | None = None


def read_header(data: bytes) -> ProxyHeader | None:
    """The header `data` starts with; None while it is not whole."""
    if data[: len(SIGNATURE_2)] == SIGNATURE_2[: len(data)]:
        return _read_2(data) if len(data) >= 16 else None
    if data[:6] != b"PROXY "[: len(data)]:
        raise ProxyHeaderError("no PROXY header, where one is expected")
    end = data.find(b"\r\n", 0, LONGEST_1)
    if end < 0:
        if len(data) >= LONGEST_1:
            raise ProxyHeaderError("a PROXY line that does not end")
        return None
    line = data[: end + 2]
    if line == b"PROXY UNKNOWN\r\n" or line.startswith(b"PROXY UNKNOWN "):
        return ProxyHeader(len(line))
    found = _LINE.fullmatch(line)
    if not found:
        raise ProxyHeaderError("a PROXY line that is not to the letter")
    family = ipaddress.IPv4Address if found[1] == b"TCP4" else ipaddress.IPv6Address
    try:
        client = family(found[2].decode())
        family(found[3].decode())
    except ValueError as broken:
        raise ProxyHeaderError("a PROXY line with a bad address") from broken
    port = int(found[4])
    if port > 65535 or int(found[5]) > 65535:
        raise ProxyHeaderError("a PROXY line with a bad port")
    return ProxyHeader(len(line), plain(client), port)


def _read_2(data: bytes) -> ProxyHeader | None:
    version, command = data[12] >> 4, data[12] & 0x0F
    if version != 2 or command > 1:
        raise ProxyHeaderError("a PROXY header of an unknown version or command")
    size = 16 + int.from_bytes(data[14:16], "big")
    if size > LONGEST_2:
        raise ProxyHeaderError("a PROXY header that is too long")
    if len(data) < size:
        return None
    if command == 0:
        return ProxyHeader(size)
    if data[13] == 0x11 and size >= 16 + 12:
        return ProxyHeader(size, ipaddress.IPv4Address(data[16:20]), int.from_bytes(data[24:26], "big"))
    if data[13] == 0x21 and size >= 16 + 36:
        return ProxyHeader(
            size, plain(ipaddress.IPv6Address(data[16:32])), int.from_bytes(data[48:50], "big")
        )
    if data[13] in (0x11, 0x21):
        raise ProxyHeaderError("a PROXY header without room for its addresses")
    return ProxyHeader(size)


def plain(address: Address) -> Address:
    """`address`, an IPv4 one where it is an IPv4 one mapped into IPv6."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
