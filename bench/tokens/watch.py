"""Seconds, CPU seconds, memory, and how long an event loop stood still.

Both sides of the comparison use this file, in different environments: it imports
the standard library only.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

TICK_S = 0.002


@dataclass
class Took:
    """What some work took.

    Attributes:
        wall_s: By the clock on the wall.
        cpu_s: Of this process, all threads.
        loop_ms: The longest time for which nothing else could run on the event loop.
    """

    wall_s: float = 0.0
    cpu_s: float = 0.0
    loop_ms: float = 0.0


@asynccontextmanager
async def watch() -> AsyncIterator[Took]:
    """Measure what is done inside; the values are there afterwards."""
    took = Took()
    ticker = asyncio.create_task(_tick(took))
    await asyncio.sleep(0)
    began, cpu_began = time.perf_counter(), time.process_time()
    try:
        yield took
    finally:
        took.wall_s = time.perf_counter() - began
        took.cpu_s = time.process_time() - cpu_began
        await asyncio.sleep(2 * TICK_S)
        ticker.cancel()
        with suppress(asyncio.CancelledError):
            await ticker


async def _tick(took: Took) -> None:
    while True:
        due = time.perf_counter() + TICK_S
        await asyncio.sleep(TICK_S)
        took.loop_ms = max(took.loop_ms, 1e3 * (time.perf_counter() - due))


def rss_mib() -> float:
    """Memory of this process that is not shared out, now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def cpu_of(pid: int) -> float:
    """CPU seconds of a process, its threads and what it started; 0 if it is gone."""
    ticks, seen = 0, [pid]
    for one in seen:
        with suppress(OSError):
            after = Path(f"/proc/{one}/stat").read_text(encoding="utf-8")
            fields = after.rsplit(")", 1)[1].split()
            ticks += sum(map(int, fields[11:15]))
            for task in Path(f"/proc/{one}/task").iterdir():
                children = (task / "children").read_text(encoding="ascii")
                seen += map(int, children.split())
    return ticks / os.sysconf("SC_CLK_TCK")


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value that this share of all values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
