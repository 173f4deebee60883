"""On a machine with a real GPU: the plugin reads what the driver says."""

import asyncio
import subprocess

import pytest
from gpuspawner.nvml import NvmlProbe

pytestmark = pytest.mark.gpu


def test_every_device_is_read_as_nvidia_smi_lists_it() -> None:
    """UUID, name, index and memory, by the unmodified NVML library."""
    query = "index,uuid,name,memory.total"
    listing = subprocess.run(
        ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    said = [tuple(row.split(", ")) for row in listing.splitlines()]
    found = asyncio.run(NvmlProbe().list_devices())
    assert [
        (str(d.index), d.uuid, d.name, str(d.memory_bytes // 2**20)) for d in found
    ] == said
    assert not any(d.is_simulated or d.is_lost for d in found)
