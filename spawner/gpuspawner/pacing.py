"""How often somebody may do something: counts within a window that slides. Pure.

Who asks brings the time, in seconds of a clock that never steps back.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from gpuspawner.errors import TooOften

N_EVENTS_MAX = 50_000
"""What a limiter remembers at most, of all keys together."""


@dataclass(frozen=True, slots=True)
class Pace:
    """At most so many in any span of so many seconds; 0 is no limit."""

    most: int
    within_s: float


NO_LIMIT = Pace(0, 0.0)


class Limiter:
    """Counts events of each key, like a user's name, against one pace.

    Exact: between any two moments `within_s` apart there are never more than `most`
    events of one key that were asked for first. What it remembers is bounded: beyond
    `n_max` the keys that were quiet longest are forgotten first.
    """

    def __init__(self, pace: Pace, *, n_max: int = N_EVENTS_MAX) -> None:
        self.pace = pace
        self._n_max = max(n_max, pace.most)
        self._n = 0
        # The key of the latest event is the last one.
        self._events: OrderedDict[str, deque[float]] = OrderedDict()

    def __len__(self) -> int:
        """Return how many events are remembered."""
        return self._n

    def wait_s(self, key: str, now: float) -> float:
        """Return after how many seconds one more is possible; 0.0 if it is now."""
        self._forget_old(now)
        events = self._events.get(key)
        if not self.pace.most or not events:
            return 0.0
        # When each stops to count; compared so that no rounding makes a wait 0.0.
        ends = [end for at in events if (end := at + self.pace.within_s) > now]
        if len(ends) < self.pace.most:
            return 0.0
        return ends[-self.pace.most] - now

    def note(self, key: str, now: float) -> None:
        """Count one more, whether it is too many or not."""
        if not self.pace.most:
            return
        events = self._events.setdefault(key, deque())
        events.append(now)
        self._n += 1
        self._events.move_to_end(key)
        if len(events) > self.pace.most:  # older ones no longer change an answer
            events.popleft()
            self._n -= 1
        while self._n > self._n_max:
            self._drop(next(iter(self._events)))

    def take_back(self, key: str, at: float) -> None:
        """Do not count the one noted at this time; nothing if it is forgotten."""
        events = self._events.get(key, deque[float]())
        if at in events:
            events.remove(at)
            self._n -= 1
            if not events:
                del self._events[key]

    def _forget_old(self, now: float) -> None:
        while self._events:
            key, events = next(iter(self._events.items()))
            if events[-1] + self.pace.within_s > now:
                return
            self._drop(key)

    def _drop(self, key: str) -> None:
        self._n -= len(self._events.pop(key))


class Starts:
    """How often users start servers, and how often their GPU servers never answered.

    A start that holds a GPU is paid for only from its first answer on. Who lets it
    never answer would have a GPU for nothing, so these are few.
    """

    def __init__(self, starts: Pace, unanswered: Pace) -> None:
        self._starts = Limiter(starts)
        self._unanswered = Limiter(unanswered)

    def begin(self, user: str, now: float, at: datetime) -> None:
        """Count a start.

        Args:
            user: Who starts.
            now: See above.
            at: The same moment, aware, for the sentence.

        Raises:
            TooOften: There were too many; this one is not counted.
        """
        wait_s = self._starts.wait_s(user, now)
        if wait_s:
            pace = self._starts.pace
            raise TooOften(
                f"You started servers {pace.most} times within "
                f"{_minutes(pace.within_s)}. The next start is possible "
                f"{_when(wait_s, at)}; your files are safe."
            )
        self._starts.note(user, now)

    def check_gpu(self, user: str, now: float, at: datetime) -> None:
        """Raise if this user must wait before the next start with a GPU.

        Raises:
            TooOften: Too many of theirs never answered, or have not answered yet.
        """
        wait_s = self._unanswered.wait_s(user, now)
        if wait_s:
            pace = self._unanswered.pace
            raise TooOften(
                f"{pace.most} of your servers held a GPU within "
                f"{_minutes(pace.within_s)} and did not answer. The next start with a "
                f"GPU is possible {_when(wait_s, at)}. Choose CPU only until then: "
                "your files are the same, and there you can mend what keeps Jupyter "
                "from starting. If nothing does, tell your admin."
            )

    def boots(self, user: str, now: float) -> None:
        """Count a container that holds a GPU as unanswered, until `answered`."""
        self._unanswered.note(user, now)

    def answered(self, user: str, booted_at: float) -> None:
        """Take back what was counted then: it answered, or its end is not theirs."""
        self._unanswered.take_back(user, booted_at)


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.3g} minutes"


def _when(wait_s: float, at: datetime) -> str:
    """Return "at 14:05 UTC (in 3 minutes)", never too early."""
    n_minutes = max(1, -int(-wait_s // 60))
    end = at.astimezone(UTC) + timedelta(seconds=wait_s + 59)
    unit = "minute" if n_minutes == 1 else "minutes"
    return f"at {end:%H:%M} UTC (in {n_minutes} {unit})"
