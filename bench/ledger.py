"""What the token ledger costs, beside jupyterhub-credit-service: bench/ledger.py.

For the same number of users, each with one server, in one run on one machine: a pass
over all servers when all are due, when none is, and at one pass a minute; as many
starts at once on one wallet that has the tokens for half of them; and pages of the
statement of a user with 100,000 postings. Ours on SQLite and on PostgreSQL, theirs on
SQLite as its own JupyterHub runs it (bench/credit_service). What is charged and held is
checked to the microtoken, and by an audit. Takes about three minutes; each run is
appended to .cache/bench/ledger.jsonl.

    .venv/bin/python bench/ledger.py [--leases N] [--starts N] [--postings N]
        [--side peer|sqlite|postgres]

Ends with status 1 if a bar was missed.
"""

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "bench")]

import psycopg  # noqa: E402  the path comes first
from credit_service import environment  # noqa: E402
from testbed import postgres  # noqa: E402
from tokens.table import (  # noqa: E402
    PAGES,
    PASSES,
    PEER,
    POSTGRES,
    SQLITE,
    WALLET,
    lines,
)
from torchroom.ledger.database import migrate  # noqa: E402

RESULTS = ROOT / ".cache" / "bench"
LIMIT_S = 300
DURABLE = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "autovacuum": "on",
}
"""What a site's PostgreSQL does and the tests' own leaves out."""
Measured = dict[str, Any]


def theirs(given: argparse.Namespace, place: Path) -> Measured:
    """Measure the credit service."""
    environment.ensure()
    return {
        "passes": environment.measure("passes", given.leases, place),
        "wallet": environment.measure("wallet", given.starts, place),
    }


def ours(
    given: argparse.Namespace, urls: Iterator[str], server: int | None = None
) -> Measured:
    """Measure the ledger on one kind of database.

    Args:
        given: How many of what.
        urls: Of empty databases.
        server: The database server's process: its CPU seconds are read.
    """
    sizes = {
        "passes": given.leases,
        "wallet": given.starts,
        "processes": given.starts,
        "pages": given.postings,
    }
    return {what: _our(what, next(urls), n, server) for what, n in sizes.items()}


def _our(what: str, url: str, n: int, server: int | None) -> Measured:
    """Run one measurement in a process of its own."""
    migrate(url)
    command = [sys.executable, "-m", "tokens", what, f"--url={url}", f"--n={n}"]
    done = subprocess.run(
        [*command, *([f"--server={server}"] if server else [])],
        cwd=ROOT / "bench",
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        timeout=LIMIT_S,
    )
    measured: Measured = json.loads(done.stdout.splitlines()[-1])
    return measured


def files(place: Path) -> Iterator[str]:
    """Yield addresses of SQLite files that are not there yet."""
    for i in range(9):
        yield f"sqlite:///{place / f'ledger{i}.sqlite'}"


@contextlib.contextmanager
def databases() -> Iterator[tuple[Iterator[str], int]]:
    """Yield addresses of new databases of a server, and the server's process."""
    postgres.SETTINGS |= DURABLE
    with postgres.Postgres() as server:

        def made() -> Iterator[str]:
            for i in range(9):
                server.sql(f"CREATE DATABASE bench{i}")
                yield server.url(f"bench{i}")

        with psycopg.connect(server.url("postgres")) as connection:
            row = connection.execute("SELECT pg_read_file('postmaster.pid')").fetchone()
        yield made(), int(str(row[0]).split()[0]) if row else 0


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "--leases", type=int, default=10_000, help="users with a server"
    )
    parser.add_argument("--starts", type=int, default=1_000, help="at once")
    parser.add_argument("--postings", type=int, default=100_000, help="of one user")
    parser.add_argument(
        "--side", choices=["peer", "sqlite", "postgres"], help="only it"
    )
    return parser.parse_args()


def measure(given: argparse.Namespace) -> dict[str, Measured]:
    """Measure every side, one after the other; returns side -> its figures."""
    sides: dict[str, Measured] = {}
    with tempfile.TemporaryDirectory(dir=RESULTS, prefix="ledger-") as folder:
        place = Path(folder)
        if given.side in {None, "peer"}:
            sides[PEER] = theirs(given, place)
        if given.side in {None, "sqlite"}:
            sides[SQLITE] = ours(given, files(place))
    if given.side not in {None, "postgres"}:
        return sides
    if why := postgres.why_no_postgres():
        print(f"PostgreSQL is not measured: {why}")
        return sides
    with databases() as (urls, server):
        sides[POSTGRES] = ours(given, urls, server)
    return sides


def main() -> int:
    """Measure, print, and keep the result; returns the exit status."""
    given = options()
    RESULTS.mkdir(parents=True, exist_ok=True)
    sides = measure(given)
    headings = {
        f"A pass over {given.leases:,} servers": PASSES,
        f"{given.starts:,} starts at once, tokens for half": WALLET,
        f"A page of 50, {given.postings:,} postings": PAGES,
    }
    table = list(lines(headings, sides))
    print("\n".join(table))
    line = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "sides": sides,
    }
    with (RESULTS / "ledger.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    return int(any(line.endswith("FAIL") for line in table))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (subprocess.CalledProcessError, RuntimeError, OSError) as error:
        sys.exit(f"the bench failed: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
