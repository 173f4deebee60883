"""The right GPUs: as a naive search would choose them, on machines that exist."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from itertools import combinations
from random import Random

import pytest
from gpuspawner.links import Link, Path, Topology
from gpuspawner.model import Device, SlotRequest
from gpuspawner.tables import Demand
from gpuspawner.topology import Choice, Chooser, Mix
from hypothesis import given
from hypothesis import strategies as st
from unit.topologies import (
    BRIDGED,
    DGX_1V,
    DGX_2,
    DUAL_SOCKET,
    GIB,
    HGX_A100,
    HGX_H100,
    LARGE,
    SMALL,
    TWO_TYPES,
    UNLIKE,
    Machine,
)

# -- the objective once more, naively ----------------------------------------------

PRIOR = {(1, False): 8, (2, False): 4, (4, False): 2, (8, False): 1, (16, False): 1}
Kind = tuple[int, bool]
Chosen = tuple[Device, ...]
Places = tuple[int, ...]


def naive_mix(noted: Iterable[Kind] = ()) -> dict[Kind, int]:
    """Return the documented average: the newest request 1/32, the prior 1/16."""
    shares = {kind: part * 65536 // 16 for kind, part in PRIOR.items()}
    for kind in noted:
        shares = {old: share - (share + 31) // 32 for old, share in shares.items()}
        shares[kind] = shares.get(kind, 0) + 65536 - sum(shares.values())
    return {
        kind: 15 * shares.get(kind, 0) + PRIOR.get(kind, 0) * 65536 // 16
        for kind in shares.keys() | PRIOR.keys()
    }


class Naive:
    """Tries every set of devices of one type; a device is its place in their order."""

    def __init__(self, devices: list[Device], topology: Topology) -> None:
        self.devices = sorted(devices)
        self.every = tuple(range(len(devices)))
        pairs = [(one, other) for one in self.devices for other in self.devices]
        n = len(devices)
        links = [topology.link(one.uuid, other.uuid) for one, other in pairs]
        nodes = [topology.numa.get(device.uuid, device) for device in self.devices]
        self.links = [links[i * n : i * n + n] for i in range(n)]
        self.is_near = [[one == other for other in nodes] for one in nodes]
        self.score = cache(self._score)
        self.is_connected = cache(self._is_connected)
        self.best = cache(self._best)
        self.offer = cache(self._offer)
        self.most = cache(self._most)

    def _score(self, some: Places) -> int:
        return sum(
            self.links[i][j].n_nvlinks * 2**17
            + self.links[i][j].path * 2**7
            + self.is_near[i][j]
            for i, j in combinations(some, 2)
        )

    def _is_connected(self, some: Places) -> bool:
        return all(self.links[i][j].n_nvlinks for i, j in combinations(some, 2))

    def _best(self, size: int) -> int:
        return max(map(self.score, combinations(self.every, size)))

    def _most(self, kind: Kind, some: Places, n_over: int) -> int:
        """Return the best sum over disjoint sets; n_over devices stay outside."""
        size, is_connected = kind
        if len(some) < size:
            return 0
        first, *others = some
        most = self.most(kind, tuple(others), n_over - 1) if n_over else 0
        for more in combinations(others, size - 1):
            chosen = (first, *more)
            left = tuple(i for i in others if i not in more)
            worth = self.is_connected(chosen) if is_connected else self.score(chosen)
            most = max(most, worth + self.most(kind, left, n_over))
        return most

    def _offer(self, kind: Kind, some: Places) -> int:
        whole = self.most(kind, self.every, len(self.every) % kind[0])
        part = self.most(kind, some, len(some) % kind[0])
        return part * 2**30 // whole if whole else 0

    def choose(self, free: Chosen, kind: Kind, mix: Mapping[Kind, int]) -> Chosen:
        """Return the set with the largest documented value."""
        size, is_connected = kind
        places = tuple(self.devices.index(device) for device in free)

        def rank(some: Places) -> tuple[int, ...]:
            rest = tuple(i for i in places if i not in some)
            now = self.score(some) * 2**30 // max(1, self.best(size))
            later = sum(
                weight * self.offer(other, rest)
                for other, weight in mix.items()
                if 1 < other[0] <= len(rest)
            )
            value = 64 * sum(mix.values()) * now + later
            return (value, self.score(some), *(-i for i in some))

        sets = combinations(places, size)
        best = max(
            (some for some in sets if not is_connected or self.is_connected(some)),
            key=rank,
            default=(),
        )
        return tuple(self.devices[i] for i in best)


def ready(machine: Machine, keep_intact: Mapping[int, int] | None = None) -> Chooser:
    chooser = Chooser(keep_intact or {})
    chooser.see(machine.devices, machine.topology)
    return chooser


def uuids(machine: Machine, *indices: int) -> set[str]:
    return {machine.devices[i].uuid for i in indices}


def indices(choice: Choice | None) -> list[int] | None:
    return [device.index for device in choice.devices] if choice else None


NOTED: list[list[Kind]] = [
    [],
    [(1, False)] * 40 + [(3, False), (4, True), (2, True), (2, False)] * 5,
]


@pytest.mark.parametrize("noted", NOTED, ids=["prior", "learned"])
@pytest.mark.parametrize("machine", SMALL.values(), ids=SMALL.keys())
def test_every_choice_is_that_of_a_naive_search(
    machine: Machine, noted: list[Kind]
) -> None:
    """Every free set of up to 8 devices, every size, connected or not."""
    chooser, mix = ready(machine), naive_mix(noted)
    for size, is_connected in noted:
        chooser.note(SlotRequest(size, must_be_connected=is_connected))
    for name in {device.name for device in machine.devices}:
        devices = [device for device in machine.devices if device.name == name]
        naive = Naive(devices, machine.topology)
        for n in range(1, len(devices) + 1):
            for free in combinations(devices, n):
                free_uuids = {device.uuid for device in free}
                for size in range(1, n + 1):
                    for connected in {False, size > 1}:
                        request = SlotRequest(
                            size, type=name, must_be_connected=connected
                        )
                        choice = chooser.choose(free_uuids, request)
                        expected = naive.choose(free, (size, connected), mix)
                        assert (choice.devices if choice else ()) == expected


@pytest.mark.parametrize("machine", LARGE.values(), ids=LARGE.keys())
def test_choices_among_sixteen_are_those_of_a_naive_search(machine: Machine) -> None:
    """Random free sets; the full machine for sizes that leave few sets to try."""
    noted = [(2, True), (4, False), (2, False), (1, False)]
    chooser, random = ready(machine), Random(16)  # noqa: S311
    for size, is_connected in noted:
        chooser.note(SlotRequest(size, must_be_connected=is_connected))
    devices, mix = machine.devices, naive_mix(noted)
    naive = Naive(devices, machine.topology)
    cases = [(devices, size) for size in (13, 14, 15, 16)]
    cases += [
        (random.sample(devices, n), random.randint(1, n))
        for n in (random.randint(1, 10) for _ in range(60))
    ]
    for some, size in cases:
        free = tuple(sorted(some))
        for connected in {False, size > 1}:
            request = SlotRequest(size, must_be_connected=connected)
            choice = chooser.choose({device.uuid for device in free}, request)
            expected = naive.choose(free, (size, connected), mix)
            assert (choice.devices if choice else ()) == expected


# -- what it means -------------------------------------------------------------------


def test_one_gpu_is_the_one_whose_partner_is_gone() -> None:
    """A pair is not broken while a single one is free."""
    chooser = ready(BRIDGED)
    free = uuids(BRIDGED, 0, 1, 3, 4, 5)
    choice = chooser.choose(free, SlotRequest(1))
    assert indices(choice) == [3]
    assert choice is not None
    assert choice.why == "GPU 3: keeps 0+1 and 4+5 whole"


def test_a_pair_is_a_bridged_one_and_breaks_no_whole_socket() -> None:
    """The second socket's four stay together."""
    chooser = ready(BRIDGED)
    choice = chooser.choose(uuids(BRIDGED, 2, 3, 4, 5, 6, 7), SlotRequest(2))
    assert indices(choice) == [2, 3]
    assert choice is not None
    assert choice.why == "GPU 2+3: NV12; keeps 4-5-6-7 whole"


def test_behind_nvswitches_the_pcie_path_decides() -> None:
    """NVLink joins all alike there."""
    h100, a100 = ready(HGX_H100), ready(HGX_A100)
    assert indices(h100.choose(uuids(HGX_H100, 0, 4, 5), SlotRequest(2))) == [4, 5]
    assert indices(a100.choose(uuids(HGX_A100, 0, 2, 3), SlotRequest(2))) == [2, 3]


def test_the_reason_tells_the_best_and_the_worst_link() -> None:
    """Four GPUs on a hybrid cube mesh are not joined alike."""
    chooser = ready(DGX_1V)
    every = {device.uuid for device in DGX_1V.devices}
    four, odd = chooser.choose(every, SlotRequest(4)), uuids(DGX_1V, 0, 1, 6)
    last = chooser.choose(odd, SlotRequest(3))
    assert four is not None
    assert last is not None
    assert four.why == "GPU 0+1+2+3: NV2 to NV1; keeps 4-5-6-7 whole"
    assert last.why == "GPU 0+1+6: NV1 to SYS; no other is free"


# NVLink joins three, and more weakly two.
THREE_AND_TWO = Machine(
    types=(("A", 1),) * 6,
    numa=(0,) * 6,
    paths="\n".join(
        " ".join("X" if i == j else "SYS" for j in range(6)) for i in range(6)
    ),
    nvlinks="""
        X 4 4 0 0 0
        4 X 4 0 0 0
        4 4 X 0 0 0
        0 0 0 X 1 0
        0 0 0 1 X 0
        0 0 0 0 0 X
    """,
)


def test_requests_teach_what_to_leave() -> None:
    """Where many ask for three, three are left; else where many ask for two, two."""
    chooser = ready(THREE_AND_TWO)
    free = uuids(THREE_AND_TWO, 0, 1, 2, 3, 4)
    for _ in range(200):
        chooser.note(SlotRequest(3))
    assert indices(chooser.choose(free, SlotRequest(1))) == [3]
    for _ in range(200):
        chooser.note(SlotRequest(2, must_be_connected=True))
    assert indices(chooser.choose(free, SlotRequest(1))) == [0]


def test_the_mix_is_an_average_that_forgets_all_but_the_prior() -> None:
    """Its weights are whole numbers and always 2^20 in sum."""
    mix = Mix()
    assert mix.weights == naive_mix()
    noted = [(2, True)] * 3 + [(5, False)] + [(1, False)] * 500
    for kind in noted:
        mix.note(Demand(*kind))
        assert sum(mix.weights.values()) == 2**20
    assert {kind: n for kind, n in naive_mix(noted).items() if n} == mix.weights
    assert mix.weights.keys() == PRIOR.keys()


def test_several_are_always_of_one_type() -> None:
    """Three free of two types do not make three."""
    chooser = ready(TWO_TYPES)
    free = uuids(TWO_TYPES, 0, 1, 4)
    assert chooser.choose(free, SlotRequest(3)) is None
    assert indices(chooser.choose(free, SlotRequest(2))) == [0, 1]
    assert chooser.why_not(free, SlotRequest(3)) == (
        "3 GPUs are free, but of different types (1 Tesla T4, 2 NVIDIA A100 80GB "
        "PCIe), and all GPUs of a server are of one type. You can start as soon as "
        "others are given back; until then choose CPU only, your files are the same."
    )


def test_the_smallest_sufficient_type_is_given_first() -> None:
    """The large ones stay for those who need them."""
    chooser, every = ready(UNLIKE), {device.uuid for device in UNLIKE.devices}

    def given(n_gib: int, name: str = "") -> str:
        choice = chooser.choose(
            every, SlotRequest(1, type=name, min_memory_bytes=n_gib * GIB)
        )
        return choice.devices[0].name if choice else ""

    assert given(0) == "Tesla T4"
    assert given(16) == "Tesla V100-PCIE-16GB"
    assert given(30) == "NVIDIA A100-PCIE-40GB"
    assert given(41) == "NVIDIA RTX A6000"
    assert given(49) == ""
    assert given(0, "NVIDIA RTX A6000") == "NVIDIA RTX A6000"
    assert given(0, "unheard of") == ""


def test_devices_of_one_type_with_too_little_memory_are_passed_over() -> None:
    """Two boards of one name need not have the same memory."""
    small, large = (Device(i, f"GPU-{i}", "A100", (40 + i) * GIB, i) for i in range(2))
    chooser = Chooser()
    chooser.see([small, large], Topology())
    free = {small.uuid, large.uuid}
    choice = chooser.choose(free, SlotRequest(1, min_memory_bytes=41 * GIB))
    assert choice is not None
    assert choice.devices == (large,)
    assert chooser.choose(free, SlotRequest(2, min_memory_bytes=41 * GIB)) is None


def test_connected_means_that_nvlink_joins_every_pair() -> None:
    """A square of four with one side missing is not connected."""
    chooser = ready(DGX_1V)
    pair = SlotRequest(2, must_be_connected=True)
    assert chooser.choose(uuids(DGX_1V, 0, 5, 6, 7), SlotRequest(4)) is not None
    four = SlotRequest(4, must_be_connected=True)
    free = uuids(DGX_1V, 0, 1, 4, 5, 6)
    assert chooser.choose(free, four) is None
    assert chooser.choose(uuids(DGX_1V, 0, 7), pair) is None
    assert chooser.why_not(free, four) == (
        "5 GPUs are free, but no 4 of them are all joined by NVLink. You can start as "
        "soon as others are given back; until then choose CPU only, your files are "
        "the same."
    )
    none = ready(DUAL_SOCKET)
    every = {device.uuid for device in DUAL_SOCKET.devices}
    assert none.choose(every, pair) is None
    assert "Waiting will not help" in none.why_not(every, pair)


# -- groups kept whole -----------------------------------------------------------------


def test_the_last_whole_four_is_not_broken_by_a_smaller_request() -> None:
    """It waits, and is told why; a request for four gets them."""
    chooser = ready(DGX_1V, {4: 1})
    free = uuids(DGX_1V, 3, 4, 5, 6, 7)
    assert indices(chooser.choose(free, SlotRequest(1))) == [3]
    assert chooser.choose(free, SlotRequest(2)) is None
    assert chooser.why_not(free, SlotRequest(2)) == (
        "5 GPUs are free, but kept for servers with 4 connected GPUs. You can start "
        "as soon as others are given back; until then choose CPU only, your files are "
        "the same."
    )
    assert indices(chooser.choose(free, SlotRequest(4))) == [4, 5, 6, 7]


def test_a_group_that_is_broken_already_is_no_reason_to_wait() -> None:
    """Nothing is saved by waiting then."""
    chooser = ready(DGX_1V, {4: 1})
    assert chooser.choose(uuids(DGX_1V, 4, 5, 6), SlotRequest(2)) is not None


def test_behind_nvswitches_any_four_are_a_whole_group() -> None:
    """PCIe does not matter to a set that NVLink joins throughout."""
    chooser = ready(HGX_H100, {4: 1})
    free = uuids(HGX_H100, 0, 1, 4, 5)
    assert chooser.choose(free, SlotRequest(1)) is None
    assert chooser.choose(free | uuids(HGX_H100, 7), SlotRequest(1)) is not None


def test_two_groups_can_be_kept_and_small_ones_too() -> None:
    """Each size counts for itself."""
    free = uuids(DUAL_SOCKET, 0, 1, 2, 3, 4, 5, 6, 7)
    two_fours = ready(DUAL_SOCKET, {4: 2})
    assert two_fours.choose(free, SlotRequest(2)) is None
    four_and_pair = ready(DUAL_SOCKET, {4: 1, 2: 3})
    assert four_and_pair.choose(free, SlotRequest(2)) is not None
    assert four_and_pair.choose(free, SlotRequest(1)) is not None
    some = free - uuids(DUAL_SOCKET, 0)
    assert indices(four_and_pair.choose(some, SlotRequest(1))) == [1]
    assert four_and_pair.choose(some - uuids(DUAL_SOCKET, 1), SlotRequest(1)) is None


def test_only_the_best_groups_of_the_machine_are_kept() -> None:
    """Four T4 are not what is meant where four A100 are there."""
    chooser = ready(TWO_TYPES, {4: 1})
    every = {device.uuid for device in TWO_TYPES.devices}
    assert indices(chooser.choose(every, SlotRequest(1))) == [4]
    assert indices(chooser.choose(uuids(TWO_TYPES, 4, 5, 6, 7), SlotRequest(1)))
    a100 = SlotRequest(1, type="NVIDIA A100 80GB PCIe")
    assert chooser.choose(every, a100) is None
    assert "Waiting will not help" in chooser.why_not(every, a100)


def test_of_equal_groups_of_two_types_either_one_is_kept() -> None:
    """One may be broken while the other is whole, not both."""
    chooser = Chooser({4: 1})
    chooser.see(TWO_TYPES.devices, Topology())
    every = {device.uuid for device in TWO_TYPES.devices}
    t4 = SlotRequest(1, type="Tesla T4")
    a100 = SlotRequest(1, type="NVIDIA A100 80GB PCIe")
    assert indices(chooser.choose(every, t4)) == [4]
    assert indices(chooser.choose(every, a100)) == [0]
    assert chooser.choose(every - uuids(TWO_TYPES, 4), a100) is None
    assert chooser.choose(every - uuids(TWO_TYPES, 4), t4) is not None


# -- any input -------------------------------------------------------------------------


def is_connected(topology: Topology, devices: Iterable[Device]) -> bool:
    return all(
        topology.link(one.uuid, other.uuid).n_nvlinks
        for one, other in combinations(devices, 2)
    )


LINKS = st.builds(Link, st.sampled_from(Path), st.integers(0, 3))


@st.composite
def situations(
    draw: st.DrawFn, n_max: int = 6
) -> tuple[list[Device], Topology, set[str], SlotRequest, dict[int, int]]:
    """Draw machines with any links, missing ones and keys in the wrong order too."""
    n = draw(st.integers(0, n_max))
    devices = [
        Device(
            draw(st.integers(0, 3)),
            f"GPU-{i}",
            draw(st.sampled_from(["A100", "T4"])),
            draw(st.integers(1, 3)) * GIB,
            i,
        )
        for i in range(n)
    ]
    names = [device.uuid for device in devices] + ["GPU-gone"]
    some_names = st.sampled_from(names)
    links = draw(st.dictionaries(st.tuples(some_names, some_names), LINKS))
    numa = draw(st.dictionaries(some_names, st.integers(0, 1)))
    request = SlotRequest(
        draw(st.integers(1, n + 2)),
        type=draw(st.sampled_from(["", "A100", "T4"])),
        min_memory_bytes=draw(st.integers(0, 3)) * GIB,
        must_be_connected=draw(st.booleans()),
    )
    keep = draw(st.dictionaries(st.integers(1, 4), st.integers(1, 2), max_size=2))
    free = draw(st.sets(some_names))
    return devices, Topology(links, numa), free, request, keep


@given(situations(), st.randoms(use_true_random=False))
def test_any_machine_gets_a_sound_answer(
    situation: tuple[list[Device], Topology, set[str], SlotRequest, dict[int, int]],
    random: Random,
) -> None:
    """Exactly as many as asked for, free, of one type, and the same in any order."""
    devices, topology, free, request, keep = situation
    chooser = Chooser(keep)
    chooser.see(devices, topology)
    choice = chooser.choose(free, request)
    shuffled = list(devices)
    random.shuffle(shuffled)
    links = list(topology.links.items())
    random.shuffle(links)
    again = Chooser(dict(reversed(keep.items())))
    again.see(shuffled, Topology(dict(links), topology.numa))
    assert again.choose(free, request) == choice
    if choice is None:
        assert chooser.why_not(free, request).endswith((".", "same."))
        return
    assert len({device.uuid for device in choice.devices}) == request.n_slots
    assert {device.uuid for device in choice.devices} <= free
    assert set(choice.devices) <= set(devices)
    assert len({device.name for device in choice.devices}) == 1
    for device in choice.devices:
        assert request.type in {"", device.name}
        assert device.memory_bytes >= request.min_memory_bytes
    assert not request.must_be_connected or is_connected(topology, choice.devices)
    assert choice.why.startswith("GPU ")


@given(situations())
def test_without_reservations_what_can_be_granted_is_granted(
    situation: tuple[list[Device], Topology, set[str], SlotRequest, dict[int, int]],
) -> None:
    """Refusal means that no set of free devices would do."""
    devices, topology, free, request, _ = situation
    chooser = Chooser()
    chooser.see(devices, topology)
    usable = [
        device
        for device in devices
        if device.uuid in free
        and request.type in {"", device.name}
        and device.memory_bytes >= request.min_memory_bytes
    ]
    can_be = any(
        len({device.name for device in some}) == 1
        and (not request.must_be_connected or is_connected(topology, some))
        for some in combinations(usable, request.n_slots)
    )
    assert (chooser.choose(free, request) is not None) == can_be


@given(situations(n_max=5), st.sampled_from([1, 2, 3]))
def test_a_whole_group_is_kept_as_naive_counting_keeps_it(
    situation: tuple[list[Device], Topology, set[str], SlotRequest, dict[int, int]],
    n_kept: int,
) -> None:
    """A grant leaves as many whole pairs as it must, a refusal could not have."""
    devices, topology, free, _, _ = situation
    devices = [replace(device, name="A100") for device in devices]
    chooser = Chooser({2: n_kept})
    chooser.see(devices, topology)
    pairs = list(combinations(devices, 2))
    joined = [pair for pair in pairs if is_connected(topology, pair)]

    def worth(pair: Chosen) -> int:
        one, other = pair
        link = topology.link(one.uuid, other.uuid)
        nodes = {topology.numa.get(device.uuid, device) for device in pair}
        return link.n_nvlinks if joined else link.path * 2 + (len(nodes) == 1)

    best = max(map(worth, joined or pairs), default=0)
    whole = [pair for pair in joined or pairs if worth(pair) == best]

    def count(left: set[str]) -> int:
        inside = [pair for pair in whole if {device.uuid for device in pair} <= left]
        return max(
            (1 + count(left - {device.uuid for device in pair}) for pair in inside),
            default=0,
        )

    known = free & {device.uuid for device in devices}
    must = min(n_kept, count(known))
    grantable = {uuid for uuid in known if count(known - {uuid}) >= must}
    choice = chooser.choose(free, SlotRequest(1))
    assert (choice is None) == (not grantable)
    assert choice is None or choice.devices[0].uuid in grantable


def test_a_machine_that_tells_nothing_of_its_links_is_served_by_index() -> None:
    """All sets are alike, and none is connected."""
    chooser = Chooser()
    chooser.see(DGX_2.devices, Topology())
    every = {device.uuid for device in DGX_2.devices}
    choice = chooser.choose(every, SlotRequest(2))
    assert indices(choice) == [0, 1]
    assert choice is not None
    assert choice.why == "GPU 0+1: unknown link; all are connected alike"
    assert chooser.choose(every, SlotRequest(2, must_be_connected=True)) is None


def test_nothing_and_nobody() -> None:
    """No devices, no request, more than there are, less than nothing."""
    chooser = Chooser({4: 1})
    assert chooser.choose({"GPU-x"}, SlotRequest(1)) is None
    assert chooser.why_not(set(), SlotRequest(1)) == (
        "1 such GPUs were asked for and 0 are free. Waiting will not help: choose a "
        "smaller server or ask your admin."
    )
    assert chooser.choose(set(), SlotRequest(0)) == Choice((), "no GPU asked for")
    chooser.see(DGX_1V.devices, DGX_1V.topology)
    every = {device.uuid for device in DGX_1V.devices}
    assert chooser.choose(every, SlotRequest(9)) is None
    with pytest.raises(ValueError, match="-1"):
        chooser.choose(every, SlotRequest(-1))


# -- tables ----------------------------------------------------------------------------


def test_a_table_is_built_once_for_each_change() -> None:
    """The same devices in another order are no change; a sick one is."""
    chooser = ready(TWO_TYPES)
    assert chooser.n_builds == 2
    chooser.see(TWO_TYPES.devices[::-1], TWO_TYPES.topology)
    assert chooser.n_builds == 2
    chooser.see(TWO_TYPES.devices[1:], TWO_TYPES.topology)
    assert chooser.n_builds == 3
    every = {device.uuid for device in TWO_TYPES.devices}
    assert indices(chooser.choose(every, SlotRequest(4))) == [4, 5, 6, 7]
    a100 = SlotRequest(1, type="NVIDIA A100 80GB PCIe")
    assert indices(chooser.choose(every, a100)) == [1]


def test_groups_are_judged_anew_when_devices_come_and_go() -> None:
    """With an A100 gone, four T4 are the best that is left."""
    chooser = ready(TWO_TYPES, {4: 1})
    t4 = uuids(TWO_TYPES, 4, 5, 6, 7)
    assert chooser.choose(t4, SlotRequest(1)) is not None
    chooser.see(TWO_TYPES.devices[1:], TWO_TYPES.topology)
    assert chooser.choose(t4, SlotRequest(1)) is None
    chooser.see(TWO_TYPES.devices, TWO_TYPES.topology)
    assert chooser.choose(t4, SlotRequest(1)) is not None


def test_what_was_learnt_outlives_a_change_of_devices() -> None:
    """A new table knows the mix of requests that the old one served."""
    chooser = ready(THREE_AND_TWO)
    free = uuids(THREE_AND_TWO, 0, 1, 2, 3, 4)
    assert indices(chooser.choose(free, SlotRequest(1))) == [3]
    for _ in range(200):
        chooser.note(SlotRequest(2, must_be_connected=True))
    chooser.see([], THREE_AND_TWO.topology)
    assert chooser.choose(free, SlotRequest(1)) is None
    chooser.see(THREE_AND_TWO.devices, THREE_AND_TWO.topology)
    assert indices(chooser.choose(free, SlotRequest(1))) == [0]


# -- more than sixteen -----------------------------------------------------------------

ROOM = [Device(i, f"GPU-{i:02d}", "L4", 24 * GIB, i) for i in range(24)]


def room(*joined: tuple[int, ...]) -> Topology:
    """Return 24 devices, eight to a node; NVLink joins those of each tuple."""
    links = {}
    for one, other in combinations(ROOM, 2):
        is_joined = any({one.index, other.index} <= set(some) for some in joined)
        path = Path.NODE if one.index // 8 == other.index // 8 else Path.SYS
        links[one.uuid, other.uuid] = Link(path, 4 if is_joined else 0)
    return Topology(links, {device.uuid: device.index // 8 for device in ROOM})


def test_of_more_than_sixteen_a_good_set_is_found() -> None:
    """Pairs stay pairs, a group stays on its node, and a group is kept."""
    chooser = Chooser({4: 1})
    chooser.see(ROOM, room((0, 1), (9, 10, 11, 12), (20, 21)))
    every = {device.uuid for device in ROOM}
    assert indices(chooser.choose(every, SlotRequest(4))) == [9, 10, 11, 12]
    assert indices(chooser.choose(every, SlotRequest(2))) == [0, 1]
    choice = chooser.choose(every - {"GPU-20"}, SlotRequest(1))
    assert choice is not None
    assert choice.devices[0].index == 16
    assert choice.why == "GPU 16: keeps 8-9-10-11-12-13-14-15 and 0+1 whole"
    orphan = {"GPU-00", "GPU-01", "GPU-08", "GPU-09", "GPU-16"}
    assert indices(chooser.choose(orphan, SlotRequest(1))) == [16]
    four = {f"GPU-{i:02d}" for i in (9, 10, 11, 12)}
    assert chooser.choose(four, SlotRequest(1)) is None
    assert "kept for servers with 4" in chooser.why_not(four, SlotRequest(1))
    assert chooser.choose(four - {"GPU-10"}, SlotRequest(1)) is not None


def test_of_more_than_sixteen_as_many_groups_are_kept_as_were_asked_for() -> None:
    """Not more, and none that is not whole."""
    chooser = Chooser({4: 1})
    chooser.see(ROOM, room())
    one, two = ({f"GPU-{i:02d}" for i in range(k, k + 4)} for k in (0, 8))
    assert chooser.choose(one, SlotRequest(1)) is None
    assert chooser.choose(one | two, SlotRequest(1)) is not None
    torn = one - {"GPU-00"} | {"GPU-08"}
    assert chooser.choose(torn, SlotRequest(1)) is not None


def test_of_more_than_sixteen_groups_that_nvlink_joins_are_alike() -> None:
    """The PCIe path does not make one of two less whole."""
    chooser = Chooser({4: 2})
    chooser.see(ROOM, room((0, 1, 2, 3), (4, 5, 8, 9)))
    both = {f"GPU-{i:02d}" for i in (0, 1, 2, 3, 4, 5, 8, 9)}
    assert chooser.choose(both, SlotRequest(1)) is None
    assert chooser.choose(both - {"GPU-00"}, SlotRequest(1)) is not None


def test_of_more_than_sixteen_a_connected_set_is_found_where_there_is_one() -> None:
    """Stronger links that lead nowhere do not hide it."""
    links = dict(room((0, 1, 2)).links)
    for i, other in ((0, 5), (1, 6), (2, 7)):
        links[f"GPU-{i:02d}", f"GPU-{other:02d}"] = Link(Path.SYS, 9)
    chooser = Chooser()
    chooser.see(ROOM, Topology(links))
    every = {device.uuid for device in ROOM}
    three = SlotRequest(3, must_be_connected=True)
    assert indices(chooser.choose(every, three)) == [0, 1, 2]
    assert chooser.choose(every - {"GPU-01"}, three) is None


def test_of_more_than_sixteen_all_alike_the_lowest_are_given() -> None:
    """Nothing can be said for one set rather than another."""
    chooser = Chooser()
    chooser.see(ROOM, Topology())
    choice = chooser.choose({device.uuid for device in ROOM[3:]}, SlotRequest(2))
    assert choice is not None
    assert choice.why == "GPU 3+4: unknown link; all are connected alike"


@given(st.sets(st.sampled_from(ROOM)), st.integers(1, 25))
def test_of_more_than_sixteen_never_fewer_than_asked_for(
    free: set[Device], n: int
) -> None:
    """Granted exactly where enough are free."""
    chooser = Chooser()
    chooser.see(ROOM, room((3, 4), (5, 6, 7)))
    choice = chooser.choose({device.uuid for device in free}, SlotRequest(n))
    assert (choice is not None) == (n <= len(free))
    if choice:
        assert len(choice.devices) == n
        assert set(choice.devices) <= free
