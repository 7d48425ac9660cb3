"""Microsoft Entra's second factors, asked for as Microsoft's NPS extension does it. Experimental.

The interface (StrongAuthenticationService) is not documented by Microsoft, who may change or close it at any time; what
is known comes from traces and error lists. So whatever could turn out otherwise is a key of the table. Promised here: a
login is allowed only by `Success` together with `true`, for the session that was begun for this user; every other
answer is a no, or a failure that lets nobody in. The access token goes to no host that is not in the table, whatever an
answer says (AffinityUrl).

`entra_table` has the settings, `entra_token` gets tokens, `entra_xml` has the XML and the meaning of its results.
"""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, cast
from urllib.parse import urlsplit

from ldapmfa.audit import printable
from ldapmfa.config.tables import ServiceTable
from ldapmfa.core.secret import Secret
from ldapmfa.errors import FactorDown, FactorUnreachable
from ldapmfa.factors import entra_xml
from ldapmfa.factors.entra_table import EntraTable
from ldapmfa.factors.entra_token import Tokens
from ldapmfa.factors.entra_xml import Outcome
from ldapmfa.factors.http import Http
from ldapmfa.factors.service import Allowed, Answer, CodeSent, Denied, Prompt, Started, Tools, Waiting


@dataclass(frozen=True, slots=True)
class _Session:
    """A question under way: what is needed to hear its answer; `began` by the loop's clock."""

    id: str = field(repr=False)
    context: str = field(repr=False)
    user: str
    url: str = field(repr=False)
    began: float = 0.0


#: How many times to ask at most, before somebody is waited for, whether a code was sent rather than a prompt.
_SETTLING: Final = 2
#: Seconds between attempts to ask while the service fails, at most.
_LONGEST_PAUSE: Final = 10.0
#: Methods whose outcome is a code.
_CODES: Final = ("sms", "otp")
_UNAUTHORIZED: Final = 401
#: Results that show a service out of order even if the question was a mere probe.
_SICK: Final = ("InternalError", "TenantIsBlocked", "VersionNotSupported")


class Entra:
    """Entra, as a tenant's Azure Multi-Factor Auth Client may ask it."""

    Table: ClassVar[type[ServiceTable]] = EntraTable
    methods: ClassVar[tuple[str, ...]] = ("push", "phone", "office", *_CODES)
    takes_codes: ClassVar[bool] = True
    wants_password = False

    def __init__(self, table: EntraTable, tools: Tools) -> None:
        self._table = table
        self._tools = tools
        self._http = Http("entra", table, tools)
        self._tokens = Tokens(table, self._http, tools)

    # -- what a login asks

    async def start(self, prompt: Prompt) -> Started:
        """Ask by the method, or as the user's default is; see `Service`."""
        cannot = self._cannot(prompt)
        if cannot:
            return cannot
        try:
            await self._tokens.get()
        except FactorUnreachable:
            raise
        except FactorDown as error:
            raise _nobody_asked(error) from None
        begun = await self._begin(prompt, prompt.method)
        if isinstance(begun, Denied):
            return begun
        session, outcome = begun
        settles = prompt.method in {"", "sms"}
        return self._started(prompt.method, session, await self._settled(session, outcome) if settles else outcome)

    def _started(self, method: str, session: _Session, outcome: Outcome | Denied) -> Started:
        if isinstance(outcome, Denied):
            return outcome
        if outcome == "allowed":
            if method in _CODES:
                raise FactorDown("entra: it says yes without having seen the code")
            return Allowed(method or "default")
        if outcome == "code" or method in _CODES:
            self._tools.say("a code is wanted, or on its way")
            sent = {"session": session.id, "context": session.context, "user": session.user, "url": session.url}
            return CodeSent(sent, self._table.code_seconds)
        self._tools.say("the user is being asked")
        return Waiting(session)

    async def wait(self, prompt: Prompt, waiting: Waiting) -> Answer:
        """Ask every `poll_seconds` how it went; see `Service`."""
        session = cast("_Session", waiting.handle)
        try:
            async with asyncio.timeout_at(session.began + prompt.seconds):
                return await self._answer(prompt, session)
        except TimeoutError:
            return Denied("no-answer", f"{prompt.seconds:g} seconds are over")

    async def _answer(self, prompt: Prompt, session: _Session) -> Answer:
        least = longer = pause = self._table.poll_seconds
        while True:
            await self._tools.sleep(pause)
            try:
                outcome = await self._end(session, None)
            except FactorDown as error:
                if not isinstance(error, FactorUnreachable) and error.retry_after is None:
                    raise
                # the user may be answering meanwhile, so there is time for it to come back
                self._tools.say(f"{error}; asking again")
                longer = min(2 * longer, _LONGEST_PAUSE)
                pause = max(longer, error.retry_after or 0.0)
                continue
            longer = pause = least
            if isinstance(outcome, Denied):
                return outcome
            if outcome == "allowed":
                return Allowed(prompt.method or "default")
            if outcome == "code":
                return Denied("no-method", "a code is wanted, and nobody can be asked for it now")

    async def verify(self, prompt: Prompt, code: Secret, sent: CodeSent | None) -> Answer:
        """Show the service the code, of a text message if one was `sent`, else of the app or a token; see `Service`."""
        cannot = self._cannot(prompt)
        if cannot:
            return cannot
        if not re.fullmatch(rb"[0-9]{4,10}", code.reveal()):
            return Denied("wrong-code", "it has not the form of a code of this service")
        try:
            if sent is not None:
                return await self._checked(prompt, code, self._known(prompt, sent.handle))
            begun = await self._begin(prompt, "otp")
            if isinstance(begun, Denied):
                return begun
            session, outcome = begun
            if outcome == "allowed":
                raise FactorDown("entra: it says yes without having seen the code")
            return await self._checked(prompt, code, session)
        except FactorUnreachable as error:
            raise _asked_already(error) from None

    async def _checked(self, prompt: Prompt, code: Secret, session: _Session) -> Answer:
        try:
            async with asyncio.timeout(prompt.seconds):
                while True:
                    outcome = await self._end(session, code)
                    if isinstance(outcome, Denied):
                        return outcome
                    if outcome == "allowed":
                        return Allowed("passcode")
                    if outcome == "code":
                        return Denied("wrong-code", "the code is asked for again")
                    await self._tools.sleep(self._table.poll_seconds)
        except TimeoutError:
            return Denied("no-answer", "the code is still being looked at")

    async def cancel(self, prompt: Prompt, waiting: Waiting) -> None:
        """Do nothing, for the service has no call for it: the prompt stays on the phone for about a minute."""

    async def health(self) -> str:
        """Get a new token, and ask about a session that does not exist; see `Service`."""
        await self._tokens.renewed()
        if self._table.health_check == "token":
            return "entra gives tokens"
        context = self._guid()
        body = entra_xml.end(self._table, session=context, context=context, user="nobody@invalid", code=None)
        reply = await self._post(self._url(self._table.end_operation), body, asks_nobody=True)
        answer = self._parsed(reply, self._table.end_operation)
        if answer.value in _SICK:
            raise FactorDown(f"entra: {entra_xml.FAILURES[answer.value]} ({answer.value})")
        return "entra gives tokens, and its second-factor service takes them"

    async def close(self) -> None:
        """Let go of all connections."""
        await self._tokens.close()
        await self._http.close()

    # -- the two operations

    def _cannot(self, prompt: Prompt) -> Denied | None:
        """Why nobody can be asked like this at all."""
        if prompt.method and prompt.method not in self.methods:
            return Denied("no-method", "there is no such method")
        if prompt.device:
            return Denied("no-method", "a device can't be chosen here")
        if not prompt.user.isprintable() or not re.fullmatch(r"[^@\s]+@[^@\s]+", prompt.user):
            return Denied("denied", "what the user is called at Entra is no userPrincipalName")
        return None

    async def _begin(self, prompt: Prompt, method: str) -> tuple[_Session, Outcome] | Denied:
        """The question that was asked, and what came of it at once."""
        table, context = self._table, self._guid()
        override = {"always": True, "never": False, "unsaid": None}.get(table.override_number_matching, method == "otp")
        kind = getattr(table, f"{method}_id") if method else ""
        body = entra_xml.begin(table, user=prompt.user, context=context, method=kind, override=override)
        began = asyncio.get_running_loop().time()
        self._tools.say(f"asking {table.hosts[0]} for {kind or 'the default method'} of {printable(prompt.user)}")
        url, seconds = self._url(table.begin_operation), prompt.seconds if table.sync_call else None
        answer, outcome = self._read(await self._post(url, body, seconds=seconds), table.begin_operation, prompt.user)
        if isinstance(outcome, Denied):
            unknown = not kind and answer.value in entra_xml.UNREGISTERED
            return Denied("not-enrolled", answer.value) if unknown else outcome
        if not answer.session:
            raise FactorDown("entra: the answer has no SessionId")
        if answer.number not in {None, "0"}:
            self._tools.say("the phone wants a number to be matched, which is shown nowhere: see the how-to")
        return _Session(answer.session, context, prompt.user, self._end_url(answer.affinity), began), outcome

    async def _end(self, session: _Session, code: Secret | None) -> Outcome | Denied:
        """How `session` stands. FactorUnreachable: it can't be told now; not that nobody was asked."""
        body = entra_xml.end(
            self._table,
            session=session.id,
            context=session.context,
            user=session.user,
            code=code.reveal().decode("ascii") if code else None,
        )
        reply = await self._post(session.url, body, asks_nobody=True)
        _, outcome = self._read(reply, self._table.end_operation, session.user, session.id)
        if outcome == "silent":
            raise FactorDown("entra: it says Success, and not whether of an authentication")
        return outcome

    async def _settled(self, session: _Session, begun: Outcome) -> Outcome | Denied:
        """What became of a question that may turn out to be a code's: text messages are sent after the answer."""
        outcome: Outcome | Denied = begun
        for _ in range(_SETTLING):
            if isinstance(outcome, Denied) or outcome in {"allowed", "code"}:
                break
            await self._tools.sleep(self._table.poll_seconds)
            try:
                outcome = await self._end(session, None)
            except FactorUnreachable:
                continue  # whoever waits will hear of it if it lasts
        return outcome

    def _read(
        self, body: bytes, operation: str, user: str, session: str | None = None
    ) -> tuple[entra_xml.Answer, Outcome | Denied]:
        """An answer about this user, and this session if it is known. FactorDown: it is none."""
        answer = self._parsed(body, operation)
        try:
            outcome = answer.outcome()
        except ValueError as error:
            raise FactorDown(f"entra: {error}") from None
        if answer.user is not None and answer.user.lower() != user.lower():
            raise FactorDown("entra: the answer is about another user")
        if session is not None and answer.session not in {None, session}:
            raise FactorDown("entra: the answer is about another session")
        self._tools.say(f"it answers {printable(answer.value)}, authenticated: {answer.authenticated or 'not said'}")
        return answer, outcome

    @staticmethod
    def _parsed(body: bytes, operation: str) -> entra_xml.Answer:
        try:
            return entra_xml.read(body, operation)
        except ValueError as error:
            raise FactorDown(f"entra: {error}") from None

    async def _post(self, url: str, body: bytes, *, seconds: float | None = None, asks_nobody: bool = False) -> bytes:
        """The body of the answer; a token that is not taken is renewed once."""
        refused: Secret | None = None
        for _ in range(2):
            token = await self._tokens.get(refused)
            headers = {
                "Authorization": f"Bearer {token.reveal().decode('ascii')}",
                "Content-Type": self._table.content_type,
            }
            reply = await self._http.send(
                "POST", url, headers=headers, body=body, seconds=seconds, asks_nobody=asks_nobody
            )
            if reply.status != _UNAUTHORIZED:
                break
            refused = token
        if reply.status != 200:
            what = "it does not take our token" if reply.status in {_UNAUTHORIZED, 403} else "it answers"
            raise FactorDown(f"entra: {what} ({reply.status})")
        return reply.body

    # -- where, and which session

    def _url(self, operation: str) -> str:
        return f"https://{self._table.hosts[0]}{self._table.path}/{operation}"

    def _end_url(self, affinity: str | None) -> str:
        """Where to ask for the result: at the data centre that an answer names, if it is at one of our hosts."""
        table = self._table
        plain = self._url(table.end_operation)
        if affinity is None:
            return plain
        try:
            parts = urlsplit(affinity)
        except ValueError:
            parts = urlsplit("")
        host = parts.netloc.lower().removesuffix(":443")
        if (
            parts.scheme == "https"
            and host in table.hosts
            and parts.path in {table.path, f"{table.path}/", f"{table.path}/{table.end_operation}"}
            and re.fullmatch(r"[A-Za-z0-9._~%=&+-]*", parts.query)
            and not parts.fragment
        ):
            return f"https://{host}{table.path}/{table.end_operation}" + (f"?{parts.query}" if parts.query else "")
        self._tools.say("it names another place to ask (AffinityUrl), which is not one of ours: not used")
        return plain

    def _known(self, prompt: Prompt, handle: Mapping[str, Any]) -> _Session:
        """The session in a `CodeSent`'s handle, if it is this user's."""
        words = [handle.get(name) for name in ("session", "context", "user", "url")]
        if not all(isinstance(word, str) and word for word in words) or handle["user"] != prompt.user:
            raise FactorDown("entra: the code was sent to somebody else")
        session, context, user, url = cast("list[str]", words)
        return _Session(session, context, user, self._end_url(url))

    def _guid(self) -> str:
        return str(uuid.UUID(bytes=self._tools.entropy(16), version=4))


def _asked_already(error: FactorUnreachable) -> FactorDown:
    """`error` where somebody may have been asked: nothing opens then."""
    return FactorDown(str(error), retry_after=error.retry_after)


def _nobody_asked(error: FactorDown) -> FactorDown:
    """`error` where nobody was asked yet; a failure to get a token is shared by many logins, so it stays as it is."""
    fresh = FactorDown(str(error), retry_after=error.retry_after)
    fresh.asked = False
    return fresh
