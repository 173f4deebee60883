"""The nouns: devices, requests, leases, limits, containers. Values only."""

from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

SIMULATED = "(simulated)"
"""A device whose name ends so is a stand-in: every page shows the name."""


@dataclass(frozen=True, slots=True, order=True)
class Device:
    """A physical GPU.

    Attributes:
        index: NVML's index on the host: shown to people, never an identity.
        uuid: Identity, `GPU-…`.
        name: Product name.
        memory_bytes: Total memory.
        minor: N of /dev/nvidiaN.
        is_lost: NVML knows the device but cannot reach it.
    """

    index: int
    uuid: str
    name: str
    memory_bytes: int
    minor: int
    is_lost: bool = False

    @property
    def is_simulated(self) -> bool:
        """Whether this is a stand-in for a GPU."""
        return self.name.endswith(SIMULATED)

    def __str__(self) -> str:
        return f"GPU {self.index} ({self.name})"


@dataclass(frozen=True, slots=True)
class Owner:
    """The server a lease belongs to: a user and a server name ("" is the default)."""

    user: str
    server: str

    def __str__(self) -> str:
        return f"{self.user}/{self.server}" if self.server else self.user


@dataclass(frozen=True, slots=True)
class SlotRequest:
    """How many whole devices a server asks for, 0 for a CPU server."""

    n_slots: int


class LeaseState(StrEnum):
    """STARTING: container may not exist yet. RELEASING: it must go."""

    STARTING = "starting"
    ACTIVE = "active"
    RELEASING = "releasing"


@dataclass(frozen=True, slots=True)
class Lease:
    """A server's right to exactly these devices (none for a CPU server).

    Attributes:
        id: `ls_` and 16 hex digits; also the container's label.
        owner: Whose server.
        devices: In the order shown to the user.
        state: See LeaseState.
        why: One line that explains the choice of devices.
    """

    id: str
    owner: Owner
    devices: tuple[Device, ...]
    state: LeaseState = LeaseState.STARTING
    why: str = ""

    @property
    def uuids(self) -> tuple[str, ...]:
        """The devices' identities."""
        return tuple(device.uuid for device in self.devices)

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
        n_gpus: Whole devices, 0 for CPU only.
        limits: See Limits.
    """

    name: str
    title: str
    n_gpus: int
    limits: Limits


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

    @property
    def is_running(self) -> bool:
        """Whether its processes exist (a paused container still holds memory)."""
        return self.status in {"running", "paused", "restarting"}


@dataclass(frozen=True, slots=True)
class Statement:
    """A user's tokens as the welcome notebook shows them.

    Attributes:
        provider: Who says so.
        is_placeholder: No ledger stands behind it.
        balance_microtokens: None if unknown.
        rate_microtokens_per_s: What this lease burns; None if unknown.
        note: One sentence.
    """

    provider: str
    is_placeholder: bool
    balance_microtokens: int | None
    rate_microtokens_per_s: int | None
    note: str
