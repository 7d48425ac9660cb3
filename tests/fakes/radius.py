"""A RADIUS server on loopback: strict about requests, and hostile on demand. It shares no code with the client.

    async def answer(asked):                 # asked: code, attributes, password, source, octets
        return ACCEPT, [(18, b"Welcome")]    # or None: it says nothing

    async with Radius(answer) as radius:     # in this event loop
        radius.server, radius.asked, radius.duplicates, radius.mistakes
        radius.forge = "wrong-ma"            # how its answers are spoiled from now on; see `_spoilt`

A request without a Message-Authenticator as first attribute, with a wrong one, or that reuses an authenticator for
something else, is a mistake of the client: it is dropped, and raised when the server is left. A duplicate (same source,
identifier and authenticator) is not answered twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import struct
from dataclasses import dataclass, field

ACCEPT, REJECT, CHALLENGE = 2, 3, 11
SECRET = b"a shared secret for tests"


@dataclass
class Asked:
    code: int
    identifier: int
    authenticator: bytes
    attributes: list[tuple[int, bytes]]
    password: bytes | None
    source: tuple
    octets: bytes = field(repr=False)

    def value(self, kind):
        (found,) = [value for known, value in self.attributes if known == kind]
        return found

    def kinds(self):
        return [kind for kind, _ in self.attributes]


class Radius(asyncio.DatagramProtocol):
    def __init__(self, answer, secret=SECRET):
        self.answer, self.secret, self.forge = answer, secret, ""
        self.asked, self.mistakes, self.duplicates = [], [], []
        self._seen, self._tasks, self._last_reply = {}, set(), b""

    async def __aenter__(self):
        loop = asyncio.get_running_loop()
        self.transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
        self.port = self.transport.get_extra_info("sockname")[1]
        self.server = f"127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, kind, *_):
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.transport.close()
        await asyncio.sleep(0)
        if kind is None:
            assert not self.mistakes

    async def has_asked(self, number):
        """Until so many requests have come."""
        while len(self.asked) < number:  # noqa: ASYNC110 - it is the loop's own next round that brings them
            await asyncio.sleep(0)

    async def gone(self):
        """From now on ICMP says that nobody is there."""
        self.transport.close()
        await asyncio.sleep(0.01)  # it is closed in one of the loop's next rounds

    def datagram_received(self, octets, source):
        try:
            asked = self._read(octets, source)
        except AssertionError as mistake:
            self.mistakes.append(str(mistake))
            return
        key = (source, asked.identifier, asked.authenticator)
        if asked.authenticator in {authenticator for _, _, authenticator in self._seen}:
            if self._seen.get(key) == octets:
                self.duplicates.append(octets)
            else:
                self.mistakes.append("an authenticator is used twice, for different requests")
            return
        self._seen[key] = octets
        self.asked.append(asked)
        task = asyncio.ensure_future(self._respond(asked))
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task):
        self._tasks.discard(task)
        if not task.cancelled() and task.exception():
            self.mistakes.append(repr(task.exception()))

    def _read(self, octets, source):
        code, identifier, length, authenticator = struct.unpack("!BBH16s", octets[:20])
        assert code in {1, 12}, f"code {code}"
        assert len(octets) == length <= 4096, "the length is wrong"
        attributes, at = [], 20
        while at < length:
            kind, size = octets[at], octets[at + 1]
            assert 3 <= size <= length - at, "an attribute's length is wrong"
            attributes.append((kind, octets[at + 2 : at + size]))
            at += size
        assert attributes[0][0] == 80, "Message-Authenticator is not the first attribute"
        assert len({kind for kind, _ in attributes}) == len(attributes), "an attribute comes twice"
        zeroed = octets[:22] + bytes(16) + octets[38:]
        right = hmac.digest(self.secret, zeroed, "md5")
        assert hmac.compare_digest(attributes[0][1], right), "the Message-Authenticator is wrong"
        given = dict(attributes)
        assert 32 in given or 4 in given, "neither NAS-Identifier nor NAS-IP-Address"
        password = None
        if code == 1:
            assert given.get(1), "no User-Name"
            password = shown(given[2], authenticator, self.secret)
        return Asked(code, identifier, authenticator, attributes, password, source, octets)

    async def _respond(self, asked):
        answer = await self.answer(asked)
        if answer is not None:
            code, attributes = answer
            self.send(asked, code, attributes)

    def send(self, asked, code, attributes=(), forge=None):
        octets = self._spoilt(asked, code, list(attributes), self.forge if forge is None else forge)
        self.transport.sendto(octets, asked.source)

    def _spoilt(self, asked, code, attributes, forge):
        identifier, authenticator, secret, signer = asked.identifier, asked.authenticator, self.secret, self.secret
        if forge in {"replayed", "garbage", "octet"}:  # the first was right for the last request
            return {"replayed": self._last_reply, "garbage": b"\x02garbage", "octet": b"\x02"}[forge]
        if forge == "other-id":
            identifier ^= 1
        if forge == "other-code":
            code = 5
        if forge == "other-secret":
            secret = signer = b"another secret"
        if forge == "wrong-ma":
            signer = b"another secret"
        if forge == "other-request":
            authenticator = bytes(16)
        if forge == "proxy-state":
            attributes.append((33, b"what a collision needs"))
        octets = signed(code, identifier, authenticator, attributes, secret, signer, ma=forge != "no-ma")
        if forge == "wrong-authenticator":
            octets = octets[:4] + bytes(16) + octets[20:]
        elif forge == "changed-code":  # a rejection made an acceptance on its way
            octets = bytes([ACCEPT]) + signed(REJECT, identifier, authenticator, attributes, secret, signer)[1:]
        elif forge == "shortened":
            octets = octets[:-4]
        elif not forge:
            self._last_reply = octets
        return octets


FORGERIES = (
    "no-ma", "wrong-ma", "wrong-authenticator", "other-id", "other-code", "other-secret", "other-request", "changed-code",
    "proxy-state", "shortened", "garbage", "octet", "replayed",
)  # fmt: skip


def signed(code, identifier, authenticator, attributes, secret, signer, *, ma=True):  # noqa: PLR0917 - in the packet's order
    """A reply: RFC 2865 section 3, with RFC 3579 section 3.2's attribute made by the secret `signer`."""
    values = b"".join(bytes([kind, 2 + len(value)]) + value for kind, value in attributes)
    length = 20 + len(values) + 18 * ma
    header = struct.pack("!BBH", code, identifier, length)
    if ma:
        right = hmac.digest(signer, header + authenticator + b"\x50\x12" + bytes(16) + values, "md5")
        values = b"\x50\x12" + right + values
    return header + hashlib.md5(header + authenticator + values + secret).digest() + values


def shown(hidden, authenticator, secret):
    """The password in a User-Password (RFC 2865 section 5.2)."""
    assert 16 <= len(hidden) <= 128, "User-Password has no length that it may have"
    assert len(hidden) % 16 == 0, "User-Password is not padded"
    clear, last = b"", authenticator
    for at in range(0, len(hidden), 16):
        key = hashlib.md5(secret + last).digest()
        last = hidden[at : at + 16]
        clear += bytes(a ^ b for a, b in zip(last, key, strict=True))
    return clear.rstrip(b"\0")
