"""What follows from one complete look: who is told what, who is stopped. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from torchroom.steward import records
from torchroom.steward.looking import Found
from torchroom.steward.model import (
    STOPPED,
    Claim,
    Event,
    Extension,
    Judgement,
    Notice,
    Post,
    Reason,
    Seen,
    Server,
    Told,
    Use,
    Verdict,
)
from torchroom.steward.policy import judge, must_be_idle
from torchroom.steward.records import Hooks
from torchroom.steward.rules import Policy, Rules

WARNED_AT_MOST_EVERY = timedelta(hours=1)
"""How often messages go out about one lease and one reason, unless it was extended."""

LOOK_AGAIN, LOOK_AGAIN_FOR = timedelta(seconds=5), timedelta(minutes=2)
"""How soon, and how long, if a missing reading is all that a stop waits for."""


@dataclass(frozen=True, slots=True)
class Known:
    """What was kept from the looks before.

    Attributes:
        extensions: By lease.
        told: By lease.
        notices: By lease.
        warned: Lease and reason -> when messages went out about it last.
        claims: By lease.
        stopping: Leases that were being stopped when the look began.
        was_blind: Whether nothing was known of the servers until this look: nobody
            could extend one then, so warnings from before do not count.
    """

    extensions: Mapping[str, Sequence[Extension]] = field(default_factory=dict)
    told: Mapping[str, Told] = field(default_factory=dict)
    notices: Mapping[str, Notice] = field(default_factory=dict)
    warned: Mapping[tuple[str, str], datetime] = field(default_factory=dict)
    claims: Mapping[str, Claim] = field(default_factory=dict)
    stopping: frozenset[str] = frozenset()
    was_blind: bool = False

    def told_of(self, lease: str) -> Told | None:
        """Return the warning that counts; in a dry run nobody wanted to extend."""
        told = self.told.get(lease)
        return told if told and (told.is_dry_run or not self.was_blind) else None


@dataclass(slots=True)
class Round:
    """What is to be kept and done now.

    Attributes:
        notices: All that users are told from now on.
        told: All warnings to remember.
        seen: What is thought of every server.
        noted: Events, and whom to tell.
        stops: Servers to stop now, with the number of extensions that were known.
        gone: Claims whose server has ended.
        called_off: Claims whose server is to go on, and why.
        next_at: When the next thing is due; None: nothing is in sight.
    """

    notices: list[Notice] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    noted: list[tuple[Event, Sequence[Post]]] = field(default_factory=list)
    stops: list[tuple[Claim, int]] = field(default_factory=list)
    gone: list[Claim] = field(default_factory=list)
    called_off: list[tuple[Claim, str]] = field(default_factory=list)
    next_at: datetime | None = None


def decide(
    found: Found, policy: Policy, known: Known, now: datetime, hooks: Hooks
) -> Round:
    """Return what follows from a look.

    Args:
        found: What runs.
        policy: The site's.
        known: What was kept.
        now: Aware.
        hooks: Whom events are sent to.
    """
    made = Round()
    for server in found.servers:
        rules = policy.rules(server.course, server.offer)
        _one(made, server, rules, known, now=now, hooks=hooks)
    for unjudged in found.unjudged:
        made.seen.append(records.not_seen(unjudged, policy, now))
        if told := known.told_of(unjudged.lease):
            _hold(made, told, known.notices.get(unjudged.lease), now)
    for lease, claim in known.claims.items():
        if lease not in found.active and lease not in known.stopping:
            made.gone.append(claim)
    return made


def _nobody(_user: str) -> Sequence[str]:
    return ()


def _one(
    made: Round,
    server: Server,
    rules: Rules,
    known: Known,
    *,
    now: datetime,
    hooks: Hooks,
) -> None:
    """Add what follows for one server."""
    extensions = known.extensions.get(server.lease, ())
    told = known.told_of(server.lease)
    if told is not None and told.is_dry_run != rules.is_dry_run:
        told = None  # of a dry run nobody was told
    is_stopping = server.lease in known.stopping
    if is_stopping and told is None:
        return  # it ended while the look went on
    judged = judge(server, rules, extensions, now, told)
    made.seen.append(records.seen(server, judged, rules, now))
    _note_due(made, judged, rules.warn_ahead, now)
    claim = known.claims.get(server.lease)
    if judged.verdict is Verdict.KEEP or judged.reason is None:
        if claim and not is_stopping:
            made.called_off.append((claim, "It is not to be stopped any more."))
        if told and _stands(told, server, rules, extensions):
            _hold(made, told, known.notices.get(server.lease), now)
        return
    if told is None or _is_new(told, judged):
        last = known.warned.get((server.lease, judged.reason.value))
        is_quiet = rules.is_dry_run or _is_soon(last, extensions, now)
        reached = _nobody if is_quiet else hooks
        made.noted.append(records.warning(server, judged, rules, now, reached))
        told = Told(server.lease, judged.reason, now, None, rules.is_dry_run)
    told = replace(told, reason=judged.reason, stops_at=judged.stops_at)
    is_stop = judged.verdict is Verdict.STOP
    if rules.is_dry_run:
        made.told.append(replace(told, is_past=told.is_past or is_stop))
        if is_stop and not told.is_past:
            made.noted.append((records.event(server, judged, rules, STOPPED, now), ()))
        return
    made.told.append(told)
    made.notices.append(records.notice(server, judged, rules, extensions, now))
    if is_stopping:
        return
    if is_stop:
        stop = records.claim(server, judged, rules, now)
        if claim:
            stop = replace(stop, has_failed=claim.has_failed, is_sent=claim.is_sent)
        made.stops.append((stop, len(extensions)))
    elif claim:
        made.called_off.append((claim, "It is not to be stopped yet."))


def _is_new(told: Told, judged: Judgement) -> bool:
    """Return whether a user was not told of this countdown yet."""
    if told.reason is not judged.reason:
        return True
    if judged.reason is Reason.TOKENS or judged.stops_at is None:
        return False  # the meter's estimate moves all the time
    return told.stops_at is None or judged.stops_at > told.stops_at


def _is_soon(
    last: datetime | None, extensions: Sequence[Extension], now: datetime
) -> bool:
    """Return whether messages went out a moment ago about what is warned of now.

    Who has extended since then reckons with a message before that time is over.
    """
    if last is None or any(each.at >= last for each in extensions):
        return False
    return now - last < WARNED_AT_MOST_EVERY


def _stands(
    told: Told, server: Server, rules: Rules, extensions: Sequence[Extension]
) -> bool:
    """Return whether only a missing reading speaks against what a user was told."""
    return (
        server.gpu is not None
        and server.gpu.state is Use.UNKNOWN
        and must_be_idle(told.reason, rules)
        and told.stops_at is not None
        and all(each.until <= told.stops_at for each in extensions)
    )


def _hold(made: Round, told: Told, notice: Notice | None, now: datetime) -> None:
    """Let a warning stand while a reading, or all that the hub says, is missing.

    If it turns out that the GPU was idle all the time, the countdown has gone on; if
    not, the next look that knows ends it.
    """
    made.told.append(told)
    if notice and (notice.stops_at is None or notice.stops_at > now):
        made.notices.append(notice)
    elif told.stops_at and told.stops_at <= now < told.stops_at + LOOK_AGAIN_FOR:
        _note_moment(made, now + LOOK_AGAIN)


def _note_due(made: Round, judged: Judgement, lead: timedelta, now: datetime) -> None:
    if judged.stops_at is None:
        return
    for at in (judged.stops_at - lead, judged.stops_at):
        if at > now:
            _note_moment(made, at)


def _note_moment(made: Round, at: datetime) -> None:
    if made.next_at is None or at < made.next_at:
        made.next_at = at
