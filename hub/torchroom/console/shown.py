"""What answers look like: the schemas, made of the ledger's values."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Self

from pydantic import BaseModel, Field, PlainSerializer

from torchroom.ledger.model import MeteredLease
from torchroom.ledger.usage import Used
from torchroom.ledger.views import BalanceView, Entry, OpenLease, Page, Purse


def _iso(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"


At = Annotated[datetime, PlainSerializer(_iso, return_type=str)]
Micro = Annotated[int, Field(description="Microtokens: 1 token is 1,000,000.")]


class Problem(BaseModel):
    """Why a request was not done. Nothing was changed."""

    code: str = Field(description="Stable, for programs.")
    message: str = Field(description="A sentence for people.")


class PurseOut(BaseModel):
    """Tokens that are spent in the same way."""

    course: str = Field(description='Only for servers of this course; "" for any.')
    expires_at: At | None
    microtokens: Micro

    @classmethod
    def of(cls, purse: Purse) -> Self:
        """Return it as it is shown."""
        return cls(
            course=purse.course,
            expires_at=purse.expires_at,
            microtokens=purse.microtokens,
        )


class ShareOut(BaseModel):
    """What one may still draw from a course's tokens."""

    course: str
    title: str
    microtokens: Micro


class LeaseOut(BaseModel):
    """A server that is paid for, or was."""

    id: str
    user: str
    server: str = Field(description='The server\'s name, "" for the default one.')
    course: str
    slot_types: list[str]
    microtokens_per_hour: Micro
    held_at: At
    ready_at: At | None = Field(description="When the meter began to run.")
    settled_s: int
    ended_at: At | None
    reason: str

    @classmethod
    def of(cls, lease: MeteredLease) -> Self:
        """Return it as it is shown."""
        return cls(
            id=lease.id,
            user=lease.payer.user,
            server=lease.payer.server,
            course=lease.payer.course,
            slot_types=list(lease.slot_types),
            microtokens_per_hour=lease.per_hour,
            held_at=lease.held_at,
            ready_at=lease.ready_at,
            settled_s=lease.settled_s,
            ended_at=lease.ended_at,
            reason=lease.reason,
        )


class OpenLeaseOut(BaseModel):
    """A server that burns tokens now."""

    lease: LeaseOut
    held: Micro
    accrued: Micro

    @classmethod
    def of(cls, open_lease: OpenLease) -> Self:
        """Return it as it is shown."""
        return cls(
            lease=LeaseOut.of(open_lease.lease),
            held=open_lease.held,
            accrued=open_lease.accrued,
        )


class BalanceOut(BaseModel):
    """Somebody's tokens at one moment. All amounts are microtokens."""

    user: str
    at: At
    spendable: Micro = Field(description="What their servers can still use in all.")
    available: Micro = Field(description="Their own tokens that are not held.")
    held: Micro = Field(description="Reserved for servers that run or start.")
    accrued: Micro = Field(description="Used since it was last settled.")
    microtokens_per_hour: Micro = Field(description="What all their servers burn now.")
    seconds_left: int | None = Field(description="At this rate; null: nothing burns.")
    next_expiry: At | None
    purses: list[PurseOut]
    shares: list[ShareOut]
    leases: list[OpenLeaseOut]

    @classmethod
    def of(cls, view: BalanceView) -> Self:
        """Return it as it is shown."""
        return cls(
            user=view.user,
            at=view.at,
            spendable=view.spendable,
            available=view.available,
            held=view.held,
            accrued=view.accrued,
            microtokens_per_hour=view.per_hour,
            seconds_left=view.seconds_left,
            next_expiry=view.next_expiry,
            purses=[PurseOut.of(purse) for purse in view.purses],
            shares=[
                ShareOut(
                    course=share.course,
                    title=share.title,
                    microtokens=share.microtokens,
                )
                for share in view.shares
            ],
            leases=[OpenLeaseOut.of(lease) for lease in view.leases],
        )


class EntryOut(BaseModel):
    """A row of a history; all charges of one server are one row."""

    id: str
    at: At
    code: str = Field(description="Why tokens moved: grant, settle, hand_out, ...")
    microtokens: Micro = Field(description="Gained, or below 0 paid.")
    note: str
    actor: str
    course: str
    expires_at: At | None
    paid_by_course: Micro = Field(description="What of a server its course paid.")
    waived: Micro = Field(description="What of a server nobody paid.")
    lease: LeaseOut | None

    @classmethod
    def of(cls, entry: Entry) -> Self:
        """Return it as it is shown."""
        return cls(
            id=entry.id,
            at=entry.at,
            code=entry.code.value,
            microtokens=entry.amount,
            note=entry.note,
            actor=entry.actor,
            course=entry.course,
            expires_at=entry.expires_at,
            paid_by_course=entry.paid_by_course,
            waived=entry.waived,
            lease=LeaseOut.of(entry.lease) if entry.lease else None,
        )


class HistoryOut(BaseModel):
    """A page of a history, newest first."""

    items: list[EntryOut]
    next: str | None = Field(description="Send it as `cursor` to go on; null: the end.")


class UsedOut(BaseModel):
    """What the servers under one key used."""

    key: str
    seconds: int
    slot_seconds: int = Field(description="The same times the slots of each server.")
    microtokens: Micro

    @classmethod
    def all(cls, rows: Iterable[Used]) -> list[Self]:
        """Return them as they are shown."""
        return [
            cls(
                key=row.key,
                seconds=row.seconds,
                slot_seconds=row.slot_seconds,
                microtokens=row.microtokens,
            )
            for row in rows
        ]


class UsageOut(BaseModel):
    """Usage within a span of time, by day, course, type or user."""

    by: str
    start: At
    end: At
    items: list[UsedOut]


def page_of(page: Page) -> HistoryOut:
    """Return a page of a history as it is shown."""
    return HistoryOut(items=[EntryOut.of(item) for item in page.items], next=page.next)
