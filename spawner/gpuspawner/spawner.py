"""GPUDockerSpawner: translates between JupyterHub, the pool and the engine."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

from tornado import web
from traitlets import default

from gpuspawner import container as c
from gpuspawner import exits, form, homes, seeding, waiting
from gpuspawner.creation import CLEANUP_GRACE_S
from gpuspawner.errors import EngineRefused, EngineUnknown, GPUSpawnerError
from gpuspawner.host import STOP_GRACE_S
from gpuspawner.model import Container, Offer, Payer, Terms
from gpuspawner.quoting import Tag
from gpuspawner.slots import fits
from gpuspawner.starting import StartingSpawner

STOP_RETRY_S = 2.0
STOP_DEADLINE_S = 180.0
KEPT_PLACE = (
    "You were waiting in the queue when the hub was restarted. Your place is kept for "
    f"{waiting.RETURN_S / 60:.0f} minutes: start the same size again to go on waiting."
)
NO_PRICES = (
    "Tokens cannot be counted right now, so prices are not shown and servers may not "
    "start. Try again in a few minutes; if it stays, tell your admin."
)


class GPUDockerSpawner(StartingSpawner):
    """Gives each server exactly the GPUs it leases, and takes them back safely.

    Guarantees: a device is in at most one running container of this hub; a server
    without a lease sees no GPU; an engine that does not answer is never taken for a
    stopped server; a lease survives the hub's death, because its container carries it.
    """

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
            self.host.terms[self.lease_id] = _terms(state.get("terms", {}))

    def get_state(self) -> dict[str, Any]:
        """Return the lease, and what outlives a server: its home and its last end."""
        state: dict[str, Any] = super().get_state()
        terms = self.host.terms.get(self.lease_id) if self.lease_id else None
        kept = {
            "lease_id": self.lease_id,
            "terms": terms and _kept(terms),
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

    # -- the form ----------------------------------------------------------------

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
            return form.render((), notices=notices)
        pool = self.host.pool
        if pool.trouble:
            notices[pool.trouble] = "warning"
        elif self.host.probe.absence:
            notices[self.host.probe.absence] = "info"
        kept = {t.request: t.id for t in pool.queue.tickets if t.owner == self.owner}
        if kept:
            notices[KEPT_PLACE] = "info"
        courses, tags = await self._prices(available, notices)
        rows = []
        for offer, tag in zip(available, tags, strict=True):
            row = self._row(offer, kept.get(offer.request, ""))
            if tag.refusal and row.is_possible:
                row = replace(row, note=tag.refusal, is_possible=False)
            rows.append(replace(row, price=str(tag)))
            await asyncio.sleep(0)  # an estimate can take milliseconds; others wait
        return form.render(
            rows,
            notices=notices,
            courses=courses,
            course=self.user_options.get("course", "") if kept else None,
            is_cpu_first=self.last_exit.get("reason") == exits.OUT_OF_TOKENS,
        )

    async def _prices(
        self, available: Sequence[Offer], notices: dict[str, str]
    ) -> tuple[Mapping[str, str], Sequence[Tag]]:
        """Return who may pay, and the price of each offer; a notice if nobody knows."""
        metering, groups = self.host.metering, self._groups()
        try:
            courses = await metering.courses(groups)
            payers = [Payer(self.owner, tuple(groups), name) for name in (*courses, "")]
            tags = await metering.quote(payers, [offer.request for offer in available])
        except GPUSpawnerError as error:
            self.log.warning("no prices for %s: %s", self.owner, error)
            notices[NO_PRICES] = "warning"
            return {}, [Tag() for _ in available]
        return courses, tags

    def _row(self, offer: Offer, kept: str) -> form.Row:
        """Return an offer with what is free now, or how long the queue is.

        Args:
            offer: What is offered.
            kept: The ticket that this server has for it already, "" if none.
        """
        pool, request = self.host.pool, offer.request
        if not request.n_slots:
            return form.Row(offer)
        try:
            pool.check(request)
        except GPUSpawnerError as error:
            return form.Row(offer, str(error), is_possible=False)
        free = sum(fits(slot, request) for slot in pool.free)
        every = sum(fits(slot, request) for slot in pool.slots.values())
        what = f"{free} of {every} free now"
        place = self.host.room.places.get(kept) or pool.outlook(
            request, datetime.now(UTC)
        )
        if place.wait_s == 0 and not place.n_ahead:
            return form.Row(offer, what, is_kept=bool(kept))
        queue = f"{what}. If you choose it: {waiting.describe(place)}"
        return form.Row(offer, queue, is_free=False, is_kept=bool(kept))

    # -- running and ending ------------------------------------------------------

    async def poll(self) -> str | int | None:
        """Return None while the server runs or nothing is known, else why it ended."""
        if self._is_starting:
            return None
        self.host.begin()
        if not self.lease_id:
            return 0
        try:
            found = await self.host.engine.inspect(self.object_id or self.object_name)
        except EngineUnknown as error:
            self.log.warning(
                "%s: state unknown, taken as running: %s", self.owner, error
            )
            return None
        if evicted := self.host.ending_of(self.lease_id):
            return self._ended(evicted)
        if found is None or found.labels.get(c.LEASE) != self.lease_id:
            return self._ended(exits.REMOVED)
        if found.is_running:
            await self._note_out_of_memory(found)
            await self._deliver_messages(found)
            return None
        ended = exits.describe(found, self._memory_bytes)
        try:
            await self.host.end(
                self.lease_id, found.id, timeout_s=CLEANUP_GRACE_S, why=ended
            )
        except (EngineUnknown, EngineRefused) as error:
            self.log.warning("clean-up goes on lease_id=%s: %s", self.lease_id, error)
        return self._ended(ended)

    def _ended(self, ended: exits.Exit) -> str:
        """Keep the reason: JupyterHub polls once more, and then nothing is left."""
        self.last_exit = asdict(ended)
        self._let_go(ended)
        if ended.reason == exits.OUT_OF_TOKENS:
            self._forget_choice()  # nor can the next one be paid for
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
            await self._leave_note(running, homes.OOM_NOTE, text)
        except (EngineUnknown, EngineRefused) as error:
            self.log.warning("%s: out-of-memory note failed: %s", self.owner, error)

    async def _deliver_messages(self, running: Container) -> None:
        """Tell the user what the hub has to say about this server's GPU."""
        messages = self.host.messages_for(self.lease_id)
        if not messages:
            return
        lines = [*messages, "You can delete this note."]
        try:
            await self._leave_note(running, homes.GPU_NOTE, "\n\n".join(lines) + "\n")
        except (EngineUnknown, EngineRefused) as error:
            self.log.warning("%s: note failed, will try again: %s", self.owner, error)
            return
        self.host.delivered(self.lease_id, len(messages))

    async def _leave_note(self, running: Container, name: str, text: str) -> None:
        owner = seeding.Owner(*self.home_owner)
        await homes.leave_note(
            self.host.engine, running.id, self.home_dir, (name, text), owner
        )

    async def stop(self, now: bool = False) -> None:
        """Stop and remove the container, then give the devices back.

        While the engine does not answer this keeps trying: a server that may still run
        is not reported as stopped.

        If a program that stops servers told before why, its user reads that.

        Raises:
            web.HTTPError: The engine did not answer for minutes; the lease stays taken
                and the hub goes on trying in the background.
        """
        told = self.host.announced.take(self.lease_id, time.monotonic())
        grace, why = 0 if now else STOP_GRACE_S, told or exits.ON_REQUEST
        if self._waiting_for_response:
            why = exits.NOT_STARTED
            self._note_unanswered()
            self._forget_choice()  # it never came up: do not insist on the same
        why = self.host.metering.decide(self.lease_id, why)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + STOP_DEADLINE_S
        while True:
            try:
                name = self.object_id or self.object_name
                await self.host.end(self.lease_id, name, timeout_s=grace, why=why)
                break
            except (EngineUnknown, EngineRefused) as error:
                self.log.warning("stopping %s: engine unknown: %s", self.owner, error)
                if loop.time() > deadline:
                    if why == told:
                        self.host.note_ending(self.lease_id, why)
                    raise web.HTTPError(
                        503, "The container engine does not answer; the server is "
                        "stopped as soon as it does."
                    ) from error  # fmt: skip
            await asyncio.sleep(STOP_RETRY_S)
        self.lease_id = self.object_id = ""
        if why not in {exits.ON_REQUEST, exits.NOT_STARTED}:
            self.last_exit = asdict(why)

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


def _kept(terms: Terms) -> dict[str, Any]:
    ready_at = terms.ready_at and terms.ready_at.isoformat()
    return asdict(terms) | {"ready_at": ready_at}


def _terms(kept: Mapping[str, Any]) -> Terms:
    """Return what `_kept` made; servers of older hubs have none."""
    ready_at = kept.get("ready_at")
    return Terms(
        kept.get("offer", ""),
        kept.get("course", ""),
        datetime.fromisoformat(ready_at) if ready_at else None,
    )


def _options_from_form(data: dict[str, list[str]]) -> dict[str, Any]:
    """Return what the form sent as options; never raises, `start` checks it."""
    return {
        key: values[0] if len(values) == 1 else values
        for key, values in data.items()
        if key != "_xsrf"
    }
