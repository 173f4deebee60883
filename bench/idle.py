"""Who gets idle GPUs back, and who stops trainings: bench/idle.py.

Traces of GPU use (tests/testbed/traces: seeded generators, what is true of each is
known) are replayed through the plugin's `idleness` and the steward's policy, with the
readings and looks that a hub makes; and through the real jupyterhub-idle-culler with
the activity that JupyterHub would see, at the same time limit and at a longer one. No
real GPU is used: what the signals read is modelled. Takes about two minutes; each run
is appended to .cache/bench/idle.jsonl.

    .venv/bin/python bench/idle.py [--seeds N]

Ends with status 1 if a bar was missed: a server stopped while it worked, or an idle GPU
that came back later than the policy's time and one interval between readings.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from testbed.traces.replay import INTERVAL_S, Outcome, ours, theirs  # noqa: E402
from testbed.traces.scenarios import LENGTH_S, traces  # noqa: E402
from torchroom.steward.rules import Policy  # noqa: E402

RESULTS = ROOT / ".cache" / "bench"
HOUR_S = 3600
LIMITS_S = {"idle-culler, 30 min": 1800, "idle-culler, 2 h": 7200}
OURS = "ours"
POLICY = Policy()
Side = dict[str, list[Outcome]]


def measure(n_seeds: int) -> dict[str, Side]:
    """Replay everything; returns who -> scenario -> outcomes."""
    made = list(traces(range(n_seeds)))
    sides = {OURS: _by_scenario(ours(trace, POLICY) for trace in made)}
    for name, limit_s in LIMITS_S.items():
        found = asyncio.run(theirs(made, {"inactive_limit": limit_s}))
        sides[name] = _by_scenario(found)
    return sides


def _by_scenario(outcomes: Iterable[Outcome]) -> Side:
    found: Side = {}
    for outcome in outcomes:
        found.setdefault(outcome.trace.name, []).append(outcome)
    return found


def figures(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return what is told of one scenario, or of all."""
    late = [s for o in outcomes if (s := o.late_s(POLICY)) is not None]
    return {
        "n": len(outcomes),
        "false": sum(outcome.is_false for outcome in outcomes),
        "idle_hours": sum(outcome.idle_s for outcome in outcomes) / HOUR_S,
        "back_hours": sum(outcome.back_s for outcome in outcomes) / HOUR_S,
        "due_hours": sum(_due_s(outcome) for outcome in outcomes) / HOUR_S,
        "latest_s": max(late, default=None),
        "kept": sum(o.stopped_at is None and _due_s(o) > 0 for o in outcomes),
    }


def _due_s(outcome: Outcome) -> float:
    """Return how much of the idle time comes after the policy's own."""
    n = len(outcome.trace.machine.timelines)
    allowed = POLICY.rules("", "").idle_of(n) or timedelta.max
    return max(0.0, outcome.idle_s - n * allowed.total_seconds())


def lines(sides: dict[str, Side]) -> Iterable[str]:
    """Yield the table."""
    yield (
        "| scenario | due | "
        + " | ".join(f"{name}: false, back" for name in sides)
        + " | ours: latest |"
    )
    yield "| --- " * (len(sides) + 3) + "|"
    for name in sides[OURS]:
        yield _row(name, {side: figures(found[name]) for side, found in sides.items()})
    whole = {
        side: figures([o for outcomes in found.values() for o in outcomes])
        for side, found in sides.items()
    }
    yield _row("all", whole)


def _row(name: str, found: dict[str, dict[str, Any]]) -> str:
    cells = [f"{row['false']} of {row['n']}, {row['back_hours']:.0f} h"
             for row in found.values()]  # fmt: skip
    latest = found[OURS]["latest_s"]
    late = "-" if latest is None else f"{latest:.1f} s"
    return " | ".join([f"| {name}", f"{found[OURS]['due_hours']:.0f} h",
                       *cells, f"{late} |"])  # fmt: skip


def main() -> int:
    """Measure, print, and keep the result; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--seeds", type=int, default=20, help="traces of each scenario")
    n_seeds = parser.parse_args().seeds
    sides = measure(n_seeds)
    print(f"{n_seeds} traces of {LENGTH_S / HOUR_S:.0f} h of each scenario; GPU-hours")
    print("\n".join(lines(sides)))
    found = {
        side: {name: figures(outcomes) for name, outcomes in rows.items()}
        for side, rows in sides.items()
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    line = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "sides": found}
    with (RESULTS / "idle.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    rows = found[OURS].values()
    n_false = sum(row["false"] for row in rows)
    n_kept = sum(row["kept"] for row in rows)
    latest = max(row["latest_s"] or 0.0 for row in rows)
    print(f"stopped while it worked: {n_false} (bar: 0)")
    print(f"idle and never given back: {n_kept} (bar: 0)")
    print(f"latest after the policy's time: {latest:.1f} s (bar: {INTERVAL_S:.0f} s)")
    return int(bool(n_false or n_kept or latest > INTERVAL_S))


if __name__ == "__main__":
    sys.exit(main())
