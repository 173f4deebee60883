"""Reads off a host what the window and the metrics show."""

import os
from pathlib import Path

from gpuspawner.cgroups import parse_cpu_ticks
from gpuspawner.host import Host
from gpuspawner.view import Facts

PROC = Path("/proc")


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
        terms=host.terms,
        tokens_end=host.metering.tokens_end,
        observed=rounds.observed,
        admission=host.doorway.admission,
        alarms=rounds.alarms,
        absence=host.probe.absence,
    )


def cpu_s(pid: int | None) -> float | None:
    """Return the CPU seconds that a process has used; None if nobody can say."""
    if pid is None:
        return None
    try:
        ticks = parse_cpu_ticks((PROC / str(pid) / "stat").read_text())
    except (OSError, ValueError):
        return None
    return None if ticks is None else ticks / os.sysconf("SC_CLK_TCK")
