"""From the steps of a program that was imitated to plain words: what breaks, and what to change.

Promised here: every advice names the setting, and where it stands; what was read in the audit trail by a refusal's
reference code goes before any guess. Not in here: how steps are performed (`conversation`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from ldapmfa.audit import LoginEnded
from ldapmfa.cli.doctor.conversation import Step
from ldapmfa.cli.doctor.finding import Area, Finding
from ldapmfa.cli.doctor.programs import Program
from ldapmfa.cli.reasons import explained
from ldapmfa.config import Application, Config, Listen
from ldapmfa.net import assembly

AREA: Final = Area("imitation")

#: Refusals of a second bind that ask for `reuse_seconds`.
_TWICE: Final = frozenset({"replayed-code", "wrong-code", "asked-already", "too-many-prompts", "no-answer", "denied"})
#: Refusals by which a service account is told that it must show a second factor.
_NOT_EXEMPT: Final = frozenset({"no-code", "not-enrolled", "wrong-code", "no-answer", "denied", "asked-already"})


@dataclass(frozen=True, slots=True)
class Installed:
    """What the configuration says of whoever is imitated: the listener, and the application that covers it, if any."""

    config: Config
    listen: Listen
    application: Application | None
    client: str  #: the address that the proxy sees
    recorded: Callable[[str], LoginEnded | None] = lambda _reference: None

    @property
    def place(self) -> str:
        """Where settings of it stand, in words."""
        if self.application:
            return f'the [[application]] "{self.application.name}"'
        return f'the [[listen]] "{self.listen.name}"'

    @property
    def deadline(self) -> float:
        """Seconds after which a login is answered."""
        return assembly.deadline(self.config, self.listen, self.application)

    @property
    def asks(self) -> bool:
        """Whether a person may be asked, who takes their time."""
        factors = (self.application.factors if self.application else None) or self.config.login.factors
        return any(name in self.config.factors for name in factors)


@dataclass(frozen=True, slots=True)
class Case:
    """A step that failed, and all that is known of it. `service` is the program's account, `reason` the trail's."""

    program: Program
    step: Step
    patience: int | None
    service: str
    at: Installed
    reason: str = ""

    @property
    def title(self) -> str:
        """What the program is called."""
        return self.program.title

    @property
    def denied(self) -> str:
        """The operation that the application denies, if it is the one of that step."""
        if self.step.code != 50 or self.step.purpose in _BINDS:
            return ""
        operation = "compare" if self.step.purpose == "compare" else "search"
        return operation if self.at.application and operation in self.at.application.denied_operations else ""


_BINDS: Final = frozenset({"bind-service", "rebind-service", "bind-user", "bind-again", "bind-nobody"})
_OWN: Final = frozenset({"bind-service", "rebind-service"})
_USERS: Final = frozenset({"bind-user", "bind-again"})


def advise(case: Callable[[Step], Case], steps: list[Step]) -> Iterator[Finding]:
    """The findings about one program's login, of whose steps `case` makes cases."""
    for step in steps:
        if step.outcome != "ok":
            yield _of(case(step))
    if all(step.outcome == "ok" for step in steps):
        of = case(steps[-1])
        took = max((step.seconds for step in steps if step.purpose == "bind-user"), default=0.0)
        again = any(step.purpose == "bind-again" for step in steps)
        more = ", and again with the same password" if again else ""
        found = f"{of.title} logs in{more}: {len(steps)} steps; the user's bind took {took:.1f} s."
        yield AREA.ok(of.program.name, found)
        yield from _slow_users(of)
        yield from _later(of)


def _slow_users(case: Case) -> Iterator[Finding]:
    """What would happen if the user took their time."""
    at, patience = case.at, case.patience
    if at.asks and patience is not None and at.deadline >= patience:
        yield AREA.warning(
            case.program.name,
            f"{case.title} gives up after {patience} s, and a login may take {at.deadline:g} s (deadline): a user who"
            " is slow to answer is refused by the program, whatever they press.",
            _shorter(case),
        )


def _later(case: Case) -> Iterator[Finding]:
    """Whether the program's own next bind comes too late for what let this one in."""
    program = case.program
    seconds = assembly.reuse(case.at.listen, case.at.application).reuse_seconds
    if 0 < seconds < program.again_after:
        yield AREA.warning(
            program.name,
            f"{_sentence(program.again)}. reuse_seconds is {seconds:g}, less than those {program.again_after} s.",
            f"Use {program.instead}; or set reuse_seconds = 28800 and reuse_uses = 100 in {case.at.place}, knowing what"
            " that means.",
        )


def _of(case: Case) -> Finding:
    """What one step's failure means."""
    recorded = case.at.recorded(case.step.reference) if case.step.reference else None
    found = f"{case.title} {case.step.text}, and {_ended(case)}"
    if recorded:
        case = replace(case, reason=recorded.reason)
        found += f" The audit trail says {recorded.reason}: {explained(recorded.reason).meaning}"
    remedy = next(advice(case) for applies, advice in _ADVICE if applies(case))
    return AREA.broken(case.program.name, found, remedy)


def _ended(case: Case) -> str:
    step = case.step
    if step.outcome == "refused":
        return f"is refused (code {step.code}{': ' + step.said if step.said else ''})."
    if step.outcome == "lost":
        return f"the connection is lost: {step.said}."
    if step.outcome == "silent":
        return f"is not answered within {case.patience} s." if step.purpose in _USERS else "is not answered in time."
    return _FOUND[step.outcome]


_FOUND: Final[Mapping[str, str]] = {"empty": "finds nobody.", "several": "finds more than one entry."}


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _shorter(case: Case) -> str:
    """How the program is made to wait longer than ldapmfa, or ldapmfa to answer earlier."""
    seconds = max(1, (case.patience or 1) - 1)
    more = ", with late_approval_seconds = 30" if case.program.tries > 1 else ""
    return (
        f"Raise {case.program.setting} above {case.at.deadline:g} s, or set deadline = {seconds} in"
        f" {case.at.place}{more}."
    )


# -- what to change: the first that applies counts


def _connect(case: Case) -> str:
    if "certificate" in case.step.said.lower():
        return _trust(case)
    return "See that the proxy runs and listens there (`ldapmfa doctor --only process`), and no firewall is in between."


def _starttls(case: Case) -> str:
    if case.step.outcome == "refused":
        return f'Set tls = "starttls" in the [[listen]] "{case.at.listen.name}", or let {case.title} use ldaps.'
    return _trust(case)


def _trust(case: Case) -> str:
    return f"Let {case.title} trust the authority that signed the certificate, and use a name that is in it."


def _encrypt(case: Case) -> str:
    return (
        f"Let {case.title} encrypt (ldaps, or StartTLS); or, where passwords may cross the network in clear text, set"
        f' require_tls = false in the [[listen]] "{case.at.listen.name}".'
    )


def _again(case: Case) -> str:
    return (
        f"{_sentence(case.program.again)}. Use {case.program.instead}; or set reuse_seconds = "
        f"{max(30, 2 * case.program.again_after)} in {case.at.place}, so that the same password and code count again"
        " for that long from the same address."
    )


def _exempt(case: Case) -> str:
    network = f"{case.at.client}/{128 if ':' in case.at.client else 32}"
    return (
        "A program's own account can show no second factor. Exempt it, from its own network only: [[exempt]] account ="
        f' "{case.service}", networks = ["{network}"].'
    )


def _anonymous(case: Case) -> str:
    before = " before it binds" if case.step.purpose == "root-dse-first" else ""
    return f'{case.title} must be able to read the rootDSE{before}: set anonymous = "root-dse" in {case.at.place}.'


def _give_account(case: Case) -> str:
    return (
        f"Give {case.title} a service account, and exempt that from the second factor ([[exempt]]): before a bind"
        " nothing but the rootDSE is read."
    )


def _not_found(case: Case) -> str:
    if case.step.outcome == "several":
        return "Look below a narrower --base, or by an attribute that is unique (--attribute)."
    return (
        "See that the name is right (--user), with the attribute that the program looks in (--attribute) and the base"
        " it looks below (--base), and that the service account may read the entry."
    )


#: A condition, and the advice where it holds.
_ADVICE: Final[tuple[tuple[Callable[[Case], bool], Callable[[Case], str]], ...]] = (
    (lambda case: case.step.purpose == "connect", _connect),
    (lambda case: case.step.purpose == "starttls", _starttls),
    (lambda case: case.step.code == 13, _encrypt),
    (lambda case: case.step.purpose in _USERS and case.step.outcome == "silent", _shorter),
    (lambda case: case.step.purpose == "bind-again" and case.reason in _TWICE, _again),
    (lambda case: case.step.purpose in _OWN and case.reason in _NOT_EXEMPT, _exempt),
    (
        lambda case: case.step.purpose in _OWN and case.reason == "password",
        lambda _: "Correct the service account's name or password: the directory does not take them.",
    ),
    (
        lambda case: bool(case.denied),
        lambda case: f"Take {case.denied} out of denied_operations of {case.at.place}: {case.title} needs it.",
    ),
    (lambda case: case.step.purpose in {"bind-nobody", "find-user"} and case.step.code in {48, 50}, _give_account),
    (lambda case: case.step.purpose.startswith("root-dse") and case.step.outcome == "refused", _anonymous),
    (lambda case: case.step.outcome in {"empty", "several"}, _not_found),
    (
        lambda case: case.step.code == 12,
        lambda _: "The directory takes no paged results here: turn paging off in the program.",
    ),
    (
        lambda case: bool(case.reason and explained(case.reason).remedy),
        lambda case: explained(case.reason).remedy,
    ),
    (
        lambda case: case.step.outcome == "lost",
        lambda _: "Look in the log at that time: `client turned away` says why.",
    ),
    (lambda _: True, lambda _: "`ldapmfa audit` says why; docs/howto/troubleshoot.md has every reason."),
)
