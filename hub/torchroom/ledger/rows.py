"""Rows of the ledger's tables as values."""

import functools
import json
from typing import Any

from torchroom.ledger.database import moment
from torchroom.ledger.model import MeteredLease, Payer


def lease_of(row: Any) -> MeteredLease:
    """Return the lease of a row that has all columns of `leases`."""
    held_at = moment(row.held_at)
    if held_at is None:
        raise ValueError(f"lease {row.id} was never held")
    return MeteredLease(
        id=row.id,
        payer=Payer(row.user, row.server, row.course),
        slot_types=slot_types_of(row.slot_types),
        per_hour=row.per_hour,
        held_at=held_at,
        ready_at=moment(row.ready_at),
        settled_s=row.settled_s,
        ended_at=moment(row.ended_at),
        reason=row.reason,
    )


@functools.lru_cache(maxsize=1000)
def slot_types_of(text: str) -> tuple[str, ...]:
    """Return the column of slot types as values; there are few different ones."""
    return tuple(json.loads(text))
