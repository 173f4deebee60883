"""The image everything starts from: pulled where a registry answers, else bootstrapped.

Bootstrapping takes about a minute and needs root; its result is kept under .cache/, so
that another engine on the same machine imports it in seconds.
"""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from toolbox import machine
from toolbox.client import docker, image_exists, try_docker
from toolbox.command import run
from toolbox.console import Failure, say
from toolbox.places import cache_dir

from builder.bake import one_at_a_time
from builder.mirrors import DEBIAN, SECURITY, debian_mirrors

RELEASE = "bookworm"
TAG = f"torchroom/base:{RELEASE}"
_PUBLIC = f"debian:{RELEASE}-slim"
_PULL_SECONDS = 15
_DROPPED = (
    "var/cache/apt/archives/*.deb",
    "var/cache/apt/*.bin",
    "var/cache/debconf/*-old",
    "var/lib/apt/lists/*",
    "var/log/*.log",
    "var/log/apt/*",
    "usr/share/doc/*/[!c]*",
    "usr/share/doc/*/changelog*",
    "usr/share/man/*",
    "usr/share/info/*",
    "usr/share/locale/*",
)
# Settings of this machine that debootstrap copies into what it makes.
_MACHINE_FILES = ("etc/resolv.conf", "etc/hostname", "etc/hosts")
_SLIM = """\
# Documentation and translations are not unpacked; copyright files are kept.
path-exclude /usr/share/doc/*
path-include /usr/share/doc/*/copyright
path-exclude /usr/share/man/*
path-exclude /usr/share/info/*
path-exclude /usr/share/locale/*
"""


def ensure() -> str:
    """Make sure the engine has a base image and return its tag."""
    given = os.environ.get("BASE_IMAGE")
    if given:
        if not image_exists(given):
            docker("pull", given, timeout=600)
        return given
    if image_exists(TAG):
        return TAG
    with one_at_a_time("base"):
        return TAG if image_exists(TAG) else _get()


def _get() -> str:
    saved = cache_dir() / f"base-{RELEASE}-{os.uname().machine}.tar.gz"
    if not saved.exists() and not _pulled():
        _bootstrap(saved)
    if saved.exists():
        _import(saved)
    return TAG


def _pulled() -> bool:
    say(f"    asking the registry for {_PUBLIC}, at most {_PULL_SECONDS} s")
    result = try_docker("pull", "--quiet", _PUBLIC, timeout=_PULL_SECONDS)
    if result.ok:
        docker("tag", _PUBLIC, TAG)
    else:
        say("    it did not come; making the base from Debian's packages")
    return result.ok


def _import(saved: Path) -> None:
    labels = f"LABEL org.torchroom.base={RELEASE}"
    with gzip.open(saved) as unpacked, tempfile.NamedTemporaryFile() as plain:
        shutil.copyfileobj(unpacked, plain, 1 << 20)
        plain.flush()
        docker(
            "import", "--change", labels, "--change", 'CMD ["bash"]', plain.name, TAG
        )


def _bootstrap(saved: Path) -> None:
    if os.geteuid() != 0:
        raise Failure(
            "no registry gave the base image in time, and making one needs root",
            "run this as root, or name an image in BASE_IMAGE.",
        )
    keyring = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
    if not shutil.which("debootstrap") or not keyring.exists():
        machine.install("debootstrap", "debian-archive-keyring")
    saved.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="torchroom-base-") as folder:
        root = Path(folder) / "root"
        say("    bootstrapping Debian (about a minute)")
        run(
            [
                "debootstrap",
                "--variant=minbase",
                f"--keyring={keyring}",
                RELEASE,
                str(root),
                debian_mirrors()[0],
            ],
            todo="check that the Debian mirror in /etc/apt is reachable, or name an"
            " image in BASE_IMAGE.",
        )
        _clean(root)
        _save(root, saved)


def _clean(root: Path) -> None:
    """Make it small, and free of this machine's settings."""
    for pattern in _DROPPED:
        for path in root.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    for name in _MACHINE_FILES:
        path = root / name
        path.unlink(missing_ok=True)
        path.write_text("", encoding="utf-8")
    (root / "etc/dpkg/dpkg.cfg.d/torchroom-slim").write_text(_SLIM, encoding="utf-8")
    (root / "etc/apt/sources.list").write_text(
        f"deb {DEBIAN} {RELEASE} main\n"
        f"deb {DEBIAN} {RELEASE}-updates main\n"
        f"deb {SECURITY} {RELEASE}-security main\n",
        encoding="utf-8",
    )


def _save(root: Path, saved: Path) -> None:
    part = saved.with_suffix(".part")
    with (
        subprocess.Popen(
            ["tar", "-C", str(root), "--numeric-owner", "--one-file-system", "-c", "."],
            stdout=subprocess.PIPE,
        ) as tar,
        gzip.open(part, "wb", compresslevel=1) as packed,
    ):
        if tar.stdout:
            shutil.copyfileobj(tar.stdout, packed, 1 << 20)
    if tar.returncode != 0:
        raise Failure("tar could not pack the base image", "see its message above.")
    part.rename(saved)
