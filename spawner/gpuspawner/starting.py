"""A start from the choice to the answer: lease, image, turn to boot, boot; or undo."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import Any

from jupyterhub.spawner import SpawnException
from jupyterhub.utils import (
    url_escape_path,
    url_path_join,
    wait_for_http_server,
)
from tornado import web
from traitlets import Dict, Unicode

from gpuspawner import admission, counting, exits, offers, waiting
from gpuspawner.creation import CLEANUP_GRACE_S, CreatingSpawner
from gpuspawner.doorway import BootTimedOut
from gpuspawner.errors import (
    EndedEarly,
    EngineRefused,
    GPUSpawnerError,
    MeterFailed,
    Refusal,
)
from gpuspawner.exits import Exit
from gpuspawner.model import Lease, Offer, Payer, SlotKind, Terms
from gpuspawner.progress import Progress
from gpuspawner.tickets import Place, Ticket

# JupyterHub's time-out counts from the click, before it is known how long the queue is.
# Ours count from the moment a server may boot, so JupyterHub's must never be the first.
NEVER_S = 7 * 24 * 3600
LOOK_EVERY_S = 2.0  # whether a server that does not answer yet still runs
N_LOOKS = 4  # for the end of a server in which something could not be done
UNCOUNTED = (
    "Tokens cannot be counted right now, so no server was started and nothing is "
    "charged. Your files are safe. Try again in a few minutes; if it stays, tell your "
    "admin."
)


@dataclass(frozen=True, slots=True)
class Choice:
    """What a start is for: a size, and who pays for it."""

    offer: Offer
    payer: Payer


class StartingSpawner(CreatingSpawner):
    """Starts a server as soon as its slots are free and the machine has room.

    Attributes:
        lease_id: The lease it holds, "" if none.
        last_exit: Why the last server ended, {} if there is nothing to tell.
    """

    lease_id = Unicode()
    last_exit = Dict()

    _choice: object = None
    _is_starting = False
    _memory_bytes = 0
    _prepare_timeout_s = 0
    _oom_seen_at: datetime | None = None
    _booted_at: float | None = None

    # -- choosing ----------------------------------------------------------------

    def _note_choice(self, options: object) -> None:
        """Keep what the user sent; `start` checks it against the offers."""
        self._choice = options
        # The last thing JupyterHub calls before it reads start_timeout.
        configured: int = self.start_timeout
        if configured != NEVER_S:
            self._prepare_timeout_s = configured
            self.start_timeout: int = NEVER_S

    async def my_offers(self) -> Sequence[Offer]:
        """Return what this user may take here, resolved now."""
        machine = self.configured_offers() or await self.host.machine_offers()
        found: Sequence[Offer] = self.offer_policy.for_owner(
            self.owner, self._groups(), machine
        )
        return found

    def _groups(self) -> list[str]:
        return [group.name for group in self.user.groups]

    # -- starting ----------------------------------------------------------------

    async def start(self) -> tuple[str, int]:
        """Lease, create, seed, start, check, wait for the answer; return (ip, port).

        On any failure, also when cancelled, the container is removed, the slots are
        given back and the choice is forgotten.

        Raises:
            SpawnException: The user is told why it cannot be.
            web.HTTPError: Engine or configuration failed, in a sentence.
        """
        self._is_starting = True
        self._progress = Progress(self.queue_page_grace)
        try:
            return await self._start()
        except Exception as error:
            raise await self._undone(error) from error
        except asyncio.CancelledError:
            # JupyterHub waits for this and then stops what it takes for running, so
            # nothing is awaited here: the host removes the container.
            self._let_go(exits.NOT_STARTED)
            self._forget_choice()
            raise
        finally:
            self._is_starting = False

    async def _start(self) -> tuple[str, int]:
        host = self.host
        await host.ready()
        self._booted_at = None
        host.starts.begin(self.owner.user, time.monotonic(), datetime.now(UTC))
        choice = await self._chosen()
        offer = choice.offer
        if offer.request.n_slots:
            self._check_gpu_pace()
        await host.metering.check(choice.payer, offer.request)  # before any waiting
        lease = await self._lease(offer)
        host.terms[lease.id] = Terms(offer.name, choice.payer.course)
        self._memory_bytes = offer.limits.memory_bytes
        self.log.info("lease acquired lease_id=%s owner=%s %s", lease.id, lease.owner,
                      lease.why)  # fmt: skip
        self._progress.say(10, _granted(lease))
        # From here on the lease is the meter's, too: whatever fails, `_undo` ends it
        # there, and if the hub is killed, the next one finds no container for it.
        payer = await self._payer()  # the queue may have taken hours
        await host.metering.hold(lease, payer)
        await self._pull()
        n_cpus = (await host.engine.facts())["n_cpus"]
        async with host.doorway.boot(lease.id, n_cpus, self._say_turn):
            address = await self._boot_in_time(lease, Choice(offer, payer))
        # A hub that is killed after this and before JupyterHub keeps the server leaves
        # a container that nobody claims: it counts as never started.
        await host.metering.ready(lease.id)
        host.terms[lease.id] = Terms(offer.name, payer.course, datetime.now(UTC))
        host.pool.activate(lease.id)
        self.last_exit = {}
        self._progress.say(95, "JupyterLab answers")
        return address

    async def _chosen(self) -> Choice:
        """Return what the user chose, checked.

        Raises:
            InvalidSelection: It is not theirs to choose.
            MeterFailed: Their courses cannot be read.
        """
        offer = offers.select(await self.my_offers(), self._choice)
        return Choice(offer, await self._payer())

    async def _payer(self) -> Payer:
        """Return who pays, by the groups that the user is in now.

        Raises:
            InvalidSelection: The user is not in the course that should pay.
            MeterFailed: The courses cannot be read.
        """
        course = offers.course_of(self._choice)
        groups = self._groups()
        return await self.host.metering.payer(self.owner, groups, course)

    async def _pull(self) -> None:
        try:
            async with asyncio.timeout(self._prepare_timeout_s):
                async for line in self.host.engine.pull(self.image):
                    self._progress.say(15, line)
        except TimeoutError as error:
            raise BootTimedOut(
                f"its image was not pulled within {self._prepare_timeout_s} seconds"
            ) from error

    async def _lease(self, offer: Offer) -> Lease:
        """Return a lease, after a wait in the queue if need be."""
        now = datetime.now(UTC)
        lease_id = f"ls_{secrets.token_hex(8)}"
        pool = self.host.pool
        if not offer.request.n_slots:
            self.host.room.forget(self.owner)
            lease = pool.acquire(lease_id, self.owner, offer.request, now)
        else:
            course = self.course_now(self._groups(), now)
            ticket = Ticket(lease_id, self.owner, offer.request, now, course)
            progress = self._progress
            lease = await self.host.room.lease(
                ticket, self._say_place, lambda: progress.is_left
            )
        self.host.claims.add(lease.id)
        self.lease_id = lease.id
        counting.granted(lease, (datetime.now(UTC) - now).total_seconds())
        return lease

    def _say_place(self, place: Place) -> None:
        text = waiting.describe(place)
        self._progress.say(5, text, escape(text) + self._leave_button())

    def _leave_button(self) -> str:
        """Return a button that leaves the queue, for JupyterHub's own progress page."""
        user, server = self.user.escaped_name, url_escape_path(self.name)
        path = f"users/{user}/servers/{server}" if server else f"users/{user}/server"
        url = escape(url_path_join(self.hub.base_url, "api", path), quote=True)
        ask = (
            f"this.disabled=true;fetch('{url}?_xsrf='+encodeURIComponent("
            "window.jhdata.xsrf_token),{method:'DELETE'})"
            ".then(()=>location.reload())"
        )
        return (
            ' <button type="button" class="btn btn-sm btn-outline-secondary gpuspawner-'
            f'leave" onclick="{escape(ask, quote=True)}">Leave the queue</button>'
        )

    def _say_turn(self, turn: admission.Turn) -> None:
        self._progress.say(20, admission.describe(turn))

    async def _boot_in_time(self, lease: Lease, choice: Choice) -> tuple[str, int]:
        """Boot; time-outs count from here on.

        What runs in the container may use the GPU, and is paid for only when it
        answers. So it gets the short time-out; the long one is for a slow engine.
        """
        limit_s = self._prepare_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                created = await self._prepare(lease, choice)
        except TimeoutError as error:
            raise BootTimedOut(
                f"its container was not made within {limit_s} seconds"
            ) from error
        limit_s = self.http_timeout
        try:
            async with asyncio.timeout(limit_s):
                return await self._boot(created, lease)
        except TimeoutError as error:
            raise BootTimedOut(f"it did not answer within {limit_s} seconds") from error

    async def _prepare(self, lease: Lease, choice: Choice) -> str:
        """Create and fill the container; return its id. Nothing runs in it yet."""
        limits = choice.offer.limits
        await self.clear_name()
        await self.make_home()
        created = await self.create_container(lease, limits)
        self.object_id = created
        self._progress.say(40, "Laying out your files")
        await self.fill(created, lease, limits, choice.payer)
        return created

    async def _boot(self, created: str, lease: Lease) -> tuple[str, int]:
        """Start the container; return its address when it answers."""
        self._progress.say(60, "Starting the container")
        if lease.slots:
            self._check_gpu_pace()  # other starts of this user may be as far by now
            self._booted_at = time.monotonic()
            self.host.starts.boots(self.owner.user, self._booted_at)
        is_theirs = False
        try:
            await self.host.start(lease.id, created)
            is_theirs = True  # whoever cancels from here on has had the GPU
            return await self._answered(created, lease)
        except EndedEarly:
            raise
        except Exception:
            is_theirs = False
            raise
        finally:
            if not is_theirs:
                self._forgive()

    async def _answered(self, created: str, lease: Lease) -> tuple[str, int]:
        """Return the address of what was started when it answers."""
        try:
            address = await self._come_up(created, lease)
        except GPUSpawnerError as error:
            # That it ended says more than what could not be done to it then, but the
            # engine may notice the end a moment later than we.
            for _ in range(N_LOOKS):
                if ended := await self._end_of(created):
                    raise ended from error
                await asyncio.sleep(LOOK_EVERY_S / N_LOOKS)
            raise
        self._forgive()
        return address

    async def _come_up(self, created: str, lease: Lease) -> tuple[str, int]:
        await self.check(created, lease)
        await self.cap(created, lease)
        ip, port = await self.get_ip_and_port()
        self._oom_seen_at = datetime.now(UTC)
        self._progress.say(80, "Waiting for JupyterLab")
        await self._answers(created, ip, port)
        return ip, port

    async def _answers(self, created: str, ip: str, port: int) -> None:
        """Return when the server answers.

        Raises:
            EndedEarly: It ended instead.
            EngineRefused: It was removed, or it never ran.
        """
        base = self.server.base_url if self.server else "/"
        url = url_path_join(f"http://{f'[{ip}]' if ':' in ip else ip}:{port}", base)
        while True:
            try:
                await wait_for_http_server(url, timeout=LOOK_EVERY_S)
            except TimeoutError:
                if ended := await self._end_of(created):
                    raise ended from None
            else:
                return

    async def _end_of(self, created: str) -> EngineRefused | None:
        """Return why the container ended, None if it runs."""
        found = await self.host.engine.inspect(created)
        if found is not None and found.is_running:
            return None
        why = exits.describe_start(found, self._memory_bytes)
        has_run = found is not None and found.started_at is not None
        return EndedEarly(why, 0) if has_run else EngineRefused(why, 0)

    # -- pace --------------------------------------------------------------------

    def _check_gpu_pace(self) -> None:
        """Raise TooOften if too many GPU servers of this user never answered."""
        now = datetime.now(UTC)
        self.host.starts.check_gpu(self.owner.user, time.monotonic(), now)

    def _forgive(self) -> None:
        """Do not count this boot: it answered, or its end was the platform's."""
        if self._booted_at is not None:
            self.host.starts.answered(self.owner.user, self._booted_at)
            self._booted_at = None

    def _note_unanswered(self) -> None:
        """Count a server that answered us, but never JupyterHub."""
        lease = self.host.pool.leases.get(self.lease_id)
        if lease is not None and lease.slots:
            self.host.starts.boots(self.owner.user, time.monotonic())

    # -- undoing -----------------------------------------------------------------

    def _let_go(self, why: Exit = exits.ON_REQUEST) -> None:
        """Leave the lease and its container to the host, which ends them."""
        self.object_id = ""
        if self.lease_id:
            self.host.metering.decide(self.lease_id, why)
            self.host.claims.discard(self.lease_id)
            self.host.pool.end(self.lease_id)
            self.host.kick()
            self.lease_id = ""

    async def _undone(self, error: Exception) -> web.HTTPError:
        """Undo what was begun; return what the user reads."""
        ended = self.host.ending_of(self.lease_id)
        if ended and ended.is_refundable:
            self._forgive()
        await self._undo()
        self._forget_choice()
        if isinstance(error, Refusal):
            refused: web.HTTPError = SpawnException(
                str(error), reason=error.reason, status_code=error.http_status
            )
            return refused
        if isinstance(error, MeterFailed):
            self.log.error("server not started owner=%s: %s", self.owner, error)
            failed: web.HTTPError = SpawnException(
                UNCOUNTED, reason="meter", status_code=503
            )
            return failed
        if isinstance(error, GPUSpawnerError | BootTimedOut):
            self.log.error("server not started owner=%s: %s", self.owner, error)
            why = ended.sentence if ended else exits.explain(str(error))
            return _failure(
                503,
                f"The server could not be started: {why} Try again; if it happens "
                "again, show this to your admin.",
            )
        self.log.error("server not started owner=%s", self.owner, exc_info=error)
        return _failure(
            500,
            "The server could not be started because of a fault in the hub. Your admin "
            "finds it in the hub's log.",
        )

    async def _undo(self) -> None:
        """Remove the container and give the slots back; never raises."""
        lease_id, self.lease_id = self.lease_id, ""
        if not lease_id:
            return
        try:
            await self.host.end(
                lease_id,
                self.object_name,
                timeout_s=CLEANUP_GRACE_S,
                why=exits.NOT_STARTED,
            )
        except GPUSpawnerError as error:
            self.log.warning("clean-up goes on lease_id=%s: %s", lease_id, error)
            self.host.claims.discard(lease_id)
        self.object_id = ""

    def _forget_choice(self) -> None:
        """Let the next start without options be a CPU server, not this one again."""
        self._choice = None
        self.user_options: dict[str, Any] = {}
        self.orm_spawner.user_options = {}
        self.db.commit()

    async def progress(self) -> AsyncIterator[dict[str, Any]]:
        """Yield what `start` is doing."""
        async with aclosing(self._progress.follow()) as events:
            async for event in events:
                yield event


def _granted(lease: Lease) -> str:
    if not lease.slots:
        return "A CPU server is yours"
    names = " and ".join(map(str, lease.slots))
    is_shared = any(slot.kind is SlotKind.SHARE for slot in lease.slots)
    return f"{names}: " + ("a share of it is yours" if is_shared else "yours alone")


def _failure(status: int, text: str) -> web.HTTPError:
    """Return an error whose text JupyterHub's pages show as it is."""
    error = web.HTTPError(status, text)
    error.jupyterhub_message = text  # type: ignore[attr-defined]
    return error
