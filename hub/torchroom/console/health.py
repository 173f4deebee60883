"""Whether the console does its work, for whoever watches it."""

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from torchroom.console.guards import ConsoleOf

router = APIRouter(tags=["health"])


class HealthOut(BaseModel):
    """The console answers and reaches its database."""

    status: Literal["ok"]


@router.get("/health")
async def health(console: ConsoleOf) -> HealthOut:
    """Whether the console reaches its database. Needs no token."""
    await console.ledger.check()
    return HealthOut(status="ok")
