"""Why leases end, and which ends the meter has not taken yet, by lease."""

from collections.abc import Mapping, Set
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Self

from gpuspawner.exits import Exit
from gpuspawner.model import LeaseEnd


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


def _end(row: Mapping[str, Any]) -> LeaseEnd:
    return LeaseEnd(
        at=_time(row["at"]),
        reason=str(row["reason"]),
        is_failed_start=row["is_failed_start"] is True,
        broke_at=_time(row["broke_at"]),
    )


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
