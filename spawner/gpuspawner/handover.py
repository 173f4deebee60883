"""Whether a slot whose container is gone is clean, so that it may be leased again."""

from collections.abc import Set
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from gpuspawner.model import Slot, SlotKind
from gpuspawner.sample import GpuProcess, Sample, Sweep

LIMIT = timedelta(seconds=60)
"""How long a slot may take to become clean; the driver frees memory within seconds."""

TOLERANCE_BYTES = 64 * 2**20
"""Less than a CUDA context takes, more than an idle device's memory varies."""

IDLE_MOST_BYTES = 2 * 2**30
"""More than an idle driver keeps for itself on any device (hundreds of MiB): what is
expected of a device that was never seen idle, as after a restart of the hub.
"""


class Cleanness(StrEnum):
    """CLEAN: may be leased. WAIT: look again at the next sweep. DIRTY: quarantine."""

    CLEAN = "clean"
    WAIT = "wait"
    DIRTY = "dirty"


@dataclass(frozen=True, slots=True)
class Judgement:
    """A slot's cleanness, and a sentence why for the admin; "" if it is clean."""

    cleanness: Cleanness
    reason: str = ""


def judge(
    slot: Slot,
    sample: Sample | None,
    baseline_bytes: int | None,
    *,
    since: datetime,
    now: datetime,
    others: Set[int] = frozenset(),
    limit: timedelta = LIMIT,
) -> Judgement:
    """Return whether the slot is clean. Missing data is never clean.

    Args:
        slot: Its container is gone.
        sample: Of `slot.uuid`, or of its device; the newest.
        baseline_bytes: What is used when nobody uses it, from `Baselines`; without it
            `IDLE_MOST_BYTES`.
        since: When the container was seen to be gone.
        now: The same clock.
        others: PIDs that rightly use the device: of live leases and of the host's own.
        limit: How long the slot may take to become clean.
    """
    reason = _trouble(slot, sample, baseline_bytes, since, others)
    if not reason:
        return Judgement(Cleanness.CLEAN)
    if now - since > limit:
        waited = f"{limit.total_seconds():.0f} seconds after its server ended"
        return Judgement(Cleanness.DIRTY, f"{slot} is not clean {waited}: {reason}")
    return Judgement(Cleanness.WAIT, f"{slot} waits to be clean: {reason}")


def _trouble(
    slot: Slot,
    sample: Sample | None,
    baseline_bytes: int | None,
    since: datetime,
    others: Set[int],
) -> str:
    """Return what speaks against leasing the slot, "" if nothing does."""
    if sample is None or sample.at < since:
        return "the driver has not been read since."
    if sample.is_lost:
        return "the driver cannot reach it."
    if sample.processes is None:
        return "the driver does not tell which programs use it."
    on_it = [process for process in sample.processes if _is_on(process, slot)]
    left = sorted({process.pid for process in on_it} - others)
    if left:
        pids = ", ".join(map(str, left))
        return f"still used by process {pids}."
    if sample.processes:
        return ""  # how much of the memory is the others' cannot be told
    if sample.memory_used_bytes is None:
        if baseline_bytes is None:
            return ""  # this device never tells
        return "the driver does not tell how much of its memory is used."
    idle = IDLE_MOST_BYTES if baseline_bytes is None else baseline_bytes
    over = sample.memory_used_bytes - idle
    if over > TOLERANCE_BYTES:
        return f"{over / 2**20:.0f} MiB of its memory are used by no known program."
    return ""


def _is_on(process: GpuProcess, slot: Slot) -> bool:
    """Whether the process may use the slot; one that tells no MIG instance may."""
    if slot.kind is not SlotKind.MIG or process.gpu_instance is None:
        return True
    instances = {found.uuid: found.gpu_instance for found in slot.device.instances}
    return instances.get(slot.id, process.gpu_instance) == process.gpu_instance


class Baselines:
    """Learns how much memory of each device and MIG instance is used when nobody does.

    Kept in memory only: after a restart of the hub, and with it perhaps of the driver,
    it is learnt anew.

    Attributes:
        lowest: UUID -> the lowest memory seen, in bytes, of those seen idle.
    """

    def __init__(self) -> None:
        self.lowest: dict[str, int] = {}

    def learn(self, sweep: Sweep, leased: Set[str]) -> None:
        """Take note of a sweep.

        Args:
            sweep: What was read.
            leased: UUIDs of devices and MIG instances that are leased or not yet clean,
                and of devices with such instances.
        """
        for uuid, sample in sweep.samples.items():
            used = sample.memory_used_bytes
            if uuid in leased or used is None or sample.processes != ():
                continue
            self.lowest[uuid] = min(used, self.lowest.get(uuid, used))
