"""The process that calls NVML: what it reads, and what it leaves out.

The driver is the stand-in library under the unmodified nvidia-ml-py; the process is the
one that the hub runs, spoken to in its own lines.
"""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from gpuspawner.nvml.ends import count_links
from hypothesis import given
from hypothesis import strategies as st
from testbed.gpu import build
from testbed.gpu import state as states
from testbed.gpu.state import GIB, Gpu, GpuState

WAIT_S = 20
FOR_EVER_MS = 600_000
MODULE = [sys.executable, "-m", "gpuspawner.nvml"]
# What a sweep calls, and the values that are unknown when the call fails.
VALUES = {
    "nvmlDeviceGetUtilizationRates": "utilisation",
    "nvmlDeviceGetMemoryInfo": "memory_used_bytes",
    "nvmlDeviceGetComputeRunningProcesses_v3": "processes",
    "nvmlDeviceGetPowerUsage": "power_w",
    "nvmlDeviceGetEnforcedPowerLimit": "power_limit_w",
    "nvmlDeviceGetTotalEnergyConsumption": "energy_j",
    "nvmlDeviceGetProcessUtilization": "sm",
    "nvmlDeviceGetTotalEccErrors": "n_ecc_uncorrected",
    "nvmlDeviceGetFieldValues": "recovery",
    "nvmlDeviceGetRemappedRows": "remapping",
    "nvmlDeviceGetNvLinkState": "n_nvlinks",
}
WHOLE = {"uuid", "at", "temperature_c", *VALUES.values()}


class Served:
    """A reader process, as the hub runs it."""

    def __init__(self, env: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [*MODULE, "--serve"],
            env=os.environ | env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self.n_asked = 0
        self.touched: list[tuple[int | None, int]] = []
        self.events: list[dict[str, Any]] = []
        self._buffer = b""

    def send(self, method: str, **arguments: Any) -> None:
        """Ask without waiting."""
        self.n_asked += 1
        request = {"id": self.n_asked, "method": method, "arguments": arguments}
        assert self.process.stdin
        self.process.stdin.write(json.dumps(request).encode() + b"\n")

    def line(self) -> dict[str, Any]:
        """The next line; touches and events are also kept."""
        assert self.process.stdout
        deadline = time.monotonic() + WAIT_S
        while b"\n" not in self._buffer:
            left = max(0, deadline - time.monotonic())
            assert select.select([self.process.stdout], [], [], left)[0], "no answer"
            said = self.process.stdout.read(65536)
            assert said, "the reader ended"
            self._buffer += said
        text, _, self._buffer = self._buffer.partition(b"\n")
        message: dict[str, Any] = json.loads(text)
        if "at" in message:
            self.touched.append((message["at"], message["of"]))
        if "event" in message:
            self.events.append(message["event"])
        return message

    def answer(self) -> dict[str, Any]:
        """The answer to the last request."""
        while (message := self.line()).get("id") != self.n_asked:
            pass
        return message

    def ask(self, method: str, **arguments: Any) -> dict[str, Any]:
        """Ask and wait for a result."""
        self.send(method, **arguments)
        result: dict[str, Any] = self.answer()["result"]
        return result

    def samples(self) -> dict[str, dict[str, Any]]:
        """A sweep's samples by UUID."""
        return {row["uuid"]: row for row in self.ask("sweep")["samples"]}

    def close(self) -> None:
        with self.process:  # closes the pipes and waits
            self.process.kill()


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in NVML library, compiled."""
    try:
        return build.build(tmp_path_factory.mktemp("nvml"))
    except build.MissingToolError as error:
        pytest.skip(str(error))


@pytest.fixture
def environment(library: Path, tmp_path: Path) -> dict[str, str]:
    """What makes a process see this test's GPUs."""
    return {
        "LD_LIBRARY_PATH": str(library.parent),
        "TORCHROOM_SIMULATED_NVML_STATE": str(tmp_path / "state"),
        "TORCHROOM_SIMULATED_NVML_ALL": "1",
    }


Serve = Callable[[list[Gpu]], tuple[GpuState, Served]]


@pytest.fixture
def serve(environment: dict[str, str], tmp_path: Path) -> Iterator[Serve]:
    """Start a reader on a machine with these GPUs."""
    started: list[Served] = []

    def start(gpus: list[Gpu]) -> tuple[GpuState, Served]:
        state = GpuState(tmp_path / "state", gpus)
        state.write()
        started.append(Served(environment))
        return state, started[-1]

    yield start
    for served in started:
        served.close()


# -- devices


def test_devices_are_told_as_they_are(serve: Serve) -> None:
    """Identity, size, place; and which GPU is being touched, before it is."""
    state, served = serve(states.mixed())
    assert served.ask("devices")["devices"] == [
        {
            "index": index,
            "uuid": gpu.uuid,
            "name": gpu.name,
            "memory_bytes": gpu.mem,
            "minor": gpu.minor,
            "is_lost": False,
            "is_split": False,
            "instances": [],
            "pci_bus_id": f"{gpu.pci}.0",
        }
        for index, gpu in enumerate(state.gpus)
    ]
    assert served.touched == [*((i, 5) for i in range(5)), (None, 5)]


def test_mig_instances_are_found_across_the_holes(serve: Serve) -> None:
    """Indexes 0, 1, 3 and 4 of 7; profile, memory and both ids of each."""
    state, served = serve(states.mig())
    whole, split = served.ask("devices")["devices"]
    assert not whole["is_split"]
    assert split["is_split"]
    assert [
        (row["profile"], row["memory_bytes"] // GIB, row["gpu_instance"])
        for row in split["instances"]
    ] == [
        ("3g.40gb", 40, 2),
        ("2g.20gb", 20, 3),
        ("1g.10gb", 10, 9),
        ("1g.10gb", 10, 10),
    ]
    assert [row["uuid"] for row in split["instances"]] == state.mig_uuids


def test_a_split_gpu_without_instances_is_split(serve: Serve) -> None:
    """Nothing of it can be leased, and nothing fails."""
    gpus = states.mig()
    gpus[1].migs.clear()
    state, served = serve(gpus)
    assert [d["is_split"] for d in served.ask("devices")["devices"]] == [False, True]
    assert set(served.samples()) == set(state.uuids)


def test_a_profile_without_a_name_is_made_of_slices_and_memory(serve: Serve) -> None:
    """NVIDIA rounds the memory up: 9728 MiB are 10 GB."""
    gpus = states.mig()
    gpus[1].migs[2].name = "no profile in this name"
    gpus[1].migs[2].mem = 9728 * states.MIB
    _, served = serve(gpus)
    profiles = [i["profile"] for i in served.ask("devices")["devices"][1]["instances"]]
    assert profiles == ["3g.40gb", "2g.20gb", "1g.10gb", "1g.10gb"]


def test_gpus_to_avoid_are_not_touched(serve: Serve) -> None:
    """Not by any reading; unless the indexes were those of another set of GPUs."""
    state, served = serve(states.simple(3))
    state.fault("*", state.uuids[1], delay_ms=FOR_EVER_MS)
    for method in ("devices", "sweep", "topology"):
        served.touched.clear()
        served.ask(method, avoid=[1], of=3)
        assert served.touched == [(0, 3), (2, 3), (None, 3)]
    served.send("devices", avoid=[1], of=4)
    while served.line() != {"at": 1, "of": 3}:
        pass


# -- topology


def topology(served: Served, state: GpuState) -> dict[tuple[int, int], list[Any]]:
    """Index pair -> [level, NVLinks]."""
    index = {uuid: i for i, uuid in enumerate(state.uuids)}
    links = served.ask("topology")["links"]
    return {(index[a], index[b]): [level, n] for a, b, level, n in links}


def test_every_pair_is_asked_once(serve: Serve) -> None:
    """n(n-1)/2 pairs; levels and links of a hybrid cube mesh."""
    state, served = serve(states.dgx1v())
    found = topology(served, state)
    assert set(found) == set(combinations(range(8), 2))
    assert [found[0, i] for i in range(1, 8)] == [
        [10, 1], [30, 1], [30, 2], [50, 2], [50, 0], [50, 0], [50, 0],
    ]  # fmt: skip


def test_links_to_switches_join_every_pair(serve: Serve) -> None:
    """The GPU with fewer active links to switches bounds its pairs."""
    state, served = serve(states.hgx_a100())
    state.gpus[3].links[0].down = 2
    state.write()
    found = topology(served, state)
    assert {n for pair, (_, n) in found.items() if 3 not in pair} == {12}
    assert {n for pair, (_, n) in found.items() if 3 in pair} == {10}


def test_of_two_sides_that_disagree_the_larger_counts(serve: Serve) -> None:
    """Whichever of the two it is."""
    gpus = states.pcie8_bridged()
    gpus[0].links[0].count = 4
    gpus[3].links.clear()
    state, served = serve(gpus)
    found = topology(served, state)
    assert found[0, 1][1] == 12
    assert found[2, 3][1] == 12


def test_what_nvml_refuses_to_tell_of_a_pair_is_unknown(serve: Serve) -> None:
    """One GPU's refusal leaves the other pairs as they are."""
    state, served = serve(states.hgx_a100())
    shy = state.uuids[7]
    for name in (
        "nvmlDeviceGetTopologyCommonAncestor",
        "nvmlDeviceGetNvLinkRemoteDeviceType",
        "nvmlDeviceGetNvLinkRemotePciInfo_v2",
        "nvmlDeviceGetMemoryAffinity",
    ):
        for uuid in (shy, state.uuids[0]):
            state.fault(name, uuid, code=states.UNKNOWN)
    found = topology(served, state)
    assert found[0, 7] == [None, 0]
    assert found[1, 2] == [50, 12]
    assert set(served.ask("topology")["numa"]) == set(state.uuids[1:7])


def test_a_lost_gpu_has_no_links_and_the_others_keep_theirs(serve: Serve) -> None:
    """Its pairs are missing: unknown."""
    state, served = serve(states.hgx_a100())
    state.lose(state.uuids[2])
    assert set(topology(served, state)) == {
        pair for pair in combinations(range(8), 2) if 2 not in pair
    }


@pytest.mark.parametrize("node", [0, 3, 70])
def test_the_numa_node_is_that_of_the_memory_affinity(serve: Serve, node: int) -> None:
    """Beyond the first 64 nodes too."""
    gpus = states.simple(1)
    gpus[0].numa = node
    state, served = serve(gpus)
    assert served.ask("topology")["numa"] == {state.uuids[0]: node}


def test_without_affinity_the_kernel_says_the_numa_node(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """The PCI device's own file; -1 there means that nobody knows."""
    gpus = states.simple(3)
    for gpu, said in zip(gpus, ("1", "-1", None), strict=True):
        gpu.numa = -1
        folder = tmp_path / "pci" / f"{gpu.pci[4:].lower()}.0"
        folder.mkdir(parents=True)
        if said:
            (folder / "numa_node").write_text(said + "\n")
    GpuState(tmp_path / "state", gpus).write()
    code = f"""
import json
from gpuspawner.nvml.reader import Reader
print(json.dumps(Reader(pci_devices={str(tmp_path / "pci")!r}).topology()["numa"]))
"""
    told = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        check=True,
        capture_output=True,
    )
    assert json.loads(told.stdout) == {gpus[0].uuid: 1}


PLACES = st.sampled_from([(0, 1, 0), (0, 2, 0), (0, 3, 0), "switch", None])


@given(st.lists(PLACES, max_size=20), st.lists(PLACES, max_size=20))
def test_counting_links_is_symmetric(one: list[Any], other: list[Any]) -> None:
    """And it never counts more than either GPU has."""
    first, second = ((0, 1, 0), one), ((0, 2, 0), other)
    count = count_links(first, second)
    assert count == count_links(second, first)
    assert count <= max(len(one), len(other))


# -- sweeps


def test_a_sample_holds_every_value(serve: Serve) -> None:
    """Units and all."""
    state, served = serve(states.hgx_a100())
    uuid = state.uuids[4]
    state.set_utilisation(uuid, 97, power=350_000)
    state.change(uuid, temp=71, energy=123_456, dbe_vol=5, recovery=4)
    state.change(uuid, remap_cor=3, remap_unc=2, remap_pending=1, remap_failure=0)
    state.process(uuid, 7, GIB, sm=80)
    samples = served.samples()
    assert list(samples) == state.uuids
    assert abs(samples[uuid].pop("at") - time.time()) < WAIT_S
    assert samples[uuid] == {
        "uuid": uuid,
        "utilisation": 0.97,
        "memory_used_bytes": GIB + 600 * states.MIB,
        "processes": [[7, GIB, None]],
        "temperature_c": 71,
        "power_w": 350.0,
        "power_limit_w": 400.0,
        "energy_j": 123.456,
        "sm": [[7, 0.8]],
        "n_ecc_uncorrected": 5,
        "recovery": 4,
        "remapping": [3, 2, 1, 0],
        "n_nvlinks": 12,
    }


@pytest.mark.parametrize("code", [states.NOT_SUPPORTED, states.UNKNOWN])
@pytest.mark.parametrize("function", VALUES)
def test_a_refused_value_is_unknown_and_nothing_else(
    serve: Serve, function: str, code: int
) -> None:
    """The sweep goes on, and the other GPU's sample is whole."""
    state, served = serve(states.hgx_a100()[:2])
    one, other = state.uuids
    assert served.samples()[one].keys() == WHOLE
    state.fault(function, one, code=code)
    samples = served.samples()
    assert samples[one].keys() == WHOLE - {VALUES[function]}
    assert samples[other].keys() == WHOLE
    state.clear_faults()
    assert served.samples()[one].keys() == WHOLE


def test_everything_refused_leaves_an_empty_sample(serve: Serve) -> None:
    """Which is not a lost GPU."""
    state, served = serve(states.simple(2))
    served.ask("devices")
    state.fault("*", state.uuids[0], code=states.NOT_SUPPORTED)
    assert served.samples()[state.uuids[0]].keys() == {"uuid", "at"}


def test_sm_use_is_what_ran_since_the_last_sweep(serve: Serve) -> None:
    """Also what has stopped meanwhile, once; nobody at all is known, too."""
    state, served = serve(states.simple(2))
    uuid, other = state.uuids
    assert [served.samples()[each]["sm"] for each in (uuid, other)] == [[], []]
    state.process(uuid, 7, GIB, sm=80)
    state.process(uuid, 8, GIB, sm=1)
    assert served.samples()[uuid]["sm"] == [[7, 0.8], [8, 0.01]]
    state.process(uuid, 8, GIB)
    assert served.samples()[uuid]["sm"] == [[7, 0.8], [8, 0.01]]
    state.process(uuid, 7, GIB)
    assert served.samples()[uuid]["sm"] == [[7, 0.8]]
    samples = served.samples()
    assert [samples[each]["sm"] for each in (uuid, other)] == [[], []]


def test_who_decodes_or_encodes_uses_the_gpu(serve: Serve) -> None:
    """The video engines are none of the SMs, and need next to nothing of them."""
    state, served = serve(states.simple(1))
    uuid = state.uuids[0]
    state.process(uuid, 7, GIB, dec=60)
    state.process(uuid, 8, GIB, sm=2, enc=40)
    assert served.samples()[uuid]["sm"] == [[7, 0.6], [8, 0.4]]
    # a driver that leaves those unset tells the SMs all the same
    state.process(uuid, 7, GIB, sm=3, dec=4_000_000)
    assert [7, 0.03] in served.samples()[uuid]["sm"]


def test_sm_use_that_no_process_can_have_is_unknown(serve: Serve) -> None:
    """Some drivers leave rows unset; the rest of such an answer may be wrong, too."""
    state, served = serve(states.simple(1))
    uuid = state.uuids[0]
    state.process(uuid, 7, GIB, sm=80)
    state.process(uuid, 8, GIB, sm=101)
    assert "sm" not in served.samples()[uuid]
    state.process(uuid, 8, GIB, sm=100)
    assert [8, 1.0] in served.samples()[uuid]["sm"]


def test_sm_use_is_still_told_after_the_clock_was_set_back(serve: Serve) -> None:
    """The driver dates it by that clock: nothing would be newer for hours."""
    state, served = serve(states.simple(1))
    uuid = state.uuids[0]
    state.process(uuid, 7, GIB, sm=80)
    state.process(uuid, 7, GIB)
    state.processes[0].ran = 2 * time.time_ns() // 1000
    state.write()
    assert served.samples()[uuid]["sm"] == [[7, 0.8]]
    state.process(uuid, 8, GIB, sm=50)
    assert [8, 0.5] in served.samples()[uuid]["sm"]


def test_the_temperature_has_two_ways(serve: Serve) -> None:
    """Drivers before R570 know only the older call."""
    state, served = serve(states.simple(1))
    uuid = state.uuids[0]
    state.fault("nvmlDeviceGetTemperatureV", code=states.FUNCTION_NOT_FOUND)
    assert served.samples()[uuid]["temperature_c"] == 32
    state.fault("nvmlDeviceGetTemperature", code=states.NOT_SUPPORTED)
    assert "temperature_c" not in served.samples()[uuid]


def test_a_driver_without_recovery_actions_leaves_them_unknown(serve: Serve) -> None:
    """The one field is refused, not the call."""
    state, served = serve(states.simple(1))
    state.change(state.uuids[0], recovery=-1)
    assert "recovery" not in served.samples()[state.uuids[0]]


@pytest.mark.parametrize(
    ("kind", "code", "is_known"),
    [
        ("Graphics", states.NOT_SUPPORTED, True),
        ("MPSCompute", states.FUNCTION_NOT_FOUND, True),
        ("MPSCompute", states.UNKNOWN, False),
        ("Compute", states.FUNCTION_NOT_FOUND, False),
    ],
)
def test_processes_are_told_only_if_all_are_known(
    serve: Serve, kind: str, code: int, is_known: bool
) -> None:
    """A kind that the GPU does not support has none; an error may hide one."""
    state, served = serve(states.simple(1))
    uuid = state.uuids[0]
    state.process(uuid, 7, GIB)
    state.fault(f"nvmlDeviceGet{kind}RunningProcesses_v3", code=code)
    assert ("processes" in served.samples()[uuid]) is is_known


def test_each_process_is_told_once(serve: Serve) -> None:
    """With compute and graphics contexts, by MPS, or of unknown size."""
    state, served = serve(states.simple(1))
    uuid = state.uuids[0]
    state.process(uuid, 7, GIB)
    state.process(uuid, 7, 2 * GIB, kind="graphics")
    state.process(uuid, 8, GIB, kind="mps")
    state.process(uuid, 9, -1)
    found = sorted(served.samples()[uuid]["processes"])
    assert found == [[7, 2 * GIB, None], [8, GIB, None], [9, None, None]]


def test_mig_instances_have_samples_of_their_own(serve: Serve) -> None:
    """Memory and processes; the split GPU lists the processes of all with their ids."""
    state, served = serve(states.mig())
    split = state.gpus[1]
    big, _, small, _ = split.migs
    state.process(small.uuid, 77, GIB)
    state.process(big.uuid, 77, 2 * GIB)  # a process may use two
    samples = served.samples()
    assert set(samples) == {*state.uuids, *state.mig_uuids}
    assert samples[small.uuid]["memory_used_bytes"] == GIB
    assert samples[small.uuid]["processes"] == [[77, GIB, small.gi]]
    assert samples[small.uuid].keys() == {
        "uuid", "at", "memory_used_bytes", "processes",
    }  # fmt: skip
    assert sorted(samples[split.uuid]["processes"]) == [
        [77, GIB, small.gi],
        [77, 2 * GIB, big.gi],
    ]
    assert "utilisation" not in samples[split.uuid]
    assert samples[split.uuid]["power_w"] > 0


def test_a_mig_instance_that_goes_away_is_not_told_any_more(serve: Serve) -> None:
    """An admin may cut a GPU anew at any time."""
    state, served = serve(states.mig())
    gone = state.gpus[1].migs.pop(1)
    served.ask("sweep")
    state.write()
    assert gone.uuid not in served.samples()
    told = served.ask("devices")["devices"][1]["instances"]
    assert gone.uuid not in [row["uuid"] for row in told]


@pytest.mark.parametrize("code", [states.GPU_IS_LOST, states.RESET_REQUIRED])
def test_one_sick_gpu_of_eight_is_lost_and_seven_are_read(
    serve: Serve, code: int
) -> None:
    """Whatever the first call is that says so; and it comes back."""
    state, served = serve(states.hgx_a100())
    served.ask("devices")
    sick = state.uuids[5]
    for function in (*VALUES, "nvmlDeviceGetTemperatureV"):
        state.fault(function, sick, code=code)
        samples = served.samples()
        assert samples.pop(sick).keys() == {"uuid", "at", "is_lost"}, function
        assert all(sample.keys() == WHOLE for sample in samples.values())
        state.clear_faults()
        assert served.samples()[sick].keys() == WHOLE


def test_a_gpu_that_was_never_read_is_left_out(serve: Serve) -> None:
    """Lost before anybody asked: it has no name yet; the hub may know it."""
    gpus = states.simple(2)
    gpus[0].lost = 1
    state, served = serve(gpus)
    assert [d["uuid"] for d in served.ask("devices")["devices"]] == state.uuids[1:]
    assert list(served.samples()) == state.uuids[1:]
    state.restore(state.uuids[0])
    assert list(served.samples()) == state.uuids


# -- events


def wait_event(served: Served) -> dict[str, Any]:
    while not served.events:
        served.line()
    return served.events.pop(0)


def test_events_are_told_as_they_come(serve: Serve) -> None:
    """Without being asked; also of a GPU that is already lost, as with XID 79."""
    state, served = serve(states.simple(3))
    served.ask("sweep")
    state.lose(state.uuids[1])
    state.xid(state.uuids[1], 79)
    event = wait_event(served)
    assert abs(event.pop("at") - time.time()) < WAIT_S
    assert event == {"uuid": state.uuids[1], "kind": "xid", "code": 79}


def test_an_event_names_its_mig_instance(serve: Serve) -> None:
    """By NVML's GPU instance id, as processes do."""
    state, served = serve(states.mig())
    served.ask("sweep")
    state.xid(state.uuids[1], 94, gi=9)
    assert wait_event(served)["gpu_instance"] == 9


def test_a_recovery_event_says_which_action(serve: Serve) -> None:
    """The event itself carries no number; the field does."""
    state, served = serve(states.simple(2))
    served.ask("sweep")
    state.need_recovery(state.uuids[0], 4)
    event = wait_event(served)
    assert (event["kind"], event["code"]) == ("recovery", 4)


def test_a_gpu_that_refuses_events_disturbs_nobody(serve: Serve) -> None:
    """It is read all the same, and the others' events come."""
    state, served = serve(states.simple(3))
    state.fault("nvmlDeviceGetSupportedEventTypes", state.uuids[0], code=3)
    state.fault("nvmlDeviceRegisterEvents", state.uuids[1], code=states.UNKNOWN)
    assert all(sample.keys() >= {"power_w"} for sample in served.samples().values())
    for uuid in state.uuids:
        state.xid(uuid, 13)
    assert wait_event(served)["uuid"] == state.uuids[2]


# -- memory limits


@pytest.fixture
def cgroup(tmp_path: Path) -> str:
    """A folder that stands for a cgroup: the call opens it."""
    folder = tmp_path / "cgroup"
    folder.mkdir()
    return str(folder)


def test_a_memory_limit_is_read_back(serve: Serve, cgroup: str) -> None:
    """Per GPU and cgroup; setting it again changes it."""
    state, served = serve(states.simple(2))
    for uuid, limit in ((0, 8 * GIB), (1, 4 * GIB), (0, 2 * GIB)):
        asked = {"uuid": state.uuids[uuid], "cgroup": cgroup, "limit_bytes": limit}
        assert served.ask("limit_memory", **asked) == {"bytes": limit, "why": ""}


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (states.NOT_SUPPORTED, "Not Supported"),
        (states.NO_PERMISSION, "Insufficient Permissions"),
        (states.FUNCTION_NOT_FOUND, "Function Not Found"),
    ],
)
@pytest.mark.parametrize("verb", ["Set", "Get"])
def test_a_limit_that_cannot_be_set_and_read_is_none(
    serve: Serve, cgroup: str, verb: str, code: int, why: str
) -> None:
    """Old drivers, hubs without rights; a limit that is not read back is no limit."""
    state, served = serve(states.simple(1))
    state.fault(f"nvmlDevice{verb}MemoryLimits_v1", code=code)
    asked = {"uuid": state.uuids[0], "cgroup": cgroup, "limit_bytes": GIB}
    assert served.ask("limit_memory", **asked) == {"bytes": None, "why": why}


def test_a_limit_needs_a_cgroup_a_whole_gpu_and_a_size_it_has(
    serve: Serve, cgroup: str
) -> None:
    """NVML refuses all else, and says why."""
    state, served = serve(states.mig())
    whole, part = state.uuids[0], state.mig_uuids[0]
    for uuid, path, limit, why in (
        (
            whole,
            cgroup + "/absent",
            GIB,
            "The operating system has blocked the request.",
        ),
        (whole, cgroup, 81 * GIB, "Invalid Argument"),
        (part, cgroup, GIB, "Not Supported"),
        ("GPU-unknown", cgroup, GIB, "Not Found"),
    ):
        asked = {"uuid": uuid, "cgroup": path, "limit_bytes": limit}
        assert served.ask("limit_memory", **asked) == {"bytes": None, "why": why}


def test_a_limit_that_the_driver_does_not_keep_is_none(
    serve: Serve, cgroup: str
) -> None:
    """It says success and then has no limit."""
    state, served = serve(states.simple(1))
    asked = {"uuid": state.uuids[0], "cgroup": cgroup, "limit_bytes": 2**64 - 1}
    assert served.ask("limit_memory", **asked)["bytes"] is None


# -- the program


def shown(*arguments: str, **env: str) -> tuple[int, str]:
    done = subprocess.run(
        [*MODULE, *arguments],
        env=os.environ | env,
        check=False,
        capture_output=True,
        text=True,
    )
    assert not done.stderr
    return done.returncode, done.stdout


def test_the_devices_can_be_printed(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """For people, and as JSON for the installer."""
    state = GpuState(tmp_path / "state", states.simple(2))
    state.write()
    status, text = shown(**environment)
    assert (status, text.splitlines()[1]) == (
        0,
        f"GPU 1 (NVIDIA A100 80GB PCIe (simulated))  {state.uuids[1]}",
    )
    status, text = shown("--json", **environment)
    found = json.loads(text)
    assert (status, found["reason"]) == (0, None)
    assert [(d["index"], d["uuid"]) for d in found["devices"]] == [
        *enumerate(state.uuids)
    ]


def test_a_machine_without_gpus_says_why(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """No state: the library is there, the driver is not loaded. No GPU: no driver."""
    assert "not loaded" in shown(**environment)[1]
    state = GpuState(tmp_path / "state", [])
    state.write()
    status, text = shown("--json", **environment)
    assert (status, json.loads(text)["devices"]) == (0, [])
    assert "no NVIDIA driver" in json.loads(text)["reason"]
    state.driver(mismatch=True)
    status, text = shown(**environment)
    assert status == 1
    assert "restart the machine" in text


def test_the_reader_imports_nothing_heavy() -> None:
    """It starts whenever a GPU hangs, so it starts fast."""
    code = "import sys, gpuspawner.nvml.__main__; print(*sys.modules)"
    told = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    heavy = {"asyncio", "docker", "jupyterhub", "traitlets", "tornado", "sqlalchemy"}
    assert not heavy & set(told.stdout.split())


def test_the_reader_ends_with_its_hub_even_inside_a_call_that_hangs(
    serve: Serve,
) -> None:
    """Stdin ends when the hub does."""
    state, served = serve(states.simple(1))
    state.fault("nvmlDeviceGetName", delay_ms=FOR_EVER_MS)
    served.send("devices")
    assert served.line() == {"at": 0, "of": 1}
    assert served.process.stdin
    served.process.stdin.close()
    assert served.process.wait(WAIT_S) == 0


def test_what_a_library_prints_does_not_disturb_the_answers(serve: Serve) -> None:
    """Descriptor 1 is not where the answers go."""
    _, served = serve(states.simple(1))
    served.ask("devices")
    streams = [os.readlink(f"/proc/{served.process.pid}/fd/{fd}") for fd in (1, 2)]
    assert streams[0] == streams[1]
