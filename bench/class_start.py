#!/usr/bin/env python3
"""Let a class start its servers at once, on stock DockerSpawner and on ours.

For each class size a fresh hub of each kind starts N servers at the same moment, on an
engine of the run's own: stock, ours behind the gate as it is deployed, and ours without
the gate. Printed: how many came up, when (seconds from the click), and what it cost in
CPU seconds. Each run is appended to .cache/bench/class_start.jsonl. Needs root, as the
tests do; ends and removes everything that it made.

    python3 bench/class_start.py [--n 4,16,32,64] [--side stock|ours|ungated]
"""

import argparse
import contextlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "bench")]

from classroom import cpu  # noqa: E402  the path comes first
from own_engine import check_root, own_engine  # noqa: E402
from testbed import run as testbed  # noqa: E402
from testbed.engine import Engine, EngineError  # noqa: E402

SIZES = "4,16,32,64"
SIDES = ["stock", "ours", "ungated"]
MIB_EACH = 150  # what a stock server uses, and a margin
MIB_BESIDE = 1500  # the engine, the hub, the proxy, the students


def memory_mib() -> int:
    """Memory that is free for new processes."""
    rows = Path("/proc/meminfo").read_text().splitlines()
    found = dict(row.split(":", 1) for row in rows)
    return int(found["MemAvailable"].split()[0]) // 1024


def options() -> argparse.Namespace:
    """Read the command line, and refuse what cannot be."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n", maxsplit=1)[0]
    )
    parser.add_argument("--n", default=SIZES, help="class sizes, with commas between")
    parser.add_argument("--side", choices=SIDES, help="one side only")
    given = parser.parse_args()
    try:
        given.sizes = [int(word) for word in given.n.split(",")]
    except ValueError:
        parser.error("--n wants whole numbers with commas between, such as 4,16")
    if min(given.sizes) < 1:
        parser.error("a class has at least one student")
    needed = max(given.sizes) * MIB_EACH + MIB_BESIDE
    if memory_mib() < needed:
        raise SystemExit(
            f"{max(given.sizes)} servers need about {needed} MiB of memory and "
            f"{memory_mib()} MiB are free; end something or choose a smaller --n."
        )
    return given


def build_stock(engine: Engine) -> str:
    """Build the stock side's image in the run's engine; returns its tag."""
    built = subprocess.run(
        [str(testbed.PYTHON), str(ROOT / "bench" / "stock" / "build.py")],
        check=True,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=os.environ | {"DOCKER_HOST": engine.host},
    )
    return built.stdout.split()[-1]


def compare(engine: Engine, environment: dict[str, str], words: list[str]) -> int:
    """Run the comparison in the engine's network; returns its exit status."""
    command = [*engine.network.enter, str(testbed.PYTHON), "-m", "classroom", *words]
    path = f"{ROOT / 'bench'}:{ROOT / 'tests'}"
    child = subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"DOCKER_HOST": engine.host, "PYTHONPATH": path} | environment,
    )
    try:
        return child.wait()
    finally:
        if child.poll() is None:
            child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(60)
            child.kill()


def main() -> int:
    """Set up, compare, and leave nothing behind; returns the exit status."""
    given = options()
    check_root()
    with contextlib.ExitStack() as stack:
        stack.callback(cpu.leave_own_group, cpu.enter_own_group())
        engine, images = stack.enter_context(own_engine())
        with testbed.step("stock image"):
            stock = build_stock(engine)
        environment = {
            "TORCHROOM_TEST_GPU_DIR": str(testbed.GPUS),
            "TORCHROOM_BENCH_PROXY_IMAGE": images["TORCHROOM_TEST_PROXY_IMAGE"],
            "TORCHROOM_BENCH_STOCK_IMAGE": stock,
            "TORCHROOM_BENCH_OUR_IMAGE": images["TORCHROOM_TEST_IMAGE"],
        }
        words = [f"--n={given.n}", *([f"--side={given.side}"] if given.side else [])]
        return compare(engine, environment, words)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (EngineError, TimeoutError, subprocess.CalledProcessError, OSError) as error:
        sys.exit(f"the bench could not start: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
