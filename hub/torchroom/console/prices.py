"""What slots cost: everybody may know, admins decide."""

from typing import Self

from fastapi import APIRouter
from pydantic import BaseModel, Field

from torchroom.console.guards import Admin, ConsoleOf, Who
from torchroom.console.schemas import PriceIn
from torchroom.console.shown import At, Micro
from torchroom.ledger.model import Price

router = APIRouter(prefix="/prices", tags=["prices"])


class PriceOut(BaseModel):
    """What one slot of a type costs."""

    key: str = Field(description='A type of slot, "cpu", or "*" for all others.')
    microtokens_per_hour: Micro | None = Field(description="null: such are refused.")
    valid_from: At

    @classmethod
    def of(cls, price: Price) -> Self:
        """Return it as it is shown."""
        return cls(
            key=price.key,
            microtokens_per_hour=price.per_hour,
            valid_from=price.valid_from,
        )


class PricesOut(BaseModel):
    """What slots cost now, and what is decided for later."""

    items: list[PriceOut]
    upcoming: list[PriceOut]


@router.get("")
async def current(console: ConsoleOf, _who: Who) -> PricesOut:
    """The price list. A server keeps the price that it was started with."""
    now = console.now()
    known = await console.ledger.prices.all()
    last = {price.key: price for price in known if price.valid_from <= now}
    return PricesOut(
        items=[PriceOut.of(price) for price in last.values()],
        upcoming=[PriceOut.of(price) for price in known if price.valid_from > now],
    )


@router.post("")
async def put(console: ConsoleOf, who: Admin, wanted: PriceIn) -> PriceOut:
    """Set a price, from now on or from a later time on. The same again does nothing."""
    return PriceOut.of(
        await console.ledger.prices.set(
            wanted.key,
            wanted.microtokens_per_hour,
            at=console.now(),
            actor=who.actor,
            valid_from=wanted.valid_from,
        )
    )
