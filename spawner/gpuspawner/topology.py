"""Which of the free devices to give, and why.

The first aim is the link quality of the set given now. Among sets that are about as
good, it is what the devices left over offer to the requests that can be expected: one
GPU is taken where it breaks no pair, a pair where it breaks no four.

Link quality is the sum over all pairs: NVLinks count before PCIe paths, and these
before NUMA nodes. Behind NVSwitches NVLink joins all alike, so the path decides.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from gpuspawner.crowd import Crowd
from gpuspawner.links import Link, Topology
from gpuspawner.model import Device, SlotRequest
from gpuspawner.tables import N_MAX, NVLINK_SCORE, PATH_SCORE, Demand, Table

_NVLINKS_MAX = 64  # more is no device known; keeps scores within 32 bits
_WHOLE = 1 << 16
_MEMORY = 32
_PRIOR = {Demand(1): 8, Demand(2): 4, Demand(4): 2, Demand(8): 1, Demand(16): 1}
_PRIOR_PARTS = 16

Pairs = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """Devices for a request.

    Attributes:
        devices: By index, then UUID.
        why: One line, like "GPU 2+3: NV12; keeps 4-5-6-7 whole".
    """

    devices: tuple[Device, ...]
    why: str


class Mix:
    """How often each kind of request comes: an average that forgets.

    The newest request counts 1/32, the one before 31/32 of that, and so on. The
    expectation before any request (half of them for 1, a quarter for 2, then 4, 8 and
    16) keeps 1/16 for ever, so that good sets are left even if nobody asked for one
    lately.
    """

    def __init__(self) -> None:
        self._shares = {
            demand: n * _WHOLE // _PRIOR_PARTS for demand, n in _PRIOR.items()
        }

    @property
    def weights(self) -> dict[Demand, int]:
        """Kind of request -> its weight; 2^20 in sum."""
        own = _PRIOR_PARTS - 1
        weights = {demand: own * share for demand, share in self._shares.items()}
        for demand, n in _PRIOR.items():
            weights[demand] = weights.get(demand, 0) + n * _WHOLE // _PRIOR_PARTS
        return weights

    def note(self, demand: Demand) -> None:
        """Take a request into the average."""
        # Rounded so that a share that nobody asks for reaches 0.
        shares = {
            old: share - -(-share // _MEMORY) for old, share in self._shares.items()
        }
        rest = _WHOLE - sum(shares.values())
        shares[demand] = shares.get(demand, 0) + rest
        self._shares = {old: share for old, share in shares.items() if share}


class _Type:
    """The devices of one product name.

    Attributes:
        name: The product name.
        devices: By index, then UUID.
        pairs: The score of each pair.
        sets: What their sets are worth.
    """

    def __init__(self, devices: tuple[Device, ...], pairs: Pairs) -> None:
        self.name = devices[0].name
        self.devices = devices
        self.pairs = pairs
        self.sets = Table(pairs) if len(devices) <= N_MAX else Crowd(pairs)

    def mask(self, uuids: Set[str], min_memory_bytes: int = 0) -> int:
        """Return those of the devices that are named and large enough."""
        mask = 0
        for device in self.devices:
            has = device.uuid in uuids and device.memory_bytes >= min_memory_bytes
            mask = mask << 1 | has
        return mask

    def members(self, mask: int) -> tuple[Device, ...]:
        """Return the devices of a mask."""
        n = len(self.devices)
        return tuple(x for i, x in enumerate(self.devices) if mask >> (n - 1 - i) & 1)


class Chooser:
    """Chooses among devices, and remembers what is asked for.

    Deterministic: the answer depends on the devices, their links, what is free, and the
    requests noted, never on the order in which they are given. Up to 16 devices of one
    type the choice is exact, see `Table.choose`; beyond that see `Crowd`.

    Args:
        keep_intact: Size -> how many whole groups of it are kept for requests that
            are no smaller. A whole group is the best of its size on this machine, see
            `Group`. A smaller request waits rather than break it; a group that is not
            whole any more is no reason to wait.

    Attributes:
        n_builds: How many tables were built so far.
    """

    def __init__(self, keep_intact: Mapping[int, int] | None = None) -> None:
        self.n_builds = 0
        self._keep_intact = dict(keep_intact or {})
        self._types: dict[str, _Type] = {}
        self._mixes: dict[str, Mix] = {}
        self._topology = Topology()
        self._homes: dict[int, tuple[_Type, ...]] = {}

    def see(self, devices: Sequence[Device], topology: Topology) -> None:
        """Take note of the devices that may be leased at all now, and their links.

        Builds a table for each type that has changed, in up to 100 ms; else fast.
        """
        self._topology = topology
        by_name: dict[str, list[Device]] = {}
        for device in sorted({device.uuid: device for device in devices}.values()):
            by_name.setdefault(device.name, []).append(device)
        types = {
            name: self._type(name, tuple(devices)) for name, devices in by_name.items()
        }
        if types != self._types:
            self._types = types
            self._reserve()
            for name, kind in types.items():
                for demand in self._mixes.setdefault(name, Mix()).weights:
                    kind.sets.prepare(demand)

    def note(self, request: SlotRequest) -> None:
        """Remember a real request, so that sets for others like it are left."""
        for kind in self._suited(request):
            self._mixes[kind.name].note(_demand(request))
            kind.sets.prepare(_demand(request))

    def choose(self, free: Set[str], request: SlotRequest) -> Choice | None:
        """Return devices for a request, None if it cannot be granted.

        Never fewer than asked for, and always of one type: the one with the least
        memory that suffices and has such a set, then by name.

        Args:
            free: UUIDs of all devices that can be leased now, whether they suit the
                request or not; unknown ones do not count.
            request: What is asked for.

        Raises:
            ValueError: A negative number is asked for.
        """
        if request.n_slots < 0:
            raise ValueError(f"cannot choose {request.n_slots} devices")
        if not request.n_slots:
            return Choice((), "no GPU asked for")
        for kind in self._suited(request):
            if found := self._choose_of(kind, free, request, self._keep_intact):
                mask = kind.mask(free)
                return Choice(kind.members(found), self._why(kind, mask, found))
        return None

    def why_not(self, free: Set[str], request: SlotRequest) -> str:
        """Return why `choose` found nothing, for the user: what is and what to do."""
        usable = {
            kind.name: kind.members(kind.mask(free, request.min_memory_bytes))
            for kind in self._suited(request)
        }
        n, n_free = request.n_slots, sum(map(len, usable.values()))
        advice = (
            "You can start as soon as others are given back; until then choose CPU "
            "only, your files are the same."
            if self.choose(self._every, request)
            else "Waiting will not help: choose a smaller server or ask your admin."
        )
        if n_free < n:
            are = "is" if n_free == 1 else "are"
            return f"{n} such GPUs were asked for and {n_free} {are} free. {advice}"
        if max(map(len, usable.values())) < n:
            types = ", ".join(f"{len(x)} {name}" for name, x in usable.items() if x)
            return (
                f"{_gpus(n_free)} are free, but of different types ({types}), and all "
                f"GPUs of a server are of one type. {advice}"
            )
        if not any(
            self._choose_of(kind, free, request, {}) for kind in self._suited(request)
        ):
            return (
                f"{_gpus(n_free)} are free, but no {n} of them are all joined by "
                f"NVLink. {advice}"
            )
        kept = [size for size in sorted(self._keep_intact) if size > n]
        sizes = " or ".join(map(str, kept))
        are = "is" if n_free == 1 else "are"
        return (
            f"{_gpus(n_free)} {are} free, but kept for servers with {sizes} connected "
            f"GPUs. {advice}"
        )

    # -- types -------------------------------------------------------------------

    @property
    def _every(self) -> set[str]:
        return {device.uuid for kind in self._types.values() for device in kind.devices}

    def _type(self, name: str, devices: tuple[Device, ...]) -> _Type:
        pairs = tuple(
            tuple(pair_score(self._topology, one, other) for other in devices)
            for one in devices
        )
        known = self._types.get(name)
        if known and (known.devices, known.pairs) == (devices, pairs):
            return known
        self.n_builds += 1
        return _Type(devices, pairs)

    def _suited(self, request: SlotRequest) -> list[_Type]:
        """Return the types that may serve a request, the best one first."""
        least = request.min_memory_bytes
        suited = []
        for name, kind in self._types.items():
            sizes = [x.memory_bytes for x in kind.devices if x.memory_bytes >= least]
            if sizes and request.type in {"", name}:
                suited.append((min(sizes), name, kind))
        return [kind for _, _, kind in sorted(suited, key=lambda x: x[:2])]

    def _choose_of(
        self,
        kind: _Type,
        free: Set[str],
        request: SlotRequest,
        keep_intact: Mapping[int, int],
    ) -> int | None:
        return kind.sets.choose(
            kind.mask(free),
            kind.mask(free, request.min_memory_bytes),
            _demand(request),
            self._mixes[kind.name].weights,
            self._keep(kind, free, request.n_slots, keep_intact),
        )

    # -- whole groups ------------------------------------------------------------

    def _reserve(self) -> None:
        self._homes = {}
        for size in self._keep_intact:
            groups = {
                kind: kind.sets.best_group(size)
                for kind in self._types.values()
                if size <= len(kind.devices)
            }
            best = max(groups.values(), default=None)
            homes = tuple(kind for kind, group in groups.items() if group == best)
            for kind in homes:
                kind.sets.reserve(size, groups[kind])
            self._homes[size] = homes

    def _keep(
        self, kind: _Type, free: Set[str], n: int, keep_intact: Mapping[int, int]
    ) -> dict[int, int]:
        """Return how many whole groups of each size this type must still have."""
        keep = {}
        for size, wanted in keep_intact.items():
            homes = self._homes.get(size, ())
            if size <= n or kind not in homes:
                continue
            have = {home: home.sets.n_groups(size, home.mask(free)) for home in homes}
            total = sum(have.values())
            keep[size] = max(0, min(wanted, total) - (total - have[kind]))
        return keep

    # -- words -------------------------------------------------------------------

    def _why(self, kind: _Type, free: int, found: int) -> str:
        devices = kind.members(found)
        words = f"GPU {'+'.join(str(device.index) for device in devices)}: "
        if links := self._links(devices):
            words += f"{links}; "
        rest = free & ~found
        groups = [_group(kind.members(mask)) for mask in kind.sets.intact(rest)]
        if groups:
            *others, last = groups
            listed = f"{', '.join(others)} and {last}" if others else last
            return f"{words}keeps {listed} whole"
        if not rest:
            return f"{words}no other is free"
        scores = {row[j] for i, row in enumerate(kind.pairs) for j in range(i)}
        if len(scores) <= 1:
            return f"{words}all are connected alike"
        return f"{words}no whole group is left"

    def _links(self, devices: tuple[Device, ...]) -> str:
        links = {
            self._topology.link(one.uuid, other.uuid)
            for one in devices
            for other in devices
            if one != other
        }
        if not links:
            return ""
        best, worst = max(links, key=_rank), min(links, key=_rank)
        if str(best) == str(worst):
            return str(best)
        return f"{best} to {worst}"


def pair_score(topology: Topology, one: Device, other: Device) -> int:
    """Return the link quality of two devices: NVLinks, then PCIe path, then NUMA."""
    link = topology.link(one.uuid, other.uuid)
    node = topology.numa.get(one.uuid)
    is_near = node is not None and node == topology.numa.get(other.uuid)
    n_nvlinks = min(link.n_nvlinks, _NVLINKS_MAX)
    return n_nvlinks * NVLINK_SCORE + link.path * PATH_SCORE + is_near


def _demand(request: SlotRequest) -> Demand:
    return Demand(request.n_slots, request.must_be_connected)


def _rank(link: Link) -> tuple[int, int]:
    return link.n_nvlinks, link.path


def _group(devices: Sequence[Device]) -> str:
    indices = [str(device.index) for device in devices]
    return ("+" if len(indices) <= 2 else "-").join(indices)  # noqa: PLR2004 - a pair


def _gpus(n: int) -> str:
    return "1 GPU" if n == 1 else f"{n} GPUs"
