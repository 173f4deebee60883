"""GPUDockerSpawner: translates between JupyterHub, the pool and the engine."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from jupyterhub.spawner import SpawnException
from tornado import web
from traitlets import Dict, Unicode, default

from gpuspawner import container as c
from gpuspawner import exits, form, homes, offers, seeding
from gpuspawner.creation import CLEANUP_GRACE_S, CreatingSpawner
from gpuspawner.errors import (
    EngineRefused,
    EngineUnknown,
    GPUSpawnerError,
    Refusal,
)
from gpuspawner.model import Container, Lease, Offer, SlotRequest
from gpuspawner.progress import Progress

STOP_GRACE_S = 10
STOP_RETRY_S = 2.0
STOP_DEADLINE_S = 180.0


class GPUDockerSpawner(CreatingSpawner):
    """Gives each server exactly the GPUs it leases, and takes them back safely.

    Guarantees: a device is in at most one running container of this hub; a server
    without a lease sees no GPU; an engine that does not answer is never taken for a
    stopped server; a lease survives the hub's death, because its container carries it.
    """

    lease_id = Unicode()
    last_exit = Dict()

    _choice: object = None
    _is_starting = False
    _oom_seen_at: datetime | None = None
    _memory_bytes = 0

    # -- configuration -----------------------------------------------------------

    @default("apply_user_options")
    def _default_apply_user_options(self) -> Any:
        return GPUDockerSpawner._note_choice

    @default("options_form")
    def _default_options_form(self) -> Any:
        return GPUDockerSpawner._render_form

    @default("options_from_form")
    def _default_options_from_form(self) -> Any:
        return _options_from_form

    # -- state -------------------------------------------------------------------

    def load_state(self, state: dict[str, Any]) -> None:
        """Take the lease from the hub's database and claim its container."""
        super().load_state(state)
        self.lease_id = state.get("lease_id", "")
        self.home_volume = state.get("home_volume", "")
        self.last_exit = state.get("last_exit", {})
        self._memory_bytes = state.get("memory_bytes", 0)
        if self.lease_id:
            self.host.claims.add(self.lease_id)

    def get_state(self) -> dict[str, Any]:
        """Return the lease, and what outlives a server: its home and its last end."""
        state: dict[str, Any] = super().get_state()
        kept = {
            "lease_id": self.lease_id,
            "home_volume": self.home_volume,
            "last_exit": self.last_exit,
            "memory_bytes": self._memory_bytes,
        }
        return state | {key: value for key, value in kept.items() if value}

    def clear_state(self) -> None:
        """End the lease, if there is one: its container is removed in the background.

        JupyterHub calls this after every end of a server, also when it never called
        `stop` because the container was gone.
        """
        super().clear_state()
        self._let_go()

    def _let_go(self) -> None:
        self.object_id = ""
        if self.lease_id:
            self.host.claims.discard(self.lease_id)
            self.host.pool.end(self.lease_id)
            self.host.kick()
            self.lease_id = ""

    # -- choosing ----------------------------------------------------------------

    def _note_choice(self, options: object) -> None:
        """Keep what the user sent; `start` checks it against the offers."""
        self._choice = options

    async def my_offers(self) -> Sequence[Offer]:
        """Return what this user may take here, resolved now."""
        machine = self.configured_offers() or await self.host.machine_offers()
        groups = [group.name for group in self.user.groups]
        found: Sequence[Offer] = self.offer_policy.for_owner(
            self.owner, groups, machine
        )
        return found

    async def _render_form(self, *_: object) -> str:
        """Return the spawn form; if nothing can be offered, a sentence why."""
        notices: dict[str, str] = {}
        if self.last_exit:
            notices[str(self.last_exit["sentence"])] = "warning"
        try:
            await self.host.ready()
            available = await self.my_offers()
        except GPUSpawnerError as error:
            notices[str(error)] = "danger"
            return form.render((), n_free=0, n_devices=0, notices=notices)
        pool = self.host.pool
        if pool.trouble:
            notices[pool.trouble] = "warning"
        elif self.host.probe.absence:
            notices[self.host.probe.absence] = "info"
        return form.render(
            available,
            n_free=len(pool.free),
            n_devices=len(pool.devices),
            notices=notices,
        )

    # -- starting ----------------------------------------------------------------

    async def start(self) -> tuple[str, int]:
        """Lease, create, seed, start and check; return (ip, port).

        On any failure, also when cancelled, the container is removed, the devices are
        given back and the GPU choice is forgotten.

        Raises:
            SpawnException: The user is told why it cannot be.
            web.HTTPError: Engine or configuration failed, in a sentence.
        """
        self._is_starting = True
        self._progress = Progress()
        try:
            return await self._start()
        except Exception as error:
            raise await self._undone(error) from error
        except asyncio.CancelledError:
            # JupyterHub waits for this and then stops what it takes for running, so
            # nothing is awaited here: the host removes the container.
            self._let_go()
            self._forget_choice()
            raise
        finally:
            self._is_starting = False

    async def _start(self) -> tuple[str, int]:
        host = self.host
        await host.ready()
        offer = offers.select(await self.my_offers(), self._choice)
        lease = host.pool.acquire(
            f"ls_{secrets.token_hex(8)}", self.owner, SlotRequest(offer.n_gpus)
        )
        host.claims.add(lease.id)
        self.lease_id, self._memory_bytes = lease.id, offer.limits.memory_bytes
        self.log.info("lease acquired lease_id=%s owner=%s %s", lease.id, lease.owner,
                      lease.why)  # fmt: skip
        self._progress.say(10, _granted(lease))
        async for line in host.engine.pull(self.image):
            self._progress.say(15, line)
        await self.clear_name()
        await self.make_home()
        created = await self.create_container(lease, offer.limits)
        self.object_id = created
        self._progress.say(40, "Laying out your files")
        await self.fill(created, lease, offer.limits)
        self._progress.say(60, "Starting the container")
        await host.engine.call("start", created)
        await self.check(created, lease)
        ip, port = await self.get_ip_and_port()
        host.pool.activate(lease.id)
        self.last_exit = {}
        self._oom_seen_at = datetime.now(UTC)
        self._progress.say(80, "Waiting for JupyterLab")
        return ip, port

    async def _undone(self, error: Exception) -> web.HTTPError:
        """Undo what was begun; return what the user reads."""
        await self._undo()
        self._forget_choice()
        if isinstance(error, Refusal):
            refused: web.HTTPError = SpawnException(
                str(error), reason=error.reason, status_code=error.http_status
            )
            return refused
        if isinstance(error, GPUSpawnerError):
            self.log.error("server not started owner=%s: %s", self.owner, error)
            why = exits.explain(str(error))
            return web.HTTPError(
                503,
                f"The server could not be started: {why} Try again; if it happens "
                "again, show this to your admin.",
            )
        self.log.error("server not started owner=%s", self.owner, exc_info=error)
        return web.HTTPError(
            500,
            "The server could not be started because of a fault in the hub. Your admin "
            "finds it in the hub's log.",
        )

    async def _undo(self) -> None:
        """Remove the container and give the devices back; never raises."""
        lease_id, self.lease_id = self.lease_id, ""
        if not lease_id:
            return
        try:
            await self.host.end(lease_id, self.object_name, timeout_s=CLEANUP_GRACE_S)
        except GPUSpawnerError as error:
            self.log.warning("clean-up goes on lease_id=%s: %s", lease_id, error)
        self.object_id = ""

    def _forget_choice(self) -> None:
        """Let the next start without options be a CPU server, not this one again."""
        self._choice = None
        self.user_options: dict[str, Any] = {}
        self.orm_spawner.user_options = {}
        self.db.commit()

    async def progress(self) -> AsyncIterator[dict[str, Any]]:
        """Yield what `start` is doing."""
        async for event in self._progress.follow():
            yield event

    # -- running and ending ------------------------------------------------------

    async def poll(self) -> str | int | None:
        """Return None while the server runs or nothing is known, else why it ended."""
        if self._is_starting:
            return None
        self.host.kick()
        if not self.lease_id:
            return 0
        try:
            found = await self.host.engine.inspect(self.object_id or self.object_name)
        except EngineUnknown as error:
            self.log.warning(
                "%s: state unknown, taken as running: %s", self.owner, error
            )
            return None
        if found is None or found.labels.get(c.LEASE) != self.lease_id:
            return self._ended(exits.REMOVED)
        if found.is_running:
            await self._note_out_of_memory(found)
            return None
        ended = exits.describe(found, self._memory_bytes)
        try:
            await self.host.end(self.lease_id, found.id, timeout_s=CLEANUP_GRACE_S)
        except (EngineUnknown, EngineRefused) as error:
            self.log.warning("clean-up goes on lease_id=%s: %s", self.lease_id, error)
        return self._ended(ended)

    def _ended(self, ended: exits.Exit) -> str:
        """Keep the reason: JupyterHub polls once more, and then nothing is left."""
        self.last_exit = asdict(ended)
        self._let_go()
        self.log.warning("server ended owner=%s reason=%s", self.owner, ended.reason)
        return ended.sentence

    async def _note_out_of_memory(self, running: Container) -> None:
        """Tell the user when the limit ended a program but not the server."""
        since = self._oom_seen_at or datetime.now(UTC)
        self._oom_seen_at = datetime.now(UTC)
        try:
            if not await self.host.engine.n_oom_since(running.id, since):
                return
            text = (
                f"At {self._oom_seen_at:%Y-%m-%d %H:%M} UTC a program in this server "
                f"was stopped: {exits.out_of_memory(self._memory_bytes)}\n"
                "A notebook kernel that was stopped has lost its variables. Files are "
                "safe.\n"
                "You can delete this note.\n"
            )
            await homes.note_out_of_memory(
                self.host.engine, running.id, self.home_dir, text,
                seeding.Owner(*self.home_owner),
            )  # fmt: skip
        except (EngineUnknown, EngineRefused) as error:
            self.log.warning("%s: out-of-memory note failed: %s", self.owner, error)

    async def stop(self, now: bool = False) -> None:
        """Stop and remove the container, then give the devices back.

        While the engine does not answer this keeps trying: a server that may still run
        is not reported as stopped.

        Raises:
            web.HTTPError: The engine did not answer for minutes; the lease stays taken
                and the hub goes on trying in the background.
        """
        grace = 0 if now else STOP_GRACE_S
        if self._waiting_for_response:
            self._forget_choice()  # it never came up: do not insist on the same
        loop = asyncio.get_running_loop()
        deadline = loop.time() + STOP_DEADLINE_S
        while True:
            try:
                name = self.object_id or self.object_name
                await self.host.end(self.lease_id, name, timeout_s=grace)
                break
            except (EngineUnknown, EngineRefused) as error:
                self.log.warning("stopping %s: engine unknown: %s", self.owner, error)
                if loop.time() > deadline:
                    raise web.HTTPError(
                        503, "The container engine does not answer; the server is "
                        "stopped as soon as it does."
                    ) from error  # fmt: skip
            await asyncio.sleep(STOP_RETRY_S)
        self.lease_id = self.object_id = ""
        self.last_exit = {}

    async def rename(self, old_name: str, new_name: str) -> None:
        """Keep the home: its volume's name is kept in the server's state."""
        self.log.info("server renamed, home=%s %s -> %s", self.home_volume, old_name,
                      new_name)  # fmt: skip

    async def delete_forever(self) -> None:
        """Delete or keep the home by `home_policy`."""
        if not self.home_volume:
            return
        if self.home_policy == "keep":
            self.log.info("home kept volume=%s owner=%s", self.home_volume, self.owner)
            return
        try:
            await homes.delete_volume(self.host.engine, self.home_volume, self.hub_id)
            self.log.info(
                "home deleted volume=%s owner=%s", self.home_volume, self.owner
            )
        except GPUSpawnerError as error:
            self.log.error(
                "home NOT deleted, remove it by hand volume=%s owner=%s: %s",
                self.home_volume, self.owner, error,
            )  # fmt: skip


def _options_from_form(data: dict[str, list[str]]) -> dict[str, Any]:
    """Return what the form sent as options; never raises, `start` checks it."""
    return {
        key: values[0] if len(values) == 1 else values
        for key, values in data.items()
        if key != "_xsrf"
    }


def _granted(lease: Lease) -> str:
    if not lease.devices:
        return "A CPU server is yours"
    return f"{' and '.join(map(str, lease.devices))}: yours alone"
