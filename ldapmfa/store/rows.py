"""What the store gives out, and the queries whose rows become it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache
from operator import attrgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal

from sqlalchemy import Text, cast, func, select

from ldapmfa.audit import AccountChanged, LoginEnded
from ldapmfa.core.throttle import Failures
from ldapmfa.store.schema import ACCOUNTS, BYPASSES, FACTORS, PENDING, RECOVERY_CODES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy import ColumnElement, Row, Select

#: Characters of a text from outside that are kept; a typed name may be as long as a message.
TEXT_LIMIT: Final = 512


@dataclass(frozen=True, slots=True)
class Status:
    """Of which kinds an account has a factor, or one that waits for it, and whether wrong codes have locked it.

    `method` is how its owner wants to be asked, `bypass` whether a login is granted to it; `first_seen` in seconds
    since the epoch, None for one that never was.
    """

    kinds: frozenset[str]
    locked: bool
    method: str | None = None
    blocked: bool = False
    bypass: bool = False
    first_seen: float | None = None
    phone: str | None = None

    @property
    def enrolled(self) -> bool:
        """Whether it has any factor, or one that waits for it."""
        return bool(self.kinds)


@dataclass(frozen=True, slots=True)
class Known:
    """What is kept of an account that every login looks at: its failures, and until when it is blocked."""

    failures: Failures = field(default_factory=Failures)
    blocked_until: float | None = None

    def blocked(self, now: float) -> bool:
        """Whether nobody may log in as it, whatever is shown."""
        return self.blocked_until is not None and now < self.blocked_until


def known_of(rows: Sequence[Sequence[Any]]) -> Known:
    """What the rows of `statements.ACCOUNT`, or of ACCOUNT_AND_OWN, say of the account itself."""
    return Known(Failures(*rows[0][3:6]), rows[0][6]) if rows else Known()


@dataclass(frozen=True, slots=True)
class Pending:
    """An owner nobody has seen yet: the account of `directory` whose `attribute` has this very `value`.

    `account` stands for sAMAccountName or uid. The store normalises the value.
    """

    directory: str
    attribute: Literal["dn", "userPrincipalName", "account"]
    value: str

    @property
    def key(self) -> str:
        """What stands for an account's key until there is one."""
        return f"pending/{self.directory}/{self.attribute}/{self.value}"


@dataclass(frozen=True, slots=True)
class FactorRow:
    """An enrolled factor as the operator sees it; `account` is None while pending, `codes_left` counts printed ones."""

    id: str
    kind: str
    label: str
    account: str | None
    created: float
    last_used: float | None
    parameters: Mapping[str, Any]
    codes_left: int


@dataclass(frozen=True, slots=True)
class PendingRow:
    """An enrolment that waits for `owner` until `expires`."""

    owner: Pending
    expires: float
    factor: FactorRow


@dataclass(frozen=True, slots=True)
class Block:
    """That nobody may log in as an account `until` then, infinity for an end that somebody must make; who said so.

    Of one that `disabled` the account only an administrator makes the end.
    """

    until: float
    reason: str
    by: str
    disabled: bool = False


@dataclass(frozen=True, slots=True)
class Bypass:
    """That an account may log in without a second factor, `uses` times until it `expires`; who said so, and why."""

    uses: int
    expires: float
    reason: str
    actor: str


@dataclass(frozen=True, slots=True)
class RememberedRow:
    """A success that counts for `uses` more binds until it `expires`, from `client` at `application`.

    `reason` is what those will be recorded as, `factor` what was shown when it was `granted`.
    """

    account: str
    dn: str
    application: str
    client: str
    reason: str
    factor: str | None
    uses: int
    granted: float
    expires: float


@dataclass(frozen=True, slots=True)
class AccountRow:
    """An account as the operator sees it; `locked_until` is None unless it is locked now, `factors` are kinds.

    `method` is how its owner wants to be asked; `blocked` and `bypass` are None unless they count now.
    """

    key: str
    directory: str
    dn: str
    upn: str | None
    accounts: tuple[str, ...]
    factors: tuple[str, ...]
    wrong_codes: int
    locked_until: float | None
    first_seen: float
    last_login: float | None
    method: str | None = None
    phone: str | None = None
    blocked: Block | None = None
    bypass: Bypass | None = None


@dataclass(slots=True)
class Held:
    """A factor's row with its codes, still sealed; `pending` is the owner it waits for."""

    id: str
    kind: str
    sealed: bytes
    parameters: Mapping[str, Any]
    position: int
    drift: int
    created: float
    account: str | None
    pending: Pending | None
    unused: set[str] = field(default_factory=set)
    used: set[str] = field(default_factory=set)

    @property
    def row(self) -> str:
        """The name of the row that the secret is bound to."""
        owner = self.account if self.account is not None else self.pending.key if self.pending else ""
        return row_name(self.id, self.kind, owner)


def row_name(factor_id: str, kind: str, owner: str) -> str:
    """What a secret is bound to: its row, its kind and whose it is."""
    return f"factor/{factor_id}/{kind}/{owner}"


def plain(text: str) -> str:
    """`text` as every database takes it: without NUL and lone surrogates, and not endless."""
    if text.isascii() and len(text) <= TEXT_LIMIT and "\0" not in text:
        return text
    return text[:TEXT_LIMIT].replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")


_FIELDS: Final = {kind: (kind.__slots__, attrgetter(*kind.__slots__)) for kind in (LoginEnded, AccountChanged)}


def fields(event: LoginEnded | AccountChanged) -> dict[str, Any]:
    """`event` as a row."""
    names, values = _FIELDS[type(event)]
    return {
        name: plain(value) if isinstance(value, str) else value
        for name, value in zip(names, values(event), strict=True)
    }


#: What `held` needs of a factor, one row for each code; then come directory, attribute and value it is pending for.
HELD: Final = (
    FACTORS.c.id,
    FACTORS.c.kind,
    FACTORS.c.sealed,
    cast(FACTORS.c.parameters, Text).label("parameters"),
    FACTORS.c.position,
    FACTORS.c.drift,
    FACTORS.c.created,
    FACTORS.c.account_key,
    RECOVERY_CODES.c.hash,
    RECOVERY_CODES.c.used_at,
)


def held_factors(*conditions: ColumnElement[bool]) -> Select[Any]:
    """Factors for `held`."""
    return (
        select(*HELD, PENDING.c.directory, PENDING.c.attribute, PENDING.c.value)
        .select_from(FACTORS.outerjoin(PENDING).outerjoin(RECOVERY_CODES, RECOVERY_CODES.c.factor_id == FACTORS.c.id))
        .where(*conditions)
    )


@lru_cache(256)
def _parameters(text: str) -> Mapping[str, Any]:
    return MappingProxyType(json.loads(text))


def held(rows: Iterable[Sequence[Any]]) -> list[Held]:
    """Rows of `HELD` as factors with their codes: an account's own first, the oldest first."""
    factors: dict[str, Held] = {}
    for factor_id, kind, sealed, parameters, position, drift, created, account, code, used_at, *waits in rows:
        one = factors.get(factor_id)
        if one is None:
            pending = None if waits[0] is None else Pending(*waits)
            one = factors[factor_id] = Held(
                factor_id, kind, sealed, _parameters(parameters), position, drift, created, account, pending
            )
        if code is not None:
            (one.unused if used_at is None else one.used).add(code)
    return sorted(factors.values(), key=lambda one: (one.account is None, one.created, one.id))


def listed_factors(*conditions: ColumnElement[bool]) -> Select[Any]:
    """Factors for `factor_row`, without their secrets, oldest first."""
    left = (
        select(func.count())
        .where(RECOVERY_CODES.c.factor_id == FACTORS.c.id, RECOVERY_CODES.c.used_at.is_(None))
        .scalar_subquery()
    )
    shown = (column for column in FACTORS.c if column is not FACTORS.c.sealed)
    return (
        select(*shown, PENDING, left.label("codes_left"))
        .select_from(FACTORS.outerjoin(PENDING))
        .where(*conditions)
        .order_by(FACTORS.c.created, FACTORS.c.id)
    )


def factor_row(row: Row[Any]) -> FactorRow:
    """A row of `listed_factors` as the operator sees it."""
    return FactorRow(
        id=row.id,
        kind=row.kind,
        label=row.label,
        account=row.account_key,
        created=row.created,
        last_used=row.last_used,
        parameters=row.parameters,
        codes_left=row.codes_left,
    )


_BYPASS: Final = (BYPASSES.c.uses, BYPASSES.c.expires, BYPASSES.c.reason, BYPASSES.c.actor)


def listed_accounts(*conditions: ColumnElement[bool]) -> Select[Any]:
    """Accounts for `account_rows`: one row for each factor."""
    return (
        select(ACCOUNTS, FACTORS.c.kind, *(column.label(f"bypass_{column.name}") for column in _BYPASS))
        .select_from(ACCOUNTS.outerjoin(FACTORS).outerjoin(BYPASSES, BYPASSES.c.account_key == ACCOUNTS.c.key))
        .where(*conditions)
        .order_by(ACCOUNTS.c.key, FACTORS.c.created, FACTORS.c.id)
    )


def account_rows(rows: Iterable[Row[Any]], now: float) -> list[AccountRow]:
    """Rows of `listed_accounts`, one for each factor, as accounts with their factors."""
    kinds: dict[str, list[str]] = {}
    accounts: dict[str, Row[Any]] = {}
    for row in rows:
        accounts[row.key] = row
        kinds.setdefault(row.key, []).extend([row.kind] if row.kind is not None else [])
    return [
        AccountRow(
            key=key,
            directory=row.directory,
            dn=row.dn,
            upn=row.upn,
            accounts=tuple(row.accounts),
            factors=tuple(kinds[key]),
            wrong_codes=row.wrong_codes,
            locked_until=row.locked_until if row.locked_until is not None and row.locked_until > now else None,
            first_seen=row.first_seen,
            last_login=row.last_login,
            method=row.method,
            phone=row.phone,
            blocked=_block(row, now),
            bypass=_bypass(row, now),
        )
        for key, row in accounts.items()
    ]


def _block(row: Row[Any], now: float) -> Block | None:
    if row.blocked_until is None or row.blocked_until <= now:
        return None
    return Block(row.blocked_until, row.blocked_reason or "", row.blocked_by or "", row.disabled)


def _bypass(row: Row[Any], now: float) -> Bypass | None:
    if not row.bypass_uses or row.bypass_expires <= now:
        return None
    return Bypass(row.bypass_uses, row.bypass_expires, row.bypass_reason, row.bypass_actor)
