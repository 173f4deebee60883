"""The doctor's nouns: what was read of a machine, and what is found. Pure.

None always means *unknown*: it could not be read here, and no check passes for it.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from ipaddress import IPv4Network

from torchroom.auth.settings import LoginSettings
from torchroom.public import Public


class Level(StrEnum):
    """How bad a finding is. UNKNOWN: it could not be checked here."""

    OK = "ok"
    UNKNOWN = "unknown"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        check: Its name; stays the same over versions.
        level: See Level.
        says: What was seen, one sentence.
        fix: What to do; "" if nothing.
    """

    check: str
    level: Level
    says: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU as the driver lists it.

    Attributes:
        uuid: The driver's name for it.
        name: Of its model.
        is_persistent: Whether it stays set up; None if the driver does not say.
        instances: UUIDs of its MIG instances; None if it is not split.
    """

    uuid: str
    name: str
    is_persistent: bool | None = None
    instances: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Driver:
    """NVIDIA's driver, as nvidia-smi tells it.

    Attributes:
        version: None if nvidia-smi is not there, or did not say.
        gpus: All that it lists.
        error: What it complained of, with a full stop; "" if of nothing.
        module: The kernel's driver for GPUs: "nvidia", "nouveau", or "" for neither.
    """

    version: str | None
    gpus: tuple[Gpu, ...] = ()
    error: str = ""
    module: str = ""

    @property
    def uuids(self) -> tuple[str, ...]:
        """Of all that can be attached: instances of split GPUs, else whole GPUs."""
        return tuple(
            uuid
            for gpu in self.gpus
            for uuid in ((gpu.uuid,) if gpu.instances is None else gpu.instances)
        )


@dataclass(frozen=True, slots=True)
class CdiSpec:
    """A CDI file of NVIDIA's: its path, its devices' names, its driver's versions."""

    path: str
    devices: frozenset[str]
    driver_versions: frozenset[str]


@dataclass(frozen=True, slots=True)
class Disk:
    """A file system: what it is for, and bytes and inodes free of all there are."""

    what: str
    path: str
    free_bytes: int
    total_bytes: int
    free_inodes: int | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """One of the machine's routes: whom an interface leads to."""

    network: IPv4Network
    interface: str


@dataclass(frozen=True, slots=True)
class Container:
    """One of this deployment: a compose service (`service`) or a user's server.

    Attributes:
        name: The engine's.
        service: Of compose; "" for a user's server.
        state: "running", "exited", ...
        health: "healthy", "starting", "unhealthy"; "" if it has no health check.
        shm_bytes: Size of /dev/shm; None if it was not looked at.
    """

    name: str
    service: str = ""
    state: str = "running"
    health: str = ""
    shm_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Engine:
    """The container engine, as it describes itself.

    Attributes:
        version: Like "28.2.0".
        is_podman: It is Podman, which speaks Docker's language.
        system: What it runs on, like "Debian GNU/Linux 12 (bookworm)".
        default_runtime: Like "runc".
        runtimes: All of them.
        cgroup_driver: "systemd" or "cgroupfs".
        cdi_devices: What it can attach; None if it is too old to say.
        root_dir: Where images and volumes are.
        security: Like ("name=seccomp,profile=builtin",).
        warnings: Its own.
        containers: Of this deployment; None if they could not be listed.
        is_network_closed: Whether the servers' network lets none reach another by
            itself; None if there is none, or it could not be looked at.
        image_cuda: CUDA of the users' image by its label: "13.0", "none", or "" if it
            has no such label; None if the image could not be looked at.
    """

    version: str
    is_podman: bool = False
    system: str = ""
    default_runtime: str = "runc"
    runtimes: frozenset[str] = frozenset()
    cgroup_driver: str = ""
    cdi_devices: frozenset[str] | None = None
    root_dir: str = ""
    security: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    containers: tuple[Container, ...] | None = None
    is_network_closed: bool | None = None
    image_cuda: str | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """What was read of the machine.

    Attributes:
        is_container: Read inside a container: much of the host is not seen.
        n_pci_gpus: NVIDIA display devices on the bus, with or without a driver; those
            that are kept for virtual machines do not count.
        is_secure_boot: Whether the kernel takes signed modules only.
        driver: See Driver.
        toolkit: Version of the NVIDIA Container Toolkit; "" if it is not installed.
        accepts_env: Whether it lets any image ask for GPUs by environment variable.
        sets_cgroups: Whether it opens containers' GPUs to them.
        cdi: The CDI files of NVIDIA's.
        engine: See Engine.
        engine_error: Why there is none, with a full stop.
        is_engine_open: Whether it also listens on TCP without TLS.
        disks: See Disk.
        is_clock_synchronised: By the kernel's own word.
        filters_bridges: Whether the kernel filters what stays inside a bridge.
        has_vsock: Whether the kernel has virtual sockets.
        namesake: Who on the host has the hub's or its gate's user number; "" if
            nobody has.
        routes: To other networks, without the default one.
    """

    is_container: bool = False
    n_pci_gpus: int | None = None
    is_secure_boot: bool | None = None
    driver: Driver | None = None
    toolkit: str | None = None
    accepts_env: bool | None = None
    sets_cgroups: bool | None = None
    cdi: tuple[CdiSpec, ...] | None = None
    engine: Engine | None = None
    engine_error: str = ""
    is_engine_open: bool | None = None
    disks: tuple[Disk, ...] = ()
    is_clock_synchronised: bool | None = None
    filters_bridges: bool | None = None
    has_vsock: bool | None = None
    namesake: str | None = None
    routes: tuple[Route, ...] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What the hub's public address answered to a browser's first request.

    Attributes:
        error: Why it did not, "" if it did.
        is_untrusted: It answered, but with a certificate that browsers refuse.
        certificate_ends: Of a trusted certificate.
        has_hsts: Whether browsers are told to come back by HTTPS only.
        n_cookies: How many were set.
        open_cookies: Names of cookies that were set without Secure.
    """

    error: str = ""
    is_untrusted: bool = False
    certificate_ends: datetime | None = None
    has_hsts: bool = False
    n_cookies: int = 0
    open_cookies: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Deployment:
    """What was read of the deployment's settings.

    Attributes:
        login: How people log in; None if those settings cannot be used.
        login_error: Why they cannot, "" if they can.
        public: Where people reach it; None if that setting cannot be used.
        public_error: Why it cannot, "" if it can.
        courses: The text of courses.toml; None if there is none.
        courses_error: Why it could not be read, "" if it could.
        answer: Of the public address; None if it was not asked.
        open_files: Secrets that others on the machine may read.
        refused: What `make up` would refuse: sentence and advice; None if it was not
            asked.
        subnet: Of the servers' network; None if that is not known.
        bridge: The interface that leads there.
    """

    login: LoginSettings | None = None
    login_error: str = ""
    public: Public | None = None
    public_error: str = ""
    courses: str | None = None
    courses_error: str = ""
    answer: Answer | None = None
    open_files: tuple[str, ...] = ()
    refused: tuple[tuple[str, str], ...] | None = None
    subnet: IPv4Network | None = None
    bridge: str = ""


def ok(check: str, says: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(check, Level.OK, says)


def unknown(check: str, says: str, fix: str) -> Finding:
    """Return a finding that something could not be checked, and where it can be."""
    return Finding(check, Level.UNKNOWN, says, fix)


def warn(check: str, says: str, fix: str) -> Finding:
    """Return a finding that will hurt some day."""
    return Finding(check, Level.WARN, says, fix)


def fail(check: str, says: str, fix: str) -> Finding:
    """Return a finding that hurts now."""
    return Finding(check, Level.FAIL, says, fix)
