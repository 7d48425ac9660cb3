"""The tables, the same for SQLite and PostgreSQL; a change here needs a migration beside it.

Times are seconds since the epoch. Text from outside is kept as `ldapmfa.store.plain` makes it.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    false,
)

METADATA: Final = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

#: SQLite counts only an INTEGER primary key by itself.
_NUMBER: Final = BigInteger().with_variant(Integer, "sqlite")

#: Whom the directory confirmed at least once, or an operator enrolled. `accounts` is sAMAccountName or uid, `method`
#: how its owner wants to be asked, `locks` how often wrong codes have locked it one after the other, `phone` in E.164.
#: It is blocked until `blocked_until` (infinity: until somebody ends that), which `blocked_by` has said, for
#: `blocked_reason`; `disabled` says that it was an administrator, and that nobody else may end it.
ACCOUNTS: Final = Table(
    "accounts",
    METADATA,
    Column("key", Text, primary_key=True),
    Column("directory", Text, nullable=False),
    Column("dn", Text, nullable=False),
    Column("upn", Text),
    Column("accounts", JSON, nullable=False),
    Column("wrong_codes", Integer, nullable=False),
    Column("locked_until", Float),
    Column("first_seen", Float, nullable=False),
    Column("last_login", Float),
    Column("method", Text),
    Column("locks", Integer, nullable=False, server_default="0"),
    Column("phone", Text),
    Column("blocked_until", Float),
    Column("blocked_reason", Text),
    Column("blocked_by", Text),
    Column("disabled", Boolean, nullable=False, server_default=false()),
)

#: What an account can be recognised by: its DN, userPrincipalName and account names, normalised.
FORMS: Final = Table(
    "forms",
    METADATA,
    Column("account_key", ForeignKey("accounts.key", ondelete="CASCADE"), primary_key=True),
    Column("attribute", Text, primary_key=True),
    Column("value", Text, primary_key=True),
    Column("directory", Text, nullable=False),
    Index(None, "directory", "value"),
)

#: Which account the last success under a typed name was, and whether it needed no code.
NAMES: Final = Table(
    "names",
    METADATA,
    Column("directory", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("account_key", ForeignKey("accounts.key", ondelete="CASCADE"), nullable=False, index=True),
    Column("codeless", Boolean, nullable=False),
    Column("seen", Float, nullable=False),
)

#: Enrolled factors; without an account until a pending enrolment is claimed.
FACTORS: Final = Table(
    "factors",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("account_key", ForeignKey("accounts.key", ondelete="CASCADE"), index=True),
    Column("kind", Text, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("parameters", JSON, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("drift", Integer, nullable=False),
    Column("label", Text, nullable=False),
    Column("created", Float, nullable=False),
    Column("last_used", Float),
)

#: Keyed hashes of printed codes.
RECOVERY_CODES: Final = Table(
    "recovery_codes",
    METADATA,
    Column("factor_id", ForeignKey("factors.id", ondelete="CASCADE"), primary_key=True),
    Column("hash", Text, primary_key=True),
    Column("used_at", Float),
)

#: Factors enrolled before their owner was ever seen: for the account whose attribute has this very value.
PENDING: Final = Table(
    "pending",
    METADATA,
    Column("factor_id", ForeignKey("factors.id", ondelete="CASCADE"), primary_key=True),
    Column("directory", Text, nullable=False),
    Column("attribute", Text, nullable=False),
    Column("value", Text, nullable=False),
    Column("expires", Float, nullable=False),
    CheckConstraint("attribute IN ('dn', 'userPrincipalName', 'account')", name="attribute"),
    Index(None, "directory", "value"),
)

#: The one question that is open for an account: by whom it was put, and until when it counts as open. `reuse_key` is
#: what an equal bind has; `left` says that whoever asked has gone, and that the answer is kept for such a bind.
PROMPTS: Final = Table(
    "prompts",
    METADATA,
    Column("account_key", ForeignKey("accounts.key", ondelete="CASCADE"), primary_key=True),
    Column("id", Text, nullable=False),
    Column("reuse_key", Text, nullable=False),
    Column("expires", Float, nullable=False),
    Column("left", Boolean, nullable=False),
)

#: When an account's owner was asked, to count how often.
PROMPT_TIMES: Final = Table(
    "prompt_times",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("account_key", ForeignKey("accounts.key", ondelete="CASCADE"), nullable=False, index=True),
    Column("at", Float, nullable=False),
)

#: Successes that count for equal binds: by a keyed hash of account, secret, address and application.
REUSE: Final = Table(
    "reuse",
    METADATA,
    Column("key", Text, primary_key=True),
    Column("account_key", ForeignKey("accounts.key", ondelete="CASCADE"), nullable=False, index=True),
    Column("reason", Text, nullable=False),
    Column("factor", Text),
    Column("uses", Integer, nullable=False),
    Column("expires", Float, nullable=False, index=True),
    Column("application", Text, nullable=False, server_default=""),
    Column("client", Text, nullable=False, server_default=""),
    Column("granted", Float, nullable=False, server_default="0"),
)

#: Logins without a second factor that an operator has granted.
BYPASSES: Final = Table(
    "bypasses",
    METADATA,
    Column("account_key", ForeignKey("accounts.key", ondelete="CASCADE"), primary_key=True),
    Column("uses", Integer, nullable=False),
    Column("expires", Float, nullable=False),
    Column("reason", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("granted", Float, nullable=False),
)

#: Accounts whose live connections are to end: each process looks for numbers that it has not seen.
CUTS: Final = Table(
    "cuts",
    METADATA,
    Column("id", _NUMBER, primary_key=True),
    Column("account_key", Text, nullable=False),
    Column("at", Float, nullable=False),
    sqlite_autoincrement=True,  # no number twice, though old rows go
)

#: What is to be told to people and programs, until it has been: `body` is JSON. `due` is when it is tried next.
NOTICES: Final = Table(
    "notices",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("at", Float, nullable=False),
    Column("way", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("due", Float, nullable=False, index=True),
)

#: Wrong passwords, by who was meant (an account's key, or "name:" and a typed one) and where they came from: how many,
#: since `since`; a keyed hash of the last one that was `refused`, and when; when the last login from there succeeded.
#: A row without directory and name counts all from there. After `expires` a row is of no use.
TRIES: Final = Table(
    "tries",
    METADATA,
    Column("directory", Text, primary_key=True),
    Column("who", Text, primary_key=True),
    Column("source", Text, primary_key=True),
    Column("failures", Integer, nullable=False),
    Column("since", Float, nullable=False),
    Column("refused", Text),
    Column("refused_at", Float),
    Column("succeeded", Float),
    Column("expires", Float, nullable=False, index=True),
)

#: Wrong passwords of all, by the minute (seconds since the epoch, divided by 60).
RATES: Final = Table(
    "rates",
    METADATA,
    Column("minute", _NUMBER, primary_key=True),
    Column("failures", Integer, nullable=False),
)

#: The code that a service has sent to an account's owner, for a bind from there to this application.
SENT_CODES: Final = Table(
    "sent_codes",
    METADATA,
    Column("account_key", ForeignKey("accounts.key", ondelete="CASCADE"), primary_key=True),
    Column("service", Text, nullable=False),
    Column("application", Text, nullable=False),
    Column("client", Text, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("expires", Float, nullable=False, index=True),
)

#: `ldapmfa.audit.LoginEnded`, field by field; it outlives its account.
LOGINS: Final = Table(
    "logins",
    METADATA,
    Column("id", _NUMBER, primary_key=True),
    Column("at", Float, nullable=False, index=True),
    Column("outcome", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("application", Text, nullable=False, server_default=""),
    Column("result", Integer, nullable=False),
    Column("reference", Text, nullable=False, index=True),
    Column("listener", Text, nullable=False),
    Column("client", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("directory", Text, nullable=False),
    Column("account", Text, index=True),
    Column("dn", Text),
    Column("factor", Text),
    Column("directory_ms", Float, nullable=False),
    Column("factor_ms", Float, nullable=False),
    Column("total_ms", Float, nullable=False),
)

#: `ldapmfa.audit.AccountChanged`, field by field.
CHANGES: Final = Table(
    "changes",
    METADATA,
    Column("id", _NUMBER, primary_key=True),
    Column("at", Float, nullable=False, index=True),
    Column("action", Text, nullable=False),
    Column("account", Text, nullable=False, index=True),
    Column("actor", Text, nullable=False),
    Column("detail", Text, nullable=False),
)

#: What the store knows about itself: a sealed canary that shows whether the key file is the right one, and how often
#: the caches of all processes were cleared.
META: Final = Table(
    "meta",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("value", LargeBinary, nullable=False),
)
