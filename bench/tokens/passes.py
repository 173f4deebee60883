"""Settling passes over many leases: nothing due, the steady state, everything due."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select
from torchroom.ledger.database import Database, micros
from torchroom.ledger.leases import Leases
from torchroom.ledger.policy import Policy
from torchroom.ledger.tables import leases

from tokens.seeds import AT, HOLD_S, SPREAD_S, add_leases, analyze, check
from tokens.watch import cpu_of, rss_mib, watch

STEP_S = 60
N_STEADY = 6  # passes; each lease is due once, and the pass after that finds few


async def one_pass(
    db: Database, rates: Mapping[str, int], at: datetime, server: int | None
) -> dict[str, float]:
    """Settle every lease that is due at a moment; return what that took."""
    running = dict.fromkeys(rates, at)
    began = cpu_of(server) if server else 0.0
    async with watch() as took:
        found = await Leases(db, Policy(hold_s=HOLD_S)).settle(running)
    row: dict[str, float] = vars(took) | {"n_settled": found.n_settled}
    if server:
        row["server_s"] = cpu_of(server) - began
    return row


async def measure(db: Database, n: int, server: int | None) -> dict[str, Any]:
    """Measure passes over n leases, and check that every charge is exact."""
    rates = await add_leases(db, n)
    await analyze(db)
    at, before = AT, rss_mib()
    await one_pass(db, rates, at, server)  # connections, statements
    idle = await one_pass(db, rates, at, server)
    steady = []
    for _ in range(N_STEADY):
        at += timedelta(seconds=STEP_S)
        steady.append(await one_pass(db, rates, at, server))
    at += timedelta(seconds=HOLD_S)
    everything = await one_pass(db, rates, at, server)
    last = select(func.min(leases.c.ready_at + leases.c.settled_s * 10**6))
    async with db.read() as conn:
        settled_until = await conn.scalar(last)
    is_late = settled_until < micros(at - timedelta(seconds=SPREAD_S))
    if is_late or idle["n_settled"] or everything["n_settled"] != n:
        raise RuntimeError("not every lease was settled when it was due, and only then")
    return {
        "servers": n,
        "idle": idle,
        "steady": steady,
        "everything": everything,
        "charged at once": everything["n_settled"],
        "memory MiB": rss_mib() - before,
        "audit": await check(db),
    }
