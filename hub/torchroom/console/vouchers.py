"""Vouchers, for admins: make them, see what became of them, revoke them."""

from typing import Annotated, Self

from fastapi import APIRouter, Path, Response, status
from pydantic import BaseModel, Field

from torchroom.console.guards import PAGE_DEFAULT, Admin, ConsoleOf, Cursor, Limit
from torchroom.console.schemas import VouchersIn
from torchroom.console.shown import At, Micro, Problem
from torchroom.ledger.vouchers import Voucher

ID_MAX = 64

router = APIRouter(prefix="/vouchers", tags=["vouchers"])


class NewVoucherOut(BaseModel):
    """A voucher that was just made."""

    id: str
    code: str = Field(description="Shown once: the ledger does not keep it.")


class NewVouchersOut(BaseModel):
    """The vouchers that were just made."""

    items: list[NewVoucherOut]


class VoucherOut(BaseModel):
    """What became of a voucher."""

    id: str
    microtokens: Micro
    course: str
    expires_at: At | None
    tokens_expire_at: At | None
    note: str
    actor: str
    created_at: At
    revoked_at: At | None
    redeemed_by: str = Field(description='"": nobody has.')
    redeemed_at: At | None

    @classmethod
    def of(cls, voucher: Voucher) -> Self:
        """Return it as it is shown."""
        return cls(
            id=voucher.id,
            microtokens=voucher.amount,
            course=voucher.course,
            expires_at=voucher.expires_at,
            tokens_expire_at=voucher.tokens_expire_at,
            note=voucher.note,
            actor=voucher.actor,
            created_at=voucher.created_at,
            revoked_at=voucher.revoked_at,
            redeemed_by=voucher.redeemed_by,
            redeemed_at=voucher.redeemed_at,
        )


class VouchersOut(BaseModel):
    """A page of vouchers, newest first."""

    items: list[VoucherOut]
    next: str | None = Field(description="Send it as `cursor` to go on; null: the end.")


@router.get("")
async def page(
    console: ConsoleOf,
    _who: Admin,
    limit: Limit = PAGE_DEFAULT,
    cursor: Cursor = None,
) -> VouchersOut:
    """Vouchers without their codes, newest first."""
    found = await console.ledger.vouchers.list(limit=limit, cursor=cursor)
    return VouchersOut(
        items=[VoucherOut.of(voucher) for voucher in found.items], next=found.next
    )


@router.post("", status_code=status.HTTP_201_CREATED)
async def create(console: ConsoleOf, who: Admin, wanted: VouchersIn) -> NewVouchersOut:
    """Make vouchers. Their codes are in this answer only.

    Tokens move when they are redeemed, so vouchers whose answer was lost cost nothing:
    revoke them.
    """
    made = await console.ledger.vouchers.create(
        wanted.n,
        wanted.microtokens,
        actor=who.actor,
        at=console.now(),
        expires_at=wanted.expires_at,
        tokens_expire_at=wanted.tokens_expire_at,
        course=wanted.course or "",
        note=wanted.note,
    )
    return NewVouchersOut(
        items=[NewVoucherOut(id=voucher.id, code=voucher.code) for voucher in made]
    )


@router.delete(
    "/{id}",
    status_code=status.HTTP_204_NO_CONTENT,
    responses={409: {"model": Problem, "description": "It was redeemed."}},
)
async def revoke(
    console: ConsoleOf,
    _who: Admin,
    id: Annotated[str, Path(max_length=ID_MAX, pattern="^[0-9a-z_]+$")],  # noqa: A002
) -> Response:
    """Make a voucher worth nothing; one that was redeemed is refused."""
    await console.ledger.vouchers.revoke(id, at=console.now())
    return Response(status_code=status.HTTP_204_NO_CONTENT)
