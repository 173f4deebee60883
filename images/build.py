#!/usr/bin/env python3
"""Build one of Torchroom's images (pytorch is the users'), or all of them.

Progress goes to standard error; standard output has one line per image, its tag.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "deploy"))

from builder import IMAGES, build
from steps import settings
from toolbox import console


def main() -> None:
    """Read the command line and build."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image", choices=[*IMAGES, "all"])
    parser.add_argument(
        "--cuda", action="store_true", help="the CUDA build of torch (several GB)"
    )
    parser.add_argument(
        "--fresh", action="store_true", help="use no layer of an earlier build"
    )
    options = parser.parse_args()
    console.progress_to(sys.stderr)
    settings.read()
    for name in IMAGES if options.image == "all" else [options.image]:
        with console.step(f"image {name}") as step:
            step.detail = build(name, cuda=options.cuda, fresh=options.fresh)
        print(step.detail, flush=True)


if __name__ == "__main__":
    console.as_command(main)
