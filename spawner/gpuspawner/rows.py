"""What the GPU reader's lines mean: JSON as nvml/ makes it, as nouns."""

from datetime import UTC, datetime
from typing import Any

from gpuspawner.links import Link, Path, Topology
from gpuspawner.model import Device, Instance
from gpuspawner.sample import (
    Event,
    EventKind,
    GpuProcess,
    Recovery,
    Remapping,
    Sample,
    Sweep,
)

Row = dict[str, Any]

# nvmlGpuTopologyLevel_t
PATHS = {
    50: Path.SYS,
    40: Path.NODE,
    30: Path.PHB,
    20: Path.PXB,
    10: Path.PIX,
    0: Path.BOARD,
}
# nvmlDeviceGpuRecoveryAction_t; a number that is not here means what 2 means.
RECOVERIES = {
    0: Recovery.NONE,
    1: Recovery.RESET,
    2: Recovery.REBOOT,
    3: Recovery.DRAIN_P2P,
    4: Recovery.DRAIN_AND_RESET,
    5: Recovery.DRAIN_P2P,  # recover the IMEX domain: links to other machines
    6: Recovery.RESET,  # of the GPU's PCIe bus
    7: Recovery.REBOOT,  # of the whole system
}


def to_device(row: Row) -> Device:
    """Return the device."""
    instances = tuple(Instance(**instance) for instance in row["instances"])
    return Device(**(row | {"instances": instances}))


def to_topology(row: Row) -> Topology:
    """Return the links and NUMA nodes; a level that is None or new is unknown."""
    links = {
        (min(one, other), max(one, other)): Link(PATHS.get(level, Path.UNKNOWN), n)
        for one, other, level, n in row["links"]
    }
    return Topology(links, row["numa"])


def to_sweep(row: Row) -> Sweep:
    """Return the samples; the events come by themselves."""
    samples = {each["uuid"]: _sample(each) for each in row["samples"]}
    return Sweep(samples, took_s=row["took_s"])


def to_event(row: Row) -> Event:
    """Return the event."""
    at = datetime.fromtimestamp(row["at"], UTC)
    kind = EventKind(row["kind"])
    return Event(row["uuid"], at, kind, row["code"], row.get("gpu_instance"))


def _sample(row: Row) -> Sample:
    values = dict(row)
    values["at"] = datetime.fromtimestamp(row["at"], UTC)
    if "processes" in row:
        values["processes"] = tuple(GpuProcess(*each) for each in row["processes"])
    if "sm" in row:
        values["sm"] = dict(row["sm"])
    if "recovery" in row:
        values["recovery"] = RECOVERIES.get(row["recovery"], Recovery.REBOOT)
    if "remapping" in row:
        corrected, uncorrected, pending, failed = row["remapping"]
        values["remapping"] = Remapping(
            corrected, uncorrected, bool(pending), bool(failed)
        )
    return Sample(**values)
