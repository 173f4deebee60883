"""UTC that does not step, whatever somebody does to the machine's clock."""

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from gpuspawner.anchor import Anchor, Reading, end_of, of_wall
from gpuspawner.clock import Clock, read_clocks
from gpuspawner.processes import boot_id
from hypothesis import given
from hypothesis import strategies as st
from unit.meters import START, Clocks

LOG = logging.getLogger("test")
HOUR_S = 3600
steps = st.lists(
    st.tuples(
        st.integers(0, 100_000), st.integers(-10 * HOUR_S, 10 * HOUR_S), st.booleans()
    ),
    max_size=20,
)


@pytest.fixture
def clocks() -> Clocks:
    """The machine's clocks."""
    return Clocks()


def clock_of(folder: Path, clocks: Clocks) -> Clock:
    """The clock of a hub that starts now."""
    return Clock(folder / "clock.json", LOG, clocks.read)


def seconds(n: float) -> timedelta:
    return timedelta(seconds=n)


@given(steps)
def test_any_steps_and_restarts_change_no_length(
    tmp_path_factory: pytest.TempPathFactory, moves: list[tuple[int, int, bool]]
) -> None:
    """What passes is what passed: no hub's restart and nobody's hand changes that."""
    folder, clocks = tmp_path_factory.mktemp("clock"), Clocks()
    clock = clock_of(folder, clocks)
    began, passed = clock.now(), 0
    for pass_s, step_s, is_restart in moves:
        clocks.pass_s(pass_s)
        clocks.set_wall(step_s)
        passed += pass_s
        if is_restart:
            clock = clock_of(folder, clocks)
        assert clock.now() - began == seconds(passed)


def test_it_is_the_machines_clock_as_long_as_nobody_sets_it(
    tmp_path: Path, clocks: Clocks
) -> None:
    clock = clock_of(tmp_path, clocks)
    clocks.pass_s(100.5)
    assert clock.now() == clocks.wall


async def test_it_follows_the_machines_clock_when_it_may(
    tmp_path: Path, clocks: Clocks
) -> None:
    """And the next hub does, too."""
    clock = clock_of(tmp_path, clocks)
    clocks.set_wall(HOUR_S)
    assert clock.now() == START
    await clock.renew()
    assert clock.now() == clocks.wall
    clocks.set_wall(-HOUR_S)
    assert clock_of(tmp_path, clocks).now() == START + seconds(HOUR_S)


async def test_nothing_is_written_while_the_clock_is_right(
    tmp_path: Path, clocks: Clocks
) -> None:
    clock = clock_of(tmp_path, clocks)
    kept = (tmp_path / "clock.json").read_text()
    clocks.pass_s(HOUR_S)
    await clock.renew()
    assert (tmp_path / "clock.json").read_text() == kept


def test_after_a_reboot_it_begins_anew(tmp_path: Path, clocks: Clocks) -> None:
    clock_of(tmp_path, clocks)
    clocks.set_wall(HOUR_S)
    clocks.reboot(600)
    assert clock_of(tmp_path, clocks).now() == clocks.wall


@pytest.mark.parametrize(
    "kept",
    [
        "{}",
        "[]",
        "no JSON",
        '{"boot_id": "first", "since_boot_us": "x", "at": "2026-03-02"}',
        '{"boot_id": "first", "since_boot_us": 1e300, "at": "2026-03-02"}',
        '{"boot_id": "first", "since_boot_us": 1, "at": "yesterday"}',
        '{"boot_id": "first", "since_boot_us": 1, "at": 7}',
        '{"boot_id": "", "since_boot_us": 1, "at": "2020-01-01T00:00:00+00:00"}',
    ],
)
def test_a_file_that_says_nothing_is_replaced(
    tmp_path: Path, clocks: Clocks, kept: str
) -> None:
    (tmp_path / "clock.json").write_text(kept)
    assert clock_of(tmp_path, clocks).now() == START
    clocks.set_wall(HOUR_S)
    assert clock_of(tmp_path, clocks).now() == START


def test_an_anchor_of_later_than_now_is_of_another_machine(
    tmp_path: Path, clocks: Clocks
) -> None:
    """Restored from a backup, or counted from another start."""
    clocks.pass_s(HOUR_S)
    clock_of(tmp_path, clocks)
    clocks.since_boot -= seconds(HOUR_S)
    clocks.set_wall(60)
    assert clock_of(tmp_path, clocks).now() == clocks.wall


def test_a_folder_that_cannot_be_written_stops_no_hub(
    tmp_path: Path, clocks: Clocks, caplog: pytest.LogCaptureFixture
) -> None:
    assert clock_of(tmp_path / "absent", clocks).now() == START
    assert "not kept" in caplog.text


# -- what the engine dates -----------------------------------------------------------


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(-(10**6), 10**6))
def test_an_end_is_dated_exactly_if_the_clock_was_set_before_it(
    lived_s: int, since_s: int, step_s: int
) -> None:
    clocks = Clocks()
    anchor = Anchor.of(clocks.read())
    clocks.set_wall(step_s)
    clocks.pass_s(lived_s)
    ended, truth = clocks.wall, anchor.now(clocks.read())
    clocks.pass_s(since_s)
    assert of_wall(ended, anchor, clocks.read()) == truth


@given(
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.integers(-(10**9), 10**9),
)
def test_an_end_is_never_before_it_was_seen_running_nor_in_the_future(
    until_seen_s: int, more_s: int, since_s: int, step_s: int
) -> None:
    """Even if the clock was set between the end and now."""
    clocks = Clocks()
    anchor = Anchor.of(clocks.read())
    clocks.pass_s(until_seen_s)
    seen = anchor.now(clocks.read())
    clocks.pass_s(more_s)
    ended = clocks.wall
    clocks.set_wall(step_s)
    clocks.pass_s(since_s)
    found = of_wall(ended, anchor, clocks.read(), least=seen)
    assert seen <= found <= anchor.now(clocks.read())


def test_an_engine_that_dates_ends_by_its_own_start_is_not_believed() -> None:
    """The machine was down all night: nobody pays for that."""
    clocks = Clocks()
    started = clocks.wall
    clocks.reboot(12 * HOUR_S)
    anchor = Anchor.of(clocks.read())
    clocks.pass_s(30)
    assert end_of(started, clocks.wall, anchor, clocks.read()) is None


def test_an_end_before_the_machine_went_down_is_known() -> None:
    clocks = Clocks()
    started = clocks.wall
    clocks.pass_s(60)
    ended = clocks.wall
    clocks.reboot(12 * HOUR_S)
    anchor = Anchor.of(clocks.read())
    assert end_of(started, ended, anchor, clocks.read()) == ended


# -- the real clocks -----------------------------------------------------------------


def test_the_machines_clocks_can_be_read() -> None:
    one, other = read_clocks(), read_clocks()
    assert one.boot_id == other.boot_id == boot_id() != ""
    assert one.since_boot <= other.since_boot
    assert abs(datetime.now(UTC) - other.wall) < seconds(60)


def test_a_reading_of_another_start_does_not_hold() -> None:
    anchor = Anchor("a", seconds(5), START)
    assert anchor.holds(Reading("a", seconds(5), START))
    assert not anchor.holds(Reading("b", seconds(5), START))
    assert not anchor.holds(Reading("a", seconds(4), START))
