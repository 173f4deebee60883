"""A container for a lease: made, filled and checked."""

import asyncio
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jupyterhub import orm
from traitlets import Unicode

from gpuspawner import capping, exits, homes, incontainer, seeding
from gpuspawner import container as c
from gpuspawner.configuration import ConfiguredSpawner
from gpuspawner.errors import (
    EngineRefused,
    GPUSpawnerError,
    MeterFailed,
    ProbeFailed,
)
from gpuspawner.faults import Finding
from gpuspawner.model import (
    Lease,
    Limits,
    Owner,
    Payer,
    Slot,
    SlotKind,
    Statement,
)
from gpuspawner.processes import Processes
from gpuspawner.progress import Progress

CLEANUP_GRACE_S = 2
# Shown as figures of the start of a server, of which there are none.
NO_FIGURES = Statement(
    provider="facts",
    is_placeholder=False,
    balance_microtokens=None,
    rate_microtokens_per_hour=None,
    note="The ledger did not answer when this server started. The hub's own page shows "
    "your balance.",
)


class CreatingSpawner(ConfiguredSpawner):
    """Turns a lease into a container that is ready to be started.

    Attributes:
        home_volume: Name of the volume that is this server's home, "" if none yet.
    """

    home_volume = Unicode()

    _progress = Progress()

    @property
    def owner(self) -> Owner:
        """Whose server this is."""
        return Owner(self.user.name, self.name)

    async def clear_name(self) -> None:
        """Remove what an earlier try left under our name."""
        found = await self.host.engine.inspect(self.object_name)
        if found is None:
            return
        if not c.is_ours(self.hub_id, found):
            raise c.ConfigurationError(
                f"a container named {found.name} exists that is not this hub's; "
                "change GPUDockerSpawner.name_template or remove it"
            )
        await self.host.end(
            found.labels.get(c.LEASE, ""),
            found.id,
            timeout_s=CLEANUP_GRACE_S,
            why=exits.NOT_CLAIMED,
        )

    async def make_home(self) -> None:
        """Create the home's volume if there is none; its name is kept in the state.

        Raises:
            HomeConflict: A volume of that name is somebody else's.
        """
        name, is_known = self.home_volume, bool(self.home_volume)
        if not is_known:
            everybody = self.db.query(orm.Spawner).all()
            taken = {
                (other.state or {}).get("home_volume", "")
                for other in everybody
                if other is not self.orm_spawner
            }
            server = self.escape(self.name) if self.name else ""
            name = homes.volume_name(self.hub_id, self.escaped_name, server, taken)
        await homes.ensure_volume(
            self.host.engine, name, self.hub_id, self.owner, is_known=is_known
        )
        self.home_volume = name

    async def _driver(self, lease: Lease) -> str:
        if self.gpu_driver != "auto" or not lease.slots:
            return str(self.gpu_driver) if self.gpu_driver != "auto" else "nvidia"
        known = (await self.host.engine.facts())["cdi_devices"]
        wanted = {f"nvidia.com/gpu={uuid}" for uuid in lease.uuids}
        return "cdi" if wanted <= known else "nvidia"

    async def create_container(self, lease: Lease, limits: Limits) -> str:
        """Create the container; return its id."""
        driver = await self._driver(lease)
        extra_create = await self._extra(self.extra_create_kwargs)
        extra_host = await self._extra(self.extra_host_config)
        c.check_extra_host_config(extra_host)
        binds = {
            **self.volume_binds,
            self.home_volume: {"bind": self.home_dir, "mode": "rw"},
        }
        host_config: dict[str, Any] = {
            **extra_host,
            **c.host_config(lease, limits, driver, self.cap_add),
            "security_opt": c.security_options(extra_host.get("security_opt") or ()),
            "binds": binds,
            "mounts": self.mount_binds,
            "links": self.links,
        }
        host_config.setdefault("network_mode", self.network_name)
        if not self.use_internal_ip:
            host_config["port_bindings"] = {self.port: (self.host_ip,)}
        environment = self.get_env() | c.environment(lease, limits, driver)
        environment["GPUSPAWNER_FACTS"] = homes.FACTS
        if not extra_create.get("user"):
            brings = await self.host.engine.image_user(self.image)
            if user := c.run_as(brings, self.home_owner, self.cap_add):
                extra_create["user"] = user
                environment["HOME"] = self.home_dir  # no image knows this user's
        cap = _share(lease)
        brought: dict[str, str] = {}
        if cap or self.search_paths:
            brought = await self.host.engine.image_environment(self.image)
        environment |= c.search_paths(brought | environment, self.search_paths)
        if cap:
            total = cap.device.memory_bytes
            environment |= capping.environment(
                brought | environment, cap.memory_bytes, total
            )
        created = await self.docker(
            "create_container",
            **{
                **extra_create,
                "image": self.image,
                "name": self.object_name,
                "command": await self.get_command(),
                "environment": environment,
                "ports": [self.port],
                "volumes": [bind["bind"] for bind in binds.values()],
                "labels": {
                    **(extra_create.get("labels") or {}),
                    **c.labels(self.hub_id, lease, self.object_name),
                },
                "host_config": self.client.create_host_config(**host_config),
            },
        )
        self.host.placing.of_lease[lease.id] = str(created["Id"])
        return str(created["Id"])

    async def _extra(self, configured: Any) -> dict[str, Any]:
        value = self._eval_if_callable(configured)
        if asyncio.iscoroutine(value):
            value = await value
        return dict(self._render_templates(value))

    async def fill(
        self, created: str, lease: Lease, limits: Limits, payer: Payer
    ) -> None:
        """Deliver files and seed the home; one that cannot be seeded still starts."""
        engine = self.host.engine
        delivered = {
            f"{folder}/{path}": content
            for folder, source in self.deliver.items()
            for path, content in homes.read_tree(Path(source)).items()
        }
        if _share(lease):
            delivered |= incontainer.memory_cap_files()
        facts = await self._facts(lease, limits, payer)
        await homes.deliver(engine, created, delivered, facts)
        if not self.seed_home:
            return
        files = homes.read_tree(Path(self.seed_home))
        owner = seeding.Owner(*self.home_owner)
        try:
            laid = await homes.seed(engine, created, self.home_dir, files, owner)
        except GPUSpawnerError as error:
            self.log.warning("home not seeded owner=%s: %s", self.owner, error)
            self._progress.say(50, "The examples could not be laid into your home")
            return
        for new, edited in laid.beside.items():
            self._progress.say(50, f"{edited} has a new version: {new}")

    async def _facts(
        self, lease: Lease, limits: Limits, payer: Payer
    ) -> dict[str, object]:
        probe = self.host.probe
        why = probe.absence or "This server was started without a GPU."
        return {
            "user": self.owner.user,
            "server": self.owner.server,
            "lease_id": lease.id,
            "lease": {
                "id": lease.id,
                "devices": [
                    {
                        "uuid": slot.uuid,
                        "index": slot.device.index,
                        "name": slot.type,
                        "memory_bytes": slot.memory_bytes,
                    }
                    for slot in lease.slots
                ],
            }
            if lease.slots
            else None,
            "why_no_gpu": None if lease.slots else why,
            "simulated": any(
                device.is_simulated for device in self.host.pool.devices.values()
            ),
            "limits": asdict(limits),
            "tokens": asdict(await self._statement(lease, payer)),
        }

    async def _statement(self, lease: Lease, payer: Payer) -> Statement:
        """Return the owner's tokens; a server starts without the figures, too."""
        try:
            return await self.host.metering.statement(lease, payer)
        except MeterFailed as error:
            self.log.warning("no figures for lease_id=%s: %s", lease.id, error)
            return NO_FIGURES

    async def check(self, created: str, lease: Lease) -> None:
        """Compare the devices in the started container with the lease."""
        if not (lease.slots and self.check_devices):
            return
        status = await self.host.engine.run_check(created, c.check_devices(lease))
        if status != 0:
            raise EngineRefused(
                "the container did not get exactly the GPUs of its lease; an admin "
                "must check the NVIDIA Container Toolkit",
                status,
            )

    async def cap(self, created: str, lease: Lease) -> None:
        """Put the strongest memory cap in place that there is, and note which.

        Raises:
            CapTooWeak: It is weaker than the site accepts.
        """
        slot = _share(lease)
        if slot is None:
            return
        host = self.host
        read_back = await self._limit_by_driver(created, slot)
        is_capped = await self._is_framework_capped(created)
        found = capping.means(slot, read_back, is_framework_capped=is_capped)
        capping.check_strong_enough(slot, found, capping.Means(self.weakest_cap))
        host.caps[lease.id] = found
        self.log.info("memory cap lease_id=%s %s by=%s", lease.id, slot, found)
        if found is capping.Means.WATCHDOG:
            text = f"nothing but the watchdog keeps {lease.owner} inside a share"
            now = datetime.now(UTC)
            host.book.report(slot.device.uuid, Finding.UNCAPPED, text, now)

    async def _is_framework_capped(self, created: str) -> bool:
        command = capping.check_framework_cap()
        try:
            return await self.host.engine.run_check(created, command, user="") == 0
        except EngineRefused as error:  # such as an image without Python
            self.log.info("no memory cap in the image: %s", error)
            return False

    async def _limit_by_driver(self, created: str, slot: Slot) -> int | None:
        found = await self.host.engine.inspect(created)
        if found is None or not found.pid:
            return None
        cgroup = await asyncio.to_thread(Processes().cgroup, found.pid, found.id)
        if cgroup is None:
            return None
        try:
            return await self.host.probe.limit_memory(
                slot.uuid, cgroup, slot.memory_bytes
            )
        except ProbeFailed as error:
            self.log.warning("no memory limit by the driver: %s", error)
            return None


def _share(lease: Lease) -> Slot | None:
    """Return the lease's share of a device, None if it holds whole slots."""
    return next((slot for slot in lease.slots if slot.kind is SlotKind.SHARE), None)
