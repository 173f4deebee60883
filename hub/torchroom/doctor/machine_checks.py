"""Checks of the machine and its engine, with or without GPUs. Pure."""

from torchroom.doctor.gpu_checks import ON_HOST
from torchroom.doctor.model import Disk, Finding, Machine, fail, ok, unknown, warn
from torchroom.doctor.versions import is_below

ENGINE_FLOOR = "20.10"
GIB = 1 << 30
DISK_LEAST_BYTES, DISK_GOOD_BYTES = 5 * GIB, 20 * GIB
INODES_LEAST = 50_000
SHM_ENGINE_DEFAULT = 64 << 20
NO_LIMIT = ("No memory limit support", "No cpu cfs quota support", "No pids limit")


def check_engine(machine: Machine) -> Finding:
    """Look whether the engine answers, is new enough, and keeps limits."""
    name, engine = "engine", machine.engine
    if engine is None:
        return fail(
            name,
            f"The container engine does not answer: {machine.engine_error}",
            "Start it (systemctl start docker), or set DOCKER_HOST.",
        )
    if is_below(engine.version, ENGINE_FLOOR) is not False:
        return fail(
            name,
            f"Docker {engine.version} is too old.",
            f"Install {ENGINE_FLOOR} or later.",
        )
    lacks = [text for text in engine.warnings if any(no in text for no in NO_LIMIT)]
    if lacks:
        return fail(
            name,
            f"Docker {engine.version} cannot limit servers: {lacks[0]}",
            "Switch the cgroup controllers on: cgroup_enable=memory on the kernel's "
            "command line, or cgroup v2.",
        )
    return ok(name, f"Docker {engine.version}.")


def check_seccomp(machine: Machine) -> Finding:
    """Look whether the engine filters containers' system calls."""
    name, engine = "seccomp", machine.engine
    if engine is None:
        return unknown(name, "The engine does not answer.", "See the check `engine`.")
    profiles = [entry for entry in engine.security if "name=seccomp" in entry]
    if not profiles or "unconfined" in profiles[0]:
        return fail(
            name,
            "The engine does not filter system calls of containers.",
            "Take seccomp-profile out of /etc/docker/daemon.json; use a kernel with "
            "CONFIG_SECCOMP.",
        )
    return ok(name, "The engine filters containers' system calls.")


def check_exposure(machine: Machine) -> Finding:
    """Look whether the engine can be reached without a password."""
    name = "engine-tcp"
    if machine.is_engine_open is None:
        return unknown(name, "The host's ports cannot be seen here.", ON_HOST)
    if machine.is_engine_open:
        return fail(
            name,
            "The engine listens on TCP port 2375 without TLS: whoever reaches it is "
            "root on this machine.",
            "Take the tcp:// host out of /etc/docker/daemon.json or docker.service.",
        )
    return ok(name, "The engine does not listen on TCP.")


def check_disks(machine: Machine) -> list[Finding]:
    """Look for room where images, homes and the hub's data are."""
    if not machine.disks:
        return [unknown("disk", "The engine's folder cannot be seen here.", ON_HOST)]
    return [_check_disk(disk) for disk in machine.disks]


def _check_disk(disk: Disk) -> Finding:
    name = "disk"
    free = f"{disk.free_bytes / GIB:.1f} GiB of {disk.total_bytes / GIB:.0f} free"
    says = f"{disk.what} ({disk.path}): {free}."
    fix = "Delete old images (docker image prune -a) and what nobody needs, or grow it."
    if disk.free_bytes < DISK_LEAST_BYTES:
        return fail(name, says, fix)
    if disk.free_inodes is not None and disk.free_inodes < INODES_LEAST:
        return fail(name, f"{says} Only {disk.free_inodes} files fit.", fix)
    if disk.free_bytes < DISK_GOOD_BYTES:
        return warn(name, says, fix)
    return ok(name, says)


def check_shm(machine: Machine) -> Finding:
    """Look whether running servers have shared memory enough for PyTorch's loaders."""
    name, engine = "shm", machine.engine
    if engine is None or engine.containers is None:
        return unknown(name, "The servers cannot be listed.", "See the check `engine`.")
    servers = [c for c in engine.containers if not c.service]
    small = [
        server.name
        for server in servers
        if server.shm_bytes is not None and server.shm_bytes <= SHM_ENGINE_DEFAULT
    ]
    if small:
        return warn(
            name,
            f"{len(small)} of {len(servers)} servers have 64 MiB of /dev/shm or less, "
            f"like {small[0]}: PyTorch's data loaders crash there.",
            "Give their size more memory (half of it is shm), then start them again.",
        )
    if not servers:
        return ok(name, "No server runs; each gets half of its memory as /dev/shm.")
    return ok(name, f"{len(servers)} servers run, none with too little /dev/shm.")


def check_clock(machine: Machine) -> Finding:
    """Look whether the machine's clock is kept right: OAuth and TLS need it."""
    name = "time"
    if machine.is_clock_synchronised is None:
        return unknown(name, "The kernel does not say.", "See timedatectl.")
    if not machine.is_clock_synchronised:
        return warn(
            name,
            "The clock is not synchronised: logins and certificates fail when it is "
            "minutes off.",
            "timedatectl set-ntp true (or install chrony)",
        )
    return ok(name, "The clock is synchronised.")


def check_isolation(machine: Machine) -> Finding:
    """Look whether the machine keeps servers from reaching each other."""
    name, engine = "isolation", machine.engine
    if machine.filters_bridges is False:
        return fail(
            name,
            "The kernel does not filter what stays inside a bridge: servers reach each "
            "other.",
            "sysctl net.bridge.bridge-nf-call-iptables=1 (and keep it, /etc/sysctl.d).",
        )
    if engine and engine.is_network_closed is False:
        return fail(
            name,
            "The servers' network lets servers reach each other.",
            "make down, then make up: it gets its present shape.",
        )
    if engine is None or engine.is_network_closed is None:
        return unknown(
            name, "There is no servers' network to look at.", "Run it after `make up`."
        )
    return ok(name, "The servers' network is closed; the firewall opens what it must.")


def check_namesake(machine: Machine) -> Finding:
    """Look whether a hub that was taken over could act as a person of the host.

    It sees the host's processes, so those of its own user number are open to it.
    """
    name, engine = "hub-user", machine.engine
    if engine and any("name=apparmor" in entry for entry in engine.security):
        return ok(name, "AppArmor keeps the hub away from the host's processes.")
    if machine.namesake is None:
        return unknown(name, "The host's users cannot be seen here.", ON_HOST)
    if machine.namesake:
        return warn(
            name,
            f"The hub has the user number of {machine.namesake}, and no AppArmor keeps "
            "it from that person's processes.",
            "Install AppArmor, or let nobody with number 1000 work on this machine.",
        )
    return ok(name, "Nobody on the host has the hub's user number.")


def check_services(machine: Machine) -> list[Finding]:
    """Look whether all of the deployment runs and is healthy."""
    name, engine = "services", machine.engine
    if engine is None or engine.containers is None:
        return [unknown(name, "They cannot be listed.", "See the check `engine`.")]
    services = [c for c in engine.containers if c.service]
    if not services:
        return [ok(name, "The deployment is not up.")]
    sick = [
        fail(
            name,
            f"The service {c.service} is {c.health or c.state}.",
            f"See its log: docker logs {c.name}; then `make up`.",
        )
        for c in services
        if c.state != "running" or c.health == "unhealthy"
    ]
    return sick or [ok(name, f"All {len(services)} services run.")]
