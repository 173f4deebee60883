"""Rounds: what follows from a reading of the whole machine, and in which order."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from gpuspawner import rounds
from gpuspawner.faults import Finding, Health
from gpuspawner.model import Container, SlotKind
from gpuspawner.sample import Event, EventKind, GpuProcess
from gpuspawner.signals import UNSEEN, Thresholds, Use
from unit.machine import GIB, Machine, device, process

UUID = device(0).uuid
FALLEN_OFF_THE_BUS = 79
LEFT = "9" * 64


async def until(ask: Callable[[], object]) -> None:
    """Let others run until it is so."""
    async with asyncio.timeout(30):
        while not ask():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.005)


@pytest.fixture
async def machine(tmp_path: Path) -> Machine:
    """Two GPUs, seen clean; what is known of them is kept."""
    made = Machine(tmp_path)
    await made.settle()
    await until((tmp_path / "gpuspawner-health.json").exists)
    return made


def on(machine: Machine, uuid: str, pid: int, *containers: str, gib: int = 1) -> None:
    """Let a process be on a GPU."""
    machine.processes.table[pid] = process(pid, *containers)
    there = machine.probe.processes.get(uuid, ())
    machine.probe.processes[uuid] = (*there, GpuProcess(pid, gib * GIB))


def breaks(machine: Machine, uuid: str) -> None:
    """Let a GPU fall off the bus."""
    at = datetime.now(UTC)
    machine.probe.events.append(Event(uuid, at, EventKind.XID, FALLEN_OFF_THE_BUS))


async def test_a_gpu_that_breaks_ends_its_leases_refundably(machine: Machine) -> None:
    lease = machine.server("ann")
    breaks(machine, lease.uuids[0])
    await machine.host.look_round()
    ended = machine.host.ending_of(lease.id)
    assert ended
    assert ended.is_refundable
    assert ended.reason == "gpu_broke"
    broke_at = datetime.fromisoformat(ended.broke_at)
    assert broke_at <= datetime.fromisoformat(ended.at)
    assert machine.host.pool.unfit.keys() == {lease.uuids[0]}


async def test_an_event_is_judged_also_when_the_rest_of_the_round_fails(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told once."""

    def fail(_: object) -> None:
        raise OSError("no /proc")

    monkeypatch.setattr(machine.host.rounds, "_identify", fail)
    breaks(machine, UUID)
    with pytest.raises(OSError, match="/proc"):
        await machine.host.look_round()
    assert machine.host.book.state_of(UUID) is not Health.HEALTHY


async def test_what_is_known_of_a_gpu_counts_before_the_first_round(
    machine: Machine,
) -> None:
    """The driver may not answer at all after a restart."""
    breaks(machine, UUID)
    await machine.host.look_round()
    kept = machine.folder / "gpuspawner-health.json"
    await until(lambda: "xid-79" in kept.read_text())
    again = machine.restart()
    assert again.pool.unfit.keys() == {UUID}


async def test_an_unclean_gpu_is_judged_again_after_a_restart(
    machine: Machine,
) -> None:
    """It is clean by now: the new hub sees that, although it saw no server end."""
    book = machine.host.book
    book.report(UUID, Finding.UNCLEAN, "left over", datetime.now(UTC))
    await machine.host.look_round()
    kept = machine.folder / "gpuspawner-health.json"
    await until(lambda: "unclean" in kept.read_text())
    again = machine.restart()
    assert UUID in again.book.unclean
    await machine.settle()
    assert UUID not in again.book.unclean
    await again.look_round()
    assert len(again.pool.free) == 2


async def test_a_live_servers_process_does_not_excuse_it_on_a_gpu_that_is_not_its(
    machine: Machine,
) -> None:
    """Its container got through to a GPU that somebody else has just given back."""
    ann, bob = machine.server("ann"), machine.server("bob")
    (hers,) = ann.uuids
    await machine.host.end(ann.id, f"id-{ann.id}", timeout_s=0)
    on(machine, hers, 41, f"id-{bob.id}")
    await machine.host.look_round()
    assert hers not in {slot.uuid for slot in machine.host.pool.free}


async def test_a_neighbours_process_does_not_keep_a_share_from_the_next(
    tmp_path: Path,
) -> None:
    machine = Machine(tmp_path, 1, shares={"0": 2})
    await machine.settle()
    ann = machine.server("ann", kind=SlotKind.SHARE)
    bob = machine.server("bob", kind=SlotKind.SHARE)
    on(machine, UUID, 41, f"id-{bob.id}")
    await machine.host.end(ann.id, f"id-{ann.id}", timeout_s=0)
    await machine.host.look_round()
    assert len(machine.host.pool.free) == 1


async def test_a_named_bystander_keeps_no_gpu_from_the_next(tmp_path: Path) -> None:
    """A monitoring exporter may hold a context on every GPU."""
    machine = Machine(tmp_path, 1, bystanders=frozenset({"exporter"}))
    machine.engine.containers[LEFT] = Container(LEFT, "exporter", "running")
    on(machine, UUID, 41, LEFT)
    await machine.settle()
    assert len(machine.host.pool.free) == 1
    assert not machine.host.rounds.alarms


async def test_an_intruders_container_is_named_though_it_has_just_come(
    machine: Machine,
) -> None:
    """The engine's last listing does not have it yet."""
    machine.engine.containers[LEFT] = Container(LEFT, "miner", "running")
    on(machine, UUID, 41, LEFT)
    await machine.host.look_round()
    await machine.host.look_round()
    ((_, text),) = machine.host.rounds.alarms
    assert "The container miner is on GPU 0 (A100) without a lease" in text


async def test_an_engine_that_hangs_while_a_process_is_ended_holds_up_no_round(
    tmp_path: Path,
) -> None:
    machine = Machine(tmp_path, 1, shares={"0": 2})
    await machine.settle()
    ann = machine.server("ann", kind=SlotKind.SHARE)
    on(machine, UUID, 41, f"id-{ann.id}", gib=60)
    machine.engine.check_gate.clear()
    async with asyncio.timeout(30):
        for _ in range(3):
            await machine.host.look_round()
    assert machine.engine.named("run_check")
    machine.engine.check_gate.set()
    await until(lambda: len(machine.host.messages_for(ann.id)) > 1)


async def test_shares_that_nobody_can_watch_raise_an_alarm_once(
    tmp_path: Path,
) -> None:
    """A hub without the host's process table."""
    machine = Machine(tmp_path, 1, shares={"0": 2})
    object.__setattr__(machine.processes, "is_whole", False)
    await machine.settle()
    assert not machine.host.rounds.alarms
    machine.server("ann", kind=SlotKind.SHARE)
    await machine.host.look_round()
    await machine.host.look_round()
    assert [text for _, text in machine.host.rounds.alarms] == [rounds.UNWATCHED]


async def test_a_server_that_lost_its_gpu_is_told_once(machine: Machine) -> None:
    lease = machine.server("ann")
    machine.engine.status = 1
    await machine.host.rounds.check_drivers()
    await machine.host.rounds.check_drivers()
    (text,) = machine.host.messages_for(lease.id)
    assert rounds.CUT_OFF in text
    assert len(machine.host.rounds.alarms) == 1
    assert machine.host.book.is_leasable(lease.uuids[0])


async def test_a_check_that_cannot_be_made_says_nothing(machine: Machine) -> None:
    lease = machine.server("ann")
    machine.engine.containers.clear()
    await machine.host.rounds.check_drivers()
    assert machine.host.messages_for(lease.id) == []


async def test_a_driver_that_cannot_be_read_is_the_pools_trouble(
    machine: Machine,
) -> None:
    machine.probe.why = "The driver is gone."
    await machine.host.look_round()
    assert machine.host.pool.trouble == "The driver is gone."
    machine.probe.why = ""
    await machine.host.discovery.look()
    assert machine.host.pool.trouble == ""


async def test_a_slot_is_quarantined_after_the_sites_own_limit(
    tmp_path: Path,
) -> None:
    machine = Machine(tmp_path, 1, clean_within_s=0.0)
    await machine.settle()
    ann = machine.server("ann")
    on(machine, UUID, 41)
    await machine.host.end(ann.id, f"id-{ann.id}", timeout_s=0)
    await machine.host.look_round()
    assert machine.host.book.unclean == (UUID,)


# -- idleness --------------------------------------------------------------------------


async def test_a_round_notes_which_servers_compute(tmp_path: Path) -> None:
    """By what the driver tells and by what the host's process table does."""
    machine = telling(tmp_path)
    await machine.settle()
    await machine.host.look_round()
    lease = machine.server("ann")
    on(machine, UUID, 41, f"id-{lease.id}")
    machine.probe.watts[UUID] = 130.0  # between idle and computing
    for used_s in (5.0, 5.0):
        machine.processes.used_s[41] = used_s
        await machine.host.look_round()
    use = machine.host.rounds.observed.uses[lease.id]
    assert use.state is Use.IDLE, use.why
    machine.processes.used_s[41] = 6.0
    await machine.host.look_round()
    use = machine.host.rounds.observed.uses[lease.id]
    assert use.state is Use.UNKNOWN
    assert "CPU time" in use.why
    machine.probe.utilisation[UUID] = 0.5
    await machine.host.look_round()
    assert machine.host.rounds.observed.uses[lease.id].state is Use.BUSY


async def test_a_reading_that_fails_makes_every_server_unknown(
    tmp_path: Path,
) -> None:
    machine = telling(tmp_path)
    await machine.settle()
    lease = machine.server("ann")
    for _ in range(2):
        await machine.host.look_round()
    before = machine.host.rounds.observed.uses[lease.id]
    assert before.state is Use.IDLE, before.why
    machine.probe.why = "The driver is gone."
    await machine.host.look_round()
    assert machine.host.rounds.observed.uses[lease.id].state is Use.UNKNOWN
    machine.probe.why = ""
    await machine.host.look_round()
    after = machine.host.rounds.observed.uses[lease.id]
    assert after.idle_since == before.idle_since


async def test_readings_that_contradict_each_other_raise_an_alarm_once(
    tmp_path: Path,
) -> None:
    machine = telling(tmp_path)
    machine.host.rounds._thresholds = Thresholds(
        shortest=timedelta(0), contradiction=timedelta(0)
    )
    await machine.settle()
    machine.server("ann")
    machine.probe.watts[UUID] = 390.0
    for _ in range(4):
        await machine.host.look_round()
    ((_, text),) = machine.host.rounds.alarms
    assert "It draws 390 W of 400 W" in text


async def test_what_gpus_draw_unused_outlives_the_hub(tmp_path: Path) -> None:
    """Else a server that holds one could not be judged after a restart."""
    machine = telling(tmp_path)
    await machine.settle()
    await machine.host.look_round()
    learnt = machine.host.rounds.observed.idle_w
    assert learnt.keys() == {UUID}
    kept = tmp_path / "gpuspawner-idle-power.json"
    await until(lambda: kept.exists() and UUID in kept.read_text())
    assert machine.restart().rounds.observed.idle_w == learnt
    kept.write_text('{"idle_w": 7}')
    assert machine.restart().rounds.observed.idle_w == {}


async def test_a_hub_without_the_hosts_processes_takes_no_server_for_idle(
    tmp_path: Path,
) -> None:
    """The driver tells it of no program, whoever computes."""
    machine = telling(tmp_path)
    object.__setattr__(machine.processes, "is_whole", False)
    await machine.settle()
    lease = machine.server("ann")
    for _ in range(3):
        await machine.host.look_round()
    use = machine.host.rounds.observed.uses[lease.id]
    assert (use.state, use.why) == (Use.UNKNOWN, UNSEEN)


async def test_memory_in_use_by_nobody_takes_no_server_for_idle(tmp_path: Path) -> None:
    """How much is used when nobody is there is learnt while it is free."""
    machine = telling(tmp_path)
    machine.probe.used[UUID] = GIB
    await machine.settle()
    await machine.host.look_round()  # it is known to be clean now
    lease = machine.server("ann")
    for used, state in ((GIB, Use.IDLE), (2 * GIB, Use.UNKNOWN)):
        machine.probe.used[UUID] = used
        for _ in range(2):
            await machine.host.look_round()
        use = machine.host.rounds.observed.uses[lease.id]
        assert use.state is state, use.why
    assert use.why == "No program is on it, but 1 GiB of its memory is used."


def telling(folder: Path) -> Machine:
    """One GPU that tells how busy it is, and may be read every moment."""
    machine = Machine(folder, 1)
    machine.host.rounds._thresholds = Thresholds(shortest=timedelta(0))
    machine.probe.watts[UUID] = 50.0
    return machine
