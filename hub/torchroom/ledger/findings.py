"""What a check of the ledger says about what is wrong."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy import Row, Select
from sqlalchemy.ext.asyncio import AsyncConnection

T = TypeVar("T")
SHOWN = 10
"""So many sentences of one kind, and one that says that there are more."""

Check = Callable[[AsyncConnection], Awaitable[list[str]]]
"""Returns a sentence for each thing that is wrong; trusts no cache, changes nothing."""


async def wrong(
    conn: AsyncConnection,
    query: Select[*tuple[Any, ...]],
    say: Callable[[Row[Any]], str],
) -> list[str]:
    """Return a sentence for each row of a query that finds only what is wrong."""
    return told((await conn.execute(query.limit(SHOWN + 1))).all(), say)


def told(found: Sequence[T], say: Callable[[T], str]) -> list[str]:
    """Return a sentence for each, up to SHOWN."""
    more = ["There is more of this kind."] if len(found) > SHOWN else []
    return [say(each) for each in found[:SHOWN]] + more
