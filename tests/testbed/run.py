"""Run the tests from a clean state: ``python3 tests/testbed/run.py [PYTEST...]``.

Installs what is missing (as root on Debian and Ubuntu), makes the Python environment,
starts an engine of the run's own with simulated GPUs, builds the images, and runs
pytest in that engine's network. What cannot run here is skipped by name;
``REQUIRE=docker,postgres,browser`` turns such skips into failures. Ends with pytest's
summary and its exit code.

    --fresh      forget the images and build caches of earlier runs first
    --no-engine  run without an engine (what needs one is skipped)
"""

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

HERE = Path(__file__).resolve()
ROOT = HERE.parents[2]
sys.path.insert(0, str(HERE.parents[1]))

from testbed.engine import Engine, EngineError  # noqa: E402  the path comes first

# A second run beside the first needs a cache of its own.
CACHE = Path(os.environ.get("TORCHROOM_TEST_CACHE", ROOT / ".cache"))
GPUS = CACHE / "engine" / "gpus"
PYTHON = ROOT / ".venv" / "bin" / "python"
SIMULATED_GPUS = 4
PACKAGES = {  # program -> Debian package that brings it
    "make": "make",
    "git": "git",
    "dockerd": "docker.io",
    "iptables": "iptables",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "debootstrap": "debootstrap",
    "chromium": "chromium",
    "gcc": "gcc",
    "ps": "procps",
    "pebble": "pebble",  # Let's Encrypt's server for tests
}
FILES = {  # file -> Debian package that brings it
    "/usr/include/stdlib.h": "libc6-dev",
    "/etc/ssl/certs/ca-certificates.crt": "ca-certificates",
    "/usr/lib/postgresql": "postgresql",
    "/usr/share/fonts/truetype/dejavu": "fonts-dejavu-core",
}


def say(text: str) -> None:
    """Print a line at once, also into a file or a pipe."""
    print(text, flush=True)


@contextlib.contextmanager
def step(name: str) -> Iterator[None]:
    """Show a step and how long it took."""
    say(f"==> {name}")
    began = time.monotonic()
    yield
    say(f"    {name}: {time.monotonic() - began:.1f} s")


def missing_packages() -> list[str]:
    """Debian packages that bring what is not on this machine."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    programs = {p for n, p in PACKAGES.items() if not shutil.which(n, path=path)}
    files = {package for file, package in FILES.items() if not Path(file).exists()}
    return sorted(programs | files)


def forbid_cluster() -> None:
    """Keep Debian's package from making and starting a server of its own."""
    told = Path("/etc/postgresql-common/createcluster.conf")
    if not told.exists():
        told.parent.mkdir(exist_ok=True)
        told.write_text("create_main_cluster = false\n")


def install_packages() -> None:
    """Install what is missing; elsewhere than on Debian or without root, say it."""
    missing = missing_packages()
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        say(f"    not installed (needs root and apt-get): {' '.join(missing)}")
        return
    if "postgresql" in missing:
        forbid_cluster()
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
    for command in (["apt-get", "update", "-qq"], install):
        subprocess.run(
            command,
            check=True,
            env=quiet,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )


def simulate_gpus() -> dict[str, str]:
    """Make the simulated GPUs; returns what dockerd's environment needs for them."""
    shutil.rmtree(GPUS, ignore_errors=True)
    GPUS.mkdir(parents=True)
    script = ROOT / "tests" / "testbed" / "gpu" / "simulate.py"
    command = [str(PYTHON), str(script), "--count", str(SIMULATED_GPUS)]
    command += ["--dir", str(GPUS)]
    made = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE)
    (GPUS / "simulation.json").write_text(made.stdout)
    return {
        "PATH": f"{GPUS / 'bin'}:{os.environ['PATH']}",
        "TORCHROOM_SIMULATED_NVML_DIR": str(GPUS),
    }


def build_images(engine: Engine) -> dict[str, str]:
    """Build the images in the run's engine, quick when nothing changed.

    Returns the variables that tell the tests their tags.
    """
    built = subprocess.run(
        [str(PYTHON), str(ROOT / "images" / "build.py"), "all"],
        check=True,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=os.environ | {"DOCKER_HOST": engine.host},
    )
    by_name = {tag.split(":")[0].split("/")[-1]: tag for tag in built.stdout.split()}
    return {
        "TORCHROOM_TEST_IMAGE": by_name["pytorch"],
        "TORCHROOM_TEST_PROXY_IMAGE": by_name["proxy"],
        "TORCHROOM_TEST_TLS_IMAGE": by_name["tls"],
    }


def pytest(
    arguments: list[str], *, engine: Engine | None, images: dict[str, str]
) -> int:
    """Run pytest, in the engine's network if there is one; returns its exit code."""
    environment = dict(os.environ)
    enter: list[str] = []
    if engine is not None:
        enter = engine.network.enter
        environment |= {
            "DOCKER_HOST": engine.host,
            "TORCHROOM_TEST_GPU_DIR": str(GPUS),
        } | images
    else:
        environment.pop("DOCKER_HOST", None)
    child = subprocess.Popen(
        [*enter, str(PYTHON), "-m", "pytest", *arguments], cwd=ROOT, env=environment
    )
    try:
        return child.wait()
    finally:
        if child.poll() is None:
            child.send_signal(signal.SIGINT)
            try:
                child.wait(30)
            except subprocess.TimeoutExpired:
                child.kill()


def only_run() -> IO[str]:
    """Hold the checkout's lock: two runs would share one engine's data."""
    CACHE.mkdir(parents=True, exist_ok=True)
    lock = (CACHE / "run.lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SystemExit("another test run of this checkout is under way") from None
    return lock


def end(signum: int, _frame: FrameType | None) -> NoReturn:
    """Leave through every ``finally`` when asked to end."""
    raise SystemExit(128 + signum)


def main(arguments: list[str]) -> int:
    """Do everything; returns pytest's exit code."""
    for asked in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(asked, end)
    fresh, no_engine = "--fresh" in arguments, "--no-engine" in arguments
    rest = [word for word in arguments if word not in {"--fresh", "--no-engine"}]
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    with only_run(), contextlib.ExitStack() as stack:
        with step("packages of the system"):
            install_packages()
        with step("Python environment"):
            subprocess.run(["make", "-s", "setup"], cwd=ROOT, check=True)
        with step("Node and its packages"):  # if not, the tests that need them say why
            install = [str(PYTHON), "-m", "testbed.node"]
            subprocess.run(install, cwd=HERE.parents[1], check=False)
        if no_engine or os.geteuid() != 0:
            why = "asked for" if no_engine else "starting one needs root"
            say(f"==> no engine ({why}): tests that need one are skipped")
            return pytest(rest, engine=None, images={})
        if fresh:
            with step("forget earlier runs"):
                shutil.rmtree(CACHE / "engine", ignore_errors=True)
        with step("engine of this run, with simulated GPUs"):
            engine = stack.enter_context(
                Engine(CACHE / "engine", environment=simulate_gpus(), say=say)
            )
        with step("images"):
            images = build_images(engine)
        return pytest(rest, engine=engine, images=images)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (EngineError, TimeoutError, subprocess.CalledProcessError) as error:
        sys.exit(f"the tests could not start: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
