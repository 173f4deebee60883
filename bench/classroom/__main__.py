"""The comparison itself; class_start.py runs it in its engine's network."""

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import NoReturn

import docker

from classroom import hubs, rounds

RESULTS = Path(__file__).resolve().parents[2] / ".cache" / "bench"
COLUMNS = """
ready       servers that came up within the hub's own time-outs
median,last seconds from the click, of those that came up
CPU/boot    CPU seconds of a server's container when it was ready (median)
all CPU/N   CPU seconds of engine, hub, proxy and servers, by student
last/bound  last, over N x (all CPU/N) / cores: 1 is a machine that never idles
others      share of the machine that other programs took meanwhile
"""


def end(signum: int, _frame: FrameType | None) -> NoReturn:
    """Leave through every ``finally`` when asked to end."""
    raise SystemExit(128 + signum)


def main() -> int:
    """Run every round, print the table as it grows, and keep the result."""
    signal.signal(signal.SIGTERM, end)
    parser = argparse.ArgumentParser()
    parser.add_argument("--n", required=True)
    parser.add_argument("--side")
    given = parser.parse_args()
    engine = docker.DockerClient(base_url=os.environ["DOCKER_HOST"], timeout=120)
    sides = hubs.sides(
        os.environ["TORCHROOM_BENCH_STOCK_IMAGE"],
        os.environ["TORCHROOM_BENCH_OUR_IMAGE"],
    )
    engine.networks.create(hubs.NETWORK, driver="bridge")
    done: list[rounds.Round] = []
    hubs.clean(engine)
    with tempfile.TemporaryDirectory(prefix="torchroom-bench-") as folder:
        for n in map(int, given.n.split(",")):
            for side in sides:
                if given.side in {None, side.name}:
                    print(f"==> {side.name}: {n} at once", flush=True)
                    place = Path(folder) / f"{side.name}-{n}"
                    done.append(rounds.run(side, n, engine, place))
                    why = done[-1].why_not
                    print(f"    not ready, because: {why}" if why else "    all ready")
    print(f"\n{rounds.table(done)}\n{COLUMNS}", flush=True)
    for told in rounds.costs_of_gate(done):
        print(told, flush=True)
    keep(done)
    return 0


def keep(done: list[rounds.Round]) -> None:
    """Append the run to the results, one JSON line."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    line = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "rounds": [row.as_json() for row in done],
    }
    with (RESULTS / "class_start.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RuntimeError as error:
        sys.exit(f"the comparison ended early: {error}")
