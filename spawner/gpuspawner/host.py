"""What one hub process holds once: engine, probe, pool, and what keeps them true."""

import asyncio
import logging
from collections.abc import Sequence

from gpuspawner.container import LEASE
from gpuspawner.engine import DockerEngine
from gpuspawner.errors import (
    EngineRefused,
    EngineUnknown,
    GPUSpawnerError,
    NotReady,
    ProbeFailed,
)
from gpuspawner.model import Offer
from gpuspawner.offers import from_machine
from gpuspawner.pool import Pool
from gpuspawner.ports import Probe
from gpuspawner.recovery import plan

RECONCILE_EVERY_S = 15.0
REMOVALS_WAIT_S = 20.0
ORPHAN_STOP_S = 5  # nobody works in an orphan: it gets less time to end than a server


class Host:
    """One machine as its hub sees it.

    Attributes:
        hub_id: Containers with this label are ours.
        engine: See DockerEngine.
        probe: See Probe.
        pool: The owner of slots; read it freely, change it only through leases.
        claims: Lease ids that spawners loaded from the hub's database or started.
        bystanders: See `recovery.plan`.
    """

    def __init__(
        self,
        hub_id: str,
        engine: DockerEngine,
        probe: Probe,
        log: logging.Logger | logging.LoggerAdapter[logging.Logger],
    ) -> None:
        self.hub_id = hub_id
        self.engine = engine
        self.probe = probe
        self.pool = Pool()
        self.claims: set[str] = set()
        self.bystanders: frozenset[str] = frozenset()
        self.log = log
        self._lock = asyncio.Lock()
        self._loop: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._removals: dict[str, asyncio.Task[None]] = {}

    def kick(self) -> None:
        """Reconcile soon, and from then on regularly. Needs a running event loop.

        Call it only when every running server's spawner has loaded its state: what
        nobody claims is removed.
        """
        self._wake.set()
        if self._loop is None or self._loop.done():
            self._loop = asyncio.get_running_loop().create_task(self._keep_true())

    async def _keep_true(self) -> None:
        while True:
            self._wake.clear()
            try:
                await self.reconcile()
            except GPUSpawnerError as error:
                self.log.warning("cannot reconcile leases, will try again: %s", error)
            except Exception:  # a bug here must not end the loop that keeps leases true
                self.log.exception("reconciling failed, will try again")
            try:
                await asyncio.wait_for(self._wake.wait(), RECONCILE_EVERY_S)
            except TimeoutError:
                continue

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
                bystanders=self.bystanders,
            )
            self.pool.apply(found)
            lease_of = {row.id: row.labels.get(LEASE) or row.id for row in containers}
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

    async def _remove(self, name: str, lease_id: str) -> None:
        self.log.warning("removing a container nobody claims lease_id=%s", lease_id)
        try:
            await self.engine.remove(name, timeout_s=ORPHAN_STOP_S)
            self.pool.release(lease_id)
        except (EngineUnknown, EngineRefused) as error:
            self.log.warning("could not remove it, will try again: %s", error)
        finally:
            del self._removals[name]

    async def look(self) -> None:
        """Read the devices; if the driver fails, keep them but lease none of them."""
        try:
            self.pool.see(await self.probe.list_devices())
        except ProbeFailed as error:
            self.log.warning("GPUs cannot be read: %s", error)
            self.pool.trouble = str(error)

    async def ready(self) -> None:
        """Return when leases can be granted.

        Containers that are being removed are waited for, but not for long.

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

    async def end(self, lease_id: str, name: str, *, timeout_s: int) -> None:
        """Stop and remove a lease's container and give its devices back.

        Raises:
            EngineUnknown: The lease stays taken; the loop tries again.
            EngineRefused: Likewise.
        """
        self.pool.end(lease_id)
        try:
            found = await self.engine.inspect(name)
            if found is not None and found.labels.get(LEASE) == lease_id:
                await self.engine.remove(found.id, timeout_s=timeout_s)
        except BaseException:
            self.kick()
            raise
        self.pool.release(lease_id)
        self.claims.discard(lease_id)

    async def machine_offers(self) -> Sequence[Offer]:
        """Return the sizes this machine can offer."""
        facts = await self.engine.facts()
        devices = tuple(self.pool.devices.values())
        return from_machine(devices, facts["memory_bytes"], facts["n_cpus"])
