"""One side, one class size: start the class, and account for it."""

import asyncio
import os
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import docker

from classroom import cpu, hubs
from classroom.hubs import Side
from classroom.students import Class

WITHIN_S = 300.0
"""A student who has waited this long has gone."""


@dataclass(frozen=True)
class Round:
    """What came of one class on one side.

    Attributes:
        boot_cpu_s: Median CPU seconds of a server's container when it was ready.
        total_cpu_s: CPU seconds of engine, hub, proxy and all containers together,
            from the clicks until the last start had ended, by student.
        others_cpu_s: CPU seconds that the machine worked on anything else meanwhile.
    """

    side: str
    n: int
    n_ready: int
    median_s: float | None
    last_s: float | None
    boot_cpu_s: float | None
    total_cpu_s: float
    took_s: float
    others_cpu_s: float
    why_not: str

    def as_json(self) -> dict[str, Any]:
        """The fields, as JSON has them."""
        return asdict(self)


def run(side: Side, n: int, engine: docker.DockerClient, folder: Path) -> Round:
    """Start a fresh hub, let one student warm it up, then N at once."""
    own = cpu.root() / cpu.OWN
    with hubs.running(side, engine, folder) as hub:
        [first] = asyncio.run(Class(hub, side, dict, WITHIN_S).start(["first"]))
        if first.ready_s is None:
            tail = hub.log.read_text(errors="replace")[-3000:]
            raise RuntimeError(
                f"{side.name}: not even one server starts: {first.message}\n{tail}"
            )
        pid = engine.containers.get(side.container_name("first")).attrs["State"]["Pid"]
        containers = cpu.Containers.beside(pid)

        def worked() -> tuple[float, float, float]:
            mine = time.process_time()
            return cpu.used(own) + containers.total() - mine, mine, cpu.machine()

        names = [f"student{number}" for number in range(n)]
        before, began = worked(), time.monotonic()
        students = Class(hub, side, containers.each, WITHIN_S)
        starts = asyncio.run(students.start(names))
        after, took = worked(), time.monotonic() - began
        ids = {
            str(container.name): str(container.id)
            for container in engine.containers.list(all=True, ignore_removed=True)
        }
    total, mine, machine = (b - a for a, b in zip(before, after, strict=True))
    ready = sorted(s.ready_s for s in starts if s.ready_s is not None)
    boots = [
        found
        for start in starts
        if (id_ := ids.get(side.container_name(start.student)))
        and (found := cpu.of_container(id_, start.seen)) is not None
    ]
    failed = Counter(start.message for start in starts if start.ready_s is None)
    return Round(
        side=side.name,
        n=n,
        n_ready=len(ready),
        median_s=statistics.median(ready) if ready else None,
        last_s=ready[-1] if ready else None,
        boot_cpu_s=statistics.median(boots) if boots else None,
        total_cpu_s=total / n,
        took_s=took,
        others_cpu_s=max(0.0, machine - total - mine),
        why_not=failed.most_common(1)[0][0] if failed else "",
    )


def table(rounds: list[Round]) -> str:
    """The rounds, one line each; times in seconds."""
    n_cores = os.cpu_count() or 1
    head = (
        "N",
        "side",
        "ready",
        "median",
        "last",
        "CPU/boot",
        "all CPU/N",
        "last/bound",
        "others",
    )
    rows = [head, *(_line(row, n_cores) for row in rounds)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join(lines)


def costs_of_gate(rounds: list[Round]) -> Iterator[str]:
    """What ours took with the gate over what it took without, one line per size."""
    by_side = {(row.side, row.n): row for row in rounds}
    for n in sorted({row.n for row in rounds}):
        ours, ungated = by_side.get(("ours", n)), by_side.get(("ungated", n))
        if ours and ungated and ours.last_s and ungated.last_s:
            last = ours.last_s / ungated.last_s
            cpu_s = ours.total_cpu_s / ungated.total_cpu_s
            yield (
                f"N = {n}, with the gate / without: last {last:.2f}, "
                f"CPU by student {cpu_s:.2f}"
            )


def _line(row: Round, n_cores: int) -> tuple[str, ...]:
    bound = row.n * row.total_cpu_s / n_cores
    return (
        str(row.n),
        row.side,
        f"{row.n_ready} of {row.n}",
        _shown(row.median_s, 1),
        _shown(row.last_s, 1),
        _shown(row.boot_cpu_s, 2),
        _shown(row.total_cpu_s, 2),
        _shown(row.last_s and row.last_s / bound, 2),
        f"{row.others_cpu_s / (row.took_s * n_cores):.0%}",
    )


def _shown(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
