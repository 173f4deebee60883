"""Which causes and evidence follow from what the driver says of one device.

What is not known (None, no sample) neither adds a cause nor ends one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from gpuspawner import xids
from gpuspawner.faults import (
    Cause,
    Evidence,
    Record,
    add,
    drop,
    note,
    set_measured,
)
from gpuspawner.sample import Event, EventKind, Recovery, Sample
from gpuspawner.xids import Consequence, Cure

CONTAINED_WITHIN = timedelta(seconds=60)
"""XIDs 48 and 94 so close together are one error."""

ENERGY_STEP = 1.25
"""A reading of energy is kept when it has grown so much: the record seldom changes."""

LOST_REMEDY = "Look at dmesg on the host; restart the machine if it does not come back."
LINKS_REMEDY = (
    "Look at nvidia-smi nvlink --status; reset the GPU or restart nvidia-fabricmanager."
)
ROWS_FAILED_REMEDY = f"Have the GPU replaced. {xids.ADMIN_REMEDY}"

RECOVERIES: Mapping[Recovery, tuple[str, bool, str]] = {
    # what is wrong, whether leases end, what to do: section "Recovery action flag" of
    # docs.nvidia.com/deploy/a100-gpu-mem-error-mgmt
    Recovery.RESET: ("the driver asks for a reset", True, xids.RESET_REMEDY),
    Recovery.REBOOT: (
        "the driver asks for a restart of the machine",
        True,
        xids.REBOOT_REMEDY,
    ),
    Recovery.DRAIN_P2P: (
        "the driver asks for an end of traffic between GPUs",
        False,
        "It drains by itself.",
    ),
    Recovery.DRAIN_AND_RESET: (
        "the driver asks for a reset when the GPU is free",
        False,
        xids.RESET_REMEDY,
    ),
}
ACTIONS: Mapping[int, Recovery] = {
    # nvmlDeviceGpuRecoveryAction_t; 6 and 7 are a reset of the bus and of the system
    **dict(enumerate(Recovery)),
    6: Recovery.RESET,
    7: Recovery.REBOOT,
}

CONTAINED = f"xid-{xids.CONTAINED}"
MEANS_RESET = {Recovery.RESET, Recovery.REBOOT, Recovery.DRAIN_AND_RESET}


def see_restart(record: Record, sample: Sample, boot_id: str) -> Record:
    """End what a reset or a restart cures, if this sample shows one."""
    asked = {f"recovery-{action}" for action in MEANS_RESET}
    has_begun_anew = (
        bool(record.boot_id and boot_id and record.boot_id != boot_id)
        or _fell(record.energy_j, sample.energy_j)
        or _fell(record.n_ecc_uncorrected, sample.n_ecc_uncorrected)
    )
    if has_begun_anew:
        errors = record.n_ecc_uncorrected
        counted = None if errors is None else 0
        record = replace(record, energy_j=None, n_ecc_uncorrected=counted)
    is_satisfied = sample.recovery is Recovery.NONE and any(
        cause.code in asked for cause in record.causes
    )
    if has_begun_anew or is_satisfied:
        cured = {c.code for c in record.causes if c.cure is Cure.RESET}
        record = replace(drop(record, cured), n_nvlinks=None)
    last, new = record.energy_j, sample.energy_j
    if new is not None and (last is None or new > last * ENERGY_STEP):
        record = replace(record, energy_j=new)
    return replace(record, boot_id=boot_id or record.boot_id)


def _fell(last: float | None, new: float | None) -> bool:
    """Whether a counter that only grows has begun anew."""
    return last is not None and new is not None and new < last


def see_events(record: Record, events: Sequence[Event], user: str) -> Record:
    """Take note of what the driver reported, in its order."""
    seen: list[Event | Evidence] = [*events, *record.evidence]
    contained = [found.at for found in seen if code_of(found) == CONTAINED]
    for event in events:
        if event.kind is EventKind.RECOVERY:
            record = _see_request(record, event)
            continue
        xid = xids.look_up(event.code)
        consequence = xid.consequence
        if event.code == xids.DOUBLE_BIT and any(
            abs(at - event.at) <= CONTAINED_WITHIN for at in contained
        ):
            consequence = Consequence.DRAIN
        if consequence in {Consequence.IGNORE, Consequence.COUNT}:
            record = note(record, Evidence(event.at, code_of(event), xid.what, user))
            continue
        ends = consequence is Consequence.QUARANTINE
        cause = Cause(event.at, code_of(event), xid.what, xid.cure, xid.remedy, ends)
        record = add(record, cause, user)
    return record


def _see_request(record: Record, event: Event) -> Record:
    """Act on what the driver asks for; a number that nobody has judged is evidence."""
    action = ACTIONS.get(event.code)
    if action is not None:
        return _see_recovery(record, action, event.at)
    text = f"the driver asks for recovery action {event.code}, which is not known here"
    return note(record, Evidence(event.at, code_of(event), text))


def code_of(seen: Event | Evidence) -> str:
    """Return the code under which it is kept, like "xid-31"."""
    return seen.code if isinstance(seen, Evidence) else f"{seen.kind}-{seen.code}"


def measure(record: Record, sample: Sample, now: datetime) -> Record:
    """Set and end the causes that can be read off a sample."""
    lost = Cause(
        now,
        "lost",
        "the driver cannot reach it",
        Cure.GONE,
        LOST_REMEDY,
        ends_lease=True,
        is_measured=True,
    )
    record = set_measured(record, lost, sample.is_lost)
    if sample.recovery is not None:
        record = _see_recovery(record, sample.recovery, now)
    record = _see_rows(record, sample, now)
    record = _see_errors(record, sample, now)
    return _see_links(record, sample, now)


def _see_recovery(record: Record, action: Recovery, now: datetime) -> Record:
    for other, (text, ends_lease, remedy) in RECOVERIES.items():
        cause = Cause(
            now, f"recovery-{other}", text, Cure.GONE, remedy, ends_lease, True
        )
        record = set_measured(record, cause, other is action)
    return record


def _see_rows(record: Record, sample: Sample, now: datetime) -> Record:
    rows = sample.remapping
    if rows is None:
        return record
    pending = Cause(
        now,
        "remap-pending",
        "rows of its memory wait to be replaced at a reset",
        Cure.GONE,
        xids.RESET_REMEDY,
        is_measured=True,
    )
    failed = Cause(
        now,
        "remap-failed",
        "bad rows of its memory could not be replaced",
        Cure.ADMIN,
        ROWS_FAILED_REMEDY,
        ends_lease=True,
        is_measured=True,
    )
    record = set_measured(record, pending, rows.is_pending)
    return set_measured(record, failed, rows.has_failed)


def _see_errors(record: Record, sample: Sample, now: datetime) -> Record:
    new, last = sample.n_ecc_uncorrected, record.n_ecc_uncorrected
    if new is None or new == last:
        return record
    record = replace(record, n_ecc_uncorrected=new)
    if last is None or new < last:
        return record
    text = "memory errors that could not be corrected"
    return add(record, Cause(now, "ecc", text, Cure.RESET, xids.RESET_REMEDY))


def _see_links(record: Record, sample: Sample, now: datetime) -> Record:
    new = sample.n_nvlinks
    if new is None:
        return record
    most = max(new, record.n_nvlinks or 0)
    record = replace(record, n_nvlinks=most)
    down = Cause(
        now,
        "nvlink",
        f"{most - new} of its {most} NVLinks are down",
        Cure.GONE,
        LINKS_REMEDY,
        is_measured=True,
    )
    return set_measured(record, down, new < most)


def is_counted(code: str) -> bool:
    """Whether such evidence of several users makes a device suspicious."""
    number = code.removeprefix("xid-")
    return (
        number != code
        and number.isdecimal()
        and xids.look_up(int(number)).consequence is Consequence.COUNT
    )
