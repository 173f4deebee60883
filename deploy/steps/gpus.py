"""GPUs: how the hub gets to see them, real ones or, when asked for, simulated ones."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from toolbox import machine, tools
from toolbox.client import docker_json, try_docker
from toolbox.command import run
from toolbox.console import Failure, say
from toolbox.places import ROOT, state_dir

from steps import engine
from steps.settings import Settings

HOOK = "nvidia-container-runtime-hook"
SPEC = "torchroom-simulated-gpus.json"
_IN_HUB = "/run/torchroom-gpus"
_DRIVER = Path("/proc/driver/nvidia/version")
_HEADERS = "nvidia/cu13/include/nvml.h"


def are_real(settings: Settings) -> bool:
    """Whether the engine gives NVIDIA's GPUs to containers, and none are simulated."""
    return not settings.simulated and _has_runtime(docker_json("info"))


def variables(settings: Settings) -> tuple[dict[str, str], str]:
    """The variables for compose, and a sentence on what was found."""
    info: dict[str, Any] = docker_json("info")
    if settings.simulated:
        return _simulated(settings.simulated, info)
    if _has_runtime(info):
        return {"TORCHROOM_HUB_RUNTIME": "nvidia"}, "the engine has NVIDIA's runtime"
    if _DRIVER.exists():
        say(
            "    there is an NVIDIA driver, but the engine has no `nvidia` runtime:"
            " install nvidia-container-toolkit, run `nvidia-ctk runtime configure"
            " --runtime=docker`, restart the engine, and run `make up` again"
        )
    return {}, "no NVIDIA runtime: servers run on the CPU"


def _has_runtime(info: dict[str, Any]) -> bool:
    return "nvidia" in (info.get("Runtimes") or {})


def _simulated(count: int, info: dict[str, Any]) -> tuple[dict[str, str], str]:
    given = os.environ.get("TORCHROOM_SIMULATION_DIR")
    folder = Path(given).absolute() if given else state_dir() / "simulation"
    if not given and _made(folder) != count:
        _make(folder, count)
    values = {
        "TORCHROOM_SIMULATION_DIR": str(folder),
        "TORCHROOM_HUB_LIBRARY_PATH": _IN_HUB,
        "TORCHROOM_HUB_RUNTIME": "runc",
    }
    way = _offer(folder, info)
    if way == "cdi":
        values["TORCHROOM_GPU_DRIVER"] = "cdi"
    return values, f"{count} simulated"


def _offer(folder: Path, info: dict[str, Any]) -> str:
    """Let the engine give simulated GPUs to containers; return the way it has."""
    if engine.finds(HOOK):
        return "hook"
    if engine.ours():
        say("    restarting the engine, so that it finds the simulated GPUs' hook")
        engine.restart(str(folder / "bin"))
        return "hook"
    if folders := info.get("CDISpecDirs"):
        Path(folders[0]).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(_spec(folder), Path(folders[0]) / SPEC)
        say(f"    described the simulated GPUs to the engine in {folders[0]}/{SPEC}")
        return "cdi"
    say(
        "    this engine cannot give simulated GPUs to containers yet: restart dockerd"
        f" with {folder / 'bin'} on its PATH; until then only CPU servers start"
    )
    return "none"


def forget() -> None:
    """Delete the simulated GPUs, and take their description back from the engine."""
    for folder in docker_json("info").get("CDISpecDirs") or []:
        (Path(folder) / SPEC).unlink(missing_ok=True)
    shutil.rmtree(state_dir() / "simulation", ignore_errors=True)


def _make(folder: Path, count: int) -> None:
    for program, package in (("gcc", "gcc"), ("/usr/include/stdio.h", "libc6-dev")):
        if not shutil.which(program) and not Path(program).is_file():
            machine.install(package)
    venv = tools.tool("nvidia-nvml-dev")
    header = next(venv.glob(f"lib/python3*/site-packages/{_HEADERS}"), None)
    if header is None:
        raise Failure(
            "nvml.h is not in the package nvidia-nvml-dev",
            f"delete {venv} and run `make up` again.",
        )
    made = run(
        [
            sys.executable,
            str(ROOT / "tests" / "testbed" / "gpu" / "simulate.py"),
            *("--count", str(count), "--dir", str(folder)),
            *("--header-dir", str(header.parent)),
        ],
        timeout=120,
    )
    (folder / "made.json").write_text(made, encoding="utf-8")


def _made(folder: Path) -> int:
    """How many simulated GPUs there are; 0 when they must be made (again)."""
    try:
        made = json.loads((folder / "made.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0
    whole = all(Path(made[name]).exists() for name in ("library", "state", "hook"))
    return len(made["uuids"]) if whole else 0


def _spec(folder: Path) -> Path:
    """The description that the simulation has written for engines with CDI."""
    for path in sorted((folder / "cdi").glob("*.json")):
        return path
    raise Failure(
        f"the simulation in {folder} has no CDI description",
        f"delete {folder} and run `make up` again.",
    )


def found(hub: str, *, simulated: bool) -> list[str]:
    """What the hub itself sees, in sentences."""
    result = try_docker("exec", hub, "python", "-m", "gpuspawner.nvml", "--json")
    try:
        seen = json.loads(result.out)
    except ValueError:
        return [f"unknown: the hub did not say ({result.last_words})"]
    devices = seen.get("devices") or []
    if not devices:
        reason = seen.get("reason") or "NVML lists no device"
        return [f"none, servers run on the CPU. {reason}"]
    word = "simulated, they compute nothing" if simulated else "NVIDIA"
    lines = [f"{len(devices)} ({word})"]
    for device in devices:
        size = device.get("memory_bytes", 0) / 2**30
        lines.append(
            f"{device['index']}: {device['name']}, {size:.0f} GiB, {device['uuid']}"
        )
    return lines
