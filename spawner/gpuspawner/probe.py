"""The hub's way to NVML: a child that reads, with deadlines, replaced when it hangs."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from gpuspawner.child import Child, Died, Log, Row
from gpuspawner.errors import ProbeFailed
from gpuspawner.links import Topology
from gpuspawner.model import Device
from gpuspawner.rows import to_device, to_event, to_sweep, to_topology
from gpuspawner.sample import Event, Sample, Sweep

T = TypeVar("T")

TIMEOUT_S = 15.0
# Without persistence mode the driver sets every GPU up when NVML is initialised.
START_FACTOR = 3
KILL_WAIT_S = 1.0
N_ABANDONED = 3
N_EVENTS = 1000
BACKOFF_MAX_S = 60.0
LOOK_AGAIN_S = 60.0
AVOID_S, AVOID_MAX_S = 300.0, 3600.0
RENEW_S = 300.0

UNREACHABLE = (
    "The NVIDIA driver lists GPUs, but none of them can be read. An admin must look at "
    "dmesg on the host."
)
STUCK = (
    f"{N_ABANDONED} readings hang inside the NVIDIA driver and cannot be ended. An "
    "admin must look at dmesg on the host and restart the machine."
)
DIED = "The process that reads the GPUs ended unexpectedly; it is started again."


@dataclass(frozen=True, slots=True)
class _Avoided:
    """A GPU that hung: not touched before `until`, nor while `child` still hangs."""

    child: Child
    method: str
    delay_s: float
    until: float


class NvmlProbe:
    """A Probe on NVML.

    One child at most is asked at a time, and callers at the same time share one reading
    of a kind. A GPU in whose calls the child hangs is lost to all readings for a while
    (five minutes, then twice as long each time, an hour at most), so that the others
    can be read. A machine without GPUs is looked at once a minute and costs nothing in
    between.

    Args:
        timeout_s: For one request; three times as long for a child's first one.
        clock: Seconds; never goes back.
        log: Where the child's errors and its replacements are told.
        n_events: Kept between two sweeps.

    Attributes:
        absence: See `Probe.absence`.
    """

    def __init__(
        self,
        timeout_s: float = TIMEOUT_S,
        *,
        clock: Callable[[], float] = time.monotonic,
        log: Log | None = None,
        n_events: int = N_EVENTS,
    ) -> None:
        self.timeout_s = timeout_s
        self.absence: str | None = None
        self._clock = clock
        self._log = log or logging.getLogger(__name__)
        self._child: Child | None = None
        self._abandoned: list[Child] = []
        self._turn = asyncio.Lock()
        self._readings: dict[tuple[Any, ...], asyncio.Task[Any]] = {}
        self._events: deque[Event] = deque(maxlen=n_events)
        self._has_dropped = False
        self._known: dict[str, Device] = {}
        self._has_lost = False
        self._avoided: dict[int, _Avoided] = {}
        self._n_gpus: int | None = None
        self._n_failed = 0
        self._why = ""
        self._not_before = 0.0
        self._look_at = 0.0

    @property
    def pid(self) -> int | None:
        """The child's process id, None while there is none."""
        child = self._child
        return None if child is None or child.gone.is_set() else child.pid

    async def list_devices(self) -> tuple[Device, ...]:
        """See `Probe.list_devices`. One that was seen is told until the hub ends."""
        return await self._shared(self._list_devices, "devices")

    async def topology(self) -> Topology:
        """See `Probe.topology`."""
        return await self._shared(self._topology, "topology")

    async def sweep(self) -> Sweep:
        """See `Probe.sweep`. Every event is given to one caller, once.

        Those that come while no sweep succeeds are kept, the newest ones; only those
        of the moment in which a child is replaced are missed.
        """
        swept = await self._shared(self._sweep, "sweep")
        events = tuple(self._events)
        self._events.clear()
        self._has_dropped = False
        return replace(swept, events=events)

    async def limit_memory(
        self, uuid: str, cgroup: str, limit_bytes: int
    ) -> int | None:
        """See `Probe.limit_memory`. What NVML says against it goes to the log."""

        async def limit() -> int | None:
            arguments = {"uuid": uuid, "cgroup": cgroup, "limit_bytes": limit_bytes}
            answer = await self._ask("limit_memory", arguments)
            if answer is None:
                return None
            if answer["why"]:
                self._log.info("no memory limit on %s: %s", uuid, answer["why"])
            told: int | None = answer["bytes"]
            return told

        return await self._shared(limit, "limit_memory", uuid, cgroup, limit_bytes)

    async def close(self) -> None:
        """End the child, so that nothing of the hub holds the driver.

        The next call starts one again.
        """
        await self._retire()

    # -- readings

    async def _shared(
        self, read: Callable[[], Coroutine[Any, Any, T]], *kind: Any
    ) -> T:
        """Join the reading of this kind that is under way, or start one.

        A caller that goes away does not end it for the others.
        """
        task: asyncio.Task[T] | None = self._readings.get(kind)
        if task is None:
            task = asyncio.create_task(read())
            self._readings[kind] = task
            task.add_done_callback(lambda done: self._finished(kind, done))
        return await asyncio.shield(task)

    def _finished(self, kind: tuple[Any, ...], task: asyncio.Task[Any]) -> None:
        del self._readings[kind]
        if not task.cancelled():
            task.exception()  # seen, even if every caller has gone away

    async def _list_devices(self) -> tuple[Device, ...]:
        answer = await self._ask("devices")
        if answer is None:
            return ()
        found = {row["uuid"]: to_device(row) for row in answer["devices"]}
        self._known |= found
        devices = tuple(
            found.get(uuid) or replace(known, is_lost=True)
            for uuid, known in self._known.items()
        )
        self._has_lost = len(found) < len(devices)
        self.absence = None if devices else UNREACHABLE
        return tuple(sorted(devices))

    async def _topology(self) -> Topology:
        answer = await self._ask("topology")
        return Topology() if answer is None else to_topology(answer)

    async def _sweep(self) -> Sweep:
        answer = await self._ask("sweep")
        if answer is None:
            return Sweep()
        swept = to_sweep(answer)
        samples = dict(swept.samples)
        at = datetime.now(UTC)
        for uuid, device in self._known.items():
            sample = samples.setdefault(uuid, Sample(uuid, at, is_lost=True))
            for instance in device.instances if sample.is_lost else ():
                samples[instance.uuid] = Sample(instance.uuid, at, is_lost=True)
        self._has_lost = any(sample.is_lost for sample in samples.values())
        return replace(swept, samples=samples)

    def _on_event(self, row: Row) -> None:
        if len(self._events) == self._events.maxlen and not self._has_dropped:
            self._has_dropped = True  # said once: a storm must not fill the log as well
            self._log.warning("more GPU events than are kept: the oldest are dropped")
        self._events.append(to_event(row))

    # -- asking the child

    async def _ask(self, method: str, arguments: Row | None = None) -> Row | None:
        """Return the child's result; None if the machine has no GPU to be read.

        Args:
            method: See nvml.reader.Reader.
            arguments: None for a reading of every GPU that may be touched now.

        Raises:
            ProbeFailed: It has GPUs, and they cannot be read now.
        """
        async with self._turn:
            if self._child is None and self._clock() < self._look_at:
                return None
            child = await self._ready()
            timeout_s = self.timeout_s * (1 if child.n_asked else START_FACTOR)
            avoid = self._avoid()
            if arguments is None:
                arguments = {"avoid": avoid, "of": self._n_gpus}
            try:
                said = await asyncio.wait_for(child.ask(method, arguments), timeout_s)
            except TimeoutError:
                raise await self._hung(child, method, timeout_s) from None
            except Died:
                await self._retire()
                raise self._failed(DIED) from None
            if "failure" in said:
                await self._retire()
                raise self._failed(said["failure"])
            self._n_failed, self._look_at = 0, 0.0
            if "absence" in said:
                await self._retire()
                self.absence = said["absence"]
                self._look_at = self._clock() + LOOK_AGAIN_S
                return None
            self._n_gpus = child.of or self._n_gpus
            self._forgive(method, avoid)
            result: Row = said["result"]
            return result

    async def _ready(self) -> Child:
        """Return the child, a new one if the old one will not do."""
        now = self._clock()
        if self._child:
            # NVML finds a GPU that was reset only when it is initialised again.
            is_stale = self._has_lost and now - self._child.started_at > RENEW_S
            if self._child.gone.is_set() or is_stale:
                await self._retire()
        if self._child is None:
            if now < self._not_before:
                raise ProbeFailed(self._why)
            self._abandoned = [c for c in self._abandoned if not c.gone.is_set()]
            if len(self._abandoned) >= N_ABANDONED:
                raise ProbeFailed(STUCK)
            try:
                self._child = Child(now, self._on_event, self._log)
            except OSError as error:
                text = f"The hub cannot start the process that reads the GPUs: {error}."
                raise self._failed(text) from error
        return self._child

    async def _retire(self) -> None:
        """End the child. One that cannot be ended is left behind and counted."""
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        try:
            await asyncio.wait_for(child.gone.wait(), KILL_WAIT_S)
        except TimeoutError:
            self._abandoned.append(child)
            self._log.error(
                "the GPU reader hangs inside the NVIDIA driver and cannot be ended "
                "pid=%s: look at dmesg on the host",
                child.pid,
            )

    async def _hung(self, child: Child, method: str, timeout_s: float) -> ProbeFailed:
        who = "The NVIDIA driver"
        if child.at is not None:
            before = self._avoided.get(child.at)
            delay_s = min(2 * before.delay_s, AVOID_MAX_S) if before else AVOID_S
            until = self._clock() + delay_s
            self._avoided[child.at] = _Avoided(child, method, delay_s, until)
            self._n_gpus = child.of
            who = f"GPU {child.at}"
        self._log.error("%s hangs in %s; the reader is replaced", who, method)
        await self._retire()
        return self._failed(
            f"{who} did not answer within {timeout_s:g} seconds; "
            "a GPU may be stuck. An admin must look at dmesg on the host."
        )

    def _failed(self, why: str) -> ProbeFailed:
        """Note a failure: the first is tried again at once, the next ones later."""
        if self._n_failed:
            delay_s = min(2.0 ** min(self._n_failed - 1, 10), BACKOFF_MAX_S)
            self._not_before = self._clock() + delay_s
        self._n_failed += 1
        self._why = why
        return ProbeFailed(why)

    # -- GPUs that hang

    def _avoid(self) -> list[int]:
        now = self._clock()
        return [
            index
            for index, avoided in self._avoided.items()
            if now < avoided.until or not avoided.child.gone.is_set()
        ]

    def _forgive(self, method: str, avoid: list[int]) -> None:
        """Forget the hangs of GPUs that now answer what they did not answer then."""
        for index in self._avoided.keys() - set(avoid):
            if self._avoided[index].method == method:
                del self._avoided[index]
