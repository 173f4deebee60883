"""The waiting room: leases to those whose turn it is, and none to who went away."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from gpuspawner import waitingroom
from gpuspawner.errors import NoCapacity, NotReady
from gpuspawner.model import Device, Lease, Owner, SlotRequest
from gpuspawner.pool import Pool
from gpuspawner.recovery import Plan
from gpuspawner.tickets import Place, Ticket
from gpuspawner.waiting import Queue, describe
from gpuspawner.waitingroom import WaitingRoom

GIB = 2**30
ONE = SlotRequest(1)
LIMIT_S = 3600.0


class Room:
    """A waiting room before a pool of some devices, all free."""

    def __init__(self, n_devices: int, limit_s: float = LIMIT_S) -> None:
        self.pool = Pool()
        devices = [Device(i, f"GPU-{i}", "A100", 40 * GIB, i) for i in range(n_devices)]
        self.pool.see(devices, datetime.now(UTC))
        self.pool.apply(Plan(), datetime.now(UTC))
        self.pool.cleaned(list(self.pool.slots))
        self.n_changes = 0
        self.told: dict[str, list[Place]] = {}
        self.left: set[str] = set()
        self.room = WaitingRoom(self.pool, limit_s, self._changed)

    def _changed(self) -> None:
        self.n_changes += 1

    def ask(
        self, name: str, request: SlotRequest = ONE, at: datetime | None = None
    ) -> asyncio.Task[Lease]:
        told = self.told.setdefault(name, [])
        ticket = Ticket(f"ls_{name}", Owner(name, ""), request, at or datetime.now(UTC))
        return asyncio.create_task(
            self.room.lease(ticket, told.append, lambda: name in self.left)
        )

    def end(self, lease: Lease) -> None:
        """A server ended and its slots were seen clean."""
        self.pool.release(lease.id, datetime.now(UTC))
        self.pool.cleaned([slot.id for slot in lease.slots])
        self.room.serve()

    @property
    def waiting(self) -> list[str]:
        return [ticket.owner.user for ticket in self.pool.queue.tickets]


async def settle() -> None:
    """Let every task go as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def until(is_so: Callable[[], bool]) -> None:
    """Let tasks go on until something is so."""
    async with asyncio.timeout(30):
        while not is_so():  # noqa: ASYNC110 - what is waited for is not an event
            await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look often for pages that were closed."""
    monkeypatch.setattr(waitingroom, "LOOK_EVERY_S", 0.01)


def test_what_is_free_is_leased_at_once() -> None:
    """Nobody who need not wait is told of a queue."""

    async def go() -> None:
        room = Room(1)
        lease = await room.ask("ann")
        assert [slot.device.index for slot in lease.slots] == [0]
        assert not room.told["ann"]
        assert not room.waiting

    asyncio.run(go())


def test_the_first_in_line_gets_what_comes_free_and_the_others_move_up() -> None:
    """Three wait; the lease that ends goes to the first, the places follow."""

    async def go() -> None:
        room = Room(1)
        held = await room.ask("ann")
        waiting = [room.ask(name) for name in ("bob", "cat", "dan")]
        await settle()
        assert [room.told[name][-1].position for name in ("bob", "cat", "dan")] == [
            1, 2, 3,
        ]  # fmt: skip
        assert "You are number 2 in the queue" in describe(room.told["cat"][-1])
        room.end(held)
        lease = await waiting[0]
        assert lease.owner == Owner("bob", "")
        assert lease.slots == held.slots
        await until(lambda: room.told["cat"][-1].position == 1)
        assert room.told["dan"][-1].position == 2
        for task in waiting[1:]:
            task.cancel()

    asyncio.run(go())


def test_joining_and_leaving_are_kept_at_once() -> None:
    """A hub that dies right after somebody joined finds them in the queue again."""

    async def go() -> None:
        room = Room(1)
        await room.ask("ann")
        before = room.n_changes
        task = room.ask("bob")
        await settle()
        assert room.n_changes > before
        before = room.n_changes
        task.cancel()
        await settle()
        assert room.n_changes > before

    asyncio.run(go())


def test_cancelling_leaves_the_queue_and_lets_those_behind_start() -> None:
    """Two GPUs were asked for and one is free: who waits behind gets it then."""

    async def go() -> None:
        room = Room(2)
        held = await room.ask("ann")
        big = room.ask("big", SlotRequest(2))
        await settle()
        small = room.ask("small")
        await settle()
        assert not small.done()  # nobody knows how long it would keep the big one
        big.cancel()
        await settle()
        assert small.done()
        assert room.waiting == []
        assert small.result().slots != held.slots

    asyncio.run(go())


@pytest.mark.parametrize("is_granted_first", [True, False])
def test_cancelling_at_the_very_moment_of_the_grant_gives_the_slot_on(
    is_granted_first: bool,
) -> None:
    """Grant and cancel in one turn of the loop: the next in line has the slot."""

    async def go() -> None:
        room = Room(1)
        held = await room.ask("ann")
        bob, cat = room.ask("bob"), room.ask("cat")
        await settle()
        if is_granted_first:
            room.end(held)
            assert "ls_bob" in room.pool.leases
            bob.cancel()
        else:
            bob.cancel()
            room.end(held)
        await settle()
        assert bob.cancelled()
        assert (await cat).slots == held.slots
        assert set(room.pool.leases) == {"ls_cat"}
        assert not room.pool.returned

    asyncio.run(go())


def test_who_closed_the_page_leaves_and_the_next_is_served() -> None:
    """The start fails with a sentence; nothing of it stays."""

    async def go() -> None:
        room = Room(1)
        held = await room.ask("ann")
        bob, cat = room.ask("bob"), room.ask("cat")
        await settle()
        room.left.add("bob")
        with pytest.raises(NoCapacity, match="the page was closed"):
            await bob
        assert room.waiting == ["cat"]
        room.end(held)
        assert (await cat).owner == Owner("cat", "")

    asyncio.run(go())


def test_a_wait_ends_at_the_limit_with_what_to_do_next() -> None:
    """It counts from the first asking, also over a restart of the hub."""

    async def go() -> None:
        room = Room(1, limit_s=1800)
        await room.ask("ann")
        bob = room.ask("bob", at=datetime.now(UTC) - timedelta(seconds=1801))
        with pytest.raises(NoCapacity, match=r"within 30 minutes.*Start again"):
            await bob
        assert room.waiting == []

    asyncio.run(go())


def test_without_a_queue_what_is_not_free_is_refused_at_once() -> None:
    """queue_timeout = 0: the refusal says who has what."""

    async def go() -> None:
        room = Room(1, limit_s=0)
        await room.ask("ann")
        with pytest.raises(NoCapacity, match="No GPU is free"):
            await room.ask("bob")
        assert room.waiting == []
        assert set(room.pool.leases) == {"ls_ann"}

    asyncio.run(go())


def test_what_waiting_cannot_bring_is_refused_at_once() -> None:
    """More GPUs than there are, or a hub that cannot read them."""

    async def go() -> None:
        room = Room(1)
        with pytest.raises(NoCapacity, match="Choose a smaller server"):
            await room.ask("ann", SlotRequest(2))
        room.pool.trouble = "NVML does not answer."
        with pytest.raises(NotReady, match="NVML does not answer"):
            await room.ask("ann")
        assert room.waiting == []

    asyncio.run(go())


def restarted(room: Room) -> Room:
    """Another hub's room with what this one kept; its leases go on."""
    new = Room(len(room.pool.devices))
    new.pool.leases = dict(room.pool.leases)
    new.pool.queue = Queue.from_json(room.pool.queue.to_json(), datetime.now(UTC))
    return new


def test_places_survive_a_restart_in_their_order() -> None:
    """They come back in any order, and each has the place it had."""

    async def go() -> None:
        before = Room(1)
        held = await before.ask("ann")
        tasks = [before.ask(name) for name in ("bob", "cat", "dan")]
        await settle()
        room = restarted(before)
        for task in tasks:
            task.cancel()
        back = {name: room.ask(name) for name in ("dan", "cat", "bob")}
        await settle()
        order = []
        for _ in range(3):
            room.end(held)
            await settle()
            [name] = [n for n, task in back.items() if task.done() and n not in order]
            order.append(name)
            held = back[name].result()
        assert order == ["bob", "cat", "dan"]

    asyncio.run(go())


def test_nobody_who_did_not_come_back_is_granted_anything() -> None:
    """A free slot is kept for an absent owner for a while, then the next has it."""

    async def go() -> None:
        before = Room(1)
        held = await before.ask("ann")
        task = before.ask("bob")
        await settle()
        room = restarted(before)
        task.cancel()
        room.end(held)
        await settle()
        assert room.pool.leases == {}
        past = datetime.now(UTC) - timedelta(seconds=600)
        room.pool.queue = Queue.from_json(before_json("bob"), past)
        cat = room.ask("cat")
        assert (await cat).owner == Owner("cat", "")
        assert room.waiting == []

    asyncio.run(go())


def test_a_kept_place_is_given_up_by_who_starts_without_it() -> None:
    """Whoever takes a CPU server instead holds nobody up."""

    async def go() -> None:
        room = Room(1)
        room.pool.queue = Queue.from_json(before_json("bob"), datetime.now(UTC))
        cat = room.ask("cat")
        await settle()
        assert not cat.done()
        room.room.forget(Owner("bob", ""))
        assert (await cat).owner == Owner("cat", "")
        assert room.n_changes

    asyncio.run(go())


def before_json(name: str) -> dict[str, object]:
    """A kept queue with one ticket."""
    queue = Queue()
    queue.join(Ticket(f"ls_{name}", Owner(name, ""), ONE, datetime.now(UTC)))
    return queue.to_json()
