#!/usr/bin/env python3
"""`make up`: from a bare machine to a healthy hub, in steps that say what they do."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from pathlib import Path

from builder import build
from steps import (
    compose,
    engine,
    gpus,
    health,
    network,
    ports,
    settings,
    tls,
    volumes,
)
from toolbox import client, console, turns
from toolbox.console import Failure, say, step
from toolbox.places import ROOT, version


def main() -> None:
    """Run the steps, alone."""
    wanted = settings.read()
    with turns.on_this_deployment():
        bring_up(wanted)


def bring_up(wanted: settings.Settings) -> None:
    """Run the steps. What is there already stays; what failed is tried again."""
    started = time.monotonic()
    site = tls.read()
    addresses = network.variables(wanted)
    mounted = settings.files()
    with step("Docker engine") as current:
        current.detail = engine.ensure()
    with step("Compose") as current:
        command = compose.find()
        current.detail = compose.version(command)
    network.check(wanted, addresses)
    ports.check(wanted, site)
    user_image = _images(wanted)
    if site.has_tls:
        _build("tls")
    with step("GPUs") as current:
        values, current.detail = gpus.variables(wanted)
    with step("hub's data") as current:
        current.detail = volumes.take_over(command, wanted)
    with step("hub and proxy") as current:
        variables = {**_variables(user_image), **values, **mounted}
        variables |= addresses
        variables |= tls.variables(site)
        compose.write_variables(wanted, variables)
        compose.must(
            command, wanted, "up", "--detach", "--no-build", "--remove-orphans"
        )
        hub = health.wait(command, wanted)
        current.detail = "healthy"
    if site.has_tls:
        with step("https") as current:
            current.detail = tls.wait(command, wanted, site)
    else:  # of an earlier time, when there was one
        compose.run(command, wanted, *tls.REMOVE)
    _farewell(wanted, site, hub, time.monotonic() - started)


def _images(wanted: settings.Settings) -> str:
    """Build what is missing; return the image for users' servers."""
    _build("base")
    if wanted.user_image:
        image = _given(wanted.user_image)
    else:
        image = _build("pytorch", cuda=gpus.are_real(wanted))
    for name in ("proxy", "firewall", "hub"):
        _build(name)
    return image


def _given(image: str) -> str:
    with step("user image") as current:
        current.detail = image
        if not client.image_exists(image):
            say(f"    pulling {image}")
            result = client.try_docker("pull", "--quiet", image, timeout=1800)
            if not result.ok:
                raise Failure(
                    f"{image} (TORCHROOM_USER_IMAGE) is not here and cannot be pulled:"
                    f" {result.last_words}",
                    "build it (make images, make image-cuda) or name another one.",
                )
    return image


def _build(name: str, *, cuda: bool = False) -> str:
    with step(f"image {name}{' with CUDA (several GB)' if cuda else ''}") as current:
        current.detail = build(name, cuda=cuda)
    return current.detail


def _variables(user_image: str) -> dict[str, str]:
    engines = Path(os.environ.get("TORCHROOM_ENGINE_SOCKET") or client.socket_path())
    if not engines.exists():
        raise Failure(
            f"there is no engine's socket at {engines}",
            "check DOCKER_HOST and TORCHROOM_ENGINE_SOCKET.",
        )
    group = os.environ.get("TORCHROOM_ENGINE_GID") or str(engines.stat().st_gid)
    config = (ROOT / "jupyterhub_config.py").read_bytes()
    return {
        "TORCHROOM_VERSION": version(),
        "TORCHROOM_USER_IMAGE": user_image,
        # a changed configuration makes a new hub container; users' servers go on
        "TORCHROOM_CONFIG_DIGEST": hashlib.sha256(config).hexdigest()[:16],
        "TORCHROOM_ENGINE_SOCKET": str(engines),
        "TORCHROOM_ENGINE_GID": group,
    }


def _farewell(
    wanted: settings.Settings, site: tls.Site, hub: str, seconds: float
) -> None:
    is_local = (os.environ.get("TORCHROOM_LOGIN") or "local") == "local"
    who = health.login(hub) if is_local else {}
    lines = gpus.found(hub, simulated=bool(wanted.simulated))
    say(f"\nTorchroom is up after {seconds:.0f} s.\n")
    say(f"  Address:        {site.address.url}")
    if who:
        admin, its_password = who.get("admin_user"), who.get("admin_password")
        say(f"  Students:       any name, password {who.get('user_password')}")
        say(f"  Administrator:  {admin}, password {its_password}")
    say(f"  GPUs:           {lines[0]}")
    for line in lines[1:]:
        say(f"                  {line}")
    if site.address.is_loopback:
        say("\n  Only this machine reaches it. From another one:")
        port = site.address.port
        say(f"    ssh -L {port}:127.0.0.1:{port} {socket.gethostname()}")
    say("\n  Stop it with `make down`; everything that users saved is kept.")


if __name__ == "__main__":
    console.as_command(main)
