"""What the fuzzers begin with: conversations, answers and names as they are meant to be. `python -m tests.fuzz --seed`."""

from __future__ import annotations

import json
import socket
import uuid

from playbook import (
    ORDINARY,
    abandon,
    answer,
    bind,
    control,
    delete,
    entry,
    extended,
    message,
    read_root,
    sasl,
    search,
    start_tls,
    tlv,
    unbind,
)

from fuzz.conversation import RULES

_BIND = bind(1, "cn=ann,dc=example", "secret123456")
_REQUESTS = (
    _BIND,
    bind(2, "", ""),
    sasl(4, "GSSAPI", b"token"),
    *(request(number) for number, request in enumerate(ORDINARY.values(), 5)),
    read_root(20),
    search(21, "dc=x", control("2.16.840.1.113730.3.4.18", critical=True, value=b"dn:")),
    search(22, "dc=x", where=tlv(0xA1, tlv(0xA3, tlv(0x04, b"cn"), tlv(0x04, b"ann")), tlv(0x87, b"sn"))),
    abandon(23, 5),
    start_tls(24),
    extended(25, "1.3.6.1.4.1.4203.1.11.3"),
    unbind(26),
)
_OF_AD = {
    "objectGUID": [bytes(range(16))], "objectSid": [b"\x01\x01" + bytes(5) + b"\x05\x20\x02\x00\x00"],
    "sAMAccountType": [b"805306368"], "sAMAccountName": [b"ann"], "userPrincipalName": [b"ann@example.com"],
    "pwdLastSet": [b"1"], "userAccountControl": [b"512"], "mobile": [b"+1555"],
}  # fmt: skip
_WHO = {"openldap": b"dn:cn=ann,dc=example", "ad": b"u:EXAMPLE\\ann"}


def _who(name: bytes) -> bytes:
    return answer(2, 0x78, 0, "", tlv(0x8B, name))


def _of_openldap(attribute: str) -> bytes:
    values = {attribute: [str(uuid.UUID(int=7)).encode()], "uid": [b"ann"]}
    groups = entry(4, "cn=vpn,dc=example") + answer(4, 0x65) + answer(5, 0x65) + entry(6, "", objectClass=[b"groupOfNames"])
    return _who(_WHO["openldap"]) + entry(3, "cn=ann,dc=example", **values) + answer(3, 0x65) + groups + answer(6, 0x65)


def _of_ad(who: bytes) -> bytes:
    sid = _OF_AD["objectSid"][0]
    return (
        entry(1, "", tokenGroups=[sid, sid]) + answer(1, 0x65) + who
        + entry(3, "CN=ann,DC=example", **_OF_AD) + answer(3, 0x65)
        + entry(4, "cn=vpn,dc=example", objectSid=[sid], groupType=[b"-2147483646"], objectClass=[b"group"]) + answer(4, 0x65)
        + entry(5, "cn=staff,ou=groups,dc=example", objectSid=[sid], groupType=[b"2"]) + answer(5, 0x65)
    )  # fmt: skip


def _script(*steps: bytes | int) -> bytes:
    return b"".join(step.replace(b"\xff", b"\xff\xff") if isinstance(step, bytes) else bytes([0xFF, step]) for step in steps)


#: Proxied authorization where a lenient reader looks for controls, and, in the second, as mere text.
_HIDDEN = tlv(0x63, search(9)[7:], tlv(0xA0, control("2.16.840.1.113730.3.4.18")))
_TEXT = search(8, where=tlv(0xA3, tlv(0x04, b"cn"), tlv(0x04, b"2.16.840.1.113730.3.4.18")))


def _conversations() -> list[bytes]:
    rest = b"".join(_REQUESTS[3:-1])
    scripts = [
        (_BIND, 1, rest, 0x0B, unbind(9)),
        (_BIND + rest, 2, _BIND, 1, search(5), 6),
        (_BIND[:9], 0, _BIND[9:] + search(2) + delete(3), 1, _BIND, 5),
        (start_tls(1), 3, _BIND, 1, search(2), 8),
        (read_root(1), start_tls(2) + read_root(3)),
        (read_root(1), 0x0B, start_tls(2), 4, search(3), bind(4, "", ""), _BIND, 8, 1),
        (_BIND, _BIND),
        (_BIND, 1, search(7) + _TEXT + search(9), message(9, _HIDDEN)),
        (bind(1, "cn=ann", ""), bind(2, "cn=ann", "", version=2), sasl(3, "EXTERNAL"), bind(4, "cn=ann", "123456")),
    ]
    return [bytes([rules]) + _script(*steps) for rules in range(len(RULES)) for steps in scripts]


def _privacyidea() -> list[bytes]:
    detail = {"message": "please confirm", "transaction_id": "01234567890", "type": "push", "serial": "PUSH1"}
    values = [
        {"result": {"status": True, "value": True, "authentication": "ACCEPT"}, "detail": {"type": "hotp"}},
        {"result": {"status": True, "value": False, "authentication": "REJECT"}, "detail": {"message": "wrong otp value"}},
        {"result": {"status": True, "value": 1}, "detail": {**detail, "multi_challenge": [{**detail, "client_mode": "poll"}]}},
        {"result": {"status": True, "value": True}, "detail": {"challenge_status": "accept"}},
        {"result": {"status": True, "value": {"token": "abc", "role": "admin", "rights": ["*"]}}},
        {"result": {"status": False, "error": {"code": 904, "message": "no"}}},
    ]
    return [bytes([status]) + json.dumps(value).encode() for value in values for status in (0, 1, 3)]


def _json() -> list[bytes]:
    values = [
        {"stat": "OK", "response": {"result": "allow", "time": 1}},
        {"stat": "FAIL", "code": 40002, "message": "Invalid", "message_detail": "x"},
        {"access_token": "abc", "token_type": "Bearer", "expires_in": 3599},
        {"error": "invalid_client", "error_description": "AADSTS7000215", "error_codes": [7000215]},
        {"approved": True, "state": "approved", "how": "push"},
    ]
    return [bytes([status]) + json.dumps(value).encode() for value in values for status in (0, 1, 5)]


def _entra() -> list[bytes]:
    found = []
    for operation in ("BeginTwoWayAuthentication", "EndTwoWayAuthentication"):
        for value, said in (("Success", "true"), ("AuthenticationPending", "false"), ("PhoneAppDenied", "false"), ("SMSSent", "challenge")):
            result = f"<Result><Value>{value}</Value><Message/></Result><AuthenticationResult>{said}</AuthenticationResult>"
            rest = "<SessionId>x</SessionId><AffinityUrl>https://x</AffinityUrl><ValidEntropyNumber>42</ValidEntropyNumber>"
            found.append(f"<{operation}Response>{result}{rest}</{operation}Response>".encode())
    return found


def _proxy_headers() -> list[bytes]:
    signature = b"\r\n\r\n\x00\r\nQUIT\n"
    four, six = socket.inet_aton("192.0.2.1") * 2, socket.inet_pton(socket.AF_INET6, "::ffff:192.0.2.1") * 2
    return [
        b"PROXY TCP4 192.0.2.1 192.0.2.2 40000 389\r\n",
        b"PROXY TCP6 2001:db8::1 ::ffff:192.0.2.2 40000 389\r\n\x30\x0c",
        b"PROXY UNKNOWN\r\n",
        signature + b"\x21\x11\x00\x0c" + four + b"\x9c\x40\x01\x85",
        signature + b"\x21\x21\x00\x28" + six + b"\x9c\x40\x01\x85\x04\x00\x01x",
        signature + b"\x20\x00\x00\x00",
    ]


_NAMES = (
    "cn=Ann,ou=Staff,dc=example,dc=test", "CN=Doe\\, Jane;OU=x", 'cn="a,b" , o=x', "oid.2.5.4.3=#0403616263,c=de",
    "cn=J\\c3\\b6rg+uid=j,dc=x", "cn=Jörg  Müßig ", "ann@example.com", "EXAMPLE\\ann", "cn=\\20x\\20", "",
)  # fmt: skip
_PASSWORDS = (b"secret123456", b"secret,123456", b"secret,push", b"secret+push2", b"hush-rc-abcd-efgh-jkmn", b"\0 ", b"123456")

SEEDS: dict[str, list[bytes]] = {
    "elements": [tlv(0x30, tlv(0x02, b"\x01"), tlv(0x04, b"x" * 200), tlv(0x0A, b"\x80\x00")), tlv(0x04, b"x", wide=4)],
    "requests": [*_REQUESTS, b"".join(_REQUESTS[3:9])],
    "replies": [bytes([seed]) + part for seed in (0, 5) for part in (
        entry(2, "cn=ann", cn=[b"Ann"]) * 3 + answer(2, 0x65), answer(1, 0x61, 49, "no"),
        message(0, tlv(0x78, tlv(0x0A, b"\x34"), tlv(0x04), tlv(0x04, b"bye"))))],
    "identities": [
        *(bytes([kind]) + _of_ad(_who(_WHO["ad"])) for kind in (0, 4)), b"\x01" + _of_ad(b""),
        b"\x02" + _of_openldap("entryUUID"), b"\x07" + _of_openldap("nsUniqueId"),
        b"\x02" + _who(_WHO["openldap"]) + answer(3, 0x65, 32) * 2, b"\x02" + _who(b"") + answer(1, 0x78, 53),
    ],
    "names": [name.encode() for name in _NAMES],
    "proxy-headers": _proxy_headers(),
    "passwords": [bytes([form]) + typed for form in range(4) for typed in _PASSWORDS],
    "session": _conversations(),
    "entra": _entra(),
    "privacyidea": _privacyidea(),
    "json-objects": _json(),
    "radius": [b"\x02\x00\x00\x26" + bytes(16) + b"\x50\x12" + bytes(16), b"\x0b\x00\x00\x1b" + bytes(16) + b"\x18\x07state"],
}  # fmt: skip
