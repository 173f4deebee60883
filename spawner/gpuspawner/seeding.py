"""What to lay into a home, and what to leave alone.

A student's file is never overwritten or deleted (I6). A seeded file that its owner did
not touch follows new versions; beside one that was edited the new version is laid under
a name that says so. A missing file is laid again, so deleting one and restarting the
server brings back a fresh copy.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

MANIFEST = ".gpuspawner/seed.json"
N_BESIDE = 3


@dataclass(frozen=True, slots=True)
class Record:
    """A file as we laid it.

    Attributes:
        sha256: Of the content.
        size: In bytes.
        offered: sha256 of the newest version laid beside it, "" if none was.
    """

    sha256: str
    size: int
    offered: str = ""


@dataclass(frozen=True, slots=True)
class Owner:
    """The numeric owner that files in the home get."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class SeedPlan:
    """What to write.

    Attributes:
        writes: Path in the home -> content.
        manifest: What to remember.
        beside: Path of a new version -> the edited file that it stands beside.
    """

    writes: dict[str, bytes] = field(default_factory=dict)
    manifest: dict[str, Record] = field(default_factory=dict)
    beside: dict[str, str] = field(default_factory=dict)


def digest(content: bytes) -> str:
    """Return the content's sha256 in hex."""
    return hashlib.sha256(content).hexdigest()


def beside(path: str, n: int) -> str:
    """Return the nth name for a new version of an edited file, n >= 1."""
    folder, _, name = path.rpartition("/")
    stem, dot, suffix = name.rpartition(".")
    if not stem:
        stem, dot, suffix = name, "", ""
    number = "" if n == 1 else f" {n}"
    new = f"{stem} (new version{number}){dot}{suffix}"
    return f"{folder}/{new}" if folder else new


def plan(
    seed: Mapping[str, bytes],
    manifest: Mapping[str, Record],
    current: Mapping[str, str | None],
) -> SeedPlan:
    """Return what to write so that the home has the seed and keeps every edit.

    Args:
        seed: Path -> content of the version to deliver.
        manifest: Path -> what was laid before.
        current: Path -> sha256 of the file there now, None if there is none. Any other
            text stands for something that is not our file. Must hold every path of
            the seed; paths not held are taken as missing.
    """
    found = SeedPlan(manifest=dict(manifest))
    for path, content in seed.items():
        new, now, before = digest(content), current.get(path), manifest.get(path)
        is_untouched = before is not None and now == before.sha256
        if now == new:
            found.manifest[path] = Record(new, len(content))
        elif now is None or is_untouched:
            found.writes[path] = content
            found.manifest[path] = Record(new, len(content))
        elif before is None or new not in {before.sha256, before.offered}:
            _lay_beside(found, path, content, current)
    return found


def _lay_beside(
    found: SeedPlan, path: str, content: bytes, current: Mapping[str, str | None]
) -> None:
    new = digest(content)
    kept = found.manifest.get(path, Record("", 0))
    for n in range(1, N_BESIDE + 1):
        name = beside(path, n)
        before = found.manifest.get(name)
        now = current.get(name)
        if now is None or (before is not None and now == before.sha256):
            found.writes[name] = content
            found.beside[name] = path
            found.manifest[name] = Record(new, len(content))
            break
    # Also when every name is taken by the student's own files: ask no more often.
    found.manifest[path] = Record(kept.sha256, kept.size, offered=new)


def read_manifest(text: bytes | None) -> dict[str, Record]:
    """Return what a manifest file says; {} if it is missing or was tampered with."""
    try:
        raw = json.loads(text or b"{}")
        return {
            str(path): Record(
                str(item["sha256"]), int(item["size"]), str(item.get("offered", ""))
            )
            for path, item in raw.items()
        }
    except (
        ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError,
    ):  # fmt: skip
        return {}


def write_manifest(manifest: Mapping[str, Record]) -> bytes:
    """Return the manifest as a file that `read_manifest` reads back."""
    rows = {
        path: {"sha256": item.sha256, "size": item.size, "offered": item.offered}
        for path, item in sorted(manifest.items())
    }
    return json.dumps(rows, indent=1).encode()


def archive(files: Mapping[str, bytes], owner: Owner, at: float) -> bytes:
    """Return a tar of these files with the folders they need, owned by `owner`.

    `at` is the time of all of them, in seconds since 1970.
    """
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for folder in _folders(files):
            info = _entry(folder, owner, 0o755, at)
            info.type = tarfile.DIRTYPE
            tar.addfile(info)
        for path, content in files.items():
            info = _entry(path, owner, 0o644, at)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def _entry(path: str, owner: Owner, mode: int, at: float) -> tarfile.TarInfo:
    info = tarfile.TarInfo(path)
    info.mode, info.uid, info.gid, info.mtime = mode, owner.uid, owner.gid, at
    return info


def _folders(paths: Iterable[str]) -> list[str]:
    found = set()
    for path in paths:
        parts = path.split("/")[:-1]
        found |= {"/".join(parts[: i + 1]) for i in range(len(parts))}
    return sorted(found)
