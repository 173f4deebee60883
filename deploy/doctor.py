#!/usr/bin/env python3
"""`make doctor`: what is wrong with this machine, and how to mend it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from steps import compose, network, settings
from toolbox import console
from toolbox.console import Failure
from toolbox.places import ROOT, state_dir
from torchroom.doctor import __main__ as doctor


def main() -> None:
    """Run the doctor with the settings of `make up`; JSON=1 and STRICT=1 count."""
    env, refused = _settings()
    flags = [f"--{n.lower()}" for n in ("JSON", "STRICT") if os.environ.get(n) == "1"]
    key = os.environ.get("TORCHROOM_TLS_KEY")
    secrets = (
        state_dir() / "compose.env",
        ROOT / ".env",
        *([ROOT / key] if key else []),
    )
    sys.exit(
        doctor.run(
            doctor.parse(flags),
            env,
            secrets=secrets,
            is_host=True,
            refused=tuple(refused),
        )
    )


def _settings() -> tuple[dict[str, str], list[tuple[str, str]]]:
    """What `make up` has used or would use now, and what of it it would refuse."""
    env: dict[str, str] = {}
    refused: list[tuple[str, str]] = []
    with _noting(refused):
        env |= compose.read_variables()
    wanted = None
    with _noting(refused):
        wanted = settings.read()
    env |= {key: value for key, value in os.environ.items() if value}
    with _noting(refused):
        env |= settings.files()
    if wanted is not None:
        env["COMPOSE_PROJECT_NAME"] = wanted.project
        env["TORCHROOM_PORT"] = str(wanted.port)
        with _noting(refused):
            env |= network.variables(wanted)
    return env, refused


@contextmanager
def _noting(refused: list[tuple[str, str]]) -> Iterator[None]:
    """Note what cannot be used, with the advice, and go on."""
    try:
        yield
    except Failure as failure:
        refused.append((f"{failure.what}.", failure.todo))
    except OSError as error:
        refused.append((f"{error.filename}: {error.strerror}.", "Run it as root."))


if __name__ == "__main__":
    console.as_command(main)
