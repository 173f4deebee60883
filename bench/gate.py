"""What the gate in front of the engine costs: python bench/gate.py IMAGE.

The same requests to the engine of DOCKER_HOST, with and without the gate. The image
must have ``sleep``. It makes containers, a network and a volume named gate-bench-*,
and removes them.
"""

import io
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import docker
from gpuspawner import container

HUB = "gate-bench"
NETWORK = "gate-bench-servers"
NEUTRAL = [f"{key}={value}" for key, value in container.NEUTRAL.items()]
N = 200
N_THREADS = 32
TAR_BYTES = 256 * 2**20
UPLOADS = 3


@contextmanager
def gate(engine: str, folder: Path) -> Iterator[tuple[str, int]]:
    """A gate before an engine: its socket and its process."""
    path = folder / "gate.sock"
    environment = os.environ | {
        "TORCHROOM_HUB_ID": HUB,
        "TORCHROOM_NETWORK": NETWORK,
        "TORCHROOM_GATE_ENGINE": engine,
        "TORCHROOM_GATE_SOCKET": str(path),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "torchroom.gate"],
        env=environment,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 20
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError("the gate does not come up")
        time.sleep(0.05)
    try:
        yield str(path), process.pid
    finally:
        process.terminate()
        process.wait(10)


def memory_mib(pid: int, field: str) -> float:
    """A process's memory as the kernel counts it."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+)", text)[1]) / 1024


def body(image: str, name: str) -> dict[str, Any]:
    """A server as the plugin asks for one."""
    keys = ("user", "server", "lease", "devices", "slots", "indices")
    labels = {f"gpuspawner.{key}": "" for key in keys}
    return {
        "Image": image,
        "Cmd": ["sleep", "600"],
        "Env": ["NVIDIA_VISIBLE_DEVICES=void", *NEUTRAL],
        "Labels": labels | {"gpuspawner.hub": HUB, "gpuspawner.container": name},
        "HostConfig": {
            "Memory": 2**28,
            "MemorySwap": 2**28,
            "PidsLimit": 64,
            "NanoCpus": 10**9,
            "NetworkMode": NETWORK,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "RestartPolicy": {"Name": "no"},
            "Init": True,
            "Binds": [f"{HUB}-home-x:/home"],
        },
    }


def milliseconds(work: Callable[[], object], times: int) -> float:
    """The median of so many."""
    took = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return median(took) * 1000


def at_once(socket: str, ref: str) -> float:
    """Inspections per second by as many threads as the hub has."""
    local = threading.local()

    def look(_: int) -> None:
        if not hasattr(local, "client"):
            local.client = docker.APIClient(f"unix://{socket}", version="1.41")
        local.client.inspect_container(ref)

    began = time.perf_counter()
    with ThreadPoolExecutor(N_THREADS) as pool:
        list(pool.map(look, range(N * 5)))
    return N * 5 / (time.perf_counter() - began)


def measure(socket: str, image: str) -> dict[str, float]:
    """Everything, over one socket."""
    client = docker.APIClient(f"unix://{socket}", version="1.41", timeout=120)
    name = f"{HUB}-one"
    client.create_volume(f"{HUB}-home-x", labels={"gpuspawner.hub": HUB})
    found: dict[str, float] = {}
    made = client.create_container_from_config(body(image, name), name)["Id"]
    try:
        client.start(made)
        found["inspect by id, ms"] = milliseconds(
            lambda: client.inspect_container(made), N
        )
        found["inspect by name, ms"] = milliseconds(
            lambda: client.inspect_container(name), N
        )
        found["info, ms"] = milliseconds(client.info, N)
        found["list of all containers, ms"] = milliseconds(
            lambda: client.containers(all=True), N // 2
        )
        found["read a small file, ms"] = milliseconds(
            lambda: b"".join(client.get_archive(made, "/etc/hostname")[0]), N // 4
        )

        def run() -> None:
            command = client.exec_create(made, ["true"])["Id"]
            client.exec_start(command, detach=True)
            client.exec_inspect(command)

        found["start a command, ms"] = milliseconds(run, N // 10)
        found[f"inspections a second, {N_THREADS} threads"] = at_once(socket, made)
        packed = tar(TAR_BYTES)
        took = milliseconds(lambda: client.put_archive(made, "/tmp", packed), UPLOADS)  # noqa: S108
        found["upload, MiB a second"] = TAR_BYTES / 2**20 / (took / 1000)

        def cycle() -> None:
            other = f"{HUB}-two"
            second = client.create_container_from_config(body(image, other), other)
            client.start(second["Id"])
            client.stop(second["Id"], timeout=0)
            client.remove_container(second["Id"], v=True, force=True)

        found["create, start, stop, remove, ms"] = milliseconds(cycle, 10)
    finally:
        client.remove_container(made, force=True, v=True)
        client.remove_volume(f"{HUB}-home-x")
    return found


def tar(size: int) -> bytes:
    """An archive with one file."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        row = tarfile.TarInfo("large")
        row.size = size
        archive.addfile(row, io.BytesIO(bytes(size)))
    return packed.getvalue()


def main() -> None:
    """Measure and print both."""
    image = sys.argv[1]
    engine = os.environ["DOCKER_HOST"].removeprefix("unix://")
    client = docker.DockerClient(f"unix://{engine}")
    network = client.networks.create(NETWORK)
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            gate(engine, Path(folder)) as (socket, pid),
        ):
            before = memory_mib(pid, "VmRSS")
            direct = measure(engine, image)
            through = measure(socket, image)
            print(f"{'':42} {'engine':>9} {'gate':>9}")
            for key, value in direct.items():
                print(f"{key:42} {value:9.1f} {through[key]:9.1f}")
            most = memory_mib(pid, "VmHWM")
            print(f"gate's memory: {before:.0f} MiB at rest, {most:.0f} at most")
    finally:
        network.remove()


if __name__ == "__main__":
    main()
