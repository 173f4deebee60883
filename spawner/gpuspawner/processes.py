"""Reads /proc: who is behind a PID that NVML told.

/proc/<pid>/stat, status, cgroup and cmdline may be read by everybody, so the hub needs
no capability for it, only the host's process table (`pid: host`). A PID may be given
to another process at any time: what is read is checked against the start time.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gpuspawner.cgroups import (
    ProcessIdentity,
    container_ids,
    parse_cpu_ticks,
    parse_stat,
    parse_status,
    v2_path,
)

PROC = Path("/proc")
COMMAND_CHARS = 80
READ_BYTES = 64 * 1024  # a command line may be megabytes long
INITIAL_PID_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO in Linux's proc_ns.h


def boot_id() -> str:
    """Return what names this run of the machine, "" if it cannot be read."""
    try:
        return (PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class Processes:
    """The process table.

    Attributes:
        root: Where it is mounted.
    """

    root: Path = PROC

    @property
    def is_hosts(self) -> bool:
        """Whether this is the host's table, so that the host's PIDs mean something.

        Without `pid: host` a container's own PIDs would be taken for the host's. In a
        machine that is itself a container the answer is True if PID 1 is outside of
        our own container.
        """
        try:
            if str((self.root / "self/ns/pid").readlink()) == INITIAL_PID_NAMESPACE:
                return True
        except OSError:
            return False
        ours, first = self._read("self", "cgroup"), self._read("1", "cgroup")
        return None not in {ours, first} and ours != first

    def identify(self, pid: int) -> ProcessIdentity | None:
        """Return who runs as this host PID; None means *unknown*, never *nobody*.

        Unknown are also processes that end meanwhile, and everything if this is not
        the host's process table.
        """
        if not self.is_hosts:
            return None
        before = self._read(str(pid), "stat")
        status = parse_status(self._read(str(pid), "status") or "")
        cgroup = self._read(str(pid), "cgroup")
        command = self._read(str(pid), "cmdline")
        after = self._read(str(pid), "stat")
        told, again = parse_stat(before or ""), parse_stat(after or "")
        if not told or not again or told[1] != again[1]:
            return None
        if status is None or cgroup is None or command is None:
            return None
        uid, pids = status
        containers = container_ids(cgroup) or self._containers_of_threads(pid)
        return ProcessIdentity(
            pid=pid,
            start_time=told[1],
            uid=uid,
            name=told[0],
            command=_one_line(command),
            containers=containers,
            # Deeper PIDs are those of namespaces that the container made itself.
            inner_pid=pids[1] if containers and len(pids) > 1 else pids[0],
        )

    def cpu_s(self, identity: ProcessIdentity) -> float | None:
        """Return the CPU seconds that this very process has used; None if unknown.

        With those of its children and theirs, living or ended: a program may wait while
        they load its data or play its game.
        """
        # Before itself: what a child has used that ends meanwhile is not lost so.
        living = sum(map(self._ticks, self._descendants(identity.pid)))
        text = self._read(str(identity.pid), "stat") or ""
        told, ticks = parse_stat(text), parse_cpu_ticks(text)
        if told is None or told[1] != identity.start_time or ticks is None:
            return None
        return (ticks + living) / os.sysconf("SC_CLK_TCK")

    def _ticks(self, pid: int) -> int:
        return parse_cpu_ticks(self._read(str(pid), "stat") or "") or 0

    def _descendants(self, pid: int) -> set[int]:
        """Return its living children and theirs, as far as the kernel tells them."""
        found: set[int] = set()
        left = [pid]
        while left:
            children = self._children(left.pop()) - found
            found |= children
            left += children
        return found

    def _children(self, pid: int) -> set[int]:
        told = self._read_threads(pid, "children")
        return {int(child) for text in told for child in text.split()}

    def _containers_of_threads(self, pid: int) -> tuple[str, ...]:
        """Return the containers that cgroup v1 leaves out if the first thread ended."""
        found = map(container_ids, self._read_threads(pid, "cgroup"))
        return next(filter(None, found), ())

    def _read_threads(self, pid: int, name: str) -> Iterator[str]:
        """Yield a file of each thread, as far as they can be read."""
        try:
            threads = os.listdir(self.root / str(pid) / "task")
        except OSError:
            return
        for thread in threads:
            yield self._read(f"{pid}/task/{thread}", name) or ""

    def cgroup(self, pid: int, container_id: str) -> str | None:
        """Return the container's cgroup folder for NVML, see `cgroups.v2_path`.

        Args:
            pid: Host PID of a process in it, such as the engine's State.Pid.
            container_id: Of the container.
        """
        text = self._read(str(pid), "cgroup") if self.is_hosts else None
        return v2_path(text or "", container_id)

    def _read(self, pid: str, name: str) -> str | None:
        try:
            with (self.root / pid / name).open("rb") as file:
                return file.read(READ_BYTES).decode(errors="replace")
        except OSError:  # it ended, or /proc is mounted with hidepid
            return None


def _one_line(command: str) -> str:
    words = " ".join(command.replace("\0", " ").split())
    shown = "".join(char if char.isprintable() else "?" for char in words)
    return shown if len(shown) <= COMMAND_CHARS else shown[: COMMAND_CHARS - 1] + "…"
