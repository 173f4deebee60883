"""The life of a lease: what is held, charged, given back and said (I3, I4, I5)."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from ledger.lab import (
    ANA,
    BEN,
    FREE,
    GPU,
    HOUR,
    POLICY,
    SMALL,
    Lab,
    at,
    broke,
    failed,
    used,
)
from torchroom.ledger import leases as module
from torchroom.ledger.database import Database
from torchroom.ledger.errors import (
    BadInput,
    KeyReused,
    NotEnough,
    NotFound,
    UnknownPrice,
)
from torchroom.ledger.model import CPU, HOLDS, MICRO, Account, Ending, Kind, Payer
from torchroom.ledger.outlook import Notice
from torchroom.ledger.planning import End
from torchroom.ledger.prices import Prices
from torchroom.ledger.pricing import charge
from torchroom.ledger.quoting import Cost
from torchroom.ledger.slices import seconds_between

COURSE = Account(Kind.COURSE, "physics")
MARKED = Account(Kind.USER, ANA, "physics")


@pytest.fixture
async def lab(db: Database) -> AsyncIterator[Lab]:
    """A ledger with prices; it must be sound at the end of every test."""
    made = await Lab(db).set_up()
    yield made
    await made.check()


async def run_until(lab: Lab, seconds: int, *lease_ids: str) -> list[Notice]:
    """Settle once a minute up to a moment; return what was said."""
    said: list[Notice] = []
    for second in range(60, seconds + 1, 60):
        found = await lab.leases.settle(dict.fromkeys(lease_ids, at(second)))
        said += found.notices
    return said


# ---------------------------------------------------------------------------- the hold


async def test_the_first_minutes_are_reserved(lab: Lab) -> None:
    """Held tokens cannot be spent on anything else."""
    await lab.give(1000 * MICRO)
    await lab.hold("ls_1")
    assert await lab.has() == 400 * MICRO
    assert await lab.balance(HOLDS) == 600 * MICRO
    assert await lab.leases.open() == {"ls_1": None}


async def test_two_servers_cannot_both_spend_the_same_tokens(lab: Lab) -> None:
    """The second one is refused; nothing is reserved for it, and it may try again."""
    await lab.give(1000 * MICRO)
    await lab.hold("ls_1")
    with pytest.raises(NotEnough, match=r"needs 600 tokens, and you have 400 tokens"):
        await lab.hold("ls_2")
    assert await lab.leases.find("ls_2") is None
    await lab.end("ls_1", failed(10))
    await lab.hold("ls_2")


async def test_holding_twice_holds_once(lab: Lab) -> None:
    """A retry after an answer that was lost changes nothing."""
    await lab.give(5000 * MICRO)
    for _ in range(3):
        await lab.hold("ls_1")
    assert await lab.has() == 4400 * MICRO


async def test_a_lease_id_cannot_be_taken_over(lab: Lab) -> None:
    """By another user, or for other slots."""
    await lab.give(5000 * MICRO)
    await lab.give(5000 * MICRO, BEN)
    await lab.hold("ls_1")
    with pytest.raises(KeyReused):
        await lab.hold("ls_1", user=BEN)
    with pytest.raises(KeyReused):
        await lab.hold("ls_1", SMALL)


async def test_all_slots_are_priced_and_the_price_stays(lab: Lab, db: Database) -> None:
    """A later price is for later leases."""
    await lab.give(9000 * MICRO)
    await lab.start("ls_1", GPU, GPU)
    await Prices(db).set(GPU, 0, at=at(1), actor="ada")
    await lab.end("ls_1", used(100))
    assert await lab.charged("ls_1") == (200 * MICRO, 100)


async def test_a_slot_without_a_price_is_refused(lab: Lab) -> None:
    """Never zero by accident."""
    await lab.give(9000 * MICRO)
    with pytest.raises(UnknownPrice):
        await lab.hold("ls_1", GPU, "H200")
    assert await lab.leases.find("ls_1") is None


async def test_a_free_lease_needs_no_tokens(lab: Lab) -> None:
    """It is there from hold to end, and moves nothing."""
    await lab.start("ls_1", FREE)
    await lab.start("ls_2", CPU)
    assert (await lab.leases.settle({"ls_1": at(90)})).notices == ()
    await lab.end("ls_1", used(1000))
    await lab.end("ls_2", broke(1000, 500))
    assert await lab.codes("ls_1") == await lab.codes("ls_2") == []
    assert await lab.charged("ls_2") == (0, 500)


async def test_a_lease_can_be_free_by_decision(lab: Lab) -> None:
    """Whatever the price list says, and for its whole life."""
    await lab.leases.hold("ls_1", Payer(ANA), (GPU,), at(0), is_free=True)
    await lab.leases.ready("ls_1", at(0))
    await lab.end("ls_1", used(5000))
    assert await lab.paid() == 0


@pytest.mark.parametrize(
    ("lease_id", "user", "course"),
    [
        ("", ANA, ""),
        ("x" * 65, ANA, ""),
        ("ls\n1", ANA, ""),
        ("ls_1", "", ""),
        ("ls_1", "a/b", ""),
        ("ls_1", "x" * 10_240, ""),
        ("ls_1", ANA, " physics"),
    ],
)
async def test_names_that_cannot_be_used_are_refused(
    lab: Lab, lease_id: str, user: str, course: str
) -> None:
    """Before anything is written."""
    with pytest.raises(BadInput):
        await lab.leases.hold(lease_id, Payer(user, "", course), (GPU,), at(0))


# ------------------------------------------------------------------------------- quotes


async def test_a_quote_says_price_and_refusal_and_changes_nothing(lab: Lab) -> None:
    """One answer per choice, with what is needed, what is there and what to do."""
    await lab.give(1000 * MICRO)
    choices = [(GPU,), (GPU, GPU), (CPU,), ("H200",)]
    one, two, cpu, unknown = await lab.leases.quote(Payer(ANA), choices, at(0))
    assert one == Cost(HOUR)
    assert two.per_hour == 2 * HOUR
    assert two.refusal == (
        "This server costs 7,200 tokens per hour. For its first 10 minutes it needs "
        "1,200 tokens, and you have 1,000 tokens. Ask your instructor for tokens, "
        "redeem a voucher, or start a CPU server, which is free."
    )
    assert cpu == Cost(0)
    assert unknown.per_hour is None
    assert "has no price" in unknown.refusal
    assert await lab.has() == 1000 * MICRO


async def test_a_refusal_names_the_cap_if_that_is_why(lab: Lab) -> None:
    """A student with a used-up share must not be told to wait for the course."""
    await lab.endow("physics", 10**10, student_cap=5 * MICRO)
    (cost,) = await lab.leases.quote(Payer(ANA, "", "physics"), [(GPU,)], at(0))
    assert "you have 5 tokens for physics" in cost.refusal
    assert "drawn your part of its tokens (5 tokens)" in cost.refusal


# ------------------------------------------------------------------------ exact charges


async def test_a_server_shorter_than_any_tick_is_charged_to_the_second(
    lab: Lab,
) -> None:
    """Nobody settled it, and it costs exactly its seconds."""
    await lab.give(1000 * MICRO)
    await lab.start("ls_1")
    await lab.end("ls_1", used(7.9))
    assert await lab.charged("ls_1") == (7 * MICRO, 7)
    assert await lab.has() == 993 * MICRO
    assert await lab.codes("ls_1") == ["hold", "settle"]


async def test_queue_pull_and_boot_are_not_charged(lab: Lab) -> None:
    """The meter runs from ready on, however long the hold was there."""
    await lab.give(1000 * MICRO)
    await lab.hold("ls_1", seconds=0)
    await lab.leases.ready("ls_1", at(5000))
    await lab.leases.ready("ls_1", at(100))  # a repeat: the first one stands
    await lab.end("ls_1", used(5010))
    assert await lab.paid() == 10 * MICRO


async def test_a_failed_start_costs_nothing(lab: Lab) -> None:
    """All of the hold comes back, also if the meter ran by then."""
    await lab.give(10_000 * MICRO)
    await lab.hold("ls_1")
    await lab.end("ls_1", failed(300))
    assert await lab.codes("ls_1") == ["hold", "void"]
    await lab.start("ls_2", seconds=300)
    await lab.leases.settle({"ls_2": at(700)})
    await lab.end("ls_2", failed(800))
    assert (await lab.codes("ls_2"))[-1] == "refund"
    assert await lab.has() == 10_000 * MICRO
    assert await lab.charged("ls_2") == (0, 0)


async def test_the_rhythm_of_settling_does_not_change_the_charge(lab: Lab) -> None:
    """Every minute, once an hour, or only at the end."""
    await lab.give(10**12)
    for each in ("ls_1", "ls_2", "ls_3"):
        await lab.start(each, SMALL)
    await run_until(lab, 4000, "ls_1")
    await lab.leases.settle({"ls_2": at(3600)})
    for each in ("ls_1", "ls_2", "ls_3"):
        await lab.end(each, used(4001))
    expected = (charge(1_000_001, 4001), 4001)
    for each in ("ls_1", "ls_2", "ls_3"):
        assert await lab.charged(each) == expected
    assert len(await lab.codes("ls_1")) > len(await lab.codes("ls_3"))
    assert await lab.has() == 10**12 - 3 * expected[0]


async def test_after_a_long_silence_all_that_is_known_is_settled(lab: Lab) -> None:
    """The hub was down for five hours: in one round, from the times alone."""
    await lab.give(100_000 * MICRO)
    await lab.start("ls_1")
    await lab.leases.settle({"ls_1": at(18_000)})
    assert await lab.charged("ls_1") == (18_000 * MICRO, 18_000)
    assert await lab.leases.open() == {"ls_1": at(18_000)}
    await lab.end("ls_1", used(None, "it is gone, nobody knows since when"))
    assert await lab.paid() == 18_000 * MICRO


async def test_a_clock_that_went_back_changes_nothing(lab: Lab) -> None:
    """Neither charges nor warnings."""
    await lab.give(100_000 * MICRO)
    await lab.start("ls_1")
    await lab.leases.settle({"ls_1": at(5000)})
    before = await lab.codes("ls_1")
    for moment in (4999, 0, -5000):
        found = await lab.leases.settle({"ls_1": at(moment)})
        assert found == module.Round()
    assert await lab.codes("ls_1") == before


async def test_settling_twice_charges_once(lab: Lab) -> None:
    """A repeat moves nothing."""
    await lab.give(100_000 * MICRO)
    await lab.start("ls_1")
    assert (await lab.leases.settle({"ls_1": at(400)})).n_settled == 1
    assert (await lab.leases.settle({"ls_1": at(400)})).n_settled == 0
    assert await lab.charged("ls_1") == (400 * MICRO, 400)


async def test_ending_twice_ends_once(lab: Lab) -> None:
    """Also when the second one says something else."""
    await lab.give(100_000 * MICRO)
    await lab.start("ls_1")
    await lab.end("ls_1", used(100))
    for other in (used(500), failed(100), broke(100, 0), used(None)):
        await lab.end("ls_1", other)
    await lab.leases.ready("ls_1", at(600))
    await lab.leases.settle({"ls_1": at(900)})
    await lab.hold("ls_1")
    assert await lab.paid() == 100 * MICRO
    assert await lab.has() == 99_900 * MICRO
    lease = await lab.leases.find("ls_1")
    assert lease is not None
    assert (lease.ended_at, lease.reason) == (at(100), "stopped by its user")


async def test_a_lease_that_the_ledger_does_not_know_changes_nothing(lab: Lab) -> None:
    """It was never held: there is nothing to charge."""
    await lab.leases.settle({"ls_9": at(100)})
    await lab.end("ls_9", used(100))
    assert await lab.leases.open() == {}


async def test_an_end_before_what_was_settled_gives_the_difference_back(
    lab: Lab,
) -> None:
    """The container's own end is the truth, whatever was believed before."""
    await lab.give(100_000 * MICRO)
    await lab.start("ls_1")
    await lab.leases.settle({"ls_1": at(5000)})
    await lab.end("ls_1", used(4000))
    assert await lab.charged("ls_1") == (4000 * MICRO, 4000)
    assert await lab.has() == 96_000 * MICRO


async def test_a_reason_of_any_kind_is_kept_as_one_line(lab: Lab) -> None:
    """It comes from an engine or a driver, so it may have anything in it."""
    await lab.give(1000 * MICRO)
    await lab.start("ls_1")
    await lab.end("ls_1", used(5, "lost:\n\x00Xid\t79 \ud800" + "é" * 900))
    lease = await lab.leases.find("ls_1")
    assert lease is not None
    assert lease.reason.startswith("lost: Xid 79 é")
    assert len(lease.reason) == 500


# ------------------------------------------------------------------- the platform broke


async def test_time_after_the_platform_broke_is_not_charged(lab: Lab) -> None:
    """What was settled for it comes back, with a posting that says why."""
    await lab.give(100_000 * MICRO)
    await lab.start("ls_1")
    await run_until(lab, 3000, "ls_1")
    await lab.end("ls_1", broke(3000, 1000.5))
    assert await lab.charged("ls_1") == (1000 * MICRO, 1000)
    assert await lab.has() == 99_000 * MICRO
    assert (await lab.codes("ls_1"))[-1] == "refund"
    lease = await lab.leases.find("ls_1")
    assert lease is not None
    assert (lease.ended_at, lease.reason) == (at(1000.5), "the GPU was lost")


@pytest.mark.parametrize(
    ("end", "seconds"),
    [
        (broke(3000, 200), 200),
        (broke(100, 200), 100),
        (broke(None, 200), 200),
        (broke(None, 9000), 600),
        (broke(3000, -50), 0),
        (End(Ending.BROKE, at(800), "nobody knows when it broke"), 800),
    ],
)
async def test_a_broken_lease_is_charged_until_the_break_or_its_end(
    lab: Lab, end: End, seconds: int
) -> None:
    """Whichever is first; what is not known is not guessed."""
    await lab.give(100_000 * MICRO)
    await lab.start("ls_1")
    await lab.leases.settle({"ls_1": at(700)})
    await lab.end("ls_1", end)
    assert await lab.charged("ls_1") == (seconds * MICRO, seconds)


async def test_a_refund_goes_back_to_those_who_paid_last(lab: Lab) -> None:
    """First the user, and the course last."""
    await lab.endow("physics", 900 * MICRO)
    await lab.give(300 * MICRO)
    await lab.start("ls_1", course="physics")
    await run_until(lab, 1500, "ls_1")
    await lab.end("ls_1", broke(1500, 800))
    assert await lab.charged("ls_1") == (800 * MICRO, 800)
    assert await lab.waived("ls_1") == 0
    assert await lab.has() == 300 * MICRO
    assert await lab.balance(COURSE) == 100 * MICRO


async def test_what_nobody_can_pay_is_waived_and_charged_all_the_same(lab: Lab) -> None:
    """The site pays it, and nobody goes below zero."""
    await lab.give(700 * MICRO)
    await lab.start("ls_1")
    await run_until(lab, 3000, "ls_1")
    await lab.end("ls_1", used(3000))
    assert await lab.waived("ls_1") == 2300 * MICRO
    assert await lab.has() == 0
    assert await lab.charged("ls_1") == (3000 * MICRO, 3000)


# ------------------------------------------------------------------------- whose tokens


async def test_course_tokens_are_spent_first_and_the_rest_goes_back_where_it_was(
    lab: Lab,
) -> None:
    """Earmarked, then the course's wallet, then the user's own."""
    await lab.endow("physics", 200 * MICRO)
    await lab.give(150 * MICRO, course="physics")
    await lab.give(1000 * MICRO)
    await lab.start("ls_1", course="physics")
    assert await lab.balance(MARKED) == 0
    assert await lab.balance(COURSE) == 0
    assert await lab.has() == 750 * MICRO
    await lab.end("ls_1", used(160))
    assert await lab.balance(MARKED) == 0
    assert await lab.balance(COURSE) == 190 * MICRO
    assert await lab.has() == 1000 * MICRO


async def test_what_expires_soonest_is_spent_first_and_expired_never(
    lab: Lab,
) -> None:
    """Tokens that expire while a server runs are not spent any more."""
    await lab.give(10_000 * MICRO)
    await lab.give(900 * MICRO, expires_at=at(1000))
    await lab.start("ls_1")
    await lab.leases.settle({"ls_1": at(400)})
    assert await lab.has() == 9900 * MICRO  # 900 are spent or held, and 100 of these
    await lab.leases.settle({"ls_1": at(1000)})
    await lab.end("ls_1", used(2000))
    assert await lab.paid() == 2000 * MICRO
    assert await lab.has() >= 8000 * MICRO
    rest = await lab.balance(Account(Kind.USER, ANA, "", at(1000)))
    assert await lab.has() + rest == 8900 * MICRO


async def test_a_student_cannot_draw_beyond_the_cap(lab: Lab) -> None:
    """With any number of servers; what comes back can be drawn again."""
    await lab.endow("physics", 10**10, student_cap=1000 * MICRO)
    await lab.start("ls_1", course="physics")
    with pytest.raises(NotEnough):
        await lab.hold("ls_2", course="physics")
    await run_until(lab, 1200, "ls_1")
    await lab.end("ls_1", used(1200))
    assert await lab.balance(COURSE) == 10**10 - 1000 * MICRO
    assert await lab.waived("ls_1") == 200 * MICRO
    with pytest.raises(NotEnough):
        await lab.hold("ls_3", SMALL, course="physics")
    await lab.hold("ls_4", user=BEN, course="physics")


async def test_a_server_for_no_course_never_spends_a_courses_tokens(lab: Lab) -> None:
    """Nor one for another course."""
    await lab.endow("physics", 10**10)
    await lab.give(10**10, course="physics")
    for course in ("", "art"):
        with pytest.raises(NotEnough):
            await lab.hold("ls_1", course=course)


# -------------------------------------------------------------------------- running low


async def test_a_user_is_warned_in_time_and_then_stopped(lab: Lab) -> None:
    """Each warning once, with what is left; then the reason for the stop."""
    await lab.give(2700 * MICRO)
    await lab.start("ls_1")
    said = await run_until(lab, 2700, "ls_1")
    warnings = [each.text for each in said if not each.must_end]
    assert [text.partition(" at this rate")[0] for text in warnings] == [
        "Your tokens last for 30 more minutes",
        "Your tokens last for 10 more minutes",
        "Your tokens last for 2 more minutes",
    ]
    assert "(3,600 tokens per hour). Save your work" in warnings[0]
    (stop,) = [each for each in said if each.must_end]
    assert stop.lease_id == "ls_1"
    assert stop.text.startswith("your tokens are used up. Your files are safe")
    assert await lab.has() == 0


async def test_new_tokens_let_a_server_go_on(lab: Lab) -> None:
    """Until it is stopped, a grant is all it takes."""
    await lab.give(600 * MICRO)
    await lab.start("ls_1")
    assert (await lab.leases.settle({"ls_1": at(590)})).notices[0].must_end
    await lab.give(5000 * MICRO)
    assert (await lab.leases.settle({"ls_1": at(600)})).notices == ()
    await lab.end("ls_1", used(800))
    assert await lab.charged("ls_1") == (800 * MICRO, 800)
    assert await lab.waived("ls_1") == 0


async def test_two_servers_of_a_user_share_what_is_left(lab: Lab) -> None:
    """Both burn it, so it lasts half as long."""
    await lab.give(1200 * MICRO + 7200 * MICRO)
    await lab.start("ls_1")
    await lab.start("ls_2")
    found = await lab.leases.settle(dict.fromkeys(["ls_1", "ls_2"], at(0)))
    assert found.notices == ()
    last = replace(POLICY, warn_s=(4200, 60))
    lab.policy = last
    found = await lab.leases.settle(dict.fromkeys(["ls_1", "ls_2"], at(0)))
    assert [each.text.partition(" more at")[0] for each in found.notices] == [
        "Your tokens last for 1 h 10 m"
    ] * 2
    assert "(7,200 tokens per hour)" in found.notices[0].text


async def test_the_next_look_is_when_something_is_due(lab: Lab) -> None:
    """Half a hold later, or at the next warning."""
    await lab.give(100_000 * MICRO)
    await lab.start("ls_1")
    assert (await lab.leases.settle({"ls_1": at(0)})).next_at == at(301)
    assert (await lab.leases.settle({"ls_1": at(301)})).next_at == at(602)
    await lab.end("ls_1", used(302))
    assert (await lab.leases.settle({"ls_1": at(700)})).next_at is None


async def test_nobody_goes_below_zero_when_the_hub_was_down(lab: Lab) -> None:
    """What was used beyond all tokens is waived, so the charge is still exact."""
    await lab.give(1000 * MICRO)
    await lab.start("ls_1")
    await lab.leases.settle({"ls_1": at(50_000)})
    await lab.end("ls_1", used(50_001))
    assert await lab.charged("ls_1") == (50_001 * MICRO, 50_001)
    assert await lab.waived("ls_1") == 49_001 * MICRO
    assert await lab.has() == 0


# ----------------------------------------------------------------------------- at scale


async def test_many_leases_are_settled_in_few_transactions(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass over more leases than one batch; all of them come out exact."""
    monkeypatch.setattr(module, "BATCH", 4)
    names = [f"u{i}" for i in range(9)]
    await lab.endow("physics", 10**13)
    for name in names:
        await lab.give(10**12, name)
        await lab.start(f"ls_{name}", user=name, course="physics")
        await lab.start(f"lt_{name}", SMALL, user=name)
    all_ = [f"{kind}_{name}" for kind in ("ls", "lt") for name in names]
    found = await lab.leases.settle(dict.fromkeys(all_, at(1300)))
    assert found.n_settled == 36  # each: the hold, then what went beyond it
    assert found.notices == ()
    for each in all_:
        await lab.end(each, used(1500))
    assert await lab.paid() == 9 * (1500 * MICRO + charge(1_000_001, 1500))


async def test_a_lease_that_cannot_be_settled_does_not_stop_the_others(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is left out, and said in the log."""
    await lab.give(10**12)
    for number in range(5):
        await lab.start(f"ls_{number}")

    def spoilt(start: datetime, until: datetime) -> int:
        if until == at(1301):
            raise BadInput("this one is spoilt")
        return seconds_between(start, until)

    monkeypatch.setattr(module, "seconds_between", spoilt)
    running = {f"ls_{number}": at(1300) for number in range(5)}
    running["ls_3"] = at(1301)
    await lab.leases.settle(running)
    settled = [await lab.charged(f"ls_{number}") for number in range(5)]
    assert settled[3] == (0, 0)
    assert settled[:3] + settled[4:] == [(1300 * MICRO, 1300)] * 4


async def test_microseconds_do_not_add_up(lab: Lab) -> None:
    """Seconds are counted once from ready, not per slice."""
    await lab.give(100_000 * MICRO)
    await lab.hold("ls_1")
    ready = at(0.7)
    await lab.leases.ready("ls_1", ready)
    for step in range(1, 9):
        late = ready + timedelta(seconds=310 * step, milliseconds=-1)
        await lab.leases.settle({"ls_1": late})
    end = End(Ending.USED, ready + timedelta(seconds=2500, microseconds=-1), "")
    await lab.end("ls_1", end)
    assert await lab.charged("ls_1") == (2499 * MICRO, 2499)


# ------------------------------------------------------------------- found by a review


async def test_a_server_whose_hold_was_given_back_is_not_started(lab: Lab) -> None:
    """It would never be charged; nor would one that the ledger never heard of."""
    await lab.give(1000 * MICRO)
    await lab.hold("ls_1")
    await lab.end("ls_1", failed(10))
    for lease_id in ("ls_1", "ls_unknown"):
        with pytest.raises(NotFound, match="Start it again"):
            await lab.leases.ready(lease_id, at(20))
    assert (await lab.has(), await lab.paid()) == (1000 * MICRO, 0)


async def test_to_be_ready_twice_is_no_error_even_after_the_end(lab: Lab) -> None:
    """A repeated call changes nothing."""
    await lab.give(1000 * MICRO)
    await lab.start("ls_1")
    await lab.end("ls_1", used(10))
    await lab.leases.ready("ls_1", at(20))
    assert await lab.paid() == 10 * MICRO


async def test_what_is_held_can_be_used_after_it_expired(lab: Lab) -> None:
    """A few other tokens are no reason to give it back, where it would be lost."""
    await lab.give(600 * MICRO, expires_at=at(200))
    await lab.start("ls_1")
    await lab.give(2 * MICRO)
    found = await lab.leases.settle({"ls_1": at(301)})
    assert [each.must_end for each in found.notices if each.must_end] == []
    await run_until(lab, 602, "ls_1")
    await lab.end("ls_1", used(602))
    assert (await lab.paid(), await lab.waived("ls_1")) == (602 * MICRO, 0)


async def test_a_refund_can_be_spent_even_if_those_tokens_expired(lab: Lab) -> None:
    """Else the platform's fault would cost them."""
    await lab.give(600 * MICRO, expires_at=at(500))
    await lab.give(1000 * MICRO)
    await lab.start("ls_1")
    await lab.leases.settle({"ls_1": at(400)})
    await lab.end("ls_1", broke(600, 100))
    assert await lab.has() == 1300 * MICRO
    await lab.check()
