"""The window into the pool: /hub/api/gpus, its page /hub/gpus, and why servers end.

view.py says what is shown, health.py what an admin's word does, idleness.py whether a
server is idle; this file checks who asks and for what.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from typing import Any, TypeVar, cast

from jupyterhub.apihandlers.base import APIHandler
from jupyterhub.handlers.base import BaseHandler
from jupyterhub.orm import Service, User
from jupyterhub.scopes import define_custom_scopes, needs_scope
from tornado import web

from gpuspawner import metrics
from gpuspawner.configuration import ConfiguredSpawner
from gpuspawner.errors import NotReady
from gpuspawner.exits import TOLD, Exit
from gpuspawner.faults import Health
from gpuspawner.host import Host
from gpuspawner.looking import facts_of
from gpuspawner.model import LeaseState
from gpuspawner.signals import Use
from gpuspawner.spawner import GPUDockerSpawner
from gpuspawner.view import show, show_device

READ, MANAGE = "custom:gpus:read", "custom:gpus:manage"
END = "custom:servers:end"
SCOPES = {
    READ: {"description": "See all GPUs, who holds and who waits for them"},
    MANAGE: {
        "description": "Take GPUs out of service and give them back",
        "subscopes": [READ],
    },
    END: {"description": "Tell users why their servers are about to be stopped"},
}
define_custom_scopes(SCOPES)  # needs_scope knows defined ones only

HOW_TO_SAY = (
    'Send {"state": "quarantined", "note": "why"}. The state may be healthy, draining, '
    "quarantined, or null to take an earlier word back; the note is text."
)

HOW_TO_END = (
    'Send {"reason": "idle", "sentence": "Your last server stopped: why.", '
    '"idle_since": "2026-03-02T09:00:00+00:00"}. The reason may be '
    f"{', '.join(sorted(TOLD))}; the sentence is text of at most 1000 characters; "
    "idle_since is the value that /hub/api/gpus tells for a GPU server that is idle, "
    "and null or left out if it does not matter whether it is."
)
SENTENCE_CHARS = 1000
UNANSWERED = "The GPUs do not answer, so nobody knows whether its server is idle."

ANSWER_WITHIN_S = 10.0
PAGE = resources.files(__package__).joinpath("gpus.html")
Spawners = type[ConfiguredSpawner]
Handler = tuple[str, type[BaseHandler], dict[str, Any]]
Method = TypeVar("Method", bound=Callable[..., Any])


def handlers(spawner_class: Spawners = GPUDockerSpawner) -> list[Handler]:
    """Return the window for `JupyterHub.extra_handlers`, and serve its metrics.

    Whoever shall see it needs the scope READ, whoever shall change something MANAGE,
    and whoever shall tell why it stops servers END: give them by
    `JupyterHub.load_roles`.

    Args:
        spawner_class: The very class that `JupyterHub.spawner_class` names.
    """
    metrics.register(lambda: spawner_class._host)
    bound = {"made_for": spawner_class}
    return [
        (r"/api/gpus", GPUsHandler, bound),
        (r"/api/gpus/([^/]+)", GPUHandler, bound),
        (r"/api/leases/([^/]+)/ending", EndingHandler, bound),
        (r"/gpus", PageHandler, {}),
    ]


def _needs(scope: str) -> Callable[[Method], Method]:
    return cast("Callable[[Method], Method]", needs_scope(scope))


class _HostHandler(APIHandler):
    """Finds the host, which the spawners of this hub share."""

    def initialize(self, made_for: Spawners) -> None:
        self._made_for = made_for

    async def host(self) -> Host:
        """Return the host; the first who asks for it after a hub's start waits for it.

        JupyterHub answers requests when every running server's spawner has loaded its
        state, so nobody's container is taken for an orphan.

        Raises:
            web.HTTPError: The window was made for another class than the hub uses, or
                the hub has no user yet.
        """
        cls = self._made_for
        if cls is not self.spawner_class:
            # A host of its own would take every server for an orphan.
            raise web.HTTPError(
                503,
                f"This window was made for {cls.__name__}, but this hub's servers are "
                f"started by {self.spawner_class.__name__}. An admin must give that "
                "class to gpuspawner.window.handlers in the hub's configuration.",
            )
        host = cls._host or self._first_host()
        if not host.pool.is_ready:
            with contextlib.suppress(NotReady, TimeoutError):  # `view.show` says so
                await asyncio.wait_for(host.ready(), ANSWER_WITHIN_S)
        return host

    def _first_host(self) -> Host:
        """Return the host that the spawner of whichever user makes."""
        user = self.current_user
        if isinstance(user, Service):
            found = self.db.query(User).order_by(User.id).first()
            if found is None:
                raise web.HTTPError(
                    503, "The pool is not started yet: nobody has ever logged in."
                )
            user = self._user_from_orm(found)
        host: Host = user.spawner.host
        return host

    def answer(self, found: object) -> None:
        """Finish with this as JSON."""
        self.finish(json.dumps(found))


class GPUsHandler(_HostHandler):
    """Everything at once."""

    @_needs(READ)
    async def get(self) -> None:
        """Answer with what `view.show` returns."""
        self.answer(show(facts_of(await self.host()), datetime.now(UTC)))


class GPUHandler(_HostHandler):
    """One GPU."""

    @_needs(MANAGE)
    async def post(self, uuid: str) -> None:
        """Take an admin's word on its health, see `read_word`; it ends no server.

        Answers with the GPU as in `devices`, when the word counts.
        """
        try:
            state, note = read_word(self.request.body)
        except ValueError as error:
            raise web.HTTPError(400, str(error)) from error
        host = await self.host()
        try:
            if state is None:
                host.book.lift(uuid)
            else:
                now = datetime.now(UTC)
                host.book.override(uuid, state, note, admin=self._who(), now=now)
        except LookupError as error:
            raise web.HTTPError(404, str(error)) from error
        except ValueError as error:
            raise web.HTTPError(400, str(error)) from error
        said = state.value if state else "no override"
        self.log.warning("GPU %s: %s says %s %r", uuid, self._who(), said, note)
        _apply(host, uuid)
        with contextlib.suppress(TimeoutError):
            # Keeps the word on disk and serves who waits, later if the driver is slow.
            await asyncio.wait_for(host.look_round(), ANSWER_WITHIN_S)
        self.answer(show_device(uuid, facts_of(host), datetime.now(UTC)))

    def _who(self) -> str:
        kind = "service " if isinstance(self.current_user, Service) else ""
        return f"{kind}{self.current_user.name}"


def _apply(host: Host, uuid: str) -> None:
    """Let the word count from now on, not only when the driver was read again."""
    unfit = {key: why for key, why in host.pool.unfit.items() if key != uuid}
    if not host.book.is_leasable(uuid):
        unfit[uuid] = host.book.records[uuid].reason
    host.pool.judge(unfit)


def read_word(body: bytes) -> tuple[Health | None, str]:
    """Return the state (None: take an earlier word back) and the note that were sent.

    Raises:
        ValueError: Something else was sent; a sentence what to send.
    """
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError(HOW_TO_SAY) from error
    match found:
        case {"state": None | str() as state, **rest} if not rest.keys() - {"note"}:
            note = rest.get("note", "")
        case _:
            raise ValueError(HOW_TO_SAY)
    if not isinstance(note, str) or (state is not None and state not in set(Health)):
        raise ValueError(HOW_TO_SAY)
    return (None if state is None else Health(state)), note


@dataclass(frozen=True, slots=True)
class Ending:
    """Why somebody is about to stop a server.

    Attributes:
        reason: One of `exits.TOLD`.
        sentence: What its user reads.
        idle_since: It must have been idle since then; None: that does not matter.
    """

    reason: str
    sentence: str
    idle_since: datetime | None


class EndingHandler(_HostHandler):
    """Why a server is about to be stopped through JupyterHub's own REST API."""

    @_needs(END)
    async def post(self, lease_id: str) -> None:
        """Take a reason, see `read_ending` and `announce`; it ends nothing.

        Answers 204 if it counts for a stop in the next half minute.
        """
        try:
            said = read_ending(self.request.body)
        except ValueError as error:
            raise web.HTTPError(400, str(error)) from error
        await announce(await self.host(), lease_id, said)
        self.log.info("ending told lease_id=%s reason=%s", lease_id, said.reason)
        self.set_status(204)
        self.finish()


async def announce(host: Host, lease_id: str, said: Ending) -> None:
    """Let a reason count for the stop of a server that comes soon.

    If it must be idle, the GPUs are read for this: it may have begun to compute after
    the reading that whoever stops it knows.

    Raises:
        web.HTTPError: 404 if there is no such lease, 409 if its server does not run or
            is not idle since then.
    """
    if lease_id not in host.pool.leases:
        raise web.HTTPError(404, "There is no lease of this id.")
    if said.idle_since:
        try:
            await asyncio.wait_for(host.look_round(), ANSWER_WITHIN_S)
        except TimeoutError as error:
            raise web.HTTPError(409, UNANSWERED) from error
        if why_not := _why_not_idle(host, lease_id, said.idle_since):
            raise web.HTTPError(409, why_not)
    lease = host.pool.leases.get(lease_id)
    if lease is None or lease.state is not LeaseState.ACTIVE:
        raise web.HTTPError(409, "Its server does not run.")
    ended = Exit(said.reason, said.sentence, datetime.now(UTC).isoformat())
    host.announced.tell(lease_id, ended, time.monotonic())


def _why_not_idle(host: Host, lease_id: str, since: datetime) -> str:
    """Return why a lease is not idle since this moment, "" if it is."""
    use = host.rounds.observed.of(lease_id, datetime.now(UTC))
    if use.state is not Use.IDLE or use.idle_since is None:
        return f"Its server is not idle: {use.why}"
    if use.idle_since > since:
        return f"Its server is idle only since {use.idle_since.isoformat()}."
    return ""


def read_ending(body: bytes) -> Ending:
    """Return what was sent.

    Raises:
        ValueError: Something else was sent; a sentence what to send.
    """
    try:
        found = json.loads(body)
        since = found.get("idle_since")
        at = None if since is None else datetime.fromisoformat(since)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(HOW_TO_END) from error
    match found:
        case {"reason": str() as reason, "sentence": str() as sentence, **rest}:
            is_known = reason in TOLD and not rest.keys() - {"idle_since"}
        case _:
            raise ValueError(HOW_TO_END)
    is_text = bool(sentence.strip()) and len(sentence) <= SENTENCE_CHARS
    if not (is_known and is_text) or (at is not None and at.tzinfo is None):
        raise ValueError(HOW_TO_END)
    return Ending(reason, sentence, at)


class PageHandler(BaseHandler):
    """The admin page."""

    @web.authenticated
    @_needs(READ)
    async def get(self) -> None:
        """Answer with a page that reads the API again and again."""
        # From its text, so that a site need not set JupyterHub.template_paths.
        template = self.settings["jinja2_env"].from_string(PAGE.read_text())
        self.finish(
            await template.render_async(
                **self.template_namespace,
                xsrf_token=self.xsrf_token.decode("ascii"),
                may_manage=self.has_scope(MANAGE),
                no_spawner_check=True,
            )
        )
