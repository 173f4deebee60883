"""What the lists of bad input have in common: how each line is sent and judged."""

import contextlib
import json
import socket
import sqlite3
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from testbed.role_hub import ADMIN_PASSWORD, PASSWORD, RoleHub

LONG, HUGE = "x" * 300, "x" * 100_000
ANSWER_WITHIN_S = 20


@dataclass(frozen=True)
class Try:
    """One bad input.

    Attributes:
        what: What is wrong with it.
        method: Of HTTP.
        path: Below the hub's address.
        body: As it is sent; a dict is sent as a form.
        who: Whose token or browser; "nobody": none.
        headers: Further ones.
        ends_at: Where the answer may lead to instead of being an error.
    """

    what: str
    method: str
    path: str
    body: Any = None
    who: str = "alice"
    headers: dict[str, str] = field(default_factory=dict)
    ends_at: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.method} {self.path[:60]} {self.what}"


@dataclass
class Watched:
    """A hub of which nothing must change, and that must not print a traceback."""

    hub: RoleHub
    _seen: int = 0
    _state: dict[str, Any] = field(default_factory=dict)

    def begin(self) -> None:
        """Note what is there."""
        for user in ("alice", "ada"):
            self.hub.token(user)
        self._seen, self._state = len(self.hub.log()), self.state()

    def state(self) -> dict[str, Any]:
        """Everything of the hub that a bad input could have changed: its database."""
        found: dict[str, Any] = {}
        path = self.hub.folder / "jupyterhub.sqlite"
        with contextlib.closing(
            sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        ) as db:
            tables = db.execute("select name from sqlite_master where type = 'table'")
            for (table,) in tables.fetchall():
                rows = db.execute(f'select * from "{table}"')  # noqa: S608 - its own
                names = [column[0] for column in rows.description]
                found[table] = [
                    {
                        name: value
                        for name, value in zip(names, row, strict=True)
                        if name != "last_activity"
                    }
                    for row in rows
                ]
        health = (self.hub.folder / "gpuspawner-health.json").read_text()
        devices = json.loads(health)["devices"]
        words = [(uuid, device.get("override")) for uuid, device in devices.items()]
        return found | {"words on GPUs": words}

    def check(self, answer: requests.Response, *ends_at: str) -> None:
        """Fail if this answer is not a refusal, or if anything changed."""
        told = (answer.status_code, dict(answer.headers), answer.text[:1000])
        if answer.is_redirect:
            target = urljoin(answer.url, answer.headers["Location"])
            base = urlsplit(answer.url)
            assert urlsplit(target)[:2] == base[:2], told
            assert urlsplit(target).path in {"/hub/login", *ends_at}, told
        else:
            assert 400 <= answer.status_code < 500, told
        assert "Traceback" not in answer.text, told
        self.check_quiet()

    def check_quiet(self) -> None:
        """Fail if there is a traceback in the log, or if anything changed."""
        log = self.hub.log()
        new, self._seen = log[self._seen :], len(log)
        assert "Traceback" not in new, new
        before, self._state = self._state, self.state()
        for name, was in before.items():
            now = self._state[name]
            assert now == was, (name, [row for row in now if row not in was])


def browser(hub: RoleHub, name: str) -> requests.Session:
    """Somebody's browser, logged in by password."""
    session = requests.Session()
    url = hub.api_url.removesuffix("/api") + "/login"
    session.get(url, timeout=ANSWER_WITHIN_S)
    password = ADMIN_PASSWORD if name in {"ada", "adam", "ivy", "otto"} else PASSWORD
    answer = session.post(
        url,
        data={"username": name, "password": password, "_xsrf": xsrf(session)},
        allow_redirects=False,
        timeout=ANSWER_WITHIN_S,
    )
    assert answer.status_code == 302, answer.text
    return session


def xsrf(session: requests.Session) -> str:
    """What a form of the hub's must carry."""
    jar: Any = session.cookies
    return str(jar.get("_xsrf", path="/hub/"))


def raw(port: int, data: bytes) -> bytes:
    """What a server answers to these bytes before it closes the connection."""
    found = b""
    with (
        socket.create_connection(("127.0.0.1", port), ANSWER_WITHIN_S) as connection,
        contextlib.suppress(ConnectionError),  # it may close before it has read all
    ):
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        while block := connection.recv(65536):
            found += block
    return found
