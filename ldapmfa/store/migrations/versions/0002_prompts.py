"""Questions to owners, codes sent, and successes that count again."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def _account(table: str, *, primary: bool) -> list[sa.schema.SchemaItem]:
    return [
        sa.Column("account_key", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_key"], ["accounts.key"], name=f"fk_{table}_account_key", ondelete="CASCADE"
        ),
        *([sa.PrimaryKeyConstraint("account_key", name=f"pk_{table}")] if primary else []),
    ]


def upgrade() -> None:
    op.add_column("accounts", sa.Column("method", sa.Text(), nullable=True))
    op.create_table(
        "prompts",
        *_account("prompts", primary=True),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("reuse_key", sa.Text(), nullable=False),
        sa.Column("expires", sa.Float(), nullable=False),
        sa.Column("left", sa.Boolean(), nullable=False),
    )
    op.create_table(
        "prompt_times",
        sa.Column("id", sa.Text(), nullable=False),
        *_account("prompt_times", primary=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_prompt_times"),
    )
    op.create_index("ix_prompt_times_account_key", "prompt_times", ["account_key"])
    op.create_table(
        "reuse",
        sa.Column("key", sa.Text(), nullable=False),
        *_account("reuse", primary=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("factor", sa.Text(), nullable=True),
        sa.Column("uses", sa.Integer(), nullable=False),
        sa.Column("expires", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_reuse"),
    )
    op.create_index("ix_reuse_account_key", "reuse", ["account_key"])
    op.create_index("ix_reuse_expires", "reuse", ["expires"])
    op.create_table(
        "sent_codes",
        *_account("sent_codes", primary=True),
        sa.Column("service", sa.Text(), nullable=False),
        sa.Column("application", sa.Text(), nullable=False),
        sa.Column("client", sa.Text(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("expires", sa.Float(), nullable=False),
    )
    op.create_index("ix_sent_codes_expires", "sent_codes", ["expires"])
