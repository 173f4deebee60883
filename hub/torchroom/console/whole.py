"""The ledger as a whole: usage of everybody, what is in it, whether it is right."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from torchroom.console import statements
from torchroom.console.guards import Admin, ConsoleOf
from torchroom.console.housekeeping import Housekeeping
from torchroom.console.shown import At, Micro, UsageOut
from torchroom.console.statements import AS_CSV, End, Format, Start
from torchroom.ledger.usage import By

router = APIRouter(tags=["ledger"])


class AuditOut(BaseModel):
    """What the last audit found."""

    at: At
    n_transactions: int
    n_postings: int
    problems: list[str] = Field(description="Sentences; none: all is right.")


class LedgerOut(BaseModel):
    """What is in the ledger. All amounts are microtokens."""

    issued: Micro = Field(description="Given out and not taken back, in all.")
    users: Micro = Field(description="Available to users.")
    courses: Micro = Field(description="Left of courses' budgets.")
    held: Micro = Field(description="Reserved for servers.")
    revenue: Micro = Field(description="Burned.")
    n_open_holds: int
    n_open_leases: int
    last_audit: AuditOut | None
    failing: dict[str, str] = Field(
        description="Steps of housekeeping that failed the last time, and why."
    )


@router.get("/usage", response_model=UsageOut, responses=AS_CSV)
async def usage(
    console: ConsoleOf,
    _who: Admin,
    by: Annotated[Literal["day", "course", "type", "user"], Query()] = "day",
    start: Start = None,
    end: End = None,
    format: Format = "json",  # noqa: A002 - its name in the address
) -> Response | UsageOut:
    """What everybody's servers used."""
    return await statements.usage(console, By(by), start=start, end=end, form=format)


@router.get("/ledger")
async def ledger(console: ConsoleOf, _who: Admin, request: Request) -> LedgerOut:
    """Totals, what is held, and what the last audit found."""
    totals = await console.ledger.totals()
    last = await console.ledger.last_audit()
    housekeeping = request.app.state.housekeeping
    return LedgerOut(
        issued=totals.issued,
        users=totals.users,
        courses=totals.courses,
        held=totals.held,
        revenue=totals.revenue,
        n_open_holds=totals.n_open_holds,
        n_open_leases=totals.n_open_leases,
        last_audit=AuditOut(
            at=last.at,
            n_transactions=last.n_transactions,
            n_postings=last.n_postings,
            problems=list(last.problems),
        )
        if last
        else None,
        failing=dict(housekeeping.failed)
        if isinstance(housekeeping, Housekeeping)
        else {},
    )
