"""Versions as programs print them: found in a text, and compared. Pure."""

import re

_VERSION = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")


def parse(text: str) -> tuple[int, int, int] | None:
    """Return the first version in a text, None if there is none."""
    found = _VERSION.search(text)
    if found is None:
        return None
    major, minor, patch = found.groups()
    return int(major), int(minor), int(patch or 0)


def is_below(text: str, floor: str) -> bool | None:
    """Whether a version is lower than a floor; None if the text has no version."""
    found, least = parse(text), parse(floor)
    return None if found is None or least is None else found < least
