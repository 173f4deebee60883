"""The steward's nouns: what it knows of a server, what it thinks and says. Pure."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

BLIND_AFTER = timedelta(minutes=2)
"""So long after the last complete look nothing is known of the servers any more."""


WARNED, STOPPED, KEPT, FAILED = "warned", "stopped", "kept", "failed"
"""What `Event.action` can be; KEPT: a stop was called off."""


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
        n_slots: How many GPUs, or parts of GPUs, it has.
    """

    state: Use
    idle_since: datetime | None = None
    why: str = ""
    n_slots: int = 1


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
        started_at: When the hub began to start it; JupyterHub counts its age from it.
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
    started_at: datetime | None = None
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
    """More time that a user took for a lease.

    Attributes:
        k: Its number among those of the lease, from 1.
        by: How much it added.
        at: When it was taken.
        until: Until then the server is kept, whatever it was extended for.
    """

    k: int
    by: timedelta
    at: datetime
    until: datetime


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
        stops_at: Aware UTC; None: as soon as what runs on its GPU has ended.
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
    stops_at: datetime | None
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
        action: WARNED, STOPPED, KEPT or FAILED.
        lease: Which lease.
        user: Its owner.
        server: "" for the default server.
        reason: See Reason.
        sentence: What its user was told, or why it failed.
        is_dry_run: Nothing was done.
        evidence: What was known then, for admins.
        id: Its number in the store, from 1, rising; None before it is kept.
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
    id: int | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """That a user was warned, so that no stop comes as a surprise after a restart.

    Attributes:
        lease: Which lease.
        reason: The one that was given last.
        since: When the first warning of this countdown was published.
        stops_at: The time that was told last; None: as `Notice.stops_at`.
        is_dry_run: Nobody was told, it was only noted.
        is_past: In a dry run: it is noted that the server would have been stopped.
    """

    lease: str
    reason: Reason
    since: datetime
    stops_at: datetime | None
    is_dry_run: bool = False
    is_past: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """A stop that was decided and may be half done.

    Attributes:
        lease: Which lease.
        user: Its owner.
        server: "" for the default server.
        reason: See Reason.
        sentence: Why, for the user.
        at: When it was decided.
        evidence: What was known then, for admins.
        has_failed: Whether an event says already that it did not work.
        is_sent: Whether the hub may have been asked to stop it.
    """

    lease: str
    user: str
    server: str
    reason: Reason
    sentence: str
    at: datetime
    evidence: dict[str, str] = field(default_factory=dict)
    has_failed: bool = False
    is_sent: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """What the steward thought of one server at its last look, for admins.

    Attributes:
        lease: Its lease.
        user: Its owner.
        server: "" for the default server.
        offer: Its size.
        course: Which course it runs for, "" if none.
        use: What `Use` its GPU is in, "" for a CPU server.
        why: What speaks for `use`, or why nothing can be said of this server.
        verdict: See Verdict.
        reason: See Reason; None if nothing is in sight.
        stops_at: When it stops if nothing changes; None: nothing is in sight, or as
            `Notice.stops_at`.
        sentence: What its user is told.
        is_dry_run: The steward does not act on it.
        at: When.
    """

    lease: str
    user: str
    server: str
    offer: str
    course: str
    use: str
    why: str
    verdict: Verdict
    reason: Reason | None
    stops_at: datetime | None
    sentence: str
    is_dry_run: bool
    at: datetime


@dataclass(frozen=True, slots=True)
class Look:
    """How the last look went.

    Attributes:
        at: When the last look began.
        complete_at: When the last one began that saw everything; None: none ever did.
        trouble: Why the last one saw nothing, "" if it saw everything.
        n_servers: How many servers the last complete one saw.
        is_dry_run: Whether the steward only says what it would do.
    """

    at: datetime
    complete_at: datetime | None
    trouble: str = ""
    n_servers: int = 0
    is_dry_run: bool = False

    def is_fresh(self, now: datetime) -> bool:
        """Return whether a complete one is so recent that it tells of the servers."""
        return self.complete_at is not None and now - self.complete_at <= BLIND_AFTER


@dataclass(frozen=True, slots=True)
class Message:
    """News that one receiver has not taken yet.

    Attributes:
        id: The same at every try, so that a receiver can tell a repetition.
        hook: Which one: "mail" or "webhook".
        event: What it is about.
        stops_at: For a warning, when the server stops.
        n_tries: How often it was tried.
        next_at: When it is tried next.
    """

    id: str
    hook: str
    event: Event
    stops_at: datetime | None
    n_tries: int
    next_at: datetime


@dataclass(frozen=True, slots=True)
class Post:
    """A message to send about an event that is kept in the same transaction.

    Attributes:
        id: See Message.
        hook: See Message.
        stops_at: See Message.
    """

    id: str
    hook: str
    stops_at: datetime | None = None
