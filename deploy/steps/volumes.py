"""The hub's volumes: those of an earlier version belong to the user that it ran as."""

from __future__ import annotations

from toolbox.client import docker, try_docker
from toolbox.console import Failure
from toolbox.places import version
from torchroom import uids

from steps import compose
from steps.settings import Settings

_EARLIER = 1000
_DATA = "/data"  # in the container that looks at it
# One file or folder of the earlier user; folders that are closed are not looked into.
_LOOK = (
    *("find", _DATA, "-user", f"{_EARLIER}", "-print", "-quit"),
    *("-o", "-type", "d", "!", "-readable", "-prune"),
)
# What somebody else has put there stays theirs.
_GIVE = (
    *("chown", "--recursive", "--no-dereference", f"--from={_EARLIER}"),
    *(f"{uids.HUB}:{uids.HUB}", _DATA),
)
_CONFINED = (
    *("--rm", "--network=none", "--read-only", "--cap-drop=ALL"),
    "--security-opt=no-new-privileges",
)
_RIGHTS = ("--user=0:0", "--cap-add=CHOWN", "--cap-add=DAC_OVERRIDE")


def take_over(command: list[str], settings: Settings) -> str:
    """Give the hub what an earlier version's hub has left; return who has it now.

    The hub is stopped before anything is changed. If this is interrupted, the next time
    goes on with it.

    Raises:
        Failure: It could not be done. The hub is stopped, nothing is lost.
    """
    data, gate = (f"{settings.project}_{name}" for name in ("data", "engine-gate"))
    if data not in docker("volume", "ls", "--quiet").split():
        return "none yet"
    if not docker(*_run(f"{data}:{_DATA}:ro", *_LOOK)):
        return "the hub's own"
    compose.must(command, settings, "rm", "--stop", "--force", "hub", "engine-gate")
    docker("volume", "rm", "--force", gate)  # only a socket; it is made anew
    given = try_docker(*_run(f"{data}:{_DATA}", *_GIVE, rights=_RIGHTS), timeout=None)
    if not given.ok:
        raise Failure(
            f"the volume {data} cannot be given to the hub's new user, {uids.HUB}:"
            f" {given.last_words}",
            "mend that and run this again; it goes on. Nothing is lost.",
        )
    return f"taken over from user {_EARLIER}"


def _run(mount: str, *program: str, rights: tuple[str, ...] = ()) -> list[str]:
    """What tells the engine to run a program of the hub's image on a volume alone."""
    image = f"torchroom/hub:{version()}"
    return ["run", *_CONFINED, *rights, f"--volume={mount}", image, *program]
