"""The steward's nouns as rows of its tables and back. Pure."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from torchroom.steward.model import (
    Claim,
    Event,
    Extension,
    Look,
    Message,
    Notice,
    Reason,
    Seen,
    Told,
    Verdict,
)

Row = Mapping[str, Any]


def text(at: datetime) -> str:
    """Return a time as text that sorts as times do."""
    return at.astimezone(UTC).isoformat(timespec="microseconds")


def text_or_none(at: datetime | None) -> str | None:
    """As `text`."""
    return None if at is None else text(at)


def _time_or_none(value: str | None) -> datetime | None:
    return None if value is None else datetime.fromisoformat(value)


def from_notice(notice: Notice) -> dict[str, Any]:
    """Return a notice's row."""
    return {
        "lease": notice.lease,
        "user": notice.user,
        "server": notice.server,
        "course": notice.course,
        "reason": notice.reason.value,
        "sentence": notice.sentence,
        "stops_at": text_or_none(notice.stops_at),
        "extend_by_s": notice.extend_by.total_seconds(),
        "extend_price": notice.extend_price,
        "n_extensions_left": notice.n_extensions_left,
        "next_extension": notice.next_extension,
        "published_at": text(notice.published_at),
    }


def to_notice(row: Row) -> Notice:
    """Return the notice of a row."""
    return Notice(
        lease=row["lease"],
        user=row["user"],
        server=row["server"],
        course=row["course"],
        reason=Reason(row["reason"]),
        sentence=row["sentence"],
        stops_at=_time_or_none(row["stops_at"]),
        extend_by=timedelta(seconds=row["extend_by_s"]),
        extend_price=row["extend_price"],
        n_extensions_left=row["n_extensions_left"],
        next_extension=row["next_extension"],
        published_at=datetime.fromisoformat(row["published_at"]),
    )


def to_extension(row: Row) -> Extension:
    """Return the extension of a row."""
    return Extension(
        k=row["k"],
        by=timedelta(seconds=row["by_s"]),
        at=datetime.fromisoformat(row["at"]),
        until=datetime.fromisoformat(row["until"]),
    )


def from_taken(notice: Notice, at: datetime) -> dict[str, Any]:
    """Return the row of the extension that a notice offers."""
    assert notice.stops_at is not None  # noqa: S101 - else it offers none
    return {
        "lease": notice.lease,
        "k": notice.next_extension,
        "by_s": notice.extend_by.total_seconds(),
        "at": text(at),
        "until": text(max(notice.stops_at, at) + notice.extend_by),
        "user": notice.user,
        "server": notice.server,
        "course": notice.course,
        "reason": notice.reason.value,
        "price": notice.extend_price,
    }


def to_taken(row: Row) -> Notice:
    """Return an extension's row as what its owner is told; it offers no other."""
    taken = to_extension(row)
    return Notice(
        lease=row["lease"],
        user=row["user"],
        server=row["server"],
        course=row["course"],
        reason=Reason(row["reason"]),
        sentence=extended_until(taken.until),
        stops_at=taken.until,
        extend_by=taken.by,
        extend_price=row["price"],
        n_extensions_left=0,
        next_extension=taken.k + 1,
        published_at=taken.at,
    )


def extended_until(until: datetime) -> str:
    """Return what the owner of a server is told who took more time."""
    return f"You took more time. This server goes on until {until:%H:%M} UTC."


def from_event(event: Event) -> dict[str, Any]:
    """Return an event's row; its number is the table's to give."""
    return {
        "at": text(event.at),
        "action": event.action,
        "lease": event.lease,
        "user": event.user,
        "server": event.server,
        "reason": event.reason,
        "sentence": event.sentence,
        "is_dry_run": int(event.is_dry_run),
        "evidence": json.dumps(event.evidence),
    }


def to_event(row: Row) -> Event:
    """Return the event of a row."""
    return Event(
        at=datetime.fromisoformat(row["at"]),
        action=row["action"],
        lease=row["lease"],
        user=row["user"],
        server=row["server"],
        reason=row["reason"],
        sentence=row["sentence"],
        is_dry_run=bool(row["is_dry_run"]),
        evidence=json.loads(row["evidence"]),
        id=row["id"],
    )


def from_told(told: Told) -> dict[str, Any]:
    """Return a warning's row."""
    return {
        "lease": told.lease,
        "reason": told.reason.value,
        "since": text(told.since),
        "stops_at": text_or_none(told.stops_at),
        "is_dry_run": int(told.is_dry_run),
        "is_past": int(told.is_past),
    }


def to_told(row: Row) -> Told:
    """Return the warning of a row."""
    return Told(
        lease=row["lease"],
        reason=Reason(row["reason"]),
        since=datetime.fromisoformat(row["since"]),
        stops_at=_time_or_none(row["stops_at"]),
        is_dry_run=bool(row["is_dry_run"]),
        is_past=bool(row["is_past"]),
    )


def from_claim(claim: Claim) -> dict[str, Any]:
    """Return a claim's row."""
    return {
        "lease": claim.lease,
        "user": claim.user,
        "server": claim.server,
        "reason": claim.reason.value,
        "sentence": claim.sentence,
        "at": text(claim.at),
        "evidence": json.dumps(claim.evidence),
        "has_failed": int(claim.has_failed),
        "is_sent": int(claim.is_sent),
    }


def to_claim(row: Row) -> Claim:
    """Return the claim of a row."""
    return Claim(
        lease=row["lease"],
        user=row["user"],
        server=row["server"],
        reason=Reason(row["reason"]),
        sentence=row["sentence"],
        at=datetime.fromisoformat(row["at"]),
        evidence=json.loads(row["evidence"]),
        has_failed=bool(row["has_failed"]),
        is_sent=bool(row["is_sent"]),
    )


def from_seen(seen: Seen) -> dict[str, Any]:
    """Return the row of what was thought of a server."""
    return {
        "lease": seen.lease,
        "user": seen.user,
        "server": seen.server,
        "offer": seen.offer,
        "course": seen.course,
        "use": seen.use,
        "why": seen.why,
        "verdict": seen.verdict.value,
        "reason": None if seen.reason is None else seen.reason.value,
        "stops_at": text_or_none(seen.stops_at),
        "sentence": seen.sentence,
        "is_dry_run": int(seen.is_dry_run),
        "at": text(seen.at),
    }


def to_seen(row: Row) -> Seen:
    """Return what was thought of the server of a row."""
    return Seen(
        lease=row["lease"],
        user=row["user"],
        server=row["server"],
        offer=row["offer"],
        course=row["course"],
        use=row["use"],
        why=row["why"],
        verdict=Verdict(row["verdict"]),
        reason=None if row["reason"] is None else Reason(row["reason"]),
        stops_at=_time_or_none(row["stops_at"]),
        sentence=row["sentence"],
        is_dry_run=bool(row["is_dry_run"]),
        at=datetime.fromisoformat(row["at"]),
    )


def from_look(look: Look) -> dict[str, Any]:
    """Return a look's row."""
    return {
        "at": text(look.at),
        "complete_at": text_or_none(look.complete_at),
        "trouble": look.trouble,
        "n_servers": look.n_servers,
        "is_dry_run": int(look.is_dry_run),
    }


def to_look(row: Row) -> Look:
    """Return the look of a row."""
    return Look(
        at=datetime.fromisoformat(row["at"]),
        complete_at=_time_or_none(row["complete_at"]),
        trouble=row["trouble"],
        n_servers=row["n_servers"],
        is_dry_run=bool(row["is_dry_run"]),
    )


def to_message(row: Row) -> Message:
    """Return the message of an event's row that has the outbox's columns, too."""
    return Message(
        id=row["message"],
        hook=row["hook"],
        event=to_event(row),
        stops_at=_time_or_none(row["stops_at"]),
        n_tries=row["n_tries"],
        next_at=datetime.fromisoformat(row["next_at"]),
    )
