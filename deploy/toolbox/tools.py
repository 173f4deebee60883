"""A private virtual environment for the few programs that a machine may lack."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from toolbox import machine
from toolbox.command import attempt, run
from toolbox.places import ROOT, locked

# One for all deployments of this checkout, whatever TORCHROOM_STATE_DIR says.
FOLDER = ROOT / ".torchroom" / "venv"


def tool(distribution: str) -> Path:
    """Install a distribution, at its version in uv.lock, and return the environment."""
    pip = [str(FOLDER / "bin" / "python"), "-m", "pip"]
    if not attempt([*pip, "--version"]).ok:
        make_venv(FOLDER)
    wanted = f"{distribution}=={locked(distribution)}"
    if (
        f"Version: {locked(distribution)}"
        not in attempt([*pip, "show", distribution]).out
    ):
        run(
            [*pip, "install", "--quiet", "--disable-pip-version-check", wanted],
            todo="check that pip reaches a package index (`pip config list`).",
            timeout=600,
        )
    return FOLDER


def make_venv(folder: Path) -> None:
    """Make a virtual environment, also where Debian has split `venv` off."""
    command = [sys.executable, "-m", "venv", str(folder)]
    if not attempt(command).ok:
        shutil.rmtree(folder, ignore_errors=True)
        machine.install("python3-venv")
        run(command, todo="install Python's venv module (Debian: python3-venv).")
