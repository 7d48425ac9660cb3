"""Parse, normalise and compare distinguished names.

Read liberally (RFC 4514, and what RFC 2253 and 1779 allowed: ``;`` between RDNs, quoted values, ``OID.``
prefixes, spaces around separators), compare strictly: values by the string preparation of RFC 4518 for
caseIgnoreMatch. Every attribute is compared without regard to case, as all naming attributes in common use are.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Final

from ldapmfa.wire import ber

#: Attribute types by object identifier and second name: of RFC 4519 and 4524, and others that are worth protecting.
_NAMES: Final = {
    "2.5.4.3": "cn", "commonname": "cn",
    "2.5.4.4": "sn", "surname": "sn",
    "2.5.4.5": "serialnumber",
    "2.5.4.6": "c", "countryname": "c",
    "2.5.4.7": "l", "localityname": "l",
    "2.5.4.8": "st", "stateorprovincename": "st",
    "2.5.4.9": "street", "streetaddress": "street",
    "2.5.4.10": "o", "organizationname": "o",
    "2.5.4.11": "ou", "organizationalunitname": "ou",
    "2.5.4.12": "title",
    "2.5.4.13": "description",
    "2.5.4.20": "telephonenumber",
    "2.5.4.23": "facsimiletelephonenumber", "fax": "facsimiletelephonenumber",
    "2.5.4.31": "member",
    "2.5.4.32": "owner",
    "2.5.4.35": "userpassword",
    "2.5.4.36": "usercertificate",
    "2.5.4.42": "givenname", "gn": "givenname",
    "2.5.4.50": "uniquemember",
    "0.9.2342.19200300.100.1.1": "uid", "userid": "uid",
    "0.9.2342.19200300.100.1.3": "mail", "rfc822mailbox": "mail",
    "0.9.2342.19200300.100.1.5": "drink", "favouritedrink": "drink",
    "0.9.2342.19200300.100.1.10": "manager",
    "0.9.2342.19200300.100.1.20": "homephone", "hometelephonenumber": "homephone",
    "0.9.2342.19200300.100.1.25": "dc", "domaincomponent": "dc",
    "0.9.2342.19200300.100.1.41": "mobile", "mobiletelephonenumber": "mobile",
    "0.9.2342.19200300.100.1.42": "pager", "pagertelephonenumber": "pager",
    "0.9.2342.19200300.100.1.43": "co", "friendlycountryname": "co",
    "1.2.840.113549.1.9.1": "emailaddress", "e": "emailaddress", "email": "emailaddress",
    "pkcs9email": "emailaddress",
    "1.2.840.113556.1.2.102": "memberof",
    "1.2.840.113556.1.2.281": "ntsecuritydescriptor",
    "1.2.840.113556.1.4.8": "useraccountcontrol",
    "1.2.840.113556.1.4.55": "dbcspwd",
    "1.2.840.113556.1.4.90": "unicodepwd",
    "1.2.840.113556.1.4.96": "pwdlastset",
    "1.2.840.113556.1.4.98": "primarygroupid",
    "1.2.840.113556.1.4.221": "samaccountname",
    "1.2.840.113556.1.4.609": "sidhistory",
    "1.2.840.113556.1.4.647": "othermobile",
    "1.2.840.113556.1.4.656": "userprincipalname",
    "1.2.840.113556.1.4.662": "lockouttime",
    "1.2.840.113556.1.4.771": "serviceprincipalname",
    "1.2.840.113556.1.4.867": "altsecurityidentities",
    "1.2.840.113556.1.4.1787": "msds-allowedtodelegateto",
    "1.3.6.1.4.1.24552.500.1.1.1.13": "sshpublickey",
    "1.3.6.1.1.1.1.0": "uidnumber",
    "1.3.6.1.1.1.1.1": "gidnumber",
    "1.3.6.1.1.1.1.12": "memberuid",
}  # fmt: skip

_TYPE: Final = re.compile(r"\s*(?:oid\.)?([a-z][a-z0-9-]*|[0-9]+(?:\.[0-9]+)+)\s*=\s*", re.IGNORECASE)
_HEX: Final = re.compile(r"#((?:[0-9a-f]{2})+)\s*", re.IGNORECASE)
_HEX_PAIR: Final = re.compile(r"[0-9a-f]{2}", re.IGNORECASE)
#: An attribute type to the letter: what a directory might take for another's name is none.
_PLAIN_TYPE: Final = re.compile(r"(?:oid\.)?([a-z][a-z0-9_-]*|[0-2](?:\.(?:0|[1-9][0-9]*))+)", re.IGNORECASE | re.ASCII)
#: A type and its value up to where it ends; quotation marks, which not all directories know, are in no value.
_PLAIN_PAIR: Final = re.compile(r"""\s*([A-Za-z0-9._-]+)\s*=[^\\",;+]*(?:\\.[^\\",;+]*)*""", re.ASCII | re.DOTALL)
#: What most values are: nothing escaped, nothing to trim, nothing that is not ASCII.
_SIMPLE: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 ._@-]*[A-Za-z0-9])?(?=[,;+]|\Z)")
#: Characters of a name whose RDNs are remembered.
_REMEMBERED: Final = 256
_SPECIAL: Final = ',;+"\\<>=# '

Rdn = tuple[tuple[str, str], ...]


class DnError(ValueError):
    """The text is not a distinguished name."""


def parse(text: str) -> tuple[Rdn, ...]:
    """The RDNs of `text`, leftmost first, each a sorted tuple of (type, value), prepared for comparison."""
    return _parsed(text) if len(text) > _REMEMBERED else _parsed_lately(text)


def _parsed(text: str) -> tuple[Rdn, ...]:
    rdns: list[Rdn] = []
    pairs: list[tuple[str, str]] = []
    pos = 0
    if not text.strip():
        return ()
    while True:
        found = _TYPE.match(text, pos)
        if not found:
            raise DnError(f"no attribute type at character {pos} of the name")
        name = found[1].lower()
        value, pos = _value(text, found.end())
        pairs.append((_NAMES.get(name, name), prepare(value)))
        separator = text[pos : pos + 1]
        pos += 1
        if separator == "+":
            continue
        rdns.append(tuple(sorted(pairs)))
        pairs = []
        if not separator:
            return tuple(rdns)


#: One login compares the same few names several times.
_parsed_lately: Final = lru_cache(maxsize=1024)(_parsed)


def _value(text: str, pos: int) -> tuple[str, int]:
    """The attribute value at `pos` and where it ends: at a separator or the end of the text."""
    if found := _SIMPLE.match(text, pos):
        return found[0], found.end()
    if found := _HEX.match(text, pos):
        octets = bytes.fromhex(found[1])
        try:
            [(_, start, stop)] = ber.children(octets, 0, len(octets))
        except ValueError as broken:
            raise DnError("a #value that is not one BER element") from broken
        return _at_separator(text, found.end(), octets[start:stop])
    collected = bytearray()
    quoted = text[pos : pos + 1] == '"'
    pos += quoted
    kept = 0  # octets that trailing spaces may not be trimmed from: they were escaped
    while pos < len(text):
        char = text[pos]
        if char == "\\":
            pos += 1
            escaped = text[pos : pos + 1]
            if pair := _HEX_PAIR.match(text, pos):
                collected.append(int(pair[0], 16))
                pos += 2
            elif escaped and escaped in _SPECIAL:
                collected += escaped.encode()
                pos += 1
            else:
                raise DnError(f"nothing that may be escaped at character {pos} of the name")
            kept = len(collected)
            continue
        if quoted and char == '"':
            return _at_separator(text, pos + 1, bytes(collected))
        if not quoted and char in ",;+":
            break
        if not quoted and char in '"<>':
            raise DnError(f"an unescaped {char} at character {pos} of the name")
        collected += char.encode(errors="surrogatepass")
        pos += 1
    if quoted:
        raise DnError("a quotation mark that is never closed")
    return _decoded(bytes(collected[:kept] + collected[kept:].rstrip(b" "))), pos


def _at_separator(text: str, pos: int, octets: bytes) -> tuple[str, int]:
    while text[pos : pos + 1] == " ":
        pos += 1
    if text[pos : pos + 1] not in ("", ",", ";", "+"):
        raise DnError(f"text behind a value at character {pos} of the name")
    return _decoded(octets), pos


def _decoded(octets: bytes) -> str:
    try:
        return octets.decode()
    except UnicodeDecodeError as broken:
        raise DnError("a value that is not UTF-8") from broken


def attribute_type(text: str) -> str:
    """One spelling for an attribute type: lower case, by name where the object identifier is known. Raises DnError."""
    found = _PLAIN_TYPE.fullmatch(text)
    if not found:
        raise DnError("an attribute type that is neither a name nor an object identifier")
    name = found[1].lower()
    return _NAMES.get(name, name)


def first_types(text: str) -> tuple[str, ...]:
    """The types in the leftmost RDN of `text`, as `attribute_type` spells them; what follows it is not looked at.

    Strict where a directory might find other types than we do: a quoted value raises DnError.
    """
    types: list[str] = []
    pos = 0
    while True:
        found = _PLAIN_PAIR.match(text, pos)
        if not found:
            raise DnError(f"no attribute type and value at character {pos} of the name")
        types.append(attribute_type(found[1]))
        pos = found.end() + 1
        separator = text[found.end() : pos]
        if separator in ("", ",", ";"):
            return tuple(types)
        if separator != "+":
            raise DnError(f"an unescaped {separator} at character {pos - 1} of the name")


_TO_NOTHING: Final = frozenset(
    [0x00AD, 0x034F, 0x1806, 0x200B, 0xFFFC, *range(0x180B, 0x180E), *range(0xFE00, 0xFE10)]
)
_TO_SPACE: Final = frozenset("\t\n\v\f\r\x85")


def prepare(text: str) -> str:
    """`text` as caseIgnoreMatch compares it (RFC 4518: map, fold case, NFKC, insignificant spaces)."""
    if text.isascii() and text.isprintable():
        return " ".join(text.lower().split())
    mapped = []
    for char in text:
        if char in _TO_SPACE or unicodedata.category(char) in ("Zs", "Zl", "Zp"):
            mapped.append(" ")
        elif ord(char) not in _TO_NOTHING and unicodedata.category(char) not in ("Cc", "Cf"):
            mapped.append(char)
    folded = unicodedata.normalize("NFKC", "".join(mapped)).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def normalise(text: str) -> str:
    """One spelling for all spellings of a DN; not one to show. Raises DnError."""
    return ",".join("+".join(f"{name}={_escaped(value)}" for name, value in rdn) for rdn in parse(text))


_TO_ESCAPE: Final = re.compile(r'[,;+"\\<>=#]')


def _escaped(value: str) -> str:
    return value if value.isalnum() else _TO_ESCAPE.sub(r"\\\g<0>", value)


def same(one: str, other: str) -> bool:
    """Whether two texts name the same entry; texts that are not DNs name none."""
    try:
        parsed = parse(one)
        return one == other or parsed == parse(other)
    except DnError:
        return False


def lies_below(entry: str, place: str) -> bool:
    """Whether `entry` is the entry `place`, or one below it, RDN by RDN; texts that are not DNs lie nowhere.

    The root, "", is no place: everything would lie below what somebody forgot to fill in.
    """
    try:
        rdns = parse(place)
        return bool(rdns) and parse(entry)[-len(rdns) :] == rdns
    except DnError:
        return False


def normalise_name(typed: str) -> str:
    """One spelling for what a client typed as its name: a DN in any spelling, or a name without regard to case.

    For hints and counters only; who was bound is what the directory says.
    """
    return _normalised_name(typed) if len(typed) > _REMEMBERED else _normalised_name_lately(typed)


def _normalised_name(typed: str) -> str:
    try:
        if "=" in typed:
            return "dn:" + normalise(typed)
    except DnError:
        pass
    return prepare(typed)


_normalised_name_lately: Final = lru_cache(maxsize=1024)(_normalised_name)
