"""Which owner is being asked, how often that was, which code was sent, and which success counts again.

Promised here: one question is open for an account at any time, whichever process put it; how often an account is asked
is counted before anybody is; a success counts again only for the keyed hash of the very same account, secret, address
and application, as often as was granted, and is gone when any login of the account is refused over its factor. Not in
here: whether any of that is configured, and what owners say.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from ldapmfa.core.questions import Reused
from ldapmfa.core.secret import Secret
from ldapmfa.core.throttle import Failures, Limit
from ldapmfa.store import statements
from ldapmfa.store.database import BROKEN
from ldapmfa.store.rows import Known, plain
from ldapmfa.store.writer import Call, Writer, down

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from ldapmfa.audit import LoginEnded
    from ldapmfa.core.identity import Identity
    from ldapmfa.store.database import Database, Statement
    from ldapmfa.store.seal import Seal

#: What became of the wish to ask an owner: go on; an equal bind asks already, and its answer may be shared; no.
Begun = Literal["begun", "shared", "asked-already", "too-many-prompts", "locked", "blocked"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a login comes from, as far as a code that was sent is bound to it."""

    application: str
    client: str


@dataclass(frozen=True, slots=True)
class Grant:
    """A success that counts for `uses` further binds with this `key`, for `seconds`, and is recorded as `reason`.

    `place` is for operators to see: the key says nothing.
    """

    key: str
    seconds: float
    uses: int
    reason: Literal["reused", "late-approval"] = "reused"
    place: Place = field(default_factory=lambda: Place("", ""))


@dataclass(frozen=True, slots=True)
class Guess:
    """A code that was counted as a wrong one, though it is not known yet: the failures `before` it."""

    before: Failures


class Prompts:
    """The part of a store about questions to owners. Every verb raises StoreDown if the database fails."""

    _database: Database
    _writer: Writer
    _seal: Seal
    _clock: Callable[[], float]
    _limit: Limit

    def reuse_key(self, identity: Identity, secret: Secret, place: Place) -> str:
        """What equal binds have in common: a keyed hash, from which nothing can be had without the key file."""
        parts = (identity.key, place.application, place.client)
        return self._seal.keyed_hash("reuse", *(part.encode() for part in parts), secret.reveal())

    async def begin_prompt(
        self,
        identity: Identity,
        prompt_id: str,
        key: str,
        *,
        seconds: float,
        prompts: int,
        within: float,
        shares: bool,
        takes_over: bool,
    ) -> Begun:
        """Open the question `prompt_id`, for `seconds` at most, unless `prompts` were asked `within` so many seconds.

        Where one of an equal bind is open its answer is shared, if it `shares`, or if that bind's client has left and
        this one `takes_over`.
        """

        def work(call: Call) -> Begun:
            now, account = self._clock(), identity.key
            known = self._renewed(call, identity, now)
            if known.blocked(now):
                return "blocked"
            if known.failures.locked(now):
                return "locked"
            for _id, open_key, left in call.read(statements.PROMPT, account_key=account, now=now):
                equal = open_key == key and (shares or (takes_over and bool(left)))
                return "shared" if equal else "asked-already"
            if (shares or takes_over) and call.read(statements.REUSABLE, key=key, account_key=account, now=now):
                return "shared"  # it was answered since this bind looked
            since = now - within
            if call.read(statements.COUNT_PROMPTS, account_key=account, since=since)[0][0] >= prompts:
                return "too-many-prompts"
            call.write(statements.FORGET_TIMES, account_key=account, since=since)
            call.write(statements.ADD_TIME, id=prompt_id, account_key=account, at=now)
            call.write(
                statements.SET_PROMPT,
                account_key=account,
                id=prompt_id,
                reuse_key=key,
                expires=now + seconds,
                left=False,
            )
            return "begun"

        return await self._writer.write(work)

    async def is_open(self, account_key: str, key: str) -> bool:
        """Whether the question of a bind with this key is open still."""
        rows = await self._asked(statements.PROMPT, account_key=account_key, now=self._clock())
        return any(open_key == key for _id, open_key, _left in rows)

    async def leave_prompt(self, account_key: str, prompt_id: str) -> None:
        """Whoever asked has gone; the answer is kept for an equal bind."""

        def work(call: Call) -> None:
            call.write(statements.LEAVE_PROMPT, account_key=account_key, id=prompt_id)

        await self._writer.write(work)

    async def end_prompt(
        self,
        account_key: str,
        prompt_id: str,
        *,
        counts: bool = True,
        grant: Grant | None = None,
        factor: str | None = None,
    ) -> None:
        """Close the question, unless another one was opened since; it `counts` unless nobody was asked.

        With a `grant` the answer counts for equal binds, as one of `factor`.
        """

        def work(call: Call) -> None:
            mine = call.write(statements.END_PROMPT, account_key=account_key, id=prompt_id)
            if not counts:
                call.write(statements.FORGET_TIME, id=prompt_id)
            if grant and mine:
                self._grant(call, account_key, grant, factor)

        await self._writer.write(work)

    # -- successes that count again

    async def reuse(
        self, identity: Identity, key: str, success: LoginEnded, accepts: AbstractSet[str] | None = None
    ) -> Reused | None:
        """Use a success again, if one counts for `key`, and record that, in one transaction.

        It must have been by one of the factors that the login `accepts`; None: whichever.
        """
        if not await self._asked(statements.REUSABLE, key=key, account_key=identity.key, now=self._clock()):
            return None

        def work(call: Call) -> Reused | None:
            now = self._clock()
            where = {"key": key, "account_key": identity.key, "now": now}
            rows = call.read(statements.REUSABLE, **where)
            known = self._renewed(call, identity, now)
            if known.blocked(now) or known.failures.locked(now) or not rows:
                return None
            if accepts is not None and rows[0][1] not in accepts:
                return None
            if call.write(statements.USE_AGAIN, **where) != 1:
                return None
            (reason, factor) = rows[0]
            self._record(call, identity, replace(success, reason=reason), (), now, factor=factor, codeless=False)
            return Reused(reason, factor)

        return await self._writer.write(work)

    async def forget_reuse(self, account_key: str) -> None:
        """Let no success of the account count again."""

        def work(call: Call) -> None:
            call.write(statements.FORGET_REUSE, account_key=account_key)

        await self._writer.write(work)

    def _grant(self, call: Call, account_key: str, grant: Grant, factor: str | None) -> None:
        now = self._clock()
        call.write(statements.FORGET_OLD_REUSE, now=now)
        call.write(
            statements.SET_REUSE,
            key=grant.key,
            account_key=account_key,
            reason=grant.reason,
            factor=factor,
            uses=grant.uses,
            expires=now + grant.seconds,
            application=plain(grant.place.application),
            client=plain(grant.place.client),
            granted=now,
        )

    # -- codes that services sent

    async def keep_sent(
        self,
        identity: Identity,
        service: str,
        handle: Mapping[str, str],
        place: Place,
        names: Sequence[str] = (),
        *,
        seconds: float,
    ) -> None:
        """A service has sent a code, which the next bind from there brings; it replaces what was sent before.

        `names` are the typed ones, normalised: from now on they are remembered as used with codes.
        """
        sealed = self._seal.seal(Secret(json.dumps(dict(handle)).encode()), _row(identity.key, service))

        def work(call: Call) -> None:
            now = self._clock()
            self._renewed(call, identity, now)
            call.write(statements.FORGET_OLD_SENT, now=now)
            call.write(
                statements.SET_SENT,
                account_key=identity.key,
                service=service,
                application=plain(place.application),
                client=plain(place.client),
                sealed=sealed,
                expires=now + seconds,
            )
            for name in {plain(name) for name in names}:
                call.write(
                    statements.SET_NAME,
                    directory=identity.directory,
                    name=name,
                    account_key=identity.key,
                    codeless=False,
                    seen=now,
                    lately=now - statements.SEEN,
                )

        await self._writer.write(work)

    async def sent(self, account_key: str, place: Place) -> tuple[str, dict[str, str]] | None:
        """The service that sent a code for a bind from there, and what it needs to verify it."""
        rows = await self._asked(
            statements.SENT,
            account_key=account_key,
            application=plain(place.application),
            client=plain(place.client),
            now=self._clock(),
        )
        for service, sealed in rows:
            opened = self._seal.open(sealed, _row(account_key, service))
            return service, json.loads(opened.reveal())
        return None

    async def forget_sent(self, account_key: str) -> None:
        """The code that was sent is used up."""

        def work(call: Call) -> None:
            call.write(statements.FORGET_SENT, account_key=account_key)

        await self._writer.write(work)

    async def guess(self, identity: Identity) -> Guess | None:
        """Count a code that a service is to judge as a wrong one, as those under way at once must not exceed the limit.

        Gives what `take_back` needs if it was none; None: the account is locked, and no code is to be tried.
        """

        def work(call: Call) -> Guess | None:
            now = self._clock()
            known = self._renewed(call, identity, now)
            failures = known.failures
            if known.blocked(now) or failures.locked(now):
                return None
            self._set_failures(call, identity.key, failures.after_wrong_code(now, self._limit))
            return Guess(failures.before_guess(now, self._limit))

        return await self._writer.write(work)

    async def take_back(self, account_key: str, guess: Guess) -> None:
        """The code that was counted was no wrong one: what it counted is given back, and a lock that it led to."""

        def work(call: Call) -> None:
            now = self._clock()
            for row in call.read(statements.ACCOUNT, account_key=account_key):
                failures = Failures(*row[3:6])
                self._set_failures(call, account_key, failures.without_guess(guess.before, now, self._limit))

        await self._writer.write(work)

    # -- below the verbs

    async def _asked(self, statement: Statement, **values: Any) -> list[tuple[Any, ...]]:
        try:
            return await self._database.read(statement, **values)
        except BROKEN as error:
            raise down(error) from error

    def _renewed(self, call: Call, identity: Identity, now: float) -> Known:
        """What is kept of the account, when it is known as the directory has it today."""
        raise NotImplementedError

    @staticmethod
    def _set_failures(call: Call, key: str, failures: Failures) -> None:
        raise NotImplementedError

    @staticmethod
    def _record(
        call: Call,
        identity: Identity,
        success: LoginEnded,
        names: Sequence[str],
        now: float,
        *,
        factor: str | None,
        codeless: bool,
    ) -> None:
        raise NotImplementedError


def _row(account_key: str, service: str) -> str:
    """What a code's handle is bound to."""
    return f"sent/{account_key}/{service}"
