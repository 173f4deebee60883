"""Why leases end or are about to, and which ends the meter has not taken yet."""

from collections.abc import Mapping, Set
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Self

from gpuspawner.exits import Exit
from gpuspawner.model import LeaseEnd

# That JupyterHub may call `stop` after a reason was told. How long the stop itself then
# takes does not matter.
COUNTS_FOR_S = 30.0


@dataclass
class Endings:
    """What must be known about ends until the meter knows it.

    Attributes:
        why: Lease id -> why it must end, decided before its container has stopped.
        ends: Lease id -> its end, which the meter has not taken yet.
    """

    why: dict[str, Exit] = field(default_factory=dict)
    ends: dict[str, LeaseEnd] = field(default_factory=dict)

    def decide(self, lease_id: str, why: Exit, *, overrules: bool = False) -> None:
        """Note why a lease ends; the first reason stays unless this one overrules it.

        A server that is being stopped for a broken GPU ends for that, although somebody
        stops it then, too.
        """
        if overrules or lease_id not in self.why:
            self.why[lease_id] = why

    def keep(self, lease_ids: Set[str]) -> None:
        """Forget reasons that nobody will ask for: all but those of these leases."""
        self.why = {k: v for k, v in self.why.items() if k in lease_ids}

    def forget(self, lease_id: str) -> None:
        """Forget a lease: the meter knows its end."""
        self.why.pop(lease_id, None)
        self.ends.pop(lease_id, None)

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain JSON types."""
        return {
            "why": {key: asdict(why) for key, why in self.why.items()},
            "ends": {
                key: {
                    "at": end.at and end.at.isoformat(),
                    "reason": end.reason,
                    "is_failed_start": end.is_failed_start,
                    "broke_at": end.broke_at and end.broke_at.isoformat(),
                }
                for key, end in self.ends.items()
            },
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return what `to_json` described.

        Raises:
            ValueError: The value is not from there.
        """
        try:
            whys = data.get("why", {}).items()
            ends = data.get("ends", {}).items()
            return cls(
                {str(key): Exit.from_json(row) for key, row in whys},
                {str(key): _end(row) for key, row in ends},
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"these are no ends of leases: {error!r}") from error


@dataclass
class Announced:
    """Why leases are about to be stopped through JupyterHub, as was told before.

    A reason counts for so long as a stop takes to come, and no longer: what stops the
    server later has another one. Times are monotonic seconds.
    """

    _told: dict[str, tuple[Exit, float]] = field(default_factory=dict)

    def tell(self, lease_id: str, why: Exit, now_s: float) -> None:
        """Take note of a reason; it replaces an earlier one."""
        self._told = {
            key: (told, at_s)
            for key, (told, at_s) in self._told.items()
            if now_s - at_s <= COUNTS_FOR_S
        }
        self._told[lease_id] = why, now_s

    def take(self, lease_id: str, now_s: float) -> Exit | None:
        """Return the reason for a stop that comes now, once; None without one."""
        why, at_s = self._told.pop(lease_id, (None, now_s))
        return why if now_s - at_s <= COUNTS_FOR_S else None


def _end(row: Mapping[str, Any]) -> LeaseEnd:
    return LeaseEnd(
        at=_time(row["at"]),
        reason=str(row["reason"]),
        is_failed_start=row["is_failed_start"] is True,
        broke_at=_time(row["broke_at"]),
    )


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
