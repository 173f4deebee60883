"""I4 and I5 at the plugin's side: the meter learns of every end, to the second.

The meter is one in memory that keeps the port's promises; the engine and the machine's
clocks are in memory, too. A hub that is killed is one whose tasks end and of which only
the files are left; JupyterHub's part is whether it still claims the lease.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from gpuspawner import asking, closing, exits, metering
from gpuspawner.endings import Endings
from gpuspawner.errors import (
    EngineRefused,
    EngineUnknown,
    InvalidSelection,
    MeterFailed,
    NotPayable,
)
from gpuspawner.exits import Exit
from gpuspawner.looking import facts_of
from gpuspawner.model import Lease, LeaseEnd, Owner, Payer, SlotKind, SlotRequest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from unit.machine import HUB
from unit.metered import Metered, until
from unit.meters import HOUR_S, PRICES, START, TOKEN, Clocks

RATE = PRICES["A100"]
PER_S = RATE // HOUR_S
ANN = Payer(Owner("ann", ""))
GONE_AT = "died_at"


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Metered]:
    """Two GPUs, read once."""
    made = Metered(tmp_path)
    await made.settle()
    yield made
    made.end()


# -- every way a lease ends ----------------------------------------------------------


async def test_a_server_its_user_stops_is_charged_from_ready_to_the_containers_end(
    machine: Metered,
) -> None:
    lease = await machine.running()
    machine.clocks.pass_s(100)
    await machine.stop(lease)
    machine.clocks.pass_s(50)
    await machine.pass_()
    assert machine.paid_s(lease) == 100
    assert machine.meter.charged("ann") == 100 * PER_S
    assert machine.reason(lease) == "stopped"


async def test_a_server_that_ended_by_itself_is_charged_until_then(
    machine: Metered,
) -> None:
    """Not until somebody looked."""
    lease = await machine.running()
    machine.clocks.pass_s(90)
    machine.exit_now(lease, code=3)
    machine.clocks.pass_s(HOUR_S)
    found = machine.engine.containers[f"id-{lease.id}"]
    await machine.stop(lease, exits.describe(found, 0))
    assert machine.paid_s(lease) == 90
    assert machine.reason(lease) == "crashed"


async def test_a_server_that_lives_shorter_than_a_pass_is_charged_exactly(
    machine: Metered,
) -> None:
    lease = await machine.running()
    machine.clocks.pass_s(3)
    await machine.stop(lease)
    assert machine.paid_s(lease) == 3


async def test_an_evicted_server_ends_for_the_reason_it_was_evicted_for(
    machine: Metered,
) -> None:
    lease = await machine.running()
    machine.clocks.pass_s(60)
    machine.host.evict(lease.id, Exit("gpu_memory", "It took too much."))
    await until(lambda: lease.id not in machine.host.pool.leases)
    assert machine.paid_s(lease) == 60
    assert machine.reason(lease) == "gpu_memory"


async def test_after_the_gpu_broke_nothing_is_charged(machine: Metered) -> None:
    lease = await machine.running()
    machine.clocks.pass_s(60)
    broke_at = machine.clocks.wall
    machine.clocks.pass_s(40)
    await machine.pass_()
    ended = Exit("gpu_broke", "The GPU broke.", "", True, broke_at.isoformat())
    machine.host.evict(lease.id, ended)
    await machine.stop(lease)  # its user is faster: it ends for the GPU all the same
    assert machine.paid_s(lease) == 60
    assert machine.reason(lease) == "gpu_broke"


async def test_a_container_removed_by_hand_ends_when_the_engine_says(
    machine: Metered,
) -> None:
    """It is gone, but the engine remembers."""
    lease = await machine.running()
    machine.clocks.pass_s(77)
    machine.remove_by_hand(lease)
    machine.clocks.pass_s(500)
    await machine.host.reconcile()
    await machine.rest()
    assert machine.paid_s(lease) == 77
    assert machine.reason(lease) == "removed"
    labels = {"gpuspawner.hub": HUB, "gpuspawner.lease": lease.id}
    assert machine.engine.named(GONE_AT) == [(GONE_AT, labels)]


@pytest.mark.parametrize("settle_every_s", [0, 300])
async def test_if_the_engine_forgot_it_ended_when_it_was_last_seen_running(
    machine: Metered, settle_every_s: float
) -> None:
    """Nothing is guessed, and what is known counts before the ledger settles it."""
    machine.meter.settle_every_s = settle_every_s
    lease = await machine.running()
    machine.clocks.pass_s(60)
    await machine.pass_()
    machine.clocks.pass_s(17)
    machine.remove_by_hand(lease, remembered=False)
    machine.clocks.pass_s(500)
    await machine.pass_()
    assert machine.paid_s(lease) == 60


async def test_an_engine_that_does_not_answer_is_asked_again(machine: Metered) -> None:
    """What is unknown now may be known later, to the second."""
    lease = await machine.running()
    machine.clocks.pass_s(77)
    machine.remove_by_hand(lease)
    await machine.host.reconcile()
    machine.engine.is_down = True
    await machine.rest()
    assert machine.reason(lease) == "open"
    assert lease.id not in machine.host.pool.leases
    with pytest.raises(EngineUnknown):
        await machine.host.metering.once()
    machine.engine.is_down = False
    machine.clocks.pass_s(60)
    await machine.pass_()
    assert machine.paid_s(lease) == 77


async def test_an_engine_that_keeps_no_events_ends_a_lease_all_the_same(
    machine: Metered, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(_: object) -> None:
        raise EngineRefused("no such endpoint", 404)

    monkeypatch.setattr(machine.engine, "died_at", refuse)
    lease = await machine.running()
    machine.clocks.pass_s(60)
    await machine.pass_()
    machine.remove_by_hand(lease)
    await machine.pass_()
    assert machine.paid_s(lease) == 60


async def test_a_container_removed_while_the_hub_was_down_ends_when_the_engine_says(
    machine: Metered,
) -> None:
    lease = await machine.running()
    machine.clocks.pass_s(60)
    machine.crash()
    machine.clocks.pass_s(40)
    machine.remove_by_hand(lease)
    machine.clocks.pass_s(HOUR_S)
    await machine.come_back(lease)
    await machine.pass_()
    assert machine.paid_s(lease) == 100


async def test_a_server_that_ended_while_the_hub_was_down_is_charged_until_then(
    machine: Metered,
) -> None:
    lease = await machine.running()
    machine.clocks.pass_s(60)
    await machine.pass_()
    machine.crash()
    machine.clocks.pass_s(HOUR_S)
    machine.exit_now(lease)
    machine.clocks.pass_s(HOUR_S)
    await machine.come_back(lease)
    await machine.pass_()
    assert machine.paid_s(lease) == 60  # it does not run: nobody settles on
    await machine.stop(lease)
    assert machine.paid_s(lease) == 60 + HOUR_S


async def test_a_server_that_went_on_while_the_hub_was_down_is_charged_for_it(
    machine: Metered,
) -> None:
    lease = await machine.running()
    machine.crash()
    machine.clocks.pass_s(HOUR_S)
    await machine.come_back(lease)
    await machine.pass_()
    assert machine.paid_s(lease) == HOUR_S
    machine.clocks.pass_s(5)
    await machine.stop(lease)
    assert machine.paid_s(lease) == HOUR_S + 5


async def test_the_night_in_which_the_machine_was_down_is_not_charged(
    machine: Metered,
) -> None:
    """The engine dates the end of what was running then by its own start."""
    lease = await machine.running()
    machine.clocks.pass_s(60)
    await machine.pass_()
    machine.crash()
    machine.clocks.reboot(12 * HOUR_S)
    machine.clocks.pass_s(30)
    machine.exit_now(lease, code=255)
    await machine.come_back(lease)
    await machine.stop(lease)
    assert machine.paid_s(lease) == 60


# -- what is never charged -----------------------------------------------------------


@pytest.mark.parametrize("stage", ["held", "booting", "running"])
async def test_a_failed_start_costs_nothing(machine: Metered, stage: str) -> None:
    """Also one that fails when the meter already runs."""
    lease = await getattr(machine, stage)()
    machine.clocks.pass_s(120)
    await machine.stop(lease, exits.NOT_STARTED)
    assert machine.meter.charged("ann") == 0
    assert machine.reason(lease) == "not_started"


@pytest.mark.parametrize("stage", ["held", "booting", "running"])
async def test_a_start_that_is_cancelled_costs_nothing(
    machine: Metered, stage: str
) -> None:
    """JupyterHub waits for nothing: the host ends the lease in the background."""
    lease = await getattr(machine, stage)()
    machine.host.metering.decide(lease.id, exits.NOT_STARTED)
    machine.host.claims.discard(lease.id)
    machine.host.pool.end(lease.id)
    machine.host.kick()
    machine.clocks.pass_s(120)
    await until(lambda: machine.reason(lease) != "open")
    await until(lambda: lease.id not in machine.host.pool.leases)
    assert machine.meter.charged("ann") == 0
    assert machine.reason(lease) == "not_started"


@pytest.mark.parametrize("stage", ["held", "booting", "running"])
async def test_a_start_in_which_the_hub_was_killed_costs_nothing(
    machine: Metered, stage: str
) -> None:
    """JupyterHub had not kept the server, so nobody claims what is left of it."""
    lease = await getattr(machine, stage)()
    machine.crash()
    machine.clocks.pass_s(HOUR_S)
    await machine.come_back()
    await machine.pass_()
    await machine.pass_()
    assert not machine.engine.containers
    assert machine.meter.charged("ann") == 0
    assert machine.reason(lease) in exits.FAILED_STARTS


async def test_a_gpu_that_breaks_during_a_start_costs_nothing(
    machine: Metered,
) -> None:
    """It never came up, whatever else is said of it."""
    lease = await machine.booting()
    await machine.host.metering.ready(lease.id)
    machine.clocks.pass_s(60)
    broke_at = machine.clocks.wall.isoformat()
    broke = Exit("gpu_broke", "The GPU broke.", "", True, broke_at)
    machine.host.evict(lease.id, broke)
    await machine.stop(lease, exits.NOT_STARTED)
    assert machine.meter.charged("ann") == 0


async def test_a_server_that_runs_on_after_its_end_is_not_charged(
    machine: Metered,
) -> None:
    """A pass settles only what is meant to run."""
    lease = await machine.running()
    machine.clocks.pass_s(60)
    machine.engine.gate.clear()
    machine.host.evict(lease.id, Exit("gpu_memory", "It took too much."))
    machine.clocks.pass_s(60)
    await machine.host.metering.once()
    assert machine.paid_s(lease) == 0
    machine.engine.gate.set()
    await until(lambda: lease.id not in machine.host.pool.leases)


# -- a meter that fails --------------------------------------------------------------


async def test_an_end_that_the_meter_does_not_take_is_kept_and_the_gpu_is_free(
    machine: Metered,
) -> None:
    lease = await machine.running()
    machine.clocks.pass_s(100)
    machine.meter.fail("end")
    await machine.stop(lease)
    assert not machine.engine.containers
    assert lease.id not in machine.host.pool.leases
    assert machine.kept["ends"].keys() == {lease.id}
    machine.clocks.pass_s(HOUR_S)
    machine.meter.fail()
    await machine.pass_()
    assert machine.paid_s(lease) == 100
    await until(lambda: not machine.kept["ends"])


async def test_an_end_that_was_kept_outlives_the_hub(machine: Metered) -> None:
    lease = await machine.running()
    machine.clocks.pass_s(100)
    machine.meter.fail("end")
    await machine.stop(lease)
    machine.crash()
    machine.clocks.pass_s(HOUR_S)
    machine.meter.fail()
    await machine.come_back()
    await machine.pass_()
    assert machine.paid_s(lease) == 100
    assert machine.reason(lease) == "stopped"


@pytest.mark.parametrize("how", ["fails", "hangs", "has a bug"])
async def test_a_hub_that_has_just_started_ends_leases_without_its_meter(
    machine: Metered, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """What it cannot ask now, it settles later; the GPU is free at once."""
    monkeypatch.setattr(closing, "END_WAIT_S", 0.02)
    lease = await machine.running()
    machine.clocks.pass_s(60)
    machine.crash()
    await machine.come_back(lease)

    async def hang() -> None:
        if how == "fails":
            raise MeterFailed("The ledger does not answer.")
        if how == "has a bug":
            raise ZeroDivisionError("a bug")
        await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr(machine.meter, "open_leases", hang)
        await machine.stop(lease)
    assert lease.id not in machine.host.pool.leases
    assert machine.paid_s(lease) == 60


async def test_an_end_whose_answer_was_lost_is_told_again_and_counts_once(
    machine: Metered,
) -> None:
    lease = await machine.running()
    machine.clocks.pass_s(100)
    machine.meter.fail("end", lose_answer=True)
    await machine.stop(lease)
    machine.meter.fail()
    machine.clocks.pass_s(100)
    await machine.pass_()
    assert machine.meter.named("end") == [lease.id, lease.id]
    assert machine.paid_s(lease) == 100


async def test_a_meter_that_hangs_holds_up_no_stop(
    machine: Metered, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end is on the disk; the call goes on and counts."""
    monkeypatch.setattr(closing, "END_WAIT_S", 0.02)
    gate, take = asyncio.Event(), machine.meter.end

    async def hang(*args: Any) -> None:
        await gate.wait()
        await take(*args)

    monkeypatch.setattr(machine.meter, "end", hang)
    lease = await machine.running()
    machine.clocks.pass_s(100)
    await machine.stop(lease)
    assert not machine.engine.containers
    assert lease.id in machine.kept["ends"]
    gate.set()
    await until(lambda: machine.reason(lease) != "open")
    assert machine.paid_s(lease) == 100


async def test_a_meter_that_hangs_is_not_waited_for_again_and_again(
    machine: Metered, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One end that is under way tells enough about the others."""
    monkeypatch.setattr(closing, "END_WAIT_S", 0.02)
    begun = []

    async def hang(lease_id: str, _: object) -> None:
        begun.append(lease_id)
        await asyncio.Event().wait()

    leases = [await machine.running("ann"), await machine.running("bob")]
    machine.meter.fail("end")
    for lease in leases:
        await machine.stop(lease)
    monkeypatch.setattr(machine.meter, "end", hang)
    await machine.host.metering.once()
    await machine.host.metering.once()
    assert begun == [leases[0].id]


async def test_a_bug_in_a_meter_keeps_no_gpu_from_the_next_user(
    machine: Metered, caplog: pytest.LogCaptureFixture
) -> None:
    def bug(method: str) -> None:
        if method == "end":
            raise ZeroDivisionError("a bug")

    lease = await machine.running()
    machine.meter.before = bug
    await machine.stop(lease)
    assert lease.id not in machine.host.pool.leases
    assert lease.id in machine.kept["ends"]
    assert "a bug" in caplog.text


async def test_passes_that_fail_cost_nobody_anything(machine: Metered) -> None:
    lease = await machine.running()
    for method in ("open_leases", "settle"):
        machine.meter.fail(method)
        machine.clocks.pass_s(60)
        with pytest.raises(MeterFailed):
            await machine.host.metering.once()
    machine.meter.fail()
    machine.clocks.pass_s(60)
    await machine.pass_()
    assert machine.paid_s(lease) == 180


async def test_an_engine_that_does_not_answer_charges_nobody(
    machine: Metered,
) -> None:
    """I7: unknown is not running, and it is not stopped."""
    lease = await machine.running()
    machine.clocks.pass_s(60)
    machine.engine.is_down = True
    with pytest.raises(EngineUnknown):
        await machine.host.metering.once()
    assert machine.paid_s(lease) == 0
    assert machine.reason(lease) == "open"


@pytest.mark.parametrize("lose_answer", [False, True])
async def test_a_hold_that_fails_leaves_nothing_reserved(
    machine: Metered,
    lose_answer: bool,
) -> None:
    """The ledger may have kept it although it did not say so."""
    lease = machine.lease("ann")
    machine.meter.fail("hold", lose_answer=lose_answer)
    with pytest.raises(MeterFailed):
        await machine.host.metering.hold(lease, ANN)
    await machine.stop(lease, exits.NOT_STARTED)
    machine.meter.fail()
    await machine.pass_()
    assert not await machine.meter.open_leases()


async def test_a_hold_that_counts_only_after_its_start_was_cancelled_is_ended(
    machine: Metered,
) -> None:
    """The database was slow; the start is long gone."""
    lease = machine.lease("ann")
    await machine.stop(lease, exits.NOT_STARTED)
    await machine.meter.hold(lease, ANN, machine.clocks.wall)
    await machine.pass_()
    assert machine.reason(lease) == "not_started"


async def test_a_start_under_way_is_left_alone(machine: Metered) -> None:
    """It has a lease and no container yet."""
    lease = await machine.held()
    await machine.pass_()
    assert machine.reason(lease) == "open"


async def test_nothing_is_ended_before_the_containers_are_known(
    machine: Metered, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hub that has just started knows nobody; it looks again soon."""
    lease = await machine.running()
    machine.crash()
    machine.restart()
    looks: list[float] = []
    monkeypatch.setattr(machine.host.metering, "_look_in", looks.append)
    await machine.host.metering.once()
    assert machine.reason(lease) == "open"
    assert looks == [1.0]


async def test_a_lease_that_only_a_container_knows_is_left_to_the_host(
    machine: Metered,
) -> None:
    """It is found and ended with its container, when that has stopped."""
    lease = await machine.running()
    machine.host.pool.release(lease.id, machine.clocks.wall)
    machine.clocks.pass_s(60)
    await machine.host.metering.once()
    assert machine.reason(lease) == "open"


@pytest.mark.parametrize("method", ["open_leases", "settle"])
async def test_a_pass_does_not_wait_for_a_meter_that_hangs(
    machine: Metered, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Not even for its driver, which waits for the database although cancelled."""
    monkeypatch.setattr(asking, "METER_WAIT_S", 0.02)
    lease = await machine.running()
    machine.clocks.pass_s(60)
    gate = asyncio.Event()

    async def hang(*_: object) -> None:
        try:
            await gate.wait()
        finally:
            await gate.wait()

    with monkeypatch.context() as patch:
        patch.setattr(machine.meter, method, hang)
        with pytest.raises(MeterFailed, match=r"not answer within 0\.02 seconds\."):
            await machine.host.metering.once()
    gate.set()
    await machine.pass_()
    assert machine.paid_s(lease) == 60


@pytest.mark.parametrize("method", ["courses", "quote", "statement"])
async def test_nobody_waits_for_a_meter_that_hangs(
    machine: Metered, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """The form says so instead, and a start is refused."""
    monkeypatch.setattr(asking, "METER_WAIT_S", 0.02)
    lease = await machine.running()

    async def hang(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(machine.meter, method, hang)
    own = machine.host.metering
    asks: dict[str, Callable[[], Awaitable[object]]] = {
        "courses": lambda: own.payer(lease.owner, ["cv"], "cv"),
        "quote": lambda: own.check(ANN, SlotRequest(1)),
        "statement": lambda: own.statement(lease, ANN),
    }
    with pytest.raises(MeterFailed):
        await asks[method]()


async def test_an_end_whose_call_hangs_is_told_again(
    machine: Metered, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that is dead answers never."""
    monkeypatch.setattr(closing, "END_WAIT_S", 0.02)
    monkeypatch.setattr(asking, "METER_WAIT_S", 0.1)
    lease = await machine.running()
    machine.clocks.pass_s(100)

    async def hang(*_: object) -> None:
        await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr(machine.meter, "end", hang)
        await machine.stop(lease)
        await until(lambda: not machine.host.metering.closing._sending)
    await machine.pass_()
    assert machine.paid_s(lease) == 100


async def test_leases_that_are_lost_hold_up_no_pass_and_are_ended_once(
    machine: Metered, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few at once, however long the engine takes to say when each ended."""
    gate, asked = asyncio.Event(), []
    take = machine.engine.died_at

    async def hang(labels: Any) -> Any:
        asked.append(labels["gpuspawner.lease"])
        await gate.wait()
        return await take(labels)

    monkeypatch.setattr(machine.engine, "died_at", hang)
    lost = []
    for i in range(closing.N_LOST + 3):
        lease = Lease(f"ls_{i}", ANN.owner, ())
        await machine.host.metering.hold(lease, ANN)
        await machine.host.metering.ready(lease.id)
        lost.append(lease)
    await machine.host.metering.once()
    await machine.host.metering.once()
    await until(lambda: len(asked) == closing.N_LOST)
    await machine.host.metering.once()
    gate.set()
    await machine.rest()
    assert sorted(asked) == [lease.id for lease in lost]
    assert [machine.reason(lease) for lease in lost] == ["removed"] * len(lost)


# -- kill -9 between any two steps ---------------------------------------------------

STEPS = ["inspect", "run_check", "stop", "died_at", "remove"]
TELLINGS = ["end"]


class Killed(BaseException):
    """The hub ends here."""


def kill_at(machine: Metered, step: str, *, after: bool) -> None:
    """Let the hub die before or after this step."""

    def die(method: str) -> None:
        if method == step:
            raise Killed

    if step in TELLINGS:
        machine.meter.before, machine.meter.after = (
            (lambda _: None, die) if after else (die, lambda _: None)
        )
        return
    work = getattr(machine.engine, step)

    async def doomed(*args: Any, **kwargs: Any) -> Any:
        if after:
            await work(*args, **kwargs)
        setattr(machine.engine, step, work)
        raise Killed

    setattr(machine.engine, step, doomed)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", [*STEPS, *TELLINGS])
@pytest.mark.parametrize("claimed", [False, True])
async def test_a_hub_killed_at_any_step_of_a_stop_loses_no_end(
    machine: Metered,
    step: str,
    after: bool,
    claimed: bool,
) -> None:
    """Charged until the container stopped, once, whoever looks after it then.

    JupyterHub forgets a server only after its stop, so an unclaimed one has an end that
    was decided: it is not taken for a failed start.
    """
    lease = await machine.running()
    machine.clocks.pass_s(100)
    machine.host.metering.decide(lease.id, exits.ON_REQUEST)
    await until(lambda: lease.id in machine.kept.get("why", {}))
    kill_at(machine, step, after=after)
    try:
        await machine.stop(lease)
    except Killed:
        machine.crash()
        machine.meter.fail()
        await machine.come_back(*([lease] if claimed else []))
    still_runs = any(x.is_running for x in machine.engine.containers.values())
    machine.clocks.pass_s(60 if not still_runs else 0)
    await machine.pass_()
    if claimed and machine.engine.containers:
        await machine.stop(lease)
    await machine.pass_()
    assert not machine.engine.containers
    assert machine.paid_s(lease) == 100
    assert machine.reason(lease) == "stopped"


@pytest.mark.parametrize(
    "why",
    [
        exits.ON_REQUEST,
        exits.NOT_STARTED,
        Exit("gpu_broke", "The GPU broke.", "", True, START.isoformat()),
    ],
)
async def test_what_a_killed_hub_meant_to_end_and_goes_on_ends_for_a_new_reason(
    machine: Metered, why: Exit
) -> None:
    """Hours later the old one is not true any more."""
    lease = await machine.running()
    machine.host.metering.decide(lease.id, why)
    await until(lambda: lease.id in machine.kept.get("why", {}))
    machine.crash()
    await machine.come_back(lease)
    machine.clocks.pass_s(HOUR_S)
    machine.exit_now(lease, code=3)
    found = machine.engine.containers[f"id-{lease.id}"]
    await machine.host.reconcile()
    await machine.stop(lease, exits.describe(found, 0))
    assert machine.paid_s(lease) == HOUR_S
    assert machine.reason(lease) == "crashed"


@pytest.mark.parametrize("claimed", [False, True])
async def test_what_a_killed_hub_did_end_ended_for_its_reason(
    machine: Metered, claimed: bool
) -> None:
    """Its container has stopped, or nobody wants it."""
    lease = await machine.running()
    broke = Exit(
        "gpu_broke", "The GPU broke.", "", True, machine.clocks.wall.isoformat()
    )
    machine.host.metering.decide(lease.id, broke)
    await until(lambda: lease.id in machine.kept.get("why", {}))
    machine.crash()
    machine.clocks.pass_s(60)
    if claimed:
        machine.exit_now(lease)
    await machine.come_back(*([lease] if claimed else []))
    if claimed:
        await machine.stop(lease)
    await machine.rest()
    assert machine.reason(lease) == "gpu_broke"
    assert machine.paid_s(lease) == 0


@pytest.mark.parametrize("how", ["evicted", "stopped", "stopped before it was read"])
async def test_the_reason_of_an_end_under_way_stays(machine: Metered, how: str) -> None:
    """However often the containers are read meanwhile."""
    lease = await machine.running()
    broke = Exit(
        "gpu_broke", "The GPU broke.", "", True, machine.clocks.wall.isoformat()
    )
    machine.clocks.pass_s(60)
    machine.engine.gate.clear()
    if how == "evicted":
        machine.host.evict(lease.id, broke)
        await until(lambda: machine.engine.named("stop"))
        stop = asyncio.create_task(asyncio.sleep(0))
    else:
        if how == "stopped before it was read":
            machine.crash()
            machine.restart().claims.add(lease.id)
        stop = asyncio.create_task(machine.stop(lease, broke))
        await until(lambda: machine.engine.named("stop"))
    await machine.host.reconcile()
    await machine.host.reconcile()
    machine.engine.gate.set()
    await stop
    await until(lambda: machine.reason(lease) != "open")
    assert machine.reason(lease) == "gpu_broke"
    assert machine.paid_s(lease) == 0


# -- setting the clock ---------------------------------------------------------------


@pytest.mark.parametrize("by_s", [-HOUR_S, HOUR_S])
async def test_a_clock_set_after_an_end_takes_back_nothing_that_was_charged(
    machine: Metered, by_s: int
) -> None:
    """The end cannot be dated exactly then, also not by a hub that has just started."""
    lease = await machine.running()
    machine.clocks.pass_s(60)
    await machine.pass_()
    machine.clocks.pass_s(10)
    machine.exit_now(lease)
    machine.crash()
    machine.clocks.set_wall(by_s)
    machine.clocks.pass_s(20)
    await machine.come_back(lease)
    await machine.stop(lease)
    assert 60 <= machine.paid_s(lease) <= 90


@pytest.mark.parametrize("by_s", [-HOUR_S, HOUR_S])
async def test_setting_the_clock_costs_and_saves_nothing(
    machine: Metered, by_s: int
) -> None:
    lease = await machine.running()
    machine.clocks.pass_s(50)
    machine.clocks.set_wall(by_s)
    machine.clocks.pass_s(50)
    await machine.pass_()
    assert machine.paid_s(lease) == 100
    machine.crash()
    machine.clocks.pass_s(10)
    machine.clocks.set_wall(by_s)
    machine.clocks.pass_s(10)
    await machine.come_back(lease)
    machine.clocks.pass_s(7)
    await machine.stop(lease)
    assert machine.paid_s(lease) == 127


async def test_the_clock_follows_the_machines_only_while_nobody_is_metered(
    machine: Metered,
) -> None:
    clock = machine.host.metering._clock
    lease = await machine.running()
    machine.clocks.set_wall(HOUR_S)
    await machine.pass_()
    assert clock.now() != machine.clocks.wall
    await machine.stop(lease)
    await machine.pass_()
    assert clock.now() == machine.clocks.wall


# -- passes --------------------------------------------------------------------------


async def test_a_user_is_warned_once_and_then_stopped_with_the_reason(
    machine: Metered,
) -> None:
    machine.meter.wallets["ann"] = 10 * TOKEN  # 1000 s
    lease = await machine.running()
    machine.clocks.pass_s(500)
    await machine.pass_()
    await machine.pass_()
    (told,) = machine.host.messages_for(lease.id)
    assert told.endswith("Your tokens run low.")
    machine.clocks.pass_s(480)
    await machine.pass_()
    await until(lambda: not machine.engine.containers)
    ended = machine.host.ending_of(lease.id)
    assert ended
    assert ended.reason == exits.OUT_OF_TOKENS
    assert ended.sentence == "Your last server stopped: your tokens are used up."
    assert machine.reason(lease) == exits.OUT_OF_TOKENS
    assert machine.engine.named("stop") == [("stop", f"id-{lease.id}", 10)]


async def test_the_next_pass_comes_when_something_is_due(
    machine: Metered, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only at the next interval, and never again and again at once."""
    looks: list[float] = []
    monkeypatch.setattr(machine.host.metering, "_look_in", looks.append)
    machine.meter.wallets["ann"] = 7 * TOKEN  # 700 s
    lease = await machine.running()
    assert looks == [10.0]  # a hold may last for seconds only
    machine.clocks.pass_s(650)
    await machine.host.metering.once()
    machine.clocks.pass_s(20)
    await machine.host.metering.once()
    assert looks == [10.0, 20.0, 1.0]
    assert machine.host.pool.leases[lease.id].state == "releasing"


async def test_a_pass_that_is_due_soon_wakes_the_loop(machine: Metered) -> None:
    own = machine.host.metering
    own._look_in(0.01)
    own._look_in(30)  # the earlier one stays
    await until(own.wake.is_set)
    own.wake.clear()
    own._look_in(HOUR_S)  # the interval is sooner anyway
    own._look_in(30)
    own._look_in(0.01)
    await until(own.wake.is_set)


async def test_a_pass_serves_whoever_asked_for_one_soon(machine: Metered) -> None:
    """So that two are never closer than a second: each begins by cancelling that."""
    own = machine.host.metering
    machine.meter.wallets["ann"] = 7 * TOKEN  # 700 s
    await machine.running()
    machine.clocks.pass_s(670)  # something is due at once
    own._look_in(0.5)
    begun_at = asyncio.get_running_loop().time()
    await own.once()
    assert own._alarm
    assert own._alarm.when() >= begun_at + metering.BETWEEN_S


async def test_a_hub_on_which_nothing_is_metered_asks_the_engine_for_nothing(
    machine: Metered,
) -> None:
    machine.server("ann")  # from before there was a meter
    n = len(machine.engine.calls)
    await machine.host.metering.once()
    assert len(machine.engine.calls) == n


async def test_reasons_of_leases_that_are_over_are_forgotten(
    machine: Metered,
) -> None:
    lease = await machine.running()
    await machine.stop(lease)
    machine.host.metering.decide(lease.id, exits.REMOVED)
    await machine.pass_()
    assert machine.host.metering.closing._endings.why == {}


async def test_a_server_of_another_hub_is_nobody_elses_business(
    machine: Metered,
) -> None:
    lease = await machine.running()
    found = machine.engine.containers[f"id-{lease.id}"]
    other = replace(found, id="other", labels=found.labels | {"gpuspawner.hub": "x"})
    machine.engine.containers["other"] = other
    machine.clocks.pass_s(60)
    machine.remove_by_hand(lease)
    machine.clocks.pass_s(60)
    await machine.pass_()
    assert machine.paid_s(lease) == 60


async def test_a_damaged_file_stops_no_hub(
    machine: Metered, caplog: pytest.LogCaptureFixture
) -> None:
    (machine.folder / "gpuspawner-meter.json").write_text('{"ends": {"ls": 7}}')
    machine.restart()
    assert "starting without the ends" in caplog.text


# -- who pays, and what it would cost --------------------------------------------------


async def test_a_course_must_be_the_users_and_one_that_pays(machine: Metered) -> None:
    machine.meter.titles = {"cv": "Computer vision", "nlp": "Language"}
    own = machine.host.metering
    owner = Owner("ann", "")
    assert await own.payer(owner, ["cv", "club"], "cv") == Payer(
        owner, ("cv", "club"), "cv"
    )
    for other in ("nlp", "club", "CV", "cv "):
        with pytest.raises(InvalidSelection, match="Choose one of: cv"):
            await own.payer(owner, ["cv", "club"], other)
    with pytest.raises(InvalidSelection, match="Leave it out"):
        await own.payer(owner, [], "cv")


async def test_without_a_course_the_meter_is_not_asked(machine: Metered) -> None:
    await machine.host.metering.payer(Owner("ann", ""), ["cv"], "")
    assert not machine.meter.named("courses")


async def test_what_cannot_be_paid_is_refused_before_anything_is_leased(
    machine: Metered,
) -> None:
    machine.meter.wallets["ann"] = TOKEN
    with pytest.raises(NotPayable, match="do not suffice"):
        await machine.host.metering.check(ANN, SlotRequest(2))
    await machine.host.metering.check(ANN, SlotRequest(0))


async def test_what_the_machine_has_not_is_left_to_the_pool_to_refuse(
    machine: Metered,
) -> None:
    """Nobody knows a price of what there is not."""
    await machine.host.metering.check(ANN, SlotRequest(1, SlotKind.MIG))
    assert not machine.meter.named("quote")


async def test_prices_of_many_offers_are_one_question_for_each_payer(
    machine: Metered,
) -> None:
    requests = [
        SlotRequest(0),
        SlotRequest(1),
        SlotRequest(2),
        SlotRequest(1, SlotKind.MIG),
    ]
    course = replace(ANN, course="cv")
    tags = await machine.host.metering.quote([course, ANN], requests)
    assert list(map(str, tags)) == [
        "free",
        "36 tokens per hour",
        "72 tokens per hour",
        "",
    ]
    assert len(machine.meter.named("quote")) == 2


# -- any order -----------------------------------------------------------------------

moves = st.lists(
    st.sampled_from(
        ["pass", "time", "meter down", "meter lossy", "meter up", "crash", "set clock"]
    ),
    max_size=12,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(moves, st.sampled_from(["stop", "exit", "by hand"]), moves)
async def test_in_any_order_a_lease_is_charged_for_exactly_what_it_ran(
    tmp_path_factory: pytest.TempPathFactory,
    before: list[str],
    how: str,
    after: list[str],
) -> None:
    """Passes, hubs that die, ledgers that fail, clocks that are set: rate x seconds."""
    machine = Metered(tmp_path_factory.mktemp("any"))
    await machine.settle()
    lease = await machine.running()
    ran_s, is_over = 0, False

    async def go(move: str) -> None:
        nonlocal ran_s
        match move:
            case "time":
                machine.clocks.pass_s(37)
                ran_s += 0 if is_over else 37
            case "pass":
                try:
                    await machine.pass_()
                except MeterFailed:
                    await machine.rest()
            case "meter down":
                machine.meter.fail("settle", "end", "open_leases")
            case "meter lossy":
                machine.meter.fail("settle", "end", lose_answer=True)
            case "meter up":
                machine.meter.fail()
            case "crash":
                machine.crash()
                await machine.come_back(lease)
                await machine.rest()
            case "set clock" if not is_over:
                machine.clocks.set_wall(-1800)

    try:
        for move in before:
            await go(move)
        if how == "by hand":
            machine.remove_by_hand(lease)
        elif how == "exit":
            machine.exit_now(lease)
        else:
            await machine.stop(lease)
        is_over = True
        for move in after:
            await go(move)
        machine.meter.fail()
        await machine.come_back(lease)
        if machine.engine.containers:
            await machine.stop(lease)
        await machine.pass_()
        assert machine.paid_s(lease) == ran_s
        assert not await machine.meter.open_leases()
    finally:
        machine.end()


async def test_when_tokens_run_out_is_what_the_meter_last_said(
    machine: Metered,
) -> None:
    lease = await machine.running()
    assert machine.host.metering.tokens_end == {}
    machine.clocks.pass_s(90)
    await machine.pass_()
    (ends_at,) = machine.host.metering.tokens_end.values()
    settled_to = machine.meter.accounts[lease.id].settled_to
    assert settled_to
    assert (ends_at - settled_to).total_seconds() == 1000 * TOKEN * HOUR_S // RATE - 90
    assert facts_of(machine.host).tokens_end == {lease.id: ends_at}


def test_times_are_whole_in_the_file_of_ends() -> None:
    """What is kept is read back as it was."""
    at = Clocks().wall + timedelta(microseconds=7)
    end = LeaseEnd(at, "gpu_broke", broke_at=at)
    book = Endings({"ls": exits.REMOVED}, {"ls": end})
    again = Endings.from_json(json.loads(json.dumps(book.to_json())))
    assert again == book
