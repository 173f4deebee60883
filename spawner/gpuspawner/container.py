"""A lease written as a container, and read back: labels, environment, host settings."""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

from gpuspawner.errors import GPUSpawnerError
from gpuspawner.model import Container, Lease, Limits, Owner, SlotKind

HUB = "gpuspawner.hub"
USER = "gpuspawner.user"
SERVER = "gpuspawner.server"
LEASE = "gpuspawner.lease"
DEVICES = "gpuspawner.devices"
SLOTS = "gpuspawner.slots"
INDICES = "gpuspawner.indices"
NAME = "gpuspawner.container"

KEEPS_PRIVILEGES = "no-new-privileges"
ROOT = frozenset({"", "0", "root"})
CHANGES_USER = frozenset({"SETUID", "CAP_SETUID", "ALL"})

INTERRUPT_S = 5.0
INTERRUPT_LOOK_S = 0.25
VOID = "void"  # NVIDIA's runtime reads: no device, no driver library

# An image may carry any of these; set in the container they win over the image.
NEUTRAL = {
    "NVIDIA_DRIVER_CAPABILITIES": "compute,utility",
    "NVIDIA_MIG_CONFIG_DEVICES": "",
    "NVIDIA_MIG_MONITOR_DEVICES": "",
    "NVIDIA_IMEX_CHANNELS": "",
    "NVIDIA_GDS": "disabled",
    "NVIDIA_MOFED": "disabled",
    "NVIDIA_GDRCOPY": "disabled",
    "NVIDIA_NVSWITCH": "disabled",
}

# What only the lease and the offer may decide. Site configuration naming one of these
# would silently win over the lease, so it is refused.
OURS = frozenset(
    {
        "device_requests", "devices", "privileged", "runtime", "auto_remove",
        "mem_limit", "memswap_limit", "shm_size", "pids_limit", "nano_cpus",
        "cpu_quota", "cpu_period", "ipc_mode", "pid_mode", "restart_policy",
    }
)  # fmt: skip


class ConfigurationError(GPUSpawnerError):
    """The site's configuration contradicts what the spawner guarantees."""


def labels(hub: str, lease: Lease, name: str) -> dict[str, str]:
    """Return labels from which a new hub rebuilds the lease.

    Args:
        hub: Whose container it is.
        lease: What it holds.
        name: The container's own name: images made from it inherit its labels, and a
            container of such an image is not ours.
    """
    return {
        HUB: hub,
        NAME: name,
        USER: lease.owner.user,
        SERVER: lease.owner.server,
        LEASE: lease.id,
        DEVICES: ",".join(lease.uuids),
        SLOTS: ",".join(slot.label for slot in lease.slots),
        INDICES: ",".join(str(device.index) for device in lease.devices),
    }


def is_ours(hub: str, container: Container) -> bool:
    """Return whether this hub made this container, by its labels and its name."""
    found = container.labels
    return found.get(HUB) == hub and found.get(NAME) == container.name


def owner_of(container: Container) -> Owner:
    """Return whose server the labels say this is."""
    return Owner(container.labels.get(USER, ""), container.labels.get(SERVER, ""))


def slots_of(container: Container) -> tuple[str, ...]:
    """Return the ids of the leased slots that the labels name."""
    found = container.labels
    return tuple(filter(None, found.get(SLOTS, found.get(DEVICES, "")).split(",")))


def volume_labels(hub: str, owner: Owner) -> dict[str, str]:
    """Return labels that say whose home a volume is."""
    return {HUB: hub, USER: owner.user, SERVER: owner.server}


def environment(lease: Lease, limits: Limits, gpu_driver: str) -> dict[str, str]:
    """Return the variables that decide about devices, then those torch reads.

    A server without a lease sees no GPU whatever its image says. MASTER_ADDR and the
    socket interfaces make torchrun and DDP work inside one container as they are.
    """
    by_hook = lease.slots and gpu_driver == "nvidia"
    env = dict(NEUTRAL)
    env["NVIDIA_VISIBLE_DEVICES"] = ",".join(lease.uuids) if by_hook else VOID
    if not lease.slots:
        env["CUDA_VISIBLE_DEVICES"] = ""
    env |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29500",
        "NCCL_SOCKET_IFNAME": "lo",
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_DEBUG": "WARN",
        "OMP_NUM_THREADS": str(max(1, ceil(limits.n_cpus))),
        "MEM_LIMIT": str(limits.memory_bytes),
        "CPU_LIMIT": str(limits.n_cpus),
    }
    return env


def search_paths(
    brought: Mapping[str, str], folders: Mapping[str, str]
) -> dict[str, str]:
    """Return variables with each of these folders in front of what is there already.

    Args:
        brought: What the image and the site's configuration set.
        folders: Variable, like "JUPYTER_PATH" -> folder in the container.
    """
    return {
        name: ":".join(filter(None, [folder, brought.get(name, "")]))
        for name, folder in folders.items()
    }


def device_requests(
    uuids: Sequence[str], gpu_driver: str
) -> list[dict[str, Any]] | None:
    """Return the engine's device requests for exactly these devices or instances."""
    if not uuids:
        return None
    if gpu_driver == "cdi":
        ids = [f"nvidia.com/gpu={uuid}" for uuid in uuids]
        return [{"Driver": "cdi", "DeviceIDs": ids}]
    return [
        {
            "Driver": "nvidia",
            "DeviceIDs": list(uuids),
            "Capabilities": [["gpu", "compute", "utility"]],
        }
    ]


def host_config(
    lease: Lease, limits: Limits, gpu_driver: str, cap_add: Sequence[str]
) -> dict[str, Any]:
    """Return the engine settings that keep a server inside its lease and limits.

    Keys are docker-py's `create_host_config` arguments. Swap equals memory, which
    means none is added. The exit state must survive, so nothing removes itself.
    """
    found: dict[str, Any] = {
        "auto_remove": False,
        "init": True,
        "mem_limit": limits.memory_bytes,
        "memswap_limit": limits.memory_bytes,
        "shm_size": limits.shm_bytes,
        "pids_limit": limits.pids,
        "nano_cpus": int(limits.n_cpus * 1e9),
        "cap_drop": ["ALL"],
        "security_opt": [KEEPS_PRIVILEGES],
        "restart_policy": {"Name": "no"},
    }
    if cap_add:
        found["cap_add"] = list(cap_add)
    requests = device_requests(lease.uuids, gpu_driver)
    if requests:
        found["device_requests"] = requests
    return found


def security_options(of_site: Sequence[str]) -> list[str]:
    """Return the engine's security options: a site may add some, ours always stay."""
    added = [option for option in of_site if not option.startswith(KEEPS_PRIVILEGES)]
    return [KEEPS_PRIVILEGES, *added]


def run_as(image_user: str, owner: Sequence[int], cap_add: Sequence[str]) -> str:
    """Return the user that a container runs as, "" for the image's own.

    Args:
        image_user: What the image says, "" if nothing, which the engine takes for root.
        owner: Numeric user and group of the homes.
        cap_add: A site that leaves SETUID to servers lets images start as root and
            drop to a user themselves.
    """
    is_root = image_user.partition(":")[0] in ROOT
    if not is_root or CHANGES_USER & set(cap_add):
        return ""
    return ":".join(map(str, owner))


def check_extra_host_config(extra: Mapping[str, Any]) -> None:
    """Refuse site configuration that would overrule the lease.

    Raises:
        ConfigurationError: A sentence that names the keys.
    """
    taken = sorted(OURS & set(extra))
    if taken:
        raise ConfigurationError(
            f"extra_host_config sets {', '.join(taken)}: these follow from the lease "
            "and the offer. Remove them and configure offers instead."
        )


def interrupt_kernels() -> list[str]:
    """Return a command that interrupts every Jupyter kernel, as the interrupt key does.

    It has to run as the kernels' user. It returns when they are done with what they
    were at, such as saving a model, and after INTERRUPT_S at the latest. A kernel is a
    process with a connection file in its command line, in whatever language.
    """
    tries = int(INTERRUPT_S / INTERRUPT_LOOK_S)
    script = f"""
kernels=
for folder in /proc/[0-9]*; do
  case "$(tr '\\0' ' ' 2>/dev/null <"$folder/cmdline")" in
    *kernel-*.json*)
      kill -INT "${{folder#/proc/}}" 2>/dev/null && kernels="$kernels $folder" ;;
  esac
done
[ -n "$kernels" ] || exit 0
quiet=0; tries={tries}
while [ $tries -gt 0 ] && [ $quiet -lt 2 ]; do
  tries=$((tries - 1)); quiet=$((quiet + 1)); sleep {INTERRUPT_LOOK_S}
  for folder in $kernels; do
    case "$(sed 's/.*) //; s/ .*//' "$folder/stat" 2>/dev/null)" in R|D) quiet=0;; esac
  done
done
"""
    return ["sh", "-c", script]


def check_driver() -> list[str]:
    """Return a command that exits 0 unless the kernel refuses the driver's nodes.

    After `systemctl daemon-reload` on a host with systemd's cgroup driver a running
    container may lose them (NVIDIA Container Toolkit, issue 48): opening fails with
    EPERM, and no new program in it finds a GPU. Any other error means that the nodes
    may be opened.
    """
    script = (
        "for node in /dev/nvidiactl /dev/nvidia[0-9]*; do "
        '[ -c "$node" ] || continue; '
        'said=$( { : <"$node"; } 2>&1 ); '
        'case "$said" in *"not permitted"*) exit 1;; esac; '
        "done"
    )
    return ["env", "LC_ALL=C", "sh", "-c", script]


def check_devices(lease: Lease) -> list[str]:
    """Return a command that exits 0 only if /dev holds exactly the leased GPU nodes.

    A MIG instance comes with its device's node and two capability nodes, one of the GPU
    instance and one of the compute instance; their number tells whether there is more
    than was leased. Their minors are the driver's to choose, so they are not compared.
    """
    n_caps = 2 * sum(slot.kind is SlotKind.MIG for slot in lease.slots)
    wanted = " ".join(sorted(f"/dev/nvidia{device.minor}" for device in lease.devices))
    script = (
        'set -- /dev/nvidia[0-9]*; [ -e "$1" ] || set --; '
        'found=$(printf "%s\\n" "$@" | LC_ALL=C sort | tr "\\n" " "); '
        f'[ "${{found% }}" = "{wanted}" ]'
    )
    if n_caps:
        script += (
            ' && set -- /dev/nvidia-caps/nvidia-cap[0-9]* && [ -e "$1" ] '
            f'&& [ "$#" = "{n_caps}" ]'
        )
    return ["sh", "-c", script]
