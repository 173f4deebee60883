"""Sets up simulated GPUs for one machine: ``make up TORCHROOM_SIMULATED_GPUS=8``.

    python3 tests/testbed/gpu/simulate.py --count 8 --dir DIR

makes DIR with the library, ``state``, ``cdi/`` and ``bin/`` (the engine's hook), and
prints where they are as JSON. Processes of the host see the GPUs with the printed
environment; dockerd needs ``bin`` on its PATH when it starts.
"""

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
if __package__ in (None, ""):  # run as a file
    sys.path.insert(0, str(HERE.parents[1]))

from testbed.gpu import build, cdi  # noqa: E402
from testbed.gpu import state as states  # noqa: E402

HOOK = "nvidia-container-runtime-hook"
SETTINGS = "torchroom-simulated-gpus.json"


def prepare(
    directory: Path, gpus: list[states.Gpu], *, header_dir: Path | None = None
) -> dict[str, object]:
    """Build and write everything into ``directory`` and tell where it is.

    An earlier simulation there is replaced. Raises build.CannotBuildError.
    """
    directory = directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o755)  # containers read it as any user
    library = build.build(directory, header_dir)
    state = states.GpuState(directory / "state", gpus)
    state.write()
    hook = directory / "bin" / HOOK
    hook.parent.mkdir(exist_ok=True)
    shutil.copy(HERE / HOOK, hook)
    hook.chmod(0o755)
    hook.with_name(SETTINGS).write_text(json.dumps({"dir": str(directory)}))
    return {
        "dir": str(directory),
        "library": str(library),
        "state": str(state.path),
        "cdi": str(cdi.write(state, directory)),
        "hook": str(hook),
        "uuids": state.uuids,
        "mig_uuids": state.mig_uuids,
        "environment": {
            "LD_LIBRARY_PATH": str(directory),
            "TORCHROOM_SIMULATED_NVML_STATE": str(state.path),
            "TORCHROOM_SIMULATED_NVML_ALL": "1",
        },
    }


def choose(count: int, preset: str | None) -> list[states.Gpu]:
    """Give a preset's GPUs: the named one, or one that fits the count."""
    if preset:
        return states.PRESETS[preset]()
    gpus = states.hgx_a100() if count == len(states.hgx_a100()) else None
    gpus = gpus or states.simple(count)
    for gpu in gpus:  # let the energy counters run
        gpu.since = time.time_ns() // 1000
    return gpus


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Set up simulated GPUs.")
    parser.add_argument("--count", type=int, default=8, help="how many (1 to 32)")
    parser.add_argument("--preset", choices=sorted(states.PRESETS), help="a machine")
    parser.add_argument("--dir", type=Path, required=True, help="made if absent")
    parser.add_argument("--header-dir", type=Path, help="folder of nvml.h")
    arguments = parser.parse_args()
    try:
        made = prepare(
            arguments.dir,
            choose(arguments.count, arguments.preset),
            header_dir=arguments.header_dir,
        )
    except (build.CannotBuildError, ValueError) as error:
        print(f"simulated GPUs: {error}", file=sys.stderr)
        return 1
    print(json.dumps(made, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
