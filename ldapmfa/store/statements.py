"""What every login asks of the database, compiled once for the driver.

Not in here: what operators ask (`listings`), and what is written so rarely that Core may compile it each time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import (
    Text,
    and_,
    bindparam,
    case,
    cast,
    delete,
    exists,
    false,
    func,
    insert,
    literal_column,
    not_,
    null,
    or_,
    select,
    true,
    tuple_,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import insert as upsert  # whose ON CONFLICT is SQLite's too

from ldapmfa.store.database import Statement
from ldapmfa.store.rows import HELD
from ldapmfa.store.schema import (
    ACCOUNTS,
    BYPASSES,
    CHANGES,
    FACTORS,
    FORMS,
    LOGINS,
    META,
    NAMES,
    PENDING,
    PROMPT_TIMES,
    PROMPTS,
    RATES,
    RECOVERY_CODES,
    REUSE,
    SENT_CODES,
    TRIES,
)

if TYPE_CHECKING:
    from sqlalchemy import BindParameter, ColumnElement, FromClause, Insert, Table


def adding(table: Table) -> Insert:
    """Add a row of everything but a number that counts itself."""
    columns = [column.name for column in table.c if column.name != "id" or table is FACTORS]
    return insert(table).values({name: bindparam(name) for name in columns}).inline()


def _recall() -> Statement:
    """A row for all that a name is known by: whether its last success took no code, or one; a factor; one that waits.

    That is by what was typed before, by an account's forms, and by who is pending. No part reads more rows than there
    are of that name, whoever else is enrolled.
    """
    directory: BindParameter[Any] = bindparam("directory")
    value: BindParameter[Any] = bindparam("value")
    now: BindParameter[Any] = bindparam("now")

    def known(
        by: FromClause, codeless: ColumnElement[bool], coded: ColumnElement[bool], *conditions: ColumnElement[bool]
    ) -> Any:
        form, waits = FORMS.alias(), PENDING.alias()
        waiting = and_(
            # by the form's directory and not by the one asked for, or SQLite would go through all who wait there
            waits.c.directory == form.c.directory,
            waits.c.attribute == form.c.attribute,
            waits.c.value == form.c.value,
            waits.c.expires > now,
        )
        return select(
            codeless,
            coded,
            exists().where(FACTORS.c.account_key == by.c.account_key),
            exists().where(form.c.account_key == by.c.account_key, waiting),
        ).where(*conditions)

    asked = FORMS.alias()
    pending = (PENDING.c.directory == directory, PENDING.c.value == value, PENDING.c.expires > now)
    return Statement(
        union_all(
            known(
                NAMES,
                NAMES.c.codeless,
                not_(NAMES.c.codeless),
                NAMES.c.directory == directory,
                NAMES.c.name == bindparam("name"),
            ),
            known(asked, false(), false(), asked.c.directory == directory, asked.c.value == value),
            select(false(), false(), false(), true()).select_from(PENDING).where(*pending),
        )
    )


RECALL: Final = _recall()

_ACCOUNT: Final = (
    ACCOUNTS.c.dn,
    ACCOUNTS.c.upn,
    cast(ACCOUNTS.c.accounts, Text),
    ACCOUNTS.c.wrong_codes,
    ACCOUNTS.c.locked_until,
    ACCOUNTS.c.locks,
    ACCOUNTS.c.blocked_until,
)
_WAITS: Final = and_(
    PENDING.c.directory == FORMS.c.directory, PENDING.c.value == FORMS.c.value, PENDING.c.expires > bindparam("now")
)
#: The account as it was last seen, and its failures: so until the commit, for no other transaction writes meanwhile.
ACCOUNT: Final = Statement(select(*_ACCOUNT).where(ACCOUNTS.c.key == bindparam("account_key")))
#: The same, whether a factor waits for one of its forms (of whatever attribute), and its own factors for `rows.held`.
ACCOUNT_AND_OWN: Final = Statement(
    select(
        *_ACCOUNT,
        exists().where(FORMS.c.account_key == bindparam("account_key"), _WAITS),
        *HELD,
        null(),
        null(),
        null(),
    )
    .select_from(ACCOUNTS.outerjoin(FACTORS).outerjoin(RECOVERY_CODES))
    .where(ACCOUNTS.c.key == bindparam("account_key"))
)
#: The factors that wait for one of an account's forms, for `rows.held`.
WAITING: Final = Statement(
    select(*HELD, PENDING.c.directory, PENDING.c.attribute, PENDING.c.value)
    .select_from(
        FORMS.join(PENDING, _WAITS)
        .join(FACTORS, FACTORS.c.id == PENDING.c.factor_id)
        .outerjoin(RECOVERY_CODES, RECOVERY_CODES.c.factor_id == FACTORS.c.id)
    )
    .where(FORMS.c.account_key == bindparam("account_key"))
)

_FACTOR: Final = and_(
    FACTORS.c.id == bindparam("factor_id"), FACTORS.c.account_key.is_not_distinct_from(bindparam("owner"))
)
#: Finds a row for the first who uses up this step, or a later one.
USE_STEP: Final = Statement(
    update(FACTORS)
    .where(_FACTOR, FACTORS.c.position < bindparam("step"))
    .values(position=bindparam("step"), drift=bindparam("by"), last_used=bindparam("now"))
)
#: Finds a row for the first who uses up this printed code.
USE_CODE: Final = Statement(
    update(RECOVERY_CODES)
    .where(
        RECOVERY_CODES.c.factor_id == bindparam("factor_id"),
        RECOVERY_CODES.c.hash == bindparam("token"),
        RECOVERY_CODES.c.used_at.is_(None),
    )
    .values(used_at=bindparam("now"))
)
USE_FACTOR: Final = Statement(update(FACTORS).where(_FACTOR).values(last_used=bindparam("now")))

SET_FAILURES: Final = Statement(
    update(ACCOUNTS)
    .where(ACCOUNTS.c.key == bindparam("account_key"))
    .values(wrong_codes=bindparam("count"), locked_until=bindparam("until"), locks=bindparam("locks"))
)
SET_LAST_LOGIN: Final = Statement(
    update(ACCOUNTS).where(ACCOUNTS.c.key == bindparam("account_key")).values(last_login=bindparam("now"))
)
#: Seconds by which `names.seen` may lag behind, so that most logins leave its page alone.
SEEN: Final = 3600.0
_ADD_NAME: Final = upsert(NAMES).values({column.name: bindparam(column.name) for column in NAMES.c})
SET_NAME: Final = Statement(
    _ADD_NAME.on_conflict_do_update(
        index_elements=[NAMES.c.directory, NAMES.c.name],
        set_={column: _ADD_NAME.excluded[column] for column in ("account_key", "codeless", "seen")},
        where=or_(
            NAMES.c.account_key != _ADD_NAME.excluded.account_key,
            NAMES.c.codeless != _ADD_NAME.excluded.codeless,
            NAMES.c.seen < bindparam("lately"),
        ),
    )
)
ADD_LOGIN: Final = Statement(adding(LOGINS))
ADD_CHANGE: Final = Statement(adding(CHANGES))
RESEAL: Final = Statement(
    update(FACTORS).where(FACTORS.c.id == bindparam("factor_id")).values(sealed=bindparam("blob"))
)


# -- questions to owners, codes sent, successes that count again


def _replacing(table: Table) -> Insert:
    """Add a row, or put it in the place of the one with its primary key."""
    row = upsert(table).values({column.name: bindparam(column.name) for column in table.c})
    keys = [column.name for column in table.primary_key]
    values = {column.name: row.excluded[column.name] for column in table.c if column.name not in keys}
    return row.on_conflict_do_update(index_elements=keys, set_=values)


#: What the owner is asked just now, if anything.
PROMPT: Final = Statement(
    select(PROMPTS.c.id, PROMPTS.c.reuse_key, PROMPTS.c.left).where(
        PROMPTS.c.account_key == bindparam("account_key"), PROMPTS.c.expires > bindparam("now")
    )
)
COUNT_PROMPTS: Final = Statement(
    select(func.count())
    .select_from(PROMPT_TIMES)
    .where(PROMPT_TIMES.c.account_key == bindparam("account_key"), PROMPT_TIMES.c.at > bindparam("since"))
)
FORGET_TIMES: Final = Statement(
    delete(PROMPT_TIMES).where(
        PROMPT_TIMES.c.account_key == bindparam("account_key"), PROMPT_TIMES.c.at <= bindparam("since")
    )
)
_TIME: Final[dict[str, BindParameter[Any]]] = {column.name: bindparam(column.name) for column in PROMPT_TIMES.c}
ADD_TIME: Final = Statement(insert(PROMPT_TIMES).values(_TIME))
FORGET_TIME: Final = Statement(delete(PROMPT_TIMES).where(PROMPT_TIMES.c.id == bindparam("id")))
SET_PROMPT: Final = Statement(_replacing(PROMPTS))
_MINE: Final = and_(PROMPTS.c.account_key == bindparam("account_key"), PROMPTS.c.id == bindparam("id"))
LEAVE_PROMPT: Final = Statement(update(PROMPTS).where(_MINE).values(left=true()))
END_PROMPT: Final = Statement(delete(PROMPTS).where(_MINE))

#: Seconds by which the clocks of those who share a store may differ: what was granted later than that from now was
#: granted before a clock was set back, and would count for longer than it may.
AHEAD: Final = 60.0
_AHEAD: Final[ColumnElement[Any]] = literal_column(f"{AHEAD:g}")

SET_REUSE: Final = Statement(_replacing(REUSE))
_REUSABLE: Final = and_(
    REUSE.c.key == bindparam("key"),
    REUSE.c.account_key == bindparam("account_key"),
    REUSE.c.uses > literal_column("0"),
    REUSE.c.expires > bindparam("now"),
    REUSE.c.granted - _AHEAD <= bindparam("now"),
)
REUSABLE: Final = Statement(select(REUSE.c.reason, REUSE.c.factor).where(_REUSABLE))
#: Finds a row for each of those who may use a success again.
USE_AGAIN: Final = Statement(update(REUSE).where(_REUSABLE).values(uses=REUSE.c.uses - literal_column("1")))
FORGET_REUSE: Final = Statement(delete(REUSE).where(REUSE.c.account_key == bindparam("account_key")))
FORGET_OLD_REUSE: Final = Statement(delete(REUSE).where(REUSE.c.expires <= bindparam("now")))

_FROM_THERE: Final = and_(
    SENT_CODES.c.account_key == bindparam("account_key"),
    SENT_CODES.c.application == bindparam("application"),
    SENT_CODES.c.client == bindparam("client"),
    SENT_CODES.c.expires > bindparam("now"),
)
SENT: Final = Statement(select(SENT_CODES.c.service, SENT_CODES.c.sealed).where(_FROM_THERE))
SET_SENT: Final = Statement(_replacing(SENT_CODES))
FORGET_SENT: Final = Statement(delete(SENT_CODES).where(SENT_CODES.c.account_key == bindparam("account_key")))
FORGET_OLD_SENT: Final = Statement(delete(SENT_CODES).where(SENT_CODES.c.expires <= bindparam("now")))

#: What an account's owner wants, since when it is known, its number, and whether a login is granted to it.
STANDING: Final = Statement(
    select(ACCOUNTS.c.method, ACCOUNTS.c.first_seen, ACCOUNTS.c.phone, BYPASSES.c.uses)
    .select_from(
        ACCOUNTS.outerjoin(
            BYPASSES,
            and_(
                BYPASSES.c.account_key == ACCOUNTS.c.key,
                BYPASSES.c.uses > literal_column("0"),
                BYPASSES.c.expires > bindparam("now"),
                BYPASSES.c.granted - _AHEAD <= bindparam("now"),
            ),
        )
    )
    .where(ACCOUNTS.c.key == bindparam("account_key"))
)
#: Finds a row for each of those whose login was granted.
USE_BYPASS: Final = Statement(
    update(BYPASSES)
    .where(
        BYPASSES.c.account_key == bindparam("account_key"),
        BYPASSES.c.uses > literal_column("0"),
        BYPASSES.c.expires > bindparam("now"),
        BYPASSES.c.granted - _AHEAD <= bindparam("now"),
    )
    .values(uses=BYPASSES.c.uses - literal_column("1"))
)

#: What the store knows about itself under one name.
ABOUT: Final = Statement(select(META.c.value).where(META.c.name == bindparam("name")))
SET_ABOUT: Final = Statement(_replacing(META))

# -- wrong passwords

#: What a row of TRIED tells of: the account that the last success under this name was; one that has the name, or the
#: bare one, or that without its marks; the name as typed; all from there; everybody, this minute.
BY_NAME, BY_FORM, BY_BARE_FORM, BY_UNMARKED_FORM, AS_TYPED, FROM_THERE, EVERYBODY = range(7)


def _tried() -> Statement:
    """Rows of what is known of wrong passwords before one is tried, each with what it tells of.

    No part reads more rows than there are accounts of that name.
    """
    directory: BindParameter[Any] = bindparam("directory")
    source: BindParameter[Any] = bindparam("source")
    columns = (TRIES.c.failures, TRIES.c.since, TRIES.c.refused, TRIES.c.refused_at, TRIES.c.succeeded)

    def of(what: int, by: FromClause, *conditions: ColumnElement[bool]) -> Any:
        pair = and_(TRIES.c.directory == directory, TRIES.c.who == by.c.account_key, TRIES.c.source == source)
        return (
            select(literal_column(str(what)), by.c.account_key, *columns)
            .select_from(by.outerjoin(TRIES, pair))
            .where(by.c.directory == directory, *conditions)
        )

    def row(what: int, *conditions: ColumnElement[bool]) -> Any:
        return select(literal_column(str(what)), null(), *columns).where(*conditions, TRIES.c.source == source)

    this_minute = RATES.c.minute == bindparam("minute")
    nothing = (null(),) * 4
    return Statement(
        union_all(
            of(BY_NAME, NAMES, NAMES.c.name == bindparam("name")),
            of(BY_FORM, FORMS, FORMS.c.value == bindparam("value")),
            of(BY_BARE_FORM, FORMS, FORMS.c.value == bindparam("bare")),
            of(BY_UNMARKED_FORM, FORMS, FORMS.c.value == bindparam("unmarked")),
            row(AS_TYPED, TRIES.c.directory == directory, TRIES.c.who == bindparam("typed")),
            row(FROM_THERE, TRIES.c.directory == literal_column("''"), TRIES.c.who == literal_column("''")),
            select(literal_column(str(EVERYBODY)), null(), RATES.c.failures, *nothing).where(this_minute),
        )
    )


TRIED: Final = _tried()

_ADD_TRY: Final = upsert(TRIES).values({column.name: bindparam(column.name) for column in TRIES.c})
_LATER: Final = case((TRIES.c.expires > _ADD_TRY.excluded.expires, TRIES.c.expires), else_=_ADD_TRY.excluded.expires)
_IN_WINDOW: Final = TRIES.c.since > bindparam("over")
#: One more wrong password, in the window that it lies in, or as the first of a new one.
ADD_FAILURE: Final = Statement(
    _ADD_TRY.on_conflict_do_update(
        index_elements=[TRIES.c.directory, TRIES.c.who, TRIES.c.source],
        set_={
            "failures": case((_IN_WINDOW, TRIES.c.failures + literal_column("1")), else_=literal_column("1")),
            "since": case((_IN_WINDOW, TRIES.c.since), else_=_ADD_TRY.excluded.since),
            "refused": _ADD_TRY.excluded.refused,
            "refused_at": _ADD_TRY.excluded.refused_at,
            "expires": _LATER,
        },
    )
)
#: A login has succeeded: nothing is held against it, and it is known there.
SET_SUCCEEDED: Final = Statement(
    _ADD_TRY.on_conflict_do_update(
        index_elements=[TRIES.c.directory, TRIES.c.who, TRIES.c.source],
        set_={
            **{name: _ADD_TRY.excluded[name] for name in ("failures", "since", "refused", "refused_at", "succeeded")},
            "expires": _LATER,
        },
    )
)
FORGET_FAILURES: Final = Statement(
    update(TRIES)
    .where(
        TRIES.c.directory == bindparam("directory"),
        TRIES.c.who == bindparam("who"),
        TRIES.c.source == bindparam("source"),
    )
    .values(failures=literal_column("0"), since=literal_column("0"), refused=null(), refused_at=null())
)
_OLD: Final = (
    select(TRIES.c.directory, TRIES.c.who, TRIES.c.source)
    .where(TRIES.c.expires <= bindparam("now"))
    .order_by(TRIES.c.expires)
    .limit(literal_column("16"))
    .offset(literal_column("0"))
)
#: More rows than are added at a time, so that they do not heap up.
FORGET_OLD_TRIES: Final = Statement(
    delete(TRIES).where(tuple_(TRIES.c.directory, TRIES.c.who, TRIES.c.source).in_(_OLD))
)
_ADD_RATE: Final = upsert(RATES).values(minute=bindparam("minute"), failures=literal_column("1"))
ADD_RATE: Final = Statement(
    _ADD_RATE.on_conflict_do_update(
        index_elements=[RATES.c.minute], set_={"failures": RATES.c.failures + literal_column("1")}
    )
)
FORGET_OLD_RATES: Final = Statement(delete(RATES).where(RATES.c.minute < bindparam("minute")))
