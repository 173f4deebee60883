"""The host: leases and containers stay in agreement whatever happens at once."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from gpuspawner import discovery, removing
from gpuspawner import host as hosts
from gpuspawner.errors import EngineRefused, EngineUnknown, NoCapacity, NotReady
from gpuspawner.exits import Exit
from gpuspawner.model import Container, DeviceClaim, LeaseState
from gpuspawner.sample import Event, EventKind
from unit.machine import Machine, device

BROKE = Exit("gpu_broke", "The GPU broke.", "", True, "2026-03-02T08:00:00+00:00")


async def until(ask: Callable[[], object]) -> None:
    """Let others run until it is so."""
    async with asyncio.timeout(30):
        while not ask():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.005)


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    """Two GPUs, read once; what a test started in the background is ended."""
    made = Machine(tmp_path)
    await made.settle()
    yield made
    made.end()


async def test_the_container_of_a_lease_that_was_ended_meanwhile_is_not_started(
    machine: Machine,
) -> None:
    """Its slots may be somebody else's by the time it is made."""
    host, lease = machine.host, machine.lease("ann", 2)
    host.evict(lease.id, BROKE)
    await host.reconcile()  # there is no container yet: the slots are given back
    await host.look_round()
    other = machine.server("bob", 2)
    made = machine.engine.make(lease, running=False)
    with pytest.raises(EngineRefused):
        await host.start(lease.id, made.id)
    assert ("start", made.id) not in machine.engine.calls
    assert host.pool.leases[other.id] == other


async def test_a_lease_that_starts_is_started(machine: Machine) -> None:
    lease = machine.lease("ann")
    made = machine.engine.make(lease, running=False)
    await machine.host.start(lease.id, made.id)
    assert ("start", made.id) in machine.engine.calls


async def test_reconciling_does_not_hurry_a_stop_that_is_under_way(
    machine: Machine,
) -> None:
    """A server is given the time it was promised, not an orphan's."""
    host, lease = machine.host, machine.server("ann")
    machine.engine.gate.clear()
    stopping = asyncio.create_task(host.end(lease.id, f"id-{lease.id}", timeout_s=10))
    await until(lambda: machine.engine.named("stop"))
    await host.reconcile()
    await asyncio.sleep(0.02)
    assert machine.engine.named("stop") == [("stop", f"id-{lease.id}", 10)]
    machine.engine.gate.set()
    await stopping
    assert lease.id not in host.pool.leases


async def test_who_comes_again_while_the_old_server_is_ended_does_not_cut_it_short(
    machine: Machine,
) -> None:
    """The clean-up of a name waits for the removal that is under way."""
    host, lease = machine.host, machine.server("ann")
    machine.engine.gate.clear()
    host.evict(lease.id, BROKE)
    await until(lambda: machine.engine.named("stop"))
    cleaning = asyncio.create_task(host.end(lease.id, f"id-{lease.id}", timeout_s=2))
    await asyncio.sleep(0.02)
    assert len(machine.engine.named("stop")) == 1
    machine.engine.gate.set()
    await cleaning
    assert not machine.engine.containers


async def test_a_stop_at_once_does_not_wait_for_a_gentle_one(machine: Machine) -> None:
    host, lease = machine.host, machine.server("ann")
    machine.engine.gate.clear()
    host.evict(lease.id, BROKE)
    await until(lambda: machine.engine.named("stop"))
    at_once = asyncio.create_task(host.end(lease.id, f"id-{lease.id}", timeout_s=0))
    await until(lambda: len(machine.engine.named("stop")) == 2)
    assert machine.engine.named("stop")[1] == ("stop", f"id-{lease.id}", 0)
    machine.engine.gate.set()
    await at_once


async def test_a_stop_that_fails_is_finished_in_the_background(
    machine: Machine,
) -> None:
    host, lease = machine.host, machine.server("ann")
    machine.engine.n_failing = 1
    with pytest.raises(EngineUnknown):
        await host.end(lease.id, f"id-{lease.id}", timeout_s=1)
    assert host.pool.leases[lease.id].state is LeaseState.RELEASING
    await until(lambda: lease.id not in host.pool.leases)
    assert not machine.engine.containers


async def test_a_lease_may_be_given_back_twice(machine: Machine) -> None:
    """Both ways to end it come to their end; what was leased since stays leased."""
    host, lease = machine.host, machine.server("ann", 2)
    machine.engine.gate.clear()
    two = [
        asyncio.create_task(host.end(lease.id, f"id-{lease.id}", timeout_s=1))
        for _ in range(2)
    ]
    await until(lambda: len(machine.engine.named("stop")) == 2)
    machine.engine.gate.set()
    await two[0]
    await host.look_round()
    other = machine.server("bob", 2)
    await two[1]
    await host.look_round()
    assert host.pool.leases == {other.id: other}
    assert not host.pool.free


async def test_kernels_are_interrupted_before_a_server_is_stopped(
    machine: Machine,
) -> None:
    lease = machine.server("ann")
    await machine.host.end(lease.id, f"id-{lease.id}", timeout_s=10)
    done = [call[0] for call in machine.engine.named("run_check", "stop", "remove")]
    assert done == ["run_check", "stop", "remove"]


async def test_an_interrupt_that_hangs_holds_up_no_stop(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removing, "INTERRUPT_WAIT_S", 0.02)
    machine.engine.check_gate.clear()
    lease = machine.server("ann")
    async with asyncio.timeout(30):
        await machine.host.end(lease.id, f"id-{lease.id}", timeout_s=10)
    assert not machine.engine.containers


async def test_an_evicted_server_goes_and_its_spawner_reads_why_once(
    machine: Machine,
) -> None:
    host, lease = machine.host, machine.server("ann")
    host.evict(lease.id, BROKE)
    host.evict(lease.id, Exit("gpu_memory", "Another reason."))
    await until(lambda: not machine.engine.containers)
    await host.reconcile()
    assert host.ending_of(lease.id) == BROKE
    assert host.ending_of(lease.id) is None


async def test_why_a_lease_ended_outlives_the_hub(machine: Machine) -> None:
    host, lease = machine.host, machine.server("ann")
    kept = machine.folder / "gpuspawner-notices.json"
    host.tell(lease.id, "Mind the gap.")
    await until(lambda: kept.exists() and "Mind" in kept.read_text())
    host.evict(lease.id, BROKE)
    await until(lambda: BROKE.reason in kept.read_text())
    again = machine.restart()
    again.claims.add(lease.id)  # its spawner has loaded its state
    await again.reconcile()
    assert again.ending_of(lease.id) == BROKE
    assert again.messages_for(lease.id)[0].endswith("UTC: Mind the gap.")


async def test_an_ending_that_nobody_will_ask_for_is_forgotten(
    machine: Machine,
) -> None:
    host, lease = machine.host, machine.server("ann")
    host.evict(lease.id, BROKE)
    host.claims.discard(lease.id)
    await until(lambda: lease.id not in host.pool.leases)
    await host.reconcile()
    assert host.ending_of(lease.id) is None


async def test_a_user_stop_under_way_keeps_its_own_reason(machine: Machine) -> None:
    host, lease = machine.host, machine.server("ann")
    host.pool.end(lease.id)
    host.evict(lease.id, BROKE)
    assert host.ending_of(lease.id) is None


async def test_messages_come_again_with_the_next_until_they_are_delivered(
    machine: Machine,
) -> None:
    """The note in the home is written anew: an older message may be unread."""
    host, lease = machine.host, machine.server("ann")
    host.tell(lease.id, "First.")
    assert len(host.messages_for(lease.id)) == 1
    assert len(host.messages_for(lease.id)) == 1  # it could not be delivered
    host.delivered(lease.id, 1)
    assert host.messages_for(lease.id) == []
    host.tell(lease.id, "Second.")
    first, second = host.messages_for(lease.id)
    assert first.endswith("First.")
    assert second.endswith("Second.")


async def test_nothing_is_kept_of_a_lease_whose_container_vanished(
    machine: Machine,
) -> None:
    host, lease = machine.host, machine.server("ann")
    host.caps[lease.id] = "framework"
    machine.engine.containers.clear()
    await host.reconcile()
    assert lease.id not in host.pool.leases
    assert lease.id not in host.caps
    assert lease.id not in host.placing.of_lease


async def test_a_listing_that_is_older_than_a_removal_places_nobody(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine told of a container that was removed while it told."""
    host, lease = machine.host, machine.server("ann")
    told = await machine.engine.list()

    async def late() -> list[Container]:
        await host.end(lease.id, f"id-{lease.id}", timeout_s=0)
        return told

    monkeypatch.setattr(machine.engine, "list", late)
    await host.reconcile()
    assert lease.id not in host.placing.of_lease
    assert lease.id not in host.pool.leases


async def test_looking_after_servers_does_not_list_all_containers_each_time(
    machine: Machine,
) -> None:
    """Every server is polled every few seconds."""
    machine.host.begin()
    await asyncio.sleep(0.02)
    n = len(machine.engine.named("list"))
    for _ in range(20):
        machine.host.begin()
        await asyncio.sleep(0)
    await asyncio.sleep(0.02)
    assert len(machine.engine.named("list")) == n


async def test_a_kick_while_reconciling_is_not_lost(machine: Machine) -> None:
    host = machine.host
    host.begin()
    await until(lambda: len(machine.engine.named("list")) >= 2)
    n = len(machine.engine.named("list"))
    host.kick()
    await until(lambda: len(machine.engine.named("list")) > n)


async def test_a_loop_goes_on_after_a_fault(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    async def faulty() -> None:
        calls.append(1)
        raise RuntimeError("a bug")

    monkeypatch.setattr(machine.host, "reconcile", faulty)
    machine.host.begin()
    await until(lambda: calls)
    machine.host._wake.set()
    await until(lambda: len(calls) > 1)


async def test_a_start_that_is_cancelled_loses_no_event(machine: Machine) -> None:
    """A round belongs to nobody: events are told once."""
    host, lease = machine.host, machine.server("ann")
    (uuid,) = lease.uuids
    at = datetime.now(UTC)
    machine.probe.events.append(Event(uuid, at, EventKind.XID, 79))
    machine.probe.gate.clear()
    start = asyncio.create_task(host.look_round())
    await until(lambda: machine.probe.n_sweeps > 1)
    start.cancel()
    machine.probe.gate.set()
    await until(lambda: not host.book.is_leasable(uuid))
    assert host.ending_of(lease.id)


async def test_many_who_look_at_once_make_two_rounds(machine: Machine) -> None:
    """The one under way, and one that begins after they asked."""
    n = machine.probe.n_sweeps
    await asyncio.gather(*(machine.host.look_round() for _ in range(20)))
    assert machine.probe.n_sweeps - n <= 2


async def test_a_driver_that_takes_long_keeps_gpus_back_until_it_answers(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "LOOK_WAIT_S", 0.02)
    monkeypatch.setattr(hosts, "ROUND_WAIT_S", 0.02)
    host = machine.host
    machine.probe.gate.clear()
    await host.ready()
    assert not host.pool.free
    with pytest.raises(NotReady):
        machine.lease("ann")
    assert not machine.lease("bob", 0).slots
    monkeypatch.setattr(discovery, "LOOK_WAIT_S", 60)
    monkeypatch.setattr(hosts, "ROUND_WAIT_S", 60)
    async with asyncio.timeout(30):  # who comes later does not wait for it again
        await host.ready()
    machine.probe.gate.set()
    await until(lambda: not host.pool.trouble)
    assert machine.lease("ann").slots


async def test_gpus_that_appear_late_are_not_leased_before_their_holders_are_known(
    tmp_path: Path,
) -> None:
    """The driver did not answer when the engine's containers were read."""
    machine = Machine(tmp_path, 1)
    machine.probe.why = "not now"
    machine.engine.containers["x"] = Container(
        "x", "miner", "running", claim=DeviceClaim((device(0).uuid,))
    )
    await machine.host.reconcile()
    machine.probe.why = ""
    await machine.host.discovery.look()
    await machine.host.look_round()
    assert not machine.host.pool.free
    with pytest.raises(NotReady):
        machine.lease("ann")
    await machine.settle()
    with pytest.raises(NoCapacity):
        machine.lease("ann")


async def test_an_orphan_is_removed_and_its_gpu_comes_back(machine: Machine) -> None:
    host, lease = machine.host, machine.server("ann", 2)
    again = machine.restart()  # nobody claims the lease
    del host
    await again.reconcile()
    assert again.pool.leases[lease.id].state is LeaseState.RELEASING
    await until(lambda: lease.id not in again.pool.leases)
    await again.look_round()
    assert len(again.pool.free) == 2
