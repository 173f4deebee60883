"""Sets of more devices of one type than can be tabled, by greedy search.

Answers what `tables.Table` answers, less well: sets are grown from each device by what
links it best, so the set is a good one but not surely the best, and the mix of requests
does not count. A choice among 32 devices takes about 10 ms.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from operator import add

from gpuspawner.tables import NVLINK_SCORE, Demand, Group

_STEPS_MAX = 20_000
"""After so many sets the search for a connected one gives up."""


class Crowd:
    """Like `tables.Table`, which see, for any number of devices."""

    def __init__(self, pairs: Sequence[Sequence[int]]) -> None:
        self.n = len(pairs)
        self._pairs = pairs
        self._groups: dict[int, Group] = {}

    def prepare(self, demand: Demand) -> None:
        """Do nothing: the mix does not count here."""

    def choose(
        self,
        free: int,
        usable: int,
        demand: Demand,
        _weights: Mapping[Demand, int],
        keep: Mapping[int, int],
    ) -> int | None:
        """Return a good set for a request, None if none was found.

        The largest score; then the weakest links to what is left; then the lowest
        devices. Whole groups to be left are set aside first, so that a request may have
        to wait although other groups could be left instead. A set without NVLink is
        always found where there is one.
        """
        for size, n in keep.items():
            for group, _ in zip(self._whole(size, free), range(n), strict=False):
                usable &= ~group
        found = self._grown(usable, demand)
        if not found and demand.is_connected:
            found = set(self._connected(usable, demand.size))
        return max(
            found,
            key=lambda mask: (self._score(mask), -self._lost(mask, free), mask),
            default=None,
        )

    def best_group(self, size: int) -> Group:
        """Return what makes the best group of a size that was found."""
        every = (1 << self.n) - 1
        return max(
            self._group(mask)
            for is_connected in (False, True)
            for mask in self._grown(every, Demand(size, is_connected))
        )

    def reserve(self, size: int, group: Group) -> None:
        """Prepare `choose` and `n_groups` for whole groups of a size."""
        self._groups[size] = group

    def n_groups(self, size: int, free: int) -> int:
        """Return how many whole groups at once were found in a set."""
        return sum(1 for _ in self._whole(size, free))

    def intact(self, free: int) -> Iterator[int]:
        """Yield disjoint sets of 8, 4 and 2 that are the best of their size."""
        if len({self._pairs[i][j] for i in range(self.n) for j in range(i)}) == 1:
            return
        for size in (8, 4, 2):
            best = max(map(self._score, self._grown((1 << self.n) - 1, Demand(size))))
            while found := self.choose(free, free, Demand(size), {}, {}):
                if self._score(found) < best:
                    break
                yield found
                free &= ~found

    def _whole(self, size: int, free: int) -> Iterator[int]:
        wanted = self._groups[size]
        demand = Demand(size, wanted.is_connected)
        while found := self.choose(free, free, demand, {}, {}):
            if self._group(found) != wanted:
                return
            yield found
            free &= ~found

    def _group(self, mask: int) -> Group:
        members = self._members(mask)
        if all(self._joined(i, j) for i, j in combinations(members, 2)):
            links = (self._pairs[i][j] for i, j in combinations(members, 2))
            return Group(True, sum(link // NVLINK_SCORE for link in links))
        return Group(False, self._score(mask))

    def _grown(self, usable: int, demand: Demand) -> set[int]:
        """Return the sets that grow from each device by what links them best."""
        return {
            mask
            for seed in self._members(usable)
            if (mask := self._grow(seed, usable, demand)).bit_count() == demand.size
        }

    def _grow(self, seed: int, usable: int, demand: Demand) -> int:
        mask, gains = 0, [0] * self.n
        others, best = self._members(usable), seed
        for _ in range(demand.size):
            mask |= self._bit(best)
            gains = list(map(add, gains, self._pairs[best]))
            others = [
                i
                for i in others
                if i != best and (not demand.is_connected or self._joined(best, i))
            ]
            if not others:
                break
            best = max(others, key=lambda i: (gains[i], -i))
        return mask

    def _connected(self, usable: int, size: int) -> Iterator[int]:
        """Yield one connected set if there is one, by trying all of them."""
        open_sets = [(0, self._members(usable))]
        for _ in range(_STEPS_MAX):
            if not open_sets:
                return
            mask, others = open_sets.pop()
            if mask.bit_count() == size:
                yield mask
                return
            for place, i in enumerate(others):
                later = [j for j in others[place + 1 :] if self._joined(i, j)]
                if mask.bit_count() + 1 + len(later) >= size:
                    open_sets.append((mask | self._bit(i), later))

    def _score(self, mask: int) -> int:
        return sum(self._pairs[i][j] for i, j in combinations(self._members(mask), 2))

    def _lost(self, mask: int, free: int) -> int:
        rest = self._members(free & ~mask)
        return sum(self._pairs[i][j] for i in self._members(mask) for j in rest)

    def _joined(self, one: int, other: int) -> bool:
        return self._pairs[one][other] >= NVLINK_SCORE

    def _bit(self, device: int) -> int:
        return 1 << (self.n - 1 - device)

    def _members(self, mask: int) -> list[int]:
        return [i for i in range(self.n) if mask & self._bit(i)]
