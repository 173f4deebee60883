"""What one hub process holds once: engine, probe, pool, and what keeps them true."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from gpuspawner import container as c
from gpuspawner.container import LEASE
from gpuspawner.doorway import Doorway
from gpuspawner.durations import Durations
from gpuspawner.engine import DockerEngine
from gpuspawner.errors import (
    EngineRefused,
    EngineUnknown,
    GPUSpawnerError,
    NotReady,
    ProbeFailed,
)
from gpuspawner.exits import Exit
from gpuspawner.health import HealthBook
from gpuspawner.keeping import Keeper
from gpuspawner.model import Offer
from gpuspawner.offers import from_machine
from gpuspawner.pool import Pool
from gpuspawner.ports import Probe
from gpuspawner.recovery import plan
from gpuspawner.rounds import Placing, Rounds
from gpuspawner.slots import unknown_keys
from gpuspawner.waiting import Queue
from gpuspawner.waitingroom import WaitingRoom

RECONCILE_EVERY_S = 15.0
REMOVALS_WAIT_S = 20.0
ORPHAN_STOP_S = 5  # nobody works in an orphan: it gets less time to end than a server
STOP_GRACE_S = 10
DRIVER_LOOK_EVERY_S = 60.0
Log = logging.Logger | logging.LoggerAdapter[logging.Logger]


@dataclass(frozen=True, slots=True)
class Policy:
    """What a site decides about its machine; see the traits of the same names.

    Attributes:
        shares: Device -> how many users share it.
        keep_intact: Group size -> groups kept whole for requests of that size.
        bystanders: Names of other containers that may hold any GPU.
        queue_timeout_s: Longest wait in the queue.
        sample_every_s: Seconds between two rounds.
        state_dir: Where what must outlive the hub is kept.
    """

    shares: Mapping[str, int] = field(default_factory=dict)
    keep_intact: Mapping[int, int] = field(default_factory=dict)
    bystanders: frozenset[str] = frozenset()
    queue_timeout_s: float = 0.0
    sample_every_s: float = 10.0
    state_dir: Path = Path()


class Host:
    """One machine as its hub sees it.

    Attributes:
        hub_id: Containers with this label are ours.
        engine: See DockerEngine.
        probe: See Probe.
        pool: The owner of slots; read it freely, change it only through leases.
        claims: Lease ids that spawners loaded from the hub's database or started.
        book: The health of every device.
        rounds: See Rounds.
        room: Where starts wait for slots.
        doorway: Where they wait to boot.
        placing: Which containers there are.
        caps: Lease id -> what enforces its memory cap, of those that have one.
    """

    def __init__(
        self, hub_id: str, engine: DockerEngine, probe: Probe, log: Log, policy: Policy
    ) -> None:
        self.hub_id = hub_id
        self.engine = engine
        self.probe = probe
        self.policy = policy
        self.log = log
        self.pool = Pool(policy.shares, policy.keep_intact)
        self.claims: set[str] = set()
        self.caps: dict[str, str] = {}
        self.doorway = Doorway()
        self.placing = Placing(bystanders=policy.bystanders)
        self._messages: dict[str, list[str]] = {}
        self._endings: dict[str, Exit] = {}
        self._evicted: set[str] = set()
        self._queue_file = Keeper(
            policy.state_dir / "gpuspawner-queue.json", self._queue_state, log
        )
        self._health_file = Keeper(
            policy.state_dir / "gpuspawner-health.json",
            self._health_state,
            log,
        )
        self.book = self._load()
        self.room = WaitingRoom(
            self.pool, policy.queue_timeout_s, self._queue_file.changed
        )
        self.rounds = Rounds(
            probe=probe,
            engine=engine,
            pool=self.pool,
            book=self.book,
            placing=self.placing,
            evict=self.evict,
            tell=self.tell,
            log=log,
        )
        self._lock = asyncio.Lock()
        self._round_lock = asyncio.Lock()
        self._loops: dict[str, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        self._look = asyncio.Event()
        self._removals: dict[str, asyncio.Task[None]] = {}

    # -- what outlives the hub -----------------------------------------------------

    def _queue_state(self) -> dict[str, object]:
        return {
            "queue": self.pool.queue.to_json(),
            "durations": self.pool.durations.to_json(),
        }

    def _health_state(self) -> Mapping[str, object]:
        return self.book.to_json()

    def _load(self) -> HealthBook:
        kept, now = self._queue_file.load(), datetime.now(UTC)
        try:
            self.pool.queue = Queue.from_json(kept.get("queue", {"tickets": []}), now)
            self.pool.durations = Durations.from_json(kept.get("durations", {}))
        except ValueError as error:
            self.log.error("starting with an empty queue: %s", error)
        return HealthBook.from_json(self._health_file.load())

    # -- loops ---------------------------------------------------------------------

    def kick(self) -> None:
        """Reconcile soon, and from then on regularly. Needs a running event loop.

        Call it only when every running server's spawner has loaded its state: what
        nobody claims is removed.
        """
        self._wake.set()
        self._start("reconcile", self._wake, RECONCILE_EVERY_S, self.reconcile)
        self._start("rounds", self._look, self.policy.sample_every_s, self.look_round)
        self._start(
            "drivers", asyncio.Event(), DRIVER_LOOK_EVERY_S, self.rounds.check_drivers
        )

    def _start(
        self,
        name: str,
        wake: asyncio.Event,
        every_s: float,
        work: Callable[[], Awaitable[None]],
    ) -> None:
        running = self._loops.get(name)
        if running is None or running.done():
            loop = asyncio.get_running_loop()
            self._loops[name] = loop.create_task(self._repeat(wake, every_s, work))

    async def _repeat(
        self, wake: asyncio.Event, every_s: float, work: Callable[[], Awaitable[None]]
    ) -> None:
        while True:
            wake.clear()
            try:
                await work()
            except GPUSpawnerError as error:
                self.log.warning("will try again: %s", error)
            except Exception:  # a bug here must not end the loop that keeps leases true
                self.log.exception("a round failed, will try again")
            try:
                await asyncio.wait_for(wake.wait(), every_s)
            except TimeoutError:
                continue

    async def look_round(self) -> None:
        """Make one round over the GPUs and serve who waits."""
        async with self._round_lock:
            if self.pool.devices:
                await self.rounds.once()
        self.room.serve()
        self._health_file.changed()

    async def reconcile(self) -> None:
        """Bring containers and leases to agree.

        Raises:
            EngineUnknown: Nothing was changed.
        """
        async with self._lock:
            await self.look()
            before = dict(self.pool.leases)
            containers = await self.engine.list()
            found = plan(
                self.hub_id,
                containers,
                before,
                self.claims,
                tuple(self.pool.devices.values()),
                bystanders=self.policy.bystanders,
            )
            self.pool.apply(found, datetime.now(UTC))
            self.placing.names = {row.id: row.name for row in containers}
            lease_of = {row.id: row.labels.get(LEASE) or row.id for row in containers
                        if c.is_ours(self.hub_id, row)}  # fmt: skip
            alive = self.pool.leases.keys()
            self.placing.of_lease = {
                **{k: v for k, v in self.placing.of_lease.items() if k in alive},
                **{lease_id: row_id for row_id, lease_id in lease_of.items()},
            }
        for lease in found.adopt:
            self.log.info(
                "lease found lease_id=%s owner=%s state=%s",
                lease.id,
                lease.owner,
                self.pool.leases[lease.id].state,
            )
        for lease_id in found.drop:
            self.log.info("lease dropped, its container is gone lease_id=%s", lease_id)
        for name in found.remove:
            if name not in self._removals:
                self._removals[name] = asyncio.create_task(
                    self._remove(name, lease_of[name])
                )
        if self.pool.returned:
            self._look.set()

    async def _remove(self, name: str, lease_id: str) -> None:
        is_evicted = lease_id in self._evicted
        why = "whose lease was ended" if is_evicted else "nobody claims"
        self.log.warning("removing a container %s lease_id=%s", why, lease_id)
        try:
            await self._take_down(name, STOP_GRACE_S if is_evicted else ORPHAN_STOP_S)
            self._release(lease_id)
        except (EngineUnknown, EngineRefused) as error:
            self.log.warning("could not remove it, will try again: %s", error)
        finally:
            del self._removals[name]

    # -- reading the machine ---------------------------------------------------------

    async def look(self) -> None:
        """Read the devices; if the driver fails, keep them but lease none of them."""
        try:
            devices = await self.probe.list_devices()
            is_new = {d.uuid for d in devices} != self.pool.devices.keys()
            topology = await self.probe.topology() if devices and is_new else None
            self.pool.see(devices, datetime.now(UTC), topology)
        except ProbeFailed as error:
            self.log.warning("GPUs cannot be read: %s", error)
            self.pool.trouble = str(error)
            return
        if is_new and (unknown := unknown_keys(self.policy.shares, devices)):
            self.log.warning(
                "GPUDockerSpawner.shares names no GPU of this machine: %s. Use a UUID, "
                "an index or a product name as nvidia-smi -L shows them.",
                ", ".join(unknown),
            )

    async def ready(self) -> None:
        """Return when leases can be granted.

        Containers that are being removed and slots that were never looked at are
        waited for, but not for long.

        Raises:
            NotReady: The engine does not answer, so who holds what is unknown.
        """
        self.kick()
        known = self.pool.devices.keys()
        if self.pool.is_ready:
            await self.look()
        try:
            if not self.pool.is_ready or self.pool.devices.keys() != known:
                await self.reconcile()
        except EngineUnknown as error:
            raise NotReady(
                "The container engine does not answer, so the hub cannot start servers "
                f"now. Try again in a minute or tell your admin ({error})."
            ) from error
        if self._removals:
            await asyncio.wait(self._removals.values(), timeout=REMOVALS_WAIT_S)
        if self.pool.returned:
            await self.look_round()

    async def machine_offers(self) -> Sequence[Offer]:
        """Return the sizes this machine can offer."""
        facts = await self.engine.facts()
        slots = tuple(self.pool.slots.values())
        return from_machine(slots, facts["memory_bytes"], facts["n_cpus"])

    # -- ending leases ---------------------------------------------------------------

    async def end(self, lease_id: str, name: str, *, timeout_s: int) -> None:
        """Stop and remove a lease's container and give its slots back.

        Raises:
            EngineUnknown: The lease stays taken; the loop tries again.
            EngineRefused: Likewise.
        """
        self.pool.end(lease_id)
        try:
            found = await self.engine.inspect(name)
            if found is not None and found.labels.get(LEASE) == lease_id:
                await self._take_down(found.id, timeout_s)
        except BaseException:
            self.kick()
            raise
        self._release(lease_id)
        self.claims.discard(lease_id)

    async def _take_down(self, name: str, timeout_s: int) -> None:
        """Interrupt kernels, ask the server to end, then make it; it is gone then."""
        if timeout_s:
            try:
                await self.engine.run_check(name, c.interrupt_kernels(), user="")
            except (EngineUnknown, EngineRefused) as error:
                # Not running, or an image without a shell: the next stage ends it.
                self.log.debug("kernels not interrupted: %s", error)
        await self.engine.remove(name, timeout_s=timeout_s)

    def _release(self, lease_id: str) -> None:
        self.pool.release(lease_id, datetime.now(UTC))
        self.placing.of_lease.pop(lease_id, None)
        self.caps.pop(lease_id, None)
        self._messages.pop(lease_id, None)
        self._evicted.discard(lease_id)
        self._look.set()
        self.room.serve()

    def evict(self, lease_id: str, ended: Exit) -> None:
        """End a lease from our side; its user reads why. The container goes soon."""
        if lease_id not in self.pool.leases:
            return
        self.log.warning("ending lease_id=%s: %s", lease_id, ended.reason)
        self._endings[lease_id] = ended
        self._evicted.add(lease_id)
        self.pool.end(lease_id)
        self.kick()

    def ending_of(self, lease_id: str) -> Exit | None:
        """Return why we ended a lease, once; None if we did not."""
        return self._endings.pop(lease_id, None)

    def tell(self, lease_id: str, text: str) -> None:
        """Leave a message for a lease's user."""
        self._messages.setdefault(lease_id, []).append(text)

    def messages_for(self, lease_id: str) -> list[str]:
        """Return what was left for a lease's user, once."""
        return self._messages.pop(lease_id, [])
