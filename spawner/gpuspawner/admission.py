"""How many servers boot at once, so that each finishes. Pure; the clock is given.

A boot is work for the processors and some waiting. Too few at once leave cores idle;
too many make all of them slow, until they time out. Little's law gives the throughput
that one boot saw: the mean number that booted during its life, by how long it took.
The limit climbs, by a share of itself, to the smallest number that has nearly the best
throughput known; a boot that timed out halves it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil

START_PER_CPU = 2  # keeps cores busy while boots wait up to half of their time
MAX_PER_CPU = 4
STEP = 1.25  # from one limit to the next
TOLERANCE = 0.05  # throughput that differs by less is the same
ROUND = 4  # boots at least, and as many as the limit, before a limit is judged
RECENT = 0.5  # weight of the last round or boot against those before
FORGET = timedelta(minutes=15)  # other work on the machine changes what is best


@dataclass(frozen=True, slots=True)
class Turn:
    """Where a starting server stands.

    Attributes:
        n_ahead: Servers that are expected to be ready before it.
        wait_s: Seconds until it is ready, by estimate; None before the first boot.
    """

    n_ahead: int
    wait_s: float | None


def describe(turn: Turn) -> str:
    """Return what its owner reads."""
    parts = [f"{turn.n_ahead} ahead"] if turn.n_ahead else []
    if turn.wait_s is not None:
        parts.append(f"about {max(1, ceil(turn.wait_s))} s")
    return f"Starting: {', '.join(parts)}." if parts else "Starting."


@dataclass(frozen=True, slots=True)
class Rate:
    """Boots finished per second at one limit, and when that was last seen."""

    per_s: float
    seen_at: datetime


def next_limit(rates: Mapping[int, Rate], n_cpus: int) -> int:
    """Return the number at once to try next, from what is known of some.

    The smallest that is nearly as good as the best; or a neighbour of it that is not
    known yet: a higher one, then a lower one. Fewer than the cores are tried only while
    fewer is measurably faster.
    """
    best = max(rate.per_s for rate in rates.values())
    goal = min(n for n, rate in rates.items() if rate.per_s >= best * (1 - TOLERANCE))
    higher = min(ceil(goal * STEP), MAX_PER_CPU * n_cpus)
    if goal == max(rates) and higher > goal:
        return higher
    lower = int(goal / STEP)
    fewer_is_faster = any(
        n > goal and rate.per_s < best * (1 - TOLERANCE) for n, rate in rates.items()
    )
    floor = 1 if fewer_is_faster and goal <= n_cpus else n_cpus
    if goal == min(rates) and goal > floor:
        return max(lower, floor)
    return goal


@dataclass(frozen=True, slots=True)
class _Boot:
    admitted_at: datetime
    area: float  # boots x seconds of everybody, until it was admitted
    generation: int


class Admission:
    """Admits servers to boot, first come first served; each must end or leave.

    Attributes:
        limit: How many may boot at once now; 1 to MAX_PER_CPU times the cores.
    """

    def __init__(self, n_cpus: int) -> None:
        self._n_cpus = max(1, n_cpus)
        self.limit = START_PER_CPU * self._n_cpus
        self._ceiling: tuple[int, datetime] | None = None
        self._waiting: dict[str, None] = {}
        self._booting: dict[str, _Boot] = {}
        self._rates: dict[int, Rate] = {}
        self._round: list[float] = []
        self._generation = 0  # of the limit: counts its changes
        self._halved = 0  # generation in which it was last halved
        self._area = 0.0
        self._area_at: datetime | None = None
        self._boot_s: float | None = None
        self._per_s: float | None = None

    @property
    def booting(self) -> tuple[str, ...]:
        """Who boots now."""
        return tuple(self._booting)

    @property
    def waiting(self) -> tuple[str, ...]:
        """Who waits to boot, first come first."""
        return tuple(self._waiting)

    def ask(self, boot_id: str, now: datetime) -> tuple[str, ...]:
        """Let one wait its turn; asking twice changes nothing. Return who may boot now.

        The answer of this and the other methods are those admitted by the call.
        """
        if boot_id not in self._booting:
            self._waiting.setdefault(boot_id)
        return self._admit(now)

    def may_boot(self, boot_id: str) -> bool:
        """Whether it was admitted and has not ended."""
        return boot_id in self._booting

    def booted(self, boot_id: str, now: datetime) -> tuple[str, ...]:
        """Note that it answers, and learn from it. Return who may boot now."""
        self._tick(now)
        boot = self._booting.get(boot_id)
        if boot is not None:
            self._learn(boot, now)
        return self.left(boot_id, now)

    def failed(self, boot_id: str, now: datetime) -> tuple[str, ...]:
        """Note that it timed out, and halve the limit. Return who may boot now.

        Those that were admitted before the last halving do not halve it again. What
        failed for a reason of its own has merely left.
        """
        self._tick(now)
        boot = self._booting.get(boot_id)
        if boot is not None and boot.generation >= self._halved:
            self._ceiling = max(1, self.limit - 1), now
            self._rates.clear()
            self._set(max(1, self.limit // 2))
            self._halved = self._generation
        return self.left(boot_id, now)

    def left(self, boot_id: str, now: datetime) -> tuple[str, ...]:
        """Forget one that ended for whatever reason. Return who may boot now."""
        self._tick(now)
        self._booting.pop(boot_id, None)
        self._waiting.pop(boot_id, None)
        return self._admit(now)

    def turn(self, boot_id: str, now: datetime) -> Turn | None:
        """Return where it stands; None if it neither waits nor boots."""
        if boot := self._booting.get(boot_id):
            elapsed_s = (now - boot.admitted_at).total_seconds()
            return Turn(0, self._boot_s and max(0.0, self._boot_s - elapsed_s))
        if boot_id not in self._waiting:
            return None
        n_ahead = len(self._booting) + list(self._waiting).index(boot_id)
        return Turn(n_ahead, self._per_s and (n_ahead + 1) / self._per_s)

    def _admit(self, now: datetime) -> tuple[str, ...]:
        self._tick(now)
        admitted = []
        while self._waiting and len(self._booting) < self.limit:
            boot_id = next(iter(self._waiting))
            del self._waiting[boot_id]
            self._booting[boot_id] = _Boot(now, self._area, self._generation)
            admitted.append(boot_id)
        return tuple(admitted)

    def _tick(self, now: datetime) -> None:
        if self._area_at is not None:
            elapsed_s = (now - self._area_at).total_seconds()
            self._area += len(self._booting) * elapsed_s
        self._area_at = now

    def _learn(self, boot: _Boot, now: datetime) -> None:
        lasted_s = (now - boot.admitted_at).total_seconds()
        if lasted_s <= 0:
            return
        n_mean = (self._area - boot.area) / lasted_s
        # On idle cores more at once would have been as fast each.
        scaled = max(n_mean, min(self.limit, self._n_cpus)) / lasted_s
        self._boot_s = _mixed(self._boot_s, lasted_s)
        self._per_s = _mixed(self._per_s, scaled)
        is_full = n_mean > self.limit / STEP
        if boot.generation == self._generation and is_full:
            self._round.append(n_mean / lasted_s)
            if len(self._round) >= max(ROUND, self.limit):
                self._judge(now)

    def _judge(self, now: datetime) -> None:
        per_s = sum(self._round) / len(self._round)
        self._round.clear()
        old = self._rates.get(self.limit)
        self._rates = {
            n: rate for n, rate in self._rates.items() if now - rate.seen_at < FORGET
        }
        self._rates[self.limit] = Rate(_mixed(old.per_s if old else None, per_s), now)
        limit = next_limit(self._rates, self._n_cpus)
        if self._ceiling and now - self._ceiling[1] < FORGET:
            limit = min(limit, self._ceiling[0])
        if limit != self.limit:
            self._set(limit)

    def _set(self, limit: int) -> None:
        self.limit = limit
        self._generation += 1
        self._round.clear()


def _mixed(old: float | None, new: float) -> float:
    return new if old is None else old + RECENT * (new - old)
