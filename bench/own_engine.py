"""An engine of a bench's own, as the tests have one.

Standard library only: what is not installed yet is installed here.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from testbed import run as testbed  # noqa: E402  the path comes first
from testbed.engine import Engine  # noqa: E402


def check_root() -> None:
    """Return only for root."""
    if os.geteuid() != 0:
        raise SystemExit("the bench starts an engine of its own, and that needs root.")


@contextlib.contextmanager
def own_engine() -> Iterator[tuple[Engine, dict[str, str]]]:
    """Start it, with simulated GPUs and the images of this checkout; needs root.

    Yields the engine, and the images by the variables that name them to the tests.
    Afterwards nothing of it is left, also when this process is asked to end.
    """
    check_root()
    for asked in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(asked, testbed.end)
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    with testbed.only_run():
        with testbed.step("packages of the system"):
            testbed.install_packages()
        with testbed.step("Python environment"):
            subprocess.run(["make", "-s", "setup"], cwd=ROOT, check=True)
        gpus = testbed.simulate_gpus()
        with contextlib.ExitStack() as stack:
            with testbed.step("engine of this run, with simulated GPUs"):
                engine = stack.enter_context(
                    Engine(testbed.CACHE / "engine", environment=gpus, say=testbed.say)
                )
            with testbed.step("images"):
                images = testbed.build_images(engine)
            yield engine, images
