#!/usr/bin/env python3
"""`make doctor`: what is wrong with this machine, and how to mend it."""

from __future__ import annotations

import os
import sys

from steps import compose, settings
from toolbox import console
from toolbox.places import ROOT, state_dir

sys.path.insert(0, str(ROOT / "hub"))  # only the standard library is needed

from torchroom.doctor import __main__ as doctor


def main() -> None:
    """Run the doctor with the settings of `make up`; JSON=1 and STRICT=1 count."""
    wanted = settings.read()
    env = {
        **compose.read_variables(),
        **{key: value for key, value in os.environ.items() if value},
        **settings.files(),
        "COMPOSE_PROJECT_NAME": wanted.project,
        "TORCHROOM_PORT": str(wanted.port),
    }
    flags = [f"--{name.lower()}" for name in ("JSON", "STRICT") if os.environ.get(name)]
    secrets = (state_dir() / "compose.env", ROOT / ".env")
    sys.exit(doctor.run(doctor.parse(flags), env, secrets=secrets, is_host=True))


if __name__ == "__main__":
    console.as_command(main)
