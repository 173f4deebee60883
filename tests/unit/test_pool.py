"""The pool never leases a slot twice, whatever happens in whatever order."""

import json
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from gpuspawner import container as c
from gpuspawner.durations import DEFAULT_S, ENOUGH
from gpuspawner.errors import NoCapacity, NotReady
from gpuspawner.links import Link, Path, Topology
from gpuspawner.model import (
    Container,
    Device,
    DeviceClaim,
    Instance,
    Lease,
    LeaseState,
    Owner,
    Slot,
    SlotKind,
    SlotRequest,
    whole,
)
from gpuspawner.pool import Pool
from gpuspawner.recovery import Plan, plan
from gpuspawner.slots import read
from gpuspawner.tickets import Ticket
from gpuspawner.waiting import Queue

GIB = 2**30
NOW = datetime(2026, 3, 2, 9, tzinfo=UTC)


def device(index: int, *, is_lost: bool = False, name: str = "A100") -> Device:
    return Device(index, f"GPU-{index:08x}", name, 40 * GIB, index, is_lost)


def split(index: int, n: int = 2) -> Device:
    instances = tuple(
        Instance(f"MIG-{index}-{i}", "1g.5gb", 5 * GIB, i) for i in range(n)
    )
    return replace(device(index), is_split=True, instances=instances)


def quads(devices: Iterable[Device]) -> Topology:
    """NVLink joins the first four, and the next four; the rest is far apart."""
    pairs = {
        (min(one.uuid, other.uuid), max(one.uuid, other.uuid)): Link(
            Path.SYS, 2 if one.index // 4 == other.index // 4 else 0
        )
        for one in devices
        for other in devices
        if one.uuid != other.uuid
    }
    return Topology(pairs)


def pool_of(
    devices: list[Device],
    *,
    topology: Topology | None = None,
    shares: dict[str, int] | None = None,
    keep_intact: dict[int, int] | None = None,
) -> Pool:
    """A pool whose slots are all free."""
    pool = Pool(shares, keep_intact)
    pool.see(devices, NOW, topology)
    pool.apply(Plan(), NOW)
    pool.cleaned(pool.slots)
    return pool


def test_what_looks_clean_before_the_containers_are_read_is_looked_at_again() -> None:
    """A server that nobody has read yet may be on it and use nothing at the moment.

    Were it removed before it is read, nobody would ever know that it was there.
    """
    pool = Pool()
    pool.see([device(0)], NOW)
    pool.cleaned(list(pool.slots))
    pool.apply(Plan(), NOW)
    assert not pool.free
    pool.cleaned(list(pool.slots))
    assert len(pool.free) == 1


def ready_pool(n: int) -> Pool:
    return pool_of([device(i) for i in range(n)])


def give_back(pool: Pool, lease_id: str) -> None:
    """The lease's container is gone and its slots were seen clean."""
    pool.release(lease_id, NOW)
    pool.cleaned(pool.slots)


def ids(slots: Iterable[Slot]) -> list[str]:
    return [slot.id for slot in slots]


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def ticket(user: str, request: SlotRequest, *, asked_s: float = 0) -> Ticket:
    return Ticket(f"ls_{user}", Owner(user, ""), request, after(asked_s))


ANN, BOB = Owner("ann", ""), Owner("bob", "")
MIG = SlotRequest(1, SlotKind.MIG)
SHARE = SlotRequest(1, SlotKind.SHARE)


def test_nothing_is_leased_before_the_containers_were_read() -> None:
    """A hub that does not know yet who holds what grants nothing."""
    pool = Pool()
    pool.see([device(0)], NOW)
    with pytest.raises(NotReady, match="Try again in a moment"):
        pool.acquire("ls_1", ANN, SlotRequest(1), NOW)


def test_two_servers_get_different_devices() -> None:
    """Exclusive means exclusive."""
    pool = ready_pool(2)
    first = pool.acquire("ls_1", ANN, SlotRequest(1), NOW)
    second = pool.acquire("ls_2", BOB, SlotRequest(1), NOW)
    assert set(first.uuids).isdisjoint(second.uuids)


def test_a_full_pool_says_who_has_to_wait_for_what() -> None:
    """The sentence names what is leased and what the user can do now."""
    pool = ready_pool(1)
    pool.acquire("ls_1", ANN, SlotRequest(1), NOW)
    with pytest.raises(NoCapacity) as refused:
        pool.acquire("ls_2", BOB, SlotRequest(1), NOW)
    assert str(refused.value) == (
        "No GPU is free. Of 1 GPU, 1 is leased. You can start as soon as 1 more is "
        "free; until then choose CPU only, your files are the same."
    )
    assert pool.acquire("ls_2", BOB, SlotRequest(0), NOW).devices == ()


def test_more_than_the_machine_has_is_said_plainly() -> None:
    """Nobody is told to wait for what will never come."""
    with pytest.raises(NoCapacity, match="This machine has 1 GPU; 4 were asked for"):
        ready_pool(1).acquire("ls_1", ANN, SlotRequest(4), NOW)


def test_an_ending_lease_keeps_its_device_until_the_container_is_gone() -> None:
    """Ending is a wish; releasing is a fact."""
    pool = ready_pool(1)
    pool.acquire("ls_1", ANN, SlotRequest(1), NOW)
    pool.end("ls_1")
    assert len(pool.free) == 0
    pool.activate("ls_1")
    assert pool.leases["ls_1"].state is LeaseState.RELEASING
    give_back(pool, "ls_1")
    give_back(pool, "ls_1")
    assert list(pool.free) == [whole(device(0))]


def test_lost_and_foreign_devices_are_not_leased() -> None:
    """A device that does not answer, or that another program holds, is not free."""
    pool = Pool()
    pool.see([device(0, is_lost=True), device(1), device(2)], NOW)
    pool.apply(Plan(foreign={device(1).uuid: "somebody"}), NOW)
    pool.cleaned(pool.slots)
    assert pool.free == (whole(device(2)),)
    with pytest.raises(NoCapacity, match=r"Only 1 GPU of the 2 asked for is free"):
        pool.acquire("ls_1", ANN, SlotRequest(2), NOW)


HUB = "here"


def container_of(lease: Lease, *, hub: str = HUB, status: str = "running") -> Container:
    labels = c.labels(hub, lease, lease.id)
    return Container(f"id-{lease.id}", lease.id, status, labels)


def lease_of(name: str, *indices: int, state: LeaseState = LeaseState.ACTIVE) -> Lease:
    return Lease(
        f"ls_{name}", Owner(name, ""), tuple(whole(device(i)) for i in indices), state
    )


def test_a_claimed_container_gives_its_lease_back_to_a_new_hub() -> None:
    """After a restart the lease is read from labels, to the last UUID."""
    lease = lease_of("ann", 0, 2)
    found = plan(HUB, [container_of(lease)], {}, {lease.id}, [device(0), device(2)])
    assert [(a.id, a.owner, a.uuids) for a in found.adopt] == [
        (lease.id, lease.owner, lease.uuids)
    ]
    assert found.remove == ()


def test_a_container_nobody_claims_is_removed() -> None:
    """A hub killed in the middle of a start leaves one behind."""
    lease = lease_of("ann", 0)
    found = plan(HUB, [container_of(lease)], {}, set(), [device(0)])
    assert found.remove == (f"id-{lease.id}",)


def test_an_orphans_device_is_not_free_before_the_orphan_is_gone() -> None:
    """Wanting it gone is not enough: until then its device stays taken."""
    lease, pool = lease_of("ann", 0), Pool()
    pool.see([device(0)], NOW)
    pool.apply(plan(HUB, [container_of(lease)], {}, set(), [device(0)]), NOW)
    with pytest.raises(NoCapacity):
        pool.acquire("ls_new", BOB, SlotRequest(1), NOW)
    give_back(pool, lease.id)
    assert pool.acquire("ls_new", BOB, SlotRequest(1), NOW).uuids == lease.uuids


def test_a_start_that_a_slow_listing_missed_is_neither_removed_nor_changed() -> None:
    """Leases are copied before containers are listed; what came between is claimed."""
    pool = ready_pool(1)
    lease = pool.acquire("ls_new", ANN, SlotRequest(1), NOW)
    found = plan(HUB, [container_of(lease)], {}, {lease.id}, [device(0)])
    assert found.remove == ()
    pool.apply(found, NOW)
    assert pool.leases[lease.id].state is LeaseState.STARTING


def test_a_container_of_an_image_made_from_a_server_is_not_ours() -> None:
    """Images inherit labels; the name tells the copy from the server."""
    labels = container_of(lease_of("ann", 0)).labels
    copy = Container("c", "somebody-elses", "running", labels)
    assert plan(HUB, [copy], {}, set(), [device(0)]).remove == ()


def test_a_driver_in_trouble_leases_no_device_and_says_why() -> None:
    """CPU servers start all the same, and the devices are not forgotten."""
    pool = ready_pool(1)
    pool.trouble = "A GPU may be stuck."
    with pytest.raises(NotReady, match=r"A GPU may be stuck\. Until then choose CPU"):
        pool.acquire("ls_1", ANN, SlotRequest(1), NOW)
    assert pool.acquire("ls_2", BOB, SlotRequest(0), NOW).devices == ()
    pool.see([device(0)], NOW)
    assert pool.acquire("ls_1", ANN, SlotRequest(1), NOW).devices == (device(0),)


def test_another_hubs_containers_are_never_touched_but_their_devices_are_taken() -> (
    None
):
    """Two hubs on one engine: neither removes nor leases what is the other's."""
    lease = lease_of("eve", 0)
    theirs = Container(
        "x",
        "theirs",
        "running",
        c.labels("there", lease, "theirs"),
        DeviceClaim(lease.uuids),
    )
    by_index = Container("y", "plain", "running", {}, DeviceClaim(("1",)))
    stopped = Container("z", "old", "exited", {}, DeviceClaim(("2",)))
    devices = [device(i) for i in range(4)]
    found = plan(HUB, [theirs, by_index, stopped], {}, set(), devices)
    assert found.remove == ()
    assert found.foreign == {device(0).uuid: "theirs", device(1).uuid: "plain"}
    greedy = Container("g", "exporter", "running", {}, DeviceClaim(takes_all=True))
    assert len(plan(HUB, [greedy], {}, set(), devices).foreign) == 4
    assert not plan(HUB, [greedy], {}, set(), devices, bystanders={"exporter"}).foreign


def test_a_lease_without_container_is_dropped_unless_it_is_starting() -> None:
    """A container removed by hand frees its device; one not yet made does not."""
    gone, new = lease_of("ann", 0), lease_of("bob", 1, state=LeaseState.STARTING)
    found = plan(HUB, [], {gone.id: gone, new.id: new}, set(), [device(0), device(1)])
    assert found.drop == (gone.id,)


def test_a_vanished_device_stays_in_its_lease() -> None:
    """A GPU that fell off the bus is still held by the server that had it."""
    lease = lease_of("ann", 5)
    (adopted,) = plan(HUB, [container_of(lease)], {}, {lease.id}, [device(0)]).adopt
    assert adopted.uuids == lease.uuids
    assert adopted.devices[0].is_lost


# -- devices that change


def test_what_a_lease_held_before_mig_mode_was_switched_must_be_seen_clean() -> None:
    """What its server left on the device is now on its instances."""
    pool = pool_of([device(0)])
    pool.acquire("ls_1", ANN, SlotRequest(1), NOW)
    pool.see([split(0)], NOW)
    with pytest.raises(NoCapacity, match=r"Of 2 MIG instances, 2 are leased"):
        pool.acquire("ls_2", BOB, MIG, NOW)
    pool.release("ls_1", NOW)
    assert pool.free == ()
    assert list(pool.returned) == ["MIG-0-0", "MIG-0-1"]
    pool.cleaned(pool.slots)
    assert ids(pool.free) == ["MIG-0-0", "MIG-0-1"]


def test_a_device_that_came_back_must_be_seen_clean() -> None:
    """Nobody knows what happened to it meanwhile; and its time begins anew."""
    pool = pool_of([device(0)])
    pool.see([device(0, is_lost=True)], after(10))
    pool.see([device(0)], after(100))
    assert pool.free == ()
    (returned,) = pool.returned.values()
    assert (returned.slot.device.is_lost, returned.since) == (False, after(100))


def test_a_lease_read_while_the_driver_failed_is_completed_later() -> None:
    """Else a share's memory cap would be nothing, and its user would be stopped."""
    pool = Pool({"A100": 2})
    held = replace(lease_of("ann"), slots=(read("GPU-00000000/1:2", {}),))
    pool.apply(plan(HUB, [container_of(held)], {}, {held.id}, []), NOW)
    assert pool.leases[held.id].slots[0].memory_bytes == 0
    pool.see([device(0)], NOW)
    (slot,) = pool.leases[held.id].slots
    assert (slot.memory_bytes, slot.device) == (20 * GIB, device(0))
    assert ids(x.slot for x in pool.returned.values()) == ["GPU-00000000/0:2"]


def test_a_mig_instance_of_a_device_that_was_lost_is_held_when_it_is_back() -> None:
    """A label names the instance; whose it is was not known at the start of the hub."""
    pool = Pool()
    lost = replace(split(0), instances=(), is_split=False, is_lost=True)
    pool.see([lost], NOW)
    held = replace(lease_of("ann"), slots=(read("MIG-0-1", {}),))
    pool.apply(plan(HUB, [container_of(held)], {}, {held.id}, [lost]), NOW)
    pool.see([split(0)], NOW)
    pool.cleaned(pool.slots)
    assert ids(pool.free) == ["MIG-0-0"]
    assert pool.holder("MIG-0-1") == pool.leases[held.id]
    pool.release(held.id, NOW)
    assert list(pool.returned) == ["MIG-0-1"]


def test_shares_configured_anew_under_leases_are_leased_when_the_last_ends() -> None:
    """The server with one of two halves may use half: no quarter is left beside it."""
    half, other = (
        replace(lease_of(user), slots=(read(f"GPU-00000000/{i}:2", {}),))
        for i, user in enumerate(["ann", "bob"])
    )
    pool = Pool({"A100": 4})
    pool.see([device(0)], NOW)
    ours = [container_of(half), container_of(other)]
    pool.apply(plan(HUB, ours, {}, {half.id, other.id}, [device(0)]), NOW)
    pool.cleaned(pool.slots)
    assert pool.free == ()
    give_back(pool, half.id)
    assert pool.free == ()
    give_back(pool, other.id)
    assert len(pool.free) == 4


def test_a_shared_device_has_as_many_holders_as_shares() -> None:
    """And each may use its part of the memory."""
    pool = pool_of([device(0)], shares={"A100": 3})
    held = [pool.acquire(f"ls_{i}", Owner(f"u{i}", ""), SHARE, NOW) for i in range(3)]
    assert len({lease.slots[0].id for lease in held}) == 3
    assert {lease.uuids for lease in held} == {(device(0).uuid,)}
    with pytest.raises(NoCapacity, match=r"No GPU share is free\. Of 3 GPU shares, 3"):
        pool.acquire("ls_3", BOB, SHARE, NOW)
    with pytest.raises(NoCapacity, match="This machine has no whole GPU"):
        pool.acquire("ls_3", BOB, SlotRequest(1), NOW)


def test_a_foreign_container_keeps_an_instance_or_the_whole_device() -> None:
    """Of a split device: what it got, no more and no less."""
    devices = [split(0), split(1)]
    pool = pool_of(devices)
    claims = DeviceClaim(("MIG-0-0", devices[1].uuid))
    theirs = Container("x", "theirs", "running", {}, claims)
    pool.apply(plan(HUB, [theirs], {}, set(), devices), NOW)
    assert ids(pool.free) == ["MIG-0-1"]
    pool.apply(plan(HUB, [], {}, set(), devices), NOW)
    assert len(pool.free) == 4


def test_nothing_is_free_before_the_containers_were_read() -> None:
    """Not even to look at."""
    pool = Pool()
    pool.see([device(0)], NOW)
    pool.cleaned(pool.slots)
    assert pool.free == ()
    assert pool.grant(NOW) == ()
    with pytest.raises(NotReady):
        pool.join(ticket("ann", SlotRequest(1)))


# -- refusals


def test_a_machine_without_gpus_leases_cpu_servers_only() -> None:
    """And says so."""
    pool = ready_pool(0)
    assert pool.acquire("ls_1", ANN, SlotRequest(0), NOW).slots == ()
    for request in (SlotRequest(1), SlotRequest(2, must_be_connected=True), MIG):
        with pytest.raises(NoCapacity, match=r"This machine has no GPU\. Choose CPU"):
            pool.acquire("ls_2", ANN, request, NOW)


def test_when_every_gpu_is_out_of_service_nobody_waits_for_one() -> None:
    """Who is refused knows it from who must wait."""
    pool = ready_pool(2)
    pool.judge({device(i).uuid: "XID 79" for i in range(2)})
    for ask in (pool.check, lambda request: pool.join(ticket("ann", request))):
        with pytest.raises(NoCapacity, match=r"All 2 GPUs are out of service"):
            ask(SlotRequest(1))
    pool.judge({device(1).uuid: "XID 79"})
    assert ids(pool.acquire("ls_1", ANN, SlotRequest(1), NOW).slots) == ["GPU-00000000"]


def test_a_set_of_one_type_is_not_made_of_two() -> None:
    """Waiting would not help, and the user is told which there are."""
    pool = pool_of([device(0), device(1), device(2, name="H100")])
    with pytest.raises(NoCapacity, match=r"2 A100, 1 H100.*Waiting will not help"):
        pool.acquire("ls_1", ANN, SlotRequest(3), NOW)
    assert len(pool.acquire("ls_2", ANN, SlotRequest(2), NOW).slots) == 2
    assert pool.acquire("ls_3", BOB, SlotRequest(1), NOW).devices[0].name == "H100"


def test_of_parts_a_server_gets_one() -> None:
    """Two MIG instances are of no use to one program."""
    pool = pool_of([split(0)])
    with pytest.raises(NoCapacity, match="A server gets one MIG instance; 2 were"):
        pool.acquire("ls_1", ANN, replace(MIG, n_slots=2), NOW)


def test_a_topology_that_is_not_told_hinders_nobody_but_who_needs_links() -> None:
    """Devices are leased as if all were far apart."""
    pool = pool_of([device(i) for i in range(4)], topology=Topology())
    assert len(pool.acquire("ls_1", ANN, SlotRequest(2), NOW).slots) == 2
    with pytest.raises(NoCapacity, match="all joined by NVLink"):
        pool.acquire("ls_2", BOB, SlotRequest(2, must_be_connected=True), NOW)


def test_an_id_is_used_once_at_a_time() -> None:
    """The lease of that id stays what it is."""
    pool = ready_pool(3)
    first = pool.acquire("ls_ann", ANN, SlotRequest(1), NOW)
    with pytest.raises(ValueError, match="lease ls_ann exists"):
        pool.acquire("ls_ann", BOB, SlotRequest(1), NOW)
    with pytest.raises(ValueError, match="lease ls_ann exists"):
        pool.join(ticket("ann", SlotRequest(1)))
    assert pool.leases == {"ls_ann": first}
    assert pool.queue.tickets == ()


# -- whole groups


def test_a_group_to_be_kept_may_be_one_of_another_type() -> None:
    """Four H100 are whole, so one of four A100 may be given to who asks for one."""
    devices = [device(i, name="A100" if i < 4 else "H100") for i in range(8)]
    pool = pool_of(devices, topology=quads(devices), keep_intact={4: 1})
    assert pool.acquire("ls_1", ANN, SlotRequest(1, type="A100"), NOW).slots
    with pytest.raises(NoCapacity, match="kept for servers with 4 connected GPUs"):
        pool.acquire("ls_2", BOB, SlotRequest(1, type="H100"), NOW)


def test_a_group_of_another_type_counts_in_the_queue_too() -> None:
    """As it is now: while it is leased, the other one is kept."""
    devices = [device(i, name="A100" if i < 4 else "H100") for i in range(8)]
    pool = pool_of(devices, topology=quads(devices), keep_intact={4: 1})
    one = SlotRequest(1, type="A100")
    pool.join(ticket("ann", one))
    assert [lease.owner.user for lease in pool.grant(NOW)] == ["ann"]
    give_back(pool, "ls_ann")
    pool.acquire("ls_0", BOB, SlotRequest(4, type="H100"), NOW)
    pool.join(ticket("ann", one))
    pool.join(ticket("cat", SlotRequest(4, type="A100"), asked_s=1))
    assert [lease.owner.user for lease in pool.grant(after(2))] == ["cat"]


def test_nobody_behind_breaks_a_kept_group_because_another_needs_the_rest() -> None:
    """What six will need is GPU 3; one must not take of the other four instead."""
    devices = [device(i) for i in range(8)]
    pool = pool_of(devices, topology=quads(devices), keep_intact={4: 1})
    for _ in range(ENOUGH):
        pool.durations.note(SlotRequest(1), 90.0)
    held = pool.acquire("ls_0", ANN, SlotRequest(3), NOW)
    assert [one.index for one in held.devices] == [0, 1, 2]
    pool.join(ticket("bob", SlotRequest(6)))
    pool.join(ticket("cat", SlotRequest(1), asked_s=1))
    assert pool.grant(after(2)) == ()
    give_back(pool, "ls_0")
    assert [lease.owner.user for lease in pool.grant(after(3))] == ["bob", "cat"]


def test_groups_are_made_of_the_devices_that_work() -> None:
    """Without GPU 3 the four that are left are the best there is, and are kept."""
    devices = [device(i) for i in range(5)]
    pool = pool_of(devices, topology=quads(devices), keep_intact={4: 1})
    pool.check(SlotRequest(1))
    pool.judge({device(3).uuid: "XID 79"})
    with pytest.raises(NoCapacity, match="kept for servers with 4 connected GPUs"):
        pool.check(SlotRequest(1))


# -- the queue


def test_a_granted_ticket_is_explained_as_any_other_lease() -> None:
    """By what is free, not by what it got."""
    devices = [device(i) for i in range(8)]
    pool = pool_of(devices, topology=quads(devices))
    pool.join(ticket("ann", SlotRequest(2)))
    pool.join(ticket("bob", SlotRequest(1), asked_s=1))
    assert [lease.why for lease in pool.grant(after(2))] == [
        "GPU 0+1: NV2; keeps 4-5-6-7 and 2+3 whole",
        "GPU 2: keeps 4-5-6-7 whole",
    ]


def test_who_is_let_ahead_is_told_that_nobody_is_delayed() -> None:
    """Why this slot and no other: those ahead need the others."""
    pool = pool_of([device(i) for i in range(3)])
    for _ in range(ENOUGH):
        pool.durations.note(SlotRequest(1), 90.0)
    pool.acquire("ls_0", ANN, SlotRequest(1, type="A100"), NOW)
    pool.join(ticket("bob", SlotRequest(3)))
    pool.join(ticket("cat", SlotRequest(1), asked_s=1))
    (early,) = pool.grant(after(2))
    assert early.owner.user == "cat"
    assert early.why.startswith("GPU 1: ")
    assert '"n_overtaken": 1' in json.dumps(pool.queue.to_json())


def test_a_queue_learns_how_long_leases_last_although_nobody_names_a_type() -> None:
    """Sizes of a uniform machine name none."""
    pool = ready_pool(1)
    for i in range(ENOUGH):
        pool.acquire(f"ls_{i}", ANN, SlotRequest(1), NOW)
        pool.release(f"ls_{i}", after(600))
        pool.cleaned(pool.slots)
    assert pool.durations.expected(SlotRequest(1)) == 600
    assert pool.durations.expected(SlotRequest(1, type="A100")) == 600
    assert pool.durations.expected(SlotRequest(2)) == DEFAULT_S
    pool.acquire("ls_now", ANN, SlotRequest(1), NOW)
    assert pool.outlook(SlotRequest(1), NOW).wait_s == 600


def test_a_slot_that_is_held_is_not_expected_to_be_clean_soon() -> None:
    """Whatever its device was divided into before."""
    half = replace(lease_of("ann"), slots=(read("GPU-00000000/0:2", {}),), since=NOW)
    pool = Pool({"A100": 4})
    pool.see([device(0)], NOW)
    pool.apply(Plan(adopt=(half,)), NOW)
    assert pool.outlook(SHARE, NOW).wait_s == DEFAULT_S


def test_a_ticket_whose_lease_is_found_running_is_not_served_again() -> None:
    """A hub killed before the queue's file was written comes back with an old one."""
    old = ready_pool(2)
    old.join(ticket("ann", SlotRequest(1)))
    kept = old.queue.to_json()
    (lease,) = old.grant(NOW)
    new = Pool()
    new.queue = Queue.from_json(kept, NOW)
    new.see([device(0), device(1)], NOW)
    new.apply(plan(HUB, [container_of(lease)], {}, set(), [device(0)]), NOW)
    assert new.queue.tickets == ()


def test_who_comes_back_after_a_restart_keeps_the_place_but_not_the_lease_id() -> None:
    """A container of the old id may still be on its way in the engine."""
    old = ready_pool(1)
    old.join(ticket("ann", SlotRequest(1)))
    new = ready_pool(1)
    new.queue = Queue.from_json(old.queue.to_json(), NOW)
    back = replace(ticket("ann", SlotRequest(1), asked_s=60), id="ls_new")
    kept = new.join(back)
    assert (kept.id, kept.asked_at) == ("ls_new", NOW)
    assert [lease.id for lease in new.grant(after(61))] == ["ls_new"]
    assert new.queue.tickets == ()
