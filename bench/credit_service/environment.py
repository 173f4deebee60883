"""Makes the credit service's environment, as locked, and runs its bench there."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "deploy"))

import developer  # noqa: E402  the path comes first

HERE = Path(__file__).resolve().parent
LOCK = HERE / "requirements.lock"
VENV = ROOT / ".cache" / "bench" / "credit-service"
PYTHON = VENV / "bin" / "python"
LIMIT_S = 300


def ensure() -> None:
    """Make or renew the environment; quick when nothing changed."""
    stamp, wanted = VENV / ".torchroom-bench", LOCK.read_text(encoding="utf-8")
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return
    uv = developer.uv()
    make = [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(VENV)]
    install = [uv, "pip", "sync", "--quiet", "--require-hashes", str(LOCK)]
    for command in (make, [*install, "--python", str(PYTHON)]):
        subprocess.run(command, check=True, timeout=LIMIT_S)
    stamp.write_text(wanted, encoding="utf-8")


def measure(what: str, n: int, place: Path) -> dict[str, Any]:
    """Run loop.py for n servers, its database in a folder of `place`.

    Raises:
        RuntimeError: It failed; its own words.
    """
    with tempfile.TemporaryDirectory(dir=place) as folder:
        words = [what, f"--folder={folder}", f"--servers={n}"]
        done = subprocess.run(
            [str(PYTHON), str(HERE / "loop.py"), *words],
            cwd=folder,
            check=False,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
    if done.returncode:
        raise RuntimeError(f"the credit service's bench failed:\n{done.stderr[-3000:]}")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured
