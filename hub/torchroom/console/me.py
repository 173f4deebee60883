"""One's own tokens: the balance, the history, the usage, and vouchers to redeem."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, status
from pydantic import BaseModel, Field
from starlette.responses import Response

from torchroom.console import statements
from torchroom.console.guards import (
    PAGE_DEFAULT,
    ConsoleOf,
    Cursor,
    IdempotencyKey,
    Limit,
    OwnAccount,
    OwnBalance,
)
from torchroom.console.schemas import RedeemIn
from torchroom.console.shown import At, BalanceOut, HistoryOut, Micro, Problem, UsageOut
from torchroom.console.statements import AS_CSV, End, Format, Start
from torchroom.ledger.model import Kind
from torchroom.ledger.usage import By

router = APIRouter(prefix="/me", tags=["me"])


@router.get("")
async def balance(console: ConsoleOf, who: OwnBalance) -> BalanceOut:
    """Your tokens now. A server's own token may ask this, too."""
    return BalanceOut.of(await statements.own_balance(console, who))


@router.get("/history", response_model=HistoryOut, responses=AS_CSV)
async def history(
    console: ConsoleOf,
    who: OwnAccount,
    limit: Limit = PAGE_DEFAULT,
    cursor: Cursor = None,
    format: Format = "json",  # noqa: A002 - its name in the address
) -> Response | HistoryOut:
    """What happened to your tokens, newest first."""
    return await statements.history(
        console, Kind.USER, who.name, limit=limit, cursor=cursor, form=format
    )


@router.get("/usage", response_model=UsageOut, responses=AS_CSV)
async def usage(
    console: ConsoleOf,
    who: OwnAccount,
    by: Annotated[Literal["day", "course", "type"], Query()] = "day",
    *,
    start: Start = None,
    end: End = None,
    format: Format = "json",  # noqa: A002
) -> Response | UsageOut:
    """What your servers used."""
    return await statements.usage(
        console, By(by), start=start, end=end, form=format, user=who.name
    )


class RedeemedOut(BaseModel):
    """What a voucher gave you."""

    transaction: int
    microtokens: Micro
    course: str = Field(description='Only for servers of this course; "" for any.')
    expires_at: At | None


@router.post(
    "/vouchers",
    response_model=RedeemedOut,
    responses={
        200: {"model": RedeemedOut, "description": "Redeemed before, by you."},
        201: {"model": RedeemedOut, "description": "Redeemed."},
        409: {"model": Problem, "description": "It cannot be redeemed, or the key was "
              "used for another request."},
        429: {"model": Problem, "description": "Too many failures: wait."},
    },
)  # fmt: skip
async def redeem(
    console: ConsoleOf,
    who: OwnAccount,
    key: IdempotencyKey,
    wanted: RedeemIn,
    response: Response,
) -> RedeemedOut:
    """Redeem a voucher. After five failures one waits for ten minutes."""
    got = await console.ledger.vouchers.redeem(
        who.name, wanted.code, key=key, at=console.now()
    )
    response.status_code = status.HTTP_201_CREATED if got.is_new else status.HTTP_200_OK
    return RedeemedOut(
        transaction=got.transaction_id,
        microtokens=got.amount,
        course=got.course,
        expires_at=got.expires_at,
    )
