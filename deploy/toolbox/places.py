"""Where things are: the repository, and the folders outside version control."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def state_dir() -> Path:
    """Where this deployment keeps its secrets, logs and tools (TORCHROOM_STATE_DIR)."""
    given = os.environ.get("TORCHROOM_STATE_DIR")
    return Path(given).absolute() if given else ROOT / ".torchroom"


def cache_dir() -> Path:
    """Where downloads and build contexts are kept; may be deleted at any time."""
    return ROOT / ".cache"


def version() -> str:
    """The version that the hub and proxy images carry."""
    with (ROOT / "hub" / "pyproject.toml").open("rb") as file:
        return str(tomllib.load(file)["project"]["version"])


def locked(distribution: str) -> str:
    """The version of a distribution in uv.lock."""
    with (ROOT / "uv.lock").open("rb") as file:
        packages = tomllib.load(file)["package"]
    return next(str(p["version"]) for p in packages if p["name"] == distribution)
