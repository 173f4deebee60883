"""A process of its own that works on a ledger: `python worker.py URL TASK [ARGUMENT]`.

It says when it is ready and begins when it is told, so that several begin together. At
its end it prints how often it got what it wanted.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from torchroom.ledger.codes import RANDOM_BYTES, code_of
from torchroom.ledger.database import Database
from torchroom.ledger.errors import NotEnough, OverBudget, VoucherRefused
from torchroom.ledger.model import CPU, MICRO, Ending, Payer
from torchroom.ledger.planning import End
from torchroom.ledger.policy import Policy
from torchroom.ledger.service import Ledger

START = datetime(2026, 3, 2, 9, tzinfo=UTC)
GPU = "A100"
N_HOLDS = 12
N_LEASES = 6
STEP_S = 317
N_STEPS = 8
RUN_S = STEP_S * N_STEPS + 5
N_GIFTS = 5
STUDENTS = [f"student{number}" for number in range(N_GIFTS)]
CODES = [code_of(number.to_bytes(RANDOM_BYTES)) for number in range(N_GIFTS)]


def at(seconds: int) -> datetime:
    """Return a moment."""
    return START + timedelta(seconds=seconds)


async def hold_own(ledger: Ledger, name: str) -> int:
    """Hold for leases of this process only; return how many could be paid."""
    leases, n_held = ledger.leases, 0
    for number in range(N_HOLDS):
        try:
            await leases.hold(
                f"ls_{name}_{number}", Payer("ana", name, "physics"), (GPU,), at(0)
            )
        except NotEnough:
            continue
        n_held += 1
    return n_held


async def live_together(ledger: Ledger, name: str) -> int:
    """Hold, settle and end the same leases as every other process; return 1."""
    leases = ledger.leases
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


async def give_together(ledger: Ledger, name: str) -> int:
    """Ask for the same gifts, fees and returns as every other process.

    Each voucher is redeemed for a user of this process. Returns what was new.
    """
    n_new = 0
    for number, student in enumerate(STUDENTS):
        asked = {"key": f"ask-{number}", "actor": "ivy", "at": at(0)}
        n_new += await ledger.grants.welcome(student, MICRO, at=at(0))
        for do in (
            partial(ledger.grants.grant, student, 5 * MICRO),
            partial(ledger.grants.take_back, student, 2 * MICRO),
            partial(ledger.courses.budget, "physics", MICRO),
            partial(ledger.courses.hand_out, "physics", student, 3 * MICRO),
            partial(ledger.courses.give_back, "physics", student, MICRO),
        ):
            asked["key"] = f"{do.func.__name__}-{number}"
            n_new += (await do(**asked)).is_new
        paid = await ledger.fees.charge(
            student, "", MICRO, key=f"{number}", at=at(0), actor=student, why="More."
        )
        n_new += paid.is_new
        given = await ledger.allowances.apply({"physics": STUDENTS}, at(0))
        n_new += given.n_given
        try:
            await ledger.vouchers.redeem(
                f"{name}-{number}", CODES[number], key="mine", at=at(0)
            )
        except VoucherRefused:
            continue
        n_new += 1
    return n_new


async def hand_out_own(ledger: Ledger, name: str) -> int:
    """Hand tokens of the course out, each time anew; return how often it had some."""
    n_given = 0
    for number in range(N_HOLDS):
        try:
            await ledger.courses.hand_out(
                "physics", "ana", MICRO, key=f"{name}-{number}", actor="ivy", at=at(0)
            )
        except OverBudget:
            continue
        n_given += 1
    return n_given


async def settle_for_ever(ledger: Ledger, name: str) -> int:
    """Settle the leases that are open, a minute of theirs at a time, until killed."""
    leases = ledger.leases
    print("settling", flush=True)
    minute = 0
    while True:
        minute += 1
        running = dict.fromkeys(await leases.open(), at(minute * 60))
        await leases.settle(running)
        await leases.hold(f"ls_cpu_{minute}", Payer("ana"), (CPU,), at(minute * 60))
        print(minute, flush=True)


TASKS: dict[str, Callable[[Ledger, str], Awaitable[int]]] = {
    "hold_own": hold_own,
    "live_together": live_together,
    "give_together": give_together,
    "hand_out_own": hand_out_own,
    "settle_for_ever": settle_for_ever,
}


async def main(url: str, task: str, name: str) -> None:
    """Do a task when a line comes in."""
    async with Ledger(Database.open(url), Policy()) as ledger:
        await ledger.leases.open()
        print("ready", flush=True)
        sys.stdin.readline()
        print(await TASKS[task](ledger, name), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
