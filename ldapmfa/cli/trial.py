"""A login played step by step, in plain words, for `ldapmfa user test`.

It is the very login that a client's bind starts (`ldapmfa.net.driver.Login`), told question by question; no step
shows a password, a code, or any part of one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from ldapmfa import audit, factors
from ldapmfa.cli.reasons import explained
from ldapmfa.config import Config, Listen
from ldapmfa.core.application import Peer
from ldapmfa.core.identity import Identity, Unidentified
from ldapmfa.core.policy import Address
from ldapmfa.core.questions import (
    Admit,
    Answered,
    Approval,
    Asked,
    Attempt,
    AwaitApproval,
    CodeAnswer,
    CodeIsSent,
    FindGroups,
    Identify,
    LookUp,
    MayOpen,
    MayTry,
    PasswordAnswer,
    Question,
    RecallName,
    Remembered,
    Resolve,
    Reuse,
    Standing,
    StartPrompt,
    Throttled,
    Unreachable,
    UseBypass,
    VerifyAtService,
    VerifyCode,
    VerifyPassword,
)
from ldapmfa.core.secret import Secret, is_usable
from ldapmfa.factors.breaker import Guarded
from ldapmfa.net import assembly, service
from ldapmfa.net.asking import CANCEL, Asking
from ldapmfa.net.driver import Bind, Doorway, Login, RefusedShapes
from ldapmfa.net.fraud import Measures
from ldapmfa.wire import ldap

_CODES: Final = {
    "accepted": "it is right, and now used up",
    "wrong": "it is wrong; too many in a row lock the account's factors for a while (throttle.wrong_codes)",
    "replayed": "it was right, but is used up already",
    "locked": "not looked at, for too many wrong ones have locked the account",
    "not-enrolled": "the account has no factor that counts to compare it with",
    "blocked": "not looked at, for the account is blocked",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it ended, and what that means."""

    outcome: audit.Outcome
    reason: str
    meaning: str
    remedy: str
    detail: str = ""
    reference: str = ""
    account: str | None = None


def typed(config: Config, listen: Listen, password: bytes, code: bytes) -> Secret:
    """What a user types into the one password field of a client of `listen`."""
    form = config.code_form(listen)
    keyword = any(code.lower().startswith(word.lower().encode()) for word in config.login.keywords)
    between = form.delimiter.encode() if code and (keyword or form.style == "delimiter") else b""
    return Secret(password + between + code)


async def play(
    config: Config,
    listen: Listen,
    name: str,
    secret: Secret,
    *,
    client: Address | None,
    actor: str,
    reactor: Any,
    step: Callable[[str], None],
) -> Outcome:
    """Play it at `listen`'s directory; `step` hears what is done, and what came of it."""
    form = assembly.code_form(config, listen)
    application = assembly.application_of(config, Peer(listen.name, client, None))
    if name and not is_usable(secret, form):
        why = explained("empty-password")
        return Outcome("refused", "empty-password", why.meaning, why.remedy)
    directory = service.directories(config, reactor)[listen.directory]
    ended: list[audit.LoginEnded] = []

    def record(event: audit.Event) -> None:
        if isinstance(event, audit.LoginEnded):
            ended.append(event)

    store = await service.open_store(config)
    services: dict[str, Guarded] = {}
    askings: set[Asking] = set()
    tasks: set[asyncio.Task[None]] = set()

    def keep(coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        tasks.add(task)
        return task

    try:
        services = service.load_services(config, reactor, keep)
        doorway = Doorway(
            store=store,
            factors=factors.load(config.code_factors),
            services=services,
            terms=assembly.terms(config, listen, application),
            keep=keep,
            askings=askings,
            clock=reactor,
            now=time.time,
            reference=service.reference_code,
            record=record,
            refused=RefusedShapes(reactor),
            measures=Measures(config.fraud.block_days, config.fraud.ways),
            tries=service.tries(config, store, keep),
            refusal_floor=0.0,
            deadline=assembly.deadline(config, listen, application),
        )
        policy = assembly.policy(config, services, listen, application)
        at = assembly.moment_of(config, time.time())
        attempt = Attempt(name, secret, directory.settings.identity_name, client, form, policy, at)
        where = f"{client or 'no address'}, ldapmfa user test by {actor}"
        bind = Bind(attempt, 1, name.encode(errors="surrogateescape"), b"", listen.name, where, policy.application)
        login = Login(bind, doorway, directory, None, told=lambda question, reply: step(_told(question, reply)))
        answer = await login.play(_at_once)
        if answer.link:
            answer.link.close()
    finally:
        for asking in tuple(askings):
            asking.stop()
        if askings:
            await asyncio.wait({asking.task for asking in askings}, timeout=CANCEL)
        for task in tasks:
            task.cancel()
        for guarded in services.values():
            await guarded.service.close()
        await store.close()
    (event,) = ended
    why = explained(event.reason)
    return Outcome(
        event.outcome, event.reason, why.meaning, why.remedy, event.detail, event.reference, event.account
    )


async def _at_once() -> None:
    """Nothing is to be waited for."""


def _told(question: Question, reply: Any) -> str:
    """One question of the login and its answer, in plain words and without any secret."""
    match question, reply:
        case RecallName(), Remembered(recall):
            known = (
                "an enrolment waits for an account of that name"
                if recall.pending
                else "an account of that name has a factor"
                if recall.enrolled
                else "the last success under it needed no code"
                if recall.codeless
                else "nothing"
            )
            return f"What was typed ends like a code. What is remembered of the name: {known}."
        case MayTry() | VerifyPassword(), _:
            return _told_of_password(question, reply)
        case Identify(), Identity(_, account, dn):
            return f"The directory says who that is: {dn} ({account})."
        case Identify(), Unidentified(reason, detail):
            return f"The directory says who that is, and that it must not log in: {reason} ({detail})."
        case FindGroups(_, named), groups:
            among = ", ".join(sorted(groups)) or "none"
            return f"Rules look at groups ({', '.join(named)}); of these the account is in: {among}."
        case Resolve(), found:
            who = found.dn if found else "that can't be said, so that nothing more is told"
            return f"The password was right and must be changed; the service account was asked who that is: {who}."
        case LookUp(), Standing():
            return f"The account {', '.join(_standing(reply))}."
    return _told_of_factors(question, reply)


def _told_of_factors(question: Question, reply: Any) -> str:
    match question, reply:
        case Reuse(), reused:
            return "An earlier success counts for this bind, too." if reused else "No earlier success counts for it."
        case StartPrompt(_, choice), began:
            return f"{choice.service} was asked{f' for {choice.method}' if choice.method else ''}: {_said(began)}."
        case VerifyAtService(_, name), found:
            return f"The code was given to {name}: {_said(found)}."
        case AwaitApproval(), Approval(given, _, why, detail):
            return f"The answer came: {_said(Answered(given, why, detail))}."
        case MayOpen(name), bool(may):
            return f"{name} can't be reached; by fail_mode its users are {'let in' if may else 'refused'}."
        case VerifyCode(), CodeAnswer(result, factor):
            return f"The code was compared: {_CODES[result]}" + (f" (factor {factor})." if factor else ".")
        case UseBypass(), used:
            return f"A login without a second factor was granted to it, and is {'used up now' if used else 'used up'}."
        case Admit(), str():
            return f"It would be a success, but for this: {reply}."
        case Admit(_, reason, factor), _:
            return f"It is a success: {reason}{f' by {factor}' if factor else ''}."
    return type(question).__name__


def _standing(of: Standing) -> list[str]:
    words = ["has a factor here that counts, or one that waits for it" if of.enrolled else "has no factor here"]
    words += ["is blocked"] if of.blocked else []
    words += ["is locked"] if of.locked else []
    words += [f"is to be asked by {of.method}"] if of.method else []
    words += [f"was sent a code by {of.sent}"] if of.sent else []
    words += ["may log in once without a second factor"] if of.bypass else []
    return words


def _told_of_password(question: MayTry | VerifyPassword, reply: Any) -> str:
    match question, reply:
        case VerifyPassword(_, shape), PasswordAnswer(code, text):
            what = "without the code" if shape == "cut" else "as a whole, as no code was typed, or none is expected"
            said = "it is right" if code == ldap.SUCCESS else f"refused with result code {code}"
            return f"The directory was asked about the password, {what}: {said}" + (f" ({text})." if text else ".")
        case _, Throttled(limit):
            return f"Too many wrong passwords came lately ({limit}): the directory is not asked about this one."
    return "Not too many wrong passwords came lately: the directory may be asked."


def _said(answer: Any) -> str:
    match answer:
        case Answered(True):
            return "yes"
        case Answered(_, why, detail):
            return f"no, {why}" + (f" ({detail})" if detail else "")
        case Asked(shared):
            return "another bind's question is open, and its answer counts" if shared else "the owner is being asked"
        case CodeIsSent():
            return "a code is on its way; type it in the next bind"
        case Unreachable(detail):
            return f"it can't be reached ({detail})"
    return "no answer"
