"""What the gate in front of the engine costs: bench/gate.py.

The same requests to an engine, with and without the gate, in turns; printed are the
medians. Without IMAGE on an engine of the run's own, as bench/class_start.py has it
(needs root); with it on the engine of DOCKER_HOST: the image must have ``sleep``. It
makes containers, a network and a volume named gate-bench-*, and removes them. Takes
about two minutes; each run is appended to .cache/bench/gate.jsonl.

    .venv/bin/python bench/gate.py [IMAGE]
"""

import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import docker
from classroom.gates import gate
from gpuspawner import container
from own_engine import own_engine
from testbed.engine import EngineError

RESULTS = Path(__file__).resolve().parent.parent / ".cache" / "bench"
HUB = "gate-bench"
NETWORK = "gate-bench-servers"
NEUTRAL = [f"{key}={value}" for key, value in container.NEUTRAL.items()]
N_TURNS = 3
N = 200
N_THREADS = 32
TAR_BYTES = 256 * 2**20
UPLOADS = 3


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


def at_once(host: str, ref: str) -> float:
    """Inspections per second by as many threads as the hub has."""
    local = threading.local()

    def look(_: int) -> None:
        if not hasattr(local, "client"):
            local.client = docker.APIClient(host, version="1.41")
        local.client.inspect_container(ref)

    began = time.perf_counter()
    with ThreadPoolExecutor(N_THREADS) as pool:
        list(pool.map(look, range(N * 5)))
    return N * 5 / (time.perf_counter() - began)


def measure(host: str, image: str) -> dict[str, float]:
    """Everything, at one address."""
    client = docker.APIClient(host, version="1.41", timeout=120)
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
        found[f"inspections a second, {N_THREADS} threads"] = at_once(host, made)
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


def compare(engine: str, image: str) -> None:
    """Measure both in turns, print and keep the medians."""
    client = docker.DockerClient(engine)
    network = client.networks.create(NETWORK)
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            gate(
                engine.removeprefix("unix://"),
                Path(folder),
                hub_id=HUB,
                network=NETWORK,
            ) as before,
        ):
            rest = memory_mib(before.pid, "VmRSS")
            turns = [
                (measure(engine, image), measure(before.host, image))
                for _ in range(N_TURNS)
            ]
            most = memory_mib(before.pid, "VmHWM")
    finally:
        network.remove()
    found = {
        what: [round(median(turn[side][what] for turn in turns), 2) for side in (0, 1)]
        for what in turns[0][0]
    }
    print(f"{'':42} {'engine':>9} {'gate':>9}")
    for what, (direct, through) in found.items():
        print(f"{what:42} {direct:9.1f} {through:9.1f}")
    print(f"gate's memory: {rest:.0f} MiB at rest, {most:.0f} at most")
    RESULTS.mkdir(parents=True, exist_ok=True)
    line = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "engine, gate": found,
        "memory_mib": [round(rest, 1), round(most, 1)],
    }
    with (RESULTS / "gate.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def main() -> None:
    """Measure on the engine that is given, or on one of the run's own."""
    if len(sys.argv) > 1:
        compare(os.environ["DOCKER_HOST"], sys.argv[1])
        return
    with own_engine() as (engine, images):
        compare(engine.host, images["TORCHROOM_TEST_IMAGE"])


if __name__ == "__main__":
    try:
        main()
    except (EngineError, TimeoutError, subprocess.CalledProcessError, OSError) as error:
        sys.exit(f"the bench failed: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
