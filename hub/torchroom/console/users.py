"""Other people's tokens, for admins: read, grant, take back."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from starlette.responses import Response

from torchroom.console import statements
from torchroom.console.guards import (
    PAGE_DEFAULT,
    Admin,
    ConsoleOf,
    Cursor,
    IdempotencyKey,
    Limit,
    UserName,
)
from torchroom.console.moved import MOVES, MovedOut, moved
from torchroom.console.schemas import GrantIn, TakeBackIn
from torchroom.console.shown import BalanceOut, HistoryOut, UsageOut
from torchroom.console.statements import AS_CSV, End, Format, Start
from torchroom.ledger.model import Kind
from torchroom.ledger.usage import By

router = APIRouter(prefix="/users/{user}", tags=["users"])


@router.get("")
async def balance(console: ConsoleOf, _who: Admin, user: UserName) -> BalanceOut:
    """A user's tokens now."""
    groups = await console.hub.groups()
    theirs = [name for name, members in groups.items() if user in members]
    view = await console.ledger.statements.balance(user, console.now(), courses=theirs)
    return BalanceOut.of(view)


@router.get("/history", response_model=HistoryOut, responses=AS_CSV)
async def history(
    console: ConsoleOf,
    _who: Admin,
    user: UserName,
    limit: Limit = PAGE_DEFAULT,
    cursor: Cursor = None,
    format: Format = "json",  # noqa: A002 - its name in the address
) -> Response | HistoryOut:
    """What happened to a user's tokens, newest first."""
    return await statements.history(
        console, Kind.USER, user, limit=limit, cursor=cursor, form=format
    )


@router.get("/usage", response_model=UsageOut, responses=AS_CSV)
async def usage(
    console: ConsoleOf,
    _who: Admin,
    user: UserName,
    by: Annotated[Literal["day", "course", "type"], Query()] = "day",
    *,
    start: Start = None,
    end: End = None,
    format: Format = "json",  # noqa: A002
) -> Response | UsageOut:
    """What a user's servers used."""
    return await statements.usage(
        console, By(by), start=start, end=end, form=format, user=user
    )


@router.post("/grants", responses=MOVES, response_model=MovedOut)
async def grant(
    console: ConsoleOf,
    who: Admin,
    user: UserName,
    key: IdempotencyKey,
    wanted: GrantIn,
) -> Response:
    """Give a user tokens, for any server or for those of one course."""
    recorded = await console.ledger.grants.grant(
        user=user,
        amount=wanted.microtokens,
        course=wanted.course or "",
        expires_at=wanted.expires_at,
        note=wanted.note,
        actor=who.actor,
        key=key,
        at=console.now(),
    )
    return moved(recorded.id, is_new=recorded.is_new)


@router.post("/take-backs", responses=MOVES, response_model=MovedOut)
async def take_back(
    console: ConsoleOf,
    who: Admin,
    user: UserName,
    key: IdempotencyKey,
    wanted: TakeBackIn,
) -> Response:
    """Take tokens from a user; never more than there are."""
    recorded = await console.ledger.grants.take_back(
        user=user,
        amount=wanted.microtokens,
        course=wanted.course or "",
        note=wanted.note,
        actor=who.actor,
        key=key,
        at=console.now(),
    )
    return moved(recorded.id, is_new=recorded.is_new)
