"""The ledger's tables, and what keeps journal rows from being changed.

Long, because a migration must not change when `tables` does.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision: str | None = None
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

APPEND_ONLY = ("transactions", "postings", "holds", "hold_ends")
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_REFUSAL = "the ledger is append-only"


def upgrade() -> None:
    """Make every table, and refuse changes of recorded rows."""
    _make_tables()
    if op.get_bind().dialect.name == "sqlite":
        _refuse_in_sqlite()
    else:
        _refuse_in_postgres()


def _refuse_in_sqlite() -> None:
    for table in APPEND_ONLY:
        for change in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{change.lower()} "
                f"BEFORE {change} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END"
            )


def _refuse_in_postgres() -> None:
    op.execute(
        "CREATE FUNCTION ledger_refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{_REFUSAL}' USING ERRCODE = '23001'; END $$"
    )
    for table in APPEND_ONLY:
        op.execute(
            f"CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON "
            f"{table} FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse_change()"
        )


def _make_tables() -> None:
    op.create_table(
        "accounts",
        sa.Column("id", _ID, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("course", sa.String(length=255), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("balance", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("n_postings", sa.BigInteger(), server_default="0", nullable=False),
        sa.CheckConstraint(
            "balance >= 0 OR kind = 'issued'", name=op.f("ck_accounts_not_negative")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_accounts")),
        sa.UniqueConstraint(
            "kind",
            "name",
            "course",
            "expires_at",
            name=op.f("uq_accounts_kind_name_course_expires_at"),
        ),
    )
    op.create_table(
        "audits",
        sa.Column("id", _ID, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("took_ms", sa.BigInteger(), nullable=False),
        sa.Column("n_transactions", sa.BigInteger(), nullable=False),
        sa.Column("n_postings", sa.BigInteger(), nullable=False),
        sa.Column("problems", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audits")),
    )
    op.create_table(
        "courses",
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("title", sa.String(length=255), nullable=False),
        sa.Column("student_cap", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("student_cap >= 0", name=op.f("ck_courses_cap")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_courses")),
    )
    op.create_table(
        "draws",
        sa.Column("course", sa.String(length=255), nullable=False),
        sa.Column("user", sa.String(length=255), nullable=False),
        sa.Column("amount", sa.BigInteger(), server_default="0", nullable=False),
        sa.CheckConstraint("amount >= 0", name=op.f("ck_draws_not_negative")),
        sa.PrimaryKeyConstraint("course", "user", name=op.f("pk_draws")),
    )
    op.create_table(
        "prices",
        sa.Column("id", _ID, nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("per_hour", sa.BigInteger(), nullable=True),
        sa.Column("valid_from", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.String(length=263), nullable=False),
        sa.Column("recorded_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("per_hour >= 0", name=op.f("ck_prices_price")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prices")),
        sa.UniqueConstraint("key", "valid_from", name=op.f("uq_prices_key_valid_from")),
    )
    op.create_table(
        "transactions",
        sa.Column("id", _ID, nullable=False),
        sa.Column("key", sa.String(length=200), nullable=False),
        sa.Column("code", sa.String(length=16), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("recorded_at", sa.BigInteger(), nullable=False),
        sa.Column("request_digest", sa.String(length=64), nullable=False),
        sa.Column("lease_id", sa.String(length=64), nullable=False),
        sa.Column("actor", sa.String(length=263), nullable=False),
        sa.Column("note", sa.String(length=500), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_transactions")),
        sa.UniqueConstraint("key", name=op.f("uq_transactions_key")),
    )
    op.create_index("ix_transactions_at", "transactions", ["at"], unique=False)
    op.create_index(
        "ix_transactions_lease_id",
        "transactions",
        ["lease_id", "code"],
        unique=False,
        sqlite_where=sa.text("lease_id != ''"),
        postgresql_where=sa.text("lease_id != ''"),
    )
    op.create_table(
        "tries",
        sa.Column("id", _ID, nullable=False),
        sa.Column("user", sa.String(length=255), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tries")),
    )
    op.create_index("ix_tries_user_at", "tries", ["user", "at"], unique=False)
    op.create_table(
        "vouchers",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("course", sa.String(length=255), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("tokens_expire_at", sa.BigInteger(), nullable=False),
        sa.Column("note", sa.String(length=500), nullable=False),
        sa.Column("actor", sa.String(length=263), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("revoked_at", sa.BigInteger(), server_default="0", nullable=False),
        sa.CheckConstraint("amount > 0", name=op.f("ck_vouchers_positive")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_vouchers")),
        sa.UniqueConstraint("digest", name=op.f("uq_vouchers_digest")),
    )
    op.create_index(
        "ix_vouchers_created_at_id", "vouchers", ["created_at", "id"], unique=False
    )
    op.create_table(
        "allowances",
        sa.Column("id", _ID, nullable=False),
        sa.Column("course", sa.String(length=255), nullable=False),
        sa.Column("period", sa.String(length=16), nullable=False),
        sa.Column("mode", sa.String(length=16), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("time_zone", sa.String(length=64), nullable=False),
        sa.Column("valid_from", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("actor", sa.String(length=263), nullable=False),
        sa.CheckConstraint(
            "mode IN ('refill', 'add')", name=op.f("ck_allowances_mode")
        ),
        sa.CheckConstraint(
            "period IN ('weekly', 'monthly')", name=op.f("ck_allowances_period")
        ),
        sa.CheckConstraint("amount > 0", name=op.f("ck_allowances_positive")),
        sa.ForeignKeyConstraint(
            ["course"], ["courses.name"], name=op.f("fk_allowances_course")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_allowances")),
    )
    op.create_index("ix_allowances_course", "allowances", ["course"], unique=False)
    op.create_table(
        "holds",
        sa.Column("id", _ID, nullable=False),
        sa.Column("transaction_id", _ID, nullable=False),
        sa.Column("lease_id", sa.String(length=64), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("amount > 0", name=op.f("ck_holds_positive")),
        sa.ForeignKeyConstraint(
            ["transaction_id"],
            ["transactions.id"],
            name=op.f("fk_holds_transaction_id"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_holds")),
        sa.UniqueConstraint("transaction_id", name=op.f("uq_holds_transaction_id")),
    )
    op.create_index("ix_holds_lease_id", "holds", ["lease_id"], unique=False)
    op.create_table(
        "postings",
        sa.Column("id", _ID, nullable=False),
        sa.Column("transaction_id", _ID, nullable=False),
        sa.Column("account_id", _ID, nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("balance_after", sa.BigInteger(), nullable=False),
        sa.Column("is_lease", sa.SmallInteger(), nullable=False),
        sa.CheckConstraint("amount <> 0", name=op.f("ck_postings_moves")),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name=op.f("fk_postings_account_id")
        ),
        sa.ForeignKeyConstraint(
            ["transaction_id"],
            ["transactions.id"],
            name=op.f("fk_postings_transaction_id"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_postings")),
    )
    op.create_index(
        "ix_postings_account_id_id", "postings", ["account_id", "id"], unique=False
    )
    op.create_index(
        "ix_postings_plain",
        "postings",
        ["account_id", "id"],
        unique=False,
        sqlite_where=sa.text("is_lease = 0"),
        postgresql_where=sa.text("is_lease = 0"),
    )
    op.create_index(
        "ix_postings_transaction_id", "postings", ["transaction_id"], unique=False
    )
    op.create_table(
        "redemptions",
        sa.Column("voucher_id", sa.String(length=64), nullable=False),
        sa.Column("transaction_id", _ID, nullable=False),
        sa.Column("user", sa.String(length=255), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["transaction_id"],
            ["transactions.id"],
            name=op.f("fk_redemptions_transaction_id"),
        ),
        sa.ForeignKeyConstraint(
            ["voucher_id"], ["vouchers.id"], name=op.f("fk_redemptions_voucher_id")
        ),
        sa.PrimaryKeyConstraint("voucher_id", name=op.f("pk_redemptions")),
    )
    op.create_table(
        "hold_ends",
        sa.Column("hold_id", _ID, autoincrement=False, nullable=False),
        sa.Column("transaction_id", _ID, nullable=False),
        sa.Column("how", sa.String(length=16), nullable=False),
        sa.CheckConstraint(
            "how IN ('settle', 'void', 'expire')", name=op.f("ck_hold_ends_how")
        ),
        sa.ForeignKeyConstraint(
            ["hold_id"], ["holds.id"], name=op.f("fk_hold_ends_hold_id")
        ),
        sa.ForeignKeyConstraint(
            ["transaction_id"],
            ["transactions.id"],
            name=op.f("fk_hold_ends_transaction_id"),
        ),
        sa.PrimaryKeyConstraint("hold_id", name=op.f("pk_hold_ends")),
        sa.UniqueConstraint("transaction_id", name=op.f("uq_hold_ends_transaction_id")),
    )
    op.create_table(
        "leases",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("user", sa.String(length=255), nullable=False),
        sa.Column("server", sa.String(length=255), nullable=False),
        sa.Column("course", sa.String(length=255), nullable=False),
        sa.Column("slot_types", sa.Text(), nullable=False),
        sa.Column("per_hour", sa.BigInteger(), nullable=False),
        sa.Column("held_at", sa.BigInteger(), nullable=False),
        sa.Column("ready_at", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("settled_s", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("charged", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("from_course", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("hold_id", _ID, nullable=True),
        sa.Column("warned_s", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("ended_at", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("closed_at", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("reason", sa.String(length=500), server_default="", nullable=False),
        sa.CheckConstraint(
            "from_course BETWEEN 0 AND charged", name=op.f("ck_leases_from_course")
        ),
        sa.CheckConstraint("per_hour >= 0", name=op.f("ck_leases_price")),
        sa.CheckConstraint(
            "settled_s >= 0 AND charged >= 0", name=op.f("ck_leases_settled")
        ),
        sa.ForeignKeyConstraint(
            ["hold_id"], ["holds.id"], name=op.f("fk_leases_hold_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_leases")),
    )
    op.create_index(
        "ix_leases_course_held_at", "leases", ["course", "held_at"], unique=False
    )
    op.create_index("ix_leases_ended_at", "leases", ["ended_at"], unique=False)
    op.create_index(
        "ix_leases_open",
        "leases",
        ["id"],
        unique=False,
        sqlite_where=sa.text("closed_at = 0"),
        postgresql_where=sa.text("closed_at = 0"),
    )
    op.create_index(
        "ix_leases_user_held_at", "leases", ["user", "held_at"], unique=False
    )
    op.create_table(
        "portions",
        sa.Column("allowance_id", _ID, autoincrement=False, nullable=False),
        sa.Column("period", sa.String(length=16), nullable=False),
        sa.Column("user", sa.String(length=255), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("amount >= 0", name=op.f("ck_portions_not_negative")),
        sa.ForeignKeyConstraint(
            ["allowance_id"], ["allowances.id"], name=op.f("fk_portions_allowance_id")
        ),
        sa.PrimaryKeyConstraint(
            "allowance_id", "period", "user", name=op.f("pk_portions")
        ),
    )
