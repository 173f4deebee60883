"""Tokens: what is left and how fast they go.

There is one way in, the port ``Meter``; the facts name its provider. Amounts are
integers of microtokens (1 token = 1,000,000) from end to end: no floats. The only I/O
is a provider's own, see ``wallet``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torchroom_welcome import wallet
from torchroom_welcome.facts import TokenFacts
from torchroom_welcome.panel import Note

MICROTOKENS_PER_TOKEN = 1_000_000
SECONDS_PER_HOUR = 3600
HOURS_PER_DAY = 24


@dataclass(frozen=True)
class Reading:
    """One look at the meter; None means not known, never zero.

    Attributes:
        balance_microtokens: What can be spent.
        rate_microtokens_per_hour: What this server burns.
        note: Where the figures come from.
        total_per_hour: What all the owner's servers burn.
        seconds_left: How long the balance lasts; None also if nothing burns it.
    """

    balance_microtokens: int | None
    rate_microtokens_per_hour: int | None
    note: Note
    total_per_hour: int | None = None
    seconds_left: int | None = None


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
        return _as_written(self.facts, Note("info", text))


@dataclass(frozen=True)
class LedgerMeter:
    """Torchroom's ledger, asked at every look with this server's own token."""

    facts: TokenFacts

    def read(self) -> Reading:
        """The amounts of now; if the ledger does not say, those of the start."""
        try:
            now = wallet.ask(self.facts.url)
        except wallet.WalletUnknown as why:
            text = f"As of the start of this server: {why}."
            return _as_written(self.facts, Note("warn", text))
        rate = self.facts.rate_microtokens_per_hour
        return Reading(
            now.spendable,
            now.per_hour if rate is None else rate,
            Note("info", "As of now. Run this cell again for newer figures."),
            total_per_hour=now.per_hour,
            seconds_left=now.seconds_left,
        )


def _as_written(facts: TokenFacts, note: Note) -> Reading:
    balance, rate = facts.balance_microtokens, facts.rate_microtokens_per_hour
    seconds = None
    if balance is not None and rate:
        seconds = max(balance, 0) * SECONDS_PER_HOUR // rate
    return Reading(balance, rate, note, seconds_left=seconds)


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
    "torchroom": LedgerMeter,
}


def meter_for(facts: TokenFacts) -> Meter:
    """The meter the facts ask for; a placeholder wins over its provider's name."""
    if facts.is_placeholder:
        return PlaceholderMeter(facts.note)
    make = PROVIDERS.get(facts.provider)
    return make(facts) if make else UnknownMeter(facts.provider)


def rows(reading: Reading) -> tuple[tuple[str, str], ...]:
    """Balance, burn rate and, where it is known, how long that lasts."""
    balance, rate = reading.balance_microtokens, reading.rate_microtokens_per_hour
    shown = [
        ("Balance", "not known" if balance is None else tokens_text(balance)),
        ("Burn rate", "not known" if rate is None else _rate_text(rate)),
    ]
    total = reading.total_per_hour
    if total is not None and total != rate:
        shown.append(("All your servers", _rate_text(total)))
    if reading.seconds_left is not None:
        shown.append(("Lasts for", duration_text(reading.seconds_left)))
    return tuple(shown)


def tokens_text(microtokens: int) -> str:
    """Exact: 1234500000 -> '1,234.5 tokens'."""
    whole, part = divmod(abs(microtokens), MICROTOKENS_PER_TOKEN)
    digits = f"{part:06d}".rstrip("0")
    sign = "-" if microtokens < 0 else ""
    amount = f"{sign}{whole:,}" + (f".{digits}" if digits else "")
    return f"{amount} token" if amount == "1" else f"{amount} tokens"


def _rate_text(microtokens_per_hour: int) -> str:
    if microtokens_per_hour == 0:
        return "free"
    return f"{tokens_text(microtokens_per_hour)} per hour"


def duration_text(seconds: int) -> str:
    """Whole seconds for people: 12000 -> '3 h 20 min'; rounds down."""
    hours, minutes = seconds // 3600, seconds % 3600 // 60
    if hours >= 2 * HOURS_PER_DAY:
        return f"{hours // HOURS_PER_DAY} d {hours % HOURS_PER_DAY} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if minutes else "less than a minute"
