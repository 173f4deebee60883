"""The nouns: devices, requests, leases, limits, containers. Values only."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

SIMULATED = "(simulated)"
"""A device whose name ends so is a stand-in: every page shows the name."""


@dataclass(frozen=True, slots=True, order=True)
class Instance:
    """A MIG instance: a part of a device with memory and compute units of its own.

    Attributes:
        uuid: Identity, `MIG-…`.
        profile: Like "1g.10gb".
        memory_bytes: Its own memory.
        gpu_instance: NVML's GPU instance id, which its processes carry.
        compute_instance: NVML's compute instance id.
    """

    uuid: str
    profile: str
    memory_bytes: int
    gpu_instance: int
    compute_instance: int = 0


@dataclass(frozen=True, slots=True, order=True)
class Device:
    """A physical GPU.

    Attributes:
        index: NVML's index on the host: shown to people, never an identity.
        uuid: Identity, `GPU-…`.
        name: Product name; also the device's type.
        memory_bytes: Total memory.
        minor: N of /dev/nvidiaN.
        is_lost: NVML knows the device but cannot reach it.
        is_split: MIG mode is on: only its instances can be leased.
        instances: Its MIG instances; () unless it is split.
        pci_bus_id: Like "00000000:07:00.0"; "" if unknown.
    """

    index: int
    uuid: str
    name: str
    memory_bytes: int
    minor: int
    is_lost: bool = False
    is_split: bool = False
    instances: tuple[Instance, ...] = ()
    pci_bus_id: str = ""

    @property
    def is_simulated(self) -> bool:
        """Whether this is a stand-in for a GPU."""
        return self.name.endswith(SIMULATED)

    def __str__(self) -> str:
        return f"GPU {self.index} ({self.name})"


class SlotKind(StrEnum):
    """DEVICE: a whole GPU. MIG: an instance of one. SHARE: one of m users of one."""

    DEVICE = "device"
    MIG = "mig"
    SHARE = "share"


@dataclass(frozen=True, slots=True, order=True)
class Slot:
    """What can be leased: a device, a MIG instance, or a share of a device.

    Attributes:
        device: The physical GPU.
        id: Identity among slots: the device's UUID, the MIG UUID, or
            `<device UUID>/<i>:<m>` for share i of m.
        kind: See SlotKind.
        memory_bytes: GPU memory its holder may use.
        profile: "" for a device, "1g.10gb" for MIG, "1/4" for a share.
    """

    device: Device
    id: str
    kind: SlotKind
    memory_bytes: int
    profile: str = ""

    @property
    def uuid(self) -> str:
        """What the engine is asked for."""
        return self.device.uuid if self.kind is SlotKind.SHARE else self.id

    @property
    def type(self) -> str:
        """What is asked for and priced: product name, and profile if it is a part."""
        kind = " MIG" if self.kind is SlotKind.MIG else ""
        return f"{self.device.name}{kind} {self.profile}".rstrip()

    @property
    def label(self) -> str:
        """The id with the device's: held also when MIG was switched off meanwhile."""
        is_known = self.device.uuid != self.id  # else the device is a stand-in
        is_part = self.kind is SlotKind.MIG and is_known
        return f"{self.device.uuid}/{self.id}" if is_part else self.id

    def __str__(self) -> str:
        part = f", {self.profile}" if self.profile else ""
        return f"GPU {self.device.index} ({self.device.name}{part})"


def whole(device: Device) -> Slot:
    """Return the slot that is the whole device."""
    return Slot(device, device.uuid, SlotKind.DEVICE, device.memory_bytes)


@dataclass(frozen=True, slots=True)
class Owner:
    """The server a lease belongs to: a user and a server name ("" is the default)."""

    user: str
    server: str

    def __str__(self) -> str:
        return f"{self.user}/{self.server}" if self.server else self.user


@dataclass(frozen=True, slots=True)
class SlotRequest:
    """What a server asks for.

    Attributes:
        n_slots: How many, 0 for a CPU server. Several are always of one type.
        kind: See SlotKind.
        type: Only slots of this `Slot.type`; "" for any.
        min_memory_bytes: Each slot has at least this much.
        must_be_connected: Every two devices are joined by NVLink.
    """

    n_slots: int
    kind: SlotKind = SlotKind.DEVICE
    type: str = ""
    min_memory_bytes: int = 0
    must_be_connected: bool = False


class LeaseState(StrEnum):
    """STARTING: container may not exist yet. RELEASING: it must go."""

    STARTING = "starting"
    ACTIVE = "active"
    RELEASING = "releasing"


@dataclass(frozen=True, slots=True)
class Lease:
    """A server's right to exactly these slots (none for a CPU server).

    Attributes:
        id: `ls_` and 16 hex digits; also the container's label.
        owner: Whose server.
        slots: In the order shown to the user.
        state: See LeaseState.
        why: One line that explains the choice.
        since: When it was granted; aware UTC, None if nobody knows.
    """

    id: str
    owner: Owner
    slots: tuple[Slot, ...]
    state: LeaseState = LeaseState.STARTING
    why: str = ""
    since: datetime | None = None

    @property
    def uuids(self) -> tuple[str, ...]:
        """What the engine is asked for, in the order of the slots."""
        return tuple(slot.uuid for slot in self.slots)

    @property
    def devices(self) -> tuple[Device, ...]:
        """The physical GPUs, each once, in the order of the slots."""
        return tuple(dict.fromkeys(slot.device for slot in self.slots))

    def to(self, state: LeaseState) -> "Lease":
        """Return the same lease in another state."""
        return replace(self, state=state)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one server may use at most.

    Attributes:
        memory_bytes: RAM; swap is not added.
        shm_bytes: Size of /dev/shm, counted inside memory_bytes.
        n_cpus: CPU time, in cores.
        pids: Processes and threads.
    """

    memory_bytes: int
    shm_bytes: int
    n_cpus: float
    pids: int


@dataclass(frozen=True, slots=True)
class Offer:
    """A size a user may take.

    Attributes:
        name: What forms and the REST API send, like "1-gpu".
        title: What people read.
        request: What it leases.
        limits: See Limits.
    """

    name: str
    title: str
    request: SlotRequest
    limits: Limits


@dataclass(frozen=True, slots=True)
class Terms:
    """What a server was started as.

    Attributes:
        offer: The name of the size; "" if unknown.
        course: The course that it was started for, "" if none.
        ready_at: When it answered first; aware UTC, None if it has not or if unknown.
    """

    offer: str = ""
    course: str = ""
    ready_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class DeviceClaim:
    """What a container asked the engine for, as the engine tells it.

    Attributes:
        ids: UUIDs, indices or CDI names.
        takes_all: It asked for every device or for a mere count.
    """

    ids: tuple[str, ...] = ()
    takes_all: bool = False


@dataclass(frozen=True, slots=True)
class Container:
    """A container as the engine describes it.

    Attributes:
        id: The engine's id.
        name: Without the leading slash.
        status: "created", "running", "paused", "restarting", "exited", "dead", ...
        labels: All labels.
        claim: The devices it was created with.
        exit_code: Of the last run; 0 if it never ran.
        is_oom_killed: The engine saw the kernel end it for memory.
        error: What the engine said when it could not start it.
        started_at: Aware UTC, None if it never ran.
        finished_at: Aware UTC, None if it has not ended.
        pid: Of its first process on the host; 0 if it does not run or is not known.
    """

    id: str
    name: str
    status: str
    labels: dict[str, str] = field(default_factory=dict)
    claim: DeviceClaim = DeviceClaim()
    exit_code: int = 0
    is_oom_killed: bool = False
    error: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    pid: int = 0

    @property
    def is_running(self) -> bool:
        """Whether its processes exist (a paused container still holds memory)."""
        return self.status in {"running", "paused", "restarting"}


CPU_TYPE = "cpu"
"""What a server without a slot is priced by, as others are by `Slot.type`."""


@dataclass(frozen=True, slots=True)
class Payer:
    """Whose tokens a server burns.

    Attributes:
        owner: The server.
        groups: Its user's groups, now.
        course: The one of these groups that it is started for, "" for none.
    """

    owner: Owner
    groups: tuple[str, ...] = ()
    course: str = ""


@dataclass(frozen=True, slots=True)
class Quote:
    """What a server would cost.

    Attributes:
        per_hour: Microtokens per hour, None if this hub does not meter or knows no
            price.
        refusal: A sentence why it cannot be paid for now, "" if it can.
    """

    per_hour: int | None = None
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a lease's user must be told, or why the lease must end, for its tokens.

    Attributes:
        lease_id: Which.
        text: A sentence for its user; why the lease must end follows "Your last server
            stopped: ".
        must_end: The tokens are used up: its server is to be stopped, gracefully.
    """

    lease_id: str
    text: str
    must_end: bool = False


@dataclass(frozen=True, slots=True)
class Settlement:
    """What settling found.

    Attributes:
        verdicts: See Verdict; each warning once.
        next_at: When something is due again; None: whenever.
        ends: Lease id -> when its tokens run out if nothing else changes, of those of
            which that is known.
    """

    verdicts: tuple[Verdict, ...] = ()
    next_at: datetime | None = None
    ends: Mapping[str, datetime] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LeaseEnd:
    """The end of a lease, as far as its charge is concerned.

    Attributes:
        at: When its container ended; None: nobody knows, so what is settled stands.
        reason: Like `Exit.reason`.
        is_failed_start: It never came up for its user: nothing is charged.
        broke_at: From then on the platform was broken: not charged. None: it was not.
    """

    at: datetime | None
    reason: str
    is_failed_start: bool = False
    broke_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Statement:
    """A user's tokens as the welcome notebook shows them.

    Attributes:
        provider: Who says so: "torchroom", or "placeholder".
        is_placeholder: No ledger stands behind it.
        balance_microtokens: What can be spent; None if unknown.
        rate_microtokens_per_hour: What this lease burns; None if unknown.
        note: One sentence.
        url: Where the server asks for newer figures, "" if nowhere.
    """

    provider: str
    is_placeholder: bool
    balance_microtokens: int | None
    rate_microtokens_per_hour: int | None
    note: str
    url: str = ""
