"""When a lease is settled, up to which second, and how much is held next.

A lease's time is cut into slices. Each is settled from the hold that was placed before
it, and the next hold is placed in the same transaction. What is settled is always
`charge` of a whole number of seconds, so the slices add up to one charge.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from torchroom.ledger.pricing import charge, seconds_for

_SECOND = timedelta(seconds=1)


def seconds_between(start: datetime, end: datetime) -> int:
    """Return whole seconds, rounded down; 0 if the end is before the start."""
    return max(0, (end - start) // _SECOND)


@dataclass(frozen=True, slots=True)
class Tab:
    """What is paid and held of a lease whose meter runs.

    Attributes:
        per_hour: Microtokens per hour, >= 0.
        settled_s: Seconds since ready that are settled.
        held: Microtokens of its open hold, 0 if it has none.
    """

    per_hour: int
    settled_s: int
    held: int

    @property
    def covered_s(self) -> int:
        """Seconds since ready that are settled or held for; only if it is not free."""
        return seconds_for(self.per_hour, self._charged + self.held)

    def cost_until(self, seconds: int) -> int:
        """Return what is to be settled to come to these seconds since ready."""
        return charge(self.per_hour, seconds) - self._charged

    def settle_to(self, used_s: int) -> int:
        """Return up to which second the open hold can settle what was used."""
        return max(self.settled_s, min(used_s, self.covered_s))

    def is_due(self, used_s: int, available: int, hold_s: int) -> bool:
        """Tell whether settling now moves anything that should not wait.

        Args:
            used_s: Seconds since ready at which it ran; less than what is settled is
                an old message, and changes nothing.
            available: Microtokens that a next hold could take.
            hold_s: Seconds that a hold covers.
        """
        if self.per_hour == 0 or used_s < self.settled_s:
            return False
        covered_s = self.covered_s
        if used_s >= covered_s and self.held > 0:
            return True  # all of the hold is used
        if used_s - self.settled_s >= hold_s and self.cost_until(
            min(used_s, covered_s)
        ):
            return True  # nobody looked for long
        if covered_s - used_s >= hold_s // 2:
            return False
        within_reach = self._charged + self.held + available
        return seconds_for(self.per_hour, within_reach) > covered_s

    def next_hold(self, used_s: int, available: int, hold_s: int) -> int:
        """Return how much to hold after all that is held was settled or given back.

        It covers whole seconds: hold_s beyond what was used, or what is affordable.
        """
        wanted_s = max(used_s, self.settled_s) + hold_s
        most_s = seconds_for(self.per_hour, self._charged + available)
        return max(0, self.cost_until(min(wanted_s, most_s)))

    @property
    def _charged(self) -> int:
        return charge(self.per_hour, self.settled_s)
