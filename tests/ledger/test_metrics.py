"""The ledger's metrics: read by the metering pass, shown by a scrape."""

from datetime import UTC, datetime, timedelta

import pytest
from gpuspawner.errors import MeterFailed
from prometheus_client import CollectorRegistry, generate_latest
from sqlalchemy import insert
from torchroom.ledger import metrics
from torchroom.ledger.audit import audit
from torchroom.ledger.database import Database, micros
from torchroom.ledger.errors import Unavailable
from torchroom.ledger.fees import Fees
from torchroom.ledger.grants import Grants
from torchroom.ledger.leases import Leases
from torchroom.ledger.meter import LedgerMeter
from torchroom.ledger.metrics import Figures, families, register
from torchroom.ledger.model import MICRO, Ending, Payer
from torchroom.ledger.planning import End
from torchroom.ledger.policy import Policy
from torchroom.ledger.prices import Prices
from torchroom.ledger.pricing import charge
from torchroom.ledger.service import Ledger
from torchroom.ledger.tables import audits

T0 = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)
LONG_AGO = T0 - timedelta(days=1)
PER_HOUR = 12 * MICRO


def later(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


@pytest.fixture
async def leases(db: Database) -> Leases:
    """Leases of alice, who has 100 tokens."""
    prices = Prices(db)
    for key in ("T4", "A100", "*"):
        await prices.set(key, PER_HOUR, valid_from=T0, at=T0, actor="admin")
    await prices.set("cpu", 0, valid_from=T0, at=T0, actor="admin")
    await Grants(db).grant("alice", 100 * MICRO, key="k", actor="admin", at=T0)
    return Leases(db, Policy(hold_s=600))


def shown(figures: Figures, now: datetime) -> dict[str, float]:
    """Return name{type} -> value."""
    return {
        sample.name + "".join(f"{{{value}}}" for value in sample.labels.values()):
        sample.value
        for family in families(figures, now)
        for sample in family.samples
    }  # fmt: skip


async def run(leases: Leases, lease_id: str, key: str, seconds: int) -> None:
    """Let a lease of one slot run from T0 on, settled every 200 seconds."""
    await leases.hold(lease_id, Payer("alice"), [key], T0)
    await leases.ready(lease_id, T0)
    for passed in range(0, seconds + 1, 200):
        await leases.settle({lease_id: later(passed)})


async def test_before_the_first_pass_there_is_next_to_nothing() -> None:
    """What is unknown is absent."""
    assert shown(Figures(T0), T0) == {}


async def test_the_figures_of_a_running_lease(db: Database, leases: Leases) -> None:
    """Holds, lag and tokens burned by type; every known type is there at once."""
    figures = Figures(LONG_AGO)
    await figures.refresh(db, T0)
    assert shown(figures, T0) == {
        "torchroom_tokens_burned_total{A100}": 0,
        "torchroom_tokens_burned_total{T4}": 0,
        "torchroom_tokens_burned_total{cpu}": 0,
        "torchroom_tokens_burned_total{fee}": 0,
        "torchroom_ledger_read_age_seconds": 0,
        "torchroom_holds_open": 0,
        "torchroom_held_tokens": 0,
        "torchroom_settlement_lag_seconds": 0,
    }
    await run(leases, "ls_1", "T4", 1000)
    lease = await leases.find("ls_1")
    assert lease is not None
    await figures.refresh(db, later(1000))
    told = shown(figures, later(1060))
    burned = charge(PER_HOUR, lease.settled_s) / MICRO
    assert told["torchroom_tokens_burned_total{T4}"] == burned > 0
    assert told["torchroom_holds_open"] == 1
    assert told["torchroom_held_tokens"] > 0
    assert told["torchroom_settlement_lag_seconds"] == 1060 - lease.settled_s
    assert told["torchroom_ledger_read_age_seconds"] == 60


async def test_free_and_unready_leases_do_not_lag(db: Database, leases: Leases) -> None:
    """There is nothing to settle of them."""
    await leases.hold("ls_1", Payer("alice"), ["cpu"], T0)
    await leases.ready("ls_1", T0)
    await leases.hold("ls_2", Payer("alice"), ["T4"], T0)
    figures = Figures(LONG_AGO)
    await figures.refresh(db, later(900))
    told = shown(figures, later(900))
    assert told["torchroom_settlement_lag_seconds"] == 0
    assert told["torchroom_holds_open"] == 1


async def test_tokens_burned_only_ever_grow(db: Database, leases: Leases) -> None:
    """A counter that fell would look like a restart; refunds are not taken off."""
    figures = Figures(LONG_AGO)
    await run(leases, "ls_1", "A100", 2000)
    await figures.refresh(db, later(2000))
    before = shown(figures, T0)["torchroom_tokens_burned_total{A100}"]
    end = End(Ending.BROKE, later(2000), "GPU lost.", later(10))
    await leases.end("ls_1", end, now=later(2000))
    for _ in range(2):
        await figures.refresh(db, later(2001))
        assert shown(figures, T0)["torchroom_tokens_burned_total{A100}"] == before


async def test_fees_are_counted_under_a_name_of_their_own(
    db: Database, leases: Leases
) -> None:
    """All that REVENUE gets is counted: leases by type, and fees."""
    figures = Figures(LONG_AGO)
    await run(leases, "ls_1", "A100", 400)
    await Fees(db).charge(
        "alice", "", 2 * MICRO, key="k", at=T0, actor="alice", why="More time."
    )
    for _ in range(2):
        await figures.refresh(db, later(401))
        assert figures.burned["fee"] == 2 * MICRO
        assert figures.burned["A100"] > 0


async def test_many_passes_count_what_one_does(db: Database, leases: Leases) -> None:
    """Every charge is counted once, whenever the figures are read."""
    often, once = Figures(LONG_AGO), Figures(LONG_AGO)
    await leases.hold("ls_1", Payer("alice"), ["T4", "A100"], T0)
    await leases.ready("ls_1", T0)
    for seconds in range(0, 3000, 150):
        await leases.settle({"ls_1": later(seconds)})
        await often.refresh(db, later(seconds))
    await once.refresh(db, later(3000))
    assert often.burned == once.burned
    assert once.burned["A100 + T4"] > 0


async def test_what_was_charged_before_the_start_is_not_counted(
    db: Database, leases: Leases
) -> None:
    """The counter is this process's, as all of the hub's are."""
    await run(leases, "ls_1", "T4", 1000)
    await leases.end("ls_1", End(Ending.USED, later(1000), "done"), now=later(1000))
    figures = Figures(datetime.now(UTC) + timedelta(seconds=1))
    await figures.refresh(db, later(1000))
    assert set(figures.burned.values()) == {0}


async def test_the_last_audit_is_shown_with_its_age(db: Database) -> None:
    """An alert needs both: that nothing was wrong, and that somebody looked."""
    figures = Figures(LONG_AGO)
    await audit(db, T0)
    await figures.refresh(db, later(5))
    told = shown(figures, later(60))
    assert told["torchroom_ledger_audit_ok"] == 1
    assert told["torchroom_ledger_audit_age_seconds"] == 60
    async with db.write() as conn:
        row = {
            "at": micros(later(70)),
            "took_ms": 1,
            "n_transactions": 0,
            "n_postings": 0,
            "problems": '["A sum is wrong."]',
        }
        await conn.execute(insert(audits), [row])
    await figures.refresh(db, later(80))
    assert shown(figures, later(90))["torchroom_ledger_audit_ok"] == 0


async def test_a_database_that_does_not_answer_leaves_the_last_figures() -> None:
    """The page goes on, and the figures' age grows."""
    figures = Figures(LONG_AGO)
    figures.seen = metrics.Seen(T0, 3, 3 * MICRO, None, None, None)
    db = Database.open("sqlite:////nowhere/at/all.sqlite")
    with pytest.raises(Unavailable):
        await figures.refresh(db, later(60))
    await db.close()
    told = shown(figures, later(60))
    assert told["torchroom_holds_open"] == 3
    assert told["torchroom_ledger_read_age_seconds"] == 60


def test_a_registry_shows_the_newest_figures_once() -> None:
    """Registering again, as a reloaded configuration does, puts the new in place."""
    registry = CollectorRegistry()
    old, new = Figures(T0), Figures(T0)
    new.burned["T4"] = 2_500_000
    for figures in (old, new):
        register(figures, registry, now=lambda: T0)
    page = generate_latest(registry).decode()
    assert page.count("# TYPE torchroom_tokens_burned_total counter") == 1
    assert 'torchroom_tokens_burned_total{type="T4"} 2.5' in page


async def test_the_hubs_meter_reads_the_figures_at_each_pass(url: str) -> None:
    """And a pass goes on if they cannot be read."""
    figures = Figures(LONG_AGO)
    async with Ledger(Database.open(url), Policy()) as ledger:
        meter = LedgerMeter(ledger, now=lambda: T0, figures=figures)
        assert await meter.open_leases() == {}
    assert figures.seen is not None
    assert figures.seen.at == T0


async def test_a_pass_without_figures_says_what_is_wrong_with_the_ledger() -> None:
    """That the figures fail too is not what the plugin is told."""
    nowhere = Database.open("sqlite:////nowhere/at/all.sqlite")
    async with Ledger(nowhere, Policy()) as ledger:
        meter = LedgerMeter(ledger, figures=Figures(LONG_AGO))
        with pytest.raises(MeterFailed):
            await meter.open_leases()
