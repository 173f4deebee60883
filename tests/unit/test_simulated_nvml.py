"""The stand-in NVML library, as an unmodified nvidia-ml-py sees it.

Each client is a process of its own: the library is found and loaded by the dynamic
linker as in production, and no test's state reaches another.
"""

import ctypes
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from testbed.gpu import build, cdi, simulate
from testbed.gpu import state as states
from testbed.gpu.state import GIB, Gpu, GpuState

NO_DEADLINE_MS = 600_000
WAIT_S = 60

# Answers every request in a thread of its own, so that one may hang.
CLIENT = """
import json, sys, threading
import pynvml as n

output, names = threading.Lock(), {}

def answer(request):
    try:
        reply = {"value": eval(request["code"], names)}
    except n.NVMLError as error:
        reply = {"error": type(error).__name__}
    except Exception as error:  # a mistake in the test: say it, never hang
        reply = {"error": repr(error)}
    with output:
        print(json.dumps(reply | {"id": request["id"]}), flush=True)

names.update(n=n, kept={}, h=n.nvmlDeviceGetHandleByUUID)
for line in sys.stdin:
    threading.Thread(target=answer, args=[json.loads(line)], daemon=True).start()
"""


class NvmlError(Exception):
    """What pynvml raised in the client, by its name."""


class Client:
    """A process with pynvml that evaluates expressions."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CLIENT],
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.n_sent = 0
        self.answers: dict[int, dict[str, Any]] = {}

    def send(self, code: str) -> int:
        """Ask without waiting."""
        self.n_sent += 1
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"id": self.n_sent, "code": code}) + "\n")
        self.process.stdin.flush()
        return self.n_sent

    def result(self, number: int) -> Any:
        """Wait for one answer; others may come first."""
        assert self.process.stdout
        while number not in self.answers:
            line = self.process.stdout.readline()
            assert line, "the client died"
            reply = json.loads(line)
            self.answers[reply["id"]] = reply
        if "error" in self.answers[number]:
            raise NvmlError(self.answers[number]["error"])
        return self.answers[number]["value"]

    def get(self, code: str) -> Any:
        """Ask and wait."""
        return self.result(self.send(code))

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled library; only a missing tool is a reason to skip."""
    try:
        return build.build(tmp_path_factory.mktemp("nvml"))
    except build.MissingToolError as error:
        pytest.skip(str(error))


@pytest.fixture
def connect(library: Path, tmp_path: Path) -> Iterator[Callable[..., Client]]:
    """Start a client of the state in this test's folder."""
    clients: list[Client] = []

    def start(*, init: bool = True, everything: str = "1") -> Client:
        client = Client(
            {
                "LD_LIBRARY_PATH": str(library.parent),
                "TORCHROOM_SIMULATED_NVML_STATE": str(tmp_path / "state"),
                "TORCHROOM_SIMULATED_NVML_ALL": everything,
            }
        )
        clients.append(client)
        if init:
            client.get("n.nvmlInit()")
        return client

    yield start
    for client in clients:
        client.close()


@pytest.fixture
def simulated(tmp_path: Path) -> Callable[[list[Gpu]], GpuState]:
    """Write a machine's state into this test's folder."""

    def write(gpus: list[Gpu]) -> GpuState:
        state = GpuState(tmp_path / "state", gpus)
        state.write()
        return state

    return write


Connect = Callable[..., Client]
Simulated = Callable[[list[Gpu]], GpuState]


def test_every_name_that_pynvml_looks_up_is_there(library: Path) -> None:
    """A function of pynvml never fails because the stand-in lacks its name."""
    spec = importlib.util.find_spec("pynvml")
    assert spec
    assert spec.origin
    source = Path(spec.origin).read_text()
    names = set(re.findall(r'_nvmlGetFunctionPointer\("(\w+)"', source))
    loaded = ctypes.CDLL(str(library))
    assert len(names) > 300
    assert not [name for name in names if not hasattr(loaded, name)]


def test_the_library_runs_on_old_c_libraries(library: Path) -> None:
    """It is mounted into other people's images, so it needs glibc 2.17 at most."""
    needed = re.findall(rb"GLIBC_(\d+)\.(\d+)", library.read_bytes())
    assert needed
    assert max((int(a), int(b)) for a, b in needed) <= (2, 17)


def test_building_again_changes_nothing(library: Path) -> None:
    """A library that is newer than its sources is left alone."""
    before = library.stat()
    assert build.build(library.parent) == library
    assert library.stat().st_ino == before.st_ino


def test_without_a_state_there_is_no_driver(connect: Connect) -> None:
    """A machine that simulates nothing looks like one without a driver."""
    with pytest.raises(NvmlError, match="DriverNotLoaded"):
        connect()


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="a real driver is here")
def test_a_process_without_device_nodes_sees_nothing(
    connect: Connect, simulated: Simulated
) -> None:
    """Visibility is the kernel's decision unless a host process asks for all."""
    simulated(states.simple(2))
    with pytest.raises(NvmlError, match="DriverNotLoaded"):
        connect(everything="")


def test_a_driver_upgraded_under_running_programs(
    connect: Connect, simulated: Simulated
) -> None:
    """New processes meet the mismatch, old ones go on."""
    state = simulated(states.simple(1))
    old = connect()
    state.driver(mismatch=True)
    assert old.get("n.nvmlDeviceGetCount()") == 1
    with pytest.raises(NvmlError, match="LibRmVersionMismatch"):
        connect()


@pytest.mark.parametrize("name", states.PRESETS)
def test_a_preset_is_told_as_it_was_written(
    name: str, connect: Connect, simulated: Simulated
) -> None:
    """Identity, place and size of every GPU; and every name says simulated."""
    state = simulated(states.PRESETS[name]())
    client = connect()
    assert client.get("n.nvmlDeviceGetCount()") == len(state.gpus)
    for index, gpu in enumerate(state.gpus):
        client.get(f"kept.update(g=n.nvmlDeviceGetHandleByIndex({index}))")
        told = client.get(
            "[f(kept['g']) for f in (n.nvmlDeviceGetUUID, n.nvmlDeviceGetName,"
            "n.nvmlDeviceGetMinorNumber, n.nvmlDeviceGetIndex)]"
            "+ [n.nvmlDeviceGetPciInfo(kept['g']).busId,"
            "n.nvmlDeviceGetMemoryInfo(kept['g']).total]"
        )
        assert told == [gpu.uuid, gpu.name, index, index, f"{gpu.pci}.0", gpu.mem]
        assert gpu.name.endswith(" (simulated)")
    assert len(set(state.uuids)) == len(state.gpus)
    assert all(re.fullmatch(r"GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", u)
               for u in state.uuids)  # fmt: skip


def test_thirty_two_gpus(connect: Connect, simulated: Simulated) -> None:
    """More than eight work; more than there is room for are refused when written."""
    state = simulated(states.simple(32))
    client = connect()
    assert client.get("n.nvmlDeviceGetCount()") == 32
    last = state.uuids[-1]
    assert client.get(f"n.nvmlDeviceGetIndex(h({last!r}))") == 31
    with pytest.raises(NvmlError, match="InvalidArgument"):
        client.get("n.nvmlDeviceGetHandleByIndex(32)")
    with pytest.raises(ValueError, match="more than 32"):
        simulated(states.simple(33))


def test_readings(connect: Connect, simulated: Simulated) -> None:
    """What a sample reads, before and after the GPU gets busy."""
    state = simulated(states.simple(2))
    one = state.uuids[1]
    client = connect()
    reading = (
        f"(lambda g: [n.nvmlDeviceGetUtilizationRates(g).gpu,"
        f"n.nvmlDeviceGetUtilizationRates(g).memory, n.nvmlDeviceGetPowerUsage(g),"
        f"n.nvmlDeviceGetTemperatureV(g, 0),"
        f"n.nvmlDeviceGetTotalEnergyConsumption(g),"
        f"list(n.nvmlDeviceGetCudaComputeCapability(g))])(h({one!r}))"
    )
    assert client.get(reading) == [0, 0, 55_000, 32, 0, [8, 0]]
    state.change(one, temp=71, energy=123_456)
    state.set_utilisation(one, 97, 40)
    assert client.get(reading) == [97, 40, 292_650, 71, 123_456, [8, 0]]


def test_energy_runs_with_the_power(connect: Connect, simulated: Simulated) -> None:
    """An energy counter that was started never falls."""
    gpu = states.simple(1)[0]
    gpu.since = 1
    state = simulated([gpu])
    client = connect()
    energy = f"n.nvmlDeviceGetTotalEnergyConsumption(h({gpu.uuid!r}))"
    first = client.get(energy)
    state.set_utilisation(gpu.uuid, 0, power=0)
    assert client.get(energy) >= first > 0


def test_utilisation_samples(connect: Connect, simulated: Simulated) -> None:
    """The buffer gives every sample since the last one seen."""
    state = simulated(states.simple(1))
    state.set_utilisation(state.uuids[0], 12)
    times, values = connect().get(
        f"(lambda s: [[x.timeStamp for x in s], [x.sampleValue.ullVal for x in s]])"
        f"(n.nvmlDeviceGetSamples(h({state.uuids[0]!r}), 1, 0)[1])"
    )
    assert times == sorted(times)
    assert set(values) == {12}


def matrix(client: Client, state: GpuState, what: str) -> list[list[int]]:
    """Ask something of every pair of GPUs."""
    code = f"[[{what} for b in map(h, {state.uuids})] for a in map(h, {state.uuids})]"
    answer: list[list[int]] = client.get(code)
    return answer


LINKS = """[
 n.nvmlDeviceGetNvLinkRemotePciInfo(a, i).busId for i in range(12)
 if n.nvmlDeviceGetNvLinkState(a, i)
].count(n.nvmlDeviceGetPciInfo(b).busId)""".replace("\n", "")


def test_a_hybrid_cube_mesh(connect: Connect, simulated: Simulated) -> None:
    """DGX-1: six links each, to four GPUs; symmetric; PCIe levels from the path."""
    state = simulated(states.dgx1v())
    client = connect()
    links = matrix(client, state, LINKS.replace("range(12)", "range(6)"))
    assert links[0] == [0, 1, 1, 2, 2, 0, 0, 0]
    assert all(sum(row) == 6 for row in links)
    assert links == [list(column) for column in zip(*links, strict=True)]
    levels = matrix(client, state, "n.nvmlDeviceGetTopologyCommonAncestor(a, b)")
    assert levels[0] == [0, 10, 30, 30, 50, 50, 50, 50]
    p2p = matrix(client, state, "n.nvmlDeviceGetP2PStatus(a, b, 2)")
    assert [status == 0 for status in p2p[0][1:5]] == [True] * 4
    assert p2p[0][5] != 0


def test_switches_are_the_other_end(connect: Connect, simulated: Simulated) -> None:
    """HGX: twelve links each to six switches, so every pair is joined."""
    state = simulated(states.hgx_a100())
    client = connect()
    first = f"h({state.uuids[0]!r})"
    kinds = f"[n.nvmlDeviceGetNvLinkRemoteDeviceType({first}, i) for i in range(12)]"
    assert client.get(kinds) == [2] * 12
    where = f"n.nvmlDeviceGetNvLinkRemotePciInfo({first}, i).busId"
    assert len(set(client.get(f"[{where} for i in range(12)]"))) == 6
    p2p = matrix(client, state, "n.nvmlDeviceGetP2PStatus(a, b, 2)")
    assert all(p2p[a][b] == 0 for a in range(8) for b in range(8) if a != b)
    with pytest.raises(NvmlError, match="InvalidArgument"):
        client.get(f"n.nvmlDeviceGetNvLinkState({first}, 12)")


def test_bridged_pairs_and_none(connect: Connect, simulated: Simulated) -> None:
    """A bridge joins two GPUs only; a PCIe machine has no links at all."""
    state = simulated(states.pcie8_bridged())
    client = connect()
    assert matrix(client, state, LINKS)[2] == [0, 0, 0, 12, 0, 0, 0, 0]
    state = simulated(states.dual_socket_pcie())
    with pytest.raises(NvmlError, match="NotSupported"):
        client.get(f"n.nvmlDeviceGetNvLinkState(h({state.uuids[0]!r}), 0)")


def test_a_link_that_is_down(connect: Connect, simulated: Simulated) -> None:
    """Health checks can compare links with a baseline."""
    state = simulated(states.hgx_a100())
    state.gpus[3].links[0].down = 2
    state.write()
    up = f"[n.nvmlDeviceGetNvLinkState(h({state.uuids[3]!r}), i) for i in range(12)]"
    assert connect().get(up) == [1] * 10 + [0, 0]


def test_mig_instances(connect: Connect, simulated: Simulated) -> None:
    """Indexes have holes; instances have their own identity, size and parent."""
    state = simulated(states.mig())
    whole, cut = state.gpus
    client = connect()
    code = f"n.nvmlDeviceGetMigDeviceHandleByIndex(h({cut.uuid!r}), %d)"
    assert client.get(f"n.nvmlDeviceGetMigMode(h({whole.uuid!r}))") == [0, 0]
    assert client.get(f"n.nvmlDeviceGetMigMode(h({cut.uuid!r}))") == [1, 1]
    assert client.get(f"n.nvmlDeviceGetMaxMigDeviceCount(h({cut.uuid!r}))") == 7
    with pytest.raises(NvmlError, match="NotFound"):
        client.get(code % 2)
    for mig in cut.migs:
        told = client.get(
            "(lambda m: [n.nvmlDeviceGetUUID(m), n.nvmlDeviceGetName(m),"
            "n.nvmlDeviceGetMemoryInfo(m).total, n.nvmlDeviceGetGpuInstanceId(m),"
            "n.nvmlDeviceGetAttributes(m).gpuInstanceSliceCount,"
            "bool(n.nvmlDeviceIsMigDeviceHandle(m)),"
            "n.nvmlDeviceGetUUID(n.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(m))])"
            f"({code % mig.index})"
        )
        assert told == [
            mig.uuid, mig.name, mig.mem, mig.gi, mig.slices, True, cut.uuid,
        ]  # fmt: skip
        assert mig.name.endswith(" (simulated)")
    for uuid in (cut.uuid, cut.migs[0].uuid):
        with pytest.raises(NvmlError, match="NotSupported"):
            client.get(f"n.nvmlDeviceGetUtilizationRates(h({uuid!r}))")
        with pytest.raises(NvmlError, match="NotSupported"):
            client.get(f"n.nvmlDeviceGetProcessUtilization(h({uuid!r}), 0)")


def processes(uuid: str, kind: str = "Compute") -> str:
    """Code that lists (pid, memory, GPU instance) of a GPU's processes."""
    return (
        f"[[p.pid, p.usedGpuMemory, p.gpuInstanceId] for p in "
        f"n.nvmlDeviceGet{kind}RunningProcesses(h({uuid!r}))]"
    )


def test_processes_of_each_kind(connect: Connect, simulated: Simulated) -> None:
    """Processes come and go, by kind, with the memory they hold."""
    state = simulated(states.simple(2))
    uuid = state.uuids[0]
    client = connect()
    assert client.get(processes(uuid)) == []
    before = client.get(f"n.nvmlDeviceGetMemoryInfo(h({uuid!r})).used")
    for pid in range(1, 41):  # far more than pynvml's first guess
        state.process(uuid, pid, GIB, sm=2)
    state.process(uuid, 50, GIB, kind="graphics")
    state.process(uuid, 60, GIB, kind="mps")
    not_mig = 0xFFFFFFFF
    assert client.get(processes(uuid)) == [[i, GIB, not_mig] for i in range(1, 41)]
    assert client.get(processes(uuid, "Graphics")) == [[50, GIB, not_mig]]
    assert client.get(processes(uuid, "MPSCompute")) == [[60, GIB, not_mig]]
    assert client.get(processes(state.uuids[1])) == []
    used = client.get(f"n.nvmlDeviceGetMemoryInfo(h({uuid!r})).used")
    assert used == before + 42 * GIB
    state.end_process(50)
    assert client.get(processes(uuid, "Graphics")) == []


def test_processes_of_a_mig_instance(connect: Connect, simulated: Simulated) -> None:
    """The parent lists them with the instance, the instance lists only its own."""
    state = simulated(states.mig())
    cut = state.gpus[1]
    big, small = cut.migs[0], cut.migs[2]
    state.process(small.uuid, 77, GIB)
    client = connect()
    assert client.get(processes(cut.uuid)) == [[77, GIB, small.gi]]
    assert client.get(processes(small.uuid)) == [[77, GIB, small.gi]]
    assert client.get(processes(big.uuid)) == []
    assert client.get(f"n.nvmlDeviceGetMemoryInfo(h({small.uuid!r})).used") == GIB


def test_a_process_that_ends_is_not_listed(
    connect: Connect, simulated: Simulated
) -> None:
    """With ``live`` the list follows the host's processes, as the driver's does."""
    state = simulated(states.simple(1))
    uuid = state.uuids[0]
    victim = connect(init=False)
    state.process(uuid, victim.process.pid, GIB, live=True)
    client = connect()
    assert [pid for pid, *_ in client.get(processes(uuid))] == [victim.process.pid]
    victim.close()
    assert client.get(processes(uuid)) == []


def test_utilisation_of_processes(connect: Connect, simulated: Simulated) -> None:
    """Per process; and "not found" when nothing runs."""
    state = simulated(states.simple(1))
    uuid = state.uuids[0]
    client = connect()
    code = f"n.nvmlDeviceGetProcessUtilization(h({uuid!r}), 0)"
    with pytest.raises(NvmlError, match="NotFound"):
        client.get(code)
    state.process(uuid, 7, GIB, sm=80)
    assert client.get(f"[[s.pid, s.smUtil] for s in {code}]") == [[7, 80]]


def test_utilisation_of_processes_since_a_moment(
    connect: Connect, simulated: Simulated
) -> None:
    """What has stopped since is told with its time, and not asked for again."""
    state = simulated(states.simple(1))
    uuid = state.uuids[0]
    client = connect()
    state.process(uuid, 7, GIB, sm=80)
    state.process(uuid, 7, GIB)
    code = f"n.nvmlDeviceGetProcessUtilization(h({uuid!r}), %d)"
    row = client.get(f"[[s.pid, s.smUtil, s.timeStamp] for s in {code % 0}]")
    assert row == [[7, 80, state.processes[0].ran]]
    with pytest.raises(NvmlError, match="NotFound"):
        client.get(code % row[0][2])


def test_the_power_limit(connect: Connect, simulated: Simulated) -> None:
    """Milliwatts; a MIG instance has none of its own."""
    state = simulated(states.mig())
    client = connect()
    code = "n.nvmlDeviceGetEnforcedPowerLimit(h({!r}))"
    assert client.get(code.format(state.uuids[0])) == state.gpus[0].limit
    with pytest.raises(NvmlError, match="NotSupported"):
        client.get(code.format(state.mig_uuids[0]))


def test_a_lost_gpu_fails_on_every_call_and_comes_back(
    connect: Connect, simulated: Simulated
) -> None:
    """It still counts; handles from before and new ones both fail until restored."""
    state = simulated(states.simple(3))
    gone = state.uuids[1]
    client = connect()
    client.get(f"kept.update(g=h({gone!r}))")
    state.lose(gone)
    assert client.get("n.nvmlDeviceGetCount()") == 3
    for code in (
        "n.nvmlDeviceGetUUID(kept['g'])",
        "n.nvmlDeviceGetMemoryInfo(kept['g'])",
        "n.nvmlDeviceGetHandleByIndex(1)",
        f"h({gone!r})",
    ):
        with pytest.raises(NvmlError, match="GpuIsLost"):
            client.get(code)
    assert client.get("n.nvmlDeviceGetUUID(n.nvmlDeviceGetHandleByIndex(2))")
    state.restore(gone)
    assert client.get("n.nvmlDeviceGetUUID(kept['g'])") == gone


def test_one_function_fails_on_one_gpu(connect: Connect, simulated: Simulated) -> None:
    """A fault hits what it names, and ends when it is cleared."""
    state = simulated(states.simple(2))
    good, bad = state.uuids
    client = connect()
    state.fault("nvmlDeviceGetPowerUsage", bad, code=states.UNKNOWN)
    power = "n.nvmlDeviceGetPowerUsage(h(%r))"
    with pytest.raises(NvmlError, match="Unknown"):
        client.get(power % bad)
    assert client.get(power % good) > 0
    assert client.get(f"n.nvmlDeviceGetMemoryInfo(h({bad!r})).total") > 0
    state.clear_faults()
    assert client.get(power % bad) > 0


def test_functions_without_an_answer_can_be_scripted_too(
    connect: Connect, simulated: Simulated
) -> None:
    """Everything not simulated is "not supported" unless a fault says otherwise."""
    state = simulated(states.simple(1))
    client = connect()
    code = f"n.nvmlDeviceGetEncoderCapacity(h({state.uuids[0]!r}), 0)"
    with pytest.raises(NvmlError, match="NotSupported"):
        client.get(code)
    state.fault("nvmlDeviceGetEncoderCapacity", code=states.NO_PERMISSION)
    with pytest.raises(NvmlError, match="NoPermission"):
        client.get(code)


def test_a_hanging_gpu_delays_no_other(connect: Connect, simulated: Simulated) -> None:
    """Other threads of the same process are served meanwhile; the hang can end."""
    state = simulated(states.simple(2))
    good, bad = state.uuids
    client = connect()
    client.get(f"kept.update(g=h({bad!r}))")
    state.fault("*", bad, delay_ms=NO_DEADLINE_MS)
    hanging = client.send("n.nvmlDeviceGetPowerUsage(kept['g'])")
    assert client.get(f"n.nvmlDeviceGetPowerUsage(h({good!r}))") > 0
    assert hanging not in client.answers
    state.clear_faults()
    assert client.result(hanging) > 0


def test_events_reach_the_sets_that_wait(
    connect: Connect, simulated: Simulated
) -> None:
    """An XID is delivered once, to every client, in order, for registered GPUs."""
    state = simulated(states.simple(3))
    state.xid(state.uuids[0], 13)  # before anybody listens: nobody hears it
    clients = [connect(), connect()]
    for client in clients:
        client.get("kept.update(s=n.nvmlEventSetCreate())")
        client.get(f"kept.update(a=h({state.uuids[0]!r}), b=h({state.uuids[1]!r}))")
        client.get("[n.nvmlDeviceRegisterEvents(kept[k], 8, kept['s']) for k in 'ab']")
    wait = (
        "(lambda e: [e.eventData, n.nvmlDeviceGetUUID(e.device)])"
        "(n.nvmlEventSetWait_v2(kept['s'], %d))"
    )
    waiting = [client.send(wait % (WAIT_S * 1000)) for client in clients]
    state.xid(state.uuids[2], 48)  # not registered
    state.xid(state.uuids[1], 79)
    state.xid(state.uuids[0], 94)
    for client, number in zip(clients, waiting, strict=True):
        assert client.result(number) == [79, state.uuids[1]]
        assert client.get(wait % (WAIT_S * 1000)) == [94, state.uuids[0]]
        with pytest.raises(NvmlError, match="Timeout"):
            client.get(wait % 1)


def test_health_fields(connect: Connect, simulated: Simulated) -> None:
    """Recovery action, remapped rows and ECC; unknown fields fail one by one."""
    state = simulated(states.simple(1))
    uuid = state.uuids[0]
    state.need_recovery(uuid, 1)
    state.change(uuid, remap_unc=2, remap_pending=1, dbe_vol=5)
    client = connect()
    fields = (
        f"[[v.nvmlReturn, v.value.ullVal] for v in "
        f"n.nvmlDeviceGetFieldValues(h({uuid!r}), [230, 143, 144, 4, 9])]"
    )
    assert client.get(fields) == [[0, 1], [0, 2], [0, 1], [0, 5], [3, 0]]
    assert client.get(f"n.nvmlDeviceGetRemappedRows(h({uuid!r}))") == [0, 2, 1, 0]
    ecc = f"n.nvmlDeviceGetTotalEccErrors(h({uuid!r}), 1, 0)"
    assert client.get(ecc) == 5
    state.change(uuid, recovery=-1)
    assert client.get(fields)[0] == [3, 0]
    state.change(uuid, ecc=-1)
    with pytest.raises(NvmlError, match="NotSupported"):
        client.get(ecc)


def test_memory_limits_are_seen_by_other_processes(
    connect: Connect, simulated: Simulated, tmp_path: Path
) -> None:
    """What one process sets for a cgroup, another reads; the rest has no limit."""
    state = simulated(states.simple(1))
    first, second = connect(), connect()
    uuid = state.uuids[0]
    cgroups = [tmp_path / name for name in "ab"]
    for cgroup in cgroups:
        cgroup.mkdir()
    keep = "kept.update(l=n.c_nvml%sMemoryLimits_v1_t(%s))"
    first.get(keep % ("Set", f"{os.fsencode(cgroups[0])!r}, {GIB}, {2 * GIB}"))
    first.get(f"n.nvmlDeviceSetMemoryLimits_v1(h({uuid!r}), kept['l']) and 0")
    limits = []
    for cgroup in cgroups:
        second.get(keep % ("Get", f"{os.fsencode(cgroup)!r}"))
        second.get(f"n.nvmlDeviceGetMemoryLimits_v1(h({uuid!r}), kept['l']) and 0")
        limits.append(second.get("[kept['l'].softLimit, kept['l'].hardLimit]"))
    assert limits == [[GIB, 2 * GIB], [0, 2**64 - 1]]


@pytest.mark.parametrize(
    ("folder", "limits", "error"),
    [
        ("absent", (0, GIB), "OperatingSystem"),
        (".", (0, 81 * GIB), "InvalidArgument"),
        (".", (2 * GIB, GIB), "InvalidArgument"),
    ],
)
def test_memory_limits_are_checked_as_the_driver_does(
    connect: Connect, simulated: Simulated, folder: str, limits: object, error: str
) -> None:
    """The cgroup's folder is opened; limits fit the GPU and each other."""
    state = simulated(states.simple(1))
    client = connect()
    path = os.fsencode(state.path.parent / folder)
    client.get(f"kept.update(l=n.c_nvmlSetMemoryLimits_v1_t({path!r}, *{limits}))")
    with pytest.raises(NvmlError, match=error):
        client.get(f"n.nvmlDeviceSetMemoryLimits_v1(h({state.uuids[0]!r}), kept['l'])")


def test_a_gpu_is_near_to_a_numa_node_and_is_none_itself(
    connect: Connect, simulated: Simulated
) -> None:
    """The node is told as memory affinity, as on every machine with PCIe GPUs."""
    state = simulated(states.hgx_a100())
    client = connect()
    near = f"list(n.nvmlDeviceGetMemoryAffinity(h({state.uuids[4]!r}), 1, 0))"
    assert client.get(near) == [1 << 7]
    with pytest.raises(NvmlError, match="NotSupported"):
        client.get(f"n.nvmlDeviceGetNumaNodeId(h({state.uuids[4]!r}))")


def test_a_process_of_unknown_size(connect: Connect, simulated: Simulated) -> None:
    """It is listed, and its memory is not counted."""
    state = simulated(states.simple(1))
    uuid = state.uuids[0]
    client = connect()
    before = client.get(f"n.nvmlDeviceGetMemoryInfo(h({uuid!r})).used")
    state.process(uuid, 7, -1)
    assert client.get(processes(uuid)) == [[7, None, 0xFFFFFFFF]]
    assert client.get(f"n.nvmlDeviceGetMemoryInfo(h({uuid!r})).used") == before


def test_an_event_of_a_mig_instance(connect: Connect, simulated: Simulated) -> None:
    """It names the GPU instance; others name none."""
    state = simulated(states.mig())
    client = connect()
    client.get("kept.update(s=n.nvmlEventSetCreate())")
    client.get(f"n.nvmlDeviceRegisterEvents(h({state.uuids[1]!r}), 8, kept['s'])")
    state.xid(state.uuids[1], 94, gi=9)
    state.xid(state.uuids[1], 79)
    wait = f"n.nvmlEventSetWait_v2(kept['s'], {WAIT_S * 1000}).gpuInstanceId"
    assert [client.get(wait), client.get(wait)] == [9, 0xFFFFFFFF]


def test_two_programs_change_the_same_state(tmp_path: Path) -> None:
    """``edit`` loads what the other wrote, so neither change is lost."""
    path = tmp_path / "state"
    GpuState(path, states.mig()).write()
    with states.edit(path) as one:
        one.lose(one.uuids[0])
    with states.edit(path) as two:
        two.process(two.mig_uuids[0], 5, GIB)
        two.fault("*", two.uuids[0], delay_ms=3)
    read = GpuState.load(path)
    assert read.gpus[0].lost
    assert [p.pid for p in read.processes] == [5]
    assert read.gpus[1].migs == states.mig()[1].migs
    assert GpuState.load(path).text() == read.text() == path.read_text()


def test_simulate_sets_a_machine_up(library: Path, tmp_path: Path) -> None:
    """Everything ``make up`` needs is in the folder, and the hook finds it."""
    made = simulate.prepare(tmp_path / "gpus", simulate.choose(4, None))
    assert isinstance(made["hook"], str)
    assert os.access(made["hook"], os.X_OK)
    settings = json.loads(Path(made["hook"]).with_name(simulate.SETTINGS).read_text())
    assert settings == {"dir": made["dir"]}
    spec = json.loads(Path(str(made["cdi"])).read_text())
    names = [device["name"] for device in spec["devices"]]
    assert spec["kind"] == cdi.KIND
    assert {"0", "3", "all", GpuState.load(str(made["state"])).uuids[3]} <= set(names)
