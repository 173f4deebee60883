"""Checks of the machine and its engine, with or without GPUs. Pure."""

from torchroom.doctor.gpu_checks import ON_HOST
from torchroom.doctor.model import (
    Deployment,
    Disk,
    Engine,
    Finding,
    Machine,
    fail,
    ok,
    unknown,
    warn,
)
from torchroom.doctor.versions import is_below
from torchroom.uids import GATE, HUB

ENGINE_FLOOR = "20.10"
GIB = 1 << 30
DISK_LEAST_BYTES, DISK_GOOD_BYTES = 5 * GIB, 20 * GIB
INODES_LEAST = 50_000
SHM_ENGINE_DEFAULT = 64 << 20
NO_LIMIT = ("No memory limit support", "No cpu cfs quota support", "No pids limit")
NO_SWAP_LIMIT = "No swap limit support"
CONTROLLERS = "on the kernel's command line, or cgroup v2."
SILENCE = {
    "No such file": "`make up` installs and starts it; or set DOCKER_HOST to its "
    "socket.",
    "Permission denied": "Run it as root, or as a member of the group docker.",
    "unix://": "Set DOCKER_HOST to a unix:// socket, or unset it.",
    "timed out": "See `journalctl -u docker`; if nothing else helps, systemctl restart "
    "docker, which ends all servers.",
}
"""Words of why the engine does not answer -> what to do; else it is not running."""
SERVICES = frozenset({"proxy", "firewall", "engine-gate", "hub"})
"""Those of docker-compose.yml that every deployment has."""
REFUSES_VSOCK = "23.0"
"""The first engine whose seccomp profile refuses containers virtual sockets."""
SEE_ENGINE = "See the check `engine`."


def check_engine(machine: Machine) -> Finding:
    """Look whether the engine answers, is new enough, and keeps limits."""
    name, engine = "engine", machine.engine
    if engine is None:
        return fail(
            name,
            f"The container engine does not answer: {machine.engine_error}",
            next(
                (fix for why, fix in SILENCE.items() if why in machine.engine_error),
                "Start it: systemctl start docker",
            ),
        )
    if engine.is_podman:
        return fail(
            name,
            "This is Podman, not Docker.",
            "apt-get remove podman-docker, or unset DOCKER_HOST; `make up` then "
            "installs Docker.",
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
            f"Switch the cgroup controllers on: cgroup_enable=memory {CONTROLLERS}",
        )
    if "name=userns" in engine.security:
        return fail(
            name,
            "The engine maps users (userns-remap): the hub cannot see the host's "
            "processes.",
            "Take userns-remap out of /etc/docker/daemon.json and restart docker, "
            "which ends all servers.",
        )
    return _check_kind(engine)


def _check_kind(engine: Engine) -> Finding:
    """Look whether the engine is of a kind that Torchroom is tried with."""
    name = "engine"
    if any(NO_SWAP_LIMIT in text for text in engine.warnings):
        return warn(
            name,
            f"Docker {engine.version} cannot limit swap: a server can take more than "
            "its memory.",
            f"swapaccount=1 {CONTROLLERS}",
        )
    if "name=rootless" in engine.security:
        kind, away = "rootless", "unset DOCKER_HOST"
    elif engine.system == "Docker Desktop":
        kind, away = "Docker Desktop's, in a virtual machine", "stop Docker Desktop"
    elif engine.root_dir.startswith("/var/snap/"):
        kind, away = "a snap's, which sees few folders", "snap remove docker"
    else:
        return ok(name, f"Docker {engine.version}.")
    return warn(
        name,
        f"Docker {engine.version} is {kind}: nobody has tried Torchroom with it.",
        f"To be sure: {away}; `make up` then starts or installs the machine's own.",
    )


def check_seccomp(machine: Machine) -> Finding:
    """Look whether the engine filters containers' system calls."""
    name, engine = "seccomp", machine.engine
    if engine is None:
        return unknown(name, "The engine does not answer.", SEE_ENGINE)
    profiles = [entry for entry in engine.security if "name=seccomp" in entry]
    if not profiles or "unconfined" in profiles[0]:
        return fail(
            name,
            "The engine does not filter system calls of containers.",
            "Take seccomp-profile out of /etc/docker/daemon.json and restart docker, "
            "which ends all servers; use a kernel with CONFIG_SECCOMP.",
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
            "Take the tcp:// host out of /etc/docker/daemon.json or docker.service and "
            "restart docker, which ends all servers.",
        )
    return ok(name, "The engine does not listen on TCP.")


def check_disks(machine: Machine) -> list[Finding]:
    """Look for room where images, homes and the hub's data are."""
    if not machine.disks:
        where = ON_HOST if machine.is_container else "See `docker system df`."
        return [unknown("disk", "The engine's folder cannot be seen here.", where)]
    return [_check_disk(disk) for disk in machine.disks]


def _check_disk(disk: Disk) -> Finding:
    name = "disk"
    free = f"{disk.free_bytes / GIB:.1f} GiB of {disk.total_bytes / GIB:.0f} free"
    says = f"{disk.what} ({disk.path}): {free}."
    fix = (
        "docker builder prune and docker image prune delete what nobody uses (-a would "
        "delete the users' image, too); or grow it."
    )
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
        return unknown(name, "The servers cannot be listed.", _elsewhere(machine))
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
            "make down, which ends all servers, then make up: it gets its present "
            "shape.",
        )
    if engine is None or machine.is_container:
        return unknown(
            name, "The servers' network cannot be seen here.", _elsewhere(machine)
        )
    if engine.is_network_closed is None:
        return unknown(
            name, "There is no servers' network to look at.", "Run it after `make up`."
        )
    return ok(name, "The servers' network is closed; the firewall opens what it must.")


def check_vsock(machine: Machine) -> Finding:
    """Look whether servers have sockets that pass no network, and so no firewall."""
    name, engine = "vsock", machine.engine
    if engine is None:
        return unknown(name, "The engine does not answer.", SEE_ENGINE)
    if is_below(engine.version, REFUSES_VSOCK) is False:
        return ok(name, "The engine refuses servers virtual sockets.")
    if machine.has_vsock is None:
        return unknown(name, "The kernel's protocols cannot be seen here.", ON_HOST)
    if machine.has_vsock:
        return warn(
            name,
            f"Docker {engine.version} lets servers open virtual sockets (AF_VSOCK), "
            "which lead past the firewall to the hypervisor and its machines.",
            f"Install Docker {REFUSES_VSOCK} or later, or keep the kernel module out: "
            "write `install vsock /bin/false` into /etc/modprobe.d/no-vsock.conf and "
            "restart the machine.",
        )
    return ok(name, "The kernel has no virtual sockets.")


def check_addresses(machine: Machine, deployment: Deployment) -> Finding:
    """Look whether the servers' addresses are somebody else's, too."""
    name, subnet = "addresses", deployment.subnet
    if machine.routes is None or subnet is None:
        return unknown(name, "The host's routes cannot be seen here.", ON_HOST)
    for route in machine.routes:
        if route.interface == deployment.bridge or not route.network.overlaps(subnet):
            continue
        other = f"{route.network} ({route.interface})"
        fix = (
            "Set TORCHROOM_SUBNET in .env to a private network that is used nowhere "
            "else; make down, which ends all servers, then make up."
        )
        if route.network.subnet_of(subnet):
            return fail(
                name,
                f"The servers' addresses {subnet} are also those of {other}: servers "
                "there are not reached.",
                fix,
            )
        return warn(
            name,
            f"The servers' addresses {subnet} are a part of {other}: what has them "
            "there is not reached from this machine.",
            fix,
        )
    return ok(name, f"Nothing else has the servers' addresses {subnet}.")


def check_namesake(machine: Machine) -> Finding:
    """Look whether somebody on the host is one user with the hub or its gate.

    To the kernel it is the number that counts: either may do with the other's
    processes whatever a user may, and the gate's user has the engine.
    """
    name = "hub-user"
    if machine.namesake is None:
        return unknown(name, "The host's users cannot be seen here.", ON_HOST)
    if machine.namesake:
        return warn(
            name,
            f"{machine.namesake} on this machine has a user number of the hub's "
            f"({HUB}) or of its gate ({GATE}): they can get at each other's processes.",
            "Let nobody with such a number work here, or give them another (usermod "
            "--uid).",
        )
    return ok(name, "Nobody on the host has the hub's or the gate's user number.")


def check_services(machine: Machine) -> list[Finding]:
    """Look whether all of the deployment runs and is healthy."""
    name, engine = "services", machine.engine
    if engine is None or engine.containers is None:
        return [unknown(name, "They cannot be listed.", _elsewhere(machine))]
    services = [c for c in engine.containers if c.service]
    if not services:
        return [ok(name, "The deployment is not up.")]
    missing = sorted(SERVICES - {c.service for c in services})
    sick = [
        fail(
            name,
            f"The service {c.service} is {c.health or c.state}.",
            f"See its log: docker logs {c.name}; then `make up`.",
        )
        for c in services
        if c.state != "running" or c.health == "unhealthy"
    ]
    sick += [
        fail(name, f"The service {service} is not there.", "make up")
        for service in missing
    ]
    return sick or [ok(name, f"All {len(services)} services run.")]


def _elsewhere(machine: Machine) -> str:
    """Return where to look for what the engine does not tell here."""
    return ON_HOST if machine.is_container else SEE_ENGINE
