"""The ledger's tables. Migrations make them; a test compares the two.

Times are microseconds since 1970 in UTC and their columns end in `_at` (or are `at`);
0 is never. Amounts are microtokens. Rows are only ever added, except: `balance` and
`n_postings` of accounts, `amount` of draws (caches that the audit checks), leases,
courses, the ends of allowances and vouchers, prices that are not valid yet, and old
tries.
"""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from torchroom.ledger.names import ACTOR_MAX, KEY_MAX, NAME_MAX, NOTE_MAX

NEVER = 0
"""In a column of times."""

CODE_MAX = 16
ID_MAX = 64
DIGEST_MAX = 64  # SHA-256 in hexadecimal digits

# SQLite gives out ids only to a primary key that is spelled INTEGER.
_Id = BigInteger().with_variant(Integer(), "sqlite")

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)


def _id() -> Column[int]:
    return Column("id", _Id, primary_key=True)


def _text(name: str, length: int = NAME_MAX) -> Column[str]:
    return Column(name, String(length), nullable=False)


def _number(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False)


def _since_zero(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False, server_default="0")


# ---------------------------------------------- what moved: only `journal` writes these

accounts = Table(
    "accounts",
    metadata,
    _id(),
    _text("kind", CODE_MAX),
    _text("name"),  # "" for the ledger's own
    _text("course"),  # "" without an earmark
    _number("expires_at"),
    _since_zero("balance"),
    _since_zero("n_postings"),
    UniqueConstraint("kind", "name", "course", "expires_at"),
    CheckConstraint("balance >= 0 OR kind = 'issued'", name="not_negative"),
)

transactions = Table(
    "transactions",
    metadata,
    _id(),
    Column("key", String(KEY_MAX), nullable=False, unique=True),
    _text("code", CODE_MAX),
    _number("at"),
    _number("recorded_at"),
    _text("request_digest", DIGEST_MAX),
    _text("lease_id", ID_MAX),
    _text("actor", ACTOR_MAX),
    _text("note", NOTE_MAX),
    Index("ix_transactions_at", "at"),
)
Index(
    "ix_transactions_lease_id",
    transactions.c.lease_id,
    transactions.c.code,  # the few waived or refunded, without reading the others
    sqlite_where=transactions.c.lease_id != "",
    postgresql_where=transactions.c.lease_id != "",
)

postings = Table(
    "postings",
    metadata,
    _id(),
    Column("transaction_id", _Id, ForeignKey("transactions.id"), nullable=False),
    Column("account_id", _Id, ForeignKey("accounts.id"), nullable=False),
    _number("amount"),
    _number("balance_after"),
    # 1: its transaction is one of a lease. `journal.record` copies that here, so that a
    # statement finds a grant among 100,000 holds and settlements without reading them.
    Column("is_lease", SmallInteger, nullable=False),
    CheckConstraint("amount <> 0", name="moves"),
    Index("ix_postings_transaction_id", "transaction_id"),
    Index("ix_postings_account_id_id", "account_id", "id"),
)
Index(
    "ix_postings_plain",
    postings.c.account_id,
    postings.c.id,
    sqlite_where=postings.c.is_lease == 0,
    postgresql_where=postings.c.is_lease == 0,
)

# ------------------------------------------------------------------------------- leases

holds = Table(
    "holds",
    metadata,
    _id(),
    Column(
        "transaction_id",
        _Id,
        ForeignKey("transactions.id"),
        nullable=False,
        unique=True,
    ),
    _text("lease_id", ID_MAX),
    _number("amount"),
    _number("expires_at"),
    CheckConstraint("amount > 0", name="positive"),
    Index("ix_holds_lease_id", "lease_id"),
)

hold_ends = Table(
    "hold_ends",
    metadata,
    # Being the primary key is what makes a hold end exactly once.
    Column(
        "hold_id", _Id, ForeignKey("holds.id"), primary_key=True, autoincrement=False
    ),
    Column(
        "transaction_id",
        _Id,
        ForeignKey("transactions.id"),
        nullable=False,
        unique=True,
    ),
    _text("how", CODE_MAX),
    CheckConstraint("how IN ('settle', 'void', 'expire')", name="how"),
)

leases = Table(
    "leases",
    metadata,
    Column("id", String(ID_MAX), primary_key=True),
    _text("user"),
    _text("server"),
    _text("course"),
    Column("slot_types", Text, nullable=False),  # JSON list
    _number("per_hour"),
    _number("held_at"),
    _since_zero("ready_at"),
    _since_zero("settled_s"),
    _since_zero("charged"),
    _since_zero("from_course"),  # of it, what the course's wallet paid
    Column("hold_id", _Id, ForeignKey("holds.id"), nullable=True),  # the open one
    Column("warned_s", BigInteger, nullable=False, server_default="0"),
    _since_zero("ended_at"),
    _since_zero("closed_at"),
    Column("reason", String(NOTE_MAX), nullable=False, server_default=""),
    CheckConstraint("per_hour >= 0", name="price"),
    CheckConstraint("settled_s >= 0 AND charged >= 0", name="settled"),
    CheckConstraint("from_course BETWEEN 0 AND charged", name="from_course"),
    Index("ix_leases_user_held_at", "user", "held_at"),
    Index("ix_leases_course_held_at", "course", "held_at"),
    Index("ix_leases_ended_at", "ended_at"),
)
Index(
    "ix_leases_open",
    leases.c.id,
    sqlite_where=leases.c.closed_at == NEVER,
    postgresql_where=leases.c.closed_at == NEVER,
)

draws = Table(
    "draws",
    metadata,
    Column("course", String(NAME_MAX), primary_key=True),
    Column("user", String(NAME_MAX), primary_key=True),
    _since_zero("amount"),
    CheckConstraint("amount >= 0", name="not_negative"),
)

# Who paid a fee, for what and for which course; beside its transaction, which moved it.
fees = Table(
    "fees",
    metadata,
    Column(
        "transaction_id",
        _Id,
        ForeignKey("transactions.id"),
        primary_key=True,
        autoincrement=False,
    ),
    _text("what", KEY_MAX),
    _text("user"),
    _text("course"),
    _number("amount"),  # below 0: given back
    _number("at"),
    CheckConstraint("amount <> 0", name="moves"),
    Index("ix_fees_at", "at"),
    Index("ix_fees_user_at", "user", "at"),
    Index("ix_fees_what", "what"),
)

# ------------------------------------------------------ what somebody decided or bought

prices = Table(
    "prices",
    metadata,
    _id(),
    _text("key"),
    Column("per_hour", BigInteger, nullable=True),
    _number("valid_from"),
    _text("actor", ACTOR_MAX),
    _number("recorded_at"),
    UniqueConstraint("key", "valid_from"),
    CheckConstraint("per_hour >= 0", name="price"),
)

courses = Table(
    "courses",
    metadata,
    Column("name", String(NAME_MAX), primary_key=True),
    _text("title"),
    Column("student_cap", BigInteger, nullable=True),
    _number("created_at"),
    CheckConstraint("student_cap >= 0", name="cap"),
)

allowances = Table(
    "allowances",
    metadata,
    _id(),
    Column("course", String(NAME_MAX), ForeignKey("courses.name"), nullable=False),
    _text("period", CODE_MAX),
    _text("mode", CODE_MAX),
    _number("amount"),
    _text("time_zone", ID_MAX),
    _number("valid_from"),
    _since_zero("ended_at"),
    _text("actor", ACTOR_MAX),
    CheckConstraint("period IN ('weekly', 'monthly')", name="period"),
    CheckConstraint("mode IN ('refill', 'add')", name="mode"),
    CheckConstraint("amount > 0", name="positive"),
    Index("ix_allowances_course", "course"),
)

# What an allowance gave one user for one period, 0 too (full already): decided once.
portions = Table(
    "portions",
    metadata,
    Column(
        "allowance_id",
        _Id,
        ForeignKey("allowances.id"),
        primary_key=True,
        autoincrement=False,
    ),
    Column("period", String(CODE_MAX), primary_key=True),  # 2026-W47 or 2026-11
    Column("user", String(NAME_MAX), primary_key=True),
    _number("amount"),
    _number("at"),
    CheckConstraint("amount >= 0", name="not_negative"),
)

vouchers = Table(
    "vouchers",
    metadata,
    Column("id", String(ID_MAX), primary_key=True),
    Column("digest", String(DIGEST_MAX), nullable=False, unique=True),
    _number("amount"),
    _text("course"),
    _number("expires_at"),
    _number("tokens_expire_at"),
    _text("note", NOTE_MAX),
    _text("actor", ACTOR_MAX),
    _number("created_at"),
    _since_zero("revoked_at"),
    CheckConstraint("amount > 0", name="positive"),
    Index("ix_vouchers_created_at_id", "created_at", "id"),
)

redemptions = Table(
    "redemptions",
    metadata,
    Column("voucher_id", String(ID_MAX), ForeignKey("vouchers.id"), primary_key=True),
    Column("transaction_id", _Id, ForeignKey("transactions.id"), nullable=False),
    _text("user"),
    _number("at"),
)

tries = Table(
    "tries",
    metadata,
    _id(),
    _text("user"),
    _number("at"),
    Index("ix_tries_user_at", "user", "at"),
)

# --------------------------------------------------------------------------- the checks

audits = Table(
    "audits",
    metadata,
    _id(),
    _number("at"),
    _number("took_ms"),
    _number("n_transactions"),
    _number("n_postings"),
    Column("problems", Text, nullable=False),  # JSON list of sentences
)

APPEND_ONLY = (transactions, postings, holds, hold_ends, fees)
"""The database itself refuses to change or delete their rows."""
