"""Waiting for the hub: healthy, or the reason in its own words."""

from __future__ import annotations

import json
import re
import time
import urllib.error
import urllib.request
from http import HTTPStatus
from typing import Any

from toolbox.client import docker, try_docker
from toolbox.console import Failure

from steps import compose
from steps.settings import Settings

_SECONDS = 180
_GATE = "/run/torchroom-engine/docker.sock"
_RESTARTS = 2
_LOGIN = "/srv/torchroom/data/local-login.json"


def wait(command: list[str], settings: Settings) -> str:
    """Wait until the hub is healthy and answers; return its container."""
    deadline = time.monotonic() + _SECONDS
    healthy = False
    while time.monotonic() < deadline:
        hub = compose.must(command, settings, "ps", "--all", "--quiet", "hub").strip()
        state = (
            json.loads(docker("inspect", "-f", "{{json .State}}", hub)) if hub else {}
        )
        healthy = state.get("Health", {}).get("Status") == "healthy"
        if healthy and _answers(settings.port) and _gate_stands(command, settings):
            return hub
        if state.get("Status") in {"exited", "restarting", "dead"}:
            raise Failure(
                f"the hub ended while starting: {_last_words(hub)}",
                f"read its log: docker logs {hub[:12]}",
            )
        time.sleep(0.4)
    if healthy:
        raise Failure(
            f"the hub is healthy, but nothing answers on 127.0.0.1:{settings.port}",
            f"read the proxy's log: docker logs {settings.project}-proxy-1",
        )
    raise Failure(
        f"the hub was not healthy within {_SECONDS} s: {_last_words(hub)}",
        f"read its log: docker logs {hub[:12]}",
    )


def login(hub: str) -> dict[str, Any]:
    """The local login, which the hub has made; empty when there is none."""
    result = try_docker("exec", hub, "cat", _LOGIN)
    return dict(json.loads(result.out)) if result.ok else {}


def _gate_stands(command: list[str], settings: Settings) -> bool:
    """Whether the hub can ask the engine; fail if the gate ends again and again."""
    listed = compose.must(command, settings, "ps", "--all", "--quiet", "engine-gate")
    gate = listed.strip()
    if try_docker("exec", gate, "test", "-S", _GATE).ok:
        return True
    if int(docker("inspect", "-f", "{{.RestartCount}}", gate)) >= _RESTARTS:
        raise Failure(
            f"the gate in front of the engine does not run: {_last_words(gate)}",
            f"read its log: docker logs {gate[:12]}",
        )
    return False


def _answers(port: int) -> bool:
    """Whether the hub answers through the proxy on this machine."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"http://127.0.0.1:{port}/hub/health", timeout=3) as answer:
            return bool(answer.status == HTTPStatus.OK)
    except (OSError, urllib.error.URLError, ValueError):
        return False


def _last_words(container: str) -> str:
    result = try_docker("logs", "--tail", "40", container)
    return why_ended(result.out + result.err)


def why_ended(log: str) -> str:
    """Return what a program that ended said last; of a traceback only its sentence."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [
        line for line in lines if re.match(r"[\w.]*(Error|Exception)\b|\[[EC] ", line)
    ]
    last = (errors or lines or ["it said nothing"])[-1]
    return re.sub(r"^(\w+\.)+\w+: ", "", last)[:300]
