"""What a person has set, in the shell or in .env; checked before all else."""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from toolbox.console import Failure
from toolbox.places import ROOT
from torchroom import uids

MOST_SIMULATED = 32
_FILES = (
    "TORCHROOM_PRICES",
    "TORCHROOM_TOPUP_SECRET_FILE",
    "TORCHROOM_COURSES",
    "TORCHROOM_OAUTH_CLIENT_SECRET_FILE",
    "TORCHROOM_STEWARD_POLICY",
    "TORCHROOM_SMTP_CA_FILE",
    "TORCHROOM_WEBHOOK_SECRET_FILE",
)
# What docker-compose.yml mounts into the hub of the repository's own.
_OWN_FILES = (
    "jupyterhub_config.py",
    "hub/torchroom/ledger/prices.example.toml",
    "hub/torchroom/steward/policy.example.toml",
)
_LINE = re.compile(r"^\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*?)\s*$")


@dataclass(frozen=True)
class Settings:
    """The settings that the steps themselves need; compose gets the rest as it is."""

    project: str
    port: int
    network: str
    simulated: int
    user_image: str


def read(env_file: Path = ROOT / ".env") -> Settings:
    """Take .env into the environment (the shell wins), and check what it says.

    Raises:
        Failure: A name or a value is not one of those that there are.
    """
    if env_file.is_file():
        found = parse(env_file.read_text(encoding="utf-8"))
        _refuse_strangers(found)
        for name, value in found.items():
            os.environ[name] = os.environ.get(name) or value
    project = os.environ.get("COMPOSE_PROJECT_NAME") or "torchroom"
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", project):
        raise Failure(
            f"COMPOSE_PROJECT_NAME is {project!r}",
            "use small letters, digits, - and _; start with a letter or a digit.",
        )
    return Settings(
        project=project,
        port=_number("TORCHROOM_PORT", 8000, 1, 65535),
        network=os.environ.get("TORCHROOM_NETWORK") or f"{project}_servers",
        simulated=_number("TORCHROOM_SIMULATED_GPUS", 0, 0, MOST_SIMULATED),
        user_image=os.environ.get("TORCHROOM_USER_IMAGE", ""),
    )


def parse(text: str) -> dict[str, str]:
    """Read NAME=value lines; quotes around a value and comments after it go."""
    found = {}
    for line in text.splitlines():
        if match := _LINE.match(line):
            name, value = match.groups()
            if value[:1] in {'"', "'"}:
                value = value[1:].partition(value[0])[0]
            else:
                value = re.split(r"(?:^|\s)#", value)[0].rstrip()
            found[name] = value
    return found


def _refuse_strangers(names: Iterable[str]) -> None:
    """Refuse names that we do not have; compose would leave them out in silence."""
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    known = set(re.findall(r"^#?([A-Z0-9_]+)=", example, re.MULTILINE))
    ours = {name for name in names if name.startswith("TORCHROOM_")}
    if strangers := sorted(ours - known):
        nearest = get_close_matches(strangers[0], known, n=1)
        meant = f"did you mean {nearest[0]}? " if nearest else ""
        raise Failure(
            f"{strangers[0]} in .env is no setting of Torchroom",
            f"{meant}.env.example has all of them; correct the line or delete it.",
        )


def files() -> dict[str, str]:
    """Variables that name a file, as far as they are set -> its whole path.

    Raises:
        Failure: One is not there, or the hub could not read it.
    """
    found = {name: _file(name) for name in _FILES if os.environ.get(name)}
    mounted = [*map(Path, found.values()), *(ROOT / path for path in _OWN_FILES)]
    if closed := [str(path) for path in mounted if not hub_may_read(path.stat())]:
        names = shlex.join(closed)
        raise Failure(
            f"the hub, which is user {uids.HUB}, may not read {', '.join(closed)}",
            f"let its group read it: sudo chgrp {uids.HUB} {names}"
            f" && sudo chmod 640 {names}",
        )
    return found


def hub_may_read(found: os.stat_result) -> bool:
    """Whether the owner, group and mode of a file let the hub read it."""
    if found.st_uid == uids.HUB:
        return bool(found.st_mode & stat.S_IRUSR)
    if found.st_gid == uids.HUB:
        return bool(found.st_mode & stat.S_IRGRP)
    return bool(found.st_mode & stat.S_IROTH)


def _file(name: str) -> str:
    path = ROOT / os.environ[name]
    if not path.is_file():
        raise Failure(
            f"{name} is {os.environ[name]!r}; there is no such file",
            "name a file on this machine; a relative path begins in the repository.",
        )
    return str(path.resolve())


def _number(name: str, default: int, least: int, most: int) -> int:
    value = os.environ.get(name) or str(default)
    if not value.isdecimal() or not least <= int(value) <= most:
        raise Failure(
            f"{name} is {value!r}", f"set it to a whole number from {least} to {most}."
        )
    return int(value)
