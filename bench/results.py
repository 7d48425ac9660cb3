"""Medians, ratios and verdicts: samples go in, what the pages say comes out. Pure arithmetic.

Promised here: a goal without its figures is missed, never passed over.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median

from bench.rows import Goal, Row
from bench.work import Sample

US = "ldapmfa"


@dataclass(frozen=True)
class Verdict:
    """A goal beside what came of it: our figure, or its ratio to a peer's; None where something is not known."""

    goal: Goal
    value: float | None

    @property
    def met(self) -> bool:
        """Whether the goal is reached."""
        most, least = self.goal.most, self.goal.least
        return (
            self.value is not None and (most is None or self.value <= most) and (least is None or self.value >= least)
        )


@dataclass
class Measured:
    """The samples of one row by peer, in the order they were taken, and why they are not all there."""

    row: Row
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)

    def median(self, peer: str, figure: str) -> float | None:
        """Of a peer's samples; None if there are none."""
        values = [sample[figure] for sample in self.samples.get(peer, ()) if figure in sample]
        return median(values) if values and peer not in self.broken else None

    def verdicts(self) -> list[Verdict]:
        """On every goal of the row."""
        return [Verdict(goal, self._value(goal)) for goal in self.row.goals]

    def _value(self, goal: Goal) -> float | None:
        ours = self.median(US, goal.figure)
        if goal.of is None or ours is None:
            return ours
        theirs = self.median(goal.of, goal.figure)
        return ours / theirs if theirs else None

    @property
    def met(self) -> bool:
        """Whether every goal is reached and every peer could be measured."""
        return not self.broken and all(verdict.met for verdict in self.verdicts())
