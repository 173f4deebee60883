"""What admins see of the machine: its GPUs, leases and queue as plain JSON types."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from gpuspawner import waiting
from gpuspawner.admission import Admission
from gpuspawner.faults import Record
from gpuspawner.health import HealthBook
from gpuspawner.idleness import Observed, thresholds_for
from gpuspawner.model import Device, Lease, Slot, SlotKind, Terms
from gpuspawner.pool import Pool
from gpuspawner.refusals import count
from gpuspawner.sample import Sample, Sweep
from gpuspawner.tickets import Place, Ticket

VERSION = 1  # goes up when a key goes away or changes its meaning
SLOT_STATES = ("free", "leased", "returned", "unfit", "foreign")
JSON = dict[str, Any]

NOT_READY = (
    "The hub has not read yet which GPUs are in use, so it grants none. If this stays, "
    "look whether the container engine answers."
)


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a machine at one moment.

    Attributes:
        pool: Devices, slots, leases and the queue.
        book: The health of every device.
        interval_s: Seconds between two readings of all GPUs.
        places: Ticket id -> where it stands.
        sweep: The last reading that succeeded; None before the first.
        round_s: Wall-clock seconds that the last round took, with what follows from
            the reading; None before the first.
        reader_cpu_s: CPU seconds of the process that reads the GPUs, since it was
            started; None if unknown.
        caps: Lease id -> which of `capping.Means` keeps its share inside its memory.
        terms: Lease id -> what its server was started as.
        tokens_end: Lease id -> when its tokens run out, as the meter last said.
        observed: Whether the GPUs of leases compute.
        admission: Who boots; None before the first boot.
        alarms: When and what, the newest last.
        absence: Why there are no GPUs, None if there are some.
    """

    pool: Pool
    book: HealthBook
    interval_s: float
    places: Mapping[str, Place] = field(default_factory=dict)
    sweep: Sweep | None = None
    round_s: float | None = None
    reader_cpu_s: float | None = None
    caps: Mapping[str, str] = field(default_factory=dict)
    terms: Mapping[str, Terms] = field(default_factory=dict)
    tokens_end: Mapping[str, datetime] = field(default_factory=dict)
    observed: Observed = field(default_factory=Observed)
    admission: Admission | None = None
    alarms: Sequence[tuple[datetime, str]] = ()
    absence: str | None = None


def show(facts: Facts, now: datetime) -> JSON:
    """Return everything; the keys are always there, and what is unknown is None.

    Sizes are in bytes, times in seconds (`_s`) or ISO 8601 in UTC, shares 0 to 1.
    """
    pool = facts.pool
    return {
        "version": VERSION,
        "at": now.isoformat(),
        "is_ready": pool.is_ready,
        "trouble": _trouble(pool),
        "absence": facts.absence,
        "sampling": _sampling(facts, now),
        "devices": [_device(device, facts, now) for device in pool.devices.values()],
        "slots": [_slot(slot, facts) for slot in pool.slots.values()],
        "leases": [_lease(lease, facts, now) for lease in pool.leases.values()],
        "queue": [
            _ticket(ticket, facts.places.get(ticket.id)) for ticket in _waiting(facts)
        ],
        "boots": _boots(facts.admission),
        "alarms": [{"at": at.isoformat(), "text": text} for at, text in facts.alarms],
    }


def show_device(uuid: str, facts: Facts, now: datetime) -> JSON | None:
    """Return one of `devices`, None if there is none with this UUID."""
    device = facts.pool.devices.get(uuid)
    return _device(device, facts, now) if device else None


def _trouble(pool: Pool) -> str | None:
    """Return why nothing is granted now; None if the pool grants."""
    return pool.trouble or (None if pool.is_ready else NOT_READY)


def _sampling(facts: Facts, now: datetime) -> JSON:
    """Return how often the GPUs are read, how old the last reading is, its cost."""
    samples = facts.sweep.samples.values() if facts.sweep else ()
    newest = max((sample.at for sample in samples), default=None)
    return {
        "interval_s": facts.interval_s,
        "age_s": newest and _age_s(newest, now),
        "reading_s": facts.sweep.took_s if facts.sweep else None,
        "round_s": facts.round_s,
        "reader_cpu_s": facts.reader_cpu_s,
    }


def _waiting(facts: Facts) -> Iterable[Ticket]:
    """Return the tickets in the order of the queue, those without a place last."""
    order = list(facts.places)
    return sorted(
        facts.pool.queue.tickets,
        key=lambda ticket: (
            order.index(ticket.id) if ticket.id in facts.places else len(order)
        ),
    )


# -- devices -------------------------------------------------------------------------


def _device(device: Device, facts: Facts, now: datetime) -> JSON:
    sample = facts.sweep.samples.get(device.uuid) if facts.sweep else None
    return {
        "uuid": device.uuid,
        "index": device.index,
        "name": device.name,
        "memory_bytes": device.memory_bytes,
        "is_simulated": device.is_simulated,
        "is_lost": device.is_lost,
        "is_split": device.is_split,
        "health": _health(facts.book.records.get(device.uuid)),
        "sample": _sample(sample, now),
    }


def _health(record: Record | None) -> JSON:
    """Return a device's state and what speaks for it; unknown devices are healthy."""
    if record is None:
        return {"state": "healthy", "since": None, "reason": None, "causes": [],
                "evidence": [], "override": None}  # fmt: skip
    word = record.override
    return {
        "state": record.state.value,
        "since": (word.at if word else record.since).isoformat(),
        "reason": record.reason or None,
        "causes": [
            {"at": cause.at.isoformat(), "code": cause.code, "text": cause.text,
             "remedy": cause.remedy, "ends_lease": cause.ends_lease}
            for cause in record.causes
        ],
        "evidence": [
            {**asdict(seen), "at": seen.at.isoformat()} for seen in record.evidence
        ],
        "override": word
        and {**asdict(word), "state": word.state.value, "at": word.at.isoformat()},
    }  # fmt: skip


def _sample(sample: Sample | None, now: datetime) -> JSON:
    """Return a reading; all of it is None if the device was never read."""
    processes = sample.processes if sample else None
    return {
        "age_s": _age_s(sample.at, now) if sample else None,
        "utilisation": sample.utilisation if sample else None,
        "memory_used_bytes": sample.memory_used_bytes if sample else None,
        "temperature_c": sample.temperature_c if sample else None,
        "power_w": sample.power_w if sample else None,
        "n_processes": None if processes is None else len(processes),
    }


def _age_s(at: datetime, now: datetime) -> float:
    return max(0.0, (now - at).total_seconds())


# -- slots and leases ----------------------------------------------------------------


def _slot(slot: Slot, facts: Facts) -> JSON:
    state, why = _state(slot, facts.pool)
    holder = facts.pool.holder(slot.id)
    sample = facts.sweep.samples.get(slot.id) if facts.sweep else None
    return {
        "id": slot.id,
        "uuid": slot.uuid,
        "device": slot.device.uuid,
        "kind": slot.kind.value,
        "type": slot.type,
        "profile": slot.profile or None,
        "memory_bytes": slot.memory_bytes,
        "memory_used_bytes": sample.memory_used_bytes if sample else None,
        "state": state,
        "why": why,
        "lease": holder.id if holder else None,
    }


def _state(slot: Slot, pool: Pool) -> tuple[str, str | None]:
    """Return which of SLOT_STATES a slot is in, and why."""
    if holder := pool.holder(slot.id):
        if any(held.id == slot.id for held in holder.slots):
            return "leased", holder.why or None
        return "leased", f"{holder.owner} holds the same GPU in another way"
    for uuid in (slot.uuid, slot.device.uuid):
        if uuid in pool.foreign:
            return "foreign", f"used by the container {pool.foreign[uuid]}"
    if slot.device.uuid in pool.unfit:
        return "unfit", pool.unfit[slot.device.uuid]
    if slot.device.is_lost:
        return "unfit", "The driver cannot reach it."
    if trouble := _trouble(pool):
        return "unfit", trouble
    if returned := pool.returned.get(slot.id):
        return "returned", f"waits to be seen clean since {returned.since.isoformat()}"
    return "free", None


def _lease(lease: Lease, facts: Facts, now: datetime) -> JSON:
    terms = facts.terms.get(lease.id, Terms())
    end = facts.tokens_end.get(lease.id)
    return {
        "id": lease.id,
        "user": lease.owner.user,
        "server": lease.owner.server,
        "state": lease.state.value,
        "since": lease.since and lease.since.isoformat(),
        "why": lease.why or None,
        "offer": terms.offer or None,
        "course": terms.course or None,
        "ready_at": terms.ready_at and terms.ready_at.isoformat(),
        "tokens_end_at": end and end.isoformat(),
        "slots": [
            {"id": slot.id, "device": slot.device.uuid, "kind": slot.kind.value}
            for slot in lease.slots
        ],
        "cap": _cap(lease, facts.caps.get(lease.id)),
        "use": _use(lease, facts, now),
    }


def _use(lease: Lease, facts: Facts, now: datetime) -> JSON | None:
    """Return whether a lease's GPUs compute; None without a slot."""
    if not lease.slots:
        return None
    longest = thresholds_for(facts.interval_s).longest
    use = facts.observed.of(lease.id, now, longest)
    return {
        "state": use.state.value,
        "since": use.since.isoformat(),
        "idle_since": use.idle_since and use.idle_since.isoformat(),
        "why": use.why,
        "slots": [
            {"id": slot.id, "state": slot.state.value, "why": slot.why}
            for slot in use.slots
        ],
    }


def _cap(lease: Lease, enforcer: str | None) -> JSON | None:
    """Return the GPU memory of each slot and what keeps to it; None without a slot."""
    if not lease.slots:
        return None
    slot = lease.slots[0]
    by = enforcer if slot.kind is SlotKind.SHARE else "hardware"
    return {"bytes": slot.memory_bytes, "by": by and str(by)}


# -- who waits -----------------------------------------------------------------------


def _ticket(ticket: Ticket, place: Place | None) -> JSON:
    request = ticket.request
    return {
        "ticket": ticket.id,
        "user": ticket.owner.user,
        "server": ticket.owner.server,
        "course": ticket.course or None,
        "request": {
            "n_slots": request.n_slots,
            "kind": request.kind.value,
            "type": request.type or None,
            "min_memory_bytes": request.min_memory_bytes,
            "must_be_connected": request.must_be_connected,
            "text": count(request.n_slots, request),
        },
        "asked_at": ticket.asked_at.isoformat(),
        "position": place.position if place else None,
        "wait_s": place.wait_s if place else None,
        "is_possible": place.is_possible if place else None,
        "text": waiting.describe(place) if place else None,
    }


def _boots(admission: Admission | None) -> JSON:
    """Return lease ids: who boots now, who waits to, and how many may at once."""
    return {
        "booting": list(admission.booting) if admission else [],
        "waiting": list(admission.waiting) if admission else [],
        "limit": admission.limit if admission else None,
    }
