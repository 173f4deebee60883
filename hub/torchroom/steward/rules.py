"""What a site allows its servers, per course and size. Pure.

Of the tables of the policy file the narrowest that has a key says its value: the size
of a course, then the course, then the size, then the default.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any

from torchroom.steward.windows import Window

MICRO = 1_000_000
SLACK_MAX = timedelta(minutes=1)


class AfterHours(StrEnum):
    """What becomes of a course's servers when its hours are over."""

    KEEP = "keep"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for one server.

    Attributes:
        gpu_idle: How long its GPU may compute nothing; None: for ever.
        several_gpus_idle: The same for a server with more than one.
        grace: From ready on, no stop as idle comes earlier than this.
        unwanted_idle: How long the GPU may compute nothing once there is another
            reason to stop the server: it is too old, its GPU has to be repaired.
        warn_before: How long before a stop its user is warned, at least.
        max_age: How long it may run; None: for ever.
        max_age_stops_busy: Whether it is stopped at this age although its GPU computes.
        cpu_idle: How long a server without GPU may see no activity; None: for ever.
        extend_by: What an extension adds.
        n_extensions: How many a server may have.
        extend_price: Microtokens of one.
        windows: The hours of the course; none: at any time.
        after_hours: What happens when they are over.
        is_dry_run: Nothing is done, it is only noted.
    """

    gpu_idle: timedelta | None = timedelta(minutes=30)
    several_gpus_idle: timedelta | None = timedelta(minutes=60)
    grace: timedelta = timedelta(minutes=30)
    unwanted_idle: timedelta = timedelta(minutes=15)
    warn_before: timedelta = timedelta(minutes=10)
    max_age: timedelta | None = None
    max_age_stops_busy: bool = False
    cpu_idle: timedelta | None = timedelta(minutes=90)
    extend_by: timedelta = timedelta(minutes=30)
    n_extensions: int = 2
    extend_price: int = MICRO
    windows: tuple[Window, ...] = ()
    after_hours: AfterHours = AfterHours.KEEP
    is_dry_run: bool = False

    @property
    def warn_ahead(self) -> timedelta:
        """How long before a stop the warning is due: a bit more than `warn_before`.

        A warning that comes late, for nothing could be read then, need not postpone
        the stop.
        """
        return self.warn_before + min(SLACK_MAX, self.warn_before / 10)

    def idle_of(self, n_slots: int) -> timedelta | None:
        """Return how long so many GPUs may compute nothing."""
        return self.gpu_idle if n_slots <= 1 else self.several_gpus_idle


Table = Mapping[str, Any]
"""Some attributes of Rules."""


@dataclass(frozen=True, slots=True)
class Policy:
    """All rules of a site.

    Attributes:
        default: What holds for everybody.
        sizes: Offer -> what differs.
        courses: Course -> what differs.
        both: (course, offer) -> what differs.
        is_dry_run: Nothing is done at all, whatever the rules say.
    """

    default: Table = field(default_factory=dict)
    sizes: Mapping[str, Table] = field(default_factory=dict)
    courses: Mapping[str, Table] = field(default_factory=dict)
    both: Mapping[tuple[str, str], Table] = field(default_factory=dict)
    is_dry_run: bool = False

    def rules(self, course: str, offer: str) -> Rules:
        """Return what holds for a server.

        Args:
            course: Which one it runs for, "" if none.
            offer: Its size.
        """
        found = {
            **self.default,
            **self.sizes.get(offer, {}),
            **self.courses.get(course, {}),
            **self.both.get((course, offer), {}),
        }
        if self.is_dry_run:
            found["is_dry_run"] = True
        return Rules(**found)
