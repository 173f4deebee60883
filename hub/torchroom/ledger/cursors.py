"""Where a page of a history ended, as text that clients send back. Pure."""

import base64
import binascii
from dataclasses import dataclass

from torchroom.ledger.errors import BadInput

LIMIT_MAX = 200
_NUMBER_MAX = 2**63 - 1
_ID_MAX = 64
_PLACES = 3


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page ended: what follows is below in either stream.

    Attributes:
        posting_id: Postings below this one are to come.
        held_at: Leases before this column, or at it with a smaller id, are to come.
        lease_id: See held_at.
    """

    posting_id: int = _NUMBER_MAX
    held_at: int = _NUMBER_MAX
    lease_id: str = ""

    def text(self) -> str:
        """Return it as a cursor that means nothing to its reader."""
        told = f"{self.posting_id} {self.held_at} {self.lease_id}"
        return base64.urlsafe_b64encode(told.encode()).decode().rstrip("=")


def place_of(cursor: str | None) -> Place:
    """Return the place of a cursor; None is the beginning.

    Raises:
        BadInput: It is not one that a page gave.
    """
    if cursor is None:
        return Place()
    try:
        told = base64.b64decode(
            cursor.encode() + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True
        )
        posting_id, held_at, lease_id = told.decode().split(" ", _PLACES - 1)
        place = Place(_number(posting_id), _number(held_at), lease_id)
    except (binascii.Error, ValueError) as error:
        raise BadInput(
            "This cursor is not one of this list. Begin again without a cursor."
        ) from error
    if len(lease_id) > _ID_MAX or "\0" in lease_id:
        raise BadInput("This cursor is not one of this list.")
    return place


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text[:20]) <= _NUMBER_MAX):
        raise ValueError(text)
    return int(text[:20])


def check_limit(limit: int) -> int:
    """Return it.

    Raises:
        BadInput: Not 1 to 200.
    """
    if not 1 <= limit <= LIMIT_MAX:
        raise BadInput(f"A page has 1 to {LIMIT_MAX} rows.")
    return limit
