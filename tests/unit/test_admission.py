"""Servers boot so many at once that the cores are busy and every one finishes."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from gpuspawner.admission import (
    FORGET,
    MAX_PER_CPU,
    START_PER_CPU,
    Admission,
    Rate,
    Turn,
    describe,
    next_limit,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

NOW = datetime(2026, 11, 1, 9, 0, tzinfo=UTC)
TIMEOUT_S = 30.0  # JupyterHub's http_timeout


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


class Machine:
    """A machine with c cores that boots share equally. Its time is a number.

    A boot needs CPU seconds and waits for `waits` of its time when it is alone. With
    `thrashing`, each boot more than there are cores costs that share of a core.
    """

    def __init__(self, c: int, waits: float = 0.0, thrashing: float = 0.0) -> None:
        self.admission = Admission(c)
        self.c, self.waits, self.thrashing = c, waits, thrashing
        self.time = 0.0
        self.lives: list[float] = []

    def boot(self, needs: Sequence[float]) -> float:
        """Boot all, which ask at once, and return the seconds until the last is up."""
        began, left, start = self.time, dict[str, float](), dict[str, float]()

        def begin(admitted: Sequence[str]) -> None:
            for name in admitted:
                left[name], start[name] = needs[int(name)], self.time

        for n in range(len(needs)):
            begin(self.admission.ask(str(n), after(self.time)))
        while left:
            n_here = len(left)
            c = self.c / (1 + self.thrashing * max(0, n_here - self.c) / self.c)
            speed = min(1 - self.waits, c / n_here)
            first = min(left, key=lambda name: (left[name], name))
            elapsed = left[first] / speed
            self.time += elapsed
            for name in left:
                left[name] -= elapsed * speed
            del left[first]
            self.lives.append(self.time - start[first])
            begin(self.admission.booted(first, after(self.time)))
        assert self.admission.waiting == ()
        return self.time - began


needs_of = st.tuples(
    st.floats(0.5, 3.0), st.lists(st.floats(0.8, 1.2), min_size=64, max_size=64)
).map(lambda drawn: [drawn[0] * factor for factor in drawn[1]])
waiting_share = st.floats(0.0, 0.5)


@settings(deadline=None)
@given(c=st.integers(1, 32), needs=needs_of, waits=waiting_share)
def test_a_class_of_64_boots_nearly_as_fast_as_the_cores_can(
    c: int, needs: list[float], waits: float
) -> None:
    """Work by cores, 15 % more, and the one boot that nobody can shorten."""
    machine = Machine(c, waits)
    took = machine.boot(needs)
    assert took <= 1.15 * sum(needs) / c + max(needs) / (1 - waits)
    assert max(machine.lives) < TIMEOUT_S * 0.6


@settings(deadline=None)
@given(c=st.integers(1, 3), s=st.floats(0.5, 3.0), waits=waiting_share)
def test_on_a_small_machine_the_last_of_64_is_within_15_percent(
    c: int, s: float, waits: float
) -> None:
    """Where a class is many times the cores, one boot at the end does not count."""
    assert Machine(c, waits).boot([s] * 64) <= 1.15 * 64 * s / c


@pytest.mark.parametrize(
    ("waits", "thrashing", "best"),
    [(0.0, 0.0, 8), (0.5, 0.0, 16), (0.8, 0.0, 32), (0.0, 1.0, 8)],
    ids=["work only", "half waiting", "mostly waiting", "thrashing"],
)
def test_the_limit_finds_what_suits_the_machine(
    waits: float, thrashing: float, best: int
) -> None:
    """Little's law: as many at once as keep 8 cores busy, and no more."""
    machine = Machine(8, waits, thrashing)
    machine.boot([1.0] * 300)
    assert machine.admission.limit == best


def test_what_was_learnt_is_tried_again_when_it_is_old() -> None:
    """Other images, other work on the machine: fewer at once may suffice today."""
    machine = Machine(8, waits=0.5)
    machine.boot([1.0] * 300)
    machine.waits = 0.0
    machine.boot([1.0] * 300)
    assert machine.admission.limit == 16
    machine.time += FORGET.total_seconds()
    machine.boot([1.0] * 300)
    assert machine.admission.limit == 8


def test_who_boots_alone_teaches_nothing_about_many() -> None:
    """On a quiet evening the limit stays."""
    machine = Machine(8)
    for _ in range(100):
        machine.boot([1.0])
    assert machine.admission.limit == START_PER_CPU * 8


def test_after_a_time_out_the_limit_climbs_step_by_step() -> None:
    """What was good before is not believed any more."""
    machine = Machine(8, waits=0.5)
    machine.boot([1.0] * 300)
    machine.admission.ask("too slow", after(machine.time))
    machine.time += 30
    machine.admission.failed("too slow", after(machine.time))
    assert machine.admission.limit == 8
    machine.boot([1.0] * 8)
    assert machine.admission.limit == 10


def test_a_machine_slower_with_every_boot_more_goes_below_its_cores() -> None:
    """A slow disk: there is no floor while fewer at once is measurably faster."""
    rates = {8: 2.0, 6: 3.0, 4: 4.0}
    assert next_limit({n: Rate(r, NOW) for n, r in rates.items()}, 4) == 3


def test_what_is_not_measurably_faster_is_not_tried_below_the_cores() -> None:
    """Idle cores are no way to find out."""
    assert next_limit({n: Rate(4.0, NOW) for n in (8, 6, 4)}, 4) == 4


@settings(deadline=None)
@given(
    rates=st.dictionaries(st.integers(1, 32), st.floats(0.01, 100), min_size=1),
    n_cpus=st.integers(1, 8),
)
def test_the_limit_stays_in_its_bounds(rates: dict[int, float], n_cpus: int) -> None:
    """At least one boots, never more than four per core."""
    known = {n: Rate(r, NOW) for n, r in rates.items() if n <= MAX_PER_CPU * n_cpus}
    if known:
        assert 1 <= next_limit(known, n_cpus) <= MAX_PER_CPU * n_cpus


def test_the_next_boots_at_once_when_there_is_room() -> None:
    """First come, first served; no timer, no round."""
    admission = Admission(1)
    for name in "abc":
        admission.ask(name, NOW)
    assert admission.booting == ("a", "b")
    assert not admission.may_boot("c")
    assert admission.left("a", after(1)) == ("c",)
    assert admission.may_boot("c")


def test_asking_twice_is_asking_once() -> None:
    """A page that is loaded again has no second turn."""
    admission = Admission(1)
    for name in "aabccb":
        admission.ask(name, NOW)
    assert (admission.booting, admission.waiting) == (("a", "b"), ("c",))


def test_who_leaves_while_waiting_is_never_admitted() -> None:
    """Cancelled means cancelled."""
    admission = Admission(1)
    for name in "abcd":
        admission.ask(name, NOW)
    admission.left("c", NOW)
    assert admission.booted("a", after(1)) == ("d",)


def test_boots_that_time_out_together_halve_the_limit_once() -> None:
    """One overload is one lesson, however many it hits."""
    admission = Admission(8)
    names = [str(n) for n in range(40)]
    for name in names:
        admission.ask(name, NOW)
    for name in admission.booting[:5]:
        admission.failed(name, after(30))
    assert admission.limit == START_PER_CPU * 8 // 2
    for name in admission.booting:
        admission.left(name, after(31))
    admission.failed(admission.booting[0], after(61))
    assert admission.limit == START_PER_CPU * 8 // 4


def test_a_number_that_timed_out_is_not_tried_again_soon() -> None:
    """A student's failed start is too dear an experiment; later it may be tried."""
    machine = Machine(2, waits=0.8)
    machine.admission.ask("too slow", after(0))
    machine.admission.failed("too slow", after(30))
    machine.time = 30
    machine.boot([1.0] * 100)
    assert machine.admission.limit == START_PER_CPU * 2 - 1
    machine.time += FORGET.total_seconds()
    machine.boot([1.0] * 200)
    assert machine.admission.limit > START_PER_CPU * 2


def test_a_turn_says_how_many_are_ahead_and_how_long() -> None:
    """After the first boot there is an estimate, before it none."""
    admission = Admission(1)
    for name in "abcdefghi":
        admission.ask(name, NOW)
    assert admission.turn("i", NOW) == Turn(8, None)
    assert admission.turn("nobody", NOW) is None
    admission.booted("a", after(3))
    admission.booted("b", after(3))
    turn = admission.turn("i", after(3))
    assert turn is not None
    assert turn.n_ahead == 6
    assert turn.wait_s == pytest.approx(7 * 3 / 2)  # two end every 3 s
    assert admission.turn("c", after(4)) == Turn(0, 2.0)
    assert admission.turn("c", after(60)) == Turn(0, 0.0)


def test_one_boot_on_idle_cores_tells_how_long_a_class_takes() -> None:
    """Four cores boot four in the time of one."""
    machine = Machine(4)
    machine.boot([2.0])
    for n in range(20):
        machine.admission.ask(str(n), after(machine.time))
    assert machine.admission.turn("19", after(machine.time)) == Turn(19, 10.0)


@pytest.mark.parametrize(
    ("turn", "text"),
    [
        (Turn(7, 11.2), "Starting: 7 ahead, about 12 s."),
        (Turn(7, None), "Starting: 7 ahead."),
        (Turn(0, 0.0), "Starting: about 1 s."),
        (Turn(0, None), "Starting."),
    ],
)
def test_a_turn_is_told_in_one_line(turn: Turn, text: str) -> None:
    """What is not known is not said."""
    assert describe(turn) == text


class Admissions(RuleBasedStateMachine):
    """Servers that ask, boot, fail and leave in any order, told twice or late."""

    def __init__(self) -> None:
        super().__init__()
        self.admission = Admission(2)
        self.now = NOW
        self.asked: list[str] = []  # still here and not admitted yet, in order
        self.booting: set[str] = set()

    def admitted(self, names: Sequence[str]) -> None:
        """They are the first who asked, and there was room for each."""
        assert list(names) == self.asked[: len(names)]
        self.asked = self.asked[len(names) :]
        self.booting.update(names)
        if names:
            assert len(self.booting) <= self.admission.limit

    def forget(self, name: str) -> None:
        self.booting.discard(name)
        if name in self.asked:
            self.asked.remove(name)

    @rule(name=st.sampled_from("abcdefghijklmnopqrstuvwxyz"))
    def ask(self, name: str) -> None:
        if name not in self.asked and name not in self.booting:
            self.asked.append(name)
        self.admitted(self.admission.ask(name, self.now))

    @rule(
        name=st.sampled_from("abcdefghijklmnopqrstuvwxyz"),
        how=st.sampled_from(["booted", "failed", "left"]),
    )
    def end(self, name: str, how: str) -> None:
        self.forget(name)
        self.admitted(getattr(self.admission, how)(name, self.now))

    @rule(seconds=st.floats(-1, 40))
    def pass_time(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    @precondition(lambda self: self.asked)
    @rule()
    def everybody_boots_in_the_end(self) -> None:
        while self.booting:
            name = min(self.booting)
            self.forget(name)
            self.now += timedelta(seconds=1)
            self.admitted(self.admission.booted(name, self.now))
        assert self.asked == []

    @invariant()
    def nobody_is_lost_and_no_room_is_left_empty(self) -> None:
        assert set(self.admission.booting) == self.booting
        assert list(self.admission.waiting) == self.asked
        assert 1 <= self.admission.limit <= MAX_PER_CPU * 2
        assert not self.asked or len(self.booting) >= self.admission.limit


TestAdmissions = Admissions.TestCase
TestAdmissions.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None
)
