"""A hub that ends cancels everybody who waits; their places must outlive it."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

from gpuspawner.host import Host
from gpuspawner.model import Owner, SlotRequest
from gpuspawner.tickets import Ticket
from unit.machine import Machine

N_STEPS = 30


async def steps() -> None:
    """Let every task go as far as it can."""
    for _ in range(N_STEPS):
        await asyncio.sleep(0)


async def ask(host: Host, name: str) -> None:
    """Start a server on all GPUs, as far as the queue goes."""
    ticket = Ticket(f"ls_{name}", Owner(name, ""), SlotRequest(2), datetime.now(UTC))
    await host.room.lease(ticket, lambda _place: None, lambda: False)


def hub(folder: Path) -> Machine:
    """A machine whose hub lets servers wait and keeps its queue in this folder."""
    return Machine(folder, queue_timeout_s=3600.0)


async def wait_kept(folder: Path, *names: str) -> None:
    """Wait until a hub that comes next finds these waiting."""
    async with asyncio.timeout(30):
        while kept(folder) != [*names]:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)


def kept(folder: Path) -> list[str]:
    """Who waits in a hub that comes next."""
    tickets = hub(folder).host.pool.queue.tickets
    return [ticket.owner.user for ticket in tickets]


async def two_wait(folder: Path) -> list[asyncio.Task[None]]:
    """Ann has the GPUs; Bob and Cat wait for them."""
    machine = hub(folder)
    await machine.settle()
    machine.host.begin()
    machine.lease("ann", 2)
    tasks = [asyncio.create_task(ask(machine.host, name)) for name in ("bob", "cat")]
    await wait_kept(folder, "bob", "cat")
    return tasks


async def end_hub() -> None:
    """Cancel every task and wait for them, as JupyterHub does at its end."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    async with asyncio.timeout(30):
        await asyncio.wait(others)
    await steps()


def test_places_outlive_a_hub_that_ends_in_order(tmp_path: Path) -> None:
    """JupyterHub cancels every task at its end, those of the queue among them."""

    async def go() -> None:
        await two_wait(tmp_path)
        await end_hub()

    asyncio.run(go())
    assert kept(tmp_path) == ["bob", "cat"]


def test_a_place_does_not_outlive_who_left_it(tmp_path: Path) -> None:
    """One who cancels while the hub goes on is gone for good."""

    async def go() -> None:
        bob, _cat = await two_wait(tmp_path)
        bob.cancel()
        await wait_kept(tmp_path, "cat")

    asyncio.run(go())


def test_a_kick_does_not_keep_a_hub_from_ending(tmp_path: Path) -> None:
    """A start that is cancelled kicks the loops that are cancelled in the same turn."""

    async def go(n_steps: int) -> None:
        machine = hub(tmp_path)
        await machine.settle()
        machine.host.begin()
        await steps()
        machine.host.kick()
        for _ in range(n_steps):
            await asyncio.sleep(0)
        await end_hub()

    for n_steps in range(6):
        asyncio.run(go(n_steps))
