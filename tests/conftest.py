"""What every test may use, and what happens to those that cannot run here.

A test marked ``docker``, ``postgres``, ``browser`` or ``gpu`` that cannot run is
skipped with the reason, and the end of the run counts these. With
``REQUIRE=docker,postgres`` such skips are failures: a run that must not skip cannot
look green by skipping.
"""

import functools
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import DockerException
from hypothesis import HealthCheck, settings
from playwright.sync_api import Browser, Page
from testbed.browser import CHROMIUM, chromium, fresh_page
from testbed.engine_proxy import EngineProxy
from testbed.hub import Deployment, User, crowd
from testbed.hub_process import HubProcess, MakeHub, hub_process
from testbed.postgres import Postgres, why_no_postgres

ROOT = Path(__file__).resolve().parents[1]
LOGS = Path(os.environ.get("TORCHROOM_TEST_CACHE", ROOT / ".cache")) / "logs"
REQUIRED = {word.strip() for word in os.environ.get("REQUIRE", "").split(",")} - {""}
skipped: pytest.StashKey[Counter[str]] = pytest.StashKey()

# No property is about how fast this machine is today.
settings.register_profile(
    "torchroom", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("torchroom")


# ------------------------------------------------------- what this machine can run


def why_no_docker() -> str:
    """Why the run has no engine of its own; empty if it has one."""
    if "DOCKER_HOST" not in os.environ:
        return "no Docker engine for the tests (make test starts one, as root)"
    try:
        client = docker.DockerClient(base_url=os.environ["DOCKER_HOST"], timeout=10)
        client.ping()
    except DockerException as error:
        return f"the Docker engine does not answer: {error}"
    return ""


def why_no_browser() -> str:
    """Why no browser can be driven; empty if one can."""
    return "" if Path(CHROMIUM).exists() else f"no Chromium at {CHROMIUM}"


def why_no_gpu() -> str:
    """Why no real GPU can be used; empty if one can."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return "no real NVIDIA GPU (no nvidia-smi)"
    listing = subprocess.run([program, "-L"], check=False, capture_output=True)
    return "" if listing.returncode == 0 else "no real NVIDIA GPU (nvidia-smi fails)"


MARKS = {
    "docker": why_no_docker,
    "postgres": why_no_postgres,
    "browser": why_no_browser,
    "gpu": why_no_gpu,
}


@functools.cache
def why_not(mark: str) -> str:
    """Why tests with this mark cannot run here; empty if they can."""
    return MARKS[mark]()


def pytest_configure(config: pytest.Config) -> None:
    """Count what is skipped, from zero."""
    config.stash[skipped] = Counter()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, or fail if REQUIRE says so, what cannot run here."""
    for mark in MARKS:
        if item.get_closest_marker(mark) is None or not (reason := why_not(mark)):
            continue
        if mark in REQUIRED:
            pytest.fail(f"REQUIRE={mark}, but {reason}", pytrace=False)
        item.config.stash[skipped][f"{mark}: {reason}"] += 1
        pytest.skip(reason)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say how many tests could not run here and why."""
    for reason, count in sorted(config.stash[skipped].items()):
        terminalreporter.write_line(f"could not run here: {count} x {reason}")


# ------------------------------------------------------------------- the test bed


@pytest.fixture(scope="session")
def engine_socket() -> Path:
    """The socket of the run's own engine."""
    return Path(os.environ["DOCKER_HOST"].removeprefix("unix://"))


@pytest.fixture(scope="session")
def engine() -> docker.DockerClient:
    """A client of the run's own engine; it does not go through the fault proxy."""
    return docker.DockerClient(base_url=os.environ["DOCKER_HOST"], timeout=60)


@pytest.fixture(scope="session")
def user_image() -> str:
    """The tag of the image that user servers run."""
    return os.environ["TORCHROOM_TEST_IMAGE"]


@pytest.fixture(scope="session")
def gpu_dir() -> Path:
    """The folder of the simulated GPUs: their state file and library."""
    return Path(os.environ["TORCHROOM_TEST_GPU_DIR"])


@pytest.fixture(scope="session")
def deployment(
    engine: docker.DockerClient,
    engine_socket: Path,
    gpu_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Deployment]:
    """One Torchroom for all tests: ``make up``, its engine behind the fault proxy."""
    with EngineProxy(engine_socket, engine_socket.parent / "hub.sock") as proxy:
        deployment = Deployment(
            root=ROOT,
            engine=engine,
            proxy=proxy,
            gpu_dir=gpu_dir,
            state_dir=tmp_path_factory.mktemp("state"),
            port=8000,
            project="torchroom-test",
        )
        deployment.up()
        yield deployment
        LOGS.mkdir(parents=True, exist_ok=True)
        (LOGS / "hub.log").write_text(deployment.hub_log())


@pytest.fixture
def people(deployment: Deployment) -> Iterator[Callable[[str], User]]:
    """Makes users for one test; see `testbed.hub.crowd`."""
    with crowd(deployment) as make:
        yield make


@pytest.fixture(scope="session")
def make_hub(
    engine: docker.DockerClient,
    engine_socket: Path,
    gpu_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> MakeHub:
    """Makes hubs with GPUs of their own; see `testbed.hub_process.hub_process`."""

    def make(name: str, **how: Any) -> AbstractContextManager[HubProcess]:
        folder = tmp_path_factory.mktemp(name)
        return hub_process(engine, engine_socket, gpu_dir, folder, name=name, **how)

    return make


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The run's own PostgreSQL server."""
    with Postgres() as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium; while it runs its thread cannot run another event loop."""
    with chromium() as started:
        yield started


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of a fresh profile."""
    with fresh_page(browser) as opened:
        yield opened
