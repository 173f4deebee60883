"""Runs the doctor: ``python3 -m torchroom.doctor``; `torchroom doctor` is the same.

Exit status: 0 nothing failed, 1 something did (with --strict also what is unknown or to
look at), 2 called wrongly.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from torchroom.doctor import examination
from torchroom.doctor.reading import read_machine
from torchroom.doctor.settings import read_deployment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the doctor can be told."""
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument(
        "--strict",
        action="store_true",
        help="exit status 1 also for what is unknown or to look at",
    )


def run(
    args: argparse.Namespace,
    env: Mapping[str, str],
    *,
    secrets: tuple[Path, ...] = (),
    is_host: bool = False,
    refused: tuple[tuple[str, str], ...] | None = None,
) -> int:
    """Examine, print, and return the exit status.

    Args:
        args: See `add_arguments`.
        env: The deployment's.
        secrets: Files that only their owner may read.
        is_host: See `read_machine`.
        refused: See `Deployment`.
    """
    now = datetime.now(UTC)
    machine = read_machine(env, is_host=is_host)
    deployment = read_deployment(
        env, secrets, is_host=not machine.is_container, refused=refused
    )
    findings = examination.examine(machine, deployment, now)
    show = examination.as_json(findings, now) if args.json else None
    print(show or examination.as_text(findings), flush=True)
    return examination.exit_status(findings, is_strict=args.strict)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(
        prog="torchroom doctor", description="What is wrong here, and how to mend it."
    )
    add_arguments(parser)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(run(parse(), os.environ))
