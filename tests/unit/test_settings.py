"""What a site configures is read, or refused with the setting's name and the reason."""

from datetime import UTC, datetime, timedelta

import pytest
from gpuspawner.container import ConfigurationError
from gpuspawner.model import SlotKind, SlotRequest
from gpuspawner.settings import read_counts, read_groups, read_offer, read_window

GIB = 2**30
MONDAY = datetime(2026, 3, 2, 10, tzinfo=UTC)
HOUR = timedelta(hours=1)
ROW = {"name": "a", "title": "A", "n_gpus": 1, "memory_bytes": GIB, "n_cpus": 2}
WINDOW = {
    "group": "cs101",
    "start": "2026-03-02T10:00+00:00",
    "end": "2026-03-02T12:00+00:00",
}


def test_an_offer_may_name_kind_type_memory_and_links() -> None:
    """What it does not name is a whole GPU of any type."""
    assert read_offer(ROW).request == SlotRequest(1)
    more = {"gpu_kind": "mig", "gpu_type": "A100 MIG 1g.10gb", "gpu_memory_bytes": 5}
    wanted = SlotRequest(1, SlotKind.MIG, "A100 MIG 1g.10gb", 5)
    assert read_offer(ROW | more).request == wanted
    assert read_offer(ROW | {"n_gpus": 2, "connected": True}).request.must_be_connected


@pytest.mark.parametrize(
    "wrong",
    [{"n_gpus": -1}, {"n_gpus": "x"}, {"gpu_kind": "half"}, {"memory_bytes": None}],
)
def test_an_offer_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    """The sentence names the setting and shows the row."""
    with pytest.raises(ConfigurationError, match=r"GPUDockerSpawner\.offers: .*'a'"):
        read_offer(ROW | wrong)


def test_shares_and_groups_are_counts() -> None:
    """Keys may be numbers or text, as Python configuration and JSON have them."""
    assert read_counts("shares", {0: 2, "T4": 4}) == {"0": 2, "T4": 4}
    assert read_groups({"4": 1, 2: 3}) == {4: 1, 2: 3}
    for wrong in (0, -1, 1.5, "2", True, None):
        with pytest.raises(ConfigurationError, match=r"shares: 'x' is"):
            read_counts("shares", {"x": wrong})
    with pytest.raises(ConfigurationError, match="keep_intact: 'four'"):
        read_groups({"four": 1})


def test_a_weekly_window_opens_every_week() -> None:
    """The occurrence that is open now, or the last one before now."""
    weekly = WINDOW | {"every_days": 7}
    for weeks in (0, 1, 40):
        start = MONDAY + timedelta(weeks=weeks)
        for later in (timedelta(0), HOUR, timedelta(days=6)):
            found = read_window(weekly, start + later)
            assert (found.starts_at, found.ends_at) == (start, start + 2 * HOUR)
    before = read_window(weekly, MONDAY - HOUR)
    assert before.starts_at == MONDAY
    assert read_window(WINDOW, MONDAY + timedelta(weeks=1)).starts_at == MONDAY


@pytest.mark.parametrize(
    "wrong",
    [
        {"start": "2026-03-02T10:00"},
        {"start": "Monday"},
        {"end": "2026-03-02T09:00+00:00"},
        {"every_days": "often"},
        {"start": None},
    ],
)
def test_a_window_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    """Above all a time without a zone: nobody would know when it is."""
    with pytest.raises(ConfigurationError, match="priority_windows"):
        read_window(WINDOW | wrong, MONDAY)
