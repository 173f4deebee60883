"""A start counts its time from its turn to boot, and leaves nothing when it fails."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from gpuspawner import asking, metering, starting
from gpuspawner.admission import Admission
from gpuspawner.clock import Clock
from gpuspawner.doorway import Doorway
from gpuspawner.engine import DockerEngine
from gpuspawner.errors import EngineRefused, EngineUnknown, MeterFailed, TooOften
from gpuspawner.exits import Exit
from gpuspawner.metering import Metering
from gpuspawner.model import (
    Container,
    Device,
    LeaseState,
    Limits,
    Offer,
    Owner,
    Payer,
    SlotRequest,
    Terms,
)
from gpuspawner.pacing import Pace, Starts
from gpuspawner.pool import Pool
from gpuspawner.recovery import Plan
from gpuspawner.starting import NEVER_S, StartingSpawner
from gpuspawner.waitingroom import WaitingRoom
from jupyterhub.spawner import SpawnException
from torchroom_welcome.facts import TokenFacts
from torchroom_welcome.tokens import meter_for
from tornado import web
from unit.metered import until
from unit.meters import TOKEN, FakeMeter

LOG = logging.getLogger("test")
GIB = 2**30
NOW = datetime(2026, 3, 2, tzinfo=UTC)
CPU = Offer("cpu", "CPU only", SlotRequest(0), Limits(GIB, GIB, 1.0, 100))
GPU = Offer("1-gpu", "1 GPU", SlotRequest(1), Limits(GIB, GIB, 1.0, 100))


class Engine:
    """Says what the test wants of the container."""

    def __init__(self) -> None:
        self.found: Container | None = None
        self.pull_s = 0.0

    async def facts(self) -> dict[str, Any]:
        return {"n_cpus": 1, "memory_bytes": GIB}

    async def pull(self, image: str) -> AsyncIterator[str]:
        await asyncio.sleep(self.pull_s)
        yield f"pulling {image}"

    async def inspect(self, _name: str) -> Container | None:
        return self.found


class Machine:
    """One GPU behind the parts of `Host` that a start uses."""

    folder: Path

    def __init__(self) -> None:
        self.engine = Engine()
        self.meter = FakeMeter()
        self.meter.wallets |= {"ann": 1000 * TOKEN, "bob": 1000 * TOKEN}
        self.pool = Pool()
        now = datetime.now(UTC)
        self.pool.see([Device(0, "GPU-0", "A100", 40 * GIB, 0)], now)
        self.pool.apply(Plan(), now)
        self.pool.cleaned(list(self.pool.slots))
        self.claims: set[str] = set()
        self.terms: dict[str, Terms] = {}
        self.room = WaitingRoom(self.pool, 3600, lambda: None)
        self.starts = Starts(Pace(20, 600), Pace(3, 1800))
        self.doorway = Doorway()
        self.doorway.admission = Admission(1)
        self.doorway.admission.limit = 1
        self.n_kicks = 0
        self.metering = Metering(
            "test",
            self.meter,
            Clock(self.folder / "clock.json", LOG),
            engine=cast("DockerEngine", self.engine),
            pool=self.pool,
            path=self.folder / "meter.json",
            evict=lambda *_: None,
            tell=lambda *_: None,
            every_s=60.0,
            log=LOG,
        )

    async def ready(self) -> None:
        return

    async def start(self, *_: object) -> None:
        return

    def kick(self) -> None:
        self.n_kicks += 1

    def ending_of(self, _lease_id: str) -> None:
        return

    async def end(self, lease_id: str, _name: str, *, why: Exit, **_: object) -> None:
        self.metering.decide(lease_id, why)
        await self.metering.closing.finished(lease_id)
        self.pool.release(lease_id, datetime.now(UTC))
        self.claims.discard(lease_id)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where machines of a test keep what outlives their hub; no pause is long."""
    monkeypatch.setattr(Machine, "folder", tmp_path, raising=False)
    monkeypatch.setattr(metering, "READY_TRIES_S", 0.05)
    monkeypatch.setattr(metering, "READY_PAUSE_S", 0.01)


class Starting(StartingSpawner):
    """A start whose boot is a wait for `boots`."""

    machine: Machine
    boots: asyncio.Future[None]
    begun = False
    object_name = "container"
    http_timeout: Any = 60  # a trait takes whole seconds only

    @property
    def host(self) -> Any:
        return self.machine

    async def my_offers(self) -> Any:
        return [CPU, GPU]

    async def _prepare(self, *_: object) -> str:
        return "id"

    async def _boot(self, *_: object) -> tuple[str, int]:
        self.begun = True
        await self.boots
        return "127.0.0.1", 8888


def starting_spawner(
    machine: Machine, name: str, offer: str, timeout_s: float
) -> Starting:
    """A spawner of a user as JupyterHub calls it right before `start`."""
    spawner = Starting()
    spawner.machine = machine
    spawner.user = SimpleNamespace(name=name, escaped_name=name, groups=[])
    spawner.hub = SimpleNamespace(base_url="/hub/")
    spawner.db = SimpleNamespace(commit=lambda: None)
    spawner.orm_spawner = SimpleNamespace(user_options={}, name="", server=None)
    spawner.boots = asyncio.get_running_loop().create_future()
    spawner.http_timeout = timeout_s
    spawner._note_choice({"offer": offer})
    spawner._prepare_timeout_s = timeout_s  # type: ignore[assignment]
    return spawner


async def settle() -> None:
    """Let every task go as far as it can."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_time_in_the_doorway_does_not_count() -> None:
    """Held for several times its time-outs, a start still has all of them to boot."""

    async def go() -> None:
        machine = Machine()
        first = starting_spawner(machine, "ann", "cpu", 60)
        second = starting_spawner(machine, "bob", "cpu", 0.05)
        one = asyncio.create_task(first.start())
        await settle()
        other = asyncio.create_task(second.start())
        await asyncio.sleep(0.2)
        assert first.begun
        assert not second.begun
        assert second.start_timeout == NEVER_S  # JupyterHub's counts from the click
        first.boots.set_result(None)
        await one
        await settle()
        second.boots.set_result(None)
        assert await other == ("127.0.0.1", 8888)

    asyncio.run(go())


def test_time_in_the_queue_does_not_count() -> None:
    """Nor does the wait for a GPU."""

    async def go() -> None:
        machine = Machine()
        first = starting_spawner(machine, "ann", "1-gpu", 60)
        second = starting_spawner(machine, "bob", "1-gpu", 0.05)
        first.boots.set_result(None)
        second.boots.set_result(None)
        await first.start()
        other = asyncio.create_task(second.start())
        await asyncio.sleep(0.2)
        assert not second.begun
        machine.pool.release(first.lease_id, datetime.now(UTC))
        machine.pool.cleaned(list(machine.pool.slots))
        machine.room.serve()
        await other
        assert second.lease_id != first.lease_id

    asyncio.run(go())


def test_a_boot_that_takes_too_long_ends_with_a_sentence_and_makes_room() -> None:
    """The time-outs do count from the turn to boot on."""

    async def go() -> None:
        machine = Machine()
        spawner = starting_spawner(machine, "ann", "1-gpu", 0.05)
        with pytest.raises(web.HTTPError, match="did not answer within") as caught:
            await spawner.start()
        assert caught.value.status_code == 503
        assert not machine.pool.leases
        assert not machine.claims
        admission = machine.doorway.admission
        assert admission is not None
        assert not admission.booting

    asyncio.run(go())


def test_a_pull_that_hangs_ends_too() -> None:
    """It holds a GPU meanwhile."""

    async def go() -> None:
        machine = Machine()
        machine.engine.pull_s = 60
        spawner = starting_spawner(machine, "ann", "1-gpu", 0.05)
        with pytest.raises(web.HTTPError, match="image was not pulled within"):
            await spawner.start()
        assert not machine.pool.leases

    asyncio.run(go())


def test_what_is_slow_to_make_takes_nothing_from_the_time_to_answer() -> None:
    """And a server that runs has the short time-out only: it is not paid for yet."""

    class Slow(Starting):
        async def _prepare(self, *_: object) -> str:
            await asyncio.sleep(0.1)
            return "id"

    async def go() -> None:
        spawner = starting_spawner(Machine(), "ann", "1-gpu", 60)
        spawner.__class__ = Slow
        spawner.http_timeout = 0.05
        with pytest.raises(web.HTTPError, match=r"not answer within 0\.05 seconds"):
            await spawner.start()
        assert spawner.begun

    asyncio.run(go())


def test_a_container_that_is_not_made_in_time_ends_with_a_sentence() -> None:
    """However long it may take to answer then."""

    class Stuck(Starting):
        async def _prepare(self, *_: object) -> str:
            await asyncio.Event().wait()
            raise AssertionError

    async def go() -> None:
        machine = Machine()
        spawner = starting_spawner(machine, "ann", "1-gpu", 0.05)
        spawner.__class__ = Stuck
        spawner.http_timeout = 60
        with pytest.raises(web.HTTPError, match="container was not made within 0"):
            await spawner.start()
        assert not spawner.begun
        assert not machine.pool.leases

    asyncio.run(go())


def test_cancelling_in_the_queue_leaves_no_trace() -> None:
    """JupyterHub cancels a start that is stopped or whose user is deleted."""

    async def go() -> None:
        machine = Machine()
        first = starting_spawner(machine, "ann", "1-gpu", 60)
        first.boots.set_result(None)
        await first.start()
        second = starting_spawner(machine, "bob", "1-gpu", 60)
        task = asyncio.create_task(second.start())
        await settle()
        assert [t.owner.user for t in machine.pool.queue.tickets] == ["bob"]
        task.cancel()
        await settle()
        assert task.cancelled()
        assert not machine.pool.queue.tickets
        assert set(machine.pool.leases) == machine.claims == {first.lease_id}
        assert second.lease_id == ""

    asyncio.run(go())


def test_cancelling_a_boot_hands_its_container_to_the_clean_up() -> None:
    """Its lease ends, nobody claims it, and the loop that removes it is kicked."""

    async def go() -> None:
        machine = Machine()
        spawner = starting_spawner(machine, "ann", "1-gpu", 60)
        task = asyncio.create_task(spawner.start())
        await settle()
        assert spawner.begun
        task.cancel()
        await settle()
        assert task.cancelled()
        [lease] = machine.pool.leases.values()
        assert lease.state is LeaseState.RELEASING
        assert not machine.claims
        assert machine.n_kicks

    asyncio.run(go())


def test_a_refusal_is_said_as_it_is() -> None:
    """What waiting cannot bring is no fault of the hub."""

    async def go() -> None:
        machine = Machine()
        machine.pool.trouble = "The driver does not answer."
        spawner = starting_spawner(machine, "ann", "1-gpu", 60)
        with pytest.raises(SpawnException, match="The driver does not answer"):
            await spawner.start()

    asyncio.run(go())


def test_a_server_that_ends_while_it_boots_is_noticed_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The reason is told, long before the time-outs are over."""
    monkeypatch.setattr(starting, "LOOK_EVERY_S", 0.01)

    class Crashing(Starting):
        async def _boot(self, *_: object) -> tuple[str, int]:
            await self._answers("container", "127.0.0.1", 1)  # nothing listens there
            raise AssertionError

    async def go() -> None:
        machine = Machine()
        spawner = starting_spawner(machine, "ann", "1-gpu", NEVER_S)
        spawner.__class__ = Crashing
        task = asyncio.create_task(spawner.start())
        machine.engine.found = container("running")
        await asyncio.sleep(0.1)
        assert not task.done()
        machine.engine.found = container("exited", 3)
        with pytest.raises(web.HTTPError, match=r"started: it crashed \(exit code 3\)"):
            await task

    asyncio.run(go())


@pytest.mark.parametrize(
    "error", [EngineRefused("is not running", 409), EngineUnknown("stopped state")]
)
def test_that_it_ended_says_more_than_what_failed_because_of_it(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """The engine refuses to look into a container before it knows that it ended."""
    monkeypatch.setattr(starting, "LOOK_EVERY_S", 0.1)

    class Unchecked(StartingSpawner):
        machine: Machine

        @property
        def host(self) -> Any:
            return self.machine

        async def check(self, *_: object) -> None:
            raise error

    async def go() -> None:
        machine = Machine()
        machine.engine.found = container("running")
        spawner = Unchecked()
        spawner.machine = machine
        spawner.user = SimpleNamespace(name="ann")
        lease = machine.pool.acquire("ls", Owner("ann", ""), SlotRequest(1), NOW)
        task = asyncio.create_task(spawner._boot("id", lease))
        await asyncio.sleep(0.01)
        machine.engine.found = container("exited", 3)
        with pytest.raises(EngineRefused, match="exit code 3"):
            await task

    asyncio.run(go())


# -- tokens --------------------------------------------------------------------------


def told(machine: Machine) -> list[str]:
    """What the meter was told, in order."""
    return [method for method, _ in machine.meter.calls]


def test_a_start_holds_before_the_pull_and_meters_from_the_answer() -> None:
    """What the waiting and the booting take is not charged."""

    async def go() -> None:
        machine = Machine()
        spawner = starting_spawner(machine, "ann", "1-gpu", 60)
        task = asyncio.create_task(spawner.start())
        await settle()
        assert told(machine) == ["quote", "hold"]
        spawner.boots.set_result(None)
        await task
        assert told(machine) == ["quote", "hold", "ready"]
        assert machine.meter.named("ready") == [spawner.lease_id]
        assert machine.pool.leases[spawner.lease_id].state is LeaseState.ACTIVE

    asyncio.run(go())


def test_who_waits_for_a_gpu_has_nothing_on_hold() -> None:
    """It can be spent meanwhile."""

    async def go() -> None:
        machine = Machine()
        first = starting_spawner(machine, "ann", "1-gpu", 60)
        first.boots.set_result(None)
        await first.start()
        machine.meter.calls.clear()
        second = starting_spawner(machine, "bob", "1-gpu", 60)
        task = asyncio.create_task(second.start())
        await settle()
        assert told(machine) == ["quote"]
        task.cancel()
        await settle()
        assert told(machine) == ["quote"]

    asyncio.run(go())


def test_who_cannot_pay_is_told_so_before_waiting() -> None:
    """Not after an hour in the queue."""

    async def go() -> None:
        machine = Machine()
        machine.meter.wallets["bob"] = 1
        first = starting_spawner(machine, "ann", "1-gpu", 60)
        first.boots.set_result(None)
        await first.start()
        second = starting_spawner(machine, "bob", "1-gpu", 60)
        with pytest.raises(SpawnException, match="do not suffice") as refused:
            await second.start()
        assert refused.value.status_code == 402
        assert refused.value.reason == "balance"
        assert not machine.pool.queue.tickets
        assert machine.meter.named("end") == []

    asyncio.run(go())


def test_tokens_spent_while_one_waited_give_the_gpu_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two servers that start together cannot both spend the same tokens."""

    async def go() -> None:
        machine = Machine()
        spawner = starting_spawner(machine, "ann", "1-gpu", 60)
        quote = machine.meter.quote

        async def then_spend(*args: Any) -> Any:
            found = await quote(*args)
            machine.meter.wallets["ann"] = 0
            return found

        monkeypatch.setattr(machine.meter, "quote", then_spend)
        with pytest.raises(SpawnException, match="do not suffice") as refused:
            await spawner.start()
        assert refused.value.status_code == 402
        assert not machine.pool.leases
        assert not machine.claims
        assert not await machine.meter.open_leases()
        assert spawner.user_options == {}

    asyncio.run(go())


@pytest.mark.parametrize("lose_answer", [False, True])
@pytest.mark.parametrize("method", ["quote", "hold", "ready"])
def test_a_ledger_that_does_not_answer_starts_nothing_and_charges_nothing(
    method: str, lose_answer: bool
) -> None:
    """Fail closed, with a sentence, at each step."""

    async def go() -> None:
        machine = Machine()
        machine.meter.fail(method, lose_answer=lose_answer)
        spawner = starting_spawner(machine, "ann", "1-gpu", 60)
        spawner.boots.set_result(None)
        if method == "quote" and lose_answer:
            return  # it changes nothing, so there is nothing to lose
        with pytest.raises(SpawnException, match="Tokens cannot be counted") as failed:
            await spawner.start()
        assert failed.value.status_code == 503
        assert not machine.pool.leases
        assert not await machine.meter.open_leases()
        assert machine.meter.charged("ann") == 0

    asyncio.run(go())


def test_a_boot_that_fails_ends_its_hold() -> None:
    async def go() -> None:
        machine = Machine()
        spawner = starting_spawner(machine, "ann", "1-gpu", 0.05)
        with pytest.raises(web.HTTPError, match="did not answer within"):
            await spawner.start()
        (account,) = machine.meter.accounts.values()
        assert account.end
        assert account.end.is_failed_start

    asyncio.run(go())


def test_a_cancelled_boot_is_noted_as_never_started() -> None:
    """The host ends it; by then nobody else knows."""

    async def go() -> None:
        machine = Machine()
        spawner = starting_spawner(machine, "ann", "1-gpu", 60)
        task = asyncio.create_task(spawner.start())
        await settle()
        lease_id = spawner.lease_id
        task.cancel()
        await settle()
        await machine.metering.closing.finished(lease_id)
        end = machine.meter.accounts[lease_id].end
        assert end
        assert end.is_failed_start

    asyncio.run(go())


def test_a_server_is_paid_for_by_the_course_it_is_started_for() -> None:
    async def go() -> None:
        machine = Machine()
        machine.meter.titles = {"cv": "Computer vision"}
        spawner = starting_spawner(machine, "ann", "1-gpu", 60)
        spawner.user.groups = [SimpleNamespace(name="cv"), SimpleNamespace(name="club")]
        spawner._choice = {"offer": "1-gpu", "course": "cv"}
        spawner.boots.set_result(None)
        await spawner.start()
        (account,) = machine.meter.accounts.values()
        assert account.payer == Payer(Owner("ann", ""), ("cv", "club"), "cv")

    asyncio.run(go())


def test_what_a_server_was_started_as_is_known_and_when_it_answered() -> None:
    """While it boots it has not answered yet."""

    async def go() -> None:
        machine = Machine()
        machine.meter.titles = {"cv": "Computer vision"}
        spawner = starting_spawner(machine, "ann", "1-gpu", 60)
        spawner.user.groups = [SimpleNamespace(name="cv")]
        spawner._choice = {"offer": "1-gpu", "course": "cv"}
        before = datetime.now(UTC)
        start = asyncio.ensure_future(spawner.start())
        await until(lambda: spawner.begun)
        assert machine.terms == {spawner.lease_id: Terms("1-gpu", "cv")}
        spawner.boots.set_result(None)
        await start
        (terms,) = machine.terms.values()
        assert terms.ready_at
        assert before <= terms.ready_at <= datetime.now(UTC)

    asyncio.run(go())


@pytest.mark.parametrize("course", ["cv", "club", 7, None, ["club"], "x" * 300])
def test_a_course_that_is_not_the_users_starts_nothing(course: object) -> None:
    """Whatever is sent: nobody spends another course's tokens."""

    async def go() -> None:
        machine = Machine()
        machine.meter.titles = {"cv": "Computer vision"}
        spawner = starting_spawner(machine, "ann", "1-gpu", 60)
        spawner.user.groups = [SimpleNamespace(name="club")]
        spawner._choice = {"offer": "1-gpu", "course": course}
        with pytest.raises(SpawnException) as refused:
            await spawner.start()
        assert refused.value.status_code == 400
        assert refused.value.reason == "selection"
        assert not machine.pool.leases
        assert not machine.meter.named("hold")

    asyncio.run(go())


def test_who_left_the_course_in_the_queue_does_not_spend_its_tokens() -> None:
    """Who pays is read again when the GPU is there."""

    async def go() -> None:
        machine = Machine()
        machine.meter.titles = {"cv": "Computer vision"}
        first = starting_spawner(machine, "ann", "1-gpu", 60)
        first.boots.set_result(None)
        await first.start()
        second = starting_spawner(machine, "bob", "1-gpu", 60)
        second.user.groups = [SimpleNamespace(name="cv")]
        second._choice = {"offer": "1-gpu", "course": "cv"}
        task = asyncio.create_task(second.start())
        await settle()
        second.user.groups = []
        machine.pool.release(first.lease_id, datetime.now(UTC))
        machine.pool.cleaned(list(machine.pool.slots))
        machine.room.serve()
        with pytest.raises(SpawnException, match="not in a course") as refused:
            await task
        assert refused.value.status_code == 400
        assert machine.meter.named("hold") == [first.lease_id]
        assert not machine.pool.leases
        assert machine.claims == {first.lease_id}

    asyncio.run(go())


def test_a_ledger_that_fails_for_a_moment_fails_no_server_that_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is asked again, for the time of the answer."""
    monkeypatch.setattr(metering, "READY_TRIES_S", 60)

    async def go() -> None:
        machine = Machine()
        fails = iter([True, False])

        def once(method: str) -> None:
            if method == "ready" and next(fails):
                raise MeterFailed("The ledger does not answer.")

        machine.meter.before = once
        spawner = starting_spawner(machine, "ann", "1-gpu", 60)
        spawner.boots.set_result(None)
        await spawner.start()
        assert machine.meter.named("ready") == [spawner.lease_id] * 2
        assert machine.pool.leases[spawner.lease_id].state is LeaseState.ACTIVE

    asyncio.run(go())


@pytest.mark.parametrize("method", ["quote", "hold", "ready"])
def test_a_ledger_that_hangs_fails_a_start_with_a_sentence(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds a GPU meanwhile."""
    monkeypatch.setattr(asking, "METER_WAIT_S", 0.02)
    monkeypatch.setattr(metering, "READY_TRIES_S", 0)

    async def hang(*_: object) -> None:
        await asyncio.Event().wait()

    async def go() -> None:
        machine = Machine()
        monkeypatch.setattr(machine.meter, method, hang)
        spawner = starting_spawner(machine, "ann", "1-gpu", 60)
        spawner.boots.set_result(None)
        with pytest.raises(SpawnException, match="Tokens cannot be counted"):
            await spawner.start()
        assert not machine.pool.leases

    asyncio.run(go())


@pytest.mark.parametrize("how", ["fails", "answers"])
def test_a_server_starts_without_the_figures_of_the_ledger(how: str) -> None:
    """Its notebook says that they are not known, and where they are."""

    async def go() -> None:
        machine = Machine()
        spawner = starting_spawner(machine, "ann", "1-gpu", 60)
        spawner.boots.set_result(None)
        await spawner.start()
        lease = machine.pool.leases[spawner.lease_id]
        if how == "fails":
            machine.meter.fail("statement")
        payer = Payer(lease.owner)
        found = TokenFacts(**asdict(await spawner._statement(lease, payer)))
        assert not found.is_placeholder
        if how == "answers":
            assert found.provider == "fake"
            return
        reading = meter_for(found).read()
        assert reading.balance_microtokens is None
        assert reading.rate_microtokens_per_hour is None
        assert "ledger did not answer" in reading.note.text

    asyncio.run(go())


def container(status: str, exit_code: int = 0) -> Container:
    """A container as the engine shows it."""
    return Container("id", "container", status, exit_code=exit_code)


# ------------------------------------------------------------------------------- pace


class Silent(Starting):
    """A start whose container runs, and of which `come_up` says how it goes on."""

    async def _boot(self, *arguments: Any) -> tuple[str, int]:
        return await StartingSpawner._boot(self, *arguments)

    async def _come_up(self, *_: object) -> tuple[str, int]:
        self.begun = True
        await self.boots
        return "127.0.0.1", 8888


def silent_spawner(
    machine: Machine, offer: str = "1-gpu", timeout_s: float = 60, name: str = "ann"
) -> Starting:
    spawner = starting_spawner(machine, name, offer, timeout_s)
    spawner.__class__ = Silent
    return spawner


async def unanswered(machine: Machine) -> None:
    """One start of ann's that holds the GPU and never answers."""
    with pytest.raises(web.HTTPError, match="did not answer within"):
        await silent_spawner(machine, timeout_s=0.01).start()
    machine.pool.cleaned(list(machine.pool.slots))


def n_unanswered(machine: Machine, user: str = "ann") -> int:
    """How many more it takes until this user must wait."""
    now, starts = time.monotonic(), machine.starts
    for n in range(4):
        try:
            starts.check_gpu(user, now, NOW)
        except TooOften:
            return 3 - n
        starts.boots(user, now)
    raise AssertionError


def test_who_lets_gpus_never_answer_must_wait_but_not_for_cpus() -> None:
    """Before anything is leased or held; others are not concerned."""

    async def go() -> None:
        machine = Machine()
        for _ in range(3):
            await unanswered(machine)
        n_held = len(machine.meter.named("hold"))
        with pytest.raises(SpawnException, match="Choose CPU only") as caught:
            await silent_spawner(machine).start()
        assert caught.value.status_code == 429
        assert caught.value.reason == "rate"
        assert len(machine.meter.named("hold")) == n_held
        assert not machine.pool.leases
        for spawner in (
            silent_spawner(machine, "cpu"),
            silent_spawner(machine, name="bob"),
        ):
            spawner.boots.set_result(None)
            await spawner.start()

    asyncio.run(go())


def test_servers_that_boot_at_once_count_as_if_they_never_answered() -> None:
    """Else many that are started together would all hold a GPU for nothing."""

    async def go() -> None:
        machine = Machine()
        for _ in range(2):
            await unanswered(machine)
        spawner = silent_spawner(machine)
        task = asyncio.create_task(spawner.start())
        await settle()
        assert spawner.begun
        with pytest.raises(SpawnException, match="did not answer"):
            await silent_spawner(machine).start()
        spawner.boots.set_result(None)
        await task
        machine.starts.check_gpu("ann", time.monotonic(), NOW)

    asyncio.run(go())


def test_who_cancels_a_boot_has_had_the_gpu() -> None:
    """Just before the time-out it is the same as never to answer."""

    async def go() -> None:
        machine = Machine()
        task = asyncio.create_task(silent_spawner(machine).start())
        await settle()
        task.cancel()
        await settle()
        assert n_unanswered(machine) == 1

    asyncio.run(go())


@pytest.mark.parametrize(
    ("error", "found", "n"),
    [
        (EngineUnknown("no answer"), "running", 0),
        (EngineRefused("wrong devices", 1), "running", 0),
        (EngineRefused("is not running", 409), "removed", 0),
        (EngineRefused("is not running", 409), "never ran", 0),
        (EngineRefused("is not running", 409), "crashed", 1),
        (ValueError("a fault in the hub"), "running", 0),
    ],
)
def test_only_what_ended_by_itself_counts(
    monkeypatch: pytest.MonkeyPatch, error: Exception, found: str, n: int
) -> None:
    """Not what engine, machine or hub could not do."""
    monkeypatch.setattr(starting, "LOOK_EVERY_S", 0.01)

    async def go() -> None:
        machine = Machine()
        ended = replace(container("exited", 3), started_at=NOW)
        machine.engine.found = {
            "running": container("running"),
            "removed": None,
            "never ran": container("created"),
            "crashed": ended,
        }[found]
        spawner = silent_spawner(machine)
        spawner.boots.set_exception(error)
        with pytest.raises(web.HTTPError):
            await spawner.start()
        assert n_unanswered(machine) == n

    asyncio.run(go())


def test_a_gpu_that_broke_meanwhile_is_not_the_users_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The hub ended the server, and says that it is refunded."""
    broke = Exit("gpu_broke", "Your last server stopped: its GPU broke.", "", True)
    monkeypatch.setattr(Machine, "ending_of", lambda *_: broke)

    async def go() -> None:
        machine = Machine()
        with pytest.raises(web.HTTPError):
            await silent_spawner(machine, timeout_s=0.01).start()
        assert n_unanswered(machine) == 0

    asyncio.run(go())


def test_twenty_starts_in_ten_minutes_and_then_a_sentence() -> None:
    """Whatever became of them; another user starts meanwhile."""

    async def go() -> None:
        machine = Machine()
        for _ in range(20):
            with pytest.raises(SpawnException, match="offer"):
                await starting_spawner(machine, "ann", "none", 60).start()
        with pytest.raises(SpawnException, match=r"20 times within 10 minutes") as told:
            await starting_spawner(machine, "ann", "cpu", 60).start()
        assert told.value.status_code == 429
        spawner = starting_spawner(machine, "bob", "cpu", 60)
        spawner.boots.set_result(None)
        await spawner.start()

    asyncio.run(go())
