"""What speaks against a device, and how it falls ill and recovers.

    healthy -> draining -> quarantined -> probation -> healthy

A device is unfit while a *cause* stands: something measured (lost, links down, rows to
be replaced) or something that happened (an XID, a memory error). A cause ends when its
cure is seen (`xids.Cure`), never because the hub was restarted. Then the device is on
probation, and healthy again when that was quiet.

It never flaps: from the second fall on it stays quarantined for at least as long as its
probation will be, and both double with every further fall (`QUIET` to `QUIET_MAX`).
"""

from collections.abc import Set
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from gpuspawner.xids import Cure

QUIET = timedelta(minutes=10)
"""The first probation; also how long a mere suspicion stands."""

QUIET_MAX = timedelta(hours=24)

FORGIVEN = timedelta(hours=24)
"""Healthy for so long, and earlier falls no longer lengthen the next probation."""

EVIDENCE_MAX = 32
TEXT_MAX = 500


class Health(StrEnum):
    """HEALTHY: may be leased; nothing else may.

    DRAINING: its lease goes on. QUARANTINED: waits for a cure. PROBATION: is watched.
    """

    HEALTHY = "healthy"
    DRAINING = "draining"
    QUARANTINED = "quarantined"
    PROBATION = "probation"


class Finding(StrEnum):
    """What other parts of the spawner find.

    UNCLEAN: not clean after its server ended (quarantined until `clear`).
    NVML_LOST_INSIDE: a container lost the driver (systemd's daemon-reload, see issue 48
    of nvidia-container-toolkit). UNCAPPED: a share's memory cap could not be enforced.
    These two are evidence only: the machine's set-up is at fault, not the device.
    """

    UNCLEAN = "unclean"
    NVML_LOST_INSIDE = "nvml-lost-inside"
    UNCAPPED = "uncapped"


@dataclass(frozen=True, slots=True)
class Evidence:
    """Something that was seen on a device; the same again is counted.

    Attributes:
        at: When last; aware UTC.
        code: Like "xid-31", "lost", "ecc", or a Finding.
        text: Half a sentence.
        user: Who alone held the device then, "" if nobody or several did.
        n: How often.
    """

    at: datetime
    code: str
    text: str
    user: str = ""
    n: int = 1


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a device is unfit.

    Attributes:
        at: Since when, or when last; aware UTC.
        code: As in Evidence; a device has at most one cause of each.
        text: Half a sentence: what is wrong.
        cure: What ends it.
        remedy: A sentence for the admin.
        ends_lease: Nobody can work on the device; else its lease goes on.
        is_measured: The same reading again is no news.
    """

    at: datetime
    code: str
    text: str
    cure: Cure
    remedy: str
    ends_lease: bool = False
    is_measured: bool = False


@dataclass(frozen=True, slots=True)
class Override:
    """An admin's word on a device, which hides what is judged here."""

    state: Health
    note: str
    admin: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Record:
    """All that is known of a device's health.

    Attributes:
        uuid: Of the device.
        since: When `judged` changed last; aware UTC.
        judged: Its state but for an override.
        causes: Those that stand.
        evidence: The newest, the newest last.
        override: See Override.
        last: Half a sentence: what was wrong last.
        n_falls: How often it became unfit without being healthy for `FORGIVEN` between.
        fell_at: When it became unfit last.
        needs_quiet: Something other than an unclean hand-over was wrong since it was
            healthy.
        boot_id: Of the machine when the device was read last.
        energy_j: A reading since the last reset or boot; not always the newest, so that
            the record seldom changes.
        n_ecc_uncorrected: The last reading.
        n_nvlinks: The most that were seen since the last reset or boot.
    """

    uuid: str
    since: datetime
    judged: Health = Health.HEALTHY
    causes: tuple[Cause, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    override: Override | None = None
    last: str = ""
    n_falls: int = 0
    fell_at: datetime | None = None
    needs_quiet: bool = False
    boot_id: str = ""
    energy_j: float | None = None
    n_ecc_uncorrected: int | None = None
    n_nvlinks: int | None = None

    @property
    def state(self) -> Health:
        """Its state, an admin's word before ours."""
        return self.override.state if self.override else self.judged

    @property
    def is_said_healthy(self) -> bool:
        """Whether an admin says so, until something new is seen."""
        return bool(self.override and self.override.state is Health.HEALTHY)

    @property
    def reason(self) -> str:
        """Why it is in this state, in sentences for the admin; "" if just healthy."""
        if self.override:
            return f"{self.override.admin} says: {self.override.note}"
        if self.judged is Health.HEALTHY:
            return ""
        last = self.last or "a fault that is not on record"
        if self.causes:
            worst = min(self.causes, key=rank)
            more = len(self.causes) - 1
            also = f" Also: {more} more." if more else ""
            return f"Unfit: {worst.text}. {worst.remedy}{also}"
        if self.judged is Health.PROBATION:
            until = _clock(self.since + _quiet(self.n_falls))
            return f"Recovered from this: {last}. Watched until {until}."
        until = _clock((self.fell_at or self.since) + _hold(self.n_falls))
        return f"Unfit {self.n_falls} times lately ({last}). Kept back until {until}."


def set_measured(record: Record, cause: Cause, is_so: bool) -> Record:
    """Add or end a measured cause; one that needs an admin outlives its reading."""
    if is_so:
        return add(record, cause)
    is_over = cause.cure is Cure.GONE or record.is_said_healthy
    return drop(record, {cause.code}) if is_over else record


def add(record: Record, cause: Cause, user: str = "") -> Record:
    """Let a cause stand; what is new ends an admin's "healthy"."""
    old = next((c for c in record.causes if c.code == cause.code), None)
    if old and cause.is_measured:
        return record
    if old and old.ends_lease:
        cause = replace(cause, ends_lease=True)
    others = tuple(c for c in record.causes if c is not old)
    record = replace(
        record,
        causes=(*others, cause),
        last=cause.text,
        needs_quiet=record.needs_quiet or cause.code != Finding.UNCLEAN,
        override=None if record.is_said_healthy else record.override,
    )
    return note(record, Evidence(cause.at, cause.code, cause.text, user))


def drop(record: Record, codes: Set[str]) -> Record:
    """End the causes with these codes."""
    causes = tuple(c for c in record.causes if c.code not in codes)
    return replace(record, causes=causes) if causes != record.causes else record


def note(record: Record, new: Evidence) -> Record:
    """Add evidence; the same of the same user is counted, so it floods out no other."""
    same = [e for e in record.evidence if (e.code, e.user) == (new.code, new.user)]
    others = [e for e in record.evidence if e not in same]
    new = replace(new, n=new.n + sum(e.n for e in same))
    return replace(record, evidence=tuple([*others, new][-EVIDENCE_MAX:]))


def move(record: Record, now: datetime, *, is_held: bool, is_seen: bool) -> Record:
    """Go from state to state; to a fitter one only if the device was just read."""
    # a clock that was set back must not keep a device away for longer than planned
    since, fell_at = min(record.since, now), record.fell_at
    record = replace(record, since=since, fell_at=fell_at and min(fell_at, now))
    past = {
        c.code for c in record.causes if c.cure is Cure.QUIET and now - c.at >= QUIET
    }
    record = drop(record, past)
    to = record.judged
    if record.causes:
        if to in {Health.HEALTHY, Health.PROBATION}:
            record, to = _fall(record, now), Health.DRAINING
        if not is_held or any(cause.ends_lease for cause in record.causes):
            to = Health.QUARANTINED
    elif is_seen:
        to = _rise(record, now)
    if to is record.judged:
        return record
    if to is Health.HEALTHY:
        record = replace(record, needs_quiet=False)
    return replace(record, judged=to, since=now)


def _fall(record: Record, now: datetime) -> Record:
    was_good = record.judged is Health.HEALTHY and now - record.since >= FORGIVEN
    return replace(record, n_falls=1 if was_good else record.n_falls + 1, fell_at=now)


def _rise(record: Record, now: datetime) -> Health:
    """Return the state of a device without causes."""
    if record.judged is Health.HEALTHY:
        return record.judged
    if record.judged is Health.PROBATION:
        is_over = now - record.since >= _quiet(record.n_falls)
        return Health.HEALTHY if is_over else record.judged
    if now - (record.fell_at or record.since) < _hold(record.n_falls):
        return record.judged
    is_first = record.n_falls <= 1 and not record.needs_quiet
    return Health.HEALTHY if is_first else Health.PROBATION


def _quiet(n_falls: int) -> timedelta:
    """Return how long the probation after the n-th fall is."""
    doublings = min(max(n_falls - 1, 0), 16)
    return min(QUIET * (1 << doublings), QUIET_MAX)


def _hold(n_falls: int) -> timedelta:
    """Return how long a device stays quarantined at least after the n-th fall."""
    return _quiet(n_falls) if n_falls > 1 else timedelta(0)


def rank(cause: Cause) -> tuple[bool, bool, datetime, str]:
    """Order causes, the worst first."""
    return not cause.ends_lease, cause.cure is not Cure.ADMIN, cause.at, cause.code


def _clock(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"
