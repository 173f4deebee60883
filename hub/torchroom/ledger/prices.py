"""What slots cost from when on. A lease keeps the price that it was started with."""

import tomllib
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from sqlalchemy import Row, delete, insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from torchroom.ledger.amounts import parse_tokens
from torchroom.ledger.database import Database, micros, moment
from torchroom.ledger.errors import BadInput
from torchroom.ledger.model import Price
from torchroom.ledger.names import NAME_MAX, check_actor, check_note
from torchroom.ledger.pricing import check_price
from torchroom.ledger.tables import prices

EXAMPLE = Path(__file__).with_name("prices.example.toml")
SECTION = "tokens_per_hour"


class Prices:
    """The price list and its past."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def current(self, at: datetime) -> dict[str, int | None]:
        """Return the price of every key at a moment, in microtokens per hour.

        None: there is no price any more.
        """
        async with self._db.read() as conn:
            return await price_list(conn, at)

    async def all(self) -> list[Price]:
        """Return every price that was ever set, by key, the oldest first."""
        query = select(prices).order_by(prices.c.key, prices.c.valid_from)
        async with self._db.read() as conn:
            return [_price(row) for row in await conn.execute(query)]

    async def set(
        self,
        key: str,
        per_hour: int | None,
        *,
        at: datetime,
        actor: str,
        valid_from: datetime | None = None,
    ) -> Price:
        """Set what a slot type costs from a moment on; the same again changes nothing.

        A price that is not valid yet is replaced by another one from the same moment.

        Args:
            key: See Price.
            per_hour: Microtokens; None: no price any more, such slots are refused.
            at: Now.
            actor: Who sets it.
            valid_from: Not before `at`, which it is if it is left out.

        Raises:
            BadInput: Something cannot be used, or it would change the past.
        """
        check_actor(actor)
        start = valid_from or at
        price = Price(check_price_key(key), _checked(per_hour), start, actor)

        async def work(conn: AsyncConnection) -> Price:
            await _lock(conn)
            known = await _find(conn, price)
            if known is not None and known.per_hour == price.per_hour:
                return known
            if micros(start) < micros(at) or (known and micros(start) == micros(at)):
                raise BadInput(
                    "A price cannot be changed for the past. Let it be valid from now "
                    "on, or later."
                )
            if known is not None:
                same = (prices.c.key == key) & (prices.c.valid_from == micros(start))
                await conn.execute(delete(prices).where(same))
            await _insert(conn, [price], at)
            return price

        return await self._db.run(work)

    async def load(self, listing: str, *, at: datetime, actor: str) -> int:
        """Load a price list into a ledger without any price; return how many it took.

        Raises:
            BadInput: See `parse`.
        """
        listed = parse(listing)

        async def work(conn: AsyncConnection) -> int:
            await _lock(conn)
            if await conn.scalar(select(prices.c.id).limit(1)) is not None:
                return 0
            new = [Price(key, per_hour, at, actor) for key, per_hour in listed.items()]
            await _insert(conn, new, at)
            return len(new)

        return await self._db.run(work)


async def price_list(conn: AsyncConnection, at: datetime) -> dict[str, int | None]:
    """Return the price of every key at a moment; see `Prices.current`."""
    query = (
        select(prices.c.key, prices.c.per_hour)
        .where(prices.c.valid_from <= micros(at))
        .order_by(prices.c.valid_from)
    )
    return {row.key: row.per_hour for row in await conn.execute(query)}


def parse(listing: str) -> dict[str, int]:
    """Return the prices of a list like prices.example.toml, in microtokens per hour.

    Raises:
        BadInput: Not such a list; the sentence says where.
    """
    try:
        listed = tomllib.loads(listing)
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"The price list is not TOML: {error}.") from error
    section = listed.get(SECTION)
    if not isinstance(section, Mapping) or len(listed) > 1:
        raise BadInput(f"A price list has one section, [{SECTION}].")
    return {check_price_key(key): _tokens(key, price) for key, price in section.items()}


def check_price_key(key: str) -> str:
    """Return the key of a price, unchanged.

    Raises:
        BadInput: Empty, over 255 characters, with a control character, or with a space
            at an end.
    """
    if not 1 <= len(key) <= NAME_MAX or key != key.strip():
        raise BadInput(
            f"A slot type has 1 to {NAME_MAX} characters and no space at its ends."
        )
    return check_note(key, "A slot type")


def _tokens(key: str, value: object) -> int:
    if not isinstance(value, str):
        raise BadInput(
            f'The price of {key!a} must be in quotes, like "12.5": a number without '
            "them would not be exact."
        )
    return check_price(parse_tokens(value))


def _checked(per_hour: int | None) -> int | None:
    return None if per_hour is None else check_price(per_hour)


async def _lock(conn: AsyncConnection) -> None:
    """Let nobody else change prices until this transaction ends."""
    if conn.dialect.name != "sqlite":  # there only one transaction writes at a time
        await conn.execute(text("LOCK TABLE prices IN SHARE ROW EXCLUSIVE MODE"))


async def _find(conn: AsyncConnection, price: Price) -> Price | None:
    """Return what is set for this key from this moment on."""
    query = select(prices).where(
        prices.c.key == price.key, prices.c.valid_from == micros(price.valid_from)
    )
    row = (await conn.execute(query)).first()
    return _price(row) if row else None


async def _insert(conn: AsyncConnection, new: list[Price], at: datetime) -> None:
    rows = [
        {
            "key": each.key,
            "per_hour": each.per_hour,
            "valid_from": micros(each.valid_from),
            "actor": each.actor,
            "recorded_at": micros(at),
        }
        for each in new
    ]
    if rows:
        await conn.execute(insert(prices), rows)


def _price(row: Row[tuple[object, ...]]) -> Price:
    valid_from = moment(row.valid_from)
    if valid_from is None:
        raise ValueError(f"price {row.id} is valid from never")
    return Price(row.key, row.per_hour, valid_from, row.actor)
