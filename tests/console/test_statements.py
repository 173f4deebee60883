"""What one reads adds up: pages, files for spreadsheets, usage by day or course."""

import csv
import io
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from testbed.bare_hub import COURSE, BareHub
from testbed.console import ConsoleProcess
from torchroom.ledger.database import Database
from torchroom.ledger.model import Ending, Payer
from torchroom.ledger.planning import End
from torchroom.ledger.policy import Policy
from torchroom.ledger.service import Ledger

HOUR = timedelta(hours=1)
DAY_BEGINS = datetime(2026, 3, 30, 23, tzinfo=UTC)
SLOT, PRICE, SEMINAR = "test slot", 3600, "seminar"
LEASES = [(SLOT,), (SLOT, SLOT)]
"""Two servers, one with two slots; each runs for two hours over a midnight."""


def all_pages(
    console: ConsoleProcess, path: str, token: str, limit: int
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    query: dict[str, Any] = {"limit": limit}
    while True:
        page = console.get(path, token, **query)
        assert len(page["items"]) <= limit
        found += page["items"]
        if page["next"] is None:
            return found
        query["cursor"] = page["next"]


def table(console: ConsoleProcess, path: str, token: str) -> list[dict[str, str]]:
    answer = console.ask("GET", path, token, params={"format": "csv"})
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/csv")
    assert "attachment" in answer.headers["Content-Disposition"]
    return list(csv.DictReader(io.StringIO(answer.text, newline="")))


@pytest.fixture
def student_with_grants(
    console: ConsoleProcess, hub: BareHub, student: Callable[..., str]
) -> str:
    """Somebody with seven grants of 1 to 7 microtokens."""
    user = student(COURSE)
    for amount in range(1, 8):
        body = {"microtokens": amount, "note": f"=grant({amount})"}
        console.post(f"/users/{user}/grants", hub.token("ada"), body)
    return user


@pytest.mark.parametrize("limit", [1, 3, 7, 200])
def test_pages_have_every_entry_once_newest_first(
    console: ConsoleProcess, hub: BareHub, student_with_grants: str, limit: int
) -> None:
    """Whatever their size."""
    items = all_pages(console, "/me/history", hub.token(student_with_grants), limit)
    assert [item["microtokens"] for item in items] == [7, 6, 5, 4, 3, 2, 1]


def test_an_admin_reads_what_the_user_reads(
    console: ConsoleProcess, hub: BareHub, student_with_grants: str
) -> None:
    """The balance and the history."""
    user, ada = student_with_grants, hub.token("ada")
    mine = hub.token(user)
    assert console.get(f"/users/{user}/history", ada) == console.get(
        "/me/history", mine
    )
    told = console.get(f"/users/{user}", ada) | {"at": ""}
    assert told == console.get("/me", mine) | {"at": ""}
    assert told["available"] == 28


def test_a_file_has_all_entries_and_no_formulas(
    console: ConsoleProcess, hub: BareHub, student_with_grants: str
) -> None:
    """More than a page, and a note that a spreadsheet would run is text."""
    rows = table(console, "/me/history", hub.token(student_with_grants))
    assert [row["microtokens"] for row in rows] == list("7654321")
    assert [row["note"] for row in rows] == [f"'=grant({n})" for n in "7654321"]
    assert {row["actor"] for row in rows} == {"ada"}


async def test_what_servers_used_is_told_by_day_course_type_and_user(
    console: ConsoleProcess, hub: BareHub, student: Callable[..., str]
) -> None:
    """To the second and the microtoken, and the same for all who may see it."""
    user, ada = student(COURSE), hub.token("ada")
    price = {"key": SLOT, "microtokens_per_hour": PRICE}
    console.ask("POST", "/prices", ada, json=price)
    body = {"title": "Machine learning", "student_cap": None}
    console.ask("PUT", f"/courses/{SEMINAR}", ada, json=body)
    console.post(f"/users/{user}/grants", ada, {"microtokens": 100_000})
    await run_servers(console.url, user)

    mine = hub.token(user)
    span = {"start": "2026-03-01T00:00:00Z", "end": "2026-04-30T00:00:00Z"}
    by_day = console.get("/me/usage", mine, **span)["items"]
    assert by_day == [
        used("2026-03-30", seconds=7200, slot_seconds=10800, microtokens=10800),
        used("2026-03-31", seconds=7200, slot_seconds=10800, microtokens=10800),
    ]
    whole = used(user, seconds=14400, slot_seconds=21600, microtokens=21600)
    for path, token, by, key in [
        ("/me/usage", mine, "course", SEMINAR),
        ("/me/usage", mine, "type", SLOT),
        (f"/users/{user}/usage", ada, "type", SLOT),
        (f"/courses/{SEMINAR}/usage", ada, "user", user),
        ("/usage", ada, "user", user),
    ]:
        items = console.get(path, token, by=by, **span)["items"]
        assert [item for item in items if item["key"] == key] == [whole | {"key": key}]
    rows = table(console, "/me/usage?start=2026-03-01T00:00:00Z", mine)
    assert [row["microtokens"] for row in rows] == ["10800", "10800"]
    assert [row["day"] for row in rows] == ["2026-03-30", "2026-03-31"]
    entries = console.get("/me/history", mine)["items"]
    assert [entry["microtokens"] for entry in entries] == [100_000, -14400, -7200]
    assert entries[1]["lease"]["slot_types"] == [SLOT, SLOT]
    assert console.get("/me", mine)["available"] == 100_000 - 21600


def used(key: str, **figures: int) -> dict[str, Any]:
    return {"key": key, **figures}


async def run_servers(url: str, user: str) -> None:
    """Have servers held, run over a midnight, and ended, as the hub's meter does it."""
    ledger = Ledger(Database.open(url), Policy())
    await ledger.prices.set(
        SLOT, PRICE, at=DAY_BEGINS, valid_from=DAY_BEGINS, actor="test"
    )
    try:
        for number, slots in enumerate(LEASES):
            lease = f"ls_{user}_{number}"
            at = DAY_BEGINS + timedelta(minutes=number)
            await ledger.leases.hold(lease, Payer(user, "", SEMINAR), slots, at)
            await ledger.leases.ready(lease, DAY_BEGINS)
            end = End(Ending.USED, DAY_BEGINS + 2 * HOUR, "test")
            await ledger.leases.end(lease, end, now=DAY_BEGINS + 2 * HOUR)
    finally:
        await ledger.close()
