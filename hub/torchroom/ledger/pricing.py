"""What time costs: whole seconds at a price per hour, in exact integers.

A charge is always counted from the start of a lease. What a slice of it costs is the
difference of two charges, so it does not matter how a lease is cut into slices.
"""

from collections.abc import Mapping, Sequence

from torchroom.ledger.amounts import check_amount, text_of
from torchroom.ledger.errors import BadInput, UnknownPrice
from torchroom.ledger.model import AMOUNT_MAX, ANY, CPU

HOUR_S = 3600
PRICE_MAX = AMOUNT_MAX // 10_000
"""Microtokens per hour: so a year of it is still an amount that one posting moves."""


def charge(per_hour: int, seconds: int) -> int:
    """Return what the first seconds of a lease cost, rounded down to a microtoken.

    Args:
        per_hour: Microtokens per hour, >= 0.
        seconds: Whole seconds since it was ready, >= 0.

    Raises:
        ValueError: An argument is negative.
    """
    if per_hour < 0 or seconds < 0:
        raise ValueError(f"{per_hour} per hour for {seconds} s is not a charge")
    return per_hour * seconds // HOUR_S


def seconds_for(per_hour: int, amount: int) -> int:
    """Return the most seconds whose charge is not more than the amount.

    Args:
        per_hour: Microtokens per hour, > 0.
        amount: Microtokens, >= 0.

    Raises:
        ValueError: Out of these ranges.
    """
    if per_hour <= 0 or amount < 0:
        raise ValueError(f"{amount} at {per_hour} per hour do not end")
    return (HOUR_S * (amount + 1) - 1) // per_hour


def per_hour_of(slot_types: Sequence[str], prices: Mapping[str, int | None]) -> int:
    """Return what slots cost together, in microtokens per hour.

    Args:
        slot_types: Of every slot; (CPU,) for a server without one. Not empty.
        prices: Key -> microtokens per hour; None: there is no price any more. A type
            without an entry costs what ANY does, but a CPU server never does.

    Raises:
        UnknownPrice: A slot has no price: it is refused, and never free by accident.
        BadInput: Together they cost more than PRICE_MAX.
    """
    if not slot_types:
        raise ValueError("a server without a slot is priced as (CPU,)")
    return check_price(sum(_price(key, prices) for key in slot_types))


def check_price(per_hour: int) -> int:
    """Return the price.

    Raises:
        BadInput: Not a whole number from 0 to PRICE_MAX.
    """
    if check_amount(per_hour, least=0) > PRICE_MAX:
        raise BadInput(f"An hour costs at most {text_of(PRICE_MAX)}.")
    return per_hour


def _price(key: str, prices: Mapping[str, int | None]) -> int:
    default = None if key == CPU else prices.get(ANY)
    found = prices.get(key, default)
    if found is None:
        what = "A CPU server" if key == CPU else f"{key!r}"
        raise UnknownPrice(
            f"{what} has no price on this hub, so it cannot be started. Choose another "
            "size, or ask an admin to set its price."
        )
    return found
