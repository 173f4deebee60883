"""What a site decides about holds, warnings and gifts."""

from dataclasses import dataclass
from itertools import pairwise

from torchroom.ledger.amounts import check_amount
from torchroom.ledger.errors import BadInput

LEAST_HOLD_S = 60
DAY_S = 24 * 3600


@dataclass(frozen=True, slots=True)
class Policy:
    """Checked when it is made.

    Attributes:
        hold_s: How many seconds of a lease are reserved ahead; at least a minute. Half
            of it is the time after which a running lease is settled.
        warn_s: With how many seconds left a user is warned, longest first.
        stop_lead_s: With how many seconds left a server is stopped: it needs them to
            shut down, and nobody is to be charged for what they do not have.
        hold_expires_s: After so long a hold is given back if its meter never ran.
        welcome: Microtokens for every new user, once; 0 for none.

    Raises:
        BadInput: They contradict each other.
    """

    hold_s: int = 600
    warn_s: tuple[int, ...] = (1800, 600, 120)
    stop_lead_s: int = 30
    hold_expires_s: int = DAY_S
    welcome: int = 0

    def __post_init__(self) -> None:
        if self.hold_s < LEAST_HOLD_S:
            raise BadInput(f"A hold must cover at least {LEAST_HOLD_S} seconds.")
        if not 0 <= self.stop_lead_s < self.hold_s // 2:
            raise BadInput("A server is stopped with less than half a hold left.")
        if any(later >= sooner for sooner, later in pairwise(self.warn_s)):
            raise BadInput("Warnings go from the most seconds left to the least.")
        if any(seconds <= self.stop_lead_s for seconds in self.warn_s):
            raise BadInput("Warnings must come before the server is stopped.")
        if self.hold_expires_s < self.hold_s:
            raise BadInput("A hold must live at least as long as what it covers.")
        check_amount(self.welcome, least=0)
