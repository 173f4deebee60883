"""What this machine is, and installing Debian packages on it where that is possible."""

from __future__ import annotations

import functools
import os
import shutil

from toolbox.command import attempt
from toolbox.console import Failure, say


def can_install() -> bool:
    """Whether packages can be installed: root on Debian, Ubuntu or a relative."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def install(*packages: str) -> None:
    """Install Debian packages, or say which command would."""
    command = f"apt-get install -y --no-install-recommends {' '.join(packages)}"
    if not can_install():
        raise Failure(
            f"this needs {', '.join(packages)}, which only root can install",
            f"run as root: {command}",
        )
    say(f"    installing {', '.join(packages)}")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    if not _lists_are_fresh():
        raise Failure(
            "the list of Debian packages could not be fetched",
            "check `apt-get update`, then run this again.",
        )
    result = attempt(command.split(), env=quiet, timeout=900)
    if not result.ok:
        raise Failure(f"apt-get: {result.last_words}", f"run as root: {command}")


@functools.cache
def _lists_are_fresh() -> bool:
    return attempt(["apt-get", "update", "-qq"], timeout=300).ok
