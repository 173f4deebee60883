"""Asks the hub's ledger for the owner's tokens; see ``asking`` for how."""

from __future__ import annotations

import http
from dataclasses import dataclass

from torchroom_welcome import asking
from torchroom_welcome.asking import (
    ANSWER_BYTES_MAX,
    TOKEN_VARIABLE,
    NoAnswer,
    Reply,
    whole,
)

__all__ = ["ANSWER_BYTES_MAX", "TOKEN_VARIABLE", "Wallet", "WalletUnknown", "ask"]

TIMEOUT_S = 3.0
WalletUnknown = NoAnswer


@dataclass(frozen=True)
class Wallet:
    """The owner's tokens at this moment.

    Attributes:
        spendable: Microtokens that are left, with what servers used until now taken
            off and what is reserved for them still in it.
        per_hour: What all their servers burn together.
        seconds_left: How long that lasts; None if nothing is burned.
    """

    spendable: int
    per_hour: int
    seconds_left: int | None


def ask(url: str, *, timeout_s: float = TIMEOUT_S) -> Wallet:
    """The answer of ``GET {url}/me``; raises WalletUnknown, and nothing else."""
    reply = asking.send("GET", f"{url.rstrip('/')}/me", timeout_s=timeout_s)
    if reply.status != http.HTTPStatus.OK:
        raise asking.unexpected(reply)
    return _parse(reply)


def _parse(reply: Reply) -> Wallet:
    """Validate an answer; raises WalletUnknown."""
    raw = reply.fields()
    seconds = raw.get("seconds_left")
    return Wallet(
        spendable=whole(raw, "spendable"),
        per_hour=whole(raw, "microtokens_per_hour"),
        seconds_left=None if seconds is None else whole(raw, "seconds_left"),
    )
