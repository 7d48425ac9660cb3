"""privacyIDEA: push, codes by SMS and e-mail, and the codes of all its tokens.

Promised here: only a yes of validate/check lets anybody in. That a push was accepted is asked there once more, for its
transaction and user: polling it decides nothing. A code is never empty, for privacyIDEA takes that for the wish to be
sent one. Transaction ids and tokens are in nothing that is shown.

Not in here: PINs. What was typed is split into the directory's password and a code, so that privacyIDEA must not want a
PIN before it (its policy otppin). Nor can an LDAP client show what push_require_presence wants to be shown.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any, ClassVar, Final, TypeVar, cast
from urllib.parse import urlencode

from pydantic import Field, SecretStr, ValidationInfo

from ldapmfa.config import checks
from ldapmfa.config.tables import HttpTable
from ldapmfa.config.values import File, Seconds, Text, web_url
from ldapmfa.core.secret import Secret
from ldapmfa.errors import FactorDown, FactorUnreachable
from ldapmfa.factors.http import Http, Reply
from ldapmfa.factors.privacyidea_answers import (
    NAME,
    TRANSACTION,
    Challenge,
    Question,
    chosen,
    polled,
    read,
    session,
    shown,
    triggered,
    verdict,
    why_of,
)
from ldapmfa.factors.service import Answer, CodeSent, Denied, Prompt, Started, Tools, Waiting, Why

#: Seconds that are spent on taking a question back, and on what is under way at the end.
CANCEL_SECONDS: Final = 3.0
CLOSE_SECONDS: Final = 1.0
_T = TypeVar("_T")
_UNAUTHORIZED: Final = 401
#: Seconds that the two clocks may differ before it is told.
_CLOCK: Final = 5.0
_CODE: Final = re.compile(rb"[!-~]{1,128}")
_SERIAL: Final = re.compile(r"[A-Za-z0-9_.-]{1,40}")


# -- the settings


def _given(info: ValidationInfo, *names: str) -> bool:
    return any(info.data.get(name) is not None for name in names)


def _goes_with_admin(password: object, info: ValidationInfo) -> None:
    if not {"admin", "password_file"} <= info.data.keys():
        return
    number = (password is not None) + _given(info, "password_file")
    if number == 2:
        raise ValueError("or password_file: keep one")
    if _given(info, "admin") != bool(number):
        raise ValueError("is pointless without admin" if number else "is missing, and password_file too: give one")


def _instead_of_admin(token: object, info: ValidationInfo) -> None:
    if token is not None and _given(info, "token_file"):
        raise ValueError("or token_file: keep one")
    if (token is not None or _given(info, "token_file")) and _given(info, "admin"):
        raise ValueError("or admin: keep either admin or token (or token_file)")


def _one_api_key(key: object, info: ValidationInfo) -> None:
    if key is not None and _given(info, "api_key_file"):
        raise ValueError("or api_key_file: keep one")


# -- the service


class PrivacyIdea:
    """A privacyIDEA server as `table` describes it."""

    class Table(HttpTable):
        """How privacyIDEA is reached, and by which administrator users are asked."""

        url: Annotated[Text, web_url("https://mfa.example.com")] = Field(examples=["https://mfa.example.com"])
        """Where it is: what stands before /validate/check."""
        realm: Text | None = Field(None, examples=["staff"])
        """The realm in which users are looked for; privacyIDEA's default realm if not given."""
        realms: dict[str, Text] = Field(default={}, examples=[{"vpn": "staff", "partners": "external"}])
        """Another realm for an application, by its name."""
        admin: Text | None = Field(None, examples=["ldapmfa"])
        """The administrator of privacyIDEA as whom users are asked, with the rights triggerchallenge and
        cancelchallenge; without one (and without a token) codes can be checked, and nobody can be asked."""
        admin_realm: Text | None = Field(None, examples=["service"])
        """The realm of that administrator; none for one that `pi-manage admin add` has made."""
        password_file: Annotated[File | None, checks.is_password] = Field(
            None, examples=["/etc/ldapmfa/privacyidea.password"]
        )
        """The file that holds its password, the better place for it; a line end after it is ignored."""
        password: Annotated[SecretStr | None, checks.when_read(_goes_with_admin)] = Field(None, examples=["secret"])
        """Its password itself, instead of password_file."""
        token_file: Annotated[File | None, checks.is_password] = Field(
            None, examples=["/etc/ldapmfa/privacyidea.token"]
        )
        """Instead of admin: the file that holds a token of an administrator that does not expire soon, as `pi-manage
        api createtoken --role admin` makes it."""
        token: Annotated[SecretStr | None, checks.when_read(_instead_of_admin)] = Field(None, examples=["eyJhbGci"])
        """That token itself, instead of token_file."""
        api_key_file: Annotated[File | None, checks.is_password] = Field(
            None, examples=["/etc/ldapmfa/privacyidea.api-key"]
        )
        """The file that holds what codes are to be checked with where the policy api_key_required is set: a token
        (`--role validate`), or the key of an API client."""
        api_key: Annotated[SecretStr | None, checks.when_read(_one_api_key)] = Field(None, examples=["eyJhbGci"])
        """That key itself, instead of api_key_file."""
        poll_seconds: Annotated[Seconds, Field(ge=0.2, le=30)] = 1
        """How often it is asked whether a push was answered."""
        challenge_seconds: Seconds = 120
        """For how long a code that was sent is good: privacyIDEA's DefaultChallengeValidityTime."""

    methods: ClassVar[Sequence[str]] = ("push", "sms", "email")
    takes_codes: ClassVar[bool] = True
    wants_password: bool = False

    def __init__(self, table: Any, tools: Tools) -> None:
        self._table = cast("PrivacyIdea.Table", table)
        self._tools = tools
        self._http = Http(NAME, self._table, tools)
        self._password = _for_form(self._table.secret_of("password"), "password")
        self._api_key = _for_header(self._table.secret_of("api_key"), "api_key")
        self._fixed = _for_header(self._table.secret_of("token"), "token")
        self._session: Secret | None = None
        self._logging_in: asyncio.Task[Secret] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    # -- asking

    async def start(self, prompt: Prompt) -> Started:
        """Have all fitting tokens of the user asked."""
        if prompt.method and prompt.method not in self.methods:
            return Denied("no-method", f"no such method: {shown(prompt.method)}")
        if not (self._fixed or self._table.admin):
            return Denied("no-method", "neither admin nor token is set: nobody can be asked")
        if prompt.device and not _SERIAL.fullmatch(prompt.device):
            return Denied("no-method", "a device is named by its serial number")
        fields = self._whom(prompt)
        if prompt.method:
            fields["type"] = prompt.method
        if prompt.device:
            fields["serial"] = prompt.device
        self._tools.say(f"have {shown(prompt.user)} asked (validate/triggerchallenge)")
        found = triggered(await self._as_admin("POST", "/validate/triggerchallenge", fields))
        if isinstance(found, Denied):
            return found
        challenges, message = found
        return self._asked(prompt, challenges) if challenges else await self._nobody_asked(prompt, message)

    def _asked(self, prompt: Prompt, challenges: Sequence[Challenge]) -> Started:
        kinds = ", ".join(dict.fromkeys(one.kind for one in challenges))
        self._tools.say(f"asked: {kinds}")
        if prompt.method and any(one.kind != prompt.method for one in challenges):
            self._tools.say("that is more than was wanted: set its policy application_tokentype")
        one = chosen(challenges, prompt)
        if one is None:
            return Denied("no-method", f"no token that can be asked like this; those that there are: {kinds}")
        serials = tuple({it.serial: None for it in challenges if it.serial and it.transaction == one.transaction})
        if one.mode == "poll":
            return Waiting(Question(one.transaction, one.kind, serials))
        handle = {"transaction": one.transaction, "kind": one.kind, "serials": " ".join(serials), "user": prompt.user}
        return CodeSent(handle, seconds=self._table.challenge_seconds)

    async def _nobody_asked(self, prompt: Prompt, message: str) -> Denied:
        """Why nobody could be asked. That users have no token at all only a check says, here of no code at all."""
        if not message and not prompt.method and not prompt.device:
            with suppress(FactorDown):
                said = verdict(await self._check(prompt, {"pass": ""}), None, "no-method")
                if isinstance(said, Denied):
                    why: Why = "not-enrolled" if said.why == "not-enrolled" else "no-method"
                    return Denied(why, said.detail, asked=True)
        return Denied(why_of(message, "no-method"), message or "no token that can be asked like this", asked=True)

    async def wait(self, prompt: Prompt, waiting: Waiting) -> Answer:
        """Poll until the push is answered; what counts is the check afterwards."""
        question = cast("Question", waiting.handle)
        trouble: FactorDown | None = None
        with suppress(TimeoutError):
            async with asyncio.timeout(prompt.seconds):
                while True:
                    try:
                        answer = await self._answer(prompt, question)
                    except FactorDown as error:
                        if not isinstance(error, FactorUnreachable) and error.retry_after is None:
                            raise
                        trouble, pause = error, max(self._table.poll_seconds, error.retry_after or 0)
                    else:
                        if answer:
                            return answer
                        trouble, pause = None, self._table.poll_seconds
                    await self._tools.sleep(pause)
        if trouble:
            raise FactorDown(str(trouble), retry_after=trouble.retry_after)
        return Denied("no-answer")

    async def _answer(self, prompt: Prompt, question: Question) -> Answer | None:
        """What the owner says, None as long as nothing; whoever knows a transaction may poll it without an account."""
        path = f"/validate/polltransaction/{question.transaction}"
        found = polled(await self._send("GET", path, self._key(), asks_nobody=True))
        if found is not True:
            return found or None
        self._tools.say("accepted; finish it (validate/check)")
        fields = {"transaction_id": question.transaction, "pass": ""}
        return verdict(await self._check(prompt, fields), question, "denied")

    async def cancel(self, prompt: Prompt, waiting: Waiting) -> None:  # noqa: ARG002 - the interface's
        """Delete the challenge, so that the push leaves the phone (3.14 and later, with the right cancelchallenge)."""
        question = cast("Question", waiting.handle)
        with suppress(FactorDown, TimeoutError):
            async with asyncio.timeout(CANCEL_SECONDS):
                await self._as_admin("DELETE", f"/token/challenges/transaction/{question.transaction}")

    # -- codes

    async def verify(self, prompt: Prompt, code: Secret, sent: CodeSent | None) -> Answer:
        """Check a code: of any token, or the one that was sent."""
        octets = code.reveal()
        if not _CODE.fullmatch(octets):
            return Denied("wrong-code", "no code")
        fields, asked = {"pass": octets.decode("ascii")}, None
        if sent:
            asked = _question(sent, prompt)
            fields["transaction_id"] = asked.transaction
        self._tools.say(f"check the code of {shown(prompt.user)} (validate/check)")
        try:
            return verdict(await self._check(prompt, fields), asked, "wrong-code")
        except FactorUnreachable as error:
            raise FactorDown(str(error), retry_after=error.retry_after) from None

    # -- requests

    def _whom(self, prompt: Prompt) -> dict[str, str]:
        fields = {"user": prompt.user}
        realm = self._table.realms.get(prompt.application, self._table.realm)
        if realm is not None:
            fields["realm"] = realm
        if prompt.client:
            fields["client"] = prompt.client
        return fields

    def _key(self) -> dict[str, str]:
        """What codes are checked with: a token has two dots, the key of an API client has none."""
        if not self._api_key:
            return {}
        key = self._api_key.reveal().decode("ascii")
        return {"PI-Authorization" if key.count(".") == 2 else "X-API-Key": key}

    async def _check(self, prompt: Prompt, fields: Mapping[str, str]) -> Reply:
        return await self._send("POST", "/validate/check", self._key(), {**self._whom(prompt), **fields})

    async def _send(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        fields: Mapping[str, str] | None = None,
        *,
        asks_nobody: bool = False,
    ) -> Reply:
        """A request, which ends by itself if nobody waits for it any more.

        Cancelled while TLS is being agreed on, httpcore would leave its socket open.
        """
        form = {"Content-Type": "application/x-www-form-urlencoded"} if fields else {}
        sending = self._http.send(
            method,
            self._table.url + path,
            headers={**headers, **form},
            body=urlencode(fields or {}).encode(),
            asks_nobody=asks_nobody,
        )
        return await asyncio.shield(self._apart(sending))

    def _apart(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """`work` as a task of its own, of whose failure nobody need hear."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda task: task.cancelled() or task.exception())
        return task

    async def _as_admin(
        self, method: str, path: str, fields: Mapping[str, str] | None = None, *, asks_nobody: bool = False
    ) -> Reply:
        """A request as the administrator, who logs in anew where the server says that this is due."""
        token = self._fixed or await self._token(None)
        reply = await self._send(method, path, _bearing(token), fields, asks_nobody=asks_nobody)
        if reply.status == _UNAUTHORIZED and not self._fixed:
            token = await self._token(token)
            reply = await self._send(method, path, _bearing(token), fields, asks_nobody=asks_nobody)
        return reply

    async def _token(self, refused: Secret | None) -> Secret:
        """The administrator's token, another one than `refused`; however many want one, one log-in is made."""
        if self._session is not None and self._session is not refused:
            return self._session
        if self._logging_in is None or self._logging_in.done():
            self._logging_in = self._apart(self._log_in())
        return await asyncio.shield(self._logging_in)

    async def _log_in(self) -> Secret:
        admin, realm = self._table.admin or "", self._table.admin_realm
        self._tools.say(f"log in as {shown(admin)} (auth)")
        fields = {"username": admin, "password": self._password.reveal().decode()}
        if realm is not None:
            fields["realm"] = realm
        self._session = session(await self._send("POST", "/auth", {}, fields, asks_nobody=True), admin)
        return self._session

    # -- life

    async def health(self) -> str:
        """Whether the server answers, takes the key, and lets the administrator in; nobody is asked."""
        reply = await self._send("GET", f"/validate/polltransaction/{'0' * 20}", self._key(), asks_nobody=True)
        if polled(reply) is not False:
            raise FactorDown(f"{NAME}: takes a push for answered that never was")
        answer = reply.json(NAME)
        words, time = [shown(answer.get("version")) or NAME], answer.get("time")
        if isinstance(time, int | float) and abs(time - self._tools.now()) > _CLOCK:
            words.append(f"its clock is {time - self._tools.now():+.0f} s off ours")
        if self._fixed:
            rights = read(await self._as_admin("GET", "/auth/rights", asks_nobody=True))
            if isinstance(rights, Denied):
                raise FactorDown(f"{NAME}: the token is not taken ({rights.detail})")
            words.append("the token is taken")
        elif self._table.admin:
            self._session = None
            await self._token(None)
            words.append(f"logged in as {shown(self._table.admin)}")
        else:
            words.append("codes only, as neither admin nor token is set")
        return ", ".join(words)

    async def close(self) -> None:
        """Let go of all connections."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_SECONDS)
        for task in self._tasks:
            task.cancel()
        await self._http.close()


def _question(sent: CodeSent, prompt: Prompt) -> Question:
    handle = sent.handle
    transaction = handle.get("transaction", "")
    if handle.get("user") != prompt.user or not TRANSACTION.fullmatch(transaction):
        raise FactorDown(f"{NAME}: that code was sent to somebody else")
    return Question(transaction, handle.get("kind", ""), tuple(handle.get("serials", "").split()))


def _bearing(token: Secret) -> dict[str, str]:
    return {"PI-Authorization": token.reveal().decode("ascii")}


def _for_header(secret: Secret, name: str) -> Secret:
    if not re.fullmatch(rb"[!-~]*", secret.reveal()):
        raise ValueError(f"{name} holds characters that no key has")
    return secret


def _for_form(secret: Secret, name: str) -> Secret:
    try:
        secret.reveal().decode()
    except UnicodeDecodeError:
        raise ValueError(f"{name} is not UTF-8") from None
    return secret
