"""What differs between two configurations, key by key, and what of it can't change while the program runs.

Promised here: a secret is said to have changed, never what it was or is. Not in here: files that a configuration names;
what is in them is no part of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel, SecretStr

from ldapmfa.config.settings import Config

#: The tables that may change while the program runs; of any other a changed key needs a restart.
_RELOADED: Final = frozenset(
    {"listen", "directory", "directories", "login", "application", "rule", "factors", "exempt", "fraud", "throttle",
     "limits"}
)  # fmt: skip
#: Keys of these that the store is opened with.
_OPENED_WITH: Final = frozenset({"throttle.wrong_codes", "throttle.lock_seconds", "throttle.longest_lock_seconds"})
#: Tables that say nothing of who is let in.
_NO_POLICY: Final = frozenset({"limits", "throttle", "fraud"})
#: Keys that tell the items of a list of tables apart.
_NAMES: Final = ("name", "account")
_ABSENT: Final = "not set"


@dataclass(frozen=True, slots=True)
class Change:
    """One key whose value is another; both values as the file would have them, or "a secret"."""

    key: str
    old: str
    new: str

    @property
    def table(self) -> str:
        """The table that the key is in."""
        return self.key.partition(".")[0].partition("[")[0]

    @property
    def needs_restart(self) -> bool:
        """Whether it can't change while the program runs."""
        return self.table not in _RELOADED or self.key in _OPENED_WITH

    @property
    def is_policy(self) -> bool:
        """Whether it may be about who is let in, and by what."""
        return self.table not in _NO_POLICY


def changes(old: Config, new: Config) -> list[Change]:
    """Every key whose value is another in `new`, those of the old one first."""
    before, after = dict(_keys(old, "")), dict(_keys(new, ""))
    found = []
    for key in {**before, **after}:
        was, now = before.get(key), after.get(key)
        listed = f"{key}[*]"  # that an empty list of tables is one no more, or is now, is said there
        if was != now and listed not in before and listed not in after:
            found.append(Change(key, was[0] if was else _ABSENT, now[0] if now else _ABSENT))
    return found


def _keys(value: Any, key: str, *, secret: bool = False) -> Iterator[tuple[str, tuple[str, Any]]]:
    """The keys in `value`: what each is shown as, and what it is."""
    if isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            under = f"{key}.{name}" if key else name
            yield from _keys(getattr(value, name), under, secret=not field.repr)
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _keys(item, f"{key}.{name}", secret=secret)
    elif isinstance(value, tuple) and value and all(isinstance(item, BaseModel) for item in value):
        names = [_name(item, number) for number, item in enumerate(value)]
        yield f"{key}[*]", (", ".join(names), names)
        for name, item in zip(names, value, strict=True):
            yield from _keys(item, f"{key}[{name}]")
    elif secret or isinstance(value, SecretStr):
        yield key, ("a secret", value)
    elif value is not None:
        yield key, (_shown(value), value)


def _name(item: BaseModel, number: int) -> str:
    return next((str(given) for name in _NAMES if (given := getattr(item, name, None))), str(number))


def _shown(value: Any) -> str:
    if isinstance(value, tuple | frozenset):
        return f"[{', '.join(_shown(item) for item in value)}]"
    return json.dumps(value if isinstance(value, bool | int | float | str) else str(value), ensure_ascii=False)
