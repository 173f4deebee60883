"""The tokens' console as a real process beside a `BareHub`, and requests to it."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import requests

from testbed.bare_hub import BareHub, free_port
from testbed.engine import wait_until

Ledgers = Callable[[], contextlib.AbstractContextManager[str]]
"""Makes empty databases; their addresses are good until the `with` ends."""

PREFIX = "/services/torchroom/"
ENDS_WITHIN_S = 30
WITHIN_S = 60
TOPUP_SECRET = "0123456789abcdef" * 4


@dataclass
class ConsoleProcess:
    """A console on one database; ask it as somebody of the hub."""

    hub: BareHub
    folder: Path
    url: str
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def base(self) -> str:
        """Where its API is."""
        return f"http://127.0.0.1:{self.port}{PREFIX}api/v1"

    def begin(self, *, waits: bool = True) -> None:
        """Start the process; by default wait until it answers."""
        secret = self.folder / "topup-secret"
        secret.write_text(TOPUP_SECRET)
        bin_dir = Path(sys.executable).parent
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("JUPYTERHUB_", "TORCHROOM_"))
        }
        environment = inherited | {
            "PATH": f"{bin_dir}:{os.environ['PATH']}",
            "JUPYTERHUB_API_URL": self.hub.api_url,
            "JUPYTERHUB_API_TOKEN": self.hub.keys["console"],
            "JUPYTERHUB_SERVICE_PREFIX": PREFIX,
            "JUPYTERHUB_SERVICE_URL": f"http://127.0.0.1:{self.port}",
            "TORCHROOM_DATA_DIR": str(self.folder),
            "TORCHROOM_LEDGER_URL": self.url,
            "TORCHROOM_TOPUP_SECRET_FILE": str(secret),
            "TORCHROOM_WELCOME_TOKENS": "0",  # so that everybody begins with nothing
            **self.environment,
        }
        with (self.folder / "console.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "torchroom.console"],
                cwd=self.folder,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        if waits:
            wait_until(
                self.is_up_or_dead, what="the console answers", within_s=WITHIN_S
            )
            assert self.process.poll() is None, self.log()[-4000:]

    def end(self) -> int:
        """End the process as the hub does; return its exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(ENDS_WITHIN_S)

    def log(self) -> str:
        """What it printed."""
        return (self.folder / "console.log").read_text(errors="replace")

    def is_up_or_dead(self) -> bool:
        """Does it answer, or will it never?"""
        assert self.process is not None
        if self.process.poll() is not None:
            return True
        with contextlib.suppress(requests.RequestException):
            return requests.get(f"{self.base}/health", timeout=5).status_code > 0
        return False

    def ask(
        self,
        method: str,
        path: str,
        token: str | None = None,
        *,
        key: str | bool = True,
        **more: Any,
    ) -> requests.Response:
        """Send a request with this token; posts get a fresh idempotency key."""
        headers = dict(more.pop("headers", {}))
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        if method == "POST" and key:
            headers["Idempotency-Key"] = key if isinstance(key, str) else uuid4().hex
        return requests.request(
            method, self.base + path, headers=headers, timeout=60, **more
        )

    def get(self, path: str, token: str, **query: Any) -> Any:
        """What a GET answers; it must succeed."""
        answer = self.ask("GET", path, token, params=query)
        assert answer.status_code == requests.codes.ok, (path, answer.text)
        return answer.json()

    def post(self, path: str, token: str, body: dict[str, Any], **more: Any) -> Any:
        """What a POST answers; it must succeed."""
        answer = self.ask("POST", path, token, json=body, **more)
        assert answer.ok, (path, answer.text)
        return answer.json()


@contextlib.contextmanager
def console_process(
    hub: BareHub, folder: Path, url: str, **environment: str
) -> Iterator[ConsoleProcess]:
    """A running console; ended afterwards."""
    console = ConsoleProcess(hub, folder, url, environment=environment)
    try:
        console.begin()
        yield console
    finally:
        console.end()
