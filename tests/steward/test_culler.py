"""Servers without GPU end exactly when jupyterhub-idle-culler 2 would end them."""

import random
from datetime import datetime, timedelta
from itertools import product
from typing import Any

import pytest
from steward.lab import LONG_AGO, NOW, iso
from testbed.idle_culler import culled
from torchroom.steward.model import Reason, Server, Told, Verdict
from torchroom.steward.policy import judge
from torchroom.steward.rules import Rules

TIMEOUT, MAX_AGE = timedelta(minutes=90), timedelta(hours=8)
TICK = timedelta(microseconds=1)
AROUND = [timedelta(), TIMEOUT - TICK, TIMEOUT, TIMEOUT + TICK, MAX_AGE - TICK,
          MAX_AGE, MAX_AGE + TICK, timedelta(days=9)]  # fmt: skip
TOLD = [Told("", reason, LONG_AGO, NOW) for reason in Reason]
"""They do not warn; ours were warned of this moment."""


def cases() -> list[tuple[datetime | None, datetime | None]]:
    """Starts and last activities: every edge with every edge, and hundreds between."""
    edges = [None, *(NOW - each for each in AROUND)]
    found = list(product(edges, edges))
    source = random.Random(7)  # noqa: S311 - cases, not secrets
    for _ in range(400):
        started = NOW - timedelta(seconds=source.uniform(0, 50_000))
        active = started + timedelta(seconds=source.uniform(-100, 50_000))
        found.append((started, source.choice([None, active])))
    return found


def user_model(name: str, server: str, started: datetime | None,
               active: datetime | None) -> dict[str, Any]:  # fmt: skip
    model = {
        "name": server,
        "ready": True,
        "pending": None,
        "url": f"/user/{name}/",
        "started": iso(started),
        "last_activity": iso(active),
    }
    return {"name": name, "servers": {server: model}}


@pytest.mark.parametrize("max_age", [None, MAX_AGE])
@pytest.mark.parametrize("limit", [TIMEOUT, timedelta(seconds=600)])
async def test_the_same_servers_end(
    limit: timedelta, max_age: timedelta | None
) -> None:
    rules = Rules(cpu_idle=limit, max_age=max_age)
    users, ours = [], set()
    for i, (started, active) in enumerate(cases()):
        name, server = f"user{i}", "lab" if i % 3 == 0 else ""
        users.append(user_model(name, server, started, active))
        found = Server(
            "ls", name, server, "cpu", "",
            ready_at=NOW, started_at=started, last_activity=active,
        )  # fmt: skip
        judged = [judge(found, rules, [], NOW, told) for told in TOLD]
        if any(each.verdict is Verdict.STOP for each in judged):
            ours.add((name, server))
    options = {
        "inactive_limit": int(limit.total_seconds()),
        "max_age": int(max_age.total_seconds()) if max_age else 0,
    }
    # Theirs raises an error of its own where neither time is known, and goes on.
    theirs = await culled(users, NOW, options)
    assert ours == theirs
    assert 50 < len(ours) < len(users) - 50


async def test_nor_are_servers_stopped_that_are_not_ready() -> None:
    """Theirs asks the hub for ready ones, and looks again; so does ours (`looking`)."""
    user = user_model("ann", "", LONG_AGO, LONG_AGO)
    user["servers"][""] |= {"ready": False, "pending": "stop"}
    assert await culled([user], NOW, {"inactive_limit": 60}) == set()
