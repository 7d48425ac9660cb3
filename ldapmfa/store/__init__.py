"""State in the domain's verbs: who is enrolled, which codes are used up, who is locked, what happened.

Promised here: a code is burnt in one atomic call that says whether you were first, together with the record of the
success, durable before it is reported; wrong codes count per account, whichever process, connection or name form
they come by; secrets lie sealed and bound to their row. Whatever fails is StoreDown, and then nothing was accepted.

Not in here: whether a code is right (`ldapmfa.factors`), who may change what (`ldapmfa.accounts`), the tables
(`schema`), connections (`database`), how calls share a transaction (`writer`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import bindparam, delete, exists, false, insert, or_, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite

from ldapmfa.audit import AccountChanged, Event, LoginEnded
from ldapmfa.core.login import CodeAnswer
from ldapmfa.core.policy import Recall
from ldapmfa.core.secret import Secret
from ldapmfa.core.throttle import Failures, Limit
from ldapmfa.errors import ConfigError, FactorDown
from ldapmfa.factors import Credential, Match, NewCredential
from ldapmfa.store import database
from ldapmfa.store.rows import (
    AccountRow,
    FactorRow,
    Held,
    Pending,
    PendingRow,
    Status,
    account_rows,
    factor_row,
    fields,
    held,
    held_factors,
    listed_accounts,
    listed_factors,
    plain,
    row_name,
)
from ldapmfa.store.schema import ACCOUNTS, CHANGES, FACTORS, FORMS, LOGINS, META, NAMES, PENDING, RECOVERY_CODES
from ldapmfa.store.seal import SealBroken
from ldapmfa.store.writer import BROKEN, Call, Writer, down

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sqlalchemy import Executable, Row, Select
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from ldapmfa.core.identity import Identity
    from ldapmfa.store.seal import Seal

__all__ = ["AccountRow", "CodeAnswer", "FactorRow", "Pending", "PendingRow", "Recall", "Status", "Store"]

#: Seconds a pending enrolment waits for its account.
PENDING_SECONDS: Final = 7 * 86400.0
#: Alembic keeps the migration it runs in module globals: one at a time.
_OPENING: Final = asyncio.Lock()
_CANARY: Final = "meta/canary"

_ADD_LOGIN: Final = insert(LOGINS)
_ADD_CHANGE: Final = insert(CHANGES)
_SET_LAST_LOGIN: Final = (
    update(ACCOUNTS).where(ACCOUNTS.c.key == bindparam("account_key")).values(last_login=bindparam("seen_at"))
)
_UNLOCK: Final = update(ACCOUNTS).values(wrong_codes=0, locked_until=None)
_RESEAL: Final = update(FACTORS).where(FACTORS.c.id == bindparam("factor_id")).values(sealed=bindparam("blob"))


class Store:
    """The state of one installation; made by `open`. Every verb raises StoreDown if the database fails."""

    def __init__(
        self,
        seal: Seal,
        writing: AsyncEngine,
        reading: AsyncEngine,
        *,
        clock: Callable[[], float],
        entropy: Callable[[int], bytes],
        normalise_dn: Callable[[str], str],
        limit: Limit,
        backlog: int,
    ) -> None:
        self._seal = seal
        self._clock = clock
        self._entropy = entropy
        self._normalise_dn = normalise_dn
        self._limit = limit
        self._engines = (writing, reading)
        self._reading = reading
        self._writer = Writer(writing, backlog=backlog)
        upsert = (sqlite.insert if writing.dialect.name == "sqlite" else postgresql.insert)(NAMES)
        self._set_name: Final = upsert.on_conflict_do_update(
            index_elements=[NAMES.c.directory, NAMES.c.name],
            set_={column: upsert.excluded[column] for column in ("account_key", "codeless", "seen")},
        )

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
        backlog: int = 1000,
    ) -> Store:
        """Open the database, bringing its schema up to date, and check that the key file is the one it needs.

        `clock` gives seconds since the epoch; `wrong_codes` of an account in a row lock it for `lock_seconds`;
        `backlog` notes may wait. ConfigError: the URL, the schema (if not to `migrate`) or the key file is wrong.
        """
        address = database.address(url)
        database.create_file(address)
        writing, reading = database.connect(address, writes=True), database.connect(address, writes=False)
        try:
            async with _OPENING, writing.begin() as connection:
                await connection.run_sync(lambda sync: database.upgrade(sync, migrate=migrate))
                await _check_canary(connection, seal)
        except BaseException as error:
            await writing.dispose()
            await reading.dispose()
            if isinstance(error, BROKEN):
                raise down(error) from error
            raise
        return cls(
            seal,
            writing,
            reading,
            clock=clock,
            entropy=entropy,
            normalise_dn=normalise_dn,
            limit=Limit(wrong_codes, lock_seconds),
            backlog=backlog,
        )

    async def close(self) -> None:
        """Finish what is queued, notes included, and let go of the database."""
        await self._writer.close()
        for engine in self._engines:
            await engine.dispose()

    # -- logins

    async def recall(self, directory: str, name: str) -> Recall:
        """What is known of a typed name, normalised; a hint, for the name proves nothing."""
        name, now = plain(name), self._clock()
        # a normalised DN may come marked as one, as `ldapmfa.wire.dn.normalise_name` does
        values = [name, name.removeprefix("dn:")]
        typed = select(NAMES.c.account_key).where(NAMES.c.directory == directory, NAMES.c.name == name)
        keys = (
            typed.union(select(FORMS.c.account_key).where(FORMS.c.directory == directory, FORMS.c.value.in_(values)))
            .cte("keys")
        )
        forms = select(FORMS.c.attribute, FORMS.c.value).where(FORMS.c.account_key.in_(select(keys.c.account_key)))
        waiting = select(PENDING.c.factor_id).where(
            PENDING.c.directory == directory,
            PENDING.c.expires > now,
            or_(PENDING.c.value.in_(values), tuple_(PENDING.c.attribute, PENDING.c.value).in_(forms)),
        )
        enrolled = select(FACTORS.c.id).where(FACTORS.c.account_key.in_(select(keys.c.account_key)))
        (row,) = await self._read(
            select(
                exists(typed.where(NAMES.c.codeless)).label("codeless"),
                exists(enrolled).label("enrolled"),
                exists(waiting).label("pending"),
            )
        )
        return Recall(codeless=bool(row.codeless), enrolled=bool(row.enrolled), pending=bool(row.pending))

    async def status(self, identity: Identity) -> Status:
        """Whether `identity` has or could claim a factor, and whether it is locked."""
        now = self._clock()
        rows = await self._read(self._factors_of(identity, now))
        locks = await self._read(select(ACCOUNTS.c.locked_until).where(ACCOUNTS.c.key == identity.key))
        return Status(
            enrolled=bool(self._own(rows, identity)),
            locked=any(until is not None and until > now for (until,) in locks),
        )

    async def verify(
        self,
        identity: Identity,
        match: Callable[[Credential], Match | None],
        success: LoginEnded,
        names: Sequence[str],
    ) -> CodeAnswer:
        """Burn the code that `match` recognises, if this is its first use, and record `success`, in one transaction.

        `match` is asked about the account's own factors, then about those pending for it; nothing is asked of a
        locked account. `names` are the typed names, normalised, by which the account may be recalled.
        SealBroken: a secret does not open.
        """

        async def work(call: Call) -> CodeAnswer:
            now = self._clock()
            account = await self._account(call, identity, now)
            if Failures(locked_until=account.locked_until).locked(now):
                return CodeAnswer("locked")
            rows = await call.read(self._factors_of(identity, now))
            own = self._own(rows, identity)
            if not own:
                return CodeAnswer("not-enrolled")
            found = [(one, hit) for one in own if (hit := match(self._opened(one))) is not None]
            if not found:
                await self._count_wrong(call, account, now)
                return CodeAnswer("wrong")
            for one, hit in found:
                if await self._burn(call, one, hit, now):
                    break
            else:
                return CodeAnswer("replayed")
            if one.pending is not None:
                await self._claim(call, [other for other in own if other.pending == one.pending], identity.key)
            if account.wrong_codes:
                await call.write(_UNLOCK.where(ACCOUNTS.c.key == identity.key))
            self._record(call, identity, replace(success, factor=one.kind), names, now)
            return CodeAnswer("accepted", one.kind)

        return await self._writer.write(work)

    async def admit(self, identity: Identity, success: LoginEnded, names: Sequence[str]) -> None:
        """Record a success that took no code."""

        async def work(call: Call) -> None:
            now = self._clock()
            await self._account(call, identity, now)
            self._record(call, identity, success, names, now)

        await self._writer.write(work)

    def note(self, event: Event) -> None:
        """Record `event` soon, or drop it where too many wait; refused connections are for the log alone."""
        if isinstance(event, LoginEnded):
            self._writer.note(_ADD_LOGIN, **fields(event))
        elif isinstance(event, AccountChanged):
            self._writer.note(_ADD_CHANGE, **fields(event))

    @property
    def dropped(self) -> int:
        """How many noted events could not be kept."""
        return self._writer.dropped

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

        async def work(call: Call) -> str:
            now = self._clock()
            expired = select(PENDING.c.factor_id).where(PENDING.c.expires <= now)
            await call.write(delete(FACTORS).where(FACTORS.c.id.in_(expired)))
            pending = self._normalised(owner) if isinstance(owner, Pending) else None
            if not isinstance(owner, Pending):
                await self._account(call, owner, now)
            key = pending.key if pending else owner.key
            await call.write(
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
                await call.write(insert(RECOVERY_CODES), codes)
            if pending:
                await call.write(insert(PENDING).values(factor_id=factor_id, expires=now + lifetime, **asdict(pending)))
            call.later(_ADD_CHANGE, **fields(change))
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
        """Let an account try codes again; False if it is unknown."""
        return await self._change(_UNLOCK.where(ACCOUNTS.c.key == account_key), change) > 0

    async def resynchronise(
        self, factor_id: str, match: Callable[[Credential], Match | None], change: AccountChanged
    ) -> bool:
        """Burn what `match` finds and take over its drift; False if there is no such factor, match or unused code."""

        async def work(call: Call) -> bool:
            rows = await call.read(held_factors(FACTORS.c.id == factor_id))
            for one in held(rows):
                found = match(self._opened(one))
                if found and await self._burn(call, one, found, self._clock()):
                    call.later(_ADD_CHANGE, **fields(change))
                    return True
            return False

        return await self._writer.write(work)

    async def reseal(self) -> str:
        """Seal every secret anew; gives the oldest key used, for `Seal.drop_before`.

        It is one transaction, so that what other processes write meanwhile comes before or after it: before, it is
        sealed anew here; after, they see the new key file.
        """

        async def work(call: Call) -> str:
            canary = self._seal.seal(Secret(_CANARY.encode()), _CANARY)
            await call.write(update(META).where(META.c.name == _CANARY).values(value=canary))
            for one in held(await call.read(held_factors())):
                secret = self._seal.open(one.sealed, one.row)
                call.later(_RESEAL, factor_id=one.id, blob=self._seal.seal(secret, one.row))
            return self._seal.key_of(canary)

        return await self._writer.write(work)

    # -- what the operator sees

    async def accounts(self) -> list[AccountRow]:
        """Every account that was ever seen or enrolled."""
        return account_rows(await self._read(listed_accounts()), self._clock())

    async def find(self, directory: str | None, name: str) -> list[AccountRow]:
        """The accounts with this key, DN, userPrincipalName, account name or typed name; in all directories if None."""
        names = {name, name.casefold()}
        with contextlib.suppress(ValueError):
            normalised = self._normalise_dn(name)
            names |= {normalised, f"dn:{normalised}"}
        values = sorted(plain(value) for value in names)
        keys = select(FORMS.c.account_key).where(FORMS.c.value.in_(values))
        typed = select(NAMES.c.account_key).where(NAMES.c.name.in_(values))
        found = [or_(ACCOUNTS.c.key == plain(name), ACCOUNTS.c.key.in_(keys.union(typed)))]
        if directory is not None:
            found.append(ACCOUNTS.c.directory == directory)
        return account_rows(await self._read(listed_accounts(*found)), self._clock())

    async def pendings(self) -> list[PendingRow]:
        """Enrolments that wait for their account."""
        rows = await self._read(listed_factors(PENDING.c.expires > self._clock()))
        return [
            PendingRow(Pending(row.directory, row.attribute, row.value), row.expires, factor_row(row)) for row in rows
        ]

    async def factors(self, account_key: str | None = None) -> list[FactorRow]:
        """The factors of one account, or of all, those pending included."""
        conditions = () if account_key is None else (FACTORS.c.account_key == account_key,)
        return [factor_row(row) for row in await self._read(listed_factors(*conditions))]

    async def events(
        self, *, reference: str | None = None, account: str | None = None, limit: int = 100
    ) -> list[LoginEnded | AccountChanged]:
        """What is recorded, newest first: of all, of one refusal's reference code, or of one account."""
        logins = select(*(column for column in LOGINS.c if column is not LOGINS.c.id))
        changes = select(*(column for column in CHANGES.c if column is not CHANGES.c.id))
        if reference is not None:
            logins, changes = logins.where(LOGINS.c.reference == reference), changes.where(false())
        if account is not None:
            logins, changes = logins.where(LOGINS.c.account == account), changes.where(CHANGES.c.account == account)
        found: list[LoginEnded | AccountChanged] = []
        for query, table, event in ((logins, LOGINS, LoginEnded), (changes, CHANGES, AccountChanged)):
            rows = await self._read(query.order_by(table.c.at.desc(), table.c.id.desc()).limit(limit))
            found += [event(**row._asdict()) for row in rows]
        return sorted(found, key=lambda event: event.at, reverse=True)[:limit]

    # -- below the verbs

    async def _read(self, query: Executable) -> Sequence[Row[Any]]:
        try:
            async with self._reading.connect() as connection:
                rows: Sequence[Row[Any]] = (await connection.execute(query)).all()
        except BROKEN as error:
            raise down(error) from error
        return rows

    async def _change(self, statement: Any, change: AccountChanged) -> int:
        """Run `statement`, and record `change` if it found something to do; gives how much."""

        async def work(call: Call) -> int:
            count = await call.write(statement)
            if count:
                call.later(_ADD_CHANGE, **fields(change))
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

    def _own(self, rows: Iterable[Row[Any]], identity: Identity) -> list[Held]:
        """The factors among the rows of `_factors_of` that are, or may be claimed as, the identity's."""
        forms = self._forms(identity)
        return [one for one in held(rows) if one.account == identity.key or (one.pending and one.pending in forms)]

    def _opened(self, held: Held) -> Credential:
        return Credential(
            id=held.id,
            kind=held.kind,
            secret=self._seal.open(held.sealed, held.row),
            parameters=held.parameters,
            position=held.position,
            drift=held.drift,
            unused=frozenset(held.unused),
            used=frozenset(held.used),
        )

    async def _account(self, call: Call, identity: Identity, now: float) -> Row[Any]:
        """The account's row, locked against other processes until the commit, and as the directory has it today."""
        query = select(ACCOUNTS).where(ACCOUNTS.c.key == identity.key).with_for_update()
        today = {
            "dn": plain(identity.dn),
            "upn": None if identity.upn is None else plain(identity.upn),
            "accounts": [plain(name) for name in identity.accounts],
        }
        account = next(iter(await call.read(query)), None)
        if account and {"dn": account.dn, "upn": account.upn, "accounts": account.accounts} == today:
            return account
        if account:
            await call.write(update(ACCOUNTS).where(ACCOUNTS.c.key == identity.key).values(today))
        else:
            await call.write(
                insert(ACCOUNTS).values(
                    key=identity.key, directory=identity.directory, wrong_codes=0, first_seen=now, **today
                )
            )
        await call.write(delete(FORMS).where(FORMS.c.account_key == identity.key))
        forms = [{"account_key": identity.key, **asdict(form)} for form in self._forms(identity)]
        if forms:
            await call.write(insert(FORMS), forms)
        return (await call.read(query))[0]

    async def _burn(self, call: Call, one: Held, found: Match, now: float) -> bool:
        """Use up what `found` names; False if somebody has before. The rows counted decide, nothing read earlier."""
        if found.token is None and found.position is None:
            raise FactorDown(f"the factor {one.kind} named nothing to burn")
        if found.token is not None:
            code = update(RECOVERY_CODES).where(
                RECOVERY_CODES.c.factor_id == one.id,
                RECOVERY_CODES.c.hash == found.token,
                RECOVERY_CODES.c.used_at.is_(None),
            )
            if await call.write(code.values(used_at=now)) != 1:
                return False
        owner = FACTORS.c.account_key
        step = update(FACTORS).where(FACTORS.c.id == one.id, owner.is_(None) if one.pending else owner == one.account)
        if found.position is not None:
            step = step.where(FACTORS.c.position < found.position)
            step = step.values(position=found.position, drift=found.drift)
        return await call.write(step.values(last_used=now)) == 1

    async def _claim(self, call: Call, pending: list[Held], key: str) -> None:
        """Make pending factors the account's own: the one just used, and what was enrolled for the same owner."""
        for one in pending:
            sealed = self._seal.seal(self._seal.open(one.sealed, one.row), row_name(one.id, one.kind, key))
            mine = update(FACTORS).where(FACTORS.c.id == one.id, FACTORS.c.account_key.is_(None))
            await call.write(mine.values(account_key=key, sealed=sealed))
            await call.write(delete(PENDING).where(PENDING.c.factor_id == one.id))

    async def _count_wrong(self, call: Call, account: Row[Any], now: float) -> None:
        after = Failures(account.wrong_codes).after_wrong_code(now, self._limit)
        counted = update(ACCOUNTS).where(ACCOUNTS.c.key == account.key)
        await call.write(counted.values(wrong_codes=after.wrong_codes, locked_until=after.locked_until))

    def _record(self, call: Call, identity: Identity, success: LoginEnded, names: Iterable[str], now: float) -> None:
        success = replace(success, account=identity.key, dn=success.dn or identity.dn)
        call.later(_ADD_LOGIN, **fields(success))
        call.later(_SET_LAST_LOGIN, account_key=identity.key, seen_at=now)
        for name in {plain(name) for name in names}:
            call.later(
                self._set_name,
                directory=identity.directory,
                name=name,
                account_key=identity.key,
                codeless=success.factor is None,
                seen=now,
            )


async def _check_canary(connection: AsyncConnection, seal: Seal) -> None:
    """Notice a key file that is not this database's before anybody's login breaks over it."""
    canary = (await connection.execute(select(META.c.value).where(META.c.name == _CANARY))).scalar_one_or_none()
    if canary is None:
        value = seal.seal(Secret(_CANARY.encode()), _CANARY)
        await connection.execute(insert(META).values(name=_CANARY, value=value))
        return
    try:
        seal.open(canary, _CANARY)
    except SealBroken as error:
        raise ConfigError([f"store.key_file: is not the key file of this database: {error}"]) from None
