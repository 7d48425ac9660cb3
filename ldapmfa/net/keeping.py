"""What was found out and may be used again for a while: bounded, the oldest goes first.

Not in here: what that is, and for how long.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Kept(OrderedDict[Key, tuple[Value, float]]):
    """Values by key, each with the time until which it counts, in the seconds of whoever's clock."""

    def recall(self, key: Key, now: float) -> Value | None:
        """What is kept under `key`, if it still counts."""
        value, until = self.get(key, (None, now))
        return value if until > now else None

    def keep(self, key: Key, value: Value, until: float, most: int) -> None:
        """Keep it, and no more than `most` in all."""
        self[key] = value, until
        self.move_to_end(key)
        while len(self) > most:
            self.popitem(last=False)
