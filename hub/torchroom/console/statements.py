"""What several routes share: a balance, a history as page or file, usage in a span."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import Query
from starlette.responses import Response

from torchroom.console import csv_export
from torchroom.console.access import Identity
from torchroom.console.csv_export import Cell
from torchroom.console.guards import PAGE_MAX, Console
from torchroom.console.schemas import Time
from torchroom.console.shown import HistoryOut, UsageOut, UsedOut, page_of
from torchroom.ledger.model import Kind
from torchroom.ledger.usage import By
from torchroom.ledger.views import BalanceView, Entry

SPAN = timedelta(days=30)
"""How much usage is shown if nobody says from when."""

Format = Annotated[
    Literal["json", "csv"],
    Query(description="csv: all of it as a file, for a spreadsheet."),
]
Start = Annotated[Time | None, Query(description="30 days before `end` if left out.")]
End = Annotated[Time | None, Query(description="Now, if left out.")]
AS_CSV: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/csv": {"schema": {"type": "string"}}}}
}

HISTORY_COLUMNS = (
    "id", "at", "code", "microtokens", "note", "actor", "course", "expires_at",
    "paid_by_course", "waived", "user", "server", "slot_types", "microtokens_per_hour",
    "ready_at", "settled_s", "ended_at", "reason",
)  # fmt: skip
USAGE_COLUMNS = ("key", "seconds", "slot_seconds", "microtokens")


async def own_balance(console: Console, who: Identity) -> BalanceView:
    """Return a user's balance for the user, who has the welcome tokens by then."""
    ledger, now = console.ledger, console.now()
    await ledger.grants.welcome(who.name, ledger.policy.welcome, at=now)
    return await ledger.statements.balance(who.name, now, courses=who.groups)


async def history(
    console: Console,
    kind: Kind,
    name: str,
    *,
    limit: int,
    cursor: str | None,
    form: str,
) -> Response | HistoryOut:
    """Return a page of a history, or all of it as a file."""
    read = console.ledger.statements.history
    if form == "csv":
        return await csv_export.answer(
            "history", HISTORY_COLUMNS, _all_rows(console, kind, name)
        )
    return page_of(await read(kind, name, cursor=cursor, limit=limit))


async def usage(
    console: Console,
    by: By,
    *,
    start: datetime | None,
    end: datetime | None,
    form: str,
    user: str | None = None,
    course: str | None = None,
) -> Response | UsageOut:
    """Return usage within a span of time, as JSON or as a file."""
    until = end or console.now()
    since = start or until - SPAN
    rows = await console.ledger.statements.usage(
        by, since, until, user=user, course=course
    )
    if form == "csv":

        async def cells() -> AsyncIterator[Sequence[Cell]]:
            for row in rows:
                yield row.key, row.seconds, row.slot_seconds, row.microtokens

        return await csv_export.answer("usage", (by.value, *USAGE_COLUMNS[1:]), cells())
    return UsageOut(by=by.value, start=since, end=until, items=UsedOut.all(rows))


async def _all_rows(
    console: Console, kind: Kind, name: str
) -> AsyncIterator[Sequence[Cell]]:
    """Yield a history page by page: nobody is kept waiting, no memory is filled."""
    cursor: str | None = None
    while True:
        page = await console.ledger.statements.history(
            kind, name, cursor=cursor, limit=PAGE_MAX
        )
        for entry in page.items:
            yield _cells(entry)
        cursor = page.next
        if cursor is None:
            return


def _cells(entry: Entry) -> Sequence[Cell]:
    """Return an entry as HISTORY_COLUMNS."""
    plain = (
        entry.id,
        entry.at,
        entry.code.value,
        entry.amount,
        entry.note,
        entry.actor,
        entry.course,
        entry.expires_at,
        entry.paid_by_course,
        entry.waived,
    )
    lease = entry.lease
    if lease is None:
        return (*plain, "", "", "", None, None, None, None, "")
    return (
        *plain,
        lease.payer.user,
        lease.payer.server,
        " + ".join(lease.slot_types),
        lease.per_hour,
        lease.ready_at,
        lease.settled_s,
        lease.ended_at,
        lease.reason,
    )
