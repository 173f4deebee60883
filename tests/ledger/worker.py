"""A process of its own that works on a ledger: `python worker.py URL TASK [ARGUMENT]`.

It says when it is ready and begins when it is told, so that several begin together. At
its end it prints how often it got what it wanted.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from torchroom.ledger.database import Database
from torchroom.ledger.errors import NotEnough
from torchroom.ledger.leases import Leases
from torchroom.ledger.model import CPU, Ending, Payer
from torchroom.ledger.planning import End
from torchroom.ledger.policy import Policy

START = datetime(2026, 3, 2, 9, tzinfo=UTC)
GPU = "A100"
N_HOLDS = 12
N_LEASES = 6
STEP_S = 317
N_STEPS = 8
RUN_S = STEP_S * N_STEPS + 5


def at(seconds: int) -> datetime:
    """Return a moment."""
    return START + timedelta(seconds=seconds)


async def hold_own(leases: Leases, name: str) -> int:
    """Hold for leases of this process only; return how many could be paid."""
    n_held = 0
    for number in range(N_HOLDS):
        try:
            await leases.hold(
                f"ls_{name}_{number}", Payer("ana", name, "physics"), (GPU,), at(0)
            )
        except NotEnough:
            continue
        n_held += 1
    return n_held


async def live_together(leases: Leases, name: str) -> int:
    """Hold, settle and end the same leases as every other process; return 1."""
    ids = [f"ls_{number}" for number in range(N_LEASES)]
    for lease_id in ids:
        payer = Payer("ana", "", "physics" if lease_id < "ls_3" else "")
        await leases.hold(lease_id, payer, (GPU,), at(0))
        await leases.ready(lease_id, at(0))
    for step in range(1, N_STEPS + 1):
        await leases.settle(dict.fromkeys(ids, at(step * STEP_S)))
    end = End(Ending.USED, at(RUN_S), "by all")
    broke = End(Ending.BROKE, at(RUN_S), "by all", at(1000))
    for lease_id in ids:
        this = broke if lease_id in {"ls_1", "ls_4"} else end
        await leases.end(lease_id, this, now=at(RUN_S))
    return 1


async def settle_for_ever(leases: Leases, name: str) -> int:
    """Settle the leases that are open, a minute of theirs at a time, until killed."""
    print("settling", flush=True)
    minute = 0
    while True:
        minute += 1
        running = dict.fromkeys(await leases.open(), at(minute * 60))
        await leases.settle(running)
        await leases.hold(f"ls_cpu_{minute}", Payer("ana"), (CPU,), at(minute * 60))
        print(minute, flush=True)


TASKS: dict[str, Callable[[Leases, str], Awaitable[int]]] = {
    "hold_own": hold_own,
    "live_together": live_together,
    "settle_for_ever": settle_for_ever,
}


async def main(url: str, task: str, name: str) -> None:
    """Do a task when a line comes in."""
    db = Database.open(url)
    leases = Leases(db, Policy())
    await leases.open()
    print("ready", flush=True)
    sys.stdin.readline()
    print(await TASKS[task](leases, name), flush=True)
    await db.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
