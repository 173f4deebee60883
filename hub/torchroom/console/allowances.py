"""What the members of a course get of its tokens, every week or month."""

from typing import Annotated, Self

from fastapi import APIRouter, Path, Response, status
from pydantic import BaseModel, Field

from torchroom.console.guards import Admin, ConsoleOf, CourseName
from torchroom.console.schemas import AllowanceIn
from torchroom.console.shown import At, Micro
from torchroom.ledger.periods import Every
from torchroom.ledger.portions import Allowance, Mode

ID_MAX = 2**63 - 1

router = APIRouter(prefix="/courses/{course}/allowances", tags=["allowances"])


class AllowanceOut(BaseModel):
    """Tokens for every member of a course, every period."""

    id: int
    course: str
    period: str
    mode: str
    microtokens: Micro
    time_zone: str
    valid_from: At
    ended_at: At | None = Field(description="null: it goes on.")
    actor: str

    @classmethod
    def of(cls, allowance: Allowance) -> Self:
        """Return it as it is shown."""
        return cls(
            id=allowance.id,
            course=allowance.course,
            period=allowance.every.value,
            mode=allowance.mode.value,
            microtokens=allowance.amount,
            time_zone=allowance.time_zone,
            valid_from=allowance.valid_from,
            ended_at=allowance.ended_at,
            actor=allowance.actor,
        )


class AllowancesOut(BaseModel):
    """All allowances of a course, ended ones too, oldest first."""

    items: list[AllowanceOut]


@router.get("")
async def every(console: ConsoleOf, _who: Admin, course: CourseName) -> AllowancesOut:
    """The allowances of a course."""
    found = await console.ledger.allowances.list(course)
    return AllowancesOut(items=[AllowanceOut.of(allowance) for allowance in found])


@router.post("")
async def define(
    console: ConsoleOf, who: Admin, course: CourseName, wanted: AllowanceIn
) -> AllowanceOut:
    """Have such an allowance from now on. One that is there already is not doubled."""
    return AllowanceOut.of(
        await console.ledger.allowances.define(
            course,
            every=Every(wanted.period),
            mode=Mode(wanted.mode),
            amount=wanted.microtokens,
            time_zone=wanted.time_zone,
            actor=who.actor,
            at=console.now(),
        )
    )


@router.delete("/{id}", status_code=status.HTTP_204_NO_CONTENT)
async def end(
    console: ConsoleOf,
    _who: Admin,
    course: CourseName,
    id: Annotated[int, Path(ge=1, le=ID_MAX)],  # noqa: A002 - its name in the address
) -> Response:
    """End an allowance. What it gave stays given."""
    await console.ledger.allowances.end(id, course=course, at=console.now())
    return Response(status_code=status.HTTP_204_NO_CONTENT)
