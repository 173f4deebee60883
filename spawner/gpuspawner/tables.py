"""Every set of up to 16 devices of one type in tables, so that a choice is a look-up.

A set is a mask. Device 0 is the highest bit, so that of two sets of one size the one
with the lower devices is the larger number. A table has an entry for each mask.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

N_MAX = 16
"""Of so many devices there are 65,536 sets."""
PATH_SCORE = 1 << 7
"""One PCIe level; more than any number of pairs on one NUMA node."""
NVLINK_SCORE = 1 << 17
"""One NVLink; more than the paths and nodes of any set of up to 16 devices."""
UNIT = 1 << 30
"""The worth of the best set of a size, and of what all devices together offer."""
PATIENCE = 64
"""What is given now counts so many times what is left for the next request.

In `bench/choice.py`, below about 50 requests get slower sets so that others might get
faster ones, and the mean falls; far above it hardly changes.
"""

Longs = NDArray[np.int64]
Ints = NDArray[np.int32]


class Demand(NamedTuple):
    """A kind of request: so many devices, every two joined by NVLink or not."""

    size: int
    is_connected: bool = False


class Group(NamedTuple):
    """What makes a group whole: the best of its size. The larger one is the better.

    A set that NVLink joins throughout is judged by its NVLinks alone, since programs
    then use nothing else; only where there is no such set PCIe and NUMA count.
    """

    is_connected: bool
    score: int


class Table:
    """What the sets of devices of one type are worth, now and for requests to come.

    Args:
        pairs: The score of each pair of devices, symmetric: NVLINK_SCORE for each
            NVLink, PATH_SCORE for each PCIe level, 1 for one NUMA node.

    Raises:
        ValueError: There are more than N_MAX devices.
    """

    def __init__(self, pairs: Sequence[Sequence[int]]) -> None:
        self.n = len(pairs)
        if self.n > N_MAX:
            raise ValueError(f"{self.n} devices are too many for a table")
        self._sizes = _sums([[0] * self.n] * self.n, [1] * self.n)
        self._sets = [np.flatnonzero(self._sizes == k)[::-1] for k in range(self.n + 1)]
        self._scores = _sums(pairs)
        joined = _sums([[int(score >= NVLINK_SCORE) for score in row] for row in pairs])
        self._is_connected = joined == self._sizes * (self._sizes - 1) // 2
        self._worth = self._worths()
        self._offers: dict[Demand, Ints | None] = {}
        self._groups: dict[int, Ints] = {}

    # -- choosing ----------------------------------------------------------------

    def prepare(self, demand: Demand) -> None:
        """Table what each set offers to a kind of request: its best disjoint sets.

        Takes up to 35 ms the first time; `choose` leaves other kinds out of the mix.
        """
        if demand in self._offers or not 1 < demand.size <= self.n:
            return
        self._offers[demand] = None
        values = np.where(self._sizes == demand.size, self._scores, 0)
        if demand.is_connected:
            if self._is_connected.all():
                return  # sets of one size offer the same
            values = (values > 0) & self._is_connected
        if values.any():
            most = self._packings(demand.size, values.astype(np.int32)).astype(np.int64)
            offers = most * UNIT // int(most.max())
            self._offers[demand] = _closed(offers.astype(np.int32))

    def choose(
        self,
        free: int,
        usable: int,
        demand: Demand,
        weights: Mapping[Demand, int],
        keep: Mapping[int, int],
    ) -> int | None:
        """Return the best set for a request, None if there is none.

        Best is the largest sum of PATIENCE times the set's worth and the worth, to the
        mix of requests, of what is left; then the largest score; then the lowest
        devices.

        Args:
            free: Devices that can be leased now.
            usable: Those of them that suit the request.
            demand: What is asked for.
            weights: The mix: how often each kind of request comes; at most 2^20 in sum.
            keep: Size -> how many whole groups must be left; see `reserve`.
        """
        if demand.size > self.n:
            return None
        sets = self._sets[demand.size]
        sets = sets[(sets & ~usable) == 0]
        if demand.is_connected:
            sets = sets[self._is_connected[sets]]
        for size, n in keep.items():
            sets = sets[self._groups[size][free ^ sets] >= n]
        if not sets.size:
            return None
        value = self._worth[sets] * (PATIENCE * sum(weights.values()))
        rest = free ^ sets
        n_left = free.bit_count() - demand.size
        for kind, weight in weights.items():
            offer = self._offers.get(kind)
            if offer is not None and kind.size <= n_left:
                value += np.multiply(offer[rest], weight, dtype=np.int64)
        sets = sets[value == value.max()]
        return int(sets[np.argmax(self._scores[sets])])

    # -- whole groups ------------------------------------------------------------

    def best_group(self, size: int) -> Group:
        """Return what makes the best group of a size that these devices can form."""
        sets = self._sets[size]
        connected = sets[self._is_connected[sets]]
        if connected.size:
            return Group(True, int(self._scores[connected].max()) // NVLINK_SCORE)
        return Group(False, int(self._scores[sets].max()))

    def reserve(self, size: int, group: Group) -> None:
        """Prepare `choose` and `n_groups` for whole groups of a size."""
        scores = self._scores
        if group.is_connected:
            scores = np.where(self._is_connected, scores // NVLINK_SCORE, -1)
        is_whole = (self._sizes == size) & (scores == group.score)
        self._groups[size] = _closed(self._packings(size, is_whole.astype(np.int32)))

    def n_groups(self, size: int, free: int) -> int:
        """Return how many whole groups there are at most at once in a set."""
        return int(self._groups[size][free])

    def intact(self, free: int) -> Iterator[int]:
        """Yield disjoint sets of 8, 4 and 2 that are the best of their size.

        Sizes of which every set is as good as any other are left out.
        """
        for size in (8, 4, 2):
            if size >= self.n:
                continue
            sets = self._sets[size]
            scores = self._scores[sets]
            if scores.min() == scores.max():
                continue
            sets = sets[scores == scores.max()]
            while (left := sets[(sets & ~free) == 0]).size:
                yield int(left[0])
                free &= ~int(left[0])

    # -- building ----------------------------------------------------------------

    def _worths(self) -> Longs:
        best = np.ones(self.n + 1, dtype=np.int64)
        for size, sets in enumerate(self._sets):
            best[size] = max(1, int(self._scores[sets].max()))
        worths: Longs = self._scores.astype(np.int64) * UNIT // best[self._sizes]
        return worths

    def _packings(self, size: int, values: Ints) -> Ints:
        """Return the best sum of values over a partition of a set into sets of a size.

        Args:
            size: Of the parts.
            values: Of sets of this size; 0 for all others.

        Returns:
            Like values; 0 for sets that cannot be so parted.
        """
        packings = values.copy()
        for population in range(2 * size, self.n + 1, size):
            sets = self._sets[population]
            bits = sets[:, None] & (1 << np.arange(self.n))
            bits = bits[bits > 0].reshape(-1, population).T
            firsts = bits[0] + _choices(bits[1:], size - 1)
            packings[sets] = (values[firsts] + packings[sets ^ firsts]).max(axis=0)
        return packings


def _closed(table: Ints) -> Ints:
    """Return the largest value that a set or any part of it has."""
    table = table.copy()
    for bit in range(len(table).bit_length() - 1):
        halves = table.reshape(-1, 2, 1 << bit)
        np.maximum(halves[:, 1], halves[:, 0], out=halves[:, 1])
    return table


def _sums(pairs: Sequence[Sequence[int]], each: Sequence[int] | None = None) -> Ints:
    """Return for each set the sum over its pairs, and over its devices."""
    n = len(pairs)
    total = np.zeros(1 << n, dtype=np.int32)
    for bit in range(n):
        device = n - 1 - bit
        size = 1 << bit
        of_device = np.zeros(size, dtype=np.int32)
        for other in range(bit):
            half = 1 << other
            of_device[half : 2 * half] = of_device[:half] + pairs[device][n - 1 - other]
        total[size : 2 * size] = total[:size] + of_device
        if each:
            total[size : 2 * size] += each[device]
    return total


def _choices(columns: Longs, n: int) -> Longs:
    """Return the sum of every choice of n of the columns, a row for each choice."""
    # By addition, not by a product with 0 and 1: a linear-algebra library would start
    # threads of its own, which on a busy machine wait for each other for long.
    nothing = np.zeros((1, columns.shape[1]), dtype=np.int64)
    sums = [nothing] + [nothing[:0]] * n
    for n_left, column in zip(range(len(columns))[::-1], columns, strict=True):
        for m in range(n, max(0, n - n_left - 1), -1):
            sums[m] = np.concatenate([sums[m], sums[m - 1] + column])
    return sums[n]
