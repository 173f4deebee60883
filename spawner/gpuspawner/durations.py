"""How long leases last, learnt from those that ended."""

from collections import deque
from collections.abc import Sequence
from datetime import datetime, timedelta
from math import isfinite

from gpuspawner.model import SlotRequest

DEFAULT_S = 2 * 3600.0  # of a lease, until enough have ended; a lesson
ENOUGH = 5  # ended leases of a size before they are believed
KEPT = 50  # ended leases remembered per size
MAX_SIZES = 64  # remembered; far more than a machine offers
CAUTIOUS = 0.9  # share of leases that end within the cautious estimate
OUTLIVED = 1.25  # what a lease that outlived them all is expected to last, in its age
LEAST_S = 60.0  # that any lease is expected to last still


class Durations:
    """Seconds of ended leases, per size: so many slots of a kind and type.

    A request for any type is judged by those of all types.
    """

    def __init__(self) -> None:
        self._ended: dict[str, deque[float]] = {}

    def note(self, request: SlotRequest, seconds: float) -> None:
        """Learn that a lease lasted so long.

        Raises:
            ValueError: Not a finite number >= 0.
        """
        ended = self._ended.setdefault(_size(request), deque(maxlen=KEPT))
        ended.append(_checked(seconds))
        if len(self._ended) > MAX_SIZES:
            del self._ended[next(iter(self._ended))]

    def expected(self, request: SlotRequest) -> float:
        """Return the seconds that half of such leases reach."""
        return self._quantile(request, 0.5)

    def cautious(self, request: SlotRequest) -> float:
        """Return the seconds within which nearly all such leases end."""
        return self._quantile(request, CAUTIOUS)

    def ends_at(
        self, request: SlotRequest, started_at: datetime, now: datetime
    ) -> datetime:
        """Return when a lease that still runs is expected to end; after `now`.

        Judged by those that lasted longer than it has; if it outlived them all, it is
        expected to last a quarter longer than it has. (Estimates that prove too short
        must be corrected upwards: Tsafrir, Etsion, Feitelson, IEEE TPDS 18(6), 2007.)
        """
        elapsed = max(0.0, (now - started_at).total_seconds())
        longer = sorted(s for s in self._believed(request) if s > elapsed)
        lasts = longer[len(longer) // 2] if longer else elapsed * OUTLIVED
        return now + timedelta(seconds=max(lasts - elapsed, LEAST_S))

    def to_json(self) -> dict[str, list[float]]:
        """Return what `from_json` takes."""
        return {size: list(ended) for size, ended in self._ended.items()}

    @classmethod
    def from_json(cls, value: object) -> "Durations":
        """Return what `to_json` was called on.

        Raises:
            ValueError: The value is not from there.
        """
        durations = cls()
        try:
            for size, ended in dict(value).items():  # type: ignore[call-overload]
                durations._ended[str(size)] = deque(map(_checked, ended), maxlen=KEPT)
        except TypeError as error:
            raise ValueError(f"these are not durations: {error}") from error
        return durations

    def _believed(self, request: SlotRequest) -> Sequence[float]:
        size = _size(request)
        ended = [
            seconds
            for known, some in self._ended.items()
            if known == size or (not request.type and known.startswith(f"{size} "))
            for seconds in some
        ]
        return ended if len(ended) >= ENOUGH else (DEFAULT_S,)

    def _quantile(self, request: SlotRequest, share: float) -> float:
        ended = sorted(self._believed(request))
        return max(LEAST_S, ended[min(int(len(ended) * share), len(ended) - 1)])


def _size(request: SlotRequest) -> str:
    return f"{request.n_slots} {request.kind} {request.type}".rstrip()


def _checked(seconds: float) -> float:
    if not (isfinite(seconds) and seconds >= 0):
        raise ValueError(f"a lease cannot last {seconds} seconds")
    return float(seconds)
