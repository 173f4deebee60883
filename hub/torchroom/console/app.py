"""Puts the console together: routes, limits, answers, and what runs beside them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.types import ASGIApp

from torchroom.console import (
    allowances,
    answers,
    courses,
    health,
    me,
    page,
    prices,
    servers,
    steward,
    topups,
    users,
    vouchers,
    whole,
)
from torchroom.console.edge import BodyLimit, SafeAnswers
from torchroom.console.guards import Console
from torchroom.console.housekeeping import Housekeeping
from torchroom.console.page import HubPages
from torchroom.console.shown import Problem

TITLE = "Torchroom tokens"
DESCRIPTION = """Prepaid compute credit. Amounts are integers of microtokens: 1 token is
1,000,000. Times are ISO 8601; answers give UTC. Every request that moves tokens carries
an Idempotency-Key: sent again with the same key it changes nothing and gets the same
answer, and another request with that key is refused. An extension of a server has a
number instead."""

_REFUSALS: dict[int | str, dict[str, Any]] = {
    422: {"model": Problem, "description": "Something in the request cannot be used."},
    503: {"model": Problem, "description": "The database or the hub does not answer."},
    500: {"model": Problem, "description": "Something is wrong; an admin must look."},
    400: {"model": Problem, "description": "The request cannot be read."},
    408: {"model": Problem, "description": "The request did not arrive in time."},
    413: {"model": Problem, "description": "The request is too long."},
}
_GUARDED: dict[int | str, dict[str, Any]] = {
    401: {"model": Problem, "description": "The hub knows no such token."},
    403: {"model": Problem, "description": "The token lacks a scope."},
    404: {"model": Problem, "description": "There is no such course, voucher, ..."},
}


def create(
    console: Console, *, pages: HubPages, housekeeping: Housekeeping | None = None
) -> ASGIApp:
    """Return the application; it closes the console's connections when it ends.

    Args:
        console: What the routes work on.
        pages: Where the hub's pages are, and these.
        housekeeping: Runs while the application does.
    """

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        if housekeeping:
            housekeeping.start()
        try:
            yield
        finally:
            if housekeeping:
                await housekeeping.end()
            await console.hub.close()
            await console.extending.close()
            await console.ledger.close()

    api = f"{pages.prefix}api/v1"
    app = FastAPI(
        title=TITLE,
        description=DESCRIPTION,
        version="1",
        openapi_url=f"{api}/openapi.json",
        docs_url=None,  # they would load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.console = console
    app.state.housekeeping = housekeeping
    answers.install(app)
    router = APIRouter(prefix=api, responses=_REFUSALS)
    guarded = (
        me,
        servers,
        users,
        courses,
        allowances,
        vouchers,
        prices,
        whole,
        steward,
    )
    for guarded_room in guarded:
        router.include_router(guarded_room.router, responses=_GUARDED)
    for public in (topups, health):
        router.include_router(public.router)
    app.include_router(router)
    app.include_router(page.router(pages))
    app.add_middleware(BodyLimit)
    return SafeAnswers(app)  # outermost: answers to what failed are safe, too
