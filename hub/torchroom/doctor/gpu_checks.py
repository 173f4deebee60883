"""Checks of what gives GPUs to containers: driver, toolkit, runtime, CDI. Pure."""

from collections.abc import Callable, Sequence

from torchroom.doctor.model import Driver, Finding, Machine, fail, ok, unknown, warn
from torchroom.doctor.versions import is_below, parse

# Version of the NVIDIA Container Toolkit that closes them (CVE records).
ESCAPES = (
    ("1.16.2", "CVE-2024-0132"),
    ("1.17.3", "CVE-2024-0135, CVE-2024-0136, CVE-2024-0137"),
    ("1.17.4", "CVE-2025-23359"),
    ("1.17.8", "CVE-2025-23266, CVE-2025-23267"),
)
"""Ways out of a container, and the first version without each."""
TOOLKIT_FLOOR = "1.17.8"
TOOLKIT_GOOD = "1.19.1"
CDI_BY_ITSELF = "28.2.0"
"""From this engine on CDI needs no setting."""

ON_HOST = "Run `make doctor` on the host."
DRIVER_FLOORS = {12: "525", 13: "580"}
"""Major version of CUDA -> the first driver that runs it (NVIDIA's release notes)."""
INSTALL = (
    f"Install version {DRIVER_FLOORS[13]} or later (Ubuntu: ubuntu-drivers install; "
    "Debian: from NVIDIA's package source, its own is older) and restart the machine."
)


def check_driver(machine: Machine) -> Finding:
    """Look whether the driver answers and knows every GPU on the bus."""
    name, driver = "driver", machine.driver
    if driver is None:
        return unknown(name, "The driver could not be asked.", ON_HOST)
    if driver.error and machine.n_pci_gpus == 0:
        return warn(
            name,
            "The NVIDIA driver is installed, but no NVIDIA GPU is on the bus: servers "
            "get CPUs only.",
            "Nothing, if that is meant so. Else power the machine off and on (of a "
            "virtual machine: give it the GPU); lspci must list it.",
        )
    if driver.error:
        return fail(
            name,
            f"The NVIDIA driver does not answer: {driver.error}",
            _cure(machine, driver),
        )
    if driver.version is None:
        if driver.module == "nvidia":
            return fail(
                name,
                "NVIDIA's kernel module runs, but nvidia-smi is not installed.",
                "Install it in the driver's version (Debian: nvidia-smi; Ubuntu: "
                "nvidia-utils-…).",
            )
        if machine.n_pci_gpus:
            return fail(
                name,
                f"{machine.n_pci_gpus} NVIDIA GPUs are in this machine, without a "
                "driver.",
                INSTALL,
            )
        return ok(name, "No NVIDIA GPU: servers get CPUs only.")
    n_found = len(driver.gpus)
    says = f"Driver {driver.version}, {n_found} GPUs."
    if machine.n_pci_gpus is not None and n_found < machine.n_pci_gpus:
        return fail(
            name,
            f"{says} But {machine.n_pci_gpus} are on the bus.",
            "See dmesg for the one that is missing; power the machine off and on.",
        )
    return ok(name, says)


def _cure(machine: Machine, driver: Driver) -> str:
    """Return what to do about a driver that is installed and does not answer."""
    if "version mismatch" in driver.error:
        return "Restart the machine: the driver was updated while the old one runs."
    if driver.module == "nouveau":
        return (
            "The kernel's nouveau has the GPUs: write `blacklist nouveau` into "
            "/etc/modprobe.d/nouveau.conf, update-initramfs -u, restart the machine."
        )
    if driver.module == "nvidia":
        return "See `dmesg | grep -i nvrm`; restart the machine."
    if machine.is_secure_boot:
        return (
            "Secure Boot takes signed modules only: enroll the key that signs it "
            "(mokutil --import; Debian's and Ubuntu's is made by dkms), or switch "
            "Secure Boot off."
        )
    return (
        "`modprobe nvidia` says why it is not loaded. After a new kernel: install its "
        "linux-headers, then dkms autoinstall."
    )


def check_persistence(machine: Machine, driver: Driver) -> Finding:  # noqa: ARG001
    """Look whether the driver keeps GPUs set up while nobody uses them."""
    name = "persistence"
    if any(gpu.is_persistent is None for gpu in driver.gpus):
        return unknown(name, "The driver does not say.", "See nvidia-smi -q.")
    off = [gpu.uuid for gpu in driver.gpus if not gpu.is_persistent]
    if off:
        return warn(
            name,
            f"Persistence mode is off on {len(off)} of {len(driver.gpus)} GPUs: each "
            "reading sets them up anew, which takes seconds.",
            "nvidia-smi -pm 1, until the machine restarts; docs/doctor.md says how it "
            "stays on.",
        )
    return ok(name, "Persistence mode is on.")


def check_mig(machine: Machine, driver: Driver) -> Finding:  # noqa: ARG001
    """Look whether every GPU that is split has parts to give."""
    name = "mig"
    empty = [gpu.uuid for gpu in driver.gpus if gpu.instances == ()]
    if empty:
        return fail(
            name,
            f"MIG mode is on, without an instance, on {len(empty)} of "
            f"{len(driver.gpus)} GPUs, like {empty[0]}: nobody can use them.",
            f"Make some (nvidia-smi mig -i {empty[0]} -cgi PROFILES -C; -lgip lists "
            f"them), or switch it off: nvidia-smi -i {empty[0]} -mig 0.",
        )
    n_split = sum(gpu.instances is not None for gpu in driver.gpus)
    return ok(name, f"{n_split} of {len(driver.gpus)} GPUs are split.")


def check_toolkit(machine: Machine, driver: Driver) -> Finding:  # noqa: ARG001
    """Look for versions of the toolkit that containers can break out of."""
    name, version = "toolkit", machine.toolkit
    if version is None:
        return unknown(name, "The toolkit's version cannot be seen here.", ON_HOST)
    install = (
        "Install the newest nvidia-container-toolkit from NVIDIA's package source."
    )
    if not version:
        return fail(name, "The NVIDIA Container Toolkit is not installed.", install)
    below = is_below(version, TOOLKIT_FLOOR)
    if below is None:
        return unknown(name, f"Its version reads {version!r}.", install)
    if below:
        holes = ", ".join(cves for fixed, cves in ESCAPES if is_below(version, fixed))
        return fail(
            name,
            f"NVIDIA Container Toolkit {version} lets containers break out ({holes}).",
            f"{install} At least {TOOLKIT_FLOOR}.",
        )
    if is_below(version, TOOLKIT_GOOD):
        return warn(
            name,
            f"NVIDIA Container Toolkit {version} lacks later security fixes.",
            f"{install} At least {TOOLKIT_GOOD}.",
        )
    return ok(name, f"NVIDIA Container Toolkit {version}.")


def check_runtime(machine: Machine, driver: Driver) -> Finding:  # noqa: ARG001
    """Look whether the engine can attach GPUs, and does so only when asked."""
    name, engine = "runtime", machine.engine
    if engine is None:
        return unknown(name, "The engine does not answer.", "See the check `engine`.")
    if "nvidia" not in engine.runtimes:
        return fail(
            name,
            "The engine has no runtime `nvidia`: the hub sees no GPU.",
            "nvidia-ctk runtime configure --runtime=docker && systemctl reload docker",
        )
    if machine.sets_cgroups is False:
        return fail(
            name,
            "no-cgroups is set for the toolkit: it leaves containers' GPUs closed to "
            "them.",
            "nvidia-ctk config --in-place --set nvidia-container-cli.no-cgroups=false, "
            "then start the servers again.",
        )
    if engine.default_runtime == "nvidia":
        also = " and images may ask for all GPUs" if machine.accepts_env else ""
        return warn(
            name,
            f"nvidia is the engine's default runtime{also}: every container that is "
            "not Torchroom's may see every GPU.",
            "Take default-runtime out of /etc/docker/daemon.json; systemctl reload "
            "docker.",
        )
    return ok(
        name, f"GPUs on request; the default runtime is {engine.default_runtime}."
    )


def _by_cdi(machine: Machine, driver: Driver) -> bool:
    """Whether the engine attaches every GPU by CDI."""
    known = (machine.engine and machine.engine.cdi_devices) or frozenset()
    return {f"nvidia.com/gpu={uuid}" for uuid in driver.uuids} <= known


def check_cgroups(machine: Machine, driver: Driver) -> Finding:
    """Look whether `systemctl daemon-reload` would take GPUs away from servers.

    It does from all to which the toolkit's hook attached them, for systemd knows of the
    devices in a container's specification only; links in /dev/char change nothing.
    """
    name, engine = "cgroup", machine.engine
    if engine is None:
        return unknown(name, "The engine does not answer.", "See the check `engine`.")
    if engine.cgroup_driver != "systemd":
        return ok(name, f"The cgroup driver is {engine.cgroup_driver}.")
    if _by_cdi(machine, driver):
        return ok(name, "GPUs are attached by CDI, which a daemon-reload leaves alone.")
    is_new = is_below(engine.version, CDI_BY_ITSELF) is False
    first = "" if is_new else f"Install Docker {CDI_BY_ITSELF} or later. "
    return warn(
        name,
        "With the systemd cgroup driver and no CDI, `systemctl daemon-reload` takes "
        "the GPU away from running servers; installing a package often does one.",
        f"{first}nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml, then start the "
        'servers again. Or "exec-opts": ["native.cgroupdriver=cgroupfs"] in '
        "/etc/docker/daemon.json, and restart docker when no server runs.",
    )


def check_cdi(machine: Machine, driver: Driver) -> Finding:
    """Look whether the CDI files fit the driver and the GPUs of now."""
    name = "cdi"
    if machine.cdi is None:
        return unknown(name, "The CDI files of the host cannot be seen here.", ON_HOST)
    engine = machine.engine
    if not machine.cdi:
        if engine and is_below(engine.version, CDI_BY_ITSELF) is False:
            return warn(
                name,
                "The engine can use CDI, but there is no CDI file of NVIDIA's.",
                "nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml",
            )
        return ok(name, "Not used: GPUs are attached by the toolkit's hook.")
    for spec in machine.cdi:
        others = spec.driver_versions - {driver.version}
        if others:
            return fail(
                name,
                f"{spec.path} was made for driver {', '.join(sorted(others))}, but "
                f"{driver.version} runs.",
                f"Write it anew: nvidia-ctk cdi generate --output={spec.path}",
            )
    listed = frozenset().union(*(spec.devices for spec in machine.cdi))
    missing = [uuid for uuid in driver.uuids if uuid not in listed]
    if missing:
        return fail(
            name,
            f"The CDI files lack {len(missing)} of {len(driver.uuids)} GPUs by UUID, "
            f"like {missing[0]}.",
            f"Write it anew: nvidia-ctk cdi generate --output={machine.cdi[0].path} "
            "--device-name-strategy=uuid",
        )
    return ok(name, f"CDI lists all {len(driver.uuids)} GPUs for this driver.")


def check_image(machine: Machine, driver: Driver) -> Finding:
    """Look whether PyTorch in the users' image can use these GPUs."""
    name, engine = "image", machine.engine
    if engine is None:
        return unknown(name, "The engine does not answer.", "See the check `engine`.")
    cuda = engine.image_cuda
    if cuda is None:
        return unknown(name, "There is no image to look at.", "Run it after `make up`.")
    if cuda == "none":
        return fail(
            name,
            "The users' image has no CUDA: PyTorch finds no GPU there.",
            "Take TORCHROOM_USER_IMAGE out of .env: `make up` builds one that has it.",
        )
    found = parse(cuda)
    if found is None:
        return unknown(
            name,
            "The users' image does not say which CUDA it has.",
            "Try it in a server: python -c 'import torch; torch.zeros(1).cuda()'",
        )
    floor = DRIVER_FLOORS.get(found[0])
    if floor and is_below(str(driver.version), f"{floor}.0"):
        return fail(
            name,
            f"The users' image has CUDA {cuda}, which needs driver {floor}; "
            f"{driver.version} runs.",
            f"Install driver {floor} or later and restart the machine.",
        )
    return ok(name, f"The users' image has CUDA {cuda}, which this driver runs.")


WITH_DRIVER: Sequence[Callable[[Machine, Driver], Finding]] = (
    check_persistence,
    check_mig,
    check_toolkit,
    check_runtime,
    check_cgroups,
    check_cdi,
    check_image,
)
"""What is worth a look where there is a driver with GPUs."""
