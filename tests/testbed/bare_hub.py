"""A real JupyterHub process without proxy and servers: users, groups, tokens, scopes.

It is all that the console needs of a hub, starts in two seconds, and needs no engine.
"""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests
from torchroom.console import scopes

from testbed.engine import wait_until

ENDS_WITHIN_S = 20
COURSE = "ml101"
OTHER_COURSE = "bio7"

PORTS = range(20_000, 32_000)
"""Below those that the kernel gives to outgoing connections, so that none has one."""

COMMON = """
from jupyterhub.proxy import Proxy


class NoProxy(Proxy):
    should_start = False

    async def add_route(self, routespec, target, data):
        pass

    async def delete_route(self, routespec):
        pass

    async def get_all_routes(self):
        return {{}}


c.JupyterHub.proxy_class = NoProxy
c.JupyterHub.bind_url = "http://127.0.0.1:{public_port}"
c.JupyterHub.hub_bind_url = "http://127.0.0.1:{port}"
c.SharedPasswordAuthenticator.user_password = {password!r}
c.Authenticator.allow_all = True
c.JupyterHub.load_groups = {groups!r}
c.JupyterHub.services = {services!r}
"""
"""What every hub without a proxy has."""

CONFIGURATION = (
    COMMON
    + """
from torchroom.console import scopes

c.JupyterHub.authenticator_class = "shared-password"
c.Authenticator.allowed_users = {{"ada"}}
c.JupyterHub.spawner_class = "simple"
c.JupyterHub.custom_scopes = scopes.CUSTOM_SCOPES
own_servers = f"{{scopes.OWN_SERVERS}}!user"
c.JupyterHub.extra_user_scopes = {{scopes.EVERYBODY, scopes.ACCESS, own_servers}}
c.Spawner.server_token_scopes = list(scopes.SERVER)
c.JupyterHub.load_roles = {roles!r}
"""
)

GROUPS: dict[str, dict[str, list[str]]] = {
    COURSE: {"users": ["alice", "bob", "ivy"]},
    OTHER_COURSE: {"users": ["bob", "otto"]},
    "nobodys": {"users": []},
}
"""Members; ivy teaches COURSE, otto the other, alice and bob are students."""

OF_ROOT = ("admin:users", "tokens", "admin:groups", "admin:servers")
"""What tests need to make people."""

_given: set[int] = set()


def free_port() -> int:
    """A port of the loopback that is free, and is given to nobody else."""
    while True:
        port = secrets.choice(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in _given:
                _given.add(port)
                return port


@dataclass
class BareHub:
    """A hub process whose users are made of tokens."""

    folder: Path
    port: int = field(default_factory=free_port)
    public_port: int = field(default_factory=free_port)
    console_port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    keys: dict[str, str] = field(
        default_factory=lambda: {
            name: secrets.token_hex(16)
            for name in ("root", "console", "bank", "stranger")
        }
    )
    services: list[dict[str, object]] = field(default_factory=list)
    tokens: dict[tuple[str, tuple[str, ...]], str] = field(default_factory=dict)
    password: str = "for-this-test-only"

    @property
    def api_url(self) -> str:
        """Where its REST API is."""
        return f"http://127.0.0.1:{self.port}/hub/api"

    def begin(self) -> None:
        """Start the process and wait until it answers."""
        (self.folder / "jupyterhub_config.py").write_text(self.configuration())
        bin_dir = Path(sys.executable).parent
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("JUPYTERHUB_", "TORCHROOM_"))
        }
        environment["PATH"] = f"{bin_dir}:{environment['PATH']}"
        with (self.folder / "hub.log").open("ab") as log:
            self.process = subprocess.Popen(
                [bin_dir / "jupyterhub"],
                cwd=self.folder,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        wait_until(self.is_up_or_dead, what="the hub answers", within_s=60)
        assert self.process.poll() is None, self.log()[-4000:]

    def configuration(self) -> str:
        """Its jupyterhub_config.py."""
        known: list[dict[str, object]] = [
            {"name": name, "api_token": key}
            for name, key in self.keys.items()
            if name != "console"
        ]
        own = {str(service["name"]): service for service in self.services}
        known.append(self.console | own.pop(scopes.SERVICE, {}))
        return CONFIGURATION.format(
            port=self.port,
            public_port=self.public_port,
            password=self.password,
            groups=GROUPS,
            services=known + list(own.values()),
            roles=[
                role("tokens-admin", [scopes.ADMIN], users=["ada"], services=["bank"]),
                role("teach-ml101", [scopes.of_course(COURSE)], users=["ivy"]),
                role("teach-bio7", [scopes.of_course(OTHER_COURSE)], users=["otto"]),
                role("console", scopes.OF_SERVICE, services=[scopes.SERVICE]),
                role("root", OF_ROOT, services=["root"]),
            ],
        )

    @property
    def console(self) -> dict[str, object]:
        """The console among its services."""
        return {
            "name": scopes.SERVICE,
            "api_token": self.keys["console"],
            "url": f"http://127.0.0.1:{self.console_port}",
            "oauth_no_confirm": True,
            "oauth_client_allowed_scopes": list(scopes.OF_PAGE),
        }

    def end(self) -> None:
        """End the process."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(ENDS_WITHIN_S)

    def log(self) -> str:
        """What it printed."""
        return (self.folder / "hub.log").read_text(errors="replace")

    def is_up_or_dead(self) -> bool:
        """Does it answer, or will it never?"""
        assert self.process is not None
        if self.process.poll() is not None:
            return True
        with contextlib.suppress(requests.RequestException):
            return requests.get(self.api_url, timeout=5).ok
        return False

    def root(self, method: str, path: str, **more: Any) -> requests.Response:
        """Ask the REST API as somebody who may do everything."""
        headers = {"Authorization": f"token {self.keys['root']}"}
        return requests.request(
            method, self.api_url + path, headers=headers, timeout=20, **more
        )

    def add(self, user: str, *groups: str) -> str:
        """Make a user who is in these groups; return the name."""
        made = self.root("POST", f"/users/{quote(user, safe='')}")
        assert made.ok, made.text
        for group in groups:
            joined = self.root("POST", f"/groups/{group}/users", json={"users": [user]})
            assert joined.ok, joined.text
        return user

    def token(self, user: str, *asked: str) -> str:
        """A token of a user, with these scopes or with all the user has."""
        if (user, asked) not in self.tokens:
            body = {"note": "test"} | ({"scopes": list(asked)} if asked else {})
            path = f"/users/{quote(user, safe='')}/tokens"
            answer = self.root("POST", path, json=body)
            assert answer.ok, answer.text
            self.tokens[user, asked] = str(answer.json()["token"])
        return self.tokens[user, asked]

    def server_token(self, user: str) -> str:
        """A token with what a user's server gets."""
        return self.token(
            user,
            f"{scopes.BALANCE}!user",
            f"{scopes.OWN_SERVERS}!user",
            f"access:servers!server={user}/",
        )


def role(name: str, granted: Iterable[str], **whom: list[str]) -> dict[str, object]:
    """A role for `load_roles`."""
    return {"name": name, "scopes": list(granted), **whom}


@contextlib.contextmanager
def bare_hub(folder: Path) -> Iterator[BareHub]:
    """A running hub; ended afterwards."""
    hub = BareHub(folder)
    try:
        hub.begin()
        yield hub
    finally:
        hub.end()
