"""Every shipped notebook runs in the real image, as a student's server would run it.

The welcome is delivered as the hub delivers it: ``home/`` into the student's home, the
package and the facts root-owned under /opt. The image is ``TORCHROOM_TEST_IMAGE``.
"""

import io
import json
import re
import subprocess
import tarfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
WELCOME = ROOT / "welcome"
HOME = WELCOME / "home"
NOTEBOOKS = sorted(
    path.relative_to(HOME).as_posix()
    for path in HOME.rglob("*.ipynb")
    if ".ipynb_checkpoints" not in path.parts
)
EXAMPLES = [name for name in NOTEBOOKS if name.startswith("examples/")]

DEADLINE_S = 180
STUDENT = "/home/student"
UID = 1000
FACTS_PATH = "/opt/gpuspawner/server.json"
FACTS: dict[str, Any] = {
    "user": "ann",
    "server": "",
    "lease": None,
    "why_no_gpu": "You chose the size 'CPU only'.",
    "simulated": False,
    "limits": {"memory_bytes": 4 << 30, "shm_bytes": 1 << 30, "n_cpus": 2.0},
    "tokens": {
        "provider": "placeholder",
        "is_placeholder": True,
        "balance_microtokens": None,
        "rate_microtokens_per_hour": None,
        "note": "Tokens are not metered on this hub yet.",
    },
}
DEVICES = [
    {
        "uuid": f"GPU-00000000-0000-0000-0000-00000000000{index}",
        "index": index,
        "name": "NVIDIA A100-SXM4-80GB (simulated)",
        "memory_bytes": 80 << 30,
    }
    for index in (3, 5)
]
SIMULATED = FACTS | {
    "lease": {"id": "ls_1", "devices": DEVICES},
    "why_no_gpu": None,
    "simulated": True,
}


# ------------------------------------------------------------------------- server


def run(*command: str, data: bytes | None = None, deadline_s: float = 60) -> str:
    """Run a command; its output, errors included, is the answer or the failure."""
    done = subprocess.run(
        command,
        check=False,
        input=data if data is not None else b"",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=deadline_s,
    )
    text = done.stdout.decode(errors="replace")
    assert done.returncode == 0, f"{' '.join(command)}\n{text[-6000:]}"
    return text


def archive(files: dict[str, bytes], uid: int) -> bytes:
    """A tar of these files and their folders, all owned by ``uid``."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        folders = {str(up) for name in files for up in Path(name).parents} - {"."}
        for name in sorted(folders):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode, entry.uid, entry.gid = (
                tarfile.DIRTYPE,
                0o755,
                uid,
                uid,
            )
            tar.addfile(entry)
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.uid, entry.gid = len(data), 0o644, uid, uid
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def contents(folder: Path, under: str) -> dict[str, bytes]:
    """Every file of a folder, by its path in a container, without leading slash."""
    return {
        f"{under}/{path.relative_to(folder).as_posix()}": path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not {"__pycache__", ".ipynb_checkpoints"} & {*path.parts}
    }


@dataclass(frozen=True)
class Server:
    """A container like a student's server; only the Jupyter server is not running."""

    name: str

    def deliver(self, facts: dict[str, Any] | bytes) -> None:
        """Put home, package and facts in, as the hub does before a start."""
        raw = facts if isinstance(facts, bytes) else json.dumps(facts).encode()
        package = contents(WELCOME / "torchroom_welcome", "torchroom/torchroom_welcome")
        self._put(archive(package | {FACTS_PATH.removeprefix("/opt/"): raw}, 0), "/opt")
        # One level deeper than it goes, so that the home itself is the student's too.
        self._put(archive(contents(HOME, "student"), UID), "/home")

    def _put(self, tar: bytes, place: str) -> None:
        run("docker", "cp", "-", f"{self.name}:{place}", data=tar)

    def execute(self, notebook: str) -> Any:
        """Run all cells as the student; fails at the first error, or the deadline."""
        run(
            "docker",
            "exec",
            f"--user={UID}",
            f"--env=HOME={STUDENT}",
            f"--env=GPUSPAWNER_FACTS={FACTS_PATH}",
            f"--workdir={STUDENT}",
            self.name,
            *("jupyter", "nbconvert", "--to=notebook", "--execute"),
            "--output-dir=/tmp/out",
            f"--ExecutePreprocessor.timeout={DEADLINE_S - 10}",
            notebook,
            deadline_s=DEADLINE_S,
        )
        result = f"/tmp/out/{Path(notebook).name}"
        return json.loads(run("docker", "exec", self.name, "cat", result))


@pytest.fixture
def server(user_image: str) -> Iterator[Server]:
    """A container of the image, with a student's limits; removed afterwards."""
    name = f"torchroom-test-welcome-{uuid.uuid4().hex[:12]}"
    command = (
        "docker",
        "run",
        f"--name={name}",
        "--detach",
        "--init",
        "--network=none",  # nothing is downloaded
        "--memory=4g",
        "--shm-size=1g",
        "--user=0",
        "--entrypoint=sleep",
        user_image,
        "infinity",
    )
    try:
        run(*command)
        yield Server(name)
    finally:
        run("docker", "rm", "--force", name)


def outputs(notebook: Any) -> str:
    """All text that a student reads below the cells."""
    texts = []
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            # An error ends the run already, unless a cell is marked to go on.
            assert output["output_type"] != "error"
            text = output.get("text") or output.get("data", {}).get("text/plain", "")
            texts.append("".join(text))
    return "\n".join(texts)


# ------------------------------------------------------------- in the real image


@pytest.mark.docker
@pytest.mark.parametrize("notebook", EXAMPLES)
def test_example_learns_in_the_real_image(server: Server, notebook: str) -> None:
    """Each example checks for itself that the model learned, and says so at its end."""
    server.deliver(FACTS)
    text = outputs(server.execute(notebook))
    assert "Learned" in text
    assert "Traceback" not in text


@pytest.mark.docker
def test_welcome_on_a_cpu_server(server: Server) -> None:
    """Versions, the hub's reason, a figure for the CPU, shared memory, no tokens."""
    server.deliver(FACTS)
    executed = server.execute("welcome.ipynb")
    text = outputs(executed)
    for expected in (
        "Welcome, ann",
        "PyTorch",
        "CUDA",
        "You chose the size 'CPU only'.",
        "GFLOP/s",
        "/dev/shm  1 GiB",
        "4 GiB",
        "Placeholder: Tokens are not metered on this hub yet.",
    ):
        assert expected in text
    assert "SIMULATED" not in text
    check_panels(executed)


@pytest.mark.docker
def test_welcome_on_simulated_gpus(server: Server) -> None:
    """Each leased GPU with index and UUID, and the banner where GPUs are shown."""
    server.deliver(SIMULATED)
    executed = server.execute("welcome.ipynb")
    text = outputs(executed)
    assert text.count("SIMULATED GPUs") >= 2
    for device in DEVICES:
        assert str(device["uuid"]) in text
    assert "2 x NVIDIA A100-SXM4-80GB (simulated); this PyTorch is a" in text
    check_panels(executed)


@pytest.mark.docker
def test_welcome_with_garbled_facts(server: Server) -> None:
    """The page still runs through and says what is wrong."""
    server.deliver(b"{")
    executed = server.execute("welcome.ipynb")
    assert "The facts file is garbled" in outputs(executed)
    check_panels(executed)


def check_panels(executed: Any) -> None:
    """Every code cell shows a panel, in HTML as well, and none of them failed."""
    assert "This part of the page failed" not in outputs(executed)
    for cell in executed["cells"]:
        if cell["cell_type"] == "code":
            (output,) = cell["outputs"]
            assert set(output["data"]) == {"text/html", "text/plain"}


@pytest.mark.docker
def test_the_student_cannot_change_the_package(server: Server) -> None:
    """The page's code belongs to root; the home belongs to the student."""
    server.deliver(FACTS)
    listing = run(
        *("docker", "exec", server.name, "stat", "--format=%u %a"),
        "/opt/torchroom/torchroom_welcome/show.py",
        FACTS_PATH,
        STUDENT,
        f"{STUDENT}/examples/ddp.py",
    )
    assert listing.splitlines() == ["0 644", "0 644", "1000 755", "1000 644"]


# ---------------------------------------------------------------- without an image


def test_there_are_notebooks() -> None:
    """So that an empty folder cannot pass for five working examples."""
    assert "welcome.ipynb" in NOTEBOOKS
    assert len(EXAMPLES) == 5


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_shipped_notebook_is_clean(notebook: str) -> None:
    """Valid, no outputs, no counts, the kernel every image has, cells with an id."""
    raw = json.loads((HOME / notebook).read_text())
    nbformat.validate(raw)
    assert raw["metadata"]["kernelspec"]["name"] == "python3"
    assert (raw["nbformat"], raw["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in raw["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in raw["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
            # Widgets and editors leave the person's own view in here.
            assert cell["metadata"] == {}


def test_links_between_shipped_files_lead_somewhere() -> None:
    """Every relative link in a notebook or README points at a shipped file."""
    for path in (*HOME.rglob("*.ipynb"), *HOME.rglob("*.md")):
        for target in re.findall(r"\]\(([\w./]+)\)", path.read_text()):
            assert (path.parent / target).is_file(), f"{path.name}: {target}"
