"""A school's identity provider: the certified `oidc-provider` of npm, on the loopback.

It asks for PKCE, hands out refresh tokens, and does on demand what a provider should
not: tampered and expired tokens, missing claims, no answer.
"""

import contextlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from testbed.bare_hub import free_port
from testbed.engine import wait_until
from testbed.node import node, packages

HERE = Path(__file__).with_name("oidc")
CLIENT_ID = "torchroom"
CLIENT_SECRET = "the-client-secret-of-this-test-only"
PASSWORD = "the-schools-password"
UP_WITHIN_S = 30


@dataclass
class IdentityProvider:
    """A running provider."""

    folder: Path
    redirect_uris: list[str]
    port: int = field(default_factory=free_port)
    control_port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def issuer(self) -> str:
        """Its name and address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def discovery_url(self) -> str:
        """Where it describes itself."""
        return f"{self.issuer}/.well-known/openid-configuration"

    def begin(self) -> None:
        """Start it and wait until it answers; accounts are gone, the ports the same."""
        settings = {
            "port": self.port,
            "control_port": self.control_port,
            "client_id": CLIENT_ID,
            "client_secret": CLIENT_SECRET,
            "redirect_uris": self.redirect_uris,
            "post_logout_redirect_uris": [
                uri.removesuffix("oauth_callback") for uri in self.redirect_uris
            ],
        }
        modules = packages(HERE) / "node_modules"
        command = [str(node()), str(HERE / "provider.mjs"), str(modules)]
        with (self.folder / "provider.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, json.dumps(settings)], stdout=log, stderr=subprocess.STDOUT
            )
        wait_until(self._is_up_or_dead, what="the provider", within_s=UP_WITHIN_S)
        assert self.process.poll() is None, self.log()

    def end(self) -> None:
        """End it."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(UP_WITHIN_S)

    def log(self) -> str:
        """What it printed."""
        return (self.folder / "provider.log").read_text(errors="replace")

    def account(self, name: str, *groups: str, **claims: Any) -> str:
        """Make or change an account; returns its name, which is its `sub`, too.

        Args:
            name: Also its preferred_username, unless `claims` says another.
            groups: The claim `groups`.
            claims: Further claims.
        """
        told = {
            "preferred_username": name,
            "name": name.title(),
            "email": f"{name}@school.example",
            "email_verified": True,
            "groups": list(groups),
        }
        self._control(
            "PUT",
            "accounts",
            {"name": name, "password": PASSWORD, "claims": told | claims},
        )
        return name

    def remove(self, name: str) -> None:
        """Delete an account with its sessions and tokens."""
        self._control("DELETE", "accounts", {"name": name})

    def forget(self, name: str) -> None:
        """End an account's sessions and revoke its tokens."""
        self._control("POST", "forget", {"name": name})

    def behave(self, **options: Any) -> None:
        """Misbehave from now on; provider.mjs lists the options."""
        self._control("POST", "options", options)

    def reset(self) -> None:
        """Behave well again, and forget what was seen."""
        self._control("POST", "reset", {})

    def seen(self) -> dict[str, list[dict[str, Any]]]:
        """What hubs asked for since the last reset, by endpoint."""
        return dict(self._control("GET", "seen", None))

    def environment(self, folder: Path) -> dict[str, str]:
        """The variables of a hub whose people log in here.

        Args:
            folder: Gets the file with the secret.
        """
        secret = folder / "client-secret"
        secret.write_text(CLIENT_SECRET)
        return {
            "TORCHROOM_LOGIN": "oidc",
            "TORCHROOM_OAUTH_DISCOVERY_URL": self.discovery_url,
            "TORCHROOM_OAUTH_CLIENT_ID": CLIENT_ID,
            "TORCHROOM_OAUTH_CLIENT_SECRET_FILE": str(secret),
        }

    def _control(self, method: str, path: str, body: Any) -> Any:
        url = f"http://127.0.0.1:{self.control_port}/{path}"
        answer = requests.request(method, url, json=body, timeout=20)
        answer.raise_for_status()
        return answer.json()

    def _is_up_or_dead(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            return True
        with contextlib.suppress(requests.RequestException):
            return requests.get(self.discovery_url, timeout=5).ok
        return False


@contextlib.contextmanager
def identity_provider(folder: Path, *hub_urls: str) -> Iterator[IdentityProvider]:
    """A running provider that knows the hubs at these URLs; ended afterwards."""
    uris = [f"{url}/hub/oauth_callback" for url in hub_urls]
    provider = IdentityProvider(folder, uris)
    try:
        provider.begin()
        yield provider
    finally:
        provider.end()
