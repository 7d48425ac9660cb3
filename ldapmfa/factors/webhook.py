"""A second factor that any program verifies which speaks our small contract: docs/reference/webhook.md.

Promised here: requests and answers are signed (HMAC-SHA256) over direction, action, time, nonce, transaction and body,
so that an answer counts only for the one request it was made for, within `WINDOW`; and a yes is JSON's true in
`approved` beside the state "approved", nothing like it. Whatever else is amiss with an answer is FactorDown. Not in
here: who is asked, and how; that is the program's business.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any, ClassVar, Final, cast, get_args

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo

from ldapmfa.audit import printable
from ldapmfa.config import checks
from ldapmfa.config.tables import HttpTable, ServiceTable
from ldapmfa.config.values import File, Flag, Number, Whole, web_url
from ldapmfa.core.secret import Secret
from ldapmfa.errors import FactorDown, FactorUnreachable
from ldapmfa.factors.http import Http, Reply
from ldapmfa.factors.service import Allowed, Answer, CodeSent, Denied, Prompt, Started, Tools, Waiting, Why

#: The first line of what is signed: another version of the contract is another first line.
VERSION: Final = "ldapmfa-webhook-1"
#: Seconds that the two clocks may differ.
WINDOW: Final = 300
#: Seconds that are spent on taking a question back.
CANCEL_SECONDS: Final = 3.0
#: Characters of the program's own words that go to the record.
_LONGEST_DETAIL: Final = 200

_CODES: Final = frozenset({"wrong-code", "replayed-code"})
_NO: Final = frozenset(get_args(Why)) - _CODES
#: What each action may be answered by.
_STATES: Final[Mapping[str, frozenset[str]]] = {
    "start": _NO | {"approved", "pending", "code-sent"},
    "poll": _NO | {"approved", "pending"},
    "verify": _NO | {"approved"} | _CODES,
}
_TRANSACTION: Final = re.compile(r"[0-9a-f]{32}")
_TIMESTAMP: Final = re.compile(r"[0-9]{1,12}")
_WORD: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")


def signature(key: Secret, direction: str, action: str, stamps: Sequence[str], body: bytes) -> str:
    """The signature of a "request" or an "answer"; `stamps` are its timestamp, nonce and transaction."""
    lines = "\n".join((VERSION, direction, action, *stamps, ""))
    return hmac.digest(key.reveal(), lines.encode() + body, "sha256").hex()


def signed(key: Secret, action: str, stamps: tuple[str, str, str], body: bytes) -> dict[str, str]:
    """The headers of a request with the JSON `body`; `stamps` as for `signature`."""
    timestamp, nonce, transaction = stamps
    return {
        "Content-Type": "application/json",
        "X-Ldapmfa-Timestamp": timestamp,
        "X-Ldapmfa-Nonce": nonce,
        "X-Ldapmfa-Transaction": transaction,
        "X-Ldapmfa-Signature": signature(key, "request", action, stamps, body),
    }


# -- the settings


def _goes_without_proxy(url: str, info: ValidationInfo) -> str:
    if url.startswith("http://") and info.data.get("proxy"):
        raise ValueError("must begin with https:// where there is a proxy")
    return url


@checks.when_read
def _secret_is_long_enough(secret: SecretStr | None, _: ValidationInfo) -> None:
    if secret is not None:
        checks.hmac_secret(secret.get_secret_value().encode())


def _words(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if not re.fullmatch(r"[a-z][a-z0-9_-]{0,31}", name):
            raise ValueError('must be words of small letters, such as "push"')
    return names


class WebhookTable(HttpTable):
    """A program of yours that asks users, or checks their codes, by a small signed contract over HTTP."""

    url: Annotated[str, web_url("https://approve.example.com/ldapmfa"), AfterValidator(_goes_without_proxy)] = Field(
        examples=["https://approve.example.com/ldapmfa"]
    )
    """Where it is: /start, /poll, /verify, /cancel and /health are added. http:// is for a program on this machine."""
    secret_file: Annotated[File | None, checks.is_hmac_secret] = Field(None, examples=["/etc/ldapmfa/webhook.secret"])
    """The file that holds the secret that signs both directions, at least 32 octets as they stand; a line end after it
    is ignored. Each program has a secret of its own."""
    secret: Annotated[SecretStr | None, checks.secret_or_file("secret"), _secret_is_long_enough] = Field(
        None, examples=["0123456789abcdef0123456789abcdef"]
    )
    """The secret itself, instead of secret_file."""
    methods: Annotated[tuple[str, ...], AfterValidator(_words)] = ("push",)
    """The methods it knows, as they can be named in [login] keywords."""
    takes_codes: Flag = False
    """Whether it checks codes that it has not sent in this login, such as those of its own app."""
    poll_seconds: Annotated[Number, Field(ge=0.05, le=60)] = 2
    """Seconds from one question for the state of a login to the next, at least."""
    hold_seconds: Annotated[Whole, Field(ge=0, le=300)] = 20
    """For how many seconds it may hold such a question back until there is something to say."""


# -- the service


class Webhook:
    """The program at the table's `url`. A question of ours is known by its transaction: 128 random bits of ours."""

    Table: ClassVar[type[ServiceTable]] = WebhookTable
    methods: Sequence[str] = ("push",)
    takes_codes: bool = False
    wants_password: bool = False

    def __init__(self, table: WebhookTable, tools: Tools) -> None:
        self._table = table
        self._tools = tools
        self._http = Http("webhook", table, tools)
        self._key = table.secret_of("secret")
        checks.hmac_secret(self._key.reveal())
        self.methods = table.methods
        self.takes_codes = table.takes_codes

    async def start(self, prompt: Prompt) -> Started:
        """Ask the owner, or have a code sent, under a new transaction."""
        if prompt.method and prompt.method not in self.methods:
            return Denied("no-method", "not one of the methods in its table")
        transaction = self._random()
        question = self._whom(prompt) | {"method": prompt.method, "seconds": max(1, int(prompt.seconds))}
        answer = await self._decided("start", transaction, question)
        match answer["state"]:
            case "pending":
                return Waiting(transaction)
            case "code-sent":
                return CodeSent({"transaction": transaction}, _code_seconds(answer))
        return _final(answer, prompt)

    async def wait(self, prompt: Prompt, waiting: Waiting) -> Answer:
        """Ask for the state until there is one, a `poll_seconds` apart; an outage meanwhile is sat out."""
        loop = asyncio.get_running_loop()
        table = self._table
        try:
            async with asyncio.timeout(prompt.seconds):
                while True:
                    began = loop.time()
                    pause = table.poll_seconds
                    try:
                        answer = await self._decided(
                            "poll",
                            waiting.handle,
                            {"seconds": table.hold_seconds},
                            seconds=table.hold_seconds + table.response_timeout,
                            asks_nobody=True,
                        )
                    except FactorUnreachable as error:
                        self._tools.say(f"{error}; asking again")
                        pause = max(pause, error.retry_after or 0)
                    else:
                        if answer["state"] != "pending":
                            return _final(answer, prompt)
                        pause -= loop.time() - began
                    await self._tools.sleep(max(0, pause))
        except TimeoutError:
            return Denied("no-answer", "still pending when the time was up")

    async def verify(self, prompt: Prompt, code: Secret, sent: CodeSent | None) -> Answer:
        """Whether the program takes the code: the one it sent, or where it `takes_codes`, one of the user's own."""
        if sent is None and not self.takes_codes:
            return Denied("no-method", "takes_codes is false in its table")
        transaction = sent.handle.get("transaction", "") if sent else self._random()
        if not _TRANSACTION.fullmatch(transaction):
            raise FactorDown("webhook: what was kept of the code that was sent is none of ours")
        question = self._whom(prompt) | {"code": code.reveal().decode(errors="replace"), "sent": sent is not None}
        try:
            return _final(await self._decided("verify", transaction, question), prompt)
        except FactorUnreachable as error:
            raise FactorDown(str(error), retry_after=error.retry_after) from None

    async def cancel(self, prompt: Prompt, waiting: Waiting) -> None:  # noqa: ARG002 - the interface's
        """Tell it that nobody waits any more; what it says to that does not matter."""
        with suppress(FactorDown, TimeoutError):
            async with asyncio.timeout(CANCEL_SECONDS):
                await self._ask("cancel", waiting.handle, {}, asks_nobody=True)

    async def health(self) -> str:
        """Whether it answers, and signs with our secret."""
        answer = await self._ask("health", self._random(), {}, asks_nobody=True)
        if answer.get("ok") is not True:
            raise FactorDown('webhook: answers /health without "ok": true')
        return "it answers, and has our secret"

    async def close(self) -> None:
        """Let go of all connections."""
        await self._http.close()

    def _random(self) -> str:
        return self._tools.entropy(16).hex()

    def _whom(self, prompt: Prompt) -> dict[str, Any]:
        whom = {
            "user": prompt.user,
            "account": prompt.identity.key,
            "application": printable(prompt.application),
            "client": printable(prompt.client),
            "device": printable(prompt.device),
        }
        return whom if prompt.phone is None else whom | {"phone": prompt.phone}

    async def _decided(
        self, action: str, transaction: str, question: Mapping[str, Any], **how: Any
    ) -> Mapping[str, Any]:
        """An answer in which `approved` and `state` are of one mind, and the state is one of the action's."""
        answer = await self._ask(action, transaction, question, **how)
        approved, state = answer.get("approved"), answer.get("state")
        if type(approved) is not bool or type(state) is not str:
            raise FactorDown(f'webhook: answers /{action} without "approved": true or false, or without a state')
        if state not in _STATES[action] or approved is not (state == "approved"):
            told = printable(state[:40])
            raise FactorDown(f'webhook: answers /{action} with the state "{told}" and approved {json.dumps(approved)}')
        self._tools.say(f"/{action} is answered: {state}")
        return answer

    async def _ask(
        self,
        action: str,
        transaction: str,
        question: Mapping[str, Any],
        *,
        seconds: float | None = None,
        asks_nobody: bool = False,
    ) -> Mapping[str, Any]:
        """The object that answers a request, if it is signed for this request."""
        body = json.dumps(question).encode()
        nonce = self._random()
        stamps = (str(int(self._tools.now())), nonce, transaction)
        headers = signed(self._key, action, stamps, body)
        url = f"{self._table.url}/{action}"
        reply = await self._http.send(
            "POST", url, headers=headers, body=body, seconds=seconds, asks_nobody=asks_nobody
        )
        self._check(action, reply, nonce, transaction)
        return _object(action, reply.body)

    def _check(self, action: str, reply: Reply, nonce: str, transaction: str) -> None:
        """FactorDown: the reply is no answer to this request."""
        if reply.status != 200:
            why = {
                401: "it does not accept our signature, nonce or clock: compare the secret and the time on both sides",
                404: "there is no such action: compare the url",
            }.get(reply.status, "only 200 is an answer")
            raise FactorDown(f"webhook: answers {reply.status} to /{action}: {why}")
        given = {
            name: reply.headers.get(f"X-Ldapmfa-{name}", "")
            for name in ("Timestamp", "Nonce", "Transaction", "Signature")
        }
        missing = [name for name, value in given.items() if not value]
        if missing:
            raise FactorDown(f"webhook: answers /{action} without X-Ldapmfa-{missing[0]}")
        if given["Nonce"] != nonce or given["Transaction"] != transaction:
            raise FactorDown(f"webhook: answers /{action} with another request's nonce or transaction")
        if not _TIMESTAMP.fullmatch(given["Timestamp"]):
            raise FactorDown(f"webhook: answers /{action} with a timestamp that is no number of seconds")
        right = signature(self._key, "answer", action, (given["Timestamp"], nonce, transaction), reply.body)
        if not hmac.compare_digest(right.encode(), given["Signature"].encode(errors="replace")):
            raise FactorDown(f"webhook: signs its answer to /{action} wrongly: compare the secret on both sides")
        apart = round(int(given["Timestamp"]) - self._tools.now())
        if abs(apart) > WINDOW:
            raise FactorDown(f"webhook: its clock and ours are {abs(apart)} seconds apart")


def _object(action: str, body: bytes) -> Mapping[str, Any]:
    """The object in `body`; FactorDown: there is none, or a name stands in it twice."""
    try:
        value = json.loads(body.decode(), object_pairs_hook=_once)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise FactorDown(f"webhook: answers /{action} with what is no JSON object")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is given twice")
    return found


def _final(answer: Mapping[str, Any], prompt: Prompt) -> Answer:
    how, detail = answer.get("how", prompt.method or "webhook"), answer.get("detail", "")
    if not isinstance(how, str) or not _WORD.fullmatch(how) or not isinstance(detail, str):
        raise FactorDown('webhook: "how" must be a word of small letters, and "detail" a text')
    if answer["approved"] is True:
        return Allowed(how)
    return Denied(cast("Why", answer["state"]), printable(detail)[:_LONGEST_DETAIL])


def _code_seconds(answer: Mapping[str, Any]) -> float:
    seconds = answer.get("seconds", 300)
    if type(seconds) is not int or not 1 <= seconds <= 3600:
        raise FactorDown('webhook: "seconds" must be a whole number from 1 to 3600')
    return seconds
