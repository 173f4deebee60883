"""The health of every device: may it be leased, and must its lease end."""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, fields, is_dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Self, TypeVar

from gpuspawner import xids
from gpuspawner.diagnosis import code_of, is_counted, measure, see_events, see_restart
from gpuspawner.faults import (
    EVIDENCE_MAX,
    QUIET_MAX,
    TEXT_MAX,
    Cause,
    Evidence,
    Finding,
    Health,
    Override,
    Record,
    add,
    drop,
    move,
    note,
    rank,
)
from gpuspawner.sample import Sweep
from gpuspawner.xids import Cure

__all__ = [
    "Change",
    "EndLease",
    "Evidence",
    "Finding",
    "Health",
    "HealthBook",
    "Record",
    "Verdict",
]

N_USERS = 3
"""So many users whose programs failed on one device make the device suspicious..."""

REPETITION = timedelta(hours=2)
"""...within this time, and if no other device had half as many: the same faulty
exercise fails on every GPU.
"""

UNCLEAN_REMEDY = (
    "It heals when the programs left on it are gone: see nvidia-smi on the host."
)
SUSPECT_REMEDY = "Compare with other GPUs; reset it if its users did different things."


@dataclass(frozen=True, slots=True)
class EndLease:
    """Every lease on this device must end; given again with every sweep until it has.

    Attributes:
        uuid: Of the device.
        reason: What the user reads.
        since: When the device broke, as far as anybody knows.
        is_refundable: The platform broke, not the user's program.
    """

    uuid: str
    reason: str
    since: datetime
    is_refundable: bool = True


@dataclass(frozen=True, slots=True)
class Change:
    """A device went from one state to another; for the log."""

    uuid: str
    before: Health
    after: Health
    reason: str


Verdict = EndLease | Change


class HealthBook:
    """The single owner of devices' health.

    A device that nobody has seen is taken to be healthy: let one sweep pass before the
    first lease.

    Attributes:
        records: Device UUID -> record.
    """

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}

    def state_of(self, uuid: str) -> Health:
        """Return a device's state; for a MIG instance ask for its device."""
        record = self.records.get(uuid)
        return record.state if record else Health.HEALTHY

    def is_leasable(self, uuid: str) -> bool:
        """Whether the device may be given to a new lease."""
        return self.state_of(uuid) is Health.HEALTHY

    @property
    def unclean(self) -> tuple[str, ...]:
        """Devices that wait for `clear`, also those found before a restart."""
        return tuple(
            uuid
            for uuid, record in sorted(self.records.items())
            if any(cause.code == Finding.UNCLEAN for cause in record.causes)
        )

    def see(
        self,
        sweep: Sweep,
        *,
        now: datetime,
        boot_id: str,
        holders: Mapping[str, Set[str]],
    ) -> tuple[Verdict, ...]:
        """Judge what was read and return what must be done.

        Args:
            sweep: What was read; samples of MIG instances are passed over, because all
                that is judged here is their device's.
            now: Aware UTC.
            boot_id: The machine's, from /proc/sys/kernel/random/boot_id; "" if unknown.
            holders: Device UUID -> users with a lease on it or on a part of it.
        """
        before = dict(self.records)
        samples = {u: s for u, s in sweep.samples.items() if not _is_instance(u)}
        events = [event for event in sweep.events if not _is_instance(event.uuid)]
        for uuid in samples.keys() | {event.uuid for event in events}:
            record = self.records.get(uuid) or Record(uuid, now)
            sample = samples.get(uuid)
            if sample and not sample.is_lost:
                record = see_restart(record, sample, boot_id)
            mine = [event for event in events if event.uuid == uuid]
            record = see_events(record, mine, _only(holders.get(uuid)))
            self.records[uuid] = measure(record, sample, now) if sample else record
        self._suspect({e.uuid for e in events if is_counted(code_of(e))}, now)
        for uuid, record in self.records.items():
            sample = samples.get(uuid)
            self.records[uuid] = move(
                record,
                now,
                is_held=bool(holders.get(uuid)),
                is_seen=bool(sample and not sample.is_lost),
            )
        return (*self._ends(holders), *self._changes(before))

    def report(
        self, uuid: str, finding: Finding, text: str, now: datetime, user: str = ""
    ) -> tuple[Verdict, ...]:
        """Take note of what another part found on a device; an unknown one is added.

        Args:
            uuid: Of the device.
            finding: See Finding.
            text: Half a sentence.
            now: Aware UTC.
            user: Whose lease it was.
        """
        before = dict(self.records)
        record = self.records.get(uuid) or Record(uuid, now)
        text = text.rstrip(".")[:TEXT_MAX] or finding.value
        if finding is Finding.UNCLEAN:
            cause = Cause(
                now, finding, text, Cure.GONE, UNCLEAN_REMEDY, is_measured=True
            )
            # whether another share is still leased is known at the next sweep
            record = move(add(record, cause, user), now, is_held=True, is_seen=False)
        else:
            record = note(record, Evidence(now, finding, text, user))
        self.records[uuid] = record
        return self._changes(before)

    def clear(self, uuid: str, finding: Finding) -> None:
        """Note that a finding is gone; at the next sweep the device may recover."""
        if uuid in self.records:
            self.records[uuid] = drop(self.records[uuid], {finding.value})

    def override(
        self, uuid: str, state: Health, note: str, *, admin: str, now: datetime
    ) -> tuple[Verdict, ...]:
        """Take an admin's word. It stands until `lift`.

        Said to be healthy, a device stays so until something new is seen: what was
        measured then and has not changed since is not new.

        Raises:
            LookupError: No such device was ever seen.
            ValueError: The note is blank, or the state is not an admin's to give.
        """
        before = dict(self.records)
        record = self._known(uuid)
        if state is Health.PROBATION:
            raise ValueError(
                "A device goes on probation by itself: say healthy, draining or "
                "quarantined."
            )
        if not note.strip():
            raise ValueError("Say in a note why the state is overridden.")
        if state is Health.HEALTHY:
            past = {cause.code for cause in record.causes if not cause.is_measured}
            record = replace(drop(record, past), n_falls=0)
            if not record.causes:
                record = replace(record, judged=state, since=now, needs_quiet=False)
        word = Override(state, note.strip()[:TEXT_MAX], admin, now)
        self.records[uuid] = replace(record, override=word)
        return self._changes(before)

    def lift(self, uuid: str) -> tuple[Verdict, ...]:
        """Take an override away, if there is one; what is measured decides again.

        Raises:
            LookupError: No such device was ever seen.
        """
        before = dict(self.records)
        self.records[uuid] = replace(self._known(uuid), override=None)
        return self._changes(before)

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain JSON types."""
        return {
            "version": 1,
            "devices": {uuid: _dump(r) for uuid, r in sorted(self.records.items())},
        }

    @classmethod
    def from_json(cls, data: object) -> Self:
        """Return the book that `to_json` described.

        Unknown fields are passed over and missing ones take their defaults. What cannot
        be read about a cause makes it the strictest: it ends leases and only an admin
        ends it.
        """
        book = cls()
        for uuid, found in _dict(_dict(data).get("devices")).items():
            book.records[uuid] = _load_record(uuid, _dict(found))
        return book

    def _known(self, uuid: str) -> Record:
        if uuid not in self.records:
            known = ", ".join(sorted(self.records)) or "none"
            raise LookupError(f"There is no device {uuid}. Known are: {known}.")
        return self.records[uuid]

    def _suspect(self, uuids: Iterable[str], now: datetime) -> None:
        """Drain devices on which the programs of different users failed."""
        n_users = {uuid: _n_users(r, now) for uuid, r in self.records.items()}
        for uuid in sorted(uuids):
            n = n_users[uuid]
            elsewhere = max((m for u, m in n_users.items() if u != uuid), default=0)
            if n < N_USERS or 2 * elsewhere > n:
                continue
            text = f"the programs of {n} users failed on it within {_span(REPETITION)}"
            cause = Cause(now, "repetition", text, Cure.QUIET, SUSPECT_REMEDY)
            self.records[uuid] = add(self.records[uuid], cause)

    def _ends(self, holders: Mapping[str, Set[str]]) -> Iterable[EndLease]:
        for uuid in sorted(holders):
            record = self.records.get(uuid)
            if not record or not holders[uuid] or record.is_said_healthy:
                continue
            ends = [cause for cause in record.causes if cause.ends_lease]
            if ends:
                since = min(cause.at for cause in ends)
                yield EndLease(uuid, _tell(min(ends, key=rank)), since)

    def _changes(self, before: Mapping[str, Record]) -> tuple[Change, ...]:
        changes = []
        for uuid, record in sorted(self.records.items()):
            old = before[uuid].state if uuid in before else Health.HEALTHY
            if old is not record.state:
                changes.append(Change(uuid, old, record.state, record.reason))
        return tuple(changes)


def _n_users(record: Record, now: datetime) -> int:
    """Return how many users' programs failed lately, since it was last found fit."""
    begin = [now - REPETITION]
    if record.fell_at:
        begin.append(record.fell_at)
    if record.override:
        begin.append(record.override.at)
    return len(
        {
            seen.user
            for seen in record.evidence
            if seen.user and seen.at > max(begin) and is_counted(seen.code)
        }
    )


def _only(users: Set[str] | None) -> str:
    """Return the user if there is exactly one: of several any could be the one."""
    return next(iter(users)) if users and len(users) == 1 else ""


def _is_instance(uuid: str) -> bool:
    """Whether this is the UUID of a MIG instance, of the new or the old form."""
    return uuid.startswith("MIG-")


def _tell(cause: Cause) -> str:
    """Return what a user reads whose lease ends."""
    return (
        f"The GPU of your server broke ({cause.text}), so the server was stopped. Your "
        "files are safe: start the server again, and it gets another GPU."
    )


def _span(time: timedelta) -> str:
    return f"{time.total_seconds() / 3600:g} hours"


def _dump(value: Any) -> Any:
    """Return a value of a record as plain JSON types."""
    if is_dataclass(value):
        return {f.name: _dump(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, tuple):
        return [_dump(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    return value.value if isinstance(value, StrEnum) else value


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _load_record(uuid: str, found: Mapping[str, Any]) -> Record:
    causes = tuple(map(_load_cause, _dicts(found.get("causes"))))
    unknown = Health.QUARANTINED if causes else Health.PROBATION
    return Record(
        uuid,
        _time(found.get("since")) or EPOCH,
        _member(Health, found.get("judged"), unknown),
        causes,
        tuple(map(_load_evidence, _dicts(found.get("evidence"))))[-EVIDENCE_MAX:],
        _load_override(_dict(found.get("override"))),
        _text(found.get("last")),
        _whole(found.get("n_falls")) or 0,
        _time(found.get("fell_at")),
        found.get("needs_quiet") is not False,
        _text(found.get("boot_id")),
        _number(found.get("energy_j")),
        _whole(found.get("n_ecc_uncorrected")),
        _whole(found.get("n_nvlinks")),
    )


def _load_cause(found: Mapping[str, Any]) -> Cause:
    return Cause(
        _time(found.get("at")) or EPOCH,
        _text(found.get("code")) or "unknown",
        _text(found.get("text")) or "a fault that this version does not know",
        _member(Cure, found.get("cure"), Cure.ADMIN),
        _text(found.get("remedy")) or xids.ADMIN_REMEDY,
        found.get("ends_lease") is not False,
        found.get("is_measured") is True,
    )


def _load_evidence(found: Mapping[str, Any]) -> Evidence:
    return Evidence(
        _time(found.get("at")) or EPOCH,
        _text(found.get("code")) or "unknown",
        _text(found.get("text")),
        _text(found.get("user")),
        _whole(found.get("n")) or 1,
    )


def _load_override(found: Mapping[str, Any]) -> Override | None:
    if not found:
        return None
    return Override(
        _member(Health, found.get("state"), Health.QUARANTINED),
        _text(found.get("note")) or "(the note is lost)",
        _text(found.get("admin")) or "somebody",
        _time(found.get("at")) or EPOCH,
    )


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _dicts(value: object) -> list[dict[str, Any]]:
    items = value if isinstance(value, list) else []
    return [item for item in items if isinstance(item, dict)]


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _time(value: object) -> datetime | None:
    try:
        at = datetime.fromisoformat(_text(value))
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        at + QUIET_MAX  # a year in which nobody can calculate is no time
    except (ValueError, OverflowError):
        return None
    return at


Member = TypeVar("Member", bound=StrEnum)


def _member(kind: type[Member], value: object, other: Member) -> Member:
    return next((member for member in kind if member == value), other)
