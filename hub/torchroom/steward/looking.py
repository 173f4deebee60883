"""From the hub's answers to servers: who runs what, since when, and computes. Pure.

What is not said, or said in another way than expected, is unknown: such a server is not
judged, and if the answers themselves make no sense nothing is.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from torchroom.steward.model import GpuUse, Server, Use

VERSION = 1  # of the plugin's answer, see gpuspawner.view
SKEW_MAX = timedelta(minutes=2)
ACTIVE = "active"
_WORST = {"healthy": 0, "probation": 1, "draining": 2, "quarantined": 3}


class Odd(Exception):
    """The answers make no sense; a sentence."""


@dataclass(frozen=True, slots=True)
class Unjudged:
    """A server of which too little is known.

    Attributes:
        lease: Its lease.
        user: Its owner.
        server: "" for the default server.
        why: One sentence.
    """

    lease: str
    user: str
    server: str
    why: str


@dataclass(frozen=True, slots=True)
class Found:
    """What runs on the hub.

    Attributes:
        servers: Those that can be judged.
        unjudged: Those that cannot.
        active: The ids of all leases whose servers run.
    """

    servers: tuple[Server, ...]
    unjudged: tuple[Unjudged, ...]
    active: frozenset[str]


Row = Mapping[str, Any]


def found(gpus: Any, users: Sequence[Any], now: datetime) -> Found:
    """Return what runs.

    Args:
        gpus: Answer to `GET /gpus`.
        users: The users of `GET /users?state=ready`.
        now: Aware.

    Raises:
        Odd: See there.
    """
    try:
        _check(gpus, now)
        health = {device["uuid"]: device["health"] for device in gpus["devices"]}
        running = dict(_running(users))
        leases = [dict(lease) for lease in gpus["leases"]]
        active = frozenset(row["id"] for row in leases if row["state"] == ACTIVE)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Odd("The hub's answers cannot be read.") from error
    servers, unjudged = [], []
    for row in leases:
        if row["id"] not in active:
            continue
        lease, user, name = str(row["id"]), str(row.get("user")), str(row.get("server"))
        model = running.get((user, name))
        if model is None:
            why = "The hub does not list it among the servers that are ready."
            unjudged.append(Unjudged(lease, user, name, why))
            continue
        try:
            servers.append(_server(row, model, health))
        except (KeyError, TypeError, ValueError, AttributeError):
            why = "What the hub says of it cannot be read."
            unjudged.append(Unjudged(lease, user, name, why))
    return Found(tuple(servers), tuple(unjudged), active)


def _check(gpus: Any, now: datetime) -> None:
    if gpus["version"] != VERSION:
        raise Odd(
            f"The hub's list of GPUs has version {gpus['version']}, this steward knows "
            f"{VERSION}. Update both together."
        )
    if gpus["is_ready"] is not True:
        raise Odd("The hub has not read yet which servers run.")
    if abs(_time(gpus["at"]) - now) > SKEW_MAX:
        raise Odd("The clocks of hub and steward differ by minutes.")


def _running(users: Sequence[Any]) -> Iterator[tuple[tuple[str, str], Row]]:
    for user in users:
        for name, server in user["servers"].items():
            if server["ready"] is True and not server["pending"]:
                yield (user["name"], name), server


def _server(row: Row, model: Row, health: Mapping[str, Row]) -> Server:
    if not row["offer"]:  # what holds for its size may be less strict than the default
        raise ValueError("no size")
    started = _time_or_none(model["started"])
    ready = _time_or_none(row["ready_at"]) or started
    if ready is None:
        raise ValueError("no start")
    worst = max(
        (health[slot["device"]] for slot in row["slots"]),
        key=lambda each: _WORST.get(each["state"], 0),
        default=None,
    )
    return Server(
        lease=str(row["id"]),
        user=str(row["user"]),
        name=str(row["server"]),
        offer=str(row["offer"]),
        course=str(row["course"] or ""),
        ready_at=ready,
        started_at=started,
        last_activity=_time_or_none(model["last_activity"]),
        gpu=_use(row["use"], len(row["slots"])) if row["slots"] else None,
        health=str(worst["state"]) if worst else "healthy",
        health_why=str(worst["reason"] or "") if worst else "",
        tokens_end_at=_time_or_none(row["tokens_end_at"]),
    )


def _use(row: Row | None, n_slots: int) -> GpuUse:
    if row is None:
        return GpuUse(Use.UNKNOWN, None, "The hub does not say.", n_slots)
    state, since = Use(row["state"]), _time_or_none(row["idle_since"])
    why = str(row["why"])
    if state is Use.IDLE and since is None:
        return GpuUse(
            Use.UNKNOWN, None, "Idle, but it is not known since when.", n_slots
        )
    return GpuUse(state, since if state is Use.IDLE else None, why, n_slots)


def _time(value: Any) -> datetime:
    at = datetime.fromisoformat(value)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _time_or_none(value: Any) -> datetime | None:
    return None if value is None else _time(value)
