#!/usr/bin/env python3
"""`make down`: stop everything; keep everything that was saved."""

from __future__ import annotations

from steps import compose, network, servers, settings
from toolbox import console, turns
from toolbox.client import docker
from toolbox.console import say, step


def main() -> None:
    """Stop the proxy, the users' servers, and the hub, in this order."""
    wanted = settings.read()
    with turns.on_this_deployment():
        stop(wanted)
    say(
        "\nStopped. Homes, accounts and the login are kept; `make up` brings them back."
    )


def stop(wanted: settings.Settings, *also: str) -> None:
    """Stop this deployment and remove its containers and networks."""
    docker("version")  # says so when no engine answers, before anything else
    command = compose.find()
    with step("proxy (nobody starts a server from here on)"):
        compose.run(command, wanted, "stop", "proxy")
    # while the hub still runs, so that it reads how they ended
    with step("users' servers") as current:
        count = servers.stop(wanted)
        current.detail = f"{count} stopped; their homes are kept"
    with step("hub and networks"):
        compose.run(command, wanted, "stop", "hub")
        servers.stop(wanted)  # what the hub was just starting
        compose.must(command, wanted, *compose.EVERY_PROFILE, "down", *also)
        network.remove_left(wanted)


if __name__ == "__main__":
    console.as_command(main)
