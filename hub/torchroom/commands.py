"""What `torchroom ledger ...` does. Each prints, and returns the exit status."""

import argparse
import contextlib
import csv
import secrets
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from torchroom import printing
from torchroom.console.csv_export import safe
from torchroom.ledger.amounts import parse_tokens, text_of
from torchroom.ledger.credit_service import read_wallets
from torchroom.ledger.errors import BadInput
from torchroom.ledger.importing import carry_over
from torchroom.ledger.model import Kind
from torchroom.ledger.service import Ledger

DONE, PROBLEMS = 0, 1
KEY_BYTES = 12


async def balance(ledger: Ledger, args: argparse.Namespace) -> int:
    """Print what a user has now."""
    view = await ledger.statements.balance(args.user, _now(), courses=args.course or ())
    _show(args, printing.balance_json(view), printing.balance_text(view))
    return DONE


async def grant(ledger: Ledger, args: argparse.Namespace) -> int:
    """Give a user tokens and print under which key."""
    key = args.key or f"cli:{secrets.token_hex(KEY_BYTES)}"
    amount = parse_tokens(args.tokens)
    if not args.key:
        # Before it is done: whoever does not learn its end can ask again with it.
        told_to = sys.stderr if args.json else sys.stdout
        print(f"Idempotency key: {key}", file=told_to, flush=True)
    recorded = await ledger.grants.grant(
        args.user,
        amount,
        at=_now(),
        key=key,
        actor=args.actor,
        note=args.note,
        course=args.course,
        expires_at=_moment(args.expires),
    )
    told = {
        "user": args.user,
        "microtokens": amount,
        "course": args.course,
        "key": key,
        "is_new": recorded.is_new,
    }
    text = (
        f"{args.user} got {text_of(amount)}."
        if recorded.is_new
        else "That was granted under this key before. Nothing was changed."
    )
    _show(args, told, text)
    return DONE


async def statement(ledger: Ledger, args: argparse.Namespace) -> int:
    """Print a page of somebody's history."""
    page = await ledger.statements.history(
        Kind(args.of), args.name, cursor=args.cursor, limit=args.limit, full=args.full
    )
    told = {
        "items": [printing.entry_json(each) for each in page.items],
        "next": page.next,
    }
    text = printing.entries_text(page.items)
    if page.next:
        text += f"\n\nThere is more: add --cursor {page.next}"
    _show(args, told, text)
    return DONE


async def verify(ledger: Ledger, args: argparse.Namespace) -> int:
    """Check the whole ledger; the status is 1 if a sum is wrong."""
    found = await ledger.audit(_now())
    told = {
        "ok": not found.problems,
        "n_transactions": found.n_transactions,
        "n_postings": found.n_postings,
        "problems": list(found.problems),
    }
    lines = [
        f"Checked {found.n_transactions:,} transactions with {found.n_postings:,} "
        "postings: sums, balances, holds, leases and what courses gave.",
        *found.problems,
        f"{len(found.problems)} problems." if found.problems else "All is well.",
    ]
    _show(args, told, "\n".join(lines))
    return PROBLEMS if found.problems else DONE


async def export(ledger: Ledger, args: argparse.Namespace) -> int:
    """Print every posting, row by row as it is read."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    if args.format == "csv":
        writer.writerow(printing.EXPORT_HEADER)
    async with contextlib.aclosing(ledger.statements.export()) as rows:
        async for row in rows:
            cells = printing.export_row(row)
            if args.format == "csv":
                writer.writerow([safe(cell) for cell in cells])
            else:
                told = dict(zip(printing.EXPORT_HEADER, cells, strict=True))
                print(printing.as_json(told))
    sys.stdout.flush()
    return DONE


async def import_credit_service(ledger: Ledger, args: argparse.Namespace) -> int:
    """Carry over wallets and print what became of each."""
    per_credit = parse_tokens(args.tokens_per_credit)
    outcome = await carry_over(
        ledger.db,
        await read_wallets(args.database),
        per_credit=per_credit,
        source=args.source,
        actor=args.actor,
        at=_now(),
        is_dry_run=args.dry_run,
    )
    text = printing.import_text(outcome, is_dry_run=args.dry_run)
    _show(args, printing.import_json(outcome), text)
    return PROBLEMS if any(line.problem for line in outcome.lines) else DONE


async def prices(ledger: Ledger, args: argparse.Namespace) -> int:
    """Print what slots cost now."""
    prices = await ledger.prices.current(_now())
    rows = [
        (key, "none: refused" if price is None else printing.tokens(price))
        for key, price in sorted(prices.items())
    ]
    text = printing.table(("slot", "tokens per hour"), rows, ["tokens per hour"])
    _show(args, dict(sorted(prices.items())), text)
    return DONE


def _show(args: argparse.Namespace, told: Mapping[str, Any], text: str) -> None:
    print(printing.as_json(told) if args.json else text)


def _now() -> datetime:
    return datetime.now(UTC)


def _moment(text: str | None) -> datetime | None:
    """Return a time that was typed; without a zone it is UTC.

    Raises:
        BadInput: It is no time.
    """
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadInput(
            f"{text[:40]!a} is not a time. Write it like 2026-12-31 or "
            "2026-12-31T18:00+01:00."
        ) from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)
