"""A trace through what decides on it: ours, and jupyterhub-idle-culler."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from gpuspawner.idleness import Observed, observe, thresholds_for
from gpuspawner.signals import Use as PluginUse
from torchroom.steward.looking import Found
from torchroom.steward.model import GpuUse, Server, Told, Use
from torchroom.steward.rounds import Known, decide
from torchroom.steward.rules import Policy

from testbed.idle_culler import culled
from testbed.traces.machine import LEASE, START
from testbed.traces.scenarios import LENGTH_S, Trace

INTERVAL_S = 10.0
LOOKS_EVERY_S = 30.0
UNLEASED_S = 60.0
REPORTS_EVERY_S = 300.0
"""How often JupyterHub hears of activity (its default)."""


@dataclass(frozen=True)
class Outcome:
    """What became of a trace.

    Attributes:
        trace: Which.
        stopped_at: Seconds from its start; None: it ran to the end.
        n_warnings: How often its user was warned; None: nobody warns.
    """

    trace: Trace
    stopped_at: float | None
    n_warnings: int | None = None

    @property
    def is_false(self) -> bool:
        """Whether it was stopped while it worked."""
        return self.stopped_at is not None and self.trace.is_in_use(self.stopped_at)

    @property
    def idle_s(self) -> float:
        """How long its GPUs were idle in the end, times their number."""
        n = len(self.trace.machine.timelines)
        return n * max(0.0, LENGTH_S - self.trace.free_from)

    @property
    def back_s(self) -> float:
        """How much of it was given back."""
        if self.stopped_at is None or self.is_false:
            return 0.0
        return len(self.trace.machine.timelines) * max(0.0, LENGTH_S - self.stopped_at)

    def late_s(self, policy: Policy) -> float | None:
        """Return how long after the policy's time it came back; None if it did not.

        The policy's time counts from when the GPUs worked last, or from when this could
        be read again; while nothing can be read nobody can be stopped.
        """
        if self.stopped_at is None or self.is_false:
            return None
        rules = policy.rules("", "")
        allowed = rules.idle_of(len(self.trace.machine.timelines))
        assert allowed is not None
        since = max(self.trace.free_from, self.trace.readable_from)
        due = max(since + allowed.total_seconds(), rules.grace.total_seconds())
        for begin, end in self.trace.blind:
            due = end if begin - INTERVAL_S <= due < end else due
        return self.stopped_at - due


class Ours:
    """The plugin's observation, every interval_s, and the steward's looks."""

    def __init__(
        self, trace: Trace, policy: Policy, interval_s: float = INTERVAL_S
    ) -> None:
        self.trace, self.policy, self.interval_s = trace, policy, interval_s
        self.observed = Observed()
        self.read_s = -self._unleased_s - interval_s
        self.told: dict[str, Told] = {}
        self.n_warnings = 0

    def run(self) -> Outcome:
        """Return what becomes of it."""
        every_s = self.interval_s
        offset = (self.trace.seed * 3.7) % every_s  # readings begin anywhere
        at_s, look_s = offset - self._unleased_s, 0.0
        while at_s < LENGTH_S:
            self._read(at_s)
            at_s += every_s
            while look_s < at_s:
                stopped, due = self._look(look_s)
                if stopped:
                    return Outcome(self.trace, look_s, self.n_warnings)
                look_s = max(look_s + 0.5, min(due, look_s + LOOKS_EVERY_S))
        return Outcome(self.trace, None, self.n_warnings)

    @property
    def _unleased_s(self) -> float:
        """How long the GPUs are free before: time for a few readings."""
        return UNLEASED_S if self.interval_s <= INTERVAL_S else 6 * self.interval_s

    def _read(self, at_s: float) -> None:
        machine = self.trace.machine
        is_blind = any(begin <= at_s < end for begin, end in self.trace.blind)
        sweep = None if is_blind else machine.sweep(at_s, self.read_s)
        runs = at_s >= 0
        self.observed = observe(
            self.observed,
            sweep,
            [machine.server] if runs else [],
            machine.identities() if runs else {},
            machine.cpu_s(at_s) if runs else {},
            now=START + timedelta(seconds=at_s),
            steady_s=at_s,
            unused_bytes={},
            held=machine.uuids if runs else frozenset(),
            thresholds=thresholds_for(self.interval_s),
        )
        if not is_blind:
            self.read_s = at_s

    def _use(self, at_s: float) -> GpuUse:
        longest = thresholds_for(self.interval_s).longest
        use = self.observed.of(LEASE, START + timedelta(seconds=at_s), longest)
        n_slots = len(self.trace.machine.slots)
        return GpuUse(Use(use.state.value), use.idle_since, use.why, n_slots)

    def _look(self, at_s: float) -> tuple[bool, float]:
        """Look once; returns whether it was stopped, and when the next thing is due."""
        now = START + timedelta(seconds=at_s)
        active = self.trace.last_activity(at_s)
        server = Server(
            LEASE,
            "alice",
            "",
            "",
            "",
            ready_at=START,
            started_at=START,
            last_activity=None if active is None else START + timedelta(seconds=active),
            gpu=self._use(at_s),
        )
        found = Found((server,), (), frozenset({LEASE}))
        made = decide(found, self.policy, Known(told=self.told), now, lambda _: ())
        self.told = {told.lease: told for told in made.told}
        self.n_warnings += len(made.noted)
        due = (
            LENGTH_S if made.next_at is None else (made.next_at - START).total_seconds()
        )
        for claim, _ in made.stops:
            if self._ending(at_s, claim.evidence.get("idle_since")):
                return True, due
            self.told = {}
        return False, due

    def _ending(self, at_s: float, idle_since: str | None) -> bool:
        """Take a fresh reading, as the plugin does, and say whether it may end."""
        self._read(at_s)
        use = self.observed.uses.get(LEASE)
        return bool(
            use
            and use.state is PluginUse.IDLE
            and use.idle_since
            and use.idle_since.isoformat() == idle_since
        )


def ours(trace: Trace, policy: Policy, interval_s: float = INTERVAL_S) -> Outcome:
    """Return what our policy makes of a trace that is read every interval_s."""
    return Ours(trace, policy, interval_s).run()


async def theirs(traces: Sequence[Trace], options: Mapping[str, Any]) -> list[Outcome]:
    """Return what jupyterhub-idle-culler makes of traces, all on one hub.

    It looks every half of its time limit, which is its default.
    """
    stopped: dict[int, float] = {}
    at_s = every_s = options["inactive_limit"] / 2
    while at_s < LENGTH_S:
        now = START + timedelta(seconds=at_s)
        users = list(_users(traces, stopped.keys(), at_s))
        for name, _ in await culled(users, now, options):
            stopped[int(name.removeprefix("user"))] = at_s
        at_s += every_s
    return [Outcome(trace, stopped.get(i)) for i, trace in enumerate(traces)]


def _users(
    traces: Sequence[Trace], gone: Iterable[int], at_s: float
) -> Iterable[dict[str, Any]]:
    heard_s = at_s // REPORTS_EVERY_S * REPORTS_EVERY_S
    left = set(range(len(traces))) - set(gone)
    for i in sorted(left):
        active = traces[i].last_activity(heard_s)
        at = None if active is None else START + timedelta(seconds=active)
        server = {
            "name": "",
            "ready": True,
            "pending": None,
            "url": "/",
            "started": START.isoformat(),
            "last_activity": at and at.isoformat(),
        }
        yield {"name": f"user{i}", "servers": {"": server}}
