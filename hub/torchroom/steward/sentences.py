"""What users read about the end of their servers. Pure."""

import math
from datetime import datetime, timedelta

from torchroom.steward.model import Reason, Server

STOPPED = "Your last server stopped: "
"""How the form of the hub begins a reason; see gpuspawner.exits."""

SHOWN = 80  # characters of what is wrong with a GPU: JupyterLab shows 140 in all
_MINUTE_S = 60
_LONG_MINUTES = 120
_DAY_HOURS = 48

FILES = "Your files are kept; what is only in memory is lost."
AGAIN = "Your files are kept; start it again when you need it."


def span(lasts: timedelta) -> str:
    """Return a duration as people say it, rounded up: "1 minute", "3 hours"."""
    minutes = max(1, math.ceil(lasts.total_seconds() / _MINUTE_S))
    if minutes <= _LONG_MINUTES:
        return _count(minutes, "minute")
    hours = round(minutes / 60)
    return _count(hours, "hour") if hours <= _DAY_HOURS else f"{round(hours / 24)} days"


def warning(
    server: Server,
    reason: Reason,
    stops_at: datetime | None,
    now: datetime,
    *,
    can_extend: bool,
) -> str:
    """Return what happens, when, and what the user can do."""
    if stops_at is None:
        return (
            f"{_sick(server)} What runs on it may end first; then this server stops. "
            "Save your work."
        )
    ahead = span(stops_at - now)
    when = (
        f"This server stops in {ahead}" if stops_at > now else "This server stops now"
    )
    what = _present(server, reason, stops_at, now)
    return " ".join(
        filter(None, [what, f"{when}.", FILES, _advice(server, reason, can_extend)])
    )


def stopped(server: Server, reason: Reason, now: datetime) -> str:
    """Return why a server was stopped, for its user's next visit."""
    return f"{STOPPED}{_past(server, reason, now)}. {AGAIN}"


def _count(n: int, unit: str) -> str:
    return f"{n} {unit}" if n == 1 else f"{n} {unit}s"


def _gpu(server: Server) -> str:
    return "GPUs" if server.gpu and server.gpu.n_slots > 1 else "GPU"


def _idle_for(server: Server, now: datetime) -> str:
    since = server.gpu.idle_since if server.gpu else None
    return span(now - since) if since else "some time"


def _unused_for(server: Server, now: datetime) -> str:
    since = server.last_activity or server.started_at
    return span(now - since) if since else "some time"


def _age(server: Server, at: datetime) -> str:
    is_cpu = server.gpu is None  # see policy
    since = (server.started_at if is_cpu else None) or server.ready_at
    return span(at - since)


def _sick(server: Server) -> str:
    said = server.health_why.rstrip(".")
    why = f": {said[:SHOWN]}{'...' * (len(said) > SHOWN)}" if said else ""
    return f"A GPU of this server is taken out of service{why}."


def _present(server: Server, reason: Reason, stops_at: datetime, now: datetime) -> str:
    match reason:
        case Reason.IDLE:
            verb = "have" if _gpu(server) == "GPUs" else "has"
            return (
                f"The {_gpu(server)} of this server {verb} computed nothing for "
                f"{_idle_for(server, now)}."
            )
        case Reason.CPU_IDLE:
            return f"Nothing happened on this server for {_unused_for(server, now)}."
        case Reason.MAX_AGE:
            return f"It may run for {_age(server, stops_at)} in all."
        case Reason.WINDOW_OVER:
            return f"The hours of the course {server.course} are over then."
        case Reason.TOKENS:
            return "Your tokens for this server are used up soon."
        case Reason.HEALTH:
            return _sick(server)


def _advice(server: Server, reason: Reason, can_extend: bool) -> str:
    match reason:
        case Reason.IDLE:
            also = " or extend it" if can_extend else ""
            return f"To keep it, compute on the {_gpu(server)}{also}."
        case Reason.CPU_IDLE:
            return "To keep it, work on it" + (" or extend it." if can_extend else ".")
        case Reason.MAX_AGE:
            return "You can extend it." if can_extend else "Save your work."
        case Reason.TOKENS:
            return "Get more tokens, or save your work."
        case Reason.HEALTH:
            return "Save your work and start it again: you will get another GPU."
        case Reason.WINDOW_OVER:
            return "Save your work."


def _past(server: Server, reason: Reason, now: datetime) -> str:
    match reason:
        case Reason.IDLE:
            return f"its {_gpu(server)} computed nothing for {_idle_for(server, now)}"
        case Reason.CPU_IDLE:
            return f"nothing happened on it for {_unused_for(server, now)}"
        case Reason.MAX_AGE:
            return f"it ran for {_age(server, now)}, as long as it may"
        case Reason.WINDOW_OVER:
            return f"the hours of the course {server.course} are over"
        case Reason.TOKENS:
            return "its tokens are used up"
        case Reason.HEALTH:
            return "a GPU of it has to be repaired and was idle"
