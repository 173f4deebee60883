"""Prices as people read them, exactly, and what may be paid."""

from decimal import Decimal

import pytest
from gpuspawner.model import (
    CPU_TYPE,
    Device,
    Quote,
    Slot,
    SlotKind,
    SlotRequest,
    whole,
)
from gpuspawner.quoting import MICRO, Tag, choices, tag, tokens
from hypothesis import given
from hypothesis import strategies as st

GIB = 2**30
A100 = [whole(Device(i, f"GPU-{i}", "A100", 40 * GIB, i)) for i in range(2)]
T4 = whole(Device(2, "GPU-2", "T4", 16 * GIB, 2))
SHARE = Slot(T4.device, "GPU-2/0:4", SlotKind.SHARE, 4 * GIB, "1/4")


@pytest.mark.parametrize(
    ("price", "text"),
    [
        (Tag(10 * MICRO), "10 tokens per hour"),
        (Tag(MICRO), "1 token per hour"),
        (Tag(1_234_500_000), "1,234.5 tokens per hour"),
        (Tag(1), "0.000001 tokens per hour"),
        (Tag(2**63 - 1), "9,223,372,036,854.775807 tokens per hour"),
        (Tag(10 * MICRO, is_least=True), "from 10 tokens per hour"),
        (Tag(0), "free"),
        (Tag(0, is_least=True), "from 0 tokens per hour"),
        (Tag(), ""),
        (Tag(refusal="No."), ""),
    ],
)
def test_a_price_is_shown_exactly(price: Tag, text: str) -> None:
    assert str(price) == text


@given(st.integers(0, 10**19))
def test_no_microtoken_is_lost_in_the_text(amount: int) -> None:
    text = tokens(amount).split(" ")[0].replace(",", "")
    assert Decimal(text) * MICRO == amount


def test_a_server_without_a_slot_is_priced_as_such() -> None:
    assert choices(SlotRequest(0), A100) == ((CPU_TYPE,),)


def test_a_server_of_several_gpus_is_of_one_type() -> None:
    """All slots of a server are priced, and each type is asked for once."""
    found = choices(SlotRequest(2), [*A100, T4])
    assert found == (("A100", "A100"), ("T4", "T4"))


def test_only_what_suits_a_request_is_asked_for() -> None:
    every = [*A100, T4, SHARE]
    assert choices(SlotRequest(1, type="T4"), every) == (("T4",),)
    assert choices(SlotRequest(1, SlotKind.SHARE), every) == (("T4 1/4",),)
    assert choices(SlotRequest(1, min_memory_bytes=20 * GIB), every) == (("A100",),)
    assert choices(SlotRequest(1, SlotKind.MIG), every) == ()


def test_the_cheapest_is_shown_and_whether_it_can_be_dearer() -> None:
    assert tag([[Quote(30), Quote(10)]]) == Tag(10, is_least=True)
    assert tag([[Quote(10), Quote(10)]]) == Tag(10)
    assert tag([[Quote(), Quote()]]) == Tag()
    assert tag([]) == tag([[]]) == Tag()


def test_an_offer_is_refused_only_if_nobody_can_pay_for_any_of_it() -> None:
    """The sentence is that of the cheapest; the preferred payer's of two alike."""
    poor, rich = Quote(10, "Too little."), Quote(10)
    assert tag([[poor, Quote(30, "Far too little.")]]).refusal == "Too little."
    assert tag([[poor], [rich]]).refusal == ""
    assert tag([[poor, Quote(30)]]).refusal == ""
    assert tag([[Quote(None, "No price."), poor]]).refusal == "Too little."
    assert tag([[Quote(10, "Course: too little.")], [poor]]).refusal.startswith("Cou")
    assert tag([[Quote(None, "No price.")]]) == Tag(None, refusal="No price.")
