"""Every request of the load and its answer; afterwards what they come to, held against the store and the directory.

What is promised of a proxy in trouble is judged here, and nowhere else:

lost   a request that got no answer although its connection lived; a success that a client saw and the store did not
       record, or whose code it does not know as used.
wrong  a code accepted twice, a wrong code or none accepted, a good code that was never sent before refused as wrong,
       anything but a refusal to a search behind a refused bind, a search answered with less than there is.

Whatever else is not a success is a refusal: by a result code, or by the connection's end ("cut").
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any

ACCEPTED, INVALID = 0, 49
#: Logins that are good, and what must never be.
GOOD, BAD = ("fresh", "again", "push"), ("replay", "wrong", "bare", "sneak")
#: Answers that are none: the connection ended, or could not be had; it stayed, and nothing came.
CUT, SILENT = "cut", "silent"
Answer = int | str
#: Seconds that a login takes at most while all is well.
_SLOW = 1.0


@dataclass
class Request:
    """One request. `what`: "fresh" (a login with an unused code), "again" (with one that may be used: its answer was not
    heard, or was that something is down), "push" (a password alone, and the owner says yes), "replay", "wrong", "bare"
    (neither code nor owner), "search", "settled" (a search of who has been bound for long) or "sneak" (a search behind a refused bind). `entries` is what a search brought.
    """

    what: str
    account: str
    code: int | None
    began: float
    answer: Answer = SILENT
    seconds: float = 0.0
    entries: int = 0
    phase: str = ""


@dataclass
class Verdict:
    """What a fault's ledger comes to. `refused` by result code, `mistakes` what was lost or wrong, in words.

    `hit`: how many good logins felt it: refused, cut, or answered after more than a second.
    """

    sent: int = 0
    accepted: int = 0
    refused: Counter = field(default_factory=Counter)
    cut: int = 0
    lost: int = 0
    wrong: int = 0
    unheard: int = 0
    hit: int = 0
    settled: tuple[int, int] = (0, 0)
    longest: float = 0.0
    mistakes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """As plain values."""
        plain = {one.name: getattr(self, one.name) for one in fields(self)}
        return plain | {"refused": {str(code): count for code, count in sorted(self.refused.items(), key=str)}}

    def loses(self, what: str) -> None:
        """One more."""
        self.lost += 1
        self.mistakes.append(f"lost: {what}")

    def errs(self, what: str) -> None:
        """One more."""
        self.wrong += 1
        self.mistakes.append(f"wrong: {what}")


class Ledger:
    """All requests of one fault's load."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.phase = "before"

    def write(self, request: Request) -> Request:
        """A request is about to be sent: it counts as unanswered until its answer is written down."""
        request.phase = self.phase
        self.requests.append(request)
        return request

    def judge(self) -> Verdict:
        """By the answers alone."""
        verdict = Verdict()
        used: Counter[tuple[str, int | None]] = Counter()
        for one in self.requests:
            verdict.sent += 1
            verdict.longest = max(verdict.longest, one.seconds)
            verdict.hit += one.what in GOOD and (one.answer not in (ACCEPTED, INVALID) or one.seconds > _SLOW)
            if one.answer == SILENT:
                verdict.loses(f"{_told(one)} was not answered in {one.seconds:.0f} s")
            elif one.answer == CUT:
                verdict.cut += 1
            elif one.answer == ACCEPTED:
                verdict.accepted += 1
            else:
                verdict.refused[one.answer] += 1
            if one.answer == ACCEPTED and one.what in ("fresh", "again"):
                used[one.account, one.code] += 1
            if mistake := _mistake(one):
                verdict.errs(mistake)
        for (account, code), times in used.items():
            if times > 1:
                verdict.errs(f"code {code} of {account} was accepted {times} times")
        return verdict

    def last_used(self) -> dict[str, int]:
        """The last code of each account that was accepted, as its client saw it."""
        found: dict[str, int] = {}
        for one in self.requests:
            if one.what in ("fresh", "again") and one.answer == ACCEPTED:
                found[one.account] = max(found.get(one.account, -1), one.code)
        return found

    def against_the_store(self, verdict: Verdict, recorded: Counter[str], positions: dict[str, int]) -> None:
        """`recorded`: successes of each account in the audit trail; `positions`: the last counter it knows as used."""
        seen, unheard, turned_away = Counter(), Counter(), Counter()
        for one in self.requests:
            if one.what in GOOD:
                seen[one.account] += one.answer == ACCEPTED
                unheard[one.account] += one.answer not in (ACCEPTED, INVALID)
                turned_away[one.account] += one.what == "again" and one.answer == INVALID
        for account, count in seen.items():
            for _ in range(count - recorded[account]):
                verdict.loses(f"a success of {account} is not recorded")
            more = max(0, recorded[account] - count)
            verdict.unheard += more
            if more > unheard[account]:
                verdict.errs(f"{account} has {recorded[account]} recorded successes, and {count} were seen")
            if turned_away[account] > more:
                verdict.errs(f"{turned_away[account]} codes of {account} were refused when they came again, {more} were used")
        for account, code in self.last_used().items():
            if positions.get(account, -1) < code:
                verdict.loses(f"code {code} of {account} is not known as used")

    def healed(self, since: float) -> float | None:
        """Seconds from `since` until the last good login had been refused; None: one still is."""
        after = [one for one in self.requests if one.phase == "after" and one.what in GOOD]
        last = {one.account: one for one in after}
        if not after or any(one.answer not in (ACCEPTED, INVALID) for one in last.values()):
            return None
        ends = [one.began + one.seconds for one in self.requests if one.what in GOOD and one.answer not in (ACCEPTED, INVALID)]
        return max(0.0, max(ends, default=since) - since)

    def is_well(self, people: set[str]) -> bool:
        """Whether, after the fault, the last login of each of these `people` was a success."""
        last = {one.account: one.answer for one in self.requests if one.phase == "after" and one.what in GOOD}
        return people <= last.keys() and set(last.values()) == {ACCEPTED}

    def settled(self) -> tuple[int, int]:
        """How many searches of those who were bound succeeded while the fault lasted, and of how many."""
        asked = [one for one in self.requests if one.what == "settled" and one.phase == "during"]
        return sum(one.answer == ACCEPTED for one in asked), len(asked)


def _told(one: Request) -> str:
    return f"{one.what} of {one.account} (code {one.code})"


def _mistake(one: Request) -> str:
    if one.answer == ACCEPTED and one.what in BAD:
        return f"{_told(one)} was accepted"
    if one.answer == INVALID and one.what in ("fresh", "push"):
        return f"{_told(one)}, which was good, was refused as invalid"
    if one.what in ("search", "settled") and one.answer == ACCEPTED and one.entries != 1:
        return f"{_told(one)} brought {one.entries} entries, and success"
    return ""
