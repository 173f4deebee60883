"""Seeding on real volumes: what JupyterLab saved, what is in the way, no room."""

import io
import json
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import docker
import pytest
from gpuspawner import homes, seeding
from gpuspawner.engine import DockerEngine
from gpuspawner.errors import GPUSpawnerError

pytestmark = pytest.mark.docker

HOME = "/home/jovyan"
STUDENT = seeding.Owner(1000, 1000)
NAME = "torchroom-seeding-test"
ROOM = 2**20  # bytes, of the small disk


@pytest.fixture
def real(engine_socket: Path) -> DockerEngine:
    """The adapter that homes are seeded through."""
    return DockerEngine(
        lambda: docker.APIClient(base_url=f"unix://{engine_socket}", timeout=60)
    )


async def made(engine: DockerEngine, image: str, **volume: object) -> None:
    """Create the volume and a container that has it as its home."""
    await engine.remove(NAME)
    await engine.call("create_volume", NAME, **volume)
    host = engine.client.create_host_config(
        binds={NAME: {"bind": HOME, "mode": "rw"}}, init=True, network_mode="none"
    )
    await engine.call(
        "create_container",
        image,
        name=NAME,
        command=["sleep", "600"],
        volumes=[HOME],
        host_config=host,
    )


async def gone(engine: DockerEngine) -> None:
    await engine.remove(NAME)
    await engine.call("remove_volume", NAME)


@pytest.fixture
async def home(real: DockerEngine, user_image: str) -> AsyncIterator[str]:
    """A created container with an empty home."""
    await made(real, user_image)
    yield NAME
    await gone(real)


@pytest.fixture
async def small(real: DockerEngine, user_image: str) -> AsyncIterator[str]:
    """A running one whose home has hardly any room."""
    options = {"type": "tmpfs", "device": "tmpfs", "o": f"size={ROOM}"}
    await made(real, user_image, driver="local", driver_opts=options)
    await real.call("start", NAME)
    yield NAME
    await gone(real)


def notebook(*texts: str, n_runs: int = 0) -> bytes:
    """A notebook with these cells, as it is after so many runs."""
    cells: list[dict[str, object]] = [
        {
            "cell_type": "code",
            "execution_count": n_runs or None,
            "metadata": {"execution": {}} if n_runs else {},
            "outputs": [{"output_type": "stream", "text": "run"}] * n_runs,
            "source": text,
        }
        for text in texts
    ]
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4}).encode()


async def test_a_notebook_that_was_only_run_is_renewed_and_an_edited_one_kept(
    real: DockerEngine, home: str
) -> None:
    """On a real volume, over two versions."""
    v1 = {"run.ipynb": notebook("1"), "examples/mine.ipynb": notebook("1")}
    v2 = {name: notebook("2") for name in v1}
    await homes.seed(real, home, HOME, v1, STUDENT)
    lab = {
        "run.ipynb": notebook("1", n_runs=3),
        "examples/mine.ipynb": notebook("1", "mine", n_runs=3),
    }
    await real.put(home, HOME, seeding.archive(lab, STUDENT, 1e9))
    assert (await homes.seed(real, home, HOME, v1, STUDENT)).writes == {}
    await homes.seed(real, home, HOME, v2, STUDENT)
    there = {
        name: await real.read_file(home, f"{HOME}/{name}", 10_000)
        for name in (
            *v1,
            "examples/mine (new version).ipynb",
            "run (new version).ipynb",
        )
    }
    assert there == {
        "run.ipynb": v2["run.ipynb"],
        "examples/mine.ipynb": lab["examples/mine.ipynb"],
        "examples/mine (new version).ipynb": v2["examples/mine.ipynb"],
        "run (new version).ipynb": None,
    }


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.SYMTYPE])
async def test_what_stands_in_the_place_of_an_outer_folder_is_kept(
    real: DockerEngine, home: str, kind: bytes
) -> None:
    """Also when only a folder in it has files to lay."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        mine = tarfile.TarInfo("examples")
        mine.type, mine.linkname = kind, "elsewhere"
        tar.addfile(mine)
    await real.put(home, HOME, packed.getvalue())
    await homes.seed(real, home, HOME, {"examples/data/a.py": b"one"}, STUDENT)
    there = await real.stat(home, f"{HOME}/examples")
    assert there is not None
    assert not there.is_dir


async def test_an_edit_of_a_file_too_large_to_compare_is_kept(
    real: DockerEngine, home: str
) -> None:
    """Even one of the same size."""
    v1 = {"data.bin": b"1" * (seeding.MAX_SEED + 1)}
    mine = {"data.bin": b"m" * (seeding.MAX_SEED + 1)}
    v2 = {"data.bin": b"2" * (seeding.MAX_SEED + 1)}
    await homes.seed(real, home, HOME, v1, STUDENT)
    await real.put(home, HOME, seeding.archive(mine, STUDENT, 1e9))
    found = await homes.seed(real, home, HOME, v2, STUDENT)
    assert list(found.writes) == ["data (new version).bin"]


async def test_a_disk_that_was_full_leaves_no_half_notebook_for_ever(
    real: DockerEngine, small: str
) -> None:
    """Once there is room again the next start lays what was cut off."""
    book = notebook("x" * 3 * 4096)
    fill = f"head -c {ROOM - 8192} /dev/zero > {HOME}/mine"
    assert await real.run_check(small, ["sh", "-c", fill]) == 0
    with pytest.raises(GPUSpawnerError, match="no space"):
        await homes.seed(real, small, HOME, {"welcome.ipynb": book}, STUDENT)
    cut = await real.read_file(small, f"{HOME}/welcome.ipynb", 2 * len(book))
    assert cut is not None
    assert len(cut) < len(book)
    assert await real.run_check(small, ["rm", f"{HOME}/mine"]) == 0
    await homes.seed(real, small, HOME, {"welcome.ipynb": book}, STUDENT)
    laid = await real.read_file(small, f"{HOME}/welcome.ipynb", 2 * len(book))
    assert laid == book
