"""Taking from the accounts of one owner, and which accounts tokens may be given to."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from torchroom.ledger.amounts import text_of
from torchroom.ledger.database import micros
from torchroom.ledger.drawing import LAST, consume
from torchroom.ledger.errors import BadInput, NotEnough, NotFound
from torchroom.ledger.journal import Balance
from torchroom.ledger.model import Posting
from torchroom.ledger.names import check_name
from torchroom.ledger.tables import NEVER, courses


def take(
    found: Sequence[Balance], amount: int, at: datetime, *, who: str
) -> tuple[Posting, ...]:
    """Return what each account gives of an amount, the soonest expiring first.

    Raises:
        NotEnough: What is available at this moment does not suffice.
    """
    usable = [each for each in found if each.amount > 0 and is_usable(each, at)]
    usable.sort(key=lambda each: each.account.expires_at or LAST)
    available = sum(each.amount for each in usable)
    if available < amount:
        raise NotEnough(
            f"Of {who}'s tokens {text_of(available)} can be taken, not "
            f"{text_of(amount)}. What is reserved for running servers comes free when "
            "they end. Nothing was changed."
        )
    return consume([Posting(each.account, each.amount) for each in usable], amount)[0]


def is_usable(balance: Balance, at: datetime) -> bool:
    """Return whether the tokens of an account are not expired at a moment."""
    expires_at = balance.account.expires_at
    return expires_at is None or expires_at > at


def check_in_future(expires_at: datetime | None, at: datetime) -> None:
    """Return only if tokens that expire then are worth giving.

    Raises:
        BadInput: They would be expired already.
    """
    if micros(expires_at) != NEVER and micros(expires_at) <= micros(at):
        raise BadInput("An expiry must be in the future. Choose a later one, or none.")


async def check_earmark(
    conn: AsyncConnection, course: str, *, lock: bool = False
) -> None:
    """Return only if tokens can be earmarked so: for no course or one there is.

    Args:
        conn: Of a transaction; a write if it locks.
        course: Its name, or "".
        lock: Nobody else locks this course before the transaction ends.

    Raises:
        BadInput: That is not the name of a course.
        NotFound: There is no such course.
    """
    if not course:
        return
    check_name(course, "A course's name")
    query = select(courses.c.name).where(courses.c.name == course)
    if await conn.scalar(query.with_for_update() if lock else query) is None:
        raise no_course(course)


def no_course(course: str) -> NotFound:
    """Return what to say of a course that is not there."""
    return NotFound(
        f"The ledger has no course {course!a}. Set it up first: give it a title."
    )
