"""One measurement of our ledger, in a process of its own: python -m tokens WHAT.

Prints one line of JSON. bench/ledger.py starts it.
"""

import argparse
import asyncio
import json
from typing import Any

from torchroom.ledger.database import Database
from torchroom.metering import ease_collection

from tokens import pages, passes, wallet


async def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Measure what was asked for."""
    db = Database.open(given.url)
    try:
        match given.what:
            case "passes":
                return await passes.measure(db, given.n, given.server)
            case "wallet":
                return await wallet.together(db, given.n)
            case "processes":
                return await wallet.processes(db, given.url, given.n)
            case "worker":
                return await wallet.worker(db, given.first, given.n)
            case _:
                return await pages.measure(db, given.n)
    finally:
        await db.close()


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser()
    what = ["passes", "wallet", "processes", "worker", "pages"]
    parser.add_argument("what", choices=what)
    parser.add_argument("--url", required=True, help="a ledger with tables, empty")
    parser.add_argument("--n", type=int, required=True, help="leases, starts, postings")
    parser.add_argument("--first", type=int, default=0, help="of a worker's starts")
    parser.add_argument("--server", type=int, help="the database server's process")
    ease_collection()  # as the hub does
    print(json.dumps(asyncio.run(measure(parser.parse_args()))))


if __name__ == "__main__":
    main()
