"""A server is idle only if independent signals say so; whatever is unknown is not."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from gpuspawner.cgroups import ProcessIdentity
from gpuspawner.idleness import (
    CONTRADICTION,
    FAILED,
    NOT_LATELY,
    NOT_YET,
    UNDECIDED,
    LeaseUse,
    Observed,
    observe,
    read_idle_w,
    thresholds_for,
)
from gpuspawner.model import (
    Device,
    Instance,
    Lease,
    LeaseState,
    Owner,
    Slot,
    SlotKind,
    whole,
)
from gpuspawner.sample import GpuProcess, Sample, Sweep
from gpuspawner.signals import NOT_TWICE, STANDS_STILL, UNSEEN, Thresholds, Use
from gpuspawner.watchdog import Server
from hypothesis import given, settings
from hypothesis import strategies as st

GIB, MIB = 2**30, 2**20
KEPT = 600 * MIB  # by the driver
START = datetime(2026, 3, 2, 9, tzinfo=UTC)
EVERY_S = 10.0
EVERY = timedelta(seconds=EVERY_S)
IDLE_W, CONTEXT_W, LIMIT_W = 50.0, 60.0, 400.0
OWN, OTHER, MPS = "a" * 64, "b" * 64, "c" * 64  # MPS has its server in a container
POSER = 66  # a user's program by the name of the MPS server
PARTS = (Instance("MIG-1", "1g.10gb", 10 * GIB, 1), Instance("MIG-2", "1g", GIB, 2))
Processes = Mapping[int, str]  # PID -> container, "" for one that nobody can name


def gpu(index: int, **more: Any) -> Device:
    return Device(index, f"GPU-{index}", "A100", 40 * GIB, index, **more)


def server(*slots: Slot, name: str = "ls_1", container: str = OWN) -> Server:
    lease = Lease(name, Owner("ann", ""), slots, LeaseState.ACTIVE)
    return Server(lease, container)


def share(i: int) -> Slot:
    return Slot(gpu(0), f"GPU-0/{i}:2", SlotKind.SHARE, 20 * GIB, "1/2")


def part(i: int) -> Slot:
    device = gpu(0, is_split=True, instances=PARTS)
    return Slot(device, PARTS[i].uuid, SlotKind.MIG, PARTS[i].memory_bytes)


@dataclass(frozen=True)
class Doing:
    """What a GPU does between two readings, and how much of it the driver tells.

    Attributes:
        utilisation: 0 to 1; None: untold.
        watts: On the mean; None: untold.
        sm: PID -> 0 to 1; None: untold.
        on: Who is on it; None: untold.
        cores: PID -> CPU cores that it uses; a PID that is not here is unknown.
        limit_w: None: untold.
        used: Bytes of memory, beside what the driver keeps; None: untold.
        parts: MIG instances -> what is on them.
    """

    utilisation: float | None = 0.0
    watts: float | None = IDLE_W
    sm: Mapping[int, float] | None = field(default_factory=dict)
    on: Processes | None = field(default_factory=dict)
    cores: Mapping[int, float] = field(default_factory=dict)
    limit_w: float | None = LIMIT_W
    used: int | None = 0
    parts: Mapping[str, "Doing"] = field(default_factory=dict)


NOTHING = Doing()
LOADED = Doing(watts=CONTEXT_W, on={7: OWN}, cores={7: 0.001})
TRAINING = Doing(0.9, 300.0, {7: 0.9}, {7: OWN}, {7: 1.0})


class World:
    """GPUs, whoever holds them, and what the hub makes of it."""

    def __init__(self, *servers: Server, n: int = 1, learnt: bool = True) -> None:
        self.now, self.steady_s = START, 5000.0
        self.servers = servers
        self.uuids = [f"GPU-{i}" for i in range(n)]
        self.joules = dict.fromkeys(self.uuids, 1000.0)
        self.cpu_s: dict[int, float] = {}
        self.seen = Observed()
        self.thresholds = Thresholds()
        self.unused_bytes = dict.fromkeys(self.uuids, KEPT)
        self.is_hosts = True
        if learnt:  # nobody holds them yet
            self.servers = ()
            for _ in range(3):
                self.read()
            self.servers = servers

    def read(
        self, *doing: Doing, s: float = EVERY_S, fails: bool = False
    ) -> LeaseUse | None:
        """Let GPUs do this for so long (the last one also holds for the rest)."""
        every = [*doing] or [NOTHING]
        every += [every[-1]] * (len(self.uuids) - len(every))
        self.pass_time(s)
        samples: dict[str, Sample] = {}
        identities: dict[int, ProcessIdentity | None] = {}
        cpu_s: dict[int, float | None] = {}
        for uuid, one in zip(self.uuids, every, strict=True):
            self.joules[uuid] += (one.watts or 0) * s
            for name, each in {uuid: one, **one.parts}.items():
                samples[name] = self._sample(name, each)
                for pid, container in (each.on or {}).items():
                    used_s = each.cores.get(pid)
                    if used_s is not None:
                        self.cpu_s[pid] = self.cpu_s.get(pid, 0.0) + used_s * s
                    cpu_s[pid] = None if used_s is None else self.cpu_s[pid]
                    identities[pid] = _who(pid, container)
        self.seen = observe(
            self.seen,
            None if fails else Sweep(samples),
            self.servers,
            identities,
            cpu_s,
            now=self.now,
            steady_s=self.steady_s,
            held={u for x in self.servers for s in x.lease.slots
                  for u in (s.uuid, s.device.uuid)},
            unused_bytes=self.unused_bytes,
            is_hosts=self.is_hosts,
            thresholds=self.thresholds,
        )  # fmt: skip
        return self.seen.uses.get("ls_1")

    def pass_time(self, s: float) -> None:
        """Let the clocks go on, and nothing else happen."""
        self.now += timedelta(seconds=s)
        self.steady_s += s

    def _sample(self, uuid: str, one: Doing) -> Sample:
        on = None if one.on is None else tuple(GpuProcess(p, GIB) for p in one.on)
        if uuid not in self.joules:  # a MIG instance
            return Sample(uuid, self.now, memory_used_bytes=one.used, processes=on)
        return Sample(
            uuid,
            self.now,
            utilisation=one.utilisation,
            memory_used_bytes=None if one.used is None else KEPT + one.used,
            processes=on,
            power_limit_w=one.limit_w,
            energy_j=None if one.watts is None else self.joules[uuid],
            sm=one.sm,
        )

    def use(self, *doing: Doing, s: float = EVERY_S) -> LeaseUse:
        """What the hub makes of a lease after this."""
        found = self.read(*doing, s=s)
        assert found
        return found

    def idle(self, *doing: Doing, n: int = 3) -> LeaseUse:
        """An idle server, after so many readings."""
        for _ in range(n):
            found = self.use(*doing)
        assert found.state is Use.IDLE, found.why
        return found


def _who(pid: int, container: str) -> ProcessIdentity | None:
    if not container:
        return None
    name = "nvidia-cuda-mps" if container == MPS or pid == POSER else "python"
    return ProcessIdentity(pid, 100 + pid, 1000, name, name, (container,), 7)


# -- a whole GPU -----------------------------------------------------------------------


def test_a_gpu_with_nobody_on_it_is_idle() -> None:
    """Nobody is on it, no kernel ran, and it draws no more than without a server."""
    found = World(server(whole(gpu(0)))).idle()
    assert "No program of its server is on it" in found.why
    assert "50 W of 400 W" in found.why


def test_a_model_that_is_only_loaded_is_idle_and_its_memory_is_told() -> None:
    """Whoever decides may give it longer than an empty GPU."""
    found = World(server(whole(gpu(0)))).idle(LOADED)
    assert found.why.startswith("1 program holds 1 GiB of its memory")


def test_training_is_busy() -> None:
    world = World(server(whole(gpu(0))))
    found = world.use(TRAINING)
    assert (found.state, found.idle_since) == (Use.BUSY, None)
    assert found.why == "A program kept its SMs 90% busy."


@pytest.mark.parametrize(("share", "state"), [
    (0.0, Use.IDLE), (0.01, Use.IDLE), (0.03, Use.IDLE),  # one kernel a second
    (0.04, Use.BUSY), (0.05, Use.BUSY), (0.1, Use.BUSY),  # a slow data loader
])  # fmt: skip
def test_from_where_on_a_gpu_is_busy(share: float, state: Use) -> None:
    """By utilisation and by SM use, each alone."""
    for doing in (
        replace(LOADED, sm={7: share}),
        replace(LOADED, utilisation=share),
        replace(LOADED, utilisation=share, sm={7: share}),
    ):
        assert World(server(whole(gpu(0)))).use(doing).state is state


def test_a_burst_between_two_readings_is_busy() -> None:
    """Utilisation tells of the last moment only, SM use of all the time."""
    world = World(server(whole(gpu(0))))
    world.idle(LOADED)
    assert world.use(replace(LOADED, sm={7: 0.6})).state is Use.BUSY
    again = world.use(LOADED)
    assert (again.state, again.idle_since) == (Use.IDLE, world.now - EVERY)


def test_utilisation_that_is_stuck_at_zero_does_not_make_a_working_gpu_idle() -> None:
    """The energy counter says that it works, and admins are told once."""
    world = World(server(whole(gpu(0))))
    stuck = replace(TRAINING, utilisation=0.0, sm={})
    found = world.use(stuck)
    assert found.state is Use.UNKNOWN
    assert "It draws 300 W of 400 W" in found.why
    alarms: list[str] = []
    for _ in range(200):
        assert world.use(stuck).state is Use.UNKNOWN
        alarms += world.seen.alarms
    (text,) = alarms
    assert text == f"GPU 0 (A100) of the server of ann: {found.why} {CONTRADICTION}"


def test_a_contradiction_that_passes_raises_no_alarm() -> None:
    """Two readings of two things are not of the same moment."""
    world = World(server(whole(gpu(0))))
    for _ in range(100):
        for _ in range(30):
            world.read(replace(TRAINING, utilisation=0.0, sm={}))
            assert not world.seen.alarms
        world.read(TRAINING)


@pytest.mark.parametrize("doing", [
    Doing(1.0, IDLE_W, {}, {}),  # a driver that has just started may say so
    Doing(1.0, CONTEXT_W, {}, {7: OWN}, {7: 0.0}),
])  # fmt: skip
def test_utilisation_of_nobody_is_not_idle_and_said_after_a_while(
    doing: Doing,
) -> None:
    world = World(server(whole(gpu(0))))
    assert world.use(doing).state is Use.BUSY
    alarms: list[str] = []
    for _ in range(100):
        world.read(doing)
        alarms += world.seen.alarms
    assert len(alarms) == 1


@pytest.mark.parametrize("doing", [
    Doing(0.03, 78.0, {7: 0.03}, {7: OWN}, {7: 4.0}),  # reinforcement learning
    Doing(0.0, 78.0, {7: 0.01}, {7: OWN}, {7: 4.0}),
    Doing(0.01, 55.0, {}, {7: OWN}, {7: 0.3}),  # its other programs load data
    Doing(0.01, 55.0, {}, {7: OWN}, {}),
])  # fmt: skip
def test_few_kernels_of_programs_that_use_much_cpu_are_not_idle(doing: Doing) -> None:
    """Whatever little the GPU draws: training that its environment holds up."""
    found = World(server(whole(gpu(0)))).use(doing)
    assert found.state is Use.UNKNOWN
    assert "CPU time" in found.why


def test_readings_of_zero_are_not_believed_beside_busy_programs() -> None:
    """They may be stuck. A GPU that draws as little as an unused one is idle."""
    for cores in ({7: 4.0}, {}):
        stuck = Doing(0.0, IDLE_W + 0.12 * 350, {}, {7: OWN}, cores)
        assert World(server(whole(gpu(0)))).use(stuck).state is Use.UNKNOWN
        World(server(whole(gpu(0)))).idle(replace(stuck, watts=IDLE_W + 0.04 * 350))


def test_an_open_context_that_lifts_power_is_idle_if_nobody_uses_the_cpu() -> None:
    """Some cards stay at 110 W then; whether they compute, the CPU must say."""
    lifted = replace(LOADED, watts=130.0)
    World(server(whole(gpu(0)))).idle(lifted)
    for cores in ({7: 0.5}, {}):
        doing = replace(lifted, cores=cores)
        found = World(server(whole(gpu(0)))).use(doing)
        assert found.state is Use.UNKNOWN
        assert "CPU time" in found.why
    empty = replace(NOTHING, watts=130.0)  # it has just been computing and cools down
    assert World(server(whole(gpu(0)))).use(empty).state is Use.IDLE


def test_without_an_idle_power_the_cpu_must_say_so_too() -> None:
    """A hub that was started anew under running servers."""
    world = World(server(whole(gpu(0))), learnt=False)
    assert world.use(LOADED).why == NOT_TWICE
    assert world.use(LOADED).state is Use.IDLE
    assert world.use(replace(LOADED, cores={7: 0.3})).state is Use.UNKNOWN
    assert world.use(replace(LOADED, watts=170.0)).state is Use.UNKNOWN


def test_an_idle_power_that_was_kept_counts_at_once() -> None:
    """A hub that was started anew, and knows what its GPUs draw."""
    world = World(server(whole(gpu(0))), learnt=False)
    world.seen = Observed(idle_w=read_idle_w({"idle_w": {"GPU-0": IDLE_W}}))
    world.idle(replace(LOADED, cores={7: 0.03}))


@pytest.mark.parametrize("kept", [
    {"idle_w": []}, {"idle_w": {"GPU-0": "50"}}, {"idle_w": {"GPU-0": 0}},
    {"idle_w": {"GPU-0": float("inf")}}, {"idle_w": {"GPU-0": True}},
])  # fmt: skip
def test_an_idle_power_that_is_none_is_not_taken(kept: dict[str, Any]) -> None:
    assert read_idle_w({}) == {}
    with pytest.raises(ValueError, match="idle power"):
        read_idle_w(kept)


def test_idle_power_is_learnt_from_who_nobody_holds_only() -> None:
    """The least of all readings; not while a stray program computes on it."""
    world = World(server(whole(gpu(0))), n=2, learnt=False)
    for watts in (80.0, 70.0, 90.0):
        world.read(LOADED, replace(NOTHING, watts=watts))
    assert world.seen.idle_w == {"GPU-1": pytest.approx(70.0)}
    cold = replace(NOTHING, watts=20.0)
    for doing in (
        replace(cold, on={9: ""}, sm={9: 0.5}),
        replace(cold, on={9: ""}, sm=None),
        replace(cold, on=None),
        replace(cold, utilisation=0.5),
    ):
        for _ in range(2):
            world.read(LOADED, doing)
        assert world.seen.idle_w == {"GPU-1": pytest.approx(70.0)}


def test_idle_power_is_learnt_although_a_monitoring_program_is_there() -> None:
    """It holds a context on every GPU, for ever, and computes nothing."""
    world = World(server(whole(gpu(0))), learnt=False)
    world.servers = ()
    for _ in range(3):
        world.read(replace(NOTHING, on={9: OTHER}, sm={9: 0.01}))
    assert world.seen.idle_w == {"GPU-0": pytest.approx(IDLE_W)}


def test_idle_power_is_not_learnt_from_the_moment_in_which_a_server_ended() -> None:
    """It still computed a part of it."""
    world = World(server(whole(gpu(0))), learnt=False)
    for _ in range(3):
        world.read(TRAINING)
    world.servers = ()
    world.read(replace(NOTHING, watts=300.0))
    assert world.seen.idle_w == {}
    world.read(NOTHING)
    assert world.seen.idle_w == {"GPU-0": pytest.approx(IDLE_W)}


def test_an_idle_power_that_was_learnt_wrong_does_not_hide_work() -> None:
    """Something computed on it that the driver did not show."""
    world = World(server(whole(gpu(0))), learnt=False)
    world.servers = ()
    for _ in range(3):
        world.read(replace(NOTHING, watts=390.0))
    world.servers = (server(whole(gpu(0))),)
    assert world.use(replace(LOADED, watts=300.0)).state is Use.UNKNOWN


MISSING = [
    (replace(LOADED, utilisation=None), "its utilisation"),
    (replace(LOADED, sm=None), "which programs use its SMs"),
    (replace(LOADED, on=None), "which programs are on it"),
    (replace(LOADED, watts=None), "how much energy it uses"),
    (replace(LOADED, limit_w=None), "its power limit"),
]


@pytest.mark.parametrize(("doing", "what"), MISSING)
def test_what_is_missing_is_said_and_never_idle(doing: Doing, what: str) -> None:
    """It also ends what was idle."""
    world = World(server(whole(gpu(0))))
    world.idle(LOADED)
    for _ in range(3):
        found = world.use(doing)
        assert found.state is Use.UNKNOWN
        assert found.why == f"The driver does not tell {what}."
    missed_at = world.now
    world.read(LOADED)
    found = world.use(LOADED)
    assert found.idle_since
    assert found.idle_since >= missed_at


@pytest.mark.parametrize(("used", "is_learnt", "state"), [
    (0, True, Use.IDLE), (100 * MIB, True, Use.IDLE), (None, True, Use.IDLE),
    (300 * MIB, True, Use.UNKNOWN),  # less than any CUDA context takes
    (300 * MIB, False, Use.IDLE), (3 * GIB, False, Use.UNKNOWN),
])  # fmt: skip
def test_memory_in_use_contradicts_that_nobody_is_on_a_gpu(
    used: int | None, is_learnt: bool, state: Use
) -> None:
    """In a machine that is itself a container the driver may list nobody, ever."""
    world = World(server(whole(gpu(0))))
    world.unused_bytes = world.unused_bytes if is_learnt else {}
    found = world.use(replace(NOTHING, used=used))
    assert found.state is state
    if state is Use.UNKNOWN:
        assert "No program is on it, but" in found.why


def test_a_lost_gpu_is_unknown() -> None:
    world = World(server(whole(gpu(0))))
    world.idle()
    lost = Sweep({"GPU-0": Sample("GPU-0", world.now, is_lost=True)})
    for sweep in (lost, Sweep()):
        seen = observe(
            world.seen, sweep, world.servers, {}, {},
            now=world.now, steady_s=world.steady_s, unused_bytes={},
        )  # fmt: skip
        assert seen.uses["ls_1"].state is Use.UNKNOWN


# -- since when ------------------------------------------------------------------------


def test_a_server_is_idle_since_the_last_reading_that_said_something_else() -> None:
    """The first one that says idle is about all the time since."""
    world = World(server(whole(gpu(0))))
    world.read(TRAINING)
    busy_at = world.now
    first = world.use(LOADED)
    assert first.idle_since == first.since == busy_at
    assert world.idle(LOADED, n=200).idle_since == first.idle_since


def test_since_is_when_the_state_began() -> None:
    world = World(server(whole(gpu(0))))
    first = world.use(TRAINING)
    assert world.use(TRAINING).since == first.since
    assert world.use(replace(LOADED, sm=None)).since == world.now


def test_a_failed_reading_is_unknown_and_bridged_if_no_energy_was_used() -> None:
    """For a minute at most."""
    world = World(server(whole(gpu(0))))
    since = world.idle(LOADED).idle_since
    found = world.read(fails=True)
    assert found
    assert (found.state, found.idle_since, found.why) == (Use.UNKNOWN, None, FAILED)
    assert {slot.state for slot in found.slots} == {Use.UNKNOWN}
    assert world.use(LOADED, s=40).idle_since == since
    world.read(fails=True)
    again = world.use(LOADED, s=55)
    assert again.state is not Use.IDLE or again.idle_since == world.now


@pytest.mark.parametrize("watts", [130.0, 300.0])
def test_a_gap_in_which_something_may_have_run_begins_anew(watts: float) -> None:
    """The driver has forgotten by then what its SMs did."""
    world = World(server(whole(gpu(0))))
    world.idle(LOADED)
    world.joules["GPU-0"] += watts * 30
    world.pass_time(30)
    found = world.use(LOADED, s=1)
    assert found.idle_since in {None, world.now}


@pytest.mark.parametrize("step", [-3600, -12, -5, 5, 45, 3600])
def test_a_step_of_the_clock_begins_anew(step: float) -> None:
    """Or a sleep of the machine, in which it goes on alone."""
    world = World(server(whole(gpu(0))))
    world.idle(LOADED)
    world.now += timedelta(seconds=step)
    found = world.use(LOADED)
    assert found.idle_since in {None, world.now}
    world.read(LOADED)
    assert world.use(LOADED).state is Use.IDLE


@pytest.mark.parametrize("fails", [False, True])
def test_idle_power_is_not_learnt_over_a_step_of_the_clock(fails: bool) -> None:
    """By a clock that was set forward any GPU drew next to nothing, for ever."""
    world = World(server(whole(gpu(0))))
    world.servers = ()
    world.now += timedelta(seconds=30)
    world.read(fails=fails)
    for _ in range(3):
        world.read()
    assert world.seen.idle_w == {"GPU-0": pytest.approx(IDLE_W)}


def test_an_energy_counter_that_goes_back_says_nothing() -> None:
    """The driver was loaded anew."""
    world = World(server(whole(gpu(0))))
    world.idle(LOADED)
    world.joules["GPU-0"] = 0.0
    assert world.use(LOADED).why == NOT_TWICE


def test_an_energy_counter_that_stands_still_says_nothing() -> None:
    """Nor is it learnt: no GPU draws 0 W."""
    world = World(server(whole(gpu(0))))
    for _ in range(3):
        found = world.use(replace(LOADED, watts=0.0))
        assert (found.state, found.why) == (Use.UNKNOWN, STANDS_STILL)
    world = World(learnt=False)
    for _ in range(3):
        world.read(replace(NOTHING, watts=0.0))
    assert world.seen.idle_w == {}


def test_without_the_hosts_processes_nobody_is_known_not_to_be_there() -> None:
    """Then the driver's lists are empty whoever computes."""
    world = World(server(whole(gpu(0))))
    world.is_hosts = False
    found = world.use(NOTHING)
    assert (found.state, found.why) == (Use.UNKNOWN, UNSEEN)
    assert world.use(replace(NOTHING, utilisation=0.5)).state is Use.BUSY
    world = World(server(part(0)))
    world.is_hosts = False
    assert world.use(split(Doing())).why == UNSEEN
    world = World(learnt=False)
    world.is_hosts = False
    for _ in range(3):
        world.read(NOTHING)
    assert world.seen.idle_w == {}


def test_two_readings_in_one_moment_are_compared_with_an_earlier_one() -> None:
    """Whoever is about to stop a server has the GPUs read once more."""
    world = World(server(whole(gpu(0))))
    since = world.idle(LOADED).idle_since
    assert world.use(replace(LOADED, watts=390.0), s=0.2).idle_since == since
    for _ in range(5):
        assert world.use(LOADED, s=0.2).idle_since == since
    assert world.use(replace(LOADED, watts=390.0), s=3).state is Use.UNKNOWN


def test_what_was_not_read_lately_is_unknown() -> None:
    """Nobody may stop a server for what was true an hour ago."""
    world = World(server(whole(gpu(0))))
    found = world.idle(LOADED)
    soon = world.now + timedelta(seconds=30)
    assert world.seen.of("ls_1", soon) == found
    late = world.now + timedelta(seconds=61)
    stale = world.seen.of("ls_1", late)
    assert (stale.state, stale.why, stale.since) == (Use.UNKNOWN, NOT_LATELY, world.now)
    never = Observed().of("ls_1", soon)
    assert (never.state, never.why) == (Use.UNKNOWN, NOT_YET)


def test_a_new_lease_begins_anew_on_the_same_gpu() -> None:
    world = World(server(whole(gpu(0))))
    world.idle(LOADED)
    world.servers = (server(whole(gpu(0)), name="ls_2"),)
    world.read(LOADED)
    assert world.seen.uses.keys() == {"ls_2"}
    assert world.seen.uses["ls_2"].idle_since == world.now


@pytest.mark.parametrize("state", [LeaseState.STARTING, LeaseState.RELEASING])
def test_only_servers_that_run_are_judged(state: LeaseState) -> None:
    world = World(server(whole(gpu(0))))
    (one,) = world.servers
    world.servers = (replace(one, lease=one.lease.to(state)), server(name="ls_cpu"))
    world.read()
    assert not world.seen.uses


def test_where_gpus_are_seldom_read_longer_gaps_are_bridged() -> None:
    """By the energy counter: how long the driver remembers does not change."""
    assert thresholds_for(10) == Thresholds()
    seldom = thresholds_for(60)
    assert seldom.longest == timedelta(seconds=180)
    assert replace(seldom, longest=timedelta(seconds=60)) == Thresholds()


@pytest.mark.parametrize(("doing", "is_bridged"), [
    (NOTHING, True), (LOADED, True),
    (replace(LOADED, watts=IDLE_W + 0.12 * 350), False),  # 8 s of each minute
    (replace(LOADED, cores={7: 0.1}), False),
    (replace(LOADED, cores={}), False),
])  # fmt: skip
def test_what_the_driver_has_forgotten_only_an_unused_gpu_did_not_do(
    doing: Doing, is_bridged: bool
) -> None:
    world = World(server(whole(gpu(0))))
    world.thresholds = thresholds_for(60)
    for _ in range(10):
        found = world.use(doing, s=60)
    assert found.state is Use.IDLE
    assert found.idle_since
    assert (world.now - found.idle_since > timedelta(minutes=5)) == is_bridged


# -- what nobody can decide ------------------------------------------------------------

BUSY_HOLDER = replace(LOADED, cores={7: 0.03})


def alarms_of(world: World, doing: Doing, hours: float) -> list[str]:
    """What admins are told while this goes on."""
    found: list[str] = []
    for _ in range(int(hours * 120)):
        world.read(doing, s=30)
        found += world.seen.alarms
    return found


def undecided(*slots: Slot) -> World:
    """GPUs whose idle power was never learnt, read twice a minute."""
    world = World(server(*slots), learnt=False)
    world.thresholds = replace(Thresholds(), seamless=timedelta(seconds=30))
    return world


def test_a_server_that_nobody_can_judge_for_hours_is_told_to_admins_once() -> None:
    world = undecided(whole(gpu(0)))
    assert alarms_of(world, BUSY_HOLDER, 1.9) == []
    (text,) = alarms_of(world, BUSY_HOLDER, 5)
    assert text.startswith("GPU 0 (A100) of the server of ann: 1 program holds 1 GiB")
    assert text.endswith(UNDECIDED)
    world.servers = (server(whole(gpu(0)), name="ls_2"),)
    assert len(alarms_of(world, BUSY_HOLDER, 5)) == 1


def test_an_instance_that_is_busy_by_cpu_time_alone_is_told_to_admins_once() -> None:
    """It may be a program that only keeps it."""
    world = undecided(part(0))
    assert alarms_of(world, split(WORKS), 1.9) == []
    assert len(alarms_of(world, split(WORKS), 5)) == 1


@pytest.mark.parametrize(("other", "n", "is_told"), [
    (TRAINING, 1, False),  # it computes
    (NOTHING, 1, True), (NOTHING, 30, False),  # once idle, or idle for a quarter hour
])  # fmt: skip
def test_what_ends_the_time_in_which_nobody_can_judge(
    other: Doing, n: int, is_told: bool
) -> None:
    world = undecided(whole(gpu(0)))
    found = []
    for _ in range(4):
        found += alarms_of(world, BUSY_HOLDER, 1)
        found += [text for _ in range(n) for text in alarms_of(world, other, 1 / 120)]
    assert bool(found) == is_told


def test_a_driver_that_was_silent_for_hours_is_nobodys_server() -> None:
    world = undecided(whole(gpu(0)))
    found = alarms_of(world, BUSY_HOLDER, 1)
    for _ in range(240):
        world.read(fails=True, s=30)
        found += world.seen.alarms
    assert found + alarms_of(world, BUSY_HOLDER, 1) == []


# -- several slots ---------------------------------------------------------------------


def test_one_busy_gpu_of_many_is_enough_and_is_named() -> None:
    world = World(server(*(whole(gpu(i)) for i in range(4))), n=4)
    found = world.use(NOTHING, NOTHING, TRAINING, replace(LOADED, sm=None))
    assert found.state is Use.BUSY
    assert found.why.startswith("GPU 2 (A100): A program kept")
    states = [slot.state for slot in found.slots]
    assert states == [Use.IDLE, Use.IDLE, Use.BUSY, Use.UNKNOWN]


def test_one_unknown_gpu_of_many_makes_the_server_unknown() -> None:
    world = World(server(*(whole(gpu(i)) for i in range(2))), n=2)
    found = world.use(NOTHING, replace(LOADED, sm=None))
    assert found.state is Use.UNKNOWN
    assert found.why.startswith("GPU 1 (A100): The driver does not tell")


def test_many_gpus_are_idle_since_the_last_of_them_is() -> None:
    world = World(server(*(whole(gpu(i)) for i in range(2))), n=2)
    world.idle(NOTHING)
    world.read(NOTHING, TRAINING)
    since = world.now
    assert world.use(NOTHING, LOADED).idle_since == since
    assert world.use(NOTHING, LOADED).idle_since == since


# -- shares ----------------------------------------------------------------------------


def test_a_share_is_judged_by_its_own_programs() -> None:
    """The neighbour keeps the device busy: nothing against whoever waits."""
    mine = server(share(0))
    his = server(share(1), name="ls_2", container=OTHER)
    world = World(mine, his)
    doing = Doing(
        0.9, 300.0, {8: 0.9}, {7: OWN, 8: OTHER}, {7: 0.001, 8: 1.0}
    )  # fmt: skip
    found = world.idle(doing)
    assert "1 program holds" in found.why
    assert world.seen.uses["ls_2"].state is Use.BUSY
    alone = replace(doing, on={8: OTHER})
    assert world.use(alone).state is Use.IDLE


def test_a_share_whose_programs_use_the_cpu_beside_a_busy_neighbour_is_unknown() -> (
    None
):
    """SM use alone says that it is idle: one signal is not enough."""
    world = World(server(share(0)))
    doing = Doing(0.9, 300.0, {8: 0.9}, {7: OWN, 8: OTHER}, {7: 0.5, 8: 1.0})
    assert world.use(doing).state is Use.UNKNOWN


def test_a_program_that_nobody_can_name_may_be_the_shares() -> None:
    """A hub without the host's process table."""
    world = World(server(share(0)))
    assert world.use(Doing(0.9, 300.0, {8: 0.9}, {8: ""})).state is Use.BUSY
    assert world.use(Doing(0.0, 130.0, {}, {8: ""})).state is Use.UNKNOWN
    world.idle(Doing(0.0, CONTEXT_W, {}, {8: ""}))
    ended = Doing(0.9, 300.0, {9: 0.9}, {})  # it had ended when it was looked up
    assert world.use(ended).state is Use.BUSY


@pytest.mark.parametrize("listed", [{}, {7: 0.001}])  # the program that computes
def test_what_an_mps_server_does_may_be_for_any_share(
    listed: Mapping[int, float],
) -> None:
    """The driver may say that the MPS server computes, and not for whom."""
    on = {9: MPS} | dict.fromkeys(listed, OWN)
    cores = {9: 0.001, **listed}
    assert World(server(share(0))).use(
        Doing(0.9, 300.0, {9: 0.9}, on, cores)
    ).state is Use.BUSY  # fmt: skip
    found = World(server(share(0))).use(Doing(0.0, 130.0, {}, on, cores))
    assert found.state is Use.UNKNOWN
    World(server(share(0))).idle(Doing(0.0, IDLE_W, {}, on, cores))


def test_a_name_keeps_no_gpu() -> None:
    """Whoever calls a program of theirs as the MPS server is called gains nothing."""
    named = Doing(0.0, CONTEXT_W, {}, {POSER: OWN}, {POSER: 0.001})
    World(server(share(0))).idle(named)
    World(server(part(0))).idle(split(Doing(on={POSER: OWN}, cores={POSER: 0.001})))
    neighbours = Doing(0.9, 300.0, {POSER: 0.9}, {7: OWN, POSER: OTHER}, {7: 0.001})
    other = server(share(1), name="ls_2", container=OTHER)
    World(server(share(0)), other).idle(neighbours)


def test_an_idle_neighbour_does_not_explain_what_a_device_draws() -> None:
    world = World(server(share(0)))
    doing = Doing(0.0, 300.0, {}, {7: OWN, 8: OTHER}, {7: 0.0, 8: 0.0})
    assert world.use(doing).state is Use.UNKNOWN


# -- MIG -------------------------------------------------------------------------------


def split(
    first: Doing, second: Doing | None = None, watts: float | None = CONTEXT_W
) -> Doing:
    """A device with MIG: it tells its power and who is on it, and no utilisation."""
    second = second or Doing()
    on = {**(first.on or {}), **(second.on or {})}
    cores = {**first.cores, **second.cores}
    parts = {"MIG-1": first, "MIG-2": second}
    return Doing(None, watts, None, on, cores, parts=parts)


WAITS = Doing(on={7: OWN}, cores={7: 0.001})
WORKS = Doing(on={7: OWN}, cores={7: 0.9})
NEIGHBOUR = Doing(on={8: OTHER}, cores={8: 0.9})


def test_an_instance_whose_programs_wait_is_idle() -> None:
    """The driver lists them, the kernel says that they launch nothing."""
    found = World(server(part(0))).idle(split(WAITS))
    assert found.why.startswith("1 program holds 1 GiB of its memory and wait")


def test_an_instance_whose_programs_use_the_cpu_is_not_idle() -> None:
    """What they do on it, the driver does not tell."""
    assert World(server(part(0))).use(split(WORKS)).state is Use.BUSY


def test_an_instance_that_an_mps_server_computes_on_is_not_idle() -> None:
    """Its own CPU time says nothing of whoever computes through it."""
    through = Doing(on={9: MPS}, cores={9: 0.001})
    assert World(server(part(0))).use(split(through)).state is Use.UNKNOWN


def test_an_instance_with_nobody_on_it_is_idle_if_it_holds_no_memory() -> None:
    world = World(server(part(0)))
    world.idle(split(Doing()))
    assert world.use(split(Doing(used=300 * MIB))).state is Use.UNKNOWN


def test_a_busy_neighbour_explains_what_the_whole_gpu_draws() -> None:
    world = World(server(part(0)))
    world.idle(split(WAITS, NEIGHBOUR, 300.0))
    calm = replace(NEIGHBOUR, cores={8: 0.0})
    found = world.use(split(WAITS, calm, 300.0))
    assert found.state is Use.UNKNOWN
    assert "The whole GPU draws" in found.why


def test_an_instance_that_computes_without_the_cpu_is_not_idle() -> None:
    """A kernel may run for minutes, and a graph of them; what the GPU draws tells."""
    draws, waits = IDLE_W + 0.2 * 350, IDLE_W + 0.14 * 350
    found = World(server(part(0))).use(split(WAITS, watts=draws))
    assert found.state is Use.UNKNOWN
    assert "nobody else on it uses the CPU" in found.why
    quiet = replace(NEIGHBOUR, cores={8: 0.001})  # it may be the one that computes
    assert World(server(part(0))).use(split(WAITS, quiet, draws)).state is Use.UNKNOWN
    World(server(part(0))).idle(split(WAITS, quiet, waits))
    World(server(part(0))).idle(split(WAITS, NEIGHBOUR, draws))
    World(server(part(0))).idle(split(Doing(), quiet, draws))


def test_what_an_instance_may_draw_is_not_known_without_an_idle_power() -> None:
    world = World(server(part(0)), learnt=False)
    world.read(split(WAITS, watts=130.0))
    world.idle(split(WAITS, watts=130.0))


@pytest.mark.parametrize("doing", [
    split(replace(WAITS, on=None)),
    split(replace(WAITS, cores={})),
    split(WAITS, watts=None),
    replace(split(WAITS), limit_w=None),
])  # fmt: skip
def test_an_instance_of_which_something_is_unknown_is_unknown(doing: Doing) -> None:
    world = World(server(part(0)))
    world.idle(split(WAITS))
    assert world.use(doing).state is Use.UNKNOWN


# -- whatever happens ------------------------------------------------------------------

SHARES = st.sampled_from([0.0, 0.01, 0.03, 0.04, 0.2, 1.0])
WATTS = st.sampled_from([None, 10.0, IDLE_W, 70.0, 130.0, 220.0, 390.0])
CORES = st.sampled_from([0.0, 0.01, 0.03, 1.0])


@st.composite
def anything(draw: st.DrawFn) -> Doing:
    """Anything that a GPU can do, told in whole or in part."""
    pids = draw(st.lists(st.sampled_from([7, 8, 9]), unique=True))
    on = {pid: draw(st.sampled_from([OWN, OTHER, ""])) for pid in pids}
    return Doing(
        utilisation=draw(st.none() | SHARES),
        watts=draw(WATTS),
        sm=draw(st.none() | st.dictionaries(st.sampled_from([7, 8, 9]), SHARES)),
        on=draw(st.none() | st.just(on)),
        cores={pid: draw(CORES) for pid in pids if draw(st.booleans())},
        limit_w=draw(st.sampled_from([LIMIT_W, LIMIT_W, LIMIT_W, None, 0.0])),
    )


@st.composite
def nearly_idle(draw: st.DrawFn) -> Doing:
    """An idle GPU, or one that differs from it in a single thing."""
    idle, other = draw(st.sampled_from([LOADED, NOTHING])), draw(anything())
    name = draw(st.sampled_from(["", "utilisation", "watts", "sm", "on", "limit_w"]))
    return replace(idle, **{name: getattr(other, name)}) if name else idle


def doings() -> st.SearchStrategy[Doing]:
    return st.one_of(nearly_idle(), nearly_idle(), anything())


STEPS = st.lists(
    st.tuples(
        doings(),
        st.sampled_from([0.2, 1.0, 10.0, 10.0, 10.0, 30.0, 70.0]),
        st.booleans(),
    ),
    max_size=8,
)
MOMENTS = st.sampled_from([0.2, 10.0, 10.0, 10.0, 59.0])


def is_told(doing: Doing) -> bool:
    told = (doing.utilisation, doing.sm, doing.on, doing.watts, doing.limit_w or None)
    return None not in told


def is_quiet_enough(doing: Doing) -> bool:
    """No signal of a GPU that one lease has for itself says that it computes."""
    return (
        is_told(doing)
        and (doing.utilisation or 0) <= 0.03
        and max((doing.sm or {}).values(), default=0) <= 0.03
    )


@settings(max_examples=150, deadline=None)
@given(STEPS, doings(), MOMENTS)
def test_no_reading_is_idle_that_is_missing_or_busy(
    steps: list[tuple[Doing, float, bool]], last: Doing, moment_s: float
) -> None:
    """Whatever was before."""
    world = World(server(whole(gpu(0))))
    for doing, s, fails in steps:
        world.read(doing, s=s, fails=fails)
    found = world.use(last, s=moment_s)
    if found.state is Use.IDLE:
        assert is_quiet_enough(last)
        assert found.idle_since
    else:
        assert found.idle_since is None


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_since_a_server_is_idle_every_reading_said_so(
    steps: list[tuple[Doing, float, bool]],
) -> None:
    """And no gap was longer than is bridged."""
    world = World(server(whole(gpu(0))))
    told: list[tuple[datetime, Doing | None]] = []
    for doing, s, fails in steps:
        found = world.read(doing, s=s, fails=fails)
        told.append((world.now, None if fails else doing))
        if found is None or found.idle_since is None:
            continue
        window = [(at, one) for at, one in told if at > found.idle_since]
        window = [(at, one) for at, one in window if one is not None]
        assert all(is_quiet_enough(one) for _, one in window if one is not None)
        moments = [found.idle_since, *(at for at, _ in window)]
        gaps = [later - earlier for earlier, later in pairwise(moments)]
        assert all(gap <= timedelta(seconds=60) for gap in gaps)
        assert found.idle_since <= world.now


@settings(max_examples=80, deadline=None)
@given(st.lists(doings(), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_the_order_of_the_slots_changes_nothing(
    every: list[Doing], random: Any
) -> None:
    n = len(every)
    slots = [whole(gpu(i)) for i in range(n)]
    mixed = random.sample(slots, n)
    found = []
    for order in (slots, mixed):
        world = World(server(*order), n=n)
        world.read(*every)
        use = world.use(*every)
        states = {slot.id: slot.state for slot in use.slots}
        found.append((use.state, use.since, use.idle_since, states))
    assert found[0] == found[1]


@settings(max_examples=80, deadline=None)
@given(STEPS, doings())
def test_the_same_readings_say_the_same(
    steps: list[tuple[Doing, float, bool]], last: Doing
) -> None:
    """Nothing is read but what is given: a pure function."""
    found = []
    for _ in range(2):
        world = World(server(whole(gpu(0))))
        for doing, s, fails in steps:
            world.read(doing, s=s, fails=fails)
        world.read(last)
        found.append(world.seen)
    assert found[0] == found[1]


@settings(max_examples=80, deadline=None)
@given(doings(), CORES, WATTS)
def test_an_instance_is_idle_only_if_its_programs_use_no_cpu(
    first: Doing, cores: float, watts: float | None
) -> None:
    world = World(server(part(0)))
    neighbour = Doing(on={10: OTHER}, cores={10: cores})
    for _ in range(2):
        use = world.use(split(first, neighbour, watts))
    if use.state is Use.IDLE:
        theirs = [pid for pid, who in (first.on or {}).items() if who != OTHER]
        used = [first.cores.get(pid, 1.0) for pid in theirs]
        assert first.on is not None
        assert watts is not None
        assert sum(used) <= 0.02
        assert not theirs or cores > 0.02 or watts <= IDLE_W + 0.15 * 350
