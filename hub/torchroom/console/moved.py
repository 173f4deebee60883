"""What every request that moved tokens is answered with, the first time and again."""

from http import HTTPStatus
from typing import Any

from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from torchroom.console.shown import Problem


class MovedOut(BaseModel):
    """Tokens moved, now or when this request was sent before."""

    transaction: int = Field(description="Its number in the ledger.")


MOVES: dict[int | str, dict[str, Any]] = {
    200: {"model": MovedOut, "description": "Done before, under the same key."},
    201: {"model": MovedOut, "description": "Done."},
    402: {"model": Problem, "description": "There are not so many tokens."},
    404: {"model": Problem, "description": "There is no such user, course or voucher."},
    409: {"model": Problem, "description": "The key was used for another request, or "
          "a budget or cap does not allow it."},
}  # fmt: skip


def moved(transaction_id: int, *, is_new: bool) -> JSONResponse:
    """Return 201 for tokens that moved now, 200 for those that moved before."""
    status = HTTPStatus.CREATED if is_new else HTTPStatus.OK
    return JSONResponse({"transaction": transaction_id}, status_code=status)
