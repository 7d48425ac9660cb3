"""Blocks, bypasses, phones, growing locks, wrong passwords, and what is to be told."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("accounts", sa.Column("locks", sa.Integer(), nullable=False, server_default="0"))
    for name, kind in (
        ("phone", sa.Text()),
        ("blocked_until", sa.Float()),
        ("blocked_reason", sa.Text()),
        ("blocked_by", sa.Text()),
    ):
        op.add_column("accounts", sa.Column(name, kind, nullable=True))
    op.add_column("accounts", sa.Column("disabled", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("logins", sa.Column("application", sa.Text(), nullable=False, server_default=""))
    for name, kind, default in (
        ("application", sa.Text(), ""),
        ("client", sa.Text(), ""),
        ("granted", sa.Float(), "0"),
    ):
        op.add_column("reuse", sa.Column(name, kind, nullable=False, server_default=default))
    op.create_table(
        "bypasses",
        sa.Column("account_key", sa.Text(), nullable=False),
        sa.Column("uses", sa.Integer(), nullable=False),
        sa.Column("expires", sa.Float(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("granted", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["account_key"], ["accounts.key"], name="fk_bypasses_account_key", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("account_key", name="pk_bypasses"),
    )
    op.create_table(
        "cuts",
        sa.Column("id", _NUMBER, nullable=False),
        sa.Column("account_key", sa.Text(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_cuts"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "notices",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("way", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("due", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_notices"),
    )
    op.create_index("ix_notices_due", "notices", ["due"])
    op.create_table(
        "tries",
        sa.Column("directory", sa.Text(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("since", sa.Float(), nullable=False),
        sa.Column("refused", sa.Text(), nullable=True),
        sa.Column("refused_at", sa.Float(), nullable=True),
        sa.Column("succeeded", sa.Float(), nullable=True),
        sa.Column("expires", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("directory", "who", "source", name="pk_tries"),
    )
    op.create_index("ix_tries_expires", "tries", ["expires"])
    op.create_table(
        "rates",
        sa.Column("minute", _NUMBER, nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("minute", name="pk_rates"),
    )
