"""Whose process: what the texts below /proc/<pid> say, parsed. No file is read here."""

import re
from dataclasses import dataclass

CGROUP_MOUNT = "/sys/fs/cgroup"

# systemd's and cgroupfs's names for a Docker container. Kubernetes, podman and nerdctl
# prefix theirs (cri-containerd-…, crio-…, libpod-…, nerdctl-…), so they do not match.
_SCOPE = re.compile(r"docker-([0-9a-f]{64})\.scope")
_BARE = re.compile(r"([0-9a-f]{64})")
# Kubernetes with the cgroupfs driver: no prefix either, but directly below a pod.
_POD = re.compile(r"pod[0-9a-f]{8}[-_]?[0-9a-f-]{4,}")
_DELETED = " (deleted)"

_UTIME, _CSTIME, _STARTTIME = 14, 17, 22  # field numbers of proc_pid_stat(5)
_FIRST_AFTER_NAME = 3


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process that no other process can be taken for.

    Attributes:
        pid: In the host's process table.
        start_time: Clock ticks between boot and its start; with the PID, its identity.
        uid: Real user id, on the host.
        name: Of its program, at most 15 bytes.
        command: Its command line in one line; "" for a kernel thread.
        containers: Ids of the Docker containers around it, the outermost first.
        inner_pid: Its PID in the outermost container, `pid` outside of containers.
    """

    pid: int
    start_time: int
    uid: int
    name: str
    command: str
    containers: tuple[str, ...]
    inner_pid: int

    def is_same_as(self, other: "ProcessIdentity | None") -> bool:
        """Return whether both are the same run of the same process."""
        return other is not None and (self.pid, self.start_time) == (
            other.pid,
            other.start_time,
        )

    def __str__(self) -> str:
        return f"process {self.pid} ({self.command or self.name})"


def container_ids(text: str) -> tuple[str, ...]:
    """Return the ids of the Docker containers that /proc/<pid>/cgroup names.

    The outermost comes first: with Docker inside Docker it is the one that a hub
    outside knows. () if the process is in none. Understands cgroup v1, v2 and hybrid,
    the systemd and the cgroupfs driver, any parent, cgroups below the container, and
    paths as seen from another cgroup namespace ("/../docker-….scope").
    """
    # On a hybrid machine the v2 line may be empty while v1 lines name the container.
    return next((ids for _, path in _paths(text) if (ids := _ids_of(path))), ())


def v2_path(text: str, container_id: str) -> str | None:
    """Return the folder of a container's cgroup, as NVML's memory limit wants it.

    Args:
        text: /proc/<pid>/cgroup of any process of the container.
        container_id: Cgroups that the container made below its own are left off.

    None on cgroup v1 and hybrid machines, if the process is not in this container, and
    if the path is told from another cgroup namespace, which says nothing about where
    it is mounted here.
    """
    found = _paths(text)
    if len(found) != 1 or found[0][0]:
        return None
    parts = found[0][1].split("/")
    if ".." in parts:
        return None
    for i, part in enumerate(parts):
        if _id_of(part, parts[i - 1] if i else "") == container_id:
            return CGROUP_MOUNT + "/".join(parts[: i + 1])
    return None


def _paths(text: str) -> list[tuple[str, str]]:
    """Return (v1 controllers, path) of every line; v2 has no controllers."""
    rows = [line.split(":", 2) for line in text.splitlines()]
    return [(row[1], row[2].removesuffix(_DELETED)) for row in rows if len(row) == 3]  # noqa: PLR2004


def _ids_of(path: str) -> tuple[str, ...]:
    parts = path.split("/")
    pairs = zip(parts, ["", *parts], strict=False)
    return tuple(found for part, above in pairs if (found := _id_of(part, above)))


def _id_of(part: str, above: str) -> str | None:
    if scope := _SCOPE.fullmatch(part):
        return scope[1]
    if (bare := _BARE.fullmatch(part)) and not _POD.fullmatch(above):
        return bare[1]
    return None


def parse_stat(text: str) -> tuple[str, int] | None:
    """Return name and start time (in ticks) from /proc/<pid>/stat; None if unreadable.

    The name may hold anything, also spaces, brackets and line breaks.
    """
    before, _, after = text.rpartition(")")
    _, _, name = before.partition("(")
    fields = after.split()
    position = _STARTTIME - _FIRST_AFTER_NAME
    if len(fields) <= position or not fields[position].isdecimal():
        return None
    return name, int(fields[position])


def parse_cpu_ticks(text: str) -> int | None:
    """Return the CPU time (in ticks) from /proc/<pid>/stat; None if unreadable.

    Of all its threads, in user mode and in the kernel, and of its children that have
    ended; not of those that live.
    """
    fields = text.rpartition(")")[2].split()
    used = fields[_UTIME - _FIRST_AFTER_NAME : _CSTIME - _FIRST_AFTER_NAME + 1]
    if len(used) <= _CSTIME - _UTIME or not all(field.isdecimal() for field in used):
        return None
    return sum(map(int, used))


def parse_status(text: str) -> tuple[int, tuple[int, ...]] | None:
    """Return the real uid and the PIDs (NSpid, the host's first) from status."""
    rows = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    try:
        uid = int(rows["Uid"].split()[0])
        pids = tuple(int(pid) for pid in rows["NSpid"].split())
    except (KeyError, IndexError, ValueError):
        return None
    return (uid, pids) if pids else None
