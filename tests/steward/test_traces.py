"""Traces of GPU use: no training is stopped, every idle GPU comes back in time."""

import pytest
from testbed.traces.load import NOBODY, Load, Timeline
from testbed.traces.machine import Machine
from testbed.traces.replay import INTERVAL_S, Outcome, ours, theirs
from testbed.traces.scenarios import GENERATORS, LENGTH_S, Trace, traces
from torchroom.steward.rules import Policy

POLICY = Policy()
TRACES = {f"{trace.name} {trace.seed}": trace for trace in traces(range(1))}


@pytest.mark.parametrize("name", TRACES)
def test_nothing_that_works_is_stopped_and_what_is_idle_comes_back(name: str) -> None:
    trace = TRACES[name]
    found = ours(trace, POLICY)
    assert not found.is_false
    if LENGTH_S - trace.free_from > 2 * 3600:
        late_s = found.late_s(POLICY)
        assert late_s is not None
        assert late_s <= INTERVAL_S
        assert found.n_warnings


@pytest.mark.parametrize("every_s", [10.0, 20.0, 30.0, 60.0])
def test_bursts_that_the_driver_has_forgotten_are_not_idle(every_s: float) -> None:
    """Where GPUs are seldom read, power alone tells of what was between."""
    for seed in range(8):
        line = Timeline().add(300, NOBODY)
        line.add(LENGTH_S + 3600, Load(8 / 60, every_s=60, draw=0.12, cores=0.13))
        machine = Machine([line])
        trace = Trace("bursts", seed, machine, ((300, LENGTH_S),), ((0, 300),))
        assert ours(trace, POLICY, every_s).stopped_at is None


async def test_the_idle_culler_sees_activity_instead() -> None:
    """It stops trainings that say nothing, and keeps GPUs whose tab is open."""
    names = [
        "training, browser closed, no output 0",
        "training from a terminal, the notebook's kernel idle 0",
        "notebook left open in the browser 0",
        "faked hub activity 0",
    ]
    found = await theirs([TRACES[name] for name in names], {"inactive_limit": 1800})
    assert [outcome.is_false for outcome in found] == [True, True, False, False]
    assert [outcome.back_s for outcome in found] == [0, 0, 0, 0]


def test_every_case_of_the_issue_is_there() -> None:
    assert len(GENERATORS) >= 18
    assert len(TRACES) == len(GENERATORS)


def test_what_is_true_of_a_trace_fits_what_it_reads() -> None:
    """A generator that lied would prove nothing."""
    for trace in TRACES.values():
        lines = trace.machine.timelines
        for at_s in range(0, int(LENGTH_S), 97):
            computes = any(line.at(at_s).share > 0.01 for line in lines)
            assert trace.is_in_use(at_s) or not computes, (trace.name, at_s)


def test_a_stop_in_a_quiet_phase_counts_as_false() -> None:
    line = Timeline().add(100, Load(0.9)).add(100, Load()).add(100, Load(0.9))
    trace = TRACES["never used 0"]
    trace = Trace("x", 0, type(trace.machine)([line]), ((0, 300),))
    assert Outcome(trace, 150).is_false
    assert Outcome(trace, 150).back_s == 0
    assert not Outcome(trace, 301).is_false


def test_bursts_are_read_as_a_driver_does() -> None:
    line = Timeline().add(100, Load(0.1, every_s=5, draw=0.2, cores=2))
    assert line.utilisation(0.5) == pytest.approx(0.5)  # the window's other half: none
    assert line.utilisation(3) == 0
    assert line.sm(1, 4) == 0
    assert line.sm(1, 11) == pytest.approx(0.5)
    assert Timeline().add(5, Load(1)).add(60, Load()).sm(0, 19) == 1
    assert Timeline().add(5, Load(1)).add(60, Load()).sm(0, 21) == 0  # forgotten
    assert line.energy(50) == pytest.approx(10)
    assert line.cpu_s(50) == pytest.approx(100)
