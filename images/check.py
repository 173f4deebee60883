#!/usr/bin/env python3
"""Check a user image: its tag, its labels, its content and the hub must agree."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "deploy"))

from builder import user_image
from toolbox import console


def main() -> None:
    """Check the image named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image", help="like torchroom/pytorch:pytorch2.13-cpu-runtime")
    image = parser.parse_args().image
    user_image.check(image)
    print(f"{image}: tag, labels and content agree")


if __name__ == "__main__":
    console.as_command(main)
