"""How the command line shows the ledger: plain tables and JSON. It prints nothing."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from torchroom.ledger.amounts import text_of
from torchroom.ledger.forecast import duration_text
from torchroom.ledger.importing import Line, Outcome
from torchroom.ledger.model import Account, Code, Kind
from torchroom.ledger.statements import Exported
from torchroom.ledger.views import BalanceView, Entry

GAP = "  "
WORDS = {
    Code.GRANT: "grant",
    Code.WELCOME: "welcome",
    Code.IMPORT: "carried over",
    Code.VOUCHER: "voucher",
    Code.TOPUP: "top-up",
    Code.BUDGET: "budget",
    Code.HAND_OUT: "handed out",
    Code.ALLOWANCE: "allowance",
    Code.TAKE_BACK: "taken back",
    Code.RETURN: "returned",
    Code.LAPSE: "lapsed",
    Code.SETTLE: "server",
    Code.FEE: "fee",
    Code.FEE_BACK: "fee back",
}
EXPORT_HEADER = (
    "posting", "transaction", "key", "code", "at", "recorded_at", "lease", "actor",
    "note", "kind", "name", "course", "expires_at", "microtokens", "balance_after",
)  # fmt: skip


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[str] = ()
) -> str:
    """Return lines with aligned columns; columns named in `numbers` to the right.

    What would move a terminal's cursor is shown as a question mark.
    """
    lines = [[_plain(cell) for cell in line] for line in (header, *rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    rights = [name in numbers for name in header]
    return "\n".join(
        GAP.join(
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(line, widths, rights, strict=True)
        ).rstrip()
        for line in lines
    )


def _plain(cell: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in cell)


def tokens(amount: int) -> str:
    """Return an amount for a column whose header says that it is of tokens."""
    return text_of(amount).partition(" ")[0]


def shown(at: datetime | None) -> str:
    """Return a time for people, UTC; "never" for None."""
    return "never" if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M}"


def iso(at: datetime | None) -> str | None:
    """Return a time for programs."""
    return None if at is None else at.astimezone(UTC).isoformat()


def as_json(value: object) -> str:
    """Return one line of JSON."""
    return json.dumps(value, ensure_ascii=False)


# ------------------------------------------------------------------------------ balance


def balance_text(view: BalanceView) -> str:
    """Return a balance as a few lines."""
    rows = [("to spend", tokens(view.spendable), "")]
    rows += [
        (
            f"  for {purse.course}" if purse.course else "  for any server",
            tokens(purse.microtokens),
            f"until {shown(purse.expires_at)}" if purse.expires_at else "",
        )
        for purse in view.purses
    ]
    rows += [
        (f"  from {share.course}", tokens(share.microtokens), "the course's own")
        for share in view.shares
    ]
    if view.leases:
        rows += [
            ("  held for servers", tokens(view.held), ""),
            ("  used of that so far", tokens(view.accrued), ""),
            ("per hour now", tokens(view.per_hour), _lasts(view)),
        ]
    return table((view.user, "tokens", ""), rows, numbers=["tokens"])


def _lasts(view: BalanceView) -> str:
    if view.seconds_left is None:
        return "nothing burns"
    return f"{duration_text(view.seconds_left)} left at this rate"


def balance_json(view: BalanceView) -> Mapping[str, Any]:
    """Return a balance for programs; amounts are microtokens."""
    return {
        "user": view.user,
        "at": iso(view.at),
        "spendable": view.spendable,
        "available": view.available,
        "held": view.held,
        "accrued": view.accrued,
        "per_hour": view.per_hour,
        "seconds_left": view.seconds_left,
        "next_expiry": iso(view.next_expiry),
        "purses": [
            {
                "course": purse.course,
                "expires_at": iso(purse.expires_at),
                "microtokens": purse.microtokens,
            }
            for purse in view.purses
        ],
        "shares": [
            {"course": share.course, "microtokens": share.microtokens}
            for share in view.shares
        ],
        "leases": [
            {
                "id": each.lease.id,
                "server": each.lease.payer.server,
                "course": each.lease.payer.course,
                "slot_types": each.lease.slot_types,
                "per_hour": each.lease.per_hour,
                "ready_at": iso(each.lease.ready_at),
                "held": each.held,
                "accrued": each.accrued,
            }
            for each in view.leases
        ],
    }


# ---------------------------------------------------------------------------- statement


def entries_text(entries: Sequence[Entry]) -> str:
    """Return rows of a history."""
    rows = [
        (shown(each.at), _word(each), tokens(each.amount), _told(each))
        for each in entries
    ]
    return table(("time (UTC)", "what", "tokens", ""), rows, numbers=["tokens"])


def _word(entry: Entry) -> str:
    return WORDS.get(entry.code, entry.code.value) if not entry.key else entry.code


def _told(entry: Entry) -> str:
    """Return what else there is to say about a row, as short sentences."""
    said = []
    if entry.lease:
        lease = entry.lease
        what = f"{lease.payer.server or 'default'}: {slots(lease.slot_types)}"
        whose = f" for {lease.payer.course}" if lease.payer.course else ""
        lasted = duration_text(lease.settled_s) if lease.ready_at else "never ready"
        goes_on = "" if lease.ended_at else ", goes on"
        said.append(f"{what}{whose}, {lasted} at {tokens(lease.per_hour)}/h{goes_on}.")
        if entry.paid_by_course:
            said.append(f"The course paid {tokens(entry.paid_by_course)}.")
        if entry.waived:
            said.append(f"Waived: {tokens(entry.waived)}.")
    elif entry.lease_id:
        ended = f", ended by {entry.ended_by}" if entry.ended_by else ""
        said.append(f"{entry.lease_id}{ended}.")
    elif entry.course:
        said.append(f"Only for {entry.course}.")
    if entry.expires_at:
        said.append(f"Until {shown(entry.expires_at)}.")
    if entry.note:
        said.append(entry.note)
    return " ".join(said)


def slots(types: Iterable[str]) -> str:
    """Return the slots of a server: "2 x NVIDIA L4"."""
    counts = Counter(types)
    return ", ".join(key if n == 1 else f"{n} x {key}" for key, n in counts.items())


def entry_json(entry: Entry) -> Mapping[str, Any]:
    """Return a row for programs; amounts are microtokens."""
    lease = entry.lease
    told: dict[str, Any] = {
        "id": entry.id,
        "at": iso(entry.at),
        "code": entry.code,
        "microtokens": entry.amount,
        "note": entry.note,
        "actor": entry.actor,
        "course": entry.course,
        "expires_at": iso(entry.expires_at),
        "lease_id": entry.lease_id,
    }
    if lease:
        told |= {
            "server": lease.payer.server,
            "slot_types": lease.slot_types,
            "per_hour": lease.per_hour,
            "seconds": lease.settled_s,
            "ended_at": iso(lease.ended_at),
            "paid_by_course": entry.paid_by_course,
            "waived": entry.waived,
        }
    if entry.lines:
        told["key"] = entry.key
        told["ended_by"] = entry.ended_by
        told["postings"] = [
            {
                "account": account_text(line.account),
                "microtokens": line.amount,
                "balance_after": line.balance_after,
            }
            for line in entry.lines
        ]
    return told


def account_text(account: Account) -> str:
    """Return an account in a few words: "user alice, for cs101, until ..."."""
    text = f"{account.kind} {account.name}".strip()
    if account.kind is Kind.USER and account.course:
        text += f", for {account.course}"
    return text + (f", until {iso(account.expires_at)}" if account.expires_at else "")


# -------------------------------------------------------------------- export and import


def export_row(row: Exported) -> tuple[str | int | None, ...]:
    """Return the cells under EXPORT_HEADER."""
    return (
        row.posting_id, row.transaction_id, row.key, row.code.value, iso(row.at),
        iso(row.recorded_at), row.lease_id, row.actor, row.note,
        row.account.kind.value, row.account.name, row.account.course,
        iso(row.account.expires_at), row.amount, row.balance_after,
    )  # fmt: skip


def import_text(outcome: Outcome, *, is_dry_run: bool) -> str:
    """Return what became of every wallet, the totals and what has no place."""
    rows = [
        (
            "course" if line.wallet.kind is Kind.COURSE else "user",
            line.wallet.owner,
            line.wallet.name,
            f"{line.wallet.credits:,}",
            tokens(line.microtokens),
            _becomes(line, is_dry_run=is_dry_run),
        )
        for line in outcome.lines
    ]
    header = ("kind", "name", "wallet", "credits", "tokens", "")
    new = [x for x in outcome.lines if x.key and not x.is_done]
    done = sum(line.is_done for line in outcome.lines)
    refused = sum(bool(line.problem) for line in outcome.lines)
    would = "would be" if is_dry_run else "were"
    total = text_of(sum(line.microtokens for line in new))
    return "\n".join(
        [
            table(header, rows, numbers=["credits", "tokens"]),
            "",
            f"{len(new)} wallets {would} carried over with {total}; {done} were "
            f"before; {refused} cannot be.",
            *outcome.remarks,
        ]
    )


def _becomes(line: Line, *, is_dry_run: bool) -> str:
    if line.problem:
        return line.problem
    if not line.key:
        return "empty"
    if line.is_done:
        return "was carried over before"
    where = f"for {line.wallet.project}" if line.wallet.project else "for any server"
    if line.wallet.kind is Kind.COURSE:
        where = "budget"
    return f"would become: {where}" if is_dry_run else where


def import_json(outcome: Outcome) -> Mapping[str, Any]:
    """Return the same for programs."""
    return {
        "wallets": [
            {
                "kind": line.wallet.kind,
                "name": line.wallet.owner,
                "wallet": line.wallet.name,
                "course": line.wallet.project,
                "credits": line.wallet.credits,
                "microtokens": line.microtokens,
                "is_new": bool(line.key) and not line.is_done,
                "was_before": line.is_done,
                "problem": line.problem,
            }
            for line in outcome.lines
        ],
        "remarks": outcome.remarks,
    }
