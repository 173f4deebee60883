"""The plugin's meter on the ledger: what a student reads, and what fails closed."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace

import pytest
from gpuspawner import ports
from gpuspawner.errors import MeterFailed, NotPayable
from gpuspawner.model import (
    CPU_TYPE,
    Device,
    Lease,
    LeaseEnd,
    Owner,
    Payer,
    Quote,
    Slot,
    Verdict,
    whole,
)
from ledger.lab import ANA, BEN, GPU, HOUR, POLICY, PRICES, Lab, at
from sqlalchemy import text, update
from torchroom.ledger.audit import audit
from torchroom.ledger.database import Database
from torchroom.ledger.meter import UNREACHABLE, UNSOUND, LedgerMeter
from torchroom.ledger.model import CPU, MICRO, REVENUE, Kind
from torchroom.ledger.periods import Every
from torchroom.ledger.policy import Policy
from torchroom.ledger.portions import Mode
from torchroom.ledger.service import Ledger
from torchroom.ledger.tables import accounts

CARD = whole(Device(0, "GPU-1", GPU, 80 * 2**30, 0))
API = "http://hub:8082/services/torchroom/api/v1"


class Clock:
    """People's clock, moved by hand."""

    def __init__(self) -> None:
        self.at = at(0)


@pytest.fixture
def clock() -> Clock:
    """The clock of the test's meter."""
    return Clock()


@pytest.fixture
async def lab(db: Database) -> Lab:
    """A ledger with prices."""
    return await Lab(db).set_up()


Hub = Callable[[Lab, Policy], LedgerMeter]


@pytest.fixture
async def hub(clock: Clock) -> AsyncIterator[Hub]:
    """Makes meters, each as a hub that has just started has it."""
    made = []

    def start(lab: Lab, policy: Policy = POLICY) -> LedgerMeter:
        meter = LedgerMeter(Ledger(lab.db, policy), url=API, now=lambda: clock.at)
        made.append(meter)
        return meter

    yield start
    for meter in made:
        await meter.close()


@pytest.fixture
def meter(lab: Lab, hub: Hub) -> LedgerMeter:
    """A meter on the test's ledger."""
    return hub(lab, POLICY)


def lease(lease_id: str = "ls_1", slots: Sequence[Slot] = (CARD,)) -> Lease:
    """Return a lease of Ana's."""
    return Lease(lease_id, Owner(ANA, "lab"), tuple(slots))


CPU_LEASE = lease("ls_cpu", ())


def payer(course: str = "", user: str = ANA) -> Payer:
    """Return who pays."""
    return Payer(Owner(user, "lab"), ("physics", "staff"), course)


def ended(seconds: float | None, broke: float | None = None) -> LeaseEnd:
    """Return the end of a container."""
    return LeaseEnd(
        None if seconds is None else at(seconds),
        "stopped by its user",
        broke_at=None if broke is None else at(broke),
    )


async def spoil(lab: Lab) -> None:
    """Change a cached balance behind the ledger's back."""
    async with lab.db.write() as conn:
        spoilt = update(accounts).where(accounts.c.kind == Kind.USER)
        await conn.execute(spoilt.values(balance=accounts.c.balance + 1))


async def mend(lab: Lab) -> None:
    """Undo `spoil`."""
    async with lab.db.write() as conn:
        mended = update(accounts).where(accounts.c.kind == Kind.USER)
        await conn.execute(mended.values(balance=accounts.c.balance - 1))


def test_it_is_the_plugins_meter(meter: LedgerMeter) -> None:
    """Checked by mypy; this says it where people look."""
    port: ports.Meter = meter
    assert port is meter


async def test_a_lease_from_quote_to_end(meter: LedgerMeter, lab: Lab) -> None:
    """Quote, hold, ready, settle, end: the price of the slots, to the second."""
    await lab.give(5000 * MICRO)
    assert await meter.quote(payer(), [(GPU,), (CPU_TYPE,)], at(0)) == [
        Quote(HOUR),
        Quote(0),
    ]
    await meter.hold(lease(), payer(), at(0))
    assert await meter.open_leases() == {"ls_1": None}
    await meter.ready("ls_1", at(30))
    settlement = await meter.settle({"ls_1": at(430)})
    assert settlement.verdicts == ()
    assert settlement.next_at == at(731)
    assert await meter.open_leases() == {"ls_1": at(430)}
    for _ in range(2):
        await meter.end("ls_1", ended(530.9))
    assert await meter.open_leases() == {}
    assert await lab.paid() == 500 * MICRO
    await lab.check()


async def test_the_three_ends_of_a_lease_reach_the_ledger(
    meter: LedgerMeter, lab: Lab
) -> None:
    """Used, failed, and broken with the moment from which it was."""
    await lab.give(50_000 * MICRO)
    for lease_id in ("ls_1", "ls_2", "ls_3", "ls_4"):
        await meter.hold(lease(lease_id), payer(), at(0))
        await meter.ready(lease_id, at(0))
    await meter.end("ls_1", ended(100))
    await meter.end("ls_2", replace(ended(100), is_failed_start=True))
    await meter.end("ls_3", ended(100, broke=40))
    await meter.end("ls_4", ended(None))
    assert await lab.paid() == 140 * MICRO


async def test_running_low_is_said_and_then_it_must_end(
    meter: LedgerMeter, lab: Lab
) -> None:
    """In the plugin's words."""
    await lab.give(900 * MICRO)
    await meter.hold(lease(), payer(), at(0))
    await meter.ready("ls_1", at(0))
    settlement = await meter.settle({"ls_1": at(340)})
    assert settlement.ends == {"ls_1": at(900)}
    (warning,) = settlement.verdicts
    assert warning.text.startswith("Your tokens last for 9 more minutes at this rate")
    assert not warning.must_end
    settlement = await meter.settle({"ls_1": at(880)})
    assert settlement.ends == {"ls_1": at(900)}
    (stop,) = settlement.verdicts
    assert stop == Verdict("ls_1", stop.text, must_end=True)
    assert "a CPU server is free" in stop.text


async def test_when_tokens_run_out_is_told_of_the_near_future_only(
    meter: LedgerMeter, lab: Lab
) -> None:
    """Who has tokens for years has no end in sight; a free server has none."""
    await lab.give(10**9 * MICRO)
    await meter.hold(lease(), payer(), at(0))
    await meter.ready("ls_1", at(0))
    assert (await meter.settle({"ls_1": at(340)})).ends == {}


async def test_a_refusal_says_what_to_do(meter: LedgerMeter, lab: Lab) -> None:
    """At the quote as an answer, at the hold as a refusal."""
    await lab.give(10 * MICRO)
    (quote,) = await meter.quote(payer(), [(GPU,)], at(0))
    with pytest.raises(NotPayable) as refused:
        await meter.hold(lease(), payer(), at(0))
    assert quote == Quote(HOUR, str(refused.value))
    assert quote.refusal.endswith(
        "it needs 600 tokens, and you have 10 tokens. Ask your instructor for tokens, "
        "redeem a voucher, or start a CPU server, which is free."
    )
    assert await meter.open_leases() == {}


async def test_a_refusal_says_when_the_next_allowance_comes(
    meter: LedgerMeter, lab: Lab
) -> None:
    """In the course's own time zone."""
    await lab.endow("physics", 10 * MICRO)
    ledger = Ledger(lab.db, lab.policy)
    await ledger.allowances.define(
        "physics",
        every=Every.WEEKLY,
        mode=Mode.ADD,
        amount=4 * MICRO,
        time_zone="Europe/Berlin",
        actor="ada",
        at=at(-60),
    )
    (quote,) = await meter.quote(payer("physics"), [(GPU,)], at(0))
    assert "you have 10 tokens for physics" in quote.refusal
    later = (
        " Your next allowance (4 tokens) comes on Monday 09 March, 00:00 "
        "(Europe/Berlin)."
    )
    assert quote.refusal.endswith(later)
    with pytest.raises(NotPayable, match="Your next allowance"):
        await meter.hold(lease(), payer("physics"), at(0))


async def test_an_allowance_that_is_due_pays_for_the_first_server(
    meter: LedgerMeter, lab: Lab
) -> None:
    """Nobody waits for the housekeeping."""
    await lab.endow("physics", 700 * MICRO, student_cap=700 * MICRO)
    ledger = Ledger(lab.db, lab.policy)
    await ledger.allowances.define(
        "physics",
        every=Every.MONTHLY,
        mode=Mode.REFILL,
        amount=600 * MICRO,
        time_zone="UTC",
        actor="ada",
        at=at(-60),
    )
    await meter.hold(lease(), payer("physics"), at(0))
    view = await ledger.statements.balance(ANA, at(0))
    assert view.held == 600 * MICRO
    await lab.check()


async def test_everybody_is_welcomed_once(lab: Lab, hub: Hub) -> None:
    """By whichever hub sees them first, also after restarts."""
    policy = Policy(welcome=1000 * MICRO)
    for _ in range(2):
        meter = hub(lab, policy)
        for _ in range(2):
            assert await meter.quote(payer(), [(GPU,)], at(0)) == [Quote(HOUR)]
    await hub(lab, policy).hold(lease(), payer(), at(0))
    assert await lab.has() == 400 * MICRO


async def test_courses_are_the_groups_that_have_tokens(
    meter: LedgerMeter, lab: Lab
) -> None:
    """A group that the ledger does not know pays for nothing."""
    await lab.endow("physics", 10)
    await lab.endow("art", 10)
    assert await meter.courses(["staff", "physics"]) == {"physics": "physics"}
    assert await meter.courses([]) == {}


async def test_nobody_spends_for_a_course_that_they_are_not_in(
    meter: LedgerMeter, lab: Lab
) -> None:
    """Whatever the caller has checked before."""
    await lab.endow("art", 10**12)
    with pytest.raises(NotPayable, match="not in the course"):
        await meter.hold(lease(), payer("art"), at(0))


async def test_a_slot_without_a_price_is_refused(meter: LedgerMeter, lab: Lab) -> None:
    """The price comes from the slots that were granted."""
    other = whole(Device(0, "GPU-2", "H200", 1, 0))
    (quote,) = await meter.quote(payer(), [("H200",)], at(0))
    assert quote.per_hour is None
    assert "has no price" in quote.refusal
    with pytest.raises(NotPayable, match="has no price"):
        await meter.hold(lease("ls_1", [other]), payer(), at(0))


# -------------------------------------------------------------- nobody is locked out


@pytest.mark.parametrize("cpu_price", [HOUR, None])
async def test_a_cpu_server_starts_without_tokens(
    db: Database, hub: Hub, cpu_price: int | None
) -> None:
    """Where CPU costs tokens, or has no price, it is free for who cannot pay."""
    lab = await Lab(db).set_up({**PRICES, CPU: cpu_price})
    meter = hub(lab, POLICY)
    assert await meter.quote(payer(), [(CPU_TYPE,)], at(0)) == [Quote(0)]
    for _ in range(2):
        await meter.hold(CPU_LEASE, payer(), at(0))
    await meter.ready("ls_cpu", at(0))
    await meter.settle({"ls_cpu": at(9000)})
    statement = await meter.statement(CPU_LEASE, payer(), at(0))
    assert statement.rate_microtokens_per_hour == 0
    assert statement.note == "This server is free."
    await meter.end("ls_cpu", ended(9999))
    assert await lab.balance(REVENUE) == 0
    await lab.check()


async def test_a_cpu_server_that_can_be_paid_is_paid(db: Database, hub: Hub) -> None:
    """Free is what is left when nothing else is."""
    lab = await Lab(db).set_up({CPU: HOUR})
    await lab.give(1000 * MICRO)
    meter = hub(lab, POLICY)
    assert await meter.quote(payer(), [(CPU_TYPE,)], at(0)) == [Quote(HOUR)]
    await meter.hold(CPU_LEASE, payer(), at(0))
    await meter.ready("ls_cpu", at(0))
    await meter.end("ls_cpu", ended(50))
    assert await lab.paid() == 50 * MICRO


# ------------------------------------------------------------------------ fails closed


async def test_a_ledger_that_does_not_pass_its_audit_starts_nothing_paid(
    meter: LedgerMeter, lab: Lab, clock: Clock, hub: Hub
) -> None:
    """Until it is repaired: what runs goes on and is charged then, and CPU is free."""
    await lab.give(5000 * MICRO)
    await meter.hold(lease("ls_0"), payer(), at(0))
    await meter.ready("ls_0", at(0))
    await spoil(lab)
    restarted = hub(lab, POLICY)
    with pytest.raises(MeterFailed) as failed:
        await restarted.hold(lease(), payer(), at(10))
    assert str(failed.value) == UNSOUND
    await restarted.hold(CPU_LEASE, payer(), at(10))
    for move in (restarted.settle({"ls_0": at(400)}), restarted.end("ls_0", ended(1))):
        with pytest.raises(MeterFailed):
            await move
    await mend(lab)
    with pytest.raises(MeterFailed):
        await restarted.hold(lease(), payer(), at(20))
    clock.at = at(90)
    await restarted.hold(lease(), payer(), at(90))
    await restarted.end("ls_0", ended(500))
    assert await lab.paid() == 500 * MICRO
    await lab.check()


async def test_the_audit_is_made_once(meter: LedgerMeter, lab: Lab) -> None:
    """Not for every server."""
    await lab.give(5000 * MICRO)
    for lease_id in ("ls_1", "ls_2", "ls_3"):
        await meter.hold(lease(lease_id), payer(), at(0))
    async with lab.db.read() as conn:
        count = await conn.scalar(text("SELECT count(*) FROM audits"))
    assert count == 1


async def test_the_daily_audit_stops_what_costs_tokens_in_a_running_hub(
    meter: LedgerMeter, lab: Lab, clock: Clock
) -> None:
    """Whoever made it; the form says so, and a repaired ledger is found by itself."""
    await lab.give(5000 * MICRO)
    await meter.hold(lease("ls_0"), payer(), at(0))
    await spoil(lab)
    await audit(lab.db, at(5))
    with pytest.raises(MeterFailed) as failed:
        await meter.hold(lease(), payer(), at(10))
    assert str(failed.value) == UNSOUND
    gpu, cpu = await meter.quote(payer(), [(GPU,), (CPU_TYPE,)], at(11))
    assert (gpu.refusal, cpu) == (UNSOUND, Quote(0))
    await mend(lab)
    clock.at = at(90)
    await meter.hold(lease(), payer(), at(90))


async def test_without_its_database_only_cpu_servers_start(clock: Clock) -> None:
    """Their whole life works, and no call of theirs waits for a ledger."""
    nowhere = Database.open("sqlite:////nowhere/ledger.sqlite")
    meter = LedgerMeter(Ledger(nowhere, Policy()), url=API, now=lambda: clock.at)
    one, two = await meter.quote(payer(), [(GPU,), (CPU_TYPE,)], at(0))
    assert (one, two) == (Quote(None, UNREACHABLE), Quote(0))
    with pytest.raises(MeterFailed):
        await meter.hold(lease(), payer(), at(0))
    await meter.hold(CPU_LEASE, payer(), at(0))
    await meter.ready("ls_cpu", at(1))
    statement = await meter.statement(CPU_LEASE, payer(), at(1))
    assert statement.balance_microtokens is None
    assert "This server is free." in statement.note
    await meter.end("ls_cpu", ended(100))
    await meter.close()
    for call in (
        meter.courses(["physics"]),
        meter.ready("ls_1", at(0)),
        meter.settle({"ls_1": at(0)}),
        meter.end("ls_1", ended(5)),
        meter.open_leases(),
        meter.statement(lease(), payer(), at(0)),
    ):
        with pytest.raises(MeterFailed):
            await call
    await meter.close()
    await nowhere.close()


async def test_a_name_that_the_ledger_cannot_use_is_a_refusal(
    lab: Lab, hub: Hub
) -> None:
    """A sentence, not a fault; and still a CPU server."""
    meter = hub(lab, Policy(welcome=5))
    odd = payer(user="a/b")
    one, two = await meter.quote(odd, [(GPU,), (CPU_TYPE,)], at(0))
    assert "must not have slashes" in one.refusal
    assert two == Quote(0)
    with pytest.raises(NotPayable, match="must not have slashes"):
        await meter.hold(lease(), odd, at(0))
    await meter.hold(CPU_LEASE, odd, at(0))


# -------------------------------------------------------------------------- statements


async def test_a_statement_has_what_is_left_and_what_this_server_burns(
    meter: LedgerMeter, lab: Lab
) -> None:
    """With the address where newer figures come from."""
    await lab.give(5000 * MICRO)
    await lab.give(77 * MICRO, BEN)
    await meter.hold(lease(), payer(), at(0))
    statement = await meter.statement(lease(), payer(), at(0))
    assert statement.provider == "torchroom"
    assert not statement.is_placeholder
    assert statement.balance_microtokens == 5000 * MICRO
    assert statement.rate_microtokens_per_hour == HOUR
    assert statement.note == "This server burns 3,600 tokens per hour."
    assert statement.url == API
