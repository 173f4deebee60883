"""What one hub process holds once: engine, probe, pool, and what keeps them true."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from gpuspawner import container as c
from gpuspawner import exits
from gpuspawner.clock import Clock
from gpuspawner.container import LEASE
from gpuspawner.doorway import Doorway
from gpuspawner.durations import Durations
from gpuspawner.endings import Announced
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
from gpuspawner.idleness import read_idle_w, thresholds_for
from gpuspawner.keeping import Keeper
from gpuspawner.metering import Metering
from gpuspawner.model import Container, Device, LeaseState, Offer, Terms
from gpuspawner.notices import Notices
from gpuspawner.offers import from_machine
from gpuspawner.pacing import NO_LIMIT, Pace, Starts
from gpuspawner.pool import Pool
from gpuspawner.ports import Meter, PlaceholderMeter, Probe
from gpuspawner.recovery import plan
from gpuspawner.rounds import Placing, Rounds
from gpuspawner.slots import unknown_keys
from gpuspawner.waiting import Queue
from gpuspawner.waitingroom import WaitingRoom

RECONCILE_EVERY_S = 15.0
REMOVALS_WAIT_S = 20.0
ORPHAN_STOP_S = 5  # nobody works in an orphan: it gets less time to end than a server
STOP_GRACE_S = 10
# An engine may hang here and stop containers all the same.
INTERRUPT_WAIT_S = c.INTERRUPT_S + 5
LOOK_WAIT_S = 10.0  # for a driver that sets every GPU up when it is first asked
DRIVER_LOOK_ROUNDS = 6
SLOW = "The NVIDIA driver takes long to answer."
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
        clean_within_s: How long a returned slot may take to become clean.
        meter_every_s: Seconds between two looks of the meter at running servers.
        state_dir: Where what must outlive the hub is kept.
        starts: How often one user may start a server.
        unanswered: How many of a user's GPU servers may not answer.
    """

    shares: Mapping[str, int] = field(default_factory=dict)
    keep_intact: Mapping[int, int] = field(default_factory=dict)
    bystanders: frozenset[str] = frozenset()
    queue_timeout_s: float = 0.0
    sample_every_s: float = 10.0
    clean_within_s: float = 60.0
    meter_every_s: float = 60.0
    state_dir: Path = Path()
    starts: Pace = NO_LIMIT
    unanswered: Pace = NO_LIMIT


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
        metering: See Metering.
        caps: Lease id -> what enforces its memory cap, of those that have one.
        terms: Lease id -> what its server was started as.
        announced: Why servers are about to be stopped through JupyterHub.
        starts: How often users start servers.
    """

    def __init__(
        self,
        hub_id: str,
        engine: DockerEngine,
        probe: Probe,
        log: Log,
        policy: Policy,
        *,
        meter: Meter | None = None,
    ) -> None:
        self.hub_id = hub_id
        self.engine = engine
        self.probe = probe
        self.policy = policy
        self.log = log
        self.pool = Pool(policy.shares, policy.keep_intact)
        self.claims: set[str] = set()
        self.caps: dict[str, str] = {}
        self.terms: dict[str, Terms] = {}
        self.announced = Announced()
        self.doorway = Doorway()
        self.starts = Starts(policy.starts, policy.unanswered)
        self.placing = Placing(bystanders=policy.bystanders)
        self._evicted: set[str] = set()
        self._queue_file = Keeper(
            policy.state_dir / "gpuspawner-queue.json", self._queue_state, log
        )
        self._health_file = Keeper(
            policy.state_dir / "gpuspawner-health.json",
            self._health_state,
            log,
        )
        self._notices_file = Keeper(
            policy.state_dir / "gpuspawner-notices.json", self._notices_state, log
        )
        self._power_file = Keeper(
            policy.state_dir / "gpuspawner-idle-power.json", self._power_state, log
        )
        self._notices = Notices()
        self.book = self._load()
        self.room = WaitingRoom(self.pool, policy.queue_timeout_s, self._keep_queue)
        self.rounds = Rounds(
            probe=probe,
            engine=engine,
            pool=self.pool,
            book=self.book,
            placing=self.placing,
            evict=self.evict,
            tell=self.tell,
            clean_within=timedelta(seconds=policy.clean_within_s),
            thresholds=thresholds_for(policy.sample_every_s),
            idle_w=self._load_power(),
            log=log,
        )
        self.metering = Metering(
            hub_id,
            meter or PlaceholderMeter(),
            Clock(policy.state_dir / "gpuspawner-clock.json", log),
            engine=engine,
            pool=self.pool,
            path=policy.state_dir / "gpuspawner-meter.json",
            evict=self.evict,
            tell=self.tell,
            every_s=policy.meter_every_s,
            log=log,
        )
        self._lock = asyncio.Lock()
        self._round_lock = asyncio.Lock()
        self._loops: dict[str, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        self._look = asyncio.Event()
        self._removals: dict[str, asyncio.Task[None]] = {}
        self._ending: list[str] = []
        self._reading: asyncio.Task[None] | None = None
        self._read_by = 0.0
        self._next_round: asyncio.Task[None] | None = None

    # -- what outlives the hub -----------------------------------------------------

    def _keep_queue(self) -> None:
        """Keep the queue, unless the hub is ending: it cancels all who wait, then."""
        if not any(task.cancelling() for task in self._loops.values()):
            self._queue_file.changed()

    def _queue_state(self) -> dict[str, object]:
        return {
            "queue": self.pool.queue.to_json(),
            "durations": self.pool.durations.to_json(),
        }

    def _health_state(self) -> Mapping[str, object]:
        return self.book.to_json()

    def _notices_state(self) -> Mapping[str, object]:
        return self._notices.to_json()

    def _power_state(self) -> Mapping[str, object]:
        return {"idle_w": dict(self.rounds.observed.idle_w)}

    def _load_power(self) -> Mapping[str, float]:
        try:
            return read_idle_w(self._power_file.load())
        except ValueError as error:
            self.log.error("starting without what GPUs draw unused: %s", error)
            return {}

    def _load(self) -> HealthBook:
        kept, now = self._queue_file.load(), datetime.now(UTC)
        try:
            self._notices = Notices.from_json(self._notices_file.load())
        except ValueError as error:
            self.log.error("starting without notices: %s", error)
        try:
            self.pool.queue = Queue.from_json(kept.get("queue", {"tickets": []}), now)
            self.pool.durations = Durations.from_json(kept.get("durations", {}))
        except ValueError as error:
            self.log.error("starting with an empty queue: %s", error)
        return HealthBook.from_json(self._health_file.load())

    # -- loops ---------------------------------------------------------------------

    def begin(self) -> None:
        """Keep leases true from now on. Needs a running event loop.

        Call it only when every running server's spawner has loaded its state: what
        nobody claims is removed.
        """
        every_s = self.policy.sample_every_s
        self._start("reconcile", self._wake, RECONCILE_EVERY_S, self.reconcile)
        self._start("rounds", self._look, every_s, self.look_round)
        self._start(
            "drivers",
            asyncio.Event(),
            DRIVER_LOOK_ROUNDS * every_s,
            self.rounds.check_drivers,
        )
        metering = self.metering
        every_s = self.policy.meter_every_s
        self._start("meter", metering.wake, every_s, metering.once)

    def kick(self) -> None:
        """Reconcile soon, and from then on regularly; see `begin`."""
        self._wake.set()
        self.begin()

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
                async with asyncio.timeout(every_s):  # wait_for can lose a cancellation
                    await wake.wait()
            except TimeoutError:
                continue

    async def look_round(self) -> None:
        """Make one round over the GPUs, begun after this call, and serve who waits.

        A caller that goes away does not end it: what the driver reported is told once.
        """
        if self._next_round is None:
            self._next_round = asyncio.create_task(self._make_round())
        await asyncio.shield(self._next_round)

    async def _make_round(self) -> None:
        async with self._round_lock:
            self._next_round = None  # who comes from now on needs a later one
            if self.pool.devices:
                await self.rounds.once()
        self.room.serve()
        self._health_file.changed()
        self._power_file.changed()

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
            for lease in found.adopt:
                if lease.state is LeaseState.RELEASING:
                    # Nobody claims it: its start never came to an end.
                    self.metering.decide(lease.id, exits.NOT_CLAIMED)
            for lease_id in found.drop:
                self._forget(lease_id)
                self.metering.lost(lease_id)
            for row in containers:
                if row.is_running and self._goes_on(row):
                    self.metering.reconsider(row.labels[LEASE])
            known = self.claims | self.pool.leases.keys()
            self._notices.keep(known)
            self.terms = {key: x for key, x in self.terms.items() if key in known}
            self.placing.names = {row.id: row.name for row in containers}
            lease_of = {row.id: row.labels.get(LEASE) or row.id for row in containers
                        if c.is_ours(self.hub_id, row)}  # fmt: skip
            placed = {lease_id: row_id for row_id, lease_id in lease_of.items()}
            self.placing.of_lease = {
                lease_id: row_id
                for lease_id, row_id in (self.placing.of_lease | placed).items()
                if lease_id in self.pool.leases
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
            if name not in self._removals and lease_of[name] not in self._ending:
                self._removals[name] = asyncio.create_task(
                    self._remove(name, lease_of[name])
                )
        if self.pool.returned:
            self._look.set()

    def _goes_on(self, found: Container) -> bool:
        """Return whether a container has a lease that nobody is ending."""
        lease = self.pool.leases.get(found.labels.get(LEASE, ""))
        return (
            lease is not None
            and c.is_ours(self.hub_id, found)
            and lease.state is LeaseState.ACTIVE
            and lease.id in self.claims
            and lease.id not in self._ending
            and found.id not in self._removals
        )

    async def _remove(self, name: str, lease_id: str) -> None:
        is_evicted = lease_id in self._evicted
        why = "whose lease was ended" if is_evicted else "nobody claims"
        self.log.warning("removing a container %s lease_id=%s", why, lease_id)
        try:
            grace_s = STOP_GRACE_S if is_evicted else ORPHAN_STOP_S
            await self._take_down(name, lease_id, grace_s)
            self._release(lease_id)
        except (EngineUnknown, EngineRefused) as error:
            self.log.warning("could not remove it, will try again: %s", error)
        except Exception:  # nobody awaits this task
            self.log.exception("could not remove it, will try again")
        finally:
            del self._removals[name]

    # -- reading the machine ---------------------------------------------------------

    async def look(self) -> None:
        """Read the devices; if the driver fails, keep them but lease none of them.

        A driver that takes long is not waited for: until it answers it is in trouble.
        """
        loop = asyncio.get_running_loop()
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read_devices())
            self._read_by = loop.time() + LOOK_WAIT_S
        left_s = self._read_by - loop.time()
        try:
            async with asyncio.timeout(left_s):
                await asyncio.shield(self._reading)
        except TimeoutError:
            self.pool.trouble = SLOW

    async def _read_devices(self) -> None:
        try:
            devices = await self.probe.list_devices()
            is_new = _uuids(devices) != _uuids(self.pool.devices.values())
            topology = await self.probe.topology() if devices and is_new else None
            self.pool.see(devices, datetime.now(UTC), topology)
        except ProbeFailed as error:
            self.log.warning("GPUs cannot be read: %s", error)
            self.pool.trouble = str(error)
            return
        if not is_new:
            return
        self.pool.is_ready = False  # who holds the new ones is not known yet
        self._wake.set()
        if unknown := unknown_keys(self.policy.shares, devices):
            self.log.warning(
                "GPUDockerSpawner.shares names no GPU of this machine: %s. Use a UUID, "
                "an index or a product name as nvidia-smi -L shows them.",
                ", ".join(unknown),
            )

    async def ready(self) -> None:
        """Return when leases can be granted.

        Slots that were never looked at are waited for, but not for long; so are
        containers that are being removed, if nobody can wait in the queue.

        Raises:
            NotReady: The engine does not answer, so who holds what is unknown.
        """
        self.begin()
        if self.pool.is_ready:
            await self.look()
        try:
            if not self.pool.is_ready:
                await self.reconcile()
        except EngineUnknown as error:
            raise NotReady(
                "The container engine does not answer, so the hub cannot start servers "
                f"now. Try again in a minute or tell your admin ({error})."
            ) from error
        if self._removals and not self.policy.queue_timeout_s:
            await asyncio.wait(self._removals.values(), timeout=REMOVALS_WAIT_S)
        if self.pool.returned:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_WAIT_S):
                    await self.look_round()

    async def machine_offers(self) -> Sequence[Offer]:
        """Return the sizes this machine can offer."""
        facts = await self.engine.facts()
        slots = tuple(self.pool.slots.values())
        return from_machine(slots, facts["memory_bytes"], facts["n_cpus"])

    # -- starting and ending containers ----------------------------------------------

    async def start(self, lease_id: str, created: str) -> None:
        """Start a lease's container, unless the lease was ended meanwhile.

        Without this look an ended lease's container could start after its slots were
        given to somebody else.

        Raises:
            EngineRefused: It was ended, or the container cannot start.
            EngineUnknown: The container may be in any state.
        """
        lease = self.pool.leases.get(lease_id)
        if lease is None or lease.state is not LeaseState.STARTING:
            raise EngineRefused("it was ended while it was being made ready", 0)
        await self.engine.call("start", created)

    async def end(
        self,
        lease_id: str,
        name: str,
        *,
        timeout_s: int,
        why: Exit = exits.ON_REQUEST,
    ) -> None:
        """Stop and remove a lease's container and give its slots back.

        One that is being taken down already is given the time it was promised, unless
        `timeout_s` is 0.

        Args:
            lease_id: Which.
            name: Of its container, or the id.
            timeout_s: How long it may take to end by itself.
            why: What the meter is told, if the lease does not end for another reason.

        Raises:
            EngineUnknown: The lease stays taken; the loop tries again.
            EngineRefused: Likewise.
        """
        self.metering.decide(lease_id, why)
        self.pool.end(lease_id)
        self._ending.append(lease_id)
        try:
            found = await self.engine.inspect(name)
            if found is not None and found.labels.get(LEASE) == lease_id:
                under_way = self._removals.get(found.id)
                if under_way and timeout_s:
                    await asyncio.wait({under_way})
                await self._take_down(found.id, lease_id, timeout_s)
            else:
                await self.metering.finished(lease_id)
        except BaseException:
            self.kick()
            raise
        finally:
            self._ending.remove(lease_id)
        self._release(lease_id)
        self.claims.discard(lease_id)

    async def _take_down(self, name: str, lease_id: str, timeout_s: int) -> None:
        """Interrupt kernels, ask the server to end, then make it; it is gone then.

        Its end is kept before it is removed: nobody else knows when it was.
        """
        if timeout_s:
            try:
                async with asyncio.timeout(INTERRUPT_WAIT_S):
                    await self.engine.run_check(name, c.interrupt_kernels(), user="")
            except (EngineUnknown, EngineRefused, TimeoutError) as error:
                # Not running, or an image without a shell: the next stage ends it.
                self.log.debug("kernels not interrupted: %s", error)
        stopped = await self.engine.stop(name, timeout_s=timeout_s)
        await self.metering.finished(lease_id, stopped)
        await self.engine.remove(name)

    def _release(self, lease_id: str) -> None:
        self.pool.release(lease_id, datetime.now(UTC))
        self._forget(lease_id)
        self._look.set()
        self.room.serve()

    def _forget(self, lease_id: str) -> None:
        """Forget a lease that is over, but not why: its spawner has yet to ask."""
        self.placing.of_lease.pop(lease_id, None)
        self.caps.pop(lease_id, None)
        self.terms.pop(lease_id, None)
        self._evicted.discard(lease_id)

    def evict(self, lease_id: str, ended: Exit) -> None:
        """End a lease from our side; its user reads why. The container goes soon.

        One that ends anyway is left to end for its own reason.
        """
        lease = self.pool.leases.get(lease_id)
        if lease is None or lease.state is LeaseState.RELEASING:
            return
        self.log.warning("ending lease_id=%s: %s", lease_id, ended.reason)
        self.note_ending(lease_id, ended)
        self.metering.decide(lease_id, ended)
        self._evicted.add(lease_id)
        self.pool.end(lease_id)
        self.kick()

    def note_ending(self, lease_id: str, ended: Exit) -> None:
        """Keep why we end a lease for its spawner, see `ending_of`."""
        self._notices.endings[lease_id] = ended
        self._notices_file.changed()

    def ending_of(self, lease_id: str) -> Exit | None:
        """Return why we ended a lease, once; None if we did not."""
        found = self._notices.endings.pop(lease_id, None)
        if found:
            self._notices_file.changed()
        return found

    def tell(self, lease_id: str, text: str) -> None:
        """Leave a message for a lease's user."""
        at = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
        self._notices.tell(lease_id, f"{at}: {text}")
        self._notices_file.changed()

    def messages_for(self, lease_id: str) -> list[str]:
        """Return all messages for a lease's user if there is a new one, else none."""
        return self._notices.news_for(lease_id)

    def delivered(self, lease_id: str, n: int) -> None:
        """Note that the lease's user has so many of the messages."""
        self._notices.n_delivered[lease_id] = n
        self._notices_file.changed()


def _uuids(devices: Iterable[Device]) -> set[str]:
    """Return the identities of devices and of their MIG instances."""
    return {u for d in devices for u in (d.uuid, *(i.uuid for i in d.instances))}
