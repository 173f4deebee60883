"""jupyterhub-credit-service's own code at work: one process, its own environment.

    loop.py passes --folder F --servers N    the billing loop: N users with a server
    loop.py wallet --folder F --servers N    N starts at once, of a project that has
                                             the tokens for half of them

JupyterHub is initialised as it would be for a real hub (its database on SQLite, its own
Users and Spawners), and the loop that its authenticator starts is the one that is
measured. Stand-ins: a server is no process but says that it runs; the clock that the
loop reads jumps, so that an hour is over soon. Prints one line of JSON.
"""

import argparse
import asyncio
import json
import logging
import os
import sys
from collections.abc import Awaitable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jupyterhub_credit_service.authenticator as loop
from jupyterhub import orm
from jupyterhub.app import JupyterHub
from jupyterhub.auth import DummyAuthenticator
from jupyterhub.utils import utcnow
from jupyterhub_credit_service import CreditsAuthenticator, CreditsSpawner
from jupyterhub_credit_service.orm import (
    CreditsProject,
    CreditsUser,
    CreditsUserValues,
)
from jupyterhub_credit_service.spawner import CreditsException
from tokens.watch import Took, rss_mib, watch
from traitlets.config import Config

INTERVAL_S, VALUE = 600, 10  # what it charges, and for how long: its defaults
STEP_S = 60  # from one pass to the next: its default
N_STEADY = 5  # passes; in each a tenth of the servers is due
LARGE = 10**6
N_PROJECTS = 100
PROJECT_EVERY = 3  # every third server runs on a project
WEEK_S = 7 * 86400  # nothing is granted meanwhile: only charging is measured
STOP_WITHIN_S = 120.0


class Clock:
    """The time of the loop under test."""

    now: ClassVar[datetime] = utcnow(with_tz=False)

    @classmethod
    def read(cls, *, with_tz: bool = True) -> datetime:  # noqa: ARG003 - their call
        """Return it, as jupyterhub.utils.utcnow does."""
        return cls.now


class Authenticator(DummyAuthenticator, CreditsAuthenticator):
    """Logs nobody in; stops before each pass until it is let through."""

    def __init__(self, **kwargs: Any) -> None:
        self.go, self.done = asyncio.Event(), asyncio.Event()
        super().__init__(**kwargs)
        self.credits_task_post_hook = self._wait

    async def _wait(self) -> None:
        self.done.set()
        await self.go.wait()
        self.go.clear()

    async def one_pass(self) -> Took:
        """Run the loop's body once."""
        await self.done.wait()
        self.done.clear()
        async with watch() as took:
            self.go.set()
            await self.done.wait()
        return took


class Spawner(CreditsSpawner):
    """A server that is no process."""

    async def start(self) -> tuple[str, int]:
        """Say where it would be."""
        return "127.0.0.1", 1

    async def poll(self) -> None:
        """Say that it runs."""

    async def stop(self, now: bool = False) -> None:
        """Do nothing."""


async def hub(folder: Path) -> JupyterHub:
    """Initialise JupyterHub with the credit service."""
    loop.utcnow = Clock.read
    config = Config()
    config.JupyterHub.db_url = f"sqlite:///{folder / 'jupyterhub.sqlite'}"
    config.JupyterHub.cookie_secret = bytes(32)
    config.JupyterHub.authenticator_class = Authenticator
    config.JupyterHub.spawner_class = Spawner
    config.JupyterHub.log_level = logging.WARNING
    config.ConfigurableHTTPProxy.auth_token = "0" * 64
    config.ConfigurableHTTPProxy.should_start = False
    config.ConfigurableHTTPProxy.pid_file = str(folder / "proxy.pid")
    config.Authenticator.allow_all = True
    config.CreditsAuthenticator.credits_task_interval = 0
    app = JupyterHub(config=config)
    await app.initialize([])
    return app


def _wallet(kind: type, name: str, balance: int, **more: Any) -> Any:
    return kind(
        name=name,
        balance=balance,
        cap=LARGE,
        grant_value=1,
        grant_interval=WEEK_S,
        grant_last_update=Clock.now,
        user_options={},
        **more,
    )


def seed(
    app: JupyterHub, projects: list[Any], own: int, n: int, project_every: int
) -> list[Any]:
    """Put n users with one ready server each into the database; return the servers."""
    db, started = app.db, Clock.now - timedelta(hours=1)
    db.add_all(projects)
    rows = []
    for i in range(n):
        name = f"user{i}"
        user = orm.User(name=name)
        server = orm.Server(ip="127.0.0.1", port=1, base_url=f"/user/{name}/")
        state = {"billing_value": VALUE, "billing_interval": INTERVAL_S}
        row = orm.Spawner(
            user=user, name="", server=server, state=state, started=started
        )
        bills = CreditsUser(name=name, spawner_bills={})
        project = None
        if i % project_every == 0:
            project = projects[i // project_every % len(projects)]
        wallet = _wallet(CreditsUserValues, "own", own, project=project)
        wallet.credits_user = bills
        rows.append((user, row, bills))
        db.add_all([user, row, wallet])
    db.commit()
    for i, (_, row, bills) in enumerate(rows):
        paid = Clock.now - timedelta(seconds=i * INTERVAL_S / n)
        bills.spawner_bills[str(row.id)] = paid.isoformat()
    db.commit()
    servers = [app.users[user].spawners[""] for user, _, _ in rows]
    if not all(server.ready for server in servers):
        raise SystemExit("the credit service's servers are not ready")
    return servers


def _left(app: JupyterHub) -> int:
    wallets = [*app.db.query(CreditsUserValues), *app.db.query(CreditsProject)]
    return sum(wallet.balance for wallet in wallets)


async def passes(folder: Path, n: int) -> dict[str, Any]:
    """Measure passes: nothing due, the steady state, and everything due."""
    app = await hub(folder)
    projects = [_wallet(CreditsProject, f"p{i}", LARGE) for i in range(N_PROJECTS)]
    before = rss_mib()
    servers = seed(app, projects, LARGE, n, PROJECT_EVERY)
    authenticator = app.authenticator
    await authenticator.one_pass()
    idle = await authenticator.one_pass()
    steady = []
    for _ in range(N_STEADY):
        Clock.now += timedelta(seconds=STEP_S)
        steady.append(await authenticator.one_pass())
    Clock.now += timedelta(seconds=INTERVAL_S)
    had = _left(app)
    everything = await authenticator.one_pass()
    return {
        "servers": len(servers),
        "idle": vars(idle),
        "steady": [vars(took) for took in steady],
        "everything": vars(everything),
        "charged at once": (had - _left(app)) / VALUE,
        "memory MiB": rss_mib() - before,
    }


async def _may_start(check: Awaitable[Any]) -> bool:
    try:
        await check
    except CreditsException:
        return False
    return True


async def wallet(folder: Path, n: int) -> dict[str, Any]:
    """Measure how many of n starts at once pass on tokens for half of them."""
    app = await hub(folder)
    project = _wallet(CreditsProject, "class", n // 2 * VALUE)
    servers = seed(app, [project], 0, n, 1)
    for server in servers:
        app.db.query(CreditsUser).filter_by(
            name=server.user.name
        ).one().spawner_bills = {}
    app.db.commit()
    async with watch() as took:
        checks = (_may_start(server.run_pre_spawn_hook()) for server in servers)
        started = sum(await asyncio.gather(*checks))
    await app.authenticator.one_pass()
    async with asyncio.timeout(STOP_WITHIN_S):
        while any(server.pending for server in servers):  # noqa: ASYNC110 - theirs
            await asyncio.sleep(0.05)
    return {
        "starts": n,
        "tokens for": n // 2,
        "started": started,
        "stopped by the next pass": sum(not server.ready for server in servers),
        "wall_s": took.wall_s,
        "loop_ms": took.loop_ms,
    }


async def _print(measured: Awaitable[dict[str, Any]]) -> None:
    print(json.dumps(await measured), flush=True)
    os._exit(0)  # the loop catches everything, its own cancellation too


def main() -> None:
    """Measure one thing and print it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["passes", "wallet"])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--servers", type=int, required=True)
    given = parser.parse_args()
    measure = {"passes": passes, "wallet": wallet}[given.what]
    asyncio.run(_print(measure(given.folder, given.servers)))


if __name__ == "__main__":
    main()
