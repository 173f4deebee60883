"""The plugin's metering on the real ledger: rate x seconds, whatever is killed when.

The plugin's own tests use a meter in memory; these are its promises and the ledger's
together. Engine and clocks are in memory.
"""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gpuspawner import exits
from gpuspawner.errors import EngineUnknown, NotPayable
from gpuspawner.exits import Exit
from gpuspawner.model import Lease, Payer, SlotRequest
from gpuspawner.sample import Event, EventKind
from ledger.books import Books
from torchroom.ledger.database import Database
from torchroom.ledger.meter import LedgerMeter
from torchroom.ledger.policy import Policy
from torchroom.ledger.service import Ledger
from unit.machine import Machine
from unit.metered import Metered, until
from unit.meters import PRICES, START, TOKEN, Clocks

PER_S = PRICES["A100"] // 3600
TOKENS = 1000 * TOKEN
FALLEN_OFF_THE_BUS = 79


class Classroom(Metered):
    """A hub on the ledger. Ann and Bob have a thousand tokens each."""

    ledger: Ledger

    def __init__(self, folder: Path, ledger: Ledger) -> None:
        self.ledger = ledger
        Machine.__init__(self, folder, 2, self._fresh_meter(), Clocks())

    def _fresh_meter(self) -> LedgerMeter:
        return LedgerMeter(self.ledger, now=lambda: START)

    async def come_back(self, *claimed: Lease) -> None:
        """The next hub has a meter of its own."""
        self.meter: Any = self._fresh_meter()
        await super().come_back(*claimed)

    async def burned(self, user: str = "ann") -> int:
        """Microtokens that a user does not have any more, by the ledger."""
        at = self.host.metering._clock.now()
        view = await self.ledger.statements.balance(user, at)
        return TOKENS - view.spendable

    async def check_charged(self, lease: Lease, seconds: int) -> None:
        """The lease is over, and its user paid for exactly so many seconds."""
        found = await self.ledger.leases.find(lease.id)
        assert found
        assert found.ended_at
        assert found.settled_s == seconds
        assert await self.burned() == seconds * PER_S
        assert not await self.meter.open_leases()


@pytest.fixture
async def room(db: Database, books: Books, tmp_path: Path) -> AsyncIterator[Classroom]:
    """A classroom; in the end an audit of the ledger must find nothing wrong."""
    ledger = Ledger(db, Policy())
    for key, per_hour in PRICES.items():
        await ledger.prices.set(key, per_hour, at=START, actor="admin")
    for user in ("ann", "bob"):
        await ledger.grants.grant(user, TOKENS, key=user, actor="admin", at=START)
    made = Classroom(tmp_path, ledger)
    await made.settle()
    yield made
    made.end()


async def test_a_server_pays_for_the_seconds_it_ran(room: Classroom) -> None:
    """Through many passes, a restart and a clock that was set."""
    lease = await room.running()
    for seconds in (1, 59, 60, 400, 61):
        room.clocks.pass_s(seconds)
        await room.pass_()
    room.clocks.set_wall(7200)
    room.crash()
    room.clocks.pass_s(1000)
    await room.come_back(lease)
    await room.pass_()
    room.clocks.pass_s(7)
    await room.stop(lease)
    await room.check_charged(lease, 1588)
    assert (await room.ledger.leases.find(lease.id)).reason == "stopped"  # type: ignore[union-attr]


async def test_a_server_removed_by_hand_pays_until_then(room: Classroom) -> None:
    lease = await room.running()
    room.clocks.pass_s(333)
    await room.pass_()
    room.clocks.pass_s(44)
    room.remove_by_hand(lease)
    room.clocks.pass_s(500)
    await room.pass_()
    await room.check_charged(lease, 377)


async def test_a_server_whose_end_nobody_knows_pays_for_what_was_seen(
    room: Classroom,
) -> None:
    """Also for what the ledger had not settled yet."""
    lease = await room.running()
    room.clocks.pass_s(100)
    await room.pass_()
    room.clocks.pass_s(44)
    room.remove_by_hand(lease, remembered=False)
    await room.pass_()
    await room.check_charged(lease, 100)


@pytest.mark.parametrize("stage", ["held", "booting", "running"])
async def test_a_start_in_which_the_hub_died_is_paid_back(
    room: Classroom, stage: str
) -> None:
    lease = await getattr(room, stage)()
    room.crash()
    room.clocks.pass_s(1000)
    await room.come_back()
    await room.pass_()
    await room.pass_()
    await room.check_charged(lease, 0)


async def test_a_gpu_that_breaks_is_paid_for_until_it_broke(room: Classroom) -> None:
    """What was settled beyond that comes back."""
    lease = await room.running()
    room.clocks.pass_s(100)
    broke_at = room.clocks.wall
    room.clocks.pass_s(900)
    await room.pass_()
    event = Event(lease.uuids[0], broke_at, EventKind.XID, FALLEN_OFF_THE_BUS)
    room.probe.events.append(event)
    await room.host.look_round()
    await until(lambda: not room.engine.containers)
    await room.rest()
    await room.check_charged(lease, 100)


async def test_a_ledger_that_was_away_learns_the_end_later(
    room: Classroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the file of the hub that was killed meanwhile."""

    async def away(*_: object) -> None:
        raise EngineUnknown("away")

    lease = await room.running()
    room.clocks.pass_s(100)
    with monkeypatch.context() as patch:
        patch.setattr(room.meter, "end", away)
        await room.stop(lease)
    assert not room.engine.containers
    room.crash()
    room.clocks.pass_s(1000)
    await room.come_back()
    await room.pass_()
    await room.check_charged(lease, 100)


async def test_tokens_that_run_out_end_the_server_with_a_reason(
    room: Classroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, so that nobody owes anything; a CPU server starts all the same."""
    await room.ledger.grants.grant("cat", 20 * TOKEN, key="x", actor="a", at=START)
    lease = await room.running("cat")
    dues = [10.0]
    while lease.id in room.host.pool.leases and len(dues) < 100:
        monkeypatch.setattr(room.host.metering, "_look_in", dues.append)
        room.clocks.pass_s(dues[-1])
        await room.pass_()
    found = await room.ledger.leases.find(lease.id)
    assert found
    assert found.reason == exits.OUT_OF_TOKENS
    assert 2000 - 31 <= found.settled_s <= 2000
    ended = room.host.ending_of(lease.id)
    assert ended
    assert ended.sentence.startswith("Your last server stopped: your tokens are used")
    with pytest.raises(NotPayable):
        await room.host.metering.check(Payer(lease.owner), SlotRequest(1))
    await room.host.metering.check(Payer(lease.owner), SlotRequest(0))
    again = replace(lease, id="ls_again", slots=())
    await room.host.metering.hold(again, Payer(lease.owner))
    await room.host.metering.ready(again.id)


async def test_two_servers_that_start_together_share_no_token(room: Classroom) -> None:
    """What the first has on hold the second does not have."""
    room.clocks.pass_s(10)
    at = room.clocks.wall
    await room.ledger.prices.set("A100", 3600 * TOKEN, at=at, actor="admin")
    first = await room.held("ann")  # ten minutes are 600 of its 1000 tokens
    second = room.lease("bob")
    with pytest.raises(NotPayable):
        await room.host.metering.hold(second, Payer(first.owner))


async def test_an_end_told_twice_counts_once(room: Classroom) -> None:
    lease = await room.running()
    room.clocks.pass_s(100)
    await room.stop(lease)
    room.clocks.pass_s(100)
    await room.host.metering.closing.finished(lease.id)
    room.host.metering.decide(lease.id, Exit("not_started", "No."))
    await room.host.metering.closing.finished(lease.id)
    await room.check_charged(lease, 100)


async def test_a_lease_the_ledger_never_knew_can_end(room: Classroom) -> None:
    """A start that was refused is undone like any other."""
    lease = room.lease("ann")
    await room.stop(lease, exits.NOT_STARTED)
    assert await room.burned() == 0


async def test_who_breaks_off_a_start_whose_gpu_broke_pays_nothing(
    room: Classroom,
) -> None:
    """The lease was never ready, whatever it ended for."""
    lease = await room.booting()
    room.host.evict(lease.id, Exit("gpu_broke", "It broke.", "", True, ""))
    await until(lambda: not room.engine.containers)
    await room.rest()
    await room.check_charged(lease, 0)
