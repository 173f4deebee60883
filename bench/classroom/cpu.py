"""CPU seconds by cgroup (v1 or v2), read from files: asking costs next to nothing."""

import os
from dataclasses import dataclass
from pathlib import Path

V1, V2 = Path("/sys/fs/cgroup/cpuacct"), Path("/sys/fs/cgroup")
OWN = "torchroom-bench"


def _v1() -> bool:
    return (V1 / "cpuacct.usage").exists()


def root() -> Path:
    """The cgroup file system that accounts for CPU time here."""
    return V1 if _v1() else V2


def used(group: Path) -> float:
    """CPU seconds of a cgroup and all below it since it was made; 0 if it is gone."""
    try:
        if _v1():
            return int((group / "cpuacct.usage").read_text()) / 1e9
        rows = (group / "cpu.stat").read_text().splitlines()
        return int(dict(row.split() for row in rows)["usage_usec"]) / 1e6
    except FileNotFoundError:
        return 0.0


def enter_own_group() -> Path:
    """Put this process, and all it starts from now on, into a cgroup of its own.

    Raises:
        OSError: The machine does not let us; needs root and a writable cgroup.
    """
    group = root() / OWN
    group.mkdir(exist_ok=True)
    (group / "cgroup.procs").write_text(str(os.getpid()))
    return group


def leave_own_group(group: Path) -> None:
    """Take this process out again and remove the cgroup if nothing else is in it."""
    (root() / "cgroup.procs").write_text(str(os.getpid()))
    try:
        group.rmdir()
    except OSError:
        return  # something of the run still ends; an empty cgroup costs nothing


@dataclass(frozen=True)
class Containers:
    """The cgroups of all containers: they lie in one folder."""

    folder: Path

    @classmethod
    def beside(cls, pid: int) -> "Containers":
        """Find the folder by one container's process."""
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if "cpuacct" in controllers.split(",") or (not _v1() and not controllers):
                return cls((root() / path.lstrip("/")).parent)
        raise OSError(f"the cgroup of process {pid} does not account for CPU time")

    def total(self) -> float:
        """CPU seconds of all containers that there are and were."""
        return used(self.folder)

    def each(self) -> dict[str, float]:
        """CPU seconds by container, by what its folder is called."""
        rows = (path for path in self.folder.iterdir() if path.is_dir())
        return {path.name: used(path) for path in rows}


def of_container(id_: str, snapshot: dict[str, float]) -> float | None:
    """A container's CPU seconds in a snapshot (cgroupfs and systemd name it apart)."""
    return next((used for name, used in snapshot.items() if id_ in name), None)


def machine() -> float:
    """CPU seconds that the whole machine has worked."""
    words = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq = map(int, words[:7])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
