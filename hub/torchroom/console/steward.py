"""What the steward did and thinks, for admins."""

from typing import Annotated, Self

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from torchroom.console.guards import PAGE_DEFAULT, Admin, ConsoleOf, Limit
from torchroom.console.shown import At
from torchroom.steward.model import Event, Look, Seen

ID_MAX = 2**63 - 1

router = APIRouter(prefix="/steward", tags=["steward"])

Before = Annotated[
    int | None, Query(ge=1, le=ID_MAX, description="`next` of the page before, if any.")
]


class EventOut(BaseModel):
    """Something that the steward did, or would have done."""

    id: int
    at: At
    action: str = Field(description='"warned", "stopped", "kept" or "failed".')
    lease: str
    user: str
    server: str = Field(description='"" for the default server.')
    reason: str
    sentence: str = Field(description="What its user was told, or why it failed.")
    is_dry_run: bool = Field(description="Nothing was done.")
    evidence: dict[str, str] = Field(description="What was known then.")

    @classmethod
    def of(cls, event: Event) -> Self:
        """Return it as it is shown."""
        return cls(
            id=event.id or 0,
            at=event.at,
            action=event.action,
            lease=event.lease,
            user=event.user,
            server=event.server,
            reason=event.reason,
            sentence=event.sentence,
            is_dry_run=event.is_dry_run,
            evidence=dict(event.evidence),
        )


class EventsOut(BaseModel):
    """A page of events, newest first."""

    items: list[EventOut]
    next: int | None = Field(description="Send it as `before` to go on; null: the end.")


class LookOut(BaseModel):
    """How the last look went."""

    at: At
    complete_at: At | None = Field(description="The last one that saw everything.")
    trouble: str = Field(description='Why the last one saw nothing; "": it did.')
    n_servers: int
    is_dry_run: bool

    @classmethod
    def of(cls, look: Look) -> Self:
        """Return it as it is shown."""
        return cls(
            at=look.at,
            complete_at=look.complete_at,
            trouble=look.trouble,
            n_servers=look.n_servers,
            is_dry_run=look.is_dry_run,
        )


class VerdictOut(BaseModel):
    """What the steward thought of one server."""

    lease: str
    user: str
    server: str = Field(description='"" for the default server.')
    offer: str
    course: str
    use: str = Field(description='"busy", "idle" or "unknown"; "" for a CPU server.')
    why: str
    verdict: str = Field(description='"keep", "warn" or "stop".')
    reason: str | None
    stops_at: At | None
    sentence: str
    is_dry_run: bool
    at: At

    @classmethod
    def of(cls, seen: Seen) -> Self:
        """Return it as it is shown."""
        return cls(
            lease=seen.lease,
            user=seen.user,
            server=seen.server,
            offer=seen.offer,
            course=seen.course,
            use=seen.use,
            why=seen.why,
            verdict=seen.verdict.value,
            reason=seen.reason.value if seen.reason else None,
            stops_at=seen.stops_at,
            sentence=seen.sentence,
            is_dry_run=seen.is_dry_run,
            at=seen.at,
        )


class VerdictsOut(BaseModel):
    """The steward's last look."""

    look: LookOut | None = Field(description="null: there was none yet.")
    items: list[VerdictOut]


@router.get("/events")
async def events(
    console: ConsoleOf,
    _who: Admin,
    limit: Limit = PAGE_DEFAULT,
    before: Before = None,
) -> EventsOut:
    """Whom the steward warned and stopped, and why; newest first."""
    found = await console.extending.events(limit + 1, before)
    has_more = len(found) > limit
    items = [EventOut.of(event) for event in found[:limit]]
    return EventsOut(items=items, next=items[-1].id if has_more else None)


@router.get("/verdicts")
async def verdicts(console: ConsoleOf, _who: Admin) -> VerdictsOut:
    """What the steward thought of every server at its last look."""
    look, seen = await console.extending.verdicts()
    return VerdictsOut(
        look=LookOut.of(look) if look else None,
        items=[VerdictOut.of(each) for each in seen],
    )
