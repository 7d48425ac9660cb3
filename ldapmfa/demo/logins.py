"""The five logins of the demo: what is typed, what must come of it, and what did.

Promised here: the client shares no code with the proxy (it is ldaptor's), and an outcome is right only if the client
saw the expected result code *and* the audit trail gives the expected reason under the reference code that the client
was shown. Not in here: how that looks on a terminal (`ldapmfa.demo.run`).

Importing this imports the reactor (ldaptor does).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from ldaptor.ldapfilter import parseFilter
from ldaptor.protocols import pureldap
from ldaptor.protocols.ldap.ldapclient import LDAPClient
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol

from ldapmfa.accounts import Operator
from ldapmfa.audit import LoginEnded
from ldapmfa.demo.directory import ALICE, ALICE_PASSWORD, BASE

#: Seconds an answer may take, or a note of the audit trail.
_PATIENCE: Final = 10.0
_REFERENCE: Final = re.compile(r"Reference: ([A-Z0-9]{8})\b")


@dataclass(frozen=True, slots=True)
class Codes:
    """The code of the moment, and one that is wrong now, before and after."""

    right: str
    wrong: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """A result code, the audit trail's reason ("" where nobody tried to log in), and the entries that were found."""

    code: int
    reason: str = ""
    entries: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Login:
    """One of the five. `suffix` is what follows the password, a field of `Codes` or ""; None: there is no bind."""

    title: str
    story: str
    suffix: str | None
    expected: Outcome

    def typed(self, codes: Codes) -> str | None:
        """What the client sends as its password."""
        if self.suffix is None:
            return None
        return ALICE_PASSWORD + (getattr(codes, self.suffix) if self.suffix else "")


LOGINS: Final = (
    Login("Password only", "Alice types her password and no code.", "", Outcome(49, "no-code")),
    Login("A wrong code", "Alice types her password and a code she made up.", "wrong", Outcome(49, "wrong-code")),
    Login(
        "The right code",
        "Alice types her password and, right behind it, the code of the moment; then she searches for herself.",
        "right",
        Outcome(0, "code", (ALICE,)),
    ),
    Login(
        "The same code again",
        "Somebody who looked over Alice's shoulder types what she has just typed.",
        "right",
        Outcome(49, "replayed-code"),
    ),
    Login("A search before any bind", "Somebody searches without having logged in at all.", None, Outcome(50)),
)

@dataclass(frozen=True, slots=True)
class Seen:
    """What became of a login: the outcome, and the text and reference code that the client was shown."""

    outcome: Outcome
    text: str
    reference: str
    record: LoginEnded | None


def is_right(login: Login, seen: Seen) -> bool:
    """Whether what was seen is what must be."""
    return seen.outcome == login.expected


async def play(login: Login, codes: Codes, reactor: Any, port: int, operator: Operator) -> Seen:
    """Play `login` against the proxy at `port`, and let `operator` look up what is on record of it."""
    typed = login.typed(codes)
    async with asyncio.timeout(_PATIENCE), _connected(reactor, port) as client:
        if typed is None:
            entries, answer = await _search(client)
        else:
            request = pureldap.LDAPBindRequest(dn=ALICE, auth=typed)
            answer = await client.send(request).asFuture(asyncio.get_running_loop())
            entries = (await _search(client))[0] if answer.resultCode == 0 else ()
    text = answer.errorMessage.decode(errors="replace")
    reference = found[1] if (found := _REFERENCE.search(text)) else ""
    record = None
    if typed is not None:
        record = await (_refusal(operator, reference) if reference else _last_success(operator))
    return Seen(Outcome(answer.resultCode, record.reason if record else "", entries), text, reference, record)


@asynccontextmanager
async def _connected(reactor: Any, port: int) -> AsyncIterator[Any]:
    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
    client = await connectProtocol(endpoint, LDAPClient()).asFuture(asyncio.get_running_loop())
    try:
        yield client
    finally:
        if client.connected:
            client.unbind()


async def _search(client: Any) -> tuple[tuple[str, ...], Any]:
    """Look for alice; the DNs of the entries that came, and the final answer."""
    done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    entries: list[str] = []

    def came(answer: Any) -> bool:
        if isinstance(answer, pureldap.LDAPSearchResultEntry):
            entries.append(answer.objectName.decode())
            return False
        done.set_result(answer)
        return True

    def lost(failure: Any) -> None:
        if not done.done():
            done.set_exception(failure.value)

    request = pureldap.LDAPSearchRequest(baseObject=BASE, filter=parseFilter("(uid=alice)"), attributes=["cn", "mail"])
    client.send_multiResponse(request, came).addErrback(lost)
    answer = await done
    return tuple(entries), answer


async def _refusal(operator: Operator, reference: str) -> LoginEnded | None:
    """What is on record under `reference`; it is written a moment after the refusal was sent."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _PATIENCE
    while loop.time() < deadline:
        found = await operator.refusal(reference)
        if isinstance(found, LoginEnded):
            return found
        await asyncio.sleep(0.02)
    return None


async def _last_success(operator: Operator) -> LoginEnded | None:
    """The newest success; it is on record before it is told."""
    for event in await operator.events(10):
        if isinstance(event, LoginEnded) and event.outcome == "accepted":
            return event
    return None
