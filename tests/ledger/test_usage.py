"""Usage by day, course, type and user: exact sums of what leases used when."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from torchroom.ledger.model import MeteredLease, Payer
from torchroom.ledger.pricing import charge
from torchroom.ledger.usage import By, Sums, Used, pieces, type_of, used_between

DAY0 = datetime(2026, 3, 2, tzinfo=UTC)
LEASES = st.builds(
    lambda ready_us, settled_s, per_hour, n_slots: MeteredLease(
        id="ls_1",
        payer=Payer("alice", course="cs101"),
        slot_types=("T4",) * n_slots,
        per_hour=per_hour,
        held_at=DAY0,
        ready_at=DAY0 + timedelta(microseconds=ready_us),
        settled_s=settled_s,
    ),
    st.integers(0, 10**12),
    st.integers(0, 10**6),
    st.integers(0, 10**10),
    st.integers(1, 3),
)
MOMENTS = st.integers(-(10**12), 3 * 10**12).map(
    lambda us: DAY0 + timedelta(microseconds=us)
)


def lease(ready_at: datetime | None, settled_s: int) -> MeteredLease:
    """A lease of two T4 for 3,600 microtokens per hour: one a second."""
    payer = Payer("alice", course="cs101")
    return MeteredLease("ls_1", payer, ("T4", "T4"), 3600, DAY0, ready_at, settled_s)


def test_a_lease_over_midnight_counts_on_both_days() -> None:
    """What is settled after midnight counts on the day on which it was used."""
    over = lease(DAY0 + timedelta(hours=23, minutes=50), 900)
    days = list(pieces(over, By.DAY, DAY0, DAY0 + timedelta(days=9)))
    assert days == [
        Used("2026-03-02", 600, 1200, 600),
        Used("2026-03-03", 300, 600, 300),
    ]


def test_a_lease_that_was_never_ready_is_nothing() -> None:
    """Queueing, pulling and failed starts are no usage."""
    sums = Sums()
    for by in By:
        for piece in pieces(lease(None, 0), by, DAY0, DAY0 + timedelta(days=9)):
            sums.add(piece)
    assert sums.rows() == ()


def test_other_keys_are_the_course_the_type_and_the_user() -> None:
    """A lease has one of each."""
    one = lease(DAY0, 10)
    found = {
        by: [piece.key for piece in pieces(one, by, DAY0, DAY0 + timedelta(days=1))]
        for by in By
    }
    assert found == {
        By.DAY: ["2026-03-02"],
        By.COURSE: ["cs101"],
        By.TYPE: ["T4"],
        By.USER: ["alice"],
    }


def test_slots_of_several_types_have_one_name() -> None:
    """Whatever the order of the slots; a server without one is of the CPU."""
    assert type_of(("B", "A", "B")) == "A + B"
    assert type_of(()) == "cpu"


@given(LEASES, st.lists(MOMENTS, min_size=2, max_size=8))
def test_adjoining_spans_add_up_to_the_whole(
    one: MeteredLease, moments: list[datetime]
) -> None:
    """However time is cut, the pieces sum to one span, to the microtoken."""
    moments.sort()
    sums = Sums()
    for start, end in pairwise(moments):
        sums.add(used_between(one, start, end, "x"))
    whole = Sums()
    whole.add(used_between(one, moments[0], moments[-1], "x"))
    assert sums.rows() == whole.rows()


@given(LEASES)
def test_days_add_up_to_the_lease(one: MeteredLease) -> None:
    """The days of a lease are its seconds and its charge, none left out."""
    whole = timedelta(days=365)
    total = sum(pieces(one, By.DAY, DAY0 - whole, DAY0 + whole), start=Used("all"))
    assert total == Used(
        "all",
        one.settled_s,
        one.settled_s * len(one.slot_types),
        charge(one.per_hour, one.settled_s),
    )
