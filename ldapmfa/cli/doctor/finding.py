"""What the doctor finds: one thing looked at, how it is, what was seen, what to do. And how findings are shown.

Not in here: what is looked at.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

State = Literal["ok", "warning", "broken", "skipped"]

#: The worst first.
STATES: Final[tuple[State, ...]] = ("broken", "warning", "ok", "skipped")
#: What the command ends with, by the worst state that was found; `ldapmfa.cli.command.EXIT_CODES` has the words.
EXIT: Final[dict[State, int]] = {"broken": 3, "warning": 1, "ok": 0, "skipped": 0}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `remedy` says what to do where the state asks for it."""

    area: str
    check: str
    state: State
    found: str
    remedy: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The same as values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Area:
    """Makes findings of one area."""

    name: str

    def ok(self, check: str, found: str) -> Finding:
        """All is as it should be."""
        return Finding(self.name, check, "ok", found)

    def warning(self, check: str, found: str, remedy: str) -> Finding:
        """It works, and will not for long, or not for everybody."""
        return Finding(self.name, check, "warning", found, remedy)

    def broken(self, check: str, found: str, remedy: str) -> Finding:
        """It does not work, or is not safe."""
        return Finding(self.name, check, "broken", found, remedy)

    def skipped(self, check: str, found: str) -> Finding:
        """It could not be looked at; `found` says why."""
        return Finding(self.name, check, "skipped", found)


def worst(findings: Iterable[Finding]) -> State:
    """The worst state of all; skipped where there is none."""
    return min((finding.state for finding in findings), key=STATES.index, default="skipped")


def summary(findings: Iterable[Finding]) -> str:
    """How many of each state, in words."""
    states = [finding.state for finding in findings]
    words = {"broken": "broken", "warning": "to be warned of", "ok": "in order", "skipped": "not looked at"}
    return ", ".join(f"{states.count(state)} {words[state]}" for state in STATES if state in states) or "nothing"
