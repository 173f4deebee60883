"""A real hub with all of Torchroom's roles and its GPUs' window, without an engine.

Its users' servers are a page that the hub's own tokens open, as a real one's are.
"""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchroom import roles
from torchroom.console import scopes
from torchroom.membership import read

from testbed.bare_hub import COMMON, OF_ROOT, BareHub, role
from testbed.engine import wait_until

COURSE, OTHER_COURSE = "ml101", "bio7"
GPU = "GPU-00000000-0000-0000-0000-000000000001"
PASSWORD = "for-this-test-only"
ADMIN_PASSWORD = "for-this-test-only, and of the admins alone"
COURSES = f"""
admins = ["ada", "adam"]

[course.{COURSE}]
students = ["alice", "bob"]
instructors = ["ivy"]

[course.{OTHER_COURSE}]
students = ["eve"]
instructors = ["otto"]
"""
PEOPLE = ("alice", "bob", "eve", "ivy", "otto", "ada", "adam")

CONFIGURATION = (
    COMMON
    + """
import os
import sys

sys.path.insert(0, {tests!r})
os.environ["DOCKER_HOST"] = "unix:///nonexistent/docker.sock"

from gpuspawner import window
from testbed.page_server import PageSpawner
from torchroom import roles
from torchroom.membership import read

c.JupyterHub.authenticator_class = {authenticator!r}
c.SharedPasswordAuthenticator.admin_password = {admin_password!r}
c.Authenticator.admin_users = {{"ada", "adam"}}
c.LoopbackAuthenticator.courses_file = "courses.toml"
c.JupyterHub.allow_named_servers = True
c.JupyterHub.authenticate_prometheus = True
c.JupyterHub.concurrent_spawn_limit = 0

granted = roles.grant(
    read({courses!r}),
    window.SCOPES,
    admins=["ada"],  # as the local login does; adam is one by his group
    services=[service["name"] for service in c.JupyterHub.services],
)
c.JupyterHub.load_roles = granted.load_roles + {roles!r}
c.JupyterHub.custom_scopes = granted.custom_scopes
c.JupyterHub.extra_user_scopes = granted.extra_user_scopes
c.Spawner.server_token_scopes = granted.server_token_scopes
c.JupyterHub.extra_handlers = window.handlers(PageSpawner)
c.JupyterHub.spawner_class = PageSpawner
c.PageSpawner.hub_id = "roles"
c.PageSpawner.offers = [
    {{
        "name": "cpu",
        "title": "CPU only",
        "n_gpus": 0,
        "memory_bytes": 2**30,
        "n_cpus": 1,
    }}
]
c.Spawner.http_timeout = 20
{more}
"""
)


@dataclass
class RoleHub(BareHub):
    """A hub process; `keys` has the tokens of its services."""

    password: str = PASSWORD
    authenticator: str = "shared-password"
    more: str = ""
    """Further lines of its configuration."""

    def configuration(self) -> str:
        """Its jupyterhub_config.py; leaves what it knows of a GPU beside it."""
        self.keys.setdefault(roles.STEWARD, self.keys["stranger"] + "ab")
        health = {"version": 1, "devices": {GPU: {}}}
        kept = self.folder / "gpuspawner-health.json"
        if not kept.exists():
            kept.write_text(json.dumps(health))
        (self.folder / "courses.toml").write_text(COURSES)
        membership = read(COURSES)
        groups: dict[str, dict[str, list[str]]] = {}
        for user in PEOPLE:
            for group in roles.groups_of(membership.standing(user)):
                groups.setdefault(group, {"users": []})["users"].append(user)
        return CONFIGURATION.format(
            tests=str(Path(__file__).resolve().parents[1]),
            port=self.port,
            public_port=self.public_port,
            authenticator=self.authenticator,
            password=self.password,
            admin_password=ADMIN_PASSWORD,
            courses=COURSES,
            groups=groups,
            services=[
                self.console,
                {"name": roles.STEWARD, "api_token": self.keys[roles.STEWARD]},
                {"name": "root", "api_token": self.keys["root"]},
            ],
            roles=[
                role("root-of-the-tests", [*OF_ROOT, scopes.ADMIN], services=["root"])
            ],
            more=self.more,
        )

    # ---- servers

    def is_running(self, user: str) -> bool:
        """Whether the default server of a user runs, and nothing is pending."""
        model = self.root("GET", f"/users/{user}").json()
        server = model["servers"].get("", {})
        return bool(server.get("ready")) and not server.get("pending")

    def run(self, user: str) -> None:
        """Let a user's default server run."""
        if not self.is_running(user):
            answer = self.root("POST", f"/users/{user}/server")
            assert answer.ok, answer.text
            wait_until(
                lambda: self.is_running(user), what="the server runs", within_s=20
            )

    def halt(self, user: str) -> None:
        """Let a user's default server not run."""
        self.root("DELETE", f"/users/{user}/server")

        def is_gone() -> bool:
            model = self.root("GET", f"/users/{user}").json()
            return not model["servers"].get("")

        wait_until(is_gone, what="the server is gone", within_s=20)

    def page(self, user: str) -> dict[str, Any]:
        """Where a user's server is, and the token that it has."""
        found: dict[str, Any] = json.loads(
            (self.folder / f"server-of-{user}.json").read_text()
        )
        return found

    def server_token(self, user: str) -> str:
        """The token of a user's running server."""
        self.run(user)
        return str(self.page(user)["token"])


@contextlib.contextmanager
def role_hub(folder: Path, **more: Any) -> Iterator[RoleHub]:
    """A running hub; ended afterwards."""
    hub = RoleHub(folder, **more)
    try:
        hub.begin()
        yield hub
    finally:
        hub.end()
