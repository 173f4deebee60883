"""Tokens: what is left and how fast this server uses them. No I/O here.

There is one way in, the port ``Meter``; the facts name its provider. Amounts are
integers of microtokens (1 token = 1,000,000) from end to end: no floats.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torchroom_welcome.facts import TokenFacts
from torchroom_welcome.panel import Note

MICROTOKENS_PER_TOKEN = 1_000_000
SECONDS_PER_HOUR = 3600
HOURS_PER_DAY = 24


@dataclass(frozen=True)
class Reading:
    """One look at the meter; None means not known, never zero."""

    balance_microtokens: int | None
    rate_microtokens_per_s: int | None
    note: Note


class Meter(Protocol):
    """Where a balance and a rate come from. ``read`` does not raise."""

    def read(self) -> Reading:
        """What is known now."""
        ...


@dataclass(frozen=True)
class PlaceholderMeter:
    """For a hub that does not meter: knows no amounts and says so."""

    text: str

    def read(self) -> Reading:
        """No amounts, and the hub's sentence about it."""
        text = self.text or "Tokens are not metered on this hub yet."
        return Reading(None, None, Note("info", f"Placeholder: {text}"))


@dataclass(frozen=True)
class FactsMeter:
    """Amounts as the hub wrote them when this server started."""

    facts: TokenFacts

    def read(self) -> Reading:
        """The amounts as written; they do not move while the server runs."""
        text = self.facts.note or "As of the start of this server."
        return Reading(
            self.facts.balance_microtokens,
            self.facts.rate_microtokens_per_s,
            Note("info", text),
        )


@dataclass(frozen=True)
class UnknownMeter:
    """For a provider this page has never heard of: shows no amounts."""

    provider: str

    def read(self) -> Reading:
        """No amounts, and where to look for them."""
        text = (
            f"This page cannot read tokens from the provider {self.provider!r}. "
            "The hub's own page shows your balance."
        )
        return Reading(None, None, Note("warn", text))


PROVIDERS: dict[str, Callable[[TokenFacts], Meter]] = {
    "placeholder": lambda facts: PlaceholderMeter(facts.note),
    "none": lambda facts: PlaceholderMeter(facts.note),
    "facts": FactsMeter,
}


def meter_for(facts: TokenFacts) -> Meter:
    """The meter the facts ask for; a placeholder wins over its provider's name."""
    if facts.is_placeholder:
        return PlaceholderMeter(facts.note)
    make = PROVIDERS.get(facts.provider)
    return make(facts) if make else UnknownMeter(facts.provider)


def rows(reading: Reading) -> tuple[tuple[str, str], ...]:
    """Balance, burn rate and, where both are known, how long that lasts."""
    balance, rate = reading.balance_microtokens, reading.rate_microtokens_per_s
    shown = [
        ("Balance", "not known" if balance is None else tokens_text(balance)),
        ("Burn rate", "not known" if rate is None else _rate_text(rate)),
    ]
    if balance is not None and rate:
        shown.append(("Lasts for", duration_text(max(balance, 0) // rate)))
    return tuple(shown)


def tokens_text(microtokens: int) -> str:
    """Exact: 1234500000 -> '1,234.5 tokens'."""
    whole, part = divmod(abs(microtokens), MICROTOKENS_PER_TOKEN)
    digits = f"{part:06d}".rstrip("0")
    sign = "-" if microtokens < 0 else ""
    amount = f"{sign}{whole:,}" + (f".{digits}" if digits else "")
    return f"{amount} token" if amount == "1" else f"{amount} tokens"


def _rate_text(microtokens_per_s: int) -> str:
    if microtokens_per_s == 0:
        return "free"
    per_hour = tokens_text(microtokens_per_s * SECONDS_PER_HOUR)
    return f"{per_hour} per hour ({microtokens_per_s:,} microtokens per second)"


def duration_text(seconds: int) -> str:
    """Whole seconds for people: 12000 -> '3 h 20 min'; rounds down."""
    hours, minutes = seconds // 3600, seconds % 3600 // 60
    if hours >= 2 * HOURS_PER_DAY:
        return f"{hours // HOURS_PER_DAY} d {hours % HOURS_PER_DAY} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if minutes else "less than a minute"
