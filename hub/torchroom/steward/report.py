"""`torchroom steward`: what the steward thinks of every server, and what it did."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torchroom.settings import SettingError, data_dir
from torchroom.steward import settings
from torchroom.steward.file import StoreError
from torchroom.steward.model import BLIND_AFTER, Event, Look, Seen
from torchroom.steward.sentences import span
from torchroom.steward.store import FILE, Store

DONE, PROBLEM, USAGE = 0, 1, 2
NOT_RUNNING = (
    "The steward does not look, so nothing is stopped: it looks twice a minute where "
    "it runs. See the hub's log."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the commands of `torchroom steward`."""
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")
    text = "what it thinks of every server now, and what it did last"
    shown = verbs.add_parser("report", help=text, description=text)
    shown.add_argument("--json", action="store_true", help="for programs")
    shown.add_argument("--events", type=int, default=20, help="how many, at most 1000")
    shown.set_defaults(command=_report)
    text = "whether a policy file can be used; without FILE the one that is used now"
    checked = verbs.add_parser("check", help=text, description=text)
    checked.add_argument("file", nargs="?", metavar="FILE", type=Path)
    checked.set_defaults(command=_check)


def run(args: argparse.Namespace, env: Mapping[str, str]) -> int:
    """Run one command; return the exit status."""
    try:
        status: int = args.command(args, env)
    except SettingError as error:
        return _say(error, USAGE)
    except StoreError as error:
        return _say(error, PROBLEM)
    return status


def _check(args: argparse.Namespace, env: Mapping[str, str]) -> int:
    policy = settings.policy_of(args.file) if args.file else settings.policy(env)
    print("The policy can be used.")
    pairs = policy.both.keys()
    for what, names in {
        "course": policy.courses.keys() | {course for course, _ in pairs},
        "size": policy.sizes.keys() | {size for _, size in pairs},
    }.items():
        if names:
            print(f"Tables of {what}s: {', '.join(sorted(names))}. "
                  f"A name that no {what} has changes nothing.")  # fmt: skip
    return DONE


def _report(args: argparse.Namespace, env: Mapping[str, str]) -> int:
    path = data_dir(env) / FILE
    if not path.is_file():
        raise StoreError(
            f"There is no {path}: the steward never ran, or TORCHROOM_DATA_DIR names "
            "another folder."
        )
    store = Store(path)
    try:
        look, seen, events = store.look(), store.seen(), store.events(args.events)
    finally:
        store.close()
    if args.json:
        found = {
            "look": look and asdict(look),
            "servers": [asdict(each) for each in seen],
            "events": [asdict(each) for each in events],
        }
        print(json.dumps(found, default=_plain, indent=2))
    else:
        print("\n".join(lines(look, seen, events, datetime.now(UTC))))
    return DONE


def lines(
    look: Look | None, seen: Sequence[Seen], events: Sequence[Event], now: datetime
) -> list[str]:
    """Return the report as text for people."""
    return [
        _of_look(look, now),
        "",
        "Servers:" if seen else "No server runs.",
        *(_of_server(each, now) for each in seen),
        "",
        "Last events:" if events else "Nothing was ever warned or stopped.",
        *(_of_event(each) for each in events),
    ]


def _of_look(look: Look | None, now: datetime) -> str:
    if look is None:
        return "The steward has not looked yet."
    said = [f"The last look was {span(now - look.at)} ago."]
    if now - look.at > BLIND_AFTER:
        said.append(NOT_RUNNING)
    elif look.trouble:
        said.append(f"It saw nothing, so nothing is stopped: {look.trouble}")
    if look.complete_at and not look.is_fresh(now):
        said.append(f"What follows is {span(now - look.complete_at)} old.")
    if look.is_dry_run:
        said.append("Dry run: nothing is stopped.")
    return " ".join(said)


def _of_server(seen: Seen, now: datetime) -> str:
    name = f"{seen.user}/{seen.server}" if seen.server else seen.user
    parts = [f"  {name}", seen.offer, seen.course, seen.use, seen.verdict.value]
    if seen.reason and seen.stops_at:
        way = "in" if seen.stops_at > now else "since"
        parts.append(f"{seen.reason.value} {way} {span(abs(seen.stops_at - now))}")
    elif seen.reason:
        parts.append(seen.reason.value)
    parts += ["(dry run)" * seen.is_dry_run, seen.why]
    return "  ".join(filter(None, parts))


def _of_event(event: Event) -> str:
    name = f"{event.user}/{event.server}" if event.server else event.user
    dry = " (dry run)" if event.is_dry_run else ""
    at = f"{event.at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
    return f"  {at}  {event.action}{dry}  {name}  {event.reason}  {event.sentence}"


def _plain(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _say(error: Exception, status: int) -> int:
    print(f"torchroom: {error}", file=sys.stderr)
    return status
