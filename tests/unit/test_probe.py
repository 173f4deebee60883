"""The hub's side of the GPU reader: deadlines, replacement, and what is remembered.

Every reader here is the real child process on the stand-in library.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from gpuspawner import probe as probes
from gpuspawner.errors import ProbeFailed
from gpuspawner.links import Link
from gpuspawner.links import Path as Way
from gpuspawner.model import Device, Instance
from gpuspawner.probe import NvmlProbe
from gpuspawner.rows import RECOVERIES, to_sweep
from gpuspawner.sample import (
    Event,
    EventKind,
    GpuProcess,
    Recovery,
    Remapping,
    Sample,
)
from testbed.gpu import build
from testbed.gpu import state as states
from testbed.gpu.state import GIB, Gpu, GpuState

WAIT_S = 20
HASTY_S = 0.5  # the deadline of a reading that will hang
FOR_EVER_MS = 600_000
FREEZER = Path("/sys/fs/cgroup/freezer")


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in NVML library, compiled."""
    try:
        return build.build(tmp_path_factory.mktemp("nvml"))
    except build.MissingToolError as error:
        pytest.skip(str(error))


@pytest.fixture
def clock() -> Clock:
    """The probe's clock."""
    return Clock()


Simulated = Callable[[list[Gpu]], GpuState]


@pytest.fixture
def simulated(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Simulated:
    """Make this process's children see these GPUs."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library.parent))
    monkeypatch.setenv("TORCHROOM_SIMULATED_NVML_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("TORCHROOM_SIMULATED_NVML_ALL", "1")

    def write(gpus: list[Gpu]) -> GpuState:
        state = GpuState(tmp_path / "state", gpus)
        state.write()
        return state

    return write


@pytest_asyncio.fixture
async def probe(clock: Clock) -> AsyncIterator[NvmlProbe]:
    """A probe whose deadline a busy machine keeps too."""
    probe = NvmlProbe(timeout_s=WAIT_S, clock=clock)
    yield probe
    await probe.close()


async def until(is_so: Callable[[], bool], what: str) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.01)


async def hangs(probe: NvmlProbe, read: Callable[[], Any], who: str) -> None:
    """The reading fails because this one did not answer."""
    probe.timeout_s = HASTY_S
    with pytest.raises(ProbeFailed, match=f"{who} did not answer within"):
        await read()
    probe.timeout_s = WAIT_S


def is_gone(pid: int) -> bool:
    """The process has ended (whether or not somebody has asked for its status)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in "ZX"


# -- what is read


async def test_devices_and_their_instances(
    simulated: Simulated, probe: NvmlProbe
) -> None:
    """As the nouns have them."""
    state = simulated(states.mig())
    whole, split = await probe.list_devices()
    assert whole == Device(
        0,
        state.uuids[0],
        state.gpus[0].name,
        80 * GIB,
        0,
        pci_bus_id="00000000:10:00.0",
    )
    assert split.is_split
    assert split.instances[2] == Instance(
        state.mig_uuids[2], "1g.10gb", 10 * GIB, gpu_instance=9
    )
    assert probe.absence is None


async def test_a_sweep_is_made_of_samples(
    simulated: Simulated, probe: NvmlProbe
) -> None:
    """Every value in the units of sample.py, and unknown ones None."""
    state = simulated(states.mixed())
    first, no_ecc = state.uuids[0], state.uuids[2]
    state.set_utilisation(first, 50, power=200_000)
    state.change(first, energy=5_000, dbe_vol=1, recovery=4, remap_pending=1)
    state.process(first, 7, GIB, sm=40)
    before = datetime.now(UTC)
    swept = await probe.sweep()
    sample = swept.samples[first]
    assert before <= sample.at <= datetime.now(UTC)
    assert sample == Sample(
        uuid=first,
        at=sample.at,
        utilisation=0.5,
        memory_used_bytes=GIB + 600 * states.MIB,
        processes=(GpuProcess(7, GIB),),
        temperature_c=32,
        power_w=200.0,
        power_limit_w=300.0,
        energy_j=5.0,
        sm={7: 0.4},
        n_ecc_uncorrected=1,
        recovery=Recovery.DRAIN_AND_RESET,
        remapping=Remapping(0, 0, is_pending=True, has_failed=False),
    )
    assert swept.samples[no_ecc].n_ecc_uncorrected is None
    assert swept.samples[no_ecc].processes == ()
    assert swept.events == ()
    assert 0 < swept.took_s < WAIT_S


async def test_the_topology_is_told_in_the_names_of_nvidia_smi(
    simulated: Simulated, probe: NvmlProbe
) -> None:
    """Level, NVLinks and NUMA node."""
    state = simulated(states.dgx1v())
    told = await probe.topology()
    uuids = state.uuids
    assert [told.link(uuids[0], uuid) for uuid in uuids[1:]] == [
        Link(Way.PIX, 1), Link(Way.PHB, 1), Link(Way.PHB, 2),
        Link(Way.SYS, 2), Link(Way.SYS), Link(Way.SYS), Link(Way.SYS),
    ]  # fmt: skip
    assert [told.numa[uuid] for uuid in uuids] == [0, 0, 0, 0, 1, 1, 1, 1]


async def test_a_topology_that_nvml_refuses_is_unknown(
    simulated: Simulated, probe: NvmlProbe
) -> None:
    """It never fails for that."""
    state = simulated(states.dual_socket_pcie())
    state.fault("nvmlDeviceGetTopologyCommonAncestor", code=states.UNKNOWN)
    told = await probe.topology()
    assert set(told.links.values()) == {Link()}
    assert len(told.links) == 28


async def test_a_memory_limit_is_told_as_it_was_read_back(
    simulated: Simulated, probe: NvmlProbe, tmp_path: Path
) -> None:
    """None where the driver or the rights do not allow it."""
    state = simulated(states.simple(1))
    asked = state.uuids[0], str(tmp_path), 3 * GIB
    assert await probe.limit_memory(*asked) == 3 * GIB
    state.fault("nvmlDeviceSetMemoryLimits_v1", code=states.NO_PERMISSION)
    assert await probe.limit_memory(*asked) is None


def test_every_recovery_action_of_nvml_has_a_meaning() -> None:
    """One that is newer than this program means the strongest."""
    import pynvml

    numbers = {
        value
        for name, value in vars(pynvml).items()
        if name.startswith("NVML_GPU_RECOVERY_ACTION_")
    }
    assert set(RECOVERIES) == numbers
    row = {"uuid": "GPU-1", "at": 0, "recovery": 99}
    swept = to_sweep({"samples": [row], "took_s": 0})
    assert swept.samples["GPU-1"].recovery is Recovery.REBOOT


# -- machines without GPUs


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has a driver")
async def test_a_machine_without_a_driver_is_looked_at_once_a_minute(
    probe: NvmlProbe,
    clock: Clock,
    simulated: Simulated,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No library: it is said, and no process stays; in between nobody looks."""
    state = simulated(states.simple(1))
    with monkeypatch.context() as without:
        without.setenv("LD_LIBRARY_PATH", "")
        assert await probe.list_devices() == ()
    assert probe.absence
    assert "no NVIDIA driver" in probe.absence
    clock.now += probes.LOOK_AGAIN_S - 1
    assert await probe.list_devices() == ()
    assert (await probe.sweep()).samples == {}
    assert (await probe.topology()).links == {}
    assert await probe.limit_memory(state.uuids[0], "/", GIB) is None
    assert probe.pid is None
    clock.now += 1
    assert len(await probe.list_devices()) == 1


async def test_a_driver_that_gets_loaded_is_found_within_a_minute(
    simulated: Simulated, probe: NvmlProbe, clock: Clock
) -> None:
    """First "not loaded", then the devices."""
    state = simulated(states.simple(2))
    state.driver(loaded=False)
    assert await probe.list_devices() == ()
    assert probe.absence
    assert "not loaded" in probe.absence
    state.driver(loaded=True)
    assert await probe.list_devices() == ()
    clock.now += probes.LOOK_AGAIN_S
    assert len(await probe.list_devices()) == 2
    assert probe.absence is None


async def test_a_driver_upgraded_under_the_hub_is_said_plainly(
    simulated: Simulated, probe: NvmlProbe
) -> None:
    """Library and kernel module disagree: it says what to do."""
    state = simulated(states.simple(1))
    state.driver(mismatch=True)
    with pytest.raises(ProbeFailed, match="restart the machine"):
        await probe.list_devices()
    state.driver(mismatch=False)
    assert len(await probe.list_devices()) == 1


async def test_gpus_of_which_none_can_be_read_are_said(
    simulated: Simulated, probe: NvmlProbe
) -> None:
    """It is not "no driver": an admin must look."""
    gpus = states.simple(2)
    for gpu in gpus:
        gpu.lost = 1
    simulated(gpus)
    assert await probe.list_devices() == ()
    assert probe.absence == probes.UNREACHABLE


# -- lost GPUs


async def test_a_lost_gpu_is_kept_as_lost_and_comes_back(
    simulated: Simulated, probe: NvmlProbe
) -> None:
    """It is never forgotten, nor are its MIG instances."""
    state = simulated(states.mig())
    before = await probe.list_devices()
    split = state.uuids[1]
    state.lose(split)
    assert [d.is_lost for d in await probe.list_devices()] == [False, True]
    samples = (await probe.sweep()).samples
    assert {uuid for uuid, s in samples.items() if s.is_lost} == {
        split,
        *state.mig_uuids,
    }
    assert samples[split] == Sample(split, samples[split].at, is_lost=True)
    state.restore(split)
    assert await probe.list_devices() == before
    assert not any(s.is_lost for s in (await probe.sweep()).samples.values())


async def test_a_gpu_that_a_new_reader_does_not_find_is_lost(
    simulated: Simulated, probe: NvmlProbe
) -> None:
    """After a restart of the reader NVML may not even count it."""
    gpus = states.simple(3)
    state = simulated(gpus)
    await probe.list_devices()
    await probe.close()
    state.gpus = gpus[1:]
    state.write()
    found = {device.uuid: device.is_lost for device in await probe.list_devices()}
    assert found == {gpus[0].uuid: True, gpus[1].uuid: False, gpus[2].uuid: False}
    assert (await probe.sweep()).samples[gpus[0].uuid].is_lost


async def test_a_lost_gpu_is_looked_for_by_new_readers(
    simulated: Simulated, probe: NvmlProbe, clock: Clock
) -> None:
    """One that was reset is found when NVML is initialised again."""
    state = simulated(states.simple(2))
    await probe.list_devices()
    first = probe.pid
    clock.now += 2 * probes.RENEW_S
    await probe.list_devices()
    assert probe.pid == first  # nothing is lost: it is kept
    state.lose(state.uuids[0])
    await probe.sweep()
    await probe.sweep()
    second = probe.pid
    assert second != first
    clock.now += probes.RENEW_S / 2
    await probe.sweep()
    assert probe.pid == second


# -- readers that hang or die


async def test_a_hung_call_stops_nothing_else_and_the_next_reading_works(
    simulated: Simulated, probe: NvmlProbe
) -> None:
    """The hub's loop goes on, the reader is killed, and seven of eight are read."""
    state = simulated(states.hgx_a100())
    await probe.list_devices()
    hung = probe.pid
    assert hung
    state.fault("nvmlDeviceGetPowerUsage", state.uuids[3], delay_ms=FOR_EVER_MS)
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.01)

    ticking = asyncio.create_task(tick())
    await hangs(probe, probe.sweep, "GPU 3")
    assert ticks > 10
    ticking.cancel()
    assert is_gone(hung)
    samples = (await probe.sweep()).samples
    assert [u for u in state.uuids if samples[u].is_lost] == [state.uuids[3]]
    assert samples[state.uuids[0]].power_w
    assert [d.index for d in await probe.list_devices() if d.is_lost] == [3]
    assert len((await probe.topology()).links) == 21


async def test_a_gpu_that_hung_is_tried_again_later_and_later(
    simulated: Simulated, probe: NvmlProbe, clock: Clock
) -> None:
    """Five minutes, ten minutes; when it answers it is as any other."""
    state = simulated(states.simple(2))
    await probe.list_devices()
    state.fault("*", state.uuids[1], delay_ms=FOR_EVER_MS)
    for wait_s in (probes.AVOID_S, 2 * probes.AVOID_S):
        await hangs(probe, probe.sweep, "GPU 1")
        clock.now += wait_s - 1
        assert (await probe.sweep()).samples[state.uuids[1]].is_lost
        clock.now += 1
    state.clear_faults()
    assert not (await probe.sweep()).samples[state.uuids[1]].is_lost
    state.fault("*", state.uuids[1], delay_ms=FOR_EVER_MS)
    await hangs(probe, probe.sweep, "GPU 1")
    clock.now += probes.AVOID_S
    await hangs(probe, probe.sweep, "GPU 1")


async def test_a_gpu_that_hangs_before_it_is_known_is_avoided_too(
    simulated: Simulated, probe: NvmlProbe
) -> None:
    """The hub starts on a machine with a sick GPU: the others are leased."""
    state = simulated(states.simple(3))
    state.fault("*", state.uuids[0], delay_ms=FOR_EVER_MS)
    await hangs(probe, probe.list_devices, "GPU 0")
    assert [d.uuid for d in await probe.list_devices()] == state.uuids[1:]


async def test_a_driver_that_hangs_altogether_is_asked_ever_less_often(
    simulated: Simulated, probe: NvmlProbe, clock: Clock
) -> None:
    """At once, after 1 s, after 2 s ...: in between nothing is started."""
    state = simulated(states.simple(1))
    state.fault("nvmlInitWithFlags", delay_ms=FOR_EVER_MS)
    for wait_s in (0, 0, 1):
        clock.now += wait_s
        await hangs(probe, probe.list_devices, "The NVIDIA driver")
    state.clear_faults()
    clock.now += 1.9
    await hangs(probe, probe.list_devices, "The NVIDIA driver")
    assert probe.pid is None
    clock.now += 0.1
    assert len(await probe.list_devices()) == 1


async def test_a_reader_killed_while_idle_is_not_noticed(
    simulated: Simulated, probe: NvmlProbe
) -> None:
    """The next reading starts another one."""
    simulated(states.simple(1))
    await probe.list_devices()
    first = probe.pid
    assert first
    os.kill(first, signal.SIGKILL)
    await until(lambda: probe.pid is None, "the hub hears of it")
    assert len(await probe.list_devices()) == 1
    assert probe.pid != first


async def test_a_reader_killed_at_work_fails_that_reading_only(
    simulated: Simulated, probe: NvmlProbe
) -> None:
    """With a sentence, long before the deadline."""
    probe.timeout_s = 600
    state = simulated(states.simple(1))
    await probe.list_devices()
    state.fault("nvmlDeviceGetName", delay_ms=FOR_EVER_MS)
    reading = asyncio.create_task(probe.list_devices())
    await asyncio.sleep(0)
    assert probe.pid
    os.kill(probe.pid, signal.SIGKILL)
    with pytest.raises(ProbeFailed, match="ended unexpectedly"):
        await asyncio.wait_for(reading, WAIT_S)
    state.clear_faults()
    assert len(await probe.list_devices()) == 1


class Freezer:
    """A cgroup whose processes take no SIGKILL while they are frozen."""

    def __init__(self) -> None:
        self.folder = FREEZER / f"torchroom-test-{os.getpid()}"
        self.folder.mkdir()

    def freeze(self, pid: int) -> None:
        (self.folder / "cgroup.procs").write_text(str(pid))
        (self.folder / "freezer.state").write_text("FROZEN")

    @property
    def is_frozen(self) -> bool:
        return (self.folder / "freezer.state").read_text() == "FROZEN\n"

    @property
    def is_empty(self) -> bool:
        return not (self.folder / "cgroup.procs").read_text()

    def thaw(self) -> None:
        (self.folder / "freezer.state").write_text("THAWED")


@pytest_asyncio.fixture
async def freezer(probe: NvmlProbe) -> AsyncIterator[Freezer]:
    """A freezer that is gone afterwards, with what was in it."""
    if not os.access(FREEZER / "cgroup.procs", os.W_OK):
        pytest.skip("no cgroup v1 freezer: nothing here survives SIGKILL")
    freezer = Freezer()
    yield freezer
    freezer.thaw()
    await probe.close()
    await until(lambda: freezer.is_empty, "the readers end")
    freezer.folder.rmdir()


async def test_readers_that_cannot_be_killed_are_left_behind_three_times(
    simulated: Simulated, probe: NvmlProbe, clock: Clock, freezer: Freezer
) -> None:
    """As those that sleep inside the driver; once they are gone, reading goes on."""
    simulated(states.simple(1))
    frozen = []
    for _ in range(probes.N_ABANDONED):
        clock.now += probes.BACKOFF_MAX_S
        await probe.list_devices()
        assert probe.pid
        frozen.append(probe.pid)
        freezer.freeze(probe.pid)
        await until(lambda: freezer.is_frozen, "it freezes")
        await hangs(probe, probe.list_devices, "The NVIDIA driver")
    assert not any(is_gone(pid) for pid in frozen)
    clock.now += probes.BACKOFF_MAX_S
    with pytest.raises(ProbeFailed, match="3 readings hang inside the NVIDIA"):
        await probe.list_devices()
    assert probe.pid is None
    freezer.thaw()
    await until(lambda: all(is_gone(pid) for pid in frozen), "they end")
    deadline = time.monotonic() + WAIT_S
    devices: tuple[Device, ...] = ()
    while not devices:  # the hub hears a moment later that they are gone
        assert time.monotonic() < deadline
        with suppress(ProbeFailed):
            devices = await probe.list_devices()
        await asyncio.sleep(0.01)


HUB = """
import asyncio, json, sys
from gpuspawner.probe import NvmlProbe

async def main():
    probe = NvmlProbe()
    await probe.list_devices()
    print(json.dumps(probe.pid), flush=True)
    sys.stdin.readline()
    await probe.list_devices()  # hangs

asyncio.run(main())
"""


@pytest.mark.parametrize("is_busy", [False, True])
def test_the_reader_ends_when_its_hub_is_killed(
    simulated: Simulated, is_busy: bool
) -> None:
    """Even while it hangs in a call."""
    state = simulated(states.simple(1))
    hub = subprocess.Popen(
        [sys.executable, "-c", HUB],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with hub:
        assert hub.stdin
        assert hub.stdout
        pid = json.loads(hub.stdout.readline())
        assert not is_gone(pid)
        if is_busy:
            state.fault("nvmlDeviceGetName", delay_ms=FOR_EVER_MS)
            hub.stdin.write("\n")
            hub.stdin.flush()
        hub.kill()
        asyncio.run(until(lambda: is_gone(pid), "the reader ends"))


async def test_a_closed_probe_holds_nothing_and_can_go_on(
    simulated: Simulated, probe: NvmlProbe
) -> None:
    """The driver can be unloaded meanwhile."""
    simulated(states.simple(1))
    await probe.list_devices()
    pid = probe.pid
    assert pid
    await probe.close()
    assert is_gone(pid)
    await probe.close()
    assert len(await probe.list_devices()) == 1


# -- callers at the same time


async def test_readers_at_the_same_time_share_one_reading(
    simulated: Simulated, probe: NvmlProbe
) -> None:
    """A class that arrives at once is one reading of each kind."""
    simulated(states.simple(2))
    found = await asyncio.gather(*(probe.list_devices() for _ in range(20)))
    assert all(devices is found[0] for devices in found)


async def test_a_caller_that_goes_away_stops_no_other(
    simulated: Simulated, probe: NvmlProbe
) -> None:
    """Nor does the last one leave anything behind that disturbs the next reading."""
    simulated(states.simple(2))
    first, second = (asyncio.create_task(probe.list_devices()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert len(await second) == 2
    third = asyncio.create_task(probe.sweep())
    await asyncio.sleep(0)
    third.cancel()
    assert len((await probe.sweep()).samples) == 2


# -- events


async def events(probe: NvmlProbe, n_wanted: int) -> list[Event]:
    """Sweep until that many events have come."""
    found: list[Event] = []
    deadline = time.monotonic() + WAIT_S
    while len(found) < n_wanted:
        assert time.monotonic() < deadline, found
        found += (await probe.sweep()).events
    return found


async def test_an_xid_comes_with_the_next_sweep(
    simulated: Simulated, probe: NvmlProbe
) -> None:
    """Of the GPU that it happened on, once."""
    state = simulated(states.simple(3))
    await probe.sweep()
    state.xid(state.uuids[1], 79)
    state.need_recovery(state.uuids[2], 2)
    xid, recovery = await events(probe, 2)
    assert xid == Event(state.uuids[1], xid.at, EventKind.XID, 79)
    assert recovery == Event(state.uuids[2], recovery.at, EventKind.RECOVERY, 2)
    assert (await probe.sweep()).events == ()


async def test_events_survive_the_reader(
    simulated: Simulated, probe: NvmlProbe
) -> None:
    """What the driver reported before the reader hung is told by the next sweep."""
    state = simulated(states.simple(2))
    await probe.sweep()
    state.fault("nvmlDeviceGetPowerUsage", state.uuids[1], delay_ms=FOR_EVER_MS)
    probe.timeout_s = 6 * HASTY_S  # the reader must have told of the event before
    reading = asyncio.create_task(probe.sweep())
    await asyncio.sleep(0)
    state.xid(state.uuids[1], 119)
    with pytest.raises(ProbeFailed):
        await reading
    probe.timeout_s = WAIT_S
    assert [event.code for event in await events(probe, 1)] == [119]


async def test_a_storm_of_events_keeps_the_newest(
    simulated: Simulated, caplog: pytest.LogCaptureFixture
) -> None:
    """Memory stays bounded, and the log says that some are missing."""
    probe = NvmlProbe(n_events=3)
    state = simulated(states.simple(1))
    await probe.sweep()
    for code in range(1, 9):
        state.xid(state.uuids[0], code)
    await until(lambda: "more GPU events" in caplog.text, "the storm")
    codes = [event.code for event in (await probe.sweep()).events]
    while 8 not in codes:
        codes += [event.code for event in await events(probe, 1)]
    assert 1 not in codes
    assert codes == sorted(set(codes))
    assert len(codes) <= 7
    await probe.close()


async def test_what_the_reader_complains_about_is_logged(
    simulated: Simulated, probe: NvmlProbe, caplog: pytest.LogCaptureFixture
) -> None:
    """Its stderr, line by line."""
    simulated(states.simple(1))
    await probe.list_devices()
    stderr = Path(f"/proc/{probe.pid}/fd/2")
    await asyncio.to_thread(stderr.write_text, "a library says something\n")
    await until(lambda: "a library says something" in caplog.text, "the log")
