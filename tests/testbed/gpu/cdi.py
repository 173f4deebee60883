"""Describes the simulated GPUs to engines that know CDI (dockerd 25 and later).

A device of the specification needs no node on the host: runc makes node and cgroup
rule from the numbers. An engine reads the folder again by itself when it changes.
"""

import json
import platform
from pathlib import Path
from typing import Any

from .state import Gpu, GpuState, Mig

KIND = "nvidia.com/gpu"
FILE = "torchroom-simulated-gpus.json"
GPU_MAJOR, CONTROL_MINOR, CAPS_MAJOR = 195, 255, 510  # as in nvml.c and the hook


def _node(path: str, major: int, minor: int) -> dict[str, Any]:
    return {
        "path": f"/dev/{path}",
        "type": "c",
        "major": major,
        "minor": minor,
        "fileMode": 0o666,
        "permissions": "rw",
    }


def _gpu_nodes(gpu: Gpu) -> list[dict[str, Any]]:
    return [_node(f"nvidia{gpu.minor}", GPU_MAJOR, gpu.minor)]


def _mig_nodes(gpu: Gpu, mig: Mig) -> list[dict[str, Any]]:
    cap = 3 + gpu.minor * 135 + mig.gi * 9
    caps = (cap, cap + 1 + mig.ci)
    return _gpu_nodes(gpu) + [
        _node(f"nvidia-caps/nvidia-cap{number}", CAPS_MAJOR, number) for number in caps
    ]


def specification(state: GpuState, directory: Path) -> dict[str, Any]:
    """Give the CDI document: every GPU by index and UUID, every MIG UUID, and all.

    As with NVIDIA's generator, a lost GPU is listed like any other.
    """
    named: dict[str, list[dict[str, Any]]] = {"all": []}
    for index, gpu in enumerate(state.gpus):
        named[str(index)] = named[gpu.uuid] = _gpu_nodes(gpu)
        named["all"] += _gpu_nodes(gpu)
        for mig in gpu.migs:
            nodes = _mig_nodes(gpu, mig)
            named[f"{index}:{mig.index}"] = named[mig.uuid] = nodes
            named["all"] += nodes[1:]
    mounts = {
        directory / "libnvidia-ml.so.1": f"/usr/lib/{platform.machine()}-linux-gnu"
        "/libnvidia-ml.so.1",
        directory: "/run/torchroom-gpus",
    }
    return {
        "cdiVersion": "0.5.0",
        "kind": KIND,
        "devices": [
            {"name": name, "containerEdits": {"deviceNodes": nodes}}
            for name, nodes in named.items()
        ],
        "containerEdits": {
            "env": ["NVIDIA_VISIBLE_DEVICES=void"],
            "deviceNodes": [_node("nvidiactl", GPU_MAJOR, CONTROL_MINOR)],
            "mounts": [
                {
                    "hostPath": str(source),
                    "containerPath": target,
                    "options": ["ro", "nosuid", "nodev", "rbind"],
                }
                for source, target in mounts.items()
            ],
        },
    }


def write(state: GpuState, directory: Path) -> Path:
    """Replace ``directory``/cdi's specification in one step and give its path."""
    directory = directory.resolve()
    path = directory / "cdi" / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")  # not .json: an engine must not read it
    fresh.write_text(json.dumps(specification(state, directory), indent=1))
    fresh.replace(path)
    return path
