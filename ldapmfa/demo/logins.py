"""The logins of the demo: what is typed, which button is pressed, what must come of it, and what did.

Promised here: the client shares no code with the proxy (it is ldaptor's), and an outcome is right only if the client
saw the expected result code *and* the audit trail gives the expected reason under the reference code that the client
was shown *and*, where a push is played, the page asked what it must while the client still waited. Not in here: how
that looks on a terminal (`ldapmfa.demo.terminal`).

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
from ldapmfa.demo.browser import Browser
from ldapmfa.demo.directory import ALICE, ALICE_PASSWORD, BASE

#: What the listener is called at which a push is the second factor: the page shows it.
APPLICATION: Final = "demo-app"
_QUESTION: Final = f"alice wants to sign in to {APPLICATION} from 127.0.0.1"

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
    """A result code, the audit trail's reason ("" where nobody tried to log in), and the entries that were found.

    `asked` is the question that the page showed while the client waited, if it did.
    """

    code: int
    reason: str = ""
    entries: tuple[str, ...] = ()
    asked: str = ""


@dataclass(frozen=True, slots=True)
class Login:
    """One of them. `suffix` is what follows the password, a field of `Codes` or ""; None: there is no bind.

    `pressed` is the button of the page that is pressed, in a login that waits for one.
    """

    title: str
    story: str
    suffix: str | None
    expected: Outcome
    pressed: str = ""

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
    Login(
        "A push, approved",
        "Alice types her password alone, and her phone asks whether it is she; then she searches for herself.",
        "",
        Outcome(0, "approved", (ALICE,), _QUESTION),
        "Approve",
    ),
    Login(
        "A push, denied",
        "Alice has changed her mind.",
        "",
        Outcome(49, "denied", asked=_QUESTION),
        "Deny",
    ),
    Login(
        "A push, reported as fraud",
        "Somebody else knows Alice's password; her phone asks, and she reports it: her account is blocked at once.",
        "",
        Outcome(49, "fraud", asked=_QUESTION),
        "Report fraud",
    ),
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


@dataclass(frozen=True, slots=True)
class Stage:
    """Where they are played: the proxy's ports for codes and for pushes, the page, and who looks up the record."""

    reactor: Any
    code_port: int
    push_port: int
    browser: Browser
    operator: Operator


async def play(login: Login, codes: Codes, stage: Stage) -> Seen:
    """Play `login`, and look up what is on record of it."""
    typed, operator = login.typed(codes), stage.operator
    port = stage.push_port if login.pressed else stage.code_port
    asked = ""
    async with asyncio.timeout(_PATIENCE), _connected(stage.reactor, port) as client:
        if typed is None:
            entries, answer = await _search(client)
        else:
            request = pureldap.LDAPBindRequest(dn=ALICE, auth=typed)
            bound = client.send(request).asFuture(asyncio.get_running_loop())
            if login.pressed:
                answer, asked = await asyncio.gather(bound, stage.browser.press(login.pressed, bound))
            else:
                answer = await bound
            entries = (await _search(client))[0] if answer.resultCode == 0 else ()
    text = answer.errorMessage.decode(errors="replace")
    reference = found[1] if (found := _REFERENCE.search(text)) else ""
    record = None
    if typed is not None:
        record = await (_refusal(operator, reference) if reference else _last_success(operator))
    outcome = Outcome(answer.resultCode, record.reason if record else "", entries, asked)
    return Seen(outcome, text, reference, record)


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
