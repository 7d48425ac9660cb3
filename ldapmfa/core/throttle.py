"""From the recent failures: go on, or locked until when.

Pure arithmetic; the store keeps the numbers and applies it inside the transaction that checks the code, so that
guesses made at the same moment on any number of connections and processes are counted one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limit:
    """After `wrong_codes` wrong ones in a row an account's factors are locked for `seconds` (A20)."""

    wrong_codes: int = 10
    seconds: float = 15 * 60


@dataclass(frozen=True, slots=True)
class Failures:
    """What the store keeps of an account: wrong codes in a row, and until when it is locked (epoch seconds).

    `locks`: how often it has been locked since a code was right.
    """

    wrong_codes: int = 0
    locked_until: float | None = None
    locks: int = 0

    def locked(self, now: float) -> bool:
        """Whether codes are refused unseen."""
        return self.locked_until is not None and now < self.locked_until

    def after_wrong_code(self, now: float, limit: Limit) -> Failures:
        """The failures with one more; the one that reaches the limit locks, and the count begins anew."""
        count = self.wrong_codes + 1
        if count >= limit.wrong_codes:
            return Failures(0, now + limit.seconds)
        return Failures(count)
