"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "accounts",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("directory", sa.Text(), nullable=False),
        sa.Column("dn", sa.Text(), nullable=False),
        sa.Column("upn", sa.Text(), nullable=True),
        sa.Column("accounts", sa.JSON(), nullable=False),
        sa.Column("wrong_codes", sa.Integer(), nullable=False),
        sa.Column("locked_until", sa.Float(), nullable=True),
        sa.Column("first_seen", sa.Float(), nullable=False),
        sa.Column("last_login", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("key", name="pk_accounts"),
    )
    op.create_table(
        "changes",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_changes"),
    )
    op.create_index("ix_changes_account", "changes", ["account"])
    op.create_index("ix_changes_at", "changes", ["at"])
    op.create_table(
        "logins",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("result", sa.Integer(), nullable=False),
        sa.Column("reference", sa.Text(), nullable=False),
        sa.Column("listener", sa.Text(), nullable=False),
        sa.Column("client", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("directory", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=True),
        sa.Column("dn", sa.Text(), nullable=True),
        sa.Column("factor", sa.Text(), nullable=True),
        sa.Column("directory_ms", sa.Float(), nullable=False),
        sa.Column("factor_ms", sa.Float(), nullable=False),
        sa.Column("total_ms", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_logins"),
    )
    op.create_index("ix_logins_account", "logins", ["account"])
    op.create_index("ix_logins_at", "logins", ["at"])
    op.create_index("ix_logins_reference", "logins", ["reference"])
    op.create_table(
        "meta",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_meta"),
    )
    op.create_table(
        "factors",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("account_key", sa.Text(), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("parameters", sa.JSON(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("drift", sa.Integer(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("last_used", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(["account_key"], ["accounts.key"], name="fk_factors_account_key", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_factors"),
    )
    op.create_index("ix_factors_account_key", "factors", ["account_key"])
    op.create_table(
        "forms",
        sa.Column("account_key", sa.Text(), nullable=False),
        sa.Column("attribute", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("directory", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["account_key"], ["accounts.key"], name="fk_forms_account_key", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("account_key", "attribute", "value", name="pk_forms"),
    )
    op.create_index("ix_forms_directory_value", "forms", ["directory", "value"])
    op.create_table(
        "names",
        sa.Column("directory", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("account_key", sa.Text(), nullable=False),
        sa.Column("codeless", sa.Boolean(), nullable=False),
        sa.Column("seen", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["account_key"], ["accounts.key"], name="fk_names_account_key", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("directory", "name", name="pk_names"),
    )
    op.create_index("ix_names_account_key", "names", ["account_key"])
    op.create_table(
        "pending",
        sa.Column("factor_id", sa.Text(), nullable=False),
        sa.Column("directory", sa.Text(), nullable=False),
        sa.Column("attribute", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("expires", sa.Float(), nullable=False),
        sa.CheckConstraint("attribute IN ('dn', 'userPrincipalName', 'account')", name="ck_pending_attribute"),
        sa.ForeignKeyConstraint(["factor_id"], ["factors.id"], name="fk_pending_factor_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("factor_id", name="pk_pending"),
    )
    op.create_index("ix_pending_directory_value", "pending", ["directory", "value"])
    op.create_table(
        "recovery_codes",
        sa.Column("factor_id", sa.Text(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("used_at", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(["factor_id"], ["factors.id"], name="fk_recovery_codes_factor_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("factor_id", "hash", name="pk_recovery_codes"),
    )


def downgrade() -> None:
    for table in ("recovery_codes", "pending", "names", "forms", "factors", "meta", "logins", "changes", "accounts"):
        op.drop_table(table)
