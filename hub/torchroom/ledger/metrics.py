"""The ledger on the hub's metrics page, where JupyterHub serves its own.

The metering pass reads the figures (`Figures.refresh`); a scrape shows those of the
last pass and never asks the database. What is unknown is absent.
"""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from torchroom.ledger.database import Database, micros, moment
from torchroom.ledger.lease_rows import IS_OPEN
from torchroom.ledger.model import ANY, MICRO, Kind
from torchroom.ledger.prices import price_list
from torchroom.ledger.rows import slot_types_of
from torchroom.ledger.tables import NEVER, accounts, audits, leases, postings
from torchroom.ledger.tables import transactions as txs
from torchroom.ledger.usage import FEE, type_of

_SECOND_US = 1_000_000

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Seen:
    """What the last pass found.

    Attributes:
        at: When.
        n_holds: Holds of leases that go on.
        held: What all holds reserve, in microtokens.
        settled_until: The oldest moment up to which a lease that burns is settled;
            None: nothing burns.
        audit_at: When the ledger was last verified, None: never.
        is_audit_ok: Whether nothing was wrong then, None: never verified.
    """

    at: datetime
    n_holds: int
    held: int
    settled_until: datetime | None
    audit_at: datetime | None
    is_audit_ok: bool | None


class Figures:
    """Figures of a ledger, as fresh as the last `refresh`.

    Args:
        started_at: Tokens burned are counted from then on, by the time of record.

    Attributes:
        seen: See Seen; None before the first refresh.
        burned: Type -> microtokens charged since `started_at`, FEE for fees; only ever
            grows, so what is refunded is not taken off.
    """

    def __init__(self, started_at: datetime) -> None:
        self.seen: Seen | None = None
        self.burned: Counter[str] = Counter()
        self._started_at = started_at
        self._counted_to: int | None = None  # a posting of REVENUE

    async def refresh(self, db: Database, at: datetime) -> None:
        """Read the figures from one consistent view; a few short queries.

        Raises:
            Unavailable: The database does not answer; the last figures stay.
        """
        async with db.read() as conn:
            known = await price_list(conn, at)
            new, counted_to = await self._charges(conn)
            seen = await _look(conn, at)
        for key in (*known, FEE):
            if key != ANY:
                self.burned.setdefault(key, 0)
        self.burned.update(new)
        self._counted_to = counted_to
        self.seen = seen

    async def _charges(self, conn: AsyncConnection) -> tuple[Counter[str], int]:
        """Return what was charged since the last time, and up to which posting."""
        revenue = select(accounts.c.id).where(accounts.c.kind == Kind.REVENUE)
        account_id = await conn.scalar(revenue)
        if account_id is None:
            return Counter(), 0
        after = self._counted_to
        if after is None:
            # Newest first, so that it stops at the first one that is older.
            before_start = (
                select(postings.c.id)
                .join(txs, txs.c.id == postings.c.transaction_id)
                .where(
                    postings.c.account_id == account_id,
                    txs.c.recorded_at < micros(self._started_at),
                )
                .order_by(postings.c.id.desc())
                .limit(1)
            )
            after = await conn.scalar(before_start) or 0
        # REVENUE is locked by who posts to it, so its postings appear in their order.
        rows = await conn.execute(
            select(
                leases.c.slot_types,
                func.sum(postings.c.amount).label("amount"),
                func.max(postings.c.id).label("last"),
            )
            .select_from(
                postings.join(txs, txs.c.id == postings.c.transaction_id).outerjoin(
                    leases, leases.c.id == txs.c.lease_id
                )
            )
            .where(
                postings.c.account_id == account_id,
                postings.c.id > after,
                postings.c.amount > 0,
            )
            .group_by(leases.c.slot_types)
        )
        new: Counter[str] = Counter()
        for row in rows:
            types = row.slot_types  # None: a fee, which is for no lease
            new[type_of(slot_types_of(types)) if types else FEE] += int(row.amount)
            after = max(after, row.last)
        return new, after


async def _look(conn: AsyncConnection, at: datetime) -> Seen:
    held = select(accounts.c.balance).where(accounts.c.kind == Kind.HOLDS)
    n_holds = select(func.count()).where(IS_OPEN, leases.c.hold_id.is_not(None))
    settled = select(
        func.min(leases.c.ready_at + leases.c.settled_s * _SECOND_US)
    ).where(IS_OPEN, leases.c.ready_at != NEVER, leases.c.per_hour > 0)
    newest = select(audits.c.at, audits.c.problems).order_by(audits.c.id.desc())
    audit = (await conn.execute(newest.limit(1))).first()
    return Seen(
        at=at,
        n_holds=int(await conn.scalar(n_holds) or 0),
        held=int(await conn.scalar(held) or 0),
        settled_until=moment(int(await conn.scalar(settled) or NEVER)),
        audit_at=moment(audit.at) if audit else None,
        is_audit_ok=not json.loads(audit.problems) if audit else None,
    )


class LedgerCollector(Collector):
    """Makes metrics of figures.

    Args:
        figures: Whose.
        now: The clock that ages are counted by.
    """

    def __init__(self, figures: Figures, now: Callable[[], datetime]) -> None:
        self._figures = figures
        self._now = now

    def describe(self) -> Iterable[Metric]:
        """Return nothing: what there is changes, and names are not checked by it."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Return the metrics. Never raises: other metrics of the hub go on."""
        try:
            return list(families(self._figures, self._now()))
        except Exception:
            log.exception("no metrics of the ledger this time")
            return []


_registered: dict[CollectorRegistry, LedgerCollector] = {}


def register(
    figures: Figures,
    registry: CollectorRegistry = REGISTRY,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> None:
    """Let a registry collect from these figures; again puts the new in their place."""
    if old := _registered.pop(registry, None):
        registry.unregister(old)
    _registered[registry] = LedgerCollector(figures, now)
    registry.register(_registered[registry])


def families(figures: Figures, now: datetime) -> Iterator[Metric]:
    """Yield the metrics; their values are floats, as all of Prometheus, for display."""
    burned = CounterMetricFamily(
        "torchroom_tokens_burned",
        "Tokens that leases and fees cost since the hub was started, before refunds.",
        labels=["type"],
    )
    for key, amount in sorted(figures.burned.items()):
        burned.add_metric([key], amount / MICRO)
    yield burned
    seen = figures.seen
    if seen is None:
        return
    yield _gauge("ledger_read_age_seconds", "Since these figures were read.",
                 _age_s(seen.at, now))  # fmt: skip
    yield _gauge("holds_open", "Leases for which tokens are held.", seen.n_holds)
    yield _gauge("held_tokens", "What all holds reserve.", seen.held / MICRO)
    yield _gauge(
        "settlement_lag_seconds",
        "Since the oldest second of a running lease that is not settled; 0: none is.",
        _age_s(seen.settled_until, now) if seen.settled_until else 0,
    )
    if seen.audit_at is not None:
        yield _gauge("ledger_audit_ok", "1: the last check of all sums found nothing.",
                     1 if seen.is_audit_ok else 0)  # fmt: skip
        yield _gauge("ledger_audit_age_seconds", "Since the last check of all sums.",
                     _age_s(seen.audit_at, now))  # fmt: skip


def _age_s(at: datetime, now: datetime) -> float:
    return max(0.0, (now - at).total_seconds())


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"torchroom_{name}", text, value=value)
