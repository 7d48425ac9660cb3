"""What a login asks, what it is answered, and how it ends: the values that `login` and whoever answers exchange.

Not in here: the order in which anything is asked.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Literal

from ldapmfa.core.identity import Identity
from ldapmfa.core.policy import Address, Choice, Policy, Recall, Shape
from ldapmfa.core.rules import Moment
from ldapmfa.core.secret import CodeForm, Secret
from ldapmfa.core.throttle import Barred
from ldapmfa.wire import dn


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a client asks for. `client` is None where its address is not known (or there is none)."""

    name: str
    typed: Secret
    directory: str
    client: Address | None
    form: CodeForm
    policy: Policy
    at: Moment = field(default_factory=Moment)

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
class MayTry:
    """May the directory be asked about this password for a typed name? Answered by `Throttled`, or None: it may."""

    name: str
    password: Secret


@dataclass(frozen=True, slots=True)
class Throttled:
    """Answer to MayTry: too many wrong ones came lately, by which limit."""

    limit: Barred


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
class Resolve:
    """Who is called that, as a service account sees it? Answered by an `Identity`, or None where that can't be said.

    Asked only of one whose password was right, though the directory refused the bind.
    """

    name: str


@dataclass(frozen=True, slots=True)
class FindGroups:
    """In which of these groups is the account, through others too? Answered by a set of those."""

    identity: Identity
    groups: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LookUp:
    """What is known of this account here? Answered by `Standing`. `kinds` are the factors that count, None: all."""

    identity: Identity
    kinds: AbstractSet[str] | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """Answer to LookUp.

    `enrolled`: it has a factor here, or one waiting for it, and `counts`: one that counts for this login; `method`: how
    its owner wants to be asked; `sent`: the service that sent it a code for a login like this one; `blocked`: an
    operator, or its owner, has blocked it; `bypass`: one login without a second factor was granted; `first_seen`:
    seconds since the epoch.
    """

    enrolled: bool
    locked: bool = False
    method: str | None = None
    sent: str | None = None
    blocked: bool = False
    bypass: bool = False
    first_seen: float | None = None
    counts: bool = True


@dataclass(frozen=True, slots=True)
class Reuse:
    """May an earlier success, or a late approval, count for this bind? Used up once, and recorded, if so.

    `accepts` are the factors of which one must have been shown, None: any. Answered by `Reused`, or None.
    """

    identity: Identity
    accepts: AbstractSet[str] | None = None


@dataclass(frozen=True, slots=True)
class Reused:
    """Answer to Reuse: what it counts as, and the factor that was shown then."""

    reason: Literal["reused", "late-approval"]
    factor: str | None


@dataclass(frozen=True, slots=True)
class VerifyCode:
    """Is this code right, and are we the first to use it? Burnt, and the success recorded, if so.

    `kinds` are the factors that count, None: all. With `ends`, the reason of the refusal that it leads to, no success
    is recorded. Answered by `CodeAnswer`.
    """

    identity: Identity
    code: Secret
    kinds: AbstractSet[str] | None = None
    ends: str | None = None


CodeResult = Literal["accepted", "wrong", "replayed", "locked", "not-enrolled", "blocked"]


@dataclass(frozen=True, slots=True)
class CodeAnswer:
    """What became of a code; `factor` is the kind that accepted it."""

    result: CodeResult
    factor: str | None = None


@dataclass(frozen=True, slots=True)
class VerifyAtService:
    """Does this service take the code as the user's? Answered by `Answered` or `Unreachable`."""

    identity: Identity
    service: str
    code: Secret
    password: Secret


@dataclass(frozen=True, slots=True)
class StartPrompt:
    """Have the account's owner asked, or a code sent. Answered by `Answered`, `Asked`, `CodeIsSent`, `Unreachable`."""

    identity: Identity
    choice: Choice
    password: Secret


@dataclass(frozen=True, slots=True)
class Answered:
    """A yes, or a no and why."""

    given: bool
    why: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """The owner is being asked; by an equal bind that came before, if `shared`."""

    shared: bool = False


@dataclass(frozen=True, slots=True)
class CodeIsSent:
    """A code is on its way, for the next bind."""


@dataclass(frozen=True, slots=True)
class Unreachable:
    """The service can't have begun to ask anybody."""

    detail: str = ""


@dataclass(frozen=True, slots=True)
class AwaitApproval:
    """What does the owner say? It may take long. Answered by `Approval`."""


@dataclass(frozen=True, slots=True)
class Approval:
    """What the owner said; `parked`: the link on which the account was bound was given up meanwhile."""

    given: bool
    parked: bool = False
    why: str = "denied"
    detail: str = ""


@dataclass(frozen=True, slots=True)
class MayOpen:
    """Has this service been unreachable for less than it may open? Answered by a bool."""

    service: str


@dataclass(frozen=True, slots=True)
class UseBypass:
    """May this account log in without a second factor, this once? Used up, and recorded, if so. Answered by a bool."""

    identity: Identity


Reason = Literal["exempt", "password-only", "by-rule", "grace", "approved", "code", "failed-open"]


@dataclass(frozen=True, slots=True)
class Admit:
    """Record a success that burnt no code here, durably. Answered by None, or why it must not be one: "blocked".

    `detail` is for the record.
    """

    identity: Identity
    reason: Reason
    factor: str | None = None
    detail: str = ""


Question = (
    RecallName
    | MayTry
    | VerifyPassword
    | Identify
    | Resolve
    | FindGroups
    | LookUp
    | Reuse
    | VerifyCode
    | VerifyAtService
    | StartPrompt
    | AwaitApproval
    | MayOpen
    | UseBypass
    | Admit
)


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
    """No; all reasons look alike to the client, unless it is to be told `answer`, the directory's own BindResponse.

    `detail` is for the record.
    """

    reason: str
    identity: Identity | None = None
    detail: str = ""
    answer: bytes = b""


Verdict = Accepted | Refused
