"""Keep, warn or stop: what is to be done with one server now. Pure.

Every reason to stop gives an end: a moment, or "as soon as its GPU is idle". The
earliest end decides. What holds for all of them:

- A GPU that computes, or of which nobody knows, is no reason: only the hours of a
  course, and a maximum age that says so, end a server whose GPU is not idle.
- What browsers and kernels do never counts for a server with a GPU.
- No stop comes without a warning `warn_before` ahead of it, except that the tokens may
  be used up sooner; then the hub's meter stops the server, the steward only warns.
- An extension only ever moves an end to later.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from torchroom.steward import culler, sentences
from torchroom.steward.model import (
    Extension,
    Judgement,
    Reason,
    Server,
    Told,
    Use,
    Verdict,
)
from torchroom.steward.rules import AfterHours, Rules
from torchroom.steward.windows import closes_at

SICK = frozenset({"draining", "quarantined"})
"""States of a GPU that is to be repaired."""


@dataclass(frozen=True, slots=True)
class End:
    """When, and why, a server ends.

    Attributes:
        reason: See Reason.
        at: Aware.
        is_extendable: Whether an extension moves it.
        is_ours: Whether the steward stops it; of tokens the hub's meter does.
    """

    reason: Reason
    at: datetime
    is_extendable: bool = False
    is_ours: bool = True


def judge(
    server: Server,
    rules: Rules,
    extensions: Sequence[Extension],
    now: datetime,
    told: Told | None = None,
) -> Judgement:
    """Return what is to be done with a server now.

    Args:
        server: What is known of it.
        rules: What holds for it.
        extensions: Those its user took.
        now: Aware.
        told: What its user was told at the last look, if that was a warning.
    """
    ends = [
        _led(end, rules, told, now) if end.is_ours else end
        for end in (*_ends(server, rules, extensions, now), *_of_tokens(server))
    ]
    due = [end for end in ends if end.is_ours and end.at <= now]
    if due:
        first = min(due, key=lambda end: end.at)
        sentence = sentences.stopped(server, first.reason, now)
        return Judgement(Verdict.STOP, first.reason, first.at, sentence)
    coming = [end for end in ends if end.at > now]
    if not coming:
        return _when_idle(server, now)
    first = min(coming, key=lambda end: end.at)
    can_extend = _can_extend(first, coming, rules, extensions)
    if first.at - rules.warn_ahead > now:
        found = _when_idle(server, now)
        if found.verdict is Verdict.WARN:
            return found
        return Judgement(Verdict.KEEP, first.reason, first.at, can_extend=can_extend)
    sentence = sentences.warning(
        server, first.reason, first.at, now, can_extend=can_extend
    )
    return Judgement(Verdict.WARN, first.reason, first.at, sentence, can_extend)


def must_be_idle(reason: Reason, rules: Rules) -> bool:
    """Return whether a server with a GPU is stopped for this only while it is idle."""
    return reason in {Reason.IDLE, Reason.HEALTH} or (
        reason is Reason.MAX_AGE and not rules.max_age_stops_busy
    )


# -- the ends ------------------------------------------------------------------------


def _ends(
    server: Server, rules: Rules, extensions: Sequence[Extension], now: datetime
) -> Iterator[End]:
    """Yield every end in sight that the steward brings about."""
    kept_until = max((extension.until for extension in extensions), default=None)
    found = _of_cpu(server, rules) if server.gpu is None else _of_gpu(server, rules)
    for end in found:
        if end.is_extendable and kept_until is not None:
            yield replace(end, at=max(end.at, kept_until))
        else:
            yield end
    if rules.after_hours is AfterHours.STOP and rules.windows:
        closes = closes_at(rules.windows, now)
        if closes is not None:
            yield End(Reason.WINDOW_OVER, closes)


def _of_cpu(server: Server, rules: Rules) -> Iterator[End]:
    if rules.cpu_idle is not None:
        at = culler.idle_end(server.last_activity, server.started_at, rules.cpu_idle)
        if at is not None:
            yield End(Reason.CPU_IDLE, at, is_extendable=True)
    if rules.max_age is not None:
        at = culler.age_end(server.started_at, rules.max_age)
        if at is not None:
            yield End(Reason.MAX_AGE, at, is_extendable=True)


def _of_gpu(server: Server, rules: Rules) -> Iterator[End]:
    gpu = server.gpu
    idle_since = gpu.idle_since if gpu and gpu.state is Use.IDLE else None
    if gpu and idle_since:
        allowed = rules.idle_of(gpu.n_slots)
        if allowed is not None:
            at = max(idle_since + allowed, server.ready_at + rules.grace)
            yield End(Reason.IDLE, at, is_extendable=True)
        if server.health in SICK:
            yield End(Reason.HEALTH, idle_since + rules.unwanted_idle)
    if rules.max_age is None:
        return
    at = server.ready_at + rules.max_age
    if rules.max_age_stops_busy:
        yield End(Reason.MAX_AGE, at, is_extendable=True)
    elif idle_since:
        at = max(at, idle_since + rules.unwanted_idle)
        yield End(Reason.MAX_AGE, at, is_extendable=True)


def _of_tokens(server: Server) -> Iterator[End]:
    if server.tokens_end_at is not None:
        yield End(Reason.TOKENS, server.tokens_end_at, is_ours=False)


# -- what users were promised --------------------------------------------------------


def _led(end: End, rules: Rules, told: Told | None, now: datetime) -> End:
    """Return an end that is late enough for a warning, and no earlier than was told.

    Only a warning of this very countdown counts: for the same reason, and of a moment
    that is not before the end. An end that turns out to be earlier than what was told
    is brought forward to `warn_before` from now at most.
    """
    earliest = now + rules.warn_before
    if told is not None and told.stops_at is not None and told.reason is end.reason:
        is_same = end.at <= told.stops_at
        earliest = min(earliest, told.stops_at) if is_same else earliest
    return replace(end, at=max(end.at, earliest))


def _can_extend(
    first: End, coming: Sequence[End], rules: Rules, extensions: Sequence[Extension]
) -> bool:
    """Return whether the user gets the whole extension that they would pay.

    Paying for it brings the end of the tokens nearer, nobody here knows by how much: as
    much again as the extension must be left.
    """
    if not first.is_extendable or len(extensions) >= rules.n_extensions:
        return False
    until = first.at + rules.extend_by
    after_paying = until + (rules.extend_by if rules.extend_price else timedelta())
    return all(
        end.at >= (until if end.is_ours else after_paying)
        for end in coming
        if not end.is_extendable
    )


def _when_idle(server: Server, now: datetime) -> Judgement:
    """Return what is said to a server that ends when its GPU has no more to do."""
    if server.gpu is None or server.health not in SICK:
        return Judgement(Verdict.KEEP)
    sentence = sentences.warning(server, Reason.HEALTH, None, now, can_extend=False)
    return Judgement(Verdict.WARN, Reason.HEALTH, None, sentence)
