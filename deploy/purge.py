#!/usr/bin/env python3
"""`make purge`: delete this deployment with all that users saved in it, after asking.

FORCE=1 does not ask. IMAGES=1 deletes the images as well.
"""

from __future__ import annotations

import os

import down
from steps import compose, gpus, servers, settings
from toolbox import console, turns
from toolbox.client import docker, try_docker
from toolbox.console import Failure, say, step
from toolbox.places import state_dir


def main() -> None:
    """Ask, then delete."""
    wanted = settings.read()
    homes = servers.homes(wanted)
    say(f"This deletes {wanted.project}: its database, login and {len(homes)} home(s).")
    if os.environ.get("FORCE") != "1":
        _ask(wanted.project)
    with turns.on_this_deployment():
        delete(wanted)
    say(f"\nDeleted. Tools and logs are left in {state_dir()}; delete it as you like.")


def delete(wanted: settings.Settings) -> None:
    """Delete it, without asking."""
    down.stop(wanted, "--volumes")
    with step("homes") as current:
        homes = servers.homes(wanted)
        if homes:
            docker("volume", "rm", *homes)
        current.detail = f"{len(homes)} deleted"
    with step("secrets and simulated GPUs"):
        gpus.forget()
        compose.forget()
    if os.environ.get("IMAGES") == "1":
        with step("images") as current:
            current.detail = f"{_images()} deleted"


def _ask(project: str) -> None:
    try:
        answer = input(f"Type {project} to delete it: ")
    except EOFError:
        answer = ""
    if answer.strip() != project:
        raise Failure("nothing was deleted", "type the name, or run FORCE=1 make purge")


def _images() -> int:
    names = docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", "torchroom/*")
    found = [name for name in names.split() if "<none>" not in name]
    if found:
        try_docker("image", "rm", *found)
    return len(found)


if __name__ == "__main__":
    console.as_command(main)
