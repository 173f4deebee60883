"""Fees: who paid what beside servers, and for which course."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision: str | None = "0001"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the table, and refuse changes of recorded rows as those before do."""
    op.create_table(
        "fees",
        sa.Column("transaction_id", _ID, autoincrement=False, nullable=False),
        sa.Column("what", sa.String(length=200), nullable=False),
        sa.Column("user", sa.String(length=255), nullable=False),
        sa.Column("course", sa.String(length=255), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("amount <> 0", name=op.f("ck_fees_moves")),
        sa.ForeignKeyConstraint(
            ["transaction_id"], ["transactions.id"], name=op.f("fk_fees_transaction_id")
        ),
        sa.PrimaryKeyConstraint("transaction_id", name=op.f("pk_fees")),
    )
    op.create_index("ix_fees_at", "fees", ["at"], unique=False)
    op.create_index("ix_fees_user_at", "fees", ["user", "at"], unique=False)
    op.create_index("ix_fees_what", "fees", ["what"], unique=False)
    if op.get_bind().dialect.name == "sqlite":
        for change in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER fees_no_{change.lower()} BEFORE {change} ON fees "
                "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
            )
    else:
        op.execute(
            "CREATE TRIGGER fees_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON "
            "fees FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change()"
        )
