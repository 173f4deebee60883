"""Whatever happens in whatever order: what users were promised holds."""

import asyncio
import tempfile
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import httpx
from hypothesis import given, settings
from hypothesis import strategies as st
from steward.lab import HOUR, LONG_AGO, MINUTE, Lease, Room
from torchroom.steward.model import BLIND_AFTER
from torchroom.steward.rules import Policy
from torchroom.steward.store import TooLate

SECOND = timedelta(seconds=1)
WARN, IDLE = 10 * MINUTE, 30 * MINUTE

steps = st.lists(
    st.tuples(
        st.sampled_from(
            ["idle", "busy", "unknown", "extend", "kill", "hub fails", "hub works",
             "stop fails", "is slow", "look", "look", "extend", "sick", "start",
             "absent"]
        ),
        st.sampled_from([SECOND, MINUTE, 9 * MINUTE, 20 * MINUTE, HOUR]),
    ),
    min_size=5,
    max_size=40,
)  # fmt: skip


@dataclass
class World:
    """One server at a time, and all that its user was told."""

    room: Room
    lease: Lease
    n_started: int = 1
    n_stopped: int = 0
    kept_until: datetime = LONG_AGO
    first_told: datetime | None = None
    idle_from: datetime | None = None
    fails: set[str] = field(default_factory=set)
    broken: list[str] = field(default_factory=list)
    """Promises; the steward would catch an assertion of ours as its own bug."""

    def on(self, line: str) -> httpx.Response | None:
        """Check every stop that reaches the hub."""
        if line.split(maxsplit=1)[0] in self.fails:
            return httpx.Response(503)
        if line.startswith("DELETE") and self.lease.pending is None:
            self.check_stop()
        return None

    def check_stop(self) -> None:
        """What I9 and a warning promise."""
        now = self.room.clock.time
        is_sick = self.lease.health != "healthy"
        promises = {
            "it is idle": self.lease.use == "idle",
            "for long enough": self.idle_from is not None
            and now - self.idle_from >= (15 * MINUTE if is_sick else IDLE),
            "it was told": self.first_told is not None
            and now - self.first_told >= WARN,
            "an extension holds": is_sick or now >= self.kept_until,
        }
        self.broken += [what for what, is_kept in promises.items() if not is_kept]
        self.n_stopped += 1

    async def step(self, what: str, after: timedelta) -> None:
        """Let time pass, with a look now and then, and something happen."""
        room, lease = self.room, self.lease
        while after > BLIND_AFTER and what != "absent":
            after -= BLIND_AFTER
            room.clock.time += BLIND_AFTER
            await self.look()
        room.clock.time += after
        match what:
            case "idle":
                self.idle_from = self.idle_from or room.clock.time
                lease.idle(self.idle_from)
            case "busy":
                self.idle_from = None
                lease.busy()
            case "unknown":  # a gap that the counters may bridge later
                lease.use, lease.idle_since = "unknown", None
            case "sick":
                lease.health = "draining"
            case "hub fails":
                self.fails |= {"GET"}
            case "stop fails":
                self.fails |= {"DELETE"}
            case "is slow":
                room.hub.is_slow = True
            case "hub works":
                self.fails.clear()
            case "extend":
                self.extend()
            case "kill":
                room.begin()
            case "start" if lease.id not in room.hub.leases or lease.pending:
                self.start()
        await self.look()

    def start(self) -> None:
        """Start another server of the same name."""
        self.room.hub.leases.clear()
        self.n_started += 1
        self.lease = self.room.hub.add(Lease(f"ls_{self.n_started}", "alice"))
        self.kept_until, self.first_told, self.idle_from = LONG_AGO, None, None

    def extend(self) -> None:
        """Take what the notice offers, as the console does."""
        now = self.room.clock.time
        notice = self.room.store.notice_of("alice", "")
        if notice is None or not notice.n_extensions_left:
            return
        try:
            if self.room.store.extend(notice, now) and notice.lease == self.lease.id:
                self.kept_until = now + notice.extend_by
        except TooLate:
            pass

    async def look(self) -> None:
        """Let the steward look, and see what its user sees."""
        await self.room.look()
        notice = self.room.store.notice_of("alice", "")
        now = self.room.clock.time
        is_mine = notice is not None and notice.lease == self.lease.id
        if is_mine and self.first_told is None:
            self.first_told = now
        known = "GET" not in self.fails and self.lease.use != "unknown"
        if notice is None and known:
            self.first_told = None


async def happen(folder: Path, todo: list[tuple[str, timedelta]]) -> None:
    room = Room(folder, Policy(), hooks=["mail"])
    world = World(room, room.hub.add(Lease("ls_1", "alice")))
    room.hub.on = world.on
    for what, after in todo:
        await world.step(what, after)
    # In the end: whatever was broken is mended, and the server is idle for long.
    world.fails.clear()
    room.hub.is_slow = False
    world.start()
    await world.step("idle", SECOND)
    for _ in range(150):
        await world.step("look", MINUTE)
    assert world.broken == []
    assert world.n_stopped
    assert world.lease.id not in room.hub.leases
    actions = room.actions
    assert actions.count("stopped") >= 1
    assert room.store.claims() == {}
    assert room.store.notices() == []
    stops = [e.lease for e in room.store.events(1000) if e.action == "stopped"]
    assert len(stops) == len(set(stops))
    room.store.close()


@settings(max_examples=40, deadline=None)
@given(steps)
def test_promises_hold(todo: list[tuple[str, timedelta]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(happen(Path(folder), todo))
