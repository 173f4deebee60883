"""Holds that are placed at once on the wallet of one course.

All in one process, and from four processes together: some thousand students start a
server at the same moment, and the tokens are enough for half of them.
"""

import asyncio
import json
import sys
import time
from typing import Any

from torchroom.ledger import journal
from torchroom.ledger.database import Database
from torchroom.ledger.errors import NotEnough, Unavailable
from torchroom.ledger.leases import Leases
from torchroom.ledger.model import HOLDS, Kind, Payer
from torchroom.ledger.policy import Policy
from torchroom.ledger.prices import Prices
from torchroom.ledger.pricing import charge

from tokens.seeds import AT, HOLD_S, PRICES, add_courses, check
from tokens.watch import Took, quantile, watch

COURSE = "class"
SLOT_TYPE, PER_HOUR = next(iter(PRICES.items()))
N_PROCESSES = 4
LIMIT_S = 120


async def starts(db: Database, first: int, n: int) -> tuple[int, list[float], Took]:
    """Start n servers at once; return how many may, what each took in ms, and all."""
    leases = Leases(db, Policy(hold_s=HOLD_S))

    async def may_start(i: int) -> bool:
        while True:
            try:
                payer = Payer(f"student{i}", course=COURSE)
                await leases.hold(f"ls_{i:016x}", payer, [SLOT_TYPE], AT)
            except NotEnough:
                return False
            except Unavailable:  # other programs have the machine: as users, once more
                continue
            return True

    async def start(i: int) -> tuple[bool, float]:
        began = time.perf_counter()
        return await may_start(i), 1e3 * (time.perf_counter() - began)

    async with watch() as took:
        answers = await asyncio.gather(*(start(i) for i in range(first, first + n)))
    return sum(may for may, _ in answers), [ms for _, ms in answers], took


async def seed(db: Database, n_enough: int) -> None:
    """Make the course, with tokens for so many starts and one microtoken less."""
    one = charge(PER_HOUR, HOLD_S)
    await add_courses(db, [COURSE], (n_enough + 1) * one - 1)
    await Prices(db).set(SLOT_TYPE, PER_HOUR, at=AT, actor="bench")


async def _checked(db: Database, n_may: int, n_enough: int) -> None:
    """Check that exactly so many starts were let through, and each is paid for."""
    async with db.read() as conn:
        (left,) = await journal.accounts_of(conn, Kind.COURSE, COURSE)
        (held,) = await journal.accounts_of(conn, HOLDS.kind, HOLDS.name)
    one = charge(PER_HOUR, HOLD_S)
    if n_may != n_enough or left.amount != one - 1 or held.amount != n_enough * one:
        raise RuntimeError(f"{n_may} starts, {left.amount} left, {held.amount} held")
    await check(db)


async def together(db: Database, n: int) -> dict[str, Any]:
    """Measure n starts in one process."""
    await seed(db, n // 2)
    n_may, took_ms, took = await starts(db, 0, n)
    await _checked(db, n_may, n // 2)
    return _row(n, n_may, took_ms, took.wall_s) | {"loop_ms": took.loop_ms}


async def processes(db: Database, url: str, n: int) -> dict[str, Any]:
    """Measure n starts from four processes."""
    await seed(db, n // 2)
    each = n // N_PROCESSES
    workers = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tokens", "worker"),
            *(f"--url={url}", f"--n={each}", f"--first={i * each}"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        for i in range(N_PROCESSES)
    ]
    async with asyncio.timeout(LIMIT_S):
        for worker in workers:
            await _line(worker)  # it is connected
        began = time.perf_counter()
        for worker in workers:
            if worker.stdin is not None:
                worker.stdin.write(b"go\n")
        answers = [json.loads(await _line(worker)) for worker in workers]
        wall_s = time.perf_counter() - began
        for worker in workers:
            await worker.wait()
    n_may = sum(answer["started"] for answer in answers)
    await _checked(db, n_may, n // 2)
    took_ms = [ms for answer in answers for ms in answer["took_ms"]]
    return _row(n, n_may, took_ms, wall_s)


async def worker(db: Database, first: int, n: int) -> dict[str, Any]:
    """Start n servers when told to."""
    async with db.read():
        print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    n_may, took_ms, _ = await starts(db, first, n)
    return {"started": n_may, "took_ms": took_ms}


async def _line(worker: asyncio.subprocess.Process) -> bytes:
    if worker.stdout is None:
        raise RuntimeError("a worker without an output")
    line = await worker.stdout.readline()
    if not line:
        raise RuntimeError("a worker ended early")
    return line


def _row(n: int, n_may: int, took_ms: list[float], wall_s: float) -> dict[str, Any]:
    return {
        "starts": n,
        "started": n_may,
        "wall_s": wall_s,
        "p50 ms": quantile(took_ms, 0.5),
        "p99 ms": quantile(took_ms, 0.99),
    }
