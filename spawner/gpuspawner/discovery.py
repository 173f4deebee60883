"""Which devices the machine has: read from its driver into the pool."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime

from gpuspawner.errors import ProbeFailed
from gpuspawner.model import Device
from gpuspawner.pool import Pool
from gpuspawner.ports import Probe
from gpuspawner.slots import unknown_keys

LOOK_WAIT_S = 10.0  # for a driver that sets every GPU up when it is first asked
SLOW = "The NVIDIA driver takes long to answer."
Log = logging.Logger | logging.LoggerAdapter[logging.Logger]


class Discovery:
    """Tells the pool which devices there are, or why nobody knows.

    Args:
        probe: Reads the devices.
        pool: Learns of them.
        shares: Those that a site wants shared; one that is not there is logged.
        changed: Called when others were found than before: who holds them is unknown.
        log: The hub's.
    """

    def __init__(
        self,
        probe: Probe,
        pool: Pool,
        shares: Mapping[str, int],
        changed: Callable[[], None],
        log: Log,
    ) -> None:
        self._probe, self._pool, self._shares = probe, pool, shares
        self._changed, self._log = changed, log
        self._reading: asyncio.Task[None] | None = None
        self._read_by = 0.0

    async def look(self) -> None:
        """Read the devices; if the driver fails, keep them but lease none of them.

        A driver that takes long is not waited for: until it answers it is in trouble.
        """
        loop = asyncio.get_running_loop()
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read())
            self._read_by = loop.time() + LOOK_WAIT_S
        left_s = self._read_by - loop.time()
        try:
            async with asyncio.timeout(left_s):
                await asyncio.shield(self._reading)
        except TimeoutError:
            self._pool.trouble = SLOW

    async def _read(self) -> None:
        try:
            devices = await self._probe.list_devices()
            is_new = _uuids(devices) != _uuids(self._pool.devices.values())
            topology = await self._probe.topology() if devices and is_new else None
            self._pool.see(devices, datetime.now(UTC), topology)
        except ProbeFailed as error:
            self._log.warning("GPUs cannot be read: %s", error)
            self._pool.trouble = str(error)
            return
        if not is_new:
            return
        self._pool.is_ready = False  # who holds the new ones is not known yet
        self._changed()
        if unknown := unknown_keys(self._shares, devices):
            self._log.warning(
                "GPUDockerSpawner.shares names no GPU of this machine: %s. Use a UUID, "
                "an index or a product name as nvidia-smi -L shows them.",
                ", ".join(unknown),
            )


def _uuids(devices: Iterable[Device]) -> set[str]:
    """Return the identities of devices and of their MIG instances."""
    return {u for d in devices for u in (d.uuid, *(i.uuid for i in d.instances))}
