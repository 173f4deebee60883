"""What a server would cost, and whether its payer can pay for its beginning."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from torchroom.ledger.amounts import text_of
from torchroom.ledger.drawing import Share, Wallets
from torchroom.ledger.errors import BadInput, UnknownPrice
from torchroom.ledger.forecast import refusal_text
from torchroom.ledger.model import Payer
from torchroom.ledger.policy import Policy
from torchroom.ledger.pricing import per_hour_of
from torchroom.ledger.slices import Tab


@dataclass(frozen=True, slots=True)
class Cost:
    """What a server would cost.

    Attributes:
        per_hour: Microtokens, None if a slot has no price.
        refusal: A sentence why it cannot be paid for now, "" if it can.
    """

    per_hour: int | None
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Means:
    """What somebody has.

    Attributes:
        payer: Who.
        wallets: All that can be drawn.
        cap: What the payer may draw from the course in all, None without a cap.
        at: Now.
    """

    payer: Payer
    wallets: Wallets
    cap: int | None
    at: datetime


def cost_of(
    slot_types: Sequence[str],
    prices: Mapping[str, int | None],
    policy: Policy,
    means: Means,
) -> Cost:
    """Return what a server with these slots costs, and why it cannot be paid for."""
    try:
        per_hour = per_hour_of(slot_types, prices)
    except (UnknownPrice, BadInput) as error:
        return Cost(None, str(error))
    needed = Tab(per_hour, 0, 0).cost_until(policy.hold_s)
    payer = means.payer
    available = means.wallets.available(payer, means.at)
    if available >= needed:
        return Cost(per_hour)
    is_capped = means.wallets.is_capped(Share(payer.course, payer.user))
    refusal = refusal_text(
        needed=needed,
        available=available,
        per_hour=per_hour,
        hold_s=policy.hold_s,
        course=payer.course,
        cap=text_of(means.cap) if means.cap is not None and is_capped else "",
    )
    return Cost(per_hour, refusal)
