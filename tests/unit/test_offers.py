"""What a user sends is checked against the offers and never trusted."""

import json

import pytest
from gpuspawner.errors import InvalidSelection
from gpuspawner.model import Device, whole
from gpuspawner.offers import from_machine, limits, select
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


@given(json_values)
def test_any_json_is_an_offer_or_a_refusal(value: object) -> None:
    """No input raises anything else."""
    try:
        assert select(OFFERS, value) in OFFERS
    except InvalidSelection as refused:
        json.dumps(str(refused))
