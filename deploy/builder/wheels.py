"""Wheels that lie on this machine (pip's find-links): those of one requirement, staged.

They travel in the build context and are mounted for one RUN step: no layer holds them.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from builder.mirrors import PipSettings

_SPEC = re.compile(r"^\s*([A-Za-z0-9._-]+?)\s*(===|==)?\s*([0-9][^\s,;]*)?\s*$")


def matching(settings: PipSettings, spec: str, python: str) -> list[Path]:
    """The wheels here that satisfy a requirement like `torch==2.13.0`."""
    parsed = _SPEC.match(spec)
    if not parsed:
        return []
    name, operator, wanted = parsed.groups()
    found = [w for w in _wheels(settings, normalised(name)) if _fits(w, python)]
    return [w for w in found if _satisfies(_version(w), operator or "", wanted or "")]


def stage(wheels: Iterable[Path], folder: Path) -> list[Path]:
    """Put wheels into a folder, as hard links where the file system allows."""
    folder.mkdir(parents=True, exist_ok=True)
    return [link_or_copy(wheel, folder / wheel.name) for wheel in wheels]


def link_or_copy(source: Path, target: Path) -> Path:
    """Lay a file beside the build: a hard link costs nothing and keeps its times."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copy2(source, target)
    return target


def normalised(name: str) -> str:
    """A distribution's name as indexes spell it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _wheels(settings: PipSettings, name: str) -> list[Path]:
    found = [wheel for folder in settings.folders for wheel in folder.glob("*.whl")]
    for index in settings.indexes:
        found += (index / name).glob("*.whl")
        found += _linked(index / name / "index.html")
    return [
        w for w in found if normalised(w.name.split("-")[0]) == name and w.is_file()
    ]


def _linked(page: Path) -> list[Path]:
    if not page.is_file():
        return []
    hrefs = re.findall(r'href="([^"#]+\.whl)', page.read_text(encoding="utf-8"))
    return [(page.parent / unquote(urlsplit(href).path)).resolve() for href in hrefs]


def _version(wheel: Path) -> str:
    return wheel.name.split("-")[1]


def _fits(wheel: Path, python: str) -> bool:
    tags = wheel.stem.split("-")[-3:]
    short = python.replace(".", "")
    machine = os.uname().machine
    return (tags[0] in {f"cp{short}", "py3", "py2.py3"} or "abi3" in tags[1]) and (
        tags[2] == "any" or machine in tags[2]
    )


def _satisfies(version: str, operator: str, wanted: str) -> bool:
    if operator == "===":
        return version == wanted
    # `==2.13.0` is also satisfied by the local version 2.13.0+cpu (PEP 440)
    return not wanted or wanted in {version, version.split("+", maxsplit=1)[0]}
