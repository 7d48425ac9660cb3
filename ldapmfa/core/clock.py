"""Clocks compared: how far another one is ahead of ours, whether that is too far, and whether ours was set.

Pure arithmetic, in seconds. Not in here: who is asked, and when (`ldapmfa.net.skew`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

#: Seconds by which our clock may gain on a steady one between two looks before it counts as set.
STEP: Final = 5.0


@dataclass(frozen=True, slots=True)
class Offset:
    """That another clock is `ahead` of ours by so much (behind, if negative), give or take `margin`."""

    ahead: float
    margin: float

    @classmethod
    def measured(cls, theirs: float, resolution: float, sent: float, received: float) -> Offset:
        """What an answer tells: it was `theirs`, rounded down to their `resolution`, between `sent` and `received`.

        As Cristian's algorithm: an answer is as good as half the time it took.
        """
        ahead = theirs + resolution / 2 - (sent + received) / 2
        return cls(ahead, (received - sent + resolution) / 2)


def judged(offset: Offset, limit: float, *, alarmed: bool) -> Literal["alarm", "fine"] | None:
    """What is to be said: an alarm when it is certain that the limit is passed, "fine" when it may well not be."""
    if not alarmed and abs(offset.ahead) - offset.margin > limit:
        return "alarm"
    if alarmed and abs(offset.ahead) <= limit:
        return "fine"
    return None


class Steps:
    """Tells when our clock was set: it is looked at beside a `steady` one, which never is."""

    def __init__(self, wall: float, steady: float) -> None:
        self._between = wall - steady

    def look(self, wall: float, steady: float) -> float | None:
        """By how much the clock was set since the last look; None: it was not."""
        step, self._between = wall - steady - self._between, wall - steady
        return step if abs(step) > STEP else None
