"""A reason that is told before a stop counts for the stop that it was told for."""

import pytest
from gpuspawner.endings import COUNTS_FOR_S, Announced
from gpuspawner.exits import Exit

IDLE, OLD = Exit("idle", "It was idle."), Exit("max_age", "It was old.")


def test_a_reason_is_for_one_stop_of_one_server() -> None:
    """The next one ends for its own."""
    announced = Announced()
    announced.tell("ls_1", IDLE, 10.0)
    assert announced.take("ls_2", 11.0) is None
    assert announced.take("ls_1", 11.0) == IDLE
    assert announced.take("ls_1", 12.0) is None


@pytest.mark.parametrize(("later_s", "counts"), [(0.0, True), (30.0, True),
                                                 (30.1, False)])  # fmt: skip
def test_a_reason_counts_for_half_a_minute(later_s: float, counts: bool) -> None:
    announced = Announced()
    announced.tell("ls_1", IDLE, 10.0)
    assert (announced.take("ls_1", 10.0 + later_s) is not None) == counts


def test_a_new_reason_replaces_the_old_one_and_its_time() -> None:
    announced = Announced()
    announced.tell("ls_1", IDLE, 10.0)
    announced.tell("ls_1", OLD, 100.0)
    assert announced.take("ls_1", 100.0 + COUNTS_FOR_S) == OLD


def test_reasons_for_stops_that_never_came_are_forgotten() -> None:
    """Nothing piles up."""
    announced = Announced()
    for i in range(1000):
        announced.tell(f"ls_{i}", IDLE, float(i))
    assert len(announced._told) <= COUNTS_FOR_S + 1
