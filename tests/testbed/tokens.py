"""Tokens on a test's own hub: how they are counted there, and what its ledger holds.

The ledger's database is read by itself, and what it should hold is computed from prices
and from the engine's times: nothing here knows the product's code.
"""

import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import docker
import psycopg
import requests

from testbed.engine import wait_until
from testbed.hub import JSON, REQUEST_TIMEOUT_S, Deployment, User

TOKEN = 1_000_000
HOUR_S = 3600
MICROS = 1_000_000
SEEN_WITHIN_S = 30
API = "/services/torchroom/api/v1"


@dataclass(frozen=True)
class Tokens:
    """How a hub counts tokens.

    Attributes:
        prices: Type of slot -> tokens per hour, as the price list has them.
        welcome: Tokens that every new user gets.
        hold_s: Seconds that a hold covers.
        warn_s: Seconds left at which a user is warned.
        stop_lead_s: Seconds left at which a server is stopped.
        url: The ledger's database; "": a file in the hub's folder.
    """

    prices: Mapping[str, str]
    welcome: str = "1000"
    hold_s: int = 60
    warn_s: tuple[int, ...] = ()
    stop_lead_s: int = 5
    url: str = ""

    def environment(self, folder: Path) -> dict[str, str]:
        """Write the price list into the hub's folder; returns the hub's variables."""
        rows = [f'"{type_}" = "{price}"' for type_, price in self.prices.items()]
        prices = folder / "prices.toml"
        prices.write_text("\n".join(["[tokens_per_hour]", *rows, ""]))
        return {
            "TORCHROOM_DATA_DIR": str(folder),
            "TORCHROOM_PRICES": str(prices),
            "TORCHROOM_WELCOME_TOKENS": self.welcome,
            "TORCHROOM_LEDGER_URL": self.url or f"sqlite:///{folder}/ledger.sqlite",
        }


@dataclass(frozen=True)
class LeaseRow:
    """A lease as the ledger keeps it; times in microseconds, 0 is never.

    `slot_types` is a JSON list.
    """

    id: str
    user: str
    server: str
    per_hour: int
    ready_at: int
    settled_s: int
    charged: int
    ended_at: int
    closed_at: int
    reason: str
    slot_types: str

    @property
    def ready_s(self) -> float:
        """When its meter began to run, in seconds."""
        return self.ready_at / MICROS


_COLUMNS = (
    'id, "user", server, per_hour, ready_at, settled_s, charged, ended_at, closed_at,'
    " reason, slot_types"
)


@dataclass(frozen=True)
class Ledger:
    """A hub's ledger, read from its database and asked over its API."""

    hub: Deployment
    url: str

    def is_up(self) -> bool:
        """Does its API answer?"""
        try:
            url = f"{self.hub.url}{API}/health"
            return requests.get(url, timeout=5).status_code == HTTPStatus.OK
        except requests.RequestException:
            return False

    def wait_up(self) -> None:
        """Wait until its API answers."""
        wait_until(self.is_up, what="the ledger answers", within_s=SEEN_WITHIN_S)

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """The answer of a query that changes nothing."""
        path = self.url.removeprefix("sqlite:///")
        if path == self.url:
            with psycopg.connect(self.url) as server:
                marked = query.replace("?", "%s").encode()
                return server.execute(marked, values).fetchall()
        place = f"file:{path}?mode=ro"
        with closing(sqlite3.connect(place, uri=True, timeout=30)) as file:
            return list(file.execute(query, values))

    def leases(self, user: User) -> list[LeaseRow]:
        """The user's leases, in the order they were held."""
        query = f'SELECT {_COLUMNS} FROM leases WHERE "user" = ? ORDER BY held_at'  # noqa: S608
        return [LeaseRow(*row) for row in self.rows(query, user.name)]

    def lease(self, user: User, server: str = "") -> LeaseRow:
        """The user's last lease with this server name."""
        return [row for row in self.leases(user) if row.server == server][-1]

    def wait_closed(self, user: User, server: str = "") -> LeaseRow:
        """The user's last lease, when its charge is final."""
        wait_until(
            lambda: self.lease(user, server).closed_at,
            what=f"the lease of {user} is closed: {self.leases(user)}",
            within_s=SEEN_WITHIN_S,
        )
        return self.lease(user, server)

    def wait_ready(self, user: User, server: str = "") -> LeaseRow:
        """The user's last lease, when its meter runs."""
        wait_until(
            lambda: self.lease(user, server).ready_at,
            what=f"the meter of {user} runs: {self.leases(user)}",
            within_s=SEEN_WITHIN_S,
        )
        return self.lease(user, server)

    def balance(self, user: User) -> int:
        """The sum of what was ever posted to the user's accounts."""
        ((found,),) = self.rows(
            "SELECT coalesce(sum(amount), 0) FROM postings JOIN accounts"
            " ON accounts.id = account_id WHERE kind = 'user' AND name = ?",
            user.name,
        )
        return int(found)

    def held(self) -> int:
        """What is reserved for all leases together."""
        ((found,),) = self.rows(
            "SELECT coalesce(sum(amount), 0) FROM postings JOIN accounts"
            " ON accounts.id = account_id WHERE kind = 'holds'"
        )
        return int(found)

    def api(
        self, user: User, method: str, path: str, **kwargs: Any
    ) -> requests.Response:
        """One request to the ledger's API with a user's token."""
        return ask(self.hub, user.token, method, path, **kwargs)

    def statement(self, user: User) -> list[JSON]:
        """The user's history, the oldest first, as the admin reads it."""
        found: list[JSON] = []
        cursor = ""
        while True:
            path = f"/users/{user.name}/history?limit=200{cursor}"
            reply = self.api(self.hub.admin_user, "GET", path)
            assert reply.ok, reply.text
            page = reply.json()
            found += page["items"]
            if page["next"] is None:
                return found[::-1]
            cursor = f"&cursor={page['next']}"

    def grant(self, user: User, microtokens: int) -> None:
        """Let the admin give a user tokens."""
        reply = self.api(
            self.hub.admin_user,
            "POST",
            f"/users/{user.name}/grants",
            json={"microtokens": microtokens},
            headers={"Idempotency-Key": uuid4().hex},
        )
        assert reply.ok, reply.text


def ask(
    hub: Deployment, token: str, method: str, path: str, **kwargs: Any
) -> requests.Response:
    """One request to a hub's ledger with this token, as people send it."""
    headers = {"Authorization": f"token {token}"} | kwargs.pop("headers", {})
    return requests.request(
        method,
        f"{hub.url}{API}{path}",
        headers=headers,
        timeout=REQUEST_TIMEOUT_S,
        **kwargs,
    )


def charge(per_hour: int, seconds: int) -> int:
    """What so many whole seconds cost."""
    return per_hour * seconds // HOUR_S


@dataclass
class Deaths:
    """When containers ended, as the engine tells it at the moment it happens."""

    at: dict[str, float] = field(default_factory=dict)

    def of(self, container: str, *, within_s: float = SEEN_WITHIN_S) -> float:
        """When this container ended, in seconds; waits until it did."""
        return wait_until(
            lambda: self.at.get(container, 0.0),
            what=f"the engine tells of the end of {container}",
            within_s=within_s,
        )


@contextmanager
def deaths(engine: docker.DockerClient) -> Iterator[Deaths]:
    """Listen to the engine for ends of containers."""
    seen = Deaths()
    filters = {"type": "container", "event": "die"}
    # From a moment ago, and in a thread: none is missed before it listens.
    events = engine.events(since=int(time.time()) - 1, filters=filters, decode=True)

    def listen() -> None:
        for event in cast("Iterator[JSON]", events):
            seen.at.setdefault(event["Actor"]["ID"], event["timeNano"] / 1e9)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield seen
    finally:
        events.close()
        listener.join(SEEN_WITHIN_S)
