"""What must happen without anybody asking happens, and one failure stops no other."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from testbed.bare_hub import COURSE, BareHub, free_port
from testbed.console import ConsoleProcess, Ledgers
from testbed.engine import wait_until
from torchroom.console.extending import Extending
from torchroom.console.guards import Console
from torchroom.console.housekeeping import Housekeeping, Step
from torchroom.console.hub import Hub
from torchroom.ledger.model import Course, Kind, Payer
from torchroom.ledger.periods import Every
from torchroom.ledger.portions import Mode
from torchroom.ledger.service import open_ledger

DAY = timedelta(days=1)
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


class Clock:
    """Shows what it was set to."""

    def __init__(self) -> None:
        self.time = NOW

    def __call__(self) -> datetime:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def keeper(
    ledgers: Ledgers, hub: BareHub, clock: Clock, tmp_path: Path
) -> AsyncIterator[Housekeeping]:
    """Housekeeping of a fresh ledger, done when the test says so."""
    with ledgers() as url:
        ledger = open_ledger(url)
        console = Console(
            ledger=ledger,
            hub=Hub(hub.api_url, hub.keys["console"]),
            extending=Extending(ledger.fees, tmp_path),
            now=clock,
        )
        yield Housekeeping(console)
        await console.hub.close()
        await console.extending.close()
        await console.ledger.close()


async def available(keeper: Housekeeping, user: str) -> int:
    """What a user has by the books, expired or not."""
    page = await keeper.console.ledger.statements.history(Kind.USER, user)
    return sum(entry.amount for entry in page.items)


async def test_expired_tokens_lapse(keeper: Housekeeping, clock: Clock) -> None:
    """The others stay."""
    grant = keeper.console.ledger.grants.grant
    await grant("alice", 5, key="1", actor="ada", at=NOW, expires_at=NOW + DAY)
    await grant("alice", 7, key="2", actor="ada", at=NOW)
    await keeper.once()
    assert await available(keeper, "alice") == 12
    clock.time += DAY
    await keeper.once()
    await keeper.once()
    assert await available(keeper, "alice") == 7
    assert keeper.failed == {}


async def test_a_hold_of_a_server_that_never_came_up_is_given_back(
    keeper: Housekeeping, clock: Clock
) -> None:
    """A day later."""
    ledger = keeper.console.ledger
    await ledger.prices.set("gpu", 3600, at=NOW, actor="ada")
    await ledger.grants.grant("alice", 5000, key="1", actor="ada", at=NOW)
    await ledger.leases.hold("ls_1", Payer("alice"), ["gpu"], NOW)
    assert (await ledger.totals()).held > 0
    clock.time += DAY
    await keeper.once()
    totals = await ledger.totals()
    assert (totals.held, totals.users, totals.n_open_leases) == (0, 5000, 0)


async def test_members_of_a_courses_group_get_its_allowance_once_a_period(
    keeper: Housekeeping, student: Callable[..., str], clock: Clock
) -> None:
    """Who they are the hub says; who is in another group gets nothing."""
    ledger = keeper.console.ledger
    newcomer = student(COURSE)
    await ledger.courses.put(Course(COURSE, "ML"), at=NOW)
    await ledger.courses.budget(COURSE, 10**9, key="1", actor="ada", at=NOW)
    await ledger.allowances.define(
        COURSE,
        every=Every.WEEKLY,
        mode=Mode.ADD,
        amount=3,
        time_zone="UTC",
        actor="ada",
        at=NOW,
    )
    for _ in range(2):
        await keeper.once()
    for user, amount in {"alice": 3, newcomer: 3, "otto": 0}.items():
        assert await available(keeper, user) == amount
    clock.time += 7 * DAY
    await keeper.once()
    assert await available(keeper, newcomer) == 6


async def test_more_groups_than_fit_on_a_page_are_read(
    keeper: Housekeeping, hub: BareHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one group on a page there are at least three pages."""
    whole = await keeper.console.hub.groups()
    monkeypatch.setattr("torchroom.hub_api.PAGE", 1)
    assert await keeper.console.hub.groups() == whole
    assert {"alice", "bob", "ivy"} <= set(whole[COURSE])
    assert len(whole) >= 3


async def test_the_ledger_is_audited_once_a_day(
    keeper: Housekeeping, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Also if the console was restarted meanwhile."""
    caplog.set_level(logging.INFO)
    for later in (timedelta(), timedelta(hours=23), timedelta(hours=1)):
        clock.time += later
        await keeper.once()
        await Housekeeping(keeper.console).once()
    assert caplog.text.count("ledger audited") == 2


async def test_without_a_hub_only_the_allowances_wait(
    keeper: Housekeeping, clock: Clock, hub: BareHub
) -> None:
    """It is logged, told to admins, and gone when the hub is back."""
    ledger = keeper.console.ledger
    mute = Hub(f"http://127.0.0.1:{free_port()}/hub/api", "x" * 32)
    lonely = Housekeeping(replace(keeper.console, hub=mute))
    grant = ledger.grants.grant
    await grant("alice", 5, key="1", actor="ada", at=NOW, expires_at=NOW + DAY)
    clock.time += DAY
    await lonely.once()
    assert lonely.failed == {
        "allowances": "The hub does not answer. Try again in a minute."
    }
    assert await available(lonely, "alice") == 0
    assert await ledger.last_audit() is not None
    await mute.close()


class Odd(Housekeeping):
    """Its steps are the test's own."""

    todo: dict[str, Step]

    @property
    def steps(self) -> dict[str, Step]:
        """What the test says."""
        return self.todo


async def test_a_step_that_breaks_does_not_stop_the_others(
    keeper: Housekeeping, caplog: pytest.LogCaptureFixture
) -> None:
    """Its traceback is in the log, its secrets in no answer."""
    done = []

    async def breaks(_now: datetime) -> None:
        raise ZeroDivisionError("secret")

    async def works(now: datetime) -> None:
        done.append(now)

    odd = Odd(keeper.console)
    odd.todo = {"breaks": breaks, "works": works}
    await odd.once()
    assert done == [NOW]
    assert odd.failed == {"breaks": "ZeroDivisionError"}
    assert "Traceback" in caplog.text


async def test_rounds_never_overlap_and_end_after_the_step_that_is_being_done(
    keeper: Housekeeping,
) -> None:
    """A slow step is waited for; what comes after it is left for the next start."""
    begun, go_on = asyncio.Event(), asyncio.Event()
    log = []

    async def slow(_now: datetime) -> None:
        log.append("slow")
        begun.set()
        await go_on.wait()
        log.append("done")

    async def later(_now: datetime) -> None:
        log.append("later")

    odd = Odd(keeper.console, every_s=0)
    odd.todo = {"slow": slow, "later": later}
    odd.start()
    await begun.wait()
    ending = asyncio.create_task(odd.end())
    await asyncio.sleep(0)
    assert not ending.done()
    go_on.set()
    await ending
    assert log == ["slow", "done"]


async def test_a_step_that_hangs_is_dropped_at_the_end(
    keeper: Housekeeping, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A console that is told to end ends."""
    monkeypatch.setattr("torchroom.console.housekeeping.ENDS_WITHIN_S", 0.01)
    begun = asyncio.Event()

    async def hangs(_now: datetime) -> None:
        begun.set()
        await asyncio.Event().wait()

    odd = Odd(keeper.console)
    odd.todo = {"hangs": hangs}
    odd.start()
    await begun.wait()
    await odd.end()


def test_a_console_does_it_by_itself(own_console: ConsoleProcess, hub: BareHub) -> None:
    """From its start on; an admin sees that nothing fails."""
    ada = hub.token("ada")
    own_console.begin()
    body = {"title": "ML", "student_cap": None}
    own_console.ask("PUT", f"/courses/{COURSE}", ada, json=body)
    own_console.post(f"/courses/{COURSE}/budget", ada, {"microtokens": 10**6})
    allowance = {
        "period": "monthly",
        "mode": "refill",
        "microtokens": 9,
        "time_zone": "Europe/Berlin",
    }
    made = own_console.post(f"/courses/{COURSE}/allowances", ada, allowance)
    again = own_console.post(f"/courses/{COURSE}/allowances", ada, allowance)
    assert made == again
    own_console.end()
    own_console.begin()
    wait_until(
        lambda: own_console.get("/me", hub.token("bob"))["available"] == 9,
        what="the allowance is given",
        within_s=30,
    )
    told = own_console.get("/ledger", ada)
    assert (told["failing"], told["last_audit"]["problems"]) == ({}, [])
    path = f"/courses/{COURSE}/allowances/{made['id']}"
    assert own_console.ask("DELETE", path, ada).status_code == 204
    (ended,) = own_console.get(f"/courses/{COURSE}/allowances", ada)["items"]
    assert ended["ended_at"] is not None
