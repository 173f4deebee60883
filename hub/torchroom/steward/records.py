"""What is kept and told of one server: a judgement as the steward's nouns. Pure."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from torchroom.steward import sentences
from torchroom.steward.looking import Unjudged
from torchroom.steward.model import (
    WARNED,
    Claim,
    Event,
    Extension,
    Judgement,
    Notice,
    Post,
    Seen,
    Server,
    Verdict,
)
from torchroom.steward.policy import must_be_idle
from torchroom.steward.rules import Policy, Rules

SENT_BY = "sent_by"
"""What `Event.evidence` calls the hooks that messages went to."""

Hooks = Callable[[str], Sequence[str]]
"""Returns by which hooks a user is reached."""


def of_stop(claim: Claim, action: str, sentence: str, at: datetime) -> Event:
    """Return what is noted of a stop."""
    return Event(
        at=at,
        action=action,
        lease=claim.lease,
        user=claim.user,
        server=claim.server,
        reason=claim.reason.value,
        sentence=sentence,
        evidence=claim.evidence,
    )


def posts(
    event: Event, since: datetime, stops_at: datetime | None, hooks: Hooks
) -> list[Post]:
    """Return the messages about an event; the same event makes the same ids."""
    moment = int(since.timestamp())
    return [
        Post(f"{event.lease}-{event.action}-{moment}-{hook}", hook, stops_at)
        for hook in hooks(event.user)
    ]


def warning(
    server: Server,
    judged: Judgement,
    rules: Rules,
    now: datetime,
    reached: Hooks,
) -> tuple[Event, list[Post]]:
    """Return what is noted of a warning, and the messages about it."""
    noted = event(server, judged, rules, WARNED, now)
    sent = posts(noted, now, judged.stops_at, reached)
    if sent:
        noted.evidence[SENT_BY] = ", ".join(post.hook for post in sent)
    return noted, sent


def notice(
    server: Server,
    judged: Judgement,
    rules: Rules,
    extensions: Sequence[Extension],
    now: datetime,
) -> Notice:
    """Return what its owner is told of a warning or a stop."""
    assert judged.reason is not None  # noqa: S101 - for the type checker
    n_left = max(0, rules.n_extensions - len(extensions)) if judged.can_extend else 0
    sentence = judged.sentence
    if judged.verdict is Verdict.STOP:
        sentence = sentences.warning(
            server, judged.reason, judged.stops_at, now, can_extend=False
        )
    return Notice(
        lease=server.lease,
        user=server.user,
        server=server.name,
        course=server.course,
        reason=judged.reason,
        sentence=sentence,
        stops_at=judged.stops_at,
        extend_by=rules.extend_by if n_left else timedelta(),
        extend_price=rules.extend_price if n_left else 0,
        n_extensions_left=n_left,
        next_extension=max((each.k for each in extensions), default=0) + 1,
        published_at=now,
    )


def claim(server: Server, judged: Judgement, rules: Rules, now: datetime) -> Claim:
    """Return the stop that a judgement decides."""
    assert judged.reason is not None  # noqa: S101 - for the type checker
    evidence = _evidence(server)
    if not must_be_idle(judged.reason, rules):
        evidence.pop("idle_since", None)
    return Claim(
        lease=server.lease,
        user=server.user,
        server=server.name,
        reason=judged.reason,
        sentence=judged.sentence,
        at=now,
        evidence=evidence,
    )


def event(
    server: Server, judged: Judgement, rules: Rules, action: str, now: datetime
) -> Event:
    """Return what is noted of a judgement."""
    return Event(
        at=now,
        action=action,
        lease=server.lease,
        user=server.user,
        server=server.name,
        reason=judged.reason.value if judged.reason else "",
        sentence=judged.sentence,
        is_dry_run=rules.is_dry_run,
        evidence=_evidence(server),
    )


def _evidence(server: Server) -> dict[str, str]:
    """Return what was known, for admins; the times as the hub said them."""
    gpu = server.gpu
    found = {
        "offer": server.offer,
        "course": server.course,
        "ready_at": server.ready_at,
        "last_activity": server.last_activity,
        "use": gpu.state.value if gpu else None,
        "why": gpu.why if gpu else None,
        "idle_since": gpu.idle_since if gpu else None,
        "health": server.health if gpu else None,
        "tokens_end_at": server.tokens_end_at,
    }
    return {
        key: value.isoformat() if isinstance(value, datetime) else str(value)
        for key, value in found.items()
        if value
    }


def seen(server: Server, judged: Judgement, rules: Rules, now: datetime) -> Seen:
    """Return what admins see of a server."""
    return Seen(
        lease=server.lease,
        user=server.user,
        server=server.name,
        offer=server.offer,
        course=server.course,
        use=server.gpu.state.value if server.gpu else "",
        why=server.gpu.why if server.gpu else "",
        verdict=judged.verdict,
        reason=judged.reason,
        stops_at=judged.stops_at,
        sentence=judged.sentence,
        is_dry_run=rules.is_dry_run,
        at=now,
    )


def not_seen(unjudged: Unjudged, policy: Policy, now: datetime) -> Seen:
    """Return what admins see of a server of which too little is known."""
    return Seen(
        lease=unjudged.lease,
        user=unjudged.user,
        server=unjudged.server,
        offer="",
        course="",
        use="",
        why=unjudged.why,
        verdict=Verdict.KEEP,
        reason=None,
        stops_at=None,
        sentence="",
        is_dry_run=policy.is_dry_run,
        at=now,
    )
