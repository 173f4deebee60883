"""What one hub process holds once: engine, probe, pool, and what keeps them true."""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from gpuspawner import container as c
from gpuspawner import exits
from gpuspawner.clock import Clock
from gpuspawner.container import LEASE
from gpuspawner.discovery import Discovery
from gpuspawner.doorway import Doorway
from gpuspawner.endings import Announced
from gpuspawner.engine import DockerEngine
from gpuspawner.errors import EngineRefused, EngineUnknown, NotReady
from gpuspawner.exits import Exit
from gpuspawner.idleness import thresholds_for
from gpuspawner.loops import Loops
from gpuspawner.metering import Metering
from gpuspawner.model import Container, LeaseState, Offer, Terms
from gpuspawner.offers import from_machine
from gpuspawner.pacing import Starts
from gpuspawner.persistence import Persistence
from gpuspawner.policy import Policy
from gpuspawner.pool import Pool
from gpuspawner.ports import Meter, PlaceholderMeter, Probe
from gpuspawner.recovery import plan
from gpuspawner.removing import Removals
from gpuspawner.rounds import Placing, Rounds
from gpuspawner.waitingroom import WaitingRoom

RECONCILE_EVERY_S = 15.0
ORPHAN_STOP_S = 5  # nobody works in an orphan: it gets less time to end than a server
STOP_GRACE_S = 10
ROUND_WAIT_S = 10.0  # for slots that were never looked at
DRIVER_LOOK_ROUNDS = 6
Log = logging.Logger | logging.LoggerAdapter[logging.Logger]


class Host:
    """One machine as its hub sees it.

    Attributes:
        hub_id: Containers with this label are ours.
        engine: See DockerEngine.
        probe: See Probe.
        policy: See Policy.
        log: The hub's.
        pool: The owner of slots; read it freely, change it only through leases.
        claims: Lease ids that spawners loaded from the hub's database or started.
        book: The health of every device.
        discovery: See Discovery.
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
        self._loops = Loops(log)
        self._wake = asyncio.Event()
        self._look = asyncio.Event()
        self._kept = Persistence(
            policy.state_dir, self.pool, lambda: self.rounds.observed.idle_w, log
        )
        self._notices = self._kept.notices
        self.book = self._kept.book
        self.discovery = Discovery(probe, self.pool, policy.shares, self._wake.set, log)
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
            idle_w=self._kept.idle_w,
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
        self._removals = Removals(engine, self.metering.closing, self._release, log)
        self._lock = asyncio.Lock()
        self._round_lock = asyncio.Lock()
        self._ending: list[str] = []
        self._next_round: asyncio.Task[None] | None = None

    # -- loops ---------------------------------------------------------------------

    def begin(self) -> None:
        """Keep leases true from now on. Needs a running event loop.

        Call it only when every running server's spawner has loaded its state: what
        nobody claims is removed.
        """
        start, round_s = self._loops.start, self.policy.sample_every_s
        drivers_s, meter_s = DRIVER_LOOK_ROUNDS * round_s, self.policy.meter_every_s
        start("reconcile", self._wake, RECONCILE_EVERY_S, self.reconcile)
        start("rounds", self._look, round_s, self.look_round)
        start("drivers", asyncio.Event(), drivers_s, self.rounds.check_drivers)
        start("meter", self.metering.wake, meter_s, self.metering.once)

    def kick(self) -> None:
        """Reconcile soon, and from then on regularly; see `begin`."""
        self._wake.set()
        self.begin()

    def _keep_queue(self) -> None:
        """Keep the queue, unless the hub is ending: it cancels all who wait, then."""
        if not self._loops.are_ending:
            self._kept.queue.changed()

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
        self._kept.health.changed()
        self._kept.power.changed()

    async def reconcile(self) -> None:
        """Bring containers and leases to agree.

        Raises:
            EngineUnknown: No lease was changed.
        """
        async with self._lock:
            await self.discovery.look()
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
                self.metering.closing.lost(lease_id)
            for row in containers:
                if row.is_running and self._goes_on(row):
                    self.metering.closing.reconsider(row.labels[LEASE])
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
        for row_id in found.remove:
            lease_id = lease_of[row_id]
            if row_id not in self._removals.tasks and lease_id not in self._ending:
                self._remove(row_id, lease_id)
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
            and found.id not in self._removals.tasks
        )

    def _remove(self, container_id: str, lease_id: str) -> None:
        """Remove a container whose lease we ended, or that nobody claims."""
        is_evicted = lease_id in self._evicted
        why = "whose lease was ended" if is_evicted else "nobody claims"
        self.log.warning("removing a container %s lease_id=%s", why, lease_id)
        grace_s = STOP_GRACE_S if is_evicted else ORPHAN_STOP_S
        self._removals.begin(container_id, lease_id, grace_s)

    # -- what starts need ----------------------------------------------------------

    async def ready(self) -> None:
        """Return when leases can be granted.

        Slots that were never looked at are waited for, but not for long; so are
        containers that are being removed, if nobody can wait in the queue.

        Raises:
            NotReady: The engine does not answer, so who holds what is unknown.
        """
        self.begin()
        if self.pool.is_ready:
            await self.discovery.look()
        try:
            if not self.pool.is_ready:
                await self.reconcile()
        except EngineUnknown as error:
            raise NotReady(
                "The container engine does not answer, so the hub cannot start servers "
                f"now. Try again in a minute or tell your admin ({error})."
            ) from error
        if not self.policy.queue_timeout_s:
            await self._removals.wait_all()
        if self.pool.returned:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ROUND_WAIT_S):
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
                if timeout_s:
                    await self._removals.wait(found.id)
                await self._removals.take_down(found.id, lease_id, timeout_s)
            else:
                await self.metering.closing.finished(lease_id)
        except BaseException:
            self.kick()
            raise
        finally:
            self._ending.remove(lease_id)
        self._release(lease_id)
        self.claims.discard(lease_id)

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

    # -- what users are told --------------------------------------------------------

    def note_ending(self, lease_id: str, ended: Exit) -> None:
        """Keep why we end a lease for its spawner, see `ending_of`."""
        self._notices.endings[lease_id] = ended
        self._kept.news.changed()

    def ending_of(self, lease_id: str) -> Exit | None:
        """Return why we ended a lease, once; None if we did not."""
        found = self._notices.endings.pop(lease_id, None)
        if found:
            self._kept.news.changed()
        return found

    def tell(self, lease_id: str, text: str) -> None:
        """Leave a message for a lease's user."""
        at = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
        self._notices.tell(lease_id, f"{at}: {text}")
        self._kept.news.changed()

    def messages_for(self, lease_id: str) -> list[str]:
        """Return all messages for a lease's user if there is a new one, else none."""
        return self._notices.news_for(lease_id)

    def delivered(self, lease_id: str, n: int) -> None:
        """Note that the lease's user has so many of the messages."""
        self._notices.n_delivered[lease_id] = n
        self._kept.news.changed()
