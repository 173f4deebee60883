"""The price list: valid in time, exact, and never for the past."""

import asyncio

import pytest
from ledger.lab import at
from torchroom.ledger.database import Database
from torchroom.ledger.errors import BadInput
from torchroom.ledger.model import ANY, CPU, MICRO, Price
from torchroom.ledger.prices import EXAMPLE, Prices, parse
from torchroom.ledger.pricing import PRICE_MAX

ADA = "ada"


async def test_a_price_is_valid_from_its_moment_until_the_next(db: Database) -> None:
    """Prices can be set ahead; the one that is valid now is what counts."""
    prices = Prices(db)
    await prices.set("A100", 5, at=at(0), actor=ADA)
    await prices.set("A100", 9, at=at(1), actor=ADA, valid_from=at(100))
    assert await prices.current(at(-1)) == {}
    assert await prices.current(at(0)) == {"A100": 5}
    assert await prices.current(at(99.999999)) == {"A100": 5}
    assert await prices.current(at(100)) == {"A100": 9}
    assert await prices.all() == [
        Price("A100", 5, at(0), ADA),
        Price("A100", 9, at(100), ADA),
    ]


async def test_a_retired_price_is_none_and_not_zero(db: Database) -> None:
    """Such slots are refused."""
    prices = Prices(db)
    await prices.set("A100", 5, at=at(0), actor=ADA)
    await prices.set("A100", None, at=at(1), actor=ADA)
    assert await prices.current(at(2)) == {"A100": None}
    await prices.set("A100", 7, at=at(3), actor=ADA)
    assert await prices.current(at(4)) == {"A100": 7}


async def test_setting_the_same_price_again_changes_nothing(db: Database) -> None:
    """A retry is not a second price."""
    prices = Prices(db)
    for _ in range(3):
        await prices.set("A100", 5, at=at(0), actor=ADA, valid_from=at(50))
    assert len(await prices.all()) == 1
    await prices.set("A100", 5, at=at(90), actor="bob", valid_from=at(50))
    assert (await prices.all())[0].actor == ADA


async def test_a_price_that_is_not_valid_yet_can_be_corrected(db: Database) -> None:
    """No lease was started with it."""
    prices = Prices(db)
    await prices.set("A100", 5, at=at(0), actor=ADA, valid_from=at(50))
    await prices.set("A100", 6, at=at(1), actor=ADA, valid_from=at(50))
    assert await prices.all() == [Price("A100", 6, at(50), ADA)]


async def test_the_past_has_its_price(db: Database) -> None:
    """What was charged must stay explainable."""
    prices = Prices(db)
    await prices.set("A100", 5, at=at(0), actor=ADA)
    for moment in (-1, 0, 9.999999):
        with pytest.raises(BadInput, match="past"):
            await prices.set("A100", 6, at=at(10), actor=ADA, valid_from=at(moment))
    assert await prices.current(at(99)) == {"A100": 5}


@pytest.mark.parametrize("key", ["", " A100", "A100\n", "x" * 256, "\x00"])
async def test_a_key_that_cannot_be_a_slot_type_is_refused(
    db: Database, key: str
) -> None:
    """Empty, with spaces at its ends, too long, or not one line."""
    with pytest.raises(BadInput):
        await Prices(db).set(key, 5, at=at(0), actor=ADA)


@pytest.mark.parametrize("per_hour", [-1, PRICE_MAX + 1, True, 10**30])
async def test_a_price_that_cannot_be_charged_is_refused(
    db: Database, per_hour: int
) -> None:
    """Negative, huge, or no number."""
    with pytest.raises(BadInput):
        await Prices(db).set("A100", per_hour, at=at(0), actor=ADA)


async def test_shares_and_other_names_of_slots_have_prices(db: Database) -> None:
    """Slot types have slashes, spaces, and whatever a vendor writes."""
    prices = Prices(db)
    for key in ("Tesla T4 1/4", "GPU™ 3 (simulated)", CPU, ANY, "x" * 255):
        await prices.set(key, 5, at=at(0), actor=ADA)
    assert len(await prices.current(at(0))) == 5


async def test_a_list_is_loaded_once_and_never_over_prices(db: Database) -> None:
    """Also when two processes start together with an empty ledger."""
    prices = Prices(db)
    listing = EXAMPLE.read_text()
    loaded = await asyncio.gather(
        *(prices.load(listing, at=at(second), actor=ADA) for second in range(4))
    )
    assert sorted(loaded)[:3] == [0, 0, 0]
    assert len(await prices.all()) == max(loaded) == len(parse(listing))


def test_the_example_list_is_usable_as_it_is() -> None:
    """CPU servers are free, unknown GPUs are not, amounts are exact."""
    listed = parse(EXAMPLE.read_text())
    assert listed[CPU] == 0
    assert listed[ANY] > 0
    assert listed["NVIDIA L40S"] == 12_500_000
    assert all(price > 0 for key, price in listed.items() if key != CPU)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[tokens_per_hour]\nA100 = 12.5", "must be in quotes"),
        ("[tokens_per_hour]\nA100 = '-1'", "is not an amount"),
        ("[tokens_per_hour]\nA100 = '1.0000001'", "is not an amount"),
        ("[tokens_per_hour]\nA100 = '200000'", "at most 100,000 tokens"),
        ("[tokens_per_hour]\n' ' = '1'", "slot type"),
        ("[tokens_per_hour", "not TOML"),
        ("[prices]\nA100 = '1'", "one section"),
        ("tokens_per_hour = 3", "one section"),
        ("[tokens_per_hour]\n[other]", "one section"),
    ],
)
def test_a_list_that_cannot_be_used_says_where(text: str, why: str) -> None:
    """Before any of it is loaded."""
    with pytest.raises(BadInput, match=why):
        parse(text)


def test_an_empty_list_is_a_list() -> None:
    """A site may set every price by hand."""
    assert parse("[tokens_per_hour]\ncpu = '0.5'") == {CPU: MICRO // 2}
    assert parse("[tokens_per_hour]") == {}
