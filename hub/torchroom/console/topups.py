"""Tokens that were paid elsewhere: one signed message each, from any payment system."""

from typing import Annotated

from fastapi import APIRouter, Header, Request, Response

from torchroom.console.guards import ConsoleOf
from torchroom.console.moved import MOVES, MovedOut, moved
from torchroom.console.schemas import TopUpIn
from torchroom.console.shown import Problem

SIGNATURE_MAX = 256

router = APIRouter(prefix="/webhooks", tags=["top-ups"])

_FORGED = {"model": Problem, "description": "The signature does not fit."}


@router.post(
    "/topup",
    responses={**MOVES, 401: _FORGED},
    response_model=MovedOut,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": TopUpIn.model_json_schema()}},
        }
    },
)
async def receive(
    console: ConsoleOf,
    request: Request,
    signature: Annotated[
        str,
        Header(
            alias="Torchroom-Signature",
            max_length=SIGNATURE_MAX,
            description="t=UNIX_SECONDS,v1=HEX: HMAC-SHA256 of `UNIX_SECONDS.BODY`.",
        ),
    ] = "",
) -> Response:
    """Take a top-up. The same `id` again changes nothing. Needs no token."""
    received = await console.ledger.topups.receive(
        await request.body(), signature, console.now()
    )
    return moved(received.transaction_id, is_new=received.is_new)
