"""A machine whose hub has a meter: servers as far as the meter goes."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpuspawner import exits
from gpuspawner.exits import Exit
from gpuspawner.model import Lease, Payer
from unit.machine import Machine
from unit.meters import HOUR_S, TOKEN, Clocks, FakeMeter


async def until(ask: Callable[[], object]) -> None:
    """Let others run until it is so."""
    async with asyncio.timeout(30):
        while not ask():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.005)


class Metered(Machine):
    """A machine whose hub has a meter, and a start as far as the meter goes."""

    meter: FakeMeter
    clocks: Clocks

    def __init__(self, folder: Path, n_devices: int = 2) -> None:
        super().__init__(folder, n_devices, FakeMeter(), Clocks())
        self.meter.wallets |= {"ann": 1000 * TOKEN, "bob": 1000 * TOKEN}

    async def held(self, user: str = "ann", n: int = 1) -> Lease:
        """A lease whose tokens are held; it has no container yet."""
        lease = self.lease(user, n)
        await self.host.metering.hold(lease, Payer(lease.owner))
        return lease

    async def booting(self, user: str = "ann", n: int = 1) -> Lease:
        """A container that runs and has not answered yet."""
        lease = await self.held(user, n)
        self.host.placing.of_lease[lease.id] = self.engine.make(lease).id
        return lease

    async def running(self, user: str = "ann", n: int = 1) -> Lease:
        """A server that has just answered."""
        lease = await self.booting(user, n)
        self.clocks.pass_s(30)
        await self.host.metering.ready(lease.id)
        self.host.pool.activate(lease.id)
        return self.host.pool.leases[lease.id]

    async def stop(self, lease: Lease, why: Exit = exits.ON_REQUEST) -> None:
        """Its user stops it."""
        await self.host.end(lease.id, f"id-{lease.id}", timeout_s=10, why=why)

    def exit_now(self, lease: Lease, code: int = 0) -> None:
        """Its container ends by itself."""
        name = f"id-{lease.id}"
        self.engine.containers[name] = replace(
            self.engine.containers[name],
            status="exited",
            exit_code=code,
            finished_at=self.clocks.wall,
        )

    def remove_by_hand(self, lease: Lease, *, remembered: bool = True) -> None:
        """Somebody removes its container."""
        del self.engine.containers[f"id-{lease.id}"]
        if remembered:
            self.engine.deaths[lease.id] = self.clocks.wall

    def crash(self) -> None:
        """The hub is killed: nothing of it goes on."""
        self.end()

    async def come_back(self, *claimed: Lease) -> None:
        """The next hub starts; JupyterHub knows these servers."""
        self.restart()
        self.host.claims |= {lease.id for lease in claimed}
        await self.host.reconcile()

    async def rest(self) -> None:
        """Wait until nothing is under way."""
        closing = self.host.metering.closing
        await until(lambda: not (self.host._removals.tasks or closing.under_way))

    async def pass_(self) -> None:
        """Make one pass, and let what it began come to its end."""
        await self.host.metering.once()
        await self.host.reconcile()
        await self.rest()

    def paid_s(self, lease: Lease) -> int:
        """For how many seconds a lease is charged."""
        account = self.meter.accounts[lease.id]
        assert account.charged == account.per_hour * account.seconds // HOUR_S
        return account.seconds

    def reason(self, lease: Lease) -> str:
        """Why it ended."""
        end = self.meter.accounts[lease.id].end
        return end.reason if end else "open"

    @property
    def kept(self) -> dict[str, Any]:
        """What the next hub will know of ends."""
        path = self.folder / "gpuspawner-meter.json"
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return found
