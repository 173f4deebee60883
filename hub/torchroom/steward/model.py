"""The steward's nouns: what it knows of a server, what it thinks and says. Pure."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum


class Use(StrEnum):
    """Whether a server's GPUs compute. UNKNOWN is never taken for IDLE."""

    BUSY = "busy"
    IDLE = "idle"
    UNKNOWN = "unknown"


class Reason(StrEnum):
    """Why a server is warned or stopped."""

    IDLE = "idle"
    CPU_IDLE = "cpu_idle"
    MAX_AGE = "max_age"
    WINDOW_OVER = "window_over"
    TOKENS = "tokens"
    HEALTH = "health"


@dataclass(frozen=True, slots=True)
class GpuUse:
    """What the hub's samples say of a server's GPUs.

    Attributes:
        state: See Use.
        idle_since: Since when every reading said idle; None unless it is IDLE.
        why: One sentence.
    """

    state: Use
    idle_since: datetime | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server, as the hub and its plugin describe it. Times are aware UTC.

    Attributes:
        lease: Its lease's id.
        user: Its owner.
        name: "" for the default server.
        offer: The size, like "1-gpu".
        course: Which course it runs for, "" if none.
        ready_at: When it answered first.
        last_activity: As JupyterHub has it; None if there was none.
        gpu: None for a CPU server.
        health: Of its worst device: "healthy", "draining", "quarantined", ...
        health_why: One sentence, "" if healthy.
        tokens_end_at: When its tokens run out; None: never, or not known.
    """

    lease: str
    user: str
    name: str
    offer: str
    course: str
    ready_at: datetime
    last_activity: datetime | None = None
    gpu: GpuUse | None = None
    health: str = "healthy"
    health_why: str = ""
    tokens_end_at: datetime | None = None


class Verdict(StrEnum):
    """What is to be done with a server now."""

    KEEP = "keep"
    WARN = "warn"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the policy says of one server at one moment.

    Attributes:
        verdict: See Verdict.
        reason: None for KEEP without anything in sight.
        stops_at: When it stops if nothing changes; None if nothing is in sight.
        sentence: For its user: what happens, when, and what they can do.
        can_extend: Whether an extension moves `stops_at`.
    """

    verdict: Verdict
    reason: Reason | None = None
    stops_at: datetime | None = None
    sentence: str = ""
    can_extend: bool = False


@dataclass(frozen=True, slots=True)
class Extension:
    """More time that a user took for a lease; the k-th one, k from 1."""

    k: int
    by: timedelta
    at: datetime


@dataclass(frozen=True, slots=True)
class Notice:
    """What a user is told about a server that is to stop.

    Attributes:
        lease: Its lease.
        user: Its owner.
        server: "" for the default server.
        course: Which course it runs for, "" if none: whose tokens pay an extension.
        reason: See Reason.
        sentence: What happens and why.
        stops_at: Aware UTC.
        extend_by: What one extension adds; zero if it cannot be extended.
        extend_price: Microtokens of one extension.
        n_extensions_left: How many may still be taken.
        next_extension: The number that the next one has, from 1.
        published_at: When the steward said so.
    """

    lease: str
    user: str
    server: str
    course: str
    reason: Reason
    sentence: str
    stops_at: datetime
    extend_by: timedelta
    extend_price: int
    n_extensions_left: int
    next_extension: int
    published_at: datetime


@dataclass(frozen=True, slots=True)
class Event:
    """Something that the steward did, or in a dry run would have done.

    Attributes:
        at: Aware UTC.
        action: "warned", "stopped", "kept" (a stop that was called off), "failed".
        lease: Which lease.
        user: Its owner.
        server: "" for the default server.
        reason: See Reason.
        sentence: What its user was told, or why it failed.
        is_dry_run: Nothing was done.
        evidence: What was known then, for admins.
    """

    at: datetime
    action: str
    lease: str
    user: str
    server: str
    reason: str
    sentence: str
    is_dry_run: bool = False
    evidence: dict[str, str] = field(default_factory=dict)
