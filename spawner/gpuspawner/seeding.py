"""What to lay into a home, and what to leave alone.

A student's file is never overwritten or deleted (I6). A seeded file that its owner did
not touch follows new versions; beside one that was edited the new version is laid under
a name that says so. A missing file is laid again, so deleting one and restarting the
server brings back a fresh copy.

A notebook is edited when something in it is that a person wrote: JupyterLab saves one
that was only opened or run. Its outputs go with the old version.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace

from gpuspawner.notebooks import written

MANIFEST = ".gpuspawner/seed.json"
N_BESIDE = 3
NOTEBOOK = ".ipynb"
MAX_SEED = 16 * 2**20  # bytes; a file larger than this is not one of ours
MAX_NOTEBOOK = 2 * 2**20  # bytes; to parse more holds up the hub


@dataclass(frozen=True, slots=True)
class Record:
    """A file as we laid it.

    Attributes:
        sha256: Of the content.
        size: In bytes.
        offered: sha256 of the newest version laid beside it, "" if none was.
        written: See `notebooks.written`; "" if it is no notebook of at most
            `MAX_NOTEBOOK` bytes.
    """

    sha256: str
    size: int
    offered: str = ""
    written: str = ""


@dataclass(frozen=True, slots=True)
class Standing:
    """What stands at a path of the home.

    Attributes:
        content: None if it cannot be ours: a folder, a link, a file that is too large.
    """

    content: bytes | None = None


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


def record(path: str, content: bytes) -> Record:
    """Return the record of a file that is laid at a path."""
    is_notebook = path.endswith(NOTEBOOK) and len(content) <= MAX_NOTEBOOK
    text = written(content) if is_notebook else ""
    return Record(digest(content), len(content), written=text)


def beside(path: str, n: int) -> str:
    """Return the nth name for a new version of an edited file, n >= 1."""
    folder, _, name = path.rpartition("/")
    stem, dot, suffix = name.rpartition(".")
    if not stem:
        stem, dot, suffix = name, "", ""
    number = "" if n == 1 else f" {n}"
    new = f"{stem} (new version{number}){dot}{suffix}"
    return f"{folder}/{new}" if folder else new


def is_worth_reading(path: str, size: int, new: bytes, before: Record | None) -> bool:
    """Return whether a file of this size may be ours, so that its content decides.

    Args:
        path: Where it stands.
        size: In bytes.
        new: What would be laid there.
        before: What was laid there.
    """
    if size == len(new) or (before and size == before.size):
        return size <= MAX_SEED
    if not _is_news(digest(new), before):
        return False
    return size < len(new) or (path.endswith(NOTEBOOK) and size <= MAX_NOTEBOOK)


def plan(
    seed: Mapping[str, bytes],
    manifest: Mapping[str, Record],
    current: Mapping[str, Standing | None],
) -> SeedPlan:
    """Return what to write so that the home has the seed and keeps every edit.

    Args:
        seed: Path -> content of the version to deliver.
        manifest: Path -> what was laid before.
        current: Path -> what stands there now, None if nothing does. Must hold every
            path of the seed, and the names beside those that this says to lay beside;
            paths not held are taken as missing.
    """
    found = SeedPlan(manifest=dict(manifest))
    for path, content in seed.items():
        new, now, before = record(path, content), current.get(path), manifest.get(path)
        there = _record_of(path, now)
        if _stands_already(there, new, before):
            found.manifest[path] = new
        elif _is_untouched(path, now, there, content, before):
            found.writes[path] = content
            found.manifest[path] = new
        elif _is_news(new.sha256, before):
            _lay_beside(found, path, content, current)
        elif before is not None and before.sha256 == new.sha256:
            # Records of earlier versions of this program lack what was written.
            found.manifest[path] = replace(before, written=new.written)
    return found


def _is_news(new: str, before: Record | None) -> bool:
    """Return whether this version (sha256) was neither laid nor offered yet."""
    return before is None or new not in {before.sha256, before.offered}


def _record_of(path: str, now: Standing | None) -> Record | None:
    """Return the record of what stands there, None if it cannot be ours."""
    return None if now is None or now.content is None else record(path, now.content)


def _stands_already(there: Record | None, new: Record, before: Record | None) -> bool:
    """Return whether the new version is there, maybe saved or run since."""
    if there is None:
        return False
    if before is not None and there.sha256 == before.sha256:
        return new.sha256 == before.sha256
    return there.sha256 == new.sha256 or _reads_as(there, new)


def _is_untouched(
    path: str,
    now: Standing | None,
    there: Record | None,
    new: bytes,
    before: Record | None,
) -> bool:
    """Return whether nothing is there that its owner wrote."""
    if now is None:
        return True
    if now.content is None or there is None:
        return False
    if _is_cut_off(path, now.content, new, before):
        return True
    return before is not None and (
        there.sha256 == before.sha256 or _reads_as(there, before)
    )


def _reads_as(one: Record, other: Record) -> bool:
    return bool(one.written) and one.written == other.written


def _is_cut_off(path: str, now: bytes, new: bytes, before: Record | None) -> bool:
    """Return whether this is the beginning of what an interrupted seeding laid.

    A person can shorten a text, so that of one laid before counts as an edit. None
    shortens a notebook to half a cell, and there is nothing to keep in an empty file.
    """
    if not new.startswith(now):
        return False
    return not now or before is None or path.endswith(NOTEBOOK)


def _lay_beside(
    found: SeedPlan,
    path: str,
    content: bytes,
    current: Mapping[str, Standing | None],
) -> None:
    kept = found.manifest.get(path, Record("", 0))
    for n in range(1, N_BESIDE + 1):
        name = beside(path, n)
        new, now = record(name, content), current.get(name)
        before, there = found.manifest.get(name), _record_of(name, now)
        if _stands_already(there, new, before):
            found.manifest[name] = new
            break
        if _is_untouched(name, now, there, content, before):
            found.writes[name] = content
            found.beside[name] = path
            found.manifest[name] = new
            break
    # Also when every name is taken by the student's own files: ask no more often.
    found.manifest[path] = replace(kept, offered=digest(content))


def read_manifest(text: bytes | None) -> dict[str, Record]:
    """Return what a manifest file says; {} if it is missing or was tampered with."""
    try:
        raw = json.loads(text or b"{}")
        return {
            str(path): Record(
                str(item["sha256"]),
                int(item["size"]),
                str(item.get("offered", "")),
                str(item.get("written", "")),
            )
            for path, item in raw.items()
        }
    except (
        ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError,
    ):  # fmt: skip
        return {}


def write_manifest(manifest: Mapping[str, Record]) -> bytes:
    """Return the manifest as a file that `read_manifest` reads back."""
    rows = {path: asdict(item) for path, item in sorted(manifest.items())}
    return json.dumps(rows, indent=1).encode()


def archive(files: Mapping[str, bytes], owner: Owner, at: float) -> bytes:
    """Return a tar of these files with the folders they need, owned by `owner`.

    `at` is the time of all of them, in seconds since 1970.
    """
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for folder in folders(files):
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


def folders(paths: Iterable[str]) -> list[str]:
    """Return every folder that these paths lie in, parents first."""
    found = set()
    for path in paths:
        parts = path.split("/")[:-1]
        found |= {"/".join(parts[: i + 1]) for i in range(len(parts))}
    return sorted(found)
