"""How much the pool costs the hub: python bench/pool.py.

Measured are acquire and release through the pool with 16 GPUs, with and without others
waiting; how late the hub's event loop is with 100 leases while a real GPU reader is
asked every second (on the stand-in NVML library: 16 GPUs with 7 MIG instances each, 100
processes); and whether memory grows over 100,000 leases. The engine is a list in
memory. "By CPU" is without the time for which other programs had the core. Takes about
three minutes. Each run is appended to .cache/bench/pool.jsonl.
"""

import asyncio
import json
import logging
import os
import platform
import sys
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from gpuspawner import container as c
from gpuspawner.host import Host
from gpuspawner.model import Container, Owner, SlotKind, SlotRequest
from gpuspawner.policy import Policy
from gpuspawner.pool import Pool
from gpuspawner.probe import NvmlProbe
from gpuspawner.recovery import Plan
from gpuspawner.tickets import Ticket
from testbed.gpu import build
from testbed.gpu import state as states
from unit.topologies import LARGE

RESULTS = Path(__file__).resolve().parent.parent / ".cache" / "bench"
NOW = datetime(2026, 11, 1, 9, 0, tzinfo=UTC)
N_LEASES = 5_000
N_LEASES_MEMORY = 100_000
N_HELD = 100
N_WAITING = 20
TICK_S = 0.005
LAG_S = 45.0  # three reconciliations, 45 rounds
SIZES, SHARES = (1, 2, 4), (0.7, 0.2, 0.1)
BARS = {
    "leases per second": (1000, "at least"),
    "lag p99 ms": (20, "less than"),
    "memory growth MiB": (1, "less than"),
}
Row = dict[str, str | float]


class Churn:
    """Servers that come, wait their turn, and go; their number stays the same."""

    def __init__(self, n_waiting: int) -> None:
        machine = LARGE["DGX-2"]
        self.pool = Pool()
        self.pool.see(machine.devices, NOW, machine.topology)
        self.pool.apply(Plan(), NOW)
        self.pool.cleaned(list(self.pool.slots))
        self.n_waiting = n_waiting
        self._random = Random(n_waiting)  # noqa: S311 - a simulation
        self._held: deque[str] = deque()
        self._n = 0

    def run(self, n_leases: int) -> tuple[float, float]:
        """Grant and end so many leases; return wall-clock and CPU seconds."""
        began, cpu_began = time.perf_counter(), time.process_time()
        pool, n_done = self.pool, 0
        while n_done < n_leases:
            now = NOW + timedelta(seconds=self._n)
            while len(pool.queue.tickets) <= self.n_waiting:
                self._n += 1
                (size,) = self._random.choices(SIZES, SHARES)
                owner = Owner(f"user{self._n % 200}", str(self._n))
                pool.join(Ticket(f"ls_{self._n}", owner, SlotRequest(size), now))
            for lease in pool.grant(now):
                pool.activate(lease.id)
                self._held.append(lease.id)
            if self._held:
                pool.release(self._held.popleft(), now + timedelta(seconds=90))
                pool.cleaned(list(pool.returned))
                n_done += 1
        return time.perf_counter() - began, time.process_time() - cpu_began


def throughput() -> Iterator[Row]:
    """Measure leases per second."""
    for n_waiting in (0, 1, 8, 32):
        churn = Churn(n_waiting)
        churn.run(N_LEASES // 10)
        rates = [round(N_LEASES / seconds) for seconds in churn.run(N_LEASES)]
        what = f"16 GPUs, {n_waiting} more wait"
        yield {"what": what, "leases per second": rates[0], "by CPU": rates[1]}


def memory() -> Iterator[Row]:
    """Measure how much memory is in use after many leases and after many more."""
    churn = Churn(0)
    churn.run(N_LEASES_MEMORY // 10)
    before = _rss_mib()
    churn.run(N_LEASES_MEMORY)
    grown = round(_rss_mib() - before, 2)
    yield {"what": f"{N_LEASES_MEMORY} leases", "memory growth MiB": grown}


def _rss_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class Containers:
    """An engine that answers at once."""

    def __init__(self) -> None:
        self.rows: list[Container] = []

    async def list(self) -> list[Container]:
        """Return every container."""
        return list(self.rows)

    async def inspect(self, name: str) -> Container | None:
        """Return one container."""
        return next((row for row in self.rows if name in {row.id, row.name}), None)

    async def run_check(self, *_: object, **__: object) -> int:
        """Succeed."""
        return 0


def machine(folder: Path) -> states.GpuState:
    """Write the state of 16 GPUs with 7 MIG instances each, and their processes."""
    gpus = states.dgx2()
    for gpu in gpus:
        gpu.mig = 1
        for i in range(7):
            uuid = f"MIG-{gpu.index:08x}-0000-0000-0000-{i:012x}"
            name = f"{gpu.name} MIG 1g.5gb"
            gpu.migs.append(states.Mig(gpu.uuid, uuid, i, 7 + i, name=name))
    state = states.GpuState(folder / "state", gpus)
    for uuid in state.mig_uuids[:N_HELD]:
        state.process(uuid, os.getpid(), 2**30)
    state.write()
    return state


@asynccontextmanager
async def hub(folder: Path) -> AsyncIterator[Host]:
    """Yield a host that makes rounds every second, with 100 leases and a queue."""
    quiet = logging.getLogger("bench.hub")
    quiet.setLevel(logging.CRITICAL)
    engine, probe = Containers(), NvmlProbe(log=quiet)
    policy = Policy(queue_timeout_s=3600, sample_every_s=1.0, state_dir=folder)
    host = Host("bench", engine, probe, quiet, policy)  # type: ignore[arg-type]
    await host.ready()
    pool = host.pool
    pool.cleaned(list(pool.returned))  # the processes are there before their servers
    request = SlotRequest(1, SlotKind.MIG)
    for i in range(N_HELD):
        owner, now = Owner(f"user{i}", ""), datetime.now(UTC)
        lease = pool.acquire(f"ls_{i:016x}", owner, request, now)
        labels = c.labels("bench", lease, lease.id)
        engine.rows.append(Container(f"id-{i}", lease.id, "running", labels))
        host.claims.add(lease.id)
        pool.activate(lease.id)
    for i in range(len(pool.free)):
        pool.acquire(f"ls_rest{i}", Owner(f"rest{i}", ""), request, datetime.now(UTC))
    asked = [
        Ticket(f"ls_w{i}", Owner(f"w{i}", ""), request, datetime.now(UTC))
        for i in range(N_WAITING)
    ]
    starts = [
        asyncio.create_task(host.room.lease(ticket, lambda _: None, lambda: False))
        for ticket in asked
    ]
    try:
        yield host
    finally:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*starts, *others, return_exceptions=True)
        await probe.close()


async def _lags() -> list[float]:
    """Return how late a timer was, in seconds, sorted."""
    loop, found = asyncio.get_running_loop(), []
    end = loop.time() + LAG_S
    while (due := loop.time() + TICK_S) < end:
        await asyncio.sleep(TICK_S)
        found.append(max(0.0, loop.time() - due))
    return sorted(found)


async def _lag_with(folder: Path | None) -> Row:
    what, took_ms, n_samples = "an idle loop", 0.0, 0
    if folder is None:
        lags = await _lags()
    else:
        async with hub(folder) as host:
            lags = await _lags()
            what = f"{N_HELD} leases, {N_WAITING} wait"
            took_ms = round(1e3 * host.rounds.took_s, 1)
            n_samples = len(host.rounds.last.samples) if host.rounds.last else 0
    row: Row = {"what": what}
    if folder is not None:
        row |= {"samples": n_samples, "round ms": took_ms}
    return row | {
        "lag p50 ms": round(1e3 * lags[len(lags) // 2], 2),
        "lag p99 ms": round(1e3 * lags[len(lags) * 99 // 100], 2),
        "lag max ms": round(1e3 * lags[-1], 1),
    }


def lag() -> Iterator[Row]:
    """Measure how late the event loop is: idle, and as a hub's."""
    yield asyncio.run(_lag_with(None))
    with tempfile.TemporaryDirectory(prefix="torchroom-bench-") as name:
        folder = Path(name)
        library = build.build(folder / "nvml")
        state = machine(folder)
        os.environ["LD_LIBRARY_PATH"] = str(library.parent)
        os.environ["TORCHROOM_SIMULATED_NVML_STATE"] = str(state.path)
        os.environ["TORCHROOM_SIMULATED_NVML_ALL"] = "1"
        yield asyncio.run(_lag_with(folder))


def main() -> None:
    """Measure, print, and keep the result."""
    rows: list[Row] = []
    for measure in (throughput, memory, lag):
        for row in measure():
            rows.append(row)
            what = f"{row['what']:26}"
            values = ", ".join(f"{k} {v}" for k, v in row.items() if k != "what")
            print(f"{what}{values}", flush=True)
    print("\nBars: " + "; ".join(f"{k} {w} {n}" for k, (n, w) in BARS.items()))
    RESULTS.mkdir(parents=True, exist_ok=True)
    line: dict[str, Any] = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "rows": rows,
    }
    with (RESULTS / "pool.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
