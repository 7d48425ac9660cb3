"""From the recent failures: go on, or locked until when; ask the directory about a password, or don't.

Pure arithmetic; the store keeps the numbers. Wrong codes are counted inside the transaction that checks the code, so
that guesses made at the same moment on any number of connections and processes are counted one after the other. Wrong
passwords are counted before the next one is asked about; what is under way meanwhile is bounded by what is left.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from typing import Final, Literal

from ldapmfa.core.rules import Address


@dataclass(frozen=True, slots=True)
class Limit:
    """After `wrong_codes` wrong ones in a row an account's factors are locked for `seconds` (A20).

    Each further lock without a right code in between lasts twice as long as the one before, up to `longest`; when the
    next wrong code comes as long as that after the last lock's end, it begins anew.
    """

    wrong_codes: int = 10
    seconds: float = 15 * 60
    longest: float = 86400

    def lasts(self, locks: int) -> float:
        """Seconds that a lock lasts behind so many others."""
        # a day is reached long before 2.0 ** 64 seconds, and no power may overflow
        return min(self.seconds * 2.0 ** min(locks, 64), max(self.seconds, self.longest))


@dataclass(frozen=True, slots=True)
class Failures:
    """What the store keeps of an account: wrong codes in a row, and until when it is locked (epoch seconds).

    `locks`: how often it has been locked since a code was right; as long as there is one, `locked_until` is kept.
    """

    wrong_codes: int = 0
    locked_until: float | None = None
    locks: int = 0

    def locked(self, now: float) -> bool:
        """Whether codes are refused unseen."""
        return self.locked_until is not None and now < self.locked_until

    def before_guess(self, now: float, limit: Limit) -> Failures:
        """The failures that count for a code tried now: what is long over is forgotten, but for the codes in a row."""
        if self.locks and self.locked_until is not None and now < self.locked_until + limit.longest:
            return self
        return Failures(self.wrong_codes)

    def after_wrong_code(self, now: float, limit: Limit) -> Failures:
        """The failures with one more; the one that reaches the limit locks, and the count begins anew."""
        before = self.before_guess(now, limit)
        if before.wrong_codes + 1 >= limit.wrong_codes:
            return Failures(0, now + limit.lasts(before.locks), before.locks + 1)
        return Failures(before.wrong_codes + 1, before.locked_until, before.locks)

    def without_guess(self, before: Failures, now: float, limit: Limit) -> Failures:
        """The failures without one that was counted after `before`, and was none.

        A lock that stands only because of it is given back, and the count with it; behind a lock that has ended nothing
        is left to give back.
        """
        if self.locks == before.locks:
            return Failures(max(0, self.wrong_codes - 1), self.locked_until, self.locks)
        if self.locks == before.locks + 1 and self.locked(now):
            return Failures(limit.wrong_codes - 1, before.locked_until, before.locks)
        return self


# -- passwords

#: Which limit bars an attempt, as the settings call it; or that the directory has just refused this very password.
Barred = Literal["wrong_passwords", "source_wrong_passwords", "wrong_passwords_a_minute", "same wrong password again"]


@dataclass(frozen=True, slots=True)
class Tried:
    """What is known of wrong passwords when one is about to be tried.

    `failures` of this name from this source, and `of_source` of all names from there, each in its window; `this_minute`
    of everybody; `known`: a login of this name from there has succeeded; `again`: this very password was refused.
    """

    failures: int = 0
    of_source: int = 0
    this_minute: int = 0
    known: bool = False
    again: bool = False


@dataclass(frozen=True, slots=True)
class Room:
    """How many may be under way at once: for this name from this source, from this source, of strangers; None: any."""

    of_name: int
    of_source: int | None
    of_strangers: int | None


@dataclass(frozen=True, slots=True)
class PasswordLimit:
    """How many wrong passwords the directory is asked about (A22), before its own lock-out counter is spent.

    `wrong` of one name from one source, and `of_source` of all names from there, within `seconds` of the first;
    `per_minute` of everybody, beyond which only those go on who have logged in from there within `known_seconds`. One
    that was refused less than `again_seconds` ago is not asked about again.
    """

    wrong: int = 5
    seconds: float = 15 * 60
    of_source: int = 100
    per_minute: int = 600
    known_seconds: float = 90 * 86400
    again_seconds: float = 60

    def bars(self, tried: Tried, *, gateway: bool) -> Barred | None:
        """Why the directory is not to be asked; None: it may. A `gateway` is the source of many users."""
        if tried.again:
            return "same wrong password again"
        if tried.failures >= self.wrong:
            return "wrong_passwords"
        if tried.of_source >= self.of_source and not gateway:
            return "source_wrong_passwords"
        if tried.this_minute >= self.per_minute and not tried.known:
            return "wrong_passwords_a_minute"
        return None

    def room(self, tried: Tried, *, gateway: bool, workers: int) -> Room:
        """How many may be under way in one of `workers` processes: its share of what is left, and one at least.

        They learn of each other's wrong ones when these are counted. Until then those of all but one process may come
        on top of the limit: (workers - 1) * max(1, limit // workers).
        """

        def share(limit: int, used: int) -> int:
            return max(1, (limit - used) // workers)

        return Room(
            share(self.wrong, tried.failures),
            None if gateway else share(self.of_source, tried.of_source),
            None if tried.known else share(self.per_minute, tried.this_minute),
        )


def source_of(client: Address | None) -> str:
    """Where a client is, as far as it counts: an IPv4 address, an IPv6 network of 64 bits, "" if that is not known."""
    if isinstance(client, IPv6Address):
        return str(IPv6Network((int(client) >> 64 << 64, 64)))
    return str(client or "")


def bare_name(name: str) -> str:
    """A normalised name without the domain before or behind it; a DN as it is."""
    if name.startswith("dn:"):
        return name
    behind = name.rpartition("\\")[2]
    return behind.partition("@")[0] or behind or name


def without_marks(name: str) -> str:
    """A normalised name without what may not tell names apart: accents, and characters of which nobody knows anything.

    Active Directory finds an account by its name with any accents ([MS-ADTS] 3.1.1.2.2.4, CompareString with
    NORM_IGNORENONSPACE), so that there is no end of spellings to guess by.
    """
    if name.isascii():
        return name
    letters = unicodedata.normalize("NFKD", name)
    return "".join(char for char in letters if unicodedata.category(char) not in _NO_LETTERS) or name


_NO_LETTERS: Final = frozenset({"Mn", "Mc", "Me", "Cc", "Cf", "Cn", "Co", "Cs"})
