"""What requests must look like, checked strictly.

Amounts are integers of microtokens: no fractions, no text, no true and false. Times are
ISO 8601 with a zone. What is not described here is refused.
"""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from torchroom.ledger.model import AMOUNT_MAX
from torchroom.ledger.names import NAME_MAX, NOTE_MAX, check_name, check_note
from torchroom.ledger.prices import check_price_key

YEARS = range(2000, 3000)
TYPED_MAX = 64
ZONE_MAX = 64
VOUCHERS_MAX = 500
EXTENSION_MAX = 1_000_000
TIME_EXAMPLE = "2027-01-31T12:00:00Z"


def _time(value: Any) -> datetime:
    """Return the moment in UTC. Only text with a zone is one."""
    if isinstance(value, datetime):
        return value.astimezone(UTC)
    wrong = ValueError(f"a time must look like {TIME_EXAMPLE}")
    if not isinstance(value, str):
        raise wrong
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise wrong from None
    if moment.tzinfo is None or moment.year not in YEARS:
        raise wrong
    return moment.astimezone(UTC)


def _user(name: str) -> str:
    return check_name(name, "A user's name")


def _course(name: str) -> str:
    return check_name(name, "A course's name")


def _title(name: str) -> str:
    return check_name(name, "A title")


Amount = Annotated[
    int,
    Field(
        strict=True, ge=1, le=AMOUNT_MAX, description="1 token is 1,000,000 of these."
    ),
]
Time = Annotated[
    datetime, BeforeValidator(_time), Field(json_schema_extra={"format": "date-time"})
]
_Name = Field(min_length=1, max_length=NAME_MAX)
Note = Annotated[str, Field(max_length=NOTE_MAX), AfterValidator(check_note)]
User = Annotated[str, _Name, AfterValidator(_user)]
Course = Annotated[str, _Name, AfterValidator(_course)]
Title = Annotated[str, _Name, AfterValidator(_title)]
PriceKey = Annotated[str, _Name, AfterValidator(check_price_key)]


class _In(BaseModel):
    """What somebody sends."""

    model_config = ConfigDict(extra="forbid", strict=True)


class GrantIn(_In):
    """Tokens for a user."""

    microtokens: Amount
    expires_at: Time | None = None
    course: Course | None = Field(None, description="Only for servers of this course.")
    note: Note = ""


class TakeBackIn(_In):
    """Tokens taken from a user."""

    microtokens: Amount
    course: Course | None = Field(None, description="Those earmarked for it.")
    note: Note = ""


class CourseIn(_In):
    """What a course is."""

    title: Title
    student_cap: Annotated[int, Field(strict=True, ge=0, le=AMOUNT_MAX)] | None = Field(
        description="The most one student draws from the course's tokens, null: no cap."
    )


class BudgetIn(_In):
    """Tokens for a course, or taken from one."""

    microtokens: Amount
    note: Note = ""


class HandOutIn(_In):
    """Tokens of a course for a student, or back from one."""

    user: User
    microtokens: Amount
    note: Note = ""


class AllowanceIn(_In):
    """Tokens of a course for each of its members, again and again."""

    period: Literal["weekly", "monthly"]
    mode: Literal["refill", "add"] = Field(
        description="refill: up to this amount; add: this amount each time."
    )
    microtokens: Amount
    time_zone: Annotated[str, Field(min_length=1, max_length=ZONE_MAX)] = Field(
        description="Where a period begins at midnight, like Europe/Berlin."
    )


class VouchersIn(_In):
    """Vouchers to print."""

    n: Annotated[int, Field(strict=True, ge=1, le=VOUCHERS_MAX)] = 1
    microtokens: Amount
    expires_at: Time | None = Field(
        None, description="Until when they can be redeemed; null: for ever."
    )
    tokens_expire_at: Time | None = Field(None, description="Of the tokens they give.")
    course: Course | None = None
    note: Note = ""


class RedeemIn(_In):
    """A voucher's code, as it was typed."""

    code: Annotated[str, Field(min_length=1, max_length=TYPED_MAX)]


class ExtensionIn(_In):
    """More time for a server."""

    lease: Annotated[str, Field(min_length=1, max_length=NAME_MAX)] = Field(
        description="`lease` of the server's notice: which start of it is meant."
    )
    extension: Annotated[int, Field(strict=True, ge=1, le=EXTENSION_MAX)] = Field(
        description="Which: `next_extension` of the server's notice."
    )


class PriceIn(_In):
    """What one slot of a type costs from a time on."""

    key: PriceKey = Field(description='A type of slot, "cpu", or "*" for all others.')
    microtokens_per_hour: (
        Annotated[int, Field(strict=True, ge=0, le=AMOUNT_MAX)] | None
    ) = Field(description="null: no price any more, such slots are refused.")
    valid_from: Time | None = Field(None, description="Now, if it is left out.")


class TopUpIn(_In):
    """What a payment system sends; its signature is over the very bytes."""

    id: Annotated[str, Field(min_length=1)]
    user: Annotated[str, _Name]
    microtokens: Amount
    note: str = ""
