#!/usr/bin/env python3
"""`make lock`: renew uv.lock and the lock files that the images install from.

`--check` renews nothing and fails when one of the images' lock files is out of date.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import developer
from toolbox import console
from toolbox.command import run
from toolbox.console import Failure, step
from toolbox.places import ROOT

_PLAIN = ["--quiet", "--no-header"]
_COMPILE = [
    *("pip", "compile", *_PLAIN, "--generate-hashes", "--python-version", "3.11"),
    *("--no-emit-index-url", "--no-emit-find-links"),
]
_EXPORT = [
    *("export", *_PLAIN, "--frozen", "--package", "torchroom", "--no-dev"),
    "--no-emit-workspace",
]
HUB = "hub/requirements.lock"
# lock file: the folder it is made in, and more options
COMPILED = {
    "images/pytorch/requirements.lock": ["--override", "requirements-overrides.txt"],
    "hub/build-requirements.lock": [],
    "hub/proxy/requirements.lock": [],
    # JupyterHub and SQLAlchemy of the very versions that the hub has
    "bench/credit_service/requirements.lock": ["-c", "../../hub/requirements.lock"],
}
NODE = "hub/proxy/package-lock.json"


def main() -> None:
    """Renew, or check, all lock files."""
    if sys.argv[1:] == ["--check"]:
        check()
        return
    uv = developer.uv()
    with step("uv.lock"):
        run([uv, "lock", "--upgrade", "--quiet"], cwd=ROOT, timeout=600)
    with step(HUB):
        (ROOT / HUB).write_text(exported(uv), encoding="utf-8")
    for name in COMPILED:
        with step(name):
            compile_lock(uv, name, upgrade=True)
    with step(NODE) as current:
        current.detail = _node()


def check() -> None:
    """Fail when a lock file no longer follows from what it is made from."""
    uv = developer.uv()
    stale = [] if (ROOT / HUB).read_text(encoding="utf-8") == exported(uv) else [HUB]
    for name in COMPILED:
        before = (ROOT / name).read_text(encoding="utf-8")
        if compile_lock(uv, name, elsewhere=True) != before:
            stale.append(name)
    if stale:
        raise Failure(f"out of date: {', '.join(stale)}", "make lock")


def exported(uv: str) -> str:
    """The hub's requirements as uv.lock has them."""
    return run([uv, *_EXPORT], cwd=ROOT)


def compile_lock(
    uv: str, name: str, *, upgrade: bool = False, elsewhere: bool = False
) -> str:
    """Resolve one .in file; versions already locked stay unless upgraded."""
    path = ROOT / name
    with tempfile.TemporaryDirectory() as folder:
        target = path
        if elsewhere:
            target = Path(folder) / path.name
            shutil.copyfile(path, target)
        more = [*COMPILED[name], *(["--upgrade"] if upgrade else [])]
        run(
            [uv, *_COMPILE, *more, "--output-file", str(target), f"{path.stem}.in"],
            cwd=path.parent,
            timeout=300,
        )
        return target.read_text(encoding="utf-8")


def _node() -> str:
    npm = shutil.which("npm")
    if npm is None:
        return "left as it is: npm is not installed"
    quiet = ["--no-audit", "--no-fund", "--omit-lockfile-registry-resolved"]
    run([npm, "update", "--package-lock-only", *quiet], cwd=ROOT / "hub" / "proxy")
    return "done"


if __name__ == "__main__":
    console.as_command(main)
