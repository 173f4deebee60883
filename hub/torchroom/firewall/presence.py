"""The hub's side: no server starts while the firewall is not in place."""

import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from gpuspawner.errors import Refusal
from tornado import web

from torchroom.firewall.settings import read_internet

FLAG = "TORCHROOM_FIREWALL_FLAG"
FRESH_S = 30
"""The firewall touches its file every few seconds; a busy machine may be late."""

SENTENCE = (
    "Servers cannot start now: the firewall around them is not in place. Please tell "
    "an administrator, who finds the reason in the log of the service `firewall`."
)


class NotInPlace(web.HTTPError):
    """A server was asked for while the firewall was not in place."""

    jupyterhub_message = SENTENCE  # what JupyterHub shows people

    def __init__(self) -> None:
        super().__init__(503, SENTENCE)


class LeftItsPlace(Refusal):
    """The firewall went out of place while a server waited for its turn."""

    reason = "firewall"
    http_status = 503


def is_in_place(flag: Path, now: float) -> bool:
    """Return whether the firewall said so a moment ago.

    Args:
        flag: The file that it touches.
        now: Seconds since the epoch.
    """
    try:
        age = now - flag.stat().st_mtime
    except OSError:
        return False
    return abs(age) < FRESH_S


def before_a_server(
    flag: Path, clock: Callable[[], float] = time.time
) -> Callable[[Any], Awaitable[None]]:
    """Return a pre_spawn_hook that refuses while the firewall is not in place."""

    async def check(_spawner: Any) -> None:
        if not is_in_place(flag, clock()):
            raise NotInPlace

    return check


def before_a_container(
    flag: Path, clock: Callable[[], float] = time.time
) -> Callable[[Any], dict[str, Any]]:
    """Return extra_create_kwargs: none, or a refusal as `before_a_server`.

    The plugin asks for them just before it makes a container: that is long after the
    click, with a queue and a pull between.
    """

    def check(_spawner: Any) -> dict[str, Any]:
        if not is_in_place(flag, clock()):
            raise LeftItsPlace(SENTENCE)
        return {}

    return check


def of_spawner(env: Mapping[str, str]) -> dict[str, Any]:
    """Return what c.GPUDockerSpawner gets; a hub without a firewall gets nothing.

    Docker's name server asks for names on behalf of a container, on some hosts from
    the host itself, where no rule stops it: data can leave in questions for names. A
    container without the internet asks itself, where nobody answers; the names of the
    deployment's own containers need no asking.

    Raises:
        FirewallError: TORCHROOM_INTERNET is neither open nor none.
    """
    found: dict[str, Any] = {}
    if flag := env.get(FLAG):
        found["pre_spawn_hook"] = before_a_server(Path(flag))
        found["extra_create_kwargs"] = before_a_container(Path(flag))
    if not read_internet(env):
        found["extra_host_config"] = {"dns": ["127.0.0.1"]}
    return found
