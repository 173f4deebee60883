"""Amounts in and out of text, exactly: no floats anywhere."""

import re

from torchroom.ledger.errors import BadInput
from torchroom.ledger.model import AMOUNT_MAX, MICRO

DIGITS = 6
SHOWN = 40
_TOKENS = re.compile(r"(\d{1,10})(?:\.(\d{1,6}))?", re.ASCII)


def parse_tokens(text: str) -> int:
    """Return microtokens of a decimal like "12.5".

    Raises:
        BadInput: Not such a number, finer than a microtoken, or over AMOUNT_MAX.
    """
    found = _TOKENS.fullmatch(text.strip())
    if not found:
        raise BadInput(
            f"{text[:SHOWN]!r} is not an amount. Write tokens as a plain number with "
            "at most six decimals, like 12.5."
        )
    amount = int(found[1]) * MICRO + int((found[2] or "").ljust(DIGITS, "0"))
    return check_amount(amount, least=0)


def check_amount(amount: int, *, least: int = 1) -> int:
    """Return the amount.

    Raises:
        BadInput: Not a whole number, below `least` or over AMOUNT_MAX.
    """
    if isinstance(amount, bool) or not isinstance(amount, int):
        raise BadInput("An amount is a whole number of microtokens.")
    if not least <= amount <= AMOUNT_MAX:
        raise BadInput(
            f"An amount must be between {text_of(least)} and {text_of(AMOUNT_MAX)}."
        )
    return amount


def text_of(amount: int) -> str:
    """Return tokens as people read them, exactly: 1234500000 is "1,234.5 tokens"."""
    whole, part = divmod(abs(amount), MICRO)
    digits = f"{part:0{DIGITS}d}".rstrip("0")
    text = f"{'-' if amount < 0 else ''}{whole:,}" + (f".{digits}" if digits else "")
    return f"{text} token" if text == "1" else f"{text} tokens"
