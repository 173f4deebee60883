"""What programs on one device do over time, and what a driver reads of it."""

import math
from bisect import bisect_right
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate

WINDOW_S = 1.0
"""Over which a driver averages utilisation and SM use."""
MEMORY_S = 15.0
"""How long a driver remembers SM use."""


@dataclass(frozen=True)
class Load:
    """What a program does for a while.

    Attributes:
        share: Of the time in which its kernels run, on the mean.
        every_s: Kernels run in one piece at the start of every such span; 0: evenly.
        draw: Mean power, as a share of the way from the device's idle power to its
            limit.
        cores: CPU cores that it uses.
        holds: Whether it is on the device at all.
    """

    share: float = 0.0
    every_s: float = 0.0
    draw: float = 0.0
    cores: float = 0.0
    holds: bool = True

    def read(self, since_s: float, until_s: float) -> float:
        """Return in what share of a span of time kernels ran."""
        if not self.every_s or until_s <= since_s:
            return self.share
        ran = self._ran(until_s) - self._ran(since_s)
        return min(1.0, max(0.0, ran / (until_s - since_s)))

    def _ran(self, at_s: float) -> float:
        whole, rest = divmod(at_s, self.every_s)
        piece = self.share * self.every_s
        return whole * piece + min(rest, piece)

    def most(self, since_s: float, until_s: float) -> float:
        """Return the largest `read` of any window that ends within a span."""
        if not self.every_s:
            return self.share
        piece = self.share * self.every_s
        starts = math.floor(until_s / self.every_s) * self.every_s
        if starts + min(piece, until_s - starts) > since_s:
            return min(1.0, piece / WINDOW_S)
        return 0.0


NOBODY = Load(holds=False)


@dataclass
class Timeline:
    """Loads one after the other, from second 0 on."""

    loads: list[tuple[float, Load]] = field(default_factory=list)
    """How long, and what."""

    def add(self, lasts_s: float, load: Load) -> "Timeline":
        """Append a load."""
        self.loads.append((lasts_s, load))
        return self

    @property
    def length_s(self) -> float:
        """How long all of it is."""
        return sum(lasts for lasts, _ in self.loads)

    @cached_property
    def _begins(self) -> list[float]:
        return list(accumulate((lasts for lasts, _ in self.loads), initial=0.0))

    @cached_property
    def _energy(self) -> list[float]:
        parts = (lasts * load.draw for lasts, load in self.loads)
        return list(accumulate(parts, initial=0.0))

    @cached_property
    def _cpu(self) -> list[float]:
        parts = (lasts * load.cores for lasts, load in self.loads)
        return list(accumulate(parts, initial=0.0))

    def _index(self, at_s: float) -> int:
        return min(max(0, bisect_right(self._begins, at_s) - 1), len(self.loads) - 1)

    def at(self, at_s: float) -> Load:
        """Return what goes on at a moment; before second 0 nobody is there."""
        return NOBODY if at_s < 0 else self.loads[self._index(at_s)][1]

    def energy(self, at_s: float) -> float:
        """Return the integral of `draw`."""
        return self._integral(self._energy, at_s, self.at(at_s).draw)

    def cpu_s(self, at_s: float) -> float:
        """Return the CPU seconds used."""
        return self._integral(self._cpu, at_s, self.at(at_s).cores)

    def _integral(self, sums: list[float], at_s: float, rate: float) -> float:
        if at_s < 0:
            return 0.0
        i = self._index(at_s)
        return sums[i] + (at_s - self._begins[i]) * rate

    def utilisation(self, at_s: float) -> float:
        """Return what a driver says at a moment."""
        return self.at(at_s).read(at_s - WINDOW_S, at_s)

    def sm(self, since_s: float, until_s: float) -> float:
        """Return the most that SMs were used in any window since a moment.

        Only of those that the driver remembers.
        """
        found, since_s = 0.0, max(since_s, until_s - MEMORY_S)
        for i in range(self._index(since_s), self._index(until_s) + 1):
            begin, end = self._begins[i], self._begins[i] + self.loads[i][0]
            low, high = max(begin, since_s), min(end, until_s)
            if high > low:
                found = max(found, self.loads[i][1].most(low, high))
        return found
