"""The command line: `torchroom ledger`, `steward` and `doctor`, for admins.

On the hub's machine: it opens the ledger's database itself, beside a running hub. Exit
status: 0 done, 1 refused or problems found, 2 called wrongly. Every error is one
sentence on stderr.
"""

import argparse
import asyncio
import contextlib
import getpass
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import sqlalchemy
from sqlalchemy.exc import DBAPIError

from torchroom import commands, settings
from torchroom.doctor import __main__ as doctor
from torchroom.ledger.database import Database, migrate
from torchroom.ledger.errors import BadInput, LedgerError, NotFound, Unavailable
from torchroom.ledger.importing import SOURCE
from torchroom.ledger.policy import Policy
from torchroom.ledger.service import Ledger
from torchroom.steward import report

USAGE, STOPPED = 2, 130

Command = Callable[[Ledger, argparse.Namespace], Awaitable[int]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    args = _parser().parse_args(arguments)
    # What the ledger logs is in the sentence that is printed.
    logging.getLogger("torchroom").addHandler(logging.NullHandler())
    logging.getLogger("torchroom").propagate = False
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # a test's stream may not have it
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        return _run(args)
    except (BadInput, settings.SettingError) as error:
        return _say(error, USAGE)
    except LedgerError as error:
        return _say(error, commands.PROBLEMS)
    except BrokenPipeError:
        # Whoever read the output has seen enough; Python must not complain at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return commands.DONE
    except KeyboardInterrupt:
        return STOPPED


def _run(args: argparse.Namespace) -> int:
    if args.room is not None:
        room: Callable[[argparse.Namespace], int] = args.room
        return room(args)
    url = args.url or settings.read_ledger(os.environ).url
    if args.command is None:
        migrate(url)
        print("The ledger has the tables of this version.")
        return commands.DONE
    _check_there(url)
    return asyncio.run(_with_ledger(url, args))


async def _with_ledger(url: str, args: argparse.Namespace) -> int:
    command: Command = args.command
    async with Ledger(Database.open(url), Policy()) as ledger:
        return await command(ledger, args)


def _check_there(url: str) -> None:
    """Raise unless a SQLite ledger's file is there: opening it would make an empty one.

    Raises:
        NotFound: It is not.
    """
    with contextlib.suppress(sqlalchemy.exc.ArgumentError, ValueError):
        address = sqlalchemy.make_url(url)
        is_file = address.get_backend_name() == "sqlite" and address.database
        if is_file and not Path(is_file).is_file():
            raise NotFound(
                f"There is no ledger at {is_file}. Give its place with --url or "
                "TORCHROOM_LEDGER_URL, or make one with: torchroom ledger upgrade"
            )


def _say(error: Exception, status: int) -> int:
    """Print an error as one line; of a database that fails also what it says itself."""
    text = str(error)
    if isinstance(error, Unavailable) and isinstance(error.__cause__, DBAPIError):
        reason = str(error.__cause__.orig).strip().partition("\n")[0]
        if reason and reason not in text:
            text = f"{text} The database says: {reason}"
    print(f"torchroom: {text}", file=sys.stderr)
    return status


# -------------------------------------------------------------------------- its words


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="torchroom", description="Runs Torchroom.")
    parser.set_defaults(room=None)
    rooms = parser.add_subparsers(required=True, metavar="WHAT")
    text = "what is wrong with this machine or its settings, and how to mend it"
    examined = rooms.add_parser("doctor", help=text, description=text)
    doctor.add_arguments(examined)
    examined.set_defaults(room=lambda args: doctor.run(args, os.environ))
    text = "which servers are warned and stopped, and why"
    stewarded = rooms.add_parser("steward", help=text, description=text)
    report.add_arguments(stewarded)
    stewarded.set_defaults(room=lambda args: report.run(args, os.environ))
    ledger = rooms.add_parser("ledger", help="tokens: who has how many, and why")
    verbs = ledger.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Command | None, text: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=text, description=text)
        added.set_defaults(command=command)
        added.add_argument("--json", action="store_true", help="for programs")
        added.add_argument(
            "--url",
            help="the ledger's database: sqlite:///FILE or postgresql://...; else "
            "TORCHROOM_LEDGER_URL, else ledger.sqlite in TORCHROOM_DATA_DIR",
        )
        return added

    balance = add("balance", commands.balance, "what a user has now")
    balance.add_argument("user")
    balance.add_argument(
        "--course", action="append", help="count what this course lets the user draw"
    )

    grant = add("grant", commands.grant, "give a user tokens")
    grant.add_argument("user")
    grant.add_argument("tokens", help="like 12.5")
    grant.add_argument("--course", default="", help="only for servers of this course")
    grant.add_argument("--expires", metavar="TIME", help="like 2026-12-31")
    grant.add_argument("--note", default="", help="one sentence, which the user sees")
    grant.add_argument(
        "--key", help="idempotency key: the same again changes nothing; else random"
    )
    _add_actor(grant)

    statement = add(
        "statement", commands.statement, "what happened to somebody's tokens"
    )
    statement.add_argument("name", metavar="USER")
    statement.add_argument(
        "--of", choices=["user", "course"], default="user", help="what USER names"
    )
    statement.add_argument("--limit", type=int, default=50, help="rows, 1 to 200")
    statement.add_argument("--cursor", help="go on where the last page ended")
    statement.add_argument(
        "--full", action="store_true", help="every transaction, holds too"
    )

    add("verify", commands.verify, "check every sum; exit status 1 if one is wrong")

    export = add("export", commands.export, "all postings, oldest first")
    export.add_argument("--format", choices=["csv", "jsonl"], default="csv")

    carry = add(
        "import-credit-service",
        commands.import_credit_service,
        "carry over the wallets of jupyterhub-credit-service 0.4.2; stop its hub first",
    )
    carry.add_argument("database", help="URL of that hub's database; it is only read")
    carry.add_argument(
        "--tokens-per-credit", required=True, metavar="TOKENS", help="like 0.1"
    )
    carry.add_argument(
        "--source", default=SOURCE, help="a word for that hub, if there are several"
    )
    carry.add_argument("--dry-run", action="store_true", help="only show it")
    _add_actor(carry)

    add("prices", commands.prices, "what each kind of slot costs now")
    add("upgrade", None, "make the tables, or bring them to this version")
    return parser


def _add_actor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--actor", default=f"cli {_login()}", help="who does it, for the books"
    )


def _login() -> str:
    """Return who runs this, as far as the system knows."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


if __name__ == "__main__":
    sys.exit(main())
