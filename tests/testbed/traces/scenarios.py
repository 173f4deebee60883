"""What people do with GPUs: seeded generators, each with what is true of its trace."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import accumulate
from random import Random

from gpuspawner.model import SlotKind

from testbed.traces.load import NOBODY, Load, Timeline
from testbed.traces.machine import Machine

MINUTE, HOUR = 60.0, 3600.0
LENGTH_S = 6 * HOUR
Span = tuple[float, float]


@dataclass(frozen=True)
class Trace:
    """One server for LENGTH_S, in seconds from when it was ready.

    Attributes:
        name: Of the scenario.
        seed: Of the generator.
        machine: What the hub's reader sees.
        in_use: When its GPUs work for somebody, quiet phases of the work included.
        active: When JupyterHub sees activity (output of a kernel, an open tab, a
            request that says so).
        blind: When the GPUs cannot be read.
        readable_from: Before this nobody can know that the GPU is idle.
    """

    name: str
    seed: int
    machine: Machine
    in_use: tuple[Span, ...] = ()
    active: tuple[Span, ...] = ()
    blind: tuple[Span, ...] = ()
    readable_from: float = 0.0

    @property
    def free_from(self) -> float:
        """From when on its GPUs work for nobody."""
        return max((end for _, end in self.in_use), default=0.0)

    def is_in_use(self, at_s: float) -> bool:
        """Whether a stop at this moment destroys work."""
        return any(begin <= at_s < end for begin, end in self.in_use)

    def last_activity(self, at_s: float) -> float | None:
        """Return when JupyterHub saw activity last."""
        seen = [min(end, at_s) for begin, end in self.active if begin <= at_s]
        return max(seen, default=None)


Generator = Callable[[Random], Trace]
GENERATORS: dict[str, Callable[[Random], "Made"]] = {}


@dataclass
class Made:
    """What a generator returns; see Trace."""

    lines: list[Timeline]
    in_use: list[Span] = field(default_factory=list)
    active: list[Span] = field(default_factory=list)
    blind: list[Span] = field(default_factory=list)
    kind: SlotKind = SlotKind.DEVICE
    hidden: frozenset[str] = frozenset()
    stuck: dict[str, object] = field(default_factory=dict)
    readable_from: float = 0.0


def traces(seeds: range) -> Iterator[Trace]:
    """Yield every scenario with every seed."""
    for name, generate in GENERATORS.items():
        for seed in seeds:
            made = generate(Random(f"{name}-{seed}"))  # noqa: S311 - no secrets
            for line in made.lines:
                line.add(max(1.0, LENGTH_S + HOUR - line.length_s), line.loads[-1][1])
            machine = Machine(made.lines, made.kind, made.hidden, made.stuck)
            yield Trace(
                name,
                seed,
                machine,
                tuple(made.in_use),
                tuple(made.active),
                tuple(made.blind),
                made.readable_from,
            )


def _scenario(
    name: str,
) -> Callable[[Callable[[Random], Made]], Callable[[Random], Made]]:
    def keep(generate: Callable[[Random], Made]) -> Callable[[Random], Made]:
        GENERATORS[name] = generate
        return generate

    return keep


# -- what programs do ----------------------------------------------------------------


def _training(r: Random) -> Load:
    return Load(r.uniform(0.6, 1.0), 0, r.uniform(0.5, 0.95), r.uniform(0.8, 4))


def _held(r: Random) -> Load:
    """A notebook's kernel that waits, with a model on the GPU."""
    return Load(0, 0, r.uniform(0.0, 0.3), r.uniform(0.0005, 0.006))


def _held_of_mig(r: Random) -> Load:
    """The same on a card that has MIG: they draw little more for it."""
    return replace(_held(r), draw=r.uniform(0.0, 0.12))


def _on_cpu(r: Random) -> Load:
    """Evaluation, writing a checkpoint, reading data: the GPU waits."""
    return Load(0, 0, r.uniform(0.0, 0.3), r.uniform(0.5, 4))


def _held_up(r: Random) -> Load:
    """Kernels all the time, each far too small for the GPU."""
    return Load(r.uniform(0.005, 0.03), 0, r.uniform(0.06, 0.14), r.uniform(0.5, 8))


def _begin(r: Random) -> tuple[Timeline, float]:
    """A student looks around before anything is on the GPU."""
    first = r.uniform(1, 8) * MINUTE
    return Timeline().add(first, NOBODY), first


def _work(
    r: Random, line: Timeline, at: float, until: float, quiet: tuple[float, float]
) -> float:
    """Let a training run, with quiet phases, until about a time; returns its end."""
    while True:
        busy = r.uniform(3, 12) * MINUTE
        line.add(busy, _training(r))
        at += busy
        if at >= until:
            return at
        pause = r.uniform(*quiet)
        line.add(pause, _on_cpu(r))
        at += pause


def _then_idle(r: Random, line: Timeline, *, ends: bool) -> None:
    line.add(1, NOBODY if ends else _held(r))


# -- scenarios -------------------------------------------------------------------------


@_scenario("training with quiet phases")
def _quiet_phases(r: Random) -> Made:
    """Up to 25 minutes in which only the CPU works; a line is printed at each end."""
    line, begin = _begin(r)
    end = _work(r, line, begin, r.uniform(3, 4.5) * HOUR, (2 * MINUTE, 25 * MINUTE))
    ends = list(accumulate(lasts for lasts, _ in line.loads))
    _then_idle(r, line, ends=r.random() < 0.5)
    return Made([line], [(begin, end)], [(0, begin), *((at, at) for at in ends)])


@_scenario("training, tab left open")
def _watched(r: Random) -> Made:
    """JupyterHub sees activity all the time, also when nothing is computed any more."""
    line, begin = _begin(r)
    end = _work(r, line, begin, r.uniform(3, 4.5) * HOUR, (5, MINUTE))
    _then_idle(r, line, ends=r.random() < 0.5)
    return Made([line], [(begin, end)], [(0, LENGTH_S)])


@_scenario("training, browser closed, no output")
def _silent(r: Random) -> Made:
    line, begin = _begin(r)
    end = _work(r, line, begin, r.uniform(3, 4.5) * HOUR, (5, MINUTE))
    _then_idle(r, line, ends=r.random() < 0.5)
    return Made([line], [(begin, end)], [(0, begin + MINUTE)])


@_scenario("training from a terminal, the notebook's kernel idle")
def _kernel_idle(r: Random) -> Made:
    """JupyterHub hears of nothing after the command was typed."""
    line, begin = _begin(r)
    end = _work(r, line, begin, r.uniform(2, 4.5) * HOUR, (5, 3 * MINUTE))
    _then_idle(r, line, ends=True)
    return Made([line], [(begin, end)], [(0, begin)])


@_scenario("training that waits for its data")
def _data_bound(r: Random) -> Made:
    """Short bursts of kernels; most readings of utilisation say nothing."""
    line, begin = _begin(r)
    end = r.uniform(3, 4.5) * HOUR
    load = Load(
        r.uniform(0.03, 0.1), r.uniform(2, 9), r.uniform(0.05, 0.25), r.uniform(1, 8)
    )
    line.add(end - begin, load)
    _then_idle(r, line, ends=r.random() < 0.5)
    return Made([line], [(begin, end)], [(0, begin + MINUTE)])


@_scenario("4 GPUs, one of them computes")
def _one_of_four(r: Random) -> Made:
    lines = [_begin(r)[0] for _ in range(4)]
    begin = lines[0].length_s
    end = _work(r, lines[0], begin, r.uniform(2, 3.5) * HOUR, (5, 2 * MINUTE))
    for line in lines:
        _then_idle(r, line, ends=r.random() < 0.5)
    return Made(lines, [(begin, end)], [(0, begin)])


@_scenario("MIG instance, training")
def _mig(r: Random) -> Made:
    """Neither utilisation nor SM use is known."""
    line, begin = _begin(r)
    end = _work(r, line, begin, r.uniform(3, 4.5) * HOUR, (5, 10 * MINUTE))
    line.add(1, NOBODY if r.random() < 0.5 else _held_of_mig(r))
    return Made([line], [(begin, end)], [(0, begin)], kind=SlotKind.MIG)


@_scenario("MIG instance, training that uses no CPU")
def _mig_graphs(r: Random) -> Made:
    """Graphs of kernels that run for seconds; whoever waits for them sleeps."""
    line, begin = _begin(r)
    end = r.uniform(3, 4.5) * HOUR
    load = Load(0.95, 0, r.uniform(0.2, 0.4), r.uniform(0.001, 0.015))
    line.add(end - begin, load).add(1, NOBODY if r.random() < 0.5 else _held_of_mig(r))
    return Made([line], [(begin, end)], [(0, begin)], kind=SlotKind.MIG)


@_scenario("training, readings missing")
def _blind(r: Random) -> Made:
    """The driver does not answer, for seconds up to half an hour at a time."""
    line, begin = _begin(r)
    end = _work(r, line, begin, r.uniform(3, 4.5) * HOUR, (5, 15 * MINUTE))
    _then_idle(r, line, ends=r.random() < 0.5)
    gaps, at = [], begin
    while at < end:
        at += r.uniform(5, 20) * MINUTE
        gap = r.choice([15, 45, 120, 1800]) * r.uniform(0.5, 1)
        gaps.append((at, at + gap))
        at += gap
    last = max(gap_end for _, gap_end in gaps)
    return Made([line], [(begin, end)], [(0, begin)], gaps, readable_from=last)


@_scenario("training, utilisation stuck at 0")
def _stuck(r: Random) -> Made:
    """A driver's fault: utilisation and SM use read 0, only power tells."""
    line, begin = _begin(r)
    line.add(LENGTH_S, _training(r))
    return Made([line], [(begin, LENGTH_S)], [(0, begin)],
                stuck={"utilisation": 0.0, "sm": {}})  # fmt: skip


@_scenario("few kernels, much CPU")
def _environment(r: Random) -> Made:
    """Reinforcement learning: its environment runs on the CPU and holds the GPU up."""
    line, begin = _begin(r)
    end = r.uniform(3, 4.5) * HOUR
    line.add(end - begin, _held_up(r))
    _then_idle(r, line, ends=r.random() < 0.5)
    return Made([line], [(begin, end)], [(0, begin)])


@_scenario("few kernels, much CPU, utilisation stuck at 0")
def _environment_stuck(r: Random) -> Made:
    """The same with a driver's fault; what the GPU draws says little."""
    line, begin = _begin(r)
    line.add(LENGTH_S, _held_up(r))
    return Made([line], [(begin, LENGTH_S)], [(0, begin)],
                stuck={"utilisation": 0.0, "sm": {}})  # fmt: skip


@_scenario("training, SM use not told")
def _no_sm(r: Random) -> Made:
    line, begin = _begin(r)
    line.add(LENGTH_S, _training(r))
    return Made([line], [(begin, LENGTH_S)], [(0, begin)],
                hidden=frozenset({"sm", "energy_j"}))  # fmt: skip


@_scenario("student who tries things")
def _interactive(r: Random) -> Made:
    """A cell now and then; up to 20 minutes of reading and typing between."""
    line, at = _begin(r)
    begin, end = at, r.uniform(2, 4) * HOUR
    while at < end:
        busy, pause = r.uniform(2, 90), r.uniform(20, 20 * MINUTE)
        line.add(busy, _training(r)).add(pause, _held(r))
        at += busy
        last = at
        at += pause
    return Made([line], [(begin, last)], [(0, at)])


@_scenario("notebook left open in the browser")
def _left_open(r: Random) -> Made:
    """The tab alone is activity to JupyterHub."""
    line, begin = _begin(r)
    busy = r.uniform(5, 20) * MINUTE
    line.add(busy, _training(r))
    _then_idle(r, line, ends=False)
    return Made([line], [(begin, begin + busy)], [(0, LENGTH_S)])


@_scenario("never used")
def _never(_: Random) -> Made:
    return Made([Timeline().add(1, NOBODY)], [], [(0, 5 * MINUTE)])


@_scenario("model loaded, nothing computed, tab closed")
def _loaded(r: Random) -> Made:
    line, begin = _begin(r)
    busy = r.uniform(10, 60)
    line.add(busy, _training(r)).add(1, _held(r))
    return Made([line], [(begin, begin + busy)], [(0, begin + 2 * MINUTE)])


@_scenario("one tiny kernel a second")
def _tiny(r: Random) -> Made:
    """A loop that shall look like work; the tab is open."""
    line, _ = _begin(r)
    share, draw, cores = r.uniform(5e-4, 8e-3), r.uniform(0, 0.3), r.uniform(1e-3, 0.01)
    line.add(1, Load(share, 1.0, draw, cores))
    return Made([line], [], [(0, LENGTH_S)])


@_scenario("faked hub activity")
def _faked(r: Random) -> Made:
    """A script in the server tells the hub every minute that somebody is there."""
    line, begin = _begin(r)
    busy = r.uniform(1, 10) * MINUTE
    line.add(busy, _training(r))
    _then_idle(r, line, ends=r.random() < 0.5)
    return Made([line], [(begin, begin + busy)], [(0, LENGTH_S)])


@_scenario("idle, readings missing")
def _idle_blind(r: Random) -> Made:
    """One gap of five minutes, and short ones every few minutes.

    Where the program is gone they last up to 40 seconds, which the energy counter can
    bridge; where one holds the GPU a single reading is missing at a time.
    """
    line, begin = _begin(r)
    busy, is_held = r.uniform(1, 10) * MINUTE, r.random() < 0.5
    line.add(busy, _training(r))
    _then_idle(r, line, ends=not is_held)
    at = r.uniform(15, 25) * MINUTE
    gaps = [(at, at + 5 * MINUTE)]
    readable = at = at + 5 * MINUTE
    while at < LENGTH_S:
        at += r.uniform(2, 10) * MINUTE
        gaps.append((at, at + (9 if is_held else r.uniform(5, 40))))
    return Made([line], [(begin, begin + busy)], [(0, begin)], gaps,
                readable_from=readable)  # fmt: skip


@_scenario("MIG instance, model loaded")
def _mig_held(r: Random) -> Made:
    line, begin = _begin(r)
    busy = r.uniform(1, 10) * MINUTE
    line.add(busy, _training(r)).add(1, _held_of_mig(r))
    return Made([line], [(begin, begin + busy)], [(0, begin)], kind=SlotKind.MIG)
