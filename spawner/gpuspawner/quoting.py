"""What a server would cost: what the meter is asked, and what its answers come to."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gpuspawner.model import CPU_TYPE, Quote, Slot, SlotRequest
from gpuspawner.slots import fits

MICRO = 1_000_000  # microtokens in a token
DIGITS = 6


@dataclass(frozen=True, slots=True)
class Tag:
    """The price of an offer.

    Attributes:
        per_hour: Microtokens per hour of the cheapest server it can become, None if
            nobody knows.
        is_least: It can become a dearer one, too.
        refusal: Why it cannot be paid for whatever it becomes, "" if it can.
    """

    per_hour: int | None = None
    is_least: bool = False
    refusal: str = ""

    def __str__(self) -> str:
        """Return the price as the form shows it, "" if it is not known."""
        if self.per_hour is None:
            return ""
        if self.per_hour == 0 and not self.is_least:
            return "free"
        text = f"{tokens(self.per_hour)} per hour"
        return f"from {text}" if self.is_least else text


def tokens(microtokens: int) -> str:
    """Return an amount exactly, like "10 tokens" or "1,234.5 tokens"."""
    whole, part = divmod(microtokens, MICRO)
    digits = f"{part:0{DIGITS}d}".rstrip("0")
    text = f"{whole:,}.{digits}" if digits else f"{whole:,}"
    return f"{text} token" if text == "1" else f"{text} tokens"


def choices(request: SlotRequest, slots: Iterable[Slot]) -> tuple[tuple[str, ...], ...]:
    """Return the types of all slots of each server that a request can become.

    () if the machine has nothing that suits it. Slots of one server are of one type.
    """
    if not request.n_slots:
        return ((CPU_TYPE,),)
    types = dict.fromkeys(slot.type for slot in slots if fits(slot, request))
    return tuple((type_,) * request.n_slots for type_ in types)


def tag(answers: Sequence[Sequence[Quote]]) -> Tag:
    """Return the price of an offer.

    Args:
        answers: By payer, the preferred one first; each in the order of `choices`.
    """
    quotes = [quote for row in answers for quote in row]
    prices = {quote.per_hour for quote in quotes} - {None}
    refusal = ""
    if quotes and all(quote.refusal for quote in quotes):
        refusal = min(quotes, key=_price).refusal
    known = sorted(price for price in prices if price is not None)
    return Tag(known[0] if known else None, len(known) > 1, refusal)


def _price(quote: Quote) -> float:
    """Return what orders quotes: the cheapest first, those without a price last."""
    return float("inf") if quote.per_hour is None else quote.per_hour
