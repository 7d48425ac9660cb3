"""One login, whichever door it came by: a generator of questions ending in a Verdict.

The order is the promise: the password first, at the directory, once (once more only behind an approval for which the
link was given up), if not too many wrong ones came before; then who was bound; then what the rules demand of that
account: a code, an answer of its owner, or neither; then the code, which is burnt only now; success is recorded before
it is told. There is no other way to `Accepted` (A26). "No" is a Verdict; what is broken is raised into the generator
and ends it.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any, Final, assert_never

from ldapmfa.core.identity import CannotIdentify, Identity, Unidentified
from ldapmfa.core.policy import Choice, Decision, Policy, Shape
from ldapmfa.core.questions import (
    Accepted,
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
    Reason,
    RecallName,
    Refused,
    Remembered,
    Resolve,
    Reuse,
    Reused,
    Standing,
    StartPrompt,
    Throttled,
    Unreachable,
    UseBypass,
    Verdict,
    VerifyAtService,
    VerifyCode,
    VerifyPassword,
)
from ldapmfa.core.secret import Secret, Typed, is_usable, split
from ldapmfa.errors import DirectoryDown
from ldapmfa.wire import ldap

#: Result codes of a bind by which a directory says that it can't answer now, or not like this.
_BROKEN: Final = frozenset(
    {
        ldap.OPERATIONS_ERROR,
        ldap.PROTOCOL_ERROR,
        ldap.STRONGER_AUTH_REQUIRED,
        ldap.CONFIDENTIALITY_REQUIRED,
        ldap.UNAVAILABLE_CRITICAL_EXTENSION,
        ldap.BUSY,
        ldap.UNAVAILABLE,
        ldap.OTHER,
    }
)


class DirectoryRefusesService(Exception):  # noqa: N818 - named as what is the case
    """The directory answered a bind with a code that says nothing of the password."""


#: What Active Directory's sub-codes say ([MS-ERREF] 2.2, in hexadecimal); where the password was wrong, it says so.
_SUB_CODES: Final = {
    "530": "logon-hours",
    "531": "workstation",
    "532": "password-expired",
    "533": "account-disabled",
    "701": "account-expired",
    "773": "must-change-password",
    "775": "account-locked",
}
_SUB_CODE: Final = re.compile(r"AcceptSecurityContext error, data ([0-9a-f]+),")


def _reason_of(text: str) -> str:
    """Why a directory refused a bind, as far as its text tells; for the record only."""
    found = _SUB_CODE.search(text)
    return _SUB_CODES.get(found[1], "password") if found else "password"


def says_of_password(answer: PasswordAnswer) -> bool | None:
    """Whether a directory's answer to a bind says that the password was right, or a wrong guess; None: neither."""
    if answer.code == ldap.SUCCESS:
        return True
    if answer.code in _BROKEN or answer.code == ldap.INVALID_DN_SYNTAX:
        return None  # a name that is none there: no password was looked at
    return {"password": False, "account-locked": None}.get(_reason_of(answer.text), True)


#: Of these, those by which it says that the password was right and must be changed: who has shown a factor may be told.
_TO_BE_CHANGED: Final = ("password-expired", "must-change-password")


@dataclass(frozen=True, slots=True)
class _Bound:
    """Whom the password is right for, and what follows from a factor: success with the directory's `answer`, or `ends`.

    `ends` is the directory's own refusal, which is told only to who has shown a factor.
    """

    identity: Identity
    answer: bytes
    attempt: Attempt
    ends: Refused | None = None


def login(attempt: Attempt) -> Generator[Question, Any, Verdict]:
    """Play the login of `attempt`: yields questions, is sent their answers, returns the verdict."""
    if not attempt.name or "\0" in attempt.name:
        return Refused("no-name")
    if not is_usable(attempt.typed, attempt.form):
        return Refused("empty-password")
    typed, shape = yield from _taken_apart(attempt)
    throttled: Throttled | None = yield MayTry(attempt.normalised_name, typed.password)
    if throttled is not None:
        return Refused("throttled", detail=throttled.limit)
    found = yield from _password(typed.password, shape)
    if isinstance(found, Refused):
        if not attempt.policy.tells or found.reason not in _TO_BE_CHANGED or not found.answer:
            return replace(found, answer=b"")
        return (yield from _told(attempt, typed, shape, found))
    bound = _Bound(*found, attempt)
    decision = yield from _decided(attempt, bound.identity)
    if decision.action == "refuse":
        return Refused("rule", bound.identity, decision.rule)
    if not bound.identity.has_entry and decision.action != "exempt":
        return Refused("no-entry", bound.identity)
    if decision.action == "exempt" and not typed.is_cut:
        return (yield from _admitted(bound, "exempt"))
    if decision.action == "password-only" and not typed.is_cut:
        return (yield from _admitted(bound, "by-rule", detail=decision.rule))
    policy = decision.policy
    if policy.reuses:
        reused: Reused | None = yield Reuse(bound.identity, policy.accepts)
        if reused:
            return Accepted(bound.answer, bound.identity, reused.reason, reused.factor)
    return (yield from _factor(typed, shape, policy, bound))


def _decided(attempt: Attempt, identity: Identity) -> Generator[Question, Any, Decision]:
    """What the rules demand; they are told of groups only where one may look at them."""
    policy = attempt.policy
    groups = policy.groups(identity.directory)
    found: AbstractSet[str] = (yield FindGroups(identity, groups)) if groups else frozenset()
    return policy.decide(identity, attempt.client, attempt.at, found)


def _told(
    attempt: Attempt, typed: Typed, shape: Shape, refused: Refused
) -> Generator[Question, Any, Verdict]:
    """The password was right, and must be changed: who shows a factor is told so, as the directory said it.

    Nobody is bound, so that a service account says who that is; what it can't say is no reason to answer otherwise than
    to a wrong password. Nothing here ends in success.
    """
    quiet = replace(refused, answer=b"")
    if typed.code is None:
        return quiet
    try:
        identity: Identity | None = yield Resolve(attempt.name)
        if identity is None:
            return quiet
        decision = yield from _decided(attempt, identity)
    except (CannotIdentify, DirectoryDown):
        return quiet
    if decision.action != "factors":
        return quiet
    bound = _Bound(identity, b"", attempt, refused)
    verdict = yield from _factor(typed, shape, decision.policy, bound)
    return refused if isinstance(verdict, Accepted) else verdict


def _factor(typed: Typed, shape: Shape, policy: Policy, bound: _Bound) -> Generator[Question, Any, Verdict]:
    """The second factor, as it was typed or as its owner is asked for it."""
    if typed.code is not None:
        return (yield from _code(typed, typed.code, policy, bound))
    if policy.services:
        return (yield from _asked(typed, shape, policy, bound))
    standing: Standing = yield LookUp(bound.identity, policy.kinds)
    if standing.blocked:
        return Refused("blocked", bound.identity)
    return (yield from _without_factor(standing, policy, bound))


def _admitted(
    bound: _Bound, reason: Reason, factor: str | None = None, detail: str = ""
) -> Generator[Question, Any, Verdict]:
    """Success, recorded before it is told; or what the directory said in its place."""
    if bound.ends:
        return replace(bound.ends, identity=bound.identity)
    barred: str | None = yield Admit(bound.identity, reason, factor, detail)
    if barred is not None:
        return Refused(barred, bound.identity)
    return Accepted(bound.answer, bound.identity, reason, factor)


def _password(password: Secret, shape: Shape) -> Generator[Question, Any, tuple[Identity, bytes] | Refused]:
    """Whom the password binds, and the directory's BindResponse."""
    answer: PasswordAnswer = yield VerifyPassword(password, shape)
    if answer.code in _BROKEN:
        raise DirectoryRefusesService(f"the directory answered the bind with {answer.code}: {answer.text}")
    if answer.code != ldap.SUCCESS:
        return Refused(_reason_of(answer.text), detail=answer.text, answer=answer.raw)
    identity: Identity | Unidentified = yield Identify()
    if isinstance(identity, Unidentified):
        return Refused(identity.reason, detail=identity.detail)
    return identity, answer.raw


def _taken_apart(attempt: Attempt) -> Generator[Question, Any, tuple[Typed, Shape]]:
    """What was typed, as password and code or method; nobody is asked where nothing in it looks like one."""
    typed = split(attempt.typed, attempt.form)
    if not typed.is_cut:
        return typed, "whole"
    name = attempt.normalised_name
    memory: Remembered = yield RecallName(name)
    shape = attempt.policy.shape(
        name, memory.recall, memory.refused, attempt.client, attempt.directory, marked=typed.marked
    )
    return (typed if shape == "cut" else Typed(attempt.typed, None)), shape


def _without_factor(standing: Standing, policy: Policy, bound: _Bound) -> Generator[Question, Any, Verdict]:
    """The password was right, and nothing else was shown: enough for nobody who has, or must have, a factor."""
    if standing.bypass:
        used: bool = yield UseBypass(bound.identity)
        if used is True:
            return Accepted(bound.answer, bound.identity, "bypass")
    if standing.enrolled:
        # one that does not count here is one all the same: who must show more must not get by with less
        return Refused("no-code" if standing.counts else "not-enrolled", bound.identity)
    grace = policy.grace(bound.attempt.at, standing.first_seen)
    if grace > 0:
        return (yield from _admitted(bound, "grace", detail=f"{grace / 86400:.1f} days are left to enrol"))
    if policy.unenrolled != "password-only":
        return Refused("not-enrolled", bound.identity)
    return (yield from _admitted(bound, "password-only"))


# -- codes


def _code(typed: Typed, code: Secret, policy: Policy, bound: _Bound) -> Generator[Question, Any, Verdict]:
    """The code is of a service that sent one, of a factor here, or else of a service that knows the user's codes."""
    identity = bound.identity
    if not policy.services:
        return (yield from _own_code(code, policy, bound))
    standing: Standing = yield LookUp(identity, policy.kinds)
    if standing.blocked or standing.locked:
        return Refused("blocked" if standing.blocked else "locked", identity)
    sent = standing.sent if standing.sent in policy.serve(identity.directory) else None
    services = [sent] if sent else policy.code_services(identity.directory)
    if not services or (standing.enrolled and standing.counts and not sent):
        return (yield from _own_code(code, policy, bound))
    passed: dict[str, Answered | Unreachable] = {}
    for service in services:
        found: Answered | Unreachable = yield VerifyAtService(identity, service, code, typed.password)
        match found:
            case Unreachable() | Answered(given=False, why="not-enrolled"):
                passed[service] = found
            case Answered(given=True):
                return (yield from _admitted(bound, "code", service))
            case Answered(_, why, detail):
                return Refused(why, identity, detail)
            case unknown:
                assert_never(unknown)
    if _is_outage(passed):
        return (yield from _outage(passed, standing, policy, bound))
    return Refused("not-enrolled", identity)


def _own_code(code: Secret, policy: Policy, bound: _Bound) -> Generator[Question, Any, Verdict]:
    identity, ends = bound.identity, bound.ends
    verified: CodeAnswer = yield VerifyCode(identity, code, policy.kinds, ends.reason if ends else None)
    match verified.result:
        case "accepted":
            if ends:
                return replace(ends, identity=identity)
            return Accepted(bound.answer, identity, "code", verified.factor)
        case "wrong" | "replayed":
            return Refused(f"{verified.result}-code", identity)
        case "locked" | "not-enrolled" | "blocked":
            return Refused(verified.result, identity)
        case unknown:
            assert_never(unknown)


# -- approvals


class ServiceUnreachable(Exception):  # noqa: N818 - named as what is the case
    """Nobody could be asked, and nothing opens: the login is broken."""


def _asked(typed: Typed, shape: Shape, policy: Policy, bound: _Bound) -> Generator[Question, Any, Verdict]:
    """The password was right; the first service that can ask its owner decides, unless nobody need be asked."""
    identity = bound.identity
    standing: Standing = yield LookUp(identity, policy.kinds)
    if standing.blocked or standing.locked:
        return Refused("blocked" if standing.blocked else "locked", identity)
    if standing.bypass and typed.method is None:
        used: bool = yield UseBypass(identity)
        if used is True:
            return Accepted(bound.answer, identity, "bypass")
    passed: dict[str, Answered | Unreachable] = {}
    for choice in policy.choices(identity.directory, typed.method, standing.method):
        began: Answered | Asked | CodeIsSent | Unreachable = yield StartPrompt(identity, choice, typed.password)
        match began:
            case CodeIsSent():
                return Refused("code-sent", identity, choice.service)
            case Asked(shared):
                return (yield from _approval(choice, typed, shape, policy, bound, shared=shared))
            case Answered(given=True):
                return (yield from _admitted(bound, "approved", choice.service))
            case Unreachable() | Answered(given=False, why="not-enrolled" | "no-method"):
                passed[choice.service] = began
            case Answered(_, why, detail):
                return Refused(why, identity, detail)
            case unknown:
                assert_never(unknown)
    if _is_outage(passed):
        return (yield from _outage(passed, standing, policy, bound))
    may_know = _may_know(passed, policy, identity)
    unable = [passed[service].detail for service in may_know if service in passed]
    if unable or (typed.method is not None and (may_know or not passed)):
        return Refused("no-method", identity, "; ".join(unable))
    if may_know:
        return Refused("no-code", identity)
    return (yield from _without_factor(standing, policy, bound))


def _approval(
    choice: Choice, typed: Typed, shape: Shape, policy: Policy, bound: _Bound, *, shared: bool
) -> Generator[Question, Any, Verdict]:
    """The owner is being asked. If the link was given up meanwhile, the password must bind again.

    What was true when the question was put need not be true when it is answered: the same account must be bound, the
    service that asked must still do, and the new answer is the one passed on.
    """
    approval: Approval = yield AwaitApproval()
    identity = bound.identity
    if not approval.given:
        return Refused(approval.why, identity, approval.detail)
    if approval.parked:
        again = yield from _password(typed.password, shape)
        if isinstance(again, Refused):
            return replace(again, answer=b"")
        if again[0].key != identity.key:
            return Refused("another-account", identity, again[0].key)
        bound = _Bound(*again, bound.attempt)
        identity = bound.identity
        decision = yield from _decided(bound.attempt, identity)
        if decision.action == "refuse" or choice.service not in decision.policy.serve(identity.directory):
            return Refused("rule", identity, decision.rule)
    if not shared:
        return (yield from _admitted(bound, "approved", choice.service))
    reused: Reused | None = yield Reuse(identity, policy.accepts)
    if reused is None:
        return Refused("asked-already", identity)
    return Accepted(bound.answer, identity, reused.reason, reused.factor)


def _is_outage(passed: Mapping[str, Answered | Unreachable]) -> bool:
    return any(isinstance(said, Unreachable) for said in passed.values())


def _may_know(passed: Mapping[str, Answered | Unreachable], policy: Policy, identity: Identity) -> list[str]:
    """The services that may know the account's owner: all but those that have said that they don't.

    Not only those that were asked: that depends on what was typed, and whoever has somebody's password would type what
    leads to a service that doesn't know the owner, or is away.
    """
    strangers = {name for name, said in passed.items() if isinstance(said, Answered) and said.why == "not-enrolled"}
    return [service for service in policy.serve(identity.directory) if service not in strangers]


def _outage(
    passed: Mapping[str, Answered | Unreachable], standing: Standing, policy: Policy, bound: _Bound
) -> Generator[Question, Any, Verdict]:
    """Nobody could be asked. It opens, for those without a factor here, where all that may know the owner are away."""
    services = _may_know(passed, policy, bound.identity)
    known = bound.ends is not None or standing.enrolled or standing.sent
    away = all(policy.opens(service) and not isinstance(passed.get(service), Answered) for service in services)
    if away and not known:
        for service in services:
            may_open: bool = yield MayOpen(service)
            if not may_open:
                break
        else:
            first = next(name for name, said in passed.items() if isinstance(said, Unreachable))
            return (yield from _admitted(bound, "failed-open", first))
    raise ServiceUnreachable("; ".join(said.detail for said in passed.values() if isinstance(said, Unreachable)))
