"""What the probe says of a machine's driver, in every state a driver can be in."""

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from gpuspawner.nvml import NvmlProbe
from testbed.gpu import build, state

READER = """
import asyncio, json, sys
from gpuspawner.errors import ProbeFailed
from gpuspawner.nvml import NvmlProbe
probe = NvmlProbe(timeout_s=1)
rows = []
for line in sys.stdin:
    try:
        devices = asyncio.run(probe.list_devices())
        found = [[d.index, d.uuid, d.is_lost, d.is_simulated] for d in devices]
        rows.append({"devices": found, "absence": probe.absence})
    except ProbeFailed as error:
        rows.append({"failed": str(error)})
    print(json.dumps(rows[-1]), flush=True)
"""


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in NVML library, compiled."""
    return build.build(tmp_path_factory.mktemp("nvml"))


class Reader:
    """A process that reads the devices each time it is asked."""

    def __init__(self, env: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", READER],
            env={**os.environ, **env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def read(self) -> dict[str, Any]:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        return found

    def close(self) -> None:
        self.process.communicate(timeout=10)


def simulated(library: Path, file: Path) -> dict[str, str]:
    return {
        "LD_LIBRARY_PATH": str(library.parent),
        "TORCHROOM_SIMULATED_NVML_STATE": str(file),
        "TORCHROOM_SIMULATED_NVML_ALL": "1",
    }


def test_a_machine_without_a_driver_says_so() -> None:
    """No library: CPU servers only, in a sentence."""
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has a driver")
    reader = Reader({"LD_LIBRARY_PATH": ""})
    assert reader.read() == {
        "devices": [],
        "absence": "This machine has no NVIDIA driver, so there are CPU servers only.",
    }
    reader.close()


def test_a_driver_that_is_not_loaded_says_so(library: Path, tmp_path: Path) -> None:
    """The library is there, the kernel module is not."""
    reader = Reader(simulated(library, tmp_path / "absent"))
    assert "not loaded" in reader.read()["absence"]
    reader.close()


def test_a_lost_gpu_is_kept_as_lost_and_comes_back(
    library: Path, tmp_path: Path
) -> None:
    """It is never forgotten, never offered, and identity stays the UUID."""
    gpus = state.GpuState(tmp_path / "state", state.simple(2))
    gpus.write()
    first, uuid = gpus.uuids
    reader = Reader(simulated(library, tmp_path / "state"))
    assert [row[1:] for row in reader.read()["devices"]] == [
        [first, False, True],
        [uuid, False, True],
    ]
    gpus.lose(uuid)
    assert [row[2] for row in reader.read()["devices"]] == [False, True]
    gpus.restore(uuid)
    assert [row[2] for row in reader.read()["devices"]] == [False, False]
    reader.close()


def test_a_gpu_that_hangs_does_not_hang_the_hub(library: Path, tmp_path: Path) -> None:
    """The read fails after its deadline; the next one works again."""
    gpus = state.GpuState(tmp_path / "state", state.simple(2))
    gpus.write()
    reader = Reader(simulated(library, tmp_path / "state"))
    assert len(reader.read()["devices"]) == 2
    gpus.fault("nvmlDeviceGetMemoryInfo", gpus.uuids[0], delay_ms=3000)
    assert "did not answer within 1 seconds" in reader.read()["failed"]
    assert "did not answer" in reader.read()["failed"]  # and no second thread waits
    gpus.clear_faults()
    deadline = time.monotonic() + 20
    while "failed" in (found := reader.read()):
        assert time.monotonic() < deadline
    assert len(found["devices"]) == 2
    reader.close()


def test_a_driver_upgraded_under_the_hub_is_said_plainly(
    library: Path, tmp_path: Path
) -> None:
    """Library and kernel module disagree: nothing is leased, and it says what to do."""
    gpus = state.GpuState(tmp_path / "state", state.simple(1))
    gpus.driver(mismatch=True)
    gpus.write()
    reader = Reader(simulated(library, tmp_path / "state"))
    assert "restart the machine" in reader.read()["failed"]
    reader.close()


async def test_readers_at_the_same_time_share_one_reading() -> None:
    """A class that arrives at once is not told that the driver is stuck."""
    probe = NvmlProbe(timeout_s=10)
    found = await asyncio.gather(*(probe.list_devices() for _ in range(20)))
    assert len(set(found)) == 1
