"""The pool never leases a device twice, whatever happens in whatever order."""

from datetime import UTC, datetime

import pytest
from gpuspawner import container as c
from gpuspawner.errors import NoCapacity, NotReady
from gpuspawner.model import (
    Container,
    Device,
    DeviceClaim,
    Lease,
    LeaseState,
    Owner,
    SlotRequest,
    whole,
)
from gpuspawner.pool import Pool
from gpuspawner.recovery import Plan, plan
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

GIB = 2**30
NOW = datetime(2026, 3, 2, 9, tzinfo=UTC)


def device(index: int, *, is_lost: bool = False) -> Device:
    return Device(index, f"GPU-{index:08x}", "A100", 40 * GIB, index, is_lost)


def ready_pool(n: int) -> Pool:
    pool = Pool()
    pool.see([device(i) for i in range(n)], NOW)
    pool.apply(Plan(), NOW)
    pool.cleaned(pool.slots)
    return pool


def give_back(pool: Pool, lease_id: str) -> None:
    """The lease's container is gone and its slots were seen clean."""
    pool.release(lease_id, NOW)
    pool.cleaned(pool.slots)


ANN, BOB = Owner("ann", ""), Owner("bob", "")


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
        "No GPU is free: of 1 GPU, 1 leased. You can start as soon as 1 GPU more is "
        "given back; until then choose CPU only, your files are the same."
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


class AnyOrder(RuleBasedStateMachine):
    """Servers, crashes of containers and of the hub in any order, against an engine.

    The model engine is a dict of containers; the pool under test must keep every device
    in at most one of them (I1), and after a reconciliation agree with it (I2).
    """

    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool()
        self.engine: dict[str, Container] = {}
        self.claims: set[str] = set()
        self.n = 0

    leases: Bundle[str] = Bundle("leases")

    @initialize(n=st.integers(0, 8))
    def machine(self, n: int) -> None:
        self.devices = [device(i) for i in range(n)]
        self.pool.see(self.devices, NOW)
        self.reconcile()

    @rule(target=leases, k=st.integers(0, 4), creates=st.booleans())
    def start(self, k: int, creates: bool) -> str | MultipleResults[str]:
        self.n += 1
        lease_id = f"ls_{self.n}"
        try:
            lease = self.pool.acquire(
                lease_id, Owner(f"u{self.n}", ""), SlotRequest(k), NOW
            )
        except NoCapacity:
            assert k > len(self.pool.free)
            return multiple()
        assert len(lease.devices) == k
        if creates:
            self.engine[lease_id] = container_of(lease)
        return lease_id

    @rule(lease_id=leases)
    def becomes_ready(self, lease_id: str) -> None:
        if lease_id in self.engine and lease_id in self.pool.leases:
            self.pool.activate(lease_id)
            self.claims.add(lease_id)

    @rule(lease_id=consumes(leases))
    def stop(self, lease_id: str) -> None:
        self.claims.discard(lease_id)
        self.pool.end(lease_id)
        self.engine.pop(lease_id, None)
        give_back(self.pool, lease_id)

    @rule(lease_id=leases)
    def stop_fails_halfway(self, lease_id: str) -> None:
        self.claims.discard(lease_id)
        self.pool.end(lease_id)

    @rule(lease_id=leases)
    def removed_by_hand(self, lease_id: str) -> None:
        self.engine.pop(lease_id, None)

    @rule()
    def hub_dies_and_comes_back(self) -> None:
        self.pool = Pool()
        self.pool.see(self.devices, NOW)
        self.reconcile()
        assert self.pool.leases.keys() == self.engine.keys()

    @rule()
    def reconcile(self) -> None:
        found = plan(
            HUB,
            list(self.engine.values()),
            dict(self.pool.leases),
            self.claims,
            self.devices,
        )
        self.pool.apply(found, NOW)
        self.pool.cleaned(self.pool.slots)
        for container_id in found.remove:
            lease_id = container_id.removeprefix("id-")
            self.engine.pop(lease_id)
            give_back(self.pool, lease_id)
        again = plan(
            HUB,
            list(self.engine.values()),
            dict(self.pool.leases),
            self.claims,
            self.devices,
        )
        assert again.is_empty

    @invariant()
    def every_device_is_in_at_most_one_lease(self) -> None:
        held = [uuid for lease in self.pool.leases.values() for uuid in lease.uuids]
        assert len(held) == len(set(held))

    @invariant()
    def no_free_device_is_in_a_container(self) -> None:
        in_containers = [
            uuid for found in self.engine.values() for uuid in c.slots_of(found)
        ]
        assert len(in_containers) == len(set(in_containers))
        if self.pool.is_ready:
            free = {found.uuid for found in self.pool.free}
            assert free.isdisjoint(in_containers)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(
    max_examples=250, stateful_step_count=50, deadline=None
)
