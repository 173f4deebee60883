"""What NVML says at one moment: samples of devices, their processes, and events."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process on a device, with its PID in the host's process table.

    Attributes:
        pid: Host PID.
        memory_bytes: GPU memory it holds; None if the driver does not say.
        gpu_instance: Of the MIG instance it runs on; None on a device without MIG.
    """

    pid: int
    memory_bytes: int | None
    gpu_instance: int | None = None


@dataclass(frozen=True, slots=True)
class Remapping:
    """A device's remapped memory rows (Ampere and later)."""

    n_correctable: int
    n_uncorrectable: int
    is_pending: bool
    has_failed: bool


class Recovery(StrEnum):
    """What the driver says a device needs (field NVML_FI_DEV_GET_GPU_RECOVERY_ACTION).

    The order of the members is that of NVML's values 0 to 4.
    """

    NONE = "none"
    RESET = "gpu-reset"
    REBOOT = "node-reboot"
    DRAIN_P2P = "drain-p2p"
    DRAIN_AND_RESET = "drain-and-reset"


@dataclass(frozen=True, slots=True)
class Sample:
    """One reading of a device or a MIG instance. None always means *unknown*.

    Attributes:
        uuid: Of the device or the MIG instance.
        at: Aware UTC.
        is_lost: NVML cannot reach it; everything else is then None.
        utilisation: 0 to 1: share of time in which a kernel ran; None under MIG.
        memory_used_bytes: By all processes and the driver.
        processes: Every compute, graphics and MPS process, each PID once per instance.
        temperature_c: Degrees Celsius.
        power_w: Watts.
        power_limit_w: Watts that it is not let draw more of.
        energy_j: Joules since the driver was loaded; only ever grows.
        sm: PID -> 0 to 1: the most that one process kept the SMs or a video engine
            busy, of those that used them since the reading before; {}: nobody did.
            None under MIG.
        n_ecc_uncorrected: Uncorrected memory errors since the driver was loaded.
        recovery: See Recovery.
        remapping: See Remapping.
        n_nvlinks: Active NVLinks.
    """

    uuid: str
    at: datetime
    is_lost: bool = False
    utilisation: float | None = None
    memory_used_bytes: int | None = None
    processes: tuple[GpuProcess, ...] | None = None
    temperature_c: int | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    energy_j: float | None = None
    sm: Mapping[int, float] | None = None
    n_ecc_uncorrected: int | None = None
    recovery: Recovery | None = None
    remapping: Remapping | None = None
    n_nvlinks: int | None = None


class EventKind(StrEnum):
    """XID: the driver reported an error. RECOVERY: what a device needs has changed."""

    XID = "xid"
    RECOVERY = "recovery"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that the driver reported.

    Attributes:
        uuid: Of the device.
        at: When it was read; aware UTC.
        kind: See EventKind.
        code: The XID, or NVML's number of the recovery action.
        gpu_instance: Of the MIG instance concerned; None for the whole device.
    """

    uuid: str
    at: datetime
    kind: EventKind
    code: int
    gpu_instance: int | None = None


@dataclass(frozen=True, slots=True)
class Sweep:
    """One round over the whole machine.

    Attributes:
        samples: UUID (of a device or MIG instance) -> sample.
        events: Those since the last sweep, in the order they came.
        took_s: Wall-clock seconds that the reading took.
    """

    samples: Mapping[str, Sample] = field(default_factory=dict)
    events: tuple[Event, ...] = ()
    took_s: float = 0.0
