"""What a user sends is checked against the offers and never trusted."""

import json

import pytest
from gpuspawner.errors import InvalidSelection
from gpuspawner.model import Device, Slot, SlotKind, SlotRequest, whole
from gpuspawner.offers import course_of, from_machine, limits, select
from hypothesis import given
from hypothesis import strategies as st

GIB = 2**30
SLOTS = [whole(Device(i, f"GPU-{i}", "A100", 40 * GIB, i)) for i in range(6)]
OFFERS = from_machine(SLOTS, 64 * GIB, 16)


def test_a_machine_offers_cpu_powers_of_two_and_all() -> None:
    """Six GPUs: CPU only, 1, 2, 4 and 6."""
    assert [offer.name for offer in OFFERS] == [
        "cpu",
        "1-gpu",
        "2-gpu",
        "4-gpu",
        "6-gpu",
    ]


def test_a_machine_without_gpus_offers_cpu_only() -> None:
    """It is a classroom all the same."""
    assert [offer.name for offer in from_machine([], 8 * GIB, 2)] == ["cpu"]


def test_gpu_servers_share_the_machine_by_devices_and_fit_into_it() -> None:
    """As many servers as there are GPUs fit into the memory together."""
    one = OFFERS[1].limits
    assert one.memory_bytes * len(SLOTS) <= 64 * GIB
    assert one.n_cpus * len(SLOTS) <= 16.1


def test_shm_is_a_share_of_memory_never_dockers_64_mb() -> None:
    """DataLoader workers pass batches through it."""
    assert limits(8 * GIB, 2).shm_bytes == 4 * GIB


@pytest.mark.parametrize("nothing", [None, {}])
def test_no_options_mean_the_first_offer(nothing: object) -> None:
    """A plain start is a CPU server."""
    assert select(OFFERS, nothing).name == "cpu"


@pytest.mark.parametrize(
    "bad",
    [
        {"offer": "-1-gpu"}, {"offer": -1}, {"offer": 10**100}, {"offer": 1.5},
        {"offer": ["1-gpu"]}, {"offer": None}, {"offer": True}, {"offer": {}},
        {"offer": ""}, {"offer": "1-GPU"}, {"offer": "x" * 10**6},
        {"offer": "1-gpu", "image": "evil"}, {"image": "evil"}, {"n_gpus": 1},
        {"environment": {"NVIDIA_VISIBLE_DEVICES": "all"}}, {"": ""},
        "1-gpu", 7, ["1-gpu"], True,
    ],
)  # fmt: skip
def test_everything_else_is_refused_with_a_short_sentence(bad: object) -> None:
    """The sentence lists what is on offer and repeats no megabytes of input."""
    with pytest.raises(InvalidSelection) as refused:
        select(OFFERS, bad)
    assert "1-gpu" in str(refused.value) or "cpu" in str(refused.value)
    assert len(str(refused.value)) < 400


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@pytest.mark.parametrize(
    ("options", "offer", "course"),
    [
        (None, "cpu", ""),
        ({"offer": "1-gpu"}, "1-gpu", ""),
        ({"offer": "1-gpu", "course": ""}, "1-gpu", ""),
        ({"offer": "1-gpu", "course": "cv"}, "1-gpu", "cv"),
        ({"course": "cv"}, "cpu", "cv"),
    ],
)
def test_a_course_may_stand_beside_the_offer(
    options: object, offer: str, course: str
) -> None:
    assert select(OFFERS, options).name == offer
    assert course_of(options) == course


@pytest.mark.parametrize(
    "bad", [None, 7, True, ["cv"], {"cv": 1}, 1.5, "x" * 256, "x" * 10**6]
)
def test_what_cannot_be_a_course_is_refused_with_a_short_sentence(bad: object) -> None:
    with pytest.raises(InvalidSelection, match="is no course") as refused:
        course_of({"offer": "cpu", "course": bad})
    assert len(str(refused.value)) < 400


@given(json_values)
def test_any_json_names_a_course_or_is_refused(value: object) -> None:
    """No input raises anything else."""
    for options in (value, {"course": value}):
        try:
            assert isinstance(course_of(options), str)
        except InvalidSelection as refused:
            json.dumps(str(refused))


@given(json_values)
def test_any_json_is_an_offer_or_a_refusal(value: object) -> None:
    """No input raises anything else."""
    try:
        assert select(OFFERS, value) in OFFERS
    except InvalidSelection as refused:
        json.dumps(str(refused))


def part(index: int, kind: SlotKind, profile: str, memory: int) -> Slot:
    """A part of an A100 with 40 GiB."""
    device = Device(index, f"GPU-{index}", "NVIDIA A100", 40 * GIB, index)
    return Slot(device, f"{device.uuid}/{profile}", kind, memory, profile)


def test_where_gpus_differ_a_size_is_of_one_type() -> None:
    """Any type for who does not care; never a set of two types."""
    slots = [
        *(whole(Device(i, f"GPU-{i}", "NVIDIA A100", 40 * GIB, i)) for i in range(2)),
        whole(Device(2, "GPU-2", "Tesla T4", 16 * GIB, 2)),
    ]
    found = {o.name: o.request for o in from_machine(slots, 64 * GIB, 16)}
    assert found == {
        "cpu": SlotRequest(0),
        "1-gpu": SlotRequest(1),
        "1-a100": SlotRequest(1, type="NVIDIA A100"),
        "2-a100": SlotRequest(2, type="NVIDIA A100"),
        "1-tesla-t4": SlotRequest(1, type="Tesla T4"),
    }


def test_each_kind_of_part_is_an_offer_of_one() -> None:
    """Nobody gets two MIG instances or two shares."""
    slots = [
        part(0, SlotKind.MIG, "1g.5gb", 5 * GIB),
        part(0, SlotKind.MIG, "3g.20gb", 20 * GIB),
        part(1, SlotKind.SHARE, "1/4", 10 * GIB),
        part(2, SlotKind.SHARE, "1/4", 10 * GIB),
    ]
    found = {o.name: o.request for o in from_machine(slots, 64 * GIB, 16)}
    assert found == {
        "cpu": SlotRequest(0),
        "a100-mig-1g.5gb": SlotRequest(1, SlotKind.MIG, "NVIDIA A100 MIG 1g.5gb"),
        "a100-mig-3g.20gb": SlotRequest(1, SlotKind.MIG, "NVIDIA A100 MIG 3g.20gb"),
        "a100-1-of-4": SlotRequest(1, SlotKind.SHARE, "NVIDIA A100 1/4"),
    }


def test_servers_on_parts_fit_into_the_machine_together() -> None:
    """Four shares of one of two GPUs take half of the machine's memory."""
    slots = [
        *(part(0, SlotKind.SHARE, "1/4", 10 * GIB) for _ in range(4)),
        whole(Device(1, "GPU-1", "NVIDIA A100", 40 * GIB, 1)),
    ]
    sizes = {o.name: o.limits for o in from_machine(slots, 80 * GIB, 16)}
    share, gpu = sizes["a100-1-of-4"], sizes["1-gpu"]
    assert 4 * share.memory_bytes + gpu.memory_bytes <= 80 * GIB
    assert 4 * share.n_cpus + gpu.n_cpus == 16


def test_types_that_read_alike_are_offers_with_names_of_their_own() -> None:
    """An offer whose name another one has could never be chosen."""
    slots = [
        whole(Device(i, f"GPU-{i}", name, 40 * GIB, i))
        for i, name in enumerate(["A100-40GB", "A100 40GB"])
    ]
    names = [offer.name for offer in from_machine(slots, 64 * GIB, 16)]
    assert names == ["cpu", "1-gpu", "1-a100-40gb", "1-a100-40gb-2"]


@pytest.mark.parametrize("asked", [None, {}, {"offer": "cpu"}])
def test_a_user_to_whom_nothing_is_offered_is_told_so(asked: object) -> None:
    """A site's policy may leave nothing over."""
    with pytest.raises(InvalidSelection, match=r"on offer for you here\. Ask your"):
        select([], asked)
