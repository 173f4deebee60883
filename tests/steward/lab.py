"""What the steward's tests build on: servers, a clock, a hub that is a script."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from torchroom.steward.hub import Hub
from torchroom.steward.loop import Steward
from torchroom.steward.model import (
    BLIND_AFTER,
    Event,
    GpuUse,
    Look,
    Notice,
    Post,
    Server,
    Use,
)
from torchroom.steward.rules import Policy
from torchroom.steward.store import Store

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
LONG_AGO = NOW - timedelta(days=2)


def gpu_server(state: Use = Use.BUSY, idle_for: timedelta | None = None, **more: Any
) -> Server:  # fmt: skip
    """A server with a GPU, ready long ago."""
    since = NOW - idle_for if idle_for is not None else None
    use = GpuUse(state, since, "", more.pop("n_slots", 1))
    given = {"ready_at": LONG_AGO, "started_at": LONG_AGO} | more
    return Server("ls_1", "alice", "", "1-gpu", given.pop("course", ""), gpu=use,
                  **given)  # fmt: skip


def idle_server(idle_for: timedelta, **more: Any) -> Server:
    """A server whose GPU is idle for so long."""
    return gpu_server(Use.IDLE, idle_for, **more)


def cpu_server(active_ago: timedelta | None, **more: Any) -> Server:
    """A server without GPU."""
    at = NOW - active_ago if active_ago is not None else None
    given = {"ready_at": LONG_AGO, "started_at": LONG_AGO} | more
    return Server("ls_2", "bob", "", "cpu", given.pop("course", ""),
                  last_activity=at, **given)  # fmt: skip


@dataclass
class Clock:
    """Shows what it was set to."""

    time: datetime = NOW

    def __call__(self) -> datetime:
        return self.time


@dataclass
class Lease:
    """A server of the scripted hub."""

    id: str
    user: str
    server: str = ""
    offer: str = "1-gpu"
    course: str | None = None
    ready_at: datetime = LONG_AGO
    state: str = "active"
    use: str | None = "busy"
    idle_since: datetime | None = None
    last_activity: datetime | None = None
    health: str = "healthy"
    tokens_end_at: datetime | None = None
    pending: str | None = None
    """What the hub is doing to it."""

    def idle(self, since: datetime) -> None:
        """Its GPU computes nothing any more."""
        self.use, self.idle_since = "idle", since

    def busy(self) -> None:
        """Its GPU computes again."""
        self.use, self.idle_since = "busy", None


@dataclass
class ScriptedHub:
    """The hub's answers, and what was asked of it.

    `on` is called with each request before it is answered: it may change something,
    return another answer, or raise, as a network or a kill does.
    """

    clock: Clock
    leases: dict[str, Lease] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    reasons: list[dict[str, Any]] = field(default_factory=list)
    on: Callable[[str], httpx.Response | None] = lambda _: None
    is_slow: bool = False
    """A stop is answered before it is done."""

    def add(self, lease: Lease) -> Lease:
        """Start a server."""
        self.leases[lease.id] = lease
        return lease

    def client(self) -> Hub:
        """A client of it."""
        transport = httpx.MockTransport(self.answer)
        return Hub("http://hub/hub/api", "secret", transport=transport)

    @property
    def stopped(self) -> list[str]:
        """Which stops were asked for."""
        return [line for line in self.asked if line.startswith("DELETE")]

    async def answer(self, request: httpx.Request) -> httpx.Response:
        """Answer a request as JupyterHub and the plugin do."""
        line = f"{request.method} {request.url.path.removeprefix('/hub/api')}"
        other = self.on(line)
        self.asked.append(line)
        await asyncio.sleep(0)
        if other is not None:
            return other
        if line == "GET /gpus":
            return httpx.Response(200, json=self.gpus())
        if line == "GET /users":
            return httpx.Response(200, json=self.users())
        if line.startswith("POST /leases/"):
            return self.ending(line.split("/")[2], request)
        return self.stop(line)

    def gpus(self) -> dict[str, Any]:
        """As gpuspawner.view shows it."""
        leases = self.leases.values()
        return {
            "version": 1,
            "at": self.clock().isoformat(),
            "is_ready": True,
            "devices": [
                {"uuid": f"GPU-{lease.id}",
                 "health": {"state": lease.health, "reason": "Xid 63"}}
                for lease in leases
            ],
            "leases": [
                {
                    "id": lease.id,
                    "user": lease.user,
                    "server": lease.server,
                    "state": lease.state,
                    "offer": lease.offer,
                    "course": lease.course,
                    "ready_at": lease.ready_at.isoformat(),
                    "tokens_end_at": iso(lease.tokens_end_at),
                    "slots": [{"id": lease.id, "device": f"GPU-{lease.id}"}]
                    if lease.use
                    else [],
                    "use": lease.use
                    and {"state": lease.use, "since": iso(self.clock()), "why": "x",
                         "idle_since": iso(lease.idle_since), "slots": []},
                }
                for lease in leases
            ],
        }  # fmt: skip

    def users(self) -> dict[str, Any]:
        """As JupyterHub lists those with ready servers."""
        found: dict[str, dict[str, Any]] = {}
        for lease in self.leases.values():
            found.setdefault(lease.user, {})[lease.server] = {
                "name": lease.server,
                "ready": lease.pending is None,
                "pending": lease.pending,
                "started": lease.ready_at.isoformat(),
                "last_activity": iso(lease.last_activity),
            }
        items = [{"name": name, "servers": own} for name, own in found.items()]
        return {"items": items, "_pagination": {"next": None}}

    def ending(self, id_: str, request: httpx.Request) -> httpx.Response:
        """As gpuspawner.window takes a reason."""
        body = httpx.Response(200, content=request.content).json()
        lease = self.leases.get(id_)
        if lease is None:
            return httpx.Response(404, json={"message": "no such lease"})
        since = body["idle_since"]
        if body["reason"] == "idle" and iso(lease.idle_since) != since:
            return httpx.Response(409, json={"message": "It computes again."})
        self.reasons.append(body)
        return httpx.Response(204)

    def stop(self, line: str) -> httpx.Response:
        """As JupyterHub stops a server."""
        for lease in list(self.leases.values()):
            tail = f"servers/{lease.server}" if lease.server else "server"
            if line == f"DELETE /users/{lease.user}/{tail}":
                if self.is_slow:
                    lease.pending = "stop"
                    return httpx.Response(202)
                del self.leases[lease.id]
                return httpx.Response(204)
        return httpx.Response(404, json={"message": "not running"})


def keep(
    store: Store,
    notices: Sequence[Notice] = (),
    noted: Sequence[tuple[Event, Sequence[Post]]] = (),
    at: datetime = NOW,
) -> None:
    """Keep a look that saw everything and came to this."""
    store.keep(Look(at, at), notices=notices, told=[], seen=[], noted=noted)


def iso(at: datetime | None) -> str | None:
    return at.isoformat() if at else None


@dataclass
class Room:
    """A steward on a scripted hub; `begin` makes another one on the same file."""

    folder: Path
    policy: Policy = field(default_factory=Policy)
    hooks: Sequence[str] = ("mail", "webhook")
    clock: Clock = field(default_factory=Clock)
    hub: ScriptedHub = field(init=False)
    store: Store = field(init=False)
    steward: Steward = field(init=False)

    def __post_init__(self) -> None:
        self.hub = ScriptedHub(self.clock)
        self.begin()

    def begin(self) -> None:
        """Start a new steward, as after a kill."""
        self.store = Store.open(self.folder)
        self.steward = Steward(
            self.hub.client(),
            self.store,
            self.policy,
            hooks=lambda _user: self.hooks,
            now=self.clock,
        )

    async def look(self, after: timedelta = timedelta()) -> datetime | None:
        """Let time pass with a look now and then; wait for the stops each began."""
        while after > BLIND_AFTER:
            after -= BLIND_AFTER
            await self._once(BLIND_AFTER)
        return await self._once(after)

    async def look_after_an_absence(self, lasted: timedelta) -> datetime | None:
        """Let time pass without a look, then look."""
        return await self._once(lasted)

    async def _once(self, after: timedelta) -> datetime | None:
        self.clock.time += after
        due = await self.steward.once()
        await self.steward.settled()
        return due

    @property
    def actions(self) -> list[str]:
        """What was done, the oldest first."""
        return [event.action for event in reversed(self.store.events(1000))]

    @property
    def posts(self) -> list[str]:
        """The ids of what waits to be sent."""
        now = self.clock.time
        return [m.id for hook in self.hooks for m in self.store.due(hook, now, 1000)]
