"""A slot is leased again only when nothing of its last user is left on it."""

from collections.abc import Set
from datetime import UTC, datetime, timedelta

import pytest
from gpuspawner.handover import (
    LIMIT,
    TOLERANCE_BYTES,
    Baselines,
    Cleanness,
    Judgement,
    judge,
)
from gpuspawner.model import Device, Instance, Slot, SlotKind, whole
from gpuspawner.sample import GpuProcess, Sample, Sweep
from hypothesis import given
from hypothesis import strategies as st

MIB, GIB = 2**20, 2**30
ENDED = datetime(2026, 11, 2, 8, 0, tzinfo=UTC)
NOW = ENDED + timedelta(seconds=5)
IDLE = 500 * MIB

HALVES = tuple(Instance(f"MIG-{i}", "3g.40gb", 40 * GIB, i) for i in (1, 2))
DEVICE = Device(0, "GPU-a", "H100", 80 * GIB, 0)
SPLIT = Device(0, "GPU-a", "H100", 80 * GIB, 0, is_split=True, instances=HALVES)
WHOLE = whole(DEVICE)
HALF = Slot(SPLIT, "MIG-1", SlotKind.MIG, 40 * GIB, "3g.40gb")
SHARE = Slot(DEVICE, "GPU-a/0", SlotKind.SHARE, 40 * GIB, "1/2")


def sample(
    *processes: GpuProcess | int, used: int | None = IDLE, uuid: str = "GPU-a"
) -> Sample:
    """Return a reading taken after the server ended."""
    found = tuple(
        p if isinstance(p, GpuProcess) else GpuProcess(p, GIB) for p in processes
    )
    return Sample(uuid, NOW, memory_used_bytes=used, processes=found)


def look(
    slot: Slot,
    found: Sample | None,
    *,
    baseline: int | None = IDLE,
    now: datetime = NOW,
    others: Set[int] = frozenset(),
) -> Judgement:
    return judge(slot, found, baseline, since=ENDED, now=now, others=others)


def test_an_empty_device_is_clean() -> None:
    """No process, memory as it is when nobody uses it."""
    assert look(WHOLE, sample()) == Judgement(Cleanness.CLEAN)


def test_a_process_that_is_left_is_named() -> None:
    """The admin can look it up."""
    found = look(WHOLE, sample(7, 42))
    assert found.cleanness is Cleanness.WAIT
    assert (
        found.reason == "GPU 0 (H100) waits to be clean: still used by process 7, 42."
    )


def test_memory_that_no_program_holds_is_waited_for() -> None:
    """A dying process may be gone from the list before its memory is free."""
    edge = IDLE + TOLERANCE_BYTES
    assert look(WHOLE, sample(used=edge)).cleanness is Cleanness.CLEAN
    found = look(WHOLE, sample(used=edge + 36 * MIB))
    assert found.cleanness is Cleanness.WAIT
    assert "100 MiB of its memory are used by no known program" in found.reason


def test_a_device_never_seen_idle_is_judged_by_its_processes() -> None:
    """A hub that found it leased cannot know what idle looks like."""
    assert look(WHOLE, sample(used=GIB), baseline=None).cleanness is Cleanness.CLEAN
    leaked = look(WHOLE, sample(used=3 * GIB), baseline=None)
    assert leaked.cleanness is Cleanness.WAIT  # no idle device uses so much
    assert look(WHOLE, sample(7), baseline=None).cleanness is Cleanness.WAIT


@pytest.mark.parametrize(
    "blind",
    [
        None,
        Sample("GPU-a", NOW),
        Sample("GPU-a", NOW, is_lost=True),
        Sample("GPU-a", NOW, processes=()),
        Sample("GPU-a", NOW, memory_used_bytes=IDLE),
        Sample("GPU-a", ENDED - timedelta(seconds=1), processes=()),
        Sample(
            "GPU-a",
            ENDED - timedelta(seconds=1),
            processes=(),
            memory_used_bytes=IDLE,
        ),
    ],
)
def test_missing_or_old_data_is_waited_for_and_then_dirty(blind: Sample | None) -> None:
    """Never clean."""
    assert look(WHOLE, blind).cleanness is Cleanness.WAIT
    late = look(WHOLE, blind, now=ENDED + LIMIT + timedelta(seconds=1))
    assert late.cleanness is Cleanness.DIRTY
    assert late.reason.startswith(
        "GPU 0 (H100) is not clean 60 seconds after its server ended: "
    )


def test_a_lost_device_is_called_lost() -> None:
    """Not merely silent: the admin looks elsewhere."""
    found = look(WHOLE, Sample("GPU-a", NOW, is_lost=True))
    assert "the driver cannot reach it" in found.reason


def test_what_takes_long_but_gets_clean_is_clean() -> None:
    """A quarantined slot heals as soon as it is empty."""
    late = ENDED + timedelta(hours=5)
    assert look(WHOLE, sample(), now=late).cleanness is Cleanness.CLEAN


def test_other_shares_go_on() -> None:
    """Their processes and their memory are theirs; only what is left of ours counts."""
    busy = sample(1, 2, used=30 * GIB)
    assert look(SHARE, busy, others={1, 2}).cleanness is Cleanness.CLEAN
    found = look(SHARE, busy, others={1})
    assert found.cleanness is Cleanness.WAIT
    assert "process 2." in found.reason


def test_the_last_share_leaves_no_memory_behind() -> None:
    """With nobody else on the device its memory tells again."""
    assert look(SHARE, sample(used=2 * GIB)).cleanness is Cleanness.WAIT


def test_the_other_half_of_a_split_device_goes_on() -> None:
    """Processes carry their MIG instance."""
    neighbour = GpuProcess(9, GIB, gpu_instance=2)
    ours = GpuProcess(8, GIB, gpu_instance=1)
    assert look(HALF, sample(neighbour, used=20 * GIB)).cleanness is Cleanness.CLEAN
    assert look(HALF, sample(neighbour, ours)).cleanness is Cleanness.WAIT
    own = sample(GpuProcess(8, GIB), uuid="MIG-1")
    assert look(HALF, own).cleanness is Cleanness.WAIT
    assert look(HALF, sample(uuid="MIG-1")).cleanness is Cleanness.CLEAN


def test_a_process_that_tells_no_instance_may_be_ours() -> None:
    """Unknown is not clean."""
    assert look(HALF, sample(GpuProcess(8, GIB))).cleanness is Cleanness.WAIT


def test_the_hosts_own_programs_do_not_count() -> None:
    """A desktop or an exporter that is always there, if it is known."""
    assert look(WHOLE, sample(3), others={3}).cleanness is Cleanness.CLEAN


PIDS = st.frozensets(st.integers(1, 5))


@given(
    pids=PIDS,
    others=PIDS,
    used=st.none() | st.integers(0, 80 * GIB),
    seconds=st.integers(0, 300),
)
def test_no_slot_is_clean_while_a_strangers_process_is_on_it(
    pids: frozenset[int], others: frozenset[int], used: int | None, seconds: int
) -> None:
    """And whatever is not clean says why; only time makes it dirty."""
    now = ENDED + timedelta(seconds=seconds)
    for slot in (WHOLE, HALF, SHARE):
        found = look(slot, sample(*pids, used=used), now=now, others=others)
        if pids - others:
            assert found.cleanness is not Cleanness.CLEAN
        assert bool(found.reason) == (found.cleanness is not Cleanness.CLEAN)
        if found.cleanness is not Cleanness.CLEAN:
            is_late = now - ENDED > LIMIT
            assert (found.cleanness is Cleanness.DIRTY) == is_late


def sweep_of(*samples: Sample) -> Sweep:
    return Sweep({found.uuid: found for found in samples})


def test_the_baseline_is_the_lowest_seen_while_nobody_has_the_device() -> None:
    """A lease, a process or missing data teach nothing."""
    baselines = Baselines()
    assert not baselines.lowest
    baselines.learn(sweep_of(sample(used=1)), {"GPU-a"})
    baselines.learn(sweep_of(sample(7, used=2)), set())
    baselines.learn(sweep_of(sample(used=None)), set())
    baselines.learn(sweep_of(Sample("GPU-a", NOW, memory_used_bytes=3)), set())
    assert not baselines.lowest
    baselines.learn(sweep_of(sample(used=600)), set())
    baselines.learn(sweep_of(sample(used=500)), set())
    baselines.learn(sweep_of(sample(used=700), sample(used=9, uuid="MIG-1")), set())
    assert baselines.lowest == {"GPU-a": 500, "MIG-1": 9}
