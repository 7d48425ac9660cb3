"""State in the domain's verbs: who is enrolled, which codes are used up, who is locked, what happened.

Promised here: a code is burnt in one atomic call that says whether you were first, together with the record of the
success, durable before it is reported; wrong codes count per account, whichever process, connection or name form
they come by; secrets lie sealed and bound to their row. Whatever fails is StoreDown, and then nothing was accepted.

Not in here: whether a code is right (`ldapmfa.factors`), who may change what (`ldapmfa.accounts`), the tables
(`schema`), what is asked of them (`statements`, `listings`, `trail`), questions to owners (`prompts`), blocks
(`blocks`), wrong passwords (`tries`), what people are to be told (`notices`), backups (`copies`, `restoring`),
connections and threads (`database`), how calls share a transaction (`writer`).
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import uuid
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import delete, insert, or_, select, update

from ldapmfa.audit import AccountChanged, Event, LoginEnded
from ldapmfa.config.postgresql import DatabaseUrl, is_postgresql
from ldapmfa.core.policy import Recall
from ldapmfa.core.questions import CodeAnswer
from ldapmfa.core.secret import Secret
from ldapmfa.core.throttle import Failures, Limit
from ldapmfa.errors import ConfigError, FactorDown
from ldapmfa.factors import Credential, Match, NewCredential
from ldapmfa.store import database, sqlite, statements
from ldapmfa.store.blocks import FOREVER, Blocks, Cut
from ldapmfa.store.database import BROKEN
from ldapmfa.store.notices import Notice
from ldapmfa.store.prompts import Begun, Grant, Guess, Place
from ldapmfa.store.restoring import Restored, Restoring
from ldapmfa.store.rows import (
    AccountRow,
    Block,
    Bypass,
    FactorRow,
    Held,
    Known,
    Pending,
    PendingRow,
    RememberedRow,
    Status,
    fields,
    held,
    held_factors,
    known_of,
    plain,
    row_name,
)
from ldapmfa.store.schema import (
    ACCOUNTS,
    FACTORS,
    FORMS,
    META,
    PENDING,
    PROMPT_TIMES,
    RECOVERY_CODES,
    SENT_CODES,
    TRIES,
)
from ldapmfa.store.seal import SealBroken
from ldapmfa.store.trail import Events, Wanted
from ldapmfa.store.tries import Counted, Tries
from ldapmfa.store.writer import Call, Writer, down

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from collections.abc import Set as AbstractSet

    from sqlalchemy import Connection, Select

    from ldapmfa.core.identity import Identity
    from ldapmfa.store.database import Database
    from ldapmfa.store.seal import Seal

__all__ = [
    "FOREVER",
    "AccountRow",
    "Begun",
    "Block",
    "Bypass",
    "CodeAnswer",
    "Counted",
    "Cut",
    "FactorRow",
    "Grant",
    "Guess",
    "Notice",
    "Pending",
    "PendingRow",
    "Place",
    "Recall",
    "RememberedRow",
    "Restored",
    "Status",
    "Store",
    "Wanted",
]

#: Seconds a pending enrolment waits for its account.
PENDING_SECONDS: Final = 7 * 86400.0
#: Alembic keeps the migration it runs in module globals: one at a time.
_OPENING: Final = threading.Lock()
_CANARY: Final = "meta/canary"
_CLEARINGS: Final = "caches-cleared"


class Store(Events, Blocks, Tries, Restoring):
    """The state of one installation; made by `open`. Every verb raises StoreDown if the database fails."""

    def __init__(
        self,
        seal: Seal,
        opened: Database,
        *,
        clock: Callable[[], float],
        entropy: Callable[[int], bytes],
        normalise_dn: Callable[[str], str],
        limit: Limit,
        backlog: int,
    ) -> None:
        super().__init__(opened, clock=clock, normalise_dn=normalise_dn)
        self._seal = seal
        self._entropy = entropy
        self._limit = limit
        self._writer = Writer(opened, backlog=backlog)
        self.locks = 0  #: how often a wrong code of a factor kept here has locked an account, in this process

    @classmethod
    async def open(
        cls,
        url: str,
        seal: Seal,
        *,
        clock: Callable[[], float],
        normalise_dn: Callable[[str], str],
        entropy: Callable[[int], bytes] = os.urandom,
        migrate: bool = True,
        wrong_codes: int = 10,
        lock_seconds: float = 900.0,
        longest_lock_seconds: float = 86400.0,
        backlog: int = 1000,
        password: Callable[[], Secret | None] | None = None,
    ) -> Store:
        """Open the database, bringing its schema up to date, and check that the key file is the one it needs.

        `clock` gives seconds since the epoch; `wrong_codes` of an account in a row lock it for `lock_seconds`,
        and for twice as long each time after that, up to `longest_lock_seconds`; `backlog` notes may wait; `password`
        gives the database's, if it is not the URL's. ConfigError: the URL, the schema (if not to `migrate`) or the key
        file is wrong.
        """
        opened = _database(url, password)

        def prepare(connection: Connection) -> None:
            with _OPENING:
                database.upgrade(connection, migrate=migrate)
            _check_canary(connection, seal)

        try:
            await opened.prepare(prepare)
        except BaseException as error:
            await opened.close()
            if isinstance(error, BROKEN):
                raise down(error) from error
            raise
        return cls(
            seal,
            opened,
            clock=clock,
            entropy=entropy,
            normalise_dn=normalise_dn,
            limit=Limit(wrong_codes, lock_seconds, longest_lock_seconds),
            backlog=backlog,
        )

    async def close(self) -> None:
        """Finish what is queued, notes included, and let go of the database."""
        await self._writer.close()
        await self._database.close()

    async def database_time(self) -> float | None:
        """The database's own clock, in seconds since the epoch; None: it has none but ours."""
        try:
            return await self._database.time()
        except BROKEN as error:
            raise down(error) from error

    async def others(self) -> int:
        """How many other sessions of ours the database knows of: nodes that run; a file knows of none."""
        try:
            return await self._database.others()
        except BROKEN as error:
            raise down(error) from error

    async def risks(self) -> list[str]:
        """What of the database's own settings endangers what is kept in it, each with what to do."""
        try:
            return await self._database.risks()
        except BROKEN as error:
            raise down(error) from error

    # -- logins

    async def recall(self, directory: str, name: str) -> Recall:
        """What is known of a typed name, normalised; a hint, for the name proves nothing."""
        name = plain(name)
        # a normalised DN may come marked as one, as `ldapmfa.wire.dn.normalise_name` does
        value, now = name.removeprefix("dn:"), self._clock()
        try:
            rows = await self._database.read(statements.RECALL, directory=directory, name=name, value=value, now=now)
        except BROKEN as error:
            raise down(error) from error
        columns = [any(column) for column in zip(*rows, strict=True)] if rows else [False] * 4
        codeless, coded, enrolled, pending = columns
        return Recall(codeless=codeless, coded=coded, enrolled=enrolled, pending=pending)

    async def status(self, identity: Identity) -> Status:
        """Whether `identity` has or could claim a factor, and whether it is locked."""
        now, key = self._clock(), identity.key
        read = self._database.read
        try:
            rows = await read(statements.ACCOUNT_AND_OWN, account_key=key, now=now)
            known, waits, own = _split(rows)
            if not _is_today(rows, identity):
                own = list(await self._database.rows(self._factors_of(identity, now)))
            elif waits:
                own += await read(statements.WAITING, account_key=key, now=now)
            standing = await read(statements.STANDING, account_key=key, now=now)
        except BROKEN as error:
            raise down(error) from error
        method, first_seen, phone, uses = standing[0] if standing else (None, None, None, None)
        return Status(
            frozenset(one.kind for one in self._own(own, identity)),
            locked=known.failures.locked(now),
            method=method,
            blocked=known.blocked(now),
            bypass=uses is not None,
            first_seen=first_seen,
            phone=phone,
        )

    async def verify(
        self,
        identity: Identity,
        match: Callable[[Credential], Match | None],
        success: LoginEnded,
        names: Sequence[str],
        grant: Grant | None = None,
        *,
        kinds: AbstractSet[str] | None = None,
    ) -> CodeAnswer:
        """Burn the code that `match` recognises, if this is its first use, and record `success`, in one transaction.

        `match` is asked about the account's own factors, then about those pending for it; nothing is asked of a
        locked account. It may be called in any thread, and twice; the loop waits for it. `names` are the typed names,
        normalised, by which the account may be recalled; with a `grant` the success counts again. `kinds` are the
        factors that count, None: all. `success` may be a refusal that only who has shown a code is told. SealBroken: a
        secret does not open.
        """
        locks = False

        def work(call: Call) -> CodeAnswer:
            nonlocal locks
            locks, now, key = False, self._clock(), identity.key
            rows = call.read(statements.ACCOUNT_AND_OWN, account_key=key, now=now)
            renewed = self._renew(call, rows, identity, now)
            known, waits, factors = _split(rows)
            failures = known.failures
            if known.blocked(now):
                return CodeAnswer("blocked")
            if failures.locked(now):
                return CodeAnswer("locked")
            if renewed or waits:
                factors += call.read(statements.WAITING, account_key=key, now=now)
            own = [one for one in self._own(factors, identity) if kinds is None or one.kind in kinds]
            if not own:
                return CodeAnswer("not-enrolled")
            found = [(one, hit) for one in own if (hit := match(self._opened(one))) is not None]
            if not found:
                after = failures.after_wrong_code(now, self._limit)
                self._set_failures(call, key, after)
                locks = after.locked(now)
                return CodeAnswer("wrong")
            for one, hit in found:
                if self._burn(call, one, hit, now):
                    break
            else:
                return CodeAnswer("replayed")
            if one.pending is not None:
                self._claim(call, [other for other in own if other.pending == one.pending], key)
            # a program shows the same one all day: guesses made in between would never add up
            if (failures.wrong_codes or failures.locks) and not hit.static:
                self._set_failures(call, key, Failures())
            if grant and not hit.static:  # that one counts again by itself, for as long as it may
                self._grant(call, key, grant, one.kind)
            if success.outcome == "accepted":  # a refusal is recorded when it is told, under its reference
                self._record(call, identity, success, names, now, factor=one.kind, codeless=False)
            return CodeAnswer("accepted", one.kind)

        answer = await self._writer.write(work)
        self.locks += locks
        return answer

    async def admit(
        self,
        identity: Identity,
        success: LoginEnded,
        names: Sequence[str],
        *,
        codeless: bool = True,
        grant: Grant | None = None,
        bypass: bool = False,
    ) -> str | None:
        """Record a success that burnt no code here; `codeless`: the names are to be recalled as used without one.

        Given back is None, or why it must not be one: "blocked". With `bypass` it uses up a login that was granted, and
        "locked" and "no-bypass" are further reasons.
        """

        def work(call: Call) -> str | None:
            now = self._clock()
            known = self._renewed(call, identity, now)
            failures = known.failures
            if known.blocked(now):
                return "blocked"
            if bypass and failures.locked(now):
                return "locked"
            if bypass and call.write(statements.USE_BYPASS, account_key=identity.key, now=now) != 1:
                return "no-bypass"
            if success.reason == "code" and (failures.wrong_codes or failures.locks):
                self._set_failures(call, identity.key, Failures())
            if grant:
                self._grant(call, identity.key, grant, success.factor)
            self._record(call, identity, success, names, now, factor=success.factor, codeless=codeless)
            return None

        return await self._writer.write(work)

    def note(self, event: Event) -> None:
        """Record `event` soon, or drop it where too many wait; refused connections are for the log alone."""
        if isinstance(event, LoginEnded):
            self._writer.note(statements.ADD_LOGIN, **fields(event))
        elif isinstance(event, AccountChanged):
            self._writer.note(statements.ADD_CHANGE, **fields(event))

    @property
    def dropped(self) -> int:
        """How many noted events could not be kept."""
        return self._writer.dropped

    @property
    def waiting(self) -> int:
        """How many calls and noted events wait for the writer."""
        return self._writer.waiting

    # -- what may be done to an account

    async def enrol(
        self,
        owner: Identity | Pending,
        new: NewCredential,
        label: str,
        change: AccountChanged,
        *,
        lifetime: float = PENDING_SECONDS,
    ) -> str:
        """Keep a new factor for `owner`, one who is pending for `lifetime` seconds; gives the factor's id."""
        factor_id = uuid.UUID(bytes=self._entropy(16), version=4).hex

        def work(call: Call) -> str:
            now = self._clock()
            expired = select(PENDING.c.factor_id).where(PENDING.c.expires <= now)
            call.write(delete(FACTORS).where(FACTORS.c.id.in_(expired)))
            pending = self._normalised(owner) if isinstance(owner, Pending) else None
            if not isinstance(owner, Pending):
                self._renewed(call, owner, now)
            key = pending.key if pending else owner.key
            call.write(
                insert(FACTORS).values(
                    id=factor_id,
                    account_key=None if pending else key,
                    kind=new.kind,
                    sealed=self._seal.seal(new.secret, row_name(factor_id, new.kind, key)),
                    parameters=dict(new.parameters),
                    position=new.position,
                    drift=0,
                    label=plain(label),
                    created=now,
                )
            )
            if new.unused:
                codes = [{"factor_id": factor_id, "hash": code} for code in sorted(new.unused)]
                call.write_all(insert(RECOVERY_CODES), codes)
            if pending:
                call.write(insert(PENDING).values(factor_id=factor_id, expires=now + lifetime, **_columns(pending)))
            call.later(statements.ADD_CHANGE, **fields(change))
            return factor_id

        return await self._writer.write(work)

    async def remove_factor(self, factor_id: str, change: AccountChanged) -> bool:
        """Forget one factor, pending or not; False if there is none."""
        return await self._change(delete(FACTORS).where(FACTORS.c.id == factor_id), change) > 0

    async def unenrol(self, owner: str | Pending, change: AccountChanged) -> int:
        """Forget all factors of an account, by its key, or of one who is pending; gives how many there were."""
        if isinstance(owner, Pending):
            pending = self._normalised(owner)
            waiting = select(PENDING.c.factor_id).where(
                PENDING.c.directory == pending.directory,
                PENDING.c.attribute == pending.attribute,
                PENDING.c.value == pending.value,
            )
            return await self._change(delete(FACTORS).where(FACTORS.c.id.in_(waiting)), change)
        return await self._change(delete(FACTORS).where(FACTORS.c.account_key == owner), change)

    async def unlock(self, account_key: str, change: AccountChanged) -> bool:
        """Let an account try codes and passwords, and be asked, again; False if it is unknown."""
        none = {"wrong_codes": 0, "locked_until": None, "locks": 0}
        unlocked = update(ACCOUNTS).where(ACCOUNTS.c.key == account_key).values(none)
        prompts = delete(PROMPT_TIMES).where(PROMPT_TIMES.c.account_key == account_key)
        directory = select(ACCOUNTS.c.directory).where(ACCOUNTS.c.key == account_key).scalar_subquery()
        tries = update(TRIES).where(TRIES.c.directory == directory, TRIES.c.who == account_key)
        nothing = {"failures": 0, "since": 0.0, "refused": None, "refused_at": None}
        return await self._change(unlocked, change, prompts, tries.values(nothing)) > 0

    async def set_method(self, owner: str | Identity, method: str | None, change: AccountChanged) -> bool:
        """How the owner of an account, by its key or as the directory has it, wants to be asked; False if unknown."""

        def work(call: Call) -> bool:
            key = owner
            if not isinstance(owner, str):
                self._renewed(call, owner, self._clock())
                key = owner.key
            found = call.write(update(ACCOUNTS).where(ACCOUNTS.c.key == key).values(method=method)) > 0
            if found:
                call.write(statements.FORGET_REUSE, account_key=key)
                call.later(statements.ADD_CHANGE, **fields(change))
            return found

        return await self._writer.write(work)

    async def resynchronise(
        self, factor_id: str, match: Callable[[Credential], Match | None], change: AccountChanged
    ) -> bool:
        """Burn what `match` finds and take over its drift; False if there is no such factor, match or unused code."""

        def work(call: Call) -> bool:
            rows = call.read(held_factors(FACTORS.c.id == factor_id))
            for one in held(rows):
                found = match(self._opened(one))
                if found and self._burn(call, one, found, self._clock()):
                    call.later(statements.ADD_CHANGE, **fields(change))
                    return True
            return False

        return await self._writer.write(work)

    async def reseal(self) -> str:
        """Seal every secret anew; gives the oldest key used, for `Seal.drop_before`.

        It is one transaction, so that what other processes write meanwhile comes before or after it: before, it is
        sealed anew here; after, they see the new key file.
        """

        def work(call: Call) -> str:
            canary = self._seal.seal(Secret(_CANARY.encode()), _CANARY)
            call.write(update(META).where(META.c.name == _CANARY).values(value=canary))
            call.write(delete(SENT_CODES))  # minutes old at most: another one can be sent
            for one in held(call.read(held_factors())):
                secret = self._seal.open(one.sealed, one.row)
                call.later(statements.RESEAL, factor_id=one.id, blob=self._seal.seal(secret, one.row))
            return self._seal.key_of(canary)

        return await self._writer.write(work)

    # -- what processes keep of the directory

    async def clear_caches(self, change: AccountChanged) -> int:
        """Have every process forget what it keeps of directories; gives how often that was done."""

        def work(call: Call) -> int:
            count = _count(call.read(statements.ABOUT, name=_CLEARINGS)) + 1
            call.write(statements.SET_ABOUT, name=_CLEARINGS, value=str(count).encode())
            call.later(statements.ADD_CHANGE, **fields(change))
            return count

        return await self._writer.write(work)

    async def caches_cleared(self) -> int:
        """How often the caches were cleared: what was kept at another number counts no more."""
        try:
            return _count(await self._database.read(statements.ABOUT, name=_CLEARINGS))
        except BROKEN as error:
            raise down(error) from error

    # -- below the verbs

    async def _change(self, statement: Any, change: AccountChanged, *more: Any) -> int:
        """Run `statement`, and, if it found something to do, `more`, and record `change`; gives how much."""

        def work(call: Call) -> int:
            count = call.write(statement)
            if count:
                for another in more:
                    call.write(another)
                call.write(statements.FORGET_REUSE, account_key=change.account)
                call.later(statements.ADD_CHANGE, **fields(change))
            return count

        return await self._writer.write(work)

    def _normalised(self, owner: Pending) -> Pending:
        value = self._normalise_dn(owner.value) if owner.attribute == "dn" else owner.value.casefold()
        return replace(owner, value=value)

    def _forms(self, identity: Identity) -> set[Pending]:
        """Every owner that `identity` would be; what no database can hold unaltered is nobody's name."""
        owners = [Pending(identity.directory, "account", name) for name in identity.accounts]
        if identity.upn:
            owners.append(Pending(identity.directory, "userPrincipalName", identity.upn))
        forms = [self._normalised(owner) for owner in owners]
        # a DN that can't be read can't be compared: nothing is claimed by it
        with contextlib.suppress(ValueError):
            forms.append(self._normalised(Pending(identity.directory, "dn", identity.dn)))
        return {form for form in forms if form.value and plain(form.value) == form.value}

    def _factors_of(self, identity: Identity, now: float) -> Select[Any]:
        """The factors of `identity`, and those that wait for one of its names, of whatever attribute."""
        waiting = select(PENDING.c.factor_id).where(
            PENDING.c.directory == identity.directory,
            PENDING.c.value.in_(sorted({form.value for form in self._forms(identity)})),
            PENDING.c.expires > now,
        )
        return held_factors(or_(FACTORS.c.account_key == identity.key, FACTORS.c.id.in_(waiting)))

    def _own(self, rows: Iterable[Sequence[Any]], identity: Identity) -> list[Held]:
        """The factors among `rows` that are, or may be claimed as, the identity's."""
        factors = held(rows)
        # what forms were kept only finds them: who may claim is what the directory says today
        forms = self._forms(identity) if any(one.pending for one in factors) else ()
        return [one for one in factors if one.account == identity.key or (one.pending and one.pending in forms)]

    def _opened(self, held: Held) -> Credential:
        return Credential(
            held.id,
            held.kind,
            self._seal.open(held.sealed, held.row),
            held.parameters,
            held.position,
            held.drift,
            frozenset(held.unused),
            frozenset(held.used),
        )

    def _renewed(self, call: Call, identity: Identity, now: float) -> Known:
        """What is kept of the account, when it is as the directory has it today; locked against other processes."""
        rows = call.read(statements.ACCOUNT, account_key=identity.key)
        self._renew(call, rows, identity, now)
        return known_of(rows)

    def _renew(self, call: Call, rows: Sequence[Sequence[Any]], identity: Identity, now: float) -> bool:
        """Bring the account, of which `rows` was just read, up to date; False if it is."""
        if _is_today(rows, identity):
            return False
        today = {
            "dn": plain(identity.dn),
            "upn": None if identity.upn is None else plain(identity.upn),
            "accounts": [plain(name) for name in identity.accounts],
        }
        if rows:
            call.write(update(ACCOUNTS).where(ACCOUNTS.c.key == identity.key).values(today))
        else:
            call.write(
                insert(ACCOUNTS).values(
                    key=identity.key, directory=identity.directory, wrong_codes=0, first_seen=now, **today
                )
            )
        call.write(delete(FORMS).where(FORMS.c.account_key == identity.key))
        forms = [{"account_key": identity.key, **_columns(form)} for form in self._forms(identity)]
        call.write_all(insert(FORMS), forms)
        return True

    @staticmethod
    def _burn(call: Call, one: Held, found: Match, now: float) -> bool:
        """Use up what `found` names; False if somebody has before. The rows counted decide, nothing read earlier."""
        owner = None if one.pending else one.account
        if found.static:
            return call.write(statements.USE_FACTOR, factor_id=one.id, owner=owner, now=now) == 1
        if found.token is not None:
            if call.write(statements.USE_CODE, factor_id=one.id, token=found.token, now=now) != 1:
                return False
        elif found.position is None:
            raise FactorDown(f"the factor {one.kind} named nothing to burn")
        if found.position is None:
            return call.write(statements.USE_FACTOR, factor_id=one.id, owner=owner, now=now) == 1
        step = call.write(
            statements.USE_STEP, factor_id=one.id, owner=owner, step=found.position, by=found.drift, now=now
        )
        return step == 1

    def _claim(self, call: Call, pending: list[Held], key: str) -> None:
        """Make pending factors the account's own: the one just used, and what was enrolled for the same owner."""
        for one in pending:
            sealed = self._seal.seal(self._seal.open(one.sealed, one.row), row_name(one.id, one.kind, key))
            mine = update(FACTORS).where(FACTORS.c.id == one.id, FACTORS.c.account_key.is_(None))
            call.write(mine.values(account_key=key, sealed=sealed))
            call.write(delete(PENDING).where(PENDING.c.factor_id == one.id))

    @staticmethod
    def _set_failures(call: Call, key: str, failures: Failures) -> None:
        call.write(
            statements.SET_FAILURES,
            account_key=key,
            count=failures.wrong_codes,
            until=failures.locked_until,
            locks=failures.locks,
        )

    @staticmethod
    def _record(
        call: Call,
        identity: Identity,
        success: LoginEnded,
        names: Iterable[str],
        now: float,
        *,
        factor: str | None,
        codeless: bool,
    ) -> None:
        row = fields(success)
        row["account"], row["dn"], row["factor"] = identity.key, row["dn"] or plain(identity.dn), factor
        call.later(statements.ADD_LOGIN, **row)
        call.later(statements.SET_LAST_LOGIN, account_key=identity.key, now=now)
        for name in {plain(name) for name in names}:
            call.later(
                statements.SET_NAME,
                directory=identity.directory,
                name=name,
                account_key=identity.key,
                codeless=codeless,
                seen=now,
                lately=now - statements.SEEN,
            )


@lru_cache(1024)
def _today(identity: Identity) -> tuple[str, str | None, str]:
    """`identity` as its account's row has it, when that is up to date."""
    upn = None if identity.upn is None else plain(identity.upn)
    return plain(identity.dn), upn, json.dumps([plain(name) for name in identity.accounts])


def _is_today(rows: Sequence[Sequence[Any]], identity: Identity) -> bool:
    """Whether the account is known, and as the directory has it today."""
    return bool(rows) and tuple(rows[0][:3]) == _today(identity)


def _split(rows: Sequence[Sequence[Any]]) -> tuple[Known, bool, list[Sequence[Any]]]:
    """Of the rows of ACCOUNT_AND_OWN the account, whether a factor waits, and the rows of the account's factors."""
    if not rows:
        return Known(), False, []
    waits, first = rows[0][7:9]
    own = [] if first is None else [row[8:] for row in rows]
    return known_of(rows), bool(waits), own


def _count(rows: Sequence[Sequence[Any]]) -> int:
    return int(rows[0][0]) if rows else 0


def _columns(form: Pending) -> dict[str, str]:
    return {"directory": form.directory, "attribute": form.attribute, "value": form.value}


def _database(url: str, password: Callable[[], Secret | None] | None) -> Database:
    """The database of `url`. ConfigError: there is no such, or it can't be made."""
    if not is_postgresql(url):
        address = sqlite.address(url)
        sqlite.create_file(address)
        return sqlite.Sqlite(address)
    from ldapmfa.store.postgresql import Postgresql  # noqa: PLC0415 - its driver is of no use with SQLite

    try:
        server = DatabaseUrl.parse(url)
    except ValueError as wrong:
        raise ConfigError([f"store.url: {wrong}"]) from None
    return Postgresql(server, password or (lambda: server.password))


def _check_canary(connection: Connection, seal: Seal) -> None:
    """Notice a key file that is not this database's before anybody's login breaks over it."""
    canary = connection.execute(select(META.c.value).where(META.c.name == _CANARY)).scalar_one_or_none()
    if canary is None:
        value = seal.seal(Secret(_CANARY.encode()), _CANARY)
        connection.execute(insert(META).values(name=_CANARY, value=value))
        return
    try:
        seal.open(canary, _CANARY)
    except SealBroken as error:
        raise ConfigError([f"store.key_file: is not the key file of this database: {error}"]) from None
