"""How fast devices are chosen, and how good the choices are: python bench/choice.py.

Quality is compared over the same traces for three ways to choose: the lowest indices;
the set with the best links now (greedy); and `gpuspawner.topology`. The score of a set
is the one of NVIDIA's go-gpuallocator, summed over pairs: 100 for each NVLink, 10 to 60
for the PCIe path. Requests come as a Poisson process, leases last exponentially long,
what cannot be granted at once is dropped. Takes about a minute.
"""

import heapq
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from gpuspawner.model import Device, SlotRequest
from gpuspawner.topology import Chooser
from unit.topologies import LARGE, SMALL, Machine

LOADS = (0.3, 0.5, 0.7, 0.9)
N_REQUESTS = 5000
N_DECISIONS = 2000
N_BUILDS = 10
CONNECTED_SHARE = 0.25
MIXES = {  # (size, must be connected) -> share
    "small": {(1, False): 0.7, (2, False): 0.2, (4, False): 0.1},
    "wide": {
        (1, False): 0.4,
        (2, False): 0.2,
        (3, False): 0.1,
        (4, False): 0.2,
        (8, False): 0.1,
    },
    "connected": {(1, False): 0.6, (2, True): 0.3, (4, True): 0.1},
}
Chosen = tuple[int, ...]
Choose = Callable[[frozenset[int], SlotRequest], Chosen | None]


class Sets:
    """The sets of a machine's devices, by index, with the score they are judged by."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        devices, topology = machine.devices, machine.topology
        self.n = len(devices)
        self.links = [
            [topology.link(one.uuid, other.uuid) for other in devices]
            for one in devices
        ]
        self._pairs = [
            [100 * link.n_nvlinks + 10 * link.path for link in row]
            for row in self.links
        ]
        self._best: dict[int, int] = {}

    def score(self, some: Iterable[int]) -> int:
        """Return the score of a set."""
        return sum(self._pairs[i][j] for i, j in combinations(some, 2))

    def is_connected(self, some: Iterable[int]) -> bool:
        """Return whether NVLink joins every pair."""
        return all(self.links[i][j].n_nvlinks for i, j in combinations(some, 2))

    @cached_property
    def scores(self) -> dict[int, list[tuple[int, int, Chosen]]]:
        """Size -> score, mask and members of each set, the best first."""
        return {
            size: sorted(
                (
                    (self.score(some), sum(1 << i for i in some), some)
                    for some in combinations(range(self.n), size)
                ),
                key=lambda x: (-x[0], x[2]),
            )
            for size in {size for mix in MIXES.values() for size, _ in mix}
            if size <= self.n
        }

    def best(self, size: int) -> int:
        """Return the score of the best set of a size."""
        return self.scores[size][0][0]

    def lowest(self, free: frozenset[int], request: SlotRequest) -> Chosen | None:
        """Choose the lowest indices."""
        for some in combinations(sorted(free), request.n_slots):
            if not request.must_be_connected or self.is_connected(some):
                return some
        return None

    def greedy(self, free: frozenset[int], request: SlotRequest) -> Chosen | None:
        """Choose the best links now, then the lowest indices."""
        taken = sum(1 << i for i in range(self.n) if i not in free)
        for _, mask, some in self.scores[request.n_slots]:
            if mask & taken:
                continue
            if not request.must_be_connected or self.is_connected(some):
                return some
        return None

    def ours(self) -> Choose:
        """Return a chooser that learns from the requests it grants."""
        chooser = Chooser()
        chooser.see(self.machine.devices, self.machine.topology)
        uuids = [device.uuid for device in self.machine.devices]

        def choose(free: frozenset[int], request: SlotRequest) -> Chosen | None:
            chooser.note(request)
            choice = chooser.choose({uuids[i] for i in free}, request)
            return tuple(x.index for x in choice.devices) if choice else None

        return choose


@dataclass
class Tally:
    """What came of a trace."""

    qualities: list[float] = field(default_factory=list)
    connected: list[bool] = field(default_factory=list)

    @property
    def quality(self) -> float:
        """Mean of granted score / best possible, over requests for several."""
        return mean(self.qualities)

    @property
    def rejection(self) -> float:
        """Share of must-be-connected requests that were rejected."""
        return mean([not granted for granted in self.connected])


Arrival = tuple[float, float, SlotRequest]


def trace(
    n: int, mix: dict[tuple[int, bool], float], load: float, seed: int
) -> list[Arrival]:
    """Return when requests come, how long their leases last, and what they ask for."""
    random = Random(seed)  # noqa: S311 - a simulation
    per_request = sum(size * share for (size, _), share in mix.items())
    at, arrivals = 0.0, []
    for _ in range(N_REQUESTS):
        at += random.expovariate(load * n / per_request)
        ((size, is_connected),) = random.choices(list(mix), list(mix.values()))
        request = SlotRequest(size, must_be_connected=is_connected)
        arrivals.append((at, random.expovariate(1), request))
    return arrivals


def replay(sets: Sets, choose: Choose, arrivals: list[Arrival]) -> Tally:
    """Serve a trace."""
    free, tally = set(range(sets.n)), Tally()
    leases: list[tuple[float, Chosen]] = []
    for at, lasts, request in arrivals:
        while leases and leases[0][0] <= at:
            free.update(heapq.heappop(leases)[1])
        chosen = None
        if request.n_slots <= len(free):
            chosen = choose(frozenset(free), request)
        if request.must_be_connected:
            tally.connected.append(chosen is not None)
        if chosen is None:
            continue
        free.difference_update(chosen)
        heapq.heappush(leases, (at + lasts, chosen))
        if request.n_slots > 1:
            tally.qualities.append(sets.score(chosen) / sets.best(request.n_slots))
    return tally


def possible(
    sets: Sets, mix: dict[tuple[int, bool], float]
) -> dict[tuple[int, bool], float]:
    """Return the mix without what the machine could never grant."""
    return {
        (size, is_connected): share
        for (size, is_connected), share in mix.items()
        if size <= sets.n
        and (
            not is_connected
            or any(sets.is_connected(some) for _, _, some in sets.scores[size])
        )
    }


def mean(values: Iterable[float]) -> float:
    """Return the mean; NaN of nothing."""
    every = list(values)
    return sum(every) / len(every) if every else float("nan")


def compare_quality() -> None:
    """Print quality and rejections of the three ways."""
    print("\nQuality: mean granted score / best possible, over requests for several;")
    print("rejected: share of must-be-connected requests. Higher, lower is better.\n")
    print(f"{'':42}{'quality':^24}  {'rejected':^24}")
    ways = ("lowest", "greedy", "ours")
    head = "".join(f"{way:>8}" for way in ways)
    print(f"{'machine':20}{'mix':14}{'load':>6}  {head}  {head}")
    rows: list[list[Tally]] = []
    machines = {
        name: machine
        for name, machine in (SMALL | LARGE).items()
        if len(set(machine.types)) == 1
    }
    for number, (name, machine) in enumerate(machines.items()):
        sets = Sets(machine)
        for mix_name, wanted in MIXES.items():
            mix = possible(sets, wanted)
            if len(mix) == 1:
                continue
            for load in LOADS:
                arrivals = trace(sets.n, mix, load, number)
                choosers = (sets.lowest, sets.greedy, sets.ours())
                tallies = [replay(sets, choose, arrivals) for choose in choosers]
                rows.append(tallies)
                print(f"{name:20}{mix_name:14}{load:6}  {_cells(rows[-1:])}")
    print(f"{'mean of all rows':40}  {_cells(rows)}")


def _cells(rows: list[list[Tally]]) -> str:
    quality = [mean(row[way].quality for row in rows) for way in range(3)]
    strict = [row for row in rows if row[0].connected]
    rejected = [mean(row[way].rejection for row in strict) for way in range(3)]
    cells = [f"{value:8.3f}" if strict else f"{'-':>8}" for value in rejected]
    return "".join(f"{value:8.3f}" for value in quality) + "  " + "".join(cells)


def measure_speed() -> None:
    """Print how long a choice and a table take with 16 devices."""
    print(
        "Choosing among up to 16 free devices of 16: random free sets, with the reason"
    )
    print("and with learning from a request. Microseconds; CPU is without the time for")
    print("which other programs had the core.\n")
    for name, machine in LARGE.items():
        devices, topology = machine.devices, machine.topology
        chooser = Chooser({4: 1})
        builds = []
        for _ in range(N_BUILDS):
            chooser.see([], topology)
            builds.append(_timed(chooser.see, devices, topology))
        wall, cpu = (sorted(1e3 * took[clock] for took in builds) for clock in (0, 1))
        print(
            f"{name}: table built in {wall[N_BUILDS // 2]:.0f} ms (CPU "
            f"{cpu[N_BUILDS // 2]:.0f}), worst of {N_BUILDS} {wall[-1]:.0f} "
            f"(CPU {cpu[-1]:.0f})"
        )
        print(
            f"{'k':>4}{'p50':>8}{'p99':>8}{'p99 CPU':>10}{'decisions/s':>14}"
            f"{'all 16 free: p50':>20}{'p99 CPU':>10}"
        )
        for size in range(1, 17):
            wall, cpu = _decisions(chooser, devices, size, all_free=False)
            full, full_cpu = _decisions(chooser, devices, size, all_free=True)
            half, late = N_DECISIONS // 2, N_DECISIONS * 99 // 100
            print(
                f"{size:4}{1e6 * wall[half]:8.0f}{1e6 * wall[late]:8.0f}"
                f"{1e6 * cpu[late]:10.0f}{1 / mean(wall):14.0f}"
                f"{1e6 * full[half]:20.0f}{1e6 * full_cpu[late]:10.0f}"
            )


def _timed(work: Callable[..., object], *args: object) -> tuple[float, float]:
    """Return wall-clock and CPU seconds of some work."""
    began, cpu_began = time.perf_counter(), time.thread_time()
    work(*args)
    return time.perf_counter() - began, time.thread_time() - cpu_began


def _decisions(
    chooser: Chooser, devices: list[Device], size: int, *, all_free: bool
) -> tuple[list[float], list[float]]:
    """Return wall-clock and CPU seconds of decisions, each sorted."""
    random = Random(size)  # noqa: S311 - a simulation
    uuids, took = [device.uuid for device in devices], []
    for other in random.choices((1, 2, 3, 4, 6, 8), k=N_DECISIONS):
        n_free = len(uuids) if all_free else random.randint(size, len(uuids))
        free = frozenset(random.sample(uuids, n_free))
        request = SlotRequest(size)
        noted = SlotRequest(other, must_be_connected=random.random() < CONNECTED_SHARE)
        took.append(_timed(_learn_and_choose, chooser, noted, free, request))
    return sorted(x[0] for x in took), sorted(x[1] for x in took)


def _learn_and_choose(
    chooser: Chooser, noted: SlotRequest, free: frozenset[str], request: SlotRequest
) -> None:
    chooser.note(noted)
    chooser.choose(free, request)


if __name__ == "__main__":
    measure_speed()
    compare_quality()
