#!/usr/bin/env python3
"""`make setup`: the development environment in .venv, exactly as locked."""

from __future__ import annotations

import hashlib
from pathlib import Path

from toolbox import console
from toolbox.command import attempt, run
from toolbox.console import step
from toolbox.places import ROOT
from toolbox.tools import make_venv

VENV = ROOT / ".venv"
_INPUTS = ("uv.lock", "pyproject.toml", "*/pyproject.toml")


def main() -> None:
    """Make or renew .venv; quick when nothing changed."""
    stamp, now = VENV / ".torchroom-setup", _digest()
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == now:
        return
    with step("development environment in .venv"):
        run(
            [uv(), "sync", "--locked", "--inexact", "--quiet"],
            cwd=ROOT,
            todo="when the lock is out of date: make lock",
            timeout=900,
        )
    stamp.write_text(now, encoding="utf-8")


def uv() -> str:
    """The uv in .venv, installed there when missing."""
    python = str(VENV / "bin" / "python")
    if not attempt([python, "-m", "pip", "--version"]).ok:
        make_venv(VENV)
    program = VENV / "bin" / "uv"
    if not program.is_file():
        run(
            [python, "-m", "pip", "install", "--quiet", "uv"],
            todo="check that pip reaches a package index (`pip config list`).",
            timeout=300,
        )
    return str(program)


def _digest() -> str:
    files = sorted(path for pattern in _INPUTS for path in ROOT.glob(pattern))
    return hashlib.sha256(b"\0".join(Path(f).read_bytes() for f in files)).hexdigest()


if __name__ == "__main__":
    console.as_command(main)
