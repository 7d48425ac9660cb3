"""How many wrong passwords came lately, for whom and from where, and who has logged in from there before.

Promised here: a wrong password that was reported is durable, and counted for its name, its source and its minute,
whichever process reports it; the names that are known to be one account's share one count. Rows go when their time is
over, so that there are never many more of them than wrong passwords are let through. Not in here: what the limits are
(`ldapmfa.core.throttle`), and what is under way (`ldapmfa.net.tries`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ldapmfa.core.throttle import PasswordLimit, Tried, bare_name, without_marks
from ldapmfa.store import statements
from ldapmfa.store.database import BROKEN
from ldapmfa.store.rows import plain
from ldapmfa.store.writer import Call, Writer, down

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ldapmfa.core.secret import Secret
    from ldapmfa.store.database import Database
    from ldapmfa.store.seal import Seal

#: Seconds by which what is kept of successes may lag behind, so that most logins write nothing.
SEEN: Final = 3600.0

#: Of a name and a source of which nothing is known: failures, what was refused last and when, the last success.
_NOTHING: Final[tuple[Any, ...]] = (0, None, None, None)


@dataclass(frozen=True, slots=True)
class Counted:
    """Under what a password is counted: `who` is an account's key, or "name:" and a typed one.

    `failures` are those that were held against it, `succeeded` is when the last login from there did.
    """

    directory: str
    who: str
    source: str
    failures: int
    succeeded: float | None


class Tries:
    """The part of a store about wrong passwords. Every verb raises StoreDown if the database fails."""

    _database: Database
    _writer: Writer
    _seal: Seal
    _clock: Callable[[], float]

    async def tried(
        self, directory: str, name: str, source: str, password: Secret, limit: PasswordLimit
    ) -> tuple[Counted, Tried]:
        """What is known of wrong passwords for a typed name, normalised, from `source`; one reading."""
        now, name = self._clock(), plain(name)
        bare = bare_name(name)
        unmarked = without_marks(bare)
        typed = f"name:{unmarked}"
        try:
            rows = await self._database.read(
                statements.TRIED,
                directory=directory,
                name=name,
                value=name.removeprefix("dn:"),
                bare=bare,
                unmarked=unmarked.removeprefix("dn:"),
                typed=typed,
                source=source,
                minute=int(now // 60),
            )
        except BROKEN as error:
            raise down(error) from error
        who = _whose(rows) or typed
        pair, from_there, this_minute = _NOTHING, 0, 0
        for what, key, count, since, *more in rows:
            if what == statements.EVERYBODY:
                this_minute = count
            elif what == statements.FROM_THERE:
                from_there = _within(count, since, now, limit)
            elif key == who or (what == statements.AS_TYPED and who == typed):
                pair = (_within(count, since, now, limit), *more)
        failures, refused, refused_at, succeeded = pair
        counted = Counted(directory, who, source, failures, succeeded)
        known = succeeded is not None and now < succeeded + limit.known_seconds
        lately = refused_at is not None and now < refused_at + limit.again_seconds
        again = lately and refused == self._hash(counted, password)
        return counted, Tried(failures, from_there, this_minute, known=known, again=again)

    async def count_wrong(self, counted: Counted, password: Secret, limit: PasswordLimit) -> None:
        """The directory did not accept this password."""
        refused = self._hash(counted, password)

        def work(call: Call) -> None:
            now = self._clock()
            over, minute = now - limit.seconds, int(now // 60)
            row = {"failures": 1, "since": now, "succeeded": None, "expires": now + limit.seconds, "over": over}
            where = {"directory": counted.directory, "who": counted.who, "source": counted.source}
            call.write(statements.FORGET_OLD_TRIES, now=now)
            call.write(statements.ADD_FAILURE, **where, **row, refused=refused, refused_at=now)
            everywhere = {"directory": "", "who": "", "source": counted.source}
            call.write(statements.ADD_FAILURE, **everywhere, **row, refused=None, refused_at=None)
            call.write(statements.FORGET_OLD_RATES, minute=minute)
            call.write(statements.ADD_RATE, minute=minute)

        await self._writer.write(work)

    def forget_wrong(self, counted: Counted) -> None:
        """The directory did accept a password: what is held against that name from there is forgotten, soon."""
        self._writer.note(
            statements.FORGET_FAILURES, directory=counted.directory, who=counted.who, source=counted.source
        )

    def note_success(self, counted: Counted, account_key: str, limit: PasswordLimit) -> None:
        """A login that was counted there has succeeded as this account; kept soon, unless it is known lately."""
        now = self._clock()
        lately = counted.succeeded is not None and now < counted.succeeded + SEEN
        if lately and counted.who == account_key:
            return
        self._writer.note(
            statements.SET_SUCCEEDED,
            directory=counted.directory,
            who=account_key,
            source=counted.source,
            failures=0,
            since=0.0,
            refused=None,
            refused_at=None,
            succeeded=now,
            expires=now + limit.known_seconds,
        )

    def _hash(self, counted: Counted, password: Secret) -> str:
        """What only tells whether it is the same password of the same name from the same source."""
        parts = (counted.directory, counted.who, counted.source)
        return self._seal.keyed_hash("tries", *(part.encode() for part in parts), password.reveal())


def _whose(rows: Sequence[Sequence[Any]]) -> str | None:
    """The account that logged in by that name last; else the only one that has it, if not to the letter."""
    for what in (statements.BY_NAME, statements.BY_FORM, statements.BY_BARE_FORM, statements.BY_UNMARKED_FORM):
        keys = {row[1] for row in rows if row[0] == what}
        if keys:
            return keys.pop() if len(keys) == 1 else None
    return None


def _within(failures: int | None, since: float | None, now: float, limit: PasswordLimit) -> int:
    """Failures that are in their window still."""
    return failures if failures and since is not None and now < since + limit.seconds else 0
