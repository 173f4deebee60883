"""A real hub and its proxy as processes, where people log in as in the deployment.

Their servers are a small page behind JupyterHub's own OAuth, each a process of its own.
No engine, no root.
"""

import contextlib
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import requests

from testbed.bare_hub import ENDS_WITHIN_S, free_port
from testbed.engine import wait_until
from testbed.identity import PASSWORD, IdentityProvider
from testbed.node import proxy_command

COURSES = """
admins = ["root"]
admin_groups = ["staff"]

[course.ml101]
title = "Machine learning"
students = ["nora"]
student_groups = ["ml101-students"]
instructor_groups = ["ml101-teachers"]

[course.bio7]
student_groups = ["bio7"]
"""
STUDENTS, TEACHERS, STAFF = "ml101-students", "ml101-teachers", "staff"

CONFIGURATION = """
import os
from pathlib import Path
from torchroom import pages, roles
from torchroom.auth import wiring

c.JupyterHub.bind_url = "http://127.0.0.1:{port}"
c.JupyterHub.hub_port = {hub_port}
c.ConfigurableHTTPProxy.command = {proxy!r}
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{api_port}"
c.JupyterHub.template_paths = [pages.TEMPLATES]
c.JupyterHub.template_vars = {{"announcement": ""}}
c.JupyterHub.services = [{{"name": "root", "api_token": "{root}"}}]

who = wiring.login(os.environ, Path("."))
c.merge(who.config)
granted = roles.grant(who.membership, {{}}, admins=who.admins, services=[])
c.JupyterHub.custom_scopes = granted.custom_scopes
c.JupyterHub.load_roles = [
    *granted.load_roles,
    {{
        "name": "root",
        "scopes": ["admin:users", "admin:groups", "admin:servers", "tokens"],
        "services": ["root"],
    }},
]
c.JupyterHub.spawner_class = "simple"
c.SimpleLocalProcessSpawner.home_dir_template = "{folder}/home-{{username}}"
c.Spawner.cmd = [{python!r}, {page!r}]
c.Spawner.poll_interval = 1
{more}
"""


@dataclass
class LoginHub:
    """A running hub with its proxy."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    more: str = ""
    """Further lines of its configuration."""
    courses: str = COURSES
    port: int = field(default_factory=free_port)
    hub_port: int = field(default_factory=free_port)
    api_port: int = field(default_factory=free_port)
    key: str = field(default_factory=lambda: secrets.token_hex(16))
    process: subprocess.Popen[bytes] | None = None
    configuration: str = CONFIGURATION

    @property
    def url(self) -> str:
        """What people open."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def courses_file(self) -> Path:
        """courses.toml; read again by the hub when it changes."""
        return self.folder / "courses.toml"

    def launch(self) -> subprocess.Popen[bytes]:
        """Start the process, whatever becomes of it."""
        if not self.courses_file.exists() and self.courses:
            self.courses_file.write_text(self.courses)
        page = Path(__file__).with_name("oauth_page.py")
        (self.folder / "jupyterhub_config.py").write_text(
            self.configuration.format(
                port=self.port,
                hub_port=self.hub_port,
                api_port=self.api_port,
                proxy=proxy_command(),
                root=self.key,
                folder=self.folder,
                python=sys.executable,
                page=str(page),
                more=self.more,
            )
        )
        bin_dir = Path(sys.executable).parent
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("JUPYTERHUB_", "TORCHROOM_", "CONFIGPROXY_"))
        }
        courses = {"TORCHROOM_COURSES": str(self.courses_file)} if self.courses else {}
        with (self.folder / "hub.log").open("ab") as log:
            self.process = subprocess.Popen(
                [bin_dir / "jupyterhub", "-f", "jupyterhub_config.py"],
                cwd=self.folder,
                env=inherited
                | {"PATH": f"{bin_dir}:{inherited['PATH']}"}
                | {"TORCHROOM_PORT": str(self.port)}
                | courses
                | self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return self.process

    def begin(self) -> None:
        """Start it and wait until it answers through the proxy."""
        process = self.launch()
        wait_until(
            lambda: process.poll() is not None or self._is_up(),
            what="the hub answers",
            within_s=60,
        )
        assert process.poll() is None, self.log()[-4000:]

    def end(self) -> None:
        """End it with its proxy and its servers."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(ENDS_WITHIN_S)

    def log(self) -> str:
        """What it printed."""
        return (self.folder / "hub.log").read_text(errors="replace")

    def api(self, path: str, *, method: str = "GET", **kwargs: Any) -> Any:
        """Ask the hub's REST API as an admin's service; returns the JSON."""
        answer = self.ask(path, self.key, method=method, **kwargs)
        assert answer.ok, answer.text
        return answer.json() if answer.content else None

    def ask(
        self, path: str, token: str, *, method: str = "GET", **kwargs: Any
    ) -> requests.Response:
        """Ask the hub's REST API with somebody's token."""
        return requests.request(
            method,
            f"{self.url}/hub/api/{path}",
            headers={"Authorization": f"token {token}"},
            timeout=30,
            **kwargs,
        )

    def user(self, name: str) -> dict[str, Any]:
        """What the hub knows of somebody; without asking the provider again."""
        return dict(self.api(f"users/{name}"))

    def token_of(self, name: str) -> str:
        """A token of a user's own, with all that the user may."""
        made = self.api(f"users/{name}/tokens", method="POST", json={"note": "own"})
        return str(made["token"])

    def stop_servers(self) -> None:
        """End everybody's servers, also those that start just now."""
        wait_until(self._has_no_server, what="all servers end", within_s=60)

    def _has_no_server(self) -> bool:
        users = self.api("users?state=active")
        for user in users:
            for name in user["servers"]:  # refused while it starts: the next look
                path = f"users/{user['name']}/servers/{name}"
                self.ask(path, self.key, method="DELETE")
        return not users

    def _is_up(self) -> bool:
        with contextlib.suppress(requests.RequestException):
            return requests.get(f"{self.url}/hub/api/", timeout=5).ok
        return False


@dataclass
class Visitor:
    """Somebody with a browser that runs no scripts: real redirects, forms, cookies."""

    session: requests.Session = field(default_factory=requests.Session)

    def open(self, url: str, **kwargs: Any) -> requests.Response:
        """Open a page, wherever it leads."""
        return self.session.get(url, timeout=60, **kwargs)

    def log_in(
        self, hub: LoginHub, name: str, path: str = "/hub/home"
    ) -> requests.Response:
        """Open a page of the hub and log in at the provider where it asks."""
        return self.fill(self.open(hub.url + path), name)

    def fill(self, page: requests.Response, name: str) -> requests.Response:
        """Fill the provider's form in, if the page is it."""
        action = re.search(r'<form method="post" action="([^"]+)"', page.text)
        if action is None or "School login" not in page.text:
            return page
        return self.session.post(
            urljoin(page.url, unescape(action[1])),
            data={"login": name, "password": PASSWORD},
            timeout=60,
        )

    def start_login(self, hub: LoginHub) -> str:
        """Begin a login; returns the provider's address where it is to go on."""
        begun = self.open(f"{hub.url}/hub/oauth_login", allow_redirects=False)
        return begun.headers["Location"]

    def come_back(self, hub: LoginHub, name: str) -> str:
        """Log in at the provider; returns the address that it leads back to."""
        page = self.open(self.start_login(hub))
        while True:
            action = re.search(r'action="([^"]+)"', page.text)
            if page.is_redirect:
                target = urljoin(page.url, page.headers["Location"])
                if target.startswith(hub.url):
                    return target
                page = self.open(target, allow_redirects=False)
            elif action:
                page = self.session.post(
                    urljoin(page.url, unescape(action[1])),
                    data={"login": name, "password": PASSWORD},
                    timeout=60,
                    allow_redirects=False,
                )
            else:
                raise AssertionError(page.text)

    def home(self, hub: LoginHub) -> requests.Response:
        """Open the hub's home page, without following a way to a login."""
        return self.open(f"{hub.url}/hub/home", allow_redirects=False)


def said(page: requests.Response) -> str:
    """What a page of the hub tells a person, as text."""
    found = re.search(r'<div class="error">(.*?)</div>', page.text, re.DOTALL)
    return (
        " ".join(unescape(re.sub(r"<[^>]+>", " ", found[1])).split()) if found else ""
    )


@contextlib.contextmanager
def login_hub(
    folder: Path, provider: IdentityProvider | None = None, **kwargs: Any
) -> Iterator[LoginHub]:
    """A running hub whose people log in at a provider; ended afterwards.

    Args:
        folder: Where it keeps its files.
        provider: Must know `port`; None: the hub's own passwords.
        kwargs: Further fields of `LoginHub`.
    """
    environment = provider.environment(folder) if provider else {}
    environment |= kwargs.pop("environment", {})
    hub = LoginHub(folder, environment, **kwargs)
    try:
        hub.begin()
        yield hub
    finally:
        hub.end()
