"""What a privacyIDEA server's answers mean.

Promised here: a yes is JSON's true, and nothing else in the answer contradicts it; what is neither a yes nor a
documented no is FactorDown. Older servers, whose answers have no `authentication`, are judged by the rest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ldapmfa.audit import printable
from ldapmfa.core.secret import Secret
from ldapmfa.errors import FactorDown
from ldapmfa.factors.http import Reply
from ldapmfa.factors.service import Allowed, Answer, Denied, Prompt, Why

NAME: Final = "privacyIDEA"
_OK: Final = 200
#: Refusals of a user, by HTTP status and privacyIDEA's code; any other error is a mistake of ours, or of the server.
_REFUSALS: Final[Mapping[tuple[int, int], Why]] = {(400, 904): "not-enrolled", (403, 303): "denied"}
#: What the message of a no means; the first that fits counts.
_MESSAGES: Final[Sequence[tuple[re.Pattern[str], Why]]] = (
    (re.compile("has no tokens assigned"), "not-enrolled"),
    (re.compile("previous otp used again"), "replayed-code"),
    (re.compile(r"Failcounter exceeded|Token is (disabled|revoked|locked)"), "locked-at-service"),
    (re.compile(r"Only \d+ .*authentications per"), "throttled"),
    (re.compile("could not be sent"), "no-method"),
    (re.compile(r"^Authentication failed\.?$"), "denied"),  # since 3.14, of a user whom a policy locks
)
#: The message of a yes that no token has given, but a policy such as passOnNoToken.
_NO_TOKEN: Final = re.compile("due to '")
#: Types of tokens whose challenge is a code that the owner is shown.
_SENT: Final = ("sms", "email", "push")
_LONGEST_DETAIL: Final = 200
TRANSACTION: Final = re.compile(r"[A-Za-z0-9-]{6,64}")
_WORD: Final = re.compile(r"[a-z0-9]{1,20}")


@dataclass(frozen=True, slots=True)
class Challenge:
    """A question to one token. Who knows `transaction` can ask for its outcome: it is not shown."""

    transaction: str = field(repr=False)
    kind: str
    mode: str
    serial: str


@dataclass(frozen=True, slots=True)
class Question:
    """What `wait` needs; `serials` are the tokens that were asked in this transaction."""

    transaction: str = field(repr=False)
    kind: str
    serials: tuple[str, ...]


def shown(text: object) -> str:
    """The server's own words, fit to be shown; "" for what is no text."""
    return printable(text)[:_LONGEST_DETAIL] if isinstance(text, str) else ""


def read(reply: Reply) -> tuple[dict[str, Any], dict[str, Any]] | Denied:
    """`result` and `detail` of an answer, or what its documented refusal means. FactorDown: it is neither."""
    answer = reply.json(NAME)
    result, detail = answer.get("result"), answer.get("detail")
    if not isinstance(result, dict):
        raise FactorDown(f"{NAME}: the answer ({reply.status}) has no result")
    if reply.status == _OK and result.get("status") is True and "error" not in result:
        return result, detail if isinstance(detail, dict) else {}
    error = result.get("error")
    code, words = (error.get("code"), shown(error.get("message"))) if isinstance(error, dict) else (None, "")
    code = code if type(code) is int else 0
    why = _REFUSALS.get((reply.status, code))
    if why and result.get("status") is False:
        return Denied(why, f"{code}: {words}")
    raise FactorDown(f"{NAME}: refuses the request ({reply.status}, {code}: {words})")


def why_of(message: str, otherwise: Why) -> Why:
    """What the message of a no means."""
    return next((why for pattern, why in _MESSAGES if pattern.search(message)), otherwise)


def verdict(reply: Reply, asked: Question | None, otherwise: Why) -> Answer:
    """What an answer of validate/check says of a code, or of what was `asked`; `otherwise`: what a mere no means."""
    found = read(reply)
    if isinstance(found, Denied):
        return found
    result, detail = found
    value, message = result.get("value"), shown(detail.get("message"))
    said = result.get("authentication", "ACCEPT" if value is True else "REJECT")
    if value is True and said == "ACCEPT":
        if asked and detail.get("transaction_id", asked.transaction) != asked.transaction:
            raise FactorDown(f"{NAME}: the answer is for another transaction")
        if asked and asked.serials and detail.get("serial", asked.serials[0]) not in asked.serials:
            raise FactorDown(f"{NAME}: the answer is for a token that was not asked")
        if _NO_TOKEN.search(message):
            return Denied("denied", message)
        kind = asked.kind if asked else detail.get("type")
        return Allowed(kind if isinstance(kind, str) and _WORD.fullmatch(kind) else "passcode")
    if value is False and said == "DECLINED":
        return Denied("denied", "declined")
    if value is False and (said == "CHALLENGE" or (said == "REJECT" and "transaction_id" in detail)):
        return Denied(otherwise, f"wants another step: {message}")
    if value is False and said == "REJECT":
        return Denied(why_of(message, otherwise), message)
    raise FactorDown(f"{NAME}: the answer is neither a yes nor a no")


def polled(reply: Reply) -> bool | Denied:
    """Whether a push was accepted, as validate/polltransaction says; it does not count yet."""
    found = read(reply)
    if isinstance(found, Denied):
        raise FactorDown(f"{NAME}: polling is refused ({found.detail})")
    result, detail = found
    value, status = result.get("value"), detail.get("challenge_status")
    said = result.get("authentication", "ACCEPT" if value is True else "REJECT")
    if value is True and said == "ACCEPT" and status in (None, "accept"):
        return True
    if value is False and (status in ("declined", "cancelled") or said == "DECLINED"):
        return Denied("denied", status if status == "cancelled" else "declined")
    if value is False and said != "ACCEPT" and status != "accept":
        return False
    raise FactorDown(f"{NAME}: the answer does not say whether the push was accepted")


def session(reply: Reply, admin: str) -> Secret:
    """The token that a log-in by /auth gives to `admin`; FactorDown: it is of no use."""
    found = read(reply)
    if isinstance(found, Denied):
        raise FactorDown(f"{NAME}: {shown(admin)} can't log in ({found.detail})")
    value = found[0].get("value")
    token = value.get("token") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(token, str) or not re.fullmatch("[!-~]+", token):
        raise FactorDown(f"{NAME}: the answer to {shown(admin)}'s log-in holds no token")
    if value.get("role") != "admin":
        raise FactorDown(f"{NAME}: {shown(admin)} is no administrator there")
    rights = value.get("rights")
    if isinstance(rights, list) and not any(right in ("triggerchallenge", "*") for right in rights):
        raise FactorDown(f"{NAME}: {shown(admin)} lacks the right triggerchallenge")
    return Secret(token.encode())


def triggered(reply: Reply) -> tuple[list[Challenge], str] | Denied:
    """The questions that validate/triggerchallenge has asked, and its message where there is none."""
    found = read(reply)
    if isinstance(found, Denied):
        return found
    result, detail = found
    number = result.get("value")
    if type(number) is not int or number < 0 or result.get("authentication") == "ACCEPT":
        raise FactorDown(f"{NAME}: the answer does not say how many tokens were asked")
    asked = _challenges(detail) if number else []
    if number and not asked:
        raise FactorDown(f"{NAME}: the answer does not say what was asked")
    return asked, shown(detail.get("message"))


def _challenges(detail: Mapping[str, Any]) -> list[Challenge]:
    """The questions that were asked; those that name no transaction are none."""
    several = detail.get("multi_challenge")
    found = []
    for one in several if isinstance(several, list) and several else [detail]:
        if not isinstance(one, dict):
            continue
        transaction, kind = one.get("transaction_id", detail.get("transaction_id")), one.get("type")
        if not isinstance(transaction, str) or not TRANSACTION.fullmatch(transaction):
            continue
        if not isinstance(kind, str) or not _WORD.fullmatch(kind):
            continue
        mode = one.get("client_mode", "poll" if kind == "push" else "interactive")
        serial = one.get("serial")
        found.append(Challenge(transaction, kind, str(mode), serial if isinstance(serial, str) else ""))
    return found


def chosen(challenges: Sequence[Challenge], prompt: Prompt) -> Challenge | None:
    """The question to go on with: a push before any code that was sent."""
    fit = [one for one in challenges if prompt.method in ("", one.kind)]
    if prompt.device:
        fit = [one for one in fit if one.serial.lower() == prompt.device.lower()]
    pushed = [one for one in fit if one.mode == "poll"]
    sent = [one for kind in _SENT for one in fit if one.kind == kind and one.mode == "interactive"]
    return next(iter(pushed + sent), None)
