"""A lease written as a container: exactly its devices, its limits, nothing else."""

import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from docker.types import HostConfig
from gpuspawner import container as c
from gpuspawner.exits import describe, human_bytes
from gpuspawner.form import Row, render
from gpuspawner.model import (
    Container,
    Device,
    Instance,
    Lease,
    Owner,
    Slot,
    SlotKind,
    whole,
)
from gpuspawner.offers import from_machine, limits

GIB = 2**30
GPU = Device(3, "GPU-3", "A100", 40 * GIB, 7)
LEASE = Lease("ls_1", Owner("ann", "big"), (whole(GPU),))
CPU = Lease("ls_2", Owner("bob", ""), ())
LIMITS = limits(8 * GIB, 2.5)


def test_a_server_without_a_lease_sees_no_gpu_whatever_its_image_says() -> None:
    """Every variable NVIDIA's runtime reads is set, so the image's own never counts."""
    env = c.environment(CPU, LIMITS, "nvidia")
    assert env["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert env["CUDA_VISIBLE_DEVICES"] == ""
    assert env["NVIDIA_IMEX_CHANNELS"] == ""
    assert c.device_requests((), "nvidia") is None


def test_search_paths_go_in_front_of_what_the_image_has() -> None:
    """Nothing of it is lost, and other variables are not touched."""
    folders = {"JUPYTER_PATH": "/opt/site/share", "JUPYTER_CONFIG_PATH": "/opt/site"}
    brought = {"JUPYTER_PATH": "/opt/theirs:/more", "PYTHONPATH": "/opt/code"}
    assert c.search_paths(brought, folders) == {
        "JUPYTER_PATH": "/opt/site/share:/opt/theirs:/more",
        "JUPYTER_CONFIG_PATH": "/opt/site",
    }
    assert c.search_paths(brought, {}) == {}


def test_a_lease_asks_for_exactly_its_uuids_never_a_count() -> None:
    """By the hook or by CDI."""
    (by_hook,) = c.device_requests(("GPU-3",), "nvidia") or [{}]
    assert by_hook["DeviceIDs"] == ["GPU-3"]
    assert "Count" not in by_hook
    assert c.environment(LEASE, LIMITS, "nvidia")["NVIDIA_VISIBLE_DEVICES"] == "GPU-3"
    (by_cdi,) = c.device_requests(("GPU-3",), "cdi") or [{}]
    assert by_cdi == {"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=GPU-3"]}
    assert c.environment(LEASE, LIMITS, "cdi")["NVIDIA_VISIBLE_DEVICES"] == "void"


def test_the_engine_gets_every_limit() -> None:
    """docker-py accepts them, and swap adds nothing to memory."""
    made = HostConfig(version="1.41", **c.host_config(LEASE, LIMITS, "nvidia", []))
    assert made["Memory"] == made["MemorySwap"] == 8 * GIB
    assert made["ShmSize"] == 4 * GIB
    assert made["NanoCpus"] == 2_500_000_000
    assert made["PidsLimit"] == 4096
    assert made["CapDrop"] == ["ALL"]
    assert made["SecurityOpt"] == ["no-new-privileges"]
    assert made["Init"] is True
    assert not made.get("AutoRemove")  # the exit state must survive
    assert made["DeviceRequests"][0]["Count"] == 0


def test_labels_describe_the_lease_completely() -> None:
    """A new hub reads owner and devices back from them."""
    labels = c.labels("here", LEASE, "name")
    found = Container("id", "name", "running", labels)
    assert c.is_ours("here", found)
    assert not c.is_ours("there", found)
    assert c.owner_of(found) == LEASE.owner
    assert c.slots_of(found) == LEASE.uuids
    assert labels[c.INDICES] == "3"


def test_site_configuration_cannot_overrule_the_lease() -> None:
    """It is refused by name instead of winning silently."""
    with pytest.raises(c.ConfigurationError, match="device_requests, runtime"):
        c.check_extra_host_config({"runtime": "nvidia", "device_requests": []})
    c.check_extra_host_config({"dns": ["127.0.0.1"]})


def test_the_device_check_is_exact(tmp_path: Path) -> None:
    """It passes for the leased node alone: not for none, not for one more."""

    def status(*nodes: str) -> int:
        dev = tmp_path / str(len(list(tmp_path.iterdir())))
        dev.mkdir()
        for node in nodes:
            (dev / node).touch()
        script = c.check_devices(LEASE)[2].replace("/dev/", f"{dev}/")
        return subprocess.run(["sh", "-c", script], check=False).returncode

    assert status("nvidia7", "nvidiactl", "nvidia-uvm") == 0
    assert status() != 0
    assert status("nvidia6") != 0
    assert status("nvidia6", "nvidia7") != 0


@pytest.mark.parametrize(
    ("status", "code", "is_oom", "reason"),
    [
        ("exited", 137, True, "out_of_memory"),
        ("exited", 137, False, "killed"),
        ("exited", 0, False, "stopped"),
        ("exited", 143, False, "stopped"),
        ("exited", 1, False, "crashed"),
        ("created", 0, False, "not_started"),
    ],
)
def test_every_end_has_a_reason_in_plain_words(
    status: str, code: int, is_oom: bool, reason: str
) -> None:
    """The user reads why, and what to do."""
    found = Container("i", "n", status, exit_code=code, is_oom_killed=is_oom)
    ended = describe(found, 2 * GIB)
    assert ended.reason == reason
    assert ended.sentence.endswith(".")
    if is_oom:
        assert "out of memory (limit 2 GiB)" in ended.sentence


@pytest.mark.parametrize("ran", [False, True])
def test_a_server_that_ran_is_not_taken_for_one_that_did_not_start(ran: bool) -> None:
    """An engine may keep an error of one that ran for hours: it is charged."""
    at = datetime(2026, 3, 2, tzinfo=UTC) if ran else None
    found = Container("i", "n", "exited", exit_code=1, error="no device", started_at=at)
    ended = describe(found, 2 * GIB)
    assert ended.reason == ("crashed" if ran else "not_started")
    assert ended.never_came_up is not ran


def test_sizes_are_readable() -> None:
    """Three digits and a unit."""
    assert human_bytes(2 * GIB) == "2 GiB"
    assert human_bytes(1536 * 2**20) == "1.5 GiB"
    assert human_bytes(5) == "5 B"


def test_the_form_chooses_what_can_start_now_and_escapes_everything() -> None:
    """With no GPU free the CPU server is chosen beforehand."""
    cpu, gpu = from_machine([whole(GPU)], 16 * GIB, 4)
    rows = [Row(gpu, "0 of 1 free <now>", is_free=False), Row(cpu)]
    page = render(rows, notices={"<b>hello": "warning"})
    assert 'value="cpu" checked' in page
    assert 'value="1-gpu" >' in page
    assert "0 of 1 free &lt;now&gt;" in page
    never = [Row(gpu, "all broken", is_possible=False)]
    assert 'value="1-gpu" disabled' in render(never, notices={})
    assert "&lt;b&gt;hello" in page


def test_a_mig_instance_is_held_under_its_device_and_comes_with_its_own_nodes() -> None:
    """The label names both; one instance more in the container is found."""
    part = Instance("MIG-1", "1g.10gb", 10 * GIB, 1)
    split = replace(GPU, is_split=True, instances=(part,))
    slot = Slot(split, part.uuid, SlotKind.MIG, part.memory_bytes, part.profile)
    lease = Lease("ls_3", Owner("ann", ""), (slot,))
    assert c.labels("here", lease, "name")[c.SLOTS] == "GPU-3/MIG-1"
    assert c.labels("here", lease, "name")[c.DEVICES] == "MIG-1"
    script = c.check_devices(lease)[-1]
    assert '[ "$#" = "2" ]' in script
    assert "nvidia-caps" not in c.check_devices(LEASE)[-1]
