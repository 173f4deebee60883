"""The users' servers and homes of this deployment, found by the spawner's labels."""

from __future__ import annotations

from toolbox.client import docker, try_docker

from steps.settings import Settings

_LABEL = "gpuspawner.hub"
_GRACE_SECONDS = 20


def containers(settings: Settings) -> list[str]:
    """All containers of users' servers, running or not."""
    return docker("ps", "-aq", "--filter", f"label={_LABEL}={settings.project}").split()


def homes(settings: Settings) -> list[str]:
    """The volumes that hold users' homes."""
    return docker(
        "volume", "ls", "-q", "--filter", f"label={_LABEL}={settings.project}"
    ).split()


def stop(settings: Settings) -> int:
    """Stop all servers gracefully and remove their containers; return how many."""
    found = containers(settings)
    if found:
        # one that is gone meanwhile was removed by the hub: as good
        try_docker("stop", "--time", str(_GRACE_SECONDS), *found, timeout=None)
        try_docker("rm", "--force", *found)
    return len(found)
