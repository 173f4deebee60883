"""A broken GPU is never leased, a healed one comes back by itself, and none flaps."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from gpuspawner import xids
from gpuspawner.faults import FORGIVEN, QUIET, QUIET_MAX
from gpuspawner.health import (
    Change,
    EndLease,
    Finding,
    Health,
    HealthBook,
    Record,
    Verdict,
)
from gpuspawner.sample import Event, EventKind, Recovery, Remapping, Sample, Sweep
from gpuspawner.xids import Bucket, Consequence, Cure
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

A, B = "GPU-aaaa", "GPU-bbbb"
START = datetime(2026, 11, 2, 8, 0, tzinfo=UTC)
SECOND, MINUTE, HOUR = (timedelta(**{u: 1}) for u in ("seconds", "minutes", "hours"))
STEP = timedelta(seconds=10)
GOOD_ROWS = Remapping(0, 0, is_pending=False, has_failed=False)


def good(uuid: str = A, **changes: Any) -> Sample:
    """Return what a healthy device says."""
    sample = Sample(
        uuid,
        START,
        energy_j=1_000_000.0,
        n_ecc_uncorrected=0,
        recovery=Recovery.NONE,
        remapping=GOOD_ROWS,
        n_nvlinks=18,
    )
    return replace(sample, **changes)


class Machine:
    """A machine with a book of health, a clock, and users on its devices."""

    def __init__(self) -> None:
        self.book = HealthBook()
        self.now = START
        self.boot_id = "boot-1"
        self.holders: dict[str, set[str]] = {}
        self.sweep()

    def sweep(self, *samples: Sample, xid: int | None = None) -> tuple[Verdict, ...]:
        """Read device A, or these samples, `STEP` later."""
        events = [] if xid is None else [Event(A, self.now, EventKind.XID, xid)]
        return self.read(samples or (good(),), events)

    def read(
        self, samples: Sequence[Sample], events: Sequence[Event] = ()
    ) -> tuple[Verdict, ...]:
        self.now += STEP
        return self.book.see(
            Sweep({sample.uuid: sample for sample in samples}, tuple(events)),
            now=self.now,
            boot_id=self.boot_id,
            holders=self.holders,
        )

    def wait(self, time: timedelta, sample: Sample | None = None) -> None:
        """Let time pass, with a sweep before and after."""
        self.sweep(sample or good())
        self.now += time
        self.sweep(sample or good())

    def reboot(self) -> None:
        self.boot_id += "+"
        self.sweep(good(energy_j=5.0))

    def state(self) -> Health:
        return self.book.state_of(A)

    @property
    def record(self) -> Record:
        return self.book.records[A]


def ends(verdicts: Sequence[Verdict]) -> list[EndLease]:
    return [verdict for verdict in verdicts if isinstance(verdict, EndLease)]


# --- what the codes mean


def test_every_code_has_a_consequence_and_words() -> None:
    """No XID, known or not, is without a text and a remedy."""
    for code in range(-1, 400):
        found = xids.look_up(code)
        assert found.what
        assert found.remedy.endswith(".")
        is_sick = found.consequence in {Consequence.DRAIN, Consequence.QUARANTINE}
        assert is_sick == (found.cure is not Cure.GONE)


def test_the_buckets_are_those_of_the_catalogue() -> None:
    """Each of its codes, 1 to 161, is in one of them."""
    listed = [code for codes in xids.BUCKETS.values() for code in codes]
    assert sorted(listed) == list(range(1, 162))
    assert xids.BUCKETS[Bucket.RESET_GPU] == {
        *(46, 62, 64, 95, 109, 110, 119, 120, 136, 140, 143, 155, 156, 158)
    }


@pytest.mark.parametrize("code", [13, 31, 43, 45, 69, 80])
def test_a_users_own_failing_program_ends_nothing(code: int) -> None:
    """An illegal memory access is kept as evidence, however often."""
    machine = Machine()
    machine.holders = {A: {"ann"}}
    for _ in range(50):
        assert machine.sweep(xid=code) == ()
    assert machine.state() is Health.HEALTHY
    (seen,) = machine.record.evidence
    assert (seen.code, seen.user, seen.n) == (f"xid-{code}", "ann", 50)


def test_a_device_is_broken_since_the_first_thing_that_broke() -> None:
    """From then on nobody pays for it, whatever else breaks later."""
    machine = Machine()
    machine.sweep(xid=79)
    since = machine.now
    machine.holders = {A: {"ann"}}
    for _ in range(3):
        (end,) = ends(machine.sweep(xid=48))
        assert since - STEP <= end.since <= since


@pytest.mark.parametrize("code", [46, 48, 54, 62, 79, 95, 109, 119, 142, 151])
def test_a_broken_device_ends_its_lease_refundably_and_says_why(code: int) -> None:
    """The user reads what broke and what to do, the log gets one change."""
    machine = Machine()
    machine.holders = {A: {"ann"}}
    end, change = machine.sweep(xid=code)
    assert isinstance(end, EndLease)
    assert end.is_refundable
    assert f"XID {code}: " in end.reason
    assert "start the server again, and it gets another GPU" in end.reason
    assert isinstance(change, Change)
    assert (change.before, change.after) == (Health.HEALTHY, Health.QUARANTINED)
    assert not machine.book.is_leasable(A)


def test_an_unknown_code_is_kept_but_takes_no_device_away() -> None:
    """A new driver may report what is harmless."""
    machine = Machine()
    assert machine.sweep(xid=999) == ()
    assert machine.state() is Health.HEALTHY
    assert machine.record.evidence[0].text == "XID 999: no text is known for this code"


def test_a_memory_error_that_hit_one_program_lets_the_server_go_on() -> None:
    """XID 48 with 94: the bad row is replaced at a reset, after the lease."""
    machine = Machine()
    machine.holders = {A: {"ann"}}
    events = [Event(A, machine.now, EventKind.XID, code) for code in (48, 94)]
    assert ends(machine.read([good()], events)) == []
    assert machine.state() is Health.DRAINING
    machine.holders = {}
    machine.sweep()
    assert machine.state() is Health.QUARANTINED


def test_a_memory_error_that_hit_all_programs_ends_the_lease_all_the_same() -> None:
    """XID 95 beside 94 and 48 wins."""
    machine = Machine()
    machine.holders = {A: {"ann"}}
    events = [Event(A, machine.now, EventKind.XID, code) for code in (48, 94, 95)]
    assert len(ends(machine.read([good()], events))) == 1


# --- different users, one device


def fail(machine: Machine, user: str, uuid: str = A, code: int = 31) -> None:
    machine.holders = {uuid: {user}}
    event = Event(uuid, machine.now, EventKind.XID, code)
    machine.read([good(A), good(B)], [event])


def test_programs_of_different_users_failing_on_one_device_drain_it() -> None:
    """Three users: it is the GPU. The third one's server goes on until its end."""
    machine = Machine()
    for user in ("ann", "bob", "cem"):
        assert machine.state() is Health.HEALTHY
        fail(machine, user)
    assert machine.state() is Health.DRAINING
    assert "the programs of 3 users failed on it" in machine.record.reason
    machine.holders = {}
    machine.sweep()
    assert machine.state() is Health.QUARANTINED


def test_a_mere_suspicion_passes_by_itself() -> None:
    """Quiet, then a probation, then leased again; old failures count no more."""
    machine = Machine()
    for user in ("ann", "bob", "cem"):
        fail(machine, user)
    machine.holders = {}
    machine.wait(QUIET)
    assert machine.state() is Health.PROBATION
    machine.wait(QUIET)
    assert machine.state() is Health.HEALTHY
    fail(machine, "dan")
    assert machine.state() is Health.HEALTHY


def test_the_same_faulty_exercise_on_every_device_is_not_the_devices_fault() -> None:
    """A class whose programs fail everywhere loses no GPU."""
    machine = Machine()
    for i in range(12):
        fail(machine, f"student{i}", A if i % 2 else B)
    assert machine.state() is Health.HEALTHY
    assert machine.book.is_leasable(B)


def test_failures_long_apart_or_of_nobody_known_are_not_suspicious() -> None:
    """Three in three weeks are nothing; with two users on it nobody knows whose."""
    machine = Machine()
    for user in ("ann", "bob", "cem"):
        fail(machine, user)
        machine.now += 3 * HOUR
    for pair in ({"dan", "eve"}, {"fay", "gus"}, {"hal", "ida"}):
        machine.holders = {A: pair}
        machine.sweep(xid=31)
    assert machine.state() is Health.HEALTHY


# --- what is measured


def test_a_lost_device_ends_its_lease_and_comes_back_by_probation() -> None:
    """GPU lost: quarantined while lost, however long."""
    machine = Machine()
    machine.holders = {A: {"ann"}}
    lost = Sample(A, START, is_lost=True)
    assert len(ends(machine.sweep(lost))) == 1
    machine.holders = {}
    machine.wait(5 * HOUR, lost)
    assert machine.state() is Health.QUARANTINED
    machine.sweep()
    assert machine.state() is Health.PROBATION
    assert "the driver cannot reach it" in machine.record.reason
    machine.wait(QUIET)
    assert machine.state() is Health.HEALTHY
    assert machine.record.reason == ""


def test_a_lease_is_ended_again_after_a_hub_restart_until_it_is_gone() -> None:
    """A hub killed between verdict and deed does not forget."""
    machine = Machine()
    machine.holders = {A: {"ann"}}
    machine.sweep(xid=79)
    machine.book = restarted(machine.book)
    assert len(ends(machine.sweep())) == 1
    machine.holders = {}
    assert ends(machine.sweep()) == []


@pytest.mark.parametrize("action", [Recovery.RESET, Recovery.REBOOT])
def test_a_driver_that_asks_for_a_reset_gets_the_device_emptied(
    action: Recovery,
) -> None:
    """Leases end; when the driver asks no more, a reset was seen."""
    machine = Machine()
    machine.holders = {A: {"ann"}}
    machine.sweep(xid=95)
    assert len(ends(machine.sweep(good(recovery=action)))) == 1
    machine.holders = {}
    machine.sweep()
    assert machine.state() is Health.PROBATION


@pytest.mark.parametrize("action", [Recovery.DRAIN_P2P, Recovery.DRAIN_AND_RESET])
def test_a_driver_that_asks_to_drain_lets_the_lease_end_first(
    action: Recovery,
) -> None:
    """Draining, then quarantined until the driver asks no more."""
    machine = Machine()
    machine.holders = {A: {"ann"}}
    sick = good(recovery=action)
    assert ends(machine.sweep(sick)) == []
    assert machine.state() is Health.DRAINING
    machine.holders = {}
    machine.sweep(sick)
    assert machine.state() is Health.QUARANTINED
    machine.sweep()
    assert machine.state() is Health.PROBATION


def test_a_recovery_event_counts_before_the_next_reading() -> None:
    """What the driver shouts is heard when the sample does not tell; 6 is a reset."""
    machine = Machine()
    silent = good(recovery=None)
    machine.read([silent], [Event(A, machine.now, EventKind.RECOVERY, 6)])
    assert machine.state() is Health.QUARANTINED
    machine.read([silent], [Event(A, machine.now, EventKind.RECOVERY, 77)])
    assert machine.state() is Health.QUARANTINED
    machine.read([silent], [Event(A, machine.now, EventKind.RECOVERY, 0)])
    assert machine.state() is Health.PROBATION


def test_rows_to_be_replaced_drain_the_device_until_its_reset() -> None:
    """The running lease is not ended for them."""
    machine = Machine()
    machine.holders = {A: {"ann"}}
    pending = good(remapping=replace(GOOD_ROWS, is_pending=True))
    assert ends(machine.sweep(pending)) == []
    assert machine.state() is Health.DRAINING
    machine.holders = {}
    machine.wait(5 * HOUR, pending)
    assert machine.state() is Health.QUARANTINED
    machine.sweep()
    assert machine.state() is Health.PROBATION


def test_rows_that_could_not_be_replaced_need_hands() -> None:
    """No reboot, no reset and no time heals them, only an admin's word."""
    machine = Machine()
    failed = good(remapping=replace(GOOD_ROWS, has_failed=True))
    machine.sweep(failed)
    machine.reboot()
    machine.wait(100 * HOUR)
    assert machine.state() is Health.QUARANTINED
    assert "Have the GPU replaced" in machine.record.reason
    machine.book.override(A, Health.HEALTHY, "seen", admin="root", now=machine.now)
    assert machine.book.is_leasable(A)


def test_support_cases_need_hands_too() -> None:
    """XID 54: a cable does not plug itself in."""
    machine = Machine()
    machine.sweep(xid=54)
    machine.reboot()
    machine.wait(100 * HOUR)
    assert machine.state() is Health.QUARANTINED


def test_memory_errors_are_counted_within_one_load_of_the_driver() -> None:
    """The first number is no rise, a rise drains, a counter that fell is a reset."""
    machine = Machine()
    machine.sweep(good(n_ecc_uncorrected=0))
    machine.book = HealthBook()
    machine.sweep(good(n_ecc_uncorrected=7))
    assert machine.state() is Health.HEALTHY
    machine.sweep(good(n_ecc_uncorrected=8))
    assert machine.state() is Health.QUARANTINED
    machine.sweep(good(n_ecc_uncorrected=0))
    assert machine.state() is Health.PROBATION


def test_memory_errors_after_a_reset_count_from_nothing() -> None:
    """A counter that restarted and is not zero has errors of its own."""
    machine = Machine()
    machine.sweep(good(n_ecc_uncorrected=8))
    machine.boot_id = "boot-2"
    machine.sweep(good(n_ecc_uncorrected=1))
    assert machine.state() is Health.QUARANTINED


def test_links_that_are_down_drain_until_they_are_back() -> None:
    """The baseline is the most that were seen."""
    machine = Machine()
    machine.holders = {A: {"ann"}}
    machine.sweep(good(n_nvlinks=16))
    assert machine.state() is Health.DRAINING
    assert "2 of its 18 NVLinks are down" in machine.record.reason
    machine.sweep(good(n_nvlinks=18))
    assert machine.state() is Health.PROBATION


def test_a_machine_that_booted_with_fewer_links_is_taken_as_it_is() -> None:
    """After a boot the baseline is learnt anew: a bridge may have been removed."""
    machine = Machine()
    machine.boot_id = "boot-2"
    machine.sweep(good(n_nvlinks=12))
    assert machine.state() is Health.HEALTHY


def test_a_mig_instance_is_judged_by_its_device() -> None:
    """Its own sample makes no record."""
    machine = Machine()
    machine.read([good(), Sample("MIG-1", START, is_lost=True)])
    machine.read([good(), Sample("MIG-GPU-x/1/0", START)])
    assert set(machine.book.records) == {A}


# --- what heals


def test_a_reboot_heals_by_probation() -> None:
    """XID 79, restart, quiet, leased again: nobody had to do anything in the hub."""
    machine = Machine()
    machine.sweep(xid=79)
    machine.wait(100 * HOUR)
    assert machine.state() is Health.QUARANTINED
    machine.reboot()
    assert machine.state() is Health.PROBATION
    machine.wait(QUIET - MINUTE)
    assert machine.state() is Health.PROBATION
    machine.wait(MINUTE)
    assert machine.state() is Health.HEALTHY


def test_a_reset_shows_in_the_energy_counter() -> None:
    """Reset or driver reload while the hub was down, too."""
    machine = Machine()
    machine.sweep(xid=95)
    machine.book = restarted(machine.book)
    machine.sweep(good(energy_j=2_000_000.0))
    assert machine.state() is Health.QUARANTINED
    machine.sweep(good(energy_j=50.0))
    assert machine.state() is Health.PROBATION


def test_a_hub_restart_heals_nothing() -> None:
    """The well-known way to get a broken GPU back into the pool does not work here."""
    machine = Machine()
    machine.sweep(xid=95)
    for _ in range(3):
        machine.book = restarted(machine.book)
        machine.wait(24 * HOUR)
    assert machine.state() is Health.QUARANTINED
    assert "XID 95" in machine.record.reason


def test_an_unknown_boot_id_is_no_reboot() -> None:
    """Unknown before, unknown after, or both."""
    machine = Machine()
    machine.sweep(xid=95)
    machine.boot_id = ""
    machine.sweep()
    machine.boot_id = "boot-1"
    machine.sweep()
    assert machine.state() is Health.QUARANTINED


def test_silence_does_not_heal() -> None:
    """Probation ends only when the device was read."""
    machine = Machine()
    machine.sweep(Sample(A, START, is_lost=True))
    machine.sweep()
    machine.now += 100 * HOUR
    machine.read([])
    assert machine.state() is Health.PROBATION


def test_a_relapse_waits_twice_as_long() -> None:
    """New evidence on probation: quarantined, and for longer than before."""
    machine = Machine()
    lost = Sample(A, START, is_lost=True)
    machine.sweep(lost)
    machine.sweep()
    machine.sweep(lost)
    machine.sweep()
    assert machine.state() is Health.QUARANTINED
    assert "Unfit 2 times lately (the driver cannot reach it)" in machine.record.reason
    machine.wait(2 * QUIET)
    assert machine.state() is Health.PROBATION
    machine.wait(QUIET)
    assert machine.state() is Health.PROBATION
    machine.wait(QUIET)
    assert machine.state() is Health.HEALTHY


def test_a_day_in_health_is_forgiven() -> None:
    """Then the next fall is a first one again."""
    machine = Machine()
    lost = Sample(A, START, is_lost=True)
    for _ in range(4):
        machine.sweep(lost)
    machine.wait(QUIET)
    machine.wait(QUIET)
    assert machine.state() is Health.HEALTHY
    machine.wait(FORGIVEN)
    machine.sweep(lost)
    assert machine.record.n_falls == 1


def test_a_device_that_comes_and_goes_at_every_sweep_does_not_flap() -> None:
    """Two days of a loose cable: a handful of changes, not thousands."""
    machine = Machine()
    lost = Sample(A, START, is_lost=True)
    n_changes = 0
    for i in range(int(2 * 24 * HOUR / STEP)):
        verdicts = machine.sweep(lost if i % 2 else good())
        n_changes += sum(isinstance(verdict, Change) for verdict in verdicts)
    assert 2 <= n_changes <= 30
    assert machine.record.n_falls >= 5


def test_a_clock_that_was_set_back_keeps_nothing_away_for_years() -> None:
    """Times in the future are taken as now."""
    machine = Machine()
    machine.now += timedelta(days=3650)
    machine.sweep(Sample(A, START, is_lost=True))
    machine.sweep()
    machine.now -= timedelta(days=3650)
    machine.wait(QUIET)
    assert machine.state() is Health.HEALTHY


# --- what others find


def test_an_unclean_slot_heals_at_once_when_it_is_clean() -> None:
    """The device is not sick: no probation the first time, one if it happens again."""
    machine = Machine()
    (change,) = machine.book.report(A, Finding.UNCLEAN, "left: 42.", machine.now, "ann")
    assert isinstance(change, Change)
    assert not machine.book.is_leasable(A)
    machine.sweep()
    assert machine.state() is Health.QUARANTINED
    assert restarted(machine.book).unclean == (A,)
    machine.book.report(A, Finding.UNCLEAN, "left: 42.", machine.now, "ann")
    machine.book.clear(A, Finding.UNCLEAN)
    machine.sweep()
    assert machine.state() is Health.HEALTHY
    machine.book.report(A, Finding.UNCLEAN, "left: 43", machine.now, "bob")
    machine.book.clear(A, Finding.UNCLEAN)
    machine.wait(2 * QUIET)
    assert machine.state() is Health.PROBATION


def test_a_device_that_was_sick_long_ago_is_trusted_after_an_unclean_slot() -> None:
    """What was forgiven is forgotten."""
    machine = Machine()
    machine.sweep(xid=95)
    machine.reboot()
    machine.wait(QUIET)
    machine.wait(FORGIVEN)
    machine.book.report(A, Finding.UNCLEAN, "left: 42", machine.now)
    machine.book.clear(A, Finding.UNCLEAN)
    machine.sweep()
    assert machine.state() is Health.HEALTHY


def test_an_unclean_slot_on_a_sick_device_does_not_spare_it_the_probation() -> None:
    """Cleaning up is no cure for an XID."""
    machine = Machine()
    machine.sweep(xid=95)
    machine.book.report(A, Finding.UNCLEAN, "left: 42", machine.now)
    machine.reboot()
    machine.book.clear(A, Finding.UNCLEAN)
    machine.sweep()
    assert machine.state() is Health.PROBATION


@pytest.mark.parametrize("finding", [Finding.NVML_LOST_INSIDE, Finding.UNCAPPED])
def test_faults_of_the_set_up_are_evidence_only(finding: Finding) -> None:
    """They are not the device's."""
    machine = Machine()
    machine.book.report(A, finding, "in server ann", machine.now, "ann")
    assert machine.state() is Health.HEALTHY
    assert machine.record.evidence[0].code == finding


# --- an admin's word


def test_an_admin_takes_a_device_away_and_gives_it_back() -> None:
    """For maintenance; it stays away over sweeps, time, reboots and hub restarts."""
    machine = Machine()
    book = machine.book
    book.override(A, Health.QUARANTINED, "new fan", admin="root", now=machine.now)
    machine.reboot()
    machine.wait(100 * HOUR)
    machine.book = book = restarted(book)
    assert machine.state() is Health.QUARANTINED
    assert machine.record.reason == "root says: new fan"
    (change,) = book.lift(A)
    assert isinstance(change, Change)
    assert machine.book.is_leasable(A)


def test_healthy_by_an_admins_word_lasts_until_something_new_is_seen() -> None:
    """The fault he knew of is accepted, the next one is not."""
    machine = Machine()
    down = good(n_nvlinks=17)
    machine.sweep(down)
    machine.book.override(A, Health.HEALTHY, "one link", admin="root", now=machine.now)
    machine.wait(100 * HOUR, down)
    machine.book = restarted(machine.book)
    machine.sweep(down)
    assert machine.book.is_leasable(A)
    machine.sweep(down, xid=79)
    assert machine.state() is Health.QUARANTINED
    assert machine.record.override is None


def test_an_accepted_fault_ends_no_lease_and_stands_again_when_the_word_is_lifted() -> (
    None
):
    """Lifting asks for the truth."""
    machine = Machine()
    sick = good(recovery=Recovery.RESET)
    machine.sweep(sick)
    machine.book.override(A, Health.HEALTHY, "wrong", admin="root", now=machine.now)
    machine.holders = {A: {"ann"}}
    assert ends(machine.sweep(sick)) == []
    machine.book.lift(A)
    assert not machine.book.is_leasable(A)
    assert len(ends(machine.sweep(sick))) == 1


def test_an_admins_word_on_what_is_unknown_or_without_reason_is_refused() -> None:
    """Each with a sentence."""
    book, now = Machine().book, START
    with pytest.raises(LookupError, match=r"no device GPU-nope\. Known are: GPU-aaaa"):
        book.override("GPU-nope", Health.HEALTHY, "x", admin="root", now=now)
    with pytest.raises(LookupError, match="no device GPU-nope"):
        book.lift("GPU-nope")
    with pytest.raises(ValueError, match="Say in a note why"):
        book.override(A, Health.HEALTHY, "  ", admin="root", now=now)
    with pytest.raises(ValueError, match="by itself"):
        book.override(A, Health.PROBATION, "x", admin="root", now=now)
    assert book.is_leasable(A)


# --- the file


def restarted(book: HealthBook) -> HealthBook:
    """Return the book as a new hub reads it."""
    again = HealthBook.from_json(json.loads(json.dumps(book.to_json())))
    assert again.records == book.records
    return again


def test_a_file_of_another_version_is_read_as_far_as_it_goes() -> None:
    """Unknown fields are passed over, what is missing about a cause is the worst."""
    found = {
        "version": 9,
        "colour": "red",
        "devices": {
            A: {"judged": "retired", "causes": [{"code": "new", "cure": "magic"}]},
            B: {"judged": "healthy", "since": "yesterday", "mood": 3},
        },
    }
    machine = Machine()
    machine.book = HealthBook.from_json(found)
    machine.holders = {A: {"ann"}}
    assert len(ends(machine.read([good(A), good(B)]))) == 1
    machine.reboot()
    assert machine.state() is Health.QUARANTINED
    assert "a fault that this version does not know" in machine.record.reason
    assert machine.book.is_leasable(B)


def test_a_time_at_the_end_of_days_is_no_time() -> None:
    """A probation until after the year 9999 cannot be calculated, nor waited for."""
    found = {"judged": "probation", "since": "9999-12-31T23:59:59"}
    book = HealthBook.from_json({"devices": {A: found}})
    assert "Watched until 1970" in book.records[A].reason


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
FIELDS = [
    *("since", "judged", "causes", "evidence", "override", "n_falls", "fell_at"),
    *("energy_j", "boot_id", "at", "code", "cure", "state", "n"),
]
VALUES = JSON | st.sampled_from(
    [
        *(state.value for state in Health),
        *(cure.value for cure in Cure),
        "9999-12-31T23:59:59",
        "2026-11-02T08:00:00",
    ]
)
PARTS = st.dictionaries(st.sampled_from(FIELDS), VALUES | st.lists(VALUES))


@given(
    JSON
    | st.fixed_dictionaries(
        {
            "devices": st.dictionaries(
                st.just(A),
                st.dictionaries(
                    st.sampled_from(FIELDS), PARTS | st.lists(PARTS) | VALUES
                ),
            )
        }
    )
)
@settings(max_examples=300, deadline=None)
def test_no_file_whatever_it_holds_stops_the_hub(found: Any) -> None:
    """It is read, explained, swept over and written again."""
    machine = Machine()
    machine.book = HealthBook.from_json(found)
    machine.sweep(xid=31)
    machine.sweep()
    for record in machine.book.records.values():
        assert record.reason or record.state is Health.HEALTHY
    json.dumps(machine.book.to_json())


def test_an_idle_device_does_not_change_the_file_at_every_sweep() -> None:
    """What is saved is compared first: a growing counter must not cost a write each."""
    machine = Machine()
    machine.sweep(good(energy_j=1_000_000.0))
    before = machine.book.to_json()
    for i in range(100):
        machine.sweep(good(energy_j=1_000_000.0 + 1_000 * i))
    assert machine.book.to_json() == before


def test_evidence_is_bounded_and_a_storm_floods_out_nothing_else() -> None:
    """The same again is counted; the newest are kept."""
    machine = Machine()
    machine.sweep(xid=63)
    for _ in range(1000):
        machine.sweep(xid=43)
    assert [seen.code for seen in machine.record.evidence] == ["xid-63", "xid-43"]
    for code in range(1000, 1100):
        machine.sweep(xid=code)
    codes = [seen.code for seen in machine.record.evidence]
    assert codes == [f"xid-{code}" for code in range(1068, 1100)]


# --- any order


class AnyOrder(RuleBasedStateMachine):
    """Faults, cures, admins, hub restarts and reboots in any order, on two devices.

    `broken` is the truth that the test keeps by itself: what stands against a device
    keeps it from being leased, whatever else happens.
    """

    def __init__(self) -> None:
        super().__init__()
        self.machine = Machine()
        self.samples = {A: good(A), B: good(B)}
        self.broken: dict[str, set[str]] = {A: set(), B: set()}
        self.falls: dict[str, list[datetime]] = {A: [], B: []}
        self.words: dict[str, Health] = {}
        self.n_words = 0
        self.n_changes = 0
        self.sweep()

    devices = st.sampled_from([A, B])

    def read(
        self, samples: Mapping[str, Sample], events: Sequence[Event] = ()
    ) -> tuple[Verdict, ...]:
        before = dict(self.machine.book.records)
        verdicts = self.machine.read(list(samples.values()), events)
        self.note(before, verdicts)
        for end in ends(verdicts):
            assert self.machine.holders[end.uuid]
            assert self.broken[end.uuid]
            assert end.reason
        return verdicts

    def note(self, before: Mapping[str, Record], verdicts: Sequence[Verdict]) -> None:
        for uuid, old in before.items():
            record = self.machine.book.records[uuid]
            if old.fell_at != record.fell_at:
                self.falls[uuid].append(self.machine.now)
            if old.override and not record.override:
                self.words.pop(uuid, None)
        self.n_changes += sum(isinstance(verdict, Change) for verdict in verdicts)

    @rule()
    def sweep(self) -> None:
        self.read(self.samples)

    @rule(hours=st.sampled_from([1 / 60, 0.2, 1, 30]))
    def time_passes(self, hours: float) -> None:
        self.machine.now += timedelta(hours=hours)
        self.sweep()

    @rule(uuid=devices, xid=st.sampled_from([46, 74, 79, 94, 95, 109]))
    def breaks_until_reset(self, uuid: str, xid: int) -> None:
        self.broken[uuid].add("reset")
        self.read(self.samples, [Event(uuid, self.machine.now, EventKind.XID, xid)])

    @rule(uuid=devices, xid=st.sampled_from([54, 78, 142]))
    def breaks_for_good(self, uuid: str, xid: int) -> None:
        self.broken[uuid].add("hands")
        self.read(self.samples, [Event(uuid, self.machine.now, EventKind.XID, xid)])

    @rule(uuid=devices, xid=st.sampled_from([13, 31, 43, 45, 63, 154, 999]))
    def a_program_fails(self, uuid: str, xid: int) -> None:
        self.read(self.samples, [Event(uuid, self.machine.now, EventKind.XID, xid)])

    @rule(
        uuid=devices,
        fault=st.sampled_from(
            [
                {"is_lost": True},
                {"recovery": Recovery.RESET},
                {"recovery": Recovery.DRAIN_P2P},
                {"remapping": replace(GOOD_ROWS, is_pending=True)},
                {"n_nvlinks": 4},
            ]
        ),
    )
    def reads_badly(self, uuid: str, fault: dict[str, Any]) -> None:
        self.samples[uuid] = replace(self.samples[uuid], **fault)
        self.broken[uuid] |= fault.keys()
        self.sweep()

    @rule(uuid=devices)
    def reads_well_again(self, uuid: str) -> None:
        old = self.samples[uuid]
        self.samples[uuid] = good(
            uuid, energy_j=old.energy_j, n_ecc_uncorrected=old.n_ecc_uncorrected
        )
        was_asked = old.recovery is Recovery.RESET
        self.broken[uuid] &= {"hands"} if was_asked else {"hands", "reset", "unclean"}
        if was_asked and "unclean" in {
            c.code for c in self.machine.book.records[uuid].causes
        }:
            self.broken[uuid].add("unclean")
        self.sweep()

    @rule(uuid=devices)
    def an_error_is_counted(self, uuid: str) -> None:
        old = self.samples[uuid].n_ecc_uncorrected or 0
        self.samples[uuid] = replace(self.samples[uuid], n_ecc_uncorrected=old + 1)
        if not self.samples[uuid].is_lost:
            self.broken[uuid].add("reset")
        self.sweep()

    @rule()
    def reboot(self) -> None:
        self.machine.boot_id += "+"
        for uuid, old in self.samples.items():
            is_lost = old.is_lost
            self.samples[uuid] = replace(good(uuid, energy_j=9.0), is_lost=is_lost)
            kept = {"hands", "unclean"} | ({"is_lost", "reset"} if is_lost else set())
            self.broken[uuid] &= kept
        self.sweep()

    @rule(uuid=devices)
    def hand_over_is_unclean(self, uuid: str) -> None:
        self.broken[uuid].add("unclean")
        before = dict(self.machine.book.records)
        self.note(
            before,
            self.machine.book.report(
                uuid, Finding.UNCLEAN, "left: 7", self.machine.now
            ),
        )

    @rule(uuid=devices)
    def hand_over_is_clean(self, uuid: str) -> None:
        self.broken[uuid].discard("unclean")
        self.machine.book.clear(uuid, Finding.UNCLEAN)

    @rule(uuid=devices, state=st.sampled_from(sorted(set(Health) - {"probation"})))
    def override(self, uuid: str, state: Health) -> None:
        book, now = self.machine.book, self.machine.now
        book.override(uuid, state, "because", admin="root", now=now)
        self.words[uuid] = state
        self.n_words += 1
        if state is Health.HEALTHY:
            self.broken[uuid] -= {"hands", "reset"}

    @rule(uuid=devices)
    def lift(self, uuid: str) -> None:
        self.machine.book.lift(uuid)
        self.words.pop(uuid, None)
        self.n_words += 1

    @rule(users=st.dictionaries(devices, st.sets(st.sampled_from("abcd"))))
    def servers_come_and_go(self, users: dict[str, set[str]]) -> None:
        self.machine.holders = users

    @rule()
    def hub_restarts(self) -> None:
        self.machine.book = restarted(self.machine.book)

    @rule(uuid=devices, is_missing=st.booleans())
    def nothing_is_known(self, uuid: str, is_missing: bool) -> None:
        """A sweep without data changes no cause and leads to no fitter state."""
        if self.samples[uuid].is_lost:
            return
        before = self.machine.book.records[uuid]
        samples = dict(self.samples)
        blank = Sample(uuid, START)
        if is_missing:
            del samples[uuid]
        else:
            samples[uuid] = blank
        boot_id, self.machine.boot_id = self.machine.boot_id, ""
        self.read(samples)
        self.machine.boot_id = boot_id
        after = self.machine.book.records[uuid]
        kept = {c.code for c in after.causes} | {"repetition"}
        assert {c.code for c in before.causes} <= kept
        assert after.causes == tuple(c for c in before.causes if c in after.causes)
        assert after.evidence == before.evidence
        if is_missing:
            assert after.judged in {before.judged, Health.QUARANTINED}

    @invariant()
    def what_is_broken_is_not_leased(self) -> None:
        for uuid, why in self.broken.items():
            if why and self.words.get(uuid) is not Health.HEALTHY:
                assert not self.machine.book.is_leasable(uuid), why

    @invariant()
    def every_state_is_explained(self) -> None:
        for record in self.machine.book.records.values():
            assert record.reason or record.state is Health.HEALTHY
            assert all(seen.text for seen in record.evidence)

    @invariant()
    def an_admins_word_stands(self) -> None:
        for uuid, state in self.words.items():
            assert self.machine.book.state_of(uuid) is state

    @invariant()
    def nothing_flaps(self) -> None:
        """Falls are apart; every fall has at most four changes."""
        assert self.n_changes <= 4 * sum(map(len, self.falls.values())) + 4 + (
            2 * self.n_words
        )
        if not self.n_words:
            for falls in self.falls.values():
                for second, third in pairwise(falls[1:]):
                    assert third - second >= QUIET

    def teardown(self) -> None:
        """Whatever happened, a machine that is repaired gives its devices back."""
        book = self.machine.book
        for uuid in (A, B):
            book.override(uuid, Health.HEALTHY, "repaired", admin="r", now=START)
            book.clear(uuid, Finding.UNCLEAN)
            self.samples[uuid] = good(uuid, energy_j=1.0)
        self.machine.boot_id += "+"
        self.sweep()
        for uuid in (A, B):
            book.lift(uuid)
        self.time_passes(QUIET_MAX / HOUR)
        self.time_passes(QUIET_MAX / HOUR)
        assert all(map(book.is_leasable, (A, B)))


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None
)
