"""Several processes on one ledger at the same time: two hubs by mistake, and worse."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ledger import worker
from ledger.lab import Lab
from sqlalchemy import select
from torchroom.ledger.database import Database
from torchroom.ledger.model import HOLDS, MICRO, Account, Ending, Kind
from torchroom.ledger.periods import Every
from torchroom.ledger.planning import End
from torchroom.ledger.portions import Mode
from torchroom.ledger.service import Ledger
from torchroom.ledger.tables import draws
from torchroom.ledger.vouchers import Vouchers

N_PROCESSES = 3
TIMEOUT_S = 120
HOLD = 600 * MICRO
Process = subprocess.Popen[str]


@contextmanager
def processes(url: str, task: str, n: int = N_PROCESSES) -> Iterator[list[Process]]:
    """Workers that begin together; those that still run at the end are killed."""
    command = [sys.executable, str(Path(worker.__file__)), url, task]
    started = [
        subprocess.Popen(
            [*command, f"p{number}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(n)
    ]
    try:
        for each in started:
            assert line(each) == "ready"
        for each in started:
            assert each.stdin is not None
            each.stdin.write("go\n")
            each.stdin.flush()
        yield started
    finally:
        for each in started:
            each.kill()
            each.communicate()


def line(process: Process) -> str:
    """Return the next line that a worker prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def results(started: list[Process]) -> list[int]:
    """Return what all workers report, which have ended well."""
    answers = []
    for each in started:
        out, errors = each.communicate(timeout=TIMEOUT_S)
        assert each.returncode == 0, errors
        answers.append(int(out))
    return answers


@pytest.fixture
async def lab(db: Database) -> Lab:
    """A ledger with prices and a course."""
    return await Lab(db).set_up()


async def test_the_last_tokens_are_spent_once(lab: Lab, url: str) -> None:
    """Whoever comes first; the others are refused, and nothing is lost."""
    await lab.endow("physics", 10 * HOLD + 5)
    await lab.give(4 * HOLD + 5)
    with processes(url, "hold_own") as started:
        held = results(started)
    assert sum(held) == 14
    assert await lab.balance(HOLDS) == 14 * HOLD
    assert await lab.has() == 10
    await lab.check()


async def test_a_cap_holds_for_servers_that_start_together(lab: Lab, url: str) -> None:
    """A student's part of the course is drawn once, in however many processes."""
    await lab.endow("physics", 1000 * HOLD, student_cap=7 * HOLD + 5)
    with processes(url, "hold_own") as started:
        held = results(started)
    assert sum(held) == 7
    async with lab.db.read() as conn:
        assert await conn.scalar(select(draws.c.amount)) == 7 * HOLD
    await lab.check()


async def test_what_several_ask_for_at_once_is_done_once(lab: Lab, url: str) -> None:
    """The same grant, fee, portion or voucher, from the hub and the console."""
    n = worker.N_GIFTS
    await lab.endow("physics", 100 * MICRO)
    ledger = Ledger(lab.db, lab.policy)
    await ledger.allowances.define(
        "physics",
        every=Every.WEEKLY,
        mode=Mode.ADD,
        amount=7 * MICRO,
        time_zone="UTC",
        actor="ada",
        at=worker.at(0),
    )
    numbers = (each for i in range(n) for each in (b"%08d" % i, i.to_bytes(10)))
    vouchers = Vouchers(lab.db, lambda _: next(numbers))
    for _ in range(n):
        await vouchers.create(1, MICRO, actor="ada", at=worker.at(0))
    with processes(url, "give_together") as started:
        assert sum(results(started)) == 9 * n
    for student in worker.STUDENTS:
        assert await lab.has(student) == (1 + 5 - 2 - 1) * MICRO
        own = Account(Kind.USER, student, "physics")
        assert await lab.balance(own) == (3 - 1 + 7) * MICRO
    course = Account(Kind.COURSE, "physics")
    assert await lab.balance(course) == (100 + n * (1 - 3 + 1 - 7)) * MICRO
    redeemed = [each.redeemed_by for each in (await vouchers.list()).items]
    assert sum([await lab.has(user) for user in redeemed]) == n * MICRO
    await lab.check()


async def test_the_last_of_a_budget_is_handed_out_once(lab: Lab, url: str) -> None:
    """Within the cap, too: what was drawn is counted for all processes together."""
    await lab.endow("physics", 20 * MICRO, student_cap=14 * MICRO)
    with processes(url, "hand_out_own") as started:
        assert sum(results(started)) == 14
    assert await lab.balance(Account(Kind.USER, "ana", "physics")) == 14 * MICRO
    assert await lab.balance(Account(Kind.COURSE, "physics")) == 6 * MICRO
    await lab.check()


async def test_hubs_that_do_the_same_at_once_charge_once(lab: Lab, url: str) -> None:
    """Each lease costs its seconds, however many hold, settle and end it."""
    await lab.endow("physics", 1000 * HOLD)
    await lab.give(3 * HOLD + 2000 * MICRO)
    with processes(url, "live_together") as started:
        assert results(started) == [1] * N_PROCESSES
    for number in range(worker.N_LEASES):
        seconds = 1000 if number in {1, 4} else worker.RUN_S
        assert await lab.charged(f"ls_{number}") == (seconds * MICRO, seconds)
    assert await lab.leases.open() == {}
    assert await lab.balance(HOLDS) == 0
    await lab.check()


async def test_a_hub_that_is_killed_leaves_a_ledger_that_is_right(
    lab: Lab, url: str
) -> None:
    """At any moment: what it had begun is whole or not there, and the next one goes on.

    It settles as fast as it can while it is killed.
    """
    await lab.give(10**15)
    for number in range(20):
        await lab.start(f"ls_{number}")
    for n_minutes in (7, 8, 9):
        with processes(url, "settle_for_ever", 1) as (process,):
            assert line(process) == "settling"
            last = [line(process) for _ in range(n_minutes)][-1]
            process.kill()
        await lab.check()
        assert int(last) >= n_minutes
    end = End(Ending.USED, worker.at(100_000), "the term is over")
    for number in range(20):
        await lab.leases.end(f"ls_{number}", end, now=worker.at(100_001))
        assert await lab.charged(f"ls_{number}") == (10**11, 100_000)
    await lab.check()
