"""Reads off a host what the window and the metrics show."""

import os
from pathlib import Path

from gpuspawner.host import Host
from gpuspawner.view import Facts

PROC = Path("/proc")
USER_TIME, SYSTEM_TIME = 11, 12  # fields of /proc/PID/stat after the program's name


def facts_of(host: Host) -> Facts:
    """Return what is known of a machine now; nothing is read from its GPUs."""
    rounds = host.rounds
    return Facts(
        pool=host.pool,
        book=host.book,
        interval_s=host.policy.sample_every_s,
        places=host.room.places,
        sweep=rounds.last,
        round_s=rounds.took_s if rounds.last else None,
        reader_cpu_s=cpu_s(getattr(host.probe, "pid", None)),
        caps=host.caps,
        admission=host.doorway.admission,
        alarms=rounds.alarms,
        absence=host.probe.absence,
    )


def cpu_s(pid: int | None) -> float | None:
    """Return the CPU seconds that a process has used; None if nobody can say."""
    if pid is None:
        return None
    try:
        text = (PROC / str(pid) / "stat").read_text()
        words = text.rpartition(")")[2].split()
        ticks = int(words[USER_TIME]) + int(words[SYSTEM_TIME])
    except (OSError, ValueError, IndexError):
        return None
    return ticks / os.sysconf("SC_CLK_TCK")
