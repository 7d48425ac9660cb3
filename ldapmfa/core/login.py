"""One login, whichever door it came by: a generator of questions ending in a Verdict.

The order is the promise: the password first, at the directory, once (once more only behind an approval for which the
link was given up); then who was bound; then whether that account needs a code, or its owner is asked; then the code,
which is burnt only now; success is recorded before it is told. There is no other way to `Accepted` (A26). "No" is a
Verdict; what is broken is raised into the generator and ends it.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Final, Literal, assert_never

from ldapmfa.core.identity import Identity, Unidentified
from ldapmfa.core.policy import Address, Policy, Recall, Shape
from ldapmfa.core.secret import CodeForm, Secret, Typed, is_usable, split
from ldapmfa.wire import dn, ldap


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a client asks for. `client` is None where its address is not known (or there is none)."""

    name: str
    typed: Secret
    directory: str
    client: Address | None
    form: CodeForm
    policy: Policy

    @property
    def normalised_name(self) -> str:
        """The typed name in one spelling, for hints."""
        return dn.normalise_name(self.name)


# -- questions, each with what it is answered by


@dataclass(frozen=True, slots=True)
class RecallName:
    """What is remembered of the typed name? Answered by `Remembered`."""

    name: str


@dataclass(frozen=True, slots=True)
class Remembered:
    """Answer to RecallName; `refused`: the shape in which the directory refused this name lately."""

    recall: Recall
    refused: Shape | None = None


@dataclass(frozen=True, slots=True)
class VerifyPassword:
    """Does the directory accept this password? Asked once. Answered by `PasswordAnswer`."""

    password: Secret
    shape: Shape


@dataclass(frozen=True, slots=True)
class PasswordAnswer:
    """The directory's BindResponse: its result code, its text, and its octets, to be passed on after a success."""

    code: int
    text: str
    raw: bytes


@dataclass(frozen=True, slots=True)
class Identify:
    """Whom did that bind? Answered by `Identity` or `Unidentified`."""


@dataclass(frozen=True, slots=True)
class HasFactor:
    """Has this account a factor, or one waiting for it? Answered by a bool."""

    identity: Identity


@dataclass(frozen=True, slots=True)
class VerifyCode:
    """Is this code right, and are we the first to use it? Burnt, and the success recorded, if so.

    Answered by `CodeAnswer`.
    """

    identity: Identity
    code: Secret


CodeResult = Literal["accepted", "wrong", "replayed", "locked", "not-enrolled"]


@dataclass(frozen=True, slots=True)
class CodeAnswer:
    """What became of a code; `factor` is the kind that accepted it."""

    result: CodeResult
    factor: str | None = None


@dataclass(frozen=True, slots=True)
class AskApproval:
    """Does the account's owner say yes, elsewhere? It may take long. Answered by `Approval`."""

    identity: Identity
    kind: str


@dataclass(frozen=True, slots=True)
class Approval:
    """What the owner said; `parked`: the link on which the account was bound was given up meanwhile.

    `why` it was not given: the owner said no, is being asked for another login, or may not log in.
    """

    given: bool
    parked: bool = False
    why: Literal["denied", "asked-already", "locked"] = "denied"


@dataclass(frozen=True, slots=True)
class Admit:
    """Record a success without a code, durably. Answered by None."""

    identity: Identity
    reason: Literal["exempt", "password-only", "approved"]
    factor: str | None = None


Question = RecallName | VerifyPassword | Identify | HasFactor | VerifyCode | AskApproval | Admit


# -- verdicts


@dataclass(frozen=True, slots=True)
class Accepted:
    """Success; `answer` is the directory's own BindResponse."""

    answer: bytes
    identity: Identity
    reason: str
    factor: str | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """No; all reasons look alike to the client. `detail` is for the record."""

    reason: str
    identity: Identity | None = None
    detail: str = ""


Verdict = Accepted | Refused

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


def login(attempt: Attempt) -> Generator[Question, Any, Verdict]:
    """Play the login of `attempt`: yields questions, is sent their answers, returns the verdict."""
    if not attempt.name or "\0" in attempt.name:
        return Refused("no-name")
    if not is_usable(attempt.typed, attempt.form):
        return Refused("empty-password")
    typed, shape = yield from _taken_apart(attempt)
    bound = yield from _password(typed.password, shape)
    if isinstance(bound, Refused):
        return bound
    identity, answer = bound
    exempt = attempt.policy.exempts(identity, attempt.client)
    if not identity.has_entry and not exempt:
        return Refused("no-entry", identity)
    if typed.code is not None:
        return (yield from _code(typed.code, identity, answer))
    if exempt:
        yield Admit(identity, "exempt")
        return Accepted(answer, identity, "exempt")
    if attempt.policy.approval is not None:
        return (yield from _approval(attempt.policy.approval, typed.password, shape, identity, answer))
    return (yield from _without_factor(attempt, identity, answer))


def _password(password: Secret, shape: Shape) -> Generator[Question, Any, tuple[Identity, bytes] | Refused]:
    """Whom the password binds, and the directory's BindResponse."""
    answer: PasswordAnswer = yield VerifyPassword(password, shape)
    if answer.code in _BROKEN:
        raise DirectoryRefusesService(f"the directory answered the bind with {answer.code}: {answer.text}")
    if answer.code != ldap.SUCCESS:
        return Refused(_reason_of(answer.text), detail=answer.text)
    identity: Identity | Unidentified = yield Identify()
    if isinstance(identity, Unidentified):
        return Refused(identity.reason, detail=identity.detail)
    return identity, answer.raw


def _taken_apart(attempt: Attempt) -> Generator[Question, Any, tuple[Typed, Shape]]:
    """What was typed, as password and code; nobody is asked where nothing in it looks like a code."""
    typed = split(attempt.typed, attempt.form)
    if typed.code is None:
        return typed, "whole"
    name = attempt.normalised_name
    memory: Remembered = yield RecallName(name)
    shape = attempt.policy.shape(name, memory.recall, memory.refused, attempt.client, attempt.directory)
    return (typed if shape == "cut" else Typed(attempt.typed, None)), shape


def _without_factor(attempt: Attempt, identity: Identity, answer: bytes) -> Generator[Question, Any, Verdict]:
    """The password was right, and nothing else was shown: enough for nobody who has, or must have, a factor."""
    has_factor: bool = yield HasFactor(identity)
    if has_factor:
        return Refused("no-code", identity)
    if attempt.policy.unenrolled == "refuse":
        return Refused("not-enrolled", identity)
    yield Admit(identity, "password-only")
    return Accepted(answer, identity, "password-only")


def _approval(
    kind: str, password: Secret, shape: Shape, identity: Identity, answer: bytes
) -> Generator[Question, Any, Verdict]:
    """The password was right; its owner is asked. If the link was given up meanwhile, the password must bind again.

    What was true when the question was put need not be true when it is answered: the same account must be bound, and
    the new answer is the one passed on.
    """
    approval: Approval = yield AskApproval(identity, kind)
    if not approval.given:
        return Refused(approval.why, identity)
    if approval.parked:
        again = yield from _password(password, shape)
        if isinstance(again, Refused):
            return again
        if again[0].key != identity.key:
            return Refused("another-account", identity, again[0].key)
        identity, answer = again
    yield Admit(identity, "approved", kind)
    return Accepted(answer, identity, "approved", kind)


def _code(code: Secret, identity: Identity, answer: bytes) -> Generator[Question, Any, Verdict]:
    verified: CodeAnswer = yield VerifyCode(identity, code)
    match verified.result:
        case "accepted":
            return Accepted(answer, identity, "code", verified.factor)
        case "wrong" | "replayed":
            return Refused(f"{verified.result}-code", identity)
        case "locked" | "not-enrolled":
            return Refused(verified.result, identity)
        case unknown:
            assert_never(unknown)
