"""On a machine with a real GPU: the plugin reads what the driver says."""

import subprocess
from collections.abc import AsyncIterator
from itertools import combinations

import pytest
import pytest_asyncio
from gpuspawner.nvml.events import Events
from gpuspawner.nvml.reader import Reader
from gpuspawner.probe import NvmlProbe

pytestmark = pytest.mark.gpu


def smi(query: str) -> list[list[str]]:
    """What nvidia-smi says, a row for each GPU."""
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits"]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [row.split(", ") for row in listing.strip().splitlines()]


@pytest_asyncio.fixture
async def probe() -> AsyncIterator[NvmlProbe]:
    """The probe as the hub has it."""
    probe = NvmlProbe()
    yield probe
    await probe.close()


async def test_every_device_is_read_as_nvidia_smi_lists_it(probe: NvmlProbe) -> None:
    """UUID, name, index, PCI bus id and memory, by the unmodified NVML library."""
    said = smi("index,uuid,name,pci.bus_id,memory.total")
    found = await probe.list_devices()
    assert [
        [str(d.index), d.uuid, d.name, d.pci_bus_id, str(d.memory_bytes // 2**20)]
        for d in found
    ] == said
    assert not any(d.is_simulated or d.is_lost for d in found)
    assert [d.is_split for d in found] == [
        row[0] == "Enabled" for row in smi("mig.mode.current")
    ]


async def test_a_sweep_reads_every_device(probe: NvmlProbe) -> None:
    """What every data-centre GPU tells is there, and it fits what nvidia-smi says."""
    devices = await probe.list_devices()
    first, second = (await probe.sweep()).samples, (await probe.sweep()).samples
    assert {device.uuid for device in devices} <= set(first)
    for device in devices:
        sample = first[device.uuid]
        assert not sample.is_lost
        assert sample.memory_used_bytes is not None
        assert 0 <= sample.memory_used_bytes <= device.memory_bytes
        assert sample.processes is not None
        assert sample.temperature_c is not None
        assert 0 < sample.temperature_c < 110
        if sample.energy_j is not None:
            assert (second[device.uuid].energy_j or 0) >= sample.energy_j
        if not device.is_split and sample.utilisation is not None:
            assert 0 <= sample.utilisation <= 1


async def test_what_idleness_is_judged_by_is_told(probe: NvmlProbe) -> None:
    """Energy against the power limit, and who used the SMs since the last reading."""
    limits = [float(row[0]) for row in smi("enforced.power.limit")]
    devices = await probe.list_devices()
    await probe.sweep()
    samples = (await probe.sweep()).samples
    for device, limit_w in zip(devices, limits, strict=True):
        sample = samples[device.uuid]
        assert sample.power_limit_w == pytest.approx(limit_w, abs=1)
        assert sample.energy_j is not None
        if not device.is_split:
            assert sample.sm is not None
            assert all(0 <= share <= 1 for share in sample.sm.values())


async def test_the_topology_names_every_pair(probe: NvmlProbe) -> None:
    """A single GPU has none; what is told is symmetric by construction."""
    devices = [d for d in await probe.list_devices() if not d.is_lost]
    topology = await probe.topology()
    pairs = combinations(sorted(device.uuid for device in devices), 2)
    assert set(topology.links) == set(pairs)
    assert all(0 <= link.n_nvlinks <= 36 for link in topology.links.values())
    assert set(topology.numa) <= {device.uuid for device in devices}


def test_the_driver_lets_events_be_registered() -> None:
    """XIDs, on every GPU that says it supports them."""
    reader = Reader(report=lambda _event: None)
    n_devices = len(reader.devices()["devices"])
    assert isinstance(reader._events, Events)
    assert len(reader._events._uuids) == n_devices


async def test_a_memory_limit_is_told_or_refused_but_never_assumed(
    probe: NvmlProbe, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A folder that is no cgroup cannot be limited, whatever the driver is."""
    device = (await probe.list_devices())[0]
    folder = str(tmp_path_factory.mktemp("no-cgroup"))
    assert (
        await probe.limit_memory(device.uuid, folder, device.memory_bytes // 2) is None
    )
